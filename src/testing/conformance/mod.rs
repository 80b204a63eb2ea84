//! Tries a provider against a test's own server.
//!
//! | file | contents |
//! |---|---|
//! | `call` | calls the provider, with a timeout, and without panics and secrets |
//! | `trial` | the provider, the server, and the steps that the checks share |
//! | `tokens` | checks of logins, rejections and renewals |
//! | `dropped` | the check of a login that is dropped half-way |
//! | `logouts` | checks of logouts |
//! | `passwords` | checks of passwords and their changes |

mod call;
mod dropped;
mod logouts;
mod passwords;
mod tokens;
mod trial;

use self::call::log_in;
use self::trial::{Trial, broken, context, credentials_of, outcome};
use super::report::{Check, NonConforming, Outcome, Report};
use super::server::TestServer;
use crate::provider::{CredentialProvider, ProviderErrorKind, Reason};

/// Tries `provider` against `server`, and says what was kept and what skipped.
///
/// It logs in some twenty times, and more often if a login has many awaits. It
/// changes the password and changes it back, if the provider can do that. It
/// sends a wrong password once, and once more after a change; a good login
/// follows each, so the account must bear one failed login. Each [`Check`]
/// stands for itself: one that is broken does not hide the next, unless no
/// login works.
///
/// A call that is not answered within 30 s is broken. With sockets, run it on
/// a clock that is not paused: time would jump there whenever all wait for the
/// network.
///
/// # Errors
///
/// [`NonConforming`] lists every violation, with what the contract asks and why.
///
/// # Examples
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use tower_reauth::testing::{Check, TestServer, conformance};
/// use tower_reauth::{LoginContext, Profile, Token, provider_fn};
///
/// /// Knows the one token that it issued last.
/// #[derive(Clone, Default)]
/// struct Server(Arc<Mutex<u32>>);
///
/// impl TestServer for Server {
///     async fn accepts(&self, token: &Token) -> bool {
///         let (_, value) = token.headers().next().unwrap();
///         *value == format!("Bearer token-{}", self.0.lock().unwrap())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), tower_reauth::BoxError> {
/// let server = Server::default();
/// let issuing = server.clone();
/// let provider = provider_fn(
///     Profile::at("https://api.test".parse()?),
///     move |_: LoginContext| {
///         let mut last = issuing.0.lock().unwrap();
///         *last += 1;
///         let token = Token::bearer(format!("token-{last}"));
///         async { Ok(token?) }
///     },
/// );
/// let report = conformance(&provider, &server).await?;
/// assert!(report.kept(Check::Renewal));
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
pub async fn conformance(
    provider: &impl CredentialProvider,
    server: &impl TestServer,
) -> Result<Report, NonConforming> {
    let mut report = Report::default();
    let mut trial = match Trial::of(provider, server).await {
        Ok(trial) => trial,
        Err(stop) => {
            report.add(Check::Login, stop.into());
            return report.into_result();
        }
    };
    let first = outcome(trial.login().await);
    let works = !matches!(first, Outcome::Broken { .. });
    report.add(Check::Login, first);
    if works {
        report.add(Check::Rejection, outcome(trial.rejection().await));
        let answer = outcome(trial.rejected_response().await);
        report.add(Check::RejectedResponse, answer);
        report.add(Check::Renewal, outcome(trial.renewal().await));
        report.add(Check::Logout, outcome(trial.logout().await));
        report.add(Check::DeadLogout, outcome(trial.dead_logout().await));
        report.add(Check::LogoutEnds, outcome(trial.logout_ends().await));
        let dead = outcome(trial.dead_password_change().await);
        report.add(Check::DeadPasswordChange, dead);
        let change = outcome(trial.password_change().await);
        report.add(Check::PasswordChange, change);
        report.add(Check::WrongPassword, outcome(trial.wrong_password().await));
        // Last, since a provider may be left unusable.
        report.add(Check::DroppedLogin, outcome(trial.dropped_login().await));
    }
    report.into_result()
}

/// Tries a provider whose server is down: one that points to a closed port.
///
/// # Errors
///
/// [`NonConforming`] if the login is anything else than unavailable.
pub async fn conformance_unreachable(
    provider: &impl CredentialProvider,
) -> Result<Report, NonConforming> {
    const UNAVAILABLE: &str = "A login that reaches nobody is `ProviderError::unavailable`: the \
        session tries again later, and does not take the credentials for wrong.";
    let mut report = Report::default();
    let tried = async {
        let credentials = credentials_of(provider).await?;
        let context = context(Reason::Initial, credentials.as_ref());
        match log_in(provider, context).await {
            Ok(_) => Err(broken("the login succeeded", UNAVAILABLE)),
            Err(failure)
                if failure.is(ProviderErrorKind::Unavailable)
                    || failure.is(ProviderErrorKind::NotSent) =>
            {
                Ok(None)
            }
            Err(failure) => Err(broken(failure, UNAVAILABLE)),
        }
    };
    report.add(Check::Unreachable, outcome(tried.await));
    report.into_result()
}
