//! What a server has seen.

use std::fmt;

/// Everything that an [`Emulator`](super::Emulator) has counted since it was made.
///
/// At any time each login is accounted for: [`logins`](Account::logins) is the
/// sum of the sessions that are live, logged out, expired, dropped and ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Account {
    /// Requests of any kind.
    pub requests: u64,
    /// Logins that succeeded.
    pub logins: u64,
    /// Logins that failed: for the password, a lock, or too many sessions.
    pub failed_logins: u64,
    /// Sessions that a request could use now.
    pub live: u64,
    /// Sessions that were logged out.
    pub logged_out: u64,
    /// Sessions whose lifetime ended.
    pub expired: u64,
    /// Sessions that a restart dropped.
    pub dropped: u64,
    /// Sessions that a password change ended.
    pub ended: u64,
    /// Logouts with the token of a session that was no more.
    pub failed_logouts: u64,
    /// Passwords changed.
    pub password_changes: u64,
    /// Requests for something behind the session that carried no token.
    pub without_token: u64,
    /// Those that carried the token of a live session.
    pub with_live_token: u64,
    /// Those that carried another token.
    pub with_dead_token: u64,
    /// Jobs ordered.
    pub jobs: u64,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "requests  {} (behind the session: {} with a live token, {} with a dead one, {} with none)",
            self.requests, self.with_live_token, self.with_dead_token, self.without_token
        )?;
        writeln!(
            f,
            "logins    {} ({} failed)",
            self.logins, self.failed_logins
        )?;
        writeln!(
            f,
            "sessions  {} live, {} logged out, {} expired, {} dropped by a restart, {} ended by a password change",
            self.live, self.logged_out, self.expired, self.dropped, self.ended
        )?;
        writeln!(
            f,
            "logouts   {} of a session that was no more",
            self.failed_logouts
        )?;
        writeln!(f, "passwords {} changed", self.password_changes)?;
        write!(f, "jobs      {} ordered", self.jobs)
    }
}
