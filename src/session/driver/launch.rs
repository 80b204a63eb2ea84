//! Launches jobs, each in a task of its own.

use std::sync::Arc;
use std::time::Duration;

use super::job::{Job, WaitResult};
use super::land::{GRACE, LandOnDrop, watch};
use super::run::{self, JobResult, JobSpec};
use super::state::DriverState;
use super::{Driver, nesting, trace};
use crate::loom;
use crate::provider::{LogoutReason, Reason};
use crate::session::rules::{JobKind, Launch, State};

/// How often a job is watched at least.
const WATCH_EVERY: Duration = Duration::from_secs(60);

impl Driver {
    pub(super) fn spec(&self, state: &mut DriverState, launch: Launch) -> JobSpec {
        match launch {
            Launch::Job(JobKind::Login { reason, kind }) => JobSpec::Login {
                reason,
                kind,
                previous: state.previous.clone(),
                // A rejection whose login did not start leaves one behind.
                challenge: state
                    .challenge
                    .take()
                    .filter(|_| reason == Reason::Rejected),
            },
            Launch::Job(JobKind::Logout) => JobSpec::Logout {
                tokens: state.ending(),
                retiring: state.retiring(),
                reason: match state.rules.state() == State::Closed {
                    true => LogoutReason::Closed,
                    false => LogoutReason::LoggedOut,
                },
            },
            Launch::Retire { generation } => JobSpec::Retire {
                token: state.retired(generation),
            },
            Launch::Job(JobKind::ChangePassword) => {
                let published = self.published.load();
                let token = published
                    .as_ref()
                    .map(|published| published.token().clone());
                let change = state.change.take();
                JobSpec::ChangePassword {
                    token,
                    change: *change.expect("set by the event that started the change"),
                }
            }
        }
    }

    /// Starts a job on the current runtime, in a task of its own: it outlives its
    /// callers.
    pub(super) fn launch(self: &Arc<Self>, job: Arc<Job>, launch: Launch, spec: JobSpec) {
        let runner = self.runner.clone();
        let driver = Arc::downgrade(self);
        let interval = runner.login_timeout.clamp(GRACE, WATCH_EVERY);
        // Before the job's task, which may block this thread: another one takes it over.
        let watch = loom::spawn(watch(driver.clone(), job.clone(), launch, interval));
        let guard = LandOnDrop {
            driver,
            job,
            launch: Some(launch),
            watch,
        };
        let task = async move {
            let job = guard.job.clone();
            let result = run::run(&runner, &job, spec).await;
            let late = match guard.driver.upgrade() {
                Some(driver) => guard.land(&driver, result),
                None => {
                    // A logout of the session may wait for it.
                    if let JobResult::Retire(logout) = result {
                        job.finish(WaitResult::Retired(logout));
                    }
                    Some((result, LogoutReason::Closed))
                }
            };
            if let Some((result, reason)) = late {
                run::end_unused(&runner, &job, result, reason).await;
            }
        };
        let task = trace::in_span(self.name(), launch, task);
        let task = nesting::scope(self.identity(), task);
        // Without a runtime, or when it shuts down, the task is dropped, and its
        // guard lands the job.
        drop(loom::spawn(task));
    }
}
