//! The knowledge that the sessions of this process share about an account.
//!
//! [`SharedAccount`] belongs to a source. A job opens it as [`OpenAccount`], which
//! fulfils the contract of [`Account`]: it loads the record, decides, stores the new
//! record if the stored one is still the same, and only then lets the job send.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::account::{
    Account, Answer, Asked, Begin, Event, Id, Login, Observed, Owner, Password, Record, Sent,
    Settings, Unsaved, Verdict, WallTime, Wanted,
};
use super::clock::wall_time;
use super::error::{SourceError, SourceErrorKind};
use super::store::{self, ErasedStore, Version};
use super::value::Credentials;
use crate::error::Error;

/// How often a decision is repeated because others have stored the record.
const MAX_CONFLICTS: usize = 100;

/// How long a process waits before it looks whether the login of another process
/// has ended. The delay doubles.
const FIRST_POLL: Duration = Duration::from_millis(50);

const LONGEST_POLL: Duration = Duration::from_millis(500);

/// The knowledge that the sessions of this process share about an account.
pub(crate) struct SharedAccount {
    owner: Owner,
    // Locked for moments, never across a call.
    known: Mutex<Known>,
    /// Notified after each login and each password change.
    changed: Notify,
}

#[derive(Default)]
struct Known {
    /// The record, if the source cannot keep one.
    observed: Option<Observed<Password>>,
    /// How many logins and password changes have ended.
    ended: u64,
    /// The events that the store failed to keep.
    unsaved: Unsaved<Password>,
    /// The server's last refusal.
    refusal: Option<Error>,
    /// A password that the server accepted without a login, and its answer: the
    /// password has expired, or the login needs a person.
    needs_action: Option<(Password, Error)>,
}

impl Known {
    /// Removes the answers of the server. Their `Drop` is foreign code: they must drop
    /// after the lock is released.
    #[must_use]
    fn take_errors(&mut self) -> impl Sized + use<> {
        (self.refusal.take(), self.needs_action.take())
    }
}

/// How a password is kept whose source cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InMemory {
    /// A caller must permit it: the source is to be changed too.
    UntilStored,
    /// It is what the source is for.
    ForGood,
}

/// An account, opened by a job.
pub(crate) struct OpenAccount<'a> {
    shared: Arc<SharedAccount>,
    machine: Account,
    storage: Storage<'a>,
    /// The timeout of a call of the store.
    timeout: Duration,
    /// The passwords of the records so far, for redaction.
    secrets: Vec<SecretString>,
    polls: u32,
}

enum Storage<'a> {
    Memory(InMemory),
    Store {
        store: &'a dyn ErasedStore,
        /// The record as the opening has loaded it.
        loaded: Option<(store::Record, Version)>,
    },
}

/// A loaded record, with the events that the store failed to keep.
struct Loaded {
    record: Record,
    version: Version,
    caught_up: Unsaved<Password>,
    now: WallTime,
}

enum Saved {
    Yes,
    Conflict,
}

/// The current credentials of an account.
pub(crate) enum Current {
    Credentials(Credentials),
    /// The server refused them. The last refusal, if this process received it.
    Refused(Option<Error>),
    /// It is not known which password works.
    Unknown,
}

/// The answer to a caller that needs a login.
pub(crate) enum LoginStep {
    /// Send it.
    Send(ClaimedLogin),
    /// Wait for the login or the change of another, then decide anew.
    Wait(Blocker),
    /// Decide anew after this delay: more logins might lock the account.
    Later(Duration),
    /// No password may be sent. The last refusal, if this process received it.
    Stopped(Option<Error>),
}

/// The answer to a caller that wants to change the password.
pub(crate) enum ChangeStep {
    /// Ask the server to change to this password.
    Ask(ClaimedChange),
    /// Ask the server to change to the password of an earlier change first, which may
    /// still take effect.
    AskAgain(ClaimedChange),
    /// Wait for the login of another, then decide anew.
    Wait(Blocker),
    /// A login must show first which password works.
    LogInFirst,
    /// Another change is in progress, at most for so long.
    Busy(Duration),
    /// The password is the current one already.
    AlreadyCurrent,
    /// The record must keep all its passwords.
    NoRoom,
}

/// Another login or password change of the account that is in progress.
pub(crate) struct Blocker {
    shared: Arc<SharedAccount>,
    until: Instant,
    /// How many had ended when the record was loaded.
    ended: u64,
}

