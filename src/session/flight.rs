//! Runs one flight for everybody who waits for it.
//!
//! A flight is a task of its own, so that it outlives its callers. However it
//! ends — with an answer, a panic, a deadline, the end of its runtime — it
//! lands: the state moves on and whoever waits is woken.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Shared;
use super::lifecycle::{self, Attempt};
use super::retirement::Logout;
use super::trace;
use super::wallet::Wallet;
use crate::credentials::{CredentialSource, Credentials, Source, SourceError};
use crate::error::{Error, ErrorKind};
use crate::provider::{
    ErasedProvider, LoginContext, PasswordChange, PasswordChanged, ProviderError,
    ProviderErrorKind, Reason,
};
use crate::sync::{self, Notify, OnceLock, OwnedNotified};
use crate::token::Token;

/// A deadline beyond what a clock can tell counts as this one, some 30 years.
const NEVER: Duration = Duration::from_secs(1_000_000_000);

/// How long the logout of a replaced token may take, since a login that is
/// needed meanwhile waits for it.
const RETIREMENT: Duration = Duration::from_secs(5);

/// What a flight needs of its session, and keeps alive without it.
pub(super) struct Backend {
    pub(super) provider: Box<dyn ErasedProvider>,
    /// Held across a whole flight, of which there is one at a time.
    pub(super) wallet: Mutex<Wallet>,
    pub(super) login_deadline: Duration,
}

impl Backend {
    /// When a call that starts now has taken too long.
    fn deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.login_deadline)
            .unwrap_or_else(|| now + NEVER)
    }

    fn retirement_deadline(&self) -> Instant {
        Instant::now() + self.login_deadline.min(RETIREMENT)
    }
}

/// A flight under way, or landed, as those see it who wait for it.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    landed: OnceLock<Landed>,
    wake: Arc<Notify>,
}

/// How a flight ended.
#[derive(Clone, Debug)]
pub(crate) enum Landed {
    /// There is a new token.
    Renewed,
    /// The login yielded the token in use once more.
    Unchanged,
    /// The login failed.
    Failed(Error),
    /// A logout, and what it could not end.
    LoggedOut(Result<(), Error>),
    /// The logout of a replaced token, which is nobody's business.
    Retired,
    Changed(Result<PasswordChanged, Error>),
}

/// What to run, with all that it needs.
pub(super) enum Plan {
    Login {
        reason: Reason,
        attempt: Attempt,
        previous: Option<Token>,
    },
    Logout {
        tokens: Vec<Token>,
    },
    Retire {
        token: Token,
    },
    ChangePassword {
        token: Token,
        change: PasswordChange,
    },
}

/// What a flight brought.
pub(super) enum Outcome {
    Login {
        /// When its call was made; `None` if the provider was not asked.
        sent: Option<Instant>,
        token: Result<Token, Error>,
    },
    Logout {
        /// Those that may be tried again.
        left: Vec<u64>,
        /// Those whose logout failed for good.
        lost: Vec<u64>,
        outcome: Result<(), Error>,
    },
    Retire(Logout),
    ChangePassword(Result<PasswordChanged, Error>),
}

impl Flight {
    /// Wakes all who wait, who then see `landed`.
    pub(super) fn land(&self, landed: Landed) {
        // A flight lands once; its guard makes sure that it does.
        let _ = self.landed.set(landed);
        self.wake.notify_waiters();
    }

    /// Wakes all who wait before it has landed: the session was logged out.
    pub(super) fn tell_of_logout(&self) {
        self.wake.notify_waiters();
    }
}

/// Waits until a flight has landed: `None` says that it has not, but that the
/// session was logged out meanwhile.
#[derive(Debug)]
pub(crate) struct Wait {
    flight: Arc<Flight>,
    // Boxed because it is pinned and its waiter is not; only the slow path waits.
    woken: Pin<Box<OwnedNotified>>,
}

impl Wait {
    pub(super) fn on(flight: Arc<Flight>) -> Self {
        // Made before `landed` is looked at: no wake can fall between.
        let woken = Box::pin(flight.wake.clone().notified_owned());
        Self { flight, woken }
    }

    /// Another one on the same flight.
    pub(super) fn again(&self) -> Self {
        Self::on(self.flight.clone())
    }

