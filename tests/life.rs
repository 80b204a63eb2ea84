//! A session's whole life against a server that keeps account of its sessions:
//! renewals ahead, retired tokens, the end; on virtual time.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tower::{BoxError, Layer, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_reauth::testing::{Answer, Call, Gate, ScriptedProvider, ScriptedService};
use tower_reauth::{
    CredentialProvider, Error, ErrorKind, Event, ExposeSecret, FixedToken, LoginContext,
    LogoutContext, LogoutEnds, Never, Profile, ProviderError, Reason, Reauth, ReauthFailure,
    Rejection, Session, State, Token, TokenEnd, provider_fn,
};

const HOME: &str = "https://api.test/x";
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const NONE: [u64; 0] = [];
const NOTHING: [&str; 0] = [];

/// A server's sessions, by number, and what it does with calls.
#[derive(Default)]
struct Desk {
    profile: Profile,
    lives_for: Option<Duration>,
    idles_out_after: Option<Duration>,
    continues: bool,
    login_takes: Duration,
    logout_takes: Duration,
    /// How many logouts are to fail, for now.
    failing_logouts: Mutex<u32>,
    down: Mutex<bool>,
    sessions: Mutex<BTreeMap<u64, Open>>,
    issued: Mutex<u64>,
    log: Mutex<Vec<String>>,
    /// Lets requests to `/slow` go on.
    gate: Notify,
}

struct Open {
    since: Instant,
    used: Instant,
}

#[derive(Clone)]
struct Server(Arc<Desk>);

impl Server {
    /// Whose logout ends just its token.
    fn new(desk: Desk) -> Self {
        Self::that_ends(LogoutEnds::Token, desk)
    }

    fn that_ends(ends: LogoutEnds, desk: Desk) -> Self {
        let profile = Profile::at(HOME.parse().unwrap()).logout_ends(ends);
        Self(Arc::new(Desk { profile, ..desk }))
    }

    fn living_for(lifetime: Duration) -> Self {
        Self::new(Desk {
            lives_for: Some(lifetime),
            ..Desk::default()
        })
    }

    fn live(&self) -> Vec<u64> {
        let mut sessions = self.0.sessions.lock().unwrap();
        sessions.retain(|_, open| {
            let over = |since: Instant, limit: Option<Duration>| {
                limit.is_some_and(|limit| since.elapsed() >= limit)
            };
            !over(open.since, self.0.lives_for) && !over(open.used, self.0.idles_out_after)
        });
        sessions.keys().copied().collect()
    }

    fn revoke_all(&self) {
        self.0.sessions.lock().unwrap().clear();
    }

    fn log(&self) -> Vec<String> {
        self.0.log.lock().unwrap().clone()
    }

    fn note(&self, what: String) {
        self.0.log.lock().unwrap().push(what);
    }

    fn logouts(&self) -> Vec<String> {
        let mut log = self.log();
        log.retain(|what| what.starts_with("logout"));
        log
    }

    fn is_down(&self, down: bool) {
        *self.0.down.lock().unwrap() = down;
    }

    /// Takes a number if its session is live.
    fn takes(&self, number: u64) -> bool {
        let live = self.live().contains(&number);
        let mut sessions = self.0.sessions.lock().unwrap();
        if let Some(open) = sessions.get_mut(&number) {
            open.used = Instant::now();
        }
        live
    }

    /// A client of it: `/slow` waits for the gate, `/forbidden` takes no token,
    /// `/upgrade` switches protocols.
    fn http(&self) -> Http {
        let server = self.clone();
        BoxCloneSyncService::new(service_fn(move |request: Request<Full<Bytes>>| {
            let server = server.clone();
            async move {
                let path = request.uri().path();
                let taken = server.takes(number(&request)) && path != "/forbidden";
                if path == "/slow" {
                    server.0.gate.notified().await;
                }
                sleep(Duration::from_millis(1)).await;
                let mut response = Response::new(Full::from("a body"));
                if !taken {
                    *response.status_mut() = StatusCode::UNAUTHORIZED;
                } else if path == "/upgrade" {
                    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                }
                Ok(response)
            }
        }))
    }
}

type Http = BoxCloneSyncService<Request<Full<Bytes>>, Response<Full<Bytes>>, Infallible>;
type Client = BoxCloneSyncService<
    Request<Full<Bytes>>,
    Response<tower_reauth::SessionBody<Full<Bytes>>>,
    BoxError,
>;

fn number(request: &Request<Full<Bytes>>) -> u64 {
    let value = request.headers()["authorization"].to_str().unwrap();
    value.strip_prefix("Bearer ").unwrap().parse().unwrap()
}

fn number_of(token: &Token) -> u64 {
    let (_, value) = token.headers().next().unwrap();
    let value = value.to_str().unwrap();
    value.strip_prefix("Bearer ").unwrap().parse().unwrap()
}

