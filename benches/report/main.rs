//! What this crate costs, beside others. See benches/README.md.

mod desk;
mod kinds;
mod load;
mod outages;
mod over_hyper;
mod peers;
mod plot;
mod redaction;
mod renewal;
mod request_path;
mod rounds;
mod table;
mod two_threads;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tokio::runtime::{Builder, Runtime};

use plot::{bars, curves};
use table::{Line, markdown};

const TOPICS: [&str; 8] = [
    "request_path",
    "instructions",
    "two_threads",
    "over_hyper",
    "renewal",
    "outages",
    "redaction",
    "counts",
];

/// Where a plot goes, and what it shows.
type Plot = (&'static str, String);

fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

fn run(topic: &str) -> (Vec<Line>, Option<Plot>) {
    match topic {
        "request_path" => {
            let (lines, costs) = request_path::run();
            let title = "What a request pays above the bare service (median)";
            (lines, Some(("request_path.svg", bars(title, "ns", &costs))))
        }
        "instructions" => (request_path::instructions(), None),
        "two_threads" => (two_threads::run(), None),
        "over_hyper" => (over_hyper::run(), None),
        "renewal" => {
            let (lines, latencies) = renewal::run();
            let title = "Longest latency in each 10 ms, a renewal each second, logins of 100 ms";
            let plot = curves(title, "seconds", "ms", &latencies);
            (lines, Some(("latency.svg", plot)))
        }
        "outages" => (outages::run(), None),
        "redaction" => (redaction::run(), None),
        "counts" => (counts(), None),
        _ => panic!("one of {TOPICS:?}"),
    }
}

/// The lines of the other bench.
fn counts() -> Vec<Line> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["bench", "--quiet", "--bench", "counts"])
        .output();
    let said = output.expect("cargo").stdout;
    let said = String::from_utf8(said).expect("lines of text");
    said.lines().filter_map(Line::read).collect()
}

/// Puts the table into the README, between its marks.
fn keep(lines: &[Line]) {
    const BEGIN: &str = "<!-- table -->\n";
    const END: &str = "<!-- end of table -->";
    let path = folder().join("README.md");
    let readme = fs::read_to_string(&path).expect("the README");
    let (before, rest) = readme.split_once(BEGIN).expect("the table's begin");
    let (_, after) = rest.split_once(END).expect("the table's end");
    let table = markdown(lines);
    fs::write(path, format!("{before}{BEGIN}{table}{END}{after}")).expect("a README to write");
}

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "benches"].iter().collect()
}

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--send") {
        let count = arguments[3].parse().expect("a count");
        return kinds::send_by_name(&arguments[1], &arguments[2], count);
    }
    if arguments.first().is_some_and(|first| first == "--costs") {
        return request_path::print_costs(&arguments[1]);
    }
    // Cargo says so to a bench, and does not where it tests.
    let Some(place) = arguments.iter().position(|argument| argument == "--bench") else {
        println!("cargo bench --bench report");
        return;
    };
    arguments.remove(place);
    let all = arguments.is_empty();
    let topics: Vec<&str> = match all {
        true => TOPICS.to_vec(),
        false => arguments.iter().map(String::as_str).collect(),
    };
    let mut lines = vec![];
    for topic in topics {
        eprintln!("{topic} ..");
        let (found, plot) = run(topic);
        lines.extend(found);
        if let (true, Some((name, plot))) = (all, plot) {
            fs::write(folder().join(name), plot).expect("a plot to write");
        }
    }
    print!("{}", markdown(&lines));
    if all {
        keep(&lines);
    }
}
