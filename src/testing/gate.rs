//! A gate that a test opens, so that it can interleave without sleeping.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

/// Holds whoever comes to it until the test lets them go.
///
/// Cloning copies a pointer: all clones are one gate.
///
/// ```
/// use tower_reauth::testing::Gate;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let gate = Gate::closed();
/// let held = tokio::spawn({
///     let gate = gate.clone();
///     async move { gate.pass().await }
/// });
///
/// gate.reached(1).await; // no sleep: goes on when the task stands at the gate
/// assert!(!held.is_finished());
/// gate.open();
/// held.await.unwrap();
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<State>>);

#[derive(Debug, Default)]
struct State {
    open: bool,
    /// How many more may pass a gate that is closed.
    passes: usize,
    /// Who waits, the first to come in front.
    queue: VecDeque<u64>,
    next: u64,
}

impl Gate {
    /// A gate that holds whoever comes.
    #[must_use]
    pub fn closed() -> Self {
        Self(Arc::new(watch::Sender::default()))
    }

    /// Lets all who wait go on, and all who come.
    pub fn open(&self) {
        self.0.send_modify(|state| {
            state.open = true;
            state.queue.clear();
        });
    }

    /// Holds whoever comes from now on.
    pub fn close(&self) {
        self.0.send_modify(|state| {
            state.open = false;
            state.passes = 0;
        });
    }

    /// Lets so many go on, in the order in which they came; those that nobody
    /// waits for are kept for who comes next.
    pub fn let_through(&self, count: usize) {
        self.0.send_modify(|state| {
            let now = count.min(state.queue.len());
            state.queue.drain(..now);
            state.passes += count - now;
        });
    }

    /// How many wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.borrow().queue.len()
    }

    /// Waits until at least so many wait at the gate.
    pub async fn reached(&self, count: usize) {
        let mut state = self.0.subscribe();
        let reached = state.wait_for(|state| state.queue.len() >= count).await;
        reached.expect("the sender is in `self`");
    }

    /// Goes through the gate, once it is open.
    ///
    /// Dropped while it waits, it waits no more, and nobody's turn is lost.
    pub async fn pass(&self) {
        let mut changes = self.0.subscribe();
        let Some(place) = self.queue_up() else {
            return;
        };
        let gone = changes.wait_for(|state| !state.queue.contains(&place.number));
        gone.await.expect("the sender is in `self`");
    }

    /// A place among those who wait; `None` if there is nothing to wait for.
    fn queue_up(&self) -> Option<Place<'_>> {
        let mut place = None;
        self.0.send_modify(|state| {
            if state.open {
                return;
            }
            if state.passes > 0 {
                state.passes -= 1;
                return;
            }
            place = Some(Place {
                gate: self,
                number: state.next,
            });
            state.queue.push_back(state.next);
            state.next += 1;
        });
        place
    }
}

struct Place<'a> {
    gate: &'a Gate,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.gate
            .0
            .send_modify(|state| state.queue.retain(|number| *number != self.number));
    }
}
