//! Encoding for URIs and posted forms, in memory that is wiped.

use zeroize::Zeroizing;

/// Encodes `text` for a path segment (RFC 3986, section 3.3).
///
/// Encodes more characters than the RFC requires, which means the same.
pub(crate) fn percent_encoded(text: &str) -> Zeroizing<String> {
    wiped(text, |form| {
        for character in text.chars() {
            percent_encode(character, form);
        }
    })
}

/// Encodes `text` for a posted form or a query (WHATWG URL, section 5.2).
pub(crate) fn form_encoded(text: &str) -> Zeroizing<String> {
    wiped(text, |form| {
        for character in text.chars() {
            form_encode(character, form);
        }
    })
}

fn wiped(secret: &str, write: impl FnOnce(&mut String)) -> Zeroizing<String> {
    // An encoded byte takes at most three.
    let mut form = Zeroizing::new(String::with_capacity(secret.len() * 3));
    let capacity = form.capacity();
    write(&mut form);
    debug_assert_eq!(form.capacity(), capacity, "the buffer has grown");
    form
}

// RFC 3986, sections 2.1 and 2.3.
fn percent_encode(character: char, form: &mut String) {
    match character {
        '-' | '.' | '_' | '~' => form.push(character),
        other if other.is_ascii_alphanumeric() => form.push(other),
        other => escape_bytes(other, form),
    }
}

fn form_encode(character: char, form: &mut String) {
    match character {
        ' ' => form.push('+'),
        '*' | '-' | '.' | '_' => form.push(character),
        other if other.is_ascii_alphanumeric() => form.push(other),
        other => escape_bytes(other, form),
    }
}

fn escape_bytes(character: char, form: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in character.encode_utf8(&mut [0; 4]).bytes() {
        form.push('%');
        form.push(char::from(HEX[usize::from(byte >> 4)]));
        form.push(char::from(HEX[usize::from(byte & 15)]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_characters_are_encoded() {
        let text = "aZ09-._~*p\"w\\ <'&>\n\u{1}\u{e9}";
        let percent = "aZ09-._~%2Ap%22w%5C%20%3C%27%26%3E%0A%01%C3%A9";
        assert_eq!(*percent_encoded(text), percent);
        let form = "aZ09-._%7E*p%22w%5C+%3C%27%26%3E%0A%01%C3%A9";
        assert_eq!(*form_encoded(text), form);
        // `wiped` asserts that its buffer never grows.
        for character in ('\0'..=char::MAX).step_by(17) {
            let text = character.to_string();
            percent_encoded(&text);
            form_encoded(&text);
        }
    }
}
