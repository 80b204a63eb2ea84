//! Removes secrets from text that a server sent, in whatever form it quotes them.

use std::borrow::Cow;

use super::unescape::unescape_all;

/// The text that replaces a secret.
pub(crate) const REDACTED: &str = "[redacted]";

/// Replaces each of `secrets` in `text`.
///
/// A server's message may quote the request, and may escape it in any way.
pub(crate) fn redact<'a>(text: &'a str, secrets: &[&str]) -> Cow<'a, str> {
    match redact_bytes(text.as_bytes(), secrets) {
        Cow::Borrowed(_) => Cow::Borrowed(text),
        Cow::Owned(redacted) => Cow::Owned(
            String::from_utf8(redacted).expect("whole strings were removed from a string"),
        ),
    }
}

/// As [`redact`], for bytes that may not be UTF-8.
///
/// All secrets are found before the first is replaced, so no copy is made that
/// lacks one secret and still holds another.
pub(crate) fn redact_bytes<'a>(text: &'a [u8], secrets: &[&str]) -> Cow<'a, [u8]> {
    let mut hidden = Vec::new();
    for unescaped in unescape_all(text) {
        for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
            let mut end = 0;
            for found in unescaped.find(secret.as_bytes()) {
                hidden.resize(text.len(), false);
                // Matches may overlap: mark each byte once.
                hidden[end.max(found.start)..found.end].fill(true);
                end = found.end;
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

/// Returns whether `text` quotes one of `secrets`.
pub(crate) fn quotes(text: &str, secrets: &[&str]) -> bool {
    unescape_all(text.as_bytes()).iter().any(|unescaped| {
        let mut secrets = secrets.iter().filter(|secret| !secret.is_empty());
        secrets.any(|secret| unescaped.find(secret.as_bytes()).next().is_some())
    })
}

/// Returns where one of `secrets` starts that the end of `text` cuts off.
#[cfg(feature = "controlm")]
pub(crate) fn find_cut(text: &str, secrets: &[&str]) -> Option<usize> {
    let unescaped = unescape_all(text.as_bytes());
    let cut = unescaped
        .iter()
        .flat_map(|text| secrets.iter().filter_map(|secret| text.find_cut(secret)));
    cut.min()
}

#[cfg(test)]
mod tests {
    use super::super::percent::{form_encoded, percent_encoded};
    use super::*;

    #[test]
    fn every_quoted_secret_is_redacted_and_nothing_else() {
        assert_eq!(
            redact("A3F5 is A3F5, not B", &["A3F5"]),
            "[redacted] is [redacted], not B"
        );
        assert_eq!(redact("nothing here", &["A3F5", ""]), "nothing here");
    }

    /// A secret that every syntax must escape.
    const SECRET: &str = "p\"w\\ <'&>+/\n\u{1}\u{10}\u{e9}\u{301}\u{1F511}";

    /// Escapes each character of `text`.
    fn escaped(text: &str, escape: impl Fn(char) -> String) -> String {
        text.chars().map(escape).collect()
    }

    fn utf_16(character: char) -> String {
        let units = character.encode_utf16(&mut [0; 2]).to_vec();
        let escape = |unit: u16| match character.is_ascii_uppercase() {
            true => format!("\\u{unit:04X}"),
            false => format!("\\u{unit:04x}"),
        };
        units.into_iter().map(escape).collect()
    }

    fn quotations(secret: &str) -> Vec<String> {
        let unquoted = |debug: String| debug[1..debug.len() - 1].to_owned();
        let percent = |character: char| {
            let mut utf_8 = [0; 4];
            let bytes = character.encode_utf8(&mut utf_8).bytes();
            bytes.map(|byte| format!("%{byte:02x}")).collect::<String>()
        };
        let named = |character| match character {
            '&' => "&amp;".to_owned(),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '"' => "&quot;".to_owned(),
            '\'' => "&apos;".to_owned(),
            other => other.to_string(),
        };
        let slash = |character| match character {
            '/' => "\\/".to_owned(),
            '"' => "\\\"".to_owned(),
            '\\' => "\\\\".to_owned(),
            '\n' => "\\n".to_owned(),
            '\u{8}' => "\\b".to_owned(),
            '\u{c}' => "\\f".to_owned(),
            other => other.to_string(),
        };
        let plain = [
            secret.to_owned(),
            unquoted(format!("{secret:?}")),
            secret.as_bytes().escape_ascii().to_string(),
            escaped(secret, utf_16),
            escaped(secret, slash),
            escaped(secret, named),
            escaped(secret, |character| format!("&#{};", u32::from(character))),
            escaped(secret, |character| {
                format!("&#x{:X};", u32::from(character))
            }),
            escaped(secret, |character| {
                format!("&#X{:08x};", u32::from(character))
            }),
            escaped(secret, |character| {
                format!("\\u{{{:x}}}", u32::from(character))
            }),
            escaped(secret, |character| {
                format!("\\u{{{:06x}}}", u32::from(character))
            }),
            escaped(secret, percent),
            percent_encoded(secret).as_str().to_owned(),
            // A path may hold a plus sign as it is.
            percent_encoded(secret).replace("%2B", "+"),
            form_encoded(secret).as_str().to_owned(),
        ];
        let quoted = plain.iter().flat_map(|plain| {
            [
                unquoted(format!("{plain:?}")),
                // A page that shows a request, a URI within a URI.
                escaped(plain, named),
                percent_encoded(plain).as_str().to_owned(),
                form_encoded(plain).as_str().to_owned(),
            ]
        });
        quoted.chain(plain.clone()).collect()
    }

    #[test]
    fn a_secret_is_found_whatever_escapes_quote_it() {
        for quotation in quotations(SECRET) {
            let text = format!("é {quotation} ü");
            assert_eq!(redact(&text, &[SECRET]), "é [redacted] ü", "{quotation}");
            assert!(quotes(&text, &["none", SECRET]));
            assert!(!quotes(&text, &["none", ""]));
        }
        for character in ('\0'..'\u{100}').chain(('\u{100}'..=char::MAX).step_by(997)) {
            let secret = format!("s{character}t");
            for quotation in quotations(&secret) {
                assert_eq!(redact(&quotation, &[&secret]), REDACTED, "{quotation}");
            }
        }
    }

    #[test]
    fn a_secret_that_the_end_of_the_text_cuts_off_is_found() {
        for quotation in quotations(SECRET) {
            let text = format!("é {quotation}");
            let start = "é ".len();
            let ends = text.char_indices().map(|(end, _)| end).skip(start + 1);
            for end in ends {
                let found = find_cut(&text[..end], &["none", SECRET]);
                // The first escape may be cut off itself.
                let is_cut = end - start < 18 && found.is_none_or(|found| found > start);
                assert!(found == Some(start) || is_cut, "{}", &text[..end]);
            }
        }
        for text in ["nothing of it", "p%g", "p\\xg", "p\\u{1234567"] {
            assert_eq!(find_cut(text, &[SECRET]), None, "{text}");
        }
    }

    #[test]
    fn a_cut_secret_is_found_when_a_nested_escape_is_cut() {
        let secret = "a secret of many characters \"";
        let debug = format!("{secret:?}");
        let twice = format!("{debug:?}");
        let start = "\"\\\"".len();
        let escape = twice
            .find("\\\\\\\"")
            .expect("the secret holds a quotation mark");
        for end in start + 1..escape + 4 {
            assert_eq!(find_cut(&twice[..end], &[secret]), Some(start), "{end}");
        }
    }

    #[test]
    fn a_malformed_escape_is_literal_text() {
        for text in [
            "\\",
            "\\q",
            "\\x",
            "\\xg0",
            "\\u",
            "\\u12",
            "\\u123g",
            "\\u{",
            "\\u{}",
            "\\u{1234567}",
            "\\u{110000}",
            "\\ud83d",
            "\\ud83d\\",
            "\\ud83d\\u0041",
            "\\udc00",
            "%",
            "%4",
            "%4g",
            "&",
            "&;",
            "&#;",
            "&#x;",
            "&#xg;",
            "&#1114112;",
            "&nothing;",
            "&amp",
            "&amp and",
            "&#x0000000041;",
            "+",
        ] {
            let secret = format!("s{text}t");
            assert_eq!(redact(&secret, &[&secret]), REDACTED);
            assert_eq!(redact(text, &["secret"]), text);
            assert_eq!(redact(&secret, &["s\0t"]), secret);
            let ends = format!("secret{text}");
            assert!(redact(&ends, &["secret"]).starts_with(REDACTED), "{ends}");
        }
    }

    #[test]
    fn overlapping_secrets_are_removed_completely() {
        assert_eq!(redact("an abcabcd", &["abc", "bcd"]), "an [redacted]");
        assert_eq!(redact("aaaaa.", &["aaa"]), "[redacted].");
        assert_eq!(redact("redacted", &["redacted", "red"]), "[redacted]");
    }

    /// A text made of escapes, parts of escapes, and the characters they stand for.
    fn random(chance: &mut fastrand::Rng) -> String {
        const PIECES: [&str; 40] = [
            "\\",
            "\\\\",
            "\\\"",
            "\\/",
            "\\n",
            "\\x",
            "\\x41",
            "\\xc3",
            "\\xa9",
            "\\u",
            "\\u00",
            "\\u0041",
            "\\ud83d",
            "\\udd11",
            "\\u{",
            "\\u{e9}",
            "\\u{1f511}",
            "}",
            "&",
            "&amp;",
            "&quot",
            "&#",
            "&#65;",
            "&#xe9;",
            "&#x1F511;",
            ";",
            "%",
            "%4",
            "%41",
            "%C3",
            "%a9",
            "%25",
            "+",
            " ",
            "\"",
            "A",
            "s",
            "4",
            "\u{e9}",
            "\u{1f511}",
        ];
        let length = chance.usize(0..12);
        (0..length)
            .map(|_| *chance.choice(&PIECES).expect("the list is not empty"))
            .collect()
    }

    #[test]
    fn no_secret_is_left_in_random_text() {
        let mut chance = fastrand::Rng::with_seed(7);
        for _ in 0..2000 {
            let secrets = [random(&mut chance), random(&mut chance)];
            let secrets = secrets.each_ref().map(String::as_str);
            let mut text = random(&mut chance);
            if chance.bool() {
                let quotations = quotations(secrets[0]);
                text.push_str(chance.choice(&quotations).expect("the list is not empty"));
                text.push_str(&random(&mut chance));
            }
            let redacted = redact(&text, &secrets);
            let context = format!("{secrets:?} in {text:?}: {redacted:?}");
            assert_eq!(quotes(&text, &secrets), redacted != text, "{context}");
            assert!(!quotes(&redacted, &secrets), "{context}");
        }
    }

    #[test]
    fn no_start_of_a_secret_is_left_wherever_the_text_is_cut() {
        let mut chance = fastrand::Rng::with_seed(7);
        for _ in 0..1000 {
            let secret = format!("beginning{}", random(&mut chance));
            let quotations = quotations(&secret);
            let quotation = chance.choice(&quotations).expect("the list is not empty");
            let text = format!("{} {quotation}", random(&mut chance));
            let ends: Vec<_> = text.char_indices().map(|(end, _)| end).collect();
            let text = &text[..*chance.choice(&ends).expect("the text is not empty")];
            let redacted = redact(text, &[&secret]);
            let end = find_cut(&redacted, &[&secret]).unwrap_or(redacted.len());
            let left = &redacted[..end];
            assert!(
                !quotes(left, &["begin"]),
                "{secret:?} in {text:?}: {left:?}"
            );
        }
    }
}
