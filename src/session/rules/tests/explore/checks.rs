//! The rules that hold after each event, in every state.
//!
//! Each check names its rule by the number in `tests/scenarios/README.md`. The checks
//! derive from the rules and from the state of the world, not from the implementation
//! of the state machine.

use std::time::Duration;

use super::world::{Act, Bounds, Cause, Known, KnownState, Landing, Path, UnderWay, World};
use crate::error::{Error, ErrorKind};
use crate::provider::{LogoutEnds, Reason};
use crate::session::rules::LogoutOutcome;
use crate::session::rules::{Event, TokenEnd};
use crate::session::rules::{JobKind, Launch, LoginKind, LoginOutcome, Signal, Timestamp};

/// How often the source is asked after a refusal.
pub(super) const RECHECK_EVERY: Duration = Duration::from_secs(10);

/// How long a token is used that had expired when it arrived, and the shortest time
/// between two renewals ahead.
const BRIEFLY: Duration = Duration::from_secs(1);

/// The longest remaining lifetime of a token that counts as expired when it arrives.
const ALL_BUT_OVER: Duration = Duration::from_millis(100);

/// The cost of one refresh by rejection, and the most credit for it, in time.
const COST: Duration = Duration::from_secs(10);
const CREDIT: Duration = Duration::from_secs(50);

/// How long an acceptance counts.
pub(super) const RECENTLY: Duration = Duration::from_secs(10);

const SAMPLE_EVERY: Duration = Duration::from_secs(1);
const LONGEST_COOLDOWN: Duration = Duration::from_secs(300);
/// How long after its cool-down a target starts anew.
const COOLDOWN_FORGOTTEN: Duration = Duration::from_secs(600);

/// The longest back-off without a `Retry-After`.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// How often the logout of a token is tried.
const TRIES: u32 = 8;

/// A rule that does not hold.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    pub(super) rule: u32,
    pub(super) what: String,
    pub(super) by: By,
}

/// How a rule was broken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum By {
    /// By the last act.
    Act,
    /// By this job, which the last act has launched.
    Launch(Launch),
    /// By what follows this act, or no act, if all goes well from then on.
    Liveness(Option<Act>),
}

/// The state of the rules before an event.
#[derive(Debug)]
pub(super) struct Before {
    signal: Option<Signal>,
    generation: Option<u64>,
    candidate: Option<u64>,
    ends: Option<Timestamp>,
    job: Option<UnderWay>,
    background_logout: Option<UnderWay>,
}

impl Known {
    /// When it expires on the server, if nothing else happens.
    pub(super) fn over(&self) -> Option<Timestamp> {
        let idle = self.lifetimes.idle.map(|idle| self.sampled + idle);
        match (self.over_in_any_case(), idle) {
            (Some(absolute), Some(idle)) => Some(absolute.min(idle)),
            (over, None) | (None, over) => over,
        }
    }

    fn over_in_any_case(&self) -> Option<Timestamp> {
        let absolute = self.lifetimes.absolute;
        absolute.map(|lifetime| self.sent + lifetime)
    }

    /// The latest time at which it is used.
    pub(super) fn ends_by(&self) -> Option<Timestamp> {
        let over = self.over()?;
        Some(over.max(self.arrived + BRIEFLY))
    }

    /// When it may be renewed ahead, and when it must be.
    fn renewal(&self, keep_alive: bool) -> (Option<Timestamp>, Option<Timestamp>) {
        let ahead = |lifetime: Duration| (lifetime / 5).min(Duration::from_secs(300));
        let ends = self.over_in_any_case();
        let ends = ends.filter(|_| self.used || keep_alive);
        let absolute = ends.zip(self.lifetimes.absolute.map(ahead));
        let idle = self.lifetimes.idle.filter(|_| keep_alive);
        let idle = idle.map(|idle| (self.sampled + idle, ahead(idle)));
        let both = [absolute, idle].into_iter().flatten();
        let may = both.clone().map(|(ends, ahead)| ends - ahead).min();
        let must = both
            .map(|(ends, ahead)| (ends - ahead * 3 / 4).max(self.arrived + BRIEFLY))
            .min();
        // A token that could only be renewed after its expiry expires.
        let must = must.filter(|must| self.over().is_none_or(|over| *must < over));
        (may, must)
    }
}

impl World {
    pub(super) fn fail(&mut self, rule: u32, what: String) {
        let by = By::Act;
        self.broken.get_or_insert(Broken { rule, what, by });
    }

    pub(super) fn seen(&self) -> Before {
        Before {
            signal: self.rules.signal(),
            generation: self.rules.generation(),
            candidate: self.rules.candidate(),
            ends: self.rules.ends(),
            job: self.job.clone(),
            background_logout: self.background_logout.clone(),
        }
    }

    pub(super) fn known(&mut self, generation: u64) -> Option<&mut Known> {
        let mut tokens = self.tokens.iter_mut();
        tokens.find(|token| token.generation == generation)
    }

    /// Records an event, and compares the rules with the world.
    pub(super) fn check(
        &mut self,
        cause: &Cause,
        before: &Before,
        launched: Vec<UnderWay>,
        events: &[Event],
    ) {
        self.take_note(cause, before);
        self.note_candidate(cause, before);
        self.check_started(&launched, events);
        for under_way in launched {
            let was_broken = self.broken.is_some();
            self.check_launch(cause, before, &under_way);
            if let Some(broken) = self.broken.as_mut().filter(|_| !was_broken) {
                broken.by = By::Launch(under_way.launch);
            }
            match under_way.launch {
                Launch::Job(_) => self.job = Some(under_way),
                Launch::BackgroundLogout { .. } => self.background_logout = Some(under_way),
            }
        }
        self.check_events(cause, before, events);
        self.check_running();
        self.check_tokens();
        self.check_ending(cause);
        self.check_renewal(cause, before);
        self.check_deferred_rejection(cause);
    }

