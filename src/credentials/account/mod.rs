//! What is known about the passwords of an account: a pure state machine.
//!
//! A password change can lose the only working password, and a wrong password
//! sent too often locks the account. Both happen when several sessions,
//! processes or restarts act on one account without knowing of each other. So
//! all that is known is kept in one [`Record`], which they share through a
//! store, and each step is decided here:
//!
//! ```text
//! (record, event, now) -> (record to store, what to send)
//! ```
//!
//! There is no I/O, no clock and no task in this module. The caller loads the
//! record, lets an [`Account`] decide, stores the new record if the stored one
//! is still the same, and only then sends. If another process was faster, the
//! caller loads the record and decides anew.
//!
//! Three ideas carry the protocol:
//!
//! - **Every password that may work is in the record.** The new password is
//!   stored before the server is asked to change to it. It is not dropped when
//!   the server answers "no", because a proxy or a late request may make that
//!   answer wrong. It is dropped when a login with another password, sent after
//!   the retention was over, is accepted.
//! - **The old password is tried before the new one.** A change moves the server
//!   from old to new only. So "old is refused" proves that the new one is in
//!   force, and "new is refused" proves nothing: the change may still come.
//! - **One login at a time.** A login is claimed in the record before it is
//!   sent, until its verdict or its timeout. So at most two logins fail in a
//!   row, for all processes together, and one if one of two passwords is right.
//!
//! | file | contents |
//! |---|---|
//! | `record` | what is stored, the order of the passwords, edits by hand, forgetting |
//! | `login` | which password is sent, and what follows its verdict |
//! | `change` | when a change may begin, and what follows its answer |
//! | `unsaved` | what one process knows that the store failed to keep |
//! | `observed` | the record of a source that can only be read |
//! | `json` | the record as text |
//! | `time` | wall-clock time |
//!
//! # Limits
//!
//! The protocol assumes that the login timeout is at least as long as the server
//! works on a login, that the clocks of the processes differ by less than that,
//! and that no request is executed later than the retention. A change that takes
//! effect after its answer, a duplicate of an older change, or a lock that looks
//! like a refusal may stop an account until `login()`. They lose no password.

mod change;
#[cfg(feature = "json")]
mod json;
mod login;
mod observed;
mod record;
#[cfg(test)]
mod tests;
mod time;
mod unsaved;

use std::time::Duration;

pub(crate) use change::{Asked, Begin, ChangeAnswer};
#[cfg(feature = "json")]
pub(crate) use json::InvalidRecord;
pub(crate) use login::{Login, SentLogin, Verdict, Wanted};
pub(crate) use observed::Observed;
#[cfg(feature = "json")]
pub(crate) use record::Change;
pub(crate) use record::{Id, Owner, Password, Record};
#[cfg(test)]
pub(crate) use record::{Open, Other, TryVerdict};
pub(crate) use time::WallTime;
pub(crate) use unsaved::{Event, Unsaved};

/// Decides what happens to an account.
///
/// # Contract
///
/// The caller owns the store, the clock, the random numbers and the requests.
/// Each method is one event. It takes the record as it is stored now, and
/// returns the record to store.
///
/// A login:
///
/// 1. load the record;
/// 2. [`decide_login`](Account::decide_login). Unless it answers
///    [`Login::Send`], nothing is stored or sent;
/// 3. store the record of the answer. On a conflict go back to 1. If the store
///    fails, send nothing, unless [`Unsaved::may_send`];
/// 4. send [`SentLogin::password`], and give up at [`SentLogin::until`];
/// 5. load the record, [`landed`](Account::landed), store. On a conflict repeat
///    this step. If the store fails, [`Unsaved::keep`] the verdict;
/// 6. after [`Verdict::Refused`] decide the next login at once. Otherwise the
///    login has ended.
///
/// A change:
///
/// 1. load the record;
/// 2. [`begin_change`](Account::begin_change). Unless it answers
///    [`Begin::Ask`], nothing is stored or sent;
/// 3. store the record of the answer. On a conflict go back to 1. If the store
///    fails, the change fails and nothing is sent;
/// 4. ask the server, and give up at [`Asked::until`];
/// 5. load the record, [`change_answered`](Account::change_answered), store. On
///    a conflict repeat this step. If the store fails after "yes", the change
///    has succeeded all the same: [`Unsaved::keep`] the answer.
///
/// A caller that dies at any point leaves a record from which the others go on.
///
/// # Invariants
///
/// - A password that may work within the retention is in the record.
/// - `written` equals `current` in each record that the machine returns.
/// - At most one login is claimed, and at most one change is in progress.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    settings: AccountSettings,
    owner: Owner,
}

/// The times of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AccountSettings {
    /// How long a claim lasts, of a login or of a change. At most one hour.
    pub(crate) login_timeout: Duration,
    /// How late a server may execute a change.
    pub(crate) retention: Duration,
    /// After which delay a refused password is sent again. The delay doubles.
    pub(crate) retry_refused_after: Option<Duration>,
}

impl Default for AccountSettings {
    fn default() -> Self {
        Self {
            login_timeout: Duration::from_secs(30),
            retention: Duration::from_secs(24 * 3600),
            retry_refused_after: None,
        }
    }
}

impl Account {
    /// Creates the machine of one process, whose claims carry `owner`.
    pub(crate) fn new(settings: AccountSettings, owner: Owner) -> Self {
        Self { settings, owner }
    }
}
