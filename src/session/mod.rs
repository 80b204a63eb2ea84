//! The public handle of a session.
//!
//! | file | contents |
//! |---|---|
//! | `mod` | the handle |
//! | `builder` | configures a session |
//! | `driver` | one per session: the lock, publication, tasks and timers |
//! | `rules` | what to do, as a pure state machine |

mod builder;
mod driver;
mod rules;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use builder::SessionBuilder;
pub use driver::{CloseError, Events, Logins, Stats, Status};
pub use rules::{Event, State, TokenEnd};

pub(crate) use driver::{
    AcquireToken, Admission, AwaitRefresh, Driver, Lease, Published, failure_of,
};
pub(crate) use rules::Timestamp;

use crate::error::Error;
use crate::provider::PasswordChange;
use crate::token::Token;

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
        self.driver.token().await
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
        self.driver.accepted_by_hand(token);
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
        self.driver.login().await
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
        self.driver.renew().await
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
        self.driver.logout().await
    }

    /// Ends the session for good: turns new requests away, waits for admitted
    /// ones, and logs out.
    ///
    /// From the first poll on, a request that needs a token fails with
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed). Requests that were admitted
    /// before run to their end, including refresh and replay. Until `timeout` has
    /// passed, this waits for them, for response bodies, for tokens returned by
    /// [`Session::token`], and for the logouts of replaced tokens. Then the live tokens
    /// are logged out in any case, after a running login, password change or logout of
    /// a replaced token has ended. Each of these takes no longer than the login timeout,
    /// or twice that if a password is to be stored.
    ///
    /// Use it at the end of a program: stop sending requests, call this, and log
    /// its error. A second call waits again and retries the logouts that failed.
    ///
    /// ```
    /// use std::time::Duration;
    /// # use tower_reauth::{FixedToken, Profile, Session, Token};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let session = Session::new(FixedToken::bearer(Profile::default(), "3f9a"));
    /// if let Err(left) = session.close(Duration::from_secs(10)).await {
    ///     eprintln!("{left}");
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`CloseError`] counts the requests, bodies and tokens that were still in use
    /// when the token was logged out, and holds the error of a failed logout. The
    /// session is closed in any case.
    ///
    /// # Cancellation
    ///
    /// The session stays closed to new requests, but logs out only when this, or
    /// [`Session::logout`], is called again.
    pub async fn close(&self, timeout: Duration) -> Result<(), CloseError> {
        self.driver.close(timeout).await
    }

    /// Changes the user's password.
    ///
    /// No login of this session runs in the meantime. Requests with a live token are
    /// not delayed. The session uses the new password from then on, or the old one if
    /// the change fails. If the answer is lost, the next login tries the old password
    /// and, if that is refused, the new one.
    ///
    /// If the password has expired, so that no login yields a token, the provider is
    /// asked without one.
    ///
    /// A change to the current password does nothing and succeeds. So it is safe to
    /// call this again with the same password after
    /// [`ErrorKind::Uncertain`].
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Unsupported`] if the provider cannot change passwords, or if
    ///   the source of the credentials cannot be written. The server was not asked
    ///   then ([`PasswordChange::allow_unstored`] permits a read-only source).
    /// - [`ErrorKind::Refused`] if the server denies the change: the old password
    ///   stays in use.
    /// - [`ErrorKind::Uncertain`] if the answer was lost.
    /// - [`ErrorKind::Unavailable`] if the store of the credentials fails, another
    ///   change of the account is in progress, or three other passwords were asked for
    ///   within the [retention](crate::SessionBuilder::password_retention), denied ones
    ///   among them. The server was not asked then.
    /// - [`ErrorKind::LoggedOut`] if the session is logged out.
    ///
    /// # Cancellation
    ///
    /// A running change continues without the caller. A caller that still waits
    /// for a token, or for another job, has changed nothing.
    ///
    /// [`ErrorKind::LoggedOut`]: crate::ErrorKind::LoggedOut
    /// [`ErrorKind::Refused`]: crate::ErrorKind::Refused
    /// [`ErrorKind::Unavailable`]: crate::ErrorKind::Unavailable
    /// [`ErrorKind::Uncertain`]: crate::ErrorKind::Uncertain
    /// [`ErrorKind::Unsupported`]: crate::ErrorKind::Unsupported
    pub async fn change_password(&self, change: PasswordChange) -> Result<(), Error> {
        self.driver.change_password(change).await
    }

    /// Returns a snapshot of the session's state.
    #[must_use]
    pub fn status(&self) -> Status {
        self.driver.status()
    }

    /// Returns the counters of the session since it was created.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.driver.stats()
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
