//! What is stored about an account.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::WallTime;

/// How many passwords a record keeps beside the current one.
pub(super) const MAX_OTHERS: usize = 3;

/// How many passwords that a person replaced by hand are kept at most. A person
/// cannot be refused as a change can, so the list has to end somewhere.
const MAX_EDITED: usize = 16;

/// How many tries are kept: enough for a delay to double up to its maximum.
const MAX_TRIES: usize = 16;

/// An account: its user, its passwords, and what is known of them.
///
/// Generic over the password, so that the explorer in `tests` can run the
/// machine with small integers.
///
/// `written` is a copy of `current` as the protocol stored it. A person edits
/// `current` alone, so a difference between the two is an edit by hand. A record
/// without `written` was never stored by the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Record<P = Password> {
    pub(super) username: String,
    pub(super) current: P,
    pub(super) written: Option<P>,
    /// Whether a login with `current` was accepted since the last change began.
    pub(super) accepted: bool,
    /// The other passwords that may work, newest first.
    pub(super) others: Vec<Other<P>>,
    pub(super) change: Option<Change>,
    pub(super) login: Option<Claim<P>>,
    /// The logins since the last accepted one, oldest first.
    pub(super) tries: Vec<Try<P>>,
}

/// A password that is not current.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Other<P = Password> {
    pub(super) password: P,
    /// When a change to it was last asked, or when it ceased to be current.
    pub(super) sent_at: WallTime,
    pub(super) open: Open,
}

/// Whether a change to a password may still take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "json", serde(rename_all = "snake_case"))]
pub(crate) enum Open {
    /// Yes: the change was not answered, or not yet.
    Lost,
    /// Yes: the answer was "no", and an answer may be wrong.
    No,
    /// No change to it is unresolved.
    Closed,
}

/// A password change in progress.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "json", serde(deny_unknown_fields))]
pub(crate) struct Change {
    pub(super) id: Id,
    pub(super) owner: Owner,
    pub(super) until: WallTime,
}

/// A login in progress. While it is live, no other login is sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Claim<P = Password> {
    pub(super) id: Id,
    pub(super) password: P,
    pub(super) owner: Owner,
    /// The sending plus the login timeout. The claim lasts that long even if its
    /// holder died: the server may execute the login until then.
    pub(super) until: WallTime,
}

/// A login that was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Try<P = Password> {
    pub(super) password: P,
    pub(super) at: WallTime,
    pub(super) verdict: TryVerdict,
}

/// What a try proves about its password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "json", serde(rename_all = "snake_case"))]
pub(crate) enum TryVerdict {
    /// The password is wrong.
    Refused,
    /// Nothing, but the server may have counted it as a failed login.
    NoVerdict,
}

/// The name of one claim or one change: a random number, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Id(pub(crate) u64);

/// The name of a process, or of a source in it: a random number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Owner(pub(crate) u64);

/// A password. It is compared in constant time and wiped when it drops.
/// Copies share it.
#[derive(Clone)]
pub(crate) struct Password(Arc<SecretString>);

impl<P> Record<P> {
    /// Creates the record of an account that the protocol never stored.
    pub(crate) fn new(username: impl Into<String>, password: impl Into<P>) -> Self {
        Self {
            username: username.into(),
            current: password.into(),
            written: None,
            accepted: false,
            others: Vec::new(),
            change: None,
            login: None,
            tries: Vec::new(),
        }
    }

    /// Returns the name of the user.
    pub(crate) fn username(&self) -> &str {
        &self.username
    }

    /// Returns the password in use.
    pub(crate) fn current(&self) -> &P {
        &self.current
    }

    /// Returns the change in progress, if one is stored. It may be over.
    #[cfg(any(feature = "json", test))]
    pub(crate) fn change(&self) -> Option<&Change> {
        self.change.as_ref()
    }

