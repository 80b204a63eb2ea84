//! The response future: from a request without a token to its accepted response.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response, response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::BoxError;
use crate::body::{Reading, SessionBody};
use crate::error::Error;
use crate::rejection::{Certainty, Reauth, Verdict, Why, is_idempotent};
use crate::replay::Replay;
use crate::sender::Sender;
use crate::sent::{Remnant, Sent, Spare, Way};
use crate::session::{Acquiring, Admitted, Lease, Renewing, Session, why_failed};

/// How much of a rejected body is read into memory, so that its connection, or
/// its window in HTTP/2, is free while the token is renewed.
const REJECTED_BODY: usize = 16 * 1024;

pin_project! {
    /// The response of a [`SessionService`](crate::SessionService).
    ///
    /// # Cancellation
    ///
    /// Dropping it drops the request, and nothing else: a login that it waits
    /// for goes on for the next one.
    pub struct ResponseFuture<S, R, B, RB>
    where
        S: Service<Request<R::Body>>,
        R: Replay<B>,
        RB: Body,
    {
        session: Session,
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
        // What a request needs that is not on the plain way is boxed: all others
        // would have to move the room for it.
        /// Polling for a token. Holds no readied service.
        Acquiring {
            acquiring: Acquiring,
            unsent: Option<Box<Unsent<S, R, B, RB>>>,
        },
        /// Polling the service for readiness, with a token to be had.
        Readying { unsent: Option<Box<Unsent<S, R, B, RB>>> },
        /// Polling the inner future of a request with a token.
        Calling {
            #[pin]
            call: S::Future,
            sent: Option<Sent<S, R, B>>,
        },
        /// Polling the inner future of a request that is none of our business.
        Passing {
            #[pin]
            call: S::Future,
        },
        /// Polling the body of a response that may be a rejection.
        Asking {
            doubted: Option<Box<Doubted<S, R, B, RB>>>,
            bytes: usize,
        },
        /// Polling the body of a rejection, to have it in memory.
        Draining {
            doubted: Option<Box<Doubted<S, R, B, RB>>>,
            renewing: Option<Renewing>,
        },
        /// Polling for a newer token. Neither a readied service nor an inner future is held.
        Renewing {
            renewing: Renewing,
            spared: Option<Box<Spared<S, R, B, RB>>>,
        },
        /// Nothing was sent, and this is why.
        Failed { error: Option<Error> },
        /// Has answered.
        Done,
    }
}

/// A request that is still to be sent.
pub(crate) struct Unsent<S, R: Replay<B>, B, RB: Body> {
    service: S,
    payload: Payload<R, B, RB>,
    admitted: Admitted,
}

enum Payload<R: Replay<B>, B, RB: Body> {
    First {
        replay: R,
        request: Request<B>,
    },
    Again {
        request: Request<R::Body>,
        /// What to answer if there is no newer token after all. `None` where
        /// keeping it could hold the replay up.
        rejected: Option<Box<Rejected<RB>>>,
    },
}

/// A response whose body is looked at, and its request.
struct Doubted<S, R: Replay<B>, B, RB: Body> {
    head: response::Parts,
    reading: Reading<RB>,
    sent: Sent<S, R, B>,
}

/// A rejected response, to be returned if all else fails.
struct Rejected<RB: Body> {
    response: Response<SessionBody<RB>>,
    generation: u64,
}

/// A rejected request that waits for a newer token.
struct Spared<S, R: Replay<B>, B, RB: Body> {
    spare: Box<Spare<S, R, B>>,
    rejected: Box<Rejected<RB>>,
    admitted: Admitted,
}

impl<S, R: Replay<B>, B, RB: Body> Unsent<S, R, B, RB> {
    pub(crate) fn first(service: S, replay: R, request: Request<B>, admitted: Admitted) -> Self {
        Self {
            service,
            payload: Payload::First { replay, request },
            admitted,
        }
    }

