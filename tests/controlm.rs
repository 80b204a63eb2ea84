//! Control-M's session service: what goes over the wire, and what becomes of
//! each answer that may come back.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt::{Debug, Write as _};
use std::future::{Future, Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body::{Body, Frame};
use http_body_util::Full;
use http_body_util::combinators::BoxBody;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_reauth::client::{self, HttpsClient};
use tower_reauth::controlm::model::{LoginCredentials, PasswordsObject};
use tower_reauth::controlm::{ControlM, Error, ErrorKind, MAX_ANSWER, SessionApi, Unreadable};
use tower_reauth::{
    BoxError, CredentialProvider, Credentials, InvalidOrigin, LoginContext, LogoutContext,
    LogoutReason, PasswordChange, PasswordContext, ProviderError, ProviderErrorKind, Reason,
    Session, Token,
};

const BASE: &str = "https://ctm.example.com:8443/automation-api";
const PASSWORD: &str = "canary-p\"\\<&>\u{e9}w";
const NEW_PASSWORD: &str = "canary-new-p\"w";
const TOKEN: &str = "A3F5BB6ECANARY_0D2C";
const GATEWAY_KEY: &str = "canary-gateway-key";
const CONTENT_TYPE: &str = "text/canary-gateway-key; boundary=canary-gateway-key";
const DEAD: &str = r#"{"errors":[{"message":"Session token is invalid or expired"}]}"#;

// What the service sends and what it is sent.

/// A transport that gives each request the same answer and remembers the requests.
#[derive(Clone)]
struct Scripted {
    answer: Arc<dyn Fn() -> Result<Response<AnyBody>, BoxError> + Send + Sync>,
    requests: Arc<Mutex<Vec<Request<Full<Bytes>>>>>,
}

type AnyBody = BoxBody<Bytes, BoxError>;

impl Scripted {
    fn new(
        answer: impl Fn() -> Result<Response<AnyBody>, BoxError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            answer: Arc::new(answer),
            requests: Arc::default(),
        }
    }

    fn answering(status: u16, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self::new(move || Ok(response(status, body.clone())))
    }

    fn answering_as(content_type: &'static str, status: u16, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self::new(move || {
            let mut response = response(status, body.clone());
            let content_type = HeaderValue::from_static(content_type);
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, content_type);
            Ok(response)
        })
    }

    fn sent(&self) -> Vec<Request<Full<Bytes>>> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

impl Service<Request<Full<Bytes>>> for Scripted {
    type Response = Response<AnyBody>;
    type Error = BoxError;
    type Future = Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        self.requests.lock().unwrap().push(request);
        ready((self.answer)())
    }
}

fn response(status: u16, body: impl Into<Bytes>) -> Response<AnyBody> {
    Response::builder()
        .status(status)
        .body(any(Full::new(body.into())))
        .unwrap()
}

fn any<B>(body: B) -> AnyBody
where
    B: Body<Data = Bytes> + Send + Sync + 'static,
    B::Error: Into<BoxError>,
{
    use http_body_util::BodyExt;
    body.map_err(Into::into).boxed()
}

/// A body of endless chunks, or of one chunk and an error.
struct Chunks {
    chunk: Bytes,
    read: Arc<AtomicUsize>,
    breaks_off: bool,
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let before = self.read.fetch_add(1, Ordering::Relaxed);
        assert!(before < 1000, "read without end");
        Poll::Ready(Some(if self.breaks_off && before == 1 {
            Err(io::ErrorKind::UnexpectedEof.into())
        } else {
            Ok(Frame::data(self.chunk.clone()))
        }))
    }
}

fn base() -> Uri {
    BASE.parse().unwrap()
}

fn credentials() -> Credentials {
    Credentials::new("emuser", PASSWORD)
}

fn provider(http: Scripted) -> ControlM<Scripted, Full<Bytes>> {
    ControlM::new(http, base(), credentials())
        .unwrap()
        .extra_header(
            HeaderName::from_static("x-gateway-key"),
            HeaderValue::from_static(GATEWAY_KEY),
        )
}

fn api(http: Scripted) -> SessionApi<Scripted, Full<Bytes>> {
    SessionApi::new(http, base()).unwrap()
}

fn initial() -> LoginContext {
    LoginContext::new(Reason::Initial).with_credentials(credentials())
}

fn change() -> PasswordContext {
    PasswordContext::new(NEW_PASSWORD)
        .with_credentials(&credentials())
        .with_token(token())
}

fn passwords() -> PasswordsObject {
    PasswordsObject {
        user: None,
        current_password: PASSWORD.into(),
        new_password: NEW_PASSWORD.into(),
    }
}

fn token() -> Token {
    Token::bearer(TOKEN).unwrap()
}

/// What the session service says of a failed call.
fn cause(error: &ProviderError) -> &Error {
    error.source().unwrap().downcast_ref().unwrap()
}

/// An error and its sources in every way that they can be shown.
fn shown(error: &(dyn StdError + 'static)) -> String {
    let mut shown = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        write!(shown, "{error}\n{error:?}\n{error:#?}\n").unwrap();
        next = error.source();
    }
    shown
}

#[track_caller]
fn assert_no_secret(shown: &str) {
    for secret in [
        PASSWORD,
        NEW_PASSWORD,
        TOKEN,
        GATEWAY_KEY,
        "canary",
        "CANARY",
    ] {
        assert!(!shown.contains(secret), "{secret} is in: {shown}");
    }
}

// A server that speaks bytes.

/// Answers each connection with one of `answers` and yields the requests, byte for byte.
async fn serve(answers: Vec<String>) -> (Uri, impl Future<Output = Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = tokio::spawn(async move {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut connection, _) = listener.accept().await.unwrap();
            requests.push(read_request(&mut connection).await);
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
        requests
    });
    let base = format!("http://{address}/prefix/automation-api/");
    (base.parse().unwrap(), async { requests.await.unwrap() })
}

fn ok(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
}

async fn read_request(connection: &mut TcpStream) -> String {
    let mut request = String::new();
    loop {
        if let Some((head, body)) = request.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return request;
            }
        }
        let mut chunk = [0; 4096];
        let read = connection.read(&mut chunk).await.unwrap();
        assert_ne!(read, 0, "the request ends in: {request}");
        request.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
    }
}

