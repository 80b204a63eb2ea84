//! Bodies, clients and executors that were made to break `Buffer`.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use allocation_counter::measure;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_test::task;
use tower::{Layer, ServiceExt};
use tower_reauth::{
    BoxError, Buffer, Buffered, LoginContext, Profile, Replay, Session, Token, provider_fn,
};

/// A body that does what it is told, call by call, and may not be polled after
/// its end.
struct Script {
    frames: Vec<Step>,
    has_ended: bool,
    hint: SizeHint,
    is_over: Arc<dyn Fn() -> bool + Send + Sync>,
}

enum Step {
    Data(&'static str),
    Trailers,
    Panic,
    /// No frame yet, and nobody is woken.
    Pending,
}

impl Body for Script {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.frames.is_empty() {
            assert!(!self.has_ended, "polled after its end");
            self.has_ended = true;
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(match self.frames.remove(0) {
            Step::Data(data) => Frame::data(data.into()),
            Step::Trailers => {
                let mut trailers = HeaderMap::new();
                trailers.insert("x-checksum", "9".parse().unwrap());
                Frame::trailers(trailers)
            }
            Step::Panic => panic!("the source panics"),
            Step::Pending => return Poll::Pending,
        })))
    }

    fn is_end_stream(&self) -> bool {
        (self.is_over)()
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

fn script(frames: Vec<Step>) -> Script {
    Script {
        frames,
        has_ended: false,
        hint: SizeHint::new(),
        is_over: Arc::new(|| false),
    }
}

fn keep<B>(most: usize, body: B) -> (Buffered<B>, <Buffer as Replay<B>>::Kept)
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let (body, kept) = Buffer::up_to(most).keep(body);
    (body, kept.unwrap())
}

fn again<B>(kept: <Buffer as Replay<B>>::Kept) -> Option<Buffered<B>>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    <Buffer as Replay<B>>::again(kept)
}

/// Polls a body once, for nobody.
fn polled<B>(body: &mut Buffered<B>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
}

/// All that a body says, as far as it is text.
fn text<B>(body: &mut Buffered<B>) -> String
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    let mut text = String::new();
    while let Poll::Ready(Some(frame)) = polled(body) {
        match frame.unwrap().into_data() {
            Ok(data) => text.push_str(std::str::from_utf8(&data).unwrap()),
            Err(_) => text.push_str("[trailers]"),
        }
    }
    text
}

#[test]
fn a_size_that_is_only_claimed_takes_no_memory() {
    let mut claims = script(vec![Step::Data("x"), Step::Data("y")]);
    claims.hint.set_exact(u64::MAX / 4);
    let (mut body, kept) = keep(usize::MAX, claims);
    let taken = measure(|| assert_eq!(text(&mut body), "xy"));
    assert!(taken.bytes_max < 1 << 20, "{taken:?}");
    assert_eq!(text(&mut again(kept).unwrap()), "xy");
}

/// A task that is polled by whoever wakes it, as some executors do.
struct Inline {
    body: Arc<Mutex<Option<Buffered<Script>>>>,
    said: Mutex<mpsc::Sender<String>>,
}

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        let mut body = self.body.lock().unwrap();
        let said = match polled(body.as_mut().unwrap()) {
            Poll::Ready(Some(Err(error))) => error.to_string(),
            other => format!("{other:?}"),
        };
        self.said.lock().unwrap().send(said).unwrap();
    }
}

#[test]
fn a_client_that_is_polled_by_its_waker_can_be_told_that_its_body_is_taken() {
    let (said, told) = mpsc::channel();
    std::thread::spawn(move || {
        let (body, kept) = keep(64, script(vec![Step::Data("a"), Step::Pending]));
        let task = Arc::new(Inline {
            body: Arc::new(Mutex::new(Some(body))),
            said: Mutex::new(said),
        });
        let waker = Waker::from(task.clone());
        let mut context = Context::from_waker(&waker);
        {
            let mut body = task.body.lock().unwrap();
            let mut body = Pin::new(body.as_mut().unwrap());
            assert!(body.as_mut().poll_frame(&mut context).is_ready());
            assert!(body.as_mut().poll_frame(&mut context).is_pending());
        }
        assert_eq!(text(&mut again(kept).unwrap()), "a");
    });
    let said = told.recv_timeout(Duration::from_secs(30));
    assert!(said.expect("it hangs").contains("goes on in a replay"));
}

