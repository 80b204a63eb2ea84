//! Watches a body for trailers that reject the token.

use std::sync::{Arc, Weak};
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::origin::Target;
use crate::session::{Driver, Timestamp};

/// How soon the trailers of a replay arrive that are as good as its head.
const AT_ONCE: Duration = Duration::from_secs(10);

/// The open outcome of a response: its trailers may reject the token.
///
/// If the body is dropped before its end, the outcome stays open.
pub(super) struct TrailerWatch {
    pub(super) generation: u64,
    /// A body does not keep the session alive.
    pub(super) driver: Weak<Driver>,
    pub(super) target: Target,
    /// When the request was sent, if it was a replay.
    pub(super) replayed_at: Option<Timestamp>,
    /// The acceptance to report if the body ends without such trailers.
    pub(super) acceptance: Option<Acceptance>,
}

/// An acceptance to report.
#[derive(Clone, Copy)]
pub(super) struct Acceptance {
    /// When the request was sent.
    pub(super) sent: Timestamp,
    pub(super) status: StatusCode,
}

impl TrailerWatch {
    /// The trailers have arrived, and with them the end of the body.
    pub(super) fn trailers_arrived(&mut self, trailers: &HeaderMap) {
        let Some(driver) = self.driver.upgrade() else {
            return;
        };
        if !driver.rejection().rejects_trailers(trailers) {
            return self.body_ended();
        }
        self.acceptance = None;
        if self.is_rejected_at_once(&driver) {
            driver.replay_rejected(self.target);
        } else if driver.needs_refresh() {
            // For the next request. Nobody waits for it.
            drop(driver.rejected(self.generation, Some(self.target), None));
        } else {
            driver.count_rejection();
        }
    }

    /// Returns whether the target has rejected the token of a replay as well. The token of
    /// a stream that ended later may have died or been replaced meanwhile.
    fn is_rejected_at_once(&self, driver: &Arc<Driver>) -> bool {
        let is_prompt = |at| driver.now().saturating_sub(at) <= AT_ONCE;
        let current = driver.usable().map(|lease| lease.token().generation());
        self.replayed_at.is_some_and(is_prompt) && current == Some(self.generation)
    }

    /// The body has ended, with no trailers that reject the token.
    pub(super) fn body_ended(&mut self) {
        let (Some(accepted), Some(driver)) = (self.acceptance.take(), self.driver.upgrade()) else {
            return;
        };
        let is_replay = self.replayed_at.is_some();
        accepted.report(&driver, self.generation, self.target, is_replay);
    }
}

impl Acceptance {
    pub(super) fn report(
        self,
        driver: &Arc<Driver>,
        generation: u64,
        target: Target,
        is_replay: bool,
    ) {
        driver.accepted(generation, target, self.sent, self.status);
        if is_replay {
            driver.count_accepted_replay();
        }
    }
}
