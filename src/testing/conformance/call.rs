//! Calls of a provider, with a timeout, and without panics and secrets.

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;
use std::time::Duration;

use secrecy::SecretString;
use tokio::time::timeout;

use crate::error::ErrorChain;
use crate::provider::{
    CredentialProvider, LoginContext, LogoutContext, LogoutReason, ProviderError, ProviderErrorKind,
};
use crate::token::Token;

/// How long a call of a provider may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How a call failed.
pub(super) enum Failure {
    Error(ProviderError),
    Panicked,
    Silent,
}

pub(super) async fn log_in(
    provider: &impl CredentialProvider,
    context: LoginContext,
) -> Result<Token, Failure> {
    let secrets = secrets_of(&context);
    // In a block of its own, since a method may panic before there is a future.
    let login = called(async { provider.login(context).await }).await;
    login.map_err(|failure| failure.without(&secrets))
}

pub(super) async fn log_out(
    provider: &impl CredentialProvider,
    token: Token,
) -> Result<(), Failure> {
    let secrets = token.secrets();
    let context = LogoutContext::new(token, LogoutReason::LoggedOut);
    let logout = called(async { provider.logout(context).await }).await;
    logout.map_err(|failure| failure.without(&secrets))
}

/// Returns the secrets that a server may echo in its answer to a login.
pub(super) fn secrets_of(context: &LoginContext) -> Vec<SecretString> {
    let mut secrets = context.previous().map(Token::secrets).unwrap_or_default();
    secrets.extend(context.credentials().map(|sent| sent.password().clone()));
    secrets
}

/// Waits for a call. A panic and a call that does not end are failures.
pub(super) async fn called<T>(
    call: impl Future<Output = Result<T, ProviderError>> + Send,
) -> Result<T, Failure> {
    let mut call = Box::pin(call);
    let answered = poll_fn(|cx| {
        match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx))) {
            Ok(poll) => poll.map(|answer| answer.map_err(Failure::Error)),
            // A call that panicked is not polled again.
            Err(_) => Poll::Ready(Err(Failure::Panicked)),
        }
    });
    let answer = timeout(CALL_TIMEOUT, answered).await;
    match catch_unwind(AssertUnwindSafe(|| drop(call))) {
        Ok(()) => answer.unwrap_or(Err(Failure::Silent)),
        Err(_) => Err(Failure::Panicked),
    }
}

impl Failure {
    /// Removes the `secrets` that an error quotes: a report is printed.
    pub(super) fn without(self, secrets: &[SecretString]) -> Self {
        match self {
            Failure::Error(error) => Failure::Error(error.without(secrets)),
            Failure::Panicked | Failure::Silent => self,
        }
    }

    pub(super) fn is(&self, kind: ProviderErrorKind) -> bool {
        match self {
            Failure::Error(error) => error.kind() == kind,
            Failure::Panicked | Failure::Silent => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Error(error) => {
                write!(f, "it failed as {:?} ({})", error.kind(), ErrorChain(error))
            }
            Failure::Panicked => f.write_str("it panicked"),
            Failure::Silent => write!(f, "it was not answered within {CALL_TIMEOUT:?}"),
        }
    }
}
