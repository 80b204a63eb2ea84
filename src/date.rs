//! Dates in headers, by the clock of the server that sent them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, header};

const DAY: u64 = 24 * 60 * 60;

/// How long a server wants to be left alone (RFC 9110, section 10.2.3): a
/// number of seconds, or a date.
///
/// It is at most a day, so that no server can stop a client for good, and no
/// number overflows a clock.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if value.is_empty() {
        return None;
    }
    let seconds = if value.bytes().all(|byte| byte.is_ascii_digit()) {
        // All digits and yet too large for a number: beyond any day.
        value.parse().unwrap_or(DAY)
    } else {
        // No other zone, by name or by number; and `asctime` tells none, but ends
        // in the year.
        let last = value.rsplit(' ').next().unwrap_or_default();
        let is_gmt = last == "GMT"
            || last.ends_with(|c: char| c.is_ascii_digit()) && !last.contains(['+', '-']);
        let date = is_gmt.then(|| seconds_of(value))??;
        let delay = date.saturating_sub(seconds_of_answer(headers, now));
        u64::try_from(delay).unwrap_or(0)
    };
    Some(Duration::from_secs(seconds.min(DAY)))
}

/// The time of an answer by the server's own clock, where it tells: ours may
/// differ.
pub(crate) fn seconds_of_answer(headers: &HeaderMap, now: SystemTime) -> i64 {
    let date = headers
        .get(header::DATE)
        .and_then(|value| seconds_of(value.to_str().ok()?));
    date.unwrap_or_else(|| {
        let now = now.duration_since(UNIX_EPOCH);
        now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
    })
}

/// The seconds since 1970 that a date means, by the lenient rules for cookies
/// (RFC 6265, section 5.1.1), which all dates of HTTP obey.
pub(crate) fn seconds_of(text: &str) -> Option<i64> {
    let (mut time, mut day, mut month, mut year) = (None, None, None, None);
    let is_delimiter = |c: char| matches!(c, '\t' | ' '..='/' | ';'..='@' | '['..='`' | '{'..='~');
    for token in text.split(is_delimiter).filter(|token| !token.is_empty()) {
        if time.is_none() && time_of_day(token).is_some() {
            time = time_of_day(token);
        } else if day.is_none() && number(token, 1..=2).is_some() {
            day = number(token, 1..=2);
        } else if month.is_none() && month_of_year(token).is_some() {
            month = month_of_year(token);
        } else if year.is_none() {
            year = number(token, 2..=4);
        }
    }
    let year = match year? {
        year @ 0..=69 => year + 2000,
        year @ 70..=99 => year + 1900,
        year => year,
    };
    let (month, day) = (month?, day?);
    let first = days(year, month, 1);
    let (hour, minute, second) = time?;
    let is_real =
        (1..=days_in(year, month)).contains(&day) && hour < 24 && minute < 60 && second < 60;
    let seconds = hour * 3600 + minute * 60 + second;
    (is_real && year >= 1601).then_some((first + day - 1) * 86_400 + seconds)
}

/// The seconds since 1970 of a timestamp (RFC 3339), or of a date as HTTP writes it.
#[cfg(feature = "json")]
pub(crate) fn seconds_of_timestamp(text: &str) -> Option<f64> {
    let text = text.trim();
    // Not in another zone: a date of HTTP is in GMT (RFC 9110, section 5.6.7).
    let of_http = || text.ends_with(" GMT").then(|| seconds_of(text))?;
    let (seconds, fraction) = rfc_3339(text).or_else(|| Some((of_http()?, 0.0)))?;
    #[allow(
        clippy::cast_precision_loss,
        reason = "the years of both forms have four digits"
    )]
    let seconds = seconds as f64;
    Some(seconds + fraction)
}

