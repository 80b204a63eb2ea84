//! Schedules that were made to break a session. On virtual time throughout.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, Write};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, ServiceExt, service_fn};
use tower_reauth::{
    CredentialProvider, CredentialSource, Credentials, ErrorKind, Event, LoginContext,
    LogoutContext, LogoutEnds, Profile, ProviderError, Session, Source, SourceError, Token,
    TokenEnd, provider_fn,
};
use tracing_subscriber::fmt::format::FmtSpan;

const HOME: &str = "https://api.test/x";
const SECOND: Duration = Duration::from_secs(1);

/// A login system that says what the test puts into it.
#[derive(Clone, Default)]
struct Desk(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// What the next logins yield; numbers once it is empty.
    tokens: Mutex<VecDeque<&'static str>>,
    issued: Mutex<u32>,
    lives_for: Mutex<Option<Duration>>,
    down: Mutex<bool>,
    login_takes: Mutex<Duration>,
    logout_takes: Mutex<Duration>,
    log: Mutex<Vec<String>>,
}

impl Desk {
    fn log(&self) -> Vec<String> {
        self.0.log.lock().unwrap().clone()
    }
}

impl CredentialProvider for Desk {
    fn profile(&self) -> Profile {
        Profile::at(HOME.parse().unwrap()).logout_ends(LogoutEnds::Token)
    }

    async fn login(&self, _: LoginContext) -> Result<Token, ProviderError> {
        let takes = *self.0.login_takes.lock().unwrap();
        if !takes.is_zero() {
            sleep(takes).await;
        }
        if *self.0.down.lock().unwrap() {
            self.0.log.lock().unwrap().push("login fails".into());
            return Err(ProviderError::unavailable("down"));
        }
        let name = match self.0.tokens.lock().unwrap().pop_front() {
            Some(name) => name.to_owned(),
            None => {
                let mut issued = self.0.issued.lock().unwrap();
                *issued += 1;
                issued.to_string()
            }
        };
        self.0.log.lock().unwrap().push(format!("login {name}"));
        let token = Token::bearer(name)?;
        Ok(match *self.0.lives_for.lock().unwrap() {
            Some(lifetime) => token.lives_for(lifetime),
            None => token,
        })
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        let name = name(cx.token());
        self.0.log.lock().unwrap().push(format!("logout {name}"));
        let takes = *self.0.logout_takes.lock().unwrap();
        sleep(takes).await;
        Ok(())
    }
}

fn name(token: &Token) -> String {
    let (_, value) = token.headers().next().unwrap();
    let value = value.to_str().unwrap();
    value.strip_prefix("Bearer ").unwrap().to_owned()
}

/// How many tasks the runtime has.
fn tasks() -> usize {
    let runtime = tokio::runtime::Handle::current();
    runtime.metrics().num_alive_tasks()
}

/// Ten replaced tokens, whose logouts hang, and a current one with this lifetime.
async fn with_ten_hanging_logouts(desk: &Desk, lives_for: Option<Duration>) -> Session {
    *desk.0.logout_takes.lock().unwrap() = 3600 * SECOND;
    let session = Session::new(desk.clone());
    let mut held = Vec::new();
    for number in 1..=10 {
        held.push(session.token().await.unwrap());
        if number == 10 {
            *desk.0.lives_for.lock().unwrap() = lives_for;
        }
        session.renew().await.unwrap();
    }
    // That it was used is what makes it due, and that it was accepted lets go of others.
    session.accept(&session.token().await.unwrap());
    drop(held);
    sleep(Duration::from_millis(10)).await;
    assert_eq!(desk.log().last().unwrap(), "logout 1");
    session
}

