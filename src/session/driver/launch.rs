//! Launches the jobs and the background logouts, each in a task of its own.

use std::sync::Arc;
use std::time::Duration;

use super::land::{GRACE, LandOnDrop, land_overdue};
use super::run::{self, TaskResult, TaskSpec};
use super::state::DriverState;
use super::task::{Task, WaitResult};
use super::{Driver, nesting, trace};
use crate::loom;
use crate::provider::{LogoutReason, Reason};
use crate::session::rules::{JobKind, Launch, State};

/// How often the deadline of a task is checked at least.
const CHECK_EVERY: Duration = Duration::from_secs(60);

impl Driver {
    pub(super) fn spec(&self, state: &mut DriverState, launch: Launch) -> TaskSpec {
        match launch {
            Launch::Job(JobKind::Login { reason, kind }) => TaskSpec::Login {
                reason,
                kind,
                previous: state.previous.clone(),
                // A rejection whose login did not start leaves one behind.
                challenge: state
                    .challenge
                    .take()
                    .filter(|_| reason == Reason::Rejected),
            },
            Launch::Job(JobKind::Logout) => TaskSpec::Logout {
                tokens: state.ending(),
                logging_out: state.logging_out(),
                reason: match state.rules.state() == State::Closed {
                    true => LogoutReason::Closed,
                    false => LogoutReason::LoggedOut,
                },
            },
            Launch::BackgroundLogout { generation } => TaskSpec::BackgroundLogout {
                token: state.retired(generation),
            },
            Launch::Job(JobKind::ChangePassword) => {
                let published = self.published.load();
                let token = published
                    .as_ref()
                    .map(|published| published.token().clone());
                let change = state.change.take();
                TaskSpec::ChangePassword {
                    token,
                    change: *change.expect("set by the event that started the change"),
                }
            }
        }
    }

    /// Starts a task on the current runtime. It outlives its callers.
    pub(super) fn launch(self: &Arc<Self>, task: Arc<Task>, launch: Launch, spec: TaskSpec) {
        let runner = self.runner.clone();
        let driver = Arc::downgrade(self);
        let interval = runner.login_timeout.clamp(GRACE, CHECK_EVERY);
        // Before the task, which may block this thread: another thread takes this one over.
        let overdue = loom::spawn(land_overdue(driver.clone(), task.clone(), launch, interval));
        let guard = LandOnDrop {
            driver,
            task,
            launch: Some(launch),
            overdue,
        };
        let run = async move {
            let task = guard.task.clone();
            let result = run::run(&runner, &task, spec).await;
            let late = match guard.driver.upgrade() {
                Some(driver) => guard.land(&driver, result),
                None => {
                    // A logout of the session may wait for it.
                    if let TaskResult::BackgroundLogout(logout) = result {
                        task.finish(WaitResult::BackgroundLogout(logout));
                    }
                    Some((result, LogoutReason::Closed))
                }
            };
            if let Some((result, reason)) = late {
                run::end_unused(&runner, &task, result, reason).await;
            }
        };
        let run = trace::in_span(self.name(), launch, run);
        let run = nesting::scope(self.identity(), run);
        // Without a runtime, or when it shuts down, the task is dropped, and its
        // guard lands it.
        drop(loom::spawn(run));
    }
}
