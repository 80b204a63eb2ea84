//! The server's honest account: what it did for whom, what it knows to be lost,
//! and what must never happen.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use tower_reauth::{Credentials, ProviderError, ProviderErrorKind, Reason, Reauth, Why};

use super::chance::Chance;
use super::faults::{COMMON, Endpoint, Faults};
use super::server::{password, username};

/// How a user's tokens end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) name: &'static str,
    /// By themselves. Where they do not, the server ends the latest one each
    /// second, and no restart does: whoever loses another leaves it behind.
    pub(crate) lifetime: Option<Duration>,
    pub(crate) is_told: bool,
    /// Whether a password change ends them all.
    pub(crate) end_at_change: bool,
}

/// So many logouts of one token that failed make the session give it up.
const TRIES: u32 = 8;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) const USERS: [Terms; 4] = [
    Terms {
        name: "told",
        lifetime: Some(SECOND),
        is_told: true,
        end_at_change: false,
    },
    Terms {
        name: "untold",
        lifetime: Some(SECOND),
        is_told: false,
        end_at_change: true,
    },
    // Long enough to be renewed ahead.
    Terms {
        name: "ahead",
        lifetime: Some(Duration::from_millis(1500)),
        is_told: true,
        end_at_change: false,
    },
    Terms {
        name: "endless",
        lifetime: None,
        is_told: false,
        end_at_change: false,
    },
];

/// Of whoever comes with a session of its own, and goes again at once. Whatever
/// waits for the end of such a token waits beyond that of the test.
pub(crate) const GUEST: Terms = Terms {
    name: "guest",
    lifetime: Some(Duration::from_secs(3600)),
    is_told: true,
    end_at_change: false,
};

pub(crate) struct Account {
    pub(crate) faults: Faults,
    users: Vec<User>,
    tokens: BTreeMap<u64, Issued>,
    jobs: HashMap<u64, Job>,
    /// The password changes that were asked for, by the new password, and
    /// whether they were made.
    changes: BTreeMap<u64, bool>,
    passwords: u64,
    calls: u64,
    /// The job that each connection answered last. That its answer has come is
    /// known once another request has.
    unconfirmed: HashMap<u64, u64>,
    restarts: u64,
    restarts_without_sessions: u64,
    uncertain_changes: u64,
    resolved_changes: u64,
    wrong_passwords: u64,
    refusals: u64,
    most_flights: usize,
    not_sent: BTreeMap<&'static str, u64>,
    returned: BTreeMap<&'static str, u64>,
    violations: Vec<String>,
}

/// A user, and what the one session of its own has been told.
struct User {
    terms: Terms,
    password: u64,
    /// The calls of the provider under way, of which there is one at a time.
    under_way: BTreeSet<u64>,
    /// The passwords that the session knows to be refused.
    refused: BTreeSet<u64>,
    /// Whether it does not know which password is right.
    is_uncertain: bool,
    /// How many wait for a login whatever happened before.
    forced: usize,
    /// How many ever did.
    forced_ever: usize,
    /// Whether such a login may go on, of which nobody waits for the end.
    may_be_forced: bool,
    /// How often the session's end was asked for.
    logouts: u64,
    /// Whether it left its token behind: its session was dropped, and had it.
    has_left: bool,
}

/// How things were when somebody asked for the session's end.
#[derive(Clone, Copy)]
pub(crate) struct LoggedOut {
    era: u64,
    forced_ever: usize,
}

struct Issued {
    user: usize,
    at: Instant,
    /// What `logouts` was then.
    era: u64,
    ended: Option<Ended>,
    /// Whether the session got it.
    is_delivered: bool,
    /// Whether the session was told that it is dead.
    is_denied: bool,
    logouts: u32,
    /// How many hold it, or a response body that came with it.
    held: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ended {
    LoggedOut,
    Expired,
    Revoked,
    LostAtRestart,
}

struct Job {
    user: usize,
    method: Method,
    is_replayable: bool,
    /// How long its body is.
    size: usize,
    /// The tokens that it came with.
    arrivals: Vec<u64>,
    /// Those of them that it was turned away with.
    rejections: Vec<u64>,
    executed: u64,
    /// How many times of these were answered as if the session were dead.
    unsure: u64,
    /// Whether the server knows that an answer was lost.
    is_lost: bool,
    outcome: Option<Outcome>,
}

/// What became of a job, as its caller knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Acknowledged,
    /// Answered as if the session were dead.
    Unsure,
    /// A rejection, returned.
    Rejected,
    /// Answered with 503.
    Refused,
    /// An error of the session's own.
    NotSent,
    /// The connection broke, or a gateway has not waited.
    Broken,
    /// Its caller lost patience.
    GivenUp,
}

