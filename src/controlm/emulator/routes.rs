//! Routes: which operation a path asks for, and the effect of each operation.

use bytes::Bytes;
use http::{Method, StatusCode, Uri, request::Parts};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    body::ResponseBody,
    operation::Operation,
    path::segments,
    reply::Reply,
    settings::TokenIn,
    state::{Access, ChangeRefusal, LoginRefusal, Order, ServerState},
};
use crate::controlm::model::{LoginCredentials, LoginResult, PasswordsObject, SuccessData};

/// The limit for the chunks of a job's output.
const MAX_CHUNKS: u32 = 100_000;
/// The limit for a chunk of a job's output, in bytes.
const MAX_CHUNK: u32 = 64 * 1024;

/// An operation, and the id in its path.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) operation: Operation,
    id: String,
}

impl Route {
    /// Finds the operation of a path below the base path.
    pub(super) fn find(path: &str) -> Option<Self> {
        let segments: Vec<_> = segments(path).collect();
        let (operation, id) = match segments.as_slice() {
            ["session", "login"] => (Operation::Login, ""),
            ["session", "logout"] => (Operation::Logout, ""),
            ["session", "user", "password", "update"] => (Operation::UpdatePassword, ""),
            ["config", "servers"] => (Operation::Servers, ""),
            ["run", "jobs", "status"] => (Operation::JobsStatus, ""),
            ["run", "status", id] => (Operation::RunStatus, *id),
            ["run", "job", id, "status"] => (Operation::JobStatus, *id),
            ["run", "job", id, "output" | "log"] => (Operation::JobOutput, *id),
            ["run", "order"] => (Operation::Order, ""),
            ["run"] => (Operation::Run, ""),
            ["forbidden"] => (Operation::Forbidden, ""),
            ["unauthorized"] => (Operation::Unauthorized, ""),
            _ => return None,
        };
        let id = id.to_owned();
        Some(Self { operation, id })
    }
}

/// A request that was received completely.
pub(super) struct ReceivedRequest {
    pub(super) head: Parts,
    pub(super) body: Bytes,
    pub(super) route: Option<Route>,
    /// The base address, as the client sees it.
    pub(super) base: String,
    /// The token of a login, made beforehand so that the state stays deterministic.
    pub(super) fresh_token: String,
}

/// An answer, and the user of the session.
pub(super) type Executed = (Reply, Option<String>);