#[test]
fn a_source_that_panics_while_it_is_taken_back_leaves_no_client_waiting() {
    let panics = Arc::new(AtomicBool::new(false));
    let told = panics.clone();
    let source = Script {
        is_over: Arc::new(move || match told.load(Ordering::SeqCst) {
            true => panic!("the source panics"),
            false => false,
        }),
        ..script(vec![Step::Data("a"), Step::Pending, Step::Data("b")])
    };
    let (mut body, kept) = keep(64, source);
    assert!(polled(&mut body).is_ready());
    let mut client = task::spawn(poll_fn(move |cx| Pin::new(&mut body).poll_frame(cx)));
    assert!(client.poll().is_pending());
    panics.store(true, Ordering::SeqCst);
    let taken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| again(kept)));
    assert!(taken.is_err());
    panics.store(false, Ordering::SeqCst);
    // It has its source still, or hears that it has not.
    let still = matches!(client.poll(), Poll::Ready(Some(Ok(_))));
    assert!(still || client.is_woken());
}

#[test]
fn whoever_polled_last_is_told_that_the_body_is_taken() {
    let (mut body, kept) = keep(64, script(vec![Step::Pending, Step::Pending]));
    let mut first = task::spawn(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)));
    assert!(first.poll().is_pending());
    drop(first);
    let mut last = task::spawn(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)));
    assert!(last.poll().is_pending());
    let mut again = again(kept).unwrap();
    assert!(last.is_woken());
    assert!(matches!(last.poll(), Poll::Ready(Some(Err(_)))));
    assert_eq!(text(&mut again), "");
    // Not once more, when it has ended.
    assert!(matches!(polled(&mut again), Poll::Ready(None)));
}

#[test]
fn a_source_that_panicked_is_not_replayed() {
    let (mut body, kept) = keep(64, script(vec![Step::Data("a"), Step::Panic]));
    assert!(polled(&mut body).is_ready());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| polled(&mut body)));
    assert!(panicked.is_err());
    assert!(!<Buffer as Replay<Script>>::is_kept(&kept));
    assert!(again(kept).is_none());
}

#[test]
fn trailers_that_are_not_the_last_are_not_replayed_as_if_they_were() {
    let odd = || vec![Step::Trailers, Step::Data("a"), Step::Trailers];
    let (mut body, kept) = keep(1024, script(odd()));
    assert_eq!(text(&mut body), "[trailers]a[trailers]");
    let replayed = again(kept).map(|mut again| text(&mut again));
    assert!(replayed.is_none_or(|replayed| replayed == "[trailers]a[trailers]"));
}

#[test]
fn trailers_alone_and_empty_frames_are_replayed() {
    for (frames, expected) in [
        (vec![Step::Trailers], "[trailers]"),
        (
            vec![Step::Data(""), Step::Data(""), Step::Trailers],
            "[trailers]",
        ),
        (vec![Step::Data(""), Step::Data("a"), Step::Data("")], "a"),
        (vec![], ""),
    ] {
        let (mut body, kept) = keep(1024, script(frames));
        assert_eq!(text(&mut body), expected);
        // It polls after the end.
        assert!(matches!(polled(&mut body), Poll::Ready(None)));
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
        let mut again = again(kept).unwrap();
        assert!(expected.is_empty() || !again.is_end_stream());
        assert_eq!(text(&mut again), expected);
        assert!(again.is_end_stream());
        assert!(matches!(polled(&mut again), Poll::Ready(None)));
    }
}

