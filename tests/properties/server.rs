//! The server: its login system, the source of its passwords, and its HTTP.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, pending};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep};
use tower::{BoxError, Service};
use tower_reauth::SourceError;
use tower_reauth::credentials::{Record, Version};
use tower_reauth::{
    CredentialProvider, CredentialSource, CredentialStore, Credentials, ExposeSecret, LoginContext,
    LogoutContext, LogoutEnds, LogoutReason, PasswordContext, Profile, ProviderError,
    ProviderErrorKind, Rejection, Rolling, Source, Token,
};

use super::book::{Answer, Book, Stored, Verdict, number_in, password, value};
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
        Provider {
            source: self.source(),
            server: self.clone(),
        }
    }

    /// As each process that starts has its own.
    pub(crate) fn source(&self) -> Option<Source> {
        let kind = self.book().world.source;
        match kind {
            SourceKind::Writable => Some(Source::new(Vault(self.clone()))),
            SourceKind::ReadOnly => Some(Source::new(Sealed(self.clone()))),
            SourceKind::Memory => Some(Credentials::new("alice", password(0)).into()),
            SourceKind::None => None,
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
    /// Whether it is the logout of a replaced token.
    is_beside: bool,
}

enum Lost {
    Login {
        previous: Option<u64>,
        sends_password: bool,
    },
    Change,
    Logout,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut book = self.server.book();
        match self.lost.take() {
            Some(Lost::Login {
                previous,
                sends_password,
            }) => {
                book.login_ends(match sends_password {
                    true => Verdict::Unknown,
                    false => Verdict::NotSent,
                });
                book.login_fails(None);
                book.burns(previous);
            }
            Some(Lost::Change) => book.change_ends(Answer::Lost),
            Some(Lost::Logout) | None => {}
        }
        book.ends(self.is_beside);
    }
}

pub(crate) struct Provider {
    server: Server,
    source: Option<Source>,
}

pub(crate) fn password_of(text: &str) -> u32 {
    let number = text
        .strip_prefix("password-")
        .and_then(|number| number.parse().ok());
    number.expect("a password of ours")
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
        let profile = match world.single_session {
            true => profile.single_session(),
            false => profile,
        };
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
            book.login_begins(login.reason(), login.is_forced(), password, previous);
            (answer, book.world.login_takes, password, continues)
        };
        let mut call = Call {
            server: &self.server,
            lost: Some(Lost::Login {
                previous,
                sends_password: password.is_some(),
            }),
            is_beside: false,
        };
        let takes = match answer {
            Some(LoginAnswer::Slow(takes)) => takes,
            _ => takes,
        };
        pause(takes).await;
        let issue = |book: &mut Book, is_told: bool| {
            let is_right = book.is_right(password, is_told);
            is_right.then(|| book.issue(sent, continues))
        };
        let error = match answer {
            None | Some(LoginAnswer::Slow(_)) => {
                let mut book = self.server.book();
                match issue(&mut book, true) {
                    Some((number, continues)) => {
                        book.deliver(number, continues);
                        book.login_ends(match password {
                            Some(_) => Verdict::Accepted,
                            None => Verdict::NotSent,
                        });
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
                let mut book = self.server.book();
                book.passwords.is_orderly = false;
                let now = book.now();
                if password.is_some() {
                    let checked = book.passwords.is_judged(false, true, now);
                    book.check(checked);
                }
                ProviderError::refused("locked")
            }
            Some(LoginAnswer::Locked) => ProviderError::locked("locked"),
            Some(LoginAnswer::NotSent) => ProviderError::not_sent("no connection"),
            Some(LoginAnswer::Unavailable(None)) => ProviderError::unavailable("down"),
            Some(LoginAnswer::Unavailable(Some(delay))) => {
                ProviderError::unavailable("down").with_retry_after(delay)
            }
            Some(LoginAnswer::Protocol) => ProviderError::protocol("what?"),
            Some(LoginAnswer::Uncertain { issued }) => {
                if issued {
                    issue(&mut self.server.book(), false);
                }
                ProviderError::uncertain("lost")
            }
            Some(LoginAnswer::Hangs { issued }) => {
                if issued {
                    issue(&mut self.server.book(), false);
                }
                pending().await
            }
            Some(LoginAnswer::Panics) => panic(),
        };
        call.lost = None;
        let mut book = self.server.book();
        use ProviderErrorKind as Kind;
        book.login_ends(match error.kind() {
            _ if password.is_none() => Verdict::NotSent,
            Kind::Refused => Verdict::Refused,
            Kind::Locked => Verdict::Locked,
            Kind::NotSent => Verdict::NotSent,
            _ => Verdict::Unknown,
        });
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
        let is_beside = cx.reason() == LogoutReason::Replaced;
        drop(cx);
        let answer = {
            let mut book = self.server.book();
            book.logout_begins(number, is_beside);
            book.logouts.pop_front()
        };
        let mut call = Call {
            server: &self.server,
            lost: Some(Lost::Logout),
            is_beside,
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
            let now = book.now();
            let checked = book.passwords.asks(new, current, now);
            book.check(checked);
            book.changes.pop_front()
        };
        let mut call = Call {
            server: &self.server,
            lost: Some(Lost::Change),
            is_beside: false,
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
            if current.is_some_and(|current| current != book.passwords.server) {
                return Err(ProviderError::refused("wrong password"));
            }
            let checked = book.passwords.is_executed(new);
            book.check(checked);
            Ok(())
        };
        let is_made = |done: bool| done && make().is_ok();
        let answer = match answer {
            None | Some(ChangeAnswer::Slow(_)) => make(),
            Some(ChangeAnswer::Refused) => Err(ProviderError::refused("too short")),
            Some(ChangeAnswer::Unavailable) => Err(ProviderError::unavailable("down")),
            Some(ChangeAnswer::NotSent) => Err(ProviderError::not_sent("no connection")),
            Some(ChangeAnswer::Uncertain { done }) => {
                is_made(done);
                Err(ProviderError::uncertain("lost"))
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
        use ProviderErrorKind as Kind;
        let kind = answer.as_ref().map_err(ProviderError::kind);
        self.server.book().change_ends(match kind {
            Ok(()) => Answer::Yes,
            Err(Kind::NotSent) => Answer::NotSent,
            Err(Kind::Uncertain) => Answer::Lost,
            Err(_) => Answer::No,
        });
        answer
    }
}

/// A store of the password.
struct Vault(Server);

impl CredentialStore for Vault {
    async fn load(&self) -> Result<(Record, Version), SourceError> {
        let _call = StoreCall::new(&self.0);
        // Others may act in between.
        yield_now().await;
        let mut book = self.0.book();
        if book.fetches() {
            return Err(SourceError::unavailable("the vault is down"));
        }
        let now = book.now();
        Ok(book.passwords.loads(now))
    }

    async fn store(&self, record: Record, expected: Version) -> Result<(), SourceError> {
        let _call = StoreCall::new(&self.0);
        yield_now().await;
        let stored = {
            let mut book = self.0.book();
            book.hear();
            let now = book.now();
            let stored = book.passwords.stores(record, &expected, now);
            stored.unwrap_or_else(|rule| {
                book.violated(rule);
                Stored::Ok
            })
        };
        match stored {
            Stored::Ok => Ok(()),
            Stored::Conflict => Err(SourceError::conflict()),
            Stored::Fails => Err(SourceError::unavailable("the vault is down")),
            Stored::Hangs => pending().await,
        }
    }
}

/// A call of the store, which ends whatever becomes of it.
struct StoreCall<'a>(&'a Server);

impl<'a> StoreCall<'a> {
    fn new(server: &'a Server) -> Self {
        server.book().in_store += 1;
        Self(server)
    }
}

impl Drop for StoreCall<'_> {
    fn drop(&mut self) {
        let mut book = self.0.book();
        book.in_store -= 1;
        book.lands_late();
    }
}