impl ReceivedRequest {
    /// Executes the request.
    pub(super) fn execute(self, state: &mut ServerState, now: Instant) -> Executed {
        let Some(route) = &self.route else {
            return (Reply::error(StatusCode::NOT_FOUND, "Not found"), None);
        };
        let operation = route.operation;
        if self.head.method == Method::OPTIONS {
            return (
                Reply::empty(StatusCode::OK).allowing(operation.allow()),
                None,
            );
        }
        if !operation.takes(&self.head.method) {
            let refusal = Reply::error(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed");
            return (refusal.allowing(operation.allow()), None);
        }
        if operation == Operation::Login {
            return self.login(state, now);
        }
        let tokens = tokens(&self.head, state.settings.token_in);
        let (user, token) = match state.access(&tokens, now) {
            Access::Missing => {
                let text = "Unauthorized: no session token was sent";
                return (Reply::error(StatusCode::UNAUTHORIZED, text), None);
            }
            Access::Dead => return (dead_token(state.settings.dead_token_as), None),
            Access::Live { user, token } => (user, token),
        };
        let answer = match operation {
            // Answered above.
            Operation::Login => Reply::empty(StatusCode::OK),
            Operation::Logout => {
                state.logout(&token);
                success(format!("Successfully logged out from session {token}"))
            }
            Operation::UpdatePassword => self.update_password(state, &user, &token),
            Operation::Servers => servers(),
            Operation::JobsStatus => self.jobs_status(state),
            Operation::RunStatus => self.run_status(state, &route.id),
            Operation::JobStatus => self.job_status(state, &route.id),
            Operation::JobOutput => output(&self.head.uri),
            Operation::Order => self.order(state),
            Operation::Run => self.ordered(&state.order(None, None)),
            Operation::Forbidden => Reply::error(
                StatusCode::FORBIDDEN,
                format!("User {user} is not authorized to perform this action"),
            ),
            Operation::Unauthorized => dead_token(StatusCode::UNAUTHORIZED),
        };
        (answer, Some(user))
    }

    fn login(self, state: &mut ServerState, now: Instant) -> Executed {
        let credentials: LoginCredentials = match read(&self.body) {
            Ok(credentials) => credentials,
            Err(refusal) => return (refusal, None),
        };
        let LoginCredentials { username, password } = credentials;
        let token = self.fresh_token;
        let answer = match state.login(&username, &password, token.clone(), now) {
            Ok(()) => Reply::ok(&LoginResult {
                username: Some(username.clone()),
                token: Some(SecretString::from(token)),
                version: Some("9.22.30".to_owned()),
            }),
            Err(refusal) => {
                let text = match refusal {
                    LoginRefusal::Credentials => "Incorrect username or password",
                    LoginRefusal::Locked => "User account is locked",
                    LoginRefusal::TooManySessions => {
                        "The maximum number of concurrent sessions is reached"
                    }
                };
                let status = state.status_of_refused_login(&refusal);
                Reply::error(status, format!("Failed to login: {text}"))
            }
        };
        (answer, Some(username))
    }

    fn update_password(&self, state: &mut ServerState, user: &str, token: &str) -> Reply {
        let change: PasswordsObject = match read(&self.body) {
            Ok(change) => change,
            Err(refusal) => return refusal,
        };
        let (named, current, new) = (
            change.user.as_deref(),
            &change.current_password,
            &change.new_password,
        );
        match state.change_password(user, token, named, current, new) {
            Ok(()) => success("Password was changed successfully".to_owned()),
            Err(ChangeRefusal::UnknownUser) => {
                Reply::error(StatusCode::NOT_FOUND, "User was not found")
            }
            Err(ChangeRefusal::OtherUser) => Reply::error(
                StatusCode::FORBIDDEN,
                format!("User {user} may only change the user's own password"),
            ),
            Err(ChangeRefusal::WrongPassword) => Reply::error(
                state.settings.wrong_current_password_as,
                "The current password is incorrect",
            ),
            Err(ChangeRefusal::SamePassword) => Reply::error(
                StatusCode::BAD_REQUEST,
                "The new password must differ from the current password",
            ),
            Err(ChangeRefusal::TooShort { characters }) => Reply::error(
                StatusCode::BAD_REQUEST,
                format!("The new password must have at least {characters} characters"),
            ),
        }
    }

    fn order(&self, state: &mut ServerState) -> Reply {
        let body = if self.body.is_empty() {
            Value::Null
        } else {
            match read(&self.body) {
                Ok(body) => body,
                Err(refusal) => return refusal,
            }
        };
        let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
        self.ordered(&state.order(text("ctm"), text("folder")))
    }

    fn ordered(&self, order: &Order) -> Reply {
        let run_id = order.run_id();
        Reply::ok(&json!({
            "runId": run_id,
            "statusURI": format!("{}/run/status/{run_id}", self.base),
        }))
    }

    fn jobs_status(&self, state: &ServerState) -> Reply {
        let limit = match number(&self.head.uri, "limit", 1000, 1000) {
            Ok(limit) => limit as usize,
            Err(refusal) => return refusal,
        };
        let jobs: Vec<_> = state.orders().take(limit).map(|o| self.job(o)).collect();
        Reply::ok(&json!({
            "returned": jobs.len(),
            "total": state.jobs_ordered(),
            "statuses": jobs,
        }))
    }

    fn run_status(&self, state: &ServerState, run_id: &str) -> Reply {
        // The number is the last group, in decimal.
        let number = run_id.rsplit('-').next().and_then(|n| n.parse().ok());
        match number.and_then(|number| state.ordered(number)) {
            Some(order) if order.run_id() == run_id => Reply::ok(&json!({
                "completion": "Completed",
                "statuses": [self.job(order)],
                "startIndex": 0,
                "itemsPerPage": 25,
                "total": 1,
            })),
            Some(_) | None => Reply::error(
                StatusCode::NOT_FOUND,
                "No runs were found for the given run id",
            ),
        }
    }

    fn job_status(&self, state: &ServerState, job_id: &str) -> Reply {
        // Clients encode the colon.
        let job_id = job_id.replace("%3A", ":").replace("%3a", ":");
        let number = job_id.rsplit(':').next().and_then(|n| n.parse().ok());
        match number.and_then(|number| state.ordered(number)) {
            Some(order) if order.job_id() == job_id => Reply::ok(&self.job(order)),
            Some(_) | None => Reply::error(StatusCode::NOT_FOUND, "Job was not found"),
        }
    }

    fn job(&self, order: &Order) -> Value {
        let job_id = order.job_id();
        json!({
            "jobId": job_id,
            "folderId": format!("{}:00000", order.ctm),
            "numberOfRuns": 1,
            "name": format!("job{}", order.number),
            "folder": order.folder.as_deref().unwrap_or(""),
            "type": "Command",
            "status": "Ended OK",
            "held": false,
            "deleted": false,
            "cyclic": false,
            "startTime": "20260101120000",
            "endTime": "20260101120001",
            "estimatedStartTime": ["20260101120000"],
            "estimatedEndTime": ["20260101120001"],
            "orderDate": "260101",
            "ctm": order.ctm,
            "description": "",
            "host": "localhost",
            "application": "",
            "subApplication": "",
            "outputURI": format!("{}/run/job/{job_id}/output", self.base),
            "logURI": format!("{}/run/job/{job_id}/log", self.base),
        })
    }
}

impl Order {
    fn run_id(&self) -> String {
        format!("e4017a7e-0000-4000-8000-{:012}", self.number)
    }

