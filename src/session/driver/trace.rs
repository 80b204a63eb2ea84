//! Reports the events of a session to `tracing`, if the feature of that name is on.
//!
//! Nothing here is on the path of a request with a live token.

#[cfg(feature = "tracing")]
pub(super) use on::{event, in_span, not_stored, replay, unreadable};

#[cfg(not(feature = "tracing"))]
pub(super) use off::{event, in_span, not_stored, replay, unreadable};

#[cfg(feature = "tracing")]
mod on {
    use http::{HeaderValue, StatusCode};
    use tracing::{Instrument, Span, debug, debug_span, info, warn};

    use crate::error::Error;
    use crate::session::driver::foreign::contained;
    use crate::session::rules::{Event, JobKind, Launch};

    /// Runs a task in a span of its own. The provider's own events are in it too.
    pub(crate) fn in_span<F: Future>(
        session: Option<&str>,
        launch: Launch,
        task: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let span = contained(|| match launch {
            Launch::Job(JobKind::Login { reason, .. }) => debug_span!("login", session, ?reason),
            Launch::Job(JobKind::Logout) => debug_span!("logout", session),
            Launch::Job(JobKind::ChangePassword) => debug_span!("change_password", session),
            Launch::BackgroundLogout { generation } => debug_span!("retire", session, generation),
        });
        task.instrument(span.unwrap_or_else(Span::none))
    }

    /// Reports an event. Failures that an operator should look at are warnings.
    pub(crate) fn event(session: Option<&str>, event: &Event) {
        contained(|| match event {
            Event::LoginStarted { reason } => debug!(session, ?reason, "login started"),
            Event::LoggedIn {
                reason,
                generation,
                elapsed,
            } => info!(session, ?reason, generation, ?elapsed, "logged in"),
            Event::LoginFailed {
                reason,
                error,
                elapsed,
            } => warn!(
                session,
                ?reason,
                ?elapsed,
                retry_after = error.retry_after().map(tracing::field::debug),
                %error,
                "login failed"
            ),
            Event::TokenRejected { generation } => {
                info!(session, generation, "the server rejected the token");
            }
            Event::TokenEnded { generation, end } => {
                debug!(session, generation, ?end, "token ended");
            }
            Event::PasswordChanged { elapsed } => info!(session, ?elapsed, "password changed"),
            Event::PasswordChangeFailed { error, elapsed } => warn!(
                session,
                ?elapsed,
                %error,
                "password change failed"
            ),
            Event::LoggedOut => info!(session, "logged out"),
            Event::Closed => info!(session, "closed"),
            // Only receivers miss events.
            Event::Missed { .. } => {}
        });
    }

    /// Reports that a rejected request is replayed.
    pub(crate) fn replay(session: Option<&str>, generation: u64) {
        contained(|| debug!(session, generation, "replaying a rejected request"));
    }

    /// Reports that a compressed body cannot be searched for the text of a rejection.
    pub(crate) fn unreadable(session: Option<&str>, status: StatusCode, encoding: &HeaderValue) {
        contained(|| {
            warn!(
                session,
                status = status.as_u16(),
                ?encoding,
                "a compressed body cannot be searched for the text of a rejection, so a dead \
                 token may stay in use: put the decompression layer inside the session layer, \
                 or send no `Accept-Encoding` (logged once)"
            );
        });
    }

    /// Reports that the outcome of a login or of a password change could not be stored.
    pub(crate) fn not_stored(error: &Error) {
        contained(|| {
            warn!(
                %error,
                "the credential store failed: the outcome is kept in memory until it works again"
            );
        });
    }
}

#[cfg(not(feature = "tracing"))]
mod off {
    use http::{HeaderValue, StatusCode};

    use crate::error::Error;
    use crate::session::rules::{Event, Launch};

    pub(crate) fn in_span<F: Future>(_: Option<&str>, _: Launch, task: F) -> F {
        task
    }

    pub(crate) fn event(_: Option<&str>, _: &Event) {}

    pub(crate) fn replay(_: Option<&str>, _: u64) {}

    pub(crate) fn unreadable(_: Option<&str>, _: StatusCode, _: &HeaderValue) {}

    pub(crate) fn not_stored(_: &Error) {}
}
