//! Bounds the refreshes that rejections start, whatever the server does.
//!
//! Each such refresh takes a token from a bucket. The refreshes of tokens that nothing
//! has accepted yet are spaced, so that a token gets old enough for an API that lags
//! behind its login system. A target that rejects a token and its successor cools down.

use std::time::Duration;

use super::time::Timestamp;
use crate::origin::Target;

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);
const MAX_TARGETS: usize = 64;
pub(super) const CAPACITY: u32 = 5;
pub(super) const REFILL_EVERY: Duration = Duration::from_secs(10);

/// How long an acceptance says something about a rejection, and how long after a
/// rejection acceptances are reported.
pub(super) const RECENTLY: Duration = Duration::from_secs(10);

/// How often an acceptance is reported in that time.
pub(super) const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// How long after its cool-down the delay of a target is forgotten.
pub(super) const FORGET_AFTER: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, Default)]
pub(super) struct Cooldowns {
    /// The targets that have accepted or rejected a token lately. The newest is last.
    pub(super) targets: Vec<TargetState>,
    pub(super) bucket: Bucket,
    /// The refreshes of unproven tokens, since a token was accepted.
    // Boxed, as the next one: most sessions have none.
    pub(super) spacing: Option<Box<Spacing>>,
    /// When acceptances are reported, after a rejection.
    pub(super) window: Option<Box<Window>>,
}

/// The time after a rejection in which acceptances are reported.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) until: Timestamp,
    /// When the next acceptance is reported. `None` if it is now.
    pub(super) sampled: Option<Timestamp>,
}

/// The last outcomes of a target.
#[derive(Clone, Copy, Debug)]
pub(super) struct TargetState {
    pub(super) target: Target,
    pub(super) accepted: Option<Timestamp>,
    pub(super) cooling: Option<Cooling>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Cooling {
    pub(super) delay: Duration,
    pub(super) until: Timestamp,
}

/// Five refreshes, and one more each ten seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    /// When it holds five again.
    pub(super) full: Timestamp,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Spacing {
    pub(super) refreshes: u32,
    /// When the next one may start.
    pub(super) until: Timestamp,
}

impl Cooldowns {
    /// Returns whether a rejection by `target` is to be returned as it is.
    pub(super) fn is_cooling(&self, target: Target, now: Timestamp) -> bool {
        let mut targets = self.targets.iter();
        targets.any(|state| state.target == target && state.is_cooling(now))
    }

    /// Returns whether `target` has rejected tokens in a row, which is not forgotten yet.
    pub(super) fn has_cooled(&self, target: Target, now: Timestamp) -> bool {
        let mut targets = self.targets.iter();
        targets.any(|state| {
            let cooling = state.cooling.filter(|_| state.target == target);
            cooling.is_some_and(|cooling| !cooling.is_forgotten(now))
        })
    }

    /// A token was rejected: reports acceptances for the next ten seconds.
    pub(super) fn report_acceptances(&mut self, now: Timestamp) {
        let until = now + RECENTLY;
        match &mut self.window {
            Some(window) => window.until = until,
            None => {
                let sampled = None;
                self.window = Some(Box::new(Window { until, sampled }));
            }
        }
    }

    /// Takes a token from the bucket for a refresh that a rejection starts. Returns
    /// `false` if it may not start. `proven` tells whether the rejected token was
    /// accepted before.
    pub(super) fn spend(&mut self, proven: bool, now: Timestamp) -> bool {
        let spacing = self.spacing.as_ref().filter(|_| !proven);
        spacing.is_none_or(|spacing| spacing.until <= now) && self.bucket.take(now)
    }

    /// A refresh has yielded a token, in place of one that is `proven` or not.
    pub(super) fn refreshed(&mut self, proven: bool, now: Timestamp) {
        if !proven {
            let before = self.spacing.as_ref();
            let before = before.map_or(0, |spacing| spacing.refreshes);
            self.spacing = Some(Box::new(Spacing {
                refreshes: before + 1,
                until: now + doubled(before),
            }));
        }
    }

    /// A refresh has failed, which is not about a token.
    pub(super) fn refresh_failed(&mut self) {
        self.bucket.put_back();
    }

