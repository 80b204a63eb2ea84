//! Runs one job, or the logout of a replaced token beside it.
//!
//! This module does not use the session. Each job yields a [`JobResult`], also after
//! a panic or a timeout of the provider.

use std::future::{Future, poll_fn};
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::foreign::contained;
use super::job::Job;
use super::{nesting, trace};
use crate::credentials::account::{AccountSettings, ChangeAnswer, Password, Verdict, Wanted};
use crate::credentials::shared_account::{ChangeStep, CurrentCredentials, LoginStep, OpenAccount};
use crate::credentials::source::Realm;
use crate::credentials::{Credentials, Source, SourceError};
use crate::error::{Error, ErrorKind};
use crate::loom;
use crate::provider::{
    Challenge, ErasedProvider, LoginContext, LogoutContext, LogoutEnds, LogoutReason,
    PasswordChange, PasswordContext, ProviderError, ProviderErrorKind, Reason, Storage,
};
use crate::session::rules::{LoginKind, LogoutOutcome, TokenEnd};
use crate::token::Token;

/// Replaces a timeout that the clock cannot represent: about 30 years.
const NEVER: Duration = Duration::from_secs(1_000_000_000);

/// How soon it is checked whether somebody has corrected a password whose next login is
/// delayed.
const RECHECK_EVERY: Duration = Duration::from_secs(10);

/// The parts of a session that its jobs use. They outlive the session if a job does.
pub(crate) struct Runner {
    pub(in crate::session) provider: Box<dyn ErasedProvider>,
    pub(in crate::session) login_timeout: Duration,
    pub(in crate::session) logout_ends: LogoutEnds,
    pub(in crate::session) realm: Realm,
    pub(in crate::session) password_retention: Option<Duration>,
    pub(in crate::session) retry_refused_after: Option<Duration>,
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
        /// A replaced token whose logout is running. If that fails, it is tried again.
        retiring: Option<(Arc<Job>, Token)>,
        reason: LogoutReason,
    },
    Retire {
        token: Token,
    },
    ChangePassword {
        /// `None` after an expired password, which leaves no session.
        token: Option<Token>,
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
        /// The tokens that have ended, and how. The others may be tried again.
        ended: Vec<(u64, TokenEnd)>,
        outcome: Result<(), Error>,
    },
    Retire(LogoutOutcome),
    ChangePassword(Result<(), ChangeFailure>),
}

impl JobResult {
    /// Returns whether the logout of the login's token would end `current` too.
    pub(super) fn extends(&self, current: &Token) -> bool {
        match self {
            Self::Login {
                token: Ok(token), ..
            } => token.is_continuation() || token.repeats(current),
            Self::Login { .. }
            | Self::Logout { .. }
            | Self::Retire(_)
            | Self::ChangePassword(_) => false,
        }
    }
}

/// Why a password was not changed.
#[derive(Debug)]
pub(super) enum ChangeFailure {
    /// A login must show first which password works.
    LogInFirst {
        /// Whether an earlier change, which is still open, was sent again.
        has_sent: bool,
    },
    Failed(Error),
}

impl<E: Into<Error>> From<E> for ChangeFailure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Runner {
    async fn open<'a>(&'a self, source: &'a Source) -> Result<OpenAccount<'a>, ProviderError> {
        let mut settings = AccountSettings {
            login_timeout: self.login_timeout,
            retry_refused_after: self.retry_refused_after,
            ..AccountSettings::default()
        };
        if let Some(retention) = self.password_retention {
            settings.retention = retention;
        }
        Ok(source.open(&self.realm, settings).await?)
    }

    /// Returns the deadline of several calls of the store, each of which has a timeout of
    /// its own.
    fn store_deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.login_timeout.saturating_mul(4))
            .unwrap_or_else(|| now + NEVER)
    }

    /// Returns the deadline of a call that starts now.
    fn deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.login_timeout)
            .unwrap_or_else(|| now + NEVER)
    }
}

/// Runs a job.
pub(super) async fn run(runner: &Arc<Runner>, job: &Job, spec: JobSpec) -> JobResult {
    match spec {
        JobSpec::Login {
            reason,
            kind,
            previous,
            challenge,
        } => {
            let context = LoginContext::new(reason)
                .forced(kind == LoginKind::Forced)
                .challenged(challenge);
            let token = login(runner, job, context, previous).await;
            let sent = job.sent();
            JobResult::Login { sent, token }
        }
        JobSpec::Logout {
            mut tokens,
            retiring,
            reason,
        } => {
            if let Some((retire, token)) = retiring
                && retire.has_retire_failed().await
            {
                tokens.push(token);
            }
            logout_all(runner, job, tokens, reason).await
        }
        JobSpec::Retire { token } => {
            let outcome = logout(runner, job, token, LogoutReason::Replaced).await;
            JobResult::Retire(logout_outcome(&outcome))
        }
        JobSpec::ChangePassword { token, change } => {
            JobResult::ChangePassword(change_password(runner, job, token, change).await)
        }
    }
}

