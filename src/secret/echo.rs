//! Takes secrets out of what a server says, in whatever form it echoes them.

use std::borrow::Cow;
use std::fmt::Write;

use zeroize::Zeroizing;

/// What stands where a secret stood.
pub(crate) const REDACTED: &str = "[redacted]";

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
/// as `Debug` shows it, and as JSON, HTML, a URI and a posted form hold it, the
/// latter two with escapes of either case.
pub(crate) fn forms(secret: &str) -> [Zeroizing<String>; 8] {
    let by_character = |escape: fn(char, &mut String)| {
        form(secret, |form| {
            for character in secret.chars() {
                escape(character, form);
            }
        })
    };
    let (percent, posted) = (by_character(percent_encode), by_character(form_encode));
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
        in_lower_case(&percent),
        in_lower_case(&posted),
        percent,
        posted,
    ]
}

/// `text` as a segment of a path holds it (RFC 3986, section 3.3). More than
/// must be is encoded, which means the same.
pub(crate) fn percent_encoded(text: &str) -> Zeroizing<String> {
    form(text, |form| {
        for character in text.chars() {
            percent_encode(character, form);
        }
    })
}

/// `text` as a posted form holds it (WHATWG URL, section 5.2).
pub(crate) fn form_encoded(text: &str) -> Zeroizing<String> {
    form(text, |form| {
        for character in text.chars() {
            form_encode(character, form);
        }
    })
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
        other => escape_bytes(other, form),
    }
}

/// Queries are written in it, too.
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

/// The same with escapes in lower case (RFC 3986, section 2.1).
fn in_lower_case(encoded: &str) -> Zeroizing<String> {
    form(encoded, |form| {
        let mut digits = 0;
        for character in encoded.chars() {
            match digits {
                0 => form.push(character),
                1.. => form.push(character.to_ascii_lowercase()),
            }
            digits = match character {
                '%' => 2,
                _ => u8::saturating_sub(digits, 1),
            };
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let secret = "p\"w\\ <'&>\n\u{1}\u{10}\u{e9}";
        let [
            plain,
            debug,
            json,
            html,
            lower,
            posted_lower,
            percent,
            posted,
        ] = forms(secret);
        assert_eq!(*plain, secret);
        assert_eq!(format!("\"{}\"", *debug), format!("{secret:?}"));
        assert_eq!(*json, r#"p\"w\\ <'&>\n\u0001\u0010é"#);
        assert_eq!(*html, "p&quot;w\\ &lt;&#39;&amp;&gt;\n\u{1}\u{10}\u{e9}");
        assert_eq!(*percent, "p%22w%5C%20%3C%27%26%3E%0A%01%10%C3%A9");
        assert_eq!(*posted, "p%22w%5C+%3C%27%26%3E%0A%01%10%C3%A9");
        assert_eq!(*lower, "p%22w%5c%20%3c%27%26%3e%0a%01%10%c3%a9");
        assert_eq!(*posted_lower, "p%22w%5c+%3c%27%26%3e%0a%01%10%c3%a9");
        assert_eq!(*in_lower_case("AB%C3C%A9"), "AB%c3C%a9");
        assert_eq!(*percent_encoded(secret), *percent);
        assert_eq!(*form_encoded(secret), *posted);
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
