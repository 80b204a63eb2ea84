//! What a session has counted.

use std::time::Duration;

use super::event::{Event, TokenEnd};
use crate::provider::Reason;

/// What a session has counted since it was made; a snapshot made by
/// [`Session::stats`](super::Session::stats).
///
/// Nothing is counted for a request that carries a live token and is accepted.
///
/// ```
/// # use tower_reauth::{FixedToken, Profile, Reason, Session};
/// # let session = Session::new(FixedToken::bearer(Profile::default(), "3f9a"));
/// let stats = session.stats();
/// let ahead = stats.logins(Reason::Expiring);
/// println!("{} renewals ahead of time, {} failed", ahead.succeeded, ahead.failed);
/// println!("{} requests waited, {:?} in all", stats.waited, stats.time_waited);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// How often a response, [`Session::reject`](super::Session::reject), or the
    /// answer to a password change said that a token is dead; those that came
    /// late or changed nothing included.
    pub rejections: u64,
    /// How many rejected requests were sent once more.
    pub replays: u64,
    /// How many of those were accepted.
    pub helpful_replays: u64,
    /// How many requests waited for a login, before they were sent or between
    /// their rejection and their replay; [`Session::token`](super::Session::token)
    /// counts like a request.
    pub waited: u64,
    /// For how long all of those together.
    pub time_waited: Duration,
    /// Password changes that the server has made.
    pub password_changes: u64,
    /// Password changes that failed, or of which nobody knows.
    pub failed_password_changes: u64,
    logins: [Logins; REASONS.len()],
    ended: [u64; ENDS.len()],
}

/// How often logins of one kind succeeded and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Logins {
    /// They yielded a token.
    pub succeeded: u64,
    /// They did not.
    pub failed: u64,
}

const REASONS: [Reason; 5] = [
    Reason::Initial,
    Reason::Expiring,
    Reason::Expired,
    Reason::Rejected,
    Reason::Requested,
];

const ENDS: [TokenEnd; 5] = [
    TokenEnd::LoggedOut,
    TokenEnd::Rejected,
    TokenEnd::Expired,
    TokenEnd::Continued,
    TokenEnd::Abandoned,
];

impl Stats {
    /// The logins that were made for `reason`.
    #[must_use]
    pub fn logins(&self, reason: Reason) -> Logins {
        self.logins[place(reason)]
    }

    /// All logins.
    #[must_use]
    pub fn all_logins(&self) -> Logins {
        let mut all = Logins::default();
        for logins in self.logins {
            all.succeeded += logins.succeeded;
            all.failed += logins.failed;
        }
        all
    }

    /// How many tokens ended like this.
    #[must_use]
    pub fn ended(&self, end: TokenEnd) -> u64 {
        self.ended[place_of(end)]
    }

    pub(super) fn count(&mut self, event: &Event) {
        match event {
            Event::LoggedIn { reason, .. } => self.logins[place(*reason)].succeeded += 1,
            Event::LoginFailed { reason, .. } => self.logins[place(*reason)].failed += 1,
            Event::TokenEnded { end, .. } => self.ended[place_of(*end)] += 1,
            Event::PasswordChanged { .. } => self.password_changes += 1,
            Event::PasswordChangeFailed { .. } => self.failed_password_changes += 1,
            Event::LoginStarted { .. }
            | Event::TokenRejected { .. }
            | Event::LoggedOut
            | Event::Closed
            | Event::Missed { .. } => {}
        }
    }
}

fn place(reason: Reason) -> usize {
    match reason {
        Reason::Initial => 0,
        Reason::Expiring => 1,
        Reason::Expired => 2,
        Reason::Rejected => 3,
        Reason::Requested => 4,
    }
}

fn place_of(end: TokenEnd) -> usize {
    match end {
        TokenEnd::LoggedOut => 0,
        TokenEnd::Rejected => 1,
        TokenEnd::Expired => 2,
        TokenEnd::Continued => 3,
        TokenEnd::Abandoned => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};

    #[test]
    fn each_reason_and_each_end_has_a_place_of_its_own() {
        for (number, reason) in REASONS.into_iter().enumerate() {
            assert_eq!(place(reason), number);
        }
        for (number, end) in ENDS.into_iter().enumerate() {
            assert_eq!(place_of(end), number);
        }
    }

    #[test]
    fn each_event_is_counted_once_and_where_it_belongs() {
        let elapsed = Duration::ZERO;
        let error = || Error::new(ErrorKind::Unavailable);
        let mut stats = Stats::default();
        for reason in [Reason::Initial, Reason::Expiring, Reason::Expiring] {
            stats.count(&Event::LoggedIn {
                reason,
                generation: 1,
                elapsed,
            });
            for _ in 0..2 {
                let error = error();
                stats.count(&Event::LoginFailed {
                    reason,
                    error,
                    elapsed,
                });
            }
        }
        for end in [TokenEnd::Expired, TokenEnd::Rejected, TokenEnd::Expired] {
            stats.count(&Event::TokenEnded { generation: 1, end });
        }
        for _ in 0..2 {
            stats.count(&Event::PasswordChanged { elapsed });
            for _ in 0..2 {
                let error = error();
                stats.count(&Event::PasswordChangeFailed { error, elapsed });
            }
        }
        let logins = |succeeded, failed| Logins { succeeded, failed };
        assert_eq!(stats.logins(Reason::Initial), logins(1, 2));
        assert_eq!(stats.logins(Reason::Expiring), logins(2, 4));
        assert_eq!(stats.all_logins(), logins(3, 6));
        assert_eq!(stats.ended(TokenEnd::Expired), 2);
        assert_eq!(stats.ended(TokenEnd::Rejected), 1);
        assert_eq!(stats.password_changes, 2);
        assert_eq!(stats.failed_password_changes, 4);
    }
}
