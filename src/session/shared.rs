//! The state behind all handles of a session, and the one way to change it.
//!
//! [`Shared::step`] locks, applies one event to the rules, publishes what
//! follows for the request path, and unlocks before anything else runs. A
//! flight's end is an event like any other: [`Shared::land`].

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, PoisonError};

use http::HeaderName;
use tokio::time::Instant;

use super::event::{Event, Listeners};
use super::flight::{self, Backend, Flight, Landed, Outcome, Plan, Wait};
use super::lifecycle::{self, Fate, Issued, Lifecycle, Moment, Settings, Signal};
use super::lifespan::Lifetimes;
use super::live::{Lease, Leases, Live, Past, Uses, users};
use super::stats::Stats;
use super::timer::{Next, Timer};
use super::trace;
use crate::error::{Error, ErrorKind};
use crate::provider::{PasswordChange, Profile};
use crate::sync::{ArcSwapOption, Mutex, MutexGuard};
use crate::token::Token;

pub(super) struct Shared {
    /// What the request path reads. Written under the lock only.
    pub(super) live: ArcSwapOption<Live>,
    /// Who uses a token, or waits for one.
    pub(super) uses: Arc<Uses>,
    pub(super) facts: Facts,
    pub(super) backend: Arc<Backend>,
    guarded: Mutex<Guarded>,
    pub(super) made: Instant,
}

/// What was decided when the session was made.
pub(super) struct Facts {
    pub(super) profile: Profile,
    pub(super) name: Option<Box<str>>,
    /// The headers that a request keeps which brings them itself.
    pub(super) kept: Box<[HeaderName]>,
}

pub(super) struct Guarded {
    pub(super) rules: Lifecycle,
    pub(super) flight: Option<Arc<Flight>>,
    /// The token published last, for providers that extend or exchange it.
    pub(super) previous: Option<Token>,
    /// Earlier publications of the token in use that somebody may still use.
    pub(super) leases: Vec<Leases>,
    /// Tokens that are in use no longer and are still to be dealt with.
    pub(super) past: Vec<Past>,
    /// Publications of others that somebody may still use.
    pub(super) strays: Vec<Leases>,
    /// What the password change about to be launched is for.
    pub(super) change: Option<Box<PasswordChange>>,
    pub(super) timer: Timer,
    pub(super) stats: Stats,
    pub(super) listeners: Listeners,
}

impl Guarded {
    /// Whether the rules have not heard yet that a replaced token is used no more.
    pub(super) fn has_news(&self) -> bool {
        let unheard = |past: &Past| self.rules.is_waiting_for(past.token.generation());
        self.past
            .iter()
            .any(|past| past.users() == 0 && unheard(past))
    }

    /// How many requests, bodies and tokens handed out use a token that is no
    /// longer published.
    pub(super) fn users(&self) -> usize {
        let past: usize = self.past.iter().map(Past::users).sum();
        past + users(&self.leases) + users(&self.strays)
    }

    /// Forgets the tokens that the rules speak of no longer.
    fn forget(&mut self) {
        for past in std::mem::take(&mut self.past) {
            match self.rules.is_past(past.token.generation()) {
                true => self.past.push(past),
                false => self.strays.extend(past.into_leases()),
            }
        }
        self.strays.retain(|lease| lease.strong_count() > 0);
    }

    /// Counts what happened and tells whoever listens, in order.
    fn tell(&mut self) -> Vec<Event> {
        let events = self.rules.take_events();
        for event in &events {
            self.stats.count(event);
            self.listeners.tell(event);
        }
        events
    }

    fn past(&self, generation: u64) -> Token {
        let past = self
            .past
            .iter()
            .find(|past| past.token.generation() == generation);
        past.expect("kept for as long as the rules speak of it")
            .token
            .clone()
    }
}

