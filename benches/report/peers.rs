//! What is measured beside us: the same service bare, and under what else
//! people put a token on requests with.

use std::convert::Infallible;
use std::future::{Future, Ready, poll_fn, ready};
use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use tokio::sync::RwLock;
use tokio::time::Instant;
use tower::retry::{Policy, Retry};
use tower::{Layer, Service};
use tower_http::auth::{AddAuthorization, AddAuthorizationLayer};
use tower_reauth::{
    BoxError, Buffer, FixedToken, IfEmpty, Never, Profile, Session, SessionService, Token,
};

use crate::kinds::Make;

pub(crate) type Body = Full<Bytes>;

pub(crate) const ORIGIN: &str = "https://api.example.com";
pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Answers at once, so that all that is left is the way there and back.
#[derive(Clone)]
pub(crate) struct Bare;

impl<B> Service<Request<B>> for Bare {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        std::hint::black_box(&request);
        ready(Ok(Response::new(Full::default())))
    }
}

/// Makes requests: a POST with a query, four headers and a body.
pub(crate) struct Requests<B = Body> {
    make: Make,
    uri: Uri,
    bytes: Bytes,
    body: fn(&Bytes) -> B,
}

impl Requests {
    /// With a body of 128 bytes that all requests share.
    pub(crate) fn new(make: Make) -> Self {
        Self::with_body(make, |bytes| Full::new(bytes.clone()))
    }
}

impl Requests<axum::body::Body> {
    /// With axum's body, empty.
    pub(crate) fn empty(make: Make) -> Self {
        Self::with_body(make, |_| axum::body::Body::empty())
    }
}

impl<B> Requests<B> {
    fn with_body(make: Make, body: fn(&Bytes) -> B) -> Self {
        Self {
            make,
            uri: URI.parse().unwrap(),
            // The first clone allocates the count that all clones share.
            bytes: Bytes::from(vec![b'x'; 128]).clone(),
            body,
        }
    }

    pub(crate) fn make(&self) -> Request<B> {
        let body = (self.body)(&self.bytes);
        match self.make {
            Make::Parsed => Request::post(black_box(URI))
                .header("accept", "application/json")
                .header("content-type", "application/json")
                .header("user-agent", "bench/1.0")
                .header("x-request-id", black_box(REQUEST_ID))
                .body(body)
                .unwrap(),
            Make::Shared => {
                let mut request = Request::new(body);
                *request.method_mut() = Method::POST;
                *request.uri_mut() = self.uri.clone();
                let headers = request.headers_mut();
                let json = HeaderValue::from_static("application/json");
                headers.insert(header::ACCEPT, json.clone());
                headers.insert(header::CONTENT_TYPE, json);
                headers.insert(header::USER_AGENT, HeaderValue::from_static("bench/1.0"));
                let id = HeaderName::from_static("x-request-id");
                headers.insert(id, HeaderValue::from_static(REQUEST_ID));
                request
            }
        }
    }
}

const URI: &str = "https://api.example.com/v1/items?id=42&view=full";
const REQUEST_ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

/// A header that is always the same, and nothing else.
pub(crate) fn fixed_header() -> AddAuthorization<Bare> {
    AddAuthorizationLayer::bearer(TOKEN)
        .as_sensitive(true)
        .layer(Bare)
}

/// tower's `Retry` around it, with a copy of each request.
pub(crate) fn retry() -> Retry<Once, AddAuthorization<Bare>> {
    Retry::new(Once(true), fixed_header())
}

/// Sends a rejected request once more.
#[derive(Clone)]
pub(crate) struct Once(bool);

impl<B: Clone, RB, E> Policy<Request<B>, Response<RB>, E> for Once {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<B>,
        result: &mut Result<Response<RB>, E>,
    ) -> Option<Ready<()>> {
        let rejected = matches!(result, Ok(response) if is_rejected(response));
        (rejected && std::mem::take(&mut self.0)).then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }
}

fn is_rejected<B>(response: &Response<B>) -> bool {
    response.status() == StatusCode::UNAUTHORIZED
}

/// A session whose token is live and has no end.
pub(crate) fn session() -> Session {
    let provider = FixedToken::bearer(Profile::at(ORIGIN.parse().unwrap()), TOKEN);
    let token = Token::bearer(TOKEN).unwrap();
    Session::builder(provider).initial_token(token).build()
}

