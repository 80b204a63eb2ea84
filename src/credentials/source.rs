//! The trait that a source of credentials implements, and its boxed form.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;

use super::Credentials;
use crate::BoxError;

/// Where credentials come from: memory, a file, a vault.
///
/// The session calls it in a task of its own, before each login and around a
/// password change, and never while a request holds anything. Calls never
/// overlap, except that one which was given up, after the login
/// timeout, may still be at work where it started.
///
/// # Sources that can only be read
///
/// implement [`fetch`](CredentialSource::fetch) and nothing else. A password
/// change then fails before the server hears of it.
///
/// # Sources that can be written
///
/// keep a password change in two phases, so that none is lost whatever dies
/// when. The session calls, in this order:
///
/// | call | what must be kept when it returns | why |
/// |---|---|---|
/// | `fetch` | | what is in use |
/// | `prepare(new)` | the old password **and** the new one | the server is asked next, and its answer may never come |
/// | `promote()` | the new one alone | the server has changed the password |
/// | or `withdraw()` | the old one alone | the server has not |
///
/// Where neither `promote` nor `withdraw` came, because the answer was lost or
/// the process died, nobody knows which password the server takes. The next
/// login, of this process or of the next, finds out:
///
/// | call | what it does |
/// |---|---|
/// | `fetch`, `unresolved` | say what the old and the new password are, and which was being tried when a process died |
/// | `trying(which)` | keeps which password is about to be sent |
/// | `promote()` or `withdraw()` | once one of them was taken |
///
/// "Kept" means durably: a process that dies right after the call, or a machine
/// that loses its power, must not undo it. `promote` and `withdraw` may be
/// called when nothing is prepared, which is no error; `prepare` replaces what
/// an earlier one kept.
///
/// # Errors
///
/// One of `prepare` fails the change before the server is asked. One of
/// `promote` does not undo what the server did: the session uses the new
/// password from memory, and tells the source again after the next login, if
/// `unresolved` says that it should. One of `trying` stops no login.
///
/// # Cancellation
///
/// A call does not end with the caller that caused it. It is dropped after
/// the login timeout.
///
/// # Examples
///
/// A vault that keeps one text for each name, as most do:
///
/// ```
/// use tower_reauth::{CredentialSource, Credentials, Source, SourceError};
/// use tower_reauth::credentials::{Trying, Unresolved};
/// # use std::{collections::HashMap, io, sync::Mutex};
/// # use tower_reauth::{ExposeSecret, SecretString};
/// # struct Vault(Mutex<HashMap<&'static str, SecretString>>);
/// # impl Vault {
/// #     async fn get(&self, name: &'static str) -> io::Result<Option<SecretString>> {
/// #         Ok(self.0.lock().unwrap().get(name).cloned())
/// #     }
/// #     async fn put(&self, name: &'static str, text: SecretString) -> io::Result<()> {
/// #         self.0.lock().unwrap().insert(name, text);
/// #         Ok(())
/// #     }
/// #     async fn delete(&self, name: &'static str) -> io::Result<()> {
/// #         self.0.lock().unwrap().remove(name);
/// #         Ok(())
/// #     }
/// # }
///
/// struct InVault {
///     vault: Vault,
/// }
///
/// impl InVault {
///     async fn get(&self, name: &'static str) -> Result<Option<SecretString>, SourceError> {
///         self.vault.get(name).await.map_err(SourceError::unavailable)
///     }
/// }
///
/// impl CredentialSource for InVault {
///     async fn fetch(&self) -> Result<Credentials, SourceError> {
///         match self.get("password").await? {
///             Some(password) => Ok(Credentials::new("emuser", password)),
///             None => Err(SourceError::missing("the vault has no password")),
///         }
///     }
///
///     async fn prepare(&self, new: Credentials) -> Result<(), SourceError> {
///         self.trying(None).await?;
///         let new = new.password().clone();
///         self.vault.put("new_password", new).await.map_err(SourceError::unavailable)
///     }
///
///     async fn promote(&self) -> Result<(), SourceError> {
///         // In this order: a process that dies in between finds both.
///         if let Some(new) = self.get("new_password").await? {
///             self.vault.put("password", new).await.map_err(SourceError::unavailable)?;
///         }
///         self.withdraw().await
///     }
///
///     async fn withdraw(&self) -> Result<(), SourceError> {
///         self.vault.delete("new_password").await.map_err(SourceError::unavailable)
///     }
///
///     async fn unresolved(&self) -> Result<Option<Unresolved>, SourceError> {
///         let Some(new) = self.get("new_password").await? else {
///             return Ok(None);
///         };
///         let unresolved = Unresolved::new(Credentials::new("emuser", new));
///         let trying = self.get("trying").await?;
///         Ok(Some(match trying.and_then(|text| text.expose_secret().parse().ok()) {
///             Some(trying) => unresolved.trying(trying),
///             None => unresolved,
///         }))
///     }
///
///     async fn trying(&self, which: Option<Trying>) -> Result<(), SourceError> {
///         let told = match which {
///             Some(which) => self.vault.put("trying", which.as_str().into()).await,
///             None => self.vault.delete("trying").await,
///         };
///         told.map_err(SourceError::unavailable)
///     }
/// }
/// # let source = Source::new(InVault { vault: Vault(Mutex::default()) });
/// ```
pub trait CredentialSource: Send + Sync + 'static {
    /// Reads the credentials to log in with: those in use.
    fn fetch(&self) -> impl Future<Output = Result<Credentials, SourceError>> + Send;

    /// Puts `new` down beside the credentials in use, before the server is
    /// asked to change the password.
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

    /// What was prepared and neither promoted nor withdrawn, by this process or
    /// by one that died.
    ///
    /// The default says that there is nothing, which is right where a process
    /// takes what it prepared with it.
    fn unresolved(&self) -> impl Future<Output = Result<Option<Unresolved>, SourceError>> + Send {
        async { Ok(None) }
    }

    /// Keeps, beside what was prepared, which of the two passwords a login is
    /// about to send. `None` forgets it.
    ///
    /// So that a program which dies and starts over and over sends no wrong
    /// password twice in a row, and locks no account whose limit is two or more.
    fn trying(
        &self,
        which: Option<Trying>,
    ) -> impl Future<Output = Result<(), SourceError>> + Send {
        let _ = which;
        async { Ok(()) }
    }
}