    pub(super) fn into_flight(self) -> Arc<Flight> {
        self.flight
    }
}

impl Future for Wait {
    type Output = Option<Landed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Landed>> {
        if self.flight.landed.get().is_none() {
            ready!(self.woken.as_mut().poll(cx));
        }
        Poll::Ready(self.flight.landed.get().cloned())
    }
}

tokio::task_local! {
    /// The sessions whose flights led to the code that runs now.
    static WITHIN: Vec<usize>;
}

/// Whether the code that runs now is part of a flight of `session`, so that
/// waiting for one would be waiting for itself.
pub(super) fn is_within(session: usize) -> bool {
    // The threads of a model are one, and it has no session within another.
    !cfg!(all(test, reauth_loom))
        && WITHIN
            .try_with(|within| within.contains(&session))
            .unwrap_or(false)
}

/// Starts a flight on the runtime of whoever polls.
pub(super) fn launch(shared: &Arc<Shared>, flight: Arc<Flight>, plan: Plan) {
    let mut within = WITHIN.try_with(Clone::clone).unwrap_or_default();
    within.push(shared.identity());
    let kind = plan.kind();
    let guard = Guard {
        session: Arc::downgrade(shared),
        flight,
        kind: Some(kind),
        sent: None,
    };
    let backend = shared.backend.clone();
    let task = run(backend, plan, guard);
    let task = trace::within_span(shared.facts.name.as_deref(), kind, task);
    let task = WITHIN.scope(within, task);
    // Without a runtime, or when it shuts down, the task is dropped, and the
    // guard lands it.
    drop(sync::spawn(task));
}

/// What a source said to a write, as an error of a provider.
async fn told_source(
    told: impl Future<Output = Result<(), SourceError>>,
) -> Result<(), ProviderError> {
    told.await.map_err(ProviderError::from)
}

async fn run(backend: Arc<Backend>, plan: Plan, mut guard: Guard) {
    let mut wallet = backend.wallet.lock().await;
    let deadline = backend.deadline();
    let outcome = match plan {
        Plan::Login {
            reason,
            attempt,
            previous,
        } => {
            let sent = &mut guard.sent;
            let login = log_in(&backend, &mut wallet, reason, attempt, previous, sent);
            let token = match within(deadline, login).await {
                Ok((token, taken)) => {
                    // The token is good whatever becomes of the source, and the
                    // wallet remembers what the source could not be told.
                    if let Some((credentials, source)) = taken {
                        let told = wallet.taken(&credentials, source);
                        let _ = within(backend.deadline(), told_source(told)).await;
                    }
                    Ok(token)
                }
                Err(error) => Err(error),
            };
            let sent = guard.sent;
            Outcome::Login { sent, token }
        }
        Plan::Logout { tokens } => {
            let mut ended = LoggedOut::default();
            for token in tokens {
                ended.log_out(&backend, token).await;
            }
            Outcome::Logout {
                left: ended.left,
                lost: ended.lost,
                outcome: ended.outcome,
            }
        }
        Plan::Retire { token } => {
            let logout = log_out(&backend, &token, backend.retirement_deadline());
            Outcome::Retire(sorted(&logout.await))
        }
        Plan::ChangePassword { token, change } => {
            guard.sent = Some(Instant::now());
            let change = change_password(&backend, &mut wallet, token, change, deadline);
            Outcome::ChangePassword(change.await)
        }
    };
    drop(wallet);
    let Some(session) = guard.session.upgrade() else {
        // Nobody is left to use what a login brought, so it must not stay
        // behind on the server.
        if let Outcome::Login {
            token: Ok(token), ..
        } = outcome
        {
            let _ = log_out(&backend, &token, backend.deadline()).await;
        }
        return;
    };
    guard.land(&session, outcome);
}

/// Runs `call` until `deadline`, and takes a panic for an error.
async fn within<T, E: Into<Error>>(
    deadline: Instant,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, Error> {
    let mut call = pin!(call);
    let unwinding = std::future::poll_fn(|cx| {
        // A call that panicked is not polled again, so nobody sees what it left broken.
        match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx))) {
            Ok(poll) => poll.map(|answer| answer.map_err(Into::into)),
            Err(_) => Poll::Ready(Err(Error::new(ErrorKind::ProviderPanicked))),
        }
    });
    match sync::timeout_at(deadline, unwinding).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::new(ErrorKind::DeadlineExceeded)),
    }
}

