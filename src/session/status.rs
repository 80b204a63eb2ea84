//! A session as it is seen from outside.

use std::fmt;
use std::time::Duration;

use super::lifecycle::State;
use crate::error::Error;

/// A snapshot of a session, for a readiness probe or a person.
///
/// `Display` is one line for a person.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// The session's name, if it was given one.
    pub name: Option<String>,
    /// How the session is doing.
    pub state: State,
    /// Whether a request would be sent at once. One that would have to wait
    /// for a login, or would fail, is not.
    pub usable: bool,
    /// The generation of the token in use, if there is one.
    pub generation: Option<u64>,
    /// How long the token in use still lives, if there is an end to it. It is
    /// renewed ahead of that.
    pub expires_in: Option<Duration>,
    /// Why the last login failed, until one succeeds.
    pub last_error: Option<Error>,
    /// How long until the next login may be made, if the last one failed. After
    /// refused credentials: until their source is asked whether there are
    /// others, or `None` without one.
    pub next_attempt_in: Option<Duration>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name.as_deref().unwrap_or("session"))?;
        f.write_str(match self.state {
            State::Idle => "no token yet",
            State::LoggingIn => "logging in",
            State::Live => "live",
            State::Renewing => "renewing",
            State::BackingOff => "backing off",
            State::Refused => "refused",
            State::LoggedOut => "logged out",
            State::Closed => "closed",
        })?;
        if let Some(generation) = self.generation {
            write!(f, ", generation {generation}")?;
        }
        if let Some(left) = self.expires_in {
            write!(f, ", ends in {} s", left.as_secs())?;
        }
        if let Some(error) = &self.last_error {
            write!(f, ", last error: {error}")?;
        }
        match self.next_attempt_in {
            Some(wait) => write!(f, ", next attempt in {} s", wait.as_millis().div_ceil(1000)),
            None => Ok(()),
        }
    }
}
