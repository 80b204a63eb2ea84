//! The calls, each as a function of the state and the request.

use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::{Value, json};

use super::builder::DeadToken;
use super::service::{AnswerBody, Chunks};
use super::state::{ChangeFailure, LoginFailure, Moment, State};
use crate::controlm::model::{
    ErrorData, ErrorList, LoginCredentials, LoginResult, PasswordsObject, SuccessData,
};

pub(super) const DEAD_TOKEN: &str = "Session token is invalid or expired";
const VERSION: &str = "9.21.300";
const MOST_CHUNKS: u64 = 10_000;

/// An answer, and the user that asked, for the observer.
pub(super) struct Answered {
    pub(super) response: Response<AnswerBody>,
    pub(super) user: Option<String>,
}

/// Executes the request for `path`, which lies under the base path.
pub(super) fn answer(
    state: &mut State,
    path: &str,
    request: &Request<Bytes>,
    now: Moment,
) -> Answered {
    let public = |response| Answered {
        response,
        user: None,
    };
    let (method, body) = (request.method(), request.body());
    if path == "session/login" {
        return match *method {
            Method::POST => log_in(state, body, now),
            _ => public(wrong_method("POST")),
        };
    }
    let Some(allowed) = allowed_method(path) else {
        let text = format!("There is no such resource: {path}");
        return public(error(StatusCode::NOT_FOUND, &text));
    };
    if method.as_str() != allowed && !(allowed == "GET" && method == Method::HEAD) {
        return public(wrong_method(allowed));
    }
    let tokens = tokens(request.headers());
    let Some((user, token)) = state.user_of(&tokens, now) else {
        if path == "session/logout" && !tokens.is_empty() {
            state.counted.failed_logouts += 1;
        }
        return public(dead_token(state));
    };
    let response = match path {
        "session/logout" => {
            state.log_out(token);
            success(format!("Successfully logged out from session {token}"))
        }
        "session/user/password/update" => change_password(state, &user, body),
        "config/servers" => ok(&json!([
            {"name": "IN01", "host": "ctm.example.com", "state": "Up", "message": "Connected", "version": VERSION},
            {"name": "IN02", "host": "ctm2.example.com", "state": "Up", "message": "Connected", "version": VERSION},
        ])),
        "run/jobs/status" => ok(&jobs_status(state)),
        "run/order" => order(state, body),
        "forbidden" => error(
            StatusCode::FORBIDDEN,
            "User is not authorized to perform this operation",
        ),
        "unauthorized" => error(StatusCode::UNAUTHORIZED, DEAD_TOKEN),
        _ => match run_of_status(path) {
            Some(run) => run_status(state, run),
            None => output(request.uri().query()),
        },
    };
    Answered {
        response,
        user: Some(user),
    }
}

fn allowed_method(path: &str) -> Option<&'static str> {
    match path {
        "session/logout" | "session/user/password/update" | "run/order" => Some("POST"),
        "config/servers" | "run/jobs/status" | "forbidden" | "unauthorized" => Some("GET"),
        _ => (job_of_output(path).is_some() || run_of_status(path).is_some()).then_some("GET"),
    }
}

fn job_of_output(path: &str) -> Option<&str> {
    let job = path.strip_prefix("run/job/")?.strip_suffix("/output")?;
    (!job.is_empty() && !job.contains('/')).then_some(job)
}

fn run_of_status(path: &str) -> Option<&str> {
    let run = path.strip_prefix("run/status/")?;
    (!run.is_empty() && !run.contains('/')).then_some(run)
}

/// All that may be a session's token. A gateway may want credentials of its
/// own in one header while the token is in the other.
fn tokens(headers: &HeaderMap) -> Vec<String> {
    let given = |name: &str| {
        // Lossy, as a token that is no text is a dead token, and not none.
        let values = headers.get_all(name).into_iter();
        values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let authorization = given("authorization").filter_map(|value| bearer(&value));
    let api_key = given("x-api-key").map(|value| bearer(&value).unwrap_or(value));
    authorization.chain(api_key).collect()
}

fn bearer(value: &str) -> Option<String> {
    let (scheme, token) = value.split_once(' ')?;
    let is_bearer = scheme.eq_ignore_ascii_case("bearer");
    is_bearer.then(|| token.trim().to_owned())
}

fn log_in(state: &mut State, body: &[u8], now: Moment) -> Answered {
    let anonymous = |response| Answered {
        response,
        user: None,
    };
    let Ok(sent) = serde_json::from_slice::<LoginCredentials>(body) else {
        return anonymous(error(
            StatusCode::BAD_REQUEST,
            "The request body is no valid JSON of the model LoginCredentials",
        ));
    };
    let token = new_token();
    let password = sent.password.expose_secret();
    let response = match state.log_in(&sent.username, password, token.clone(), now) {
        Ok(()) => ok(&LoginResult {
            username: Some(sent.username.clone()),
            token: Some(SecretString::from(token)),
            version: Some(VERSION.to_owned()),
        }),
        Err(LoginFailure::WrongPassword) => error(
            StatusCode::UNAUTHORIZED,
            "Failed to login: Incorrect username or password",
        ),
        Err(LoginFailure::Locked) => error(
            StatusCode::UNAUTHORIZED,
            "Failed to login: User account is locked",
        ),
        Err(LoginFailure::TooManySessions) => error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Failed to login: Maximum number of sessions reached",
        ),
    };
    Answered {
        response,
        user: Some(sent.username),
    }
}

