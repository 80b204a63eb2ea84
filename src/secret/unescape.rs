//! Decodes escapes, and keeps for each decoded byte where it came from.

use zeroize::Zeroizing;

/// A text after the escapes of one syntax were decoded. It is wiped on drop.
pub(super) struct Unescaped {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// The offset in the original text of each byte, and of the text's end.
    pub(super) offsets: Vec<usize>,
    /// How many bytes come before the first escape that the end of the text cuts off.
    pub(super) complete: usize,
}

/// A family of escapes.
#[derive(Clone, Copy)]
enum Syntax {
    /// No escapes: each byte stands for itself.
    Plain,
    /// JSON (RFC 8259, section 7), Rust's `Debug`, and similar.
    Backslash,
    /// HTML character references: by number, and the five names that HTML must escape.
    Ampersand,
    /// URIs (RFC 3986, section 2.1).
    Percent,
    /// Posted forms (WHATWG URL, section 5.1).
    Form,
}

/// The result of decoding the start of a text.
enum Decoded {
    /// Not an escape: the first byte stands for itself.
    Literal,
    /// An escape for a character, and the escape's length in bytes.
    Character(char, usize),
    /// An escape for a byte, which may be a part of a character, and its length.
    Byte(u8, usize),
    /// The start of an escape that the end of the text cuts off.
    Cut,
}

/// Decodes a text once in each way that a server may have escaped it.
///
/// The first result is the text itself. A syntax without escapes in the text is left
/// out. Escapes inside escapes are not decoded: each level multiplies the results.
pub(super) fn unescape_all(text: &[u8]) -> impl Iterator<Item = Unescaped> {
    let syntaxes = Syntax::ALL.into_iter();
    let occurring = syntaxes.filter(|syntax| syntax.occurs_in(text));
    occurring.map(|syntax| Unescaped::decode(text, syntax))
}

impl Unescaped {
    fn decode(text: &[u8], syntax: Syntax) -> Self {
        // No escape is shorter than its value, so the buffer never grows, which
        // would leave a copy of the secret behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
        let mut offsets = Vec::with_capacity(text.len() + 1);
        let mut complete = None;
        let mut at = 0;
        while at < text.len() {
            let length = match syntax.decode(&text[at..]) {
                Decoded::Literal => {
                    bytes.push(text[at]);
                    1
                }
                Decoded::Byte(byte, length) => {
                    bytes.push(byte);
                    length
                }
                Decoded::Character(character, length) => {
                    // The stack buffer is not wiped: one character is not a secret.
                    bytes.extend(character.encode_utf8(&mut [0; 4]).bytes());
                    length
                }
                Decoded::Cut => {
                    complete.get_or_insert(bytes.len());
                    bytes.push(text[at]);
                    1
                }
            };
            offsets.resize(bytes.len(), at);
            at += length;
        }
        offsets.push(text.len());
        Self {
            complete: complete.unwrap_or(bytes.len()),
            bytes,
            offsets,
        }
    }
}

impl Syntax {
    const ALL: [Self; 5] = [
        Self::Plain,
        Self::Backslash,
        Self::Ampersand,
        Self::Percent,
        Self::Form,
    ];

    fn occurs_in(self, text: &[u8]) -> bool {
        match self {
            Self::Plain => true,
            Self::Backslash => text.contains(&b'\\'),
            Self::Ampersand => text.contains(&b'&'),
            Self::Percent => text.contains(&b'%'),
            // Without a plus sign a form is escaped as a URI.
            Self::Form => text.contains(&b'+'),
        }
    }

    /// Decodes the start of `text`, which is not empty.
    fn decode(self, text: &[u8]) -> Decoded {
        match (self, text[0]) {
            (Self::Backslash, b'\\') => backslash(&text[1..]),
            (Self::Ampersand, b'&') => ampersand(&text[1..]),
            (Self::Percent | Self::Form, b'%') => hex_byte(&text[1..], 3),
            (Self::Form, b'+') => Decoded::Byte(b' ', 1),
            _ => Decoded::Literal,
        }
    }
}

