//! Ready-made providers, and what a profile says, through the layer.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::Full;
use tower::{Layer, Service, ServiceExt};
use tower_reauth::Source;
use tower_reauth::{
    Anonymous, BoxError, Credentials, Error, ErrorKind, FixedToken, LoginContext, Profile,
    ProviderError, Reason, Reauth, ReauthFailure, Session, SessionLayer, Token, provider_fn,
};

const HOME: &str = "https://api.example.com";

type Seen = Arc<Mutex<Vec<Option<String>>>>;

/// A server that accepts `good` in the header `name`, and notes what it saw.
fn server(
    name: &'static str,
    good: &'static str,
) -> (
    Seen,
    impl Service<
        Request<Full<Bytes>>,
        Response = Response<Full<Bytes>>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + Send,
) {
    let seen = Seen::default();
    let noted = seen.clone();
    let service = tower::service_fn(move |request: Request<Full<Bytes>>| {
        let value = request.headers().get(name);
        let value = value.map(|value| value.to_str().unwrap().to_owned());
        let accepted = value.as_deref() == Some(good);
        noted.lock().unwrap().push(value);
        let status = match accepted {
            true => StatusCode::OK,
            false => StatusCode::UNAUTHORIZED,
        };
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        async move { Ok(response) }
    });
    (seen, service)
}

fn get(uri: &str) -> Request<Full<Bytes>> {
    Request::get(uri).body(Full::default()).unwrap()
}

fn home() -> Profile {
    Profile::at(HOME.parse().unwrap())
}

fn kind(result: Result<Response<impl Sized>, BoxError>) -> Option<ErrorKind> {
    Error::find(&*result.err()?).map(Error::kind)
}

fn seen(seen: &Seen) -> Vec<Option<String>> {
    seen.lock().unwrap().clone()
}

fn values(expected: &[&str]) -> Vec<Option<String>> {
    expected
        .iter()
        .map(|value| Some((*value).to_owned()))
        .collect()
}

