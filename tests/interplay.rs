//! The layer among tower's others, between hyper's client and hyper's server,
//! over sockets: each does what its docs say, and none waits for another that
//! waits for it.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body;
use http_body_util::channel::Channel;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, split};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, Sleep, resume, sleep, timeout};
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::hedge::{self, Hedge};
use tower::load::Constant;
use tower::load_shed::error::Overloaded;
use tower::retry::Policy;
use tower::timeout::error::Elapsed;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
use tower_reauth::provider::Api;
use tower_reauth::testing::{self, Gate, ScriptedProvider, ScriptedService};
use tower_reauth::{
    CredentialProvider, Error, LoginContext, LogoutContext, LogoutEnds, Profile, ProviderError,
    Reauth, ReauthFailure, Session, SessionBody, Token, provider_fn,
};

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// A client of any make. Its clones share what limits it.
type Http = BoxCloneSyncService<Request<Full<Bytes>>, Response<Incoming>, BoxError>;

/// How many moments there are to break a connection at.
const MOMENTS: usize = 20;

const HOUR: Duration = Duration::from_secs(3600);

// The server.

/// A server on a port of its own: `POST /login` yields the only token that is
/// good from then on, and what is asked with that is executed.
#[derive(Clone)]
struct Server {
    origin: String,
    state: Arc<State>,
    arrivals: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<String>>>,
}

struct State {
    /// The number of the token that is good, if one is.
    live: AtomicUsize,
    logins: AtomicUsize,
    failing_logins: AtomicUsize,
    failing_answers: AtomicUsize,
    connections: AtomicUsize,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    executed: Mutex<Vec<String>>,
    logged_out: watch::Sender<Vec<String>>,
    /// What `/login` waits for.
    login_gate: watch::Sender<bool>,
    /// What `/slow` waits for, once it is executed.
    slow_gate: watch::Sender<bool>,
    rejected: watch::Sender<usize>,
    /// How many rejections wait for each other.
    rejected_together: AtomicUsize,
    /// Whether a connection is closed behind a rejection.
    closes: AtomicBool,
    /// Whether a connection takes no more requests after a rejection.
    goes_away: AtomicBool,
    away: Notify,
    /// Cuts the connections that are open.
    cut: Notify,
    arrived: mpsc::UnboundedSender<String>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let state = Arc::new(State {
            live: AtomicUsize::new(0),
            logins: AtomicUsize::new(0),
            failing_logins: AtomicUsize::new(0),
            failing_answers: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
            executed: Mutex::default(),
            logged_out: watch::Sender::default(),
            login_gate: watch::Sender::new(true),
            slow_gate: watch::Sender::new(false),
            rejected: watch::Sender::new(0),
            rejected_together: AtomicUsize::new(0),
            closes: AtomicBool::new(false),
            goes_away: AtomicBool::new(false),
            away: Notify::new(),
            cut: Notify::new(),
            arrived,
        });
        let server = Self {
            origin: format!("http://{}", listener.local_addr().unwrap()),
            state: state.clone(),
            arrivals: Arc::new(tokio::sync::Mutex::new(arrivals)),
        };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                state.connections.fetch_add(1, Ordering::SeqCst);
                let state = state.clone();
                tokio::spawn(async move {
                    let service = hyper::service::service_fn({
                        let state = state.clone();
                        move |request| {
                            let state = state.clone();
                            async move { Ok::<_, Infallible>(state.answer(request).await) }
                        }
                    });
                    let mut builder = auto::Builder::new(TokioExecutor::new());
                    builder.http2().max_concurrent_streams(2000);
                    let stream = TokioIo::new(stream);
                    let connection = builder.serve_connection_with_upgrades(stream, service);
                    let mut connection = pin!(connection);
                    tokio::select! {
                        _ = connection.as_mut() => {}
                        () = state.cut.notified() => {}
                        () = state.away.notified() => {
                            connection.as_mut().graceful_shutdown();
                            let _ = connection.await;
                        }
                    }
                });
            }
        });
        server
    }

    fn uri(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    fn post(&self, path: &str) -> Request<Full<Bytes>> {
        Request::post(self.uri(path))
            .body(Full::from("job"))
            .unwrap()
    }

    fn get(&self, path: &str) -> Request<Full<Bytes>> {
        Request::get(self.uri(path)).body(Full::default()).unwrap()
    }

    fn profile(&self) -> Profile {
        Profile::at(self.origin.parse().unwrap()).logout_ends(LogoutEnds::Token)
    }

    /// Waits until a request to `path` has arrived.
    async fn reached(&self, path: &str) {
        let mut arrivals = self.arrivals.lock().await;
        while arrivals.recv().await.unwrap() != path {}
    }

    fn revoke(&self) {
        self.state.live.store(0, Ordering::SeqCst);
    }

    fn logins(&self) -> usize {
        self.state.logins.load(Ordering::SeqCst)
    }

    fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    fn rejected(&self) -> usize {
        *self.state.rejected.borrow()
    }

    fn most_under_way(&self) -> usize {
        self.state.most_under_way.load(Ordering::SeqCst)
    }

    fn executed(&self) -> Vec<String> {
        self.state.executed.lock().unwrap().clone()
    }

    fn executed_at(&self, path: &str) -> usize {
        let executed = self.executed();
        executed.iter().filter(|at| *at == path).count()
    }

    fn login_waits(&self) {
        self.state.login_gate.send_replace(false);
    }

    fn login_goes_on(&self) {
        self.state.login_gate.send_replace(true);
    }
}

