//! The scripted service that the layer wraps, and the bodies that go through it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tower::Service;
use tower_reauth::{BoxError, ReplayBody};

use super::format::{BodyKind, FIRST, GivenService, PlaceUntil, ServiceAnswer, Window};
use super::provider::{number_of, rolled, value_of};
use super::record::{Answered, Arrival, Recorder};

/// More requests than this are a loop.
const TOO_MANY: usize = 10_000;

/// As much of a body as comes at once.
const CHUNK: usize = 4096;

/// The extension that says whose request it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentBy(pub(crate) usize);

/// The extension of a request that the provider sends without its session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FromProvider;

/// A handle on the service. As with any, only the one that is ready may be called.
pub(crate) struct Scripted {
    script: Arc<Script>,
    client: Arc<Client>,
    readiness: Readiness,
}

/// Whose handle it is.
struct Client {
    session: String,
    recorder: Recorder,
}

struct Script {
    answers: Vec<ServiceAnswer>,
    fitted: Mutex<Vec<u64>>,
    not_ready: Vec<Window>,
    places: Option<Arc<Semaphore>>,
}

enum Readiness {
    No,
    Closed(Pin<Box<Sleep>>),
    Full(Pin<Box<dyn Future<Output = OwnedSemaphorePermit> + Send + Sync>>),
    Ready(Option<OwnedSemaphorePermit>),
}

impl Scripted {
    pub(crate) fn new(given: &GivenService, recorder: Recorder) -> Self {
        Self {
            client: Arc::new(Client {
                session: FIRST.to_owned(),
                recorder,
            }),
            script: Arc::new(Script {
                answers: given.answers.clone(),
                fitted: Mutex::new(vec![0; given.answers.len()]),
                not_ready: given.not_ready.clone(),
                places: given
                    .concurrency
                    .map(|places| Arc::new(Semaphore::new(places))),
            }),
            readiness: Readiness::No,
        }
    }
}

impl Scripted {
    /// A handle on the same service, for the requests of another session.
    pub(crate) fn of(&self, session: &str, recorder: Recorder) -> Self {
        let session = session.to_owned();
        Self {
            client: Arc::new(Client { session, recorder }),
            ..self.clone()
        }
    }
}

impl Clone for Scripted {
    fn clone(&self) -> Self {
        Self {
            script: self.script.clone(),
            client: self.client.clone(),
            readiness: Readiness::No,
        }
    }
}

impl Script {
    /// Records a request, and finds what to answer.
    fn arrive(&self, client: &Client, request: Request<Body>) -> (usize, Option<ServiceAnswer>) {
        let recorder = &client.recorder;
        let (head, body) = request.into_parts();
        let token = number_of(&head.headers);
        let caller = head.extensions.get::<SentBy>().map(|sent| sent.0);
        let when = recorder.now();
        let from = match caller {
            Some(caller) => recorder.record().name_of(caller),
            None => "the provider".to_owned(),
        };
        recorder.note(format!(
            "{} {} of {from} reaches the service, token {token:?}",
            head.method, head.uri
        ));
        let values: Vec<_> = head
            .headers
            .get_all(header::AUTHORIZATION)
            .iter()
            .filter(|_| token.is_some())
            .collect();
        if values.len() > 1 {
            recorder.wrong("a request carries several `Authorization` headers");
        }
        if values.iter().any(|value| !value.is_sensitive()) {
            recorder.wrong("a token is not marked as sensitive");
        }
        if caller.is_none() && head.extensions.get::<FromProvider>().is_none() {
            recorder.wrong("a request has lost its extensions on the way");
        }
        let mut found = None;
        let mut fitted = self.fitted.lock().expect("no panic under it");
        for (answer, fitted) in self.answers.iter().zip(&mut *fitted) {
            let of = answer.session.as_deref();
            let fits = of.is_none_or(|session| session == client.session)
                && answer.from.is_none_or(|from| from.0 <= when.at)
                && answer.until.is_none_or(|until| when.at < until.0)
                && answer
                    .method
                    .as_ref()
                    .is_none_or(|method| method.0 == head.method)
                && answer
                    .path
                    .as_deref()
                    .is_none_or(|path| path == head.uri.path())
                && answer
                    .token
                    .as_ref()
                    .is_none_or(|carried| carried.fits(token));
            if fits {
                *fitted += 1;
                let counts = answer
                    .calls
                    .as_ref()
                    .is_none_or(|calls| calls.contains(*fitted));
                if counts && found.is_none() {
                    found = Some(answer.clone());
                }
            }
        }
        let mut record = recorder.record();
        record.arrivals.push(Arrival {
            when,
            caller,
            method: head.method,
            uri: head.uri,
            token,
            value: value_of(&head.headers),
            body: read_whole(body),
            answer: None,
        });
        (record.arrivals.len() - 1, found)
    }
}

fn read_whole(mut body: Body) -> String {
    let mut cx = Context::from_waker(Waker::noop());
    let mut text = String::new();
    while let Poll::Ready(Some(Ok(frame))) =
        http_body::Body::poll_frame(Pin::new(&mut body), &mut cx)
    {
        if let Ok(data) = frame.into_data() {
            text.push_str(&String::from_utf8_lossy(&data));
        }
    }
    text
}

