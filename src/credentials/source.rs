//! The trait that a source of credentials implements, and its boxed form.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::{Credentials, Memory};
use crate::BoxError;

/// Where credentials come from: memory, a file, a vault.
///
/// [`fetch`](CredentialSource::fetch) is called before each login, in the
/// background, never while a request holds anything. A source that can be
/// written implements the other three too; they are called in one order only:
/// `prepare`, then exactly one of `promote` and `withdraw`, with no `fetch`
/// between. Calls never overlap.
///
/// # Cancellation
///
/// A call runs in the session's own task, so it does not end with the caller
/// that caused it. It does end when the login deadline passes.
pub trait CredentialSource: Send + Sync + 'static {
    /// Reads the credentials to log in with.
    fn fetch(&self) -> impl Future<Output = Result<Credentials, SourceError>> + Send;

    /// Puts `new` down beside the credentials in use, before the server is
    /// asked to change the password.
    ///
    /// Both must survive from here on: until `promote` or `withdraw` nobody
    /// knows which of them the server takes.
    ///
    /// The default says that this source cannot be written, which fails a
    /// password change before the server hears of it.
    fn prepare(&self, new: Credentials) -> impl Future<Output = Result<(), SourceError>> + Send {
        drop(new);
        async { Err(SourceError::read_only()) }
    }

    /// The server has changed the password: what `prepare` put down is now in use.
    fn promote(&self) -> impl Future<Output = Result<(), SourceError>> + Send {
        async { Err(SourceError::read_only()) }
    }

    /// The server has kept the old password: what `prepare` put down is void.
    fn withdraw(&self) -> impl Future<Output = Result<(), SourceError>> + Send {
        async { Err(SourceError::read_only()) }
    }
}

/// Any [`CredentialSource`], boxed; cloning copies a pointer.
#[derive(Clone)]
pub struct Source(Arc<dyn ErasedSource>);

impl Source {
    /// Boxes a source.
    pub fn new(source: impl CredentialSource) -> Self {
        Self(Arc::new(source))
    }

    /// A source that calls `fetch` before each login, and cannot be written.
    pub fn from_fn<F, Fut>(fetch: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Credentials, SourceError>> + Send + 'static,
    {
        struct FromFn<F>(F);

        impl<F, Fut> CredentialSource for FromFn<F>
        where
            F: Fn() -> Fut + Send + Sync + 'static,
            Fut: Future<Output = Result<Credentials, SourceError>> + Send + 'static,
        {
            fn fetch(&self) -> impl Future<Output = Result<Credentials, SourceError>> + Send {
                (self.0)()
            }
        }

        Self::new(FromFn(fetch))
    }

    pub(crate) async fn fetch(&self) -> Result<Credentials, SourceError> {
        self.0.fetch().await
    }

    pub(crate) async fn prepare(&self, new: Credentials) -> Result<(), SourceError> {
        self.0.prepare(new).await
    }

    pub(crate) async fn promote(&self) -> Result<(), SourceError> {
        self.0.promote().await
    }

    pub(crate) async fn withdraw(&self) -> Result<(), SourceError> {
        self.0.withdraw().await
    }
}

impl From<Credentials> for Source {
    fn from(credentials: Credentials) -> Self {
        Self::new(Memory::new(credentials))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, SourceError>> + Send + 'a>>;

trait ErasedSource: Send + Sync {
    fn fetch(&self) -> Answer<'_, Credentials>;
    fn prepare(&self, new: Credentials) -> Answer<'_, ()>;
    fn promote(&self) -> Answer<'_, ()>;
    fn withdraw(&self) -> Answer<'_, ()>;
}

impl<S: CredentialSource> ErasedSource for S {
    fn fetch(&self) -> Answer<'_, Credentials> {
        Box::pin(CredentialSource::fetch(self))
    }

    fn prepare(&self, new: Credentials) -> Answer<'_, ()> {
        Box::pin(CredentialSource::prepare(self, new))
    }

    fn promote(&self) -> Answer<'_, ()> {
        Box::pin(CredentialSource::promote(self))
    }

    fn withdraw(&self) -> Answer<'_, ()> {
        Box::pin(CredentialSource::withdraw(self))
    }
}

/// Why a source could not be read or written.
///
/// Cheap to clone. The cause, if there is one, is its
/// [`source`](Error::source); nothing of it is quoted here.
#[derive(Clone, Debug)]
pub struct SourceError {
    kind: SourceErrorKind,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// What kind of [`SourceError`] it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceErrorKind {
    /// It cannot be reached now; the session tries again later.
    Unavailable,
    /// What it holds are no credentials; somebody must put that right.
    Invalid,
    /// It cannot be written, so a password change would be forgotten.
    ReadOnly,
}

impl SourceError {
    /// The source cannot be reached now.
    pub fn unavailable(cause: impl Into<BoxError>) -> Self {
        Self::new(SourceErrorKind::Unavailable, cause)
    }

    /// What the source holds are no credentials.
    ///
    /// The cause must not quote what it found, which may be a password.
    pub fn invalid(cause: impl Into<BoxError>) -> Self {
        Self::new(SourceErrorKind::Invalid, cause)
    }

    /// The source cannot be written.
    #[must_use]
    pub fn read_only() -> Self {
        Self {
            kind: SourceErrorKind::ReadOnly,
            source: None,
        }
    }

    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> SourceErrorKind {
        self.kind
    }

    fn new(kind: SourceErrorKind, cause: impl Into<BoxError>) -> Self {
        Self {
            kind,
            source: Some(cause.into().into()),
        }
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            SourceErrorKind::Unavailable => "the source of the credentials cannot be reached",
            SourceErrorKind::Invalid => "the source of the credentials holds no credentials",
            SourceErrorKind::ReadOnly => "the source of the credentials cannot be written",
        })
    }
}

impl Error for SourceError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}
