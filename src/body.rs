//! The body of a response, and how its start is read without losing any of it.

use std::collections::VecDeque;
use std::fmt;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep};

use crate::session::Lease;

/// How many frames of a body are read at most, since they may be empty.
const MOST_FRAMES: usize = 1024;

/// How long a body may keep its reader waiting.
const PATIENCE: Duration = Duration::from_secs(2);

pin_project! {
    /// The body of a response.
    ///
    /// It yields what the inner service's body yields, frame for frame,
    /// trailers and errors included. While it lives, the token of its request
    /// counts as used.
    pub struct SessionBody<B: Body> {
        #[pin]
        kind: Kind<B>,
        lease: Option<Lease>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B: Body> {
        /// Handed on as it came.
        Whole { #[pin] body: B },
        /// Read in part, to tell whether it is a rejection.
        Peeked { peeked: Peeked<B> },
    }
}

/// The frames read from a body, and the rest of it.
struct Peeked<B: Body> {
    frames: VecDeque<Result<Frame<B::Data>, B::Error>>,
    /// `None` once it has ended.
    rest: Option<Pin<Box<B>>>,
}

impl<B: Body> SessionBody<B> {
    pub(crate) fn whole(body: B, lease: Option<Lease>) -> Self {
        Self {
            kind: Kind::Whole { body },
            lease,
        }
    }

    /// Whether all of it is in memory.
    pub(crate) fn is_read(&self) -> bool {
        match &self.kind {
            Kind::Whole { .. } => false,
            Kind::Peeked { peeked } => peeked.rest.is_none(),
        }
    }

    /// The inner service's own body.
    ///
    /// The token of the request counts as used no longer, though the body goes
    /// on: if it is replaced meanwhile, it may be logged out. Where that would
    /// end the body too, keep a [`Session::token`](crate::Session::token)
    /// beside it.
    ///
    /// # Errors
    ///
    /// Gives this body back where its start was read already: the inner body
    /// would lack it. That happens to a response of which a
    /// [`Rejection`](crate::Rejection) asks for the body, and to a rejection that
    /// waited for a renewal and is returned after all, be it that this failed,
    /// brought the same token, or met a logout.
    pub fn into_inner(self) -> Result<B, Self> {
        match self.kind {
            Kind::Whole { body } => Ok(body),
            Kind::Peeked { .. } => Err(self),
        }
    }
}

impl<B: Body> Body for SessionBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = match this.kind.project() {
            KindProj::Whole { body } => ready!(body.poll_frame(cx)),
            KindProj::Peeked { peeked } => match peeked.frames.pop_front() {
                Some(frame) => Some(frame),
                None => match &mut peeked.rest {
                    Some(rest) => ready!(rest.as_mut().poll_frame(cx)),
                    None => None,
                },
            },
        };
        if frame.is_none() {
            *this.lease = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole { body } => body.is_end_stream(),
            Kind::Peeked { peeked } => {
                peeked.frames.is_empty()
                    && peeked.rest.as_ref().is_none_or(|rest| rest.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        let peeked = match &self.kind {
            Kind::Whole { body } => return body.size_hint(),
            Kind::Peeked { peeked } => peeked,
        };
        let read: u64 = peeked
            .frames
            .iter()
            .filter_map(|frame| frame.as_ref().ok()?.data_ref())
            .map(|data| data.remaining() as u64)
            .sum();
        let broken = peeked.frames.iter().any(Result::is_err);
        let rest = match &peeked.rest {
            Some(rest) => rest.size_hint(),
            // How much was to come before it broke is not known.
            None if broken => SizeHint::new(),
            None => SizeHint::with_exact(0),
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
        let peeked = match &self.kind {
            Kind::Whole { .. } => false,
            Kind::Peeked { .. } => true,
        };
        f.debug_struct("SessionBody")
            .field("peeked", &peeked)
            .finish_non_exhaustive()
    }
}

/// Reads the start of a body into memory, and keeps every frame of it.
pub(crate) struct Reading<B: Body> {
    peeked: Peeked<B>,
    read: usize,
    // Made when the body first keeps us waiting.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<B: Body> Reading<B> {
    pub(crate) fn new(body: B) -> Self {
        Self {
            peeked: Peeked {
                frames: VecDeque::new(),
                rest: Some(Box::pin(body)),
            },
            read: 0,
            patience: None,
        }
    }

    /// Ready once `limit` bytes are read, the body has ended, or it kept us
    /// waiting for too long. May be called again with a higher limit.
    pub(crate) fn poll_up_to(&mut self, limit: usize, cx: &mut Context<'_>) -> Poll<()> {
        while self.read < limit && self.peeked.frames.len() < MOST_FRAMES {
            let Some(rest) = &mut self.peeked.rest else {
                break;
            };
            match rest.as_mut().poll_frame(cx) {
                Poll::Ready(Some(frame)) => {
                    let data = frame.as_ref().ok().and_then(Frame::data_ref);
                    self.read += data.map_or(0, Buf::remaining);
                    let failed = frame.is_err();
                    self.peeked.frames.push_back(frame);
                    if failed {
                        self.peeked.rest = None;
                    }
                }
                Poll::Ready(None) => self.peeked.rest = None,
                Poll::Pending => {
                    // Without a runtime there is no timer, and no login to be late for.
                    if self.patience.is_none() && Handle::try_current().is_ok() {
                        self.patience = Some(Box::pin(sleep(PATIENCE)));
                    }
                    return match &mut self.patience {
                        Some(patience) => patience.as_mut().poll(cx),
                        None => Poll::Pending,
                    };
                }
            }
        }
        Poll::Ready(())
    }

    /// The first `limit` bytes, or as many as were read.
    pub(crate) fn start(&self, limit: usize) -> Vec<u8> {
        let mut start = Vec::with_capacity(self.read.min(limit));
        let frames = self.peeked.frames.iter();
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

    /// The whole body, as if nothing had been read.
    pub(crate) fn into_body(self, lease: Option<Lease>) -> SessionBody<B> {
        SessionBody {
            kind: Kind::Peeked {
                peeked: self.peeked,
            },
            lease,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::{FixedToken, Profile, Session, Token};

    #[tokio::test]
    async fn a_body_uses_the_token_until_its_end_and_no_longer() {
        let token = Token::bearer("3f9a").unwrap();
        let session = Session::builder(FixedToken::bearer(Profile::default(), "3f9a"));
        let session = session.initial(token).build();
        let lease = session.usable().unwrap();
        let unused = Lease::strong_count(&lease);

        let mut body = SessionBody::whole(Full::new(Bytes::from("x")), Some(lease.clone()));
        assert_eq!(Lease::strong_count(&lease), unused + 1);
        assert!(body.frame().await.is_some());
        assert_eq!(Lease::strong_count(&lease), unused + 1);
        assert!(body.frame().await.is_none());
        assert_eq!(Lease::strong_count(&lease), unused);
    }
}