    /// A rejection during a password change starts a login after it.
    fn check_deferred_rejection(&mut self, cause: &Cause) {
        let job = self.job.as_ref().map(|under_way| under_way.launch);
        match (cause, job) {
            (Cause::Rejected { generation, path }, Some(Launch::Job(JobKind::ChangePassword))) => {
                let cools_down = path.is_some_and(|path| self.cools_down(path));
                let is_in_use = self.rules.generation() == Some(*generation);
                if is_in_use && !cools_down {
                    self.deferred_rejection = Some((*generation, *path));
                }
            }
            (Cause::Landed(under_way, _), _) if matches!(under_way.launch, Launch::Job(_)) => {
                let Some((generation, path)) = self.deferred_rejection.take() else {
                    return;
                };
                let is_in_use = self.rules.generation() == Some(generation);
                if is_in_use && !self.logged_out {
                    self.rejected = Some(self.now);
                }
                let may = !self.is_in_trouble() && self.may_refresh(generation, path);
                if is_in_use && may && self.rules.signal() != Some(Signal::Suspended) {
                    self.fail(7, "a rejection that had to wait is forgotten".into());
                }
            }
            _ => {}
        }
    }

    /// Whether no login may be made now.
    fn is_in_trouble(&self) -> bool {
        // Only the rules know the delay that the rng has chosen.
        let until = self.rules.backs_off_until();
        let backs_off = self.backs_off.is_some() && until.is_some_and(|until| self.now < until);
        self.refused.is_some() || backs_off
    }

    pub(super) fn cools_down(&self, path: Path) -> bool {
        let cooling = self.targets[path as usize].cooling;
        cooling.is_some_and(|(until, _)| self.now < until)
    }

    /// Whether it has rejected tokens in a row, which is not forgotten yet.
    pub(super) fn has_cooled(&self, path: Path) -> bool {
        let cooling = self.targets[path as usize].cooling;
        cooling.is_some_and(|(until, _)| self.now < until + COOLDOWN_FORGOTTEN)
    }

    fn credit(&self) -> Duration {
        let Bounds {
            credit, counted, ..
        } = self.bounds;
        (credit + (self.now - counted)).min(CREDIT)
    }

    /// Whether a rejection of this token may start a refresh, given the earlier
    /// refreshes.
    pub(super) fn may_refresh(&self, generation: u64, path: Option<Path>) -> bool {
        let is_proven = self
            .tokens
            .iter()
            .any(|token| token.generation == generation && token.accepted.is_some());
        let is_spaced = self.bounds.unproven > 0 && self.now < self.bounds.spaced_until;
        !path.is_some_and(|path| self.cools_down(path))
            && (is_proven || !is_spaced)
            && self.credit() >= COST
    }

    /// Whether its request is sent once more with the same token: one of several servers
    /// may reject a token that the others accept.
    pub(super) fn may_repeat(&self, generation: u64, path: Option<Path>) -> bool {
        let is_accepted = self.tokens.iter().any(|token| {
            let at = token.accepted.filter(|_| token.generation == generation);
            at.is_some_and(|at| self.now <= at + RECENTLY)
        });
        is_accepted
            && !path.is_some_and(|path| self.cools_down(path))
            && !self.may_refresh(generation, path)
    }

    fn take_note(&mut self, cause: &Cause, before: &Before) {
        let now = self.now;
        let was_usable = before
            .signal
            .is_some_and(|signal| signal <= Signal::Closing);
        match *cause {
            Cause::Asked => {
                let is_over = before.ends.is_some_and(|ends| ends <= now);
                let in_use = before.generation.filter(|_| was_usable && !is_over);
                if let Some(token) = in_use.and_then(|generation| self.known(generation)) {
                    token.used = true;
                }
            }
            Cause::Rejected { generation, .. } => {
                if before.generation == Some(generation) && !self.logged_out {
                    self.rejected = Some(now);
                }
            }
            Cause::ReplayRejected { path } => {
                self.rejected = Some(now);
                let seen = &mut self.targets[path as usize];
                if seen.accepted.is_none_or(|at| at + RECENTLY < now) {
                    let before = seen.cooling;
                    let before = before.filter(|(until, _)| now < *until + COOLDOWN_FORGOTTEN);
                    let delay = before.map_or(Duration::from_secs(1), |(_, delay)| delay * 2);
                    let delay = delay.min(LONGEST_COOLDOWN);
                    seen.cooling = Some((now + delay, delay));
                }
                self.settle_doubts(path);
            }
            Cause::Accepted {
                generation,
                path,
                sent,
            } => {
                let sampled = if path.is_some() { sent } else { now };
                // Some servers may still accept a token that others have rejected.
                let is_good = before.generation == Some(generation)
                    && before.signal != Some(Signal::Suspended)
                    || before.candidate == Some(generation);
                if let Some(token) = self.known(generation) {
                    token.sampled = token.sampled.max(sampled);
                    token.accepted = Some(now).filter(|_| is_good).or(token.accepted);
                }
                if is_good {
                    self.bounds.unproven = 0;
                }
                if let Some(path) = path {
                    self.reported = Some(now);
                    let seen = &mut self.targets[path as usize];
                    seen.accepted = Some(now);
                    seen.cooling = None;
                }
                let is_replaced = |token: &&mut Known| {
                    token.state == KnownState::Retired && token.generation < generation
                };
                for token in self.tokens.iter_mut().filter(is_replaced) {
                    if !token.succeeded && token.rejected_by.is_some() {
                        token.dead_at = Some(now + RECENTLY);
                    }
                    token.succeeded = true;
                }
            }
            Cause::Rolled { lifetime, sent } => {
                let generation = before.generation.unwrap_or_default();
                if let (Some(token), Some(lifetime)) = (self.known(generation), lifetime) {
                    token.lifetimes.absolute = Some(lifetime);
                    token.sent = sent;
                    token.arrived = now;
                }
            }
            Cause::Logout => {
                self.logged_out = true;
                self.logouts += 1;
                for token in &mut self.tokens {
                    token.was_to_end = true;
                }
            }
            Cause::Close => self.closed = true,
            Cause::Landed(ref under_way, landing) => {
                let was_suspended = before.signal == Some(Signal::Suspended);
                let replaced = before.generation.and_then(|token| self.known(token));
                let was_proven = replaced.is_some_and(|token| token.accepted.is_some());
                self.note_landing(under_way, landing, was_suspended, was_proven);
            }
            Cause::Tried
            | Cause::Start
            | Cause::Timer
            | Cause::Login
            | Cause::Renew
            | Cause::ChangePassword => {}
        }
    }

