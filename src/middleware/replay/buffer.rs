//! Copies a streaming request body while it is sent, for a replay.
//!
//! The client that sends the body and the request that may be replayed share its
//! source. A replay takes the source over: it sends the copy, and then the rest of
//! the source. The body that the client still holds fails then, so the client ends
//! the rejected request, and no part of the source is sent to both.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use zeroize::Zeroizing;

use super::Replay;
use crate::BoxError;
use crate::secret;

/// The size of the first block of a copy if the length of the body is unknown.
const FIRST_BLOCK: usize = 1024;

/// The most bytes of the first block: the length that a body reports may be wrong.
const MOST_AT_FIRST: usize = 64 * 1024;

/// The bytes that a trailer counts for beside its name and value.
const PER_TRAILER: usize = 64;

/// Replays any body up to a size, from a copy that is made while the body is sent.
///
/// Nothing waits for the copy. A body that exceeds the limit is streamed without a
/// copy, and its request cannot be replayed. The copy is dropped when the head of
/// the response is accepted. After a rejection, a body that was not sent to its end
/// is taken from the client and continues in the replay. The connection of the
/// rejected request cannot be used again then.
///
/// The inner service gets a [`Buffered`] body. For a client that takes only its own
/// body type, add [`Buffer::into_body`].
///
/// # Examples
///
/// ```
/// # use std::convert::Infallible;
/// # use http::{Request, Response};
/// # use tower::{ServiceBuilder, ServiceExt};
/// # use tower_reauth::{FixedToken, Profile, Session};
/// use axum::body::Body;
/// use tower_reauth::Buffer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_reauth::BoxError> {
/// # let http = tower::service_fn(|request: Request<Body>| async {
/// #     Ok::<_, Infallible>(Response::new(request.into_body()))
/// # });
/// # let profile = Profile::at("https://api.example.com".parse()?);
/// # let session = Session::new(FixedToken::bearer(profile, "3f9a"));
/// let layer = session
///     .layer()
///     .replay(Buffer::up_to(64 * 1024).into_body(Body::new));
/// let client = ServiceBuilder::new().layer(layer).service(http);
///
/// let request = Request::post("https://api.example.com/jobs").body(Body::from("a job"))?;
/// let response = client.oneshot(request).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    most: usize,
}

impl Buffer {
    /// Creates a strategy that keeps at most `bytes` bytes of a request's body,
    /// trailers included.
    #[must_use]
    pub const fn up_to(bytes: usize) -> Self {
        Self { most: bytes }
    }

    /// Converts each body to the inner service's own type with `wrap`: `Body::new`
    /// for axum, tonic and many others, `Body::wrap` for reqwest.
    pub fn into_body<B: Body, T>(self, wrap: fn(Buffered<B>) -> T) -> BufferInto<B, T> {
        BufferInto { buffer: self, wrap }
    }
}

/// A [`Replay`] that converts bodies `B` to a client's own type `T`; returned by
/// [`Buffer::into_body`].
pub struct BufferInto<B, T> {
    buffer: Buffer,
    wrap: fn(Buffered<B>) -> T,
}

impl<B, T> Clone for BufferInto<B, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B, T> Copy for BufferInto<B, T> {}

impl<B, T> fmt::Debug for BufferInto<B, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferInto")
            .field("buffer", &self.buffer)
            .finish_non_exhaustive()
    }
}

impl<B> Replay<B> for Buffer
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Body = Buffered<B>;
    type Kept = BufferKept<B>;

    fn keep(&self, body: B) -> (Buffered<B>, Option<BufferKept<B>>) {
        if body.is_end_stream() {
            let kept = BufferKept {
                tee: None,
                fits: true,
            };
            return (Buffered::whole(body), Some(kept));
        }
        let hint = body.size_hint();
        if hint.lower() > self.most as u64 {
            return (Buffered::whole(body), None);
        }
        let tee = Arc::new(Mutex::new(Tee {
            source: Some(Box::pin(body)),
            copy: Some(Held::new(self.most, &hint)),
            expected: Left::of(&hint),
            ended: false,
            sender: None,
        }));
        let kept = BufferKept {
            fits: hint.upper().is_some_and(|upper| upper <= self.most as u64),
            tee: Some(tee.clone()),
        };
        let kind = Kind::Teed { tee };
        (Buffered { kind }, Some(kept))
    }

    fn is_kept(kept: &BufferKept<B>) -> bool {
        kept.tee.as_ref().is_none_or(|tee| lock(tee).copy.is_some())
    }

    fn is_certain(kept: &BufferKept<B>) -> bool {
        kept.fits
    }

    fn again(kept: BufferKept<B>) -> Option<Buffered<B>> {
        let again = match &kept.tee {
            Some(tee) => {
                let mut tee = lock(tee);
                let (again, sender) = (tee.take_over(), tee.sender.take());
                // Not under the lock: the woken task may poll at once.
                drop(tee);
                sender.into_iter().for_each(Waker::wake);
                again?
            }
            None => Again::empty(),
        };
        let kind = Kind::Again { again };
        Some(Buffered { kind })
    }
}

