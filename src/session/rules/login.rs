//! Which requests get a token, when a login starts, and its outcome.

use std::time::Duration;

use super::answer::{Acquire, JobKind, JobStart, LoginKind, LoginOutcome, NewToken, Signal};
use super::backoff::LONGEST_RETRY_AFTER;
use super::candidate::Candidate;
use super::current::{CurrentToken, TokenState};
use super::event::{Event, TokenEnd};
use super::lifespan::{Lifespan, Lifetimes, end_of};
use super::replaced::TokenRef;
use super::time::Timestamp;
use super::{LoginBlock, Rules, RunningJob};
use crate::error::{Error, ErrorKind};
use crate::origin::Target;
use crate::provider::{LogoutEnds, Reason};

/// The shortest interval at which the source of the credentials is asked again
/// after a refusal.
const RECHECK_EVERY: Duration = Duration::from_secs(10);

impl Rules {
    /// Sets the token that the session starts with.
    pub(crate) fn set_initial(&mut self, lifetimes: Lifetimes) -> u64 {
        self.set_current(lifetimes, Timestamp::ZERO, Timestamp::ZERO)
    }

    /// A new request arrives. A closed session turns it away.
    pub(crate) fn admit(&mut self, now: Timestamp) -> Result<(), Error> {
        if self.closed {
            return Err(Error::new(ErrorKind::Closed));
        }
        self.on_use(now);
        Ok(())
    }

    /// A request is about to use the token, if there is a usable one.
    pub(crate) fn on_use(&mut self, now: Timestamp) {
        self.expire(now);
        if !self.is_usable() {
            return;
        }
        if let Some(current) = &mut self.current {
            current.lifespan.used();
        }
        // The source is asked again only while requests come.
        let is_due = self.due().is_some_and(|due| due <= now);
        let is_refused = matches!(
            self.login_block.as_deref(),
            Some(LoginBlock::Refused { .. })
        );
        let may_ask = is_due && is_refused && self.job.is_none() && !self.closed;
        if may_ask && self.blocked(now).is_none() {
            self.start_login(Reason::Expiring, LoginKind::Usual, now);
        }
        self.tick(now);
    }

    /// A caller needs a token.
    pub(crate) fn acquire(&mut self, now: Timestamp) -> Acquire {
        if !self.is_open() {
            return Acquire::Fail(self.session_over());
        }
        self.expire(now);
        if self.is_usable() {
            self.on_use(now);
            return Acquire::Use;
        }
        if self.job.is_some() {
            return Acquire::Wait;
        }
        if let Some(error) = self.blocked(now) {
            return Acquire::Fail(error);
        }
        self.start_login(self.next_login_reason, LoginKind::Usual, now);
        Acquire::Wait
    }

    /// Returns how many times a logout was asked for.
    pub(crate) fn logouts(&self) -> u32 {
        self.logouts
    }

    /// An operator asks for one login, whatever happened before. `logouts` is
    /// the number of logouts at the time of the call: a later one wins.
    pub(crate) fn login(&mut self, logouts: u32, now: Timestamp) -> JobStart {
        if self.closed || logouts < self.logouts {
            return JobStart::Fail(self.session_over());
        }
        match self.job_kind() {
            // Not after a logout: the token of that login is not to be used.
            Some(JobKind::Login {
                kind: LoginKind::Forced,
                ..
            }) if self.is_open() => JobStart::Join,
            Some(JobKind::Login { .. } | JobKind::Logout | JobKind::ChangePassword) => {
                JobStart::Busy
            }
            None => {
                self.reopen();
                self.start_login(Reason::Requested, LoginKind::Forced, now);
                JobStart::Started
            }
        }
    }

    /// A caller asks for a new token, if a login may start now.
    pub(crate) fn renew(&mut self, now: Timestamp) -> JobStart {
        if self.closed || !self.is_open() {
            return JobStart::Fail(self.session_over());
        }
        match &mut self.job {
            Some(RunningJob {
                kind: JobKind::Login { .. },
                is_requested,
                ..
            }) => {
                *is_requested = true;
                return JobStart::Join;
            }
            Some(_) => return JobStart::Busy,
            None => {}
        }
        if let Some(error) = self.blocked(now) {
            return JobStart::Fail(error);
        }
        self.start_login(Reason::Requested, LoginKind::Usual, now);
        JobStart::Started
    }

    /// A request that can be replayed is about to be sent. Returns the candidate if the
    /// request is to carry that instead of the current token: not if its target has
    /// rejected tokens in a row lately, which would say nothing.
    pub(crate) fn try_candidate(&mut self, target: Target, now: Timestamp) -> Option<u64> {
        if self.signal() != Some(Signal::Offered) || self.cooldowns.has_cooled(target, now) {
            return None;
        }
        let candidate = self.candidate.as_deref_mut()?;
        candidate.tried(now);
        Some(candidate.token.generation)
    }

