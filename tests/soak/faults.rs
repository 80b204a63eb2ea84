//! What goes wrong, and when: one call in five, and each kind in its turn.

use std::collections::BTreeMap;
use std::time::Duration;

use super::chance::Chance;

/// One call in so many goes wrong.
const ONE_IN: u64 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Endpoint {
    Job,
    Login,
    Logout,
    Change,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// 503, and nothing was done.
    Refuse,
    /// The connection is reset, and nothing was done.
    ResetBefore,
    /// It is done, and the connection reset.
    ResetAfter,
    /// No answer, and nothing is done.
    StallBefore,
    /// It is done, and there is no answer.
    StallAfter,
    /// It is done, and the answer is no HTTP.
    Garbage,
    /// It is done, and the answer breaks off.
    Half,
    /// It is done, and a gateway has not waited for the answer.
    Gateway,
    /// It is denied for no reason: the token or the credentials are good.
    Deny,
    /// The token is ended, and denied.
    Revoke,
    /// A job is done, and answered with the words for a dead session.
    Unsure,
}

use Fault::{
    Deny, Garbage, Gateway, Half, Refuse, ResetAfter, ResetBefore, Revoke, StallAfter, StallBefore,
    Unsure,
};

/// Those that may befall any call.
pub(crate) const COMMON: [Fault; 8] = [
    Refuse,
    ResetBefore,
    ResetAfter,
    StallBefore,
    StallAfter,
    Garbage,
    Half,
    Gateway,
];

impl Fault {
    /// Whether it keeps anything from being done.
    pub(crate) fn is_before(self) -> bool {
        match self {
            Refuse | ResetBefore | StallBefore | Deny | Revoke => true,
            ResetAfter | StallAfter | Garbage | Half | Gateway | Unsure => false,
        }
    }
}

impl Endpoint {
    pub(crate) const ALL: [Self; 4] = [Self::Job, Self::Login, Self::Logout, Self::Change];

    /// How often each of the common ones comes for one of the others.
    fn times(self) -> usize {
        match self {
            // Each of the others costs a login.
            Self::Job => 40,
            Self::Login | Self::Logout | Self::Change => 1,
        }
    }

    pub(crate) fn others(self) -> &'static [Fault] {
        match self {
            Self::Job => &[Deny, Revoke, Unsure],
            Self::Login => &[Deny],
            Self::Logout => &[Revoke],
            Self::Change => &[Deny, Revoke],
        }
    }
}

/// Decides which calls go wrong, and counts those that did.
pub(crate) struct Faults {
    chance: Chance,
    is_calm: bool,
    rows: BTreeMap<Endpoint, Row>,
    counts: BTreeMap<(Endpoint, Fault), u64>,
}

#[derive(Default)]
struct Row {
    calls: u64,
    /// Which of each five it is.
    faulty: u64,
    to_come: Vec<Fault>,
}

impl Faults {
    pub(crate) fn new(chance: Chance) -> Self {
        Self {
            chance,
            is_calm: false,
            rows: BTreeMap::new(),
            counts: BTreeMap::new(),
        }
    }

    /// Nothing goes wrong any more.
    pub(crate) fn calm(&mut self) {
        self.is_calm = true;
    }

    pub(crate) fn draw(&mut self, endpoint: Endpoint) -> Option<Fault> {
        if self.is_calm {
            return None;
        }
        let row = self.rows.entry(endpoint).or_default();
        let place = row.calls % ONE_IN;
        if place == 0 {
            row.faulty = self.chance.below(ONE_IN);
        }
        row.calls += 1;
        if place != row.faulty {
            return None;
        }
        if row.to_come.is_empty() {
            row.to_come = COMMON.repeat(endpoint.times());
            row.to_come.extend(endpoint.others());
        }
        let which = self.chance.below(row.to_come.len() as u64) as usize;
        Some(row.to_come.swap_remove(which))
    }

    /// How long a call takes otherwise.
    pub(crate) fn latency(&mut self, endpoint: Endpoint) -> Duration {
        match endpoint {
            Endpoint::Login => self.chance.millis(0, 30),
            Endpoint::Job | Endpoint::Logout | Endpoint::Change => self.chance.millis(0, 8),
        }
    }

    /// It has happened.
    pub(crate) fn count(&mut self, endpoint: Endpoint, fault: Fault) {
        *self.counts.entry((endpoint, fault)).or_default() += 1;
    }

    pub(crate) fn counted(&self, endpoint: Endpoint, fault: Fault) -> u64 {
        self.counts.get(&(endpoint, fault)).copied().unwrap_or(0)
    }

    /// How many of each kind, over all endpoints.
    pub(crate) fn kinds(&self) -> BTreeMap<Fault, u64> {
        let mut kinds = BTreeMap::new();
        for ((_, fault), count) in &self.counts {
            *kinds.entry(*fault).or_default() += count;
        }
        kinds
    }
}
