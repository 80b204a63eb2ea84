//! The trait of a store, in which a changed password survives.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use secrecy::SecretString;

use super::account;
use super::error::SourceError;
use super::value::Credentials;

/// Where credentials are kept that this program changes: a file, a vault, a row of
/// a database.
///
/// A store keeps one [`Record`] as it is and knows nothing of its meaning. The crate
/// keeps in it what must survive a crash: the new password before the server is
/// asked to change to it, the old one until it can no longer be needed, and which
/// passwords the server refused. So no password is lost and no account is locked,
/// whichever process dies at whichever moment.
///
/// `FileStore` (feature `json`) implements it for a file. Check an implementation of
/// your own with `testing::store_conformance` (feature `testing`).
///
/// # Compare-and-swap
///
/// [`store`](Self::store) replaces the record only if its version is still the one
/// that was loaded. Otherwise it changes nothing and returns
/// [`SourceError::conflict`]; the crate then loads the record and decides again.
/// That is what makes several processes safe on one store: check-and-set of a vault,
/// `UPDATE .. WHERE version = ..` of a database, `If-Match` of an object store.
///
/// A store without it may ignore `expected` and then serves **one process at a
/// time**. Two that write at once can lose the working password.
///
/// # Durability
///
/// When `store` returns `Ok`, the record survives a crash of the process and the
/// loss of power. `store` is called twice for each login and each password change,
/// before the server is asked and after its answer, and `load` before each.
///
/// # What holds for all processes on one store
///
/// - Logins go one at a time. A process that must wait does not count the wait
///   against its login timeout.
/// - At most two logins fail in a row, so an account that is locked after three
///   leaves one failed login for people.
/// - After two logins without a verdict (a 503, a lost answer, a process that died
///   before or after it sent one), the next is sent after 1 min, doubling to 1 h. Each
///   such login may be a failed one, so chaos that lasts for hours can lock an account
///   nevertheless. [`Session::login`](crate::Session::login) does not wait. A password
///   that was accepted, with no password change unresolved, has no such delay.
///
/// # Conditions
///
/// - The [login timeout](crate::SessionBuilder::login_timeout) is at least as long as
///   the server works on a login, and at most one hour.
/// - The clocks of the processes differ by less than the login timeout.
/// - No request is executed later than the
///   [retention](crate::SessionBuilder::password_retention), 24 h by default.
/// - After a password change with [`ErrorKind::Uncertain`](crate::ErrorKind::Uncertain)
///   call it again with the same password.
/// - To change the password by hand, replace the current password of the record
///   ([`Record::set_password`], or the field `password` of its JSON) and leave the
///   rest. A first password in the code is not used once there is a record.
///
/// Times in the record are wall-clock times. They follow tokio's clock in between, so
/// a paused clock moves them in tests.
///
/// # Errors
///
/// If `load` fails, the login or the password change fails. If `store` fails,
/// nothing is sent, except once a password that was accepted before. If it fails
/// after the server's answer, the answer is kept in memory and stored with the next
/// record.
///
/// # Cancellation
///
/// A call does not end with the caller that caused it. It is dropped after the
/// login timeout. A `store` that was dropped, or has failed, may have stored the record,
/// or may store it later, if it still compares the version then.
///
/// # Examples
///
/// A vault that keeps one text for each name, and counts its versions from 1. A
/// write succeeds only if the version is the expected one; version 0 expects that the
/// name is new. This is the check-and-set of Vault's key-value engine, version 2. That
/// engine also keeps older versions: limit them, since they hold passwords.
///
/// ```
/// use tower_reauth::{CredentialStore, Credentials, ExposeSecret, Source, SourceError};
/// use tower_reauth::credentials::{Record, Version};
/// # use std::{io, sync::Mutex};
/// # use tower_reauth::SecretString;
/// # #[derive(Clone, Default)]
/// # struct Vault(std::sync::Arc<Mutex<Option<(SecretString, u64)>>>);
/// # impl Vault {
/// #     async fn get(&self, _: &str) -> io::Result<Option<(SecretString, u64)>> {
/// #         Ok(self.0.lock().unwrap().clone())
/// #     }
/// #     async fn put(&self, _: &str, text: SecretString, cas: u64) -> io::Result<bool> {
/// #         let mut kept = self.0.lock().unwrap();
/// #         let version = kept.as_ref().map_or(0, |(_, version)| *version);
/// #         if version == cas {
/// #             *kept = Some((text, version + 1));
/// #         }
/// #         Ok(version == cas)
/// #     }
/// # }
///
/// struct InVault(Vault);
///
/// impl CredentialStore for InVault {
///     async fn load(&self) -> Result<(Record, Version), SourceError> {
///         match self.0.get("ctm/emuser").await.map_err(SourceError::unavailable)? {
///             Some((text, version)) => {
///                 let record = Record::from_json(text.expose_secret())?;
///                 Ok((record, Version::from(version)))
///             }
///             // The very first start.
///             None => Ok((Credentials::new("emuser", "initial").into(), Version::from(0))),
///         }
///     }
///
///     async fn store(&self, record: Record, expected: Version) -> Result<(), SourceError> {
///         let cas = expected.as_u64().expect("`load` returned it");
///         match self.0.put("ctm/emuser", record.to_json(), cas).await {
///             Ok(true) => Ok(()),
///             Ok(false) => Err(SourceError::conflict()),
///             Err(error) => Err(SourceError::unavailable(error)),
///         }
///     }
/// }
///
/// # let vault = Vault::default();
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # tower_reauth::testing::store_conformance(|| InVault(vault.clone())).await.unwrap();
/// # });
/// let source = Source::new(InVault(Vault::default()));
/// ```
///
/// A row of a database, `accounts(name, record, version)`:
///
/// ```
/// use tower_reauth::{CredentialStore, ExposeSecret, SourceError};
/// use tower_reauth::credentials::{Record, Version};
/// # use tower_reauth::SecretString;
/// # use std::{io, sync::Mutex};
/// # #[derive(Clone)]
/// # struct Database(std::sync::Arc<Mutex<(SecretString, u64)>>);
/// # impl Database {
/// #     async fn query(&self, _: &str, _: &str) -> io::Result<Option<(SecretString, u64)>> {
/// #         Ok(Some(self.0.lock().unwrap().clone()))
/// #     }
/// #     async fn execute(&self, _: &str, (record, _, version): (SecretString, &str, u64)) -> io::Result<u64> {
/// #         let mut row = self.0.lock().unwrap();
/// #         if row.1 != version { return Ok(0) }
/// #         *row = (record, version + 1);
/// #         Ok(1)
/// #     }
/// # }
///
/// struct InDatabase {
///     database: Database,
///     name: String,
/// }
///
/// impl CredentialStore for InDatabase {
///     async fn load(&self) -> Result<(Record, Version), SourceError> {
///         let row = self
///             .database
///             .query("SELECT record, version FROM accounts WHERE name = ?", &self.name)
///             .await
///             .map_err(SourceError::unavailable)?;
///         let (record, version) = row.ok_or_else(|| SourceError::missing("no such account"))?;
///         Ok((Record::from_json(record.expose_secret())?, Version::from(version)))
///     }
///
///     async fn store(&self, record: Record, expected: Version) -> Result<(), SourceError> {
///         let version = expected.as_u64().expect("`load` returned it");
///         let updated = self
///             .database
///             .execute(
///                 "UPDATE accounts SET record = ?, version = version + 1 \
///                  WHERE name = ? AND version = ?",
///                 (record.to_json(), &self.name, version),
///             )
///             .await
///             .map_err(SourceError::unavailable)?;
///         match updated {
///             0 => Err(SourceError::conflict()),
///             _ => Ok(()),
///         }
///     }
/// }
/// # let record = Record::from(tower_reauth::Credentials::new("emuser", "initial"));
/// # let database = Database(Mutex::new((record.to_json(), 1)).into());
/// # let open = || InDatabase { database: database.clone(), name: "emuser".into() };
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # tower_reauth::testing::store_conformance(open).await.unwrap();
/// # });
/// ```
pub trait CredentialStore: Send + Sync + 'static {
    /// Loads the record and its version.
    fn load(&self) -> impl Future<Output = Result<(Record, Version), SourceError>> + Send;

    /// Replaces the record if its version is still `expected`.
    ///
    /// # Errors
    ///
    /// [`SourceError::conflict`] if the version is another one; nothing is stored
    /// then.
    fn store(
        &self,
        record: Record,
        expected: Version,
    ) -> impl Future<Output = Result<(), SourceError>> + Send;
}

