//! The record of an account whose source can only be read.

use super::record::Record;

/// A record in memory, and what its source yielded last.
///
/// The machine is the same as for a store; the record lives as long as the
/// source in this process. A new value of the source is an edit. The same value
/// is not: a password that was changed here and that the source cannot keep
/// stays in use while a mount still yields the old one.
#[derive(Clone, Debug)]
pub(crate) struct Observed<P> {
    yielded: P,
    record: Record<P>,
}

impl<P: Clone + PartialEq> Observed<P> {
    /// Creates the record from the first value of the source.
    pub(crate) fn new(username: impl Into<String>, password: P) -> Self {
        let yielded = password.clone();
        Self {
            yielded,
            record: Record::new(username, password),
        }
    }

    /// The source yields these credentials now. Another username is another
    /// account.
    pub(crate) fn yields(&mut self, username: &str, password: P) {
        if self.record.username() != username {
            *self = Self::new(username, password);
        } else if self.yielded != password {
            self.yielded = password.clone();
            self.record.edit(password);
        }
    }

    /// Returns the record, for the machine to decide on.
    pub(crate) fn record(&self) -> &Record<P> {
        &self.record
    }

    /// Replaces the record by one that the machine returned for it.
    pub(crate) fn store(&mut self, record: Record<P>) {
        self.record = record;
    }
}
