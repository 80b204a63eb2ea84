//! What happened to a session, for observers.

use std::time::Duration;

use crate::error::Error;
use crate::provider::Reason;

/// Something that happened to a session; received with
/// [`Session::events`](crate::Session::events).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A login has started.
    #[non_exhaustive]
    LoginStarted {
        /// Why it is needed.
        reason: Reason,
    },
    /// A login yielded a token. Requests use it from now on, or, if it was refreshed ahead
    /// of time, once the server has accepted it. Neither happens if the session was
    /// logged out in the meantime.
    #[non_exhaustive]
    LoggedIn {
        /// Why it was needed.
        reason: Reason,
        /// The token's number. It stays the same if the provider returned the
        /// current token once more.
        generation: u64,
        /// How long the login took.
        elapsed: Duration,
    },
    /// A login failed.
    #[non_exhaustive]
    LoginFailed {
        /// Why it was needed.
        reason: Reason,
        /// Why it failed and when the next one may start, or that the session was
        /// logged out in the meantime.
        error: Error,
        /// How long the login took.
        elapsed: Duration,
    },
    /// The server rejected the current token. A newer token that is not yet in use
    /// replaces it. Otherwise no new request uses it until the login that follows has
    /// ended.
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
        /// How it ended.
        end: TokenEnd,
    },
    /// The password was changed.
    #[non_exhaustive]
    PasswordChanged {
        /// How long the change took.
        elapsed: Duration,
    },
    /// The password was not changed, or it is not known whether it was.
    #[non_exhaustive]
    PasswordChangeFailed {
        /// Why it failed.
        error: Error,
        /// How long the change took.
        elapsed: Duration,
    },
    /// The session was logged out.
    LoggedOut,
    /// The session was closed.
    Closed,
    /// The receiver lagged behind and missed events.
    #[non_exhaustive]
    Missed {
        /// The number of missed events.
        count: u64,
    },
}

/// How a token that a provider issued has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenEnd {
    /// It was logged out, or turned out to be dead when its logout was tried.
    LoggedOut,
    /// The server rejected it.
    Rejected,
    /// Its lifetime or its idle lifetime is over. A token with data
    /// ([`Token::with_data`](crate::Token::with_data)), which may outlive it, ends
    /// otherwise if logouts end anything.
    Expired,
    /// The token that replaced it continues its server session.
    Continued,
    /// It may still be good on the server: its logout failed for good or would
    /// have ended other tokens, more than 64 were to be logged out, or the
    /// session's last handle was dropped.
    Abandoned,
    /// The session no longer needs it, and the server has nothing to end
    /// ([`LogoutEnds::Nothing`](crate::LogoutEnds::Nothing), or a provider without a
    /// logout).
    Discarded,
}

impl TokenEnd {
    /// Returns the end in `snake_case`, for logs and metric labels. It never
    /// changes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoggedOut => "logged_out",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Continued => "continued",
            Self::Abandoned => "abandoned",
            Self::Discarded => "discarded",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_a_label_of_its_own() {
        for (end, label) in [
            (TokenEnd::LoggedOut, "logged_out"),
            (TokenEnd::Rejected, "rejected"),
            (TokenEnd::Expired, "expired"),
            (TokenEnd::Continued, "continued"),
            (TokenEnd::Abandoned, "abandoned"),
            (TokenEnd::Discarded, "discarded"),
        ] {
            assert_eq!(end.as_str(), label);
        }
    }
}
