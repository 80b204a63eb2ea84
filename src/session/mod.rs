//! The shared handle: one provider, the current token, its renewal.
//!
//! | file | what it holds |
//! |---|---|
//! | `lifecycle` | the rules, as a pure state machine |
//! | `lifespan` | when a token ends, and when it is renewed ahead of that |
//! | `backoff`, `cooldown`, `jitter` | its patience |
//! | `retirement` | what becomes of replaced tokens |
//! | `live` | the published token, as the request path reads it, and who uses it |
//! | `flight` | runs one login, logout or password change for everybody |
//! | `wallet` | which credentials a login may send |
//! | `shared` | the state behind all handles, and the one way to change it |
//! | `timer` | says when time has brought something, so that no request reads a clock |
//! | `waiting` | what a request does that waits for a flight |
//! | `close` | the end of a session for good |
//! | `event`, `stats`, `status`, `trace` | what happens, as it is seen from outside |
//! | `explore` | for tests: every event in every state |
//! | `model` | for tests: every order of threads |
//! | `hostile` | for tests: schedules made to break it |
//!
//! Everything that changes goes through `Shared::step`: it locks, applies
//! one event to the state machine, publishes what follows for the request
//! path, and unlocks before anything else runs. The request path reads the
//! published token and takes no lock.

mod backoff;
mod builder;
mod close;
mod cooldown;
mod event;
#[cfg(test)]
mod explore;
mod flight;
#[cfg(all(test, not(reauth_loom)))]
mod hostile;
mod jitter;
mod lifecycle;
mod lifespan;
mod live;
#[cfg(all(test, reauth_loom))]
mod model;
mod retirement;
mod shared;
mod stats;
mod status;
mod timer;
mod trace;
mod waiting;
mod wallet;

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, Uri, response};

pub use builder::SessionBuilder;
pub use close::CloseError;
pub use event::{Event, Events, TokenEnd};
pub use lifecycle::State;
pub use stats::{Logins, Stats};
pub use status::Status;

pub(crate) use lifecycle::Moment;
pub(crate) use live::{Admitted, Lease, Live, Waiting};
pub(crate) use waiting::{Acquiring, Renewing, why_failed};

use crate::error::{Error, ErrorKind};
use crate::layer::SessionLayer;
use crate::origin::{Destination, Target};
use crate::provider::{CredentialProvider, PasswordChange, PasswordChanged};
use crate::rejection::{Rejection, Why};
use crate::replay::Auto;
use crate::rolling::Rolling;
use crate::token::Token;
use flight::{Landed, Wait};
use lifecycle::{Acquire, Begin, Lifecycle, Rejected};
use shared::{Guarded, Shared};

/// A session with one login system: the token in use and everything that
/// keeps it usable.
///
/// Cloning copies a pointer; all clones are the same session. Each login, logout
/// and password change runs in a task of its own, so dropping a future that
/// waits for one loses nothing.
///
/// It needs a tokio runtime with its timer enabled. Outside of one, whatever
/// would log in fails with [`ErrorKind::NoRuntime`].
///
/// ```
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use bytes::Bytes;
/// use tower::{ServiceBuilder, ServiceExt};
/// use tower_reauth::{FixedToken, Profile, Session};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_reauth::BoxError> {
/// # let http = tower::service_fn(|request: Request<Full<Bytes>>| async move {
/// #     assert_eq!(request.headers()["x-api-key"], "3f9a");
/// #     Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default()))
/// # });
/// let session = Session::new(FixedToken::api_key(
///     Profile::at("https://api.example.com".parse()?),
///     "3f9a",
/// ));
/// let client = ServiceBuilder::new().layer(session.layer()).service(http);
///
/// let request = Request::get("https://api.example.com/servers").body(Full::default())?;
/// let response = client.oneshot(request).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

impl Session {
    /// A session that logs in through `provider` when the first request needs it.
    pub fn new(provider: impl CredentialProvider) -> Self {
        Self::builder(provider).build()
    }

    /// A session that is to be configured.
    pub fn builder(provider: impl CredentialProvider) -> SessionBuilder {
        SessionBuilder::new(provider)
    }

    /// The layer that lets a client's requests use this session.
    #[must_use]
    pub fn layer(&self) -> SessionLayer<Auto> {
        SessionLayer::new(self.clone())
    }

