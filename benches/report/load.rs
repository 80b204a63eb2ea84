//! Many callers over some seconds, each sending at fixed times, so that a
//! caller that is held up does not hide that by sending less.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tower::Service;

use crate::desk::request;
use crate::peers::Body;
use crate::rounds::quantile;

pub(crate) const CALLERS: u32 = 200;
/// How often each of them sends.
const EVERY: Duration = Duration::from_millis(10);

/// What the callers saw.
#[derive(Default)]
pub(crate) struct Seen {
    /// Seconds since the start, when a request was due, and how many more
    /// until it was answered.
    pub(crate) latencies: Vec<(f64, f64)>,
    pub(crate) failed: usize,
    pub(crate) rejected: usize,
}

impl Seen {
    /// In milliseconds.
    pub(crate) fn latency(&self, share: f64) -> f64 {
        let latencies: Vec<f64> = self.latencies.iter().map(|seen| seen.1 * 1e3).collect();
        quantile(&latencies, share)
    }

    /// The longest latency of each `step` seconds, in milliseconds.
    pub(crate) fn longest(&self, step: f64) -> Vec<(f64, f64)> {
        let mut longest: Vec<(f64, f64)> = vec![];
        for &(at, latency) in &self.latencies {
            let place = (at / step) as usize;
            while longest.len() <= place {
                longest.push((longest.len() as f64 * step, 0.0));
            }
            longest[place].1 = longest[place].1.max(latency * 1e3);
        }
        longest
    }

    /// How many were answered that were due in that time.
    pub(crate) fn answered(&self, from: f64, to: f64) -> usize {
        let within = |seen: &&(f64, f64)| (from..to).contains(&(seen.0 + seen.1));
        self.latencies.iter().filter(within).count()
    }
}

/// Sends from `CALLERS` callers for as long as `lasts`, from now on.
pub(crate) async fn callers<S, B>(service: S, lasts: Duration) -> Seen
where
    S: Service<Request<Body>, Response = Response<B>, Future: Send> + Clone + Send + 'static,
    S::Error: Send,
    B: Send,
{
    let seen = Arc::new(Mutex::new(Seen::default()));
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..CALLERS {
        let (mut service, seen) = (service.clone(), seen.clone());
        tasks.spawn(async move {
            let mut due = begun + EVERY * number / CALLERS;
            while due < begun + lasts {
                sleep_until(due).await;
                if std::future::poll_fn(|cx| service.poll_ready(cx))
                    .await
                    .is_err()
                {
                    return;
                }
                let answer = service.call(request()).await;
                let latency = due.elapsed().as_secs_f64();
                let mut seen = seen.lock().expect("no panic");
                match answer {
                    Ok(response) if response.status().is_success() => {
                        let at = (due - begun).as_secs_f64();
                        seen.latencies.push((at, latency));
                    }
                    Ok(_) => seen.rejected += 1,
                    Err(_) => seen.failed += 1,
                }
                due += EVERY;
            }
        });
    }
    tasks.join_all().await;
    let mut seen = seen.lock().expect("no panic");
    std::mem::take(&mut *seen)
}
