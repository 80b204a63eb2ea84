//! Changes the user's password.

use std::future::poll_fn;

use super::Session;
use super::driver::{Wait, WaitResult};
use super::rules::Start;
use crate::error::{Error, ErrorKind};
use crate::provider::PasswordChange;
use crate::reauth::ReauthFailure;
use crate::token::Token;

impl Session {
    /// Changes the user's password.
    ///
    /// No login runs in the meantime. Requests with a live token are not delayed.
    /// The session uses the new password from then on, or the old one if the
    /// change fails. If the answer is lost, the next login tries the new one and
    /// then the old one, once each.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Unsupported`] if the provider cannot change passwords, or if
    ///   the source of the credentials cannot be written. The server was not asked
    ///   then ([`PasswordChange::allow_unstored`] permits a read-only source).
    /// - [`ErrorKind::Refused`] if the server denies the change: the old password
    ///   stays in use.
    /// - [`ErrorKind::Uncertain`] if the answer was lost.
    /// - [`ErrorKind::LoggedOut`] if the session is logged out.
    ///
    /// # Cancellation
    ///
    /// A running change continues without the caller. A caller that still waits
    /// for a token, or for another job, has changed nothing.
    pub async fn change_password(&self, change: PasswordChange) -> Result<(), Error> {
        // The caller's own job would hold the credentials.
        self.driver.not_nested()?;
        let mut refreshed = false;
        let mut resolved = false;
        loop {
            let token = self.token().await?;
            match self.driver.runner().is_uncertain() {
                Some(false) => {}
                // Only a login shows which password the server takes, and only if
                // its provider sends one.
                Some(true) if resolved => return Err(Error::new(ErrorKind::Uncertain)),
                Some(true) => {
                    self.renew().await?;
                    resolved = true;
                    continue;
                }
                None => {
                    let (_, wait) = self.driver.step(|state, _| state.rules.hold_up());
                    self.wait_for_another(wait).await?;
                    continue;
                }
            }
            let result = match self.start_change(&change) {
                (Start::Started, Some(wait)) => result_of(wait).await,
                (Start::Busy | Start::Join | Start::Started, wait) => {
                    self.wait_for_another(wait).await?;
                    continue;
                }
                (Start::NeedsToken, _) => continue,
                (Start::Fail(error), _) => return Err(error),
            };
            match result {
                Err(error) if error.kind() == ErrorKind::TokenRejected && !refreshed => {
                    refreshed = true;
                    self.refresh_for_change(&token, error).await?;
                }
                result => return result,
            }
        }
    }

    fn start_change(&self, change: &PasswordChange) -> (Start, Option<Wait>) {
        let now = self.driver.now();
        self.driver.step(|state, _| {
            let start = state.rules.change_password(now);
            if let Start::Started = start {
                state.change = Some(Box::new(change.clone()));
            }
            start
        })
    }

    /// Gets a new token after the server rejected `token` with `error`.
    async fn refresh_for_change(&self, token: &Token, error: Error) -> Result<(), Error> {
        let refreshed = match self.driver.rejected(token.generation(), None, None) {
            Ok(mut refresh) => poll_fn(|cx| refresh.poll(&self.driver, cx)).await,
            Err(failure) => Err(failure),
        };
        match refreshed {
            Ok(()) => Ok(()),
            Err(ReauthFailure::RenewalFailed(failed)) => Err(failed),
            Err(ReauthFailure::LoggedOut) => Err(Error::new(ErrorKind::LoggedOut)),
            Err(
                ReauthFailure::NotReplayable
                | ReauthFailure::Unsure
                | ReauthFailure::CoolingDown
                | ReauthFailure::StillRejected,
            ) => Err(error),
        }
    }
}

/// Waits for the result of a password change. A logout in the meantime does not
/// undo what the server has changed.
async fn result_of(mut wait: Wait) -> Result<(), Error> {
    loop {
        let again = wait.again();
        match std::mem::replace(&mut wait, again).await {
            Some(WaitResult::PasswordChange(result)) => return result,
            Some(
                WaitResult::Refreshed
                | WaitResult::Unchanged
                | WaitResult::Failed(_)
                | WaitResult::LoggedOut(_)
                | WaitResult::Retired,
            )
            | None => {}
        }
    }
}
