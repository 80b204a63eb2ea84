//! What an honest server knows, what the session's events say, and what must
//! never happen between the two.

mod account;
mod passwords;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tower_reauth::{ErrorKind, Event, Events, LogoutEnds, Reason, Session, TokenEnd};

pub(crate) use account::{Answer, Verdict};
pub(crate) use passwords::{Passwords, Stored, password};

use super::programme::{
    ChangeAnswer, Issues, LoginAnswer, LogoutAnswer, Order, Path, RejectsBy, SourceKind, World,
};

/// A timer of tokio's goes off up to a millisecond late.
const SLACK: Duration = Duration::from_millis(3);
/// How long a token is used that was over when it arrived.
const BRIEFLY: Duration = Duration::from_secs(1);
/// How long an acceptance keeps a target from cooling down.
const RECENTLY: Duration = Duration::from_secs(10);

const SHORTEST_COOL_DOWN: Duration = Duration::from_secs(1);
const SHORTEST_BACK_OFF: Duration = Duration::from_millis(375);
const RECHECK_EVERY: Duration = Duration::from_secs(10);
const BUDGET: u64 = 5;
const REFILL_EVERY: u64 = 10;

/// The server's account and the session's, side by side.
pub(crate) struct Book {
    pub(crate) world: World,
    pub(crate) started: Instant,
    pub(crate) events: Option<Events>,
    /// Whose status says whether a candidate was published. Events do not.
    pub(crate) session: Option<Session>,
    /// The first thing that must not happen, and did.
    pub(crate) violation: Option<String>,
    pub(crate) log: Vec<String>,

    pub(crate) logins: VecDeque<LoginAnswer>,
    pub(crate) logouts: VecDeque<LogoutAnswer>,
    pub(crate) changes: VecDeque<ChangeAnswer>,
    pub(crate) fetches_that_fail: u32,
    pub(crate) passwords: Passwords,
    pub(crate) forbidden: BTreeSet<Path>,

    pub(crate) tokens: BTreeMap<u64, TokenEntry>,
    pub(crate) requests: BTreeMap<u64, Sent>,
    /// What `login` has answered with and no event has told yet.
    delivered: VecDeque<u64>,
    pub(crate) view: View,
    /// The provider's call under way, and the logout of a replaced token beside it.
    call: Option<&'static str>,
    is_retiring: bool,
    /// How many calls of the store are.
    pub(crate) in_store: u32,
    pub(crate) replays: u64,
    /// Until when a closed session waits for everybody, at least.
    pub(crate) closing: Option<Instant>,
    /// The generation that is to be renewed next.
    promised: Option<u64>,
    /// Nobody is left who could use the session.
    pub(crate) is_dropped: bool,

    /// What was refused where no password is sent.
    is_refused: bool,
    refused_at: Option<Instant>,
    /// How often the source was asked in the login under way.
    fetches: u32,
    /// Until when no login may be made, after one that failed.
    left_alone_until: Option<Instant>,
    /// So many wait for a password change, who look for a token again and again.
    pub(crate) changing: u32,
    /// `login()` was called so often.
    pub(crate) forced: u64,
    /// Tokens that a lost login may have used up.
    burned: BTreeSet<u64>,
    cooling: BTreeMap<(bool, Path), Instant>,
    /// When a target last accepted a token.
    accepted: BTreeMap<(bool, Path), Instant>,
    /// Renewals after a rejection, and since when.
    renewals: u64,
    renewals_since: Option<Instant>,
}

/// A token, as the server knows it.
pub(crate) struct TokenEntry {
    /// Before its login was sent.
    sent: Instant,
    /// When the provider got it.
    arrived: Instant,
    /// When the session did: the store comes first.
    landed: Instant,
    pub(crate) revoked: bool,
    /// When the session may last think of it as used.
    used: Instant,
    /// When it must at least think so.
    surely_used: Instant,
    pub(crate) roll: u32,
    /// The value that the session was told last.
    told: u32,
    is_delivered: bool,
    /// A request with it was accepted.
    is_proven: bool,
    is_carried: bool,
    is_rejected: bool,
    /// A rejection may have started a renewal.
    is_suspect: bool,
    is_forbidden: bool,
    pub(crate) is_rejected_by_hand: bool,
    continued_by: Option<u64>,
    logouts: u32,
    logouts_done: u32,
    logouts_failed: u32,
    /// Who holds it outside of requests.
    pub(crate) held: u32,
    is_given_again: bool,
}

/// A request, as its caller and the server know it.
pub(crate) struct Sent {
    pub(crate) order: Order,
    started: Instant,
    /// Whether it must not wait for anything.
    at_once: bool,
    after_close: bool,
    pub(crate) calls: Vec<Call>,
    pub(crate) executed: u32,
    /// The token that it uses now.
    uses: Option<u64>,
}

pub(crate) struct Call {
    pub(crate) is_rejected: bool,
}

