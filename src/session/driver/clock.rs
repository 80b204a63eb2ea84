//! The time of a session.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::{DRIFT_MS, gained_ms};
use crate::session::rules::Timestamp;

/// Measures the time since the session was created, including the time for which
/// the machine slept.
///
/// Time never goes back, so no lifetime becomes longer. A wall clock that somebody
/// sets ahead looks like a sleep: tokens that would have expired by then are not
/// used, and replaced ones are not logged out.
pub(super) struct Clock {
    created: Instant,
    // Not `loom`'s: no token is published by them.
    /// How far the wall clock had run ahead of the monotonic one after its last jump.
    gained_ms: AtomicI64,
    slept_ms: AtomicU64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            created: Instant::now(),
            gained_ms: AtomicI64::new(gained_ms()),
            slept_ms: AtomicU64::new(0),
        }
    }

    /// Returns the time.
    pub(super) fn now(&self) -> Timestamp {
        self.created.elapsed() + self.slept()
    }

    /// Returns how long the machine slept since the session was created.
    pub(super) fn slept(&self) -> Duration {
        let before = self.gained_ms.load(Ordering::Acquire);
        let gained = gained_ms();
        let jump = gained.saturating_sub(before);
        if jump.unsigned_abs() > DRIFT_MS {
            let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
            let counted = self
                .gained_ms
                .compare_exchange(before, gained, success, failure);
            // Otherwise another thread has counted it.
            if counted.is_ok() {
                let ahead = u64::try_from(jump).unwrap_or(0);
                self.slept_ms.fetch_add(ahead, Ordering::AcqRel);
            }
        }
        Duration::from_millis(self.slept_ms.load(Ordering::Acquire))
    }

    /// Returns the time of `instant`, before which the machine slept for `slept`.
    pub(super) fn timestamp(&self, instant: Instant, slept: Duration) -> Timestamp {
        instant.saturating_duration_since(self.created) + slept
    }

    /// Returns when the time will be `at`, or `None` if the clock cannot represent
    /// it.
    pub(super) fn instant(&self, at: Timestamp) -> Option<Instant> {
        self.created.checked_add(at.saturating_sub(self.slept()))
    }
}

#[cfg(all(test, not(reauth_loom)))]
mod tests {
    use super::*;
    use crate::{LoginContext, Profile, ProviderError, Session, Token, provider_fn};

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    impl Clock {
        fn sleep(&self, time: Duration) {
            let ms = i64::try_from(time.as_millis()).unwrap();
            self.gained_ms.fetch_sub(ms, Ordering::Relaxed);
        }

        fn set_back(&self, time: Duration) {
            let ms = i64::try_from(time.as_millis()).unwrap();
            self.gained_ms.fetch_add(ms, Ordering::Relaxed);
        }
    }

    /// Asserts that the time is about `time`: the clocks are read one after the other.
    #[track_caller]
    fn assert_time(clock: &Clock, time: Duration) {
        let now = clock.now();
        assert!(now.abs_diff(time) < MINUTE / 6, "{now:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_includes_the_sleep_of_the_machine() {
        let clock = Clock::new();
        assert_eq!(clock.now(), Duration::ZERO);
        clock.sleep(HOUR);
        assert_time(&clock, HOUR);
        tokio::time::advance(MINUTE).await;
        assert_time(&clock, HOUR + MINUTE);
        clock.sleep(MINUTE);
        assert_time(&clock, HOUR + MINUTE * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_that_drifts_counts_for_nothing() {
        let clock = Clock::new();
        clock.sleep(Duration::from_millis(500));
        assert_eq!(clock.now(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_that_is_set_back_takes_nothing_from_the_time() {
        let clock = Clock::new();
        clock.set_back(HOUR);
        assert_eq!(clock.now(), Duration::ZERO);
        clock.sleep(MINUTE);
        assert_time(&clock, MINUTE);
        clock.set_back(HOUR);
        assert_time(&clock, MINUTE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_instant_comes_earlier_by_the_time_slept_before() {
        let clock = Clock::new();
        clock.sleep(MINUTE);
        let now = clock.now();
        let instant = clock.instant(HOUR).unwrap();
        assert_eq!(instant - Instant::now(), HOUR - now);
        assert_eq!(clock.timestamp(instant, clock.slept()), HOUR);
        assert_eq!(clock.instant(Duration::ZERO), Some(clock.created));
        assert_eq!(clock.instant(Duration::MAX), None);
    }

    /// Its tokens are used for an hour.
    fn session() -> Session {
        let issued = AtomicU64::new(0);
        Session::new(provider_fn(Profile::default(), move |_: LoginContext| {
            let number = issued.fetch_add(1, Ordering::Relaxed);
            async move { Ok::<_, ProviderError>(Token::bearer(number.to_string())?.lives_for(HOUR)) }
        }))
    }

    async fn generation(session: &Session) -> u64 {
        session.token().await.unwrap().generation()
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_expired_during_a_sleep_is_not_used() {
        let session = session();
        assert_eq!(generation(&session).await, 1);
        session.driver.clock.sleep(HOUR + MINUTE);
        assert_eq!(session.status().expires_in, Some(Duration::ZERO));
        assert_eq!(generation(&session).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refresh_comes_earlier_by_a_sleep_that_a_use_has_noticed() {
        let session = session();
        assert_eq!(generation(&session).await, 1);
        session.driver.clock.sleep(MINUTE * 50);
        assert_eq!(generation(&session).await, 1);
        tokio::time::sleep(MINUTE * 7).await;
        assert_eq!(session.status().generation, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_notices_a_sleep_when_it_goes_off() {
        let session = session();
        assert_eq!(generation(&session).await, 1);
        session.driver.clock.sleep(MINUTE * 30);
        tokio::time::sleep(MINUTE * 57).await;
        assert_eq!(session.status().generation, None, "expired, not refreshed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_during_a_login_shortens_the_lifetime() {
        let session = Session::new(provider_fn(Profile::default(), |_: LoginContext| async {
            tokio::time::sleep(MINUTE / 6).await;
            Ok::<_, ProviderError>(Token::bearer("3f9a")?.lives_for(HOUR))
        }));
        let login = tokio::spawn({
            let session = session.clone();
            async move { generation(&session).await }
        });
        tokio::time::sleep(MINUTE / 12).await;
        session.driver.clock.sleep(MINUTE);
        assert_eq!(login.await.unwrap(), 1);
        let left = session.status().expires_in.unwrap();
        assert!(left < HOUR - MINUTE, "{left:?}");
    }
}