#[tokio::test(start_paused = true)]
async fn an_operators_login_waits_for_no_hanging_logout() {
    let desk = Desk::default();
    let session = with_ten_hanging_logouts(&desk, None).await;
    let since = Instant::now();
    session.login().await.unwrap();
    assert_eq!(since.elapsed(), Duration::ZERO, "{:?}", desk.log());
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_token_waits_for_no_hanging_logout() {
    let desk = Desk::default();
    let session = with_ten_hanging_logouts(&desk, Some(SECOND)).await;
    sleep(2 * SECOND).await;
    let since = Instant::now();
    session.token().await.unwrap();
    assert_eq!(since.elapsed(), Duration::ZERO, "{:?}", desk.log());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_ahead_waits_for_no_hanging_logout() {
    let desk = Desk::default();
    // Due after 80 to 85 s.
    let _session = with_ten_hanging_logouts(&desk, Some(100 * SECOND)).await;
    sleep(86 * SECOND).await;
    let log = desk.log();
    assert!(log.contains(&"login 12".to_owned()), "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn while_backing_off_nobody_waits_for_a_retirement() {
    let desk = Desk::default();
    let session = Session::new(desk.clone());
    let held = session.token().await.unwrap();
    *desk.0.lives_for.lock().unwrap() = Some(SECOND);
    session.renew().await.unwrap();
    *desk.0.logout_takes.lock().unwrap() = 3600 * SECOND;
    *desk.0.down.lock().unwrap() = true;
    sleep(SECOND).await;
    session.token().await.unwrap_err();
    // The login system is backed off from, and a logout begins that hangs.
    drop(held);
    sleep(Duration::from_millis(10)).await;
    assert_eq!(desk.log().last().unwrap(), "logout 1");
    let since = Instant::now();
    session.token().await.unwrap_err();
    assert_eq!(since.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_came_back_is_not_logged_out_while_an_early_user_has_it() {
    let desk = Desk::default();
    desk.0.tokens.lock().unwrap().extend(["A", "B", "A", "C"]);
    let session = Session::new(desk.clone());
    let held = session.token().await.unwrap();
    for _ in 0..3 {
        session.renew().await.unwrap();
    }
    session.accept(&session.token().await.unwrap());
    sleep(SECOND).await;
    assert_eq!(name(&held), "A");
    let log = desk.log();
    assert!(!log.contains(&"logout A".into()), "in use: {log:?}");
    drop(held);
    sleep(SECOND).await;
    assert!(desk.log().contains(&"logout A".into()));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_came_back_after_its_end_is_not_logged_out_while_an_early_user_has_it() {
    let desk = Desk::default();
    desk.0.tokens.lock().unwrap().extend(["A", "A", "C"]);
    *desk.0.lives_for.lock().unwrap() = Some(SECOND);
    let session = Session::new(desk.clone());
    let held = session.token().await.unwrap();
    sleep(2 * SECOND).await;
    // The server has extended it.
    *desk.0.lives_for.lock().unwrap() = None;
    session.token().await.unwrap();
    session.renew().await.unwrap();
    session.accept(&session.token().await.unwrap());
    sleep(SECOND).await;
    assert_eq!(name(&held), "A");
    let log = desk.log();
    assert!(!log.contains(&"logout A".into()), "in use: {log:?}");
    drop(held);
    sleep(SECOND).await;
    assert!(desk.log().contains(&"logout A".into()));
}

/// A client whose requests to `/forbidden` are rejected, and no others.
async fn answer(request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::default());
    if request.uri().path() == "/forbidden" {
        *response.status_mut() = StatusCode::UNAUTHORIZED;
    }
    Ok(response)
}

#[tokio::test(start_paused = true)]
async fn a_logout_leaves_no_session_behind_that_a_forbidden_target_rejected() {
    let desk = Desk::default();
    let session = Session::new(desk.clone());
    let client = session.layer().replay(tower_reauth::Never);
    let client = client.layer(service_fn(answer));
    // Nobody can tell whether the renewal helped: nothing is replayed.
    for number in 0..4 {
        let request = Request::post("https://api.test/forbidden").header("n", number);
        let request = request.body(Full::default()).unwrap();
        let response = client.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        drop(response);
        sleep(Duration::from_millis(10)).await;
    }
    session.logout().await.unwrap();
    let log = desk.log();
    let all = |what: &str| log.iter().filter(|entry| entry.starts_with(what)).count();
    assert_eq!(all("login"), all("logout"), "{log:?}");
}

async fn futures_poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(cx) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn closing_counts_who_waits_for_a_token_and_holds_none() {
    let desk = Desk::default();
    *desk.0.login_takes.lock().unwrap() = 10 * SECOND;
    let session = Session::new(desk.clone());
    let mut waiting = Box::pin(session.token());
    let _ = futures_poll_once(&mut waiting).await;
    let left = session.close(SECOND).await.unwrap_err();
    assert_eq!(left.in_use(), 1);
    drop(waiting);
}

#[tokio::test(start_paused = true)]
async fn once_all_are_retired_no_task_waits_for_their_users() {
    let desk = Desk::default();
    let session = Session::new(desk.clone());
    let held = session.token().await.unwrap();
    session.renew().await.unwrap();
    session.accept(&session.token().await.unwrap());
    assert_eq!(tasks(), 1, "who waits for the end of its use");
    drop(held);
    sleep(SECOND).await;
    assert_eq!(desk.log().last().unwrap(), "logout 1");
    assert_eq!(tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn after_a_logout_no_task_waits_for_the_users_of_a_replaced_token() {
    let session = Session::new(Desk::default());
    let held = session.token().await.unwrap();
    session.renew().await.unwrap();
    assert_eq!(tasks(), 1, "who waits for the end of its use");
    session.logout().await.unwrap();
    sleep(SECOND).await;
    assert_eq!(tasks(), 0);
    drop(held);
}

/// Returns a subscriber that panics at each event, and at these events of a span,
/// as one does that writes to a closed pipe with `println!`.
fn panicking(spans: FmtSpan) -> impl tracing::Subscriber + Send + Sync {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(spans)
        .with_writer(|| -> io::Sink { panic!("the pipe is closed") })
        .finish()
}

/// Renews the token on a task of its own. `None` if that panicked.
async fn renewed(session: &Session) -> Option<Result<(), ErrorKind>> {
    let session = session.clone();
    let task = tokio::spawn(async move {
        let token = session.token().await.map_err(|error| error.kind())?;
        drop(token);
        session.renew().await.map_err(|error| error.kind())
    });
    let ended = timeout(60 * SECOND, task).await;
    ended.expect("must not hang").ok()
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_panics_at_an_event_delays_nobody() {
    let desk = Desk::default();
    let session = Session::new(desk.clone());
    let subscribed = tracing::subscriber::set_default(panicking(FmtSpan::NONE));
    for _ in 0..3 {
        assert_eq!(renewed(&session).await, Some(Ok(())));
        sleep(SECOND).await;
    }
    drop(subscribed);
    let closed = timeout(60 * SECOND, session.close(SECOND)).await;
    closed.expect("must not hang").unwrap();
}

/// A panic at the entry or exit of a span is not tested: tracing's `Instrumented`
/// enters the span once more when the panicking task drops, which aborts the process.
#[tokio::test(start_paused = true)]
async fn a_subscriber_that_panics_at_a_span_delays_nobody() {
    for spans in [FmtSpan::NEW, FmtSpan::CLOSE] {
        let desk = Desk::default();
        let session = Session::new(desk.clone());
        let subscribed = tracing::subscriber::set_default(panicking(spans.clone()));
        for _ in 0..3 {
            assert_eq!(renewed(&session).await, Some(Ok(())), "{spans:?}");
            sleep(SECOND).await;
        }
        drop(subscribed);
        session.token().await.unwrap();
        let closed = timeout(60 * SECOND, session.close(SECOND)).await;
        closed.expect("must not hang").unwrap();
    }
}

#[test]
fn without_a_runtime_a_subscriber_that_panics_at_an_event_leaves_an_error() {
    let session = Session::new(Desk::default());
    let _subscribed = tracing::subscriber::set_default(panicking(FmtSpan::NONE));
    let token = pin!(session.token());
    match token.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(token) => assert_eq!(token.unwrap_err().kind(), ErrorKind::NoRuntime),
        Poll::Pending => panic!("nobody would wake it"),
    }
}

/// What a provider holds during a login, and tells of when it is dropped.
struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        tracing::info!("let go");
    }
}

struct Holding;

impl CredentialProvider for Holding {
    fn profile(&self) -> Profile {
        Profile::at(HOME.parse().unwrap())
    }

    async fn login(&self, _: LoginContext) -> Result<Token, ProviderError> {
        let _held = Held;
        std::future::pending().await
    }
}

#[test]
fn what_is_told_while_a_login_is_dropped_is_told_within_its_span() {
    let (lines, told) = mpsc::channel();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || Lines(lines.clone()))
        .finish();
    let _subscribed = tracing::subscriber::set_default(subscriber);
    let session = Session::new(Holding);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let waits = async { timeout(SECOND, session.token()).await };
    runtime.block_on(waits).unwrap_err();
    drop(runtime);
    let lines: Vec<_> = told.try_iter().collect();
    for what in ["let go", "login failed"] {
        let line = lines.iter().find(|line| line.contains(what)).unwrap();
        assert!(line.contains("login{"), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_drop_of_the_last_handle_leaves_is_told_to_tracing_too() {
    let (lines, told) = mpsc::channel();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || Lines(lines.clone()))
        .finish();
    let _subscribed = tracing::subscriber::set_default(subscriber);
    let session = Session::new(Desk::default());
    let mut events = session.events();
    session.token().await.unwrap();
    drop(session);
    let mut ended = None;
    while let Some(event) = events.recv().await {
        if let Event::TokenEnded { end, .. } = event {
            ended = Some(end);
        }
    }
    assert_eq!(ended, Some(TokenEnd::Abandoned));
    let last = told.try_iter().last().unwrap();
    assert!(last.contains("token ended"), "{last}");
    assert!(last.contains("Abandoned"), "{last}");
}

/// Takes what `tracing` tells, line by line.
struct Lines(mpsc::Sender<String>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let told = String::from_utf8_lossy(line).into_owned();
        self.0.send(told).unwrap();
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A waker that calls the session that wakes it.
struct CallsBack {
    session: Session,
    calls: AtomicUsize,
}

impl CallsBack {
    fn new(session: &Session) -> Arc<Self> {
        Arc::new(Self {
            session: session.clone(),
            calls: AtomicUsize::new(0),
        })
    }

    /// Polls a future that is pending, to be woken.
    fn polls(self: &Arc<Self>, future: &mut (impl Future + Unpin)) {
        let waker = Waker::from(self.clone());
        let polled = std::pin::Pin::new(future).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Wake for CallsBack {
    fn wake(self: Arc<Self>) {
        let _ = self.session.status();
        drop(self.session.events());
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_woken_receiver_of_events_may_call_the_session() {
    let session = Session::new(Desk::default());
    let waker = CallsBack::new(&session);
    let mut events = session.events();
    let mut received = Box::pin(events.recv());
    waker.polls(&mut received);
    session.token().await.unwrap();
    assert_eq!(waker.calls(), 1);
    let first = received.await;
    assert!(
        matches!(first, Some(Event::LoginStarted { .. })),
        "{first:?}"
    );
    let second = events.recv().await;
    assert!(matches!(second, Some(Event::LoggedIn { .. })), "{second:?}");
}

#[tokio::test(start_paused = true)]
async fn a_woken_caller_of_close_may_call_the_session() {
    let session = Session::new(Desk::default());
    let waker = CallsBack::new(&session);
    let held = session.token().await.unwrap();
    let mut closing = Box::pin(session.close(60 * SECOND));
    waker.polls(&mut closing);
    session.logout().await.unwrap();
    assert!(waker.calls() > 0);
    drop(held);
    closing.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_woken_caller_that_waits_for_a_login_may_call_the_session() {
    let session = Session::new(Desk::default());
    let waker = CallsBack::new(&session);
    let mut waiting = Box::pin(session.token());
    waker.polls(&mut waiting);
    sleep(SECOND).await;
    assert!(waker.calls() > 0);
    waiting.await.unwrap();
}

/// An error that runs the test's code when its last copy drops.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> std::fmt::Debug for OnDrop<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnDrop")
    }
}

impl<F: Fn()> std::fmt::Display for OnDrop<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no answer")
    }
}

impl<F: Fn()> std::error::Error for OnDrop<F> {}

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Returns a session whose logins fail with errors that run `on_drop`.
fn failing(on_drop: impl Fn() + Clone + Send + Sync + 'static) -> Session {
    Session::new(provider_fn(Profile::default(), move |_: LoginContext| {
        let error = ProviderError::unavailable(OnDrop(on_drop.clone()));
        async { Err::<Token, _>(error) }
    }))
}

#[tokio::test(start_paused = true)]
async fn an_error_that_a_later_one_replaces_may_call_the_session_when_it_drops() {
    let called: Arc<Mutex<Option<Session>>> = Arc::default();
    let drops = Arc::new(AtomicUsize::new(0));
    let session = failing({
        let (called, drops) = (called.clone(), drops.clone());
        move || {
            let session = called.lock().unwrap().clone();
            let _ = session.expect("set below").status();
            drops.fetch_add(1, Ordering::Relaxed);
        }
    });
    *called.lock().unwrap() = Some(session.clone());
    for failed in 0..3 {
        assert_eq!(drops.load(Ordering::Relaxed), failed.max(1) - 1);
        session.token().await.unwrap_err();
        sleep(60 * SECOND).await;
    }
}

/// A login system whose calls block their threads until the test ends.
struct Blocking {
    /// Whether a call awaits something first.
    is_late: bool,
    end: Mutex<mpsc::Receiver<()>>,
    logouts: tokio::sync::mpsc::UnboundedSender<String>,
}

impl CredentialProvider for Blocking {
    fn profile(&self) -> Profile {
        Profile::at(HOME.parse().unwrap())
            .logout_ends(LogoutEnds::Token)
            .login_timeout(Duration::from_millis(50))
    }

    async fn login(&self, _: LoginContext) -> Result<Token, ProviderError> {
        if self.is_late {
            sleep(Duration::from_millis(1)).await;
        }
        let _ = self.end.lock().unwrap().recv();
        Ok(Token::bearer("late")?)
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        let _ = self.logouts.send(name(cx.token()));
        Ok(())
    }
}

async fn a_blocked_login_fails_in_time(is_late: bool) {
    let (ends, end) = mpsc::channel();
    let (logouts, mut logged_out) = tokio::sync::mpsc::unbounded_channel();
    let session = Session::new(Blocking {
        is_late,
        end: Mutex::new(end),
        logouts,
    });
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move { session.token().await.unwrap_err().kind() })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap(), ErrorKind::DeadlineExceeded);
    }
    assert!(session.status().generation.is_none());
    drop(ends);
    assert_eq!(logged_out.recv().await.as_deref(), Some("late"));
    assert!(session.status().generation.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_blocks_its_thread_fails_in_time_and_its_token_is_logged_out() {
    a_blocked_login_fails_in_time(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_blocks_its_thread_later_fails_in_time_too() {
    a_blocked_login_fails_in_time(true).await;
}

/// A source that blocks its thread until the test ends.
struct BlockingSource(Mutex<mpsc::Receiver<()>>);

impl CredentialSource for BlockingSource {
    async fn fetch(&self) -> Result<Credentials, SourceError> {
        let _ = self.0.lock().unwrap().recv();
        Err(SourceError::unavailable("the test has ended"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_blocks_its_thread_fails_its_callers_in_time() {
    let (ends, end) = mpsc::channel();
    let profile = Profile::default().login_timeout(Duration::from_millis(50));
    let provider = provider_fn(profile, |_: LoginContext| async {
        Ok::<_, ProviderError>(Token::bearer("3f9a")?)
    });
    let source = Source::new(BlockingSource(Mutex::new(end)));
    let session = Session::new(provider.with_source(source));
    let error = session.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    drop(ends);
}

/// A login whose `Drop` panics.
struct PanicsOnDrop<T>(Option<T>);

impl<T: Unpin> Future for PanicsOnDrop<T> {
    type Output = Result<T, ProviderError>;

    fn poll(mut self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        match self.0.take() {
            Some(token) => Poll::Ready(Ok(token)),
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for PanicsOnDrop<T> {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_whose_drop_panics_yields_its_token() {
    for has_source in [false, true] {
        let provider = provider_fn(Profile::default(), |_: LoginContext| {
            PanicsOnDrop(Some(Token::bearer("3f9a").unwrap()))
        });
        let session = match has_source {
            true => Session::new(provider.with_source(Credentials::new("emuser", "pw-1"))),
            false => Session::new(provider),
        };
        assert_eq!(name(&session.token().await.unwrap()), "3f9a");
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_whose_drop_panics_at_its_timeout_fails_with_the_timeout() {
    let provider = provider_fn(Profile::default(), |_: LoginContext| {
        PanicsOnDrop::<Token>(None)
    });
    let session = Session::new(provider);
    let error = session.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn an_error_whose_drop_panics_delays_nobody() {
    let session = failing(|| panic!("dropped"));
    for _ in 0..3 {
        let failed = timeout(60 * SECOND, session.token()).await;
        let error = failed.expect("must not hang").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        // The session drops its copies, also of the last one.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(error)));
        sleep(60 * SECOND).await;
    }
    std::mem::forget(session);
}

/// An error that is its own cause.
#[derive(Debug)]
struct Cycle;

impl std::fmt::Display for Cycle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no answer")
    }
}

impl std::error::Error for Cycle {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self)
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_that_is_its_own_cause_is_reported_and_searched() {
    let _subscribed =
        tracing::subscriber::set_default(tracing_subscriber::fmt().with_writer(io::sink).finish());
    let errors: [fn(Cycle) -> ProviderError; 2] = [
        |cause| ProviderError::unavailable(cause),
        |cause| ProviderError::lost(cause),
    ];
    for lost in errors {
        let provider = provider_fn(Profile::default(), move |_: LoginContext| async move {
            Err::<Token, _>(lost(Cycle))
        });
        let session = Session::new(provider.with_source(Credentials::new("emuser", "pw-1")));
        let error = session.token().await.unwrap_err();
        assert!(tower_reauth::Error::find(&error).is_some());
        assert!(tower_reauth::Error::find(&Cycle).is_none());
    }
}
