//! Tells `tracing` what happens, where that feature is on.
//!
//! Nothing here is on the path of a request with a live token.

#[cfg(feature = "tracing")]
pub(super) use on::{event, replay, within_span};

#[cfg(not(feature = "tracing"))]
pub(super) use off::{event, replay, within_span};

#[cfg(feature = "tracing")]
mod on {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use pin_project_lite::pin_project;
    use tracing::{Span, debug, info, warn};

    use crate::error::ErrorChain;
    use crate::session::event::Event;
    use crate::session::lifecycle::Flight;

    /// Runs a flight in a span of its own, so that what the provider tells is
    /// seen to belong there.
    pub(in crate::session) fn within_span<F: Future>(
        name: Option<&str>,
        flight: Flight,
        task: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let span = tell(|| match flight {
            Flight::Login { reason, .. } => {
                tracing::debug_span!("login", session = name, ?reason)
            }
            Flight::Logout => tracing::debug_span!("logout", session = name),
            Flight::Retire { generation } => {
                tracing::debug_span!("retire", session = name, generation)
            }
            Flight::ChangePassword => tracing::debug_span!("change_password", session = name),
        });
        Within {
            task: Some(task),
            span,
        }
    }

    pin_project! {
        /// As `Instrumented`, which a panic of the subscriber's would end.
        struct Within<F> {
            // `None` once it was dropped.
            #[pin]
            task: Option<F>,
            span: Option<Span>,
        }

        impl<F> PinnedDrop for Within<F> {
            fn drop(this: Pin<&mut Self>) {
                let mut this = this.project();
                // What is dropped may tell something, too.
                within(this.span, || this.task.set(None));
                tell(|| *this.span = None);
            }
        }
    }

    impl<F: Future> Future for Within<F> {
        type Output = F::Output;

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
            let this = self.project();
            let task = this.task.as_pin_mut().expect("dropped only with it");
            within(this.span, || task.poll(cx))
        }
    }

    fn within<T>(span: &Option<Span>, run: impl FnOnce() -> T) -> T {
        let entered = tell(|| span.as_ref().map(Span::enter));
        let done = run();
        tell(|| drop(entered));
        done
    }

    /// Tells of an event. Failures that somebody should look at are warnings.
    pub(in crate::session) fn event(session: Option<&str>, event: &Event) {
        tell(|| match event {
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
                error = %ErrorChain(error),
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
                error = %ErrorChain(error),
                "password change failed"
            ),
            Event::LoggedOut => info!(session, "logged out"),
            Event::Closed => info!(session, "closed"),
            // Only receivers miss any.
            Event::Missed { .. } => {}
        });
    }

    /// Tells that a rejected request is sent once more.
    pub(in crate::session) fn replay(session: Option<&str>, generation: u64) {
        tell(|| debug!(session, generation, "replaying a rejected request"));
    }

    /// A subscriber is somebody else's code. Where it panics, what is told goes
    /// on: a flight is to start, and who waits for one to be woken.
    fn tell<T>(told: impl FnOnce() -> T) -> Option<T> {
        catch_unwind(AssertUnwindSafe(told)).ok()
    }
}

#[cfg(not(feature = "tracing"))]
mod off {
    use crate::session::event::Event;
    use crate::session::lifecycle::Flight;

    pub(in crate::session) fn within_span<F: Future>(_: Option<&str>, _: Flight, task: F) -> F {
        task
    }

    pub(in crate::session) fn event(_: Option<&str>, _: &Event) {}

    pub(in crate::session) fn replay(_: Option<&str>, _: u64) {}
}