/// Answers with the token, and with the credentials that the server took.
async fn log_in<'a>(
    backend: &'a Backend,
    wallet: &mut Wallet,
    reason: Reason,
    attempt: Attempt,
    previous: Option<Token>,
    sent: &mut Option<Instant>,
) -> Result<(Token, Option<(Credentials, &'a Source)>), ProviderError> {
    let mut source = None;
    if let Some(named) = backend.provider.source() {
        source = Some((named, named.fetch().await?));
        wallet.recall(named).await?;
    }
    let mut context = LoginContext::new(reason);
    let mut secrets = previous.as_ref().map(Token::secrets).unwrap_or_default();
    // A login without a password does not tell which of two the server takes.
    if let Some(previous) = previous.filter(|_| !wallet.is_uncertain()) {
        context = context.with_previous(previous);
    }
    let Some((source, fetched)) = source else {
        *sent = Some(Instant::now());
        let login = backend.provider.login(context).await;
        let token = login.map_err(|error| error.without(&secrets))?;
        return Ok((token, None));
    };
    let refused_too = match attempt {
        Attempt::Forced => true,
        Attempt::Usual | Attempt::Recheck => false,
    };
    let candidates = wallet.candidates(fetched, refused_too);
    let passwords = candidates.iter().map(|other| &other.credentials);
    secrets.extend(passwords.map(|other| other.password().clone()));
    let are_some = !candidates.is_empty();
    for candidate in candidates {
        // One that cannot be noted is sent all the same: the session must come
        // back although a disk is full.
        let _ = wallet.trying(&candidate, source).await;
        let is_noted = candidate.is_noted();
        let credentials = candidate.credentials;
        let context = context.clone().with_credentials(credentials.clone());
        let is_offered_another = context.previous().is_some();
        let (context, has_asked) = context.watched();
        // A lifetime counts from the login that brought the token.
        *sent = Some(Instant::now());
        let login = backend.provider.login(context).await;
        match login.map_err(|error| error.without(&secrets)) {
            Ok(token) => {
                let taken = has_asked().then_some((credentials, source));
                return Ok((token, taken));
            }
            Err(error)
                if error.kind() == ProviderErrorKind::Refused
                    && (has_asked() || !is_offered_another) =>
            {
                wallet.refused(credentials, error);
            }
            Err(error) => {
                // Else the password may have been looked at, and found wrong.
                if is_noted && !error.may_have_happened() {
                    let _ = wallet.nothing_learnt(source).await;
                }
                return Err(error);
            }
        }
    }
    if are_some {
        let _ = wallet.refused_all(source).await;
    }
    Err(wallet.refusal())
}

/// Logs `token` out. One that is dead already is what was asked for.
async fn log_out(backend: &Backend, token: &Token, deadline: Instant) -> Result<(), Error> {
    let call = async {
        let logout = backend.provider.logout(token.clone()).await;
        logout.map_err(|error| error.without(&token.secrets()))
    };
    match within(deadline, call).await {
        Err(error) if error.kind() == ErrorKind::TokenRejected => Ok(()),
        outcome => outcome,
    }
}

/// What a logout's outcome means for its token.
fn sorted(outcome: &Result<(), Error>) -> Logout {
    let Err(error) = outcome else {
        return Logout::Done;
    };
    match error.kind() {
        ErrorKind::Unavailable | ErrorKind::DeadlineExceeded | ErrorKind::Uncertain => {
            Logout::Postponed(error.retry_after())
        }
        ErrorKind::LoggedOut
        | ErrorKind::Closed
        | ErrorKind::Refused
        | ErrorKind::Protocol
        | ErrorKind::Unsupported
        | ErrorKind::TokenRejected
        | ErrorKind::ProviderPanicked
        | ErrorKind::NoRuntime
        | ErrorKind::Recursive
        | ErrorKind::NoOrigin
        | ErrorKind::InsecureOrigin => Logout::Failed,
    }
}

/// What became of the tokens that a session's logout is to end.
struct LoggedOut {
    left: Vec<u64>,
    lost: Vec<u64>,
    /// The first error.
    outcome: Result<(), Error>,
}

impl Default for LoggedOut {
    fn default() -> Self {
        Self {
            left: Vec::new(),
            lost: Vec::new(),
            outcome: Ok(()),
        }
    }
}

impl LoggedOut {
    async fn log_out(&mut self, backend: &Backend, token: Token) {
        let outcome = log_out(backend, &token, backend.deadline()).await;
        match sorted(&outcome) {
            Logout::Done => {}
            Logout::Postponed(_) => self.left.push(token.generation()),
            Logout::Failed => self.lost.push(token.generation()),
        }
        if self.outcome.is_ok() {
            self.outcome = outcome;
        }
    }
}

async fn change_password(
    backend: &Backend,
    wallet: &mut Wallet,
    token: Token,
    change: PasswordChange,
    deadline: Instant,
) -> Result<PasswordChanged, Error> {
    let ask = async |change: PasswordChange| {
        let mut secrets = token.secrets();
        secrets.extend(change.current_password().cloned());
        secrets.push(change.new_password().clone());
        let answer = async {
            let answer = backend.provider.change_password(token.clone(), change);
            // Kept as the provider said it, since its kind decides what stays in use.
            Ok::<_, ProviderError>(answer.await.map_err(|error| error.without(&secrets)))
        };
        match within(deadline, answer).await {
            Ok(answer) => answer,
            // The request may have been sent.
            Err(lost) => Err(ProviderError::uncertain(lost)),
        }
    };
    let Some(source) = backend.provider.source() else {
        return ask(change).await.map_err(Error::from);
    };
    let prepare = async {
        // What a process left behind that died is resolved by a login first:
        // what is put down now would take its place.
        wallet.recall(source).await?;
        if wallet.is_uncertain() {
            return Err(ProviderError::token_rejected(
                "an earlier password change is resolved by a login first",
            ));
        }
        // A vault may echo what it was sent.
        let sent = [change.new_password().clone()];
        let prepared = wallet.prepare(change, source).await;
        prepared.map_err(|error| ProviderError::from(error).without(&sent))
    };
    let prepared = within(deadline, prepare).await?;
    let change = prepared.change.clone();
    let answer = ask(change).await;
    // What the server did stands, whatever becomes of the source; the wallet
    // remembers what it could not be told.
    let settled = wallet.settle(prepared, &answer, source);
    let _ = within(backend.deadline(), told_source(settled)).await;
    answer.map_err(Error::from)
}

/// Lands a flight, if need be for a task that will not.
struct Guard {
    session: Weak<Shared>,
    flight: Arc<Flight>,
    /// `None` once it has landed.
    kind: Option<lifecycle::Flight>,
    /// When its call was made last; `None` if the provider was not asked yet.
    sent: Option<Instant>,
}

impl Guard {
    fn land(mut self, session: &Arc<Shared>, outcome: Outcome) {
        self.kind = None;
        session.land(&self.flight, outcome);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (Some(kind), Some(session)) = (self.kind.take(), self.session.upgrade()) else {
            return;
        };
        let lost = Error::new(ErrorKind::NoRuntime);
        let outcome = match kind {
            lifecycle::Flight::Login { .. } => Outcome::Login {
                sent: self.sent,
                token: Err(lost),
            },
            lifecycle::Flight::Logout => Outcome::Logout {
                left: session.lock().rules.ending(),
                lost: Vec::new(),
                outcome: Err(lost),
            },
            lifecycle::Flight::Retire { .. } => Outcome::Retire(Logout::Postponed(None)),
            lifecycle::Flight::ChangePassword => Outcome::ChangePassword(Err(match self.sent {
                Some(_) => ProviderError::uncertain(lost).into(),
                None => lost,
            })),
        };
        session.land(&self.flight, outcome);
    }
}

impl Plan {
    fn kind(&self) -> lifecycle::Flight {
        match self {
            Plan::Login {
                reason, attempt, ..
            } => lifecycle::Flight::Login {
                reason: *reason,
                attempt: *attempt,
            },
            Plan::Logout { .. } => lifecycle::Flight::Logout,
            Plan::Retire { token } => lifecycle::Flight::Retire {
                generation: token.generation(),
            },
            Plan::ChangePassword { .. } => lifecycle::Flight::ChangePassword,
        }
    }
}
