//! The layer between hyper's client and hyper's server, over sockets: what
//! only shows where there are connections, frames and trailers.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_reauth::{
    Error, ErrorKind, LoginContext, Profile, ProviderError, Reauth, ReauthFailure, Rejection,
    Session, SessionBody, Token, provider_fn,
};

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;
type Http = Client<HttpConnector, Full<Bytes>>;

/// What Control-M says of a dead token, in a 500 too.
const DEAD: &str = r#"{"errors":[{"message":"Session token is invalid or expired"}]}"#;

// The server.

/// What the server saw of a request.
#[derive(Clone, Debug)]
struct Seen {
    path: String,
    headers: HeaderMap,
    body: Bytes,
    /// The number of its connection, from 1.
    connection: usize,
}

impl Seen {
    fn authorization(&self) -> Option<&str> {
        let value = self.headers.get(header::AUTHORIZATION)?;
        Some(value.to_str().unwrap())
    }

    fn has(&self, token: &str) -> bool {
        self.authorization() == Some(&format!("Bearer {token}"))
    }
}

/// A server on a port of its own.
#[derive(Clone)]
struct Server {
    origin: String,
    accepted: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Closes the connections that are open, without an answer.
    cut: Arc<Notify>,
    /// One message for each connection that has ended.
    ended: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<()>>>,
}

impl Server {
    async fn start<F, Fut>(answer: F) -> Self
    where
        F: Fn(Seen) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (report, ended) = mpsc::unbounded_channel();
        let server = Self {
            origin: format!("http://{}", listener.local_addr().unwrap()),
            accepted: Arc::default(),
            seen: Arc::default(),
            cut: Arc::default(),
            ended: Arc::new(tokio::sync::Mutex::new(ended)),
        };
        let this = server.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let connection = this.accepted.fetch_add(1, Ordering::SeqCst) + 1;
                let (seen, answer) = (this.seen.clone(), answer.clone());
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let (seen, answer) = (seen.clone(), answer.clone());
                    async move {
                        let (head, body) = request.into_parts();
                        let request = Seen {
                            path: head.uri.path().to_owned(),
                            headers: head.headers,
                            body: body.collect().await?.to_bytes(),
                            connection,
                        };
                        seen.lock().unwrap().push(request.clone());
                        Ok::<_, hyper::Error>(answer(request).await)
                    }
                });
                let (cut, report) = (this.cut.clone(), report.clone());
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    tokio::select! {
                        _ = builder.serve_connection(TokioIo::new(stream), service) => {}
                        () = cut.notified() => {}
                    }
                    // Whoever has gone does not want to know.
                    let _ = report.send(());
                });
            }
        });
        server
    }

    fn uri(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    fn profile(&self) -> Profile {
        Profile::at(self.origin.parse().unwrap())
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    async fn a_connection_ended(&self) {
        self.ended.lock().await.recv().await.unwrap();
    }
}

fn answer(status: u16, body: impl Into<Bytes>) -> Answer {
    Response::builder()
        .status(status)
        .body(Full::new(body.into()).boxed_unsync())
        .unwrap()
}

/// A body that is sent frame by frame, as the test says.
struct Stream(mpsc::UnboundedReceiver<Frame<Bytes>>);

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

fn stream() -> (mpsc::UnboundedSender<Frame<Bytes>>, Stream) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Stream(receiver))
}

/// Bodies that have sent what they hold and end when they are let go.
///
/// A connection is busy for as long as its response has not ended, whatever
/// fits into a buffer.
#[derive(Clone, Default)]
struct Unended(Arc<Mutex<Vec<mpsc::UnboundedSender<Frame<Bytes>>>>>);

impl Unended {
    fn answer(&self, status: u16, body: impl Into<Bytes>) -> Answer {
        let (sender, stream) = stream();
        sender.send(Frame::data(body.into())).unwrap();
        self.0.lock().unwrap().push(sender);
        let response = Response::builder().status(status);
        response.body(stream.boxed_unsync()).unwrap()
    }

    fn end(&self) {
        self.0.lock().unwrap().clear();
    }
}

