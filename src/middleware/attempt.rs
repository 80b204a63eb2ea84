//! A sent request.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode, response};
use http_body::Body;
use tower_service::Service;

use super::body::{Received, SessionBody};
use super::replay::Replay;
use super::retained::RetainedRequest;
use super::trailers::{Acceptance, TrailerWatch};
use crate::origin::Target;
use crate::rejection::is_idempotent;
use crate::session::{Driver, Lease, Published, Timestamp};

/// A request that was sent with a token.
pub(super) struct Attempt<S, K> {
    pub(super) lease: Lease,
    pub(super) request: SentRequest<S, K>,
}

/// The parts of a sent request that are kept.
pub(super) enum SentRequest<S, K> {
    /// It cannot be replayed, and its outcome is not reported. The session may end
    /// meanwhile.
    Info(RequestInfo),
    /// Everything that a replay needs.
    Retained(Box<RetainedRequest<S, K>>),
    /// It cannot be replayed, and its outcome is reported.
    Reported(Box<ReportedRequest>),
}

/// The target of a request that cannot be replayed.
#[derive(Clone, Copy)]
pub(super) struct RequestInfo {
    target: Target,
    method: MethodKind,
}

/// A request whose outcome is reported.
pub(super) struct ReportedRequest {
    driver: Arc<Driver>,
    info: RequestInfo,
    sent: Timestamp,
    /// Whether it is a replay, which is not replayed again.
    is_replay: bool,
}

/// The methods whose responses have no body of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MethodKind {
    /// Asks for the head of another response (RFC 9110, section 9.3.2).
    Head,
    /// Asks for a tunnel (RFC 9110, section 9.3.6).
    Connect,
    Other,
}

impl<S, K> Attempt<S, K> {
    /// Sends a request for the first time, off the fast path. If it can be replayed
    /// whatever its response, it may carry the candidate.
    pub(super) fn send<R, B>(
        driver: &Arc<Driver>,
        service: &mut S,
        replay: &R,
        request: Request<B>,
        lease: Lease,
    ) -> (S::Future, Self)
    where
        S: Service<Request<R::Body>> + Clone,
        R: Replay<B, Kept = K>,
    {
        let (mut request, kept) = replay.keep_request(request);
        let is_certain = || kept.as_ref().is_some_and(R::is_certain);
        let is_safe = || is_idempotent(request.method()) || lease.rejection().is_sure();
        let lease = match lease.is_offered() && is_certain() && is_safe() {
            true => {
                let target = Target::of(request.method(), request.uri().path());
                driver.candidate_or(lease, target)
            }
            false => lease,
        };
        let sent = driver.report_time(&lease);
        let retained = match (kept, sent) {
            (Some(kept), sent) => {
                SentRequest::retained(driver.clone(), service, &request, kept, sent)
            }
            (None, Some(sent)) => SentRequest::Reported(Box::new(ReportedRequest {
                driver: driver.clone(),
                info: RequestInfo::of(&request),
                sent,
                is_replay: false,
            })),
            (None, None) => SentRequest::Info(RequestInfo::of(&request)),
        };
        lease.token().apply_to(request.headers_mut());
        let call = service.call(request);
        let attempt = Self {
            lease,
            request: retained,
        };
        (call, attempt)
    }