    /// The running login has yielded a token.
    pub(crate) fn login_landed(&mut self, new: NewToken, now: Timestamp) -> LoginOutcome {
        let is_refresh = self.is_refreshing();
        let is_requested = self.job.is_some_and(|job| job.is_requested);
        let (reason, elapsed) = self.finish_job(now);
        if !self.is_open() {
            if is_refresh {
                self.cooldowns.refresh_failed();
            }
            return self.end_late_login(new, reason, elapsed, now);
        }
        if is_refresh {
            let replaced = self.current.as_ref();
            let proven = replaced.is_some_and(|replaced| replaced.accepted.is_some());
            self.cooldowns.refreshed(proven, now);
        }
        self.login_block = None;
        self.backoff.reset();
        self.logged_in_at = now;
        let is_ahead = reason == Reason::Expiring && !is_requested;
        let is_kept_back = is_ahead && self.is_kept_back(new, now);
        let (generation, outcome) = match &mut self.current {
            Some(current) if new.same => {
                // It was rejected: whether it is good now is not known.
                current
                    .accepted
                    .take_if(|_| current.state != TokenState::Good);
                current.state = TokenState::Good;
                current.lifespan = Lifespan::new(new.lifetimes, new.sent, now, &mut self.rng);
                let generation = current.generation;
                (generation, LoginOutcome::Unchanged { generation })
            }
            Some(_) if is_kept_back => {
                self.settle_expired(false);
                let token = self.new_token(new.lifetimes, new.sent, now);
                let generation = token.generation;
                self.candidate = Some(Box::new(Candidate::new(token)));
                (generation, LoginOutcome::Keep { generation })
            }
            Some(_) | None => {
                self.settle_expired(new.continues || new.same);
                // It continues the newest token, which may not be the current one.
                let newest = self.newest;
                let continues = |token: &CurrentToken| new.continues && token.generation == newest;
                let candidate = self.candidate.take();
                if let Some(current) = self.current.take() {
                    self.replace(&current, continues(&current));
                }
                if let Some(candidate) = candidate {
                    self.replace(&candidate.token, continues(&candidate.token));
                }
                // A candidate that `close()` has given up.
                let mut ending = self.ending.iter();
                let ended = ending.position(|token| new.continues && token.generation == newest);
                if let Some(ended) = ended {
                    self.ending.remove(ended);
                    self.ended(newest, TokenEnd::Continued);
                }
                let generation = self.set_current(new.lifetimes, new.sent, now);
                (generation, LoginOutcome::Publish { generation })
            }
        };
        self.events.push(Event::LoggedIn {
            reason,
            generation,
            elapsed,
        });
        outcome
    }

    /// Returns whether a token that was refreshed ahead of time waits until it is proven,
    /// since the current one is good.
    fn is_kept_back(&self, new: NewToken, now: Timestamp) -> bool {
        let is_good = |current: &CurrentToken| {
            let is_over = current.lifespan.ends().is_some_and(|ends| ends <= now);
            current.state == TokenState::Good && current.accepted.is_some() && !is_over
        };
        let may_both_live = !new.continues && !self.settings.single_session;
        may_both_live && !self.closed && self.current.as_ref().is_some_and(is_good)
    }

    /// A login has yielded a token after the session was logged out. It may be the
    /// newest one that is still to be logged out.
    fn end_late_login(
        &mut self,
        new: NewToken,
        reason: Reason,
        elapsed: Duration,
        now: Timestamp,
    ) -> LoginOutcome {
        let lifetime = new.lifetimes.absolute.filter(|_| !new.lifetimes.has_data);
        let ends = lifetime.and_then(|lifetime| end_of(lifetime, new.sent, now));
        let newest = self.ending.iter_mut().max_by_key(|token| token.generation);
        let same = newest.filter(|_| new.same).map(|same| {
            same.ends = ends;
            same.generation
        });
        let generation = same.unwrap_or(self.newest + 1);
        self.newest = self.newest.max(generation);
        self.events.push(Event::LoggedIn {
            reason,
            generation,
            elapsed,
        });
        if same.is_none() {
            self.end_at_logout(TokenRef::new(generation, ends));
        }
        self.end_leftovers(now);
        LoginOutcome::End { generation }
    }

    /// The running login has failed. Returns the error for its waiters.
    pub(crate) fn login_failed(&mut self, error: Error, now: Timestamp) -> Error {
        if self.is_refreshing() {
            self.cooldowns.refresh_failed();
        }
        let (reason, elapsed) = self.finish_job(now);
        self.replaced.login_failed();
        if let Some(current) = &mut self.current {
            current.state = TokenState::Good;
        }
        self.expire(now);
        let error = match self.is_open() {
            true => self.on_login_error(error, now),
            false => {
                self.end_leftovers(now);
                self.session_over()
            }
        };
        self.events.push(Event::LoginFailed {
            reason,
            error: error.clone(),
            elapsed,
        });
        error
    }

