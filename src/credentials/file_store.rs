//! Credentials in a file that this program writes.

use std::ffi::OsString;
use std::fs::{self, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use siphasher::sip128::{Hasher128, SipHasher24};

use super::account::Id;
use super::error::SourceError;
use super::file::{blocking, failed, invalid, read_open, read_unreplaced};
use super::store::{CredentialStore, Record, Version};
use super::value::Credentials;

/// How long a write waits for others. Each holds the lock for one write to the disk.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the start of a password change waits for processes that look whether the
/// owner of an earlier one is alive.
const CHANGE_TIMEOUT: Duration = Duration::from_millis(200);

/// Longer files are not records. A record holds a password up to some 25 times.
const LONGEST: u64 = 4 * 1024 * 1024;

/// How long a waiting thread sleeps before it tries a lock again.
const LOCK_POLL: Duration = Duration::from_millis(2);

/// Credentials in a JSON file that this program writes: a changed password survives,
/// and so does what is known of refused ones.
///
/// The first file may be written by hand:
///
/// ```json
/// { "username": "emuser", "password": "s3cret" }
/// ```
///
/// The crate adds fields of its own ([`Record`]). To change the password by hand,
/// replace the value of `password` and leave the rest; for another user write a file
/// with these two fields. Unknown fields are an error, since the next write would
/// lose them. Files of earlier versions of this crate are read.
///
/// # Processes
///
/// Any number of processes on one machine may use the file, also for password
/// changes. Two lock files beside it are created with the first write and stay:
///
/// - `.<name>.lock` is locked while the file is replaced;
/// - `.<name>.change` is locked for the length of a password change, whose number it
///   holds. The system frees it when the process dies, and the others know at once.
///
/// They are for the owner of the process that creates them, so all processes run as one
/// user.
///
/// On a file system without locks a write fails. Do not put the file on a network
/// file system that several machines use, unless its locks work across machines.
///
/// # Writes
///
/// The file is replaced as a whole: the new text goes to a file of a unique name
/// beside it, is synced to the disk, and is renamed. A reader, also after a crash,
/// finds the old text or the new one. The file keeps its permissions, and belongs to
/// the user that this program runs as. A new file is for its owner only. A symbolic
/// link is an error, since the rename would replace the link.
///
/// "For its owner only" is the mode 0600 on Unix. Elsewhere, as on Windows, a new file
/// inherits the permissions of its directory: keep it in a directory that only the
/// program's user and the administrators may read, such as one below
/// `%LOCALAPPDATA%`. Permissions are not checked when a file is read.
///
/// ```
/// use tower_reauth::{Credentials, Source};
/// use tower_reauth::credentials::FileStore;
///
/// let source = Source::new(FileStore::new("/var/lib/reports/ctm.json"));
///
/// // With a password for the very first start, before there is a file:
/// let source = Source::new(
///     FileStore::new("/var/lib/reports/ctm.json")
///         .or_start_with(Credentials::new("emuser", "initial")),
/// );
/// ```
#[derive(Debug)]
pub struct FileStore {
    shared: Arc<SharedFile>,
}

#[derive(Debug)]
struct SharedFile {
    path: PathBuf,
    first: Option<Credentials>,
    /// The password change of this process, and the lock that shows that it is alive.
    change: Mutex<Option<(Id, fs::File)>>,
}

/// The content of the file.
struct Content {
    record: Record,
    version: Version,
    permissions: Option<fs::Permissions>,
}

impl FileStore {
    /// Keeps credentials in the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::of(path.into(), None)
    }

    /// Uses `credentials` until the first login creates the file.
    #[must_use]
    pub fn or_start_with(self, credentials: Credentials) -> Self {
        Self::of(self.shared.path.clone(), Some(credentials))
    }

    fn of(path: PathBuf, first: Option<Credentials>) -> Self {
        Self {
            shared: Arc::new(SharedFile {
                path,
                first,
                change: Mutex::new(None),
            }),
        }
    }
}

impl CredentialStore for FileStore {
    async fn load(&self) -> Result<(Record, Version), SourceError> {
        let shared = self.shared.clone();
        blocking(move || {
            let Content {
                mut record,
                version,
                ..
            } = shared.read()?;
            if let Some(change) = record.account().change()
                && !shared.is_alive(change.id())
            {
                record.end_change();
            }
            Ok((record, version))
        })
        .await
    }

    async fn store(&self, record: Record, expected: Version) -> Result<(), SourceError> {
        let shared = self.shared.clone();
        blocking(move || shared.replace(&record, &expected)).await
    }
}

impl SharedFile {
    fn read(&self) -> Result<Content, SourceError> {
        read_unreplaced(&self.path, || self.try_to_read())
    }