    /// Whether the candidate has become the token in use.
    fn has_become_current(&self, before: &Before) -> bool {
        before.candidate.is_some() && before.candidate == self.rules.generation()
    }

    fn note_candidate(&mut self, cause: &Cause, before: &Before) {
        let now = self.now;
        match *cause {
            Cause::Tried => {
                let is_offered = before.candidate.is_some() && self.next_try <= now;
                if !is_offered || self.closed {
                    self.fail(13, "a candidate is tried too soon".into());
                }
                self.next_try = now + Duration::from_secs(1);
            }
            Cause::Rejected { generation, path } if before.candidate == Some(generation) => {
                let delay = Duration::from_secs(1 << self.candidate_rejections.min(16));
                self.next_try = now + delay.min(LONGEST_COOLDOWN);
                self.candidate_rejections += 1;
                self.candidate_rejected_by = path;
            }
            Cause::ReplayRejected { path }
                if before.candidate.is_some() && self.candidate_rejected_by == Some(path) =>
            {
                self.candidate_rejected_by = None;
                self.candidate_rejections -= 1;
                self.next_try = now + Duration::from_secs(1);
            }
            _ => {}
        }
        if before.candidate.is_none() && self.rules.candidate().is_some() {
            self.next_try = now;
            self.candidate_rejections = 0;
            self.candidate_rejected_by = None;
        }
        if !self.has_become_current(before) {
            return;
        }
        let is_proven = matches!(*cause, Cause::Accepted { generation, .. } if before.candidate == Some(generation));
        let is_rejected = matches!(*cause, Cause::Rejected { generation, .. } if before.generation == Some(generation))
            || self.deferred_rejection.is_some() && matches!(cause, Cause::Landed(..));
        let old = before.generation.and_then(|old| self.known(old).cloned());
        let is_over = old
            .as_ref()
            .and_then(Known::over)
            .is_some_and(|over| over <= now);
        let new = before.candidate.and_then(|new| self.known(new).cloned());
        let due = new.and_then(|new| new.renewal(true).0);
        let is_due = due.is_some_and(|due| due <= now);
        if !is_proven && !is_rejected && !is_over && !is_due {
            self.fail(13, format!("{cause:?} publishes a candidate"));
        }
        if let Some(old) = before.generation.and_then(|old| self.known(old)) {
            old.state = KnownState::Retired;
            old.is_spent = is_over && !is_proven && !is_rejected && old.lifetimes.has_data;
            old.succeeded |= old.is_spent || is_proven;
        }
        if let Some(new) = before.candidate.and_then(|new| self.known(new)) {
            new.state = KnownState::InUse;
            new.used |= matches!(cause, Cause::Asked);
        }
    }

    fn note_landing(
        &mut self,
        under_way: &UnderWay,
        landing: Landing,
        was_suspended: bool,
        was_proven: bool,
    ) {
        let paying = std::mem::take(&mut self.paying);
        // Also a candidate that was published meanwhile.
        if let Landing::Changed | Landing::NotChanged(_) = landing
            && let Some(token) = self.rules.generation().and_then(|it| self.known(it))
        {
            token.used = true;
        }
        match landing {
            Landing::NewToken { .. } | Landing::Same { .. } | Landing::Earlier => {
                if self.logged_out {
                    self.pay_back(paying);
                    return;
                }
                if paying && !was_proven {
                    let delay = Duration::from_secs(1 << self.bounds.unproven.min(16));
                    self.bounds.spaced_until = self.now + delay.min(LONGEST_COOLDOWN);
                    self.bounds.unproven += 1;
                }
                self.refused = None;
                self.backs_off = None;
                self.renewed = Some(self.now);
                if matches!(landing, Landing::Same { .. }) {
                    let lifetimes = self.lifetimes(landing);
                    let (now, sent) = (self.now, under_way.since);
                    let generation = self.rules.generation().unwrap_or_default();
                    if let Some(token) = self.known(generation) {
                        token.accepted.take_if(|_| was_suspended);
                        token.rejected_by = None;
                        token.lifetimes = lifetimes;
                        (token.sent, token.sampled, token.arrived) = (sent, sent, now);
                        token.used = false;
                    }
                }
            }
            Landing::Failed(kind, asked_for) => {
                self.pay_back(paying);
                for token in &mut self.tokens {
                    token.succeeded |= token.state == KnownState::Retired
                        && token.rejected_by.is_none()
                        && !token.is_spent;
                    if token.state == KnownState::InUse {
                        token.rejected_by = None;
                    }
                }
                if self.logged_out {
                    return;
                }
                match kind {
                    ErrorKind::Refused => {
                        self.refused = Some(self.now);
                        self.backs_off = None;
                    }
                    ErrorKind::NoRuntime if self.refused.is_none() => {}
                    _ if self.refused.is_some() => {
                        let later = asked_for.unwrap_or_default().max(RECHECK_EVERY);
                        self.refused = Some(self.now + later - RECHECK_EVERY);
                    }
                    _ => {
                        let least = Duration::from_millis(375);
                        self.backs_off = Some(self.now + asked_for.unwrap_or(least).max(least));
                    }
                }
            }
            Landing::Changed | Landing::NotChanged(ErrorKind::Uncertain) => {
                self.refused = None;
                self.backs_off = None;
            }
            Landing::Ended
            | Landing::Left
            | Landing::Abandoned
            | Landing::Some
            | Landing::BackgroundLogout(_)
            | Landing::PutOff
            | Landing::NotChanged(_) => {}
        }
        if let Launch::Job(JobKind::Logout) | Launch::BackgroundLogout { .. } = under_way.launch {
            for generation in &under_way.tokens {
                if let Some(token) = self.known(*generation) {
                    token.tries += 1;
                }
            }
        }
    }

