//! Users, sessions and jobs as plain logic: no I/O, and `now` is an argument.

use std::collections::{BTreeMap, HashMap, VecDeque};

use http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::{
    account::Account,
    fault::{Fault, Script},
    operation::Operation,
    settings::{Behaviour, PasswordChangeEnds},
};

/// The limit for the orders that have a status. All orders are counted.
const ORDERS_KEPT: usize = 1000;

pub(super) struct ServerState {
    pub(super) settings: Behaviour,
    pub(super) script: Script,
    users: BTreeMap<String, User>,
    /// Live sessions by token. Ended sessions are only counted.
    sessions: HashMap<String, Session>,
    orders: VecDeque<Order>,
    counted: Account,
}

struct User {
    password: SecretString,
    failures: u32,
    lock: Lock,
}

#[derive(Clone, Copy)]
enum Lock {
    Open,
    Until(Instant),
    ByHand,
}

struct Session {
    user: String,
    opened: Instant,
    used: Instant,
}

/// One order, as the status operations show it.
#[derive(Clone)]
pub(super) struct Order {
    /// From 1.
    pub(super) number: u64,
    pub(super) ctm: String,
    pub(super) folder: Option<String>,
}

/// The state of a request's token.
pub(super) enum Access {
    Missing,
    Dead,
    Live { user: String, token: String },
}

pub(super) enum LoginRefusal {
    Credentials,
    Locked,
    TooManySessions,
}

pub(super) enum ChangeRefusal {
    UnknownUser,
    OtherUser,
    WrongPassword,
    SamePassword,
    TooShort { characters: usize },
}

impl ServerState {
    pub(super) fn new(
        settings: Behaviour,
        users: BTreeMap<String, SecretString>,
        script: Script,
    ) -> Self {
        let users = users
            .into_iter()
            .map(|(name, password)| (name, User::new(password)))
            .collect();
        Self {
            settings,
            script,
            users,
            sessions: HashMap::new(),
            orders: VecDeque::new(),
            counted: Account::default(),
        }
    }

    /// Counts a request, and returns its fault.
    pub(super) fn arrive(&mut self, path: &str, operation: Option<Operation>) -> Option<Fault> {
        self.counted.requests += 1;
        if let Some(operation) = operation {
            *self.counted.by_operation.entry(operation).or_default() += 1;
        }
        let fault = self.script.take(path, operation)?;
        if !fault.passes() {
            self.counted.faults += 1;
        }
        Some(fault)
    }

    /// Opens a session under `token`, if the credentials are right.
    pub(super) fn login(
        &mut self,
        name: &str,
        password: &SecretString,
        token: String,
        now: Instant,
    ) -> Result<(), LoginRefusal> {
        self.drop_expired(now);
        let opened = self.check_login(name, password, now);
        match opened {
            Ok(()) => {
                self.counted.logins += 1;
                let session = Session {
                    user: name.to_owned(),
                    opened: now,
                    used: now,
                };
                self.sessions.insert(token, session);
            }
            Err(_) => self.counted.failed_logins += 1,
        }
        opened
    }

    fn check_login(
        &mut self,
        name: &str,
        password: &SecretString,
        now: Instant,
    ) -> Result<(), LoginRefusal> {
        let user = self.users.get_mut(name).ok_or(LoginRefusal::Credentials)?;
        // The lock comes first: while a user is locked, no password is checked,
        // and no failure is counted.
        if user.is_locked(now) {
            return Err(LoginRefusal::Locked);
        }
        if !same(&user.password, password) {
            user.failures += 1;
            if self.settings.lock_after.is_some_and(|n| user.failures >= n) {
                user.lock = match self.settings.lock_for {
                    Some(duration) => Lock::Until(now + duration),
                    None => Lock::ByHand,
                };
            }
            return Err(LoginRefusal::Credentials);
        }
        user.failures = 0;
        if self
            .settings
            .max_sessions
            .is_some_and(|n| self.sessions.len() >= n)
        {
            return Err(LoginRefusal::TooManySessions);
        }
        Ok(())
    }

    /// Looks up the tokens of a request behind the session. One live token is enough.
    pub(super) fn access(&mut self, tokens: &[&str], now: Instant) -> Access {
        self.drop_expired(now);
        for token in tokens {
            if let Some(session) = self.sessions.get_mut(*token) {
                session.used = now;
                self.counted.live_tokens += 1;
                return Access::Live {
                    user: session.user.clone(),
                    token: (*token).to_owned(),
                };
            }
        }
        if tokens.is_empty() {
            self.counted.no_token += 1;
            Access::Missing
        } else {
            self.counted.dead_tokens += 1;
            Access::Dead
        }
    }

    pub(super) fn logout(&mut self, token: &str) {
        if self.sessions.remove(token).is_some() {
            self.counted.logged_out += 1;
        }
    }

