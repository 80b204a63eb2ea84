//! The public handle of a session.
//!
//! | file | contents |
//! |---|---|
//! | `mod` | the handle |
//! | `builder` | configures a session |
//! | `change_password` | changes the user's password |
//! | `close` | ends a session for good |
//! | `status` | a snapshot for observers |
//! | `driver` | one per session: the lock, publication, tasks and timers |
//! | `rules` | what to do, as a pure state machine |
//! | `loom_tests` | tests of all thread schedules |

mod builder;
mod change_password;
mod close;
mod driver;
#[cfg(all(test, reauth_loom))]
mod loom_tests;
mod rules;
mod status;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;

pub use builder::SessionBuilder;
pub use close::CloseError;
pub use driver::{Events, Logins, Stats};
pub use rules::{Event, State, TokenEnd};
pub use status::Status;

pub(crate) use driver::{
    AcquireToken, Admission, AwaitRefresh, Driver, Lease, Published, failure_of,
};
pub(crate) use rules::Timestamp;

use crate::error::{Error, ErrorKind};
use crate::token::Token;
use driver::{Wait, WaitResult};
use rules::{Rules, Start};

/// A session with one login system: the current token and everything that keeps
/// it usable.
///
/// Cloning copies a pointer; all clones are the same session. Each login, logout
/// and password change runs in a task of its own, so dropping a future that
/// waits for one loses nothing.
///
/// A session needs a tokio runtime with its timer enabled. Without one, a login
/// fails with [`ErrorKind::NoRuntime`](crate::ErrorKind::NoRuntime). It may be used
/// on several runtimes, one after the other or at once: if the runtime that has its
/// timer is shut down, the next request arms the timer on its own. Until then a
/// session that is kept alive is not refreshed.
///
/// ```
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use bytes::Bytes;
/// use tower::{ServiceBuilder, ServiceExt};
/// use tower_reauth::{FixedToken, Profile, Session};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_reauth::BoxError> {
/// # let http = tower::service_fn(|request: Request<Full<Bytes>>| async move {
/// #     assert_eq!(request.headers()["x-api-key"], "3f9a");
/// #     Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default()))
/// # });
/// let session = Session::new(FixedToken::api_key(
///     Profile::at("https://api.example.com".parse()?),
///     "3f9a",
/// ));
/// let client = ServiceBuilder::new().layer(session.layer()).service(http);
///
/// let request = Request::get("https://api.example.com/servers").body(Full::default())?;
/// let response = client.oneshot(request).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Session {
    driver: Arc<Driver>,
}

impl Session {
    /// Returns a usable token, for start-up, a probe, or a protocol other than
    /// HTTP.
    ///
    /// Logs in if there is none, or shares a login that is running. The token
    /// counts as used until its last copy drops.
    ///
    /// # Errors
    ///
    /// There is no token because the session is logged out, the credentials were
    /// refused, or the last login failed and the next one may not start yet.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing: a login that it started continues.
    pub async fn token(&self) -> Result<Token, Error> {
        let admission = self.driver.admit()?;
        let mut acquire = AcquireToken::new();
        let lease = poll_fn(|cx| acquire.poll(&self.driver, cx)).await?;
        let token = Published::hand_out(lease);
        drop(admission);
        let now = self.driver.now();
        self.driver.step(|state, _| state.rules.on_use(now));
        Ok(token)
    }

    /// Reports that a server rejected `token`, as a rejected response does.
    ///
    /// For other protocols, whose rejections the layer does not see. Unless
    /// `token` was replaced already, a login starts in the background;
    /// [`Session::token`] then waits for it.
    ///
    /// A server that rejects new tokens too does not cause a login each time: five may
    /// start at once, and one more each 10 s. The logins in place of tokens that nothing
    /// has accepted are spaced, 1 s doubling to 5 min; [`Session::accept`] reports that
    /// a token was accepted.
    pub fn reject(&self, token: &Token) {
        let _ = self.driver.rejected(token.generation(), None, None);
    }

    /// Reports that a server accepted `token`, as an accepted response does.
    ///
    /// For other protocols. It shows that the token is good, so that the tokens it has
    /// replaced may be logged out, and starts its idle lifetime anew.
    pub fn accept(&self, token: &Token) {
        let (generation, now) = (token.generation(), self.driver.now());
        self.driver
            .step(|state, _| state.rules.accepted_by_hand(generation, now));
    }

