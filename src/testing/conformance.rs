//! Tries a provider against a test's own server.

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;
use std::time::Duration;

use secrecy::SecretString;
use tokio::time::timeout;

use super::report::{Check, NonConforming, Outcome, Report};
use super::server::TestServer;
use crate::credentials::{CredentialSource, Credentials};
use crate::error::ErrorChain;
use crate::provider::{
    CredentialProvider, LoginContext, LogoutContext, LogoutEnds, LogoutReason, PasswordContext,
    ProviderError, ProviderErrorKind, Reason,
};
use crate::rejection::{Rejection, Start, Verdict};
use crate::token::Token;

/// How long a call of a provider may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A login has fewer awaits than this, or is dropped at these.
const MOST_AWAITS: usize = 64;

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

struct Trial<'a, P, T> {
    provider: &'a P,
    server: &'a T,
    rejection: Rejection,
    logout_ends: LogoutEnds,
    single_session: bool,
    credentials: Option<Credentials>,
}

/// What was found beside, if the contract was kept.
type Tried = Result<Option<String>, Stop>;

/// Why a check goes no further.
enum Stop {
    Skipped(String),
    Broken {
        found: String,
        contract: &'static str,
    },
}

/// How a call failed.
enum Failure {
    Error(ProviderError),
    Panicked,
    Silent,
}

const ACCEPTED: &str = "A login yields a token that the server accepts: the session attaches it \
    to every request, and takes a token that is rejected at once for one that cannot be helped.";
const LOGOUT: &str = "A logout that is `Ok` has ended the token on the server: the session tells \
    its user so, and forgets the token.";

impl<'a, P: CredentialProvider, T: TestServer> Trial<'a, P, T> {
    async fn of(provider: &'a P, server: &'a T) -> Result<Self, Stop> {
        let profile = provider.profile();
        Ok(Self {
            provider,
            server,
            rejection: profile.rejection,
            logout_ends: profile.logout_ends,
            single_session: profile.single_session,
            credentials: credentials_of(provider).await?,
        })
    }

    async fn login(&mut self) -> Tried {
        const ONE: &str = "A login opens one session: only the token that it returns is ever \
            logged out, and any other stays behind on the server.";
        let before = self.server.live_sessions().await;
        let token = self.log_in().await?;
        let after = self.server.live_sessions().await;
        if let (Some(before), Some(after)) = (before, after)
            && after > before + 1
        {
            let opened = after - before;
            return Err(broken(format!("it opened {opened} sessions"), ONE));
        }
        self.let_go(token).await;
        Ok(None)
    }

    async fn rejection(&mut self) -> Tried {
        const FRESH: &str = "A login whose reason is `Rejected` yields a fresh token: \
            `previous()` is dead, and may only be used by servers that exchange a dead one.";
        const LOCK: &str = "A dead token is no password: a server that takes it for one counts a \
            failed login, and each brings a lock closer.";
        let dead = self.log_in().await?;
        self.revoke(&dead).await?;
        let before = self.server.failed_logins().await;
        let context = self.context(Reason::Rejected).with_previous(dead.clone());
        let fresh = log_in(self.provider, context).await;
        let fresh = fresh.map_err(|failure| broken(failure, FRESH))?;
        if !self.server.accepts(&fresh).await {
            let found = match fresh.sends_the_same_as(&dead) {
                true => "it returned the rejected token once more",
                false => "it returned a token that the server does not accept",
            };
            return Err(broken(found, FRESH));
        }
        self.let_go(fresh).await;
        if self.server.failed_logins().await > before {
            return Err(broken(
                "the server counted a failed login before the good one",
                LOCK,
            ));
        }
        Ok(None)
    }

    async fn rejected_response(&mut self) -> Tried {
        const PROFILE: &str = "`Profile::rejection` tells the answer to a dead token from all \
            others: a rejection that is not seen renews nothing, and one that is none costs a login.";
        let token = self.log_in().await?;
        let Some(response) = self.server.response_to(&token).await else {
            self.let_go(token).await;
            return Err(skipped("the server does not show its answers"));
        };
        let status = response.status();
        if self.rejects(response) {
            let found = format!("a {status} to a live token counts as a rejection");
            return Err(broken(found, PROFILE));
        }
        self.revoke(&token).await?;
        let Some(response) = self.server.response_to(&token).await else {
            return Err(skipped("the server does not show its answers"));
        };
        let status = response.status();
        match self.rejects(response) {
            true => Ok(None),
            false => {
                let found = format!("the {status} to a dead token counts as no rejection");
                Err(broken(found, PROFILE))
            }
        }
    }

