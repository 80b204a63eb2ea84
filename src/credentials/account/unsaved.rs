//! What one process knows of an account and could not store.

use super::change::{Answer, Asked};
use super::login::{Landed, Sent, Verdict};
use super::record::Record;
use super::{Account, WallTime};

/// The events whose records the store failed to keep.
///
/// The source of a process keeps one of these beside its store. Each record that
/// the store yields goes through [`catch_up`](Unsaved::catch_up) before the
/// machine decides on it, so that the next record that is stored holds the
/// events too.
///
/// An event counts once: it has an effect only while its claim or its change is
/// in the record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Unsaved<P> {
    pub(super) events: Vec<Event<P>>,
    /// Whether a login was sent without a stored claim.
    has_sent: bool,
}

/// An event that is not stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event<P> {
    Login(Sent<P>, Verdict),
    Change(Asked<P>, Answer),
}

/// How many events are kept. Each login that the store misses needs a store that
/// worked before it, so there is hardly ever more than one.
const MAX_EVENTS: usize = 8;

impl<P> Default for Unsaved<P> {
    fn default() -> Self {
        Self {
            events: Vec::new(),
            has_sent: false,
        }
    }
}

impl<P: Clone + PartialEq> Unsaved<P> {
    /// The store failed after the verdict on a login, or the answer to a change.
    ///
    /// | event | then |
    /// |---|---|
    /// | the store fails after yes | `Ok`, the source keeps the new password and stores it with its next event |
    /// | .. after a verdict | the verdict is kept in the source |
    pub(crate) fn keep(&mut self, event: Event<P>) {
        // A verdict has no effect once its claim is over. A "yes" has.
        let is_yes = |event: &Event<P>| matches!(event, Event::Change(_, Answer::Yes));
        if self.events.len() == MAX_EVENTS {
            let place = self.events.iter().position(|event| !is_yes(event));
            self.events.remove(place.unwrap_or(0));
        }
        self.events.push(event);
    }

    /// Returns `record` with the events, or `None` if they change nothing.
    pub(crate) fn catch_up(
        &self,
        account: &Account,
        record: &Record<P>,
        now: WallTime,
    ) -> Option<Record<P>> {
        let mut newest = None;
        for event in &self.events {
            let record = newest.as_ref().unwrap_or(record);
            let next = match event {
                Event::Login(sent, verdict) => {
                    let Landed { record, .. } = account.landed(record, sent, *verdict, now);
                    record
                }
                Event::Change(asked, answer) => {
                    account.change_answered(record, asked, *answer, now)
                }
            };
            newest = next.or(newest);
        }
        newest
    }

    /// The store kept a record that was caught up.
    pub(crate) fn saved(&mut self) {
        self.events.clear();
        self.has_sent = false;
    }

    /// Returns whether a login may be sent although its claim cannot be stored.
    /// If so, the caller sends it: the answer is yes once.
    ///
    /// | event | then |
    /// |---|---|
    /// | the store fails before a login | only a password that was accepted before is sent, once per process until the store answers |
    ///
    /// `record` is the record without the claim.
    pub(crate) fn may_send(&mut self, record: &Record<P>, sent: &Sent<P>, now: WallTime) -> bool {
        let record = record.caught_up(now);
        let is_settled = record.accepted
            && record.current == sent.password
            && !record.has_open()
            && record.tries.is_empty()
            && record.login.is_none();
        let may_send = is_settled && !self.has_sent;
        self.has_sent |= may_send;
        may_send
    }
}
