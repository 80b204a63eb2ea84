//! Credentials in a file of our own, in which a changed password survives.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::file::{blocking, failed, invalid, json, read_open, read_unreplaced};
use super::source::{Trying, Unresolved};
use super::{CredentialSource, Credentials, SourceError};
use crate::secret;

/// Credentials in a JSON file that this program writes when it changes the
/// password.
///
/// The file holds `{"username": "..", "password": ".."}`, and a person may
/// write the first one by hand. While a password change is under way it also
/// holds the new one, and which of the two a login is trying:
///
/// ```json
/// { "username": "emuser", "password": "old", "new_password": "new", "trying": "new" }
/// ```
///
/// So whatever dies when, the program, the machine, or the server's answer,
/// one password in it works, and the next start finds out which. Fields of
/// other names are an error, since they would be lost with the next change.
///
/// Each change replaces the file as a whole: the new text is written to a file
/// beside it (`.<name>.new`), brought to the disk, and renamed. The file keeps
/// its permissions, but belongs to whom this program runs as; a new one is for
/// its owner only. A symbolic link is refused, and so is what is no file: the
/// link would be replaced, and not what it leads to.
///
/// One process at a time may change the password in it; any number may read.
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
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    first: Option<Credentials>,
    /// Held by whoever writes: a call that was given up may still be at it.
    writing: Mutex<()>,
}

/// What the file holds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    username: String,
    #[serde(deserialize_with = "secret::json::secret")]
    password: SecretString,
    #[serde(default, deserialize_with = "secret::json::optional")]
    new_password: Option<SecretString>,
    trying: Option<Trying>,
}

/// The same, to be written.
#[derive(Serialize)]
struct Text<'a> {
    username: &'a str,
    password: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_password: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trying: Option<Trying>,
}

impl FileStore {
    /// Keeps credentials in the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            shared: Arc::new(Shared {
                path: path.into(),
                first: None,
                writing: Mutex::new(()),
            }),
        }
    }

    /// Yields `credentials` for as long as there is no file. The first
    /// password change makes one.
    #[must_use]
    pub fn or_start_with(self, credentials: Credentials) -> Self {
        Self {
            shared: Arc::new(Shared {
                path: self.shared.path.clone(),
                first: Some(credentials),
                writing: Mutex::new(()),
            }),
        }
    }

    /// Reads the file, changes what it holds, and writes it if that is
    /// something else.
    async fn change(
        &self,
        change: impl FnOnce(&mut Kept) -> Written + Send + 'static,
    ) -> Result<(), SourceError> {
        let shared = self.shared.clone();
        blocking(move || {
            let _alone = shared
                .writing
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let (mut kept, permissions) = shared.read()?;
            match change(&mut kept) {
                Written::Changed => shared.write(&kept, permissions),
                Written::Same => Ok(()),
            }
        })
        .await
    }
}

enum Written {
    Changed,
    Same,
}

impl CredentialSource for FileStore {
    async fn fetch(&self) -> Result<Credentials, SourceError> {
        let shared = self.shared.clone();
        let (kept, _) = blocking(move || shared.read()).await?;
        Ok(Credentials::new(kept.username, kept.password))
    }

    async fn unresolved(&self) -> Result<Option<Unresolved>, SourceError> {
        let shared = self.shared.clone();
        let (kept, _) = blocking(move || shared.read()).await?;
        let Some(new) = kept.new_password else {
            return Ok(None);
        };
        let mut unresolved = Unresolved::new(Credentials::new(kept.username, new));
        if let Some(trying) = kept.trying {
            unresolved = unresolved.trying(trying);
        }
        Ok(Some(unresolved))
    }

    async fn trying(&self, which: Option<Trying>) -> Result<(), SourceError> {
        self.change(move |kept| {
            if kept.new_password.is_none() || kept.trying == which {
                return Written::Same;
            }
            kept.trying = which;
            Written::Changed
        })
        .await
    }

    async fn prepare(&self, new: Credentials) -> Result<(), SourceError> {
        self.change(move |kept| {
            kept.new_password = Some(new.password().clone());
            kept.trying = None;
            Written::Changed
        })
        .await
    }

    async fn promote(&self) -> Result<(), SourceError> {
        self.change(|kept| {
            let Some(new) = kept.new_password.take() else {
                return Written::Same;
            };
            kept.password = new;
            kept.trying = None;
            Written::Changed
        })
        .await
    }

    async fn withdraw(&self) -> Result<(), SourceError> {
        self.change(|kept| {
            if kept.new_password.take().is_none() {
                return Written::Same;
            }
            kept.trying = None;
            Written::Changed
        })
        .await
    }
}

impl Shared {
    /// Reads the file, and its permissions if there is one.
    fn read(&self) -> Result<(Kept, Option<fs::Permissions>), SourceError> {
        read_unreplaced(&self.path, || self.try_to_read())
    }

    /// Returns `None` if another process replaced the file meanwhile.
    fn try_to_read(&self) -> Result<Option<(Kept, Option<fs::Permissions>)>, SourceError> {
        let found = match fs::symlink_metadata(&self.path) {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let first = self
                    .first
                    .as_ref()
                    .ok_or_else(|| failed(&self.path, error))?;
                let kept = Kept {
                    username: first.username().to_owned(),
                    password: first.password().clone(),
                    new_password: None,
                    trying: None,
                };
                return Ok(Some((kept, None)));
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
        let text = read_open(file, opened.len(), &self.path)?;
        let kept = json::parse(&text, &self.path)?;
        Ok(Some((kept, Some(opened.permissions()))))
    }

    /// Replaces the file: whoever reads it, after a crash too, finds all of
    /// the old text or all of the new.
    fn write(&self, kept: &Kept, permissions: Option<fs::Permissions>) -> Result<(), SourceError> {
        let text = secret::json::write(&kept.text()).map_err(SourceError::unavailable)?;
        let beside = self.beside()?;
        // Left by a process that died. Removed and made anew, since what is
        // there may be a link, or readable by others; what stays there fails
        // the making.
        let _ = fs::remove_file(&beside);
        let written = (|| {
            let mut file = owner_only().open(&beside)?;
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
            return Err(SourceError::unavailable(failed(&beside, error)));
        }
        self.sync_directory()
    }

    fn beside(&self) -> Result<PathBuf, SourceError> {
        let name = self.path.file_name();
        let name = name.ok_or_else(|| invalid(&self.path, "is not a file"))?;
        let mut beside = std::ffi::OsString::from(".");
        beside.push(name);
        beside.push(".new");
        Ok(self.path.with_file_name(beside))
    }

    /// Brings the renaming to the disk.
    #[cfg(unix)]
    fn sync_directory(&self) -> Result<(), SourceError> {
        let directory = match self.path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            Some(_) | None => Path::new("."),
        };
        let synced = fs::File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| failed(directory, error))
    }

    /// No such thing is to be had there.
    #[cfg(not(unix))]
    fn sync_directory(&self) -> Result<(), SourceError> {
        Ok(())
    }
}

impl Kept {
    fn text(&self) -> Text<'_> {
        Text {
            username: &self.username,
            password: self.password.expose_secret(),
            new_password: self.new_password.as_ref().map(ExposeSecret::expose_secret),
            trying: self.trying,
        }
    }
}

fn owner_only() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(unix)]
fn is_the_same(found: &fs::Metadata, opened: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (found.dev(), found.ino()) == (opened.dev(), opened.ino())
}

/// It cannot be told there.
#[cfg(not(unix))]
fn is_the_same(_: &fs::Metadata, opened: &fs::Metadata) -> bool {
    opened.is_file()
}
