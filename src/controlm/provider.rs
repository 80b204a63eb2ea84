//! The session service as a provider of tokens.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body::Body;
use secrecy::{ExposeSecret, SecretString};
use tower_service::Service;

use super::api::SessionApi;
use super::error::{Error, ErrorKind};
use super::model::{LoginCredentials, PasswordsObject};
use super::response::DEAD_TOKEN;
use crate::BoxError;
use crate::credentials::Source;
use crate::header::expect_name;
use crate::origin::InvalidOrigin;
use crate::provider::{
    CredentialProvider, LoginContext, LogoutContext, LogoutEnds, PasswordContext, Profile,
    ProviderError, failed_call, failed_change, failed_login, may_succeed_later, not_soon,
};
use crate::rejection::Rejection;
use crate::secret::redact::{Extent, redact};
use crate::token::Token;

/// The lifetime of a token, as documented.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// The part of a body that is searched for the text for a dead token, in bytes.
const LOOKED_AT: usize = 4096;

/// Logs in to BMC Control-M, logs out, and changes the password.
///
/// `http` is any tower service that sends HTTP requests, most often the client
/// that the session wraps. Its request body `B` is inferred. Give it *without*
/// the session's layer, and without retries: a login that is sent twice can lock
/// an account.
///
/// # Examples
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use hyper_util::client::legacy::{Client, connect::HttpConnector};
/// use hyper_util::rt::TokioExecutor;
/// use tower_reauth::Credentials;
/// use tower_reauth::controlm::ControlM;
///
/// // In production over TLS: see `examples/controlm.rs`.
/// let http: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// let provider = ControlM::new(
///     http.clone(),
///     "https://ctm.example.com:8443/automation-api".parse()?,
///     Credentials::new("emuser", "s3cret"),
/// )?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Behind a gateway that asks for a key and another `Host`, or with an API token
/// beside the session's token:
///
/// ```
/// # use bytes::Bytes;
/// # use http::{HeaderName, HeaderValue, header};
/// # use tower_reauth::{BoxError, Credentials, controlm::ControlM};
/// # fn provider<S: tower::Service<http::Request<http_body_util::Full<Bytes>>>>(http: S) -> Result<(), BoxError> {
/// let provider = ControlM::new(
///     http,
///     "https://gateway.example.com/ctm/automation-api".parse()?,
///     Credentials::new("emuser", "s3cret"),
/// )?
/// .extra_header(header::HOST, HeaderValue::from_static("ctm.example.com"))
/// .extra_header(HeaderName::from_static("x-api-key"), HeaderValue::from_static("3f9a.."));
/// # Ok(())
/// # }
/// ```
///
/// # "`dyn CloneService<..>` cannot be shared between threads safely"
///
/// is the compiler's message if the client is a `BoxCloneService`, which is not `Sync`.
/// Box the client as a `BoxCloneSyncService` instead, or put a `buffer` around it:
///
/// ```
/// # use bytes::Bytes;
/// # use http::{Request, Response};
/// # use http_body_util::Full;
/// # use tower::ServiceBuilder;
/// # use tower::util::{BoxCloneService, BoxCloneSyncService};
/// # use tower_reauth::{BoxError, Credentials, Session, controlm::ControlM};
/// # type Body = Full<Bytes>;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// # let base: http::Uri = "https://ctm.example.com:8443/automation-api".parse()?;
/// # let credentials = || Credentials::new("emuser", "s3cret");
/// # let http = tower::service_fn(|_: Request<Body>| async {
/// #     Ok::<_, BoxError>(Response::new(Body::default()))
/// # });
/// # let boxed = BoxCloneService::<Request<Body>, Response<Body>, BoxError>::new(http);
/// let http = BoxCloneSyncService::new(http);
/// let session = Session::new(ControlM::new(http, base.clone(), credentials())?);
///
/// // A client that was boxed elsewhere:
/// let http = ServiceBuilder::new().buffer(16).service(boxed);
/// let session = Session::new(ControlM::new(http, base, credentials())?);
/// # Ok(())
/// # }
/// ```
///
/// # Failures
///
/// Each [`ProviderError`] of a call has a [`controlm::Error`](Error) as its
/// source, with the status and the server's message.
///
/// | a login | is | because |
/// |---|---|---|
/// | 401; any status with the text for a wrong password, except in an HTML page | `Refused` | the session never sends these credentials again, so that no lock counter runs |
/// | no connection | `NotSent` | nothing was sent |
/// | 408, 425, 429, 5xx, no answer | `Unavailable` | it passes by itself |
/// | 423; the text for a locked account ([`ControlM::locked_text`]) | `Locked` | it says nothing of the password |
/// | the text for an expired password ([`ControlM::password_expired_text`]) | `PasswordExpired` | the password is right, and must be changed |
/// | 3xx, 400, 403, 404 and the rest of 4xx | `Protocol` | a gateway or another server answers, not the session service. The password may be right. The next login waits for a minute, or for the answer's `Retry-After` |
/// | a 2xx without a usable token | `Protocol` | another server answers at that address |
///
/// A logout of a dead token is `TokenRejected`, which a session treats as success.
///
/// | a password change | is | because |
/// |---|---|---|
/// | 401; 500 with the text for a dead token | `TokenRejected` | the session renews the token and calls once more |
/// | the rest of 4xx without 408; 500 with an error list | `Refused`, 425 and 429 `Unavailable` | the service itself declined: the old password stays in use |
/// | connection refused, transport not ready | `NotSent` | nothing was sent |
/// | any other 5xx, 3xx, 408, no answer, a 2xx that cannot be read | `Uncertain` | it may have gone through behind a gateway |
///
/// In doubt, `Uncertain` is the cheaper mistake: it costs one failed login. A
/// session that keeps sending a replaced password may lock the user out.
pub struct ControlM<S, B> {
    api: SessionApi<S, B>,
    credentials: Source,
    lifetime: Option<Duration>,
    idle_lifetime: Option<Duration>,
    logout_ends: LogoutEnds,
    password_expired_text: Option<Box<str>>,
    locked_text: Option<Box<str>>,
}

