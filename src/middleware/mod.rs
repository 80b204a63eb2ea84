//! The middleware: what happens to one request.
//!
//! **Fast path.** [`SessionService::call`](service) reads the published token with
//! one lock-free load, lets the [`Replay`](replay) strategy keep what a replay
//! would need, puts the token's headers into the request, and calls the inner
//! service. [`ResponseFuture`](future) polls that call. If the response is plainly
//! accepted, its body leaves in a [`SessionBody`](body) that holds the token's
//! lease. Nothing here waits, takes a lock or reads a clock. It allocates only if
//! the strategy keeps the body: twice, for the copy of the request.
//!
//! **Slow path.** Everything else goes through the states of the future:
//!
//! ```text
//! Acquiring -> Readying -> Calling -> Peeking -> Buffering -> Refreshing -> Readying -> Calling
//! ```
//!
//! A rejected request passes through three types: an [`Attempt`](attempt) under
//! way becomes [`Rejected`](rejected) when its response is a rejection and it can
//! be replayed, and a [`PendingRequest`](pending) once its replay may be sent.
//!
//! | file | contents |
//! |---|---|
//! | `layer` | `SessionLayer`, `Session::layer` |
//! | `service` | `SessionService::call`: the fast path, and the start of the slow path |
//! | `attempt` | a sent request |
//! | `retained` | the copy of a sent request that a replay needs |
//! | `future` | `ResponseFuture` and its states |
//! | `rejected` | a rejected request that waits for its replay |
//! | `pending` | a request that waits to be sent |
//! | `response` | a rejected response, returned unless its request is replayed |
//! | `body` | `SessionBody`; reads the start of a body into memory |
//! | `trailers` | the outcome of a response whose trailers may reject the token |
//! | `replay` | how a rejected request gets its body a second time |

mod attempt;
mod body;
mod future;
mod layer;
mod pending;
mod rejected;
mod replay;
mod response;
mod retained;
mod service;
mod trailers;

pub use body::SessionBody;
pub use future::ResponseFuture;
pub use layer::SessionLayer;
pub use replay::{
    Auto, Buffer, BufferInto, BufferKept, Buffered, IfEmpty, Never, Replay, ReplayBody, ReplayFn,
    replay_fn,
};
pub use service::SessionService;
