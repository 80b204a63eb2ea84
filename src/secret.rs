//! Bytes that are wiped, and texts that quote no secret.

use std::borrow::Cow;

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

/// `text` with each of `secrets` replaced, for what a server says may echo what it was sent.
pub(crate) fn redact<'a>(text: &'a str, secrets: &[&str]) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(text);
    for secret in secrets {
        if !secret.is_empty() && text.contains(secret) {
            text = Cow::Owned(text.replace(secret, REDACTED));
        }
    }
    text
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
}
