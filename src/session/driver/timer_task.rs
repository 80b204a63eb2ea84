//! The tasks that wait for the time of the next action, or for the end of a use.

use std::pin::pin;
use std::sync::{Arc, Weak};

use tokio::time::Instant;

use super::Driver;
use super::state::DriverState;
use super::timer::{Wake, changed_before};
use crate::loom::{self, AbortHandle};

impl Driver {
    pub(super) fn arm_timer(self: &Arc<Self>, state: &mut DriverState) {
        let wake = Wake {
            // A time that the clock cannot represent never comes.
            at: state
                .rules
                .wake()
                .and_then(|at| self.clock.instant(at))
                // An action that was due earlier is not a late task.
                .map(|at| at.max(Instant::now())),
            on_release: state.rules.is_waiting_for_release(),
        };
        state.timer.arm(wake, &self.timer_task, |number| {
            let task = TimerTask {
                driver: Arc::downgrade(self),
                number,
            };
            match wake.at {
                // Most idle sessions wait for a time only: a small task.
                Some(at) if !wake.on_release => loom::spawn(async move {
                    loom::sleep_until(at).await;
                    task.go_off();
                }),
                at => self.spawn_release_timer(at, task),
            }
        });
    }

    /// Starts a task that waits for the last use of a replaced token, at most
    /// until `at`.
    fn spawn_release_timer(&self, at: Option<Instant>, task: TimerTask) -> Option<AbortHandle> {
        let shared = self.shared.clone();
        loom::spawn(async move {
            loop {
                // Created before the state is read: no change is missed in between.
                let mut changed = pin!(shared.usage.changed.notified());
                changed.as_mut().enable();
                let Some(driver) = task.driver.upgrade() else {
                    return;
                };
                if driver.lock().has_unreported_release() {
                    break;
                }
                drop(driver);
                if !changed_before(at, changed).await {
                    break;
                }
            }
            task.go_off();
        })
    }
}

/// The timer's task. If it is dropped before it has gone off, since its runtime is
/// shut down, the next request takes the slow path and arms the timer anew.
struct TimerTask {
    driver: Weak<Driver>,
    number: u64,
}

impl TimerTask {
    fn go_off(&self) {
        on_timer(&self.driver, self.number);
    }
}

impl Drop for TimerTask {
    fn drop(&mut self) {
        let Some(driver) = self.driver.upgrade() else {
            return;
        };
        // Not if it has gone off or was replaced.
        if driver.timer_task.remove(self.number)
            && let Some(published) = driver.published.load().as_ref()
        {
            published.set_reported();
        }
    }
}

/// Runs the actions that are due, for the timer task of this number.
pub(super) fn on_timer(driver: &Weak<Driver>, number: u64) {
    let Some(driver) = driver.upgrade() else {
        return;
    };
    let now = driver.now();
    driver.step(|state, _| {
        state.timer.clear(number, &driver.timer_task);
        state.rules.tick(now);
    });
}
