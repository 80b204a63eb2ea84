//! A gate that a test opens, so that tasks interleave without sleeping.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

/// A gate that holds each task that reaches it, until the test opens it.
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
/// gate.reached(1).await; // no sleep: continues when the task waits at the gate
/// assert!(!held.is_finished());
/// gate.open();
/// held.await.unwrap();
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<GateState>>);

#[derive(Debug, Default)]
struct GateState {
    open: bool,
    /// How many more tasks may pass the closed gate.
    passes: usize,
    /// The waiting tasks, in the order of their arrival.
    queue: VecDeque<u64>,
    next: u64,
}

impl Gate {
    /// Returns a closed gate.
    #[must_use]
    pub fn closed() -> Self {
        Self(Arc::new(watch::Sender::default()))
    }

    /// Releases all waiting tasks, and lets later ones pass.
    pub fn open(&self) {
        self.0.send_modify(|state| {
            state.open = true;
            state.queue.clear();
        });
    }

    /// Holds each task that arrives from now on.
    pub fn close(&self) {
        self.0.send_modify(|state| {
            state.open = false;
            state.passes = 0;
        });
    }

    /// Releases `count` tasks, in the order of their arrival. If fewer wait, the
    /// next tasks to arrive pass in their place.
    pub fn let_through(&self, count: usize) {
        self.0.send_modify(|state| {
            let now = count.min(state.queue.len());
            state.queue.drain(..now);
            state.passes += count - now;
        });
    }

    /// Releases all waiting tasks, and does not open the gate for later ones.
    #[cfg(feature = "emulator")]
    pub(crate) fn release(&self) {
        self.0.send_modify(|state| state.queue.clear());
    }

    /// Returns the number of waiting tasks.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.borrow().queue.len()
    }

    /// Waits until at least `count` tasks wait at the gate.
    pub async fn reached(&self, count: usize) {
        let mut state = self.0.subscribe();
        let reached = state.wait_for(|state| state.queue.len() >= count).await;
        reached.expect("the sender is in `self`");
    }

    /// Waits until the gate is open, or releases this task.
    ///
    /// # Cancellation
    ///
    /// Dropping the future gives up its place. No other task loses its turn.
    pub async fn pass(&self) {
        let mut changes = self.0.subscribe();
        let Some(place) = self.queue_up() else {
            return;
        };
        let gone = changes.wait_for(|state| !state.queue.contains(&place.number));
        gone.await.expect("the sender is in `self`");
    }

    /// Takes a place in the queue, or returns `None` if the task may pass.
    fn queue_up(&self) -> Option<QueuePlace<'_>> {
        let mut place = None;
        self.0.send_modify(|state| {
            if state.open {
                return;
            }
            if state.passes > 0 {
                state.passes -= 1;
                return;
            }
            place = Some(QueuePlace {
                gate: self,
                number: state.next,
            });
            state.queue.push_back(state.next);
            state.next += 1;
        });
        place
    }
}

struct QueuePlace<'a> {
    gate: &'a Gate,
    number: u64,
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        self.gate
            .0
            .send_modify(|state| state.queue.retain(|number| *number != self.number));
    }
}
