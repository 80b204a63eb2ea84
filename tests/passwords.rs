//! Accounts that several sessions, processes and restarts share, with servers that are
//! slow, proxies that repeat, and people who intervene: no password is lost, and no
//! account is locked.
//!
//! A "process" is a session with a `FileStore` of its own on the shared file.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;
use tower_reauth::controlm::ControlM;
use tower_reauth::controlm::emulator::{Emulator, Fault, Operation, PasswordChangeEnds};
use tower_reauth::credentials::{FileStore, Record, Version};
use tower_reauth::{
    BoxError, CredentialProvider, CredentialStore, Credentials, ErrorKind, LoginContext,
    PasswordChange, PasswordContext, Profile, ProviderError, Session, Source, SourceError, Token,
};

type Body = Full<Bytes>;

const BASE: &str = "https://ctm.example.com:8443/automation-api";
const TIMEOUT: Duration = Duration::from_secs(30);

/// A file of credentials in a directory of its own.
struct Store(PathBuf);

impl Store {
    fn new(text: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("passwords-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let file = directory.join("account.json");
        fs::write(&file, text).unwrap();
        Self(file)
    }

    fn open(&self) -> Source {
        Source::new(FileStore::new(&self.0))
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.0).unwrap()
    }

    fn current(&self) -> String {
        let record: serde_json::Value = serde_json::from_str(&self.text()).unwrap();
        record["password"].as_str().unwrap().to_owned()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0.parent().unwrap());
    }
}

const OLD: &str = r#"{ "username": "emuser", "password": "old-pass" }"#;

fn emulator() -> Emulator {
    emulator_with(PasswordChangeEnds::NoSession)
}

fn emulator_with(ends: PasswordChangeEnds) -> Emulator {
    Emulator::builder()
        .user("emuser", "old-pass")
        // Leaves one failed login for people.
        .lock_after(3)
        .password_change_ends(ends)
        .build()
}

fn session(emulator: &Emulator, source: impl Into<Source>) -> Session {
    let http = emulator.service();
    let provider = ControlM::<_, Body>::new(http, BASE.parse().unwrap(), source).unwrap();
    Session::new(provider)
}

/// Checks that a new start logs in with what the file holds.
async fn starts(emulator: &Emulator, store: &Store) {
    let start = session(emulator, store.open());
    start.token().await.unwrap();
}

fn change(session: &Session, to: &str) -> tokio::task::JoinHandle<Result<(), ErrorKind>> {
    let (session, change) = (session.clone(), PasswordChange::to(to));
    tokio::spawn(async move {
        let changed = session.change_password(change).await;
        changed.map_err(|error| error.kind())
    })
}

// A second actor during a change.

#[tokio::test(start_paused = true)]
async fn a_process_that_logs_in_during_the_change_of_another_loses_nothing() {
    let (emulator, store) = (emulator(), Store::new(OLD));
    let one = session(&emulator, store.open());
    let other = session(&emulator, store.open());
    one.token().await.unwrap();
    emulator.fault(Operation::UpdatePassword, Fault::stall());
    let change = change(&one, "new-pass");
    emulator.stalled(1).await;

    other.token().await.unwrap();
    emulator.release();
    assert_eq!(change.await.unwrap(), Ok(()));
    assert_eq!(store.current(), "new-pass");
    starts(&emulator, &store).await;
    assert_eq!(emulator.account().failed_logins, 0);
}

