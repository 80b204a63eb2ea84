//! A provider, its server, and the steps that the checks share.

use std::fmt;

use super::call::{log_in, log_out};
use crate::credentials::{CredentialSource, Credentials};
use crate::error::ErrorChain;
use crate::provider::{CredentialProvider, LoginContext, LogoutEnds, ProviderErrorKind, Reason};
use crate::rejection::Rejection;
use crate::testing::report::Outcome;
use crate::testing::server::TestServer;
use crate::token::Token;

/// A provider that is tried against a server.
pub(super) struct Trial<'a, P, T> {
    pub(super) provider: &'a P,
    pub(super) server: &'a T,
    pub(super) rejection: Rejection,
    pub(super) logout_ends: LogoutEnds,
    pub(super) single_session: bool,
    pub(super) credentials: Option<Credentials>,
}

/// The note of a check that was kept, or why the check goes no further.
pub(super) type Tried = Result<Option<String>, Stop>;

/// Why a check goes no further.
pub(super) enum Stop {
    Skipped(String),
    Broken {
        found: String,
        contract: &'static str,
    },
}

const ACCEPTED: &str = "A login yields a token that the server accepts: the session attaches it \
    to every request, and takes a token that is rejected at once for one that cannot be helped.";
pub(super) const LOGOUT: &str = "A logout that is `Ok` has ended the token on the server: the \
    session tells its user so, and forgets the token.";

impl<'a, P: CredentialProvider, T: TestServer> Trial<'a, P, T> {
    pub(super) async fn of(provider: &'a P, server: &'a T) -> Result<Self, Stop> {
        let profile = provider.profile();
        Ok(Self {
            provider,
            server,
            rejection: profile.rejection,
            logout_ends: profile.logout_ends,
            single_session: profile.single_session,
            credentials: credentials_of(provider).await?,
        })
    }

    pub(super) fn context(&self, reason: Reason) -> LoginContext {
        context(reason, self.credentials.as_ref())
    }

    /// Returns a token that the server accepts.
    pub(super) async fn log_in(&self) -> Result<Token, Stop> {
        let login = log_in(self.provider, self.context(Reason::Initial)).await;
        let token = login.map_err(|failure| broken(failure, ACCEPTED))?;
        match self.server.accepts(&token).await {
            true => Ok(token),
            false => {
                let found = "it returned a token that the server does not accept";
                Err(broken(found, ACCEPTED))
            }
        }
    }

    pub(super) async fn log_out(&self, token: &Token) -> Result<(), Stop> {
        if self.logout_ends == LogoutEnds::Nothing {
            self.discard(token.clone()).await;
            return Err(skipped("a logout ends nothing, as the profile says"));
        }
        match log_out(self.provider, token.clone()).await {
            Ok(()) => Ok(()),
            Err(failure) if failure.is(ProviderErrorKind::Unsupported) => {
                Err(skipped("the provider has no logout"))
            }
            Err(failure) => Err(broken(failure, LOGOUT)),
        }
    }

    /// Logs out a token that is not needed any more. Another check tests the logout.
    pub(super) async fn discard(&self, token: Token) {
        let _ = log_out(self.provider, token).await;
    }

    /// Logs out a token that was replaced, if a session would.
    pub(super) async fn retire(&self, token: Token) {
        match self.logout_ends {
            LogoutEnds::Token => self.discard(token).await,
            LogoutEnds::Nothing | LogoutEnds::User => {}
        }
    }

    pub(super) async fn revoke(&self, token: &Token) -> Result<(), Stop> {
        if !self.server.revoke_all().await {
            self.discard(token.clone()).await;
            return Err(skipped("the server cannot end all sessions"));
        }
        match self.server.accepts(token).await {
            false => Ok(()),
            true => Err(skipped("the server accepts a token that it has revoked")),
        }
    }
}

pub(super) async fn credentials_of(
    provider: &impl CredentialProvider,
) -> Result<Option<Credentials>, Stop> {
    const SOURCE: &str = "A login sends what the source yields: without it there is none.";
    let Some(source) = provider.source() else {
        return Ok(None);
    };
    match source.fetch().await {
        Ok(credentials) => Ok(Some(credentials)),
        Err(error) => {
            let found = format!(
                "the source of the credentials failed: {}",
                ErrorChain(&error)
            );
            Err(broken(found, SOURCE))
        }
    }
}

pub(super) fn context(reason: Reason, credentials: Option<&Credentials>) -> LoginContext {
    let context = LoginContext::new(reason);
    match credentials {
        Some(credentials) => context.with_credentials(credentials.clone()),
        None => context,
    }
}

pub(super) fn broken(found: impl fmt::Display, contract: &'static str) -> Stop {
    Stop::Broken {
        found: found.to_string(),
        contract,
    }
}

pub(super) fn skipped(why: impl Into<String>) -> Stop {
    Stop::Skipped(why.into())
}

pub(super) fn without_source() -> Stop {
    skipped("the provider names no source of credentials")
}

pub(super) fn outcome(tried: Tried) -> Outcome {
    match tried {
        Ok(note) => Outcome::Kept { note },
        Err(stop) => stop.into(),
    }
}

impl From<Stop> for Outcome {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Skipped(why) => Outcome::Skipped { why },
            Stop::Broken { found, contract } => Outcome::Broken { found, contract },
        }
    }
}
