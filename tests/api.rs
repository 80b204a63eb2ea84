//! `Api`: a provider's calls, and what their answers mean.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use tower::util::BoxCloneSyncService;
use tower_reauth::provider::{Answer, Api, segment};
use tower_reauth::{
    BoxError, CredentialProvider, Credentials, ErrorKind, ExposeSecret, LoginContext,
    LogoutContext, Profile, ProviderError, ProviderErrorKind, Session, Source, Token, provider_fn,
};

type Http = BoxCloneSyncService<Request<Full<Bytes>>, Response<Full<Bytes>>, BoxError>;

/// What was sent last.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Option<Sent>>>);

struct Sent {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Seen {
    fn take(&self) -> Option<Sent> {
        self.0.lock().unwrap().take()
    }
}

/// A client whose server answers like that.
fn http(
    answer: impl Fn() -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
) -> (Http, Seen) {
    let seen = Seen::default();
    let told = seen.clone();
    let http = tower::service_fn(move |request: Request<Full<Bytes>>| {
        let (told, answer) = (told.clone(), answer.clone());
        async move {
            let (head, body) = request.into_parts();
            *told.0.lock().unwrap() = Some(Sent {
                method: head.method,
                uri: head.uri,
                headers: head.headers,
                body: body.collect().await.unwrap().to_bytes(),
            });
            Ok::<_, BoxError>(answer())
        }
    });
    (BoxCloneSyncService::new(http), seen)
}

fn answering(status: u16) -> (Api<Http>, Seen) {
    saying(status, &[], "")
}

fn saying(status: u16, headers: &'static [(&str, &str)], body: &'static str) -> (Api<Http>, Seen) {
    let (http, seen) = http(move || {
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            let name = HeaderName::from_static(name);
            response.headers_mut().append(name, value.parse().unwrap());
        }
        response
    });
    (api(http, "https://api.example.com/v1"), seen)
}

fn api(http: Http, base: &str) -> Api<Http> {
    Api::new(http, base.parse().unwrap()).unwrap()
}

fn kind(answer: &Result<Answer, ProviderError>) -> Option<ProviderErrorKind> {
    answer.as_ref().err().map(ProviderError::kind)
}

/// The kind of an exchange, of which a dead token is none.
fn kind_of_exchange(answer: Result<Option<Answer>, ProviderError>) -> Option<ProviderErrorKind> {
    match answer {
        Ok(Some(_)) => None,
        Ok(None) => Some(ProviderErrorKind::TokenRejected),
        Err(error) => Some(error.kind()),
    }
}

fn said(error: &ProviderError) -> String {
    error.source().unwrap().to_string()
}

#[tokio::test]
async fn a_status_means_what_the_table_says() {
    use ProviderErrorKind::{Protocol, Refused, TokenRejected, Unavailable, Uncertain};
    for (statuses, login, logout, change, exchange) in [
        (&[200, 201, 204][..], None, None, None, None),
        (
            &[401],
            Some(Refused),
            Some(TokenRejected),
            Some(TokenRejected),
            Some(TokenRejected),
        ),
        (
            &[403],
            Some(Refused),
            Some(Protocol),
            Some(Refused),
            Some(TokenRejected),
        ),
        (
            &[404, 410],
            Some(Protocol),
            Some(TokenRejected),
            Some(Protocol),
            Some(Protocol),
        ),
        (&[302, 303], None, None, Some(Uncertain), Some(Uncertain)),
        (
            &[408, 500, 502, 503, 504, 599],
            Some(Unavailable),
            Some(Unavailable),
            Some(Uncertain),
            Some(Uncertain),
        ),
        (
            &[425, 429],
            Some(Unavailable),
            Some(Unavailable),
            Some(Unavailable),
            Some(Unavailable),
        ),
        (
            &[400],
            Some(Protocol),
            Some(Protocol),
            Some(Refused),
            Some(TokenRejected),
        ),
        (
            &[409, 422],
            Some(Protocol),
            Some(Protocol),
            Some(Refused),
            Some(Protocol),
        ),
        (
            &[405, 418],
            Some(Protocol),
            Some(Protocol),
            Some(Protocol),
            Some(Protocol),
        ),
    ] {
        for status in statuses {
            let (api, _) = answering(*status);
            let call = || api.post("login");
            assert_eq!(kind(&call().login().await), login, "{status}");
            assert_eq!(kind(&call().logout().await), logout, "{status}");
            assert_eq!(kind(&call().change().await), change, "{status}");
            assert_eq!(
                kind_of_exchange(call().exchange().await),
                exchange,
                "{status}"
            );
            assert_eq!(call().send().await.unwrap().status(), *status);
        }
    }
}

