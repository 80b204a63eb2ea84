//! A new token that is not published yet.
//!
//! An API may accept a token only some time after its login. While the current token is
//! good, requests go on with that one. Now and then one that can be replayed carries the
//! candidate, until one is accepted.

use std::time::Duration;

use super::cooldown::doubled;
use super::current::CurrentToken;
use super::time::Timestamp;
use crate::origin::Target;

/// While the outcome of one request with the candidate is open, no other carries it for
/// this long.
const NEXT_TRY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) token: CurrentToken,
    /// How many requests were rejected with it.
    pub(super) rejections: u32,
    /// The target that rejected it last.
    pub(super) rejected_by: Option<Target>,
    /// When the next request may carry it. `None` if it may now.
    pub(super) next_try: Option<Timestamp>,
}

impl Candidate {
    pub(super) fn new(token: CurrentToken) -> Self {
        Self {
            token,
            rejections: 0,
            rejected_by: None,
            next_try: None,
        }
    }

    /// A request is about to carry it.
    pub(super) fn tried(&mut self, now: Timestamp) {
        self.next_try = Some(now + NEXT_TRY);
    }

    /// `target` has rejected it.
    pub(super) fn rejected(&mut self, target: Option<Target>, now: Timestamp) {
        self.rejected_by = target;
        self.next_try = Some(now + doubled(self.rejections));
        self.rejections += 1;
    }

    /// `target` has rejected the current token too, so its rejection says nothing.
    pub(super) fn unhelpful(&mut self, target: Target, now: Timestamp) {
        if self.rejected_by.take_if(|by| *by == target).is_some() {
            self.rejections -= 1;
            self.next_try = Some(now + NEXT_TRY);
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Timestamp) {
        self.next_try.take_if(|at| *at <= now);
    }
}