/// What a call of the provider is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Login { password: u64, reason: Reason },
    Logout { token: u64 },
    Change { new: u64, current: Option<u64> },
}

impl Account {
    pub(crate) fn new(chance: Chance) -> Self {
        let mut account = Self {
            faults: Faults::new(chance),
            users: Vec::new(),
            tokens: BTreeMap::new(),
            jobs: HashMap::new(),
            changes: BTreeMap::new(),
            passwords: 0,
            calls: 0,
            unconfirmed: HashMap::new(),
            restarts: 0,
            restarts_without_sessions: 0,
            uncertain_changes: 0,
            resolved_changes: 0,
            wrong_passwords: 0,
            refusals: 0,
            most_flights: 0,
            not_sent: BTreeMap::new(),
            returned: BTreeMap::new(),
            violations: Vec::new(),
        };
        for terms in USERS {
            account.comes(terms);
        }
        account
    }

    /// A user that is new.
    pub(crate) fn comes(&mut self, terms: Terms) -> usize {
        self.passwords += 1;
        self.users.push(User {
            terms,
            password: self.passwords,
            under_way: BTreeSet::new(),
            refused: BTreeSet::new(),
            is_uncertain: false,
            forced: 0,
            forced_ever: 0,
            may_be_forced: false,
            logouts: 0,
            has_left: false,
        });
        self.users.len() - 1
    }

    /// What a session starts with.
    pub(crate) fn is_served(&self, user: usize) -> (Terms, Credentials) {
        let known = &self.users[user];
        let credentials = Credentials::new(username(user), password(known.password));
        (known.terms, credentials)
    }

    pub(crate) fn violated(&mut self, rule: impl fmt::Display) {
        self.violations.push(rule.to_string());
    }

    fn must(&mut self, holds: bool, rule: impl fmt::Display) {
        if !holds {
            self.violated(rule);
        }
    }

    pub(crate) fn violations(&self) -> &[String] {
        &self.violations
    }