/// A login that is claimed. If it is dropped, the account learns how far it came.
pub(crate) struct ClaimedLogin {
    shared: Arc<SharedAccount>,
    sent: Sent<Password>,
    username: String,
    passwords: Vec<SecretString>,
    is_unresolved: bool,
    has_tries: bool,
    deadline: Instant,
    /// The verdict to report if this is dropped, and its time. `None` while the server
    /// works on the login: its outcome is not known, so the claim lasts until its end.
    if_dropped: Option<(Verdict, WallTime)>,
}

/// A password change that is claimed. If it is dropped, the account learns how far
/// it came.
pub(crate) struct ClaimedChange {
    shared: Arc<SharedAccount>,
    asked: Asked<Password>,
    username: String,
    deadline: Instant,
    if_dropped: Option<Answer>,
}

impl SharedAccount {
    pub(super) fn new() -> Self {
        Self {
            owner: Owner(random()),
            known: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, event: Event<Password>) {
        self.known().unsaved.keep(event);
        self.ended();
    }

    /// A login or a password change has ended.
    fn ended(&self) {
        self.known().ended += 1;
        self.changed.notify_waiters();
    }
}

/// Returns a random number, different from those of other processes.
fn random() -> u64 {
    RandomState::new().hash_one("an account")
}

impl<'a> OpenAccount<'a> {
    /// Opens the account of a source that cannot keep a record, and yields these
    /// credentials now.
    pub(super) fn observed(
        shared: Arc<SharedAccount>,
        settings: Settings,
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
        Self::new(shared, settings, Storage::Memory(kind))
    }

    /// Opens the account of a store.
    pub(super) fn stored(
        shared: Arc<SharedAccount>,
        settings: Settings,
        store: &'a dyn ErasedStore,
        loaded: (store::Record, Version),
    ) -> Self {
        let loaded = Some(loaded);
        Self::new(shared, settings, Storage::Store { store, loaded })
    }

    fn new(shared: Arc<SharedAccount>, settings: Settings, storage: Storage<'a>) -> Self {
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
    pub(crate) async fn current(&mut self) -> Result<Current, SourceError> {
        let Loaded { record, .. } = self.load().await?;
        if record.is_refused(record.current()) {
            return Ok(Current::Refused(self.shared.known().refusal.clone()));
        }
        if record.is_unresolved() {
            return Ok(Current::Unknown);
        }
        let password = record.current().secret().clone();
        let credentials = Credentials::new(record.username(), password);
        Ok(Current::Credentials(credentials))
    }

    /// Decides a login, and claims it if it is to be sent.
    ///
    /// # Errors
    ///
    /// If the store fails. Nothing may be sent then.
    pub(crate) async fn begin_login(&mut self, wanted: Wanted) -> Result<LoginStep, SourceError> {
        for _ in 0..MAX_CONFLICTS {
            // Read before the record is loaded: no end is missed in between.
            let ended = self.shared.known().ended;
            let loaded = self.load().await?;
            let now = loaded.now;
            if let Some(until) = loaded.record.change_of(self.shared.owner, now) {
                return Ok(LoginStep::Wait(self.blocker(until, now, ended)));
            }
            let decided = self
                .machine
                .decide_login(&loaded.record, wanted, Id(random()), now);
            let (record, sent) = match decided {
                Login::Send { record, sent } => (record, sent),
                Login::Wait { until } => {
                    return Ok(LoginStep::Wait(self.blocker(until, now, ended)));
                }
                Login::Later { at } => return Ok(LoginStep::Later(at.since(now))),
                Login::Stopped { .. } => {
                    return Ok(LoginStep::Stopped(self.shared.known().refusal.clone()));
                }
            };
            if let Some(error) = self.needs_action(&sent, wanted) {
                return Ok(LoginStep::Stopped(Some(error)));
            }
            let length = sent.until().since(now);
            let mut claimed = ClaimedLogin {
                shared: self.shared.clone(),
                username: record.username().to_owned(),
                passwords: secrets_of(&record),
                is_unresolved: record.is_unresolved(),
                has_tries: record.has_tries(),
                deadline: Instant::now() + length,
                sent,
                // Also if storing it fails: it may be stored nevertheless.
                if_dropped: Some((Verdict::NotSent, now)),
            };
            let before = loaded.record.clone();
            match self.save(record, loaded).await {
                Ok(Saved::Yes) => {}
                Ok(Saved::Conflict) => {
                    claimed.done();
                    continue;
                }
                Err(error) => {
                    let unsaved = &mut self.shared.known().unsaved;
                    if !unsaved.may_send(&before, &mut claimed.sent, now) {
                        return Err(error);
                    }
                    // Nobody relies on its end.
                    claimed.deadline = Instant::now() + length;
                }
            }
            // The store took so long that the claim is over.
            if Instant::now() >= claimed.deadline {
                return Err(timed_out());
            }
            return Ok(LoginStep::Send(claimed));
        }
        Err(too_many_conflicts())
    }

    fn needs_action(&self, sent: &Sent<Password>, wanted: Wanted) -> Option<Error> {
        let known = self.shared.known();
        let (password, error) = known.needs_action.as_ref()?;
        (wanted == Wanted::Usual && password == sent.password()).then(|| error.clone())
    }

    /// Stores the verdict on a login. If that fails, the verdict is kept in memory
    /// and stored with the next record.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(crate) async fn land_login(
        &mut self,
        mut login: ClaimedLogin,
        verdict: Verdict,
    ) -> Result<(), SourceError> {
        let at = wall_time();
        login.if_dropped = Some((verdict, at));
        for _ in 0..MAX_CONFLICTS {
            let loaded = self.load().await?;
            let landed = self
                .machine
                .landed(&loaded.record, &login.sent, verdict, at, loaded.now);
            let saved = match landed {
                Some(record) if record != loaded.record => self.save(record, loaded).await?,
                Some(_) | None => {
                    if verdict == Verdict::Accepted {
                        self.shared.known().unsaved.accepted();
                    }
                    Saved::Yes
                }
            };
            if let Saved::Yes = saved {
                login.done();
                return Ok(());
            }
        }
        Err(too_many_conflicts())
    }

