//! Calls to the endpoints of a login system, for providers.

mod answer;
mod call;
#[cfg(feature = "json")]
mod expiry;
#[cfg(feature = "json")]
mod fields;
mod form;
mod meaning;
pub(crate) mod transport;

use std::fmt;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};
use http_body_util::Full;

pub use answer::Answer;
pub use call::Call;
#[cfg(feature = "json")]
pub use expiry::Expiry;
#[cfg(feature = "controlm")]
pub(crate) use meaning::{failed_call, failed_change, failed_login, may_succeed_later, not_soon};

use super::{Profile, ProviderError};
use crate::header::expect_name;
use crate::origin::{Destination, InvalidOrigin, Origin, Origins};
use crate::secret;

/// The endpoints of a login system, called through any client.
///
/// What most providers need of HTTP: it builds a request whose secrets are
/// wiped, sends it, reads the answer up to a bound, and turns a status into the
/// [`ProviderError`] that it means, `Retry-After` included. It takes any tower
/// client whose request body can be made of [`Bytes`], so that one client
/// serves both provider and user. A call goes to the origin of the base
/// address and nowhere else, and over plain `http` only to this machine, or
/// where that is allowed.
///
/// How a call is finished says what its statuses mean:
///
/// | status | [`login`](Call::login) | [`logout`](Call::logout) | [`change`](Call::change) | [`exchange`](Call::exchange) | [`read`](Call::read) |
/// |---|---|---|---|---|---|
/// | 2xx | done | done | done | done | done |
/// | 3xx | done | done | `Uncertain` | `Uncertain` | `Protocol` |
/// | 401 | `Refused` | `TokenRejected` | `TokenRejected` | `None` | `TokenRejected` |
/// | 403 | `Refused` | `Protocol` | `Refused` | `None` | `Protocol` |
/// | 404, 410 | `Protocol` | `TokenRejected` | `Protocol` | `Protocol` | `Protocol` |
/// | 425, 429 | `Unavailable` | `Unavailable` | `Unavailable` | `Unavailable` | `Unavailable` |
/// | 400 | `Protocol` | `Protocol` | `Refused` | `None` | `Protocol` |
/// | 409, 422 | `Protocol` | `Protocol` | `Refused` | `Protocol` | `Protocol` |
/// | [`denied_by`](Call::denied_by) | `Refused` | `TokenRejected` | `TokenRejected` | `None` | `TokenRejected` |
/// | [`refused_by`](Call::refused_by) | `Refused` | `Refused` | `Refused` | `Refused` | `Refused` |
/// | 408, 5xx | `Unavailable` | `Unavailable` | `Uncertain` | `Uncertain` | `Unavailable` |
/// | [`busy_by`](Call::busy_by) | `Unavailable` | `Unavailable` | `Unavailable` | `Unavailable` | `Unavailable` |
/// | no answer | `Unavailable` | `Unavailable` | `Uncertain` | `Uncertain` | `Unavailable` |
/// | not sent | `NotSent` | `NotSent` | `NotSent` | `NotSent` | `NotSent` |
/// | other | `Protocol` | `Protocol` | `Protocol` | `Protocol` | `Protocol` |
///
/// Where a server denies a login by a 2xx, name its text with
/// [`denied_by`](Call::denied_by). Where more is to be looked at, finish with
/// [`send`](Call::send), look at the [`Answer`], and leave the others to
/// [`Answer::of_login`] and its like.
///
/// Of the answer, an error quotes its status and content type, and the `error` of its
/// JSON, and nothing else. A login whose status is one of the others, or whose answer
/// lacks what is [read](Answer::cookie) from it, is not tried again within a minute, since
/// the server may have counted a failed one; a `Retry-After` with such a status has the
/// last word. A change or an exchange whose answer lacks it is `Uncertain`.
///
/// # Examples
///
/// A whole provider:
///
/// ```
/// use std::collections::BTreeMap;
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower_reauth::provider::Api;
/// use tower_reauth::{
///     CredentialProvider, Credentials, ExposeSecret, LoginContext, LogoutContext, LogoutEnds,
///     Profile, ProviderError, Source, Token,
/// };
/// # use hyper_util::client::legacy::{Client, connect::HttpConnector};
/// # type Http = Client<HttpConnector, Full<Bytes>>;
///
/// struct Redfish {
///     api: Api<Http>,
///     source: Source,
/// }
///
/// impl CredentialProvider for Redfish {
///     fn profile(&self) -> Profile {
///         self.api.profile().logout_ends(LogoutEnds::Token)
///     }
///
///     fn source(&self) -> Option<&Source> {
///         Some(&self.source)
///     }
///
///     async fn login(&self, cx: LoginContext) -> Result<Token, ProviderError> {
///         let user = cx.credentials()?;
///         let body = BTreeMap::from([
///             ("UserName", user.username()),
///             ("Password", user.password().expose_secret()),
///         ]);
///         let sessions = self.api.post("/redfish/v1/SessionService/Sessions");
///         let answer = sessions.json(&body).login().await?;
///         let token = Token::header("x-auth-token", answer.header("x-auth-token")?)?;
///         // Without an address the token works, and cannot be logged out.
///         Ok(match answer.header("location") {
///             Ok(address) => token.with_data(address),
///             Err(_) => token,
///         })
///     }
///
///     async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
///         let Some(address) = cx.token().data() else {
///             return Err(ProviderError::unsupported("the login named no address of the session"));
///         };
///         let session = self.api.delete(address.expose_secret());
///         session.token(cx.token()).logout().await?;
///         Ok(())
///     }
/// }
/// ```
pub struct Api<S, B = Full<Bytes>> {
    http: S,
    base: Uri,
    origin: Origin,
    origins: Origins,
    headers: HeaderMap,
    body: fn(Bytes) -> B,
}

