//! The message in the answer of a server or a gateway, without secrets.

use std::borrow::Cow;

use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::Value;
use zeroize::Zeroizing;

use super::model::{ErrorData, ErrorList};
use crate::secret::redact::{Extent, redact, redact_bytes};
use crate::text::without_bom;

/// The limit for a text that an error quotes, in characters.
const KEPT: usize = 512;

/// The limit for the part of a text that is read for it, in bytes.
const LOOKED_AT: usize = 4096;

/// The limit for the entries of an error list.
const ERRORS_KEPT: usize = 16;

/// The secrets of a call, which no error may quote, each also in its
/// [`printable`] form.
#[derive(Default)]
pub(super) struct Secrets(Vec<Zeroizing<String>>);

impl Secrets {
    pub(super) fn and(self, secret: &SecretString) -> Self {
        self.and_str(secret.expose_secret())
    }

    pub(super) fn and_str(mut self, secret: &str) -> Self {
        for secret in [secret.to_owned(), printable(secret)].map(Zeroizing::new) {
            if !self.0.contains(&secret) {
                self.0.push(secret);
            }
        }
        self
    }

    /// Returns `text` in one line of at most [`KEPT`] characters, without secrets
    /// and control characters, or `None` if nothing is left.
    pub(super) fn clean(&self, text: &str, extent: Extent) -> Option<String> {
        let (text, extent) = match text.char_indices().find(|(at, _)| *at >= LOOKED_AT) {
            Some((end, _)) => (&text[..end], Extent::Cut),
            None => (text, extent),
        };
        let text = self.redact(text, extent);
        // Once more: the characters dropped here may have been inside a secret.
        let text = printable(&text);
        let text = self.redact(&text, extent);
        let text = text.trim_end();

        match text.char_indices().nth(KEPT) {
            Some((end, _)) => Some(format!("{}…", &text[..end])),
            None if text.is_empty() => None,
            None => Some(text.to_owned()),
        }
    }

    fn all(&self) -> Vec<&str> {
        self.0.iter().map(|secret| secret.as_str()).collect()
    }

    fn redact_bytes<'a>(&self, bytes: &'a [u8], extent: Extent) -> Cow<'a, [u8]> {
        redact_bytes(bytes, extent, &self.all())
    }

    fn redact<'a>(&self, text: &'a str, extent: Extent) -> Cow<'a, str> {
        redact(text, extent, &self.all())
    }
}

/// Parses `body` as JSON.
///
/// Echoed secrets are redacted first, because the parser copies texts to memory
/// that is not wiped. If that breaks the JSON, for example because a secret is
/// a field's name, `body` is parsed as it is.
fn parse<T: DeserializeOwned>(body: &[u8], secrets: &Secrets) -> Option<T> {
    let body = without_bom(body);
    match secrets.redact_bytes(body, Extent::Whole) {
        Cow::Borrowed(body) => serde_json::from_slice(body).ok(),
        Cow::Owned(redacted) => serde_json::from_slice(&redacted)
            .or_else(|_| serde_json::from_slice(body))
            .ok(),
    }
}

/// Returns the error list in `body`, unless it has no entry.
pub(super) fn error_list(body: &[u8], secrets: &Secrets) -> Option<ErrorList> {
    let list: ErrorList = parse(body, secrets)?;
    let clean = |text: Option<String>| text.and_then(|text| secrets.clean(&text, Extent::Whole));
    let errors: Vec<_> = list
        .errors
        .into_iter()
        .take(ERRORS_KEPT)
        .map(|error| ErrorData {
            message: clean(error.message),
            id: clean(error.id),
            item: clean(error.item),
            file: clean(error.file),
            line: error.line,
            col: error.col,
        })
        .collect();
    (!errors.is_empty()).then_some(ErrorList { errors })
}

/// Returns the message in `body`: of an error list, of a gateway's JSON, or plain
/// text. A page has none.
pub(super) fn message(body: &[u8], extent: Extent, secrets: &Secrets) -> Option<String> {
    if is_page(body) {
        return None;
    }
    if let Some(value) = parse::<Value>(body, secrets) {
        if let Some(text) = text_in(&value) {
            return secrets.clean(text, extent);
        }
        if is_empty(&value) {
            return None;
        }
    }
    let (body, extent) = match body.split_at_checked(LOOKED_AT) {
        Some((start, rest)) if !rest.is_empty() => (start, Extent::Cut),
        _ => (body, extent),
    };
    let body = secrets.redact_bytes(body, extent);
    let text = match extent {
        Extent::Whole => &body,
        Extent::Cut => whole_characters(&body),
    };
    secrets.clean(&String::from_utf8_lossy(text), extent)
}

