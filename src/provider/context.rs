//! The contexts that a provider is called with.

use std::fmt;
use std::future::Future;
use std::hash::Hasher;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use secrecy::{ExposeSecret, SecretString};
use siphasher::sip128::{Hasher128, SipHasher24};

use super::ProviderError;
use super::password::PasswordChange;
use crate::credentials::Credentials;
use crate::rejection::challenge::parameters;
use crate::token::Token;

/// Why a login is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// There is no token yet.
    Initial,
    /// The token is about to expire.
    Expiring,
    /// The token has expired.
    Expired,
    /// The server rejected the token.
    Rejected,
    /// An operator asked for it, with [`Session::login`](crate::Session::login) or
    /// [`Session::renew`](crate::Session::renew).
    Requested,
}

impl Reason {
    /// Returns the reason in `snake_case`, for logs and metric labels. It never
    /// changes.
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

/// Why a token is logged out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LogoutReason {
    /// A newer token has replaced it.
    Replaced,
    /// The session was logged out.
    LoggedOut,
    /// The session was closed, or its last handle was dropped.
    Closed,
}

impl LogoutReason {
    /// Returns the reason in `snake_case`, for logs and metric labels. It never
    /// changes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replaced => "replaced",
            Self::LoggedOut => "logged_out",
            Self::Closed => "closed",
        }
    }
}

/// The value of `WWW-Authenticate`.
#[derive(Clone, Debug)]
pub(crate) struct Challenge(pub(crate) String);

/// The context of a login. It is owned, so that it can move into any future.
#[derive(Clone, Debug)]
pub struct LoginContext {
    reason: Reason,
    is_forced: bool,
    credentials: Option<Credentials>,
    previous: Option<Token>,
    challenge: Option<Box<Challenge>>,
    /// Whether the provider has asked for the credentials.
    asked: Arc<AtomicBool>,
}

