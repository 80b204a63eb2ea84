//! The state behind all handles of a session, and the one way to change it.
//!
//! [`Shared::step`] locks, applies one event to the rules, publishes what
//! follows for the request path, and unlocks before anything else runs. A
//! flight's end is an event like any other: [`Shared::land`].

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use super::flight::{self, Backend, Flight, Landed, Outcome, Plan};
use super::lifecycle::{self, Fate, Issued, Lifecycle, Moment, Signal};
use super::live::Live;
use super::timer::Timer;
use crate::error::{Error, ErrorKind};
use crate::origin::Origins;
use crate::provider::PasswordChange;
use crate::rejection::Rejection;
use crate::token::Token;

pub(super) struct Shared {
    /// What the request path reads. Written under the lock only.
    pub(super) live: ArcSwapOption<Live>,
    pub(super) origins: Origins,
    pub(super) rejection: Rejection,
    pub(super) name: Option<String>,
    pub(super) backend: Arc<Backend>,
    guarded: Mutex<Guarded>,
    pub(super) made: Instant,
}

pub(super) struct Guarded {
    pub(super) rules: Lifecycle,
    pub(super) flight: Option<Arc<Flight>>,
    /// The token published last, for providers that extend or exchange it.
    pub(super) previous: Option<Token>,
    /// Tokens that wait to be logged out, or are just being.
    pub(super) ending: Vec<Token>,
    /// What the password change about to be launched is for.
    pub(super) change: Option<PasswordChange>,
    pub(super) timer: Timer,
}

impl Shared {
    pub(super) fn new(
        backend: Backend,
        origins: Origins,
        rejection: Rejection,
        name: Option<String>,
        initial: Option<Token>,
    ) -> Self {
        let seed = RandomState::new().hash_one("the jitter of this session");
        let has_source = backend.provider.source().is_some();
        let mut rules = Lifecycle::new(has_source, seed);
        let initial = initial.map(|token| {
            let generation = rules.adopt(token.lifetime());
            token.of_generation(generation)
        });
        Self {
            live: ArcSwapOption::new(
                initial
                    .clone()
                    .map(|token| Arc::new(Live::new_unused(token))),
            ),
            origins,
            rejection,
            name,
            backend: Arc::new(backend),
            guarded: Mutex::new(Guarded {
                rules,
                flight: None,
                previous: initial,
                ending: Vec::new(),
                change: None,
                timer: Timer::default(),
            }),
            made: Instant::now(),
        }
    }

    /// Applies one event, publishes what follows from it, and launches the
    /// flight that it started. Answers with the flight under way.
    pub(super) fn step<T>(
        self: &Arc<Self>,
        event: impl FnOnce(&mut Guarded, Option<&Arc<Live>>) -> T,
    ) -> (T, Option<Arc<Flight>>) {
        let mut guarded = self.lock();
        let answer = event(&mut guarded, self.live.load().as_ref());
        let launch = self.publish(&mut guarded);
        let flight = guarded.flight.clone();
        drop(guarded);
        // A launch may land at once, without a runtime: never under the lock.
        if let Some((flight, plan)) = launch {
            flight::launch(self, flight, plan);
        }
        (answer, flight)
    }

    /// Brings what the request path reads in line with the rules, and prepares
    /// the flight that they ask for.
    fn publish(self: &Arc<Self>, guarded: &mut Guarded) -> Option<(Arc<Flight>, Plan)> {
        let live = self.live.load();
        match (live.as_ref(), guarded.rules.signal()) {
            (Some(live), Some(signal)) => live.set(signal),
            (Some(live), None) => {
                live.set(Signal::Ended);
                self.live.store(None);
            }
            (None, _) => {}
        }
        guarded.timer.set(self, guarded.rules.ends());
        let plan = match guarded.rules.take_launch()? {
            lifecycle::Flight::Login { reason, attempt } => Plan::Login {
                reason,
                attempt,
                previous: guarded.previous.clone(),
            },
            lifecycle::Flight::Logout => Plan::Logout {
                tokens: guarded.ending.clone(),
            },
            lifecycle::Flight::ChangePassword => {
                let token = live.as_ref().map(|live| live.token().clone());
                let change = guarded.change.take();
                Plan::ChangePassword {
                    token: token.expect("a change starts only with a usable token"),
                    change: change.expect("put there by the event that started the change"),
                }
            }
        };
        let flight = Arc::new(Flight::default());
        guarded.flight = Some(flight.clone());
        Some((flight, plan))
    }

