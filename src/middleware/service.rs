//! The service: the fast path of a request, and the start of the slow path.

use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::attempt::{Attempt, RequestInfo, SentRequest};
use super::body::SessionBody;
use super::future::ResponseFuture;
use super::pending::PendingRequest;
use super::replay::{Auto, Replay};
use crate::BoxError;
use crate::error::{Error, ErrorKind};
use crate::origin::{Anonymous, Destination};
use crate::session::{Driver, Session};

/// A client whose requests use a session's token; made by
/// [`SessionLayer`](crate::SessionLayer).
///
/// See the [crate's docs](crate) for an example.
///
/// # Upgrades
///
/// The response to an upgrade (101, RFC 9110, section 7.8), or to a `CONNECT` that
/// opens a tunnel (section 9.3.6), carries the [`Token`](crate::Token) of its
/// request as an extension. The token counts as used until the extension and all
/// its copies are dropped. A replaced token is not logged out before that.
///
/// # "The method exists, but its trait bounds were not satisfied"
///
/// is the compiler's message for `client.oneshot(..)` or `client.ready()` if
/// [`Auto`] cannot replay the request's body type. Choose another strategy, such
/// as `session.layer().replay(Buffer::up_to(65536))` or `.replay(Never)`: see
/// [`Replay`]. Written as `ServiceExt::oneshot(client, ..)`, the call gets an error
/// that names them.
///
/// The message is the same if the wrapped client is not `Clone`, as tower's `RateLimit`
/// is not: a replay needs a second one. Then that call names `Clone`. tower's `buffer`
/// makes one client of all clones, so that they share the limit:
///
/// ```
/// # use std::convert::Infallible;
/// # use std::time::Duration;
/// # use bytes::Bytes;
/// # use http::{Request, Response};
/// # use http_body_util::Full;
/// # use tower::{ServiceBuilder, ServiceExt};
/// # use tower_reauth::{FixedToken, Profile, Session};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_reauth::BoxError> {
/// # let profile = Profile::at("https://api.example.com".parse()?);
/// # let session = Session::new(FixedToken::bearer(profile, "3f9a"));
/// # let http = tower::service_fn(|_: Request<Full<Bytes>>| async {
/// #     Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
/// # });
/// let client = ServiceBuilder::new()
///     .layer(session.layer())
///     .buffer(16)
///     .rate_limit(5, Duration::from_secs(1))
///     .service(http);
/// # let request = Request::get("https://api.example.com/x").body(Full::default())?;
/// # client.oneshot(request).await?;
/// # Ok(())
/// # }
/// ```
///
/// # "Implementation of `From` is not general enough"
///
/// is the compiler's message for `client.oneshot(..)` in a spawned task if the type
/// of the wrapped client contains [`BoxError`], as a boxed client's does. tower's
/// own layers have the same limit. Box the client with the layer around it, or
/// write `client.ready().await?.call(..)`.
///
/// # "`SessionService` and .. have different types": a layer that is optional
///
/// tower's `option_layer` needs the same response and error types with and without
/// the layer, and the layer changes both: its response body is a [`SessionBody`],
/// and its error a [`BoxError`]. Map both bodies to one type (here axum's), and box
/// the client's error:
///
/// ```
/// # use std::convert::Infallible;
/// # use axum::body::Body;
/// # use http::{Request, Response};
/// # use tower::{ServiceBuilder, ServiceExt};
/// # use tower_reauth::{Buffer, FixedToken, Profile, Session};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_reauth::BoxError> {
/// # let with_session = true;
/// # let profile = Profile::at("https://api.example.com".parse()?);
/// # let session = Session::new(FixedToken::bearer(profile, "3f9a"));
/// # let http = tower::service_fn(|_: Request<Body>| async {
/// #     Ok::<_, Infallible>(Response::new(Body::empty()))
/// # });
/// use tower::util::MapResponseLayer;
/// use tower_reauth::{BoxError, SessionBody};
///
/// let layer = session.layer().replay(Buffer::up_to(65536).into_body(Body::new));
/// let to_axum = MapResponseLayer::new(|response: Response<SessionBody<Body>>| response.map(Body::new));
/// let client = ServiceBuilder::new()
///     .option_layer(with_session.then_some((to_axum, layer)))
///     .map_err(BoxError::from)
///     .service(http);
/// # client.oneshot(Request::get("https://api.example.com/").body(Body::empty())?).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SessionService<S, R = Auto> {
    inner: S,
    session: Session,
    replay: R,
}

