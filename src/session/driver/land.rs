//! The end of a task: its result is applied and published, and wakes its waiters.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::Driver;
use super::foreign::contained;
use super::published::{Lease, Retired};
use super::run::{self, ChangeFailure, TaskResult};
use super::state::DriverState;
use super::task::{Task, WaitResult};
use crate::error::{Error, ErrorKind, Operation};
use crate::loom::{self, AbortHandle};
use crate::provider::LogoutReason;
use crate::session::rules::{
    JobKind, Launch, LoginOutcome, LogoutOutcome, NewToken, State, Timestamp,
};

/// How long after the deadline of a call that blocks its thread its task is ended.
pub(super) const GRACE: Duration = Duration::from_millis(100);

impl Driver {
    /// Applies the result of a task, and wakes its waiters. If the task has landed before,
    /// returns the late result, and why its token is of no use.
    pub(super) fn land(
        self: &Arc<Self>,
        task: &Arc<Task>,
        result: TaskResult,
    ) -> Option<(TaskResult, LogoutReason)> {
        let now = self.now();
        let (ended, _, after) = self.step_locked(|state, published| {
            let running = match &result {
                TaskResult::BackgroundLogout(_) => &mut state.background_logout,
                TaskResult::Login { .. }
                | TaskResult::Logout { .. }
                | TaskResult::ChangePassword(_) => &mut state.job,
            };
            match running.take_if(|running| Arc::ptr_eq(running, task)) {
                Some(_) => Ok(self.apply(state, published, &result, task.slept(), now)),
                // Its logout would end the token in use.
                None if published.is_some_and(|published| result.extends(published.token())) => {
                    Err(None)
                }
                None => Err(Some(match state.rules.state() {
                    State::Closed => LogoutReason::Closed,
                    State::LoggedOut => LogoutReason::LoggedOut,
                    State::Idle
                    | State::LoggingIn
                    | State::Live
                    | State::Renewing
                    | State::BackingOff
                    | State::Refused => LogoutReason::Replaced,
                })),
            }
        });
        let late = ended.map(|ended| {
            // After publication: a woken waiter always observes the new state.
            contained(|| task.finish(ended));
            contained(|| self.usage().changed.notify_waiters());
        });
        self.after_unlock(after);
        match late {
            Ok(()) => {
                contained(|| drop(result));
                None
            }
            Err(reason) => reason.map(|reason| (result, reason)),
        }
    }

    /// Returns the result of a task that was dropped or given up before it has ended.
    pub(super) fn unfinished(task: &Task, launch: Launch, error: ErrorKind) -> TaskResult {
        let error = Error::new(error);
        match launch {
            Launch::Job(JobKind::Login { .. }) => TaskResult::Login {
                sent: task.sent(),
                token: Err(error),
            },
            Launch::Job(JobKind::Logout) => TaskResult::Logout {
                ended: Vec::new(),
                outcome: Err(error),
            },
            Launch::BackgroundLogout { .. } => {
                TaskResult::BackgroundLogout(LogoutOutcome::Postponed(None))
            }
            Launch::Job(JobKind::ChangePassword) => {
                TaskResult::ChangePassword(Err(run::unfinished_change(error, task.sent()).into()))
            }
        }
    }

    fn apply(
        &self,
        state: &mut DriverState,
        published: Option<&Lease>,
        result: &TaskResult,
        slept: Duration,
        now: Timestamp,
    ) -> WaitResult {
        match result {
            TaskResult::Login {
                sent,
                token: Ok(token),
            } => {
                let new = NewToken {
                    lifetimes: self.config().lifetimes(token),
                    sent: sent.map_or(now, |sent| self.clock.timestamp(sent, slept)),
                    same: match published {
                        Some(published) => token.repeats(published.token()),
                        None => state.is_newest_retired(token),
                    },
                    continues: token.is_continuation(),
                };
                let token = token.clone();
                match state.rules.login_landed(new, now) {
                    LoginOutcome::Keep { generation } => {
                        self.keep_back(state, token.of_generation(generation));
                        WaitResult::Refreshed
                    }
                    LoginOutcome::Publish { generation } => {
                        self.settle_candidate(state);
                        self.unpublish(state);
                        self.publish_token(state, token.of_generation(generation));
                        WaitResult::Refreshed
                    }
                    // The provider's data may have changed.
                    LoginOutcome::Unchanged { generation } => {
                        self.publish_token(state, token.of_generation(generation));
                        WaitResult::Unchanged
                    }
                    LoginOutcome::End { generation } => {
                        let token = token.of_generation(generation);
                        let mut retired = state.retired.iter_mut();
                        match retired.find(|old| old.token.generation() == generation) {
                            // Its data may have changed.
                            Some(old) => old.token = token,
                            None => {
                                let leases = Vec::new();
                                state.retired.push(Retired { token, leases });
                            }
                        }
                        WaitResult::Failed(Error::new(ErrorKind::LoggedOut))
                    }
                }
            }
            TaskResult::Login {
                sent,
                token: Err(error),
            } => {
                if sent.is_some() && may_have_used_up(error) {
                    state.previous = None;
                }
                let error = error.clone().during(Operation::Login);
                WaitResult::Failed(state.rules.login_failed(error, now))
            }
            TaskResult::Logout { ended, outcome } => {
                let failed = |error: Error| error.during(Operation::Logout);
                let outcome = outcome.clone().map_err(failed);
                state.rules.logout_landed(ended, outcome.clone());
                WaitResult::LoggedOut(outcome)
            }
            TaskResult::BackgroundLogout(logout) => {
                state.rules.background_logout_landed(*logout, now);
                WaitResult::BackgroundLogout(*logout)
            }
            TaskResult::ChangePassword(Ok(())) => {
                state.rules.password_change_landed(Ok(()), now);
                WaitResult::PasswordChange(Ok(()))
            }
            TaskResult::ChangePassword(Err(ChangeFailure::Failed(error))) => {
                let error = error.clone().during(Operation::PasswordChange);
                state.rules.password_change_landed(Err(error.clone()), now);
                WaitResult::PasswordChange(Err(error))
            }
            TaskResult::ChangePassword(Err(ChangeFailure::LogInFirst { has_sent })) => {
                let has_sent = *has_sent;
                match has_sent {
                    true => {
                        let error = Error::new(ErrorKind::Uncertain);
                        let error = error.during(Operation::PasswordChange);
                        state.rules.password_change_landed(Err(error), now);
                    }
                    false => state.rules.password_change_put_off(now),
                }
                WaitResult::LogInFirst { has_sent }
            }
        }
    }
}

