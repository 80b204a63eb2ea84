//! The emulator as a tower service: one call from arrival to answer.

use std::{
    error::Error,
    fmt,
    fmt::Write,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header, request::Parts, uri::Scheme};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::Instant;
use tower_service::Service;

use super::{
    body::ResponseBody,
    call::Call,
    fault::{Effect, Fault, FaultTiming},
    handle::Emulator,
    operation::Operation,
    path::below,
    reply::Reply,
    routes::{Executed, ReceivedRequest, Route},
};

/// The limit for a request body, in bytes.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// The emulator as a tower service, from [`Emulator::service`].
///
/// It takes requests with any body and is always ready. Only the path of the URI
/// counts, so that both `/automation-api/..` and a whole URL work. A [`Fault`]
/// that closes the connection is the error [`Closed`].
#[derive(Clone, Debug)]
pub struct EmulatorService {
    emulator: Emulator,
    scheme: Scheme,
}

/// The connection was closed without an answer, because of a [`Fault::close`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Closed {
    /// The request was not executed.
    BeforeExecution,
    /// The request was executed, which a client cannot know.
    AfterExecution,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the emulator closed the connection without an answer")
    }
}

impl Error for Closed {}

impl Emulator {
    /// Serves as a tower service, without a socket.
    pub fn service(&self) -> EmulatorService {
        EmulatorService::new(self.clone(), Scheme::HTTP)
    }
}

impl<B> Service<Request<B>> for EmulatorService
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Response = Response<ResponseBody>;
    type Error = Closed;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Closed>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { service.serve(request).await })
    }
}

impl EmulatorService {
    pub(super) fn new(emulator: Emulator, scheme: Scheme) -> Self {
        Self { emulator, scheme }
    }

    async fn serve<B>(self, request: Request<B>) -> Result<Response<ResponseBody>, Closed>
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let start = Instant::now();
        let (head, body) = request.into_parts();
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        let takes_gzip = takes_gzip(&head);
        let outcome = self.outcome(head, body).await;

        if let Some(observer) = &self.emulator.shared.observer {
            let (status, user) = match &outcome {
                Ok((answer, user)) => (Some(answer.status), user.clone()),
                Err(_) => (None, None),
            };
            observer(&Call {
                method: method.clone(),
                path,
                status,
                user,
                elapsed: start.elapsed(),
            });
        }
        let is_gzipped = takes_gzip && self.emulator.state().settings.gzip;
        outcome.map(|(answer, _)| match is_gzipped {
            true => answer.gzipped().into_response(&method),
            false => answer.into_response(&method),
        })
    }

    async fn outcome<B>(&self, head: Parts, body: B) -> Result<Executed, Closed>
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let below = below(&self.emulator.shared.base_path, head.uri.path());
        let route = below.as_deref().and_then(Route::find);
        let operation = route.as_ref().map(|route| route.operation);
        let (fault, latency) = {
            let mut state = self.emulator.state();
            let fault = state.arrive(below.as_deref().unwrap_or(""), operation);
            let latency = match (operation, state.settings.login_latency) {
                (Some(Operation::Login), Some(latency)) => latency,
                (Some(_) | None, _) => state.settings.latency,
            };
            (fault.unwrap_or_else(Fault::pass), latency)
        };
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }

        let Fault { timing, effect, .. } = fault;
        let (before, after) = match timing {
            FaultTiming::Before => (effect, Effect::Pass),
            FaultTiming::After => (Effect::Pass, effect),
        };
        match before {
            Effect::Pass | Effect::Truncate => {}
            // The body is not read: it may not have arrived.
            Effect::Close => return Err(Closed::BeforeExecution),
            Effect::Stall => self.emulator.shared.stall.pass().await,
            Effect::Answer(answer) => return Ok((answer, None)),
        }
        let outcome = match whole(body).await {
            Ok(body) => self.execute(head, body, route),
            Err(refusal) => (refusal, None),
        };
        match after {
            Effect::Pass => Ok(outcome),
            Effect::Close => Err(Closed::AfterExecution),
            Effect::Stall => {
                self.emulator.shared.stall.pass().await;
                Ok(outcome)
            }
            Effect::Truncate => Ok((outcome.0.truncated(), outcome.1)),
            Effect::Answer(answer) => Ok((answer, outcome.1)),
        }
    }

    fn execute(&self, head: Parts, body: Bytes, route: Option<Route>) -> Executed {
        let Ok(fresh_token) = fresh_token(&head.method) else {
            let text = "The system has no random numbers";
            return (Reply::error(StatusCode::INTERNAL_SERVER_ERROR, text), None);
        };
        let base = self.base(&head);
        let received = ReceivedRequest {
            head,
            body,
            route,
            base,
            fresh_token,
        };
        received.execute(&mut self.emulator.state(), Instant::now())
    }

    /// The base address as the client sees it, for the URIs in answers.
    fn base(&self, head: &Parts) -> String {
        let host = head.headers.get(header::HOST).and_then(|v| v.to_str().ok());
        let authority = host.or(head.uri.authority().map(|a| a.as_str()));
        let scheme = head.uri.scheme().unwrap_or(&self.scheme);
        let path = &self.emulator.shared.base_path;
        format!("{scheme}://{}{path}", authority.unwrap_or("localhost"))
    }
}

/// Returns whether the client lists `gzip` in `Accept-Encoding`, with a weight that is not 0.
fn takes_gzip(head: &Parts) -> bool {
    let codings = head.headers.get_all(header::ACCEPT_ENCODING).into_iter();
    codings
        .filter_map(|codings| codings.to_str().ok())
        .flat_map(|codings| codings.split(','))
        .any(|coding| {
            let (coding, weight) = coding.split_once(';').unwrap_or((coding, ""));
            let weight = weight.trim().trim_start_matches("q=");
            coding.trim().eq_ignore_ascii_case("gzip") && weight.parse() != Ok(0.0)
        })
}

async fn whole<B>(body: B) -> Result<Bytes, Reply>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Reply::error(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("The request body is larger than {MAX_BODY} bytes"),
        )),
        Err(_) => Err(Reply::error(
            StatusCode::BAD_REQUEST,
            "The request body ended too early",
        )),
    }
}

/// Returns 128 hex digits, or nothing for a request that cannot be a login.
fn fresh_token(method: &Method) -> Result<String, getrandom::Error> {
    if method != Method::POST {
        return Ok(String::new());
    }
    let mut random = [0; 64];
    getrandom::fill(&mut random)?;
    Ok(random.iter().fold(String::new(), |mut token, byte| {
        // Writing to a string cannot fail.
        let _ = write!(token, "{byte:02X}");
        token
    }))
}
