//! The rules of a session as a state machine: no I/O, no clock, no tokens.
//!
//! | file | contents |
//! |---|---|
//! | `answer` | the types of inputs and answers |
//! | `login` | which requests get a token, when a login starts, and its outcome |
//! | `rejection` | the outcome of a request: rejected, accepted, rolled |
//! | `current`, `candidate` | the token in use, and a new one that is not published yet |
//! | `ending` | logout, close, password change, and the logouts of replaced tokens |
//! | `timed` | the actions that time triggers, and the wake-up for them |
//! | `time`, `lifespan` | when a token expires and when it is refreshed ahead of that |
//! | `cooldown` | how refreshes by rejection are bounded |
//! | `replaced` | the replaced tokens that are still to be logged out |
//! | `backoff`, `rng` | delays after failures, with jitter |
//! | `event` | the events that observers receive |

mod answer;
mod backoff;
mod candidate;
mod cooldown;
mod current;
mod ending;
mod event;
mod lifespan;
mod login;
mod rejection;
mod replaced;
mod rng;
#[cfg(test)]
mod tests;
mod time;
mod timed;

use std::time::Duration;

pub use answer::State;
pub(super) use answer::{
    Acquire, JobKind, JobStart, Launch, LoginKind, LoginOutcome, NewToken, OnRejection,
    RulesSettings, Signal,
};
pub use event::{Event, TokenEnd};
pub(super) use lifespan::Lifetimes;
pub(super) use replaced::LogoutOutcome;
pub(crate) use time::Timestamp;

use crate::error::{Error, ErrorKind};
use crate::origin::Target;
use crate::provider::Reason;
use backoff::Backoff;
use candidate::Candidate;
use cooldown::Cooldowns;
use current::{CurrentToken, TokenState};
use replaced::{ReplacedTokens, TokenRef};
use rng::Rng;

/// The state of one session.
///
/// # Contract
///
/// The driver owns the tokens, the clock and the tasks. Each input is one event,
/// which the first line of its docs names: it takes the time as an argument if that
/// matters, changes the state and answers what to do. A token is named by its
/// generation only, so that nothing here can leak one.
///
/// Inputs:
///
/// - a session that starts with a token: [`set_initial`](Rules::set_initial);
/// - a request: [`admit`](Rules::admit), [`acquire`](Rules::acquire),
///   [`on_use`](Rules::on_use), [`try_candidate`](Rules::try_candidate),
///   [`rejected`](Rules::rejected),
///   [`replay_rejected`](Rules::replay_rejected),
///   [`accepted`](Rules::accepted), [`accepted_by_hand`](Rules::accepted_by_hand),
///   [`rolled`](Rules::rolled);
/// - an operation: [`login`](Rules::login), [`renew`](Rules::renew),
///   [`change_password`](Rules::change_password), [`logout`](Rules::logout),
///   [`close`](Rules::close), and [`abandon`](Rules::abandon) with the last handle;
/// - the end of a job: [`login_landed`](Rules::login_landed),
///   [`login_failed`](Rules::login_failed),
///   [`logout_landed`](Rules::logout_landed),
///   [`password_change_landed`](Rules::password_change_landed),
///   [`password_change_put_off`](Rules::password_change_put_off);
/// - the end of the logout of a replaced token:
///   [`background_logout_landed`](Rules::background_logout_landed);
/// - the last use of a replaced token: [`released`](Rules::released), and
///   [`reused`](Rules::reused) if a login yields it again;
/// - time: [`tick`](Rules::tick).
///
/// After each event the driver polls, in this order:
///
/// 1. [`generation`](Rules::generation) and [`candidate`](Rules::candidate): whether the
///    candidate is current now, and to be published;
/// 2. [`is_retired`](Rules::is_retired): which replaced tokens to keep, and
///    [`released`](Rules::released) for those without users;
/// 3. [`take_launch`](Rules::take_launch): what to launch, until there is nothing;
/// 4. [`wake`](Rules::wake) and
///    [`is_waiting_for_release`](Rules::is_waiting_for_release): when to call
///    [`tick`](Rules::tick);
/// 5. [`signal`](Rules::signal): how requests may use the published token;
/// 6. [`take_events`](Rules::take_events): what to count and to emit.
///
/// Getters change nothing and may be called at any time: `signal` (also when a token is
/// published, and before step 2, where `None` means that no token stays published), [`state`](Rules::state),
/// [`is_open`](Rules::is_open), [`is_usable`](Rules::is_usable),
/// [`is_logging_in`](Rules::is_logging_in), [`generation`](Rules::generation),
/// [`candidate`](Rules::candidate), [`ends`](Rules::ends),
/// [`last_error`](Rules::last_error), [`errors`](Rules::errors),
/// [`next_attempt`](Rules::next_attempt),
/// [`logouts`](Rules::logouts), [`logout_result`](Rules::logout_result),
/// [`ending`](Rules::ending), [`logging_out`](Rules::logging_out),
/// [`has_settled_replaced`](Rules::has_settled_replaced) and
/// [`is_waiting_for`](Rules::is_waiting_for).
///
/// # Invariants
///
/// - At most one job is running, and `job` names it. Beside it, the logout of at most
///   one replaced token is running. The event that starts one of them leaves it for
///   `take_launch`, once.
/// - A token is suspended only while the login that may replace it is running.
/// - Every action that time triggers is listed in `timed_actions` and nowhere else.
///   Both `wake` and `tick` derive from that list, so one timer is enough.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    settings: RulesSettings,
    phase: Phase,
    /// Whether the session admits no new requests, for good.
    closed: bool,
    current: Option<CurrentToken>,
    /// A newer token than the current one, which is not proven yet.
    // Boxed: there is seldom one.
    candidate: Option<Box<Candidate>>,
    job: Option<RunningJob>,
    /// Whether the logout of a replaced token is still to be launched.
    has_new_logout: bool,
    /// The newest generation.
    newest: u64,
    /// The reason of the next login, if there is no token.
    next_login_reason: Reason,
    // Boxed: most sessions have none.
    login_block: Option<Box<LoginBlock>>,
    backoff: Backoff,
    cooldowns: Cooldowns,
    rng: Rng,
    /// The time of the last successful login.
    logged_in_at: Timestamp,
    /// A rejection during a job that yields no token. It is applied once the job has
    /// ended.
    // Boxed: there is seldom one.
    deferred_rejection: Option<Box<DeferredRejection>>,
    /// How many times a logout was asked for.
    logouts: u32,
    /// Tokens that a logout of the session is to end.
    ending: Vec<TokenRef>,
    /// Tokens that were replaced.
    replaced: ReplacedTokens,
    events: Vec<Event>,
}