fn hyper_client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// The request's line and headers, sorted, and its body.
fn parts(request: &str) -> (&str, Vec<&str>, &str) {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let (line, headers) = head.split_once("\r\n").unwrap();
    let mut headers: Vec<_> = headers
        .lines()
        .filter(|header| !header.starts_with("host: 127.0.0.1:"))
        .collect();
    headers.sort_unstable();
    (line, headers, body)
}

#[tokio::test]
async fn each_call_is_on_the_wire_as_documented() {
    let (base, requests) = serve(vec![
        ok("{\n  \"username\": \"emuser\",\n  \"token\": \"A3F5\",\n  \"version\": \"9.19.120\"\n}"),
        ok(r#"{"message":"changed"}"#),
        "HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n".into(),
    ])
    .await;
    let provider = ControlM::new(
        hyper_client(),
        base,
        Credentials::new("em\"user", "Secret:p\\w"),
    )
    .unwrap();
    let login = LoginContext::new(Reason::Rejected)
        .with_credentials(Credentials::new("em\"user", "Secret:p\\w"))
        .with_previous(Token::bearer("stale").unwrap());

    let token = provider.login(login).await.unwrap();
    provider
        .change_password(
            PasswordContext::new("new")
                .with_token(token.clone())
                .with_credentials(&Credentials::new("em\"user", "old")),
        )
        .await
        .unwrap();
    provider
        .logout(LogoutContext::new(token, LogoutReason::LoggedOut))
        .await
        .unwrap();

    let requests = requests.await;
    let json = ["accept: application/json", "content-type: application/json"];
    assert_eq!(
        parts(&requests[0]),
        (
            "POST /prefix/automation-api/session/login HTTP/1.1",
            vec![json[0], "content-length: 48", json[1]],
            r#"{"username":"em\"user","password":"Secret:p\\w"}"#
        )
    );
    assert_eq!(
        parts(&requests[1]),
        (
            "POST /prefix/automation-api/session/user/password/update HTTP/1.1",
            vec![
                json[0],
                "authorization: Bearer A3F5",
                "content-length: 45",
                json[1]
            ],
            r#"{"currentPassword":"old","newPassword":"new"}"#
        )
    );
    assert_eq!(
        parts(&requests[2]),
        (
            "POST /prefix/automation-api/session/logout HTTP/1.1",
            vec![
                json[0],
                "authorization: Bearer A3F5",
                "content-length: 0",
                json[1]
            ],
            ""
        )
    );
}

#[tokio::test]
async fn a_gateways_headers_and_both_kinds_of_token_are_on_each_request() {
    let (base, requests) = serve(vec![ok(r#"{"token":"A3F5"}"#), ok("")]).await;
    let provider = ControlM::new(hyper_client(), base, credentials())
        .unwrap()
        .extra_header(header::HOST, HeaderValue::from_static("ctm.internal"))
        .extra_header(
            HeaderName::from_static("x-api-key"),
            HeaderValue::from_static("3f9a"),
        );

    let token = provider.login(initial()).await.unwrap();
    provider
        .logout(LogoutContext::new(token.clone(), LogoutReason::LoggedOut))
        .await
        .unwrap();

    let requests = requests.await;
    for request in &requests {
        let (_, headers, _) = parts(request);
        assert!(headers.contains(&"host: ctm.internal"), "{headers:?}");
        assert!(headers.contains(&"x-api-key: 3f9a"), "{headers:?}");
    }
    assert!(!requests[0].contains("authorization"));
    assert!(requests[1].contains("authorization: Bearer A3F5\r\n"));

    let mut others = http::HeaderMap::new();
    token.apply_to(&mut others);
    assert_eq!(others[header::AUTHORIZATION], "Bearer A3F5");
    assert_eq!(others["x-api-key"], "3f9a");
    assert_eq!(others[header::HOST], "ctm.internal");
}

#[tokio::test]
async fn an_extra_header_replaces_the_content_type_of_each_call() {
    let http = Scripted::answering(200, r#"{"token":"A3F5"}"#);
    let utf_8 = "application/json; charset=utf-8";
    let provider = ControlM::new(http.clone(), base(), credentials())
        .unwrap()
        .extra_header(header::CONTENT_TYPE, HeaderValue::from_static(utf_8));
    let token = provider.login(initial()).await.unwrap();
    provider
        .logout(LogoutContext::new(token, LogoutReason::LoggedOut))
        .await
        .unwrap();
    let requests = http.sent();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert_eq!(request.headers()[header::CONTENT_TYPE], utf_8);
        assert_eq!(request.headers()[header::ACCEPT], "application/json");
    }
}

#[tokio::test]
async fn an_extra_header_that_no_token_can_carry_fails_before_the_login() {
    for value in [&b""[..], b"\xff"] {
        let http = Scripted::answering(200, r#"{"token":"A3F5"}"#);
        let provider = ControlM::new(http.clone(), base(), credentials())
            .unwrap()
            .extra_header(
                HeaderName::from_static("x-odd"),
                HeaderValue::from_bytes(value).unwrap(),
            );
        let error = provider.login(initial()).await.unwrap_err();
        assert_eq!(error.kind(), ProviderErrorKind::Unsupported);
        assert!(shown(&error).contains("x-odd"));
        assert!(http.sent().is_empty());
    }
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_a_password_change_uncertain() {
    for (answer, kind) in [
        ("", ErrorKind::NoAnswer),
        ("HTTP/1.1 200 OK\r\nconte", ErrorKind::NoAnswer),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"message\":",
            ErrorKind::Unreadable(Unreadable::Truncated),
        ),
    ] {
        let (base, requests) = serve(vec![answer.to_owned()]).await;
        let provider = ControlM::new(hyper_client(), base, credentials()).unwrap();
        let error = provider.change_password(change()).await.unwrap_err();
        assert_eq!(cause(&error).kind(), kind);
        assert_eq!(error.kind(), ProviderErrorKind::Uncertain);
        assert!(cause(&error).source().is_some());
        assert_no_secret(&shown(&error));
        requests.await;
    }
}

#[tokio::test]
async fn a_refused_connection_is_known_to_have_changed_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let provider = ControlM::new(hyper_client(), base.parse().unwrap(), credentials()).unwrap();

    let login = provider.login(initial()).await.unwrap_err();
    let change = provider.change_password(change()).await.unwrap_err();
    let logout = provider
        .logout(LogoutContext::new(token(), LogoutReason::LoggedOut))
        .await
        .unwrap_err();

    for error in [login, change, logout] {
        assert_eq!(error.kind(), ProviderErrorKind::NotSent);
        assert_eq!(cause(&error).kind(), ErrorKind::NotSent);
        assert_no_secret(&shown(&error));
    }
}

// What becomes of an answer.

#[tokio::test]
async fn a_login_yields_a_token_that_lives_for_thirty_minutes_by_default() {
    let answer = format!(r#"{{"username":"emuser","token":"{TOKEN}","version":"9.19.120"}}"#);
    let http = Scripted::answering(200, answer);

    let token = provider(http.clone()).login(initial()).await.unwrap();
    let shown = format!("{token:?}");
    assert!(shown.contains("1800s"), "{shown}");
    assert_no_secret(&shown);

    let hour = provider(http).lifetime(Duration::from_secs(3600));
    let token = hour.login(initial()).await.unwrap();
    assert!(format!("{token:?}").contains("3600s"));
}

#[tokio::test]
async fn a_token_may_live_for_as_long_as_it_is_used() {
    let half_an_hour = Duration::from_secs(1800);
    let http = Scripted::answering(200, r#"{"token":"A3F5"}"#);
    let lives = async |provider: ControlM<_, _>| {
        let token = provider.login(initial()).await.unwrap();
        (token.lifetime(), token.idle_lifetime())
    };
    let absolute = provider(http.clone());
    assert_eq!(lives(absolute).await, (Some(half_an_hour), None));
    let both = provider(http.clone()).idle_lifetime(half_an_hour);
    let expected = (Some(half_an_hour), Some(half_an_hour));
    assert_eq!(lives(both).await, expected);
    let idle = provider(http).lifetime(None).idle_lifetime(half_an_hour);
    assert_eq!(lives(idle).await, (None, Some(half_an_hour)));
}

#[tokio::test]
async fn header_and_prefix_of_the_token_can_be_chosen() {
    let http = Scripted::answering(200, r#"{"token":"A3F5"}"#);
    let provider = ControlM::new(http.clone(), base(), credentials())
        .unwrap()
        .header(HeaderName::from_static("x-api-key"))
        .prefix("");
    let token = provider.login(initial()).await.unwrap();
    provider
        .logout(LogoutContext::new(token, LogoutReason::LoggedOut))
        .await
        .unwrap();
    let requests = http.sent();
    assert_eq!(requests[1].headers()["x-api-key"], "A3F5");
    assert!(requests[1].headers()["x-api-key"].is_sensitive());
    assert!(!requests[1].headers().contains_key(header::AUTHORIZATION));
}

#[tokio::test]
async fn the_typed_calls_say_what_the_server_said_without_the_token() {
    let answer = format!(r#"{{"username":"emuser","token":"{TOKEN}","version":"9.19.120"}}"#);
    let credentials = LoginCredentials::from(&credentials());
    let result = api(Scripted::answering(200, answer))
        .login(&credentials)
        .await
        .unwrap();
    assert_eq!(result.version.as_deref(), Some("9.19.120"));
    let token = result.token.unwrap();
    assert_eq!(token.expose_secret(), TOKEN);

    // Whatever it says may hold what it was sent, or gives.
    let echo = serde_json::json!({
        "username": format!("{PASSWORD}!"),
        "token": TOKEN,
        "version": format!("v{TOKEN}"),
    });
    let echoed = api(Scripted::answering(200, echo.to_string()))
        .login(&credentials)
        .await
        .unwrap();
    assert_eq!(echoed.username.as_deref(), Some("[redacted]!"));
    assert_eq!(echoed.version.as_deref(), Some("v[redacted]"));
    // A name that is the password, too, is still the user's.
    let namesake = LoginCredentials::from(&Credentials::new("emuser", "emuser"));
    let named = api(Scripted::answering(
        200,
        r#"{"username":"emuser","token":"A3F5"}"#,
    ))
    .login(&namesake)
    .await
    .unwrap();
    assert_eq!(named.username.as_deref(), Some("emuser"));

    let echo = format!(r#"{{"message":"Successfully logged out from session {TOKEN}"}}"#);
    let http = Scripted::answering(200, echo);
    let said = api(http.clone()).logout(&token).await.unwrap();
    assert_eq!(
        said.message.as_deref(),
        Some("Successfully logged out from session [redacted]")
    );
    assert!(http.sent()[0].headers()[header::AUTHORIZATION].is_sensitive());

    // Whatever it stands behind on its way there.
    for prefix in ["", "Token=", "Token token="] {
        let api = api(http.clone()).prefix(prefix);
        let said = api.logout(&token).await.unwrap();
        assert_eq!(
            said.message.as_deref(),
            Some("Successfully logged out from session [redacted]"),
            "{prefix:?}"
        );
    }

    let said = api(Scripted::answering(200, ""))
        .update_my_password(&token, &passwords())
        .await
        .unwrap();
    assert_eq!(said.message, None);
}

#[tokio::test]
async fn a_token_that_no_header_can_hold_is_never_sent() {
    let http = Scripted::answering(200, "{}");
    let error = api(http.clone())
        .logout(&SecretString::from("canary\r\n"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSent);
    assert_no_secret(&shown(&error));
    assert!(http.sent().is_empty());
}

#[tokio::test]
async fn each_odd_answer_to_a_login_is_a_typed_error_that_quotes_nothing_of_it() {
    use Unreadable::{InvalidToken, NoToken, NotJson, Truncated};
    let (t, p) = (TOKEN, PASSWORD);
    for (body, what) in [
        (String::new(), NotJson),
        (" \r\n".into(), NotJson),
        (format!("logged in as {t}"), NotJson),
        (format!("\"{t}\""), NotJson),
        (format!("<html><title>{t}</title>{p}</html>"), NotJson),
        (format!(r#"{{"token":["{t}"]}}"#), NotJson),
        // Not an object, though its values are in the order of the fields.
        (format!(r#"["emuser","{t}","9.21"]"#), NotJson),
        (format!(r#"{{"token":"{t}"}} {t}"#), NotJson),
        (format!(r#"{{"version":7,"token":"{t}"}}"#), NotJson),
        (format!(r#"{{"username":"emuser","token":"{t}"#), Truncated),
        (format!(r#"{{"token":"{t}","#), Truncated),
        ("{}".into(), NoToken),
        (r#"{"token":null}"#.into(), NoToken),
        (r#"{"token":""}"#.into(), NoToken),
        (format!(r#"{{"Token":"{t}"}}"#), NoToken),
        (format!(r#"{{"message":"{t}"}}"#), NoToken),
        (format!(r#"{{"token":"{t}\r\nx: y"}}"#), InvalidToken),
        (format!(r#"{{"token":"{t}\u0000"}}"#), InvalidToken),
    ] {
        let http = Scripted::answering(200, body.clone());
        let error = provider(http).login(initial()).await.unwrap_err();
        assert_eq!(error.kind(), ProviderErrorKind::Protocol, "{body}");
        assert_eq!(cause(&error).kind(), ErrorKind::Unreadable(what), "{body}");
        assert_eq!(cause(&error).status(), Some(StatusCode::OK));
        assert_no_secret(&shown(&error));
    }
}

#[tokio::test]
async fn a_login_answer_is_read_behind_a_byte_order_mark() {
    let http = Scripted::answering(200, format!("\u{feff}{{\"token\":\"{TOKEN}\"}}"));
    let token = provider(http).login(initial()).await.unwrap();
    assert_eq!(token.secret().unwrap().expose_secret(), TOKEN);
}

#[tokio::test]
async fn an_error_list_in_place_of_a_token_is_told() {
    let http = Scripted::answering(200, r#"{"errors":[{"message":"too many sessions"}]}"#);
    let error = provider(http).login(initial()).await.unwrap_err();
    assert_eq!(
        cause(&error).kind(),
        ErrorKind::Unreadable(Unreadable::NoToken)
    );
    assert_eq!(cause(&error).text(), Some("too many sessions"));
}

#[tokio::test]
async fn an_answer_without_end_is_read_up_to_the_bound_and_dropped() {
    for status in [200, 502] {
        let read = Arc::new(AtomicUsize::new(0));
        let counter = read.clone();
        let http = Scripted::new(move || {
            let body = Chunks {
                chunk: Bytes::from(vec![b'x'; 1024]),
                read: counter.clone(),
                breaks_off: false,
            };
            Ok(Response::builder().status(status).body(any(body)).unwrap())
        });
        let error = provider(http.clone()).login(initial()).await.unwrap_err();
        assert_eq!(read.load(Ordering::Relaxed), MAX_ANSWER / 1024 + 1);
        // The script holds the last copy but ours: the body is gone.
        drop(http);
        assert_eq!(Arc::strong_count(&read), 1);
        let kind = cause(&error).kind();
        if status == 200 {
            assert_eq!(kind, ErrorKind::Unreadable(Unreadable::TooLong));
            assert_eq!(error.kind(), ProviderErrorKind::Protocol);
        } else {
            assert_eq!(kind, ErrorKind::Status(StatusCode::BAD_GATEWAY));
            assert_eq!(error.kind(), ProviderErrorKind::Unavailable);
            assert!(cause(&error).text().unwrap().starts_with("xxx"));
        }
    }
}

#[tokio::test]
async fn twenty_megabytes_in_one_piece_are_too_long_and_as_long_as_allowed_is_not() {
    let http = Scripted::answering(200, vec![b' '; 20 << 20]);
    let error = provider(http).login(initial()).await.unwrap_err();
    assert_eq!(
        cause(&error).kind(),
        ErrorKind::Unreadable(Unreadable::TooLong)
    );

    let mut fits = String::from(r#"{"token":"A3F5"}"#);
    fits.push_str(&" ".repeat(MAX_ANSWER - fits.len()));
    let http = Scripted::answering(200, fits);
    provider(http).login(initial()).await.unwrap();
}

#[tokio::test]
async fn an_error_whose_explanation_breaks_off_keeps_status_and_text() {
    let http = Scripted::new(|| {
        let body = Chunks {
            chunk: Bytes::from(format!("no route for {}", &PASSWORD[..9])),
            read: Arc::default(),
            breaks_off: true,
        };
        Ok(Response::builder().status(404).body(any(body)).unwrap())
    });
    let error = provider(http).login(initial()).await.unwrap_err();
    assert_eq!(
        cause(&error).kind(),
        ErrorKind::Status(StatusCode::NOT_FOUND)
    );
    assert_eq!(cause(&error).text(), Some("no route for"));
}

#[tokio::test]
async fn each_status_of_a_login_is_sorted() {
    use ProviderErrorKind::{Protocol, Refused, Unavailable};
    let wrong = r#"{"errors":[{"message":"Failed to login: Incorrect username or password"}]}"#;
    for (status, body, kind) in [
        (401, wrong, Refused),
        (401, "", Refused),
        (401, "<html>", Refused),
        (401, DEAD, Refused),
        (500, wrong, Refused),
        (200, wrong, Refused),
        (500, "", Unavailable),
        (500, DEAD, Unavailable),
        (501, "", Unavailable),
        (
            502,
            "<html><title>502 Bad Gateway</title></html>",
            Unavailable,
        ),
        (503, "", Unavailable),
        (504, "upstream timed out", Unavailable),
        (408, "", Unavailable),
        (429, "", Unavailable),
        (302, "", Protocol),
        (400, "", Protocol),
        (403, r#"{"message":"Forbidden"}"#, Protocol),
        (
            404,
            r#"{"message":"no Route matched with those values"}"#,
            Protocol,
        ),
        (405, "", Protocol),
    ] {
        let http = Scripted::answering(status, body);
        let error = provider(http.clone()).login(initial()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status} {body}");
        assert_eq!(cause(&error).status().unwrap().as_u16(), status);
        assert!(!cause(&error).token_is_dead());
        assert_eq!(http.sent().len(), 1, "a login is sent once");
        let expected = (kind == Protocol).then_some(Duration::from_secs(60));
        assert_eq!(error.retry_after(), expected, "{status} {body}");
    }
}

#[tokio::test]
async fn a_locked_account_and_an_expired_password_are_told_by_status_or_text() {
    use ProviderErrorKind::{Locked, PasswordExpired, Refused};
    let locked = r#"{"errors":[{"message":"Failed to login: User account is locked"}]}"#;
    let expired = r#"{"errors":[{"message":"Failed to login: Password has expired"}]}"#;
    let login = async |provider: ControlM<Scripted, Full<Bytes>>, password: &str| {
        let credentials = Credentials::new("emuser", password);
        let context = initial().with_credentials(credentials);
        provider.login(context).await.unwrap_err().kind()
    };
    let with = |status, body| provider(Scripted::answering(status, body));
    assert_eq!(login(with(423, ""), "s3cret").await, Locked);
    // Their texts are not documented.
    assert_eq!(login(with(401, locked), "s3cret").await, Refused);
    assert_eq!(login(with(401, expired), "s3cret").await, Refused);
    // A password may be a word of the text.
    for password in ["s3cret", "locked", "expired"] {
        for status in [401, 400, 500] {
            let locked = with(status, locked).locked_text("account is locked");
            assert_eq!(login(locked, password).await, Locked, "{status} {password}");
            let expired = with(status, expired).password_expired_text("has expired");
            assert_eq!(
                login(expired, password).await,
                PasswordExpired,
                "{status} {password}"
            );
        }
    }
    let other = with(401, locked)
        .locked_text("frozen")
        .password_expired_text("old");
    assert_eq!(login(other, "s3cret").await, Refused);
}

#[tokio::test]
async fn a_wrong_password_is_refused_though_it_is_a_word_of_the_refusal() {
    let wrong = r#"{"errors":[{"message":"Failed to login: Incorrect username or password"}]}"#;
    for password in ["password", "user", "Incorrect username or password"] {
        for status in [200, 400, 500] {
            let http = Scripted::answering(status, wrong);
            let credentials = Credentials::new("emuser", password);
            let provider = ControlM::new(http, base(), credentials.clone()).unwrap();
            let login = initial().with_credentials(credentials);
            let error = provider.login(login).await.unwrap_err();
            assert_eq!(
                error.kind(),
                ProviderErrorKind::Refused,
                "{status} {password}"
            );
            assert!(cause(&error).text().unwrap().contains("[redacted]"));
        }
    }
}

#[tokio::test]
async fn a_page_is_reported_by_status_and_content_type_and_refuses_no_password() {
    for page in [
        "\n<script>no('Incorrect username or password')</script><p>Not found",
        "<html><title>Incorrect username or password</title></html>",
    ] {
        for (status, kind, said) in [
            (
                502,
                ProviderErrorKind::Unavailable,
                "the login failed: 502 Bad Gateway (text/html)",
            ),
            (
                403,
                ProviderErrorKind::Protocol,
                "the login failed: 403 Forbidden (text/html)",
            ),
            (
                200,
                ProviderErrorKind::Protocol,
                "the answer to the login is not the expected JSON: 200 OK (text/html)",
            ),
        ] {
            let http = Scripted::answering_as("text/html; charset=utf-8", status, page);
            let error = provider(http).login(initial()).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{status} {page}");
            assert_eq!(cause(&error).text(), None);
            assert_eq!(cause(&error).to_string(), said);
        }
    }
}

#[tokio::test]
async fn each_status_of_a_logout_is_sorted() {
    use ProviderErrorKind::{Protocol, TokenRejected, Unavailable};
    for (status, body, kind) in [
        (401, DEAD, TokenRejected),
        (401, "", TokenRejected),
        (500, DEAD, TokenRejected),
        (500, r#"{"errors":[{"message":"other"}]}"#, Unavailable),
        // A page is not read: its scripts may contain the text.
        (
            500,
            "<script>var dead = 'Session token is invalid or expired'</script>",
            Unavailable,
        ),
        (503, DEAD, Unavailable),
        (403, DEAD, Protocol),
        (404, "", Protocol),
        (200, "<html>Sign in</html>", Protocol),
    ] {
        let http = Scripted::answering(status, body);
        let error = provider(http)
            .logout(LogoutContext::new(token(), LogoutReason::LoggedOut))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{status} {body}");
        assert_eq!(cause(&error).token_is_dead(), kind == TokenRejected);
    }
    for (status, body) in [
        (200, r#"{"message":"bye"}"#),
        (200, "{}"),
        (200, ""),
        (204, ""),
    ] {
        let http = Scripted::answering(status, body);
        provider(http)
            .logout(LogoutContext::new(token(), LogoutReason::LoggedOut))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn each_status_of_a_password_change_is_sorted() {
    use ProviderErrorKind::{Refused, TokenRejected, Unavailable, Uncertain};
    let listed = r#"{"errors":[{"message":"too short"}]}"#;
    for (status, body, kind) in [
        (401, DEAD, TokenRejected),
        (500, DEAD, TokenRejected),
        (400, listed, Refused),
        (403, "", Refused),
        (404, listed, Refused),
        (500, listed, Refused),
        (429, "", Unavailable),
        (500, "<html>", Uncertain),
        (500, "{}", Uncertain),
        (502, listed, Uncertain),
        (503, "", Uncertain),
        (504, "", Uncertain),
        (408, "", Uncertain),
        (303, "", Uncertain),
        (200, "<html>Sign in</html>", Uncertain),
        (200, r#"{"message":"cha"#, Uncertain),
    ] {
        let http = Scripted::answering(status, body);
        let error = provider(http.clone())
            .change_password(change())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{status} {body}");
        assert_eq!(http.sent().len(), 1, "a change is sent once");
    }
    for body in [r#"{"message":"changed"}"#, "{}", ""] {
        let http = Scripted::answering(200, body);
        provider(http).change_password(change()).await.unwrap();
    }
}

#[tokio::test]
async fn a_password_change_asks_for_the_current_password_before_anything_is_sent() {
    let http = Scripted::answering(200, "{}");
    let error = provider(http.clone())
        .change_password(PasswordContext::new(NEW_PASSWORD).with_token(token()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ProviderErrorKind::Unsupported);
    assert!(shown(&error).contains("PasswordChange::current"));
    assert!(http.sent().is_empty());
}

#[tokio::test]
async fn an_error_has_status_content_type_list_message_and_delay() {
    let http = Scripted::new(|| {
        let body = r#"{"errors":[{"message":"locked","id":"E1","line":3},{"message":"again"}]}"#;
        let mut response = response(401, body);
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("120"));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        Ok(response)
    });
    let error = provider(http).login(initial()).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(120)));
    let cause = cause(&error);
    assert_eq!(cause.status(), Some(StatusCode::UNAUTHORIZED));
    assert_eq!(cause.errors().len(), 2);
    assert_eq!(cause.errors()[0].id.as_deref(), Some("E1"));
    assert_eq!(cause.text(), Some("locked"));
    assert_eq!(
        cause.to_string(),
        "the login failed: 401 Unauthorized (application/json): locked"
    );
}

// The transport.

/// Ready only once for each call, as `tower`'s limits are; a clone is not ready.
struct MustBeReady(bool, Scripted);

impl Clone for MustBeReady {
    fn clone(&self) -> Self {
        Self(false, self.1.clone())
    }
}

impl Service<Request<Full<Bytes>>> for MustBeReady {
    type Response = Response<AnyBody>;
    type Error = BoxError;
    type Future = Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0 = true;
        self.1.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        assert!(std::mem::take(&mut self.0), "called without being ready");
        self.1.call(request)
    }
}

#[tokio::test]
async fn the_service_that_is_called_is_the_one_that_was_ready() {
    let http = MustBeReady(false, Scripted::answering(200, r#"{"token":"A3F5"}"#));
    let provider = ControlM::new(http, base(), credentials()).unwrap();
    let token = provider.login(initial()).await.unwrap();
    provider
        .logout(LogoutContext::new(token, LogoutReason::LoggedOut))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_transport_that_does_not_get_ready_has_sent_nothing() {
    #[derive(Clone)]
    struct Broken;

    impl Service<Request<Full<Bytes>>> for Broken {
        type Response = Response<Full<Bytes>>;
        type Error = &'static str;
        type Future = Ready<Result<Self::Response, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
            Poll::Ready(Err("closed"))
        }

        fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
            unreachable!("not ready")
        }
    }

    let provider = ControlM::new(Broken, base(), credentials()).unwrap();
    let error = provider.change_password(change()).await.unwrap_err();
    assert_eq!(error.kind(), ProviderErrorKind::NotSent);
    assert_eq!(cause(&error).kind(), ErrorKind::NotSent);
    assert!(shown(&error).contains("closed"));
}

#[tokio::test]
async fn any_other_failure_of_the_transport_is_no_answer_and_keeps_its_source() {
    let http = Scripted::new(|| Err(io::Error::from(io::ErrorKind::ConnectionReset).into()));
    let error = provider(http.clone()).login(initial()).await.unwrap_err();
    assert_eq!(error.kind(), ProviderErrorKind::Unavailable);
    assert_eq!(cause(&error).kind(), ErrorKind::NoAnswer);
    let source = cause(&error).source().unwrap();
    assert!(source.downcast_ref::<io::Error>().is_some());

    let error = provider(http).change_password(change()).await.unwrap_err();
    assert_eq!(error.kind(), ProviderErrorKind::Uncertain);
}

#[test]
fn a_base_must_be_an_address_that_paths_can_follow() {
    for (base, error) in [
        ("/automation-api", InvalidOrigin::NotAbsolute),
        ("ctm.example.com:8443", InvalidOrigin::NotAbsolute),
        ("ws://ctm.example.com", InvalidOrigin::Scheme),
        ("http://ctm.example.com:99999", InvalidOrigin::Port),
        ("https://ctm.example.com:99999", InvalidOrigin::Port),
        (
            "https://emuser:canary@ctm.example.com",
            InvalidOrigin::Userinfo,
        ),
        (
            "https://ctm.example.com/api?key=canary",
            InvalidOrigin::Query,
        ),
    ] {
        let http = Scripted::answering(200, "");
        let found = SessionApi::new(http, base.parse().unwrap()).unwrap_err();
        assert_eq!(found, error, "{base}");
        assert_no_secret(&shown(&found));
    }
    let long = format!("https://ctm.example.com/{}", "x".repeat(65_510));
    let http = Scripted::answering(200, "");
    assert_eq!(
        SessionApi::new(http, long.parse().unwrap()).unwrap_err(),
        InvalidOrigin::TooLong
    );
}

#[tokio::test]
async fn a_slash_at_the_end_of_the_base_makes_no_difference() {
    for (base, login) in [
        ("https://ctm.example.com", "/session/login"),
        ("https://ctm.example.com/", "/session/login"),
        ("https://ctm.example.com/a/b", "/a/b/session/login"),
        ("https://ctm.example.com/a/b/", "/a/b/session/login"),
    ] {
        let http = Scripted::answering(200, r#"{"token":"A3F5"}"#);
        ControlM::new(http.clone(), base.parse().unwrap(), credentials())
            .unwrap()
            .login(initial())
            .await
            .unwrap();
        let uri = http.sent()[0].uri().clone();
        assert_eq!(uri.path(), login, "{base}");
    }
}

#[tokio::test]
async fn no_password_goes_over_plain_http_to_another_machine_unless_allowed() {
    let plain = || {
        "http://ctm.example.com/automation-api"
            .parse::<Uri>()
            .unwrap()
    };
    let http = Scripted::answering(200, r#"{"token":"A3F5"}"#);
    let provider = ControlM::new(http.clone(), plain(), credentials()).unwrap();
    let error = provider.login(initial()).await.unwrap_err();
    assert_eq!(cause(&error).kind(), ErrorKind::PlainHttp);
    assert_eq!(error.kind(), ProviderErrorKind::Unsupported);
    assert!(http.sent().is_empty());

    provider.allow_plain_http().login(initial()).await.unwrap();

    let local = "http://localhost:8080/automation-api".parse().unwrap();
    let provider = ControlM::new(http, local, credentials()).unwrap();
    provider.login(initial()).await.unwrap();
}

// Types.

#[tokio::test]
async fn one_client_serves_the_provider_and_the_user_without_a_turbofish() -> Result<(), BoxError> {
    let (base, requests) = serve(vec![
        ok(r#"{"token":"A3F5"}"#),
        ok("[]"),
        ok(r#"{"token":"A3F5"}"#),
    ])
    .await;
    let servers = format!("{base}config/servers");

    let http = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
    let provider = ControlM::new(http.clone(), base.to_string().parse()?, credentials())?;
    provider.login(initial()).await?;
    let request = Request::get(servers).body(Full::<Bytes>::default())?;
    assert_eq!(http.oneshot(request).await?.status(), 200);

    let http = Client::builder(TokioExecutor::new()).build_http::<axum::body::Body>();
    let provider = ControlM::new(http, base, credentials())?;
    provider.login(initial()).await?;

    assert_eq!(requests.await.len(), 3);
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_no_from_bytes_is_made_by_a_function() {
    struct Own(Bytes);

    let http = service_fn(|request: Request<Own>| {
        assert!(request.into_body().0.starts_with(b"{\"username\""));
        ready(Ok::<_, Infallible>(response(200, r#"{"token":"A3F5"}"#)))
    });
    let provider = ControlM::with_body(http, base(), credentials(), Own).unwrap();
    provider.login(initial()).await.unwrap();
}

#[test]
fn everything_can_be_shared_and_moved() {
    fn shared<T: Clone + Debug + Send + Sync + Unpin + 'static>() {}
    fn sent<T: Send>(_: T) {}

    shared::<ControlM<Scripted, Full<Bytes>>>();
    shared::<SessionApi<Scripted, Full<Bytes>>>();
    shared::<Error>();
    shared::<InvalidOrigin>();
    assert!(size_of::<Error>() <= size_of::<usize>());

    let http = Scripted::answering(200, "");
    let provider = provider(http.clone());
    let api = api(http);
    sent(provider.login(initial()));
    let login = LoginCredentials::from(&credentials());
    sent(api.login(&login));
}

// Within a session.

/// A server that takes the token of its last login. At `/first` it answers
/// that the first one is dead, with status `dead`; what it is called for
/// stands in `log`.
fn server(
    dead: u16,
    log: Arc<Mutex<Vec<String>>>,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<AnyBody>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<AnyBody>, Infallible>> + Send,
> + Clone
+ Send
+ Sync
+ 'static {
    let logins = Arc::new(AtomicUsize::new(0));
    service_fn(move |request: Request<Full<Bytes>>| {
        let path = request.uri().path().trim_start_matches("/automation-api");
        let line = format!("{} {path}", request.method());
        log.lock().unwrap().push(line);
        let token = request.headers().get(header::AUTHORIZATION);
        let live = format!("Bearer t{}", logins.load(Ordering::Relaxed));
        let answer = match path {
            "/session/login" => {
                let login = logins.fetch_add(1, Ordering::Relaxed) + 1;
                response(200, format!(r#"{{"token":"t{login}"}}"#))
            }
            "/config/role" => response(403, DEAD),
            "/first" if token.is_some_and(|token| token == "Bearer t1") => response(dead, DEAD),
            _ if token.is_some_and(|token| *token == live) => response(200, "{}"),
            _ => response(401, DEAD),
        };
        ready(Ok(answer))
    })
}

#[tokio::test]
async fn a_session_renews_a_dead_token_and_never_on_a_missing_role() {
    for (dead, method, statuses) in [
        (401, "POST", 200),
        (500, "GET", 200),
        // It may have been executed, so a POST is not sent twice.
        (500, "POST", 500),
    ] {
        let log = Arc::default();
        let http = server(dead, Arc::clone(&log));
        let provider = ControlM::new(http.clone(), base(), credentials()).unwrap();
        let session = Session::new(provider);
        let mut client = session.layer().layer(http);
        let mut call = async |method: &str, path: &str| {
            let request = Request::builder()
                .method(method)
                .uri(format!("{BASE}{path}"))
                .body(Full::default())
                .unwrap();
            let response = client.ready().await.unwrap().call(request).await.unwrap();
            response.status().as_u16()
        };

        assert_eq!(call("GET", "/config/role").await, 403);
        assert_eq!(call(method, "/first").await, statuses, "{dead} {method}");
        assert_eq!(call("GET", "/config/servers").await, 200);
        session.logout().await.unwrap();

        let log = log.lock().unwrap();
        let logins = log.iter().filter(|line| line.ends_with("login")).count();
        assert_eq!(logins, 2, "{log:?}");
        assert_eq!(log.last().unwrap(), "POST /session/logout");
    }
}

#[tokio::test]
async fn a_session_logs_in_with_the_password_that_it_changed_to() {
    let logins = Arc::new(Mutex::new(Vec::new()));
    let seen = logins.clone();
    let http = service_fn(move |request: Request<Full<Bytes>>| {
        let seen = seen.clone();
        async move {
            use http_body_util::BodyExt;
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            if path.ends_with("login") {
                let login: LoginCredentials = serde_json::from_slice(&body).unwrap();
                let password = login.password.expose_secret().to_owned();
                seen.lock().unwrap().push(password);
            }
            Ok::<_, Infallible>(response(200, r#"{"token":"A3F5"}"#))
        }
    });
    let provider = ControlM::new(http, base(), credentials()).unwrap();
    let session = Session::new(provider);
    session.login().await.unwrap();
    let change = PasswordChange::to(NEW_PASSWORD);
    session.change_password(change).await.unwrap();
    session.renew().await.unwrap();
    assert_eq!(*logins.lock().unwrap(), [PASSWORD, NEW_PASSWORD]);
}

// Secrets.

#[tokio::test]
async fn no_secret_is_in_anything_that_can_be_shown() {
    let html = |text: &str| {
        text.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('"', "&quot;")
    };
    let all = format!("{PASSWORD} {NEW_PASSWORD} {TOKEN} Bearer {TOKEN} {GATEWAY_KEY}");
    let quoted = serde_json::Value::from(all.as_str());
    let bodies = [
        format!(
            r#"{{"errors":[{{"message":{quoted},"id":{quoted},"item":{quoted},"file":{quoted}}}]}}"#
        ),
        format!(r#"{{"message":{quoted}}}"#),
        format!(r#"{{"fault":{{"faultstring":{quoted}}}}}"#),
        format!(r#"{{"unknown":{quoted}}}"#),
        format!(r#"{{"truncated":{quoted}"#),
        format!("<html><title>{}</title></html>", html(&all)),
        format!("<html><p>{}</p></html>", html(&all)),
        all.clone(),
        all.replace(' ', "\r\n\t"),
        format!("{} {all}", "x".repeat(500)),
        format!("{} {all}", "x".repeat(MAX_ANSWER - 30)),
    ];
    for status in [200, 302, 400, 401, 403, 404, 429, 500, 502, 503] {
        for body in &bodies {
            let http = Scripted::answering_as(CONTENT_TYPE, status, body.clone());
            let provider = provider(http);
            // A call knows its own secrets, and no other's.
            if let Err(error) = provider
                .logout(LogoutContext::new(token(), LogoutReason::LoggedOut))
                .await
            {
                let shown = shown(&error);
                assert!(
                    !shown.contains(TOKEN) && !shown.contains(GATEWAY_KEY),
                    "{shown}"
                );
            }
            if let Err(error) = provider.change_password(change()).await {
                assert_no_secret(&shown(&error));
            }
            if let Err(error) = provider.login(initial()).await {
                let shown = shown(&error);
                assert!(!shown.contains("canary-p"), "{shown}");
                assert!(!shown.contains(GATEWAY_KEY), "{shown}");
            }
        }
    }

    let provider = provider(Scripted::answering(
        200,
        format!(r#"{{"token":"{TOKEN}"}}"#),
    ));
    assert_no_secret(&format!(
        "{provider:?} {provider:#?} {:?}",
        provider.profile()
    ));
    let login = LoginCredentials::from(&credentials());
    let api = api(Scripted::answering(
        200,
        format!(r#"{{"token":"{TOKEN}"}}"#),
    ));
    let result = api.login(&login).await.unwrap();
    assert_no_secret(&format!("{api:?} {login:?} {result:?} {:?}", passwords()));
}

#[tokio::test]
async fn arbitrary_bytes_never_panic_and_never_show_a_secret() {
    let pieces: [&[u8]; 20] = [
        b"{",
        b"}",
        b"[",
        b"]",
        b"\"",
        b":",
        b",",
        b"\\u00",
        b"\"token\"",
        b"\"errors\"",
        b"\"message\"",
        b"<title>",
        b"</title",
        b"<script>",
        b"&#x",
        b";",
        b"\xff\xc3",
        b"\0",
        TOKEN.as_bytes(),
        PASSWORD.as_bytes(),
    ];
    // SplitMix64: the same bytes on each run.
    let mut state = 7_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % below as u64) as usize
    };
    for _ in 0..5000 {
        let body: Vec<u8> = (0..random(24))
            .flat_map(|_| match random(4) {
                0 => vec![random(256) as u8],
                _ => pieces[random(pieces.len())].to_vec(),
            })
            .collect();
        let status = [200, 401, 500, 502][random(4)];
        let http = Scripted::answering(status, body);
        let provider = provider(http);
        if let Err(error) = provider.change_password(change()).await {
            assert_no_secret(&shown(&error));
        }
        match provider.login(initial()).await {
            Ok(token) => assert_no_secret(&format!("{token:?}")),
            Err(error) => assert!(!shown(&error).contains("canary-p")),
        }
    }
}

// The example.

#[allow(dead_code, reason = "its main is not called")]
#[path = "../examples/controlm.rs"]
mod example;

/// A client for the example, which speaks no TLS here.
fn https() -> HttpsClient {
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let own = parameters.self_signed(&key).unwrap();
    client::https().ca_pem(own.pem()).build().unwrap()
}

#[tokio::test]
async fn the_example_logs_in_reads_and_logs_out() {
    let (base, requests) = serve(vec![
        ok(r#"{"token":"A3F5"}"#),
        ok(r#"[{"name":"ctm1"}]"#),
        ok(r#"{"message":"bye"}"#),
    ])
    .await;
    let arguments = ["controlm", "--url", &base.to_string(), "--user", "emuser"];
    let options = example::Options::parse(arguments.map(Into::into)).unwrap();

    let listed = example::list_servers(&options.unwrap(), "s3cret".into(), https()).await;

    assert_eq!(listed.unwrap(), r#"[{"name":"ctm1"}]"#);
    let requests = requests.await;
    let lines: Vec<_> = requests.iter().map(|request| parts(request).0).collect();
    assert_eq!(
        lines,
        [
            "POST /prefix/automation-api/session/login HTTP/1.1",
            "GET /prefix/automation-api/config/servers HTTP/1.1",
            "POST /prefix/automation-api/session/logout HTTP/1.1",
        ]
    );
    assert!(requests[1].contains("authorization: Bearer A3F5\r\n"));
}

#[tokio::test]
async fn the_example_says_what_went_wrong_in_a_line_for_each_cause() {
    let body = r#"{"errors":[{"message":"Failed to login: Incorrect username or password"}]}"#;
    let refused = ok(body).replace("200 OK", "401 Unauthorized");
    let (base, requests) = serve(vec![refused]).await;
    let arguments = ["controlm", "--url", &base.to_string(), "--user", "emuser"];
    let options = example::Options::parse(arguments.map(Into::into)).unwrap();

    let listed = example::list_servers(&options.unwrap(), "s3cret".into(), https()).await;

    let said = example::Chain(&*listed.unwrap_err()).to_string();
    let last = said.lines().last().unwrap();
    assert_eq!(
        last,
        "  because: the login failed: 401 Unauthorized: Failed to login: Incorrect username or password"
    );
    assert!(
        said.starts_with("error: cannot read http://127.0.0.1:"),
        "{said}"
    );
    assert_eq!(requests.await.len(), 1);
}

#[test]
fn the_example_knows_its_options() {
    let parse = |line: &str| example::Options::parse(line.split(' ').map(Into::into));
    let options = parse("controlm --url https://ctm:8443/api --user=em --ca-file /ca.pem");
    let options = options.unwrap().unwrap();
    assert_eq!(options.user, "em");
    assert_eq!(options.ca_file.unwrap().to_str(), Some("/ca.pem"));
    assert!(parse("controlm --help").unwrap().is_none());
    for wrong in [
        "controlm",
        "controlm --url x",
        "controlm --insecure",
        "controlm more",
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}
