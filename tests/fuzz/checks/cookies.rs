//! Cookies, as RFC 6265 says: those that an answer sets, and those of a token
//! that join a request's own.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use tower_reauth::{ExposeSecret, SetCookie, Token};

use super::dates::seconds_of;

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// An input is one `Set-Cookie` a line.
pub(crate) fn set_cookies(input: &[u8]) {
    let mut headers = HeaderMap::new();
    headers.insert(header::DATE, HeaderValue::from_static(DATE));
    let mut lines = Vec::new();
    for line in input.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(header::SET_COOKIE, value);
            lines.push(line);
        }
    }
    let found = SetCookie::find(&headers, "sid").map(|cookie| {
        let lifetime = cookie.lifetime();
        (cookie.into_value().expose_secret().to_owned(), lifetime)
    });
    assert_eq!(found, set(&lines));
}

/// What a browser keeps of a cookie.
#[derive(Clone)]
struct Kept {
    value: String,
    domain: String,
    /// `None` is the default one.
    path: Option<String>,
    seconds: Option<i64>,
}

/// The jar after all lines, of which the cookie with the shortest path counts, and of
/// equal ones the last.
fn set(lines: &[&[u8]]) -> Option<(String, Option<Duration>)> {
    let mut jar: Vec<Kept> = Vec::new();
    for line in lines.iter().filter_map(|line| parse(line)) {
        jar.retain(|kept| (&kept.domain, &kept.path) != (&line.domain, &line.path));
        let is_nothing = line.value.is_empty() || line.value == "\"\"";
        if !is_nothing && line.seconds.is_none_or(|seconds| seconds > 0) {
            jar.push(line);
        }
    }
    let length = |kept: &Kept| kept.path.as_deref().unwrap_or("/").len();
    let shortest = jar.iter().map(length).min()?;
    let found = jar.into_iter().rfind(|kept| length(kept) == shortest)?;
    let seconds = found.seconds.map(i64::unsigned_abs);
    Some((found.value, seconds.map(Duration::from_secs)))
}

/// Section 5.2. Name and value must be texts here; what follows may be anything.
fn parse(line: &[u8]) -> Option<Kept> {
    std::str::from_utf8(line.split(|byte| *byte == b';').next()?).ok()?;
    let line = String::from_utf8_lossy(line);
    let trim = |text: &str| text.trim_matches([' ', '\t']).to_owned();
    let mut parts = line.split(';');
    let (name, value) = parts.next().unwrap().split_once('=')?;
    if trim(name) != "sid" {
        return None;
    }
    let mut kept = Kept {
        value: trim(value),
        domain: String::new(),
        path: None,
        seconds: None,
    };
    let mut expires = None;
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let value = trim(value);
        match trim(key).to_ascii_lowercase().as_str() {
            "expires" => {
                let from = seconds_of(DATE).unwrap();
                expires = seconds_of(&value).map(|at| at - from).or(expires);
            }
            "max-age" => {
                let (sign, digits) = match value.strip_prefix('-') {
                    Some(digits) => (-1, digits),
                    None => (1, value.as_str()),
                };
                if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
                    let seconds = digits.parse::<i64>().unwrap_or(i64::MAX);
                    kept.seconds = Some(seconds.saturating_mul(sign));
                }
            }
            "domain" if !value.is_empty() => {
                let domain = value.strip_prefix('.').unwrap_or(&value);
                kept.domain = domain.to_ascii_lowercase();
            }
            "path" => {
                kept.path = value.starts_with('/').then_some(value);
            }
            _ => {}
        }
    }
    kept.seconds = kept.seconds.or(expires);
    Some(kept)
}

/// An input is the token's cookies, one a line, an empty line, and the
/// request's `Cookie` headers, one a line.
pub(crate) fn cookies(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let mut token: Option<Token> = None;
    let mut ours: Vec<(String, String)> = Vec::new();
    for line in lines.by_ref().take_while(|line| !line.is_empty()) {
        let line = String::from_utf8_lossy(line);
        let (name, value) = line.split_once('=').unwrap_or((&line, ""));
        let next = match token.clone() {
            Some(token) => token.and_cookie(name, value),
            None => Token::cookie(name, value),
        };
        if let Ok(next) = next {
            token = Some(next);
            match ours.iter_mut().find(|(other, _)| other == name) {
                Some((_, before)) => *before = value.to_owned(),
                None => ours.push((name.to_owned(), value.to_owned())),
            }
        }
    }
    let Some(token) = token else {
        return;
    };
    let mut headers = HeaderMap::new();
    let mut theirs = Vec::new();
    for line in lines {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(header::COOKIE, value);
            theirs.push(line);
        }
    }
    token.apply_to(&mut headers);

    let mut expected: Vec<Vec<u8>> = Vec::new();
    for pair in theirs.join(&b';').split(|byte| *byte == b';') {
        let start = pair.iter().position(|byte| !b" \t".contains(byte));
        let end = pair.iter().rposition(|byte| !b" \t".contains(byte));
        let (Some(start), Some(end)) = (start, end) else {
            continue;
        };
        let pair = &pair[start..=end];
        let is_ours = |(name, _): &(String, String)| {
            pair == name.as_bytes() || pair.starts_with(format!("{name}=").as_bytes())
        };
        if !ours.iter().any(is_ours) {
            expected.push(pair.to_vec());
        }
    }
    for (name, value) in &ours {
        expected.push(format!("{name}={value}").into_bytes());
    }
    let merged: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
    assert_eq!(merged.len(), 1);
    assert!(merged[0].is_sensitive());
    assert_eq!(
        merged[0].as_bytes().escape_ascii().to_string(),
        expected.join(&b"; "[..]).escape_ascii().to_string()
    );
}