    /// A refresh that failed costs nothing.
    fn pay_back(&mut self, paying: bool) {
        if paying {
            self.bounds.credit = (self.credit() + COST).min(CREDIT);
            self.bounds.counted = self.now;
        }
    }

    fn check_started(&mut self, launched: &[UnderWay], events: &[Event]) {
        let said: Vec<Reason> = events
            .iter()
            .filter_map(|event| match event {
                Event::LoginStarted { reason } => Some(*reason),
                _ => None,
            })
            .collect();
        let started: Vec<Reason> = launched
            .iter()
            .filter_map(|under_way| match under_way.launch {
                Launch::Job(JobKind::Login { reason, .. }) => Some(reason),
                _ => None,
            })
            .collect();
        if said != started {
            self.fail(
                1,
                format!("said to start {said:?}, and started {started:?}"),
            );
        }
    }

    fn check_launch(&mut self, cause: &Cause, before: &Before, under_way: &UnderWay) {
        let beside = match under_way.launch {
            Launch::Job(_) => &before.job,
            Launch::BackgroundLogout { .. } => &before.background_logout,
        };
        if beside.is_some() {
            self.fail(1, format!("{:?} beside {beside:?}", under_way.launch));
        }
        match under_way.launch {
            Launch::Job(JobKind::Login { reason, kind }) => {
                self.check_login(cause, before, reason, kind);
            }
            Launch::Job(JobKind::Logout) => {
                if !self.logged_out {
                    self.fail(20, "a logout that nobody asked for".into());
                }
                if under_way.tokens.is_empty() && self.background_logout.is_none() {
                    self.fail(20, "a logout of nothing".into());
                }
                let mut tokens = under_way.tokens.clone();
                tokens.sort_unstable();
                tokens.dedup();
                if tokens.len() < under_way.tokens.len() {
                    self.fail(19, "a token is logged out twice at one time".into());
                }
                for generation in tokens {
                    self.check_is_not_over(generation);
                }
            }
            Launch::BackgroundLogout { generation } => self.check_background_logout(generation),
            Launch::Job(JobKind::ChangePassword) => {
                if !matches!(cause, Cause::ChangePassword) {
                    self.fail(21, format!("{cause:?} has started a password change"));
                }
            }
        }
    }

    fn check_login(&mut self, cause: &Cause, before: &Before, reason: Reason, kind: LoginKind) {
        let now = self.now;
        let settings = self.setup.settings;
        if let Cause::Login = cause {
            if kind != LoginKind::Forced {
                self.fail(16, "login() sends no refused credentials".into());
            }
            if std::mem::take(&mut self.logged_out) {
                // A logout has failed to end them: they may be good.
                for token in &mut self.tokens {
                    token.rejected_by = None;
                    token.dead_at = None;
                }
            }
            return;
        }
        if self.logged_out {
            self.fail(20, format!("{cause:?} logs in after a logout"));
        }
        match kind {
            LoginKind::Forced => self.fail(16, format!("{cause:?} may send refused credentials")),
            LoginKind::Usual => {
                if let Some(at) = self.refused {
                    let is_time = now >= at + RECHECK_EVERY;
                    if !is_time || !settings.has_source {
                        self.fail(16, format!("{cause:?} asks the source too early"));
                    }
                    if let Cause::Timer = cause {
                        self.fail(16, "the source is asked though no request comes".into());
                    }
                }
                if self.backs_off.is_some_and(|until| now < until) {
                    self.fail(15, format!("{cause:?} logs in while backing off"));
                }
            }
        }
        if let Cause::Accepted { .. } | Cause::ReplayRejected { .. } | Cause::Rolled { .. } = cause
        {
            self.fail(18, format!("{cause:?} starts a login"));
        }
        match reason {
            Reason::Rejected => self.check_rejected(cause),
            Reason::Expiring => {
                if self.closed {
                    self.fail(13, "a closed session is renewed ahead".into());
                }
                if self.rules.candidate().is_some() {
                    self.fail(13, "a token is renewed ahead that has a successor".into());
                }
                let early = self.renewed.is_some_and(|at| now < at + BRIEFLY);
                if early {
                    self.fail(13, "two renewals ahead within a second".into());
                }
                let generation = match self.has_become_current(before) {
                    true => before.candidate,
                    false => before.generation,
                };
                let token = generation.and_then(|token| self.known(token).cloned());
                let may = token.and_then(|token| token.renewal(settings.keep_alive).0);
                if may.is_none_or(|may| now < may) {
                    self.fail(13, format!("{cause:?} renews a token before its time"));
                }
            }
            Reason::Initial | Reason::Expired if matches!(cause, Cause::Timer) => {
                if !settings.keep_alive || self.closed {
                    self.fail(14, "a session that nobody uses is logged in".into());
                }
                let early = self.renewed.is_none_or(|at| now < at + BRIEFLY);
                if early || reason == Reason::Initial {
                    self.fail(17, "a session is kept alive too eagerly".into());
                }
            }
            Reason::Initial | Reason::Expired => {
                let in_use = self.rules.generation();
                if in_use.is_some() {
                    self.fail(1, format!("a login as {reason:?} in spite of a token"));
                }
                if !matches!(cause, Cause::Asked | Cause::Rejected { path: Some(_), .. }) {
                    self.fail(1, format!("{cause:?} starts a login as {reason:?}"));
                }
            }
            Reason::Requested => {
                if !matches!(cause, Cause::Renew) {
                    self.fail(1, format!("{cause:?} starts a login as requested"));
                }
            }
        }
    }

