//! Bytes that are wiped, and texts that quote no secret.

pub(crate) mod echo;
#[cfg(feature = "json")]
pub(crate) mod json;
pub(crate) mod percent;
mod reading;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use http::header::InvalidHeaderValue;
use zeroize::Zeroizing;

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

/// A header value of `parts`, marked as sensitive, wiped when its last copy drops.
pub(crate) fn header_value(parts: &[&[u8]]) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(into_bytes(join(parts)))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Username and password for `Authorization: Basic` (RFC 7617, section 2), which
/// has no way to say a username with a colon in it, and allows no control
/// characters.
pub(crate) fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    let mut bytes = username.bytes().chain(password.bytes());
    if username.contains(':') || bytes.any(|byte| byte.is_ascii_control()) {
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
}