#[tokio::test]
async fn a_server_may_be_busy_by_other_statuses() {
    let (api, _) = answering(403);
    let call = || {
        api.post("login")
            .busy_by(&[StatusCode::FORBIDDEN])
            .denied_by(&[StatusCode::FORBIDDEN])
    };
    let unavailable = Some(ProviderErrorKind::Unavailable);
    assert_eq!(kind(&call().login().await), unavailable);
    assert_eq!(kind(&call().logout().await), unavailable);
    assert_eq!(kind(&call().change().await), unavailable);
    assert_eq!(kind_of_exchange(call().exchange().await), unavailable);
}

#[tokio::test]
async fn a_name_in_a_path_leads_nowhere_else() {
    let (api, seen) = answering(200);
    for name in [
        "a#b", "a?b", "../x", "..", ".", "a/b", "jane doe", "%2e%2e", "a\\b", "\u{e4}",
    ] {
        let path = format!("login/{}", segment(name));
        // Two dots by themselves are no name that a path can hold.
        let sent = api.post(&path).send().await;
        let Some(sent) = sent.ok().and_then(|_| seen.take()) else {
            assert!([".", ".."].contains(&name), "{name}");
            continue;
        };
        let uri = sent.uri.to_string();
        let last = uri.strip_prefix("https://api.example.com/v1/login/");
        let last = last.unwrap();
        assert!(!last.contains(['/', '?', '#', '\\', ' ']), "{name}: {last}");
    }
    for name in ["a#b", "../x", "x/../y", "%2E%2e/x", "a\\b"] {
        let sent = api.post(&format!("login/{name}")).send().await;
        assert_eq!(kind(&sent), Some(ProviderErrorKind::Unsupported), "{name}");
        assert!(seen.take().is_none());
    }
}

