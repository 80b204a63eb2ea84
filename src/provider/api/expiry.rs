//! The lifetime of a token, in the forms in which login systems name it.

use std::time::Duration;

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use secrecy::{ExposeSecret, SecretString};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::date::seconds_of_timestamp;

/// Where and how an answer names the lifetime of its token, for
/// [`Answer::lifetime`](super::Answer::lifetime).
///
/// Each place is a JSON Pointer (RFC 6901). A number may also be written as a text or
/// with a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expiry<'a> {
    /// A number of seconds from now, such as `expires_in` of OAuth 2 (RFC 6749, section
    /// 5.1). A text alone means this.
    Seconds(&'a str),
    /// A number of milliseconds from now.
    Milliseconds(&'a str),
    /// A point in time: a timestamp (RFC 3339), a date as HTTP writes it, or a number
    /// since 1970, of seconds or (from the year 10000 on) of milliseconds. A time before
    /// 1970 means no lifetime.
    At(&'a str),
    /// The `exp` of a token that is a JWT (RFC 7519, section 4.1.4). Its signature is
    /// not verified: the server that receives the token does that.
    Jwt(&'a str),
}

/// A value that names no lifetime in its form.
pub(super) struct Unreadable;

/// The end of the year 9999, which means "never". A number above this counts milliseconds
/// since 1970.
const MAX_SECONDS: f64 = 253_402_300_799.0;

impl<'a> From<&'a str> for Expiry<'a> {
    fn from(pointer: &'a str) -> Self {
        Self::Seconds(pointer)
    }
}

impl<'a> Expiry<'a> {
    pub(super) fn pointer(self) -> &'a str {
        match self {
            Self::Seconds(pointer)
            | Self::Milliseconds(pointer)
            | Self::At(pointer)
            | Self::Jwt(pointer) => pointer,
        }
    }

    /// Describes the value, for an error.
    pub(super) fn expected(self) -> &'static str {
        match self {
            Self::Seconds(_) => "a number of seconds",
            Self::Milliseconds(_) => "a number of milliseconds",
            Self::At(_) => "a point in time",
            Self::Jwt(_) => "a JWT",
        }
    }

    /// Reads the lifetime from a JSON value. `now` is the time of the answer, in seconds
    /// since 1970.
    pub(super) fn read(self, json: &str, now: i64) -> Result<Option<Duration>, Unreadable> {
        match self {
            Self::Seconds(_) => Ok(positive(number(json)?)),
            Self::Milliseconds(_) => Ok(positive(number(json)? / 1000.0)),
            Self::At(_) => {
                let at = Some(point_in_time(json)?).filter(|at| *at > 0.0);
                Ok(at.and_then(|at| until(at, now)))
            }
            Self::Jwt(_) => {
                let token = crate::secret::json::unescaped(json).ok_or(Unreadable)?;
                match claim(&token)? {
                    Some(at) => Ok(until(at, now)),
                    None => Ok(None),
                }
            }
        }
    }
}

/// A lifetime that is not positive means that the server names none. So does one that is
/// too long for a clock.
fn positive(seconds: f64) -> Option<Duration> {
    let lifetime = Duration::try_from_secs_f64(seconds).ok()?;
    (!lifetime.is_zero()).then_some(lifetime)
}

/// A point in time that is over means a lifetime of zero.
#[allow(
    clippy::cast_precision_loss,
    reason = "2^53 seconds are 285 million years"
)]
fn until(at: f64, now: i64) -> Option<Duration> {
    Duration::try_from_secs_f64((at - now as f64).max(0.0)).ok()
}

fn number(json: &str) -> Result<f64, Unreadable> {
    let number: f64 = match serde_json::from_str(json) {
        Ok(number) => number,
        Err(_) => text(json)?.trim().parse().map_err(|_| Unreadable)?,
    };
    match number.is_finite() {
        true => Ok(number),
        false => Err(Unreadable),
    }
}

fn point_in_time(json: &str) -> Result<f64, Unreadable> {
    match number(json) {
        Ok(number) if number.abs() > MAX_SECONDS => Ok(number / 1000.0),
        Ok(number) => Ok(number),
        Err(Unreadable) => seconds_of_timestamp(&text(json)?).ok_or(Unreadable),
    }
}

fn text(json: &str) -> Result<String, Unreadable> {
    serde_json::from_str(json).map_err(|_| Unreadable)
}

