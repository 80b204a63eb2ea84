//! What a request with a live token costs above the same request without a
//! layer: in time, allocations and instructions.

use std::hint::black_box;
use std::pin::pin;
use std::process::Command;
use std::task::{Context, Poll, Waker};

use allocation_counter::measure;
use http::{Request, Response};
use tower::Service;

use crate::peers::{self, Bare, Body, Requests};
use crate::plot::Bar;
use crate::rounds::{Turn, interleaved, median, pairwise, quantile, timed};
use crate::table::Line;

const ROUNDS: usize = 600;
const REQUESTS: u32 = 1000;

/// Which service, by the name that it has on the command line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bare,
    Fixed,
    Never,
    Auto,
    Retry,
    ByHand,
}

const KINDS: [Kind; 6] = [
    Kind::Bare,
    Kind::Fixed,
    Kind::Never,
    Kind::Auto,
    Kind::Retry,
    Kind::ByHand,
];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Fixed => "fixed",
            Self::Never => "never",
            Self::Auto => "auto",
            Self::Retry => "retry",
            Self::ByHand => "by-hand",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Bare => "the bare service",
            Self::Fixed => "tower-http's `AddAuthorization`, static",
            Self::Never => "this crate, `Never`",
            Self::Auto => "this crate, `Auto`",
            Self::Retry => "tower's `Retry`, cloning, around the static header",
            Self::ByHand => "by hand: `RwLock`, boxed future, clone",
        }
    }

    /// Sends so many requests at each call.
    fn sender(self) -> Box<dyn FnMut(u32)> {
        let session = peers::session();
        match self {
            Self::Bare => sender(Bare),
            Self::Fixed => sender(peers::fixed_header()),
            Self::Never => sender(peers::never(&session)),
            Self::Auto => sender(peers::auto(&session)),
            Self::Retry => sender(peers::retry()),
            Self::ByHand => sender(peers::by_hand()),
        }
    }

    fn place(self) -> usize {
        KINDS.iter().position(|kind| *kind == self).expect("listed")
    }
}

fn sender<S, B>(mut service: S) -> Box<dyn FnMut(u32)>
where
    S: Service<Request<Body>, Response = Response<B>> + 'static,
{
    let requests = Requests::new();
    Box::new(move |count| send(&mut service, &requests, count))
}

/// Makes requests, and for each readies, calls and awaits the service.
pub(crate) fn send<S, B>(service: &mut S, requests: &Requests, count: u32)
where
    S: Service<Request<Body>, Response = Response<B>>,
{
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..count {
        let request = black_box(requests.make());
        assert!(matches!(service.poll_ready(&mut cx), Poll::Ready(Ok(()))));
        let response = pin!(service.call(request));
        let Poll::Ready(Ok(response)) = response.poll(&mut cx) else {
            panic!("there is nothing to wait for");
        };
        black_box(&response);
    }
}

/// What each kind costs above the bare service, in the order of [`KINDS`].
struct Costs([f64; KINDS.len()]);

impl Costs {
    fn of(&self, kind: Kind) -> f64 {
        self.0[kind.place()]
    }

    fn ratio(&self, kind: Kind, to: Kind) -> f64 {
        self.of(kind) / self.of(to)
    }
}

/// In nanoseconds, and how much a quarter of the rounds differ at least.
fn nanoseconds() -> (Costs, Costs) {
    let mut senders = KINDS.map(Kind::sender);
    let mut turns: Vec<Turn<'_>> = senders
        .iter_mut()
        .map(|send| Box::new(|| timed(|| send(REQUESTS)) * 1e9 / f64::from(REQUESTS)) as Turn<'_>)
        .collect();
    let times = interleaved(&mut turns, ROUNDS);
    let above = |kind: Kind| {
        let bare = &times[Kind::Bare.place()];
        pairwise(&times[kind.place()], bare, |time, bare| time - bare)
    };
    let cost = |kind| median(&above(kind));
    let spread = |kind| quantile(&above(kind), 0.75) - quantile(&above(kind), 0.25);
    (Costs(KINDS.map(cost)), Costs(KINDS.map(spread)))
}

fn allocations() -> Costs {
    let counts = KINDS.map(|kind| {
        let mut send = kind.sender();
        // The first load of a token on a thread makes the thread's own slots.
        send(1);
        measure(|| send(1)).count_total as f64
    });
    let bare = counts[Kind::Bare.place()];
    Costs(counts.map(|count| count - bare))
}

pub(crate) fn run() -> (Vec<Line>, Vec<Bar>) {
    let (times, spreads) = nanoseconds();
    let allocations = allocations();
    let mut lines = vec![];
    for kind in KINDS.into_iter().skip(1) {
        lines.push(Line::for_scale(
            format!("request path: {}", kind.title()),
            format!(
                "{:.0} ns (quartiles {:.0} apart), {} allocations",
                times.of(kind),
                spreads.of(kind),
                allocations.of(kind)
            ),
        ));
    }
    let never = times.ratio(Kind::Never, Kind::Fixed);
    lines.push(Line::marked(
        "request path, `Never`, time",
        "1.6 x the static header",
        format!("{never:.2} x"),
        never <= 1.6,
        "",
    ));
    lines.push(Line::marked(
        "request path, `Never`, allocations",
        "0",
        allocations.of(Kind::Never).to_string(),
        allocations.of(Kind::Never) == 0.0,
        "",
    ));
    let auto = times.ratio(Kind::Auto, Kind::Retry);
    lines.push(Line::marked(
        "request path, `Auto`, time",
        "0.75 x `Retry` with a cloning policy",
        format!("{auto:.2} x"),
        auto <= 0.75,
        "",
    ));
    // kube's layer, measured elsewhere beside the same static header.
    let kube = 332.0 / 40.0;
    let auto = times.ratio(Kind::Auto, Kind::Fixed);
    lines.push(Line::marked(
        "request path, `Auto`, time",
        format!("below kube's {kube:.1} x the static header"),
        format!("{auto:.1} x"),
        auto < kube,
        "",
    ));
    lines.push(Line::marked(
        "request path, `Auto`, allocations",
        "at most 3",
        allocations.of(Kind::Auto).to_string(),
        allocations.of(Kind::Auto) <= 3.0,
        "",
    ));
    let bars = KINDS.into_iter().skip(1).map(|kind| Bar {
        title: kind.title().replace('`', ""),
        value: times.of(kind),
        ours: matches!(kind, Kind::Never | Kind::Auto),
    });
    (lines, bars.collect())
}

/// Sends `count` requests through the service of that name, for a profiler.
pub(crate) fn send_by_name(name: &str, count: u32) {
    let kind = KINDS.into_iter().find(|kind| kind.name() == name);
    kind.expect("a kind of service").sender()(count);
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
        "",
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