    async fn renewal(&mut self) -> Tried {
        const GOOD: &str = "A renewal yields a token that the server accepts, whatever it makes \
            of `previous()`: the session uses it from then on.";
        const ALONE: &str = "A login works without `previous()`, whatever its reason: the token \
            before is not offered again once it may have been used up.";
        const CONTINUES: &str = "`Token::continues_previous` says that no session was opened: \
            the token before is then never logged out.";
        let first = self.log_in().await?;
        let mut current = first.clone();
        for reason in [Reason::Expiring, Reason::Requested] {
            let before = self.server.live_sessions().await;
            let context = self.context(reason).with_previous(current.clone());
            let new = log_in(self.provider, context).await;
            let new = new.map_err(|failure| broken(failure, GOOD))?;
            if !self.server.accepts(&new).await {
                let found = "it returned a token that the server does not accept";
                return Err(broken(found, GOOD));
            }
            let after = self.server.live_sessions().await;
            if new.is_continuation() && after > before {
                let found = "it says that it continues the one before, and opened a session";
                return Err(broken(found, CONTINUES));
            }
            if !new.is_continuation() && !new.sends_the_same_as(&current) {
                self.retire(current).await;
            }
            current = new;
        }
        let alone = log_in(self.provider, self.context(Reason::Expired)).await;
        let alone = alone.map_err(|failure| broken(failure, ALONE))?;
        if !alone.sends_the_same_as(&current) {
            self.retire(alone).await;
        }
        let note = current
            .sends_the_same_as(&first)
            .then(|| "the token stays the same".to_owned());
        self.let_go(current).await;
        Ok(note)
    }

    async fn logout(&mut self) -> Tried {
        let before = self.server.live_sessions().await;
        let token = self.log_in().await?;
        self.log_out(&token).await?;
        if self.server.accepts(&token).await {
            return Err(broken("the server still accepts the token", LOGOUT));
        }
        match (before, self.server.live_sessions().await) {
            (Some(before), Some(after)) if after > before => {
                Err(broken("the server still holds the session", LOGOUT))
            }
            (Some(_), Some(_)) => Ok(None),
            (None, _) | (_, None) => Ok(Some("the server counts no sessions".to_owned())),
        }
    }

    async fn dead_logout(&mut self) -> Tried {
        const DEAD: &str = "The logout of a dead token is `Ok` or `ProviderError::token_rejected`: \
            the session takes both for success, and all else for a token that is left on the server.";
        let token = self.log_in().await?;
        self.log_out(&token).await?;
        match log_out(self.provider, token).await {
            Ok(()) => Ok(None),
            Err(failure) if failure.is(ProviderErrorKind::TokenRejected) => Ok(None),
            Err(failure) => Err(broken(failure, DEAD)),
        }
    }

    async fn logout_ends(&mut self) -> Tried {
        const ENDS: &str = "`Profile::logout_ends` names all that a logout ends: a replaced token \
            is logged out while its successor is in use, and must not take it along.";
        let old = self.log_in().await?;
        let new = self.log_in().await?;
        if new.sends_the_same_as(&old) {
            self.let_go(new).await;
            return Err(skipped("a second login yields the same token"));
        }
        if !self.server.accepts(&old).await {
            self.let_go(new).await;
            return self.login_ends_earlier_sessions();
        }
        self.log_out(&old).await?;
        let lives = self.server.accepts(&new).await;
        self.let_go(new).await;
        match (self.logout_ends, lives) {
            (LogoutEnds::Nothing | LogoutEnds::Token, true) | (LogoutEnds::User, false) => Ok(None),
            (LogoutEnds::Nothing | LogoutEnds::Token, false) => Err(broken(
                "the logout of one login's token ended that of another",
                ENDS,
            )),
            (LogoutEnds::User, true) => Ok(Some(
                "a logout ends less than the profile declares: with `LogoutEnds::Token`, \
                 replaced tokens would be logged out"
                    .to_owned(),
            )),
        }
    }

    /// No violation: without the profile's word, a session sends a request now and then
    /// with a token that a refresh ahead of time has ended.
    fn login_ends_earlier_sessions(&self) -> Tried {
        const FOUND: &str = "a login ends the earlier sessions of the user";
        match self.single_session {
            true => Err(skipped(format!("{FOUND}, as the profile says"))),
            false => Ok(Some(format!(
                "{FOUND}: declare it with `Profile::single_session`, so that no request is \
                 sent with a token that a refresh ahead of time has ended"
            ))),
        }
    }

