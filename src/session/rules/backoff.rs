//! How long to leave a login system alone after a failure.

use std::time::Duration;

use super::rng::Rng;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// The longest `Retry-After` that is honoured: a wrong header must not disable a
/// session for good.
pub(super) const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Exponential back-off with jitter, so that a fleet of clients does not come
/// back at the same moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns the number of failures in a row.
    pub(super) fn failures(self) -> u32 {
        self.failures
    }

    /// Returns the delay after one more failure: 0.5 s doubling to 60 s, minus
    /// up to a quarter of jitter, and at least `retry_after`.
    pub(super) fn next(&mut self, retry_after: Option<Duration>, rng: &mut Rng) -> Duration {
        let doublings = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        let delay = FIRST.saturating_mul(1 << doublings).min(LONGEST);
        let delay = delay - rng.quarter_of(delay);
        let retry_after = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
        delay.max(retry_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_minute_with_a_quarter_of_jitter() {
        let mut rng = Rng::new(7);
        let mut backoff = Backoff::default();
        for expected in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            let delay = backoff.next(None, &mut rng).as_secs_f64();
            assert!(
                delay <= expected && delay >= expected * 0.75,
                "{delay} of {expected}"
            );
        }
        backoff.reset();
        assert!(backoff.next(None, &mut rng) <= FIRST);
    }

    #[test]
    fn two_seeds_give_two_delays() {
        let delay = |seed| Backoff::default().next(None, &mut Rng::new(seed));
        assert_ne!(delay(3), delay(5));
    }

    #[test]
    fn a_retry_after_is_honoured_up_to_an_hour() {
        let mut rng = Rng::new(7);
        let mut backoff = Backoff::default();
        assert_eq!(
            backoff.next(Some(Duration::from_secs(90)), &mut rng),
            Duration::from_secs(90)
        );
        assert_eq!(
            backoff.next(Some(Duration::MAX), &mut rng),
            LONGEST_RETRY_AFTER
        );
        assert!(backoff.next(Some(Duration::ZERO), &mut rng) > Duration::ZERO);
    }
}
