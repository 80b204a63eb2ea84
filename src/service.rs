//! The service. See the [crate's docs](crate).

use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::BoxError;
use crate::body::SessionBody;
use crate::future::ResponseFuture;
use crate::replay::{Auto, Replay};
use crate::sender::Sender;
use crate::session::Session;

/// A client whose requests carry the session's token; made by
/// [`SessionLayer`](crate::SessionLayer).
///
/// See the [crate's docs](crate).
///
/// # Upgrades
///
/// The response to an upgrade (101, RFC 9110, section 7.8), and one that opens a
/// tunnel (`CONNECT`, section 9.3.6), brings the [`Token`](crate::Token) of its
/// request as an extension. The connection uses it for as long as that, or a
/// copy, is kept: a token that was replaced meanwhile is not logged out before.
/// Where one session's layer is around another's, it is the outer one's, and
/// stands for both.
///
/// # "The method exists, but its trait bounds were not satisfied"
///
/// is what the compiler says of `client.oneshot(..)` or `client.ready()` where
/// the request's body cannot be replayed by [`Auto`]. For a body with a
/// `Default`, such as axum's, say `session.layer().replay(IfEmpty)`; for any
/// other `.replay(Never)`, or see [`Replay`]. Written as
/// `ServiceExt::oneshot(client, ..)`, the call gets an error that says so.
///
/// # "Implementation of `From` is not general enough"
///
/// is what the compiler says of `client.oneshot(..)` in a task of its own where
/// the wrapped client's type names [`BoxError`], as a boxed one's does. It says
/// so of tower's own layers too. Box the client with the layer around it, or
/// write `client.ready().await?.call(..)`.
#[derive(Clone, Debug)]
pub struct SessionService<S, R = Auto> {
    inner: S,
    session: Session,
    replay: R,
}

impl<S, R> SessionService<S, R> {
    pub(crate) fn new(inner: S, session: Session, replay: R) -> Self {
        Self {
            inner,
            session,
            replay,
        }
    }

    /// The session that the requests use.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The wrapped client.
    #[must_use]
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The wrapped client, to be changed.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The wrapped client alone.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }
}

/// Requires `S: Clone`, because a request may be sent twice, and because one
/// that waits for a login gives the service that was readied for it back.
impl<S, R, B, RB> Service<Request<B>> for SessionService<S, R>
where
    S: Service<Request<R::Body>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    R: Replay<B> + Clone,
    RB: Body,
{
    type Response = Response<SessionBody<RB>>;
    type Error = BoxError;
    type Future = ResponseFuture<S, R, B, RB>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> Self::Future {
        let sender = Sender {
            // Before anything of the session is read: what another processor has
            // counted on is fetched once then, to count on, and not to read too.
            session: self.session.clone(),
            service: &mut self.inner,
        };
        self.replay.__send(request, sender)
    }
}
