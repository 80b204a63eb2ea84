//! The credentials themselves.

use std::fmt;

use secrecy::SecretString;

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
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Returns the text without one line break at its end, as `echo` and editors add it.
pub(super) fn without_line_break(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}
