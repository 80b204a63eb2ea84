//! Runs one job: a login, a logout or a password change.
//!
//! This module does not use the session. Each job yields a [`JobResult`], also after
//! a panic or a timeout of the provider.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::credential_state::CredentialState;
use crate::credentials::{CredentialSource, Credentials, Source, SourceError};
use crate::error::{Error, ErrorKind};
use crate::loom;
use crate::provider::{
    Challenge, ErasedProvider, LoginContext, LogoutContext, LogoutEnds, LogoutReason,
    PasswordChange, PasswordContext, ProviderError, ProviderErrorKind, Reason,
};
use crate::session::rules::{LoginKind, LogoutOutcome};
use crate::token::Token;

/// Replaces a timeout that the clock cannot represent: about 30 years.
const NEVER: Duration = Duration::from_secs(1_000_000_000);

/// The timeout for the logout of a replaced token: a login that is needed in the
/// meantime waits for it.
const RETIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// The parts of a session that its jobs use. They outlive the session if a job does.
pub(crate) struct Runner {
    provider: Box<dyn ErasedProvider>,
    /// Held for the length of a login or a password change.
    credentials: Mutex<CredentialState>,
    login_timeout: Duration,
    logout_ends: LogoutEnds,
}

/// A job to run, with its arguments.
pub(super) enum JobSpec {
    Login {
        reason: Reason,
        kind: LoginKind,
        previous: Option<Token>,
        challenge: Option<Box<Challenge>>,
    },
    Logout {
        tokens: Vec<Token>,
        reason: LogoutReason,
    },
    Retire {
        token: Token,
    },
    ChangePassword {
        token: Token,
        change: PasswordChange,
    },
}

/// How a job ended.
pub(super) enum JobResult {
    Login {
        /// When the provider was called; `None` if it was not.
        sent: Option<Instant>,
        token: Result<Token, Error>,
    },
    Logout {
        /// The tokens that may be tried again.
        left: Vec<u64>,
        /// The tokens whose logout failed for good.
        lost: Vec<u64>,
        outcome: Result<(), Error>,
    },
    Retire(LogoutOutcome),
    ChangePassword(Result<(), Error>),
}

impl Runner {
    pub(in crate::session) fn new(
        provider: Box<dyn ErasedProvider>,
        login_timeout: Duration,
        logout_ends: LogoutEnds,
    ) -> Self {
        Self {
            provider,
            credentials: Mutex::new(CredentialState::default()),
            login_timeout,
            logout_ends,
        }
    }

    /// Returns whether the outcome of a password change is unknown, or `None` while a
    /// job is using the credentials.
    pub(in crate::session) fn is_uncertain(&self) -> Option<bool> {
        // Uses `try_lock`: a waiter that is never polled again would get the lock and
        // block every job.
        let credentials = self.credentials.try_lock().ok()?;
        Some(credentials.is_uncertain())
    }

    /// Returns the deadline of a call that starts now.
    fn deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.login_timeout)
            .unwrap_or_else(|| now + NEVER)
    }
}

/// Runs a job. `sent` is set to the time of the provider's last call.
pub(super) async fn run(
    runner: &Arc<Runner>,
    spec: JobSpec,
    sent: &mut Option<Instant>,
) -> JobResult {
    match spec {
        JobSpec::Login {
            reason,
            kind,
            previous,
            challenge,
        } => {
            let context = LoginContext::new(reason)
                .forced(kind == LoginKind::Forced)
                .with_challenge(challenge);
            let token = login(runner, context, previous, sent).await;
            JobResult::Login { sent: *sent, token }
        }
        JobSpec::Logout { tokens, reason } => logout_all(runner, tokens, reason).await,
        JobSpec::Retire { token } => {
            let deadline = Instant::now() + runner.login_timeout.min(RETIRE_TIMEOUT);
            let outcome = logout(runner, token, LogoutReason::Replaced, deadline).await;
            JobResult::Retire(logout_outcome(&outcome))
        }
        JobSpec::ChangePassword { token, change } => {
            JobResult::ChangePassword(change_password(runner, token, change, sent).await)
        }
    }
}

/// Logs out the token of a login that ended after the session was dropped.
pub(super) async fn end_unused(runner: &Arc<Runner>, result: JobResult) {
    if runner.logout_ends == LogoutEnds::Nothing {
        return;
    }
    if let JobResult::Login {
        token: Ok(token), ..
    } = result
    {
        let _ = logout(runner, token, LogoutReason::Closed, runner.deadline()).await;
    }
}

/// Returns the error of a password change whose job was dropped after its
/// provider was called, or before.
pub(super) fn lost_change(lost: Error, sent: Option<Instant>) -> Error {
    match sent {
        Some(_) => ProviderError::uncertain(lost).into(),
        None => lost,
    }
}