#[derive(Clone, Debug)]
enum Phase {
    Open,
    /// With the result of the last logout. The error is boxed: most logouts have none.
    LoggedOut(Result<(), Box<Error>>),
}

/// A rejection that waits for the end of a job.
#[derive(Clone, Copy, Debug)]
struct DeferredRejection {
    generation: u64,
    target: Option<Target>,
}

#[derive(Clone, Copy, Debug)]
struct RunningJob {
    kind: JobKind,
    /// Whether it is still to be launched.
    is_new: bool,
    /// Whether a caller waits for its token, and not for any.
    is_requested: bool,
    since: Timestamp,
}

/// Why no login may start now.
#[derive(Clone, Debug)]
enum LoginBlock {
    /// The last login failed; the next one may start at `until`.
    BackingOff { error: Error, until: Timestamp },
    /// The credentials were refused; the source may be asked again at `recheck`.
    Refused { error: Error, recheck: Timestamp },
}

impl Rules {
    /// Creates the rules of a new session. `seed` determines the jitter.
    pub(crate) fn new(settings: RulesSettings, seed: u64) -> Self {
        Self {
            settings,
            phase: Phase::Open,
            closed: false,
            current: None,
            candidate: None,
            job: None,
            has_new_logout: false,
            newest: 0,
            next_login_reason: Reason::Initial,
            login_block: None,
            backoff: Backoff::default(),
            cooldowns: Cooldowns::default(),
            rng: Rng::new(seed),
            logged_in_at: Timestamp::ZERO,
            deferred_rejection: None,
            logouts: 0,
            ending: Vec::new(),
            replaced: ReplacedTokens::default(),
            events: Vec::new(),
        }
    }

    /// Takes one job, or one logout of a replaced token, that the last event started,
    /// for the driver to launch.
    pub(crate) fn take_launch(&mut self) -> Option<Launch> {
        if let Some(job) = self.job.as_mut().filter(|job| job.is_new) {
            job.is_new = false;
            return Some(Launch::Job(job.kind));
        }
        let is_new = std::mem::take(&mut self.has_new_logout);
        let generation = self.logging_out().filter(|_| is_new)?;
        Some(Launch::BackgroundLogout { generation })
    }

    /// Takes the events since the last call.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Returns how requests may use the token, or `None` without a token.
    pub(crate) fn signal(&self) -> Option<Signal> {
        let current = self.current.as_ref()?;
        let is_reported = self.settings.rolls
            || current.accepted.is_none()
            || self.cooldowns.are_reported()
            || current.lifespan.is_reported()
            || matches!(
                self.login_block.as_deref(),
                Some(LoginBlock::Refused { .. })
            );
        Some(match current.state {
            TokenState::Suspended(_) => Signal::Suspended,
            TokenState::Good if self.closed => Signal::Closing,
            TokenState::Good if self.offers_candidate() => Signal::Offered,
            TokenState::Good if is_reported => Signal::Reported,
            TokenState::Good => Signal::Live,
        })
    }

