//! Wall-clock time, as records of different processes share it.

use std::time::Duration;

/// The longest time that a claim or a delay between two logins lasts.
///
/// A record whose times lie further ahead was written by a clock that was
/// wrong. Such a time is treated as over, so that it cannot stop an account for
/// years.
pub(super) const LONGEST: Duration = Duration::from_secs(3600);

/// A wall-clock time in milliseconds since the Unix epoch.
///
/// Wall-clock, because other processes read it, and the next start of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct WallTime(u64);

impl WallTime {
    /// Creates a time from milliseconds since the Unix epoch.
    pub(crate) const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Returns the time `duration` later, or the end of time.
    pub(crate) fn plus(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// Returns the time from `earlier` until `self`, or zero.
    pub(crate) fn since(self, earlier: WallTime) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Returns whether a claim that ends at `self` still stands.
    pub(super) fn is_ahead(self, now: WallTime) -> bool {
        // Another process may have a clock that is ahead of this one.
        now < self && self <= now.plus(LONGEST * 2)
    }

    /// Returns when `delay` after `self` is over, if it is not over yet.
    pub(super) fn due(self, delay: Duration, now: WallTime) -> Option<WallTime> {
        let due = self.plus(delay);
        (self <= now.plus(LONGEST) && now < due).then_some(due)
    }
}