/// The session, as its events tell it.
#[derive(Default)]
pub(crate) struct View {
    pub(crate) current: Option<u64>,
    /// A newer generation, which is not published yet.
    candidate: Option<u64>,
    /// The one that was current before a candidate was published.
    former: Option<u64>,
    pub(crate) is_suspended: bool,
    is_logging_in: bool,
    login_started: Option<Instant>,
    /// After a rejection.
    is_renewing: bool,
    /// Ahead of its end.
    is_ahead: bool,
    /// The last login has.
    has_failed: bool,
    /// The credentials were, and nothing has come since that may be taken.
    is_refused: bool,
    pub(crate) is_logged_out: bool,
    pub(crate) is_closed: bool,
    pub(crate) generations: BTreeMap<u64, u64>,
    pub(crate) ended: BTreeMap<u64, TokenEnd>,
    logged_in_at: Option<Instant>,
    pub(crate) logins: u64,
}

pub(crate) fn value(number: u64, roll: u32) -> String {
    format!("{number}.{roll}")
}

fn parsed(value: &str) -> Option<(u64, u32)> {
    let (number, roll) = value.strip_prefix("Bearer ")?.split_once('.')?;
    Some((number.parse().ok()?, roll.parse().ok()?))
}

pub(crate) fn number_in(value: &http::HeaderValue) -> Option<(u64, u32)> {
    parsed(value.to_str().ok()?)
}

impl Book {
    pub(crate) fn new(world: World) -> Self {
        let now = Instant::now();
        Self {
            passwords: Passwords::new(&world),
            world,
            started: now,
            events: None,
            session: None,
            violation: None,
            log: Vec::new(),
            logins: VecDeque::new(),
            logouts: VecDeque::new(),
            changes: VecDeque::new(),
            fetches_that_fail: 0,
            forbidden: BTreeSet::new(),
            tokens: BTreeMap::new(),
            requests: BTreeMap::new(),
            delivered: VecDeque::new(),
            view: View::default(),
            call: None,
            is_retiring: false,
            in_store: 0,
            replays: 0,
            closing: None,
            promised: None,
            is_dropped: false,
            is_refused: false,
            refused_at: None,
            fetches: 0,
            left_alone_until: None,
            changing: 0,
            forced: 0,
            burned: BTreeSet::new(),
            cooling: BTreeMap::new(),
            accepted: BTreeMap::new(),
            renewals: 0,
            renewals_since: None,
        }
    }

    pub(crate) fn note(&mut self, what: impl std::fmt::Display) {
        let at = self.started.elapsed().as_millis();
        self.log.push(format!("{at:>8} ms  {what}"));
    }

    pub(crate) fn violated(&mut self, rule: impl std::fmt::Display) {
        self.note(format_args!("VIOLATION: {rule}"));
        self.violation.get_or_insert(rule.to_string());
    }

    fn must(&mut self, holds: bool, rule: impl std::fmt::Display) {
        if !holds {
            self.violated(rule);
        }
    }

    pub(crate) fn check(&mut self, checked: Result<(), String>) {
        if let Err(rule) = checked {
            self.violated(rule);
        }
    }

    /// Since the start.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    // What the session's events say.

    /// Takes in what has happened until now.
    pub(crate) fn hear(&mut self) {
        let Some(mut events) = self.events.take() else {
            return;
        };
        while let Some(Some(event)) = tokio::task::unconstrained(events.recv()).now_or_never() {
            self.heard(&event);
        }
        self.events = Some(events);
        self.looks_for_candidate();
    }

    /// The generation that the session uses now.
    fn published(&self) -> Option<u64> {
        self.session.as_ref()?.status().generation
    }

    /// Takes in whether the candidate was published.
    fn looks_for_candidate(&mut self) {
        let candidate = self.view.candidate;
        if candidate.is_none() || self.published() != candidate {
            return;
        }
        self.publishes_candidate();
        let number = |generation: Option<u64>| {
            let generations = &self.view.generations;
            generation.and_then(|generation| generations.get(&generation).copied())
        };
        let is_proven = number(candidate).is_some_and(|number| self.tokens[&number].is_proven);
        let is_over = number(self.view.former).is_none_or(|old| {
            let token = &self.tokens[&old];
            let ends = self.earliest_end(old, true);
            let is_over = ends.is_some_and(|ends| ends <= Instant::now() + SLACK);
            is_over || token.is_rejected || token.is_rejected_by_hand
        });
        self.must(
            is_proven || is_over,
            format_args!("generation {candidate:?} is published, and nothing has proven it"),
        );
    }

    fn publishes_candidate(&mut self) {
        self.view.former = self.view.current;
        self.view.current = self.view.candidate.take();
        self.view.is_suspended = false;
    }

    /// The token that a login has yielded and that is not published.
    fn candidate(&self) -> Option<u64> {
        let generation = self.view.candidate?;
        self.view.generations.get(&generation).copied()
    }

