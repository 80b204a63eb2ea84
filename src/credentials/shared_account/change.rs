//! Password changes: claims one in the record, and stores its answer.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::time::Instant;

use super::open::{MAX_CONFLICTS, OpenAccount, Saved, timed_out, too_many_conflicts};
use super::shared::{Blocker, SharedAccount, random};
use crate::credentials::account::{Asked, Begin, ChangeAnswer, Event, Id, Password};
use crate::credentials::error::SourceError;
use crate::credentials::value::Credentials;

/// The answer to a caller that wants to change the password.
pub(crate) enum ChangeStep {
    /// Ask the server to change to this password.
    Ask(ClaimedChange),
    /// Ask the server to change to the password of an earlier change first, which may
    /// still take effect.
    AskAgain(ClaimedChange),
    /// Wait for the login of another, then decide anew.
    Wait(Blocker),
    /// A login must show first which password works.
    LogInFirst,
    /// Another change is in progress, at most for so long.
    Busy(Duration),
    /// The password is the current one already.
    AlreadyCurrent,
    /// The record must keep all its passwords.
    NoRoom,
}

/// A password change that is claimed. If it is dropped, the account learns how far
/// it came.
pub(crate) struct ClaimedChange {
    shared: Arc<SharedAccount>,
    asked: Asked<Password>,
    username: String,
    deadline: Instant,
    if_dropped: Option<ChangeAnswer>,
}

impl OpenAccount<'_> {
    /// Decides a password change, and claims it if the server is to be asked.
    ///
    /// # Errors
    ///
    /// If the store fails. Nothing may be sent then.
    pub(crate) async fn begin_change(&mut self, new: &Password) -> Result<ChangeStep, SourceError> {
        for _ in 0..MAX_CONFLICTS {
            let ended = self.shared.known().ended;
            let loaded = self.load().await?;
            let mut is_again = false;
            let mut begin =
                self.machine
                    .begin_change(&loaded.record, new, Id(random()), loaded.now);
            if let Begin::SendAgain(other) = begin {
                is_again = true;
                begin = self
                    .machine
                    .begin_change(&loaded.record, &other, Id(random()), loaded.now);
            }
            let (record, asked) = match begin {
                Begin::Ask { record, asked } => (record, asked),
                Begin::Busy { until } => return Ok(ChangeStep::Busy(until.since(loaded.now))),
                Begin::Wait { until } => {
                    return Ok(ChangeStep::Wait(self.blocker(until, loaded.now, ended)));
                }
                // Of two open passwords, each would have to be sent first.
                Begin::LoginFirst | Begin::SendAgain(_) => return Ok(ChangeStep::LogInFirst),
                Begin::AlreadyCurrent => return Ok(ChangeStep::AlreadyCurrent),
                Begin::NoRoom => return Ok(ChangeStep::NoRoom),
            };
            let claimed = ClaimedChange {
                shared: self.shared.clone(),
                username: record.username().to_owned(),
                deadline: Instant::now() + asked.until().since(loaded.now),
                asked,
                if_dropped: Some(ChangeAnswer::NotSent),
            };
            let saved = self.save(record, loaded).await?;
            // The store took so long that the claim is over.
            if Instant::now() >= claimed.deadline {
                return Err(timed_out());
            }
            match saved {
                Saved::Yes if is_again => return Ok(ChangeStep::AskAgain(claimed)),
                Saved::Yes => return Ok(ChangeStep::Ask(claimed)),
                Saved::Conflict => claimed.done(),
            }
        }
        Err(too_many_conflicts())
    }

    /// Stores the answer to a password change. If that fails, the answer is kept in
    /// memory and stored with the next record. Returns whether the change was its own
    /// until now: others give one up that takes too long, and send it again.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(crate) async fn land_change(
        &mut self,
        mut change: ClaimedChange,
        answer: ChangeAnswer,
    ) -> Result<bool, SourceError> {
        change.if_dropped = Some(answer);
        for _ in 0..MAX_CONFLICTS {
            let loaded = self.load().await?;
            let is_own = change.asked.is_change_of(&loaded.record);
            let next =
                self.machine
                    .change_answered(&loaded.record, &change.asked, answer, loaded.now);
            let saved = match next {
                Some(record) => self.save(record, loaded).await?,
                None => Saved::Yes,
            };
            if let Saved::Yes = saved {
                change.done();
                return Ok(is_own);
            }
        }
        Err(too_many_conflicts())
    }
}

impl ClaimedChange {
    /// Returns the username and the current password.
    pub(crate) fn credentials(&self) -> Credentials {
        Credentials::new(self.username.clone(), self.asked.current().secret().clone())
    }

    /// Returns the new password.
    pub(crate) fn new_password(&self) -> &SecretString {
        self.asked.new_password().secret()
    }

    /// Returns when the caller must give up.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The server is about to be asked. Afterwards only a login shows which password is
    /// in force.
    pub(crate) fn on_send(&mut self) {
        self.if_dropped = Some(ChangeAnswer::Lost);
        let _former = self.shared.known().needs_action.take();
    }

    fn done(mut self) {
        self.if_dropped = None;
        self.shared.ended();
    }
}

impl Drop for ClaimedChange {
    fn drop(&mut self) {
        if let Some(answer) = self.if_dropped {
            self.shared.keep(Event::Change(self.asked.clone(), answer));
        }
    }
}
