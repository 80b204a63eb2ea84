//! Configures a session.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Uri};
use tokio::sync::Mutex;

use super::Session;
use super::flight::Backend;
use super::lifecycle::Settings;
use super::shared::{Facts, Shared};
use super::wallet::Wallet;
use crate::provider::{CredentialProvider, ErasedProvider, Profile};
use crate::token::Token;

/// What [`SessionBuilder::login_deadline`] is without it being set.
const LOGIN_DEADLINE: Duration = Duration::from_secs(30);

/// A session that is being configured; made by [`Session::builder`].
///
/// ```
/// use std::time::Duration;
/// use tower_reauth::{FixedToken, Profile, Session};
///
/// let session = Session::builder(FixedToken::bearer(Profile::default(), "3f9a"))
///     .name("inventory")
///     .origin("https://api.example.com".parse()?)
///     .login_deadline(Duration::from_secs(5))
///     .build();
/// # Ok::<(), http::uri::InvalidUri>(())
/// ```
#[must_use]
pub struct SessionBuilder {
    provider: Box<dyn ErasedProvider>,
    profile: Profile,
    name: Option<String>,
    initial: Option<Token>,
    login_deadline: Duration,
    keep_alive: bool,
    kept: Vec<HeaderName>,
}

impl SessionBuilder {
    pub(super) fn new(provider: impl CredentialProvider) -> Self {
        Self {
            profile: provider.profile(),
            provider: Box::new(provider),
            name: None,
            initial: None,
            login_deadline: LOGIN_DEADLINE,
            keep_alive: false,
            kept: Vec::new(),
        }
    }

    /// Names the session, for its [`Status`](super::Status).
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sends the token to the origin of `uri` too, beside those of the
    /// provider's [`Profile`].
    pub fn origin(mut self, uri: Uri) -> Self {
        self.profile = self.profile.also_at(uri);
        self
    }

    /// Starts with a token that was obtained before, as generation 1. Its
    /// lifetime counts from now.
    pub fn initial(mut self, token: Token) -> Self {
        self.initial = Some(token);
        self
    }

    /// Sets how long one login may take, the reading of its credentials
    /// included, and likewise a logout and a password change. 30 s by default.
    ///
    /// When it passes, whoever waits gets
    /// [`ErrorKind::DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded) or,
    /// where the server was asked to change the password,
    /// [`ErrorKind::Uncertain`](crate::ErrorKind::Uncertain). The background
    /// logout of a replaced token has 5 s at most.
    pub fn login_deadline(mut self, deadline: Duration) -> Self {
        self.login_deadline = deadline;
        self
    }

    /// Renews the token ahead of its end although nobody uses it, and gets
    /// another one if it ends all the same.
    ///
    /// By default a token is renewed ahead of its end only if a request has
    /// carried it, so that an unused session is left alone. Nothing is obtained
    /// before somebody needs the first token, nor after a logout.
    pub fn keep_alive(mut self, keep_alive: bool) -> Self {
        self.keep_alive = keep_alive;
        self
    }

    /// Lets a request pass as it is that brings the header `name` itself.
    ///
    /// By default the token replaces what a request brings under the token's
    /// names. One that is kept goes without the token, as an
    /// [`Anonymous`](crate::Anonymous) one does, and its rejection is its
    /// caller's affair. May be said of several headers.
    ///
    /// ```
    /// # use tower_reauth::{FixedToken, Profile, Session};
    /// use http::header;
    ///
    /// # let provider = FixedToken::bearer(Profile::default(), "3f9a");
    /// let session = Session::builder(provider)
    ///     .keep_own(header::AUTHORIZATION)
    ///     .build();
    /// ```
    pub fn keep_own(mut self, name: HeaderName) -> Self {
        self.kept.push(name);
        self
    }

    /// Makes the session. Nothing is sent before a request, or somebody else,
    /// needs a token.
    #[must_use]
    pub fn build(self) -> Session {
        let settings = Settings {
            has_source: self.provider.source().is_some(),
            keep_alive: self.keep_alive,
            logout_ends: self.profile.logout_ends,
            rolls: self.profile.rolling.is_some(),
        };
        let backend = Backend {
            provider: self.provider,
            wallet: Mutex::new(Wallet::default()),
            login_deadline: self.login_deadline,
        };
        Session {
            shared: Arc::new(Shared::new(
                backend,
                Facts {
                    profile: self.profile,
                    name: self.name.map(String::into_boxed_str),
                    kept: self.kept.into_boxed_slice(),
                },
                self.initial,
                settings,
            )),
        }
        .started()
    }
}

impl std::fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionBuilder")
            .field("profile", &self.profile)
            .field("name", &self.name)
            .field("initial", &self.initial)
            .field("login_deadline", &self.login_deadline)
            .field("keep_alive", &self.keep_alive)
            .field("kept", &self.kept)
            .finish_non_exhaustive()
    }
}
