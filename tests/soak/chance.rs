//! Numbers that chance gives.

use std::time::Duration;

/// Each task has one of its own, so that it draws the same numbers whatever the
/// others do.
pub(crate) struct Chance(fastrand::Rng);

impl Chance {
    /// The one of this `number` among those of a seed.
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        let first = fastrand::Rng::with_seed(seed).u64(..);
        Self(fastrand::Rng::with_seed(first.wrapping_add(number)).fork())
    }

    pub(crate) fn below(&mut self, below: u64) -> u64 {
        self.0.u64(..below)
    }

    /// True once in so many times.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from * 1000 + self.below((to - from) * 1000))
    }
}
