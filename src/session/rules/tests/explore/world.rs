//! A session's rules and their environment: the users of tokens, the callers that wait,
//! the running tasks, and the state of the server.
//!
//! The world acts as the driver and the middleware do, without tasks and locks. Each
//! [`Act`] is an event outside of the session, with all its consequences at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use http::Method;

use super::checks::{Broken, RECENTLY};
use super::state_key::{StateKey, WriteState};
use crate::error::{Error, ErrorKind};
use crate::origin::Target;
use crate::provider::{LogoutEnds, Reason};
use crate::reauth::ReauthFailure;
use crate::session::rules::Lifetimes;
use crate::session::rules::LogoutOutcome;
use crate::session::rules::TokenEnd;
use crate::session::rules::{
    Acquire, JobKind, JobStart, Launch, LoginOutcome, NewToken, OnRejection, Rules, RulesSettings,
    Signal, Timestamp,
};

/// The seed of the rng, the same in each world.
const SEED: u64 = 1;

/// The time between two acts, so that their times show their order.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// The most requests and holders at one time.
const MOST_USERS: usize = 2;

/// The start of an exploration.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) name: &'static str,
    pub(super) settings: RulesSettings,
    /// The lifetimes that the server may report for a token.
    pub(super) lives: &'static [Lifetimes],
    /// The token that the session starts with.
    pub(super) initial: Option<Lifetimes>,
    /// The acts before the exploration.
    pub(super) before: &'static [Act],
}

/// An event outside of the session.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Act {
    Request(Path),
    /// `Session::token`, whose caller keeps the token.
    Token,
    /// The user at this place gets its answer.
    Answer(usize, Response),
    /// The user drops its token, or stops waiting.
    Leave(usize),
    /// `Session::reject` and `Session::accept`, by a holder.
    Reject(usize),
    Accept(usize),
    Login,
    Renew,
    ChangePassword,
    Logout,
    Close,
    Land(Landing),
    Pass(Until),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    A,
    B,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Response {
    Accepted,
    /// With the token's next value, and perhaps its lifetime.
    Rolls(Option<Duration>),
    Rejected,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Landing {
    /// A new token that lives for the one of `Setup::lives`.
    NewToken {
        lives: usize,
        continues: bool,
    },
    /// The token in use once more.
    Same {
        lives: usize,
    },
    /// A replaced token that has not ended, once more.
    Earlier,
    Failed(ErrorKind, Option<Duration>),
    /// The tokens of a logout have ended, or may be tried again, or may not.
    Ended,
    Left,
    Abandoned,
    /// The first is left, the others have ended.
    Some,
    BackgroundLogout(LogoutOutcome),
    Changed,
    NotChanged(ErrorKind),
    /// A login must come before a password change.
    PutOff,
}

/// Up to when time passes. The next action is the next one of the rules' timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// A millisecond before the next action.
    Before,
    /// The next action, and the timer goes off.
    Next,
    /// The next action, and the timer is late.
    Late,
    /// An hour, and the timer is late.
    Slept,
}

/// A request or a holder that uses a token, or waits for one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct User {
    /// The number of this user, of all users so far.
    pub(super) number: usize,
    /// The target of a request. `None` for a holder, which got its token from
    /// `Session::token`.
    pub(super) path: Option<Path>,
    pub(super) stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stage {
    Acquiring {
        replayed: bool,
    },
    /// A request is under way, or a holder has its token.
    Using {
        generation: u64,
        replayed: bool,
        sent: Timestamp,
        reported: bool,
    },
    Renewing {
        generation: u64,
    },
}

/// A caller that waits for a job to get one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PendingCall {
    Login { logouts: u32 },
    Renew,
    ChangePassword,
}

/// A running job or background logout.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct UnderWay {
    pub(super) launch: Launch,
    pub(super) since: Timestamp,
    /// Whether `renew()` waits for this login.
    pub(super) is_requested: bool,
    /// The tokens of a logout.
    pub(super) tokens: Vec<u64>,
    /// How many logouts came before.
    pub(super) logouts: u32,
    /// Whether the credentials were refused before.
    pub(super) asks_source: bool,
}

/// A token that the server has issued, as the server knows it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) generation: u64,
    pub(super) sent: Timestamp,
    pub(super) arrived: Timestamp,
    pub(super) lifetimes: Lifetimes,
    /// When the last request was sent whose acceptance was reported to the session.
    pub(super) sampled: Timestamp,
    /// Whether the session knows that it was used.
    pub(super) used: bool,
    /// When it was last reported to be accepted, unless a login has yielded it again
    /// after a rejection.
    pub(super) accepted: Option<Timestamp>,
    /// The path that rejected it after it was proven; `Some(None)` by hand. `None` again
    /// if the path rejects a newer token too.
    pub(super) rejected_by: Option<Option<Path>>,
    /// Whether it has expired, and its data may not have.
    pub(super) is_spent: bool,
    /// Whether a later one was proven, or a login has failed, since it was replaced. If
    /// it is spent, whether a login has yielded one since.
    pub(super) succeeded: bool,
    /// When it is dead, unless its path rejects a newer token before.
    pub(super) dead_at: Option<Timestamp>,
    /// Whether a login has yielded it again while it was being logged out.
    pub(super) was_reused: bool,
    /// Whether a logout of the session was to end it.
    pub(super) was_to_end: bool,
    /// How often its logout was tried.
    pub(super) tries: u32,
    pub(super) state: KnownState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KnownState {
    InUse,
    /// It is newer than the one in use, and not proven.
    Candidate,
    /// It is no longer in use, and has not ended.
    Retired,
    Ended(TokenEnd),
}

