//! The response future: the states of a request until its response is returned.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response, response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::attempt::Attempt;
use super::body::{Prefetch, Received, SessionBody};
use super::pending::{PendingRequest, Sent, SentReplay};
use super::rejected::Rejected;
use super::replay::Replay;
use crate::BoxError;
use crate::error::Error;
use crate::rejection::{Start, Verdict};
use crate::session::{AcquireToken, failure_of};
use crate::text::compression;

pin_project! {
    /// The response of a [`SessionService`](crate::SessionService).
    ///
    /// # Cancellation
    ///
    /// Dropping it drops the request and nothing else: a login that it waits for
    /// continues for the next request.
    pub struct ResponseFuture<S, R, B, RB>
    where
        S: Service<Request<R::Body>>,
        R: Replay<B>,
        RB: Body,
    {
        #[pin]
        state: State<S, R, B, RB>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, R, B, RB>
    where
        S: Service<Request<R::Body>>,
        R: Replay<B>,
        RB: Body,
    {
        // The parts of the slow path are boxed: otherwise each request would move the
        // space for them.
        /// Polling for a token. Holds no readied service.
        Acquiring {
            acquire: AcquireToken,
            pending: Option<Box<PendingRequest<S, R, B, RB>>>,
        },
        /// Polling the service for readiness. There is a token.
        Readying { pending: Option<Box<PendingRequest<S, R, B, RB>>> },
        /// Polling the inner future of a request with a token.
        Calling {
            #[pin]
            call: S::Future,
            attempt: Option<Attempt<S, R::Kept>>,
        },
        /// Polling the inner future of a replay.
        Replaying {
            #[pin]
            call: S::Future,
            replay: Option<Box<SentReplay<S, R::Kept, RB>>>,
        },
        /// Polling the start of a body that decides whether it is a rejection.
        Peeking {
            peek: Option<Box<Peek<S, R::Kept, RB>>>,
            bytes: usize,
        },
        /// Polling a rejected body, to read it into memory.
        Buffering { rejected: Option<Box<Rejected<S, R::Kept, RB>>> },
        /// Polling until a replay may be sent. Holds no readied service and no inner future.
        Refreshing { rejected: Option<Box<Rejected<S, R::Kept, RB>>> },
        /// Polling the inner future of a request that passes without a token.
        Passthrough {
            #[pin]
            call: S::Future,
        },
        /// Nothing was sent, because of this error.
        Failed { error: Option<Error> },
        /// The response was returned.
        Done,
    }
}

/// A response whose body decides whether it is a rejection.
struct Peek<S, K, RB: Body> {
    head: response::Parts,
    body: Prefetch<RB>,
    attempt: Attempt<S, K>,
}

/// The reason why an `Option` in a state is never `None`.
const TAKEN: &str = "a state is left when its parts are taken";

impl<S, R, B, RB> ResponseFuture<S, R, B, RB>
where
    S: Service<Request<R::Body>>,
    R: Replay<B>,
    RB: Body,
{
    /// Creates the future of a request that was sent with a token.
    #[inline]
    pub(super) fn calling(call: S::Future, attempt: Attempt<S, R::Kept>) -> Self {
        let attempt = Some(attempt);
        Self {
            state: State::Calling { call, attempt },
        }
    }

    /// Creates the future of a request that was sent without a token.
    pub(super) fn passthrough(call: S::Future) -> Self {
        Self {
            state: State::Passthrough { call },
        }
    }

    /// Creates the future of a request that waits for a token.
    pub(super) fn acquiring(pending: PendingRequest<S, R, B, RB>) -> Self {
        Self {
            state: State::Acquiring {
                acquire: AcquireToken::new(),
                pending: Some(Box::new(pending)),
            },
        }
    }

    /// Creates the future of a request that is not sent.
    pub(super) fn failed(error: Error) -> Self {
        let error = Some(error);
        Self {
            state: State::Failed { error },
        }
    }
}

impl<S, R, B, RB> State<S, R, B, RB>
where
    S: Service<Request<R::Body>>,
    R: Replay<B>,
    RB: Body,
{
    /// Creates the state of a request that has a token. It holds nothing that its
    /// service may wait for.
    fn readying(mut pending: Box<PendingRequest<S, R, B, RB>>) -> Self {
        pending.release_connection();
        Self::Readying {
            pending: Some(pending),
        }
    }

    fn sent(sent: Sent<S, R, B, RB>) -> Self {
        match sent {
            Sent::First { call, attempt } => Self::Calling {
                call,
                attempt: Some(attempt),
            },
            Sent::Again { call, replay } => Self::Replaying {
                call,
                replay: Some(replay),
            },
        }
    }

    /// Returns the state after a response, or `Err` with the response to return.
    #[allow(clippy::result_large_err, reason = "moved once, off the request path")]
    fn received(
        attempt: Attempt<S, R::Kept>,
        response: Response<RB>,
    ) -> Result<Self, Response<SessionBody<RB>>> {
        let (head, body) = response.into_parts();
        let rejection = attempt.lease.rejection();
        let mut verdict = rejection.classify(&head);
        if let Verdict::NeedsBody { .. } = verdict {
            // A response to HEAD has the head of another one, and no body.
            let is_head = attempt.is_head();
            let compression = compression(&head.headers).filter(|_| !body.is_end_stream());
            if let (Some(compression), false) = (compression, is_head)
                && let Some(driver) = attempt.driver()
            {
                driver.warn_of_compression(head.status, compression);
            }
            if is_head || compression.is_some() {
                verdict = rejection.classify_body(&head, Start::Partial(&[]));
            }
        }
        match verdict {
            Verdict::Accepted => Err(attempt.accepted(head, Received::Whole(body))),
            Verdict::Unknown => Err(attempt.undecided(head, Received::Whole(body))),
            Verdict::Rejected(certainty) => {
                let body = Received::Whole(body);
                let rejected = Rejected::new::<R, B>(attempt, certainty, head, body)?;
                Ok(Self::Buffering {
                    rejected: Some(rejected),
                })
            }
            Verdict::NeedsBody { bytes } => {
                let body = Prefetch::new(body);
                let peek = Peek {
                    head,
                    body,
                    attempt,
                };
                Ok(Self::Peeking {
                    peek: Some(Box::new(peek)),
                    bytes,
                })
            }
        }
    }
}

impl<S, R, B, RB> Future for ResponseFuture<S, R, B, RB>
where
    S: Service<Request<R::Body>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    R: Replay<B>,
    RB: Body,
{
    type Output = Result<Response<SessionBody<RB>>, BoxError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.as_mut().project();
        let StateProj::Calling { call, attempt } = this.state.as_mut().project() else {
            return self.poll_slow(None, cx);
        };
        let response = match ready!(call.poll(cx)) {
            Ok(response) => response,
            Err(error) => {
                this.state.set(State::Done);
                return Poll::Ready(Err(error.into()));
            }
        };
        let status = response.status();
        match attempt {
            Some(sent) if sent.is_plainly_accepted(status) => {}
            Some(_) | None => return self.poll_slow(Some(response), cx),
        }
        let lease = attempt.take().map(Attempt::into_lease);
        this.state.set(State::Done);
        Poll::Ready(Ok(response.map(|body| SessionBody::whole(body, lease))))
    }
}

