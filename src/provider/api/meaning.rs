//! The meaning of an answer: success or an error.

use std::fmt;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::response::Parts;

use crate::BoxError;
use crate::date;
use crate::provider::{ProviderError, ProviderErrorKind};
use crate::rejection::{Rejection, Start, Verdict};
use crate::text::compression;

/// The delay before another login after an unexpected answer without
/// `Retry-After`: the server may have counted a failed login.
const NOT_SOON: Duration = Duration::from_secs(60);

/// The clauses that the provider has declared for a call. They come before the status.
#[derive(Default)]
pub(super) struct Declared {
    pub(super) busy: Vec<Rejection>,
    pub(super) refused: Vec<Rejection>,
    pub(super) denied: Vec<Rejection>,
}

/// The meaning of an answer to a call of one kind.
pub(super) enum Meaning {
    Done,
    Denied,
    /// Its text decides, and is compressed.
    Unreadable,
    Failed(fn(Quote) -> ProviderError),
}

/// The parts of an answer that an error quotes. A server may echo what it was sent, so
/// the session removes that.
#[derive(Debug)]
pub(super) struct Quote {
    pub(super) what: String,
    pub(super) status: StatusCode,
    /// The `error` of a JSON object, such as `invalid_grant` (RFC 6749, section 5.2).
    pub(super) code: Option<String>,
}

impl Declared {
    /// Returns the meaning of an answer that meets a clause. The status decides about any
    /// other.
    pub(super) fn of(&self, head: &Parts, body: &[u8]) -> Option<Meaning> {
        let start = match compression(&head.headers) {
            Some(_) => Start::Partial(&[]),
            None => Start::Complete(body),
        };
        let mut is_unknown = false;
        let mut is_met = |clauses: &Vec<Rejection>| {
            clauses.iter().any(|clauses| {
                let verdict = clauses.classify_body(head, start);
                is_unknown |= matches!(verdict, Verdict::Unknown);
                matches!(verdict, Verdict::Rejected(_))
            })
        };
        if is_met(&self.busy) {
            return Some(Meaning::Failed(ProviderError::unavailable));
        }
        if is_met(&self.refused) {
            return Some(Meaning::Failed(ProviderError::refused));
        }
        if is_met(&self.denied) {
            return Some(Meaning::Denied);
        }
        // Its text may deny what its status grants.
        (is_unknown && !head.status.is_client_error() && !head.status.is_server_error())
            .then_some(Meaning::Unreadable)
    }
}

impl Meaning {
    pub(super) fn of_login(status: StatusCode) -> Self {
        match status.as_u16() {
            200..=399 => Self::Done,
            401 | 403 => Self::Denied,
            _ => Self::Failed(failed_login(status)),
        }
    }

    pub(super) fn of_logout(status: StatusCode) -> Self {
        match status.as_u16() {
            200..=399 => Self::Done,
            401 | 404 | 410 => Self::Denied,
            _ => Self::Failed(failed_call(status)),
        }
    }

    pub(super) fn of_change(status: StatusCode) -> Self {
        match status.as_u16() {
            200..=299 => Self::Done,
            401 => Self::Denied,
            400 | 403 | 409 | 422 => Self::Failed(ProviderError::refused),
            _ => Self::Failed(failed_change(status)),
        }
    }

    pub(super) fn of_exchange(status: StatusCode) -> Self {
        match status.as_u16() {
            200..=299 => Self::Done,
            400 | 401 | 403 => Self::Denied,
            _ => Self::Failed(failed_change(status)),
        }
    }

    pub(super) fn of_read(status: StatusCode) -> Self {
        match status.as_u16() {
            200..=299 => Self::Done,
            401 => Self::Denied,
            _ => Self::Failed(failed_call(status)),
        }
    }
}

/// Returns the error, with the answer's `Retry-After`.
pub(super) fn failed(
    error: fn(Quote) -> ProviderError,
    quote: Quote,
    head: &Parts,
) -> ProviderError {
    let error = error(quote);
    match date::retry_after(&head.headers, SystemTime::now()) {
        Some(delay) => error.with_retry_after(delay),
        None => error,
    }
}

/// Returns the error for a login with a status that is not about the credentials.
pub(crate) fn failed_login<E: Into<BoxError>>(status: StatusCode) -> fn(E) -> ProviderError {
    match may_have_been_executed(status) {
        true => ProviderError::unanswered,
        false => failed_call(status),
    }
}

/// Returns the error for a call that may be sent again, with a status that is not about
/// its token.
pub(crate) fn failed_call<E: Into<BoxError>>(status: StatusCode) -> fn(E) -> ProviderError {
    match may_succeed_later(status) {
        true => ProviderError::unavailable,
        false => ProviderError::protocol,
    }
}

/// Returns the error for a change or an exchange, which must not be repeated blindly,
/// with a status that denies nothing.
pub(crate) fn failed_change<E: Into<BoxError>>(status: StatusCode) -> fn(E) -> ProviderError {
    match status.as_u16() {
        // To a login page, or to a page that reports success.
        300..=399 => ProviderError::uncertain,
        // A proxy sends 408 too, after a timeout of the server behind it.
        408 | 500.. => ProviderError::uncertain,
        _ => failed_call(status),
    }
}

/// Delays the next login after an unexpected answer, unless the answer names the delay.
pub(crate) fn not_soon(error: ProviderError) -> ProviderError {
    match (error.kind(), error.retry_after()) {
        (ProviderErrorKind::Protocol, None) => error.with_retry_after(NOT_SOON),
        _ => error,
    }
}

/// Returns whether the same request may succeed later.
pub(crate) fn may_succeed_later(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500..)
}

/// Returns whether the request may have been executed nevertheless: a gateway gave up
/// waiting for the server behind it, or that failed on the way. A server that answers
/// with 503 has not looked at the request.
fn may_have_been_executed(status: StatusCode) -> bool {
    status == StatusCode::REQUEST_TIMEOUT
        || status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE
}

impl fmt::Display for Quote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was answered with {}", self.what, self.status)?;
        match &self.code {
            Some(code) => write!(f, " ({code})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Quote {}
