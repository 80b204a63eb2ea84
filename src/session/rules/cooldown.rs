//! Bounds the refreshes that rejections by a forbidden target start.
//!
//! A refresh that a rejection starts counts as unhelpful until a request to the
//! same target is accepted. Until then that target cools down, and each such
//! refresh is paid from a small budget.

use std::collections::VecDeque;
use std::time::Duration;

use super::time::Timestamp;
use crate::origin::Target;

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);
const MAX_TARGETS: usize = 64;
pub(super) const BUDGET: u32 = 5;
pub(super) const REFILL_EVERY: Duration = Duration::from_secs(10);

/// How long after its cool-down an unused target is forgotten, so that accepted
/// requests do not have to be reported for ever.
const FORGET_AFTER: Duration = Duration::from_secs(600);

#[derive(Clone, Debug)]
pub(super) struct Cooldowns {
    /// The newest is at the back.
    pub(super) targets: VecDeque<Cooling>,
    pub(super) budget: u32,
    pub(super) refilled: Timestamp,
    /// The payment for the running login. Boxed: there is seldom one.
    pub(super) payment: Option<Box<Payment>>,
    /// The first generation whose acceptance shows that a refresh started by
    /// `Session::reject` helped.
    pub(super) proven_by_hand: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Cooling {
    pub(super) target: Target,
    pub(super) delay: Duration,
    pub(super) until: Timestamp,
    /// The first generation whose acceptance shows that the refresh helped.
    pub(super) proven_by: u64,
    /// Whether the refresh was started for this target, and so paid for.
    pub(super) paid: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Payment {
    pub(super) target: Option<Target>,
    /// The target's entry before the payment.
    pub(super) before: Option<Cooling>,
}

impl Cooldowns {
    pub(super) fn new() -> Self {
        Self {
            targets: VecDeque::new(),
            budget: BUDGET,
            refilled: Timestamp::ZERO,
            payment: None,
            proven_by_hand: None,
        }
    }

    /// Returns whether a rejection by `target` is to be returned as it is.
    ///
    /// Not for the target that the running login was started for: its rejections
    /// share that login.
    pub(super) fn is_cooling(&self, target: Target, now: Timestamp) -> bool {
        let being_refreshed = self
            .payment
            .as_ref()
            .is_some_and(|payment| payment.target == Some(target));
        !being_refreshed
            && self
                .targets
                .iter()
                .any(|cooling| cooling.target == target && now < cooling.until)
    }

    /// Pays for a refresh that a rejection by `target` starts. Returns `false` if
    /// the budget is used up.
    pub(super) fn spend(
        &mut self,
        target: Option<Target>,
        generation: u64,
        now: Timestamp,
    ) -> bool {
        self.refill(now);
        if self.budget == 0 {
            return false;
        }
        self.budget -= 1;
        if target.is_none() {
            self.proven_by_hand = Some(generation + 1);
        }
        let before = target.and_then(|target| self.remove(target));
        if let Some(target) = target {
            let delay = match &before {
                Some(before) => (before.delay * 2).min(LONGEST),
                None => SHORTEST,
            };
            self.insert(Cooling {
                target,
                delay,
                until: now + delay,
                proven_by: generation + 1,
                paid: true,
            });
        }
        self.payment = Some(Box::new(Payment { target, before }));
        true
    }

    /// The running login yielded a new token. Whether it helps is not known yet.
    pub(super) fn login_succeeded(&mut self) {
        self.payment = None;
    }

    /// The running login yielded the same token once more: no newer token can
    /// prove that it helped.
    pub(super) fn login_changed_nothing(&mut self) {
        let target = self.payment.take().and_then(|payment| payment.target);
        for cooling in &mut self.targets {
            if Some(cooling.target) == target {
                cooling.proven_by -= 1;
            }
        }
    }

    /// The running login failed, which is not about the target.
    pub(super) fn login_failed(&mut self) {
        let Some(payment) = self.payment.take() else {
            return;
        };
        self.budget = (self.budget + 1).min(BUDGET);
        if let Some(target) = payment.target {
            self.remove(target);
        }
        if let Some(before) = payment.before {
            self.insert(before);
        }
    }

    /// A replay with the token of this generation was rejected too: its target
    /// starts to cool down.
    pub(super) fn unhelpful(&mut self, target: Target, generation: u64, now: Timestamp) {
        // A target that shared another target's refresh has no entry yet.
        let mut cooling = self.remove(target).unwrap_or(Cooling {
            target,
            delay: SHORTEST,
            until: now,
            proven_by: generation,
            paid: false,
        });
        cooling.until = now + cooling.delay;
        self.insert(cooling);
    }

    /// A request was accepted.
    pub(super) fn accepted(&mut self, target: Target, generation: u64, now: Timestamp) {
        let mut helped = false;
        self.targets.retain(|cooling| {
            let proven = cooling.target == target && generation >= cooling.proven_by;
            helped |= proven && cooling.paid;
            !proven
        });
        if helped {
            self.fill(now);
        }
        self.targets
            .retain(|cooling| now < cooling.until + FORGET_AFTER);
    }

    /// `Session::accept` was called for the token of this generation.
    pub(super) fn accepted_by_hand(&mut self, generation: u64, now: Timestamp) {
        let proven = self.proven_by_hand.take_if(|by| generation >= *by);
        if proven.is_some() {
            self.fill(now);
        }
    }

    fn fill(&mut self, now: Timestamp) {
        self.budget = BUDGET;
        self.refilled = now;
    }

    /// Returns whether accepted requests are to be reported.
    pub(super) fn are_reported(&self) -> bool {
        !self.targets.is_empty()
    }

    fn refill(&mut self, now: Timestamp) {
        while self.budget < BUDGET && self.refilled + REFILL_EVERY <= now {
            self.budget += 1;
            self.refilled += REFILL_EVERY;
        }
        if self.budget == BUDGET {
            self.refilled = now;
        }
    }

    fn remove(&mut self, target: Target) -> Option<Cooling> {
        let place = self
            .targets
            .iter()
            .position(|cooling| cooling.target == target)?;
        self.targets.remove(place)
    }

    fn insert(&mut self, cooling: Cooling) {
        if self.targets.len() == MAX_TARGETS {
            self.targets.pop_front();
        }
        self.targets.push_back(cooling);
    }
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
    fn only_a_paid_refresh_that_helped_fills_the_budget_again() {
        let mut cooldowns = Cooldowns::new();
        for number in 1..=5 {
            assert!(cooldowns.spend(Some(target(number)), number, NOW));
            cooldowns.login_succeeded();
        }
        // A target that shared the last refresh, and is accepted later.
        cooldowns.unhelpful(target(6), 6, NOW);
        cooldowns.accepted(target(6), 6, NOW);
        assert!(!cooldowns.spend(Some(target(7)), 6, NOW));

        cooldowns.accepted(target(5), 6, NOW);
        assert!(cooldowns.spend(Some(target(7)), 6, NOW));
    }

    #[test]
    fn only_a_newer_token_proves_that_a_refresh_helped() {
        let mut cooldowns = Cooldowns::new();
        assert!(cooldowns.spend(Some(target(1)), 1, NOW));
        cooldowns.login_succeeded();
        cooldowns.accepted(target(1), 1, NOW);
        assert!(cooldowns.is_cooling(target(1), NOW));
        cooldowns.accepted(target(1), 2, NOW);
        assert!(!cooldowns.is_cooling(target(1), NOW));
    }

    #[test]
    fn only_an_accept_of_a_newer_token_proves_that_a_refresh_helped() {
        let mut cooldowns = Cooldowns::new();
        for generation in 1..=5 {
            assert!(cooldowns.spend(None, generation, NOW));
            cooldowns.login_succeeded();
        }
        cooldowns.accepted_by_hand(5, NOW);
        assert!(!cooldowns.spend(None, 6, NOW));
        cooldowns.accepted_by_hand(6, NOW);
        assert!(cooldowns.spend(None, 6, NOW));
    }

    #[test]
    fn a_login_that_failed_costs_nothing() {
        let mut cooldowns = Cooldowns::new();
        for _ in 0..2 * BUDGET {
            assert!(cooldowns.spend(None, 1, NOW));
            cooldowns.login_failed();
        }
    }

    #[test]
    fn sixty_four_targets_are_kept_and_the_oldest_is_forgotten() {
        let mut cooldowns = Cooldowns::new();
        for number in 0..=64 {
            cooldowns.unhelpful(target(number), 1, NOW);
        }
        assert!(!cooldowns.is_cooling(target(0), NOW));
        assert!((1..=64).all(|number| cooldowns.is_cooling(target(number), NOW)));
    }

    #[test]
    fn an_unused_target_is_forgotten_in_time() {
        let mut cooldowns = Cooldowns::new();
        cooldowns.unhelpful(target(1), 1, NOW);
        cooldowns.accepted(target(2), 1, NOW + SHORTEST);
        assert!(cooldowns.are_reported());
        cooldowns.accepted(target(2), 1, NOW + SHORTEST + FORGET_AFTER);
        assert!(!cooldowns.are_reported());
    }
}
