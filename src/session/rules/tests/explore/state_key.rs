//! Compares states: equal keys are equal states.
//!
//! Times count from now, and all past times are equal. Generations are named by their
//! order. A tenth of a second makes no difference, except between past and future.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::time::Duration;

use crate::origin::Target;
use crate::session::rules::backoff::Backoff;
use crate::session::rules::candidate::Candidate;
use crate::session::rules::cooldown::{
    Bucket, CAPACITY, Cooldowns, Cooling, FORGET_AFTER, RECENTLY, REFILL_EVERY, Spacing,
    TargetState, Window,
};
use crate::session::rules::lifespan::{Idle, Lifespan};
use crate::session::rules::replaced::{Replaced, ReplacedTokens, TokenRef};
use crate::session::rules::rng::Rng;
use crate::session::rules::time::BRIEFLY;
use crate::session::rules::{
    CurrentToken, DeferredRejection, JobKind, LoginBlock, Phase, Rules, RunningJob, Timestamp,
    TokenState,
};

const ALIKE: Duration = Duration::from_millis(100);

/// Generations that are further apart than this count as this far apart.
const APART: u64 = 2;

/// A part of the state that is written to a key.
pub(super) trait WriteState {
    fn write(&self, to: &mut StateKey);
}

#[derive(Debug)]
pub(super) struct StateKey {
    now: Timestamp,
    words: Vec<u64>,
    /// The places in `words` of the generations.
    generations: Vec<(usize, u64)>,
    /// The times that were written and are still to come.
    ahead: Vec<Timestamp>,
}

impl StateKey {
    pub(super) fn at(now: Timestamp) -> Self {
        Self {
            now,
            words: Vec::with_capacity(96),
            generations: Vec::new(),
            ahead: Vec::new(),
        }
    }

    pub(super) fn number(&mut self, number: u64) {
        self.words.push(number);
    }

    pub(super) fn flag(&mut self, flag: bool) {
        self.words.push(flag.into());
    }

    pub(super) fn length(&mut self, length: Duration) {
        self.words.push(length.as_nanos() as u64);
    }

    /// Writes a time that matters until it has passed.
    pub(super) fn moment(&mut self, at: Timestamp) {
        if at > self.now {
            self.ahead.push(at);
        }
        self.quiet_moment(at);
    }

    /// Writes a time that the rules do not store.
    pub(super) fn quiet_moment(&mut self, at: Timestamp) {
        let left = at.saturating_sub(self.now);
        self.words
            .push(left.as_nanos().div_ceil(ALIKE.as_nanos()) as u64);
    }

    pub(super) fn generation(&mut self, generation: u64) {
        self.generations.push((self.words.len(), generation));
        self.words.push(0);
    }

    pub(super) fn target(&mut self, target: Target) {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        self.words.push(hasher.hash_one(target));
    }

    pub(super) fn option<T>(&mut self, option: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.flag(option.is_some());
        if let Some(some) = option {
            write(self, some);
        }
    }

    pub(super) fn each<T>(
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

    /// Returns the first future time.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.ahead.iter().copied().min()
    }

