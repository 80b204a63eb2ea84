//! `Buffer`: streaming request bodies that can be sent a second time.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use allocation_counter::measure;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio_test::task;
use tower::{Layer, Service, ServiceExt};
use tower_reauth::{
    Anonymous, BoxError, Buffer, Buffered, IfEmpty, LoginContext, Profile, Reauth, ReauthFailure,
    Replay, Session, SessionService, Token, provider_fn, replay_fn,
};

const ORIGIN: &str = "https://api.example.com";

/// A body whose frames come from elsewhere, of a size that nobody knows.
struct Stream {
    frames: mpsc::UnboundedReceiver<Result<Frame<Bytes>, Broken>>,
    hint: SizeHint,
    /// Told when the body is dropped.
    dropped: Option<mpsc::UnboundedSender<()>>,
}

#[derive(Debug, PartialEq)]
struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the source broke")
    }
}

impl std::error::Error for Broken {}

impl Body for Stream {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        // As a source that knows nothing of tokio, and so of its tasks' budgets.
        let next = std::future::poll_fn(|cx| self.frames.poll_recv(cx));
        std::pin::pin!(tokio::task::unconstrained(next)).poll(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(dropped) = &self.dropped {
            let _ = dropped.send(());
        }
    }
}

type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, Broken>>;

fn stream() -> (Frames, Stream) {
    let (sender, frames) = mpsc::unbounded_channel();
    let body = Stream {
        frames,
        hint: SizeHint::new(),
        dropped: None,
    };
    (sender, body)
}

fn data(frames: &Frames, data: impl Into<Bytes>) {
    frames.send(Ok(Frame::data(data.into()))).unwrap();
}

fn trailers(frames: &Frames) {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", "9".parse().unwrap());
    frames.send(Ok(Frame::trailers(trailers))).unwrap();
}

/// Whether somebody still holds the body at the other end.
fn is_held(frames: &Frames) -> bool {
    !frames.is_closed()
}

/// What came of a request: its body, and whether it ended as it should.
#[derive(Clone, Debug, Default, PartialEq)]
struct Got {
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
    error: Option<String>,
}

async fn got<B>(body: B) -> Got
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = std::pin::pin!(body);
    let mut got = Got::default();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) if frame.is_data() => got.data.extend(frame.into_data().unwrap()),
            Ok(frame) => got.trailers = frame.into_trailers().ok(),
            Err(error) => {
                got.error = Some(error.into().to_string());
                break;
            }
        }
    }
    got
}

/// A session whose first token is dead.
fn session() -> Session {
    let logins = std::sync::atomic::AtomicU32::new(0);
    let profile = Profile::at(ORIGIN.parse().unwrap())
        .bound()
        .allow_plain_http();
    let provider = provider_fn(profile, move |_: LoginContext| {
        let login = 1 + logins.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move { Ok(Token::bearer(format!("token-{login}"))?) }
    });
    Session::new(provider)
}

fn is_dead(head: &http::request::Parts) -> bool {
    head.headers[header::AUTHORIZATION] == "Bearer token-1"
}

fn answer(status: u16) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn post<B>(body: B) -> Request<B> {
    Request::post(format!("{ORIGIN}/jobs")).body(body).unwrap()
}

/// A server that reads each body to its end before it answers.
#[derive(Clone, Default)]
struct Server {
    got: Arc<Mutex<Vec<Got>>>,
}

impl<B> Service<Request<B>> for Server
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Empty<Bytes>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let seen = self.got.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let got = got(body).await;
            seen.lock().unwrap().push(got.clone());
            match got.error {
                Some(error) => Err(error.into()),
                None if is_dead(&head) => Ok(answer(401)),
                None => Ok(answer(200)),
            }
        })
    }
}

#[tokio::test]
async fn a_stream_of_unknown_length_is_replayed_with_its_trailers() {
    let (frames, body) = stream();
    for piece in ["a", "", "streamed", &"x".repeat(3000), "body"] {
        data(&frames, piece.to_owned());
    }
    trailers(&frames);
    drop(frames);
    let server = Server::default();
    let layer = session().layer().replay(Buffer::up_to(4096));
    let response = layer
        .layer(server.clone())
        .oneshot(post(body))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let got = server.got.lock().unwrap();
    let expected = format!("astreamed{}body", "x".repeat(3000));
    assert_eq!(got[0].data, expected.as_bytes());
    assert!(got[0].trailers.is_some());
    assert_eq!(got[0], got[1]);
    assert_eq!(got.len(), 2);
}

