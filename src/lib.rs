//! Tower middleware for HTTP APIs with login sessions.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(feature = "controlm")]
pub mod controlm;
pub mod credentials;
mod error;
mod origin;
pub mod provider;
mod rejection;
mod replay;
mod secret;
mod token;

/// Any error, boxed, as in tower.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub use credentials::{CredentialSource, Credentials, Source, SourceError};
pub use error::{Error, ErrorKind};
pub use origin::Anonymous;
pub use provider::{
    CredentialProvider, FixedToken, LoginContext, PasswordChange, PasswordChanged, Profile,
    ProviderError, ProviderErrorKind, Reason, provider_fn,
};
pub use rejection::{Reauth, Rejection, Why};
pub use replay::{Auto, IfEmpty, Never, Replay, ReplayBody, ReplayFn, replay_fn};
pub use token::{InvalidToken, Token};