/// The record of an account: the username, its passwords, and what is known of them.
///
/// A store keeps it as it is. `Debug` shows the username only, and the passwords are
/// wiped when the last copy drops.
#[derive(Clone, PartialEq, Eq)]
pub struct Record(account::Record);

/// The version of a record: a number, a tag or a digest that differs whenever the
/// record was stored in between.
///
/// Only the store that returned it reads it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(Box<str>);

impl Record {
    /// Creates the record of an account that was never stored.
    #[must_use]
    pub fn new(username: impl Into<String>, password: impl Into<SecretString>) -> Self {
        Self(account::Record::new(username, password.into()))
    }

    /// Returns the name of the user.
    #[must_use]
    pub fn username(&self) -> &str {
        self.0.username()
    }

    /// Returns the current password.
    #[must_use]
    pub fn password(&self) -> &SecretString {
        self.0.current().secret()
    }

    /// Replaces the current password, as a person does who has changed it at the
    /// server. The former one is kept until a login with the new one is accepted and
    /// the retention is over.
    pub fn set_password(&mut self, password: impl Into<SecretString>) {
        self.0.edit(password.into().into());
    }

    /// Returns the record as JSON text.
    ///
    /// The text holds the passwords: encrypt it where others may read it.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    #[must_use]
    pub fn to_json(&self) -> SecretString {
        let json = self.0.to_json();
        let text = std::str::from_utf8(&json).expect("JSON is UTF-8");
        text.into()
    }

