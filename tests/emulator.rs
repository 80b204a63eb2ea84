//! The emulated Control-M server: each knob and each fault from both sides, and
//! an account that always balances.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{HttpConnector, HttpInfo};
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::advance;
use tower::ServiceExt;
use tower_reauth::controlm::emulator::{
    Account, Call, ConnectionClosed, DeadToken, Emulator, EmulatorBuilder, EmulatorService, Fault,
    Server,
};

const SECOND: Duration = Duration::from_secs(1);
const DEAD: &str = "Session token is invalid or expired";

// How the tests speak to it.

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The text of the one error.
    fn error(&self) -> String {
        self.json()["errors"][0]["message"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

async fn send(emulator: &Emulator, request: Request<String>) -> Result<Answer, ConnectionClosed> {
    let (head, body) = emulator.service().oneshot(request).await?.into_parts();
    let Ok(body) = body.collect().await;
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: body.to_bytes(),
    })
}

/// A request for a path under the default base path.
fn request(method: Method, path: &str, token: &str, body: &Value) -> Request<String> {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("/automation-api/{path}"));
    if !token.is_empty() {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    request.body(body).unwrap()
}

async fn get(emulator: &Emulator, path: &str, token: &str) -> Answer {
    let request = request(Method::GET, path, token, &Value::Null);
    send(emulator, request).await.unwrap()
}

async fn post(emulator: &Emulator, path: &str, token: &str, body: &Value) -> Answer {
    let request = request(Method::POST, path, token, body);
    send(emulator, request).await.unwrap()
}

fn credentials(password: &str) -> Value {
    json!({ "username": "emuser", "password": password })
}

async fn try_login(emulator: &Emulator, password: &str) -> Answer {
    post(emulator, "session/login", "", &credentials(password)).await
}

async fn login(emulator: &Emulator) -> String {
    let answer = try_login(emulator, "emupass").await;
    assert_eq!(answer.status, StatusCode::OK);
    answer.json()["token"].as_str().unwrap().to_owned()
}

async fn logout(emulator: &Emulator, token: &str) -> StatusCode {
    post(emulator, "session/logout", token, &Value::Null)
        .await
        .status
}

async fn change(emulator: &Emulator, token: &str, current: &str, new: &str) -> Answer {
    let body = json!({ "currentPassword": current, "newPassword": new });
    post(emulator, "session/user/password/update", token, &body).await
}

async fn servers(emulator: &Emulator, token: &str) -> StatusCode {
    get(emulator, "config/servers", token).await.status
}

fn order(folder: &str, jobs: &str) -> Value {
    json!({ "ctm": "IN01", "folder": folder, "jobs": jobs })
}

#[track_caller]
fn assert_balanced(account: &Account) {
    let ended = account.logged_out + account.expired + account.dropped + account.ended;
    assert_eq!(account.logins, account.live + ended, "{account}");
}

fn emulator() -> Emulator {
    Emulator::builder().build()
}

fn with(configure: impl FnOnce(EmulatorBuilder) -> EmulatorBuilder) -> Emulator {
    configure(Emulator::builder()).build()
}

// Sessions.

#[tokio::test]
async fn a_login_opens_a_session_and_a_logout_ends_that_one_only() {
    let emulator = emulator();
    let (one, other) = (login(&emulator).await, login(&emulator).await);
    assert_ne!(one, other);
    assert_eq!(servers(&emulator, &one).await, StatusCode::OK);

    assert_eq!(logout(&emulator, &one).await, StatusCode::OK);
    assert_eq!(servers(&emulator, &one).await, StatusCode::UNAUTHORIZED);
    assert_eq!(servers(&emulator, &other).await, StatusCode::OK);

    let account = emulator.account();
    assert_eq!(
        (account.logins, account.logged_out, account.live),
        (2, 1, 1)
    );
    assert_eq!((account.with_live_token, account.with_dead_token), (3, 1));
    assert_balanced(&account);
}

