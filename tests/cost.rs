//! What repeats exactly of what this crate costs: allocations, polls, bytes,
//! tasks, waits and logins. Times are in benches/.

#[path = "../benches/report/counts.rs"]
mod counts;
#[allow(dead_code, reason = "the benches use the rest")]
#[path = "../benches/report/desk.rs"]
mod desk;
#[allow(dead_code, reason = "the benches use the rest")]
#[path = "../benches/report/kinds.rs"]
mod kinds;
#[allow(dead_code, reason = "the benches use the rest")]
#[path = "../benches/report/load.rs"]
mod load;
#[allow(dead_code, reason = "the benches use the rest")]
#[path = "../benches/report/peers.rs"]
mod peers;
#[allow(dead_code, reason = "the benches use the rest")]
#[path = "../benches/report/rounds.rs"]
mod rounds;

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

use counts::{allocations, idle, waiters};
use desk::{Desk, request};
use kinds::{Kind, MAKES};
use load::callers;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_token_allocates_nothing_and_a_retained_request_twice() {
    for make in MAKES {
        let allocations = allocations(make);
        assert_eq!(allocations.of(Kind::Fixed), 0.0);
        assert_eq!(allocations.of(Kind::Never), 0.0);
        // The request, and the buffer with its head.
        assert_eq!(allocations.of(Kind::Auto), 2.0, "{make:?}");
        assert_eq!(allocations.of(Kind::IfEmpty), 2.0, "{make:?}");
        assert!(allocations.of(Kind::Auto) <= allocations.of(Kind::Retry));
    }
}

#[test]
fn ten_thousand_waiters_cost_one_login_and_a_few_polls_each() {
    let count = 10_000;
    let many = waiters(count);
    assert_eq!(many.logins, 1);
    // One to start, one when the login lands, and few because of the budget
    // of cooperative tasks.
    assert!(many.polls <= 2 * count as u64, "{} polls", many.polls);
    let few = waiters(count / 10);
    assert!(many.polls <= few.polls * 11, "{} polls", many.polls);
}

#[test]
fn a_waiter_takes_less_than_256_bytes_beyond_its_request() {
    let bytes = waiters(1000).bytes;
    assert!(bytes > 0.0 && bytes < 256.0, "{bytes} bytes");
}

#[test]
fn an_idle_session_has_no_task_but_for_its_timer() {
    assert_eq!(idle(None).tasks, 0);
    assert_eq!(idle(Some(SECOND * 3600)).tasks, 1);
}

#[test]
fn an_idle_session_takes_less_than_two_kibibytes_with_all_that_it_keeps() {
    for lives_for in [None, Some(SECOND * 3600)] {
        let bytes = idle(lives_for).bytes;
        assert!((1..2048).contains(&bytes), "{bytes} bytes: {lives_for:?}");
    }
}

/// Over a client of hyper's, which is large, it is moved with each request.
#[test]
fn a_response_future_is_small_whatever_it_may_have_to_keep() {
    use hyper::body::Incoming;
    use hyper_util::client::legacy::{Client, ResponseFuture as Inner, connect::HttpConnector};
    use tower_reauth::{Auto, Never, ResponseFuture};

    type Body = http_body_util::Full<bytes::Bytes>;
    type Http = Client<HttpConnector, Body>;
    assert!(size_of::<Http>() > 256);
    let inner = size_of::<Inner>();
    assert!(size_of::<ResponseFuture<Http, Auto, Body, Incoming>>() <= inner + 80);
    assert!(size_of::<ResponseFuture<Http, Never, Body, Incoming>>() <= inner + 80);
}

#[tokio::test(start_paused = true)]
async fn no_request_waits_for_a_renewal_that_comes_once_a_second() {
    let desk = Desk::new(MILLISECOND * 100, MILLISECOND, Some(MILLISECOND * 1300));
    let service = desk.ours();
    service.session().token().await.unwrap();
    let waited = service.session().stats().waited;
    let seen = callers(service.clone(), SECOND * 5).await;
    assert!((4..=6).contains(&desk.logins()), "{}", desk.logins());
    assert_eq!(service.session().stats().waited, waited);
    assert_eq!(seen.failed + seen.rejected + desk.rejections(), 0);
    assert_eq!(seen.latencies.len(), load::CALLERS as usize * 500);
    // The millisecond of the server, and the one that the timer rounds up to.
    assert!(seen.latency(1.0) <= 2.0, "{} ms", seen.latency(1.0));
}

#[tokio::test(start_paused = true)]
async fn a_failing_login_is_one_call_and_one_error_for_all() {
    let desk = Desk::new(MILLISECOND * 20, MILLISECOND, None);
    desk.set_down(true);
    let service = desk.ours();
    let begun = Instant::now();
    let mut waiters = JoinSet::new();
    for _ in 0..100 {
        let service = service.clone();
        waiters.spawn(async move {
            service.oneshot(request()).await.unwrap_err();
            begun.elapsed()
        });
    }
    for at in waiters.join_all().await {
        assert_eq!(at, MILLISECOND * 20);
    }
    assert_eq!(desk.logins(), 1);

    desk.set_down(false);
    let healed = Instant::now();
    while service.clone().oneshot(request()).await.is_err() {
        sleep(MILLISECOND * 10).await;
    }
    assert!(healed.elapsed() <= MILLISECOND * 1100);
    assert_eq!(desk.logins(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_login_system_that_is_down_costs_a_few_calls_and_no_error() {
    let desk = Desk::new(MILLISECOND * 20, MILLISECOND, Some(SECOND * 21));
    let service = desk.ours();
    service.clone().oneshot(request()).await.unwrap();
    sleep(SECOND * 16).await;
    desk.set_down(true);
    while desk.logins() == 1 {
        sleep(MILLISECOND).await;
    }
    let seen = callers(service, SECOND * 3).await;
    assert_eq!(seen.failed + seen.rejected + desk.rejections(), 0);
    let calls = desk.logins() - 1;
    assert!((2..=5).contains(&calls), "{calls} calls");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_revokes_every_token_costs_one_login_and_no_rejection() {
    let desk = Desk::new(MILLISECOND * 100, MILLISECOND, None);
    let service = desk.ours();
    service.session().token().await.unwrap();
    let revoke = async {
        sleep(MILLISECOND * 500).await;
        desk.revoke_all();
    };
    let (seen, ()) = tokio::join!(callers(service, SECOND), revoke);
    assert_eq!(seen.failed + seen.rejected, 0);
    assert!(desk.rejections() > 0);
    assert_eq!(desk.logins(), 2);
}
