//! What the feature `testing` offers: scripts, gates, and the checks of any provider
//! and of any store, which good ones pass and each broken one fails.

use std::collections::HashSet;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::task::yield_now;
use tower::{BoxError, Layer, ServiceExt};
use tower_reauth::controlm::ControlM;
use tower_reauth::controlm::emulator::{Emulator, EmulatorService, PasswordChangeEnds};
use tower_reauth::credentials::{FileStore, Record, Version};
use tower_reauth::testing::{
    Answer, Call, Check, Gate, NonConforming, Outcome, Report, ScriptedProvider, ScriptedService,
    TestServer, conformance, conformance_unreachable, store_conformance,
};
use tower_reauth::{
    CredentialProvider, CredentialStore, Credentials, ErrorKind, ExposeSecret, FixedToken,
    LoginContext, LogoutContext, LogoutEnds, PasswordChange, PasswordContext, Profile,
    ProviderError, Reason, Rejection, SecretString, Session, Source, SourceError, Token,
};

const HOME: &str = "https://api.test/x";

fn home() -> Profile {
    Profile::at(HOME.parse().unwrap())
}

fn get() -> Request<Full<Bytes>> {
    Request::get(HOME).body(Full::default()).unwrap()
}

// ---- Scripts and gates -----------------------------------------------------

#[tokio::test(start_paused = true)]
async fn all_who_wait_share_the_login_that_is_held_at_a_gate() {
    let (provider, service, gate) = (
        ScriptedProvider::new(home()),
        ScriptedService::new(),
        Gate::closed(),
    );
    provider.on_login(Answer::usual().held_at(&gate));
    let session = Session::new(provider.clone());
    let requests: Vec<_> = (0..50)
        .map(|_| {
            let client = session.layer().layer(service.clone());
            tokio::spawn(client.oneshot(get()))
        })
        .collect();
    gate.reached(1).await;
    assert_eq!((gate.waiting(), service.requests()), (1, 0));
    gate.open();
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!((provider.logins(), service.accepted()), (1, 50));
}

#[tokio::test(start_paused = true)]
async fn a_script_is_followed_in_order_and_all_calls_are_kept() {
    let provider = ScriptedProvider::new(home())
        .with_source(Credentials::new("emuser", "first"))
        .issuing(|number| Token::cookie("sid", format!("{number}")).unwrap());
    provider.on_login(ProviderError::unavailable("down"));
    provider.on_login(Answer::panic());
    provider.on_login(Answer::never());
    provider.on_logout(ProviderError::token_rejected("dead"));
    let session = Session::builder(provider.clone())
        .login_timeout(Duration::from_secs(1))
        .build();
    for expected in [
        ErrorKind::Unavailable,
        ErrorKind::ProviderPanicked,
        ErrorKind::DeadlineExceeded,
    ] {
        assert_eq!(session.login().await.unwrap_err().kind(), expected);
    }
    session.login().await.unwrap();
    provider.on_change_password(ProviderError::refused("too short"));
    let denied = session.change_password(PasswordChange::to("2nd")).await;
    assert_eq!(denied.unwrap_err().kind(), ErrorKind::Refused);
    let change = PasswordChange::to("second");
    session.change_password(change).await.unwrap();
    session.logout().await.unwrap();

    // One more before the second change: the first may have been made nevertheless.
    assert_eq!(provider.logins(), 5);
    assert_eq!(provider.reasons(), [Reason::Requested; 5]);
    assert_eq!((provider.logouts(), provider.password_changes()), (1, 2));
    let calls = provider.calls();
    let Call::Login(login) = &calls[3] else {
        panic!("{calls:?}")
    };
    assert_eq!(login.credentials().unwrap().username(), "emuser");
    let Call::ChangePassword(cx) = &calls[6] else {
        panic!("{calls:?}")
    };
    assert_eq!(cx.token().unwrap().generation(), 2);
    assert_eq!(cx.new_password().expose_secret(), "second");
    assert!(matches!(&calls[7], Call::Logout(_)));
}

