//! A programme: a world, what happens in it, and how it ends.

use std::fmt;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::strategy::Union;
use tower_reauth::LogoutEnds;

/// How long a login, a logout and a password change may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(3);

/// What chance decides, to be read as a scenario.
#[derive(Clone, Debug)]
pub(crate) struct Programme {
    pub(crate) world: World,
    pub(crate) steps: Vec<Step>,
    pub(crate) ending: Ending,
}

/// What is so from the beginning.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) source: SourceKind,
    /// How long a password is kept that was replaced.
    pub(crate) retention: Duration,
    pub(crate) logout_ends: LogoutEnds,
    pub(crate) issues: Issues,
    pub(crate) rejects_by: RejectsBy,
    pub(crate) rolls: bool,
    pub(crate) keep_alive: bool,
    pub(crate) lifetime: Option<Duration>,
    pub(crate) idle: Option<Duration>,
    pub(crate) login_takes: Duration,
    /// Whether the profile says that a login ends the earlier sessions.
    pub(crate) single_session: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SourceKind {
    Writable,
    ReadOnly,
    Memory,
    None,
}

/// What a login yields while the token before it is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Issues {
    /// A token of its own.
    Fresh,
    /// One that continues the session of the one before.
    Continuing,
    /// The same one again.
    Same,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RejectsBy {
    /// Before it does anything.
    Status401,
    /// After it may have done everything.
    Text500,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Request(Order),
    Advance(Duration),
    RevokeAll,
    RevokeNewest,
    Forbid(Path),
    Allow(Path),
    /// All paths.
    ForbidAll,
    AllowAll,
    NextLogin(LoginAnswer),
    NextLogout(LogoutAnswer),
    /// Somebody else changes the password on the server.
    ServerHasOtherPassword,
    /// The source yields what the server takes.
    SourceLearnsPassword,
    /// The source yields another wrong password.
    SourceErrs,
    NextFetchFails,
    NextStore(StoreAnswer),
    /// Until all heals, or it is up.
    StoreIsDown(bool),
    Renew(Patience),
    Login(Patience),
    Logout(Patience),
    Change {
        answer: ChangeAnswer,
        even_if_it_cannot_be_stored: bool,
        patience: Patience,
    },
    Token {
        held: Duration,
        then: Then,
        patience: Patience,
    },
    Close {
        deadline: Duration,
        patience: Patience,
    },
}