    /// Applies what a flight brought, and wakes all who wait for it.
    pub(super) fn land(self: &Arc<Self>, flight: &Arc<Flight>, outcome: Outcome) {
        let now = self.now();
        let (landed, _) = self.step(|guarded, live| {
            guarded.flight = None;
            match outcome {
                Outcome::Login {
                    sent,
                    token: Ok(token),
                } => {
                    let issued = Issued {
                        lifetime: token.lifetime(),
                        sent: sent.saturating_duration_since(self.made),
                        same: live.is_some_and(|live| live.token().sends_the_same_as(&token)),
                    };
                    match guarded.rules.login_landed(issued, now) {
                        Fate::Publish { generation } => {
                            self.replace(guarded, token.of_generation(generation));
                            Landed::Renewed
                        }
                        // What the provider keeps with it may have changed.
                        Fate::Unchanged { generation } => {
                            self.replace(guarded, token.of_generation(generation));
                            Landed::Unchanged
                        }
                        Fate::End { generation } => {
                            guarded.ending.push(token.of_generation(generation));
                            Landed::Failed(Error::new(ErrorKind::LoggedOut))
                        }
                    }
                }
                Outcome::Login {
                    token: Err(error), ..
                } => {
                    if may_have_used_up(&error) {
                        guarded.previous = None;
                    }
                    Landed::Failed(guarded.rules.login_failed(error, now))
                }
                Outcome::Logout { left, outcome } => {
                    let generations = left.iter().map(Token::generation).collect();
                    guarded.ending = left;
                    guarded.rules.logout_landed(generations, outcome.clone());
                    Landed::LoggedOut(outcome)
                }
                Outcome::ChangePassword(outcome) => {
                    let may_log_in = match &outcome {
                        Ok(_) => true,
                        Err(error) => error.kind() == ErrorKind::Uncertain,
                    };
                    guarded.rules.password_change_landed(may_log_in, now);
                    Landed::Changed(outcome)
                }
            }
        });
        // Published above, under the lock: who wakes sees the new state.
        flight.land(landed);
    }

    /// Publishes `token` in place of the one in use.
    fn replace(&self, guarded: &mut Guarded, token: Token) {
        guarded.previous = Some(token.clone());
        let replaced = self.live.swap(Some(Arc::new(Live::new(token))));
        if let Some(replaced) = replaced {
            replaced.set(Signal::Ended);
        }
    }

    /// The tokens that wait to be logged out.
    pub(super) fn ending(&self) -> Vec<Token> {
        self.lock().ending.clone()
    }

    pub(super) fn now(&self) -> Moment {
        self.made.elapsed()
    }

    /// Fails within a flight of this session, where waiting for a flight would
    /// be waiting for itself.
    pub(super) fn not_within(self: &Arc<Self>) -> Result<(), Error> {
        match flight::is_within(self.identity()) {
            true => Err(Error::new(ErrorKind::Recursive)),
            false => Ok(()),
        }
    }

    /// Tells this session from every other one that lives.
    pub(super) fn identity(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Guarded> {
        // No provider's code runs under the lock, so a panic there is a defect
        // of ours that the next event finds no worse than this one.
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a failed login may have used up the token that it was to extend or
/// exchange. Some servers revoke everything when one is used twice.
fn may_have_used_up(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Uncertain
        | ErrorKind::DeadlineExceeded
        | ErrorKind::ProviderPanicked
        | ErrorKind::NoRuntime => true,
        ErrorKind::LoggedOut
        | ErrorKind::Refused
        | ErrorKind::Unavailable
        | ErrorKind::Protocol
        | ErrorKind::Unsupported
        | ErrorKind::TokenRejected
        | ErrorKind::Recursive
        | ErrorKind::NoOrigin
        | ErrorKind::InsecureOrigin => false,
    }
}
