//! Logins: which password is sent next, and what follows its verdict.

use std::time::Duration;

use super::record::{Claim, Id, Open, Record, Try, TryVerdict};
use super::time::LONGEST;
use super::{Account, WallTime};

/// How many logins may fail in a row.
const LIMIT: usize = 2;

/// The delay after two tries, if one of them got no verdict. It doubles.
const FIRST_DELAY: Duration = Duration::from_secs(60);

/// The longest delay before refused passwords are sent again.
const LONGEST_RETRY: Duration = Duration::from_secs(24 * 3600);

/// Who wants a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A request without a token, a timer, the next password after a refusal.
    Usual,
    /// An operator's `login()`.
    Forced,
}

/// What to do about a wanted login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Login<P> {
    /// Store the record with the claim, then send the password. If storing it
    /// conflicts, load and decide anew.
    Send {
        record: Record<P>,
        sent: SentLogin<P>,
    },
    /// Another login is in progress, at most until then. Decide anew once its
    /// verdict is stored.
    Wait { until: WallTime },
    /// Two logins are without a verdict. Decide anew at that time.
    Later { at: WallTime },
    /// No password is left that may be sent, until the record is edited, an
    /// operator calls `login()`, or a change is answered yes. With
    /// `retry_refused_after`, decide anew at `retry_at`.
    Stopped { retry_at: Option<WallTime> },
}

/// A login that was sent. The caller returns it with the verdict.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SentLogin<P> {
    pub(super) id: Id,
    pub(super) password: P,
    pub(super) at: WallTime,
    pub(super) until: WallTime,
    /// The current password at the sending.
    pub(super) current: P,
    /// The passwords that were open (no) at the sending.
    pub(super) denied: Vec<P>,
    /// Whether a change was in progress at the sending.
    pub(super) during_change: bool,
    /// The tries that a forced login has withdrawn from the record, and those that it
    /// has left.
    pub(super) former_tries: Vec<Try<P>>,
    /// The record at the sending, if the claim could not be stored.
    pub(super) unclaimed: Option<Box<Record<P>>>,
}

/// The answer to a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// The password is right, even if it has expired and there is no token.
    Accepted,
    /// The password is wrong.
    Refused,
    /// The server may have counted the login, and nobody knows how it ended.
    Unknown,
    /// The server says that the account is locked.
    Locked,
    /// The server provably did not get the login.
    NotSent,
}

impl<P> SentLogin<P> {
    /// Returns the password to send.
    pub(crate) fn password(&self) -> &P {
        &self.password
    }

    /// Returns when the claim ends. The caller gives up before that.
    pub(crate) fn until(&self) -> WallTime {
        self.until
    }
}

/// Which password may be sent.
enum Choice<P> {
    Send(P),
    Later { at: WallTime },
    Stopped { retry_at: Option<WallTime> },
}

impl Account {
    /// Decides a login. `id` is a fresh random number.
    ///
    /// | event | stored before going on | then |
    /// |---|---|---|
    /// | before any password is sent | `login` (a live one of another: wait for it) | send |
    /// | answer lost, timeout, owner dead, `until` over | no `change` (whoever sees it); new stays open (lost) | |
    /// | no verdict; `until` over; .. | `tries` += x, no verdict; no `login` | |
    pub(crate) fn decide_login<P: Clone + PartialEq>(
        &self,
        record: &Record<P>,
        wanted: Wanted,
        id: Id,
        now: WallTime,
    ) -> Login<P> {
        let mut record = record.caught_up(now);
        record.drop_change_if_over(now);
        if let Some(claim) = &record.login
            && claim.until.is_ahead(now)
        {
            return Login::Wait { until: claim.until };
        }
        if let Some(claim) = record.login.take() {
            record.add_try(claim.password, claim.until.min(now), TryVerdict::NoVerdict);
        }
        let former_tries = record.tries.clone();
        let limit = match wanted {
            Wanted::Usual => LIMIT,
            Wanted::Forced => record.allow_one_more(),
        };
        let password = match self.choose(&record, limit, now) {
            Choice::Send(password) => password,
            Choice::Later { at } => return Login::Later { at },
            Choice::Stopped { retry_at } => return Login::Stopped { retry_at },
        };
        let until = now.plus(self.settings.login_timeout.min(LONGEST));
        record.login = Some(Claim {
            id,
            password: password.clone(),
            owner: self.owner,
            until,
        });
        let denied = record.others.iter().filter(|other| other.open == Open::No);
        let sent = SentLogin {
            id,
            password,
            at: now,
            until,
            current: record.current.clone(),
            denied: denied.map(|other| other.password.clone()).collect(),
            during_change: record.change.is_some(),
            former_tries,
            unclaimed: None,
        };
        Login::Send { record, sent }
    }

