//! Credentials in files that somebody else writes.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::value::without_line_break;
use super::{CredentialSource, Credentials, SourceError};
use crate::text::without_bom;

/// Longer files hold no credentials.
const LONGEST: u64 = 64 * 1024;

/// How many times files are read that are replaced during each read.
const ATTEMPTS: u32 = 5;

/// Credentials in a file, or in a pair of files, read anew before each login.
///
/// It cannot be written: whoever puts the files there changes them. For a
/// password that this program changes, see `FileStore`.
///
/// Files are read on tokio's threads for blocking calls, and what is read is
/// wiped. Errors name the file and quote nothing of it. Permissions are not checked:
/// whoever puts the files there restricts them (the mode 0600 on Unix, an access
/// control list on Windows).
///
/// ```
/// use tower_reauth::Source;
/// use tower_reauth::credentials::File;
///
/// // A Docker secret: the file is the password.
/// let plain = Source::new(File::plain("emuser", "/run/secrets/ctm_password"));
///
/// // A Kubernetes secret, mounted as a directory with one file for each key.
/// let mounted = Source::new(File::kubernetes("/etc/ctm-credentials"));
/// ```
#[derive(Clone, Debug)]
pub struct File(Layout);

#[derive(Clone, Debug)]
enum Layout {
    Plain {
        username: String,
        path: PathBuf,
    },
    #[cfg(feature = "json")]
    Json {
        path: PathBuf,
    },
    Mounted {
        directory: PathBuf,
        username: String,
        password: String,
    },
}

impl File {
    /// A file that is the password of `username`; one line break at its end is
    /// left out, and so is a mark at its beginning that it is UTF-8 (U+FEFF).
    pub fn plain(username: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self(Layout::Plain {
            username: username.into(),
            path: path.into(),
        })
    }

    /// A JSON file, `{"username": "..", "password": ".."}`; other fields are
    /// passed over.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    pub fn json(path: impl Into<PathBuf>) -> Self {
        Self(Layout::Json { path: path.into() })
    }

    /// A directory with the files `username` and `password`, as Kubernetes
    /// mounts a secret of the type `kubernetes.io/basic-auth`.
    ///
    /// Kubernetes replaces both at once, by turning the link `..data` to
    /// another directory. Both files are read from the one directory that it
    /// names at that moment, so that an old username never meets a new
    /// password. A directory without that link is read as it is.
    pub fn kubernetes(directory: impl Into<PathBuf>) -> Self {
        Self::kubernetes_keys(directory, "username", "password")
    }

    /// As [`File::kubernetes`], for a secret with other keys.
    pub fn kubernetes_keys(
        directory: impl Into<PathBuf>,
        username: impl Into<String>,
        password: impl Into<String>,
    ) -> Self {
        Self(Layout::Mounted {
            directory: directory.into(),
            username: username.into(),
            password: password.into(),
        })
    }
}

impl CredentialSource for File {
    /// # Errors
    ///
    /// [`Missing`](super::SourceErrorKind::Missing) if a file is not there,
    /// [`Invalid`](super::SourceErrorKind::Invalid) if it is longer than 64 KiB, no
    /// UTF-8 or no such JSON, or what it holds is empty, and
    /// [`Unavailable`](super::SourceErrorKind::Unavailable) if it cannot be read.
    async fn fetch(&self) -> Result<Credentials, SourceError> {
        let kind = self.0.clone();
        blocking(move || match kind {
            Layout::Plain { username, path } => {
                let password = line(&read(&path)?, &path)?;
                Ok(Credentials::new(username, password))
            }
            #[cfg(feature = "json")]
            Layout::Json { path } => json::read(&path),
            Layout::Mounted {
                directory,
                username,
                password,
            } => mounted(&directory, &username, &password),
        })
        .await
    }
}

/// Runs `call` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    match tokio::task::spawn_blocking(call).await {
        Ok(answer) => answer,
        Err(error) => Err(SourceError::unavailable(error)),
    }
}

/// Calls `read` until it returns a value. It returns `None` if another process
/// replaced the files meanwhile.
pub(super) fn read_unreplaced<T>(
    path: &Path,
    mut read: impl FnMut() -> Result<Option<T>, SourceError>,
) -> Result<T, SourceError> {
    for _ in 0..ATTEMPTS {
        if let Some(value) = read()? {
            return Ok(value);
        }
    }
    Err(SourceError::unavailable(format!(
        "{} was replaced during each of {ATTEMPTS} reads",
        path.display()
    )))
}

