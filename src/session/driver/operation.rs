//! The operations of the session's callers.

use std::future::poll_fn;
use std::sync::Arc;

use super::Driver;
use super::published::Published;
use super::task::{Wait, WaitResult};
use super::wait::AcquireToken;
use crate::error::{Error, ErrorKind};
use crate::session::rules::{JobStart, Rules, Timestamp};
use crate::token::Token;

impl Driver {
    /// See [`Session::token`](crate::Session::token).
    pub(in crate::session) async fn token(self: &Arc<Self>) -> Result<Token, Error> {
        let admission = self.admit()?;
        let mut acquire = AcquireToken::new();
        let lease = poll_fn(|cx| acquire.poll(self, cx)).await?;
        let token = Published::hand_out(lease);
        drop(admission);
        let now = self.now();
        self.step(|state, _| state.rules.on_use(now));
        Ok(token)
    }

    /// See [`Session::accept`](crate::Session::accept).
    pub(in crate::session) fn accepted_by_hand(self: &Arc<Self>, token: &Token) {
        let (generation, now) = (token.generation(), self.now());
        self.step(|state, _| state.rules.accepted_by_hand(generation, now));
    }

    /// See [`Session::login`](crate::Session::login).
    pub(in crate::session) async fn login(self: &Arc<Self>) -> Result<(), Error> {
        let logouts = self.lock().rules.logouts();
        self.run_login(|rules, now| rules.login(logouts, now)).await
    }

    /// See [`Session::renew`](crate::Session::renew).
    pub(in crate::session) async fn renew(self: &Arc<Self>) -> Result<(), Error> {
        self.run_login(Rules::renew).await
    }

    /// See [`Session::logout`](crate::Session::logout).
    pub(in crate::session) async fn logout(self: &Arc<Self>) -> Result<(), Error> {
        self.not_nested()?;
        let now = self.now();
        let (_, wait) = self.step(|state, _| {
            state.rules.logout(now);
            state.previous = None;
        });
        let mut job = wait.map(Wait::into_task);
        if let Some(job) = &job {
            job.call_off();
        }
        loop {
            if let Some(result) = self.lock().rules.logout_result() {
                return result;
            }
            let Some(running) = job.take() else {
                job = self.lock().job.clone();
                continue;
            };
            if let Some(WaitResult::LoggedOut(result)) = Wait::on(running).await {
                return result;
            }
            // The token of a login that ended in the meantime is being logged out.
            job = self.lock().job.clone();
        }
    }

    /// Repeats `event` until it has a job, its own or one to join, and returns the
    /// result of the login.
    async fn run_login(
        self: &Arc<Self>,
        mut event: impl FnMut(&mut Rules, Timestamp) -> JobStart,
    ) -> Result<(), Error> {
        loop {
            let now = self.now();
            match self.step(|state, _| event(&mut state.rules, now)) {
                (JobStart::Started | JobStart::Join, Some(wait)) => {
                    self.not_nested()?;
                    match wait.await {
                        Some(WaitResult::Refreshed | WaitResult::Unchanged) => return Ok(()),
                        Some(WaitResult::Failed(error)) => return Err(error),
                        // The session was logged out in the meantime: the next
                        // event returns the error, or logs in anew.
                        Some(
                            WaitResult::LoggedOut(_)
                            | WaitResult::BackgroundLogout(_)
                            | WaitResult::PasswordChange(_)
                            | WaitResult::LogInFirst { .. },
                        )
                        | None => {}
                    }
                }
                (
                    JobStart::Busy | JobStart::Started | JobStart::Join | JobStart::NeedsToken,
                    wait,
                ) => {
                    // A refusal is shared: the same password is not sent once more.
                    if let Some(WaitResult::Failed(error)) = self.wait_for_another(wait).await?
                        && error.kind() == ErrorKind::Refused
                    {
                        return Err(error);
                    }
                }
                (JobStart::Fail(error), _) => return Err(error),
            }
        }
    }

    pub(super) async fn wait_for_another(
        self: &Arc<Self>,
        wait: Option<Wait>,
    ) -> Result<Option<WaitResult>, Error> {
        self.not_nested()?;
        Ok(match wait {
            Some(wait) => wait.await,
            None => None,
        })
    }
}