    /// The server refused the password of a login with `error`.
    pub(crate) fn on_refused(&self, error: Error) {
        let _former = self.shared.known().refusal.replace(error);
    }

    /// The server accepted a password, and a login or a change has succeeded.
    pub(crate) fn on_success(&self) {
        let _former = self.shared.known().take_errors();
    }

    /// The server accepted the password of `login`, and answered with `error`.
    pub(crate) fn on_needs_action(&self, login: &ClaimedLogin, error: Error) {
        let mut known = self.shared.known();
        let _former = known.take_errors();
        known.needs_action = Some((login.sent.password().clone(), error));
        drop(known);
    }

    /// Returns whether a changed password outlives this process, or is not meant to.
    pub(crate) fn keeps_passwords(&self) -> bool {
        match self.storage {
            Storage::Memory(InMemory::UntilStored) => false,
            Storage::Memory(InMemory::ForGood) | Storage::Store { .. } => true,
        }
    }

    /// Decides a password change, and claims it if the server is to be asked.
    ///
    /// # Errors
    ///
    /// If the store fails. Nothing may be sent then.
    pub(crate) async fn begin_change(&mut self, new: &Password) -> Result<ChangeStep, SourceError> {
        for _ in 0..MAX_CONFLICTS {
            let ended = self.shared.known().ended;
            let loaded = self.load().await?;
            let mut is_again = false;
            let mut begin =
                self.machine
                    .begin_change(&loaded.record, new, Id(random()), loaded.now);
            if let Begin::SendAgain(other) = begin {
                is_again = true;
                begin = self
                    .machine
                    .begin_change(&loaded.record, &other, Id(random()), loaded.now);
            }
            let (record, asked) = match begin {
                Begin::Ask { record, asked } => (record, asked),
                Begin::Busy { until } => return Ok(ChangeStep::Busy(until.since(loaded.now))),
                Begin::Wait { until } => {
                    return Ok(ChangeStep::Wait(self.blocker(until, loaded.now, ended)));
                }
                // Of two open passwords, each would have to be sent first.
                Begin::LoginFirst | Begin::SendAgain(_) => return Ok(ChangeStep::LogInFirst),
                Begin::AlreadyCurrent => return Ok(ChangeStep::AlreadyCurrent),
                Begin::NoRoom => return Ok(ChangeStep::NoRoom),
            };
            let claimed = ClaimedChange {
                shared: self.shared.clone(),
                username: record.username().to_owned(),
                deadline: Instant::now() + asked.until().since(loaded.now),
                asked,
                if_dropped: Some(Answer::NotSent),
            };
            let saved = self.save(record, loaded).await?;
            // The store took so long that the claim is over.
            if Instant::now() >= claimed.deadline {
                return Err(timed_out());
            }
            match saved {
                Saved::Yes if is_again => return Ok(ChangeStep::AskAgain(claimed)),
                Saved::Yes => return Ok(ChangeStep::Ask(claimed)),
                Saved::Conflict => claimed.done(),
            }
        }
        Err(too_many_conflicts())
    }