#[tokio::test(start_paused = true)]
async fn what_a_script_keeps_holds_no_logout_back() {
    let provider = ScriptedProvider::new(home().logout_ends(LogoutEnds::Token));
    let session = Session::new(provider.clone());
    let gate = Gate::closed();
    provider.on_logout(Answer::usual().held_at(&gate));
    drop(session.token().await.unwrap());
    session
        .change_password(PasswordChange::to("x"))
        .await
        .unwrap();
    session.renew().await.unwrap();
    session.accept(&session.token().await.unwrap());
    // The replaced token is logged out although its copies are in `calls`.
    gate.reached(1).await;
    assert_eq!((provider.calls().len(), provider.logouts()), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn a_service_looks_where_it_is_told_and_answers_as_it_is_told() {
    let service = ScriptedService::new()
        .token_in_cookie("sid")
        .answering(|head| Response::new(Bytes::from(head.method.to_string()).into()))
        .rejecting_with(|_| {
            let mut response = Response::default();
            *response.status_mut() = StatusCode::FORBIDDEN;
            response
        });
    service.accept_only(["2"]);
    let ask = async |cookie: &str| {
        let request = Request::post(HOME).header("cookie", cookie).body(());
        let response = service.clone().oneshot(request.unwrap()).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status.as_u16(), body)
    };
    assert_eq!(ask("theme=dark; sid=2").await, (200, "POST".into()));
    assert_eq!(ask("sid=1").await, (403, Bytes::new()));
    service.accept_any();
    assert_eq!(ask("sid=1").await, (200, Method::POST.as_str().into()));
    assert_eq!(ask("theme=dark").await.0, 403);
    assert_eq!(service.tokens(), ["2", "1", "1", ""]);
    assert_eq!((service.accepted(), service.rejected()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_request_is_held_alone_or_with_all_others() {
    let service = ScriptedService::new().token_in_header("x-token");
    let (one, all) = (Gate::closed(), Gate::closed());
    service.hold_all(&all);
    service.hold_next(&one);
    let send = || {
        let request = Request::get(HOME).header("x-token", "t").body(()).unwrap();
        tokio::spawn(service.clone().oneshot(request))
    };
    let first = send();
    one.reached(1).await;
    let others = [send(), send()];
    all.reached(2).await;
    all.open();
    for other in others {
        assert_eq!(other.await.unwrap().unwrap().status(), 200);
    }
    assert!(!first.is_finished());
    // What is good is looked at behind the gate.
    service.accept_only(["other"]);
    one.open();
    assert_eq!(first.await.unwrap().unwrap().status(), 401);
}

#[tokio::test(start_paused = true)]
async fn a_gate_lets_through_in_order_and_loses_no_turn_of_who_has_gone() {
    let gate = Gate::closed();
    let passed = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for number in 0..4 {
        let (gate, passed) = (gate.clone(), passed.clone());
        tasks.push(tokio::spawn({
            let gate = gate.clone();
            async move {
                gate.pass().await;
                passed.lock().unwrap().push(number);
            }
        }));
        gate.reached(number + 1).await;
    }
    let gone = tasks.remove(0);
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!(gate.waiting(), 3);

    gate.let_through(1);
    tasks.remove(0).await.unwrap();
    assert_eq!(*passed.lock().unwrap(), [1]);
    gate.let_through(3);
    for task in tasks {
        task.await.unwrap();
    }
    gate.pass().await; // the third that was let through
    gate.open();
    gate.pass().await;
    gate.close();
    let held = tokio::spawn({
        let gate = gate.clone();
        async move { gate.pass().await }
    });
    gate.reached(1).await;
    assert!(!held.is_finished());
}

#[test]
fn a_check_can_be_spawned_and_what_it_is_made_of_can_cross_threads() {
    fn is_send<T: Send>(_: &T) {}
    fn is_sync<T: Send + Sync + Unpin>() {}
    let vault = Vault::new(Wrong::Nothing);
    is_send(&conformance(&vault, &vault));
    is_send(&conformance_unreachable(&vault));
    is_sync::<Gate>();
    is_sync::<ScriptedProvider>();
    is_sync::<ScriptedService>();
    is_sync::<NonConforming>();
}

// ---- Providers that keep the contract --------------------------------------

fn note(report: &Report, check: Check) -> Option<&str> {
    match report.of(check) {
        Some(Outcome::Kept { note }) => note.as_deref(),
        other => panic!("{check}: {other:?}"),
    }
}

fn is_skipped(report: &Report, check: Check) -> bool {
    matches!(report.of(check), Some(Outcome::Skipped { .. }))
}

const BASE: &str = "https://ctm.test/automation-api";

struct ControlMServer(Emulator);

impl ControlMServer {
    async fn ask(&self, token: &Token) -> Response<Bytes> {
        let mut request = Request::get(format!("{BASE}/config/servers"))
            .body(Full::<Bytes>::default())
            .unwrap();
        token.apply_to(request.headers_mut());
        let response = self.0.service().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }
}

impl TestServer for ControlMServer {
    async fn accepts(&self, token: &Token) -> bool {
        self.ask(token).await.status() == StatusCode::OK
    }

    async fn revoke_all(&self) -> bool {
        self.0.restart();
        true
    }

    async fn response_to(&self, token: &Token) -> Option<Response<Bytes>> {
        Some(self.ask(token).await)
    }

    async fn live_sessions(&self) -> Option<usize> {
        self.0.account().live.try_into().ok()
    }

    async fn failed_logins(&self) -> Option<usize> {
        self.0.account().failed_logins.try_into().ok()
    }
}

fn controlm(emulator: &Emulator) -> ControlM<EmulatorService, Full<Bytes>> {
    let credentials = Credentials::new("emuser", "s3cret-Password");
    ControlM::new(emulator.service(), BASE.parse().unwrap(), credentials).unwrap()
}

#[tokio::test(start_paused = true)]
async fn control_m_conforms_however_a_dead_token_is_told_and_whatever_a_change_ends() {
    for status in [StatusCode::UNAUTHORIZED, StatusCode::INTERNAL_SERVER_ERROR] {
        for ends in [
            PasswordChangeEnds::NoSession,
            PasswordChangeEnds::OtherSessions,
            PasswordChangeEnds::EverySession,
        ] {
            let emulator = Emulator::builder()
                .user("emuser", "s3cret-Password")
                .dead_token_as(status)
                .password_change_ends(ends)
                .lock_after(2)
                .login_latency(Duration::from_millis(100))
                .build();
            let server = ControlMServer(emulator.clone());
            let report = conformance(&controlm(&emulator), &server).await.unwrap();
            for (check, _) in report.outcomes() {
                assert!(report.kept(check), "{report}");
            }
            assert_eq!(report.outcomes().count(), 11);
            assert!(emulator.account().balances());
        }
    }
}

struct Keys {
    key: Arc<Mutex<String>>,
    rotates: bool,
}

impl TestServer for Keys {
    async fn accepts(&self, token: &Token) -> bool {
        let (_, value) = token.headers().next().unwrap();
        *value == **self.key.lock().unwrap()
    }

    async fn revoke_all(&self) -> bool {
        if self.rotates {
            self.key.lock().unwrap().push('x');
        }
        self.rotates
    }
}

fn fixed(key: &Arc<Mutex<String>>) -> FixedToken {
    let key = key.clone();
    FixedToken::api_key_from(home(), move || {
        let key = key.lock().unwrap().clone();
        async move { Ok(key.into()) }
    })
}

#[tokio::test(start_paused = true)]
async fn a_fixed_key_conforms_in_what_it_can() {
    for rotates in [false, true] {
        let key = Arc::new(Mutex::new("3f9a".to_owned()));
        let provider = fixed(&key);
        let report = conformance(&provider, &Keys { key, rotates }).await;
        let report = report.unwrap();
        assert!(report.kept(Check::Login));
        assert_eq!(report.kept(Check::Rejection), rotates, "{report}");
        let same = Some("the token stays the same");
        assert_eq!(note(&report, Check::Renewal), same);
        for check in [
            Check::RejectedResponse,
            Check::Logout,
            Check::DeadLogout,
            Check::LogoutEnds,
            Check::PasswordChange,
            Check::DeadPasswordChange,
            Check::WrongPassword,
        ] {
            assert!(is_skipped(&report, check), "{check}\n{report}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_never_read_anew_is_told_to_return_the_rejected_one() {
    let key = Arc::new(Mutex::new("3f9a".to_owned()));
    let provider = FixedToken::api_key(home(), "3f9a");
    let server = Keys { key, rotates: true };
    let error = conformance(&provider, &server).await.unwrap_err();
    assert!(broken(&error, Check::Rejection).contains("the rejected token once more"));
}

#[tokio::test]
async fn a_server_that_is_down_is_unavailable() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("http://{}", port.local_addr().unwrap());
    drop(port);
    let http = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http::<Full<Bytes>>();
    let credentials = Credentials::new("emuser", "s3cret");
    let provider = ControlM::new(http, closed.parse().unwrap(), credentials).unwrap();
    let report = conformance_unreachable(&provider).await.unwrap();
    assert!(report.kept(Check::Unreachable));

    let provider = ScriptedProvider::new(home());
    provider.on_login(ProviderError::refused("no answer"));
    let error = conformance_unreachable(&provider).await.unwrap_err();
    assert!(broken(&error, Check::Unreachable).contains("it failed as Refused"));
}

/// One whose server echoes what it was sent.
struct Echoing {
    source: Source,
    /// How many logins it takes before it takes no more.
    logins: AtomicUsize,
}

impl Echoing {
    fn after(logins: usize) -> Self {
        Self {
            source: Credentials::new("emuser", "canary-password").into(),
            logins: AtomicUsize::new(logins),
        }
    }
}

impl CredentialProvider for Echoing {
    fn profile(&self) -> Profile {
        home()
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        let password = login.credentials()?.password().expose_secret();
        let takes_more = || {
            let less = |logins: usize| logins.checked_sub(1);
            self.logins.fetch_update(SeqCst, SeqCst, less).is_ok()
        };
        if login.reason() == Reason::Initial && password.starts_with("canary") && takes_more() {
            return Ok(Token::bearer("canary-token")?);
        }
        let previous = login.previous().and_then(Token::secret);
        let previous = previous
            .as_ref()
            .map_or("none", |token| token.expose_secret());
        let said = format!("no login by <{password}> after <{previous}>");
        Err(ProviderError::protocol(said))
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        let token = cx.token().secret().unwrap();
        let said = format!("no logout of <{}>", token.expose_secret());
        Err(ProviderError::protocol(said))
    }

    async fn change_password(&self, cx: PasswordContext) -> Result<(), ProviderError> {
        let old = cx.current_password().map(|old| old.expose_secret());
        let new = cx.new_password().expose_secret();
        let said = format!("no change of <{}> to <{new}>", old.unwrap_or("none"));
        Err(ProviderError::refused(said))
    }
}

/// A server that accepts any token.
struct Open;

impl TestServer for Open {
    async fn accepts(&self, _: &Token) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_found_quotes_no_secret_that_a_server_echoes() {
    let mut all = String::new();
    for logins in (0..12).chain([usize::MAX]) {
        let error = conformance(&Echoing::after(logins), &Open).await;
        let told = error.unwrap_err().report().to_string();
        assert!(!told.contains("canary"), "{told}");
        all.push_str(&told);
    }
    for expected in [
        "no login by <[redacted]> after <none>",
        "no login by <[redacted]> after <[redacted]>",
        "no logout of <[redacted]>",
        "no change of <[redacted]> to <[redacted]>",
    ] {
        assert!(all.contains(expected), "{all}");
    }
}

// ---- Providers that do not -------------------------------------------------

/// What a provider does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    // None of these three is.
    EndsEarlierSessions,
    EndsEarlierSessionsAsDeclared,
    HasStatelessTokens,
    RefusalIsUnavailable,
    RefusedIsSentTwice,
    TokenIsDead,
    OpensTwoSessions,
    NeverAnswers,
    PanicsWithoutPrevious,
    RepeatsTheRejectedToken,
    SendsTheDeadTokenAsPassword,
    SaysThatItContinues,
    LogoutDoesNothing,
    LogoutIsUnavailable,
    DeadLogoutIsProtocol,
    LogoutEndsTheUser,
    PanicsWhenDropped,
    StaysBusyWhenDropped,
    TakesNo403ForARejection,
    ChangeDoesNothing,
    ChangeIsProtocol,
    ChangeBackIsProtocol,
    DeadChangeIsRefused,
}

/// A login system in memory, whose answer to a dead token is a 403, and its provider.
#[derive(Clone)]
struct Vault {
    wrong: Wrong,
    source: Source,
    busy: Arc<AtomicBool>,
    state: Arc<Mutex<State>>,
}

struct State {
    password: String,
    live: HashSet<String>,
    issued: usize,
    failed: usize,
}

impl Vault {
    fn new(wrong: Wrong) -> Self {
        Self {
            wrong,
            source: Credentials::new("root", "toor").into(),
            busy: Arc::default(),
            state: Arc::new(Mutex::new(State {
                password: "toor".into(),
                live: HashSet::new(),
                issued: 0,
                failed: 0,
            })),
        }
    }

    fn is(&self, wrong: Wrong) -> bool {
        self.wrong == wrong
    }

    /// What the server makes of a login.
    fn open(&self, password: &str) -> Option<String> {
        let mut state = self.state.lock().unwrap();
        if state.password != password {
            state.failed += 1;
            return None;
        }
        state.issued += 1;
        if let Wrong::EndsEarlierSessions | Wrong::EndsEarlierSessionsAsDeclared = self.wrong {
            state.live.clear();
        }
        let id = format!("id-{}", state.issued);
        state.live.insert(id.clone());
        Some(id)
    }
}

fn id(token: &Token) -> String {
    let (_, value) = token.headers().next().unwrap();
    value.to_str().unwrap().to_owned()
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped half-way");
    }
}

impl CredentialProvider for Vault {
    fn profile(&self) -> Profile {
        let mut profile = home().logout_ends(LogoutEnds::Token);
        if self.is(Wrong::EndsEarlierSessionsAsDeclared) {
            profile = profile.single_session();
        }
        if self.is(Wrong::HasStatelessTokens) {
            profile = profile.logout_ends(LogoutEnds::Nothing);
        }
        match self.is(Wrong::TakesNo403ForARejection) {
            true => profile,
            false => profile.rejection(Rejection::status(StatusCode::FORBIDDEN)),
        }
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        if self.is(Wrong::NeverAnswers) {
            return pending().await;
        }
        if self.is(Wrong::PanicsWithoutPrevious) && login.reason() != Reason::Initial {
            login.previous().expect("a token before");
        }
        if self.is(Wrong::RepeatsTheRejectedToken)
            && let Some(previous) = login.previous()
        {
            return Ok(previous.clone());
        }
        if self.is(Wrong::SendsTheDeadTokenAsPassword) && login.reason() == Reason::Rejected {
            assert!(self.open(&id(login.previous().unwrap())).is_none());
        }
        if self.is(Wrong::StaysBusyWhenDropped) && self.busy.swap(true, SeqCst) {
            return Err(ProviderError::unavailable("a login is under way"));
        }
        let bomb = self.is(Wrong::PanicsWhenDropped).then(|| Bomb);
        yield_now().await;
        let password = login.credentials()?.password().expose_secret();
        let mut opened = self.open(password);
        if opened.is_none() && self.is(Wrong::RefusedIsSentTwice) {
            opened = self.open(password);
        }
        yield_now().await;
        std::mem::forget(bomb);
        self.busy.store(false, SeqCst);
        let Some(opened) = opened else {
            return Err(match self.is(Wrong::RefusalIsUnavailable) {
                true => ProviderError::unavailable("status 401"),
                false => ProviderError::refused("status 401"),
            });
        };
        if self.is(Wrong::TokenIsDead) {
            self.state.lock().unwrap().live.clear();
        }
        if self.is(Wrong::OpensTwoSessions) {
            self.open(password);
        }
        let token = Token::header(HeaderName::from_static("x-auth-token"), opened)?;
        Ok(match self.is(Wrong::SaysThatItContinues) {
            true => token.continues_previous(),
            false => token,
        })
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        match self.wrong {
            Wrong::LogoutDoesNothing | Wrong::HasStatelessTokens => return Ok(()),
            Wrong::LogoutIsUnavailable => return Err(ProviderError::unavailable("status 405")),
            _ => {}
        }
        let mut state = self.state.lock().unwrap();
        if !state.live.remove(&id(cx.token())) {
            return Err(match self.is(Wrong::DeadLogoutIsProtocol) {
                true => ProviderError::protocol("status 403"),
                false => ProviderError::token_rejected("status 403"),
            });
        }
        if self.is(Wrong::LogoutEndsTheUser) {
            state.live.clear();
        }
        Ok(())
    }

    async fn change_password(&self, cx: PasswordContext) -> Result<(), ProviderError> {
        let mut state = self.state.lock().unwrap();
        if !state.live.contains(&id(cx.token().unwrap())) {
            return Err(match self.is(Wrong::DeadChangeIsRefused) {
                true => ProviderError::refused("status 403"),
                false => ProviderError::token_rejected("status 403"),
            });
        }
        let is_back = cx.new_password().expose_secret() == "toor";
        if self.is(Wrong::ChangeIsProtocol) || is_back && self.is(Wrong::ChangeBackIsProtocol) {
            return Err(ProviderError::protocol("no JSON"));
        }
        if !self.is(Wrong::ChangeDoesNothing) {
            state.password = cx.new_password().expose_secret().to_owned();
        }
        Ok(())
    }
}

impl TestServer for Vault {
    async fn accepts(&self, token: &Token) -> bool {
        self.state.lock().unwrap().live.contains(&id(token))
    }

    async fn revoke_all(&self) -> bool {
        self.state.lock().unwrap().live.clear();
        true
    }

    async fn response_to(&self, token: &Token) -> Option<Response<Bytes>> {
        let mut response = Response::default();
        if !self.accepts(token).await {
            *response.status_mut() = StatusCode::FORBIDDEN;
        }
        Some(response)
    }

    async fn live_sessions(&self) -> Option<usize> {
        Some(self.state.lock().unwrap().live.len())
    }

    async fn failed_logins(&self) -> Option<usize> {
        Some(self.state.lock().unwrap().failed)
    }
}

async fn check(wrong: Wrong) -> Result<Report, NonConforming> {
    let vault = Vault::new(wrong);
    conformance(&vault, &vault).await
}

fn broken(error: &NonConforming, check: Check) -> String {
    match error.report().of(check) {
        Some(Outcome::Broken { found, contract }) => format!("{check}: {found}. {contract}"),
        other => panic!("{check}: {other:?}\n{}", error.report()),
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_does_nothing_wrong_conforms() {
    let report = check(Wrong::Nothing).await.unwrap();
    for (check, _) in report.outcomes() {
        assert!(report.kept(check), "{report}");
    }
    assert_eq!(
        note(&report, Check::DroppedLogin),
        Some("dropped at 2 awaits, which left 1 sessions on the server")
    );
}

#[tokio::test(start_paused = true)]
async fn a_login_that_ends_earlier_sessions_is_found_and_may_be_declared() {
    let report = check(Wrong::EndsEarlierSessions).await.unwrap();
    let found = note(&report, Check::LogoutEnds).unwrap();
    assert!(
        found.starts_with("a login ends the earlier sessions"),
        "{found}"
    );
    assert!(found.contains("`Profile::single_session`"), "{found}");
    let report = check(Wrong::EndsEarlierSessionsAsDeclared).await.unwrap();
    assert!(is_skipped(&report, Check::LogoutEnds), "{report}");
}

#[tokio::test(start_paused = true)]
async fn stateless_tokens_conform_if_they_are_declared() {
    let report = check(Wrong::HasStatelessTokens).await.unwrap();
    for check in [Check::Logout, Check::DeadLogout, Check::LogoutEnds] {
        assert!(is_skipped(&report, check), "{report}");
    }
    assert!(report.kept(Check::Renewal), "{report}");
}

#[tokio::test(start_paused = true)]
async fn each_wrong_is_found_and_told_and_is_the_only_one() {
    for (wrong, check_that_fails, found, contract) in [
        (
            Wrong::RefusalIsUnavailable,
            Check::WrongPassword,
            "failed as Unavailable",
            "is `ProviderError::refused`",
        ),
        (
            Wrong::RefusedIsSentTwice,
            Check::WrongPassword,
            "counted 2 attempts",
            "sends the credentials once",
        ),
        (
            Wrong::TokenIsDead,
            Check::Login,
            "a token that the server does not accept",
            "yields a token that the server accepts",
        ),
        (
            Wrong::OpensTwoSessions,
            Check::Login,
            "opened 2 sessions",
            "opens one session",
        ),
        (
            Wrong::NeverAnswers,
            Check::Login,
            "not answered within 30s",
            "yields a token",
        ),
        (
            Wrong::PanicsWithoutPrevious,
            Check::Renewal,
            "it panicked",
            "works without `previous()`",
        ),
        (
            Wrong::SendsTheDeadTokenAsPassword,
            Check::Rejection,
            "counted a failed login",
            "A dead token is no password",
        ),
        (
            Wrong::RepeatsTheRejectedToken,
            Check::Rejection,
            "the rejected token once more",
            "`previous()` is dead",
        ),
        (
            Wrong::SaysThatItContinues,
            Check::Renewal,
            "and opened a session",
            "is then never logged out",
        ),
        (
            Wrong::LogoutDoesNothing,
            Check::Logout,
            "still accepts the token",
            "has ended the token",
        ),
        (
            Wrong::DeadLogoutIsProtocol,
            Check::DeadLogout,
            "failed as Protocol",
            "`Ok` or `ProviderError::token_rejected`",
        ),
        (
            Wrong::LogoutEndsTheUser,
            Check::LogoutEnds,
            "ended that of another",
            "must not take it along",
        ),
        (
            Wrong::PanicsWhenDropped,
            Check::DroppedLogin,
            "panicked when dropped at await 1",
            "may be dropped at any await",
        ),
        (
            Wrong::StaysBusyWhenDropped,
            Check::DroppedLogin,
            "after a login that was dropped at await 1, it failed as Unavailable",
            "the next one must work",
        ),
        (
            Wrong::TakesNo403ForARejection,
            Check::RejectedResponse,
            "the 403 Forbidden to a dead token counts as no rejection",
            "renews nothing",
        ),
        (
            Wrong::ChangeDoesNothing,
            Check::PasswordChange,
            "the old password still works",
            "the one that works",
        ),
        (
            Wrong::ChangeIsProtocol,
            Check::PasswordChange,
            "failed as Protocol",
            "the one that works",
        ),
        (
            Wrong::ChangeBackIsProtocol,
            Check::PasswordChange,
            "when changed back: the user has the new one now",
            "the one that works",
        ),
        (
            Wrong::DeadChangeIsRefused,
            Check::DeadPasswordChange,
            "failed as Refused",
            "renews the token and calls once more",
        ),
    ] {
        let error = check(wrong).await.expect_err(&format!("{wrong:?}"));
        let told = broken(&error, check_that_fails);
        assert!(told.contains(found), "{wrong:?}: {told}");
        assert!(told.contains(contract), "{wrong:?}: {told}");
        assert!(error.to_string().contains(&told), "{error}");
        let others = error.report().outcomes().filter(|(check, outcome)| {
            *check != check_that_fails && matches!(outcome, Outcome::Broken { .. })
        });
        assert_eq!(others.count(), 0, "{wrong:?}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_logout_that_always_fails_is_told_wherever_it_matters() {
    let error = check(Wrong::LogoutIsUnavailable).await.unwrap_err();
    for check in [Check::Logout, Check::DeadLogout, Check::LogoutEnds] {
        assert!(
            broken(&error, check)
                .contains("failed as Unavailable (the login system is unavailable: status 405)")
        );
    }
    let shown: BoxError = error.into();
    assert_eq!(format!("{shown:?}"), shown.to_string());
}

// ---- Credential stores -----------------------------------------------------

/// A store in memory that breaks the contract in one way.
#[derive(Clone)]
struct InMemory {
    kept: Arc<Mutex<(SecretString, u64)>>,
    fault: Option<StoreFault>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StoreFault {
    /// It does not look at the version.
    Overwrites,
    /// It reads and writes in two steps.
    ComparesTooEarly,
    /// It writes in two steps.
    Tears,
    /// Each load yields another version.
    CountsLoads,
    /// The version stays the same.
    CountsNothing,
    /// It keeps the text without the quotes in it.
    Escapes,
    /// It returns another error than a conflict.
    Unavailable,
}

impl InMemory {
    fn new(fault: Option<StoreFault>) -> Self {
        let record = Record::new("emuser", "first");
        Self {
            kept: Arc::new(Mutex::new((record.to_json(), 1))),
            fault,
        }
    }

    fn is(&self, fault: StoreFault) -> bool {
        self.fault == Some(fault)
    }
}

impl CredentialStore for InMemory {
    async fn load(&self) -> Result<(Record, Version), SourceError> {
        let mut kept = self.kept.lock().unwrap();
        if self.is(StoreFault::CountsLoads) {
            kept.1 += 1;
        }
        let record = Record::from_json(kept.0.expose_secret())?;
        Ok((record, Version::from(kept.1)))
    }

    async fn store(&self, record: Record, expected: Version) -> Result<(), SourceError> {
        let version = self.kept.lock().unwrap().1;
        if Version::from(version) != expected && !self.is(StoreFault::Overwrites) {
            return Err(match self.is(StoreFault::Unavailable) {
                true => SourceError::unavailable("another version"),
                false => SourceError::conflict(),
            });
        }
        let text = record.to_json();
        let text = text.expose_secret();
        if self.is(StoreFault::ComparesTooEarly) {
            tokio::task::yield_now().await;
        }
        if self.is(StoreFault::Tears) {
            self.kept.lock().unwrap().0 = text[..20].into();
            tokio::task::yield_now().await;
        }
        let mut kept = self.kept.lock().unwrap();
        kept.0 = match self.is(StoreFault::Escapes) {
            true => text.replace("\\\"", "").into(),
            false => text.into(),
        };
        if !self.is(StoreFault::CountsNothing) {
            kept.1 = version + 1;
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_keeps_the_contract_is_left_as_it_was_found() {
    let store = InMemory::new(None);
    let report = store_conformance(|| store.clone()).await.unwrap();
    for check in [
        Check::Load,
        Check::Store,
        Check::StoreConflict,
        Check::ConcurrentStores,
        Check::WholeRecords,
        Check::DroppedStore,
    ] {
        assert!(report.kept(check), "{report}");
    }
    let (record, _) = store.load().await.unwrap();
    assert_eq!(record, Record::new("emuser", "first"));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_breaks_the_contract_is_found() {
    for (fault, check) in [
        (StoreFault::Overwrites, Check::StoreConflict),
        (StoreFault::Overwrites, Check::ConcurrentStores),
        (StoreFault::ComparesTooEarly, Check::ConcurrentStores),
        (StoreFault::Tears, Check::WholeRecords),
        (StoreFault::Tears, Check::DroppedStore),
        (StoreFault::CountsLoads, Check::Load),
        (StoreFault::CountsNothing, Check::Store),
        (StoreFault::Escapes, Check::Store),
        (StoreFault::Unavailable, Check::StoreConflict),
    ] {
        let store = InMemory::new(Some(fault));
        let broken = store_conformance(|| store.clone()).await.unwrap_err();
        let outcome = broken.report().of(check);
        assert!(
            matches!(outcome, Some(Outcome::Broken { .. })),
            "{check}: {broken}"
        );
    }
}

/// Each process of its own.
#[tokio::test(start_paused = true)]
async fn a_store_that_forgets_is_found() {
    let open = || InMemory::new(None);
    let broken = store_conformance(open).await.unwrap_err();
    let outcome = broken.report().of(Check::Store);
    assert!(matches!(outcome, Some(Outcome::Broken { .. })), "{broken}");
}

#[tokio::test]
async fn a_file_store_keeps_the_contract_of_a_store() {
    let directory = std::env::temp_dir().join(format!("conforms-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("account.json");
    let first = Credentials::new("emuser", "first");
    let open = || FileStore::new(&file).or_start_with(first.clone());
    let report = store_conformance(open).await;
    let (record, _) = open().load().await.unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    report.unwrap();
    assert_eq!(record, Record::new("emuser", "first"));
}
