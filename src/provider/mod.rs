//! Login systems: the trait that speaks to one, and ready-made providers.
//!
//! **To write one, read [`writing`].**
//!
//! A [`CredentialProvider`] logs in. The session decides everything else: when to
//! log in, with which credentials, and how often after a failure. The smallest
//! provider is a [`Profile`] and one function:
//!
//! ```
//! use tower_reauth::{LoginContext, Profile, ProviderError, Session, Token, provider_fn};
//!
//! # fn ask() -> impl Future<Output = Result<String, std::io::Error>> + Send { async { Ok("A3F5".into()) } }
//! let provider = provider_fn(
//!     Profile::at("https://api.example.com".parse()?),
//!     |_cx: LoginContext| async {
//!         let token = ask().await.map_err(ProviderError::unavailable)?;
//!         Ok(Token::bearer(token)?)
//!     },
//! );
//! let session = Session::new(provider);
//! # Ok::<(), tower_reauth::InvalidOrigin>(())
//! ```
//!
//! A provider with a user and a password names their [`Source`](crate::Source) in
//! [`CredentialProvider::source`] and gets the credentials to send from
//! [`LoginContext::credentials`]: the session chooses them, so that refused ones
//! are not sent again. With [`Api`] the calls of most login systems are short to
//! write.

mod api;
pub(crate) mod context;
pub(crate) mod credential_provider;
mod erased;
pub(crate) mod error;
pub(crate) mod fixed;
pub(crate) mod function;
pub(crate) mod password;
pub(crate) mod profile;
pub mod writing {
    #![doc = include_str!("writing.md")]

    #[allow(unused_imports, reason = "the page links to them")]
    use super::{
        Answer, Api, Call, CredentialProvider, LoginContext, LogoutContext, LogoutEnds,
        PasswordContext, Profile, ProviderError, Reason,
    };
    #[allow(unused_imports, reason = "the page links to it")]
    use crate::token::Token;
}

#[cfg(feature = "json")]
#[cfg_attr(docsrs, doc(cfg(feature = "json")))]
pub use api::Expiry;
pub use api::{Answer, Api, Call, segment};

// Public at the crate's root.
pub(crate) use context::{LoginContext, LogoutContext, LogoutReason, PasswordContext, Reason};
pub(crate) use credential_provider::CredentialProvider;
pub(crate) use error::{ProviderError, ProviderErrorKind};
pub(crate) use password::PasswordChange;
pub(crate) use profile::{LogoutEnds, Profile};

#[cfg(feature = "controlm")]
pub(crate) use api::{
    failed_call, failed_change, failed_login, may_succeed_later, not_soon, transport,
};
pub(crate) use context::Challenge;
pub(crate) use erased::ErasedProvider;
pub(crate) use password::Storage;
