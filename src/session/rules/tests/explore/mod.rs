//! Explores the rules exhaustively: every event in every state, to a depth.
//!
//! | file | contents |
//! |---|---|
//! | `world` | the rules and their environment, and the acts that may happen to them |
//! | `setups` | the states in which an exploration starts |
//! | `checks` | the rules that hold after each event |
//! | `liveness` | the properties that each state leads to |
//! | `state_key` | compares states |
//! | `scenario` | a path as a file of `tests/scenarios` |
//!
//! From each state, the explorer tries everything that a driver of the rules may do
//! there. It visits equal states once, breadth first, so that a counter-example is as
//! short as possible.
//!
//! `DEPTH=7 cargo test --release --lib explore -- --nocapture` goes deeper than
//! the tests do. With `WRITE=folder` each path becomes a scenario, and
//! `SCENARIOS=folder cargo test --test scenarios` plays them all with sessions, since
//! the world here acts as the driver does.

mod checks;
mod liveness;
mod scenario;
mod setups;
mod state_key;
mod world;

use std::collections::HashSet;
use std::path::PathBuf;

use checks::{Broken, By};
use scenario::{Then, written};
use setups::{
    AHEAD, AHEAD_FOR_USERS, BACKING_OFF, EXHAUSTED, IDLE, KEPT_ALIVE, LEFT, POSTPONED, REFUSING,
    REJECTED, REPLACED, ROLLING, STATELESS, TOKENS, TWO_REPLACED, UNSURE, USERS, USERS_WITH_DATA,
    WITH_DATA, WORN,
};
use world::{Act, Path, Setup, Stage, User, World};

use crate::provider::Reason;
use crate::session::rules::{JobKind, Launch, LoginKind};

/// How far an exploration went.
#[derive(Debug, Default)]
struct Explored {
    /// The new states of each depth, and the transitions that led to that depth.
    depths: Vec<(usize, usize)>,
}

/// A shortest path to a broken rule.
#[derive(Debug)]
struct Found {
    acts: Vec<Act>,
    what: Broken,
}

/// Goes through all paths of `depth` steps, until `is_it` finds the world that is
/// searched for.
fn explore(
    setup: &'static Setup,
    depth: usize,
    mut is_it: impl FnMut(&World, &dyn Fn() -> Vec<Act>) -> Option<Broken>,
) -> Result<Explored, Found> {
    let mut start = World::new(setup, false);
    for act in setup.before {
        assert!(start.acts().contains(act), "{act:?} cannot happen");
        if let Some(what) = start.tried(|world| world.act(*act)) {
            let acts = Vec::new();
            return Err(Found { acts, what });
        }
    }
    let mut seen = HashSet::from([start.key()]);
    // Each step with the place of its predecessor, counted from 1.
    let mut steps: Vec<(usize, Act)> = Vec::new();
    let mut explored = Explored::default();
    let mut states = vec![(0, start)];
    for _ in 0..depth {
        let mut next = Vec::new();
        let mut transitions = 0;
        for (place, world) in states {
            for act in world.acts() {
                transitions += 1;
                let mut after = world.clone();
                let what = match after.tried(|world| world.act(act)) {
                    Some(broken) => Some(broken),
                    None if !seen.insert(after.key()) => continue,
                    None => None,
                };
                steps.push((place, act));
                let what = what.or_else(|| is_it(&after, &|| path(&steps)));
                if let Some(what) = what {
                    let acts = path(&steps);
                    return Err(Found { acts, what });
                }
                next.push((steps.len(), after));
            }
        }
        explored.depths.push((next.len(), transitions));
        states = next;
    }
    Ok(explored)
}

/// Returns the acts that led to the last step.
fn path(steps: &[(usize, Act)]) -> Vec<Act> {
    let mut acts = Vec::new();
    let mut place = steps.len();
    while place > 0 {
        let (before, act) = steps[place - 1];
        acts.push(act);
        place = before;
    }
    acts.reverse();
    acts
}

/// Returns the liveness property that does not hold from this world on.
fn stuck(world: &World) -> Option<Broken> {
    let mut stuck = None;
    let panicked = world.clone().tried(|world| {
        stuck = liveness::violated(world);
    });
    panicked.or(stuck)
}

/// Explores to a depth of `DEPTH`, or to the test's own depth. Writes each path that a
/// scenario can express to the folder `WRITE`, if that is set.
fn check(setup: &'static Setup, depth: usize) {
    let wanted = std::env::var("DEPTH").ok();
    let depth = wanted.map_or(depth, |depth| depth.parse().expect("a number"));
    let folder = std::env::var_os("WRITE").map(PathBuf::from);
    let mut number = 0;
    let visited = |world: &World, path: &dyn Fn() -> Vec<Act>| {
        if let Some(folder) = &folder {
            number += 1;
            let name = format!("{} {number}.json", setup.name);
            write(&folder.join(name), setup, &path());
        }
        stuck(world)
    };
    match explore(setup, depth, visited) {
        Ok(Explored { depths }) => {
            for (depth, (states, transitions)) in (1..).zip(depths) {
                println!(
                    "{}: {depth} deep, {states} states by {transitions} transitions",
                    setup.name
                );
            }
        }
        Err(Found { acts, what }) => {
            let Broken { rule, what, by } = what;
            let story = format!("Broken: {what}.");
            let scenario = written(setup, &acts, rule, &story, Then::Not(by)).text;
            panic!("rule {rule}: {what}, by {acts:?}\n{scenario}");
        }
    }
}