impl LoginContext {
    /// Creates a context, to call a provider without a session.
    #[must_use]
    pub fn new(reason: Reason) -> Self {
        Self {
            reason,
            is_forced: false,
            credentials: None,
            previous: None,
            challenge: None,
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

    /// Returns why the login is needed.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// Returns whether an operator called [`Session::login`](crate::Session::login):
    /// refused credentials may be sent again, and an interactive login may start.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.is_forced
    }

    /// Returns the credentials to send, chosen by the session.
    ///
    /// Call this only to send them. A login that succeeds without this call, for
    /// example with a refresh token, does not prove the password.
    ///
    /// # Errors
    ///
    /// [`ProviderErrorKind::Unsupported`](super::ProviderErrorKind::Unsupported) if
    /// the provider names no [`source`](super::CredentialProvider::source).
    pub fn credentials(&self) -> Result<&Credentials, ProviderError> {
        self.asked.store(true, Ordering::Relaxed);
        self.credentials
            .as_ref()
            .ok_or_else(ProviderError::no_source)
    }

    /// Returns a keyed hash of the credentials (SipHash-2-4, 128 bits), or `None`
    /// without credentials. It does not count as sending them.
    ///
    /// For a provider that must recognize credentials without keeping them, such as
    /// credentials that were refused to another process. Keep the key secret: anyone
    /// who has it can try passwords against the hash.
    #[must_use]
    pub fn fingerprint(&self, key: &[u8; 16]) -> Option<u128> {
        let credentials = self.credentials.as_ref()?;
        let mut hasher = SipHasher24::new_with_key(key);
        // The length separates the two: no two pairs give the same bytes.
        let length = credentials.username().len() as u64;
        hasher.write(&length.to_le_bytes());
        hasher.write(credentials.username().as_bytes());
        hasher.write(credentials.password().expose_secret().as_bytes());
        Some(hasher.finish128().as_u128())
    }

    /// Returns the user to log in as, or `None` without credentials. For logins
    /// without a password.
    #[must_use]
    pub fn username(&self) -> Option<&str> {
        self.credentials.as_ref().map(Credentials::username)
    }

    /// Returns the token of the newest login, for login systems that extend or exchange
    /// it. It may be dead, and requests may still use an older one.
    ///
    /// It is missing after an exchange whose answer was lost. It is also missing for the
    /// first login after a password change whose outcome is not known, and for a
    /// [`Session::renew`](crate::Session::renew) after a login whose password was not
    /// accepted, since only a login with a password shows which one the server takes.
    #[must_use]
    pub fn previous(&self) -> Option<&Token> {
        self.previous.as_ref()
    }

    /// Returns the challenge of the response that rejected the token, for login
    /// systems that ask for more than before: claims, or a step-up (RFC 9470).
    ///
    /// It is the value of `WWW-Authenticate` (RFC 9110, section 11.6.1). Several
    /// headers are joined with a comma.
    #[must_use]
    pub fn challenge(&self) -> Option<&str> {
        self.challenge
            .as_deref()
            .map(|challenge| challenge.0.as_str())
    }

    /// Returns the value of a parameter of the [challenge](LoginContext::challenge), such
    /// as `claims`, `acr_values` or `max_age` (RFC 9470, section 3). If several challenges
    /// have it, this is the first.
    ///
    /// ```
    /// use tower_reauth::{LoginContext, Reason};
    ///
    /// let cx = LoginContext::new(Reason::Rejected).with_challenge(
    ///     r#"Bearer error="insufficient_user_authentication", acr_values="mfa", max_age=300"#,
    /// );
    /// assert_eq!(cx.challenge_parameter("acr_values").as_deref(), Some("mfa"));
    /// assert_eq!(cx.challenge_parameter("claims"), None);
    /// ```
    #[must_use]
    pub fn challenge_parameter(&self, name: &str) -> Option<String> {
        let value = parameters(self.challenge()?.as_bytes(), name).next()?;
        // Its parts were a string before they were unquoted.
        String::from_utf8(value.into_owned()).ok()
    }

    /// Sets the challenge of the response that rejected the previous token.
    #[must_use]
    pub fn with_challenge(self, challenge: impl Into<String>) -> Self {
        self.challenged(Some(Box::new(Challenge(challenge.into()))))
    }

    pub(crate) fn forced(mut self, is_forced: bool) -> Self {
        self.is_forced = is_forced;
        self
    }

    pub(crate) fn challenged(mut self, challenge: Option<Box<Challenge>>) -> Self {
        self.challenge = challenge;
        self
    }

    /// Returns the context for one call of the provider, and whether that call has
    /// asked for the credentials.
    pub(crate) fn tracking_use(mut self) -> (Self, impl Fn() -> bool + Send + use<>) {
        let asked = Arc::new(AtomicBool::new(false));
        self.asked = asked.clone();
        (self, move || asked.load(Ordering::Relaxed))
    }
}

/// The context of a logout. It is owned, so that it can move into any future.
#[derive(Clone)]
pub struct LogoutContext {
    token: Token,
    reason: LogoutReason,
    credentials: Option<Arc<Fetch>>,
}

type Fetch = dyn Fn() -> Fetching + Send + Sync;
type Fetching = Pin<Box<dyn Future<Output = Result<Credentials, ProviderError>> + Send>>;

impl LogoutContext {
    /// Creates a context, to call a provider without a session.
    #[must_use]
    pub fn new(token: Token, reason: LogoutReason) -> Self {
        Self {
            token,
            reason,
            credentials: None,
        }
    }

    /// Sets the credentials that the logout may send.
    #[must_use]
    pub fn with_credentials(self, credentials: Credentials) -> Self {
        self.fetching(move || std::future::ready(Ok(credentials.clone())))
    }

    /// Returns the token to log out.
    #[must_use]
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// Returns why the token is logged out.
    #[must_use]
    pub fn reason(&self) -> LogoutReason {
        self.reason
    }