    fn name(&self, user: usize) -> &'static str {
        self.users[user].terms.name
    }

    // Jobs, as their callers know them.

    pub(crate) fn order(
        &mut self,
        user: usize,
        method: Method,
        is_replayable: bool,
        size: usize,
    ) -> u64 {
        let number = self.jobs.len() as u64;
        let job = Job {
            user,
            method,
            is_replayable,
            size,
            arrivals: Vec::new(),
            rejections: Vec::new(),
            executed: 0,
            unsure: 0,
            is_lost: false,
            outcome: None,
        };
        self.jobs.insert(number, job);
        number
    }

    pub(crate) fn body(&self, job: u64) -> Bytes {
        let size = self.jobs[&job].size;
        let words = format!("job {job} ").repeat(size / 5);
        words[..size].to_owned().into()
    }

    pub(crate) fn settle(&mut self, job: u64, outcome: Outcome) {
        self.jobs.get_mut(&job).expect("ordered").outcome = Some(outcome);
    }

    /// The token that a job came with last.
    pub(crate) fn bearer_of(&self, job: u64) -> u64 {
        let last = self.jobs[&job].arrivals.last();
        *last.expect("it was answered")
    }

    pub(crate) fn not_sent(&mut self, why: &'static str) {
        *self.not_sent.entry(why).or_default() += 1;
    }

    /// A rejection has come back, with a word on why.
    pub(crate) fn returned(&mut self, job: u64, reauth: Option<&Reauth>) {
        let Some(reauth) = reauth else {
            return self.violated(format_args!("job {job}: a rejection that says nothing"));
        };
        let why = match reauth.why {
            Why::NotReplayable => "not replayable",
            Why::Unsure => "unsure",
            Why::CoolingDown => "cooling down",
            Why::RenewalFailed(_) => "renewal failed",
            Why::StillRejected => "still rejected",
            Why::LoggedOut => "logged out",
            _ => "other",
        };
        *self.returned.entry(why).or_default() += 1;
        let is_right = !reauth.replayed || matches!(reauth.why, Why::StillRejected);
        self.must(
            is_right,
            format_args!("job {job} was rejected twice, and {reauth:?}"),
        );
        let was_replayed = self.jobs[&job].arrivals.len() > 1;
        self.must(
            reauth.replayed == was_replayed,
            format_args!("job {job} was sent again: {was_replayed}, and {reauth:?}"),
        );
    }

    // Jobs, as the server does them.

    /// A request for a job has arrived, on this connection and with this token.
    pub(crate) fn arrives(&mut self, connection: u64, job: u64, token: Option<u64>) {
        self.unconfirmed.remove(&connection);
        let Some(token) = token else {
            return self.violated(format_args!("job {job} came without a token"));
        };
        let known = self.jobs.get_mut(&job).expect("ordered");
        let is_first = known.arrivals.is_empty();
        let is_allowed = is_first || known.is_replayable && known.arrivals.len() == 1;
        let was_rejected = known.arrivals == known.rejections;
        let is_newer = known.arrivals.iter().all(|before| *before < token);
        known.arrivals.push(token);
        let arrivals = known.arrivals.clone();
        self.must(
            is_allowed,
            format_args!("job {job} was sent too often: {arrivals:?}"),
        );
        self.must(
            was_rejected,
            format_args!("job {job} was sent again, and not rejected before: {arrivals:?}"),
        );
        self.must(
            is_newer,
            format_args!("job {job} was sent again without a newer token: {arrivals:?}"),
        );
    }

    /// How the token has ended, if it has.
    pub(crate) fn ended(&mut self, token: u64) -> Option<Ended> {
        let issued = self.tokens.get_mut(&token).expect("issued");
        let lifetime = self.users[issued.user].terms.lifetime;
        if lifetime.is_some_and(|lifetime| issued.at.elapsed() >= lifetime) {
            issued.ended.get_or_insert(Ended::Expired);
        }
        issued.ended
    }

    fn end(&mut self, token: u64, how: Ended) {
        if self.ended(token).is_none() {
            self.tokens.get_mut(&token).expect("issued").ended = Some(how);
        }
    }

    /// A job is turned away since its token is dead, or is said to be.
    pub(crate) fn rejects(&mut self, job: u64, token: u64) {
        self.tokens.get_mut(&token).expect("issued").is_denied = true;
        let job = self.jobs.get_mut(&job).expect("ordered");
        job.rejections.push(token);
    }

    pub(crate) fn revoke(&mut self, token: u64) {
        self.end(token, Ended::Revoked);
    }

    /// Does a job, if the token is good.
    pub(crate) fn execute(&mut self, job: u64, token: u64, body: &Bytes) -> Result<(), Ended> {
        if let Some(ended) = self.ended(token) {
            return Err(ended);
        }
        let is_whole = self.body(job) == *body;
        let known = self.jobs.get_mut(&job).expect("ordered");
        known.executed += 1;
        let is_right = known.executed == 1 || known.method == Method::GET;
        self.must(is_whole, format_args!("job {job} lost its body"));
        self.must(is_right, format_args!("job {job} was done twice"));
        Ok(())
    }

    /// It is done, and answered as if the session were dead.
    pub(crate) fn is_unsure(&mut self, job: u64, token: u64) {
        self.rejects(job, token);
        self.jobs.get_mut(&job).expect("ordered").unsure += 1;
    }

    pub(crate) fn answered(&mut self, connection: u64, job: u64) {
        self.unconfirmed.insert(connection, job);
    }

    /// It is done, and its answer does not leave the server.
    pub(crate) fn answer_lost(&mut self, job: u64) {
        self.jobs.get_mut(&job).expect("ordered").is_lost = true;
    }

    /// Its client has closed a connection.
    pub(crate) fn hung_up(&mut self, connection: u64) {
        self.unconfirmed.remove(&connection);
    }

    /// All connections were cut.
    pub(crate) fn restarted(&mut self, loses_sessions: bool) {
        self.restarts += 1;
        for job in std::mem::take(&mut self.unconfirmed).into_values() {
            self.answer_lost(job);
        }
        if loses_sessions {
            self.restarts_without_sessions += 1;
            for token in self.tokens.keys().copied().collect::<Vec<_>>() {
                let user = &self.users[self.tokens[&token].user];
                if user.terms.lifetime.is_some() {
                    self.end(token, Ended::LostAtRestart);
                }
            }
        }
    }

    /// A second is over for those whose tokens do not end by themselves.
    pub(crate) fn expire_the_latest(&mut self) {
        for user in 0..self.users.len() {
            let mut tokens = self.tokens.iter().rev();
            let latest = tokens.find(|(_, issued)| issued.user == user && issued.is_delivered);
            let latest = latest.map(|(token, _)| *token);
            if self.users[user].terms.lifetime.is_none() {
                latest
                    .into_iter()
                    .for_each(|latest| self.end(latest, Ended::Expired));
            }
        }
    }

    // Tokens, as their holders know them.

    pub(crate) fn hold(&mut self, token: u64) {
        self.tokens.get_mut(&token).expect("issued").held += 1;
    }

    pub(crate) fn let_go(&mut self, token: u64) {
        self.tokens.get_mut(&token).expect("issued").held -= 1;
    }

    /// Whether the session's end was asked for since the token was issued.
    fn may_be_ended(&self, token: u64) -> bool {
        let issued = &self.tokens[&token];
        issued.era < self.users[issued.user].logouts
    }

    /// A live request has heard that its token was logged out.
    pub(crate) fn was_logged_out_under_a_request(&mut self, job: u64, token: u64) {
        let may_be = self.may_be_ended(token);
        self.must(
            may_be,
            format_args!("token {token} was logged out although job {job} used it"),
        );
    }

    // Calls of the provider.

    pub(crate) fn begins(&mut self, user: usize, purpose: Purpose) -> u64 {
        let name = self.name(user);
        self.calls += 1;
        let call = self.calls;
        let known = &mut self.users[user];
        known.under_way.insert(call);
        let flights = known.under_way.len();
        self.most_flights = self.most_flights.max(flights);
        match purpose {
            Purpose::Login { password, reason } => {
                let is_refused = known.refused.contains(&password);
                known.may_be_forced &= reason == Reason::Requested;
                let is_forced = reason == Reason::Requested && known.forced > 0;
                let is_forced = is_forced || known.may_be_forced;
                self.must(
                    !is_refused || is_forced,
                    format_args!("{name}: refused password {password} was sent again: {reason:?}"),
                );
            }
            Purpose::Logout { token } => {
                known.may_be_forced = false;
                let issued = self.tokens.get_mut(&token).expect("issued");
                issued.logouts += 1;
                let held = issued.held;
                let may_be = held == 0 || self.may_be_ended(token);
                self.must(
                    may_be,
                    format_args!("{name}: token {token} is logged out, and {held} use it"),
                );
            }
            Purpose::Change { new, current } => {
                known.may_be_forced = false;
                let is_uncertain = known.is_uncertain;
                let is_right = current == Some(known.password);
                // It may be right now, whatever it was before.
                known.refused.remove(&new);
                self.must(
                    !is_uncertain,
                    format_args!("{name}: a change to {new} before the last one was resolved"),
                );
                self.must(
                    is_right || is_uncertain,
                    format_args!("{name}: a change from {current:?}, which is not the password"),
                );
            }
        }
        self.must(
            flights == 1,
            format_args!("{name}: {flights} flights at once, {purpose:?} the last"),
        );
        call
    }

    /// A call has ended: `None` if it was given up.
    pub(crate) fn ends(
        &mut self,
        user: usize,
        call: u64,
        purpose: Purpose,
        outcome: Option<Result<Option<u64>, &ProviderError>>,
    ) {
        let known = &mut self.users[user];
        known.under_way.remove(&call);
        match (purpose, outcome) {
            (Purpose::Login { .. }, Some(Ok(token))) => {
                known.refused.clear();
                if std::mem::take(&mut known.is_uncertain) {
                    self.resolved_changes += 1;
                }
                let token = token.expect("a login yields one");
                self.tokens.get_mut(&token).expect("issued").is_delivered = true;
            }
            (Purpose::Login { password, .. }, Some(Err(error)))
                if error.kind() == ProviderErrorKind::Refused =>
            {
                known.refused.insert(password);
                self.refusals += 1;
            }
            (Purpose::Change { .. }, Some(Ok(_))) => known.refused.clear(),
            (Purpose::Change { .. }, outcome) => {
                let kind = outcome.and_then(Result::err).map(ProviderError::kind);
                if matches!(kind, None | Some(ProviderErrorKind::Uncertain)) {
                    known.is_uncertain = true;
                    self.uncertain_changes += 1;
                }
            }
            (Purpose::Login { .. } | Purpose::Logout { .. }, _) => {}
        }
    }

    /// A guest's session was dropped when it had its token.
    pub(crate) fn has_left(&mut self, user: usize) {
        self.users[user].has_left = true;
    }

    // The login system.

    /// A login, of a call that may have been given up. Answers with the token.
    pub(crate) fn log_in(&mut self, user: usize, password: u64, call: u64) -> Option<u64> {
        let name = self.name(user);
        let known = &self.users[user];
        if password != known.password {
            let may_be = known.is_uncertain || !known.under_way.contains(&call);
            self.wrong_passwords += 1;
            self.must(
                may_be,
                format_args!("{name}: wrong password {password} though no change is uncertain"),
            );
            return None;
        }
        let number = self.tokens.len() as u64 + 1;
        let issued = Issued {
            user,
            at: Instant::now(),
            era: known.logouts,
            ended: None,
            is_delivered: false,
            is_denied: false,
            logouts: 0,
            held: 0,
        };
        self.tokens.insert(number, issued);
        Some(number)
    }

    /// Whether the token was good.
    pub(crate) fn log_out(&mut self, token: u64) -> bool {
        let was_good = self.ended(token).is_none();
        self.end(token, Ended::LoggedOut);
        was_good
    }

    pub(crate) fn new_password(&mut self) -> u64 {
        self.passwords += 1;
        self.changes.insert(self.passwords, false);
        self.passwords
    }

    /// Changes the password, unless whoever asked has given up: whatever is done
    /// then, no client can know of.
    pub(crate) fn change(&mut self, token: u64, current: u64, new: u64, call: u64) -> bool {
        let user = self.tokens[&token].user;
        let known = &mut self.users[user];
        if !known.under_way.contains(&call) || known.password != current {
            return false;
        }
        known.password = new;
        self.changes.insert(new, true);
        if self.users[user].terms.end_at_change {
            let theirs = self.tokens.iter();
            let theirs = theirs.filter(|(_, issued)| issued.user == user);
            for token in theirs.map(|(token, _)| *token).collect::<Vec<_>>() {
                self.end(token, Ended::Revoked);
            }
        }
        true
    }

    pub(crate) fn is_changed_to(&self, new: u64) -> bool {
        self.changes[&new]
    }

    // What a session is asked for by hand.

    pub(crate) fn forces(&mut self, user: usize) {
        self.users[user].forced += 1;
        self.users[user].forced_ever += 1;
    }

    /// The one who waited has an answer. A logout gives one ahead of the login's
    /// end.
    pub(crate) fn forces_no_more(&mut self, user: usize, is_logged_in: bool) {
        let known = &mut self.users[user];
        known.forced -= 1;
        known.may_be_forced |= !is_logged_in;
    }

    /// Somebody is about to ask for the session's end. Answers with what
    /// `is_logged_out` is to be told.
    pub(crate) fn logs_out(&mut self, user: usize) -> LoggedOut {
        let known = &mut self.users[user];
        known.logouts += 1;
        LoggedOut {
            era: known.logouts,
            forced_ever: known.forced_ever - known.forced,
        }
    }

    /// The session has ended, it says. It has left nothing behind if nobody
    /// has opened it again meanwhile.
    pub(crate) fn is_logged_out(&mut self, user: usize, before: LoggedOut) {
        if self.users[user].forced_ever == before.forced_ever {
            self.has_left_nothing(user, before.era);
        }
    }

    // At the end.

    /// The tokens that a session got.
    pub(crate) fn delivered(&self, user: usize) -> u64 {
        let theirs = self.tokens.values();
        let theirs = theirs.filter(|issued| issued.user == user && issued.is_delivered);
        theirs.count() as u64
    }

    /// How many of these were given up, since no logout came through.
    pub(crate) fn given_up(&self, user: usize) -> u64 {
        let theirs = self.tokens.values();
        let theirs = theirs.filter(|issued| issued.user == user && issued.logouts >= TRIES);
        theirs.count() as u64
    }

    /// The session of a user was closed.
    pub(crate) fn is_closed(&mut self, user: usize) {
        self.has_left_nothing(user, u64::MAX);
    }

    /// A session that has ended leaves no token behind that it knew to be good.
    fn has_left_nothing(&mut self, user: usize, era: u64) {
        let name = self.name(user);
        for token in self.tokens.keys().copied().collect::<Vec<_>>() {
            let is_good = self.ended(token).is_none();
            let issued = &self.tokens[&token];
            let logouts = issued.logouts;
            let is_given_up = issued.is_denied || logouts >= TRIES;
            let is_theirs = issued.user == user && issued.era < era;
            let is_theirs = is_theirs && issued.is_delivered && !is_given_up;
            self.must(
                !(is_good && is_theirs),
                format_args!("{name}: token {token} was left behind, after {logouts} logouts"),
            );
        }
    }

    /// The tokens of guests whose session was gone when their login landed.
    fn guests_gone(&self) -> impl Iterator<Item = (&u64, &Issued)> {
        self.tokens.iter().filter(|(_, issued)| {
            let user = &self.users[issued.user];
            user.terms == GUEST && issued.is_delivered && !user.has_left
        })
    }

    /// Nothing of them was left behind.
    pub(crate) fn check_guests(&mut self) {
        let left = self.guests_gone().filter(|(_, issued)| issued.logouts == 0);
        let left: Vec<_> = left
            .map(|(token, _)| format!("token {token} of a guest was left behind"))
            .collect();
        self.violations.extend(left);
    }

    /// Each job was done as often as its caller may think.
    pub(crate) fn check_jobs(&mut self) {
        let mut wrong = Vec::new();
        for (number, job) in &self.jobs {
            // What was answered as if the session were dead may be done again.
            let done = job.executed - job.unsure;
            let is_right = match job.outcome {
                Some(Outcome::Acknowledged) => done == 1,
                Some(Outcome::Unsure) => done == 0 && job.unsure > 0,
                Some(Outcome::Rejected | Outcome::Refused | Outcome::NotSent) => done == 0,
                Some(Outcome::Broken) => done == 0 || done == 1 && job.is_lost,
                Some(Outcome::GivenUp) => done <= 1,
                None => false,
            };
            if !is_right {
                wrong.push(format!(
                    "job {number}, {} {:?}, was done {} times, of these {} unsure, answer lost: {}",
                    job.method, job.outcome, job.executed, job.unsure, job.is_lost
                ));
            }
        }
        self.violations.extend(wrong);
    }

    /// How many jobs came to this, and how many of them were done.
    pub(crate) fn came_to(&self, outcome: Outcome) -> (u64, u64) {
        let jobs = self.jobs.values();
        let jobs = jobs.filter(|job| job.outcome == Some(outcome));
        jobs.fold((0, 0), |(all, done), job| {
            (all + 1, done + u64::from(job.executed > 0))
        })
    }

    pub(crate) fn jobs_done(&self) -> u64 {
        let jobs = self.jobs.values();
        jobs.filter(|job| job.executed > 0).count() as u64
    }

    pub(crate) fn answers_lost(&self) -> u64 {
        self.jobs.values().filter(|job| job.is_lost).count() as u64
    }

    pub(crate) fn sent_again(&self) -> u64 {
        let jobs = self.jobs.values();
        jobs.filter(|job| job.arrivals.len() > 1).count() as u64
    }

    /// How many tokens ended like this, or not.
    pub(crate) fn ends_of_tokens(&mut self) -> BTreeMap<Option<Ended>, u64> {
        let mut ends = BTreeMap::new();
        for token in self.tokens.keys().copied().collect::<Vec<_>>() {
            *ends.entry(self.ended(token)).or_default() += 1;
        }
        ends
    }
}

