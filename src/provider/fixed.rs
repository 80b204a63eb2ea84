//! Tokens that nobody logs in for: API keys and tokens issued elsewhere.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::header;
use secrecy::SecretString;

use super::{CredentialProvider, LoginContext, Profile, ProviderError};
use crate::credentials::SourceError;
use crate::header::expect_name;
use crate::token::Token;

/// An API key or another token that is issued outside, and read, not logged in for.
///
/// When the server rejects it, it is read anew: a value that has changed
/// replaces it and the request is replayed; the same value stays in use and
/// the response is returned.
///
/// A value that a function reads is also read anew in the background, a minute after
/// the last time, while requests that can be replayed use it. A token that is rotated before it expires, as
/// Kubernetes rotates the file of a service account, so costs no rejection. Each
/// reading counts as a login.
///
/// ```
/// use tower_reauth::{FixedToken, Profile, Session};
///
/// let session = Session::new(FixedToken::api_key(
///     Profile::at("https://ctm.example.com:8443".parse()?),
///     "3f9a..",
/// ));
///
/// // Read again whenever the server rejects it:
/// let session = Session::new(FixedToken::api_key_from(
///     Profile::at("https://ctm.example.com:8443".parse()?),
///     || async { Ok(std::env::var("CTM_API_KEY").unwrap_or_default().into()) },
/// ));
/// # Ok::<(), tower_reauth::InvalidOrigin>(())
/// ```
#[derive(Clone)]
pub struct FixedToken {
    profile: Profile,
    header: HeaderName,
    prefix: String,
    read: Arc<Read>,
    /// When it is read again, unless it is always the same.
    read_again: Option<Duration>,
}

/// As often as Kubernetes' own client reads the file of a service account. It is
/// rotated two minutes before its end at the latest.
const READ_AGAIN: Duration = Duration::from_secs(60);

type Read = dyn Fn() -> Pin<Box<dyn Future<Output = Result<SecretString, SourceError>> + Send>>
    + Send
    + Sync;

impl FixedToken {
    /// Sends `key` as `x-api-key`.
    pub fn api_key(profile: Profile, key: impl Into<SecretString>) -> Self {
        Self::api_key_from(profile, always(key.into())).once()
    }

    /// Sends as `x-api-key` what `read` yields, which is read again when the
    /// server rejects it, and each minute while it is used.
    pub fn api_key_from<F, Fut>(profile: Profile, read: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<SecretString, SourceError>> + Send + 'static,
    {
        Self {
            profile,
            header: HeaderName::from_static("x-api-key"),
            prefix: String::new(),
            read: Arc::new(move || Box::pin(read())),
            read_again: Some(READ_AGAIN),
        }
    }

    /// Sends `token` as `Authorization: Bearer <token>`.
    pub fn bearer(profile: Profile, token: impl Into<SecretString>) -> Self {
        Self::bearer_from(profile, always(token.into())).once()
    }

    /// Sends as `Authorization: Bearer <token>` what `read` yields, which is
    /// read again when the server rejects it, and each minute while it is used.
    ///
    /// ```
    /// use tower_reauth::{FixedToken, Profile, Session, SourceError};
    ///
    /// const FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    ///
    /// let session = Session::new(FixedToken::bearer_from(
    ///     Profile::at("https://kubernetes.default.svc".parse()?),
    ///     || async {
    ///         let token = std::fs::read_to_string(FILE).map_err(SourceError::unavailable)?;
    ///         Ok(token.trim_end().into())
    ///     },
    /// ));
    /// # Ok::<(), tower_reauth::InvalidOrigin>(())
    /// ```
    pub fn bearer_from<F, Fut>(profile: Profile, read: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<SecretString, SourceError>> + Send + 'static,
    {
        Self::api_key_from(profile, read)
            .header(header::AUTHORIZATION)
            .prefix("Bearer ")
    }

    /// Sets the header that carries the token.
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
        self.header = expect_name(name);
        self
    }

    /// Sets the text before the token. It is used unchanged: include the space after a
    /// scheme's name.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }
}

impl FixedToken {
    /// It is always the same.
    fn once(mut self) -> Self {
        self.read_again = None;
        self
    }
}

fn always(
    token: SecretString,
) -> impl Fn() -> std::future::Ready<Result<SecretString, SourceError>> + Send + Sync {
    move || std::future::ready(Ok(token.clone()))
}

impl CredentialProvider for FixedToken {
    fn profile(&self) -> Profile {
        self.profile.clone()
    }

    async fn login(&self, _: LoginContext) -> Result<Token, ProviderError> {
        let token = (self.read)().await?;
        let token = Token::prefixed(self.header.clone(), &self.prefix, token)?;
        Ok(match self.read_again {
            Some(delay) => token.refresh_in(delay),
            None => token,
        })
    }
}

impl fmt::Debug for FixedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FixedToken")
            .field("profile", &self.profile)
            .field("header", &self.header)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}
