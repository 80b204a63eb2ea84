//! The scripted login system, and the source of its credentials.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderValue, Request};
use secrecy::{ExposeSecret, SecretString};
use tower::ServiceExt;
use tower_reauth::credentials::{Record, Version};
use tower_reauth::{
    Anonymous, CredentialProvider, CredentialSource, CredentialStore, Credentials, LoginContext,
    LogoutContext, LogoutEnds, LogoutReason, PasswordChange, PasswordContext, Profile,
    ProviderError, Rejection, Rolling, Session, Source, SourceError, Token,
};

use super::format::{Answer, Asks, Condition, Ends, Given, Kind, Line, Reading};
use super::record::{Brought, Change, Ended, Login, Logout, Over, Recorder, Sent, UnderWay};
use super::run::{done, response_of};
use super::service::{Body, FromProvider, Scripted, SentBy};
use super::values::Time;

/// More calls than this are a loop.
const TOO_MANY: usize = 1000;

/// What stands before each password on the wire, so that one is found where none may be.
const PASSWORD: &str = "secret-";
const TOKEN: &str = "Bearer token-";

pub(crate) fn password(name: &str) -> SecretString {
    format!("{PASSWORD}{name}").into()
}

fn name_of_password(password: &SecretString) -> String {
    let password = password.expose_secret();
    password
        .strip_prefix(PASSWORD)
        .unwrap_or(password)
        .to_owned()
}

pub(crate) fn token(number: u64) -> Token {
    Token::bearer(format!("token-{number}")).expect("digits and letters")
}

/// Gives a token the lifetimes that the script says.
pub(crate) fn with_lifetimes(
    mut token: Token,
    lives_for: Option<Time>,
    idles_out_after: Option<Time>,
) -> Token {
    if let Some(lifetime) = lives_for {
        token = token.lives_for(lifetime.0);
    }
    if let Some(idle) = idles_out_after {
        token = token.idles_out_after(idle.0);
    }
    token
}

/// The number of the token in these headers.
pub(crate) fn number_of(headers: &http::HeaderMap) -> Option<u64> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let value = value.strip_prefix(TOKEN)?;
    value.split('-').next()?.parse().ok()
}

/// The value that a response has given that token, if one has.
pub(crate) fn value_of(headers: &http::HeaderMap) -> Option<String> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (_, value) = value.strip_prefix(TOKEN)?.split_once('-')?;
    Some(value.to_owned())
}

/// The header by which a response gives that token another value.
pub(crate) fn rolled(number: u64, value: &str) -> HeaderValue {
    let mut rolled = match value {
        "" => HeaderValue::from_static(""),
        value => {
            let rolled = format!("{TOKEN}{number}-{value}");
            rolled.parse().expect("a value for a header")
        }
    };
    rolled.set_sensitive(true);
    rolled
}

pub(crate) fn number_of_token(token: &Token) -> Option<u64> {
    let mut headers = http::HeaderMap::new();
    token.apply_to(&mut headers);
    number_of(&headers)
}

pub(crate) struct ScriptedProvider {
    profile: Profile,
    source: Option<Source>,
    recorder: Recorder,
    service: Scripted,
    /// The login system that all sessions share.
    system: Arc<LoginSystem>,
    /// The name of its session.
    session: String,
    /// How many tokens its session has got.
    issued: Mutex<u64>,
    own_session: OwnSession,
    home: String,
}

/// The login system of all sessions.
pub(crate) struct LoginSystem {
    logins: Script,
    logouts: Script,
    changes: Script,
    /// The password that it takes, if not any.
    accepts: Mutex<Option<String>>,
}

impl LoginSystem {
    pub(crate) fn new(given: &Given) -> Self {
        let provider = &given.provider;
        let logins = provider.login.iter().map(|answer| answer.0.clone());
        let logouts = provider.logout.iter().map(|answer| answer.0.clone());
        let changes = provider
            .change_password
            .iter()
            .map(|answer| answer.0.clone());
        Self {
            logins: Script::new(logins.collect()),
            logouts: Script::new(logouts.collect()),
            changes: Script::new(changes.collect()),
            accepts: Mutex::new(provider.accepts_password.clone()),
        }
    }
}

