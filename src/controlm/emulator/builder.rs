//! The builder of an emulator.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use http::StatusCode;
use secrecy::SecretString;

use super::{
    call::{Call, Observer},
    fault::{Fault, Script, Target},
    handle::Emulator,
    path::{normal, segments},
    settings::{Behaviour, PasswordChangeEnds, TokenIn},
    state::ServerState,
};

/// A builder of an [`Emulator`], from [`Emulator::builder`].
///
/// ```
/// use std::time::Duration;
/// use tower_reauth::controlm::emulator::{Emulator, Fault, Operation};
///
/// let emulator = Emulator::builder()
///     .user("emuser", "secret")
///     .lifetime(Duration::from_secs(60))
///     .lock_after(3)
///     .fault(Operation::Order, Fault::close().after_execution())
///     .build();
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct EmulatorBuilder {
    base_path: String,
    users: BTreeMap<String, SecretString>,
    settings: Behaviour,
    script: Script,
    observer: Option<Observer>,
}

impl EmulatorBuilder {
    fn new() -> Self {
        Self {
            base_path: "/automation-api".to_owned(),
            users: BTreeMap::new(),
            settings: Behaviour::default(),
            script: Script::default(),
            observer: None,
        }
    }

    /// Sets the base path of all operations, `/automation-api` by default.
    ///
    /// Gateways put the service under other paths. `/` means no prefix.
    pub fn base_path(mut self, path: impl AsRef<str>) -> Self {
        self.base_path = normal(segments(path.as_ref()));
        self
    }

    /// Adds a user, or sets a user's password.
    ///
    /// By default there is one user, `emuser` with the password `empass`.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<SecretString>) -> Self {
        self.users.insert(name.into(), password.into());
        self
    }

    /// Sets the lifetime of a session from its login, 30 minutes by default.
    pub fn lifetime(mut self, lifetime: impl Into<Option<Duration>>) -> Self {
        self.settings.lifetime = lifetime.into();
        self
    }

    /// Compresses JSON answers to requests whose `Accept-Encoding` lists `gzip`, as many
    /// gateways do (RFC 9110, section 12.5.3). By default nothing is compressed.
    pub fn gzip(mut self) -> Self {
        self.settings.gzip = true;
        self
    }

    /// Sets how long a session lives without use. By default there is no limit.
    pub fn idle_timeout(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.settings.idle = idle.into();
        self
    }

    /// Sets where the server looks for the token.
    pub fn token_in(mut self, place: TokenIn) -> Self {
        self.settings.token_in = place;
        self
    }

    /// Sets the status for a dead token. The text is always the same.
    ///
    /// 401 by default. Some servers answer 500 instead. A missing token is
    /// always a 401.
    pub fn dead_token_as(mut self, status: StatusCode) -> Self {
        self.settings.dead_token_as = status;
        self
    }

    /// Sets how many failed logins in a row lock a user. By default none do.
    ///
    /// A successful login resets the count.
    pub fn lock_after(mut self, failures: impl Into<Option<u32>>) -> Self {
        self.settings.lock_after = failures.into();
        self
    }

    /// Sets how long such a lock lasts. By default only [`Emulator::unlock`] ends it.
    pub fn lock_for(mut self, duration: impl Into<Option<Duration>>) -> Self {
        self.settings.lock_for = duration.into();
        self
    }

    /// Sets how many sessions may be live. By default there is no limit.
    ///
    /// Another login is refused.
    pub fn max_sessions(mut self, sessions: impl Into<Option<usize>>) -> Self {
        self.settings.max_sessions = sessions.into();
        self
    }

    /// Sets the status of such a refusal, 500 by default.
    pub fn too_many_sessions_as(mut self, status: StatusCode) -> Self {
        self.settings.too_many_sessions_as = status;
        self
    }

    /// Sets how many characters a new password needs, 1 by default.
    ///
    /// A new password must always differ from the current one. The passwords of
    /// [`user`](Self::user) are not checked.
    pub fn min_password_length(mut self, characters: usize) -> Self {
        self.settings.min_password_length = characters;
        self
    }

    /// Sets which sessions a password change ends.
    pub fn password_change_ends(mut self, ends: PasswordChangeEnds) -> Self {
        self.settings.password_change_ends = ends;
        self
    }

    /// Sets the status of a password change with a wrong current password, 400 by default.
    pub fn wrong_current_password_as(mut self, status: StatusCode) -> Self {
        self.settings.wrong_current_password_as = status;
        self
    }

    /// Sets how long each call waits before it is executed.
    pub fn latency(mut self, latency: Duration) -> Self {
        self.settings.latency = latency;
        self
    }

    /// Sets how long each login waits, instead of [`latency`](Self::latency).
    pub fn login_latency(mut self, latency: impl Into<Option<Duration>>) -> Self {
        self.settings.login_latency = latency.into();
        self
    }

    /// Adds a fault for the next request to a target; see [`Emulator::fault`].
    pub fn fault(mut self, target: impl Into<Target>, fault: Fault) -> Self {
        self.script.push(target.into(), fault);
        self
    }

    /// Sets a function that is called once for each call that is answered or closed.
    ///
    /// A [`Call`] has no secret, so it can be printed.
    pub fn on_call(mut self, observer: impl Fn(&Call) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Returns the emulator. It serves nothing yet.
    pub fn build(self) -> Emulator {
        let mut users = self.users;
        if users.is_empty() {
            users.insert("emuser".to_owned(), SecretString::from("empass"));
        }
        Emulator::new_with(
            self.base_path,
            self.observer,
            ServerState::new(self.settings, users, self.script),
        )
    }
}

impl Emulator {
    /// Returns an emulator with one user, `emuser` with the password `empass`, and all defaults.
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Returns a builder of an emulator.
    pub fn builder() -> EmulatorBuilder {
        EmulatorBuilder::new()
    }
}

impl Default for Emulator {
    fn default() -> Self {
        Self::new()
    }
}

// By hand: it shows the users, never their passwords.
impl fmt::Debug for EmulatorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmulatorBuilder")
            .field("base_path", &self.base_path)
            .field("users", &self.users.keys())
            .finish_non_exhaustive()
    }
}
