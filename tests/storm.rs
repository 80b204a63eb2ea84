//! Many requests over many expiries, some dropped by their callers: the
//! server's own account is even at the end. On virtual time. The environment
//! variable `SEED` says what chance is to do.

mod chance;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chance::chance;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::{BoxError, Layer, ServiceExt};
use tower_reauth::controlm::ControlM;
use tower_reauth::controlm::emulator::{Emulator, EmulatorService};
use tower_reauth::{Credentials, Reason, Session, SessionService, TokenEnd};

const BASE: &str = "https://ctm.test/automation-api";
const MINUTE: Duration = Duration::from_secs(60);

/// Up to so many milliseconds.
fn millis(chance: &mut fastrand::Rng, below: u64) -> Duration {
    Duration::from_micros(chance.u64(..below * 1000))
}

/// A server that takes its time, and a client of it.
struct World {
    emulator: Emulator,
    session: Session,
    client: SessionService<EmulatorService>,
    /// How often the job of each request that was answered may have been ordered.
    ordered: Arc<Mutex<BTreeMap<String, bool>>>,
}

impl World {
    fn new(server_lifetime: Option<Duration>, told: Option<Duration>) -> Self {
        let emulator = Emulator::builder()
            .user("emuser", "secret")
            .lifetime(server_lifetime)
            .lock_after(1)
            .latency(Duration::from_millis(5))
            .login_latency(Duration::from_millis(100))
            .build();
        let provider: ControlM<EmulatorService, Full<Bytes>> = ControlM::new(
            emulator.service(),
            BASE.parse().unwrap(),
            Credentials::new("emuser", "secret"),
        )
        .unwrap();
        let session = Session::new(provider.lifetime(told));
        let client = session.layer().layer(emulator.service());
        Self {
            emulator,
            session,
            client,
            ordered: Arc::default(),
        }
    }

    /// One caller: waits a while, orders a job or reads the servers, and loses
    /// patience after `patience`.
    fn call(
        &self,
        number: u64,
        wait: Duration,
        patience: Option<Duration>,
    ) -> impl Future<Output = Result<(), BoxError>> + Send + 'static {
        let client = self.client.clone();
        let ordered = self.ordered.clone();
        async move {
            sleep(wait).await;
            let folder = format!("f{number}");
            let order = number.is_multiple_of(2);
            let (method, path, body) = match order {
                true => {
                    ordered.lock().unwrap().insert(folder.clone(), false);
                    let order = format!(r#"{{"ctm":"IN01","folder":"{folder}"}}"#);
                    (Method::POST, "run/order", order)
                }
                false => (Method::GET, "config/servers", String::new()),
            };
            let request = Request::builder()
                .method(method)
                .uri(format!("{BASE}/{path}"))
                .body(Full::<Bytes>::from(body))?;
            let answered = async {
                let response = client.oneshot(request).await?;
                let status = response.status();
                response.into_body().collect().await?;
                Ok::<_, BoxError>(status)
            };
            let status = match patience {
                None => answered.await?,
                Some(patience) => match timeout(patience, answered).await {
                    Ok(status) => status?,
                    Err(_) => return Ok(()),
                },
            };
            assert_eq!(status, 200, "request {number}");
            if order {
                ordered.lock().unwrap().insert(folder, true);
            }
            Ok(())
        }
    }

    async fn all(&self, calls: JoinSet<Result<(), BoxError>>) {
        for outcome in timeout(MINUTE * 60 * 24, calls.join_all())
            .await
            .expect("must not hang")
        {
            outcome.unwrap();
        }
    }

    /// What must be true at the end.
    async fn is_even(&self) {
        self.session.close(MINUTE).await.unwrap();
        let account = self.emulator.account();
        let stats = self.session.stats();
        assert!(account.balances());
        assert_eq!(account.live, 0, "{account}");
        assert_eq!(account.no_token, 0);
        assert_eq!(account.failed_logins, 0);
        assert_eq!(stats.all_logins().failed, 0);
        assert_eq!(stats.all_logins().succeeded, account.logins);
        assert_eq!(stats.ended(TokenEnd::Abandoned), 0);
        let ended = [TokenEnd::LoggedOut, TokenEnd::Rejected, TokenEnd::Expired];
        let ended: u64 = ended.iter().map(|end| stats.ended(*end)).sum();
        assert_eq!(ended, account.logins, "{stats:?}");
        for (folder, answered) in self.ordered.lock().unwrap().iter() {
            let times = account.ordered(folder);
            assert!(times <= 1, "{folder} was ordered {times} times");
            assert!(!answered || times == 1, "{folder} was not ordered");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_requests_over_twenty_expiries_cost_one_login_each() {
    let mut chance = chance();
    let world = World::new(None, None);
    for round in 0..20 {
        let mut calls = JoinSet::new();
        for number in 0..500 {
            let wait = millis(&mut chance, 2000);
            let dropped = chance.u8(..5) == 0;
            let patience = dropped.then(|| millis(&mut chance, 150));
            calls.spawn(world.call(round * 500 + number, wait, patience));
        }
        // In the middle of it, and so that somebody comes later.
        let when = Duration::from_millis(500) + millis(&mut chance, 1000);
        sleep(when).await;
        world.emulator.expire_all();
        world.all(calls).await;
        // A refresh is allowed each ten seconds.
        sleep(Duration::from_secs(10)).await;
    }
    let account = world.emulator.account();
    assert_eq!(account.logins, 21, "{account}");
    let stats = world.session.stats();
    assert_eq!(stats.logins(Reason::Rejected).succeeded, 20);
    // Those that were dropped meanwhile are not told from unhelpful ones.
    assert!(stats.helpful_replays <= stats.replays);
    assert!(stats.helpful_replays > stats.replays / 2, "{stats:?}");
    world.is_even().await;
    assert_eq!(world.emulator.account().expired, 20);
    assert_eq!(world.emulator.account().logged_out, 1);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_requests_over_twenty_lifetimes_meet_no_rejection_and_no_wait() {
    let mut chance = chance();
    let lifetime = MINUTE * 30;
    let world = World::new(Some(lifetime), Some(lifetime));
    let mut calls = JoinSet::new();
    for number in 0..10_000 {
        // Eight hours and a half: the last token is the twenty-first.
        let wait = millis(&mut chance, 20 * 25 * 60 * 1000 + 20 * 60 * 1000);
        let dropped = chance.u8(..5) == 0;
        let patience = dropped.then(|| millis(&mut chance, 10));
        calls.spawn(world.call(number, wait, patience));
    }
    world.all(calls).await;
    let stats = world.session.stats();
    assert_eq!(stats.rejections, 0);
    assert_eq!(stats.logins(Reason::Expired).succeeded, 0);
    assert!((19..=20).contains(&stats.logins(Reason::Expiring).succeeded));
    // The first login is all that anybody waited for.
    assert!(stats.waited < 10, "{stats:?}");
    world.is_even().await;
    let account = world.emulator.account();
    assert_eq!(account.dead_tokens, 0, "{account}");
    assert_eq!(account.logged_out, account.logins);
}