    fn job_id(&self) -> String {
        format!("{}:{:05}", self.ctm, self.number)
    }
}

fn servers() -> Reply {
    Reply::ok(&json!([{
        "name": "emulator",
        "host": "localhost",
        "state": "Up",
        "desiredState": "Up",
        "message": "Connected",
        "version": "9.0.22.030",
        "OSType": "Linux",
        "status": "Up",
    }]))
}

fn output(uri: &Uri) -> Reply {
    let chunks = match number(uri, "chunks", 4, MAX_CHUNKS) {
        Ok(chunks) => chunks,
        Err(refusal) => return refusal,
    };
    match number(uri, "size", 64, MAX_CHUNK) {
        Ok(size) => Reply::text(ResponseBody::chunks(chunks, size.max(1) as usize)),
        Err(refusal) => refusal,
    }
}

fn success(message: String) -> Reply {
    Reply::ok(&SuccessData {
        message: Some(message),
    })
}

fn dead_token(status: StatusCode) -> Reply {
    Reply::error(status, "Session token is invalid or expired")
}

/// The tokens of a request, in the headers that the settings allow.
fn tokens(head: &Parts, place: TokenIn) -> Vec<&str> {
    let (authorization, api_key) = match place {
        TokenIn::Authorization => (true, false),
        TokenIn::ApiKey => (false, true),
        TokenIn::Either => (true, true),
    };
    let value = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok());
    let bearer = value("authorization").and_then(without_bearer);
    let key = value("x-api-key").map(|key| without_bearer(key).unwrap_or(key).trim());
    let found = [bearer.filter(|_| authorization), key.filter(|_| api_key)];
    found
        .into_iter()
        .flatten()
        .filter(|t| !t.is_empty())
        .collect()
}

/// Returns the value after the scheme `Bearer`, which is case-insensitive.
fn without_bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Reads a JSON body. The refusal never quotes it, because it may contain a password.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Reply> {
    serde_json::from_slice(body).map_err(|error| {
        let text = if error.is_data() {
            "Invalid request body: a field is missing or of the wrong type"
        } else {
            "Invalid request body: malformed JSON"
        };
        Reply::error(StatusCode::BAD_REQUEST, text)
    })
}

/// Reads a number up to `max` from the query.
fn number(uri: &Uri, name: &str, default: u32, max: u32) -> Result<u32, Reply> {
    let pairs = uri.query().unwrap_or("").split('&');
    let value = pairs
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name);
    let Some((_, value)) = value else {
        return Ok(default);
    };
    value
        .parse()
        .ok()
        .filter(|number| *number <= max)
        .ok_or_else(|| {
            let text = format!("Invalid query parameter: {name} must be a number up to {max}");
            Reply::error(StatusCode::BAD_REQUEST, text)
        })
}
