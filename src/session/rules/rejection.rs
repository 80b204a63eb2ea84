//! The outcome of a request: rejected, accepted, or accepted with a rolled token.

use std::time::Duration;

use super::answer::{Acquire, JobKind, LoginKind, OnRejection};
use super::cooldown::RECENTLY;
use super::current::TokenState;
use super::event::{Event, TokenEnd};
use super::time::Timestamp;
use super::{DeferredRejection, Rules};
use crate::origin::Target;
use crate::provider::Reason;
use crate::reauth::ReauthFailure;

impl Rules {
    /// A response has rejected the token of this generation.
    pub(crate) fn rejected(
        &mut self,
        generation: u64,
        target: Option<Target>,
        now: Timestamp,
    ) -> OnRejection {
        if !self.is_open() {
            return OnRejection::Return(ReauthFailure::LoggedOut);
        }
        let usable = self.is_usable();
        match &self.current {
            // Late: the token was replaced in the meantime. The rejection does not
            // concern its successor.
            Some(current) if current.generation > generation => match usable {
                true => OnRejection::Replay,
                false => OnRejection::Wait,
            },
            Some(current) if current.generation < generation => {
                if let Some(candidate) = &mut self.candidate {
                    candidate.rejected(target, now);
                }
                match usable {
                    true => OnRejection::Replay,
                    false => OnRejection::Wait,
                }
            }
            Some(_) => {
                self.cooldowns.report_acceptances(now);
                self.current_rejected(generation, target, now)
            }
            // `Session::reject`: no request waits for a token.
            None if target.is_none() => OnRejection::Return(ReauthFailure::NotReplayable),
            None => match self.acquire(now) {
                Acquire::Use => OnRejection::Replay,
                Acquire::Wait => OnRejection::Wait,
                Acquire::Fail(error) => OnRejection::Return(ReauthFailure::RenewalFailed(error)),
            },
        }
    }

    fn current_rejected(
        &mut self,
        generation: u64,
        target: Option<Target>,
        now: Timestamp,
    ) -> OnRejection {
        if target.is_some_and(|target| self.cooldowns.is_cooling(target, now)) {
            return OnRejection::Return(ReauthFailure::CoolingDown);
        }
        let may_replace = match self.job_kind() {
            Some(JobKind::Login { .. }) | None => true,
            Some(JobKind::Logout | JobKind::ChangePassword) => false,
        };
        if may_replace && self.candidate.is_some() {
            if let Some(target) = target {
                self.replaced.unhelpful(target);
            }
            self.suspend(target);
            self.publish_candidate();
            return OnRejection::Replay;
        }
        match self.job_kind() {
            Some(JobKind::Login { .. }) => {
                self.suspend(target);
                return OnRejection::Wait;
            }
            // It yields no token. A waiting request asks again once it has ended, but
            // there may be no waiting request.
            Some(JobKind::ChangePassword) => {
                let deferred = DeferredRejection { generation, target };
                self.deferred_rejection = Some(Box::new(deferred));
                return OnRejection::Wait;
            }
            Some(JobKind::Logout) => return OnRejection::Wait,
            None => {}
        }
        if let Some(error) = self.blocked(now) {
            return OnRejection::Return(ReauthFailure::RenewalFailed(error));
        }
        let accepted = self.current.as_ref().and_then(|current| current.accepted);
        if self.cooldowns.spend(accepted.is_some(), now) {
            if let Some(target) = target {
                self.replaced.unhelpful(target);
            }
            self.start_login(Reason::Rejected, LoginKind::Usual, now);
            self.suspend(target);
            return OnRejection::Wait;
        }
        // One server of several may reject a token that the others accept.
        match accepted.is_some_and(|at| now <= at + RECENTLY) {
            true => OnRejection::Replay,
            false => OnRejection::Return(ReauthFailure::CoolingDown),
        }
    }

    fn suspend(&mut self, target: Option<Target>) {
        let Some(current) = &mut self.current else {
            return;
        };
        if current.state == TokenState::Good {
            current.state = TokenState::Suspended(target);
            let generation = current.generation;
            self.events.push(Event::TokenRejected { generation });
        }
    }

    /// A replay was rejected too.
    pub(crate) fn replay_rejected(&mut self, target: Target, now: Timestamp) {
        self.cooldowns.unhelpful(target, now);
        self.replaced.unhelpful(target);
        if let Some(candidate) = &mut self.candidate {
            candidate.unhelpful(target, now);
        }
    }

    /// A response has accepted the token of this generation. Its request was
    /// sent at `sent`.
    pub(crate) fn accepted(
        &mut self,
        generation: u64,
        target: Target,
        sent: Timestamp,
        now: Timestamp,
    ) {
        self.cooldowns.accepted(target, now);
        self.proven(generation, Some(target), now);
        self.extend_idle_lifetime(generation, sent, now);
    }

    /// `Session::accept` was called for the token of this generation.
    pub(crate) fn accepted_by_hand(&mut self, generation: u64, now: Timestamp) {
        self.proven(generation, None, now);
        self.extend_idle_lifetime(generation, now, now);
    }

    fn proven(&mut self, generation: u64, target: Option<Target>, now: Timestamp) {
        if self.candidate() == Some(generation) {
            self.publish_candidate();
        }
        if let Some(current) = &mut self.current
            && current.generation == generation
            // Accepted after its rejection, it may still be one that some servers reject.
            && current.state == TokenState::Good
        {
            current.accepted = Some(now);
            self.cooldowns.proven();
        }
        for dead in self.replaced.proven(generation, target, now) {
            self.ended(dead, TokenEnd::Rejected);
        }
    }

    fn extend_idle_lifetime(&mut self, generation: u64, sent: Timestamp, now: Timestamp) {
        if let Some(current) = &mut self.current
            && current.generation == generation
        {
            current.lifespan.accepted(sent, now);
        }
    }

    /// A response has carried the next value of the current token, perhaps with
    /// a new lifetime. That counts from when its request was sent.
    pub(crate) fn rolled(
        &mut self,
        lifetime: Option<Duration>,
        refresh_before: Option<Duration>,
        sent: Timestamp,
        now: Timestamp,
    ) {
        if let (Some(current), Some(lifetime)) = (&mut self.current, lifetime) {
            let (lifespan, rng) = (&mut current.lifespan, &mut self.rng);
            lifespan.set_lifetime(lifetime, refresh_before, sent, now, rng);
        }
    }
}