    /// Logs in once, even after a logout and even with refused credentials. For
    /// operators. If another login is running, waits for it first, and shares its
    /// refusal.
    ///
    /// # Errors
    ///
    /// Why the login failed; [`ErrorKind::LoggedOut`](crate::ErrorKind::LoggedOut)
    /// if the session was logged out in the meantime, and
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) after [`Session::close`].
    ///
    /// # Cancellation
    ///
    /// A running login continues without the caller. A caller that still waits
    /// for another job has not caused a login yet.
    pub async fn login(&self) -> Result<(), Error> {
        let logouts = self.driver.lock().rules.logouts();
        self.run_login(|rules, now| rules.login(logouts, now)).await
    }

    /// Gets a new token although the current one may be good.
    ///
    /// Requests use the current token until the new one is there.
    /// [`Profile::logout_ends`](crate::Profile::logout_ends) determines whether
    /// the replaced token is logged out.
    ///
    /// # Errors
    ///
    /// Why there is no new token. Unlike [`Session::login`] it respects a logout,
    /// refused credentials and the back-off.
    ///
    /// # Cancellation
    ///
    /// As [`Session::login`].
    pub async fn renew(&self) -> Result<(), Error> {
        self.run_login(Rules::renew).await
    }

    /// Ends the session: no request gets a token from now on, and the token is
    /// logged out on the server.
    ///
    /// Waits for a running login, and logs its token out too. A second call only
    /// retries the logouts that failed. Requests fail with
    /// [`ErrorKind::LoggedOut`](crate::ErrorKind::LoggedOut) until
    /// [`Session::login`].
    ///
    /// # Errors
    ///
    /// Why a token could not be ended on the server. A token that is dead already
    /// is not an error. Requests get no token in any case.
    ///
    /// # Cancellation
    ///
    /// The session ends when the future is first polled. The logout on the server
    /// continues without the caller.
    pub async fn logout(&self) -> Result<(), Error> {
        self.driver.not_nested()?;
        let now = self.driver.now();
        let (_, wait) = self.driver.step(|state, _| {
            state.rules.logout(now);
            state.previous = None;
        });
        let mut job = wait.map(Wait::into_job);
        if let Some(job) = &job {
            job.call_off();
        }
        loop {
            if let Some(result) = self.driver.lock().rules.logout_result() {
                return result;
            }
            let Some(running) = job.take() else {
                job = self.driver.lock().job.clone();
                continue;
            };
            if let Some(WaitResult::LoggedOut(result)) = Wait::on(running).await {
                return result;
            }
            // The token of a login that ended in the meantime is being logged out.
            job = self.driver.lock().job.clone();
        }
    }

    /// Returns a snapshot of the session's state.
    #[must_use]
    pub fn status(&self) -> Status {
        let now = self.driver.now();
        let rules = &self.driver.lock().rules;
        let until = |at: Timestamp| at.saturating_sub(now);
        // A late timer leaves an expired token behind.
        let is_over = rules.ends().is_some_and(|ends| ends <= now);
        let state = rules.state();
        Status {
            name: self.driver.name().map(str::to_owned),
            state,
            usable: state == State::Live && !is_over,
            generation: rules.generation(),
            expires_in: rules.ends().map(until),
            last_error: rules.last_error().cloned(),
            next_attempt_in: rules.next_attempt().map(until),
        }
    }

    /// Returns the counters of the session since it was created.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let waits = self.driver.usage().waits();
        self.driver.lock().counters.snapshot(waits)
    }

    /// Returns a receiver of the session's events from now on.
    ///
    /// For logs, metrics and alarms; [`Session::stats`] has plain counters. A
    /// receiver that lags behind by more than 256 events misses some, and never
    /// delays the session.
    ///
    /// ```
    /// use tower_reauth::{Event, FixedToken, Profile, Reason, Session};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_reauth::BoxError> {
    /// let session = Session::new(FixedToken::bearer(Profile::default(), "3f9a"));
    /// let mut events = session.events();
    /// session.token().await?;
    /// while let Some(event) = events.recv().await {
    ///     if let Event::LoggedIn { reason, elapsed, .. } = event {
    ///         assert_eq!(reason, Reason::Initial);
    ///         println!("a login took {elapsed:?}");
    /// #       break;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn events(&self) -> Events {
        self.driver.subscribe()
    }

    /// Returns the driver behind all handles of this session.
    #[inline]
    pub(crate) fn driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    /// Repeats `event` until it has a job, its own or one to join, and returns the
    /// result of the login.
    async fn run_login(
        &self,
        mut event: impl FnMut(&mut Rules, Timestamp) -> Start,
    ) -> Result<(), Error> {
        loop {
            let now = self.driver.now();
            match self.driver.step(|state, _| event(&mut state.rules, now)) {
                (Start::Started | Start::Join, Some(wait)) => {
                    self.driver.not_nested()?;
                    match wait.await {
                        Some(WaitResult::Refreshed | WaitResult::Unchanged) => return Ok(()),
                        Some(WaitResult::Failed(error)) => return Err(error),
                        // The session was logged out in the meantime: the next
                        // event returns the error, or logs in anew.
                        Some(
                            WaitResult::LoggedOut(_)
                            | WaitResult::Retired(_)
                            | WaitResult::PasswordChange(_)
                            | WaitResult::LogInFirst { .. },
                        )
                        | None => {}
                    }
                }
                (Start::Busy | Start::Started | Start::Join | Start::NeedsToken, wait) => {
                    // A refusal is shared: the same password is not sent once more.
                    if let Some(WaitResult::Failed(error)) = self.wait_for_another(wait).await?
                        && error.kind() == ErrorKind::Refused
                    {
                        return Err(error);
                    }
                }
                (Start::Fail(error), _) => return Err(error),
            }
        }
    }

    async fn wait_for_another(&self, wait: Option<Wait>) -> Result<Option<WaitResult>, Error> {
        self.driver.not_nested()?;
        Ok(match wait {
            Some(wait) => wait.await,
            None => None,
        })
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Status {
            name,
            state,
            usable: _,
            generation,
            expires_in: _,
            last_error,
            next_attempt_in: _,
        } = self.status();
        f.debug_struct("Session")
            .field("name", &name)
            .field("state", &state)
            .field("generation", &generation)
            .field("last_error", &last_error)
            .finish_non_exhaustive()
    }
}
