//! A password change that a caller requests.

use std::fmt;

use secrecy::SecretString;

/// A password change for [`Session::change_password`](crate::Session::change_password).
///
/// ```
/// use tower_reauth::PasswordChange;
///
/// let change = PasswordChange::to("new-password").current("old-password");
/// ```
#[derive(Clone)]
#[must_use]
pub struct PasswordChange {
    new: SecretString,
    current: Option<SecretString>,
    storage: Storage,
}

/// Whether the new password must be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    Required,
    InMemoryIfReadOnly,
}

impl PasswordChange {
    /// Changes the password to `new`.
    ///
    /// The current password is the session's own, unless [`PasswordChange::current`]
    /// sets another.
    pub fn to(new: impl Into<SecretString>) -> Self {
        Self {
            new: new.into(),
            current: None,
            storage: Storage::Required,
        }
    }

    /// Sets the current password, if it is not the session's own.
    pub fn current(mut self, current: impl Into<SecretString>) -> Self {
        self.current = Some(current.into());
        self
    }

    /// Permits the change if the source of the credentials cannot be written.
    ///
    /// The new password is kept in memory, in the [`Source`](crate::Source), until the
    /// source yields another value. Put the new password into the source yourself:
    /// until then the next process logs in with the old one.
    pub fn allow_unstored(mut self) -> Self {
        self.storage = Storage::InMemoryIfReadOnly;
        self
    }

    pub(crate) fn new_password(&self) -> &SecretString {
        &self.new
    }

    pub(crate) fn current_password(&self) -> Option<&SecretString> {
        self.current.as_ref()
    }

    pub(crate) fn storage(&self) -> Storage {
        self.storage
    }
}

impl fmt::Debug for PasswordChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordChange")
            .field("storage", &self.storage)
            .finish_non_exhaustive()
    }
}
