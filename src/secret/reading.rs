//! What a text says by escapes, and where it says it.

use std::ops::Range;

use zeroize::Zeroizing;

/// A text as one reads it who knows its escapes. It is wiped on drop.
pub(super) struct Reading {
    bytes: Zeroizing<Vec<u8>>,
    /// For each byte where in the text it begins; and where the text ends.
    places: Vec<usize>,
    /// Where in `bytes` an escape begins that the text's end breaks off.
    open: Option<usize>,
}

/// A way to say what cannot be said as it is.
#[derive(Clone, Copy)]
enum Escapes {
    /// Of JSON (RFC 8259, section 7), of Rust's `Debug`, and of what is like them.
    Backslash,
    /// Of HTML, by number, and the names of what must be escaped.
    Ampersand,
    /// Of a URI (RFC 3986, section 2.1).
    Percent,
    /// Of a posted form (WHATWG URL, section 5.1).
    Form,
}

/// What begins at some place of a text.
enum Begins {
    /// What stands there, and no more.
    Itself,
    /// An escape of that many bytes.
    Character(char, usize),
    /// An escape, too, for a byte that may be a part of a character.
    Byte(u8, usize),
    /// An escape that the text's end breaks off.
    Open,
}

/// All readings of a text: as it is, by each kind of escapes, and by each kind
/// within each, for what quotes a text may be quoted. One that reads the same as
/// the text that it is of is left out.
pub(super) fn readings(text: &[u8]) -> Vec<Reading> {
    let by_each = |reading: &Reading| {
        let escapes = Escapes::ALL.into_iter();
        escapes
            .filter_map(|escapes| reading.by(escapes))
            .collect::<Vec<_>>()
    };
    let plain = Reading::of(text);
    let once = by_each(&plain);
    let twice: Vec<_> = once.iter().flat_map(by_each).collect();
    [vec![plain], once, twice].into_iter().flatten().collect()
}

impl Reading {
    fn of(text: &[u8]) -> Self {
        Self {
            bytes: Zeroizing::new(text.to_vec()),
            places: (0..=text.len()).collect(),
            open: None,
        }
    }

    /// The same by these escapes, if there are any.
    fn by(&self, escapes: Escapes) -> Option<Self> {
        let text = self.bytes.as_slice();
        if !text.iter().any(|byte| escapes.may_begin_with(*byte)) {
            return None;
        }
        // No escape is shorter than what it says, so that nothing grows, which
        // would leave a copy behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
        let mut places = Vec::with_capacity(text.len() + 1);
        let mut open = None;
        let mut at = 0;
        while at < text.len() {
            let start = bytes.len();
            let length = match escapes.at(&text[at..]) {
                Begins::Itself => {
                    bytes.push(text[at]);
                    1
                }
                Begins::Byte(byte, length) => {
                    bytes.push(byte);
                    length
                }
                Begins::Character(character, length) => {
                    // One character is no secret.
                    bytes.extend(character.encode_utf8(&mut [0; 4]).bytes());
                    length
                }
                Begins::Open => {
                    open.get_or_insert(start);
                    bytes.push(text[at]);
                    1
                }
            };
            places.resize(bytes.len(), self.places[at]);
            // What stands here may go on in what is broken off.
            let is_open = |end| end <= at || matches!(escapes.at(&text[at..end]), Begins::Open);
            if self.open.is_some_and(is_open) {
                open.get_or_insert(start);
            }
            at += length;
        }
        places.push(self.places[text.len()]);
        Some(Self {
            bytes,
            places,
            open,
        })
    }

    /// Where in the text `secret` is said.
    pub(super) fn find(&self, secret: &[u8]) -> impl Iterator<Item = Range<usize>> {
        let found = self.bytes.windows(secret.len()).enumerate();
        let found = found.filter(move |(_, found)| *found == secret);
        found.map(move |(at, _)| self.places[at]..self.places[at + secret.len()])
    }

    /// Where in the text the beginning of `secret` is said that the text's end
    /// breaks off.
    #[cfg(feature = "controlm")]
    pub(super) fn begun(&self, secret: &str) -> Option<usize> {
        let bytes = &self.bytes[..self.open.unwrap_or(self.bytes.len())];
        let mut lengths = (1..secret.len()).rev();
        let begun = lengths.find(|length| bytes.ends_with(&secret.as_bytes()[..*length]))?;
        Some(self.places[bytes.len() - begun])
    }
}

impl Escapes {
    const ALL: [Self; 4] = [Self::Backslash, Self::Ampersand, Self::Percent, Self::Form];

    fn may_begin_with(self, byte: u8) -> bool {
        match self {
            Self::Backslash => byte == b'\\',
            Self::Ampersand => byte == b'&',
            Self::Percent => byte == b'%',
            Self::Form => matches!(byte, b'%' | b'+'),
        }
    }

