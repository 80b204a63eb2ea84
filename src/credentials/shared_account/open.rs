//! An opened account: loads and stores the record.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::shared::{Blocker, SharedAccount};
use crate::credentials::account::{
    Account, AccountSettings, Observed, Password, Record, Unsaved, WallTime,
};
use crate::credentials::clock::wall_time;
use crate::credentials::error::{SourceError, SourceErrorKind};
use crate::credentials::store::{self, ErasedStore, Version};
use crate::credentials::value::Credentials;
use crate::error::Error;

/// How often a decision is repeated because others have stored the record.
pub(super) const MAX_CONFLICTS: usize = 100;

/// How long a process waits before it looks whether the login of another process
/// has ended. The delay doubles.
const FIRST_POLL: Duration = Duration::from_millis(50);

const LONGEST_POLL: Duration = Duration::from_millis(500);

/// How a password is kept whose source cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::credentials) enum InMemory {
    /// A caller must permit it: the source is to be changed too.
    UntilStored,
    /// It is what the source is for.
    ForGood,
}

/// An account, opened by a job.
pub(crate) struct OpenAccount<'a> {
    pub(super) shared: Arc<SharedAccount>,
    pub(super) machine: Account,
    storage: RecordStorage<'a>,
    /// The timeout of a call of the store.
    timeout: Duration,
    /// The passwords of the records so far, for redaction.
    secrets: Vec<SecretString>,
    polls: u32,
}

enum RecordStorage<'a> {
    Memory(InMemory),
    Store {
        store: &'a dyn ErasedStore,
        /// The record as the opening has loaded it.
        loaded: Option<(store::Record, Version)>,
    },
}

/// A loaded record, with the events that the store failed to keep.
pub(super) struct Loaded {
    pub(super) record: Record,
    version: Version,
    caught_up: Unsaved<Password>,
    pub(super) now: WallTime,
}

/// Whether the store took a record.
pub(super) enum Saved {
    Yes,
    Conflict,
}

/// The current credentials of an account.
pub(crate) enum CurrentCredentials {
    Credentials(Credentials),
    /// The server refused them. The last refusal, if this process received it.
    Refused(Option<Error>),
    /// It is not known which password works.
    Unknown,
}

impl<'a> OpenAccount<'a> {
    /// Opens the account of a source that cannot keep a record, and yields these
    /// credentials now.
    pub(in crate::credentials) fn observed(
        shared: Arc<SharedAccount>,
        settings: AccountSettings,
        credentials: &Credentials,
        kind: InMemory,
    ) -> Self {
        let password = Password::from(credentials.password().clone());
        let mut known = shared.known();
        let username = credentials.username();
        match &mut known.observed {
            Some(observed) => observed.yields(username, password, wall_time()),
            None => known.observed = Some(Observed::new(username, password)),
        }
        drop(known);
        Self::new(shared, settings, RecordStorage::Memory(kind))
    }

    /// Opens the account of a store.
    pub(in crate::credentials) fn stored(
        shared: Arc<SharedAccount>,
        settings: AccountSettings,
        store: &'a dyn ErasedStore,
        loaded: (store::Record, Version),
    ) -> Self {
        let loaded = Some(loaded);
        Self::new(shared, settings, RecordStorage::Store { store, loaded })
    }

    fn new(
        shared: Arc<SharedAccount>,
        settings: AccountSettings,
        storage: RecordStorage<'a>,
    ) -> Self {
        Self {
            timeout: settings.login_timeout,
            machine: Account::new(settings, shared.owner),
            shared,
            storage,
            secrets: Vec::new(),
            polls: 0,
        }
    }

    /// Returns a number that no other live account has.
    pub(crate) fn identity(&self) -> usize {
        Arc::as_ptr(&self.shared).addr()
    }

    /// Returns the current credentials, for a caller that must not test a password.
    pub(crate) async fn current(&mut self) -> Result<CurrentCredentials, SourceError> {
        let Loaded { record, .. } = self.load().await?;
        if record.is_refused(record.current()) {
            return Ok(CurrentCredentials::Refused(
                self.shared.known().refusal.clone(),
            ));
        }
        if record.is_unresolved() {
            return Ok(CurrentCredentials::Unknown);
        }
        let password = record.current().secret().clone();
        let credentials = Credentials::new(record.username(), password);
        Ok(CurrentCredentials::Credentials(credentials))
    }

