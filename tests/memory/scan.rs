//! Secrets that are only in memory where somebody put them, and the search for them.

use std::fmt;
use std::fs;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;

use tower_reauth::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

const LENGTH: usize = 64;

/// A secret is found by any of its pieces, since what the allocator notes in a
/// freed block overwrites its start.
const PIECE: usize = 8;

/// Flipped in each byte of a canary that is kept.
const MASK: u8 = 0x80;

/// Added to each byte of what stands around a copy. Flipping bits twice would
/// undo it, and what stands around may have stood around another copy before.
const SHIFT: u8 = 1;

/// How much memory is read at once.
const WINDOW: usize = 1 << 20;

/// A secret that is nowhere in memory but where a test puts it.
#[derive(Clone, Copy)]
pub(crate) struct Canary {
    pub(crate) name: &'static str,
    masked: [u8; LENGTH],
}

impl Canary {
    pub(crate) fn new(name: &'static str) -> Self {
        // Steele and others' SplitMix64, seeded by the name and the process.
        let mut state = u64::from(std::process::id());
        for byte in name.bytes() {
            state = state.rotate_left(8) ^ u64::from(byte);
        }
        let masked = std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (b'a' + ((mixed ^ (mixed >> 31)) % 26) as u8) ^ MASK
        });
        Self { name, masked }
    }

    /// The same with a character in its middle that JSON escapes.
    pub(crate) fn quoted(mut self) -> Self {
        self.masked[LENGTH / 2] = b'"' ^ MASK;
        self
    }

    pub(crate) fn bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(LENGTH));
        for masked in &self.masked {
            bytes.push(masked ^ MASK);
        }
        bytes
    }

    /// As it stands between quotes in JSON.
    pub(crate) fn json(&self) -> Zeroizing<Vec<u8>> {
        let mut json = Zeroizing::new(Vec::with_capacity(2 * LENGTH));
        for masked in &self.masked {
            let byte = masked ^ MASK;
            if byte == b'"' {
                json.push(b'\\');
            }
            json.push(byte);
        }
        json
    }

    pub(crate) fn secret(&self) -> SecretString {
        let mut text = String::with_capacity(LENGTH);
        for masked in &self.masked {
            text.push(char::from(masked ^ MASK));
        }
        let secret = SecretString::from(text);
        assert_eq!(secret.expose_secret().len(), LENGTH);
        secret
    }

    /// Whether `bytes` hold it.
    pub(crate) fn is_in(&self, bytes: &[u8]) -> bool {
        let is_here = |here: &[u8]| here.iter().zip(&self.masked).all(|(a, b)| a ^ MASK == *b);
        bytes.windows(LENGTH).any(is_here)
    }

    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.masked.chunks_exact(PIECE)
    }
}

/// Where a canary, or some of it, is in memory.
pub(crate) struct Copy {
    pub(crate) name: &'static str,
    pieces: RangeInclusive<usize>,
    mapping: String,
    /// What stands around it, which most often says who put it there. Shifted,
    /// since another canary may be next to it.
    around: Vec<u8>,
}

impl fmt::Debug for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            pieces,
            mapping,
            around,
        } = self;
        let shown = around.iter().map(|byte| match byte.wrapping_sub(SHIFT) {
            byte @ b' '..=b'~' => char::from(byte),
            _ => '.',
        });
        let around: String = shown.collect();
        write!(f, "{name}, pieces {pieces:?}, in {mapping}: {around}")
    }
}

/// All copies of `canaries` in this process's writable memory.
pub(crate) fn search(canaries: &[Canary]) -> Vec<Copy> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let memory = fs::File::open("/proc/self/mem").unwrap();
    let mut window = vec![0; WINDOW];
    let own = window.as_ptr() as u64..window.as_ptr() as u64 + WINDOW as u64;
    let mut found = Vec::new();
    for mapping in maps.lines().filter(|line| is_writable(line)) {
        let (mut at, end) = range(mapping);
        while at < end {
            window.fill(0);
            let length = WINDOW.min((end - at) as usize);
            // Some memory belongs to a device, and cannot be read.
            let Ok(read) = memory.read_at(&mut window[..length], at) else {
                break;
            };
            let read = &window[..read];
            let mut pieces = pieces_in(read, canaries);
            pieces.retain(|(offset, ..)| !own.contains(&(at + *offset as u64)));
            let follows = |a: &Piece, b: &Piece| (a.0 + PIECE, a.1, a.2 + 1) == *b;
            for copy in pieces.chunk_by(follows) {
                let (offset, name, first) = copy[0];
                found.push(Copy {
                    name,
                    pieces: first..=first + copy.len() - 1,
                    mapping: mapping.to_owned(),
                    around: around(read, offset),
                });
            }
            if read.len() < PIECE || at + read.len() as u64 == end {
                break;
            }
            // A piece may lie across the edge.
            at += (read.len() - PIECE + 1) as u64;
        }
    }
    window.fill(0);
    found
}

/// Where a piece is, of which canary it is, and which of its pieces.
type Piece = (usize, &'static str, usize);

fn pieces_in(window: &[u8], canaries: &[Canary]) -> Vec<Piece> {
    let mut begins = [false; 256];
    for piece in canaries.iter().flat_map(Canary::pieces) {
        begins[usize::from(piece[0] ^ MASK)] = true;
    }
    let mut found = Vec::new();
    for at in 0..window.len().saturating_sub(PIECE - 1) {
        if !begins[usize::from(window[at])] {
            continue;
        }
        // Byte by byte: what is compared as a whole would be one more copy.
        let is_here = |piece: &[u8]| (0..PIECE).all(|i| window[at + i] ^ MASK == piece[i]);
        for canary in canaries {
            if let Some(piece) = canary.pieces().position(is_here) {
                found.push((at, canary.name, piece));
            }
        }
    }
    found
}

fn is_writable(mapping: &str) -> bool {
    mapping
        .split(' ')
        .nth(1)
        .is_some_and(|flags| flags.starts_with("rw"))
}

fn range(mapping: &str) -> (u64, u64) {
    let (range, _) = mapping.split_once(' ').unwrap();
    let (start, end) = range.split_once('-').unwrap();
    let address = |hex| u64::from_str_radix(hex, 16).unwrap();
    (address(start), address(end))
}

fn around(window: &[u8], at: usize) -> Vec<u8> {
    let around = &window[at.saturating_sub(64)..window.len().min(at + 128)];
    around.iter().map(|byte| byte.wrapping_add(SHIFT)).collect()
}
