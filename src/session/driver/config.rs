//! The settings of a session for its driver.

use std::time::Duration;

use http::HeaderName;

use crate::origin::Origins;
use crate::rejection::Rejection;
use crate::rolling::Rolling;
use crate::session::rules::Lifetimes;
use crate::token::Token;

/// The settings of a session for its driver, fixed when it is created.
pub(in crate::session) struct Config {
    pub(in crate::session) origins: Origins,
    pub(in crate::session) rejection: Rejection,
    /// Whether `rejection` accepts every 2xx, as nearly all do. Kept for the request path.
    pub(in crate::session) accepts_success: bool,
    pub(in crate::session) rolling: Option<Rolling>,
    /// How long before its end a token is refreshed, if that is set.
    pub(in crate::session) refresh_before: Option<Duration>,
    pub(in crate::session) name: Option<Box<str>>,
    /// A request that has one of these headers passes without the token.
    pub(in crate::session) skip_if_present: Box<[HeaderName]>,
}

impl Config {
    /// Returns the lifetimes of a token, as its provider has set them.
    pub(super) fn lifetimes(&self, token: &Token) -> Lifetimes {
        Lifetimes {
            refresh_before: self.refresh_before,
            absolute: token.lifetime(),
            idle: token.idle_lifetime(),
            refresh_in: token.refresh_delay(),
            has_data: token.data().is_some(),
        }
    }
}
