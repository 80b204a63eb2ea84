//! A username and a password, and where they come from.
//!
//! [`Credentials`] are the value; a [`CredentialSource`] is where it is read,
//! and for some also written; [`Source`] is any of them, boxed. The session
//! asks the source before each login and never on a request's path, so a
//! source may be slow.
//!
//! ```
//! use tower_reauth::{Credentials, Source};
//!
//! // Kept in memory, as most programs do:
//! let fixed = Source::from(Credentials::new("emuser", "s3cret"));
//!
//! // Read anew before each login:
//! let read = Source::from_fn(|| async { Ok(Credentials::new("emuser", "s3cret")) });
//! ```
//!
//! | source | read from | can be written |
//! |---|---|---|
//! | [`Memory`], `Credentials` themselves | this process | until it ends |
//! | [`Env`] | environment variables | no |
//! | [`File`] | a file, or a secret that Kubernetes mounts | no |
//! | `FileStore` (feature `json`) | a file of our own | yes, durably |
//! | [`Chain`] | the first of several that has credentials | as that one |
//! | [`Source::from_fn`] | a function | no |
//! | your [`CredentialSource`] | a vault, say | as you implement it |

// Not connected to a driver yet: explored and tested only.
#[cfg(test)]
mod account;
mod chain;
mod env;
mod file;
mod memory;
pub(crate) mod source;
#[cfg(feature = "json")]
mod store;
pub(crate) mod value;

pub use chain::Chain;
pub use env::Env;
pub use file::File;
pub use memory::Memory;
pub use source::{SourceErrorKind, Trying, Unresolved};
#[cfg(feature = "json")]
#[cfg_attr(docsrs, doc(cfg(feature = "json")))]
pub use store::FileStore;

// Public at the crate's root.
pub(crate) use source::{CredentialSource, Source, SourceError};
pub(crate) use value::Credentials;