    async fn dropped_login(&mut self) -> Tried {
        const DROPPED: &str = "A login may be dropped at any await, by the login timeout or a \
            runtime that shuts down, and the next one must work as if it had not been.";
        let before = self.server.live_sessions().await;
        let mut dropped = 0;
        for awaits in 1..=MOST_AWAITS {
            let context = self.context(Reason::Initial);
            let secrets = secrets_of(&context);
            match dropped_at(awaits, self.provider.login(context)).await {
                Dropped::InTime => dropped += 1,
                Dropped::Panicked => {
                    let found = format!("it panicked when dropped at await {awaits}");
                    return Err(broken(found, DROPPED));
                }
                Dropped::TooLate(answer) => {
                    let answer = answer.map_err(|failure| failure.without(&secrets));
                    let token = answer.map_err(|failure| broken(failure, DROPPED))?;
                    self.let_go(token).await;
                    break;
                }
            }
            let context = self.context(Reason::Initial);
            let next = log_in(self.provider, context).await;
            let next = next.map_err(|failure| {
                let found = format!("after a login that was dropped at await {awaits}, {failure}");
                broken(found, DROPPED)
            })?;
            if !self.server.accepts(&next).await {
                let found = format!(
                    "after a login that was dropped at await {awaits}, the next one yielded a \
                     token that the server does not accept"
                );
                return Err(broken(found, DROPPED));
            }
            self.let_go(next).await;
        }
        let left = match (before, self.server.live_sessions().await) {
            (Some(before), Some(after)) => after.saturating_sub(before).to_string(),
            (None, _) | (_, None) => "an unknown number of".to_owned(),
        };
        Ok(Some(format!(
            "dropped at {dropped} awaits, which left {left} sessions on the server"
        )))
    }

    async fn password_change(&mut self) -> Tried {
        const CHANGED: &str = "A password change that is `Ok` has made the new password the one \
            that works: the session sends no other from then on.";
        let Some(old) = self.credentials.clone() else {
            return Err(without_source());
        };
        let new = old.with_password(self.server.another_password(old.password()));
        let token = self.log_in().await?;
        match self.change(&token, &old, &new).await {
            Ok(_) => {}
            Err(failure) if failure.is(ProviderErrorKind::Unsupported) => {
                self.let_go(token).await;
                return Err(skipped("the provider cannot change a password"));
            }
            Err(failure) if failure.is(ProviderErrorKind::Refused) => {
                self.let_go(token).await;
                let why = format!("another password was not taken ({failure}): name a better one");
                return Err(skipped(why));
            }
            Err(failure) => return Err(broken(failure, CHANGED)),
        }
        self.let_go(token).await;

        let with_old = log_in(self.provider, self.context(Reason::Initial)).await;
        // As what it failed is told by the check of a wrong password.
        if with_old.is_ok() {
            return Err(broken("the old password still works", CHANGED));
        }
        self.credentials = Some(new.clone());
        let token = self.log_in().await.map_err(|_| {
            let found = "the new password does not work, and the user may be left with it";
            broken(found, CHANGED)
        })?;
        let back = self.change(&token, &new, &old).await;
        self.let_go(token).await;
        match back {
            Ok(_) => {
                self.credentials = Some(old);
                Ok(None)
            }
            Err(failure) if failure.is(ProviderErrorKind::Refused) => Ok(Some(
                "the server does not take the old password back: the user has the new one now"
                    .to_owned(),
            )),
            Err(failure) => {
                let found = format!("{failure}, when changed back: the user has the new one now");
                Err(broken(found, CHANGED))
            }
        }
    }

    async fn dead_password_change(&mut self) -> Tried {
        const DEAD: &str = "A password change with a dead token is \
            `ProviderError::token_rejected`: the session renews the token and calls once more.";
        let Some(credentials) = self.credentials.clone() else {
            return Err(without_source());
        };
        let token = self.log_in().await?;
        if !self.server.revoke_all().await {
            self.let_go(token.clone()).await;
        }
        if self.server.accepts(&token).await {
            return Err(skipped("the server cannot end a token"));
        }
        // To the same password, for servers that do not look at the token.
        match self.change(&token, &credentials, &credentials).await {
            Ok(_) => Ok(Some("the server does not ask for a live token".to_owned())),
            Err(failure) if failure.is(ProviderErrorKind::TokenRejected) => Ok(None),
            Err(failure) if failure.is(ProviderErrorKind::Unsupported) => {
                Err(skipped("the provider cannot change a password"))
            }
            Err(failure) => Err(broken(failure, DEAD)),
        }
    }