impl CredentialProvider for Server {
    fn profile(&self) -> Profile {
        self.0.profile.clone()
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        self.note(format!("login {:?}", login.reason()));
        sleep(self.0.login_takes).await;
        if *self.0.down.lock().unwrap() {
            return Err(ProviderError::unavailable("down"));
        }
        let number = {
            let mut issued = self.0.issued.lock().unwrap();
            *issued += 1;
            *issued
        };
        let now = Instant::now();
        let mut sessions = self.0.sessions.lock().unwrap();
        if self.0.continues {
            sessions.clear();
        }
        sessions.insert(
            number,
            Open {
                since: now,
                used: now,
            },
        );
        let mut token = Token::bearer(number.to_string())?;
        if let Some(lifetime) = self.0.lives_for {
            token = token.lives_for(lifetime);
        }
        if let Some(idle) = self.0.idles_out_after {
            token = token.idles_out_after(idle);
        }
        if self.0.continues {
            token = token.continues_previous();
        }
        Ok(token)
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        let number = number_of(cx.token());
        self.note(format!("logout {number}"));
        sleep(self.0.logout_takes).await;
        {
            let mut failing = self.0.failing_logouts.lock().unwrap();
            if *failing > 0 {
                *failing -= 1;
                return Err(ProviderError::unavailable("down"));
            }
        }
        let live = self.live().contains(&number);
        self.0.sessions.lock().unwrap().remove(&number);
        match live {
            true => Ok(()),
            false => Err(ProviderError::token_rejected("dead")),
        }
    }
}

fn client(session: &Session, server: &Server) -> Client {
    BoxCloneSyncService::new(session.layer().layer(server.http()))
}

fn to(path: &str) -> Request<Full<Bytes>> {
    let uri = format!("https://api.test{path}");
    Request::get(uri).body(Full::default()).unwrap()
}

/// Sends a request and reads its answer to the end.
async fn ask(client: &Client, path: &str) -> Result<u16, BoxError> {
    let response = timeout(HOUR, client.clone().oneshot(to(path)))
        .await
        .expect("must not hang")?;
    let status = response.status().as_u16();
    response.into_body().collect().await?;
    Ok(status)
}

fn kind(error: &BoxError) -> ErrorKind {
    Error::find(&**error)
        .expect("an error of the session")
        .kind()
}

/// Reports that the token in use was accepted.
async fn prove(session: &Session) {
    session.accept(&session.token().await.unwrap());
}

/// Lets everything happen that is to happen at once, on paused time.
async fn settle() {
    sleep(Duration::from_millis(100)).await;
}

#[tokio::test(start_paused = true)]
async fn under_traffic_no_request_ever_waits_but_the_first() {
    let server = Server::new(Desk {
        lives_for: Some(MINUTE * 30),
        login_takes: Duration::from_secs(2),
        ..Desk::default()
    });
    let session = Session::new(server.clone());
    let client = client(&session, &server);
    for _ in 0..600 {
        assert_eq!(ask(&client, "/x").await.unwrap(), 200);
        sleep(Duration::from_secs(30)).await;
    }
    let stats = session.stats();
    assert_eq!(stats.waited, 1);
    assert_eq!(stats.time_waited, Duration::from_secs(2));
    assert_eq!((stats.rejections, stats.replays), (0, 0));
    // Five hours, and a renewal each 25 minutes or a little later.
    let renewals = stats.logins(Reason::Expiring).succeeded;
    assert!((11..=12).contains(&renewals), "{renewals}");
    assert_eq!(stats.all_logins().succeeded, renewals + 1);
    assert_eq!(stats.ended(TokenEnd::LoggedOut), renewals);
    assert_eq!(server.live().len(), 1, "the replaced ones are gone");
    session.close(MINUTE).await.unwrap();
    assert_eq!(server.live(), NONE);
}

