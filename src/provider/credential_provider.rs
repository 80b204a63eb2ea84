//! The trait of a login system.

use std::future::{Future, ready};

use super::{LoginContext, LogoutContext, PasswordContext, Profile, ProviderError};
use crate::credentials::Source;
use crate::token::Token;

/// Speaks to one login system: logs in and, where possible, logs out and changes
/// the password.
///
/// [`writing`](crate::provider::writing) is the guide to writing one.
///
/// A session calls one of the three methods at a time, in a task of its own. Only the
/// logout of a replaced token may run beside a login or a password change.
///
/// # Cancellation
///
/// A call does not end with the request that caused it. It is dropped after the
/// session's login timeout, or when the runtime shuts down.
///
/// # Calling through the session itself
///
/// A provider must not send its calls through the session that it serves: they
/// would wait for the login that waits for them. The session detects that and
/// fails them with [`ErrorKind::Recursive`](crate::ErrorKind::Recursive).
///
/// # Examples
///
/// A server that takes a JSON login over any client (here: a function) and answers
/// with a header:
///
/// ```
/// use tower_reauth::{CredentialProvider, LoginContext, Profile, ProviderError, Source, Token};
///
/// struct Redfish {
///     source: Source,
/// }
///
/// impl CredentialProvider for Redfish {
///     fn profile(&self) -> Profile {
///         Profile::at("https://bmc.example.com".parse().expect("an origin"))
///     }
///
///     fn source(&self) -> Option<&Source> {
///         Some(&self.source)
///     }
///
///     async fn login(&self, cx: LoginContext) -> Result<Token, ProviderError> {
///         let credentials = cx.credentials()?;
///         # async fn post_sessions(_: &tower_reauth::Credentials) -> Result<String, std::io::Error> { Ok("A3F5".into()) }
///         let token = post_sessions(credentials).await.map_err(ProviderError::lost)?;
///         Ok(Token::header("x-auth-token", token)?)
///     }
/// }
/// ```
pub trait CredentialProvider: Send + Sync + 'static {
    /// Returns the static facts of this login system. Read once, when the session
    /// is created.
    fn profile(&self) -> Profile;

    /// Returns the source of the credentials that a login sends, if it sends any.
    fn source(&self) -> Option<&Source> {
        None
    }

    /// Logs in.
    ///
    /// # Errors
    ///
    /// - [`ProviderError::refused`] only if the server denied the credentials: the
    ///   session then does not send them again.
    /// - [`ProviderError::lost`] for a client's error: the server may have counted a
    ///   wrong password. After a password change whose answer was lost, the other
    ///   password is sent next.
    /// - [`ProviderError::unavailable`] for anything else that may pass by itself.
    fn login(&self, cx: LoginContext) -> impl Future<Output = Result<Token, ProviderError>> + Send;

    /// Ends [`LogoutContext::token`] on the server.
    ///
    /// Called when the session is logged out and, if [`Profile::logout_ends`]
    /// permits it, in the background for each replaced token after its last use: one
    /// at a time, perhaps while a login or a password change is running. A call that
    /// fails, or takes longer than the login timeout, is repeated later.
    ///
    /// The default reports that this login system has no logout. `Session::logout` and
    /// `Session::close` then succeed, since there is nothing to end.
    ///
    /// # Errors
    ///
    /// [`ProviderError::token_rejected`] if the token was dead already, which counts
    /// as success.
    fn logout(&self, cx: LogoutContext) -> impl Future<Output = Result<(), ProviderError>> + Send {
        drop(cx);
        ready(Err(ProviderError::no_logout()))
    }

    /// Changes the password of the user.
    ///
    /// The default reports that this login system cannot change passwords.
    ///
    /// # Errors
    ///
    /// - [`ProviderError::token_rejected`] if the token is dead: the session
    ///   refreshes it and calls once more.
    /// - [`ProviderError::uncertain`] if the request was sent and its answer was
    ///   lost, so that it is not known which password the server takes.
    /// - Any other error means that the old password stays in use.
    fn change_password(
        &self,
        cx: PasswordContext,
    ) -> impl Future<Output = Result<(), ProviderError>> + Send {
        drop(cx);
        ready(Err(ProviderError::unsupported(
            "this provider cannot change a password",
        )))
    }
}