/// One line, for whoever reads along.
impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (acknowledged, _) = self.came_to(Outcome::Acknowledged);
        let (broken, broken_done) = self.came_to(Outcome::Broken);
        let (given_up, given_up_done) = self.came_to(Outcome::GivenUp);
        let (unsure, _) = self.came_to(Outcome::Unsure);
        let (rejected, _) = self.came_to(Outcome::Rejected);
        let (refused, _) = self.came_to(Outcome::Refused);
        let (not_sent, _) = self.came_to(Outcome::NotSent);
        let mut tokens = self.tokens.values();
        let lost = self
            .tokens
            .values()
            .filter(|issued| !issued.is_delivered)
            .count();
        let mut ends = BTreeMap::new();
        for issued in &mut tokens {
            *ends.entry(issued.ended).or_insert(0_u64) += 1;
        }
        let made = self.changes.values().filter(|is_made| **is_made).count();
        write!(
            f,
            "{} jobs, {} done: {acknowledged} acknowledged, {broken} broken ({broken_done} done), \
             {given_up} given up ({given_up_done} done), {unsure} unsure, {rejected} rejected, \
             {refused} refused, {not_sent} not sent {:?}, returned {:?}; {} sent again, {} answers lost; \
             {} tokens, {lost} lost, ended {ends:?}; {} refusals, {} wrong passwords, \
             {} changes, {made} made, {} uncertain, {} resolved; {} flights at most; \
             {} guests gone; {} restarts, {} without sessions; faults {:?}",
            self.jobs.len(),
            self.jobs_done(),
            self.not_sent,
            self.returned,
            self.sent_again(),
            self.answers_lost(),
            self.tokens.len(),
            self.refusals,
            self.wrong_passwords,
            self.changes.len(),
            self.uncertain_changes,
            self.resolved_changes,
            self.most_flights,
            self.guests_gone().count(),
            self.restarts,
            self.restarts_without_sessions,
            self.faults.kinds(),
        )
    }
}

