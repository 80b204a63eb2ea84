//! The primitives that ship.

pub(crate) use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
pub(crate) use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

pub(crate) use arc_swap::ArcSwapOption;
pub(crate) use tokio::sync::{Notify, futures::OwnedNotified};
pub(crate) use tokio::task::AbortHandle;
pub(crate) use tokio::time::{sleep_until, timeout_at};

use std::time::Duration;

use tokio::runtime::Handle;

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
