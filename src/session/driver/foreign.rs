//! Runs foreign code: wakers, subscribers, and the `Drop` of a provider's values.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs foreign code. Returns `None` if it panics.
pub(super) fn contained<T>(run: impl FnOnce() -> T) -> Option<T> {
    // After a panic, callers only drop or forget the values that `run` has used.
    let caught = catch_unwind(AssertUnwindSafe(run));
    caught.map_err(drop_payload).ok()
}

/// Drops each value, even if others panic.
pub(super) fn drop_each<T>(values: impl IntoIterator<Item = T>) {
    for value in values {
        contained(|| drop(value));
    }
}

/// A payload is foreign too, and its `Drop` may panic.
fn drop_payload(payload: Box<dyn std::any::Any + Send>) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        mem::forget(another);
    }
}
