//! What a request with a live token costs above the same request without a
//! layer: in time and in instructions.

use std::process::Command;

use crate::kinds::{Costs, KINDS, Kind, MAKES, Make};
use crate::plot::Bar;
use crate::rounds::{Turn, interleaved, median, pairwise, quantile, timed};
use crate::table::Line;

/// What limits the marks, by callgrind.
const OF_NEVER: &str = "setting the header is a third, as with the static header; the rest is \
    comparing the origin, loading the token, hashing the path for the bounds of refreshes, \
    and the moves of the request, the future and the response";
const OF_AUTO: &str = "most of it is the copy of the head, and two allocations";

/// What a process measures depends on where its memory lies, which the kernel
/// decides anew for each: by a factor of two at worst. So there are many.
const PROCESSES: usize = 15;
const ROUNDS: usize = 60;
const REQUESTS: u32 = 1000;

/// Prints what each kind costs in this process, in nanoseconds.
pub(crate) fn print_costs(make: &str) {
    let make = MAKES.into_iter().find(|it| it.name() == make);
    let make = make.expect("a kind of request");
    let mut senders = KINDS.map(|kind| kind.sender(make));
    let mut turns: Vec<Turn<'_>> = senders
        .iter_mut()
        .map(|send| Box::new(|| timed(|| send(REQUESTS)) * 1e9 / f64::from(REQUESTS)) as Turn<'_>)
        .collect();
    let times = interleaved(&mut turns, ROUNDS);
    for kind in KINDS {
        let (time, bare) = (&times[kind.place()], &times[kind.bare().place()]);
        let cost = pairwise(time, bare, |time, bare| time - bare);
        println!("{}", median(&cost));
    }
}

/// What each process found.
fn nanoseconds(make: Make) -> Vec<Costs> {
    let process = || {
        let this = std::env::current_exe().expect("the bench");
        let output = Command::new(this).args(["--costs", make.name()]).output();
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
    let mut lines = vec![];
    let mut bars = vec![];
    for make in MAKES {
        let found = nanoseconds(make);
        let cost = |kind| spread(found.iter().map(|costs| costs.of(kind)));
        let ratio = |kind, to| spread(found.iter().map(|costs| costs.ratio(kind, to)));
        for kind in Kind::layered() {
            let (median, quartiles) = cost(kind);
            lines.push(Line::for_scale(
                format!("request path: {}{}", kind.title(), make.suffix()),
                format!("{median:.0} ns (quartiles {quartiles:.0} apart)"),
            ));
        }
        if make == Make::Shared {
            continue;
        }
        for mark in RATIOS {
            let (found, quartiles) = ratio(mark.kind, mark.to);
            lines.push(mark.line(found, quartiles));
        }
        bars.extend(Kind::layered().map(|kind| Bar {
            title: kind.title().replace('`', ""),
            value: cost(kind).0,
            ours: kind.is_ours(),
        }));
    }
    for (title, time, _) in ELSEWHERE {
        let found = format!("{time:.1} x the static header");
        lines.push(Line::for_scale(format!("request path: {title}"), found));
    }
    (lines, bars)
}

/// A ratio of what two kinds cost, and the most that it is to be.
struct Mark {
    kind: Kind,
    to: Kind,
    most: f64,
    limit: &'static str,
}

/// For times: those of one machine are not those of another.
const RATIOS: [Mark; 5] = [
    Mark::new(Kind::Never, Kind::Fixed, 1.8, OF_NEVER),
    Mark::new(Kind::Auto, Kind::Fixed, ELSEWHERE[0].1, OF_AUTO),
    Mark::new(Kind::Auto, Kind::Retry, 0.5, OF_AUTO),
    Mark::new(Kind::Buffer, Kind::Retry, 0.7, OF_AUTO),
    Mark::new(Kind::IfEmpty, Kind::Retry, 0.7, OF_AUTO),
];

/// For instructions, in all.
const INSTRUCTIONS: [(Kind, f64, &str); 4] = [
    (Kind::Never, 750.0, OF_NEVER),
    (Kind::Auto, 1850.0, OF_AUTO),
    (Kind::Buffer, 1850.0, OF_AUTO),
    (Kind::IfEmpty, 1850.0, OF_AUTO),
];

impl Mark {
    const fn new(kind: Kind, to: Kind, most: f64, limit: &'static str) -> Self {
        Self {
            kind,
            to,
            most,
            limit,
        }
    }

    fn line(&self, found: f64, quartiles: f64) -> Line {
        let Self { kind, to, most, .. } = self;
        let to = match to {
            Kind::Retry => "`Retry` with a cloning policy",
            _ => "the static header",
        };
        Line::marked(
            format!("request path, `{kind:?}`, time"),
            format!("{most} x {to}"),
            format!("{found:.2} x (quartiles {quartiles:.2} apart)"),
            found <= *most,
            self.limit,
        )
    }
}

/// Layers that are not built here: how much of the static header they cost, in time and
/// in instructions, measured elsewhere on the same request beside that header.
const ELSEWHERE: [(&str, f64, f64); 3] = [
    ("kube's auth layer, no replay", 7.5, 7.0),
    ("aws-smithy-runtime", 15.0, 9.9),
    ("google-cloud-auth", 9.2, 10.8),
];

/// Counted by callgrind, if there is one.
pub(crate) fn instructions() -> Vec<Line> {
    let mut lines = vec![];
    for make in MAKES {
        let Some(costs) = counted(make) else {
            return vec![Line::for_scale("instructions", "not counted: no valgrind")];
        };
        for kind in Kind::layered() {
            lines.push(Line::for_scale(
                format!("instructions: {}{}", kind.title(), make.suffix()),
                format!("{:.0}", costs.of(kind)),
            ));
        }
        if make == Make::Shared {
            continue;
        }
        for (kind, most, limit) in INSTRUCTIONS {
            let (found, ratio) = (costs.of(kind), costs.ratio(kind, Kind::Retry));
            lines.push(Line::marked(
                format!("request path, `{kind:?}`, instructions"),
                format!("at most {most}"),
                format!("{found:.0} ({ratio:.2} x `Retry` with a cloning policy)"),
                found <= most,
                limit,
            ));
        }
    }
    for (title, _, instructions) in ELSEWHERE {
        let found = format!("{instructions:.1} x the static header");
        lines.push(Line::for_scale(format!("instructions: {title}"), found));
    }
    lines
}

fn counted(make: Make) -> Option<Costs> {
    let mut counts = [0.0; KINDS.len()];
    for kind in KINDS {
        // What start and end cost is in both, and the difference exact.
        let (few, many) = (1000, 3000);
        let few_took = callgrind(kind, make, few)?;
        let many_took = callgrind(kind, make, many)?;
        counts[kind.place()] = (many_took - few_took) / f64::from(many - few);
    }
    Some(Costs::above_bare(counts))
}

fn callgrind(kind: Kind, make: Make, count: u32) -> Option<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().ok()?)
        .args(["--send", kind.name(), make.name(), &count.to_string()])
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let (_, collected) = said.split_once("Collected :")?;
    collected.split_whitespace().next()?.parse().ok()
}