/// Returns whether `body` is HTML or XML, with or without a byte order mark.
pub(super) fn is_page(body: &[u8]) -> bool {
    let body = body.trim_ascii_start();
    let body = without_bom(body);
    body.trim_ascii_start().starts_with(b"<")
}

/// Returns `text` without an incomplete character at its end, which would hide
/// the beginning of a secret before it.
fn whole_characters(text: &[u8]) -> &[u8] {
    let cut = text
        .utf8_chunks()
        .last()
        .map_or(0, |last| last.invalid().len());
    &text[..text.len() - cut]
}

fn text_in(value: &Value) -> Option<&str> {
    // Control-M, then Kong, Apigee, AWS, Azure, OAuth and RFC 9457.
    const PLACES: [&str; 11] = [
        "/errors/0/message",
        "/errors/0",
        "/fault/faultstring",
        "/message",
        "/Message",
        "/error/message",
        "/error_description",
        "/error",
        "/detail",
        "/title",
        "",
    ];
    PLACES
        .iter()
        .filter_map(|place| value.pointer(place)?.as_str())
        .find(|text| !text.trim().is_empty())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Returns `text` in one line: each run of white space becomes one space, and
/// characters that could rewrite a terminal or a log are dropped.
fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_whitespace() {
            if !line.is_empty() && !line.ends_with(' ') {
                line.push(' ');
            }
        } else if !character.is_control() && !changes_direction(character) {
            line.push(character);
        }
    }
    line.truncate(line.trim_end().len());
    line
}

