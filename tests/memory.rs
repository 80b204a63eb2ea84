//! No copy of a secret is left in the memory of this process once a session is
//! gone: neither in what is still allocated nor in what was freed.
//!
//! Each case runs in a process of its own, which searches all of its writable
//! memory through `/proc/self/mem`. The secrets are made at run time, so that
//! no binary holds them, and are kept with a bit flipped in each byte, so that
//! the search does not find itself. What a transport copies is not tested
//! here: these cases have none that does.

#[cfg(target_os = "linux")]
#[path = "memory/cases.rs"]
mod cases;
#[cfg(target_os = "linux")]
#[path = "memory/scan.rs"]
mod scan;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// Names the case that a process is to run.
#[cfg(target_os = "linux")]
const CASE: &str = "TOWER_REAUTH_MEMORY_CASE";

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    if let Ok(name) = std::env::var(CASE) {
        cases::run(&name);
        return ExitCode::SUCCESS;
    }
    libtest_mimic::run(&Arguments::from_args(), trials()).exit_code()
}

#[cfg(target_os = "linux")]
fn trials() -> Vec<Trial> {
    let trial = |name: &'static str| Trial::test(name, move || run_alone(name));
    cases::names().map(trial).collect()
}

/// Elsewhere a process cannot read its own memory like a file.
#[cfg(not(target_os = "linux"))]
fn trials() -> Vec<Trial> {
    Vec::new()
}

#[cfg(target_os = "linux")]
fn run_alone(name: &str) -> Result<(), libtest_mimic::Failed> {
    let this = std::env::current_exe()?;
    let output = std::process::Command::new(this).env(CASE, name).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
    }
}