#[tokio::test]
async fn a_body_that_grows_over_the_limit_streams_on_and_is_not_replayed() {
    for (length, limit, replayed) in [(10, 10, true), (11, 10, false), (0, 0, true)] {
        let (frames, body) = stream();
        for _ in 0..length {
            data(&frames, "x");
        }
        drop(frames);
        let server = Server::default();
        let session = session();
        let layer = session.layer().replay(Buffer::up_to(limit));
        let response = layer
            .layer(server.clone())
            .oneshot(post(body))
            .await
            .unwrap();
        let got = server.got.lock().unwrap().clone();
        assert!(got.iter().all(|got| got.data.len() == length));
        if replayed {
            assert_eq!((response.status().as_u16(), got.len()), (200, 2));
        } else {
            assert_eq!((response.status().as_u16(), got.len()), (401, 1));
            let why = &response.extensions().get::<Reauth>().unwrap().failure;
            assert!(matches!(why, ReauthFailure::NotReplayable));
            // The next one has a good token all the same.
            let layer = session.layer().replay(Buffer::up_to(limit));
            let response = layer
                .layer(server)
                .oneshot(post(Full::<Bytes>::default()))
                .await;
            assert_eq!(response.unwrap().status(), 200);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_rejection_of_a_body_over_the_limit_waits_for_no_renewal() {
    let (first, gate) = (
        std::sync::atomic::AtomicBool::new(true),
        Arc::new(Notify::new()),
    );
    let profile = Profile::at(ORIGIN.parse().unwrap());
    let held = gate.clone();
    let session = Session::new(provider_fn(profile, move |_: LoginContext| {
        let is_first = first.swap(false, std::sync::atomic::Ordering::SeqCst);
        let held = held.clone();
        async move {
            if !is_first {
                held.notified().await;
            }
            Ok(Token::bearer("token-1")?)
        }
    }));
    let (frames, body) = stream();
    data(&frames, "12345");
    drop(frames);
    let layer = session.layer().replay(Buffer::up_to(4));
    let began = tokio::time::Instant::now();
    let response = layer.layer(Server::default()).oneshot(post(body)).await;
    assert_eq!(response.unwrap().status(), 401);
    assert_eq!(began.elapsed(), Duration::ZERO);
    gate.notify_one();
}

#[tokio::test]
async fn trailers_count_towards_the_limit() {
    let (frames, body) = stream();
    data(&frames, "12345678");
    trailers(&frames);
    drop(frames);
    let server = Server::default();
    let layer = session().layer().replay(Buffer::up_to(8));
    let response = layer
        .layer(server.clone())
        .oneshot(post(body))
        .await
        .unwrap();
    assert_eq!(response.status(), 401);
    assert!(server.got.lock().unwrap()[0].trailers.is_some());
}

#[tokio::test]
async fn a_body_that_is_known_to_be_too_long_is_not_copied() {
    let length = 100_000;
    let (sent, kept) = Buffer::up_to(length - 1).keep(Full::new(Bytes::from(vec![1; length])));
    assert!(kept.is_none());
    assert_eq!(sent.size_hint().exact(), Some(length as u64));
    assert_eq!(got(sent).await.data.len(), length);
}

/// Answers with a 401 for the dead token at once, and keeps the body that came
/// with it, if it is told to.
#[derive(Clone, Default)]
struct Hasty {
    kept: Arc<Mutex<Vec<Buffered<Stream>>>>,
    drops: bool,
    server: Server,
}

impl Service<Request<Buffered<Stream>>> for Hasty {
    type Response = Response<Empty<Bytes>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Buffered<Stream>>) -> Self::Future {
        let (head, body) = request.into_parts();
        if !is_dead(&head) {
            return self.server.call(Request::from_parts(head, body));
        }
        if !self.drops {
            self.kept.lock().unwrap().push(body);
        }
        Box::pin(async { Ok(answer(401)) })
    }
}

#[tokio::test]
async fn a_rejection_before_the_body_was_polled_loses_nothing() {
    for drops in [false, true] {
        let (frames, body) = stream();
        data(&frames, "all of it");
        trailers(&frames);
        drop(frames);
        let hasty = Hasty {
            drops,
            ..Hasty::default()
        };
        let layer = session().layer().replay(Buffer::up_to(64));
        let response = layer
            .layer(hasty.clone())
            .oneshot(post(body))
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        let got = hasty.server.got.lock().unwrap();
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].data, b"all of it");
        assert!(got[0].trailers.is_some());
    }
}

