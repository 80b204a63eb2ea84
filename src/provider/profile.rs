//! What is always true of a login system.

use http::Uri;

use crate::origin::Origins;
use crate::rejection::Rejection;
use crate::rolling::Rolling;

/// The static facts of a login system: where its tokens may go, and how a
/// server says that one is dead.
///
/// ```
/// use tower_reauth::{Profile, Rejection};
///
/// let profile = Profile::at("https://ctm.example.com:8443".parse()?)
///     .rejection(Rejection::status(401).or_body_contains(
///         500,
///         "Session token is invalid or expired",
///         4096,
///     ));
/// # Ok::<(), http::uri::InvalidUri>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Profile {
    pub(crate) origins: Origins,
    pub(crate) rejection: Rejection,
    pub(crate) logout_ends: LogoutEnds,
    pub(crate) rolling: Option<Rolling>,
}

/// Which tokens a successful logout ends on the server.
///
/// A replaced token is logged out on its own only where that cannot end the
/// token that replaced it, so the default is the careful one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LogoutEnds {
    /// Just the token that is logged out.
    Token,
    /// The server's session: the token, and all that continued it
    /// ([`Token::continues_previous`](crate::Token::continues_previous)).
    Session,
    /// Every token of the user. A replaced token is then left to its end.
    #[default]
    User,
}

impl Profile {
    /// A login system whose tokens go to the origin of `uri`: its scheme, host
    /// and port (RFC 6454, section 4). Path and query are ignored.
    ///
    /// A `uri` without scheme and host names no origin: each request then
    /// fails with [`ErrorKind::NoOrigin`](crate::ErrorKind::NoOrigin).
    pub fn at(uri: Uri) -> Self {
        Self::default().also_at(uri)
    }

    /// Sends the token to the origin of `uri` too.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "written with `\"..\".parse()?`"
    )]
    pub fn also_at(mut self, uri: Uri) -> Self {
        self.origins.add(&uri);
        self
    }

    /// Says that the wrapped service itself only ever talks to one server, so
    /// that any request, one with a relative URI too, may carry the token.
    ///
    /// For a connection's `SendRequest`, or a client with a base address of its
    /// own. A request with an absolute `http` URI of another machine still asks
    /// for [`Profile::allow_plain_http`].
    pub fn bound(mut self) -> Self {
        self.origins.bind();
        self
    }

    /// Lets the token go over plain `http` to a host other than this machine,
    /// where anybody on the way can read and use it.
    pub fn allow_plain_http(mut self) -> Self {
        self.origins.allow_plain_http();
        self
    }

    /// Sets how a response says that the token is dead. Without it, a status
    /// of 401 does.
    pub fn rejection(mut self, rejection: Rejection) -> Self {
        self.rejection = rejection;
        self
    }

    /// Says which tokens a logout ends, so that replaced ones can be logged out.
    ///
    /// Without it, a replaced token stays on the server until it ends there by
    /// itself.
    pub fn logout_ends(mut self, ends: LogoutEnds) -> Self {
        self.logout_ends = ends;
        self
    }

    /// Says how a response may carry the next value of the token, as sliding
    /// session cookies do. Without it, none does.
    pub fn rolling(mut self, rolling: Rolling) -> Self {
        self.rolling = Some(rolling);
        self
    }
}
