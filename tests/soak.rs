//! Chaos over real sockets: two hundred callers share a few sessions with a
//! server where one call in five goes wrong, tokens last a second, passwords
//! change, and that is restarted all the time. The server keeps an honest
//! account, which must be even at the end.
//!
//! The environment variable `SOAK` says for how many seconds, and `SEED` what
//! chance is to do; sockets do the rest, so that no two runs are the same.

mod soak {
    pub(super) mod account;
    pub(super) mod callers;
    pub(super) mod chance;
    pub(super) mod faults;
    pub(super) mod provider;
    pub(super) mod server;
    pub(super) mod watchdog;
}

use std::env;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};
use tower_reauth::{ErrorKind, Reason, Session, TokenEnd};

use soak::account::{Account, Outcome, SECOND, USERS};
use soak::callers::User;
use soak::chance::Chance;
use soak::provider::{Http, Provider};
use soak::server::{Phase, Server};
use soak::watchdog::{Post, Watchdog, count_panics, open_files, panics};

const CALLERS: u64 = 200;

/// How many seconds the storm lasts without being told.
const STORM: u64 = 25;

/// How much longer it lasts at most where too little has happened.
const LONGER: Duration = Duration::from_secs(60);

/// How long a login, a logout or a password change may take.
const LOGIN_DEADLINE: Duration = Duration::from_millis(400);

/// How long the end of what nobody uses any more may take to come through.
const LINGERS: Duration = Duration::from_secs(20);

/// Why most logins of each user are to be made.
const REASONS: [Reason; USERS.len()] = [
    Reason::Expired,
    Reason::Rejected,
    Reason::Expiring,
    Reason::Rejected,
];

/// Listens at a port where no connection of a client comes from: one that did
/// would keep the server from coming back.
async fn listen(chance: &mut Chance) -> TcpListener {
    loop {
        let port = 12_000 + chance.below(18_000) as u16;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if let Ok(listener) = TcpListener::bind(address).await {
            return listener;
        }
    }
}

/// The tokens that do not end by themselves end each second.
async fn expire(server: Server, phase: watch::Receiver<Phase>) {
    let mut seconds = interval(SECOND);
    while *phase.borrow() == Phase::Storm {
        seconds.tick().await;
        server.account().expire_the_latest();
    }
}

/// Nothing goes wrong any more: whatever was, each session comes back, and
/// leaves nothing behind.
async fn comes_to_its_end(user: &User, server: &Server, post: &Post, chance: &mut Chance) {
    let violated = |rule: String| server.account().violated(rule);
    let name = USERS[user.number].name;
    {
        let _doing = post.does("logs in at last");
        // A connection that the last restart cut may still be in the pool.
        // Each try sends one password more, and there are four: a right one may have been
        // refused in the storm.
        let mut refused = 0;
        while let Err(error) = user.logs_in().await {
            refused += usize::from(error.kind() == ErrorKind::Refused);
            if refused > 4 {
                return violated(format!("{name}: no password is right any more: {error:?}"));
            }
        }
    }
    {
        let _doing = post.does("changes the password at last");
        while let Err(error) = user.changes().await {
            if error.kind() == ErrorKind::Refused {
                return violated(format!("{name}: it cannot be changed any more: {error:?}"));
            }
        }
    }
    {
        let _doing = post.does("orders its last job");
        while user.orders(chance).await != Outcome::Acknowledged {}
    }
    {
        let _doing = post.does("closes");
        loop {
            server.account().logs_out(user.number);
            match user.session.close(Duration::from_secs(2)).await {
                Ok(()) => break,
                Err(error) if error.in_use() > 0 => {
                    violated(format!("{name}: {error}"));
                    break;
                }
                Err(_) => {}
            }
        }
    }
    let mut account = server.account();
    account.is_closed(user.number);
    let delivered = account.delivered(user.number);
    let given_up = account.given_up(user.number);
    drop(account);
    let stats = user.session.stats();
    let ends = [
        TokenEnd::LoggedOut,
        TokenEnd::Rejected,
        TokenEnd::Expired,
        TokenEnd::Abandoned,
    ];
    let ended: u64 = ends.iter().map(|end| stats.ended(*end)).sum();
    let abandoned = stats.ended(TokenEnd::Abandoned);
    if stats.all_logins().succeeded != delivered || ended != delivered || abandoned > given_up {
        violated(format!(
            "{name}: {delivered} tokens, {given_up} given up: {stats:?}"
        ));
    }
}

