//! The timer of a session.

use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::loom::{AbortHandle, AtomicU64, Ordering, sleep_until};

/// A task that is this late is on a runtime that is not driven.
const LATE: Duration = Duration::from_secs(1);

/// The task that wakes the session next, if any.
///
/// The task holds the session weakly and is aborted with it. While a task is lost
/// with its runtime, requests take the slow path, and the first of them arms
/// another. A task that is late costs at most a rejection and its replay.
#[derive(Debug, Default)]
pub(super) struct Timer {
    /// Without a task if there was no runtime to spawn it on.
    armed: Option<(Wake, Option<AbortHandle>)>,
}

/// The number of the task that is to go off, or 0 if there is none. A task is lost
/// when its runtime is shut down, on any thread, so this takes no lock.
///
/// The session sets the token's signal, then looks for the task here. A lost task is
/// removed here, then corrects the signal. Both access this number by an operation
/// that reads and writes, so the second of them sees the signal of the first.
#[derive(Debug, Default)]
pub(super) struct LiveTask(AtomicU64);

impl LiveTask {
    fn set(&self, number: u64) {
        self.0.store(number, Ordering::Release);
    }

    /// Returns its number, or 0 if there is none.
    pub(super) fn number(&self) -> u64 {
        self.0.fetch_or(0, Ordering::AcqRel)
    }

    /// Removes the task of this number. Returns whether it was to go off.
    pub(super) fn remove(&self, number: u64) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        let removed = self.0.compare_exchange(number, 0, success, failure);
        removed.is_ok()
    }
}

/// The time, and the release of a token, that wake a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wake {
    pub(super) at: Option<Instant>,
    /// Whether the end of the last use of a replaced token wakes it too.
    pub(super) on_release: bool,
}

impl Timer {
    /// Arms the timer for `wake`, with the task that `spawn` starts. A task that
    /// goes off earlier does no harm and is kept.
    pub(super) fn arm(
        &mut self,
        wake: Wake,
        live: &LiveTask,
        spawn: impl FnOnce(u64) -> Option<AbortHandle>,
    ) {
        /// The number of the next task in this process.
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

        if let Some((armed, _)) = &self.armed
            && armed.covers(wake)
            && live.number() != 0
        {
            return;
        }
        live.set(0);
        if let Some((_, Some(task))) = self.armed.take() {
            task.abort();
        }
        if wake.at.is_none() && !wake.on_release {
            return;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Set before `spawn`, which drops the task if there is no runtime.
        live.set(number);
        self.armed = Some((wake, spawn(number)));
    }

    /// Returns whether the session is to be woken, and its task was lost.
    pub(super) fn is_lost(&self, live: &LiveTask) -> bool {
        live.number() == 0 && self.armed.is_some()
    }

    /// Forgets the task of this number, which has gone off. A newer task may have
    /// replaced it while it waited for the lock and could not be aborted.
    pub(super) fn clear(&mut self, number: u64, live: &LiveTask) {
        if live.remove(number) {
            self.armed = None;
        }
    }
}

impl Wake {
    fn covers(self, wake: Wake) -> bool {
        let at = match (self.at, wake.at) {
            (Some(armed), Some(wake)) => armed <= wake && armed.elapsed() <= LATE,
            (armed, None) => armed.is_none(),
            (None, Some(_)) => false,
        };
        at && self.on_release == wake.on_release
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some((_, Some(task))) = &self.armed {
            task.abort();
        }
    }
}

/// Waits for `changed`, at most until `at`. Returns whether `changed` came first.
pub(super) async fn changed_before(at: Option<Instant>, changed: impl Future<Output = ()>) -> bool {
    let mut changed = pin!(changed);
    let mut sleep = pin!(async {
        match at {
            Some(at) => sleep_until(at).await,
            None => pending().await,
        }
    });
    poll_fn(|cx| {
        if sleep.as_mut().poll(cx).is_ready() {
            return Poll::Ready(false);
        }
        changed.as_mut().poll(cx).map(|()| true)
    })
    .await
}
