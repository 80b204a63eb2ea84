//! The primitives that ship.

pub(crate) use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
pub(crate) use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

pub(crate) use arc_swap::ArcSwapOption;
pub(crate) use tokio::sync::{Notify, futures::OwnedNotified};
pub(crate) use tokio::task::AbortHandle;
pub(crate) use tokio::time::{sleep_until, timeout_at};

use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs `call` for at most `limit`. Returns `None` after that, and at once without
/// a runtime.
pub(crate) async fn timeout<F: Future>(limit: Duration, call: F) -> Option<F::Output> {
    Handle::try_current().ok()?;
    tokio::time::timeout(limit, call).await.ok()
}

/// Runs a task on the current runtime. Without one, the task is dropped.
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
    let runtime = Handle::try_current().ok()?;
    Some(runtime.spawn(task).abort_handle())
}

/// Wakes another worker of the runtime. It runs the timers if the current one is about
/// to be blocked: no worker does so while the others sleep.
pub(crate) fn wake_another_worker() {
    let Ok(runtime) = Handle::try_current() else {
        return;
    };
    if runtime.runtime_flavor() != RuntimeFlavor::CurrentThread {
        // The newest task waits for this worker. It displaces the one before, which the
        // runtime wakes another worker for.
        runtime.spawn(async {});
        runtime.spawn(async {});
    }
}
