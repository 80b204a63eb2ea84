//! The driver: one per session, shared by all its handles.
//!
//! | file | contents |
//! |---|---|
//! | `mod` | the driver, and how each event is applied under its lock |
//! | `state` | the state that the lock guards |
//! | `publish` | publishes tokens for the request path, and ends their publications |
//! | `launch`, `land` | the start and the end of tasks |
//! | `request` | the driver's methods for requests, but for the waits |
//! | `operation`, `change_password`, `close` | the operations of the session's callers |
//! | `wait` | waits for a token: before a request is sent, and after its rejection |
//! | `published` | the published token, its leases and its users |
//! | `task` | a running task and how it is waited for |
//! | `run` | runs a task: one job (login, logout, password change) or one background logout |
//! | `timer`, `timer_task` | when the timer is armed anew, and its tasks |
//! | `clock` | the time of the session |
//! | `config` | the settings of the session |
//! | `nesting` | detects a provider that calls through its own session |
//! | `events`, `stats`, `status`, `trace` | for observers |
//! | `foreign` | runs foreign code, which may panic |
//! | `races` | tests of fixed thread schedules |
//! | `loom_tests` | tests of all thread schedules |
//!
//! Every change goes through [`Driver::step`]: it locks, applies one event to
//! the rules, publishes what follows for the request path, and unlocks before
//! any foreign code runs: everything that wakes or drops foreign values leaves
//! the lock as [`AfterUnlock`]. The request path reads the published token and takes
//! no lock.

mod change_password;
mod clock;
mod close;
mod config;
mod events;
mod foreign;
mod land;
mod launch;
#[cfg(all(test, reauth_loom))]
mod loom_tests;
mod nesting;
mod operation;
mod publish;
mod published;
#[cfg(all(test, not(reauth_loom)))]
mod races;
mod request;
mod run;
mod state;
mod stats;
mod status;
mod task;
mod timer;
mod timer_task;
mod trace;
mod wait;

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, PoisonError, Weak};

pub use close::CloseError;
pub(super) use config::Config;
pub use events::Events;
pub(crate) use published::{Admission, Lease, Published};
pub(super) use run::Runner;
pub use stats::{Logins, Stats};
pub use status::Status;
pub(crate) use wait::{AcquireToken, AwaitRefresh, failure_of};

use crate::error::{Error, ErrorKind};
use crate::loom::{ArcSwapOption, Mutex, MutexGuard};
use crate::session::rules::{Event, Launch, Rules, RulesSettings, Timestamp};
use crate::token::Token;
use clock::Clock;
use events::Emitter;
use foreign::{contained, drop_each};
use published::{Shared, Usage};
use run::TaskSpec;
use state::DriverState;
use stats::Counters;
use task::{Task, Wait};
use timer::{LiveTask, Timer};

/// The state behind all handles of a session.
pub(crate) struct Driver {
    /// The token for the request path. Written under the lock only.
    published: ArcSwapOption<Published>,
    shared: Arc<Shared>,
    runner: Arc<Runner>,
    state: Mutex<DriverState>,
    emitter: Emitter,
    timer_task: LiveTask,
    clock: Clock,
}

/// The work of a step that runs foreign code. It is done after the lock is released.
struct AfterUnlock {
    /// Without a runtime a task ends at once.
    launches: Vec<(Arc<Task>, Launch, TaskSpec)>,
    /// For receivers and subscribers.
    events: Vec<Event>,
    /// Whether to wake the tasks that wait for the end of a use.
    has_released: bool,
    /// The errors before the step: those that it has replaced drop with them.
    errors: Vec<Error>,
}

impl Driver {
    /// Creates the driver of a new session, and arms the timer of one that starts with a
    /// token.
    pub(super) fn new(
        runner: Runner,
        config: Config,
        initial: Option<Token>,
        settings: RulesSettings,
    ) -> Arc<Self> {
        let seed = RandomState::new().hash_one("the jitter of this session");
        let mut rules = Rules::new(settings, seed);
        let initial = initial.map(|token| {
            let generation = rules.set_initial(config.lifetimes(&token));
            token.of_generation(generation)
        });
        let published = initial.clone().zip(rules.signal());
        let driver = Arc::new_cyclic(|this: &Weak<Self>| {
            let shared = Arc::new(Shared::new(config, this.clone()));
            let published = published
                .map(|(token, signal)| Lease::new(Published::new(token, signal, shared.clone())));
            Self {
                published: ArcSwapOption::new(published),
                shared,
                runner: Arc::new(runner),
                state: Mutex::new(DriverState {
                    rules,
                    job: None,
                    background_logout: None,
                    candidate: None,
                    previous: initial,
                    leases: Vec::new(),
                    retired: Vec::new(),
                    unlisted: Vec::new(),
                    change: None,
                    challenge: None,
                    timer: Timer::default(),
                    counters: Counters::default(),
                    has_released: false,
                    has_warned_of_compression: false,
                }),
                emitter: Emitter::default(),
                timer_task: LiveTask::default(),
                clock: Clock::new(),
            }
        });
        driver.step(|_, _| ());
        driver
    }