    /// What begins where this text does, which is not empty.
    fn at(self, text: &[u8]) -> Begins {
        match (self, text[0]) {
            (Self::Backslash, b'\\') => backslash(&text[1..]),
            (Self::Ampersand, b'&') => ampersand(&text[1..]),
            (Self::Percent | Self::Form, b'%') => match hex(&text[1..], 2) {
                Hex::Number(byte) => Begins::Byte(byte as u8, 3),
                Hex::Open => Begins::Open,
                Hex::None => Begins::Itself,
            },
            (Self::Form, b'+') => Begins::Byte(b' ', 1),
            _ => Begins::Itself,
        }
    }
}

/// What stands behind a backslash.
fn backslash(text: &[u8]) -> Begins {
    let character = match text.first() {
        None => return Begins::Open,
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'0') => '\0',
        Some(byte @ (b'"' | b'\'' | b'\\' | b'/')) => char::from(*byte),
        // As the standard library shows bytes.
        Some(b'x') => {
            return match hex(&text[1..], 2) {
                Hex::Number(byte) => Begins::Byte(byte as u8, 4),
                Hex::Open => Begins::Open,
                Hex::None => Begins::Itself,
            };
        }
        Some(b'u') if text.get(1) == Some(&b'{') => return braced(&text[2..]),
        Some(b'u') => return utf_16(&text[1..]),
        Some(_) => return Begins::Itself,
    };
    Begins::Character(character, 2)
}

/// What stands behind `\u{`.
fn braced(text: &[u8]) -> Begins {
    let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit());
    let digits = digits.count();
    match (digits, text.get(digits)) {
        (0..=6, None) => Begins::Open,
        (1..=6, Some(b'}')) => match hex(text, digits) {
            Hex::Number(number) => character(number, digits + 4),
            Hex::Open | Hex::None => Begins::Itself,
        },
        _ => Begins::Itself,
    }
}

/// What stands behind `\u`: four digits, and for what is beyond them a second
/// escape.
fn utf_16(text: &[u8]) -> Begins {
    let high = match hex(text, 4) {
        Hex::Number(high) => high,
        Hex::Open => return Begins::Open,
        Hex::None => return Begins::Itself,
    };
    if !(0xd800..0xdc00).contains(&high) {
        return character(high, 6);
    }
    let rest = &text[4..];
    let Some(low) = rest.strip_prefix(br"\u") else {
        return match br"\u".starts_with(rest) {
            true => Begins::Open,
            false => Begins::Itself,
        };
    };
    match hex(low, 4) {
        Hex::Number(low @ 0xdc00..0xe000) => {
            let beyond = ((high - 0xd800) << 10) + (low - 0xdc00);
            character(0x1_0000 + beyond, 12)
        }
        Hex::Number(_) | Hex::None => Begins::Itself,
        Hex::Open => Begins::Open,
    }
}

/// What stands behind an ampersand.
fn ampersand(text: &[u8]) -> Begins {
    /// No number of a character has more digits, but for leading zeros.
    const LONGEST: usize = 10;

    let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'#';
    let length = text.iter().take(LONGEST).take_while(is_part).count();
    match text.get(length) {
        None => return Begins::Open,
        Some(b';') => {}
        Some(_) => return Begins::Itself,
    }
    let said = match &text[..length] {
        b"amp" => '&',
        b"lt" => '<',
        b"gt" => '>',
        b"quot" => '"',
        b"apos" => '\'',
        [b'#', b'x' | b'X', digits @ ..] => return number(digits, 16, length + 2),
        [b'#', digits @ ..] => return number(digits, 10, length + 2),
        _ => return Begins::Itself,
    };
    Begins::Character(said, length + 2)
}

fn number(digits: &[u8], radix: u32, length: usize) -> Begins {
    let digits = std::str::from_utf8(digits).unwrap_or_default();
    match u32::from_str_radix(digits, radix) {
        Ok(number) => character(number, length),
        Err(_) => Begins::Itself,
    }
}

fn character(number: u32, length: usize) -> Begins {
    match char::from_u32(number) {
        Some(character) => Begins::Character(character, length),
        None => Begins::Itself,
    }
}

enum Hex {
    Number(u32),
    /// The text ends before there are enough digits.
    Open,
    None,
}

/// A number of so many digits at the start of `text`.
fn hex(text: &[u8], digits: usize) -> Hex {
    let found = &text[..digits.min(text.len())];
    if !found.iter().all(u8::is_ascii_hexdigit) {
        return Hex::None;
    }
    if found.len() < digits {
        return Hex::Open;
    }
    let number = found.iter().fold(0, |number, digit| {
        let digit = char::from(*digit).to_digit(16).unwrap_or_default();
        number << 4 | digit
    });
    Hex::Number(number)
}
