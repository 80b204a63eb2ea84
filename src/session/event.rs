//! What happens to a session, as it is told to the outside.

use std::time::Duration;

use tokio::sync::broadcast::{self, error::RecvError};

use crate::error::Error;
use crate::provider::Reason;

/// How many events a receiver may lag behind before it misses some.
const KEPT: usize = 256;

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
        /// Why it failed, and when the next one may be made; or that the session
        /// was logged out meanwhile.
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
    /// The receiver was too slow, and missed so many events.
    #[non_exhaustive]
    Missed {
        /// How many.
        count: u64,
    },
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
    /// It may still be good on the server: its logout failed for good or would
    /// have ended other tokens, more than 64 were to be logged out, or the
    /// session's last handle was dropped.
    Abandoned,
}

impl TokenEnd {
    /// The end in `snake_case`, for logs and the labels of metrics. It never changes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoggedOut => "logged_out",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Continued => "continued",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Receives the [`Event`]s of a session, in order.
///
/// A receiver that is too slow misses events and is told how many; the session
/// waits for none.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

impl Events {
    /// Waits for the next event. `None` once the last handle of the session
    /// was dropped.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses no event.
    pub async fn recv(&mut self) -> Option<Event> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(count)) => Some(Event::Missed { count }),
            Err(RecvError::Closed) => None,
        }
    }
}

/// Whoever receives events, if anybody does.
#[derive(Debug, Default)]
pub(super) struct Listeners(Option<broadcast::Sender<Event>>);

impl Listeners {
    pub(super) fn listen(&mut self) -> Events {
        // Made when the first one asks, since it takes memory.
        let sender = self.0.get_or_insert_with(|| broadcast::Sender::new(KEPT));
        Events(sender.subscribe())
    }

    pub(super) fn tell(&self, event: &Event) {
        if let Some(sender) = &self.0 {
            // That nobody listens any more is no failure.
            let _ = sender.send(event.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ends_label_is_its_own_and_never_changes() {
        for (end, label) in [
            (TokenEnd::LoggedOut, "logged_out"),
            (TokenEnd::Rejected, "rejected"),
            (TokenEnd::Expired, "expired"),
            (TokenEnd::Continued, "continued"),
            (TokenEnd::Abandoned, "abandoned"),
        ] {
            assert_eq!(end.as_str(), label);
        }
    }
}
