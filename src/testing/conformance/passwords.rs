//! Checks of passwords and their changes.

use super::call::{Failure, called, log_in};
use super::trial::{Trial, Tried, broken, skipped, without_source};
use crate::credentials::Credentials;
use crate::provider::{
    CredentialProvider, LoginContext, PasswordContext, ProviderErrorKind, Reason,
};
use crate::testing::server::TestServer;
use crate::token::Token;

impl<P: CredentialProvider, T: TestServer> Trial<'_, P, T> {
    pub(super) async fn password_change(&mut self) -> Tried {
        const CHANGED: &str = "A password change that is `Ok` has made the new password the one \
            that works: the session sends no other from then on.";
        let Some(old) = self.credentials.clone() else {
            return Err(without_source());
        };
        let new = old.with_password(self.server.another_password(old.password()));
        let token = self.log_in().await?;
        match self.change(&token, &old, &new).await {
            Ok(_) => {}
            Err(failure) if failure.is(ProviderErrorKind::Unsupported) => {
                self.discard(token).await;
                return Err(skipped("the provider cannot change a password"));
            }
            Err(failure) if failure.is(ProviderErrorKind::Refused) => {
                self.discard(token).await;
                let why = format!("another password was not taken ({failure}): name a better one");
                return Err(skipped(why));
            }
            Err(failure) => return Err(broken(failure, CHANGED)),
        }
        self.discard(token).await;

        let with_old = log_in(self.provider, self.context(Reason::Initial)).await;
        // As what it failed is told by the check of a wrong password.
        if with_old.is_ok() {
            return Err(broken("the old password still works", CHANGED));
        }
        self.credentials = Some(new.clone());
        let token = self.log_in().await.map_err(|_| {
            let found = "the new password does not work, and the user may be left with it";
            broken(found, CHANGED)
        })?;
        let back = self.change(&token, &new, &old).await;
        self.discard(token).await;
        match back {
            Ok(_) => {
                self.credentials = Some(old);
                Ok(None)
            }
            Err(failure) if failure.is(ProviderErrorKind::Refused) => Ok(Some(
                "the server does not take the old password back: the user has the new one now"
                    .to_owned(),
            )),
            Err(failure) => {
                let found = format!("{failure}, when changed back: the user has the new one now");
                Err(broken(found, CHANGED))
            }
        }
    }

    pub(super) async fn dead_password_change(&mut self) -> Tried {
        const DEAD: &str = "A password change with a dead token is \
            `ProviderError::token_rejected`: the session renews the token and calls once more.";
        let Some(credentials) = self.credentials.clone() else {
            return Err(without_source());
        };
        let token = self.log_in().await?;
        if !self.server.revoke_all().await {
            self.discard(token.clone()).await;
        }
        if self.server.accepts(&token).await {
            return Err(skipped("the server cannot end a token"));
        }
        // To the same password, for servers that do not look at the token.
        match self.change(&token, &credentials, &credentials).await {
            Ok(_) => Ok(Some("the server does not ask for a live token".to_owned())),
            Err(failure) if failure.is(ProviderErrorKind::TokenRejected) => Ok(None),
            Err(failure) if failure.is(ProviderErrorKind::Unsupported) => {
                Err(skipped("the provider cannot change a password"))
            }
            Err(failure) => Err(broken(failure, DEAD)),
        }
    }

    pub(super) async fn wrong_password(&mut self) -> Tried {
        const REFUSED: &str = "A wrong password is `ProviderError::refused`: only then does the \
            session stop sending it, and any other kind is tried again until the account is locked.";
        const ONCE: &str = "A login sends the credentials once: when to try again is the \
            session's to say, and each attempt brings a lock closer.";
        let Some(credentials) = self.credentials.clone() else {
            return Err(without_source());
        };
        let before = self.server.failed_logins().await;
        let wrong = credentials.with_password("Not-the-password-1");
        let context = LoginContext::new(Reason::Initial).with_credentials(wrong);
        match log_in(self.provider, context).await {
            Ok(token) => {
                self.discard(token).await;
                return Err(broken("the login succeeded", REFUSED));
            }
            Err(failure) if failure.is(ProviderErrorKind::Refused) => {}
            Err(failure) => return Err(broken(failure, REFUSED)),
        }
        match (before, self.server.failed_logins().await) {
            (Some(before), Some(after)) if after > before + 1 => {
                let attempts = after - before;
                let found = format!("the server counted {attempts} attempts");
                Err(broken(found, ONCE))
            }
            (Some(_), Some(_)) => Ok(None),
            (None, _) | (_, None) => Ok(Some("the server counts no failed logins".to_owned())),
        }
    }

    async fn change(
        &self,
        token: &Token,
        from: &Credentials,
        to: &Credentials,
    ) -> Result<(), Failure> {
        let mut secrets = token.secrets();
        secrets.extend([from.password().clone(), to.password().clone()]);
        let context = PasswordContext::new(to.password().clone())
            .with_credentials(from)
            .with_token(token.clone());
        let changed = called(async { self.provider.change_password(context).await }).await;
        changed.map_err(|failure| failure.without(&secrets))
    }
}