    /// A usable token, for start-up, a probe, or a protocol other than HTTP.
    ///
    /// Logs in if there is none. Whoever asks while a login is under way
    /// shares it. The token counts as used until the last copy of it drops.
    ///
    /// # Errors
    ///
    /// Why there is none: the session is logged out, the credentials were
    /// refused, or the login system failed lately and is not asked again yet.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing: a login it started goes on.
    pub async fn token(&self) -> Result<Token, Error> {
        let admitted = self.admit()?;
        let mut acquiring = Acquiring::new();
        let live = std::future::poll_fn(|cx| acquiring.poll(self, cx)).await?;
        let token = Live::hand_out(live);
        drop(admitted);
        self.step(|guarded, _| guarded.rules.carry(self.shared.now()));
        Ok(token)
    }

    /// Says that a server rejected `token`, as a rejected response does.
    ///
    /// For other protocols, whose rejections the layer does not see. A renewal
    /// starts in the background unless `token` was replaced already;
    /// [`Session::token`] then waits for it.
    ///
    /// A server that rejects new tokens too is not to cause a login each time:
    /// after five renewals in a row that did not help, there is one in 10 s.
    /// Whether one helped, [`Session::accept`] says.
    pub fn reject(&self, token: &Token) {
        let _ = self.rejected(token.generation(), None);
    }

    /// Says that a server accepted `token`, as an accepted response does.
    ///
    /// For other protocols. It shows that the renewal before it helped, and
    /// starts the token's idle time anew.
    pub fn accept(&self, token: &Token) {
        let now = self.shared.now();
        self.step(|guarded, _| guarded.rules.accepted_by_hand(token.generation(), now));
    }

    /// Logs in once, whatever happened before: after a logout, and with
    /// credentials that were refused. For operators.
    ///
    /// # Errors
    ///
    /// Why the login failed; [`ErrorKind::LoggedOut`] if a logout came between,
    /// which has the last word, and [`ErrorKind::Closed`] after
    /// [`Session::close`].
    ///
    /// # Cancellation
    ///
    /// A login under way goes on without the caller. A caller that still waits
    /// for another flight to end has not caused one yet.
    pub async fn login(&self) -> Result<(), Error> {
        let logouts = self.shared.lock().rules.logouts();
        loop {
            match self.begin(|rules, now| rules.login(logouts, now)).await? {
                Landed::Renewed | Landed::Unchanged => return Ok(()),
                Landed::Failed(error) => return Err(error),
                Landed::LoggedOut(_) | Landed::Retired | Landed::Changed(_) => {}
            }
        }
    }

    /// Gets a new token although the current one may be good.
    ///
    /// Requests go on with the current one until the new one is there. What
    /// becomes of the replaced one then says
    /// [`Profile::logout_ends`](crate::Profile::logout_ends).
    ///
    /// # Errors
    ///
    /// Why there is no new token. Unlike [`Session::login`] it respects a
    /// logout, refused credentials and the back-off.
    ///
    /// # Cancellation
    ///
    /// As [`Session::login`].
    pub async fn renew(&self) -> Result<(), Error> {
        loop {
            match self.begin(Lifecycle::renew).await? {
                Landed::Renewed | Landed::Unchanged => return Ok(()),
                Landed::Failed(error) => return Err(error),
                Landed::LoggedOut(_) | Landed::Retired | Landed::Changed(_) => {}
            }
        }
    }