    /// A login that a rejection started.
    fn check_rejected(&mut self, cause: &Cause) {
        let now = self.now;
        let rejected = match *cause {
            Cause::Rejected { generation, path } => Some((generation, path)),
            Cause::Landed(..) => self.deferred_rejection,
            _ => None,
        };
        let Some((generation, path)) = rejected else {
            return self.fail(3, format!("{cause:?} starts a login as rejected"));
        };
        if self
            .rules
            .generation()
            .is_some_and(|newer| generation < newer)
        {
            self.fail(3, "a rejection of an old token starts a login".into());
        }
        if !self.may_refresh(generation, path) {
            self.fail(9, format!("{path:?} causes one login too many"));
        }
        if let Some(path) = path {
            self.settle_doubts(path);
        }
        self.paying = true;
        self.bounds.credit = self.credit().saturating_sub(COST);
        self.bounds.counted = now;
    }

    /// A target rejects newer tokens too, so the older ones may be good.
    fn settle_doubts(&mut self, path: Path) {
        for token in &mut self.tokens {
            if token.state == KnownState::Retired {
                token.rejected_by.take_if(|by| *by == Some(path));
            }
        }
    }

    fn check_background_logout(&mut self, generation: u64) {
        if !self.logs_out_replaced() {
            self.fail(19, "a logout that ends other tokens, too".into());
        }
        if self.is_held(generation) {
            self.fail(
                19,
                format!("token {generation} is logged out while it is used"),
            );
        }
        if self.rules.generation() == Some(generation) {
            self.fail(19, "the token in use is logged out as replaced".into());
        }
        let waiting = self.tokens.iter().filter(|token| {
            token.state == KnownState::Retired
                && !token.succeeded
                && token.rejected_by.is_none()
                && !token.is_spent
        });
        let are_too_many = waiting.count() > 4;
        let token = self.known(generation);
        if token
            .is_none_or(|token| !token.succeeded && !are_too_many || token.rejected_by.is_some())
        {
            self.fail(
                19,
                format!("token {generation} is logged out before its successor is proven"),
            );
        }
        self.check_is_not_over(generation);
    }

    fn check_is_not_over(&mut self, generation: u64) {
        let now = self.now;
        let is_over = self.known(generation).is_some_and(|token| {
            let over = token
                .over_in_any_case()
                .filter(|_| !token.lifetimes.has_data);
            over.is_some_and(|over| over.max(token.arrived + BRIEFLY) <= now)
        });
        if is_over {
            self.fail(19, format!("token {generation} is logged out, and is over"));
        }
    }

    fn check_events(&mut self, cause: &Cause, before: &Before, events: &[Event]) {
        for event in events {
            let landed = match cause {
                Cause::Landed(under_way, landing) => Some((under_way.launch, *landing)),
                _ => None,
            };
            match event {
                Event::LoginStarted { .. } => {}
                Event::LoggedIn { generation, .. } => {
                    let Some((Launch::Job(JobKind::Login { .. }), landing)) = landed else {
                        self.fail(1, "logged in without a login".into());
                        continue;
                    };
                    let Cause::Landed(under_way, _) = cause else {
                        continue;
                    };
                    if self.known(*generation).is_none() {
                        let is_kept_back = self.rules.candidate() == Some(*generation);
                        let state = match self.logged_out {
                            true => KnownState::Retired,
                            false if is_kept_back => KnownState::Candidate,
                            false => KnownState::InUse,
                        };
                        // The token in use is replaced. It has ended, or waits for
                        // its end.
                        for token in &mut self.tokens {
                            if let KnownState::InUse | KnownState::Candidate = token.state
                                && !is_kept_back
                            {
                                token.state = KnownState::Retired;
                            }
                            token.succeeded |= token.is_spent;
                        }
                        let lifetimes = self.lifetimes(landing);
                        self.learn(*generation, lifetimes, under_way.since, state);
                    } else if !matches!(landing, Landing::Same { .. })
                        || before.generation != Some(*generation)
                    {
                        self.fail(19, format!("generation {generation} is given twice"));
                    }
                }
                Event::LoginFailed { .. } => {
                    if !matches!(
                        landed,
                        Some((Launch::Job(JobKind::Login { .. }), Landing::Failed(..)))
                    ) {
                        self.fail(1, "a login failed that was none".into());
                    }
                }
                Event::TokenRejected { generation } => {
                    let was_usable = before
                        .signal
                        .is_some_and(|signal| signal <= Signal::Closing);
                    if before.generation != Some(*generation) || !was_usable {
                        self.fail(5, format!("token {generation} is rejected, and not in use"));
                    }
                    let by = match cause {
                        Cause::Rejected { path, .. } => *path,
                        _ => self.deferred_rejection.and_then(|(_, path)| path),
                    };
                    if let Some(token) = self.known(*generation) {
                        token.rejected_by = token.accepted.map(|_| by);
                    }
                }
                Event::TokenEnded { generation, end } => {
                    self.check_end(cause, before, *generation, *end);
                }
                Event::PasswordChanged { .. } => {
                    if !matches!(landed, Some((_, Landing::Changed))) {
                        self.fail(21, "a password changed by itself".into());
                    }
                }
                Event::PasswordChangeFailed { .. } => {
                    if !matches!(landed, Some((_, Landing::NotChanged(_)))) {
                        self.fail(21, "a password change failed that was none".into());
                    }
                }
                Event::LoggedOut => {
                    if !matches!(cause, Cause::Logout) {
                        self.fail(20, format!("{cause:?} logs out"));
                    }
                }
                Event::Closed => {
                    if !matches!(cause, Cause::Close) {
                        self.fail(20, format!("{cause:?} closes"));
                    }
                }
                Event::Missed { .. } => self.fail(22, "the rules miss no event".into()),
            }
        }
        self.check_that_all_is_said(cause, events);
    }