#[tokio::test(start_paused = true)]
async fn an_unused_session_is_left_alone_and_one_kept_alive_is_not() {
    for (keep_alive, logins) in [(false, 1), (true, 2)] {
        let server = Server::living_for(HOUR);
        let mut session = Session::builder(server.clone());
        if keep_alive {
            session = session.keep_alive();
        }
        let session = session.build();
        session.renew().await.unwrap();
        sleep(HOUR - MINUTE).await;
        assert_eq!(server.log().len(), logins);
        assert_eq!(session.stats().all_logins().succeeded, logins as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_starts_with_a_token_renews_it_ahead() {
    let server = Server::living_for(HOUR);
    let initial = server.login(LoginContext::new(Reason::Initial)).await;
    let session = Session::builder(server.clone()).initial_token(initial.unwrap());
    let session = session.build();
    let client = client(&session, &server);
    assert_eq!(ask(&client, "/x").await.unwrap(), 200);
    sleep(HOUR - MINUTE).await;
    assert_eq!(session.stats().logins(Reason::Expiring).succeeded, 1);
    assert_eq!(ask(&client, "/x").await.unwrap(), 200);
    assert_eq!(session.stats().waited, 0);
}

#[tokio::test(start_paused = true)]
async fn traffic_keeps_an_idle_session_alive_without_a_login() {
    let server = Server::new(Desk {
        idles_out_after: Some(MINUTE * 10),
        ..Desk::default()
    });
    let session = Session::new(server.clone());
    let client = client(&session, &server);
    for gap in [1, 30, 200, 540, 560, 3, 560, 299, 560] {
        assert_eq!(ask(&client, "/x").await.unwrap(), 200);
        sleep(Duration::from_secs(gap)).await;
    }
    assert_eq!(ask(&client, "/x").await.unwrap(), 200);
    assert_eq!(server.log(), ["login Initial"]);

    sleep(MINUTE * 11).await;
    assert_eq!(session.status().state, State::Idle);
    assert_eq!(ask(&client, "/x").await.unwrap(), 200);
    assert_eq!(server.log(), ["login Initial", "login Expired"]);
    assert_eq!(session.stats().rejections, 0);
}

#[tokio::test(start_paused = true)]
async fn requests_that_fail_keep_no_idle_session_alive() {
    let server = Server::new(Desk {
        idles_out_after: Some(MINUTE * 10),
        ..Desk::default()
    });
    let session = Session::new(server.clone());
    let fails = service_fn(|_: Request<Full<Bytes>>| async {
        Err::<Response<Full<Bytes>>, BoxError>("no connection".into())
    });
    let client = session.layer().layer(fails);
    for _ in 0..9 {
        assert!(client.clone().oneshot(to("/x")).await.is_err());
        sleep(MINUTE).await;
    }
    assert_eq!(session.status().state, State::Live);
    sleep(MINUTE * 2).await;
    assert_eq!(session.status().state, State::Idle);
}

#[tokio::test(start_paused = true)]
async fn a_late_timer_costs_a_rejection_and_its_replay() {
    let server = Server::living_for(HOUR);
    let session = Session::new(server.clone());
    let client = client(&session, &server);
    assert_eq!(ask(&client, "/x").await.unwrap(), 200);
    // As after a suspend of which no clock knows: the server's time is over.
    server.revoke_all();
    assert_eq!(ask(&client, "/x").await.unwrap(), 200);
    let stats = session.stats();
    assert_eq!(
        (stats.rejections, stats.replays, stats.helpful_replays),
        (1, 1, 1)
    );
    assert_eq!(stats.ended(TokenEnd::Rejected), 1);
    assert_eq!(server.logouts(), NOTHING, "it was dead");
}

#[tokio::test(start_paused = true)]
async fn a_replaced_token_is_logged_out_when_its_last_body_has_ended() {
    let server = Server::living_for(HOUR);
    let session = Session::new(server.clone());
    let client = client(&session, &server);
    let read = client.clone().oneshot(to("/x")).await.unwrap();
    let dropped = client.clone().oneshot(to("/x")).await.unwrap();
    let held = session.token().await.unwrap();
    let slow = tokio::spawn(client.clone().oneshot(to("/slow")));
    settle().await;
    session.renew().await.unwrap();
    prove(&session).await;
    settle().await;
    assert_eq!(server.logouts(), NOTHING);

    read.into_body().collect().await.unwrap();
    settle().await;
    drop(dropped);
    settle().await;
    drop(held.clone());
    drop(held);
    settle().await;
    assert_eq!(server.logouts(), NOTHING, "a request is under way");
    server.0.gate.notify_one();
    let response = slow.await.unwrap().unwrap();
    settle().await;
    assert_eq!(server.logouts(), NOTHING, "its body is not read yet");
    response.into_body().collect().await.unwrap();
    settle().await;
    assert_eq!(server.logouts(), ["logout 1"]);
    assert_eq!(server.live(), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_was_taken_out_uses_its_token_no_longer() {
    let server = Server::living_for(HOUR);
    let session = Session::new(server.clone());
    let client = client(&session, &server);
    let response = client.oneshot(to("/x")).await.unwrap();
    let inner: Full<Bytes> = response.into_body().into_inner().unwrap();
    session.renew().await.unwrap();
    prove(&session).await;
    settle().await;
    assert_eq!(server.logouts(), ["logout 1"]);
    assert_eq!(inner.collect().await.unwrap().to_bytes(), "a body");
}

#[tokio::test(start_paused = true)]
async fn a_body_is_not_taken_out_where_its_start_was_read_and_is_whole_all_the_same() {
    let provider = ScriptedProvider::at(HOME.parse().unwrap());
    let service = ScriptedService::new().rejecting_with(|_| {
        let mut response = Response::new(Full::from("a body"));
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        response
    });
    service.accept_only(NOTHING);
    let session = Session::builder(provider.clone()).initial_token(Token::bearer("old").unwrap());
    let session = session.build();
    let asked = |path: &str| session.layer().layer(service.clone()).oneshot(to(path));

    // Its renewal failed; brought the same token; met a logout.
    provider.on_login(ProviderError::refused("no"));
    let failed = asked("/failed").await.unwrap();
    session.login().await.unwrap();
    provider.on_login(Token::bearer("token-1").unwrap());
    let same = asked("/same").await.unwrap();
    // Nothing has accepted the token: the next refresh is spaced.
    sleep(Duration::from_secs(1)).await;
    let gate = Gate::closed();
    provider.on_login(Answer::usual().held_at(&gate));
    let logged_out = tokio::spawn(asked("/logged_out"));
    gate.reached(1).await;
    let logout = tokio::spawn({
        let session = session.clone();
        async move { session.logout().await }
    });
    settle().await;
    gate.open();
    let logged_out = logged_out.await.unwrap().unwrap();
    logout.await.unwrap().unwrap();

    for (response, expected) in [
        (failed, "RenewalFailed"),
        (same, "StillRejected"),
        (logged_out, "LoggedOut"),
    ] {
        let why = format!(
            "{:?}",
            response.extensions().get::<Reauth>().unwrap().failure
        );
        assert!(why.starts_with(expected), "{why}");
        let whole = response.into_body().into_inner().expect_err(expected);
        assert_eq!(whole.collect().await.unwrap().to_bytes(), "a body");
    }
    // Nothing was waited for, and so nothing was read.
    session.login().await.unwrap();
    let never = session.layer().replay(Never).layer(service.clone());
    let response = never.oneshot(to("/never")).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(response.into_body().into_inner().is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_uses_its_token_for_as_long_as_that_is_kept() {
    let server = Server::living_for(HOUR);
    let session = Session::new(server.clone());
    let client = client(&session, &server);
    let response = client.clone().oneshot(to("/upgrade")).await.unwrap();
    let (head, body) = response.into_parts();
    body.collect().await.unwrap();
    let token = head.extensions.get::<Token>().unwrap().clone();
    assert_eq!(token.generation(), 1);
    drop(head);
    session.renew().await.unwrap();
    prove(&session).await;
    settle().await;
    assert_eq!(server.logouts(), NOTHING);
    drop(token);
    settle().await;
    assert_eq!(server.logouts(), ["logout 1"]);

    let response = client.clone().oneshot(to("/x")).await.unwrap();
    assert!(response.extensions().get::<Token>().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_replaced_token_stays_where_its_logout_would_end_the_new_one() {
    let server = Server::that_ends(LogoutEnds::User, Desk::default());
    let session = Session::new(server.clone());
    session.token().await.unwrap();
    session.renew().await.unwrap();
    settle().await;
    assert_eq!(server.logouts(), NOTHING);
    assert_eq!(session.stats().ended(TokenEnd::Abandoned), 1);
}

#[tokio::test(start_paused = true)]
async fn a_continued_token_is_not_logged_out() {
    let server = Server::new(Desk {
        continues: true,
        ..Desk::default()
    });
    let session = Session::new(server.clone());
    session.token().await.unwrap();
    session.renew().await.unwrap();
    settle().await;
    assert_eq!(server.logouts(), NOTHING);
    assert_eq!(session.stats().ended(TokenEnd::Continued), 1);
}

#[tokio::test(start_paused = true)]
async fn a_forbidden_endpoint_leaves_no_session_behind() {
    let server = Server::living_for(HOUR * 10);
    let session = Session::new(server.clone());
    let client = client(&session, &server);
    assert_eq!(ask(&client, "/x").await.unwrap(), 200);
    for _ in 0..600 {
        assert_eq!(ask(&client, "/forbidden").await.unwrap(), 401);
        sleep(Duration::from_secs(1)).await;
    }
    let renewals = session.stats().logins(Reason::Rejected).succeeded;
    assert!((5..=12).contains(&renewals), "{renewals}");
    // Some wait for an accepted request, which shows that the current one is good.
    assert!(server.live().len() <= 5, "{:?}", server.live());
    assert_eq!(ask(&client, "/x").await.unwrap(), 200);
    settle().await;
    assert_eq!(server.live().len(), 1);
    session.close(MINUTE).await.unwrap();
    assert_eq!(server.live(), NONE);
}

#[tokio::test(start_paused = true)]
async fn the_same_headers_with_other_data_are_another_token() {
    let profile = Profile::at("https://api.test".parse().unwrap());
    let provider = ScriptedProvider::new(profile.logout_ends(LogoutEnds::Token));
    let provider = provider.issuing(|number| {
        let data = ["first", "second", "second"][number - 1];
        Token::bearer("same").unwrap().with_data(data)
    });
    let session = Session::new(provider.clone());
    prove(&session).await;
    let logged_out = || -> Vec<String> {
        let data = |cx: &LogoutContext| {
            let data = cx.token().data().expect("each has some");
            data.expose_secret().to_owned()
        };
        let calls = provider.calls().into_iter();
        let logouts = calls.filter_map(|call| match call {
            Call::Logout(cx) => Some(data(&cx)),
            _ => None,
        });
        logouts.collect()
    };
    session.renew().await.unwrap();
    assert_eq!(session.token().await.unwrap().generation(), 2);
    prove(&session).await;
    settle().await;
    assert_eq!(logged_out(), ["first"]);
    // The same data, too: the same token.
    session.renew().await.unwrap();
    assert_eq!(session.token().await.unwrap().generation(), 2);
    session.close(MINUTE).await.unwrap();
    assert_eq!(logged_out(), ["first", "second"]);
}

#[tokio::test(start_paused = true)]
async fn a_logout_that_fails_in_the_background_is_tried_again() {
    let server = Server::new(Desk {
        failing_logouts: Mutex::new(3),
        ..Desk::default()
    });
    let session = Session::new(server.clone());
    session.token().await.unwrap();
    session.renew().await.unwrap();
    prove(&session).await;
    sleep(MINUTE).await;
    assert_eq!(server.logouts(), ["logout 1"; 4]);
    assert_eq!(server.live(), [2]);
    assert_eq!(session.stats().ended(TokenEnd::LoggedOut), 1);
}

#[tokio::test(start_paused = true)]
async fn a_background_logout_that_hangs_holds_up_nobody() {
    let server = Server::new(Desk {
        logout_takes: HOUR,
        ..Desk::default()
    });
    let session = Session::new(server.clone());
    let client = client(&session, &server);
    session.token().await.unwrap();
    session.renew().await.unwrap();
    prove(&session).await;
    settle().await;
    assert_eq!(server.logouts(), ["logout 1"]);
    server.revoke_all();
    let since = Instant::now();
    assert_eq!(ask(&client, "/x").await.unwrap(), 200);
    // The request and its replay.
    assert_eq!(since.elapsed(), Duration::from_millis(2));
}

#[tokio::test(start_paused = true)]
async fn a_logout_ends_the_replaced_tokens_too() {
    let server = Server::living_for(HOUR);
    let session = Session::new(server.clone());
    let held = session.token().await.unwrap();
    session.renew().await.unwrap();
    settle().await;
    assert_eq!(server.live(), [1, 2]);
    session.logout().await.unwrap();
    assert_eq!(server.live(), NONE);
    assert_eq!(session.stats().ended(TokenEnd::LoggedOut), 2);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn what_a_logout_left_is_ended_in_the_background_after_the_next_login() {
    let server = Server::new(Desk {
        failing_logouts: Mutex::new(1),
        ..Desk::default()
    });
    let session = Session::new(server.clone());
    session.token().await.unwrap();
    assert!(session.logout().await.is_err());
    assert_eq!(server.live(), [1]);
    session.login().await.unwrap();
    prove(&session).await;
    settle().await;
    assert_eq!(server.live(), [2]);
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_requests_and_bodies_and_lets_nobody_in() {
    let server = Server::living_for(HOUR);
    let session = Session::new(server.clone());
    let client = client(&session, &server);
    assert_eq!(ask(&client, "/x").await.unwrap(), 200);
    let slow = tokio::spawn(client.clone().oneshot(to("/slow")));
    settle().await;
    let closing = tokio::spawn({
        let session = session.clone();
        async move { session.close(MINUTE).await }
    });
    settle().await;
    assert_eq!(session.status().state, State::Closed);
    for refused in [
        ask(&client, "/x").await.unwrap_err(),
        session.token().await.unwrap_err().into(),
        session.login().await.unwrap_err().into(),
        session.renew().await.unwrap_err().into(),
    ] {
        assert_eq!(kind(&refused), ErrorKind::Closed);
    }
    assert!(!closing.is_finished());
    assert_eq!(server.live(), [1]);

    server.0.gate.notify_one();
    let response = slow.await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    settle().await;
    assert!(!closing.is_finished(), "the body is not read yet");
    response.into_body().collect().await.unwrap();
    closing.await.unwrap().unwrap();
    assert_eq!(server.live(), NONE);
    assert_eq!(
        kind(&ask(&client, "/x").await.unwrap_err()),
        ErrorKind::Closed
    );
    assert_eq!(
        session.login().await.unwrap_err().kind(),
        ErrorKind::Closed,
        "for good"
    );
    session.close(MINUTE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn closing_lets_a_rejected_request_be_renewed_and_replayed() {
    let server = Server::new(Desk {
        login_takes: Duration::from_secs(2),
        ..Desk::default()
    });
    let session = Session::new(server.clone());
    let client = client(&session, &server);
    assert_eq!(ask(&client, "/x").await.unwrap(), 200);
    server.revoke_all();
    let slow = tokio::spawn(async move { ask(&client, "/slow").await });
    settle().await;
    let closing = tokio::spawn(async move { session.close(MINUTE).await });
    settle().await;
    server.0.gate.notify_one();
    sleep(Duration::from_secs(3)).await;
    server.0.gate.notify_one();
    assert_eq!(slow.await.unwrap().unwrap(), 200);
    closing.await.unwrap().unwrap();
    assert_eq!(server.live(), NONE);
    assert_eq!(
        server.log(),
        ["login Initial", "login Rejected", "logout 2"]
    );
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_who_waits_for_a_login() {
    let server = Server::new(Desk {
        login_takes: Duration::from_secs(2),
        ..Desk::default()
    });
    let session = Session::new(server.clone());
    let client = client(&session, &server);
    let waits = tokio::spawn(async move { ask(&client, "/x").await });
    settle().await;
    let since = Instant::now();
    session.close(MINUTE).await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(3), "no longer");
    assert_eq!(waits.await.unwrap().unwrap(), 200);
    assert_eq!(server.live(), NONE);
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_the_logout_of_a_replaced_token() {
    let server = Server::new(Desk {
        failing_logouts: Mutex::new(2),
        ..Desk::default()
    });
    let session = Session::new(server.clone());
    session.token().await.unwrap();
    session.renew().await.unwrap();
    prove(&session).await;
    let since = Instant::now();
    session.close(MINUTE).await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(2));
    assert_eq!(server.live(), NONE);
}

#[tokio::test(start_paused = true)]
async fn closing_says_who_was_left_at_the_deadline_and_logs_out_all_the_same() {
    let server = Server::living_for(HOUR);
    let session = Session::new(server.clone());
    let client = client(&session, &server);
    let body = client.clone().oneshot(to("/x")).await.unwrap();
    let held = session.token().await.unwrap();
    let slow = tokio::spawn(client.oneshot(to("/slow")));
    settle().await;
    let since = Instant::now();
    let left = session.close(MINUTE).await.unwrap_err();
    assert_eq!(since.elapsed(), MINUTE);
    assert_eq!((left.in_use(), left.tokens()), (3, 0));
    assert!(left.logout().is_none());
    assert_eq!(server.live(), NONE);
    assert_eq!(
        left.to_string(),
        "the session was closed; 3 requests, bodies and tokens were still in use"
    );
    slow.abort();
    drop((body, held));
    settle().await;
    session.close(MINUTE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn closing_says_which_logout_failed_and_may_be_repeated() {
    let server = Server::new(Desk {
        failing_logouts: Mutex::new(1),
        ..Desk::default()
    });
    let session = Session::new(server.clone());
    session.token().await.unwrap();
    let left = session.close(MINUTE).await.unwrap_err();
    assert_eq!((left.in_use(), left.tokens()), (0, 1));
    assert_eq!(left.logout().unwrap().kind(), ErrorKind::Unavailable);
    assert_eq!(server.live(), [1]);
    session.close(MINUTE).await.unwrap();
    assert_eq!(server.live(), NONE);
}

/// The layers of two sessions, of which the inner one is logged out before the replay.
#[tokio::test(start_paused = true)]
async fn a_replay_that_an_inner_session_does_not_send_gives_the_rejected_response_back() {
    let profile = || Profile::at("https://api.test".parse().unwrap());
    let issued = AtomicU64::new(0);
    let outer = Session::new(provider_fn(profile(), move |_: LoginContext| {
        let number = issued.fetch_add(1, Ordering::Relaxed);
        async move {
            sleep(MINUTE / 6).await;
            Ok::<_, ProviderError>(Token::bearer(number.to_string())?)
        }
    }));
    let proxy = profile().rejection(Rejection::status(StatusCode::PROXY_AUTHENTICATION_REQUIRED));
    let inner = Session::new(provider_fn(proxy, |_: LoginContext| async {
        Ok::<_, ProviderError>(Token::header("proxy-authorization", "inner")?)
    }));
    let sent = Arc::new(AtomicU64::new(0));
    let counted = sent.clone();
    let service = service_fn(move |_: Request<Full<Bytes>>| {
        counted.fetch_add(1, Ordering::Relaxed);
        let response = Response::builder().status(StatusCode::UNAUTHORIZED);
        let response = response.header("x-reason", "expired");
        std::future::ready(response.body(Full::new(Bytes::from("denied"))))
    });
    let client = outer.layer().layer(inner.layer().layer(service));
    let request = tokio::spawn(client.oneshot(to("/x")));
    // Its first login, and half of the one after the rejection.
    sleep(MINUTE / 4).await;
    inner.logout().await.unwrap();
    let response = request.await.unwrap().unwrap();
    assert_eq!(sent.load(Ordering::Relaxed), 1);
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(response.headers()["x-reason"], "expired");
    let reauth = response.extensions().get::<Reauth>().unwrap();
    assert_eq!((reauth.generation, reauth.replayed), (Some(1), false));
    assert!(matches!(reauth.failure, ReauthFailure::LoggedOut));
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "denied"
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_closes_well_where_there_is_nothing_to_end_on_the_server() {
    for logout_ends in [LogoutEnds::User, LogoutEnds::Token, LogoutEnds::Nothing] {
        let profile = || {
            let profile = Profile::at("https://api.test".parse().unwrap());
            profile.logout_ends(logout_ends)
        };
        // Neither has a logout.
        let api_key = Session::new(FixedToken::api_key(profile(), "3f9a"));
        let issued = AtomicU64::new(0);
        let provider = provider_fn(profile(), move |_: LoginContext| {
            let number = issued.fetch_add(1, Ordering::Relaxed);
            async move { Ok::<_, ProviderError>(Token::bearer(number.to_string())?) }
        });
        let logging_in = Session::new(provider);
        for session in [api_key, logging_in.clone()] {
            session.token().await.unwrap();
            session.logout().await.unwrap();
            session.login().await.unwrap();
            session.renew().await.unwrap();
            prove(&session).await;
            settle().await;
            session.close(MINUTE).await.unwrap();
            session.close(MINUTE).await.unwrap();
        }
        let stats = logging_in.stats();
        let of_replaced = u64::from(logout_ends == LogoutEnds::User);
        assert_eq!(stats.ended(TokenEnd::Abandoned), of_replaced);
        assert_eq!(stats.ended(TokenEnd::Discarded), 3 - of_replaced);
    }
}

#[tokio::test(start_paused = true)]
async fn a_closing_that_is_dropped_leaves_the_session_closed_and_can_be_repeated() {
    let server = Server::living_for(HOUR);
    let session = Session::new(server.clone());
    let held = session.token().await.unwrap();
    assert!(timeout(MINUTE, session.close(HOUR)).await.is_err());
    assert_eq!(session.token().await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(server.live(), [1]);
    drop(held);
    session.close(HOUR).await.unwrap();
    assert_eq!(server.live(), NONE);
}

#[tokio::test(start_paused = true)]
async fn after_the_last_handle_no_task_remains_and_a_login_under_way_is_undone() {
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let server = Server::new(Desk {
        lives_for: Some(HOUR),
        login_takes: Duration::from_secs(2),
        ..Desk::default()
    });
    assert_eq!(tasks(), 0);
    let session = Session::builder(server.clone()).keep_alive().build();
    let client = client(&session, &server);
    let held = session.token().await.unwrap();
    session.renew().await.unwrap();
    settle().await;
    assert_eq!(tasks(), 1, "the timer");
    assert!(
        timeout(Duration::from_secs(1), session.renew())
            .await
            .is_err()
    );
    assert_eq!(tasks(), 3, "and a login, with the task that watches it");
    let mut events = session.events();
    drop((session, client));
    assert_eq!(server.live(), [1, 2]);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(tasks(), 0);
    assert_eq!(server.logouts(), ["logout 3"]);
    // What nobody is left to end is said to be abandoned.
    let mut abandoned = Vec::new();
    while let Some(event) = events.recv().await {
        match event {
            Event::TokenEnded {
                generation,
                end: TokenEnd::Abandoned,
                ..
            } => abandoned.push(generation),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(abandoned, [2, 1]);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_session_with_nothing_to_wait_for_has_no_task() {
    let server = Server::new(Desk::default());
    let session = Session::new(server.clone());
    let client = client(&session, &server);
    assert_eq!(ask(&client, "/x").await.unwrap(), 200);
    settle().await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn events_tell_a_sessions_life_in_order() {
    let server = Server::new(Desk {
        login_takes: Duration::from_secs(2),
        ..Desk::default()
    });
    let session = Session::new(server.clone());
    let mut events = session.events();
    let client = client(&session, &server);
    assert_eq!(ask(&client, "/x").await.unwrap(), 200);
    server.revoke_all();
    assert_eq!(ask(&client, "/x").await.unwrap(), 200);
    server.is_down(true);
    session.renew().await.unwrap_err();
    server.is_down(false);
    session.logout().await.unwrap();
    session.close(MINUTE).await.unwrap();
    drop((session, client));

    let mut told = Vec::new();
    while let Some(event) = events.recv().await {
        told.push(match event {
            Event::LoginStarted { reason, .. } => format!("{reason:?} starts"),
            Event::LoggedIn {
                reason,
                generation,
                elapsed,
                ..
            } => format!("{reason:?} brings {generation} in {elapsed:?}"),
            Event::LoginFailed { reason, error, .. } => {
                format!("{reason:?} fails: {:?}", error.kind())
            }
            Event::TokenRejected { generation, .. } => format!("{generation} rejected"),
            Event::TokenEnded {
                generation, end, ..
            } => format!("{generation} {end:?}"),
            other => format!("{other:?}"),
        });
    }
    assert_eq!(
        told,
        [
            "Initial starts",
            "Initial brings 1 in 2s",
            "Rejected starts",
            "1 rejected",
            "Rejected brings 2 in 2s",
            "1 Rejected",
            "Requested starts",
            "Requested fails: Unavailable",
            "LoggedOut",
            "2 LoggedOut",
            "Closed",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_lags_misses_events_and_holds_nothing_up() {
    let server = Server::new(Desk::default());
    let session = Session::new(server.clone());
    let mut events = session.events();
    for _ in 0..200 {
        session.login().await.unwrap();
        session.logout().await.unwrap();
    }
    let Some(Event::Missed { count, .. }) = events.recv().await else {
        panic!("nothing was missed");
    };
    assert!(count > 0);
    drop(session);
    let mut seen = 0;
    while events.recv().await.is_some() {
        seen += 1;
    }
    assert_eq!(seen, 256);
}

#[tokio::test(start_paused = true)]
async fn a_status_tells_a_probe_and_a_person_how_the_session_is_doing() {
    let server = Server::living_for(HOUR);
    let session = Session::builder(server.clone()).name("billing").build();
    assert!(!session.status().usable);
    assert_eq!(session.status().to_string(), "billing: no token yet");

    session.token().await.unwrap();
    sleep(MINUTE).await;
    let status = session.status();
    assert!(status.usable);
    assert_eq!(status.expires_in, Some(HOUR - MINUTE));
    assert_eq!(
        status.to_string(),
        "billing: live, generation 1, ends in 3540 s"
    );

    server.is_down(true);
    session.renew().await.unwrap_err();
    let status = session.status();
    assert!(status.usable, "the token is good");
    let wait = status.next_attempt_in.unwrap();
    assert!(wait > Duration::ZERO && wait <= Duration::from_millis(500));
    assert_eq!(
        status.to_string(),
        "billing: live, generation 1, ends in 3540 s, last error: login failed: the login \
         system is unavailable: down, next attempt in 1 s"
    );

    session.close(MINUTE).await.unwrap();
    let status = session.status();
    assert!(!status.usable);
    assert_eq!(status.next_attempt_in, None);
    assert!(status.to_string().starts_with("billing: closed"));
}

/// A runtime with a virtual time of its own.
fn paused() -> Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().unwrap()
}

fn multi_threaded() -> Runtime {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap()
}

/// Sends the requests that make a new token live: the first response is reported.
async fn make_live(client: &Client) {
    for _ in 0..2 {
        assert_eq!(ask(client, "/x").await.unwrap(), 200);
    }
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// A request each minute for three hours: no token is used beyond its life, and
/// no request waits but the first.
async fn renews(session: &Session, client: &Client) {
    let before = session.stats().logins(Reason::Expiring).succeeded;
    for _ in 0..180 {
        assert_eq!(ask(client, "/x").await.unwrap(), 200);
        sleep(MINUTE).await;
    }
    let stats = session.stats();
    let renewals = stats.logins(Reason::Expiring).succeeded - before;
    assert!((3..=4).contains(&renewals), "{renewals}");
    assert_eq!((stats.rejections, stats.waited), (0, 1));
}

#[test]
fn a_timer_that_was_lost_with_its_runtime_is_armed_anew_on_the_next() {
    for first in [paused(), multi_threaded()] {
        let server = Server::living_for(HOUR);
        let session = Session::new(server.clone());
        let client = client(&session, &server);
        first.block_on(make_live(&client));
        drop(first);
        paused().block_on(async {
            assert_eq!(ask(&client, "/x").await.unwrap(), 200);
            assert_eq!(tasks(), 1, "the timer");
            renews(&session, &client).await;
        });
    }
}

#[test]
fn a_lifetime_holds_on_each_runtime_that_a_session_moves_to() {
    let server = Server::living_for(HOUR);
    let session = paused().block_on(async { Session::new(server.clone()) });
    let client = client(&session, &server);
    for _ in 0..3 {
        paused().block_on(make_live(&client));
        multi_threaded().block_on(make_live(&client));
    }
    paused().block_on(renews(&session, &client));
}

#[test]
fn a_runtime_that_ends_while_another_uses_the_session_leaves_the_timer_to_that() {
    let server = Server::living_for(HOUR);
    let session = Session::new(server.clone());
    let client = client(&session, &server);
    let (first, second, third) = (paused(), multi_threaded(), paused());
    first.block_on(make_live(&client));
    for _ in 0..2 {
        second.block_on(make_live(&client));
    }
    third.block_on(async {
        assert_eq!(ask(&client, "/x").await.unwrap(), 200);
        assert_eq!(tasks(), 0, "the first runtime has the timer");
        first.shutdown_background();
        assert_eq!(ask(&client, "/x").await.unwrap(), 200);
        assert_eq!(tasks(), 1);
        second.shutdown_background();
        renews(&session, &client).await;
    });
}

#[test]
fn a_session_that_is_kept_alive_is_so_from_its_next_use_on() {
    let server = Server::living_for(HOUR);
    let session = Session::builder(server.clone()).keep_alive().build();
    let client = client(&session, &server);
    paused().block_on(make_live(&client));
    paused().block_on(async {
        drop(session.token().await.unwrap());
        sleep(HOUR * 3).await;
        let renewals = session.stats().logins(Reason::Expiring).succeeded;
        assert!((3..=4).contains(&renewals), "{renewals}");
    });
}

#[test]
fn a_replaced_token_is_logged_out_though_the_runtime_that_waited_for_its_release_has_ended() {
    let server = Server::new(Desk::default());
    let session = Session::new(server.clone());
    let client = client(&session, &server);
    let held = paused().block_on(async {
        let held = session.token().await.unwrap();
        session.renew().await.unwrap();
        make_live(&client).await;
        held
    });
    paused().block_on(async {
        assert_eq!(ask(&client, "/x").await.unwrap(), 200);
        assert_eq!(tasks(), 1, "it waits for the release");
        drop(held);
        settle().await;
        assert_eq!(server.logouts(), ["logout 1"]);
    });
}

#[test]
fn a_runtime_that_is_kept_but_not_driven_loses_the_timer_to_one_that_is() {
    let server = Server::living_for(HOUR);
    let session = Session::new(server.clone());
    let client = client(&session, &server);
    let first = paused();
    first.block_on(make_live(&client));
    paused().block_on(async {
        assert_eq!(ask(&client, "/x").await.unwrap(), 200);
        assert_eq!(tasks(), 0, "the first runtime has the timer");
        sleep(HOUR - MINUTE).await;
        // Refreshes it, since that is due.
        drop(session.token().await.unwrap());
        settle().await;
        assert_eq!(tasks(), 1);
        renews(&session, &client).await;
    });
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_was_blocked_past_a_tokens_end_costs_no_request() {
    let server = Server::living_for(HOUR);
    let session = Session::new(server.clone());
    let client = client(&session, &server);
    assert_eq!(ask(&client, "/x").await.unwrap(), 200);
    tokio::time::advance(HOUR * 2).await;
    for _ in 0..10 {
        assert_eq!(ask(&client, "/x").await.unwrap(), 200);
    }
    assert!(session.stats().rejections <= 1);
    assert_eq!(session.stats().all_logins().succeeded, 2);
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_who_waits_for_the_service_to_be_ready() {
    let server = Server::new(Desk {
        login_takes: Duration::from_secs(2),
        ..Desk::default()
    });
    let session = Session::new(server.clone());
    let one_at_a_time = tower::limit::ConcurrencyLimit::new(server.http(), 1);
    let client = session.layer().layer(one_at_a_time);
    let waits = tokio::spawn(client.clone().oneshot(to("/x")));
    settle().await;
    // Takes the only place while the other logs in.
    let mut anonymous = to("/slow");
    anonymous.extensions_mut().insert(tower_reauth::Anonymous);
    let token = "Bearer 7".parse().unwrap();
    anonymous.headers_mut().insert("authorization", token);
    let first = tokio::spawn(client.clone().oneshot(anonymous));
    sleep(Duration::from_secs(3)).await;
    let closing = tokio::spawn(async move { session.close(HOUR).await });
    settle().await;
    assert!(!waits.is_finished() && !closing.is_finished());
    server.0.gate.notify_one();
    assert_eq!(first.await.unwrap().unwrap().status(), 401);
    let response = waits.await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    drop(response);
    let since = Instant::now();
    closing.await.unwrap().unwrap();
    assert_eq!(since.elapsed(), Duration::ZERO);
    assert_eq!(server.live(), NONE);
}

#[tokio::test(start_paused = true)]
async fn rejections_by_hand_start_five_logins_and_then_one_in_ten_seconds() {
    let server = Server::new(Desk::default());
    let session = Session::new(server.clone());
    let reject = async || {
        session.reject(&session.token().await.unwrap());
        session.token().await.unwrap().generation()
    };
    prove(&session).await;
    for generation in 2..=6 {
        assert_eq!(reject().await, generation);
        prove(&session).await;
    }
    assert_eq!(reject().await, 6, "also if each of them has helped");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(reject().await, 7);

    // Where nobody says that they helped, they are spaced.
    let old = session.token().await.unwrap();
    sleep(MINUTE).await;
    assert_eq!([reject().await, reject().await], [8, 8]);
    sleep(Duration::from_secs(1)).await;
    assert_eq!([reject().await, reject().await], [9, 9]);
    session.accept(&old);
    assert_eq!(reject().await, 9, "an old token's acceptance shows nothing");
    prove(&session).await;
    // The replaced tokens are logged out.
    settle().await;
    assert_eq!(reject().await, 10);
}

#[tokio::test(start_paused = true)]
async fn an_acceptance_by_hand_starts_the_idle_time_anew() {
    let server = Server::new(Desk {
        idles_out_after: Some(MINUTE),
        ..Desk::default()
    });
    let session = Session::new(server.clone());
    let token = session.token().await.unwrap();
    sleep(MINUTE / 2).await;
    session.accept(&token);
    let left = session.status().expires_in.unwrap();
    assert!(left > MINUTE - Duration::from_secs(1), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_somebody_takes_counts_as_used() {
    let server = Server::living_for(HOUR);
    let session = Session::new(server.clone());
    let _held = session.token().await.unwrap();
    sleep(HOUR - MINUTE).await;
    assert_eq!(session.stats().logins(Reason::Expiring).succeeded, 1);
}
