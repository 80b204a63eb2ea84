//! A running task, and how callers wait for it.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, ErrorKind};
use crate::loom::{Notify, OnceLock, OwnedNotified};
use crate::session::rules::LogoutOutcome;

/// A job or a background logout that is running or has ended, as its waiters see it.
#[derive(Debug, Default)]
pub(crate) struct Task {
    result: OnceLock<WaitResult>,
    wake: Arc<Notify>,
    /// Set by a logout, when the last handle is dropped, and when the task is given up.
    /// It must not send another login or password change.
    called_off: OnceLock<()>,
    /// How long the machine had slept at the launch.
    slept: Duration,
    progress: Mutex<Progress>,
}

/// How far a task has come.
#[derive(Debug, Default)]
struct Progress {
    sent: Option<Instant>,
    deadline: Option<Instant>,
}

/// How a task has ended, for its waiters.
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
    /// A background logout ended.
    BackgroundLogout(LogoutOutcome),
    /// A password change ended, with this result.
    PasswordChange(Result<(), Error>),
    /// A login must come before a password change.
    LogInFirst {
        /// Whether an earlier change, which is still open, was sent again.
        has_sent: bool,
    },
}

impl Task {
    pub(super) fn new(slept: Duration) -> Self {
        Self {
            slept,
            ..Self::default()
        }
    }

    /// Returns how long the machine had slept when the task was launched.
    pub(super) fn slept(&self) -> Duration {
        self.slept
    }

    /// Wakes all waiters with `result`.
    pub(super) fn finish(&self, result: WaitResult) {
        // `Driver::land` ensures that a task ends once.
        let _ = self.result.set(result);
        self.wake.notify_waiters();
    }

    /// Wakes all waiters before the task has ended, and the task itself if it waits for
    /// another session: this one was logged out.
    pub(crate) fn call_off(&self) {
        let _ = self.called_off.set(());
        self.wake.notify_waiters();
    }

    /// The provider is about to be called.
    pub(super) fn on_send(&self) {
        self.progress().sent = Some(Instant::now());
    }

    /// Returns when the provider was called last; `None` if it was not called yet.
    pub(super) fn sent(&self) -> Option<Instant> {
        self.progress().sent
    }

    /// Calls the task off if its call still has this deadline. Returns whether it has.
    pub(super) fn give_up(&self, deadline: Instant) -> bool {
        let progress = self.progress();
        let is_running = progress.deadline == Some(deadline);
        if is_running {
            let _ = self.called_off.set(());
        }
        drop(progress);
        is_running
    }

    /// Returns the deadline of the running call, if there is one.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.progress().deadline
    }

    pub(super) fn set_deadline(&self, deadline: Option<Instant>) {
        self.progress().deadline = deadline;
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns an error if the task must not send anything more.
    pub(super) fn is_wanted(&self) -> Result<(), Error> {
        match self.called_off.get() {
            Some(()) => Err(Error::new(ErrorKind::LoggedOut)),
            None => Ok(()),
        }
    }

    /// Waits for the end of a background logout. Returns whether it has failed.
    pub(super) async fn has_logout_failed(self: &Arc<Self>) -> bool {
        loop {
            match Wait::on(self.clone()).await {
                Some(WaitResult::BackgroundLogout(logout)) => {
                    return match logout {
                        LogoutOutcome::Done | LogoutOutcome::Nothing => false,
                        LogoutOutcome::Postponed(_) | LogoutOutcome::Failed => true,
                    };
                }
                Some(_) => return false,
                None => {}
            }
        }
    }

    /// Waits for `other`, unless the task is called off.
    pub(super) async fn while_wanted(&self, other: impl Future<Output = ()>) -> Result<(), Error> {
        self.set_deadline(None);
        let mut other = pin!(other);
        // Created before `called_off` is read: no wake-up is missed in between.
        let mut woken = pin!(self.wake.clone().notified_owned());
        poll_fn(|cx| {
            if let Err(called_off) = self.is_wanted() {
                return Poll::Ready(Err(called_off));
            }
            if other.as_mut().poll(cx).is_ready() || woken.as_mut().poll(cx).is_ready() {
                return Poll::Ready(self.is_wanted());
            }
            Poll::Pending
        })
        .await
    }
}

/// Waits for the end of a task. Resolves to `None` if the session was logged out
/// before that.
#[derive(Debug)]
pub(crate) struct Wait {
    task: Arc<Task>,
    // Boxed because it is pinned and its waiter is not; only the slow path waits.
    woken: Pin<Box<OwnedNotified>>,
}

impl Wait {
    pub(crate) fn on(task: Arc<Task>) -> Self {
        // Created before `result` is read: no wake-up is missed in between.
        let woken = Box::pin(task.wake.clone().notified_owned());
        Self { task, woken }
    }

    /// Returns another wait for the same task.
    pub(crate) fn again(&self) -> Self {
        Self::on(self.task.clone())
    }

    pub(crate) fn into_task(self) -> Arc<Task> {
        self.task
    }
}

impl Future for Wait {
    type Output = Option<WaitResult>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<WaitResult>> {
        if self.task.result.get().is_none() {
            ready!(self.woken.as_mut().poll(cx));
        }
        Poll::Ready(self.task.result.get().cloned())
    }
}