    fn heard(&mut self, event: &Event) {
        self.note(format_args!("  {event:?}"));
        match event {
            Event::LoginStarted { reason, .. } => self.login_started(*reason),
            Event::LoggedIn { generation, .. } => self.logged_in(*generation),
            Event::LoginFailed { error, .. } => {
                if error.kind() == ErrorKind::Refused {
                    self.view.is_refused = true;
                }
                if error.kind() != ErrorKind::Refused {
                    // Another password may be right.
                    self.refused_at = None;
                }
                let checked = self.passwords.login_fails(error.kind());
                self.check(checked);
                self.view.is_suspended = false;
                self.view.is_logging_in = false;
                self.view.has_failed = true;
            }
            Event::TokenRejected { generation, .. } => {
                let is_current = self.view.current == Some(*generation);
                self.must(
                    is_current,
                    "a token was suspended that is not the current one",
                );
                self.view.is_suspended = true;
                if self.view.candidate.is_some() {
                    self.publishes_candidate();
                }
            }
            Event::TokenEnded {
                generation, end, ..
            } => self.token_ended(*generation, *end),
            Event::PasswordChanged { .. } => self.view.is_refused = false,
            Event::PasswordChangeFailed { error, .. } => {
                // A login shows next which password works.
                if error.kind() == ErrorKind::Uncertain {
                    self.view.is_refused = false;
                    self.refused_at = None;
                }
            }
            Event::LoggedOut => {
                self.view.is_logged_out = true;
                self.view.candidate = None;
                self.view.current = None;
                self.view.is_suspended = false;
            }
            Event::Closed => {
                self.view.is_closed = true;
                self.view.candidate = None;
            }
            other => self.violated(format_args!("unexpected event {other:?}")),
        }
    }

    fn login_started(&mut self, reason: Reason) {
        let now = Instant::now();
        let current = self.current();
        self.view.is_logging_in = true;
        self.view.login_started = Some(now);
        self.fetches = 0;
        self.passwords.login_starts();
        self.promised = None;
        // What asks the source anew after a refusal is no renewal yet.
        self.view.is_renewing = reason == Reason::Rejected && !self.view.is_refused;
        self.view.is_ahead = reason == Reason::Expiring;
        match reason {
            Reason::Initial | Reason::Expired => {
                self.must(
                    self.view.current.is_none(),
                    format_args!("a login for {reason:?} although there is a token"),
                );
            }
            Reason::Rejected => {
                // Of a token that a login yields once more, an earlier
                // rejection may come late.
                let is_due = current.is_none_or(|number| {
                    let token = &self.tokens[&number];
                    token.is_suspect || token.is_rejected_by_hand
                }) || self.world.issues == Issues::Same;
                self.must(
                    is_due,
                    "a renewal after a rejection that the current token has not had, or while its target cooled down",
                );
            }
            Reason::Expiring => {
                self.must(
                    self.view.candidate.is_none(),
                    "a token was refreshed ahead that has a successor",
                );
                let used = current.is_some_and(|number| self.tokens[&number].is_carried);
                self.must(
                    used || self.world.keep_alive || self.changing > 0,
                    "a token was renewed ahead that nobody uses",
                );
                let since = self.view.logged_in_at;
                let rests = since.is_none_or(|at| at + BRIEFLY <= now + SLACK);
                self.must(rests, "a token was renewed ahead within its first second");
            }
            Reason::Requested => self.view.is_logged_out = false,
            other => self.violated(format_args!("unexpected reason {other:?}")),
        }
        if reason != Reason::Requested {
            self.must(
                !self.view.is_logged_out,
                format_args!("a login for {reason:?} after logout"),
            );
        }
    }

    fn logged_in(&mut self, generation: u64) {
        let now = Instant::now();
        let Some(number) = self.delivered.pop_front() else {
            return self.violated("a login is told of that nobody made");
        };
        let was_renewing = std::mem::take(&mut self.view.is_renewing);
        let started = self.view.login_started;
        let started = started.unwrap_or(now);
        self.view.logins += 1;
        self.view.is_logging_in = false;
        self.view.has_failed = false;
        self.view.is_refused = false;
        let is_same = self.world.issues == Issues::Same;
        match self.view.generations.insert(generation, number) {
            Some(before) => {
                self.must(
                    before == number && is_same,
                    "another token under the same generation",
                );
            }
            None => {
                let latest = self.view.generations.keys().next_back() == Some(&generation);
                self.must(latest, "a generation that is not the latest");
            }
        }
        if self.view.is_logged_out {
            return;
        }
        let is_new = self.view.current != Some(generation);
        let is_kept_back = is_new && self.view.is_ahead && self.published() == self.view.current;
        if is_kept_back && self.view.current.is_some() {
            self.is_kept_back(generation, number);
            return;
        }
        self.view.candidate = None;
        if is_new {
            // It may have been a candidate until the one before ended.
            self.view.former = self.view.current;
        }
        self.view.current = Some(generation);
        self.view.is_suspended = false;
        let token = self.tokens.get_mut(&number).expect("it was delivered");
        self.view.logged_in_at = Some(token.landed);
        // What is looked at later may have been rejected before.
        token.is_suspect &= self.world.rejects_by == RejectsBy::Text500;
        if was_renewing {
            self.renewals += 1;
            let since = *self.renewals_since.get_or_insert(started);
            let refilled = (now - since).as_secs() / REFILL_EVERY;
            self.must(
                self.renewals <= BUDGET + refilled,
                "more renewals after rejections than the budget allows",
            );
        }
    }