    /// Changes the user's password.
    ///
    /// No login runs meanwhile; requests with a live token are not held. The
    /// session uses the new password from then on, and the old one if the
    /// change fails. If the answer is lost, the next login tries the new one
    /// and then the old one, once each.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] if the provider cannot do it, or if the
    /// source of the credentials cannot be written, in which case the server
    /// was not asked ([`PasswordChange::even_if_it_cannot_be_stored`] allows
    /// that). [`ErrorKind::Refused`] if the server denies the change: the
    /// old password stays in use. [`ErrorKind::Uncertain`] if the answer was
    /// lost. [`ErrorKind::LoggedOut`] if there is no session to do it in.
    ///
    /// # Cancellation
    ///
    /// A change under way goes on without the caller. A caller that still
    /// waits for a token, or for another flight to end, has changed nothing.
    pub async fn change_password(&self, change: PasswordChange) -> Result<PasswordChanged, Error> {
        // The wallet is held by the flight that this would be called from.
        self.shared.not_within()?;
        let mut renewed = false;
        let mut asked = false;
        loop {
            let token = self.token().await?;
            // Never queues for the wallet: a caller that got it and is not
            // polled again would keep every flight waiting.
            let uncertain = match self.shared.backend.wallet.try_lock() {
                Ok(wallet) => Some(wallet.is_uncertain()),
                Err(_) => None,
            };
            match uncertain {
                Some(false) => {}
                // Only a login can tell which password the server takes, and
                // not one whose provider sends none.
                Some(true) if asked => return Err(Error::new(ErrorKind::Uncertain)),
                Some(true) => {
                    self.renew().await?;
                    asked = true;
                    continue;
                }
                None => {
                    let (_, wait) = self.step(|guarded, _| guarded.rules.hold_up());
                    self.wait_for_another(wait).await?;
                    continue;
                }
            }
            let started = self.step(|guarded, _| {
                let begin = guarded.rules.change_password(self.shared.now());
                if let Begin::Started = begin {
                    guarded.change = Some(Box::new(change.clone()));
                }
                begin
            });
            let landed = match started {
                (Begin::Started, Some(mut wait)) => loop {
                    // A logout does not undo what the server has changed.
                    let again = wait.again();
                    if let Some(landed) = std::mem::replace(&mut wait, again).await {
                        break landed;
                    }
                },
                (Begin::Busy | Begin::Join | Begin::Started, wait) => {
                    self.wait_for_another(wait).await?;
                    continue;
                }
                (Begin::NeedsToken, _) => continue,
                (Begin::Fail(error), _) => return Err(error),
            };
            match landed {
                Landed::Changed(Err(error))
                    if error.kind() == ErrorKind::TokenRejected && !renewed =>
                {
                    renewed = true;
                    let renewal = match self.rejected(token.generation(), None) {
                        Ok(mut renewing) => {
                            std::future::poll_fn(|cx| renewing.poll(self, cx)).await
                        }
                        Err(why) => Err(why),
                    };
                    match renewal {
                        Ok(()) => {}
                        Err(Why::RenewalFailed(failed)) => return Err(failed),
                        Err(Why::LoggedOut) => return Err(Error::new(ErrorKind::LoggedOut)),
                        Err(
                            Why::NotReplayable
                            | Why::Unsure
                            | Why::CoolingDown
                            | Why::StillRejected,
                        ) => return Err(error),
                    }
                }
                Landed::Changed(outcome) => return outcome,
                Landed::Renewed
                | Landed::Unchanged
                | Landed::Failed(_)
                | Landed::LoggedOut(_)
                | Landed::Retired => {}
            }
        }
    }

    /// Ends the session: no request gets a token from now on, and the token is
    /// logged out on the server.
    ///
    /// A login under way is waited for, and its token logged out too. Logging
    /// out again does nothing but try again what could not be ended. Requests
    /// fail with [`ErrorKind::LoggedOut`] until [`Session::login`].
    ///
    /// # Errors
    ///
    /// What could not be ended on the server, and why. A token that is dead
    /// already is no error. On this side the session has ended in any case.
    ///
    /// # Cancellation
    ///
    /// The session ends when the future is first polled; what is left to do on
    /// the server is done without the caller.
    pub async fn logout(&self) -> Result<(), Error> {
        self.shared.not_within()?;
        let (_, wait) = self.step(|guarded, _| {
            guarded.rules.logout(self.shared.now());
            guarded.previous = None;
        });
        let mut flight = wait.map(Wait::into_flight);
        if let Some(flight) = &flight {
            flight.tell_of_logout();
        }
        loop {
            if let Some(outcome) = self.shared.lock().rules.logged_out() {
                return outcome;
            }
            let Some(under_way) = flight.take() else {
                flight = self.shared.lock().flight.clone();
                continue;
            };
            if let Some(Landed::LoggedOut(outcome)) = Wait::on(under_way).await {
                return outcome;
            }
            // What a login brought meanwhile is being logged out by now.
            flight = self.shared.lock().flight.clone();
        }
    }

