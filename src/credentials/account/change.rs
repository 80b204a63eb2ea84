//! Password changes: when one may begin, and what follows its answer.

use super::record::{Change, Id, MAX_OTHERS, Open, Record, TryVerdict};
use super::time::LONGEST;
use super::{Account, WallTime};

/// What to do about a wanted change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Begin<P> {
    /// Store the record with the new password, then ask the server. If storing
    /// it conflicts, load and decide anew.
    Ask { record: Record<P>, asked: Asked<P> },
    /// Another change is in progress, at most until then.
    Busy { until: WallTime },
    /// A login is in progress, at most until then. Decide anew once its verdict
    /// is stored.
    Wait { until: WallTime },
    /// It is not known which password works. Log in, then decide anew. Not if no
    /// password may be sent: a change is a way out then.
    LoginFirst,
    /// An earlier change, to this password, may still take effect. Change to
    /// this one again, then decide anew.
    SendAgain(P),
    /// The password is the current one, and a login with it was accepted.
    AlreadyCurrent,
    /// The record must keep all the passwords that it has. There is room when
    /// the retention of the oldest one is over and a login is accepted.
    NoRoom,
}

/// A change that was asked for. The caller returns it with the answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Asked<P> {
    pub(super) id: Id,
    pub(super) old: P,
    pub(super) new: P,
    pub(super) until: WallTime,
    /// Whether the record held the new password before.
    pub(super) was_known: bool,
    /// Whether a login with the old password had been accepted.
    pub(super) was_accepted: bool,
    /// Whether no password could be sent.
    pub(super) was_stopped: bool,
}

/// The answer to a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ChangeAnswer {
    Yes,
    /// The server says that it has not changed the password.
    No,
    /// There is no answer, or one that does not say.
    Lost,
    /// The server provably did not get the request.
    NotSent,
}

impl<P> Asked<P> {
    /// Returns the current password to send.
    pub(crate) fn current(&self) -> &P {
        &self.old
    }

    /// Returns the new password to send.
    pub(crate) fn new_password(&self) -> &P {
        &self.new
    }

    /// Returns whether the change in progress in `record` is this one.
    pub(crate) fn is_change_of(&self, record: &Record<P>) -> bool {
        let change = record.change.as_ref();
        change.is_some_and(|change| change.id == self.id)
    }

    /// Returns when the change is over for others. The caller gives up before that.
    pub(crate) fn until(&self) -> WallTime {
        self.until
    }
}

impl Account {
    /// Decides a change. `id` is a fresh random number.
    ///
    /// | event | stored before going on | then |
    /// |---|---|---|
    /// | change wanted | | a live `change`: error "busy". A live `login`: wait. `tries` not empty, or a change not answered yes since the last accepted login: log in first. Another password is open (lost): send that one again first. No room in `others`: an error, nothing sent |
    /// | .. two refused: stop until .. a change | | not: log in first |
    /// | change begins | new into `others`, open (lost); `change` | ask the server |
    pub(crate) fn begin_change<P: Clone + PartialEq>(
        &self,
        record: &Record<P>,
        new: &P,
        id: Id,
        now: WallTime,
    ) -> Begin<P> {
        let mut record = record.caught_up(now);
        record.drop_change_if_over(now);
        if let Some(change) = &record.change {
            return Begin::Busy {
                until: change.until,
            };
        }
        match &record.login {
            Some(claim) if claim.until.is_ahead(now) => {
                return Begin::Wait { until: claim.until };
            }
            // A login without a verdict, and soon one of the tries.
            Some(_) => return Begin::LoginFirst,
            None => {}
        }
        let is_current = *new == record.current;
        let is_unresolved = record.has_open() && !record.accepted;
        let is_stopped = self.is_stopped(&record, now);
        let is_doubtful = !record.tries.is_empty() || is_unresolved;
        if (is_doubtful || (is_current && !record.accepted)) && !is_stopped {
            return Begin::LoginFirst;
        }
        for other in record.others.iter().filter(|other| other.password != *new) {
            match other.open {
                Open::Lost => return Begin::SendAgain(other.password.clone()),
                // The next accepted login closes it.
                Open::No if !is_stopped => return Begin::LoginFirst,
                Open::No | Open::Closed => {}
            }
        }
        if is_current && !is_stopped {
            return Begin::AlreadyCurrent;
        }
        let was_known = record.has(new);
        let was_accepted = record.accepted;
        if !is_current {
            record.put_first(new.clone(), Open::Lost, now);
        }
        // A person who edits the record cannot be refused, so there may be more.
        if !was_known && record.others.len() > MAX_OTHERS {
            return Begin::NoRoom;
        }
        record.accepted = false;
        let until = now.plus(self.settings.login_timeout.min(LONGEST));
        record.change = Some(Change {
            id,
            owner: self.owner,
            until,
        });
        let asked = Asked {
            id,
            old: record.current.clone(),
            new: new.clone(),
            until,
            was_known,
            was_accepted,
            was_stopped: is_stopped,
        };
        Begin::Ask { record, asked }
    }