    /// Returns the current credentials, for a logout that sends them: the client
    /// credentials of a token revocation (RFC 7009, section 2.1), for example.
    ///
    /// # Errors
    ///
    /// The last refusal if the credentials were refused, the source's error if it
    /// yields none,
    /// [`ProviderErrorKind::Unavailable`](super::ProviderErrorKind::Unavailable) while
    /// it is not known which of two passwords the server takes, and
    /// [`ProviderErrorKind::Unsupported`](super::ProviderErrorKind::Unsupported) if
    /// the provider names no [`source`](super::CredentialProvider::source).
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing.
    pub async fn credentials(&self) -> Result<Credentials, ProviderError> {
        match &self.credentials {
            Some(fetch) => fetch().await,
            None => Err(ProviderError::no_source()),
        }
    }

    pub(crate) fn fetching<F, Fut>(mut self, fetch: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Credentials, ProviderError>> + Send + 'static,
    {
        self.credentials = Some(Arc::new(move || Box::pin(fetch())));
        self
    }
}

impl fmt::Debug for LogoutContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogoutContext")
            .field("token", &self.token)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

/// The context of a password change. It is owned, so that it can move into any
/// future.
#[derive(Clone)]
pub struct PasswordContext {
    token: Option<Token>,
    username: Option<String>,
    current: Option<SecretString>,
    new: SecretString,
}

impl PasswordContext {
    /// Creates a context, to call a provider without a session.
    #[must_use]
    pub fn new(new_password: impl Into<SecretString>) -> Self {
        Self {
            token: None,
            username: None,
            current: None,
            new: new_password.into(),
        }
    }

    /// Sets the token of the user's session.
    #[must_use]
    pub fn with_token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }

    /// Sets the user and the current password.
    #[must_use]
    pub fn with_credentials(mut self, credentials: &Credentials) -> Self {
        self.username = Some(credentials.username().to_owned());
        self.current = Some(credentials.password().clone());
        self
    }

    /// Returns the token of the user's session. `None` if the password is changed
    /// without a session.
    #[must_use]
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// Returns the user whose password is changed. `None` if the provider names no
    /// source of credentials.
    #[must_use]
    pub fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// Returns the current password. `None` if neither the session nor the caller has
    /// set it.
    #[must_use]
    pub fn current_password(&self) -> Option<&SecretString> {
        self.current.as_ref()
    }

    /// Returns the new password.
    #[must_use]
    pub fn new_password(&self) -> &SecretString {
        &self.new
    }

    pub(crate) fn with_current_password(mut self, current: SecretString) -> Self {
        self.current = Some(current);
        self
    }

    pub(crate) fn of(change: &PasswordChange) -> Self {
        Self {
            token: None,
            username: None,
            current: change.current_password().cloned(),
            new: change.new_password().clone(),
        }
    }
}

impl fmt::Debug for PasswordContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordContext")
            .field("token", &self.token)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_depends_on_the_key_and_on_both_credentials() {
        let of = |username: &str, password: &str, key: u8| {
            let credentials = Credentials::new(username, password);
            let context = LoginContext::new(Reason::Initial).with_credentials(credentials);
            let (context, has_asked) = context.tracking_use();
            let fingerprint = context.fingerprint(&[key; 16]);
            assert!(!has_asked(), "it counts as sending");
            fingerprint.unwrap()
        };
        let one = of("alice", "secret", 1);
        assert_eq!(one, of("alice", "secret", 1));
        for other in [
            of("alice", "secret", 2),
            of("alice", "secreT", 1),
            of("alic", "esecret", 1),
            of("alices", "ecret", 1),
        ] {
            assert_ne!(one, other);
        }
        let without = LoginContext::new(Reason::Initial);
        assert_eq!(without.fingerprint(&[1; 16]), None);
    }

    #[test]
    fn each_reason_has_a_label_of_its_own() {
        for (reason, label) in [
            (Reason::Initial, "initial"),
            (Reason::Expiring, "expiring"),
            (Reason::Expired, "expired"),
            (Reason::Rejected, "rejected"),
            (Reason::Requested, "requested"),
        ] {
            assert_eq!(reason.as_str(), label);
        }
        for (reason, label) in [
            (LogoutReason::Replaced, "replaced"),
            (LogoutReason::LoggedOut, "logged_out"),
            (LogoutReason::Closed, "closed"),
        ] {
            assert_eq!(reason.as_str(), label);
        }
    }
}
