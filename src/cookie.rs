//! What a server says of a cookie, for tokens that are cookies.

use std::fmt;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, header};
use secrecy::SecretString;

use crate::date;

/// The cookie of one name that an answer sets (RFC 6265, section 5.2).
///
/// For providers whose token is a cookie, or comes in one. As in a browser, a
/// later line replaces an earlier one of the same name, domain and path, and a
/// line that deletes the cookie, or sets it to nothing, sets none.
///
/// A browser keeps a cookie for each path. A token has one value for all paths, so of
/// several the cookie with the shortest path is taken, which is for the most requests:
/// of `sid=a; Path=/` and `sid=b; Path=/login` it is `a`, in either order. A cookie
/// without a path counts as one for `/`, and of equal ones the last is taken.
///
/// ```
/// use std::time::Duration;
/// use http::{HeaderMap, header};
/// use tower_reauth::{SetCookie, Token};
///
/// # let mut headers = HeaderMap::new();
/// # headers.append(header::SET_COOKIE, "sid=3f9a; Path=/; Max-Age=1800; HttpOnly".parse()?);
/// let sid = SetCookie::find(&headers, "sid").ok_or("the answer sets no `sid`")?;
/// assert_eq!(sid.lifetime(), Some(Duration::from_secs(1800)));
/// let token = Token::cookie("sid", sid.into_value())?;
/// # Ok::<(), tower_reauth::BoxError>(())
/// ```
pub struct SetCookie {
    name: String,
    value: SecretString,
    lifetime: Option<Duration>,
}

impl SetCookie {
    /// The cookie `name` that an answer with these headers sets, if it does.
    /// Where it sets several, the one for the most paths, and the last of those.
    #[must_use]
    pub fn find(headers: &HeaderMap, name: &str) -> Option<Self> {
        Self::find_by(headers, |other| other == name)
    }

