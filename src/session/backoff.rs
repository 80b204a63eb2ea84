//! How long to leave a login system alone that failed.

use std::time::Duration;

use super::jitter::Jitter;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// Beyond this a server's word is not taken: a mistaken header must not put a
/// session out of use for good.
pub(super) const LONGEST_ASKED_FOR: Duration = Duration::from_secs(3600);

/// Exponential back-off with jitter, so that a fleet of clients does not come
/// back as one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// How many failures there were in a row.
    pub(super) fn failures(self) -> u32 {
        self.failures
    }

    /// The delay after one more failure: 0.5 s doubling to 60 s, of which up
    /// to a quarter is taken off, and no less than the server asks for.
    pub(super) fn next(&mut self, asked_for: Option<Duration>, jitter: &mut Jitter) -> Duration {
        let doublings = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        let delay = FIRST.saturating_mul(1 << doublings).min(LONGEST);
        let delay = delay - jitter.quarter_of(delay);
        let asked_for = asked_for.unwrap_or_default().min(LONGEST_ASKED_FOR);
        delay.max(asked_for)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_minute_with_a_quarter_of_jitter() {
        let mut jitter = Jitter::new(7);
        let mut backoff = Backoff::default();
        for expected in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            let delay = backoff.next(None, &mut jitter).as_secs_f64();
            assert!(
                delay <= expected && delay >= expected * 0.75,
                "{delay} of {expected}"
            );
        }
        backoff.reset();
        assert!(backoff.next(None, &mut jitter) <= FIRST);
    }

    #[test]
    fn two_seeds_give_two_delays() {
        let delay = |seed| Backoff::default().next(None, &mut Jitter::new(seed));
        assert_ne!(delay(3), delay(5));
    }

    #[test]
    fn what_the_server_asks_for_is_honoured_within_reason() {
        let mut jitter = Jitter::new(7);
        let mut backoff = Backoff::default();
        assert_eq!(
            backoff.next(Some(Duration::from_secs(90)), &mut jitter),
            Duration::from_secs(90)
        );
        assert_eq!(
            backoff.next(Some(Duration::MAX), &mut jitter),
            LONGEST_ASKED_FOR
        );
        assert!(backoff.next(Some(Duration::ZERO), &mut jitter) > Duration::ZERO);
    }
}