/// Bytes that tell when one of them is lost, doubled or moved.
fn pattern(length: usize) -> Bytes {
    (0..length).map(|at| (at % 251) as u8).collect()
}

// The client.

/// Runs the client's tasks and tells of each that has ended: of the one that
/// puts a connection back into the pool, and of the connection itself.
#[derive(Clone)]
struct Telling(mpsc::UnboundedSender<()>);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Telling {
    fn execute(&self, task: F) {
        let told = self.0.clone();
        tokio::spawn(async move {
            task.await;
            let _ = told.send(());
        });
    }
}

type Told = Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<()>>>;

/// A client, and what tells that one of its tasks has ended.
fn telling_client() -> (Http, Told) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let http = Client::builder(Telling(sender)).build_http();
    (http, Arc::new(tokio::sync::Mutex::new(receiver)))
}

fn client() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

fn get(uri: String) -> Request<Full<Bytes>> {
    Request::get(uri).body(Full::default()).unwrap()
}

fn post(uri: String, body: &'static str) -> Request<Full<Bytes>> {
    Request::post(uri).body(Full::from(body)).unwrap()
}

/// A session that starts with the token `old`, and whose logins yield `new`.
fn renewing(profile: Profile) -> Session {
    let provider = provider_fn(profile, |_: LoginContext| async {
        Ok(Token::bearer("new")?)
    });
    starting_with_old(provider)
}

fn starting_with_old(provider: impl tower_reauth::CredentialProvider) -> Session {
    Session::builder(provider)
        .initial_token(Token::bearer("old").unwrap())
        .build()
}

async fn send(
    session: &Session,
    http: &Http,
    request: Request<Full<Bytes>>,
) -> Response<SessionBody<Incoming>> {
    let client = ServiceBuilder::new()
        .layer(session.layer())
        .service(http.clone());
    client.oneshot(request).await.unwrap()
}

async fn read(response: Response<SessionBody<Incoming>>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

fn dead_in_a_500() -> Rejection {
    Rejection::status(StatusCode::UNAUTHORIZED).or_body_contains(
        StatusCode::INTERNAL_SERVER_ERROR,
        "Session token is invalid or expired",
        4096,
    )
}

#[tokio::test]
async fn rejection_login_and_replay_share_one_connection() {
    let unended = Unended::default();
    let server = Server::start({
        let unended = unended.clone();
        move |request| {
            let unended = unended.clone();
            async move {
                match request.path.as_str() {
                    "/login" => unended.answer(200, "new"),
                    _ if request.has("new") => answer(200, "welcome"),
                    _ => unended.answer(401, pattern(10_000)),
                }
            }
        }
    })
    .await;
    let (http, told) = telling_client();
    let login = {
        let (http, uri) = (http.clone(), server.uri("/login"));
        move |_: LoginContext| {
            let (http, uri) = (http.clone(), uri.clone());
            let (unended, told) = (unended.clone(), told.clone());
            async move {
                // The rejected request waits, and its connection is free again.
                unended.end();
                told.lock().await.recv().await.unwrap();
                let answer = http.request(post(uri, "emuser")).await;
                let answer = answer.map_err(ProviderError::unavailable)?.into_body();
                unended.end();
                let token = answer.collect().await.map_err(ProviderError::unavailable)?;
                told.lock().await.recv().await.unwrap();
                let token = String::from_utf8(token.to_bytes().to_vec()).unwrap();
                Ok(Token::bearer(token)?)
            }
        }
    };
    let session = starting_with_old(provider_fn(server.profile(), login));

    let response = send(&session, &http, get(server.uri("/servers"))).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(read(response).await, "welcome");

    let seen = server.seen();
    let paths: Vec<_> = seen.iter().map(|seen| seen.path.as_str()).collect();
    assert_eq!(paths, ["/servers", "/login", "/servers"]);
    assert!(seen.iter().all(|seen| seen.connection == 1), "{seen:?}");
    assert_eq!(server.accepted(), 1);
    assert_eq!(seen[1].authorization(), None, "a login carries no token");
}

#[tokio::test]
async fn over_http_2_a_rejected_request_is_replayed_beside_those_under_way() {
    let (held, body) = stream();
    let body = Arc::new(Mutex::new(Some(body)));
    let server = Server::start(move |request| {
        let body = body.clone();
        async move {
            match request.path.as_str() {
                "/watch" => Response::new(body.lock().unwrap().take().unwrap().boxed_unsync()),
                _ if request.has("new") => answer(200, request.body),
                _ => answer(401, pattern(100_000)),
            }
        }
    })
    .await;
    let http: Http = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let session = renewing(server.profile());

    let watch = send(&session, &http, get(server.uri("/watch"))).await;
    let order = send(&session, &http, post(server.uri("/order"), "job")).await;
    assert_eq!(order.status(), StatusCode::OK);
    assert_eq!(read(order).await, "job");
    assert_eq!(server.accepted(), 1);

    // What began with the old token is not cut by its renewal.
    held.send(Frame::data(Bytes::from("event"))).unwrap();
    drop(held);
    assert_eq!(read(watch).await, "event");
}

#[tokio::test]
async fn a_streamed_response_passes_frame_by_frame_and_with_its_trailers() {
    let (sender, body) = stream();
    let body = Arc::new(Mutex::new(Some(body)));
    let server = Server::start(move |_| {
        let body = body.clone();
        async move {
            let body = body.lock().unwrap().take().unwrap();
            let mut response = Response::new(body.boxed_unsync());
            let trailer = HeaderValue::from_static("x-checksum");
            response.headers_mut().insert(header::TRAILER, trailer);
            response
        }
    })
    .await;
    let session = renewing(server.profile());
    let mut request = get(server.uri("/log"));
    let trailers = HeaderValue::from_static("trailers");
    request.headers_mut().insert(header::TE, trailers);

    let response = send(&session, &client(), request).await;
    let mut body = response.into_body();
    for part in ["one", "two", "three"] {
        // Sent only once the part before it has arrived.
        sender.send(Frame::data(Bytes::from(part))).unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), part);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("5f"));
    sender.send(Frame::trailers(trailers.clone())).unwrap();
    drop(sender);
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_trailers().unwrap(), trailers);
    assert!(body.frame().await.is_none());
    let whole = body.into_inner();
    assert!(whole.is_ok(), "nothing of it was read ahead");
}