impl Shared {
    pub(super) fn new(
        backend: Backend,
        facts: Facts,
        initial: Option<Token>,
        settings: Settings,
    ) -> Self {
        let seed = RandomState::new().hash_one("the jitter of this session");
        let mut rules = Lifecycle::new(settings, seed);
        let initial = initial.map(|token| {
            let generation = rules.adopt(lifetimes(&token));
            token.of_generation(generation)
        });
        let uses = Arc::new(Uses::default());
        let live = initial.clone().zip(rules.signal());
        let live = live.map(|(token, signal)| Lease::new(Live::new(token, signal, uses.clone())));
        Self {
            live: ArcSwapOption::new(live),
            uses,
            facts,
            backend: Arc::new(backend),
            guarded: Mutex::new(Guarded {
                rules,
                flight: None,
                previous: initial,
                leases: Vec::new(),
                past: Vec::new(),
                strays: Vec::new(),
                change: None,
                timer: Timer::default(),
                stats: Stats::default(),
                listeners: Listeners::default(),
            }),
            made: Instant::now(),
        }
    }

    /// Applies one event, publishes what follows from it, and launches the
    /// flight that it started. Answers with a wait for the flight under way,
    /// which hears of whatever happens after this event.
    pub(super) fn step<T>(
        self: &Arc<Self>,
        event: impl FnOnce(&mut Guarded, Option<&Lease>) -> T,
    ) -> (T, Option<Wait>) {
        let mut guarded = self.lock();
        // Owned, so that what it does to the count does not depend on how much
        // else this thread has borrowed.
        let live = self.live.load_full();
        let answer = event(&mut guarded, live.as_ref());
        drop(live);
        let launch = self.publish(&mut guarded);
        let wait = guarded.flight.clone().map(Wait::on);
        let events = guarded.tell();
        drop(guarded);
        // A subscriber is somebody else's code: never under the lock.
        for event in &events {
            trace::event(self.facts.name.as_deref(), event);
        }
        // A launch may land at once, without a runtime: never under the lock.
        if let Some((flight, plan)) = launch {
            flight::launch(self, flight, plan);
        }
        (answer, wait)
    }