/// Returns the `exp` of a JWT (RFC 7519), if it has one.
fn claim(token: &SecretString) -> Result<Option<f64>, Unreadable> {
    #[derive(serde::Deserialize)]
    struct Claims<'a> {
        #[serde(borrow)]
        exp: Option<&'a RawValue>,
    }
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::URL_SAFE,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );

    let payload = token.expose_secret().split('.').nth(1).ok_or(Unreadable)?;
    let mut claims = Zeroizing::new(vec![0; payload.len()]);
    let length = URL_SAFE.decode_slice(payload, &mut claims);
    let claims = &claims[..length.map_err(|_| Unreadable)?];
    let claims: Claims<'_> = serde_json::from_slice(claims).map_err(|_| Unreadable)?;
    match claims.exp {
        Some(exp) => number(exp.get()).map(Some),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-12-01T00:00:00Z.
    const NOW: i64 = 1_796_083_200;

    fn read(expiry: Expiry<'_>, json: &str) -> Option<Option<Duration>> {
        expiry.read(json, NOW).ok()
    }

    fn seconds(seconds: f64) -> Option<Option<Duration>> {
        Some(Some(Duration::from_secs_f64(seconds)))
    }

    #[test]
    fn a_number_of_seconds_is_read_in_each_form() {
        for json in ["3600", "3600.0", "36e2", r#""3600""#, r#"" 3600.0 ""#] {
            assert_eq!(read("/x".into(), json), seconds(3600.0), "{json}");
        }
        assert_eq!(read("/x".into(), "0.5"), seconds(0.5));
        let milliseconds = Expiry::Milliseconds("/x");
        assert_eq!(read(milliseconds, "1500"), seconds(1.5));
        // No lifetime.
        for json in ["0", "-1", r#""0""#, "1e300", "99999999999999999999"] {
            assert_eq!(read("/x".into(), json), Some(None), "{json}");
        }
        for json in [
            "true",
            r#""soon""#,
            r#""""#,
            r#""inf""#,
            "{}",
            "[3600]",
            "1e999",
        ] {
            assert_eq!(read("/x".into(), json), None, "{json}");
        }
    }

    #[test]
    fn a_point_in_time_counts_from_the_answer() {
        let at = Expiry::At("/x");
        for json in [
            "1796086800",
            "1796086800.0",
            r#""1796086800""#,
            "1796086800000",
            r#""2026-12-01T01:00:00Z""#,
            r#""2026-12-01t01:00:00.000z""#,
            r#""2026-12-01 02:30:00+01:30""#,
            r#""2026-11-30T20:00:00-05:00""#,
            r#""2026-12-01T03:00:00.000+0200""#,
            r#""2026-12-01T00:59:60Z""#,
            r#""Tue, 01 Dec 2026 01:00:00 GMT""#,
        ] {
            assert_eq!(read(at, json), seconds(3600.0), "{json}");
        }
        assert_eq!(read(at, r#""2026-12-01T00:00:00.25Z""#), seconds(0.25));
        assert_eq!(read(at, r#""2020-01-01T00:00:00Z""#), seconds(0.0));
        assert_eq!(read(at, "5"), seconds(0.0));
        // Never.
        for json in ["0", "-1", r#""0001-01-01T00:00:00Z""#] {
            assert_eq!(read(at, json), Some(None), "{json}");
        }
        for json in ["253402300799", r#""9999-12-31T23:59:59Z""#] {
            assert_eq!(read(at, json), seconds(251_606_217_599.0), "{json}");
        }
        for json in [
            r#""2026-12-01""#,
            r#""2026-13-01T00:00:00Z""#,
            r#""2026-12-01T00:00:00""#,
            r#""2026-02-29T00:00:00Z""#,
            r#""2026-12-01T24:00:00Z""#,
            r#""2026-12-01T00:00:00Z01:30""#,
            r#""26-12-01T00:00:00Z""#,
            r#""Tue, 01 Dec 2026 03:00:00 +0200""#,
            r#""Tue Dec  1 01:00:00 PST 2026""#,
            r#""Tue, 01 Dec 2026 01:00:00 PM""#,
            r#""never""#,
            "true",
        ] {
            assert_eq!(read(at, json), None, "{json}");
        }
    }

    #[test]
    fn the_claim_of_a_jwt_is_read() {
        let jwt = |claims: &str| {
            let claims = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(claims);
            format!(r#""eyJhbGciOiJSUzI1NiJ9.{claims}.c2ln""#)
        };
        let read = |json: &str| read(Expiry::Jwt("/x"), json);
        assert_eq!(
            read(&jwt(r#"{"sub":"a?>","exp":1796086800}"#)),
            seconds(3600.0)
        );
        assert_eq!(read(&jwt(r#"{"exp":1796083200.5}"#)), seconds(0.5));
        assert_eq!(read(&jwt(r#"{"exp":5}"#)), seconds(0.0));
        assert_eq!(read(&jwt(r#"{"sub":"a"}"#)), Some(None));
        assert_eq!(read(&jwt(r#"{"exp":"soon"}"#)), None);
        for json in [r#""opaque""#, r#""a.b.c""#, r#""a.!.c""#, "5", r#""""#] {
            assert_eq!(read(json), None, "{json}");
        }
    }
}
