//! The check of a login that is dropped half-way.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use super::call::{Failure, called, log_in, secrets_of};
use super::trial::{Trial, Tried, broken};
use crate::provider::{CredentialProvider, ProviderError, Reason};
use crate::testing::server::TestServer;

/// The limit for the awaits at which a login is dropped.
const MOST_AWAITS: usize = 64;

impl<P: CredentialProvider, T: TestServer> Trial<'_, P, T> {
    pub(super) async fn dropped_login(&mut self) -> Tried {
        const DROPPED: &str = "A login may be dropped at any await, by the login timeout or a \
            runtime that shuts down, and the next one must work as if it had not been.";
        let before = self.server.live_sessions().await;
        let mut dropped = 0;
        for awaits in 1..=MOST_AWAITS {
            let context = self.context(Reason::Initial);
            let secrets = secrets_of(&context);
            match dropped_at(awaits, self.provider.login(context)).await {
                Dropped::InTime => dropped += 1,
                Dropped::Panicked => {
                    let found = format!("it panicked when dropped at await {awaits}");
                    return Err(broken(found, DROPPED));
                }
                Dropped::TooLate(answer) => {
                    let answer = answer.map_err(|failure| failure.without(&secrets));
                    let token = answer.map_err(|failure| broken(failure, DROPPED))?;
                    self.discard(token).await;
                    break;
                }
            }
            let context = self.context(Reason::Initial);
            let next = log_in(self.provider, context).await;
            let next = next.map_err(|failure| {
                let found = format!("after a login that was dropped at await {awaits}, {failure}");
                broken(found, DROPPED)
            })?;
            if !self.server.accepts(&next).await {
                let found = format!(
                    "after a login that was dropped at await {awaits}, the next one yielded a \
                     token that the server does not accept"
                );
                return Err(broken(found, DROPPED));
            }
            self.discard(next).await;
        }
        let left = match (before, self.server.live_sessions().await) {
            (Some(before), Some(after)) => after.saturating_sub(before).to_string(),
            (None, _) | (_, None) => "an unknown number of".to_owned(),
        };
        Ok(Some(format!(
            "dropped at {dropped} awaits, which left {left} sessions on the server"
        )))
    }
}

/// The end of a call that was to be dropped.
enum Dropped<T> {
    InTime,
    Panicked,
    /// The call had ended before.
    TooLate(Result<T, Failure>),
}

/// Drops a call when it waits for the `awaits`th time.
async fn dropped_at<T>(
    awaits: usize,
    call: impl Future<Output = Result<T, ProviderError>> + Send,
) -> Dropped<T> {
    let mut call = Box::pin(call);
    let mut waited = 0;
    let answered = called(poll_fn(|cx| match call.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(answer.map(Some)),
        Poll::Pending => {
            waited += 1;
            match waited == awaits {
                true => Poll::Ready(Ok(None)),
                false => Poll::Pending,
            }
        }
    }))
    .await;
    match (answered, catch_unwind(AssertUnwindSafe(|| drop(call)))) {
        (Ok(None), Ok(())) => Dropped::InTime,
        (_, Err(_)) => Dropped::Panicked,
        (Ok(Some(answer)), Ok(())) => Dropped::TooLate(Ok(answer)),
        (Err(failure), Ok(())) => Dropped::TooLate(Err(failure)),
    }
}
