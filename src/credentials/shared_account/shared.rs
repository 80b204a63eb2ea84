//! What the sessions of this process know of an account beside its record.

use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::credentials::account::{Event, Observed, Owner, Password, Unsaved};
use crate::error::Error;

/// The knowledge that the sessions of this process share about an account.
pub(crate) struct SharedAccount {
    pub(super) owner: Owner,
    // Locked for moments, never across a call.
    known: Mutex<Known>,
    /// Notified after each login and each password change.
    changed: Notify,
}

#[derive(Default)]
pub(super) struct Known {
    /// The record, if the source cannot keep one.
    pub(super) observed: Option<Observed<Password>>,
    /// How many logins and password changes have ended.
    pub(super) ended: u64,
    /// The events that the store failed to keep.
    pub(super) unsaved: Unsaved<Password>,
    /// The server's last refusal.
    pub(super) refusal: Option<Error>,
    /// A password that the server accepted without a login, and its answer: the
    /// password has expired, or the login needs a person.
    pub(super) needs_action: Option<(Password, Error)>,
}

impl Known {
    /// Removes the answers of the server. Their `Drop` is foreign code: they must drop
    /// after the lock is released.
    #[must_use]
    pub(super) fn take_errors(&mut self) -> impl Sized + use<> {
        (self.refusal.take(), self.needs_action.take())
    }
}

/// Another login or password change of the account that is in progress.
pub(crate) struct Blocker {
    shared: Arc<SharedAccount>,
    until: Instant,
    /// How many had ended when the record was loaded.
    ended: u64,
}

impl SharedAccount {
    pub(in crate::credentials) fn new() -> Self {
        Self {
            owner: Owner(random()),
            known: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn keep(&self, event: Event<Password>) {
        self.known().unsaved.keep(event);
        self.ended();
    }

    /// A login or a password change has ended.
    pub(super) fn ended(&self) {
        self.known().ended += 1;
        self.changed.notify_waiters();
    }
}

/// Returns a random number, different from those of other processes.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one("an account")
}

impl Blocker {
    /// Waits for the next end, and for `delay` at most.
    ///
    /// `ended` is how many had ended when the record was loaded.
    pub(super) fn new(shared: Arc<SharedAccount>, delay: Duration, ended: u64) -> Self {
        Self {
            shared,
            until: Instant::now() + delay,
            ended,
        }
    }

    /// Waits until the login or the change has ended, or it is time to look again.
    pub(crate) async fn wait(self) {
        let mut changed = pin!(self.shared.changed.notified());
        changed.as_mut().enable();
        if self.shared.known().ended == self.ended {
            let _ = tokio::time::timeout_at(self.until, changed).await;
        }
    }
}