impl<S, B> ControlM<S, B> {
    /// Logs in with `credentials` at the session service below `base`, such as
    /// `https://<host>:8443/automation-api`.
    ///
    /// Tokens go to the origin of `base`.
    ///
    /// # Errors
    ///
    /// [`InvalidOrigin`] if no request can be sent there.
    pub fn new(http: S, base: Uri, credentials: impl Into<Source>) -> Result<Self, InvalidOrigin>
    where
        // Only with this bound is `B` inferred from the service.
        S: Service<Request<B>>,
        B: From<Bytes>,
    {
        Self::with_body(http, base, credentials, B::from)
    }

    /// As [`ControlM::new`], for a request body that is not `From<Bytes>`.
    ///
    /// # Errors
    ///
    /// As [`ControlM::new`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use tower_reauth::{BoxError, Credentials, controlm::ControlM};
    /// use http_body_util::{BodyExt, Full, combinators::BoxBody};
    ///
    /// # fn provider<S: tower::Service<http::Request<BoxBody<Bytes, BoxError>>>>(http: S) -> Result<(), BoxError> {
    /// let provider = ControlM::with_body(
    ///     http,
    ///     "https://ctm.example.com:8443/automation-api".parse()?,
    ///     Credentials::new("emuser", "s3cret"),
    ///     |bytes| BoxBody::new(Full::new(bytes).map_err(BoxError::from)),
    /// )?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_body(
        http: S,
        base: Uri,
        credentials: impl Into<Source>,
        body: fn(Bytes) -> B,
    ) -> Result<Self, InvalidOrigin> {
        Ok(Self {
            api: SessionApi::with_body(http, base, body)?,
            credentials: credentials.into(),
            lifetime: Some(LIFETIME),
            idle_lifetime: None,
            logout_ends: LogoutEnds::Token,
            password_expired_text: None,
            locked_text: None,
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
        self.api = self.api.header(expect_name(name));
        self
    }

    /// Puts `prefix` before the token, instead of `Bearer` and a space.
    ///
    /// The prefix is used as it is: include the space after a scheme's name.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.api = self.api.prefix(prefix);
        self
    }

    /// Sets a header of each request: of the login and the provider's other
    /// calls and, beside the token, of each request of the session.
    ///
    /// For a key that a gateway asks for, or for an API token in `x-api-key`
    /// beside the session's own. Like the token it goes to the token's origin
    /// only, and replaces a request's own header of that name. A second value for
    /// the same name replaces the first. The value is marked as sensitive. Errors
    /// quote no such value, except the value of `Host`.
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
        self.api = self.api.extra_header(expect_name(name), value);
        self
    }

    /// Sets the lifetime of a token from its login, 30 minutes by default. With
    /// `None`, a token lives until the server rejects it.
    ///
    /// The service does not report the lifetime. A session renews the token
    /// before its end, and whenever the server rejects it.
    #[must_use]
    pub fn lifetime(mut self, lifetime: impl Into<Option<Duration>>) -> Self {
        self.lifetime = lifetime.into();
        self
    }

    /// Sets how long a token lives without a request. By default there is no
    /// such limit.
    ///
    /// For servers whose 30 minutes are an idle timeout, which the documentation
    /// leaves open: `.lifetime(None).idle_lifetime(..)`.
    #[must_use]
    pub fn idle_lifetime(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.idle_lifetime = idle.into();
        self
    }

    /// Sets which tokens a logout ends on this server: by default, only its own.
    ///
    /// The session logs out a replaced token only if that ends no other token.
    #[must_use]
    pub fn logout_ends(mut self, ends: LogoutEnds) -> Self {
        self.logout_ends = ends;
        self
    }

    /// Sets a text by which this server says that the password has expired. A failed
    /// login whose message contains it is then
    /// [`PasswordExpired`](crate::ProviderErrorKind::PasswordExpired): the password is
    /// right, is not sent again, and no other one is tried.
    ///
    /// The service's documentation does not give the text, so by default there is
    /// none, and such an answer is a refusal.
    #[must_use]
    pub fn password_expired_text(mut self, text: impl Into<String>) -> Self {
        self.password_expired_text = Some(text.into().into_boxed_str());
        self
    }

    /// Sets a text by which this server says that the account is locked. A failed login
    /// whose message contains it is then [`Locked`](crate::ProviderErrorKind::Locked),
    /// as one with status 423 is: it says nothing of the password, and the session
    /// tries again later.
    ///
    /// The service's documentation does not give the text, so by default there is
    /// none, and such an answer is a refusal.
    #[must_use]
    pub fn locked_text(mut self, text: impl Into<String>) -> Self {
        self.locked_text = Some(text.into().into_boxed_str());
        self
    }

    /// Allows the password and the token to go over plain `http` to another
    /// machine. Anybody on the way can read and use them.
    ///
    /// By default, such a login fails before anything is sent.
    #[must_use]
    pub fn allow_plain_http(mut self) -> Self {
        self.api = self.api.allow_plain_http();
        self
    }

    fn login_failed(&self, error: Error, password: &SecretString) -> ProviderError {
        let says = |text: &Option<Box<str>>| {
            error
                .text()
                .zip(text.as_deref())
                .is_some_and(|(said, text)| {
                    // The password is removed from the message, and may be a word of it.
                    let redacted = redact(text, Extent::Whole, &[password.expose_secret()]);
                    said.contains(text) || said.contains(&*redacted)
                })
        };
        if says(&self.password_expired_text) {
            return provider_error(ProviderError::password_expired, error);
        }
        if says(&self.locked_text) || error.kind() == ErrorKind::Status(StatusCode::LOCKED) {
            return provider_error(ProviderError::locked, error);
        }
        login_failed(error)
    }

    /// The headers of each request of the session, beside the token.
    ///
    /// Called before a login is sent: a login that fails afterwards would leave a
    /// session on the server.
    fn beside_the_token(&self) -> Result<Vec<(HeaderName, SecretString)>, ProviderError> {
        self.api
            .extra_headers()
            .filter(|(name, _)| *name != self.api.token_header())
            .map(
                |(name, value)| match std::str::from_utf8(value.as_bytes()) {
                    Ok(text) if !text.is_empty() => Ok((name.clone(), text.into())),
                    Ok(_) | Err(_) => Err(ProviderError::unsupported(format!(
                        "the extra header `{name}` is empty or not UTF-8, so that no token can carry it"
                    ))),
                },
            )
            .collect()
    }
}

