//! The server, over sockets: it is stopped and bound again, and its connections
//! break in every way.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::account::{Account, Ended};
use super::chance::Chance;
use super::faults::{Endpoint, Fault};

pub(crate) const JOB: HeaderName = HeaderName::from_static("x-job");
pub(crate) const CALL: HeaderName = HeaderName::from_static("x-call");
/// How a token ended that is turned away, for the test alone.
pub(crate) const ENDED: HeaderName = HeaderName::from_static("x-ended");
pub(crate) const LOGGED_OUT: &str = "logged out";
/// The words for a dead session.
pub(crate) const DEAD: &str = "the session is over";

/// How far the test is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Storm,
    Calm,
    Over,
}

#[derive(Clone)]
pub(crate) struct Server(Arc<Mutex<Account>>);

/// How a connection is to end.
enum Break {
    Reset,
    Garbage,
    Half,
}

/// One connection, as the requests on it see it.
struct Wire {
    number: u64,
    breaks: Mutex<Option<oneshot::Sender<Break>>>,
}

impl Wire {
    /// Ends the connection, and so whoever calls.
    async fn breaks(&self, how: Break) -> Response<Full<Bytes>> {
        let breaks = self.breaks.lock().unwrap().take();
        if let Some(breaks) = breaks {
            let _ = breaks.send(how);
        }
        pending().await
    }
}

/// A job that was done, and whose answer is still to leave.
struct Done<'a> {
    server: &'a Server,
    job: Option<u64>,
}

impl Done<'_> {
    fn leaves(mut self, connection: u64) {
        let job = self.job.take().expect("answered once");
        self.server.account().answered(connection, job);
    }
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        if let Some(job) = self.job {
            self.server.account().answer_lost(job);
        }
    }
}

fn answer(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}

fn rejection(ended: Option<Ended>) -> Response<Full<Bytes>> {
    let mut response = answer(StatusCode::UNAUTHORIZED, DEAD);
    if ended == Some(Ended::LoggedOut) {
        let ended = HeaderValue::from_static(LOGGED_OUT);
        response.headers_mut().insert(ENDED, ended);
    }
    response
}

fn number(headers: &HeaderMap, name: HeaderName) -> u64 {
    let value = headers[name].to_str().expect("ours");
    value.parse().expect("a number of ours")
}

fn token_in(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer token-")?.parse().ok()
}

impl Server {
    pub(crate) fn new(account: Account) -> Self {
        Self(Arc::new(Mutex::new(account)))
    }

    pub(crate) fn account(&self) -> MutexGuard<'_, Account> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens at `address`, and now and then does not.
    pub(crate) async fn run(
        self,
        address: SocketAddr,
        mut listener: TcpListener,
        mut phase: watch::Receiver<Phase>,
        mut chance: Chance,
    ) -> io::Result<()> {
        let mut connections = 0;
        loop {
            let mut under_way = JoinSet::new();
            let mut lives = Box::pin(sleep(chance.millis(1000, 3000)));
            loop {
                let is_storm = *phase.borrow() == Phase::Storm;
                tokio::select! {
                    Ok((stream, _)) = listener.accept() => {
                        connections += 1;
                        under_way.spawn(self.clone().serve(stream, connections));
                    }
                    Some(_) = under_way.join_next() => {}
                    () = &mut lives, if is_storm => break,
                    changed = phase.changed() => {
                        if changed.is_err() || *phase.borrow() == Phase::Over {
                            under_way.shutdown().await;
                            return Ok(());
                        }
                    }
                }
            }
            drop(listener);
            under_way.shutdown().await;
            self.account().restarted(chance.once_in(2));
            sleep(chance.millis(10, 150)).await;
            listener = TcpListener::bind(address).await?;
        }
    }

