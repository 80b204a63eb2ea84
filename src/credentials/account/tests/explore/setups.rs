//! What may happen around the machine.

use super::world::{Left, P};
use crate::credentials::account::ChangeAnswer;

#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) name: &'static str,
    pub(super) actors: usize,
    /// How many requests may be under way.
    pub(super) requests: usize,
    /// The passwords to change to, in this order.
    pub(super) targets: [P; 3],
    /// Whether a claim or a change can run out of time while its owner lives.
    pub(super) timers: bool,
    /// Whether the server checks the current password of a change.
    pub(super) checks_current: bool,
    /// The answers that may come before a change is executed.
    pub(super) early: &'static [ChangeAnswer],
    /// Whether the store has no compare-and-swap: loading and storing are two
    /// steps.
    pub(super) loads_first: bool,
    /// Whether a login is executed after its claim has run out.
    pub(super) late_logins: bool,
    pub(super) starts_wrong: bool,
    /// Whether others lock the account for a while.
    pub(super) locks: bool,
    /// After how many failed logins in a row the server locks the account.
    pub(super) lock_limit: u8,
    /// Whether the server says so, or refuses every login.
    pub(super) tells_lock: bool,
    pub(super) left: Left,
    /// How many logins may fail in a row.
    pub(super) most_failures: u8,
    /// Whether at most one may fail if one of two passwords is right.
    pub(super) one_of_two: bool,
    /// How many `login()`s of an operator may be needed at most.
    pub(super) stops: u8,
}

const NONE: Left = Left {
    changes: 0,
    duplicates: 0,
    lies: 0,
    edits: 0,
    mistakes: 0,
    forced: 0,
    by_hand: 0,
    ages: 0,
    slow: 0,
    store_failures: 0,
};

const BASE: Setup = Setup {
    name: "",
    actors: 2,
    requests: 3,
    targets: [1, 2, 3],
    timers: true,
    checks_current: false,
    early: &[],
    loads_first: false,
    late_logins: false,
    starts_wrong: false,
    locks: false,
    lock_limit: u8::MAX,
    tells_lock: true,
    left: Left {
        changes: 1,
        lies: 1,
        ..NONE
    },
    most_failures: 2,
    one_of_two: true,
    stops: 0,
};

const ONE: Left = BASE.left;
const TWO: Left = Left { changes: 2, ..ONE };
const THREE: Left = Left { changes: 3, ..ONE };

pub(super) const ONE_CHANGE: Setup = Setup {
    name: "one change, with duplicates and delays",
    left: Left {
        duplicates: 1,
        slow: 2,
        ..ONE
    },
    ..BASE
};

pub(super) const TWO_CHANGES: Setup = Setup {
    name: "two changes",
    left: Left { slow: 2, ..TWO },
    ..BASE
};

pub(super) const THREE_ACTORS: Setup = Setup {
    name: "three actors, one change, with duplicates",
    actors: 3,
    requests: 4,
    left: Left {
        duplicates: 1,
        ..ONE
    },
    ..BASE
};

pub(super) const THREE_ACTORS_BY_HAND: Setup = Setup {
    name: "three actors, changed by hand at the server, edited",
    actors: 3,
    requests: 4,
    timers: false,
    left: Left {
        by_hand: 1,
        edits: 1,
        ..ONE
    },
    stops: 1,
    ..BASE
};

pub(super) const WITHOUT_SWAP: Setup = Setup {
    name: "one process, and a store without compare-and-swap",
    actors: 1,
    timers: false,
    loads_first: true,
    left: TWO,
    ..BASE
};

pub(super) const RETENTION: Setup = Setup {
    name: "the retention ends",
    left: Left { ages: 1, ..ONE },
    ..BASE
};

