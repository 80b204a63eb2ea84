//! What a login system answers, and what that means.

use std::fmt;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::transport::{End, Received};
use crate::BoxError;
use crate::cookie::SetCookie;
use crate::date;
use crate::provider::{ProviderError, ProviderErrorKind};
#[cfg(feature = "json")]
use crate::secret;

/// The limit for the body of an answer, in bytes. Login pages are smaller.
pub(super) const MAX_ANSWER: usize = 1024 * 1024;

/// The delay before another login after an unexpected answer without
/// `Retry-After`: the server may have counted a failed login.
pub(crate) const NOT_SOON: Duration = Duration::from_secs(60);

/// The answer to a [`Call`](super::Call), read to its end. Its body is wiped
/// when it drops.
pub struct Answer {
    what: String,
    status: StatusCode,
    headers: HeaderMap,
    body: Zeroizing<Vec<u8>>,
    /// What it means if the provider cannot use it.
    unusable: fn(String) -> ProviderError,
}

impl Answer {
    /// Takes an answer that was read. `lost` makes the error for one that does not end.
    pub(super) fn of(
        what: String,
        received: Received,
        lost: fn(BoxError) -> ProviderError,
    ) -> Result<Self, ProviderError> {
        match received.end {
            End::Whole => Ok(Self {
                what,
                status: received.status,
                headers: received.headers,
                body: received.body,
                unusable: ProviderError::protocol,
            }),
            End::Broken(error) => Err(lost(error)),
            End::TooLong => {
                let too_long = format!("the answer to {what} is longer than {MAX_ANSWER} bytes");
                Err(lost(too_long.into()))
            }
        }
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The value of a header that must be there.
    ///
    /// # Errors
    ///
    /// That of [`Answer::unexpected`] if it is not, or is no text.
    pub fn header(&self, name: &str) -> Result<SecretString, ProviderError> {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value
            .map(SecretString::from)
            .ok_or_else(|| self.unexpected(format_args!("has no header `{name}`")))
    }

    /// A cookie that it must set.
    ///
    /// # Errors
    ///
    /// That of [`Answer::unexpected`] if it does not, or deletes it.
    pub fn cookie(&self, name: &str) -> Result<SetCookie, ProviderError> {
        SetCookie::find(&self.headers, name)
            .ok_or_else(|| self.unexpected(format_args!("sets no cookie {name:?}")))
    }

    /// As [`Answer::cookie`], for one whose name is not known in full.
    ///
    /// # Errors
    ///
    /// As [`Answer::cookie`].
    pub fn cookie_by(&self, is_meant: impl Fn(&str) -> bool) -> Result<SetCookie, ProviderError> {
        SetCookie::find_by(&self.headers, is_meant)
            .ok_or_else(|| self.unexpected("sets no cookie of such a name"))
    }

    /// Its body.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// Its body as text.
    ///
    /// # Errors
    ///
    /// That of [`Answer::unexpected`] if it is no UTF-8.
    pub fn text(&self) -> Result<&str, ProviderError> {
        std::str::from_utf8(&self.body).map_err(|_| self.unexpected(format_args!("is no text")))
    }

    /// Its body as JSON.
    ///
    /// What the parser unescapes is not wiped: read secrets by
    /// [`Answer::secret`].
    ///
    /// # Errors
    ///
    /// That of [`Answer::unexpected`] if it is something else. Nothing of it is
    /// quoted.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, ProviderError> {
        // The parser's own error quotes what it stumbled over.
        serde_json::from_slice(&self.body).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            let what = match error.is_data() {
                true => "other JSON than was expected",
                false => "no JSON",
            };
            self.unexpected(format_args!("is {what}, at line {line}, column {column}"))
        })
    }

    /// A text of its JSON body, by its JSON Pointer (RFC 6901): `/auth/token`,
    /// or nothing for a body that is a text itself. It is wiped.
    ///
    /// # Errors
    ///
    /// That of [`Answer::unexpected`] if there is none.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    pub fn secret(&self, pointer: &str) -> Result<SecretString, ProviderError> {
        let found = self.find(pointer).and_then(secret::json::unescaped);
        found.ok_or_else(|| self.unexpected(format_args!("has no text at {pointer:?}")))
    }

    /// A value of its JSON body, by its JSON Pointer (RFC 6901), such as
    /// `at::<u64>("/expires_in")`. Secrets are read by [`Answer::secret`].
    ///
    /// # Errors
    ///
    /// That of [`Answer::unexpected`] if there is none of that type.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    pub fn at<T: serde::de::DeserializeOwned>(&self, pointer: &str) -> Result<T, ProviderError> {
        let found = self.find(pointer);
        let value = found.and_then(|json| serde_json::from_str(json).ok());
        value.ok_or_else(|| self.unexpected(format_args!("has no such value at {pointer:?}")))
    }

    /// The JSON at that place, as it was written: nothing of it is copied.
    #[cfg(feature = "json")]
    fn find(&self, pointer: &str) -> Option<&str> {
        use serde_json::value::RawValue;
        use std::collections::BTreeMap;

        let mut found: &RawValue = serde_json::from_slice(&self.body).ok()?;
        let mut names = pointer.split('/');
        if !names.next()?.is_empty() {
            return None;
        }
        for name in names {
            let json = found.get();
            found = if json.starts_with('[') {
                let list: Vec<&RawValue> = serde_json::from_str(json).ok()?;
                *list.get(index(name)?)?
            } else {
                let name = name.replace("~1", "/").replace("~0", "~");
                let object: BTreeMap<String, &RawValue> = serde_json::from_str(json).ok()?;
                *object.get(&name)?
            };
        }
        Some(found.get())
    }

    /// The answer is not what the provider takes it for.
    ///
    /// `says` goes on a sentence that begins with `the answer to POST /login`.
    /// It is [`Protocol`](crate::ProviderErrorKind::Protocol): after a login,
    /// another one waits for a minute, since this one may have failed. After a
    /// change or an exchange it is
    /// [`Uncertain`](crate::ProviderErrorKind::Uncertain): it may have happened.
    pub fn unexpected(&self, says: impl fmt::Display) -> ProviderError {
        (self.unusable)(format!("the answer to {} {says}", self.what))
    }

    /// The answer, if the login succeeded. As [`Call::login`](super::Call::login).
    ///
    /// # Errors
    ///
    /// See the table at [`Api`](super::Api).
    pub fn of_login(self) -> Result<Self, ProviderError> {
        let answer = self.or_else(|status| match status.as_u16() {
            401 | 403 => Some(ProviderError::refused),
            _ if may_have_been_executed(status) => Some(ProviderError::unanswered),
            _ if is_later(status) => Some(ProviderError::unavailable),
            _ => None,
        });
        let answer = answer.map(|answer| Self {
            unusable: |why| ProviderError::protocol(why).with_retry_after(NOT_SOON),
            ..answer
        });
        answer.map_err(|error| match (error.kind(), error.retry_after()) {
            (ProviderErrorKind::Protocol, None) => error.with_retry_after(NOT_SOON),
            _ => error,
        })
    }

    /// The answer, if the logout succeeded. As [`Call::logout`](super::Call::logout).
    ///
    /// # Errors
    ///
    /// See the table at [`Api`](super::Api).
    pub fn of_logout(self) -> Result<Self, ProviderError> {
        self.or_else(|status| match status.as_u16() {
            401 | 404 | 410 => Some(ProviderError::token_rejected),
            _ if is_later(status) => Some(ProviderError::unavailable),
            _ => None,
        })
    }

    /// The answer, if the password was changed. As [`Call::change`](super::Call::change).
    ///
    /// # Errors
    ///
    /// See the table at [`Api`](super::Api).
    pub fn of_change(self) -> Result<Self, ProviderError> {
        let answer = self.or_else(|status| match status.as_u16() {
            401 => Some(ProviderError::token_rejected),
            400 | 403 | 409 | 422 => Some(ProviderError::refused),
            // To a login page as well as to one that says that it is done.
            300..=399 | 408 | 500.. => Some(ProviderError::uncertain),
            _ if is_later(status) => Some(ProviderError::unavailable),
            _ => None,
        });
        answer.map(Self::of_what_may_have_happened)
    }

    /// The answer, if the exchange succeeded. As
    /// [`Call::exchange`](super::Call::exchange).
    ///
    /// # Errors
    ///
    /// See the table at [`Api`](super::Api).
    pub fn of_exchange(self) -> Result<Option<Self>, ProviderError> {
        if matches!(self.status.as_u16(), 400 | 401 | 403) {
            return Ok(None);
        }
        let answer = self.or_else(|status| match status.as_u16() {
            300..=399 | 408 | 500.. => Some(ProviderError::uncertain),
            _ if is_later(status) => Some(ProviderError::unavailable),
            _ => None,
        });
        answer.map(|answer| Some(answer.of_what_may_have_happened()))
    }

    /// The answer, unless its status is one of those.
    pub(super) fn denied(
        self,
        statuses: &[StatusCode],
        error: fn(Said) -> ProviderError,
    ) -> Result<Self, ProviderError> {
        match statuses.contains(&self.status) {
            true => Err(self.failed(error)),
            false => Ok(self),
        }
    }

    fn of_what_may_have_happened(self) -> Self {
        Self {
            unusable: ProviderError::uncertain,
            ..self
        }
    }

    fn or_else(
        self,
        error_of: impl Fn(StatusCode) -> Option<fn(Said) -> ProviderError>,
    ) -> Result<Self, ProviderError> {
        let status = self.status;
        match error_of(status) {
            _ if status.is_success() => Ok(self),
            Some(error) => Err(self.failed(error)),
            // After a form it says where to go on.
            None if status.is_redirection() => Ok(self),
            None => Err(self.failed(ProviderError::protocol)),
        }
    }

    fn failed(&self, error: fn(Said) -> ProviderError) -> ProviderError {
        let error = error(Said {
            what: self.what.clone(),
            status: self.status,
        });
        match date::retry_after(&self.headers, SystemTime::now()) {
            Some(delay) => error.with_retry_after(delay),
            None => error,
        }
    }
}

