//! What one process knows of an account and could not store.

use super::change::{Asked, ChangeAnswer};
use super::login::{SentLogin, Verdict};
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
/// in the record. One of a login without a stored claim has an effect only while
/// nobody has stored anything since.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Unsaved<P> {
    pub(super) events: Vec<Event<P>>,
    /// Whether a login was sent without a stored claim.
    has_sent: bool,
}

/// An event that is not stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event<P> {
    /// A verdict, and its time.
    Login(SentLogin<P>, Verdict, WallTime),
    Change(Asked<P>, ChangeAnswer),
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
        if self.events.len() == MAX_EVENTS {
            let least = self.events.iter().enumerate().min_by_key(|(place, event)| {
                let worth = match event {
                    // Frees a claim that ends by itself.
                    Event::Login(_, Verdict::NotSent | Verdict::Locked, _) => 0,
                    Event::Login(..) => 1,
                    Event::Change(
                        _,
                        ChangeAnswer::NotSent | ChangeAnswer::No | ChangeAnswer::Lost,
                    ) => 1,
                    // Has an effect also when its change is over.
                    Event::Change(_, ChangeAnswer::Yes) => 2,
                };
                (worth, *place)
            });
            let place = least.map_or(0, |(place, _)| place);
            self.events.remove(place);
        }
        if let Event::Login(_, Verdict::Accepted, _) = &event {
            self.accepted();
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
                Event::Login(sent, verdict, at) => account.landed(record, sent, *verdict, *at, now),
                Event::Change(asked, answer) => {
                    account.change_answered(record, asked, *answer, now)
                }
            };
            newest = next.or(newest);
        }
        newest
    }

    /// The store kept a record that was caught up by `caught_up`, an earlier copy
    /// of this.
    pub(crate) fn saved(&mut self, caught_up: &Self) {
        self.events
            .retain(|event| !caught_up.events.contains(event));
        self.has_sent = false;
    }

    /// The server accepted a login without a stored claim, which the record knew already:
    /// the password may be sent again.
    pub(crate) fn accepted(&mut self) {
        self.has_sent = false;
    }

    /// Returns whether a login may be sent although its claim cannot be stored.
    /// If so, the caller sends it: the answer is yes once, until the login is
    /// accepted or the store answers.
    ///
    /// | event | then |
    /// |---|---|
    /// | the store fails before a login | only a password that was accepted before is sent, once per process until the store answers |
    ///
    /// `before` is the record without the claim.
    pub(crate) fn may_send(
        &mut self,
        before: &Record<P>,
        sent: &mut SentLogin<P>,
        now: WallTime,
    ) -> bool {
        let record = before.caught_up(now);
        let is_settled = record.accepted
            && record.current == sent.password
            && !record.has_open()
            && record.tries.is_empty()
            && record.login.is_none();
        let may_send = is_settled && !self.has_sent;
        self.has_sent |= may_send;
        if may_send {
            sent.unclaimed = Some(Box::new(before.clone()));
        }
        may_send
    }
}