    /// The session goes on with the token before this one.
    fn is_kept_back(&mut self, generation: u64, number: u64) {
        let continues = self
            .tokens
            .values()
            .any(|token| token.continued_by == Some(number));
        let old = self.current();
        let is_good = old.is_some_and(|old| self.tokens[&old].is_proven);
        self.must(
            is_good && !continues && !self.world.single_session && !self.view.is_closed,
            format_args!("generation {generation} is kept back, and {old:?} is used"),
        );
        self.view.candidate = Some(generation);
        self.view.logged_in_at = Some(self.tokens[&number].landed);
    }

    fn token_ended(&mut self, generation: u64, end: TokenEnd) {
        if let Some(before) = self.view.ended.insert(generation, end) {
            self.violated(format_args!(
                "generation {generation} ended twice: {before:?}, {end:?}"
            ));
        }
        let Some(number) = self.view.generations.get(&generation).copied() else {
            return self.violated(format_args!("unknown generation {generation} ended"));
        };
        let is_current = self.view.current == Some(generation);
        let is_candidate = self.view.candidate == Some(generation);
        let may_idle = is_current || is_candidate || self.view.former == Some(generation);
        let ends_user = self.world.logout_ends == LogoutEnds::User;
        let ends_nothing = self.world.logout_ends == LogoutEnds::Nothing;
        let is_same = self.world.issues == Issues::Same;
        let token = &self.tokens[&number];
        let is_true = match end {
            TokenEnd::LoggedOut => token.logouts_done > 0 || is_same,
            TokenEnd::Rejected => token.is_rejected || token.is_rejected_by_hand,
            TokenEnd::Expired => {
                let earliest = self.earliest_end(number, may_idle);
                // The same one given again has another end since.
                is_same || earliest.is_some_and(|ends| ends <= Instant::now() + SLACK)
            }
            TokenEnd::Continued => token.continued_by.is_some() || token.is_given_again,
            TokenEnd::Abandoned if ends_nothing => false,
            TokenEnd::Abandoned => {
                self.is_dropped || ends_user || token.logouts_failed > 0 || token.logouts >= 8
            }
            TokenEnd::Discarded => ends_nothing,
            _ => false,
        };
        self.must(
            is_true,
            format_args!("token {number} did not end like this: {end:?}"),
        );
        if is_candidate {
            self.view.candidate = None;
        }
        if is_current {
            self.publishes_candidate();
        }
    }

    /// The token in use.
    pub(crate) fn current(&self) -> Option<u64> {
        let generation = self.view.current?;
        self.view.generations.get(&generation).copied()
    }

    /// Whether a request would go out at once.
    fn is_live(&self) -> bool {
        let now = Instant::now();
        !self.view.is_suspended
            && !self.view.is_closed
            && self.current().is_some_and(|number| {
                let ends = self.earliest_end(number, true);
                ends.is_none_or(|ends| now + SLACK < ends)
            })
    }

    fn absolute_end(&self, number: u64) -> Option<Instant> {
        let token = &self.tokens[&number];
        end_of(self.world.lifetime?, token)
    }

    /// When the session must think of it as over.
    fn latest_end(&self, number: u64) -> Option<Instant> {
        let idle = self.idle_end(number, self.tokens[&number].used, Duration::ZERO);
        earlier(self.absolute_end(number), idle)
    }

    /// When the session may think of it as over.
    fn earliest_end(&self, number: u64, is_current: bool) -> Option<Instant> {
        let idle = self.world.idle.filter(|_| is_current);
        let used = self.tokens[&number].surely_used;
        let idle = idle.and_then(|idle| self.idle_end(number, used, idle / 20));
        earlier(self.absolute_end(number), idle)
    }

    fn idle_end(&self, number: u64, used: Instant, early: Duration) -> Option<Instant> {
        let token = &self.tokens[&number];
        let idle = self.world.idle?;
        let from_login = end_of(idle, token)?;
        let used = used + idle;
        Some(match used > from_login {
            true => from_login.max(used - early),
            false => from_login,
        })
    }

    /// Whether the server takes it.
    pub(crate) fn is_good(&self, number: u64) -> bool {
        let Some(token) = self.tokens.get(&number) else {
            return false;
        };
        let now = Instant::now();
        let over = |since: Instant, limit: Option<Duration>| {
            limit.is_some_and(|limit| since + limit + BRIEFLY <= now)
        };
        !token.revoked
            && !over(token.arrived, self.world.lifetime)
            && !over(token.arrived.max(token.used), self.world.idle)
    }

    // What the provider is called for.

    pub(crate) fn begins(&mut self, call: &'static str) {
        self.hear();
        if let Some(other) = self.call.replace(call) {
            self.violated(format_args!("a {call} while a {other} is under way"));
        }
    }