fn write(file: &std::path::Path, setup: &'static Setup, acts: &[Act]) {
    let scenario = written(setup, acts, 1, &format!("{acts:?}"), Then::All);
    if scenario.is_whole {
        std::fs::write(file, scenario.text).expect("a folder to write to");
    }
}

#[test]
fn the_rules_hold_where_a_logout_ends_all_of_the_user() {
    check(&USERS, 5);
}

#[test]
fn the_rules_hold_where_a_logout_ends_one_token() {
    check(&TOKENS, 5);
}

#[test]
fn the_rules_hold_where_a_logout_ends_nothing() {
    check(&STATELESS, 4);
}

#[test]
fn the_rules_hold_for_a_session_that_is_kept_alive() {
    check(&KEPT_ALIVE, 4);
}

#[test]
fn the_rules_hold_for_tokens_that_idle_out() {
    check(&IDLE, 4);
}

#[test]
fn the_rules_hold_for_tokens_whose_data_outlives_them() {
    check(&WITH_DATA, 5);
}

#[test]
fn the_rules_hold_for_data_where_a_logout_ends_all_of_the_user() {
    check(&USERS_WITH_DATA, 4);
}

#[test]
fn the_rules_hold_while_a_new_token_is_not_proven() {
    check(&AHEAD, 4);
}

#[test]
fn the_rules_hold_while_a_new_token_is_not_proven_where_a_logout_ends_all() {
    check(&AHEAD_FOR_USERS, 4);
}

#[test]
fn the_rules_hold_for_tokens_that_roll() {
    check(&ROLLING, 4);
}

#[test]
fn the_rules_hold_after_a_refusal() {
    check(&REFUSING, 4);
}

#[test]
fn the_rules_hold_after_a_renewal_ahead_failed() {
    check(&BACKING_OFF, 4);
}

#[test]
fn the_rules_hold_while_a_replaced_token_is_used() {
    check(&REPLACED, 4);
}

#[test]
fn the_rules_hold_after_a_background_logout_failed() {
    check(&POSTPONED, 4);
}

#[test]
fn the_rules_hold_while_a_renewal_is_in_doubt() {
    check(&UNSURE, 4);
}

#[test]
fn the_rules_hold_after_a_logout_failed() {
    check(&LEFT, 4);
}

#[test]
fn the_rules_hold_when_renewals_do_not_help() {
    check(&WORN, 4);
}

#[test]
fn the_rules_hold_when_the_budget_is_used_up() {
    check(&EXHAUSTED, 4);
}

#[test]
fn the_rules_hold_while_two_tokens_wait_to_be_logged_out() {
    check(&TWO_REPLACED, 4);
}

/// The file for a path that a search finds is among the scenarios.
#[test]
fn a_path_is_written_as_a_scenario() {
    let both_replayed = |world: &World, _: &dyn Fn() -> Vec<Act>| {
        let replayed = |user: &User| matches!(user.stage, Stage::Using { replayed: true, .. });
        let both = world.users.len() == 2 && world.users.iter().all(replayed);
        both.then(|| Broken {
            rule: 3,
            what: "Two requests are replayed, of which one was rejected late.".into(),
            by: By::Act,
        })
    };
    let Err(Found { acts, what }) = explore(&TOKENS, 5, both_replayed) else {
        panic!("there is one");
    };
    let Broken { rule, what, .. } = what;
    let scenario = written(&TOKENS, &acts, rule, &what, Then::All).text;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios");
    let folder = std::path::Path::new(folder);
    // The published crate does not contain them.
    if folder.exists() {
        let file = folder.join("a_late_rejection_is_replayed_beside_an_early_one.json");
        let played = std::fs::read_to_string(file).unwrap_or_default();
        assert_eq!(scenario, played, "{scenario}");
    }
}

#[test]
fn a_counter_example_says_which_job_is_one_too_many() {
    let acts = [Act::Request(Path::A), REJECTED];
    let reason = Reason::Rejected;
    let kind = LoginKind::Usual;
    let login = By::Launch(Launch::Job(JobKind::Login { reason, kind }));
    let scenario = written(&TOKENS, &acts, 9, "As if it cooled down.", Then::Not(login)).text;
    let scenario: serde_json::Value = serde_json::from_str(&scenario).expect("JSON");
    assert_eq!(scenario["rule"], 9);
    assert_eq!(scenario["when"][0]["request"], "GET /a");
    assert_eq!(scenario["given"]["service"]["answers"][0]["status"], 401);
    assert_eq!(scenario["then"]["logins"], 0);
}
