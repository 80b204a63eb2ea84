//! The server: its login system, the source of its passwords, and its HTTP.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, pending};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep, sleep};
use tower::{BoxError, Service};
use tower_reauth::SourceError;
use tower_reauth::{
    CredentialProvider, CredentialSource, Credentials, ExposeSecret, LoginContext, LogoutContext,
    PasswordContext, Profile, ProviderError, Rejection, Rolling, Source, Token,
};

use super::book::{Book, number_in, value};
use super::programme::{
    BodyKind, ChangeAnswer, Issues, LoginAnswer, LogoutAnswer, Order, Path, RejectsBy, SourceKind,
    World,
};

pub(crate) const HOME: &str = "https://api.test";
pub(crate) const NUMBER: HeaderName = HeaderName::from_static("x-number");
const NEXT: HeaderName = HeaderName::from_static("x-next");
const INVALID: &str = "invalid token";
/// More than the session keeps of a rejection.
const LONG: usize = 20_000;

#[derive(Clone)]
pub(crate) struct Server(Arc<Mutex<Book>>);

impl Server {
    pub(crate) fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(Book::new(world))))
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn provider(&self) -> Provider {
        let source = self.book().has_source();
        Provider {
            source: source.then(|| Source::new(Vault(self.clone()))),
            server: self.clone(),
        }
    }

    pub(crate) fn http(&self) -> Http {
        Http(self.clone())
    }
}

/// A call of the provider, which ends whatever becomes of it.
struct Call<'a> {
    server: &'a Server,
    /// What a call means that is given up, or panics.
    lost: Option<Lost>,
}

enum Lost {
    Login { previous: Option<u64> },
    Change,
    Logout,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut book = self.server.book();
        match self.lost.take() {
            Some(Lost::Login { previous }) => {
                book.login_fails(None);
                book.burns(previous);
            }
            Some(Lost::Change) => {
                book.uncertain_changes += 1;
                book.may_log_in();
            }
            Some(Lost::Logout) | None => {}
        }
        book.ends();
    }
}

pub(crate) struct Provider {
    server: Server,
    source: Option<Source>,
}

fn password_of(text: &str) -> u32 {
    let number = text
        .strip_prefix("password-")
        .and_then(|number| number.parse().ok());
    number.expect("a password of ours")
}

fn password(number: u32) -> String {
    format!("password-{number}")
}

pub(crate) fn number_of(token: &Token) -> u64 {
    let (_, value) = token.headers().next().expect("a bearer token");
    number_in(value).expect("a token of ours").0
}

async fn pause(duration: Duration) {
    if !duration.is_zero() {
        sleep(duration).await;
    }
}

/// Without a word on standard error.
fn panic() -> ! {
    resume_unwind(Box::new("as the programme says"))
}

impl CredentialProvider for Provider {
    fn profile(&self) -> Profile {
        let world = self.server.book().world.clone();
        let rejection = match world.rejects_by {
            RejectsBy::Status401 => Rejection::status(StatusCode::UNAUTHORIZED),
            RejectsBy::Text500 => {
                Rejection::body_contains(StatusCode::INTERNAL_SERVER_ERROR, INVALID, 64)
            }
        };
        let profile = Profile::at(HOME.parse().unwrap())
            .rejection(rejection)
            .logout_ends(world.logout_ends);
        match world.rolls {
            true => profile.rolling(Rolling::by(|token, response| {
                let next = response.headers.get(NEXT)?.to_str().ok()?.to_owned();
                let bearer = format!("Bearer {next}");
                token.clone().and_header(header::AUTHORIZATION, bearer).ok()
            })),
            false => profile,
        }
    }

    fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        let sent = Instant::now();
        let previous = login.previous().map(number_of);
        let (answer, takes, password, continues) = {
            let mut book = self.server.book();
            let answer = book.logins.pop_front();
            let is_offered = previous.filter(|previous| {
                book.world.issues == Issues::Continuing && book.is_good(*previous)
            });
            // It is the password that is refused, and not the refresh.
            let continues = is_offered.filter(|_| answer != Some(LoginAnswer::Refused));
            // A refresh sends no password.
            let password = match book.has_source() && continues.is_none() {
                true => Some(password_of(login.credentials()?.password().expose_secret())),
                false => None,
            };
            book.login_begins(login.reason(), password, previous);
            (answer, book.world.login_takes, password, continues)
        };
        let mut call = Call {
            server: &self.server,
            lost: Some(Lost::Login { previous }),
        };
        let takes = match answer {
            Some(LoginAnswer::Slow(takes)) => takes,
            _ => takes,
        };
        pause(takes).await;
        let issue = |book: &mut Book| {
            let is_right = book.is_right(password);
            is_right.then(|| book.issue(sent, continues))
        };
        let error = match answer {
            None | Some(LoginAnswer::Slow(_)) => {
                let mut book = self.server.book();
                match issue(&mut book) {
                    Some((number, continues)) => {
                        book.deliver(number, continues, password.is_some());
                        call.lost = None;
                        let roll = book.tokens[&number].roll;
                        let token = Token::bearer(value(number, roll))?;
                        let token = match book.world.lifetime {
                            Some(lifetime) => token.lives_for(lifetime),
                            None => token,
                        };
                        let token = match book.world.idle {
                            Some(idle) => token.idles_out_after(idle),
                            None => token,
                        };
                        return Ok(match continues {
                            Some(_) => token.continues_previous(),
                            None => token,
                        });
                    }
                    None => ProviderError::refused("wrong password"),
                }
            }
            Some(LoginAnswer::Refused) => {
                self.server.book().is_orderly = false;
                ProviderError::refused("locked")
            }
            Some(LoginAnswer::Unavailable(None)) => ProviderError::unavailable("down"),
            Some(LoginAnswer::Unavailable(Some(delay))) => {
                ProviderError::unavailable("down").with_retry_after(delay)
            }
            Some(LoginAnswer::Protocol) => ProviderError::protocol("what?"),
            Some(LoginAnswer::Uncertain { issued }) => {
                if issued {
                    issue(&mut self.server.book());
                }
                ProviderError::uncertain("lost")
            }
            Some(LoginAnswer::Hangs { issued }) => {
                if issued {
                    issue(&mut self.server.book());
                }
                pending().await
            }
            Some(LoginAnswer::Panics) => panic(),
        };
        call.lost = None;
        let mut book = self.server.book();
        use tower_reauth::ProviderErrorKind as Kind;
        match error.kind() {
            Kind::Refused => book.refuses(password),
            Kind::Uncertain => {
                book.burns(previous);
                book.login_fails(None);
            }
            _ => book.login_fails(error.retry_after()),
        }
        drop(book);
        Err(error)
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        let number = number_of(cx.token());
        drop(cx);
        let answer = {
            let mut book = self.server.book();
            book.logout_begins(number);
            book.logouts.pop_front()
        };
        let mut call = Call {
            server: &self.server,
            lost: Some(Lost::Logout),
        };
        let is_good = match answer {
            None => self.server.book().log_out(number),
            Some(LogoutAnswer::Slow(takes)) => {
                pause(takes).await;
                self.server.book().log_out(number)
            }
            Some(LogoutAnswer::Unavailable) => {
                return Err(ProviderError::unavailable("down"));
            }
            Some(LogoutAnswer::FailsForGood) => {
                self.server.book().logout_ended(number, false, true);
                return Err(ProviderError::protocol("what?"));
            }
            Some(LogoutAnswer::Hangs { done }) => {
                if done {
                    self.server.book().log_out(number);
                }
                pending().await
            }
            Some(LogoutAnswer::Panics) => {
                self.server.book().logout_ended(number, false, true);
                panic()
            }
        };
        call.lost = None;
        self.server.book().logout_ended(number, true, false);
        match is_good {
            true => Ok(()),
            false => Err(ProviderError::token_rejected("dead")),
        }
    }

    async fn change_password(&self, cx: PasswordContext) -> Result<(), ProviderError> {
        let number = number_of(cx.token().unwrap());
        let new = password_of(cx.new_password().expose_secret());
        let given = cx.current_password();
        let current = given.map(|text| password_of(text.expose_secret()));
        let answer = {
            let mut book = self.server.book();
            book.begins("change");
            book.is_used(number);
            book.note(format_args!("change from {current:?} to {new}"));
            if book.world.source == SourceKind::Writable && book.prepared != Some(new) {
                book.violated("the server was asked before the source kept the new password");
            }
            book.changes.pop_front()
        };
        let mut call = Call {
            server: &self.server,
            lost: Some(Lost::Change),
        };
        if let Some(ChangeAnswer::Slow(takes)) = answer {
            pause(takes).await;
        }
        let make = || {
            let mut book = self.server.book();
            if !book.is_good(number) {
                book.is_dead(number);
                return Err(ProviderError::token_rejected("dead"));
            }
            if current.is_some_and(|current| current != book.server_password) {
                return Err(ProviderError::refused("wrong password"));
            }
            book.server_password = new;
            Ok(())
        };
        let is_made = |done: bool| done && make().is_ok();
        let answer = match answer {
            None | Some(ChangeAnswer::Slow(_)) => make(),
            Some(ChangeAnswer::Refused) => Err(ProviderError::refused("too short")),
            Some(ChangeAnswer::Unavailable) => Err(ProviderError::unavailable("down")),
            Some(ChangeAnswer::Uncertain { done }) => {
                is_made(done);
                call.lost = None;
                let mut book = self.server.book();
                book.uncertain_changes += 1;
                book.may_log_in();
                return Err(ProviderError::uncertain("lost"));
            }
            Some(ChangeAnswer::Hangs { done }) => {
                is_made(done);
                pending().await
            }
            Some(ChangeAnswer::Panics { done }) => {
                is_made(done);
                panic()
            }
        };
        call.lost = None;
        if answer.is_ok() {
            // Nor is it left alone any longer.
            self.server.book().forget_refusals();
        }
        answer
    }
}

/// The source of the passwords.
struct Vault(Server);

impl Vault {
    fn is_writable(&self) -> Result<(), SourceError> {
        match self.0.book().world.source {
            SourceKind::Writable => Ok(()),
            SourceKind::ReadOnly | SourceKind::None => Err(SourceError::read_only()),
        }
    }
}

