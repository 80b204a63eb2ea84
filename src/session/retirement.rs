//! What becomes of the tokens that were replaced.
//!
//! A replaced token that may still be good is logged out once nobody uses it
//! any more. One that was replaced because the server rejected it counts as
//! dead once its renewal has helped. If it did not, the rejection was about the
//! request; and as long as nobody knows, a logout of the session ends it too.

use std::time::Duration;

use super::backoff::Backoff;
#[cfg(test)]
use super::explore::canon::{Canon, Canonical};
use super::jitter::Jitter;
use super::lifecycle::Moment;
use crate::origin::Target;

/// How often the logout of one token is tried.
const TRIES: u32 = 8;

/// How many replaced tokens are waited for. Beyond that, the oldest is given up.
const MOST: usize = 64;

/// The replaced tokens that are still to be dealt with, oldest first.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Retirement {
    retired: Vec<Retired>,
}

/// A token that is in use no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unused {
    pub(super) generation: u64,
    /// When it is over by itself.
    pub(super) ends: Option<Moment>,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Retired {
    token: Unused,
    /// The target by which it was rejected, until it is known whether that was
    /// about the token.
    rejected_by: Option<Target>,
    /// Whether nobody uses it any more.
    released: bool,
    /// Whether its logout is under way.
    under_way: bool,
    backoff: Backoff,
    next: Moment,
}

/// How the logout of a replaced token ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logout {
    Done,
    /// It failed, and may be tried again, after this time if the server says so.
    Postponed(Option<Duration>),
    /// It failed for good.
    Failed,
}

impl Retirement {
    /// A token was replaced, and may be good. Answers with the one that is
    /// given up for it, if there are too many.
    pub(super) fn add(&mut self, token: Unused, rejected_by: Option<Target>) -> Option<u64> {
        let oldest = (self.retired.len() == MOST)
            .then(|| self.retired.iter().position(|retired| !retired.under_way))
            .flatten();
        let given_up = oldest.map(|oldest| self.retired.remove(oldest).token.generation);
        self.retired.push(Retired {
            token,
            rejected_by,
            released: false,
            under_way: false,
            backoff: Backoff::default(),
            next: Moment::ZERO,
        });
        given_up
    }

    /// Nobody uses that token any more.
    pub(super) fn released(&mut self, generation: u64) {
        if let Some(retired) = self.find(generation) {
            retired.released = true;
        }
    }

    /// A request to `target` was accepted with a token of this generation: what
    /// the target rejected before that was dead. Answers with those.
    pub(super) fn proven(&mut self, target: Target, generation: u64) -> Vec<u64> {
        self.take(|retired| {
            retired.rejected_by == Some(target) && retired.token.generation < generation
        })
    }

    /// `target` rejects newer tokens too: what it rejected before may be good.
    pub(super) fn unhelpful(&mut self, target: Target) {
        for retired in &mut self.retired {
            retired.rejected_by.take_if(|by| *by == target);
        }
    }

    /// That token is in use again. Whether it was still to be dealt with.
    pub(super) fn forget(&mut self, generation: u64) -> bool {
        let forgotten = self.take(|retired| retired.token.generation == generation);
        !forgotten.is_empty()
    }

    /// Takes out what has ended by itself.
    pub(super) fn expire(&mut self, now: Moment) -> Vec<u64> {
        self.take(|retired| {
            !retired.under_way && retired.token.ends.is_some_and(|ends| ends <= now)
        })
    }

    /// When the next logout is to be made.
    pub(super) fn next(&self) -> Option<Moment> {
        self.ready().map(|retired| retired.next).min()
    }

    /// The token to be logged out next, whose logout is under way from now on.
    pub(super) fn begin(&mut self, now: Moment) -> Option<u64> {
        let generation = self
            .ready()
            .find(|retired| retired.next <= now)?
            .token
            .generation;
        let retired = self.find(generation)?;
        retired.under_way = true;
        Some(generation)
    }

    /// The logout under way has ended. Answers with its token if that was the
    /// last word on it.
    pub(super) fn landed(
        &mut self,
        logout: Logout,
        now: Moment,
        jitter: &mut Jitter,
    ) -> Option<u64> {
        let place = self.retired.iter().position(|retired| retired.under_way)?;
        let retired = &mut self.retired[place];
        retired.under_way = false;
        let is_over = match logout {
            Logout::Done | Logout::Failed => true,
            Logout::Postponed(asked_for) => {
                retired.next = now + retired.backoff.next(asked_for, jitter);
                retired.backoff.failures() >= TRIES
            }
        };
        is_over.then(|| self.retired.remove(place).token.generation)
    }

    /// Takes out all that are to be logged out now, whoever uses them: those
    /// that were rejected too, since nobody knows yet whether they are dead.
    pub(super) fn end(&mut self) -> Vec<Unused> {
        self.take_tokens(|retired| !retired.under_way)
    }

    /// Takes out whatever is left.
    pub(super) fn abandon(&mut self) -> Vec<u64> {
        self.take(|_| true)
    }

    pub(super) fn contains(&self, generation: u64) -> bool {
        self.retired
            .iter()
            .any(|retired| retired.token.generation == generation)
    }

    /// Whether the last use of that token is waited for.
    pub(super) fn is_waiting_for(&self, generation: u64) -> bool {
        let mut retired = self.retired.iter();
        retired.any(|retired| retired.token.generation == generation && !retired.released)
    }

    /// Whether somebody's use is waited for.
    pub(super) fn is_waiting(&self) -> bool {
        self.retired.iter().any(|retired| !retired.released)
    }

    /// Whether no token is left that may be good.
    pub(super) fn is_done(&self) -> bool {
        self.retired
            .iter()
            .all(|retired| retired.rejected_by.is_some())
    }

    fn ready(&self) -> impl Iterator<Item = &Retired> {
        self.retired.iter().filter(|retired| {
            retired.released && !retired.under_way && retired.rejected_by.is_none()
        })
    }

    fn find(&mut self, generation: u64) -> Option<&mut Retired> {
        self.retired
            .iter_mut()
            .find(|retired| retired.token.generation == generation)
    }

    fn take(&mut self, is_meant: impl Fn(&Retired) -> bool) -> Vec<u64> {
        let taken = self.take_tokens(is_meant).into_iter();
        taken.map(|token| token.generation).collect()
    }

    fn take_tokens(&mut self, is_meant: impl Fn(&Retired) -> bool) -> Vec<Unused> {
        let (taken, kept) = std::mem::take(&mut self.retired)
            .into_iter()
            .partition(is_meant);
        self.retired = kept;
        taken
            .into_iter()
            .map(|retired: Retired| retired.token)
            .collect()
    }
}

#[cfg(test)]
impl Canonical for Retirement {
    fn write(&self, to: &mut Canon) {
        let Self { retired } = self;
        to.each(retired, |to, retired| {
            let Retired {
                token: Unused { generation, ends },
                rejected_by,
                released,
                under_way,
                backoff,
                next,
            } = retired;
            to.generation(*generation);
            to.option(*ends, Canon::moment);
            to.option(*rejected_by, Canon::target);
            to.flag(*released);
            to.flag(*under_way);
            to.number(backoff.failures().into());
            to.moment(*next);
        });
    }
}
