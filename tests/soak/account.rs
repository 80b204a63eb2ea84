//! The server's honest account: what it did for whom, what it knows to be lost,
//! and what must never happen.

mod jobs;
mod sessions;
mod sum;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use http::Method;
use tower_reauth::{Credentials, Reason};

use super::chance::Chance;
use super::faults::Faults;
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
/// How long a token that was accepted may be sent once more after a rejection.
const RECENTLY: Duration = Duration::from_secs(10);

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
    tokens: BTreeMap<u64, TokenEntry>,
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
    most_calls: usize,
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
    /// How many logouts of replaced tokens are under way.
    retiring: usize,
    /// The one of them that renews a token which was rejected.
    renewal: Option<u64>,
    /// The passwords that the session knows to be refused.
    refused: BTreeSet<u64>,
    /// Whether it does not know which password is right.
    is_uncertain: bool,
    /// The password of a change that may still take effect, so that a login without a
    /// verdict is followed by one with it. An accepted login ends that only if the
    /// change was denied.
    open: Option<PendingChange>,
    /// The latest token that was surely published.
    latest: u64,
    /// The call that renews a token ahead of its end.
    ahead: Option<u64>,
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

/// A change that was not answered "yes".
#[derive(Clone, Copy)]
struct PendingChange {
    new: u64,
    is_denied: bool,
}

/// How things were when somebody asked for the session's end.
#[derive(Clone, Copy)]
pub(crate) struct LoggedOut {
    era: u64,
    forced_ever: usize,
}

struct TokenEntry {
    user: usize,
    at: Instant,
    /// What `logouts` was then.
    era: u64,
    ended: Option<Ended>,
    /// Whether it renews another ahead of its end: it may not be published yet.
    is_ahead: bool,
    /// Whether the session got it.
    is_delivered: bool,
    /// Whether the session was told that it is dead.
    is_denied: bool,
    /// When it was last good for a job.
    accepted: Option<Instant>,
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
    /// The token that was in use when it was ordered, or an earlier one.
    least: u64,
    /// The renewal that was under way then.
    renewal: Option<u64>,
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
    Login {
        password: u64,
        reason: Reason,
    },
    Logout {
        token: u64,
    },
    /// Beside the others.
    Retire {
        token: u64,
    },
    Change {
        new: u64,
        current: Option<u64>,
    },
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
            most_calls: 0,
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
            retiring: 0,
            renewal: None,
            refused: BTreeSet::new(),
            is_uncertain: false,
            open: None,
            latest: 0,
            ahead: None,
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

    // Tokens, as the server knows them.

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

    pub(crate) fn revoke(&mut self, token: u64) {
        self.end(token, Ended::Revoked);
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
        for (user, terms) in USERS.iter().enumerate() {
            let mut tokens = self.tokens.iter().rev();
            let latest = tokens.find(|(_, issued)| issued.user == user && issued.is_delivered);
            if let (Some((latest, _)), None) = (latest, terms.lifetime) {
                self.end(*latest, Ended::Expired);
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
}
