//! A provider made of a function.

use std::fmt;
use std::future::Future;

use super::{CredentialProvider, LoginContext, Profile, ProviderError};
use crate::credentials::Source;
use crate::token::Token;

/// Makes a provider of a profile and a function that logs in.
///
/// It has no logout and changes no password: implement
/// [`CredentialProvider`] for those.
///
/// ```
/// use tower_reauth::{LoginContext, Profile, ProviderError, Token, provider_fn};
///
/// let provider = provider_fn(
///     Profile::at("https://api.example.com".parse()?),
///     |_cx: LoginContext| async { Ok(Token::bearer("A3F5")?) },
/// );
/// # Ok::<(), tower_reauth::InvalidOrigin>(())
/// ```
pub fn provider_fn<F, Fut>(profile: Profile, login: F) -> ProviderFn<F>
where
    F: Fn(LoginContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Token, ProviderError>> + Send + 'static,
{
    ProviderFn {
        profile,
        source: None,
        login,
    }
}

/// A [`CredentialProvider`] made by [`provider_fn`].
#[derive(Clone)]
pub struct ProviderFn<F> {
    profile: Profile,
    source: Option<Source>,
    login: F,
}

impl<F> ProviderFn<F> {
    /// Reads the credentials for each login from `source`; the function finds
    /// them in [`LoginContext::credentials`].
    ///
    /// After a refusal the source is asked for others, while requests come. Without a
    /// source, only [`Session::login`](crate::Session::login) ends a refusal.
    ///
    /// ```
    /// use tower_reauth::{Credentials, LoginContext, Profile, Source, Token, provider_fn};
    ///
    /// # let profile = Profile::at("https://api.example.com".parse()?);
    /// let password = || std::env::var("OPS_PASSWORD").unwrap_or_default();
    /// let read = move || async move { Ok(Credentials::new("ops", password())) };
    /// let provider = provider_fn(profile, |cx: LoginContext| async move {
    ///     let _sent = cx.credentials()?;
    ///     Ok(Token::bearer("A3F5")?)
    /// })
    /// .with_source(Source::from_fn(read));
    /// # Ok::<(), tower_reauth::BoxError>(())
    /// ```
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl<F, Fut> CredentialProvider for ProviderFn<F>
where
    F: Fn(LoginContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Token, ProviderError>> + Send + 'static,
{
    fn profile(&self) -> Profile {
        self.profile.clone()
    }

    fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    fn login(
        &self,
        login: LoginContext,
    ) -> impl Future<Output = Result<Token, ProviderError>> + Send {
        (self.login)(login)
    }
}

impl<F> fmt::Debug for ProviderFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderFn")
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}
