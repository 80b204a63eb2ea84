//! The end of a session: waits for its users, and logs out.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::Driver;
use crate::error::Error;
use crate::loom;

impl Driver {
    /// See [`Session::close`](crate::Session::close).
    pub(in crate::session) async fn close(
        self: &Arc<Self>,
        timeout: Duration,
    ) -> Result<(), CloseError> {
        if let Err(recursive) = self.not_nested() {
            return Err(CloseError {
                in_use: 0,
                tokens: 0,
                logout: Some(recursive),
            });
        }
        self.step(|state, _| {
            state.rules.close();
            // A publication waits for every request that is reading the token.
            // Counting leases does not: a count may be older than a lease.
            self.republish(state);
        });
        let is_quiet = loom::timeout(timeout, self.quiet()).await.is_some();
        let in_use = match is_quiet {
            // No request was admitted since: a remaining lease belongs to a
            // request that has read the token and is being turned away.
            true => 0,
            // Before the logout, which they may not outlast.
            false => {
                self.step(|state, _| self.republish(state));
                self.lock().users() + self.usage().admitted()
            }
        };
        let logout = self.logout().await.err();
        let error = CloseError {
            in_use,
            tokens: self.lock().rules.ending().len(),
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

    /// Waits until no request, body or returned token is left, and every replaced
    /// token is accounted for.
    async fn quiet(self: &Arc<Self>) {
        loop {
            // Created before the state is read: no change is missed in between.
            let mut changed = pin!(self.usage().changed.notified());
            changed.as_mut().enable();
            let (is_quiet, _) = self.step(|state, published| {
                // Without admitted requests the published token gets no new user.
                // Republish it, so that its users can be counted.
                let none_admitted = self.usage().admitted() == 0;
                if none_admitted && self.is_used(published) {
                    self.republish(state);
                }
                none_admitted && state.users() == 0 && state.rules.has_settled_replaced()
            });
            if is_quiet {
                return;
            }
            changed.await;
        }
    }
}

/// The requests and tokens that were left when a session was closed.
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
    /// Returns how many requests, response bodies and returned tokens were still
    /// in use when the timeout passed. A request between its rejection and its
    /// replay may count twice, since it also holds the rejected response.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    /// Returns how many tokens may still be good on the server and may be logged
    /// out by closing again.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Returns why the logout failed, if it did.
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
