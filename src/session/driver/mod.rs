//! The driver: one per session, shared by all its handles.
//!
//! | file | contents |
//! |---|---|
//! | `mod` | the lock, publication, and the launch and the end of jobs |
//! | `request` | the driver's methods for requests, but for the waits |
//! | `wait` | waits for a token: before a request is sent, and after its rejection |
//! | `published` | the published token, its leases and its users |
//! | `job` | a running job and how it is waited for |
//! | `run` | runs one job: login, logout, password change; or the logout of a replaced token |
//! | `timer` | when the timer is armed anew; its tasks are in `mod` |
//! | `clock` | the time of the session |
//! | `nesting` | detects a provider that calls through its own session |
//! | `events`, `stats`, `trace` | events, counters and `tracing`, for observers |
//! | `foreign` | runs foreign code, which may panic |
//!
//! Every change goes through [`Driver::step`]: it locks, applies one event to
//! the rules, publishes what follows for the request path, and unlocks before
//! any foreign code runs: everything that wakes or drops foreign values leaves
//! the lock as [`AfterUnlock`]. The request path reads the published token and takes
//! no lock.

mod clock;
mod events;
mod foreign;
mod job;
mod nesting;
mod published;
mod request;
mod run;
mod stats;
mod timer;
mod trace;
mod wait;

use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use http::HeaderName;
use tokio::time::Instant;

pub use events::Events;
pub(super) use job::{Job, Wait, WaitResult};
pub(crate) use published::{Admission, Lease, Published};
pub(super) use run::Runner;
pub(super) use stats::Counters;
pub use stats::{Logins, Stats};
pub(crate) use wait::{AcquireToken, AwaitRefresh, failure_of};

use crate::error::{Error, ErrorKind};
use crate::loom::{self, AbortHandle, ArcSwapOption, Mutex, MutexGuard};
use crate::origin::Origins;
use crate::provider::{Challenge, LogoutReason, PasswordChange, Reason};
use crate::rejection::Rejection;
use crate::rolling::Rolling;
use crate::session::rules::{
    Event, JobKind, Launch, Lifetimes, LoginOutcome, LogoutOutcome, NewToken, Rules, Settings,
    Signal, State, Timestamp,
};
use crate::token::Token;
use clock::Clock;
use events::Emitter;
use foreign::{contained, drop_each};
use published::{Retired, Usage, WeakLeases, users};
use run::{ChangeFailure, JobResult, JobSpec};
use timer::{LiveTask, Timer, Wake, changed_before};

/// How long after the deadline of a call that blocks its thread its job is ended.
const GRACE: Duration = Duration::from_millis(100);

/// How often a job is watched at least.
const WATCH_EVERY: Duration = Duration::from_secs(60);

/// The state behind all handles of a session.
pub(crate) struct Driver {
    /// The token for the request path. Written under the lock only.
    published: ArcSwapOption<Published>,
    usage: Arc<Usage>,
    config: Config,
    runner: Arc<Runner>,
    state: Mutex<DriverState>,
    emitter: Emitter,
    pub(super) timer_task: LiveTask,
    clock: Clock,
}

/// The settings of a session for its driver, fixed when it is created.
pub(super) struct Config {
    pub(super) origins: Origins,
    pub(super) rejection: Rejection,
    pub(super) rolling: Option<Rolling>,
    /// How long before its end a token is refreshed, if that is set.
    pub(super) refresh_before: Option<Duration>,
    pub(super) name: Option<Box<str>>,
    /// A request that has one of these headers passes without the token.
    pub(super) skip_if_present: Box<[HeaderName]>,
}