    /// Returns whether a changed password outlives this process, or is not meant to.
    pub(crate) fn keeps_passwords(&self) -> bool {
        match self.storage {
            RecordStorage::Memory(InMemory::UntilStored) => false,
            RecordStorage::Memory(InMemory::ForGood) | RecordStorage::Store { .. } => true,
        }
    }

    /// Loads the record, and adds the events that the store failed to keep.
    pub(super) async fn load(&mut self) -> Result<Loaded, SourceError> {
        let (record, version) = match &mut self.storage {
            RecordStorage::Memory(_) => {
                let known = self.shared.known();
                let observed = known.observed.as_ref().expect("the opening has set it");
                let version = Version::from(observed.version());
                (observed.record().clone(), version)
            }
            RecordStorage::Store { store, loaded } => {
                let (record, version) = match loaded.take() {
                    Some(loaded) => loaded,
                    None => in_time(self.timeout, store.load())
                        .await
                        .map_err(|error| error.without(&self.secrets))?,
                };
                (record.into_account(), version)
            }
        };
        self.secrets = secrets_of(&record);
        let caught_up = self.shared.known().unsaved.clone();
        let now = wall_time();
        let next = caught_up.catch_up(&self.machine, &record, now);
        Ok(Loaded {
            record: next.unwrap_or(record),
            version,
            caught_up,
            now,
        })
    }

    /// Stores `record` if the stored one is still the one that was `loaded`.
    pub(super) async fn save(
        &mut self,
        record: Record,
        loaded: Loaded,
    ) -> Result<Saved, SourceError> {
        match &self.storage {
            RecordStorage::Memory(_) => {
                let mut known = self.shared.known();
                let observed = known.observed.as_mut().expect("the opening has set it");
                if Version::from(observed.version()) != loaded.version {
                    return Ok(Saved::Conflict);
                }
                observed.store(record);
            }
            RecordStorage::Store { store, .. } => {
                // A store's error may quote the record.
                self.secrets.extend(secrets_of(&record));
                let record = store::Record::of_account(record);
                match in_time(self.timeout, store.store(record, loaded.version)).await {
                    Ok(()) => {}
                    Err(error) if error.kind() == SourceErrorKind::Conflict => {
                        return Ok(Saved::Conflict);
                    }
                    Err(error) => return Err(error.without(&self.secrets)),
                }
            }
        }
        self.shared.known().unsaved.saved(&loaded.caught_up);
        Ok(Saved::Yes)
    }

    /// Returns when to decide anew. Other processes cannot notify this one, and clocks
    /// may be set, so the record is polled.
    pub(super) fn blocker(&mut self, until: WallTime, now: WallTime, ended: u64) -> Blocker {
        let poll = FIRST_POLL.saturating_mul(1 << self.polls.min(10));
        self.polls += 1;
        let delay = until.since(now).min(poll.min(LONGEST_POLL));
        Blocker::new(self.shared.clone(), delay, ended)
    }
}

pub(super) fn secrets_of(record: &Record) -> Vec<SecretString> {
    record.passwords().map(|it| it.secret().clone()).collect()
}

/// Runs a call of a store. It may or may not have had an effect after a timeout.
async fn in_time<T>(
    timeout: Duration,
    call: impl Future<Output = Result<T, SourceError>>,
) -> Result<T, SourceError> {
    match tokio::time::timeout(timeout, call).await {
        Ok(answer) => answer,
        Err(_) => Err(timed_out()),
    }
}

pub(super) fn timed_out() -> SourceError {
    SourceError::unavailable("the credential store did not answer within the login timeout")
}

pub(super) fn too_many_conflicts() -> SourceError {
    SourceError::unavailable(format!(
        "the record was stored by others {MAX_CONFLICTS} times in a row"
    ))
}

impl fmt::Debug for OpenAccount<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAccount").finish_non_exhaustive()
    }
}