    /// Changes the password of the session's user, if the settings allow it.
    pub(super) fn change_password(
        &mut self,
        user: &str,
        token: &str,
        named: Option<&str>,
        current: &SecretString,
        new: &SecretString,
    ) -> Result<(), ChangeRefusal> {
        if let Some(named) = named {
            if !self.users.contains_key(named) {
                return Err(ChangeRefusal::UnknownUser);
            }
            if named != user {
                return Err(ChangeRefusal::OtherUser);
            }
        }
        let known = self.users.get_mut(user).ok_or(ChangeRefusal::UnknownUser)?;
        if !same(&known.password, current) {
            return Err(ChangeRefusal::WrongPassword);
        }
        if same(&known.password, new) {
            return Err(ChangeRefusal::SamePassword);
        }
        let characters = self.settings.min_password_length;
        if new.expose_secret().chars().count() < characters {
            return Err(ChangeRefusal::TooShort { characters });
        }
        known.password = new.clone();
        self.counted.password_changes += 1;
        let before = self.sessions.len();
        match self.settings.password_change_ends {
            PasswordChangeEnds::NoSession => {}
            PasswordChangeEnds::OtherSessions => {
                self.sessions
                    .retain(|key, s| s.user != user || key == token);
            }
            PasswordChangeEnds::EverySession => self.sessions.retain(|_, s| s.user != user),
        }
        self.counted.ended += (before - self.sessions.len()) as u64;
        Ok(())
    }

    pub(super) fn order(&mut self, ctm: Option<String>, folder: Option<String>) -> Order {
        self.counted.jobs_ordered += 1;
        if let Some(folder) = &folder {
            let times = self.counted.ordered_by_folder.entry(folder.clone());
            *times.or_default() += 1;
        }
        let order = Order {
            number: self.counted.jobs_ordered,
            ctm: ctm.unwrap_or_else(|| "emulator".to_owned()),
            folder,
        };
        if self.orders.len() == ORDERS_KEPT {
            self.orders.pop_front();
        }
        self.orders.push_back(order.clone());
        order
    }

    /// Returns the last orders, newest first.
    pub(super) fn orders(&self) -> impl Iterator<Item = &Order> {
        self.orders.iter().rev()
    }

    pub(super) fn ordered(&self, number: u64) -> Option<&Order> {
        self.orders().find(|order| order.number == number)
    }

    pub(super) fn jobs_ordered(&self) -> u64 {
        self.counted.jobs_ordered
    }

    /// Drops all sessions. Users, passwords, locks and jobs stay, as in a server's database.
    pub(super) fn restart(&mut self, now: Instant) {
        self.drop_expired(now);
        self.counted.restarts += 1;
        self.counted.dropped += self.sessions.len() as u64;
        self.sessions.clear();
    }

    pub(super) fn expire(&mut self, token: &str, now: Instant) -> bool {
        self.drop_expired(now);
        let was_live = self.sessions.remove(token).is_some();
        self.counted.expired += u64::from(was_live);
        was_live
    }

    pub(super) fn expire_all(&mut self) {
        self.counted.expired += self.sessions.len() as u64;
        self.sessions.clear();
    }

    pub(super) fn lock(&mut self, name: &str) -> bool {
        self.set_lock(name, Lock::ByHand)
    }

    pub(super) fn unlock(&mut self, name: &str) -> bool {
        self.set_lock(name, Lock::Open)
    }

    fn set_lock(&mut self, name: &str, lock: Lock) -> bool {
        let Some(user) = self.users.get_mut(name) else {
            return false;
        };
        user.lock = lock;
        user.failures = 0;
        true
    }

    pub(super) fn set_password(&mut self, name: String, password: SecretString) {
        match self.users.get_mut(&name) {
            Some(user) => user.password = password,
            None => {
                self.users.insert(name, User::new(password));
            }
        }
    }

    pub(super) fn account(&mut self, now: Instant) -> Account {
        self.drop_expired(now);
        Account {
            live: self.sessions.len() as u64,
            ..self.counted.clone()
        }
    }

    pub(super) fn status_of_refused_login(&self, refusal: &LoginRefusal) -> StatusCode {
        match refusal {
            LoginRefusal::Credentials | LoginRefusal::Locked => StatusCode::UNAUTHORIZED,
            LoginRefusal::TooManySessions => self.settings.too_many_sessions_as,
        }
    }

    fn drop_expired(&mut self, now: Instant) {
        let before = self.sessions.len();
        let Behaviour { lifetime, idle, .. } = self.settings;
        let is_live = |limit: Option<_>, since: Instant| {
            limit.is_none_or(|limit| now.saturating_duration_since(since) < limit)
        };
        self.sessions
            .retain(|_, s| is_live(lifetime, s.opened) && is_live(idle, s.used));
        self.counted.expired += (before - self.sessions.len()) as u64;
    }
}

impl User {
    fn new(password: SecretString) -> Self {
        Self {
            password,
            failures: 0,
            lock: Lock::Open,
        }
    }

    fn is_locked(&mut self, now: Instant) -> bool {
        match self.lock {
            Lock::Open => false,
            Lock::ByHand => true,
            Lock::Until(end) if now < end => true,
            Lock::Until(_) => {
                self.lock = Lock::Open;
                self.failures = 0;
                false
            }
        }
    }
}

fn same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret() == other.expose_secret()
}
