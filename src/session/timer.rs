//! Ends a token when its lifetime is over, so that no request reads a clock.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::sleep_until;

use super::Shared;
use super::lifecycle::Moment;

/// A task that waits for the end of the token in use, if it has one.
///
/// It holds the session weakly and is aborted with it. One that came late, or
/// was lost with its runtime, costs at most a rejection and its replay; the
/// next event sets another.
#[derive(Debug, Default)]
pub(super) struct Timer {
    set: Option<(Moment, AbortHandle)>,
}

impl Timer {
    /// Sets it to go off at `ends`, or not at all.
    pub(super) fn set(&mut self, session: &Arc<Shared>, ends: Option<Moment>) {
        if let Some((set, task)) = &self.set {
            if Some(*set) == ends && !task.is_finished() {
                return;
            }
            task.abort();
            self.set = None;
        }
        let (Some(ends), Ok(runtime)) = (ends, Handle::try_current()) else {
            return;
        };
        let Some(at) = session.made.checked_add(ends) else {
            return;
        };
        let weak = Arc::downgrade(session);
        let task = runtime.spawn(async move {
            sleep_until(at).await;
            if let Some(session) = weak.upgrade() {
                let now = session.now();
                session.step(|guarded, _| guarded.rules.expire(now));
            }
        });
        self.set = Some((ends, task.abort_handle()));
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.set {
            task.abort();
        }
    }
}
