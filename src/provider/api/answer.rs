//! The answer of a login system, and how to read it.

use std::fmt;
#[cfg(feature = "json")]
use std::time::{Duration, SystemTime};

use http::header::CONTENT_TYPE;
use http::response::Parts;
use http::{HeaderMap, Response, StatusCode};
use secrecy::SecretString;
use zeroize::Zeroizing;

#[cfg(feature = "json")]
use super::expiry::Expiry;
#[cfg(feature = "json")]
use super::fields::unescaped;
use super::meaning::{Declared, Meaning, Quote, failed, not_soon};
use super::transport::{End, ReceivedAnswer};
use crate::BoxError;
use crate::cookie::SetCookie;
#[cfg(feature = "json")]
use crate::date;
use crate::provider::ProviderError;
#[cfg(feature = "json")]
use crate::secret;
use crate::text::{compression, without_bom};

/// The limit for the body of an answer, in bytes. Login pages are smaller.
pub(super) const BODY_LIMIT: usize = 1024 * 1024;

/// The limit for what an error quotes of a header or of a JSON field, in bytes.
const MAX_QUOTE: usize = 64;

/// The answer to a [`Call`](super::Call), read to its end. Its body is wiped
/// when it drops.
///
/// A method that does not find what it reads returns an error that names the status, the
/// content type, and what was expected: `the answer to POST /login is a 301 Moved
/// Permanently with text/html where JSON with a text at "/token" was expected`.
pub struct Answer {
    what: String,
    head: Parts,
    body: Zeroizing<Vec<u8>>,
    declared: Declared,
    /// What it means if the provider cannot use it.
    unusable: fn(String) -> ProviderError,
}

impl Answer {
    /// Takes an answer that was read. `lost` makes the error for one that does not end.
    pub(super) fn of(
        what: String,
        declared: Declared,
        received: ReceivedAnswer,
        lost: fn(BoxError) -> ProviderError,
    ) -> Result<Self, ProviderError> {
        let mut response = Response::new(());
        *response.status_mut() = received.status;
        *response.headers_mut() = received.headers;
        match received.end {
            End::Whole => Ok(Self {
                what,
                head: response.into_parts().0,
                body: received.body,
                declared,
                unusable: ProviderError::protocol,
            }),
            End::Broken(error) => Err(lost(error)),
            End::TooLong => {
                let too_long = format!("the answer to {what} is longer than {BODY_LIMIT} bytes");
                Err(lost(too_long.into()))
            }
        }
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// Its headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The value of a header that must be there.
    ///
    /// # Errors
    ///
    /// That of [`Answer::unexpected`] if it is not, or is no text.
    pub fn header(&self, name: &str) -> Result<SecretString, ProviderError> {
        let value = self.headers().get(name);
        value
            .and_then(|value| value.to_str().ok())
            .map(SecretString::from)
            .ok_or_else(|| self.expected(format_args!("a header `{name}`")))
    }

    /// A cookie that it must set.
    ///
    /// # Errors
    ///
    /// That of [`Answer::unexpected`] if it does not, or deletes it.
    pub fn cookie(&self, name: &str) -> Result<SetCookie, ProviderError> {
        SetCookie::find(self.headers(), name)
            .ok_or_else(|| self.expected(format_args!("a cookie {name:?}")))
    }

    /// As [`Answer::cookie`], for one whose name is not known in full.
    ///
    /// # Errors
    ///
    /// As [`Answer::cookie`].
    pub fn cookie_by(&self, is_meant: impl Fn(&str) -> bool) -> Result<SetCookie, ProviderError> {
        SetCookie::find_by(self.headers(), is_meant)
            .ok_or_else(|| self.expected("a cookie of such a name"))
    }

    /// Its body.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// Its body as text, without a byte order mark.
    ///
    /// # Errors
    ///
    /// That of [`Answer::unexpected`] if it is not UTF-8.
    pub fn text(&self) -> Result<&str, ProviderError> {
        let text = std::str::from_utf8(without_bom(&self.body));
        text.map_err(|_| self.expected("text in UTF-8"))
    }

    /// Its body as JSON. A byte order mark before it is skipped.
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
        serde_json::from_slice(without_bom(&self.body)).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            match error.is_data() {
                true => self.expected(format_args!(
                    "other JSON (from line {line}, column {column})"
                )),
                false => self.expected("JSON"),
            }
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
        found.ok_or_else(|| self.expected(format_args!("JSON with a text at {pointer:?}")))
    }