/// Runs `call` until `deadline`. A panic counts as an error.
async fn guarded<T, E: Into<Error>>(
    deadline: Instant,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, Error> {
    let mut call = pin!(call);
    let unwinding = std::future::poll_fn(|cx| {
        // A call that has panicked is not polled again, so its state does not matter.
        match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx))) {
            Ok(poll) => poll.map(|result| result.map_err(Into::into)),
            Err(_) => Poll::Ready(Err(Error::new(ErrorKind::ProviderPanicked))),
        }
    });
    match loom::timeout_at(deadline, unwinding).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(ErrorKind::DeadlineExceeded)),
    }
}

/// Reports the outcome of a call to the source. An error of the source does not
/// change the outcome: the credential state then keeps the password in memory.
async fn report_to_source(runner: &Runner, report: impl Future<Output = Result<(), SourceError>>) {
    let report = async { report.await.map_err(ProviderError::from) };
    let _ = guarded(runner.deadline(), report).await;
}

async fn login(
    runner: &Runner,
    context: LoginContext,
    previous: Option<Token>,
    sent: &mut Option<Instant>,
) -> Result<Token, Error> {
    let mut credentials = runner.credentials.lock().await;
    let login = try_login(runner, &mut credentials, context, previous, sent);
    let (token, accepted) = guarded(runner.deadline(), login).await?;
    if let Some((sent, source)) = accepted {
        report_to_source(runner, credentials.on_accepted(&sent, source)).await;
    }
    Ok(token)
}