/// The session that the provider serves, for one that calls it.
pub(crate) type OwnSession = Arc<Mutex<Option<Session>>>;

/// Answers, and how many calls fitted each.
struct Script {
    answers: Vec<Answer>,
    fitted: Mutex<Vec<u64>>,
}

struct Asked<'a> {
    session: &'a str,
    at: Duration,
    passwords: &'a [&'a str],
    token: Option<u64>,
}

impl Script {
    fn new(answers: Vec<Answer>) -> Self {
        let fitted = Mutex::new(vec![0; answers.len()]);
        Self { answers, fitted }
    }

    fn answer(&self, asked: &Asked<'_>) -> Option<Answer> {
        let mut fitted = self.fitted.lock().expect("no panic under the lock");
        let mut found = None;
        for (answer, fitted) in self.answers.iter().zip(&mut *fitted) {
            let of = answer.session.as_deref();
            let fits = of.is_none_or(|session| session == asked.session)
                && answer.from.is_none_or(|from| from.0 <= asked.at)
                && answer.until.is_none_or(|until| asked.at < until.0)
                && answer
                    .password
                    .as_deref()
                    .is_none_or(|password| asked.passwords.contains(&password))
                && answer
                    .token
                    .as_ref()
                    .is_none_or(|numbers| asked.token.is_some_and(|token| numbers.contains(token)));
            if fits {
                *fitted += 1;
                let counts = answer
                    .calls
                    .as_ref()
                    .is_none_or(|calls| calls.contains(*fitted));
                if counts && found.is_none() {
                    found = Some(answer.clone());
                }
            }
        }
        found
    }
}

impl ScriptedProvider {
    pub(crate) fn new(
        given: &Given,
        session: &str,
        system: Arc<LoginSystem>,
        source: Option<Source>,
        recorder: Recorder,
        service: Scripted,
        own_session: OwnSession,
    ) -> Self {
        Self {
            profile: profile(given),
            source,
            recorder,
            service,
            system,
            session: session.to_owned(),
            issued: Mutex::new(u64::from(given.session.initial.is_some())),
            own_session,
            home: given
                .profile
                .origins
                .first()
                .map(|origin| origin.address.to_string().trim_end_matches('/').to_owned())
                .unwrap_or_default(),
        }
    }

    /// Everything that comes before the answer.
    async fn before(&self, answer: &Answer) {
        if let Some(asks) = answer.asks_session {
            self.ask_session(asks).await;
        }
        if let Some(line) = &answer.via_service {
            let request = self.request(line, FromProvider);
            self.recorder.note(format!(
                "the provider sends {} through the service",
                line.written
            ));
            let _ = self.service.clone().oneshot(request).await;
        }
        if let Some(after) = answer.after {
            tokio::time::sleep(after.0).await;
        }
    }

    fn request(&self, line: &Line, extension: impl Clone + Send + Sync + 'static) -> Request<Body> {
        Request::builder()
            .method(line.method.clone())
            .uri(format!("{}{}", self.home, line.target))
            .extension(extension)
            .body(Body::default())
            .expect("made of checked parts")
    }