/// The state that the lock guards.
pub(super) struct DriverState {
    pub(super) rules: Rules,
    pub(super) job: Option<Arc<Job>>,
    /// The running logout of a replaced token, beside the job.
    pub(super) retire: Option<Arc<Job>>,
    /// A newer token that is not published yet.
    pub(super) candidate: Option<Lease>,
    /// The token of the newest login, for providers that extend or exchange it.
    pub(super) previous: Option<Token>,
    /// Earlier publications of the current token that may still be in use.
    pub(super) leases: Vec<WeakLeases>,
    /// Tokens that are no longer current, and that the rules still refer to.
    pub(super) retired: Vec<Retired>,
    /// Publications of other tokens that may still be in use.
    pub(super) unlisted: Vec<WeakLeases>,
    /// The password change to launch.
    pub(super) change: Option<Box<PasswordChange>>,
    /// The challenge of the rejection that the next login for
    /// [`Reason::Rejected`] is about.
    // Boxed: most sessions never have one.
    pub(super) challenge: Option<Box<Challenge>>,
    pub(super) timer: Timer,
    pub(super) counters: Counters,
    /// Whether the last use of a publication has ended under the lock.
    pub(super) has_released: bool,
    /// Whether it was logged that a compressed body cannot be searched.
    pub(super) has_warned_of_encoding: bool,
}

/// The work of a step that runs foreign code. It is done after the lock is released.
struct AfterUnlock {
    /// Without a runtime a job ends at once.
    launches: Vec<(Arc<Job>, Launch, JobSpec)>,
    /// For receivers and subscribers.
    events: Vec<Event>,
    /// Whether to wake the tasks that wait for the end of a use.
    has_released: bool,
    /// The errors before the step: those that it has replaced drop with them.
    errors: Vec<Error>,
}

impl DriverState {
    /// Returns whether the last use of a replaced token has ended and was not yet
    /// reported to the rules.
    fn has_unreported_release(&self) -> bool {
        let is_unreported =
            |retired: &Retired| self.rules.is_waiting_for(retired.token.generation());
        self.retired
            .iter()
            .any(|retired| retired.users() == 0 && is_unreported(retired))
    }

    /// Returns how many requests, bodies and holders use a token that is no
    /// longer published. A session that is closed has no candidate.
    pub(super) fn users(&self) -> usize {
        let retired: usize = self.retired.iter().map(Retired::users).sum();
        retired + users(&self.leases) + users(&self.unlisted)
    }

    /// Drops the tokens that the rules no longer refer to.
    fn prune(&mut self) {
        for retired in std::mem::take(&mut self.retired) {
            match self.rules.is_retired(retired.token.generation()) {
                true => self.retired.push(retired),
                false => self.unlisted.extend(retired.leases),
            }
        }
        self.unlisted.retain(|lease| lease.strong_count() > 0);
    }

    /// Returns the earlier publications of `token` that may still be in use. A replaced
    /// token that is yielded again must not be logged out.
    fn users_of(&mut self, token: &Token) -> Vec<WeakLeases> {
        let mut same = Vec::new();
        for retired in &mut self.retired {
            if token.repeats(&retired.token) {
                self.rules.reused(retired.token.generation());
                same.append(&mut retired.leases);
            }
        }
        for lease in std::mem::take(&mut self.unlisted) {
            let Some(published) = lease.upgrade() else {
                continue;
            };
            match token.repeats(published.token()) {
                true => same.push(lease),
                false => self.unlisted.push(lease),
            }
            self.release(published);
        }
        same
    }

    /// Keeps a token that is no longer published, while the rules refer to it.
    fn retire(&mut self, published: Lease, mut leases: Vec<WeakLeases>) {
        leases.push(Lease::downgrade(&published));
        let token = published.token().clone();
        self.release(published);
        self.retired.push(Retired { token, leases });
    }

    /// Ends one use of a publication under the lock.
    fn release(&mut self, published: Lease) {
        self.has_released |= Published::release(published);
    }

    /// Counts the events and queues them for receivers, in order.
    fn emit(&mut self, emitter: &Emitter) -> Vec<Event> {
        let events = self.rules.take_events();
        for event in &events {
            self.counters.count(event);
        }
        emitter.queue(&events);
        events
    }

    /// Returns the place of the running job, or of the logout beside it.
    fn running(&mut self, launch: Launch) -> &mut Option<Arc<Job>> {
        match launch {
            Launch::Job(_) => &mut self.job,
            Launch::Retire { .. } => &mut self.retire,
        }
    }

    /// Returns the replaced token whose logout is running.
    fn retiring(&self) -> Option<(Arc<Job>, Token)> {
        let (job, generation) = self.retire.clone().zip(self.rules.retiring())?;
        Some((job, self.retired(generation)))
    }