    /// Chooses the password to send.
    ///
    /// | event | stored before going on | then |
    /// |---|---|---|
    /// | no password left, or two `tries` | | none left or two refused: stop. Else the one sent longest ago, after 60 s doubling to 1 h (`current` accepted before and nothing open: rule 15) |
    /// | no verdict .. | | while something is open: the one least tried; else x again |
    ///
    /// Only as many passwords take turns as may still fail: one that is third in
    /// the order is not sent before another is refused.
    fn choose<P: Clone + PartialEq>(
        &self,
        record: &Record<P>,
        limit: usize,
        now: WallTime,
    ) -> Choice<P> {
        let refused = record.refused();
        let left = record
            .order()
            .filter(|password| !record.is_refused(password));
        let left: Vec<&P> = left.take(limit.saturating_sub(refused)).collect();
        let Some(first) = left.first() else {
            return self.choose_refused(record, now);
        };
        // Two tries without a verdict of two passwords: the least tried one is
        // the one that was sent longest ago, and never sent is longest.
        let last_sent = |password: &&&P| {
            let mut tries = record.tries.iter();
            tries.rposition(|tried| tried.password == ***password)
        };
        let oldest = left
            .iter()
            .min_by_key(last_sent)
            .filter(|_| record.has_open());
        let password = oldest.unwrap_or(first);

        let tries = refused + record.without_verdict();
        let is_proven = record.accepted && refused == 0 && !record.has_open();
        if tries >= limit
            && !is_proven
            && let Some(last) = record.tries.last()
            && let Some(at) = last
                .at
                .due(doubled(FIRST_DELAY, tries - limit, LONGEST), now)
        {
            return Choice::Later { at };
        }
        Choice::Send((*password).clone())
    }

    /// Returns whether no password may be sent.
    pub(super) fn is_stopped<P: Clone + PartialEq>(
        &self,
        record: &Record<P>,
        now: WallTime,
    ) -> bool {
        matches!(self.choose(record, LIMIT, now), Choice::Stopped { .. })
    }

    /// Chooses a refused password, if the settings allow it.
    ///
    /// | event | stored before going on | then |
    /// |---|---|---|
    /// | no password left, or two `tries` | | .. `retry_refused_after` (one password a time, the one refused longest ago) |
    fn choose_refused<P: Clone + PartialEq>(&self, record: &Record<P>, now: WallTime) -> Choice<P> {
        let last_sent = |password: &&P| {
            let mut tries = record.tries.iter();
            tries.rposition(|tried| tried.password == **password)
        };
        let refused = record
            .order()
            .filter(|password| record.is_refused(password));
        let oldest = refused.min_by_key(last_sent);
        let (Some(delay), Some(oldest), Some(last)) = (
            self.settings.retry_refused_after,
            oldest,
            record.tries.last(),
        ) else {
            return Choice::Stopped { retry_at: None };
        };
        // Each one after the refusals that led here is a retry.
        let retries = record.tries.len().saturating_sub(record.refused());
        let delay = doubled(delay, retries, LONGEST_RETRY.max(delay));
        match last.at.due(delay, now) {
            Some(at) => Choice::Stopped { retry_at: Some(at) },
            None => Choice::Send(oldest.clone()),
        }
    }

