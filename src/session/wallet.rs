//! Which credentials a login may send: those of the source, both of a password
//! change that is not resolved, and never refused ones.

use crate::credentials::{
    CredentialSource, Credentials, Source, SourceError, SourceErrorKind, Trying, Unresolved,
};
use crate::provider::{PasswordChange, ProviderError, ProviderErrorKind, Storing};

/// How many refused credentials are remembered. A source that goes through
/// more of them than this in a row would be asked for one a second time.
const REMEMBERED: usize = 16;

/// What a session knows of its credentials beyond what the source says.
///
/// Only flights use it, and there is one at a time.
#[derive(Debug, Default)]
pub(super) struct Wallet {
    // Boxed, as most sessions never have one.
    /// A changed password that the source could not keep.
    unstored: Option<Box<Unstored>>,
    /// A change of which nobody knows whether the server made it.
    open: Option<Box<OpenChange>>,
    refused: Option<Box<Refused>>,
}

#[derive(Debug)]
struct Refused {
    credentials: Vec<Credentials>,
    /// What the server said of the last ones.
    refusal: ProviderError,
}

#[derive(Debug)]
struct Unstored {
    in_use: Credentials,
    /// What the source said then. Once it says something else, that counts.
    source_said: Credentials,
}

#[derive(Debug)]
struct OpenChange {
    new: Credentials,
    source_said: Credentials,
    /// Whether the source keeps it too.
    stored: bool,
    /// The password that was sent last, if nobody knows how that ended.
    trying: Option<Trying>,
    /// What stood there before it was sent.
    before: Option<Trying>,
}

/// Credentials that a login is to send.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) credentials: Credentials,
    /// What to keep in mind before they are sent, where they are one of the
    /// two of an open change.
    trying: Option<Trying>,
}

/// A password change that was put down, before the server is asked.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) change: PasswordChange,
    new: Credentials,
    source_said: Credentials,
    stored: bool,
}

/// Which of the two passwords of a change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    New,
    Old,
}

impl Candidate {
    /// Whether it is kept in mind that it is sent.
    pub(super) fn is_noted(&self) -> bool {
        self.trying.is_some()
    }
}

impl Wallet {
    /// Asks the source for a change that a process left behind which died.
    pub(super) async fn recall(&mut self, source: &Source) -> Result<(), SourceError> {
        if self.open.is_some() {
            return Ok(());
        }
        let Some(Unresolved { new, trying }) = source.unresolved().await? else {
            return Ok(());
        };
        self.open = Some(Box::new(OpenChange {
            new,
            source_said: source.fetch().await?,
            stored: true,
            trying,
            before: None,
        }));
        Ok(())
    }

    /// The credentials to try, in this order, each once.
    pub(super) fn candidates(
        &mut self,
        source_says: Credentials,
        refused_too: bool,
    ) -> Vec<Candidate> {
        // What was learnt of an old password says nothing of one that the
        // source has now.
        let open = self.open.as_ref();
        let is_other = open.is_some_and(|open| !open.source_said.same_as(&source_says));
        let in_use = self.in_use(source_says);
        let mut candidates = Vec::with_capacity(2);
        match &self.open {
            // The source may have the new password by now.
            Some(open) if !open.new.same_as(&in_use) => {
                for which in open.order(refused_too || is_other) {
                    let credentials = match which {
                        Which::New => open.new.clone(),
                        Which::Old => in_use.clone(),
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
                    (Which::New, false) => Trying::New,
                    (Which::Old, false) => Trying::Old,
                    (Which::New, true) => Trying::OnlyNew,
                    (Which::Old, true) => Trying::OnlyOld,
                }),
            })
            .collect()
    }

    /// Keeps in mind, and in the source, that `candidate` is about to be sent.
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