impl<B, T> Replay<B> for BufferInto<B, T>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Body = T;
    type Kept = (BufferKept<B>, fn(Buffered<B>) -> T);

    fn keep(&self, body: B) -> (T, Option<Self::Kept>) {
        let (body, kept) = self.buffer.keep(body);
        ((self.wrap)(body), kept.map(|kept| (kept, self.wrap)))
    }

    fn is_kept((kept, _): &Self::Kept) -> bool {
        Buffer::is_kept(kept)
    }

    fn is_certain((kept, _): &Self::Kept) -> bool {
        <Buffer as Replay<B>>::is_certain(kept)
    }

    fn again((kept, wrap): Self::Kept) -> Option<T> {
        Buffer::again(kept).map(wrap)
    }
}

/// The part of a request's body that [`Buffer`] keeps. Dropping it drops the copy.
pub struct BufferKept<B> {
    /// `None` if the body is empty.
    tee: Option<Arc<Mutex<Tee<B>>>>,
    /// Whether the body's size hint is within what may be kept.
    fits: bool,
}

impl<B> Drop for BufferKept<B> {
    fn drop(&mut self) {
        if let Some(tee) = &self.tee {
            let mut tee = lock(tee);
            let unused = (tee.copy.take(), tee.sender.take());
            drop(tee);
            drop(unused);
        }
    }
}

impl<B> fmt::Debug for BufferKept<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferKept").finish_non_exhaustive()
    }
}

pin_project! {
    /// A request body of which [`Buffer`] may keep a copy.
    ///
    /// It yields the frames of the original body, with their data as [`Bytes`]. That
    /// costs a copy only if the original data have another type.
    ///
    /// # Errors
    ///
    /// The errors of the original body. If the request is rejected and replayed
    /// before the body is sent to its end, the body of the rejected request also
    /// fails, so that the client ends that request.
    pub struct Buffered<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        /// No copy is made.
        Whole { #[pin] body: B },
        /// A copy may be made.
        Teed { tee: Arc<Mutex<Tee<B>>> },
        /// Sent once more.
        Again { again: Again<B> },
    }
}

impl<B> Buffered<B> {
    fn whole(body: B) -> Self {
        let kind = Kind::Whole { body };
        Self { kind }
    }
}

impl<B> Body for Buffered<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            KindProj::Whole { body } => body.poll_frame(cx).map(owned),
            KindProj::Teed { tee } => lock(tee).poll_frame(cx),
            KindProj::Again { again } => again.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole { body } => body.is_end_stream(),
            Kind::Teed { tee } => lock(tee).is_end_stream(),
            Kind::Again { again } => again.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole { body } => body.size_hint(),
            Kind::Teed { tee } => lock(tee).size_hint(),
            Kind::Again { again } => again.left.hint(),
        }
    }
}

impl<B> fmt::Debug for Buffered<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffered").finish_non_exhaustive()
    }
}

/// A body that is being sent, and the copy of its sent part.
struct Tee<B> {
    /// `None` once the body has ended or a replay has taken it over.
    source: Option<Pin<Box<B>>>,
    /// `None` once a replay is impossible or not needed.
    copy: Option<Held>,
    /// The size hint of the body before any of it was sent.
    expected: Left,
    ended: bool,
    /// Wakes the client that waits for the next frame, when a replay takes over.
    sender: Option<Waker>,
}

impl<B: Body> Tee<B> {
    fn take_over(&mut self) -> Option<Again<B>> {
        // A client that has sent the last frame and has not yet polled the end gets
        // the end and no error.
        let ended = self.is_end_stream();
        let copy = self.copy.take()?;
        let rest = self.source.take().filter(|_| !ended);
        self.ended = ended;
        Some(Again {
            blocks: copy.blocks.into_iter().map(secret::into_bytes).collect(),
            trailers: copy.trailers,
            rest,
            left: self.expected,
        })
    }

    fn is_end_stream(&self) -> bool {
        let source = self.source.as_ref();
        self.ended || source.is_some_and(|source| source.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Some(source) => source.size_hint(),
            None if self.ended => SizeHint::with_exact(0),
            None => SizeHint::new(),
        }
    }
}

impl<B> Tee<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Some(source) = &mut self.source else {
            return Poll::Ready(Some(Err(TakenOver.into())));
        };
        // Taken out in case the source panics: such a body is not replayed.
        let copy = self.copy.take();
        let polled = source.as_mut().poll_frame(cx).map(owned);
        self.copy = copy;
        match &polled {
            Poll::Pending => self.wait(cx.waker()),
            Poll::Ready(None) => {
                self.ended = true;
                self.source = None;
            }
            Poll::Ready(Some(Ok(frame))) => {
                let copy = self.copy.take();
                self.copy = copy.and_then(|copy| copy.with(frame));
            }
            Poll::Ready(Some(Err(_))) => self.copy = None,
        }
        polled
    }

    fn wait(&mut self, waker: &Waker) {
        match &mut self.sender {
            _ if self.copy.is_none() => self.sender = None,
            Some(sender) => sender.clone_from(waker),
            None => self.sender = Some(waker.clone()),
        }
    }
}