async fn opened(gate: &watch::Sender<bool>) {
    gate.subscribe().wait_for(|open| *open).await.unwrap();
}

/// Takes one of what is left.
fn take_one(left: &AtomicUsize) -> bool {
    let taken = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        left.checked_sub(1)
    });
    taken.is_ok()
}

impl State {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_under_way.fetch_max(now, Ordering::SeqCst);
        let answer = self.clone().answer_alone(request).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        answer
    }

    async fn answer_alone(self: Arc<Self>, mut request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        let _ = self.arrived.send(path.clone());
        if path == "/login" {
            opened(&self.login_gate).await;
            if take_one(&self.failing_logins) {
                return answer(503, "later");
            }
            let login = self.logins.fetch_add(1, Ordering::SeqCst) + 1;
            self.live.store(login, Ordering::SeqCst);
            return answer(200, login.to_string());
        }
        let authorization = request.headers().get(header::AUTHORIZATION);
        let token =
            authorization.map(|value| value.to_str().unwrap()["Bearer ".len()..].to_owned());
        if path == "/logout" {
            let token = token.unwrap_or_default();
            self.logged_out.send_modify(|tokens| tokens.push(token));
            return answer(204, "");
        }
        let live = self.live.load(Ordering::SeqCst);
        if live == 0 || token != Some(live.to_string()) {
            return self.reject().await;
        }
        self.executed.lock().unwrap().push(path.clone());
        match path.as_str() {
            "/slow" => {
                opened(&self.slow_gate).await;
                answer(201, "")
            }
            "/flaky" if take_one(&self.failing_answers) => answer(503, "later"),
            "/cut" => {
                self.cut.notify_waiters();
                pending().await
            }
            "/echo" => {
                tokio::spawn(echo(hyper::upgrade::on(&mut request)));
                let mut response = answer(101, "");
                let headers = response.headers_mut();
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(header::UPGRADE, HeaderValue::from_static("echo"));
                response
            }
            "/trailers" => with_trailers().await,
            // The tunnel leads nowhere but back.
            _ if request.method() == Method::CONNECT => {
                tokio::spawn(echo(hyper::upgrade::on(&mut request)));
                answer(200, "")
            }
            _ => {
                let body = request.into_body().collect().await.unwrap();
                answer(201, body.to_bytes())
            }
        }
    }

    async fn reject(&self) -> Answer {
        self.rejected.send_modify(|rejected| *rejected += 1);
        let together = self.rejected_together.load(Ordering::SeqCst);
        let mut rejected = self.rejected.subscribe();
        rejected.wait_for(|all| *all >= together).await.unwrap();
        if self.goes_away.load(Ordering::SeqCst) {
            self.away.notify_waiters();
        }
        let mut response = answer(401, "who?");
        if self.closes.load(Ordering::SeqCst) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }
}

fn answer(status: u16, body: impl Into<Bytes>) -> Answer {
    let body = Full::new(body.into()).boxed_unsync();
    Response::builder().status(status).body(body).unwrap()
}