impl<S, B, RB> CredentialProvider for ControlM<S, B>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Send + 'static,
    RB: Body + Send,
    RB::Data: Send,
    RB::Error: Into<BoxError>,
{
    fn profile(&self) -> Profile {
        self.api.profile().logout_ends(self.logout_ends).rejection(
            Rejection::status(StatusCode::UNAUTHORIZED).or_body_contains(
                StatusCode::INTERNAL_SERVER_ERROR,
                DEAD_TOKEN,
                LOOKED_AT,
            ),
        )
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.credentials)
    }

    async fn login(&self, cx: LoginContext) -> Result<Token, ProviderError> {
        let beside = self.beside_the_token()?;
        let user = cx.credentials()?;
        let credentials = LoginCredentials::from(user);
        let (_, mut token) = self
            .api
            .login_for_token(&credentials)
            .await
            .map_err(|error| self.login_failed(error, user.password()))?;
        for (name, value) in beside {
            token = token.and_header(name, value)?;
        }
        if let Some(lifetime) = self.lifetime {
            token = token.lives_for(lifetime);
        }
        if let Some(idle) = self.idle_lifetime {
            token = token.idles_out_after(idle);
        }
        Ok(token)
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        match self.api.logout_of(cx.token()).await {
            Ok(_) => Ok(()),
            Err(error) => Err(logout_failed(error)),
        }
    }

    async fn change_password(&self, cx: PasswordContext) -> Result<(), ProviderError> {
        let token = cx.token().ok_or_else(|| {
            ProviderError::unsupported("Control-M changes a password within a session only")
        })?;
        let current = cx.current_password().ok_or_else(|| {
            ProviderError::unsupported(
                "Control-M asks for the current password: set it with `PasswordChange::current`",
            )
        })?;
        let passwords = PasswordsObject {
            user: None,
            current_password: current.clone(),
            new_password: cx.new_password().clone(),
        };
        match self.api.update_my_password_of(token, &passwords).await {
            Ok(_) => Ok(()),
            Err(error) => Err(change_failed(error)),
        }
    }
}

