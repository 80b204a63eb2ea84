//! One call, as an observer sees it.

use std::{fmt, sync::Arc, time::Duration};

use http::{Method, StatusCode};

pub(super) type Observer = Arc<dyn Fn(&Call) + Send + Sync>;

/// One call that was answered, or whose connection was closed.
///
/// It has no secret: no headers, no bodies, and the path without its query.
/// `Display` writes one line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// The request's method.
    pub method: Method,
    /// The request's path.
    pub path: String,
    /// The status, or `None` if the connection was closed without an answer.
    pub status: Option<StatusCode>,
    /// The user of the session or, at a login, the user that logged in.
    pub user: Option<String>,
    /// The duration on tokio's clock.
    pub elapsed: Duration,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.method, self.path)?;
        match self.status {
            Some(status) => write!(f, "{}", status.as_u16())?,
            None => f.write_str("closed")?,
        }
        write!(f, " {} ", self.user.as_deref().unwrap_or("-"))?;
        write!(f, "{:.1}ms", self.elapsed.as_secs_f64() * 1000.0)
    }
}
