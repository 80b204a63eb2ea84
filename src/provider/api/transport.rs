//! Sends one request over any client and reads its answer up to a limit.

use std::future::poll_fn;
use std::pin::pin;

use bytes::Buf;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::task::consume_budget;
use tower_service::Service;
use zeroize::Zeroizing;

use crate::BoxError;
use crate::provider::error::was_not_sent;

/// The first capacity for an answer of unknown length.
const ROOM: usize = 16 * 1024;

/// An answer, as far as it was read. Its body is wiped on drop.
pub(crate) struct ReceivedAnswer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Zeroizing<Vec<u8>>,
    pub(crate) end: End,
}

/// Where the reading of an answer ended.
pub(crate) enum End {
    /// At the end of the answer.
    Whole,
    /// At a failure of the connection.
    Broken(BoxError),
    /// At the limit. The rest of the answer is dropped.
    TooLong,
}

/// Why no answer arrived.
pub(crate) enum SendError {
    /// No byte of the request was sent.
    NotSent(BoxError),
    /// The request may have been sent and executed.
    Lost(BoxError),
}

/// Sends `request` through `http` and reads at most `limit` bytes of the answer's body.
pub(crate) async fn send<S, B, RB>(
    mut http: S,
    request: Request<B>,
    limit: usize,
) -> Result<ReceivedAnswer, SendError>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
    RB: Body,
    RB::Error: Into<BoxError>,
{
    let ready = poll_fn(|cx| http.poll_ready(cx)).await;
    ready.map_err(|error| SendError::NotSent(error.into()))?;
    let response = http.call(request).await.map_err(|error| {
        let error = error.into();
        match was_not_sent(&*error) {
            true => SendError::NotSent(error),
            false => SendError::Lost(error),
        }
    })?;
    Ok(receive(response, limit).await)
}

async fn receive<B>(response: Response<B>, limit: usize) -> ReceivedAnswer
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let (head, body) = response.into_parts();
    let mut body = pin!(body);
    let exact = body.size_hint().exact();
    let room = exact.and_then(|exact| usize::try_from(exact).ok());
    let mut read = Zeroizing::new(Vec::with_capacity(room.unwrap_or(ROOM).min(limit)));
    let end = loop {
        // Empty frames count against no limit: the caller's timeout must end them.
        consume_budget().await;
        let frame = match body.as_mut().frame().await {
            None => break End::Whole,
            Some(Err(error)) => break End::Broken(error.into()),
            Some(Ok(frame)) => frame,
        };
        let Ok(mut data) = frame.into_data() else {
            continue;
        };
        while data.has_remaining() && read.len() < limit {
            let chunk = data.chunk();
            let fits = chunk.len().min(limit - read.len());
            read = extended(read, &chunk[..fits], limit);
            data.advance(fits);
        }
        if data.has_remaining() {
            break End::TooLong;
        }
    };
    ReceivedAnswer {
        status: head.status,
        headers: head.headers,
        body: read,
        end,
    }
}

/// Appends `more` to `read`. Moves to a larger buffer where the capacity does
/// not suffice: a vector that grows by itself leaves an unwiped copy behind.
fn extended(read: Zeroizing<Vec<u8>>, more: &[u8], limit: usize) -> Zeroizing<Vec<u8>> {
    let mut read = read;
    if more.len() > read.capacity() - read.len() {
        let room = (read.len() + more.len()).max(2 * read.capacity());
        let mut moved = Zeroizing::new(Vec::with_capacity(room.min(limit)));
        moved.extend_from_slice(&read);
        read = moved;
    }
    read.extend_from_slice(more);
    read
}