    /// `target` has rejected a token, and then its successor or the same one again.
    pub(super) fn unhelpful(&mut self, target: Target, now: Timestamp) {
        self.report_acceptances(now);
        let mut state = self.take(target);
        if state.accepted.is_none_or(|at| at + RECENTLY < now) {
            let before = state.cooling.filter(|cooling| !cooling.is_forgotten(now));
            let delay = match before {
                Some(before) => (before.delay * 2).min(LONGEST),
                None => SHORTEST,
            };
            let until = now + delay;
            state.cooling = Some(Cooling { delay, until });
        }
        self.put(state);
    }

    /// `target` has accepted a token.
    pub(super) fn accepted(&mut self, target: Target, now: Timestamp) {
        self.take(target);
        self.put(TargetState {
            target,
            accepted: Some(now),
            cooling: None,
        });
        if let Some(window) = &mut self.window {
            window.sampled = Some(now + SAMPLE_EVERY);
        }
    }

    /// The current token was accepted.
    pub(super) fn proven(&mut self) {
        self.spacing = None;
    }

    /// Returns whether accepted requests are to be reported.
    pub(super) fn are_reported(&self) -> bool {
        let window = self.window.as_ref();
        window.is_some_and(|window| window.sampled.is_none())
    }

    /// Returns when that changes.
    pub(super) fn next(&self) -> Option<Timestamp> {
        let window = self.window.as_ref()?;
        Some(window.sampled.unwrap_or(window.until).min(window.until))
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Timestamp) {
        self.window.take_if(|window| window.until <= now);
        if let Some(window) = &mut self.window {
            window.sampled.take_if(|until| *until <= now);
        }
    }

    /// Removes the state of `target`, or creates it, to add it at the end.
    fn take(&mut self, target: Target) -> TargetState {
        let mut targets = self.targets.iter();
        match targets.position(|state| state.target == target) {
            Some(place) => self.targets.remove(place),
            None => TargetState {
                target,
                accepted: None,
                cooling: None,
            },
        }
    }

    fn put(&mut self, state: TargetState) {
        if self.targets.len() == MAX_TARGETS {
            let mut targets = self.targets.iter();
            let oldest = targets.position(|state| state.cooling.is_none());
            self.targets.remove(oldest.unwrap_or(0));
        }
        // Most sessions have one target here.
        self.targets.reserve_exact(1);
        self.targets.push(state);
    }
}

impl TargetState {
    fn is_cooling(self, now: Timestamp) -> bool {
        self.cooling.is_some_and(|cooling| now < cooling.until)
    }
}

impl Cooling {
    pub(super) fn is_forgotten(self, now: Timestamp) -> bool {
        self.until + FORGET_AFTER <= now
    }
}

impl Bucket {
    fn take(&mut self, now: Timestamp) -> bool {
        let full = self.full.max(now) + REFILL_EVERY;
        let has_one = full <= now + REFILL_EVERY * CAPACITY;
        if has_one {
            self.full = full;
        }
        has_one
    }