    /// Returns when the change of `owner` ends, if it is in progress.
    pub(crate) fn change_of(&self, owner: Owner, now: WallTime) -> Option<WallTime> {
        let change = self.change.as_ref()?;
        let is_live = change.owner == owner && change.until.is_ahead(now);
        is_live.then_some(change.until)
    }

    /// Replaces the current password as a person does who edits the record.
    pub(crate) fn edit(&mut self, password: P) {
        self.current = password;
    }

    /// Returns whether a change may still take effect.
    pub(super) fn has_open(&self) -> bool {
        self.others.iter().any(Other::is_open)
    }
}

impl<P: Clone + PartialEq> Record<P> {
    /// Returns the passwords in the order in which they are tried: the current
    /// one, the open ones, the rest.
    pub(super) fn order(&self) -> impl Iterator<Item = &P> {
        let open = self.others.iter().filter(|other| other.is_open());
        let closed = self.others.iter().filter(|other| !other.is_open());
        let others = open.chain(closed).map(|other| &other.password);
        std::iter::once(&self.current).chain(others)
    }

    /// Returns all passwords.
    pub(crate) fn passwords(&self) -> impl Iterator<Item = &P> {
        self.order()
    }

    /// Returns whether it is not known which password works: only a login with a
    /// password shows it.
    pub(crate) fn is_unresolved(&self) -> bool {
        self.has_open() && !self.accepted
    }

    /// Returns whether logins were not accepted since the last accepted one.
    pub(crate) fn has_tries(&self) -> bool {
        !self.tries.is_empty()
    }

    pub(super) fn has(&self, password: &P) -> bool {
        self.order().any(|known| known == password)
    }

    /// Returns whether the server refused `password`.
    pub(crate) fn is_refused(&self, password: &P) -> bool {
        let mut refused = self.tries.iter().filter(|tried| tried.is_refused());
        refused.any(|tried| tried.password == *password)
    }

    /// Returns how many of the passwords were refused.
    pub(super) fn refused(&self) -> usize {
        let refused = self.order().filter(|password| self.is_refused(password));
        refused.count()
    }

    /// Returns how many logins without a verdict there were.
    pub(super) fn without_verdict(&self) -> usize {
        let tries = self.tries.iter().filter(|tried| !tried.is_refused());
        tries.filter(|tried| self.has(&tried.password)).count()
    }

    /// Adds a try. If there are too many, the oldest is dropped that does not
    /// say that a password is refused.
    pub(super) fn add_try(&mut self, password: P, at: WallTime, verdict: TryVerdict) {
        self.tries.push(Try {
            password,
            at,
            verdict,
        });
        if self.tries.len() <= MAX_TRIES {
            return;
        }
        let is_known_later = |place: usize| {
            let tried = &self.tries[place];
            let mut later = self.tries[place + 1..].iter();
            !tried.is_refused()
                || later.any(|later| later.is_refused() && later.password == tried.password)
        };
        if let Some(place) = (0..self.tries.len()).find(|place| is_known_later(*place)) {
            self.tries.remove(place);
        }
    }

    /// Puts `password` in front of the others, and only there.
    pub(super) fn put_first(&mut self, password: P, open: Open, now: WallTime) {
        self.others.retain(|other| other.password != password);
        self.others.insert(
            0,
            Other {
                password,
                sent_at: now,
                open,
            },
        );
    }

    /// Makes `password` the current one and keeps the former one.
    pub(super) fn promote(&mut self, password: P, now: WallTime) {
        self.others.retain(|other| other.password != password);
        if self.current != password {
            let former = std::mem::replace(&mut self.current, password);
            self.put_first(former, Open::Closed, now);
        }
    }

