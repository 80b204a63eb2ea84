//! Detects a provider that calls through the session that it serves.

use std::future::Future;

use crate::loom::HAS_TASK_LOCALS;

tokio::task_local! {
    /// The sessions whose jobs led to the code that is running.
    static ENCLOSING: Vec<usize>;
}

/// Returns whether the running code is part of a job of `session`. It must not
/// wait for another job of that session: it would wait for itself.
pub(super) fn is_nested(session: usize) -> bool {
    HAS_TASK_LOCALS
        && ENCLOSING
            .try_with(|enclosing| enclosing.contains(&session))
            .unwrap_or(false)
}

/// Runs `task` as part of a job of `session`.
pub(super) fn scope<F: Future>(session: usize, task: F) -> impl Future<Output = F::Output> {
    let mut enclosing = ENCLOSING.try_with(Clone::clone).unwrap_or_default();
    enclosing.push(session);
    ENCLOSING.scope(enclosing, task)
}