#[tokio::test]
async fn a_fixed_key_is_sent_with_its_prefix() {
    let (noted, service) = server("x-api-key", "Bearer 3f9a");
    let provider = FixedToken::api_key(home(), "3f9a").prefix("Bearer ");
    let client = SessionLayer::new(provider).layer(service);
    let response = client.oneshot(get(HOME)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(seen(&noted), values(&["Bearer 3f9a"]));
}

#[tokio::test]
async fn a_key_that_has_changed_is_read_anew_when_it_is_rejected() {
    let (noted, service) = server("x-api-key", "key-1");
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = reads.clone();
    let session = Session::new(FixedToken::api_key_from(home(), move || {
        let key = format!("key-{}", counted.fetch_add(1, Ordering::Relaxed));
        async move { Ok(key.into()) }
    }));
    let client = session.layer().layer(service);
    let response = client.oneshot(get(HOME)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(seen(&noted), values(&["key-0", "key-1"]));
    assert_eq!(reads.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_key_that_has_not_changed_stays_in_use_and_the_response_is_returned() {
    let (noted, service) = server("authorization", "Bearer other");
    let session = Session::new(FixedToken::bearer(home(), "3f9a"));
    let client = session.layer().layer(service);
    for why_cooling_down in [false, true] {
        let response = client.clone().oneshot(get(HOME)).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let reauth = response.extensions().get::<Reauth>().unwrap();
        assert!(!reauth.replayed);
        match (&reauth.failure, why_cooling_down) {
            (ReauthFailure::StillRejected, false) | (ReauthFailure::CoolingDown, true) => {}
            (why, _) => panic!("{why:?}"),
        }
    }
    assert_eq!(seen(&noted), values(&["Bearer 3f9a", "Bearer 3f9a"]));
    assert_eq!(session.status().generation, Some(1));
}

#[tokio::test]
async fn a_login_is_told_its_reason_its_credentials_and_the_token_before() {
    let (noted, service) = server("x-token", "2");
    let contexts = Arc::new(Mutex::new(Vec::new()));
    let told = contexts.clone();
    let provider = provider_fn(home(), move |login: LoginContext| {
        let mut told = told.lock().unwrap();
        told.push((
            login.reason(),
            login.credentials().unwrap().username().to_owned(),
            login.previous().map(Token::generation),
        ));
        let number = told.len().to_string();
        async move { Ok(Token::header(HeaderName::from_static("x-token"), number)?) }
    })
    .with_source(Credentials::new("emuser", "s3cret"));
    let client = SessionLayer::new(provider).layer(service);
    client.oneshot(get(HOME)).await.unwrap();
    let told = contexts.lock().unwrap();
    let user = || "emuser".to_owned();
    assert_eq!(
        *told,
        [
            (Reason::Initial, user(), None),
            (Reason::Rejected, user(), Some(1))
        ]
    );
    assert_eq!(seen(&noted), values(&["1", "2"]));
}

#[tokio::test]
async fn a_provider_without_a_source_that_asks_for_credentials_is_told_so() {
    let provider = provider_fn(home(), |login: LoginContext| async move {
        login.credentials()?;
        Ok(Token::bearer("never")?)
    });
    let error = Session::new(provider).token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_source_that_cannot_be_read_is_unavailable_and_no_login_is_tried() {
    let logins = Arc::new(AtomicUsize::new(0));
    let counted = logins.clone();
    let provider = provider_fn(home(), move |_: LoginContext| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Ok(Token::bearer("never")?) }
    })
    .with_source(Source::from_fn(|| async {
        Err(tower_reauth::SourceError::unavailable(
            "the vault is sealed",
        ))
    }));
    let error = Session::new(provider).token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(logins.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_initial_token_is_used_before_anybody_logs_in() {
    let (noted, service) = server("authorization", "Bearer kept");
    let provider = provider_fn(home(), |_: LoginContext| async {
        Err(ProviderError::unavailable("nobody should ask"))
    });
    let session = Session::builder(provider)
        .name("inventory")
        .initial_token(Token::bearer("kept").unwrap())
        .build();
    let client = session.layer().layer(service);
    client.oneshot(get(HOME)).await.unwrap();
    assert_eq!(seen(&noted), values(&["Bearer kept"]));
    assert_eq!(
        session.status().to_string(),
        "inventory: live, generation 1"
    );
}

#[tokio::test]
async fn a_request_to_another_origin_passes_untouched() {
    let (noted, service) = server("x-api-key", "3f9a");
    let session = Session::new(FixedToken::api_key(home(), "3f9a"));
    let client = session.layer().layer(service);
    let response = client
        .oneshot(get("https://evil.example.com/"))
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(response.extensions().get::<Reauth>().is_none());
    assert_eq!(seen(&noted), [None]);
    assert_eq!(session.status().generation, None, "nobody logged in for it");
}

#[tokio::test]
async fn an_anonymous_request_carries_no_token_even_at_home() {
    let (noted, service) = server("x-api-key", "3f9a");
    let session = Session::new(FixedToken::api_key(home(), "3f9a"));
    let mut request = get(HOME);
    request.extensions_mut().insert(Anonymous);
    session
        .layer()
        .layer(service)
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(seen(&noted), [None]);
}

#[tokio::test]
async fn a_request_that_would_go_out_bare_fails_instead() {
    let (noted, service) = server("x-api-key", "3f9a");
    let nowhere = Session::new(FixedToken::api_key(Profile::default(), "3f9a"));
    let client = nowhere.layer().layer(service.clone());
    assert_eq!(
        kind(client.oneshot(get(HOME)).await),
        Some(ErrorKind::NoOrigin)
    );

    let somewhere = Session::new(FixedToken::api_key(home(), "3f9a"));
    let client = somewhere.layer().layer(service.clone());
    assert_eq!(
        kind(client.oneshot(get("/servers")).await),
        Some(ErrorKind::NoOrigin)
    );

    let open = Profile::at("http://10.0.0.1".parse().unwrap());
    let insecure = Session::new(FixedToken::api_key(open, "3f9a"));
    let client = insecure.layer().layer(service);
    let result = client.oneshot(get("http://10.0.0.1/servers")).await;
    assert_eq!(kind(result), Some(ErrorKind::InsecureOrigin));
    assert!(seen(&noted).is_empty());
}

#[tokio::test]
async fn a_bound_service_and_one_that_is_told_so_get_the_token() {
    let (noted, service) = server("x-api-key", "3f9a");
    let bound = Session::new(FixedToken::api_key(Profile::default().bound(), "3f9a"));
    bound
        .layer()
        .layer(service.clone())
        .oneshot(get("/servers"))
        .await
        .unwrap();

    let told = Session::builder(FixedToken::api_key(Profile::default(), "3f9a"));
    let told = told.origin(HOME.parse().unwrap()).build();
    told.layer()
        .layer(service.clone())
        .oneshot(get(HOME))
        .await
        .unwrap();

    let open = Profile::at("http://10.0.0.1".parse().unwrap()).allow_plain_http();
    let open = Session::new(FixedToken::api_key(open, "3f9a"));
    let request = get("http://10.0.0.1/servers");
    open.layer().layer(service).oneshot(request).await.unwrap();
    assert_eq!(seen(&noted), values(&["3f9a", "3f9a", "3f9a"]));
}

#[tokio::test]
async fn a_cookie_joins_those_of_the_request() {
    let (noted, service) = server("cookie", "theme=dark; sid=1");
    let provider = provider_fn(home(), |_: LoginContext| async {
        Ok(Token::cookie("sid", "1")?)
    });
    let mut request = get(HOME);
    let own = http::HeaderValue::from_static("sid=0; theme=dark");
    request.headers_mut().insert("cookie", own);
    let client = SessionLayer::new(provider).layer(service);
    assert_eq!(
        client.oneshot(request).await.unwrap().status(),
        StatusCode::OK
    );
    assert_eq!(seen(&noted), values(&["theme=dark; sid=1"]));
}

/// A function that yields the given value, and counts how often it is asked.
fn rotating(value: &Arc<Mutex<&'static str>>) -> (Arc<AtomicUsize>, FixedToken) {
    let reads = Arc::new(AtomicUsize::new(0));
    let (value, counted) = (value.clone(), reads.clone());
    let key = FixedToken::api_key_from(home(), move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let value = *value.lock().unwrap();
        async move { Ok(value.into()) }
    });
    (reads, key)
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_rotated_before_it_expires_costs_no_rejection() {
    let value = Arc::new(Mutex::new("old"));
    let (reads, key) = rotating(&value);
    let accepted = Arc::new(Mutex::new(vec!["old"]));
    let rejections = Arc::new(AtomicUsize::new(0));
    let (accepts, counted) = (accepted.clone(), rejections.clone());
    let service = tower::service_fn(move |request: Request<Full<Bytes>>| {
        let mut response = Response::new(Full::<Bytes>::default());
        let key = request.headers()["x-api-key"].to_str().unwrap().to_owned();
        if !accepts.lock().unwrap().contains(&&*key) {
            counted.fetch_add(1, Ordering::Relaxed);
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        async move { Ok::<_, Infallible>(response) }
    });
    let session = Session::new(key);
    let client = session.layer().layer(service);
    let send = || client.clone().oneshot(get(HOME));
    for minute in 0..60 {
        match minute {
            48 => {
                *value.lock().unwrap() = "new";
                accepted.lock().unwrap().push("new");
            }
            50 => accepted.lock().unwrap().retain(|key| *key == "new"),
            _ => {}
        }
        for _ in 0..6 {
            assert_eq!(send().await.unwrap().status(), StatusCode::OK);
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    }
    assert_eq!(rejections.load(Ordering::Relaxed), 0);
    let reads = reads.load(Ordering::Relaxed);
    assert!((50..=61).contains(&reads), "{reads} in an hour");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_nobody_uses_is_not_read_again() {
    let (reads, key) = rotating(&Arc::new(Mutex::new("old")));
    let session = Session::new(key);
    drop(session.token().await.unwrap());
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(reads.load(Ordering::Relaxed) <= 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_always_the_same_is_not_read_again() {
    let (_, service) = server("x-api-key", "3f9a");
    let session = Session::new(FixedToken::api_key(home(), "3f9a"));
    let client = session.layer().layer(service);
    for _ in 0..60 {
        client.clone().oneshot(get(HOME)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    assert_eq!(session.stats().all_logins().succeeded, 1);
}
