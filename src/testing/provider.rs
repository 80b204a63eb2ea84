//! A scripted provider.

use std::collections::VecDeque;
use std::fmt;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Gate;
use crate::credentials::Source;
use crate::origin::Origin;
use crate::provider::{
    CredentialProvider, LoginContext, LogoutContext, PasswordContext, Profile, ProviderError,
    Reason,
};
use crate::token::Token;

/// A provider that follows a script, and succeeds after its end.
///
/// Without a scripted answer, the first login yields the bearer token `token-1`, the
/// second `token-2`, and so on; a logout and a password change succeed. It records
/// all calls.
///
/// Cloning copies a pointer: the test keeps one clone, and the session has the other.
///
/// ```
/// use tower_reauth::testing::{Answer, ScriptedProvider};
/// use tower_reauth::{ErrorKind, ProviderError, Reason, Session};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), tower_reauth::BoxError> {
/// let provider = ScriptedProvider::at("https://api.test".parse()?);
/// provider.on_login(ProviderError::unavailable("down for maintenance"));
/// provider.on_login(Answer::panic());
///
/// let session = Session::new(provider.clone());
/// assert_eq!(session.token().await.unwrap_err().kind(), ErrorKind::Unavailable);
/// assert_eq!(session.login().await.unwrap_err().kind(), ErrorKind::ProviderPanicked);
/// session.login().await?;
/// assert_eq!(provider.logins(), 3);
/// assert_eq!(provider.reasons(), [Reason::Initial, Reason::Requested, Reason::Requested]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ScriptedProvider {
    profile: Profile,
    source: Option<Source>,
    issue: Arc<dyn Fn(usize) -> Token + Send + Sync>,
    shared: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    logins: VecDeque<Answer<Token>>,
    logouts: VecDeque<Answer<()>>,
    changes: VecDeque<Answer<()>>,
    calls: Vec<Call>,
    issued: usize,
}

/// What a [`ScriptedProvider`] was called with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Call {
    /// [`CredentialProvider::login`]
    Login(LoginContext),
    /// [`CredentialProvider::logout`]
    Logout(LogoutContext),
    /// [`CredentialProvider::change_password`]
    ChangePassword(PasswordContext),
}

/// How a [`ScriptedProvider`] answers one call.
///
/// A token or a [`ProviderError`] is an answer too, with `into()`.
#[derive(Debug)]
#[must_use]
pub struct Answer<T> {
    what: What<T>,
    gate: Option<Gate>,
}

#[derive(Debug)]
enum What<T> {
    /// What the provider answers without a script.
    Usual,
    Given(Result<T, ProviderError>),
    Panic,
    Never,
}

impl<T> Answer<T> {
    /// What the provider answers without a script: to be [`held`](Answer::held_at).
    pub fn usual() -> Self {
        What::Usual.into()
    }

    /// Panics.
    pub fn panic() -> Self {
        What::Panic.into()
    }

    /// Never answers.
    pub fn never() -> Self {
        What::Never.into()
    }

    /// Holds the call at `gate` first.
    pub fn held_at(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    async fn give(self, usual: impl FnOnce() -> T) -> Result<T, ProviderError> {
        if let Some(gate) = self.gate {
            gate.pass().await;
        }
        match self.what {
            What::Usual => Ok(usual()),
            What::Given(answer) => answer,
            What::Panic => panic!("the provider panics, as its script says"),
            What::Never => pending().await,
        }
    }
}

impl<T> From<What<T>> for Answer<T> {
    fn from(what: What<T>) -> Self {
        Self { what, gate: None }
    }
}

impl From<Token> for Answer<Token> {
    fn from(token: Token) -> Self {
        What::Given(Ok(token)).into()
    }
}

impl<T> From<ProviderError> for Answer<T> {
    fn from(error: ProviderError) -> Self {
        What::Given(Err(error)).into()
    }
}

impl ScriptedProvider {
    /// Creates a provider whose tokens go to `origin`.
    #[must_use]
    pub fn at(origin: Origin) -> Self {
        Self::new(Profile::at(origin))
    }

