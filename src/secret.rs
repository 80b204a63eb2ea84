//! Bytes that are wiped, and texts that quote no secret.

use std::borrow::Cow;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use http::header::InvalidHeaderValue;
use zeroize::Zeroizing;

/// What stands where a secret stood.
pub(crate) const REDACTED: &str = "[redacted]";

/// Joins `parts` in one buffer of just their length, which is wiped on drop.
///
/// The length is known before the first byte is written, since a buffer that
/// grows leaves a copy of the secret behind in the memory that it outgrew.
pub(crate) fn join(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length = parts.iter().map(|part| part.len()).sum();
    let mut joined = Zeroizing::new(Vec::with_capacity(length));
    for part in parts {
        joined.extend_from_slice(part);
    }
    joined
}

/// Hands the buffer on as [`Bytes`], which wipe it when their last copy drops.
pub(crate) fn into_bytes(secret: Zeroizing<Vec<u8>>) -> Bytes {
    Bytes::from_owner(secret)
}

/// `message` as JSON, in a buffer that is wiped.
///
/// It is written twice, first to count its bytes, so that the buffer never grows.
#[cfg(feature = "json")]
pub(crate) fn json(message: &impl serde::Serialize) -> serde_json::Result<Bytes> {
    struct Count(usize);

    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let mut count = Count(0);
    serde_json::to_writer(&mut count, message)?;
    let mut json = Zeroizing::new(Vec::with_capacity(count.0));
    serde_json::to_writer(&mut *json, message)?;
    debug_assert!(json.capacity() == count.0, "the buffer has grown");
    Ok(into_bytes(json))
}

/// A header value of `parts`, marked as sensitive, wiped when its last copy drops.
pub(crate) fn header_value(parts: &[&[u8]]) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(into_bytes(join(parts)))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Username and password for `Authorization: Basic` (RFC 7617, section 2), which
/// has no way to say a username with a colon in it.
pub(crate) fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    if username.contains(':') {
        return None;
    }
    let pair = join(&[username.as_bytes(), b":", password.as_bytes()]);
    let mut encoded = Zeroizing::new(vec![0; pair.len().div_ceil(3) * 4]);
    STANDARD
        .encode_slice(&*pair, &mut encoded)
        .expect("its room was counted");
    let value = header_value(&[b"Basic ", &encoded]);
    Some(value.expect("letters, digits, `+`, `/` and `=`"))
}

/// `text` with each of `secrets` replaced, for what a server says may echo what it was sent.
pub(crate) fn redact<'a>(text: &'a str, secrets: &[&str]) -> Cow<'a, str> {
    match redact_bytes(text.as_bytes(), secrets) {
        Cow::Borrowed(_) => Cow::Borrowed(text),
        Cow::Owned(redacted) => {
            Cow::Owned(String::from_utf8(redacted).expect("a text without some of its texts"))
        }
    }
}

/// As [`redact`], of bytes that may be no text.
///
/// All secrets are found before the first is replaced, so that no copy is made
/// that lacks one and still holds another.
pub(crate) fn redact_bytes<'a>(text: &'a [u8], secrets: &[&str]) -> Cow<'a, [u8]> {
    let mut hidden = Vec::new();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        let mut end = 0;
        for (at, found) in text.windows(secret.len()).enumerate() {
            if found == secret.as_bytes() {
                hidden.resize(text.len(), false);
                // Of those that overlap, each byte once.
                hidden[end.max(at)..at + secret.len()].fill(true);
                end = at + secret.len();
            }
        }
    }
    if hidden.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut redacted = Vec::with_capacity(text.len());
    for (at, byte) in text.iter().enumerate() {
        match hidden[at] {
            false => redacted.push(*byte),
            true if at > 0 && hidden[at - 1] => {}
            true => redacted.extend_from_slice(REDACTED.as_bytes()),
        }
    }
    Cow::Owned(redacted)
}

/// `secret` in the forms in which an answer or an error may echo it: as it is,
/// as `Debug` shows it, and as JSON, HTML, a URI and a posted form hold it.
pub(crate) fn forms(secret: &str) -> [Zeroizing<String>; 6] {
    let by_character = |escape: fn(char, &mut String)| {
        form(secret, |form| {
            for character in secret.chars() {
                escape(character, form);
            }
        })
    };
    [
        form(secret, |form| form.push_str(secret)),
        form(secret, |form| {
            write!(form, "{secret:?}").expect("a text takes all that is written");
            // Without its quotes.
            form.pop();
            form.remove(0);
        }),
        by_character(json_escape),
        by_character(html_escape),
        by_character(percent_encode),
        by_character(form_encode),
    ]
}

