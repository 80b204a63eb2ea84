//! What others write — servers, people, files — is read without a panic, and as
//! a slower reading of it says.
//!
//! Each test checks the files of its folder in `fuzz/corpus`, and then random
//! mutations of them. The environment variable `FUZZ_ROUNDS` says how many of
//! those, and `SEED` which.

mod chance;
#[path = "fuzz/checks/mod.rs"]
mod checks;
#[path = "fuzz/mutation.rs"]
mod mutation;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use checks::{answers, cookies, credentials, dates, json, origins, scenarios};
use mutation::Mutation;

/// Checks each file of a corpus, and as many mutations.
///
/// What fails is printed, and belongs into the corpus.
fn fuzz(corpus: &str, rounds: usize, check: impl Fn(&[u8])) {
    let corpus = read(corpus);
    let check = |input: &[u8]| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(input))) {
            println!("at b\"{}\"", input.escape_ascii());
            resume_unwind(panic);
        }
    };
    for input in &corpus {
        check(input);
    }
    let rounds = std::env::var("FUZZ_ROUNDS").map_or(rounds, |rounds| rounds.parse().unwrap());
    let mut mutation = Mutation::new();
    for _ in 0..rounds {
        check(&mutation.of(&corpus));
    }
}

fn read(corpus: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let files = fs::read_dir(folder.join(corpus)).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    assert!(!files.is_empty());
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

#[test]
fn no_answer_is_a_panic_and_none_shows_a_secret() {
    fuzz("answers", 3000, answers::answer);
}

#[test]
fn a_token_goes_only_where_url_sees_the_same_origin() {
    fuzz("origins", 5000, origins::origin);
}

#[test]
fn the_cookies_of_a_token_replace_and_join_those_of_a_request() {
    fuzz("cookies", 20_000, cookies::cookies);
}

#[test]
fn the_cookie_that_an_answer_sets_is_what_the_rfc_says() {
    fuzz("set_cookies", 20_000, cookies::set_cookies);
}

#[test]
fn a_time_to_wait_is_what_the_rfcs_say() {
    fuzz("dates", 4000, dates::retry_after);
}

#[test]
fn a_secret_is_found_where_serde_json_finds_a_text() {
    fuzz("json", 4000, json::secret);
}

#[test]
fn what_is_read_from_a_file_of_credentials_is_what_stands_there() {
    let folder = credentials::Folder::new("file");
    fuzz("credentials", 1500, |input| folder.file(input));
}

#[test]
fn no_password_is_lost_in_a_store_whatever_its_file_holds() {
    let folder = credentials::Folder::new("store");
    fuzz("stores", 200, |input| folder.store(input));
}

#[test]
fn whatever_a_file_of_a_scenario_holds_is_one_or_an_error() {
    fuzz("scenarios", 4000, scenarios::scenario);
}
