//! Text as files and servers deliver it.

/// Returns a text without the byte order mark (U+FEFF) that some editors and servers put
/// before UTF-8.
pub(crate) fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}