    async fn ask_session(&self, asks: Asks) {
        let session = self.own_session.lock().expect("no panic under it").clone();
        // Where its handles are gone, a provider has none either.
        let Some(session) = session else { return };
        let line = Line::try_from("GET /session".to_owned()).expect("a request");
        let sends = match asks {
            Asks::Token
            | Asks::Login
            | Asks::Renew
            | Asks::Logout
            | Asks::ChangePassword
            | Asks::Close => None,
            Asks::Request | Asks::RequestOnATask | Asks::AnonymousRequest => Some(Sent {
                body: String::new(),
                anonymous: asks == Asks::AnonymousRequest,
            }),
        };
        let caller = self.recorder.add_caller("provider", sends);
        let mut request = self.request(&line, SentBy(caller));
        if asks == Asks::AnonymousRequest {
            request.extensions_mut().insert(Anonymous);
        }
        self.recorder
            .note(format!("the provider calls its own session: {asks:?}"));
        let recorder = self.recorder.clone();
        let client = tower::Layer::layer(&session.layer(), self.service.clone());
        let asking = async move {
            let ended = match asks {
                Asks::Token => token_of(&session).await,
                Asks::Login => done(session.login().await),
                Asks::Renew => done(session.renew().await),
                Asks::Logout => done(session.logout().await),
                Asks::Close => match session.close(Duration::from_secs(1)).await {
                    Ok(()) => Ended::Done,
                    Err(error) => Ended::Failed(error.into()),
                },
                Asks::ChangePassword => {
                    let change = PasswordChange::to(password("asked-within"));
                    done(session.change_password(change).await)
                }
                Asks::Request | Asks::RequestOnATask | Asks::AnonymousRequest => {
                    response_of(client.oneshot(request), None).await
                }
            };
            recorder.end_caller(caller, ended);
        };
        match asks {
            // A worker task hides where the call comes from.
            Asks::RequestOnATask => tokio::spawn(asking).await.expect("it does not panic"),
            Asks::Token
            | Asks::Request
            | Asks::AnonymousRequest
            | Asks::Login
            | Asks::Renew
            | Asks::Logout
            | Asks::ChangePassword
            | Asks::Close => asking.await,
        }
    }

    fn is_a_loop(&self) -> bool {
        let calls = {
            let record = self.recorder.record();
            record.logins.len() + record.logouts.len() + record.changes.len()
        };
        if calls > TOO_MANY {
            self.recorder.wrong("the provider is called in a loop");
        }
        calls > TOO_MANY
    }
}

/// A caller of `token()`.
pub(crate) async fn token_of(session: &Session) -> Ended {
    match session.token().await {
        Ok(token) => Ended::Token {
            number: number_of_token(&token),
            generation: token.generation(),
        },
        Err(error) => Ended::Failed(error.into()),
    }
}

fn scripted_error(answer: &Answer) -> Option<ProviderError> {
    let says = answer.says.as_deref().unwrap_or("scripted");
    let error = match answer.answer {
        Kind::Ok | Kind::SameToken => return None,
        Kind::Refused => ProviderError::refused(says),
        Kind::Unavailable => ProviderError::unavailable(says),
        Kind::TokenRejected => ProviderError::token_rejected(says),
        Kind::Protocol => ProviderError::protocol(says),
        Kind::Uncertain => ProviderError::uncertain(says),
        Kind::Unsupported => ProviderError::unsupported(says),
        Kind::Panic | Kind::Never => unreachable!("not an answer"),
    };
    Some(match answer.retry_after {
        Some(delay) => error.with_retry_after(delay.0),
        None => error,
    })
}

/// Does not come back if the script says so.
async fn if_it_answers(answer: &Answer, under_way: UnderWay) -> UnderWay {
    match answer.answer {
        Kind::Never => std::future::pending().await,
        // Unlike `panic!`, it does not print a backtrace into the report.
        Kind::Panic => std::panic::resume_unwind(Box::new("scripted panic")),
        Kind::Ok
        | Kind::SameToken
        | Kind::Refused
        | Kind::Unavailable
        | Kind::TokenRejected
        | Kind::Protocol
        | Kind::Uncertain
        | Kind::Unsupported => under_way,
    }
}

fn by_default() -> Answer {
    serde_json::from_str("{}").expect("an answer of which everything is left out")
}

impl CredentialProvider for ScriptedProvider {
    fn profile(&self) -> Profile {
        self.profile.clone()
    }

    fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        let under_way = self.recorder.enter_provider("login");
        let sent = login.credentials().ok();
        let sent = sent.map(|credentials| name_of_password(credentials.password()));
        self.recorder.show(format!("{login:?} {:?}", self.source));
        let began = self.recorder.now();
        let number = {
            let mut record = self.recorder.record();
            record.logins.push(Login {
                began,
                reason: format!("{:?}", login.reason()),
                password: sent.clone(),
                ended: None,
                brought: Brought::Nothing,
                lives_for: None,
                idles_out_after: None,
                continues: false,
                has_data: false,
            });
            record.logins.len() - 1
        };
        self.recorder.note(format!(
            "login {} begins: {:?}, password {sent:?}",
            number + 1,
            login.reason()
        ));
        if self.is_a_loop() {
            std::future::pending::<()>().await;
        }
        let ended = MarkEnd {
            recorder: self.recorder.clone(),
            login: number,
        };
        let passwords: Vec<&str> = sent.as_deref().into_iter().collect();
        let asked = Asked {
            session: &self.session,
            at: began.at,
            passwords: &passwords,
            token: None,
        };
        let mut answer = self.system.logins.answer(&asked).unwrap_or_else(by_default);
        self.before(&answer).await;
        let under_way = if_it_answers(&answer, under_way).await;
        let accepts = {
            let accepts = self.system.accepts.lock().expect("no panic under it");
            accepts.is_none() || *accepts == sent
        };
        if answer.answer == Kind::Ok && !accepts {
            answer.answer = Kind::Refused;
        }
        let (brought, outcome) = match scripted_error(&answer) {
            Some(error) if answer.answer == Kind::Refused => (Brought::Refusal, Err(error)),
            Some(error) => (Brought::Nothing, Err(error)),
            None => {
                let mut issued = self.issued.lock().expect("no panic under it");
                if answer.answer == Kind::Ok || *issued == 0 {
                    *issued += 1;
                }
                let token = token(*issued);
                let mut token = with_lifetimes(token, answer.lives_for, answer.idles_out_after);
                if let Some(data) = &answer.with_data {
                    token = token.with_data(data.as_str());
                }
                if answer.continues_previous {
                    token = token.continues_previous();
                }
                let brought = match answer.answer == Kind::SameToken {
                    true => Brought::SameToken(*issued),
                    false => Brought::Token(*issued),
                };
                (brought, Ok(token))
            }
        };
        under_way.answers(format!("{brought:?} ({:?})", answer.answer));
        {
            let mut record = self.recorder.record();
            record.logins[number].brought = brought;
            let login = &mut record.logins[number];
            login.lives_for = answer.lives_for.map(|lifetime| lifetime.0);
            login.idles_out_after = answer.idles_out_after.map(|idle| idle.0);
            login.continues = answer.continues_previous;
            login.has_data = answer.with_data.is_some();
        }
        drop(ended);
        outcome
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        let under_way = match cx.reason() {
            LogoutReason::Replaced => self.recorder.enter_beside(),
            _ => self.recorder.enter_provider("logout"),
        };
        let began = self.recorder.now();
        let token = number_of_token(cx.token());
        let number = {
            let mut record = self.recorder.record();
            record.logouts.push(Logout {
                began,
                token,
                outcome: Over::NotYet,
            });
            record.logouts.len() - 1
        };
        self.recorder
            .note(format!("logout of token {token:?} begins"));
        if self.is_a_loop() {
            std::future::pending::<()>().await;
        }
        let asked = Asked {
            session: &self.session,
            at: began.at,
            passwords: &[],
            token,
        };
        let answer = self
            .system
            .logouts
            .answer(&asked)
            .unwrap_or_else(by_default);
        self.before(&answer).await;
        if_it_answers(&answer, under_way)
            .await
            .answers(format!("{:?}", answer.answer));
        self.recorder.record().logouts[number].outcome = match answer.answer {
            Kind::Ok | Kind::TokenRejected => Over::Dead,
            Kind::Refused
            | Kind::Unavailable
            | Kind::Protocol
            | Kind::Uncertain
            | Kind::Unsupported
            | Kind::Panic
            | Kind::Never
            | Kind::SameToken => Over::Failed,
        };
        scripted_error(&answer).map_or(Ok(()), Err)
    }

    async fn change_password(&self, cx: PasswordContext) -> Result<(), ProviderError> {
        let under_way = self.recorder.enter_provider("change_password");
        let at = self.recorder.elapsed();
        let token = number_of_token(cx.token().unwrap());
        self.recorder.show(format!("{cx:?}"));
        let from = cx.current_password().map(name_of_password);
        let to = name_of_password(cx.new_password());
        let number = {
            let mut record = self.recorder.record();
            record.changes.push(Change {
                at,
                token,
                from: from.clone(),
                to: to.clone(),
                done: None,
            });
            record.changes.len() - 1
        };
        self.recorder.note(format!(
            "password change from {from:?} to {to:?} with token {token:?} begins"
        ));
        if self.is_a_loop() {
            std::future::pending::<()>().await;
        }
        let mut passwords = vec![to.as_str()];
        passwords.extend(from.as_deref());
        let asked = Asked {
            session: &self.session,
            at,
            passwords: &passwords,
            token,
        };
        let answer = self
            .system
            .changes
            .answer(&asked)
            .unwrap_or_else(by_default);
        self.before(&answer).await;
        if answer.takes_effect.unwrap_or(answer.answer == Kind::Ok) {
            let mut accepts = self.system.accepts.lock().expect("no panic under it");
            if accepts.is_some() {
                *accepts = Some(to);
            }
        }
        if_it_answers(&answer, under_way)
            .await
            .answers(format!("{:?}", answer.answer));
        match scripted_error(&answer) {
            Some(error) => Err(error),
            None => {
                let done = self.recorder.now();
                self.recorder.record().changes[number].done = Some(done);
                Ok(())
            }
        }
    }
}

