//! The types that the driver passes to the rules and gets back.

use super::lifespan::Lifetimes;
use super::time::Timestamp;
use crate::error::Error;
use crate::provider::{LogoutEnds, Reason};
use crate::reauth::ReauthFailure;

/// The settings of a session, fixed when it is created.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RulesSettings {
    /// Whether the credentials come from a source, which may yield others later.
    pub(crate) has_source: bool,
    /// Whether the token is refreshed even if no request uses it.
    pub(crate) keep_alive: bool,
    pub(crate) logout_ends: LogoutEnds,
    /// Whether responses may carry the token's next value.
    pub(crate) rolls: bool,
    /// Whether a request may be replayed that carried the candidate.
    pub(crate) tries_candidates: bool,
    /// Whether a login ends the earlier sessions of the user.
    pub(crate) single_session: bool,
}

/// A job. A session runs one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobKind {
    Login { reason: Reason, kind: LoginKind },
    Logout,
    ChangePassword,
}

/// Work for the driver to launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Launch {
    Job(JobKind),
    /// The logout of one replaced token. It runs beside the jobs, one at a time.
    BackgroundLogout {
        generation: u64,
    },
}

/// Which credentials a login may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoginKind {
    /// Credentials that were not refused.
    Usual,
    /// Refused credentials too, once, because an operator called `login()`.
    Forced,
}

/// The answer to a request that has no token.
#[derive(Debug)]
pub(crate) enum Acquire {
    /// Use the published token.
    Use,
    /// Wait for the running job, then ask again.
    Wait,
    Fail(Error),
}

/// The answer to a request whose token was rejected.
#[derive(Debug)]
pub(crate) enum OnRejection {
    /// Replay the request with the token in use.
    Replay,
    /// Wait for the running job, then ask again.
    Wait,
    /// Return the rejected response.
    Return(ReauthFailure),
}

/// The answer to an operation that needs a job of its own.
#[derive(Debug)]
pub(crate) enum JobStart {
    /// The job was started.
    Started,
    /// The running job does the same: its result is the operation's result.
    Join,
    /// Another job is running: wait for it and ask again.
    Busy,
    /// The operation needs a token: get one and ask again.
    NeedsToken,
    Fail(Error),
}

/// The token of a successful login, as far as the rules are concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewToken {
    pub(crate) lifetimes: Lifetimes,
    /// The time just before the login request was sent.
    pub(crate) sent: Timestamp,
    /// Whether it is the current token once more, or the newest one if none is current.
    pub(crate) same: bool,
    /// Whether it continues the server's session of the newest token.
    pub(crate) continues: bool,
}

/// What to do with the token of a successful login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoginOutcome {
    Publish {
        generation: u64,
    },
    /// Keep it unpublished until a request has proven it: the current token is good.
    Keep {
        generation: u64,
    },
    /// Log it out: the session was logged out in the meantime.
    End {
        generation: u64,
    },
    /// Keep the current token: the login yielded it once more.
    Unchanged {
        generation: u64,
    },
}

/// How requests may use the published token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Signal {
    /// Any request may use it, and reports nothing.
    Live = 0,
    /// Any request may use it, and reports its outcome: until the token is proven, for
    /// ten seconds after a rejection, for its idle lifetime, after a refusal, or for the
    /// token's next value.
    /// The driver also answers this while the session's timer is lost.
    Reported = 1,
    /// The same, and a request that can be replayed may carry the candidate instead.
    Offered = 2,
    /// Only requests that were admitted before `close()` may use it.
    Closing = 3,
    /// No new request may use it while the login that may replace it runs.
    Suspended = 4,
    /// No request may use it any more.
    Ended = 5,
}

/// The state of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// There is no token, and nothing is wrong: the next request that needs one
    /// starts a login.
    Idle,
    /// There is no token yet; a login is running.
    LoggingIn,
    /// There is a token, and requests use it.
    Live,
    /// The token was rejected, and requests wait for the next one.
    Renewing,
    /// There is no token, and the last login failed: the next one waits.
    BackingOff,
    /// There is no token, and the credentials were refused.
    Refused,
    /// The session was logged out.
    LoggedOut,
    /// The session was closed.
    Closed,
}