/// An event of the rules.
#[derive(Clone, Debug)]
pub(super) enum Cause {
    Start,
    /// A request looks for a token.
    Asked,
    /// A request is about to carry the candidate.
    Tried,
    Rejected {
        generation: u64,
        path: Option<Path>,
    },
    ReplayRejected {
        path: Path,
    },
    Accepted {
        generation: u64,
        path: Option<Path>,
        sent: Timestamp,
    },
    Rolled {
        lifetime: Option<Duration>,
        sent: Timestamp,
    },
    Timer,
    Login,
    Renew,
    ChangePassword,
    Logout,
    Close,
    Landed(UnderWay, Landing),
}

/// The result of a job for its waiters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Failed,
    Unchanged,
    Other,
}

/// An entry of the log that a scenario is written from.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    Asked(User),
    /// It has a token, or carries one.
    Sent {
        user: usize,
    },
    Answered {
        user: usize,
        answer: Response,
    },
    /// It got an error, or its rejected response.
    Gone {
        user: usize,
    },
    Left {
        user: usize,
    },
    Rejected {
        user: usize,
    },
    Accepted,
    Called(Act),
    Launched(UnderWay),
    Landed(Landing),
    Late {
        from: Timestamp,
    },
    /// Time has come to an action whose time the rng determines.
    Spread,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) rules: Rules,
    pub(super) setup: &'static Setup,
    pub(super) now: Timestamp,
    pub(super) job: Option<UnderWay>,
    /// The logout of a replaced token, beside the job.
    pub(super) background_logout: Option<UnderWay>,
    pub(super) tokens: Vec<Known>,
    pub(super) users: Vec<User>,
    pub(super) pending_call: Option<PendingCall>,
    pub(super) logged_out: bool,
    pub(super) logouts: u32,
    pub(super) closed: bool,
    /// When the credentials were refused, or when the source was asked last.
    pub(super) refused: Option<Timestamp>,
    /// Until when no login is made.
    pub(super) backs_off: Option<Timestamp>,
    /// When the last login yielded a token.
    pub(super) renewed: Option<Timestamp>,
    /// When the candidate may be tried next, and how often it was rejected.
    pub(super) next_try: Timestamp,
    pub(super) candidate_rejections: u32,
    pub(super) candidate_rejected_by: Option<Path>,
    /// The refreshes by rejection, as far as they may start.
    pub(super) bounds: Bounds,
    /// Whether the running login is one of them.
    pub(super) paying: bool,
    /// When a token was rejected last, and when an acceptance was reported since.
    pub(super) rejected: Option<Timestamp>,
    pub(super) reported: Option<Timestamp>,
    /// The last outcomes of each path.
    pub(super) targets: [TargetSeen; 2],
    /// A rejection that waits for the end of a job.
    pub(super) deferred_rejection: Option<(u64, Option<Path>)>,
    /// The first rule that was broken.
    pub(super) broken: Option<Broken>,
    /// How many users there were.
    arrived: usize,
    log: Option<Vec<(Timestamp, Entry)>>,
}

/// How many refreshes by rejection may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Ten seconds for each.
    pub(super) credit: Duration,
    pub(super) counted: Timestamp,
    /// The refreshes of unproven tokens, since one was accepted.
    pub(super) unproven: u32,
    pub(super) spaced_until: Timestamp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TargetSeen {
    pub(super) accepted: Option<Timestamp>,
    /// Until when it cools down, and for how long.
    pub(super) cooling: Option<(Timestamp, Duration)>,
}

impl Path {
    pub(super) fn target(self) -> Target {
        Target::of(&Method::GET, self.as_str())
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::A => "/a",
            Self::B => "/b",
        }
    }
}

impl User {
    /// The token that it holds.
    pub(super) fn held(&self) -> Option<u64> {
        match self.stage {
            Stage::Using { generation, .. } => Some(generation),
            // A rejected response is in memory, and holds none.
            Stage::Acquiring { .. } | Stage::Renewing { .. } => None,
        }
    }

    pub(super) fn waits(&self) -> bool {
        self.held().is_none()
    }
}

impl World {
    pub(super) fn new(setup: &'static Setup, logging: bool) -> Self {
        let mut world = Self {
            rules: Rules::new(setup.settings, SEED),
            setup,
            now: Timestamp::ZERO,
            job: None,
            background_logout: None,
            tokens: Vec::new(),
            users: Vec::new(),
            pending_call: None,
            logged_out: false,
            logouts: 0,
            closed: false,
            refused: None,
            backs_off: None,
            renewed: None,
            next_try: Timestamp::ZERO,
            candidate_rejections: 0,
            candidate_rejected_by: None,
            bounds: Bounds {
                credit: Duration::from_secs(50),
                counted: Timestamp::ZERO,
                unproven: 0,
                spaced_until: Timestamp::ZERO,
            },
            paying: false,
            rejected: None,
            reported: None,
            targets: Default::default(),
            deferred_rejection: None,
            broken: None,
            arrived: 0,
            log: logging.then(Vec::new),
        };
        if let Some(lifetimes) = setup.initial {
            let generation = world.rules.set_initial(lifetimes);
            world.learn(generation, lifetimes, Timestamp::ZERO, KnownState::InUse);
            world.step(&Cause::Start, |_, _| ());
        }
        world.now = TICK;
        world
    }