/// What must still happen for the test to mean anything.
fn is_still_to_come(users: &[User], server: &Server) -> Vec<String> {
    let mut missing = server.account().is_still_to_come();
    for (user, reason) in users.iter().zip(REASONS) {
        if user.session.stats().logins(reason).succeeded < 2 {
            missing.push(format!("{reason:?} of {}", USERS[user.number].name));
        }
    }
    missing
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_account_is_even_after_chaos_over_sockets() {
    let seed = RandomState::new().hash_one("soak") >> 32;
    let seed = env::var("SEED").map_or(seed, |seed| seed.parse().unwrap());
    let storm = env::var("SOAK").map_or(STORM, |seconds| seconds.parse().unwrap());
    println!("SEED={seed} SOAK={storm}");
    count_panics();
    let chance = |number| Chance::new(seed, number);
    let (tasks_before, files_before) = (tasks(), open_files());

    let server = Server::new(Account::new(chance(0)));
    let listener = listen(&mut chance(1)).await;
    let address = listener.local_addr().unwrap();
    let base = format!("http://{address}");
    let (phase, phases) = watch::channel(Phase::Storm);
    let running = server
        .clone()
        .run(address, listener, phases.clone(), chance(2));
    let running = tokio::spawn(running);
    let said = server.clone();
    let watchdog = Watchdog::new(move || {
        let account = said.account();
        format!("{:#?}\n{account}", account.violations())
    });

    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let http: Http = Client::builder(TokioExecutor::new()).build(connector);
    let users = [0, 1, 2, 3].map(|number| {
        let provider = Provider::new(http.clone(), &base, number, server.clone());
        // The server executes no change after it was given up.
        let session = Session::builder(provider)
            .login_timeout(LOGIN_DEADLINE)
            .password_retention(Duration::ZERO);
        User::new(number, session.build(), &http, &base, &server)
    });

    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let user = &users[number as usize % users.len()];
        let name = USERS[user.number].name;
        let post = watchdog.post(format!("caller {number} of {name}"));
        callers.spawn(
            user.clone()
                .calls(post, phases.clone(), chance(100 + number)),
        );
    }
    for (user, number) in users.iter().zip(10..) {
        let post = watchdog.post(format!("operator of {}", USERS[user.number].name));
        callers.spawn(user.clone().operates(post, phases.clone(), chance(number)));
    }
    callers.spawn(expire(server.clone(), phases.clone()));

    let over = Instant::now() + Duration::from_secs(storm);
    let mut missing = Vec::new();
    while server.account().violations().is_empty() && panics() == 0 {
        let now = Instant::now();
        if now >= over {
            let before = missing.len();
            missing = is_still_to_come(&users, &server);
            if missing.len() != before && !missing.is_empty() {
                println!("still to come: {missing:?}");
            }
            if missing.is_empty() || now >= over + LONGER {
                break;
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    phase.send(Phase::Calm).unwrap();
    server.account().faults.calm();
    let _ = callers.join_all().await;
    is_even(&server.account());

    for (user, number) in users.iter().zip(20..) {
        let post = watchdog.post(format!("the end of {}", USERS[user.number].name));
        comes_to_its_end(user, &server, &post, &mut chance(number)).await;
    }
    let replays: u64 = users.iter().map(|user| user.session.stats().replays).sum();
    drop((users, http));
    phase.send(Phase::Over).unwrap();
    running.await.unwrap().unwrap();

    // Whatever is left ends by itself.
    let over = Instant::now() + LINGERS;
    while (tasks(), open_files()) != (tasks_before, files_before) && Instant::now() < over {
        sleep(Duration::from_millis(10)).await;
    }
    let mut account = server.account();
    account.check_jobs();
    account.check_guests();
    println!("{account}; {replays} replays");
    is_even(&account);
    assert!(account.sent_again() <= replays);
    assert_eq!(tasks(), tasks_before, "tasks are left");
    assert_eq!(open_files(), files_before, "files or sockets are left open");
    assert!(missing.is_empty(), "too little has happened: {missing:?}");
}

/// Nothing has happened that must not.
fn is_even(account: &Account) {
    let violations = account.violations();
    let first: Vec<_> = violations.iter().take(20).collect();
    let number = violations.len();
    assert!(
        first.is_empty(),
        "{number} violations: {first:#?}\n{account}"
    );
    assert_eq!(panics(), 0, "{account}");
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}