    fn retired(&self, generation: u64) -> Token {
        let retired = self
            .retired
            .iter()
            .find(|retired| retired.token.generation() == generation);
        retired
            .expect("a token is kept for as long as the rules refer to it")
            .token
            .clone()
    }

    /// Returns whether `token` is the newest one of those that are no longer current.
    fn is_newest_retired(&self, token: &Token) -> bool {
        let retired = self.retired.iter().map(|retired| &retired.token);
        let newest = retired.max_by_key(|token| token.generation());
        newest.is_some_and(|newest| token.repeats(newest))
    }

    /// Returns the tokens that a logout is to end, without the one whose logout is
    /// running.
    fn ending(&self) -> Vec<Token> {
        let retiring = self.rules.retiring();
        let ending = self.rules.ending().into_iter();
        let ending = ending.filter(|generation| Some(*generation) != retiring);
        ending.map(|generation| self.retired(generation)).collect()
    }
}

impl Driver {
    /// Creates the driver of a new session. Its timer is armed by the first
    /// [`Driver::step`].
    pub(super) fn new(
        runner: Runner,
        config: Config,
        initial: Option<Token>,
        settings: Settings,
    ) -> Self {
        let seed = RandomState::new().hash_one("the jitter of this session");
        let mut rules = Rules::new(settings, seed);
        let initial = initial.map(|token| {
            let generation = rules.set_initial(lifetimes(&token, &config));
            token.of_generation(generation)
        });
        let usage = Arc::new(Usage::default());
        let published = initial.clone().zip(rules.signal());
        let published = published
            .map(|(token, signal)| Lease::new(Published::new(token, signal, usage.clone())));
        Self {
            published: ArcSwapOption::new(published),
            usage,
            config,
            runner: Arc::new(runner),
            state: Mutex::new(DriverState {
                rules,
                job: None,
                retire: None,
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
                has_warned_of_encoding: false,
            }),
            emitter: Emitter::default(),
            timer_task: LiveTask::default(),
            clock: Clock::new(),
        }
    }

    /// Applies one event, publishes the new state, and launches the job that it
    /// started. Returns the event's answer and a wait for the running
    /// job, which misses nothing that happens after this event.
    pub(super) fn step<T>(
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
        for (job, launch, spec) in after.launches {
            self.launch(job, launch, spec);
        }
        self.emitter.send();
        if after.has_released {
            contained(|| self.usage.changed.notify_waiters());
        }
        drop_each(after.events);
        drop_each(after.errors);
    }

