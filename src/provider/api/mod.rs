//! Calls to the endpoints of a login system, for providers.

mod answer;
mod form;
pub(crate) mod transport;

use std::fmt;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::Full;
use secrecy::{ExposeSecret, SecretString};
use tower_service::Service;

pub use answer::Answer;
#[cfg(feature = "controlm")]
pub(crate) use answer::{NOT_SOON, may_have_been_executed};

use self::answer::MAX_ANSWER;
use self::transport::SendError;
use super::{Profile, ProviderError};
use crate::BoxError;
use crate::credentials::Credentials;
use crate::header::expect_name;
use crate::origin::{Destination, InvalidOrigin, Origin, Origins};
use crate::secret;
use crate::token::Token;

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
/// | status | [`login`](Call::login) | [`logout`](Call::logout) | [`change`](Call::change) | [`exchange`](Call::exchange) |
/// |---|---|---|---|---|
/// | 2xx | done | done | done | done |
/// | 3xx | done | done | `Uncertain` | `Uncertain` |
/// | 401 | `Refused` | `TokenRejected` | `TokenRejected` | `None` |
/// | 403 | `Refused` | `Protocol` | `Refused` | `None` |
/// | 404, 410 | `Protocol` | `TokenRejected` | `Protocol` | `Protocol` |
/// | 425, 429 | `Unavailable` | `Unavailable` | `Unavailable` | `Unavailable` |
/// | 400 | `Protocol` | `Protocol` | `Refused` | `None` |
/// | 409, 422 | `Protocol` | `Protocol` | `Refused` | `Protocol` |
/// | [`denied_by`](Call::denied_by) | `Refused` | `TokenRejected` | `TokenRejected` | `None` |
/// | 408, 5xx | `Unavailable` | `Unavailable` | `Uncertain` | `Uncertain` |
/// | [`busy_by`](Call::busy_by) | `Unavailable` | `Unavailable` | `Unavailable` | `Unavailable` |
/// | no answer | `Unavailable` | `Unavailable` | `Uncertain` | `Uncertain` |
/// | not sent | `NotSent` | `NotSent` | `NotSent` | `NotSent` |
/// | other | `Protocol` | `Protocol` | `Protocol` | `Protocol` |
///
/// Where a server means something else by a 2xx, finish with
/// [`send`](Call::send), look at the [`Answer`], and leave the others to
/// [`Answer::of_login`] and its like. An error quotes nothing of the answer. A
/// login whose status is one of the others, or whose answer lacks what is
/// [read](Answer::cookie) from it, is not tried again within a minute, since the
/// server may have counted a failed one; a `Retry-After` with such a status has
/// the last word. A change or an exchange whose answer lacks it is `Uncertain`.
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
///         Ok(token.with_data(answer.header("location")?))
///     }
///
///     async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
///         let address = cx.token().data().map_or("", |address| address.expose_secret());
///         self.api.delete(address).token(cx.token()).logout().await?;
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
    /// A call to `to`: a path from the root of the server if it begins with
    /// `/`, one below the base address if it does not, or a whole URI of the
    /// same origin, as a `Location` may be.
    ///
    /// Put what is not your own into it by [`segment`]. A fragment, or a segment
    /// that leads up, is not sent.
    pub fn call(&self, method: Method, to: &str) -> Call<S, B> {
        let uri = self.resolve(to);
        let what = match &uri {
            // Without the query, which may hold anything. A whole URI comes
            // from an answer, and may hold what that keeps secret.
            Ok(uri) if !to.contains("://") => format!("{method} {}", uri.path()),
            Ok(_) | Err(_) => method.to_string(),
        };
        Call {
            http: self.http.clone(),
            body: self.body,
            method,
            uri,
            what,
            headers: self.headers.clone(),
            payload: Ok(Bytes::new()),
            denied_by: &[],
            busy_by: &[],
        }
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
        let uri = match to.parse::<Uri>() {
            Ok(uri) if uri.scheme().is_some() => Ok(uri),
            _ => {
                let base = self.base.path().trim_end_matches('/');
                let path = match to {
                    "" => self.base.path().to_owned(),
                    to if to.starts_with('/') => to.to_owned(),
                    to => format!("{base}/{to}"),
                };
                let mut parts = self.base.clone().into_parts();
                path.parse().map_err(http::Error::from).and_then(|path| {
                    parts.path_and_query = Some(path);
                    Ok(Uri::from_parts(parts)?)
                })
            }
        };
        // It is not quoted: an address may come from an answer, and hold a secret.
        let no_uri = |_| ProviderError::protocol("the address of a call is no URI");
        let uri = uri.map_err(no_uri)?;
        match self.origins.locate(&uri) {
            Destination::Allowed => without_userinfo(uri).map_err(no_uri),
            Destination::Insecure => Err(ProviderError::unsupported(
                "not sent over plain http to another machine: use https, or `Api::allow_plain_http`",
            )),
            Destination::Foreign | Destination::Unknown => Err(ProviderError::protocol(
                "not sent: the address is on another server than the base address",
            )),
        }
    }
}