#[test]
fn a_size_hint_that_lies_breaks_nothing() {
    for (lower, upper) in [(5, Some(5)), (0, Some(0)), (1, Some(2)), (3, None)] {
        let mut liar = script(vec![Step::Data("abc"), Step::Data("defg")]);
        liar.hint.set_lower(lower);
        if let Some(upper) = upper {
            liar.hint.set_upper(upper);
        }
        let (mut body, kept) = keep(1024, liar);
        assert!(polled(&mut body).is_ready());
        // Half of it was sent.
        let mut again = again(kept).unwrap();
        assert_eq!(again.size_hint().lower(), lower);
        assert_eq!(again.size_hint().upper(), upper);
        assert_eq!(text(&mut again), "abcdefg");
        assert_eq!(again.size_hint().lower(), 0);
        // What was taken never looks complete.
        assert!(!body.is_end_stream());
        assert_eq!(body.size_hint().exact(), None);
        assert!(matches!(polled(&mut body), Poll::Ready(Some(Err(_)))));
        assert!(matches!(polled(&mut body), Poll::Ready(Some(Err(_)))));
    }
}

// Over sockets.

/// A body that is sent in, of a size that it does not tell.
struct Piped(UnboundedReceiver<Bytes>);

impl Body for Piped {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = std::task::ready!(self.0.poll_recv(cx));
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }
}

type Got = (Option<String>, Result<usize, ()>);

/// How a server treats a request with the dead token, before it answers 401.
#[derive(Clone, Copy, Debug)]
enum Dead {
    /// Reads nothing of its body.
    Unread,
    /// Reads all of it.
    Read,
}

/// A server that tells of each body with a good token which length was told, and
/// how much came if it ended as it should.
async fn server(dead: Dead, got: UnboundedSender<Got>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let got = got.clone();
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let got = got.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let mut response = Response::new(Empty::<Bytes>::new());
                    if head.headers[header::AUTHORIZATION] == "Bearer token-1" {
                        if let Dead::Read = dead {
                            let _ = body.collect().await;
                        }
                        *response.status_mut() = StatusCode::UNAUTHORIZED;
                        return Ok::<_, Infallible>(response);
                    }
                    let length = head.headers.get(header::CONTENT_LENGTH);
                    let length = length.map(|length| length.to_str().unwrap().to_owned());
                    let read = body.collect().await;
                    let read = read.map(|body| body.to_bytes().len()).map_err(|_| ());
                    let _ = got.send((length, read));
                    Ok(response)
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
async fn over_a_socket_a_body_of_a_told_length_arrives_once_and_whole() {
    for (http2, dead, idle, waits) in [
        (false, Dead::Unread, 1, true),
        (false, Dead::Read, 1, false),
        (false, Dead::Unread, 0, false),
        (true, Dead::Unread, 1, true),
        (true, Dead::Read, 1, false),
    ] {
        let case = format!("HTTP/2: {http2}, {dead:?}, {idle}, {waits}");
        let (told, mut got) = unbounded_channel();
        let origin = server(dead, told).await;
        let http: Client<_, Buffered<Piped>> = Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .pool_max_idle_per_host(idle)
            .build(HttpConnector::new());
        let logins = AtomicU32::new(0);
        let profile = Profile::at(origin.parse().unwrap());
        let session = Session::new(provider_fn(profile, move |_: LoginContext| {
            let login = 1 + logins.fetch_add(1, Ordering::SeqCst);
            async move { Ok(Token::bearer(format!("token-{login}"))?) }
        }));
        let client = session.layer().replay(Buffer::up_to(1 << 20)).layer(http);
        let (frames, receiver) = unbounded_channel();
        let send = |bytes: usize| {
            frames.send(Bytes::from(vec![7; bytes])).unwrap();
        };
        for _ in 0..30 {
            send(10_000);
        }
        let request = Request::post(format!("{origin}/jobs"))
            .header(header::CONTENT_LENGTH, 600_000)
            .body(Piped(receiver))
            .unwrap();
        let response = tokio::spawn(client.oneshot(request));
        if waits {
            // The rest comes when the request is being sent once more.
            while session.stats().replays == 0 {
                tokio::task::yield_now().await;
            }
        }
        for _ in 0..30 {
            send(10_000);
        }
        drop(frames);
        let limit = Duration::from_secs(30);
        let response = tokio::time::timeout(limit, response).await;
        let response = response.expect("it hangs").unwrap();
        assert_eq!(response.unwrap().status(), 200, "{case}");
        let all = tokio::time::timeout(limit, got.recv()).await;
        let all = all.expect("it hangs").unwrap();
        assert_eq!(all, (Some("600000".to_owned()), Ok(600_000)), "{case}");
        assert!(got.try_recv().is_err(), "{case}");
    }
}
