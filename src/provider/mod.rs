//! Login systems: the trait that speaks to one, and what is ready-made.
//!
//! **To write one, read [`writing`].**
//!
//! A [`CredentialProvider`] knows how to log in. Everything else is the
//! session's: when to log in, with which credentials, how often after a
//! failure, and who waits for it. The smallest provider is a [`Profile`] and
//! one function:
//!
//! ```
//! use tower_reauth::{LoginContext, Profile, ProviderError, Session, Token, provider_fn};
//!
//! # fn ask() -> impl Future<Output = Result<String, std::io::Error>> + Send { async { Ok("A3F5".into()) } }
//! let provider = provider_fn(
//!     Profile::at("https://api.example.com".parse()?),
//!     |_login: LoginContext| async {
//!         let token = ask().await.map_err(ProviderError::unavailable)?;
//!         Ok(Token::bearer(token)?)
//!     },
//! );
//! let session = Session::new(provider);
//! # Ok::<(), http::uri::InvalidUri>(())
//! ```
//!
//! A provider with a user and a password names their [`Source`] in
//! [`CredentialProvider::source`] and takes what to send from
//! [`LoginContext::credentials`]: the session decides which, so that refused
//! credentials are not sent again. [`Api`] makes the calls of most login
//! systems short to write.

mod api;
mod context;
mod erased;
mod error;
mod fixed;
mod function;
mod profile;
pub mod writing {
    #![doc = include_str!("writing.md")]

    #[allow(unused_imports, reason = "the page links to them")]
    use super::{
        Answer, Api, Call, CredentialProvider, LoginContext, LogoutEnds, PasswordChange, Profile,
        ProviderError, Reason,
    };
    #[allow(unused_imports, reason = "the page links to it")]
    use crate::token::Token;
}

use std::future::{Future, ready};

pub use api::{Answer, Api, Call, segment};
pub use context::{LoginContext, PasswordChange, PasswordChanged, Reason};
pub use error::{ProviderError, ProviderErrorKind};
pub use fixed::FixedToken;
pub use function::{ProviderFn, provider_fn};
pub use profile::{LogoutEnds, Profile};

#[cfg(feature = "controlm")]
pub(crate) use api::{NOT_SOON, may_have_been_executed, transport};
pub(crate) use context::Storing;
pub(crate) use erased::ErasedProvider;

use crate::credentials::Source;
use crate::token::Token;

/// Knows one login system: logs in and, where it can, logs out and changes the password.
///
/// [`writing`] is the guide to writing one.
///
/// A session calls one of the three methods at a time, in a task of its own.
///
/// # Cancellation
///
/// A call does not end with the request that caused it. It is dropped when the
/// session's login deadline passes, or when the runtime shuts down.
///
/// # Calling through the session itself
///
/// A provider must not send its calls through the session that it serves:
/// they would wait for the login that waits for them. The session notices
/// that and fails them with
/// [`ErrorKind::Recursive`](crate::ErrorKind::Recursive).
///
/// # Examples
///
/// A server that takes a JSON login over any client (here: a function) and
/// answers with a header:
///
/// ```
/// use http::HeaderName;
/// use tower_reauth::credentials::Source;
/// use tower_reauth::{CredentialProvider, LoginContext, Profile, ProviderError, Token};
///
/// struct Redfish {
///     source: Source,
/// }
///
/// impl CredentialProvider for Redfish {
///     fn profile(&self) -> Profile {
///         Profile::at("https://bmc.example.com".parse().expect("a valid URI"))
///     }
///
///     fn source(&self) -> Option<&Source> {
///         Some(&self.source)
///     }
///
///     async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
///         let credentials = login.credentials()?;
///         # async fn post_sessions(_: &tower_reauth::Credentials) -> Result<String, std::io::Error> { Ok("A3F5".into()) }
///         let token = post_sessions(credentials).await.map_err(ProviderError::lost)?;
///         Ok(Token::header(HeaderName::from_static("x-auth-token"), token)?)
///     }
/// }
/// ```
pub trait CredentialProvider: Send + Sync + 'static {
    /// What is always true of this login system; read once, when the session is made.
    fn profile(&self) -> Profile;

    /// The credentials that a login uses, if it uses any.
    fn source(&self) -> Option<&Source> {
        None
    }

    /// Logs in.
    ///
    /// # Errors
    ///
    /// [`ProviderError::refused`] only where the server denied the
    /// credentials: the session then never sends them again.
    /// [`ProviderError::lost`] of a client's error, since a wrong password may
    /// have been counted: after a password change whose answer was lost, the
    /// other one is sent next. Anything else that may pass by itself is
    /// [`ProviderError::unavailable`].
    fn login(
        &self,
        login: LoginContext,
    ) -> impl Future<Output = Result<Token, ProviderError>> + Send;

    /// Ends `token` on the server.
    ///
    /// Called when the session is logged out and, where
    /// [`Profile::logout_ends`] allows it, in the background for each token that
    /// was replaced and that nobody uses any more. Such a call is dropped after
    /// 5 s, since a login that is needed meanwhile waits for it, and made again
    /// later.
    ///
    /// The default says that this login system has no logout.
    ///
    /// # Errors
    ///
    /// [`ProviderError::token_rejected`] if the token was dead already, which
    /// the session takes for success.
    fn logout(&self, token: Token) -> impl Future<Output = Result<(), ProviderError>> + Send {
        drop(token);
        ready(Err(ProviderError::unsupported(
            "this provider has no logout",
        )))
    }

    /// Changes the password of the user that `token` belongs to.
    ///
    /// The default says that this login system cannot do that.
    ///
    /// # Errors
    ///
    /// [`ProviderError::token_rejected`] if the token is dead: the session
    /// renews it and calls once more. [`ProviderError::uncertain`] if the
    /// request was sent and its answer was lost, so that nobody knows which
    /// password the server takes. Any other error says that the old password
    /// stays in use.
    fn change_password(
        &self,
        token: Token,
        change: PasswordChange,
    ) -> impl Future<Output = Result<PasswordChanged, ProviderError>> + Send {
        drop((token, change));
        ready(Err(ProviderError::unsupported(
            "this provider cannot change a password",
        )))
    }
}