fn change_password(state: &mut State, user: &str, body: &[u8]) -> Response<AnswerBody> {
    let Ok(sent) = serde_json::from_slice::<PasswordsObject>(body) else {
        return error(
            StatusCode::BAD_REQUEST,
            "The request body is no valid JSON of the model PasswordsObject",
        );
    };
    let user = sent.user.as_deref().unwrap_or(user);
    let current = sent.current_password.expose_secret();
    match state.change_password(user, current, sent.new_password.expose_secret()) {
        Ok(()) => success("Password was updated successfully".to_owned()),
        Err(ChangeFailure::NoSuchUser) => error(StatusCode::NOT_FOUND, "User does not exist"),
        Err(ChangeFailure::WrongPassword) => error(
            state.knobs.wrong_password,
            "The current password is incorrect",
        ),
        Err(ChangeFailure::TooShort) => error(
            StatusCode::BAD_REQUEST,
            "The new password does not comply with the password policy: it is too short",
        ),
        Err(ChangeFailure::Unchanged) => error(
            StatusCode::BAD_REQUEST,
            "The new password does not comply with the password policy: it must differ from the current one",
        ),
    }
}

fn order(state: &mut State, body: &[u8]) -> Response<AnswerBody> {
    let sent: Value = match body {
        [] => Value::Null,
        body => match serde_json::from_slice(body) {
            Ok(sent) => sent,
            Err(_) => return error(StatusCode::BAD_REQUEST, "The request body is no valid JSON"),
        },
    };
    let name = |field: &str| {
        sent.get(field)
            .and_then(Value::as_str)
            .unwrap_or("*")
            .to_owned()
    };
    let number = state.order(format!("{}/{}", name("folder"), name("jobs")));
    let run = run_id(number);
    let status = format!("{}/run/status/{run}", state.knobs.base);
    ok(&json!({ "runId": run, "statusURI": status }))
}

/// Every order is a run of one job, and both have its number.
fn run_id(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

fn run_status(state: &State, run: &str) -> Response<AnswerBody> {
    let number = run
        .rsplit('-')
        .next()
        .and_then(|digits| digits.parse().ok());
    match number {
        Some(number) if (1..=state.counted.jobs).contains(&number) && run == run_id(number) => ok(
            &json!({ "completion": "Completed", "returned": 1, "total": 1, "statuses": [job_status(number)] }),
        ),
        Some(_) | None => error(StatusCode::NOT_FOUND, "There is no such run"),
    }
}

fn jobs_status(state: &State) -> Value {
    let total = state.counted.jobs;
    let statuses: Vec<_> = (1..=total.min(25)).map(job_status).collect();
    json!({ "returned": statuses.len(), "total": total, "statuses": statuses })
}

fn job_status(number: u64) -> Value {
    json!({
        "jobId": format!("IN01:{number:05}"),
        "folderId": "IN01:00000",
        "name": format!("job-{number}"),
        "folder": "EMULATED",
        "type": "Job",
        "status": "Ended OK",
        "held": false,
        "deleted": false,
        "cyclic": false,
        "ctm": "IN01",
    })
}

fn output(query: Option<&str>) -> Response<AnswerBody> {
    let chunks = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .find_map(|pair| pair.strip_prefix("chunks="));
    match chunks.map_or(Ok(8), str::parse::<u64>) {
        Ok(chunks) if chunks <= MOST_CHUNKS => Response::builder()
            .header(header::CONTENT_TYPE, "text/plain")
            .body(Chunks::new(chunks).boxed())
            .expect("made of valid parts"),
        Ok(_) | Err(_) => error(
            StatusCode::BAD_REQUEST,
            "`chunks` is a number from 0 to 10000",
        ),
    }
}

fn dead_token(state: &State) -> Response<AnswerBody> {
    let status = match state.knobs.dead_token {
        DeadToken::Unauthorized => StatusCode::UNAUTHORIZED,
        DeadToken::ServerError => StatusCode::INTERNAL_SERVER_ERROR,
    };
    error(status, DEAD_TOKEN)
}

fn wrong_method(allowed: &'static str) -> Response<AnswerBody> {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    let allowed = header::HeaderValue::from_static(allowed);
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}

fn success(message: String) -> Response<AnswerBody> {
    ok(&SuccessData {
        message: Some(message),
    })
}

fn ok(message: &impl Serialize) -> Response<AnswerBody> {
    json_response(StatusCode::OK, message)
}

pub(super) fn error(status: StatusCode, message: &str) -> Response<AnswerBody> {
    let data = ErrorData {
        message: Some(message.to_owned()),
        ..ErrorData::default()
    };
    json_response(status, &ErrorList { errors: vec![data] })
}

fn json_response(status: StatusCode, message: &impl Serialize) -> Response<AnswerBody> {
    // Pretty-printed, as the real service may: no client should mind.
    let body = serde_json::to_vec_pretty(message).expect("the models have string keys only");
    with_body(status, "application/json", body)
}

pub(super) fn with_body(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
) -> Response<AnswerBody> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, kind)
        .body(Full::new(body.into()).boxed())
        .expect("made of valid parts")
}

/// 128 hexadecimal digits.
fn new_token() -> String {
    let mut bytes = [0; 64];
    getrandom::fill(&mut bytes).expect("the system has a source of random bytes");
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}
