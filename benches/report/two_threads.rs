//! How one session scales from one thread to two, beside the bare service.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use http::{Request, Response};
use tower::Service;

use crate::kinds::{Make, send};
use crate::peers::{self, Bare, Body, Requests};
use crate::rounds::{Turn, interleaved, median};
use crate::table::Line;

const ROUNDS: usize = 60;
/// About a millisecond's: a thread that is taken off its processor in the middle
/// shows nothing.
const REQUESTS: u32 = 3000;

/// Seconds that `REQUESTS` take on one thread while `threads` send them.
fn run_on<S, B>(threads: usize, service: &S) -> f64
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync,
{
    loop {
        let ready = AtomicUsize::new(0);
        let turn = || {
            let (mut service, requests) = (service.clone(), Requests::new(Make::Parsed));
            send(&mut service, &requests, 100);
            ready.fetch_add(1, Ordering::SeqCst);
            while ready.load(Ordering::SeqCst) < threads {
                spin_loop();
            }
            let begun = Instant::now();
            send(&mut service, &requests, REQUESTS);
            (begun, begun.elapsed())
        };
        let turns: Vec<(Instant, Duration)> = thread::scope(|scope| {
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(turn)).collect();
            handles
                .into_iter()
                .map(|handle| handle.join().expect("no panic"))
                .collect()
        });
        if let Some(time) = beside_each_other(&turns) {
            return time;
        }
    }
}

/// The mean of turns that ran at the same time, but for a tenth.
fn beside_each_other(turns: &[(Instant, Duration)]) -> Option<f64> {
    let begun = turns.iter().map(|turn| turn.0).max()?;
    let ended = turns.iter().map(|turn| turn.0 + turn.1).min()?;
    let together = ended.saturating_duration_since(begun);
    let sum: Duration = turns.iter().map(|turn| turn.1).sum();
    let mean = sum / u32::try_from(turns.len()).ok()?;
    (together.as_secs_f64() >= mean.as_secs_f64() * 0.9).then_some(mean.as_secs_f64())
}

fn turns<'a, S, B>(service: S) -> [Turn<'a>; 2]
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'a,
{
    let other = service.clone();
    [
        Box::new(move || run_on(1, &service)),
        Box::new(move || run_on(2, &other)),
    ]
}

pub(crate) fn run() -> Vec<Line> {
    let session = peers::session();
    let mut all: Vec<Turn<'_>> = vec![];
    all.extend(turns(Bare));
    all.extend(turns(peers::never(&session)));
    all.extend(turns(peers::auto(&session)));
    all.extend(turns(peers::fixed_header()));
    let times = interleaved(&mut all, ROUNDS);
    let scaling = |subject: usize| {
        let [alone, beside] = [subject * 2, subject * 2 + 1];
        2.0 * median(&times[alone]) / median(&times[beside])
    };
    let (bare, never, auto, fixed) = (scaling(0), scaling(1), scaling(2), scaling(3));
    let line = |name: &str, scaling: f64| {
        Line::marked(
            format!("two threads on one session, {name}"),
            "0.9 of the bare service's own scaling",
            format!(
                "{:.2} ({scaling:.2} of {bare:.2}; the static header {:.2})",
                scaling / bare,
                fixed / bare
            ),
            scaling / bare >= 0.9,
            "the two processors pass the cache lines of shared counts back and forth: the count \
             of the header's bytes, which the static header has too, causes nearly half \
             of the loss, and the token's count most of the rest",
        )
    };
    vec![line("`Never`", never), line("`Auto`", auto)]
}
