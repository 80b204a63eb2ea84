//! Logins, logouts and password changes: what the sessions ask for, what the
//! server does, and what is left of it.

use std::time::Instant;

use tower_reauth::{ProviderError, ProviderErrorKind, Reason};

use super::{Account, Ended, GUEST, LoggedOut, PendingChange, Purpose, TRIES, TokenEntry};

impl Account {
    // Calls of the provider.

    pub(crate) fn begins(&mut self, user: usize, purpose: Purpose) -> u64 {
        let name = self.name(user);
        self.calls += 1;
        let call = self.calls;
        let known = &mut self.users[user];
        let retiring = known.retiring;
        let calls = match purpose {
            Purpose::Retire { .. } => {
                known.retiring += 1;
                known.retiring
            }
            Purpose::Login { .. } | Purpose::Logout { .. } | Purpose::Change { .. } => {
                known.under_way.insert(call);
                known.under_way.len()
            }
        };
        self.most_calls = self.most_calls.max(calls);
        match purpose {
            Purpose::Login { password, reason } => {
                known.renewal = (reason == Reason::Rejected).then_some(call);
                known.ahead = (reason == Reason::Expiring).then_some(call);
                let is_refused = known.refused.contains(&password);
                known.may_be_forced &= reason == Reason::Requested;
                let is_forced = reason == Reason::Requested && known.forced > 0;
                let is_forced = is_forced || known.may_be_forced;
                // While a change is open, the refusal of a new password proves nothing.
                let is_doubtful = known.is_uncertain || known.open.is_some();
                self.must(
                    !is_refused || is_forced || is_doubtful,
                    format_args!("{name}: refused password {password} was sent again: {reason:?}"),
                );
            }
            Purpose::Logout { token } | Purpose::Retire { token } => {
                let is_beside = matches!(purpose, Purpose::Retire { .. });
                known.may_be_forced &= is_beside;
                self.must(
                    is_beside || retiring == 0,
                    format_args!("{name}: a logout beside that of a replaced token"),
                );
                let issued = self.tokens.get_mut(&token).expect("issued");
                issued.logouts += 1;
                let held = issued.held;
                let may_be = held == 0 || self.may_be_ended(token);
                self.must(
                    may_be,
                    format_args!("{name}: token {token} is logged out, and {held} use it"),
                );
            }
            Purpose::Change { new, current } => {
                known.may_be_forced = false;
                let is_uncertain = known.is_uncertain;
                let is_right = current == Some(known.password);
                // A change is a way out where no password may be sent.
                let is_stopped = known.refused.len() >= 2;
                self.must(
                    !is_uncertain || is_stopped,
                    format_args!("{name}: a change to {new} before the last one was resolved"),
                );
                self.must(
                    is_right || is_uncertain || is_stopped,
                    format_args!("{name}: a change from {current:?}, which is not the password"),
                );
            }
        }
        self.must(
            calls == 1,
            format_args!("{name}: {calls} calls at once, {purpose:?} the last"),
        );
        call
    }

    /// A call has ended: `None` if it was given up.
    pub(crate) fn ends(
        &mut self,
        user: usize,
        call: u64,
        purpose: Purpose,
        outcome: Option<Result<Option<u64>, &ProviderError>>,
    ) {
        let known = &mut self.users[user];
        if let Purpose::Retire { .. } = purpose {
            known.retiring -= 1;
            return;
        }
        known.under_way.remove(&call);
        known.renewal = None;
        match (purpose, outcome) {
            (Purpose::Login { password, .. }, Some(Ok(token))) => {
                known.refused.clear();
                if std::mem::take(&mut known.is_uncertain) {
                    self.resolved_changes += 1;
                }
                known
                    .open
                    .take_if(|open| open.is_denied || open.new == password);
                let token = token.expect("a login yields one");
                self.tokens.get_mut(&token).expect("issued").is_delivered = true;
            }
            (Purpose::Login { password, .. }, Some(Err(error)))
                if error.kind() == ProviderErrorKind::Refused =>
            {
                known.refused.insert(password);
                self.refusals += 1;
            }
            (Purpose::Change { .. }, Some(Ok(_))) => {
                known.refused.clear();
                known.open = None;
            }
            (Purpose::Change { new, .. }, outcome) => {
                let kind = outcome.and_then(Result::err).map(ProviderError::kind);
                let is_lost = matches!(kind, None | Some(ProviderErrorKind::Uncertain));
                let was_lost = known.open.is_some_and(|open| !open.is_denied);
                known.open = Some(PendingChange {
                    new,
                    is_denied: !is_lost && !was_lost,
                });
                if is_lost {
                    known.is_uncertain = true;
                    self.uncertain_changes += 1;
                }
            }
            (Purpose::Login { .. } | Purpose::Logout { .. } | Purpose::Retire { .. }, _) => {}
        }
    }

    /// A guest's session was dropped when it had its token.
    pub(crate) fn has_left(&mut self, user: usize) {
        self.users[user].has_left = true;
    }

    // The login system.

