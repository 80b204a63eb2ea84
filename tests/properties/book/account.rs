//! The record of an account, and rule 21 restated: which password may be sent,
//! and what follows each answer.
//!
//! A store's record is read from its JSON text, so that the table is applied to
//! what is stored. The record of a source that cannot keep one lives here alone.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::properties::programme::DEADLINE;

/// How many logins may fail in a row.
const LIMIT: usize = 2;
const FIRST_DELAY: u64 = 60_000;
const LONGEST_DELAY: u64 = 3_600_000;
const MAX_TRIES: usize = 16;
pub(crate) const MAX_OTHERS: usize = 3;
const MAX_EDITED: usize = 16;
/// Times are rounded to milliseconds, and a timer goes off up to one late.
pub(crate) const ROUNDING: u64 = 5;

/// Milliseconds since the Unix epoch for a store's record, since the start
/// otherwise.
pub(crate) type Millis = u64;

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Account {
    #[serde(rename = "password", deserialize_with = "number")]
    pub(crate) current: u32,
    #[serde(default, deserialize_with = "some_number")]
    written: Option<u32>,
    #[serde(default)]
    pub(crate) accepted: bool,
    #[serde(default)]
    pub(crate) others: Vec<Other>,
    pub(crate) change: Option<Change>,
    pub(crate) login: Option<Claim>,
    #[serde(default)]
    pub(crate) tries: Vec<Try>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Other {
    #[serde(deserialize_with = "number")]
    pub(crate) password: u32,
    sent_at: Millis,
    open: Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Open {
    Lost,
    No,
    Closed,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Change {
    pub(crate) id: String,
    pub(crate) until: Millis,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Claim {
    pub(crate) id: String,
    #[serde(deserialize_with = "number")]
    pub(crate) password: u32,
    pub(crate) until: Millis,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Try {
    #[serde(deserialize_with = "number")]
    password: u32,
    at: Millis,
    verdict: TryVerdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TryVerdict {
    Refused,
    NoVerdict,
}

/// Which password a login may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Send(u32),
    Wait,
    Later,
    Stopped,
}

/// What an answer to a login says about its password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    Refused,
    Unknown,
    Locked,
    NotSent,
}

/// What an answer to a change says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Yes,
    No,
    Lost,
    NotSent,
}

/// A login that was claimed.
#[derive(Clone, Debug)]
pub(crate) struct SentLogin {
    id: String,
    pub(crate) password: u32,
    at: Millis,
    current: u32,
    denied: Vec<u32>,
    /// Before an operator's login withdrew some.
    tries: Vec<Try>,
    during_change: bool,
    /// The account at the sending, if its claim could not be stored: the verdict counts
    /// while nobody has stored anything since.
    pub(crate) unclaimed: Option<Box<Account>>,
}

/// A change that was claimed.
#[derive(Clone, Debug)]
pub(crate) struct AskedChange {
    id: String,
    old: u32,
    pub(crate) new: u32,
    was_known: bool,
    was_accepted: bool,
    was_stopped: bool,
}

/// What the store may have missed.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// With the time of the verdict.
    Login(SentLogin, Verdict, Millis),
    Change(AskedChange, Answer),
}

impl Account {
    pub(crate) fn new(current: u32) -> Self {
        Self {
            current,
            written: None,
            accepted: false,
            others: Vec::new(),
            change: None,
            login: None,
            tries: Vec::new(),
        }
    }

    pub(crate) fn parse(json: &str) -> Self {
        serde_json::from_str(json).expect("a record")
    }

    // What it says.

    /// In the order in which they are tried.
    fn order(&self) -> Vec<u32> {
        let open = self
            .others
            .iter()
            .filter(|other| other.open != Open::Closed);
        let closed = self
            .others
            .iter()
            .filter(|other| other.open == Open::Closed);
        let others = open.chain(closed).map(|other| other.password);
        std::iter::once(self.current).chain(others).collect()
    }

    /// Whether it keeps `password`, also behind the edit of a person.
    pub(crate) fn keeps(&self, password: u32) -> bool {
        self.order().contains(&password) || self.written == Some(password)
    }

    pub(crate) fn passwords(&self) -> usize {
        self.order().len()
    }

    pub(crate) fn is_refused(&self, password: u32) -> bool {
        let mut refused = self.tries.iter().filter(|tried| tried.is_refused());
        refused.any(|tried| tried.password == password)
    }

    /// Whether a refusal of `password` proves that it is wrong, given that those in
    /// `refused` are.
    pub(crate) fn proves(&self, password: u32, refused: &BTreeSet<u32>) -> bool {
        let order = self.order().into_iter();
        let mut before = order.take_while(|it| *it != password);
        before.all(|it| self.is_refused(it) || refused.contains(&it))
    }

    fn has_open(&self) -> bool {
        self.others.iter().any(|other| other.open != Open::Closed)
    }

    /// Whether only a login with a password shows which one works.
    pub(crate) fn is_unresolved(&self) -> bool {
        self.has_open() && !self.accepted
    }

    /// Whether a login may be sent whose claim cannot be stored.
    pub(crate) fn is_settled(&self, password: u32) -> bool {
        self.accepted
            && self.current == password
            && !self.has_open()
            && self.tries.is_empty()
            && self.login.is_none()
    }

    /// Which password may be sent. `self` has caught up.
    pub(crate) fn decide(&self, is_forced: bool, now: Millis) -> Decision {
        if self.login.as_ref().is_some_and(|claim| now < claim.until) {
            return Decision::Wait;
        }
        let mut account = self.clone();
        account.gives_up_claim(now);
        let limit = match is_forced {
            true => account.allows_one_more(),
            false => LIMIT,
        };
        account.chooses(limit, now)
    }

    fn chooses(&self, limit: usize, now: Millis) -> Decision {
        let order = self.order();
        let refused = order.iter().filter(|it| self.is_refused(**it)).count();
        let left = order.iter().filter(|it| !self.is_refused(**it));
        let left: Vec<u32> = left.take(limit.saturating_sub(refused)).copied().collect();
        let Some(first) = left.first().copied() else {
            return Decision::Stopped;
        };
        let password = match self.has_open() {
            true => {
                let last = |it: &&u32| self.tries.iter().rposition(|at| at.password == **it);
                *left.iter().min_by_key(last).expect("one is left")
            }
            false => first,
        };
        let unknown = self.tries.iter().filter(|tried| !tried.is_refused());
        let unknown = unknown.filter(|tried| order.contains(&tried.password));
        let tries = refused + unknown.count();
        let is_proven = self.accepted && refused == 0 && !self.has_open();
        if tries >= limit && !is_proven {
            let last = self.tries.last().expect("there are tries");
            let delay = FIRST_DELAY << (tries - limit).min(10);
            if now < last.at + delay.min(LONGEST_DELAY) {
                return Decision::Later;
            }
        }
        Decision::Send(password)
    }

    /// Why `new` may not be asked for, if it may not. `self` has caught up.
    pub(crate) fn denies_change(&self, new: u32, now: Millis) -> Option<&'static str> {
        if self.change.as_ref().is_some_and(|it| now < it.until) {
            return Some("another change is in progress");
        }
        if self.login.is_some() {
            return Some("a login is in progress");
        }
        let is_stopped = self.chooses(LIMIT, now) == Decision::Stopped;
        let is_current = new == self.current;
        let is_doubtful = !self.tries.is_empty()
            || self.has_open() && !self.accepted
            || is_current && !self.accepted;
        if is_doubtful && !is_stopped {
            return Some("a login must come first");
        }
        for other in self.others.iter().filter(|it| it.password != new) {
            match other.open {
                Open::Lost => return Some("an earlier change may still take effect"),
                Open::No if !is_stopped => return Some("a login must come first"),
                Open::No | Open::Closed => {}
            }
        }
        if is_current && !is_stopped {
            return Some("it is the current password");
        }
        let is_new = !self.order().contains(&new);
        (is_new && self.others.len() >= MAX_OTHERS).then_some("there is no room")
    }

    // What happens to it.

    /// As the protocol goes on with it.
    pub(crate) fn caught_up(&self, outcomes: &[Outcome], retention: Duration, now: Millis) -> Self {
        let mut account = self.clone();
        for outcome in outcomes {
            match outcome {
                Outcome::Login(sent, verdict, at) => {
                    account.lands(sent, *verdict, *at, retention, now);
                }
                Outcome::Change(asked, answer) => account.is_answered(asked, *answer, now),
            }
        }
        account.sees_edit(now);
        account
    }

    fn sees_edit(&mut self, now: Millis) {
        if let Some(written) = self.written.filter(|it| *it != self.current) {
            self.puts_first(written, Open::Closed, now);
            self.tries.clear();
            self.change = None;
            self.accepted = false;
            if self.others.len() > MAX_EDITED
                && let Some(last) = self.others.iter().rposition(|it| it.open == Open::Closed)
            {
                self.others.remove(last);
            }
        }
        let current = self.current;
        self.others.retain(|other| other.password != current);
        self.written = Some(current);
    }

    /// A source that cannot be written yields another password.
    pub(crate) fn is_replaced(&mut self, password: u32, refused: &[u32], now: Millis) {
        self.written = Some(self.current);
        self.current = password;
        self.sees_edit(now);
        self.others
            .retain(|it| it.open != Open::Closed || !refused.contains(&it.password));
        if refused.contains(&password) {
            self.tries(password, TryVerdict::Refused, now);
        }
    }

    fn puts_first(&mut self, password: u32, open: Open, now: Millis) {
        self.others.retain(|other| other.password != password);
        let other = Other {
            password,
            sent_at: now,
            open,
        };
        self.others.insert(0, other);
    }

    fn promotes(&mut self, password: u32, now: Millis) {
        self.others.retain(|other| other.password != password);
        if self.current != password {
            let former = std::mem::replace(&mut self.current, password);
            self.puts_first(former, Open::Closed, now);
        }
        self.written = Some(password);
    }

    fn tries(&mut self, password: u32, verdict: TryVerdict, at: Millis) {
        self.tries.push(Try {
            password,
            at,
            verdict,
        });
        if self.tries.len() > MAX_TRIES {
            let is_kept = |place: usize| {
                let tried = &self.tries[place];
                let mut later = self.tries[place + 1..].iter();
                tried.is_refused()
                    && !later.any(|it| it.is_refused() && it.password == tried.password)
            };
            if let Some(place) = (0..self.tries.len()).find(|place| !is_kept(*place)) {
                self.tries.remove(place);
            }
        }
    }

    fn gives_up_claim(&mut self, now: Millis) {
        if let Some(claim) = self.login.take() {
            self.tries(claim.password, TryVerdict::NoVerdict, claim.until.min(now));
        }
    }

    fn allows_one_more(&mut self) -> usize {
        self.tries.retain(Try::is_refused);
        let order = self.order();
        let refused = order.iter().filter(|it| self.is_refused(**it)).count();
        if refused == order.len() {
            self.tries.clear();
            return LIMIT;
        }
        LIMIT.max(refused + 1)
    }

    /// A login is claimed.
    pub(crate) fn claims(
        &mut self,
        id: String,
        password: u32,
        is_forced: bool,
        now: Millis,
    ) -> SentLogin {
        if self.change.as_ref().is_some_and(|it| it.until <= now) {
            self.change = None;
        }
        self.gives_up_claim(now);
        let tries = self.tries.clone();
        if is_forced {
            self.allows_one_more();
        }
        self.login = Some(Claim {
            id: id.clone(),
            password,
            until: now + DEADLINE.as_millis() as u64,
        });
        let denied = self.others.iter().filter(|it| it.open == Open::No);
        SentLogin {
            id,
            password,
            at: now,
            current: self.current,
            denied: denied.map(|it| it.password).collect(),
            tries,
            during_change: self.change.is_some(),
            unclaimed: None,
        }
    }

    pub(crate) fn lands(
        &mut self,
        sent: &SentLogin,
        verdict: Verdict,
        at: Millis,
        retention: Duration,
        now: Millis,
    ) {
        let is_claimed = self.login.as_ref().is_some_and(|claim| claim.id == sent.id);
        let unclaimed = sent.unclaimed.as_deref();
        let is_unclaimed = unclaimed.is_some_and(|before| {
            let mut unedited = self.clone();
            unedited.current = before.current;
            unedited.differs_from(before).is_none()
        });
        if !is_claimed && !is_unclaimed {
            return;
        }
        self.sees_edit(now);
        self.login = None;
        let is_same = self.current == sent.current;
        match verdict {
            Verdict::Accepted if is_same => self.accepts(sent, retention, now),
            Verdict::Refused if is_same => {
                let mut before = self
                    .order()
                    .into_iter()
                    .take_while(|it| *it != sent.password);
                let verdict = match before.all(|it| self.is_refused(it)) {
                    true => TryVerdict::Refused,
                    false => TryVerdict::NoVerdict,
                };
                self.tries(sent.password, verdict, at);
            }
            Verdict::Refused | Verdict::Unknown => {
                self.tries(sent.password, TryVerdict::NoVerdict, at);
            }
            Verdict::NotSent if is_same => self.tries.clone_from(&sent.tries),
            Verdict::Accepted | Verdict::Locked | Verdict::NotSent => {}
        }
    }

    fn accepts(&mut self, sent: &SentLogin, retention: Duration, now: Millis) {
        self.promotes(sent.password, now);
        for other in &mut self.others {
            if other.open == Open::No && sent.denied.contains(&other.password) {
                other.open = Open::Closed;
            }
        }
        self.tries.clear();
        self.accepted = !sent.during_change;
        let is_changing = self.change.is_some();
        let retention = retention.as_millis() as u64;
        self.others.retain(|other| {
            sent.at < other.sent_at + retention || is_changing && other.open == Open::Lost
        });
    }

    /// The server is about to be asked to change the password to `new`.
    pub(crate) fn begins_change(&mut self, id: String, new: u32, now: Millis) -> AskedChange {
        let asked = AskedChange {
            id: id.clone(),
            old: self.current,
            new,
            was_known: self.order().contains(&new),
            was_accepted: self.accepted,
            was_stopped: self.decide(false, now) == Decision::Stopped,
        };
        if new != self.current {
            self.puts_first(new, Open::Lost, now);
        }
        self.accepted = false;
        let until = now + DEADLINE.as_millis() as u64;
        self.change = Some(Change { id, until });
        asked
    }

    pub(crate) fn is_answered(&mut self, asked: &AskedChange, answer: Answer, now: Millis) {
        let mut seen = self.clone();
        seen.sees_edit(now);
        if seen.change.as_ref().is_none_or(|it| it.id != asked.id) {
            let is_missing = answer == Answer::Yes && !seen.order().contains(&asked.new);
            if is_missing {
                seen.puts_first(asked.new, Open::Lost, now);
            }
            let was_own = self.change.as_ref().is_some_and(|it| it.id == asked.id);
            if is_missing || was_own {
                *self = seen;
            }
            return;
        }
        *self = seen;
        self.change = None;
        match answer {
            Answer::Yes => {
                self.promotes(asked.new, now);
                let refused = |it: &Try| it.is_refused() && it.password == asked.new;
                if let Some(last) = self.tries.iter().rposition(refused) {
                    self.tries[last].verdict = TryVerdict::NoVerdict;
                    self.tries.retain(|it| !refused(it));
                }
                // A change is a way out of a stop: one more may fail.
                if asked.was_stopped {
                    let order = self.order();
                    let is_other = |it: &Try| {
                        it.is_refused() && it.password != asked.new && order.contains(&it.password)
                    };
                    let last = self.tries.iter().rposition(is_other);
                    self.tries = last
                        .map(|place| self.tries.remove(place))
                        .into_iter()
                        .collect();
                }
            }
            Answer::No => {
                let new = self.others.iter_mut().find(|it| it.password == asked.new);
                if let Some(new) = new.filter(|it| it.open == Open::Lost) {
                    new.open = Open::No;
                }
            }
            Answer::Lost => {}
            // A login may have sent it.
            Answer::NotSent
                if asked.was_known || !self.tries.is_empty() || self.login.is_some() => {}
            Answer::NotSent => {
                self.others.retain(|it| it.password != asked.new);
                self.accepted |= asked.was_accepted && self.current == asked.old;
            }
        }
    }

    /// What differs between this and `other`, except for names, and for times that
    /// were rounded.
    pub(crate) fn differs_from(&self, other: &Self) -> Option<String> {
        let plain = |account: &Self| {
            let mut account = account.clone();
            let mut times = Vec::new();
            for other in &mut account.others {
                times.push(std::mem::take(&mut other.sent_at));
            }
            for tried in &mut account.tries {
                times.push(std::mem::take(&mut tried.at));
            }
            if let Some(claim) = &mut account.login {
                claim.id.clear();
                times.push(std::mem::take(&mut claim.until));
            }
            if let Some(change) = &mut account.change {
                change.id.clear();
                times.push(std::mem::take(&mut change.until));
            }
            (format!("{account:?}"), times)
        };
        let ((one, one_times), (two, two_times)) = (plain(self), plain(other));
        let times = one_times.iter().zip(&two_times);
        let are_close = times
            .clone()
            .all(|(one, two)| one.abs_diff(*two) <= ROUNDING);
        (one != two || !are_close)
            .then(|| format!("{one} at {one_times:?}, and not\n    {two} at {two_times:?}"))
    }
}

impl Try {
    fn is_refused(&self) -> bool {
        self.verdict == TryVerdict::Refused
    }
}

fn parsed(text: &str) -> u32 {
    let number = text.strip_prefix("password-");
    let number = number.and_then(|number| number.parse().ok());
    number.expect("a password of ours")
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    Ok(parsed(&String::deserialize(deserializer)?))
}

fn some_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.map(|text| parsed(&text)))
}
