//! The first of several sources that has credentials.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::source::{Trying, Unresolved};
use super::{CredentialSource, Credentials, Source, SourceError, SourceErrorKind};

/// Several sources, of which the first that has credentials counts.
///
/// One that has none ([`SourceErrorKind::Missing`]: a variable that is not set,
/// a file that is not there) is passed over. One that has some and cannot be
/// read is not: it fails the whole, so that a broken file never brings an older
/// password back into use. Each login asks all of them anew; a changed password
/// goes to the one that yielded the last.
///
/// ```
/// use tower_reauth::{Credentials, Source};
/// use tower_reauth::credentials::{Chain, Env, File};
///
/// let source = Source::new(
///     Chain::new(Env::new("CTM_USER", "CTM_PASSWORD"))
///         .or(File::kubernetes("/etc/ctm-credentials"))
///         .or(Source::from(Credentials::new("emuser", "only for development"))),
/// );
/// ```
pub struct Chain {
    sources: Vec<Source>,
    /// The place of the one that yielded credentials last.
    last: AtomicUsize,
}

impl Chain {
    /// A chain that asks `first` first.
    pub fn new(first: impl CredentialSource) -> Self {
        Self {
            sources: vec![Source::new(first)],
            last: AtomicUsize::new(0),
        }
    }

    /// Asks `next` where all before it have nothing.
    #[must_use]
    pub fn or(mut self, next: impl CredentialSource) -> Self {
        self.sources.push(Source::new(next));
        self
    }

    fn last(&self) -> &Source {
        // Never empty, and `last` is a place in it.
        &self.sources[self.last.load(Ordering::Acquire)]
    }
}

impl CredentialSource for Chain {
    async fn fetch(&self) -> Result<Credentials, SourceError> {
        let mut missing = Vec::new();
        for (place, source) in self.sources.iter().enumerate() {
            match source.fetch().await {
                Ok(credentials) => {
                    self.last.store(place, Ordering::Release);
                    return Ok(credentials);
                }
                Err(error) if error.kind() == SourceErrorKind::Missing => missing.push(error),
                Err(error) => return Err(error),
            }
        }
        Err(SourceError::missing(AllMissing(missing)))
    }

    async fn unresolved(&self) -> Result<Option<Unresolved>, SourceError> {
        self.last().unresolved().await
    }

    async fn trying(&self, which: Option<Trying>) -> Result<(), SourceError> {
        self.last().trying(which).await
    }

    async fn prepare(&self, new: Credentials) -> Result<(), SourceError> {
        self.last().prepare(new).await
    }

    async fn promote(&self) -> Result<(), SourceError> {
        self.last().promote().await
    }

    async fn withdraw(&self) -> Result<(), SourceError> {
        self.last().withdraw().await
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("sources", &self.sources.len())
            .finish_non_exhaustive()
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
            match std::error::Error::source(error) {
                Some(cause) => write!(f, "{cause}")?,
                None => write!(f, "{error}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for AllMissing {}
