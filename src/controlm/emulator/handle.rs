//! The handle, by which a test controls the server while it runs.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use secrecy::SecretString;
use tokio::time::Instant;

use super::{
    account::Account,
    call::Observer,
    fault::{Fault, Target},
    state::ServerState,
};
use crate::gate::Gate;

/// An embedded Control-M session server. See the [module's documentation](super).
///
/// A cheap handle: clones, services and servers all share one state.
#[derive(Clone)]
pub struct Emulator {
    pub(super) shared: Arc<SharedEmulator>,
}

pub(super) struct SharedEmulator {
    pub(super) base_path: String,
    pub(super) observer: Option<Observer>,
    /// Where stalled requests wait.
    pub(super) stall: Gate,
    state: Mutex<ServerState>,
}

impl Emulator {
    pub(super) fn new_with(
        base_path: String,
        observer: Option<Observer>,
        state: ServerState,
    ) -> Self {
        let shared = SharedEmulator {
            base_path,
            observer,
            stall: Gate::closed(),
            state: Mutex::new(state),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Drops all sessions, as a restart or a failover of the server does.
    ///
    /// Users, changed passwords, locks and ordered jobs stay.
    pub fn restart(&self) {
        self.state().restart(Instant::now());
    }

    /// Ends the session of this token now. Returns whether it was live.
    pub fn expire(&self, token: &str) -> bool {
        self.state().expire(token, Instant::now())
    }

    /// Ends all sessions now, counted as expired.
    pub fn expire_all(&self) {
        self.state().expire_all();
    }

    /// Locks a user until [`unlock`](Self::unlock). Returns whether the user exists.
    ///
    /// Live sessions stay live.
    pub fn lock(&self, user: &str) -> bool {
        self.state().lock(user)
    }

    /// Unlocks a user and resets the failed logins. Returns whether the user exists.
    pub fn unlock(&self, user: &str) -> bool {
        self.state().unlock(user)
    }

    /// Sets a user's password, as an administrator does, or adds the user.
    pub fn set_password(&self, user: impl Into<String>, password: impl Into<SecretString>) {
        self.state().set_password(user.into(), password.into());
    }

    /// Sets how long each call waits before it is executed.
    pub fn set_latency(&self, latency: Duration) {
        self.state().settings.latency = latency;
    }

    /// Adds a fault for the next request to a target.
    ///
    /// Each request takes one fault. The faults of one target form a queue. A target
    /// is an [`Operation`](super::Operation), a path below the base path, or
    /// [`Target::Any`].
    pub fn fault(&self, target: impl Into<Target>, fault: Fault) {
        self.state().script.push(target.into(), fault);
    }

    /// Removes all queued faults.
    pub fn clear_faults(&self) {
        self.state().script.clear();
    }

    /// Releases all requests that [`Fault::stall`] holds now.
    pub fn release(&self) {
        self.shared.stall.release();
    }

    /// Waits until at least this many requests are stalled.
    pub async fn stalled(&self, requests: usize) {
        self.shared.stall.reached(requests).await;
    }

    /// Returns a snapshot of the counters.
    pub fn account(&self) -> Account {
        self.state().account(Instant::now())
    }

    pub(super) fn state(&self) -> MutexGuard<'_, ServerState> {
        // The state is consistent between any two statements that may panic.
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

// By hand: the state has tokens and passwords.
impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emulator")
            .field("base_path", &self.shared.base_path)
            .finish_non_exhaustive()
    }
}