#[tokio::test]
async fn a_body_that_is_being_sent_goes_on_in_the_replay() {
    let (frames, body) = stream();
    let hasty = Hasty::default();
    let session = session();
    session.token().await.unwrap();
    let layer = session.layer().replay(Buffer::up_to(64));
    let mut response = task::spawn(layer.layer(hasty.clone()).oneshot(post(body)));
    assert!(response.poll().is_pending());
    let mut first = hasty.kept.lock().unwrap().pop().unwrap();

    // The client is in the midst of it when the request is replayed.
    data(&frames, "half ");
    let sent = first.frame().await.unwrap().unwrap();
    assert_eq!(sent.into_data().unwrap(), "half ");
    let mut waiting = task::spawn(first.frame());
    assert!(waiting.poll().is_pending());
    for _ in 0..10 {
        tokio::task::yield_now().await;
        assert!(response.poll().is_pending());
    }
    assert!(waiting.is_woken());

    // Its body fails, so that the rejected request cannot look complete.
    let Poll::Ready(Some(Err(error))) = waiting.poll() else {
        panic!("the body of the rejected request goes on");
    };
    assert!(error.to_string().contains("rejected"), "{error}");
    data(&frames, "and half");
    drop(frames);
    assert_eq!(response.await.unwrap().status(), 200);
    let got = hasty.server.got.lock().unwrap();
    assert_eq!(got[0].data, b"half and half");
}

#[tokio::test]
async fn one_that_is_over_the_limit_by_then_streams_on() {
    let (frames, body) = stream();
    let (mut first, kept) = Buffer::up_to(4).keep(body);
    data(&frames, "12345");
    assert!(first.frame().await.unwrap().is_ok());
    let kept = kept.unwrap();
    assert!(!<Buffer as Replay<Stream>>::is_kept(&kept));
    assert!(<Buffer as Replay<Stream>>::again(kept).is_none());
    data(&frames, "67890");
    drop(frames);
    let rest = got(first).await;
    assert_eq!((rest.data, rest.error), (b"67890".to_vec(), None));
}

#[tokio::test]
async fn a_body_that_has_ended_ends_in_peace_when_it_is_replayed() {
    // All was sent, but the client has not asked whether there is more.
    let (mut first, kept) = Buffer::up_to(64).keep(Full::new(Bytes::from("all")));
    assert!(first.frame().await.unwrap().is_ok());
    let again = <Buffer as Replay<Full<Bytes>>>::again(kept.unwrap()).unwrap();
    assert!(first.is_end_stream());
    assert!(first.frame().await.is_none());
    assert_eq!(got(again).await.data, b"all");
}

#[tokio::test]
async fn a_body_that_broke_is_not_replayed() {
    let (frames, body) = stream();
    let (mut first, kept) = Buffer::up_to(64).keep(body);
    data(&frames, "some");
    frames.send(Err(Broken)).unwrap();
    assert!(first.frame().await.unwrap().is_ok());
    let error = first.frame().await.unwrap().unwrap_err();
    assert_eq!(error.downcast_ref::<Broken>(), Some(&Broken));
    assert!(<Buffer as Replay<Stream>>::again(kept.unwrap()).is_none());
}

#[tokio::test]
async fn a_replay_is_framed_as_the_first_request_was() {
    // A body of known length is sent with a `Content-Length` both times, and
    // one with trailers has none, or they would be lost.
    for hint in [SizeHint::with_exact(6), SizeHint::new(), {
        let mut hint = SizeHint::new();
        hint.set_lower(2);
        hint.set_upper(60);
        hint
    }] {
        let (frames, mut body) = stream();
        body.hint = hint;
        for piece in ["ab", "cd", "ef"] {
            data(&frames, piece);
        }
        drop(frames);
        let (first, kept) = Buffer::up_to(64).keep(body);
        let before = first.size_hint();
        got(first).await;
        let mut again = <Buffer as Replay<Stream>>::again(kept.unwrap()).unwrap();
        for size in [&before, &again.size_hint()] {
            assert_eq!((size.lower(), size.upper()), (hint.lower(), hint.upper()));
        }
        assert!(!again.is_end_stream());
        while again.frame().await.is_some() {}
        assert!(again.is_end_stream());
        let left = again.size_hint();
        assert!(left.lower() == 0 && left.upper().is_none_or(|upper| upper < 60));
    }
}

