//! A provider behind a pointer, so that no public type is generic over it.

use std::future::Future;
use std::pin::Pin;

use super::{CredentialProvider, LoginContext, LogoutContext, PasswordContext, ProviderError};
use crate::credentials::Source;
use crate::token::Token;

type ProviderFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, ProviderError>> + Send + 'a>>;

/// The methods of [`CredentialProvider`] that are called again and again.
///
/// Only the slow path calls them, so their boxed futures cost no request anything.
pub(crate) trait ErasedProvider: Send + Sync {
    fn source(&self) -> Option<&Source>;
    fn login(&self, cx: LoginContext) -> ProviderFuture<'_, Token>;
    fn logout(&self, cx: LogoutContext) -> ProviderFuture<'_, ()>;
    fn change_password(&self, cx: PasswordContext) -> ProviderFuture<'_, ()>;
}

impl<P: CredentialProvider> ErasedProvider for P {
    fn source(&self) -> Option<&Source> {
        CredentialProvider::source(self)
    }

    fn login(&self, cx: LoginContext) -> ProviderFuture<'_, Token> {
        Box::pin(CredentialProvider::login(self, cx))
    }

    fn logout(&self, cx: LogoutContext) -> ProviderFuture<'_, ()> {
        Box::pin(CredentialProvider::logout(self, cx))
    }

    fn change_password(&self, cx: PasswordContext) -> ProviderFuture<'_, ()> {
        Box::pin(CredentialProvider::change_password(self, cx))
    }
}
