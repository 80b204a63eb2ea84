//! Why a request was not sent, or an operation of the session failed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::provider::{ProviderError, ProviderErrorKind};

/// An error of the session.
///
/// On a request's path it always means that **the request was not executed**:
/// errors of the inner service pass unchanged, and a rejection is a response.
/// It is cheap to clone: everybody who waited for a login gets the same one.
///
/// A service's error is boxed, as in tower. [`Error::find`] tells ours from
/// the inner service's:
///
/// ```
/// use tower_reauth::{BoxError, Error, ErrorKind};
///
/// fn may_be_retried(error: &BoxError) -> bool {
///     match Error::find(&**error).map(Error::kind) {
///         Some(ErrorKind::Unavailable | ErrorKind::DeadlineExceeded) => true,
///         Some(_) => false,
///         // An error of the inner service: the request may have been executed.
///         None => false,
///     }
/// }
/// ```
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    retry_after: Option<Duration>,
}

/// What kind of [`Error`] it is, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The session was logged out. [`Session::login`](crate::Session::login)
    /// opens it again.
    LoggedOut,
    /// The session was closed for good, with
    /// [`Session::close`](crate::Session::close). Make another one.
    Closed,
    /// The server refused the credentials, and they are not sent again.
    /// Put the right ones into their source, or call
    /// [`Session::login`](crate::Session::login) once they are right. Of a
    /// password change it says that the server denied it: choose another one.
    Refused,
    /// The login system cannot answer now, or the source of the credentials
    /// yields none: the error's source says which. Try again after
    /// [`Error::retry_after`].
    Unavailable,
    /// The login system's answer could not be read. Look at the error's
    /// source: most often something else answers at that address.
    Protocol,
    /// The answer was lost, so that it may or may not have happened. After a
    /// password change the session tries both passwords at its next login, and
    /// after a login it tries again later.
    Uncertain,
    /// The provider, or its source of credentials, cannot do that.
    Unsupported,
    /// The server rejected the token that a password change used, and the one
    /// that a renewal brought, if one could be made. The old password stays.
    TokenRejected,
    /// The provider, or its source of credentials, did not answer within the
    /// login deadline. Try again, or give it more with
    /// [`login_deadline`](crate::SessionBuilder::login_deadline).
    DeadlineExceeded,
    /// The provider panicked, which is a defect in it.
    ProviderPanicked,
    /// There is no tokio runtime to log in on, or it shut down meanwhile. Poll
    /// the request within one.
    NoRuntime,
    /// The provider sent a call through the session that it serves. Give it a
    /// client without the session's layer.
    Recursive,
    /// The session has no origin, or the request's URI names none. Give the
    /// session one with [`Profile::at`](crate::Profile::at) and requests an
    /// absolute URI, or say [`Profile::bound`](crate::Profile::bound).
    NoOrigin,
    /// The token would go over plain `http` to another machine. Use `https`,
    /// or say [`allow_plain_http`](crate::Profile::allow_plain_http).
    InsecureOrigin,
}

impl ErrorKind {
    /// The kind in `snake_case`, for logs and the labels of metrics. It never changes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoggedOut => "logged_out",
            Self::Closed => "closed",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Protocol => "protocol",
            Self::Uncertain => "uncertain",
            Self::Unsupported => "unsupported",
            Self::TokenRejected => "token_rejected",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::ProviderPanicked => "provider_panicked",
            Self::NoRuntime => "no_runtime",
            Self::Recursive => "recursive",
            Self::NoOrigin => "no_origin",
            Self::InsecureOrigin => "insecure_origin",
        }
    }
}

impl Error {
    pub(crate) fn new(kind: ErrorKind) -> Self {
        Self {
            kind,
            source: None,
            retry_after: None,
        }
    }

    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// How long to wait before another try can succeed, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Finds an error of ours in `error` or among its sources.
    #[must_use]
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(ours) = error.downcast_ref() {
                return Some(ours);
            }
            next = error.source();
        }
        None
    }

    pub(crate) fn with_retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }
}

impl From<ProviderError> for Error {
    fn from(error: ProviderError) -> Self {
        let kind = match error.kind() {
            ProviderErrorKind::Refused => ErrorKind::Refused,
            ProviderErrorKind::Unavailable => ErrorKind::Unavailable,
            ProviderErrorKind::TokenRejected => ErrorKind::TokenRejected,
            ProviderErrorKind::Protocol => ErrorKind::Protocol,
            ProviderErrorKind::Uncertain => ErrorKind::Uncertain,
            ProviderErrorKind::Unsupported => ErrorKind::Unsupported,
        };
        Self {
            kind,
            retry_after: error.retry_after(),
            source: Some(Arc::new(error)),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.kind);
        if let Some(source) = &self.source {
            debug.field("source", source);
        }
        if let Some(delay) = &self.retry_after {
            debug.field("retry_after", delay);
        }
        debug.finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            ErrorKind::LoggedOut => "the session is logged out",
            ErrorKind::Closed => "the session is closed",
            ErrorKind::Refused => "no token: the credentials were refused",
            ErrorKind::Unavailable => "no token: the login system is unavailable",
            ErrorKind::Protocol => "no token: the login system's answer could not be read",
            ErrorKind::Uncertain => "the answer was lost: it may have happened or not",
            ErrorKind::Unsupported => "the provider does not support that",
            ErrorKind::TokenRejected => "the server rejected the token",
            ErrorKind::DeadlineExceeded => "the provider did not answer within the login deadline",
            ErrorKind::ProviderPanicked => "the provider panicked",
            ErrorKind::NoRuntime => "there is no tokio runtime to log in on",
            ErrorKind::Recursive => "the provider calls through the session that it serves",
            ErrorKind::NoOrigin => "it is not known whether the token may go there: the session has no origin, or the request's URI is relative",
            ErrorKind::InsecureOrigin => "the token must not go over plain http to another machine",
        })
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kinds_label_is_its_own_and_never_changes() {
        for (kind, label) in [
            (ErrorKind::LoggedOut, "logged_out"),
            (ErrorKind::Closed, "closed"),
            (ErrorKind::Refused, "refused"),
            (ErrorKind::Unavailable, "unavailable"),
            (ErrorKind::Protocol, "protocol"),
            (ErrorKind::Uncertain, "uncertain"),
            (ErrorKind::Unsupported, "unsupported"),
            (ErrorKind::TokenRejected, "token_rejected"),
            (ErrorKind::DeadlineExceeded, "deadline_exceeded"),
            (ErrorKind::ProviderPanicked, "provider_panicked"),
            (ErrorKind::NoRuntime, "no_runtime"),
            (ErrorKind::Recursive, "recursive"),
            (ErrorKind::NoOrigin, "no_origin"),
            (ErrorKind::InsecureOrigin, "insecure_origin"),
        ] {
            assert_eq!(kind.as_str(), label);
        }
    }

    #[test]
    fn an_error_of_ours_is_found_among_the_sources_of_another() {
        let ours = Error::new(ErrorKind::Closed);
        let around = ProviderError::unavailable(ProviderError::unavailable(ours.clone()));
        for error in [&ours as &dyn std::error::Error, &around] {
            let found = Error::find(error).map(Error::kind);
            assert_eq!(found, Some(ErrorKind::Closed));
        }
        let another = ProviderError::unavailable("of the client");
        assert!(Error::find(&another).is_none());
    }
}
