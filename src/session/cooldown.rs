//! What keeps a forbidden endpoint from causing a login per request.
//!
//! A renewal that a rejection starts counts as unhelpful until a request to
//! the same target is accepted. Until then that target cools down, and each
//! such renewal is paid from a small budget.

use std::collections::VecDeque;
use std::time::Duration;

#[cfg(test)]
use super::explore::canon::{Canon, Canonical};
use super::lifecycle::Moment;
use crate::origin::Target;

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);
const REMEMBERED: usize = 64;
const BUDGET: u32 = 5;
const REFILL_EVERY: Duration = Duration::from_secs(10);

/// How long after its cool-down a target is forgotten that nobody asked for
/// again, so that accepted requests need not be looked at for ever.
const FORGET_AFTER: Duration = Duration::from_secs(600);

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Cooldowns {
    /// The one marked last is at the back.
    targets: VecDeque<Cooling>,
    budget: u32,
    refilled: Moment,
    /// What the login under way was paid with. Boxed, as there is seldom one.
    payment: Option<Box<Payment>>,
    /// The first generation whose acceptance shows that the renewal helped
    /// which was started for no target.
    proven_by_hand: Option<u64>,
}

#[derive(Clone, Debug)]
struct Cooling {
    target: Target,
    delay: Duration,
    until: Moment,
    /// The first generation whose acceptance shows that the renewal helped.
    proven_by: u64,
    /// Whether the renewal was started for this target, and so paid for.
    paid: bool,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Payment {
    target: Option<Target>,
    /// How the target stood before.
    before: Option<Cooling>,
}

impl Cooldowns {
    pub(super) fn new() -> Self {
        Self {
            targets: VecDeque::new(),
            budget: BUDGET,
            refilled: Moment::ZERO,
            payment: None,
            proven_by_hand: None,
        }
    }

    /// Whether a rejection by `target` is to be returned as it is.
    ///
    /// The target for which the login under way was started is not: its
    /// rejections share that login.
    pub(super) fn is_cooling(&self, target: Target, now: Moment) -> bool {
        let being_renewed = self
            .payment
            .as_ref()
            .is_some_and(|payment| payment.target == Some(target));
        !being_renewed
            && self
                .targets
                .iter()
                .any(|cooling| cooling.target == target && now < cooling.until)
    }