/// As gRPC answers (over HTTP/2), and as HTTP/1 does with chunks.
#[tokio::test]
async fn a_rejection_in_the_trailers_refreshes_the_token_for_the_next_request() {
    for http_2 in [true, false] {
        let server = Server::start(|request| async move {
            let mut trailers = HeaderMap::new();
            let status = HeaderValue::from_static(if request.has("old") { "16" } else { "0" });
            trailers.insert("grpc-status", status);
            let (sender, body) = stream();
            sender.send(Frame::data(Bytes::from("message"))).unwrap();
            sender.send(Frame::trailers(trailers)).unwrap();
            let mut response = Response::new(body.boxed_unsync());
            let trailer = HeaderValue::from_static("grpc-status");
            response.headers_mut().insert(header::TRAILER, trailer);
            response
        })
        .await;
        let unauthenticated = HeaderValue::from_static("16");
        let rejection = Rejection::trailer("grpc-status", unauthenticated);
        let session = renewing(server.profile().rejection(rejection));
        let http: Http = Client::builder(TokioExecutor::new())
            .http2_only(http_2)
            .build_http();
        for expected in ["16", "0"] {
            let mut request = post(server.uri("/Service/Method"), "message");
            let trailers = HeaderValue::from_static("trailers");
            request.headers_mut().insert(header::TE, trailers);
            let response = send(&session, &http, request).await;
            let body = response.into_body().collect().await.unwrap();
            assert_eq!(body.trailers().unwrap()["grpc-status"], expected);
            assert_eq!(body.to_bytes(), "message");
        }
        assert_eq!(server.seen().len(), 2, "no request was replayed");
    }
}