    async fn wrong_password(&mut self) -> Tried {
        const REFUSED: &str = "A wrong password is `ProviderError::refused`: only then does the \
            session stop sending it, and any other kind is tried again until the account is locked.";
        const ONCE: &str = "A login sends the credentials once: when to try again is the \
            session's to say, and each attempt brings a lock closer.";
        let Some(credentials) = self.credentials.clone() else {
            return Err(without_source());
        };
        let before = self.server.failed_logins().await;
        let wrong = credentials.with_password("Not-the-password-1");
        let context = LoginContext::new(Reason::Initial).with_credentials(wrong);
        match log_in(self.provider, context).await {
            Ok(token) => {
                self.let_go(token).await;
                return Err(broken("the login succeeded", REFUSED));
            }
            Err(failure) if failure.is(ProviderErrorKind::Refused) => {}
            Err(failure) => return Err(broken(failure, REFUSED)),
        }
        match (before, self.server.failed_logins().await) {
            (Some(before), Some(after)) if after > before + 1 => {
                let attempts = after - before;
                let found = format!("the server counted {attempts} attempts");
                Err(broken(found, ONCE))
            }
            (Some(_), Some(_)) => Ok(None),
            (None, _) | (_, None) => Ok(Some("the server counts no failed logins".to_owned())),
        }
    }

    fn context(&self, reason: Reason) -> LoginContext {
        context(reason, self.credentials.as_ref())
    }

    /// A token that the server accepts.
    async fn log_in(&self) -> Result<Token, Stop> {
        let login = log_in(self.provider, self.context(Reason::Initial)).await;
        let token = login.map_err(|failure| broken(failure, ACCEPTED))?;
        match self.server.accepts(&token).await {
            true => Ok(token),
            false => {
                let found = "it returned a token that the server does not accept";
                Err(broken(found, ACCEPTED))
            }
        }
    }

    async fn log_out(&self, token: &Token) -> Result<(), Stop> {
        if self.logout_ends == LogoutEnds::Nothing {
            self.let_go(token.clone()).await;
            return Err(skipped("a logout ends nothing, as the profile says"));
        }
        match log_out(self.provider, token.clone()).await {
            Ok(()) => Ok(()),
            Err(failure) if failure.is(ProviderErrorKind::Unsupported) => {
                Err(skipped("the provider has no logout"))
            }
            Err(failure) => Err(broken(failure, LOGOUT)),
        }
    }

    /// Ends a token that is needed no more. What comes of it is another check's.
    async fn let_go(&self, token: Token) {
        let _ = log_out(self.provider, token).await;
    }

    /// Ends a token beside others, if the session would.
    async fn retire(&self, token: Token) {
        match self.logout_ends {
            LogoutEnds::Token => self.let_go(token).await,
            LogoutEnds::Nothing | LogoutEnds::User => {}
        }
    }

    async fn revoke(&self, token: &Token) -> Result<(), Stop> {
        if !self.server.revoke_all().await {
            self.let_go(token.clone()).await;
            return Err(skipped("the server cannot end all sessions"));
        }
        match self.server.accepts(token).await {
            false => Ok(()),
            true => Err(skipped("the server accepts a token that it has revoked")),
        }
    }

    async fn change(
        &self,
        token: &Token,
        from: &Credentials,
        to: &Credentials,
    ) -> Result<(), Failure> {
        let mut secrets = token.secrets();
        secrets.extend([from.password().clone(), to.password().clone()]);
        let context = PasswordContext::new(to.password().clone())
            .with_credentials(from)
            .with_token(token.clone());
        let changed = called(async { self.provider.change_password(context).await }).await;
        changed.map_err(|failure| failure.without(&secrets))
    }

    fn rejects(&self, response: http::Response<bytes::Bytes>) -> bool {
        let (head, body) = response.into_parts();
        let verdict = match self.rejection.classify(&head) {
            Verdict::NeedsBody { bytes } => {
                let start = &body[..body.len().min(bytes)];
                self.rejection.classify_body(&head, Start::Complete(start))
            }
            verdict @ (Verdict::Accepted | Verdict::Rejected(_) | Verdict::Unknown) => verdict,
        };
        matches!(verdict, Verdict::Rejected(_))
    }
}

async fn credentials_of(provider: &impl CredentialProvider) -> Result<Option<Credentials>, Stop> {
    const SOURCE: &str = "A login sends what the source yields: without it there is none.";
    let Some(source) = provider.source() else {
        return Ok(None);
    };
    match source.fetch().await {
        Ok(credentials) => Ok(Some(credentials)),
        Err(error) => {
            let found = format!(
                "the source of the credentials failed: {}",
                ErrorChain(&error)
            );
            Err(broken(found, SOURCE))
        }
    }
}

