//! An answer of the session service: read up to a bound, and turned into a
//! message or an error.

use std::ops::RangeInclusive;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use bytes::Buf;
use http::header::{self, HeaderMap, HeaderValue};
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
use crate::secret;

/// How many bytes of an answer are read, which is many times what the session
/// service says.
///
/// Of a longer one nothing more is read, and its connection is given up.
pub const MAX_ANSWER: usize = 64 * 1024;

/// What a server says of a dead token, with a status of 401 or of 500.
pub(super) const DEAD_TOKEN: &str = "Session token is invalid or expired";

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
        Error::new(call, ErrorKind::Status(self.status))
            .answered(self.status, self.retry_after)
            .about_a_dead_token(token_is_dead)
            .saying(
                text::error_list(&self.body, secrets),
                text::best_text(&self.body, extent, secrets),
            )
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

/// How long a server wants to be left alone (RFC 9110, section 10.2.3): a
/// number of seconds, or a date.
///
/// It is at most a day, so that no server can stop a client for good, and no
/// number overflows a clock.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let value = text(header::RETRY_AFTER).filter(|value| !value.is_empty())?;
    let delay = if value.bytes().all(|byte| byte.is_ascii_digit()) {
        // All digits and yet too large for a number: beyond any day.
        value.parse().map_or(DAY, Duration::from_secs)
    } else {
        // By the server's own clock, where it tells: ours may differ.
        let now = text(header::DATE).and_then(seconds_of_date).or_else(|| {
            let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            Some(now.as_secs())
        })?;
        Duration::from_secs(seconds_of_date(value)?.saturating_sub(now))
    };
    Some(delay.min(DAY))
}

/// The seconds from 1970 to an `IMF-fixdate`, such as
/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7); the two obsolete
/// forms are not read.
fn seconds_of_date(date: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let number = |text: &str, range: RangeInclusive<u64>| {
        let number = text.parse().ok()?;
        range.contains(&number).then_some(number)
    };
    let (_, date) = date.split_once(", ")?;
    let mut parts = date.split([' ', ':']);
    let mut next = || parts.next();
    let day = number(next()?, 1..=31)?;
    let month = next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as u64;
    let year = number(next()?, 1970..=9999)?;
    let hour = number(next()?, 0..=23)?;
    let minute = number(next()?, 0..=59)?;
    let second = number(next()?, 0..=60)?;
    if next() != Some("GMT") || next().is_some() {
        return None;
    }

    // Counted in years that begin in March, so that a leap day is their last.
    let (year, month) = if month < 2 {
        (year - 1, month + 10)
    } else {
        (year, month - 2)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    let since_march_of_year_0 = 365 * year + leap_days + (153 * month + 2) / 5 + day - 1;
    let days = since_march_of_year_0 - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delay(retry_after_is: &str, date: Option<&str>) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, retry_after_is.parse().unwrap());
        if let Some(date) = date {
            headers.insert(header::DATE, date.parse().unwrap());
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        retry_after(&headers, now)
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date_and_is_at_most_a_day() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(delay("120", None), seconds(120));
        assert_eq!(delay("99999999999999999999999", None), seconds(86_400));
        assert_eq!(delay("Sun, 06 Nov 1994 08:50:37 GMT", None), seconds(60));
        assert_eq!(delay("Sun, 06 Nov 1994 08:00:00 GMT", None), seconds(0));
        assert_eq!(
            delay("Fri, 31 Dec 9999 23:59:59 GMT", None),
            seconds(86_400)
        );
        let date = Some("Wed, 28 Feb 2024 23:59:50 GMT");
        assert_eq!(delay("Thu, 29 Feb 2024 00:00:10 GMT", date), seconds(20));
        for odd in [
            "",
            "soon",
            "-1",
            "Sun, 06 Nov 1994",
            "Sun, 32 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Nov 1994 08:49:37 GMT GMT",
        ] {
            assert_eq!(delay(odd, None), None, "{odd}");
        }
    }

    #[test]
    fn a_date_is_counted_from_1970() {
        for (date, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Tue, 29 Feb 2000 12:00:00 GMT", 951_825_600),
        ] {
            assert_eq!(seconds_of_date(date), Some(seconds), "{date}");
        }
    }
}
