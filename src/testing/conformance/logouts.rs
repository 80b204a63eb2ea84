//! Checks of logouts.

use super::call::log_out;
use super::trial::{LOGOUT, Trial, Tried, broken, skipped};
use crate::provider::{CredentialProvider, LogoutEnds, ProviderErrorKind};
use crate::testing::server::TestServer;

impl<P: CredentialProvider, T: TestServer> Trial<'_, P, T> {
    pub(super) async fn logout(&mut self) -> Tried {
        let before = self.server.live_sessions().await;
        let token = self.log_in().await?;
        self.log_out(&token).await?;
        if self.server.accepts(&token).await {
            return Err(broken("the server still accepts the token", LOGOUT));
        }
        match (before, self.server.live_sessions().await) {
            (Some(before), Some(after)) if after > before => {
                Err(broken("the server still holds the session", LOGOUT))
            }
            (Some(_), Some(_)) => Ok(None),
            (None, _) | (_, None) => Ok(Some("the server counts no sessions".to_owned())),
        }
    }

    pub(super) async fn dead_logout(&mut self) -> Tried {
        const DEAD: &str = "The logout of a dead token is `Ok` or `ProviderError::token_rejected`: \
            the session takes both for success, and all else for a token that is left on the server.";
        let token = self.log_in().await?;
        self.log_out(&token).await?;
        match log_out(self.provider, token).await {
            Ok(()) => Ok(None),
            Err(failure) if failure.is(ProviderErrorKind::TokenRejected) => Ok(None),
            Err(failure) => Err(broken(failure, DEAD)),
        }
    }

    pub(super) async fn logout_ends(&mut self) -> Tried {
        const ENDS: &str = "`Profile::logout_ends` names all that a logout ends: a replaced token \
            is logged out while its successor is in use, and must not take it along.";
        let old = self.log_in().await?;
        let new = self.log_in().await?;
        if new.sends_the_same_as(&old) {
            self.discard(new).await;
            return Err(skipped("a second login yields the same token"));
        }
        if !self.server.accepts(&old).await {
            self.discard(new).await;
            return self.login_ends_earlier_sessions();
        }
        self.log_out(&old).await?;
        let lives = self.server.accepts(&new).await;
        self.discard(new).await;
        match (self.logout_ends, lives) {
            (LogoutEnds::Nothing | LogoutEnds::Token, true) | (LogoutEnds::User, false) => Ok(None),
            (LogoutEnds::Nothing | LogoutEnds::Token, false) => Err(broken(
                "the logout of one login's token ended that of another",
                ENDS,
            )),
            (LogoutEnds::User, true) => Ok(Some(
                "a logout ends less than the profile declares: with `LogoutEnds::Token`, \
                 replaced tokens would be logged out"
                    .to_owned(),
            )),
        }
    }

    /// No violation: without the profile's word, a session sends a request now and then
    /// with a token that a refresh ahead of time has ended.
    fn login_ends_earlier_sessions(&self) -> Tried {
        const FOUND: &str = "a login ends the earlier sessions of the user";
        match self.single_session {
            true => Err(skipped(format!("{FOUND}, as the profile says"))),
            false => Ok(Some(format!(
                "{FOUND}: declare it with `Profile::single_session`, so that no request is \
                 sent with a token that a refresh ahead of time has ended"
            ))),
        }
    }
}
