//! What others write — servers, people, files — is read without a panic, and as
//! a slower reading of it says.
//!
//! Each target reads the files of its folder in `fuzz/corpus`, and then random
//! mutations of them. `FUZZ_ROUNDS` says how many of those for each target, and
//! `SEED` repeats a run.

#[path = "fuzz/answers.rs"]
mod answers;
#[path = "fuzz/cookies.rs"]
mod cookies;
#[path = "fuzz/credentials.rs"]
mod credentials;
#[path = "fuzz/dates.rs"]
mod dates;
#[path = "fuzz/json.rs"]
mod json;
#[path = "fuzz/mutation.rs"]
mod mutation;
#[path = "fuzz/origins.rs"]
mod origins;
#[path = "fuzz/scenarios.rs"]
mod scenarios;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use mutation::Mutation;

/// What `check` is to hold for: each file of a corpus, and as many mutations.
///
/// Whatever it panics at is printed, and belongs into the corpus.
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

/// Runs a future that waits for nothing but threads.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}
