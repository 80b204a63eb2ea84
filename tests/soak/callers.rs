//! Those who use the sessions: they order jobs, lose patience, and ask for
//! renewals, password changes and the session's end.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt};
use tower_reauth::{
    BoxError, Buffer, Error, ErrorKind, Event, IfEmpty, Never, PasswordChange, Reauth, Session,
    SessionBody, State,
};

use super::account::{GUEST, Outcome, USERS};
use super::chance::Chance;
use super::provider::{Http, Provider, RequestBody, boxed, number_of};
use super::server::{ENDED, JOB, LOGGED_OUT, Phase, Server, password};
use super::watchdog::Post;

/// A client with the session's layer.
type Client = BoxCloneSyncService<Request<Full<Bytes>>, Response<SessionBody<Incoming>>, BoxError>;

/// How much of a streaming body is kept.
const KEPT: usize = 1024;

/// A session, and all ways of using it.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) number: usize,
    pub(crate) session: Session,
    server: Server,
    http: Http,
    base: String,
    auto: Client,
    if_empty: Client,
    never: Client,
    buffer: Client,
}

fn erased<S>(service: S) -> Client
where
    S: Service<Request<Full<Bytes>>, Response = Response<SessionBody<Incoming>>, Error = BoxError>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    BoxCloneSyncService::new(service)
}

/// The same body in parts that take their time.
fn streamed(body: Full<Bytes>) -> RequestBody {
    let parts = stream::once(async {
        let body = body.collect().await.unwrap_or_else(|never| match never {});
        let body = body.to_bytes();
        let size = body.len().div_ceil(3).max(1);
        let parts: Vec<_> = body.chunks(size).map(Bytes::copy_from_slice).collect();
        stream::iter(parts)
    });
    let parts = parts.flatten().then(|part| async {
        sleep(Duration::from_millis(2)).await;
        Ok::<_, BoxError>(Frame::data(part))
    });
    StreamBody::new(parts).boxed_unsync()
}

impl User {
    pub(crate) fn new(
        number: usize,
        session: Session,
        http: &Http,
        base: &str,
        server: &Server,
    ) -> Self {
        let layer = session.layer();
        let plain = http.clone().map_request(boxed::<Full<Bytes>>);
        let buffer = layer.clone().replay(Buffer::up_to(KEPT));
        let buffer = buffer.layer(http.clone().map_request(boxed));
        Self {
            number,
            server: server.clone(),
            http: http.clone(),
            base: base.to_owned(),
            auto: erased(layer.layer(plain.clone())),
            if_empty: erased(layer.clone().replay(IfEmpty).layer(plain.clone())),
            never: erased(layer.replay(Never).layer(plain)),
            buffer: erased(
                buffer.map_request(|request: Request<Full<Bytes>>| request.map(streamed)),
            ),
            session,
        }
    }

    /// Orders a job, and says what became of it. The answer's body is read
    /// `slowly`.
    async fn order(&self, job: u64, service: &Client, method: Method, slowly: Duration) -> Outcome {
        let body = self.server.account().body(job);
        let request = Request::builder()
            .method(method)
            .uri(format!("{}/jobs", self.base))
            .header(JOB, job)
            .body(Full::new(body))
            .unwrap();
        let response = match service.clone().oneshot(request).await {
            Ok(response) => response,
            Err(error) => {
                return match Error::find(&*error) {
                    Some(ours) => {
                        self.server.account().not_sent(ours.kind().as_str());
                        Outcome::NotSent
                    }
                    None => Outcome::Broken,
                };
            }
        };
        let token = self.server.account().bearer_of(job);
        let (head, mut body) = response.into_parts();
        // Dropped before the body, however this ends.
        let held = Held::new(&self.server, token);
        sleep(slowly / 2).await;
        let first = body.frame().await;
        sleep(slowly / 2).await;
        drop(held);
        let (Some(Ok(first)), Ok(rest)) = (first, body.collect().await) else {
            return Outcome::Broken;
        };
        let first = first.into_data().unwrap_or_default();
        let is_rejection = matches!(
            head.status,
            StatusCode::UNAUTHORIZED | StatusCode::INTERNAL_SERVER_ERROR
        );
        if is_rejection {
            let reauth = head.extensions.get::<Reauth>();
            self.server.account().returned(job, reauth);
        }
        match head.status {
            StatusCode::OK => {
                let expected = format!("done {job} by {token}");
                if [first, rest.to_bytes()].concat() != expected.as_bytes() {
                    let rule = format!("job {job} got the answer to another request");
                    self.server.account().violated(rule);
                }
                Outcome::Acknowledged
            }
            StatusCode::UNAUTHORIZED => {
                let ended = head.headers.get(ENDED);
                if ended.is_some_and(|ended| ended == LOGGED_OUT) {
                    let mut account = self.server.account();
                    account.was_logged_out_under_a_request(job, token);
                }
                Outcome::Rejected
            }
            StatusCode::INTERNAL_SERVER_ERROR => Outcome::Unsure,
            StatusCode::SERVICE_UNAVAILABLE => Outcome::Refused,
            StatusCode::GATEWAY_TIMEOUT => Outcome::Broken,
            other => panic!("nobody answers {other}"),
        }
    }