impl<S, B: From<Bytes>> Api<S, B> {
    /// Calls the endpoints at and below `base` through `http`.
    ///
    /// # Errors
    ///
    /// [`InvalidOrigin`] if no call can be sent there: `base` is an absolute `http` or
    /// `https` URI without user and query.
    pub fn new(http: S, base: Uri) -> Result<Self, InvalidOrigin> {
        Self::with_body(http, base, B::from)
    }
}

impl<S, B> Api<S, B> {
    /// As [`Api::new`], for a client whose request body is made by `body`.
    ///
    /// # Errors
    ///
    /// As [`Api::new`].
    pub fn with_body(http: S, base: Uri, body: fn(Bytes) -> B) -> Result<Self, InvalidOrigin> {
        let origin = Origin::of_base(&base)?;
        let mut origins = Origins::default();
        origins.add(origin.clone());
        Ok(Self {
            http,
            base,
            origin,
            origins,
            headers: HeaderMap::new(),
            body,
        })
    }

    /// Lets calls, and so passwords and tokens, go over plain `http` to another
    /// machine, where anybody on the way can read and use them. Its
    /// [`profile`](Api::profile) allows it too.
    #[must_use]
    pub fn allow_plain_http(mut self) -> Self {
        self.origins.allow_plain_http();
        self
    }

    /// Adds a header to each call, such as a tenant or an API key. A second value for
    /// the same name replaces the first. The value is marked as sensitive.
    ///
    /// # Panics
    ///
    /// If `name` is not a header name.
    #[must_use]
    pub fn extra_header<N>(self, name: N, mut value: HeaderValue) -> Self
    where
        N: TryInto<HeaderName>,
        N::Error: Into<http::Error>,
    {
        value.set_sensitive(true);
        self.default_header(expect_name(name), value)
    }

    /// Sets a header of each call. An extra header of that name replaces it.
    pub(crate) fn default_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The headers of each call: default and extra headers.
    #[cfg(feature = "controlm")]
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Where calls go: `Insecure` fails each of them.
    #[cfg(feature = "controlm")]
    pub(crate) fn destination(&self) -> Destination {
        self.origins.locate(&self.base)
    }

    /// A profile whose tokens go to the origin of the base address.
    pub fn profile(&self) -> Profile {
        let profile = Profile::at(self.origin.clone());
        match self.origins.allows_plain_http() {
            true => profile.allow_plain_http(),
            false => profile,
        }
    }

    /// The address that calls are relative to.
    #[must_use]
    pub fn base(&self) -> &Uri {
        &self.base
    }
}

impl<S: Clone, B> Api<S, B> {
    /// A call to `to`: a path from the root of the server if it begins with `/`, or one
    /// below the base address if it does not.
    ///
    /// `to` may also be a whole URI, as a `Location` is. Of that only the path and the
    /// query count, since a server behind a proxy or NAT may name itself by another
    /// scheme, host or port. Put what is not your own into it by [`segment`]. A fragment,
    /// or a segment that leads up, is not sent.
    pub fn call(&self, method: Method, to: &str) -> Call<S, B> {
        let uri = self.resolve(to);
        let what = match &uri {
            // Without the query, which may hold anything. A whole URI comes
            // from an answer, and may hold what that keeps secret.
            Ok(uri) if !to.contains("://") => format!("{method} {}", uri.path()),
            Ok(_) | Err(_) => method.to_string(),
        };
        let (http, headers) = (self.http.clone(), self.headers.clone());
        Call::new(http, self.body, method, uri, what, headers)
    }

