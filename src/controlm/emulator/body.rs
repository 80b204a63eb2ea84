//! The body of a response: all at once, or in chunks.

use std::{
    convert::Infallible,
    fmt,
    io::Write,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http_body::{Body, Frame, SizeHint};

/// The body of the emulator's responses.
///
/// JSON is one frame of known length. A job's output streams: each chunk is one
/// frame, made when it is polled. The total length is unknown, so that a socket
/// sends it chunked.
#[derive(Clone)]
pub struct ResponseBody {
    content: Content,
}

#[derive(Clone)]
enum Content {
    Full(Bytes),
    Chunks { next: u32, end: u32, size: usize },
}

impl ResponseBody {
    pub(super) fn full(bytes: Bytes) -> Self {
        Self {
            content: Content::Full(bytes),
        }
    }

    pub(super) fn chunks(count: u32, size: usize) -> Self {
        Self {
            content: Content::Chunks {
                next: 0,
                end: count,
                size,
            },
        }
    }

    pub(super) fn half(self) -> Self {
        let content = match self.content {
            Content::Full(bytes) => Content::Full(bytes.slice(..bytes.len() / 2)),
            Content::Chunks { next, end, size } => Content::Chunks {
                next,
                end: end / 2,
                size,
            },
        };
        Self { content }
    }

    /// Compresses the body. A job's output stays as it is: `false`.
    pub(super) fn compress(&mut self) -> bool {
        let Content::Full(plain) = &mut self.content else {
            return false;
        };
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let compressed = encoder.write_all(plain).and_then(|()| encoder.finish());
        *plain = compressed.expect("a vector takes all bytes").into();
        true
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let data = match &mut self.content {
            Content::Full(bytes) => std::mem::take(bytes),
            Content::Chunks { next, size, .. } => {
                let chunk = line(*next, *size);
                *next += 1;
                chunk
            }
        };
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Full(bytes) => bytes.is_empty(),
            Content::Chunks { next, end, .. } => next >= end,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Chunks { .. } => SizeHint::default(),
        }
    }
}

/// Returns a line of exactly `size` bytes, with its number if there is room.
fn line(number: u32, size: usize) -> Bytes {
    let mut line = format!("chunk {number} ").into_bytes();
    line.resize(size, b'.');
    if let Some(last) = line.last_mut() {
        *last = b'\n';
    }
    line.into()
}

// By hand: the answer to a login or a logout contains the token.
impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