    /// Returns the state of the session, for observers.
    pub(crate) fn state(&self) -> State {
        let login_block = self.login_block.as_deref();
        match (&self.phase, &self.current, login_block) {
            _ if self.closed => State::Closed,
            (Phase::LoggedOut(_), ..) => State::LoggedOut,
            (Phase::Open, Some(current), _) => match current.state {
                TokenState::Good => State::Live,
                TokenState::Suspended(_) => State::Renewing,
            },
            (Phase::Open, None, _) if self.is_logging_in() => State::LoggingIn,
            (Phase::Open, None, Some(LoginBlock::BackingOff { .. })) => State::BackingOff,
            (Phase::Open, None, Some(LoginBlock::Refused { .. })) => State::Refused,
            (Phase::Open, None, None) => State::Idle,
        }
    }

    /// Returns whether a request may use the token, regardless of its expiry.
    pub(crate) fn is_usable(&self) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| current.state == TokenState::Good)
    }

    /// Returns the generation of the current token.
    pub(crate) fn generation(&self) -> Option<u64> {
        let current = self.current.as_ref();
        current.map(|current| current.generation)
    }

    /// Returns the generation of the candidate.
    pub(crate) fn candidate(&self) -> Option<u64> {
        let candidate = self.candidate.as_deref();
        candidate.map(|candidate| candidate.token.generation)
    }

    /// Returns whether the next request that can be replayed may carry the candidate.
    fn offers_candidate(&self) -> bool {
        let candidate = self.candidate.as_deref();
        self.settings.tries_candidates
            && candidate.is_some_and(|candidate| candidate.next_try.is_none())
    }

    /// Returns when the current token expires, if nothing else happens.
    pub(crate) fn ends(&self) -> Option<Timestamp> {
        self.current.as_ref()?.lifespan.ends()
    }

    /// Returns why the last login failed, if it did.
    pub(crate) fn last_error(&self) -> Option<&Error> {
        match self.login_block.as_deref()? {
            LoginBlock::BackingOff { error, .. } | LoginBlock::Refused { error, .. } => Some(error),
        }
    }

    /// Returns the errors that the state holds.
    pub(crate) fn errors(&self) -> impl Iterator<Item = &Error> {
        let logout = match &self.phase {
            Phase::LoggedOut(Err(error)) => Some(&**error),
            Phase::LoggedOut(Ok(())) | Phase::Open => None,
        };
        self.last_error().into_iter().chain(logout)
    }

    /// Returns when the next login may start after a failed one; after a refusal,
    /// when the source is asked again.
    pub(crate) fn next_attempt(&self) -> Option<Timestamp> {
        let may_log_in = self.is_open() && !self.closed;
        match self.login_block.as_deref().filter(|_| may_log_in)? {
            LoginBlock::BackingOff { until, .. } => Some(*until),
            LoginBlock::Refused { recheck, .. } => self.settings.has_source.then_some(*recheck),
        }
    }

    /// Publishes the candidate in place of the current token.
    fn publish_candidate(&mut self) {
        if let Some(candidate) = self.candidate.take() {
            if let Some(current) = self.current.take() {
                self.replace(&current, false);
            }
            self.current = Some(candidate.token);
        }
    }

    fn give_up(&mut self, generation: Option<u64>) {
        if let Some(generation) = generation {
            self.ended(generation, TokenEnd::Abandoned);
        }
    }

    fn start(&mut self, kind: JobKind, now: Timestamp) {
        debug_assert!(self.job.is_none(), "one job at a time");
        self.job = Some(RunningJob {
            kind,
            is_new: true,
            is_requested: false,
            since: now,
        });
        match kind {
            JobKind::Login { reason, .. } => self.events.push(Event::LoginStarted { reason }),
            JobKind::Logout | JobKind::ChangePassword => {}
        }
    }

    /// Ends the running job. Returns the reason of a login and how long the job
    /// took.
    fn finish_job(&mut self, now: Timestamp) -> (Reason, Duration) {
        match self.job.take() {
            Some(RunningJob {
                kind: JobKind::Login { reason, .. },
                since,
                ..
            }) => (reason, now.saturating_sub(since)),
            Some(RunningJob { since, .. }) => (self.next_login_reason, now.saturating_sub(since)),
            None => (self.next_login_reason, Duration::ZERO),
        }
    }

    fn ended(&mut self, generation: u64, end: TokenEnd) {
        self.events.push(Event::TokenEnded { generation, end });
    }

    /// Returns the error of a session that has ended.
    fn session_over(&self) -> Error {
        Error::new(match self.closed {
            true => ErrorKind::Closed,
            false => ErrorKind::LoggedOut,
        })
    }

    /// Returns whether the session is not logged out.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    fn job_kind(&self) -> Option<JobKind> {
        self.job.map(|job| job.kind)
    }

    fn is_changing_password(&self) -> bool {
        matches!(self.job_kind(), Some(JobKind::ChangePassword))
    }

    /// Returns whether a login is running.
    pub(crate) fn is_logging_in(&self) -> bool {
        matches!(self.job_kind(), Some(JobKind::Login { .. }))
    }

    /// Returns whether a login is running that a rejection has started.
    fn is_refreshing(&self) -> bool {
        let reason = Reason::Rejected;
        matches!(self.job_kind(), Some(JobKind::Login { reason: why, .. }) if why == reason)
    }
}
