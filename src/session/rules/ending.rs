//! Logout, close, password change, and the logouts of replaced tokens.

use super::answer::{JobKind, JobStart};
use super::current::{CurrentToken, TokenState};
use super::event::{Event, TokenEnd};
use super::replaced::{LogoutOutcome, RejectedBy, TokenRef};
use super::time::Timestamp;
use super::{Phase, Rules};
use crate::error::{Error, ErrorKind};
use crate::provider::{LogoutEnds, Reason};

/// How many tokens are kept whose logout failed and may be tried again.
const MAX_ENDING: usize = 64;

impl Rules {
    /// A caller asks for a password change.
    pub(crate) fn change_password(&mut self, now: Timestamp) -> JobStart {
        if self.closed || !self.is_open() {
            return JobStart::Fail(self.session_over());
        }
        if self.job.is_some() {
            return JobStart::Busy;
        }
        self.expire(now);
        // After an expired password there is no token: the provider may change the
        // password without one.
        let has_expired = self
            .last_error()
            .is_some_and(|error| error.kind() == ErrorKind::PasswordExpired);
        if !self.is_usable() && !has_expired {
            return JobStart::NeedsToken;
        }
        self.start(JobKind::ChangePassword, now);
        JobStart::Started
    }

    /// The running password change has ended.
    pub(crate) fn password_change_landed(&mut self, outcome: Result<(), Error>, now: Timestamp) {
        self.replaced.change_landed();
        let (_, elapsed) = self.finish_job(now);
        // Not a use of the token if the server was not asked. A candidate that was
        // published meanwhile counts as used too.
        let is_unasked = matches!(&outcome, Err(error) if error.kind() == ErrorKind::Unsupported);
        if let Some(current) = self.current.as_mut().filter(|_| !is_unasked) {
            current.lifespan.used();
        }
        let has_expired = self
            .last_error()
            .is_some_and(|error| error.kind() == ErrorKind::PasswordExpired);
        let may_log_in = match &outcome {
            Ok(()) => true,
            // With the new password, which was not refused yet.
            Err(error) if error.kind() == ErrorKind::Uncertain => true,
            // Only a login shows which password is in force now.
            Err(error) => has_expired && error.kind() != ErrorKind::Unsupported,
        };
        if may_log_in {
            self.login_block = None;
            self.backoff.reset();
        }
        self.events.push(match outcome {
            Ok(()) => Event::PasswordChanged { elapsed },
            Err(error) => Event::PasswordChangeFailed { error, elapsed },
        });
        self.resume(now);
    }

    /// The running password change has sent nothing: a login must come first.
    pub(crate) fn password_change_put_off(&mut self, now: Timestamp) {
        self.replaced.change_landed();
        self.finish_job(now);
        self.resume(now);
    }

    /// A caller asks for a logout. The driver keeps the current token and those
    /// that it replaced until their logout has ended.
    pub(crate) fn logout(&mut self, now: Timestamp) {
        if self.is_open() {
            self.phase = Phase::LoggedOut(Ok(()));
            self.events.push(Event::LoggedOut);
        }
        self.logouts += 1;
        self.next_login_reason = Reason::Initial;
        if let Some(current) = self.current.take() {
            self.end_at_logout(current.to_ref());
        }
        self.end_candidate();
        self.ending.extend(self.replaced.end());
        self.end_leftovers(now);
    }

    /// A caller asks for the end of the session, once running requests have ended.
    pub(crate) fn close(&mut self) {
        if !self.closed {
            self.closed = true;
            self.events.push(Event::Closed);
        }
        // No new request will prove it.
        self.end_candidate();
    }

    /// Returns the result of the last logout, or `None` while its job, or the
    /// job that it waits for, is running.
    pub(crate) fn logout_result(&self) -> Option<Result<(), Error>> {
        match (&self.phase, self.job) {
            // A later login waited for the logout's end.
            (Phase::Open, _) => Some(Ok(())),
            (Phase::LoggedOut(_), Some(_)) => None,
            (Phase::LoggedOut(outcome), None) => Some(outcome.clone().map_err(|error| *error)),
        }
    }

    /// The running logout has ended, and these tokens with it. The others may be tried
    /// again.
    pub(crate) fn logout_landed(&mut self, ended: &[(u64, TokenEnd)], outcome: Result<(), Error>) {
        self.job = None;
        for (generation, end) in ended {
            let mut ending = self.ending.iter();
            if let Some(place) = ending.position(|token| token.generation == *generation) {
                self.ending.remove(place);
                self.ended(*generation, *end);
            }
        }
        while self.ending.len() > MAX_ENDING {
            let oldest = self.ending.remove(0);
            self.ended(oldest.generation, TokenEnd::Abandoned);
        }
        if let Phase::LoggedOut(last) = &mut self.phase {
            *last = outcome.map_err(Box::new);
        }
    }

    /// The running logout of a replaced token has ended.
    pub(crate) fn background_logout_landed(&mut self, logout: LogoutOutcome, now: Timestamp) {
        let mut ending = self.ending.iter();
        let ended = match ending.position(|token| token.logging_out) {
            // The session was logged out meanwhile.
            Some(place) => match logout {
                LogoutOutcome::Done | LogoutOutcome::Nothing => {
                    let token = self.ending.remove(place);
                    logout.end().map(|end| (token.generation, end))
                }
                // That logout tries it again.
                LogoutOutcome::Postponed(_) | LogoutOutcome::Failed => {
                    self.ending[place].logging_out = false;
                    None
                }
            },
            None => self.replaced.landed(logout, now, &mut self.rng),
        };
        if let Some((generation, end)) = ended {
            self.ended(generation, end);
        }
    }

