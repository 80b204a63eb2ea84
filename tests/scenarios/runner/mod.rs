//! Reads scenarios, runs them and reports. The format is described in `README.md`.

mod accounts;
mod check;
mod format;
mod own_tests;
mod provider;
mod record;
mod run;
mod service;
mod values;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libtest_mimic::{Failed, Trial};

use format::Scenario;
use record::Record;
use values::show_time;

/// One test for each scenario in this crate and in the folder that `SCENARIOS`
/// names, and the runner's own.
pub(crate) fn trials() -> Vec<Trial> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut trials = of_folder(&here);
    if let Some(folder) = std::env::var_os("SCENARIOS") {
        trials.extend(of_folder(Path::new(&folder)));
    }
    trials.extend(own_tests::trials());
    trials
}

fn of_folder(folder: &Path) -> Vec<Trial> {
    match files(folder) {
        Ok(files) if files.is_empty() => {
            let complaint = format!("{} holds no scenario", folder.display());
            vec![Trial::test(folder.display().to_string(), || {
                Err(complaint.into())
            })]
        }
        Ok(files) => files.into_iter().map(of_file).collect(),
        Err(error) => {
            let complaint = format!("{} cannot be listed: {error}", folder.display());
            vec![Trial::test(folder.display().to_string(), || {
                Err(complaint.into())
            })]
        }
    }
}

fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("json")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn of_file(path: PathBuf) -> Trial {
    let name = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Trial::test(name, move || {
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        of_text(&path.display().to_string(), &text).map_err(Failed::from)
    })
}

/// Runs one scenario, or says all that is wrong.
fn of_text(name: &str, text: &str) -> Result<(), String> {
    let scenario =
        Scenario::read(text).map_err(|error| format!("{name} cannot be read: {error}"))?;
    let records = run::run(&scenario);
    let found = check::check(&scenario, &records);
    match found.is_empty() {
        true => Ok(()),
        false => Err(report(name, &scenario.story, &found, &records)),
    }
}

fn report(name: &str, story: &str, found: &[String], records: &[(String, Record)]) -> String {
    let mut report = format!("{name}\n  {story}\n");
    for found in found {
        report.push_str(&format!("\n  - {found}\n"));
    }
    report.push_str("\n  What happened, in order:\n");
    let of_session = |(name, record): &(String, Record)| -> Vec<(Duration, String)> {
        let label = match records.len() {
            1 => String::new(),
            _ => format!("{name}: "),
        };
        let timeline = record.timeline.iter();
        timeline
            .map(|(at, what)| (*at, format!("{label}{what}")))
            .collect()
    };
    let mut timeline: Vec<_> = records.iter().flat_map(of_session).collect();
    timeline.sort_by_key(|(at, _)| *at);
    for (at, what) in timeline {
        report.push_str(&format!("    {:>10}  {what}\n", show_time(at)));
    }
    report
}
