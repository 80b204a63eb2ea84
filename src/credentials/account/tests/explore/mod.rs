//! Explores the shipped machine exhaustively: every event in every state.
//!
//! | file | contents |
//! |---|---|
//! | `world` | the record, the processes and the server; what may happen, what must not |
//! | `setups` | what may happen in which exploration |
//! | `machine` | the shipped machine, and broken ones |
//!
//! States that are equal are visited once, the ones that are reached soonest
//! first, so a counter-example is as short as possible.
//!
//! `STATES=100000000 cargo test --release --lib account::tests::explore -- --nocapture`
//! explores each setup to its end; `DEPTH=12` ends after 12 steps.

mod machine;
mod setups;
mod world;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

use machine::{
    BelieveNo, ChangeUnsettled, Evict, ForgetEarly, Machine, NewFirst, NoClaims, SendFirst,
    Shipped, StaleVerdict, Withdraw,
};
use setups::{
    BEYOND, HOLD, ONE_CHANGE, RETENTION, Setup, THREE_ACTORS_BY_HAND, TWO_CHANGES, WITHOUT_SWAP,
};
use world::{Broken, LOST, STUCK, Step, THREE, TWO, World};

/// How many states of each setup a test visits.
const STATES: usize = 10_000;

/// What an exploration found.
struct Explored {
    states: usize,
    /// Whether each state that can be reached was visited.
    is_complete: bool,
    /// What was broken, how often, and a shortest way to it.
    broken: BTreeMap<Broken, (usize, String)>,
}

fn limit(name: &str, usual: usize) -> usize {
    match std::env::var(name) {
        Ok(number) => number.parse().expect("a number"),
        Err(_) => usual,
    }
}

/// Explores until `most` states were visited, or all of `wanted` was found.
fn explore(setup: &Setup, machine: &dyn Machine, most: usize, wanted: &[Broken]) -> Explored {
    let depth = limit("DEPTH", usize::MAX);
    let start = World::new(setup);
    let mut seen = HashSet::from([key(&start)]);
    // How each state was reached: from which one, and by which step.
    let mut reached: Vec<Option<(u32, Step)>> = vec![None];
    let mut queue = VecDeque::from([(0, 0, start)]);
    let mut broken = BTreeMap::new();
    let mut is_complete = true;
    while let Some((place, steps, world)) = queue.pop_front() {
        if !wanted.is_empty() && wanted.iter().all(|what| broken.contains_key(what)) {
            is_complete = false;
            break;
        }
        if world.is_stuck(setup, machine) {
            let way = || way(setup, machine, &reached, place, None);
            broken.entry(STUCK).or_insert_with(|| (0, way())).0 += 1;
        }
        if steps == depth {
            is_complete = false;
            continue;
        }
        for step in world.steps(setup) {
            let Some((after, what)) = world.after(step, setup, machine) else {
                continue;
            };
            if let Some(what) = what {
                let way = || way(setup, machine, &reached, place, Some(step));
                broken.entry(what).or_insert_with(|| (0, way())).0 += 1;
            }
            if what == Some(LOST) || !seen.insert(key(&after)) {
                continue;
            }
            if reached.len() >= most {
                is_complete = false;
                continue;
            }
            let index = u32::try_from(reached.len()).expect("fewer states");
            reached.push(Some((place, step)));
            queue.push_back((index, steps + 1, after));
        }
    }
    Explored {
        states: reached.len(),
        is_complete,
        broken,
    }
}

/// A fingerprint. Two of ten million states have the same with a probability of
/// 3 in a million.
fn key(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// Prints the way to a state as a list of steps.
fn way(
    setup: &Setup,
    machine: &dyn Machine,
    reached: &[Option<(u32, Step)>],
    place: u32,
    last: Option<Step>,
) -> String {
    let mut steps: Vec<Step> = last.into_iter().collect();
    let mut place = place;
    while let Some((before, step)) = reached[place as usize] {
        steps.push(step);
        place = before;
    }
    let mut world = World::new(setup);
    let mut text = format!("    {:75} {}\n", "start", world.state());
    for step in steps.into_iter().rev() {
        let Some((after, _)) = world.after(step, setup, machine) else {
            break;
        };
        let words = world.words(step, &after);
        writeln!(text, "    {words:75} {}", after.state()).expect("text can be written");
        world = after;
    }
    text
}

fn report(setup: &Setup, explored: &Explored) -> String {
    let Explored {
        states,
        is_complete,
        broken,
    } = explored;
    let extent = if *is_complete { "all" } else { "the first" };
    let mut text = format!("{}: {extent} {states} states\n", setup.name);
    for (what, (count, way)) in broken {
        write!(text, "  {what} ({count} times); the shortest way:\n{way}")
            .expect("text can be written");
    }
    text
}

fn holds(setups: &[Setup]) {
    let mut failed = String::new();
    for setup in setups {
        let explored = explore(setup, &Shipped, limit("STATES", STATES), &[]);
        let report = report(setup, &explored);
        print!("{report}");
        if !explored.broken.is_empty() {
            failed += &report;
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

/// Explores with a broken machine until `expected` is found.
#[track_caller]
fn ablation(setup: &Setup, machine: &dyn Machine, expected: &[Broken]) {
    let explored = explore(setup, machine, 300_000, expected);
    print!("{}", report(setup, &explored));
    for what in expected {
        assert!(explored.broken.contains_key(what), "not found: {what}");
    }
}

#[test]
fn no_password_is_lost_no_account_is_locked_and_a_login_succeeds_in_the_end() {
    holds(HOLD);
}

#[test]
fn no_password_is_lost_where_no_protocol_can_keep_the_bounds() {
    holds(BEYOND);
}

#[test]
fn trying_the_new_password_first_breaks_the_bounds() {
    ablation(&ONE_CHANGE, &NewFirst, &[TWO, STUCK]);
}

#[test]
fn storing_after_the_sending_loses_the_password() {
    ablation(&ONE_CHANGE, &SendFirst, &[LOST]);
}

#[test]
fn withdrawing_the_change_of_another_loses_the_password() {
    ablation(&ONE_CHANGE, &Withdraw, &[LOST]);
}

#[test]
fn believing_a_no_loses_the_password() {
    ablation(&ONE_CHANGE, &BelieveNo, &[LOST]);
}

#[test]
fn logins_without_claims_lock_the_account() {
    ablation(&THREE_ACTORS_BY_HAND, &NoClaims, &[THREE, TWO]);
}

#[test]
fn counting_a_verdict_on_a_former_password_breaks_the_promises() {
    ablation(&TWO_CHANGES, &StaleVerdict, &[STUCK, TWO]);
}

#[test]
fn changing_before_it_is_known_which_password_works_stops_the_account() {
    ablation(&TWO_CHANGES, &ChangeUnsettled, &[STUCK]);
}

#[test]
fn dropping_a_password_to_make_room_loses_the_one_that_works() {
    ablation(&TWO_CHANGES, &Evict, &[LOST]);
}

#[test]
fn forgetting_without_an_accepted_login_loses_the_password() {
    ablation(&RETENTION, &ForgetEarly, &[LOST]);
}

#[test]
fn two_processes_without_compare_and_swap_lose_the_password() {
    let setup = Setup {
        actors: 2,
        ..WITHOUT_SWAP
    };
    ablation(&setup, &Shipped, &[LOST]);
}