/// Logs in. Returns the token, and the credentials that the server accepted.
async fn try_login<'a>(
    runner: &'a Runner,
    credentials: &mut CredentialState,
    mut context: LoginContext,
    previous: Option<Token>,
    sent: &mut Option<Instant>,
) -> Result<(Token, Option<(Credentials, &'a Source)>), ProviderError> {
    let mut fetched = None;
    if let Some(source) = runner.provider.source() {
        fetched = Some((source, source.fetch().await?));
        credentials.recall(source).await?;
    }
    let mut secrets = previous.as_ref().map(Token::secrets).unwrap_or_default();
    // A login without a password does not show which of two the server takes.
    if let Some(previous) = previous.filter(|_| !credentials.is_uncertain()) {
        context = context.with_previous(previous);
    }
    let Some((source, fetched)) = fetched else {
        *sent = Some(Instant::now());
        let login = runner.provider.login(context).await;
        let token = login.map_err(|error| error.without(&secrets))?;
        return Ok((token, None));
    };
    let candidates = credentials.candidates(fetched, context.is_forced());
    let passwords = candidates.iter().map(|other| &other.credentials);
    secrets.extend(passwords.map(|other| other.password().clone()));
    let are_some = !candidates.is_empty();
    for candidate in candidates {
        // Sent even if it cannot be noted: a full disk must not stop the session.
        let _ = credentials.trying(&candidate, source).await;
        let is_noted = candidate.is_noted();
        let candidate = candidate.credentials;
        let context = context.clone().with_credentials(candidate.clone());
        let offers_previous = context.previous().is_some();
        let (context, has_asked) = context.watched();
        // A lifetime counts from the login that yielded the token.
        *sent = Some(Instant::now());
        let login = runner.provider.login(context).await;
        match login.map_err(|error| error.without(&secrets)) {
            Ok(token) => {
                let accepted = has_asked().then_some((candidate, source));
                return Ok((token, accepted));
            }
            // Otherwise the refusal may be about the previous token.
            Err(error)
                if error.kind() == ProviderErrorKind::Refused
                    && (has_asked() || !offers_previous) =>
            {
                credentials.refused(candidate, error);
            }
            // The password is right, which resolves an open change. It is not sent
            // again, and no other one is tried.
            Err(error) if error.needs_action() && (has_asked() || !offers_previous) => {
                let _ = credentials.on_accepted(&candidate, source).await;
                credentials.refused(candidate, error.clone());
                return Err(error);
            }
            Err(error) => {
                // Otherwise the server may have checked the password.
                if is_noted && !error.may_have_happened() {
                    let _ = credentials.on_inconclusive(source).await;
                }
                return Err(error);
            }
        }
    }
    if are_some {
        let _ = credentials.refused_all(source).await;
    }
    Err(credentials.refusal())
}

async fn logout_all(runner: &Arc<Runner>, tokens: Vec<Token>, reason: LogoutReason) -> JobResult {
    let (mut left, mut lost, mut first) = (Vec::new(), Vec::new(), Ok(()));
    for token in tokens {
        let generation = token.generation();
        let outcome = logout(runner, token, reason, runner.deadline()).await;
        match logout_outcome(&outcome) {
            LogoutOutcome::Done => {}
            LogoutOutcome::Postponed(_) => left.push(generation),
            LogoutOutcome::Failed => lost.push(generation),
        }
        first = first.and(outcome);
    }
    JobResult::Logout {
        left,
        lost,
        outcome: first,
    }
}

/// Logs `token` out. A dead token counts as logged out.
async fn logout(
    runner: &Arc<Runner>,
    token: Token,
    reason: LogoutReason,
    deadline: Instant,
) -> Result<(), Error> {
    let mut secrets = token.secrets();
    let sent = Arc::new(SentPasswords::default());
    let context = {
        // Weak: a provider that keeps the context would keep itself.
        let (runner, sent) = (Arc::downgrade(runner), sent.clone());
        LogoutContext::new(token, reason).fetching(move || {
            let (runner, sent) = (runner.clone(), sent.clone());
            async move {
                let gone = || ProviderError::unavailable("the session of this logout is gone");
                let runner = runner.upgrade().ok_or_else(gone)?;
                let credentials = current_credentials(&runner).await?;
                sent.push(credentials.password());
                Ok(credentials)
            }
        })
    };
    let call = async {
        let logout = runner.provider.logout(context).await;
        secrets.extend(sent.take());
        logout.map_err(|error| error.without(&secrets))
    };
    match guarded(deadline, call).await {
        Err(error) if error.kind() == ErrorKind::TokenRejected => Ok(()),
        outcome => outcome,
    }
}

/// The passwords that a logout was given, to redact them from its error.
#[derive(Default)]
struct SentPasswords(std::sync::Mutex<Vec<SecretString>>);

impl SentPasswords {
    fn push(&self, password: &SecretString) {
        self.lock().push(password.clone());
    }

    fn take(&self) -> Vec<SecretString> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<SecretString>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the credentials that the next login would send first, for a logout that
/// sends them.
async fn current_credentials(runner: &Runner) -> Result<Credentials, ProviderError> {
    let Some(source) = runner.provider.source() else {
        return Err(ProviderError::no_source());
    };
    let fetched = source.fetch().await?;
    // Uses `try_lock`: the context may outlive its job, and a waiter that is never
    // polled again would block every login.
    let Ok(mut credentials) = runner.credentials.try_lock() else {
        return Err(ProviderError::unavailable(
            "a login is using the credentials",
        ));
    };
    // A logout must not test a password.
    if credentials.is_uncertain() {
        return Err(ProviderError::unavailable(
            "an earlier password change is resolved by a login first",
        ));
    }
    let candidates = credentials.candidates(fetched, false);
    match candidates.into_iter().next() {
        Some(candidate) => Ok(candidate.credentials),
        None => Err(credentials.refusal()),
    }
}

/// Converts the outcome of a logout for the rules.
fn logout_outcome(outcome: &Result<(), Error>) -> LogoutOutcome {
    let Err(error) = outcome else {
        return LogoutOutcome::Done;
    };
    match error.kind() {
        ErrorKind::Unavailable | ErrorKind::DeadlineExceeded | ErrorKind::Uncertain => {
            LogoutOutcome::Postponed(error.retry_after())
        }
        ErrorKind::LoggedOut
        | ErrorKind::Closed
        | ErrorKind::Refused
        | ErrorKind::PasswordExpired
        | ErrorKind::Locked
        | ErrorKind::InteractionRequired
        | ErrorKind::Protocol
        | ErrorKind::Unsupported
        | ErrorKind::TokenRejected
        | ErrorKind::ProviderPanicked
        | ErrorKind::NoRuntime
        | ErrorKind::Recursive
        | ErrorKind::NoOrigin
        | ErrorKind::InsecureOrigin => LogoutOutcome::Failed,
    }
}

async fn change_password(
    runner: &Runner,
    token: Token,
    change: PasswordChange,
    sent: &mut Option<Instant>,
) -> Result<(), Error> {
    let mut credentials = runner.credentials.lock().await;
    *sent = Some(Instant::now());
    let deadline = runner.deadline();
    let ask = async |change: &PasswordChange| {
        let mut secrets = token.secrets();
        secrets.extend(change.current_password().cloned());
        secrets.push(change.new_password().clone());
        let context = PasswordContext::of(change).with_token(token.clone());
        let call = async {
            let changed = runner.provider.change_password(context).await;
            // Not an error yet: its kind decides which password stays in use.
            Ok::<_, ProviderError>(changed.map_err(|error| error.without(&secrets)))
        };
        match guarded(deadline, call).await {
            Ok(changed) => changed,
            // The request may have been sent.
            Err(lost) => Err(ProviderError::uncertain(lost)),
        }
    };
    let Some(source) = runner.provider.source() else {
        return ask(&change).await.map_err(Error::from);
    };
    let prepare = async {
        // A change that a dead process left behind is resolved by a login first:
        // a new one would overwrite it.
        credentials.recall(source).await?;
        if credentials.is_uncertain() {
            return Err(ProviderError::token_rejected(
                "an earlier password change is resolved by a login first",
            ));
        }
        // The error of a vault may quote the new password.
        let secrets = [change.new_password().clone()];
        let prepared = credentials.prepare(change, source).await;
        prepared.map_err(|error| ProviderError::from(error).without(&secrets))
    };
    let prepared = guarded(deadline, prepare).await?;
    let changed = ask(&prepared.change).await;
    report_to_source(runner, credentials.settle(prepared, &changed, source)).await;
    changed.map_err(Error::from)
}
