//! Finds each place of a secret in one pass, and its start at the end of a text.

/// A secret to search for, by the algorithm of Knuth, Morris and Pratt.
///
/// It takes linear time also for texts such as "aaaa…", finds matches that overlap, and
/// always knows how much of the secret the text ends with. It copies nothing of the secret.
pub(super) struct Needle<'a> {
    secret: &'a [u8],
    /// For each beginning of the secret, the length of the longest shorter one that
    /// it ends with.
    borders: Vec<usize>,
}

/// A [`Needle`] on its way through a text.
pub(super) struct Search<'a> {
    needle: &'a Needle<'a>,
    matched: usize,
}

impl<'a> Needle<'a> {
    /// The secret is not empty.
    pub(super) fn new(secret: &'a str) -> Self {
        let secret = secret.as_bytes();
        let mut needle = Self {
            secret,
            borders: Vec::with_capacity(secret.len()),
        };
        needle.borders.push(0);
        let mut border = 0;
        for byte in &secret[1..] {
            border = needle.extended(border, *byte);
            needle.borders.push(border);
        }
        needle
    }

    pub(super) fn len(&self) -> usize {
        self.secret.len()
    }

    pub(super) fn search(&self) -> Search<'_> {
        Search {
            needle: self,
            matched: 0,
        }
    }

    /// Returns how much of the secret a text ends with after `byte`, if it ended with
    /// `matched` bytes, but not all, of the secret before.
    fn extended(&self, mut matched: usize, byte: u8) -> usize {
        while self.secret[matched] != byte {
            match matched.checked_sub(1) {
                Some(last) => matched = self.borders[last],
                None => return 0,
            }
        }
        matched + 1
    }
}

impl Search<'_> {
    /// Adds a byte of the text. Returns whether the secret ends with it.
    pub(super) fn push(&mut self, byte: u8) -> bool {
        self.matched = self.needle.extended(self.matched, byte);
        let is_found = self.matched == self.needle.len();
        if is_found {
            self.matched = self.needle.borders[self.matched - 1];
        }
        is_found
    }

    /// Returns how many bytes of the secret, but not all, the text ends with so far.
    pub(super) fn matched(&self) -> usize {
        self.matched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_match_and_each_start_is_found_in_random_text() {
        let mut random = fastrand::Rng::with_seed(7);
        // Two letters repeat each other in all ways.
        let mut word = |lengths| -> String {
            let length = random.usize(lengths);
            (0..length)
                .map(|_| random.choice(['a', 'b']).unwrap())
                .collect()
        };
        for _ in 0..10_000 {
            let (secret, text) = (word(1..8), word(0..24));
            let needle = Needle::new(&secret);
            let mut search = needle.search();
            for (at, byte) in text.bytes().enumerate() {
                let read = &text[..=at];
                let context = format!("{secret:?} in {read:?}");
                assert_eq!(search.push(byte), read.ends_with(&secret), "{context}");
                let mut starts = (0..secret.len()).rev();
                let longest = starts.find(|length| read.ends_with(&secret[..*length]));
                assert_eq!(Some(search.matched()), longest, "{context}");
            }
        }
    }
}
