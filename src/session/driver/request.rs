//! The driver's methods for requests, on the fast path and on the slow path.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, Uri, response};

use super::published::{Admission, Lease, WaitTimer};
use super::{Driver, Wait, trace};
use crate::error::Error;
use crate::origin::{Destination, Target};
use crate::provider::Challenge;
use crate::reauth::ReauthFailure;
use crate::rejection::{Rejection, is_proof};
use crate::session::rules::{Acquire, OnRejection, Timestamp};

impl Driver {
    /// Returns the driver of the session whose token is used, if the session is alive.
    pub(crate) fn of(lease: &Lease) -> Option<Arc<Self>> {
        lease.driver().upgrade()?.downcast().ok()
    }

    /// Returns the published token if it is live and `uri` matches an origin byte for
    /// byte.
    // Called once, on the fast path: a call would cost a tenth of it.
    #[inline(always)]
    pub(crate) fn live_for(&self, uri: &Uri) -> Option<Lease> {
        if !self.config().origins.matches_exactly(uri) {
            return None;
        }
        let published = self.published.load_full()?;
        published.is_live().then_some(published)
    }

    /// Returns the token that a request is to carry that can be replayed: the candidate,
    /// or `lease`, which offers that.
    pub(crate) fn candidate_or(self: &Arc<Self>, lease: Lease, target: Target) -> Lease {
        let now = self.now();
        let (candidate, _) = self.step(|state, _| {
            let generation = state.rules.try_candidate(target, now)?;
            let candidate = state.candidate.as_ref()?;
            (candidate.token().generation() == generation).then(|| candidate.clone())
        });
        candidate.unwrap_or(lease)
    }

    /// Returns the time if the outcome of a request that is about to use `lease` is to
    /// be reported.
    pub(crate) fn report_time(&self, lease: &Lease) -> Option<Timestamp> {
        (!lease.is_live()).then(|| self.now())
    }

    /// Returns whether a request with these headers passes without the token.
    #[inline]
    pub(crate) fn skips(&self, headers: &HeaderMap) -> bool {
        let names = &self.config().skip_if_present;
        !names.is_empty() && names.iter().any(|name| headers.contains_key(name))
    }

    pub(crate) fn locate(&self, uri: &Uri) -> Destination {
        self.config().origins.locate(uri)
    }

    pub(crate) fn rejection(&self) -> &Rejection {
        &self.config().rejection
    }