impl<S> SessionService<S> {
    /// Wraps the client `inner` so that its requests use the token of `session`.
    pub fn new(inner: S, session: Session) -> Self {
        Self {
            inner,
            session,
            replay: Auto,
        }
    }
}

impl<S, R> SessionService<S, R> {
    /// Sets how a rejected request gets its body a second time.
    #[must_use]
    pub fn replay<T>(self, replay: T) -> SessionService<S, T> {
        SessionService {
            inner: self.inner,
            session: self.session,
            replay,
        }
    }

    /// Returns the session that the requests use.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Returns the wrapped client.
    #[must_use]
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the wrapped client, mutably.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the wrapped client and drops the rest.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }
}

/// Requires `S: Clone`: a request may be sent twice, and a request that waits for
/// a login gives its readied service back.
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
        let driver = self.session.driver();
        if is_skipped(driver, &request) {
            return self.pass(request);
        }
        // One lock-free load, and the byte of its signal.
        let Some(lease) = driver.live_for(request.uri()) else {
            return self.call_slow(request);
        };
        let (mut request, kept) = self.replay.keep_request(request);
        // The outcome of a request with a live token is not reported.
        let sent = match kept {
            Some(kept) => SentRequest::retained(driver.clone(), &self.inner, &request, kept, None),
            None => SentRequest::Info(RequestInfo::of(&request)),
        };
        lease.token().apply_to(request.headers_mut());
        let call = self.inner.call(request);
        let attempt = Attempt {
            lease,
            request: sent,
        };
        ResponseFuture::calling(call, attempt)
    }
}

impl<S, R> SessionService<S, R> {
    /// Sends a request without the token.
    #[cold]
    #[inline(never)]
    fn pass<B, RB>(&mut self, request: Request<B>) -> ResponseFuture<S, R, B, RB>
    where
        S: Service<Request<R::Body>, Response = Response<RB>>,
        R: Replay<B>,
        RB: Body,
    {
        // Nothing is kept: the response is not classified.
        let (request, _) = self.replay.keep_request(request);
        ResponseFuture::passthrough(self.inner.call(request))
    }

    /// Sends a request for which there is no live token, or whose origin does not
    /// match byte for byte.
    #[cold]
    #[inline(never)]
    fn call_slow<B, RB>(&mut self, request: Request<B>) -> ResponseFuture<S, R, B, RB>
    where
        S: Service<Request<R::Body>, Response = Response<RB>> + Clone,
        R: Replay<B> + Clone,
        RB: Body,
    {
        let driver = self.session.driver().clone();
        let admitted = match driver.locate(request.uri()) {
            Destination::Allowed => driver.admit(),
            Destination::Foreign => return self.pass(request),
            Destination::Insecure => Err(Error::new(ErrorKind::InsecureOrigin)),
            Destination::Unknown => Err(Error::new(ErrorKind::NoOrigin)),
        };
        if let (Ok(_), Some(lease)) = (&admitted, driver.usable()) {
            let (call, attempt) =
                Attempt::send(&driver, &mut self.inner, &self.replay, request, lease);
            return ResponseFuture::calling(call, attempt);
        }
        // The readied service is dropped before any wait: the login may need the
        // permit that it holds.
        let unready = self.inner.clone();
        self.inner = unready.clone();
        match admitted {
            Ok(admission) => {
                let replay = self.replay.clone();
                let pending = PendingRequest::first(driver, unready, replay, request, admission);
                ResponseFuture::acquiring(pending)
            }
            Err(error) => ResponseFuture::failed(error),
        }
    }
}

/// Returns whether a request passes without the token, wherever it goes.
#[inline]
fn is_skipped<B>(driver: &Driver, request: &Request<B>) -> bool {
    let extensions = request.extensions();
    let is_anonymous = !extensions.is_empty() && extensions.get::<Anonymous>().is_some();
    is_anonymous || driver.skips(request.headers())
}
