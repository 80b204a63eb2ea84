//! A running job, and how callers wait for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::error::Error;
use crate::loom::{Notify, OnceLock, OwnedNotified};

/// A job that is running or has ended, as its waiters see it.
#[derive(Debug, Default)]
pub(crate) struct Job {
    result: OnceLock<WaitResult>,
    wake: Arc<Notify>,
}

/// How a job has ended, for its waiters.
#[derive(Clone, Debug)]
pub(crate) enum WaitResult {
    /// There is a new token.
    Refreshed,
    /// The login yielded the current token once more.
    Unchanged,
    /// The login failed.
    Failed(Error),
    /// A logout ended, with this result.
    LoggedOut(Result<(), Error>),
    /// The logout of a replaced token ended.
    Retired,
    /// A password change ended, with this result.
    PasswordChange(Result<(), Error>),
}

impl Job {
    /// Wakes all waiters with `result`.
    pub(super) fn finish(&self, result: WaitResult) {
        // `LandOnDrop` ensures that a job ends once.
        let _ = self.result.set(result);
        self.wake.notify_waiters();
    }

    /// Wakes all waiters before the job has ended: the session was logged out.
    pub(crate) fn notify_logout(&self) {
        self.wake.notify_waiters();
    }
}

/// Waits for the end of a job. Resolves to `None` if the session was logged out
/// before that.
#[derive(Debug)]
pub(crate) struct Wait {
    job: Arc<Job>,
    // Boxed because it is pinned and its waiter is not; only the slow path waits.
    woken: Pin<Box<OwnedNotified>>,
}

impl Wait {
    pub(crate) fn on(job: Arc<Job>) -> Self {
        // Created before `result` is read: no wake-up is missed in between.
        let woken = Box::pin(job.wake.clone().notified_owned());
        Self { job, woken }
    }

    /// Returns another wait for the same job.
    pub(crate) fn again(&self) -> Self {
        Self::on(self.job.clone())
    }

    pub(crate) fn into_job(self) -> Arc<Job> {
        self.job
    }
}

impl Future for Wait {
    type Output = Option<WaitResult>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<WaitResult>> {
        if self.job.result.get().is_none() {
            ready!(self.woken.as_mut().poll(cx));
        }
        Poll::Ready(self.job.result.get().cloned())
    }
}
