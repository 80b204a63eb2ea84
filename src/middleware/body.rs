//! The body of a response. Its start can be read into memory without losing any of it.

use std::collections::VecDeque;
use std::fmt;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};

use super::trailers::TrailerWatch;
use crate::BoxError;
use crate::error::{Error, ErrorKind};
use crate::loom;
use crate::session::Lease;

/// The most frames that are read ahead: the limit in bytes does not bound empty ones.
const MAX_FRAMES: usize = 1024;

/// The timeout for reading ahead, from the first time that the body is pending.
const PREFETCH_TIMEOUT: Duration = Duration::from_secs(2);

pin_project! {
    /// The body of a response.
    ///
    /// It yields the frames of the inner service's body, including trailers. While it
    /// lives, the token of its request counts as used.
    ///
    /// If the inner body has a `Default`, so does this body. It uses no token.
    ///
    /// # Errors
    ///
    /// The errors of the inner body, each boxed as it is. The body of a rejected
    /// response may also end with an [`Error`](crate::Error) of the kind
    /// [`Truncated`](crate::ErrorKind::Truncated).
    pub struct SessionBody<B: Body> {
        #[pin]
        kind: Kind<B>,
        lease: Option<Lease>,
        // Boxed: few bodies are watched, and each is moved.
        watch: Option<Box<TrailerWatch>>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B: Body> {
        /// Passed on as it came.
        Whole { #[pin] body: B },
        /// Its start was read ahead.
        // Boxed: other bodies need no space for it.
        Prefetched { prefetched: Box<Prefetched<B>> },
    }
}

/// The frames that were read ahead from a body, and the rest of it.
struct Prefetched<B: Body> {
    frames: VecDeque<Result<Frame<B::Data>, B::Error>>,
    rest: Rest<B>,
}

/// The part of a body that was not read ahead.
enum Rest<B> {
    Unread(Pin<Box<B>>),
    /// There is none.
    Ended,
    /// It was dropped, to release the connection.
    Dropped,
}

impl<B: Body> SessionBody<B> {
    pub(super) fn whole(body: B, lease: Option<Lease>) -> Self {
        Self {
            kind: Kind::Whole { body },
            lease,
            watch: None,
        }
    }

    /// Reports the outcome of the response when the body has ended.
    pub(super) fn watched(self, watch: TrailerWatch) -> Self {
        Self {
            watch: Some(Box::new(watch)),
            ..self
        }
    }

    /// Returns the inner service's own body.
    ///
    /// The token of the request no longer counts as used while the inner body is
    /// read: it may be logged out once it is replaced. If that would end the body
    /// too, keep a [`Session::token`](crate::Session::token) beside it. A
    /// [`trailer`](crate::Rejection::trailer) clause does not see its trailers.
    ///
    /// # Errors
    ///
    /// Returns this body unchanged if its start was read ahead: the inner body
    /// would lack it. This happens to a response whose body a
    /// [`Rejection`](crate::Rejection) has to read, and to a rejected response that
    /// is returned because its refresh failed, yielded the same token, or was
    /// overtaken by a logout.
    pub fn into_inner(self) -> Result<B, Self> {
        match self.kind {
            Kind::Whole { body } => Ok(body),
            Kind::Prefetched { .. } => Err(self),
        }
    }
}

impl<B: Body + Default> Default for SessionBody<B> {
    fn default() -> Self {
        Self::whole(B::default(), None)
    }
}

impl<B> Body for SessionBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        let frame = match this.kind.as_mut().project() {
            KindProj::Whole { body } => ready!(body.poll_frame(cx).map_err(Into::into)),
            KindProj::Prefetched { prefetched } => ready!(prefetched.poll_frame(cx)),
        };
        if let Some(watch) = this.watch {
            let is_over = match &frame {
                None => {
                    watch.body_ended();
                    true
                }
                Some(Ok(frame)) => match frame.trailers_ref() {
                    Some(trailers) => {
                        watch.trailers_arrived(trailers);
                        true
                    }
                    // It may not be polled again.
                    None if this.kind.is_end_stream() => {
                        watch.body_ended();
                        true
                    }
                    None => false,
                },
                // Whether there were trailers is not known.
                Some(Err(_)) => true,
            };
            if is_over {
                *this.watch = None;
            }
        }
        if frame.is_none() {
            *this.lease = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.kind.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole { body } => body.size_hint(),
            Kind::Prefetched { prefetched } => prefetched.size_hint(),
        }
    }
}

impl<B: Body> Kind<B> {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole { body } => body.is_end_stream(),
            Self::Prefetched { prefetched } => prefetched.is_end_stream(),
        }
    }
}

