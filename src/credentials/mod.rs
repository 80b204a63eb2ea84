//! A username and a password, and where they come from.
//!
//! [`Credentials`] are the value. A [`CredentialSource`] reads them, a
//! [`CredentialStore`] also keeps changed ones, and [`Source`] is either of them,
//! boxed. The session asks the source before each login and never on a request's
//! path, so a source may be slow.
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
//! | source | read from | a changed password |
//! |---|---|---|
//! | [`Memory`], `Credentials` themselves | this process | lives as long as the `Source` |
//! | [`Env`] | environment variables | |
//! | [`File`] | a file, or a secret that Kubernetes mounts | |
//! | [`Source::from_fn`] | a function | |
//! | your [`CredentialSource`] | whatever can only be read | |
//! | `FileStore` (feature `json`) | a file of our own | survives |
//! | your [`CredentialStore`] | a vault or a database | survives |
//! | [`Chain`] | the first of several that has credentials | as in that one |
//!
//! [`CredentialStore`]: crate::CredentialStore

pub(crate) mod account;
mod chain;
mod clock;
mod env;
pub(crate) mod error;
mod file;
#[cfg(feature = "json")]
mod file_store;
mod memory;
pub(crate) mod shared_account;
pub(crate) mod source;
pub(crate) mod store;
pub(crate) mod value;

pub use chain::Chain;
pub use env::Env;
pub use error::SourceErrorKind;
pub use file::File;
#[cfg(feature = "json")]
#[cfg_attr(docsrs, doc(cfg(feature = "json")))]
pub use file_store::FileStore;
pub use memory::Memory;
pub use store::{Record, Version};

// Public at the crate's root.
pub(crate) use error::SourceError;
pub(crate) use source::{CredentialSource, Source};
pub(crate) use value::Credentials;
