//! Delivers events to receivers.

use tokio::sync::broadcast::{self, error::RecvError};

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
pub(in crate::session) struct Emitter(Option<broadcast::Sender<Event>>);

impl Emitter {
    pub(in crate::session) fn subscribe(&mut self) -> Events {
        // Created for the first receiver, since it takes memory.
        let sender = self
            .0
            .get_or_insert_with(|| broadcast::Sender::new(CAPACITY));
        Events(sender.subscribe())
    }

    pub(super) fn emit(&self, event: &Event) {
        if let Some(sender) = &self.0 {
            // Fails without receivers, which is fine.
            let _ = sender.send(event.clone());
        }
    }
}
