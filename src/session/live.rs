//! The published token, as the request path reads it, and who uses it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::lifecycle::Signal;
use crate::sync::{self, AtomicU8, AtomicU64, AtomicUsize, Notify, Ordering};
use crate::token::Token;

/// Whoever holds one still uses the token.
pub(crate) type Lease = sync::Arc<Live>;

/// Counts the leases of a publication.
pub(super) type Leases = sync::Weak<Live>;

/// A token that a session has published, and whether requests may carry it.
pub(crate) struct Live {
    token: Token,
    signal: AtomicU8,
    uses: Arc<Uses>,
}

impl Live {
    pub(super) fn new(token: Token, signal: Signal, uses: Arc<Uses>) -> Self {
        Self {
            token,
            signal: AtomicU8::new(signal as u8),
            uses,
        }
    }

    /// Whether a request may carry it and nobody wants to hear how that went.
    #[inline]
    pub(crate) fn is_live(&self) -> bool {
        self.signal() == Signal::Live as u8
    }

    /// Whether a request under way may carry it.
    pub(super) fn is_usable(&self) -> bool {
        self.signal() <= Signal::Closing as u8
    }

    #[inline]
    fn signal(&self) -> u8 {
        // Whoever sees an older value started before the change, and is a
        // request under way as far as the rules go.
        self.signal.load(Ordering::Acquire)
    }

    pub(super) fn set(&self, signal: Signal) {
        self.signal.store(signal as u8, Ordering::Release);
    }

    pub(crate) fn token(&self) -> &Token {
        &self.token
    }

    /// The token for somebody outside, counted as used until it drops.
    pub(crate) fn hand_out(lease: Lease) -> Token {
        let token = lease.token.clone();
        // Under loom it is no `Arc` of the standard library's.
        #[cfg(all(test, reauth_loom))]
        let lease = Arc::new(lease);
        token.leased(lease)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.uses.changed.notify_waiters();
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.token.fmt(f)
    }
}

/// Who waits for a token, and word of everybody who needs one no longer.
#[derive(Debug, Default)]
pub(super) struct Uses {
    waiting: AtomicUsize,
    waited: AtomicU64,
    nanoseconds_waited: AtomicU64,
    /// Told when a token that was replaced is used no more, when a request
    /// waits no longer, and when a flight has landed.
    pub(super) changed: Notify,
}

impl Uses {
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// How many have waited for a flight, and for how long together.
    pub(super) fn waits(&self) -> (u64, Duration) {
        let time = self.nanoseconds_waited.load(Ordering::Relaxed);
        (
            self.waited.load(Ordering::Relaxed),
            Duration::from_nanos(time),
        )
    }
}

/// A request that waits for a flight; counted when it does so no longer.
#[derive(Debug)]
pub(crate) struct Waiting {
    uses: Arc<Uses>,
    since: Instant,
}

impl Waiting {
    pub(super) fn new(uses: &Arc<Uses>) -> Self {
        Self {
            uses: uses.clone(),
            since: Instant::now(),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let time = self.since.elapsed().as_nanos();
        let time = u64::try_from(time).unwrap_or(u64::MAX);
        self.uses.waited.fetch_add(1, Ordering::Relaxed);
        self.uses
            .nanoseconds_waited
            .fetch_add(time, Ordering::Relaxed);
    }
}

/// A request that was admitted and holds no token yet.
#[derive(Debug)]
pub(crate) struct Admitted(Arc<Uses>);

impl Admitted {
    pub(super) fn new(uses: &Arc<Uses>) -> Self {
        uses.waiting.fetch_add(1, Ordering::AcqRel);
        Self(uses.clone())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_waiters();
    }
}

/// A token that is published no longer.
pub(super) struct Past {
    pub(super) token: Token,
    leases: Vec<Leases>,
}

impl Past {
    pub(super) fn new(token: Token, leases: Vec<Leases>) -> Self {
        Self { token, leases }
    }

    pub(super) fn into_leases(self) -> Vec<Leases> {
        self.leases
    }

    pub(super) fn leases(&mut self) -> &mut Vec<Leases> {
        &mut self.leases
    }

    /// How many requests, bodies and tokens handed out still use it.
    pub(super) fn users(&self) -> usize {
        users(&self.leases)
    }
}

pub(super) fn users(leases: &[Leases]) -> usize {
    leases.iter().map(Leases::strong_count).sum()
}
