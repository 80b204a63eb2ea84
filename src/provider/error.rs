//! What can go wrong in a provider, sorted by what the session does about it.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::BoxError;
use crate::credentials::{SourceError, SourceErrorKind};
use crate::secret::redact::{quotes, redact};
use crate::token::InvalidToken;

/// Why a login, a logout or a password change failed.
///
/// Cheap to clone, since everybody who waits for a login gets the same one.
/// `Display` says what kind of failure it is; what the server said is the
/// error's [`source`](Error::source). Neither may quote a secret. The session
/// takes out what it sent, the password and the token, where a server's
/// message echoes them; the source is then plain text. One of fewer than four
/// bytes is not looked for, since any text holds it.
#[derive(Clone, Debug)]
pub struct ProviderError {
    kind: ProviderErrorKind,
    source: Option<Arc<dyn Error + Send + Sync>>,
    retry_after: Option<Duration>,
    unanswered: bool,
}

/// What a [`ProviderError`] means to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProviderErrorKind {
    /// The credentials are wrong, expired or locked: the session does not send
    /// them again. Or the server denies a password change: the old one stays.
    Refused,
    /// The login system cannot answer now: the network, a 5xx, a 429, a
    /// timeout, too many sessions. The session tries a login or a logout again
    /// later; a password change was not made.
    Unavailable,
    /// The token that a logout or a password change used is dead. That is what a
    /// logout is for; for a change the session renews it and calls once more.
    TokenRejected,
    /// The answer could not be read. The session tries a login again later, and
    /// neither a logout nor a password change.
    Protocol,
    /// The request was sent and its answer was lost, so that it may or may not
    /// have happened. The next login finds out which password the server takes;
    /// logins and logouts are tried again later.
    Uncertain,
    /// This login system cannot do that.
    Unsupported,
}

impl ProviderError {
    /// The credentials are wrong, expired or locked.
    pub fn refused(cause: impl Into<BoxError>) -> Self {
        Self::new(ProviderErrorKind::Refused, cause)
    }

    /// The login system cannot answer now.
    pub fn unavailable(cause: impl Into<BoxError>) -> Self {
        Self::new(ProviderErrorKind::Unavailable, cause)
    }

    /// The token that a logout or a password change used is dead.
    pub fn token_rejected(cause: impl Into<BoxError>) -> Self {
        Self::new(ProviderErrorKind::TokenRejected, cause)
    }

    /// The answer could not be read.
    pub fn protocol(cause: impl Into<BoxError>) -> Self {
        Self::new(ProviderErrorKind::Protocol, cause)
    }

    /// It may or may not have happened.
    pub fn uncertain(cause: impl Into<BoxError>) -> Self {
        Self::new(ProviderErrorKind::Uncertain, cause)
    }

    /// A client's error, for a call that must not be made twice: nothing has
    /// happened if nobody listened, and nobody knows otherwise.
    pub fn lost(cause: impl Into<BoxError>) -> Self {
        let cause = cause.into();
        match was_not_sent(&*cause) {
            true => Self::unavailable(cause),
            false => Self::uncertain(cause),
        }
    }

    /// This login system cannot do that.
    pub fn unsupported(cause: impl Into<BoxError>) -> Self {
        Self::new(ProviderErrorKind::Unsupported, cause)
    }

    /// Says how long the server wants to be left alone (RFC 9110, section
    /// 10.2.3), counted from now.
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// What the failure means to the session.
    #[must_use]
    pub fn kind(&self) -> ProviderErrorKind {
        self.kind
    }

    /// How long the server wants to be left alone, if it said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The login system is not available, and may have looked at the password all
    /// the same, unless `cause` is a client's error that says that nothing was
    /// sent.
    pub(crate) fn unanswered(cause: impl Into<BoxError>) -> Self {
        let cause = cause.into();
        Self {
            unanswered: !was_not_sent(&*cause),
            ..Self::unavailable(cause)
        }
    }

