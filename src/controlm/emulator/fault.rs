//! Faults by script, for the next requests.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;

use super::{
    operation::Operation,
    path::{normal, segments},
    reply::Reply,
};

/// The requests that a fault is for.
///
/// A request takes its fault from the most specific target that has one: its
/// path, then its operation, then any.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// Any request.
    Any,
    /// Requests to one operation, whatever their method.
    Operation(Operation),
    /// Requests to one path below the base path, such as `/run/job/emulator:00001/output`.
    Path(String),
}

impl From<Operation> for Target {
    fn from(operation: Operation) -> Self {
        Self::Operation(operation)
    }
}

impl From<&str> for Target {
    fn from(path: &str) -> Self {
        Self::Path(path.to_owned())
    }
}

/// A fault of one request.
///
/// The fault comes before the request is executed. With
/// [`after_execution`](Self::after_execution), the session exists or the job is
/// ordered, and only the answer is affected.
///
/// ```
/// # use std::time::Duration;
/// # use http::StatusCode;
/// # use tower_reauth::controlm::emulator::{Emulator, Fault, Operation};
/// # let emulator = Emulator::new();
/// // The next login fails with 503, and the login after that succeeds.
/// let busy = Fault::status(StatusCode::SERVICE_UNAVAILABLE).retry_after(Duration::from_secs(5));
/// emulator.fault(Operation::Login, busy);
/// // The next order reaches the server, but its answer never arrives.
/// emulator.fault(Operation::Order, Fault::close().after_execution());
/// ```
#[derive(Clone, Debug)]
#[must_use = "a fault does nothing until it is given to the emulator"]
pub struct Fault {
    pub(super) timing: FaultTiming,
    pub(super) effect: Effect,
    lasting: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultTiming {
    Before,
    After,
}

#[derive(Clone, Debug)]
pub(super) enum Effect {
    /// No fault.
    Pass,
    /// The connection is closed without an answer.
    Close,
    /// The request waits until it is released.
    Stall,
    /// The answer's body ends halfway.
    Truncate,
    /// Another answer is sent.
    Answer(Reply),
}

impl Fault {
    fn new(effect: Effect) -> Self {
        Self {
            timing: FaultTiming::Before,
            effect,
            lasting: false,
        }
    }

    fn answer(answer: Reply) -> Self {
        Self::new(Effect::Answer(answer))
    }

    pub(super) fn passes(&self) -> bool {
        matches!(self.effect, Effect::Pass)
    }

    /// No fault, so that a script can begin at the second request.
    pub fn pass() -> Self {
        Self::new(Effect::Pass)
    }

    /// Closes the connection without an answer.
    ///
    /// As a tower service, the call fails with [`Closed`](super::Closed).
    pub fn close() -> Self {
        Self::new(Effect::Close)
    }

    /// Holds the request until [`Emulator::release`](super::Emulator::release).
    pub fn stall() -> Self {
        Self::new(Effect::Stall)
    }

    /// Answers with this status and an `ErrorList`.
    pub fn status(status: StatusCode) -> Self {
        let text = status.canonical_reason().unwrap_or("Unknown error");
        Self::answer(Reply::error(status, text))
    }

    /// Answers with this status and an HTML page, as gateways do.
    pub fn html(status: StatusCode) -> Self {
        let title = status.to_string();
        Self::body(
            status,
            "text/html",
            format!(
                "<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
            ),
        )
    }

    /// Answers 200, with a body that is not JSON and a content type of JSON.
    pub fn garbage() -> Self {
        Self::body(StatusCode::OK, "application/json", "\u{0}not json \u{7f}{{")
    }

    /// Answers with this status and without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self::answer(Reply::empty(status))
    }

    /// Answers with this status, content type and body.
    ///
    /// # Panics
    ///
    /// If the content type is not a valid header value.
    pub fn body(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self::answer(Reply::raw(status, content_type, body.into()))
    }

    /// Executes the request, then sends only the first half of the answer's body.
    ///
    /// The HTTP response is complete: only the JSON is cut.
    pub fn truncated() -> Self {
        Self::new(Effect::Truncate).after_execution()
    }

    /// Sets `Retry-After`, in whole seconds, for a fault that has an answer.
    pub fn retry_after(mut self, delay: Duration) -> Self {
        if let Effect::Answer(answer) = &mut self.effect {
            let rounded_up = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            answer.retry_after = Some(rounded_up);
        }
        self
    }

    /// Executes the request first. Only its answer is affected.
    pub fn after_execution(mut self) -> Self {
        self.timing = FaultTiming::After;
        self
    }

    /// Keeps the fault for all further requests, until [`Emulator::clear_faults`](super::Emulator::clear_faults).
    pub fn lasting(mut self) -> Self {
        self.lasting = true;
        self
    }
}

/// The queued faults of each target, in order.
#[derive(Default)]
pub(super) struct Script {
    queues: HashMap<Target, VecDeque<Fault>>,
}

impl Script {
    pub(super) fn push(&mut self, target: Target, fault: Fault) {
        let target = match target {
            Target::Path(path) => Target::Path(normal(segments(&path))),
            Target::Operation(_) | Target::Any => target,
        };
        self.queues.entry(target).or_default().push_back(fault);
    }

    pub(super) fn clear(&mut self) {
        self.queues.clear();
    }

    /// Takes the fault for a request to this path, most specific target first.
    pub(super) fn take(&mut self, path: &str, operation: Option<Operation>) -> Option<Fault> {
        if self.queues.is_empty() {
            return None;
        }
        let path = Some(Target::Path(normal(segments(path))));
        let operation = operation.map(Target::Operation);
        [path, operation, Some(Target::Any)]
            .into_iter()
            .flatten()
            .find_map(|target| self.next(&target))
    }

    fn next(&mut self, target: &Target) -> Option<Fault> {
        let queue = self.queues.get_mut(target)?;
        if queue.front()?.lasting {
            return queue.front().cloned();
        }
        queue.pop_front()
    }
}
