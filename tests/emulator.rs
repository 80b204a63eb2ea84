//! The embedded Control-M server keeps its word: on the wire, on the clock, in its account.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri, header, uri::Scheme};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::advance,
};
use tower::ServiceExt;
use tower_reauth::controlm::emulator::{
    Account, Call, Closed, Emulator, EmulatorBuilder, EmulatorService, Fault, Operation,
    PasswordChangeEnds, ResponseBody, Server, Target, TokenIn,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DEAD: &str = "Session token is invalid or expired";

type Reply = Result<(StatusCode, Value), Closed>;

fn request(method: Method, path: &str, token: Option<&str>, body: &str) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("/automation-api{path}"));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap()
}

fn credentials(user: &str, password: &str) -> String {
    json!({"username": user, "password": password}).to_string()
}

async fn raw(emulator: &Emulator, request: Request<Full<Bytes>>) -> Response<Bytes> {
    let (head, body) = emulator
        .service()
        .oneshot(request)
        .await
        .unwrap()
        .into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

async fn send(emulator: &Emulator, request: Request<Full<Bytes>>) -> Reply {
    let (head, body) = emulator.service().oneshot(request).await?.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Ok((
        head.status,
        serde_json::from_slice(&body).unwrap_or(Value::Null),
    ))
}

async fn get(emulator: &Emulator, path: &str, token: &str) -> Reply {
    send(emulator, request(Method::GET, path, Some(token), "")).await
}

async fn post(emulator: &Emulator, path: &str, token: &str, body: &str) -> Reply {
    send(emulator, request(Method::POST, path, Some(token), body)).await
}

async fn try_login(emulator: &Emulator, user: &str, password: &str) -> Reply {
    let body = credentials(user, password);
    send(
        emulator,
        request(Method::POST, "/session/login", None, &body),
    )
    .await
}

async fn login(emulator: &Emulator) -> String {
    let (status, answer) = try_login(emulator, "emuser", "empass").await.unwrap();
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["token"].as_str().unwrap().to_owned()
}

async fn change(emulator: &Emulator, token: &str, current: &str, new: &str) -> StatusCode {
    let body = json!({"currentPassword": current, "newPassword": new}).to_string();
    let path = "/session/user/password/update";
    post(emulator, path, token, &body).await.unwrap().0
}

fn error(text: &str) -> Value {
    json!({"errors": [{"message": text}]})
}

async fn is_live(emulator: &Emulator, token: &str) -> bool {
    get(emulator, "/config/servers", token).await.unwrap().0 == StatusCode::OK
}

fn emulator(set: impl FnOnce(EmulatorBuilder) -> EmulatorBuilder) -> Emulator {
    set(Emulator::builder().user("emuser", "empass")).build()
}

// Sessions

#[tokio::test(start_paused = true)]
async fn a_login_opens_a_session_that_a_logout_ends() {
    let emulator = Emulator::new();
    let (status, answer) = try_login(&emulator, "emuser", "empass").await.unwrap();
    assert_eq!(
        (status, &answer["username"]),
        (StatusCode::OK, &json!("emuser"))
    );
    let token = answer["token"].as_str().unwrap();
    assert_eq!(token.len(), 128);
    assert!(token.bytes().all(|digit| digit.is_ascii_hexdigit()));

    assert!(is_live(&emulator, token).await);
    let (status, answer) = post(&emulator, "/session/logout", token, "").await.unwrap();
    let message = format!("Successfully logged out from session {token}");
    assert_eq!(
        (status, answer),
        (StatusCode::OK, json!({"message": message}))
    );
    assert!(!is_live(&emulator, token).await);
}

#[tokio::test(start_paused = true)]
async fn two_logins_of_one_user_give_two_live_tokens_and_a_logout_ends_one() {
    let emulator = Emulator::new();
    let (first, second) = (login(&emulator).await, login(&emulator).await);
    assert_ne!(first, second);
    assert!(is_live(&emulator, &first).await && is_live(&emulator, &second).await);
    post(&emulator, "/session/logout", &first, "")
        .await
        .unwrap();
    assert!(!is_live(&emulator, &first).await && is_live(&emulator, &second).await);
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_when_its_lifetime_is_over_however_much_it_is_used() {
    let emulator = emulator(|b| b.lifetime(MINUTE));
    let token = login(&emulator).await;
    advance(MINUTE - Duration::from_millis(1)).await;
    assert!(is_live(&emulator, &token).await);
    advance(Duration::from_millis(1)).await;
    let dead = get(&emulator, "/config/servers", &token).await.unwrap();
    assert_eq!(dead, (StatusCode::UNAUTHORIZED, error(DEAD)));
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_ends_and_a_used_one_does_not() {
    let emulator = emulator(|b| b.lifetime(None).idle_timeout(MINUTE));
    let (used, idle) = (login(&emulator).await, login(&emulator).await);
    for _ in 0..4 {
        advance(MINUTE / 2).await;
        assert!(is_live(&emulator, &used).await);
    }
    assert!(!is_live(&emulator, &idle).await);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_outlived_its_lifetime_counts_as_expired_though_nobody_asked() {
    let emulator = emulator(|b| b.lifetime(MINUTE));
    login(&emulator).await;
    assert_eq!(
        (emulator.account().live, emulator.account().expired),
        (1, 0)
    );
    advance(MINUTE).await;
    assert_eq!(
        (emulator.account().live, emulator.account().expired),
        (0, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn every_session_is_accounted_for_however_it_ended() {
    let emulator = emulator(|b| {
        b.lifetime(10 * MINUTE)
            .password_change_ends(PasswordChangeEnds::OtherSessions)
    });
    let balanced = |logins, live, logged_out, expired, dropped, ended| {
        let is: Account = emulator.account();
        assert!(is.balances(), "{is}");
        let is = (
            is.logins,
            is.live,
            is.logged_out,
            is.expired,
            is.dropped,
            is.ended,
        );
        assert_eq!(is, (logins, live, logged_out, expired, dropped, ended));
    };
    login(&emulator).await;
    advance(10 * MINUTE).await;
    // The first one is expired already, so the restart did not drop it.
    login(&emulator).await;
    emulator.restart();
    balanced(2, 0, 0, 1, 1, 0);

    let token = login(&emulator).await;
    login(&emulator).await;
    assert_eq!(
        change(&emulator, &token, "empass", "new").await,
        StatusCode::OK
    );
    balanced(4, 1, 0, 1, 1, 1);

    post(&emulator, "/session/logout", &token, "")
        .await
        .unwrap();
    post(&emulator, "/session/logout", &token, "")
        .await
        .unwrap();
    balanced(4, 0, 1, 1, 1, 1);

    let (_, answer) = try_login(&emulator, "emuser", "new").await.unwrap();
    let token = answer["token"].as_str().unwrap();
    assert!(emulator.expire(token));
    assert!(!emulator.expire(token));
    balanced(5, 0, 1, 2, 1, 1);

    try_login(&emulator, "emuser", "new").await.unwrap();
    try_login(&emulator, "emuser", "wrong").await.unwrap();
    balanced(6, 1, 1, 2, 1, 1);
    emulator.expire_all();
    balanced(6, 0, 1, 3, 1, 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_token_is_500_with_the_same_text_where_the_server_is_like_that() {
    let emulator = emulator(|b| b.dead_token_as(StatusCode::INTERNAL_SERVER_ERROR));
    let token = login(&emulator).await;
    emulator.restart();
    let dead = (StatusCode::INTERNAL_SERVER_ERROR, error(DEAD));
    assert_eq!(
        get(&emulator, "/config/servers", &token).await.unwrap(),
        dead
    );
    assert_eq!(
        post(&emulator, "/session/logout", &token, "")
            .await
            .unwrap(),
        dead
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_token_is_refused_and_counted_apart_from_a_dead_one() {
    let emulator = Emulator::new();
    let token = login(&emulator).await;
    let bare = request(Method::GET, "/config/servers", None, "");
    assert_eq!(
        send(&emulator, bare).await.unwrap().0,
        StatusCode::UNAUTHORIZED
    );
    let mut basic = request(Method::GET, "/config/servers", None, "");
    basic
        .headers_mut()
        .insert("authorization", "Basic abc".parse().unwrap());
    assert_eq!(
        send(&emulator, basic).await.unwrap().0,
        StatusCode::UNAUTHORIZED
    );
    assert!(!is_live(&emulator, "made-up").await);
    assert!(is_live(&emulator, &token).await);
    let account = emulator.account();
    let tokens = (account.no_token, account.dead_tokens, account.live_tokens);
    assert_eq!(tokens, (2, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_taken_from_the_headers_that_the_server_looks_at() {
    for (place, in_authorization, in_api_key) in [
        (TokenIn::Either, true, true),
        (TokenIn::Authorization, true, false),
        (TokenIn::ApiKey, false, true),
    ] {
        let emulator = emulator(|b| b.token_in(place));
        let token = login(&emulator).await;
        for (name, value, live) in [
            ("authorization", format!("Bearer {token}"), in_authorization),
            ("authorization", format!("bearer {token}"), in_authorization),
            ("authorization", token.clone(), false),
            ("x-api-key", token.clone(), in_api_key),
            ("x-api-key", format!("Bearer {token}"), in_api_key),
        ] {
            let mut request = request(Method::GET, "/config/servers", None, "");
            request.headers_mut().insert(name, value.parse().unwrap());
            let (status, _) = send(&emulator, request).await.unwrap();
            assert_eq!(status == StatusCode::OK, live, "{place:?} {name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_token_along_with_a_login_has_no_effect() {
    let emulator = Emulator::new();
    let body = credentials("emuser", "empass");
    let stale = post(&emulator, "/session/login", "stale", &body).await;
    assert_eq!(stale.unwrap().0, StatusCode::OK);
    assert_eq!(emulator.account().dead_tokens, 0);
}

// Logins that fail

#[tokio::test(start_paused = true)]
async fn a_wrong_password_and_an_unknown_user_look_the_same() {
    let emulator = Emulator::new();
    let text = "Failed to login: Incorrect username or password";
    for (user, password) in [("emuser", "wrong"), ("nobody", "empass")] {
        let refused = try_login(&emulator, user, password).await.unwrap();
        assert_eq!(refused, (StatusCode::UNAUTHORIZED, error(text)));
    }
    assert_eq!(emulator.account().failed_logins, 2);
}

#[tokio::test(start_paused = true)]
async fn failed_logins_in_a_row_lock_the_user_until_unlocked() {
    let emulator = emulator(|b| b.lock_after(3).user("other", "pass"));
    let fail = || async { try_login(&emulator, "emuser", "wrong").await.unwrap() };
    fail().await;
    fail().await;
    // A success starts the count anew.
    login(&emulator).await;
    fail().await;
    fail().await;
    login(&emulator).await;
    for _ in 0..3 {
        fail().await;
    }
    let locked = try_login(&emulator, "emuser", "empass").await.unwrap();
    assert_eq!(
        locked,
        (
            StatusCode::UNAUTHORIZED,
            error("Failed to login: User account is locked")
        )
    );
    let other = try_login(&emulator, "other", "pass").await.unwrap();
    assert_eq!(other.0, StatusCode::OK);
    advance(1000 * MINUTE).await;
    assert_eq!(
        try_login(&emulator, "emuser", "empass").await.unwrap(),
        locked
    );
    assert!(emulator.unlock("emuser"));
    login(&emulator).await;
    assert!(!emulator.unlock("nobody"));
}

#[tokio::test(start_paused = true)]
async fn a_lock_for_a_time_opens_by_itself_and_starts_the_count_anew() {
    let emulator = emulator(|b| b.lock_after(2).lock_for(MINUTE));
    for _ in 0..2 {
        try_login(&emulator, "emuser", "wrong").await.unwrap();
    }
    advance(MINUTE - SECOND).await;
    let early = try_login(&emulator, "emuser", "empass").await.unwrap();
    assert_eq!(early.0, StatusCode::UNAUTHORIZED);
    advance(SECOND).await;
    try_login(&emulator, "emuser", "wrong").await.unwrap();
    login(&emulator).await;
}

#[tokio::test(start_paused = true)]
async fn a_locked_user_keeps_live_sessions() {
    let emulator = Emulator::new();
    let token = login(&emulator).await;
    assert!(emulator.lock("emuser"));
    assert!(is_live(&emulator, &token).await);
    let refused = try_login(&emulator, "emuser", "empass").await.unwrap();
    assert_eq!(refused.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test(start_paused = true)]
async fn a_login_beyond_the_session_limit_fails_until_a_session_ends() {
    let emulator = emulator(|b| b.max_sessions(1).lifetime(MINUTE));
    login(&emulator).await;
    let refused = try_login(&emulator, "emuser", "empass").await.unwrap();
    assert_eq!(refused.0, StatusCode::INTERNAL_SERVER_ERROR);
    advance(MINUTE).await;
    login(&emulator).await;
    assert_eq!(emulator.account().failed_logins, 1);
}

#[tokio::test(start_paused = true)]
async fn a_login_beyond_the_session_limit_has_the_status_that_is_set() {
    let busy = StatusCode::SERVICE_UNAVAILABLE;
    let emulator = emulator(|b| b.max_sessions(0).too_many_sessions_as(busy));
    let refused = try_login(&emulator, "emuser", "empass").await.unwrap();
    assert_eq!(refused.0, busy);
}

// Password changes

#[tokio::test(start_paused = true)]
async fn a_changed_password_is_the_one_that_logs_in() {
    let emulator = Emulator::new();
    let token = login(&emulator).await;
    assert_eq!(
        change(&emulator, &token, "empass", "new").await,
        StatusCode::OK
    );
    let old = try_login(&emulator, "emuser", "empass").await.unwrap();
    let new = try_login(&emulator, "emuser", "new").await.unwrap();
    assert_eq!((old.0, new.0), (StatusCode::UNAUTHORIZED, StatusCode::OK));
    assert!(is_live(&emulator, &token).await);
    assert_eq!(emulator.account().password_changes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_password_change_against_the_rules_changes_nothing() {
    let emulator = emulator(|b| {
        b.min_password_length(4)
            .user("other", "pass")
            .wrong_current_password_as(StatusCode::FORBIDDEN)
    });
    let token = login(&emulator).await;
    let token = token.as_str();
    assert_eq!(
        change(&emulator, token, "empass", "abc").await,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        change(&emulator, token, "empass", "empass").await,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        change(&emulator, token, "wrong", "abcd").await,
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        change(&emulator, "dead", "empass", "abcd").await,
        StatusCode::UNAUTHORIZED
    );
    for (user, status) in [
        ("nobody", StatusCode::NOT_FOUND),
        ("other", StatusCode::FORBIDDEN),
    ] {
        let body = json!({"user": user, "currentPassword": "empass", "newPassword": "abcd"});
        let path = "/session/user/password/update";
        let refused = post(&emulator, path, token, &body.to_string())
            .await
            .unwrap();
        assert_eq!(refused.0, status);
    }
    login(&emulator).await;
    assert_eq!(emulator.account().password_changes, 0);
}

#[tokio::test(start_paused = true)]
async fn a_password_change_ends_the_sessions_that_it_is_set_to_end() {
    for (ends, own_lives, other_lives) in [
        (PasswordChangeEnds::NoSession, true, true),
        (PasswordChangeEnds::OtherSessions, true, false),
        (PasswordChangeEnds::EverySession, false, false),
    ] {
        let emulator = emulator(|b| b.password_change_ends(ends).user("second", "pass"));
        let (own, other) = (login(&emulator).await, login(&emulator).await);
        let (_, answer) = try_login(&emulator, "second", "pass").await.unwrap();
        change(&emulator, &own, "empass", "new").await;
        assert_eq!(is_live(&emulator, &own).await, own_lives, "{ends:?}");
        assert_eq!(is_live(&emulator, &other).await, other_lives, "{ends:?}");
        assert!(is_live(&emulator, answer["token"].as_str().unwrap()).await);
    }
}

// Behind the session

#[tokio::test(start_paused = true)]
async fn each_order_gets_its_own_number_and_is_counted_by_its_folder() {
    let emulator = Emulator::new();
    let token = login(&emulator).await;
    let mut runs = Vec::new();
    for body in [
        r#"{"ctm":"ctm1","folder":"a","jobs":"*"}"#,
        r#"{"folder":"b"}"#,
        "[1]",
        "",
    ] {
        let (status, answer) = post(&emulator, "/run/order", &token, body).await.unwrap();
        assert_eq!(status, StatusCode::OK);
        let run = answer["runId"].as_str().unwrap().to_owned();
        assert!(!runs.contains(&run));
        let uri: Uri = answer["statusURI"].as_str().unwrap().parse().unwrap();
        let below = uri
            .path()
            .strip_prefix("/automation-api")
            .unwrap()
            .to_owned();
        let (_, status) = get(&emulator, &below, &token).await.unwrap();
        assert_eq!(status["statuses"][0]["status"], "Ended OK");
        runs.push(run);
    }
    post(&emulator, "/run/order", &token, r#"{"folder":"a"}"#)
        .await
        .unwrap();
    let account = emulator.account();
    assert_eq!(account.jobs_ordered, 5);
    assert_eq!(
        (
            account.ordered("a"),
            account.ordered("b"),
            account.ordered("c")
        ),
        (2, 1, 0)
    );

    let (_, jobs) = get(&emulator, "/run/jobs/status?limit=2", &token)
        .await
        .unwrap();
    assert_eq!((&jobs["returned"], &jobs["total"]), (&json!(2), &json!(5)));
    assert_eq!(jobs["statuses"][0]["folder"], "a");
    let id = jobs["statuses"][0]["jobId"].as_str().unwrap();
    let encoded = format!("/run/job/{}/status", id.replace(':', "%3A"));
    assert_eq!(
        get(&emulator, &encoded, &token).await.unwrap().1["jobId"],
        id
    );
}

#[tokio::test(start_paused = true)]
async fn a_rejected_order_is_not_executed() {
    let emulator = Emulator::new();
    post(&emulator, "/run/order", "dead", "{}").await.unwrap();
    let token = login(&emulator).await;
    let malformed = post(&emulator, "/run/order", &token, "{").await.unwrap();
    assert_eq!(malformed.0, StatusCode::BAD_REQUEST);
    assert_eq!(emulator.account().jobs_ordered, 0);
    assert_eq!(emulator.account().requests_to(Operation::Order), 2);
}

#[tokio::test(start_paused = true)]
async fn forbidden_and_unauthorized_refuse_a_live_token_that_stays_live() {
    let emulator = Emulator::new();
    let token = login(&emulator).await;
    let (status, answer) = get(&emulator, "/forbidden", &token).await.unwrap();
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(answer["errors"][0]["message"].is_string());
    let refused = get(&emulator, "/unauthorized", &token).await.unwrap();
    assert_eq!(refused, (StatusCode::UNAUTHORIZED, error(DEAD)));
    assert!(is_live(&emulator, &token).await);
    assert_eq!(emulator.account().dead_tokens, 0);
}

#[tokio::test(start_paused = true)]
async fn a_download_comes_in_as_many_frames_as_were_asked_for() {
    let emulator = Emulator::new();
    let token = login(&emulator).await;
    let path = "/run/job/emulator:00001/output?chunks=3&size=10";
    let download = request(Method::GET, path, Some(&token), "");
    let mut body = emulator
        .service()
        .oneshot(download)
        .await
        .unwrap()
        .into_body();
    for chunk in ["chunk 0 .\n", "chunk 1 .\n", "chunk 2 .\n"] {
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), chunk);
    }
    assert!(body.frame().await.is_none());
    let greedy = get(&emulator, "/run/job/x/output?size=65537", &token)
        .await
        .unwrap();
    assert_eq!(greedy.0, StatusCode::BAD_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn what_the_server_does_not_know_is_an_error_list() {
    let emulator = Emulator::new();
    let token = login(&emulator).await;
    for (method, path, body, status) in [
        (Method::GET, "/nothing", "", StatusCode::NOT_FOUND),
        (Method::POST, "/session", "", StatusCode::NOT_FOUND),
        (
            Method::GET,
            "/session/login",
            "",
            StatusCode::METHOD_NOT_ALLOWED,
        ),
        (
            Method::POST,
            "/config/servers",
            "",
            StatusCode::METHOD_NOT_ALLOWED,
        ),
        (
            Method::POST,
            "/session/login",
            "{\"user",
            StatusCode::BAD_REQUEST,
        ),
        (
            Method::POST,
            "/session/login",
            "{\"username\":\"emuser\"}",
            StatusCode::BAD_REQUEST,
        ),
        (Method::POST, "/session/login", "", StatusCode::BAD_REQUEST),
        (
            Method::GET,
            "/run/status/unknown",
            "",
            StatusCode::NOT_FOUND,
        ),
    ] {
        let request = request(method, path, Some(&token), body);
        let (found, answer) = send(&emulator, request).await.unwrap();
        assert_eq!(found, status, "{path}");
        assert!(answer["errors"][0]["message"].is_string(), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_login_body_is_not_quoted() {
    let emulator = Emulator::new();
    let body = r#"{"username":"emuser","password":{"x":"hunter2"}}"#;
    let refused = raw(
        &emulator,
        request(Method::POST, "/session/login", None, body),
    )
    .await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert!(!String::from_utf8_lossy(refused.body()).contains("hunter2"));
}

#[tokio::test(start_paused = true)]
async fn head_options_and_careless_slashes_work_as_in_the_real_servers_container() {
    let emulator = Emulator::new();
    let token = login(&emulator).await;
    let head = raw(
        &emulator,
        request(Method::HEAD, "/config/servers", Some(&token), ""),
    )
    .await;
    assert_eq!((head.status(), head.body().len()), (StatusCode::OK, 0));
    let options = raw(
        &emulator,
        request(Method::OPTIONS, "/config/servers", None, ""),
    )
    .await;
    assert_eq!(options.headers()[header::ALLOW], "GET,HEAD,OPTIONS");
    for path in ["//config/servers", "/config/servers/"] {
        assert_eq!(
            get(&emulator, path, &token).await.unwrap().0,
            StatusCode::OK
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_base_path_is_what_it_is_set_to() {
    let emulator = emulator(|b| b.base_path("gateway/ctm/"));
    let body = credentials("emuser", "empass");
    for (path, status) in [
        ("/gateway/ctm/session/login", StatusCode::OK),
        ("http://ctm:8443/gateway/ctm/session/login", StatusCode::OK),
        ("/automation-api/session/login", StatusCode::NOT_FOUND),
        ("/gateway/ctmsession/login", StatusCode::NOT_FOUND),
        ("/session/login", StatusCode::NOT_FOUND),
    ] {
        let login = Request::post(path).body(body.clone()).unwrap();
        let answer = emulator.service().oneshot(login).await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
}

// Faults

#[tokio::test(start_paused = true)]
async fn faults_hit_the_next_requests_to_their_target_in_order() {
    let busy =
        Fault::status(StatusCode::SERVICE_UNAVAILABLE).retry_after(Duration::from_millis(1500));
    let emulator = emulator(|b| {
        b.fault(Operation::Login, busy)
            .fault(Operation::Login, Fault::pass())
            .fault(Operation::Login, Fault::close())
    });
    let body = credentials("emuser", "empass");
    let refused = raw(
        &emulator,
        request(Method::POST, "/session/login", None, &body),
    )
    .await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()[header::RETRY_AFTER], "2");
    let token = login(&emulator).await;
    assert!(is_live(&emulator, &token).await);
    let closed = try_login(&emulator, "emuser", "empass").await;
    assert_eq!(closed, Err(Closed::BeforeExecution));
    let account = emulator.account();
    assert_eq!(
        (account.logins, account.failed_logins, account.faults),
        (1, 0, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn the_most_specific_fault_comes_first() {
    let emulator = Emulator::new();
    let token = login(&emulator).await;
    emulator.fault(Target::Any, Fault::status(StatusCode::BAD_GATEWAY));
    emulator.fault(
        Operation::RunStatus,
        Fault::status(StatusCode::GATEWAY_TIMEOUT),
    );
    emulator.fault("/run/status/1/", Fault::status(StatusCode::IM_A_TEAPOT));
    let mut found = Vec::new();
    for _ in 0..4 {
        found.push(
            get(&emulator, "/run/status/1", &token)
                .await
                .unwrap()
                .0
                .as_u16(),
        );
    }
    assert_eq!(found, [418, 504, 502, 404]);
}

#[tokio::test(start_paused = true)]
async fn a_lasting_fault_stays_until_faults_are_cleared() {
    let emulator = Emulator::new();
    let token = login(&emulator).await;
    emulator.fault(Target::Any, Fault::close().lasting());
    for _ in 0..3 {
        assert!(get(&emulator, "/config/servers", &token).await.is_err());
    }
    emulator.clear_faults();
    assert!(is_live(&emulator, &token).await);
}

#[tokio::test(start_paused = true)]
async fn a_fault_after_execution_spoils_the_answer_only() {
    let emulator = Emulator::new();
    let token = login(&emulator).await;
    emulator.fault(Operation::Order, Fault::close().after_execution());
    emulator.fault(
        Operation::Order,
        Fault::html(StatusCode::BAD_GATEWAY).after_execution(),
    );
    emulator.fault(Operation::Order, Fault::truncated());
    emulator.fault(Operation::Order, Fault::close());
    let order = || post(&emulator, "/run/order", &token, "{}");
    assert_eq!(order().await, Err(Closed::AfterExecution));
    assert_eq!(order().await, Ok((StatusCode::BAD_GATEWAY, Value::Null)));
    assert_eq!(order().await, Ok((StatusCode::OK, Value::Null)));
    assert_eq!(emulator.account().jobs_ordered, 3);
    assert_eq!(order().await, Err(Closed::BeforeExecution));
    assert_eq!(emulator.account().jobs_ordered, 3);
}

#[tokio::test(start_paused = true)]
async fn bodies_that_are_no_json_come_as_gateways_send_them() {
    let emulator = Emulator::new();
    let path = "/session/login";
    for (fault, content_type, starts) in [
        (Fault::garbage(), Some("application/json"), "\u{0}not json"),
        (
            Fault::html(StatusCode::BAD_GATEWAY),
            Some("text/html"),
            "<html>",
        ),
        (Fault::empty(StatusCode::OK), None, ""),
        (
            Fault::body(StatusCode::OK, "text/plain", "hm"),
            Some("text/plain"),
            "hm",
        ),
    ] {
        emulator.fault(Operation::Login, fault);
        let answer = raw(&emulator, request(Method::POST, path, None, "")).await;
        let found = answer.headers().get(header::CONTENT_TYPE);
        assert_eq!(found.map(|v| v.to_str().unwrap()), content_type);
        assert!(answer.body().starts_with(starts.as_bytes()));
    }
    emulator.fault(Operation::Login, Fault::truncated());
    let body = credentials("emuser", "empass");
    let cut = raw(&emulator, request(Method::POST, path, None, &body)).await;
    assert!(cut.body().starts_with(b"{"));
    assert!(serde_json::from_slice::<Value>(cut.body()).is_err());
    assert_eq!(emulator.account().logins, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_request_waits_until_it_is_released_or_its_caller_is_gone() {
    let emulator = Emulator::new();
    let token = login(&emulator).await;
    emulator.fault(Operation::Order, Fault::stall());
    emulator.fault(Operation::Order, Fault::stall().after_execution());
    let order = |emulator: Emulator, token: String| {
        tokio::spawn(async move { post(&emulator, "/run/order", &token, "{}").await })
    };
    let before = order(emulator.clone(), token.clone());
    emulator.stalled(1).await;
    assert_eq!(emulator.account().jobs_ordered, 0);
    let after = order(emulator.clone(), token.clone());
    emulator.stalled(2).await;
    assert_eq!(emulator.account().jobs_ordered, 1);
    after.abort();
    assert!(after.await.unwrap_err().is_cancelled());
    emulator.release();
    assert_eq!(before.await.unwrap().unwrap().0, StatusCode::OK);
    assert_eq!(emulator.account().jobs_ordered, 2);
}

#[tokio::test(start_paused = true)]
async fn latency_is_waited_on_tokios_clock_before_execution() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    let emulator = emulator(|b| {
        b.latency(SECOND)
            .login_latency(3 * SECOND)
            .lifetime(MINUTE)
            .on_call(move |call| seen.lock().unwrap().push(call.clone()))
    });
    let token = login(&emulator).await;
    advance(MINUTE - SECOND).await;
    // It is alive as the request arrives, and dead as it is executed.
    assert!(!is_live(&emulator, &token).await);
    emulator.set_latency(2 * SECOND);
    emulator.fault("/config/servers", Fault::close());
    assert!(
        get(&emulator, "/config/servers?token=secret", &token)
            .await
            .is_err()
    );

    let calls: Vec<Call> = std::mem::take(&mut *calls.lock().unwrap());
    let lines: Vec<_> = calls.iter().map(Call::to_string).collect();
    assert_eq!(
        lines,
        [
            "POST /automation-api/session/login 200 emuser 3000.0ms",
            "GET /automation-api/config/servers 401 - 1000.0ms",
            "GET /automation-api/config/servers closed - 2000.0ms",
        ]
    );
}

// Secrets and types

#[tokio::test(start_paused = true)]
async fn no_debug_output_shows_a_password_or_a_token() {
    let builder = Emulator::builder().user("emuser", "empass");
    assert!(!format!("{builder:?}").contains("empass"));
    let emulator = builder.build();
    let body = credentials("emuser", "empass");
    let login = request(Method::POST, "/session/login", None, &body);
    let answer = emulator.service().oneshot(login).await.unwrap();
    let shown = format!(
        "{answer:?} {emulator:?} {:?} {}",
        emulator.service(),
        emulator.account()
    );
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let token = serde_json::from_slice::<Value>(&body).unwrap()["token"].clone();
    assert!(!shown.contains("empass") && !shown.contains(token.as_str().unwrap()));
}

#[test]
fn the_types_go_wherever_a_test_needs_them() {
    fn anywhere<T: Send + Sync + Unpin + 'static>() {}
    anywhere::<Emulator>();
    anywhere::<EmulatorService>();
    anywhere::<Server>();
    anywhere::<ResponseBody>();
    anywhere::<Fault>();
    anywhere::<Account>();
}

// On the wire

async fn connect(server: &Server) -> SendRequest<Full<Bytes>> {
    connect_and_watch(server).await.0
}

/// The task ends when the connection does.
async fn connect_and_watch(
    server: &Server,
) -> (SendRequest<Full<Bytes>>, JoinHandle<hyper::Result<()>>) {
    let tcp = TcpStream::connect(server.address()).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await.unwrap();
    (sender, tokio::spawn(connection))
}

async fn over(
    sender: &mut SendRequest<Full<Bytes>>,
    mut request: Request<Full<Bytes>>,
) -> hyper::Result<Response<Bytes>> {
    sender.ready().await?;
    request
        .headers_mut()
        .insert(header::HOST, "ctm.example:1".parse().unwrap());
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
}

#[tokio::test]
async fn one_connection_carries_many_requests_and_shares_the_state_with_the_service() {
    let emulator = Emulator::new();
    let server = emulator.serve("127.0.0.1:0").await.unwrap();
    assert_eq!(
        server.url().to_string(),
        format!("http://{}/automation-api", server.address())
    );
    let token = login(&emulator).await;
    let mut sender = connect(&server).await;
    for _ in 0..3 {
        let order = request(Method::POST, "/run/order", Some(&token), "{}");
        let answer = over(&mut sender, order).await.unwrap();
        let answer: Value = serde_json::from_slice(answer.body()).unwrap();
        let uri = answer["statusURI"].as_str().unwrap();
        assert!(uri.starts_with("http://ctm.example:1/automation-api/run/status/"));
    }
    assert_eq!(emulator.account().jobs_ordered, 3);
}

#[tokio::test]
async fn a_download_is_chunked_on_the_wire() {
    let emulator = Emulator::new();
    let server = emulator.serve("127.0.0.1:0").await.unwrap();
    let token = login(&emulator).await;
    let mut sender = connect(&server).await;
    let path = "/run/job/x/output?chunks=1000&size=1000";
    let answer = over(&mut sender, request(Method::GET, path, Some(&token), ""))
        .await
        .unwrap();
    assert_eq!(answer.headers()[header::TRANSFER_ENCODING], "chunked");
    assert_eq!(answer.body().len(), 1_000_000);
}

#[tokio::test]
async fn a_closed_connection_has_no_answer_and_only_the_late_one_ordered_the_job() {
    let emulator = Emulator::new();
    let server = emulator.serve("127.0.0.1:0").await.unwrap();
    let token = login(&emulator).await;
    for (fault, ordered) in [(Fault::close(), 0), (Fault::close().after_execution(), 1)] {
        emulator.fault(Operation::Order, fault);
        let mut sender = connect(&server).await;
        let order = request(Method::POST, "/run/order", Some(&token), "{}");
        assert!(over(&mut sender, order).await.is_err());
        assert!(sender.ready().await.is_err());
        assert_eq!(emulator.account().jobs_ordered, ordered);
    }
}

#[tokio::test]
async fn a_shutdown_answers_what_is_under_way_and_closes_the_rest() {
    let emulator = Emulator::new();
    let server = emulator.serve("127.0.0.1:0").await.unwrap();
    let address = server.address();
    let token = login(&emulator).await;
    let (mut idle, idle_ended) = connect_and_watch(&server).await;
    let servers = || request(Method::GET, "/config/servers", Some(&token), "");
    over(&mut idle, servers()).await.unwrap();

    emulator.fault(Operation::Servers, Fault::stall());
    let mut busy = connect(&server).await;
    let answer = tokio::spawn({
        let request = servers();
        async move { over(&mut busy, request).await }
    });
    emulator.stalled(1).await;
    let shutdown = tokio::spawn(server.shutdown());
    // The idle connection is closed while the other one still waits.
    idle_ended.await.unwrap().unwrap();
    assert!(!shutdown.is_finished());
    emulator.release();
    assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::OK);
    shutdown.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_dropped_server_closes_its_connections_and_ends_its_tasks() {
    let emulator = Emulator::new();
    let (held_by_tasks, mut all_tasks_ended) = mpsc::channel::<()>(1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = emulator
        .serve_with(listener, Scheme::HTTP, move |tcp| {
            let held = held_by_tasks.clone();
            async move { Ok(Held(tcp, held)) }
        })
        .unwrap();
    let token = login(&emulator).await;
    emulator.fault(Operation::Servers, Fault::stall());
    let mut sender = connect(&server).await;
    let waiting = over(
        &mut sender,
        request(Method::GET, "/config/servers", Some(&token), ""),
    );
    let drop_it = async {
        emulator.stalled(1).await;
        drop(server);
    };
    let (answer, ()) = tokio::join!(waiting, drop_it);
    assert!(answer.is_err());
    assert_eq!(all_tasks_ended.recv().await, None);
    // The sessions are the emulator's, not the server's.
    assert!(is_live(&emulator, &token).await);
}

/// A connection that shows for how long it is held.
struct Held(TcpStream, #[allow(dead_code)] mpsc::Sender<()>);

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
