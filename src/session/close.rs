//! The end of a session for good, after all that is under way.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use super::Session;
use crate::error::Error;
use crate::sync;

impl Session {
    /// Ends the session for good: turns new requests away, waits for those
    /// under way, and logs out.
    ///
    /// From the first poll on, whatever needs a token anew fails with
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed). Requests that were let
    /// in before go on to their end, renewal and replay included. They are
    /// waited for until `deadline` has passed, and so are response bodies,
    /// tokens handed out by [`Session::token`], and the logouts of replaced
    /// tokens. What is live then is logged out in any case, after a login or a
    /// password change that is under way has ended; each of these takes no longer
    /// than the login deadline, or twice that where a password is to be kept.
    ///
    /// For the end of a program: stop what makes requests, call this, and log
    /// its error. Closing once more waits and tries again.
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
    /// [`CloseError`] says what is left: who still uses a token that was logged
    /// out under them, and which logout failed. On this side the session has
    /// ended in any case.
    ///
    /// # Cancellation
    ///
    /// The session stays closed to new requests, but logs out only when this,
    /// or [`Session::logout`], is called again.
    pub async fn close(&self, deadline: Duration) -> Result<(), CloseError> {
        if let Err(recursive) = self.shared.not_within() {
            return Err(CloseError {
                in_use: 0,
                tokens: 0,
                logout: Some(recursive),
            });
        }
        self.step(|guarded, _| {
            guarded.rules.close();
            // Publishing waits for whoever is reading the token on the request
            // path. Counting does not: a count may be older than their lease.
            self.shared.part(guarded);
        });
        let is_quiet = sync::timeout(deadline, self.quiet()).await.is_some();
        let logout = self.logout().await.err();
        let guarded = self.shared.lock();
        let error = CloseError {
            in_use: match is_quiet {
                // Nobody came since: whoever holds the token now is a request
                // that has read it and is being turned away.
                true => 0,
                false => guarded.users() + self.shared.uses.waiting(),
            },
            tokens: guarded.rules.left(),
            logout,
        };
        match error {
            CloseError {
                in_use: 0,
                tokens: 0,
                logout: None,
            } => Ok(()),
            left => Err(left),
        }
    }

    /// Waits until no request, body or token handed out is left, and every
    /// replaced token is accounted for.
    async fn quiet(&self) {
        loop {
            // Made before the session is looked at: no word can fall between.
            let mut changed = pin!(self.shared.uses.changed.notified());
            changed.as_mut().enable();
            let (is_quiet, _) = self.step(|guarded, live| {
                // No new user comes once nobody waits for a token, so that
                // whoever is left uses one that is published no longer.
                let nobody_waits = self.shared.uses.waiting() == 0;
                if nobody_waits && self.shared.is_used(live) {
                    self.shared.part(guarded);
                }
                nobody_waits && guarded.users() == 0 && guarded.rules.has_retired_all()
            });
            if is_quiet {
                return;
            }
            changed.await;
        }
    }
}

/// What was left when a session was closed.
///
/// The failed logout, if there was one, is its
/// [`source`](std::error::Error::source).
#[derive(Clone, Debug)]
pub struct CloseError {
    in_use: usize,
    tokens: usize,
    logout: Option<Error>,
}

impl CloseError {
    /// How many requests, response bodies and tokens handed out were not done
    /// with their token when the deadline passed. One that waits between its
    /// rejection and its replay may count twice, since it holds that response too.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    /// How many tokens may still be good on the server, and could be logged
    /// out by closing once more.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Why the logout failed, if it did.
    #[must_use]
    pub fn logout(&self) -> Option<&Error> {
        self.logout.as_ref()
    }
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the session was closed")?;
        if self.in_use > 0 {
            let (requests, were) = match self.in_use {
                1 => ("request, body or token", "was"),
                _ => ("requests, bodies and tokens", "were"),
            };
            write!(f, "; {} {requests} {were} still in use", self.in_use)?;
        }
        if self.logout.is_some() {
            f.write_str("; not everything could be logged out")?;
        }
        Ok(())
    }
}

impl std::error::Error for CloseError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let logout = self.logout.as_ref()?;
        Some(logout)
    }
}
