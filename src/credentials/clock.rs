//! The wall clock, for records that several processes share.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::account::WallTime;

/// A difference between the two clocks that is not a jump: they drift apart by
/// this much in weeks.
const DRIFT: Duration = Duration::from_secs(1);

/// Returns the wall-clock time.
///
/// It is derived from tokio's clock, so that tests can run on virtual time. If the
/// wall clock and the monotonic clock drift apart by more than a second, since the
/// machine was suspended or somebody has set the clock, it follows the wall clock.
pub(super) fn wall_time() -> WallTime {
    static START: OnceLock<(SystemTime, Instant)> = OnceLock::new();
    let (wall, monotonic) = *START.get_or_init(|| (SystemTime::now(), Instant::now()));
    let passed = tokio::time::Instant::now().into_std();
    // Virtual time may start a moment before this.
    let at = wall + passed.saturating_duration_since(monotonic);
    let expected = wall + monotonic.elapsed();
    let at = match SystemTime::now().duration_since(expected) {
        Ok(ahead) if ahead > DRIFT => at + ahead,
        Err(behind) if behind.duration() > DRIFT => {
            at.checked_sub(behind.duration()).unwrap_or(UNIX_EPOCH)
        }
        Ok(_) | Err(_) => at,
    };
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
