//! Chooses the credentials that a login sends: the source's, or both passwords of an
//! unresolved password change, and no refused ones.

use crate::credentials::{
    CredentialSource, Credentials, Source, SourceError, SourceErrorKind, Trying, Unresolved,
};
use crate::provider::{PasswordChange, ProviderError, ProviderErrorKind, Storage};

/// How many refused credentials are kept. A source that yields more than this in
/// a row may have one of them sent a second time.
const MAX_REFUSED: usize = 16;

/// The refused credentials, the unresolved password change and the unsaved password
/// of a session.
///
/// Only jobs use it, one at a time.
#[derive(Debug, Default)]
pub(super) struct CredentialState {
    // Boxed: most sessions never have one.
    /// A changed password that the source could not keep.
    unstored: Option<Box<UnsavedPassword>>,
    /// A change whose outcome is not known.
    open: Option<Box<PendingChange>>,
    refused: Option<Box<Refused>>,
}

#[derive(Debug)]
struct Refused {
    credentials: Vec<Credentials>,
    /// The answer to the last of them.
    refusal: ProviderError,
}

#[derive(Debug)]
struct UnsavedPassword {
    in_use: Credentials,
    /// The credentials of the source at that time. Once it yields others, those are used.
    source_said: Credentials,
}

#[derive(Debug)]
struct PendingChange {
    new: Credentials,
    source_said: Credentials,
    /// Whether the source keeps the new password too.
    stored: bool,
    /// The password that was sent last, if the outcome is not known.
    trying: Option<Trying>,
    /// The value of `trying` before that.
    before: Option<Trying>,
}

/// Credentials for a login to send.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) credentials: Credentials,
    /// The note to make before they are sent, if they belong to an open change.
    trying: Option<Trying>,
}

/// A password change that was noted, before the server is asked.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) change: PasswordChange,
    new: Credentials,
    source_said: Credentials,
    stored: bool,
}

/// One of the two passwords of a change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PasswordVersion {
    New,
    Old,
}

impl Candidate {
    /// Returns whether its sending is noted.
    pub(super) fn is_noted(&self) -> bool {
        self.trying.is_some()
    }
}

impl CredentialState {
    /// Loads from the source a change that a dead process left behind.
    pub(super) async fn recall(&mut self, source: &Source) -> Result<(), SourceError> {
        if self.open.is_some() {
            return Ok(());
        }
        let Some(Unresolved { new, trying }) = source.unresolved().await? else {
            return Ok(());
        };
        self.open = Some(Box::new(PendingChange {
            new,
            source_said: source.fetch().await?,
            stored: true,
            trying,
            before: None,
        }));
        Ok(())
    }

    /// Returns the credentials to try, in this order, each once.
    pub(super) fn candidates(
        &mut self,
        source_says: Credentials,
        refused_too: bool,
    ) -> Vec<Candidate> {
        // A note about the old password does not apply to the credentials that the
        // source yields now.
        let open = self.open.as_ref();
        let is_other = open.is_some_and(|open| !open.source_said.same_as(&source_says));
        let in_use = self.in_use(source_says);
        let mut candidates = Vec::with_capacity(2);
        match &self.open {
            // The source may have the new password already.
            Some(open) if !open.new.same_as(&in_use) => {
                for which in open.order(refused_too || is_other) {
                    let credentials = match which {
                        PasswordVersion::New => open.new.clone(),
                        PasswordVersion::Old => in_use.clone(),
                    };
                    candidates.push((credentials, Some(*which)));
                }
            }
            Some(_) | None => candidates.push((in_use, None)),
        }
        if !refused_too {
            candidates.retain(|(candidate, _)| !self.is_refused(candidate));
        }
        let is_only = self.open.as_ref().is_some_and(|open| open.is_half_known());
        let noted = candidates.into_iter().enumerate();
        noted
            .map(|(place, (credentials, which))| Candidate {
                credentials,
                trying: which.map(|which| match (which, place > 0 || is_only) {
                    (PasswordVersion::New, false) => Trying::New,
                    (PasswordVersion::Old, false) => Trying::Old,
                    (PasswordVersion::New, true) => Trying::OnlyNew,
                    (PasswordVersion::Old, true) => Trying::OnlyOld,
                }),
            })
            .collect()
    }

    /// Notes, also in the source, that `candidate` is about to be sent.
    pub(super) async fn trying(
        &mut self,
        candidate: &Candidate,
        source: &Source,
    ) -> Result<(), SourceError> {
        let Some(trying) = candidate.trying else {
            return Ok(());
        };
        self.note(Some(trying), source).await
    }

