//! Settings: what a builder decides about the emulator's behaviour.

use std::time::Duration;

use http::StatusCode;

/// Where the server looks for the session token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenIn {
    /// `Authorization: Bearer <token>` only.
    Authorization,
    /// `x-api-key: <token>` only, with or without the prefix `Bearer`.
    ApiKey,
    /// Both. One live token of two is enough.
    #[default]
    Either,
}

/// Which sessions a password change ends.
///
/// The real service's behaviour is not documented, so each can be tested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PasswordChangeEnds {
    /// None: tokens stay live.
    #[default]
    NoSession,
    /// The user's sessions, except the one that changed the password.
    OtherSessions,
    /// All of the user's sessions, the one that changed the password too.
    EverySession,
}

/// The behaviour of the emulator. Only the latency changes while it runs.
pub(super) struct Behaviour {
    pub(super) lifetime: Option<Duration>,
    pub(super) idle: Option<Duration>,
    pub(super) token_in: TokenIn,
    pub(super) dead_token_as: StatusCode,
    pub(super) lock_after: Option<u32>,
    pub(super) lock_for: Option<Duration>,
    pub(super) max_sessions: Option<usize>,
    pub(super) too_many_sessions_as: StatusCode,
    pub(super) min_password_length: usize,
    pub(super) password_change_ends: PasswordChangeEnds,
    pub(super) wrong_current_password_as: StatusCode,
    pub(super) latency: Duration,
    pub(super) login_latency: Option<Duration>,
    pub(super) gzip: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            lifetime: Some(Duration::from_secs(30 * 60)),
            idle: None,
            token_in: TokenIn::default(),
            dead_token_as: StatusCode::UNAUTHORIZED,
            lock_after: None,
            lock_for: None,
            max_sessions: None,
            too_many_sessions_as: StatusCode::INTERNAL_SERVER_ERROR,
            min_password_length: 1,
            password_change_ends: PasswordChangeEnds::default(),
            wrong_current_password_as: StatusCode::BAD_REQUEST,
            latency: Duration::ZERO,
            login_latency: None,
            gzip: false,
        }
    }
}
