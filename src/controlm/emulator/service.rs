//! The emulator as a tower service, and its handle.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Limited};
use tokio::time::{Instant, sleep};
use tower_service::Service;

use super::account::Account;
use super::builder::EmulatorBuilder;
use super::fault::Fault;
use super::routes::{self, Answered};
use super::server::Server;
use super::state::{Moment, State};
use crate::BoxError;

/// The body of an answer.
pub(super) type AnswerBody = BoxBody<Bytes, Infallible>;

/// What is called after each request.
pub(super) type Observer = Arc<dyn Fn(&Call) + Send + Sync>;

const LARGEST_REQUEST: usize = 1024 * 1024;

/// An embedded Control-M session server. Cloning copies a pointer.
///
/// See the [module's docs](super).
#[derive(Clone)]
pub struct Emulator {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    on_call: Option<Observer>,
    made: Instant,
}

/// A request that was answered, or refused an answer, for an observer. It holds
/// no secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Call {
    /// The request's method.
    pub method: Method,
    /// The request's path, without the query.
    pub path: String,
    /// The status of the answer; `None` if the connection was closed instead.
    pub status: Option<StatusCode>,
    /// The user that logs in, or whose session it is.
    pub user: Option<String>,
    /// The time that it took.
    pub elapsed: Duration,
}

impl Emulator {
    /// An emulator that is to be configured.
    pub fn builder() -> EmulatorBuilder {
        EmulatorBuilder::new()
    }

    pub(super) fn new(state: State, on_call: Option<Observer>) -> Self {
        Self {
            inner: Arc::new(Inner {
                state: Mutex::new(state),
                on_call,
                made: Instant::now(),
            }),
        }
    }

    /// The server as a tower service, without a socket.
    #[must_use]
    pub fn service(&self) -> EmulatorService {
        EmulatorService {
            emulator: self.clone(),
        }
    }

    /// Serves on a socket until the [`Server`] drops.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound.
    pub async fn listen(&self, address: SocketAddr) -> std::io::Result<Server> {
        Server::bind(self, address).await
    }

    /// What the server has counted until now.
    #[must_use]
    pub fn account(&self) -> Account {
        let now = self.now();
        self.state().account(now)
    }

    /// How often each job was ordered, by `folder/jobs` of the order.
    #[must_use]
    pub fn orders(&self) -> BTreeMap<String, u64> {
        self.state().ordered.clone()
    }

    /// Drops all sessions, as a restart of the server does.
    pub fn restart(&self) {
        let now = self.now();
        self.state().restart(now);
    }

    /// Lets all sessions expire now.
    pub fn expire_sessions(&self) {
        self.state().expire_all();
    }

    /// Adds a user, or sets the password of one and unlocks it, as an
    /// administrator does. Sessions stay.
    pub fn set_password(&self, user: &str, password: impl Into<String>) {
        self.state().set_password(user, password.into());
    }

    /// Locks a user.
    pub fn lock(&self, user: &str) {
        let now = self.now();
        self.state().lock(user, now);
    }

    /// Unlocks a user.
    pub fn unlock(&self, user: &str) {
        self.state().unlock(user);
    }

    /// Whether a user is locked.
    #[must_use]
    pub fn is_locked(&self, user: &str) -> bool {
        let now = self.now();
        self.state().is_locked(user, now)
    }

    /// Misbehaves on the next request for `path`, such as `session/login`, or
    /// for any with an empty one. Faults queue up, each for one request.
    pub fn fail_next(&self, path: &str, fault: Fault) {
        let path = path.trim_matches('/').to_owned();
        self.state().add_fault(path, fault);
    }

    pub(super) fn base_path(&self) -> String {
        self.state().knobs.base.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Moment {
        self.inner.made.elapsed()
    }

    async fn serve<B>(&self, request: Request<B>) -> Result<Response<AnswerBody>, ConnectionClosed>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let began = Instant::now();
        let (head, body) = request.into_parts();
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        self.state().counted.requests += 1;
        let executed = match Limited::new(body, LARGEST_REQUEST).collect().await {
            Ok(body) => {
                self.execute(Request::from_parts(head, body.to_bytes()))
                    .await
            }
            Err(_) => Ok(Answered {
                response: routes::error(StatusCode::BAD_REQUEST, "The request body cannot be read"),
                user: None,
            }),
        };
        if let Some(observe) = &self.inner.on_call {
            let answered = executed.as_ref().ok();
            observe(&Call {
                method,
                path,
                status: answered.map(|answered| answered.response.status()),
                user: answered.and_then(|answered| answered.user.clone()),
                elapsed: began.elapsed(),
            });
        }
        executed.map(|answered| answered.response)
    }