/// Every promise holds in these.
pub(super) const HOLD: &[Setup] = &[
    ONE_CHANGE,
    Setup {
        name: "the server checks the current password",
        checks_current: true,
        ..ONE_CHANGE
    },
    Setup {
        name: "edited, and login() is called",
        left: Left {
            edits: 1,
            forced: 1,
            ..ONE
        },
        ..BASE
    },
    Setup {
        name: "edited by mistake, and edited again",
        left: Left {
            edits: 1,
            mistakes: 1,
            ..ONE
        },
        // Without a verdict the wrong one is sent again, since nothing is open.
        // The open one is tried before the one that the change began from, so
        // its refusal may be early.
        one_of_two: false,
        stops: 2,
        ..BASE
    },
    Setup {
        name: "changed by hand at the server, edited, login() is called",
        left: Left {
            by_hand: 1,
            edits: 1,
            forced: 1,
            ..ONE
        },
        stops: 1,
        ..BASE
    },
    THREE_ACTORS_BY_HAND,
    RETENTION,
    WITHOUT_SWAP,
    Setup {
        name: "wrong from the start",
        starts_wrong: true,
        left: Left {
            edits: 1,
            forced: 1,
            slow: 2,
            ..NONE
        },
        ..BASE
    },
    THREE_ACTORS,
    TWO_CHANGES,
    Setup {
        name: "two changes, the retention ends, edited",
        timers: false,
        left: Left {
            ages: 1,
            edits: 1,
            ..TWO
        },
        ..BASE
    },
    Setup {
        name: "two changes, the server checks, with duplicates",
        checks_current: true,
        left: Left {
            duplicates: 1,
            ..TWO
        },
        ..BASE
    },
    Setup {
        name: "there and back",
        targets: [1, 0, 0],
        left: TWO,
        ..BASE
    },
    Setup {
        name: "the same change again",
        targets: [1, 1, 0],
        left: TWO,
        ..BASE
    },
    Setup {
        name: "three actors, two changes",
        actors: 3,
        requests: 4,
        left: TWO,
        ..BASE
    },
    Setup {
        name: "a lock that the server names",
        locks: true,
        ..BASE
    },
    Setup {
        name: "a lock after two failures that the server names, by hand, edited",
        lock_limit: 2,
        left: Left {
            by_hand: 1,
            edits: 1,
            slow: 1,
            ..ONE
        },
        stops: 1,
        ..BASE
    },
    Setup {
        name: "a lock after three failures that looks like a refusal",
        lock_limit: 3,
        tells_lock: false,
        left: Left {
            by_hand: 1,
            edits: 1,
            ..ONE
        },
        stops: 1,
        ..BASE
    },
    Setup {
        name: "one process cannot store a verdict",
        timers: false,
        left: Left {
            store_failures: 2,
            ..TWO
        },
        // A login without a stored claim, one for each process.
        most_failures: 3,
        one_of_two: false,
        ..BASE
    },
    Setup {
        name: "three changes, the server checks, and there again",
        timers: false,
        targets: [1, 1, 2],
        checks_current: true,
        left: THREE,
        ..BASE
    },
    Setup {
        name: "three changes to three passwords, the retention ends",
        left: Left { ages: 1, ..THREE },
        // A lost change that is sent again leaves its first request under way. If
        // the server does not check the current password, that is a duplicate of
        // an older change.
        stops: 2,
        ..BASE
    },
    Setup {
        name: "three changes to three passwords, the retention ends, the server checks",
        checks_current: true,
        left: Left { ages: 1, ..THREE },
        ..BASE
    },
    Setup {
        name: "three changes there and back, the server checks",
        targets: [1, 0, 1],
        checks_current: true,
        left: THREE,
        ..BASE
    },
    Setup {
        name: "three actors, two changes, everything that a checking server allows",
        actors: 3,
        requests: 4,
        checks_current: true,
        left: Left {
            duplicates: 1,
            edits: 1,
            slow: 1,
            ..TWO
        },
        ..BASE
    },
    Setup {
        name: "by hand, edited, login(), the retention ends",
        left: Left {
            by_hand: 1,
            edits: 1,
            forced: 1,
            ages: 1,
            ..ONE
        },
        stops: 1,
        ..BASE
    },
    Setup {
        name: "three actors, by hand, edited, the retention ends",
        actors: 3,
        requests: 4,
        timers: false,
        left: Left {
            by_hand: 1,
            edits: 1,
            ages: 1,
            ..ONE
        },
        stops: 1,
        ..BASE
    },
    Setup {
        name: "the server checks, by hand, edited, the retention ends, with duplicates",
        checks_current: true,
        left: Left {
            by_hand: 1,
            edits: 1,
            ages: 1,
            duplicates: 1,
            ..ONE
        },
        stops: 1,
        ..BASE
    },
];

/// No protocol can hold all promises in these. No password is lost, and an
/// operator's `login()` helps.
pub(super) const BEYOND: &[Setup] = &[
    Setup {
        name: "yes before execution",
        early: &[ChangeAnswer::Yes],
        timers: false,
        ..BEYOND_BASE
    },
    Setup {
        name: "no before execution",
        early: &[ChangeAnswer::No],
        ..BEYOND_BASE
    },
    Setup {
        name: "no before execution, two changes",
        early: &[ChangeAnswer::No],
        timers: false,
        left: TWO,
        ..BEYOND_BASE
    },
    Setup {
        name: "a duplicate of an older change",
        timers: false,
        left: Left {
            duplicates: 1,
            ..TWO
        },
        ..BEYOND_BASE
    },
    Setup {
        name: "a duplicate of an older change, there and back",
        timers: false,
        targets: [1, 0, 0],
        left: Left {
            duplicates: 1,
            ..TWO
        },
        ..BEYOND_BASE
    },
    Setup {
        name: "there and back, a duplicate, and the server checks",
        timers: false,
        targets: [1, 0, 0],
        checks_current: true,
        left: Left {
            duplicates: 1,
            ..TWO
        },
        ..BEYOND_BASE
    },
    Setup {
        name: "logins are executed after their timeout",
        late_logins: true,
        ..BEYOND_BASE
    },
    Setup {
        name: "a lock that looks like a refusal",
        locks: true,
        tells_lock: false,
        ..BEYOND_BASE
    },
    Setup {
        name: "a lock after two failures that looks like a refusal",
        lock_limit: 2,
        tells_lock: false,
        left: Left {
            by_hand: 1,
            edits: 1,
            ..ONE
        },
        ..BEYOND_BASE
    },
    Setup {
        name: "three processes, by hand, and no store",
        actors: 3,
        requests: 4,
        timers: false,
        left: Left {
            by_hand: 1,
            store_failures: 3,
            ..NONE
        },
        ..BEYOND_BASE
    },
];

const BEYOND_BASE: Setup = Setup {
    most_failures: u8::MAX,
    one_of_two: false,
    stops: 2,
    ..BASE
};