async fn with_trailers() -> Answer {
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(2);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("5f"));
    sender.send_data(Bytes::from("whole")).await.unwrap();
    sender.send_trailers(trailers).await.unwrap();
    let mut response = Response::new(body.boxed_unsync());
    let trailer = HeaderValue::from_static("x-checksum");
    response.headers_mut().insert(header::TRAILER, trailer);
    response
}

async fn echo(upgrade: hyper::upgrade::OnUpgrade) {
    let (mut from, mut to) = split(TokioIo::new(upgrade.await.unwrap()));
    copy(&mut from, &mut to).await.unwrap();
    to.shutdown().await.unwrap();
}

// The client.

fn http1() -> Http {
    boxed(Client::builder(TokioExecutor::new()).build(connector()))
}

fn http2() -> Http {
    let mut builder = Client::builder(TokioExecutor::new());
    boxed(builder.http2_only(true).build(connector()))
}

/// Sends what is written at once.
fn connector() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp
}

fn boxed<S>(service: S) -> Http
where
    S: Service<Request<Full<Bytes>>, Response = Response<Incoming>>,
    S: Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    BoxCloneSyncService::new(service.map_err(Into::into))
}

/// Logs in over a client of its own.
struct Login {
    server: Server,
    api: Api<Http>,
}

impl CredentialProvider for Login {
    fn profile(&self) -> Profile {
        self.server.profile()
    }

    async fn login(&self, _: LoginContext) -> Result<Token, ProviderError> {
        let answer = self.api.post("/login").login().await?;
        Ok(Token::bearer(answer.text()?.to_owned())?)
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        self.api.post("/logout").token(cx.token()).logout().await?;
        Ok(())
    }
}

/// A session that logs in over `http`, however long that takes.
fn session(server: &Server, http: &Http) -> Session {
    let login = Login {
        server: server.clone(),
        api: Api::new(http.clone(), server.origin.parse().unwrap()).unwrap(),
    };
    Session::builder(login).login_timeout(50 * HOUR).build()
}

/// Fails what does not end. Where the clock stands still, that takes no time.
async fn bounded<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(60);
    let ended = timeout(limit, future).await;
    ended.expect("something waits for itself")
}

/// Two bursts through clones of a client, with an expiry between them: all is
/// done, once each, and each burst shares one login.
async fn endures<S, B>(client: S, server: &Server)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = BoxError>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    const BURST: usize = 32;
    for burst in 1..=2 {
        let mut runs = JoinSet::new();
        for _ in 0..BURST {
            runs.spawn(client.clone().oneshot(server.post("/run")));
        }
        while let Some(response) = bounded(runs.join_next()).await {
            assert_eq!(response.unwrap().unwrap().status(), StatusCode::CREATED);
        }
        assert_eq!(server.executed_at("/run"), BURST * burst);
        assert_eq!(server.logins(), burst);
        server.revoke();
    }
}

async fn error_of<B>(call: impl Future<Output = Result<Response<B>, BoxError>>) -> BoxError {
    match bounded(call).await {
        Ok(response) => panic!("it was answered with {}", response.status()),
        Err(error) => error,
    }
}

// Layers that limit and share.

#[tokio::test]
async fn a_buffer_outside_takes_part_in_one_login() {
    for capacity in [1, 64] {
        let server = Server::start().await;
        let http = http1();
        let session = session(&server, &http);
        let client = ServiceBuilder::new()
            .buffer(capacity)
            .layer(session.layer())
            .service(http);
        endures(client, &server).await;
    }
}

#[tokio::test]
async fn a_buffer_inside_carries_the_login_too() {
    for capacity in [1, 64] {
        let server = Server::start().await;
        let http = boxed(ServiceBuilder::new().buffer(capacity).service(http1()));
        let session = session(&server, &http);
        let client = ServiceBuilder::new().layer(session.layer()).service(http);
        endures(client, &server).await;
    }
}

#[tokio::test]
async fn a_limit_of_one_inside_carries_the_login_too() {
    let server = Server::start().await;
    let http = boxed(ServiceBuilder::new().concurrency_limit(1).service(http1()));
    let session = session(&server, &http);
    let client = ServiceBuilder::new().layer(session.layer()).service(http);
    endures(client, &server).await;
    assert_eq!(server.most_under_way(), 1);
}

