//! The counters of a session.

use std::time::Duration;

use crate::provider::Reason;
use crate::session::rules::{Event, TokenEnd};

/// The counters of a session since it was created; a snapshot returned by
/// [`Session::stats`](crate::Session::stats).
///
/// A request that uses a live token and is accepted is not counted.
///
/// ```
/// # use tower_reauth::{FixedToken, Profile, Reason, Session};
/// # let session = Session::new(FixedToken::bearer(Profile::default(), "3f9a"));
/// let stats = session.stats();
/// let ahead = stats.logins(Reason::Expiring);
/// println!("{} logins ahead of time, {} failed", ahead.succeeded, ahead.failed);
/// println!("{} requests waited, {:?} in all", stats.waited, stats.time_waited);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Rejections of a token: by a response, by
    /// [`Session::reject`](crate::Session::reject), or by the answer to a password
    /// change. Late ones and those without consequences are included.
    pub rejections: u64,
    /// Replayed requests.
    pub replays: u64,
    /// Replayed requests that were accepted.
    pub helpful_replays: u64,
    /// Requests that waited for a login, before they were sent or between their
    /// rejection and their replay. [`Session::token`](crate::Session::token)
    /// counts like a request.
    pub waited: u64,
    /// The total time that those requests waited.
    pub time_waited: Duration,
    /// Password changes that succeeded.
    pub password_changes: u64,
    /// Password changes that failed or whose outcome is not known.
    pub failed_password_changes: u64,
    logins: [Logins; REASONS.len()],
    ended: [u64; ENDS.len()],
}

/// The counters that a driver keeps. The waits are counted elsewhere, without a lock.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) rejections: u64,
    pub(super) replays: u64,
    pub(super) accepted_replays: u64,
    password_changes: u64,
    failed_password_changes: u64,
    logins: [Logins; REASONS.len()],
    ended: [u64; ENDS.len()],
}

/// The logins of one kind that succeeded and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Logins {
    /// Logins that yielded a token.
    pub succeeded: u64,
    /// Logins that failed.
    pub failed: u64,
}

const REASONS: [Reason; 5] = [
    Reason::Initial,
    Reason::Expiring,
    Reason::Expired,
    Reason::Rejected,
    Reason::Requested,
];

const ENDS: [TokenEnd; 6] = [
    TokenEnd::LoggedOut,
    TokenEnd::Rejected,
    TokenEnd::Expired,
    TokenEnd::Continued,
    TokenEnd::Abandoned,
    TokenEnd::Discarded,
];

impl Stats {
    /// Returns the logins that were made for `reason`.
    #[must_use]
    pub fn logins(&self, reason: Reason) -> Logins {
        self.logins[reason_index(reason)]
    }

    /// Returns all logins.
    #[must_use]
    pub fn all_logins(&self) -> Logins {
        let mut all = Logins::default();
        for logins in self.logins {
            all.succeeded += logins.succeeded;
            all.failed += logins.failed;
        }
        all
    }

    /// Returns how many tokens ended in this way.
    #[must_use]
    pub fn ended(&self, end: TokenEnd) -> u64 {
        self.ended[end_index(end)]
    }
}

impl Counters {
    /// Returns a snapshot, with how many requests waited and for how long in all.
    pub(super) fn snapshot(&self, (waited, time_waited): (u64, Duration)) -> Stats {
        Stats {
            rejections: self.rejections,
            replays: self.replays,
            helpful_replays: self.accepted_replays,
            waited,
            time_waited,
            password_changes: self.password_changes,
            failed_password_changes: self.failed_password_changes,
            logins: self.logins,
            ended: self.ended,
        }
    }

    pub(super) fn count(&mut self, event: &Event) {
        match event {
            Event::LoggedIn { reason, .. } => self.logins[reason_index(*reason)].succeeded += 1,
            Event::LoginFailed { reason, .. } => self.logins[reason_index(*reason)].failed += 1,
            Event::TokenEnded { end, .. } => self.ended[end_index(*end)] += 1,
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

fn reason_index(reason: Reason) -> usize {
    match reason {
        Reason::Initial => 0,
        Reason::Expiring => 1,
        Reason::Expired => 2,
        Reason::Rejected => 3,
        Reason::Requested => 4,
    }
}

fn end_index(end: TokenEnd) -> usize {
    match end {
        TokenEnd::LoggedOut => 0,
        TokenEnd::Rejected => 1,
        TokenEnd::Expired => 2,
        TokenEnd::Continued => 3,
        TokenEnd::Abandoned => 4,
        TokenEnd::Discarded => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};

    #[test]
    fn each_reason_and_each_end_has_an_index_of_its_own() {
        for (number, reason) in REASONS.into_iter().enumerate() {
            assert_eq!(reason_index(reason), number);
        }
        for (number, end) in ENDS.into_iter().enumerate() {
            assert_eq!(end_index(end), number);
        }
    }

    #[test]
    fn each_event_is_counted_once_and_in_its_own_counter() {
        let elapsed = Duration::ZERO;
        let error = || Error::new(ErrorKind::Unavailable);
        let mut counters = Counters::default();
        for reason in [Reason::Initial, Reason::Expiring, Reason::Expiring] {
            counters.count(&Event::LoggedIn {
                reason,
                generation: 1,
                elapsed,
            });
            for _ in 0..2 {
                let error = error();
                counters.count(&Event::LoginFailed {
                    reason,
                    error,
                    elapsed,
                });
            }
        }
        for end in [TokenEnd::Expired, TokenEnd::Rejected, TokenEnd::Expired] {
            counters.count(&Event::TokenEnded { generation: 1, end });
        }
        for _ in 0..2 {
            counters.count(&Event::PasswordChanged { elapsed });
            for _ in 0..2 {
                let error = error();
                counters.count(&Event::PasswordChangeFailed { error, elapsed });
            }
        }
        let stats = counters.snapshot((3, Duration::from_secs(1)));
        assert_eq!(
            (stats.waited, stats.time_waited),
            (3, Duration::from_secs(1))
        );
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
