//! Removes secrets from text that a server sent, in whatever form it quotes them.

use std::borrow::Cow;

use super::search::Needle;
use super::unescape::{Unescaped, unescape_all};

/// The text that replaces a secret.
pub(crate) const REDACTED: &str = "[redacted]";

/// Whether a text is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The text is complete.
    Whole,
    /// The text ends where reading ended, perhaps in the middle of a secret.
    Cut,
}

/// Replaces each of `secrets` in `text`.
///
/// A server's message may quote the request. Secrets are found as they are and escaped
/// once, by JSON, percent signs or HTML. From a text that is [`Extent::Cut`], a secret or
/// an escape that only starts at its end is removed too.
///
/// The time is linear in the length of `text`, for each secret.
pub(crate) fn redact<'a>(text: &'a str, extent: Extent, secrets: &[&str]) -> Cow<'a, str> {
    match redact_bytes(text.as_bytes(), extent, secrets) {
        Cow::Borrowed(kept) => Cow::Borrowed(&text[..kept.len()]),
        Cow::Owned(redacted) => Cow::Owned(
            String::from_utf8(redacted).expect("whole strings were removed from a string"),
        ),
    }
}

/// As [`redact`], for bytes that may not be UTF-8.
///
/// All secrets are found before the first is replaced, so no copy is made that
/// lacks one secret and still holds another.
pub(crate) fn redact_bytes<'a>(text: &'a [u8], extent: Extent, secrets: &[&str]) -> Cow<'a, [u8]> {
    let found = Found::search(text, secrets);
    let end = match extent {
        Extent::Whole => text.len(),
        Extent::Cut => found.cut,
    };
    let hidden = &found.hidden[..end];
    if !hidden.contains(&true) {
        return Cow::Borrowed(&text[..end]);
    }
    let mut redacted = Vec::with_capacity(end);
    for (at, is_hidden) in hidden.iter().enumerate() {
        match is_hidden {
            false => redacted.push(text[at]),
            true if at > 0 && hidden[at - 1] => {}
            true => redacted.extend_from_slice(REDACTED.as_bytes()),
        }
    }
    Cow::Owned(redacted)
}

/// Returns whether `text` quotes one of `secrets`.
pub(crate) fn quotes(text: &str, secrets: &[&str]) -> bool {
    let found = Found::search(text.as_bytes(), secrets);
    found.hidden.contains(&true)
}

/// The places of secrets in a text.
struct Found {
    /// Whether each byte is a part of a secret.
    hidden: Vec<bool>,
    /// Where the first secret or escape starts that the end of the text cuts off.
    cut: usize,
}

impl Found {
    fn search(text: &[u8], secrets: &[&str]) -> Self {
        let mut found = Self {
            hidden: vec![false; text.len()],
            cut: text.len(),
        };
        let secrets = secrets.iter().filter(|secret| !secret.is_empty());
        let needles: Vec<_> = secrets.map(|secret| Needle::new(secret)).collect();
        for unescaped in unescape_all(text) {
            for needle in &needles {
                found.mark(needle, &unescaped);
            }
        }
        found
    }

