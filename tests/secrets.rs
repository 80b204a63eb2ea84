//! What a person may see of a session holds no secret, whatever goes wrong.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt::{Debug, Display};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use tower::{Service, ServiceExt};
use tower_reauth::ProviderFn;
use tower_reauth::controlm::emulator::{
    Account, Call, Emulator, EmulatorBuilder, EmulatorService, Fault, ResponseBody, Server,
};
use tower_reauth::controlm::model::{LoginCredentials, LoginResult, PasswordsObject, SuccessData};
use tower_reauth::controlm::{ControlM, SessionApi};
use tower_reauth::credentials::{Chain, Env, File, FileStore, Memory, Record, Version};
use tower_reauth::provider::{Answer, Api};
use tower_reauth::{
    Auto, Buffer, BufferInto, BufferKept, Buffered, CloseError, CredentialProvider,
    CredentialSource, CredentialStore, Credentials, Error, ErrorKind, Event, Events, ExposeSecret,
    FixedToken, InvalidOrigin, InvalidToken, LoginContext, LogoutContext, Origin, PasswordChange,
    PasswordContext, Profile, ProviderError, Reason, Reauth, ReauthFailure, Rejection, Replay,
    ReplayFn, ResponseFuture, Rolling, Session, SessionBody, SessionBuilder, SessionLayer,
    SessionService, SetCookie, Source, SourceError, Stats, Status, Token, provider_fn, replay_fn,
};
use tracing_subscriber::fmt::format::FmtSpan;

const PASSWORD: &str = "canary-password \"&<>";
const NEW_PASSWORD: &str = "canary-new-password";
const TOKEN: &str = "canary-token";
const COOKIE: &str = "canary-cookie";
const DATA: &str = "canary-data";
const API_KEY: &str = "canary-api-key";

const ORIGIN: &str = "https://ctm.example.com:8443";

fn origin() -> Profile {
    Profile::at(ORIGIN.parse().unwrap())
}

/// All that was shown to somebody. Each secret begins alike.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<Vec<String>>>);

impl Shown {
    #[track_caller]
    fn text(&self, text: String) {
        assert!(!text.contains("canary"), "{text}");
        self.0.lock().unwrap().push(text);
    }

    #[track_caller]
    fn debug(&self, value: &impl Debug) {
        self.text(format!("{value:?}"));
        self.text(format!("{value:#?}"));
    }

    #[track_caller]
    fn display(&self, value: &(impl Debug + Display)) {
        self.debug(value);
        self.text(format!("{value}"));
        self.text(format!("{value:#}"));
    }

    /// An error with all that is behind it.
    #[track_caller]
    fn error(&self, error: &(dyn StdError + 'static)) {
        let mut next = Some(error);
        while let Some(error) = next {
            self.display(&error);
            next = error.source();
        }
    }

    #[track_caller]
    fn session(&self, session: &Session) {
        self.debug(session);
        let stats: Stats = session.stats();
        self.debug(&stats);
        let status: Status = session.status();
        self.display(&status);
        if let Some(error) = &status.last_error {
            self.error(error);
        }
        self.debug(&session.layer());
    }

    #[track_caller]
    fn response<B>(&self, response: &Response<SessionBody<B>>)
    where
        B: http_body::Body + Debug,
    {
        self.debug(response);
        if let Some(reauth) = response.extensions().get::<Reauth>() {
            self.debug(reauth);
            if let ReauthFailure::RenewalFailed(error) = &reauth.failure {
                self.error(error);
            }
        }
    }

    /// All that `tracing` tells, for as long as the answer lives.
    fn tracing(&self) -> tracing::subscriber::DefaultGuard {
        let shown = self.clone();
        tracing::subscriber::set_default(
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::TRACE)
                .with_ansi(false)
                .with_span_events(FmtSpan::FULL)
                .with_writer(move || Told(shown.clone()))
                .finish(),
        )
    }

    /// Whether anything was shown at all: an empty text is easily kept clean.
    fn mentions(&self, text: &str) -> bool {
        self.0
            .lock()
            .unwrap()
            .iter()
            .any(|shown| shown.contains(text))
    }
}

/// A line of what `tracing` tells.
struct Told(Shown);

