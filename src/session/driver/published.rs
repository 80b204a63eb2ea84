//! The published token, and the requests, bodies and holders that use it.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::config::Config;
use crate::loom::{self, AtomicU8, AtomicU64, AtomicUsize, Notify, Ordering};
use crate::rejection::Rejection;
use crate::session::rules::Signal;
use crate::token::Token;

/// A use of the published token. It delays the token's logout until it drops.
pub(crate) type Lease = loom::Arc<Published>;

/// A weak reference to one publication, to count its leases.
pub(super) type WeakLeases = loom::Weak<Published>;

/// A token that a session has published, and how requests may use it.
pub(crate) struct Published {
    token: Token,
    signal: AtomicU8,
    /// Whether its end wakes nobody.
    is_quiet: bool,
    shared: Arc<Shared>,
}

/// The part of a session that its tokens in use keep alive.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) usage: Usage,
    /// Of the driver's type, which this file is not to know.
    driver: Weak<dyn Any + Send + Sync>,
}

impl Shared {
    pub(super) fn new(config: Config, driver: Weak<dyn Any + Send + Sync>) -> Self {
        Self {
            config,
            usage: Usage::default(),
            driver,
        }
    }
}

impl Published {
    pub(super) fn new(token: Token, signal: Signal, shared: Arc<Shared>) -> Self {
        Self {
            token,
            signal: AtomicU8::new(signal as u8),
            is_quiet: false,
            shared,
        }
    }

    /// Returns the clauses that classify the responses of the token's requests.
    #[inline]
    pub(crate) fn rejection(&self) -> &Rejection {
        &self.shared.config.rejection
    }

    /// Returns whether any response of this status is accepted.
    #[inline]
    pub(crate) fn accepts_status(&self, status: StatusCode) -> bool {
        let config = &self.shared.config;
        config.accepts_success && status.is_success() || config.rejection.accepts_status(status)
    }

    pub(super) fn driver(&self) -> &Weak<dyn Any + Send + Sync> {
        &self.shared.driver
    }

    /// Returns whether requests may use the token without reporting their outcome.
    #[inline]
    pub(crate) fn is_live(&self) -> bool {
        self.signal() == Signal::Live as u8
    }

    /// Returns whether a request may carry the candidate instead.
    pub(crate) fn is_offered(&self) -> bool {
        self.signal() == Signal::Offered as u8
    }

    /// Returns whether an admitted request may use the token.
    pub(crate) fn is_usable(&self) -> bool {
        self.signal() <= Signal::Closing as u8
    }

    #[inline]
    fn signal(&self) -> u8 {
        // A request that reads an older value counts as sent before the change.
        self.signal.load(Ordering::Acquire)
    }

    pub(super) fn set(&self, signal: Signal) {
        self.signal.store(signal as u8, Ordering::Release);
    }

    /// Sends requests to the slow path, if they may use the token without it.
    pub(super) fn set_reported(&self) {
        let (live, reported) = (Signal::Live as u8, Signal::Reported as u8);
        let order = (Ordering::AcqRel, Ordering::Acquire);
        let _ = self
            .signal
            .compare_exchange(live, reported, order.0, order.1);
    }

    /// Ends one use without a notification. Returns whether it was the last one.
    pub(super) fn release(lease: Lease) -> bool {
        let last = Lease::into_inner(lease);
        let is_last = last.is_some();
        if let Some(mut published) = last {
            published.is_quiet = true;
        }
        is_last
    }

    pub(crate) fn token(&self) -> &Token {
        &self.token
    }

    /// Returns the token for a caller of the crate. It counts as used until it drops.
    pub(crate) fn hand_out(lease: Lease) -> Token {
        let token = lease.token.clone();
        let lease = loom::std_arc(lease);
        token.leased(lease)
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        if !self.is_quiet {
            self.shared.usage.changed.notify_waiters();
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.usage.fmt(f)
    }
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.token.fmt(f)
    }
}

/// The requests that wait for a token, and a notification of every change in
/// the use of tokens.
#[derive(Debug, Default)]
pub(super) struct Usage {
    admitted: AtomicUsize,
    waited: AtomicU64,
    nanoseconds_waited: AtomicU64,
    /// Notified when the last use of a publication ends, when a request stops
    /// waiting, and when a task has ended.
    pub(super) changed: Notify,
}

impl Usage {
    /// Returns how many admitted requests hold no token yet.
    pub(super) fn admitted(&self) -> usize {
        self.admitted.load(Ordering::Acquire)
    }

    /// Returns how many requests have waited for a job, and for how long in all.
    pub(super) fn waits(&self) -> (u64, Duration) {
        let time = self.nanoseconds_waited.load(Ordering::Relaxed);
        (
            self.waited.load(Ordering::Relaxed),
            Duration::from_nanos(time),
        )
    }
}

/// Measures how long a request waits for a job; counted when it drops.
#[derive(Debug)]
pub(crate) struct WaitTimer {
    shared: Arc<Shared>,
    since: Instant,
}

impl WaitTimer {
    pub(super) fn start(shared: &Arc<Shared>) -> Self {
        Self {
            shared: shared.clone(),
            since: Instant::now(),
        }
    }
}

impl Drop for WaitTimer {
    fn drop(&mut self) {
        let time = self.since.elapsed().as_nanos();
        let time = u64::try_from(time).unwrap_or(u64::MAX);
        let usage = &self.shared.usage;
        usage.waited.fetch_add(1, Ordering::Relaxed);
        usage.nanoseconds_waited.fetch_add(time, Ordering::Relaxed);
    }
}

/// Counts an admitted request that holds no token yet, until it drops.
#[derive(Debug)]
pub(crate) struct Admission(Arc<Shared>);

impl Admission {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        shared.usage.admitted.fetch_add(1, Ordering::AcqRel);
        Self(shared.clone())
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let usage = &self.0.usage;
        usage.admitted.fetch_sub(1, Ordering::AcqRel);
        usage.changed.notify_waiters();
    }
}

/// A token that is no longer published, and that the rules still refer to.
pub(super) struct Retired {
    pub(super) token: Token,
    pub(super) leases: Vec<WeakLeases>,
}

impl Retired {
    /// Returns how many requests, bodies and holders still use it.
    pub(super) fn users(&self) -> usize {
        users(&self.leases)
    }
}

/// Returns how many requests, bodies and holders use these publications.
pub(super) fn users(leases: &[WeakLeases]) -> usize {
    leases.iter().map(WeakLeases::strong_count).sum()
}