    pub(super) fn log(&self) -> &[(Timestamp, Entry)] {
        self.log.as_deref().unwrap_or_default()
    }

    fn note(&mut self, entry: Entry) {
        if let Some(log) = &mut self.log {
            log.push((self.now, entry));
        }
    }

    pub(super) fn learn(
        &mut self,
        generation: u64,
        lifetimes: Lifetimes,
        sent: Timestamp,
        state: KnownState,
    ) {
        self.tokens.push(Known {
            generation,
            sent,
            arrived: self.now,
            lifetimes,
            sampled: sent,
            used: false,
            accepted: None,
            rejected_by: None,
            is_spent: false,
            succeeded: false,
            dead_at: None,
            was_reused: false,
            was_to_end: self.logged_out,
            tries: 0,
            state,
        });
    }

    /// Returns the acts that may happen now.
    pub(super) fn acts(&self) -> Vec<Act> {
        let mut acts = Vec::with_capacity(40);
        if self.users.len() < MOST_USERS {
            acts.extend([Act::Request(Path::A), Act::Request(Path::B), Act::Token]);
        }
        for (place, user) in self.users.iter().enumerate() {
            acts.push(Act::Leave(place));
            if user.held().is_none() {
                continue;
            }
            if user.path.is_none() {
                acts.extend([Act::Reject(place), Act::Accept(place)]);
                continue;
            }
            let answers = [Response::Accepted, Response::Rejected];
            acts.extend(answers.map(|answer| Act::Answer(place, answer)));
            if self.setup.settings.rolls {
                let rolls = [None, Some(Duration::from_secs(100))].map(Response::Rolls);
                acts.extend(rolls.map(|answer| Act::Answer(place, answer)));
            }
        }
        if self.pending_call.is_none() {
            acts.extend([Act::Login, Act::Renew, Act::ChangePassword]);
        }
        acts.extend([Act::Logout, Act::Close]);
        for under_way in self.job.iter().chain(&self.background_logout) {
            acts.extend(self.landings(under_way).into_iter().map(Act::Land));
        }
        if let Some(next) = self.next() {
            if next > self.now + TICK {
                acts.push(Act::Pass(Until::Before));
            }
            acts.extend([Until::Next, Until::Late, Until::Slept].map(Act::Pass));
        }
        acts
    }

    fn landings(&self, under_way: &UnderWay) -> Vec<Landing> {
        match under_way.launch {
            Launch::Job(JobKind::Login { .. }) => {
                let lives = 0..self.setup.lives.len();
                let mut landings: Vec<_> = lives
                    .clone()
                    .map(|lives| Landing::NewToken {
                        lives,
                        continues: false,
                    })
                    .collect();
                let newest = self.tokens.last();
                let is_spent = newest.is_some_and(|newest| newest.is_spent);
                if self.rules.generation().is_some() {
                    landings.extend(lives.map(|lives| Landing::Same { lives }));
                }
                if self.rules.generation().is_some() || is_spent {
                    landings.push(Landing::NewToken {
                        lives: 0,
                        continues: true,
                    });
                }
                if self.earlier().is_some() {
                    landings.push(Landing::Earlier);
                }
                landings.extend([
                    Landing::Failed(ErrorKind::Refused, None),
                    Landing::Failed(ErrorKind::Unavailable, None),
                    Landing::Failed(ErrorKind::Unavailable, Some(Duration::from_secs(90))),
                    Landing::Failed(ErrorKind::Uncertain, None),
                    Landing::Failed(ErrorKind::Protocol, None),
                    Landing::Failed(ErrorKind::NoRuntime, None),
                ]);
                landings
            }
            // It waits for the logout beside it.
            Launch::Job(JobKind::Logout) if self.background_logout.is_some() => Vec::new(),
            Launch::Job(JobKind::Logout) if under_way.tokens.is_empty() => vec![Landing::Ended],
            Launch::Job(JobKind::Logout) => {
                let mut landings = vec![Landing::Ended, Landing::Left, Landing::Abandoned];
                if under_way.tokens.len() > 1 {
                    landings.push(Landing::Some);
                }
                landings
            }
            Launch::BackgroundLogout { .. } => [
                LogoutOutcome::Done,
                LogoutOutcome::Postponed(None),
                LogoutOutcome::Postponed(Some(Duration::from_secs(5))),
                LogoutOutcome::Failed,
            ]
            .map(Landing::BackgroundLogout)
            .into(),
            Launch::Job(JobKind::ChangePassword) => vec![
                Landing::Changed,
                Landing::NotChanged(ErrorKind::Refused),
                Landing::NotChanged(ErrorKind::Uncertain),
                Landing::NotChanged(ErrorKind::TokenRejected),
                Landing::PutOff,
            ],
        }
    }

    /// Returns a replaced token that has not ended.
    fn earlier(&self) -> Option<u64> {
        let mut tokens = self.tokens.iter().map(|token| token.generation);
        tokens.find(|generation| self.rules.is_replaced(*generation))
    }

