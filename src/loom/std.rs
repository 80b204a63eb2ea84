//! The primitives that ship.

pub(crate) use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
pub(crate) use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

pub(crate) use arc_swap::ArcSwapOption;
pub(crate) use tokio::sync::{Notify, futures::OwnedNotified};
pub(crate) use tokio::task::AbortHandle;
pub(crate) use tokio::time::{sleep_until, timeout_at};

use std::panic::catch_unwind;
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};

/// Whether each task sees its own task-locals.
pub(crate) const HAS_TASK_LOCALS: bool = true;

/// Returns `arc` as the `Arc` of the standard library, which it is.
#[inline]
pub(crate) fn std_arc<T>(arc: Arc<T>) -> std::sync::Arc<T> {
    arc
}

/// Returns the current runtime, if its timer is enabled.
pub(crate) fn runtime() -> Option<Handle> {
    let runtime = Handle::try_current().ok()?;
    // tokio offers no other way to see that a runtime has no timer.
    catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO))).ok()?;
    Some(runtime)
}

/// Runs `call` for at most `limit`. Returns `None` after that, and at once without
/// a runtime with a timer.
pub(crate) async fn timeout<F: Future>(limit: Duration, call: F) -> Option<F::Output> {
    runtime()?;
    tokio::time::timeout(limit, call).await.ok()
}

/// Runs a task on the current runtime. Without one that has a timer, the task is dropped.
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
    Some(runtime()?.spawn(task).abort_handle())
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