    /// As [`Answer::secret`], for a text that may be missing or `null`, as a new refresh
    /// token may be (RFC 6749, section 6).
    ///
    /// # Errors
    ///
    /// That of [`Answer::unexpected`] if the body is not JSON, or has something else there.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    pub fn optional_secret(&self, pointer: &str) -> Result<Option<SecretString>, ProviderError> {
        match self.find_optional(pointer)? {
            Some(_) => self.secret(pointer).map(Some),
            None => Ok(None),
        }
    }

    /// A value of its JSON body, by its JSON Pointer (RFC 6901), such as
    /// `at::<u64>("/id")`. Secrets are read by [`Answer::secret`], and lifetimes by
    /// [`Answer::lifetime`].
    ///
    /// # Errors
    ///
    /// That of [`Answer::unexpected`] if there is none of that type.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    pub fn at<T: serde::de::DeserializeOwned>(&self, pointer: &str) -> Result<T, ProviderError> {
        let found = self.find(pointer);
        let value = found.and_then(|json| serde_json::from_str(json).ok());
        value.ok_or_else(|| self.expected(format_args!("JSON with such a value at {pointer:?}")))
    }

    /// The lifetime of its token, for [`Token::lives_for`](crate::Token::lives_for), in
    /// whatever form the server names it. A pointer alone means a number of seconds.
    ///
    /// `None` means that the server names none: the value is missing, `null`, or a number
    /// of seconds that is not positive. A point in time counts from the answer's own
    /// `Date`, so that the clocks may differ; one that is over means a lifetime of zero.
    ///
    /// ```
    /// # use tower_reauth::provider::{Answer, Expiry};
    /// # use tower_reauth::{ProviderError, Token};
    /// # fn token(answer: &Answer) -> Result<Token, ProviderError> {
    /// let token = Token::bearer(answer.secret("/access_token")?)?;
    /// Ok(token.lives_for(answer.lifetime("/expires_in")?))
    /// # }
    /// # fn others(answer: &Answer) -> Result<(), ProviderError> {
    /// answer.lifetime(Expiry::Milliseconds("/expires_in_ms"))?;
    /// answer.lifetime(Expiry::At("/token/expires_at"))?;
    /// answer.lifetime(Expiry::Jwt("/access_token"))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// That of [`Answer::unexpected`] if the body is not JSON, or the value names no
    /// lifetime in that form.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    pub fn lifetime<'a>(
        &self,
        expiry: impl Into<Expiry<'a>>,
    ) -> Result<Option<Duration>, ProviderError> {
        let expiry = expiry.into();
        let pointer = expiry.pointer();
        let Some(json) = self.find_optional(pointer)? else {
            return Ok(None);
        };
        let now = date::seconds_of_answer(self.headers(), SystemTime::now());
        expiry.read(json, now).map_err(|_| {
            self.expected(format_args!(
                "JSON with {} at {pointer:?}",
                expiry.expected()
            ))
        })
    }

    /// The JSON at that place, unless it is missing or `null`.
    #[cfg(feature = "json")]
    fn find_optional(&self, pointer: &str) -> Result<Option<&str>, ProviderError> {
        if !pointer.is_empty() && !pointer.starts_with('/') {
            let why = format_args!("was not searched: {pointer:?} is not a JSON Pointer");
            return Err(self.unexpected(why));
        }
        match self.find(pointer) {
            Some("null") => Ok(None),
            Some(json) => Ok(Some(json)),
            // The whole body: is it JSON at all?
            None if self.find("").is_some() => Ok(None),
            None => Err(self.expected("JSON")),
        }
    }

    /// The JSON at that place, as it was written: nothing of it is copied.
    #[cfg(feature = "json")]
    fn find(&self, pointer: &str) -> Option<&str> {
        use serde_json::value::RawValue;
        use std::collections::BTreeMap;

        let mut found: &RawValue = serde_json::from_slice(without_bom(&self.body)).ok()?;
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
                let object: BTreeMap<String, &RawValue> = serde_json::from_str(json).ok()?;
                *object.get(&unescaped(name))?
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

    /// The answer lacks what was expected.
    fn expected(&self, expected: impl fmt::Display) -> ProviderError {
        let found = self.found();
        self.unexpected(format_args!("is a {found} where {expected} was expected"))
    }

    /// Describes the answer, for an error.
    fn found(&self) -> String {
        let mut found = self.status().to_string();
        match self.media_type() {
            _ if self.body.is_empty() => found += " without a body",
            Some(media_type) => found += &format!(" with {media_type}"),
            None => found += " without a content type",
        }
        if let Some(code) = self.code() {
            found += &format!(" and the error {code}");
        }
        if let Some(coding) = compression(self.headers()) {
            let coding = quotable(coding.as_bytes()).unwrap_or("several codings");
            found +=
                &format!(", compressed by {coding} (put a decompression layer into the client),");
        }
        found
    }

    /// The media type of the body, without parameters.
    fn media_type(&self) -> Option<&str> {
        let value = self.headers().get(CONTENT_TYPE)?.as_bytes();
        let media_type = quotable(value.split(|byte| *byte == b';').next()?)?;
        (media_type.matches('/').count() == 1).then_some(media_type)
    }

    /// The `error` of a JSON object (RFC 6749, section 5.2), if it is a short word.
    fn code(&self) -> Option<&str> {
        #[cfg(feature = "json")]
        {
            let quoted = self.find("/error")?;
            let code = quotable(quoted.strip_prefix('"')?.strip_suffix('"')?.as_bytes())?;
            // A message may quote what was sent, even if it is short.
            let is_code = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            code.bytes().all(is_code).then_some(code)
        }
        #[cfg(not(feature = "json"))]
        None
    }

    /// The answer, if the login succeeded. As [`Call::login`](super::Call::login).
    ///
    /// # Errors
    ///
    /// See the table at [`Api`](super::Api).
    pub fn of_login(self) -> Result<Self, ProviderError> {
        let answer = Self {
            unusable: |why| not_soon(ProviderError::protocol(why)),
            ..self
        };
        let answer = answer.finish(Meaning::of_login, ProviderError::refused);
        answer.map_err(not_soon)
    }

    /// The answer, if the logout succeeded. As [`Call::logout`](super::Call::logout).
    ///
    /// # Errors
    ///
    /// See the table at [`Api`](super::Api).
    pub fn of_logout(self) -> Result<Self, ProviderError> {
        self.finish(Meaning::of_logout, ProviderError::token_rejected)
    }

    /// The answer, if the password was changed. As [`Call::change`](super::Call::change).
    ///
    /// # Errors
    ///
    /// See the table at [`Api`](super::Api).
    pub fn of_change(self) -> Result<Self, ProviderError> {
        let answer = self.of_what_may_have_happened();
        answer.finish(Meaning::of_change, ProviderError::token_rejected)
    }

    /// The answer, if the exchange succeeded. As
    /// [`Call::exchange`](super::Call::exchange).
    ///
    /// # Errors
    ///
    /// See the table at [`Api`](super::Api).
    pub fn of_exchange(self) -> Result<Option<Self>, ProviderError> {
        let answer = self.of_what_may_have_happened();
        match answer.meaning(Meaning::of_exchange) {
            Meaning::Done => Ok(Some(answer)),
            Meaning::Denied => Ok(None),
            Meaning::Unreadable => Err(answer.compressed()),
            Meaning::Failed(error) => Err(answer.failed(error)),
        }
    }

    /// The answer, if it could be read. As [`Call::read`](super::Call::read).
    ///
    /// # Errors
    ///
    /// See the table at [`Api`](super::Api).
    pub fn of_read(self) -> Result<Self, ProviderError> {
        self.finish(Meaning::of_read, ProviderError::token_rejected)
    }

    fn finish(
        self,
        by_status: fn(StatusCode) -> Meaning,
        denied: fn(Quote) -> ProviderError,
    ) -> Result<Self, ProviderError> {
        match self.meaning(by_status) {
            Meaning::Done => Ok(self),
            Meaning::Denied => Err(self.failed(denied)),
            Meaning::Unreadable => Err(self.compressed()),
            Meaning::Failed(error) => Err(self.failed(error)),
        }
    }

    /// The text of the answer decides what it means, and cannot be read.
    fn compressed(&self) -> ProviderError {
        self.expected("a body that is not compressed")
    }

    fn meaning(&self, by_status: fn(StatusCode) -> Meaning) -> Meaning {
        let meaning = self.declared.of(&self.head, &self.body);
        meaning.unwrap_or_else(|| by_status(self.status()))
    }

    fn of_what_may_have_happened(self) -> Self {
        Self {
            unusable: ProviderError::uncertain,
            ..self
        }
    }

    fn failed(&self, error: fn(Quote) -> ProviderError) -> ProviderError {
        let quote = Quote {
            what: self.what.clone(),
            status: self.status(),
            code: self.code().map(str::to_owned),
        };
        failed(error, quote, &self.head)
    }
}

/// Returns a short word that an error may quote.
fn quotable(word: &[u8]) -> Option<&str> {
    let word = std::str::from_utf8(word).ok()?.trim();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./+".contains(&byte);
    let fits = !word.is_empty() && word.len() <= MAX_QUOTE;
    (fits && word.bytes().all(is_plain)).then_some(word)
}

/// The place that a JSON Pointer names in a list (RFC 6901, section 4): digits
/// without a leading zero.
#[cfg(feature = "json")]
fn index(name: &str) -> Option<usize> {
    let is_number = name == "0" || name.starts_with(|first: char| matches!(first, '1'..='9'));
    is_number.then(|| name.parse().ok())?
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("what", &self.what)
            .field("status", &self.status())
            .field("headers", &self.headers().keys().collect::<Vec<_>>())
            .field("bytes", &self.body.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::io::{Error, ErrorKind};

    use bytes::Bytes;
    use http::{Request, Response, Uri};
    use http_body_util::Full;

    use super::super::Api;
    use super::*;
    use crate::provider::ProviderErrorKind;

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
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            let answer = Answer {
                what: String::from("POST /login"),
                head: response.into_parts().0,
                body: Zeroizing::default(),
                declared: Declared::default(),
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