/// A call that is about to be sent; made by [`Api`].
#[must_use = "a call is sent by `login`, `logout`, `change`, `exchange` or `send`"]
pub struct Call<S, B = Full<Bytes>> {
    http: S,
    body: fn(Bytes) -> B,
    method: Method,
    uri: Result<Uri, ProviderError>,
    what: String,
    headers: HeaderMap,
    payload: Result<Bytes, ProviderError>,
    denied_by: &'static [StatusCode],
    busy_by: &'static [StatusCode],
}

impl<S, B> Call<S, B> {
    /// Adds a header, marked as sensitive. A name or a value that HTTP does not allow
    /// fails the call before it is sent.
    pub fn header(
        mut self,
        name: impl TryInto<HeaderName>,
        value: impl Into<SecretString>,
    ) -> Self {
        let value = value.into();
        let value = secret::header_value(&[value.expose_secret().as_bytes()]);
        match (name.try_into(), value) {
            (Ok(name), Ok(value)) => {
                self.headers.insert(name, value);
            }
            (Ok(name), Err(_)) => {
                self.fail(format_args!(
                    "the value of the header `{name}` has a byte that no value may have"
                ));
            }
            // Not quoted: an invalid name may be the whole header, value included.
            (Err(_), _) => self.fail(format_args!("one of its headers has no valid name")),
        }
        self
    }

    /// Sends the token along, as each request of the session does.
    pub fn token(mut self, token: &Token) -> Self {
        token.apply_to(&mut self.headers);
        self
    }

    /// Sends username and password as `Authorization: Basic` (RFC 7617).
    pub fn basic(mut self, credentials: &Credentials) -> Self {
        let password = credentials.password().expose_secret();
        match secret::basic(credentials.username(), password) {
            Some(value) => {
                self.headers.insert(header::AUTHORIZATION, value);
            }
            None => self.fail(format_args!(
                "`Basic` takes no username with a colon, and no control characters"
            )),
        }
        self
    }

    /// Sends a form (`application/x-www-form-urlencoded`).
    ///
    /// The buffer is wiped.
    pub fn form<'a>(self, fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let fields: Vec<_> = fields.into_iter().collect();
        self.payload(form::encode(&fields))
            .content_type("application/x-www-form-urlencoded")
    }

    /// Sends `message` as JSON, and asks for JSON.
    ///
    /// The buffer is wiped, and never outgrown. A message of borrowed texts
    /// leaves no other copy: a struct with `&str` in it, or
    /// `BTreeMap::from([("user", user), ("password", password)])`.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    pub fn json(mut self, message: &impl serde::Serialize) -> Self {
        match secret::json::write(message) {
            Ok(json) => self = self.payload(json),
            Err(_) => self.fail(format_args!("the message cannot be written as JSON")),
        }
        let json = HeaderValue::from_static("application/json");
        self.headers.entry(header::ACCEPT).or_insert(json);
        self.content_type("application/json")
    }

    /// Sends a body. Wiping its buffer is up to the caller.
    pub fn body(self, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.payload(body.into()).content_type(content_type)
    }

    /// Sends a body without a content type of its own.
    pub(crate) fn payload(mut self, payload: Bytes) -> Self {
        self.payload = self.payload.and(Ok(payload));
        self
    }

    /// Names statuses by which this server denies what it was sent, besides
    /// those that always do: the credentials of a login, the token of any other
    /// call.
    pub fn denied_by(mut self, statuses: &'static [StatusCode]) -> Self {
        self.denied_by = statuses;
        self
    }

    /// Names statuses by which this server says that it takes no such call now,
    /// though the same may succeed later: that its clients are too many, say.
    pub fn busy_by(mut self, statuses: &'static [StatusCode]) -> Self {
        self.busy_by = statuses;
        self
    }

    /// The client, and the request that it is to send.
    pub(crate) fn into_request(self) -> Result<(S, Request<B>), ProviderError> {
        let (uri, payload) = (self.uri?, self.payload?);
        let wants_length = [Method::POST, Method::PUT, Method::PATCH].contains(&self.method);
        let is_empty = payload.is_empty();
        let mut request = Request::new((self.body)(payload));
        *request.method_mut() = self.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers;
        if is_empty && wants_length {
            // Clients leave it out, and gateways refuse a POST without it
            // (RFC 9110, section 8.6).
            let length = HeaderValue::from(0);
            request.headers_mut().insert(header::CONTENT_LENGTH, length);
        }
        Ok((self.http, request))
    }

    fn content_type(mut self, name: &'static str) -> Self {
        let value = HeaderValue::from_static(name);
        self.headers.insert(header::CONTENT_TYPE, value);
        self
    }

    /// The call fails before it is sent. The first reason stays.
    fn fail(&mut self, why: fmt::Arguments<'_>) {
        let failed = ProviderError::protocol(format!("{} was not sent: {why}", self.what));
        let payload = std::mem::replace(&mut self.payload, Ok(Bytes::new()));
        self.payload = payload.and(Err(failed));
    }
}