    /// As [`SetCookie::find`], for a cookie whose name is not known in full:
    /// that of the last name that is set, of those that `is_meant`.
    #[must_use]
    pub fn find_by(headers: &HeaderMap, is_meant: impl Fn(&str) -> bool) -> Option<Self> {
        let now = date::seconds_of_answer(headers, SystemTime::now());
        let mut set: Vec<Line<'_>> = Vec::new();
        for line in headers.get_all(header::SET_COOKIE) {
            let Some(line) = Line::parse(line, now).filter(|line| is_meant(line.name)) else {
                continue;
            };
            set.retain(|earlier| !earlier.is_replaced_by(&line));
            set.push(line);
        }
        set.retain(|line| !line.deletes());
        let name = set.last()?.name;
        let same = set.into_iter().rev().filter(|line| line.name == name);
        // The first of equals, which is the last line.
        let found = same.min_by_key(|line| line.path.len().max(1))?;
        Some(Self {
            name: found.name.to_owned(),
            value: SecretString::from(found.value),
            lifetime: found
                .seconds
                .and_then(|seconds| Some(Duration::from_secs(u64::try_from(seconds).ok()?))),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its value, as it is to be sent back.
    #[must_use]
    pub fn into_value(self) -> SecretString {
        self.value
    }

    /// Its name and its value, as for [`Token::cookie`](crate::Token::cookie).
    #[must_use]
    pub fn into_parts(self) -> (String, SecretString) {
        (self.name, self.value)
    }

    /// How long it lives, by `Max-Age`, or by `Expires` and the answer's
    /// `Date`. `None` for one that lives as long as the server likes.
    #[must_use]
    pub fn lifetime(&self) -> Option<Duration> {
        self.lifetime
    }
}

impl fmt::Debug for SetCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetCookie")
            .field("name", &self.name)
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

/// One line that sets or deletes the cookie.
struct Line<'a> {
    name: &'a str,
    value: &'a str,
    /// From now on; none or less deletes it.
    seconds: Option<i64>,
    domain: String,
    path: String,
}

impl<'a> Line<'a> {
    fn parse(line: &'a HeaderValue, now: i64) -> Option<Self> {
        let mut parts = line.as_bytes().split(|byte| *byte == b';');
        let pair = std::str::from_utf8(parts.next()?).ok()?;
        let (name, value) = pair.split_once('=')?;
        // What has no name is no cookie.
        let name = Some(trim(name)).filter(|name| !name.is_empty())?;
        let mut max_age = None;
        let mut expires = None;
        let (mut domain, mut path) = (String::new(), String::new());
        for attribute in parts {
            // One that is no text, as a comment may be, spoils no other.
            let attribute = String::from_utf8_lossy(attribute);
            let (attribute, value) = attribute.split_once('=').unwrap_or((&attribute, ""));
            let value = trim(value);
            match trim(attribute) {
                key if key.eq_ignore_ascii_case("max-age") => {
                    max_age = seconds(value).or(max_age);
                }
                key if key.eq_ignore_ascii_case("expires") => {
                    expires = date::seconds_of(value)
                        .map(|at| at.saturating_sub(now))
                        .or(expires);
                }
                // One that is empty is not there (section 5.2.3).
                key if key.eq_ignore_ascii_case("domain") && !value.is_empty() => {
                    domain = value
                        .strip_prefix('.')
                        .unwrap_or(value)
                        .to_ascii_lowercase();
                }
                // What is no path is the default one (section 5.2.4).
                key if key.eq_ignore_ascii_case("path") => {
                    path = match value.starts_with('/') {
                        true => value.to_owned(),
                        false => String::new(),
                    };
                }
                _ => {}
            }
        }
        Some(Self {
            name,
            value: trim(value),
            seconds: max_age.or(expires),
            domain,
            path,
        })
    }

    fn deletes(&self) -> bool {
        matches!(self.value, "" | "\"\"") || self.seconds.is_some_and(|seconds| seconds <= 0)
    }

    fn is_replaced_by(&self, later: &Self) -> bool {
        self.name == later.name && self.domain == later.domain && self.path == later.path
    }
}

/// Without the white space around it, of which there are but two kinds: a space
/// that is not ASCII belongs to the name or the value.
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// A `Max-Age`, of which too much is as much as can be (section 5.2.2).
fn seconds(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(match text.starts_with('-') {
        true => 0,
        false => text.parse().unwrap_or(i64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn find(lines: &[&str]) -> Option<(String, Option<u64>)> {
        let mut headers = HeaderMap::new();
        headers.append(
            header::DATE,
            "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap(),
        );
        for line in lines {
            headers.append(header::SET_COOKIE, line.parse().unwrap());
        }
        let found = SetCookie::find(&headers, "sid")?;
        let lifetime = found.lifetime().map(|lifetime| lifetime.as_secs());
        Some((found.into_value().expose_secret().to_owned(), lifetime))
    }

    fn value(lines: &[&str]) -> Option<String> {
        find(lines).map(|(value, _)| value)
    }

    #[test]
    fn the_cookie_of_that_name_is_found_among_others() {
        let lines = [
            "sidney=1",
            "SID=2",
            "other=sid=3",
            " sid = a=b== ; Path=/; HttpOnly",
        ];
        assert_eq!(value(&lines).as_deref(), Some("a=b=="));
        assert_eq!(value(&lines[..3]), None);
        assert_eq!(value(&["sid", "=sid", ""]), None);
        // No white space but a blank and a tab (section 5.2).
        assert_eq!(value(&["\tsid\t=\ta \t"]).as_deref(), Some("a"));
        assert_eq!(value(&["\u{a0}sid=a"]), None);
        assert_eq!(value(&["sid=a\u{3000}"]).as_deref(), Some("a\u{3000}"));
    }

    #[test]
    fn its_lifetime_is_its_max_age_or_its_end_by_the_servers_clock() {
        let lifetime = |attributes: &str| find(&[&format!("sid=1{attributes}")]).unwrap().1;
        assert_eq!(lifetime(""), None);
        assert_eq!(lifetime("; Max-Age=60"), Some(60));
        assert_eq!(
            lifetime("; max-age= 60 ; Expires=Sun, 06 Nov 2094 08:49:37 GMT"),
            Some(60)
        );
        assert_eq!(
            lifetime("; Expires=Sun, 06 Nov 1994 08:50:37 GMT"),
            Some(60)
        );
        assert_eq!(lifetime("; Expires=never"), None);
        assert_eq!(lifetime("; Max-Age=soon; Max-Age="), None);
        // What cannot be read is not there (section 5.2).
        assert_eq!(lifetime("; Max-Age=60; Max-Age=soon; Max-Age=+1"), Some(60));
        assert_eq!(
            lifetime("; Expires=Sun, 06 Nov 1994 08:50:37 GMT; Expires=0"),
            Some(60)
        );
        assert_eq!(
            lifetime("; Max-Age=99999999999999999999"),
            Some(i64::MAX as u64)
        );
    }

    #[test]
    fn what_deletes_a_cookie_sets_none() {
        for deletion in [
            "sid=",
            "sid=\"\"; Path=/",
            "sid=x; Max-Age=0",
            "sid=x; Max-Age=-1",
            "sid=x; Max-Age=-99999999999999999999",
            "sid=deleted; expires=Thu, 01-Jan-1970 00:00:01 GMT; Max-Age=0; path=/",
            "sid=deleted; expires=Thu, 01-Jan-1970 00:00:01 GMT",
            "sid=x; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        ] {
            assert_eq!(value(&[deletion]), None, "{deletion}");
        }
    }

    #[test]
    fn a_deletion_elsewhere_leaves_the_one_that_was_set() {
        let deletion = "sid=; Max-Age=0; Path=/old";
        assert_eq!(
            value(&["sid=new; Path=/", deletion]).as_deref(),
            Some("new")
        );
        assert_eq!(
            value(&[deletion, "sid=new; Path=/"]).as_deref(),
            Some("new")
        );
        let deletion = "sid=; Max-Age=0; Domain=.example.com";
        assert_eq!(value(&["sid=new", deletion]).as_deref(), Some("new"));
    }

    #[test]
    fn of_two_lines_for_the_same_place_the_last_counts() {
        let (new, gone) = ("sid=new; Path=/", "sid=; Path=/; Max-Age=0");
        assert_eq!(value(&[gone, new]).as_deref(), Some("new"));
        assert_eq!(value(&[new, gone]), None);
        assert_eq!(value(&["sid=1", "sid=2"]).as_deref(), Some("2"));
        assert_eq!(value(&["sid=1; Path=x", "sid=; Path="]), None);
        let places = ["sid=1; Path=/a", "sid=2; Path=/b"];
        assert_eq!(value(&places).as_deref(), Some("2"));
        let domains = ["sid=1; Domain=.EXAMPLE.com", "sid=; domain=example.com"];
        assert_eq!(value(&domains), None);
        // One dot goes, and what is empty is not there (section 5.2.3).
        let domains = ["sid=1; Domain=..a.test", "sid=; Domain=a.test"];
        assert_eq!(value(&domains).as_deref(), Some("1"));
        let domains = ["sid=1; Domain=a.test; Domain=", "sid=; Domain=a.test"];
        assert_eq!(value(&domains), None);
    }

    #[test]
    fn of_several_paths_the_cookie_of_the_shortest_is_taken() {
        for (lines, taken) in [
            (["sid=a; Path=/", "sid=b; Path=/login"], "a"),
            (["sid=b; Path=/login", "sid=a; Path=/"], "a"),
            (["sid=a", "sid=b; Path=/login"], "a"),
            (["sid=a; Path=/", "sid=b"], "b"),
            (["sid=b; Path=/api/v1", "sid=a; Path=/api"], "a"),
            (["sid=a; Path=/; Max-Age=0", "sid=b; Path=/login"], "b"),
        ] {
            assert_eq!(value(&lines).as_deref(), Some(taken), "{lines:?}");
        }
        let mut headers = HeaderMap::new();
        for line in ["SID_1=a; Path=/", "SID_2=b; Path=/x", "SID_2=c; Path=/xy"] {
            headers.append(header::SET_COOKIE, line.parse().unwrap());
        }
        let found = SetCookie::find_by(&headers, |name| name.starts_with("SID_")).unwrap();
        let (name, value) = found.into_parts();
        assert_eq!((name.as_str(), value.expose_secret()), ("SID_2", "b"));
    }

    #[test]
    fn a_value_that_is_no_text_is_none() {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_bytes(b"sid=\xff").unwrap();
        headers.append(header::SET_COOKIE, value);
        assert!(SetCookie::find(&headers, "sid").is_none());
    }

    #[test]
    fn an_attribute_may_hold_any_bytes() {
        let found = |lines: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                let line = HeaderValue::from_bytes(line).unwrap();
                headers.append(header::SET_COOKIE, line);
            }
            let found = SetCookie::find(&headers, "sid")?;
            Some((
                found.lifetime(),
                found.into_value().expose_secret().to_owned(),
            ))
        };
        let minute = Some(Duration::from_secs(60));
        let set: &[u8] = b"sid=a; Comment=caf\xe9; Path=/\xe9; Max-Age=60";
        assert_eq!(found(&[set]), Some((minute, "a".to_owned())));
        assert_eq!(found(&[set, b"sid=; Path=/\xe9"]), None);
    }

    #[test]
    fn a_name_may_be_known_in_part() {
        let mut headers = HeaderMap::new();
        for line in [
            "other=1",
            "SID_8080=a",
            "SID_8081=b",
            "SID_8081=; Max-Age=0",
        ] {
            headers.append(header::SET_COOKIE, line.parse().unwrap());
        }
        let found = SetCookie::find_by(&headers, |name| name.starts_with("SID_")).unwrap();
        assert_eq!(found.name(), "SID_8080");
        let (name, value) = found.into_parts();
        assert_eq!((name.as_str(), value.expose_secret()), ("SID_8080", "a"));
        assert!(SetCookie::find_by(&headers, |_| false).is_none());
        // One without a name is none (section 5.2).
        headers.append(header::SET_COOKIE, " =c; Path=/".parse().unwrap());
        let found = SetCookie::find_by(&headers, |name| name != "other").unwrap();
        assert_eq!(found.name(), "SID_8080");
    }

    #[test]
    fn debug_shows_no_value() {
        let mut headers = HeaderMap::new();
        headers.append(header::SET_COOKIE, "sid=canary; Max-Age=5".parse().unwrap());
        let shown = format!("{:?}", SetCookie::find(&headers, "sid"));
        assert!(shown.contains('5') && !shown.contains("canary"), "{shown}");
    }
}
