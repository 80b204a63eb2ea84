//! The trait that a source of credentials implements, and its boxed form.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use super::account::AccountSettings;
use super::error::{SourceError, SourceErrorKind};
use super::shared_account::{InMemory, OpenAccount, SharedAccount};
use super::store::{BoxFuture, CredentialStore, ErasedStore};
use super::value::Credentials;

/// Where credentials come from, if they can only be read: the environment, a
/// mounted secret, a function.
///
/// A source that can also be written is a
/// [`CredentialStore`](crate::CredentialStore), and each of those is a
/// `CredentialSource` too.
///
/// The session calls it in a task of its own, before each login, and never while
/// a request holds anything. Several sessions that share a [`Source`] may call it
/// at the same time.
///
/// # What a source that cannot be written cannot do
///
/// - A password change fails before the server is asked, unless the caller
///   permits it with [`PasswordChange::allow_unstored`]. The new password then
///   lives as long as the [`Source`]; the old value in the source is not news.
/// - It does not remember across restarts which password the server refused. A
///   process that is restarted every 10 s with a wrong password sends it six
///   times a minute, and locks an account whose limit is 5 within that minute.
///   Ways out: a [`CredentialStore`](crate::CredentialStore) such as `FileStore`,
///   which remembers; a supervisor that backs off (Kubernetes doubles the delay up
///   to 5 min; systemd has `RestartSec` and `StartLimitBurst`); or a process that
///   does not exit when a login is refused.
///
/// [`PasswordChange::allow_unstored`]: crate::PasswordChange::allow_unstored
///
/// # Cancellation
///
/// A call does not end with the caller that caused it. It is dropped after the
/// login timeout.
///
/// # Examples
///
/// ```
/// use tower_reauth::{CredentialSource, Credentials, Source, SourceError};
/// # struct Vault;
/// # impl Vault {
/// #     async fn get(&self, name: &str) -> std::io::Result<Option<String>> {
/// #         Ok(Some(name.to_owned()))
/// #     }
/// # }
///
/// struct InVault(Vault);
///
/// impl CredentialSource for InVault {
///     async fn fetch(&self) -> Result<Credentials, SourceError> {
///         match self.0.get("ctm/password").await.map_err(SourceError::unavailable)? {
///             Some(password) => Ok(Credentials::new("emuser", password)),
///             None => Err(SourceError::missing("the vault has no ctm/password")),
///         }
///     }
/// }
///
/// let source = Source::new(InVault(Vault));
/// ```
pub trait CredentialSource: Send + Sync + 'static {
    /// Reads the credentials to log in with.
    fn fetch(&self) -> impl Future<Output = Result<Credentials, SourceError>> + Send;

    /// How the session uses this source. Not for implementers.
    #[doc(hidden)]
    fn __role(&self) -> Role<'_> {
        Role::ReadOnly
    }
}

