//! What can go wrong in a provider, sorted by what the session does about it.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use crate::BoxError;
use crate::credentials::{SourceError, SourceErrorKind};
use crate::error::{ErrorKind, redacted_cause, with_causes};
use crate::token::InvalidToken;

/// Why a login, a logout or a password change failed.
///
/// Cheap to clone, since everybody who waits for a login gets the same one.
/// `Display` says what kind of failure it is, and whether the login system failed or
/// the credential source, if the cause is a [`SourceError`]. What the server said is
/// the error's [`source`](Error::source). Neither may quote a secret. The session
/// removes what it sent, the password and the token, where a server's message
/// echoes them as they are or escaped once. The source is then plain text, and so
/// is a source of more than 4 KiB, which is cut there. Secrets of fewer than four
/// bytes are not searched for, since any text contains those.
#[derive(Clone, Debug)]
pub struct ProviderError {
    kind: ProviderErrorKind,
    source: Option<Arc<dyn Error + Send + Sync>>,
    retry_after: Option<Duration>,
    unanswered: bool,
}

const NOT_REACHED: &str = "the login system was not reached";

/// What a [`ProviderError`] means to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProviderErrorKind {
    /// The credentials are wrong: the session does not send them again. Or the
    /// server denies a password change: the old password stays in use.
    Refused,
    /// The password is right and has expired: the session does not send it again
    /// until it is changed.
    PasswordExpired,
    /// The account is locked, which says nothing about the password. The session
    /// tries again later.
    Locked,
    /// The login needs a person. The session does not try again by itself.
    InteractionRequired,
    /// The login system cannot answer now: the network, a 5xx, a 429, a
    /// timeout, too many sessions. The session tries a login or a logout again
    /// later; a password change was not made.
    Unavailable,
    /// Nothing was sent: the name was not resolved, or the connection or its TLS
    /// handshake failed. The session does the same as after `Unavailable`; a
    /// provider that wraps another one may send the call elsewhere.
    NotSent,
    /// The token that a logout or a password change used is dead. That is what a
    /// logout is for; for a change the session renews it and calls once more.
    TokenRejected,
    /// The answer could not be read. The session tries a login again later, and
    /// neither a logout nor a password change.
    Protocol,
    /// The request was sent and its answer was lost, so that it may or may not
    /// have happened. After a password change the next login shows which password the
    /// server takes. Logins and logouts are tried again later.
    Uncertain,
    /// This login system cannot do that. Nothing was sent.
    Unsupported,
}

impl ProviderError {
    /// The credentials are wrong.
    pub fn refused(cause: impl Into<BoxError>) -> Self {
        Self::new(ProviderErrorKind::Refused, cause)
    }

    /// The password is right and has expired.
    pub fn password_expired(cause: impl Into<BoxError>) -> Self {
        Self::new(ProviderErrorKind::PasswordExpired, cause)
    }

    /// The account is locked, which says nothing about the password.
    pub fn locked(cause: impl Into<BoxError>) -> Self {
        Self::new(ProviderErrorKind::Locked, cause)
    }

    /// The login needs a person: a second factor or a consent, for example.
    pub fn interaction_required(cause: impl Into<BoxError>) -> Self {
        Self::new(ProviderErrorKind::InteractionRequired, cause)
    }

    /// The login system cannot answer now.
    pub fn unavailable(cause: impl Into<BoxError>) -> Self {
        Self::new(ProviderErrorKind::Unavailable, cause)
    }

