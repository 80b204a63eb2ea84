//! The three calls of the session service, over any tower HTTP service.

use std::fmt;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use http_body::Body;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tower_service::Service;

use super::error::{Error, ErrorKind, SessionCall, Unreadable};
use super::message::Secrets;
use super::model::{LoginCredentials, LoginResult, PasswordsObject, SuccessData};
use super::response::{ApiResponse, MAX_ANSWER};
use crate::BoxError;
use crate::header::expect_name;
use crate::origin::{Destination, InvalidOrigin};
use crate::provider::transport::{self, SendError};
use crate::provider::{Api, Profile};
use crate::secret;
use crate::secret::redact::Extent;
use crate::token::{InvalidToken, Token};

/// Control-M's session service: `do_login`, `do_logout` and
/// `update_my_password`, typed.
///
/// It keeps no state. Most programs need [`ControlM`](super::ControlM) instead,
/// the provider for a [`Session`](crate::Session). `S` is any tower service that
/// sends HTTP requests, and `B` its request body, which is inferred.
///
/// A call has no timeout of its own: give the service one. Do not put a retry
/// under it, because a login that is sent twice can lock an account.
///
/// # Examples
///
/// ```
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use bytes::Bytes;
/// use tower_reauth::controlm::{SessionApi, model::LoginCredentials};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// # let http = tower::service_fn(|_: Request<Full<Bytes>>| async {
/// #     Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(r#"{"token":"A3F5"}"#))))
/// # });
/// let api = SessionApi::new(http, "https://ctm.example.com:8443/automation-api".parse()?)?;
/// let credentials = LoginCredentials {
///     username: "emuser".into(),
///     password: "s3cret".into(),
/// };
/// let login = api.login(&credentials).await?;
/// let token = login.token.expect("a login without a token is an error");
/// api.logout(&token).await?;
/// # Ok(())
/// # }
/// # tokio_test::block_on(run()).unwrap();
/// ```
pub struct SessionApi<S, B> {
    api: Api<S, B>,
    token_header: HeaderName,
    token_prefix: String,
}

/// A [`LoginResult`] that is read without an unwiped copy of the token.
#[derive(Deserialize)]
struct LoggedIn {
    // Any field may echo a secret.
    #[serde(default, deserialize_with = "secret::json::optional")]
    username: Option<SecretString>,
    #[serde(default, deserialize_with = "secret::json::optional")]
    token: Option<SecretString>,
    #[serde(default, deserialize_with = "secret::json::optional")]
    version: Option<SecretString>,
}

impl<S, B> SessionApi<S, B> {
    /// Calls the session service below `base` through `http`.
    ///
    /// The path of `base` is kept, with or without a slash at its end.
    ///
    /// # Errors
    ///
    /// [`InvalidOrigin`] if no request can be sent there.
    pub fn new(http: S, base: Uri) -> Result<Self, InvalidOrigin>
    where
        // Only with this bound is `B` inferred from the service.
        S: Service<Request<B>>,
        B: From<Bytes>,
    {
        Self::with_body(http, base, B::from)
    }

    /// As [`SessionApi::new`], for a request body that is not `From<Bytes>`.
    ///
    /// # Errors
    ///
    /// As [`SessionApi::new`].
    pub fn with_body(http: S, base: Uri, body: fn(Bytes) -> B) -> Result<Self, InvalidOrigin> {
        let api = Api::with_body(http, base, body)?;
        check_length(api.base())?;
        let json = HeaderValue::from_static("application/json");
        Ok(Self {
            api: api
                .default_header(header::CONTENT_TYPE, json.clone())
                .default_header(header::ACCEPT, json),
            token_header: header::AUTHORIZATION,
            token_prefix: "Bearer ".to_owned(),
        })
    }

    /// Sends the token in the header `name`, instead of `Authorization`.
    ///
    /// # Panics
    ///
    /// If `name` is not a header name.
    #[must_use]
    pub fn header<N>(mut self, name: N) -> Self
    where
        N: TryInto<HeaderName>,
        N::Error: Into<http::Error>,
    {
        self.token_header = expect_name(name);
        self
    }

