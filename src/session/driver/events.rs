//! Delivers events to receivers.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::broadcast::{self, error::RecvError};

use super::foreign::contained;
use crate::session::rules::Event;

/// How many events a receiver may lag behind before it misses some.
const CAPACITY: usize = 256;

/// Receives the [`Event`]s of a session, in order.
///
/// A receiver that lags behind misses events and gets their number. The session
/// never waits for a receiver.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

impl Events {
    /// Waits for the next event. Returns `None` after the last handle of the
    /// session was dropped.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses no event.
    pub async fn recv(&mut self) -> Option<Event> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(count)) => Some(Event::Missed { count }),
            Err(RecvError::Closed) => None,
        }
    }
}

/// Sends events to all receivers, if there are any.
#[derive(Debug, Default)]
pub(super) struct Emitter {
    // Created for the first receiver, since it takes memory.
    feed: OnceLock<Box<Feed>>,
}

/// Events on their way to the receivers.
#[derive(Debug)]
struct Feed {
    sender: broadcast::Sender<Event>,
    queue: Mutex<VecDeque<Event>>,
    /// Held by the thread that sends.
    turn: Mutex<()>,
}

impl Emitter {
    pub(super) fn subscribe(&self) -> Events {
        let feed = self.feed.get_or_init(|| {
            Box::new(Feed {
                sender: broadcast::Sender::new(CAPACITY),
                queue: Mutex::default(),
                turn: Mutex::default(),
            })
        });
        Events(feed.sender.subscribe())
    }

    /// Queues events for [`Emitter::send`]. Called under the lock of the session, so
    /// the queue has the order of the rules.
    pub(super) fn queue(&self, events: &[Event]) {
        if let Some(feed) = self.feed.get() {
            feed.queue().extend(events.iter().cloned());
        }
    }

    /// Sends the queued events. Not under the lock of the session: that wakes receivers.
    pub(super) fn send(&self) {
        if let Some(feed) = self.feed.get() {
            feed.send();
        }
    }
}

impl Feed {
    fn send(&self) {
        while !self.queue().is_empty() {
            // The thread that sends also takes events that are queued meanwhile.
            let Ok(_turn) = self.turn.try_lock() else {
                return;
            };
            while let Some(event) = self.next() {
                // Fails without receivers, which is fine.
                contained(|| drop(self.sender.send(event)));
            }
        }
    }

    fn next(&self) -> Option<Event> {
        self.queue().pop_front()
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