    /// Updates the published token, and prepares what the rules have started.
    fn publish(self: &Arc<Self>, state: &mut DriverState) -> Vec<(Arc<Job>, Launch, JobSpec)> {
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
            let job = Arc::new(Job::new(self.clock.suspended()));
            *state.running(launch) = Some(job.clone());
            launches.push((job, launch, spec));
        }
        self.arm_timer(state);
        self.set_signal(state);
        launches
    }

    /// Sets how requests may use the published token.
    fn set_signal(&self, state: &DriverState) {
        let published = self.published.load();
        let (Some(published), Some(signal)) = (published.as_ref(), state.rules.signal()) else {
            return;
        };
        let is_lost = || state.timer.is_lost(&self.timer_task);
        published.set(match is_lost() {
            true => signal.max(Signal::Reported),
            false => signal,
        });
        // Lost since: the task may have looked at the token before.
        if is_lost() {
            published.set_reported();
        }
    }

    fn spec(&self, state: &mut DriverState, launch: Launch) -> JobSpec {
        match launch {
            Launch::Job(JobKind::Login { reason, kind }) => JobSpec::Login {
                reason,
                kind,
                previous: state.previous.clone(),
                // A rejection whose login did not start leaves one behind.
                challenge: state
                    .challenge
                    .take()
                    .filter(|_| reason == Reason::Rejected),
            },
            Launch::Job(JobKind::Logout) => JobSpec::Logout {
                tokens: state.ending(),
                retiring: state.retiring(),
                reason: match state.rules.state() == State::Closed {
                    true => LogoutReason::Closed,
                    false => LogoutReason::LoggedOut,
                },
            },
            Launch::Retire { generation } => JobSpec::Retire {
                token: state.retired(generation),
            },
            Launch::Job(JobKind::ChangePassword) => {
                let published = self.published.load();
                let token = published
                    .as_ref()
                    .map(|published| published.token().clone());
                let change = state.change.take();
                JobSpec::ChangePassword {
                    token,
                    change: *change.expect("set by the event that started the change"),
                }
            }
        }
    }

    /// Starts a job on the current runtime, in a task of its own: it outlives its
    /// callers.
    fn launch(self: &Arc<Self>, job: Arc<Job>, launch: Launch, spec: JobSpec) {
        let runner = self.runner.clone();
        let driver = Arc::downgrade(self);
        let interval = runner.login_timeout.clamp(GRACE, WATCH_EVERY);
        // Before the job's task, which may block this thread: another one takes it over.
        let watch = loom::spawn(watch(driver.clone(), job.clone(), launch, interval));
        let guard = LandOnDrop {
            driver,
            job,
            launch: Some(launch),
            watch,
        };
        let task = async move {
            let job = guard.job.clone();
            let result = run::run(&runner, &job, spec).await;
            let late = match guard.driver.upgrade() {
                Some(driver) => guard.land(&driver, result),
                None => {
                    // A logout of the session may wait for it.
                    if let JobResult::Retire(logout) = result {
                        job.finish(WaitResult::Retired(logout));
                    }
                    Some((result, LogoutReason::Closed))
                }
            };
            if let Some((result, reason)) = late {
                run::end_unused(&runner, &job, result, reason).await;
            }
        };
        let task = trace::in_span(self.name(), launch, task);
        let task = nesting::scope(self.identity(), task);
        // Without a runtime, or when it shuts down, the task is dropped, and its
        // guard lands the job.
        drop(loom::spawn(task));
    }

    /// Applies the result of a job, and wakes its waiters. If the job has landed before,
    /// returns the late result, and why its token is of no use.
    fn land(
        self: &Arc<Self>,
        job: &Arc<Job>,
        result: JobResult,
    ) -> Option<(JobResult, LogoutReason)> {
        let now = self.now();
        let (ended, _, after) = self.step_locked(|state, published| {
            let running = match &result {
                JobResult::Retire(_) => &mut state.retire,
                JobResult::Login { .. }
                | JobResult::Logout { .. }
                | JobResult::ChangePassword(_) => &mut state.job,
            };
            match running.take_if(|running| Arc::ptr_eq(running, job)) {
                Some(_) => Ok(self.apply(state, published, &result, job.suspended(), now)),
                // Its logout would end the token in use.
                None if published.is_some_and(|published| result.extends(published.token())) => {
                    Err(None)
                }
                None => Err(Some(match state.rules.state() {
                    State::Closed => LogoutReason::Closed,
                    State::LoggedOut => LogoutReason::LoggedOut,
                    State::Idle
                    | State::LoggingIn
                    | State::Live
                    | State::Renewing
                    | State::BackingOff
                    | State::Refused => LogoutReason::Replaced,
                })),
            }
        });
        let late = ended.map(|ended| {
            // After publication: a woken waiter always observes the new state.
            contained(|| job.finish(ended));
            contained(|| self.usage.changed.notify_waiters());
        });
        self.after_unlock(after);
        match late {
            Ok(()) => {
                contained(|| drop(result));
                None
            }
            Err(reason) => reason.map(|reason| (result, reason)),
        }
    }

    /// Returns the result of a job whose task is lost or given up.
    fn lost(job: &Job, launch: Launch, error: ErrorKind) -> JobResult {
        let lost = Error::new(error);
        match launch {
            Launch::Job(JobKind::Login { .. }) => JobResult::Login {
                sent: job.sent(),
                token: Err(lost),
            },
            Launch::Job(JobKind::Logout) => JobResult::Logout {
                ended: Vec::new(),
                outcome: Err(lost),
            },
            Launch::Retire { .. } => JobResult::Retire(LogoutOutcome::Postponed(None)),
            Launch::Job(JobKind::ChangePassword) => {
                JobResult::ChangePassword(Err(run::lost_change(lost, job.sent()).into()))
            }
        }
    }

    fn apply(
        &self,
        state: &mut DriverState,
        published: Option<&Lease>,
        result: &JobResult,
        suspended: Duration,
        now: Timestamp,
    ) -> WaitResult {
        match result {
            JobResult::Login {
                sent,
                token: Ok(token),
            } => {
                let new = NewToken {
                    lifetimes: lifetimes(token, &self.config),
                    sent: sent.map_or(now, |sent| self.clock.timestamp(sent, suspended)),
                    same: match published {
                        Some(published) => token.repeats(published.token()),
                        None => state.is_newest_retired(token),
                    },
                    continues: token.is_continuation(),
                };
                let token = token.clone();
                match state.rules.login_landed(new, now) {
                    LoginOutcome::Keep { generation } => {
                        self.keep_back(state, token.of_generation(generation));
                        WaitResult::Refreshed
                    }
                    LoginOutcome::Publish { generation } => {
                        self.settle_candidate(state);
                        self.unpublish(state);
                        self.publish_token(state, token.of_generation(generation));
                        WaitResult::Refreshed
                    }
                    // The provider's data may have changed.
                    LoginOutcome::Unchanged { generation } => {
                        self.publish_token(state, token.of_generation(generation));
                        WaitResult::Unchanged
                    }
                    LoginOutcome::End { generation } => {
                        let token = token.of_generation(generation);
                        let mut retired = state.retired.iter_mut();
                        match retired.find(|old| old.token.generation() == generation) {
                            // Its data may have changed.
                            Some(old) => old.token = token,
                            None => {
                                let leases = Vec::new();
                                state.retired.push(Retired { token, leases });
                            }
                        }
                        WaitResult::Failed(Error::new(ErrorKind::LoggedOut))
                    }
                }
            }
            JobResult::Login {
                sent,
                token: Err(error),
            } => {
                if sent.is_some() && may_have_used_up(error) {
                    state.previous = None;
                }
                WaitResult::Failed(state.rules.login_failed(error.clone(), now))
            }
            JobResult::Logout { ended, outcome } => {
                state.rules.logout_landed(ended, outcome.clone());
                WaitResult::LoggedOut(outcome.clone())
            }
            JobResult::Retire(logout) => {
                state.rules.retire_landed(*logout, now);
                WaitResult::Retired(*logout)
            }
            JobResult::ChangePassword(Ok(())) => {
                state.rules.password_change_landed(Ok(()), now);
                WaitResult::PasswordChange(Ok(()))
            }
            JobResult::ChangePassword(Err(ChangeFailure::Failed(error))) => {
                state.rules.password_change_landed(Err(error.clone()), now);
                WaitResult::PasswordChange(Err(error.clone()))
            }
            JobResult::ChangePassword(Err(ChangeFailure::LogInFirst { has_sent })) => {
                let has_sent = *has_sent;
                match has_sent {
                    true => {
                        let error = Error::new(ErrorKind::Uncertain);
                        state.rules.password_change_landed(Err(error), now);
                    }
                    false => state.rules.password_change_put_off(now),
                }
                WaitResult::LogInFirst { has_sent }
            }
        }
    }

    /// Keeps `token`, the candidate, unpublished.
    fn keep_back(&self, state: &mut DriverState, token: Token) {
        state.previous = Some(token.clone());
        let same = state.users_of(&token);
        state.unlisted.extend(same);
        let published = Published::new(token, Signal::Reported, self.usage.clone());
        state.candidate = Some(Lease::new(published));
    }

    /// Publishes the candidate if it is current now, and drops it if it has ended.
    fn settle_candidate(&self, state: &mut DriverState) {
        let Some(candidate) = state.candidate.take() else {
            return;
        };
        let generation = Some(candidate.token().generation());
        if state.rules.candidate() == generation {
            state.candidate = Some(candidate);
            return;
        }
        let same = state.users_of(candidate.token());
        if state.rules.generation() == generation {
            self.unpublish(state);
            state.leases = same;
            drop(self.published.swap(Some(candidate)));
        } else {
            candidate.set(Signal::Ended);
            state.retire(candidate, same);
        }
    }

    /// Publishes `token`, the current one.
    pub(super) fn publish_token(&self, state: &mut DriverState, token: Token) {
        // The candidate is newer.
        if state.candidate.is_none() {
            state.previous = Some(token.clone());
        }
        let same = state.users_of(&token);
        state.leases.extend(same);
        let signal = state.rules.signal().unwrap_or(Signal::Ended);
        self.swap(state, Published::new(token, signal, self.usage.clone()));
    }

    /// Publishes the current token once more, so that its earlier users can be
    /// counted apart from later ones.
    pub(super) fn republish(&self, state: &mut DriverState) {
        if let Some(published) = self.published.load_full() {
            if let Some(signal) = state.rules.signal() {
                let token = published.token().clone();
                self.swap(state, Published::new(token, signal, self.usage.clone()));
            }
            state.release(published);
        }
    }

    fn swap(&self, state: &mut DriverState, published: Published) {
        if let Some(replaced) = self.published.swap(Some(Lease::new(published))) {
            replaced.set(Signal::Ended);
            state.leases.retain(|lease| lease.strong_count() > 0);
            state.leases.push(Lease::downgrade(&replaced));
            state.release(replaced);
        }
    }

    /// Ends the publication of the current token, and keeps it while the rules refer
    /// to it.
    fn unpublish(&self, state: &mut DriverState) {
        let Some(published) = self.published.swap(None) else {
            return;
        };
        published.set(Signal::Ended);
        let leases = std::mem::take(&mut state.leases);
        state.retire(published, leases);
    }

    /// Returns whether a request, body or holder uses the published token.
    pub(super) fn is_used(&self, published: Option<&Lease>) -> bool {
        // One for the event, and one for the publication.
        published.is_some_and(|published| Lease::strong_count(published) > 2)
    }

    fn arm_timer(self: &Arc<Self>, state: &mut DriverState) {
        let wake = Wake {
            // A time that the clock cannot represent never comes.
            at: state
                .rules
                .wake()
                .and_then(|at| self.clock.instant(at))
                // An action that was due earlier is not a late task.
                .map(|at| at.max(Instant::now())),
            on_release: state.rules.is_waiting_for_release(),
        };
        state.timer.arm(wake, &self.timer_task, |number| {
            let task = TimerTask {
                driver: Arc::downgrade(self),
                number,
            };
            match wake.at {
                // Most idle sessions wait for a time only: a small task.
                Some(at) if !wake.on_release => loom::spawn(async move {
                    loom::sleep_until(at).await;
                    task.go_off();
                }),
                at => self.spawn_release_timer(at, task),
            }
        });
    }

    /// Starts a task that waits for the last use of a replaced token, at most
    /// until `at`.
    fn spawn_release_timer(&self, at: Option<Instant>, task: TimerTask) -> Option<AbortHandle> {
        let usage = self.usage.clone();
        loom::spawn(async move {
            loop {
                // Created before the state is read: no change is missed in between.
                let mut changed = pin!(usage.changed.notified());
                changed.as_mut().enable();
                let Some(driver) = task.driver.upgrade() else {
                    return;
                };
                if driver.lock().has_unreported_release() {
                    break;
                }
                drop(driver);
                if !changed_before(at, changed).await {
                    break;
                }
            }
            task.go_off();
        })
    }

    /// Returns the time.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.config.name.as_deref()
    }

    pub(super) fn subscribe(&self) -> Events {
        self.emitter.subscribe()
    }

    pub(super) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Returns an error in a job of this session, which must not wait for another job.
    pub(super) fn not_nested(self: &Arc<Self>) -> Result<(), Error> {
        match nesting::is_nested(self.identity()) {
            true => Err(Error::new(ErrorKind::Recursive)),
            false => Ok(()),
        }
    }

    /// Returns a number that no other live session has.
    fn identity(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, DriverState> {
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
            trace::event(self.config.name.as_deref(), &event);
        }
        self.emitter.send();
    }
}

