//! A username and a password, and where they come from.
//!
//! [`Credentials`] are the value; a [`CredentialSource`] is where it is read,
//! and for some also written; [`Source`] is any of them, boxed. The session
//! asks the source before each login and never on a request's path, so a
//! source may be slow.
//!
//! ```
//! use tower_reauth::credentials::{Credentials, Source};
//!
//! // Kept in memory, as most programs do:
//! let fixed = Source::from(Credentials::new("emuser", "s3cret"));
//!
//! // Read anew before each login:
//! let read = Source::from_fn(|| async { Ok(Credentials::new("emuser", "s3cret")) });
//! ```
//!
//! | source | read from | can be written |
//! |---|---|---|
//! | [`Memory`], `Credentials` themselves | this process | until it ends |
//! | [`Env`] | environment variables | no |
//! | [`File`] | a file, or a secret that Kubernetes mounts | no |
//! | `FileStore` (feature `json`) | a file of our own | yes, durably |
//! | [`Chain`] | the first of several that has credentials | as that one |
//! | [`Source::from_fn`] | a function | no |
//! | your [`CredentialSource`] | a vault, say | as you implement it |

mod chain;
mod env;
mod file;
mod memory;
mod source;
#[cfg(feature = "json")]
mod store;

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

pub use chain::Chain;
pub use env::Env;
pub use file::File;
pub use memory::Memory;
pub use source::{CredentialSource, Source, SourceError, SourceErrorKind, Trying, Unresolved};
#[cfg(feature = "json")]
#[cfg_attr(docsrs, doc(cfg(feature = "json")))]
pub use store::FileStore;

/// A username and a password.
///
/// `Debug` shows the username only. The password is wiped when the last copy
/// drops. A `String` with spare capacity is copied once on its way in, and the
/// first copy is the caller's to wipe: hand in a `SecretString` where that
/// matters.
#[derive(Clone)]
pub struct Credentials {
    username: String,
    password: SecretString,
}

impl Credentials {
    /// Puts a username and a password together.
    pub fn new(username: impl Into<String>, password: impl Into<SecretString>) -> Self {
        Self {
            username: username.into(),
            password: password.into(),
        }
    }

    /// The name of the user.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The user's password.
    #[must_use]
    pub fn password(&self) -> &SecretString {
        &self.password
    }

    /// The same user with another password.
    #[must_use]
    pub fn with_password(&self, password: impl Into<SecretString>) -> Self {
        Self::new(self.username.clone(), password)
    }

    /// Whether a login with either would send the same.
    pub(crate) fn same_as(&self, other: &Credentials) -> bool {
        self.username == other.username
            && self.password.expose_secret() == other.password.expose_secret()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}
