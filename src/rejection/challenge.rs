//! Reads the parameters of challenges in `WWW-Authenticate`.

use std::borrow::Cow;

/// Returns the values of a parameter, such as `error` or `claims`, of each challenge in one
/// header value (RFC 9110, section 11.6.1).
///
/// Challenges and parameters are separated by commas alike. A parameter may follow the
/// scheme of its challenge, and its value may be a quoted string. Text that does not fit
/// the grammar is skipped up to the next comma. A quote that is not closed reaches to the
/// next quote, or to the end.
pub(crate) fn parameters<'a>(
    value: &'a [u8],
    name: &'a str,
) -> impl Iterator<Item = Cow<'a, [u8]>> {
    elements(value).filter_map(move |element| {
        let equals = element.iter().position(|byte| *byte == b'=')?;
        let (left, right) = (
            element[..equals].trim_ascii(),
            element[equals + 1..].trim_ascii(),
        );
        // A scheme may stand before it.
        let found = left.rsplit(u8::is_ascii_whitespace).next()?;
        found
            .eq_ignore_ascii_case(name.as_bytes())
            .then(|| unquoted(right))
    })
}

/// Splits a list at its commas, except at those in quoted strings.
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    value.split(move |byte| {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b',' => return !is_quoted,
            _ => {}
        }
        false
    })
}

/// Returns the value of a quoted string (RFC 9110, section 5.6.4), or a token as it is.
fn unquoted(value: &[u8]) -> Cow<'_, [u8]> {
    let Some(quoted) = value.strip_prefix(b"\"") else {
        return Cow::Borrowed(value);
    };
    let mut unquoted = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => break,
            b'\\' => unquoted.extend(bytes.next()),
            byte => unquoted.push(*byte),
        }
    }
    Cow::Owned(unquoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(value: &str) -> Vec<String> {
        let found = parameters(value.as_bytes(), "error");
        found
            .map(|error| String::from_utf8(error.into_owned()).unwrap())
            .collect()
    }

    #[test]
    fn a_parameter_is_found_in_each_challenge_in_whatever_form() {
        for (value, expected) in [
            (r#"Bearer error="invalid_token""#, vec!["invalid_token"]),
            ("Bearer error=invalid_token", vec!["invalid_token"]),
            (r#"Bearer realm="a, b", Error = "x""#, vec!["x"]),
            (
                r#"Basic realm="x", Bearer error="a", DPoP error="b""#,
                vec!["a", "b"],
            ),
            (r#", ,Bearer   realm=x ,,error="a\"b\\""#, vec![r#"a"b\"#]),
            (r#"Negotiate YWJjZA==, Bearer error="a""#, vec!["a"]),
            // Not a parameter of that name.
            (r#"Bearer realm="error=\"x\", error=y""#, vec![]),
            (r#"Bearer error_description="error", x_error="y""#, vec![]),
            ("Bearer error", vec![]),
            ("", vec![]),
            // Not terminated.
            (r#"Bearer error="a, error=b"#, vec!["a, error=b"]),
            (r#"Bearer error="a\"#, vec!["a"]),
        ] {
            assert_eq!(errors(value), expected, "{value}");
        }
    }
}