#[tokio::test]
async fn a_limit_of_one_outside_lets_the_login_pass() {
    let server = Server::start().await;
    let http = http1();
    let session = session(&server, &http);
    let client = ServiceBuilder::new()
        .concurrency_limit(1)
        .layer(session.layer())
        .service(http);
    endures(client, &server).await;
    assert_eq!(server.most_under_way(), 1);
}

#[tokio::test]
async fn limits_and_buffers_on_both_sides_get_along() {
    let server = Server::start().await;
    let inner = ServiceBuilder::new().buffer(1).concurrency_limit(1);
    let http = boxed(inner.service(http1()));
    let session = session(&server, &http);
    let client = ServiceBuilder::new()
        .buffer(1)
        .concurrency_limit(2)
        .layer(session.layer())
        .service(http);
    endures(client, &server).await;
}

#[tokio::test]
async fn a_permit_that_was_taken_in_vain_is_free_again() {
    let server = Server::start().await;
    let http = boxed(ServiceBuilder::new().concurrency_limit(1).service(http1()));
    let session = session(&server, &http);
    let client = ServiceBuilder::new().layer(session.layer()).service(http);

    let mut ready = client.clone();
    bounded(ready.ready()).await.unwrap();
    let mut clone = ready.clone();
    let mut clones = tokio_test::task::spawn(clone.ready());
    assert!(clones.poll().is_pending(), "a clone holds no permit");
    drop(ready);
    assert!(clones.is_woken());
    drop(clones);

    // One that is called gives it to the login, even before it is polled.
    bounded(clone.ready()).await.unwrap();
    let call = clone.call(server.post("/run"));
    let other = bounded(client.oneshot(server.post("/run"))).await.unwrap();
    assert_eq!(other.status(), StatusCode::CREATED);
    assert_eq!(bounded(call).await.unwrap().status(), StatusCode::CREATED);
    assert_eq!(server.logins(), 1);
}

/// The clock stands still but for timers that are waited for.
#[tokio::test(start_paused = true)]
async fn a_rate_limit_outside_counts_requests_and_one_inside_all_that_is_sent() {
    let server = Server::start().await;
    let http = http1();
    let from_outside = session(&server, &http);
    from_outside.token().await.unwrap();
    server.revoke();
    let mut client = ServiceBuilder::new()
        .rate_limit(1, HOUR)
        .layer(from_outside.layer())
        .service(http);
    let begun = Instant::now();
    let first = client.ready().await.unwrap().call(server.post("/run"));
    assert_eq!(first.await.unwrap().status(), StatusCode::CREATED);
    assert!(begun.elapsed() < HOUR, "login and replay are free");
    let second = client.ready().await.unwrap().call(server.post("/run"));
    assert_eq!(second.await.unwrap().status(), StatusCode::CREATED);
    assert!(begun.elapsed() >= HOUR);
    assert_eq!((server.executed_at("/run"), server.rejected()), (2, 1));

    let server = Server::start().await;
    let limited = ServiceBuilder::new().buffer(8).rate_limit(1, HOUR);
    let http = boxed(limited.service(http1()));
    let from_inside = session(&server, &http);
    from_inside.token().await.unwrap();
    server.revoke();
    let client = ServiceBuilder::new()
        .layer(from_inside.layer())
        .service(http);
    let begun = Instant::now();
    let call = timeout(100 * HOUR, client.oneshot(server.post("/run")));
    let response = call.await.expect("it waits for itself").unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    // The rejected request, the login and the replay, after a login before.
    assert!(begun.elapsed() >= 3 * HOUR, "{:?}", begun.elapsed());
    assert_eq!((server.executed_at("/run"), server.rejected()), (1, 1));
}