/// The timer's task. If it is dropped before it has gone off, since its runtime is
/// shut down, the next request takes the slow path and arms the timer anew.
struct TimerTask {
    driver: Weak<Driver>,
    number: u64,
}

impl TimerTask {
    fn go_off(&self) {
        on_timer(&self.driver, self.number);
    }
}

impl Drop for TimerTask {
    fn drop(&mut self) {
        let Some(driver) = self.driver.upgrade() else {
            return;
        };
        // Not if it has gone off or was replaced.
        if driver.timer_task.remove(self.number)
            && let Some(published) = driver.published.load().as_ref()
        {
            published.set_reported();
        }
    }
}

/// Runs the actions that are due, for the timer task of this number.
pub(super) fn on_timer(driver: &Weak<Driver>, number: u64) {
    let Some(driver) = driver.upgrade() else {
        return;
    };
    let now = driver.now();
    driver.step(|state, _| {
        state.timer.clear(number, &driver.timer_task);
        state.rules.tick(now);
    });
}

/// Lands a job whose call does not end at its deadline. As a task of its own, since the
/// call may block the thread of the job's.
async fn watch(driver: Weak<Driver>, job: Arc<Job>, launch: Launch, interval: Duration) {
    loop {
        let now = Instant::now();
        let deadline = job.deadline();
        let due = deadline.map(|deadline| deadline + GRACE);
        // First called off: its task must not send another password.
        if due.is_some_and(|due| due <= now) && deadline.is_some_and(|at| job.give_up(at)) {
            break;
        }
        // The next call may have an earlier deadline.
        let look = now + interval;
        loom::sleep_until(due.map_or(look, |due| due.clamp(now, look))).await;
    }
    match (driver.upgrade(), launch) {
        (Some(driver), _) => {
            let result = Driver::lost(&job, launch, ErrorKind::DeadlineExceeded);
            driver.land(&job, result);
        }
        (None, Launch::Retire { .. }) => {
            job.finish(WaitResult::Retired(LogoutOutcome::Postponed(None)));
        }
        (None, Launch::Job(_)) => {}
    }
}

