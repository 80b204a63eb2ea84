//! What the servers have in common: a client that reaches them without a
//! socket, and what the tests ask of them.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine;
use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt};
use tower_reauth::testing::{Check, Report, TestServer, conformance};
use tower_reauth::{
    BoxError, CredentialProvider, Credentials, Reauth, Session, SessionService, Token,
};

/// Any tower HTTP client.
pub(super) type Http = BoxCloneSyncService<Request<Full<Bytes>>, Response<Full<Bytes>>, BoxError>;
type Client = SessionService<Http>;

pub(super) const USER: &str = "ops";
pub(super) const PASSWORD: &str = "s3cret & more";
/// Where each server is.
pub(super) const BASE: &str = "https://server.test";

/// What is skipped where a login system has no way to change a password.
pub(super) const NO_PASSWORD_CHANGE: &[Check] = &[Check::PasswordChange, Check::DeadPasswordChange];

pub(super) fn credentials() -> Credentials {
    Credentials::new(USER, PASSWORD)
}

/// How one server answers.
pub(super) trait Answers: Default + Send + 'static {
    /// The path of what only a live token may read.
    const PROTECTED: &'static str;

    fn answer(&mut self, request: &Request<Bytes>) -> Response<Bytes>;

    /// A request for what only a live token may read.
    fn probe() -> Request<Full<Bytes>> {
        Request::get(format!("{BASE}{}", Self::PROTECTED))
            .body(Full::default())
            .unwrap()
    }

    /// Whether that is the answer to a live token.
    fn accepted(response: &Response<Bytes>) -> bool {
        response.status().is_success()
    }

    fn revoke_all(&mut self);
    fn live(&self) -> usize;
    fn logins(&self) -> usize;
    fn failed(&self) -> usize;
}

/// A server, and all who reach it.
#[derive(Default)]
pub(super) struct Server<A>(Arc<Mutex<A>>);

impl<A> Clone for Server<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A: Answers> Server<A> {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, A> {
        self.0.lock().unwrap()
    }

    /// A client that reaches it.
    pub(super) fn http(&self) -> Http {
        let server = self.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request| {
            server.clone().ask(request)
        }))
    }

    async fn ask(self, request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, BoxError> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        tokio::task::yield_now().await;
        let response = self.state().answer(&Request::from_parts(head, body));
        tokio::task::yield_now().await;
        Ok(response.map(Full::new))
    }

    /// The answer to a protected request through `client`, and what the layer
    /// says of it.
    pub(super) async fn read(&self, client: &Client) -> (Response<Bytes>, Option<Reauth>) {
        let response = client.clone().oneshot(A::probe()).await.unwrap();
        let reauth = response.extensions().get::<Reauth>().cloned();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (Response::from_parts(head, body), reauth)
    }

    /// A session with it, and a client that uses it.
    pub(super) fn session(&self, provider: impl CredentialProvider) -> (Session, Client) {
        let session = Session::new(provider);
        let client = ServiceBuilder::new()
            .layer(session.layer())
            .service(self.http());
        (session, client)
    }

    /// The contract, all of it but `skipped`.
    pub(super) async fn conforms(
        &self,
        provider: &impl CredentialProvider,
        skipped: &[Check],
    ) -> Report {
        let report = conformance(provider, self).await.unwrap();
        for (check, _) in report.outcomes() {
            assert_eq!(
                report.kept(check),
                !skipped.contains(&check),
                "{check:?}: {report}"
            );
        }
        report
    }

    /// Login, a revoked token and its replay, logout.
    pub(super) async fn serves(&self, provider: impl CredentialProvider) {
        let (session, client) = self.session(provider);
        let before = self.state().logins();
        assert!(A::accepted(&self.read(&client).await.0));
        assert!(A::accepted(&self.read(&client).await.0));
        assert_eq!(self.state().logins() - before, 1);

        self.state().revoke_all();
        let (response, reauth) = self.read(&client).await;
        assert!(A::accepted(&response), "{response:?} {reauth:?}");
        assert_eq!(self.state().logins() - before, 2);

        session.logout().await.unwrap();
        assert_eq!(self.state().live(), 0);
        assert_eq!(self.state().failed(), 0);
    }
}

impl<A: Answers> TestServer for Server<A> {
    async fn accepts(&self, token: &Token) -> bool {
        A::accepted(&self.response_to(token).await.unwrap())
    }

    async fn revoke_all(&self) -> bool {
        self.state().revoke_all();
        true
    }

    async fn response_to(&self, token: &Token) -> Option<Response<Bytes>> {
        let mut request = A::probe();
        token.apply_to(request.headers_mut());
        let (head, body) = self.clone().ask(request).await.unwrap().into_parts();
        Some(Response::from_parts(
            head,
            body.collect().await.unwrap().to_bytes(),
        ))
    }

    async fn live_sessions(&self) -> Option<usize> {
        Some(self.state().live())
    }

    async fn failed_logins(&self) -> Option<usize> {
        Some(self.state().failed())
    }
}

/// A JSON answer.
pub(super) fn json(status: u16, body: impl Display) -> Response<Bytes> {
    let response = Response::builder().status(status);
    let response = response.header(header::CONTENT_TYPE, "application/json");
    response.body(body.to_string().into()).unwrap()
}

/// An answer of plain text, or of none.
pub(super) fn text(status: u16, body: &'static str) -> Response<Bytes> {
    Response::builder()
        .status(status)
        .body(body.into())
        .unwrap()
}

/// A header of the request, or nothing.
pub(super) fn header_of<'a>(request: &'a Request<Bytes>, name: &str) -> &'a str {
    request
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

/// What `Authorization: Basic` says of the user.
pub(super) fn basic() -> String {
    format!(
        "Basic {}",
        base64::prelude::BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}"))
    )
}

/// The request's form.
pub(super) fn form_of(request: &Request<Bytes>) -> HashMap<String, String> {
    url::form_urlencoded::parse(request.body())
        .into_owned()
        .collect()
}

/// The request's JSON.
pub(super) fn json_of(request: &Request<Bytes>) -> serde_json::Value {
    serde_json::from_slice(request.body()).unwrap_or_default()
}

/// Method and path.
pub(super) fn target(request: &Request<Bytes>) -> (&Method, &str) {
    (request.method(), request.uri().path())
}
