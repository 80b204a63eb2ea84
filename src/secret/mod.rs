//! Buffers that are wiped, and text from which secrets were removed.

pub(crate) mod excerpt;
#[cfg(feature = "json")]
pub(crate) mod json;
pub(crate) mod percent;
pub(crate) mod redact;
mod search;
mod unescape;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use http::header::InvalidHeaderValue;
use zeroize::{Zeroize, Zeroizing};

/// Joins `parts` in one buffer of exactly their length, which is wiped on drop.
///
/// The length is counted first: a buffer that grows leaves a copy of the secret
/// behind in the memory that it outgrew.
pub(crate) fn join(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length = parts.iter().map(|part| part.len()).sum();
    let mut joined = Zeroizing::new(Vec::with_capacity(length));
    for part in parts {
        joined.extend_from_slice(part);
    }
    joined
}

/// A buffer that is wiped on drop. It must not grow: its old memory would not be wiped.
///
/// `Zeroizing<Vec<u8>>` wipes byte by byte, which costs a request of 300 bytes more
/// than its copy.
pub(crate) struct Wiped(Vec<u8>);

impl Wiped {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// Appends `bytes`, for which there must be capacity.
    #[inline]
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        debug_assert!(self.0.len() + bytes.len() <= self.0.capacity());
        self.0.extend_from_slice(bytes);
    }

    /// Converts the buffer to [`Bytes`] that wipe it when their last copy drops.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Wiped {
    #[inline]
    fn drop(&mut self) {
        self.0.as_mut_slice().zeroize();
    }
}

/// Converts the buffer to [`Bytes`] that wipe it when their last copy drops.
pub(crate) fn into_bytes(secret: Zeroizing<Vec<u8>>) -> Bytes {
    Bytes::from_owner(secret)
}

/// Joins `parts` in a sensitive header value that is wiped when its last copy drops.
pub(crate) fn header_value(parts: &[&[u8]]) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(into_bytes(join(parts)))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Encodes a username and a password for `Authorization: Basic` (RFC 7617, section 2).
///
/// Returns `None` for a username with a colon and for control characters, which
/// the scheme cannot express.
pub(crate) fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    let mut bytes = username.bytes().chain(password.bytes());
    if username.contains(':') || bytes.any(|byte| byte.is_ascii_control()) {
        return None;
    }
    let pair = join(&[username.as_bytes(), b":", password.as_bytes()]);
    let mut encoded = Zeroizing::new(vec![0; pair.len().div_ceil(3) * 4]);
    STANDARD
        .encode_slice(&*pair, &mut encoded)
        .expect("the buffer has the encoded length");
    let value = header_value(&[b"Basic ", &encoded]);
    Some(value.expect("base64 is a valid header value"))
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
    fn a_line_break_is_refused_in_a_header_value() {
        assert!(header_value(&[b"Bearer ", b"a\r\nb"]).is_err());
    }

    #[test]
    fn join_never_grows_its_buffer() {
        let joined = join(&[b"Bearer ", b"0123456789"]);
        assert_eq!(joined.capacity(), joined.len());
    }
}
