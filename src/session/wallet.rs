//! Which credentials a login may send: those of the source, a changed password
//! that it could not keep, and never refused ones.

use crate::credentials::{Credentials, Source, SourceError, SourceErrorKind};
use crate::provider::{PasswordChange, ProviderError, ProviderErrorKind};

use crate::provider::Storing;

/// How many refused credentials are remembered. A source that goes through
/// more of them than this in a row would be asked for one a second time.
const REMEMBERED: usize = 16;

/// What a session knows of its credentials beyond what the source says.
///
/// Only flights use it, and there is one at a time.
#[derive(Debug, Default)]
pub(super) struct Wallet {
    /// A changed password that the source could not keep.
    unstored: Option<Unstored>,
    /// The new password of a change whose answer was lost.
    uncertain: Option<Uncertain>,
    refused: Vec<Credentials>,
    /// What the server said of the last ones.
    refusal: Option<ProviderError>,
}

#[derive(Debug)]
struct Unstored {
    in_use: Credentials,
    /// What the source said then. Once it says something else, that counts.
    source_said: Credentials,
}

#[derive(Debug)]
struct Uncertain {
    new: Credentials,
    source_said: Credentials,
    stored: bool,
}

/// A password change that was put down, before the server is asked.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) change: PasswordChange,
    new: Credentials,
    source_said: Credentials,
    stored: bool,
}

impl Wallet {
    /// The credentials to try, in this order, each once.
    pub(super) fn candidates(
        &mut self,
        source_says: Credentials,
        refused_too: bool,
    ) -> Vec<Credentials> {
        let mut candidates = Vec::with_capacity(2);
        candidates.extend(
            self.uncertain
                .as_ref()
                .map(|uncertain| uncertain.new.clone()),
        );
        let in_use = self.in_use(source_says);
        // The source may have the new password by now.
        if !candidates.iter().any(|other| other.same_as(&in_use)) {
            candidates.push(in_use);
        }
        if !refused_too {
            candidates
                .retain(|candidate| !self.refused.iter().any(|other| other.same_as(candidate)));
        }
        candidates
    }

    /// What the server said when it refused what there is.
    pub(super) fn refusal(&self) -> ProviderError {
        self.refusal
            .clone()
            .unwrap_or_else(|| ProviderError::refused("there are no credentials left to try"))
    }

    /// The server refused `credentials`.
    ///
    /// That says nothing of an unresolved change yet: an account that is locked
    /// refuses the right password too, which must not be forgotten then.
    pub(super) fn refused(&mut self, credentials: Credentials, refusal: ProviderError) {
        self.refusal = Some(refusal);
        if !self.refused.iter().any(|other| other.same_as(&credentials)) {
            if self.refused.len() == REMEMBERED {
                self.refused.remove(0);
            }
            self.refused.push(credentials);
        }
    }

    /// The server took `credentials`, which resolves an unresolved change.
    pub(super) async fn taken(
        &mut self,
        credentials: &Credentials,
        source: &Source,
    ) -> Result<(), SourceError> {
        self.refused.clear();
        self.refusal = None;
        let Some(uncertain) = self.uncertain.take() else {
            return Ok(());
        };
        if uncertain.new.same_as(credentials) {
            return self
                .keep(
                    uncertain.new,
                    uncertain.source_said,
                    uncertain.stored,
                    source,
                )
                .await;
        }
        // The change never happened after all.
        match uncertain.stored {
            true => source.withdraw().await,
            false => Ok(()),
        }
    }

    /// Whether a password change is unresolved, so that only a login can tell
    /// which password the server takes.
    pub(super) fn is_uncertain(&self) -> bool {
        self.uncertain.is_some()
    }

    /// Puts a new password down beside the one in use.
    pub(super) async fn prepare(
        &mut self,
        change: PasswordChange,
        source: &Source,
    ) -> Result<Prepared, SourceError> {
        let source_said = source.fetch().await?;
        let in_use = self.in_use(source_said.clone());
        let new = in_use.with_password(change.new_password().clone());
        let stored = match source.prepare(new.clone()).await {
            Ok(()) => true,
            Err(error) => match (error.kind(), change.storing()) {
                (SourceErrorKind::ReadOnly, Storing::InMemoryIfReadOnly) => false,
                (
                    SourceErrorKind::ReadOnly
                    | SourceErrorKind::Unavailable
                    | SourceErrorKind::Invalid,
                    Storing::Required | Storing::InMemoryIfReadOnly,
                ) => return Err(error),
            },
        };
        // Before the server is asked, so that a flight that dies at any point
        // from here on leaves both passwords behind.
        // A refusal from before the change says nothing of the time after it.
        self.refused.retain(|other| !other.same_as(&new));
        self.uncertain = Some(Uncertain {
            new: new.clone(),
            source_said: source_said.clone(),
            stored,
        });
        Ok(Prepared {
            change: change.of(&in_use),
            new,
            source_said,
            stored,
        })
    }

    /// The server has answered the change that was prepared.
    pub(super) async fn settle<T>(
        &mut self,
        prepared: Prepared,
        answer: &Result<T, ProviderError>,
        source: &Source,
    ) -> Result<(), SourceError> {
        match answer {
            Ok(_) => {
                self.uncertain = None;
                self.refused.clear();
                self.keep(prepared.new, prepared.source_said, prepared.stored, source)
                    .await
            }
            Err(error) if error.kind() == ProviderErrorKind::Uncertain => Ok(()),
            Err(_) => {
                self.uncertain = None;
                match prepared.stored {
                    true => source.withdraw().await,
                    false => Ok(()),
                }
            }
        }
    }

    /// Uses `new` from now on, by the source's word or, without it, by ours.
    async fn keep(
        &mut self,
        new: Credentials,
        source_said: Credentials,
        stored: bool,
        source: &Source,
    ) -> Result<(), SourceError> {
        // Until the source has it, and for good if it cannot.
        self.unstored = Some(Unstored {
            in_use: new,
            source_said,
        });
        if stored {
            source.promote().await?;
            self.unstored = None;
        }
        Ok(())
    }

    fn in_use(&mut self, source_says: Credentials) -> Credentials {
        match &self.unstored {
            Some(unstored) if unstored.source_said.same_as(&source_says) => unstored.in_use.clone(),
            Some(_) | None => {
                self.unstored = None;
                source_says
            }
        }
    }
}
