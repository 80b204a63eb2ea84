//! The knobs of an emulator.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::uri::PathAndQuery;

use super::service::{Call, Emulator, Observer};
use super::state::{State, User};

/// How the server answers a token that is dead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeadToken {
    /// With 401.
    #[default]
    Unauthorized,
    /// With 500 and the same text.
    ServerError,
}

/// An emulator that is being configured; made by [`Emulator::builder`].
///
/// Without a user of its own it has `emuser` with the password `emupass`.
#[must_use]
pub struct EmulatorBuilder {
    pub(super) knobs: Knobs,
    users: Vec<(String, String)>,
    pub(super) on_call: Option<Observer>,
}

#[derive(Clone, Debug)]
pub(super) struct Knobs {
    pub(super) base: String,
    pub(super) lifetime: Option<Duration>,
    pub(super) idle: Option<Duration>,
    pub(super) dead_token: DeadToken,
    pub(super) lock_after: Option<u32>,
    pub(super) unlock_after: Option<Duration>,
    pub(super) max_sessions: Option<usize>,
    pub(super) min_password: usize,
    pub(super) wrong_password: StatusCode,
    pub(super) change_ends_sessions: bool,
    pub(super) latency: Duration,
    pub(super) login_latency: Duration,
}

impl EmulatorBuilder {
    pub(super) fn new() -> Self {
        Self {
            knobs: Knobs {
                base: "/automation-api".to_owned(),
                lifetime: Some(Duration::from_secs(1800)),
                idle: None,
                dead_token: DeadToken::default(),
                lock_after: None,
                unlock_after: None,
                max_sessions: None,
                min_password: 1,
                wrong_password: StatusCode::BAD_REQUEST,
                change_ends_sessions: false,
                latency: Duration::ZERO,
                login_latency: Duration::ZERO,
            },
            users: Vec::new(),
            on_call: None,
        }
    }

    /// Adds a user.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.users.push((name.into(), password.into()));
        self
    }

    /// Sets the path that all calls lie under. `/automation-api` by default.
    ///
    /// Slashes around it are no matter, and it may be empty.
    ///
    /// # Panics
    ///
    /// If it is no path of a URL.
    pub fn base_path(mut self, base: impl Into<String>) -> Self {
        let base = base.into();
        self.knobs.base = match base.trim_matches('/') {
            "" => String::new(),
            base => format!("/{base}"),
        };
        let parsed = PathAndQuery::try_from(self.knobs.base.as_str());
        assert!(
            self.knobs.base.is_empty()
                || parsed.is_ok_and(|parsed| parsed.path() == self.knobs.base),
            "{base:?} is no path of a URL"
        );
        self
    }

    /// Ends each session this long after its login. 30 minutes by default.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.knobs.lifetime = Some(lifetime);
        self
    }

    /// Ends a session that was not used for this long. Never, by default.
    pub fn idle(mut self, idle: Duration) -> Self {
        self.knobs.idle = Some(idle);
        self
    }

    /// Sets how a dead token is answered. With 401 by default.
    pub fn dead_token(mut self, answer: DeadToken) -> Self {
        self.knobs.dead_token = answer;
        self
    }

    /// Locks a user after this many failed logins in a row. Never, by default;
    /// 0 is as good as 1.
    pub fn lock_after(mut self, failures: u32) -> Self {
        self.knobs.lock_after = Some(failures);
        self
    }

    /// Unlocks a locked user after this long. By hand only, by default.
    pub fn unlock_after(mut self, delay: Duration) -> Self {
        self.knobs.unlock_after = Some(delay);
        self
    }

    /// Fails logins while this many sessions are live. No limit by default.
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.knobs.max_sessions = Some(sessions);
        self
    }

    /// Refuses new passwords of fewer characters. One suffices by default.
    pub fn min_password(mut self, characters: usize) -> Self {
        self.knobs.min_password = characters;
        self
    }

    /// Sets how a password change with a wrong current password is answered.
    /// With 400 by default.
    pub fn wrong_current_password(mut self, status: StatusCode) -> Self {
        self.knobs.wrong_password = status;
        self
    }

    /// Lets a password change end the user's sessions.
    pub fn password_change_ends_sessions(mut self) -> Self {
        self.knobs.change_ends_sessions = true;
        self
    }

    /// Executes and answers each call after this long. One whose client hangs up
    /// before is not executed.
    pub fn latency(mut self, latency: Duration) -> Self {
        self.knobs.latency = latency;
        self
    }

    /// Answers a login after this much longer.
    pub fn login_latency(mut self, latency: Duration) -> Self {
        self.knobs.login_latency = latency;
        self
    }

    /// Calls `observe` after each request.
    pub fn on_call(mut self, observe: impl Fn(&Call) + Send + Sync + 'static) -> Self {
        self.on_call = Some(Arc::new(observe));
        self
    }

    /// Makes the emulator.
    #[must_use]
    pub fn build(mut self) -> Emulator {
        if self.users.is_empty() {
            self.users.push(("emuser".into(), "emupass".into()));
        }
        let users = self.users.into_iter();
        let users = users.map(|(name, password)| (name, User::new(password)));
        let state = State::new(self.knobs, users.collect());
        Emulator::new(state, self.on_call)
    }
}

impl fmt::Debug for EmulatorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmulatorBuilder")
            .field("knobs", &self.knobs)
            .finish_non_exhaustive()
    }
}