    /// Brings what the request path reads in line with the rules, and prepares
    /// the flight that they ask for.
    fn publish(self: &Arc<Self>, guarded: &mut Guarded) -> Option<(Arc<Flight>, Plan)> {
        match (self.live.load().as_ref(), guarded.rules.signal()) {
            (Some(live), Some(signal)) => live.set(signal),
            (Some(_), None) => self.retract(guarded),
            (None, _) => {}
        }
        guarded.forget();
        for past in &guarded.past {
            if past.users() == 0 {
                guarded.rules.released(past.token.generation());
            }
        }
        let launch = guarded.rules.take_launch();
        guarded.timer.set(
            self,
            Next {
                at: guarded.rules.wake(),
                users: guarded.rules.is_waiting_for_users(),
            },
        );
        let plan = match launch? {
            lifecycle::Flight::Login { reason, attempt } => Plan::Login {
                reason,
                attempt,
                previous: guarded.previous.clone(),
            },
            lifecycle::Flight::Logout => Plan::Logout {
                tokens: self.ending(guarded),
            },
            lifecycle::Flight::Retire { generation } => Plan::Retire {
                token: guarded.past(generation),
            },
            lifecycle::Flight::ChangePassword => {
                let token = self.live.load().as_ref().map(|live| live.token().clone());
                let change = guarded.change.take();
                Plan::ChangePassword {
                    token: token.expect("a change starts only with a usable token"),
                    change: *change.expect("put there by the event that started the change"),
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
                        lifetimes: lifetimes(&token),
                        sent: sent.map_or(now, |sent| sent.saturating_duration_since(self.made)),
                        same: live.is_some_and(|live| live.token().sends_the_same_as(&token)),
                        continues: token.is_continuation(),
                    };
                    match guarded.rules.login_landed(issued, now) {
                        Fate::Publish { generation } => {
                            self.retract(guarded);
                            self.put(guarded, token.of_generation(generation));
                            Landed::Renewed
                        }
                        // What the provider keeps with it may have changed.
                        Fate::Unchanged { generation } => {
                            self.put(guarded, token.of_generation(generation));
                            Landed::Unchanged
                        }
                        Fate::End { generation } => {
                            let token = token.of_generation(generation);
                            guarded.past.push(Past::new(token, Vec::new()));
                            Landed::Failed(Error::new(ErrorKind::LoggedOut))
                        }
                    }
                }
                Outcome::Login {
                    sent,
                    token: Err(error),
                } => {
                    if sent.is_some() && may_have_used_up(&error) {
                        guarded.previous = None;
                    }
                    Landed::Failed(guarded.rules.login_failed(error, now))
                }
                Outcome::Logout {
                    left,
                    lost,
                    outcome,
                } => {
                    let told = outcome.clone();
                    guarded.rules.logout_landed(&left, &lost, told);
                    Landed::LoggedOut(outcome)
                }
                Outcome::Retire(logout) => {
                    guarded.rules.retire_landed(logout, now);
                    Landed::Retired
                }
                Outcome::ChangePassword(outcome) => {
                    let told = outcome.as_ref().map(|_| ()).map_err(Clone::clone);
                    guarded.rules.password_change_landed(told, now);
                    Landed::Changed(outcome)
                }
            }
        });
        // Published above, under the lock: who wakes sees the new state.
        flight.land(landed);
        self.uses.changed.notify_waiters();
    }

    /// Publishes `token`, the token in use.
    pub(super) fn put(&self, guarded: &mut Guarded, token: Token) {
        guarded.previous = Some(token.clone());
        // One that is used again must not be logged out as one that was
        // replaced; and who has used it since then uses it still.
        for past in &mut guarded.past {
            if past.token.sends_the_same_as(&token) {
                guarded.rules.returned(past.token.generation());
                guarded.leases.append(past.leases());
            }
        }
        let (same, strays) = std::mem::take(&mut guarded.strays)
            .into_iter()
            .partition::<Vec<_>, _>(|stray| {
                let live = stray.upgrade();
                live.is_some_and(|live| live.token().sends_the_same_as(&token))
            });
        guarded.leases.extend(same);
        guarded.strays = strays;
        let signal = guarded.rules.signal().unwrap_or(Signal::Ended);
        self.publish_anew(guarded, Live::new(token, signal, self.uses.clone()));
    }

    /// Whether anybody but an event, which this is part of, holds the published
    /// token.
    pub(super) fn is_used(&self, live: Option<&Lease>) -> bool {
        // One for the event, and one for being published.
        live.is_some_and(|live| Lease::strong_count(live) > 2)
    }

    /// Publishes the token in use once more, so that those who use it now can
    /// be told from those who will.
    pub(super) fn part(&self, guarded: &mut Guarded) {
        let live = self.live.load_full();
        if let (Some(live), Some(signal)) = (live, guarded.rules.signal()) {
            let token = live.token().clone();
            self.publish_anew(guarded, Live::new(token, signal, self.uses.clone()));
        }
    }

    fn publish_anew(&self, guarded: &mut Guarded, live: Live) {
        if let Some(replaced) = self.live.swap(Some(Lease::new(live))) {
            replaced.set(Signal::Ended);
            guarded.leases.retain(|lease| lease.strong_count() > 0);
            guarded.leases.push(Lease::downgrade(&replaced));
        }
    }

    /// Publishes no token any more. The last one is kept if it is still to be
    /// dealt with.
    fn retract(&self, guarded: &mut Guarded) {
        let Some(live) = self.live.swap(None) else {
            return;
        };
        live.set(Signal::Ended);
        let mut leases = std::mem::take(&mut guarded.leases);
        leases.push(Lease::downgrade(&live));
        let past = Past::new(live.token().clone(), leases);
        drop(live);
        guarded.past.push(past);
    }

    /// The tokens that wait to be logged out.
    pub(super) fn ending(&self, guarded: &Guarded) -> Vec<Token> {
        let ending = guarded.rules.ending().into_iter();
        ending.map(|generation| guarded.past(generation)).collect()
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

fn lifetimes(token: &Token) -> Lifetimes {
    Lifetimes {
        absolute: token.lifetime(),
        idle: token.idle_lifetime(),
    }
}

impl Drop for Shared {
    /// The last handle was dropped: nobody is left to log anything out.
    fn drop(&mut self) {
        let guarded = self.guarded.get_mut();
        let guarded = guarded.unwrap_or_else(PoisonError::into_inner);
        guarded.rules.abandon();
        for event in guarded.tell() {
            trace::event(self.facts.name.as_deref(), &event);
        }
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
        | ErrorKind::Closed
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
