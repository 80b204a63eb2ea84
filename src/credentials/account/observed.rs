//! The record of an account whose source can only be read.

use super::WallTime;
use super::record::Record;

/// A record in memory, and what its source yielded last.
///
/// The machine is the same as for a store; the record lives as long as the
/// source in this process. A new value of the source is an edit. The same value
/// is not: a password that was changed here and that the source cannot keep
/// stays in use while a mount still yields the old one.
///
/// A source may go through many wrong passwords, and back. So refused ones that it
/// yielded are remembered here until a login is accepted or the password is changed,
/// and are not sent again.
#[derive(Clone, Debug)]
pub(crate) struct Observed<P> {
    yielded: P,
    record: Record<P>,
    /// The refused passwords, oldest first.
    refused: Vec<P>,
    /// Differs whenever the record has changed.
    version: u64,
}

/// How many refused passwords are remembered.
const MAX_REFUSED: usize = 1024;

impl<P: Clone + PartialEq> Observed<P> {
    /// Creates the record from the first value of the source.
    pub(crate) fn new(username: impl Into<String>, password: P) -> Self {
        let yielded = password.clone();
        Self {
            yielded,
            record: Record::new(username, password),
            refused: Vec::new(),
            version: 0,
        }
    }

    /// The source yields these credentials now. Another username is another
    /// account.
    pub(crate) fn yields(&mut self, username: &str, password: P, now: WallTime) {
        let version = self.version + 1;
        if self.record.username() != username {
            *self = Self::new(username, password);
        } else if self.yielded != password {
            self.yielded = password.clone();
            self.record = self.record.replaced(password, &self.refused, now);
        } else {
            return;
        }
        self.version = version;
    }

    /// Returns the record, for the machine to decide on.
    pub(crate) fn record(&self) -> &Record<P> {
        &self.record
    }

    /// Returns the version of the record.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Replaces the record by one that the machine returned for it.
    pub(crate) fn store(&mut self, record: Record<P>) {
        let starts_anew = record.tries.is_empty()
            && (record.accepted || !self.record.tries.is_empty())
            || record.current != self.record.current;
        if starts_anew {
            self.refused.clear();
        }
        for tried in record.tries.iter().filter(|tried| tried.is_refused()) {
            self.refused.retain(|known| *known != tried.password);
            self.refused.push(tried.password.clone());
        }
        let too_many = self.refused.len().saturating_sub(MAX_REFUSED);
        self.refused.drain(..too_many);
        self.record = record;
        self.version += 1;
    }
}