/// After how long a caller is dropped, if it is.
pub(crate) type Patience = Option<Duration>;

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) post: bool,
    pub(crate) path: Path,
    pub(crate) body: BodyKind,
    pub(crate) replay: Strategies,
    /// Whether the server reads the body before it answers.
    pub(crate) is_read: bool,
    pub(crate) takes: Duration,
    /// Whether the connection breaks instead of an answer.
    pub(crate) breaks: bool,
    /// When the body of the answer comes, after its head.
    pub(crate) trickles: Duration,
    /// Whether a rejection is too long for memory.
    pub(crate) long_rejection: bool,
    pub(crate) response: ResponseUse,
    pub(crate) patience: Patience,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Path {
    Allowed(u8),
    /// On another server.
    Foreign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyKind {
    Empty,
    Bytes,
    Stream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategies {
    Auto,
    IfEmpty,
    Never,
    Buffer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseUse {
    ReadAtOnce,
    ReadAfter(Duration),
    DroppedAfter(Duration),
}

/// What is done with a token that was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Drop,
    Reject,
    Accept,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoginAnswer {
    Slow(Duration),
    Refused,
    Locked,
    NotSent,
    Unavailable(Option<Duration>),
    Protocol,
    Uncertain { issued: bool },
    Hangs { issued: bool },
    Panics,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogoutAnswer {
    Slow(Duration),
    Unavailable,
    FailsForGood,
    Hangs { done: bool },
    Panics,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeAnswer {
    Slow(Duration),
    Refused,
    Unavailable,
    NotSent,
    Uncertain { done: bool },
    Hangs { done: bool },
    Panics { done: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreAnswer {
    /// Another process was faster.
    Conflicts,
    Fails {
        stored: bool,
    },
    Hangs {
        stored: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All heals, a request succeeds, and the session is closed.
    Close,
    /// All heals, a request succeeds, and the session is logged out.
    Logout,
    /// Everybody lets go at once.
    Drop,
}

/// What a set of programmes is mostly about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Focus {
    Requests,
    Logins,
    Passwords,
    Ends,
}

impl Order {
    /// Whether a rejection can be told from what else goes wrong: a body is
    /// waited for no longer than two seconds.
    pub(crate) fn tells_of_a_rejection(&self, by: RejectsBy) -> bool {
        by == RejectsBy::Status401 || self.trickles < Duration::from_secs(2)
    }

    /// Whether the body can be sent twice.
    pub(crate) fn is_replayable(&self) -> bool {
        match (self.replay, self.body) {
            (Strategies::Never, _)
            | (Strategies::Auto, BodyKind::Stream)
            | (Strategies::IfEmpty, BodyKind::Bytes | BodyKind::Stream) => false,
            (Strategies::Auto, BodyKind::Empty | BodyKind::Bytes)
            | (Strategies::IfEmpty, BodyKind::Empty)
            | (Strategies::Buffer, _) => true,
        }
    }
}

impl fmt::Display for Programme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "given {:#?}", self.world)?;
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:3}. {step:?}", number + 1)?;
        }
        write!(f, "     ending: {:?}", self.ending)
    }
}

fn millis(from: u64, to: u64) -> impl Strategy<Value = Duration> + Clone {
    (from..=to).prop_map(Duration::from_millis)
}

fn short() -> impl Strategy<Value = Duration> {
    prop_oneof![3 => Just(Duration::ZERO), 4 => millis(1, 50), 2 => millis(50, 1500)]
}

fn slow() -> impl Strategy<Value = Duration> {
    prop_oneof![3 => millis(1, 100), 3 => millis(100, 2900), 1 => millis(2990, 3010)]
}

fn patience() -> impl Strategy<Value = Patience> {
    option::weighted(0.25, short())
}

fn path() -> impl Strategy<Value = Path> {
    prop_oneof![6 => Just(0), 3 => Just(1), 2 => 2..=6u8].prop_map(Path::Allowed)
}

fn order() -> impl Strategy<Value = Order> {
    let kind = (
        any::<bool>(),
        prop_oneof![20 => path(), 1 => Just(Path::Foreign)],
        prop_oneof![
            Just(BodyKind::Empty),
            Just(BodyKind::Bytes),
            Just(BodyKind::Stream)
        ],
        prop_oneof![
            4 => Just(Strategies::Auto),
            1 => Just(Strategies::IfEmpty),
            1 => Just(Strategies::Never),
            2 => Just(Strategies::Buffer)
        ],
    );
    let server = (
        proptest::bool::weighted(0.8),
        short(),
        proptest::bool::weighted(0.05),
        prop_oneof![
            8 => Just(Duration::ZERO),
            2 => millis(1, 1990),
            1 => millis(2010, 3000)
        ],
        proptest::bool::weighted(0.1),
    );
    let response = prop_oneof![
        4 => Just(ResponseUse::ReadAtOnce),
        2 => millis(1, 5000).prop_map(ResponseUse::ReadAfter),
        1 => millis(0, 5000).prop_map(ResponseUse::DroppedAfter)
    ];
    (kind, server, response, patience()).prop_map(
        |(
            (post, path, body, replay),
            (is_read, takes, breaks, trickles, long_rejection),
            response,
            patience,
        )| {
            Order {
                post,
                path,
                body,
                replay,
                is_read,
                takes,
                breaks,
                trickles,
                long_rejection,
                response,
                patience,
            }
        },
    )
}

fn login_answer() -> impl Strategy<Value = LoginAnswer> {
    prop_oneof![
        4 => slow().prop_map(LoginAnswer::Slow),
        3 => Just(LoginAnswer::Refused),
        1 => Just(LoginAnswer::Locked),
        1 => Just(LoginAnswer::NotSent),
        3 => option::weighted(0.3, millis(100, 20_000)).prop_map(LoginAnswer::Unavailable),
        1 => Just(LoginAnswer::Protocol),
        1 => any::<bool>().prop_map(|issued| LoginAnswer::Uncertain { issued }),
        2 => any::<bool>().prop_map(|issued| LoginAnswer::Hangs { issued }),
        1 => Just(LoginAnswer::Panics),
    ]
}

fn logout_answer() -> impl Strategy<Value = LogoutAnswer> {
    prop_oneof![
        4 => slow().prop_map(LogoutAnswer::Slow),
        3 => Just(LogoutAnswer::Unavailable),
        1 => Just(LogoutAnswer::FailsForGood),
        2 => any::<bool>().prop_map(|done| LogoutAnswer::Hangs { done }),
        1 => Just(LogoutAnswer::Panics),
    ]
}

fn change_answer() -> impl Strategy<Value = ChangeAnswer> {
    prop_oneof![
        4 => slow().prop_map(ChangeAnswer::Slow),
        1 => Just(ChangeAnswer::Refused),
        1 => Just(ChangeAnswer::Unavailable),
        1 => Just(ChangeAnswer::NotSent),
        3 => any::<bool>().prop_map(|done| ChangeAnswer::Uncertain { done }),
        1 => any::<bool>().prop_map(|done| ChangeAnswer::Hangs { done }),
        1 => any::<bool>().prop_map(|done| ChangeAnswer::Panics { done }),
    ]
}

fn store_answer() -> impl Strategy<Value = StoreAnswer> {
    prop_oneof![
        2 => Just(StoreAnswer::Conflicts),
        3 => any::<bool>().prop_map(|stored| StoreAnswer::Fails { stored }),
        1 => any::<bool>().prop_map(|stored| StoreAnswer::Hangs { stored }),
    ]
}

fn step(focus: Focus) -> impl Strategy<Value = Step> {
    let advance = prop_oneof![
        4 => millis(1, 100),
        4 => millis(100, 3000),
        2 => millis(3000, 20_000),
        1 => millis(20_000, 400_000)
    ];
    let change = (change_answer(), any::<bool>(), patience()).prop_map(
        |(answer, even_if_it_cannot_be_stored, patience)| Step::Change {
            answer,
            even_if_it_cannot_be_stored,
            patience,
        },
    );
    let then = prop_oneof![Just(Then::Drop), Just(Then::Reject), Just(Then::Accept)];
    let token = prop_oneof![Just(Duration::ZERO), millis(1, 20_000)];
    let token = (token, then, patience()).prop_map(|(held, then, patience)| Step::Token {
        held,
        then,
        patience,
    });
    let close = prop_oneof![Just(Duration::ZERO), millis(1, 10_000)];
    let close =
        (close, patience()).prop_map(|(deadline, patience)| Step::Close { deadline, patience });
    // How often in programmes about: requests, logins, passwords, ends.
    let weighted = [
        ([40, 25, 15, 20], order().prop_map(Step::Request).boxed()),
        ([25, 25, 25, 25], advance.prop_map(Step::Advance).boxed()),
        ([8, 5, 5, 5], Just(Step::RevokeAll).boxed()),
        ([4, 3, 2, 3], Just(Step::RevokeNewest).boxed()),
        ([5, 2, 1, 2], path().prop_map(Step::Forbid).boxed()),
        ([5, 2, 1, 2], path().prop_map(Step::Allow).boxed()),
        ([3, 0, 0, 0], Just(Step::ForbidAll).boxed()),
        ([2, 0, 0, 0], Just(Step::AllowAll).boxed()),
        (
            [5, 15, 12, 6],
            login_answer().prop_map(Step::NextLogin).boxed(),
        ),
        (
            [3, 2, 2, 10],
            logout_answer().prop_map(Step::NextLogout).boxed(),
        ),
        ([0, 2, 5, 0], Just(Step::ServerHasOtherPassword).boxed()),
        ([0, 2, 5, 0], Just(Step::SourceLearnsPassword).boxed()),
        ([0, 1, 2, 0], Just(Step::SourceErrs).boxed()),
        ([0, 3, 2, 0], Just(Step::NextFetchFails).boxed()),
        (
            [0, 4, 8, 1],
            store_answer().prop_map(Step::NextStore).boxed(),
        ),
        (
            [0, 1, 2, 0],
            any::<bool>().prop_map(Step::StoreIsDown).boxed(),
        ),
        ([3, 5, 5, 5], patience().prop_map(Step::Renew).boxed()),
        ([1, 4, 6, 6], patience().prop_map(Step::Login).boxed()),
        ([1, 1, 1, 8], patience().prop_map(Step::Logout).boxed()),
        ([1, 1, 15, 3], change.boxed()),
        ([4, 4, 4, 6], token.boxed()),
        ([0, 0, 1, 4], close.boxed()),
    ];
    let weighted = weighted.into_iter().map(|(weights, step)| {
        let weight: u32 = weights[focus as usize];
        (weight, step)
    });
    Union::new_weighted(weighted.filter(|(weight, _)| *weight > 0).collect())
}

fn world(focus: Focus) -> impl Strategy<Value = World> {
    let lifetime = || {
        prop_oneof![
            3 => Just(None),
            2 => millis(1000, 10_000).prop_map(Some),
            1 => millis(10_000, 100_000).prop_map(Some)
        ]
    };
    let source = match focus {
        Focus::Passwords => prop_oneof![
            5 => Just(SourceKind::Writable),
            2 => Just(SourceKind::ReadOnly),
            1 => Just(SourceKind::Memory),
            1 => Just(SourceKind::None)
        ],
        Focus::Requests | Focus::Logins | Focus::Ends => prop_oneof![
            4 => Just(SourceKind::Writable),
            2 => Just(SourceKind::ReadOnly),
            1 => Just(SourceKind::Memory),
            2 => Just(SourceKind::None)
        ],
    };
    let server = (
        prop_oneof![
            4 => Just(LogoutEnds::Token),
            1 => Just(LogoutEnds::User),
            1 => Just(LogoutEnds::Nothing)
        ],
        prop_oneof![
            4 => Just(Issues::Fresh),
            1 => Just(Issues::Continuing),
            1 => Just(Issues::Same)
        ],
        prop_oneof![3 => Just(RejectsBy::Status401), 1 => Just(RejectsBy::Text500)],
        proptest::bool::weighted(0.2),
    );
    // Longer than a change is executed at most.
    let retention = prop_oneof![
        Just(Duration::from_secs(24 * 3600)),
        Just(Duration::from_secs(60)),
        Just(DEADLINE * 2)
    ];
    let keep_alive = proptest::bool::weighted(0.2);
    let login_takes = prop_oneof![Just(Duration::ZERO), millis(1, 200)];
    (
        (source, retention),
        server,
        keep_alive,
        lifetime(),
        lifetime(),
        (login_takes, proptest::bool::weighted(0.3)),
    )
        .prop_map(
            |(
                (source, retention),
                (logout_ends, issues, rejects_by, rolls),
                keep_alive,
                lifetime,
                idle,
                (login_takes, single_session),
            )| {
                World {
                    source,
                    retention,
                    logout_ends,
                    issues,
                    rejects_by,
                    rolls,
                    keep_alive,
                    lifetime,
                    idle,
                    login_takes,
                    single_session,
                }
            },
        )
}

/// All programmes that are mostly about `focus`.
pub(crate) fn programmes(focus: Focus) -> impl Strategy<Value = Programme> {
    let ending = prop_oneof![
        4 => Just(Ending::Close),
        2 => Just(Ending::Logout),
        2 => Just(Ending::Drop)
    ];
    (world(focus), vec(step(focus), 1..=25), ending).prop_map(|(world, steps, ending)| Programme {
        world,
        steps,
        ending,
    })
}