impl Service<Request<Body>> for Scripted {
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        loop {
            self.readiness = match &mut self.readiness {
                Readiness::No => {
                    let now = self.client.recorder.elapsed();
                    let closed = self
                        .script
                        .not_ready
                        .iter()
                        .find(|window| window.from.0 <= now && now < window.until.0);
                    match (closed, &self.script.places) {
                        (Some(window), _) => {
                            Readiness::Closed(Box::pin(sleep(window.until.0 - now)))
                        }
                        (None, None) => Readiness::Ready(None),
                        (None, Some(places)) => {
                            let places = places.clone();
                            Readiness::Full(Box::pin(async move {
                                let place = places.acquire_owned().await;
                                place.expect("the semaphore is never closed")
                            }))
                        }
                    }
                }
                Readiness::Closed(opens) => {
                    ready!(opens.as_mut().poll(cx));
                    Readiness::No
                }
                Readiness::Full(place) => Readiness::Ready(Some(ready!(place.as_mut().poll(cx)))),
                Readiness::Ready(_) => return Poll::Ready(Ok(())),
            };
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let script = self.script.clone();
        let client = self.client.clone();
        let recorder = client.recorder.clone();
        let place = match std::mem::replace(&mut self.readiness, Readiness::No) {
            Readiness::Ready(place) => place,
            Readiness::No | Readiness::Closed(_) | Readiness::Full(_) => {
                recorder.wrong("the service is called without being ready");
                None
            }
        };
        let (arrival, answer) = script.arrive(&client, request);
        Box::pin(async move {
            if arrival > TOO_MANY {
                recorder.wrong("the service is called in a loop");
                return std::future::pending().await;
            }
            let mut response = Response::new(Answer {
                waits: None,
                data: Bytes::from_static(b"200"),
                trailers: None,
                _place: None,
            });
            if let Some(answer) = answer {
                if let Some(after) = answer.after {
                    sleep(after.0).await;
                }
                if answer.never {
                    return std::future::pending().await;
                }
                if let Some(error) = answer.error {
                    return Err(error.into());
                }
                let status = answer.status.0;
                *response.status_mut() = status;
                response.headers_mut().extend(answer.headers.0);
                let carried = recorder.record().arrivals[arrival].token;
                if let (Some(value), Some(carried)) = (answer.rolls_to, carried) {
                    let rolled = rolled(carried, &value);
                    response.headers_mut().insert(header::AUTHORIZATION, rolled);
                }
                let text = answer
                    .body
                    .unwrap_or_else(|| status.as_u16().to_string())
                    .repeat(answer.repeat);
                let body = response.body_mut();
                body.data = text.into();
                body.trailers = (!answer.trailers.0.is_empty())
                    .then(|| answer.trailers.0.into_iter().collect());
                body.waits = answer.body_after.map(|after| Box::pin(sleep(after.0)));
                if answer.holds_place_until == PlaceUntil::Body {
                    body._place = place;
                }
            }
            let at = recorder.now();
            let mut record = recorder.record();
            record.arrivals[arrival].answer = Some(Answered {
                at,
                status: response.status(),
                headers: response.headers().clone(),
                body: String::from_utf8_lossy(&response.body().data).into_owned(),
                trailers: response.body().trailers.clone().unwrap_or_default(),
            });
            drop(record);
            Ok(response)
        })
    }
}

/// A response's body, in pieces, perhaps late.
pub(crate) struct Answer {
    waits: Option<Pin<Box<Sleep>>>,
    data: Bytes,
    trailers: Option<HeaderMap>,
    /// A place in the service that is free again once the body is dropped.
    _place: Option<OwnedSemaphorePermit>,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(waits) = &mut self.waits {
            ready!(waits.as_mut().poll(cx));
            self.waits = None;
        }
        let chunk = self.data.len().min(CHUNK);
        Poll::Ready(match chunk {
            0 => self
                .trailers
                .take()
                .map(|trailers| Ok(Frame::trailers(trailers))),
            chunk => Some(Ok(Frame::data(self.data.split_to(chunk)))),
        })
    }
}

/// A request's body.
#[derive(Debug, Default)]
pub(crate) struct Body {
    kind: BodyKind,
    data: Option<Bytes>,
}

impl Body {
    pub(crate) fn new(kind: BodyKind, text: &str) -> Self {
        let data = match kind {
            BodyKind::Empty => None,
            BodyKind::Bytes | BodyKind::Stream => Some(Bytes::copy_from_slice(text.as_bytes())),
        };
        Self { kind, data }
    }
}

impl ReplayBody for Body {
    fn try_clone(&self) -> Option<Self> {
        match self.kind {
            BodyKind::Empty | BodyKind::Bytes => Some(Self {
                kind: self.kind,
                data: self.data.clone(),
            }),
            BodyKind::Stream => None,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.data.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match (self.kind, &self.data) {
            (BodyKind::Stream, Some(_)) => SizeHint::default(),
            (BodyKind::Empty | BodyKind::Bytes, Some(data)) => {
                SizeHint::with_exact(data.len() as u64)
            }
            (BodyKind::Empty | BodyKind::Bytes | BodyKind::Stream, None) => SizeHint::with_exact(0),
        }
    }
}
