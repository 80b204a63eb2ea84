//! Why a call of the session service failed.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::model::{ErrorData, ErrorList};
use crate::BoxError;

/// Why a call of the session service failed, and what the server said.
///
/// The error names the status and the content type of the answer, and its
/// message: of an error list, of a gateway's JSON, or plain text. An HTML page
/// has no message. A message is one line of bounded length, without control
/// characters and without the secrets that the call sent or received, even if
/// the answer echoes them. An answer to a login with a status of 2xx may contain
/// the token anywhere. It is quoted only if it is an error list without a token.
///
/// Cloning is cheap. The transport's own error is the [`source`](StdError::source).
///
/// ```
/// use tower_reauth::controlm::{Error, ErrorKind, Unreadable};
///
/// fn advice(error: &Error) -> &'static str {
///     match error.kind() {
///         ErrorKind::PlainHttp => "use https",
///         ErrorKind::NotSent => "check that the server is up and the address is right",
///         ErrorKind::NoAnswer => "check whether it happened before you try again",
///         ErrorKind::Status(_) => "read the message",
///         ErrorKind::Unreadable(Unreadable::NotJson) => "something else answers at that address",
///         _ => "contact the administrator of the server",
///     }
/// }
/// ```
#[derive(Clone)]
pub struct Error(Arc<Details>);

struct Details {
    call: SessionCall,
    kind: ErrorKind,
    status: Option<StatusCode>,
    content_type: Option<String>,
    errors: Option<ErrorList>,
    text: Option<String>,
    retry_after: Option<Duration>,
    token_is_dead: bool,
    /// The answer says that user or password is wrong.
    is_refusal: bool,
    source: Option<BoxError>,
}

/// The kind of an [`Error`], and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nothing was sent: the request would have gone over plain `http` to
    /// another machine, and anybody on the way can read the password. Use
    /// `https`, or call `allow_plain_http`.
    PlainHttp,
    /// Nothing was sent: the transport was not ready, the connection was refused
    /// (with the feature `hyper-client`: or hyper's client could not connect for
    /// any other reason), or the given token is not a valid header value. The
    /// source is the reason.
    NotSent,
    /// The connection failed before an answer arrived. The server may or may not
    /// have executed the call.
    NoAnswer,
    /// The answer has this status, which is not a success: see [`Error::text`].
    Status(StatusCode),
    /// The status is a success, but the answer cannot be used. Most often
    /// another server answers at that address.
    Unreadable(Unreadable),
}

/// What is wrong with an answer whose status is a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unreadable {
    /// The answer is not JSON, or JSON of another shape.
    NotJson,
    /// The answer is incomplete.
    Truncated,
    /// The answer is longer than [`MAX_ANSWER`](super::MAX_ANSWER). The rest was
    /// not read.
    TooLong,
    /// The answer to a login has no token.
    NoToken,
    /// The token in the answer to a login is not a valid header value.
    InvalidToken,
}

/// One of the three calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionCall {
    Login,
    Logout,
    UpdateMyPassword,
}

impl Error {
    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the status of the answer, if one arrived.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        self.0.status
    }

    /// Returns the session service's error list. It is empty if another server
    /// answered.
    #[must_use]
    pub fn errors(&self) -> &[ErrorData] {
        self.0.errors.as_ref().map_or(&[], |list| &list.errors)
    }

    /// Returns the message of the answer, from the session service, a gateway or
    /// a proxy. It comes from JSON or plain text: an HTML page has none.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.0.text.as_deref()
    }

    /// Returns the delay of the answer's `Retry-After` (RFC 9110, section
    /// 10.2.3), at most a day.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Returns whether the answer rejects the call's token as dead: by status
    /// 401, or by status 500 and the service's text for a dead token.
    #[must_use]
    pub fn token_is_dead(&self) -> bool {
        self.0.token_is_dead
    }

    pub(super) fn new(call: SessionCall, kind: ErrorKind) -> Self {
        Self(Arc::new(Details {
            call,
            kind,
            status: None,
            content_type: None,
            errors: None,
            text: None,
            retry_after: None,
            token_is_dead: false,
            is_refusal: false,
            source: None,
        }))
    }

    pub(super) fn caused_by(self, source: impl Into<BoxError>) -> Self {
        let source = Some(source.into());
        self.with(|inner| inner.source = source)
    }

    pub(super) fn answered(
        self,
        status: StatusCode,
        content_type: Option<String>,
        retry_after: Option<Duration>,
    ) -> Self {
        self.with(|inner| {
            inner.status = Some(status);
            inner.content_type = content_type;
            inner.retry_after = retry_after;
        })
    }

    pub(super) fn saying(self, errors: Option<ErrorList>, text: Option<String>) -> Self {
        self.with(|inner| {
            inner.errors = errors;
            inner.text = text;
        })
    }

    pub(super) fn about_a_dead_token(self, dead: bool) -> Self {
        self.with(|inner| inner.token_is_dead = dead)
    }

    pub(super) fn about_a_refusal(self, refusal: bool) -> Self {
        self.with(|inner| inner.is_refusal = refusal)
    }

    pub(super) fn is_refusal(&self) -> bool {
        self.0.is_refusal
    }

    fn with(mut self, set: impl FnOnce(&mut Details)) -> Self {
        let inner = Arc::get_mut(&mut self.0).expect("an error under construction has no clones");
        set(inner);
        self
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details {
            call,
            kind,
            status,
            content_type,
            errors,
            text,
            retry_after,
            token_is_dead,
            is_refusal,
            source,
        } = &*self.0;
        f.debug_struct("Error")
            .field("call", call)
            .field("kind", kind)
            .field("status", status)
            .field("content_type", content_type)
            .field("errors", errors)
            .field("text", text)
            .field("retry_after", retry_after)
            .field("token_is_dead", token_is_dead)
            .field("is_refusal", is_refusal)
            .field("source", source)
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let call = self.0.call;
        match self.0.kind {
            ErrorKind::PlainHttp => write!(
                f,
                "the {call} was not sent, because it would go over plain http to another machine: \
                 use https, or `allow_plain_http`"
            )?,
            ErrorKind::NotSent => write!(f, "the {call} could not be sent")?,
            ErrorKind::NoAnswer => write!(f, "the {call} got no answer")?,
            ErrorKind::Status(_) => write!(f, "the {call} failed")?,
            ErrorKind::Unreadable(what) => {
                let what = match what {
                    Unreadable::NotJson => "is not the expected JSON",
                    Unreadable::Truncated => "is incomplete",
                    Unreadable::TooLong => "is too long",
                    Unreadable::NoToken => "has no token",
                    Unreadable::InvalidToken => "has a token that is not a valid header value",
                };
                write!(f, "the answer to the {call} {what}")?;
            }
        }
        if let Some(status) = self.0.status {
            write!(f, ": {status}")?;
        }
        if let Some(content_type) = &self.0.content_type {
            write!(f, " ({content_type})")?;
        }
        if let Some(text) = &self.0.text {
            write!(f, ": {text}")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

impl fmt::Display for SessionCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Login => "login",
            Self::Logout => "logout",
            Self::UpdateMyPassword => "password change",
        })
    }
}