impl<B: Body> Prefetched<B> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, BoxError>>>
    where
        B::Error: Into<BoxError>,
    {
        if let Some(frame) = self.frames.pop_front() {
            return Poll::Ready(Some(frame.map_err(Into::into)));
        }
        match &mut self.rest {
            Rest::Unread(body) => body.as_mut().poll_frame(cx).map_err(Into::into),
            Rest::Ended => Poll::Ready(None),
            Rest::Dropped => {
                self.rest = Rest::Ended;
                let error = Error::new(ErrorKind::Truncated);
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let has_rest = match &self.rest {
            Rest::Unread(body) => !body.is_end_stream(),
            Rest::Ended => false,
            // Its error is still to come.
            Rest::Dropped => true,
        };
        self.frames.is_empty() && !has_rest
    }

    fn size_hint(&self) -> SizeHint {
        let read: u64 = self
            .frames
            .iter()
            .filter_map(|frame| frame.as_ref().ok()?.data_ref())
            .map(|data| data.remaining() as u64)
            .sum();
        let is_broken = self.frames.iter().any(Result::is_err);
        let rest = match &self.rest {
            Rest::Unread(body) => body.size_hint(),
            Rest::Ended if !is_broken => SizeHint::with_exact(0),
            // No length may make a body look complete that ends with an error.
            Rest::Ended | Rest::Dropped => SizeHint::new(),
        };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint
    }
}

impl<B: Body> fmt::Debug for SessionBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_prefetched = match &self.kind {
            Kind::Whole { .. } => false,
            Kind::Prefetched { .. } => true,
        };
        f.debug_struct("SessionBody")
            .field("prefetched", &is_prefetched)
            .finish_non_exhaustive()
    }
}

/// Reads the start of a body into memory and keeps every frame of it.
pub(super) struct Prefetch<B: Body> {
    prefetched: Prefetched<B>,
    read: usize,
    // Created when the body is first pending.
    timeout: Option<Pin<Box<Sleep>>>,
}

impl<B: Body> Prefetch<B> {
    pub(super) fn new(body: B) -> Self {
        Self {
            prefetched: Prefetched {
                frames: VecDeque::new(),
                rest: Rest::Unread(Box::pin(body)),
            },
            read: 0,
            timeout: None,
        }
    }

    /// Completes when `limit` bytes are read, when the body has ended, or after
    /// the timeout. May be called again with a higher limit.
    pub(super) fn poll_up_to(&mut self, limit: usize, cx: &mut Context<'_>) -> Poll<()> {
        while self.read < limit && self.prefetched.frames.len() < MAX_FRAMES {
            let Rest::Unread(body) = &mut self.prefetched.rest else {
                break;
            };
            match body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(frame)) => {
                    let data = frame.as_ref().ok().and_then(Frame::data_ref);
                    self.read += data.map_or(0, Buf::remaining);
                    let has_failed = frame.is_err();
                    self.prefetched.frames.push_back(frame);
                    if has_failed {
                        self.prefetched.rest = Rest::Ended;
                    }
                }
                Poll::Ready(None) => self.prefetched.rest = Rest::Ended,
                Poll::Pending => {
                    // Without a timer no login can run either.
                    if self.timeout.is_none() && loom::runtime().is_some() {
                        self.timeout = Some(Box::pin(sleep(PREFETCH_TIMEOUT)));
                    }
                    return match &mut self.timeout {
                        Some(timeout) => timeout.as_mut().poll(cx),
                        None => Poll::Pending,
                    };
                }
            }
        }
        Poll::Ready(())
    }

    /// Returns whether `limit` bytes were read, or the whole body.
    pub(super) fn has_read(&self, limit: usize) -> bool {
        let frames = &self.prefetched.frames;
        let is_at_end = match &self.prefetched.rest {
            Rest::Unread(body) => body.is_end_stream(),
            Rest::Ended => !frames.back().is_some_and(Result::is_err),
            Rest::Dropped => false,
        };
        self.read >= limit || is_at_end
    }

    /// Returns the first `limit` bytes, or as many as were read.
    pub(super) fn start(&self, limit: usize) -> Vec<u8> {
        let mut start = Vec::with_capacity(self.read.min(limit));
        let frames = self.prefetched.frames.iter();
        for data in frames.filter_map(|frame| frame.as_ref().ok()?.data_ref()) {
            let mut slices = [IoSlice::new(&[]); 16];
            let count = data.chunks_vectored(&mut slices);
            for slice in &slices[..count] {
                let room = limit - start.len();
                start.extend_from_slice(&slice[..slice.len().min(room)]);
            }
        }
        start
    }

    /// Drops the part that was not read ahead, and with it the connection. The body
    /// then ends with an error, unless it was at its end.
    pub(super) fn drop_rest(&mut self) {
        if let Rest::Unread(rest) = &self.prefetched.rest {
            self.prefetched.rest = match rest.is_end_stream() {
                true => Rest::Ended,
                false => Rest::Dropped,
            };
        }
    }

    /// Returns the body, as if nothing had been read ahead.
    pub(super) fn into_body(self, lease: Option<Lease>) -> SessionBody<B> {
        SessionBody {
            kind: Kind::Prefetched {
                prefetched: Box::new(self.prefetched),
            },
            lease,
            watch: None,
        }
    }
}