    fn check_that_all_is_said(&mut self, cause: &Cause, events: &[Event]) {
        let Cause::Landed(under_way, landing) = cause else {
            return;
        };
        let said = |is_it: fn(&Event) -> bool| events.iter().any(is_it);
        let Launch::Job(job) = under_way.launch else {
            return;
        };
        let is_said = match (job, landing) {
            (JobKind::Login { .. }, Landing::Failed(..)) => {
                said(|event| matches!(event, Event::LoginFailed { .. }))
            }
            (JobKind::Login { .. }, _) => said(|event| matches!(event, Event::LoggedIn { .. })),
            (JobKind::ChangePassword, Landing::Changed) => {
                said(|event| matches!(event, Event::PasswordChanged { .. }))
            }
            // It is to be made yet.
            (JobKind::ChangePassword, Landing::PutOff) => true,
            (JobKind::ChangePassword, _) => {
                said(|event| matches!(event, Event::PasswordChangeFailed { .. }))
            }
            (JobKind::Logout, _) => true,
        };
        if !is_said {
            self.fail(2, format!("nobody hears of the end of {job:?}"));
        }
    }

    fn check_end(&mut self, cause: &Cause, before: &Before, generation: u64, end: TokenEnd) {
        let now = self.now;
        let logs_out_replaced = self.logs_out_replaced();
        let was_candidate = before.candidate == Some(generation);
        let was_in_use = before.generation == Some(generation) || was_candidate;
        let has_become_current = self.has_become_current(before) && !was_candidate;
        let is_rejected = matches!(*cause, Cause::Rejected { generation: it, .. } if it == generation)
            || self.deferred_rejection.is_some() && matches!(cause, Cause::Landed(..));
        let is_rejected = has_become_current && is_rejected;
        let Some(token) = self.known(generation).map(|token| token.clone()) else {
            return self.fail(19, format!("token {generation} has ended, and never was"));
        };
        if let KnownState::Ended(earlier) = token.state {
            return self.fail(
                19,
                format!("token {generation} has ended as {earlier:?}, and now as {end:?}"),
            );
        }
        let ended_here = match cause {
            Cause::Landed(under_way, landing) => under_way
                .tokens
                .iter()
                .position(|token| *token == generation)
                .map(|place| (place, *landing)),
            _ => None,
        };
        let replaced = was_in_use
            && (has_become_current
                || matches!(
                    cause,
                    Cause::Landed(_, Landing::NewToken { .. } | Landing::Earlier)
                ));
        let is_so = match end {
            TokenEnd::LoggedOut => {
                matches!(
                    ended_here,
                    Some((
                        _,
                        Landing::Ended | Landing::BackgroundLogout(LogoutOutcome::Done)
                    ))
                ) || matches!(ended_here, Some((1.., Landing::Some)))
            }
            TokenEnd::Rejected => {
                let is_succeeded = matches!(
                    cause,
                    Cause::Accepted { generation: newer, path, .. }
                        if *newer > generation
                            && token.rejected_by.is_some_and(|by| by.is_none() || by == *path)
                ) || token.dead_at.is_some_and(|at| at <= now);
                let was_suspended = before.signal == Some(Signal::Suspended);
                logs_out_replaced && is_succeeded && token.rejected_by.is_some()
                    || !logs_out_replaced && replaced && (was_suspended || is_rejected)
            }
            TokenEnd::Expired => {
                let ends_nothing = self.setup.settings.logout_ends == LogoutEnds::Nothing;
                let over = match was_in_use {
                    true => token.over(),
                    false => token.over_in_any_case(),
                };
                // While it is renewed, the end of that decides.
                let is_renewed = was_in_use
                    && before.signal == Some(Signal::Suspended)
                    && !matches!(cause, Cause::Landed(..));
                over.is_some_and(|over| over <= now)
                    && !is_renewed
                    && (ends_nothing || !token.lifetimes.has_data)
            }
            TokenEnd::Continued => match cause {
                Cause::Landed(_, Landing::NewToken { continues, .. }) => {
                    let newest = self.tokens.iter().rev().find(|token| {
                        // The one that continues it is known already.
                        token.generation != self.rules.generation().unwrap_or_default()
                    });
                    let is_newest = newest.is_some_and(|newest| newest.generation == generation);
                    let is_left = was_in_use || token.is_spent || token.was_to_end;
                    *continues && is_newest && is_left
                }
                Cause::Landed(_, Landing::Earlier) => !was_in_use,
                // A login has yielded it again while it was being logged out.
                Cause::Landed(_, Landing::BackgroundLogout(logout)) => {
                    token.was_reused && *logout != LogoutOutcome::Done
                }
                _ => false,
            },
            TokenEnd::Abandoned => match ended_here {
                Some((
                    _,
                    Landing::Abandoned | Landing::BackgroundLogout(LogoutOutcome::Failed),
                )) => true,
                Some((_, Landing::BackgroundLogout(LogoutOutcome::Postponed(_)))) => {
                    token.tries == TRIES
                }
                _ => {
                    let is_left = replaced && before.signal != Some(Signal::Suspended);
                    let is_left = is_left && !is_rejected;
                    let is_spent = token.is_spent
                        && (has_become_current || matches!(cause, Cause::Landed(..)));
                    self.setup.settings.logout_ends == LogoutEnds::User && (is_left || is_spent)
                }
            },
            TokenEnd::Discarded => {
                let at_logout = match cause {
                    Cause::Logout => was_in_use,
                    Cause::Close => was_candidate,
                    Cause::Landed(..) => self.logged_out && !was_in_use,
                    _ => false,
                };
                self.setup.settings.logout_ends == LogoutEnds::Nothing
                    && (at_logout || replaced && before.signal != Some(Signal::Suspended))
            }
        };
        if !is_so {
            self.fail(
                19,
                format!("token {generation} is said to have ended as {end:?}"),
            );
        }
        if let Some(token) = self.known(generation) {
            token.state = KnownState::Ended(end);
        }
    }

