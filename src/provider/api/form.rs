//! Forms, in a buffer of just their length.

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::secret;

/// The fields as `application/x-www-form-urlencoded` (WHATWG URL, section 5.2),
/// in a buffer that is wiped and never grows.
pub(super) fn encode(fields: &[(&str, &str)]) -> Bytes {
    let length_of = |text: &str| -> usize { text.bytes().map(|byte| encoded(byte).len()).sum() };
    let length: usize = fields
        .iter()
        .map(|(name, value)| length_of(name) + length_of(value) + 2)
        .sum();
    let mut form = Zeroizing::new(Vec::with_capacity(length));
    for (name, value) in fields {
        if !form.is_empty() {
            form.push(b'&');
        }
        for byte in name.bytes() {
            form.extend_from_slice(&encoded(byte));
        }
        form.push(b'=');
        for byte in value.bytes() {
            form.extend_from_slice(&encoded(byte));
        }
    }
    secret::into_bytes(form)
}

/// One byte, or three of them that stand for it.
fn encoded(byte: u8) -> Encoded {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => {
            Encoded([byte, 0, 0], 1)
        }
        b' ' => Encoded([b'+', 0, 0], 1),
        _ => {
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            Encoded([b'%', DIGITS[high], DIGITS[low]], 3)
        }
    }
}

struct Encoded([u8; 3], usize);

impl std::ops::Deref for Encoded {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_encoded_and_joined() {
        let form = encode(&[("user name", "a&b=c"), ("p", "ä%+*-._~"), ("", "")]);
        assert_eq!(form, "user+name=a%26b%3Dc&p=%C3%A4%25%2B*-._%7E&=");
        assert_eq!(encode(&[]), "");
    }
}