/// Records when a login ended, even one that is dropped.
struct MarkEnd {
    recorder: Recorder,
    login: usize,
}

impl Drop for MarkEnd {
    fn drop(&mut self) {
        let now = self.recorder.now();
        self.recorder.record().logins[self.login].ended = Some(now);
    }
}

fn profile(given: &Given) -> Profile {
    let given = &given.profile;
    let mut profile = Profile::default();
    for origin in &given.origins {
        profile = profile.also_at(origin.origin.clone());
    }
    if given.bound {
        profile = profile.bound();
    }
    if given.plain_http {
        profile = profile.allow_plain_http();
    }
    profile = profile.logout_ends(match given.logout_ends {
        Ends::Token | Ends::Session => LogoutEnds::Token,
        Ends::User => LogoutEnds::User,
    });
    if given.single_session {
        profile = profile.single_session();
    }
    if given.rolling {
        profile = profile.rolling(Rolling::header(http::header::AUTHORIZATION));
    }
    let mut rejection: Option<Rejection> = None;
    for clause in &given.rejection {
        let mut next = match (rejection, clause.condition.clone()) {
            (None, Condition::Status(status)) => Rejection::status(status),
            (Some(so_far), Condition::Status(status)) => so_far.or_status(status),
            (None, Condition::Header(name, value)) => Rejection::header(name, value),
            (Some(so_far), Condition::Header(name, value)) => so_far.or_header(name, value),
            (
                None,
                Condition::BodyContains {
                    status,
                    text,
                    within,
                },
            ) => Rejection::body_contains(status, text, within),
            (
                Some(so_far),
                Condition::BodyContains {
                    status,
                    text,
                    within,
                },
            ) => so_far.or_body_contains(status, text, within),
            (None, Condition::Trailer(name, value)) => Rejection::trailer(name, value),
            (Some(so_far), Condition::Trailer(name, value)) => so_far.or_trailer(name, value),
            (None, Condition::Closure(status)) => {
                Rejection::when(move |head| head.status == status)
            }
            (Some(so_far), Condition::Closure(status)) => {
                so_far.or_when(move |head| head.status == status)
            }
        };
        if clause.sure {
            next = next.sure();
        }
        rejection = Some(next);
    }
    match rejection {
        Some(rejection) => profile.rejection(rejection),
        None => profile,
    }
}

