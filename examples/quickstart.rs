//! A whole session against an embedded Control-M, without a network: log in,
//! survive an expired token and a restart under load, change the password, log
//! out. Then a second session whose tokens are refreshed ahead of their expiry.
//! Exits non-zero if the server's account does not match.

use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower::{ServiceBuilder, ServiceExt};
use tower_reauth::controlm::ControlM;
use tower_reauth::controlm::emulator::Emulator;
use tower_reauth::{BoxError, Credentials, PasswordChange, Reason, Session, SessionService};

const LIFETIME: Duration = Duration::from_secs(3);
const CALLERS: u64 = 64;

type Http = Client<HttpConnector, Full<Bytes>>;

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let began = Instant::now();
    let mut story = Story { began, failed: 0 };

    let emulator = Emulator::builder()
        .user("emuser", "first-password")
        .lifetime(LIFETIME)
        .lock_after(3)
        .latency(Duration::from_millis(5))
        .login_latency(Duration::from_millis(100))
        .build();
    let server = emulator.serve("127.0.0.1:0").await?;
    story.tell(format_args!(
        "a Control-M server in this process; its tokens live {LIFETIME:?}"
    ));

    // This is the code that a user of the crate writes.
    let http: Http = Client::builder(TokioExecutor::new()).build_http();
    let credentials = Credentials::new("emuser", "first-password");
    let session = Session::new(ControlM::new(
        http.clone(),
        server.url().clone(),
        credentials,
    )?);
    let client = ServiceBuilder::new().layer(session.layer()).service(http);

    let caller = Caller {
        client,
        base: server.url().to_string(),
    };
    let logins = || emulator.account().logins;

    story.tell(format_args!("{CALLERS} calls at once, before any login"));
    let failed = caller.call_all(CALLERS, "before").await;
    story.check(
        "all succeeded, after one login",
        failed == 0 && logins() == 1,
    );

    story.tell("calls go on while the token expires on the server");
    let mut rounds = 0;
    let mut failed = 0;
    let give_up = Instant::now() + 3 * LIFETIME;
    // Stop two rounds after the expiry.
    let mut beyond = 0;
    while beyond < 2 && Instant::now() < give_up {
        beyond += u64::from(logins() > 1);
        rounds += 1;
        failed += caller.call_all(CALLERS, &format!("expiry-{rounds}")).await;
        sleep(Duration::from_millis(50)).await;
    }
    let rejected = emulator.account().dead_tokens;
    story.tell(format_args!(
        "  {} calls, of which {rejected} were replayed",
        rounds * CALLERS
    ));
    story.check(
        "none failed, after exactly one new login",
        failed == 0 && logins() == 2 && rejected > 0,
    );

    emulator.restart();
    story.tell("the server restarts and forgets all sessions");
    let failed = caller.call_all(CALLERS, "restart").await;
    story.check(
        "no call failed, after one more login",
        failed == 0 && logins() == 3,
    );

    session
        .change_password(PasswordChange::to("second-password"))
        .await?;
    story.tell("the password is changed, and the server restarts again");
    emulator.restart();
    let failed = caller.call_all(CALLERS, "new-password").await;
    story.check(
        "the session logs in with the new password",
        failed == 0 && logins() == 4 && emulator.account().failed_logins == 0,
    );

    session.logout().await?;
    story.tell("logged out");
    let refused = caller.order("after-logout").await;
    let refused =
        refused.map_err(|error| tower_reauth::Error::find(&*error).map(tower_reauth::Error::kind));
    story.check(
        "no further call is sent",
        refused == Err(Some(tower_reauth::ErrorKind::LoggedOut)),
    );

    // The first session did not know the lifetime; this one does.
    let http: Http = Client::builder(TokioExecutor::new()).build_http();
    let credentials = Credentials::new("emuser", "second-password");
    let provider = ControlM::new(http.clone(), server.url().clone(), credentials)?;
    let session = Session::new(provider.lifetime(LIFETIME));
    let client = ServiceBuilder::new().layer(session.layer()).service(http);
    let base = server.url().to_string();
    let caller = Caller { client, base };
    story.tell("a second session knows the lifetime of its tokens");
    let give_up = Instant::now() + 4 * LIFETIME;
    let mut ahead_rounds = 0;
    let mut failed = 0;
    while session.stats().logins(Reason::Expiring).succeeded < 2 && Instant::now() < give_up {
        ahead_rounds += 1;
        failed += caller
            .call_all(CALLERS, &format!("ahead-{ahead_rounds}"))
            .await;
        sleep(Duration::from_millis(50)).await;
    }
    let stats = session.stats();
    story.tell(format_args!(
        "  {} calls during two refreshes, of which {} waited, for the first login",
        ahead_rounds * CALLERS,
        stats.waited
    ));
    story.check(
        "none failed, was rejected, or waited for a refresh",
        failed == 0 && stats.rejections == 0 && stats.waited <= CALLERS,
    );
    let closed = session.close(Duration::from_secs(5)).await;
    story.check("closed, with nothing left", closed.is_ok());

    let account = emulator.account();
    println!(
        "\nthe server's account (a dead token is a call that was rejected and replayed):\n{account}\n"
    );
    // Half of the callers order a job in each round.
    let ordered = (3 + rounds + ahead_rounds) * CALLERS / 2;
    story.check(
        "each job was ordered exactly once",
        account.jobs_ordered == ordered
            && account.ordered_by_folder.values().all(|times| *times == 1),
    );
    story.check("no session is left on the server", account.live == 0);
    server.shutdown().await;

    if story.failed > 0 {
        println!("{} checks failed", story.failed);
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Calls the server.
#[derive(Clone)]
struct Caller {
    client: SessionService<Http>,
    base: String,
}

impl Caller {
    /// Calls from `callers` tasks at once, of which every second orders a job.
    /// Returns how many calls failed.
    async fn call_all(&self, callers: u64, round: &str) -> u64 {
        let mut calls = JoinSet::new();
        for number in 0..callers {
            let caller = self.clone();
            let job = format!("{round}-{number}");
            calls.spawn(async move {
                match number % 2 {
                    0 => caller.order(&job).await,
                    _ => {
                        caller
                            .call(Method::GET, "config/servers", Bytes::new())
                            .await
                    }
                }
            });
        }
        let answers = calls.join_all().await;
        let failed = answers.iter().filter(|answer| match answer {
            Ok(status) => *status != StatusCode::OK,
            Err(_) => true,
        });
        failed.count() as u64
    }

    async fn order(&self, job: &str) -> Result<StatusCode, BoxError> {
        let order = format!(r#"{{"ctm":"IN01","folder":"{job}"}}"#);
        self.call(Method::POST, "run/order", order.into()).await
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<StatusCode, BoxError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}/{path}", self.base))
            .body(Full::new(body))?;
        let response = self.client.clone().oneshot(request).await?;
        let status = response.status();
        response.into_body().collect().await?;
        Ok(status)
    }
}

/// Prints each step, and counts failed checks.
struct Story {
    began: Instant,
    failed: u32,
}

impl Story {
    fn tell(&self, event: impl Display) {
        println!("{:6.2} s  {event}", self.began.elapsed().as_secs_f64());
    }

    fn check(&mut self, claim: &str, holds: bool) {
        if !holds {
            self.failed += 1;
        }
        self.tell(format_args!(
            "  {} {claim}",
            if holds { "✓" } else { "✗ failed:" }
        ));
    }
}