    async fn serve(self, stream: TcpStream, number: u64) {
        let _ = stream.set_nodelay(true);
        let (breaks, broken) = oneshot::channel();
        let wire = Arc::new(Wire {
            number,
            breaks: Mutex::new(Some(breaks)),
        });
        let service = service_fn(|request| {
            let (server, wire) = (self.clone(), wire.clone());
            async move { Ok::<_, Infallible>(server.answer(&wire, request).await) }
        });
        let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let how = tokio::select! {
            _ = &mut connection => None,
            Ok(how) = broken => Some(how),
        };
        if let Some(how) = how {
            let mut stream = connection.into_parts().io.into_inner();
            // Whether the client is still there is its own affair.
            let _ = match how {
                Break::Reset => stream.set_zero_linger(),
                Break::Garbage => {
                    stream
                        .write_all(b"\x15\x03\x01\x00\x02 what?\r\n\r\n")
                        .await
                }
                Break::Half if number.is_multiple_of(2) => {
                    stream.write_all(b"HTTP/1.1 200 O").await
                }
                Break::Half => {
                    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 64\r\n\r\ntoken-";
                    stream.write_all(half).await
                }
            };
        }
        self.account().hung_up(number);
    }

    async fn answer(&self, wire: &Wire, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        match (&head.method, head.uri.path()) {
            (&Method::POST, "/login") => self.log_in(wire, &head.headers, body).await,
            (&Method::DELETE, "/login") => self.log_out(wire, &head.headers).await,
            (&Method::PUT, "/password") => self.change(wire, &head.headers, body).await,
            _ => self.job(wire, &head.headers, body).await,
        }
    }

    /// Takes its time, and says what goes wrong with this call.
    async fn fault(&self, endpoint: Endpoint) -> Option<Fault> {
        let latency = self.account().faults.latency(endpoint);
        sleep(latency).await;
        let mut account = self.account();
        let fault = account.faults.draw(endpoint)?;
        if fault.is_before() {
            account.faults.count(endpoint, fault);
        }
        Some(fault)
    }

    /// What goes wrong before anything is done, whatever is asked for.
    async fn fails_before(
        &self,
        wire: &Wire,
        fault: Option<Fault>,
    ) -> Option<Response<Full<Bytes>>> {
        match fault? {
            Fault::Refuse => Some(answer(StatusCode::SERVICE_UNAVAILABLE, "not now")),
            Fault::ResetBefore => Some(wire.breaks(Break::Reset).await),
            Fault::StallBefore => pending().await,
            _ => None,
        }
    }

    /// What goes wrong after it is done.
    async fn fails_after(
        &self,
        wire: &Wire,
        endpoint: Endpoint,
        fault: Option<Fault>,
    ) -> Option<Response<Full<Bytes>>> {
        let fault = fault.filter(|fault| !fault.is_before())?;
        self.account().faults.count(endpoint, fault);
        match fault {
            Fault::ResetAfter => Some(wire.breaks(Break::Reset).await),
            Fault::Garbage => Some(wire.breaks(Break::Garbage).await),
            Fault::Half => Some(wire.breaks(Break::Half).await),
            Fault::StallAfter => pending().await,
            Fault::Gateway => Some(answer(StatusCode::GATEWAY_TIMEOUT, "too late")),
            _ => None,
        }
    }

    async fn job(&self, wire: &Wire, headers: &HeaderMap, body: Incoming) -> Response<Full<Bytes>> {
        let job = number(headers, JOB);
        let token = token_in(headers);
        self.account().arrives(wire.number, job, token);
        let Some(token) = token else {
            return rejection(None);
        };
        let fault = self.fault(Endpoint::Job).await;
        if let Some(failed) = self.fails_before(wire, fault).await {
            return failed;
        }
        {
            let mut account = self.account();
            if fault == Some(Fault::Revoke) {
                account.revoke(token);
            }
            let ended = account.ended(token);
            if ended.is_some() || fault == Some(Fault::Deny) {
                account.rejects(job, token);
                return rejection(ended);
            }
        }
        let Ok(body) = body.collect().await else {
            // Its client has broken off.
            return pending().await;
        };
        let executed = self.account().execute(job, token, &body.to_bytes());
        if let Err(ended) = executed {
            self.account().rejects(job, token);
            return rejection(Some(ended));
        }
        let done = Done {
            server: self,
            job: Some(job),
        };
        if let Some(failed) = self.fails_after(wire, Endpoint::Job, fault).await {
            return failed;
        }
        if fault == Some(Fault::Unsure) {
            self.account().is_unsure(job, token);
            done.leaves(wire.number);
            return answer(StatusCode::INTERNAL_SERVER_ERROR, DEAD);
        }
        done.leaves(wire.number);
        answer(StatusCode::OK, format!("done {job} by {token}"))
    }

