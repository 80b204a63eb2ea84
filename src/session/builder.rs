//! Configures a session.

use std::fmt;
use std::time::Duration;

use http::HeaderName;

use super::Session;
use super::driver::{Config, Driver, Runner};
use super::rules::RulesSettings;
use crate::credentials::source::Realm;
use crate::origin::Origin;
use crate::provider::{CredentialProvider, ErasedProvider, Profile};
use crate::token::Token;

/// The default of [`SessionBuilder::login_timeout`].
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Configures a session; returned by [`Session::builder`].
///
/// ```
/// use std::time::Duration;
/// use tower_reauth::{FixedToken, Profile, Session};
///
/// let session = Session::builder(FixedToken::bearer(Profile::default(), "3f9a"))
///     .name("inventory")
///     .origin("https://api.example.com".parse()?)
///     .login_timeout(Duration::from_secs(5))
///     .build();
/// # Ok::<(), tower_reauth::InvalidOrigin>(())
/// ```
#[must_use]
pub struct SessionBuilder {
    provider: Box<dyn ErasedProvider>,
    profile: Profile,
    name: Option<String>,
    initial_token: Option<Token>,
    login_timeout: Option<Duration>,
    keep_alive: bool,
    skip_if_present: Vec<HeaderName>,
    refresh_before: Option<Duration>,
    retry_refused_after: Option<Duration>,
    password_retention: Option<Duration>,
}

impl Session {
    /// Creates a session that logs in through `provider` when the first request
    /// needs a token.
    pub fn new(provider: impl CredentialProvider) -> Self {
        Self::builder(provider).build()
    }

    /// Returns a builder to configure a session.
    pub fn builder(provider: impl CredentialProvider) -> SessionBuilder {
        SessionBuilder {
            profile: provider.profile(),
            provider: Box::new(provider),
            name: None,
            initial_token: None,
            login_timeout: None,
            keep_alive: false,
            skip_if_present: Vec::new(),
            refresh_before: None,
            retry_refused_after: None,
            password_retention: None,
        }
    }
}

impl SessionBuilder {
    /// Sets the session's name, for its [`Status`](crate::Status) and for `tracing`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Adds an origin that the token may go to, beside those of the provider's
    /// [`Profile`].
    pub fn origin(mut self, origin: Origin) -> Self {
        self.profile = self.profile.also_at(origin);
        self
    }

    /// Sets a token that was obtained before. It becomes generation 1, and its
    /// lifetime counts from now.
    pub fn initial_token(mut self, token: Token) -> Self {
        self.initial_token = Some(token);
        self
    }

    /// Sets the timeout of a login. It also applies to a logout, to a password change,
    /// and to each call of the credential source.
    ///
    /// It must be at least as long as the server works on a login: a login that is
    /// given up may still be executed. With a credential source it is at most one
    /// hour. The time that a login waits for another one of the same account does not
    /// count.
    ///
    /// The default is the provider's ([`Profile::login_timeout`]), or 30 s.
    /// After it, waiting callers get
    /// [`ErrorKind::DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded), or
    /// [`ErrorKind::Uncertain`](crate::ErrorKind::Uncertain) if the server was
    /// asked to change the password.
    pub fn login_timeout(mut self, timeout: Duration) -> Self {
        self.login_timeout = Some(timeout);
        self
    }

    /// Refreshes the token ahead of its expiry even if it is not used, and logs in
    /// again if it expires nevertheless.
    ///
    /// By default a token is refreshed ahead of its expiry only if a request has
    /// used it, so an unused session sends nothing. The first login still
    /// waits for the first use, also after a logout.
    pub fn keep_alive(mut self) -> Self {
        self.keep_alive = true;
        self
    }

    /// Sets how long before its end a token is refreshed, at most half its lifetime.
    ///
    /// The default is a fifth of the lifetime, at most 5 min, minus up to a quarter of
    /// jitter. A time that the server names ([`Token::refresh_in`]) comes first.
    pub fn refresh_before(mut self, ahead: Duration) -> Self {
        self.refresh_before = Some(ahead);
        self
    }

