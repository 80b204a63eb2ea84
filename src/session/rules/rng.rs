//! Randomness for jitter, so that clients do not act at the same moment.

/// A small generator of well spread numbers. They need not be unpredictable.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        // Multiplied, since xorshift starts slowly from a small number; and
        // odd, since zero is the one state that it cannot leave.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Returns a number from 0 up to 1, by xorshift64.
    pub(super) fn fraction(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns a duration from zero up to a quarter of `whole`.
    pub(super) fn quarter_of(&mut self, whole: std::time::Duration) -> std::time::Duration {
        whole.mul_f64(self.fraction() / 4.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_is_that_of_the_published_xorshift64() {
        let mut rng = Rng(88_172_645_463_325_252);
        rng.fraction();
        assert_eq!(rng.0, 8_748_534_153_485_358_512);
    }

    #[test]
    fn fractions_are_spread_evenly_from_zero_to_one() {
        let mut rng = Rng::new(7);
        let mut tenths = [0; 10];
        for _ in 0..10_000 {
            tenths[(rng.fraction() * 10.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (900..1100).contains(count)));
    }
}