#[tokio::test]
async fn a_server_may_deny_by_other_statuses() {
    use ProviderErrorKind::{Refused, TokenRejected};
    for status in [400, 404, 500] {
        let (api, _) = answering(status);
        let call = || {
            api.post("login").denied_by(&[
                StatusCode::BAD_REQUEST,
                StatusCode::NOT_FOUND,
                StatusCode::INTERNAL_SERVER_ERROR,
            ])
        };
        assert_eq!(kind(&call().login().await), Some(Refused));
        assert_eq!(kind(&call().logout().await), Some(TokenRejected));
        assert_eq!(kind(&call().change().await), Some(TokenRejected));
        assert_eq!(
            kind_of_exchange(call().exchange().await),
            Some(TokenRejected)
        );
        assert!(call().send().await.is_ok());
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_is_uncertain_where_the_call_cannot_be_repeated() {
    use ProviderErrorKind::{Unavailable, Uncertain};
    let lost = tower::service_fn(|_: Request<Full<Bytes>>| async { Err("reset".into()) });
    // And one that breaks off, and one that never ends.
    struct Breaks(u32);
    impl http_body::Body for Breaks {
        type Data = Bytes;
        type Error = BoxError;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
            if self.0 == 0 {
                return std::task::Poll::Ready(Some(Err("broken off".into())));
            }
            self.0 -= 1;
            let data = Bytes::from_static(&[b'x'; 1000]);
            std::task::Poll::Ready(Some(Ok(http_body::Frame::data(data))))
        }
    }
    let breaks = |after| {
        tower::service_fn(move |_: Request<Full<Bytes>>| async move {
            Ok::<_, Infallible>(Response::new(Breaks(after)))
        })
    };
    let base = || Uri::from_static("https://api.example.com");
    macro_rules! check {
        ($http:expr, $says:expr) => {
            let api: Api<_> = Api::new($http, base()).unwrap();
            let login = api.post("x").login().await;
            assert_eq!(kind(&login), Some(Unavailable));
            assert!(said(&login.unwrap_err()).contains($says));
            assert_eq!(kind(&api.post("x").logout().await), Some(Unavailable));
            assert_eq!(kind(&api.post("x").change().await), Some(Uncertain));
            assert_eq!(
                kind_of_exchange(api.post("x").exchange().await),
                Some(Uncertain)
            );
            assert_eq!(kind(&api.post("x").send().await), Some(Unavailable));
            assert_eq!(kind(&api.post("x").send_once().await), Some(Uncertain));
        };
    }
    let lost: Http = BoxCloneSyncService::new(lost);
    check!(lost, "reset");
    check!(breaks(3), "broken off");
    check!(breaks(u32::MAX), "longer than");
}

#[tokio::test]
async fn a_call_goes_below_the_base_or_from_the_root_of_the_same_origin() {
    for (base, to, uri) in [
        ("https://h/v1", "login", "https://h/v1/login"),
        ("https://h/v1/", "login?x=1", "https://h/v1/login?x=1"),
        ("https://h", "login", "https://h/login"),
        ("https://h/v1", "/redfish/1", "https://h/redfish/1"),
        ("https://h/v1", "", "https://h/v1"),
        // Not another server: a path.
        ("https://h/v1", "//evil/x", "https://h//evil/x"),
        ("http://localhost:80/", "x", "http://localhost:80/x"),
        // Behind a proxy or NAT a server may name itself otherwise.
        (
            "https://h/v1",
            "https://h:443/there?x=1",
            "https://h/there?x=1",
        ),
        ("https://h/v1", "http://h/there", "https://h/there"),
        (
            "https://h/v1",
            "https://10.0.0.5:8443/there",
            "https://h/there",
        ),
        ("https://h:8443", "https://10.0.0.5", "https://h:8443/"),
        ("https://h/v1", "https://10.0.0.5?x=1", "https://h/?x=1"),
        // Not a URI by its zone (RFC 6874), but its path is one.
        (
            "https://h/v1",
            "http://[fe80::1%25eth0]/there",
            "https://h/there",
        ),
        // The part before the host is not sent (RFC 9110, section 4.2.4).
        ("https://h/v1", "https://user:pw@h/there", "https://h/there"),
    ] {
        let (http, seen) = http(Response::default);
        api(http, base).get(to).send().await.unwrap();
        let sent = seen.take().unwrap();
        assert_eq!(
            (sent.uri.to_string().as_str(), sent.method),
            (uri, Method::GET)
        );
    }
}

#[tokio::test]
async fn a_call_does_not_go_over_plain_http_unless_that_is_allowed() {
    use ProviderErrorKind::Unsupported;
    for (base, to, expected) in [
        ("https://h/v1", "/a b", Unsupported),
        ("http://h/v1", "login", Unsupported),
        ("http://h/v1", "https://h/login", Unsupported),
    ] {
        let (http, seen) = http(Response::default);
        let api = api(http, base);
        assert!(format!("{:?}", api.profile()).contains("plain_http: false"));
        for answer in [api.post(to).send().await, api.post(to).change().await] {
            assert_eq!(kind(&answer), Some(expected), "{base} {to}");
        }
        assert!(seen.take().is_none(), "{base} {to}");
    }
    let (http, seen) = http(Response::default);
    let api = api(http, "http://h/v1").allow_plain_http();
    api.get("x").send().await.unwrap();
    assert!(seen.take().is_some());
    assert!(format!("{:?}", api.profile()).contains("plain_http: true"));
}

#[tokio::test]
async fn no_spelling_of_an_address_leads_to_another_server() {
    for base in ["https://h", "https://h/v1", "https://[::1]:8443/v1/"] {
        for to in [
            "//evil/x",
            "///evil",
            "\\\\evil/x",
            "/\\evil",
            "https:evil",
            "https:/evil",
            "https:\\\\evil",
            "https:///evil",
            "HTTPS://evil/",
            "https://h@evil/",
            "https://h:443@evil/",
            "https://user@h@evil/",
            "https://h\\@evil/",
            "https://h#@evil/",
            "https://evil#@h/",
            "https://evil?@h/",
            "https://h.evil/",
            "https://h%2eevil/",
            "https://h%40evil/",
            "https://[::1]evil/",
            "https://[::1]:8443@evil/",
            "https://[::2]:8443/",
            "@evil/",
            ":443@evil/",
            ".evil/",
            "evil:443",
            "ftp://h/",
            "javascript:alert(1)",
            "*",
            "?@evil",
            "#@evil",
        ] {
            let (http, seen) = http(Response::default);
            let _ = api(http, base).get(to).send().await;
            if let Some(sent) = seen.take() {
                let host = sent.uri.host().unwrap();
                assert_eq!(
                    Some(host),
                    base.parse::<Uri>().unwrap().host(),
                    "{base} {to}"
                );
                assert_eq!(sent.uri.scheme_str(), Some("https"), "{base} {to}");
            }
        }
    }
}

#[tokio::test]
async fn secrets_are_sent_as_they_are_and_marked() {
    let (api, seen) = answering(200);
    let api = api.extra_header(
        HeaderName::from_static("x-tenant"),
        HeaderValue::from_static("t"),
    );
    let user = Credentials::new("Aladdin", "open sesame");
    api.post("x").basic(&user).send().await.unwrap();
    let sent = seen.take().unwrap();
    // RFC 7617, section 2.
    assert_eq!(
        sent.headers[header::AUTHORIZATION],
        "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    );
    assert_eq!(sent.headers["x-tenant"], "t");
    assert_eq!(sent.headers[header::CONTENT_LENGTH], "0");
    assert!(sent.headers[header::AUTHORIZATION].is_sensitive());
    assert!(sent.headers["x-tenant"].is_sensitive());

    let password = "p\"\u{e4}\n&=";
    let body = BTreeMap::from([("user", "me"), ("password", password)]);
    api.put("x").json(&body).send().await.unwrap();
    let sent = seen.take().unwrap();
    assert_eq!(
        sent.body,
        "{\"password\":\"p\\\"\u{e4}\\n&=\",\"user\":\"me\"}"
    );
    assert_eq!(sent.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(sent.headers[header::ACCEPT], "application/json");
    assert!(!sent.headers.contains_key(header::CONTENT_LENGTH));

    api.post("x")
        .form([("user", "me"), ("password", password)])
        .send()
        .await
        .unwrap();
    let sent = seen.take().unwrap();
    assert_eq!(sent.body, "user=me&password=p%22%C3%A4%0A%26%3D");
    assert_eq!(
        sent.headers[header::CONTENT_TYPE],
        "application/x-www-form-urlencoded"
    );

    let token = Token::bearer("t").unwrap().and_cookie("sid", "s").unwrap();
    let own = HeaderName::from_static("x-own");
    api.delete("x")
        .token(&token)
        .header(own, "v")
        .send()
        .await
        .unwrap();
    let sent = seen.take().unwrap();
    assert_eq!(sent.headers[header::AUTHORIZATION], "Bearer t");
    assert_eq!(sent.headers[header::COOKIE], "sid=s");
    assert!(sent.headers["x-own"].is_sensitive());
    assert!(!sent.headers.contains_key(header::CONTENT_LENGTH));

    api.patch("x")
        .body("text/plain", "hello")
        .send()
        .await
        .unwrap();
    assert_eq!(seen.take().unwrap().body, "hello");
}

#[tokio::test]
async fn what_cannot_be_sent_is_not() {
    let (api, seen) = answering(200);
    let colon = Credentials::new("a:b", "password-canary");
    let name = HeaderName::from_static("x-own");
    for call in [
        api.post("x").basic(&colon),
        api.post("x")
            .basic(&Credentials::new("a", "password\n-canary")),
        api.post("x").header(name, "line\nbreak-canary"),
        api.post("x").json(&BTreeMap::from([((1, 2), "no key")])),
        // The first reason stays, whatever follows.
        api.post("x").basic(&colon).form([("a", "b")]),
        api.post("x").basic(&colon).json(&1),
        api.post("x").basic(&colon).body("text/plain", "b"),
    ] {
        let error = call
            .header(header::ACCEPT, "fine")
            .change()
            .await
            .unwrap_err();
        // Provably not sent: not a verdict on a password.
        assert_eq!(error.kind(), ProviderErrorKind::Unsupported);
        assert!(!format!("{error:?}").contains("canary"));
        assert!(seen.take().is_none());
    }
}

#[tokio::test]
async fn the_first_of_two_reasons_not_to_send_a_call_is_told() {
    let (api, _) = answering(200);
    let colon = Credentials::new("a:b", "password");
    let broken = api.post("x").basic(&colon).header(header::ACCEPT, "a\nb");
    assert!(said(&broken.send().await.unwrap_err()).contains("colon"));
}

#[tokio::test]
async fn a_call_says_itself_what_it_accepts() {
    let (api, seen) = answering(200);
    let call = api.post("x").header(header::ACCEPT, "text/html").json(&1);
    call.send().await.unwrap();
    assert_eq!(seen.take().unwrap().headers[header::ACCEPT], "text/html");
}

/// A client that is not ready, and says why.
#[derive(Clone)]
struct Unready;

impl tower::Service<Request<Full<Bytes>>> for Unready {
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), BoxError>> {
        std::task::Poll::Ready(Err("not ready".into()))
    }

    fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
        panic!("called though it is not ready");
    }
}

#[tokio::test]
async fn a_client_that_is_not_ready_is_not_called() {
    let api = Api::new(Unready, "https://api.example.com".parse().unwrap()).unwrap();
    for answer in [
        api.post("x").login().await,
        api.post("x").change().await,
        api.post("x").exchange().await.map(Option::unwrap),
    ] {
        assert_eq!(kind(&answer), Some(ProviderErrorKind::NotSent));
    }
}

/// A body that is empty, and claims all there is.
struct Claims;

impl http_body::Body for Claims {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(None)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(u64::MAX)
    }
}

