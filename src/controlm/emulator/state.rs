//! What the server knows, and how that changes: pure, with the time as an argument.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use super::account::Account;
use super::builder::Knobs;
use super::fault::Fault;

/// The time since the emulator was made.
pub(super) type Moment = Duration;

pub(super) struct State {
    pub(super) knobs: Knobs,
    users: HashMap<String, User>,
    sessions: HashMap<String, Session>,
    faults: VecDeque<(String, Fault)>,
    pub(super) counted: Account,
    /// How often each job was ordered.
    pub(super) ordered: BTreeMap<String, u64>,
}

pub(super) struct User {
    password: String,
    failures: u32,
    locked: Option<Moment>,
}

struct Session {
    user: String,
    made: Moment,
    used: Moment,
}

/// Why a login failed.
pub(super) enum LoginFailure {
    WrongPassword,
    Locked,
    TooManySessions,
}

/// Why a password was not changed.
pub(super) enum ChangeFailure {
    NoSuchUser,
    WrongPassword,
    TooShort,
    Unchanged,
}

impl User {
    pub(super) fn new(password: String) -> Self {
        Self {
            password,
            failures: 0,
            locked: None,
        }
    }

    fn unlock(&mut self) {
        self.locked = None;
        self.failures = 0;
    }

    fn unlock_if_due(&mut self, delay: Option<Duration>, now: Moment) {
        if let (Some(since), Some(delay)) = (self.locked, delay) {
            if now.saturating_sub(since) >= delay {
                self.unlock();
            }
        }
    }
}

impl State {
    pub(super) fn new(knobs: Knobs, users: HashMap<String, User>) -> Self {
        Self {
            knobs,
            users,
            sessions: HashMap::new(),
            faults: VecDeque::new(),
            counted: Account::default(),
            ordered: BTreeMap::new(),
        }
    }

    /// Ends the sessions whose time has come.
    pub(super) fn expire(&mut self, now: Moment) {
        let (lifetime, idle) = (self.knobs.lifetime, self.knobs.idle);
        let over = |since: Moment, limit: Option<Duration>| {
            limit.is_some_and(|limit| now.saturating_sub(since) >= limit)
        };
        let before = self.sessions.len();
        self.sessions
            .retain(|_, session| !over(session.made, lifetime) && !over(session.used, idle));
        self.counted.expired += (before - self.sessions.len()) as u64;
    }

    pub(super) fn account(&mut self, now: Moment) -> Account {
        self.expire(now);
        Account {
            live: self.sessions.len() as u64,
            ..self.counted.clone()
        }
    }

    pub(super) fn log_in(
        &mut self,
        user: &str,
        password: &str,
        token: String,
        now: Moment,
    ) -> Result<(), LoginFailure> {
        self.expire(now);
        let admitted = self.admit(user, password, now);
        match admitted {
            Err(_) => self.counted.failed_logins += 1,
            Ok(()) => {
                self.counted.logins += 1;
                let user = user.to_owned();
                let session = Session {
                    user,
                    made: now,
                    used: now,
                };
                self.sessions.insert(token, session);
            }
        }
        admitted
    }

    fn admit(&mut self, name: &str, password: &str, now: Moment) -> Result<(), LoginFailure> {
        let user = self
            .users
            .get_mut(name)
            .ok_or(LoginFailure::WrongPassword)?;
        user.unlock_if_due(self.knobs.unlock_after, now);
        if user.locked.is_some() {
            return Err(LoginFailure::Locked);
        }
        if user.password != password {
            user.failures = user.failures.saturating_add(1);
            if self
                .knobs
                .lock_after
                .is_some_and(|limit| user.failures >= limit)
            {
                user.locked = Some(now);
            }
            return Err(LoginFailure::WrongPassword);
        }
        user.failures = 0;
        match self.knobs.max_sessions {
            Some(limit) if self.sessions.len() >= limit => Err(LoginFailure::TooManySessions),
            Some(_) | None => Ok(()),
        }
    }

    /// The user of the first of `tokens` whose session is live, and that token.
    /// The session is thereby used.
    pub(super) fn user_of<'t>(
        &mut self,
        tokens: &'t [String],
        now: Moment,
    ) -> Option<(String, &'t str)> {
        self.expire(now);
        let live = tokens
            .iter()
            .find(|token| self.sessions.contains_key(*token));
        match (live, tokens) {
            (Some(_), _) => self.counted.with_live_token += 1,
            (None, [_, ..]) => self.counted.with_dead_token += 1,
            (None, []) => self.counted.without_token += 1,
        }
        let token = live?;
        let session = self.sessions.get_mut(token)?;
        session.used = now;
        Some((session.user.clone(), token))
    }

    /// Ends a session that was found to be live.
    pub(super) fn log_out(&mut self, token: &str) {
        if self.sessions.remove(token).is_some() {
            self.counted.logged_out += 1;
        }
    }

    pub(super) fn change_password(
        &mut self,
        name: &str,
        current: &str,
        new: &str,
    ) -> Result<(), ChangeFailure> {
        let user = self.users.get_mut(name).ok_or(ChangeFailure::NoSuchUser)?;
        if user.password != current {
            return Err(ChangeFailure::WrongPassword);
        }
        if new == current {
            return Err(ChangeFailure::Unchanged);
        }
        if new.chars().count() < self.knobs.min_password {
            return Err(ChangeFailure::TooShort);
        }
        new.clone_into(&mut user.password);
        self.counted.password_changes += 1;
        if self.knobs.change_ends_sessions {
            let before = self.sessions.len();
            self.sessions.retain(|_, session| session.user != name);
            self.counted.ended += (before - self.sessions.len()) as u64;
        }
        Ok(())
    }

    pub(super) fn order(&mut self, job: String) -> u64 {
        self.counted.jobs += 1;
        *self.ordered.entry(job).or_default() += 1;
        self.counted.jobs
    }

    pub(super) fn restart(&mut self, now: Moment) {
        self.expire(now);
        self.counted.dropped += self.sessions.len() as u64;
        self.sessions.clear();
    }

    pub(super) fn expire_all(&mut self) {
        self.counted.expired += self.sessions.len() as u64;
        self.sessions.clear();
    }

    pub(super) fn set_password(&mut self, user: &str, password: String) {
        self.users.insert(user.to_owned(), User::new(password));
    }

    pub(super) fn lock(&mut self, user: &str, now: Moment) {
        if let Some(user) = self.users.get_mut(user) {
            user.locked = Some(now);
        }
    }

    pub(super) fn unlock(&mut self, user: &str) {
        if let Some(user) = self.users.get_mut(user) {
            user.unlock();
        }
    }

    pub(super) fn is_locked(&mut self, user: &str, now: Moment) -> bool {
        let delay = self.knobs.unlock_after;
        self.users.get_mut(user).is_some_and(|user| {
            user.unlock_if_due(delay, now);
            user.locked.is_some()
        })
    }

    pub(super) fn add_fault(&mut self, path: String, fault: Fault) {
        self.faults.push_back((path, fault));
    }

    /// The first fault meant for `path`, which is thereby used up.
    pub(super) fn take_fault(&mut self, path: &str) -> Option<Fault> {
        let meant = |(pattern, _): &(String, Fault)| pattern.is_empty() || pattern == path;
        let place = self.faults.iter().position(meant)?;
        self.faults.remove(place).map(|(_, fault)| fault)
    }
}
