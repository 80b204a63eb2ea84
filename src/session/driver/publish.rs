//! Publishes tokens for the request path, and ends their publications.

use super::Driver;
use super::published::{Lease, Published};
use super::state::DriverState;
use crate::session::rules::Signal;
use crate::token::Token;

impl Driver {
    /// Keeps `token`, the candidate, unpublished.
    pub(super) fn keep_back(&self, state: &mut DriverState, token: Token) {
        state.previous = Some(token.clone());
        let same = state.users_of(&token);
        state.unlisted.extend(same);
        let published = Published::new(token, Signal::Reported, self.shared.clone());
        state.candidate = Some(Lease::new(published));
    }

    /// Publishes the candidate if it is current now, and drops it if it has ended.
    pub(super) fn settle_candidate(&self, state: &mut DriverState) {
        let Some(candidate) = state.candidate.take() else {
            return;
        };
        let generation = Some(candidate.token().generation());
        if state.rules.candidate() == generation {
            state.candidate = Some(candidate);
            return;
        }
        let same = state.users_of(candidate.token());
        if state.rules.generation() == generation {
            self.unpublish(state);
            state.leases = same;
            drop(self.published.swap(Some(candidate)));
        } else {
            candidate.set(Signal::Ended);
            state.retire(candidate, same);
        }
    }

    /// Publishes `token`, the current one.
    pub(super) fn publish_token(&self, state: &mut DriverState, token: Token) {
        // The candidate is newer.
        if state.candidate.is_none() {
            state.previous = Some(token.clone());
        }
        let same = state.users_of(&token);
        state.leases.extend(same);
        let signal = state.rules.signal().unwrap_or(Signal::Ended);
        self.swap(state, Published::new(token, signal, self.shared.clone()));
    }

    /// Publishes the current token once more, so that its earlier users can be
    /// counted apart from later ones.
    pub(super) fn republish(&self, state: &mut DriverState) {
        if let Some(published) = self.published.load_full() {
            if let Some(signal) = state.rules.signal() {
                let token = published.token().clone();
                self.swap(state, Published::new(token, signal, self.shared.clone()));
            }
            state.release(published);
        }
    }

    fn swap(&self, state: &mut DriverState, published: Published) {
        if let Some(replaced) = self.published.swap(Some(Lease::new(published))) {
            replaced.set(Signal::Ended);
            state.leases.retain(|lease| lease.strong_count() > 0);
            state.leases.push(Lease::downgrade(&replaced));
            state.release(replaced);
        }
    }

    /// Ends the publication of the current token, and keeps it while the rules refer
    /// to it.
    pub(super) fn unpublish(&self, state: &mut DriverState) {
        let Some(published) = self.published.swap(None) else {
            return;
        };
        published.set(Signal::Ended);
        let leases = std::mem::take(&mut state.leases);
        state.retire(published, leases);
    }

    /// Returns whether a request, body or holder uses the published token.
    pub(super) fn is_used(&self, published: Option<&Lease>) -> bool {
        // One for the event, and one for the publication.
        published.is_some_and(|published| Lease::strong_count(published) > 2)
    }

    /// Sets how requests may use the published token.
    pub(super) fn set_signal(&self, state: &DriverState) {
        let published = self.published.load();
        let (Some(published), Some(signal)) = (published.as_ref(), state.rules.signal()) else {
            return;
        };
        let is_lost = || state.timer.is_lost(&self.timer_task);
        published.set(match is_lost() {
            true => signal.max(Signal::Reported),
            false => signal,
        });
        // Lost since: the task may have looked at the token before.
        if is_lost() {
            published.set_reported();
        }
    }
}
