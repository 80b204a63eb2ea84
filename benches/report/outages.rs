//! Logins that fail, a login system that is down, a server that revokes all.

use std::time::Duration;

use http::{Request, Response};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceExt};

use crate::desk::{Desk, request};
use crate::load::callers;
use crate::peers::Body;
use crate::runtime;
use crate::table::Line;

const WAITERS: usize = 100;

/// When the first and the last of the waiters got its error.
async fn errors<S, B>(service: &S) -> (Duration, Duration)
where
    S: Service<Request<Body>, Response = Response<B>, Future: Send> + Clone + Send + 'static,
    S::Error: Send,
    B: Send,
{
    let begun = Instant::now();
    let mut waiters = JoinSet::new();
    for _ in 0..WAITERS {
        let service = service.clone();
        waiters.spawn(async move {
            assert!(ServiceExt::oneshot(service, request()).await.is_err());
            begun.elapsed()
        });
    }
    let mut at = waiters.join_all().await;
    at.sort();
    (at[0], at[WAITERS - 1])
}

/// How long until a request succeeds, sending one each 10 ms.
async fn first_success<S, B>(service: &S) -> Duration
where
    S: Service<Request<Body>, Response = Response<B>> + Clone,
{
    let begun = Instant::now();
    while ServiceExt::oneshot(service.clone(), request())
        .await
        .is_err()
    {
        sleep(Duration::from_millis(10)).await;
    }
    begun.elapsed()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn failing_login() -> Vec<Line> {
    let desk = || Desk::new(Duration::from_millis(20), Duration::from_millis(1), None);
    runtime().block_on(async {
        let (ours, theirs) = (desk(), desk());
        ours.set_down(true);
        theirs.set_down(true);
        let service = ours.ours();
        let (first, last) = errors(&service).await;
        let calls = ours.logins();
        ours.set_down(false);
        let healed = first_success(&service).await;
        let (_, by_hand) = errors(&theirs.by_hand()).await;
        let apart = milliseconds(last - first);
        vec![
            Line::for_scale(
                "a failing login, 100 waiters: by hand",
                format!(
                    "{} calls, the last error after {:.0} ms",
                    theirs.logins(),
                    milliseconds(by_hand)
                ),
            ),
            Line::marked(
                "a failing login, 100 waiters, calls",
                "1",
                calls.to_string(),
                calls == 1,
                "",
            ),
            Line::marked(
                "a failing login, last error after the first",
                "2 ms",
                format!("{apart:.2} ms"),
                apart <= 2.0,
                "the machine did something else in between",
            ),
            Line::marked(
                "the login system heals after one failed login, first success",
                "1.1 s",
                format!("{:.2} s", healed.as_secs_f64()),
                healed <= Duration::from_millis(1100),
                "",
            ),
        ]
    })
}

fn provider_down() -> Vec<Line> {
    // Due for renewal after 16.8 s to 17.9 s, and good for another 3.
    const LIFETIME: Duration = Duration::from_secs(21);
    const DOWN: Duration = Duration::from_secs(3);
    let desk = Desk::new(
        Duration::from_millis(20),
        Duration::from_millis(1),
        Some(LIFETIME),
    );
    runtime().block_on(async {
        let service = desk.ours();
        service.session().token().await.expect("a login");
        // A request, so that a renewal ahead is worth it.
        let warm = ServiceExt::oneshot(service.clone(), request()).await;
        assert!(warm.is_ok());
        sleep(Duration::from_secs(15)).await;
        let before = callers(service.clone(), Duration::from_millis(1500)).await;
        desk.set_down(true);
        let logins = desk.logins();
        while desk.logins() == logins {
            sleep(Duration::from_millis(5)).await;
        }
        let during = callers(service.clone(), DOWN).await;
        let calls = desk.logins() - logins;
        let rate = |answered: usize, seconds: f64| answered as f64 / seconds;
        let ratio = rate(during.answered(0.0, 3.0), 3.0) / rate(before.answered(0.0, 1.5), 1.5);
        let errors = during.failed + during.rejected;
        vec![
            Line::marked(
                "login system down for 3 s, errors to callers",
                "0",
                errors.to_string(),
                errors == 0,
                "",
            ),
            Line::marked(
                "login system down for 3 s, calls",
                "at most 5",
                calls.to_string(),
                (1..=5).contains(&calls),
                "",
            ),
            Line::marked(
                "login system down for 3 s, throughput",
                "unchanged",
                format!("{ratio:.3} of before"),
                ratio >= 0.98,
                "",
            ),
        ]
    })
}

fn revoke_all() -> Vec<Line> {
    let desk = || Desk::new(Duration::from_millis(100), Duration::from_millis(1), None);
    runtime().block_on(async {
        let ours = desk();
        let service = ours.ours();
        service.session().token().await.expect("a login");
        let lasts = Duration::from_secs(1);
        let revoke = async {
            sleep(lasts / 2).await;
            ours.revoke_all();
        };
        let (seen, ()) = tokio::join!(callers(service, lasts), revoke);
        let logins = ours.logins() - 1;
        let reached = seen.failed + seen.rejected;
        vec![
            Line::marked(
                "the server revokes every token, rejections that reach callers",
                "0",
                format!("{reached} of {}", ours.rejections()),
                reached == 0 && ours.rejections() > 0,
                "",
            ),
            Line::marked(
                "the server revokes every token, logins",
                "1",
                logins.to_string(),
                logins == 1,
                "",
            ),
        ]
    })
}

pub(crate) fn run() -> Vec<Line> {
    let mut lines = failing_login();
    lines.extend(provider_down());
    lines.extend(revoke_all());
    lines
}
