//! A rejected response, to be returned unless its request is replayed.

use http::Response;
use http_body::Body;

use super::body::{Prefetch, SessionBody};
use crate::BoxError;
use crate::error::Error;
use crate::reauth::{Reauth, ReauthFailure};
use crate::session::{Lease, failure_of};

pub(super) struct RejectedResponse<RB: Body> {
    pub(super) head: http::response::Parts,
    pub(super) body: Prefetch<RB>,
    /// Of the token that was rejected.
    pub(super) generation: u64,
    /// A use of that token, until the request is replayed.
    pub(super) lease: Option<Lease>,
}

impl<RB: Body> RejectedResponse<RB> {
    /// The service has failed on the replay. An error of this crate says that the request
    /// was not executed: of one that was sent before, which the layer of another session
    /// did not send again, that is not known, and this response is returned.
    #[cold]
    pub(super) fn unless_executed(
        self,
        error: BoxError,
    ) -> Result<Response<SessionBody<RB>>, BoxError> {
        match Error::find(&*error) {
            Some(ours) => Ok(self.returned(failure_of(ours.clone()))),
            None => Err(error),
        }
    }

    /// Returns the response of a request that was not replayed because of `failure`.
    pub(super) fn returned(self, failure: ReauthFailure) -> Response<SessionBody<RB>> {
        let reauth = Reauth {
            generation: Some(self.generation),
            replayed: false,
            failure,
        };
        let body = self.body.into_body(self.lease);
        let mut response = Response::from_parts(self.head, body);
        reauth.add_to(response.extensions_mut());
        response
    }
}
