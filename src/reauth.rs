//! Why a rejected response was returned.

use http::Extensions;

use crate::Error;

/// A response extension: the response rejects the token and is returned nevertheless.
///
/// It names the token and the reason why nothing more was done.
///
/// ```
/// use http::Response;
/// use tower_reauth::{Reauth, ReauthFailure};
///
/// fn explain<B>(response: &Response<B>) -> &'static str {
///     match response.extensions().get::<Reauth>().map(|reauth| &reauth.failure) {
///         None => "not a rejection",
///         Some(ReauthFailure::StillRejected) => "a fresh token is rejected too: a permission is missing",
///         Some(ReauthFailure::NotReplayable) => "the body cannot be sent twice; the next request has a new token",
///         Some(_) => "see the docs of `ReauthFailure`",
///     }
/// }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Reauth {
    /// The generation of the token that the response rejects. `None` if the request
    /// had no token.
    pub generation: Option<u64>,
    /// Whether the request was replayed before.
    pub replayed: bool,
    /// Why the response is returned.
    pub failure: ReauthFailure,
}

impl Reauth {
    /// Adds this to a response, unless an inner layer has added its own.
    pub(crate) fn add_to(self, extensions: &mut Extensions) {
        if extensions.get::<Self>().is_none() {
            extensions.insert(self);
        }
    }
}

/// Why a rejected response was returned.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ReauthFailure {
    /// The request's body cannot be sent again. The token is being refreshed for the
    /// next request: a caller that can repeat the request may do so.
    NotReplayable,
    /// The request may have been executed, and its method is not idempotent. The
    /// token is being refreshed for the next request.
    Unsure,
    /// Rejections may not start a refresh now: this target rejected a new token too, no
    /// request has accepted the last ones, or there were too many. Nothing was
    /// refreshed.
    CoolingDown,
    /// The token could not be refreshed because of this error. Nothing was replayed.
    RenewalFailed(Error),
    /// The request was replayed, with a new token if a refresh could start, and was
    /// rejected too; or the login system returned the same token once more. Most
    /// likely the user lacks a permission.
    StillRejected,
    /// The session was logged out or closed while the request was under way.
    LoggedOut,
}