    /// Applies one event, publishes the new state, and launches the tasks that it
    /// started. Returns the event's answer and a wait for the running
    /// job, which misses nothing that happens after this event.
    fn step<T>(
        self: &Arc<Self>,
        event: impl FnOnce(&mut DriverState, Option<&Lease>) -> T,
    ) -> (T, Option<Wait>) {
        let (answer, wait, after) = self.step_locked(event);
        self.after_unlock(after);
        (answer, wait)
    }

    /// Applies one event, without the foreign code that follows.
    fn step_locked<T>(
        self: &Arc<Self>,
        event: impl FnOnce(&mut DriverState, Option<&Lease>) -> T,
    ) -> (T, Option<Wait>, AfterUnlock) {
        let mut state = self.lock();
        let errors = state.rules.errors().cloned().collect();
        // Owned: a borrowed one would count or not, depending on how many others
        // this thread has borrowed.
        let published = self.published.load_full();
        let answer = event(&mut state, published.as_ref());
        if let Some(published) = published {
            state.release(published);
        }
        let launches = self.publish(&mut state);
        let wait = state.job.clone().map(Wait::on);
        let events = state.emit(&self.emitter);
        let has_released = std::mem::take(&mut state.has_released);
        let after = AfterUnlock {
            launches,
            events,
            has_released,
            errors,
        };
        (answer, wait, after)
    }

    fn after_unlock(self: &Arc<Self>, after: AfterUnlock) {
        for event in &after.events {
            trace::event(self.name(), event);
        }
        for (task, launch, spec) in after.launches {
            self.launch(task, launch, spec);
        }
        self.emitter.send();
        if after.has_released {
            contained(|| self.usage().changed.notify_waiters());
        }
        drop_each(after.events);
        drop_each(after.errors);
    }

    /// Updates the published token, and prepares what the rules have started.
    fn publish(self: &Arc<Self>, state: &mut DriverState) -> Vec<(Arc<Task>, Launch, TaskSpec)> {
        self.settle_candidate(state);
        if state.rules.signal().is_none() && self.published.load().is_some() {
            self.unpublish(state);
        }
        state.prune();
        for retired in &state.retired {
            if retired.users() == 0 {
                state.rules.released(retired.token.generation());
            }
        }
        let mut launches = Vec::new();
        while let Some(launch) = state.rules.take_launch() {
            let spec = self.spec(state, launch);
            let task = Arc::new(Task::new(self.clock.slept()));
            *state.running(launch) = Some(task.clone());
            launches.push((task, launch, spec));
        }
        self.arm_timer(state);
        self.set_signal(state);
        launches
    }

    /// Returns the time.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    #[inline]
    fn config(&self) -> &Config {
        &self.shared.config
    }

    fn usage(&self) -> &Usage {
        &self.shared.usage
    }

    fn name(&self) -> Option<&str> {
        self.config().name.as_deref()
    }

    /// See [`Session::events`](crate::Session::events).
    pub(super) fn subscribe(&self) -> Events {
        self.emitter.subscribe()
    }

    /// See [`Session::stats`](crate::Session::stats).
    pub(super) fn stats(&self) -> Stats {
        let waits = self.usage().waits();
        self.lock().counters.snapshot(waits)
    }

    /// Returns an error in a job of this session, which must not wait for another job.
    fn not_nested(self: &Arc<Self>) -> Result<(), Error> {
        match nesting::is_nested(self.identity()) {
            true => Err(Error::new(ErrorKind::Recursive)),
            false => Ok(()),
        }
    }

    /// Returns a number that no other live session has.
    fn identity(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }

    fn lock(&self) -> MutexGuard<'_, DriverState> {
        // No foreign code runs under the lock. A panic of the crate's own code leaves
        // a state that the next event can handle.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Driver {
    /// The last handle was dropped: nothing more is logged out.
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        state.rules.abandon();
        if let Some(job) = &state.job {
            job.call_off();
        }
        for event in state.emit(&self.emitter) {
            trace::event(self.config().name.as_deref(), &event);
        }
        self.emitter.send();
    }
}
