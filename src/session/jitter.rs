//! Randomness for what must not happen everywhere at once.

/// A source of numbers that are spread well and need not be unguessable.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        // Spread out, since xorshift starts slowly from a small number; and
        // odd, since zero is the one state that it cannot leave.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 up to 1, by xorshift64.
    pub(super) fn fraction(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From nothing up to a quarter of `whole`.
    pub(super) fn quarter_of(&mut self, whole: std::time::Duration) -> std::time::Duration {
        whole.mul_f64(self.fraction() / 4.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_is_the_one_that_xorshift64_is_known_for() {
        let mut jitter = Jitter(88_172_645_463_325_252);
        jitter.fraction();
        assert_eq!(jitter.0, 8_748_534_153_485_358_512);
    }

    #[test]
    fn fractions_are_spread_from_nothing_up_to_one() {
        let mut jitter = Jitter::new(7);
        let mut tenths = [0; 10];
        for _ in 0..10_000 {
            tenths[(jitter.fraction() * 10.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (900..1100).contains(count)));
    }
}