/// The seconds since 1970 of a timestamp (RFC 3339, section 5.6), and their fraction. The
/// colon of the offset may be missing (ISO 8601).
#[cfg(feature = "json")]
fn rfc_3339(text: &str) -> Option<(i64, f64)> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let at = time.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = time.split_at(at);
    let (time, fraction) = match time.split_once('.') {
        Some((time, digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            (time, format!("0.{digits}").parse().ok()?)
        }
        Some(_) => return None,
        None => (time, 0.0),
    };
    let offset = match zone.split_at(1) {
        ("Z" | "z", "") => 0,
        (sign @ ("+" | "-"), offset) => {
            let parts = offset.split_once(':');
            let (hours, minutes) = parts.or_else(|| offset.split_at_checked(2))?;
            let seconds = (digits(hours, 2)? * 60 + digits(minutes, 2)?) * 60;
            if sign == "-" { -seconds } else { seconds }
        }
        _ => return None,
    };
    let [year, month, day] = fields(date, '-')?;
    let [hour, minute, second] = fields(time, ':')?;
    let (year, month, day) = (digits(year, 4)?, digits(month, 2)?, digits(day, 2)?);
    let (hour, minute, second) = (digits(hour, 2)?, digits(minute, 2)?, digits(second, 2)?);
    // 60 is a leap second.
    let is_real = (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    is_real.then_some((seconds - offset, fraction))
}

/// The three parts of a date or of a time.
#[cfg(feature = "json")]
fn fields(text: &str, separator: char) -> Option<[&str; 3]> {
    let mut parts = text.split(separator);
    let fields = [parts.next()?, parts.next()?, parts.next()?];
    parts.next().is_none().then_some(fields)
}

/// A number of exactly so many digits.
#[cfg(feature = "json")]
fn digits(text: &str, length: usize) -> Option<i64> {
    (text.len() == length).then(|| number(text, length..=length))?
}

/// The length of a month in days.
fn days_in(year: i64, month: i64) -> i64 {
    match month {
        12 => 31,
        month => days(year, month + 1, 1) - days(year, month, 1),
    }
}

/// The number at the start of `token`, if it has so many digits.
fn number(token: &str, digits: std::ops::RangeInclusive<usize>) -> Option<i64> {
    let length = token.bytes().take_while(u8::is_ascii_digit).count();
    digits
        .contains(&length)
        .then(|| token[..length].parse().ok())?
}

/// Hours, minutes and seconds, which only the last may go on after.
fn time_of_day(token: &str) -> Option<(i64, i64, i64)> {
    let (hour, rest) = token.split_once(':')?;
    let (minute, second) = rest.split_once(':')?;
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let is_time = is_number(hour) && is_number(minute);
    let part = |part| number(part, 1..=2).filter(|_| is_time);
    Some((part(hour)?, part(minute)?, part(second)?))
}

fn month_of_year(token: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = [
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ];
    let start = token.get(..3)?;
    let month = MONTHS
        .iter()
        .position(|month| start.eq_ignore_ascii_case(month))?;
    i64::try_from(month + 1).ok()
}

/// The days from 1970 to that day of the Gregorian calendar.
pub(crate) fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March, so that a leap day is the last of its year.
    let year = year - i64::from(month <= 2);
    let since_march = (month + 9) % 12;
    let day_of_year = (153 * since_march + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
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
        assert_eq!(delay("Sunday, 06-Nov-94 08:50:37 GMT", None), seconds(60));
        assert_eq!(delay("Sun Nov  6 08:50:37 1994", None), seconds(60));
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
            "Sun, 06 Nov 1994 08:49:37 +0200",
            "Sun, 06 Nov 1994 08:49:37 GMT-0800",
            "1994-11-06T08:50:37",
            "1.5",
        ] {
            assert_eq!(delay(odd, None), None, "{odd}");
        }
    }

    #[test]
    fn dates_are_read_in_all_their_forms() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun, 06-Nov-1994 08:49:37 GMT",
            "6 november 1994 8:49:37",
        ] {
            assert_eq!(seconds_of(text), Some(784_111_777), "{text}");
        }
        assert_eq!(seconds_of("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(seconds_of("29 Feb 2000 00:00:00"), Some(951_782_400));
        assert_eq!(seconds_of("1 Mar 2000 00:00:00"), Some(951_868_800));
        assert_eq!(seconds_of("1 Jan 1601 00:00:00"), Some(-11_644_473_600));
        assert_eq!(
            seconds_of("31 Dec 69 23:59:59"),
            seconds_of("31 Dec 2069 23:59:59")
        );
        assert_eq!(
            seconds_of("1 Jan 70 00:00:00"),
            seconds_of("1 Jan 1970 00:00:00")
        );
        for text in [
            "",
            "06 Nov 1994",
            "08:49:37",
            "32 Nov 1994 08:49:37",
            "31 Nov 1994 08:49:37",
            "29 Feb 1900 08:49:37",
            "0 Nov 1994 08:49:37",
            "6 Nov 1600 08:49:37",
            "6 Nov 1994 24:00:00",
            "24:00:00 Nov 1994 08:49:37",
            "6 Nov 1994 08:4x9:37",
            "6 Nov 1994 08:60:00",
            "6 Nov 1994 08:49:60",
            "6 Nov 1994 08:49",
            "6 Xyz 1994 08:49:37",
            "6 Nov 19945 08:49:37",
            "6 No\u{fc} 1994 08:49:37",
        ] {
            assert_eq!(seconds_of(text), None, "{text}");
        }
    }
}