    /// Returns the next time at which the rules change.
    pub(super) fn next(&self) -> Option<Timestamp> {
        let mut key = StateKey::at(self.now);
        self.rules.write(&mut key);
        let wake = self.rules.wake().filter(|wake| *wake > self.now);
        match (key.next(), wake) {
            (Some(next), Some(wake)) => Some(next.min(wake)),
            (next, None) | (None, next) => next,
        }
    }

    /// Returns the key by which worlds are compared.
    pub(super) fn key(&self) -> Box<[u64]> {
        let mut key = StateKey::at(self.now);
        self.write(&mut key);
        key.finish()
    }

    /// Returns the rule that breaks by that. A panic counts as a broken rule.
    pub(super) fn tried(&mut self, does: impl FnOnce(&mut Self)) -> Option<Broken> {
        if catch_unwind(AssertUnwindSafe(|| does(self))).is_err() {
            self.fail(2, "the rules panic".into());
        }
        self.broken.clone()
    }

    pub(super) fn act(&mut self, act: Act) {
        let mut timer_is_late = false;
        match act {
            Act::Request(path) => self.arrive(Some(path)),
            Act::Token => self.arrive(None),
            Act::Answer(place, answer) => self.answer(place, answer),
            Act::Leave(place) => {
                let user = self.users.remove(place);
                self.note(Entry::Left { user: user.number });
            }
            Act::Reject(place) => {
                let user = self.users[place];
                self.note(Entry::Rejected { user: user.number });
                if let Some(generation) = user.held() {
                    self.rejected(generation, None);
                }
            }
            Act::Accept(place) => {
                self.note(Entry::Accepted);
                if let Some(generation) = self.users[place].held() {
                    let cause = Cause::Accepted {
                        generation,
                        path: None,
                        sent: self.now,
                    };
                    self.step(&cause, |rules, now| rules.accepted_by_hand(generation, now));
                }
            }
            Act::Login => {
                self.note(Entry::Called(act));
                self.call(PendingCall::Login {
                    logouts: self.logouts,
                });
            }
            Act::Renew => {
                self.note(Entry::Called(act));
                self.call(PendingCall::Renew);
            }
            Act::ChangePassword => {
                self.note(Entry::Called(act));
                self.call(PendingCall::ChangePassword);
            }
            Act::Logout => {
                self.note(Entry::Called(act));
                self.step(&Cause::Logout, |rules, now| rules.logout(now));
                self.wake(Word::Other);
            }
            Act::Close => {
                self.note(Entry::Called(act));
                self.step(&Cause::Close, |rules, _| rules.close());
            }
            Act::Land(landing) => self.land(landing),
            Act::Pass(until) => {
                timer_is_late = self.pass(until);
            }
        }
        if timer_is_late {
            return;
        }
        self.timer();
        if !matches!(act, Act::Pass(Until::Before)) {
            self.now += TICK;
            self.timer();
        }
        self.check_rest();
    }

    /// Whether the timer is late.
    fn pass(&mut self, until: Until) -> bool {
        let Some(next) = self.next() else {
            return false;
        };
        let rounded_up = |at: Timestamp| {
            let rest = at.as_nanos() % TICK.as_nanos();
            match rest {
                0 => at,
                rest => at + TICK - Duration::from_nanos(rest as u64),
            }
        };
        let from = self.now;
        if rounded_up(next) != next && until != Until::Slept {
            self.note(Entry::Spread);
        }
        match until {
            Until::Before => {
                self.now = self.now.max(rounded_up(next) - TICK);
                false
            }
            Until::Next => {
                self.now = rounded_up(next);
                false
            }
            Until::Late => {
                self.note(Entry::Late { from });
                self.now = rounded_up(next);
                true
            }
            Until::Slept => {
                self.note(Entry::Late { from });
                self.now += Duration::from_secs(3600);
                true
            }
        }
    }

    /// Runs the timer until nothing is due.
    pub(super) fn timer(&mut self) {
        for _ in 0..8 {
            let is_time = self.rules.wake().is_some_and(|wake| wake <= self.now);
            if !is_time && !self.has_unreported_release() {
                return;
            }
            self.step(&Cause::Timer, |rules, now| rules.tick(now));
        }
        self.fail(13, "the timer goes off again and again".into());
    }

    /// Whether the last use of a token has ended and was not reported to the rules.
    fn has_unreported_release(&self) -> bool {
        self.tokens.iter().any(|token| {
            !self.is_held(token.generation) && self.rules.is_waiting_for(token.generation)
        })
    }

    /// Whether a caller waits for a job.
    pub(super) fn is_waited_for(&self) -> bool {
        self.users.iter().any(User::waits) || self.pending_call.is_some()
    }

    pub(super) fn is_held(&self, generation: u64) -> bool {
        let mut held = self.users.iter().filter_map(User::held);
        held.any(|held| held == generation)
    }

    /// Whether a request under way may carry the published token.
    fn is_usable(&self) -> bool {
        let signal = self.rules.signal();
        signal.is_some_and(|signal| signal <= Signal::Closing)
    }

    fn arrive(&mut self, path: Option<Path>) {
        let user = User {
            number: self.arrived,
            path,
            stage: Stage::Acquiring { replayed: false },
        };
        self.arrived += 1;
        self.note(Entry::Asked(user));
        // On the fast path, which does not ask the rules.
        if path.is_some() && self.rules.signal() == Some(Signal::Live) {
            self.users.push(user);
            return self.send(user.number, false);
        }
        if let Err(error) = self.step(&Cause::Asked, |rules, now| rules.admit(now)) {
            if !self.closed || error.kind() != ErrorKind::Closed {
                self.fail(20, format!("a request was turned away: {error:?}"));
            }
            return self.note(Entry::Gone { user: user.number });
        }
        if self.closed {
            self.fail(20, "a request was admitted after close()".into());
        }
        self.users.push(user);
        if path.is_some() && self.is_usable() {
            return self.send(user.number, false);
        }
        self.acquire(user.number);
    }

