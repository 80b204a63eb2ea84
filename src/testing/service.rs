//! A service that accepts the tokens that its test says are good.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower_service::Service;

use super::Gate;

/// A service that accepts the tokens that its test says are good, and rejects
/// all else with a 401.
///
/// Without being told, any token is good. It keeps which token each request
/// carried. Cloning copies a pointer, so that the test keeps one and wraps the
/// other.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, StatusCode};
/// use http_body_util::Full;
/// use tower::{Layer, ServiceExt};
/// use tower_reauth::testing::{ScriptedProvider, ScriptedService};
/// use tower_reauth::Session;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), tower_reauth::BoxError> {
/// let session = Session::new(ScriptedProvider::at("https://api.test".parse()?));
/// let service = ScriptedService::new();
/// service.accept_only(["token-2"]);
///
/// let request = Request::get("https://api.test/servers").body(Full::<Bytes>::default())?;
/// let response = session.layer().layer(service.clone()).oneshot(request).await?;
/// assert_eq!(response.status(), StatusCode::OK);
/// assert_eq!(service.tokens(), ["token-1", "token-2"]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ScriptedService {
    token_in: TokenIn,
    accepted: Arc<Respond>,
    rejected: Arc<Respond>,
    shared: Arc<Mutex<ServiceState>>,
}

type Respond = dyn Fn(&Parts) -> Response<Full<Bytes>> + Send + Sync;

#[derive(Clone, Debug)]
enum TokenIn {
    Header(HeaderName),
    Cookie(String),
}

#[derive(Default)]
struct ServiceState {
    /// `None` for any token.
    good: Option<HashSet<String>>,
    /// The token of each request so far.
    tokens: Vec<String>,
    accepted: usize,
    rejected: usize,
    /// Where the next requests are held, one each.
    gates: VecDeque<Gate>,
    /// Where all others are held.
    gate: Option<Gate>,
}

impl ScriptedService {
    /// A service that looks for a bearer token and accepts any.
    #[must_use]
    pub fn new() -> Self {
        Self {
            token_in: TokenIn::Header(header::AUTHORIZATION),
            accepted: Arc::new(|_| answer(StatusCode::OK)),
            rejected: Arc::new(|_| answer(StatusCode::UNAUTHORIZED)),
            shared: Arc::default(),
        }
    }

    /// Looks for the token in the header `name`, behind a scheme or without one.
    ///
    /// # Panics
    ///
    /// If `name` is not a header name.
    #[must_use]
    pub fn token_in_header<N>(mut self, name: N) -> Self
    where
        N: TryInto<HeaderName>,
        N::Error: Into<http::Error>,
    {
        self.token_in = TokenIn::Header(crate::header::expect_name(name));
        self
    }

    /// Looks for the token in the cookie `name`.
    #[must_use]
    pub fn token_in_cookie(mut self, name: impl Into<String>) -> Self {
        self.token_in = TokenIn::Cookie(name.into());
        self
    }

    /// Answers so to a request whose token is good, instead of an empty 200.
    #[must_use]
    pub fn answering(
        mut self,
        answer: impl Fn(&Parts) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        self.accepted = Arc::new(answer);
        self
    }

    /// Answers so to a request whose token is not, instead of an empty 401.
    #[must_use]
    pub fn rejecting_with(
        mut self,
        answer: impl Fn(&Parts) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        self.rejected = Arc::new(answer);
        self
    }

    /// Accepts these tokens from now on and no other; none at all, if there are none.
    pub fn accept_only<T: Into<String>>(&self, tokens: impl IntoIterator<Item = T>) {
        self.state().good = Some(tokens.into_iter().map(Into::into).collect());
    }

    /// Accepts any token from now on.
    pub fn accept_any(&self) {
        self.state().good = None;
    }

    /// Holds the next request at `gate`: the next that none holds yet.
    ///
    /// Whether its token is good is looked at when it has passed.
    pub fn hold_next(&self, gate: &Gate) {
        self.state().gates.push_back(gate.clone());
    }

    /// Holds each request at `gate`, but for those of [`ScriptedService::hold_next`].
    pub fn hold_all(&self, gate: &Gate) {
        self.state().gate = Some(gate.clone());
    }

    /// How many requests have arrived.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.state().tokens.len()
    }

    /// The token of each request, in the order in which they arrived; empty
    /// for one without.
    #[must_use]
    pub fn tokens(&self) -> Vec<String> {
        self.state().tokens.clone()
    }

    /// How many requests came with a good token.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.state().accepted
    }

    /// How many came without, or with one that is not good.
    #[must_use]
    pub fn rejected(&self) -> usize {
        self.state().rejected
    }

    fn state(&self) -> MutexGuard<'_, ServiceState> {
        // No code of anybody else's runs under the lock.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request that arrives. Answers with where it is held.
    fn arrived(&self, token: &str) -> Option<Gate> {
        let mut state = self.state();
        state.tokens.push(token.to_owned());
        state.gates.pop_front().or_else(|| state.gate.clone())
    }

    fn classify(&self, token: &str) -> &Respond {
        let mut state = self.state();
        let good = !token.is_empty()
            && state
                .good
                .as_ref()
                .is_none_or(|tokens| tokens.contains(token));
        match good {
            true => {
                state.accepted += 1;
                &*self.accepted
            }
            false => {
                state.rejected += 1;
                &*self.rejected
            }
        }
    }
}

impl TokenIn {
    fn of(&self, headers: &HeaderMap) -> String {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let token = match self {
            TokenIn::Header(name) => text(name).and_then(|value| value.rsplit(' ').next()),
            TokenIn::Cookie(name) => text(&header::COOKIE).and_then(|cookies| {
                cookies.split("; ").find_map(|pair| {
                    let (other, value) = pair.split_once('=')?;
                    (other == name).then_some(value)
                })
            }),
        };
        token.unwrap_or_default().to_owned()
    }
}

fn answer(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

impl<B> Service<Request<B>> for ScriptedService {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let service = self.clone();
        let (head, _) = request.into_parts();
        let token = service.token_in.of(&head.headers);
        let gate = service.arrived(&token);
        Box::pin(async move {
            if let Some(gate) = gate {
                gate.pass().await;
            }
            Ok(service.classify(&token)(&head))
        })
    }
}

impl Default for ScriptedService {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ScriptedService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedService")
            .field("token_in", &self.token_in)
            .field("requests", &self.requests())
            .finish_non_exhaustive()
    }
}