    /// Decides when the next login may start. Returns the error to report.
    fn on_login_error(&mut self, error: Error, now: Timestamp) -> Error {
        let is_refusal = match error.kind() {
            ErrorKind::Refused | ErrorKind::PasswordExpired | ErrorKind::InteractionRequired => {
                true
            }
            // Not a failure of the login system: another runtime may log in at once.
            ErrorKind::NoRuntime => {
                if !matches!(
                    self.login_block.as_deref(),
                    Some(LoginBlock::Refused { .. })
                ) {
                    return error;
                }
                false
            }
            ErrorKind::LoggedOut
            | ErrorKind::Closed
            | ErrorKind::Locked
            | ErrorKind::Unavailable
            | ErrorKind::Protocol
            | ErrorKind::Uncertain
            | ErrorKind::Unsupported
            | ErrorKind::TokenRejected
            | ErrorKind::DeadlineExceeded
            | ErrorKind::ProviderPanicked
            | ErrorKind::Recursive
            | ErrorKind::NoOrigin
            | ErrorKind::InsecureOrigin
            | ErrorKind::Truncated => false,
        };
        if is_refusal {
            let recheck = now + RECHECK_EVERY;
            let error = self.until_recheck(error, recheck, now);
            self.login_block = Some(Box::new(LoginBlock::Refused {
                error: error.clone(),
                recheck,
            }));
            return error;
        }
        if let Some(LoginBlock::Refused { recheck, .. }) = self.login_block.as_deref_mut() {
            // The error is not about the credentials: they stay refused.
            let asked_for = error.retry_after().unwrap_or_default();
            let next = now + asked_for.min(LONGEST_RETRY_AFTER).max(RECHECK_EVERY);
            *recheck = next;
            return self.until_recheck(error, next, now);
        }
        let delay = self.backoff.next(error.retry_after(), &mut self.rng);
        let error = error.with_retry_after(delay);
        self.login_block = Some(Box::new(LoginBlock::BackingOff {
            error: error.clone(),
            until: now + delay,
        }));
        error
    }

    /// Returns the error that forbids a login now. After a refusal a login may start
    /// from time to time, to ask the source for other credentials.
    pub(super) fn blocked(&self, now: Timestamp) -> Option<Error> {
        match self.login_block.as_deref()? {
            LoginBlock::BackingOff { until, .. } if *until <= now => None,
            LoginBlock::BackingOff { error, until } => {
                Some(error.clone().with_retry_after(*until - now))
            }
            LoginBlock::Refused { recheck, .. } if self.settings.has_source && *recheck <= now => {
                None
            }
            LoginBlock::Refused { error, recheck } => {
                Some(self.until_recheck(error.clone(), *recheck, now))
            }
        }
    }

    /// Returns the error of a login that is tried again at `recheck` and not before,
    /// whatever the server asked for. Without a source it is not tried again at all.
    fn until_recheck(&self, error: Error, recheck: Timestamp, now: Timestamp) -> Error {
        match error.retry_after() {
            Some(_) if self.settings.has_source => {
                error.with_retry_after(recheck.saturating_sub(now))
            }
            Some(_) => error.without_retry_after(),
            None => error,
        }
    }

    pub(super) fn start_login(&mut self, reason: Reason, kind: LoginKind, now: Timestamp) {
        self.start(JobKind::Login { reason, kind }, now);
    }

    fn set_current(&mut self, lifetimes: Lifetimes, sent: Timestamp, now: Timestamp) -> u64 {
        self.current = Some(self.new_token(lifetimes, sent, now));
        self.newest
    }

    fn new_token(&mut self, lifetimes: Lifetimes, sent: Timestamp, now: Timestamp) -> CurrentToken {
        self.newest += 1;
        CurrentToken {
            generation: self.newest,
            lifespan: Lifespan::new(lifetimes, sent, now, &mut self.rng),
            state: TokenState::Good,
            accepted: None,
        }
    }

    /// A login has yielded a token while none was current. If that does not continue the
    /// newest one, which has expired, the data of that is of no use any more.
    pub(super) fn settle_expired(&mut self, continues: bool) {
        let continued = continues.then_some(self.newest);
        if continued.is_some_and(|newest| self.replaced.remove_expired(newest)) {
            self.ended(self.newest, TokenEnd::Continued);
        }
        match self.settings.logout_ends {
            LogoutEnds::Token => self.replaced.end_expired(),
            LogoutEnds::Nothing | LogoutEnds::User => {
                for left in self.replaced.take_expired() {
                    self.ended(left, TokenEnd::Abandoned);
                }
            }
        }
    }

    fn reopen(&mut self) {
        self.phase = super::Phase::Open;
        match self.settings.logout_ends {
            // Their logout would end the next token too: they wait for the next
            // logout of the session.
            LogoutEnds::Nothing | LogoutEnds::User => {}
            LogoutEnds::Token => {
                for token in std::mem::take(&mut self.ending) {
                    self.keep_replaced(token, None);
                }
            }
        }
    }
}
