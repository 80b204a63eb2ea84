//! Promises of the public API: what compiles with other layers, and what the contexts,
//! options and error kinds of a provider mean.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body as AxumBody;
use bytes::Bytes;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, sleep, timeout};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::util::MapResponseLayer;
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_http::timeout::TimeoutLayer;
use tower_reauth::controlm::ControlM;
use tower_reauth::provider::Api;
use tower_reauth::testing::{Answer, Call, Gate, ScriptedProvider, ScriptedService};
use tower_reauth::{
    Anonymous, Auto, BoxError, Buffer, CloseError, CredentialProvider, Credentials, Error,
    ErrorKind, Event, Events, ExposeSecret, FixedToken, IfEmpty, InvalidOrigin, InvalidToken,
    LoginContext, LogoutContext, LogoutEnds, LogoutReason, Origin, PasswordChange, PasswordContext,
    Profile, ProviderError, ProviderErrorKind, Reason, Reauth, ReauthFailure, Rejection, Replay,
    ResponseFuture, Session, SessionBody, SessionBuilder, SessionLayer, SessionService, Source,
    Stats, Status, Token, TokenEnd,
};

const HOME: &str = "https://api.test";
const SECOND: Duration = Duration::from_secs(1);

fn home() -> Profile {
    Profile::at(HOME.parse().unwrap())
}

fn get() -> Request<Full<Bytes>> {
    Request::get(HOME).body(Full::default()).unwrap()
}

/// Sends a request through the session's layer.
async fn send(session: &Session, service: &ScriptedService) -> Response<SessionBody<Full<Bytes>>> {
    let client = session.layer().layer(service.clone());
    client.oneshot(get()).await.unwrap()
}

/// The contexts of the logins so far.
fn logins(provider: &ScriptedProvider) -> Vec<LoginContext> {
    let login = |call| match call {
        Call::Login(cx) => Some(cx),
        _ => None,
    };
    provider.calls().into_iter().filter_map(login).collect()
}

/// The challenge of each login so far.
fn challenges(provider: &ScriptedProvider) -> Vec<Option<String>> {
    let challenge = |cx: &LoginContext| cx.challenge().map(str::to_owned);
    logins(provider).iter().map(challenge).collect()
}

/// The reason of each logout so far.
fn logout_reasons(provider: &ScriptedProvider) -> Vec<LogoutReason> {
    let reason = |call| match call {
        Call::Logout(cx) => Some(cx.reason()),
        _ => None,
    };
    provider.calls().into_iter().filter_map(reason).collect()
}

async fn error_of(session: &Session) -> Error {
    session.token().await.unwrap_err()
}

// Other layers.

/// A client for gRPC calls whose server accepts each call and implements none.
fn grpc(
    session: &Session,
    seen: Arc<Mutex<Vec<HeaderValue>>>,
) -> SessionService<
    impl tower::Service<
        Request<tonic::body::Body>,
        Response = Response<tonic::body::Body>,
        Error = Infallible,
        Future: Send,
    > + Clone,
    impl tower_reauth::Replay<tonic::body::Body, Body = tonic::body::Body> + Clone,
> {
    let server = tower::service_fn(move |request: Request<tonic::body::Body>| {
        let token = request.headers()[AUTHORIZATION].clone();
        seen.lock().unwrap().push(token);
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "12")
            .body(tonic::body::Body::empty());
        std::future::ready(Ok::<_, Infallible>(response.unwrap()))
    });
    let replay = Buffer::up_to(65_536).into_body(tonic::body::Body::new);
    ServiceBuilder::new()
        .layer(session.layer().replay(replay))
        .service(server)
}

#[tokio::test]
async fn a_tonic_interceptor_goes_around_the_layer() {
    let session = Session::new(FixedToken::bearer(Profile::default().bound(), "3f9a"));
    let seen = Arc::default();
    let stamp = |request: tonic::Request<()>| Ok(request);
    let mut client = HealthClient::with_interceptor(grpc(&session, Arc::clone(&seen)), stamp);
    let status = client.check(HealthCheckRequest::default()).await;
    assert_eq!(status.unwrap_err().code(), tonic::Code::Unimplemented);
    assert_eq!(*seen.lock().unwrap(), ["Bearer 3f9a"]);
}