    /// Puts `prefix` before the token, instead of `Bearer` and a space.
    ///
    /// The prefix is used as it is: include the space after a scheme's name.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.token_prefix = prefix.into();
        self
    }

    /// Sets a header of each call, login included: a key that a gateway asks
    /// for, or an API token beside the session's own.
    ///
    /// A second value for the same name replaces the first. The value is marked
    /// as sensitive. Errors quote no such value, except the value of `Host`.
    ///
    /// # Panics
    ///
    /// If `name` is not a header name.
    #[must_use]
    pub fn extra_header<N>(mut self, name: N, value: HeaderValue) -> Self
    where
        N: TryInto<HeaderName>,
        N::Error: Into<http::Error>,
    {
        self.api = self.api.extra_header(name, value);
        self
    }

    /// Allows passwords and tokens to go over plain `http` to another machine.
    /// Anybody on the way can read and use them.
    ///
    /// By default, such a call fails with
    /// [`ErrorKind::PlainHttp`](super::ErrorKind::PlainHttp) and nothing is sent.
    #[must_use]
    pub fn allow_plain_http(mut self) -> Self {
        // Otherwise the profile would allow it for other origins too.
        if self.api.destination() == Destination::Insecure {
            self.api = self.api.allow_plain_http();
        }
        self
    }

    /// Returns the base address of the calls.
    #[must_use]
    pub fn base(&self) -> &Uri {
        self.api.base()
    }

    pub(super) fn profile(&self) -> Profile {
        self.api.profile()
    }

    /// The extra headers, without the default ones.
    pub(super) fn extra_headers(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.api
            .headers()
            .iter()
            .filter(|(_, value)| value.is_sensitive())
    }

    pub(super) fn token_header(&self) -> &HeaderName {
        &self.token_header
    }

    fn token(&self, token: &SecretString) -> Result<Token, InvalidToken> {
        Token::prefixed(self.token_header.clone(), &self.token_prefix, token.clone())
    }

    /// The secrets that no error of a call may quote, besides the call's own.
    fn secrets(&self, token: Option<&Token>) -> Secrets {
        let extra = self
            .extra_headers()
            .filter(|(name, _)| *name != header::HOST)
            .map(|(_, value)| value);
        let headers = token
            .into_iter()
            .flat_map(Token::headers)
            .map(|(_, value)| value);
        let mut secrets = Secrets::default();
        for secret in token.into_iter().flat_map(Token::secrets) {
            secrets = secrets.and(&secret);
        }
        for value in extra.chain(headers) {
            let Ok(value) = std::str::from_utf8(value.as_bytes()) else {
                continue;
            };
            secrets = secrets.and_str(value);
            // A server echoes a token without the scheme before it.
            if let Some((_, bare)) = value.rsplit_once(' ') {
                secrets = secrets.and_str(bare);
            }
        }
        secrets
    }
}