/// The server denies a change that it has executed for another process before: the caller
/// must not take that for a denied password.
#[tokio::test(start_paused = true)]
async fn a_change_that_another_process_has_taken_over_is_uncertain_if_it_is_denied() {
    let (emulator, store) = (emulator(), Store::new(OLD));
    let one = session(&emulator, store.open());
    let other = session(&emulator, store.open());
    one.token().await.unwrap();
    emulator.fault(Operation::UpdatePassword, Fault::stall());
    let mine = change(&one, "new-pass");
    emulator.stalled(1).await;

    // The other process takes the first one for dead.
    fs::remove_file(store.0.with_file_name(".account.json.change")).unwrap();
    other
        .change_password(PasswordChange::to("other-pass"))
        .await
        .unwrap();
    emulator.release();
    assert_eq!(mine.await.unwrap(), Err(ErrorKind::Uncertain));
    assert_eq!(store.current(), "other-pass");
    starts(&emulator, &store).await;
    assert_eq!(emulator.account().failed_logins, 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_shares_the_source_waits_for_the_change() {
    for store in [None, Some(Store::new(OLD))] {
        let emulator = emulator();
        let source = match &store {
            Some(store) => store.open(),
            None => Source::from(Credentials::new("emuser", "old-pass")),
        };
        let one = session(&emulator, source.clone());
        let other = session(&emulator, source.clone());
        one.token().await.unwrap();
        emulator.fault(Operation::UpdatePassword, Fault::stall());
        let change = change(&one, "new-pass");
        emulator.stalled(1).await;

        let login = tokio::spawn(async move { other.token().await.map(drop) });
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(
            emulator.account().logins,
            1,
            "it logged in during the change"
        );
        emulator.release();
        assert_eq!(change.await.unwrap(), Ok(()));
        login.await.unwrap().unwrap();
        assert_eq!(emulator.account().failed_logins, 0);
        session(&emulator, source).token().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_dropped_during_its_change_and_built_anew_finds_the_password() {
    let (emulator, store) = (emulator(), Store::new(OLD));
    let one = session(&emulator, store.open());
    one.token().await.unwrap();
    emulator.fault(Operation::UpdatePassword, Fault::stall());
    let change = change(&one, "new-pass");
    emulator.stalled(1).await;
    change.abort();
    drop(one);

    let other = session(&emulator, store.open());
    other.token().await.unwrap();
    emulator.release();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(emulator.account().password_changes, 1);
    emulator.restart();
    other.login().await.unwrap();
    starts(&emulator, &store).await;
    assert!(emulator.account().failed_logins <= 1);
}

#[tokio::test(start_paused = true)]
async fn two_changes_of_one_account_at_once_are_made_one_at_a_time() {
    let (emulator, store) = (emulator(), Store::new(OLD));
    let one = session(&emulator, store.open());
    let other = session(&emulator, store.open());
    one.token().await.unwrap();
    other.token().await.unwrap();
    emulator.fault(Operation::UpdatePassword, Fault::stall());
    let first = change(&one, "first-new");
    emulator.stalled(1).await;
    let busy = other
        .change_password(PasswordChange::to("second-new"))
        .await
        .unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Unavailable);
    assert!(format!("{busy:?}").contains("in progress"), "{busy:?}");
    emulator.release();
    assert_eq!(first.await.unwrap(), Ok(()));
    other
        .change_password(PasswordChange::to("second-new"))
        .await
        .unwrap();
    starts(&emulator, &store).await;
    assert_eq!(store.current(), "second-new");
}

// A server that is slower than the next login.

/// The server takes so long to execute a change, whatever the client does meanwhile.
fn slow_changes(
    emulator: &Emulator,
    delay: Duration,
) -> impl tower::Service<
    Request<Body>,
    Response = Response<Body>,
    Error = BoxError,
    Future = impl Future<Output = Result<Response<Body>, BoxError>> + Send,
> + Clone
+ Send
+ Sync
+ 'static {
    let emulator = emulator.clone();
    tower::service_fn(move |request: Request<Body>| {
        let emulator = emulator.clone();
        let answer = tokio::spawn(async move {
            if request.uri().path().ends_with("update") {
                tokio::time::sleep(delay).await;
            }
            let (head, body) = emulator.service().oneshot(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, BoxError>(Response::from_parts(head, Body::new(body)))
        });
        async move { answer.await.unwrap() }
    })
}

#[tokio::test(start_paused = true)]
async fn a_change_that_the_server_makes_after_the_timeout_and_the_next_login_is_found() {
    for delay in [31, 45, 300] {
        let (emulator, store) = (emulator(), Store::new(OLD));
        let http = slow_changes(&emulator, Duration::from_secs(delay));
        let provider = ControlM::new(http, BASE.parse().unwrap(), store.open()).unwrap();
        let session = Session::builder(provider).login_timeout(TIMEOUT).build();
        session.token().await.unwrap();
        let lost = change(&session, "new-pass").await.unwrap();
        assert_eq!(lost, Err(ErrorKind::Uncertain));
        let token = session.token().await.unwrap();
        session.reject(&token);
        session.token().await.unwrap();
        tokio::time::sleep(Duration::from_secs(delay)).await;
        assert_eq!(emulator.account().password_changes, 1);
        emulator.restart();
        session.login().await.unwrap();
        assert_eq!(store.current(), "new-pass");
        starts(&emulator, &store).await;
        assert_eq!(emulator.account().failed_logins, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_restarted_at_once_while_the_server_works_on_its_change() {
    let (emulator, store) = (emulator(), Store::new(OLD));
    let http = slow_changes(&emulator, Duration::from_millis(500));
    let provider = ControlM::new(http, BASE.parse().unwrap(), store.open()).unwrap();
    let one = Session::new(provider);
    one.token().await.unwrap();
    let _running = change(&one, "new-pass");
    tokio::time::sleep(Duration::from_millis(100)).await;
    // The file as a dead process leaves it: nobody holds its locks.
    let left = Store::new(&store.text());
    let other = session(&emulator, left.open());
    other.token().await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(emulator.account().password_changes, 1);
    emulator.restart();
    other.login().await.unwrap();
    assert_eq!(left.current(), "new-pass");
    starts(&emulator, &left).await;
    assert_eq!(emulator.account().failed_logins, 1);
}

// A change that was made, and whose answer says "no".

#[tokio::test(start_paused = true)]
async fn a_change_that_was_made_and_denied_loses_nothing() {
    for status in [
        StatusCode::BAD_REQUEST,
        StatusCode::UNAUTHORIZED,
        StatusCode::TOO_MANY_REQUESTS,
    ] {
        let (emulator, store) = (emulator(), Store::new(OLD));
        let session = session(&emulator, store.open());
        session.token().await.unwrap();
        let answer = Fault::status(status).after_execution();
        emulator.fault(Operation::UpdatePassword, answer.lasting());
        let denied = change(&session, "new-pass").await.unwrap();
        // After a 401 the session logs in, and sees that the change was made.
        assert_eq!(denied.is_ok(), status == StatusCode::UNAUTHORIZED);
        assert!(emulator.account().password_changes > 0, "{status}");
        emulator.clear_faults();
        emulator.restart();
        session.login().await.unwrap();
        assert_eq!(store.current(), "new-pass", "{status}");
        starts(&emulator, &store).await;
        assert!(emulator.account().failed_logins <= 1, "{status}");
    }
}

/// A proxy repeats the change and forwards the second answer.
#[tokio::test(start_paused = true)]
async fn a_change_that_is_delivered_twice_loses_nothing() {
    for ends in [
        PasswordChangeEnds::NoSession,
        PasswordChangeEnds::EverySession,
    ] {
        let (emulator, store) = (emulator_with(ends), Store::new(OLD));
        let behind = emulator.clone();
        let http = tower::service_fn(move |request: Request<Body>| {
            let emulator = behind.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                if head.uri.path().ends_with("update") {
                    let mut first = Request::new(Body::new(body.clone()));
                    *first.method_mut() = head.method.clone();
                    *first.uri_mut() = head.uri.clone();
                    *first.headers_mut() = head.headers.clone();
                    let _ = emulator.service().oneshot(first).await;
                }
                let request = Request::from_parts(head, Body::new(body));
                emulator.service().oneshot(request).await
            }
        });
        let provider = ControlM::new(http, BASE.parse().unwrap(), store.open()).unwrap();
        let session = Session::new(provider);
        session.token().await.unwrap();
        let _ = change(&session, "new-pass").await.unwrap();
        assert!(emulator.account().password_changes > 0);
        emulator.restart();
        starts(&emulator, &store).await;
        assert!(emulator.account().failed_logins <= 1);
    }
}

// Many sessions.

#[tokio::test(start_paused = true)]
async fn sessions_that_meet_an_open_change_fail_once_together() {
    const OPEN: &str =
        r#"{ "username": "emuser", "password": "gone-pass", "new_password": "old-pass" }"#;
    for sessions in [2, 3, 5, 10] {
        let emulator = emulator();
        let store = Store::new(OPEN);
        let sessions: Vec<_> = (0..sessions)
            .map(|_| session(&emulator, store.open()))
            .collect();
        let logins = sessions.iter().map(|session| session.token());
        for login in futures_util::future::join_all(logins).await {
            login.unwrap();
        }
        assert_eq!(emulator.account().failed_logins, 1);
    }
}

// Restarts.

#[tokio::test(start_paused = true)]
async fn restarts_with_a_wrong_password_send_it_once() {
    let emulator = emulator();
    let store = Store::new(r#"{ "username": "emuser", "password": "wrong" }"#);
    for _ in 0..10 {
        let start = session(&emulator, store.open());
        let refused = start.token().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused);
    }
    assert_eq!(emulator.account().failed_logins, 1);
    // Somebody corrects the file, and leaves the rest.
    fs::write(&store.0, store.text().replacen("wrong", "old-pass", 1)).unwrap();
    starts(&emulator, &store).await;
    starts(&emulator, &store).await;
    assert_eq!(emulator.account().failed_logins, 1);
}

#[tokio::test(start_paused = true)]
async fn restarts_with_two_wrong_passwords_send_each_once() {
    let emulator = emulator();
    let store =
        Store::new(r#"{ "username": "emuser", "password": "wrong", "new_password": "too" }"#);
    for _ in 0..10 {
        let start = session(&emulator, store.open());
        let refused = start.token().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused);
    }
    assert_eq!(emulator.account().failed_logins, 2);
    // An operator may send them once more.
    let operator = session(&emulator, store.open());
    emulator.set_password("emuser", "wrong");
    operator.login().await.unwrap();
}

/// A store whose disk is full.
struct DiskFull(FileStore);

impl CredentialStore for DiskFull {
    async fn load(&self) -> Result<(Record, Version), SourceError> {
        self.0.load().await
    }

    async fn store(&self, _: Record, _: Version) -> Result<(), SourceError> {
        Err(SourceError::unavailable("the disk is full"))
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_full_disk_only_a_password_that_worked_is_sent_once_a_process() {
    let (emulator, store) = (emulator(), Store::new(OLD));
    let full = || Source::new(DiskFull(FileStore::new(&store.0)));
    let start = session(&emulator, full());
    let failed = start.token().await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Unavailable);
    assert!(
        format!("{failed:?}").contains("the disk is full"),
        "{failed:?}"
    );
    assert_eq!(
        emulator.account().requests,
        0,
        "an unknown password was sent"
    );

    starts(&emulator, &store).await;
    let start = session(&emulator, full());
    for _ in 0..3 {
        start.login().await.unwrap();
    }
    // The disk is still full, and somebody has changed the password at the server.
    emulator.set_password("emuser", "third-pass");
    for _ in 0..3 {
        start.login().await.unwrap_err();
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    assert_eq!(emulator.account().failed_logins, 1);
    let denied = start
        .change_password(PasswordChange::to("new-pass"))
        .await
        .unwrap_err();
    assert_ne!(denied.kind(), ErrorKind::Uncertain);
    assert_eq!(emulator.account().requests_to(Operation::UpdatePassword), 0);
}

/// A store that does not answer to a write, from the third on.
struct Hanging(FileStore, AtomicUsize);

impl CredentialStore for Hanging {
    async fn load(&self) -> Result<(Record, Version), SourceError> {
        self.0.load().await
    }

    async fn store(&self, record: Record, expected: Version) -> Result<(), SourceError> {
        if self.1.fetch_add(1, Ordering::Relaxed) >= 2 {
            std::future::pending::<()>().await;
        }
        self.0.store(record, expected).await
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_store_hangs_a_password_that_worked_is_sent_and_has_its_time() {
    let store = Store::new(OLD);
    let hanging = Hanging(FileStore::new(&store.0), AtomicUsize::new(0));
    let provider = Scripted::new(Source::new(hanging), "old-pass");
    let session = Session::new(provider.clone());
    session.token().await.unwrap();
    session.login().await.unwrap();
    assert_eq!(provider.sent().len(), 2);
}

// Logins without a verdict.

#[tokio::test(start_paused = true)]
async fn without_a_verdict_a_password_that_never_worked_is_sent_ever_more_seldom() {
    let emulator = emulator();
    let store = Store::new(r#"{ "username": "emuser", "password": "wrong" }"#);
    // A gateway whose server counts the login.
    let answer = Fault::status(StatusCode::BAD_GATEWAY).after_execution();
    emulator.fault(Operation::Login, answer.lasting());
    let start = session(&emulator, store.open());
    for _ in 0..600 {
        start.token().await.unwrap_err();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // At 0, 1 and then after 1, 2 and 4 minutes.
    let sent = emulator.account().requests_to(Operation::Login);
    assert!(sent <= 5, "{sent} logins in ten minutes");
}

/// A gateway answers for a server that has counted the login.
#[tokio::test(start_paused = true)]
async fn without_a_verdict_on_an_open_change_the_passwords_are_sent_by_turns_and_seldom() {
    let open = r#"{ "username": "emuser", "password": "wrong", "new_password": "right" }"#;
    let store = Store::new(open);
    let provider = Scripted::new(store.open(), "right");
    provider.state.lock().unwrap().gateway = true;
    let session = Session::new(provider.clone());
    for _ in 0..3600 {
        session.token().await.unwrap_err();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // Two at once, and then after 1, 2, 4, 8, 16 and 32 minutes.
    let sent = provider.sent();
    assert!((5..=8).contains(&sent.len()), "{sent:?}");
    assert!(sent.windows(2).all(|two| two[0] != two[1]), "{sent:?}");
}

/// Two logins of 25 s each, with a timeout of 30 s.
#[tokio::test(start_paused = true)]
async fn a_login_that_waits_for_another_has_its_whole_timeout() {
    let store = Store::new(OLD);
    for source in [
        Source::from(Credentials::new("emuser", "old-pass")),
        store.open(),
    ] {
        let provider = Scripted::new(source, "old-pass");
        provider.state.lock().unwrap().takes = Duration::from_secs(25);
        let sessions = [(); 2].map(|()| Session::new(provider.clone()));
        let logins = sessions.iter().map(Session::token);
        for login in futures_util::future::join_all(logins).await {
            login.unwrap();
        }
        assert_eq!(provider.sent().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_password_of_a_read_only_source_lives_with_it_until_the_source_yields_another() {
    let yields = Arc::new(Mutex::new("old-pass"));
    let read = yields.clone();
    let source = Source::from_fn(move || {
        let password = *read.lock().unwrap();
        async move { Ok(Credentials::new("emuser", password)) }
    });
    let provider = Scripted::new(source, "old-pass");
    let one = Session::new(provider.clone());
    one.token().await.unwrap();
    let denied = one.change_password(PasswordChange::to("new-pass")).await;
    assert_eq!(denied.unwrap_err().kind(), ErrorKind::Unsupported);
    let change = PasswordChange::to("new-pass").allow_unstored();
    one.change_password(change).await.unwrap();
    // The mount still yields the old one, which is not news.
    let other = Session::new(provider.clone());
    other.token().await.unwrap();
    assert_eq!(provider.sent(), ["old-pass", "new-pass"]);
    *yields.lock().unwrap() = "third-pass";
    provider.state.lock().unwrap().accepts = "third-pass";
    other.login().await.unwrap();
    assert_eq!(provider.sent().last().unwrap(), "third-pass");
}

#[tokio::test(start_paused = true)]
async fn a_login_server_that_cannot_be_reached_is_asked_at_the_usual_pace() {
    let calls = Arc::new(AtomicU64::new(0));
    let counted = calls.clone();
    let http = tower::service_fn(move |_: Request<Body>| {
        counted.fetch_add(1, Ordering::Relaxed);
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        std::future::ready(Err::<Response<Body>, _>(refused))
    });
    let store = Store::new(OLD);
    let provider = ControlM::new(http, BASE.parse().unwrap(), store.open()).unwrap();
    let start = Session::new(provider);
    for _ in 0..600 {
        start.token().await.unwrap_err();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let calls = calls.load(Ordering::Relaxed);
    assert!(calls >= 12, "{calls} logins in ten minutes");
    let emulator = emulator();
    starts(&emulator, &store).await;
}

// Scripted login systems.

/// A login system that accepts one password, and answers a wrong one as it is told.
#[derive(Clone)]
struct Scripted {
    source: Source,
    state: Arc<Mutex<State>>,
    realm: Option<&'static str>,
}

type Failure = fn(&'static str) -> ProviderError;

struct State {
    accepts: &'static str,
    /// What a login with a right password is answered instead of a token.
    instead: Option<Failure>,
    sent: Vec<String>,
    changes: Vec<(bool, Option<String>)>,
    /// How long a login takes.
    takes: Duration,
    /// Whether each login is answered by a gateway, which does not know its outcome.
    gateway: bool,
    /// How the next changes are answered, and whether the server has made them.
    answers: Vec<(Failure, bool)>,
}

impl Scripted {
    fn new(source: impl Into<Source>, accepts: &'static str) -> Self {
        Self {
            source: source.into(),
            state: Arc::new(Mutex::new(State {
                accepts,
                instead: None,
                sent: Vec::new(),
                changes: Vec::new(),
                takes: Duration::from_millis(10),
                gateway: false,
                answers: Vec::new(),
            })),
            realm: None,
        }
    }

    fn sent(&self) -> Vec<String> {
        self.state.lock().unwrap().sent.clone()
    }
}

impl CredentialProvider for Scripted {
    fn profile(&self) -> Profile {
        let profile = Profile::at("https://api.test".parse().unwrap());
        match self.realm {
            Some(realm) => profile.realm(realm),
            None => profile,
        }
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, cx: LoginContext) -> Result<Token, ProviderError> {
        use tower_reauth::ExposeSecret;
        let password = cx.credentials()?.password().expose_secret().to_owned();
        let takes = self.state.lock().unwrap().takes;
        tokio::time::sleep(takes).await;
        let mut state = self.state.lock().unwrap();
        let is_right = password == state.accepts;
        state.sent.push(password);
        if state.gateway {
            return Err(ProviderError::unavailable("502"));
        }
        match (is_right, state.instead) {
            (false, _) => Err(ProviderError::refused("wrong password")),
            (true, Some(instead)) => Err(instead("not now")),
            (true, None) => Ok(Token::bearer("token")?),
        }
    }

    async fn change_password(&self, cx: PasswordContext) -> Result<(), ProviderError> {
        use tower_reauth::ExposeSecret;
        let mut state = self.state.lock().unwrap();
        let current = cx
            .current_password()
            .map(|it| it.expose_secret().to_owned());
        state.changes.push((cx.token().is_some(), current));
        let answer = match state.answers.is_empty() {
            true => None,
            false => Some(state.answers.remove(0)),
        };
        if answer.is_none_or(|(_, is_made)| is_made) {
            state.accepts = cx.new_password().expose_secret().to_owned().leak();
            state.instead = None;
        }
        match answer {
            Some((error, _)) => Err(error("answer")),
            None => Ok(()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_rotates_through_wrong_passwords_has_each_sent_once() {
    let number = Arc::new(AtomicU64::new(0));
    let reads = number.clone();
    let source = Source::from_fn(move || {
        let number = reads.fetch_add(1, Ordering::Relaxed) % 100;
        async move { Ok(Credentials::new("emuser", format!("wrong-{number}"))) }
    });
    let provider = Scripted::new(source, "right");
    let session = Session::new(provider.clone());
    for _ in 0..1000 {
        session.token().await.unwrap_err();
        tokio::time::sleep(Duration::from_secs(11)).await;
    }
    assert!(number.load(Ordering::Relaxed) > 500, "the source is read");
    let mut sent = provider.sent();
    sent.sort();
    let all = sent.len();
    sent.dedup();
    assert_eq!((all, sent.len()), (100, 100));
}

#[tokio::test(start_paused = true)]
async fn an_expired_password_is_not_sent_again_and_is_changed_without_a_token() {
    let store = Store::new(r#"{ "username": "emuser", "password": "expired" }"#);
    let memory = Source::from(Credentials::new("emuser", "expired"));
    for source in [memory, store.open()] {
        let provider = Scripted::new(source, "expired");
        provider.state.lock().unwrap().instead = Some(ProviderError::password_expired);
        let session = Session::new(provider.clone());
        for _ in 0..5 {
            let expired = session.token().await.unwrap_err();
            assert_eq!(expired.kind(), ErrorKind::PasswordExpired);
            tokio::time::sleep(Duration::from_secs(11)).await;
        }
        assert_eq!(provider.sent(), ["expired"]);
        session
            .change_password(PasswordChange::to("fresh"))
            .await
            .unwrap();
        let changes = provider.state.lock().unwrap().changes.clone();
        assert_eq!(changes, [(false, Some("expired".to_owned()))]);
        session.token().await.unwrap();
        assert_eq!(provider.sent(), ["expired", "fresh"]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_password_is_changed_after_a_denied_and_after_a_lost_change() {
    let denied: Failure = ProviderError::refused;
    let lost: Failure = ProviderError::uncertain;
    for (answer, kind) in [
        ((denied, false), ErrorKind::Refused),
        ((lost, false), ErrorKind::Uncertain),
        ((lost, true), ErrorKind::Uncertain),
    ] {
        let provider = Scripted::new(Credentials::new("emuser", "expired"), "expired");
        {
            let mut state = provider.state.lock().unwrap();
            state.instead = Some(ProviderError::password_expired);
            state.answers.push(answer);
        }
        let session = Session::new(provider.clone());
        let change = async |to: &str| {
            let changed = session.change_password(PasswordChange::to(to)).await;
            changed.map_err(|error| error.kind())
        };
        assert_eq!(change("first").await, Err(kind));
        // After a lost answer the same one again, as the docs say.
        let again = match kind {
            ErrorKind::Refused => "second",
            _ => "first",
        };
        assert_eq!(change(again).await, Ok(()));
        session.token().await.unwrap();
        assert_eq!(provider.sent().last().unwrap(), again);
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_that_call_login_at_once_share_a_refusal() {
    let store = Store::new(OLD);
    for source in [
        Source::from(Credentials::new("emuser", "old-pass")),
        store.open(),
    ] {
        let provider = Scripted::new(source, "right");
        let sessions: Vec<_> = (0..10).map(|_| Session::new(provider.clone())).collect();
        let logins = sessions.iter().map(Session::login);
        for refused in futures_util::future::join_all(logins).await {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Refused);
        }
        assert_eq!(provider.sent().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_logout_calls_off_a_login_that_waits_for_that_of_another_session() {
    let emulator = emulator();
    let source = Source::from(Credentials::new("emuser", "old-pass"));
    let one = session(&emulator, source.clone());
    let other = session(&emulator, source);
    emulator.fault(Operation::Login, Fault::stall());
    let _slow = tokio::spawn(async move { one.token().await.map(drop) });
    emulator.stalled(1).await;
    let waits = tokio::spawn({
        let other = other.clone();
        async move { other.token().await.map(drop) }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = tokio::time::Instant::now();
    other.logout().await.unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO);
    let called_off = waits.await.unwrap().unwrap_err();
    assert_eq!(called_off.kind(), ErrorKind::LoggedOut);
    emulator.release();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(emulator.account().logins, 1);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_never_writes_again_does_not_hold_up_the_next_change() {
    let (emulator, store) = (emulator(), Store::new(OLD));
    let stopped = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let source = store.open();
    emulator.fault(Operation::UpdatePassword, Fault::stall());
    let one = session(&emulator, source.clone());
    stopped.spawn(async move {
        one.token().await.unwrap();
        let _ = one.change_password(PasswordChange::to("never")).await;
    });
    emulator.stalled(1).await;
    stopped.shutdown_background();
    emulator.clear_faults();
    tokio::time::sleep(Duration::from_secs(60)).await;

    let other = session(&emulator, store.open());
    other.token().await.unwrap();
    other
        .change_password(PasswordChange::to("new-pass"))
        .await
        .unwrap();
    assert_eq!(store.current(), "new-pass");
    starts(&emulator, &store).await;
    drop(source);
}

#[tokio::test(start_paused = true)]
async fn a_password_that_no_record_can_hold_is_refused_before_the_server_is_asked() {
    let store = Store::new(OLD);
    let provider = Scripted::new(store.open(), "old-pass");
    let session = Session::new(provider.clone());
    for (new, kind) in [
        (String::new(), ErrorKind::Refused),
        ("x".repeat(5 * 1024 * 1024), ErrorKind::Unavailable),
    ] {
        let failed = session.change_password(PasswordChange::to(new)).await;
        assert_eq!(failed.unwrap_err().kind(), kind);
    }
    assert_eq!(provider.state.lock().unwrap().changes, []);
    starts_with(&provider, &store).await;
}

#[tokio::test(start_paused = true)]
async fn a_locked_account_is_not_a_wrong_password() {
    let store = Store::new(OLD);
    let provider = Scripted::new(store.open(), "old-pass");
    provider.state.lock().unwrap().instead = Some(ProviderError::locked);
    let session = Session::new(provider.clone());
    for _ in 0..10 {
        let locked = session.token().await.unwrap_err();
        assert_eq!(locked.kind(), ErrorKind::Locked);
        tokio::time::sleep(Duration::from_secs(70)).await;
    }
    assert_eq!(provider.sent().len(), 10);
    provider.state.lock().unwrap().instead = None;
    session.token().await.unwrap();
    assert!(!store.text().contains("tries"), "{}", store.text());
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_are_sent_again_where_that_is_allowed_after_delays_that_double() {
    let store = Store::new(OLD);
    let provider = Scripted::new(store.open(), "right");
    let session = Session::builder(provider.clone())
        .retry_refused_after(Duration::from_secs(600))
        .build();
    let start = tokio::time::Instant::now();
    let mut at = Vec::new();
    for _ in 0..300 {
        let before = provider.sent().len();
        session.token().await.unwrap_err();
        tokio::time::sleep(Duration::from_secs(11)).await;
        if provider.sent().len() > before {
            at.push(start.elapsed().as_secs());
        }
    }
    // At 0, after 10 min, and after 20 min more: the source is asked every 11 s.
    assert_eq!(at.len(), 3, "{at:?}");
    assert!(
        (600..640).contains(&at[1]) && (1800..1860).contains(&at[2]),
        "{at:?}"
    );
    provider.state.lock().unwrap().accepts = "old-pass";
    tokio::time::sleep(Duration::from_secs(2400)).await;
    let _ = session.token().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    session.token().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn sessions_share_what_is_known_if_their_login_system_is_the_same() {
    let source = Source::from(Credentials::new("emuser", "wrong"));
    let refused = async |provider: &Scripted| {
        let session = Session::new(provider.clone());
        let refused = session.token().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused);
        provider.sent().len()
    };
    let provider = Scripted::new(source.clone(), "right");
    assert_eq!(refused(&provider).await, 1);
    assert_eq!(
        refused(&provider).await,
        1,
        "a second session sends it again"
    );

    let elsewhere = Scripted {
        realm: Some("another login system"),
        ..Scripted::new(source, "right")
    };
    assert_eq!(refused(&elsewhere).await, 1);
    assert_eq!(refused(&elsewhere).await, 1);

    // Equal credentials in another source share nothing.
    let other = Scripted::new(Credentials::new("emuser", "wrong"), "right");
    assert_eq!(refused(&other).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_change_to_the_current_password_asks_nobody() {
    let store = Store::new(OLD);
    let provider = Scripted::new(store.open(), "old-pass");
    let session = Session::new(provider.clone());
    session.token().await.unwrap();
    for _ in 0..2 {
        session
            .change_password(PasswordChange::to("new-pass"))
            .await
            .unwrap();
        // It is known to be in use once a login with it was accepted.
        session.login().await.unwrap();
    }
    assert_eq!(provider.state.lock().unwrap().changes.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_fourth_change_within_the_retention_fails_before_the_server_is_asked() {
    let store = Store::new(OLD);
    let provider = Scripted::new(store.open(), "old-pass");
    let session = Session::builder(provider.clone())
        .password_retention(Duration::from_secs(3600))
        .build();
    let change = async |to: &str| {
        let changed = session.change_password(PasswordChange::to(to)).await;
        changed.map_err(|error| error.kind())
    };
    session.token().await.unwrap();
    for to in ["b", "c", "d"] {
        assert_eq!(change(to).await, Ok(()));
    }
    assert_eq!(change("e").await, Err(ErrorKind::Unavailable));
    assert_eq!(provider.state.lock().unwrap().changes.len(), 3);
    tokio::time::sleep(Duration::from_secs(3601)).await;
    session.login().await.unwrap();
    assert_eq!(change("e").await, Ok(()));
    starts_with(&provider, &store).await;
}

async fn starts_with(provider: &Scripted, store: &Store) {
    let start = Scripted {
        source: store.open(),
        ..provider.clone()
    };
    Session::new(start).token().await.unwrap();
}