#[tokio::test]
async fn the_copy_goes_when_the_response_is_accepted_and_the_body_streams_on() {
    #[derive(Clone)]
    struct Early(Arc<Mutex<Option<Buffered<Stream>>>>);
    impl Service<Request<Buffered<Stream>>> for Early {
        type Response = Response<Empty<Bytes>>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, request: Request<Buffered<Stream>>) -> Self::Future {
            let mut body = request.into_body();
            // Sends what there is, and answers before there is more.
            let mut cx = Context::from_waker(Waker::noop());
            while Pin::new(&mut body).poll_frame(&mut cx).is_ready() {}
            *self.0.lock().unwrap() = Some(body);
            std::future::ready(Ok(answer(200)))
        }
    }

    const SIZE: usize = 50_000;
    let session = session();
    session.token().await.unwrap();
    session.renew().await.unwrap();
    let early = Early(Arc::default());
    let mut client = session
        .layer()
        .replay(Buffer::up_to(SIZE))
        .layer(early.clone());
    let (frames, body) = stream();
    let piece = Bytes::from_static(&[7; 500]);
    for _ in 0..SIZE / 500 {
        data(&frames, piece.clone());
    }
    let mut cx = Context::from_waker(Waker::noop());
    let mut answered = None;
    let counted = measure(|| {
        let mut call = std::pin::pin!(client.call(post(body)));
        let Poll::Ready(Ok(response)) = call.as_mut().poll(&mut cx) else {
            panic!("it answers at once");
        };
        answered = Some(response.status());
    });
    assert_eq!(answered, Some(StatusCode::OK));
    // The copy, and some room for the request itself; and next to nothing after it.
    let most = counted.bytes_max as usize;
    assert!((SIZE..SIZE + 5000).contains(&most), "{most} bytes at most");
    assert!(
        counted.bytes_current < 2000,
        "{} bytes left",
        counted.bytes_current
    );

    // What comes now is copied no more.
    let mut body = early.0.lock().unwrap().take().unwrap();
    for _ in 0..100 {
        data(&frames, piece.clone());
    }
    let counted = measure(|| {
        for _ in 0..100 {
            assert!(Pin::new(&mut body).poll_frame(&mut cx).is_ready());
        }
    });
    assert!(counted.bytes_max < 1000, "{} bytes", counted.bytes_max);
    drop(frames);
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn no_more_than_the_limit_is_held_whatever_the_pieces() {
    for (piece, pieces) in [(1, 10_000), (333, 40), (10_000, 1), (4096, 3)] {
        let (frames, body) = stream();
        let bytes = Bytes::from(vec![1; piece]);
        for _ in 0..pieces {
            data(&frames, bytes.clone());
        }
        let (mut first, kept) = Buffer::up_to(10_000).keep(body);
        let mut cx = Context::from_waker(Waker::noop());
        let counted = measure(|| while Pin::new(&mut first).poll_frame(&mut cx).is_ready() {});
        // Beside the bytes themselves, there is a list of a few blocks.
        assert!(counted.bytes_max < 10_600, "{piece}: {}", counted.bytes_max);
        assert!(counted.count_total < 40, "{piece}: {}", counted.count_total);
        drop(kept);
    }
}

#[tokio::test]
async fn dropping_a_request_drops_its_body() {
    let (frames, body) = stream();
    let hasty = Hasty::default();
    let session = session();
    session.token().await.unwrap();
    let layer = session.layer().replay(Buffer::up_to(64));
    let mut response = task::spawn(layer.layer(hasty.clone()).oneshot(post(body)));
    assert!(response.poll().is_pending());
    hasty.kept.lock().unwrap().clear();
    assert!(is_held(&frames));
    drop(response);
    assert!(!is_held(&frames));
}

#[tokio::test]
async fn a_request_without_the_token_is_not_copied() {
    let (frames, body) = stream();
    data(&frames, "x");
    let mut request = post(body);
    request.extensions_mut().insert(Anonymous);
    request
        .headers_mut()
        .insert(header::AUTHORIZATION, "Bearer token-2".parse().unwrap());
    let server = Server::default();
    let layer = session().layer().replay(Buffer::up_to(64));
    let mut response = task::spawn(layer.layer(server.clone()).oneshot(request));
    assert!(response.poll().is_pending());
    drop(frames);
    assert_eq!(response.await.unwrap().status(), 200);
    assert_eq!(server.got.lock().unwrap()[0].data, b"x");
}

// Over sockets.

/// A server that answers the dead token before it reads the body, and then
/// reads it or not; and a count of the connections it took.
async fn hasty_server(reads: bool, seen: Arc<Mutex<Vec<Got>>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let seen = seen.clone();
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let seen = seen.clone();
                async move {
                    let (head, body) = request.into_parts();
                    if is_dead(&head) {
                        if reads {
                            tokio::spawn(body.collect());
                        }
                        return Ok::<_, Infallible>(answer(401));
                    }
                    let got = got(body).await;
                    seen.lock().unwrap().push(got);
                    Ok(answer(200))
                }
            });
            tokio::spawn(async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    origin
}

