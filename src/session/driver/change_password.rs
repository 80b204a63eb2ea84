//! A password change: the jobs that it takes, one after the other.

use std::future::poll_fn;
use std::sync::Arc;

use super::Driver;
use super::task::{Wait, WaitResult};
use crate::error::{Error, ErrorKind, Operation};
use crate::provider::PasswordChange;
use crate::reauth::ReauthFailure;
use crate::session::rules::JobStart;

/// How many earlier changes may have to be resolved before a password change.
const MOST_EARLIER: u32 = 3;

impl Driver {
    /// See [`Session::change_password`](crate::Session::change_password).
    pub(in crate::session) async fn change_password(
        self: &Arc<Self>,
        change: PasswordChange,
    ) -> Result<(), Error> {
        // The caller's own job would wait for this one.
        self.not_nested()?;
        let mut refreshed = false;
        let mut log_in_first = LogInFirst::default();
        loop {
            // Not a use of it: the change may fail before the server is asked.
            let generation = self.usable().map(|lease| lease.token().generation());
            let result = match self.start_change(&change) {
                (JobStart::Started, Some(wait)) => match result_of(wait).await {
                    ChangeResult::Ended(result) => result,
                    ChangeResult::LogInFirst { has_sent } => {
                        log_in_first.again(has_sent)?;
                        self.renew().await?;
                        continue;
                    }
                },
                (JobStart::Busy | JobStart::Join | JobStart::Started, wait) => {
                    self.wait_for_another(wait).await?;
                    continue;
                }
                (JobStart::NeedsToken, _) => {
                    match self.token().await {
                        Ok(_) => {}
                        Err(error) if error.kind() == ErrorKind::PasswordExpired => {}
                        Err(error) => return Err(error),
                    }
                    continue;
                }
                (JobStart::Fail(error), _) => return Err(error),
            };
            match (result, generation) {
                (Err(error), Some(generation))
                    if error.kind() == ErrorKind::TokenRejected && !refreshed =>
                {
                    refreshed = true;
                    self.refresh_for_change(generation, error).await?;
                }
                (result, _) => return result,
            }
        }
    }

    fn start_change(self: &Arc<Self>, change: &PasswordChange) -> (JobStart, Option<Wait>) {
        let now = self.now();
        self.step(|state, _| {
            let start = state.rules.change_password(now);
            if let JobStart::Started = start {
                state.change = Some(Box::new(change.clone()));
            }
            start
        })
    }

    /// Gets a new token after the server rejected that of `generation` with `error`.
    async fn refresh_for_change(
        self: &Arc<Self>,
        generation: u64,
        error: Error,
    ) -> Result<(), Error> {
        let refreshed = match self.rejected(generation, None, None) {
            Ok(mut refresh) => poll_fn(|cx| refresh.poll(self, cx)).await,
            Err(failure) => Err(failure),
        };
        match refreshed {
            // Without a token, which has expired since, nothing is to be refreshed.
            Ok(()) | Err(ReauthFailure::NotReplayable) => Ok(()),
            Err(ReauthFailure::RenewalFailed(failed)) => Err(failed),
            Err(ReauthFailure::LoggedOut) => Err(Error::new(ErrorKind::LoggedOut)),
            Err(
                ReauthFailure::Unsure | ReauthFailure::CoolingDown | ReauthFailure::StillRejected,
            ) => Err(error),
        }
    }
}

/// How often a login came before a password change.
#[derive(Default)]
struct LogInFirst {
    /// Since an earlier change was sent again.
    logins: u32,
    earlier: u32,
}

impl LogInFirst {
    /// Returns an error if one more login would not help.
    fn again(&mut self, has_sent: bool) -> Result<(), Error> {
        if has_sent {
            self.earlier += 1;
            self.logins = 0;
        }
        self.logins += 1;
        // A provider that sends no password cannot show which one works.
        match self.logins > 1 || self.earlier > MOST_EARLIER {
            true => Err(Error::new(ErrorKind::Uncertain).during(Operation::PasswordChange)),
            false => Ok(()),
        }
    }
}

/// How the job of a password change ended.
enum ChangeResult {
    Ended(Result<(), Error>),
    LogInFirst { has_sent: bool },
}

/// Waits for the end of a password change. A logout in the meantime does not undo what
/// the server has changed.
async fn result_of(mut wait: Wait) -> ChangeResult {
    loop {
        let again = wait.again();
        match std::mem::replace(&mut wait, again).await {
            Some(WaitResult::PasswordChange(result)) => return ChangeResult::Ended(result),
            Some(WaitResult::LogInFirst { has_sent }) => {
                return ChangeResult::LogInFirst { has_sent };
            }
            Some(
                WaitResult::Refreshed
                | WaitResult::Unchanged
                | WaitResult::Failed(_)
                | WaitResult::LoggedOut(_)
                | WaitResult::BackgroundLogout(_),
            )
            | None => {}
        }
    }
}
