//! The session's rules as data: runs every scenario in `scenarios/`, and in the
//! folder that the environment variable `SCENARIOS` names.
//!
//! `scenarios/README.md` describes the format.

#[path = "scenarios/runner/mod.rs"]
mod runner;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    libtest_mimic::run(&arguments, runner::trials()).exit_code()
}
