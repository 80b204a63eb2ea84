//! The wall clock, for records that several processes share.

use std::time::UNIX_EPOCH;

use super::account::WallTime;
use crate::clock::{DRIFT_MS, gained_ms, start};

/// Returns the wall-clock time.
///
/// It is derived from tokio's clock, so that tests can run on virtual time. If the
/// wall clock and the monotonic clock drift apart by more than a second, since the
/// machine was suspended or somebody has set the clock, it follows the wall clock.
pub(super) fn wall_time() -> WallTime {
    let (wall, monotonic) = start();
    let now = tokio::time::Instant::now().into_std();
    // Virtual time may start a moment before the first reading.
    let at =
        wall + now.saturating_duration_since(monotonic) - monotonic.saturating_duration_since(now);
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let gained = gained_ms();
    WallTime::from_millis(match gained.unsigned_abs() > DRIFT_MS {
        true => ms.saturating_add_signed(gained),
        false => ms,
    })
}
