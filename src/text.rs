//! Text as files and servers deliver it.

use http::header::{CONTENT_ENCODING, HeaderMap, HeaderValue};

/// The byte order mark (U+FEFF) in UTF-8.
pub(crate) const BOM: &[u8] = "\u{feff}".as_bytes();

/// Returns a text without the byte order mark that some editors and servers put
/// before UTF-8.
pub(crate) fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix(BOM).unwrap_or(text)
}

/// Returns the `Content-Encoding` of a compressed body (RFC 9110, section 8.4). Any other
/// value, such as `UTF-8`, is a mistake or does not hide the text.
pub(crate) fn compression(headers: &HeaderMap) -> Option<&HeaderValue> {
    const COMPRESSIONS: [&str; 9] = [
        "gzip",
        "x-gzip",
        "deflate",
        "compress",
        "x-compress",
        "br",
        "zstd",
        "dcb",
        "dcz",
    ];
    let is_compressed = |value: &&HeaderValue| {
        let mut codings = value.as_bytes().split(|byte| *byte == b',');
        codings.any(|coding| {
            let coding = coding.trim_ascii();
            let mut compressions = COMPRESSIONS.iter();
            compressions.any(|known| coding.eq_ignore_ascii_case(known.as_bytes()))
        })
    };
    headers
        .get_all(CONTENT_ENCODING)
        .into_iter()
        .find(is_compressed)
}