impl Write for Told {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.text(String::from_utf8_lossy(line).into_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn get(path: &str) -> Request<Full<Bytes>> {
    let uri = format!("{ORIGIN}{path}");
    Request::get(uri).body(Full::default()).unwrap()
}

/// What a login of a user's own provider does next.
#[derive(Clone, Copy)]
enum Next {
    Succeed,
    Refuse,
    Fail,
    Panic,
    Forge,
}

struct Own {
    source: Source,
    next: Arc<Mutex<Next>>,
    shown: Shown,
}

impl CredentialProvider for Own {
    fn profile(&self) -> Profile {
        origin()
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        self.shown.debug(&login);
        self.shown.debug(login.credentials()?);
        let next = *self.next.lock().unwrap();
        match next {
            Next::Succeed => {
                let token = Token::bearer(TOKEN)?
                    .and_header(HeaderName::from_static("x-csrf"), TOKEN)?
                    .and_cookie("sid", COOKIE)?
                    .with_data(DATA);
                self.shown.debug(&token);
                Ok(token)
            }
            Next::Refuse => Err(ProviderError::refused("wrong user or password")),
            Next::Fail => Err(ProviderError::unavailable("maintenance")),
            // Resumed, so that no hook prints it: what matters is where it ends.
            Next::Panic => std::panic::resume_unwind(Box::new(TOKEN)),
            Next::Forge => Ok(Token::bearer(format!("{TOKEN}\r\nx: y"))?),
        }
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        self.shown.debug(&cx);
        self.shown.debug(cx.token());
        Err(ProviderError::unavailable("maintenance"))
    }

    async fn change_password(&self, cx: PasswordContext) -> Result<(), ProviderError> {
        self.shown.debug(&cx);
        self.shown.debug(cx.token().unwrap());
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_shows_no_secret_from_its_first_login_to_its_logout() {
    let shown = Shown::default();
    let _tracing = shown.tracing();
    let next = Arc::new(Mutex::new(Next::Fail));
    let then = |what: Next| *next.lock().unwrap() = what;
    let source = Source::from(Credentials::new("emuser", PASSWORD));
    shown.debug(&source);
    let provider = Own {
        source,
        next: next.clone(),
        shown: shown.clone(),
    };
    let builder: SessionBuilder = Session::builder(provider)
        .name("inventory")
        .initial_token(Token::bearer(TOKEN).unwrap().with_data(DATA));
    shown.debug(&builder);
    let session = builder.build();
    shown.session(&session);
    let mut events: Events = session.events();

    let status = Arc::new(Mutex::new(StatusCode::UNAUTHORIZED));
    let answers = |with: StatusCode| *status.lock().unwrap() = with;
    let http = {
        let (shown, status) = (shown.clone(), status.clone());
        tower::service_fn(move |request: Request<Full<Bytes>>| {
            // As the inner service sees it, with its headers.
            shown.debug(&request);
            let mut response = Response::new(Full::<Bytes>::from("who are you?"));
            *response.status_mut() = *status.lock().unwrap();
            async move { Ok::<_, Infallible>(response) }
        })
    };
    let mut client = session.layer().layer_of(http);
    let mut send = async || {
        let mut request = get("/servers");
        let mut own = HeaderValue::from_static("theme=dark; sid=canary-of-the-caller");
        own.set_sensitive(true);
        request.headers_mut().insert(header::COOKIE, own);
        let future: ResponseFuture<_, _, _, _> = client.ready().await.unwrap().call(request);
        shown.debug(&future);
        match future.await {
            Ok(response) => {
                shown.response(&response);
                shown.session(&session);
                Ok(response)
            }
            Err(error) => {
                shown.error(&*error);
                shown.session(&session);
                Err(error)
            }
        }
    };

    for what in [Next::Fail, Next::Panic, Next::Forge, Next::Refuse] {
        then(what);
        let response = send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let _ = response.into_body().collect().await.unwrap();
        let error = session.login().await.unwrap_err();
        shown.error(&error);
        shown.session(&session);
    }
    assert!(
        shown.mentions("wrong user or password"),
        "the cause is told"
    );

    then(Next::Succeed);
    session.login().await.unwrap();
    shown.session(&session);
    answers(StatusCode::OK);
    assert_eq!(send().await.unwrap().status(), StatusCode::OK);
    shown.debug(&session.token().await.unwrap());
    answers(StatusCode::UNAUTHORIZED);
    let _ = send().await.unwrap();

    let change = PasswordChange::to(NEW_PASSWORD).current(PASSWORD);
    shown.debug(&change);
    shown.debug(&session.change_password(change).await.unwrap());
    shown.error(&session.logout().await.unwrap_err());
    shown.session(&session);
    let error = send().await.unwrap_err();
    assert_eq!(Error::find(&*error).unwrap().kind(), ErrorKind::LoggedOut);

    drop((session, client));
    let mut told = 0;
    while let Some(event) = events.recv().await {
        shown.debug(&event);
        told += 1;
    }
    assert!(told > 10, "{told} events");
    for line in [
        "login{session=\"inventory\" reason=Requested}",
        "login started session=\"inventory\" reason=Rejected",
        "login failed session=\"inventory\" reason=Requested elapsed=0ns retry_after=",
        "error=login failed: the server refused the credentials: wrong user or password",
        "logged in session=\"inventory\" reason=Requested generation=2 elapsed=0ns",
        "the server rejected the token session=\"inventory\" generation=2",
        "token ended session=\"inventory\" generation=1 end=",
        "password changed session=\"inventory\" elapsed=0ns",
        "change_password{session=\"inventory\"}",
        "logged out session=\"inventory\"",
    ] {
        assert!(shown.mentions(line), "{line}");
    }
}

/// `Layer::layer` without its import, which is one more dependency.
trait LayerOf<R> {
    fn layer_of<S>(&self, inner: S) -> SessionService<S, R>;
}

impl<R: Clone> LayerOf<R> for SessionLayer<R> {
    fn layer_of<S>(&self, inner: S) -> SessionService<S, R> {
        tower::Layer::layer(self, inner)
    }
}

#[test]
fn values_that_hold_secrets_do_not_show_them() {
    let shown = Shown::default();
    let credentials = Credentials::new("emuser", PASSWORD);
    shown.debug(&credentials);
    shown.debug(&Memory::new(credentials.clone()));
    shown.debug(&Env::new("CTM_USER", "CTM_PASSWORD"));
    shown.debug(&File::plain("emuser", "/run/secrets/ctm"));
    shown.debug(&File::json("/run/secrets/ctm.json"));
    shown.debug(&File::kubernetes("/etc/ctm"));
    shown.debug(&FileStore::new("/var/lib/ctm.json").or_start_with(credentials.clone()));
    shown.debug(&Chain::new(Memory::new(credentials.clone())));
    shown.debug(&Source::from_fn({
        let credentials = credentials.clone();
        move || std::future::ready(Ok(credentials.clone()))
    }));
    shown.debug(&record_with_all_fields());
    shown.debug(&Record::from(credentials.clone()));
    shown.debug(&record_with_all_fields().to_json());
    shown.debug(&Version::new("7"));
    shown.debug(
        &LoginContext::new(Reason::Requested)
            .with_credentials(credentials.clone())
            .with_previous(Token::bearer(TOKEN).unwrap()),
    );
    shown.debug(&FixedToken::api_key(origin(), API_KEY));
    shown.debug(&FixedToken::bearer(origin(), API_KEY));
    let provider: ProviderFn<_> = provider_fn(origin(), async |_| Ok(Token::bearer(TOKEN)?));
    shown.debug(&provider.with_source(credentials.clone()));

    let http = tower::service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let api: Api<_> = Api::new(http, ORIGIN.parse().unwrap()).unwrap();
    let api = api.extra_header(
        HeaderName::from_static("x-api-key"),
        HeaderValue::from_static(API_KEY),
    );
    shown.debug(&api);
    let call = api.post("/login?key=canary").basic(&credentials);
    shown.debug(&call.header(HeaderName::from_static("x-csrf"), TOKEN));
    shown.debug(&api.post("/login").form([("password", PASSWORD)]));

    let set =
        HeaderMap::from_iter([(header::SET_COOKIE, format!("sid={COOKIE}").parse().unwrap())]);
    shown.debug(&SetCookie::find(&set, "sid").unwrap());
    let quoting = Token::bearer(TOKEN).unwrap();
    shown.debug(&Rolling::by(move |_, _| Some(quoting.clone())));

    let login = LoginCredentials::from(&credentials);
    shown.debug(&login);
    shown.debug(&LoginResult {
        token: Some(TOKEN.into()),
        ..LoginResult::default()
    });
    shown.debug(&PasswordsObject {
        user: None,
        current_password: PASSWORD.into(),
        new_password: NEW_PASSWORD.into(),
    });
    shown.debug(&SuccessData {
        message: Some(format!("Successfully logged out from session {TOKEN}")),
    });
    let http = tower::service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let provider = ControlM::new(http, ORIGIN.parse().unwrap(), credentials)
        .unwrap()
        .extra_header(
            HeaderName::from_static("x-api-key"),
            HeaderValue::from_static(API_KEY),
        );
    shown.debug(&provider);
    shown.debug(&provider.profile());
    let emulator = Emulator::builder().user("emuser", PASSWORD);
    shown.debug(&emulator);
    let emulator = emulator.build();
    shown.debug(&emulator);
    shown.debug(&emulator.service());
    shown.debug(&emulator.account());
    shown.debug(&Fault::close());
}

/// A record with a secret in each field that may hold one.
fn record_with_all_fields() -> Record {
    let text = serde_json::json!({
        "username": "emuser",
        "password": PASSWORD,
        "written": "canary-written",
        "others": [{ "password": NEW_PASSWORD, "sent_at": 7, "open": "lost" }],
        "change": { "id": "a", "owner": "b", "until": 8 },
        "login": { "id": "c", "password": "canary-claimed", "owner": "d", "until": 9 },
        "tries": [{ "password": "canary-tried", "at": 7, "verdict": "refused" }],
    });
    Record::from_json(text.to_string()).unwrap()
}

/// Versions are compared and may be logged.
#[tokio::test]
async fn the_version_of_a_file_shows_nothing_of_its_content() {
    let shown = Shown::default();
    let name = format!("tower-reauth-versions-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let text = record_with_all_fields().to_json();
    std::fs::write(&path, text.expose_secret()).unwrap();
    let store = FileStore::new(&path);
    shown.debug(&store);
    let (record, version): (Record, Version) = store.load().await.unwrap();
    shown.debug(&(record, version));
    std::fs::remove_file(&path).unwrap();
}

/// What a caller sends and is sent is not the session's to show either.
#[test]
fn bodies_are_not_shown() {
    let shown = Shown::default();
    let body = || Full::new(Bytes::from(PASSWORD));
    let buffer = Buffer::up_to(1024);
    let (sent, kept): (Buffered<_>, Option<BufferKept<_>>) = buffer.keep(body());
    shown.debug(&sent);
    shown.debug(&kept.unwrap());
    shown.debug(&buffer);
    let into: BufferInto<Full<Bytes>, ()> = buffer.into_body(drop::<Buffered<Full<Bytes>>>);
    shown.debug(&into);
    let quoting = PASSWORD.to_owned();
    let again: ReplayFn<_> = replay_fn(move |_: &String| Some(quoting.clone()));
    shown.debug(&again);
    shown.debug(&Rejection::when(|_| true));
}

#[test]
fn an_address_with_a_password_in_it_is_not_quoted() {
    let shown = Shown::default();
    for base in [
        "https://emuser:canary@ctm.example.com",
        "emuser:canary@ctm.example.com",
        "ftp://canary@ctm.example.com",
        "https://ctm.example.com?key=canary",
    ] {
        let http = tower::service_fn(async |_: Request<Full<Bytes>>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        });
        let error: InvalidOrigin = SessionApi::new(http, base.parse().unwrap()).unwrap_err();
        shown.error(&error);
    }
}

#[tokio::test]
async fn a_file_of_credentials_that_cannot_be_read_is_not_quoted() {
    let shown = Shown::default();
    let name = format!("tower-reauth-secrets-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let show = async |source: Source| {
        let error: SourceError = source.fetch().await.unwrap_err();
        shown.error(&error);
        shown.error(&ProviderError::from(error));
    };
    for text in [
        &br#"{"username":"emuser","password":"canary"#[..],
        br#"{"username":"emuser","password":["canary"]}"#,
        br#"{"username":"emuser","password":"canary\x"}"#,
        br#"{"username":{"canary":1},"password":"canary"}"#,
        br#"{"username":"emuser","passwort":"canary"}"#,
        br#"{"username":"emuser","password":null,"new_password":"canary"}"#,
        br#"{"username":"emuser","password":"x","trying":"canary"}"#,
        br#"{"username":"emuser","password":"x","canary":1}"#,
        br#"{"username":"emuser","password":"x","written":["canary"]}"#,
        br#"{"username":"emuser","password":"x","others":[{"password":"canary"}]}"#,
        br#"{"username":"emuser","password":"x","change":{"id":"canary"}}"#,
        br#"{"username":"emuser","password":"x","login":{"password":"canary"}}"#,
        br#"{"username":"emuser","password":"x","tries":[{"verdict":"canary"}]}"#,
        b"canary\xff",
        b"canary",
        b"",
    ] {
        std::fs::write(&path, text).unwrap();
        if std::str::from_utf8(text).is_err() {
            show(Source::new(File::plain("emuser", &path))).await;
        }
        // It ignores the fields that only a store has.
        if !text.starts_with(br#"{"username":"emuser","password":"x""#) {
            show(Source::new(File::json(&path))).await;
        }
        show(Source::new(FileStore::new(&path))).await;
        shown.error(&Record::from_json(text).unwrap_err());
    }
    std::fs::remove_file(&path).unwrap();
    let nowhere = Chain::new(File::json(&path)).or(FileStore::new(&path));
    show(Source::new(nowhere)).await;
}

#[tokio::test]
async fn an_answer_to_a_provider_is_not_quoted() {
    let shown = Shown::default();
    let api = |status| {
        let http = echo(status, |said| format!("{said} {TOKEN}"));
        Api::new(http, ORIGIN.parse().unwrap()).unwrap()
    };
    let credentials = Credentials::new("emuser", PASSWORD);
    let call = |status| api(status).post("/login?canary").basic(&credentials);
    let answer: Answer = call(200).login().await.unwrap();
    shown.debug(&answer);
    shown.error(&answer.header("x-auth-token").unwrap_err());
    shown.error(&answer.cookie("sid").unwrap_err());
    shown.error(&answer.json::<String>().unwrap_err());
    for status in [400, 401, 403, 404, 409, 429, 500, 503] {
        shown.error(&call(status).login().await.unwrap_err());
        shown.error(&call(status).logout().await.unwrap_err());
        shown.error(&call(status).change().await.unwrap_err());
        if let Err(error) = call(status).exchange().await {
            shown.error(&error);
        }
    }
}

#[tokio::test]
async fn the_emulator_shows_nothing_of_its_users() {
    let shown = Shown::default();
    let noting = shown.clone();
    let builder: EmulatorBuilder = Emulator::builder()
        .user("emuser", PASSWORD)
        .on_call(move |call: &Call| noting.display(call));
    shown.debug(&builder);
    let emulator = builder.build();
    let server: Server = emulator.serve("127.0.0.1:0").await.unwrap();
    shown.debug(&server);
    let service: EmulatorService = emulator.service();
    shown.debug(&service);

    let credentials = Credentials::new("emuser", PASSWORD);
    let provider =
        ControlM::<_, Full<Bytes>>::new(service.clone(), server.url().clone(), credentials);
    let session = Session::new(provider.unwrap());
    session.login().await.unwrap();
    let change = PasswordChange::to(NEW_PASSWORD);
    session.change_password(change).await.unwrap();
    let uri = format!("{}/config/servers?canary", server.url());
    let request = Request::get(uri).header(header::AUTHORIZATION, TOKEN);
    let request = request.body(Full::<Bytes>::from(PASSWORD)).unwrap();
    let body: ResponseBody = service.oneshot(request).await.unwrap().into_body();
    shown.debug(&body);
    session.logout().await.unwrap();
    let account: Account = emulator.account();
    shown.display(&account);
    assert!(shown.mentions("/session/login"), "calls are shown");
    server.shutdown().await;
}

#[test]
fn a_password_in_an_address_is_not_an_origin_and_not_shown() {
    let shown = Shown::default();
    let address = "https://emuser:canary@ctm.example.com:8443";
    shown.error(&address.parse::<Origin>().unwrap_err());
    let uri: http::Uri = address.parse().unwrap();
    shown.error(&Origin::try_from(uri).unwrap_err());
}

#[test]
fn a_token_that_no_header_can_hold_is_not_shown() {
    let shown = Shown::default();
    let errors: [InvalidToken; 5] = [
        Token::bearer(format!("{TOKEN}\n")).unwrap_err(),
        Token::cookie("sid", format!("{COOKIE};")).unwrap_err(),
        // As it stands in `Set-Cookie`, by mistake.
        Token::cookie(format!("sid={COOKIE}; Path=/"), "x").unwrap_err(),
        Token::cookie(format!("{COOKIE} "), "x").unwrap_err(),
        Token::cookie(format!("{COOKIE}\n"), "x").unwrap_err(),
    ];
    for error in errors {
        shown.error(&error);
        shown.error(&ProviderError::from(error));
    }
}

/// Panics with, or quotes in its errors, one of the secrets that it is given.
struct Quoting {
    source: Source,
    quote: Quote,
    /// Which one, of however many there are.
    place: usize,
}

type Quote = fn(String) -> ProviderError;

impl Quoting {
    fn fail<T>(&self, secrets: &[String]) -> Result<T, ProviderError> {
        let secret = &secrets[self.place % secrets.len()];
        Err((self.quote)(format!("what is <{secret}>?")))
    }
}

impl CredentialProvider for Quoting {
    fn profile(&self) -> Profile {
        origin()
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        let mut secrets = vec![login.credentials()?.password().expose_secret().to_owned()];
        secrets.extend(login.previous().map(all_of).unwrap_or_default());
        self.fail(&secrets)
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        self.fail(&all_of(cx.token()))
    }

    async fn change_password(&self, cx: PasswordContext) -> Result<(), ProviderError> {
        let mut secrets = all_of(cx.token().unwrap());
        let passwords = [cx.current_password().unwrap(), cx.new_password()];
        secrets.extend(passwords.map(|password| password.expose_secret().to_owned()));
        self.fail(&secrets)
    }
}

/// What `token` sends, header by header, and what it keeps.
fn all_of(token: &Token) -> Vec<String> {
    let mut headers = HeaderMap::new();
    token.apply_to(&mut headers);
    let data = token.data().unwrap().expose_secret();
    let values = headers.values().map(|value| value.to_str().unwrap());
    values.chain([data]).map(str::to_owned).collect()
}

/// An error that says one thing to people and another to programmers.
#[derive(Debug)]
struct Terse {
    #[expect(dead_code, reason = "shown by `Debug`")]
    sent: String,
    source: Option<Box<Terse>>,
}

impl Terse {
    fn new(sent: String) -> Self {
        Self { sent, source: None }
    }
}

impl Display for Terse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("something went wrong")
    }
}

impl StdError for Terse {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.source.as_deref()?;
        Some(source)
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_quotes_what_it_is_given_gets_no_secret_shown() {
    let quotes: [Quote; 13] = [
        |said| ProviderError::refused(said),
        |said| ProviderError::unavailable(said),
        |said| ProviderError::protocol(said),
        |said| ProviderError::uncertain(said),
        |said| ProviderError::unsupported(said),
        |said| ProviderError::token_rejected(said),
        // As the answer, or the address, of a server that is asked over HTTP.
        |said| ProviderError::refused(serde_json::json!({ "error": said }).to_string()),
        // As some servers write JSON, such as those of .NET.
        |said| {
            let escape = |character: char| match character.is_ascii_alphanumeric() {
                true => character.to_string(),
                false => format!("\\u{:04X}", u32::from(character)),
            };
            ProviderError::refused(said.chars().map(escape).collect::<String>())
        },
        |said| {
            let uri = url::Url::parse_with_params("https://login.example.com", [("q", said)]);
            ProviderError::unavailable(uri.unwrap().to_string())
        },
        |said| ProviderError::refused(Terse::new(said)),
        |said| {
            ProviderError::uncertain(Terse {
                sent: String::new(),
                source: Some(Box::new(Terse::new(said))),
            })
        },
        // Resumed, so that no hook prints it: what matters is where it ends.
        |said| std::panic::resume_unwind(Box::new(said)),
        |said| std::panic::resume_unwind(Box::new(Terse::new(said))),
    ];
    let ways = quotes
        .into_iter()
        .flat_map(|quote| (0..6).map(move |place| (quote, place)));
    for (quote, place) in ways {
        let shown = Shown::default();
        let _tracing = shown.tracing();
        let source = Source::from(Credentials::new("emuser", PASSWORD));
        let initial = Token::bearer(TOKEN)
            .unwrap()
            .and_header(HeaderName::from_static("x-csrf"), TOKEN)
            .unwrap()
            .and_cookie("sid", COOKIE)
            .unwrap()
            .with_data(DATA);
        let session = Session::builder(Quoting {
            source,
            quote,
            place,
        })
        .initial_token(initial)
        .build();
        let mut events = session.events();

        let change = PasswordChange::to(NEW_PASSWORD);
        shown.error(&session.change_password(change).await.unwrap_err());
        shown.session(&session);
        shown.error(&session.login().await.unwrap_err());
        shown.session(&session);
        let http = tower::service_fn(async |_: Request<Full<Bytes>>| {
            let mut response = Response::new(Full::<Bytes>::default());
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            Ok::<_, Infallible>(response)
        });
        match session
            .layer()
            .layer_of(http)
            .oneshot(get("/servers"))
            .await
        {
            Ok(response) => shown.response(&response),
            Err(error) => shown.error(&*error),
        }
        if let Err(error) = session.logout().await {
            shown.error(&error);
        }
        shown.session(&session);
        let closed: Result<(), CloseError> = session.close(Duration::ZERO).await;
        if let Err(error) = closed {
            shown.error(&error);
        }
        drop(session);
        while let Some(event) = events.recv().await {
            let event: Event = event;
            shown.debug(&event);
        }
        shown.debug(&events);
    }
}

/// A vault whose server echoes what it could not write.
struct EchoingVault {
    echo: fn(&Record) -> String,
    /// How many records are written before that.
    writes: AtomicUsize,
    kept: Mutex<(Record, u64)>,
}

impl EchoingVault {
    fn new(echo: fn(&Record) -> String) -> Self {
        Self {
            echo,
            writes: AtomicUsize::new(0),
            kept: Mutex::new((Record::new("emuser", PASSWORD), 0)),
        }
    }

    fn after(self, writes: usize) -> Self {
        self.writes.store(writes, SeqCst);
        self
    }
}

impl CredentialStore for EchoingVault {
    async fn load(&self) -> Result<(Record, Version), SourceError> {
        let kept = self.kept.lock().unwrap();
        Ok((kept.0.clone(), Version::from(kept.1)))
    }

    async fn store(&self, record: Record, expected: Version) -> Result<(), SourceError> {
        let left = self.writes.load(SeqCst);
        if left == 0 {
            let echoed = (self.echo)(&record);
            return Err(SourceError::unavailable(format!("cannot write <{echoed}>")));
        }
        self.writes.store(left - 1, SeqCst);
        let mut kept = self.kept.lock().unwrap();
        assert_eq!(expected, Version::from(kept.1));
        *kept = (record, kept.1 + 1);
        Ok(())
    }
}

/// The new password stands in the record alone.
fn new_password(record: &Record) -> String {
    let json: serde_json::Value = serde_json::from_str(record.to_json().expose_secret()).unwrap();
    json["others"][0]["password"].as_str().unwrap().to_owned()
}

fn whole(record: &Record) -> String {
    record.to_json().expose_secret().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_store_that_quotes_the_new_password_gets_none_shown() {
    let shown = Shown::default();
    let _tracing = shown.tracing();
    let provider = Quoting {
        source: Source::new(EchoingVault::new(new_password)),
        quote: |said| ProviderError::unavailable(said),
        place: 0,
    };
    let session = Session::builder(provider)
        .initial_token(Token::bearer(TOKEN).unwrap())
        .build();
    let mut events = session.events();
    let change = PasswordChange::to(NEW_PASSWORD);
    shown.error(&session.change_password(change).await.unwrap_err());
    assert!(shown.mentions("cannot write"));
    shown.session(&session);
    shown.debug(&events.recv().await);
}

/// A provider whose logins and password changes succeed.
struct Good(Source);

impl CredentialProvider for Good {
    fn profile(&self) -> Profile {
        origin()
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.0)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        login.credentials()?;
        Ok(Token::bearer(TOKEN)?)
    }

    async fn change_password(&self, _: PasswordContext) -> Result<(), ProviderError> {
        Ok(())
    }
}

/// Keeps what is shown: a panic in a subscriber would end the test too early.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<String>>);

impl Write for Kept {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        let mut kept = self.0.lock().unwrap();
        kept.push_str(&String::from_utf8_lossy(text));
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// As an HTTP client or a database driver does that quotes the request or the row.
#[tokio::test(start_paused = true)]
async fn a_store_that_quotes_a_whole_record_gets_no_password_shown() {
    let mut leaks = Vec::new();
    // A login stores two records, and so does a password change.
    for writes in 0..4 {
        let kept = Kept::default();
        let writer = kept.clone();
        let _tracing = tracing::subscriber::set_default(
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::TRACE)
                .with_writer(move || writer.clone())
                .finish(),
        );
        let source = Source::new(EchoingVault::new(whole).after(writes));
        let session = Session::new(Good(source));
        let login = session.login().await;
        let change = PasswordChange::to(NEW_PASSWORD);
        let changed = session.change_password(change).await;
        let mut shown = format!("{login:?} {changed:?} {session:?} {:?}", session.status());
        shown.push_str(&kept.0.lock().unwrap());
        assert!(shown.contains("cannot write"), "{writes}");
        if shown.contains("canary") {
            leaks.push(["claim", "verdict", "new password", "answer"][writes]);
        }
    }
    assert_eq!(leaks, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_not_quoted_whatever_it_travels_behind() {
    let name = HeaderName::from_static("x-key");
    for token in [
        Token::prefixed(name.clone(), "Key=", TOKEN).unwrap(),
        Token::header(name, format!("{TOKEN} 1")).unwrap(),
        Token::bearer(format!("{TOKEN} 1")).unwrap(),
        Token::bearer(format!("{TOKEN} ")).unwrap(),
    ] {
        let shown = Shown::default();
        let provider = Quoting {
            source: Source::from(Credentials::new("emuser", PASSWORD)),
            // The token by itself.
            quote: |said| {
                let bare = &said[said.find("canary").unwrap()..];
                let bare = bare.trim_end_matches([' ', '>', '?']);
                ProviderError::unavailable(format!("no session {bare} here"))
            },
            place: 0,
        };
        let session = Session::builder(provider)
            .initial_token(token.with_data(DATA))
            .build();
        shown.error(&session.logout().await.unwrap_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_replay_is_told_of() {
    let shown = Shown::default();
    let _tracing = shown.tracing();
    let provider = FixedToken::bearer(origin(), TOKEN);
    let session = Session::builder(provider)
        .name("inventory")
        .initial_token(Token::bearer("dead").unwrap())
        .build();
    let http = tower::service_fn(async |request: Request<Full<Bytes>>| {
        let mut response = Response::new(Full::<Bytes>::default());
        if request.headers()[header::AUTHORIZATION] == "Bearer dead" {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        Ok::<_, Infallible>(response)
    });
    let client = session.layer().layer_of(http);
    let response = client.oneshot(get("/servers")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let line = "replaying a rejected request session=\"inventory\" generation=2";
    assert!(shown.mentions(line));
}

/// Answers with all that it was sent, and with a token of its own.
fn echo(
    status: u16,
    wrap: fn(&str) -> String,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send
+ Sync
+ 'static {
    tower::service_fn(move |request: Request<Full<Bytes>>| async move {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let mut said = String::from_utf8_lossy(&body).into_owned();
        for value in head.headers.values() {
            said.push(' ');
            said.push_str(value.to_str().unwrap());
        }
        let mut response = Response::new(Full::from(wrap(&said)));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        Ok(response)
    })
}

#[tokio::test(start_paused = true)]
async fn a_server_that_echoes_what_it_is_sent_gets_no_secret_into_an_error() {
    let as_it_is: fn(&str) -> String = str::to_owned;
    let as_a_message =
        |said: &str| serde_json::json!({ "errors": [{ "message": said, "id": said }] }).to_string();
    let as_a_page = |said: &str| format!("<html><title>{said}</title><p>{said}");
    for status in [200, 400, 401, 403, 429, 500, 503] {
        for wrap in [as_it_is, as_a_message, as_a_page] {
            let shown = Shown::default();
            let _tracing = shown.tracing();
            let http = echo(status, wrap);
            let base: http::Uri = ORIGIN.parse().unwrap();
            let key = HeaderName::from_static("x-api-key");
            let api = SessionApi::new(http.clone(), base.clone())
                .unwrap()
                .extra_header(key.clone(), HeaderValue::from_static(API_KEY));
            shown.debug(&api);
            let login = LoginCredentials {
                username: "emuser".into(),
                password: PASSWORD.into(),
            };
            let passwords = PasswordsObject {
                user: None,
                current_password: PASSWORD.into(),
                new_password: NEW_PASSWORD.into(),
            };
            let token = TOKEN.into();
            match api.login(&login).await {
                Ok(result) => shown.debug(&result),
                Err(error) => shown.error(&error),
            }
            for outcome in [
                api.logout(&token).await,
                api.update_my_password(&token, &passwords).await,
            ] {
                match outcome {
                    Ok(success) => shown.text(success.message.unwrap_or_default()),
                    Err(error) => shown.error(&error),
                }
            }

            let provider = ControlM::new(http, base, Credentials::new("emuser", PASSWORD))
                .unwrap()
                .extra_header(key, HeaderValue::from_static(API_KEY));
            let session = Session::builder(provider)
                .initial_token(Token::bearer(TOKEN).unwrap())
                .build();
            let change = PasswordChange::to(NEW_PASSWORD);
            if let Err(error) = session.change_password(change).await {
                shown.error(&error);
            }
            if let Err(error) = session.login().await {
                shown.error(&error);
            }
            if let Err(error) = session.logout().await {
                shown.error(&error);
            }
            shown.session(&session);
        }
    }
}

#[test]
fn every_public_type_crosses_threads_where_it_can() {
    fn plain<T: Send + Sync + Unpin + 'static>() {}
    fn error<T: StdError + Clone + Send + Sync + Unpin + 'static>() {}
    fn sent<T: Send>(_: T) {}

    type Http = Emulator;
    type Body = Full<Bytes>;

    plain::<Session>();
    plain::<SessionBuilder>();
    plain::<SessionLayer>();
    plain::<SessionService<Http>>();
    plain::<SessionBody<Body>>();
    plain::<Status>();
    plain::<Stats>();
    plain::<Event>();
    plain::<Events>();
    plain::<Token>();
    plain::<Credentials>();
    plain::<Source>();
    plain::<Memory>();
    plain::<FileStore>();
    plain::<Record>();
    plain::<Version>();
    plain::<LoginContext>();
    plain::<PasswordChange>();
    plain::<LogoutContext>();
    plain::<PasswordContext>();
    plain::<Profile>();
    plain::<Rejection>();
    plain::<Reauth>();
    plain::<FixedToken>();
    plain::<ProviderFn<fn()>>();
    plain::<ControlM<Http, Body>>();
    plain::<SessionApi<Http, Body>>();
    plain::<Emulator>();
    error::<Error>();
    error::<CloseError>();
    error::<ProviderError>();
    error::<SourceError>();
    error::<InvalidToken>();
    error::<tower_reauth::controlm::Error>();

    // As `Send` and as `Unpin` as the client's own future.
    fn response<S>(_: &S)
    where
        S: Service<Request<Body>, Response = Response<Body>, Future: Send + Unpin> + Send,
    {
        fn both<T: Send + Unpin>() {}
        both::<ResponseFuture<S, Auto, Body, Body>>();
    }
    response(&tower::service_fn(|_: Request<Body>| {
        std::future::ready(Ok::<_, Infallible>(Response::new(Body::default())))
    }));

    let session = Session::new(FixedToken::api_key(origin(), API_KEY));
    sent(session.token());
    sent(session.login());
    sent(session.renew());
    sent(session.logout());
    sent(session.close(Duration::ZERO));
    sent(session.change_password(PasswordChange::to(NEW_PASSWORD)));
}

/// Whoever adds a public type shows it above, or says here why that needs no test.
#[test]
fn every_public_type_is_among_those_that_are_shown() {
    const HOLD_NO_SECRET: [&str; 26] = [
        // Traits, and what is another crate's.
        "CredentialProvider",
        "CredentialSource",
        "CredentialStore",
        "ExposeSecret",
        "Replay",
        "ReplayBody",
        "SecretString",
        // Names and numbers.
        "Anonymous",
        "Auto",
        "Closed",
        "Expiry",
        "IfEmpty",
        "Logins",
        "LogoutEnds",
        "LogoutReason",
        "MAX_ANSWER",
        "Never",
        "Operation",
        "PasswordChangeEnds",
        "ProviderErrorKind",
        "SourceErrorKind",
        "State",
        "Target",
        "TokenEnd",
        "TokenIn",
        "Unreadable",
    ];
    let shown = include_str!("secrets.rs");
    let (_, shown) = shown.split_once("const PASSWORD").unwrap();
    let (shown, _) = shown
        .split_once("fn every_public_type_crosses_threads")
        .unwrap();
    let words = |text: &'static str| text.split(|c: char| !c.is_alphanumeric() && c != '_');
    let exports = [
        include_str!("../src/lib.rs"),
        include_str!("../src/credentials/mod.rs"),
        include_str!("../src/provider/mod.rs"),
        include_str!("../src/session/mod.rs"),
        include_str!("../src/controlm/mod.rs"),
        include_str!("../src/controlm/emulator/mod.rs"),
    ];
    let exports = exports
        .iter()
        .flat_map(|text| text.split("\npub use ").skip(1));
    let names = exports.flat_map(|export| words(export.split(';').next().unwrap()));
    let names: Vec<_> = names
        .filter(|name| name.starts_with(char::is_uppercase))
        .collect();
    assert!(names.len() > 80, "{} exports", names.len());
    let is_shown = |name| words(shown).any(|word| word == name);
    let others = names
        .into_iter()
        .filter(|name| !is_shown(*name) && !HOLD_NO_SECRET.contains(name));
    assert_eq!(others.collect::<Vec<_>>(), [""; 0]);
}