/// Where the credentials come from: a record that the scenario can edit.
#[derive(Clone)]
pub(crate) struct ScriptedSource {
    kept: Arc<Mutex<(Record, u64)>>,
    readings: Vec<Reading>,
    /// How many reads fitted each of `readings`.
    fitted: Arc<Mutex<Vec<u64>>>,
    recorder: Recorder,
}

/// A source that can store the record.
struct ScriptedStore(ScriptedSource);

impl ScriptedSource {
    pub(crate) fn new(given: &super::format::GivenCredentials, recorder: Recorder) -> Self {
        let record = Record::new(given.username.clone(), password(&given.password));
        Self {
            kept: Arc::new(Mutex::new((record, 1))),
            readings: given.reads.clone(),
            fitted: Arc::new(Mutex::new(vec![0; given.reads.len()])),
            recorder,
        }
    }

    pub(crate) fn boxed(&self, writable: bool) -> Source {
        match writable {
            true => Source::new(ScriptedStore(self.clone())),
            false => Source::new(self.clone()),
        }
    }

    pub(crate) fn yields(&self, name: &str) {
        let mut kept = self.kept.lock().expect("no panic under it");
        kept.0.set_password(password(name));
        kept.1 += 1;
    }

    pub(crate) fn password(&self) -> String {
        let kept = self.kept.lock().expect("no panic under it");
        name_of_password(kept.0.password())
    }

    /// How it behaves when it is read at `at`.
    fn reading(&self, at: Duration) -> Option<Reading> {
        let mut fitted = self.fitted.lock().expect("no panic under it");
        let mut found = None;
        for (reading, fitted) in self.readings.iter().zip(&mut *fitted) {
            let fits = reading.from.is_none_or(|from| from.0 <= at)
                && reading.until.is_none_or(|until| at < until.0);
            if fits {
                *fitted += 1;
                let counts = reading
                    .calls
                    .as_ref()
                    .is_none_or(|calls| calls.contains(*fitted));
                if counts && found.is_none() {
                    found = Some(reading.clone());
                }
            }
        }
        found
    }

    async fn read(&self) -> Result<(Record, u64), SourceError> {
        let at = self.recorder.elapsed();
        let number = {
            let mut record = self.recorder.record();
            record.reads.push((at, None));
            record.reads.len() - 1
        };
        if let Some(reading) = self.reading(at) {
            self.recorder.note("the source is read");
            if let Some(after) = reading.after {
                tokio::time::sleep(after.0).await;
            }
            if reading.never {
                std::future::pending::<()>().await;
            }
            if let Some(says) = reading.fails {
                self.recorder.note(format!("the source fails: {says:?}"));
                return Err(SourceError::unavailable(says));
            }
        }
        let name = self.password();
        self.recorder.record().reads[number].1 = Some(name.clone());
        self.recorder.note(format!("the source yields {name:?}"));
        Ok(self.kept.lock().expect("no panic under it").clone())
    }
}

impl CredentialSource for ScriptedSource {
    async fn fetch(&self) -> Result<Credentials, SourceError> {
        let (record, _) = self.read().await?;
        Ok(Credentials::new(
            record.username(),
            record.password().clone(),
        ))
    }
}

impl CredentialStore for ScriptedStore {
    async fn load(&self) -> Result<(Record, Version), SourceError> {
        let (record, version) = self.0.read().await?;
        Ok((record, Version::from(version)))
    }

    async fn store(&self, record: Record, expected: Version) -> Result<(), SourceError> {
        let mut kept = self.0.kept.lock().expect("no panic under it");
        if Version::from(kept.1) != expected {
            return Err(SourceError::conflict());
        }
        self.0.recorder.note("the source stores a record");
        *kept = (record, kept.1 + 1);
        Ok(())
    }
}