impl Account {
    /// What must still happen for the account to mean anything.
    pub(crate) fn is_still_to_come(&mut self) -> Vec<String> {
        let mut missing = Vec::new();
        for endpoint in Endpoint::ALL {
            for fault in COMMON.iter().chain(endpoint.others()) {
                if self.faults.counted(endpoint, *fault) == 0 {
                    missing.push(format!("{fault:?} at {endpoint:?}"));
                }
            }
        }
        for user in 0..USERS.len() {
            let jobs = self.jobs.values().filter(|job| job.user == user);
            let acknowledged = |job: &&Job| job.outcome == Some(Outcome::Acknowledged);
            if jobs.filter(acknowledged).count() < 100 {
                missing.push(format!("jobs of {}", self.name(user)));
            }
        }
        let ends = self.ends_of_tokens();
        let ended = |how| ends.get(&Some(how)).copied().unwrap_or(0);
        for (what, count, least) in [
            ("jobs sent again", self.sent_again(), 20),
            ("answers lost", self.answers_lost(), 20),
            ("jobs given up", self.came_to(Outcome::GivenUp).0, 20),
            ("tokens", self.tokens.len() as u64, 40),
            ("restarts", self.restarts, 3),
            (
                "restarts without sessions",
                self.restarts_without_sessions,
                1,
            ),
            ("resolved changes", self.resolved_changes, 2),
            ("wrong passwords", self.wrong_passwords, 1),
            ("refusals", self.refusals, 2),
            (
                "logins of guests that were gone",
                self.guests_gone().count() as u64,
                3,
            ),
            ("tokens logged out", ended(Ended::LoggedOut), 5),
            ("tokens expired", ended(Ended::Expired), 10),
            ("tokens revoked", ended(Ended::Revoked), 3),
            ("tokens lost at a restart", ended(Ended::LostAtRestart), 1),
        ] {
            if count < least {
                missing.push(format!("{what}: {count} of {least}"));
            }
        }
        missing
    }
}