    /// The logout of a replaced token begins.
    fn retires(&mut self) {
        self.hear();
        let is_beside = std::mem::replace(&mut self.is_retiring, true);
        self.must(
            !is_beside && self.call != Some("logout"),
            "two logouts are under way",
        );
    }

    pub(crate) fn ends(&mut self, is_beside: bool) {
        match is_beside {
            true => self.is_retiring = false,
            false => self.call = None,
        }
    }

    /// Whether it fails.
    pub(crate) fn fetches(&mut self) -> bool {
        self.hear();
        let now = Instant::now();
        // The source is read again to store what the login has shown.
        self.fetches += u32::from(self.view.is_logging_in);
        let is_login = self.view.is_logging_in && self.fetches == 1;
        if let Some(at) = self.refused_at.filter(|_| is_login) {
            self.must(
                at + RECHECK_EVERY <= now + SLACK || self.forced > 0,
                "the source was asked again within ten seconds of a refusal",
            );
            self.refused_at = Some(now);
        }
        if self.fetches_that_fail == 0 {
            return false;
        }
        self.fetches_that_fail -= 1;
        self.passwords.source_fails();
        if is_login {
            self.login_fails(None);
        }
        true
    }

    pub(crate) fn login_begins(
        &mut self,
        reason: Reason,
        is_forced: bool,
        password: Option<u32>,
        previous: Option<u64>,
    ) {
        self.begins("login");
        let now = Instant::now();
        self.note(format_args!("login {reason:?} with {password:?}"));
        self.must(
            is_forced || !self.is_refused,
            "refused credentials were sent again",
        );
        let now_passed = self.now();
        let offers = previous.is_some();
        let checked = self
            .passwords
            .sends(password, is_forced, offers, now_passed);
        self.check(checked);
        if let Some(until) = self.left_alone_until {
            self.must(
                is_forced || until <= now + SLACK,
                "a login although the login system is to be left alone",
            );
        }
        if let Some(previous) = previous {
            self.must(
                !self.burned.contains(&previous),
                "a token was offered again that a lost exchange may have used up",
            );
        }
    }

    /// A password was looked at. Whether it is right.
    pub(crate) fn is_right(&mut self, password: Option<u32>, is_told: bool) -> bool {
        let Some(password) = password else {
            return true;
        };
        let is_right = password == self.passwords.server;
        let now = self.now();
        let checked = self.passwords.is_judged(is_right, is_told, now);
        self.check(checked);
        is_right
    }

    pub(crate) fn refuses(&mut self, password: Option<u32>) {
        self.hear();
        self.refused_at = Some(Instant::now());
        // Who logs in after a logout does so by hand.
        self.is_refused = password.is_none() && !self.view.is_logged_out;
    }

    /// The answer to a login is known, or lost.
    pub(crate) fn login_ends(&mut self, verdict: Verdict) {
        let now = self.now();
        self.passwords.login_ends(verdict, now);
    }

    /// The answer to a password change is known, or lost.
    pub(crate) fn change_ends(&mut self, answer: Answer) {
        let now = self.now();
        let checked = self.passwords.change_ends(answer, now);
        self.check(checked);
        match answer {
            Answer::Yes | Answer::Lost => self.may_log_in(),
            Answer::No | Answer::NotSent => {}
        }
    }

    /// A token, or a password change, has shown that the login system is there.
    pub(crate) fn may_log_in(&mut self) {
        self.is_refused = false;
        self.refused_at = None;
        self.left_alone_until = None;
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.has_source() && self.passwords.is_paused(self.now())
    }

    pub(crate) fn would_refuse(&self) -> bool {
        self.is_refused || self.has_source() && self.passwords.is_stopped(self.now())
    }

    pub(crate) fn login_fails(&mut self, asked_for: Option<Duration>) {
        // The job ends with this, though one of two passwords was refused.
        self.refused_at = None;
        if self.view.is_logged_out {
            return;
        }
        let delay = asked_for.unwrap_or_default().max(SHORTEST_BACK_OFF);
        self.left_alone_until = Some(Instant::now() + delay);
    }

    pub(crate) fn burns(&mut self, previous: Option<u64>) {
        self.burned.extend(previous);
    }

    /// Makes a token, of which nobody has heard yet.
    pub(crate) fn issue(&mut self, sent: Instant, previous: Option<u64>) -> (u64, Option<u64>) {
        let now = Instant::now();
        let newest = self.tokens.keys().next_back().copied();
        let again =
            newest.filter(|newest| self.world.issues == Issues::Same && self.is_good(*newest));
        if let Some(number) = again {
            let token = self.tokens.get_mut(&number).expect("the newest");
            (token.sent, token.arrived, token.landed) = (sent, now, now);
            (token.used, token.surely_used) = (sent, sent);
            token.is_given_again = true;
            return (number, None);
        }
        let continues = previous
            .filter(|previous| self.world.issues == Issues::Continuing && self.is_good(*previous));
        if let Some(previous) = continues {
            let token = self.tokens.get_mut(&previous).expect("it is good");
            token.revoked = true;
        }
        let number = newest.map_or(1, |newest| newest + 1);
        self.tokens.insert(
            number,
            TokenEntry {
                sent,
                arrived: now,
                landed: now,
                revoked: false,
                used: sent,
                surely_used: sent,
                roll: 0,
                told: 0,
                is_delivered: false,
                is_proven: false,
                is_carried: false,
                is_rejected: false,
                is_suspect: false,
                is_forbidden: false,
                is_rejected_by_hand: false,
                continued_by: None,
                logouts: 0,
                logouts_done: 0,
                logouts_failed: 0,
                held: 0,
                is_given_again: false,
            },
        );
        (number, continues)
    }