fn login_failed(error: Error) -> ProviderError {
    match error.kind() {
        ErrorKind::PlainHttp => provider_error(ProviderError::unsupported, error),
        ErrorKind::NotSent => provider_error(ProviderError::not_sent, error),
        ErrorKind::NoAnswer => provider_error(ProviderError::unanswered, error),
        ErrorKind::Status(StatusCode::UNAUTHORIZED) => {
            provider_error(ProviderError::refused, error)
        }
        // The text belongs to a 401. With another status, too, the server has
        // counted the attempt.
        ErrorKind::Status(_) | ErrorKind::Unreadable(_) if error.is_refusal() => {
            provider_error(ProviderError::refused, error)
        }
        ErrorKind::Unreadable(_) => provider_error(ProviderError::protocol, error),
        ErrorKind::Status(status) => not_soon(provider_error(failed_login(status), error)),
    }
}

fn logout_failed(error: Error) -> ProviderError {
    if error.token_is_dead() {
        return provider_error(ProviderError::token_rejected, error);
    }
    match error.kind() {
        ErrorKind::PlainHttp => provider_error(ProviderError::unsupported, error),
        ErrorKind::NotSent => provider_error(ProviderError::not_sent, error),
        ErrorKind::NoAnswer => provider_error(ProviderError::unavailable, error),
        ErrorKind::Unreadable(_) => provider_error(ProviderError::protocol, error),
        ErrorKind::Status(status) => provider_error(failed_call(status), error),
    }
}