/// Decodes the text behind a backslash.
fn backslash(text: &[u8]) -> Decoded {
    let character = match text.first() {
        None => return Decoded::Cut,
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'0') => '\0',
        Some(byte @ (b'"' | b'\'' | b'\\' | b'/')) => char::from(*byte),
        // As `<[u8]>::escape_ascii` writes bytes.
        Some(b'x') => return hex_byte(&text[1..], 4),
        Some(b'u') if text.get(1) == Some(&b'{') => return braced(&text[2..]),
        Some(b'u') => return utf_16(&text[1..]),
        Some(_) => return Decoded::Literal,
    };
    Decoded::Character(character, 2)
}

/// Decodes two hexadecimal digits, the end of an escape of `length` bytes.
fn hex_byte(text: &[u8], length: usize) -> Decoded {
    match hex(text, 2) {
        Hex::Number(byte) => Decoded::Byte(byte as u8, length),
        Hex::Cut => Decoded::Cut,
        Hex::Invalid => Decoded::Literal,
    }
}

/// Decodes the text behind `\u{`.
fn braced(text: &[u8]) -> Decoded {
    let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit());
    let digits = digits.count();
    match (digits, text.get(digits)) {
        (0..=6, None) => Decoded::Cut,
        (1..=6, Some(b'}')) => match hex(text, digits) {
            Hex::Number(number) => character(number, digits + 4),
            Hex::Cut | Hex::Invalid => Decoded::Literal,
        },
        _ => Decoded::Literal,
    }
}

/// Decodes the text behind `\u`: four digits, and a second escape for a
/// character above U+FFFF.
fn utf_16(text: &[u8]) -> Decoded {
    let high = match hex(text, 4) {
        Hex::Number(high) => high,
        Hex::Cut => return Decoded::Cut,
        Hex::Invalid => return Decoded::Literal,
    };
    if !(0xd800..0xdc00).contains(&high) {
        return character(high, 6);
    }
    let rest = &text[4..];
    let Some(low) = rest.strip_prefix(br"\u") else {
        return match br"\u".starts_with(rest) {
            true => Decoded::Cut,
            false => Decoded::Literal,
        };
    };
    match hex(low, 4) {
        Hex::Number(low @ 0xdc00..0xe000) => {
            let offset = ((high - 0xd800) << 10) + (low - 0xdc00);
            character(0x1_0000 + offset, 12)
        }
        Hex::Number(_) | Hex::Invalid => Decoded::Literal,
        Hex::Cut => Decoded::Cut,
    }
}

/// Decodes the text behind an ampersand.
fn ampersand(text: &[u8]) -> Decoded {
    /// No character reference is longer, leading zeros aside.
    const LONGEST: usize = 10;

    let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'#';
    let length = text.iter().take(LONGEST).take_while(is_part).count();
    match text.get(length) {
        None => return Decoded::Cut,
        Some(b';') => {}
        Some(_) => return Decoded::Literal,
    }
    let named = match &text[..length] {
        b"amp" => '&',
        b"lt" => '<',
        b"gt" => '>',
        b"quot" => '"',
        b"apos" => '\'',
        [b'#', b'x' | b'X', digits @ ..] => return number(digits, 16, length + 2),
        [b'#', digits @ ..] => return number(digits, 10, length + 2),
        _ => return Decoded::Literal,
    };
    Decoded::Character(named, length + 2)
}

fn number(digits: &[u8], radix: u32, length: usize) -> Decoded {
    let digits = std::str::from_utf8(digits).unwrap_or_default();
    match u32::from_str_radix(digits, radix) {
        Ok(number) => character(number, length),
        Err(_) => Decoded::Literal,
    }
}

fn character(number: u32, length: usize) -> Decoded {
    match char::from_u32(number) {
        Some(character) => Decoded::Character(character, length),
        None => Decoded::Literal,
    }
}

/// The result of reading hexadecimal digits.
enum Hex {
    Number(u32),
    /// The text ends before there are enough digits.
    Cut,
    /// A byte is not a digit.
    Invalid,
}

/// Reads a number of exactly `digits` digits at the start of `text`.
fn hex(text: &[u8], digits: usize) -> Hex {
    let found = &text[..digits.min(text.len())];
    if !found.iter().all(u8::is_ascii_hexdigit) {
        return Hex::Invalid;
    }
    if found.len() < digits {
        return Hex::Cut;
    }
    let number = found.iter().fold(0, |number, digit| {
        let digit = char::from(*digit).to_digit(16).unwrap_or_default();
        number << 4 | digit
    });
    Hex::Number(number)
}
