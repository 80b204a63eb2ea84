//! Forms, in a buffer of just their length.

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::secret::{self, percent};

/// The fields as `application/x-www-form-urlencoded`, in a buffer that is wiped.
pub(super) fn encode(fields: &[(&str, &str)]) -> Bytes {
    let mut encoded: Vec<Zeroizing<String>> = Vec::with_capacity(fields.len() * 2);
    for (name, value) in fields {
        encoded.push(percent::form_encoded(name));
        encoded.push(percent::form_encoded(value));
    }
    let mut parts: Vec<&[u8]> = Vec::with_capacity(fields.len() * 4);
    for pair in encoded.chunks_exact(2) {
        if !parts.is_empty() {
            parts.push(b"&");
        }
        parts.extend([pair[0].as_bytes(), b"=", pair[1].as_bytes()]);
    }
    secret::into_bytes(secret::join(&parts))
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