#[tokio::test]
async fn after_a_failed_renewal_the_rejected_body_is_whole() {
    // Smaller than what is read into memory, equal to it, and much larger.
    for length in [0, 100, 16 * 1024, 500_000] {
        let server = Server::start(move |_| async move { answer(401, pattern(length)) }).await;
        let provider = provider_fn(server.profile(), |_: LoginContext| async {
            Err(ProviderError::unavailable("down for maintenance"))
        });
        let session = starting_with_old(provider);

        let response = send(&session, &client(), get(server.uri("/servers"))).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let length_sent: usize = response.headers()[header::CONTENT_LENGTH]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(length_sent, length);
        assert_eq!(response.body().size_hint().exact(), Some(length as u64));
        let reauth = response.extensions().get::<Reauth>().unwrap();
        assert!(!reauth.replayed);
        assert!(
            matches!(&reauth.failure, ReauthFailure::RenewalFailed(error) if error.kind() == ErrorKind::Unavailable),
            "{reauth:?}"
        );
        assert_eq!(read(response).await, pattern(length));
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_500_that_was_looked_into_reaches_the_caller_byte_for_byte() {
    for length in [0, 100, 4096, 500_000] {
        let server = Server::start(move |_| async move { answer(500, pattern(length)) }).await;
        let session = renewing(server.profile().rejection(dead_in_a_500()));

        let response = send(&session, &client(), get(server.uri("/servers"))).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(response.extensions().get::<Reauth>().is_none());
        assert_eq!(
            response.headers()[header::CONTENT_LENGTH],
            length.to_string()
        );
        assert_eq!(response.body().size_hint().exact(), Some(length as u64));
        assert_eq!(read(response).await, pattern(length));
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_500_that_was_looked_into_keeps_its_frames_and_trailers() {
    let server = Server::start(|_| async {
        let (sender, body) = stream();
        for part in ["all ", "is ", "lost"] {
            sender.send(Frame::data(Bytes::from(part))).unwrap();
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("13"));
        sender.send(Frame::trailers(trailers)).unwrap();
        let response = Response::builder().status(500);
        response.body(body.boxed_unsync()).unwrap()
    })
    .await;
    // HTTP/2 keeps the server's frames apart.
    let http: Http = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let session = renewing(server.profile().rejection(dead_in_a_500()));

    let mut response = send(&session, &http, get(server.uri("/"))).await;
    let mut parts = Vec::new();
    let mut trailers = None;
    while let Some(frame) = response.body_mut().frame().await {
        match frame.unwrap().into_data() {
            Ok(data) => parts.push(data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    assert_eq!(parts, ["all ", "is ", "lost"]);
    assert_eq!(trailers.unwrap()["grpc-status"], "13");
}

#[tokio::test]
async fn a_dead_token_in_a_500_replays_a_get_and_gives_a_post_back() {
    let server = Server::start(|request| async move {
        match request.has("new") {
            true => answer(200, "welcome"),
            false => answer(500, DEAD),
        }
    })
    .await;
    let http = client();

    let session = renewing(server.profile().rejection(dead_in_a_500()));
    let response = send(&session, &http, get(server.uri("/jobs"))).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(read(response).await, "welcome");
    assert_eq!(server.seen().len(), 2);

    let session = renewing(server.profile().rejection(dead_in_a_500()));
    let response = send(&session, &http, post(server.uri("/run"), "job")).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let reauth = response.extensions().get::<Reauth>().unwrap();
    assert!(
        matches!(reauth.failure, ReauthFailure::Unsure),
        "{reauth:?}"
    );
    assert_eq!(read(response).await, DEAD);
    let mut runs = server.seen();
    runs.retain(|seen| seen.path == "/run");
    assert_eq!(runs.len(), 1, "the job ran once");

    // The next request has a new token all the same.
    let response = send(&session, &http, post(server.uri("/run"), "job")).await;
    assert_eq!(response.status(), StatusCode::OK);
}

/// The clock stands still but for timers that are waited for, and the only one
/// is the layer's own.
#[tokio::test(start_paused = true)]
async fn a_rejected_body_that_never_ends_holds_neither_the_login_nor_the_replay() {
    let (unending, body) = stream();
    unending.send(Frame::data(Bytes::from("wait "))).unwrap();
    let body = Arc::new(Mutex::new(Some(body)));
    let server = Server::start(move |request| {
        let body = body.clone();
        async move {
            if request.has("new") {
                return answer(200, "welcome");
            }
            let body = body.lock().unwrap().take().unwrap();
            let response = Response::builder().status(401);
            response.body(body.boxed_unsync()).unwrap()
        }
    })
    .await;
    let (report, mut logged_in) = mpsc::unbounded_channel();
    let provider = provider_fn(server.profile(), move |_: LoginContext| {
        report.send(Instant::now()).unwrap();
        async { Ok(Token::bearer("new")?) }
    });
    let session = starting_with_old(provider);

    let response = send(&session, &client(), get(server.uri("/servers"))).await;
    assert_eq!(response.status(), StatusCode::OK);
    let logged_in = logged_in.recv().await.unwrap();
    assert!(logged_in.elapsed() <= Duration::from_millis(2_100));
    assert_eq!(read(response).await, "welcome");
    drop(unending);
}

#[tokio::test]
async fn a_redirect_to_another_server_takes_no_token_there() {
    let other = Server::start(|_| async { answer(200, "elsewhere") }).await;
    let location = other.uri("/landing");
    let home = Server::start(move |request| {
        let location = location.clone();
        async move {
            match (request.path.as_str(), request.has("new")) {
                (_, false) => answer(401, ""),
                ("/start", true) => {
                    let mut response = answer(302, "");
                    let within = HeaderValue::from_static("/within");
                    response.headers_mut().insert(header::LOCATION, within);
                    response
                }
                (_, true) => {
                    let mut response = answer(307, "");
                    let location = location.parse().unwrap();
                    response.headers_mut().insert(header::LOCATION, location);
                    response
                }
            }
        }
    })
    .await;
    let session = renewing(home.profile());
    let client = ServiceBuilder::new()
        .layer(FollowRedirectLayer::new())
        .layer(session.layer())
        .service(client());

    let response = client.oneshot(get(home.uri("/start"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let hops: Vec<_> = home
        .seen()
        .iter()
        .map(|seen| format!("{} {}", seen.path, seen.authorization().unwrap()))
        .collect();
    assert_eq!(
        hops,
        [
            "/start Bearer old",
            "/start Bearer new",
            "/within Bearer new"
        ]
    );
    let [landed] = &other.seen()[..] else {
        panic!("the other server was not asked once");
    };
    assert_eq!(landed.path, "/landing");
    assert_eq!(landed.authorization(), None);
    assert_eq!(landed.headers.get(header::COOKIE), None);
}

#[tokio::test]
async fn a_connection_that_closes_during_the_renewal_is_replaced_for_the_replay() {
    let unended = Unended::default();
    let server = Server::start({
        let unended = unended.clone();
        move |request| {
            let unended = unended.clone();
            async move {
                match request.has("new") {
                    true => answer(200, "welcome"),
                    false => unended.answer(401, "who?"),
                }
            }
        }
    })
    .await;
    let (http, told) = telling_client();
    let login = {
        let server = server.clone();
        move |_: LoginContext| {
            let (server, told) = (server.clone(), told.clone());
            let unended = unended.clone();
            async move {
                // In the pool again, closed by the server, noticed by the client.
                unended.end();
                told.lock().await.recv().await.unwrap();
                server.cut.notify_waiters();
                server.a_connection_ended().await;
                told.lock().await.recv().await.unwrap();
                Ok(Token::bearer("new")?)
            }
        }
    };
    let session = starting_with_old(provider_fn(server.profile(), login));

    let response = send(&session, &http, post(server.uri("/run"), "job")).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(server.accepted(), 2);
    let executed = server.seen().iter().filter(|seen| seen.has("new")).count();
    assert_eq!(executed, 1);
}

#[tokio::test]
async fn a_connection_that_closes_during_the_replay_is_an_error_of_the_client() {
    let cut: Arc<Mutex<Option<Arc<Notify>>>> = Arc::default();
    let server = Server::start({
        let cut = cut.clone();
        move |request| {
            let cut = cut.clone();
            async move {
                if request.has("new") {
                    // Executed, but nobody will hear of it.
                    cut.lock().unwrap().as_ref().unwrap().notify_waiters();
                    std::future::pending::<()>().await;
                }
                answer(401, pattern(100))
            }
        }
    })
    .await;
    *cut.lock().unwrap() = Some(server.cut.clone());
    let session = renewing(server.profile());
    let client = ServiceBuilder::new()
        .layer(session.layer())
        .service(client());

    let run = client.oneshot(post(server.uri("/run"), "job"));
    let error = run.await.unwrap_err();
    assert!(Error::find(&*error).is_none(), "it may have been executed");
    assert!(error.is::<hyper_util::client::legacy::Error>(), "{error:?}");
    let mut bodies = HashMap::new();
    for seen in server.seen() {
        let authorization = seen.authorization().unwrap().to_owned();
        bodies
            .entry(authorization)
            .or_insert_with(Vec::new)
            .push(seen.body);
    }
    assert_eq!(bodies["Bearer old"], ["job"]);
    assert_eq!(bodies["Bearer new"], ["job"], "it was sent once");
}

#[tokio::test]
async fn the_client_is_handed_a_header_that_is_marked_as_sensitive() {
    let server = Server::start(|request| async move {
        match request.has("new") {
            true => answer(200, ""),
            false => answer(401, ""),
        }
    })
    .await;
    let handed: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let session = renewing(server.profile());
    let noting = handed.clone();
    let client = ServiceBuilder::new()
        .layer(session.layer())
        .map_request(move |request: Request<Full<Bytes>>| {
            noting.lock().unwrap().push(request.headers().clone());
            request
        })
        .service(client());

    let response = client.oneshot(get(server.uri("/"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let handed = handed.lock().unwrap();
    assert_eq!(handed.len(), 2, "a request and its replay");
    for headers in &*handed {
        assert!(headers[header::AUTHORIZATION].is_sensitive());
        assert!(!format!("{headers:?}").contains("Bearer"));
    }
    assert_eq!(
        server.seen().last().unwrap().authorization(),
        Some("Bearer new")
    );
}

/// A pool of one connection, as a service that is ready while that is free.
struct One {
    http: Http,
    free: Arc<Semaphore>,
    taking: Option<Pin<Box<dyn Future<Output = OwnedSemaphorePermit> + Send>>>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Clone for One {
    fn clone(&self) -> Self {
        Self {
            http: self.http.clone(),
            free: self.free.clone(),
            taking: None,
            taken: None,
        }
    }
}

impl Service<Request<Full<Bytes>>> for One {
    type Response = Response<Busy>;
    type Error = hyper_util::client::legacy::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if self.taken.is_none() {
            let free = self.free.clone();
            let taking = self
                .taking
                .get_or_insert_with(|| Box::pin(async { free.acquire_owned().await.unwrap() }));
            self.taken = Some(ready!(taking.as_mut().poll(cx)));
            self.taking = None;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let taken = self.taken.take().expect("called without being ready");
        let response = self.http.request(request);
        Box::pin(async {
            let response = response.await?;
            Ok(response.map(|body| Busy {
                body,
                taken: Some(taken),
            }))
        })
    }
}

/// A body that holds its connection until it ends.
struct Busy {
    body: Incoming,
    taken: Option<OwnedSemaphorePermit>,
}

impl Body for Busy {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() {
            self.taken = None;
        }
        Poll::Ready(frame)
    }
}

/// The clock stands still but for timers that are waited for.
#[tokio::test(start_paused = true)]
async fn a_rejected_response_of_any_size_leaves_the_only_connection_to_the_replay() {
    for length in [100, 500_000] {
        let server = Server::start(move |request| async move {
            match request.has("new") {
                true => answer(200, "welcome"),
                false => answer(401, pattern(length)),
            }
        })
        .await;
        let session = renewing(server.profile());
        let one = One {
            http: client(),
            free: Arc::new(Semaphore::new(1)),
            taking: None,
            taken: None,
        };
        let client = ServiceBuilder::new().layer(session.layer()).service(one);

        let response = client.oneshot(get(server.uri("/servers")));
        let response = timeout(Duration::from_secs(60), response).await;
        let response = response.expect("it waits for itself").unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{length} bytes");
    }
}
