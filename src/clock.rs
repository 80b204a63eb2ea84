//! The wall clock beside the monotonic one.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

/// A difference between the two clocks that is not a jump: they drift apart by
/// this much in weeks.
pub(crate) const DRIFT_MS: u64 = 1000;

/// Returns the first reading of both clocks in this process.
pub(crate) fn start() -> (SystemTime, Instant) {
    static START: OnceLock<(SystemTime, Instant)> = OnceLock::new();
    *START.get_or_init(read)
}

/// Returns how many milliseconds the wall clock has gained on the monotonic one since
/// [`start`]. The monotonic clock stands still while the machine sleeps.
pub(crate) fn gained_ms() -> i64 {
    let (wall, monotonic) = start();
    let (now, at) = read();
    let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    match now.duration_since(wall + at.saturating_duration_since(monotonic)) {
        Ok(ahead) => ms(ahead),
        Err(behind) => -ms(behind.duration()),
    }
}

fn read() -> (SystemTime, Instant) {
    loop {
        let at = Instant::now();
        let now = SystemTime::now();
        // Otherwise this thread was interrupted in between.
        if at.elapsed().as_millis() < u128::from(DRIFT_MS) / 2 {
            return (now, at);
        }
    }
}
