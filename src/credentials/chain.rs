//! The first of several sources that has credentials.

use std::fmt;

use super::source::{Role, first_of};
use super::{CredentialSource, Credentials, Source, SourceError};

/// Several sources. The first one that has credentials is used.
///
/// A source without credentials ([`Missing`](super::SourceErrorKind::Missing): a variable
/// that is not set, a file that does not exist) is skipped. A source that cannot be read
/// is not skipped: it fails the whole chain, so that a broken file never brings an older
/// password back into use. Each login and each password change asks all of them
/// again. What is known of the passwords belongs to each source of the chain.
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
pub struct Chain(Vec<Source>);

impl Chain {
    /// Creates a chain that asks `first` first.
    pub fn new(first: impl CredentialSource) -> Self {
        Self(vec![Source::new(first)])
    }

    /// Asks `next` if none of the sources before it has credentials.
    #[must_use]
    pub fn or(mut self, next: impl CredentialSource) -> Self {
        self.0.push(Source::new(next));
        self
    }
}

impl CredentialSource for Chain {
    async fn fetch(&self) -> Result<Credentials, SourceError> {
        first_of(&self.0, |source| source.fetch()).await
    }

    fn __role(&self) -> Role<'_> {
        Role::Chain(&self.0)
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("sources", &self.0.len())
            .finish_non_exhaustive()
    }
}