#[tokio::test]
async fn a_length_that_is_only_claimed_takes_little_memory() {
    let http = tower::service_fn(|_: Request<Full<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(Claims))
    });
    let api: Api<_> = Api::new(http, "https://api.example.com".parse().unwrap()).unwrap();
    assert!(api.get("x").send().await.unwrap().bytes().is_empty());
}

#[tokio::test]
async fn an_error_says_what_was_answered_and_when_to_come_back() {
    let json = &[("content-type", "application/json"), ("retry-after", "7")];
    let (api, _) = saying(503, json, "{\"error\":\n\"later\"}");
    let error = api.post("login?ticket=canary").login().await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    assert_eq!(
        said(&error),
        "POST /v1/login was answered with 503 Service Unavailable (later)"
    );
    // When it says itself, that counts.
    let (api, _) = saying(404, json, "");
    let error = api.post("login").login().await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    // Another login soon might be one failed login more.
    for (status, delay) in [(404, Some(60)), (401, None), (500, None)] {
        let (api, _) = answering(status);
        let error = api.post("login").login().await.unwrap_err();
        assert_eq!(error.retry_after(), delay.map(Duration::from_secs));
    }
}

#[tokio::test]
async fn an_answer_that_lacks_the_token_starts_no_login_soon_and_spends_what_it_spent() {
    let (api, _) = saying(200, &[("set-cookie", "sid=; Max-Age=0")], "a login page");
    for call in [api.get("x"), api.post("x")] {
        let answer = call.login().await.unwrap();
        for error in [
            answer.cookie("sid").err().unwrap(),
            answer.header("x-token").unwrap_err(),
            answer.json::<u32>().unwrap_err(),
            answer.unexpected("is a login page"),
        ] {
            assert_eq!(error.kind(), ProviderErrorKind::Protocol);
            assert_eq!(error.retry_after(), Some(Duration::from_secs(60)));
        }
    }
    let exchanged = api.post("x").exchange().await.unwrap().unwrap();
    let changed = api.post("x").change().await.unwrap();
    for answer in [exchanged, changed] {
        for error in [
            answer.cookie("sid").err().unwrap(),
            answer.cookie_by(|name| name == "sid").err().unwrap(),
            answer.header("x-token").unwrap_err(),
            answer.json::<u32>().unwrap_err(),
            answer.secret("/token").unwrap_err(),
            answer.at::<u64>("/expires_in").unwrap_err(),
        ] {
            assert_eq!(error.kind(), ProviderErrorKind::Uncertain);
        }
    }
    // Where nobody said what it is the answer to, it just could not be read.
    let sent = api.get("x").send().await.unwrap();
    let logged_out = api.get("x").logout().await.unwrap();
    for answer in [sent, logged_out] {
        let error = answer.json::<u32>().unwrap_err();
        assert_eq!(error.kind(), ProviderErrorKind::Protocol);
        assert_eq!(error.retry_after(), None);
    }
}

