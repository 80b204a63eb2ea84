//! Tower middleware for HTTP APIs with login sessions.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod body;
#[cfg(feature = "controlm")]
pub mod controlm;
pub mod credentials;
mod error;
mod future;
mod layer;
mod origin;
pub mod provider;
mod rejection;
mod replay;
mod secret;
mod service;
mod session;
mod token;

/// Any error, boxed, as in tower.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub use body::SessionBody;
pub use credentials::{CredentialSource, Credentials, Source, SourceError};
pub use error::{Error, ErrorKind};
pub use future::ResponseFuture;
pub use layer::SessionLayer;
pub use origin::Anonymous;
pub use provider::{
    CredentialProvider, FixedToken, LoginContext, PasswordChange, PasswordChanged, Profile,
    ProviderError, ProviderErrorKind, Reason, provider_fn,
};
pub use rejection::{Reauth, Rejection, Why};
pub use replay::{Auto, IfEmpty, Never, Replay, ReplayBody, ReplayFn, replay_fn};
pub use service::SessionService;
pub use session::{Session, SessionBuilder, State, Status};
pub use token::{InvalidToken, Token};