    /// Returns the record to store after the answer to a login that came at `at`, if it
    /// differs.
    ///
    /// | event | stored before going on | then |
    /// |---|---|---|
    /// | a verdict whose `login` is gone | nothing | the accepted token is used |
    pub(crate) fn landed<P: Clone + PartialEq>(
        &self,
        record: &Record<P>,
        sent: &SentLogin<P>,
        verdict: Verdict,
        at: WallTime,
        now: WallTime,
    ) -> Option<Record<P>> {
        // Nobody has stored anything since; a person may have edited the record.
        let is_unclaimed = sent.unclaimed.as_deref().is_some_and(|before| {
            let mut unedited = record.clone();
            unedited.current = before.current.clone();
            unedited == *before
        });
        let is_claimed = record.login.as_ref().is_some_and(|it| it.id == sent.id);
        if !is_claimed && !is_unclaimed {
            return None;
        }
        let mut record = record.caught_up(now);
        record.login = None;
        let is_same = record.current == sent.current;
        match (verdict, is_same) {
            (Verdict::Accepted, true) => self.accepted(&mut record, sent, now),
            // Accepted, but `current` has changed: no `login`; nothing else.
            (Verdict::Accepted, false) => {}
            (Verdict::Refused, true) => record.refused_login(sent, at),
            // No verdict; or refused, but `current` has changed:
            // `tries` += x, no verdict; no `login`.
            (Verdict::Refused, false) | (Verdict::Unknown, _) => {
                record.add_try(sent.password.clone(), at, TryVerdict::NoVerdict);
            }
            // Provably not sent: no `login`; not a try. Nor a forced one: what was
            // refused before stays so.
            (Verdict::NotSent, true) => record.tries = sent.former_tries.clone(),
            // Locked: no `login`; not a try.
            (Verdict::Locked, _) | (Verdict::NotSent, false) => {}
        }
        Some(record)
    }

    /// | event | stored before going on | then |
    /// |---|---|---|
    /// | accepted, `login` is its own and `current` as at sending | `current` = x, the former one into `others`; x closed, and every open (no) stored before the sending; `tries` empty; no `login` | |
    ///
    /// A password is forgotten only here: `tries` is empty, and another one was
    /// accepted by a login that was sent after the retention was over. That also
    /// resolves an open one: no request is executed later than the retention.
    fn accepted<P: Clone + PartialEq>(
        &self,
        record: &mut Record<P>,
        sent: &SentLogin<P>,
        now: WallTime,
    ) {
        record.promote(sent.password.clone(), now);
        for other in &mut record.others {
            if other.open == Open::No && sent.denied.contains(&other.password) {
                other.open = Open::Closed;
            }
        }
        record.tries.clear();
        record.accepted = !sent.during_change;
        record.written = Some(record.current.clone());
        record.prune(self.settings.retention, sent.at);
    }
}

impl<P: Clone + PartialEq> Record<P> {
    /// | event | stored before going on | then |
    /// |---|---|---|
    /// | refused, likewise | `tries` += x refused, or "no verdict" if one before x in the order is not refused; no `login` | next password |
    ///
    /// A change moves the server from old to new only. A refusal of the new
    /// password before one of the old proves nothing: the change may still come.
    fn refused_login(&mut self, sent: &SentLogin<P>, at: WallTime) {
        let is_proven = {
            let mut before = self
                .order()
                .take_while(|password| **password != sent.password);
            before.all(|password| self.is_refused(password))
        };
        let verdict = match is_proven {
            true => TryVerdict::Refused,
            false => TryVerdict::NoVerdict,
        };
        self.add_try(sent.password.clone(), at, verdict);
    }

    /// Returns the limit that allows a forced login.
    ///
    /// | event | stored before going on | then |
    /// |---|---|---|
    /// | `login()` | one try more for a password not yet refused; if all are, `tries` empty | from the front |
    fn allow_one_more(&mut self) -> usize {
        self.tries.retain(super::record::Try::is_refused);
        let is_any_left = self.order().any(|password| !self.is_refused(password));
        if !is_any_left {
            self.tries.clear();
        }
        LIMIT.max(self.refused() + 1)
    }
}

fn doubled(delay: Duration, times: usize, longest: Duration) -> Duration {
    let times = u32::try_from(times.min(20)).unwrap_or(20);
    delay.saturating_mul(1 << times).min(longest)
}