    fn mark(&mut self, needle: &Needle<'_>, text: &Unescaped) {
        let mut search = needle.search();
        let mut marked = 0;
        for at in 0..=text.bytes.len() {
            if at == text.complete {
                self.cut = self.cut.min(text.offsets[at - search.matched()]);
            }
            let byte = text.bytes.get(at);
            if byte.is_some_and(|byte| search.push(*byte)) {
                let found = text.offsets[at + 1 - needle.len()]..text.offsets[at + 1];
                // Matches may overlap: mark each byte once.
                self.hidden[found.start.max(marked)..found.end].fill(true);
                marked = found.end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::percent::{form_encoded, percent_encoded};
    use super::*;

    fn redacted<'a>(text: &'a str, secrets: &[&str]) -> Cow<'a, str> {
        redact(text, Extent::Whole, secrets)
    }

    fn redacted_cut<'a>(text: &'a str, secrets: &[&str]) -> Cow<'a, str> {
        redact(text, Extent::Cut, secrets)
    }

    #[test]
    fn every_quoted_secret_is_redacted_and_nothing_else() {
        assert_eq!(
            redacted("A3F5 is A3F5, not B", &["A3F5"]),
            "[redacted] is [redacted], not B"
        );
        assert_eq!(redacted("nothing here", &["A3F5", ""]), "nothing here");
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
        vec![
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
        ]
    }

    #[test]
    fn a_secret_is_found_whatever_escapes_quote_it() {
        for quotation in quotations(SECRET) {
            let text = format!("é {quotation} ü");
            assert_eq!(redacted(&text, &[SECRET]), "é [redacted] ü", "{quotation}");
            assert!(quotes(&text, &["none", SECRET]));
            assert!(!quotes(&text, &["none", ""]));
        }
        for character in ('\0'..'\u{100}').chain(('\u{100}'..=char::MAX).step_by(997)) {
            let secret = format!("s{character}t");
            for quotation in quotations(&secret) {
                assert_eq!(redacted(&quotation, &[&secret]), REDACTED, "{quotation}");
            }
        }
    }

    #[test]
    fn a_secret_that_the_end_of_the_text_cuts_off_is_removed() {
        for quotation in quotations(SECRET) {
            let text = format!("é {quotation}");
            let ends = text.char_indices().map(|(end, _)| end);
            for end in ends.skip("é ".chars().count()) {
                let text = &text[..end];
                assert_eq!(redacted_cut(text, &["none", SECRET]), "é ", "{text}");
            }
        }
        for text in ["nothing of it", "p%g", "p\\xg", "p\\u{1234567"] {
            assert_eq!(redacted_cut(text, &[SECRET]), text);
        }
    }

    #[test]
    fn a_whole_secret_before_the_cut_is_replaced() {
        for text in [
            "a password",
            "a password\\u00",
            "a password&#",
            "a passwordpass",
        ] {
            assert_eq!(redacted_cut(text, &["password"]), "a [redacted]", "{text}");
        }
        // The start of one secret is the end of the same, and of another.
        assert_eq!(redacted_cut("a noon", &["noon"]), "a [redacted]");
        let secrets = ["password", "word1word"];
        assert_eq!(redacted_cut("a password1", &secrets), "a [redacted]");
    }

    #[test]
    fn a_secret_that_is_cut_within_a_character_is_removed() {
        let secret = "key\u{1F511}";
        for cut in 0..4 {
            let text = format!("a {secret}");
            let text = &text.as_bytes()[..text.len() - cut];
            let redacted = redact_bytes(text, Extent::Cut, &[secret]);
            let expected: &[u8] = match cut {
                0 => b"a [redacted]",
                _ => b"a ",
            };
            assert_eq!(*redacted, *expected, "{cut}");
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
            assert_eq!(redacted(&secret, &[&secret]), REDACTED);
            assert_eq!(redacted(text, &["secret"]), text);
            assert_eq!(redacted(&secret, &["s\0t"]), secret);
            let ends = format!("secret{text}");
            assert!(redacted(&ends, &["secret"]).starts_with(REDACTED), "{ends}");
        }
    }

    #[test]
    fn overlapping_secrets_are_removed_completely() {
        assert_eq!(redacted("an abcabcd", &["abc", "bcd"]), "an [redacted]");
        assert_eq!(redacted("aaaaa.", &["aaa"]), "[redacted].");
        assert_eq!(redacted("redacted", &["redacted", "red"]), "[redacted]");
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
            let redacted = redacted(&text, &secrets);
            let context = format!("{secrets:?} in {text:?}: {redacted:?}");
            assert_eq!(quotes(&text, &secrets), redacted != text, "{context}");
            assert!(!quotes(&redacted, &secrets), "{context}");
        }
    }

    #[test]
    fn no_start_of_a_secret_is_left_wherever_the_text_is_cut() {
        let mut chance = fastrand::Rng::with_seed(7);
        for _ in 0..1000 {
            // No random text has its first letter, and no escape goes on behind a space.
            let secret = format!("beginning{}", random(&mut chance));
            let before = format!("{} ", random(&mut chance));
            let quotations = quotations(&secret);
            let quotation = chance.choice(&quotations).expect("the list is not empty");
            for (end, _) in quotation.char_indices() {
                let text = format!("{before}{}", &quotation[..end]);
                assert_eq!(redacted_cut(&text, &[&secret]), before, "{text:?}");
            }
        }
    }
}
