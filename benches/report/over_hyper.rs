//! Throughput over real hyper on loopback, with and without the layer.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::thread;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tower::{Layer, Service, ServiceExt};
use tower_reauth::{FixedToken, Never, Profile, Session, Token};

use crate::peers::{Body, TOKEN};
use crate::rounds::{Turn, interleaved, median, pairwise, quantile, timed};
use crate::runtime;
use crate::table::Line;

const ROUNDS: usize = 150;
const CALLERS: usize = 16;
const REQUESTS: usize = 50;

type Http = Client<HttpConnector, Body>;
type BoxFuture = Pin<Box<dyn Future<Output = ()>>>;

/// A server on a thread of its own, until the process ends.
fn server() -> SocketAddr {
    let runtime = runtime();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let _ = stream.set_nodelay(true);
                let answer = service_fn(|request: Request<Incoming>| async move {
                    assert!(request.headers().contains_key(header::AUTHORIZATION));
                    // An answer before the end would reset a stream of HTTP/2.
                    let _ = request.into_body().collect().await;
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"{}"))))
                });
                tokio::spawn(async move {
                    let connection = auto::Builder::new(TokioExecutor::new());
                    let _ = connection
                        .serve_connection(TokioIo::new(stream), answer)
                        .await;
                });
            }
        });
    });
    address
}

/// Each caller sends its requests one after the other.
async fn exchange<S, B>(service: S, uri: http::Uri, value: Option<HeaderValue>)
where
    S: Service<Request<Body>, Response = Response<B>, Error: std::fmt::Debug, Future: Send>
        + Clone
        + Send
        + 'static,
    B: hyper::body::Body<Error: std::fmt::Debug, Data: Send> + Send + Unpin,
{
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (mut service, uri, value) = (service.clone(), uri.clone(), value.clone());
        callers.spawn(async move {
            for _ in 0..REQUESTS {
                let mut request = Request::new(Full::new(Bytes::from_static(b"{}")));
                *request.uri_mut() = uri.clone();
                if let Some(value) = value.clone() {
                    request.headers_mut().insert(header::AUTHORIZATION, value);
                }
                let response = service.ready().await.unwrap().call(request).await.unwrap();
                response.into_body().collect().await.unwrap();
            }
        });
    }
    callers.join_all().await;
}

fn compare(name: &str, http: &Http, runtime: &Runtime) -> Vec<Line> {
    let uri: http::Uri = format!("http://{}/v1/servers/42", server())
        .parse()
        .unwrap();
    let origin = uri.clone().try_into().unwrap();
    let token = Token::bearer(TOKEN).unwrap();
    let provider = FixedToken::bearer(Profile::at(origin), TOKEN);
    let session = Session::builder(provider).initial_token(token).build();
    let auto = session.layer().layer(http.clone());
    let never = session.layer().replay(Never).layer(http.clone());
    // The same bytes on the wire: a sensitive value is written out in full.
    let mut value = HeaderValue::try_from(format!("Bearer {TOKEN}")).unwrap();
    value.set_sensitive(true);
    let busy = [Cell::new(0.0), Cell::new(0.0), Cell::new(0.0)];
    let turn = |place: usize, exchange: &mut dyn FnMut() -> BoxFuture| {
        let _busy = Busy::new(&busy[place]);
        timed(|| runtime.block_on(exchange()))
    };
    let mut turns: Vec<Turn<'_>> = vec![
        Box::new(|| {
            turn(0, &mut || {
                Box::pin(exchange(http.clone(), uri.clone(), Some(value.clone())))
            })
        }),
        Box::new(|| {
            turn(1, &mut || {
                Box::pin(exchange(never.clone(), uri.clone(), None))
            })
        }),
        Box::new(|| {
            turn(2, &mut || {
                Box::pin(exchange(auto.clone(), uri.clone(), None))
            })
        }),
    ];
    let times = interleaved(&mut turns, ROUNDS);
    drop(turns);
    let throughput = (CALLERS * REQUESTS) as f64 / median(&times[0]);
    let requests = (CALLERS * REQUESTS * (ROUNDS + 1)) as f64;
    let busy_for = |place: usize| busy[place].get() / requests;
    let line = |place: usize, title: &str| {
        let ratios = pairwise(&times[0], &times[place], |bare, layered| bare / layered);
        let ratio = median(&ratios);
        Line::marked(
            format!("throughput over hyper on loopback, {name}, {title}"),
            "0.98 of that without the layer",
            format!(
                "{ratio:.3} (quartiles {:.3} to {:.3}); the client's processor time {:.0} ns more \
                 than {:.0} a request",
                quantile(&ratios, 0.25),
                quantile(&ratios, 0.75),
                busy_for(place) - busy_for(0),
                busy_for(0)
            ),
            ratio >= 0.98,
            "a request takes the client about 10 µs, so 0.02 are 200 ns; runs differ by 0.01",
        )
    };
    vec![
        Line::for_scale(
            format!("throughput over hyper on loopback, {name}, without the layer"),
            format!("{throughput:.0} requests a second"),
        ),
        line(1, "`Never`"),
        line(2, "`Auto`"),
    ]
}

/// Adds up for how long this thread was really running, on Linux.
struct Busy<'a> {
    sum: &'a Cell<f64>,
    before: f64,
}

impl<'a> Busy<'a> {
    fn new(sum: &'a Cell<f64>) -> Self {
        Self {
            sum,
            before: Self::now(),
        }
    }

    fn now() -> f64 {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let running = stat.split_whitespace().next();
        running.and_then(|ns| ns.parse().ok()).unwrap_or(f64::NAN)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.sum.set(self.sum.get() + Self::now() - self.before);
    }
}

pub(crate) fn run() -> Vec<Line> {
    let runtime = runtime();
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = |http2| {
        Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .build(connector.clone())
    };
    [("HTTP/1", client(false)), ("HTTP/2", client(true))]
        .into_iter()
        .flat_map(|(name, http)| compare(name, &http, &runtime))
        .collect()
}
