//! The end of a job: its result is applied and published, and wakes its waiters.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::Driver;
use super::foreign::contained;
use super::job::{Job, WaitResult};
use super::published::{Lease, Retired};
use super::run::{self, ChangeFailure, JobResult};
use super::state::DriverState;
use crate::error::{Error, ErrorKind, Operation};
use crate::loom::{self, AbortHandle};
use crate::provider::LogoutReason;
use crate::session::rules::{
    JobKind, Launch, LoginOutcome, LogoutOutcome, NewToken, State, Timestamp,
};

/// How long after the deadline of a call that blocks its thread its job is ended.
pub(super) const GRACE: Duration = Duration::from_millis(100);

impl Driver {
    /// Applies the result of a job, and wakes its waiters. If the job has landed before,
    /// returns the late result, and why its token is of no use.
    pub(super) fn land(
        self: &Arc<Self>,
        job: &Arc<Job>,
        result: JobResult,
    ) -> Option<(JobResult, LogoutReason)> {
        let now = self.now();
        let (ended, _, after) = self.step_locked(|state, published| {
            let running = match &result {
                JobResult::Retire(_) => &mut state.retire,
                JobResult::Login { .. }
                | JobResult::Logout { .. }
                | JobResult::ChangePassword(_) => &mut state.job,
            };
            match running.take_if(|running| Arc::ptr_eq(running, job)) {
                Some(_) => Ok(self.apply(state, published, &result, job.suspended(), now)),
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
            contained(|| job.finish(ended));
            contained(|| self.usage.changed.notify_waiters());
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

    /// Returns the result of a job whose task is lost or given up.
    pub(super) fn lost(job: &Job, launch: Launch, error: ErrorKind) -> JobResult {
        let lost = Error::new(error);
        match launch {
            Launch::Job(JobKind::Login { .. }) => JobResult::Login {
                sent: job.sent(),
                token: Err(lost),
            },
            Launch::Job(JobKind::Logout) => JobResult::Logout {
                ended: Vec::new(),
                outcome: Err(lost),
            },
            Launch::Retire { .. } => JobResult::Retire(LogoutOutcome::Postponed(None)),
            Launch::Job(JobKind::ChangePassword) => {
                JobResult::ChangePassword(Err(run::lost_change(lost, job.sent()).into()))
            }
        }
    }

    fn apply(
        &self,
        state: &mut DriverState,
        published: Option<&Lease>,
        result: &JobResult,
        suspended: Duration,
        now: Timestamp,
    ) -> WaitResult {
        match result {
            JobResult::Login {
                sent,
                token: Ok(token),
            } => {
                let new = NewToken {
                    lifetimes: self.config.lifetimes(token),
                    sent: sent.map_or(now, |sent| self.clock.timestamp(sent, suspended)),
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
            JobResult::Login {
                sent,
                token: Err(error),
            } => {
                if sent.is_some() && may_have_used_up(error) {
                    state.previous = None;
                }
                let error = error.clone().during(Operation::Login);
                WaitResult::Failed(state.rules.login_failed(error, now))
            }
            JobResult::Logout { ended, outcome } => {
                let failed = |error: Error| error.during(Operation::Logout);
                let outcome = outcome.clone().map_err(failed);
                state.rules.logout_landed(ended, outcome.clone());
                WaitResult::LoggedOut(outcome)
            }
            JobResult::Retire(logout) => {
                state.rules.retire_landed(*logout, now);
                WaitResult::Retired(*logout)
            }
            JobResult::ChangePassword(Ok(())) => {
                state.rules.password_change_landed(Ok(()), now);
                WaitResult::PasswordChange(Ok(()))
            }
            JobResult::ChangePassword(Err(ChangeFailure::Failed(error))) => {
                let error = error.clone().during(Operation::PasswordChange);
                state.rules.password_change_landed(Err(error.clone()), now);
                WaitResult::PasswordChange(Err(error))
            }
            JobResult::ChangePassword(Err(ChangeFailure::LogInFirst { has_sent })) => {
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

/// Lands a job whose call does not end at its deadline. As a task of its own, since the
/// call may block the thread of the job's.
pub(super) async fn watch(driver: Weak<Driver>, job: Arc<Job>, launch: Launch, interval: Duration) {
    loop {
        let now = Instant::now();
        let deadline = job.deadline();
        let due = deadline.map(|deadline| deadline + GRACE);
        // First called off: its task must not send another password.
        if due.is_some_and(|due| due <= now) && deadline.is_some_and(|at| job.give_up(at)) {
            break;
        }
        // The next call may have an earlier deadline.
        let look = now + interval;
        loom::sleep_until(due.map_or(look, |due| due.clamp(now, look))).await;
    }
    match (driver.upgrade(), launch) {
        (Some(driver), _) => {
            let result = Driver::lost(&job, launch, ErrorKind::DeadlineExceeded);
            driver.land(&job, result);
        }
        (None, Launch::Retire { .. }) => {
            job.finish(WaitResult::Retired(LogoutOutcome::Postponed(None)));
        }
        (None, Launch::Job(_)) => {}
    }
}

/// Lands a job when its task is dropped before it has ended.
pub(super) struct LandOnDrop {
    pub(super) driver: Weak<Driver>,
    pub(super) job: Arc<Job>,
    /// `None` once the job has landed.
    pub(super) launch: Option<Launch>,
    pub(super) watch: Option<AbortHandle>,
}

impl LandOnDrop {
    pub(super) fn land(
        mut self,
        driver: &Arc<Driver>,
        result: JobResult,
    ) -> Option<(JobResult, LogoutReason)> {
        self.launch = None;
        driver.land(&self.job, result)
    }
}

impl Drop for LandOnDrop {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
        let Some(launch) = self.launch.take() else {
            return;
        };
        let Some(driver) = self.driver.upgrade() else {
            if let Launch::Retire { .. } = launch {
                let logout = LogoutOutcome::Postponed(None);
                self.job.finish(WaitResult::Retired(logout));
            }
            return;
        };
        let error = match std::thread::panicking() {
            true => ErrorKind::ProviderPanicked,
            false => ErrorKind::NoRuntime,
        };
        let result = Driver::lost(&self.job, launch, error);
        driver.land(&self.job, result);
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