    /// The server has not checked the password of the last login. Restores the note
    /// about the login before it, which may count as failed even after a restart.
    pub(super) async fn on_inconclusive(&mut self, source: &Source) -> Result<(), SourceError> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        match (open.trying, open.before) {
            (Some(Trying::OnlyNew | Trying::OnlyOld), _) => Ok(()),
            (Some(Trying::New | Trying::Old) | None, Some(before)) => {
                self.note(Some(before), source).await
            }
            (Some(Trying::New | Trying::Old) | None, None) => {
                open.trying = None;
                Ok(())
            }
        }
    }

    /// Returns the server's last refusal.
    pub(super) fn refusal(&self) -> ProviderError {
        match &self.refused {
            Some(refused) => refused.refusal.clone(),
            None => ProviderError::refused("there are no credentials left to try"),
        }
    }

    /// The server refused `credentials`.
    ///
    /// That does not resolve an open change yet: a locked account refuses the
    /// right password too, which must not be dropped then.
    pub(super) fn refused(&mut self, credentials: Credentials, refusal: ProviderError) {
        let is_known = self.is_refused(&credentials);
        let before = self.refused.take().map(|refused| refused.credentials);
        let mut all = before.unwrap_or_default();
        if !is_known {
            if all.len() == MAX_REFUSED {
                all.remove(0);
            }
            all.push(credentials);
        }
        self.refused = Some(Box::new(Refused {
            credentials: all,
            refusal,
        }));
    }

    fn is_refused(&self, credentials: &Credentials) -> bool {
        let refused = self.refused.as_ref();
        refused.is_some_and(|refused| {
            let mut others = refused.credentials.iter();
            others.any(|other| other.same_as(credentials))
        })
    }

    /// The server refused all candidates. If an open change kept a note about one
    /// of them, the next start would not try it, although it may be right.
    pub(super) async fn refused_all(&mut self, source: &Source) -> Result<(), SourceError> {
        self.note(None, source).await
    }

    async fn note(&mut self, trying: Option<Trying>, source: &Source) -> Result<(), SourceError> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        open.before = std::mem::replace(&mut open.trying, trying);
        match open.stored {
            true => source.trying(trying).await,
            false => Ok(()),
        }
    }

    /// The server accepted `credentials`, which resolves an open change.
    pub(super) async fn on_accepted(
        &mut self,
        credentials: &Credentials,
        source: &Source,
    ) -> Result<(), SourceError> {
        self.refused = None;
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        if open.new.same_as(credentials) {
            return self
                .keep(open.new, open.source_said, open.stored, source)
                .await;
        }
        // The change was never made.
        match open.stored {
            true => source.withdraw().await,
            false => Ok(()),
        }
    }

    /// Returns whether a password change is open: only a login shows which
    /// password the server takes.
    pub(super) fn is_uncertain(&self) -> bool {
        self.open.is_some()
    }

    /// Notes a new password beside the current one.
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
            Err(error) => match (error.kind(), change.storage()) {
                (SourceErrorKind::ReadOnly, Storage::InMemoryIfReadOnly) => false,
                (SourceErrorKind::ReadOnly, Storage::Required) => return Err(error),
                (
                    SourceErrorKind::Unavailable
                    | SourceErrorKind::Missing
                    | SourceErrorKind::Invalid,
                    Storage::Required | Storage::InMemoryIfReadOnly,
                ) => {
                    // It may have kept the password despite the error.
                    let _ = source.withdraw().await;
                    return Err(error);
                }
            },
        };
        // Before the server is asked: a job that dies at any point from here on
        // leaves both passwords behind.
        // A refusal before the change does not count after it.
        if let Some(refused) = &mut self.refused {
            refused.credentials.retain(|other| !other.same_as(&new));
        }
        self.open = Some(Box::new(PendingChange {
            new: new.clone(),
            source_said: source_said.clone(),
            stored,
            trying: None,
            before: None,
        }));
        Ok(Prepared {
            change: change.of(&in_use),
            new,
            source_said,
            stored,
        })
    }

    /// The server has answered the prepared change.
    pub(super) async fn settle<T>(
        &mut self,
        prepared: Prepared,
        answer: &Result<T, ProviderError>,
        source: &Source,
    ) -> Result<(), SourceError> {
        match answer {
            Ok(_) => {
                self.open = None;
                self.refused = None;
                self.keep(prepared.new, prepared.source_said, prepared.stored, source)
                    .await
            }
            Err(error) if error.kind() == ProviderErrorKind::Uncertain => Ok(()),
            Err(_) => {
                self.open = None;
                match prepared.stored {
                    true => source.withdraw().await,
                    false => Ok(()),
                }
            }
        }
    }

    /// Uses `new` from now on: from the source, or from memory if that cannot store it.
    async fn keep(
        &mut self,
        new: Credentials,
        source_said: Credentials,
        stored: bool,
        source: &Source,
    ) -> Result<(), SourceError> {
        // Until the source has stored it, or for good if it cannot.
        self.unstored = Some(Box::new(UnsavedPassword {
            in_use: new,
            source_said,
        }));
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

impl PendingChange {
    /// The new password comes first: most often the answer was lost and not the
    /// request. If the last password sent may be wrong, the other comes first, so
    /// that no wrong one is sent twice in a row.
    fn order(&self, refused_too: bool) -> &'static [PasswordVersion] {
        match self.trying {
            None | Some(Trying::Old) => &[PasswordVersion::New, PasswordVersion::Old],
            Some(Trying::New) => &[PasswordVersion::Old, PasswordVersion::New],
            Some(Trying::OnlyNew) if refused_too => &[PasswordVersion::New, PasswordVersion::Old],
            Some(Trying::OnlyOld) if refused_too => &[PasswordVersion::Old, PasswordVersion::New],
            Some(Trying::OnlyNew) => &[PasswordVersion::New],
            Some(Trying::OnlyOld) => &[PasswordVersion::Old],
        }
    }

    /// Returns whether one of the two is known to be wrong.
    fn is_half_known(&self) -> bool {
        match self.trying {
            Some(Trying::OnlyNew | Trying::OnlyOld) => true,
            Some(Trying::New | Trying::Old) | None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_refused_credentials_are_kept_once_each() {
        let credentials = |number: usize| Credentials::new("alice", format!("password-{number}"));
        let refusal = || ProviderError::refused("wrong password");
        let mut state = CredentialState::default();
        for number in 0..MAX_REFUSED {
            state.refused(credentials(number), refusal());
            state.refused(credentials(0), refusal());
        }
        assert!((0..MAX_REFUSED).all(|number| state.is_refused(&credentials(number))));
        state.refused(credentials(MAX_REFUSED), refusal());
        assert!(!state.is_refused(&credentials(0)));
        assert!((1..=MAX_REFUSED).all(|number| state.is_refused(&credentials(number))));
    }
}
