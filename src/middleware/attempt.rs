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
    /// Whether it is a replay, which is not replayed again.
    pub(super) replayed: bool,
    /// When it was sent, if its outcome is to be reported.
    pub(super) reported: Option<Timestamp>,
    pub(super) request: SentRequest<S, K>,
}

/// The parts of a sent request that are kept.
pub(super) enum SentRequest<S, K> {
    /// Everything that a replay needs.
    Retained(Box<RetainedRequest<S, K>>),
    /// Its target, and whether it asked for a tunnel.
    Info(RequestInfo),
}

/// The target of a request that cannot be replayed.
pub(super) struct RequestInfo {
    target: Target,
    method: MethodKind,
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
    /// Creates the attempt of a request that is sent with the token of `lease`.
    #[inline]
    pub(super) fn first(
        lease: Lease,
        reported: Option<Timestamp>,
        request: SentRequest<S, K>,
    ) -> Self {
        Self {
            lease,
            replayed: false,
            reported,
            request,
        }
    }

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
        let is_safe = || is_idempotent(request.method()) || driver.rejection().is_sure();
        let lease = match lease.is_offered() && is_certain() && is_safe() {
            true => {
                let target = Target::of(request.method(), request.uri().path());
                driver.candidate_or(lease, target)
            }
            false => lease,
        };
        let reported = driver.report_time(&lease);
        let sent = SentRequest::new(service, &request, kept);
        lease.token().apply_to(request.headers_mut());
        let call = service.call(request);
        (call, Self::first(lease, reported, sent))
    }

    /// Creates the attempt of a replay that is sent with the token of `lease`.
    pub(super) fn replay(lease: Lease, sent: Timestamp, request: RequestInfo) -> Self {
        Self {
            lease,
            replayed: true,
            reported: Some(sent),
            request: SentRequest::Info(request),
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.lease.token().generation()
    }

    pub(super) fn target(&self) -> Target {
        match &self.request {
            SentRequest::Retained(retained) => retained.target(),
            SentRequest::Info(info) => info.target,
        }
    }

    /// Returns whether a response of this status is accepted and needs no further
    /// work.
    #[inline]
    pub(super) fn is_plainly_accepted(&self, driver: &Driver, status: StatusCode) -> bool {
        // A replay is always reported.
        self.reported.is_none()
            && !self.is_upgraded_by(status)
            && driver.rejection().accepts_status(status)
    }

    /// Reports that the response was accepted, now or when its body has ended, if its
    /// trailers may reject the token.
    pub(super) fn accepted<RB: Body>(
        self,
        driver: &Arc<Driver>,
        head: response::Parts,
        body: Received<RB>,
    ) -> Response<SessionBody<RB>> {
        let acceptance = self.reported.map(|sent| Acceptance {
            sent,
            status: head.status,
        });
        self.respond(driver, head, body, acceptance)
    }

    /// Returns the response. Whether it was a rejection is not known, so nothing is
    /// reported, unless its trailers reject the token. The next value of a token is taken
    /// from it nevertheless: the server may accept no other.
    pub(super) fn undecided<RB: Body>(
        self,
        driver: &Arc<Driver>,
        head: response::Parts,
        body: Received<RB>,
    ) -> Response<SessionBody<RB>> {
        self.respond(driver, head, body, None)
    }

    /// Returns a response that was not rejected. If the connection switches to another
    /// protocol, adds the token to the response: its use then outlasts the body.
    fn respond<RB: Body>(
        self,
        driver: &Arc<Driver>,
        mut head: response::Parts,
        body: Received<RB>,
        acceptance: Option<Acceptance>,
    ) -> Response<SessionBody<RB>> {
        let target = self.target();
        let is_watched = driver.rejection().reads_trailers() && !body.is_end_stream();
        if let (Some(acceptance), false) = (acceptance, is_watched) {
            acceptance.report(driver, self.generation(), target, self.replayed);
        }
        if let Some(sent) = self.reported {
            driver.roll(self.generation(), sent, &head);
        }
        if self.is_upgraded_by(head.status) {
            let token = Published::hand_out(self.lease.clone());
            head.extensions.insert(token);
        }
        let generation = self.generation();
        let body = body.into_body(self.lease);
        let body = match is_watched {
            true => body.watched(TrailerWatch {
                generation,
                driver: Arc::downgrade(driver),
                target,
                replayed_at: self.reported.filter(|_| self.replayed),
                acceptance,
            }),
            false => body,
        };
        Response::from_parts(head, body)
    }

    /// Returns whether a response of this status switches the connection to another
    /// protocol.
    #[inline]
    fn is_upgraded_by(&self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS || self.is_connect() && status.is_success()
    }

    #[inline]
    fn is_connect(&self) -> bool {
        match &self.request {
            SentRequest::Retained(retained) => *retained.method() == Method::CONNECT,
            SentRequest::Info(info) => info.method == MethodKind::Connect,
        }
    }

    /// Returns whether its response has no body, whatever its head says.
    pub(super) fn is_head(&self) -> bool {
        match &self.request {
            SentRequest::Retained(retained) => *retained.method() == Method::HEAD,
            SentRequest::Info(info) => info.method == MethodKind::Head,
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
    /// Keeps the parts of a request that is about to be sent through `service`. `kept`
    /// stands for its body.
    #[inline]
    pub(super) fn new<B>(service: &S, request: &Request<B>, kept: Option<K>) -> Self
    where
        S: Clone,
    {
        match kept {
            Some(kept) => Self::Retained(Box::new(RetainedRequest::new(service, request, kept))),
            None => Self::Info(RequestInfo::of(request)),
        }
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
