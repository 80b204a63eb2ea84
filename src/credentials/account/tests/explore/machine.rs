//! The machine that is explored: the shipped one, and broken ones that show that
//! the explorer finds what a broken row does.

use super::world::{NOW, P};
use crate::credentials::account::{
    Account, AccountSettings, Asked, Begin, ChangeAnswer, Id, Login, Open, Owner, Record,
    SentLogin, Verdict, Wanted,
};

/// The four decisions of the shipped machine. A broken one replaces some.
pub(super) trait Machine {
    fn decide_login(&self, record: &Record<P>, wanted: Wanted, id: Id) -> Login<P> {
        shipped().decide_login(record, wanted, id, NOW)
    }

    fn landed(
        &self,
        record: &Record<P>,
        sent: &SentLogin<P>,
        verdict: Verdict,
    ) -> Option<Record<P>> {
        shipped().landed(record, sent, verdict, NOW, NOW)
    }

    fn begin_change(&self, record: &Record<P>, new: P, id: Id) -> Begin<P> {
        shipped().begin_change(record, &new, id, NOW)
    }

    fn change_answered(
        &self,
        record: &Record<P>,
        asked: &Asked<P>,
        answer: ChangeAnswer,
    ) -> Option<Record<P>> {
        shipped().change_answered(record, asked, answer, NOW)
    }

    /// Whether the record is stored before the request is sent.
    fn stores_first(&self) -> bool {
        true
    }
}

pub(super) fn shipped() -> Account {
    Account::new(AccountSettings::default(), Owner(0))
}

pub(super) struct Shipped;

impl Machine for Shipped {}

/// Tries the new password of an open change before the current one.
pub(super) struct NewFirst;

impl Machine for NewFirst {
    fn decide_login(&self, record: &Record<P>, wanted: Wanted, id: Id) -> Login<P> {
        let mut reversed = record.clone();
        let lost = record.others.iter().find(|other| other.open == Open::Lost);
        let Some(new) = lost.map(|other| other.password) else {
            return shipped().decide_login(record, wanted, id, NOW);
        };
        if record.is_refused(&new) {
            return shipped().decide_login(record, wanted, id, NOW);
        }
        let old = std::mem::replace(&mut reversed.current, new);
        reversed.written = Some(new);
        reversed.others.retain(|other| other.password != new);
        reversed.put_first(old, Open::Lost, NOW);
        match shipped().decide_login(&reversed, wanted, id, NOW) {
            Login::Send {
                record: sent_record,
                mut sent,
            } => {
                let mut record = record.caught_up(NOW);
                record.change = sent_record.change;
                record.login = sent_record.login;
                record.tries = sent_record.tries;
                sent.current = record.current;
                Login::Send { record, sent }
            }
            other => other,
        }
    }

    /// Takes a refusal for final in whatever order the passwords were sent.
    fn landed(
        &self,
        record: &Record<P>,
        sent: &SentLogin<P>,
        verdict: Verdict,
    ) -> Option<Record<P>> {
        let mut landed = shipped().landed(record, sent, verdict, NOW, NOW);
        if verdict == Verdict::Refused
            && let Some(record) = &mut landed
            && let Some(tried) = record.tries.last_mut()
        {
            tried.verdict = crate::credentials::account::TryVerdict::Refused;
        }
        landed
    }
}

/// Sends first and stores after the answer.
pub(super) struct SendFirst;

impl Machine for SendFirst {
    fn stores_first(&self) -> bool {
        false
    }
}

/// Withdraws the change of another, after a login with the old password.
pub(super) struct Withdraw;

impl Machine for Withdraw {
    fn landed(
        &self,
        record: &Record<P>,
        sent: &SentLogin<P>,
        verdict: Verdict,
    ) -> Option<Record<P>> {
        let mut landed = shipped().landed(record, sent, verdict, NOW, NOW);
        if verdict == Verdict::Accepted
            && let Some(record) = &mut landed
        {
            record.change = None;
            record.others.retain(|other| !other.is_open());
        }
        landed
    }
}

/// Believes a "no": the new password is dropped.
pub(super) struct BelieveNo;

impl Machine for BelieveNo {
    fn change_answered(
        &self,
        record: &Record<P>,
        asked: &Asked<P>,
        answer: ChangeAnswer,
    ) -> Option<Record<P>> {
        let mut record = shipped().change_answered(record, asked, answer, NOW)?;
        record.others.retain(|other| other.open != Open::No);
        Some(record)
    }
}

/// Sends a login while another is in progress.
pub(super) struct NoClaims;

impl Machine for NoClaims {
    fn decide_login(&self, record: &Record<P>, wanted: Wanted, id: Id) -> Login<P> {
        let mut record = record.clone();
        record.login = None;
        shipped().decide_login(&record, wanted, id, NOW)
    }
}

/// Counts a verdict although the current password has changed meanwhile.
pub(super) struct StaleVerdict;

impl Machine for StaleVerdict {
    fn landed(
        &self,
        record: &Record<P>,
        sent: &SentLogin<P>,
        verdict: Verdict,
    ) -> Option<Record<P>> {
        let mut sent = sent.clone();
        sent.current = record.current;
        shipped().landed(record, &sent, verdict, NOW, NOW)
    }
}

/// Begins a change while it is not known which password works.
pub(super) struct ChangeUnsettled;

impl Machine for ChangeUnsettled {
    fn begin_change(&self, record: &Record<P>, new: P, id: Id) -> Begin<P> {
        let mut settled = record.clone();
        settled.login = None;
        settled.tries.clear();
        settled.accepted = true;
        match shipped().begin_change(&settled, &new, id, NOW) {
            Begin::Ask {
                record: mut begun,
                asked,
            } => {
                begun.login = record.login.clone();
                begun.tries = record.tries.clone();
                Begin::Ask {
                    record: begun,
                    asked,
                }
            }
            other => other,
        }
    }
}

/// Drops the oldest passwords to make room for a new one.
pub(super) struct Evict;

impl Machine for Evict {
    fn begin_change(&self, record: &Record<P>, new: P, id: Id) -> Begin<P> {
        let mut record = record.clone();
        record.others.truncate(0);
        shipped().begin_change(&record, &new, id, NOW)
    }
}

/// Forgets a password when the retention is over, without an accepted login.
pub(super) struct ForgetEarly;

impl Machine for ForgetEarly {
    fn decide_login(&self, record: &Record<P>, wanted: Wanted, id: Id) -> Login<P> {
        let mut record = record.clone();
        record.prune(AccountSettings::default().retention, NOW);
        shipped().decide_login(&record, wanted, id, NOW)
    }
}