/// This crate's layer, which replays what it can.
pub(crate) fn auto(session: &Session) -> SessionService<Bare> {
    session.layer().layer(Bare)
}

/// This crate's layer, which replays nothing.
pub(crate) fn never(session: &Session) -> SessionService<Bare, Never> {
    session.layer().replay(Never).layer(Bare)
}

/// This crate's layer, which copies a body that is sent.
pub(crate) fn buffer(session: &Session) -> SessionService<Bare, Buffer> {
    let replay = Buffer::up_to(64 * 1024);
    session.layer().replay(replay).layer(Bare)
}

/// This crate's layer, which replays empty bodies.
pub(crate) fn if_empty(session: &Session) -> SessionService<Bare, IfEmpty> {
    session.layer().replay(IfEmpty).layer(Bare)
}

/// What people write by hand, in its better form: who waited for the lock looks
/// again whether somebody else has logged in meanwhile.
#[derive(Clone)]
pub(crate) struct ByHand<S, L> {
    inner: S,
    held: Arc<RwLock<Held>>,
    login: L,
}

/// A token, and when it ends.
pub(crate) struct Held {
    pub(crate) token: String,
    pub(crate) ends: Option<Instant>,
}

/// How [`ByHand`] gets a token.
pub(crate) trait Login: Clone + Send + Sync + 'static {
    fn login(&self) -> impl Future<Output = Result<Held, BoxError>> + Send;
}

impl Held {
    pub(crate) fn new(token: String, lives_for: Option<Duration>) -> Self {
        let ends = lives_for.map(|lifetime| Instant::now() + lifetime);
        Self { token, ends }
    }

    /// What nobody takes, so that the first request logs in.
    pub(crate) fn nothing() -> Self {
        Self::new(String::new(), Some(Duration::ZERO))
    }

    fn is_over(&self) -> bool {
        self.ends.is_some_and(|ends| ends <= Instant::now())
    }
}

impl<S, L: Login> ByHand<S, L> {
    pub(crate) fn new(inner: S, held: Held, login: L) -> Self {
        let held = Arc::new(RwLock::new(held));
        Self { inner, held, login }
    }
}

/// The token in use.
async fn current(held: &RwLock<Held>, login: &impl Login) -> Result<String, BoxError> {
    {
        let held = held.read().await;
        if !held.is_over() {
            return Ok(held.token.clone());
        }
    }
    let mut held = held.write().await;
    if held.is_over() {
        *held = login.login().await?;
    }
    Ok(held.token.clone())
}

/// Another token than the one that was rejected.
async fn another(
    held: &RwLock<Held>,
    login: &impl Login,
    rejected: &str,
) -> Result<String, BoxError> {
    let mut held = held.write().await;
    if held.token == rejected {
        *held = login.login().await?;
    }
    Ok(held.token.clone())
}

fn put<B>(token: &str, request: &mut Request<B>) -> Result<(), BoxError> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))?;
    value.set_sensitive(true);
    request.headers_mut().insert(header::AUTHORIZATION, value);
    Ok(())
}

impl<S, L, B, RB> Service<Request<B>> for ByHand<S, L>
where
    S: Service<Request<B>, Response = Response<RB>, Future: Send> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    L: Login,
    B: Clone + Send + 'static,
    RB: Send + 'static,
{
    type Response = Response<RB>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<RB>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let readied = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, readied);
        let (held, login) = (self.held.clone(), self.login.clone());
        Box::pin(async move {
            let mut again = request.clone();
            let token = current(&held, &login).await?;
            put(&token, &mut request)?;
            let response = inner.call(request).await.map_err(Into::into)?;
            if !is_rejected(&response) {
                return Ok(response);
            }
            let token = another(&held, &login, &token).await?;
            put(&token, &mut again)?;
            poll_fn(|cx| inner.poll_ready(cx))
                .await
                .map_err(Into::into)?;
            inner.call(again).await.map_err(Into::into)
        })
    }
}

/// Logs nobody in: for a token that has no end.
#[derive(Clone)]
pub(crate) struct NoLogin;

impl Login for NoLogin {
    async fn login(&self) -> Result<Held, BoxError> {
        Err("there is no login".into())
    }
}

pub(crate) fn by_hand() -> ByHand<Bare, NoLogin> {
    ByHand::new(Bare, Held::new(TOKEN.into(), None), NoLogin)
}
