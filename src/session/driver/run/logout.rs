//! The logouts of tokens.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secrecy::SecretString;

use super::login::refused_before;
use super::runner::{Runner, guarded};
use crate::credentials::Credentials;
use crate::credentials::shared_account::CurrentCredentials;
use crate::error::{Error, ErrorKind};
use crate::provider::{LogoutContext, LogoutReason, ProviderError, ProviderErrorKind};
use crate::session::driver::task::Task;
use crate::session::rules::{LogoutOutcome, TokenEnd};
use crate::token::Token;

/// Logs out each of `tokens`. Returns which of them have ended, and the first error.
pub(super) async fn logout_all(
    runner: &Arc<Runner>,
    task: &Task,
    tokens: Vec<Token>,
    reason: LogoutReason,
) -> (Vec<(u64, TokenEnd)>, Result<(), Error>) {
    let (mut ended, mut first) = (Vec::new(), Ok(()));
    for token in tokens {
        let generation = token.generation();
        let outcome = logout(runner, task, token, reason).await;
        if let Some(end) = outcome_of(&outcome).end() {
            ended.push((generation, end));
        }
        first = first.and(outcome.map(drop));
    }
    (ended, first)
}

/// Logs `token` out. A dead token counts as logged out.
pub(super) async fn logout(
    runner: &Arc<Runner>,
    task: &Task,
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
    guarded(task, runner.deadline(), call, then).await
}

/// The passwords that a logout was given, to redact them from its error.
#[derive(Default)]
struct SentPasswords(Mutex<Vec<SecretString>>);

impl SentPasswords {
    fn push(&self, password: &SecretString) {
        self.lock().push(password.clone());
    }

    fn take(&self) -> Vec<SecretString> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SecretString>> {
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
pub(super) fn outcome_of(outcome: &Result<LogoutOutcome, Error>) -> LogoutOutcome {
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