/// Returns whether `character` changes the direction of a text (Unicode, UAX #9).
fn changes_direction(character: char) -> bool {
    matches!(
        character,
        '\u{61C}'
            | '\u{200E}'
            | '\u{200F}'
            | '\u{202A}'..='\u{202E}'
            | '\u{2066}'..='\u{2069}'
            | '\u{FEFF}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(body: &str) -> Option<String> {
        message(body.as_bytes(), Extent::Whole, &Secrets::default())
    }

    fn text_without(secret: &str, body: &str) -> String {
        let secrets = Secrets::default().and_str(secret);
        message(body.as_bytes(), Extent::Whole, &secrets).unwrap_or_default()
    }

    #[test]
    fn each_shape_of_answer_yields_its_message() {
        for (body, expected) in [
            (
                r#"{"errors":[{"message":"Failed to login"}]}"#,
                "Failed to login",
            ),
            (r#"{"errors":[{"message":"odd","line":"one"}]}"#, "odd"),
            (r#"{"errors":["plain"]}"#, "plain"),
            (
                r#"{"message":"no Route matched with those values"}"#,
                "no Route matched with those values",
            ),
            (
                r#"{"fault":{"faultstring":"Invalid ApiKey","detail":{}}}"#,
                "Invalid ApiKey",
            ),
            (r#"{"error":{"message":"nested"}}"#, "nested"),
            (r#"{"error":"invalid_request"}"#, "invalid_request"),
            (r#""quoted""#, "quoted"),
            (r#"{"code":7}"#, r#"{"code":7}"#),
            ("upstream connect error\r\n", "upstream connect error"),
        ] {
            assert_eq!(text(body).as_deref(), Some(expected), "{body}");
        }
    }

    #[test]
    fn an_empty_answer_and_a_page_have_no_message() {
        for body in [
            "",
            " \r\n",
            "{}",
            "[]",
            "null",
            "<html><head><title>502 Bad Gateway</title></head></html>",
            "\n\u{feff}\r\n<p>with a byte order mark</p>",
            "<?xml version=\"1.0\"?><fault/>",
        ] {
            assert_eq!(text(body), None, "{body}");
        }
    }

    #[test]
    fn a_text_is_one_bounded_line_without_control_characters() {
        assert_eq!(
            text("a\r\nb\u{1b}[31mc\u{0}\u{202E}d").as_deref(),
            Some("a b[31mcd")
        );
        // Each character of UAX #9, section 2, that changes the direction.
        let turned = "a\u{61C}\u{200E}\u{200F}\u{202A}\u{202B}\u{202C}\u{202D}\u{202E}\
            \u{2066}\u{2067}\u{2068}\u{2069}b";
        assert_eq!(text(turned).as_deref(), Some("ab"));
        let long = text(&"ü".repeat(100_000)).unwrap();
        assert_eq!(long.chars().count(), KEPT + 1);
    }

    #[test]
    fn an_echoed_secret_is_redacted_in_every_form() {
        for body in [
            r#"{"message":"no p\"w & <x> here"}"#,
            r#"{"unknown":"no p\"w & <x> here"}"#,
            r#"no p"w & <x> here"#,
            r#"no p"w  &\n<x> here"#,
            "no p\u{0}\"w & <x> here",
            r#"{"unknown":"no p\"w \u0026 \u003cx\u003E here"}"#,
            r#"[{"no p\u0022w & <x> here":1}]"#,
            "no p&quot;w &amp; &lt;x&gt; here",
            "no p%22w%20%26%20%3Cx%3E here",
            "no p%22w%20%26%20%3cx%3e here",
            "no p%22w+%26+%3cx%3e here",
        ] {
            let body = body.replace("\\n", "\n");
            let text = text_without("p\"w & <x>", &body);
            assert!(text.contains("no [redacted] here"), "{body}: {text}");
        }
    }

    #[test]
    fn a_secret_with_space_in_it_is_redacted_with_all_of_it_and_with_less() {
        for body in ["no p  w here", "no p w here", "no p%20%20w here"] {
            assert_eq!(text_without("p  w", body), "no [redacted] here", "{body}");
        }
    }

    #[test]
    fn json_that_redaction_would_break_is_read_as_it_is() {
        let body = r#"{"errors":[{"message":"no"}]}"#;
        assert_eq!(text_without("\":", body), "no");
    }

    #[test]
    fn of_two_secrets_the_longer_one_goes_first() {
        let secrets = Secrets::default().and_str("pass").and_str("password");
        assert_eq!(
            secrets.clean("pass password", Extent::Whole).as_deref(),
            Some("[redacted] [redacted]")
        );
    }

    #[test]
    fn where_a_text_was_cut_no_beginning_of_a_secret_remains() {
        let secrets = Secrets::default().and_str("0123456789");
        assert_eq!(
            secrets.clean("not 01234", Extent::Cut).as_deref(),
            Some("not")
        );
        assert_eq!(
            secrets.clean("not 012\u{0}34", Extent::Cut).as_deref(),
            Some("not")
        );
        let long = format!("{}0123456789", " x".repeat(LOOKED_AT / 2 - 2));
        assert!(
            !secrets
                .clean(&long, Extent::Whole)
                .unwrap()
                .contains("0123")
        );
        let wide = format!("not{}0123456789", " ".repeat(LOOKED_AT - 8));
        assert_eq!(secrets.clean(&wide, Extent::Whole).as_deref(), Some("not"));
    }

    #[test]
    fn where_a_body_is_too_long_no_beginning_of_a_secret_remains() {
        let secrets = Secrets::default().and_str("0123456789");
        for length in 0..=10 {
            let body = format!("not{}0123456789", " ".repeat(LOOKED_AT - 3 - length));
            let text = message(body.as_bytes(), Extent::Whole, &secrets);
            let expected = match length {
                10 => "not [redacted]",
                _ => "not",
            };
            assert_eq!(text.as_deref(), Some(expected), "{length}");
        }
    }

    #[test]
    fn where_a_character_was_cut_no_beginning_of_a_secret_remains() {
        let secrets = Secrets::default().and_str("01234\u{1F511}56789");
        let text = "not 01234\u{1F511}";
        for cut in 0..4 {
            let body = &text.as_bytes()[..text.len() - cut];
            let text = message(body, Extent::Cut, &secrets);
            assert_eq!(text.as_deref(), Some("not"), "{cut}");
        }
    }

    #[test]
    fn the_fields_of_an_error_list_are_cleaned_and_counted() {
        let entry =
            r#"{"message":"s3cret\n!","id":"s3cret","item":"s3cret","file":"s3cret","line":3}"#;
        let body = format!(r#"{{"errors":[{}]}}"#, vec![entry; 40].join(","));
        let list = error_list(body.as_bytes(), &Secrets::default().and_str("s3cret")).unwrap();
        assert_eq!(list.errors.len(), ERRORS_KEPT);
        assert_eq!(list.errors[0].message.as_deref(), Some("[redacted] !"));
        assert_eq!(list.errors[0].line, Some(3));
        assert!(!format!("{list:?}").contains("s3cret"));
        assert_eq!(error_list(b"{}", &Secrets::default()), None);
    }
}
