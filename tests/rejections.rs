//! Rejections where servers put them: in compressed bodies, late bodies and trailers, behind
//! redirects and in challenges.

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::time::{Instant, sleep, sleep_until};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_http::decompression::DecompressionLayer;
use tower_reauth::controlm::ControlM;
use tower_reauth::controlm::emulator::Emulator;
use tower_reauth::{
    Anonymous, Credentials, LoginContext, Profile, Reauth, ReauthFailure, Rejection, Session,
    Token, provider_fn,
};

type Body = Full<Bytes>;

const ORIGIN: &str = "https://api.example.com";

fn get(path: &str) -> Request<Body> {
    Request::get(format!("{ORIGIN}{path}"))
        .body(Body::default())
        .unwrap()
}

fn answer(status: u16) -> Response<Body> {
    Response::builder()
        .status(status)
        .body(Body::default())
        .unwrap()
}

/// A session whose logins yield `t1`, `t2` and so on, and the challenges they were given.
fn session(rejection: Rejection) -> (Session, Arc<Mutex<Vec<Option<String>>>>) {
    let challenges = Arc::new(Mutex::new(Vec::new()));
    let logins = challenges.clone();
    let profile = Profile::at(ORIGIN.parse().unwrap()).rejection(rejection);
    let provider = provider_fn(profile, move |cx: LoginContext| {
        let mut logins = logins.lock().unwrap();
        logins.push(cx.challenge_parameter("error"));
        let token = Token::bearer(format!("t{}", logins.len()));
        async move { Ok(token?.idles_out_after(Duration::from_secs(10))) }
    });
    (Session::new(provider), challenges)
}

fn carries(request: &Request<Body>, token: &str) -> bool {
    request.headers()[header::AUTHORIZATION] == format!("Bearer {token}")
}

/// Collects the lines that `tracing` writes on this thread at WARN and above.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn start(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn lines(&self) -> Vec<String> {
        let log = self.0.lock().unwrap();
        let log = String::from_utf8(log.clone()).unwrap();
        log.lines().map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn control_m(emulator: &Emulator) -> Session {
    let base = "https://ctm.example.com:8443/automation-api";
    let credentials = Credentials::new("emuser", "empass");
    let provider = ControlM::<_, Body>::new(emulator.service(), base.parse().unwrap(), credentials);
    Session::new(provider.unwrap())
}

fn servers() -> Request<Body> {
    Request::get("https://ctm.example.com:8443/automation-api/config/servers")
        .body(Body::default())
        .unwrap()
}