    /// Admits a new request, unless the session is closed.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<Admission, Error> {
        let now = self.now();
        let (admission, _) = self.step(|state, _| {
            // Under the lock: `close` sees every admitted request.
            state.rules.admit(now)?;
            Ok(Admission::new(&self.shared))
        });
        admission
    }

    /// Admits a rejected request again, even if the session was closed meanwhile.
    pub(crate) fn readmit(&self) -> Admission {
        Admission::new(&self.shared)
    }

    /// Returns the token if an admitted request may use it, regardless of its
    /// expiry.
    pub(crate) fn usable(&self) -> Option<Lease> {
        let mut published = self.published.load_full()?;
        while !published.is_usable() {
            // It may have been replaced since it was loaded.
            let newer = self.published.load_full()?;
            if Lease::ptr_eq(&newer, &published) {
                return None;
            }
            published = newer;
        }
        Some(published)
    }

    /// Returns the token if an admitted request may use it now. Unlike the request
    /// path it does not rely on the timer.
    pub(crate) fn usable_now(self: &Arc<Self>) -> Option<Lease> {
        let now = self.now();
        self.step(|state, _| state.rules.on_use(now));
        self.usable()
    }

    /// Returns whether a rejection should cause a refresh although its request is not
    /// replayed. There is no need if the request has the last handle of the session, since
    /// no other can follow, or if there is no token, since the next request logs in anyway.
    pub(crate) fn needs_refresh(self: &Arc<Self>) -> bool {
        let has_token = || {
            let rules = &self.lock().rules;
            !rules.is_open() || rules.generation().is_some()
        };
        Arc::strong_count(self) > 1 && has_token()
    }

    /// Asks for a token. `None` means that there is one; otherwise wait, and ask
    /// again.
    pub(crate) fn acquire(self: &Arc<Self>) -> Result<Option<Wait>, Error> {
        let now = self.now();
        // Before the event, which may start the very job to wait for.
        if self.usable().is_none() {
            self.not_nested()?;
        }
        match self.step(|state, _| state.rules.acquire(now)) {
            (Acquire::Use, _) => Ok(None),
            (Acquire::Wait, wait) => Ok(wait),
            (Acquire::Fail(error), _) => Err(error),
        }
    }

    /// Reports a rejection. `None` means that a replay may be sent now; otherwise
    /// wait, and report again. `Err` is the reason to return the response.
    ///
    /// `challenge` is the `WWW-Authenticate` of the response.
    pub(crate) fn report_rejection(
        self: &Arc<Self>,
        generation: u64,
        target: Option<Target>,
        challenge: Option<Box<Challenge>>,
    ) -> Result<Option<Wait>, ReauthFailure> {
        let now = self.now();
        let answer = self.step(|state, _| {
            // A running login was started for an earlier rejection, or for none.
            let is_logging_in = state.rules.is_logging_in();
            let answer = state.rules.rejected(generation, target, now);
            let may_log_in = matches!(
                answer,
                OnRejection::Wait | OnRejection::Return(ReauthFailure::RenewalFailed(_))
            );
            if may_log_in && !is_logging_in {
                state.challenge = challenge;
            }
            answer
        });
        match answer {
            (OnRejection::Replay, _) => Ok(None),
            (OnRejection::Wait, wait) => match self.not_nested() {
                Ok(()) => Ok(wait),
                Err(recursive) => Err(ReauthFailure::RenewalFailed(recursive)),
            },
            (OnRejection::Return(failure), _) => Err(failure),
        }
    }

    /// Reports that a replay was rejected too.
    pub(crate) fn replay_rejected(self: &Arc<Self>, target: Target) {
        let now = self.now();
        self.step(|state, _| {
            state.counters.rejections += 1;
            state.rules.replay_rejected(target, now);
        });
    }

    /// Logs once that the body of a response with this `Content-Encoding` cannot be searched.
    #[cold]
    pub(crate) fn warn_of_compression(&self, status: StatusCode, encoding: &HeaderValue) {
        let has_warned = std::mem::replace(&mut self.lock().has_warned_of_compression, true);
        if !has_warned {
            trace::unreadable(self.name(), status, encoding);
        }
    }

    /// Counts a rejection.
    pub(crate) fn count_rejection(&self) {
        self.lock().counters.rejections += 1;
    }

    /// Counts a replay that is about to be sent.
    pub(crate) fn count_replay(&self, generation: u64) {
        self.lock().counters.replays += 1;
        trace::replay(self.name(), generation);
    }

    /// Counts a replay that was accepted.
    pub(crate) fn count_accepted_replay(&self) {
        self.lock().counters.accepted_replays += 1;
    }

    /// Counts a request as waiting, until the result drops.
    pub(super) fn start_waiting(&self) -> WaitTimer {
        WaitTimer::start(&self.shared)
    }

    /// Reports that the server did not reject a request that was sent at `sent`, and
    /// answered with this status.
    pub(crate) fn accepted(
        self: &Arc<Self>,
        generation: u64,
        target: Target,
        sent: Timestamp,
        status: StatusCode,
    ) {
        if is_proof(status) {
            let now = self.now();
            self.step(|state, _| state.rules.accepted(generation, target, sent, now));
        }
    }

    /// Takes the next value of the token from a response, if it carries one.
    pub(crate) fn roll(
        self: &Arc<Self>,
        generation: u64,
        sent: Timestamp,
        response: &response::Parts,
    ) {
        let Some(rolling) = &self.config().rolling else {
            return;
        };
        let mut rolled = false;
        while !rolled {
            let Some(published) = self.published.load_full() else {
                return;
            };
            let token = published.token();
            if token.generation() != generation {
                return;
            }
            // Foreign code, so not under the lock. If another response comes
            // first, this one is applied to its result.
            let Some(next) = rolling.next(&token.clone().with_lifetime(None), response) else {
                return;
            };
            let lifetime = next.lifetime();
            let next = next.with_lifetime(lifetime.or(token.lifetime()));
            let now = self.now();
            (rolled, _) = self.step(|state, current| {
                let is_current = current.is_some_and(|current| Lease::ptr_eq(current, &published));
                if is_current {
                    let before = self.config().refresh_before;
                    state.rules.rolled(lifetime, before, sent, now);
                    let was_offered = state.previous.is_some();
                    self.publish_token(state, next.of_generation(generation));
                    // A login without an answer may have used up the provider's data. The
                    // rolled value does not bring it back.
                    if !was_offered {
                        state.previous = None;
                    }
                }
                is_current
            });
        }
    }
}