    async fn log_in(
        &self,
        wire: &Wire,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Response<Full<Bytes>> {
        let call = number(headers, CALL);
        let Some(form) = form(body).await else {
            return pending().await;
        };
        let fault = self.fault(Endpoint::Login).await;
        if let Some(failed) = self.fails_before(wire, fault).await {
            return failed;
        }
        let token = {
            let mut account = self.account();
            let user = user_in(&form["user"]);
            let password = password_in(&form["password"]);
            match fault {
                Some(Fault::Deny) => None,
                _ => account.log_in(user, password, call),
            }
        };
        if let Some(failed) = self.fails_after(wire, Endpoint::Login, fault).await {
            return failed;
        }
        match token {
            Some(token) => answer(StatusCode::OK, format!("token-{token}")),
            None => answer(StatusCode::UNAUTHORIZED, "no"),
        }
    }

    async fn log_out(&self, wire: &Wire, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let token = token_in(headers).expect("a logout is of a token");
        let fault = self.fault(Endpoint::Logout).await;
        if let Some(failed) = self.fails_before(wire, fault).await {
            return failed;
        }
        let was_good = {
            let mut account = self.account();
            if fault == Some(Fault::Revoke) {
                account.revoke(token);
            }
            account.log_out(token)
        };
        if let Some(failed) = self.fails_after(wire, Endpoint::Logout, fault).await {
            return failed;
        }
        match was_good {
            true => answer(StatusCode::NO_CONTENT, ""),
            false => rejection(None),
        }
    }

    async fn change(
        &self,
        wire: &Wire,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Response<Full<Bytes>> {
        let call = number(headers, CALL);
        let token = token_in(headers).expect("a change is made with a token");
        let Some(form) = form(body).await else {
            return pending().await;
        };
        if self.account().ended(token).is_some() {
            return rejection(None);
        }
        let fault = self.fault(Endpoint::Change).await;
        if let Some(failed) = self.fails_before(wire, fault).await {
            return failed;
        }
        let is_made = {
            let mut account = self.account();
            if fault == Some(Fault::Revoke) {
                account.revoke(token);
            }
            if account.ended(token).is_some() {
                return rejection(None);
            }
            let [current, new] = ["current", "new"].map(|name| password_in(&form[name]));
            fault != Some(Fault::Deny) && account.change(token, current, new, call)
        };
        if let Some(failed) = self.fails_after(wire, Endpoint::Change, fault).await {
            return failed;
        }
        match is_made {
            true => answer(StatusCode::NO_CONTENT, ""),
            false => answer(StatusCode::FORBIDDEN, "no"),
        }
    }
}

async fn form(body: Incoming) -> Option<HashMap<String, String>> {
    let body = body.collect().await.ok()?.to_bytes();
    Some(url::form_urlencoded::parse(&body).into_owned().collect())
}

pub(crate) fn user_in(name: &str) -> usize {
    let number = name.strip_prefix("user-").expect("a user of ours");
    number.parse().expect("a user of ours")
}

pub(crate) fn username(user: usize) -> String {
    format!("user-{user}")
}

pub(crate) fn password_in(text: &str) -> u64 {
    let number = text.strip_prefix("password-").expect("a password of ours");
    number.parse().expect("a password of ours")
}

pub(crate) fn password(number: u64) -> String {
    format!("password-{number}")
}