/// A source of the password that can only be read.
struct Sealed(Server);

impl CredentialSource for Sealed {
    async fn fetch(&self) -> Result<Credentials, SourceError> {
        let mut book = self.0.book();
        if book.fetches() {
            return Err(SourceError::unavailable("the vault is down"));
        }
        let now = book.now();
        Ok(book.passwords.yields(now))
    }
}

/// A process that starts when all others have ended, with what the store holds.
pub(crate) struct Restarted {
    server: Server,
    source: Source,
    /// The wrong passwords that it sent.
    pub(crate) wrong: Arc<AtomicUsize>,
}

impl Restarted {
    pub(crate) fn new(server: &Server) -> Option<Self> {
        Some(Self {
            server: server.clone(),
            source: server.source()?,
            wrong: Arc::default(),
        })
    }
}

impl CredentialProvider for Restarted {
    fn profile(&self) -> Profile {
        Profile::at(HOME.parse().unwrap()).logout_ends(LogoutEnds::Nothing)
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        let password = password_of(login.credentials()?.password().expose_secret());
        let mut book = self.server.book();
        book.note(format_args!("a new process sends {password}"));
        if password != book.passwords.server {
            self.wrong.fetch_add(1, Ordering::Relaxed);
            return Err(ProviderError::refused("wrong password"));
        }
        Ok(Token::bearer("restarted")?)
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
        Path::Allowed(path) => format!("{HOME}/{path}"),
        Path::Foreign => "https://elsewhere.test/0".to_owned(),
    }
}

pub(crate) fn payload(order: &Order, number: u64) -> OrderBody {
    let text = Bytes::from(format!("body of {number}"));
    match order.body {
        BodyKind::Empty => OrderBody::new([], Duration::ZERO),
        BodyKind::Bytes => OrderBody::new([text], Duration::ZERO),
        BodyKind::Stream => {
            let rest = text.slice(4..);
            OrderBody::new([text.slice(..4), rest], Duration::from_millis(2))
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
    type Response = Response<OrderBody>;
    type Error = Broken;
    type Future = Pin<Box<dyn Future<Output = Result<Response<OrderBody>, Broken>> + Send>>;

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
            let mut response = Response::new(OrderBody::new([text], order.trickles));
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
pub(crate) struct OrderBody {
    parts: std::vec::IntoIter<Bytes>,
    pause: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl OrderBody {
    fn new<const N: usize>(parts: [Bytes; N], pause: Duration) -> Self {
        Self {
            parts: Vec::from(parts).into_iter(),
            pause,
            sleep: None,
        }
    }
}

impl Default for OrderBody {
    fn default() -> Self {
        Self::new([], Duration::ZERO)
    }
}

impl Body for OrderBody {
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
