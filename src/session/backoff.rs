//! How long to leave a login system alone that failed.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// Beyond this a server's word is not taken: a mistaken header must not put a
/// session out of use for good.
const LONGEST_ASKED_FOR: Duration = Duration::from_secs(3600);

/// Exponential back-off with jitter, so that a fleet of clients does not come
/// back as one.
#[derive(Debug)]
pub(super) struct Backoff {
    failures: u32,
    random: u64,
}

impl Backoff {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            failures: 0,
            // Spread out, since xorshift starts slowly from a small number; and
            // odd, since zero is the one state that it cannot leave.
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The delay after one more failure: 0.5 s doubling to 60 s, of which up
    /// to a quarter is taken off, and no less than the server asks for.
    pub(super) fn next(&mut self, asked_for: Option<Duration>) -> Duration {
        let doublings = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        let delay = FIRST.saturating_mul(1 << doublings).min(LONGEST);
        let delay = delay - delay.mul_f64(self.random() / 4.0);
        let asked_for = asked_for.unwrap_or_default().min(LONGEST_ASKED_FOR);
        delay.max(asked_for)
    }

    /// A number from 0 up to 1, by xorshift64.
    fn random(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_minute_with_a_quarter_of_jitter() {
        let mut backoff = Backoff::new(7);
        for expected in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            let delay = backoff.next(None).as_secs_f64();
            assert!(
                delay <= expected && delay >= expected * 0.75,
                "{delay} of {expected}"
            );
        }
        backoff.reset();
        assert!(backoff.next(None) <= FIRST);
    }

    #[test]
    fn two_seeds_give_two_delays() {
        assert_ne!(Backoff::new(3).next(None), Backoff::new(5).next(None));
    }

    #[test]
    fn what_the_server_asks_for_is_honoured_within_reason() {
        let mut backoff = Backoff::new(7);
        assert_eq!(
            backoff.next(Some(Duration::from_secs(90))),
            Duration::from_secs(90)
        );
        assert_eq!(backoff.next(Some(Duration::MAX)), LONGEST_ASKED_FOR);
        assert!(backoff.next(Some(Duration::ZERO)) > Duration::ZERO);
    }
}
