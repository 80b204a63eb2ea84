//! Wakes a session when time, or the end of a token's use, brings something to do.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::Poll;

use tokio::time::Instant;

use super::Shared;
use super::lifecycle::Moment;
use super::live::Uses;
use crate::sync::{self, AbortHandle, sleep_until};

/// A task that waits for what comes next, if anything does.
///
/// It holds the session weakly and is aborted with it. One that came late, or
/// was lost with its runtime, costs at most a rejection and its replay; the
/// next event sets another.
#[derive(Debug, Default)]
pub(super) struct Timer {
    set: Option<(Next, AbortHandle)>,
    /// Which one that is.
    number: u64,
}

/// What a session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) at: Option<Moment>,
    /// Whether also for the last user of a token to be done with it.
    pub(super) users: bool,
}

impl Timer {
    /// Sets it to go off at what comes next. One that goes off too early does
    /// nothing, so it is left to do that.
    pub(super) fn set(&mut self, session: &Arc<Shared>, next: Next) {
        if let Some((set, task)) = &self.set {
            if !task.is_finished() && set.covers(next) {
                return;
            }
            task.abort();
            self.set = None;
        }
        let at = next.at.and_then(|at| session.made.checked_add(at));
        if at.is_none() && !next.users {
            return;
        }
        self.number += 1;
        let alarm = Alarm {
            session: Arc::downgrade(session),
            number: self.number,
        };
        let task = match (at, next.users) {
            // Of what most sessions idle with, a small task.
            (Some(at), false) => sync::spawn(async move {
                sleep_until(at).await;
                alarm.go_off();
            }),
            (at, _) => sync::spawn(go_off_after_users(session.uses.clone(), at, alarm)),
        };
        self.set = task.map(|task| (next, task));
    }

    #[cfg(all(test, not(reauth_loom)))]
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// That one has gone off. Another one may have taken its place while it
    /// waited for the lock, when it could not be aborted any more.
    fn forget(&mut self, number: u64) {
        if self.number == number {
            self.set = None;
        }
    }
}

impl Next {
    fn covers(self, next: Next) -> bool {
        let at = match (self.at, next.at) {
            (Some(set), Some(next)) => set <= next,
            (set, None) => set.is_none(),
            (None, Some(_)) => false,
        };
        at && self.users == next.users
    }
}

/// What goes off, and for whom.
struct Alarm {
    session: Weak<Shared>,
    number: u64,
}

impl Alarm {
    fn go_off(&self) {
        let Some(session) = self.session.upgrade() else {
            return;
        };
        let now = session.now();
        session.step(|guarded, _| {
            guarded.timer.forget(self.number);
            guarded.rules.tick(now);
        });
    }
}

/// Goes off when the last user of a token is done with it, or at a time before.
async fn go_off_after_users(uses: Arc<Uses>, at: Option<Instant>, alarm: Alarm) {
    loop {
        // Made before the session is looked at: no word can fall between.
        let changed = uses.changed.notified();
        let mut changed = pin!(changed);
        changed.as_mut().enable();
        let Some(session) = alarm.session.upgrade() else {
            return;
        };
        if session.lock().has_news() {
            break;
        }
        drop(session);
        if !wait(at, changed).await {
            break;
        }
    }
    alarm.go_off();
}

/// Whether it was `changed` that came first, and not the time.
async fn wait(at: Option<Instant>, changed: impl Future<Output = ()>) -> bool {
    let mut changed = pin!(changed);
    let mut sleep = pin!(async {
        match at {
            Some(at) => sleep_until(at).await,
            None => pending().await,
        }
    });
    poll_fn(|cx| {
        if sleep.as_mut().poll(cx).is_ready() {
            return Poll::Ready(false);
        }
        changed.as_mut().poll(cx).map(|()| true)
    })
    .await
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.set {
            task.abort();
        }
    }
}

/// What a timer does that has gone off.
#[cfg(all(test, not(reauth_loom)))]
pub(super) fn gone_off(session: &Arc<Shared>) {
    let session = Arc::downgrade(session);
    Alarm { session, number: 0 }.go_off();
}
