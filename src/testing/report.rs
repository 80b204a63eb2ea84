//! The result of the checks of a provider or a store.

use std::error::Error;
use std::fmt;

/// One check of [`conformance`](super::conformance) or of
/// [`store_conformance`](super::store_conformance).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Check {
    /// A login yields a token that the server accepts, and opens one session.
    Login,
    /// After the server has ended all sessions, a login yields a good token again.
    Rejection,
    /// The profile tells the answer to a dead token from that to a live one.
    RejectedResponse,
    /// A renewal of a live token yields a good token.
    Renewal,
    /// A logout ends the token on the server.
    Logout,
    /// The logout of a dead token is no trouble.
    DeadLogout,
    /// A logout ends no more than the profile says. The note says whether a login ends
    /// earlier sessions.
    LogoutEnds,
    /// A login that is dropped half-way leaves the provider usable.
    DroppedLogin,
    /// A changed password is the one that works, until it is changed back.
    PasswordChange,
    /// A password change with a dead token says so.
    DeadPasswordChange,
    /// A wrong password is refused, and sent once.
    WrongPassword,
    /// A server that is down is unavailable.
    Unreachable,
    /// A store loads its record.
    Load,
    /// A stored record is loaded by each process.
    Store,
    /// A record of another version is not overwritten.
    StoreConflict,
    /// Of several that store at once, one succeeds.
    ConcurrentStores,
    /// A load during a store returns a whole record.
    WholeRecords,
    /// A store that is dropped half-way leaves a whole record.
    DroppedStore,
}

/// What became of one [`Check`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The contract was kept.
    Kept {
        /// What else is worth knowing.
        note: Option<String>,
    },
    /// It could not be tried, or the provider does not support it.
    Skipped {
        /// What was missing.
        why: String,
    },
    /// The contract was broken.
    Broken {
        /// What happened.
        found: String,
        /// What the contract asks, and why.
        contract: &'static str,
    },
}

/// What was kept, skipped and broken, in the order in which it was tried.
///
/// `Display` is for a person, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    outcomes: Vec<(Check, Outcome)>,
}

impl Report {
    /// All that was tried.
    pub fn outcomes(&self) -> impl Iterator<Item = (Check, &Outcome)> {
        self.outcomes
            .iter()
            .map(|(check, outcome)| (*check, outcome))
    }

    /// What became of `check`, if it was tried.
    #[must_use]
    pub fn of(&self, check: Check) -> Option<&Outcome> {
        let mut outcomes = self.outcomes();
        outcomes.find_map(|(other, outcome)| (other == check).then_some(outcome))
    }

    /// Whether `check` was tried and the contract kept.
    #[must_use]
    pub fn kept(&self, check: Check) -> bool {
        matches!(self.of(check), Some(Outcome::Kept { .. }))
    }

    pub(super) fn add(&mut self, check: Check, outcome: Outcome) {
        self.outcomes.push((check, outcome));
    }

    pub(super) fn into_result(self) -> Result<Self, NonConforming> {
        let broken = |(_, outcome): &(_, Outcome)| matches!(outcome, Outcome::Broken { .. });
        match self.outcomes.iter().any(broken) {
            true => Err(NonConforming { report: self }),
            false => Ok(self),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (check, outcome) in &self.outcomes {
            match outcome {
                Outcome::Kept { note: None } => writeln!(f, "kept     {check}")?,
                Outcome::Kept { note: Some(note) } => writeln!(f, "kept     {check}: {note}")?,
                Outcome::Skipped { why } => writeln!(f, "skipped  {check}: {why}")?,
                Outcome::Broken { found, contract } => {
                    writeln!(f, "BROKEN   {check}: {found}. {contract}")?;
                }
            }
        }
        Ok(())
    }
}

/// A provider or a store that does not keep the contract.
///
/// `Display` and `Debug` list all violations, so that `unwrap` shows them.
#[derive(Clone, PartialEq, Eq)]
pub struct NonConforming {
    report: Report,
}

impl NonConforming {
    /// All that was tried, the violations among them.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }
}

impl fmt::Display for NonConforming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the contract is not kept:")?;
        for (check, outcome) in self.report.outcomes() {
            if let Outcome::Broken { found, contract } = outcome {
                write!(f, "\n- {check}: {found}. {contract}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for NonConforming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for NonConforming {}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Check::Login => "login",
            Check::Rejection => "login after a rejection",
            Check::RejectedResponse => "answer to a dead token",
            Check::Renewal => "renewal",
            Check::Logout => "logout",
            Check::DeadLogout => "logout of a dead token",
            Check::LogoutEnds => "what a logout ends",
            Check::DroppedLogin => "login dropped half-way",
            Check::PasswordChange => "password change",
            Check::DeadPasswordChange => "password change with a dead token",
            Check::WrongPassword => "wrong password",
            Check::Unreachable => "server that is down",
            Check::Load => "load",
            Check::Store => "store",
            Check::StoreConflict => "store with another version",
            Check::ConcurrentStores => "several stores at once",
            Check::WholeRecords => "load during a store",
            Check::DroppedStore => "store dropped half-way",
        })
    }
}