/// A copy of the sent part of a body, at most `most` bytes.
struct Held {
    most: usize,
    /// All blocks but the last are full. No block grows, and all are wiped, since a
    /// body may hold secrets.
    blocks: Vec<Zeroizing<Vec<u8>>>,
    length: usize,
    /// The size of the next block.
    next: usize,
    trailers: Option<HeaderMap>,
}

impl Held {
    fn new(most: usize, hint: &SizeHint) -> Self {
        let exact = hint.exact().and_then(|exact| usize::try_from(exact).ok());
        Self {
            most,
            blocks: Vec::new(),
            length: 0,
            next: exact.unwrap_or(FIRST_BLOCK).clamp(1, MOST_AT_FIRST),
            trailers: None,
        }
    }

    /// Adds a frame. Returns `None` if the copy gets too large, or if the frame
    /// follows trailers.
    fn with(mut self, frame: &Frame<Bytes>) -> Option<Self> {
        if self.trailers.is_some() {
            return None;
        }
        if let Some(data) = frame.data_ref() {
            if data.len() > self.most - self.length {
                return None;
            }
            self.push(data);
        } else {
            let trailers = frame.trailers_ref()?;
            let lengths = trailers
                .iter()
                .map(|(name, value)| name.as_str().len() + value.len() + PER_TRAILER);
            if lengths.sum::<usize>() > self.most - self.length {
                return None;
            }
            self.trailers = Some(trailers.clone());
        }
        Some(self)
    }

    fn push(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let room = self
                .blocks
                .last()
                .map_or(0, |last| last.capacity() - last.len());
            if room == 0 {
                let room = self.next.max(data.len()).min(self.most - self.length);
                self.blocks.push(Zeroizing::new(Vec::with_capacity(room)));
                self.next = self.length + room;
                continue;
            }
            let (fits, rest) = data.split_at(data.len().min(room));
            if let Some(last) = self.blocks.last_mut() {
                last.extend_from_slice(fits);
            }
            self.length += fits.len();
            data = rest;
        }
    }
}

/// The body of a replay: the copy, and then the rest of the source.
struct Again<B> {
    blocks: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    rest: Option<Pin<Box<B>>>,
    /// Derived from the size hint of the original body, so that a client frames the
    /// replay in the same way.
    left: Left,
}

impl<B: Body> Again<B> {
    fn empty() -> Self {
        Self {
            blocks: VecDeque::new(),
            trailers: None,
            rest: None,
            left: Left::of(&SizeHint::with_exact(0)),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.blocks.is_empty()
            && self.trailers.is_none()
            && self.rest.as_ref().is_none_or(|rest| rest.is_end_stream())
    }
}

/// The bounds of how many bytes of a body are still to be sent.
#[derive(Clone, Copy)]
struct Left {
    lower: u64,
    upper: Option<u64>,
}

impl Left {
    fn of(hint: &SizeHint) -> Self {
        Self {
            lower: hint.lower(),
            upper: hint.upper(),
        }
    }

    fn sent(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.lower = self.lower.saturating_sub(bytes);
        self.upper = self.upper.map(|upper| upper.saturating_sub(bytes));
    }

    fn hint(self) -> SizeHint {
        let mut hint = SizeHint::new();
        if let Some(upper) = self.upper {
            hint.set_upper(upper);
        }
        hint.set_lower(self.lower);
        hint
    }
}

impl<B> Again<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let kept = self.blocks.pop_front().map(Frame::data);
        let kept = kept.or_else(|| self.trailers.take().map(Frame::trailers));
        let frame = match (kept, &mut self.rest) {
            (Some(kept), _) => Some(Ok(kept)),
            (None, Some(rest)) => owned(ready!(rest.as_mut().poll_frame(cx))),
            (None, None) => None,
        };
        match &frame {
            Some(Ok(frame)) => self.left.sent(frame.data_ref().map_or(0, Bytes::len)),
            Some(Err(_)) => {}
            None => self.rest = None,
        }
        Poll::Ready(frame)
    }
}

/// Converts the data of a frame to [`Bytes`].
fn owned<D: Buf, E: Into<BoxError>>(
    frame: Option<Result<Frame<D>, E>>,
) -> Option<Result<Frame<Bytes>, BoxError>> {
    frame.map(|frame| match frame {
        Ok(frame) => Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))),
        Err(error) => Err(error.into()),
    })
}

fn lock<B>(tee: &Mutex<Tee<B>>) -> MutexGuard<'_, Tee<B>> {
    // Only the source's own code can panic under this lock. The copy is dropped then.
    tee.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error of a body whose source was taken over by the replay.
#[derive(Debug)]
struct TakenOver;

impl fmt::Display for TakenOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the request was rejected before its body was sent; the body goes on in a replay",
        )
    }
}

impl std::error::Error for TakenOver {}
