//! The lives that a secret may have, each in a process of its own.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body_util::{BodyExt, Full};
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt};
use tower_reauth::controlm::ControlM;
use tower_reauth::credentials::{File, FileStore};
use tower_reauth::provider::Api;
use tower_reauth::{
    BoxError, Buffer, Buffered, CredentialProvider, Credentials, Error, ErrorKind, ExposeSecret,
    FixedToken, LoginContext, LogoutContext, PasswordChange, PasswordContext, Profile,
    ProviderError, Rolling, SecretString, Session, Source, Token, provider_fn,
};
use zeroize::Zeroizing;

use crate::scan::{Canary, search};

const ORIGIN: &str = "https://ctm.example.com:8443";

type Case = fn(&Secrets);

macro_rules! named {
    ($($case:ident,)*) => {
        &[$((stringify!($case), $case)),*]
    };
}

const CASES: &[(&str, Case)] = named![
    a_copy_that_was_freed_is_found,
    control_m_from_its_login_to_its_logout,
    a_fixed_token,
    a_provider_of_ones_own,
    a_provider_on_top_of_api,
    a_password_in_a_file,
    a_password_in_a_json_file,
    a_password_that_is_changed_in_a_file,
    a_login_that_is_refused,
    a_login_that_nobody_waits_for,
    a_request_that_is_replayed,
    a_streamed_request_that_is_replayed,
    a_cookie_that_rolls,
    answers_that_echo_what_was_sent,
    errors_that_quote_the_password,
    secrets_that_json_escapes,
];

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|(name, _)| *name)
}

/// Runs a case, and searches for what it left.
pub(crate) fn run(name: &str) {
    let (_, case) = CASES
        .iter()
        .find(|(known, _)| *known == name)
        .expect("a case");
    let secrets = Secrets::new();
    case(&secrets);
    assert!(
        !SEEN.lock().unwrap().is_empty(),
        "a case that looked for nothing"
    );
    let left = search(&secrets.all());
    assert!(left.is_empty(), "left behind:\n{left:#?}");
}

#[derive(Clone, Copy)]
struct Secrets {
    password: Canary,
    new_password: Canary,
    token: Canary,
    next_token: Canary,
    cookie: Canary,
    data: Canary,
}

impl Secrets {
    fn new() -> Self {
        Self {
            password: Canary::new("password"),
            new_password: Canary::new("new password"),
            token: Canary::new("token"),
            next_token: Canary::new("next token"),
            cookie: Canary::new("cookie"),
            data: Canary::new("data"),
        }
    }

    fn all(&self) -> [Canary; 6] {
        let Self {
            password,
            new_password,
            token,
            next_token,
            cookie,
            data,
        } = *self;
        [password, new_password, token, next_token, cookie, data]
    }

    fn credentials(&self) -> Credentials {
        Credentials::new("emuser", self.password.secret())
    }
}

/// What a case has found, so that none passes because it has nothing to find.
static SEEN: Mutex<Vec<&str>> = Mutex::new(Vec::new());

/// Says that the search does find what is there.
#[track_caller]
fn expect(canaries: &[Canary]) {
    let found = search(canaries);
    for canary in canaries {
        let is_there = found.iter().any(|copy| copy.name == canary.name);
        assert!(is_there, "{} is nowhere", canary.name);
        SEEN.lock().unwrap().push(canary.name);
    }
}

/// Runs `case` on a runtime that is gone afterwards, threads included.
fn block_on(case: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(case);
}

/// What a server answers: a status and a body.
type Answer = (StatusCode, Zeroizing<Vec<u8>>);

/// `parts` in one buffer that is wiped and never grows.
fn text(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(
        parts.iter().map(|part| part.len()).sum(),
    ));
    for part in parts {
        text.extend_from_slice(part);
    }
    text
}

type Http = BoxCloneSyncService<Request<Full<Bytes>>, Response<Full<Bytes>>, Infallible>;

/// A client without a network, and a server behind it, that copies nothing.
fn http(answer: impl Fn(&request::Parts, &[u8]) -> Answer + Clone + Send + Sync + 'static) -> Http {
    Http::new(tower::service_fn(move |request: Request<Full<Bytes>>| {
        let answer = answer.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let (status, said) = answer(&head, &body);
            let mut response = Response::new(Full::new(Bytes::from_owner(said)));
            *response.status_mut() = status;
            Ok(response)
        }
    }))
}