/// The body of a response that was received, perhaps with its start read ahead.
pub(super) enum Received<B: Body> {
    Whole(B),
    Started(Prefetch<B>),
}

impl<B: Body> Received<B> {
    pub(super) fn into_prefetch(self) -> Prefetch<B> {
        match self {
            Self::Whole(body) => Prefetch::new(body),
            Self::Started(prefetch) => prefetch,
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Started(prefetch) => prefetch.prefetched.is_end_stream(),
        }
    }

    pub(super) fn into_body(self, lease: Lease) -> SessionBody<B> {
        match self {
            Self::Whole(body) => SessionBody::whole(body, Some(lease)),
            Self::Started(prefetch) => prefetch.into_body(Some(lease)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::poll_fn;

    use bytes::Bytes;
    use http_body_util::{BodyExt, Channel, Full};

    use super::*;
    use crate::{FixedToken, Profile, Session, Token};

    fn lease() -> Lease {
        let token = Token::bearer("3f9a").unwrap();
        let session = Session::builder(FixedToken::bearer(Profile::default(), "3f9a"));
        let session = session.initial_token(token).build();
        session.driver().usable().unwrap()
    }

    async fn read<B: Body + Unpin>(body: B, bytes: usize) -> Prefetch<B> {
        let mut prefetch = Prefetch::new(body);
        poll_fn(|cx| prefetch.poll_up_to(bytes, cx)).await;
        prefetch
    }

    /// Checks a body of which "abc" was read and the rest is gone.
    async fn is_truncated<B>(mut prefetch: Prefetch<B>)
    where
        B: Body<Data = Bytes, Error = Infallible> + Unpin,
    {
        prefetch.drop_rest();
        let mut body = prefetch.into_body(Some(lease()));
        let hint = body.size_hint();
        assert_eq!((hint.lower(), hint.upper()), (3, None));
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "abc");
        assert!(!body.is_end_stream());
        let hint = body.size_hint();
        assert_eq!((hint.lower(), hint.upper()), (0, None));
        let error = body.frame().await.unwrap().unwrap_err();
        let error = error.downcast_ref::<Error>().unwrap();
        assert_eq!(error.kind(), ErrorKind::Truncated);
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_body_whose_rest_was_dropped_never_looks_complete() {
        let (mut sender, body) = Channel::<Bytes, Infallible>::new(2);
        sender.send_data(Bytes::from("abc")).await.unwrap();
        sender.send_data(Bytes::from("def")).await.unwrap();
        is_truncated(read(body, 1).await).await;
    }

    #[tokio::test]
    async fn a_body_at_its_end_is_complete_without_its_connection() {
        // The second has not said so yet, but knows it.
        for bytes in [usize::MAX, 1] {
            let mut prefetch = read(Full::new(Bytes::from("abc")), bytes).await;
            prefetch.drop_rest();
            let body = prefetch.into_body(Some(lease()));
            assert_eq!(body.size_hint().exact(), Some(3));
            assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
        }
    }

    /// Through two layers, and whether or not its start was read ahead.
    #[tokio::test]
    async fn an_error_of_the_inner_body_is_boxed_once() {
        for is_read in [false, true] {
            let (sender, body) = Channel::<Bytes, std::fmt::Error>::new(1);
            sender.abort(std::fmt::Error);
            let inner = match is_read {
                false => SessionBody::whole(body, None),
                true => read(body, 1).await.into_body(Some(lease())),
            };
            let mut outer = SessionBody::whole(inner, None);
            let error = outer.frame().await.unwrap().unwrap_err();
            assert!(error.is::<std::fmt::Error>());
        }
    }

    #[tokio::test]
    async fn a_body_uses_the_token_until_its_end() {
        let token = Token::bearer("3f9a").unwrap();
        let session = Session::builder(FixedToken::bearer(Profile::default(), "3f9a"));
        let session = session.initial_token(token).build();
        let lease = session.driver().usable().unwrap();
        let unused = Lease::strong_count(&lease);

        let mut body = SessionBody::whole(Full::new(Bytes::from("x")), Some(lease.clone()));
        assert_eq!(Lease::strong_count(&lease), unused + 1);
        assert!(body.frame().await.is_some());
        assert_eq!(Lease::strong_count(&lease), unused + 1);
        assert!(body.frame().await.is_none());
        assert_eq!(Lease::strong_count(&lease), unused);
    }
}