    async fn execute(&self, request: Request<Bytes>) -> Result<Answered, ConnectionClosed> {
        let (path, fault, latency) = {
            let mut state = self.state();
            let path = request.uri().path().strip_prefix(&state.knobs.base);
            // The base path ends where a segment does.
            let path = path.and_then(|path| path.strip_prefix('/'));
            let path = path.map(str::to_owned);
            let fault = path.as_deref().and_then(|path| state.take_fault(path));
            let latency = match path.as_deref() {
                Some("session/login") => state
                    .knobs
                    .latency
                    .saturating_add(state.knobs.login_latency),
                Some(_) | None => state.knobs.latency,
            };
            (path, fault, latency)
        };
        if !latency.is_zero() {
            sleep(latency).await;
        }
        let Some(path) = path else {
            let response = routes::error(StatusCode::NOT_FOUND, "There is no such resource");
            return Ok(Answered {
                response,
                user: None,
            });
        };
        let answered = match &fault {
            Some(fault) if !fault.executes() => None,
            Some(_) | None => {
                let now = self.now();
                Some(routes::answer(&mut self.state(), &path, &request, now))
            }
        };
        match (fault, answered) {
            (None, Some(answered)) => Ok(answered),
            (Some(fault), answered) => misbehave(fault, answered).await,
            (None, None) => Err(ConnectionClosed),
        }
    }
}

async fn misbehave(fault: Fault, answered: Option<Answered>) -> Result<Answered, ConnectionClosed> {
    let json = "application/json";
    let user = answered.as_ref().and_then(|answered| answered.user.clone());
    let response = match fault {
        Fault::Refuse | Fault::CloseAfter => return Err(ConnectionClosed),
        Fault::Stall => std::future::pending().await,
        Fault::Status(status) => {
            let text = r#"{"message":"no Route matched with those values"}"#;
            routes::with_body(status, json, text)
        }
        Fault::Busy { retry_after } => {
            let text = r#"{"fault":{"faultstring":"the service is busy"}}"#;
            let mut response = routes::with_body(StatusCode::SERVICE_UNAVAILABLE, json, text);
            let seconds = HeaderValue::from(retry_after.as_secs());
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
            response
        }
        Fault::Html => {
            let page = "<html><head><title>502 Bad Gateway</title></head><body></body></html>";
            routes::with_body(StatusCode::BAD_GATEWAY, "text/html", page)
        }
        Fault::Garbage => routes::with_body(StatusCode::OK, json, &b"\x00\xff not json \x9f"[..]),
        Fault::Empty => routes::with_body(StatusCode::OK, json, Bytes::new()),
        Fault::Truncated => {
            let answered = answered.ok_or(ConnectionClosed)?;
            let (head, body) = answered.response.into_parts();
            let Ok(body) = body.collect().await;
            let body = body.to_bytes();
            let half = body.slice(..body.len() / 2);
            routes::with_body(head.status, json, half)
        }
    };
    Ok(Answered { response, user })
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emulator")
            .field("account", &self.account())
            .finish_non_exhaustive()
    }
}

/// An [`Emulator`] as a tower service, for requests of any body.
#[derive(Clone, Debug)]
pub struct EmulatorService {
    emulator: Emulator,
}

impl<B> Service<Request<B>> for EmulatorService
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<AnswerBody>;
    type Error = ConnectionClosed;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectionClosed>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectionClosed>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let emulator = self.emulator.clone();
        Box::pin(async move { emulator.serve(request).await })
    }
}

/// The server closed the connection instead of answering, as it was told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionClosed;

impl fmt::Display for ConnectionClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server closed the connection without an answer")
    }
}

impl std::error::Error for ConnectionClosed {}

/// A download: so many chunks, one frame each.
pub(super) struct Chunks {
    sent: u64,
    total: u64,
}

impl Chunks {
    pub(super) fn new(total: u64) -> Self {
        Self { sent: 0, total }
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.sent == self.total {
            return Poll::Ready(None);
        }
        self.sent += 1;
        let line = format!("line {} of {}\n", self.sent, self.total);
        Poll::Ready(Some(Ok(Frame::data(line.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent == self.total
    }

    fn size_hint(&self) -> SizeHint {
        // Unknown on purpose: a download of unknown length is sent in chunks.
        SizeHint::default()
    }
}