    /// The session gets this one.
    pub(crate) fn deliver(&mut self, number: u64, continues: Option<u64>) {
        if let Some(token) = continues.and_then(|before| self.tokens.get_mut(&before)) {
            token.continued_by = Some(number);
        }
        let token = self.tokens.get_mut(&number).expect("it was issued");
        token.is_delivered = true;
        token.told = token.roll;
        self.delivered.push_back(number);
        self.burned.remove(&number);
        self.may_log_in();
        self.note(format_args!("issues token {number}"));
    }

    /// The store has held up what a login has brought.
    pub(crate) fn lands_late(&mut self) {
        for number in &self.delivered {
            let token = self.tokens.get_mut(number).expect("it was delivered");
            token.landed = Instant::now();
        }
    }

    pub(crate) fn logout_begins(&mut self, number: u64, is_beside: bool) {
        match is_beside {
            true => self.retires(),
            false => self.begins("logout"),
        }
        // The token of a login that lands after that is logged out by itself.
        self.must(
            is_beside || !self.is_retiring || self.is_dropped,
            "a logout of the session does not wait for that of a replaced token",
        );
        self.note(format_args!("logout of {number}"));
        self.must(
            self.world.logout_ends != LogoutEnds::Nothing,
            "the provider was called for a logout that ends nothing",
        );
        let is_same = self.world.issues == Issues::Same;
        let current = self.current();
        let users = self.users(number);
        let is_open = !self.view.is_logged_out && !self.is_dropped;
        let token = self.tokens.get_mut(&number).expect("a token of ours");
        token.logouts += 1;
        let is_done = token.logouts_done > 0;
        self.must(
            is_same || !is_done,
            format_args!("token {number} was logged out before"),
        );
        let now = Instant::now();
        let waits = self.closing.is_some_and(|until| now + SLACK < until);
        self.must(
            users == 0 || !waits,
            format_args!("token {number} was logged out before its {users} users had their time"),
        );
        if !is_open {
            return;
        }
        self.must(
            users == 0,
            format_args!("token {number} was logged out while {users} use it"),
        );
        let mut goes_on = Some(number);
        while let Some(number) = goes_on {
            // The session cannot know of two values that they are one token,
            // of which a login has brought the other.
            let token = &self.tokens[&number];
            let is_another_value = self.world.rolls && token.is_given_again;
            self.must(
                current != Some(number) || is_another_value,
                format_args!("a token was logged out that is in use, or goes on in {number}"),
            );
            goes_on = self.tokens[&number].continued_by;
        }
        self.must(
            self.candidate() != Some(number),
            format_args!("token {number} was logged out, and is to be used next"),
        );
        self.must(
            self.world.logout_ends != LogoutEnds::User,
            "a replaced token was logged out with all of the user's",
        );
    }

    /// Somebody closes the session, and nobody has ended it otherwise.
    pub(crate) fn closes(&mut self, deadline: Duration) {
        self.hear();
        let until = Instant::now() + deadline;
        self.closing = match self.view.is_closed {
            true => self.closing.map(|other| other.min(until)),
            false => Some(until).filter(|_| !self.view.is_logged_out),
        };
    }

    fn users(&self, number: u64) -> u64 {
        let requests = self.requests.values();
        let requests = requests.filter(|request| request.uses == Some(number));
        requests.count() as u64 + u64::from(self.tokens[&number].held)
    }

    /// Ends a token on the server. Whether it was good.
    pub(crate) fn log_out(&mut self, number: u64) -> bool {
        let was_good = self.is_good(number);
        if self.world.logout_ends == LogoutEnds::User {
            for token in self.tokens.values_mut() {
                token.revoked = true;
            }
        }
        if let Some(token) = self.tokens.get_mut(&number) {
            token.revoked = true;
        }
        was_good
    }

    pub(crate) fn logout_ended(&mut self, number: u64, is_done: bool, is_lost: bool) {
        let token = self.tokens.get_mut(&number).expect("a token of ours");
        token.logouts_done += u32::from(is_done);
        token.logouts_failed += u32::from(is_lost);
    }

    // What arrives.