fn form(secret: &str, write: impl FnOnce(&mut String)) -> Zeroizing<String> {
    // For one byte no form has more than six, as in `&quot;`; and two quotes.
    let mut form = Zeroizing::new(String::with_capacity(secret.len() * 6 + 2));
    let room = form.capacity();
    write(&mut form);
    debug_assert_eq!(form.capacity(), room, "the buffer has grown");
    form
}

/// RFC 8259, section 7.
fn json_escape(character: char, form: &mut String) {
    match character {
        '"' => form.push_str("\\\""),
        '\\' => form.push_str("\\\\"),
        '\u{8}' => form.push_str("\\b"),
        '\t' => form.push_str("\\t"),
        '\n' => form.push_str("\\n"),
        '\u{c}' => form.push_str("\\f"),
        '\r' => form.push_str("\\r"),
        '\0'..='\u{1f}' => {
            form.push_str("\\u00");
            form.push(if character < '\u{10}' { '0' } else { '1' });
            form.extend(char::from_digit(character as u32 % 16, 16));
        }
        other => form.push(other),
    }
}

fn html_escape(character: char, form: &mut String) {
    match character {
        '&' => form.push_str("&amp;"),
        '<' => form.push_str("&lt;"),
        '>' => form.push_str("&gt;"),
        '"' => form.push_str("&quot;"),
        '\'' => form.push_str("&#39;"),
        other => form.push(other),
    }
}

/// RFC 3986, sections 2.1 and 2.3.
fn percent_encode(character: char, form: &mut String) {
    match character {
        '-' | '.' | '_' | '~' => form.push(character),
        other if other.is_ascii_alphanumeric() => form.push(other),
        other => percent_encoded(other, form),
    }
}

/// `application/x-www-form-urlencoded`, which queries are written in, too.
fn form_encode(character: char, form: &mut String) {
    match character {
        ' ' => form.push('+'),
        '*' | '-' | '.' | '_' => form.push(character),
        other if other.is_ascii_alphanumeric() => form.push(other),
        other => percent_encoded(other, form),
    }
}

fn percent_encoded(character: char, form: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in character.encode_utf8(&mut [0; 4]).bytes() {
        form.push('%');
        form.push(char::from(HEX[usize::from(byte >> 4)]));
        form.push(char::from(HEX[usize::from(byte & 15)]));
    }
}

