//! What happens to a session, as it is told to the outside.

use std::time::Duration;

use crate::error::Error;
use crate::provider::Reason;

/// Something that happened to a session; received with
/// [`Session::events`](super::Session::events).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A login has started.
    #[non_exhaustive]
    LoginStarted {
        /// Why it is needed.
        reason: Reason,
    },
    /// A login yielded a token, which is in use now unless the session was
    /// logged out meanwhile.
    #[non_exhaustive]
    LoggedIn {
        /// Why it was needed.
        reason: Reason,
        /// The token's number. It stays the same where the provider returned
        /// the token in use once more.
        generation: u64,
        /// How long the login took.
        elapsed: Duration,
    },
    /// A login failed.
    #[non_exhaustive]
    LoginFailed {
        /// Why it was needed.
        reason: Reason,
        /// Why it failed, and when the next one may be made.
        error: Error,
        /// How long it took.
        elapsed: Duration,
    },
    /// The server rejected the token in use, which no new request carries
    /// until the renewal that follows has ended.
    #[non_exhaustive]
    TokenRejected {
        /// The token's number.
        generation: u64,
    },
    /// A token is accounted for.
    #[non_exhaustive]
    TokenEnded {
        /// The token's number.
        generation: u64,
        /// What became of it.
        end: TokenEnd,
    },
    /// The password was changed.
    #[non_exhaustive]
    PasswordChanged {
        /// How long that took.
        elapsed: Duration,
    },
    /// The password was not changed, or nobody knows.
    #[non_exhaustive]
    PasswordChangeFailed {
        /// Why.
        error: Error,
        /// How long it took.
        elapsed: Duration,
    },
    /// Somebody has logged the session out.
    LoggedOut,
    /// Somebody has closed the session for good.
    Closed,
}

/// What became of a token that a provider issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenEnd {
    /// It was logged out, or was dead when it was to be.
    LoggedOut,
    /// The server rejected it.
    Rejected,
    /// Its lifetime is over, or its idle time.
    Expired,
    /// The token that replaced it goes on with its server session.
    Continued,
    /// It may still be good on the server: its logout failed for good, or
    /// would have ended other tokens.
    Abandoned,
}
