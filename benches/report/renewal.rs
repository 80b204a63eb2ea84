//! Latency while the token is renewed once a second and a login takes 100 ms.

use std::time::Duration;

use crate::desk::Desk;
use crate::load::{Seen, callers};
use crate::plot::Curve;
use crate::rounds::median;
use crate::runtime;
use crate::table::Line;

const ROUNDS: usize = 5;
const LOGIN: Duration = Duration::from_millis(100);
const ANSWER: Duration = Duration::from_millis(1);
const LASTS: Duration = Duration::from_secs(4);

/// Of which a fifth is left when a renewal is due.
const LIFETIME: Duration = Duration::from_millis(1300);

fn desk(lives_for: Option<Duration>) -> Desk {
    Desk::new(LOGIN, ANSWER, lives_for)
}

/// What a session that expires and one that does not show at the same time, and
/// how many renewals and waiting requests the former had.
async fn side_by_side() -> (Seen, Seen, u64, u64) {
    let (expiring, lasting) = (desk(Some(LIFETIME)).ours(), desk(None).ours());
    for service in [&expiring, &lasting] {
        service.session().token().await.expect("a login");
    }
    let before = expiring.session().stats();
    let seen = tokio::join!(
        callers(expiring.clone(), LASTS),
        callers(lasting.clone(), LASTS)
    );
    let after = expiring.session().stats();
    let renewals = after.all_logins().succeeded - before.all_logins().succeeded;
    (seen.0, seen.1, renewals, after.waited - before.waited)
}

async fn by_hand() -> Seen {
    callers(desk(Some(LIFETIME)).by_hand(), LASTS).await
}

fn percentiles(seen: &Seen) -> String {
    format!(
        "p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms",
        seen.latency(0.5),
        seen.latency(0.99),
        seen.latency(0.999)
    )
}

pub(crate) fn run() -> (Vec<Line>, Vec<Curve>) {
    let runtime = runtime();
    let mut rounds = vec![];
    for _ in 0..ROUNDS {
        rounds.push(runtime.block_on(side_by_side()));
    }
    let hand = runtime.block_on(by_hand());
    let at = |share: f64| {
        let ratio =
            |round: &(Seen, Seen, u64, u64)| round.0.latency(share) / round.1.latency(share);
        median(&rounds.iter().map(ratio).collect::<Vec<_>>())
    };
    let waited: u64 = rounds.iter().map(|round| round.3).sum();
    let renewals: u64 = rounds.iter().map(|round| round.2).sum();
    let (ours, lasting, ..) = &rounds[0];
    let lines = vec![
        Line::for_scale("renewal under load: this crate", percentiles(ours)),
        Line::for_scale(
            "renewal under load: a session without an end",
            percentiles(lasting),
        ),
        Line::for_scale("renewal under load: by hand", percentiles(&hand)),
        Line::marked(
            "renewal under load, requests that waited",
            "0",
            format!("{waited} over {renewals} renewals"),
            waited == 0 && renewals >= 10,
            "",
        ),
        Line::marked(
            "renewal under load, p99.9",
            "1.05 x a session without an end",
            format!(
                "{:.2} x (p50 {:.2} x, p99 {:.2} x)",
                at(0.999),
                at(0.5),
                at(0.99)
            ),
            at(0.999) <= 1.05,
            "the tail is the machine's, not the session's; see the noise below",
        ),
    ];
    let curves = vec![
        Curve {
            title: "by hand",
            points: hand.longest(0.01),
            ours: false,
        },
        Curve {
            title: "this crate",
            points: ours.longest(0.01),
            ours: true,
        },
    ];
    (lines, curves)
}