    /// How the session is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        let now = self.shared.now();
        let rules = &self.shared.lock().rules;
        let until = |at: Moment| at.saturating_sub(now);
        // A timer that is late leaves a token behind that is over.
        let is_over = rules.ends().is_some_and(|ends| ends <= now);
        let state = rules.state();
        Status {
            name: self.shared.facts.name.as_deref().map(str::to_owned),
            state,
            usable: state == State::Live && !is_over,
            generation: rules.generation(),
            expires_in: rules.ends().map(until),
            last_error: rules.last_error().cloned(),
            next_attempt_in: rules.next_attempt().map(until),
        }
    }

    /// What the session has counted since it was made.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = self.shared.lock().stats.clone();
        (stats.waited, stats.time_waited) = self.shared.uses.waits();
        stats
    }

    /// What happens to the session from now on.
    ///
    /// For logs, metrics and alarms; see [`Session::stats`] for counters alone.
    /// A receiver that lags behind by more than 256 events misses some, and
    /// holds the session up in no case.
    ///
    /// ```
    /// use tower_reauth::{Event, FixedToken, Profile, Reason, Session};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_reauth::BoxError> {
    /// let session = Session::new(FixedToken::bearer(Profile::default(), "3f9a"));
    /// let mut events = session.events();
    /// session.token().await?;
    /// while let Some(event) = events.recv().await {
    ///     if let Event::LoggedIn { reason, elapsed, .. } = event {
    ///         assert_eq!(reason, Reason::Initial);
    ///         println!("a login took {elapsed:?}");
    /// #       break;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn events(&self) -> Events {
        self.shared.lock().listeners.listen()
    }

    /// Runs `event` until it has a flight, its own or one to join, and waits
    /// for that to land.
    async fn begin(
        &self,
        mut event: impl FnMut(&mut Lifecycle, Moment) -> Begin,
    ) -> Result<Landed, Error> {
        loop {
            let now = self.shared.now();
            match self.step(|guarded, _| event(&mut guarded.rules, now)) {
                (Begin::Started | Begin::Join, Some(wait)) => {
                    self.shared.not_within()?;
                    // Logged out meanwhile: the event says what that means.
                    if let Some(landed) = wait.await {
                        return Ok(landed);
                    }
                }
                (Begin::Busy | Begin::Started | Begin::Join | Begin::NeedsToken, wait) => {
                    self.wait_for_another(wait).await?;
                }
                (Begin::Fail(error), _) => return Err(error),
            }
        }
    }

    async fn wait_for_another(&self, wait: Option<Wait>) -> Result<(), Error> {
        self.shared.not_within()?;
        if let Some(wait) = wait {
            wait.await;
        }
        Ok(())
    }

    /// The token, if a request to `uri` may carry it and that is all there is to it.
    #[inline]
    pub(crate) fn live_for(&self, uri: &Uri) -> Option<Lease> {
        if !self.shared.facts.profile.origins.is_plainly_home(uri) {
            return None;
        }
        let live = self.shared.live.load_full()?;
        live.is_live().then_some(live)
    }

    /// Lets a new request in that the request path knows nothing of, unless
    /// the session was closed.
    pub(crate) fn admit(&self) -> Result<Admitted, Error> {
        let now = self.shared.now();
        let (admitted, _) = self.step(|guarded, _| {
            // Under the lock: whoever closes the session sees it.
            guarded.rules.admit(now)?;
            Ok(Admitted::new(&self.shared.uses))
        });
        admitted
    }

    /// Goes on with a request that was admitted before, and was rejected.
    pub(crate) fn readmit(&self) -> Admitted {
        Admitted::new(&self.shared.uses)
    }

    /// The token, if a request under way may carry it now. For where a timer
    /// may be late or missing; the request path does without.
    pub(crate) fn usable_now(&self) -> Option<Lease> {
        let now = self.shared.now();
        self.step(|guarded, _| guarded.rules.carry(now));
        self.usable()
    }

    /// The time, for whoever tells the session when a request was sent.
    pub(crate) fn now(&self) -> Moment {
        self.shared.now()
    }

    /// Sets the timer of a session that starts with a token.
    fn started(self) -> Self {
        self.step(|_, _| ());
        self
    }

    /// The token, if a request may carry it, its lifetime aside.
    pub(crate) fn usable(&self) -> Option<Lease> {
        let mut live = self.shared.live.load_full()?;
        while !live.is_usable() {
            // It may have been published anew since it was loaded.
            let published = self.shared.live.load_full()?;
            if Lease::ptr_eq(&published, &live) {
                return None;
            }
            live = published;
        }
        Some(live)
    }

    pub(crate) fn locate(&self, uri: &Uri) -> Destination {
        self.shared.facts.profile.origins.locate(uri)
    }

    pub(crate) fn rejection(&self) -> &Rejection {
        &self.shared.facts.profile.rejection
    }

    /// What a request does that found no usable token.
    pub(super) fn acquire(&self) -> Result<Option<Wait>, Error> {
        let now = self.shared.now();
        // Before the event, which may start the very flight to wait for.
        if self.usable().is_none() {
            self.shared.not_within()?;
        }
        match self.step(|guarded, _| guarded.rules.acquire(now)) {
            (Acquire::Use, _) => Ok(None),
            (Acquire::Wait, wait) => Ok(wait),
            (Acquire::Fail(error), _) => Err(error),
        }
    }

    /// What a request does whose token was rejected: `Err` says why its
    /// response is to be returned.
    pub(crate) fn rejected(
        &self,
        generation: u64,
        target: Option<Target>,
    ) -> Result<Renewing, Why> {
        self.shared.lock().stats.rejections += 1;
        let wait = self.still_rejected(generation, target)?;
        Ok(Renewing::new(generation, target, wait))
    }

    /// What such a request waits for; nothing if there is a newer token.
    pub(super) fn still_rejected(
        &self,
        generation: u64,
        target: Option<Target>,
    ) -> Result<Option<Wait>, Why> {
        let now = self.shared.now();
        match self.step(|guarded, _| guarded.rules.rejected(generation, target, now)) {
            (Rejected::Replay, _) => Ok(None),
            (Rejected::Wait, wait) => match self.shared.not_within() {
                Ok(()) => Ok(wait),
                Err(recursive) => Err(Why::RenewalFailed(recursive)),
            },
            (Rejected::Return(why), _) => Err(why),
        }
    }

    /// Counts a request as waiting, until what it answers drops.
    pub(super) fn starts_waiting(&self) -> Waiting {
        Waiting::new(&self.shared.uses)
    }

    pub(crate) fn replay_rejected(&self, generation: u64, target: Target) {
        let now = self.shared.now();
        self.step(|guarded, _| {
            guarded.stats.rejections += 1;
            guarded.rules.replay_rejected(generation, target, now);
        });
    }

    /// A rejected request is sent once more.
    pub(crate) fn replaying(&self, generation: u64) {
        self.shared.lock().stats.replays += 1;
        trace::replay(self.shared.facts.name.as_deref(), generation);
    }

    /// The server accepted a replay.
    pub(crate) fn replay_helped(&self) {
        self.shared.lock().stats.helpful_replays += 1;
    }

    /// The server accepted a request that was sent at `sent`, by this response.
    pub(crate) fn accepted(
        &self,
        generation: u64,
        target: Target,
        sent: Moment,
        response: &response::Parts,
    ) {
        let now = self.shared.now();
        self.step(|guarded, _| guarded.rules.accepted(generation, target, sent, now));
        if let Some(rolling) = &self.shared.facts.profile.rolling {
            self.roll(rolling, generation, sent, response);
        }
    }

    /// Takes the next value of the token from a response, if it carries one.
    fn roll(&self, rolling: &Rolling, generation: u64, sent: Moment, response: &response::Parts) {
        let mut rolled = false;
        while !rolled {
            let Some(live) = self.shared.live.load_full() else {
                return;
            };
            let token = live.token();
            if token.generation() != generation {
                return;
            }
            // Somebody else's code, so not under the lock: if another response
            // comes first, this one is looked at anew.
            let Some(next) = rolling.next(&token.clone().with_lifetime(None), response) else {
                return;
            };
            let lifetime = next.lifetime();
            let next = next.with_lifetime(lifetime.or(token.lifetime()));
            let now = self.shared.now();
            (rolled, _) = self.step(|guarded, published| {
                let first = published.is_some_and(|published| Lease::ptr_eq(published, &live));
                if first {
                    guarded.rules.rolled(lifetime, sent, now);
                    let was_offered = guarded.previous.is_some();
                    self.shared.put(guarded, next.of_generation(generation));
                    // What a lost login may have used up stays so: the value is
                    // another one, and what the provider keeps with it is not.
                    if !was_offered {
                        guarded.previous = None;
                    }
                }
                first
            });
        }
    }

    /// Whether a request is to go as it is, since it brings what it needs.
    #[inline]
    pub(crate) fn is_left_alone(&self, headers: &HeaderMap) -> bool {
        let kept = &self.shared.facts.kept;
        !kept.is_empty() && kept.iter().any(|name| headers.contains_key(name))
    }

    fn step<T>(&self, event: impl FnOnce(&mut Guarded, Option<&Lease>) -> T) -> (T, Option<Wait>) {
        self.shared.step(event)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Status {
            name,
            state,
            usable: _,
            generation,
            expires_in: _,
            last_error,
            next_attempt_in: _,
        } = self.status();
        f.debug_struct("Session")
            .field("name", &name)
            .field("state", &state)
            .field("generation", &generation)
            .field("last_error", &last_error)
            .finish_non_exhaustive()
    }
}

impl<P: CredentialProvider> From<P> for Session {
    fn from(provider: P) -> Self {
        Self::new(provider)
    }
}
