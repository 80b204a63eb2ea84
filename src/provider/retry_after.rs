//! When a server wants to be asked again.

use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap};

/// How long a server wants to be left alone (RFC 9110, section 10.2.3): a
/// number of seconds, or a date.
///
/// It is at most a day, so that no server can stop a client for good, and no
/// number overflows a clock.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
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
