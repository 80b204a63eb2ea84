//! Credentials in environment variables.

use std::env;

use zeroize::Zeroizing;

use super::value::without_line_break;
use super::{CredentialSource, Credentials, SourceError};

/// Credentials that two environment variables hold, read anew before each login.
///
/// One line break at the end of a value is left out, as of a [`File`](super::File): a
/// Kubernetes secret that was made by `echo` has one.
///
/// It cannot be written: a change of the password would be forgotten with the
/// process. Other programs of the same user can read a process's environment;
/// prefer a [`File`](super::File) where you can choose.
///
/// ```
/// use tower_reauth::Source;
/// use tower_reauth::credentials::Env;
///
/// let source = Source::new(Env::new("CTM_USER", "CTM_PASSWORD"));
/// ```
#[derive(Clone, Debug)]
pub struct Env {
    username: String,
    password: String,
}

impl Env {
    /// Reads the username and the password from the variables of these names.
    #[must_use]
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            username: username.into(),
            password: password.into(),
        }
    }
}

impl CredentialSource for Env {
    /// # Errors
    ///
    /// [`Missing`](super::SourceErrorKind::Missing) if a variable is not set or
    /// empty, [`Invalid`](super::SourceErrorKind::Invalid) if it is not UTF-8.
    async fn fetch(&self) -> Result<Credentials, SourceError> {
        let username = read(&self.username)?;
        let password = read(&self.password)?;
        let username = without_line_break(&username);
        Ok(Credentials::new(username, without_line_break(&password)))
    }
}

fn read(name: &str) -> Result<Zeroizing<String>, SourceError> {
    match env::var(name).map(Zeroizing::new) {
        Ok(value) if !without_line_break(&value).is_empty() => Ok(value),
        Ok(_) | Err(env::VarError::NotPresent) => Err(SourceError::missing(format!(
            "the environment variable {name} is not set"
        ))),
        // Its own text quotes the value.
        Err(env::VarError::NotUnicode(_)) => Err(SourceError::invalid(format!(
            "the environment variable {name} is not UTF-8"
        ))),
    }
}