    fn check_running(&mut self) {
        let job = self.job.as_ref().map(|under_way| under_way.launch);
        let running = self.rules.running();
        if job != running.map(Launch::Job) {
            self.fail(
                1,
                format!("{job:?} was launched, and {running:?} is running"),
            );
        }
        let background_logout = self
            .background_logout
            .as_ref()
            .map(|under_way| under_way.launch);
        let logging_out = self.rules.logging_out();
        if background_logout
            != logging_out.map(|generation| Launch::BackgroundLogout { generation })
        {
            self.fail(
                19,
                format!(
                    "{background_logout:?} was launched, and {logging_out:?} is being logged out"
                ),
            );
        }
        let given = self.job.as_ref().map(|under_way| &under_way.tokens[..]);
        if logging_out.is_some_and(|token| given.unwrap_or_default().contains(&token)) {
            self.fail(19, format!("token {logging_out:?} is logged out twice"));
        }
        let renews = matches!(job, Some(Launch::Job(JobKind::Login { .. })));
        if self.rules.signal() == Some(Signal::Suspended) && !renews {
            self.fail(5, "a token is suspended, and not being renewed".into());
        }
    }

    /// Each token is in one place.
    fn check_tokens(&mut self) {
        let in_use = self.rules.generation();
        for place in 0..self.tokens.len() {
            let Known {
                generation, state, ..
            } = self.tokens[place];
            let is_in_use = in_use == Some(generation);
            let is_replaced = self.rules.is_replaced(generation);
            let is_candidate = self.rules.candidate() == Some(generation);
            let is_ending = self.rules.ending().into_iter();
            let is_ending = is_ending.filter(|ending| *ending == generation).count();
            let has_ended = matches!(state, KnownState::Ended(_));
            let places = usize::from(is_in_use)
                + usize::from(is_candidate)
                + usize::from(is_replaced)
                + is_ending
                + usize::from(has_ended);
            if places != 1 {
                self.fail(
                    19,
                    format!(
                        "token {generation} is in {places} places: in use {is_in_use}, \
                         retired {is_replaced}, to be logged out {is_ending}, {state:?}"
                    ),
                );
            }
            if is_in_use && !self.fits_life(place) {
                self.fail(13, format!("token {generation} ends when it does not"));
            }
            if is_in_use && state == KnownState::Retired {
                self.fail(5, format!("token {generation} was replaced, and is in use"));
            }
            if is_in_use && state == KnownState::Candidate {
                self.fail(13, format!("token {generation} is published unawares"));
            }
            if !has_ended && !is_in_use && !is_candidate {
                let is_ended_by_close = self.closed && state == KnownState::Candidate;
                self.tokens[place].was_to_end |= is_ended_by_close;
                self.tokens[place].is_spent |=
                    matches!(state, KnownState::InUse | KnownState::Candidate)
                        && !self.logged_out
                        && !is_ended_by_close;
                self.tokens[place].state = KnownState::Retired;
            }
        }
        let is_dead = |token: &&Known| {
            token.state == KnownState::Retired
                && token.succeeded
                && token.rejected_by == Some(None)
                && self.rules.is_replaced(token.generation)
        };
        if let Some(dead) = self.tokens.iter().find(is_dead) {
            let generation = dead.generation;
            self.fail(19, format!("token {generation} is kept, and is dead"));
        }
        if in_use.is_some_and(|in_use| self.known(in_use).is_none()) {
            self.fail(19, format!("token {in_use:?} was never issued"));
        }
    }

    /// Whether the rules know when the token in use ends.
    fn fits_life(&self, place: usize) -> bool {
        let token = &self.tokens[place];
        let ends = self.rules.ends();
        let (Some(over), Some(at_most)) = (token.over(), token.ends_by()) else {
            return ends.is_none();
        };
        // A token that is about to expire when it arrives is used for a moment.
        let is_over = over <= token.arrived + ALL_BUT_OVER;
        let at_least = if is_over { at_most } else { over };
        ends.is_some_and(|ends| at_least <= ends && ends <= at_most)
    }

    fn check_ending(&mut self, cause: &Cause) {
        let signal = self.rules.signal();
        if self.logged_out {
            if signal.is_some() {
                self.fail(20, "there is a token after a logout".into());
            }
            let is_left = !self.rules.ending().is_empty();
            let was_tried = matches!(cause, Cause::Landed(under_way, _) if under_way.launch == Launch::Job(JobKind::Logout));
            if is_left
                && self.job.is_none()
                && !was_tried
                && matches!(cause, Cause::Logout | Cause::Landed(..))
            {
                self.fail(20, "a logout that leaves tokens without trying".into());
            }
            if self.job.is_none() && self.rules.logout_result().is_none() {
                self.fail(20, "who logs out waits for no job".into());
            }
        }
        if self.closed && signal.is_some_and(|signal| signal < Signal::Closing) {
            self.fail(20, "a closed session lets requests in".into());
        }
    }

