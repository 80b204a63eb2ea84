//! The rules of a session as a state machine: no I/O, no clock, no tokens.
//!
//! Each method is one event. It takes the time as an argument, changes the
//! state, and answers with what is to be done; the caller does it. Tokens are
//! named by their generation, so that nothing here can leak one.
//!
//! What holds between two events:
//!
//! - At most one flight is under way, and `flight` names it.
//! - A token is suspended only while the login that its rejection started, or
//!   joined, is under way.
//! - A flight is launched by exactly one event, which leaves it in `launch`
//!   for its caller to take.

use std::time::Duration;

use super::backoff::Backoff;
use super::cooldown::Cooldowns;
use crate::error::{Error, ErrorKind};
use crate::origin::Target;
use crate::provider::Reason;
use crate::rejection::Why;

/// The time since the session was made.
pub(crate) type Moment = Duration;

/// How long a token is used that was over when it arrived.
const BRIEFLY: Duration = Duration::from_secs(1);

/// How often the source of the credentials is asked anew after a refusal.
const RECHECK_EVERY: Duration = Duration::from_secs(10);

/// The state of one session.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    phase: Phase,
    current: Option<Current>,
    flight: Option<Flight>,
    launch: Option<Flight>,
    /// The generation given last.
    issued: u64,
    /// Why there is no token, for the login that is to bring one.
    missing: Reason,
    trouble: Option<Trouble>,
    backoff: Backoff,
    cooldowns: Cooldowns,
    /// A rejection that came during a password change, to be acted on after it.
    owed: Option<(u64, Option<Target>)>,
    /// How often somebody asked for the session's end.
    logouts: u64,
    /// Tokens that wait to be logged out.
    ending: Vec<u64>,
    /// Whether the credentials come from somewhere that may yield others.
    has_source: bool,
}

#[derive(Clone, Debug)]
enum Phase {
    Open,
    /// With what the last logout could not end.
    LoggedOut(Result<(), Error>),
}

#[derive(Debug)]
struct Current {
    generation: u64,
    ends: Option<Moment>,
    suspended: bool,
}

/// Why no login is made now.
#[derive(Debug)]
enum Trouble {
    /// The login system failed; again from `until` on.
    Failing { error: Error, until: Moment },
    /// The credentials were refused; the source is asked again from `recheck` on.
    Refused { error: Error, recheck: Moment },
}

/// What a session does one of at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flight {
    Login { reason: Reason, attempt: Attempt },
    Logout,
    ChangePassword,
}

/// Which credentials a login may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// Those that were not refused.
    Usual,
    /// Those that were not refused, asked for while the last ones were.
    Recheck,
    /// Refused ones too, once: somebody asked for it.
    Forced,
}

/// What a request is to do that has no token.
#[derive(Debug)]
pub(crate) enum Acquire {
    Use,
    /// For the flight under way, and then ask again.
    Wait,
    Fail(Error),
}

/// What a request is to do whose token was rejected.
#[derive(Debug)]
pub(crate) enum Rejected {
    /// There is a newer token.
    Replay,
    /// For the flight under way, and then ask again.
    Wait,
    Return(Why),
}

/// What an operation is to do that needs a flight of its own.
#[derive(Debug)]
pub(crate) enum Begin {
    /// It has it.
    Started,
    /// The flight under way does the same: its outcome is the operation's.
    Join,
    /// Another flight is under way: wait for it and ask again.
    Busy,
    /// There is no token to do it with: get one and ask again.
    NeedsToken,
    Fail(Error),
}

/// What a login yielded, as far as the rules go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Issued {
    pub(crate) lifetime: Option<Duration>,
    /// Before the login request was sent.
    pub(crate) sent: Moment,
    /// Whether it is the token in use once more.
    pub(crate) same: bool,
}

/// What becomes of a token that a login yielded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Publish {
        generation: u64,
    },
    /// The session was logged out meanwhile, so it is logged out too.
    End {
        generation: u64,
    },
    /// It is the one in use.
    Unchanged {
        generation: u64,
    },
}

/// How the token in use may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Signal {
    /// By any request, and no word about it.
    Live = 0,
    /// By any request, but acceptances are of interest.
    Suspect = 1,
    /// By none, until its renewal ends.
    Suspended = 2,
    /// By none any more.
    Ended = 3,
}

/// How a session is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// There is no token, and nobody has asked for one.
    Idle,
    /// There is no token yet; a login is under way.
    LoggingIn,
    /// There is a token that requests carry.
    Live,
    /// The token was rejected, and requests wait for its renewal.
    Renewing,
    /// There is no token, and the login system failed: the next login waits.
    BackingOff,
    /// There is no token, and the credentials were refused.
    Refused,
    /// The session was logged out.
    LoggedOut,
}