    pub(crate) fn starts(&mut self, number: u64, order: Order) {
        self.hear();
        let at_once = self.is_live() && order.path != Path::Foreign;
        if let Some(current) = self.current().filter(|_| order.path != Path::Foreign) {
            self.is_used(current);
        }
        let after_close = self.view.is_closed;
        self.note(format_args!("request {number} starts"));
        self.requests.insert(
            number,
            Sent {
                order,
                started: Instant::now(),
                at_once,
                after_close,
                calls: Vec::new(),
                executed: 0,
                uses: None,
            },
        );
    }

    /// A request arrives. Answers with its token.
    pub(crate) fn arrives(
        &mut self,
        number: u64,
        value: Option<&http::HeaderValue>,
    ) -> Option<u64> {
        let now = Instant::now();
        let path = self.requests[&number].order.path;
        let carried = value.and_then(number_in);
        if let Some((token, _)) = carried {
            self.is_used(token);
        }
        self.hear();
        self.note(format_args!("request {number} arrives with {carried:?}"));
        if path == Path::Foreign {
            self.must(value.is_none(), "a token went to another server");
            return None;
        }
        let Some((token, roll)) = carried else {
            self.violated("a request arrived without a token");
            return None;
        };
        let current = self.current();
        let order = &self.requests[&number].order;
        // It is sent once more in any case, if the candidate is rejected.
        let may_try = self.requests[&number].calls.is_empty()
            && order.is_replayable()
            && (!order.post || self.world.rejects_by == RejectsBy::Status401);
        let is_tried = may_try && self.candidate() == Some(token);
        self.must(
            current == Some(token) || is_tried,
            format_args!("request {number} carries {token}, and {current:?} is in use"),
        );
        self.must(
            !self.view.is_suspended || is_tried,
            format_args!("request {number} carries {token}, which is suspended"),
        );
        let is_renewing = self.view.is_logging_in && self.view.is_renewing;
        self.must(
            !is_renewing,
            format_args!("request {number} carries {token}, which is being renewed"),
        );
        let ends = self.latest_end(token);
        self.must(
            ends.is_none_or(|ends| now <= ends + SLACK),
            format_args!("request {number} carries {token}, which is over"),
        );
        // What rolls a token that was logged out since, and is in use again,
        // comes too late.
        let issued = &self.tokens[&token];
        let told = issued.told;
        let came_late = issued.is_given_again && roll < told;
        self.must(
            roll == told || came_late,
            format_args!("request {number} carries value {roll} of token {token}, not {told}"),
        );
        let request = self.requests.get_mut(&number).expect("it has started");
        request.uses = Some(token);
        request.calls.push(Call { is_rejected: false });
        let calls = request.calls.len();
        let (at_once, started) = (request.at_once, request.started);
        let (after_close, replayable) = (request.after_close, request.order.is_replayable());
        self.must(
            !after_close,
            format_args!("request {number} came after close"),
        );
        self.must(
            !at_once || calls > 1 || started == now,
            format_args!("request {number} waited although there was a token"),
        );
        if calls > 1 {
            self.replays += 1;
            let request = &self.requests[&number];
            let was_rejected = request.calls[0].is_rejected;
            self.must(
                was_rejected,
                format_args!("request {number} was replayed unasked"),
            );
            self.must(
                calls == 2,
                format_args!("request {number} was replayed twice"),
            );
            self.must(
                replayable,
                format_args!("request {number} cannot be replayed, and was"),
            );
        }
        Some(token)
    }

    /// Whether the server accepts it; it executes it then.
    pub(crate) fn judges(&mut self, number: u64, token: u64, sent: Instant) -> bool {
        self.hear();
        let now = Instant::now();
        let (post, path) = {
            let order = &self.requests[&number].order;
            (order.post, order.path)
        };
        let target = (post, path);
        let is_forbidden = self.forbidden.contains(&path);
        let is_accepted = self.is_good(token) && !is_forbidden;
        let is_told = self.requests[&number]
            .order
            .tells_of_a_rejection(self.world.rejects_by);
        self.note(format_args!(
            "request {number} is {}",
            if is_accepted { "accepted" } else { "rejected" }
        ));
        if is_accepted || !is_told {
            // What cannot be told from an accepted one counts as one.
            self.cooling.remove(&target);
            self.accepted.insert(target, now);
            let issued = self.tokens.get_mut(&token).expect("it was issued");
            issued.used = issued.used.max(sent);
            issued.is_proven = true;
            if is_accepted {
                issued.surely_used = issued.surely_used.max(sent);
            }
        } else {
            // What is looked at later may come after its target has cooled down.
            let is_cooling = self.world.rejects_by == RejectsBy::Status401
                && self
                    .cooling
                    .get(&target)
                    .is_some_and(|until| now + SLACK < *until);
            let is_replay = self.requests[&number].calls.len() > 1;
            let accepted = self.accepted.get(&target);
            if is_replay && accepted.is_none_or(|at| *at + RECENTLY < now) {
                self.cooling.insert(target, now + SHORTEST_COOL_DOWN);
            }
            let issued = self.tokens.get_mut(&token).expect("it was issued");
            issued.is_rejected = true;
            issued.is_suspect |= !is_cooling && !is_replay;
            issued.is_forbidden |= is_forbidden;
            let request = self.requests.get_mut(&number).expect("it has arrived");
            request.uses = None;
            request.calls.last_mut().expect("this one").is_rejected = true;
        }
        is_accepted
    }

