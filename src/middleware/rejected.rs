//! A rejected request that can be replayed, until its replay may be sent.

use std::task::{Context, Poll};

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, Response, response};
use http_body::Body;

use super::attempt::{Attempt, SentRequest};
use super::body::{Received, SessionBody};
use super::pending::PendingRequest;
use super::replay::Replay;
use super::response::RejectedResponse;
use super::retained::RetainedRequest;
use crate::provider::Challenge;
use crate::reauth::{Reauth, ReauthFailure};
use crate::rejection::{Certainty, is_idempotent};
use crate::session::{Admission, AwaitRefresh};

/// How much of a rejected body is read into memory, so that its connection, or its
/// window in HTTP/2, is free while the request waits for a token.
const MAX_BUFFERED: usize = 16 * 1024;

/// A rejected request, its response, and the refresh that it waits for.
pub(super) struct Rejected<S, K, RB: Body> {
    request: Box<RetainedRequest<S, K>>,
    // Boxed: a pending request that was not sent yet has none.
    response: Box<RejectedResponse<RB>>,
    refresh: AwaitRefresh,
    admission: Admission,
}

impl<S, K, RB: Body> Rejected<S, K, RB> {
    /// Reports the rejection of an attempt. Returns the response if its request is
    /// not to be replayed.
    #[allow(clippy::result_large_err, reason = "moved once, off the request path")]
    pub(super) fn new<R, B>(
        attempt: Attempt<S, K>,
        certainty: Certainty,
        head: response::Parts,
        body: Received<RB>,
    ) -> Result<Box<Self>, Response<SessionBody<RB>>>
    where
        R: Replay<B, Kept = K>,
    {
        let (generation, target) = (attempt.generation(), attempt.target());
        let (driver, replayed) = (attempt.driver(), attempt.is_replay());
        let Attempt { lease, request } = attempt;
        let retained = replayable::<S, R, B>(request, certainty);
        let returned = |failure, head, body: Received<RB>, lease| {
            let mut response = Response::from_parts(head, body.into_body(lease));
            let reauth = Reauth {
                generation: Some(generation),
                replayed,
                failure,
            };
            reauth.add_to(response.extensions_mut());
            response
        };
        let Some(driver) = driver else {
            // The session has ended, so no other request follows.
            return Err(returned(ReauthFailure::NotReplayable, head, body, lease));
        };
        let refresh = match &retained {
            _ if replayed => {
                driver.replay_rejected(target);
                Err(ReauthFailure::StillRejected)
            }
            Err(failure) if !driver.needs_refresh() => {
                driver.count_rejection();
                Err(failure.clone())
            }
            // Also without a replay, so that the next request has a newer token.
            Ok(_) | Err(_) => driver.rejected(generation, Some(target), challenge(&head.headers)),
        };
        let failure = match refresh.and_then(|refresh| Ok((refresh, retained?))) {
            Ok((refresh, request)) => {
                return Ok(Box::new(Self {
                    request,
                    response: Box::new(RejectedResponse {
                        head,
                        body: body.into_prefetch(),
                        generation,
                        lease: Some(lease),
                    }),
                    refresh,
                    admission: driver.readmit(),
                }));
            }
            Err(failure) => failure,
        };
        Err(returned(failure, head, body, lease))
    }

    /// Reads the rejected body into memory, up to [`MAX_BUFFERED`] bytes.
    pub(super) fn poll_buffered(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.response.body.poll_up_to(MAX_BUFFERED, cx)
    }

    /// Waits until the replay may be sent.
    pub(super) fn poll_refreshed(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ReauthFailure>> {
        self.refresh.poll(&self.request.driver, cx)
    }

    /// Returns the request to send once more, or the response if its refresh failed
    /// or its body is not available after all.
    #[allow(clippy::result_large_err, reason = "moved once, off the request path")]
    pub(super) fn into_pending<R, B>(
        self,
        refreshed: Result<(), ReauthFailure>,
    ) -> Result<PendingRequest<S, R, B, RB>, Response<SessionBody<RB>>>
    where
        R: Replay<B, Kept = K>,
    {
        if let Err(failure) = refreshed {
            return Err(self.response.returned(failure));
        }
        // Not earlier: this takes a body that is still being sent from the client.
        let Some((driver, service, request)) = self.request.again::<R, B>() else {
            return Err(self.response.returned(ReauthFailure::NotReplayable));
        };
        Ok(PendingRequest::replay(
            driver,
            service,
            request,
            self.response,
            self.admission,
        ))
    }
}

/// Returns the retained request, if it may be replayed after such a rejection.
fn replayable<S, R: Replay<B>, B>(
    request: SentRequest<S, R::Kept>,
    certainty: Certainty,
) -> Result<Box<RetainedRequest<S, R::Kept>>, ReauthFailure> {
    let SentRequest::Retained(retained) = request else {
        return Err(ReauthFailure::NotReplayable);
    };
    if !R::is_kept(&retained.kept) {
        return Err(ReauthFailure::NotReplayable);
    }
    match certainty {
        Certainty::Unsure if !is_idempotent(retained.method()) => Err(ReauthFailure::Unsure),
        Certainty::Sure | Certainty::Unsure => Ok(retained),
    }
}

/// Returns the challenges of a response in one line (RFC 9110, section 5.3).
fn challenge(headers: &HeaderMap) -> Option<Box<Challenge>> {
    let values = headers.get_all(WWW_AUTHENTICATE).into_iter();
    let values: Vec<&str> = values
        .filter_map(|value| std::str::from_utf8(value.as_bytes()).ok())
        .collect();
    (!values.is_empty()).then(|| Box::new(Challenge(values.join(", "))))
}