    fn place(&self, number: usize) -> Option<usize> {
        self.users.iter().position(|user| user.number == number)
    }

    fn set(&mut self, number: usize, stage: Stage) {
        if let Some(place) = self.place(number) {
            self.users[place].stage = stage;
        }
    }

    fn gone(&mut self, number: usize) {
        self.users.retain(|user| user.number != number);
        self.note(Entry::Gone { user: number });
    }

    /// A user takes the published token.
    fn send(&mut self, number: usize, replayed: bool) {
        let Some(mut generation) = self.rules.generation() else {
            return self.fail(5, "a request is sent without a token".into());
        };
        self.check_use(generation);
        let place = self.place(number);
        // Acts as `Attempt::send` does.
        let path = place.and_then(|place| self.users[place].path);
        if let Some(path) = path.filter(|_| !replayed)
            && self.rules.signal() == Some(Signal::Offered)
        {
            let is_doubtful = self.has_cooled(path);
            let cause = match is_doubtful {
                true => Cause::Asked,
                false => Cause::Tried,
            };
            let target = path.target();
            let tried = self.step(&cause, |rules, now| rules.try_candidate(target, now));
            if tried.is_some() == is_doubtful {
                self.fail(13, format!("{path:?} tries {tried:?}"));
            }
            generation = tried.unwrap_or(generation);
        }
        let stage = Stage::Using {
            generation,
            replayed,
            sent: self.now,
            reported: replayed || self.rules.signal() != Some(Signal::Live),
        };
        self.set(number, stage);
        self.note(Entry::Sent { user: number });
    }

    /// Acts as `AcquireToken` does.
    fn acquire(&mut self, number: usize) {
        let Some(place) = self.place(number) else {
            return;
        };
        let replayed = match self.users[place].stage {
            Stage::Acquiring { replayed } => replayed,
            Stage::Using { .. } | Stage::Renewing { .. } => true,
        };
        self.set(number, Stage::Acquiring { replayed });
        for _ in 0..4 {
            match self.step(&Cause::Asked, |rules, now| rules.acquire(now)) {
                Acquire::Use if self.is_usable() => return self.take(number, replayed),
                Acquire::Use => {}
                Acquire::Wait => {
                    if self.job.is_some() {
                        return;
                    }
                    return self.fail(2, "a request waits for no job".into());
                }
                Acquire::Fail(error) => {
                    self.check_failure(&error);
                    return self.gone(number);
                }
            }
        }
        self.fail(2, "a request asks for a token for ever".into());
    }

    /// A user has acquired the published token.
    fn take(&mut self, number: usize, replayed: bool) {
        let place = self.place(number);
        if place.is_some_and(|place| self.users[place].path.is_none()) {
            self.send(number, replayed);
            self.step(&Cause::Asked, |rules, now| rules.on_use(now));
            return;
        }
        // A request looks at the clock once more, when its service is ready.
        self.step(&Cause::Asked, |rules, now| rules.on_use(now));
        if !self.is_usable() {
            return self.acquire(number);
        }
        if self.rules.ends().is_some_and(|ends| ends <= self.now) {
            self.fail(13, "a request carries a token that is over".into());
        }
        self.send(number, replayed);
    }

    fn answer(&mut self, place: usize, answer: Response) {
        let user = self.users[place];
        let (
            Some(path),
            Stage::Using {
                generation,
                replayed,
                sent,
                reported,
            },
        ) = (user.path, user.stage)
        else {
            return;
        };
        self.note(Entry::Answered {
            user: user.number,
            answer,
        });
        let target = path.target();
        match answer {
            Response::Accepted | Response::Rolls(_) => {
                self.users.remove(place);
                if !reported {
                    return;
                }
                let cause = Cause::Accepted {
                    generation,
                    path: Some(path),
                    sent,
                };
                self.step(&cause, |rules, now| {
                    rules.accepted(generation, target, sent, now);
                });
                if let Response::Rolls(lifetime) = answer
                    && self.rules.generation() == Some(generation)
                {
                    let cause = Cause::Rolled { lifetime, sent };
                    self.step(&cause, |rules, now| rules.rolled(lifetime, None, sent, now));
                }
            }
            Response::Rejected if replayed => {
                self.users.remove(place);
                self.step(&Cause::ReplayRejected { path }, |rules, now| {
                    rules.replay_rejected(target, now);
                });
            }
            Response::Rejected => {
                // It reads its response and drops the token before it waits.
                self.users[place].stage = Stage::Renewing { generation };
                self.renew(user.number);
            }
        }
    }

    /// Acts as `AwaitRefresh` does.
    fn renew(&mut self, number: usize) {
        let Some(place) = self.place(number) else {
            return;
        };
        let User {
            path,
            stage: Stage::Renewing { generation },
            ..
        } = self.users[place]
        else {
            return;
        };
        match self.rejected(generation, path) {
            OnRejection::Replay => self.take(number, true),
            OnRejection::Wait => {}
            OnRejection::Return(_) => self.gone(number),
        }
    }