impl Lifecycle {
    /// The state of a new session. `seed` decides the jitter.
    pub(crate) fn new(has_source: bool, seed: u64) -> Self {
        Self {
            phase: Phase::Open,
            current: None,
            flight: None,
            launch: None,
            issued: 0,
            missing: Reason::Initial,
            trouble: None,
            backoff: Backoff::new(seed),
            cooldowns: Cooldowns::new(),
            owed: None,
            logouts: 0,
            ending: Vec::new(),
            has_source,
        }
    }

    /// A token that the session starts with.
    pub(crate) fn adopt(&mut self, lifetime: Option<Duration>) -> u64 {
        self.install(lifetime)
    }

    /// A request, or somebody else, needs a token.
    pub(crate) fn acquire(&mut self, now: Moment) -> Acquire {
        if let Phase::LoggedOut(_) = self.phase {
            return Acquire::Fail(Error::new(ErrorKind::LoggedOut));
        }
        self.expire(now);
        if self.is_usable() {
            return Acquire::Use;
        }
        if self.flight.is_some() && !self.is_rechecking() {
            return Acquire::Wait;
        }
        if let Some(error) = self.trouble(now) {
            return Acquire::Fail(error);
        }
        self.start(Flight::Login {
            reason: self.missing,
            attempt: Attempt::Usual,
        });
        Acquire::Wait
    }

    /// Time has passed: a token whose lifetime is over is no more.
    pub(crate) fn expire(&mut self, now: Moment) {
        let over = self.current.as_ref().is_some_and(|current| {
            // A suspended one stays until its renewal ends, which decides.
            !current.suspended && current.ends.is_some_and(|ends| ends <= now)
        });
        if over {
            self.current = None;
            self.missing = Reason::Expired;
        }
    }

    /// When the token's lifetime is over, if there is a token and an end to it.
    pub(crate) fn ends(&self) -> Option<Moment> {
        self.current.as_ref()?.ends
    }