    /// Orders one job in one of all ways.
    pub(crate) async fn orders(&self, chance: &mut Chance) -> Outcome {
        let (service, method, is_replayable, size) = match chance.below(10) {
            0..=3 => (&self.auto, Method::POST, true, 200),
            4..=5 => (&self.auto, Method::GET, true, 0),
            6 => (&self.if_empty, Method::POST, true, 0),
            7 => match chance.once_in(2) {
                true => (&self.if_empty, Method::POST, false, 200),
                false => (&self.never, Method::POST, false, 200),
            },
            8 => (&self.buffer, Method::POST, true, 300),
            // It may be rejected before more was sent than is kept.
            _ => (&self.buffer, Method::POST, true, 2 * KEPT),
        };
        let (slowly, patience) = match chance.below(10) {
            // Over a renewal or two.
            0 => (chance.millis(0, 1500), Duration::from_secs(3)),
            // Dropped at any moment.
            1 | 2 => (Duration::ZERO, chance.millis(0, 30)),
            _ => (Duration::ZERO, chance.millis(300, 500)),
        };
        let (user, kind) = (self.number, method.clone());
        let job = self.server.account().order(user, kind, is_replayable, size);
        let ordered = timeout(patience, self.order(job, service, method, slowly)).await;
        let outcome = ordered.unwrap_or(Outcome::GivenUp);
        self.server.account().settle(job, outcome);
        outcome
    }

    /// Holds the token for a while, as another protocol does.
    async fn holds(&self, chance: &mut Chance) {
        if let Ok(token) = self.session.token().await {
            let held = Held::new(&self.server, number_of(&token));
            sleep(chance.millis(0, 1500)).await;
            drop(held);
        }
    }

    /// Changes the password, and looks whether it is true what it is told.
    pub(crate) async fn changes(&self) -> Result<(), Error> {
        let new = self.server.account().new_password();
        let change = PasswordChange::to(password(new));
        let outcome = self.session.change_password(change).await;
        let mut account = self.server.account();
        let is_made = account.is_changed_to(new);
        let is_true = match &outcome {
            Ok(_) => is_made,
            Err(error) => error.kind() == ErrorKind::Uncertain || !is_made,
        };
        if !is_true {
            account.violated(format!(
                "a change to {new}, made: {is_made}, ended: {outcome:?}"
            ));
        }
        outcome.map(drop)
    }

    /// Logs in, whatever happened before.
    pub(crate) async fn logs_in(&self) -> Result<(), Error> {
        self.server.account().forces(self.number);
        let outcome = self.session.login().await;
        let mut account = self.server.account();
        account.forces_no_more(self.number, outcome.is_ok());
        outcome
    }

    async fn logs_out(&self) {
        let before = self.server.account().logs_out(self.number);
        // What it could not end is tried again at the next.
        if self.session.logout().await.is_ok() {
            let mut account = self.server.account();
            account.is_logged_out(self.number, before);
        }
    }

    /// Comes with a session of its own, and drops it at any moment of its login.
    async fn is_a_guest(&self, chance: &mut Chance) {
        let user = self.server.account().comes(GUEST);
        let provider = Provider::new(self.http.clone(), &self.base, user, self.server.clone());
        let session = Session::new(provider);
        let mut events = session.events();
        let _ = timeout(chance.millis(0, 30), session.token()).await;
        drop(session);
        while let Some(event) = events.recv().await {
            if let Event::LoggedIn { .. } = event {
                self.server.account().has_left(user);
            }
        }
    }

    /// One of many callers, for as long as the storm lasts.
    pub(crate) async fn calls(self, post: Post, phase: watch::Receiver<Phase>, mut chance: Chance) {
        while *phase.borrow() == Phase::Storm {
            match chance.below(1000) {
                // Others are to end by themselves, or ahead of that.
                0..=2 if !USERS[self.number].is_told => {
                    let _doing = post.does("renews");
                    let patience = chance.millis(0, 200);
                    match chance.once_in(2) {
                        true => drop(self.session.renew().await),
                        false => drop(timeout(patience, self.session.renew()).await),
                    }
                }
                3..=8 => {
                    let _doing = post.does("changes the password");
                    let patience = chance.millis(0, 200);
                    match chance.once_in(2) {
                        true => drop(self.changes().await),
                        false => drop(timeout(patience, self.changes()).await),
                    }
                }
                9 if chance.once_in(2) => {
                    let _doing = post.does("logs out");
                    self.logs_out().await;
                    let _ = self.logs_in().await;
                }
                10..=13 => {
                    let _doing = post.does("comes as a guest");
                    self.is_a_guest(&mut chance).await;
                }
                14..=30 => {
                    let _doing = post.does("holds the token");
                    self.holds(&mut chance).await;
                }
                _ => {
                    let _doing = post.does("orders a job");
                    self.orders(&mut chance).await;
                }
            }
            sleep(chance.millis(0, 100)).await;
        }
    }

    /// An operator, who logs in where a session does not by itself.
    pub(crate) async fn operates(
        self,
        post: Post,
        phase: watch::Receiver<Phase>,
        mut chance: Chance,
    ) {
        while *phase.borrow() == Phase::Storm {
            sleep(chance.millis(100, 600)).await;
            if matches!(
                self.session.status().state,
                State::Refused | State::LoggedOut
            ) {
                let _doing = post.does("logs in by hand");
                let _ = self.logs_in().await;
            }
        }
    }
}

/// Says that a token is used, or a body that came with it.
struct Held<'a> {
    server: &'a Server,
    token: u64,
}

impl<'a> Held<'a> {
    fn new(server: &'a Server, token: u64) -> Self {
        server.account().hold(token);
        Self { server, token }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.server.account().let_go(self.token);
    }
}
