//! Runs one job, or the logout of a replaced token beside it.
//!
//! | file | contents |
//! |---|---|
//! | `mod` | a job to run, and how it ended |
//! | `runner` | calls the provider and the credential store: timeout, panic |
//! | `login` | which passwords a login sends |
//! | `logout` | the logouts of tokens |
//! | `change_password` | a password change, and which password is in force after it |
//!
//! This module does not use the session. Each job yields a [`JobResult`], also after
//! a panic or a timeout of the provider.

mod change_password;
mod login;
mod logout;
mod runner;

use std::sync::Arc;

use tokio::time::Instant;

pub(super) use change_password::{ChangeFailure, lost_change};
pub(crate) use runner::Runner;

use super::job::Job;
use crate::error::Error;
use crate::provider::{Challenge, LoginContext, LogoutEnds, LogoutReason, PasswordChange, Reason};
use crate::session::rules::{LoginKind, LogoutOutcome, TokenEnd};
use crate::token::Token;
use change_password::change_password;
use login::login;
use logout::{logout, logout_all, outcome_of};

/// A job to run, with its arguments.
pub(super) enum JobSpec {
    Login {
        reason: Reason,
        kind: LoginKind,
        previous: Option<Token>,
        challenge: Option<Box<Challenge>>,
    },
    Logout {
        tokens: Vec<Token>,
        /// A replaced token whose logout is running. If that fails, it is tried again.
        retiring: Option<(Arc<Job>, Token)>,
        reason: LogoutReason,
    },
    Retire {
        token: Token,
    },
    ChangePassword {
        /// `None` after an expired password, which leaves no session.
        token: Option<Token>,
        change: PasswordChange,
    },
}

/// How a job ended.
pub(super) enum JobResult {
    Login {
        /// When the provider was called; `None` if it was not.
        sent: Option<Instant>,
        token: Result<Token, Error>,
    },
    Logout {
        /// The tokens that have ended, and how. The others may be tried again.
        ended: Vec<(u64, TokenEnd)>,
        outcome: Result<(), Error>,
    },
    Retire(LogoutOutcome),
    ChangePassword(Result<(), ChangeFailure>),
}

impl JobResult {
    /// Returns whether the logout of the login's token would end `current` too.
    pub(super) fn extends(&self, current: &Token) -> bool {
        match self {
            Self::Login {
                token: Ok(token), ..
            } => token.is_continuation() || token.repeats(current),
            Self::Login { .. }
            | Self::Logout { .. }
            | Self::Retire(_)
            | Self::ChangePassword(_) => false,
        }
    }
}

/// Runs a job.
pub(super) async fn run(runner: &Arc<Runner>, job: &Job, spec: JobSpec) -> JobResult {
    match spec {
        JobSpec::Login {
            reason,
            kind,
            previous,
            challenge,
        } => {
            let context = LoginContext::new(reason)
                .forced(kind == LoginKind::Forced)
                .challenged(challenge);
            let token = login(runner, job, context, previous).await;
            let sent = job.sent();
            JobResult::Login { sent, token }
        }
        JobSpec::Logout {
            mut tokens,
            retiring,
            reason,
        } => {
            if let Some((retire, token)) = retiring
                && retire.has_retire_failed().await
            {
                tokens.push(token);
            }
            let (ended, outcome) = logout_all(runner, job, tokens, reason).await;
            JobResult::Logout { ended, outcome }
        }
        JobSpec::Retire { token } => {
            let outcome = logout(runner, job, token, LogoutReason::Replaced).await;
            JobResult::Retire(outcome_of(&outcome))
        }
        JobSpec::ChangePassword { token, change } => {
            JobResult::ChangePassword(change_password(runner, job, token, change).await)
        }
    }
}

/// Logs out the token of a login that ended after the session was dropped, or after
/// its callers had been given its timeout as an error.
pub(super) async fn end_unused(
    runner: &Arc<Runner>,
    job: &Job,
    result: JobResult,
    reason: LogoutReason,
) {
    let may_end = match runner.logout_ends {
        LogoutEnds::Nothing => false,
        LogoutEnds::Token => true,
        // It would end the tokens that are in use.
        LogoutEnds::User => reason != LogoutReason::Replaced,
    };
    if let JobResult::Login {
        token: Ok(token), ..
    } = result
        && may_end
    {
        let _ = logout(runner, job, token, reason).await;
    }
}
