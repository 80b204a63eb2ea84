//! The states in which an exploration starts.

use std::time::Duration;

use super::world::{Act, Landing, Path, Response, Setup, Until};
use crate::error::ErrorKind;
use crate::provider::LogoutEnds;
use crate::session::rules::Lifetimes;
use crate::session::rules::LogoutOutcome;
use crate::session::rules::RulesSettings;

/// In milliseconds.
const fn lives(absolute: Option<u64>, idle: Option<u64>) -> Lifetimes {
    const fn length(length: Option<u64>) -> Option<Duration> {
        match length {
            Some(length) => Some(Duration::from_millis(length)),
            None => None,
        }
    }
    Lifetimes {
        absolute: length(absolute),
        idle: length(idle),
        refresh_in: None,
        refresh_before: None,
        has_data: false,
    }
}

const FOR_EVER: Lifetimes = lives(None, None);

/// A server whose logouts end all tokens of the user.
const BY_USER: Setup = Setup {
    name: "a logout ends all of the user",
    settings: RulesSettings {
        has_source: true,
        tries_candidates: true,
        keep_alive: false,
        logout_ends: LogoutEnds::User,
        rolls: false,
        single_session: false,
    },
    lives: &[FOR_EVER, lives(Some(100_000), None)],
    initial: None,
    before: &[],
};

/// A server that logs out each token by itself.
const BY_TOKEN: Setup = Setup {
    name: "a logout ends one token",
    settings: RulesSettings {
        logout_ends: LogoutEnds::Token,
        ..BY_USER.settings
    },
    initial: Some(FOR_EVER),
    ..BY_USER
};

pub(super) const NEW: Act = Act::Land(Landing::NewToken {
    lives: 0,
    continues: false,
});
const REFUSED: Act = Act::Land(Landing::Failed(ErrorKind::Refused, None));
const UNAVAILABLE: Act = Act::Land(Landing::Failed(ErrorKind::Unavailable, None));
pub(super) const REJECTED: Act = Act::Answer(0, Response::Rejected);
const ACCEPTED: Act = Act::Answer(0, Response::Accepted);