    /// Returns `None` if another process replaced the file meanwhile.
    fn try_to_read(&self) -> Result<Option<Content>, SourceError> {
        let found = match fs::symlink_metadata(&self.path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let first = self.first.clone();
                let first = first.ok_or_else(|| failed(&self.path, error))?;
                return Ok(Some(Content {
                    record: first.into(),
                    version: Version::new("absent"),
                    permissions: None,
                }));
            }
            Err(error) => return Err(failed(&self.path, error)),
        };
        if found.is_symlink() {
            return Err(invalid(&self.path, "is a symbolic link"));
        }
        if !found.is_file() {
            return Err(invalid(&self.path, "is not a file"));
        }
        let file = fs::File::open(&self.path).map_err(|error| failed(&self.path, error))?;
        let opened = file.metadata().map_err(|error| failed(&self.path, error))?;
        if !is_the_same(&found, &opened) {
            return Ok(None);
        }
        if opened.len() > LONGEST {
            return Err(invalid(&self.path, "is longer than 4 MiB"));
        }
        let text = read_open(file, opened.len(), &self.path)?;
        let record = Record::parse(&text)
            .map_err(|error| invalid(&self.path, &format!("is not a record: {error}")))?;
        Ok(Some(Content {
            record,
            version: version_of(&text),
            permissions: Some(opened.permissions()),
        }))
    }

    /// Replaces the file if its version is still `expected`.
    fn replace(&self, record: &Record, expected: &Version) -> Result<(), SourceError> {
        let lock = self.beside("lock")?;
        // Unlocked when it is dropped.
        let file = create(&lock).map_err(|error| not_written(&lock, error))?;
        self::lock(&file, LOCK_TIMEOUT).map_err(|error| not_locked(&lock, error))?;
        let current = self.read()?;
        if current.version != *expected {
            return Err(SourceError::conflict());
        }
        let change = record.account().change().map(super::account::Change::id);
        let before = current.record.account().change();
        let before = before.map(super::account::Change::id);
        match change {
            // Before the record: others must not take this process for dead.
            Some(id) if before != Some(id) => self.begin_change(id)?,
            Some(_) | None => {}
        }
        self.remove_left_behind();
        let written = self.write(record, current.permissions);
        let in_file = match &written {
            Ok(()) => change,
            Err(_) => before,
        };
        let mut held = self.change();
        if held
            .as_ref()
            .is_some_and(|(held, _)| in_file != Some(*held))
        {
            *held = None;
        }
        written
    }

    fn begin_change(&self, id: Id) -> Result<(), SourceError> {
        let path = self.beside("change")?;
        let mut held = self.change();
        // That of an earlier change, which is over.
        *held = None;
        let mut file = create(&path).map_err(|error| not_written(&path, error))?;
        match lock(&file, CHANGE_TIMEOUT) {
            Ok(()) => {
                let named = file.set_len(0).and_then(|()| write!(file, "{:016x}", id.0));
                named.map_err(|error| not_written(&path, error))?;
                *held = Some((id, file));
            }
            // A process whose change is over has not written since. The file does not
            // name this change, so others take it for alive until its time is over, also
            // if that process dies.
            Err(TryLockError::WouldBlock) => {}
            Err(error) => return Err(not_locked(&path, error)),
        }
        Ok(())
    }

    /// Returns whether the process that began a change may be alive.
    fn is_alive(&self, change: Id) -> bool {
        let held = self.change();
        if held.as_ref().is_some_and(|(held, _)| *held == change) {
            return true;
        }
        drop(held);
        let Ok(path) = self.beside("change") else {
            return true;
        };
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) => return error.kind() != io::ErrorKind::NotFound,
        };
        if file.try_lock_shared().is_err() {
            return true;
        }
        // Free: its owner would hold it, if it was locked for this change. Earlier versions
        // of this crate wrote no name.
        let mut name = [0; 17];
        let length = (&file).read(&mut name).unwrap_or_default();
        let (name, own) = (&name[..length], format!("{:016x}", change.0));
        !name.is_empty() && name != own.as_bytes()
    }

    fn change(&self) -> MutexGuard<'_, Option<(Id, fs::File)>> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(
        &self,
        record: &Record,
        permissions: Option<fs::Permissions>,
    ) -> Result<(), SourceError> {
        let text = record.account().to_json();
        // Nobody could read it.
        if text.len() as u64 >= LONGEST || Record::parse(&text).is_err() {
            return Err(invalid(
                &self.path,
                "is not written: a password is empty or too long",
            ));
        }
        let unique = RandomState::new().hash_one("a file");
        let beside = self.beside(&format!("{}.{unique:016x}", std::process::id()))?;
        let written = (|| {
            let mut file = owner_only().create_new(true).open(&beside)?;
            if let Some(permissions) = permissions {
                file.set_permissions(permissions)?;
            }
            file.write_all(&text)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&beside, &self.path)
        })();
        if let Err(error) = written {
            // It holds passwords, and the disk may be full.
            let _ = fs::remove_file(&beside);
            return Err(not_written(&beside, error));
        }
        self.sync_directory()
    }

    /// Removes the temporary files of processes that died. Under the lock there are
    /// no others. They hold passwords.
    fn remove_left_behind(&self) {
        let Some(name) = self.path.file_name().and_then(std::ffi::OsStr::to_str) else {
            return;
        };
        let Ok(entries) = fs::read_dir(self.directory()) else {
            return;
        };
        for entry in entries.flatten() {
            let other = entry.file_name();
            let rest = other.to_str().and_then(|other| {
                other
                    .strip_prefix('.')?
                    .strip_prefix(name)?
                    .strip_prefix('.')
            });
            if rest.is_some_and(is_temporary) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Returns the path of the file `.<name>.<suffix>`.
    fn beside(&self, suffix: &str) -> Result<PathBuf, SourceError> {
        let name = self.path.file_name();
        let name = name.ok_or_else(|| invalid(&self.path, "is not a file"))?;
        let mut beside = OsString::from(".");
        beside.push(name);
        beside.push(".");
        beside.push(suffix);
        Ok(self.path.with_file_name(beside))
    }

    fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            Some(_) | None => Path::new("."),
        }
    }

    /// Syncs the renaming to the disk.
    #[cfg(unix)]
    fn sync_directory(&self) -> Result<(), SourceError> {
        let directory = self.directory();
        let synced = fs::File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| not_written(directory, error))
    }

    /// A directory cannot be synced there.
    #[cfg(not(unix))]
    fn sync_directory(&self) -> Result<(), SourceError> {
        Ok(())
    }
}