    fn rejected(&mut self, generation: u64, path: Option<Path>) -> OnRejection {
        let target = path.map(Path::target);
        let cause = Cause::Rejected { generation, path };
        let may_refresh = self.may_refresh(generation, path);
        let may_repeat = self.may_repeat(generation, path);
        let answer = self.step(&cause, |rules, now| rules.rejected(generation, target, now));
        match &answer {
            OnRejection::Replay => {
                // An older one, if the rejected one is the candidate.
                let other = self.rules.generation() != Some(generation);
                if !other && !may_repeat || !self.is_usable() {
                    self.fail(3, "a replay without a newer token".into());
                }
            }
            OnRejection::Wait => {
                let is_login = matches!(
                    self.job,
                    Some(UnderWay {
                        launch: Launch::Job(JobKind::Login { .. }),
                        ..
                    })
                );
                if self.job.is_none() {
                    self.fail(2, "a rejection waits for no job".into());
                }
                if is_login && self.rules.generation() == Some(generation) && self.is_usable() {
                    self.fail(5, "a rejected token is used while it is renewed".into());
                }
            }
            OnRejection::Return(ReauthFailure::CoolingDown) if may_refresh || may_repeat => {
                self.fail(9, "a rejection is returned that nothing cools down".into());
            }
            OnRejection::Return(ReauthFailure::RenewalFailed(error)) => self.check_failure(error),
            OnRejection::Return(ReauthFailure::LoggedOut) if !self.logged_out => {
                self.fail(20, "told of a logout that was none".into());
            }
            OnRejection::Return(_) => {}
        }
        answer
    }

    fn call(&mut self, pending_call: PendingCall) {
        self.pending_call = None;
        let (cause, begin) = match pending_call {
            PendingCall::Login { logouts } => {
                let may = logouts == self.logouts && !self.closed;
                let begin = self.step(&Cause::Login, |rules, now| rules.login(logouts, now));
                if !may && !matches!(begin, JobStart::Fail(_)) {
                    self.fail(20, "a login goes on that was asked for before".into());
                }
                (Cause::Login, begin)
            }
            PendingCall::Renew => (
                Cause::Renew,
                self.step(&Cause::Renew, |rules, now| rules.renew(now)),
            ),
            PendingCall::ChangePassword => {
                // A password change gets a token first, as any other caller does.
                if self
                    .step(&Cause::Asked, |rules, now| rules.admit(now))
                    .is_err()
                {
                    return;
                }
                match self.step(&Cause::Asked, |rules, now| rules.acquire(now)) {
                    Acquire::Use => {}
                    Acquire::Wait => {
                        if self.job.is_none() {
                            self.fail(2, "a password change waits for no job".into());
                        }
                        self.pending_call = Some(pending_call);
                        return;
                    }
                    Acquire::Fail(error) => return self.check_failure(&error),
                }
                let usable = self.is_usable();
                let cause = Cause::ChangePassword;
                let begin = self.step(&cause, |rules, now| rules.change_password(now));
                if matches!(begin, JobStart::Started) && !usable {
                    self.fail(21, "a password is changed without a token".into());
                }
                (cause, begin)
            }
        };
        let job = self.job.as_ref().map(|under_way| under_way.launch);
        match begin {
            JobStart::Started => {
                let fits = match (pending_call, job) {
                    (PendingCall::ChangePassword, Some(Launch::Job(JobKind::ChangePassword))) => {
                        true
                    }
                    (_, Some(Launch::Job(JobKind::Login { .. }))) => {
                        pending_call != PendingCall::ChangePassword
                    }
                    _ => false,
                };
                if !fits {
                    self.fail(1, format!("{cause:?} has started {job:?}"));
                }
            }
            JobStart::Join => {
                let is_newer = self
                    .job
                    .as_ref()
                    .is_some_and(|job| job.logouts == self.logouts);
                if let Some(job) = &mut self.job {
                    job.is_requested |= pending_call == PendingCall::Renew;
                }
                if !matches!(job, Some(Launch::Job(JobKind::Login { .. }))) || !is_newer {
                    self.fail(1, format!("{cause:?} joins {job:?}"));
                }
            }
            JobStart::Busy => match job {
                Some(_) => self.pending_call = Some(pending_call),
                None => self.fail(2, format!("{cause:?} waits for no job")),
            },
            // Its token was usable just now.
            JobStart::NeedsToken => self.fail(21, format!("{cause:?} lacks a token")),
            JobStart::Fail(error) => self.check_failure(&error),
        }
    }