/// How the session uses a source.
#[expect(missing_debug_implementations, reason = "it holds foreign types")]
pub enum Role<'a> {
    /// It yields credentials and cannot be written.
    ReadOnly,
    /// The credentials are in memory: a changed password is kept with what is known
    /// of them.
    Memory,
    /// It keeps a record.
    Store(&'a dyn ErasedStore),
    /// The first of these that has credentials counts.
    Chain(&'a [Source]),
    /// It is this one, boxed once more.
    Source(&'a Source),
}

/// A boxed source of credentials, and what the sessions of this process know of
/// them: which password was refused, and whether a password change is unresolved.
///
/// Cloning copies a pointer. Clones share that knowledge, so give all sessions of
/// one account clones of one `Source`. Two sources that are made of equal
/// [`Credentials`] share nothing, and may each send a wrong password.
///
/// A provider must not use another session of the same `Source` in its own login: that
/// login would wait for its own. It gets
/// [`ErrorKind::Recursive`](crate::ErrorKind::Recursive).
///
/// The knowledge of a source that cannot be written is kept for each login system
/// separately (see [`Profile::realm`](crate::Profile::realm)). A
/// [`CredentialStore`](crate::CredentialStore) keeps one record, so it belongs to one
/// login system.
#[derive(Clone)]
pub struct Source(Arc<SharedSource>);

struct SharedSource {
    source: Box<dyn ErasedSource>,
    // Locked for moments, never across a call.
    accounts: Mutex<Vec<(Realm, Arc<SharedAccount>)>>,
}

impl Source {
    /// Boxes a source or a store.
    pub fn new(source: impl CredentialSource) -> Self {
        Self(Arc::new(SharedSource {
            source: Box::new(source),
            accounts: Mutex::default(),
        }))
    }

    /// Creates a source that calls `fetch` before each login, and cannot be written.
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

    /// Reads the source, and returns the account that its credentials belong to.
    pub(crate) fn open<'a>(
        &'a self,
        realm: &'a Realm,
        settings: AccountSettings,
    ) -> BoxFuture<'a, Result<OpenAccount<'a>, SourceError>> {
        Box::pin(async move {
            match self.0.source.role() {
                Role::Source(inner) => inner.open(realm, settings).await,
                Role::Chain(sources) => {
                    first_of(sources, |source| source.open(realm, settings.clone())).await
                }
                Role::ReadOnly => {
                    let credentials = self.0.source.fetch().await?;
                    let shared = self.account(realm);
                    let kind = InMemory::UntilStored;
                    Ok(OpenAccount::observed(shared, settings, &credentials, kind))
                }
                Role::Memory => {
                    let credentials = self.0.source.fetch().await?;
                    let shared = self.account(realm);
                    let kind = InMemory::ForGood;
                    Ok(OpenAccount::observed(shared, settings, &credentials, kind))
                }
                Role::Store(store) => {
                    let loaded = store.load().await?;
                    // One record belongs to one login system.
                    let shared = self.account(&Realm::default());
                    Ok(OpenAccount::stored(shared, settings, store, loaded))
                }
            }
        })
    }

    fn account(&self, realm: &Realm) -> Arc<SharedAccount> {
        let accounts = self.0.accounts.lock();
        let mut accounts = accounts.unwrap_or_else(PoisonError::into_inner);
        match accounts.iter().find(|(known, _)| known == realm) {
            Some((_, account)) => account.clone(),
            None => {
                let account = Arc::new(SharedAccount::new());
                accounts.push((realm.clone(), account.clone()));
                account
            }
        }
    }
}

/// Asks `sources` in order and returns the first answer that is not
/// [`Missing`](SourceErrorKind::Missing).
pub(super) async fn first_of<'a, T, F>(
    sources: &'a [Source],
    ask: impl Fn(&'a Source) -> F,
) -> Result<T, SourceError>
where
    F: Future<Output = Result<T, SourceError>>,
{
    let mut missing = Vec::new();
    for source in sources {
        match ask(source).await {
            Err(error) if error.kind() == SourceErrorKind::Missing => missing.push(error),
            answer => return answer,
        }
    }
    Err(SourceError::none_of(missing))
}

/// Each store is a source: its credentials are the current ones of its record.
impl<S: CredentialStore> CredentialSource for S {
    async fn fetch(&self) -> Result<Credentials, SourceError> {
        let (record, _) = self.load().await?;
        Ok(record.credentials())
    }

    fn __role(&self) -> Role<'_> {
        Role::Store(self)
    }
}

/// The login system that credentials belong to. `None` is the only one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Realm(pub(crate) Option<Arc<str>>);

/// A source in a source: both share what is known of the credentials.
impl CredentialSource for Source {
    async fn fetch(&self) -> Result<Credentials, SourceError> {
        self.0.source.fetch().await
    }

    fn __role(&self) -> Role<'_> {
        Role::Source(self)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

trait ErasedSource: Send + Sync {
    fn fetch(&self) -> BoxFuture<'_, Result<Credentials, SourceError>>;
    fn role(&self) -> Role<'_>;
}

impl<S: CredentialSource> ErasedSource for S {
    fn fetch(&self) -> BoxFuture<'_, Result<Credentials, SourceError>> {
        Box::pin(CredentialSource::fetch(self))
    }

    fn role(&self) -> Role<'_> {
        self.__role()
    }
}
