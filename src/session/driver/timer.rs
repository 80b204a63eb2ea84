//! The timer of a session.

use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::task::Poll;

use tokio::time::Instant;

use crate::loom::{AbortHandle, sleep_until};
use crate::session::rules::Timestamp;

/// The task that wakes the session next, if any.
///
/// The task holds the session weakly and is aborted with it. A task that is late,
/// or lost with its runtime, costs at most a rejection and its replay; the next
/// event arms another.
#[derive(Debug, Default)]
pub(in crate::session) struct Timer {
    armed: Option<(Wake, AbortHandle)>,
    /// The number of the newest task.
    number: u64,
}

/// The time, and the release of a token, that wake a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wake {
    pub(super) at: Option<Timestamp>,
    /// Whether the end of the last use of a replaced token wakes it too.
    pub(super) on_release: bool,
}

impl Timer {
    /// Arms the timer for `wake`, with the task that `spawn` starts. A task that
    /// goes off earlier does no harm and is kept.
    pub(super) fn arm(&mut self, wake: Wake, spawn: impl FnOnce(u64) -> Option<AbortHandle>) {
        if let Some((armed, task)) = &self.armed {
            if !task.is_finished() && armed.covers(wake) {
                return;
            }
            task.abort();
            self.armed = None;
        }
        if wake.at.is_none() && !wake.on_release {
            return;
        }
        self.number += 1;
        self.armed = spawn(self.number).map(|task| (wake, task));
    }

    /// Forgets the task of this number, which has gone off. A newer task may have
    /// replaced it while it waited for the lock and could not be aborted.
    pub(super) fn clear(&mut self, number: u64) {
        if self.number == number {
            self.armed = None;
        }
    }

    #[cfg(all(test, not(reauth_loom)))]
    pub(in crate::session) fn number(&self) -> u64 {
        self.number
    }
}

impl Wake {
    fn covers(self, wake: Wake) -> bool {
        let at = match (self.at, wake.at) {
            (Some(armed), Some(wake)) => armed <= wake,
            (armed, None) => armed.is_none(),
            (None, Some(_)) => false,
        };
        at && self.on_release == wake.on_release
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.armed {
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
