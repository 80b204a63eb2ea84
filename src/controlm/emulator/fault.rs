//! Ways to misbehave.

use std::time::Duration;

use http::StatusCode;

/// What the server does to one request instead of answering it properly.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Closes the connection before the request is executed.
    Refuse,
    /// Executes the request, and closes the connection before it is answered.
    CloseAfter,
    /// Answers with a status and a gateway's JSON, without executing anything.
    Status(StatusCode),
    /// As [`Fault::Status`] with 503, and `Retry-After` in whole seconds.
    Busy {
        /// How long the client is asked to wait.
        retry_after: Duration,
    },
    /// Answers 502 with a gateway's HTML page.
    Html,
    /// Answers 200 with bytes that are no JSON.
    Garbage,
    /// Answers 200 with nothing.
    Empty,
    /// Executes the request, and answers with the first half of the JSON.
    Truncated,
    /// Never answers.
    Stall,
}

impl Fault {
    /// Whether the request is executed all the same.
    pub(super) fn executes(&self) -> bool {
        match self {
            Fault::CloseAfter | Fault::Truncated => true,
            Fault::Refuse
            | Fault::Status(_)
            | Fault::Busy { .. }
            | Fault::Html
            | Fault::Garbage
            | Fault::Empty
            | Fault::Stall => false,
        }
    }
}
