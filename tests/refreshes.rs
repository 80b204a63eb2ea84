//! Refreshes by rejection are bounded, whatever the server does: each row is a session
//! of the real thing on virtual time, with ten requests a second.

use std::convert::Infallible;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body_util::Full;
use tokio::time::{Instant, sleep_until};
use tower::{Layer, ServiceExt, service_fn};
use tower_reauth::{
    Auto, LoginContext, Profile, ProviderError, Session, SessionLayer, Token, provider_fn,
};

const EVERY: Duration = Duration::from_millis(100);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// What the API knows of a request.
struct Asked<'a> {
    at: Duration,
    /// When its token was issued.
    issued: Duration,
    path: &'a str,
    /// The number of the request, of all that have reached it.
    number: u64,
}

/// Which paths are asked for, in turn.
#[derive(Clone, Copy)]
enum Paths {
    /// A new one each time.
    New,
    Of(u64),
}

#[derive(Debug)]
struct Row {
    accepted: f64,
    logins: usize,
    /// When the first request was accepted.
    first: Option<Duration>,
    /// How many requests to `/good` were rejected.
    bad: u64,
}

/// A generator of random numbers (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn paths(paths: Paths) -> impl Fn(u64) -> String {
    move |number| match paths {
        Paths::New => format!("/{number}"),
        Paths::Of(count) => format!("/{}", number % count),
    }
}

