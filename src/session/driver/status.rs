//! A snapshot of a session.

use std::fmt;
use std::time::Duration;

use super::Driver;
use crate::error::Error;
use crate::session::rules::{State, Timestamp};

/// A snapshot of a session, for a readiness probe or a person.
///
/// `Display` is one line for a person.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// The session's name, if it has one.
    pub name: Option<String>,
    /// The state of the session.
    pub state: State,
    /// Whether a request would be sent at once, without waiting for a login.
    pub usable: bool,
    /// The generation of the current token, if there is one.
    pub generation: Option<u64>,
    /// The time until the current token expires, if it does. It is refreshed ahead
    /// of that.
    pub expires_in: Option<Duration>,
    /// Why the last login failed, until one succeeds.
    pub last_error: Option<Error>,
    /// The time until the next login may start, if the last one failed. After
    /// refused credentials: until their source is asked again, or `None` without a
    /// source.
    pub next_attempt_in: Option<Duration>,
}

impl Driver {
    /// See [`Session::status`](crate::Session::status).
    pub(in crate::session) fn status(&self) -> Status {
        let now = self.now();
        let rules = &self.lock().rules;
        let until = |at: Timestamp| at.saturating_sub(now);
        // A late timer leaves an expired token behind.
        let is_over = rules.ends().is_some_and(|ends| ends <= now);
        let state = rules.state();
        Status {
            name: self.name().map(str::to_owned),
            state,
            usable: state == State::Live && !is_over,
            generation: rules.generation(),
            expires_in: rules.ends().map(until),
            last_error: rules.last_error().cloned(),
            next_attempt_in: rules.next_attempt().map(until),
        }
    }
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
