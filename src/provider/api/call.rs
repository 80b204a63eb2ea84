//! A call to an endpoint, until its answer was received.

use std::fmt;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body::Body;
use http_body_util::Full;
use secrecy::{ExposeSecret, SecretString};
use tower_service::Service;

use super::answer::{Answer, BODY_LIMIT};
#[cfg(feature = "json")]
use super::fields::{Fields, Refused};
use super::form;
use super::meaning::Declared;
use super::transport::{self, SendError};
use crate::BoxError;
use crate::credentials::Credentials;
use crate::provider::ProviderError;
use crate::rejection::Rejection;
use crate::secret::{self, percent};
use crate::token::Token;

/// A call that is about to be sent, created by [`Api::call`](super::Api::call).
#[must_use = "a call is sent by `login`, `logout`, `change`, `exchange`, `read` or `send`"]
pub struct Call<S, B = Full<Bytes>> {
    http: S,
    body: fn(Bytes) -> B,
    method: Method,
    uri: Result<Uri, ProviderError>,
    what: String,
    headers: HeaderMap,
    payload: Result<Bytes, ProviderError>,
    #[cfg(feature = "json")]
    fields: Fields,
    declared: Declared,
}

impl<S, B> Call<S, B> {
    /// Creates a call. `what` names it in errors.
    pub(super) fn new(
        http: S,
        body: fn(Bytes) -> B,
        method: Method,
        uri: Result<Uri, ProviderError>,
        what: String,
        headers: HeaderMap,
    ) -> Self {
        Self {
            http,
            body,
            method,
            uri,
            what,
            headers,
            payload: Ok(Bytes::new()),
            #[cfg(feature = "json")]
            fields: Fields::default(),
            declared: Declared::default(),
        }
    }

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

    /// Sends a client's id and secret as OAuth 2 encodes them in `Authorization: Basic`:
    /// each like a field of a form first (RFC 6749, section 2.3.1).
    pub fn oauth_basic(mut self, client: &Credentials) -> Self {
        let id = percent::form_encoded(client.username());
        let secret = percent::form_encoded(client.password().expose_secret());
        let value = secret::basic(&id, &secret).expect("encoded text has no colon");
        self.headers.insert(header::AUTHORIZATION, value);
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
        self.json_headers()
    }

    /// Sets one field of the JSON object that is sent, by its JSON Pointer (RFC 6901), and
    /// asks for JSON. The objects around it are created.
    ///
    /// The buffers are wiped, so a nested or mixed message leaves no copy of its secrets,
    /// as one of [`serde_json::Value`] does. A pointer that does not begin with `/`, or
    /// that leads through another value, fails the call before it is sent.
    ///
    /// ```
    /// # use tower_reauth::{Credentials, ExposeSecret};
    /// # use tower_reauth::provider::{Api, Call};
    /// # fn login<S: Clone>(api: &Api<S>, user: &Credentials) -> Call<S> {
    /// api.post("login")
    ///     .json_field("/type", "m.login.password")
    ///     .json_field("/identifier/type", "m.id.user")
    ///     .json_field("/identifier/user", user.username())
    ///     .json_field("/password", user.password().expose_secret())
    ///     .json_field("/device", &[1, 2])
    /// # }
    /// ```
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    pub fn json_field(mut self, pointer: &str, value: impl serde::Serialize) -> Self {
        match self.fields.set(pointer, &value) {
            Ok(()) => {}
            Err(Refused::NoField) => {
                self.fail(format_args!("{pointer:?} does not point to a field"));
            }
            Err(Refused::Taken) => {
                self.fail(format_args!("{pointer:?} is in the way of another field"));
            }
            Err(Refused::NotJson) => {
                self.fail(format_args!(
                    "the value at {pointer:?} cannot be written as JSON"
                ));
            }
        }
        self.json_headers()
    }