/// Logs out the token of a login that ended after the session was dropped, or after
/// its callers had been given its timeout as an error.
pub(super) async fn end_unused(
    runner: &Arc<Runner>,
    job: &Job,
    result: JobResult,
    reason: LogoutReason,
) {
    let may_end = match runner.logout_ends {
        LogoutEnds::Nothing => false,
        LogoutEnds::Token => true,
        // It would end the tokens that are in use.
        LogoutEnds::User => reason != LogoutReason::Replaced,
    };
    if let JobResult::Login {
        token: Ok(token), ..
    } = result
        && may_end
    {
        let _ = logout(runner, job, token, reason).await;
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

/// Runs `call` until `deadline`, and `then` with its result. A panic counts as an error.
async fn guarded<T, E: Into<Error>, F: Future>(
    job: &Job,
    deadline: Instant,
    call: impl FnOnce() -> F,
    then: impl FnOnce(F::Output) -> Result<T, E>,
) -> Result<T, Error> {
    job.set_deadline(Some(deadline));
    let panicked = || Error::new(ErrorKind::ProviderPanicked);
    let mut call = contained(|| Box::pin(call())).ok_or_else(panicked)?;
    // A call that has panicked is not polled again, so its state does not matter.
    let polled = poll_fn(|cx| {
        // It may block this one.
        loom::wake_another_worker();
        match contained(|| call.as_mut().poll(cx)) {
            Some(poll) => poll.map(Some),
            None => Poll::Ready(None),
        }
    });
    let ended = loom::timeout_at(deadline, polled).await;
    // Its result is safe from a panic of its `Drop`.
    contained(|| drop(call));
    let Ok(ended) = ended else {
        return Err(Error::new(ErrorKind::DeadlineExceeded));
    };
    let result = ended.and_then(|output| contained(|| then(output)));
    result.ok_or_else(panicked)?.map_err(Into::into)
}

async fn open<'a>(
    runner: &'a Runner,
    job: &Job,
    source: &'a Source,
) -> Result<OpenAccount<'a>, Error> {
    guarded(
        job,
        runner.deadline(),
        || runner.open(source),
        |opened| opened,
    )
    .await
}

/// Stores an outcome. If that fails, the account keeps the outcome in memory and
/// stores it with its next record, so the failure changes nothing here.
async fn store<T>(
    runner: &Runner,
    job: &Job,
    stored: impl Future<Output = Result<T, SourceError>>,
) -> Option<T> {
    let then = |stored: Result<_, _>| stored.map_err(ProviderError::from);
    let stored = guarded(job, runner.store_deadline(), || stored, then).await;
    stored.inspect_err(trace::not_stored).ok()
}

/// Logs in. Without a source the provider logs in by itself.
async fn login(
    runner: &Runner,
    job: &Job,
    context: LoginContext,
    previous: Option<Token>,
) -> Result<Token, Error> {
    let Some(source) = runner.provider.source() else {
        let secrets = previous.as_ref().map(Token::secrets).unwrap_or_default();
        let context = replacing(context, previous.clone());
        job.on_send();
        let call = || runner.provider.login(context);
        let then = |login: Result<Token, ProviderError>| {
            let token = login.map_err(|error| error.without(&secrets))?;
            Ok::<_, ProviderError>(token.with_data_of(previous.as_ref()))
        };
        return guarded(job, runner.deadline(), call, then).await;
    };
    login_with_password(runner, job, source, context, previous).await
}

