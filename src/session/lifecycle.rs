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
//! - What time brings is in [`Lifecycle::acts`], and nowhere else: it says
//!   what is done next and when, [`Lifecycle::tick`] does it, and whoever
//!   drives this needs one timer.

use std::time::Duration;

use super::backoff::{Backoff, LONGEST_ASKED_FOR};
use super::cooldown::Cooldowns;
use super::event::{Event, TokenEnd};
use super::jitter::Jitter;
use super::lifespan::{BRIEFLY, Lifespan, Lifetimes, end_of};
use super::retirement::{Logout, Retirement, Unused};
use crate::error::{Error, ErrorKind};
use crate::origin::Target;
use crate::provider::{LogoutEnds, Reason};
use crate::rejection::Why;

/// The time since the session was made.
pub(crate) type Moment = Duration;

/// How often the source of the credentials is asked anew after a refusal.
const RECHECK_EVERY: Duration = Duration::from_secs(10);

/// How long no replaced token is logged out after somebody had to wait for that
/// of another: whoever waited comes first.
const REST: Duration = Duration::from_secs(1);

/// How many tokens are kept whose logout failed and may be tried again.
const MOST_ENDING: usize = 64;

/// What is decided when a session is made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settings {
    /// Whether the credentials come from somewhere that may yield others.
    pub(crate) has_source: bool,
    /// Whether the token is renewed although nobody uses it.
    pub(crate) keep_alive: bool,
    pub(crate) logout_ends: LogoutEnds,
    /// Whether responses may carry the token's next value.
    pub(crate) rolls: bool,
}

/// The state of one session.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Lifecycle {
    settings: Settings,
    phase: Phase,
    /// Whether the session takes no new requests, for good.
    closed: bool,
    current: Option<Current>,
    flight: Option<UnderWay>,
    /// Whether the flight is still to be launched.
    launch: bool,
    /// The generation given last.
    issued: u64,
    /// Why there is no token, for the login that is to bring one.
    missing: Reason,
    // Boxed, as most sessions have none.
    trouble: Option<Box<Trouble>>,
    backoff: Backoff,
    cooldowns: Cooldowns,
    jitter: Jitter,
    /// When the last login yielded a token.
    renewed: Moment,
    /// A rejection that came during a flight that brings no token, to be acted
    /// on after it.
    owed: Option<(u64, Option<Target>)>,
    /// How often somebody asked for the session's end.
    logouts: u64,
    /// Tokens that wait to be logged out.
    ending: Vec<Unused>,
    /// Tokens that were replaced.
    retirement: Retirement,
    /// Whether somebody waits for the end of a replaced token's logout.
    held_up: bool,
    /// When the next one may be logged out.
    rested: Moment,
    /// What happened since somebody asked.
    events: Vec<Event>,
}

#[derive(Clone, Debug)]
enum Phase {
    Open,
    /// With what the last logout could not end.
    LoggedOut(Result<(), Error>),
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Current {
    generation: u64,
    lifespan: Lifespan,
    standing: Standing,
}

/// Whether new requests may carry the token in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Good,
    /// Not until its renewal has ended: this target rejected it, or somebody
    /// who named none.
    Suspended(Option<Target>),
}

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    flight: Flight,
    since: Moment,
}

/// What time brings next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// The token in use is over.
    Expire,
    /// Requests are of interest again, since they extend the token's life.
    Starve,
    /// The token in use is renewed ahead of its end.
    Renew,
    /// A session that is kept alive gets its token back.
    Revive,
    /// A replaced token is logged out.
    Retire,
}

/// Why no login is made now.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
enum Trouble {
    /// The login system failed; again from `until` on.
    Failing { error: Error, until: Moment },
    /// The credentials were refused; the source is asked again from `recheck` on.
    Refused { error: Error, recheck: Moment },
}

/// What a session does one of at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flight {
    Login {
        reason: Reason,
        attempt: Attempt,
    },
    Logout,
    /// The logout of one replaced token.
    Retire {
        generation: u64,
    },
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
    pub(crate) lifetimes: Lifetimes,
    /// Before the login request was sent.
    pub(crate) sent: Moment,
    /// Whether it is the token in use once more.
    pub(crate) same: bool,
    /// Whether it goes on with the server's session of the token in use.
    pub(crate) continues: bool,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Signal {
    /// By any request, and no word about it.
    Live = 0,
    /// By any request, but the session wants to hear of it: nobody has used
    /// the token yet, or acceptances are of interest.
    Watched = 1,
    /// By requests under way, and no new ones.
    Closing = 2,
    /// By none, until its renewal ends.
    Suspended = 3,
    /// By none any more.
    Ended = 4,
}