    /// Nothing was sent.
    pub fn not_sent(cause: impl Into<BoxError>) -> Self {
        Self::new(ProviderErrorKind::NotSent, cause)
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

    /// A client's error, for a call that must not be made twice:
    /// [`NotSent`](ProviderErrorKind::NotSent) if the error shows that the
    /// connection failed, otherwise [`Uncertain`](ProviderErrorKind::Uncertain).
    pub fn lost(cause: impl Into<BoxError>) -> Self {
        let cause = cause.into();
        match was_not_sent(&*cause) {
            true => Self::not_sent(cause),
            false => Self::uncertain(cause),
        }
    }

    /// This login system cannot do that.
    pub fn unsupported(cause: impl Into<BoxError>) -> Self {
        Self::new(ProviderErrorKind::Unsupported, cause)
    }

    /// Sets when the server accepts the next call (RFC 9110, section 10.2.3), counted
    /// from now.
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Returns what the failure means to the session.
    #[must_use]
    pub fn kind(&self) -> ProviderErrorKind {
        self.kind
    }

    /// Returns when the server accepts the next call, if it said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The login system is unavailable and may have checked the password
    /// nevertheless, unless `cause` shows that nothing was sent.
    pub(crate) fn unanswered(cause: impl Into<BoxError>) -> Self {
        let cause = cause.into();
        match was_not_sent(&*cause) {
            true => Self::not_sent(cause),
            false => Self {
                unanswered: true,
                ..Self::unavailable(cause)
            },
        }
    }

    /// The default of `CredentialProvider::logout`.
    pub(crate) fn no_logout() -> Self {
        Self::unsupported(NoLogout)
    }

    /// Returns whether the provider has no logout at all.
    pub(crate) fn is_no_logout(&self) -> bool {
        let cause = self.source.as_deref();
        cause.is_some_and(|cause| cause.is::<NoLogout>())
    }

    /// The provider names no source of credentials.
    pub(crate) fn no_source() -> Self {
        Self::forbidden(
            "the provider names no source of credentials: implement `CredentialProvider::source`",
        )
    }

    /// The call was not sent, for this reason. It may be sent later.
    pub(crate) fn withheld(why: impl Into<String>) -> Self {
        Self::unavailable(Withheld(why.into()))
    }

    /// A password change was not sent, since the server would deny it.
    pub(crate) fn denied_unsent(why: impl Into<String>) -> Self {
        Self::refused(Withheld(why.into()))
    }

    /// The call is not sent while this is so.
    pub(crate) fn forbidden(why: impl Into<String>) -> Self {
        Self::unsupported(Withheld(why.into()))
    }

    /// Returns the error of the credential source, if that is what failed.
    fn source_error(&self) -> Option<&SourceError> {
        self.source.as_deref()?.downcast_ref()
    }

    /// Returns the part that failed, if the kind does not name it.
    fn culprit(&self) -> Option<&'static str> {
        let cause = self.source.as_deref();
        match self.source_error() {
            Some(error) => Some(error.text()),
            None if cause.is_some_and(|cause| cause.is::<Withheld>()) => Some("nothing was sent"),
            None if self.kind == ProviderErrorKind::NotSent => Some(NOT_REACHED),
            None => None,
        }
    }

    /// Returns the text of `Display`.
    fn text(&self) -> &'static str {
        self.culprit().unwrap_or(match self.kind {
            ProviderErrorKind::Refused => "the server refused the credentials",
            ProviderErrorKind::PasswordExpired => "the password has expired",
            ProviderErrorKind::Locked => "the account is locked",
            ProviderErrorKind::InteractionRequired => "the login needs a person",
            ProviderErrorKind::Unavailable => "the login system is unavailable",
            ProviderErrorKind::NotSent => NOT_REACHED,
            ProviderErrorKind::TokenRejected => "the server rejected the token",
            ProviderErrorKind::Protocol => "the login system's answer could not be read",
            ProviderErrorKind::Uncertain => {
                "the answer was lost, so it may or may not have happened"
            }
            ProviderErrorKind::Unsupported => "the login system does not support that",
        })
    }

    /// Returns whether the server may have checked the password: it accepted the
    /// password, or its answer was lost or cannot be read.
    pub(crate) fn may_have_happened(&self) -> bool {
        match self.kind {
            ProviderErrorKind::Uncertain
            | ProviderErrorKind::Protocol
            | ProviderErrorKind::PasswordExpired
            | ProviderErrorKind::InteractionRequired => true,
            ProviderErrorKind::Refused
            | ProviderErrorKind::Locked
            | ProviderErrorKind::NotSent
            | ProviderErrorKind::Unavailable
            | ProviderErrorKind::TokenRejected
            | ProviderErrorKind::Unsupported => self.unanswered,
        }
    }

    /// Removes `secrets` from the source: a server's message may quote the
    /// request, and a provider may keep it.
    ///
    /// See [`redacted_cause`] for the sources that keep their type.
    pub(crate) fn without(self, secrets: &[SecretString]) -> Self {
        if let Some(error) = self.source_error() {
            // It keeps its type, and with it what failed.
            let source = Arc::new(error.clone().without(secrets));
            return Self {
                source: Some(source),
                ..self
            };
        }
        let redacted = self.source.as_deref();
        match redacted.and_then(|source| redacted_cause(source, secrets)) {
            Some(redacted) => Self {
                source: Some(redacted.into()),
                ..self
            },
            None => self,
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

/// Why a call was not sent, which is not the login system's fault.
#[derive(Debug)]
struct Withheld(String);

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Withheld {}

#[derive(Debug)]
struct NoLogout;

impl fmt::Display for NoLogout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this provider has no logout")
    }
}