/// A password change of which nobody knows whether the server made it.
#[derive(Clone, Debug)]
#[must_use]
pub struct Unresolved {
    pub(crate) new: Credentials,
    pub(crate) trying: Option<Trying>,
}

impl Unresolved {
    /// With the credentials that [`CredentialSource::prepare`] put down.
    pub fn new(new: Credentials) -> Self {
        Self { new, trying: None }
    }

    /// Says what [`CredentialSource::trying`] was told last.
    pub fn trying(mut self, which: Trying) -> Self {
        self.trying = Some(which);
        self
    }
}

/// Which password of an unresolved change a login sends.
///
/// [`Trying::as_str`] and [`str::parse`] turn it into text and back, for
/// whatever keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "json", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Trying {
    /// The new one. Should the process die, the next one tries the old one.
    New,
    /// The old one. Should the process die, the next one tries the new one.
    Old,
    /// The new one, after the server has refused the old one.
    OnlyNew,
    /// The old one, after the server has refused the new one.
    OnlyOld,
}

impl Trying {
    /// As text: `new`, `old`, `only_new` or `only_old`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Trying::New => "new",
            Trying::Old => "old",
            Trying::OnlyNew => "only_new",
            Trying::OnlyOld => "only_old",
        }
    }
}

impl FromStr for Trying {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let all = [Trying::New, Trying::Old, Trying::OnlyNew, Trying::OnlyOld];
        let known = all.into_iter().find(|known| known.as_str() == text);
        known.ok_or_else(|| SourceError::invalid("this names none of the passwords"))
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
}

/// Boxed once more it is the same source, so that one can be part of another.
impl CredentialSource for Source {
    async fn fetch(&self) -> Result<Credentials, SourceError> {
        self.0.fetch().await
    }

    async fn prepare(&self, new: Credentials) -> Result<(), SourceError> {
        self.0.prepare(new).await
    }

    async fn promote(&self) -> Result<(), SourceError> {
        self.0.promote().await
    }

    async fn withdraw(&self) -> Result<(), SourceError> {
        self.0.withdraw().await
    }

    async fn unresolved(&self) -> Result<Option<Unresolved>, SourceError> {
        self.0.unresolved().await
    }

    async fn trying(&self, which: Option<Trying>) -> Result<(), SourceError> {
        self.0.trying(which).await
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

type Outcome<'a, T> = Pin<Box<dyn Future<Output = Result<T, SourceError>> + Send + 'a>>;

trait ErasedSource: Send + Sync {
    fn fetch(&self) -> Outcome<'_, Credentials>;
    fn prepare(&self, new: Credentials) -> Outcome<'_, ()>;
    fn promote(&self) -> Outcome<'_, ()>;
    fn withdraw(&self) -> Outcome<'_, ()>;
    fn unresolved(&self) -> Outcome<'_, Option<Unresolved>>;
    fn trying(&self, which: Option<Trying>) -> Outcome<'_, ()>;
}

impl<S: CredentialSource> ErasedSource for S {
    fn fetch(&self) -> Outcome<'_, Credentials> {
        Box::pin(CredentialSource::fetch(self))
    }

    fn prepare(&self, new: Credentials) -> Outcome<'_, ()> {
        Box::pin(CredentialSource::prepare(self, new))
    }

    fn promote(&self) -> Outcome<'_, ()> {
        Box::pin(CredentialSource::promote(self))
    }

    fn withdraw(&self) -> Outcome<'_, ()> {
        Box::pin(CredentialSource::withdraw(self))
    }

    fn unresolved(&self) -> Outcome<'_, Option<Unresolved>> {
        Box::pin(CredentialSource::unresolved(self))
    }

    fn trying(&self, which: Option<Trying>) -> Outcome<'_, ()> {
        Box::pin(CredentialSource::trying(self, which))
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
    /// It has no credentials: a variable that is not set, a file that is not there.
    Missing,
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

    /// The source has no credentials; another one in a
    /// [`Chain`](super::Chain) may have some.
    pub fn missing(cause: impl Into<BoxError>) -> Self {
        Self::new(SourceErrorKind::Missing, cause)
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
            SourceErrorKind::Missing => "there are no credentials",
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