    /// A provider with this profile.
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        Self {
            profile,
            source: None,
            issue: Arc::new(|number| {
                Token::bearer(format!("token-{number}")).expect("letters and digits")
            }),
            shared: Arc::default(),
        }
    }

    /// Takes the credentials of each login from `source`.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Issues these tokens where the script names none; the first is number 1.
    ///
    /// For tokens with a lifetime, say, or in a cookie.
    #[must_use]
    pub fn issuing(mut self, issue: impl Fn(usize) -> Token + Send + Sync + 'static) -> Self {
        self.issue = Arc::new(issue);
        self
    }

    /// Adds the answer to a login: the next one that has no answer yet.
    pub fn on_login(&self, answer: impl Into<Answer<Token>>) {
        self.script().logins.push_back(answer.into());
    }

    /// Adds the answer to a logout: the next one that has no answer yet.
    pub fn on_logout(&self, answer: impl Into<Answer<()>>) {
        self.script().logouts.push_back(answer.into());
    }

    /// Adds the answer to a password change: the next one that has no answer yet.
    pub fn on_change_password(&self, answer: impl Into<Answer<()>>) {
        self.script().changes.push_back(answer.into());
    }

    /// All calls so far, in order, whatever became of them.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.script().calls.clone()
    }

    /// How many logins were begun.
    #[must_use]
    pub fn logins(&self) -> usize {
        self.reasons().len()
    }

    /// Why each login was made.
    #[must_use]
    pub fn reasons(&self) -> Vec<Reason> {
        let reason = |call: &Call| match call {
            Call::Login(login) => Some(login.reason()),
            Call::Logout(_) | Call::ChangePassword(_) => None,
        };
        self.script().calls.iter().filter_map(reason).collect()
    }

    /// How many logouts were begun.
    #[must_use]
    pub fn logouts(&self) -> usize {
        self.count(|call| matches!(call, Call::Logout(_)))
    }

    /// How many password changes were begun.
    #[must_use]
    pub fn password_changes(&self) -> usize {
        self.count(|call| matches!(call, Call::ChangePassword(_)))
    }

    fn count(&self, which: impl Fn(&Call) -> bool) -> usize {
        let script = self.script();
        script.calls.iter().filter(|call| which(call)).count()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        // No code of anybody else's runs under the lock.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn issue(&self) -> Token {
        let number = {
            let mut script = self.script();
            script.issued += 1;
            script.issued
        };
        (self.issue)(number)
    }
}

/// Returns a copy that does not count as a use of the token: its logout would wait for
/// it.
fn unused(token: &Token) -> Token {
    token.clone().leased(Arc::new(()))
}

fn next<T>(answers: &mut VecDeque<Answer<T>>) -> Answer<T> {
    answers.pop_front().unwrap_or_else(Answer::usual)
}

impl CredentialProvider for ScriptedProvider {
    fn profile(&self) -> Profile {
        self.profile.clone()
    }

    fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    async fn login(&self, cx: LoginContext) -> Result<Token, ProviderError> {
        // A login that succeeds has sent the credentials.
        let sends = self.source.as_ref().map(|_| cx.clone());
        let answer = {
            let mut script = self.script();
            script.calls.push(Call::Login(cx));
            next(&mut script.logins)
        };
        let issue = || {
            let _ = sends.as_ref().map(LoginContext::credentials);
            self.issue()
        };
        answer.give(issue).await
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        let answer = {
            // Without the credentials, which keep the provider itself.
            let cx = LogoutContext::new(unused(cx.token()), cx.reason());
            let mut script = self.script();
            script.calls.push(Call::Logout(cx));
            next(&mut script.logouts)
        };
        answer.give(|| ()).await
    }

    async fn change_password(&self, cx: PasswordContext) -> Result<(), ProviderError> {
        let answer = {
            let cx = match cx.token() {
                Some(token) => cx.clone().with_token(unused(token)),
                None => cx,
            };
            let mut script = self.script();
            script.calls.push(Call::ChangePassword(cx));
            next(&mut script.changes)
        };
        answer.give(|| ()).await
    }
}

impl fmt::Debug for ScriptedProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedProvider")
            .field("profile", &self.profile)
            .field("calls", &self.script().calls.len())
            .finish_non_exhaustive()
    }
}