#[tokio::test]
async fn a_call_that_a_tonic_interceptor_denies_is_not_sent() {
    let session = Session::new(FixedToken::bearer(Profile::default().bound(), "3f9a"));
    let seen = Arc::default();
    let deny = |_: tonic::Request<()>| Err(tonic::Status::permission_denied("not today"));
    let mut client = HealthClient::with_interceptor(grpc(&session, Arc::clone(&seen)), deny);
    let status = client.check(HealthCheckRequest::default()).await;
    assert_eq!(status.unwrap_err().code(), tonic::Code::PermissionDenied);
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_timeout_layer_goes_around_the_layer() {
    let provider = ScriptedProvider::new(home());
    let session = Session::new(provider.clone());
    let client = ServiceBuilder::new()
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            SECOND,
        ))
        .layer(session.layer().replay(IfEmpty))
        .service(ScriptedService::new());
    let response = client.clone().oneshot(get()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);

    session.logout().await.unwrap();
    let gate = Gate::closed();
    provider.on_login(Answer::usual().held_at(&gate));
    let login = tokio::spawn({
        let session = session.clone();
        async move { session.login().await }
    });
    gate.reached(1).await;
    let begun = Instant::now();
    let response = client.clone().oneshot(get()).await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(begun.elapsed(), SECOND);

    gate.open();
    login.await.unwrap().unwrap();
    let response = client.oneshot(get()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_optional_layer_adds_the_token_only_if_there_is_one() {
    for with_session in [true, false] {
        let seen: Arc<Mutex<Vec<bool>>> = Arc::default();
        let noted = seen.clone();
        let http = tower::service_fn(move |request: Request<AxumBody>| {
            let has_token = request.headers().contains_key(AUTHORIZATION);
            noted.lock().unwrap().push(has_token);
            std::future::ready(Ok::<_, Infallible>(Response::new(AxumBody::from("hello"))))
        });
        let session = Session::new(FixedToken::bearer(home(), "3f9a"));
        let replay = Buffer::up_to(65_536).into_body(AxumBody::new);
        let layer = session.layer().replay(replay);
        let to_axum = MapResponseLayer::new(|response: Response<SessionBody<AxumBody>>| {
            response.map(AxumBody::new)
        });
        let client = ServiceBuilder::new()
            .option_layer(with_session.then_some((to_axum, layer)))
            .map_err(BoxError::from)
            .service(http);
        let request = Request::get(HOME).body(AxumBody::empty()).unwrap();
        let response = client.oneshot(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "hello");
        assert_eq!(*seen.lock().unwrap(), [with_session]);
    }
}

#[tokio::test]
async fn the_default_response_body_is_empty() {
    let body = SessionBody::<Full<Bytes>>::default();
    assert!(body.is_end_stream());
    assert!(body.collect().await.unwrap().to_bytes().is_empty());
}

#[test]
fn the_public_types_cross_threads() {
    fn both<T: Send + Sync + 'static>() {}
    fn sent<T: Send>(_: T) {}

    both::<Session>();
    both::<SessionBuilder>();
    both::<SessionLayer>();
    both::<SessionService<ScriptedService>>();
    both::<SessionBody<Full<Bytes>>>();
    both::<Token>();
    both::<InvalidToken>();
    both::<Error>();
    both::<CloseError>();
    both::<Reauth>();
    both::<ReauthFailure>();
    both::<Profile>();
    both::<Rejection>();
    both::<Origin>();
    both::<InvalidOrigin>();
    both::<ProviderError>();
    both::<LoginContext>();
    both::<LogoutContext>();
    both::<PasswordContext>();
    both::<PasswordChange>();
    both::<Event>();
    both::<Events>();
    both::<Stats>();
    both::<Status>();

    fn future<T: Send + 'static>() {}
    future::<ResponseFuture<ScriptedService, Auto, Full<Bytes>, Full<Bytes>>>();

    let session = Session::new(ScriptedProvider::new(home()));
    let mut events = session.events();
    sent(session.token());
    sent(session.login());
    sent(session.renew());
    sent(session.logout());
    sent(session.close(SECOND));
    sent(session.change_password(PasswordChange::to("new")));
    sent(events.recv());
    let logout = LogoutContext::new(Token::bearer("3f9a").unwrap(), LogoutReason::LoggedOut);
    sent(logout.credentials());
}

// Addresses.

/// Returns the errors of `Api` and of `ControlM` for the base address `base`.
fn errors_of_base(base: &Uri) -> [Option<InvalidOrigin>; 2] {
    let http = ScriptedService::new();
    let api: Result<Api<_>, _> = Api::new(http.clone(), base.clone());
    let credentials = Credentials::new("emuser", "secret");
    let controlm: Result<ControlM<_, Full<Bytes>>, _> =
        ControlM::new(http, base.clone(), credentials);
    [api.err(), controlm.err()]
}

#[test]
fn a_bad_address_is_not_an_origin_and_not_a_base_address() {
    for (address, expected) in [
        ("/automation-api", InvalidOrigin::NotAbsolute),
        ("api.test", InvalidOrigin::NotAbsolute),
        ("api.test:8443", InvalidOrigin::NotAbsolute),
        ("*", InvalidOrigin::NotAbsolute),
        ("https://api.test:99999", InvalidOrigin::Port),
        ("http://api.test:65536/x", InvalidOrigin::Port),
        ("https://emuser:secret@api.test", InvalidOrigin::Userinfo),
        ("https://emuser@api.test:8443/x", InvalidOrigin::Userinfo),
    ] {
        let found = address.parse::<Origin>().map(Profile::at);
        assert_eq!(found.unwrap_err(), expected, "{address}");
        let uri: Uri = address.parse().unwrap();
        assert_eq!(
            Origin::try_from(uri.clone()).unwrap_err(),
            expected,
            "{address}"
        );
        assert_eq!(errors_of_base(&uri), [Some(expected); 2], "{address}");
    }
    for address in ["", "https://api .test", "https://", "https://[::1"] {
        let found = address.parse::<Origin>().map(Profile::at);
        assert_eq!(found.unwrap_err(), InvalidOrigin::NotAUri, "{address}");
    }
}

#[test]
fn some_origins_are_not_base_addresses() {
    for (address, expected) in [
        ("wss://api.test", InvalidOrigin::Scheme),
        ("ftp://api.test/x", InvalidOrigin::Scheme),
        ("https://api.test?tenant=7", InvalidOrigin::Query),
        ("https://api.test/x?", InvalidOrigin::Query),
    ] {
        let _ = Profile::at(address.parse().unwrap());
        let base = address.parse().unwrap();
        assert_eq!(errors_of_base(&base), [Some(expected); 2], "{address}");
    }
    let long = format!("https://api.test/{}", "x".repeat(65_510));
    let _ = Profile::at(long.parse().unwrap());
    let [_, controlm] = errors_of_base(&long.parse().unwrap());
    assert_eq!(controlm, Some(InvalidOrigin::TooLong));
}

#[test]
fn an_invalid_origin_quotes_nothing_of_the_address() {
    for address in ["https://emuser:secret@api.test", "https://secret .test"] {
        let error = address.parse::<Origin>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"));
    }
}

// The context of a login.

/// A service that rejects a request with these challenges, if it does.
fn challenging(challenges: &'static [&'static str]) -> ScriptedService {
    ScriptedService::new().rejecting_with(move |_| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        for challenge in challenges {
            let challenge = HeaderValue::from_static(challenge);
            response.headers_mut().append(WWW_AUTHENTICATE, challenge);
        }
        response
    })
}

