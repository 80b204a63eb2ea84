//! Text as files and servers deliver it.

/// The byte order mark (U+FEFF) in UTF-8.
pub(crate) const BOM: &[u8] = "\u{feff}".as_bytes();

/// Returns a text without the byte order mark that some editors and servers put
/// before UTF-8.
pub(crate) fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix(BOM).unwrap_or(text)
}