#[tokio::test]
async fn a_status_that_says_nothing_starts_no_login_within_a_minute_unless_it_says_when() {
    for (headers, seconds) in [(&[][..], 60), (&[("retry-after", "7")][..], 7)] {
        let (api, _) = saying(404, headers, "");
        let error = api.post("x").login().await.unwrap_err();
        assert_eq!(error.kind(), ProviderErrorKind::Protocol);
        assert_eq!(error.retry_after(), Some(Duration::from_secs(seconds)));
    }
}

#[tokio::test]
async fn where_nobody_listens_nothing_was_changed() {
    let refused = tower::service_fn(|_: Request<Full<Bytes>>| async {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        Err::<Response<Full<Bytes>>, BoxError>(refused.into())
    });
    let api = api(BoxCloneSyncService::new(refused), "https://api.example.com");
    let changed = api.post("x").change().await;
    assert_eq!(kind(&changed), Some(ProviderErrorKind::NotSent));
}

#[tokio::test]
async fn an_answer_is_read_by_name() {
    let headers = &[
        ("x-auth-token", "t"),
        ("set-cookie", "sid=s; Max-Age=60"),
        ("set-cookie", "gone=; Max-Age=0"),
    ];
    let (api, _) = saying(200, headers, "{\"token\": \"canary\", \"n\": 1}");
    let answer = api.get("x").login().await.unwrap();
    assert_eq!(answer.header("X-Auth-Token").unwrap().expose_secret(), "t");
    let sid = answer.cookie("sid").unwrap();
    assert_eq!(sid.lifetime(), Some(Duration::from_secs(60)));
    assert!(answer.text().unwrap().starts_with('{') && answer.bytes().len() == 27);
    assert_eq!(answer.headers().len(), 3);

    #[derive(serde::Deserialize)]
    struct Right {
        token: tower_reauth::SecretString,
    }
    assert_eq!(answer.secret("/token").unwrap().expose_secret(), "canary");
    assert_eq!(answer.at::<u64>("/n").unwrap(), 1);
    let right: Right = answer.json().unwrap();
    assert_eq!(right.token.expose_secret(), "canary");

    let wrong = [
        answer.header("location").err(),
        answer.cookie("gone").err(),
        answer.secret("/n").err(),
        answer.secret("token").err(),
        answer.secret("/token/x").err(),
        answer.at::<bool>("/token").err(),
        answer.at::<u64>("/m").err(),
        answer.json::<u32>().err(),
        answer.json::<BTreeMap<String, u32>>().err(),
    ];
    for error in wrong {
        let error = error.unwrap();
        assert_eq!(error.kind(), ProviderErrorKind::Protocol);
        assert!(
            said(&error).starts_with("the answer to GET /v1/x "),
            "{}",
            said(&error)
        );
        assert!(!format!("{error:?}").contains("canary"));
    }
    let shown = format!("{answer:?} {api:?} {:?}", api.get("x"));
    assert!(
        !shown.contains("canary") && !shown.contains("sid=s"),
        "{shown}"
    );
    let (api, _) = saying(200, &[], "no json");
    assert!(
        said(
            &api.get("x")
                .send()
                .await
                .unwrap()
                .json::<u32>()
                .unwrap_err()
        )
        .contains("where JSON was expected")
    );
}