    /// Whether a request may carry the token, its lifetime aside.
    pub(crate) fn is_usable(&self) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| !current.suspended)
    }

    /// A response rejected the token of this generation.
    pub(crate) fn rejected(
        &mut self,
        generation: u64,
        target: Option<Target>,
        now: Moment,
    ) -> Rejected {
        if let Phase::LoggedOut(_) = self.phase {
            return Rejected::Return(Why::LoggedOut);
        }
        let usable = self.is_usable();
        match &self.current {
            // Late: the token was replaced meanwhile, which says nothing of the new one.
            Some(current) if current.generation > generation => match usable {
                true => Rejected::Replay,
                false => Rejected::Wait,
            },
            Some(_) | None => self.rejected_now(generation, target, now),
        }
    }

    fn rejected_now(&mut self, generation: u64, target: Option<Target>, now: Moment) -> Rejected {
        if target.is_some_and(|target| self.cooldowns.is_cooling(target, now)) {
            return Rejected::Return(Why::CoolingDown);
        }
        match self.flight {
            Some(Flight::Login { attempt, .. }) if attempt != Attempt::Recheck => {
                self.suspend();
                return Rejected::Wait;
            }
            // Neither brings a token. Whoever waits asks again once it has
            // landed; but nobody may wait.
            Some(Flight::ChangePassword) => {
                self.owed = Some((generation, target));
                return Rejected::Wait;
            }
            Some(Flight::Logout) => return Rejected::Wait,
            Some(Flight::Login { .. }) | None => {}
        }
        if let Some(error) = self.trouble(now) {
            return Rejected::Return(Why::RenewalFailed(error));
        }
        if !self.cooldowns.spend(target, generation, now) {
            return Rejected::Return(Why::CoolingDown);
        }
        self.start(Flight::Login {
            reason: Reason::Rejected,
            attempt: Attempt::Usual,
        });
        self.suspend();
        Rejected::Wait
    }

    /// A replay was rejected too: the renewal before it did not help.
    pub(crate) fn replay_rejected(&mut self, generation: u64, target: Target, now: Moment) {
        self.cooldowns.unhelpful(target, generation, now);
    }

    /// A response accepted the token of this generation.
    pub(crate) fn accepted(&mut self, generation: u64, target: Target, now: Moment) {
        self.cooldowns.accepted(target, generation, now);
    }

    /// How often somebody has asked for the session's end until now.
    pub(crate) fn logouts(&self) -> u64 {
        self.logouts
    }

    /// Somebody asked, after so many logouts, for one attempt, whatever
    /// happened before. A logout since then has the last word.
    pub(crate) fn login(&mut self, logouts: u64) -> Begin {
        if logouts < self.logouts {
            return Begin::Fail(Error::new(ErrorKind::LoggedOut));
        }
        match self.flight {
            // Not if a logout came between: its token is not to be used.
            Some(Flight::Login {
                attempt: Attempt::Forced,
                ..
            }) if self.is_open() => Begin::Join,
            Some(Flight::Login { .. } | Flight::Logout | Flight::ChangePassword) => Begin::Busy,
            None => {
                self.phase = Phase::Open;
                self.start(Flight::Login {
                    reason: Reason::Requested,
                    attempt: Attempt::Forced,
                });
                Begin::Started
            }
        }
    }

    /// Somebody asks for a new token, if one can be had now.
    pub(crate) fn renew(&mut self, now: Moment) -> Begin {
        if let Phase::LoggedOut(_) = self.phase {
            return Begin::Fail(Error::new(ErrorKind::LoggedOut));
        }
        match self.flight {
            Some(Flight::Login { .. }) => return Begin::Join,
            Some(Flight::Logout | Flight::ChangePassword) => return Begin::Busy,
            None => {}
        }
        if let Some(error) = self.trouble(now) {
            return Begin::Fail(error);
        }
        self.start(Flight::Login {
            reason: Reason::Requested,
            attempt: Attempt::Usual,
        });
        Begin::Started
    }

    /// Somebody asks for a password change.
    pub(crate) fn change_password(&mut self) -> Begin {
        if let Phase::LoggedOut(_) = self.phase {
            return Begin::Fail(Error::new(ErrorKind::LoggedOut));
        }
        if self.flight.is_some() {
            return Begin::Busy;
        }
        if !self.is_usable() {
            return Begin::NeedsToken;
        }
        self.start(Flight::ChangePassword);
        Begin::Started
    }

    /// Somebody asks for the session's end.
    ///
    /// Answers with the token that was in use, which is to be kept until its
    /// logout has landed.
    pub(crate) fn logout(&mut self) -> Option<u64> {
        if let Phase::Open = self.phase {
            self.phase = Phase::LoggedOut(Ok(()));
        }
        self.logouts += 1;
        self.missing = Reason::Initial;
        let ended = self.current.take().map(|current| current.generation);
        self.ending.extend(ended);
        self.end_what_is_left();
        ended
    }

    /// What the last logout could not end; `None` while its flight, or the one
    /// that it waits for, is under way.
    pub(crate) fn logged_out(&self) -> Option<Result<(), Error>> {
        match (&self.phase, self.flight) {
            // Somebody has logged in since, which waits for the logout's end.
            (Phase::Open, _) => Some(Ok(())),
            (Phase::LoggedOut(_), Some(_)) => None,
            (Phase::LoggedOut(outcome), None) => Some(outcome.clone()),
        }
    }

    /// The login under way yielded a token.
    pub(crate) fn login_landed(&mut self, issued: Issued, now: Moment) -> Fate {
        self.flight = None;
        if let Phase::LoggedOut(_) = self.phase {
            self.cooldowns.login_failed();
            self.issued += 1;
            self.ending.push(self.issued);
            self.end_what_is_left();
            return Fate::End {
                generation: self.issued,
            };
        }
        self.trouble = None;
        self.backoff.reset();
        let ends = issued
            .lifetime
            .and_then(|lifetime| issued.sent.checked_add(lifetime))
            // One that is over when it arrives is used for a moment all the
            // same: were it dropped at once, each request would log in.
            .map(|ends| if ends > now { ends } else { now + BRIEFLY });
        match &mut self.current {
            Some(current) if issued.same => {
                current.suspended = false;
                current.ends = ends;
                self.cooldowns.login_changed_nothing();
                Fate::Unchanged {
                    generation: current.generation,
                }
            }
            Some(_) | None => Fate::Publish {
                generation: self.install(ends),
            },
        }
    }

    /// The login under way failed. Answers with the error for all who wait.
    pub(crate) fn login_failed(&mut self, error: Error, now: Moment) -> Error {
        self.flight = None;
        self.cooldowns.login_failed();
        if let Some(current) = &mut self.current {
            current.suspended = false;
        }
        self.expire(now);
        if let Phase::LoggedOut(_) = self.phase {
            self.end_what_is_left();
            return Error::new(ErrorKind::LoggedOut);
        }
        if let (Some(Trouble::Refused { recheck, .. }), false) =
            (&mut self.trouble, error.kind() == ErrorKind::Refused)
        {
            // It says nothing of the credentials, which stay refused.
            *recheck = now + RECHECK_EVERY;
            return error;
        }
        match error.kind() {
            ErrorKind::Refused => {
                self.trouble = Some(Trouble::Refused {
                    error: error.clone(),
                    recheck: now + RECHECK_EVERY,
                });
                error
            }
            // It says nothing of the login system: another runtime may try at once.
            ErrorKind::NoRuntime => error,
            ErrorKind::LoggedOut
            | ErrorKind::Unavailable
            | ErrorKind::Protocol
            | ErrorKind::Uncertain
            | ErrorKind::Unsupported
            | ErrorKind::TokenRejected
            | ErrorKind::DeadlineExceeded
            | ErrorKind::ProviderPanicked
            | ErrorKind::Recursive
            | ErrorKind::NoOrigin
            | ErrorKind::InsecureOrigin => {
                let delay = self.backoff.next(error.retry_after());
                let error = error.with_retry_after(delay);
                self.trouble = Some(Trouble::Failing {
                    error: error.clone(),
                    until: now + delay,
                });
                error
            }
        }
    }

    /// The logout under way has ended all but `left`.
    pub(crate) fn logout_landed(&mut self, left: Vec<u64>, outcome: Result<(), Error>) {
        self.flight = None;
        self.ending = left;
        if let Phase::LoggedOut(last) = &mut self.phase {
            *last = outcome;
        }
    }

    /// The password change under way has ended. `may_log_in`: with a password
    /// that was not refused yet.
    pub(crate) fn password_change_landed(&mut self, may_log_in: bool, now: Moment) {
        self.flight = None;
        if may_log_in {
            self.trouble = None;
            self.backoff.reset();
        }
        let owed = self.owed.take();
        if let Phase::LoggedOut(_) = self.phase {
            self.end_what_is_left();
            return;
        }
        if let Some((generation, target)) = owed {
            // Answered when it came: who waits asks again and joins.
            let _ = self.rejected(generation, target, now);
        }
    }

    /// The flight that the last event started, for its caller to launch.
    pub(crate) fn take_launch(&mut self) -> Option<Flight> {
        self.launch.take()
    }

    /// How the token may be used, or `None` without one.
    pub(crate) fn signal(&self) -> Option<Signal> {
        let current = self.current.as_ref()?;
        Some(match () {
            () if current.suspended => Signal::Suspended,
            () if self.cooldowns.are_watching() => Signal::Suspect,
            () => Signal::Live,
        })
    }

    /// How the session is doing.
    pub(crate) fn state(&self) -> State {
        match (&self.phase, &self.current, self.flight, &self.trouble) {
            (Phase::LoggedOut(_), ..) => State::LoggedOut,
            (Phase::Open, Some(current), ..) if current.suspended => State::Renewing,
            (Phase::Open, Some(_), ..) => State::Live,
            (Phase::Open, None, Some(_), _) if !self.is_rechecking() => State::LoggingIn,
            (Phase::Open, None, _, Some(Trouble::Failing { .. })) => State::BackingOff,
            (Phase::Open, None, _, Some(Trouble::Refused { .. })) => State::Refused,
            (Phase::Open, None, _, None) => State::Idle,
        }
    }

    /// Why the last login failed, if it did.
    pub(crate) fn last_error(&self) -> Option<&Error> {
        match self.trouble.as_ref()? {
            Trouble::Failing { error, .. } | Trouble::Refused { error, .. } => Some(error),
        }
    }

    /// The error that stands in the way of a login, and the question to the
    /// source that may remove it.
    fn trouble(&mut self, now: Moment) -> Option<Error> {
        let (error, recheck) = match self.trouble.as_ref()? {
            Trouble::Failing { until, .. } if *until <= now => return None,
            Trouble::Failing { error, until } => {
                (error.clone().with_retry_after(*until - now), None)
            }
            Trouble::Refused { error, recheck } => (error.clone(), Some(*recheck)),
        };
        if recheck.is_some_and(|recheck| recheck <= now) && self.has_source && self.flight.is_none()
        {
            self.start(Flight::Login {
                reason: self.missing,
                attempt: Attempt::Recheck,
            });
        }
        Some(error)
    }

    fn start(&mut self, flight: Flight) {
        debug_assert!(self.flight.is_none(), "one flight at a time");
        self.flight = Some(flight);
        self.launch = Some(flight);
    }

    fn suspend(&mut self) {
        if let Some(current) = &mut self.current {
            current.suspended = true;
        }
    }

    fn install(&mut self, ends: Option<Moment>) -> u64 {
        self.issued += 1;
        self.current = Some(Current {
            generation: self.issued,
            ends,
            suspended: false,
        });
        self.cooldowns.login_succeeded();
        self.issued
    }

    fn end_what_is_left(&mut self) {
        if self.flight.is_none() && !self.ending.is_empty() {
            self.start(Flight::Logout);
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    fn is_rechecking(&self) -> bool {
        matches!(
            self.flight,
            Some(Flight::Login {
                attempt: Attempt::Recheck,
                ..
            })
        )
    }
}

#[cfg(test)]
mod tests;
