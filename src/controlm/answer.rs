//! An answer of the session service, as a message or an error.

use std::time::{Duration, SystemTime};

use http::header;
use http::{HeaderMap, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::error::{Call, Error, ErrorKind, Unreadable};
use super::model::{ErrorList, SuccessData};
use super::text::{self, Extent, Secrets};
use crate::date;
use crate::provider::transport::{End, Received};
use crate::secret;

/// The limit for the body of an answer, in bytes: many times the size of any
/// answer of the session service.
///
/// The rest of a longer answer is not read, and its connection is closed.
pub const MAX_ANSWER: usize = 64 * 1024;

/// What a server says of a dead token, with a status of 401 or of 500.
pub(super) const DEAD_TOKEN: &str = "Session token is invalid or expired";

/// What a server says of a wrong user or password, with a status of 401.
const WRONG_PASSWORD: &str = "Incorrect username or password";

/// An answer whose status is a success, read to its end.
pub(super) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Zeroizing<Vec<u8>>,
}

/// A [`SuccessData`] as it came: the message of a logout quotes the token.
#[derive(Deserialize)]
struct Success {
    #[serde(default, deserialize_with = "secret::json::optional")]
    message: Option<SecretString>,
}

impl Answer {
    /// Takes the answer to `call`. A status that is not a success is an error.
    pub(super) fn of(call: Call, received: Received, secrets: &Secrets) -> Result<Self, Error> {
        let answer = Self {
            status: received.status,
            headers: received.headers,
            body: received.body,
        };
        match received.end {
            End::Whole if answer.status.is_success() => Ok(answer),
            End::Whole => Err(answer.failure(call, Extent::Whole, secrets)),
            // The status tells what went wrong, even if the explanation is cut.
            End::TooLong | End::Broken(_) if !answer.status.is_success() => {
                Err(answer.failure(call, Extent::Cut, secrets))
            }
            End::TooLong => Err(answer.unreadable(call, Unreadable::TooLong, secrets)),
            End::Broken(error) => Err(answer
                .unreadable(call, Unreadable::Truncated, secrets)
                .caused_by(error)),
        }
    }

    /// The message that the answer is.
    pub(super) fn message<'a, T: Deserialize<'a>>(
        &'a self,
        call: Call,
        secrets: &Secrets,
    ) -> Result<T, Error> {
        // The parser's error is not kept, since it quotes what it stumbled over.
        serde_json::from_slice(&self.body).map_err(|error| {
            let what = if error.is_eof() && !self.is_empty() {
                Unreadable::Truncated
            } else {
                Unreadable::NotJson
            };
            self.unreadable(call, what, secrets)
        })
    }

    /// The message of a call without a result. An empty answer is one: the
    /// status says it all.
    pub(super) fn success(&self, call: Call, secrets: &Secrets) -> Result<SuccessData, Error> {
        if self.is_empty() {
            return Ok(SuccessData::default());
        }
        let success: Success = self.message(call, secrets)?;
        Ok(SuccessData {
            message: success
                .message
                .and_then(|message| secrets.clean(message.expose_secret(), Extent::Whole)),
        })
    }

    fn retry_after(&self) -> Option<Duration> {
        date::retry_after(&self.headers, SystemTime::now())
    }

    fn is_empty(&self) -> bool {
        self.body.trim_ascii().is_empty()
    }

    /// The error list that the answer is in spite of its status, if it is one.
    pub(super) fn error_list(&self, secrets: &Secrets) -> Option<ErrorList> {
        text::error_list(&self.body, secrets)
    }

    /// Whether the answer to a login, whose text for a person is `text`, says
    /// that user or password is wrong.
    pub(super) fn is_refusal(&self, text: Option<&str>) -> bool {
        // The password may be a word of it, and was taken out of the text. Not in
        // a page, which may hold whatever its scripts can say.
        text.is_some_and(|text| text.contains(WRONG_PASSWORD))
            || !text::is_page(&self.body) && contains(&self.body, WRONG_PASSWORD.as_bytes())
    }

    /// The error for an answer whose status is no success.
    fn failure(&self, call: Call, extent: Extent, secrets: &Secrets) -> Error {
        let token_is_dead = match call {
            Call::Login => false,
            Call::Logout | Call::UpdateMyPassword => {
                self.status == StatusCode::UNAUTHORIZED
                    || self.status == StatusCode::INTERNAL_SERVER_ERROR
                        && contains(&self.body, DEAD_TOKEN.as_bytes())
            }
        };
        let text = text::best_text(&self.body, extent, secrets);
        let is_refusal = call == Call::Login && self.is_refusal(text.as_deref());
        Error::new(call, ErrorKind::Status(self.status))
            .answered(self.status, self.retry_after())
            .about_a_dead_token(token_is_dead)
            .about_a_refusal(is_refusal)
            .saying(text::error_list(&self.body, secrets), text)
    }

    /// The error for an answer whose status is a success, and no more of it.
    ///
    /// Nothing of the answer itself is quoted: whatever it is, it may hold the
    /// token.
    pub(super) fn unreadable(&self, call: Call, what: Unreadable, secrets: &Secrets) -> Error {
        let content_type = self
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| secrets.clean(value, Extent::Whole))
            .unwrap_or_else(|| "unknown type".to_owned());
        let text = format!("{} bytes of {content_type} read", self.body.len());
        Error::new(call, ErrorKind::Unreadable(what))
            .answered(self.status, self.retry_after())
            .saying(None, Some(text))
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}
