//! What waiting requests and an idle session take.

use std::time::{Duration, Instant};

use crate::counts::{idle, waiters};
use crate::table::Line;

const WAITERS: usize = 10_000;

pub(crate) fn run() -> Vec<Line> {
    let begun = Instant::now();
    let many = waiters(WAITERS);
    let took = begun.elapsed();
    let few = waiters(WAITERS / 10);
    let each = many.polls as f64 / WAITERS as f64;
    let linear = many.polls <= few.polls * 10 + 10;
    let endless = idle(None);
    let ending = idle(Some(Duration::from_secs(3600)));
    vec![
        Line::marked(
            "10,000 requests waiting on one login, logins",
            "1",
            many.logins.to_string(),
            many.logins == 1,
            "",
        ),
        Line::marked(
            "10,000 requests waiting on one login, polls",
            "linear",
            format!(
                "{each:.2} each, {:.2} of 1,000; {:.0} ms for all of it",
                few.polls as f64 / (WAITERS / 10) as f64,
                took.as_secs_f64() * 1e3
            ),
            linear,
            "",
        ),
        Line::marked(
            "10,000 requests waiting on one login, bytes each",
            "under 256",
            format!("{:.0}", many.bytes),
            many.bytes < 256.0,
            "",
        ),
        Line::marked(
            "an idle session, bytes",
            "under 2048",
            format!("{}; {} with a token that ends", endless.bytes, ending.bytes),
            endless.bytes.max(ending.bytes) < 2048,
            "",
        ),
        Line::marked(
            "an idle session, tasks",
            "0, or 1 with a timer to keep",
            format!("{}; {} with a token that ends", endless.tasks, ending.tasks),
            endless.tasks == 0 && ending.tasks <= 1,
            "",
        ),
    ]
}
