//! The layer.

use tower_layer::Layer;

use super::replay::Auto;
use super::service::SessionService;
use crate::provider::CredentialProvider;
use crate::session::Session;

/// Wraps a client so that its requests use a session's token.
///
/// See the [crate's docs](crate) for an example, and [`Replay`](crate::Replay) for
/// how a rejected request is sent again.
#[derive(Clone, Debug)]
pub struct SessionLayer<R = Auto> {
    session: Session,
    replay: R,
}

impl SessionLayer {
    /// Creates a layer with a new session of `provider`. For a layer of an existing
    /// session, use [`Session::layer`].
    pub fn new(provider: impl CredentialProvider) -> Self {
        Session::new(provider).layer()
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

    /// Returns the session that the layer uses.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }
}

impl Session {
    /// Returns a layer that lets a client's requests use this session.
    #[must_use]
    pub fn layer(&self) -> SessionLayer {
        SessionLayer {
            session: self.clone(),
            replay: Auto,
        }
    }
}

impl<S, R: Clone> Layer<S> for SessionLayer<R> {
    type Service = SessionService<S, R>;

    fn layer(&self, inner: S) -> Self::Service {
        SessionService::new(inner, self.session.clone()).replay(self.replay.clone())
    }
}
