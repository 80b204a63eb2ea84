//! Credentials kept in memory.

use super::source::Role;
use super::{CredentialSource, Credentials, Source, SourceError};

/// Credentials kept in this process.
///
/// A changed password is kept in the [`Source`] that this is made into, and shared
/// by all sessions that use a clone of it. It ends with the process; the
/// next one starts with the credentials that it is given.
#[derive(Clone, Debug)]
pub struct Memory(Credentials);

impl Memory {
    /// Keeps `credentials`.
    #[must_use]
    pub fn new(credentials: Credentials) -> Self {
        Self(credentials)
    }
}

impl CredentialSource for Memory {
    /// Returns the credentials that this was made with, also after a password change.
    async fn fetch(&self) -> Result<Credentials, SourceError> {
        Ok(self.0.clone())
    }

    fn __role(&self) -> Role<'_> {
        Role::Memory
    }
}

impl From<Credentials> for Source {
    fn from(credentials: Credentials) -> Self {
        Self::new(Memory::new(credentials))
    }
}
