//! The form in which two states are the same.
//!
//! Times count from now, and those that are over are all alike. Generations
//! are named by their order. A tenth of a second makes no difference, except
//! between what is over and what is not.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::time::Duration;

use crate::origin::Target;
use crate::session::Moment;

const ALIKE: Duration = Duration::from_millis(100);

/// Two generations that are further apart might as well be these.
const APART: u64 = 2;

/// Something whose state can be told from another's.
pub(in crate::session) trait Canonical {
    fn write(&self, to: &mut Canon);
}

#[derive(Debug)]
pub(in crate::session) struct Canon {
    now: Moment,
    words: Vec<u64>,
    /// Where in `words` a generation is to stand.
    generations: Vec<(usize, u64)>,
    /// The times that were written and are still to come.
    ahead: Vec<Moment>,
}

impl Canon {
    pub(in crate::session) fn at(now: Moment) -> Self {
        Self {
            now,
            words: Vec::with_capacity(96),
            generations: Vec::new(),
            ahead: Vec::new(),
        }
    }

    pub(in crate::session) fn number(&mut self, number: u64) {
        self.words.push(number);
    }

    pub(in crate::session) fn flag(&mut self, flag: bool) {
        self.words.push(flag.into());
    }

    pub(in crate::session) fn length(&mut self, length: Duration) {
        self.words.push(length.as_nanos() as u64);
    }

    /// A time that is of interest until it is over.
    pub(in crate::session) fn moment(&mut self, at: Moment) {
        if at > self.now {
            self.ahead.push(at);
        }
        self.quiet_moment(at);
    }

    /// One that the rules know nothing of.
    pub(in crate::session) fn quiet_moment(&mut self, at: Moment) {
        let left = at.saturating_sub(self.now);
        self.words
            .push(left.as_nanos().div_ceil(ALIKE.as_nanos()) as u64);
    }

    pub(in crate::session) fn generation(&mut self, generation: u64) {
        self.generations.push((self.words.len(), generation));
        self.words.push(0);
    }

    pub(in crate::session) fn target(&mut self, target: Target) {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        self.words.push(hasher.hash_one(target));
    }

    pub(in crate::session) fn option<T>(
        &mut self,
        option: Option<T>,
        write: impl FnOnce(&mut Self, T),
    ) {
        self.flag(option.is_some());
        if let Some(some) = option {
            write(self, some);
        }
    }

    pub(in crate::session) fn each<T>(
        &mut self,
        all: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
        mut write: impl FnMut(&mut Self, T),
    ) {
        let all = all.into_iter();
        self.number(all.len() as u64);
        for one in all {
            write(self, one);
        }
    }

    /// The first time to come.
    pub(in crate::session) fn next(&self) -> Option<Moment> {
        self.ahead.iter().copied().min()
    }

    /// What was written, with each generation named by its order.
    pub(in crate::session) fn finish(mut self) -> Box<[u64]> {
        self.generations
            .sort_unstable_by_key(|(_, generation)| *generation);
        let mut last = self.generations.first().map_or(0, |(_, first)| *first);
        let mut name = 0;
        for (place, generation) in self.generations {
            name += (generation - last).min(APART);
            last = generation;
            self.words[place] = name;
        }
        self.words.into_boxed_slice()
    }
}