impl Error for NoLogout {}

/// Returns whether no byte of the request was sent: the connection was refused,
/// or hyper's client failed to connect (with the feature `hyper-client`).
///
/// Any other failure to connect looks like the failure of a request that was
/// sent, since each transport has its own error types.
pub(crate) fn was_not_sent(error: &(dyn std::error::Error + 'static)) -> bool {
    with_causes(Some(error)).any(|error| {
        #[cfg(feature = "hyper-client")]
        if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>()
            && error.is_connect()
        {
            return true;
        }
        let error = error.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    })
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Error for ProviderError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}

impl From<ProviderError> for crate::Error {
    fn from(error: ProviderError) -> Self {
        let kind = match error.kind {
            ProviderErrorKind::Refused => ErrorKind::Refused,
            ProviderErrorKind::PasswordExpired => ErrorKind::PasswordExpired,
            ProviderErrorKind::Locked => ErrorKind::Locked,
            ProviderErrorKind::InteractionRequired => ErrorKind::InteractionRequired,
            ProviderErrorKind::Unavailable | ProviderErrorKind::NotSent => ErrorKind::Unavailable,
            ProviderErrorKind::TokenRejected => ErrorKind::TokenRejected,
            ProviderErrorKind::Protocol => ErrorKind::Protocol,
            ProviderErrorKind::Uncertain => ErrorKind::Uncertain,
            ProviderErrorKind::Unsupported => ErrorKind::Unsupported,
        };
        let ours = match error.culprit() {
            Some(culprit) => Self::new(kind).with_culprit(culprit),
            None => Self::new(kind),
        };
        match error.retry_after {
            Some(delay) => ours.with_retry_after(delay).with_source(error),
            None => ours.with_source(error),
        }
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
            SourceErrorKind::Unavailable
            | SourceErrorKind::Missing
            | SourceErrorKind::Invalid
            | SourceErrorKind::Conflict => Self::unavailable(error),
            SourceErrorKind::ReadOnly => Self::unsupported(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_quotes_no_secret_keeps_its_type() {
        let error = ProviderError::unanswered(io::Error::from(io::ErrorKind::TimedOut));
        for word in ["unanswered", "true", "Unavailable", "Some", "None"] {
            let error = error.clone().without(&[SecretString::from(word)]);
            assert!(Error::source(&error).unwrap().is::<io::Error>(), "{word}");
        }
    }

    #[test]
    fn a_secret_of_four_bytes_is_removed_and_a_shorter_one_is_not() {
        let text = |secret: &str| {
            let error = ProviderError::refused(format!("wrong: {secret}"));
            let error = error.without(&[SecretString::from(secret)]);
            Error::source(&error).unwrap().to_string()
        };
        assert!(!text("4a7b").contains("4a7b"));
        assert_eq!(text("4a7"), "wrong: 4a7");
    }
}