/// What the session service says.
fn session_service(secrets: Secrets, token: Canary, head: &request::Parts, body: &[u8]) -> Answer {
    let said = match head.uri.path() {
        "/session/login" => {
            assert!(secrets.password.is_in(body) || secrets.new_password.is_in(body));
            text(&[
                br#"{"username":"emuser","token":""#,
                &token.json(),
                br#"","version":"9.21"}"#,
            ])
        }
        "/session/logout" => {
            let begin = br#"{"message":"Successfully logged out from session "#;
            text(&[begin, &token.json(), br#""}"#])
        }
        "/session/user/password/update" => {
            assert!(secrets.new_password.is_in(body));
            text(&[br#"{"message":"Successfully updated the password"}"#])
        }
        _ => text(&[b"[]"]),
    };
    (StatusCode::OK, said)
}

fn get() -> Request<Full<Bytes>> {
    let uri = [ORIGIN, "/config/servers"].concat();
    Request::get(uri).body(Full::default()).unwrap()
}

fn origin() -> Profile {
    Profile::at(ORIGIN.parse().unwrap())
}

fn control_m(http: Http, secrets: &Secrets) -> ControlM<Http, Full<Bytes>> {
    ControlM::new(http, ORIGIN.parse().unwrap(), secrets.credentials()).unwrap()
}

fn a_copy_that_was_freed_is_found(secrets: &Secrets) {
    let canary = secrets.password;
    assert!(search(&[canary]).is_empty());
    let mut held = Zeroizing::new(Vec::with_capacity(1000));
    held.extend_from_slice(&canary.bytes());
    expect(&[canary]);
    let copies = [(); 8].map(|()| held.to_vec());
    drop((held, copies));
    expect(&[canary]);
    // For the search that follows each case: what was freed is handed out again.
    let again = [(); 64].map(|()| Zeroizing::new(canary.bytes().to_vec()));
    drop(again);
}

fn control_m_from_its_login_to_its_logout(secrets: &Secrets) {
    let secrets = *secrets;
    let Secrets {
        password,
        new_password,
        token,
        ..
    } = secrets;
    block_on(async move {
        let http = http(move |head, body| {
            if head.uri.path() == "/session/login" {
                expect(&[match password.is_in(body) {
                    true => password,
                    false => new_password,
                }]);
            }
            session_service(secrets, token, head, body)
        });
        let provider = control_m(http.clone(), &secrets);
        let session = Session::new(provider);
        let mut client = session.layer().layer(http);
        let response = client.ready().await.unwrap().call(get()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        expect(&[password, token]);

        let change = PasswordChange::to(new_password.secret()).current(password.secret());
        session.change_password(change).await.unwrap();
        expect(&[new_password]);
        session.login().await.unwrap();
        drop(client.ready().await.unwrap().call(get()).await.unwrap());
        drop(session.token().await.unwrap());
        session.logout().await.unwrap();
    });
}

fn a_fixed_token(secrets: &Secrets) {
    let token = secrets.token;
    block_on(async move {
        let http = http(move |head, _| {
            assert!(token.is_in(head.headers["x-api-key"].as_bytes()));
            (StatusCode::UNAUTHORIZED, text(&[]))
        });
        let session = Session::new(FixedToken::api_key(origin(), token.secret()));
        let client = session.layer().layer(http);
        drop(client.oneshot(get()).await.unwrap());
        expect(&[token]);
    });
}

/// Logs in to nowhere.
struct Own {
    secrets: Secrets,
    source: Source,
}

impl CredentialProvider for Own {
    fn profile(&self) -> Profile {
        origin()
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        let password = login.credentials()?.password().expose_secret();
        let Secrets {
            password: old,
            new_password: new,
            ..
        } = self.secrets;
        expect(&[match old.is_in(password.as_bytes()) {
            true => old,
            false => new,
        }]);
        Ok(Token::bearer(self.secrets.token.secret())?
            .and_cookie("sid", self.secrets.cookie.secret())?
            .with_data(self.secrets.data.secret()))
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        assert!(cx.token().data().is_some());
        Ok(())
    }

    async fn change_password(&self, cx: PasswordContext) -> Result<(), ProviderError> {
        assert!(cx.current_password().is_some());
        expect(&[self.secrets.new_password, self.secrets.password]);
        Ok(())
    }
}

/// A life of a session whose credentials come from `source`.
async fn live(secrets: Secrets, source: impl Into<Source>) {
    let Secrets {
        new_password,
        token,
        cookie,
        data,
        ..
    } = secrets;
    let http = http(move |head, _| {
        assert!(token.is_in(head.headers[header::AUTHORIZATION].as_bytes()));
        assert!(cookie.is_in(head.headers[header::COOKIE].as_bytes()));
        expect(&[token, cookie, data]);
        (StatusCode::OK, text(&[]))
    });
    let source = source.into();
    let session = Session::new(Own { secrets, source });
    let client = session.layer().layer(http);
    let mut request = get();
    let theme = HeaderValue::from_static("theme=dark; sid=none");
    request.headers_mut().insert(header::COOKIE, theme);
    drop(client.oneshot(request).await.unwrap());
    let change = PasswordChange::to(new_password.secret()).allow_unstored();
    session.change_password(change).await.unwrap();
    session.login().await.unwrap();
    session.logout().await.unwrap();
}

fn a_provider_of_ones_own(secrets: &Secrets) {
    block_on(live(*secrets, secrets.credentials()));
}

/// Logs in by JSON, by a form and with `Basic` in both ways, and reads two kinds of answers.
struct OnTop {
    api: Api<Http>,
    source: Source,
}

impl CredentialProvider for OnTop {
    fn profile(&self) -> Profile {
        self.api.profile()
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        #[derive(serde::Deserialize)]
        struct LoggedIn {
            token: SecretString,
        }

        let user = login.credentials()?;
        let password = user.password().expose_secret();
        let fields = [("user", user.username()), ("password", password)];
        let call = || self.api.post("/login");
        call().form(fields).login().await?;
        call().basic(user).login().await?;
        call().oauth_basic(user).login().await?;
        let nested = call().json_field("/type", "password");
        nested
            .json_field("/identity/password", password)
            .login()
            .await?;
        let json = BTreeMap::from(fields);
        let answer = call().json(&json).login().await?;
        let token = answer.json::<LoggedIn>()?.token;
        Ok(Token::bearer(token)?
            .and_cookie("sid", answer.cookie("sid")?.into_value())?
            .with_data(answer.header("x-data")?))
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        self.api.delete("/login").token(cx.token()).logout().await?;
        Ok(())
    }
}

fn a_provider_on_top_of_api(secrets: &Secrets) {
    let secrets = *secrets;
    let Secrets {
        password,
        token,
        cookie,
        data,
        ..
    } = secrets;
    block_on(async move {
        let http = tower::service_fn(move |request: Request<Full<Bytes>>| async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            expect(&[match head.uri.path() {
                "/login" if head.method == Method::POST => password,
                _ => token,
            }]);
            assert!(head.headers.contains_key(header::AUTHORIZATION) || password.is_in(&body));
            let token = text(&[br#"{"token":""#, &token.json(), br#""}"#]);
            let mut response = Response::new(Full::new(Bytes::from_owner(token)));
            let value = |text| HeaderValue::from_maybe_shared(Bytes::from_owner(text)).unwrap();
            let cookie = value(text(&[b"sid=", &cookie.bytes(), b"; Path=/"]));
            response.headers_mut().insert(header::SET_COOKIE, cookie);
            response.headers_mut().insert("x-data", value(data.bytes()));
            Ok::<_, Infallible>(response)
        });
        let http = Http::new(http);
        let provider = OnTop {
            api: Api::new(http.clone(), ORIGIN.parse().unwrap()).unwrap(),
            source: secrets.credentials().into(),
        };
        let session = Session::new(provider);
        let client = session.layer().layer(http);
        drop(client.oneshot(get()).await.unwrap());
        expect(&[token, cookie, data]);
        session.logout().await.unwrap();
    });
}

/// A file that is gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, text: &[u8]) -> Self {
        let directory =
            std::env::temp_dir().join(format!("tower-reauth-memory-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("credentials");
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn json(name: &str, password: &Canary) -> Self {
        let begin = br#"{"username":"emuser","password":""#;
        Self::new(name, &text(&[begin, &password.json(), br#""}"#]))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0.parent().unwrap());
    }
}

fn a_password_in_a_file(secrets: &Secrets) {
    let file = Scratch::new("plain", &text(&[&secrets.password.bytes(), b"\n"]));
    block_on(live(*secrets, Source::new(File::plain("emuser", &file.0))));
}

fn a_password_in_a_json_file(secrets: &Secrets) {
    let file = Scratch::json("json", &secrets.password);
    block_on(live(*secrets, Source::new(File::json(&file.0))));
}

fn a_password_that_is_changed_in_a_file(secrets: &Secrets) {
    let file = Scratch::json("store", &secrets.password);
    block_on(live(*secrets, Source::new(FileStore::new(&file.0))));
    let kept = Zeroizing::new(fs::read(&file.0).unwrap());
    assert!(secrets.new_password.is_in(&kept));
}

fn a_login_that_is_refused(secrets: &Secrets) {
    let secrets = *secrets;
    block_on(async move {
        let http = http(move |_, body| {
            expect(&[secrets.password]);
            (
                StatusCode::UNAUTHORIZED,
                text(&[br#"{"errors":[{"message":""#, body, br#""}]}"#]),
            )
        });
        let provider = control_m(http.clone(), &secrets);
        let session = Session::new(provider);
        let client = session.layer().layer(http);
        let error = client.oneshot(get()).await.unwrap_err();
        let error = Error::find(&*error).unwrap();
        assert_eq!(error.kind(), ErrorKind::Refused);
    });
}

fn a_login_that_nobody_waits_for(secrets: &Secrets) {
    let secrets = *secrets;
    block_on(async move {
        let (asked, mut asking) = tokio::sync::mpsc::unbounded_channel();
        let http = Http::new(tower::service_fn(move |request: Request<Full<Bytes>>| {
            let asked = asked.clone();
            async move {
                expect(&[secrets.password]);
                asked.send(()).unwrap();
                let _held = request;
                std::future::pending().await
            }
        }));
        let provider = control_m(http.clone(), &secrets);
        let session = Session::new(provider);
        let request = session.layer().layer(http).oneshot(get());
        tokio::select! {
            _ = request => panic!("nothing was answered"),
            asked = asking.recv() => asked.unwrap(),
        }
    });
}

fn a_request_that_is_replayed(secrets: &Secrets) {
    let data = secrets.data;
    block_on(rejected_once(*secrets, async move |session, http| {
        let client = session.layer().layer(http);
        let request = get().map(|_| Full::new(Bytes::from_owner(data.bytes())));
        client.oneshot(request).await.unwrap().status()
    }));
}

fn a_streamed_request_that_is_replayed(secrets: &Secrets) {
    block_on(rejected_once(*secrets, async |session, http| {
        let inner = tower::service_fn(move |request: Request<Buffered<Full<Bytes>>>| {
            let http = http.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                http.oneshot(Request::from_parts(head, Full::new(body)))
                    .await
                    .map_err(BoxError::from)
            }
        });
        let client = session.layer().replay(Buffer::up_to(1024)).layer(inner);
        let request = get().map(|_| Full::from("a job"));
        client.oneshot(request).await.unwrap().status()
    }));
}

/// A request whose token is rejected, and which `send` sends.
async fn rejected_once(secrets: Secrets, send: impl AsyncFnOnce(&Session, Http) -> StatusCode) {
    let Secrets {
        token, next_token, ..
    } = secrets;
    let http = http(move |head, body| {
        let authorization = head.headers.get(header::AUTHORIZATION);
        let carries =
            |token: &Canary| authorization.is_some_and(|value| token.is_in(value.as_bytes()));
        if carries(&token) {
            expect(&[token]);
            return (StatusCode::UNAUTHORIZED, text(&[]));
        }
        if carries(&next_token) {
            expect(&[next_token]);
        }
        session_service(secrets, next_token, head, body)
    });
    let provider = control_m(http.clone(), &secrets);
    let initial = Token::bearer(token.secret()).unwrap();
    let session = Session::builder(provider).initial_token(initial).build();
    assert_eq!(send(&session, http).await, StatusCode::OK);
    session.logout().await.unwrap();
}

fn a_cookie_that_rolls(secrets: &Secrets) {
    let Secrets { token, cookie, .. } = *secrets;
    block_on(async move {
        let http = tower::service_fn(move |request: Request<Full<Bytes>>| {
            let sent = request.headers()[header::COOKIE].as_bytes();
            let is_rolled = cookie.is_in(sent);
            assert!(is_rolled || token.is_in(sent));
            expect(&[if is_rolled { cookie } else { token }]);
            let line = text(&[b"sid=", &cookie.bytes(), b"; Path=/; Max-Age=1800"]);
            let line = HeaderValue::from_maybe_shared(Bytes::from_owner(line)).unwrap();
            let mut response = Response::new(Full::<Bytes>::default());
            response.headers_mut().insert(header::SET_COOKIE, line);
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let profile = origin().rolling(Rolling::cookies());
        let provider = provider_fn(profile, move |_| async move {
            Ok(Token::cookie("sid", token.secret())?)
        });
        let session = Session::new(provider);
        let client = session.layer().layer(http);
        for _ in 0..3 {
            drop(client.clone().oneshot(get()).await.unwrap());
        }
    });
}

/// Each call is answered with all that it was sent, in each form that is read.
fn answers_that_echo_what_was_sent(secrets: &Secrets) {
    let secrets = *secrets;
    let Secrets {
        password,
        new_password,
        token,
        data,
        ..
    } = secrets;
    let forms: [[&'static [u8]; 2]; 3] = [
        [b"", b""],
        [br#"{"errors":[{"message":""#, br#""}]}"#],
        [b"<html><title>", b"</title></html>"],
    ];
    for [begin, end] in forms {
        for status in [
            StatusCode::OK,
            StatusCode::BAD_REQUEST,
            StatusCode::BAD_GATEWAY,
        ] {
            block_on(async move {
                let http = http(move |head, body| {
                    let mut sent = vec![body];
                    sent.extend(head.headers.values().map(HeaderValue::as_bytes));
                    let was_sent = |secret: &Canary| sent.iter().any(|sent| secret.is_in(sent));
                    let said = |secret| match was_sent(&secret) {
                        true => secret.bytes(),
                        false => Zeroizing::default(),
                    };
                    let [password, new] = [said(password), said(new_password)];
                    let [token, key] = [said(token), said(data)];
                    let said = [begin, &password, b" ", &new, b" ", &token, b" ", &key, end];
                    (status, text(&said))
                });
                let provider = control_m(http, &secrets);
                let key = HeaderValue::from_maybe_shared(Bytes::from_owner(data.bytes()));
                let provider =
                    provider.extra_header(HeaderName::from_static("x-key"), key.unwrap());
                let initial = Token::bearer(token.secret()).unwrap();
                let session = Session::builder(provider).initial_token(initial).build();
                expect(&[password, token]);
                let change = PasswordChange::to(new_password.secret());
                let _ = session.change_password(change).await;
                let _ = session.login().await;
                let _ = session.logout().await;
            });
        }
    }
}

/// Quotes a secret behind a text of some length, and keeps no copy of it.
struct Quoting {
    before: usize,
    secret: Canary,
}

impl fmt::Display for Quoting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&".".repeat(self.before))?;
        f.write_str(str::from_utf8(&self.secret.bytes()).unwrap())?;
        f.write_str(&".".repeat(100))
    }
}

impl fmt::Debug for Quoting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Quoting {}

fn errors_that_quote_the_password(secrets: &Secrets) {
    let secrets = *secrets;
    // The last one is cut within the password.
    for before in [0, 1000, 4096 - 32] {
        let provider = provider_fn(origin(), move |_: LoginContext| async move {
            expect(&[secrets.password]);
            let secret = secrets.password;
            Err::<Token, _>(ProviderError::refused(Quoting { before, secret }))
        });
        let session = Session::new(provider.with_source(secrets.credentials()));
        block_on(async move {
            assert!(session.login().await.is_err());
        });
    }
}

fn secrets_that_json_escapes(secrets: &Secrets) {
    let quoted = Secrets {
        password: secrets.password.quoted(),
        ..*secrets
    };
    let file = Scratch::json("escapes", &quoted.password);
    block_on(live(quoted, Source::new(File::json(&file.0))));
    block_on(live(quoted, Source::new(FileStore::new(&file.0))));
    control_m_from_its_login_to_its_logout(&Secrets {
        token: secrets.token.quoted(),
        ..*secrets
    });
}
