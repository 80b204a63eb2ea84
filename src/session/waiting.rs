//! What a request does that waits for a flight: for its first token, or for a
//! newer one than the one that was rejected.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::flight::{Landed, Wait};
use super::{Lease, Session, Waiting};
use crate::error::{Error, ErrorKind};
use crate::origin::Target;
use crate::rejection::Why;

/// Gets a usable token.
#[derive(Debug)]
pub(crate) struct Acquiring {
    wait: Option<Wait>,
    /// Since the first wait.
    waiting: Option<Waiting>,
}

impl Acquiring {
    pub(crate) fn new() -> Self {
        Self {
            wait: None,
            waiting: None,
        }
    }

    pub(crate) fn poll(
        &mut self,
        session: &Session,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Lease, Error>> {
        loop {
            if let Some(wait) = &mut self.wait {
                let landed = ready!(Future::poll(Pin::new(wait), cx));
                self.wait = None;
                let usable = session.usable();
                match (landed, usable) {
                    // Without a look at the clock: whoever waited for a token
                    // uses it, however short its lifetime.
                    (_, Some(live)) => return Poll::Ready(Ok(live)),
                    // The error is shared, like the login that it is from.
                    (Some(Landed::Failed(error)), None) => return Poll::Ready(Err(error)),
                    (
                        Some(
                            Landed::Renewed
                            | Landed::Unchanged
                            | Landed::LoggedOut(_)
                            | Landed::Retired
                            | Landed::Changed(_),
                        )
                        | None,
                        None,
                    ) => {}
                }
            }
            self.wait = session.acquire()?;
            if self.wait.is_some() {
                self.waiting.get_or_insert_with(|| session.starts_waiting());
            } else {
                if let Some(live) = session.usable() {
                    return Poll::Ready(Ok(live));
                }
            }
        }
    }
}

/// Waits for a newer token than the one that was rejected.
#[derive(Debug)]
pub(crate) struct Renewing {
    generation: u64,
    target: Option<Target>,
    wait: Option<Wait>,
    /// Since the first wait.
    waiting: Option<Waiting>,
}

impl Renewing {
    pub(super) fn new(generation: u64, target: Option<Target>, wait: Option<Wait>) -> Self {
        Self {
            generation,
            target,
            wait,
            waiting: None,
        }
    }

    /// `Ok` once there is a newer token; otherwise why there will be none.
    pub(crate) fn poll(
        &mut self,
        session: &Session,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Why>> {
        while let Some(wait) = &mut self.wait {
            self.waiting.get_or_insert_with(|| session.starts_waiting());
            let landed = ready!(Future::poll(Pin::new(wait), cx));
            match landed {
                // The renewal that failed was of a newer token, which is in
                // use again.
                Some(Landed::Failed(_) | Landed::Unchanged) if self.is_late(session) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Landed::Failed(error)) => return Poll::Ready(Err(why_failed(error))),
                Some(Landed::Unchanged) => return Poll::Ready(Err(Why::StillRejected)),
                // Asks again: the newer token may be rejected already, and a
                // flight of another kind brought none.
                Some(
                    Landed::Renewed | Landed::LoggedOut(_) | Landed::Retired | Landed::Changed(_),
                )
                | None => {
                    self.wait = session.still_rejected(self.generation, self.target)?;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the token in use is newer than the one that was rejected.
    fn is_late(&self, session: &Session) -> bool {
        session
            .usable()
            .is_some_and(|live| live.token().generation() > self.generation)
    }
}

/// Why a rejection is returned after its renewal failed with `error`.
pub(crate) fn why_failed(error: Error) -> Why {
    if error.kind() == ErrorKind::LoggedOut {
        return Why::LoggedOut;
    }
    Why::RenewalFailed(error)
}
