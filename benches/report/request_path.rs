//! What a request with a live token costs above the same request without a
//! layer: in time and in instructions.

use std::process::Command;

use crate::kinds::{Costs, KINDS, Kind};
use crate::plot::Bar;
use crate::rounds::{Turn, interleaved, median, pairwise, quantile, timed};
use crate::table::Line;

/// What limits the marks, by callgrind.
const OF_NEVER: &str = "setting the header is more than a third; the rest is comparing the \
    origin, loading the token, two counts up and down, and one more move of a future, a \
    response and a body, which costs most: data is read back right after it was written";
const OF_AUTO: &str = "two thirds are the copies of headers and URI, as in `Retry`";

/// What a process measures depends on where its memory lies, which the kernel
/// decides anew for each: by a factor of two at worst. So there are many.
const PROCESSES: usize = 15;
const ROUNDS: usize = 60;
const REQUESTS: u32 = 1000;

/// Prints what each kind costs in this process, in nanoseconds.
pub(crate) fn print_costs() {
    let mut senders = KINDS.map(Kind::sender);
    let mut turns: Vec<Turn<'_>> = senders
        .iter_mut()
        .map(|send| Box::new(|| timed(|| send(REQUESTS)) * 1e9 / f64::from(REQUESTS)) as Turn<'_>)
        .collect();
    let times = interleaved(&mut turns, ROUNDS);
    for time in &times {
        let bare = &times[Kind::Bare.place()];
        println!(
            "{}",
            median(&pairwise(time, bare, |time, bare| time - bare))
        );
    }
}

/// What each process found.
fn nanoseconds() -> Vec<Costs> {
    let process = || {
        let this = std::env::current_exe().expect("the bench");
        let output = Command::new(this).arg("--costs").output();
        let said = String::from_utf8(output.expect("costs").stdout).expect("lines of text");
        let costs: Vec<f64> = said.lines().map(|line| line.parse().expect("ns")).collect();
        Costs(costs.try_into().expect("one of each kind"))
    };
    (0..PROCESSES).map(|_| process()).collect()
}

/// The median, and how far the quartiles are apart.
fn spread(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let values: Vec<f64> = values.collect();
    let quartiles = quantile(&values, 0.75) - quantile(&values, 0.25);
    (median(&values), quartiles)
}

pub(crate) fn run() -> (Vec<Line>, Vec<Bar>) {
    let found = nanoseconds();
    let cost = |kind| spread(found.iter().map(|costs| costs.of(kind)));
    let ratio = |kind, to| spread(found.iter().map(|costs| costs.ratio(kind, to)));
    let mut lines = vec![];
    for kind in KINDS.into_iter().skip(1) {
        let (median, quartiles) = cost(kind);
        lines.push(Line::for_scale(
            format!("request path: {}", kind.title()),
            format!("{median:.0} ns (quartiles {quartiles:.0} apart)"),
        ));
    }
    let (never, quartiles) = ratio(Kind::Never, Kind::Fixed);
    lines.push(Line::marked(
        "request path, `Never`, time",
        "1.6 x the static header",
        format!("{never:.2} x (quartiles {quartiles:.2} apart)"),
        never <= 1.6,
        OF_NEVER,
    ));
    let (auto, quartiles) = ratio(Kind::Auto, Kind::Retry);
    lines.push(Line::marked(
        "request path, `Auto`, time",
        "0.75 x `Retry` with a cloning policy",
        format!("{auto:.2} x (quartiles {quartiles:.2} apart)"),
        auto <= 0.75,
        OF_AUTO,
    ));
    // kube's layer, measured elsewhere beside the same static header.
    let kube = 332.0 / 40.0;
    let (auto, _) = ratio(Kind::Auto, Kind::Fixed);
    lines.push(Line::marked(
        "request path, `Auto`, time",
        format!("below kube's {kube:.1} x the static header"),
        format!("{auto:.1} x"),
        auto < kube,
        "",
    ));
    let bars = KINDS.into_iter().skip(1).map(|kind| Bar {
        title: kind.title().replace('`', ""),
        value: cost(kind).0,
        ours: matches!(kind, Kind::Never | Kind::Auto),
    });
    (lines, bars.collect())
}

/// Counted by callgrind, if there is one.
pub(crate) fn instructions() -> Vec<Line> {
    let mut counts = [0.0; KINDS.len()];
    for kind in KINDS {
        // What start and end cost is in both, and the difference exact.
        let (few, many) = (1000, 3000);
        let (Some(few_took), Some(many_took)) = (callgrind(kind, few), callgrind(kind, many))
        else {
            return vec![Line::for_scale("instructions", "not counted: no valgrind")];
        };
        counts[kind.place()] = (many_took - few_took) / f64::from(many - few);
    }
    let bare = counts[Kind::Bare.place()];
    let costs = Costs(counts.map(|count| count - bare));
    let mut lines = vec![];
    for kind in KINDS.into_iter().skip(1) {
        lines.push(Line::for_scale(
            format!("instructions: {}", kind.title()),
            format!("{:.0}", costs.of(kind)),
        ));
    }
    let never = costs.ratio(Kind::Never, Kind::Fixed);
    lines.push(Line::marked(
        "request path, `Never`, instructions",
        "1.8 x the static header",
        format!("{never:.2} x"),
        never <= 1.8,
        OF_NEVER,
    ));
    lines.push(Line::for_scale(
        "request path, `Auto`, instructions",
        format!(
            "{:.2} x `Retry` with a cloning policy",
            costs.ratio(Kind::Auto, Kind::Retry)
        ),
    ));
    lines
}

fn callgrind(kind: Kind, count: u32) -> Option<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().ok()?)
        .args(["--send", kind.name(), &count.to_string()])
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let (_, collected) = said.split_once("Collected :")?;
    collected.split_whitespace().next()?.parse().ok()
}
