//! The state of a driver that its lock guards.

use std::sync::Arc;

use super::events::Emitter;
use super::published::{Lease, Published, Retired, WeakLeases, users};
use super::stats::Counters;
use super::task::Task;
use super::timer::Timer;
use crate::provider::{Challenge, PasswordChange};
use crate::session::rules::{Event, Launch, Rules};
use crate::token::Token;

/// The state that the lock guards.
pub(super) struct DriverState {
    pub(super) rules: Rules,
    pub(super) job: Option<Arc<Task>>,
    /// The running logout of a replaced token, beside the job.
    pub(super) background_logout: Option<Arc<Task>>,
    /// A newer token that is not published yet.
    pub(super) candidate: Option<Lease>,
    /// The token of the newest login, for providers that extend or exchange it.
    pub(super) previous: Option<Token>,
    /// Earlier publications of the current token that may still be in use.
    pub(super) leases: Vec<WeakLeases>,
    /// Tokens that are no longer current, and that the rules still refer to.
    pub(super) retired: Vec<Retired>,
    /// Publications of other tokens that may still be in use.
    pub(super) unlisted: Vec<WeakLeases>,
    /// The password change to launch.
    pub(super) change: Option<Box<PasswordChange>>,
    /// The challenge of the rejection that the next login for
    /// [`Reason::Rejected`] is about.
    // Boxed: most sessions never have one.
    pub(super) challenge: Option<Box<Challenge>>,
    pub(super) timer: Timer,
    pub(super) counters: Counters,
    /// Whether the last use of a publication has ended under the lock.
    pub(super) has_released: bool,
    /// Whether it was logged that a compressed body cannot be searched.
    pub(super) has_warned_of_compression: bool,
}

impl DriverState {
    /// Returns whether the last use of a replaced token has ended and was not yet
    /// reported to the rules.
    pub(super) fn has_unreported_release(&self) -> bool {
        let is_unreported =
            |retired: &Retired| self.rules.is_waiting_for(retired.token.generation());
        self.retired
            .iter()
            .any(|retired| retired.users() == 0 && is_unreported(retired))
    }

    /// Returns how many requests, bodies and holders use a token that is no
    /// longer published. A session that is closed has no candidate.
    pub(super) fn users(&self) -> usize {
        let retired: usize = self.retired.iter().map(Retired::users).sum();
        retired + users(&self.leases) + users(&self.unlisted)
    }

    /// Drops the tokens that the rules no longer refer to.
    pub(super) fn prune(&mut self) {
        for retired in std::mem::take(&mut self.retired) {
            match self.rules.is_retired(retired.token.generation()) {
                true => self.retired.push(retired),
                false => self.unlisted.extend(retired.leases),
            }
        }
        self.unlisted.retain(|lease| lease.strong_count() > 0);
    }

    /// Returns the earlier publications of `token` that may still be in use. A replaced
    /// token that is yielded again must not be logged out.
    pub(super) fn users_of(&mut self, token: &Token) -> Vec<WeakLeases> {
        let mut same = Vec::new();
        for retired in &mut self.retired {
            if token.repeats(&retired.token) {
                self.rules.reused(retired.token.generation());
                same.append(&mut retired.leases);
            }
        }
        for lease in std::mem::take(&mut self.unlisted) {
            let Some(published) = lease.upgrade() else {
                continue;
            };
            match token.repeats(published.token()) {
                true => same.push(lease),
                false => self.unlisted.push(lease),
            }
            self.release(published);
        }
        same
    }

    /// Keeps a token that is no longer published, while the rules refer to it.
    pub(super) fn retire(&mut self, published: Lease, mut leases: Vec<WeakLeases>) {
        leases.push(Lease::downgrade(&published));
        let token = published.token().clone();
        self.release(published);
        self.retired.push(Retired { token, leases });
    }

    /// Ends one use of a publication under the lock.
    pub(super) fn release(&mut self, published: Lease) {
        self.has_released |= Published::release(published);
    }

    /// Counts the events and queues them for receivers, in order.
    pub(super) fn emit(&mut self, emitter: &Emitter) -> Vec<Event> {
        let events = self.rules.take_events();
        for event in &events {
            self.counters.count(event);
        }
        emitter.queue(&events);
        events
    }

    /// Returns the place of the running job, or of the background logout.
    pub(super) fn running(&mut self, launch: Launch) -> &mut Option<Arc<Task>> {
        match launch {
            Launch::Job(_) => &mut self.job,
            Launch::BackgroundLogout { .. } => &mut self.background_logout,
        }
    }

    /// Returns the replaced token whose logout is running.
    pub(super) fn logging_out(&self) -> Option<(Arc<Task>, Token)> {
        let (job, generation) = self
            .background_logout
            .clone()
            .zip(self.rules.logging_out())?;
        Some((job, self.retired(generation)))
    }

    pub(super) fn retired(&self, generation: u64) -> Token {
        let retired = self
            .retired
            .iter()
            .find(|retired| retired.token.generation() == generation);
        retired
            .expect("a token is kept for as long as the rules refer to it")
            .token
            .clone()
    }

    /// Returns whether `token` is the newest one of those that are no longer current.
    pub(super) fn is_newest_retired(&self, token: &Token) -> bool {
        let retired = self.retired.iter().map(|retired| &retired.token);
        let newest = retired.max_by_key(|token| token.generation());
        newest.is_some_and(|newest| token.repeats(newest))
    }

    /// Returns the tokens that a logout is to end, without the one whose logout is
    /// running.
    pub(super) fn ending(&self) -> Vec<Token> {
        let logging_out = self.rules.logging_out();
        let ending = self.rules.ending().into_iter();
        let ending = ending.filter(|generation| Some(*generation) != logging_out);
        ending.map(|generation| self.retired(generation)).collect()
    }
}