    /// Stores the answer to a password change. If that fails, the answer is kept in
    /// memory and stored with the next record. Returns whether the change was its own
    /// until now: others give one up that takes too long, and send it again.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(crate) async fn land_change(
        &mut self,
        mut change: ClaimedChange,
        answer: Answer,
    ) -> Result<bool, SourceError> {
        change.if_dropped = Some(answer);
        for _ in 0..MAX_CONFLICTS {
            let loaded = self.load().await?;
            let is_own = change.asked.is_change_of(&loaded.record);
            let next =
                self.machine
                    .change_answered(&loaded.record, &change.asked, answer, loaded.now);
            let saved = match next {
                Some(record) => self.save(record, loaded).await?,
                None => Saved::Yes,
            };
            if let Saved::Yes = saved {
                change.done();
                return Ok(is_own);
            }
        }
        Err(too_many_conflicts())
    }

    async fn load(&mut self) -> Result<Loaded, SourceError> {
        let (record, version) = match &mut self.storage {
            Storage::Memory(_) => {
                let known = self.shared.known();
                let observed = known.observed.as_ref().expect("the opening has set it");
                let version = Version::from(observed.version());
                (observed.record().clone(), version)
            }
            Storage::Store { store, loaded } => {
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

    async fn save(&mut self, record: Record, loaded: Loaded) -> Result<Saved, SourceError> {
        match &self.storage {
            Storage::Memory(_) => {
                let mut known = self.shared.known();
                let observed = known.observed.as_mut().expect("the opening has set it");
                if Version::from(observed.version()) != loaded.version {
                    return Ok(Saved::Conflict);
                }
                observed.store(record);
            }
            Storage::Store { store, .. } => {
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
    fn blocker(&mut self, until: WallTime, now: WallTime, ended: u64) -> Blocker {
        let poll = FIRST_POLL.saturating_mul(1 << self.polls.min(10));
        self.polls += 1;
        Blocker {
            shared: self.shared.clone(),
            until: Instant::now() + until.since(now).min(poll.min(LONGEST_POLL)),
            ended,
        }
    }
}

fn secrets_of(record: &Record) -> Vec<SecretString> {
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

fn timed_out() -> SourceError {
    SourceError::unavailable("the credential store did not answer within the login timeout")
}

fn too_many_conflicts() -> SourceError {
    SourceError::unavailable(format!(
        "the record was stored by others {MAX_CONFLICTS} times in a row"
    ))
}

impl Blocker {
    /// Waits until the login or the change has ended, or it is time to look again.
    pub(crate) async fn wait(self) {
        let mut changed = pin!(self.shared.changed.notified());
        changed.as_mut().enable();
        if self.shared.known().ended == self.ended {
            let _ = tokio::time::timeout_at(self.until, changed).await;
        }
    }
}

impl ClaimedLogin {
    /// Returns the credentials to send.
    pub(crate) fn credentials(&self) -> Credentials {
        Credentials::new(self.username.clone(), self.sent.password().secret().clone())
    }

    /// Returns all passwords of the account, for redaction.
    pub(crate) fn passwords(&self) -> &[SecretString] {
        &self.passwords
    }

    /// Returns whether only a login with a password shows which one works.
    pub(crate) fn is_unresolved(&self) -> bool {
        self.is_unresolved
    }

    /// Returns whether logins were not accepted since the last accepted one.
    pub(crate) fn has_tries(&self) -> bool {
        self.has_tries
    }

    /// Returns when the caller must give up.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The password is about to be sent.
    pub(crate) fn on_send(&mut self) {
        self.if_dropped = None;
    }

    fn done(mut self) {
        self.if_dropped = None;
        self.shared.ended();
    }
}

impl Drop for ClaimedLogin {
    fn drop(&mut self) {
        if let Some((verdict, at)) = self.if_dropped {
            let event = Event::Login(self.sent.clone(), verdict, at);
            self.shared.keep(event);
        }
    }
}

impl ClaimedChange {
    /// Returns the username and the current password.
    pub(crate) fn credentials(&self) -> Credentials {
        Credentials::new(self.username.clone(), self.asked.current().secret().clone())
    }

    /// Returns the new password.
    pub(crate) fn new_password(&self) -> &SecretString {
        self.asked.new_password().secret()
    }

    /// Returns when the caller must give up.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The server is about to be asked. Afterwards only a login shows which password is
    /// in force.
    pub(crate) fn on_send(&mut self) {
        self.if_dropped = Some(Answer::Lost);
        let _former = self.shared.known().needs_action.take();
    }

    fn done(mut self) {
        self.if_dropped = None;
        self.shared.ended();
    }
}

impl Drop for ClaimedChange {
    fn drop(&mut self) {
        if let Some(answer) = self.if_dropped {
            self.shared.keep(Event::Change(self.asked.clone(), answer));
        }
    }
}

impl fmt::Debug for OpenAccount<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAccount").finish_non_exhaustive()
    }
}