/// Logs in with the passwords of the account, one after the other, until one is
/// accepted or none may be sent.
async fn login_with_password(
    runner: &Runner,
    job: &Job,
    source: &Source,
    context: LoginContext,
    previous: Option<Token>,
) -> Result<Token, Error> {
    let mut wanted = match context.is_forced() {
        true => Wanted::Forced,
        false => Wanted::Usual,
    };
    let mut account = open(runner, job, source).await?;
    let mut has_sent = false;
    if nesting::is_nested(account.identity()) {
        return Err(Error::new(ErrorKind::Recursive));
    }
    loop {
        job.is_wanted()?;
        let step = account.begin_login(wanted);
        let then = |step: Result<_, _>| step.map_err(ProviderError::from);
        let mut login = match guarded(job, runner.store_deadline(), || step, then).await? {
            LoginStep::Send(login) => login,
            LoginStep::Wait(blocker) => {
                // Not against the login timeout, which is for this session's login.
                job.while_wanted(blocker.wait()).await?;
                // Shares the verdict on the login that it waited for.
                wanted = Wanted::Usual;
                continue;
            }
            // Without a verdict there is nothing to share.
            LoginStep::Later(_) if context.is_forced() && wanted == Wanted::Usual && !has_sent => {
                wanted = Wanted::Forced;
                continue;
            }
            LoginStep::Later(delay) => return Err(paused(delay)),
            LoginStep::Stopped(Some(refusal)) => return Err(refusal),
            LoginStep::Stopped(None) => return Err(refused_before()),
        };
        let mut secrets = login.passwords().to_vec();
        secrets.extend(previous.as_ref().map(Token::secrets).unwrap_or_default());
        // A login without a password does not show which one the server takes. A password
        // change renews the token to see that.
        let is_renewal = context.reason() == Reason::Requested && !context.is_forced();
        let must_show = login.is_unresolved() || is_renewal && login.has_tries();
        let previous = previous.clone().filter(|_| !must_show);
        let offers_previous = previous.is_some();
        let context = replacing(context.clone(), previous.clone());
        let (context, has_asked) = context.with_credentials(login.credentials()).tracking_use();
        // Dropping the claim frees it.
        job.is_wanted()?;
        has_sent = true;
        // A lifetime counts from the login that yielded the token.
        job.on_send();
        login.on_send();
        let call = || runner.provider.login(context);
        // Not an error yet: its kind is the verdict on the password.
        let then = |login: Result<_, ProviderError>| {
            Ok::<_, Error>(login.map_err(|error| error.without(&secrets)))
        };
        let call = guarded(job, login.deadline(), call, then);
        // Without the password the outcome says nothing about it, unless there was
        // nothing else to be refused.
        let is_about_it = || has_asked() || !offers_previous;
        let outcome = nesting::scope(account.identity(), call).await;
        let verdict = match &outcome {
            Ok(Ok(_)) if has_asked() => Verdict::Accepted,
            Ok(Err(error)) if is_about_it() => verdict_on(error),
            Err(_) if has_asked() => Verdict::Unknown,
            Ok(_) | Err(_) => Verdict::NotSent,
        };
        let outcome = match outcome {
            Ok(Ok(token)) => Ok(token.with_data_of(previous.as_ref())),
            Ok(Err(error)) => Err(Error::from(error)),
            Err(lost) => Err(lost),
        };
        match (&outcome, verdict) {
            (Ok(_), Verdict::Accepted) => account.on_success(),
            (Err(error), Verdict::Accepted) => account.on_needs_action(&login, error.clone()),
            (Err(error), Verdict::Refused) => account.on_refused(error.clone()),
            (_, Verdict::Unknown | Verdict::NotSent | Verdict::Locked)
            | (Ok(_), Verdict::Refused) => {}
        }
        store(runner, job, account.land_login(login, verdict)).await;
        match verdict {
            Verdict::Refused => wanted = Wanted::Usual,
            Verdict::Accepted | Verdict::Unknown | Verdict::NotSent | Verdict::Locked => {
                return outcome;
            }
        }
    }
}

fn replacing(context: LoginContext, previous: Option<Token>) -> LoginContext {
    match previous {
        Some(previous) => context.with_previous(previous),
        None => context,
    }
}

/// Returns what a failed login that has sent a password says about it.
fn verdict_on(error: &ProviderError) -> Verdict {
    match error.kind() {
        ProviderErrorKind::Refused => Verdict::Refused,
        // The password is right.
        ProviderErrorKind::PasswordExpired | ProviderErrorKind::InteractionRequired => {
            Verdict::Accepted
        }
        ProviderErrorKind::Locked => Verdict::Locked,
        ProviderErrorKind::NotSent | ProviderErrorKind::Unsupported => Verdict::NotSent,
        // A gateway may answer for a server that has counted the login.
        ProviderErrorKind::Unavailable
        | ProviderErrorKind::TokenRejected
        | ProviderErrorKind::Protocol
        | ProviderErrorKind::Uncertain => Verdict::Unknown,
    }
}

