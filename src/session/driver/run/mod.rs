//! Runs one job, or one background logout: the logout of a replaced token, beside the
//! jobs.
//!
//! | file | contents |
//! |---|---|
//! | `mod` | what a task is to do, and how it ended |
//! | `runner` | calls the provider and the credential store: timeout, panic |
//! | `login` | which passwords a login sends |
//! | `logout` | the logouts of tokens |
//! | `change_password` | a password change, and which password is in force after it |
//!
//! This module does not use the session. Each task yields a [`TaskResult`], also after
//! a panic or a timeout of the provider.

mod change_password;
mod login;
mod logout;
mod runner;

use std::sync::Arc;

use tokio::time::Instant;

pub(super) use change_password::{ChangeFailure, unfinished_change};
pub(crate) use runner::Runner;

use super::task::Task;
use crate::error::Error;
use crate::provider::{Challenge, LoginContext, LogoutEnds, LogoutReason, PasswordChange, Reason};
use crate::session::rules::{LoginKind, LogoutOutcome, TokenEnd};
use crate::token::Token;
use change_password::change_password;
use login::login;
use logout::{logout, logout_all, outcome_of};

/// A job or a background logout to run, with its arguments.
pub(super) enum TaskSpec {
    Login {
        reason: Reason,
        kind: LoginKind,
        previous: Option<Token>,
        challenge: Option<Box<Challenge>>,
    },
    Logout {
        tokens: Vec<Token>,
        /// The running background logout, and its token. If it fails, it is tried again.
        logging_out: Option<(Arc<Task>, Token)>,
        reason: LogoutReason,
    },
    BackgroundLogout {
        token: Token,
    },
    ChangePassword {
        /// `None` after an expired password, which leaves no session.
        token: Option<Token>,
        change: PasswordChange,
    },
}

/// How a task ended.
pub(super) enum TaskResult {
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
    BackgroundLogout(LogoutOutcome),
    ChangePassword(Result<(), ChangeFailure>),
}

impl TaskResult {
    /// Returns whether the logout of the login's token would end `current` too.
    pub(super) fn extends(&self, current: &Token) -> bool {
        match self {
            Self::Login {
                token: Ok(token), ..
            } => token.is_continuation() || token.repeats(current),
            Self::Login { .. }
            | Self::Logout { .. }
            | Self::BackgroundLogout(_)
            | Self::ChangePassword(_) => false,
        }
    }
}

/// Runs a task.
pub(super) async fn run(runner: &Arc<Runner>, task: &Task, spec: TaskSpec) -> TaskResult {
    match spec {
        TaskSpec::Login {
            reason,
            kind,
            previous,
            challenge,
        } => {
            let context = LoginContext::new(reason)
                .forced(kind == LoginKind::Forced)
                .challenged(challenge);
            let token = login(runner, task, context, previous).await;
            let sent = task.sent();
            TaskResult::Login { sent, token }
        }
        TaskSpec::Logout {
            mut tokens,
            logging_out,
            reason,
        } => {
            if let Some((logout, token)) = logging_out
                && logout.has_logout_failed().await
            {
                tokens.push(token);
            }
            let (ended, outcome) = logout_all(runner, task, tokens, reason).await;
            TaskResult::Logout { ended, outcome }
        }
        TaskSpec::BackgroundLogout { token } => {
            let outcome = logout(runner, task, token, LogoutReason::Replaced).await;
            TaskResult::BackgroundLogout(outcome_of(&outcome))
        }
        TaskSpec::ChangePassword { token, change } => {
            TaskResult::ChangePassword(change_password(runner, task, token, change).await)
        }
    }
}

/// Logs out the token of a login that ended after the session was dropped, or after
/// its callers had been given its timeout as an error.
pub(super) async fn end_unused(
    runner: &Arc<Runner>,
    task: &Task,
    result: TaskResult,
    reason: LogoutReason,
) {
    let may_end = match runner.logout_ends {
        LogoutEnds::Nothing => false,
        LogoutEnds::Token => true,
        // It would end the tokens that are in use.
        LogoutEnds::User => reason != LogoutReason::Replaced,
    };
    if let TaskResult::Login {
        token: Ok(token), ..
    } = result
        && may_end
    {
        let _ = logout(runner, task, token, reason).await;
    }
}