    /// A `GET` of [`to`](Api::call).
    pub fn get(&self, to: &str) -> Call<S, B> {
        self.call(Method::GET, to)
    }

    /// A `POST` to [`to`](Api::call).
    pub fn post(&self, to: &str) -> Call<S, B> {
        self.call(Method::POST, to)
    }

    /// A `PUT` to [`to`](Api::call).
    pub fn put(&self, to: &str) -> Call<S, B> {
        self.call(Method::PUT, to)
    }

    /// A `PATCH` of [`to`](Api::call).
    pub fn patch(&self, to: &str) -> Call<S, B> {
        self.call(Method::PATCH, to)
    }

    /// A `DELETE` of [`to`](Api::call).
    pub fn delete(&self, to: &str) -> Call<S, B> {
        self.call(Method::DELETE, to)
    }

    fn resolve(&self, to: &str) -> Result<Uri, ProviderError> {
        // Neither is ever meant: a name was put in that was not encoded.
        let path = to.split('?').next().unwrap_or_default();
        let leads_up = |segment: &str| {
            let segment = segment.replace("%2e", ".").replace("%2E", ".");
            matches!(segment.as_str(), "." | "..")
        };
        if to.contains(['#', '\\']) || path.split('/').any(leads_up) {
            return Err(ProviderError::unsupported(
                "the address of a call holds a `#` or leads up: put names into it by `provider::segment`",
            ));
        }
        // By hand: the address that a server has for itself may not be a valid URI.
        let is_scheme = |scheme: &str| {
            let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
            !scheme.is_empty() && scheme.bytes().all(is_part)
        };
        let path = match to.split_once("://") {
            Some((scheme, rest)) if is_scheme(scheme) => match rest.find(['/', '?']) {
                Some(at) if rest[at..].starts_with('?') => format!("/{}", &rest[at..]),
                Some(at) => rest[at..].to_owned(),
                None => String::from("/"),
            },
            Some(_) | None => to.to_owned(),
        };
        let base = self.base.path().trim_end_matches('/');
        let path = match path.as_str() {
            "" => self.base.path().to_owned(),
            path if path.starts_with('/') => path.to_owned(),
            path => format!("{base}/{path}"),
        };
        let mut parts = self.base.clone().into_parts();
        let uri = path.parse().map_err(http::Error::from).and_then(|path| {
            parts.path_and_query = Some(path);
            Ok(Uri::from_parts(parts)?)
        });
        // It is not quoted: an address may come from an answer, and hold a secret.
        let no_uri = |_| ProviderError::forbidden("the address of a call is not a URI");
        let uri = uri.map_err(no_uri)?;
        match self.origins.locate(&uri) {
            Destination::Allowed => Ok(uri),
            Destination::Insecure => Err(ProviderError::forbidden(
                "plain http to another machine is not allowed: use https, or `Api::allow_plain_http`",
            )),
            Destination::Foreign | Destination::Unknown => Err(ProviderError::protocol(
                "not sent: the address is on another server than the base address",
            )),
        }
    }
}

/// `text` as one segment of a path (RFC 3986, section 3.3), whatever it holds: a
/// username, say.
///
/// ```
/// use tower_reauth::provider::segment;
///
/// let path = format!("auth/userpass/login/{}", segment("jane doe/ops"));
/// assert_eq!(path, "auth/userpass/login/jane%20doe%2Fops");
/// ```
#[must_use]
pub fn segment(text: &str) -> String {
    secret::percent::percent_encoded(text).as_str().to_owned()
}

impl<S: Clone, B> Clone for Api<S, B> {
    fn clone(&self) -> Self {
        Self {
            http: self.http.clone(),
            base: self.base.clone(),
            origin: self.origin.clone(),
            origins: self.origins.clone(),
            headers: self.headers.clone(),
            body: self.body,
        }
    }
}

impl<S, B> fmt::Debug for Api<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("scheme", &self.base.scheme_str())
            .field("host", &self.base.host())
            .field("path", &self.base.path())
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