    fn put_back(&mut self) {
        self.full = self.full.saturating_sub(REFILL_EVERY);
    }
}

/// Returns one second, doubled `times` times, at most five minutes.
pub(super) fn doubled(times: u32) -> Duration {
    SHORTEST.saturating_mul(1 << times.min(16)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    const NOW: Timestamp = Duration::from_secs(1000);

    fn target(number: u64) -> Target {
        Target::of(&Method::GET, &format!("/{number}"))
    }

    #[test]
    fn five_refreshes_may_start_at_once_and_one_more_each_ten_seconds() {
        let mut cooldowns = Cooldowns::default();
        let mut spend = |at| cooldowns.spend(true, at);
        assert!((0..5).all(|_| spend(NOW)));
        assert!(!spend(NOW));
        assert!(!spend(NOW + REFILL_EVERY - Duration::from_nanos(1)));
        assert!(spend(NOW + REFILL_EVERY));
        assert!(!spend(NOW + REFILL_EVERY));
        // It holds no more than five.
        let later = NOW + REFILL_EVERY * 100;
        assert!((0..5).all(|_| spend(later)));
        assert!(!spend(later));
    }

    #[test]
    fn an_acceptance_does_not_fill_the_bucket() {
        let mut cooldowns = Cooldowns::default();
        for _ in 0..5 {
            assert!(cooldowns.spend(true, NOW));
            cooldowns.refreshed(true, NOW);
            cooldowns.accepted(target(1), NOW);
            cooldowns.proven();
        }
        assert!(!cooldowns.spend(true, NOW));
    }

    #[test]
    fn refreshes_of_unproven_tokens_are_spaced_up_to_five_minutes() {
        let mut cooldowns = Cooldowns::default();
        let mut at = NOW;
        for delay in [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let delay = Duration::from_secs(delay);
            if !delay.is_zero() {
                assert!(!cooldowns.spend(false, at + delay - Duration::from_nanos(1)));
            }
            at += delay;
            assert!(cooldowns.spend(false, at), "{delay:?}");
            cooldowns.refreshed(false, at);
        }
        cooldowns.proven();
        assert!(cooldowns.spend(false, at));
    }

    #[test]
    fn a_login_that_failed_costs_nothing() {
        let mut cooldowns = Cooldowns::default();
        for _ in 0..2 * CAPACITY {
            assert!(cooldowns.spend(false, NOW));
            cooldowns.refresh_failed();
        }
    }

    #[test]
    fn a_target_cools_down_for_longer_each_time_until_it_accepts() {
        let mut cooldowns = Cooldowns::default();
        let mut at = NOW;
        for delay in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            cooldowns.unhelpful(target(1), at);
            at += Duration::from_secs(delay);
            assert!(cooldowns.is_cooling(target(1), at - Duration::from_nanos(1)));
            assert!(!cooldowns.is_cooling(target(1), at));
            assert!(!cooldowns.is_cooling(target(2), NOW));
        }
        cooldowns.unhelpful(target(1), at);
        cooldowns.accepted(target(1), at);
        assert!(!cooldowns.is_cooling(target(1), at));
        // Nor does it cool down again soon.
        cooldowns.unhelpful(target(1), at + RECENTLY);
        assert!(!cooldowns.is_cooling(target(1), at + RECENTLY));
        at += RECENTLY + Duration::from_nanos(1);
        cooldowns.unhelpful(target(1), at);
        assert!(cooldowns.is_cooling(target(1), at));
        assert!(!cooldowns.is_cooling(target(1), at + SHORTEST));
    }

    #[test]
    fn the_delay_of_a_target_is_forgotten_in_time() {
        let mut cooldowns = Cooldowns::default();
        cooldowns.unhelpful(target(1), NOW);
        let later = NOW + SHORTEST + FORGET_AFTER;
        cooldowns.unhelpful(target(1), later);
        assert!(!cooldowns.is_cooling(target(1), later + SHORTEST));
    }

    #[test]
    fn sixty_four_targets_are_kept_and_the_oldest_is_forgotten() {
        let mut cooldowns = Cooldowns::default();
        for number in 0..=64 {
            cooldowns.unhelpful(target(number), NOW);
        }
        assert!(!cooldowns.is_cooling(target(0), NOW));
        assert!((1..=64).all(|number| cooldowns.is_cooling(target(number), NOW)));
    }

    #[test]
    fn acceptances_push_no_target_out_that_cools_down() {
        let mut cooldowns = Cooldowns::default();
        cooldowns.unhelpful(target(0), NOW);
        for number in 1..=200 {
            cooldowns.accepted(target(number), NOW);
        }
        assert!(cooldowns.is_cooling(target(0), NOW));
        assert_eq!(cooldowns.targets.len(), MAX_TARGETS);
    }

    #[test]
    fn acceptances_are_reported_once_a_second_until_ten_seconds_after_a_rejection() {
        let mut cooldowns = Cooldowns::default();
        cooldowns.accepted(target(1), NOW);
        assert!(!cooldowns.are_reported());
        cooldowns.report_acceptances(NOW);
        let mut reported = 0;
        for tenth in 0..200 {
            let at = NOW + Duration::from_millis(100) * tenth;
            cooldowns.tick(at);
            if cooldowns.are_reported() {
                cooldowns.accepted(target(1), at);
                reported += 1;
            }
        }
        assert_eq!(reported, 10);
        assert_eq!(cooldowns.next(), None);
    }
}