    /// The answer to what was sent last says nothing of the password, and that
    /// it does not count as a failed login. What was sent before it may have,
    /// after the next start too.
    pub(super) async fn nothing_learnt(&mut self, source: &Source) -> Result<(), SourceError> {
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

    /// What the server said when it refused what there is.
    pub(super) fn refusal(&self) -> ProviderError {
        match &self.refused {
            Some(refused) => refused.refusal.clone(),
            None => ProviderError::refused("there are no credentials left to try"),
        }
    }

    /// The server refused `credentials`.
    ///
    /// That says nothing of an open change yet: an account that is locked
    /// refuses the right password too, which must not be forgotten then.
    pub(super) fn refused(&mut self, credentials: Credentials, refusal: ProviderError) {
        let is_known = self.is_refused(&credentials);
        let before = self.refused.take().map(|refused| refused.credentials);
        let mut all = before.unwrap_or_default();
        if !is_known {
            if all.len() == REMEMBERED {
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

    /// The server refused all that there is. Were it noted that one of an open
    /// change was, the next start would not try it, though it may be right.
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

    /// The server took `credentials`, which resolves an open change.
    pub(super) async fn taken(
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
        // The change never happened after all.
        match open.stored {
            true => source.withdraw().await,
            false => Ok(()),
        }
    }

    /// Whether a password change is open, so that only a login can tell which
    /// password the server takes.
    pub(super) fn is_uncertain(&self) -> bool {
        self.open.is_some()
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
                (SourceErrorKind::ReadOnly, Storing::Required) => return Err(error),
                (
                    SourceErrorKind::Unavailable
                    | SourceErrorKind::Missing
                    | SourceErrorKind::Invalid,
                    Storing::Required | Storing::InMemoryIfReadOnly,
                ) => {
                    // It may have kept it all the same.
                    let _ = source.withdraw().await;
                    return Err(error);
                }
            },
        };
        // Before the server is asked, so that a flight that dies at any point
        // from here on leaves both passwords behind.
        // A refusal from before the change says nothing of the time after it.
        if let Some(refused) = &mut self.refused {
            refused.credentials.retain(|other| !other.same_as(&new));
        }
        self.open = Some(Box::new(OpenChange {
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

    /// The server has answered the change that was prepared.
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

    /// Uses `new` from now on, by the source's word or, without it, by ours.
    async fn keep(
        &mut self,
        new: Credentials,
        source_said: Credentials,
        stored: bool,
        source: &Source,
    ) -> Result<(), SourceError> {
        // Until the source has it, and for good if it cannot.
        self.unstored = Some(Box::new(Unstored {
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

impl OpenChange {
    /// The new password first: most often it was the answer that was lost, and
    /// not the request. But if the last attempt may have been a wrong one, then
    /// the other, so that no wrong one is sent twice in a row.
    fn order(&self, refused_too: bool) -> &'static [Which] {
        match self.trying {
            None | Some(Trying::Old) => &[Which::New, Which::Old],
            Some(Trying::New) => &[Which::Old, Which::New],
            Some(Trying::OnlyNew) if refused_too => &[Which::New, Which::Old],
            Some(Trying::OnlyOld) if refused_too => &[Which::Old, Which::New],
            Some(Trying::OnlyNew) => &[Which::New],
            Some(Trying::OnlyOld) => &[Which::Old],
        }
    }

    /// Whether one of the two is known to be wrong.
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
    fn the_last_refused_credentials_are_remembered_and_each_takes_one_place() {
        let credentials = |number: usize| Credentials::new("alice", format!("password-{number}"));
        let refusal = || ProviderError::refused("wrong password");
        let mut wallet = Wallet::default();
        for number in 0..REMEMBERED {
            wallet.refused(credentials(number), refusal());
            wallet.refused(credentials(0), refusal());
        }
        assert!((0..REMEMBERED).all(|number| wallet.is_refused(&credentials(number))));
        wallet.refused(credentials(REMEMBERED), refusal());
        assert!(!wallet.is_refused(&credentials(0)));
        assert!((1..=REMEMBERED).all(|number| wallet.is_refused(&credentials(number))));
    }
}
