//! What repeats exactly: allocations, polls, bytes, tasks. A bench of its own,
//! since counting allocations takes time.

#[path = "../report/counts.rs"]
mod counts;
#[allow(dead_code, reason = "the other bench uses the rest")]
#[path = "../report/kinds.rs"]
mod kinds;
#[allow(dead_code, reason = "the other bench uses the rest")]
#[path = "../report/peers.rs"]
mod peers;
#[allow(dead_code, reason = "the other bench uses the rest")]
#[path = "../report/table.rs"]
mod table;

use std::time::Duration;

use counts::{allocations, idle, waiters};
use kinds::{Kind, MAKES, Make};
use table::Line;

const WAITERS: usize = 10_000;

fn main() {
    for line in request_path().into_iter().chain(memory()) {
        println!("{line}");
    }
}

fn request_path() -> Vec<Line> {
    let mut lines = vec![];
    for make in MAKES {
        let allocations = allocations(make);
        lines.extend(Kind::layered().map(|kind| {
            let title = format!("allocations: {}{}", kind.title(), make.suffix());
            Line::for_scale(title, allocations.of(kind).to_string())
        }));
        if make == Make::Shared {
            continue;
        }
        for (kind, most) in [(Kind::Never, 0.0), (Kind::Auto, 2.0)] {
            let count = allocations.of(kind);
            lines.push(Line::marked(
                format!("request path, `{kind:?}`, allocations"),
                format!("at most {most}"),
                count.to_string(),
                count <= most,
                "",
            ));
        }
    }
    lines
}

fn memory() -> Vec<Line> {
    let many = waiters(WAITERS);
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
                "{each:.2} each; of 1,000: {:.2}",
                few.polls as f64 / (WAITERS / 10) as f64
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
            endless.bytes.to_string(),
            endless.bytes < 2048,
            "",
        ),
        Line::marked(
            "an idle session with a timer to keep, bytes",
            "under 2048",
            ending.bytes.to_string(),
            ending.bytes < 2048,
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