fn change_failed(error: Error) -> ProviderError {
    if error.token_is_dead() {
        return provider_error(ProviderError::token_rejected, error);
    }
    match error.kind() {
        ErrorKind::PlainHttp => provider_error(ProviderError::unsupported, error),
        ErrorKind::NotSent => provider_error(ProviderError::not_sent, error),
        // The status of an unreadable answer is a success, but perhaps not from
        // the session service.
        ErrorKind::NoAnswer | ErrorKind::Unreadable(_) => {
            provider_error(ProviderError::uncertain, error)
        }
        ErrorKind::Status(status) if status.is_client_error() && !may_succeed_later(status) => {
            provider_error(ProviderError::refused, error)
        }
        // With an error list it is the service's own answer, which is documented
        // for a change that was not made.
        ErrorKind::Status(StatusCode::INTERNAL_SERVER_ERROR) if !error.errors().is_empty() => {
            provider_error(ProviderError::refused, error)
        }
        ErrorKind::Status(status) => provider_error(failed_change(status), error),
    }
}

/// Returns a provider error of this kind, with the server's `Retry-After`.
fn provider_error(kind: fn(Error) -> ProviderError, error: Error) -> ProviderError {
    match error.retry_after() {
        Some(delay) => kind(error).with_retry_after(delay),
        None => kind(error),
    }
}

impl<S: Clone, B> Clone for ControlM<S, B> {
    fn clone(&self) -> Self {
        Self {
            api: self.api.clone(),
            credentials: self.credentials.clone(),
            lifetime: self.lifetime,
            idle_lifetime: self.idle_lifetime,
            logout_ends: self.logout_ends,
            password_expired_text: self.password_expired_text.clone(),
            locked_text: self.locked_text.clone(),
        }
    }
}

impl<S, B> fmt::Debug for ControlM<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlM")
            .field("api", &self.api)
            .field("lifetime", &self.lifetime)
            .field("idle_lifetime", &self.idle_lifetime)
            .field("logout_ends", &self.logout_ends)
            .field("password_expired_text", &self.password_expired_text)
            .field("locked_text", &self.locked_text)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{Ready, ready};

    use http_body_util::Full;

    use super::*;
    use crate::credentials::Credentials;
    use crate::rejection::{Certainty, Start, Verdict};

    fn classify(status: u16, body: &str) -> Verdict {
        fn http(_: Request<Full<Bytes>>) -> Ready<Result<Response<Full<Bytes>>, Infallible>> {
            ready(Ok(Response::default()))
        }
        let provider = ControlM::new(
            tower::service_fn(http),
            Uri::from_static("https://ctm.example.com:8443/automation-api"),
            Credentials::new("emuser", "s3cret"),
        )
        .unwrap();
        let rejection = provider.profile().rejection;
        let (head, ()) = Response::builder()
            .status(status)
            .body(())
            .unwrap()
            .into_parts();
        match rejection.classify(&head) {
            Verdict::NeedsBody { bytes } => rejection.classify_body(
                &head,
                Start::Complete(&body.as_bytes()[..body.len().min(bytes)]),
            ),
            verdict @ (Verdict::Accepted | Verdict::Rejected(_) | Verdict::Unknown) => verdict,
        }
    }

    #[test]
    fn a_dead_token_is_a_401_or_a_500_that_says_so_and_a_403_is_none() {
        let dead = r#"{"errors":[{"message":"Session token is invalid or expired"}]}"#;
        assert_eq!(classify(401, ""), Verdict::Rejected(Certainty::Sure));
        assert_eq!(classify(500, dead), Verdict::Rejected(Certainty::Unsure));
        assert_eq!(classify(500, "{}"), Verdict::Accepted);
        assert_eq!(classify(403, dead), Verdict::Accepted);
        assert_eq!(classify(503, dead), Verdict::Accepted);
        assert_eq!(classify(200, dead), Verdict::Accepted);
    }
}