#[tokio::test]
async fn what_is_shed_inside_is_not_sent_and_costs_no_login() {
    let server = Server::start().await;
    let http = http1();
    let session = session(&server, &http);
    session.token().await.unwrap();
    let shedding = ServiceBuilder::new().load_shed().concurrency_limit(1);
    let client = ServiceBuilder::new()
        .layer(session.layer())
        .service(shedding.service(http));

    let slow = tokio::spawn(client.clone().oneshot(server.post("/slow")));
    bounded(server.reached("/slow")).await;
    let error = error_of(client.clone().oneshot(server.post("/run"))).await;
    assert!(error.is::<Overloaded>(), "{error:?}");
    assert!(Error::find(&*error).is_none());
    server.state.slow_gate.send_replace(true);
    let slow = bounded(slow).await.unwrap().unwrap();
    assert_eq!(slow.status(), StatusCode::CREATED);

    // Nor is a replay, if others came in between.
    server.revoke();
    server.login_waits();
    let run = tokio::spawn(client.clone().oneshot(server.post("/run")));
    bounded(server.reached("/login")).await;
    let mut limited = client.get_ref().clone();
    bounded(limited.ready()).await.unwrap();
    let others = limited.call(server.get("/other"));
    server.login_goes_on();
    let error = error_of(async { run.await.unwrap() }).await;
    assert!(error.is::<Overloaded>(), "{error:?}");
    drop(others);
    assert_eq!(server.executed(), ["/slow"]);
    assert_eq!(server.logins(), 2);
}

#[tokio::test]
async fn a_wait_for_a_login_is_no_load_to_be_shed() {
    let server = Server::start().await;
    let http = http1();
    let session = session(&server, &http);
    server.login_waits();
    let client = ServiceBuilder::new()
        .load_shed()
        .layer(session.layer())
        .concurrency_limit(1)
        .service(http);

    let mut runs = JoinSet::new();
    for _ in 0..16 {
        let call = client.clone().oneshot(server.post("/run"));
        let mut call = tokio_test::task::spawn(Box::pin(call));
        assert!(call.poll().is_pending(), "it waits for the login");
        runs.spawn(call.into_inner());
    }
    bounded(server.reached("/login")).await;
    server.login_goes_on();
    while let Some(response) = bounded(runs.join_next()).await {
        assert_eq!(response.unwrap().unwrap().status(), StatusCode::CREATED);
    }
    assert_eq!(server.executed_at("/run"), 16);
    assert_eq!(server.logins(), 1);
}