    /// Sends refused credentials once more after `delay`, then after twice that delay,
    /// and so on up to 24 h (or `delay`, if it is longer). By default they are not sent
    /// again until the source yields others, the password is changed, or
    /// [`Session::login`] is called.
    ///
    /// For login systems that refuse a right password while they have a fault. Of
    /// several passwords, the one that was refused longest ago is sent, one at a time.
    ///
    /// Each retry with a wrong password is a failed login. Choose `delay` against the
    /// server's lock:
    ///
    /// - If it locks an account after some failed logins *within a time*, set `delay` to
    ///   more than that time. Two retries then never count together.
    /// - If it counts failed logins until one succeeds, leave this off: with a limit of
    ///   N failures the account is locked after N - 2 retries, which is about
    ///   2^(N - 2) times `delay`.
    pub fn retry_refused_after(mut self, delay: Duration) -> Self {
        self.retry_refused_after = Some(delay);
        self
    }

    /// Sets how late the server may still execute a password change, 24 h by default.
    ///
    /// A password that was replaced is kept for so long, since a request that was
    /// delayed may bring it back into force. Up to three are kept: more changes within
    /// that time fail before the server is asked.
    pub fn password_retention(mut self, retention: Duration) -> Self {
        self.password_retention = Some(retention);
        self
    }

    /// Passes a request unchanged if it has the header `name`. May be called for
    /// several headers.
    ///
    /// By default the token replaces a request's own headers of the same names. A
    /// skipped request is sent without the token, like an
    /// [`Anonymous`](crate::Anonymous) request, and its caller handles a rejection.
    ///
    /// ```
    /// # use tower_reauth::{FixedToken, Profile, Session};
    /// # let provider = FixedToken::bearer(Profile::default(), "3f9a");
    /// let session = Session::builder(provider)
    ///     .skip_if_present("authorization")
    ///     .build();
    /// ```
    ///
    /// # Panics
    ///
    /// If `name` is not a header name.
    pub fn skip_if_present<N>(mut self, name: N) -> Self
    where
        N: TryInto<HeaderName>,
        N::Error: Into<http::Error>,
    {
        self.skip_if_present.push(crate::header::expect_name(name));
        self
    }

    /// Creates the session. Nothing is sent until a token is needed.
    #[must_use]
    pub fn build(self) -> Session {
        let settings = RulesSettings {
            has_source: self.provider.source().is_some(),
            // Trailers arrive when the caller has the response already.
            tries_candidates: !self.profile.rejection.reads_trailers(),
            keep_alive: self.keep_alive,
            logout_ends: self.profile.logout_ends,
            rolls: self.profile.rolling.is_some(),
            single_session: self.profile.single_session,
        };
        let login_timeout = self.login_timeout.or(self.profile.login_timeout);
        let login_timeout = login_timeout.unwrap_or(LOGIN_TIMEOUT);
        let origin = || self.profile.origins.first().map(ToString::to_string);
        let realm = match (settings.has_source, self.profile.realm.as_deref()) {
            (false, _) => None,
            (true, Some(name)) => Some(name.into()),
            (true, None) => origin().map(Into::into),
        };
        let runner = Runner {
            provider: self.provider,
            login_timeout,
            logout_ends: settings.logout_ends,
            realm: Realm(realm),
            password_retention: self.password_retention,
            retry_refused_after: self.retry_refused_after,
        };
        let config = Config {
            origins: self.profile.origins,
            accepts_success: self.profile.rejection.accepts_success(),
            rejection: self.profile.rejection,
            rolling: self.profile.rolling,
            refresh_before: self.refresh_before,
            name: self.name.map(String::into_boxed_str),
            skip_if_present: self.skip_if_present.into_boxed_slice(),
        };
        Session {
            driver: Driver::new(runner, config, self.initial_token, settings),
        }
    }
}

impl fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBuilder")
            .field("profile", &self.profile)
            .field("name", &self.name)
            .field("initial_token", &self.initial_token)
            .field("login_timeout", &self.login_timeout)
            .field("keep_alive", &self.keep_alive)
            .field("skip_if_present", &self.skip_if_present)
            .field("refresh_before", &self.refresh_before)
            .field("retry_refused_after", &self.retry_refused_after)
            .field("password_retention", &self.password_retention)
            .finish_non_exhaustive()
    }
}