/// Lands a task whose call does not end at its deadline. Runs beside it, since the call
/// may block its thread.
pub(super) async fn land_overdue(
    driver: Weak<Driver>,
    task: Arc<Task>,
    launch: Launch,
    interval: Duration,
) {
    loop {
        let now = Instant::now();
        let deadline = task.deadline();
        let due = deadline.map(|deadline| deadline + GRACE);
        // First called off: it must not send another password.
        if due.is_some_and(|due| due <= now) && deadline.is_some_and(|at| task.give_up(at)) {
            break;
        }
        // The next call may have an earlier deadline.
        let look = now + interval;
        loom::sleep_until(due.map_or(look, |due| due.clamp(now, look))).await;
    }
    match (driver.upgrade(), launch) {
        (Some(driver), _) => {
            let result = Driver::unfinished(&task, launch, ErrorKind::DeadlineExceeded);
            driver.land(&task, result);
        }
        (None, Launch::BackgroundLogout { .. }) => {
            task.finish(WaitResult::BackgroundLogout(LogoutOutcome::Postponed(None)));
        }
        (None, Launch::Job(_)) => {}
    }
}

/// Lands a task that is dropped before it has ended.
pub(super) struct LandOnDrop {
    pub(super) driver: Weak<Driver>,
    pub(super) task: Arc<Task>,
    /// `None` once the task has landed.
    pub(super) launch: Option<Launch>,
    /// Runs [`land_overdue`].
    pub(super) overdue: Option<AbortHandle>,
}

impl LandOnDrop {
    pub(super) fn land(
        mut self,
        driver: &Arc<Driver>,
        result: TaskResult,
    ) -> Option<(TaskResult, LogoutReason)> {
        self.launch = None;
        driver.land(&self.task, result)
    }
}

impl Drop for LandOnDrop {
    fn drop(&mut self) {
        if let Some(overdue) = &self.overdue {
            overdue.abort();
        }
        let Some(launch) = self.launch.take() else {
            return;
        };
        let Some(driver) = self.driver.upgrade() else {
            if let Launch::BackgroundLogout { .. } = launch {
                let logout = LogoutOutcome::Postponed(None);
                self.task.finish(WaitResult::BackgroundLogout(logout));
            }
            return;
        };
        let error = match std::thread::panicking() {
            true => ErrorKind::ProviderPanicked,
            false => ErrorKind::NoRuntime,
        };
        let result = Driver::unfinished(&self.task, launch, error);
        driver.land(&self.task, result);
    }
}

/// Returns whether a failed login may have used up the token that it was to
/// extend or exchange. Some servers revoke everything when one is used twice.
fn may_have_used_up(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Uncertain
        | ErrorKind::DeadlineExceeded
        | ErrorKind::ProviderPanicked
        | ErrorKind::NoRuntime => true,
        ErrorKind::LoggedOut
        | ErrorKind::Closed
        | ErrorKind::Refused
        | ErrorKind::PasswordExpired
        | ErrorKind::Locked
        | ErrorKind::InteractionRequired
        | ErrorKind::Unavailable
        | ErrorKind::Protocol
        | ErrorKind::Unsupported
        | ErrorKind::TokenRejected
        | ErrorKind::Recursive
        | ErrorKind::NoOrigin
        | ErrorKind::InsecureOrigin
        | ErrorKind::Truncated => false,
    }
}
