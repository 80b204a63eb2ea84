//! The published token, as the request path reads it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::lifecycle::Signal;
use crate::token::Token;

/// A token that a session has published, and whether requests may carry it.
///
/// The `Arc` around it is the lease: whoever holds one still uses the token.
pub(crate) struct Live {
    token: Token,
    signal: AtomicU8,
}

impl Live {
    pub(super) fn new(token: Token) -> Self {
        Self {
            token,
            signal: AtomicU8::new(Signal::Live as u8),
        }
    }

    /// As [`Live::new`], but the first request is to take the slow path, which
    /// sets the timer that could not be set without a runtime.
    pub(super) fn new_unused(token: Token) -> Self {
        let live = Self::new(token);
        live.set(Signal::Suspect);
        live
    }

    /// Whether a request may carry it and nobody wants to hear how that went.
    #[inline]
    pub(crate) fn is_live(&self) -> bool {
        // Whoever sees an older value started before the change, and is a
        // request under way as far as the rules go.
        self.signal.load(Ordering::Acquire) == Signal::Live as u8
    }

    /// Whether a request may carry it, but its acceptance is of interest.
    pub(crate) fn is_suspect(&self) -> bool {
        self.signal.load(Ordering::Acquire) == Signal::Suspect as u8
    }

    pub(super) fn set(&self, signal: Signal) {
        self.signal.store(signal as u8, Ordering::Release);
    }

    pub(crate) fn token(&self) -> &Token {
        &self.token
    }

    /// The token for somebody outside, counted as used until it drops.
    pub(super) fn hand_out(self: &Arc<Self>) -> Token {
        self.token.leased(self.clone())
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.token.fmt(f)
    }
}