    /// Pays for a renewal that a rejection by `target` starts. `false` if the
    /// budget is used up.
    pub(super) fn spend(&mut self, target: Option<Target>, generation: u64, now: Moment) -> bool {
        self.refill(now);
        if self.budget == 0 {
            return false;
        }
        self.budget -= 1;
        if target.is_none() {
            self.proven_by_hand = Some(generation + 1);
        }
        let before = target.and_then(|target| self.forget(target));
        if let Some(target) = target {
            let delay = match &before {
                Some(before) => (before.delay * 2).min(LONGEST),
                None => SHORTEST,
            };
            self.remember(Cooling {
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

    /// The login under way brought a new token. Whether it helped is yet to be seen.
    pub(super) fn login_succeeded(&mut self) {
        self.payment = None;
    }

    /// The login under way brought the same token once more, so that nothing
    /// newer can prove it.
    pub(super) fn login_changed_nothing(&mut self) {
        let target = self.payment.take().and_then(|payment| payment.target);
        for cooling in &mut self.targets {
            if Some(cooling.target) == target {
                cooling.proven_by -= 1;
            }
        }
    }

    /// The login under way brought nothing, which says nothing of the target.
    pub(super) fn login_failed(&mut self) {
        let Some(payment) = self.payment.take() else {
            return;
        };
        self.budget = (self.budget + 1).min(BUDGET);
        if let Some(target) = payment.target {
            self.forget(target);
        }
        if let Some(before) = payment.before {
            self.remember(before);
        }
    }

    /// A replay with the token of this generation was rejected too: its target
    /// cools down from now on.
    pub(super) fn unhelpful(&mut self, target: Target, generation: u64, now: Moment) {
        // One that shared another's renewal is not known yet.
        let mut cooling = self.forget(target).unwrap_or(Cooling {
            target,
            delay: SHORTEST,
            until: now,
            proven_by: generation,
            paid: false,
        });
        cooling.until = now + cooling.delay;
        self.remember(cooling);
    }

    /// A request was accepted.
    pub(super) fn accepted(&mut self, target: Target, generation: u64, now: Moment) {
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

    /// Somebody says that a server took the token of this generation.
    pub(super) fn accepted_by_hand(&mut self, generation: u64, now: Moment) {
        let proven = self.proven_by_hand.take_if(|by| generation >= *by);
        if proven.is_some() {
            self.fill(now);
        }
    }

    fn fill(&mut self, now: Moment) {
        self.budget = BUDGET;
        self.refilled = now;
    }

    /// Whether it matters which requests are accepted.
    pub(super) fn are_watching(&self) -> bool {
        !self.targets.is_empty()
    }

    fn refill(&mut self, now: Moment) {
        while self.budget < BUDGET && self.refilled + REFILL_EVERY <= now {
            self.budget += 1;
            self.refilled += REFILL_EVERY;
        }
        if self.budget == BUDGET {
            self.refilled = now;
        }
    }

    fn forget(&mut self, target: Target) -> Option<Cooling> {
        let place = self
            .targets
            .iter()
            .position(|cooling| cooling.target == target)?;
        self.targets.remove(place)
    }

    fn remember(&mut self, cooling: Cooling) {
        if self.targets.len() == REMEMBERED {
            self.targets.pop_front();
        }
        self.targets.push_back(cooling);
    }
}

#[cfg(test)]
impl Canonical for Cooldowns {
    fn write(&self, to: &mut Canon) {
        let Self {
            targets,
            budget,
            refilled,
            payment,
            proven_by_hand,
        } = self;
        to.each(targets, |to, cooling| cooling.write(to));
        to.number((*budget).into());
        if *budget < BUDGET {
            to.moment(*refilled + REFILL_EVERY);
        }
        to.option(payment.as_deref(), |to, Payment { target, before }| {
            to.option(*target, Canon::target);
            to.option(before.as_ref(), |to, cooling| cooling.write(to));
        });
        to.option(*proven_by_hand, Canon::generation);
    }
}

#[cfg(test)]
impl Canonical for Cooling {
    fn write(&self, to: &mut Canon) {
        let Self {
            target,
            delay,
            until,
            proven_by,
            paid,
        } = self;
        to.target(*target);
        to.length(*delay);
        to.moment(*until);
        to.generation(*proven_by);
        to.flag(*paid);
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    const NOW: Moment = Duration::from_secs(1000);

    fn target(number: u64) -> Target {
        Target::of(&Method::GET, &format!("/{number}"))
    }

    #[test]
    fn only_a_renewal_that_was_paid_for_and_helped_fills_the_budget_again() {
        let mut cooldowns = Cooldowns::new();
        for number in 1..=5 {
            assert!(cooldowns.spend(Some(target(number)), number, NOW));
            cooldowns.login_succeeded();
        }
        // One that shared the last renewal, and is accepted later.
        cooldowns.unhelpful(target(6), 6, NOW);
        cooldowns.accepted(target(6), 6, NOW);
        assert!(!cooldowns.spend(Some(target(7)), 6, NOW));

        cooldowns.accepted(target(5), 6, NOW);
        assert!(cooldowns.spend(Some(target(7)), 6, NOW));
    }

    #[test]
    fn only_a_newer_token_proves_that_a_renewal_helped() {
        let mut cooldowns = Cooldowns::new();
        assert!(cooldowns.spend(Some(target(1)), 1, NOW));
        cooldowns.login_succeeded();
        cooldowns.accepted(target(1), 1, NOW);
        assert!(cooldowns.is_cooling(target(1), NOW));
        cooldowns.accepted(target(1), 2, NOW);
        assert!(!cooldowns.is_cooling(target(1), NOW));
    }

    #[test]
    fn only_a_newer_token_proves_by_hand_that_a_renewal_helped() {
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
    fn sixty_four_targets_are_remembered_and_the_one_marked_first_is_forgotten() {
        let mut cooldowns = Cooldowns::new();
        for number in 0..=64 {
            cooldowns.unhelpful(target(number), 1, NOW);
        }
        assert!(!cooldowns.is_cooling(target(0), NOW));
        assert!((1..=64).all(|number| cooldowns.is_cooling(target(number), NOW)));
    }

    #[test]
    fn a_target_that_nobody_asks_for_is_forgotten_in_time() {
        let mut cooldowns = Cooldowns::new();
        cooldowns.unhelpful(target(1), 1, NOW);
        cooldowns.accepted(target(2), 1, NOW + SHORTEST);
        assert!(cooldowns.are_watching());
        cooldowns.accepted(target(2), 1, NOW + SHORTEST + FORGET_AFTER);
        assert!(!cooldowns.are_watching());
    }
}
