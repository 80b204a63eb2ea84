//! Time as the rules see it.

use std::time::Duration;

/// The time since the session was created.
///
/// The rules read no clock: each event brings the time as an argument.
pub(crate) type Timestamp = Duration;

/// How long a token is used that had already expired when it arrived, and the
/// shortest interval between two refreshes ahead of time.
pub(super) const BRIEFLY: Duration = Duration::from_secs(1);