/// The place that a JSON Pointer names in a list (RFC 6901, section 4): digits
/// without a leading zero.
#[cfg(feature = "json")]
fn index(name: &str) -> Option<usize> {
    let is_number = name == "0" || name.starts_with(|first: char| matches!(first, '1'..='9'));
    is_number.then(|| name.parse().ok())?
}

/// Whether that status says that the same request may succeed later.
fn is_later(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500..)
}

/// Whether it does not tell what became of the request: a gateway lost patience
/// with the server behind it, or that failed on the way. 503 is said by one
/// that has not looked at it.
pub(crate) fn may_have_been_executed(status: StatusCode) -> bool {
    status == StatusCode::REQUEST_TIMEOUT
        || status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("what", &self.what)
            .field("status", &self.status)
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("bytes", &self.body.len())
            .finish()
    }
}

/// A status that is no success. Of the answer itself nothing is quoted, since
/// a server may echo what it was sent.
#[derive(Debug)]
pub(super) struct Said {
    what: String,
    status: StatusCode,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was answered with {}", self.what, self.status)
    }
}

impl std::error::Error for Said {}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::io::{Error, ErrorKind};

    use bytes::Bytes;
    use http::{Request, Response, Uri};
    use http_body_util::Full;

    use super::super::Api;
    use super::*;

    #[test]
    fn a_failed_login_may_have_been_counted_unless_the_status_says_that_nobody_looked_at_it() {
        for (status, may_have_been) in [
            (401, false),
            (408, true),
            (425, false),
            (429, false),
            (500, true),
            (502, true),
            (503, false),
            (504, true),
        ] {
            let answer = Answer {
                what: String::from("POST /login"),
                status: StatusCode::from_u16(status).unwrap(),
                headers: HeaderMap::new(),
                body: Zeroizing::default(),
                unusable: ProviderError::protocol,
            };
            let error = answer.of_login().unwrap_err();
            assert_eq!(error.may_have_happened(), may_have_been, "{status}");
        }
    }

    /// Some logins are sent so, where a success may be a refusal.
    #[tokio::test]
    async fn what_was_sent_and_not_answered_may_have_happened() {
        for (kind, may_have_happened) in [
            (ErrorKind::ConnectionReset, true),
            (ErrorKind::ConnectionRefused, false),
        ] {
            let http = tower::service_fn(move |_: Request<Full<Bytes>>| {
                ready(Err::<Response<Full<Bytes>>, _>(Error::from(kind)))
            });
            let api = Api::new(http, Uri::from_static("https://a.test")).unwrap();
            for error in [
                api.post("/login").send().await.err().unwrap(),
                api.post("/login").login().await.err().unwrap(),
            ] {
                let expected = match may_have_happened {
                    true => ProviderErrorKind::Unavailable,
                    false => ProviderErrorKind::NotSent,
                };
                assert_eq!(error.kind(), expected);
                assert_eq!(error.may_have_happened(), may_have_happened);
            }
        }
    }
}
