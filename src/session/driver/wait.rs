//! Waits for a token: for the first one of a request, or for a newer one after a
//! rejection.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::Driver;
use super::published::{Lease, WaitTimer};
use super::task::{Wait, WaitResult};
use crate::error::{Error, ErrorKind};
use crate::origin::Target;
use crate::provider::Challenge;
use crate::reauth::ReauthFailure;

/// Gets a usable token.
#[derive(Debug)]
pub(crate) struct AcquireToken {
    wait: Option<Wait>,
    /// Runs since the first wait.
    timer: Option<WaitTimer>,
}

impl AcquireToken {
    pub(crate) fn new() -> Self {
        Self {
            wait: None,
            timer: None,
        }
    }

    pub(crate) fn poll(
        &mut self,
        driver: &Arc<Driver>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Lease, Error>> {
        loop {
            if let Some(wait) = &mut self.wait {
                let result = ready!(Pin::new(wait).poll(cx));
                self.wait = None;
                match (result, driver.usable()) {
                    // Without reading the clock: a request that waited for a token
                    // uses it, however short its lifetime.
                    (_, Some(lease)) => return Poll::Ready(Ok(lease)),
                    // The error is shared, like the login.
                    (Some(WaitResult::Failed(error)), None) => return Poll::Ready(Err(error)),
                    (
                        Some(
                            WaitResult::Refreshed
                            | WaitResult::Unchanged
                            | WaitResult::LoggedOut(_)
                            | WaitResult::BackgroundLogout(_)
                            | WaitResult::PasswordChange(_)
                            | WaitResult::LogInFirst { .. },
                        )
                        | None,
                        None,
                    ) => {}
                }
            }
            self.wait = driver.acquire()?;
            if self.wait.is_some() {
                self.timer.get_or_insert_with(|| driver.start_waiting());
            } else if let Some(lease) = driver.usable() {
                return Poll::Ready(Ok(lease));
            }
        }
    }
}

/// Waits until a rejected request may be replayed.
#[derive(Debug)]
pub(crate) struct AwaitRefresh {
    generation: u64,
    target: Option<Target>,
    wait: Option<Wait>,
    /// Runs since the first wait.
    timer: Option<WaitTimer>,
}

impl AwaitRefresh {
    /// Returns `Ok` once a replay may be sent, or the reason why none will be.
    pub(crate) fn poll(
        &mut self,
        driver: &Arc<Driver>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ReauthFailure>> {
        while let Some(wait) = &mut self.wait {
            self.timer.get_or_insert_with(|| driver.start_waiting());
            match ready!(Pin::new(wait).poll(cx)) {
                // The login was to replace a newer token, which is in use again.
                Some(WaitResult::Failed(_) | WaitResult::Unchanged) if self.is_late(driver) => {
                    return Poll::Ready(Ok(()));
                }
                Some(WaitResult::Failed(error)) => return Poll::Ready(Err(failure_of(error))),
                Some(WaitResult::Unchanged) => {
                    return Poll::Ready(Err(ReauthFailure::StillRejected));
                }
                // Ask again: the newer token may be rejected already, and other
                // jobs yield no token.
                Some(
                    WaitResult::Refreshed
                    | WaitResult::LoggedOut(_)
                    | WaitResult::BackgroundLogout(_)
                    | WaitResult::PasswordChange(_)
                    | WaitResult::LogInFirst { .. },
                )
                | None => {
                    self.wait = driver.report_rejection(self.generation, self.target, None)?;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Returns whether the current token is newer than the rejected one.
    fn is_late(&self, driver: &Driver) -> bool {
        driver
            .usable()
            .is_some_and(|lease| lease.token().generation() > self.generation)
    }
}

impl Driver {
    /// Reports the first rejection of a request. `Err` is the reason to return its
    /// response.
    ///
    /// `challenge` is the `WWW-Authenticate` of the response.
    pub(crate) fn rejected(
        self: &Arc<Self>,
        generation: u64,
        target: Option<Target>,
        challenge: Option<Box<Challenge>>,
    ) -> Result<AwaitRefresh, ReauthFailure> {
        self.count_rejection();
        let wait = self.report_rejection(generation, target, challenge)?;
        Ok(AwaitRefresh {
            generation,
            target,
            wait,
            timer: None,
        })
    }
}

/// Returns why a rejected response is returned after its refresh failed with
/// `error`.
pub(crate) fn failure_of(error: Error) -> ReauthFailure {
    if let ErrorKind::LoggedOut | ErrorKind::Closed = error.kind() {
        return ReauthFailure::LoggedOut;
    }
    ReauthFailure::RenewalFailed(error)
}