    #[cfg(feature = "json")]
    fn json_headers(mut self) -> Self {
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

    /// Adds answers by which this server denies what it was sent, besides those that
    /// always do: the credentials of a login, the token of any other call. They are
    /// statuses, or any clauses of a [`Rejection`] but trailers, such as the text of a 200.
    ///
    /// This holds for each way to finish the call, also for [`send`](Call::send) with
    /// [`Answer::of_login`] and its like.
    ///
    /// ```
    /// # use http::StatusCode;
    /// # use tower_reauth::provider::{Answer, Api};
    /// # use tower_reauth::{ProviderError, Rejection};
    /// # use hyper_util::client::legacy::{Client, connect::HttpConnector};
    /// # type Http = Client<HttpConnector, http_body_util::Full<bytes::Bytes>>;
    /// # async fn login(api: &Api<Http>) -> Result<Answer, ProviderError> {
    /// api.post("api/v2/auth/login")
    ///     .form([("username", "admin"), ("password", "3f9a")])
    ///     .denied_by(Rejection::body_contains(StatusCode::OK, "Fails.", 64))
    ///     .busy_by(&[StatusCode::FORBIDDEN])
    ///     .login()
    ///     .await
    /// # }
    /// ```
    pub fn denied_by(mut self, answers: impl Into<Rejection>) -> Self {
        self.declared.denied.push(answers.into());
        self
    }

    /// Adds answers by which this server refuses the credentials, whatever the call: the
    /// current or the new password of a change, for example, where a 401 otherwise means
    /// a dead token. They are statuses, or any clauses of a [`Rejection`]. They are
    /// looked at before those of [`denied_by`](Call::denied_by).
    pub fn refused_by(mut self, answers: impl Into<Rejection>) -> Self {
        self.declared.refused.push(answers.into());
        self
    }

    /// Adds answers by which this server takes no such call now, though the same may
    /// succeed later: it has too many clients, for example. They are statuses, or any
    /// clauses of a [`Rejection`]. They are looked at first.
    pub fn busy_by(mut self, answers: impl Into<Rejection>) -> Self {
        self.declared.busy.push(answers.into());
        self
    }

    /// The client, and the request that it is to send.
    pub(crate) fn into_request(self) -> Result<(S, Request<B>), ProviderError> {
        let (uri, payload) = (self.uri?, self.payload?);
        #[cfg(feature = "json")]
        let payload = match self.fields.is_empty() {
            true => payload,
            false if payload.is_empty() => {
                self.fields.write().map_err(ProviderError::unsupported)?
            }
            false => {
                return Err(ProviderError::forbidden(format!(
                    "{} was not sent: it has a body beside its JSON fields",
                    self.what
                )));
            }
        };
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
        let failed = ProviderError::forbidden(format!("{} was not sent: {why}", self.what));
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
    /// [`Unavailable`](crate::ProviderErrorKind::Unavailable) if there is no
    /// answer, or it breaks off or is longer than 1 MiB;
    /// [`Unsupported`](crate::ProviderErrorKind::Unsupported) if the call could not be
    /// built, so that nothing was sent.
    pub async fn send(self) -> Result<Answer, ProviderError> {
        self.send_or(ProviderError::unanswered).await
    }

    /// As [`Call::send`], for what must not be sent twice.
    ///
    /// # Errors
    ///
    /// As [`Call::send`]; but if the answer is lost,
    /// [`Uncertain`](crate::ProviderErrorKind::Uncertain).
    pub async fn send_once(self) -> Result<Answer, ProviderError> {
        self.send_or(ProviderError::lost).await
    }

    /// Sends it. `lost` makes the error for an answer that does not come.
    async fn send_or(
        mut self,
        lost: fn(BoxError) -> ProviderError,
    ) -> Result<Answer, ProviderError> {
        let (what, declared) = (self.what.clone(), std::mem::take(&mut self.declared));
        let (http, request) = self.into_request()?;
        let received = transport::send(http, request, BODY_LIMIT).await;
        let received = received.map_err(|error| match error {
            SendError::NotSent(error) => ProviderError::not_sent(error),
            SendError::Lost(error) => lost(error),
        })?;
        Answer::of(what, declared, received, lost)
    }

    /// Sends a login. A status that is not a success becomes an error.
    ///
    /// # Errors
    ///
    /// See the table at [`Api`](super::Api).
    pub async fn login(self) -> Result<Answer, ProviderError> {
        self.send().await?.of_login()
    }

    /// Sends a logout.
    ///
    /// # Errors
    ///
    /// See the table at [`Api`](super::Api). A token that is dead already is
    /// [`TokenRejected`](crate::ProviderErrorKind::TokenRejected), which the
    /// session takes for success.
    pub async fn logout(self) -> Result<Answer, ProviderError> {
        self.send().await?.of_logout()
    }

    /// Sends a password change.
    ///
    /// # Errors
    ///
    /// See the table at [`Api`](super::Api). If the answer is lost, the error is
    /// [`Uncertain`](crate::ProviderErrorKind::Uncertain): a login must show which password
    /// works.
    pub async fn change(self) -> Result<Answer, ProviderError> {
        self.send_once().await?.of_change()
    }

    /// Exchanges the previous token, or the data stored with it, for a new token. A refresh
    /// token may be used up by this. `None` means that it is dead: log in instead.
    ///
    /// # Errors
    ///
    /// See the table at [`Api`](super::Api). If the answer is lost, it is
    /// [`Uncertain`](crate::ProviderErrorKind::Uncertain), and the session does
    /// not offer that [`previous`](crate::LoginContext::previous) token again.
    pub async fn exchange(self) -> Result<Option<Answer>, ProviderError> {
        self.send_once().await?.of_exchange()
    }

    /// Reads something with the token, for example a page that a password change needs.
    ///
    /// # Errors
    ///
    /// See the table at [`Api`](super::Api). A dead token is
    /// [`TokenRejected`](crate::ProviderErrorKind::TokenRejected).
    pub async fn read(self) -> Result<Answer, ProviderError> {
        self.send().await?.of_read()
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