/// Reads secrets from JSON.
///
/// What `serde_json` reads of a text with escapes in it, it keeps in a buffer
/// of its own, which grows and is not wiped. So such a text is taken raw, and
/// unescaped here.
#[cfg(feature = "json")]
pub(crate) mod json {
    use secrecy::SecretString;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer};
    use serde_json::value::RawValue;
    use zeroize::Zeroizing;

    /// A text, for `#[serde(deserialize_with)]`. The JSON must be in memory.
    pub(crate) fn secret<'de, D: Deserializer<'de>>(json: D) -> Result<SecretString, D::Error> {
        let raw = <&RawValue>::deserialize(json)?.get();
        unescaped(raw).ok_or_else(|| D::Error::custom("a text was expected"))
    }

    /// A text or `null`, for `#[serde(default, deserialize_with)]`.
    pub(crate) fn optional<'de, D: Deserializer<'de>>(
        json: D,
    ) -> Result<Option<SecretString>, D::Error> {
        match <&RawValue>::deserialize(json)?.get() {
            "null" => Ok(None),
            raw => match unescaped(raw) {
                Some(secret) => Ok(Some(secret)),
                None => Err(D::Error::custom("a text was expected")),
            },
        }
    }

    /// The text that `raw` is, if it is one.
    pub(crate) fn unescaped(raw: &str) -> Option<SecretString> {
        let mut rest = raw.strip_prefix('"')?.strip_suffix('"')?;
        let mut text = Zeroizing::new(String::with_capacity(rest.len()));
        while let Some(at) = rest.find('\\') {
            text.push_str(&rest[..at]);
            let length = escape_length(&rest[at..]);
            let (escape, after) = rest[at..].split_at_checked(length)?;
            // One character is no secret.
            let character: char = serde_json::from_str(&format!("\"{escape}\"")).ok()?;
            text.push(character);
            rest = after;
        }
        text.push_str(rest);
        Some(SecretString::from(text.as_str()))
    }

    /// A character above U+FFFF takes two escapes (RFC 8259, section 7).
    fn escape_length(escape: &str) -> usize {
        let is_first_of_two = |digits: &str| {
            u16::from_str_radix(digits, 16).is_ok_and(|unit| (0xD800..0xDC00).contains(&unit))
        };
        match escape
            .strip_prefix("\\u")
            .and_then(|digits| digits.get(..4))
        {
            Some(digits) if is_first_of_two(digits) => 12,
            Some(_) => 6,
            None => 2,
        }
    }

    #[cfg(test)]
    mod tests {
        use secrecy::ExposeSecret;

        use super::*;

        #[derive(Deserialize)]
        struct Message {
            #[serde(deserialize_with = "secret")]
            one: SecretString,
            #[serde(default, deserialize_with = "optional")]
            other: Option<SecretString>,
        }

        fn read(json: &str) -> Result<Message, serde_json::Error> {
            serde_json::from_str(json)
        }

        #[test]
        fn a_secret_is_read_from_json_as_any_text_is() {
            for text in [
                r#""""#,
                r#""plain""#,
                r#""\" \\ \/ \b\f\n\r\t""#,
                r#""\u00e9\u0022 \uD83D\uDE00 \ud83d\ude00 \\u0041""#,
                "\"\u{e9} \u{1F600}\\\\\\\"\"",
            ] {
                let message = read(&format!(r#"{{"one":{text},"other":{text}}}"#)).unwrap();
                let expected: String = serde_json::from_str(text).unwrap();
                assert_eq!(message.one.expose_secret(), expected);
                assert_eq!(message.other.unwrap().expose_secret(), expected);
            }
        }

        #[test]
        fn what_is_no_text_is_no_secret() {
            for json in [
                r#"{"one":1}"#,
                r#"{"one":null}"#,
                r#"{"one":["a"]}"#,
                r#"{"one":"\ud83d"}"#,
                r#"{"one":"\ud83d\u0041"}"#,
                r#"{"one":"\x"}"#,
                r#"{"one":"a","other":1}"#,
                r#"{"other":"a"}"#,
            ] {
                assert!(read(json).is_err(), "{json}");
            }
            let null = read(r#"{"one":"a","other":null}"#).unwrap();
            assert!(null.other.is_none());
            assert!(read(r#"{"one":"a"}"#).unwrap().other.is_none());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_value_is_sensitive_and_holds_its_parts_in_order() {
        let value = header_value(&[b"Bearer ", b"abc"]).unwrap();
        assert_eq!(value, "Bearer abc");
        assert!(value.is_sensitive());
    }

    #[test]
    fn a_line_break_makes_no_header_value() {
        assert!(header_value(&[b"Bearer ", b"a\r\nb"]).is_err());
    }

    #[test]
    fn joining_never_outgrows_its_buffer() {
        let joined = join(&[b"Bearer ", b"0123456789"]);
        assert_eq!(joined.capacity(), joined.len());
    }

    #[test]
    fn an_echoed_secret_is_redacted_everywhere_and_nothing_else_is() {
        assert_eq!(
            redact("A3F5 is A3F5, not B", &["A3F5"]),
            "[redacted] is [redacted], not B"
        );
        assert_eq!(redact("nothing here", &["A3F5", ""]), "nothing here");
    }

    #[test]
    fn a_secret_has_the_forms_of_those_who_quote_it() {
        let secret = "p\"w\\ <'&>\n\u{1}\u{e9}";
        let [plain, debug, json, html, percent, posted] = forms(secret);
        assert_eq!(*plain, secret);
        assert_eq!(format!("\"{}\"", *debug), format!("{secret:?}"));
        assert_eq!(*json, r#"p\"w\\ <'&>\n\u0001é"#);
        assert_eq!(*html, "p&quot;w\\ &lt;&#39;&amp;&gt;\n\u{1}\u{e9}");
        assert_eq!(*percent, "p%22w%5C%20%3C%27%26%3E%0A%01%C3%A9");
        assert_eq!(*posted, "p%22w%5C+%3C%27%26%3E%0A%01%C3%A9");
        // The assertion is in `form`.
        for character in ('\0'..=char::MAX).step_by(17) {
            forms(character.encode_utf8(&mut [0; 4]));
        }
    }

    #[test]
    fn of_secrets_that_overlap_nothing_is_left() {
        assert_eq!(redact("an abcabcd", &["abc", "bcd"]), "an [redacted]");
        assert_eq!(redact("aaaaa.", &["aaa"]), "[redacted].");
        assert_eq!(redact("redacted", &["redacted", "red"]), "[redacted]");
    }
}
