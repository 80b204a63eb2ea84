//! Logins: claims one in the record, and stores its verdict.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::time::Instant;

use super::open::{MAX_CONFLICTS, OpenAccount, Saved, secrets_of, timed_out, too_many_conflicts};
use super::shared::{Blocker, SharedAccount, random};
use crate::credentials::account::{
    Event, Id, Login, Password, SentLogin, Verdict, WallTime, Wanted,
};
use crate::credentials::clock::wall_time;
use crate::credentials::error::SourceError;
use crate::credentials::value::Credentials;
use crate::error::Error;

/// The answer to a caller that needs a login.
pub(crate) enum LoginStep {
    /// Send it.
    Send(ClaimedLogin),
    /// Wait for the login or the change of another, then decide anew.
    Wait(Blocker),
    /// Decide anew after this delay: more logins might lock the account.
    Later(Duration),
    /// No password may be sent. The last refusal, if this process received it.
    Stopped(Option<Error>),
}

/// A login that is claimed. If it is dropped, the account learns how far it came.
pub(crate) struct ClaimedLogin {
    shared: Arc<SharedAccount>,
    sent: SentLogin<Password>,
    username: String,
    passwords: Vec<SecretString>,
    is_unresolved: bool,
    has_tries: bool,
    deadline: Instant,
    /// The verdict to report if this is dropped, and its time. `None` while the server
    /// works on the login: its outcome is not known, so the claim lasts until its end.
    if_dropped: Option<(Verdict, WallTime)>,
}

impl OpenAccount<'_> {
    /// Decides a login, and claims it if it is to be sent.
    ///
    /// # Errors
    ///
    /// If the store fails. Nothing may be sent then.
    pub(crate) async fn begin_login(&mut self, wanted: Wanted) -> Result<LoginStep, SourceError> {
        for _ in 0..MAX_CONFLICTS {
            // Read before the record is loaded: no end is missed in between.
            let ended = self.shared.known().ended;
            let loaded = self.load().await?;
            let now = loaded.now;
            if let Some(until) = loaded.record.change_of(self.shared.owner, now) {
                return Ok(LoginStep::Wait(self.blocker(until, now, ended)));
            }
            let decided = self
                .machine
                .decide_login(&loaded.record, wanted, Id(random()), now);
            let (record, sent) = match decided {
                Login::Send { record, sent } => (record, sent),
                Login::Wait { until } => {
                    return Ok(LoginStep::Wait(self.blocker(until, now, ended)));
                }
                Login::Later { at } => return Ok(LoginStep::Later(at.since(now))),
                Login::Stopped { .. } => {
                    return Ok(LoginStep::Stopped(self.shared.known().refusal.clone()));
                }
            };
            if let Some(error) = self.needs_action(&sent, wanted) {
                return Ok(LoginStep::Stopped(Some(error)));
            }
            let length = sent.until().since(now);
            let mut claimed = ClaimedLogin {
                shared: self.shared.clone(),
                username: record.username().to_owned(),
                passwords: secrets_of(&record),
                is_unresolved: record.is_unresolved(),
                has_tries: record.has_tries(),
                deadline: Instant::now() + length,
                sent,
                // Also if storing it fails: it may be stored nevertheless.
                if_dropped: Some((Verdict::NotSent, now)),
            };
            let before = loaded.record.clone();
            match self.save(record, loaded).await {
                Ok(Saved::Yes) => {}
                Ok(Saved::Conflict) => {
                    claimed.done();
                    continue;
                }
                Err(error) => {
                    let unsaved = &mut self.shared.known().unsaved;
                    if !unsaved.may_send(&before, &mut claimed.sent, now) {
                        return Err(error);
                    }
                    // Nobody relies on its end.
                    claimed.deadline = Instant::now() + length;
                }
            }
            // The store took so long that the claim is over.
            if Instant::now() >= claimed.deadline {
                return Err(timed_out());
            }
            return Ok(LoginStep::Send(claimed));
        }
        Err(too_many_conflicts())
    }

    fn needs_action(&self, sent: &SentLogin<Password>, wanted: Wanted) -> Option<Error> {
        let known = self.shared.known();
        let (password, error) = known.needs_action.as_ref()?;
        (wanted == Wanted::Usual && password == sent.password()).then(|| error.clone())
    }

    /// Stores the verdict on a login. If that fails, the verdict is kept in memory
    /// and stored with the next record.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(crate) async fn land_login(
        &mut self,
        mut login: ClaimedLogin,
        verdict: Verdict,
    ) -> Result<(), SourceError> {
        let at = wall_time();
        login.if_dropped = Some((verdict, at));
        for _ in 0..MAX_CONFLICTS {
            let loaded = self.load().await?;
            let landed = self
                .machine
                .landed(&loaded.record, &login.sent, verdict, at, loaded.now);
            let saved = match landed {
                Some(record) if record != loaded.record => self.save(record, loaded).await?,
                Some(_) | None => {
                    if verdict == Verdict::Accepted {
                        self.shared.known().unsaved.accepted();
                    }
                    Saved::Yes
                }
            };
            if let Saved::Yes = saved {
                login.done();
                return Ok(());
            }
        }
        Err(too_many_conflicts())
    }

    /// The server refused the password of a login with `error`.
    pub(crate) fn on_refused(&self, error: Error) {
        let _former = self.shared.known().refusal.replace(error);
    }

    /// The server accepted a password, and a login or a change has succeeded.
    pub(crate) fn on_success(&self) {
        let _former = self.shared.known().take_errors();
    }

    /// The server accepted the password of `login`, and answered with `error`.
    pub(crate) fn on_needs_action(&self, login: &ClaimedLogin, error: Error) {
        let mut known = self.shared.known();
        let _former = known.take_errors();
        known.needs_action = Some((login.sent.password().clone(), error));
        drop(known);
    }
}

impl ClaimedLogin {
    /// Returns the credentials to send.
    pub(crate) fn credentials(&self) -> Credentials {
        Credentials::new(self.username.clone(), self.sent.password().secret().clone())
    }

    /// Returns all passwords of the account, for redaction.
    pub(crate) fn passwords(&self) -> &[SecretString] {
        &self.passwords
    }

    /// Returns whether only a login with a password shows which one works.
    pub(crate) fn is_unresolved(&self) -> bool {
        self.is_unresolved
    }

    /// Returns whether logins were not accepted since the last accepted one.
    pub(crate) fn has_tries(&self) -> bool {
        self.has_tries
    }

    /// Returns when the caller must give up.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The password is about to be sent.
    pub(crate) fn on_send(&mut self) {
        self.if_dropped = None;
    }

    fn done(mut self) {
        self.if_dropped = None;
        self.shared.ended();
    }
}

impl Drop for ClaimedLogin {
    fn drop(&mut self) {
        if let Some((verdict, at)) = self.if_dropped {
            let event = Event::Login(self.sent.clone(), verdict, at);
            self.shared.keep(event);
        }
    }
}