impl<S, B, RB> Call<S, B>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
    RB: Body,
    RB::Error: Into<BoxError>,
{
    /// Sends it and reads the answer, whatever its status.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](super::ProviderErrorKind::Unavailable) if there is no
    /// answer, or it breaks off or is longer than 1 MiB;
    /// [`Protocol`](super::ProviderErrorKind::Protocol) or
    /// [`Unsupported`](super::ProviderErrorKind::Unsupported) if the call could
    /// not be built.
    pub async fn send(self) -> Result<Answer, ProviderError> {
        self.send_or(ProviderError::unanswered).await
    }

    /// As [`Call::send`], for what must not be sent twice.
    ///
    /// # Errors
    ///
    /// As [`Call::send`]; but if the answer is lost,
    /// [`Uncertain`](super::ProviderErrorKind::Uncertain).
    pub async fn send_once(self) -> Result<Answer, ProviderError> {
        self.send_or(ProviderError::lost).await
    }

    /// Sends it. `lost` makes the error for an answer that does not come.
    async fn send_or(
        mut self,
        lost: fn(BoxError) -> ProviderError,
    ) -> Result<Answer, ProviderError> {
        let what = std::mem::take(&mut self.what);
        let (http, request) = self.into_request()?;
        let received = transport::send(http, request, MAX_ANSWER).await;
        let received = received.map_err(|error| match error {
            SendError::NotSent(error) => ProviderError::not_sent(error),
            SendError::Lost(error) => lost(error),
        })?;
        Answer::of(what, received, lost)
    }

    /// Sends a login: a status that is no success says why there is no token.
    ///
    /// # Errors
    ///
    /// See the table at [`Api`].
    pub async fn login(self) -> Result<Answer, ProviderError> {
        let (denied_by, busy_by) = (self.denied_by, self.busy_by);
        let answer = self
            .send()
            .await?
            .denied(busy_by, ProviderError::unavailable)?;
        answer.denied(denied_by, ProviderError::refused)?.of_login()
    }

    /// Sends a logout.
    ///
    /// # Errors
    ///
    /// See the table at [`Api`]. A token that is dead already is
    /// [`TokenRejected`](super::ProviderErrorKind::TokenRejected), which the
    /// session takes for success.
    pub async fn logout(self) -> Result<Answer, ProviderError> {
        let (denied_by, busy_by) = (self.denied_by, self.busy_by);
        let answer = self
            .send()
            .await?
            .denied(busy_by, ProviderError::unavailable)?;
        answer
            .denied(denied_by, ProviderError::token_rejected)?
            .of_logout()
    }

    /// Sends a password change.
    ///
    /// # Errors
    ///
    /// See the table at [`Api`]. If the answer is lost, nobody knows which
    /// password the server takes:
    /// [`Uncertain`](super::ProviderErrorKind::Uncertain).
    pub async fn change(self) -> Result<Answer, ProviderError> {
        let (denied_by, busy_by) = (self.denied_by, self.busy_by);
        let answer = self.send_once().await?;
        let answer = answer.denied(busy_by, ProviderError::unavailable)?;
        answer
            .denied(denied_by, ProviderError::token_rejected)?
            .of_change()
    }

    /// Sends the token before, or what is kept with it, in exchange for a new
    /// one: a refresh token, say, which this uses up. `None` says that it is
    /// dead: go on to a login.
    ///
    /// # Errors
    ///
    /// See the table at [`Api`]. If the answer is lost, it is
    /// [`Uncertain`](super::ProviderErrorKind::Uncertain), and the session does
    /// not offer that [`previous`](crate::LoginContext::previous) token again.
    pub async fn exchange(self) -> Result<Option<Answer>, ProviderError> {
        let (denied_by, busy_by) = (self.denied_by, self.busy_by);
        let answer = self.send_once().await?;
        let answer = answer.denied(busy_by, ProviderError::unavailable)?;
        match denied_by.contains(&answer.status()) {
            true => Ok(None),
            false => answer.of_exchange(),
        }
    }
}

/// `uri` as a request may have it: without a user or a password (RFC 9110,
/// section 4.2.4), which HTTP/2 would send along.
fn without_userinfo(uri: Uri) -> Result<Uri, http::Error> {
    let mut parts = uri.into_parts();
    if let Some(authority) = &mut parts.authority
        && let Some((_, host)) = authority.as_str().rsplit_once('@')
    {
        // The text after an `@` between brackets is not a host.
        *authority = host.parse()?;
    }
    Ok(Uri::from_parts(parts)?)
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

impl<S, B> fmt::Debug for Call<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("what", &self.what)
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
