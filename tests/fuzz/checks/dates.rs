//! `Retry-After` beside a `Date`, as RFC 9110 and, for the dates, RFC 6265 say.
//! An input is both values, one a line.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower_reauth::ProviderErrorKind;
use tower_reauth::provider::Api;

const DAY: i64 = 24 * 60 * 60;

pub(crate) fn retry_after(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let mut value = || HeaderValue::from_bytes(lines.next().unwrap_or_default());
    let (Ok(retry_after), Ok(date)) = (value(), value()) else {
        return;
    };
    let expected = expected(&retry_after, &date);
    let http = tower::service_fn(move |_: Request<Full<Bytes>>| {
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, retry_after.clone());
        headers.insert(header::DATE, date.clone());
        async move { Ok::<_, Infallible>(response) }
    });
    let api = Api::new(http, "https://api.test".parse().unwrap()).unwrap();
    let error = super::run(api.get("/").login()).unwrap_err();
    assert_eq!(error.kind(), ProviderErrorKind::Unavailable);
    if let Some(expected) = expected {
        assert_eq!(error.retry_after(), expected);
    }
}

/// `None` where it depends on the clock.
fn expected(retry_after: &HeaderValue, date: &HeaderValue) -> Option<Option<Duration>> {
    let Ok(text) = retry_after.to_str() else {
        return Some(None);
    };
    let text = text.trim_matches([' ', '\t']);
    let seconds = if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) {
        let digits = text.trim_start_matches('0');
        match digits.len() {
            0..=5 => digits.parse().unwrap_or(0).min(DAY),
            _ => DAY,
        }
    } else {
        let last = text.split(' ').next_back().unwrap_or_default();
        let is_number = last.chars().last().is_some_and(|c| c.is_ascii_digit());
        let is_offset = last.chars().any(|c| "+-".contains(c));
        let has_no_other_zone = last == "GMT" || is_number && !is_offset;
        match seconds_of(text).filter(|_| has_no_other_zone) {
            None => return Some(None),
            Some(at) => (at - seconds_of(date.to_str().ok()?)?).clamp(0, DAY),
        }
    };
    Some(Some(Duration::from_secs(seconds.unsigned_abs())))
}

/// The seconds since 1970, by the letter of RFC 6265, section 5.1.1.
pub(crate) fn seconds_of(text: &str) -> Option<i64> {
    let is_delimiter =
        |byte: &u8| matches!(byte, 0x09 | 0x20..=0x2f | 0x3b..=0x40 | 0x5b..=0x60 | 0x7b..=0x7e);
    let (mut time, mut day, mut month, mut year) = (None, None, None, None);
    for token in text.as_bytes().split(is_delimiter) {
        if time.is_none() && time_of(token).is_some() {
            time = time_of(token);
        } else if day.is_none() && digits(token, 2).is_some_and(|(_, count)| count <= 2) {
            day = digits(token, 2).map(|(day, _)| day);
        } else if month.is_none() && month_of(token).is_some() {
            month = month_of(token);
        } else if year.is_none() && digits(token, 4).is_some_and(|(_, count)| count >= 2) {
            year = digits(token, 4).map(|(year, _)| year);
        }
    }
    let (hour, minute, second) = time?;
    let (day, month) = (day?, month?);
    let year = match year? {
        year @ 70..=99 => year + 1900,
        year @ 0..=69 => year + 2000,
        year => year,
    };
    if year < 1601 || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    if day < 1 || day > days_in(month, year) {
        return None;
    }
    let mut days = day - 1;
    for earlier in 1..month {
        days += days_in(earlier, year);
    }
    for earlier in 1970..year {
        days += days_in_year(earlier);
    }
    for later in year..1970 {
        days -= days_in_year(later);
    }
    Some(days * DAY + hour * 3600 + minute * 60 + second)
}

/// The number at the start of `token` and how many digits it has, if those are
/// no more than `most`.
fn digits(token: &[u8], most: usize) -> Option<(i64, usize)> {
    let count = token
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    if count == 0 || count > most {
        return None;
    }
    let number = std::str::from_utf8(&token[..count]).unwrap().parse();
    Some((number.unwrap(), count))
}

fn time_of(token: &[u8]) -> Option<(i64, i64, i64)> {
    let (hour, count) = digits(token, 2)?;
    let (minute, rest) = after_colon(&token[count..])?;
    let (second, _) = after_colon(rest)?;
    Some((hour, minute, second))
}

fn after_colon(token: &[u8]) -> Option<(i64, &[u8])> {
    let token = token.strip_prefix(b":")?;
    let (number, count) = digits(token, 2)?;
    Some((number, &token[count..]))
}

fn month_of(token: &[u8]) -> Option<i64> {
    const MONTHS: &[u8] = b"janfebmaraprmayjunjulaugsepoctnovdec";
    let start = token.get(..3)?.to_ascii_lowercase();
    let at = MONTHS.chunks(3).position(|month| month == start)?;
    Some(at as i64 + 1)
}

fn days_in(month: i64, year: i64) -> i64 {
    match month {
        2 => 28 + days_in_year(year) - 365,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_in_year(year: i64) -> i64 {
    match (year % 4, year % 100, year % 400) {
        (_, _, 0) => 366,
        (_, 0, _) => 365,
        (0, _, _) => 366,
        _ => 365,
    }
}