// Layers that give up.

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_cuts_the_request_and_not_the_login() {
    let server = Server::start().await;
    let http = http1();
    let session = session(&server, &http);
    server.login_waits();
    let client = ServiceBuilder::new()
        .timeout(HOUR)
        .layer(session.layer())
        .service(http);

    let error = client.clone().oneshot(server.post("/run")).await;
    let error = error.err().unwrap();
    assert!(error.is::<Elapsed>(), "{error:?}");
    resume();
    server.login_goes_on();
    let response = bounded(client.oneshot(server.post("/run"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(server.executed(), ["/run"]);
    assert_eq!(server.logins(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_inside_is_of_each_call_and_not_of_the_wait_for_a_login() {
    let server = Server::start().await;
    let http = http1();
    let session = session(&server, &http);
    server.login_waits();
    let client = ServiceBuilder::new()
        .layer(session.layer())
        .timeout(HOUR)
        .service(http);

    let run = tokio::spawn(client.clone().oneshot(server.post("/run")));
    sleep(2 * HOUR).await;
    server.login_goes_on();
    let response = run.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);

    // It may have been executed, and here it was: it is not sent again.
    let error = client.oneshot(server.post("/slow")).await.err().unwrap();
    assert!(error.is::<Elapsed>(), "{error:?}");
    assert!(Error::find(&*error).is_none());
    assert_eq!(server.executed(), ["/run", "/slow"]);
    assert_eq!(server.logins(), 1);
}

#[tokio::test]
async fn a_balance_over_clients_of_one_session_shares_its_logins() {
    let server = Server::start().await;
    let http = http1();
    let session = session(&server, &http);
    let clients = [(); 3].map(|()| {
        let client = ServiceBuilder::new().concurrency_limit(4);
        let client = client.layer(session.layer()).service(http.clone());
        Constant::new(client, 1)
    });
    let clients = ServiceList::new::<Request<Full<Bytes>>>(clients);
    let client = ServiceBuilder::new()
        .buffer(64)
        .service(Balance::new(clients));
    endures(client, &server).await;
}

// Layers that send again.

/// Sends every request a second time.
#[derive(Clone)]
struct Twice;

impl hedge::Policy<Request<Full<Bytes>>> for Twice {
    fn clone_request(&self, request: &Request<Full<Bytes>>) -> Option<Request<Full<Bytes>>> {
        Some(request.clone())
    }

    fn can_retry(&self, _: &Request<Full<Bytes>>) -> bool {
        true
    }
}

/// The one that comes second is dropped while it waits.
#[tokio::test(start_paused = true)]
async fn a_hedge_that_waits_for_a_login_shares_it_and_sends_one_request() {
    let provider = ScriptedProvider::at("https://api.test".parse().unwrap());
    let gate = Gate::closed();
    provider.on_login(testing::Answer::usual().held_at(&gate));
    let session = Session::new(provider.clone());
    let service = ScriptedService::new();
    let client = ServiceBuilder::new().layer(session.layer());
    let client = client.concurrency_limit(1).service(service.clone());
    let latencies = [10; 4];
    let mut client = Hedge::new_with_mock_latencies(client, Twice, 1, 0.9, HOUR, &latencies);

    let request = Request::get("https://api.test/").body(Full::<Bytes>::default());
    let ready = ServiceExt::<Request<Full<Bytes>>>::ready(&mut client).await;
    let run = tokio::spawn(ready.unwrap().call(request.unwrap()));
    sleep(Duration::from_secs(1)).await;
    gate.open();
    assert!(bounded(run).await.unwrap().is_ok());
    assert_eq!([service.requests(), provider.logins()], [1, 1]);
    session.close(Duration::from_secs(1)).await.unwrap();
}

/// Sends again what was not executed: what failed with an error of the
/// session's, what was rejected and given back because of a failed renewal, and
/// what the server put off.
#[derive(Clone)]
struct Again {
    times: usize,
}

impl<B> Policy<Request<Full<Bytes>>, Response<B>, BoxError> for Again {
    type Future = Sleep;

    fn retry(
        &mut self,
        _: &mut Request<Full<Bytes>>,
        result: &mut Result<Response<B>, BoxError>,
    ) -> Option<Sleep> {
        let wait = match result {
            Err(error) => Error::find(&**error)?.retry_after(),
            Ok(response) if response.status() == StatusCode::SERVICE_UNAVAILABLE => None,
            Ok(response) => match &response.extensions().get::<Reauth>()?.failure {
                ReauthFailure::RenewalFailed(error) => error.retry_after(),
                _ => return None,
            },
        };
        self.times = self.times.checked_sub(1)?;
        Some(sleep(wait.unwrap_or_default()))
    }

    fn clone_request(&mut self, request: &Request<Full<Bytes>>) -> Option<Request<Full<Bytes>>> {
        Some(request.clone())
    }
}

#[tokio::test]
async fn a_retry_below_sends_the_token_each_time_and_no_rejection() {
    let server = Server::start().await;
    let http = http1();
    let session = session(&server, &http);
    session.token().await.unwrap();
    server.revoke();
    server.state.failing_answers.store(2, Ordering::SeqCst);
    let client = ServiceBuilder::new()
        .layer(session.layer())
        .retry(Again { times: 5 })
        .service(http);

    let response = bounded(client.oneshot(server.get("/flaky"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(server.executed_at("/flaky"), 3, "two were put off");
    assert_eq!((server.rejected(), server.logins()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_retry_above_gets_a_post_through_an_outage_of_the_login_once() {
    // Without a token, and with one that has died.
    for has_token in [false, true] {
        let server = Server::start().await;
        let http = http1();
        let session = session(&server, &http);
        if has_token {
            session.token().await.unwrap();
            server.revoke();
        }
        let before = server.logins();
        server.state.failing_logins.store(3, Ordering::SeqCst);
        let client = ServiceBuilder::new()
            .retry(Again { times: 50 })
            .layer(session.layer())
            .service(http);

        let response = client.oneshot(server.post("/run")).await.unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
        assert_eq!(server.executed(), ["/run"]);
        assert_eq!(server.logins(), before + 1);
    }
}

#[tokio::test]
async fn a_retry_above_does_not_repeat_what_may_have_been_executed() {
    let server = Server::start().await;
    let http = http1();
    let session = session(&server, &http);
    session.token().await.unwrap();
    // So that it is executed as a replay.
    server.revoke();
    let client = ServiceBuilder::new()
        .retry(Again { times: 50 })
        .layer(session.layer())
        .service(http);

    let error = error_of(client.oneshot(server.post("/cut"))).await;
    assert!(Error::find(&*error).is_none(), "{error:?}");
    assert_eq!(server.executed(), ["/cut"]);
}

// Connections.

#[tokio::test]
async fn a_thousand_streams_of_one_connection_share_one_login() {
    const STREAMS: usize = 1000;
    let server = Server::start().await;
    let http = http2();
    let session = session(&server, &http);
    session.token().await.unwrap();
    server.revoke();
    let together = &server.state.rejected_together;
    together.store(STREAMS, Ordering::SeqCst);
    let client = ServiceBuilder::new().layer(session.layer()).service(http);

    let mut runs = JoinSet::new();
    for _ in 0..STREAMS {
        runs.spawn(client.clone().oneshot(server.post("/run")));
    }
    while let Some(response) = bounded(runs.join_next()).await {
        let response = response.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
        assert_eq!(response.version(), Version::HTTP_2);
        let body = bounded(response.into_body().collect()).await.unwrap();
        assert_eq!(body.to_bytes(), "job");
    }
    assert!(server.most_under_way() >= STREAMS);
    assert_eq!(server.rejected(), STREAMS);
    assert_eq!(server.executed_at("/run"), STREAMS);
    assert_eq!(server.logins(), 2, "one before and one after");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_rejection_that_closes_its_connection_is_replayed_over_another() {
    let server = Server::start().await;
    let http = http1();
    let session = session(&server, &http);
    session.token().await.unwrap();
    server.revoke();
    server.state.closes.store(true, Ordering::SeqCst);
    let client = ServiceBuilder::new().layer(session.layer()).service(http);

    let response = bounded(client.oneshot(server.post("/run"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(server.executed(), ["/run"]);
    assert_eq!(server.connections(), 2);
}

/// By a GOAWAY, in HTTP/2.
#[tokio::test]
async fn rejections_with_which_a_connection_goes_away_are_replayed_over_another() {
    const STREAMS: usize = 16;
    let server = Server::start().await;
    let session = session(&server, &http1());
    session.token().await.unwrap();
    server.revoke();
    let together = &server.state.rejected_together;
    together.store(STREAMS, Ordering::SeqCst);
    server.state.goes_away.store(true, Ordering::SeqCst);
    server.login_waits();
    let client = ServiceBuilder::new().layer(session.layer());
    let client = client.service(http2());

    let mut runs = JoinSet::new();
    for _ in 0..STREAMS {
        runs.spawn(client.clone().oneshot(server.post("/run")));
    }
    server.reached("/login").await;
    server.reached("/login").await;
    server.login_goes_on();
    while let Some(response) = bounded(runs.join_next()).await {
        let response = response.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
    }
    assert_eq!(server.rejected(), STREAMS);
    assert_eq!(server.executed_at("/run"), STREAMS);
    assert_eq!(server.logins(), 2, "one before and one after");
    assert!(server.connections() > 2, "one of the logins', and two");
}

/// At each moment from the rejection on. What comes of it is not said, but that
/// it comes once.
#[tokio::test]
async fn whenever_a_connection_breaks_nothing_is_executed_twice() {
    for http in [http1, http2] {
        for moment in 0..MOMENTS {
            let server = Server::start().await;
            let http = http();
            let state = server.state.clone();
            let provider = provider_fn(server.profile(), move |_: LoginContext| {
                let state = state.clone();
                async move {
                    state.live.store(1, Ordering::SeqCst);
                    tokio::spawn(async move {
                        for _ in 0..moment {
                            yield_now().await;
                        }
                        state.cut.notify_waiters();
                    });
                    Ok(Token::bearer("1")?)
                }
            });
            let session = Session::builder(provider)
                .initial_token(Token::bearer("0").unwrap())
                .build();
            let client = ServiceBuilder::new().layer(session.layer()).service(http);

            match bounded(client.oneshot(server.post("/run"))).await {
                Ok(response) => {
                    assert_eq!(response.status(), StatusCode::CREATED);
                    assert_eq!(server.executed(), ["/run"]);
                }
                Err(error) => {
                    assert!(Error::find(&*error).is_none(), "{error:?}");
                    assert!(server.executed().len() <= 1);
                }
            }
            assert_eq!(server.rejected(), 1);
        }
    }
}

// What is more than a response.

async fn echoes(response: Response<SessionBody<Incoming>>) {
    let upgraded = bounded(hyper::upgrade::on(response)).await.unwrap();
    let mut upgraded = TokioIo::new(upgraded);
    for said in ["there", "and back"] {
        upgraded.write_all(said.as_bytes()).await.unwrap();
        let mut heard = vec![0; said.len()];
        bounded(upgraded.read_exact(&mut heard)).await.unwrap();
        assert_eq!(heard, said.as_bytes());
    }
    upgraded.shutdown().await.unwrap();
    let mut rest = Vec::new();
    bounded(upgraded.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn a_connection_is_upgraded_and_uses_its_token_while_that_is_kept() {
    let server = Server::start().await;
    let http = http1();
    let session = session(&server, &http);
    session.accept(&session.token().await.unwrap());
    // So that it is the replay that is upgraded.
    server.revoke();
    let client = ServiceBuilder::new().layer(session.layer()).service(http);
    let mut request = server.get("/echo");
    let headers = request.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("echo"));

    let response = bounded(client.clone().oneshot(request)).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let token = response.extensions().get::<Token>().unwrap().clone();
    assert_eq!(token.generation(), 2);
    bounded(session.renew()).await.unwrap();
    echoes(response).await;
    let response = bounded(client.oneshot(server.post("/run"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    let mut logged_out = server.state.logged_out.subscribe();
    assert!(logged_out.borrow_and_update().is_empty(), "it is in use");
    drop(token);
    bounded(logged_out.changed()).await.unwrap();
    assert_eq!(*logged_out.borrow(), ["2"]);
}

#[tokio::test]
async fn a_tunnel_is_opened_by_a_replay_too() {
    let server = Server::start().await;
    let http = http1();
    let session = session(&server, &http);
    session.accept(&session.token().await.unwrap());
    server.revoke();
    let client = ServiceBuilder::new().layer(session.layer()).service(http);

    let connect = |uri: &str| {
        let request = Request::connect(uri);
        request.body(Full::<Bytes>::default()).unwrap()
    };
    let request = connect(&server.uri("/"));
    let response = bounded(client.clone().oneshot(request)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!((server.rejected(), server.logins()), (1, 2));
    let token = response.extensions().get::<Token>().unwrap().clone();
    bounded(session.renew()).await.unwrap();
    session.accept(&session.token().await.unwrap());
    echoes(response).await;
    let mut logged_out = server.state.logged_out.subscribe();
    assert!(logged_out.borrow_and_update().is_empty(), "it is in use");
    drop(token);
    bounded(logged_out.changed()).await.unwrap();
    assert_eq!(*logged_out.borrow(), ["2"]);

    // Whoever tunnels for an authority alone is no origin of the token's.
    let authority = server.origin.strip_prefix("http://").unwrap();
    let response = bounded(client.oneshot(connect(authority))).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(response.extensions().get::<Reauth>().is_none());
    assert_eq!((server.rejected(), server.logins()), (2, 3));
}

#[tokio::test]
async fn trailers_and_sizes_pass_in_either_version() {
    for http in [http1(), http2()] {
        let server = Server::start().await;
        let session = session(&server, &http);
        let client = ServiceBuilder::new().layer(session.layer()).service(http);

        let response = bounded(client.clone().oneshot(server.post("/run"))).await;
        let mut body = response.unwrap().into_body();
        assert_eq!(body.size_hint().exact(), Some(3));
        assert!(!body.is_end_stream());
        let frame = bounded(body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "job");
        assert_eq!(body.size_hint().exact(), Some(0));
        assert!(body.is_end_stream());

        let head = Request::head(server.uri("/run")).body(Full::default());
        let response = bounded(client.clone().oneshot(head.unwrap())).await;
        let body = response.unwrap().into_body();
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));

        let mut request = server.get("/trailers");
        let trailers = HeaderValue::from_static("trailers");
        request.headers_mut().insert(header::TE, trailers);
        let response = bounded(client.oneshot(request)).await.unwrap();
        let body = response.into_body();
        assert_eq!(body.size_hint().exact(), None);
        let whole = bounded(body.collect()).await.unwrap();
        assert_eq!(whole.trailers().unwrap()["x-checksum"], "5f");
        assert_eq!(whole.to_bytes(), "whole");
    }
}
