//! A login: which passwords it sends, and what each outcome says about them.

use std::time::Duration;

use super::runner::{Runner, guarded, open, store};
use crate::credentials::Source;
use crate::credentials::account::{Verdict, Wanted};
use crate::credentials::shared_account::LoginStep;
use crate::error::{Error, ErrorKind};
use crate::provider::{LoginContext, ProviderError, ProviderErrorKind, Reason};
use crate::session::driver::nesting;
use crate::session::driver::task::Task;
use crate::token::Token;

/// How soon it is checked whether somebody has corrected a password whose next login is
/// delayed.
const RECHECK_EVERY: Duration = Duration::from_secs(10);

/// Logs in. Without a source the provider logs in by itself.
pub(super) async fn login(
    runner: &Runner,
    task: &Task,
    context: LoginContext,
    previous: Option<Token>,
) -> Result<Token, Error> {
    let Some(source) = runner.provider.source() else {
        let secrets = previous.as_ref().map(Token::secrets).unwrap_or_default();
        let context = replacing(context, previous.clone());
        task.on_send();
        let call = || runner.provider.login(context);
        let then = |login: Result<Token, ProviderError>| {
            let token = login.map_err(|error| error.without(&secrets))?;
            Ok::<_, ProviderError>(token.with_data_of(previous.as_ref()))
        };
        return guarded(task, runner.deadline(), call, then).await;
    };
    login_with_password(runner, task, source, context, previous).await
}

/// Logs in with the passwords of the account, one after the other, until one is
/// accepted or none may be sent.
async fn login_with_password(
    runner: &Runner,
    task: &Task,
    source: &Source,
    context: LoginContext,
    previous: Option<Token>,
) -> Result<Token, Error> {
    let mut wanted = match context.is_forced() {
        true => Wanted::Forced,
        false => Wanted::Usual,
    };
    let mut account = open(runner, task, source).await?;
    let mut has_sent = false;
    if nesting::is_nested(account.identity()) {
        return Err(Error::new(ErrorKind::Recursive));
    }
    loop {
        task.is_wanted()?;
        let step = account.begin_login(wanted);
        let then = |step: Result<_, _>| step.map_err(ProviderError::from);
        let mut login = match guarded(task, runner.store_deadline(), || step, then).await? {
            LoginStep::Send(login) => login,
            LoginStep::Wait(blocker) => {
                // Not against the login timeout, which is for this session's login.
                task.while_wanted(blocker.wait()).await?;
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
        task.is_wanted()?;
        has_sent = true;
        // A lifetime counts from the login that yielded the token.
        task.on_send();
        login.on_send();
        let call = || runner.provider.login(context);
        // Not an error yet: its kind is the verdict on the password.
        let then = |login: Result<_, ProviderError>| {
            Ok::<_, Error>(login.map_err(|error| error.without(&secrets)))
        };
        let call = guarded(task, login.deadline(), call, then);
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
            Err(error) => Err(error),
        };
        match (&outcome, verdict) {
            (Ok(_), Verdict::Accepted) => account.on_success(),
            (Err(error), Verdict::Accepted) => account.on_needs_action(&login, error.clone()),
            (Err(error), Verdict::Refused) => account.on_refused(error.clone()),
            (_, Verdict::Unknown | Verdict::NotSent | Verdict::Locked)
            | (Ok(_), Verdict::Refused) => {}
        }
        store(runner, task, account.land_login(login, verdict)).await;
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
pub(super) fn refused_before() -> Error {
    let why = "the server refused the password before this process started: change the password \
        in the credential source, or call `Session::login` to send it once more";
    ProviderError::refused(why).into()
}