    /// The login system says that the token is dead.
    pub(crate) fn is_dead(&mut self, number: u64) {
        let issued = self.tokens.get_mut(&number).expect("a token of ours");
        (issued.is_rejected, issued.is_suspect) = (true, true);
    }

    /// The answer to it leaves, with the next value of its token.
    pub(crate) fn rolls(&mut self, token: u64) -> String {
        // Once its answer arrives, the candidate is current.
        let is_current = self.current() == Some(token) || self.candidate() == Some(token);
        let issued = self.tokens.get_mut(&token).expect("it was good");
        issued.roll += 1;
        if is_current {
            issued.told = issued.roll;
        }
        value(token, issued.roll)
    }

    /// A rejection was returned, with the word that its token is being renewed.
    pub(crate) fn is_promised(&mut self, generation: u64) {
        // Unless a login failed before, or too many helped nobody.
        let may_log_in = !self.view.has_failed && self.renewals == 0;
        let may_log_in = may_log_in && self.view.candidate.is_none();
        if may_log_in && !self.view.is_logging_in && !self.view.is_logged_out {
            self.promised = Some(generation);
        }
    }

    /// No job is under way that a renewal could wait for.
    pub(crate) fn keeps_promises(&mut self) {
        if let (Some(generation), None, 0) = (self.promised, self.call, self.in_store) {
            self.must(
                self.view.current != Some(generation),
                format_args!("generation {generation} was rejected, and is not renewed"),
            );
        }
    }

    pub(crate) fn is_done(&mut self, number: u64) {
        if let Some(request) = self.requests.get_mut(&number) {
            request.uses = None;
        }
    }

    pub(crate) fn is_handed_out(&mut self, number: u64) {
        self.is_used(number);
        self.hear();
        self.note(format_args!("token {number} is handed out"));
        let is_good = self.current() == Some(number) && !self.view.is_suspended;
        self.must(
            is_good,
            format_args!("{number} was handed out, which is not in use"),
        );
    }

    /// The session counts it as used by more than itself.
    pub(crate) fn is_used(&mut self, number: u64) {
        self.tokens
            .get_mut(&number)
            .expect("a token of ours")
            .is_carried = true;
    }

    /// Somebody says that another protocol took the token.
    pub(crate) fn used_by_hand(&mut self, number: u64) {
        self.hear();
        let now = Instant::now();
        if let Some(issued) = self.tokens.get_mut(&number) {
            (issued.used, issued.surely_used) = (now, now);
            issued.is_proven = true;
        }
    }

    // At the end.

    /// Every token is accounted for, after the session has ended in order.
    pub(crate) fn is_even(&mut self) {
        self.hear();
        for (generation, number) in self.view.generations.clone() {
            let end = self.view.ended.get(&generation).copied();
            if end.is_none() {
                self.violated(format_args!("nobody knows what became of token {number}"));
            }
            let is_left = self.is_good(number) && self.world.issues != Issues::Same;
            let issued = &self.tokens[&number];
            let is_excused = match end {
                Some(TokenEnd::Abandoned | TokenEnd::Expired | TokenEnd::Discarded) => true,
                Some(TokenEnd::Rejected) => issued.is_forbidden || issued.is_rejected_by_hand,
                Some(_) | None => false,
            };
            self.must(
                !is_left || is_excused,
                format_args!("token {number} is left on the server: {end:?}"),
            );
        }
    }

    /// What the calls brought that were under way when the last handle was
    /// dropped is logged out, or was tried to be.
    pub(crate) fn is_let_go(&mut self) {
        for number in std::mem::take(&mut self.delivered) {
            let is_tried =
                self.tokens[&number].logouts > 0 || self.world.logout_ends == LogoutEnds::Nothing;
            self.must(
                is_tried,
                format_args!("token {number} came after the last handle, and was left behind"),
            );
        }
        self.must(
            self.call.is_none() && !self.is_retiring,
            "a call of the provider is still under way",
        );
        for number in self.tokens.keys().copied().collect::<Vec<_>>() {
            let has_ended =
                self.view.generations.iter().any(|(generation, of)| {
                    *of == number && self.view.ended.contains_key(generation)
                });
            let is_delivered = self.tokens[&number].is_delivered;
            let is_known = self.view.generations.values().any(|of| *of == number);
            self.must(
                !is_delivered || !is_known || has_ended,
                format_args!("nobody knows what became of token {number}"),
            );
        }
    }

    pub(crate) fn has_source(&self) -> bool {
        self.world.source != SourceKind::None
    }
}

fn end_of(lifetime: Duration, token: &TokenEntry) -> Option<Instant> {
    let ends = token.sent + lifetime;
    Some(match ends > token.landed + Duration::from_millis(100) {
        true => ends,
        false => token.landed + BRIEFLY,
    })
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
