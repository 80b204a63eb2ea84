//! An answer of the session service, as a message or an error.

use std::time::SystemTime;

use http::header;
use http::{HeaderMap, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::error::{Error, ErrorKind, SessionCall, Unreadable};
use super::message::{self, Secrets};
use super::model::{ErrorList, SuccessData};
use crate::date;
use crate::provider::transport::{End, ReceivedAnswer};
use crate::rejection::contains;
use crate::secret;
use crate::secret::redact::Extent;

/// The limit for the body of an answer, in bytes: many times the size of any
/// answer of the session service.
///
/// The rest of a longer answer is not read, and its connection is closed.
pub const MAX_ANSWER: usize = 64 * 1024;

/// The service's text for a dead token, with status 401 or 500.
pub(super) const DEAD_TOKEN: &str = "Session token is invalid or expired";

/// The service's text for a wrong user or password, with status 401.
const WRONG_PASSWORD: &str = "Incorrect username or password";

/// An answer whose status is a success, read to its end.
pub(super) struct ApiResponse {
    status: StatusCode,
    headers: HeaderMap,
    body: Zeroizing<Vec<u8>>,
}

/// A [`SuccessData`] before redaction: the message of a logout quotes the token.
#[derive(Deserialize)]
struct Success {
    #[serde(default, deserialize_with = "secret::json::optional")]
    message: Option<SecretString>,
}

impl ApiResponse {
    /// Takes the answer to `call`. A status that is not a success is an error.
    pub(super) fn of(
        call: SessionCall,
        received: ReceivedAnswer,
        secrets: &Secrets,
    ) -> Result<Self, Error> {
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

    /// Reads the answer as JSON.
    pub(super) fn message<'a, T: Deserialize<'a>>(
        &'a self,
        call: SessionCall,
        secrets: &Secrets,
    ) -> Result<T, Error> {
        // The parser's error is dropped, because it quotes the answer.
        secret::json::object(&self.body).map_err(|error| {
            let what = if error.is_eof() && !self.is_empty() {
                Unreadable::Truncated
            } else {
                Unreadable::NotJson
            };
            self.unreadable(call, what, secrets)
        })
    }

    /// Reads the answer of a call without a result, which may be empty.
    pub(super) fn success(
        &self,
        call: SessionCall,
        secrets: &Secrets,
    ) -> Result<SuccessData, Error> {
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

    fn is_empty(&self) -> bool {
        self.body.trim_ascii().is_empty()
    }

    /// Returns the error list that the answer is in spite of its status.
    pub(super) fn error_list(&self, secrets: &Secrets) -> Option<ErrorList> {
        message::error_list(&self.body, secrets)
    }

    /// Returns whether the answer to a login, with the message `text`, says that
    /// user or password is wrong.
    pub(super) fn is_refusal(&self, text: Option<&str>) -> bool {
        // The body counts too, because redaction removes a password that is a word
        // of the message. A page does not: its scripts may contain the text.
        text.is_some_and(|text| text.contains(WRONG_PASSWORD))
            || !message::is_page(&self.body) && contains(&self.body, WRONG_PASSWORD.as_bytes())
    }

    /// The error for an answer whose status is not a success.
    fn failure(&self, call: SessionCall, extent: Extent, secrets: &Secrets) -> Error {
        let token_is_dead = match call {
            SessionCall::Login => false,
            SessionCall::Logout | SessionCall::UpdateMyPassword => {
                self.status == StatusCode::UNAUTHORIZED
                    || self.status == StatusCode::INTERNAL_SERVER_ERROR
                        && !message::is_page(&self.body)
                        && contains(&self.body, DEAD_TOKEN.as_bytes())
            }
        };
        let text = message::message(&self.body, extent, secrets);
        let is_refusal = call == SessionCall::Login && self.is_refusal(text.as_deref());
        self.error(call, ErrorKind::Status(self.status), secrets)
            .about_a_dead_token(token_is_dead)
            .about_a_refusal(is_refusal)
            .saying(message::error_list(&self.body, secrets), text)
    }

    /// The error for an answer that cannot be used although its status is a success.
    ///
    /// It quotes nothing of the body, which may contain the token anywhere.
    pub(super) fn unreadable(
        &self,
        call: SessionCall,
        what: Unreadable,
        secrets: &Secrets,
    ) -> Error {
        self.error(call, ErrorKind::Unreadable(what), secrets)
    }

    fn error(&self, call: SessionCall, kind: ErrorKind, secrets: &Secrets) -> Error {
        let retry_after = date::retry_after(&self.headers, SystemTime::now());
        Error::new(call, kind).answered(self.status, self.content_type(secrets), retry_after)
    }

    /// The media type, without its parameters.
    fn content_type(&self, secrets: &Secrets) -> Option<String> {
        let value = self.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        // Redacted before it is cut, which could leave a part of a secret.
        let clean = secrets.clean(value, Extent::Whole)?;
        let media_type = clean.split(';').next()?.trim_end();
        (!media_type.is_empty()).then(|| media_type.to_owned())
    }
}