#[tokio::test]
async fn a_value_is_found_by_its_pointer() {
    let json = r#"{"a":{"b/c":["x",{"~":"\u0041\""}]},"":"empty"}"#;
    let (api, _) = saying(200, &[], json);
    let answer = api.get("x").send().await.unwrap();
    let secret = |pointer: &str| {
        let found = answer.secret(pointer).ok()?;
        Some(found.expose_secret().to_owned())
    };
    assert_eq!(secret("/a/b~1c/0").as_deref(), Some("x"));
    assert_eq!(secret("/a/b~1c/1/~0").as_deref(), Some("A\""));
    assert_eq!(secret("/").as_deref(), Some("empty"));
    for none in [
        "",
        "/a",
        "/a/b",
        "/a/b~1c/2",
        "/a/b~1c/00",
        "/a/b~1c/-",
        "a",
    ] {
        assert_eq!(secret(none), None, "{none}");
    }
    let (api, _) = saying(200, &[], "\"just a text\"");
    let answer = api.get("x").send().await.unwrap();
    assert_eq!(answer.secret("").unwrap().expose_secret(), "just a text");
    assert_eq!(answer.at::<String>("").unwrap(), "just a text");
}

#[tokio::test]
async fn the_address_of_an_answer_is_not_shown() {
    let (api, _) = answering(500);
    let call = api.delete("https://api.example.com/sessions/canary");
    assert!(!format!("{call:?}").contains("canary"));
    let error = call.logout().await.unwrap_err();
    assert_eq!(
        said(&error),
        "DELETE was answered with 500 Internal Server Error"
    );
}