    /// Returns the record to store after the answer to a change, if it differs.
    pub(crate) fn change_answered<P: Clone + PartialEq>(
        &self,
        record: &Record<P>,
        asked: &Asked<P>,
        answer: ChangeAnswer,
        now: WallTime,
    ) -> Option<Record<P>> {
        let was_own = asked.is_change_of(record);
        let mut record = record.caught_up(now);
        let is_own = asked.is_change_of(&record);
        match (answer, is_own) {
            // yes, `change` is still its own | `current` = new, old into
            // `others`; new closed; no `change`; a refusal of new becomes "no
            // verdict"
            (ChangeAnswer::Yes, true) => {
                record.change = None;
                record.promote(asked.new.clone(), now);
                record.written = Some(record.current.clone());
                record.doubt_refusal(&asked.new);
                if asked.was_stopped {
                    record.allow_new();
                }
            }
            // yes, `change` is gone | nothing, or new into `others`, open, if
            // the record lacks it
            (ChangeAnswer::Yes, false) if record.has(&asked.new) => {
                return was_own.then_some(record);
            }
            (ChangeAnswer::Yes, false) => record.put_first(asked.new.clone(), Open::Lost, now),
            // provably not sent, `change` is still its own | the record as it was
            // before, if nothing was known of new then, and no login has sent it
            (ChangeAnswer::NotSent, true)
                if !asked.was_known && record.tries.is_empty() && record.login.is_none() =>
            {
                record.change = None;
                record.others.retain(|other| other.password != asked.new);
                record.accepted |= asked.was_accepted && record.current == asked.old;
            }
            // no, `change` is still its own | no `change`; new open (no) | use
            // `current`; new stays behind it
            (ChangeAnswer::No, true) => {
                record.change = None;
                for other in &mut record.others {
                    if other.password == asked.new && other.open == Open::Lost {
                        other.open = Open::No;
                    }
                }
            }
            // answer lost, timeout, owner dead, `until` over | no `change`
            // (whoever sees it); new stays open (lost)
            (ChangeAnswer::Lost | ChangeAnswer::NotSent, true) => record.change = None,
            // An edit has ended it.
            (ChangeAnswer::No | ChangeAnswer::Lost | ChangeAnswer::NotSent, false) => {
                return was_own.then_some(record);
            }
        }
        Some(record)
    }
}

impl<P: Clone + PartialEq> Record<P> {
    /// The owner of the change in progress has died.
    ///
    /// Only for a store that is certain about it, as the one that holds a file lock
    /// for the length of a change. Others wait until `until` is over.
    ///
    /// | event | stored before going on | then |
    /// |---|---|---|
    /// | .. owner dead .. | no `change` (whoever sees it); new stays open (lost) | |
    #[cfg(any(feature = "json", test))]
    pub(crate) fn end_change(&mut self) {
        self.change = None;
    }

    /// Drops a change whose time is over. Its password stays open (lost).
    pub(super) fn drop_change_if_over(&mut self, now: WallTime) {
        let change = self.change.as_ref();
        if change.is_some_and(|change| !change.until.is_ahead(now)) {
            self.change = None;
        }
    }

    /// Forgets all tries but the last refusal, so that one more login may fail: with the
    /// current password, which is new.
    ///
    /// | event | stored before going on | then |
    /// |---|---|---|
    /// | two refused: stop until .. a change | | |
    fn allow_new(&mut self) {
        let is_other = |tried: &super::record::Try<P>| {
            tried.is_refused() && tried.password != self.current && self.has(&tried.password)
        };
        let last = self.tries.iter().rposition(is_other);
        let last = last.map(|place| self.tries.swap_remove(place));
        self.tries = last.into_iter().collect();
    }

    /// Turns a refusal of `password` into a try without a verdict: it may have
    /// been refused before the change took effect.
    fn doubt_refusal(&mut self, password: &P) {
        let is_refused =
            |tried: &super::record::Try<P>| tried.is_refused() && tried.password == *password;
        let Some(last) = self.tries.iter().rposition(is_refused) else {
            return;
        };
        self.tries[last].verdict = TryVerdict::NoVerdict;
        self.tries.retain(|tried| !is_refused(tried));
    }
}