/// Reads a file into memory that is wiped, and of which no copy is left.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    let failed = |error| failed(path, error);
    // Before it is opened, which for a pipe may take for ever.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(invalid(path, "is not a file"));
    }
    let file = fs::File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length > LONGEST {
        return Err(invalid(path, "is longer than 64 KiB"));
    }
    read_open(file, length, path)
}

/// As [`read`], from a file that is open and is this long.
pub(super) fn read_open(
    file: fs::File,
    length: u64,
    path: &Path,
) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    // One more, so that the end is seen without growing, which leaves a copy.
    let mut text = Zeroizing::new(vec![0; length as usize + 1]);
    let mut file = file.take(text.len() as u64);
    let mut read = 0;
    loop {
        match file.read(&mut text[read..]) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(path, error)),
        }
    }
    if read > length as usize {
        return Err(SourceError::unavailable(format!(
            "{} was written while it was read",
            path.display()
        )));
    }
    text.truncate(read);
    Ok(text)
}

/// The text of a file, without the line break at its end.
fn line(text: &[u8], path: &Path) -> Result<SecretString, SourceError> {
    match std::str::from_utf8(without_bom(text)).map(without_line_break) {
        Ok("") => Err(invalid(path, "is empty")),
        Ok(text) => Ok(text.into()),
        Err(_) => Err(invalid(path, "is no UTF-8")),
    }
}

fn mounted(directory: &Path, username: &str, password: &str) -> Result<Credentials, SourceError> {
    let link = directory.join("..data");
    read_unreplaced(directory, || {
        // Read the link itself: `canonicalize` also fails if the link is there
        // and its directory was just removed.
        let target = fs::read_link(&link).ok();
        let read = match target {
            Some(_) => fs::canonicalize(&link).map_err(|error| failed(&link, error)),
            None => Ok(directory.to_owned()),
        }
        .and_then(|directory| pair(&directory, username, password));
        match read {
            Ok(credentials) => Ok(Some(credentials)),
            Err(_) if fs::read_link(&link).ok() != target => Ok(None),
            Err(error) => Err(error),
        }
    })
}

fn pair(directory: &Path, username: &str, password: &str) -> Result<Credentials, SourceError> {
    let one = |name: &str| {
        let path = directory.join(name);
        line(&read(&path)?, &path)
    };
    let (username, password) = (one(username)?, one(password)?);
    Ok(Credentials::new(username.expose_secret(), password))
}

pub(super) fn failed(path: &Path, error: io::Error) -> SourceError {
    let cause = Failed {
        path: path.to_owned(),
        error,
    };
    match cause.error.kind() {
        io::ErrorKind::NotFound => SourceError::missing(cause),
        _ => SourceError::unavailable(cause),
    }
}

pub(super) fn invalid(path: &Path, what: &str) -> SourceError {
    SourceError::invalid(format!("{} {what}", path.display()))
}

/// What the operating system said of a file.
#[derive(Debug)]
struct Failed {
    path: PathBuf,
    error: io::Error,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.error)
    }
}

impl std::error::Error for Failed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

#[cfg(feature = "json")]
pub(super) mod json {
    //! What a file of credentials holds as JSON.

    use std::path::Path;

    use secrecy::{ExposeSecret, SecretString};
    use serde::Deserialize;

    use super::{Credentials, SourceError, invalid};
    use crate::secret;

    #[derive(Deserialize)]
    struct Pair {
        username: String,
        #[serde(deserialize_with = "secret::json::secret")]
        password: SecretString,
    }

    pub(super) fn read(path: &Path) -> Result<Credentials, SourceError> {
        let pair: Pair = parse(&super::read(path)?, path)?;
        // To send none costs a failed login.
        if pair.username.is_empty() || pair.password.expose_secret().is_empty() {
            return Err(invalid(path, "holds an empty username or password"));
        }
        Ok(Credentials::new(pair.username, pair.password))
    }

    pub(in crate::credentials) fn parse<'a, T: Deserialize<'a>>(
        text: &'a [u8],
        path: &Path,
    ) -> Result<T, SourceError> {
        // The parser's own error may quote the password.
        secret::json::object(text).map_err(|error| {
            let what = match error.classify() {
                serde_json::error::Category::Data => "has a field that is missing or wrong",
                serde_json::error::Category::Io
                | serde_json::error::Category::Syntax
                | serde_json::error::Category::Eof => "is no JSON",
            };
            let (line, column) = (error.line(), error.column());
            invalid(path, &format!("{what} (line {line}, column {column})"))
        })
    }
}