    /// Acts as `Driver::land` does.
    fn land(&mut self, landing: Landing) {
        let place = match landing {
            Landing::BackgroundLogout(_) => &mut self.background_logout,
            _ => &mut self.job,
        };
        let Some(under_way) = place.take() else {
            return;
        };
        self.note(Entry::Landed(landing));
        let cause = Cause::Landed(under_way.clone(), landing);
        let failed = |kind, asked_for: Option<Duration>| {
            let error = Error::new(kind);
            match asked_for {
                Some(delay) => error.with_retry_after(delay),
                None => error,
            }
        };
        let word = match landing {
            Landing::NewToken { .. } | Landing::Same { .. } | Landing::Earlier => {
                let issued = NewToken {
                    lifetimes: self.lifetimes(landing),
                    sent: under_way.since,
                    same: matches!(landing, Landing::Same { .. }),
                    continues: matches!(
                        landing,
                        Landing::NewToken {
                            continues: true,
                            ..
                        }
                    ),
                };
                let earlier = self.earlier().filter(|_| landing == Landing::Earlier);
                let is_kept_back = self.is_kept_back(&under_way, issued);
                let fate = self.step(&cause, |rules, now| {
                    let fate = rules.login_landed(issued, now);
                    // Acts as `Driver::publish_token` and `Driver::keep_back` do.
                    if let (
                        LoginOutcome::Publish { .. } | LoginOutcome::Keep { .. },
                        Some(earlier),
                    ) = (fate, earlier)
                    {
                        rules.reused(earlier);
                    }
                    fate
                });
                if matches!(fate, LoginOutcome::Keep { .. }) != is_kept_back {
                    self.fail(13, format!("{fate:?}, to be kept back: {is_kept_back}"));
                }
                if let Some(token) = earlier.and_then(|earlier| self.known(earlier)) {
                    token.was_reused |= matches!(
                        fate,
                        LoginOutcome::Publish { .. } | LoginOutcome::Keep { .. }
                    );
                }
                self.check_fate(fate, issued.same, under_way.logouts);
                match fate {
                    LoginOutcome::Publish { .. } | LoginOutcome::Keep { .. } => Word::Other,
                    LoginOutcome::Unchanged { .. } => Word::Unchanged,
                    LoginOutcome::End { .. } => Word::Failed,
                }
            }
            Landing::Failed(kind, asked_for) => {
                let error = failed(kind, asked_for);
                let told = self.step(&cause, |rules, now| rules.login_failed(error, now));
                let expected = match self.logged_out {
                    true if self.closed => ErrorKind::Closed,
                    true => ErrorKind::LoggedOut,
                    false => kind,
                };
                if told.kind() != expected {
                    self.fail(1, format!("a login failed with {kind:?}, as {told:?}"));
                }
                Word::Failed
            }
            Landing::Ended | Landing::Left | Landing::Abandoned | Landing::Some => {
                let tokens = under_way.tokens.clone();
                let (ended, end, outcome) = match landing {
                    Landing::Left => (
                        &tokens[..0],
                        TokenEnd::LoggedOut,
                        Err(ErrorKind::Unavailable),
                    ),
                    Landing::Abandoned => (
                        &tokens[..],
                        TokenEnd::Abandoned,
                        Err(ErrorKind::Unsupported),
                    ),
                    Landing::Some => (
                        &tokens[1..],
                        TokenEnd::LoggedOut,
                        Err(ErrorKind::Unavailable),
                    ),
                    _ => (&tokens[..], TokenEnd::LoggedOut, Ok(())),
                };
                let outcome = outcome.map_err(Error::new);
                let ended: Vec<_> = ended.iter().map(|token| (*token, end)).collect();
                self.step(&cause, |rules, _| rules.logout_landed(&ended, outcome));
                Word::Other
            }
            Landing::BackgroundLogout(logout) => {
                if let LogoutOutcome::Postponed(_) | LogoutOutcome::Failed = logout
                    && let Some(job) = &mut self.job
                    && job.launch == Launch::Job(JobKind::Logout)
                {
                    job.tokens.extend(&under_way.tokens);
                }
                self.step(&cause, |rules, now| {
                    rules.background_logout_landed(logout, now);
                });
                // Only a logout of the session waits for it.
                return self.timer();
            }
            Landing::Changed => {
                self.step(&cause, |rules, now| {
                    rules.password_change_landed(Ok(()), now);
                });
                Word::Other
            }
            Landing::NotChanged(kind) => {
                let error = failed(kind, None);
                self.step(&cause, |rules, now| {
                    rules.password_change_landed(Err(error), now);
                });
                Word::Other
            }
            Landing::PutOff => {
                self.step(&cause, |rules, now| rules.password_change_put_off(now));
                Word::Other
            }
        };
        // The actions that are due were set before any waiter was woken.
        self.timer();
        self.wake(word);
    }

    /// Whether a token that was renewed ahead is not published yet.
    fn is_kept_back(&self, under_way: &UnderWay, new: NewToken) -> bool {
        let is_ahead = matches!(
            under_way.launch,
            Launch::Job(JobKind::Login {
                reason: Reason::Expiring,
                ..
            })
        );
        let in_use = self.rules.generation();
        let in_use = self
            .tokens
            .iter()
            .find(|token| Some(token.generation) == in_use);
        let is_good = in_use.is_some_and(|token| token.accepted.is_some())
            && self.is_usable()
            && self.rules.ends().is_none_or(|ends| ends > self.now);
        let is_one_of_two = !new.continues && !new.same && !self.setup.settings.single_session;
        let is_ahead = is_ahead && !under_way.is_requested;
        is_ahead && is_good && is_one_of_two && !self.closed
    }

    pub(super) fn lifetimes(&self, landing: Landing) -> Lifetimes {
        match landing {
            Landing::NewToken { lives, .. } | Landing::Same { lives } => self.setup.lives[lives],
            _ => self.setup.lives[0],
        }
    }