    /// Returns the record as the protocol is to go on with it.
    ///
    /// | event | stored before going on | then |
    /// |---|---|---|
    /// | edited (`current` is not `written`) | `current` kept like a sent one, the former one into `others`; `tries` empty; no `change` | start anew |
    ///
    /// `login` stays: the login of another may still be executed, and its
    /// verdict is void since `current` has changed.
    pub(super) fn caught_up(&self, now: WallTime) -> Self {
        let mut record = self.clone();
        if let Some(written) = &self.written
            && *written != self.current
        {
            record.put_first(written.clone(), Open::Closed, now);
            record.tries.clear();
            record.change = None;
            record.accepted = false;
            if record.others.len() > MAX_EDITED
                && let Some(oldest) = record.others.iter().rposition(|other| !other.is_open())
            {
                record.others.remove(oldest);
            }
        }
        // By hand a password may end up in both places.
        let current = &record.current;
        record.others.retain(|other| other.password != *current);
        for other in &mut record.others {
            // Written by a clock that was wrong: it would be kept for years.
            if other.sent_at > now.plus(super::time::LONGEST) {
                other.sent_at = now;
            }
        }
        record.written = Some(record.current.clone());
        record
    }

    /// Returns the record after its source yields another password, if the source
    /// cannot be written: as after an edit, without the passwords in `refused`. They
    /// are not lost, since the source holds them.
    pub(super) fn replaced(&self, password: P, refused: &[P], now: WallTime) -> Self {
        let mut record = self.clone();
        record.edit(password);
        record = record.caught_up(now);
        record
            .others
            .retain(|other| other.is_open() || !refused.contains(&other.password));
        if refused.contains(&record.current) {
            record.add_try(record.current.clone(), now, TryVerdict::Refused);
        }
        record
    }

    /// Forgets the passwords that a login has made useless: they were sent
    /// longer ago than the retention when the accepted login was sent. A change
    /// to one of them can no longer take effect.
    ///
    /// While a change is in progress, its password is kept whatever the
    /// retention is.
    pub(super) fn prune(&mut self, retention: Duration, login_sent_at: WallTime) {
        let in_progress = self.change.is_some();
        self.others.retain(|other| {
            let is_over = other.sent_at.plus(retention) <= login_sent_at;
            !is_over || (in_progress && other.open == Open::Lost)
        });
    }
}

#[cfg(feature = "testing")]
impl Record<Password> {
    /// Returns a record that holds something in each field, except a password change
    /// in progress.
    pub(crate) fn example(password: SecretString) -> Self {
        let at = WallTime::from_millis(1_767_225_600_000);
        let password = Password::from(password);
        let other = Password::from("another one");
        let mut record = Self::new("emuser", password.clone());
        record.written = Some(password.clone());
        record.accepted = true;
        record.put_first(other.clone(), Open::Lost, at);
        record.add_try(other.clone(), at, TryVerdict::Refused);
        record.login = Some(Claim {
            id: Id(1),
            password: other,
            owner: Owner(2),
            until: at,
        });
        record
    }
}

impl<P> Other<P> {
    pub(super) fn is_open(&self) -> bool {
        match self.open {
            Open::Lost | Open::No => true,
            Open::Closed => false,
        }
    }
}

impl<P> Try<P> {
    pub(super) fn is_refused(&self) -> bool {
        match self.verdict {
            TryVerdict::Refused => true,
            TryVerdict::NoVerdict => false,
        }
    }
}

impl Change {
    /// Returns the name of the change.
    #[cfg(feature = "json")]
    pub(crate) fn id(&self) -> Id {
        self.id
    }
}

impl Password {
    /// Returns the password for a login to send.
    pub(crate) fn secret(&self) -> &SecretString {
        &self.0
    }
}

impl<S: Into<SecretString>> From<S> for Password {
    fn from(secret: S) -> Self {
        Self(Arc::new(secret.into()))
    }
}

impl PartialEq for Password {
    fn eq(&self, other: &Self) -> bool {
        let (one, other) = (self.0.expose_secret(), other.0.expose_secret());
        let bytes = one.bytes().zip(other.bytes());
        let difference = bytes.fold(0, |all, (one, other)| all | (one ^ other));
        one.len() == other.len() && std::hint::black_box(difference) == 0
    }
}

impl Eq for Password {}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}