#[tokio::test]
async fn a_logout_of_a_dead_session_counts_as_failed_and_one_without_a_token_does_not() {
    let emulator = emulator();
    let token = login(&emulator).await;
    logout(&emulator, &token).await;
    assert_eq!(emulator.account().failed_logouts, 0);

    assert_eq!(logout(&emulator, &token).await, StatusCode::UNAUTHORIZED);
    assert_eq!(emulator.account().failed_logouts, 1);
    assert_eq!(logout(&emulator, "").await, StatusCode::UNAUTHORIZED);

    let account = emulator.account();
    assert_eq!((account.failed_logouts, account.logged_out), (1, 1));
    assert_eq!((account.with_dead_token, account.without_token), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_ends_a_session_however_much_it_is_used() {
    let emulator = with(|emulator| emulator.lifetime(10 * SECOND));
    let token = login(&emulator).await;
    for _ in 0..9 {
        advance(SECOND).await;
        assert_eq!(servers(&emulator, &token).await, StatusCode::OK);
    }
    advance(SECOND).await;
    // Known before anybody uses it.
    assert_eq!(emulator.account().live, 0);
    assert_eq!(servers(&emulator, &token).await, StatusCode::UNAUTHORIZED);
    assert_eq!(
        (emulator.account().expired, emulator.account().live),
        (1, 0)
    );
    assert_balanced(&emulator.account());
}

#[tokio::test(start_paused = true)]
async fn an_idle_time_ends_only_a_session_that_is_not_used() {
    let emulator = with(|emulator| emulator.idle(10 * SECOND));
    let (used, unused) = (login(&emulator).await, login(&emulator).await);
    for _ in 0..3 {
        advance(9 * SECOND).await;
        assert_eq!(servers(&emulator, &used).await, StatusCode::OK);
    }
    assert_eq!(servers(&emulator, &unused).await, StatusCode::UNAUTHORIZED);
    advance(10 * SECOND).await;
    assert_eq!(servers(&emulator, &used).await, StatusCode::UNAUTHORIZED);
    assert_eq!(emulator.account().expired, 2);
    assert_balanced(&emulator.account());
}

#[tokio::test]
async fn a_dead_token_is_answered_with_401_or_500_as_told_and_always_with_its_text() {
    for (told, status) in [
        (DeadToken::Unauthorized, StatusCode::UNAUTHORIZED),
        (DeadToken::ServerError, StatusCode::INTERNAL_SERVER_ERROR),
    ] {
        let emulator = with(|emulator| emulator.dead_token(told));
        let token = login(&emulator).await;
        assert_eq!(servers(&emulator, &token).await, StatusCode::OK);
        for token in ["DEAD", ""] {
            let answer = get(&emulator, "config/servers", token).await;
            assert_eq!((answer.status, answer.error().as_str()), (status, DEAD));
        }
    }
}

#[tokio::test]
async fn a_restart_drops_sessions_and_keeps_users_and_orders() {
    let emulator = emulator();
    let token = login(&emulator).await;
    post(&emulator, "run/order", &token, &order("F", "J")).await;
    emulator.restart();
    assert_eq!(servers(&emulator, &token).await, StatusCode::UNAUTHORIZED);
    login(&emulator).await;

    let account = emulator.account();
    assert_eq!((account.dropped, account.live, account.jobs), (1, 1, 1));
    assert_balanced(&account);
}

#[tokio::test]
async fn sessions_can_be_made_to_expire_at_once() {
    let emulator = emulator();
    let token = login(&emulator).await;
    emulator.expire_sessions();
    assert_eq!(servers(&emulator, &token).await, StatusCode::UNAUTHORIZED);
    assert_eq!(emulator.account().expired, 1);
    assert_balanced(&emulator.account());
}

#[tokio::test]
async fn a_login_fails_while_as_many_sessions_as_allowed_are_live() {
    let emulator = with(|emulator| emulator.max_sessions(2));
    let token = login(&emulator).await;
    login(&emulator).await;
    let answer = try_login(&emulator, "emupass").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answer.error().contains("Maximum number of sessions"));

    logout(&emulator, &token).await;
    login(&emulator).await;
    let account = emulator.account();
    assert_eq!((account.logins, account.failed_logins), (3, 1));
    assert_balanced(&account);
}

// Where a token may be.

#[tokio::test]
async fn a_token_counts_in_either_header_and_a_gateways_own_key_does_not_hide_it() {
    let emulator = emulator();
    let token = login(&emulator).await;
    let bearer = format!("Bearer {token}");
    let status = async |headers: &[(&str, &[u8])]| {
        let mut request = request(Method::GET, "config/servers", "", &Value::Null);
        for (name, value) in headers {
            let name = http::HeaderName::try_from(*name).unwrap();
            let value = http::HeaderValue::from_bytes(value).unwrap();
            request.headers_mut().append(name, value);
        }
        send(&emulator, request).await.unwrap().status
    };
    let (token, bearer) = (token.as_bytes(), bearer.as_bytes());
    let lower = bearer.to_ascii_lowercase();

    let live: [&[(&str, &[u8])]; 6] = [
        &[("authorization", bearer)],
        &[("x-api-key", token)],
        &[("x-api-key", bearer)],
        &[("authorization", b"Basic abc"), ("x-api-key", token)],
        &[
            ("authorization", b"Bearer of-the-gateway"),
            ("x-api-key", token),
        ],
        &[("authorization", bearer), ("x-api-key", b"of-the-gateway")],
    ];
    for headers in live {
        assert_eq!(status(headers).await, StatusCode::OK, "{headers:?}");
    }
    let dead: [&[(&str, &[u8])]; 4] = [
        &[("authorization", &lower)],
        &[("authorization", b"Bearer \xc3\xa9")],
        &[("authorization", b"Bearer \xff\xfe\x80")],
        &[("x-api-key", b"\xe9\xe9\xe9\xe9\xe9\xe9\xe9")],
    ];
    for headers in dead {
        assert_eq!(status(headers).await, StatusCode::UNAUTHORIZED);
    }
    let none: [&[(&str, &[u8])]; 3] = [
        &[],
        &[("authorization", token)],
        &[("authorization", b"Basic abc")],
    ];
    for headers in none {
        assert_eq!(status(headers).await, StatusCode::UNAUTHORIZED);
    }
    let account = emulator.account();
    assert_eq!(
        (
            account.with_live_token,
            account.with_dead_token,
            account.without_token
        ),
        (6, 4, 3)
    );
}

#[tokio::test]
async fn a_stale_token_at_a_login_has_no_effect() {
    let emulator = emulator();
    let answer = post(&emulator, "session/login", "DEAD", &credentials("emupass")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(emulator.account().with_dead_token, 0);
}

// Users.

#[tokio::test]
async fn failed_logins_in_a_row_lock_a_user_and_a_success_between_them_does_not() {
    let emulator = with(|emulator| emulator.lock_after(3));
    for _ in 0..2 {
        try_login(&emulator, "wrong").await;
        try_login(&emulator, "wrong").await;
        login(&emulator).await;
    }
    for _ in 0..3 {
        assert!(!emulator.is_locked("emuser"));
        let answer = try_login(&emulator, "wrong").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert!(answer.error().contains("Incorrect username or password"));
    }
    assert!(emulator.is_locked("emuser"));
    let answer = try_login(&emulator, "emupass").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(answer.error().contains("locked"));
    assert_eq!(emulator.account().failed_logins, 8);

    emulator.unlock("emuser");
    assert!(!emulator.is_locked("emuser"));
    login(&emulator).await;
    assert_balanced(&emulator.account());
}

#[tokio::test(start_paused = true)]
async fn a_lock_passes_after_its_time_and_not_before() {
    let emulator = with(|emulator| emulator.lock_after(1).unlock_after(60 * SECOND));
    try_login(&emulator, "wrong").await;
    advance(59 * SECOND).await;
    assert!(emulator.is_locked("emuser"));
    let answer = try_login(&emulator, "emupass").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    advance(SECOND).await;
    assert!(!emulator.is_locked("emuser"));
    login(&emulator).await;
}

#[tokio::test(start_paused = true)]
async fn the_longest_times_are_never_over_and_break_nothing() {
    let emulator = with(|emulator| {
        emulator
            .lifetime(Duration::MAX)
            .idle(Duration::MAX)
            .unlock_after(Duration::MAX)
    });
    advance(SECOND).await;
    let token = login(&emulator).await;
    emulator.lock("emuser");
    advance(SECOND).await;
    assert!(emulator.is_locked("emuser"));
    let answer = try_login(&emulator, "emupass").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(servers(&emulator, &token).await, StatusCode::OK);
}

#[tokio::test]
async fn an_administrator_locks_a_user_and_sets_a_password_and_sessions_stay() {
    let emulator = emulator();
    let token = login(&emulator).await;
    emulator.lock("emuser");
    let answer = try_login(&emulator, "emupass").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    emulator.set_password("emuser", "another");
    assert!(!emulator.is_locked("emuser"));
    let answer = try_login(&emulator, "emupass").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    let answer = try_login(&emulator, "another").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(servers(&emulator, &token).await, StatusCode::OK);
}

#[tokio::test]
async fn a_new_password_counts_from_then_on_and_the_policy_refuses_some() {
    let emulator = with(|emulator| {
        emulator
            .min_password(8)
            .wrong_current_password(StatusCode::FORBIDDEN)
    });
    let token = login(&emulator).await;
    for (current, new, status) in [
        ("emupass", "seven77", StatusCode::BAD_REQUEST),
        ("emupass", "emupass", StatusCode::BAD_REQUEST),
        ("wrong", "eight888", StatusCode::FORBIDDEN),
    ] {
        assert_eq!(change(&emulator, &token, current, new).await.status, status);
    }
    assert_eq!(emulator.account().password_changes, 0);
    login(&emulator).await;

    let answer = change(&emulator, &token, "emupass", "eight888").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(emulator.account().password_changes, 1);
    let answer = try_login(&emulator, "emupass").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    let answer = try_login(&emulator, "eight888").await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn a_password_change_ends_the_users_sessions_only_where_told_to() {
    for ends in [false, true] {
        let emulator = with(|emulator| {
            let emulator = emulator.user("emuser", "emupass").user("other", "secret");
            if ends {
                emulator.password_change_ends_sessions()
            } else {
                emulator
            }
        });
        let token = login(&emulator).await;
        let body = json!({ "username": "other", "password": "secret" });
        let others = post(&emulator, "session/login", "", &body).await.json();
        let others = others["token"].as_str().unwrap();

        change(&emulator, &token, "emupass", "another").await;
        let status = servers(&emulator, &token).await;
        assert_eq!(status == StatusCode::UNAUTHORIZED, ends);
        assert_eq!(servers(&emulator, others).await, StatusCode::OK);
        assert_eq!(emulator.account().ended, u64::from(ends));
        assert_balanced(&emulator.account());
    }
}

// Behind the session.

#[tokio::test]
async fn each_order_runs_once_and_is_counted_under_its_folder_and_jobs() {
    let emulator = emulator();
    let token = login(&emulator).await;
    for (folder, jobs) in [("F", "A"), ("F", "B"), ("F", "A")] {
        let answer = post(&emulator, "run/order", &token, &order(folder, jobs)).await;
        let run = answer.json()["runId"].as_str().unwrap().to_owned();
        let status = get(&emulator, &format!("run/status/{run}"), &token).await;
        assert_eq!(status.json()["returned"], 1);
    }
    let answer = post(&emulator, "run/order", "DEAD", &order("F", "A")).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);

    let orders: Vec<_> = emulator.orders().into_iter().collect();
    assert_eq!(orders, [("F/A".to_owned(), 2), ("F/B".to_owned(), 1)]);
    assert_eq!(emulator.account().jobs, 3);
    let statuses = get(&emulator, "run/jobs/status", &token).await.json();
    assert_eq!(statuses["total"], 3);
    let unknown = get(&emulator, "run/status/00000000-0000-4000-8000-4", &token).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_download_comes_as_one_frame_for_each_chunk() {
    let emulator = emulator();
    let token = login(&emulator).await;
    let path = "run/job/IN01:1/output?chunks=3";
    let request = request(Method::GET, path, &token, &Value::Null);
    let mut body = emulator
        .service()
        .oneshot(request)
        .await
        .unwrap()
        .into_body();
    for line in ["line 1 of 3\n", "line 2 of 3\n", "line 3 of 3\n"] {
        let Ok(frame) = body.frame().await.unwrap();
        assert_eq!(frame.into_data().unwrap(), line);
    }
    assert!(body.frame().await.is_none());

    for path in [
        "run/job/1/output?chunks=-1",
        "run/job/1/output?chunks=10001",
    ] {
        let answer = get(&emulator, path, &token).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn a_role_that_is_missing_is_403_and_leaves_the_session_alone() {
    let emulator = emulator();
    let token = login(&emulator).await;
    let answer = get(&emulator, "forbidden", &token).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let answer = get(&emulator, "unauthorized", &token).await;
    assert_eq!(answer.error(), DEAD);
    assert_eq!(servers(&emulator, &token).await, StatusCode::OK);
}

#[tokio::test]
async fn only_whole_segments_of_a_path_match() {
    let cases = [
        ("/automation-api", "/automation-api/session/login", 200),
        ("/automation-api", "/automation-api/session/login/", 404),
        ("/automation-api", "/automation-api//session/login", 404),
        ("/automation-api", "//automation-api/session/login", 404),
        ("/automation-api", "/automation-api2/session/login", 404),
        ("/automation-api", "/automation-apisession/login", 404),
        ("/automation-api", "/session/login", 404),
        ("/automation-api", "/automation-api", 404),
        ("/automation-api", "/", 404),
        ("a/b//", "/a/b/session/login", 200),
        ("", "/session/login", 200),
        ("/", "/session/login", 200),
        ("/", "//session/login", 404),
    ];
    for (base, path, status) in cases {
        let emulator = with(|emulator| emulator.base_path(base));
        let body = credentials("emupass").to_string();
        let request = Request::post(path).body(body).unwrap();
        let answer = send(&emulator, request).await.unwrap();
        assert_eq!(answer.status, status, "{path} under {base:?}");
        assert_eq!(emulator.account().requests, 1);
    }
}

#[test]
#[should_panic(expected = "is no path of a URL")]
fn a_base_path_with_a_query_is_refused_at_once() {
    let _ = Emulator::builder().base_path("/automation-api?x=y");
}

#[tokio::test]
async fn a_wrong_method_or_body_is_refused_without_effect() {
    let emulator = emulator();
    let answer = get(&emulator, "session/login", "").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.headers[header::ALLOW], "POST");
    for body in ["", "[]", "{\"username\":\"emuser\"}", "\u{0}"] {
        let request = Request::post("/automation-api/session/login").body(body.to_owned());
        let answer = send(&emulator, request.unwrap()).await.unwrap();
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    }
    let long = " ".repeat(2 << 20);
    let request = Request::post("/automation-api/session/login").body(long);
    let answer = send(&emulator, request.unwrap()).await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);

    let account = emulator.account();
    assert_eq!((account.logins, account.failed_logins), (0, 0));
    assert_eq!(account.requests, 6);
}

// Faults.

#[tokio::test(start_paused = true)]
async fn a_fault_hits_one_request_for_its_path_and_only_some_execute_it() {
    let busy = Fault::Busy {
        retry_after: 7 * SECOND,
    };
    let cases = [
        (Fault::Refuse, None, 0),
        (Fault::CloseAfter, None, 1),
        (Fault::Status(StatusCode::TOO_MANY_REQUESTS), Some(429), 0),
        (busy, Some(503), 0),
        (Fault::Html, Some(502), 0),
        (Fault::Garbage, Some(200), 0),
        (Fault::Empty, Some(200), 0),
        (Fault::Truncated, Some(200), 1),
    ];
    for (fault, status, jobs) in cases {
        let emulator = emulator();
        let token = login(&emulator).await;
        emulator.fail_next("/run/order", fault.clone());
        assert_eq!(servers(&emulator, &token).await, StatusCode::OK);

        let failing = request(Method::POST, "run/order", &token, &order("F", "J"));
        let answer = send(&emulator, failing).await;
        let got = answer.as_ref().ok().map(|answer| answer.status.as_u16());
        assert_eq!(got, status, "{fault:?}");
        assert_eq!(emulator.account().jobs, jobs, "{fault:?}");
        if let Ok(answer) = answer {
            let retry_after = answer.headers.get(header::RETRY_AFTER);
            let seconds = retry_after.map(|value| value.to_str().unwrap());
            let told = matches!(fault, Fault::Busy { .. }).then_some("7");
            assert_eq!(seconds, told);
            let is_json = serde_json::from_slice::<Value>(&answer.body).is_ok();
            assert_eq!(is_json, matches!(status, Some(429 | 503)), "{fault:?}");
        }

        let answer = post(&emulator, "run/order", &token, &order("F", "J")).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(emulator.account().jobs, jobs + 1);
        assert_balanced(&emulator.account());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_request_is_never_answered_and_not_executed() {
    let emulator = emulator();
    let token = login(&emulator).await;
    emulator.fail_next("run/order", Fault::Stall);
    let stalled = post(&emulator, "run/order", &token, &Value::Null);
    let stalled = tokio::time::timeout(3600 * SECOND, stalled).await;
    assert!(stalled.is_err());
    assert_eq!(emulator.account().jobs, 0);
}

#[tokio::test]
async fn faults_queue_up_and_one_for_any_path_hits_what_comes_first() {
    let emulator = emulator();
    emulator.fail_next("session/login", Fault::Status(StatusCode::BAD_GATEWAY));
    emulator.fail_next("", Fault::Status(StatusCode::IM_A_TEAPOT));
    emulator.fail_next("session/login", Fault::Status(StatusCode::GATEWAY_TIMEOUT));
    assert_eq!(servers(&emulator, "").await, 418);
    assert_eq!(try_login(&emulator, "emupass").await.status, 502);
    assert_eq!(try_login(&emulator, "emupass").await.status, 504);
    assert_eq!(try_login(&emulator, "emupass").await.status, 200);
}

#[tokio::test]
async fn a_login_whose_answer_is_lost_leaves_a_live_session() {
    let emulator = emulator();
    emulator.fail_next("session/login", Fault::CloseAfter);
    let login = request(Method::POST, "session/login", "", &credentials("emupass"));
    assert_eq!(send(&emulator, login).await.unwrap_err(), ConnectionClosed);
    assert_eq!((emulator.account().logins, emulator.account().live), (1, 1));
}

// Time, and who looks on.

#[tokio::test(start_paused = true)]
async fn latency_delays_each_call_and_a_login_by_more() {
    let emulator = with(|emulator| emulator.latency(SECOND).login_latency(4 * SECOND));
    let began = tokio::time::Instant::now();
    let token = login(&emulator).await;
    assert_eq!(began.elapsed().as_secs(), 5);
    servers(&emulator, &token).await;
    assert_eq!(began.elapsed().as_secs(), 6);
}

#[tokio::test(start_paused = true)]
async fn an_observer_is_told_of_each_call_and_of_no_secret() {
    let seen: Arc<Mutex<Vec<Call>>> = Arc::default();
    let emulator = with(|emulator| {
        let seen = seen.clone();
        emulator
            .latency(SECOND)
            .on_call(move |call| seen.lock().unwrap().push(call.clone()))
    });
    let token = login(&emulator).await;
    get(&emulator, "run/job/1/output?chunks=1", &token).await;
    emulator.fail_next("", Fault::Refuse);
    let refused = request(Method::GET, "config/servers", &token, &Value::Null);
    send(&emulator, refused).await.unwrap_err();

    let seen = seen.lock().unwrap();
    let short: Vec<_> = seen
        .iter()
        .map(|call| {
            let status = call.status.map(|status| status.as_u16());
            (call.path.as_str(), status, call.user.as_deref())
        })
        .collect();
    assert_eq!(
        short,
        [
            ("/automation-api/session/login", Some(200), Some("emuser")),
            (
                "/automation-api/run/job/1/output",
                Some(200),
                Some("emuser")
            ),
            ("/automation-api/config/servers", None, None),
        ]
    );
    assert!(seen.iter().all(|call| call.elapsed == SECOND));
    let shown = format!("{seen:?} {emulator:?} {:?}", emulator.service());
    assert!(!shown.contains(&token) && !shown.contains("emupass"));
}

#[test]
fn a_builder_shows_no_password() {
    let builder = Emulator::builder().user("emuser", "s3cret");
    assert!(!format!("{builder:?}").contains("s3cret"));
}

#[test]
fn its_types_can_be_shared_and_sent() {
    fn shared<T: Send + Sync + Unpin + 'static>() {}
    shared::<Emulator>();
    shared::<EmulatorService>();
    shared::<Server>();
    shared::<Account>();
    shared::<Call>();
    shared::<Fault>();
}

// The account.

/// Numbers that are the same on each run: xorshift.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[tokio::test(start_paused = true)]
async fn the_account_balances_after_each_step_of_any_programme() {
    for seed in 1..=8 {
        let mut numbers = Numbers(seed);
        let emulator = with(|emulator| {
            emulator
                .lifetime(100 * SECOND)
                .idle(30 * SECOND)
                .lock_after(4)
                .unlock_after(20 * SECOND)
                .max_sessions(6)
                .password_change_ends_sessions()
        });
        let (mut tokens, mut passwords) = (vec!["DEAD".to_owned()], ["emupass", "another"]);
        let (mut opened, mut ordered) = (0, 0);
        for _ in 0..500 {
            // One of the latest, so that many a one is live.
            let back = numbers.below(tokens.len().min(6) as u64) as usize;
            let token = &tokens[tokens.len() - 1 - back];
            match numbers.below(20) {
                0..=6 => {
                    let answer = try_login(&emulator, passwords[0]).await;
                    if answer.status == StatusCode::OK {
                        opened += 1;
                        // No JSON, or no token in it, if a fault has hit.
                        let body = serde_json::from_slice::<Value>(&answer.body);
                        let token = body
                            .ok()
                            .and_then(|body| body["token"].as_str().map(str::to_owned));
                        tokens.extend(token);
                    }
                }
                7 => drop(try_login(&emulator, "wrong").await),
                8..=10 => drop(logout(&emulator, token).await),
                11 | 12 => {
                    let answer = post(&emulator, "run/order", token, &order("F", "J")).await;
                    ordered += u64::from(answer.status == StatusCode::OK);
                }
                13 => {
                    let answer = change(&emulator, token, passwords[0], passwords[1]).await;
                    if answer.status == StatusCode::OK {
                        passwords.swap(0, 1);
                    }
                }
                14 => emulator.fail_next("session/login", Fault::Truncated),
                15 => emulator.fail_next("session/logout", Fault::Html),
                16 if numbers.below(4) == 0 => emulator.restart(),
                17 if numbers.below(4) == 0 => emulator.expire_sessions(),
                18 => emulator.unlock("emuser"),
                _ => advance(Duration::from_secs(numbers.below(8))).await,
            }
            let account = emulator.account();
            assert_balanced(&account);
            assert_eq!((account.logins, account.jobs), (opened, ordered));
            assert!(account.live <= 6);
        }
        let account = emulator.account();
        let counts = [
            account.logged_out,
            account.expired,
            account.dropped,
            account.ended,
            account.failed_logins,
            account.failed_logouts,
            account.jobs,
        ];
        assert!(counts.iter().all(|count| *count > 0), "{account}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_account_balances_when_many_use_it_at_once() {
    let emulator = emulator();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let emulator = emulator.clone();
        clients.spawn(async move {
            for round in 0..25 {
                let token = login(&emulator).await;
                post(&emulator, "run/order", &token, &order("F", "J")).await;
                if round % 2 == 0 {
                    logout(&emulator, &token).await;
                }
                if round % 10 == 0 {
                    emulator.restart();
                }
                assert_balanced(&emulator.account());
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let account = emulator.account();
    assert_balanced(&account);
    assert_eq!((account.logins, account.requests), (400, 400 + 400 + 208));
}

// On a socket.

type Http = Client<HttpConnector, Full<Bytes>>;

fn client() -> Http {
    Client::builder(TokioExecutor::new())
        .retry_canceled_requests(false)
        .build_http()
}

async fn listen(emulator: &Emulator) -> Server {
    let any = ([127, 0, 0, 1], 0).into();
    emulator.listen(any).await.unwrap()
}

fn on_wire(server: &Server, request: Request<String>) -> Request<Full<Bytes>> {
    let (mut head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    head.uri = format!("http://{}{path}", server.address())
        .parse()
        .unwrap();
    Request::from_parts(head, Full::from(body))
}

/// The client's end of the connection that an answer came on.
fn connection<B>(response: &Response<B>) -> std::net::SocketAddr {
    let info: &HttpInfo = response.extensions().get().unwrap();
    info.local_addr()
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let emulator = emulator();
    let server = listen(&emulator).await;
    assert_eq!(
        server.url(),
        format!("http://{}/automation-api", server.address())
            .parse::<Uri>()
            .unwrap()
    );
    let (client, token) = (client(), login(&emulator).await);
    let mut connections = Vec::new();
    for path in ["config/servers", "forbidden", "run/job/1/output", "nowhere"] {
        let request = on_wire(&server, request(Method::GET, path, &token, &Value::Null));
        let response = client.request(request).await.unwrap();
        connections.push(connection(&response));
        response.into_body().collect().await.unwrap();
    }
    connections.dedup();
    assert_eq!(connections.len(), 1);
}

#[tokio::test]
async fn a_connection_closed_before_or_after_execution_looks_the_same_to_the_client() {
    for (fault, jobs) in [(Fault::Refuse, 0), (Fault::CloseAfter, 1)] {
        let emulator = emulator();
        let server = listen(&emulator).await;
        let (client, token) = (client(), login(&emulator).await);
        let order = || {
            let order = request(Method::POST, "run/order", &token, &order("F", "J"));
            client.request(on_wire(&server, order))
        };
        emulator.fail_next("run/order", fault);
        order().await.unwrap_err();
        assert_eq!(emulator.account().jobs, jobs);
        assert_eq!(order().await.unwrap().status(), StatusCode::OK);
        assert_eq!(emulator.account().jobs, jobs + 1);
    }
}

#[tokio::test]
async fn what_is_no_http_is_refused_and_the_next_client_is_served() {
    let emulator = emulator();
    let server = listen(&emulator).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream
        .write_all(b"\x16\x03\x01 hello\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // It may be reset instead of closed: all that counts is that it ends.
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(emulator.account().requests, 0);

    let request = on_wire(&server, request(Method::GET, "nowhere", "", &Value::Null));
    let response = client().request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

/// A login that the server has begun to execute: all but its body was sent, and
/// the server has asked for that.
async fn under_way(address: std::net::SocketAddr) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = credentials("emupass").to_string();
    let head = format!(
        "POST /automation-api/session/login HTTP/1.1\r\nHost: {address}\r\n\
         Expect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    (stream, body)
}

#[tokio::test]
async fn a_shut_down_lets_a_request_under_way_be_answered() {
    let emulator = emulator();
    let server = listen(&emulator).await;
    let address = server.address();
    let (mut stream, body) = under_way(address).await;

    let mut shut_down = tokio_test::task::spawn(server.shut_down());
    assert!(shut_down.poll().is_pending());
    // Let the server hear of it.
    tokio::task::yield_now().await;
    TcpStream::connect(address).await.unwrap_err();

    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    shut_down.await;
    assert_eq!(emulator.account().logins, 1);
}

#[tokio::test]
async fn a_server_that_drops_closes_its_connections_at_once() {
    let emulator = emulator();
    let server = listen(&emulator).await;
    let address = server.address();
    let (mut stream, _) = under_way(address).await;
    drop(server);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
    TcpStream::connect(address).await.unwrap_err();
    assert_eq!(emulator.account().logins, 0);
}

#[tokio::test]
async fn a_connection_of_any_kind_is_served_until_it_closes() {
    let emulator = emulator();
    let (mut ours, theirs) = tokio::io::duplex(4096);
    let serving = tokio::spawn({
        let emulator = emulator.clone();
        async move { emulator.serve_connection(theirs).await }
    });
    let get = b"GET /automation-api/forbidden HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    ours.write_all(get).await.unwrap();
    let mut answer = String::new();
    ours.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 Unauthorized"), "{answer}");
    serving.await.unwrap().unwrap();

    emulator.fail_next("", Fault::Refuse);
    let (mut ours, theirs) = tokio::io::duplex(4096);
    ours.write_all(get).await.unwrap();
    emulator.serve_connection(theirs).await.unwrap_err();
    let mut answer = Vec::new();
    ours.read_to_end(&mut answer).await.unwrap();
    assert!(answer.is_empty());
}