impl CredentialSource for Vault {
    async fn fetch(&self) -> Result<Credentials, SourceError> {
        let mut book = self.0.book();
        if book.fetches() {
            return Err(SourceError::unavailable("the vault is down"));
        }
        Ok(Credentials::new("alice", password(book.source_password)))
    }

    async fn prepare(&self, new: Credentials) -> Result<(), SourceError> {
        self.is_writable()?;
        let new = password_of(new.password().expose_secret());
        let mut book = self.0.book();
        book.prepared = Some(new);
        Ok(())
    }

    async fn promote(&self) -> Result<(), SourceError> {
        self.is_writable()?;
        let mut book = self.0.book();
        if let Some(prepared) = book.prepared.take() {
            book.source_password = prepared;
        }
        Ok(())
    }

    async fn withdraw(&self) -> Result<(), SourceError> {
        self.is_writable()?;
        self.0.book().prepared = None;
        Ok(())
    }
}

/// The server's resources.
#[derive(Clone)]
pub(crate) struct Http(Server);

/// The connection broke.
#[derive(Debug)]
pub(crate) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection broke")
    }
}

impl std::error::Error for Broken {}

pub(crate) fn uri(order: &Order) -> String {
    match order.path {
        Path::Home(path) => format!("{HOME}/{path}"),
        Path::Foreign => "https://elsewhere.test/0".to_owned(),
    }
}

pub(crate) fn payload(order: &Order, number: u64) -> Payload {
    let text = Bytes::from(format!("body of {number}"));
    match order.body {
        BodyKind::Empty => Payload::new([], Duration::ZERO),
        BodyKind::Bytes => Payload::new([text], Duration::ZERO),
        BodyKind::Stream => {
            let rest = text.slice(4..);
            Payload::new([text.slice(..4), rest], Duration::from_millis(2))
        }
    }
}

pub(crate) fn rejection(number: u64, attempt: usize, is_long: bool) -> Bytes {
    let mut text = format!("{INVALID}: {number}, {attempt}");
    if is_long {
        text.extend(std::iter::repeat_n('.', LONG));
    }
    text.into()
}

impl<B> Service<Request<B>> for Http
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Payload>;
    type Error = Broken;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Payload>, Broken>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.0.clone();
        let sent = Instant::now();
        let (head, body) = request.into_parts();
        let number = head.headers[NUMBER].to_str().unwrap().parse().unwrap();
        let value = head.headers.get(header::AUTHORIZATION);
        let (token, order, attempt) = {
            let mut book = server.book();
            let token = book.arrives(number, value);
            let request = &book.requests[&number];
            (token, request.order.clone(), request.calls.len())
        };
        Box::pin(async move {
            if order.is_read {
                let Ok(read) = body.collect().await else {
                    return Err(Broken);
                };
                let expected = payload(&order, number).collect().await.unwrap().to_bytes();
                if read.to_bytes() != expected {
                    server
                        .book()
                        .violated(format_args!("request {number} lost its body"));
                }
            } else {
                drop(body);
            }
            pause(order.takes).await;
            let mut book = server.book();
            if order.breaks {
                // Nobody knows how far it came.
                book.requests.get_mut(&number).unwrap().executed += 1;
                return Err(Broken);
            }
            let is_accepted = token.is_none_or(|token| book.judges(number, token, sent));
            let is_executed = is_accepted || book.world.rejects_by == RejectsBy::Text500;
            if is_executed {
                let request = book.requests.get_mut(&number).unwrap();
                request.executed += 1;
                if order.post && request.executed > 1 {
                    book.violated(format_args!("request {number} was executed twice"));
                }
            }
            let (status, text) = match is_accepted {
                true => (StatusCode::OK, Bytes::from_static(b"done")),
                false => {
                    let status = match book.world.rejects_by {
                        RejectsBy::Status401 => StatusCode::UNAUTHORIZED,
                        RejectsBy::Text500 => StatusCode::INTERNAL_SERVER_ERROR,
                    };
                    (status, rejection(number, attempt, order.long_rejection))
                }
            };
            let mut response = Response::new(Payload::new([text], order.trickles));
            *response.status_mut() = status;
            if let (true, true, Some(token)) = (is_accepted, book.world.rolls, token) {
                let next = book.rolls(token).parse().unwrap();
                response.headers_mut().insert(NEXT, next);
            }
            Ok(response)
        })
    }
}

/// A body in parts that may take their time.
pub(crate) struct Payload {
    parts: std::vec::IntoIter<Bytes>,
    pause: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Payload {
    fn new<const N: usize>(parts: [Bytes; N], pause: Duration) -> Self {
        Self {
            parts: Vec::from(parts).into_iter(),
            pause,
            sleep: None,
        }
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self::new([], Duration::ZERO)
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.parts.len() > 0 && !self.pause.is_zero() {
            let pause = self.pause;
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(pause)));
            ready!(sleep.as_mut().poll(cx));
            self.sleep = None;
        }
        Poll::Ready(self.parts.next().map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.len() == 0
    }
}