#[tokio::test]
async fn a_text_in_a_compressed_body_is_not_seen_and_that_is_logged_once() {
    let emulator = Emulator::builder()
        .dead_token_as(StatusCode::INTERNAL_SERVER_ERROR)
        .gzip()
        .build();
    let session = control_m(&emulator);
    session.token().await.unwrap();
    emulator.expire_all();
    let log = Log::default();
    let _logging = log.start();

    let outside = ServiceBuilder::new()
        .layer(DecompressionLayer::new())
        .layer(session.layer())
        .service(emulator.service());
    for _ in 0..3 {
        let response = outside.clone().oneshot(servers()).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert!(text.contains("Session token is invalid or expired"));
    }
    assert_eq!(session.stats().rejections, 0);
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in ["WARN", "status=500", "gzip", "decompression layer inside"] {
        assert!(lines[0].contains(part), "{part}: {lines:?}");
    }

    let inside = ServiceBuilder::new()
        .layer(session.layer())
        .layer(DecompressionLayer::new())
        .service(emulator.service());
    let response = inside.oneshot(servers()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(session.stats().rejections, 1);
    assert_eq!(log.lines().len(), 1);
}

#[tokio::test]
async fn a_coding_without_effect_and_an_empty_body_hide_no_text() {
    let log = Log::default();
    let _logging = log.start();
    // `UTF-8` is a common mistake of servers.
    for (coding, body) in [("identity", "expired"), ("UTF-8", "expired"), ("gzip", "")] {
        let rejection = Rejection::body_contains(StatusCode::FORBIDDEN, body, 64);
        let (session, _) = session(rejection);
        let http = service_fn(move |request: Request<Body>| async move {
            let response = match carries(&request, "t1") {
                true => Response::builder().status(403),
                false => Response::builder(),
            };
            let response = response.header(header::CONTENT_ENCODING, coding);
            Ok::<_, Infallible>(response.body(Body::from(body)).unwrap())
        });
        let client = ServiceBuilder::new().layer(session.layer()).service(http);
        let response = client.oneshot(get("/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{coding}");
    }
    assert_eq!(log.lines(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_text_that_breaks_off_or_comes_too_late_is_no_sign_of_life() {
    #[derive(Clone, Copy, PartialEq)]
    enum End {
        Late,
        Broken,
        Whole,
    }
    for end in [End::Late, End::Broken, End::Whole] {
        let rejection = Rejection::body_contains(StatusCode::OK, "log in", 64);
        let (session, _) = session(rejection);
        let http = service_fn(move |_: Request<Body>| async move {
            let frames = futures_util::stream::unfold(0, move |step| async move {
                let frame = match (step, end) {
                    (0, _) => Ok(Frame::data(Bytes::from("welcome"))),
                    (1, End::Late) => {
                        sleep(Duration::from_secs(3)).await;
                        Ok(Frame::data(Bytes::from(", log in")))
                    }
                    (1, End::Broken) => Err(io::Error::other("broken off")),
                    _ => return None,
                };
                Some((frame, step + 1))
            });
            Ok::<_, Infallible>(Response::new(StreamBody::new(Box::pin(frames))))
        });
        let client = ServiceBuilder::new().layer(session.layer()).service(http);
        session.token().await.unwrap();
        sleep(Duration::from_secs(6)).await;
        let sent = Instant::now();
        let response = client.oneshot(get("/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.extensions().get::<Reauth>().is_none());
        let waited = match end {
            End::Late => Duration::from_secs(2),
            End::Broken | End::Whole => Duration::ZERO,
        };
        assert!(sent.elapsed().abs_diff(waited) < Duration::from_millis(5));
        let body = response.into_body().collect().await;
        match end {
            End::Late => assert_eq!(body.unwrap().to_bytes(), "welcome, log in"),
            End::Broken => assert!(body.unwrap_err().is::<io::Error>()),
            End::Whole => assert_eq!(body.unwrap().to_bytes(), "welcome"),
        }
        // The token idles out after 10 s, unless the server has accepted it.
        sleep_until(sent + Duration::from_secs(5)).await;
        let expected = match end {
            End::Late | End::Broken => 2,
            End::Whole => 1,
        };
        assert_eq!(session.token().await.unwrap().generation(), expected);
    }
}

/// A response to `HEAD` has the head of one whose text may reject the token.
#[tokio::test(start_paused = true)]
async fn a_response_to_head_is_no_sign_of_life_if_the_text_decides() {
    let log = Log::default();
    let _logging = log.start();
    for (status, expected) in [(200, 2), (204, 1)] {
        let rejection = Rejection::body_contains(StatusCode::OK, "log in", 64);
        let (session, _) = session(rejection);
        let http = service_fn(move |_: Request<Body>| async move {
            let response = Response::builder().status(status);
            let response = response.header(header::CONTENT_ENCODING, "gzip");
            Ok::<_, Infallible>(response.body(Body::default()).unwrap())
        });
        let client = ServiceBuilder::new().layer(session.layer()).service(http);
        session.token().await.unwrap();
        sleep(Duration::from_secs(6)).await;
        let mut request = get("/");
        *request.method_mut() = Method::HEAD;
        client.oneshot(request).await.unwrap();
        sleep(Duration::from_secs(5)).await;
        let token = session.token().await.unwrap();
        assert_eq!(token.generation(), expected, "{status}");
    }
    assert_eq!(log.lines(), [""; 0]);
}

/// Trailers that arrive late may concern a token that has died or was replaced meanwhile.
#[tokio::test(start_paused = true)]
async fn late_trailers_of_a_replay_refresh_instead_of_cooling_the_target_down() {
    for (delay, logins) in [(1, 2), (60, 3)] {
        let unauthenticated = HeaderValue::from_static("16");
        let rejection = Rejection::default().or_trailer("grpc-status", unauthenticated);
        let (session, challenges) = session(rejection);
        let http = service_fn(move |request: Request<Body>| async move {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("16"));
            let body = Body::default().with_trailers(async move {
                sleep(Duration::from_secs(delay)).await;
                Some(Ok(trailers))
            });
            let mut response = Response::new(body.boxed_unsync());
            if carries(&request, "t1") {
                *response.status_mut() = StatusCode::UNAUTHORIZED;
                *response.body_mut() = Body::default().boxed_unsync();
            }
            Ok::<_, Infallible>(response)
        });
        let client = ServiceBuilder::new().layer(session.layer()).service(http);
        let response = client.oneshot(get("/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        // Used meanwhile, so that it lives.
        let token = session.token().await.unwrap();
        let alive = async {
            loop {
                session.accept(&token);
                sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            () = alive => unreachable!(),
            body = response.into_body().collect() => { body.unwrap(); }
        }
        let _ = session.token().await.unwrap();
        assert_eq!(challenges.lock().unwrap().len(), logins, "{delay} s");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_before_its_trailers_proves_nothing() {
    let unauthenticated = HeaderValue::from_static("16");
    let (session, _) = session(Rejection::trailer("grpc-status", unauthenticated));
    let http = service_fn(|_: Request<Body>| async {
        let frames = [
            Ok(Frame::data(Bytes::from("x"))),
            Err(io::Error::other("reset")),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        Ok::<_, Infallible>(Response::new(body))
    });
    let client = ServiceBuilder::new().layer(session.layer()).service(http);
    let mut body = client.oneshot(get("/")).await.unwrap().into_body();
    while body.frame().await.is_some() {}
    // Only the first refresh of a token that nothing has proven is immediate.
    for expected in [1, 2, 2] {
        let token = session.token().await.unwrap();
        assert_eq!(token.generation(), expected);
        session.reject(&token);
    }
}

/// As hyper's server reads: it does not poll a body that says it has ended.
#[tokio::test]
async fn a_body_that_says_it_has_ended_proves_the_token_without_another_poll() {
    let unauthenticated = HeaderValue::from_static("16");
    let (session, _) = session(Rejection::trailer("grpc-status", unauthenticated));
    let http = service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(Response::new(Body::from("x")))
    });
    let client = ServiceBuilder::new().layer(session.layer()).service(http);
    let mut body = client.oneshot(get("/")).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    assert!(body.is_end_stream());
    drop(body);
    // A token that was proven is refreshed besides the first one that was not.
    for expected in [1, 2, 3, 3] {
        let token = session.token().await.unwrap();
        assert_eq!(token.generation(), expected);
        session.reject(&token);
    }
}

#[tokio::test]
async fn a_challenge_reaches_the_login_that_it_causes() {
    let rejection = Rejection::challenge_error("invalid_token")
        .or_challenge_error("insufficient_user_authentication");
    let (session, challenges) = session(rejection);
    let http = service_fn(|request: Request<Body>| async move {
        let mut response = answer(401);
        let mut challenge = |value| {
            let value = HeaderValue::from_static(value);
            response
                .headers_mut()
                .append(header::WWW_AUTHENTICATE, value);
        };
        challenge(r#"Basic realm="api""#);
        match request.uri().path() {
            "/scope" => challenge(r#"Bearer error="insufficient_scope""#),
            _ if carries(&request, "t2") => response = answer(200),
            _ => challenge(r#"Bearer error="insufficient_user_authentication", max_age=60"#),
        }
        Ok::<_, Infallible>(response)
    });
    let client = ServiceBuilder::new().layer(session.layer()).service(http);
    let send = |path| client.clone().oneshot(get(path));

    let response = send("/scope").await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(response.extensions().get::<Reauth>().is_none());
    let response = send("/pay").await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let expected = [None, Some("insufficient_user_authentication".to_owned())];
    assert_eq!(*challenges.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_redirect_to_the_login_page_refreshes_and_replays_what_is_idempotent() {
    let (session, _) = session(Rejection::redirect_to("/login"));
    let http = service_fn(|request: Request<Body>| async move {
        let response = match carries(&request, "t1") {
            true => Response::builder()
                .status(302)
                .header(header::LOCATION, "/login?next=%2F"),
            false => Response::builder(),
        };
        Ok::<_, Infallible>(response.body(Body::default()).unwrap())
    });
    let client = ServiceBuilder::new().layer(session.layer()).service(http);

    let post = Request::post(format!("{ORIGIN}/jobs"))
        .body(Body::default())
        .unwrap();
    let response = client.clone().oneshot(post).await.unwrap();
    assert_eq!(response.status(), StatusCode::FOUND);
    let reauth = response.extensions().get::<Reauth>().unwrap();
    assert!(matches!(reauth.failure, ReauthFailure::Unsure));

    let response = client.oneshot(get("/jobs")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(session.stats().rejections, 1);
}

#[tokio::test]
async fn a_body_that_is_dropped_or_belongs_to_a_dropped_session_reports_nothing() {
    let unauthenticated = HeaderValue::from_static("16");
    let rejection = Rejection::trailer("grpc-status", unauthenticated.clone());
    let (session, challenges) = session(rejection);
    let http = service_fn(move |_: Request<Body>| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", unauthenticated.clone());
        let body = Body::default().with_trailers(async { Some(Ok(trailers)) });
        async move { Ok::<_, Infallible>(Response::new(body)) }
    });
    let client = ServiceBuilder::new().layer(session.layer()).service(http);

    drop(client.clone().oneshot(get("/")).await.unwrap());
    let mut anonymous = get("/");
    anonymous.extensions_mut().insert(Anonymous);
    let response = client.clone().oneshot(anonymous).await.unwrap();
    response.into_body().collect().await.unwrap();
    assert_eq!(session.stats().rejections, 0);

    let response = client.oneshot(get("/")).await.unwrap();
    drop(session);
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "16");
    assert_eq!(challenges.lock().unwrap().len(), 1);
}
