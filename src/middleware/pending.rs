//! A request that waits to be sent.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use http_body::Body;
use tower_service::Service;

use super::attempt::{Attempt, RequestInfo};
use super::replay::Replay;
use super::response::RejectedResponse;
use crate::session::{Admission, Driver, Lease};

/// A request that waits for a token, or for its service to be ready.
pub(super) struct PendingRequest<S, R: Replay<B>, B, RB: Body> {
    pub(super) driver: Arc<Driver>,
    service: S,
    request: Pending<R, B, RB>,
    admission: Admission,
}

enum Pending<R: Replay<B>, B, RB: Body> {
    First {
        replay: R,
        request: Request<B>,
    },
    Replay {
        request: Request<R::Body>,
        /// The rejected response, which is returned if no replay is sent.
        // Boxed: a request that waits for its first token needs no space for it.
        rejected: Box<RejectedResponse<RB>>,
    },
}

/// A request that was sent.
pub(super) enum Sent<S, R: Replay<B>, B, RB: Body>
where
    S: Service<Request<R::Body>>,
{
    First {
        call: S::Future,
        attempt: Attempt<S, R::Kept>,
    },
    Again {
        call: S::Future,
        // Boxed: the future of a request has no space for more than an attempt.
        replay: Box<SentReplay<S, R::Kept, RB>>,
    },
}

/// A replay that was sent, and the response that it follows.
pub(super) struct SentReplay<S, K, RB: Body> {
    pub(super) attempt: Attempt<S, K>,
    pub(super) rejected: Box<RejectedResponse<RB>>,
}

impl<S, R: Replay<B>, B, RB: Body> PendingRequest<S, R, B, RB> {
    pub(super) fn first(
        driver: Arc<Driver>,
        service: S,
        replay: R,
        request: Request<B>,
        admission: Admission,
    ) -> Self {
        Self {
            driver,
            service,
            request: Pending::First { replay, request },
            admission,
        }
    }

    pub(super) fn replay(
        driver: Arc<Driver>,
        service: S,
        request: Request<R::Body>,
        rejected: Box<RejectedResponse<RB>>,
        admission: Admission,
    ) -> Self {
        Self {
            driver,
            service,
            request: Pending::Replay { request, rejected },
            admission,
        }
    }

    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>>
    where
        S: Service<Request<R::Body>>,
    {
        self.service.poll_ready(cx)
    }

    /// Releases the connection of the rejected response, if there is one: the service
    /// may need it to become ready again.
    pub(super) fn release_connection(&mut self) {
        match &mut self.request {
            Pending::First { .. } => {}
            Pending::Replay { rejected, .. } => rejected.body.drop_rest(),
        }
    }

    /// Releases the permit that the service reserved when it became ready.
    pub(super) fn release_service(&mut self)
    where
        S: Clone,
    {
        self.service = self.service.clone();
    }

    /// Sends the request through its service, which is ready.
    pub(super) fn send(self, lease: Lease) -> Sent<S, R, B, RB>
    where
        S: Service<Request<R::Body>> + Clone,
    {
        let Self {
            driver,
            mut service,
            request,
            admission,
        } = self;
        // From now on the lease shows that the request is under way.
        drop(admission);
        match request {
            Pending::First { replay, request } => {
                let (call, attempt) = Attempt::send(&driver, &mut service, &replay, request, lease);
                Sent::First { call, attempt }
            }
            Pending::Replay {
                mut request,
                mut rejected,
            } => {
                rejected.lease = None;
                let (at, info) = (driver.now(), RequestInfo::of(&request));
                driver.count_replay(lease.token().generation());
                lease.token().apply_to(request.headers_mut());
                let call = service.call(request);
                let attempt = Attempt::replay(driver, lease, at, info);
                let replay = Box::new(SentReplay { attempt, rejected });
                Sent::Again { call, replay }
            }
        }
    }

    /// Returns the rejected response, if the request was sent before.
    pub(super) fn into_rejected(self) -> Option<Box<RejectedResponse<RB>>> {
        match self.request {
            Pending::First { .. } => None,
            Pending::Replay { rejected, .. } => Some(rejected),
        }
    }
}