    /// Whether the call may have happened: its answer was lost, or cannot be read.
    pub(crate) fn may_have_happened(&self) -> bool {
        match self.kind {
            ProviderErrorKind::Uncertain | ProviderErrorKind::Protocol => true,
            ProviderErrorKind::Refused
            | ProviderErrorKind::Unavailable
            | ProviderErrorKind::TokenRejected
            | ProviderErrorKind::Unsupported => self.unanswered,
        }
    }

    /// The same without what it quotes of `secrets`: a server's message may echo
    /// what the server was sent, and a provider may keep it.
    ///
    /// An error that quotes none, by whatever escapes, keeps its source, and
    /// so its type. Secrets of fewer than four bytes are not looked for, since
    /// any text holds those.
    pub(crate) fn without(self, secrets: &[SecretString]) -> Self {
        let secrets = secrets.iter().map(ExposeSecret::expose_secret);
        let secrets = secrets.filter(|secret| secret.len() >= 4);
        let secrets: Vec<&str> = secrets.collect();
        let debug = self.source.as_deref().map(|source| format!("{source:?}"));
        let debug = Zeroizing::new(debug.unwrap_or_default());
        let mut said = Zeroizing::new(String::new());
        let mut next = Error::source(&self);
        while let Some(error) = next {
            if !said.is_empty() {
                said.push_str(": ");
            }
            said.push_str(&error.to_string());
            next = error.source();
        }
        if !quotes(&said, &secrets) && !quotes(&debug, &secrets) {
            return self;
        }
        let redacted = redact(&said, &secrets).into_owned();
        Self {
            source: Some(BoxError::from(redacted).into()),
            ..self
        }
    }

    fn new(kind: ProviderErrorKind, cause: impl Into<BoxError>) -> Self {
        Self {
            kind,
            source: Some(cause.into().into()),
            retry_after: None,
            unanswered: false,
        }
    }
}

/// Whether no byte of the request was sent: nobody listened, or hyper's client
/// had no connection, where that feature makes it known.
///
/// Other failures of a connection cannot be told from those of a request that
/// was sent: the transport's error types are its own.
pub(crate) fn was_not_sent(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if error.kind() == io::ErrorKind::ConnectionRefused {
                return true;
            }
        }
        #[cfg(feature = "hyper-client")]
        if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            if error.is_connect() {
                return true;
            }
        }
        next = error.source();
    }
    false
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            ProviderErrorKind::Refused => "the server refused the credentials",
            ProviderErrorKind::Unavailable => "the login system is unavailable",
            ProviderErrorKind::TokenRejected => "the server rejected the token",
            ProviderErrorKind::Protocol => "the login system's answer could not be read",
            ProviderErrorKind::Uncertain => {
                "the answer was lost, so it may or may not have happened"
            }
            ProviderErrorKind::Unsupported => "the login system does not support that",
        })
    }
}

impl Error for ProviderError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}

impl From<InvalidToken> for ProviderError {
    fn from(error: InvalidToken) -> Self {
        Self::protocol(error)
    }
}

impl From<SourceError> for ProviderError {
    fn from(error: SourceError) -> Self {
        match error.kind() {
            SourceErrorKind::Unavailable | SourceErrorKind::Missing | SourceErrorKind::Invalid => {
                Self::unavailable(error)
            }
            SourceErrorKind::ReadOnly => Self::unsupported(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_is_a_word_of_ours_hides_nothing_of_the_source() {
        let error = ProviderError::unanswered(io::Error::from(io::ErrorKind::TimedOut));
        for word in ["unanswered", "true", "Unavailable", "Some", "None"] {
            let error = error.clone().without(&[SecretString::from(word)]);
            assert!(Error::source(&error).unwrap().is::<io::Error>(), "{word}");
        }
    }

    #[test]
    fn a_secret_of_four_bytes_is_taken_out_and_a_shorter_one_is_in_any_text() {
        let said = |secret: &str| {
            let error = ProviderError::refused(format!("wrong: {secret}"));
            let error = error.without(&[SecretString::from(secret)]);
            Error::source(&error).unwrap().to_string()
        };
        assert!(!said("4a7b").contains("4a7b"));
        assert_eq!(said("4a7"), "wrong: 4a7");
    }
}
