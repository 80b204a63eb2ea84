//! An answer of the session service: read up to a bound, and turned into a
//! message or an error.

use std::pin::pin;
use std::time::{Duration, SystemTime};

use bytes::Buf;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::error::{Call, Error, ErrorKind, Unreadable};
use super::model::{ErrorList, SuccessData};
use super::text::{self, Extent, Secrets};
use crate::BoxError;
use crate::date::retry_after;
use crate::secret;

/// How many bytes of an answer are read, which is many times what the session
/// service says.
///
/// Of a longer one nothing more is read, and its connection is given up.
pub const MAX_ANSWER: usize = 64 * 1024;

/// What a server says of a dead token, with a status of 401 or of 500.
pub(super) const DEAD_TOKEN: &str = "Session token is invalid or expired";

/// What a server says of a wrong user or password, with a status of 401.
const WRONG_PASSWORD: &str = "Incorrect username or password";

/// An answer whose status is a success, read to its end.
pub(super) struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    content_type: Option<HeaderValue>,
    body: Zeroizing<Vec<u8>>,
}

/// A [`SuccessData`] as it came: the message of a logout quotes the token.
#[derive(Deserialize)]
struct Success {
    #[serde(default, deserialize_with = "secret::json::optional")]
    message: Option<SecretString>,
}

/// Where reading ended.
enum End {
    /// At the end of the answer.
    Whole,
    /// Where the answer broke off.
    Broken(BoxError),
    /// At [`MAX_ANSWER`].
    TooLong,
}

impl Answer {
    /// Reads the answer to `call`. One whose status is no success is an error.
    pub(super) async fn read<RB>(
        call: Call,
        response: Response<RB>,
        secrets: &Secrets,
    ) -> Result<Self, Error>
    where
        RB: Body,
        RB::Error: Into<BoxError>,
    {
        let (head, body) = response.into_parts();
        // All of the room at once, since a buffer that grows leaves a copy of
        // the token in the memory that it outgrew.
        let mut read = Zeroizing::new(Vec::with_capacity(MAX_ANSWER));
        let mut body = pin!(body);
        let end = loop {
            let frame = match body.as_mut().frame().await {
                None => break End::Whole,
                Some(Err(error)) => break End::Broken(error.into()),
                Some(Ok(frame)) => frame,
            };
            let Ok(mut data) = frame.into_data() else {
                continue;
            };
            while data.has_remaining() && read.len() < MAX_ANSWER {
                let chunk = data.chunk();
                let fits = chunk.len().min(MAX_ANSWER - read.len());
                read.extend_from_slice(&chunk[..fits]);
                data.advance(fits);
            }
            if data.has_remaining() {
                break End::TooLong;
            }
        };
        let answer = Self {
            status: head.status,
            retry_after: retry_after(&head.headers, SystemTime::now()),
            content_type: head.headers.get(header::CONTENT_TYPE).cloned(),
            body: read,
        };
        match end {
            End::Whole if answer.status.is_success() => Ok(answer),
            End::Whole => Err(answer.failure(call, Extent::Whole, secrets)),
            // The status says what went wrong, however its explanation ends.
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
            .answered(self.status, self.retry_after)
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
            .content_type
            .as_ref()
            .and_then(|value| value.to_str().ok())
            .and_then(|value| secrets.clean(value, Extent::Whole))
            .unwrap_or_else(|| "unknown type".to_owned());
        let text = format!("{} bytes of {content_type} read", self.body.len());
        Error::new(call, ErrorKind::Unreadable(what))
            .answered(self.status, self.retry_after)
            .saying(None, Some(text))
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}