/// Returns whether `.<name>.<rest>` is a temporary file: of the form
/// `<process>.<16 hexadecimal digits>`, or `new`, as earlier versions wrote.
fn is_temporary(rest: &str) -> bool {
    rest == "new"
        || rest.split_once('.').is_some_and(|(process, unique)| {
            process.parse::<u32>().is_ok()
                && unique.len() == 16
                && unique.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
}

/// Locks `file`. Waits for other processes, and for calls that were given up.
fn lock(file: &fs::File, timeout: Duration) -> Result<(), TryLockError> {
    let until = Instant::now() + timeout;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(LOCK_POLL);
            }
            locked => return locked,
        }
    }
}

fn not_locked(path: &Path, error: TryLockError) -> SourceError {
    let why = match error {
        TryLockError::WouldBlock => "another process keeps it locked",
        TryLockError::Error(error) if error.kind() == io::ErrorKind::Unsupported => {
            "the file system has no locks, which `FileStore` needs"
        }
        TryLockError::Error(error) => return not_written(path, error),
    };
    SourceError::unavailable(format!("{}: {why}", path.display()))
}

/// Creates a lock file, or opens it.
fn create(path: &Path) -> io::Result<fs::File> {
    owner_only().create(true).truncate(false).open(path)
}

fn owner_only() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// A missing directory is not a missing file: a chain must not skip it.
fn not_written(path: &Path, error: io::Error) -> SourceError {
    SourceError::unavailable(failed(path, error))
}

/// Returns a digest that means nothing to other processes, since the text holds
/// passwords.
fn version_of(text: &[u8]) -> Version {
    static KEYS: OnceLock<(u64, u64)> = OnceLock::new();
    let (one, other) = *KEYS.get_or_init(|| {
        let random = || RandomState::new().hash_one("a key");
        (random(), random())
    });
    let mut hasher = SipHasher24::new_with_keys(one, other);
    hasher.write(text);
    Version::new(format!("{:032x}", hasher.finish128().as_u128()))
}

#[cfg(unix)]
fn is_the_same(found: &fs::Metadata, opened: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (found.dev(), found.ino()) == (opened.dev(), opened.ino())
}

/// Files have no identity there.
#[cfg(not(unix))]
fn is_the_same(_: &fs::Metadata, opened: &fs::Metadata) -> bool {
    opened.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorChain;

    #[test]
    fn a_lock_that_cannot_be_had_is_an_error_that_says_why() {
        let path = std::env::temp_dir().join(format!("lock-{}", std::process::id()));
        let (one, other) = (create(&path).unwrap(), create(&path).unwrap());
        lock(&one, Duration::ZERO).unwrap();
        let held = lock(&other, Duration::ZERO).unwrap_err();
        assert!(matches!(held, TryLockError::WouldBlock));
        drop(one);
        lock(&other, Duration::ZERO).unwrap();
        fs::remove_file(&path).unwrap();

        let unsupported = TryLockError::Error(io::ErrorKind::Unsupported.into());
        for (error, says) in [
            (held, "keeps it locked"),
            (unsupported, "the file system has no locks"),
        ] {
            let error = not_locked(&path, error);
            assert_eq!(error.kind(), super::super::SourceErrorKind::Unavailable);
            let text = ErrorChain(&error).to_string();
            assert!(text.contains(says) && text.contains("lock-"), "{text}");
        }
    }
}