    /// A login, of a call that may have been given up. Answers with the token.
    pub(crate) fn log_in(&mut self, user: usize, password: u64, call: u64) -> Option<u64> {
        let name = self.name(user);
        let known = &self.users[user];
        if password != known.password {
            // After a refusal the next password of the account is sent.
            let was_refused = !known.refused.is_empty();
            let is_open = known.is_uncertain || known.open.is_some();
            let may_be = is_open || was_refused || !known.under_way.contains(&call);
            self.wrong_passwords += 1;
            self.must(
                may_be,
                format_args!("{name}: wrong password {password} though no change is open and none was refused"),
            );
            return None;
        }
        let number = self.tokens.len() as u64 + 1;
        let issued = TokenEntry {
            user,
            at: Instant::now(),
            era: known.logouts,
            ended: None,
            is_ahead: known.ahead == Some(call),
            is_delivered: false,
            is_denied: false,
            accepted: None,
            logouts: 0,
            held: 0,
        };
        self.tokens.insert(number, issued);
        Some(number)
    }

    /// Whether the token was good.
    pub(crate) fn log_out(&mut self, token: u64) -> bool {
        let was_good = self.ended(token).is_none();
        self.end(token, Ended::LoggedOut);
        was_good
    }

    pub(crate) fn new_password(&mut self) -> u64 {
        self.passwords += 1;
        self.changes.insert(self.passwords, false);
        self.passwords
    }

    /// Changes the password, unless whoever asked has given up: whatever is done
    /// then, no client can know of.
    pub(crate) fn change(&mut self, token: u64, current: u64, new: u64, call: u64) -> bool {
        let user = self.tokens[&token].user;
        let known = &mut self.users[user];
        if !known.under_way.contains(&call) || known.password != current {
            return false;
        }
        known.password = new;
        self.changes.insert(new, true);
        if self.users[user].terms.end_at_change {
            let theirs = self.tokens.iter();
            let theirs = theirs.filter(|(_, issued)| issued.user == user);
            for token in theirs.map(|(token, _)| *token).collect::<Vec<_>>() {
                self.end(token, Ended::Revoked);
            }
        }
        true
    }

    pub(crate) fn is_changed_to(&self, new: u64) -> bool {
        self.changes[&new]
    }

    // What a session is asked for by hand.

    pub(crate) fn forces(&mut self, user: usize) {
        self.users[user].forced += 1;
        self.users[user].forced_ever += 1;
    }

    /// The one who waited has an answer. A logout gives one ahead of the login's
    /// end.
    pub(crate) fn forces_no_more(&mut self, user: usize, is_logged_in: bool) {
        let known = &mut self.users[user];
        known.forced -= 1;
        known.may_be_forced |= !is_logged_in;
    }

    /// Somebody is about to ask for the session's end. Answers with what
    /// `is_logged_out` is to be told.
    pub(crate) fn logs_out(&mut self, user: usize) -> LoggedOut {
        let known = &mut self.users[user];
        known.logouts += 1;
        LoggedOut {
            era: known.logouts,
            forced_ever: known.forced_ever - known.forced,
        }
    }

    /// The session has ended, it says. It has left nothing behind if nobody
    /// has opened it again meanwhile.
    pub(crate) fn is_logged_out(&mut self, user: usize, before: LoggedOut) {
        if self.users[user].forced_ever == before.forced_ever {
            self.has_left_nothing(user, before.era);
        }
    }

    // At the end.

    /// The tokens that a session got.
    pub(crate) fn delivered(&self, user: usize) -> u64 {
        let theirs = self.tokens.values();
        let theirs = theirs.filter(|issued| issued.user == user && issued.is_delivered);
        theirs.count() as u64
    }

    /// How many of these were given up, since no logout came through.
    pub(crate) fn given_up(&self, user: usize) -> u64 {
        let theirs = self.tokens.values();
        let theirs = theirs.filter(|issued| issued.user == user && issued.logouts >= TRIES);
        theirs.count() as u64
    }

    /// The session of a user was closed.
    pub(crate) fn is_closed(&mut self, user: usize) {
        self.has_left_nothing(user, u64::MAX);
    }

    /// A session that has ended leaves no token behind that it knew to be good.
    fn has_left_nothing(&mut self, user: usize, era: u64) {
        let name = self.name(user);
        let terms = self.users[user].terms;
        for token in self.tokens.keys().copied().collect::<Vec<_>>() {
            let age = self.tokens[&token].at.elapsed();
            // For the session its time began earlier, when the login was sent.
            let half = terms.lifetime.filter(|_| terms.is_told).map(|all| all / 2);
            let is_over = half.is_some_and(|half| age > half);
            let is_good = self.ended(token).is_none() && !is_over;
            let issued = &self.tokens[&token];
            let logouts = issued.logouts;
            let is_given_up = issued.is_denied || logouts >= TRIES;
            let is_theirs = issued.user == user && issued.era < era;
            let is_theirs = is_theirs && issued.is_delivered && !is_given_up;
            self.must(
                !(is_good && is_theirs),
                format_args!(
                    "{name}: token {token} was left behind, {age:?} old, after {logouts} logouts"
                ),
            );
        }
    }

    /// The tokens of guests whose session was gone when their login landed.
    pub(super) fn guests_gone(&self) -> impl Iterator<Item = (&u64, &TokenEntry)> {
        self.tokens.iter().filter(|(_, issued)| {
            let user = &self.users[issued.user];
            user.terms == GUEST && issued.is_delivered && !user.has_left
        })
    }

    /// Nothing of them was left behind.
    pub(crate) fn check_guests(&mut self) {
        let left = self.guests_gone().filter(|(_, issued)| issued.logouts == 0);
        let left: Vec<_> = left
            .map(|(token, _)| format!("token {token} of a guest was left behind"))
            .collect();
        self.violations.extend(left);
    }
}
