//! A request that waits to be sent.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::attempt::{Attempt, RequestInfo};
use super::body::{Prefetch, SessionBody};
use super::replay::Replay;
use crate::reauth::{Reauth, ReauthFailure};
use crate::session::{Admission, Driver, Lease};

/// A request that waits for a token, or for its service to be ready.
pub(super) struct PendingRequest<S, R: Replay<B>, B, RB: Body> {
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

/// A rejected response, to be returned unless its request is replayed.
pub(super) struct RejectedResponse<RB: Body> {
    pub(super) head: http::response::Parts,
    pub(super) body: Prefetch<RB>,
    pub(super) lease: Lease,
}

impl<S, R: Replay<B>, B, RB: Body> PendingRequest<S, R, B, RB> {
    pub(super) fn first(service: S, replay: R, request: Request<B>, admission: Admission) -> Self {
        Self {
            service,
            request: Pending::First { replay, request },
            admission,
        }
    }

    pub(super) fn replay(
        service: S,
        request: Request<R::Body>,
        rejected: Box<RejectedResponse<RB>>,
        admission: Admission,
    ) -> Self {
        Self {
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
    pub(super) fn send(self, driver: &Arc<Driver>, lease: Lease) -> (S::Future, Attempt<S, R::Kept>)
    where
        S: Service<Request<R::Body>> + Clone,
    {
        let Self {
            mut service,
            request,
            admission,
        } = self;
        // From now on the lease shows that the request is under way.
        drop(admission);
        match request {
            Pending::First { replay, request } => {
                Attempt::send(driver, &mut service, &replay, request, lease)
            }
            // The rejected response is dropped: its request gets another one.
            Pending::Replay {
                mut request,
                rejected: _,
            } => {
                let (at, info) = (driver.now(), RequestInfo::of(&request));
                driver.count_replay(lease.token().generation());
                lease.token().apply_to(request.headers_mut());
                let call = service.call(request);
                (call, Attempt::replay(lease, at, info))
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

impl<RB: Body> RejectedResponse<RB> {
    /// Returns the response of a request that was not replayed because of `failure`.
    pub(super) fn returned(self, failure: ReauthFailure) -> Response<SessionBody<RB>> {
        let reauth = Reauth {
            generation: Some(self.lease.token().generation()),
            replayed: false,
            failure,
        };
        let body = self.body.into_body(self.lease);
        let mut response = Response::from_parts(self.head, body);
        reauth.add_to(response.extensions_mut());
        response
    }
}