#[tokio::test]
async fn over_a_socket_a_rejection_in_the_midst_of_a_body_loses_nothing_and_sends_nothing_twice() {
    for (http2, reads) in [(false, true), (false, false), (true, true), (true, false)] {
        let seen = Arc::default();
        let origin = hasty_server(reads, Arc::clone(&seen)).await;
        let http: Client<HttpConnector, Buffered<Stream>> = Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .build(HttpConnector::new());
        let session = session();
        let client = session.layer().replay(Buffer::up_to(1 << 20)).layer(http);
        let (frames, body) = stream();
        // More than a socket takes, so that the server has not read it all.
        let piece = Bytes::from(vec![7; 10_000]);
        for _ in 0..50 {
            data(&frames, piece.clone());
        }
        let request = Request::post(format!("{origin}/jobs"))
            .header(header::TE, "trailers")
            .header(header::TRAILER, "x-checksum")
            .body(body)
            .unwrap();
        let response = tokio::spawn(client.oneshot(request));
        // The rest comes when the renewal has long begun.
        while session.stats().rejections == 0 {
            tokio::task::yield_now().await;
        }
        for _ in 0..50 {
            data(&frames, piece.clone());
        }
        trailers(&frames);
        drop(frames);
        let response = tokio::time::timeout(Duration::from_secs(30), response);
        let response = response.await.expect("it hangs").unwrap().unwrap();
        assert_eq!(response.status(), 200, "HTTP/2: {http2}, reads: {reads}");
        let got = seen.lock().unwrap().clone();
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].data.len(), 1_000_000);
        assert!(
            got[0].error.is_none() && got[0].trailers.is_some(),
            "{:?}",
            got[0].error
        );
    }
}

// The bodies of other crates.

fn works<B, R>(replay: R, body: impl Fn() -> B) -> impl Future<Output = usize>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: Replay<B, Body = B> + Clone + Send + 'static,
    R::Kept: Send,
{
    let server = Server::default();
    let client: SessionService<Server, R> = session().layer().replay(replay).layer(server.clone());
    let request = post(body());
    async move {
        // On another task, as servers do it.
        let response = tokio::spawn(client.oneshot(request))
            .await
            .unwrap()
            .unwrap();
        assert!(response.status() == 200 || response.status() == 401);
        let got = server.got.lock().unwrap();
        assert!(got.iter().all(|other| *other == got[0]));
        got.len()
    }
}

#[tokio::test]
async fn bodies_of_axum_tonic_and_reqwest_work_without_a_feature() {
    let buffer = Buffer::up_to(1024);

    use axum::body::Body as Axum;
    assert_eq!(works(IfEmpty, Axum::empty).await, 2);
    assert_eq!(works(IfEmpty, || Axum::from("x")).await, 1);
    assert_eq!(
        works(buffer.into_body(Axum::new), || Axum::from("x")).await,
        2
    );
    let streamed = || {
        let (frames, body) = stream();
        data(&frames, "a");
        trailers(&frames);
        Axum::new(body)
    };
    assert_eq!(works(buffer.into_body(Axum::new), streamed).await, 2);

    use tonic::body::Body as Tonic;
    assert_eq!(works(IfEmpty, Tonic::empty).await, 2);
    let full = || Tonic::new(Full::new(Bytes::from("x")));
    assert_eq!(works(IfEmpty, full).await, 1);
    assert_eq!(works(buffer.into_body(Tonic::new), full).await, 2);

    // What else a function can tell of a body, it can make again.
    let empty = replay_fn(|body: &Axum| body.is_end_stream().then(Axum::empty));
    assert_eq!(works(empty, Axum::empty).await, 2);
    assert_eq!(works(empty, || Axum::from("x")).await, 1);
    let empty = replay_fn(|body: &Tonic| body.is_end_stream().then(Tonic::empty));
    assert_eq!(works(empty, Tonic::empty).await, 2);
    assert_eq!(works(empty, full).await, 1);

    use reqwest::Body as Reqwest;
    assert_eq!(works(IfEmpty, Reqwest::default).await, 2);
    assert_eq!(works(IfEmpty, || Reqwest::from("x")).await, 1);
    assert_eq!(
        works(buffer.into_body(Reqwest::wrap), || Reqwest::from("x")).await,
        2
    );
    let clone =
        replay_fn(|body: &Reqwest| body.as_bytes().map(|bytes| Reqwest::from(bytes.to_vec())));
    assert_eq!(works(clone, || Reqwest::from("x")).await, 2);
}