    /// Every action that is due has happened.
    pub(super) fn check_rest(&mut self) {
        let now = self.now;
        let in_use = self.rules.generation();
        let token = in_use.and_then(|token| self.known(token).cloned());
        let is_unreported = self.rules.signal() == Some(Signal::Live);
        let is_usable = self
            .rules
            .signal()
            .is_some_and(|signal| signal < Signal::Offered);
        if self.rules.candidate().is_some() && is_usable && self.next_try <= now {
            self.fail(13, "a candidate is offered to nobody".into());
        }
        let is_proven = token.as_ref().is_none_or(|token| token.accepted.is_some());
        let rejected = self.rejected.filter(|at| now < *at + RECENTLY);
        let is_sampled = self.reported.is_some_and(|at| now < at + SAMPLE_EVERY);
        if is_unreported && (!is_proven || rejected.is_some() && !is_sampled) {
            self.fail(9, "nobody hears of what a target accepts".into());
        }
        let is_reported_for_another = self.setup.settings.rolls
            || self.refused.is_some()
            || token
                .as_ref()
                .is_some_and(|token| !token.used || token.lifetimes.idle.is_some());
        let is_reported = self.rules.signal() == Some(Signal::Reported);
        let is_dead = |token: &&Known| {
            token.state == KnownState::Retired
                && token.rejected_by.is_some()
                && token.dead_at.is_some_and(|at| at <= now)
                && self.rules.is_replaced(token.generation)
        };
        if let Some(dead) = self.tokens.iter().find(is_dead) {
            let generation = dead.generation;
            self.fail(19, format!("token {generation} is kept, and is dead"));
        }
        let is_late = self.rules.wake().is_some_and(|wake| wake <= now);
        if is_reported && is_proven && rejected.is_none() && !is_reported_for_another && !is_late {
            self.fail(9, "requests are reported for nothing".into());
        }
        let next_sample = token.and_then(|token| Some(token.sampled + token.lifetimes.idle? / 20));
        if is_unreported && next_sample.is_some_and(|at| at <= now) {
            self.fail(13, "nobody hears of what keeps a token alive".into());
        }
    }

    /// The timer went off, and no waiter was woken yet.
    pub(super) fn check_timer(&mut self) {
        if self.rules.wake().is_some_and(|wake| wake <= self.now) {
            self.fail(13, "the timer leaves something undone".into());
        }
    }

    fn check_renewal(&mut self, cause: &Cause, before: &Before) {
        let now = self.now;
        if matches!(cause, Cause::Landed(_, Landing::Failed(..))) && !self.logged_out {
            let is_over = before.ends.is_some_and(|ends| ends <= now);
            let usable = self
                .rules
                .signal()
                .is_some_and(|signal| signal <= Signal::Closing);
            if before.generation.is_some() && !is_over && !usable {
                self.fail(6, "a renewal that failed takes a good token away".into());
            }
        }
        if !matches!(cause, Cause::Timer) {
            return;
        }
        let settings = self.setup.settings;
        let may_log_in = self.job.is_none()
            && !self.closed
            && !self.logged_out
            && self.refused.is_none()
            && self.backs_off.is_none();
        let token = self
            .rules
            .generation()
            .and_then(|token| self.known(token).cloned());
        let has_successor = self.rules.candidate().is_some();
        let Some(token) = token.filter(|_| may_log_in && !has_successor) else {
            return;
        };
        if token
            .renewal(settings.keep_alive)
            .1
            .is_some_and(|must| must <= now)
        {
            self.fail(13, "a token is not renewed ahead of its end".into());
        }
    }

    /// A request is about to be sent with this token.
    pub(super) fn check_use(&mut self, generation: u64) {
        let signal = self.rules.signal();
        if signal.is_none_or(|signal| signal > Signal::Closing) {
            self.fail(5, format!("token {generation} is used, and is {signal:?}"));
        }
        if self
            .known(generation)
            .is_none_or(|token| token.state != KnownState::InUse)
        {
            self.fail(5, format!("token {generation} is used, and was replaced"));
        }
    }

    /// A caller gets the reason why there is no token.
    pub(super) fn check_failure(&mut self, error: &Error) {
        let now = self.now;
        let is_so = match error.kind() {
            ErrorKind::Closed => self.closed,
            ErrorKind::LoggedOut => self.logged_out || self.logouts > 0,
            ErrorKind::Refused => self.refused.is_some(),
            ErrorKind::Unavailable | ErrorKind::Uncertain | ErrorKind::Protocol => {
                let left = error.retry_after().unwrap_or_default();
                self.backs_off.is_some_and(|_| left > Duration::ZERO)
                    && self.backs_off.is_some_and(|until| now + left >= until)
                    && self
                        .backs_off
                        .is_some_and(|until| now + left <= until + LONGEST_BACKOFF)
            }
            _ => false,
        };
        if !is_so {
            self.fail(15, format!("a caller fails for no reason: {error:?}"));
        }
    }

    pub(super) fn check_fate(&mut self, fate: LoginOutcome, same: bool, logouts: u32) {
        let in_use = self.rules.generation();
        match fate {
            LoginOutcome::Publish { generation } => {
                if in_use != Some(generation) || same {
                    self.fail(17, format!("token {generation} is published in vain"));
                }
                if logouts < self.logouts {
                    self.fail(20, "a login from before a logout is published".into());
                }
            }
            LoginOutcome::Keep { generation } => {
                if self.rules.candidate() != Some(generation) || same {
                    self.fail(13, format!("token {generation} is kept back in vain"));
                }
            }
            LoginOutcome::Unchanged { generation } => {
                if in_use != Some(generation) || !same {
                    self.fail(17, format!("token {generation} is not the one in use"));
                }
            }
            LoginOutcome::End { generation } => {
                if !self.logged_out {
                    self.fail(19, format!("token {generation} is thrown away"));
                }
            }
        }
    }
}