    /// Wakes the waiters of the job, also early because of a logout.
    fn wake(&mut self, word: Word) {
        let waiting: Vec<User> = self.users.iter().copied().filter(User::waits).collect();
        let pending_call = self.pending_call.take();
        for user in waiting {
            match user.stage {
                Stage::Acquiring { replayed } => match word {
                    _ if self.is_usable() => self.take(user.number, replayed),
                    Word::Failed => self.gone(user.number),
                    Word::Unchanged | Word::Other => self.acquire(user.number),
                },
                Stage::Renewing { generation } => {
                    let newer = self.rules.generation().is_some_and(|new| new > generation);
                    match word {
                        Word::Failed | Word::Unchanged if self.is_usable() && newer => {
                            self.take(user.number, true);
                        }
                        Word::Failed | Word::Unchanged => self.gone(user.number),
                        Word::Other => self.renew(user.number),
                    }
                }
                Stage::Using { .. } => {}
            }
        }
        if let Some(pending_call) = pending_call {
            self.call(pending_call);
        }
    }

    /// One event, as `Driver::step` applies it.
    pub(super) fn step<T>(
        &mut self,
        cause: &Cause,
        event: impl FnOnce(&mut Rules, Timestamp) -> T,
    ) -> T {
        let before = self.seen();
        let answer = event(&mut self.rules, self.now);
        self.rules.reset_jitter(SEED);
        if let Cause::Timer = cause {
            self.check_timer();
        }
        for token in &self.tokens {
            let generation = token.generation;
            if self.rules.is_retired(generation) && !self.is_held(generation) {
                self.rules.released(generation);
            }
        }
        let mut launched = Vec::new();
        while let Some(launch) = self.rules.take_launch() {
            let logging_out = self.rules.logging_out();
            let mut ending = self.rules.ending();
            ending.retain(|token| Some(*token) != logging_out);
            launched.push(UnderWay {
                launch,
                since: self.now,
                is_requested: false,
                tokens: match launch {
                    Launch::Job(JobKind::Logout) => ending,
                    Launch::BackgroundLogout { generation } => vec![generation],
                    // A change uses the token.
                    Launch::Job(JobKind::ChangePassword) => {
                        self.rules.generation().into_iter().collect()
                    }
                    Launch::Job(JobKind::Login { .. }) => Vec::new(),
                },
                logouts: self.logouts + u32::from(matches!(cause, Cause::Logout)),
                asks_source: self.refused.is_some() && !matches!(cause, Cause::Login),
            });
        }
        for under_way in &launched {
            self.note(Entry::Launched(under_way.clone()));
        }
        let events = self.rules.take_events();
        self.check(cause, &before, launched, &events);
        answer
    }

    /// Whether a replaced token may be logged out by itself.
    pub(super) fn logs_out_replaced(&self) -> bool {
        match self.setup.settings.logout_ends {
            LogoutEnds::Token => true,
            LogoutEnds::Nothing | LogoutEnds::User => false,
        }
    }
}

impl WriteState for World {
    fn write(&self, to: &mut StateKey) {
        self.rules.write(to);
        let mut users = self.users.clone();
        users.sort_by_key(|user| (user.path.map(Path::as_str), user.held(), user.number));
        to.each(&users, |to, user| {
            to.option(user.path, |to, path| to.number(path as u64));
            match user.stage {
                Stage::Acquiring { replayed } => {
                    to.number(0);
                    to.flag(replayed);
                }
                Stage::Using {
                    generation,
                    replayed,
                    sent: _,
                    reported,
                } => {
                    to.number(1);
                    to.generation(generation);
                    to.flag(replayed);
                    to.flag(reported);
                }
                Stage::Renewing { generation } => {
                    to.number(2);
                    to.generation(generation);
                }
            }
        });
        to.option(self.pending_call, |to, pending_call| {
            to.number(match pending_call {
                PendingCall::Login { logouts } => u64::from(logouts == self.logouts),
                PendingCall::Renew => 2,
                PendingCall::ChangePassword => 3,
            });
        });
        for under_way in [&self.job, &self.background_logout] {
            to.option(under_way.as_ref(), |to, under_way| {
                to.each(&under_way.tokens, |to, token| to.generation(*token));
                to.flag(under_way.logouts == self.logouts);
            });
        }
        to.flag(self.logged_out);
        to.option(self.refused, |to, at| {
            to.quiet_moment(at + super::checks::RECHECK_EVERY);
        });
        to.option(self.backs_off, StateKey::quiet_moment);
        to.option(self.renewed, |to, at| {
            to.quiet_moment(at + Duration::from_secs(1));
        });
        to.quiet_moment(self.next_try);
        to.option(self.candidate_rejected_by, |to, path| {
            to.number(path as u64);
        });
        to.flag(self.deferred_rejection.is_some());
        let alive = self.tokens.iter().filter(|token| {
            !matches!(token.state, KnownState::Ended(_)) || self.is_held(token.generation)
        });
        let alive: Vec<_> = alive.collect();
        to.each(alive, |to, token| {
            to.generation(token.generation);
            to.flag(token.used);
            to.option(token.accepted, |to, at| to.quiet_moment(at + RECENTLY));
            to.option(token.rejected_by, |to, by| {
                to.option(by, |to, path| to.number(path as u64));
            });
            to.flag(token.is_spent);
            to.flag(token.succeeded);
            to.flag(token.was_reused);
            to.option(token.dead_at, StateKey::quiet_moment);
            to.quiet_moment(token.ends_by().unwrap_or_default());
            to.flag(matches!(token.state, KnownState::Ended(_)));
        });
    }
}