/// Returns the error of a login that is not sent yet, so as not to lock the account.
fn paused(delay: Duration) -> Error {
    let why = format!(
        "two logins in a row got no verdict on the password, and the next is sent in {delay:.0?} \
         so that the account is not locked"
    );
    // Somebody may correct the password before that.
    ProviderError::withheld(why)
        .with_retry_after(delay.min(RECHECK_EVERY))
        .into()
}

/// Returns the error of a login that is not sent, because another process has sent
/// the passwords.
fn refused_before() -> Error {
    let why = "the server refused the password before this process started: change the password \
        in the credential source, or call `Session::login` to send it once more";
    ProviderError::refused(why).into()
}

async fn logout_all(
    runner: &Arc<Runner>,
    job: &Job,
    tokens: Vec<Token>,
    reason: LogoutReason,
) -> JobResult {
    let (mut ended, mut first) = (Vec::new(), Ok(()));
    for token in tokens {
        let generation = token.generation();
        let outcome = logout(runner, job, token, reason).await;
        if let Some(end) = logout_outcome(&outcome).end() {
            ended.push((generation, end));
        }
        first = first.and(outcome.map(drop));
    }
    JobResult::Logout {
        ended,
        outcome: first,
    }
}

/// Logs `token` out. A dead token counts as logged out.
async fn logout(
    runner: &Arc<Runner>,
    job: &Job,
    token: Token,
    reason: LogoutReason,
) -> Result<LogoutOutcome, Error> {
    let mut secrets = token.secrets();
    let sent = Arc::new(SentPasswords::default());
    let context = {
        // Weak: a provider that keeps the context would keep itself.
        let (runner, sent) = (Arc::downgrade(runner), sent.clone());
        LogoutContext::new(token, reason).fetching(move || {
            let (runner, sent) = (runner.clone(), sent.clone());
            async move {
                let gone = || ProviderError::withheld("the session of this logout is gone");
                let runner = runner.upgrade().ok_or_else(gone)?;
                let credentials = current_credentials(&runner).await?;
                sent.push(credentials.password());
                Ok(credentials)
            }
        })
    };
    let call = || runner.provider.logout(context);
    let then = |logout: Result<(), ProviderError>| {
        secrets.extend(sent.take());
        match logout {
            Ok(()) => Ok(LogoutOutcome::Done),
            Err(error) if error.kind() == ProviderErrorKind::TokenRejected => {
                Ok(LogoutOutcome::Done)
            }
            Err(error) if error.is_no_logout() => Ok(LogoutOutcome::Nothing),
            Err(error) => Err(error.without(&secrets)),
        }
    };
    guarded(job, runner.deadline(), call, then).await
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

/// Returns the current credentials, for a logout that sends them.
async fn current_credentials(runner: &Runner) -> Result<Credentials, ProviderError> {
    let Some(source) = runner.provider.source() else {
        return Err(ProviderError::no_source());
    };
    let mut account = runner.open(source).await?;
    match account.current().await? {
        CurrentCredentials::Credentials(credentials) => Ok(credentials),
        CurrentCredentials::Refused(refusal) => Err(ProviderError::refused(
            refusal.unwrap_or_else(refused_before),
        )),
        // A logout must not test a password.
        CurrentCredentials::Unknown => Err(ProviderError::withheld(
            "it is not known which password works until the next login",
        )),
    }
}

/// Converts the outcome of a logout for the rules.
fn logout_outcome(outcome: &Result<LogoutOutcome, Error>) -> LogoutOutcome {
    let error = match outcome {
        Ok(outcome) => return *outcome,
        Err(error) => error,
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
        | ErrorKind::InsecureOrigin
        | ErrorKind::Truncated => LogoutOutcome::Failed,
    }
}

async fn change_password(
    runner: &Runner,
    job: &Job,
    token: Option<Token>,
    change: PasswordChange,
) -> Result<(), ChangeFailure> {
    let Some(source) = runner.provider.source() else {
        job.on_send();
        let context = PasswordContext::of(&change);
        ask(runner, job, context, token.as_ref(), runner.deadline()).await?;
        return Ok(());
    };
    let mut account = open(runner, job, source).await?;
    may_keep(&account, &change)?;
    if nesting::is_nested(account.identity()) {
        return Err(Error::new(ErrorKind::Recursive).into());
    }
    let new = Password::from(change.new_password().clone());
    let mut has_sent = false;
    loop {
        let step = account.begin_change(&new);
        let then = |step: Result<_, _>| step.map_err(ProviderError::from);
        let step = guarded(job, runner.store_deadline(), || step, then).await?;
        let (mut claimed, is_again) = match step {
            ChangeStep::Ask(claimed) => (claimed, false),
            ChangeStep::AskAgain(claimed) => (claimed, true),
            ChangeStep::Wait(blocker) => {
                job.while_wanted(blocker.wait()).await?;
                continue;
            }
            ChangeStep::AlreadyCurrent => return Ok(()),
            ChangeStep::LogInFirst => return Err(ChangeFailure::LogInFirst { has_sent }),
            ChangeStep::Busy(until) => return Err(busy(until).into()),
            ChangeStep::NoRoom => return Err(no_room().into()),
        };
        let context = PasswordContext::new(claimed.new_password().clone())
            .with_credentials(&claimed.credentials());
        let context = match change.current_password() {
            Some(current) if !is_again => context.with_current_password(current.clone()),
            Some(_) | None => context,
        };
        // Dropping the claim frees it.
        job.is_wanted()?;
        job.on_send();
        claimed.on_send();
        let asked = ask(runner, job, context, token.as_ref(), claimed.deadline());
        let outcome = nesting::scope(account.identity(), asked).await;
        let answer = match &outcome {
            Ok(()) => ChangeAnswer::Yes,
            Err(error) => answer_of(error),
        };
        if answer == ChangeAnswer::Yes {
            account.on_success();
        }
        let is_own = store(runner, job, account.land_change(claimed, answer)).await;
        match outcome {
            Ok(()) if is_again => has_sent = true,
            Ok(()) => return Ok(()),
            // Of the earlier change. A login shows which password works.
            Err(_) if is_again && answer == ChangeAnswer::No => {
                return Err(ChangeFailure::LogInFirst { has_sent: true });
            }
            // Somebody else took this process for dead and sent the change again, which the
            // server may have executed before.
            Err(error) if answer == ChangeAnswer::No && is_own == Some(false) => {
                return Err(Error::from(ProviderError::uncertain(error)).into());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Asks the server to change the password.
async fn ask(
    runner: &Runner,
    job: &Job,
    context: PasswordContext,
    token: Option<&Token>,
    deadline: Instant,
) -> Result<(), ProviderError> {
    let mut secrets = token.map(Token::secrets).unwrap_or_default();
    secrets.extend(context.current_password().cloned());
    secrets.push(context.new_password().clone());
    let context = match token {
        Some(token) => context.with_token(token.clone()),
        None => context,
    };
    let call = || runner.provider.change_password(context);
    // Not an error yet: its kind decides which password stays in use.
    let then = |changed: Result<_, ProviderError>| {
        Ok::<_, Error>(changed.map_err(|error| error.without(&secrets)))
    };
    match guarded(job, deadline, call, then).await {
        Ok(changed) => changed,
        // The request may have been sent.
        Err(lost) => Err(ProviderError::uncertain(lost)),
    }
}

/// Returns what a failed password change says about the passwords.
fn answer_of(error: &ProviderError) -> ChangeAnswer {
    match error.kind() {
        ProviderErrorKind::NotSent | ProviderErrorKind::Unsupported => ChangeAnswer::NotSent,
        ProviderErrorKind::Uncertain | ProviderErrorKind::Protocol => ChangeAnswer::Lost,
        ProviderErrorKind::Unavailable if error.may_have_happened() => ChangeAnswer::Lost,
        ProviderErrorKind::Unavailable
        | ProviderErrorKind::Refused
        | ProviderErrorKind::PasswordExpired
        | ProviderErrorKind::Locked
        | ProviderErrorKind::InteractionRequired
        | ProviderErrorKind::TokenRejected => ChangeAnswer::No,
    }
}

/// Returns an error if a changed password would be forgotten, or could not be stored.
fn may_keep(account: &OpenAccount<'_>, change: &PasswordChange) -> Result<(), ProviderError> {
    match change.storage() {
        Storage::Required if !account.keeps_passwords() => {
            return Err(SourceError::read_only().into());
        }
        Storage::Required | Storage::InMemoryIfReadOnly => {}
    }
    match change.new_password().expose_secret().is_empty() {
        true => Err(ProviderError::denied_unsent("the new password is empty")),
        false => Ok(()),
    }
}

fn busy(until: Duration) -> Error {
    ProviderError::withheld("another password change of this account is in progress")
        .with_retry_after(until)
        .into()
}

fn no_room() -> Error {
    let why = "the account keeps three passwords beside the current one, denied ones among \
        them, until the retention is over and a login is accepted \
        (`SessionBuilder::password_retention`)";
    ProviderError::withheld(why).into()
}
