//! A provider behind a pointer, so that no public type is generic over it.

use std::future::Future;
use std::pin::Pin;

use super::{CredentialProvider, LoginContext, PasswordChange, PasswordChanged, ProviderError};
use crate::credentials::Source;
use crate::token::Token;

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, ProviderError>> + Send + 'a>>;

/// The part of [`CredentialProvider`] that is called again and again.
///
/// Only the slow path calls it, so boxing its futures costs no request anything.
pub(crate) trait ErasedProvider: Send + Sync {
    fn source(&self) -> Option<&Source>;
    fn login(&self, login: LoginContext) -> Answer<'_, Token>;
    fn logout(&self, token: Token) -> Answer<'_, ()>;
    fn change_password(&self, token: Token, change: PasswordChange) -> Answer<'_, PasswordChanged>;
}

impl<P: CredentialProvider> ErasedProvider for P {
    fn source(&self) -> Option<&Source> {
        CredentialProvider::source(self)
    }

    fn login(&self, login: LoginContext) -> Answer<'_, Token> {
        Box::pin(CredentialProvider::login(self, login))
    }

    fn logout(&self, token: Token) -> Answer<'_, ()> {
        Box::pin(CredentialProvider::logout(self, token))
    }

    fn change_password(&self, token: Token, change: PasswordChange) -> Answer<'_, PasswordChanged> {
        Box::pin(CredentialProvider::change_password(self, token, change))
    }
}