/// How a session is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// There is no token, and nothing is wrong: whoever needs one next has the
    /// session log in.
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
    /// The session was closed.
    Closed,
}

impl Lifecycle {
    /// The state of a new session. `seed` decides the jitter.
    pub(crate) fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            phase: Phase::Open,
            closed: false,
            current: None,
            flight: None,
            launch: false,
            issued: 0,
            missing: Reason::Initial,
            trouble: None,
            backoff: Backoff::default(),
            cooldowns: Cooldowns::new(),
            jitter: Jitter::new(seed),
            renewed: Moment::ZERO,
            owed: None,
            logouts: 0,
            ending: Vec::new(),
            retirement: Retirement::default(),
            held_up: false,
            rested: Moment::ZERO,
            events: Vec::new(),
        }
    }

    /// A token that the session starts with.
    pub(crate) fn adopt(&mut self, lifetimes: Lifetimes) -> u64 {
        self.install(lifetimes, Moment::ZERO, Moment::ZERO)
    }

    /// A new request arrives. It is turned away if the session was closed.
    pub(crate) fn admit(&mut self, now: Moment) -> Result<(), Error> {
        if self.closed {
            return Err(Error::new(ErrorKind::Closed));
        }
        self.carry(now);
        Ok(())
    }

    /// A request is about to carry the token, if there is one that it may.
    pub(crate) fn carry(&mut self, now: Moment) {
        self.expire(now);
        if !self.is_usable() {
            return;
        }
        if let Some(current) = &mut self.current {
            current.lifespan.used();
        }
        // The source is asked anew only while requests come.
        let is_due = self.due().is_some_and(|due| due <= now);
        if is_due && matches!(self.trouble.as_deref(), Some(Trouble::Refused { .. })) {
            let _ = self.trouble(Reason::Expiring, now);
        }
        self.tick(now);
    }

    /// A request, or somebody else, needs a token.
    pub(crate) fn acquire(&mut self, now: Moment) -> Acquire {
        if !self.is_open() {
            return Acquire::Fail(self.over());
        }
        self.expire(now);
        if self.is_usable() {
            self.carry(now);
            return Acquire::Use;
        }
        let is_retiring = self.is_retiring();
        if self.flight.is_some() && !self.is_rechecking() && !is_retiring {
            return Acquire::Wait;
        }
        if let Some(error) = self.trouble(self.missing, now) {
            return Acquire::Fail(error);
        }
        if is_retiring {
            self.held_up = true;
            return Acquire::Wait;
        }
        self.start(
            Flight::Login {
                reason: self.missing,
                attempt: Attempt::Usual,
            },
            now,
        );
        Acquire::Wait
    }

    /// Time has passed: does what it brought.
    pub(crate) fn tick(&mut self, now: Moment) {
        // First: one that is over already is not renewed ahead of its end.
        self.expire(now);
        // A login goes before a logout that nobody waits for.
        while let Some((_, act)) = self
            .acts()
            .filter(|(at, _)| *at <= now)
            .min_by_key(|(at, act)| (*act == Act::Retire, *at))
        {
            // Each changes what the next act is, so that this ends.
            match act {
                Act::Expire => self.end_current(TokenEnd::Expired),
                Act::Starve => {
                    if let Some(current) = &mut self.current {
                        current.lifespan.starve();
                    }
                }
                Act::Renew | Act::Revive => {
                    let reason = match &self.current {
                        Some(_) => Reason::Expiring,
                        None => self.missing,
                    };
                    let attempt = Attempt::Usual;
                    self.start(Flight::Login { reason, attempt }, now);
                }
                Act::Retire => {
                    for expired in self.retirement.expire(now) {
                        self.ended(expired, TokenEnd::Expired);
                    }
                    if let Some(generation) = self.retirement.begin(now) {
                        self.start(Flight::Retire { generation }, now);
                    }
                }
            }
        }
    }

    /// When [`Lifecycle::tick`] has something to do next.
    pub(crate) fn wake(&self) -> Option<Moment> {
        self.acts().map(|(at, _)| at).min()
    }

    /// What time brings, and when, as things are.
    fn acts(&self) -> impl Iterator<Item = (Moment, Act)> {
        let current = self.current.as_ref();
        // A suspended token stays until its renewal ends, which decides.
        let good = current.filter(|current| current.standing == Standing::Good);
        let expires = good.and_then(|good| good.lifespan.ends());
        let starves = current.and_then(|current| current.lifespan.hungry());
        let may_log_in = self.is_open() && !self.closed && self.flight.is_none();
        let allowed = match self.trouble.as_deref() {
            None => Some(Moment::ZERO),
            Some(Trouble::Failing { until, .. }) => Some(*until),
            // Not by time: only while requests come.
            Some(Trouble::Refused { .. }) => None,
        };
        let wanted = match good {
            Some(_) => self.due().map(|due| (due, Act::Renew)),
            None if self.settings.keep_alive && self.missing == Reason::Expired => {
                let revives = current.is_none().then(|| self.renewed + BRIEFLY);
                revives.map(|at| (at, Act::Revive))
            }
            None => None,
        };
        let renews = wanted
            .zip(allowed)
            .map(|((at, act), allowed)| (at.max(allowed), act));
        let retires = self.retirement.next().filter(|_| self.flight.is_none());
        let retires = retires.map(|at| at.max(self.rested));
        let acts = [
            expires.map(|at| (at, Act::Expire)),
            starves.map(|at| (at, Act::Starve)),
            renews.filter(|_| may_log_in),
            retires.map(|at| (at, Act::Retire)),
        ];
        acts.into_iter().flatten()
    }

    fn due(&self) -> Option<Moment> {
        let current = self.current.as_ref()?;
        current.lifespan.due(self.settings.keep_alive)
    }

    /// A token whose time is over is no more.
    fn expire(&mut self, now: Moment) {
        let is_over = self.current.as_ref().is_some_and(|current| {
            current.standing == Standing::Good
                && current.lifespan.ends().is_some_and(|ends| ends <= now)
        });
        if is_over {
            self.end_current(TokenEnd::Expired);
        }
    }

    fn end_current(&mut self, end: TokenEnd) {
        if let Some(current) = self.current.take() {
            self.missing = Reason::Expired;
            self.ended(current.generation, end);
        }
    }

    /// Whether a request may carry the token, its lifetime aside.
    pub(crate) fn is_usable(&self) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| current.standing == Standing::Good)
    }

    /// The generation of the token in use.
    pub(crate) fn generation(&self) -> Option<u64> {
        let current = self.current.as_ref();
        current.map(|current| current.generation)
    }

    /// When the token in use ends, if nothing else happens.
    pub(crate) fn ends(&self) -> Option<Moment> {
        self.current.as_ref()?.lifespan.ends()
    }

    /// A response rejected the token of this generation.
    pub(crate) fn rejected(
        &mut self,
        generation: u64,
        target: Option<Target>,
        now: Moment,
    ) -> Rejected {
        if !self.is_open() {
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
        match self.flight.map(|under_way| under_way.flight) {
            Some(Flight::Login { attempt, .. }) if attempt != Attempt::Recheck => {
                self.suspend(target);
                return Rejected::Wait;
            }
            // Neither brings a token. Whoever waits asks again once it has
            // landed; but nobody may wait.
            Some(flight @ (Flight::ChangePassword | Flight::Retire { .. })) => {
                if flight != Flight::ChangePassword {
                    if let Some(error) = self.trouble(Reason::Rejected, now) {
                        return Rejected::Return(Why::RenewalFailed(error));
                    }
                }
                self.owed = Some((generation, target));
                return Rejected::Wait;
            }
            Some(Flight::Logout) => return Rejected::Wait,
            Some(Flight::Login { .. }) | None => {}
        }
        if let Some(error) = self.trouble(Reason::Rejected, now) {
            return Rejected::Return(Why::RenewalFailed(error));
        }
        if !self.cooldowns.spend(target, generation, now) {
            return Rejected::Return(Why::CoolingDown);
        }
        if let Some(target) = target {
            self.retirement.unhelpful(target);
        }
        self.start(
            Flight::Login {
                reason: Reason::Rejected,
                attempt: Attempt::Usual,
            },
            now,
        );
        self.suspend(target);
        Rejected::Wait
    }

    /// A replay was rejected too: the renewal before it did not help.
    pub(crate) fn replay_rejected(&mut self, generation: u64, target: Target, now: Moment) {
        self.cooldowns.unhelpful(target, generation, now);
        self.retirement.unhelpful(target);
    }

    /// A response accepted the token of this generation, which a request
    /// carried that was sent at `sent`.
    pub(crate) fn accepted(&mut self, generation: u64, target: Target, sent: Moment, now: Moment) {
        self.cooldowns.accepted(target, generation, now);
        for dead in self.retirement.proven(target, generation) {
            self.ended(dead, TokenEnd::Rejected);
        }
        if let Some(current) = &mut self.current {
            if current.generation == generation {
                current.lifespan.accepted(sent, now);
            }
        }
    }

    /// Somebody says that a server took the token of this generation just now.
    pub(crate) fn accepted_by_hand(&mut self, generation: u64, now: Moment) {
        self.cooldowns.accepted_by_hand(generation, now);
        if let Some(current) = &mut self.current {
            if current.generation == generation {
                current.lifespan.accepted(now, now);
            }
        }
    }

    /// A response has carried the next value of the token in use, and a new
    /// lifetime if there is one, which counts from when its request was sent.
    pub(crate) fn rolled(&mut self, lifetime: Option<Duration>, sent: Moment, now: Moment) {
        if let (Some(current), Some(lifetime)) = (&mut self.current, lifetime) {
            let jitter = &mut self.jitter;
            current.lifespan.lives_for(lifetime, sent, now, jitter);
        }
    }

    /// How often somebody has asked for the session's end until now.
    pub(crate) fn logouts(&self) -> u64 {
        self.logouts
    }

    /// Somebody asked, after so many logouts, for one attempt, whatever
    /// happened before. A logout since then has the last word.
    pub(crate) fn login(&mut self, logouts: u64, now: Moment) -> Begin {
        if self.closed || logouts < self.logouts {
            return Begin::Fail(self.over());
        }
        match self.flight.map(|under_way| under_way.flight) {
            // Not if a logout came between: its token is not to be used.
            Some(Flight::Login {
                attempt: Attempt::Forced,
                ..
            }) if self.is_open() => Begin::Join,
            Some(
                Flight::Login { .. }
                | Flight::Logout
                | Flight::Retire { .. }
                | Flight::ChangePassword,
            ) => self.busy(),
            None => {
                self.reopen();
                self.start(
                    Flight::Login {
                        reason: Reason::Requested,
                        attempt: Attempt::Forced,
                    },
                    now,
                );
                Begin::Started
            }
        }
    }

    /// Somebody asks for a new token, if one can be had now.
    pub(crate) fn renew(&mut self, now: Moment) -> Begin {
        if self.closed || !self.is_open() {
            return Begin::Fail(self.over());
        }
        match self.flight.map(|under_way| under_way.flight) {
            Some(Flight::Login { .. }) => return Begin::Join,
            Some(Flight::Logout | Flight::ChangePassword) => return Begin::Busy,
            Some(Flight::Retire { .. }) | None => {}
        }
        if let Some(error) = self.trouble(Reason::Requested, now) {
            return Begin::Fail(error);
        }
        if self.is_retiring() {
            return self.busy();
        }
        self.start(
            Flight::Login {
                reason: Reason::Requested,
                attempt: Attempt::Usual,
            },
            now,
        );
        Begin::Started
    }

    /// Somebody asks for a password change.
    pub(crate) fn change_password(&mut self, now: Moment) -> Begin {
        if self.closed || !self.is_open() {
            return Begin::Fail(self.over());
        }
        if self.flight.is_some() {
            return self.busy();
        }
        if !self.is_usable() {
            return Begin::NeedsToken;
        }
        self.start(Flight::ChangePassword, now);
        Begin::Started
    }

    /// Somebody waits for the end of the flight under way.
    pub(crate) fn hold_up(&mut self) {
        self.held_up |= self.is_retiring();
    }

    /// Somebody asks for the session's end: the token in use and those that
    /// it replaced are to be kept until their logout has landed.
    pub(crate) fn logout(&mut self, now: Moment) {
        if self.is_open() {
            self.phase = Phase::LoggedOut(Ok(()));
            self.events.push(Event::LoggedOut);
        }
        self.logouts += 1;
        self.missing = Reason::Initial;
        let current = self.current.take();
        self.ending.extend(current.map(|current| Unused {
            generation: current.generation,
            ends: current.lifespan.ends_in_any_case(),
        }));
        self.end_replaced();
        self.end_what_is_left(now);
    }

    /// Somebody asks for the session's end, once what is under way has ended.
    pub(crate) fn close(&mut self) {
        if !self.closed {
            self.closed = true;
            self.events.push(Event::Closed);
        }
    }

    /// Whether every replaced token is accounted for.
    pub(crate) fn has_retired_all(&self) -> bool {
        self.retirement.is_done()
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

    /// How many tokens the last logout left that may be tried again.
    pub(crate) fn left(&self) -> usize {
        self.ending.len()
    }

    /// The login under way yielded a token.
    pub(crate) fn login_landed(&mut self, issued: Issued, now: Moment) -> Fate {
        let (reason, elapsed) = self.landed(now);
        if !self.is_open() {
            self.cooldowns.login_failed();
            self.issued += 1;
            let generation = self.issued;
            let lifetime = issued.lifetimes.absolute;
            let ends = lifetime.and_then(|lifetime| end_of(lifetime, issued.sent, now));
            self.ending.push(Unused { generation, ends });
            self.end_what_is_left(now);
            self.events.push(Event::LoggedIn {
                reason,
                generation,
                elapsed,
            });
            return Fate::End { generation };
        }
        self.trouble = None;
        self.backoff.reset();
        self.renewed = now;
        let fate = match &mut self.current {
            Some(current) if issued.same => {
                let lifetimes = issued.lifetimes;
                current.standing = Standing::Good;
                current.lifespan = Lifespan::new(lifetimes, issued.sent, now, &mut self.jitter);
                self.cooldowns.login_changed_nothing();
                Fate::Unchanged {
                    generation: current.generation,
                }
            }
            Some(_) | None => {
                self.replaced(issued.continues);
                Fate::Publish {
                    generation: self.install(issued.lifetimes, issued.sent, now),
                }
            }
        };
        let generation = match fate {
            Fate::Publish { generation }
            | Fate::Unchanged { generation }
            | Fate::End { generation } => generation,
        };
        self.events.push(Event::LoggedIn {
            reason,
            generation,
            elapsed,
        });
        fate
    }

    /// The login under way failed. Answers with the error for all who wait.
    pub(crate) fn login_failed(&mut self, error: Error, now: Moment) -> Error {
        let (reason, elapsed) = self.landed(now);
        self.cooldowns.login_failed();
        if let Some(current) = &mut self.current {
            current.standing = Standing::Good;
        }
        self.expire(now);
        let error = match self.is_open() {
            true => self.troubled_by(error, now),
            false => {
                self.end_what_is_left(now);
                self.over()
            }
        };
        self.events.push(Event::LoginFailed {
            reason,
            error: error.clone(),
            elapsed,
        });
        error
    }

    /// Remembers why no login is made now. Answers with the error as it is told.
    fn troubled_by(&mut self, error: Error, now: Moment) -> Error {
        if let (Some(Trouble::Refused { recheck, .. }), false) = (
            self.trouble.as_deref_mut(),
            error.kind() == ErrorKind::Refused,
        ) {
            // It says nothing of the credentials, which stay refused.
            let asked_for = error.retry_after().unwrap_or_default();
            *recheck = now + asked_for.min(LONGEST_ASKED_FOR).max(RECHECK_EVERY);
            return error;
        }
        match error.kind() {
            ErrorKind::Refused => {
                self.trouble = Some(Box::new(Trouble::Refused {
                    error: error.clone(),
                    recheck: now + RECHECK_EVERY,
                }));
                error
            }
            // It says nothing of the login system: another runtime may try at once.
            ErrorKind::NoRuntime => error,
            ErrorKind::LoggedOut
            | ErrorKind::Closed
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
                let delay = self.backoff.next(error.retry_after(), &mut self.jitter);
                let error = error.with_retry_after(delay);
                self.trouble = Some(Box::new(Trouble::Failing {
                    error: error.clone(),
                    until: now + delay,
                }));
                error
            }
        }
    }

    /// The logout under way has ended: `left` may be tried again, `lost` may not.
    pub(crate) fn logout_landed(&mut self, left: &[u64], lost: &[u64], outcome: Result<(), Error>) {
        self.flight = None;
        for token in std::mem::take(&mut self.ending) {
            if lost.contains(&token.generation) {
                self.ended(token.generation, TokenEnd::Abandoned);
            } else if left.contains(&token.generation) {
                self.ending.push(token);
            } else {
                self.ended(token.generation, TokenEnd::LoggedOut);
            }
        }
        while self.ending.len() > MOST_ENDING {
            let oldest = self.ending.remove(0);
            self.ended(oldest.generation, TokenEnd::Abandoned);
        }
        if let Phase::LoggedOut(last) = &mut self.phase {
            *last = outcome;
        }
    }

    /// The logout of a replaced token has ended.
    pub(crate) fn retire_landed(&mut self, logout: Logout, now: Moment) {
        self.flight = None;
        if std::mem::take(&mut self.held_up) {
            self.rested = now + REST;
        }
        if let Some(generation) = self.retirement.landed(logout, now, &mut self.jitter) {
            self.ended(
                generation,
                match logout {
                    Logout::Done => TokenEnd::LoggedOut,
                    Logout::Postponed(_) | Logout::Failed => TokenEnd::Abandoned,
                },
            );
        }
        if !self.is_open() {
            self.end_replaced();
        }
        self.go_on(now);
    }

    /// The password change under way has ended.
    pub(crate) fn password_change_landed(&mut self, outcome: Result<(), Error>, now: Moment) {
        let (_, elapsed) = self.landed(now);
        let may_log_in = match &outcome {
            Ok(()) => true,
            // With the new password, which was not refused yet.
            Err(error) => error.kind() == ErrorKind::Uncertain,
        };
        if may_log_in {
            self.trouble = None;
            self.backoff.reset();
        }
        self.events.push(match outcome {
            Ok(()) => Event::PasswordChanged { elapsed },
            Err(error) => Event::PasswordChangeFailed { error, elapsed },
        });
        self.go_on(now);
    }

    /// After a flight that brings no token: what had to wait for its end.
    fn go_on(&mut self, now: Moment) {
        let owed = self.owed.take();
        if !self.is_open() {
            self.end_what_is_left(now);
        } else if let Some((generation, target)) = owed {
            // Answered when it came: who waits asks again and joins.
            let _ = self.rejected(generation, target, now);
        }
    }

    /// Nobody uses the replaced token of this generation any more.
    pub(crate) fn released(&mut self, generation: u64) {
        self.retirement.released(generation);
    }

    /// The token in use is the replaced one of this generation once more.
    pub(crate) fn returned(&mut self, generation: u64) {
        if self.retirement.forget(generation) {
            self.ended(generation, TokenEnd::Continued);
        }
    }

    /// Whether the token of this generation is still to be dealt with, though
    /// it is not in use.
    pub(crate) fn is_past(&self, generation: u64) -> bool {
        let mut ending = self.ending.iter();
        ending.any(|token| token.generation == generation) || self.retirement.contains(generation)
    }

    /// Whether the end of that replaced token's use is waited for.
    pub(crate) fn is_waiting_for(&self, generation: u64) -> bool {
        self.retirement.is_waiting_for(generation)
    }

    /// Whether somebody's use of a replaced token is waited for.
    pub(crate) fn is_waiting_for_users(&self) -> bool {
        self.retirement.is_waiting()
    }

    /// The tokens that wait to be logged out.
    pub(crate) fn ending(&self) -> Vec<u64> {
        let ending = self.ending.iter();
        ending.map(|token| token.generation).collect()
    }

    /// Nobody is left who could use or end any token.
    pub(crate) fn abandon(&mut self) {
        let current = self.current.take().map(|current| current.generation);
        let mut left = self.ending();
        self.ending.clear();
        left.extend(current);
        // With one whose logout is under way, of which nobody will hear how it ended.
        left.extend(self.retirement.abandon());
        for generation in left {
            self.ended(generation, TokenEnd::Abandoned);
        }
    }

    /// The flight that the last event started, for its caller to launch.
    pub(crate) fn take_launch(&mut self) -> Option<Flight> {
        let is_new = std::mem::take(&mut self.launch);
        let flight = self.flight.filter(|_| is_new)?;
        Some(flight.flight)
    }

    /// What happened since somebody asked.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// How the token may be used, or `None` without one.
    pub(crate) fn signal(&self) -> Option<Signal> {
        let current = self.current.as_ref()?;
        let is_watched = self.settings.rolls
            || self.cooldowns.are_watching()
            || current.lifespan.is_watched()
            || matches!(self.trouble.as_deref(), Some(Trouble::Refused { .. }));
        Some(match current.standing {
            Standing::Suspended(_) => Signal::Suspended,
            Standing::Good if self.closed => Signal::Closing,
            Standing::Good if is_watched => Signal::Watched,
            Standing::Good => Signal::Live,
        })
    }

    /// How the session is doing.
    pub(crate) fn state(&self) -> State {
        let trouble = self.trouble.as_deref();
        match (&self.phase, &self.current, self.flight, trouble) {
            _ if self.closed => State::Closed,
            (Phase::LoggedOut(_), ..) => State::LoggedOut,
            (Phase::Open, Some(current), ..) => match current.standing {
                Standing::Good => State::Live,
                Standing::Suspended(_) => State::Renewing,
            },
            (Phase::Open, None, ..) if self.is_logging_in() => State::LoggingIn,
            (Phase::Open, None, _, Some(Trouble::Failing { .. })) => State::BackingOff,
            (Phase::Open, None, _, Some(Trouble::Refused { .. })) => State::Refused,
            (Phase::Open, None, _, None) => State::Idle,
        }
    }

    /// Why the last login failed, if it did.
    pub(crate) fn last_error(&self) -> Option<&Error> {
        match self.trouble.as_deref()? {
            Trouble::Failing { error, .. } | Trouble::Refused { error, .. } => Some(error),
        }
    }

    /// When the next login may be made, where one failed: after a refusal, when
    /// the source is asked again.
    pub(crate) fn next_attempt(&self) -> Option<Moment> {
        let may_log_in = self.is_open() && !self.closed;
        match self.trouble.as_deref().filter(|_| may_log_in)? {
            Trouble::Failing { until, .. } => Some(*until),
            Trouble::Refused { recheck, .. } => self.settings.has_source.then_some(*recheck),
        }
    }

    /// The error that stands in the way of a login, and the question to the
    /// source that may remove it, asked for this `reason`.
    fn trouble(&mut self, reason: Reason, now: Moment) -> Option<Error> {
        let (error, recheck) = match self.trouble.as_deref()? {
            Trouble::Failing { until, .. } if *until <= now => return None,
            Trouble::Failing { error, until } => {
                (error.clone().with_retry_after(*until - now), None)
            }
            Trouble::Refused { error, recheck } => (error.clone(), Some(*recheck)),
        };
        let is_time = recheck.is_some_and(|recheck| recheck <= now);
        if is_time && self.settings.has_source && self.flight.is_none() {
            let attempt = Attempt::Recheck;
            self.start(Flight::Login { reason, attempt }, now);
        }
        Some(error)
    }

    fn start(&mut self, flight: Flight, now: Moment) {
        debug_assert!(self.flight.is_none(), "one flight at a time");
        self.flight = Some(UnderWay { flight, since: now });
        self.launch = true;
        match flight {
            Flight::Login { reason, .. } => self.events.push(Event::LoginStarted { reason }),
            Flight::Logout | Flight::Retire { .. } | Flight::ChangePassword => {}
        }
    }

    /// The flight under way has ended: why it was a login, if it was one, and
    /// how long it took.
    fn landed(&mut self, now: Moment) -> (Reason, Duration) {
        match self.flight.take() {
            Some(UnderWay {
                flight: Flight::Login { reason, .. },
                since,
            }) => (reason, now.saturating_sub(since)),
            Some(UnderWay { since, .. }) => (self.missing, now.saturating_sub(since)),
            None => (self.missing, Duration::ZERO),
        }
    }

    fn suspend(&mut self, target: Option<Target>) {
        let Some(current) = &mut self.current else {
            return;
        };
        if current.standing == Standing::Good {
            current.standing = Standing::Suspended(target);
            let generation = current.generation;
            self.events.push(Event::TokenRejected { generation });
        }
    }

    fn install(&mut self, lifetimes: Lifetimes, sent: Moment, now: Moment) -> u64 {
        self.issued += 1;
        self.current = Some(Current {
            generation: self.issued,
            lifespan: Lifespan::new(lifetimes, sent, now, &mut self.jitter),
            standing: Standing::Good,
        });
        self.cooldowns.login_succeeded();
        self.issued
    }

    /// The token in use is about to be replaced.
    fn replaced(&mut self, continues: bool) {
        let Some(Current {
            generation,
            lifespan,
            standing,
        }) = self.current.take()
        else {
            return;
        };
        let ends = lifespan.ends_in_any_case();
        let token = Unused { generation, ends };
        let end = match (standing, self.settings.logout_ends) {
            _ if continues => TokenEnd::Continued,
            (Standing::Suspended(None), _) | (Standing::Suspended(Some(_)), LogoutEnds::User) => {
                TokenEnd::Rejected
            }
            (Standing::Good, LogoutEnds::User) => TokenEnd::Abandoned,
            (Standing::Good, LogoutEnds::Token | LogoutEnds::Session) => {
                return self.retire(token, None);
            }
            (Standing::Suspended(Some(target)), LogoutEnds::Token | LogoutEnds::Session) => {
                return self.retire(token, Some(target));
            }
        };
        self.ended(generation, end);
    }

    fn retire(&mut self, token: Unused, rejected_by: Option<Target>) {
        if let Some(given_up) = self.retirement.add(token, rejected_by) {
            self.ended(given_up, TokenEnd::Abandoned);
        }
    }

    /// Replaced tokens are to be logged out with the one in use.
    fn end_replaced(&mut self) {
        self.ending.extend(self.retirement.end());
    }

    fn reopen(&mut self) {
        self.phase = Phase::Open;
        match self.settings.logout_ends {
            // They would end the token to come, so they wait for the next logout.
            LogoutEnds::User => {}
            LogoutEnds::Token | LogoutEnds::Session => {
                for token in std::mem::take(&mut self.ending) {
                    self.retire(token, None);
                }
            }
        }
    }

    fn end_what_is_left(&mut self, now: Moment) {
        if self.flight.is_some() {
            return;
        }
        let ending = std::mem::take(&mut self.ending).into_iter();
        let is_over = |token: &Unused| token.ends.is_some_and(|ends| ends <= now);
        let (over, left): (Vec<_>, Vec<_>) = ending.partition(is_over);
        self.ending = left;
        let was_left = !over.is_empty();
        for token in over {
            self.ended(token.generation, TokenEnd::Expired);
        }
        match (&mut self.phase, self.ending.is_empty()) {
            // With what the last logout could not end, its error goes.
            (Phase::LoggedOut(outcome), true) if was_left => *outcome = Ok(()),
            (_, true) => {}
            (_, false) => self.start(Flight::Logout, now),
        }
    }

    fn ended(&mut self, generation: u64, end: TokenEnd) {
        self.events.push(Event::TokenEnded { generation, end });
    }

    /// Why there is no session any more.
    fn over(&self) -> Error {
        Error::new(match self.closed {
            true => ErrorKind::Closed,
            false => ErrorKind::LoggedOut,
        })
    }

    fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Another flight is under way.
    fn busy(&mut self) -> Begin {
        self.hold_up();
        Begin::Busy
    }

    fn is_retiring(&self) -> bool {
        let flight = self.flight.map(|under_way| under_way.flight);
        matches!(flight, Some(Flight::Retire { .. }))
    }

    /// Whether a login is under way, and not just a question to the source.
    fn is_logging_in(&self) -> bool {
        let flight = self.flight.map(|under_way| under_way.flight);
        matches!(flight, Some(Flight::Login { .. })) && !self.is_rechecking()
    }

    fn is_rechecking(&self) -> bool {
        matches!(
            self.flight,
            Some(UnderWay {
                flight: Flight::Login {
                    attempt: Attempt::Recheck,
                    ..
                },
                ..
            })
        )
    }
}

#[cfg(test)]
mod seen;
#[cfg(test)]
mod tests;
