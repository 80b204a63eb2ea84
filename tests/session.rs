//! A session through its public API, over a scripted service and provider, on
//! virtual time.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use tokio::time::{sleep, timeout};
use tower::{BoxError, Service, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_reauth::credentials::{Record, Version};
use tower_reauth::{
    CredentialProvider, CredentialStore, Credentials, Error, ErrorKind, ExposeSecret, IfEmpty,
    LoginContext, LogoutContext, LogoutEnds, Never, PasswordChange, PasswordContext, Profile,
    ProviderError, Reauth, ReauthFailure, Rejection, Session, Source, SourceError, Token,
};

const HOME: &str = "https://api.test/x";

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, ProviderError>> + Send>>;
type Script<I, T> = Mutex<VecDeque<Box<dyn FnOnce(I) -> Answer<T> + Send>>>;

/// A provider that does as its script says, and succeeds once that is over.
#[derive(Default)]
struct Provider {
    profile: Profile,
    source: Option<Source>,
    /// Whether it logs in without the password.
    asks_nothing: bool,
    logins: Script<LoginContext, Token>,
    logouts: Script<LogoutContext, ()>,
    changes: Script<PasswordContext, ()>,
    log: Mutex<Vec<String>>,
    issued: AtomicUsize,
}

#[derive(Clone)]
struct Scripted(Arc<Provider>);

impl Scripted {
    fn new() -> Self {
        Self::of(Provider::default())
    }

    fn of(mut provider: Provider) -> Self {
        provider.profile = provider.profile.also_at(HOME.parse().unwrap());
        Self(Arc::new(provider))
    }

    fn with_source(source: impl Into<Source>) -> Self {
        Self::of(Provider {
            source: Some(source.into()),
            ..Provider::default()
        })
    }

    fn that_asks_nothing(source: impl Into<Source>) -> Self {
        Self::of(Provider {
            source: Some(source.into()),
            asks_nothing: true,
            ..Provider::default()
        })
    }

    fn rejecting(rejection: Rejection) -> Self {
        Self::of(Provider {
            profile: Profile::default().rejection(rejection),
            ..Provider::default()
        })
    }

    fn on_login<F>(&self, then: impl FnOnce(LoginContext) -> F + Send + 'static) -> &Self
    where
        F: Future<Output = Result<Token, ProviderError>> + Send + 'static,
    {
        let then = Box::new(move |cx| Box::pin(then(cx)) as Answer<Token>);
        self.0.logins.lock().unwrap().push_back(then);
        self
    }

    fn on_logout<F>(&self, then: impl FnOnce(LogoutContext) -> F + Send + 'static) -> &Self
    where
        F: Future<Output = Result<(), ProviderError>> + Send + 'static,
    {
        let then = Box::new(move |cx| Box::pin(then(cx)) as Answer<()>);
        self.0.logouts.lock().unwrap().push_back(then);
        self
    }

    fn on_change<F>(&self, then: impl FnOnce(PasswordContext) -> F + Send + 'static) -> &Self
    where
        F: Future<Output = Result<(), ProviderError>> + Send + 'static,
    {
        let then = Box::new(move |cx| Box::pin(then(cx)) as Answer<()>);
        self.0.changes.lock().unwrap().push_back(then);
        self
    }

    fn log(&self) -> Vec<String> {
        self.0.log.lock().unwrap().clone()
    }

    fn note(&self, what: impl Into<String>) {
        self.0.log.lock().unwrap().push(what.into());
    }

    fn logins(&self) -> usize {
        let log = self.log();
        log.iter().filter(|what| what.starts_with("login")).count()
    }

    fn issue(&self) -> Token {
        Token::bearer(format!("t{}", self.0.issued.fetch_add(1, SeqCst) + 1)).unwrap()
    }
}

fn bearer(token: &Token) -> String {
    let (_, value) = token.headers().next().unwrap();
    value.to_str().unwrap().to_owned()
}

impl CredentialProvider for Scripted {
    fn profile(&self) -> Profile {
        self.0.profile.clone()
    }

    fn source(&self) -> Option<&Source> {
        self.0.source.as_ref()
    }

    async fn login(&self, cx: LoginContext) -> Result<Token, ProviderError> {
        let with = match self.0.asks_nothing {
            true => String::new(),
            false => cx.credentials().map_or_else(
                |_| String::new(),
                |with| format!(" {}", with.password().expose_secret()),
            ),
        };
        self.note(format!("login{with}"));
        let next = self.0.logins.lock().unwrap().pop_front();
        match next {
            Some(next) => next(cx).await,
            None => Ok(self.issue()),
        }
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        self.note(format!("logout {}", bearer(cx.token())));
        let next = self.0.logouts.lock().unwrap().pop_front();
        match next {
            Some(next) => next(cx).await,
            None => Ok(()),
        }
    }

    async fn change_password(&self, cx: PasswordContext) -> Result<(), ProviderError> {
        self.note("change");
        let next = self.0.changes.lock().unwrap().pop_front();
        match next {
            Some(next) => next(cx).await,
            None => Ok(()),
        }
    }
}

type Body = BoxBody<Bytes, BoxError>;
type Http = BoxCloneSyncService<Request<Full<Bytes>>, Response<Body>, Infallible>;

fn full(text: &'static str) -> Body {
    Full::from(text).map_err(|never| match never {}).boxed()
}

fn answer(status: u16, text: &'static str) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn sent_token(request: &Request<Full<Bytes>>) -> String {
    let value = request.headers().get("authorization");
    value.map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
}

/// A server that accepts the bearer tokens that `accepts` says.
fn server(accepts: impl Fn(&str) -> bool + Clone + Send + Sync + 'static) -> (Http, Seen) {
    let seen = Seen::default();
    let log = seen.clone();
    let service = service_fn(move |request: Request<Full<Bytes>>| {
        let token = sent_token(&request);
        let ok = accepts(token.strip_prefix("Bearer ").unwrap_or(""));
        log.0.lock().unwrap().push(token);
        async move {
            sleep(Duration::from_millis(10)).await;
            Ok(match ok {
                true => answer(200, "ok"),
                false => answer(401, "rejected"),
            })
        }
    });
    (BoxCloneSyncService::new(service), seen)
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn tokens(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

fn get() -> Request<Full<Bytes>> {
    Request::get(HOME).body(Full::default()).unwrap()
}

fn kind(error: &BoxError) -> ErrorKind {
    Error::find(&**error)
        .expect("an error of the session")
        .kind()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(200), future)
        .await
        .expect("must not hang")
}

fn unavailable<T>() -> Result<T, ProviderError> {
    Err(ProviderError::unavailable("down"))
}

/// A store whose writes may hang.
#[derive(Clone)]
struct Writes {
    kept: Arc<Mutex<(Record, u64)>>,
    hangs: Arc<Mutex<Hangs>>,
}

/// Returns whether the write of this record hangs.
type Hangs = Box<dyn FnMut(&serde_json::Value) -> bool + Send>;

impl Writes {
    fn new(password: &str) -> Self {
        Self::that_hang(password, |_| false)
    }

    fn that_hang(
        password: &str,
        hangs: impl FnMut(&serde_json::Value) -> bool + Send + 'static,
    ) -> Self {
        Self {
            kept: Arc::new(Mutex::new((Record::new("u", password), 0))),
            hangs: Arc::new(Mutex::new(Box::new(hangs))),
        }
    }

    fn json(&self) -> serde_json::Value {
        json(&self.kept.lock().unwrap().0)
    }

    /// The current password, and the others in their order.
    fn passwords(&self) -> Vec<String> {
        let record = self.json();
        let others = record["others"].as_array().into_iter().flatten();
        std::iter::once(&record)
            .chain(others)
            .map(|password| password["password"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn json(record: &Record) -> serde_json::Value {
    serde_json::from_str(record.to_json().expose_secret()).unwrap()
}

impl CredentialStore for Writes {
    async fn load(&self) -> Result<(Record, Version), SourceError> {
        let kept = self.kept.lock().unwrap();
        Ok((kept.0.clone(), Version::from(kept.1)))
    }

    async fn store(&self, record: Record, expected: Version) -> Result<(), SourceError> {
        let hangs = (self.hangs.lock().unwrap())(&json(&record));
        if hangs {
            return pending().await;
        }
        let mut kept = self.kept.lock().unwrap();
        if Version::from(kept.1) != expected {
            return Err(SourceError::conflict());
        }
        *kept = (record, kept.1 + 1);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn all_who_need_a_token_share_one_login() {
    let provider = Scripted::new();
    let slow = provider.clone();
    provider.on_login(|_| async move {
        sleep(Duration::from_secs(1)).await;
        Ok(slow.issue())
    });
    let session = Session::new(provider.clone());
    let (http, seen) = server(|token| token == "t1");
    let requests = (0..50).map(|_| tokio::spawn(session.layer_over(&http).oneshot(get())));
    for request in requests.collect::<Vec<_>>() {
        assert_eq!(soon(request).await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(provider.logins(), 1);
    assert_eq!(seen.tokens().len(), 50);
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_share_one_failure_and_nothing_is_sent() {
    let provider = Scripted::new();
    provider.on_login(|_| async {
        sleep(Duration::from_secs(1)).await;
        unavailable()
    });
    let session = Session::new(provider.clone());
    let (http, seen) = server(|_| true);
    let requests = (0..50).map(|_| tokio::spawn(session.layer_over(&http).oneshot(get())));
    for request in requests.collect::<Vec<_>>() {
        let error = soon(request).await.unwrap().unwrap_err();
        assert_eq!(kind(&error), ErrorKind::Unavailable);
    }
    assert_eq!(provider.logins(), 1);
    assert!(seen.tokens().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_rejection_renews_once_and_replays_once() {
    let provider = Scripted::new();
    let session = Session::new(provider.clone());
    let (http, seen) = server(|token| token == "t2");
    let requests = (0..9).map(|_| tokio::spawn(session.layer_over(&http).oneshot(get())));
    for request in requests.collect::<Vec<_>>() {
        assert_eq!(soon(request).await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(provider.logins(), 2);
    assert_eq!(seen.tokens().len(), 18);
}

#[tokio::test(start_paused = true)]
async fn a_second_rejection_is_returned_as_it_is() {
    let session = Session::new(Scripted::new());
    let (http, seen) = server(|_| false);
    let response = soon(session.layer_over(&http).oneshot(get()))
        .await
        .unwrap();
    let reauth = response.extensions().get::<Reauth>().unwrap();
    assert!(reauth.replayed && matches!(reauth.failure, ReauthFailure::StillRejected));
    assert_eq!(seen.tokens(), ["Bearer t1", "Bearer t2"]);
    let stats = session.stats();
    let counted = (stats.rejections, stats.replays, stats.helpful_replays);
    assert_eq!(counted, (2, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_late_rejection_logs_nobody_in() {
    let provider = Scripted::new();
    let session = Session::new(provider.clone());
    let http = service_fn(|request: Request<Full<Bytes>>| async move {
        let old = sent_token(&request) == "Bearer t1";
        sleep(Duration::from_secs(if old { 5 } else { 0 })).await;
        Ok::<_, Infallible>(answer(if old { 401 } else { 200 }, ""))
    });
    let request = tokio::spawn(session.layer_over(&http).oneshot(get()));
    sleep(Duration::from_secs(1)).await;
    session.renew().await.unwrap();
    assert_eq!(soon(request).await.unwrap().unwrap().status(), 200);
    assert_eq!(provider.logins(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_late_rejection_is_replayed_with_the_newer_token_whose_renewal_failed() {
    let provider = Scripted::new();
    let session = Session::new(provider.clone());
    let http = service_fn(|request: Request<Full<Bytes>>| async move {
        let old = sent_token(&request) == "Bearer t1";
        sleep(Duration::from_secs(if old { 5 } else { 0 })).await;
        Ok::<_, Infallible>(answer(if old { 401 } else { 200 }, ""))
    });
    let request = tokio::spawn(session.layer_over(&http).oneshot(get()));
    sleep(Duration::from_secs(1)).await;
    session.renew().await.unwrap();
    provider.on_login(|_| async {
        sleep(Duration::from_secs(10)).await;
        unavailable()
    });
    session.reject(&session.token().await.unwrap());
    assert_eq!(soon(request).await.unwrap().unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_returns_the_original_response_byte_for_byte_with_its_trailers() {
    let provider = Scripted::new();
    let session = Session::new(provider.clone());
    session.login().await.unwrap();
    provider.on_login(|_| async { unavailable() });
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let http = service_fn(move |_: Request<Full<Bytes>>| {
        counted.fetch_add(1, SeqCst);
        async {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "7".parse().unwrap());
            let frames = [
                Ok::<_, Infallible>(Frame::data(Bytes::from("ab"))),
                Ok(Frame::data(Bytes::from(vec![b'c'; 20_000]))),
                Ok(Frame::data(Bytes::from("d"))),
                Ok(Frame::trailers(trailers)),
            ];
            let mut response = Response::new(Frames(frames.into()));
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            Ok::<_, Infallible>(response)
        }
    });
    let response = soon(session.layer_over(&http).oneshot(get()))
        .await
        .unwrap();
    let reauth = response.extensions().get::<Reauth>().unwrap();
    assert!(!reauth.replayed && matches!(reauth.failure, ReauthFailure::RenewalFailed(_)));
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "7");
    assert_eq!(body.to_bytes().len(), 20_003);
    assert_eq!(calls.load(SeqCst), 1);
}

/// A body of these frames.
struct Frames(VecDeque<Result<Frame<Bytes>, Infallible>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.pop_front())
    }
}

#[tokio::test(start_paused = true)]
async fn an_unsure_post_is_not_sent_again_but_the_next_request_has_a_new_token() {
    let provider = Scripted::rejecting(Rejection::body_contains(
        StatusCode::INTERNAL_SERVER_ERROR,
        "expired",
        100,
    ));
    let session = Session::new(provider);
    let calls = Seen::default();
    let seen = calls.clone();
    let http = service_fn(move |request: Request<Full<Bytes>>| {
        let token = sent_token(&request);
        seen.0.lock().unwrap().push(token.clone());
        async move {
            Ok::<_, Infallible>(match token == "Bearer t1" {
                true => answer(500, "token expired"),
                false => answer(200, ""),
            })
        }
    });
    let mut post = get();
    *post.method_mut() = Method::POST;
    let response = soon(session.layer_over(&http).oneshot(post)).await.unwrap();
    let reauth = response.extensions().get::<Reauth>().unwrap();
    assert!(matches!(reauth.failure, ReauthFailure::Unsure));
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "token expired");
    soon(session.layer_over(&http).oneshot(get()))
        .await
        .unwrap();
    assert_eq!(calls.tokens(), ["Bearer t1", "Bearer t2"]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_replayed_is_returned_and_renewed_for_the_next() {
    let session = Session::new(Scripted::new());
    let (http, seen) = server(|token| token == "t2");
    let layer = session.layer().replay(Never);
    let client = tower::Layer::layer(&layer, http.clone());
    let response = soon(client.clone().oneshot(get())).await.unwrap();
    assert_eq!(response.status(), 401);
    let client = tower::Layer::layer(&session.layer().replay(IfEmpty), http);
    assert_eq!(soon(client.oneshot(get())).await.unwrap().status(), 200);
    assert_eq!(seen.tokens(), ["Bearer t1", "Bearer t2"]);
}

#[tokio::test(start_paused = true)]
async fn one_permit_for_logins_and_requests_is_no_deadlock() {
    let (http, _) = server(|token| token != "t1");
    let http = tower::limit::ConcurrencyLimit::new(http, 1);
    let provider = Scripted::new();
    for _ in 0..2 {
        let (issuer, through) = (provider.clone(), http.clone());
        provider.on_login(|_| async move {
            through
                .oneshot(get())
                .await
                .map_err(ProviderError::unavailable)?;
            Ok(issuer.issue())
        });
    }
    let session = Session::new(provider);
    let requests = (0..5).map(|_| tokio::spawn(session.layer_over(&http).oneshot(get())));
    for request in requests.collect::<Vec<_>>() {
        assert_eq!(soon(request).await.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_kept_gives_its_permit_back_before_the_login() {
    let (http, _) = server(|_| true);
    let http = tower::limit::ConcurrencyLimit::new(http, 1);
    let provider = Scripted::new();
    let (issuer, through) = (provider.clone(), http.clone());
    provider.on_login(|_| async move {
        let login = through.oneshot(get()).await;
        login.map_err(ProviderError::unavailable)?;
        Ok(issuer.issue())
    });
    let session = Session::new(provider);
    let mut client = session.layer_over(&http);
    let sent = client.ready().await.unwrap().call(get());
    assert_eq!(soon(sent).await.unwrap().status(), 200);
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_sent_holds_no_permit() {
    let (http, _) = server(|_| true);
    let http = tower::limit::ConcurrencyLimit::new(http, 1);
    let session = Session::new(Scripted::new());
    let mut client = session.layer_over(&http);
    for uri in ["/relative", "http://api.test/x"] {
        let mut request = get();
        *request.uri_mut() = uri.parse().unwrap();
        let sent = client.ready().await.unwrap().call(request).await;
        if let Err(error) = sent {
            assert_eq!(kind(&error), ErrorKind::NoOrigin);
        }
        soon(http.clone().ready()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn callers_that_vanish_take_no_login_with_them() {
    let provider = Scripted::new();
    let slow = provider.clone();
    provider.on_login(|_| async move {
        sleep(Duration::from_secs(5)).await;
        Ok(slow.issue())
    });
    let session = Session::new(provider.clone());
    for _ in 0..3 {
        let gone = timeout(Duration::from_secs(1), session.token()).await;
        assert!(gone.is_err());
    }
    assert_eq!(bearer(&soon(session.token()).await.unwrap()), "Bearer t1");
    assert_eq!(provider.logins(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panicking_provider_is_an_error_and_leaves_the_session_usable() {
    let provider = Scripted::new();
    provider.on_login(|_| async { panic!("a defect") });
    let session = Session::new(provider);
    let error = soon(session.token()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ProviderPanicked);
    soon(session.login()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_never_answers_meets_the_deadline() {
    let provider = Scripted::new();
    provider.on_login(|_| pending());
    let session = Session::new(provider);
    let error = soon(session.token()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_beyond_the_clock_is_none() {
    let provider = Scripted::new();
    let slow = provider.clone();
    provider.on_login(|_| async move {
        sleep(Duration::from_secs(60)).await;
        Ok(slow.issue())
    });
    let session = Session::builder(provider)
        .login_timeout(Duration::MAX)
        .build();
    soon(session.token()).await.unwrap();
    soon(session.logout()).await.unwrap();
}

#[test]
fn a_runtime_that_shuts_down_is_an_error_for_those_who_wait_elsewhere() {
    let provider = Scripted::new();
    provider.on_login(|_| pending());
    let session = Session::new(provider);
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap()
    };
    let (first, second) = (runtime(), runtime());
    let mut waits = Box::pin(session.token());
    first.block_on(async {
        assert!(timeout(Duration::from_secs(1), &mut waits).await.is_err());
    });
    drop(first);
    let error = second.block_on(waits).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoRuntime);
    second.block_on(session.token()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_calls_through_its_own_session_is_told_so() {
    let provider = Scripted::new();
    let session = Session::new(provider.clone());
    let own = session.clone();
    provider.on_login(|_| async move { own.token().await.map_err(ProviderError::unavailable) });
    let error = timeout(Duration::from_secs(1), session.token()).await;
    let error = error.expect("at once").unwrap_err();
    assert_eq!(Error::find(&error).unwrap().kind(), ErrorKind::Unavailable);
    let own = session.clone();
    let told = provider.clone();
    provider.on_login(|_| async move {
        let change = own.change_password(PasswordChange::to("n")).await;
        told.note(format!("{:?}", change.unwrap_err().kind()));
        Ok(told.issue())
    });
    timeout(Duration::from_secs(1), session.login())
        .await
        .expect("at once")
        .unwrap();
    assert_eq!(provider.log().last().unwrap(), "Recursive");
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_acts_on_its_own_session_is_told_so_and_changes_nothing() {
    type Act = fn(Session) -> Pin<Box<dyn Future<Output = ErrorKind> + Send>>;
    let acts: [Act; 4] = [
        |own| Box::pin(async move { own.login().await.unwrap_err().kind() }),
        |own| Box::pin(async move { own.renew().await.unwrap_err().kind() }),
        |own| Box::pin(async move { own.logout().await.unwrap_err().kind() }),
        |own| {
            Box::pin(async move {
                let left = own.close(Duration::from_secs(1)).await.unwrap_err();
                left.logout().unwrap().kind()
            })
        },
    ];
    for act in acts {
        let provider = Scripted::new();
        let session = Session::new(provider.clone());
        let (own, told) = (session.clone(), provider.clone());
        provider.on_login(move |_| async move {
            assert_eq!(act(own).await, ErrorKind::Recursive);
            Ok(told.issue())
        });
        let token = timeout(Duration::from_secs(1), session.token()).await;
        assert_eq!(bearer(&token.expect("at once").unwrap()), "Bearer t1");
        assert_eq!(provider.log(), ["login"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_may_log_in_through_another_session() {
    let other = Session::new(Scripted::new());
    let provider = Scripted::new();
    provider.on_login(|_| async move { Ok(other.token().await.unwrap()) });
    let session = Session::new(provider);
    assert_eq!(bearer(&soon(session.token()).await.unwrap()), "Bearer t1");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_a_failed_renewal_may_have_used_up_is_not_offered_again() {
    type Failure = fn(LoginContext) -> Answer<Token>;
    let failures: [(Failure, bool); 4] = [
        (|_| Box::pin(async { unavailable() }), true),
        (
            |_| Box::pin(async { Err(ProviderError::uncertain("lost")) }),
            false,
        ),
        (|_| Box::pin(pending()), false),
        (|_| Box::pin(async { panic!("a defect") }), false),
    ];
    for (failure, is_offered) in failures {
        let provider = Scripted::new();
        let session = Session::new(provider.clone());
        session.login().await.unwrap();
        provider.on_login(failure);
        soon(session.renew()).await.unwrap_err();
        let told = provider.clone();
        provider.on_login(move |cx| async move {
            assert_eq!(cx.previous().is_some(), is_offered);
            Ok(told.issue())
        });
        soon(session.login()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_no_login_was_offered_is_not_used_up() {
    let hangs = Arc::<AtomicBool>::default();
    let told = hangs.clone();
    let source = Source::from_fn(move || {
        let hangs = told.load(SeqCst);
        async move {
            if hangs {
                return pending().await;
            }
            Ok(Credentials::new("u", "p"))
        }
    });
    let provider = Scripted::with_source(source);
    let session = Session::new(provider.clone());
    let is_offered = async || {
        let told = provider.clone();
        provider.on_login(move |cx| async move {
            assert!(cx.previous().is_some());
            Ok(told.issue())
        });
        soon(session.login()).await.unwrap();
    };
    let token = session.token().await.unwrap();

    // Where there is no runtime, no login is made.
    let elsewhere = session.clone();
    let rejects = std::thread::spawn(move || elsewhere.reject(&token));
    rejects.join().unwrap();
    assert_eq!(provider.logins(), 1);
    is_offered().await;

    // Nor is one before the source has said what to send.
    hangs.store(true, SeqCst);
    let error = soon(session.renew()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    hangs.store(false, SeqCst);
    is_offered().await;
}

#[test]
fn outside_of_a_runtime_whatever_would_log_in_says_so_and_asks_nobody() {
    fn told<T: std::fmt::Debug>(would_log_in: impl Future<Output = Result<T, Error>>) {
        let Poll::Ready(Err(error)) = tokio_test::task::spawn(would_log_in).poll() else {
            panic!("it fails at once");
        };
        assert_eq!(error.kind(), ErrorKind::NoRuntime);
    }
    let provider = Scripted::new();
    let session = Session::new(provider.clone());
    told(session.token());
    told(session.login());
    told(session.renew());
    assert_eq!(provider.log(), [""; 0]);
}

#[test]
fn on_a_runtime_without_a_timer_whatever_would_log_in_says_so_and_asks_nobody() {
    let provider = Scripted::new();
    let session = Session::new(provider.clone());
    let builder = &mut tokio::runtime::Builder::new_current_thread();
    let error = builder.build().unwrap().block_on(async {
        session.login().await.unwrap_err();
        session.token().await.unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::NoRuntime);
    let text = "login failed: there is no tokio runtime with a timer: ";
    assert!(error.to_string().starts_with(text), "{error}");
    assert_eq!(provider.log(), [""; 0]);
    let timed = builder.enable_time().build().unwrap();
    timed.block_on(session.token()).unwrap();
    // The token is used on the other, and ends there without a wait for anything.
    let untimed = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    untimed.block_on(async {
        session.token().await.unwrap();
        session.renew().await.unwrap_err();
        session.close(Duration::from_secs(1)).await.unwrap_err();
    });
}

/// A rejected response, whose body is not there yet, is returned.
#[test]
fn a_rejected_body_on_a_runtime_without_a_timer_is_returned() {
    let session = Session::builder(Scripted::new())
        .initial_token(Token::bearer("3f9a").unwrap())
        .build();
    let (mut sender, body) = http_body_util::Channel::<Bytes, Infallible>::new(1);
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let response = Arc::new(Mutex::new(Some(response)));
    let http = tower::service_fn(move |_: Request<Full<Bytes>>| {
        let response = response.lock().unwrap().take();
        std::future::ready(Ok::<_, Infallible>(response.expect("there is no replay")))
    });
    let client = tower::Layer::layer(&session.layer(), http);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let request = Request::get("https://api.test")
            .body(Full::default())
            .unwrap();
        let sent = async {
            tokio::task::yield_now().await;
            sender.send_data(Bytes::from("no")).await.unwrap();
            drop(sender);
        };
        let (response, ()) = tokio::join!(client.oneshot(request), sent);
        let response = response.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "no");
    });
}

#[tokio::test(start_paused = true)]
async fn a_password_change_outside_of_a_runtime_is_not_made_and_not_uncertain() {
    let provider = Scripted::new();
    let session = Session::new(provider.clone());
    session.login().await.unwrap();
    let change = std::thread::spawn(move || {
        let change = session.change_password(PasswordChange::to("new"));
        tokio_test::task::spawn(change).poll()
    });
    let Poll::Ready(Err(error)) = change.join().unwrap() else {
        panic!("it fails at once");
    };
    assert_eq!(error.kind(), ErrorKind::NoRuntime);
    assert_eq!(provider.log(), ["login"]);
}

#[test]
fn a_password_change_that_is_cut_off_with_its_runtime_is_uncertain() {
    let provider = Scripted::new();
    let session = Session::new(provider.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(session.login()).unwrap();
    let (asked, is_asked) = tokio::sync::oneshot::channel();
    provider.on_change(move |_| async move {
        asked.send(()).unwrap();
        pending().await
    });
    let change = session.change_password(PasswordChange::to("new"));
    let mut change = tokio_test::task::spawn(change);
    runtime.block_on(async {
        assert!(change.poll().is_pending());
        is_asked.await.unwrap();
    });
    drop(runtime);
    let Poll::Ready(Err(error)) = change.poll() else {
        panic!("it fails at once");
    };
    assert_eq!(error.kind(), ErrorKind::Uncertain);
}

#[tokio::test(start_paused = true)]
async fn a_password_change_from_within_a_renewal_is_recursive_though_a_token_is_live() {
    let provider = Scripted::with_source(Credentials::new("u", "old"));
    let session = Session::new(provider.clone());
    session.login().await.unwrap();
    let (own, told) = (session.clone(), provider.clone());
    provider.on_login(|_| async move {
        let change = own.change_password(PasswordChange::to("n")).await;
        told.note(format!("{:?}", change.unwrap_err().kind()));
        Ok(told.issue())
    });
    timeout(Duration::from_secs(1), session.renew())
        .await
        .expect("at once")
        .unwrap();
    assert_eq!(provider.log().last().unwrap(), "Recursive");
}

#[tokio::test(start_paused = true)]
async fn a_logout_during_a_login_ends_its_token_too() {
    let provider = Scripted::new();
    let slow = provider.clone();
    provider.on_login(|_| async move {
        sleep(Duration::from_secs(5)).await;
        Ok(slow.issue())
    });
    let session = Session::new(provider.clone());
    let waits = tokio::spawn({
        let session = session.clone();
        async move { session.token().await }
    });
    sleep(Duration::from_secs(1)).await;
    soon(session.logout()).await.unwrap();
    assert_eq!(
        soon(waits).await.unwrap().unwrap_err().kind(),
        ErrorKind::LoggedOut
    );
    assert_eq!(provider.log(), ["login", "logout Bearer t1"]);
}

#[tokio::test(start_paused = true)]
async fn a_second_logout_asks_nobody_and_a_login_opens_the_session_again() {
    let provider = Scripted::new();
    let session = Session::new(provider.clone());
    session.token().await.unwrap();
    soon(session.logout()).await.unwrap();
    soon(session.logout()).await.unwrap();
    assert_eq!(
        session.token().await.unwrap_err().kind(),
        ErrorKind::LoggedOut
    );
    soon(session.login()).await.unwrap();
    assert_eq!(bearer(&session.token().await.unwrap()), "Bearer t2");
    assert_eq!(provider.log(), ["login", "logout Bearer t1", "login"]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_token_is_a_successful_logout_and_a_failed_one_is_tried_again() {
    let provider = Scripted::new();
    let session = Session::new(provider.clone());
    session.token().await.unwrap();
    provider.on_logout(|_| async { unavailable() });
    provider.on_logout(|_| async { Err(ProviderError::token_rejected("dead")) });
    assert_eq!(
        soon(session.logout()).await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    soon(session.logout()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn requests_are_not_held_by_a_password_change_and_the_new_one_is_used() {
    let provider = Scripted::with_source(Credentials::new("u", "old"));
    provider.on_change(|_| async {
        sleep(Duration::from_secs(5)).await;
        Ok(())
    });
    let session = Session::new(provider.clone());
    let (http, _) = server(|_| true);
    soon(session.layer_over(&http).oneshot(get()))
        .await
        .unwrap();
    let gone = timeout(
        Duration::from_secs(1),
        session.change_password(PasswordChange::to("new")),
    );
    assert!(gone.await.is_err());
    let request = session.layer_over(&http).oneshot(get());
    timeout(Duration::from_secs(1), request)
        .await
        .expect("not held")
        .unwrap();
    soon(session.login()).await.unwrap();
    assert_eq!(provider.log(), ["login old", "change", "login new"]);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_cannot_be_written_fails_the_change_before_the_server_is_asked() {
    let source = Source::from_fn(|| async { Ok(Credentials::new("u", "old")) });
    let provider = Scripted::with_source(source);
    let session = Session::new(provider.clone());
    let error = soon(session.change_password(PasswordChange::to("new")))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(provider.log(), ["login old"]);
    let change = PasswordChange::to("new").allow_unstored();
    soon(session.change_password(change)).await.unwrap();
    soon(session.renew()).await.unwrap();
    assert_eq!(provider.log().last().unwrap(), "login new");
}

#[tokio::test(start_paused = true)]
async fn after_an_uncertain_change_the_old_and_then_the_new_password_are_tried_once_each() {
    for executed in [true, false] {
        let store = Writes::new("old");
        let provider = Scripted::with_source(Source::new(store.clone()));
        provider.on_change(|_| async { Err(ProviderError::uncertain("lost")) });
        let session = Session::new(provider.clone());
        let error = soon(session.change_password(PasswordChange::to("new")))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Uncertain);
        assert_eq!(store.passwords(), ["old", "new"]);
        if executed {
            provider.on_login(|_| async { Err(ProviderError::refused("no")) });
        }
        soon(session.renew()).await.unwrap();
        let log = ["login old", "change", "login old", "login new"];
        let (log, kept) = match executed {
            true => (&log[..], ["new", "old"]),
            false => (&log[..3], ["old", "new"]),
        };
        assert_eq!(provider.log(), log);
        assert_eq!(store.passwords(), kept);
        for resolved in ["change", "login", "tries"] {
            assert_eq!(store.json().get(resolved), None);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_uncertain_change_that_no_login_resolves_stays_uncertain() {
    let provider = Scripted::that_asks_nothing(Credentials::new("u", "old"));
    provider.on_change(|_| async { Err(ProviderError::uncertain("lost")) });
    let session = Session::new(provider.clone());
    for expected in [&["login", "change"][..], &["login", "change", "login"]] {
        let error = soon(session.change_password(PasswordChange::to("new")))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Uncertain);
        assert_eq!(provider.log(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_when_the_source_is_asked_again_whatever_the_server_asks_for() {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    for asked_for in [Duration::from_secs(1), YEAR] {
        let fetches = Arc::new(AtomicUsize::new(0));
        let counted = fetches.clone();
        let source = Source::from_fn(move || {
            counted.fetch_add(1, SeqCst);
            async { Ok(Credentials::new("emuser", "wrong password")) }
        });
        let refused =
            move |_| async move { Err(ProviderError::refused("no").with_retry_after(asked_for)) };
        let provider = Scripted::with_source(source);
        provider.on_login(refused);
        let session = Session::new(provider);
        let error = async || session.token().await.unwrap_err();
        let wait = Duration::from_secs(10);
        assert_eq!(error().await.retry_after(), Some(wait));
        sleep(wait * 4 / 10).await;
        assert_eq!(error().await.retry_after(), Some(wait * 6 / 10));
        let asked = fetches.load(SeqCst);
        sleep(wait * 6 / 10 - Duration::from_millis(1)).await;
        error().await;
        assert_eq!(fetches.load(SeqCst), asked);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(error().await.retry_after(), Some(wait));
        assert!(fetches.load(SeqCst) > asked);

        // Without a source nothing is asked again.
        let provider = Scripted::new();
        provider.on_login(refused);
        let error = Session::new(provider).token().await.unwrap_err();
        assert_eq!(error.retry_after(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_count_as_refused_though_the_login_did_not_ask_for_them() {
    let provider = Scripted::that_asks_nothing(Credentials::new("u", "old"));
    provider.on_login(|_| async { Err(ProviderError::refused("no")) });
    let session = Session::new(provider.clone());
    for _ in 0..3 {
        let error = soon(session.token()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        sleep(Duration::from_secs(11)).await;
    }
    assert_eq!(provider.logins(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_password_is_not_forgotten_while_the_account_refuses_both() {
    let store = Writes::new("old");
    let provider = Scripted::with_source(Source::new(store.clone()));
    provider.on_change(|_| async { Err(ProviderError::uncertain("lost")) });
    let session = Session::new(provider.clone());
    let _ = soon(session.change_password(PasswordChange::to("new"))).await;
    for _ in 0..2 {
        provider.on_login(|_| async { Err(ProviderError::refused("locked")) });
    }
    assert_eq!(
        soon(session.renew()).await.unwrap_err().kind(),
        ErrorKind::Refused
    );
    assert_eq!(store.passwords(), ["old", "new"]);
    provider.on_login(|_| async { Err(ProviderError::refused("no")) });
    soon(session.login()).await.unwrap();
    assert_eq!(
        provider.log(),
        [
            "login old",
            "change",
            "login old",
            "login new",
            "login old",
            "login new"
        ]
    );
    assert_eq!(store.passwords(), ["new", "old"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_password_is_sent_once_though_both_sides_name_it() {
    let now = Arc::new(Mutex::new("old"));
    let said = now.clone();
    let source = Source::from_fn(move || {
        let password = *said.lock().unwrap();
        async move { Ok(Credentials::new("u", password)) }
    });
    let provider = Scripted::with_source(source);
    provider.on_change(|_| async { Err(ProviderError::uncertain("lost")) });
    let session = Session::new(provider.clone());
    let change = PasswordChange::to("new").allow_unstored();
    let _ = soon(session.change_password(change)).await;
    *now.lock().unwrap() = "new";
    for _ in 0..2 {
        provider.on_login(|_| async { Err(ProviderError::refused("no")) });
    }
    // The source names it, and the change that was lost. The former one is the other.
    for _ in 0..3 {
        let error = soon(session.renew()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert_eq!(
            provider.log(),
            ["login old", "change", "login new", "login old"]
        );
        sleep(Duration::from_secs(11)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_neither_holds_a_password_change_nor_costs_a_token() {
    // At the answer to the first change, once.
    let mut has_hung = false;
    let store = Writes::that_hang("old", move |record| {
        let is_answer = record.get("change").is_none() && record.get("others").is_some();
        is_answer && !std::mem::replace(&mut has_hung, true)
    });
    let provider = Scripted::with_source(Source::new(store.clone()));
    let session = Session::new(provider.clone());
    soon(session.change_password(PasswordChange::to("new")))
        .await
        .unwrap();
    assert_eq!(store.passwords(), ["old", "new"], "it was not stored");
    provider.on_change(|_| async { Err(ProviderError::uncertain("lost")) });
    let _ = soon(session.change_password(PasswordChange::to("newer"))).await;
    // The session knows the answer that the store does not.
    assert_eq!(store.passwords(), ["new", "newer", "old"]);
    provider.on_login(|_| async { Err(ProviderError::refused("no")) });
    soon(session.renew()).await.unwrap();
    assert_eq!(
        provider.log(),
        ["login old", "change", "change", "login new", "login newer"]
    );
    assert_eq!(store.passwords(), ["newer", "new", "old"]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_before_a_change_keeps_the_server_from_being_asked() {
    let store = Writes::that_hang("old", |record| record.get("change").is_some());
    let provider = Scripted::with_source(Source::new(store.clone()));
    let session = Session::new(provider.clone());
    session.login().await.unwrap();
    let changes = tokio::spawn({
        let session = session.clone();
        async move { session.change_password(PasswordChange::to("new")).await }
    });
    sleep(Duration::from_secs(1)).await;
    // A request with the live token does not wait for it.
    let (http, seen) = server(|token| token == "t1");
    let request = session.layer_over(&http).oneshot(get());
    let response = timeout(Duration::from_secs(1), request).await.unwrap();
    assert_eq!(response.unwrap().status(), 200);
    let error = soon(changes).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(provider.log(), ["login old"]);
    assert_eq!(seen.tokens(), ["Bearer t1"]);
    assert_eq!(store.passwords(), ["old"]);
    soon(session.renew()).await.unwrap();
    assert_eq!(provider.log(), ["login old", "login old"]);
}

#[tokio::test(start_paused = true)]
async fn a_password_change_that_nobody_polls_any_more_holds_no_job_up() {
    let provider = Scripted::with_source(Credentials::new("u", "old"));
    let session = Session::new(provider.clone());
    session.login().await.unwrap();
    let slow = provider.clone();
    provider.on_login(|_| async move {
        sleep(Duration::from_secs(5)).await;
        Ok(slow.issue())
    });
    let renews = tokio::spawn({
        let session = session.clone();
        async move { session.renew().await }
    });
    sleep(Duration::from_secs(1)).await;
    let mut change = pin!(session.change_password(PasswordChange::to("new")));
    assert!(timeout(Duration::from_secs(1), &mut change).await.is_err());
    soon(renews).await.unwrap().unwrap();
    soon(session.renew()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_handed_out_to_nobody_while_its_renewal_runs() {
    let provider = Scripted::new();
    let session = Session::new(provider.clone());
    let token = session.token().await.unwrap();
    session.reject(&token);
    session.reject(&token);
    assert_eq!(bearer(&soon(session.token()).await.unwrap()), "Bearer t2");
    session.reject(&token);
    assert_eq!(bearer(&soon(session.token()).await.unwrap()), "Bearer t2");
    assert_eq!(provider.logins(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_password_refused_before_the_change_is_tried_after_it() {
    let now = Arc::new(Mutex::new("old"));
    let said = now.clone();
    let source = Source::from_fn(move || {
        let password = *said.lock().unwrap();
        async move { Ok(Credentials::new("u", password)) }
    });
    let provider = Scripted::with_source(source);
    let session = Session::new(provider.clone());
    session.login().await.unwrap();
    *now.lock().unwrap() = "new";
    provider.on_login(|_| async { Err(ProviderError::refused("too early")) });
    // The former one still works.
    session.renew().await.unwrap();
    *now.lock().unwrap() = "old";
    provider.on_change(|_| async { Err(ProviderError::uncertain("lost")) });
    let change = || PasswordChange::to("new").allow_unstored();
    let _ = soon(session.change_password(change())).await;
    provider.on_login(|_| async { Err(ProviderError::refused("no longer")) });
    soon(session.change_password(change())).await.unwrap();
    assert_eq!(
        provider.log(),
        [
            "login old",
            "login new",
            "login old",
            "change",
            "login old",
            "login new"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_rejection_during_a_password_change_renews_after_it() {
    let provider = Scripted::with_source(Credentials::new("u", "old"));
    provider.on_change(|_| async {
        sleep(Duration::from_secs(5)).await;
        Ok(())
    });
    let session = Session::new(provider.clone());
    let token = session.token().await.unwrap();
    let _ = timeout(
        Duration::from_secs(1),
        session.change_password(PasswordChange::to("new")),
    )
    .await;
    session.reject(&token);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(bearer(&soon(session.token()).await.unwrap()), "Bearer t2");
}

#[tokio::test(start_paused = true)]
async fn a_logout_says_what_it_could_not_end_though_a_login_follows_at_once() {
    let provider = Scripted::new();
    let session = Session::new(provider.clone());
    session.token().await.unwrap();
    provider.on_logout(|_| async {
        sleep(Duration::from_secs(1)).await;
        unavailable()
    });
    let (one, two) = (session.clone(), session.clone());
    let login = tokio::spawn(async move {
        sleep(Duration::from_millis(5)).await;
        one.login().await
    });
    let logout = tokio::spawn(async move { two.logout().await });
    soon(login).await.unwrap().unwrap();
    assert!(soon(logout).await.unwrap().is_err());
}

trait LayerOver {
    fn layer_over<S: Clone>(&self, inner: &S) -> tower_reauth::SessionService<S>;
}

impl LayerOver for Session {
    fn layer_over<S: Clone>(&self, inner: &S) -> tower_reauth::SessionService<S> {
        tower::Layer::layer(&self.layer(), inner.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn a_replaced_token_that_comes_back_is_not_logged_out() {
    let provider = Scripted::of(Provider {
        profile: Profile::default().logout_ends(LogoutEnds::Token),
        ..Provider::default()
    });
    for name in ["a", "b", "a"] {
        provider.on_login(move |_| async move { Ok(Token::bearer(name)?) });
    }
    let session = Session::new(provider.clone());
    let held = session.token().await.unwrap();
    session.renew().await.unwrap();
    session.renew().await.unwrap();
    session.accept(&session.token().await.unwrap());
    sleep(Duration::from_secs(1)).await;
    // The other was logged out, as it should be.
    assert_eq!(
        provider.log(),
        ["login", "login", "login", "logout Bearer b"]
    );
    drop(held);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(provider.log().len(), 4);
}