/// Sends ten requests a second for `lasts`, one after the other.
async fn run(
    lasts: Duration,
    path: impl Fn(u64) -> String,
    accepts: impl FnMut(Asked<'_>) -> bool + Send + 'static,
) -> Row {
    run_with(None, lasts, path, accepts).await
}

/// The same, with tokens of this lifetime.
async fn run_with(
    lives_for: Option<Duration>,
    lasts: Duration,
    path: impl Fn(u64) -> String,
    accepts: impl FnMut(Asked<'_>) -> bool + Send + 'static,
) -> Row {
    let start = Instant::now();
    let issued = Arc::new(Mutex::new(Vec::new()));
    let provider = {
        let issued = issued.clone();
        let profile = Profile::at("https://api.test".parse().unwrap());
        provider_fn(profile, move |_: LoginContext| {
            let mut issued = issued.lock().unwrap();
            issued.push(start.elapsed());
            let token = Token::bearer(issued.len().to_string());
            async move {
                let token = token?;
                Ok::<_, ProviderError>(match lives_for {
                    Some(lives_for) => token.lives_for(lives_for),
                    None => token,
                })
            }
        })
    };
    let service = {
        let api = Arc::new(Mutex::new((accepts, 0)));
        let issued = issued.clone();
        service_fn(move |request: Request<Full<Bytes>>| {
            let (accepts, number) = &mut *api.lock().unwrap();
            *number += 1;
            let issued = issued.lock().unwrap()[token_of(request.headers()) - 1];
            let asked = Asked {
                at: start.elapsed(),
                issued,
                path: request.uri().path(),
                number: *number,
            };
            let status = if accepts(asked) { 200 } else { 401 };
            let response = Response::builder().status(status);
            let response = response.body(Full::<Bytes>::default()).unwrap();
            std::future::ready(Ok::<_, Infallible>(response))
        })
    };
    let session = Session::new(provider);
    let layer: SessionLayer<Auto> = session.layer();
    let client = layer.layer(service);
    let mut row = Row {
        accepted: 0.0,
        logins: 0,
        first: None,
        bad: 0,
    };
    let (mut sent, mut accepted) = (0_u64, 0_u64);
    while EVERY * u32::try_from(sent).unwrap() < lasts {
        sleep_until(start + EVERY * u32::try_from(sent).unwrap()).await;
        sent += 1;
        let path = path(sent);
        let request = Request::get(format!("https://api.test{path}"));
        let request = request.body(Full::default()).unwrap();
        let response = client.clone().oneshot(request).await.unwrap();
        match response.status().is_success() {
            true => {
                accepted += 1;
                row.first.get_or_insert(start.elapsed());
            }
            false => row.bad += u64::from(path == "/good"),
        }
    }
    row.accepted = accepted as f64 / sent as f64;
    row.logins = issued.lock().unwrap().len();
    row
}

fn token_of(headers: &HeaderMap) -> usize {
    let value = headers[header::AUTHORIZATION].to_str().unwrap();
    value.strip_prefix("Bearer ").unwrap().parse().unwrap()
}

fn say(what: &str, row: &Row) {
    let Row {
        accepted,
        logins,
        first,
        bad,
    } = row;
    let first = first.map_or("never".into(), |first| {
        format!("{:.1} s", first.as_secs_f64())
    });
    println!(
        "{what:<50} {accepted:.4} accepted, first after {first}, {logins} logins, {bad} good ones rejected"
    );
}

/// Rule 9 (b).
#[tokio::test(start_paused = true)]
async fn a_login_system_that_is_ahead_of_the_api_is_waited_for() {
    for lag in [
        1.0, 2.0, 5.0, 8.5, 9.0, 11.0, 12.0, 17.0, 20.0, 30.0, 33.0, 60.0, 65.0, 120.0,
    ] {
        for targets in [Paths::New, Paths::Of(1), Paths::Of(10)] {
            let time = Duration::from_secs_f64(lag);
            let lasts = time * 3 + MINUTE;
            let row = run(lasts, paths(targets), move |asked| {
                asked.at - asked.issued >= time
            })
            .await;
            say(&format!("a lag of {lag} s"), &row);
            let first = row.first.expect("it comes back");
            assert!(
                first <= time * 3 + Duration::from_millis(1500),
                "{lag}: {row:?}"
            );
            assert!(row.logins as f64 <= 3.0 + lag.log2(), "{lag}: {row:?}");
        }
    }
}

/// Rule 13.
#[tokio::test(start_paused = true)]
async fn a_refresh_ahead_of_time_is_no_outage_of_an_api_that_lags() {
    const LIFETIME: Duration = Duration::from_secs(300);
    for lag in [0.0, 0.3, 1.0, 2.0, 5.0, 8.5, 12.0, 20.0, 30.0, 40.0] {
        let time = Duration::from_secs_f64(lag);
        let good = |_| "/good".to_owned();
        let row = run_with(Some(LIFETIME), HOUR, good, move |asked| {
            let age = asked.at - asked.issued;
            // The first token is known from the start.
            age < LIFETIME && (age >= time || asked.issued.is_zero())
        })
        .await;
        say(&format!("a lag of {lag} s, refreshed ahead"), &row);
        assert_eq!(row.bad, 0, "{lag}: {row:?}");
        // Each is due 45 to 60 s before its end.
        assert!((14..=16).contains(&row.logins), "{lag}: {row:?}");
    }
}

/// Rule 9 (c) and (d).
#[tokio::test(start_paused = true)]
async fn one_bad_node_of_several_costs_few_logins_and_hardly_a_request() {
    for nodes in [2, 3, 10] {
        for targets in [Paths::New, Paths::Of(1), Paths::Of(10)] {
            let by_turns = move |asked: Asked<'_>| !asked.number.is_multiple_of(nodes);
            let row = run(MINUTE * 10, paths(targets), by_turns).await;
            say(&format!("one bad node of {nodes}, by turns"), &row);
            assert!(row.logins <= 70 && row.accepted >= 0.99, "{nodes}: {row:?}");

            let mut random = Random(nodes * 7919);
            let at_random = move |_: Asked<'_>| random.below(nodes) != 0;
            let row = run(MINUTE * 10, paths(targets), at_random).await;
            say(&format!("one bad node of {nodes}, at random"), &row);
            let possible = 1.0 - 1.0 / (nodes * nodes) as f64;
            assert!(row.logins <= 70, "{nodes}: {row:?}");
            assert!(row.accepted >= possible - 0.02, "{nodes}: {row:?}");
        }
    }
}

/// Rule 9 (a) and (b).
#[tokio::test(start_paused = true)]
async fn a_forbidden_target_costs_few_logins_and_nobody_else_anything() {
    let in_an_hour: RangeInclusive<usize> = 2..=25;
    for count in [1, 1000] {
        let row = run(HOUR, paths(Paths::Of(count)), |_| false).await;
        say(&format!("{count} forbidden, alone"), &row);
        assert!(in_an_hour.contains(&row.logins), "{count}: {row:?}");
    }
    let by_turns = |number: u64| match number.is_multiple_of(2) {
        true => "/good".to_owned(),
        false => "/forbidden".to_owned(),
    };
    let row = run(HOUR, by_turns, |asked| asked.path == "/good").await;
    say("one forbidden beside a good one", &row);
    assert!(in_an_hour.contains(&row.logins) && row.bad == 0, "{row:?}");
}

/// Rule 9 (c).
#[tokio::test(start_paused = true)]
async fn a_session_that_really_died_comes_back_at_once() {
    let row = run(HOUR, paths(Paths::Of(10)), |asked| {
        asked.at - asked.issued < MINUTE
    })
    .await;
    say("tokens that die untold each 60 s", &row);
    assert!(row.accepted == 1.0 && row.logins <= 60, "{row:?}");

    // Also while a forbidden target is polled: in ten seconds at most.
    for second in [600, 607, 614, 621, 628] {
        let dies = Duration::from_secs(second);
        let path = |number: u64| match number.is_multiple_of(5) {
            true => "/forbidden".to_owned(),
            false => "/good".to_owned(),
        };
        let row = run(MINUTE * 12, path, move |asked| {
            asked.path == "/good" && (asked.at < dies || asked.issued >= dies)
        })
        .await;
        assert!(
            row.bad <= 80 && row.logins <= 16,
            "dies at {second} s: {row:?}"
        );
        if second == 600 {
            say("it dies while a forbidden target is polled", &row);
        }
    }
}