pub(super) static USERS: Setup = BY_USER;
pub(super) static TOKENS: Setup = BY_TOKEN;
/// A token that was refreshed ahead of time, and is not proven yet.
pub(super) static AHEAD: Setup = Setup {
    name: "a new token is not proven yet",
    lives: AHEAD_LIVES,
    initial: Some(AHEAD_LIVES[0]),
    before: AHEAD_BEFORE,
    ..BY_TOKEN
};
const AHEAD_LIVES: &[Lifetimes] = &[
    lives(Some(100_000), None),
    WITH_REFRESH_TOKEN,
    lives(Some(5_000), None),
];
const AHEAD_BEFORE: &[Act] = &[
    Act::Request(Path::A),
    ACCEPTED,
    // A second and ten seconds after its acceptance, and the refresh ahead.
    Act::Pass(Until::Next),
    Act::Pass(Until::Next),
    Act::Pass(Until::Next),
    NEW,
];
pub(super) static AHEAD_FOR_USERS: Setup = Setup {
    name: "a new token is not proven yet, and a logout ends all of the user",
    settings: RulesSettings {
        logout_ends: LogoutEnds::User,
        ..BY_USER.settings
    },
    lives: AHEAD_LIVES,
    initial: Some(AHEAD_LIVES[0]),
    before: AHEAD_BEFORE,
};
/// Tokens that expire and have data, such as a refresh token.
pub(super) static WITH_DATA: Setup = Setup {
    name: "tokens have data that outlives them",
    lives: &[WITH_REFRESH_TOKEN],
    initial: Some(WITH_REFRESH_TOKEN),
    ..BY_TOKEN
};
pub(super) static USERS_WITH_DATA: Setup = Setup {
    name: "tokens have data, and a logout ends all of the user",
    lives: &[WITH_REFRESH_TOKEN],
    initial: Some(WITH_REFRESH_TOKEN),
    ..BY_USER
};
const WITH_REFRESH_TOKEN: Lifetimes = Lifetimes {
    has_data: true,
    ..lives(Some(100_000), None)
};
pub(super) static STATELESS: Setup = Setup {
    name: "a logout ends nothing",
    settings: RulesSettings {
        logout_ends: LogoutEnds::Nothing,
        ..BY_USER.settings
    },
    initial: Some(FOR_EVER),
    ..BY_USER
};
pub(super) static KEPT_ALIVE: Setup = Setup {
    name: "the session is kept alive",
    settings: RulesSettings {
        has_source: false,
        tries_candidates: true,
        keep_alive: true,
        logout_ends: LogoutEnds::Token,
        rolls: false,
        single_session: false,
    },
    lives: &[
        lives(Some(100_000), None),
        lives(None, Some(100_000)),
        lives(Some(500), None),
    ],
    initial: None,
    before: &[],
};
pub(super) static IDLE: Setup = Setup {
    name: "tokens idle out, or are over when they arrive",
    settings: RulesSettings {
        has_source: false,
        tries_candidates: true,
        ..BY_TOKEN.settings
    },
    lives: &[lives(None, Some(100_000)), lives(Some(0), None)],
    initial: Some(lives(Some(200_000), Some(100_000))),
    before: &[],
};
pub(super) static ROLLING: Setup = Setup {
    name: "responses roll the token",
    settings: RulesSettings {
        rolls: true,
        single_session: false,
        ..BY_TOKEN.settings
    },
    lives: &[lives(Some(100_000), None)],
    initial: Some(lives(Some(100_000), None)),
    before: &[],
};
pub(super) static REFUSING: Setup = Setup {
    name: "the credentials were refused, and ten seconds are over",
    before: &[
        Act::Request(Path::A),
        REFUSED,
        Act::Request(Path::A),
        Act::Pass(Until::Next),
    ],
    ..BY_USER
};
pub(super) static BACKING_OFF: Setup = Setup {
    name: "a renewal ahead has failed",
    lives: &[lives(Some(100_000), None)],
    initial: None,
    before: &[
        Act::Request(Path::A),
        NEW,
        ACCEPTED,
        // A second after its login, ten seconds after its acceptance, and the renewal
        // ahead.
        Act::Pass(Until::Next),
        Act::Pass(Until::Next),
        Act::Pass(Until::Next),
        UNAVAILABLE,
    ],
    ..BY_TOKEN
};
pub(super) static REPLACED: Setup = Setup {
    name: "a replaced token is in use",
    before: &[
        Act::Token,
        Act::Renew,
        NEW,
        Act::Request(Path::A),
        Act::Answer(1, Response::Accepted),
    ],
    ..BY_TOKEN
};
pub(super) static POSTPONED: Setup = Setup {
    name: "a replaced token could not be logged out",
    before: &[
        Act::Renew,
        NEW,
        Act::Request(Path::A),
        ACCEPTED,
        Act::Land(Landing::BackgroundLogout(LogoutOutcome::Postponed(None))),
    ],
    ..BY_TOKEN
};
pub(super) static UNSURE: Setup = Setup {
    name: "nobody knows yet whether a renewal helped",
    before: &[Act::Request(Path::A), REJECTED, NEW],
    ..BY_TOKEN
};
pub(super) static LEFT: Setup = Setup {
    name: "a logout has left a token",
    before: &[Act::Token, Act::Logout, Act::Land(Landing::Left)],
    ..BY_TOKEN
};
/// Each of which has helped.
const FIVE_RENEWALS: [Act; 22] = [
    Act::Request(Path::A),
    ACCEPTED,
    Act::Request(Path::A),
    REJECTED,
    NEW,
    ACCEPTED,
    Act::Request(Path::A),
    REJECTED,
    NEW,
    ACCEPTED,
    Act::Request(Path::A),
    REJECTED,
    NEW,
    ACCEPTED,
    Act::Request(Path::A),
    REJECTED,
    NEW,
    ACCEPTED,
    Act::Request(Path::A),
    REJECTED,
    NEW,
    ACCEPTED,
];

pub(super) static WORN: Setup = Setup {
    name: "a refresh has not helped",
    initial: Some(FOR_EVER),
    before: &[Act::Request(Path::A), REJECTED, NEW, REJECTED],
    ..BY_USER
};
pub(super) static EXHAUSTED: Setup = Setup {
    name: "the bucket is empty",
    initial: Some(FOR_EVER),
    before: &FIVE_RENEWALS,
    ..BY_USER
};
pub(super) static TWO_REPLACED: Setup = Setup {
    name: "two replaced tokens are to be logged out",
    before: &[
        Act::Token,
        Act::Renew,
        NEW,
        Act::Renew,
        NEW,
        Act::Leave(0),
        Act::Request(Path::A),
        ACCEPTED,
    ],
    ..BY_TOKEN
};
