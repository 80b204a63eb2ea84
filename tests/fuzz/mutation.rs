//! Random mutations of a corpus.

use super::chance::chance;

/// Bytes that mean something to one format or another.
const TELLING: &[u8] = b"\0\t\n\r \"\\#%&'()*+,-./0129:;<=>?@AZ[]_`az{|}~\x7f\x80\xa0\xc2\xff";

/// What chance makes of a corpus.
pub(crate) struct Mutation(fastrand::Rng);

impl Mutation {
    pub(crate) fn new() -> Self {
        Self(chance())
    }

    fn below(&mut self, below: usize) -> usize {
        self.0.usize(..below.max(1))
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let end = start + self.below((length - start).min(16) + 1);
        start..end
    }

    /// One of the corpus, with one to four changes.
    pub(crate) fn of(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes, corpus);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(bytes.len());
        let place = self.range(bytes.len());
        let telling = TELLING[self.below(TELLING.len())];
        match self.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            1 if !bytes.is_empty() => bytes[at] = telling,
            2 => bytes.insert(at, telling),
            3 => drop(bytes.drain(place)),
            4 => {
                let copy = bytes[place].to_vec();
                bytes.splice(at..at, copy);
            }
            5 => bytes.truncate(at),
            // A piece of another one, as a dictionary would have it.
            _ => {
                let other = &corpus[self.below(corpus.len())];
                let piece = other[self.range(other.len())].to_vec();
                bytes.splice(place, piece);
            }
        }
    }
}