    /// Returns the key, with each generation named by its order.
    pub(super) fn finish(mut self) -> Box<[u64]> {
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

/// Getters that only the explorer needs.
impl Rules {
    pub(super) fn running(&self) -> Option<JobKind> {
        self.job_kind()
    }

    pub(super) fn is_replaced(&self, generation: u64) -> bool {
        self.replaced.contains(generation)
    }

    /// Returns until when no login starts, since the last one failed.
    pub(super) fn backs_off_until(&self) -> Option<Timestamp> {
        match self.login_block.as_deref()? {
            LoginBlock::BackingOff { until, .. } => Some(*until),
            LoginBlock::Refused { .. } => None,
        }
    }

    /// Makes all later random choices equal to the first one.
    pub(super) fn reset_jitter(&mut self, seed: u64) {
        self.rng = Rng::new(seed);
    }
}

impl WriteState for Rules {
    fn write(&self, to: &mut StateKey) {
        // Named one by one: a new field cannot be forgotten here.
        let Self {
            settings: _,
            phase,
            closed,
            current,
            candidate,
            job,
            has_new_logout,
            newest,
            next_login_reason,
            login_block,
            backoff,
            cooldowns,
            rng: _,
            logged_in_at,
            deferred_rejection,
            logouts: _,
            ending,
            replaced,
            events: _,
        } = self;
        let is_new = job.is_some_and(|job| job.is_new);
        assert!(
            !is_new && !has_new_logout,
            "taken by the event that left it"
        );
        to.number(match phase {
            Phase::Open => 0,
            Phase::LoggedOut(Ok(())) => 1,
            Phase::LoggedOut(Err(_)) => 2,
        });
        to.flag(*closed);
        to.option(current.as_ref(), |to, current| current.write(to));
        to.option(candidate.as_deref(), |to, candidate| {
            let Candidate {
                token,
                rejections,
                rejected_by,
                next_try,
            } = candidate;
            token.write(to);
            to.number((*rejections).into());
            to.option(*rejected_by, StateKey::target);
            to.option(*next_try, StateKey::moment);
        });
        // `since` only determines the reported length of the job.
        to.option(
            *job,
            |to,
             RunningJob {
                 kind, is_requested, ..
             }| match kind {
                JobKind::Login { reason, kind } => {
                    to.number(3 + reason as u64);
                    to.flag(is_requested);
                    to.number(kind as u64);
                }
                JobKind::Logout => to.number(0),
                JobKind::ChangePassword => to.number(2),
            },
        );
        to.generation(*newest);
        to.number(*next_login_reason as u64);
        // The error is reported and never looked at.
        to.option(
            login_block.as_deref(),
            |to, login_block| match login_block {
                LoginBlock::BackingOff { error: _, until } => {
                    to.number(0);
                    to.moment(*until);
                }
                LoginBlock::Refused { error: _, recheck } => {
                    to.number(1);
                    to.moment(*recheck);
                }
            },
        );
        backoff.write(to);
        cooldowns.write(to);
        to.moment(*logged_in_at + BRIEFLY);
        to.option(deferred_rejection.as_deref(), |to, deferred| {
            let DeferredRejection { generation, target } = deferred;
            to.generation(*generation);
            to.option(*target, StateKey::target);
        });
        to.each(ending, |to, token| token.write(to));
        replaced.write(to);
    }
}

impl WriteState for CurrentToken {
    fn write(&self, to: &mut StateKey) {
        let Self {
            generation,
            lifespan,
            state,
            accepted,
        } = self;
        to.generation(*generation);
        to.option(*accepted, |to, at| to.moment(at + RECENTLY));
        lifespan.write(to);
        match state {
            TokenState::Good => to.number(0),
            TokenState::Suspended(None) => to.number(1),
            TokenState::Suspended(Some(target)) => to.target(*target),
        }
    }
}

impl WriteState for TokenRef {
    fn write(&self, to: &mut StateKey) {
        let Self {
            generation,
            ends,
            logging_out,
        } = self;
        to.generation(*generation);
        to.option(*ends, StateKey::moment);
        to.flag(*logging_out);
    }
}

impl WriteState for Backoff {
    fn write(&self, to: &mut StateKey) {
        to.number(self.failures().into());
    }
}

impl WriteState for ReplacedTokens {
    fn write(&self, to: &mut StateKey) {
        let Self { tokens } = self;
        to.each(tokens, |to, replaced| {
            let Replaced {
                token,
                rejection,
                expired,
                may_end,
                in_change,
                released,
                reused,
                backoff,
                next,
            } = replaced;
            token.write(to);
            to.option(*rejection, |to, by| to.option(by.0, StateKey::target));
            to.flag(*expired);
            to.flag(*may_end);
            to.flag(*in_change);
            to.flag(*released);
            to.flag(*reused);
            backoff.write(to);
            to.moment(*next);
        });
    }
}

impl WriteState for Lifespan {
    fn write(&self, to: &mut StateKey) {
        let Self {
            ends,
            due,
            used,
            has_data: _,
            idle,
        } = self;
        to.option(*ends, StateKey::moment);
        to.option(*due, StateKey::moment);
        to.flag(*used);
        to.option(idle.as_ref(), |to, idle| {
            let Idle {
                lifetime,
                ahead,
                obtained,
                ends,
                sampled_until,
                sampled,
            } = &**idle;
            to.length(*lifetime);
            to.length(*ahead);
            to.moment(*obtained + BRIEFLY);
            to.moment(*ends);
            to.moment(*sampled_until);
            to.flag(*sampled);
        });
    }
}

impl WriteState for Cooldowns {
    fn write(&self, to: &mut StateKey) {
        let Self {
            targets,
            bucket: Bucket { full },
            spacing,
            window,
        } = self;
        to.each(targets, |to, state| state.write(to));
        // When the next one may be taken.
        to.moment(full.saturating_sub(REFILL_EVERY * (CAPACITY - 1)));
        to.quiet_moment(*full);
        to.option(spacing.as_deref(), |to, spacing| spacing.write(to));
        to.option(window.as_deref(), |to, Window { until, sampled }| {
            to.moment(*until);
            to.option(*sampled, StateKey::moment);
        });
    }
}

impl WriteState for Spacing {
    fn write(&self, to: &mut StateKey) {
        let Self { refreshes, until } = self;
        to.number((*refreshes).into());
        to.moment(*until);
    }
}

impl WriteState for TargetState {
    fn write(&self, to: &mut StateKey) {
        let Self {
            target,
            accepted,
            cooling,
        } = self;
        to.target(*target);
        to.option(*accepted, |to, at| to.moment(at + RECENTLY));
        to.option(cooling.as_ref(), |to, cooling| cooling.write(to));
    }
}

impl WriteState for Cooling {
    fn write(&self, to: &mut StateKey) {
        let Self { delay, until } = self;
        to.length(*delay);
        to.moment(*until);
        to.quiet_moment(*until + FORGET_AFTER);
    }
}