    /// Sends the request through its service, which is ready.
    fn send(self, session: &Session, lease: Lease) -> State<S, R, B, RB>
    where
        S: Service<Request<R::Body>, Response = Response<RB>> + Clone,
    {
        let Self {
            mut service,
            payload,
            admitted,
        } = self;
        // From now on the lease says that the request is under way.
        drop(admitted);
        match payload {
            Payload::First { replay, request } => {
                let sender = Sender {
                    session: session.clone(),
                    service: &mut service,
                };
                sender.send(&replay, request, lease).state
            }
            // The rejected response goes here: from now on there is another.
            Payload::Again {
                mut request,
                rejected: _,
            } => {
                let (sent, way) = (session.now(), Way::of(&request));
                session.replaying(lease.token().generation());
                lease.token().apply_to(request.headers_mut());
                State::Calling {
                    call: service.call(request),
                    sent: Some(Sent::again(lease, sent, way)),
                }
            }
        }
    }

    /// The rejected response, where the request was sent before and it is
    /// still there.
    fn into_rejected(self) -> Option<Box<Rejected<RB>>> {
        match self.payload {
            Payload::First { .. } => None,
            Payload::Again { rejected, .. } => rejected,
        }
    }
}

impl<S, R: Replay<B>, B, RB: Body> Doubted<S, R, B, RB> {
    fn new(head: response::Parts, body: RB, sent: Sent<S, R, B>) -> Box<Self> {
        Box::new(Self {
            head,
            reading: Reading::new(body),
            sent,
        })
    }

    /// The response as it came, and what there still is of its request.
    fn into_parts(self) -> (response::Parts, SessionBody<RB>, Remnant<S, R, B>) {
        let Self {
            head,
            reading,
            sent,
        } = self;
        (head, reading.into_body(sent.lease), sent.remnant)
    }
}

impl<S, R: Replay<B>, B, RB: Body> Spared<S, R, B, RB> {
    /// The request to send once more, or the response to return.
    #[allow(clippy::result_large_err, reason = "moved once, off the request path")]
    fn after(
        self,
        renewed: Result<(), Why>,
    ) -> Result<Unsent<S, R, B, RB>, Response<SessionBody<RB>>> {
        let Self {
            spare,
            rejected,
            admitted,
        } = self;
        if let Err(why) = renewed {
            return Err(rejected.because(why));
        }
        // Not before: a body that is still being sent may be taken back for it.
        let Some((service, request)) = spare.again() else {
            return Err(rejected.because(Why::NotReplayable));
        };
        // Where its body did not fit into memory, it holds its connection, and
        // the service may not be ready again before that is free.
        let rejected = rejected.response.body().is_read().then_some(rejected);
        Ok(Unsent {
            service,
            payload: Payload::Again { request, rejected },
            admitted,
        })
    }
}

impl<RB: Body> Rejected<RB> {
    /// The response of a request that was not replayed.
    fn because(self, why: Why) -> Response<SessionBody<RB>> {
        let (head, body) = self.response.into_parts();
        let reauth = Reauth {
            generation: self.generation,
            replayed: false,
            why,
        };
        explained(head, body, reauth)
    }
}

/// A rejected response that is returned.
fn explained<B>(mut head: response::Parts, body: B, reauth: Reauth) -> Response<B> {
    head.extensions.insert(reauth);
    Response::from_parts(head, body)
}