impl<S, R, B, RB> ResponseFuture<S, R, B, RB>
where
    S: Service<Request<R::Body>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    R: Replay<B>,
    RB: Body,
{
    /// Polls the states of the slow path. Not inlined: most requests need neither this
    /// code nor its stack frame.
    #[cold]
    #[inline(never)]
    fn poll_slow(
        self: Pin<&mut Self>,
        mut received: Option<Response<RB>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<SessionBody<RB>>, BoxError>> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Acquiring { acquire, pending } => {
                    let driver = &pending.as_ref().expect(TAKEN).driver;
                    let acquired = ready!(acquire.poll(driver, cx));
                    let pending = pending.take().expect(TAKEN);
                    match acquired {
                        // The lease is not kept while the service is readied: its
                        // token may be suspended by then.
                        Ok(_) => State::readying(pending),
                        Err(error) => {
                            this.state.set(State::Done);
                            return Poll::Ready(match pending.into_rejected() {
                                Some(rejected) => Ok(rejected.returned(failure_of(error))),
                                None => Err(error.into()),
                            });
                        }
                    }
                }
                StateProj::Readying { pending } => {
                    let ready = ready!(pending.as_mut().expect(TAKEN).poll_ready(cx));
                    let mut pending = pending.take().expect(TAKEN);
                    if let Err(error) = ready {
                        this.state.set(State::Done);
                        return Poll::Ready(Err(error.into()));
                    }
                    match pending.driver.usable_now() {
                        Some(lease) => State::sent(pending.send(lease)),
                        // The token was rejected or has expired while the service was readied.
                        None => {
                            pending.release_service();
                            State::Acquiring {
                                acquire: AcquireToken::new(),
                                pending: Some(pending),
                            }
                        }
                    }
                }
                StateProj::Calling { call, attempt } => {
                    let response = match received.take() {
                        Some(response) => Ok(response),
                        None => ready!(call.poll(cx)),
                    };
                    let response = match response {
                        Ok(response) => response,
                        Err(error) => {
                            this.state.set(State::Done);
                            return Poll::Ready(Err(error.into()));
                        }
                    };
                    let attempt = attempt.take().expect(TAKEN);
                    match State::received(attempt, response) {
                        Ok(next) => next,
                        Err(response) => {
                            this.state.set(State::Done);
                            return Poll::Ready(Ok(response));
                        }
                    }
                }
                StateProj::Replaying { call, replay } => {
                    let response = ready!(call.poll(cx));
                    let SentReplay { attempt, rejected } = *replay.take().expect(TAKEN);
                    let response = match response {
                        Ok(response) => response,
                        Err(error) => {
                            this.state.set(State::Done);
                            return Poll::Ready(rejected.unless_executed(error.into()));
                        }
                    };
                    match State::received(attempt, response) {
                        Ok(next) => next,
                        Err(response) => {
                            this.state.set(State::Done);
                            return Poll::Ready(Ok(response));
                        }
                    }
                }
                StateProj::Peeking { peek, bytes } => {
                    let limit = *bytes;
                    ready!(peek.as_mut().expect(TAKEN).body.poll_up_to(limit, cx));
                    let Peek {
                        head,
                        body,
                        attempt,
                    } = *peek.take().expect(TAKEN);
                    let start = body.start(limit);
                    let start = match body.has_read(limit) {
                        true => Start::Complete(&start),
                        false => Start::Partial(&start),
                    };
                    let verdict = attempt.lease.rejection().classify_body(&head, start);
                    let body = Received::Started(body);
                    match verdict {
                        Verdict::Accepted => {
                            this.state.set(State::Done);
                            return Poll::Ready(Ok(attempt.accepted(head, body)));
                        }
                        Verdict::Unknown | Verdict::NeedsBody { .. } => {
                            this.state.set(State::Done);
                            return Poll::Ready(Ok(attempt.undecided(head, body)));
                        }
                        Verdict::Rejected(certainty) => {
                            match Rejected::new::<R, B>(attempt, certainty, head, body) {
                                Ok(rejected) => State::Buffering {
                                    rejected: Some(rejected),
                                },
                                Err(response) => {
                                    this.state.set(State::Done);
                                    return Poll::Ready(Ok(response));
                                }
                            }
                        }
                    }
                }
                StateProj::Buffering { rejected } => {
                    ready!(rejected.as_mut().expect(TAKEN).poll_buffered(cx));
                    State::Refreshing {
                        rejected: rejected.take(),
                    }
                }
                StateProj::Refreshing { rejected } => {
                    let polled = rejected.as_mut().expect(TAKEN).poll_refreshed(cx);
                    let refreshed = ready!(polled);
                    match rejected
                        .take()
                        .expect(TAKEN)
                        .into_pending::<R, B>(refreshed)
                    {
                        Ok(pending) if pending.driver.usable().is_some() => {
                            State::readying(Box::new(pending))
                        }
                        // The token ended while the rejected body was read.
                        Ok(pending) => State::Acquiring {
                            acquire: AcquireToken::new(),
                            pending: Some(Box::new(pending)),
                        },
                        Err(response) => {
                            this.state.set(State::Done);
                            return Poll::Ready(Ok(response));
                        }
                    }
                }
                StateProj::Passthrough { call } => {
                    let response = ready!(call.poll(cx));
                    this.state.set(State::Done);
                    return Poll::Ready(match response {
                        Ok(response) => Ok(response.map(|body| SessionBody::whole(body, None))),
                        Err(error) => Err(error.into()),
                    });
                }
                StateProj::Failed { error } => {
                    let error = error.take().expect(TAKEN);
                    this.state.set(State::Done);
                    return Poll::Ready(Err(error.into()));
                }
                StateProj::Done => panic!("`ResponseFuture` polled after it was ready"),
            };
            // Drops the inner future of the state before, if there was one.
            this.state.set(next);
        }
    }
}

impl<S, R, B, RB> fmt::Debug for ResponseFuture<S, R, B, RB>
where
    S: Service<Request<R::Body>>,
    R: Replay<B>,
    RB: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
