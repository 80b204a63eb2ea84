//! A password change, and which password is in force after it.

use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::runner::{Runner, guarded, open, store};
use crate::credentials::SourceError;
use crate::credentials::account::{ChangeAnswer, Password};
use crate::credentials::shared_account::{ChangeStep, OpenAccount};
use crate::error::{Error, ErrorKind};
use crate::provider::{PasswordChange, PasswordContext, ProviderError, ProviderErrorKind, Storage};
use crate::session::driver::nesting;
use crate::session::driver::task::Task;
use crate::token::Token;

/// Why a password was not changed.
#[derive(Debug)]
pub(crate) enum ChangeFailure {
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

/// Returns the error of a password change whose task was dropped after its
/// provider was called, or before.
pub(crate) fn unfinished_change(error: Error, sent: Option<Instant>) -> Error {
    match sent {
        Some(_) => ProviderError::uncertain(error).into(),
        None => error,
    }
}

/// Changes the password. Without a source the provider knows the current one.
pub(super) async fn change_password(
    runner: &Runner,
    task: &Task,
    token: Option<Token>,
    change: PasswordChange,
) -> Result<(), ChangeFailure> {
    let Some(source) = runner.provider.source() else {
        task.on_send();
        let context = PasswordContext::of(&change);
        ask(runner, task, context, token.as_ref(), runner.deadline()).await?;
        return Ok(());
    };
    let mut account = open(runner, task, source).await?;
    may_keep(&account, &change)?;
    if nesting::is_nested(account.identity()) {
        return Err(Error::new(ErrorKind::Recursive).into());
    }
    let new = Password::from(change.new_password().clone());
    let mut has_sent = false;
    loop {
        let step = account.begin_change(&new);
        let then = |step: Result<_, _>| step.map_err(ProviderError::from);
        let step = guarded(task, runner.store_deadline(), || step, then).await?;
        let (mut claimed, is_again) = match step {
            ChangeStep::Ask(claimed) => (claimed, false),
            ChangeStep::AskAgain(claimed) => (claimed, true),
            ChangeStep::Wait(blocker) => {
                task.while_wanted(blocker.wait()).await?;
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
        task.is_wanted()?;
        task.on_send();
        claimed.on_send();
        let asked = ask(runner, task, context, token.as_ref(), claimed.deadline());
        let outcome = nesting::scope(account.identity(), asked).await;
        let answer = match &outcome {
            Ok(()) => ChangeAnswer::Yes,
            Err(error) => answer_of(error),
        };
        if answer == ChangeAnswer::Yes {
            account.on_success();
        }
        let is_own = store(runner, task, account.land_change(claimed, answer)).await;
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
    task: &Task,
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
    match guarded(task, deadline, call, then).await {
        Ok(changed) => changed,
        // The request may have been sent.
        Err(error) => Err(ProviderError::uncertain(error)),
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