/// Lands a job when its task is dropped before it has ended.
struct LandOnDrop {
    driver: Weak<Driver>,
    job: Arc<Job>,
    /// `None` once the job has landed.
    launch: Option<Launch>,
    watch: Option<AbortHandle>,
}

impl LandOnDrop {
    fn land(
        mut self,
        driver: &Arc<Driver>,
        result: JobResult,
    ) -> Option<(JobResult, LogoutReason)> {
        self.launch = None;
        driver.land(&self.job, result)
    }
}

impl Drop for LandOnDrop {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
        let Some(launch) = self.launch.take() else {
            return;
        };
        let Some(driver) = self.driver.upgrade() else {
            if let Launch::Retire { .. } = launch {
                let logout = LogoutOutcome::Postponed(None);
                self.job.finish(WaitResult::Retired(logout));
            }
            return;
        };
        let error = match std::thread::panicking() {
            true => ErrorKind::ProviderPanicked,
            false => ErrorKind::NoRuntime,
        };
        let result = Driver::lost(&self.job, launch, error);
        driver.land(&self.job, result);
    }
}

fn lifetimes(token: &Token, config: &Config) -> Lifetimes {
    Lifetimes {
        refresh_before: config.refresh_before,
        absolute: token.lifetime(),
        idle: token.idle_lifetime(),
        refresh_in: token.refresh_delay(),
        has_data: token.data().is_some(),
    }
}

/// Returns whether a failed login may have used up the token that it was to
/// extend or exchange. Some servers revoke everything when one is used twice.
fn may_have_used_up(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Uncertain
        | ErrorKind::DeadlineExceeded
        | ErrorKind::ProviderPanicked
        | ErrorKind::NoRuntime => true,
        ErrorKind::LoggedOut
        | ErrorKind::Closed
        | ErrorKind::Refused
        | ErrorKind::PasswordExpired
        | ErrorKind::Locked
        | ErrorKind::InteractionRequired
        | ErrorKind::Unavailable
        | ErrorKind::Protocol
        | ErrorKind::Unsupported
        | ErrorKind::TokenRejected
        | ErrorKind::Recursive
        | ErrorKind::NoOrigin
        | ErrorKind::InsecureOrigin
        | ErrorKind::Truncated => false,
    }
}
