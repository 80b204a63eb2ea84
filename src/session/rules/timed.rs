//! The actions that time triggers: expiry, refresh ahead of it, logouts, reports.

use super::answer::{JobKind, LoginKind};
use super::current::{CurrentToken, TokenState};
use super::event::TokenEnd;
use super::time::{BRIEFLY, Timestamp};
use super::{LoginBlock, Rules};
use crate::provider::{LogoutEnds, Reason};

/// An action that time triggers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimedAction {
    /// The current token expires.
    Expire,
    /// The candidate expires.
    ExpireCandidate,
    /// The candidate is due to be refreshed itself.
    PublishCandidate,
    /// The next request may carry the candidate.
    TryCandidate,
    /// The next accepted request is to be reported: it extends the idle lifetime.
    SampleUse,
    /// The current token is refreshed ahead of its expiry.
    Refresh,
    /// A session that is kept alive logs in again.
    LoginAgain,
    /// A replaced token has expired, or counts as dead.
    EndReplaced,
    /// The logout of a replaced token starts.
    BackgroundLogout,
    /// The next accepted request is to be reported, or none is any more: after a
    /// rejection.
    ReportAcceptance,
}

impl Rules {
    /// Time has passed: runs the actions that are due.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        // First: an expired token is not refreshed ahead of its expiry.
        self.expire(now);
        // A token that has expired is not logged out.
        while let Some((_, action)) = self
            .timed_actions()
            .filter(|(at, _)| *at <= now)
            .min_by_key(|(at, action)| (*action == TimedAction::BackgroundLogout, *at))
        {
            // Each action changes what is due next, so the loop ends.
            match action {
                TimedAction::Expire => self.expire_current(),
                TimedAction::ExpireCandidate => self.expire_candidate(now),
                TimedAction::PublishCandidate => self.publish_candidate(),
                TimedAction::TryCandidate => {
                    if let Some(candidate) = &mut self.candidate {
                        candidate.tick(now);
                    }
                }
                TimedAction::SampleUse => {
                    if let Some(current) = &mut self.current {
                        current.lifespan.sample_use();
                    }
                }
                TimedAction::Refresh | TimedAction::LoginAgain => {
                    let reason = match &self.current {
                        Some(_) => Reason::Expiring,
                        None => self.next_login_reason,
                    };
                    let kind = LoginKind::Usual;
                    self.start(JobKind::Login { reason, kind }, now);
                }
                TimedAction::ReportAcceptance => self.cooldowns.tick(now),
                TimedAction::EndReplaced => {
                    for expired in self.replaced.expire(now) {
                        self.ended(expired, TokenEnd::Expired);
                    }
                    for dead in self.replaced.take_dead(now) {
                        self.ended(dead, TokenEnd::Rejected);
                    }
                }
                TimedAction::BackgroundLogout => self.has_new_logout = self.replaced.begin(now),
            }
        }
    }

    /// Returns when [`Rules::tick`] has something to do next.
    pub(crate) fn wake(&self) -> Option<Timestamp> {
        self.timed_actions().map(|(at, _)| at).min()
    }

    /// Lists the actions that time triggers in the present state, with their times.
    fn timed_actions(&self) -> impl Iterator<Item = (Timestamp, TimedAction)> {
        let current = self.current.as_ref();
        // A suspended token stays until the login that may replace it has ended.
        let good = current.filter(|current| current.state == TokenState::Good);
        let expires = good.and_then(|good| good.lifespan.ends());
        let candidate = self.candidate.as_deref();
        let candidate_expires = candidate.and_then(|candidate| candidate.token.lifespan.ends());
        let next_try = candidate.and_then(|candidate| candidate.next_try);
        let candidate_due = candidate.and_then(|candidate| candidate.token.lifespan.due);
        let samples = current.and_then(|current| current.lifespan.next_sample());
        let may_log_in = self.is_open() && !self.closed && self.job.is_none();
        let allowed = match self.login_block.as_deref() {
            None => Some(Timestamp::ZERO),
            Some(LoginBlock::BackingOff { until, .. }) => Some(*until),
            // Only a request causes the source to be asked again, never the timer.
            Some(LoginBlock::Refused { .. }) => None,
        };
        let wanted = match good {
            Some(_) => self.due().map(|due| (due, TimedAction::Refresh)),
            None if self.settings.keep_alive && self.next_login_reason == Reason::Expired => {
                let again = current.is_none().then(|| self.logged_in_at + BRIEFLY);
                again.map(|at| (at, TimedAction::LoginAgain))
            }
            None => None,
        };
        let refreshes = wanted
            .zip(allowed)
            .map(|((at, action), allowed)| (at.max(allowed), action));
        let logout = self
            .replaced
            .next()
            .filter(|_| self.logging_out().is_none());
        let actions = [
            expires.map(|at| (at, TimedAction::Expire)),
            candidate_expires.map(|at| (at, TimedAction::ExpireCandidate)),
            next_try.map(|at| (at, TimedAction::TryCandidate)),
            candidate_due.map(|at| (at, TimedAction::PublishCandidate)),
            samples.map(|at| (at, TimedAction::SampleUse)),
            refreshes.filter(|_| may_log_in),
            self.replaced
                .next_end()
                .map(|at| (at, TimedAction::EndReplaced)),
            logout.map(|at| (at, TimedAction::BackgroundLogout)),
            self.cooldowns
                .next()
                .map(|at| (at, TimedAction::ReportAcceptance)),
        ];
        actions.into_iter().flatten()
    }

    /// Returns when the current token is due to be refreshed ahead of its expiry.
    pub(super) fn due(&self) -> Option<Timestamp> {
        // A candidate is the next token already.
        if self.candidate.is_some() {
            return None;
        }
        let current = self.current.as_ref()?;
        current.lifespan.due(self.settings.keep_alive)
    }

    /// Ends the current token and the candidate if their lifetimes are over.
    pub(super) fn expire(&mut self, now: Timestamp) {
        let candidate = self.candidate.as_deref();
        let ends = candidate.and_then(|candidate| candidate.token.lifespan.ends());
        if ends.is_some_and(|ends| ends <= now) {
            self.expire_candidate(now);
        }
        let is_over = self.current.as_ref().is_some_and(|current| {
            current.state == TokenState::Good
                && current.lifespan.ends().is_some_and(|ends| ends <= now)
        });
        if is_over {
            self.expire_current();
        }
    }

    fn expire_current(&mut self) {
        let Some(current) = self.current.take() else {
            return;
        };
        self.next_login_reason = Reason::Expired;
        self.expired(&current);
        if let Some(candidate) = self.candidate.take() {
            // A login that did not continue it.
            self.settle_expired(false);
            self.current = Some(candidate.token);
        }
    }

    /// The candidate has expired before the current token: another refresh waits for the
    /// next use.
    fn expire_candidate(&mut self, now: Timestamp) {
        if let Some(candidate) = self.candidate.take() {
            self.expired(&candidate.token);
            if let Some(current) = &mut self.current {
                current.lifespan.refresh_failed(now);
            }
        }
    }

    /// A token has expired. Its data may still be good for the next login, and is logged
    /// out otherwise.
    fn expired(&mut self, token: &CurrentToken) {
        match self.settings.logout_ends {
            LogoutEnds::Token | LogoutEnds::User if token.lifespan.has_data => {
                let in_change = self.is_changing_password();
                let given_up = self.replaced.add_expired(token.to_ref(), in_change);
                self.give_up(given_up);
            }
            LogoutEnds::Nothing | LogoutEnds::Token | LogoutEnds::User => {
                self.ended(token.generation, TokenEnd::Expired);
            }
        }
    }
}