#[tokio::test]
async fn a_provider_of_calls_serves_a_session() -> Result<(), BoxError> {
    struct Provider {
        api: Api<Http>,
        source: Source,
    }
    impl CredentialProvider for Provider {
        fn profile(&self) -> Profile {
            self.api.profile()
        }
        fn source(&self) -> Option<&Source> {
            Some(&self.source)
        }
        async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
            let answer = self
                .api
                .post("login")
                .basic(login.credentials()?)
                .login()
                .await?;
            Ok(Token::bearer(answer.header("x-token")?)?)
        }
        async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
            self.api.delete("login").token(cx.token()).logout().await?;
            Ok(())
        }
    }
    let (api, seen) = saying(200, &[("x-token", "t")], "");
    let source = Credentials::new("user", "password").into();
    let session = Session::new(Provider { api, source });
    session.token().await?;
    session.logout().await?;
    assert_eq!(
        seen.take().unwrap().headers[header::AUTHORIZATION],
        "Bearer t"
    );
    Ok(())
}

/// A body that always has one more empty frame.
struct Endless;

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        let frame = http_body::Frame::data(Bytes::new());
        std::task::Poll::Ready(Some(Ok(frame)))
    }
}

/// On real time: a runtime that always has something to run has no virtual time.
#[tokio::test]
async fn an_answer_whose_body_never_ends_is_given_up_at_the_login_timeout() {
    let http = tower::service_fn(|_: Request<Full<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(Endless))
    });
    let api = Api::new(http, "https://api.example.com/v1".parse().unwrap()).unwrap();
    let profile = Profile::default().login_timeout(Duration::from_millis(50));
    let session = Session::new(provider_fn(profile, move |_: LoginContext| {
        let api = api.clone();
        async move {
            api.post("login").login().await?;
            Ok::<_, ProviderError>(Token::bearer("3f9a")?)
        }
    }));
    let error = session.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
}
