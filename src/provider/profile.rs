//! The static facts of a login system.

use std::time::Duration;

use crate::origin::{Origin, Origins};
use crate::rejection::Rejection;
use crate::rolling::Rolling;

/// The static facts of a login system: where its tokens may go, and which
/// responses reject them.
///
/// ```
/// use http::StatusCode;
/// use tower_reauth::{Profile, Rejection};
///
/// let profile = Profile::at("https://ctm.example.com:8443".parse()?)
///     .rejection(Rejection::status(StatusCode::UNAUTHORIZED).or_body_contains(
///         StatusCode::INTERNAL_SERVER_ERROR,
///         "Session token is invalid or expired",
///         4096,
///     ));
/// # Ok::<(), tower_reauth::InvalidOrigin>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Profile {
    pub(crate) origins: Origins,
    pub(crate) rejection: Rejection,
    pub(crate) logout_ends: LogoutEnds,
    pub(crate) rolling: Option<Rolling>,
    pub(crate) login_timeout: Option<Duration>,
    pub(crate) realm: Option<Box<str>>,
    pub(crate) single_session: bool,
}

/// Which tokens a successful logout ends on the server.
///
/// A replaced token is logged out by itself only if that cannot end its successor,
/// so the default is the careful one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LogoutEnds {
    /// Nothing: the login system has no logout, or its tokens are stateless. The
    /// provider's `logout` is not called.
    Nothing,
    /// The token that is logged out, and all that continued it
    /// ([`Token::continues_previous`](crate::Token::continues_previous)).
    Token,
    /// Every token of the user. A replaced token is then left to expire.
    #[default]
    User,
}

impl Profile {
    /// Creates the profile of a login system whose tokens go to `origin`.
    pub fn at(origin: Origin) -> Self {
        Self::default().also_at(origin)
    }

    /// Adds an origin that the token may go to.
    pub fn also_at(mut self, origin: Origin) -> Self {
        self.origins.add(origin);
        self
    }

    /// Declares that the wrapped service only ever talks to one server. Every
    /// request may then use the token, also one with a relative URI.
    ///
    /// For a connection's `SendRequest`, or a client with a base address of its
    /// own. A request with an absolute `http` URI of another machine still needs
    /// [`Profile::allow_plain_http`].
    pub fn bound(mut self) -> Self {
        self.origins.bind();
        self
    }

    /// Allows the token to go over plain `http` to another machine. Anyone on the
    /// network path can then read and use it.
    ///
    /// This machine is `localhost`, 127.0.0.0/8 and `::1`. A name such as
    /// `api.localhost` is not: a resolver may ask the network for it.
    pub fn allow_plain_http(mut self) -> Self {
        self.origins.allow_plain_http();
        self
    }

    /// Sets which responses reject the token. The default is status 401.
    pub fn rejection(mut self, rejection: Rejection) -> Self {
        self.rejection = rejection;
        self
    }

    /// Sets which tokens a logout ends. The default is
    /// [`LogoutEnds::User`]: a replaced token stays on the server until it expires.
    pub fn logout_ends(mut self, ends: LogoutEnds) -> Self {
        self.logout_ends = ends;
        self
    }

    /// Sets how a response may carry the next value of the token, as sliding session
    /// cookies do. By default no response does.
    pub fn rolling(mut self, rolling: Rolling) -> Self {
        self.rolling = Some(rolling);
        self
    }

    /// Declares that a login ends the earlier sessions of the user.
    ///
    /// A token that is refreshed ahead of its expiry is otherwise published only once a
    /// request has shown that the API accepts it: it may come to know a token later than
    /// the login system that issued it. Until then, requests use the earlier token, which
    /// such a login has ended. `testing::conformance` finds out whether it does.
    pub fn single_session(mut self) -> Self {
        self.single_session = true;
        self
    }

    /// Names the login system that the credentials belong to. The default is the
    /// first origin.
    ///
    /// Sessions that share a [`Source`](crate::Source) share what is known of its
    /// credentials if their login system is the same. Set it for two APIs of different
    /// origins with one login system: a password that one session found to be wrong is
    /// then not sent by the other.
    pub fn realm(mut self, realm: impl Into<String>) -> Self {
        self.realm = Some(realm.into().into_boxed_str());
        self
    }

    /// Sets the timeout of a login, for login systems that need more than 30 s: a
    /// device grant takes minutes.
    /// [`SessionBuilder::login_timeout`](crate::SessionBuilder::login_timeout)
    /// overrides it.
    pub fn login_timeout(mut self, timeout: Duration) -> Self {
        self.login_timeout = Some(timeout);
        self
    }
}
