//! A session as it is seen from outside.

use std::fmt;

use super::lifecycle::State;
use crate::error::Error;

/// A snapshot of a session, for a readiness probe or a person.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// The session's name, if it was given one.
    pub name: Option<String>,
    /// How the session is doing.
    pub state: State,
    /// The generation of the token in use, if there is one.
    pub generation: Option<u64>,
    /// Why the last login failed, until one succeeds.
    pub last_error: Option<Error>,
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
        })?;
        if let Some(generation) = self.generation {
            write!(f, ", generation {generation}")?;
        }
        match &self.last_error {
            Some(error) => write!(f, ", last error: {error}"),
            None => Ok(()),
        }
    }
}
