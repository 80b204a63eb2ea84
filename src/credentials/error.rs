//! Why a source or a store failed.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use secrecy::SecretString;

use crate::BoxError;
use crate::error::{ErrorChain, redacted_cause};

/// Why a source could not be read or written.
///
/// Cheap to clone. The cause, if there is one, is its
/// [`source`](Error::source); nothing of it is quoted here.
#[derive(Clone, Debug)]
pub struct SourceError {
    kind: SourceErrorKind,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// The kind of a [`SourceError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceErrorKind {
    /// It cannot be reached now; the session tries again later.
    Unavailable,
    /// It has no credentials: a variable is not set, a file does not exist.
    Missing,
    /// Its content is not credentials. Somebody must correct it.
    Invalid,
    /// It cannot be written, so a password change would be forgotten.
    ReadOnly,
    /// The record was stored by another process in the meantime.
    Conflict,
}

impl SourceError {
    /// The source cannot be reached now.
    pub fn unavailable(cause: impl Into<BoxError>) -> Self {
        Self::new(SourceErrorKind::Unavailable, cause)
    }

    /// The source has no credentials; another one in a
    /// [`Chain`](super::Chain) may have some.
    pub fn missing(cause: impl Into<BoxError>) -> Self {
        Self::new(SourceErrorKind::Missing, cause)
    }

    /// The content of the source is not credentials.
    ///
    /// The cause must not quote the content, which may be a password.
    pub fn invalid(cause: impl Into<BoxError>) -> Self {
        Self::new(SourceErrorKind::Invalid, cause)
    }

    /// The source cannot be written.
    #[must_use]
    pub fn read_only() -> Self {
        Self {
            kind: SourceErrorKind::ReadOnly,
            source: None,
        }
    }

    /// The record was stored by another process since it was loaded. Only
    /// [`CredentialStore::store`](crate::CredentialStore::store) returns it.
    #[must_use]
    pub fn conflict() -> Self {
        Self {
            kind: SourceErrorKind::Conflict,
            source: None,
        }
    }

    /// Returns the kind of error.
    #[must_use]
    pub fn kind(&self) -> SourceErrorKind {
        self.kind
    }

    /// Returns the text of `Display`.
    pub(crate) fn text(&self) -> &'static str {
        match self.kind {
            SourceErrorKind::Unavailable => "the credential source cannot be reached",
            SourceErrorKind::Missing => "the credential source has no credentials",
            SourceErrorKind::Invalid => "the content of the credential source is not credentials",
            SourceErrorKind::ReadOnly => "the credential source cannot be written",
            SourceErrorKind::Conflict => {
                "the record in the credential source was stored by another process meanwhile"
            }
        }
    }

    /// Removes `secrets` from the cause, which may quote the record.
    pub(crate) fn without(self, secrets: &[SecretString]) -> Self {
        let cause = self.source.as_deref();
        match cause.and_then(|cause| redacted_cause(cause, secrets)) {
            Some(redacted) => Self {
                source: Some(redacted.into()),
                ..self
            },
            None => self,
        }
    }

    /// None of these sources has credentials.
    pub(super) fn none_of(missing: Vec<Self>) -> Self {
        Self::missing(AllMissing(missing))
    }

    fn new(kind: SourceErrorKind, cause: impl Into<BoxError>) -> Self {
        Self {
            kind,
            source: Some(cause.into().into()),
        }
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Error for SourceError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}

/// Why none of a chain's sources has credentials.
#[derive(Debug)]
struct AllMissing(Vec<SourceError>);

impl fmt::Display for AllMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("none of the sources has credentials")?;
        for (place, error) in self.0.iter().enumerate() {
            f.write_str(match place {
                0 => ": ",
                _ => "; ",
            })?;
            let cause = error.source().unwrap_or(error);
            write!(f, "{}", ErrorChain(cause))?;
        }
        Ok(())
    }
}

impl Error for AllMissing {}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_chain_without_credentials_names_each_cause_with_its_own_cause() {
        let wrapped = SourceError::unavailable(io::Error::other("a.json: is gone"));
        let error = SourceError::none_of(vec![
            SourceError::missing("USER is not set"),
            SourceError::missing(wrapped),
        ]);
        assert_eq!(
            ErrorChain(&error).to_string(),
            "the credential source has no credentials: none of the sources has credentials: \
             USER is not set; the credential source cannot be reached: a.json: is gone"
        );
    }
}
