//! Secrets in JSON, written and read without leaving a copy behind.
//!
//! `serde_json` decodes a string with escapes in a buffer of its own, which
//! grows and is not wiped. This module takes the raw string and decodes it here.

use std::collections::BTreeMap;

use bytes::Bytes;
use secrecy::SecretString;
use serde::de::{Error, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::text::without_bom;

/// Serializes `message` to JSON in a buffer that is wiped.
///
/// Writes it twice, first to count the bytes, so that the buffer never grows.
pub(crate) fn write(message: &impl Serialize) -> serde_json::Result<Bytes> {
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
    Ok(super::into_bytes(json))
}

/// Deserializes a struct from an object, behind a byte order mark or not.
///
/// An array is an error: serde takes one for a struct, with the fields in their order.
pub(crate) fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> serde_json::Result<T> {
    let json = without_bom(json);
    match json.trim_ascii_start().first() {
        // The parser's error names the place.
        Some(b'[') => serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(json)
            .and(Err(Error::custom("expected an object, not an array"))),
        Some(_) | None => serde_json::from_slice(json),
    }
}

/// Deserializes a string, for `#[serde(deserialize_with)]`. The JSON must be in memory.
pub(crate) fn secret<'de, D: Deserializer<'de>>(json: D) -> Result<SecretString, D::Error> {
    let raw = <&RawValue>::deserialize(json)?.get();
    unescaped(raw).ok_or_else(|| D::Error::custom("expected a string"))
}

/// Deserializes a string or `null`, for `#[serde(default, deserialize_with)]`.
pub(crate) fn optional<'de, D: Deserializer<'de>>(
    json: D,
) -> Result<Option<SecretString>, D::Error> {
    match <&RawValue>::deserialize(json)?.get() {
        "null" => Ok(None),
        raw => match unescaped(raw) {
            Some(secret) => Ok(Some(secret)),
            None => Err(D::Error::custom("expected a string")),
        },
    }
}

/// Decodes a raw JSON string. Returns `None` if `raw` is not a string.
pub(crate) fn unescaped(raw: &str) -> Option<SecretString> {
    let mut rest = raw.strip_prefix('"')?.strip_suffix('"')?;
    let mut text = Zeroizing::new(String::with_capacity(rest.len()));
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let length = escape_length(&rest[at..]);
        let (escape, after) = rest[at..].split_at_checked(length)?;
        // The temporaries are not wiped: one character is not a secret.
        let character: char = serde_json::from_str(&format!("\"{escape}\"")).ok()?;
        text.push(character);
        rest = after;
    }
    text.push_str(rest);
    Some(SecretString::from(text.as_str()))
}

/// Returns the length of an escape; a character above U+FFFF takes two (RFC 8259, section 7).
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
    fn a_secret_is_decoded_as_serde_json_decodes_strings() {
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
    fn an_object_is_read_behind_a_mark_and_an_array_is_not_one() {
        for json in [
            r#"{"one":"a"}"#,
            " {\"one\":\"a\"}\n",
            "\u{feff}{\"one\":\"a\"}",
        ] {
            assert!(object::<Message>(json.as_bytes()).is_ok(), "{json}");
        }
        for json in [r#"["a",null]"#, "\u{feff} [\"a\",\"b\"]", "", "5"] {
            assert!(object::<Message>(json.as_bytes()).is_err(), "{json}");
        }
    }

    #[test]
    fn a_value_that_is_not_a_string_is_refused() {
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
