//! The counters of the emulator.

use std::{collections::BTreeMap, fmt};

use super::operation::Operation;

/// A snapshot of the emulator's counters, from [`Emulator::account`](super::Emulator::account).
///
/// Every login opens one session, and every session is live or ended in one of
/// four ways, so [`balances`](Self::balances) always holds. A test of a client
/// that logs out properly compares `live` with what the client still holds.
///
/// `Display` writes several lines for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Account {
    /// Requests that arrived, with any outcome.
    pub requests: u64,
    /// Requests that a fault changed.
    pub faults: u64,
    /// Logins that opened a session.
    pub logins: u64,
    /// Logins that were refused: wrong credentials, a locked user, too many sessions.
    pub failed_logins: u64,
    /// Sessions that are open now.
    pub live: u64,
    /// Sessions that were logged out.
    pub logged_out: u64,
    /// Sessions that outlived their lifetime or idle time, or were expired by hand.
    pub expired: u64,
    /// Sessions that a restart dropped.
    pub dropped: u64,
    /// Sessions that a password change ended.
    pub ended: u64,
    /// Requests behind the session that came without a token.
    pub no_token: u64,
    /// Requests behind the session that came with a live token.
    pub live_tokens: u64,
    /// Requests behind the session that came with a dead or made-up token.
    pub dead_tokens: u64,
    /// Jobs that were ordered.
    pub jobs_ordered: u64,
    /// The number of orders of each `folder`. Orders without a folder do not count.
    ///
    /// A test that gives each order its own folder can prove that each was
    /// executed once.
    pub ordered_by_folder: BTreeMap<String, u64>,
    /// Passwords that were changed by their users.
    pub password_changes: u64,
    /// Restarts.
    pub restarts: u64,
    pub(super) by_operation: BTreeMap<Operation, u64>,
}

impl Account {
    /// Returns the number of requests for one operation, with any outcome.
    pub fn requests_to(&self, operation: Operation) -> u64 {
        self.by_operation.get(&operation).copied().unwrap_or(0)
    }

    /// Returns the number of orders of this folder.
    pub fn ordered(&self, folder: &str) -> u64 {
        self.ordered_by_folder.get(folder).copied().unwrap_or(0)
    }

    /// Returns whether every session that was opened is accounted for.
    pub fn balances(&self) -> bool {
        self.logins == self.live + self.logged_out + self.expired + self.dropped + self.ended
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "requests:         {} ({} changed by a fault)",
            self.requests, self.faults
        )?;
        writeln!(
            f,
            "logins:           {} ({} more failed)",
            self.logins, self.failed_logins
        )?;
        writeln!(
            f,
            "sessions:         {} live, {} logged out, {} expired, {} dropped by {} restarts, {} ended by a password change",
            self.live, self.logged_out, self.expired, self.dropped, self.restarts, self.ended
        )?;
        writeln!(
            f,
            "tokens:           {} live, {} dead, {} missing",
            self.live_tokens, self.dead_tokens, self.no_token
        )?;
        writeln!(f, "password changes: {}", self.password_changes)?;
        write!(f, "jobs ordered:     {}", self.jobs_ordered)?;
        for (folder, times) in self
            .ordered_by_folder
            .iter()
            .filter(|(_, times)| **times > 1)
        {
            write!(f, "\n  folder {folder:?} {times} times")?;
        }
        Ok(())
    }
}
