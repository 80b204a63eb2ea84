//! The token in use.

use super::lifespan::Lifespan;
use super::replaced::TokenRef;
use super::time::Timestamp;
use crate::origin::Target;

/// The current token.
#[derive(Clone, Debug)]
pub(super) struct CurrentToken {
    pub(super) generation: u64,
    pub(super) lifespan: Lifespan,
    pub(super) state: TokenState,
    /// When an acceptance was last reported. `None` until the token is proven.
    pub(super) accepted: Option<Timestamp>,
}

impl CurrentToken {
    pub(super) fn to_ref(&self) -> TokenRef {
        TokenRef::new(self.generation, self.lifespan.absolute_end())
    }
}

/// Whether new requests may use the current token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenState {
    Good,
    /// Not until the login that may replace it has ended. This target rejected
    /// it, or `Session::reject` did.
    Suspended(Option<Target>),
}
