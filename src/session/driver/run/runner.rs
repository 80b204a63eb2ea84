//! Calls the provider and the credential store for a task.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::credentials::account::AccountSettings;
use crate::credentials::shared_account::OpenAccount;
use crate::credentials::source::Realm;
use crate::credentials::{Source, SourceError};
use crate::error::{Error, ErrorKind};
use crate::loom;
use crate::provider::{ErasedProvider, LogoutEnds, ProviderError};
use crate::session::driver::foreign::contained;
use crate::session::driver::task::Task;
use crate::session::driver::trace;

/// Replaces a timeout that the clock cannot represent: about 30 years.
const NEVER: Duration = Duration::from_secs(1_000_000_000);

/// The parts of a session that its tasks use. They outlive the session if a task does.
pub(crate) struct Runner {
    pub(in crate::session) provider: Box<dyn ErasedProvider>,
    pub(in crate::session) login_timeout: Duration,
    pub(in crate::session) logout_ends: LogoutEnds,
    pub(in crate::session) realm: Realm,
    pub(in crate::session) password_retention: Option<Duration>,
    pub(in crate::session) retry_refused_after: Option<Duration>,
}

impl Runner {
    pub(super) async fn open<'a>(
        &'a self,
        source: &'a Source,
    ) -> Result<OpenAccount<'a>, ProviderError> {
        let mut settings = AccountSettings {
            login_timeout: self.login_timeout,
            retry_refused_after: self.retry_refused_after,
            ..AccountSettings::default()
        };
        if let Some(retention) = self.password_retention {
            settings.retention = retention;
        }
        Ok(source.open(&self.realm, settings).await?)
    }

    /// Returns the deadline of several calls of the store, each of which has a timeout of
    /// its own.
    pub(super) fn store_deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.login_timeout.saturating_mul(4))
            .unwrap_or_else(|| now + NEVER)
    }

    /// Returns the deadline of a call that starts now.
    pub(super) fn deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.login_timeout)
            .unwrap_or_else(|| now + NEVER)
    }
}

/// Runs `call` until `deadline`, and `then` with its result. A panic counts as an error.
pub(super) async fn guarded<T, E: Into<Error>, F: Future>(
    task: &Task,
    deadline: Instant,
    call: impl FnOnce() -> F,
    then: impl FnOnce(F::Output) -> Result<T, E>,
) -> Result<T, Error> {
    task.set_deadline(Some(deadline));
    let panicked = || Error::new(ErrorKind::ProviderPanicked);
    let mut call = contained(|| Box::pin(call())).ok_or_else(panicked)?;
    // A call that has panicked is not polled again, so its state does not matter.
    let polled = poll_fn(|cx| {
        // It may block this one.
        loom::wake_another_worker();
        match contained(|| call.as_mut().poll(cx)) {
            Some(poll) => poll.map(Some),
            None => Poll::Ready(None),
        }
    });
    let ended = loom::timeout_at(deadline, polled).await;
    // Its result is safe from a panic of its `Drop`.
    contained(|| drop(call));
    let Ok(ended) = ended else {
        return Err(Error::new(ErrorKind::DeadlineExceeded));
    };
    let result = ended.and_then(|output| contained(|| then(output)));
    result.ok_or_else(panicked)?.map_err(Into::into)
}

pub(super) async fn open<'a>(
    runner: &'a Runner,
    task: &Task,
    source: &'a Source,
) -> Result<OpenAccount<'a>, Error> {
    guarded(
        task,
        runner.deadline(),
        || runner.open(source),
        |opened| opened,
    )
    .await
}

/// Stores an outcome. If that fails, the account keeps the outcome in memory and
/// stores it with its next record, so the failure changes nothing here.
pub(super) async fn store<T>(
    runner: &Runner,
    task: &Task,
    stored: impl Future<Output = Result<T, SourceError>>,
) -> Option<T> {
    let then = |stored: Result<_, _>| stored.map_err(ProviderError::from);
    let stored = guarded(task, runner.store_deadline(), || stored, then).await;
    stored.inspect_err(trace::not_stored).ok()
}
