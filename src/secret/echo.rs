//! Takes secrets out of what a server says, in whatever form it echoes them.

use std::borrow::Cow;

use super::reading::readings;

/// What stands where a secret stood.
pub(crate) const REDACTED: &str = "[redacted]";

/// `text` with each of `secrets` replaced, for what a server says may echo what it
/// was sent, and say it by whatever escapes.
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
    for reading in readings(text) {
        for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
            let mut end = 0;
            for found in reading.find(secret.as_bytes()) {
                hidden.resize(text.len(), false);
                // Of those that overlap, each byte once.
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

/// Whether `text` echoes one of `secrets`.
pub(crate) fn echoes(text: &str, secrets: &[&str]) -> bool {
    readings(text.as_bytes()).iter().any(|reading| {
        let mut secrets = secrets.iter().filter(|secret| !secret.is_empty());
        secrets.any(|secret| reading.find(secret.as_bytes()).next().is_some())
    })
}

/// Where in `text`, which was cut, the beginning of one of `secrets` is the end.
#[cfg(feature = "controlm")]
pub(crate) fn begun(text: &str, secrets: &[&str]) -> Option<usize> {
    let readings = readings(text.as_bytes());
    let begun = readings
        .iter()
        .flat_map(|reading| secrets.iter().filter_map(|secret| reading.begun(secret)));
    begun.min()
}

#[cfg(test)]
mod tests {
    use super::super::percent::{form_encoded, percent_encoded};
    use super::*;

    #[test]
    fn an_echoed_secret_is_redacted_everywhere_and_nothing_else_is() {
        assert_eq!(
            redact("A3F5 is A3F5, not B", &["A3F5"]),
            "[redacted] is [redacted], not B"
        );
        assert_eq!(redact("nothing here", &["A3F5", ""]), "nothing here");
    }

    /// A secret that each way to quote it must escape.
    const SECRET: &str = "p\"w\\ <'&>+/\n\u{1}\u{10}\u{e9}\u{301}\u{1F511}";

    /// All that `text` becomes by escapes of its characters.
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
            // A path need not escape it.
            percent_encoded(secret).replace("%2B", "+"),
            form_encoded(secret).as_str().to_owned(),
        ];
        let quoted = plain.iter().flat_map(|plain| {
            [
                unquoted(format!("{plain:?}")),
                // A page that shows a request, an address within an address.
                escaped(plain, named),
                percent_encoded(plain).as_str().to_owned(),
                form_encoded(plain).as_str().to_owned(),
            ]
        });
        quoted.chain(plain.clone()).collect()
    }

    #[test]
    fn a_secret_is_found_by_whatever_escapes_it_is_said() {
        for quotation in quotations(SECRET) {
            let text = format!("é {quotation} ü");
            assert_eq!(redact(&text, &[SECRET]), "é [redacted] ü", "{quotation}");
            assert!(echoes(&text, &["none", SECRET]));
            assert!(!echoes(&text, &["none", ""]));
        }
        for character in ('\0'..'\u{100}').chain(('\u{100}'..=char::MAX).step_by(997)) {
            let secret = format!("s{character}t");
            for quotation in quotations(&secret) {
                assert_eq!(redact(&quotation, &[&secret]), REDACTED, "{quotation}");
            }
        }
    }

    #[test]
    fn where_a_text_was_cut_a_secret_that_has_begun_is_found() {
        for quotation in quotations(SECRET) {
            let text = format!("é {quotation}");
            let start = "é ".len();
            let ends = text.char_indices().map(|(end, _)| end).skip(start + 1);
            for end in ends {
                let found = begun(&text[..end], &["none", SECRET]);
                // An escape that has only begun says nothing yet.
                let says_nothing = end - start < 18 && found.is_none_or(|found| found > start);
                assert!(found == Some(start) || says_nothing, "{}", &text[..end]);
            }
        }
        for text in ["nothing of it", "p%g", "p\\xg", "p\\u{1234567"] {
            assert_eq!(begun(text, &[SECRET]), None, "{text}");
        }
    }

    #[test]
    fn a_secret_that_has_begun_ends_where_an_escape_within_an_escape_is_cut() {
        let secret = "a secret of many characters \"";
        let debug = format!("{secret:?}");
        let twice = format!("{debug:?}");
        let start = "\"\\\"".len();
        let escape = twice.find("\\\\\\\"").expect("the quote of the secret");
        for end in start + 1..escape + 4 {
            assert_eq!(begun(&twice[..end], &[secret]), Some(start), "{end}");
        }
    }

    #[test]
    fn what_is_no_escape_is_read_as_it_is() {
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
    fn of_secrets_that_overlap_nothing_is_left() {
        assert_eq!(redact("an abcabcd", &["abc", "bcd"]), "an [redacted]");
        assert_eq!(redact("aaaaa.", &["aaa"]), "[redacted].");
        assert_eq!(redact("redacted", &["redacted", "red"]), "[redacted]");
    }

    /// A text of which any part may be an escape, or what an escape says.
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
            .map(|_| *chance.choice(&PIECES).expect("there are some"))
            .collect()
    }

    #[test]
    fn of_what_is_random_no_secret_is_left() {
        let mut chance = fastrand::Rng::with_seed(7);
        for _ in 0..2000 {
            let secrets = [random(&mut chance), random(&mut chance)];
            let secrets = secrets.each_ref().map(String::as_str);
            let mut text = random(&mut chance);
            if chance.bool() {
                let quotations = quotations(secrets[0]);
                text.push_str(chance.choice(&quotations).expect("there are some"));
                text.push_str(&random(&mut chance));
            }
            let redacted = redact(&text, &secrets);
            let said = format!("{secrets:?} in {text:?}: {redacted:?}");
            assert_eq!(echoes(&text, &secrets), redacted != text, "{said}");
            assert!(!echoes(&redacted, &secrets), "{said}");
        }
    }

    #[test]
    fn wherever_a_text_is_cut_no_beginning_of_a_secret_is_left() {
        let mut chance = fastrand::Rng::with_seed(7);
        for _ in 0..1000 {
            let secret = format!("beginning{}", random(&mut chance));
            let quotations = quotations(&secret);
            let quotation = chance.choice(&quotations).expect("there are some");
            let text = format!("{} {quotation}", random(&mut chance));
            let ends: Vec<_> = text.char_indices().map(|(end, _)| end).collect();
            let text = &text[..*chance.choice(&ends).expect("it is not empty")];
            let redacted = redact(text, &[&secret]);
            let end = begun(&redacted, &[&secret]).unwrap_or(redacted.len());
            let left = &redacted[..end];
            assert!(
                !echoes(left, &["begin"]),
                "{secret:?} in {text:?}: {left:?}"
            );
        }
    }
}