impl<S, B, RB> SessionApi<S, B>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    RB: Body,
    RB::Error: Into<BoxError>,
{
    /// `do_login`: logs in. No token is sent along.
    ///
    /// The result has a token, which is a valid header value. Password and token
    /// are redacted in its texts, if the server echoes them.
    ///
    /// # Errors
    ///
    /// See [`ErrorKind`](super::ErrorKind). For any reason, a server may count
    /// the attempt as a failed login and lock the account after a few.
    pub async fn login(&self, credentials: &LoginCredentials) -> Result<LoginResult, Error> {
        let (result, _) = self.login_for_token(credentials).await?;
        Ok(result)
    }

    /// `do_logout`: ends the session of `token`, and no other.
    ///
    /// The token is redacted in the message that is returned.
    ///
    /// # Errors
    ///
    /// See [`ErrorKind`](super::ErrorKind). If
    /// [`token_is_dead`](Error::token_is_dead), the session had ended already.
    pub async fn logout(&self, token: &SecretString) -> Result<SuccessData, Error> {
        self.logout_of(&self.given(SessionCall::Logout, token)?)
            .await
    }

    /// `update_my_password`: changes the password of the user that `token`
    /// belongs to.
    ///
    /// # Errors
    ///
    /// See [`ErrorKind`](super::ErrorKind). After
    /// [`NoAnswer`](super::ErrorKind::NoAnswer),
    /// [`Unreadable`](super::ErrorKind::Unreadable) or a status from a gateway,
    /// such as 504, the password may have been changed.
    pub async fn update_my_password(
        &self,
        token: &SecretString,
        passwords: &PasswordsObject,
    ) -> Result<SuccessData, Error> {
        let token = self.given(SessionCall::UpdateMyPassword, token)?;
        self.update_my_password_of(&token, passwords).await
    }

    pub(super) async fn login_for_token(
        &self,
        credentials: &LoginCredentials,
    ) -> Result<(LoginResult, Token), Error> {
        let call = SessionCall::Login;
        let secrets = self.secrets(None).and(&credentials.password);
        let body = json(credentials);
        let answer = self.send(call, None, body, &secrets).await?;

        let LoggedIn {
            username,
            token,
            version,
        } = answer.message(call, &secrets)?;
        let Some(value) = token.filter(|token| !token.expose_secret().is_empty()) else {
            let error = answer.unreadable(call, Unreadable::NoToken, &secrets);
            // Some servers send an error list with status 200.
            return Err(match answer.error_list(&secrets) {
                Some(errors) => {
                    let text = errors.errors[0].message.clone();
                    let error = error.about_a_refusal(answer.is_refusal(text.as_deref()));
                    error.saying(Some(errors), text)
                }
                None => error,
            });
        };
        let token = self.token(&value).map_err(|error| {
            answer
                .unreadable(call, Unreadable::InvalidToken, &secrets)
                .caused_by(error)
        })?;
        let secrets = secrets.and(&value);
        let clean = |text: SecretString| secrets.clean(text.expose_secret(), Extent::Whole);
        let result = LoginResult {
            // Not redacted if the password is the user's name.
            username: match username {
                Some(name) if name.expose_secret() == credentials.username => {
                    Some(credentials.username.clone())
                }
                other => other.and_then(clean),
            },
            token: Some(value),
            version: version.and_then(clean),
        };
        Ok((result, token))
    }

    pub(super) async fn logout_of(&self, token: &Token) -> Result<SuccessData, Error> {
        let call = SessionCall::Logout;
        let secrets = self.secrets(Some(token));
        let answer = self.send(call, Some(token), Bytes::new(), &secrets).await?;
        answer.success(call, &secrets)
    }

    pub(super) async fn update_my_password_of(
        &self,
        token: &Token,
        passwords: &PasswordsObject,
    ) -> Result<SuccessData, Error> {
        let call = SessionCall::UpdateMyPassword;
        let secrets = self
            .secrets(Some(token))
            .and(&passwords.current_password)
            .and(&passwords.new_password);
        let body = json(passwords);
        let answer = self.send(call, Some(token), body, &secrets).await?;
        answer.success(call, &secrets)
    }

    fn given(&self, call: SessionCall, token: &SecretString) -> Result<Token, Error> {
        self.token(token)
            .map_err(|error| Error::new(call, ErrorKind::NotSent).caused_by(error))
    }

    /// Sends one call. An answer whose status is not a success is an error.
    async fn send(
        &self,
        call: SessionCall,
        token: Option<&Token>,
        body: Bytes,
        secrets: &Secrets,
    ) -> Result<ApiResponse, Error> {
        if self.api.destination() == Destination::Insecure {
            return Err(Error::new(call, ErrorKind::PlainHttp));
        }
        let mut request = self.api.post(call.path()).payload(body);
        if let Some(token) = token {
            request = request.token(token);
        }
        let (http, request) = request
            .into_request()
            .map_err(|error| Error::new(call, ErrorKind::NotSent).caused_by(error))?;
        let received = transport::send(http, request, MAX_ANSWER).await;
        let received = received.map_err(|error| match error {
            SendError::NotSent(error) => Error::new(call, ErrorKind::NotSent).caused_by(error),
            SendError::Lost(error) => Error::new(call, ErrorKind::NoAnswer).caused_by(error),
        })?;
        ApiResponse::of(call, received, secrets)
    }
}

/// Writes `message` into a buffer that is wiped.
fn json(message: &impl Serialize) -> Bytes {
    secret::json::write(message).expect("messages are structs of strings")
}

/// Checks that the path of each call can follow `base`.
fn check_length(base: &Uri) -> Result<(), InvalidOrigin> {
    let longest = format!(
        "{}/{}",
        base.path().trim_end_matches('/'),
        SessionCall::UpdateMyPassword.path()
    );
    match PathAndQuery::try_from(longest) {
        Ok(_) => Ok(()),
        Err(_) => Err(InvalidOrigin::TooLong),
    }
}

impl SessionCall {
    /// The path below the base address.
    fn path(self) -> &'static str {
        match self {
            Self::Login => "session/login",
            Self::Logout => "session/logout",
            Self::UpdateMyPassword => "session/user/password/update",
        }
    }
}

impl<S: Clone, B> Clone for SessionApi<S, B> {
    fn clone(&self) -> Self {
        Self {
            api: self.api.clone(),
            token_header: self.token_header.clone(),
            token_prefix: self.token_prefix.clone(),
        }
    }
}

impl<S, B> fmt::Debug for SessionApi<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionApi")
            .field("api", &self.api)
            .field("token_header", &self.token_header)
            .field("token_prefix", &self.token_prefix)
            .finish()
    }
}