    /// Reads a record from JSON text.
    ///
    /// `{"username": "..", "password": ".."}` is a record, which a person may write
    /// by hand. Records of earlier versions of this crate are read too.
    ///
    /// # Errors
    ///
    /// [`Invalid`](super::SourceErrorKind::Invalid) if it is not a record. The error
    /// names the line and the column and quotes nothing.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    pub fn from_json(text: impl AsRef<[u8]>) -> Result<Self, SourceError> {
        match Self::parse(text.as_ref()) {
            Ok(record) => Ok(record),
            Err(invalid) => Err(SourceError::invalid(format!("the record: {invalid}"))),
        }
    }

    #[cfg(feature = "json")]
    pub(super) fn parse(text: &[u8]) -> Result<Self, account::InvalidRecord> {
        account::Record::from_json(text, super::clock::wall_time()).map(Self)
    }

    pub(super) fn credentials(&self) -> Credentials {
        Credentials::new(self.username(), self.password().clone())
    }

    pub(super) fn into_account(self) -> account::Record {
        self.0
    }

    #[cfg(feature = "json")]
    pub(super) fn account(&self) -> &account::Record {
        &self.0
    }

    /// The process that changed the password has died.
    #[cfg(feature = "json")]
    pub(super) fn end_change(&mut self) {
        self.0.end_change();
    }

    /// Returns a record that holds something in each field, except a password change
    /// in progress.
    #[cfg(feature = "testing")]
    pub(crate) fn example(password: impl Into<SecretString>) -> Self {
        Self(account::Record::example(password.into()))
    }

    pub(super) fn of_account(record: account::Record) -> Self {
        Self(record)
    }
}

impl From<Credentials> for Record {
    fn from(credentials: Credentials) -> Self {
        Self::new(credentials.username(), credentials.password().clone())
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("username", &self.username())
            .finish_non_exhaustive()
    }
}

impl Version {
    /// Creates a version from a text, such as an entity tag.
    #[must_use]
    pub fn new(version: impl Into<String>) -> Self {
        Self(version.into().into_boxed_str())
    }

    /// Returns the version as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the version as a number, or `None` if it is not one.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        self.0.parse().ok()
    }
}

impl From<u64> for Version {
    fn from(version: u64) -> Self {
        Self::new(version.to_string())
    }
}

pub(super) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The object-safe form of a store.
pub trait ErasedStore: Send + Sync {
    /// Loads the record and its version.
    fn load(&self) -> BoxFuture<'_, Result<(Record, Version), SourceError>>;

    /// Replaces the record.
    fn store(&self, record: Record, expected: Version) -> BoxFuture<'_, Result<(), SourceError>>;
}

impl<S: CredentialStore> ErasedStore for S {
    fn load(&self) -> BoxFuture<'_, Result<(Record, Version), SourceError>> {
        Box::pin(CredentialStore::load(self))
    }

    fn store(&self, record: Record, expected: Version) -> BoxFuture<'_, Result<(), SourceError>> {
        Box::pin(CredentialStore::store(self, record, expected))
    }
}