    /// Returns the replaced token whose logout is running.
    pub(crate) fn logging_out(&self) -> Option<u64> {
        let ending = self.ending.iter().find(|token| token.logging_out);
        let ending = ending.map(|token| token.generation);
        ending.or_else(|| self.replaced.logging_out())
    }

    /// No user of the replaced token of this generation is left.
    pub(crate) fn released(&mut self, generation: u64) {
        self.replaced.released(generation);
    }

    /// A login has yielded the replaced token of this generation again.
    pub(crate) fn reused(&mut self, generation: u64) {
        if self.replaced.reused(generation) {
            self.ended(generation, TokenEnd::Continued);
        }
    }

    /// No handle is left that could use or end any token.
    pub(crate) fn abandon(&mut self) {
        let current = self.current.take().map(|current| current.generation);
        let candidate = self
            .candidate
            .take()
            .map(|candidate| candidate.token.generation);
        let mut left = self.ending();
        left.extend(candidate);
        self.ending.clear();
        left.extend(current);
        // Including one whose logout is running: its result will not be known.
        left.extend(self.replaced.abandon());
        let end = match self.settings.logout_ends {
            LogoutEnds::Nothing => TokenEnd::Discarded,
            LogoutEnds::Token | LogoutEnds::User => TokenEnd::Abandoned,
        };
        for generation in left {
            self.ended(generation, end);
        }
    }

    /// Returns whether every replaced token is accounted for.
    pub(crate) fn has_settled_replaced(&self) -> bool {
        self.replaced.is_done()
    }

    /// Returns whether the rules refer to this token, although it is not the current
    /// one.
    pub(crate) fn is_retired(&self, generation: u64) -> bool {
        let mut ending = self.ending.iter();
        ending.any(|token| token.generation == generation) || self.replaced.contains(generation)
    }

    /// Returns whether the rules wait for the last use of that replaced token.
    pub(crate) fn is_waiting_for(&self, generation: u64) -> bool {
        self.replaced.is_waiting_for(generation)
    }

    /// Returns whether the rules wait for the last use of any replaced token.
    pub(crate) fn is_waiting_for_release(&self) -> bool {
        self.replaced.is_waiting()
    }

    /// Returns the tokens that a logout of the session is to end, or that the
    /// last one left behind.
    pub(crate) fn ending(&self) -> Vec<u64> {
        let ending = self.ending.iter();
        ending.map(|token| token.generation).collect()
    }

    /// Continues after a job that yields no token.
    fn resume(&mut self, now: Timestamp) {
        let deferred = self.deferred_rejection.take();
        if !self.is_open() {
            self.end_leftovers(now);
        } else if let Some(deferred) = deferred.filter(|_| self.current.is_some()) {
            // Its request got its answer already: it asks again and joins.
            let _ = self.rejected(deferred.generation, deferred.target, now);
        }
    }

    /// A logout of the session is to end this token.
    pub(super) fn end_at_logout(&mut self, token: TokenRef) {
        match self.settings.logout_ends {
            LogoutEnds::Nothing => self.ended(token.generation, TokenEnd::Discarded),
            LogoutEnds::Token | LogoutEnds::User => self.ending.push(token),
        }
    }

    /// A logout of the session is to end the candidate.
    fn end_candidate(&mut self) {
        if let Some(candidate) = self.candidate.take() {
            self.end_at_logout(candidate.token.to_ref());
        }
    }

    /// A token is replaced by a newer one.
    pub(super) fn replace(&mut self, replaced: &CurrentToken, continues: bool) {
        let token = replaced.to_ref();
        let end = match (replaced.state, self.settings.logout_ends) {
            _ if continues => TokenEnd::Continued,
            (TokenState::Suspended(_), LogoutEnds::Nothing | LogoutEnds::User) => {
                TokenEnd::Rejected
            }
            (TokenState::Good, LogoutEnds::Nothing) => TokenEnd::Discarded,
            (TokenState::Good, LogoutEnds::User) => TokenEnd::Abandoned,
            (TokenState::Suspended(by), LogoutEnds::Token) if replaced.accepted.is_some() => {
                return self.keep_replaced(token, Some(RejectedBy(by)));
            }
            (TokenState::Good | TokenState::Suspended(_), LogoutEnds::Token) => {
                return self.keep_replaced(token, None);
            }
        };
        self.ended(token.generation, end);
    }

    pub(super) fn keep_replaced(&mut self, token: TokenRef, rejection: Option<RejectedBy>) {
        let in_change = self.is_changing_password();
        let given_up = self.replaced.add(token, rejection, in_change);
        self.give_up(given_up);
    }

    /// Starts the logout of the tokens that are left, unless a job is running.
    pub(super) fn end_leftovers(&mut self, now: Timestamp) {
        if self.job.is_some() {
            return;
        }
        let ending = std::mem::take(&mut self.ending).into_iter();
        let is_over = |token: &TokenRef| token.is_over(now);
        let (over, left): (Vec<_>, Vec<_>) = ending.partition(is_over);
        self.ending = left;
        let was_left = !over.is_empty();
        for token in over {
            self.ended(token.generation, TokenEnd::Expired);
        }
        match (&mut self.phase, self.ending.is_empty()) {
            // The tokens that the last logout could not end are gone, and so is
            // its error.
            (Phase::LoggedOut(outcome), true) if was_left => *outcome = Ok(()),
            (_, true) => {}
            (_, false) => self.start(JobKind::Logout, now),
        }
    }
}