impl<S, R, B, RB> ResponseFuture<S, R, B, RB>
where
    S: Service<Request<R::Body>>,
    R: Replay<B>,
    RB: Body,
{
    /// A request that was sent with a token.
    #[inline]
    pub(crate) fn calling(session: Session, call: S::Future, sent: Sent<S, R, B>) -> Self {
        let sent = Some(sent);
        Self {
            session,
            state: State::Calling { call, sent },
        }
    }

    pub(crate) fn passing(session: Session, call: S::Future) -> Self {
        Self {
            session,
            state: State::Passing { call },
        }
    }

    pub(crate) fn acquiring(session: Session, unsent: Unsent<S, R, B, RB>) -> Self {
        Self {
            session,
            state: State::Acquiring {
                acquiring: Acquiring::new(),
                unsent: Some(Box::new(unsent)),
            },
        }
    }

    pub(crate) fn failed(session: Session, error: Error) -> Self {
        let error = Some(error);
        Self {
            session,
            state: State::Failed { error },
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
        let StateProj::Calling { call, sent } = this.state.as_mut().project() else {
            return self.poll_slowly(None, cx);
        };
        let response = match ready!(call.poll(cx)) {
            Ok(response) => response,
            Err(error) => {
                this.state.set(State::Done);
                return Poll::Ready(Err(error.into()));
            }
        };
        match plainly_accepted(this.session, &response, sent) {
            Some(lease) => {
                this.state.set(State::Done);
                let body = |body| SessionBody::whole(body, Some(lease));
                Poll::Ready(Ok(response.map(body)))
            }
            None => self.poll_slowly(Some(response), cx),
        }
    }
}

impl<S, R, B, RB> ResponseFuture<S, R, B, RB>
where
    S: Service<Request<R::Body>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    R: Replay<B>,
    RB: Body,
{
    /// Whatever is not the plain way, apart from it: most requests never come
    /// here, nor should its code and its place on the stack.
    #[cold]
    #[inline(never)]
    fn poll_slowly(
        self: Pin<&mut Self>,
        mut answered: Option<Response<RB>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<SessionBody<RB>>, BoxError>> {
        const TAKEN: &str = "each state is left when its parts are taken";

        let mut this = self.project();
        let session: &Session = this.session;
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Calling { call, sent } => {
                    let response = match answered.take() {
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
                    let sent = sent.take().expect(TAKEN);
                    let (mut head, body) = response.into_parts();
                    match session.rejection().judge(&head) {
                        Verdict::Accepted => {
                            this.state.set(State::Done);
                            tell_if_watched(session, &sent, &head);
                            sent.hand_out_if_upgraded(&mut head);
                            let body = SessionBody::whole(body, sent.lease);
                            return Poll::Ready(Ok(Response::from_parts(head, body)));
                        }
                        Verdict::Rejected(certainty) => {
                            match after_rejection(session, &sent, certainty) {
                                Ok(renewing) => State::Draining {
                                    doubted: Some(Doubted::new(head, body, sent)),
                                    renewing: Some(renewing),
                                },
                                Err(reauth) => {
                                    this.state.set(State::Done);
                                    let body = SessionBody::whole(body, sent.lease);
                                    return Poll::Ready(Ok(explained(head, body, reauth)));
                                }
                            }
                        }
                        Verdict::Ask { bytes } => State::Asking {
                            doubted: Some(Doubted::new(head, body, sent)),
                            bytes,
                        },
                    }
                }
                StateProj::Acquiring { acquiring, unsent } => {
                    let acquired = ready!(acquiring.poll(session, cx));
                    let unsent = unsent.take().expect(TAKEN);
                    match acquired {
                        // Not held while the service is readied: it may be
                        // suspended by then.
                        Ok(_) => State::Readying {
                            unsent: Some(unsent),
                        },
                        Err(error) => {
                            this.state.set(State::Done);
                            return Poll::Ready(match unsent.into_rejected() {
                                Some(rejected) => Ok(rejected.because(why_failed(error))),
                                None => Err(error.into()),
                            });
                        }
                    }
                }
                StateProj::Readying { unsent } => {
                    let ready = {
                        let unsent = unsent.as_mut().expect(TAKEN);
                        ready!(unsent.service.poll_ready(cx))
                    };
                    let mut unsent = unsent.take().expect(TAKEN);
                    if let Err(error) = ready {
                        this.state.set(State::Done);
                        return Poll::Ready(Err(error.into()));
                    }
                    let Some(lease) = session.usable_now() else {
                        // Its token went while the service was readied, which
                        // is given back before the next wait.
                        unsent.service = unsent.service.clone();
                        this.state.set(State::Acquiring {
                            acquiring: Acquiring::new(),
                            unsent: Some(unsent),
                        });
                        continue;
                    };
                    unsent.send(session, lease)
                }
                StateProj::Asking { doubted, bytes } => {
                    let limit = *bytes;
                    let reading = &mut doubted.as_mut().expect(TAKEN).reading;
                    ready!(reading.poll_up_to(limit, cx));
                    let mut doubted = doubted.take().expect(TAKEN);
                    let start = doubted.reading.start(limit);
                    match session.rejection().judge_body(&doubted.head, &start) {
                        Verdict::Accepted | Verdict::Ask { .. } => {
                            this.state.set(State::Done);
                            tell_if_watched(session, &doubted.sent, &doubted.head);
                            doubted.sent.hand_out_if_upgraded(&mut doubted.head);
                            let (head, body, _) = doubted.into_parts();
                            return Poll::Ready(Ok(Response::from_parts(head, body)));
                        }
                        Verdict::Rejected(certainty) => {
                            match after_rejection(session, &doubted.sent, certainty) {
                                Ok(renewing) => State::Draining {
                                    doubted: Some(doubted),
                                    renewing: Some(renewing),
                                },
                                Err(reauth) => {
                                    this.state.set(State::Done);
                                    let (head, body, _) = doubted.into_parts();
                                    return Poll::Ready(Ok(explained(head, body, reauth)));
                                }
                            }
                        }
                    }
                }
                StateProj::Draining { doubted, renewing } => {
                    let reading = &mut doubted.as_mut().expect(TAKEN).reading;
                    ready!(reading.poll_up_to(REJECTED_BODY, cx));
                    let doubted = doubted.take().expect(TAKEN);
                    let generation = doubted.sent.generation();
                    let (head, body, remnant) = doubted.into_parts();
                    let rejected = Box::new(Rejected {
                        response: Response::from_parts(head, body),
                        generation,
                    });
                    let Remnant::Spare(spare) = remnant else {
                        unreachable!("only what can be replayed is renewed for");
                    };
                    State::Renewing {
                        renewing: renewing.take().expect(TAKEN),
                        spared: Some(Box::new(Spared {
                            spare,
                            rejected,
                            admitted: session.readmit(),
                        })),
                    }
                }
                StateProj::Renewing { renewing, spared } => {
                    let renewed = ready!(renewing.poll(session, cx));
                    let spared = spared.take().expect(TAKEN);
                    match spared.after(renewed) {
                        Ok(unsent) => State::Readying {
                            unsent: Some(Box::new(unsent)),
                        },
                        Err(returned) => {
                            this.state.set(State::Done);
                            return Poll::Ready(Ok(returned));
                        }
                    }
                }
                StateProj::Passing { call } => {
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

/// The lease of a request that was accepted, if that is all there is to it.
#[inline]
fn plainly_accepted<S, R: Replay<B>, B, RB>(
    session: &Session,
    response: &Response<RB>,
    sent: &mut Option<Sent<S, R, B>>,
) -> Option<Lease> {
    let sent = sent.as_mut()?;
    // As a replay never is, since it is watched.
    let is_plain = sent.watched.is_none()
        && !sent.is_upgraded_by(response.status())
        && session.rejection().plainly_accepts(response.status());
    sent.lease.take_if(|_| is_plain)
}

/// Tells the session of an accepted request, if it wants to hear of it.
fn tell_if_watched<S, R: Replay<B>, B>(
    session: &Session,
    sent: &Sent<S, R, B>,
    head: &response::Parts,
) {
    if let Some(at) = sent.watched {
        let generation = sent.generation();
        session.accepted(generation, sent.target(), at, head);
    }
    if sent.replayed {
        session.replay_helped();
    }
}

/// Tells the session of a rejection. `Err` says why its response is to be returned.
fn after_rejection<S, R: Replay<B>, B>(
    session: &Session,
    sent: &Sent<S, R, B>,
    certainty: Certainty,
) -> Result<Renewing, Reauth> {
    let generation = sent.generation();
    // In any case, so that the next request has a new token.
    let renewal = match sent.replayed {
        true => {
            session.replay_rejected(generation, sent.target());
            Err(Why::StillRejected)
        }
        false => session.rejected(generation, Some(sent.target())),
    };
    let may_be_replayed = match (&sent.remnant, certainty) {
        (Remnant::Way(_), _) => Err(Why::NotReplayable),
        (Remnant::Spare(spare), _) if !R::is_kept(&spare.kept) => Err(Why::NotReplayable),
        (Remnant::Spare(_), Certainty::Sure) => Ok(()),
        (Remnant::Spare(spare), Certainty::Unsure) if is_idempotent(&spare.method) => Ok(()),
        (Remnant::Spare(_), Certainty::Unsure) => Err(Why::Unsure),
    };
    renewal
        .and_then(|renewing| may_be_replayed.map(|()| renewing))
        .map_err(|why| Reauth {
            generation,
            replayed: sent.replayed,
            why,
        })
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
