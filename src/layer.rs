//! The layer. See the [crate's docs](crate).

use tower_layer::Layer;

use crate::replay::Auto;
use crate::service::SessionService;
use crate::session::Session;

/// Wraps a client so that its requests carry the session's token.
///
/// See the [crate's docs](crate) for what it does, and [`Replay`](crate::Replay)
/// for what becomes of a rejected request's body.
#[derive(Clone, Debug)]
pub struct SessionLayer<R = Auto> {
    session: Session,
    replay: R,
}

impl SessionLayer<Auto> {
    /// A layer over a session, or over a new session of a provider.
    pub fn new(session: impl Into<Session>) -> Self {
        Self {
            session: session.into(),
            replay: Auto,
        }
    }
}

impl<R> SessionLayer<R> {
    /// Sets how a rejected request gets its body a second time.
    #[must_use]
    pub fn replay<T>(self, replay: T) -> SessionLayer<T> {
        SessionLayer {
            session: self.session,
            replay,
        }
    }

    /// The session that the layer uses.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }
}

impl<S, R: Clone> Layer<S> for SessionLayer<R> {
    type Service = SessionService<S, R>;

    fn layer(&self, inner: S) -> Self::Service {
        SessionService::new(inner, self.session.clone(), self.replay.clone())
    }
}
