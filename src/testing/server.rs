//! What a check of a provider asks of the server that it is tried against.

use std::future::{Future, ready};

use bytes::Bytes;
use http::Response;
use secrecy::{ExposeSecret, SecretString};

use crate::token::Token;

/// The server that [`conformance`](super::conformance) tries a provider against.
///
/// It is asked directly, not through the provider: in process, say, or with
/// requests of its own. Only [`accepts`](TestServer::accepts) is needed; what
/// else it can do makes the check say more. Nobody else should use it
/// meanwhile, since it counts.
///
/// ```
/// use tower_reauth::testing::TestServer;
/// use tower_reauth::Token;
/// # use std::collections::HashMap;
/// # use std::sync::{Arc, Mutex};
///
/// #[derive(Clone, Default)]
/// struct MyServer {
///     sessions: Arc<Mutex<HashMap<String, String>>>, // token to user
/// }
///
/// impl TestServer for MyServer {
///     async fn accepts(&self, token: &Token) -> bool {
///         let (_, value) = token.headers().next().expect("tokens here are one header");
///         let sessions = self.sessions.lock().unwrap();
///         value.to_str().is_ok_and(|value| sessions.contains_key(value))
///     }
///
///     async fn revoke_all(&self) -> bool {
///         self.sessions.lock().unwrap().clear();
///         true
///     }
///
///     async fn live_sessions(&self) -> Option<usize> {
///         Some(self.sessions.lock().unwrap().len())
///     }
/// }
/// ```
pub trait TestServer: Sync {
    /// Whether a request that carries `token` is accepted now.
    fn accepts(&self, token: &Token) -> impl Future<Output = bool> + Send;

    /// Ends all sessions, as a restart does, and says whether it can do that.
    fn revoke_all(&self) -> impl Future<Output = bool> + Send {
        ready(false)
    }

    /// How the server answers a request that carries `token`, to be held
    /// against [`Profile::rejection`](crate::Profile::rejection).
    fn response_to(&self, token: &Token) -> impl Future<Output = Option<Response<Bytes>>> + Send {
        let _ = token;
        ready(None)
    }

    /// How many sessions are open, if the server can count them.
    fn live_sessions(&self) -> impl Future<Output = Option<usize>> + Send {
        ready(None)
    }

    /// How many logins it has refused so far, if it counts them.
    fn failed_logins(&self) -> impl Future<Output = Option<usize>> + Send {
        ready(None)
    }

    /// A password that the server lets a user change `current` to. The check
    /// changes it back.
    fn another_password(&self, current: &SecretString) -> SecretString {
        format!("{}-Changed1", current.expose_secret()).into()
    }
}