fn context(reason: Reason, credentials: Option<&Credentials>) -> LoginContext {
    let context = LoginContext::new(reason);
    match credentials {
        Some(credentials) => context.with_credentials(credentials.clone()),
        None => context,
    }
}

async fn log_in(
    provider: &impl CredentialProvider,
    context: LoginContext,
) -> Result<Token, Failure> {
    let secrets = secrets_of(&context);
    // In a block of its own, since a method may panic before there is a future.
    let login = called(async { provider.login(context).await }).await;
    login.map_err(|failure| failure.without(&secrets))
}

async fn log_out(provider: &impl CredentialProvider, token: Token) -> Result<(), Failure> {
    let secrets = token.secrets();
    let context = LogoutContext::new(token, LogoutReason::LoggedOut);
    let logout = called(async { provider.logout(context).await }).await;
    logout.map_err(|failure| failure.without(&secrets))
}

/// What a server may echo of a login.
fn secrets_of(context: &LoginContext) -> Vec<SecretString> {
    let mut secrets = context.previous().map(Token::secrets).unwrap_or_default();
    secrets.extend(context.credentials().map(|sent| sent.password().clone()));
    secrets
}

/// Waits for a call, and takes a panic for an answer.
async fn called<T>(
    call: impl Future<Output = Result<T, ProviderError>> + Send,
) -> Result<T, Failure> {
    let mut call = Box::pin(call);
    let answered = poll_fn(|cx| {
        match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx))) {
            Ok(poll) => poll.map(|answer| answer.map_err(Failure::Error)),
            // A call that panicked is not polled again.
            Err(_) => Poll::Ready(Err(Failure::Panicked)),
        }
    });
    let answer = timeout(PATIENCE, answered).await;
    match catch_unwind(AssertUnwindSafe(|| drop(call))) {
        Ok(()) => answer.unwrap_or(Err(Failure::Silent)),
        Err(_) => Err(Failure::Panicked),
    }
}

/// What became of a call that was to be dropped.
enum Dropped<T> {
    InTime,
    Panicked,
    /// It was done before.
    TooLate(Result<T, Failure>),
}

/// Drops a call when it waits for the `awaits`th time.
async fn dropped_at<T>(
    awaits: usize,
    call: impl Future<Output = Result<T, ProviderError>> + Send,
) -> Dropped<T> {
    let mut call = Box::pin(call);
    let mut waited = 0;
    let answered = called(poll_fn(|cx| match call.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(answer.map(Some)),
        Poll::Pending => {
            waited += 1;
            match waited == awaits {
                true => Poll::Ready(Ok(None)),
                false => Poll::Pending,
            }
        }
    }))
    .await;
    match (answered, catch_unwind(AssertUnwindSafe(|| drop(call)))) {
        (Ok(None), Ok(())) => Dropped::InTime,
        (_, Err(_)) => Dropped::Panicked,
        (Ok(Some(answer)), Ok(())) => Dropped::TooLate(Ok(answer)),
        (Err(failure), Ok(())) => Dropped::TooLate(Err(failure)),
    }
}

fn broken(found: impl fmt::Display, contract: &'static str) -> Stop {
    Stop::Broken {
        found: found.to_string(),
        contract,
    }
}

fn skipped(why: impl Into<String>) -> Stop {
    Stop::Skipped(why.into())
}

fn without_source() -> Stop {
    skipped("the provider names no source of credentials")
}

fn outcome(tried: Tried) -> Outcome {
    match tried {
        Ok(note) => Outcome::Kept { note },
        Err(stop) => stop.into(),
    }
}

impl Failure {
    /// The same without what it quotes of `secrets`: a report is printed.
    fn without(self, secrets: &[SecretString]) -> Self {
        match self {
            Failure::Error(error) => Failure::Error(error.without(secrets)),
            Failure::Panicked | Failure::Silent => self,
        }
    }

    fn is(&self, kind: ProviderErrorKind) -> bool {
        match self {
            Failure::Error(error) => error.kind() == kind,
            Failure::Panicked | Failure::Silent => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Error(error) => {
                write!(f, "it failed as {:?} ({})", error.kind(), ErrorChain(error))
            }
            Failure::Panicked => f.write_str("it panicked"),
            Failure::Silent => write!(f, "it was not answered within {PATIENCE:?}"),
        }
    }
}

impl From<Stop> for Outcome {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Skipped(why) => Outcome::Skipped { why },
            Stop::Broken { found, contract } => Outcome::Broken { found, contract },
        }
    }
}
