//! Credentials kept in memory.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{CredentialSource, Credentials, Source, SourceError};

/// Credentials kept in this process, and forgotten with it.
///
/// A changed password is used until the process ends; the next one starts
/// with what it is given.
#[derive(Debug)]
pub struct Memory(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    in_use: Credentials,
    prepared: Option<Credentials>,
}

impl Memory {
    /// Keeps `credentials`.
    #[must_use]
    pub fn new(credentials: Credentials) -> Self {
        Self(Mutex::new(Kept {
            in_use: credentials,
            prepared: None,
        }))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // No code of anybody else's runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CredentialSource for Memory {
    async fn fetch(&self) -> Result<Credentials, SourceError> {
        Ok(self.kept().in_use.clone())
    }

    async fn prepare(&self, new: Credentials) -> Result<(), SourceError> {
        self.kept().prepared = Some(new);
        Ok(())
    }

    async fn promote(&self) -> Result<(), SourceError> {
        let mut kept = self.kept();
        if let Some(prepared) = kept.prepared.take() {
            kept.in_use = prepared;
        }
        Ok(())
    }

    async fn withdraw(&self) -> Result<(), SourceError> {
        self.kept().prepared = None;
        Ok(())
    }
}

impl From<Credentials> for Source {
    fn from(credentials: Credentials) -> Self {
        Self::new(Memory::new(credentials))
    }
}
