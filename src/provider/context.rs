//! What a provider is told when it is called.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use secrecy::SecretString;

use super::ProviderError;
use crate::credentials::Credentials;
use crate::token::Token;

/// Why a login is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// There is no token yet.
    Initial,
    /// The token is about to end.
    Expiring,
    /// The token's lifetime is over.
    Expired,
    /// The server rejected the token.
    Rejected,
    /// Somebody asked for it, with [`Session::login`](crate::Session::login)
    /// or [`Session::renew`](crate::Session::renew).
    Requested,
}

impl Reason {
    /// The reason in `snake_case`, for logs and the labels of metrics. It never changes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Expiring => "expiring",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
            Self::Requested => "requested",
        }
    }
}

/// What a login is to be made with. Owned, so that it can move into any future.
#[derive(Clone, Debug)]
pub struct LoginContext {
    reason: Reason,
    credentials: Option<Credentials>,
    previous: Option<Token>,
    /// Whether anybody has asked for the credentials.
    asked: Arc<AtomicBool>,
}

impl LoginContext {
    /// A context as a session would make it, for calling a provider by hand.
    #[must_use]
    pub fn new(reason: Reason) -> Self {
        Self {
            reason,
            credentials: None,
            previous: None,
            asked: Arc::default(),
        }
    }

    /// Sets the credentials to log in with.
    #[must_use]
    pub fn with_credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// Sets the token that this login replaces.
    #[must_use]
    pub fn with_previous(mut self, previous: Token) -> Self {
        self.previous = Some(previous);
        self
    }

    /// Why the login is needed.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The credentials to send, chosen by the session.
    ///
    /// Ask for them only to send them: a login that succeeds without having
    /// asked, as one by a refresh token, says nothing of the password.
    ///
    /// # Errors
    ///
    /// [`ProviderErrorKind::Unsupported`](super::ProviderErrorKind::Unsupported)
    /// if the provider names no
    /// [`source`](super::CredentialProvider::source).
    pub fn credentials(&self) -> Result<&Credentials, ProviderError> {
        self.asked.store(true, Ordering::Relaxed);
        self.credentials.as_ref().ok_or_else(|| {
            ProviderError::unsupported(
                "the provider names no source of credentials: implement `CredentialProvider::source`",
            )
        })
    }

    /// The user to log in as, where the session knows that. For logins that
    /// need no password.
    #[must_use]
    pub fn username(&self) -> Option<&str> {
        self.credentials.as_ref().map(Credentials::username)
    }

    /// The token that this login replaces, for login systems that extend or
    /// exchange it. It may be dead.
    ///
    /// It is not offered after an exchange whose answer was lost, nor while
    /// nobody knows which of two passwords the server takes, since only a login
    /// with one can tell.
    #[must_use]
    pub fn previous(&self) -> Option<&Token> {
        self.previous.as_ref()
    }

    /// The same for one call of the provider, and whether that has asked for
    /// the credentials.
    pub(crate) fn watched(mut self) -> (Self, impl Fn() -> bool + Send + use<>) {
        let asked = Arc::new(AtomicBool::new(false));
        self.asked = asked.clone();
        (self, move || asked.load(Ordering::Relaxed))
    }
}

/// A password to change, and what the server may want to know with it.
#[derive(Clone)]
pub struct PasswordChange {
    new: SecretString,
    current: Option<SecretString>,
    username: Option<String>,
    storing: Storing,
}

/// What becomes of a new password that the source cannot keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storing {
    Required,
    InMemoryIfReadOnly,
}

impl PasswordChange {
    /// Changes the password to `new`.
    ///
    /// The current one is what the session logs in with.
    pub fn to(new: impl Into<SecretString>) -> Self {
        Self {
            new: new.into(),
            current: None,
            username: None,
            storing: Storing::Required,
        }
    }

    /// Says what the current password is, where the session does not know.
    #[must_use]
    pub fn from(mut self, current: impl Into<SecretString>) -> Self {
        self.current = Some(current.into());
        self
    }

    /// Allows the change although the source of the credentials cannot be
    /// written.
    ///
    /// The session uses the new password for as long as it lives. Whoever
    /// fills the source must put the new password there; until then the next
    /// session logs in with the old one.
    #[must_use]
    pub fn even_if_it_cannot_be_stored(mut self) -> Self {
        self.storing = Storing::InMemoryIfReadOnly;
        self
    }

    /// The password to be used from now on.
    #[must_use]
    pub fn new_password(&self) -> &SecretString {
        &self.new
    }

    /// The password in use, where the session or the caller knows it.
    #[must_use]
    pub fn current_password(&self) -> Option<&SecretString> {
        self.current.as_ref()
    }

    /// The user whose password it is, where the session knows it.
    #[must_use]
    pub fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    pub(crate) fn storing(&self) -> Storing {
        self.storing
    }

    /// Fills in what the session knows and the caller did not say.
    pub(crate) fn of(mut self, credentials: &Credentials) -> Self {
        self.username = Some(credentials.username().to_owned());
        self.current
            .get_or_insert_with(|| credentials.password().clone());
        self
    }
}

impl fmt::Debug for PasswordChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordChange")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// A password change that the server has made.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PasswordChanged {}

impl PasswordChanged {
    /// The password is changed. The token stays in use: if the change ended
    /// it, the server's rejection tells.
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reasons_label_is_its_own_and_never_changes() {
        for (reason, label) in [
            (Reason::Initial, "initial"),
            (Reason::Expiring, "expiring"),
            (Reason::Expired, "expired"),
            (Reason::Rejected, "rejected"),
            (Reason::Requested, "requested"),
        ] {
            assert_eq!(reason.as_str(), label);
        }
    }
}
