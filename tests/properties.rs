//! What must always hold, over programmes that chance makes: callers come and
//! go, the server revokes, refuses, hangs and panics, and time passes. The
//! server keeps an honest account. On virtual time.
//!
//! The environment variable `PROGRAMMES` says how many, and `SEED` which: the
//! same ones each time without it. One that fails is made as short as can be and
//! printed; its seed is kept in `properties/regressions` and tried first from
//! then on.

mod properties {
    mod book;
    mod found;
    pub(super) mod play;
    pub(super) mod programme;
    mod server;
}

use std::cell::RefCell;

use proptest::test_runner::{
    Config, FileFailurePersistence, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner,
};

use properties::play::play;
use properties::programme::{Focus, programmes};

/// How many programmes there are without being told.
const PROGRAMMES: u32 = 4000;

/// Plays a quarter of all programmes.
fn hold(focus: Focus, regressions: &'static str) {
    let number = std::env::var("PROGRAMMES").map_or(PROGRAMMES, |number| number.parse().unwrap());
    let seed = std::env::var("SEED").map_or(0, |seed| seed.parse::<u64>().unwrap());
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = Config {
        cases: number.div_ceil(4),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(regressions))),
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, rng);
    // Of the shortest programme, which fails last. Jitter is chance of the
    // session's own, so that playing it again may not fail.
    let log = RefCell::new(String::new());
    let outcome = runner.run(&programmes(focus), |programme| {
        play(&programme).map_err(|failure| {
            *log.borrow_mut() = failure.log.join("\n");
            TestCaseError::fail(failure.rule)
        })
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Abort(why)) => panic!("{why}"),
        Err(TestError::Fail(rule, programme)) => {
            let log = log.into_inner();
            panic!(
                "{rule}\n\n{programme}\n\n{log}\n\nits seed is in {regressions}, and SEED was {seed}"
            );
        }
    }
}

#[test]
fn requests_go_out_with_the_token_in_use_and_are_executed_once() {
    hold(Focus::Requests, "tests/properties/regressions/requests.txt");
}

#[test]
fn logins_are_made_one_at_a_time_and_refused_credentials_never_again() {
    hold(Focus::Logins, "tests/properties/regressions/logins.txt");
}

#[test]
fn a_changed_password_is_never_lost() {
    hold(
        Focus::Passwords,
        "tests/properties/regressions/passwords.txt",
    );
}

#[test]
fn each_token_is_accounted_for_at_the_end() {
    hold(Focus::Ends, "tests/properties/regressions/ends.txt");
}