    /// Creates the attempt of a replay that is sent with the token of `lease`.
    pub(super) fn replay(
        driver: Arc<Driver>,
        lease: Lease,
        sent: Timestamp,
        info: RequestInfo,
    ) -> Self {
        let reported = ReportedRequest {
            driver,
            info,
            sent,
            is_replay: true,
        };
        Self {
            lease,
            request: SentRequest::Reported(Box::new(reported)),
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.lease.token().generation()
    }

    /// Returns the driver of the session, if the session is alive.
    pub(super) fn driver(&self) -> Option<Arc<Driver>> {
        match &self.request {
            SentRequest::Info(_) => Driver::of(&self.lease),
            SentRequest::Retained(retained) => Some(retained.driver.clone()),
            SentRequest::Reported(reported) => Some(reported.driver.clone()),
        }
    }

    pub(super) fn target(&self) -> Target {
        match &self.request {
            SentRequest::Info(info) => info.target,
            SentRequest::Retained(retained) => retained.target(),
            SentRequest::Reported(reported) => reported.info.target,
        }
    }

    pub(super) fn is_replay(&self) -> bool {
        match &self.request {
            SentRequest::Info(_) | SentRequest::Retained(_) => false,
            SentRequest::Reported(reported) => reported.is_replay,
        }
    }

    /// Returns when it was sent, if its outcome is to be reported.
    #[inline]
    fn reported(&self) -> Option<Timestamp> {
        match &self.request {
            SentRequest::Info(_) => None,
            SentRequest::Retained(retained) => retained.reported,
            SentRequest::Reported(reported) => Some(reported.sent),
        }
    }

    /// Returns whether a response of this status is accepted and needs no further
    /// work.
    #[inline]
    pub(super) fn is_plainly_accepted(&self, status: StatusCode) -> bool {
        self.reported().is_none()
            && !self.is_upgraded_by(status)
            && self.lease.accepts_status(status)
    }

    /// Returns the lease, and drops the rest.
    #[inline]
    pub(super) fn into_lease(self) -> Lease {
        match self.request {
            // Spares a call: most requests have nothing to drop.
            SentRequest::Info(_) => {}
            SentRequest::Retained(retained) => drop(retained),
            SentRequest::Reported(reported) => drop(reported),
        }
        self.lease
    }

    /// Reports that the response was accepted, now or when its body has ended, if its
    /// trailers may reject the token.
    pub(super) fn accepted<RB: Body>(
        self,
        head: response::Parts,
        body: Received<RB>,
    ) -> Response<SessionBody<RB>> {
        let acceptance = self.reported().map(|sent| Acceptance {
            sent,
            status: head.status,
        });
        self.respond(head, body, acceptance)
    }

    /// Returns the response. Whether it was a rejection is not known, so nothing is
    /// reported, unless its trailers reject the token. The next value of a token is taken
    /// from it nevertheless: the server may accept no other.
    pub(super) fn undecided<RB: Body>(
        self,
        head: response::Parts,
        body: Received<RB>,
    ) -> Response<SessionBody<RB>> {
        self.respond(head, body, None)
    }

    /// Returns a response that was not rejected. If the connection switches to another
    /// protocol, adds the token to the response: its use then outlasts the body.
    fn respond<RB: Body>(
        self,
        mut head: response::Parts,
        body: Received<RB>,
        acceptance: Option<Acceptance>,
    ) -> Response<SessionBody<RB>> {
        let (generation, target) = (self.generation(), self.target());
        let reads_trailers = self.lease.rejection().reads_trailers() && !body.is_end_stream();
        let watched = self.driver().filter(|_| reads_trailers);
        if let Some((driver, sent)) = self.driver().zip(self.reported()) {
            if let (Some(acceptance), None) = (acceptance, &watched) {
                acceptance.report(&driver, generation, target, self.is_replay());
            }
            driver.roll(generation, sent, &head);
        }
        if self.is_upgraded_by(head.status) {
            let token = Published::hand_out(self.lease.clone());
            head.extensions.insert(token);
        }
        let replayed_at = self.reported().filter(|_| self.is_replay());
        let body = body.into_body(self.lease);
        let body = match watched {
            Some(driver) => body.watched(TrailerWatch {
                generation,
                driver: Arc::downgrade(&driver),
                target,
                replayed_at,
                acceptance,
            }),
            None => body,
        };
        Response::from_parts(head, body)
    }

    /// Returns whether a response of this status switches the connection to another
    /// protocol.
    #[inline]
    fn is_upgraded_by(&self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS
            || self.method() == MethodKind::Connect && status.is_success()
    }

    /// Returns whether its response has no body, whatever its head says.
    pub(super) fn is_head(&self) -> bool {
        self.method() == MethodKind::Head
    }

    #[inline]
    fn method(&self) -> MethodKind {
        match &self.request {
            SentRequest::Info(info) => info.method,
            SentRequest::Retained(retained) => MethodKind::of(retained.method()),
            SentRequest::Reported(reported) => reported.info.method,
        }
    }
}

impl MethodKind {
    #[inline]
    fn of(method: &Method) -> Self {
        match *method {
            Method::HEAD => Self::Head,
            Method::CONNECT => Self::Connect,
            _ => Self::Other,
        }
    }
}

impl<S, K> SentRequest<S, K> {
    /// Keeps everything that a replay needs of a request that is about to be sent
    /// through `service`. `kept` stands for its body.
    #[inline]
    pub(super) fn retained<B>(
        driver: Arc<Driver>,
        service: &S,
        request: &Request<B>,
        kept: K,
        reported: Option<Timestamp>,
    ) -> Self
    where
        S: Clone,
    {
        let retained = RetainedRequest::new(driver, service, request, kept, reported);
        Self::Retained(Box::new(retained))
    }
}

impl RequestInfo {
    #[inline]
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        Self {
            target: Target::of(request.method(), request.uri().path()),
            method: MethodKind::of(request.method()),
        }
    }
}