#[tokio::test(start_paused = true)]
async fn a_login_gets_the_challenge_of_the_rejection_that_started_it() {
    let provider = ScriptedProvider::new(home());
    let session = Session::new(provider.clone());
    let service = challenging(&[r#"Bearer error="insufficient_user_authentication""#]);
    service.accept_only(["token-2"]);
    assert_eq!(send(&session, &service).await.status(), StatusCode::OK);
    assert_eq!(provider.reasons(), [Reason::Initial, Reason::Rejected]);
    let challenge = r#"Bearer error="insufficient_user_authentication""#;
    assert_eq!(challenges(&provider), [None, Some(challenge.to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn several_challenges_are_joined_with_a_comma() {
    let provider = ScriptedProvider::new(home());
    let session = Session::new(provider.clone());
    let service = challenging(&[r#"Bearer realm="a""#, r#"Basic realm="b""#]);
    service.accept_only(["token-2"]);
    assert_eq!(send(&session, &service).await.status(), StatusCode::OK);
    let joined = r#"Bearer realm="a", Basic realm="b""#;
    assert_eq!(challenges(&provider), [None, Some(joined.to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_without_a_challenge_starts_a_login_without_one() {
    let provider = ScriptedProvider::new(home());
    let session = Session::new(provider.clone());
    let service = challenging(&[]);
    service.accept_only(["token-2"]);
    assert_eq!(send(&session, &service).await.status(), StatusCode::OK);
    assert_eq!(challenges(&provider), [None, None]);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_that_joins_a_login_leaves_no_challenge_to_a_later_one() {
    let provider = ScriptedProvider::new(home());
    let session = Session::new(provider.clone());
    session.token().await.unwrap();
    let service = challenging(&["Bearer"]);
    service.accept_only(["token-2"]);
    let login = Gate::closed();
    provider.on_login(Answer::usual().held_at(&login));
    let joining = Gate::closed();
    service.hold_next(&joining);
    let late = tokio::spawn({
        let (session, service) = (session.clone(), service.clone());
        async move { send(&session, &service).await }
    });
    joining.reached(1).await;
    let first = tokio::spawn({
        let (session, service) = (session.clone(), service.clone());
        async move { send(&session, &service).await }
    });
    login.reached(1).await;
    joining.open();
    // Until the second rejection waits for the login too.
    sleep(SECOND).await;
    login.open();
    assert_eq!(first.await.unwrap().status(), StatusCode::OK);
    assert_eq!(late.await.unwrap().status(), StatusCode::OK);

    session.login().await.unwrap();
    session.renew().await.unwrap();
    let bearer = Some("Bearer".to_owned());
    assert_eq!(challenges(&provider), [None, bearer, None, None]);
}

#[tokio::test(start_paused = true)]
async fn a_late_rejection_leaves_no_challenge_to_a_later_login() {
    let provider = ScriptedProvider::new(home());
    let session = Session::new(provider.clone());
    session.token().await.unwrap();
    let service = challenging(&["Bearer"]);
    service.accept_only(["token-2"]);
    let held = Gate::closed();
    service.hold_next(&held);
    let late = tokio::spawn({
        let (session, service) = (session.clone(), service.clone());
        async move { send(&session, &service).await }
    });
    held.reached(1).await;
    session.renew().await.unwrap();
    held.open();
    assert_eq!(late.await.unwrap().status(), StatusCode::OK);

    session.reject(&session.token().await.unwrap());
    session.token().await.unwrap();
    session.logout().await.unwrap();
    session.login().await.unwrap();
    use Reason::{Initial, Rejected, Requested};
    assert_eq!(
        provider.reasons(),
        [Initial, Requested, Rejected, Requested]
    );
    assert_eq!(challenges(&provider), [None, None, None, None]);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_during_a_password_change_keeps_its_challenge_for_the_login_after_it() {
    let provider = ScriptedProvider::new(home());
    let session = Session::new(provider.clone());
    session.token().await.unwrap();
    let service = challenging(&["Bearer"]);
    service.accept_only(["token-2"]);
    let change = Gate::closed();
    provider.on_change_password(Answer::usual().held_at(&change));
    let changing = tokio::spawn({
        let session = session.clone();
        async move { session.change_password(PasswordChange::to("new")).await }
    });
    change.reached(1).await;
    let rejected = tokio::spawn({
        let (session, service) = (session.clone(), service.clone());
        async move { send(&session, &service).await }
    });
    sleep(SECOND).await;
    change.open();
    changing.await.unwrap().unwrap();
    assert_eq!(rejected.await.unwrap().status(), StatusCode::OK);
    assert_eq!(challenges(&provider), [None, Some("Bearer".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn only_a_login_that_an_operator_started_is_forced() {
    let issue = |number| {
        let token = Token::bearer(format!("token-{number}")).unwrap();
        token.lives_for(Duration::from_secs(3600))
    };
    let provider = ScriptedProvider::new(home()).issuing(issue);
    let session = Session::new(provider.clone());
    session.token().await.unwrap();
    session.renew().await.unwrap();
    session.reject(&session.token().await.unwrap());
    session.token().await.unwrap();
    // Its successor is not used, and expires.
    sleep(Duration::from_secs(8000)).await;
    session.token().await.unwrap();
    session.login().await.unwrap();
    session.logout().await.unwrap();
    session.login().await.unwrap();

    let all: Vec<_> = logins(&provider)
        .iter()
        .map(|cx| (cx.reason(), cx.is_forced()))
        .collect();
    assert_eq!(
        all,
        [
            (Reason::Initial, false),
            (Reason::Requested, false),
            (Reason::Rejected, false),
            (Reason::Expiring, false),
            (Reason::Expired, false),
            (Reason::Requested, true),
            (Reason::Requested, true),
        ]
    );
}

// The context of a logout.

#[tokio::test(start_paused = true)]
async fn a_logout_is_told_its_reason() {
    let provider = ScriptedProvider::new(home().logout_ends(LogoutEnds::Token));
    let session = Session::new(provider.clone());
    session.token().await.unwrap();
    session.renew().await.unwrap();
    session.accept(&session.token().await.unwrap());
    sleep(SECOND).await;
    session.logout().await.unwrap();
    session.login().await.unwrap();
    session.close(SECOND).await.unwrap();
    use LogoutReason::{Closed, LoggedOut, Replaced};
    assert_eq!(logout_reasons(&provider), [Replaced, LoggedOut, Closed]);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_arrives_after_the_last_handle_was_dropped_is_logged_out_as_closed() {
    let provider = ScriptedProvider::new(home());
    let login = Gate::closed();
    provider.on_login(Answer::usual().held_at(&login));
    let session = Session::new(provider.clone());
    let waiting = timeout(SECOND, session.token()).await;
    waiting.expect_err("the login is held");
    drop(session);
    login.open();
    sleep(SECOND).await;
    assert_eq!(logout_reasons(&provider), [LogoutReason::Closed]);
}

/// A provider whose logout asks for the credentials, as a token revocation does.
#[derive(Clone)]
struct Revoking {
    source: Option<Source>,
    is_refusing: Arc<Mutex<bool>>,
    /// What each logout got.
    given: Arc<Mutex<Vec<Result<Credentials, ProviderErrorKind>>>>,
}

impl Revoking {
    fn new(source: Option<Source>) -> Self {
        Self {
            source,
            is_refusing: Arc::default(),
            given: Arc::default(),
        }
    }

    /// Returns the user of each logout, or why there was none.
    fn given(&self) -> Vec<Result<String, ProviderErrorKind>> {
        let given = self.given.lock().unwrap();
        let username = |credentials: Credentials| credentials.username().to_owned();
        let given = given.iter().cloned();
        given.map(|given| given.map(username)).collect()
    }
}

impl CredentialProvider for Revoking {
    fn profile(&self) -> Profile {
        home()
    }

    fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    async fn login(&self, cx: LoginContext) -> Result<Token, ProviderError> {
        // Otherwise a refusal may be about the token that is replaced.
        let _ = cx.credentials();
        match *self.is_refusing.lock().unwrap() {
            true => Err(ProviderError::refused("wrong password")),
            false => Ok(Token::bearer("3f9a")?),
        }
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        let given = cx.credentials().await;
        let given = given.map_err(|error| error.kind());
        self.given.lock().unwrap().push(given);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_logout_can_send_the_credentials_of_the_source() {
    let provider = Revoking::new(Some(Credentials::new("emuser", "secret").into()));
    let session = Session::new(provider.clone());
    session.token().await.unwrap();
    session.logout().await.unwrap();
    assert_eq!(provider.given(), [Ok("emuser".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_logout_gets_no_refused_credentials() {
    let provider = Revoking::new(Some(Credentials::new("emuser", "secret").into()));
    let session = Session::new(provider.clone());
    session.token().await.unwrap();
    *provider.is_refusing.lock().unwrap() = true;
    let refused = session.renew().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    session.logout().await.unwrap();
    assert_eq!(provider.given(), [Err(ProviderErrorKind::Refused)]);
}

#[tokio::test(start_paused = true)]
async fn a_logout_without_a_source_gets_no_credentials() {
    let provider = Revoking::new(None);
    let session = Session::new(provider.clone());
    session.token().await.unwrap();
    session.logout().await.unwrap();
    assert_eq!(provider.given(), [Err(ProviderErrorKind::Unsupported)]);

    let token = Token::bearer("3f9a").unwrap();
    let cx = LogoutContext::new(token, LogoutReason::LoggedOut);
    let error = cx.credentials().await.unwrap_err();
    assert_eq!(error.kind(), ProviderErrorKind::Unsupported);
    let cx = cx.with_credentials(Credentials::new("emuser", "secret"));
    assert_eq!(cx.credentials().await.unwrap().username(), "emuser");
}

// Login systems without a logout.

#[tokio::test(start_paused = true)]
async fn tokens_that_a_logout_cannot_end_are_discarded() {
    let provider = ScriptedProvider::new(home().logout_ends(LogoutEnds::Nothing));
    let session = Session::new(provider.clone());
    let discarded = || session.stats().ended(TokenEnd::Discarded);
    session.token().await.unwrap();
    session.renew().await.unwrap();
    sleep(10 * SECOND).await;
    assert_eq!(discarded(), 1, "the replaced token");
    session.logout().await.unwrap();
    assert_eq!(discarded(), 2);
    assert_eq!(error_of(&session).await.kind(), ErrorKind::LoggedOut);
    session.login().await.unwrap();
    session.close(SECOND).await.unwrap();
    assert_eq!(discarded(), 3);
    assert_eq!(provider.logouts(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_a_logout_cannot_end_is_rejected_or_discarded_with_its_last_handle() {
    let provider = ScriptedProvider::new(home().logout_ends(LogoutEnds::Nothing));
    let session = Session::new(provider.clone());
    let mut events = session.events();
    session.reject(&session.token().await.unwrap());
    session.token().await.unwrap();
    drop(session);
    let mut ends = Vec::new();
    while let Some(event) = events.recv().await {
        if let Event::TokenEnded {
            generation, end, ..
        } = event
        {
            ends.push((generation, end));
        }
    }
    assert_eq!(ends, [(1, TokenEnd::Rejected), (2, TokenEnd::Discarded)]);
    assert_eq!(provider.logouts(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_a_logout_cannot_end_may_arrive_after_the_last_handle_was_dropped() {
    let provider = ScriptedProvider::new(home().logout_ends(LogoutEnds::Nothing));
    let login = Gate::closed();
    provider.on_login(Answer::usual().held_at(&login));
    let session = Session::new(provider.clone());
    let waiting = timeout(SECOND, session.token()).await;
    waiting.expect_err("the login is held");
    drop(session);
    login.open();
    sleep(SECOND).await;
    assert_eq!(provider.logouts(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_logout_during_a_login_discards_the_token_that_cannot_be_ended() {
    let provider = ScriptedProvider::new(home().logout_ends(LogoutEnds::Nothing));
    let login = Gate::closed();
    provider.on_login(Answer::usual().held_at(&login));
    let session = Session::new(provider.clone());
    let waiting = tokio::spawn({
        let session = session.clone();
        async move { session.token().await.unwrap_err().kind() }
    });
    login.reached(1).await;
    let logout = tokio::spawn({
        let session = session.clone();
        async move { session.logout().await }
    });
    assert_eq!(waiting.await.unwrap(), ErrorKind::LoggedOut);
    login.open();
    logout.await.unwrap().unwrap();
    assert_eq!(session.stats().ended(TokenEnd::Discarded), 1);
    assert_eq!(provider.logouts(), 0);
}

// Errors of a login.

/// A failed login, and the kind of the session's error.
type Failure = (fn() -> ProviderError, ErrorKind);

/// The failures that pass only if somebody acts.
const NEED_ACTION: [Failure; 2] = [
    (
        || ProviderError::password_expired("change it"),
        ErrorKind::PasswordExpired,
    ),
    (
        || ProviderError::interaction_required("a second factor"),
        ErrorKind::InteractionRequired,
    ),
];

#[tokio::test(start_paused = true)]
async fn a_login_that_needs_a_person_is_not_repeated_by_itself() {
    for (failure, kind) in NEED_ACTION {
        for source in [Some(Credentials::new("emuser", "secret")), None] {
            let mut provider = ScriptedProvider::new(home());
            if let Some(source) = source {
                provider = provider.with_source(source);
            }
            provider.on_login(failure());
            provider.on_login(failure());
            let session = Session::new(provider.clone());
            assert_eq!(error_of(&session).await.kind(), kind);
            for _ in 0..5 {
                // The source is asked again each 10 s at most.
                sleep(11 * SECOND).await;
                assert_eq!(error_of(&session).await.kind(), kind);
                assert_eq!(session.renew().await.unwrap_err().kind(), kind);
            }
            assert_eq!(provider.logins(), 1);

            assert_eq!(session.login().await.unwrap_err().kind(), kind);
            assert_eq!(provider.logins(), 2);
            sleep(11 * SECOND).await;
            assert_eq!(error_of(&session).await.kind(), kind);
            assert_eq!(provider.logins(), 2);

            session.login().await.unwrap();
            session.token().await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_password_in_the_source_ends_an_expired_one() {
    let password = Arc::new(Mutex::new("old"));
    let read = password.clone();
    let source = Source::from_fn(move || {
        let password = *read.lock().unwrap();
        async move { Ok(Credentials::new("emuser", password)) }
    });
    let provider = ScriptedProvider::new(home()).with_source(source);
    provider.on_login(ProviderError::password_expired("change it"));
    let session = Session::new(provider.clone());
    let expired = ErrorKind::PasswordExpired;
    assert_eq!(error_of(&session).await.kind(), expired);
    *password.lock().unwrap() = "new";
    assert_eq!(error_of(&session).await.kind(), expired, "not asked yet");
    sleep(11 * SECOND).await;
    // Waits for the login that asks the source.
    session.token().await.unwrap();
    assert_eq!(provider.logins(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_expired_password_resolves_an_uncertain_change_and_no_other_is_sent() {
    let source = Credentials::new("emuser", "old");
    let provider = ScriptedProvider::new(home()).with_source(source);
    provider.on_change_password(ProviderError::uncertain("the answer was lost"));
    let session = Session::new(provider.clone());
    session.token().await.unwrap();
    let change = session.change_password(PasswordChange::to("new")).await;
    assert_eq!(change.unwrap_err().kind(), ErrorKind::Uncertain);

    provider.on_login(ProviderError::password_expired("change it"));
    let expired = session.renew().await.unwrap_err();
    assert_eq!(expired.kind(), ErrorKind::PasswordExpired);
    for _ in 0..3 {
        sleep(11 * SECOND).await;
        let expired = session.renew().await.unwrap_err();
        assert_eq!(expired.kind(), ErrorKind::PasswordExpired);
    }
    let sent = logins(&provider);
    let sent: Vec<_> = sent
        .iter()
        .map(|cx| cx.credentials().unwrap().password().expose_secret())
        .collect();
    assert_eq!(sent, ["old", "old"]);
}

#[tokio::test(start_paused = true)]
async fn a_token_exchange_that_needs_a_person_says_nothing_about_the_password() {
    let provider = ScriptedProvider::new(home()).with_source(Credentials::new("emuser", "secret"));
    let session = Session::new(provider.clone());
    session.token().await.unwrap();
    // Fails without having asked for the password.
    provider.on_login(ProviderError::interaction_required("a consent"));
    let failed = session.renew().await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::InteractionRequired);
    sleep(11 * SECOND).await;
    // Asks the source, and may send its password.
    let _ = session.renew().await;
    sleep(SECOND).await;
    session.renew().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_logout_context_that_outlives_its_session_holds_nothing() {
    let kept = Arc::new(Mutex::new(None));
    struct Keeps(Arc<Mutex<Option<LogoutContext>>>, Source);
    impl CredentialProvider for Keeps {
        fn profile(&self) -> Profile {
            home().logout_ends(LogoutEnds::Token)
        }

        fn source(&self) -> Option<&Source> {
            Some(&self.1)
        }

        async fn login(&self, cx: LoginContext) -> Result<Token, ProviderError> {
            cx.credentials()?;
            Ok(Token::bearer("token")?)
        }

        async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
            cx.credentials().await?;
            *self.0.lock().unwrap() = Some(cx);
            Ok(())
        }
    }
    let source = Source::from(Credentials::new("emuser", "secret"));
    let session = Session::new(Keeps(kept.clone(), source));
    session.token().await.unwrap();
    session.logout().await.unwrap();
    drop(session);
    assert_eq!(Arc::strong_count(&kept), 1, "the provider is gone");
    let context = kept.lock().unwrap().take().unwrap();
    let error = context.credentials().await.unwrap_err();
    assert_eq!(error.kind(), ProviderErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_login_to_a_locked_account_backs_off_and_is_repeated() {
    let source = Credentials::new("emuser", "secret");
    let provider = ScriptedProvider::new(home()).with_source(source);
    provider.on_login(ProviderError::locked("too many attempts"));
    provider.on_login(ProviderError::locked("still").with_retry_after(90 * SECOND));
    let session = Session::new(provider.clone());
    let locked = error_of(&session).await;
    assert_eq!(locked.kind(), ErrorKind::Locked);
    assert_eq!(error_of(&session).await.kind(), ErrorKind::Locked);
    assert_eq!(provider.logins(), 1, "it backs off");

    sleep(locked.retry_after().unwrap()).await;
    let locked = error_of(&session).await;
    assert_eq!(locked.kind(), ErrorKind::Locked);
    assert_eq!(provider.logins(), 2);
    let delay = locked.retry_after().unwrap();
    assert!(delay >= 90 * SECOND, "{delay:?}");

    sleep(delay).await;
    session.token().await.unwrap();
    assert_eq!(provider.logins(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_request_fails_with_the_kind_of_the_failed_login() {
    let failures = [
        (
            (|| ProviderError::locked("too many attempts")) as fn() -> ProviderError,
            ErrorKind::Locked,
        ),
        (
            || ProviderError::not_sent("connection refused"),
            ErrorKind::Unavailable,
        ),
    ];
    for (failure, kind) in NEED_ACTION.into_iter().chain(failures) {
        let provider = ScriptedProvider::new(home());
        provider.on_login(failure());
        let session = Session::new(provider);
        let service = ScriptedService::new();
        let client = session.layer().layer(service.clone());
        let error = client.oneshot(get()).await.unwrap_err();
        assert_eq!(Error::find(&*error).map(Error::kind), Some(kind));
        assert_eq!(service.requests(), 0);
    }
}

// A replay strategy that takes the whole request.

/// Keeps each body from its request, and counts them.
#[derive(Clone, Default)]
struct Whole(Arc<AtomicUsize>);

impl Replay<Full<Bytes>> for Whole {
    type Body = Full<Bytes>;
    type Kept = Full<Bytes>;

    fn keep(&self, _: Full<Bytes>) -> (Full<Bytes>, Option<Full<Bytes>>) {
        panic!("the request need not be taken apart");
    }

    fn keep_request(
        &self,
        request: Request<Full<Bytes>>,
    ) -> (Request<Full<Bytes>>, Option<Full<Bytes>>) {
        self.0.fetch_add(1, Relaxed);
        let kept = request.body().clone();
        (request, Some(kept))
    }

    fn again(kept: Full<Bytes>) -> Option<Full<Bytes>> {
        Some(kept)
    }
}

#[tokio::test(start_paused = true)]
async fn a_strategy_that_takes_the_whole_request_is_asked_on_every_way() {
    let session = Session::new(ScriptedProvider::new(home()));
    let service = ScriptedService::new();
    let whole = Whole::default();
    let client = session.layer().replay(whole.clone()).layer(service.clone());
    let mut anonymous = get();
    anonymous.extensions_mut().insert(Anonymous);
    // In turn: after a login, with a live token, without a token.
    for (request, kept) in [(get(), 1), (get(), 2), (anonymous, 3)] {
        client.clone().oneshot(request).await.unwrap();
        assert_eq!(whole.0.load(Relaxed), kept);
    }
    service.accept_only(["token-2"]);
    let response = client.oneshot(get()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "replayed");
    assert_eq!(service.tokens().last().unwrap(), "token-2");
}

// The times of a refresh and of a login.

#[tokio::test(start_paused = true)]
async fn a_token_is_refreshed_when_the_server_says_or_else_the_builder() {
    let minutes = |count: u64| Duration::from_secs(60 * count);
    for (servers, builders, expected) in [
        (None, Some(10), 50),
        // At most half the lifetime ahead.
        (None, Some(50), 30),
        (Some(20), None, 20),
        (Some(20), Some(10), 20),
    ] {
        let issue = move |number| {
            let token = Token::bearer(format!("token-{number}")).unwrap();
            let token = token.lives_for(minutes(60));
            match servers {
                Some(delay) => token.refresh_in(minutes(delay)),
                None => token,
            }
        };
        let provider = ScriptedProvider::new(home()).issuing(issue);
        let mut session = Session::builder(provider.clone()).keep_alive();
        if let Some(ahead) = builders {
            session = session.refresh_before(minutes(ahead));
        }
        let session = session.build();
        session.token().await.unwrap();
        let refresh = Gate::closed();
        provider.on_login(Answer::usual().held_at(&refresh));
        let begun = Instant::now();
        let reached = timeout(minutes(120), refresh.reached(1)).await;
        assert!(reached.is_ok(), "{servers:?}, {builders:?}: no refresh");
        assert_eq!(
            begun.elapsed().as_secs(),
            minutes(expected).as_secs(),
            "{servers:?}, {builders:?}"
        );
        assert_eq!(provider.reasons(), [Reason::Initial, Reason::Expiring]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_builders_login_timeout_precedes_the_profiles() {
    let profiles = |seconds: u64| home().login_timeout(Duration::from_secs(seconds));
    for (profile, builders, expected) in [
        (home(), None, 30),
        (profiles(300), None, 300),
        (profiles(300), Some(2), 2),
        (profiles(2), Some(300), 300),
        (home(), Some(7), 7),
    ] {
        let provider = ScriptedProvider::new(profile);
        provider.on_login(Answer::never());
        let mut session = Session::builder(provider);
        if let Some(builders) = builders {
            session = session.login_timeout(Duration::from_secs(builders));
        }
        let session = session.build();
        let begun = Instant::now();
        assert_eq!(error_of(&session).await.kind(), ErrorKind::DeadlineExceeded);
        assert_eq!(begun.elapsed(), Duration::from_secs(expected));
    }
}
