//! Whether a request's body can be sent a second time, and how.

mod buffer;

use std::convert::Infallible;
use std::fmt;

use bytes::{Buf, Bytes};
use http::Request;
use http_body::Body;
use http_body_util::combinators::{BoxBody, UnsyncBoxBody};
use http_body_util::{BodyExt, Either, Empty, Full};

pub use buffer::{Buffer, BufferInto, BufferKept, Buffered};

/// How a rejected request gets its body a second time.
///
/// The layer calls [`keep_request`](Replay::keep_request) for each request before
/// it is sent, and [`again`](Replay::again) only if the request is replayed. If
/// a request passes without a token, its kept part is dropped at once. The result
/// of `keep` determines the cost: with `None` nothing of the request is copied, and
/// a rejected response is returned instead of replayed.
///
/// | strategy | replays | for |
/// |---|---|---|
/// | [`Auto`] | bodies that are cheap to clone | [`Full`], [`Empty`], `String`, empty boxed bodies |
/// | [`Buffer`](crate::Buffer) | any body, up to a size | streams, axum's, tonic's and reqwest's bodies, at the cost of a copy |
/// | [`IfEmpty`] | empty bodies | any body with a `Default` that is mostly empty; not for gRPC, whose messages are never empty |
/// | [`Never`] | nothing | uploads, or if no replay is wanted |
/// | [`replay_fn`] | what a function clones | everything else |
///
/// A strategy of your own implements [`keep`](Replay::keep) and
/// [`again`](Replay::again). If it sends the body unchanged, it may also implement
/// [`keep_request`](Replay::keep_request), which saves taking the request apart:
///
/// ```
/// use bytes::Bytes;
/// use http::Request;
/// use tower_reauth::Replay;
///
/// /// Replays only short bodies.
/// #[derive(Clone)]
/// struct IfShort;
///
/// impl Replay<Bytes> for IfShort {
///     type Body = Bytes;
///     type Kept = Bytes;
///
///     fn keep(&self, body: Bytes) -> (Bytes, Option<Bytes>) {
///         let kept = (body.len() < 1024).then(|| body.clone());
///         (body, kept)
///     }
///
///     fn keep_request(&self, request: Request<Bytes>) -> (Request<Bytes>, Option<Bytes>) {
///         let body = request.body();
///         let kept = (body.len() < 1024).then(|| body.clone());
///         (request, kept)
///     }
///
///     fn again(kept: Bytes) -> Option<Bytes> {
///         Some(kept)
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot replay a request body of type `{B}`",
    label = "no way to send this body a second time",
    note = "use `session.layer().replay(Buffer::up_to(65536))`, with `.into_body(Body::new)` for a client that takes only its own body type",
    note = "or `.replay(Never)`, or `.replay(replay_fn(|body: &{B}| ..))`, or, for a body with a `Default` that is mostly empty, `.replay(IfEmpty)`"
)]
pub trait Replay<B> {
    /// The body that the inner service gets.
    type Body;

    /// The part of a body that is kept while the request is under way.
    type Kept;

    /// Takes a request's body. Returns the body to send and the part to keep for a
    /// replay.
    fn keep(&self, body: B) -> (Self::Body, Option<Self::Kept>);

    /// Takes a request. Returns the request to send and the part of its body to keep
    /// for a replay.
    ///
    /// The default takes the request apart and calls [`keep`](Replay::keep). A
    /// strategy that sends the body unchanged can avoid that.
    #[inline]
    fn keep_request(&self, request: Request<B>) -> (Request<Self::Body>, Option<Self::Kept>) {
        let (head, body) = request.into_parts();
        let (body, kept) = self.keep(body);
        (Request::from_parts(head, body), kept)
    }

    /// Returns whether [`again`](Replay::again) can still return a body. Called
    /// after a rejection; without a body the response is returned at once.
    fn is_kept(kept: &Self::Kept) -> bool {
        let _ = kept;
        true
    }

    /// Returns whether [`again`](Replay::again) will return a body in any case. Called
    /// before the request is sent. Only such a request may carry a refreshed token that
    /// no request has proven yet.
    fn is_certain(kept: &Self::Kept) -> bool {
        Self::is_kept(kept)
    }

    /// Returns the body once more, or `None` if it is not available after all.
    /// Called once there is a newer token, before the service is readied for the
    /// replay.
    fn again(kept: Self::Kept) -> Option<Self::Body>;
}

/// Implements `keep` and `keep_request` for a strategy that sends the body
/// unchanged.
macro_rules! keep_unchanged {
    (|$this:ident, $body:ident| $kept:expr) => {
        #[inline]
        fn keep(&self, body: B) -> (B, Option<Self::Kept>) {
            let ($this, $body) = (self, &body);
            let kept = $kept;
            (body, kept)
        }

        #[inline]
        fn keep_request(&self, request: Request<B>) -> (Request<B>, Option<Self::Kept>) {
            let ($this, $body) = (self, request.body());
            let kept = $kept;
            (request, kept)
        }
    };
}

/// A body that [`Auto`] can copy.
///
/// # Examples
///
/// ```
/// use bytes::Bytes;
/// use tower_reauth::ReplayBody;
///
/// struct Csv(Bytes);
///
/// impl ReplayBody for Csv {
///     fn try_clone(&self) -> Option<Self> {
///         Some(Self(self.0.clone()))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`Auto` cannot replay a request body of type `{Self}`",
    label = "this body cannot be cloned",
    note = "use `session.layer().replay(Buffer::up_to(65536))`, with `.into_body(Body::new)` for a client that takes only its own body type",
    note = "or `.replay(Never)`, or `.replay(replay_fn(|body: &{Self}| ..))`, or, for a body with a `Default` that is mostly empty, `.replay(IfEmpty)`"
)]
pub trait ReplayBody: Sized {
    /// Returns a copy of the body, or `None` if this one cannot be copied.
    fn try_clone(&self) -> Option<Self>;
}

/// Replays bodies that implement [`ReplayBody`]: cheap ones are cloned, others are
/// replayed if they are empty. The default.
///
/// For a type that does not implement it, the compiler's error names the
/// alternatives:
///
/// ```compile_fail,E0277
/// use http_body_util::StreamBody;
/// use tower_reauth::{Auto, Replay};
///
/// fn replays<B, R: Replay<B>>() {}
/// replays::<StreamBody<()>, Auto>();
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Auto;

/// Replays empty bodies of any type that has a `Default`. Not for gRPC: a call
/// always has a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IfEmpty;

/// Replays nothing: a rejection refreshes the token, and its response is returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Never;

/// Creates a strategy that replays the bodies for which `clone` returns a copy.
///
/// ```
/// use bytes::Bytes;
/// use tower_reauth::replay_fn;
///
/// /// A client's own body type.
/// enum Payload { Small(Bytes), File(std::fs::File) }
///
/// let replay = replay_fn(|body: &Payload| match body {
///     Payload::Small(bytes) => Some(Payload::Small(bytes.clone())),
///     Payload::File(_) => None,
/// });
/// ```
pub fn replay_fn<F, B>(clone: F) -> ReplayFn<F>
where
    F: Fn(&B) -> Option<B> + Clone,
{
    ReplayFn(clone)
}

/// A [`Replay`] made by [`replay_fn`].
#[derive(Clone, Copy)]
pub struct ReplayFn<F>(F);

impl<F> fmt::Debug for ReplayFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReplayFn").finish_non_exhaustive()
    }
}

impl<B: ReplayBody> Replay<B> for Auto {
    type Body = B;
    type Kept = B;

    keep_unchanged!(|_this, body| body.try_clone());

    fn again(kept: B) -> Option<B> {
        Some(kept)
    }
}

impl<B: Body + Default> Replay<B> for IfEmpty {
    type Body = B;
    type Kept = ();

    keep_unchanged!(|_this, body| is_empty(body).then_some(()));

    fn again((): ()) -> Option<B> {
        Some(B::default())
    }
}

impl<B> Replay<B> for Never {
    type Body = B;
    type Kept = Infallible;

    keep_unchanged!(|_this, _body| None);

    fn again(kept: Infallible) -> Option<B> {
        match kept {}
    }
}

impl<B, F: Fn(&B) -> Option<B>> Replay<B> for ReplayFn<F> {
    type Body = B;
    type Kept = B;

    keep_unchanged!(|this, body| (this.0)(body));

    fn again(kept: B) -> Option<B> {
        Some(kept)
    }
}

/// Returns whether a body has nothing left to send, trailers included.
fn is_empty(body: &impl Body) -> bool {
    body.is_end_stream()
}

impl<D: Buf + Clone> ReplayBody for Full<D> {
    #[inline]
    fn try_clone(&self) -> Option<Self> {
        Some(self.clone())
    }
}

impl<D> ReplayBody for Empty<D> {
    #[inline]
    fn try_clone(&self) -> Option<Self> {
        Some(Self::default())
    }
}

impl<B: ReplayBody> ReplayBody for Option<B> {
    fn try_clone(&self) -> Option<Self> {
        match self {
            Some(body) => body.try_clone().map(Some),
            None => Some(None),
        }
    }
}

impl<L: ReplayBody, R: ReplayBody> ReplayBody for Either<L, R> {
    fn try_clone(&self) -> Option<Self> {
        match self {
            Self::Left(body) => body.try_clone().map(Self::Left),
            Self::Right(body) => body.try_clone().map(Self::Right),
        }
    }
}

impl<B: ReplayBody> ReplayBody for Box<B> {
    fn try_clone(&self) -> Option<Self> {
        (**self).try_clone().map(Self::new)
    }
}

macro_rules! replay_by_clone {
    ($($body:ty),*) => {$(
        impl ReplayBody for $body {
            #[inline]
            fn try_clone(&self) -> Option<Self> {
                Some(self.clone())
            }
        }
    )*};
}

replay_by_clone!((), Bytes, String, &'static str, Vec<u8>, &'static [u8]);

impl<D: Buf + 'static, E: 'static> ReplayBody for BoxBody<D, E> {
    fn try_clone(&self) -> Option<Self> {
        is_empty(self).then(|| Empty::new().map_err(|never| match never {}).boxed())
    }
}

impl<D: Buf + 'static, E: 'static> ReplayBody for UnsyncBoxBody<D, E> {
    fn try_clone(&self) -> Option<Self> {
        is_empty(self).then(|| Empty::new().map_err(|never| match never {}).boxed_unsync())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replays<B, R: Replay<B>>(replay: &R, body: B) -> bool {
        let (_, kept) = replay.keep_request(Request::new(body));
        kept.and_then(R::again).is_some()
    }

    #[test]
    fn auto_replays_bodies_that_are_cheap_to_clone() {
        assert!(replays(&Auto, Full::new(Bytes::from("x"))));
        assert!(replays(&Auto, Empty::<Bytes>::new()));
        assert!(replays(&Auto, String::from("x")));
        assert!(replays(&Auto, Some(Bytes::from("x"))));
        assert!(replays(&Auto, None::<Bytes>));
        assert!(replays(
            &Auto,
            Either::<String, Full<Bytes>>::Left("x".into())
        ));
        assert!(replays(&Auto, Box::new(String::from("x"))));
    }

    #[test]
    fn auto_replays_an_equal_body() {
        fn is_the_same<B: ReplayBody + std::fmt::Debug>(body: &B) -> bool {
            format!("{:?}", body.try_clone()) == format!("{:?}", Some(body))
        }
        assert!(is_the_same(&Full::new(Bytes::from("x"))));
        assert!(is_the_same(&Some(Bytes::from("x"))));
        assert!(is_the_same(&None::<Bytes>));
        assert!(is_the_same(&Either::<_, Bytes>::Left(String::from("x"))));
        assert!(is_the_same(&Either::<Bytes, _>::Right(String::from("x"))));
        assert!(is_the_same(&Box::new(String::from("x"))));
    }

    #[test]
    fn auto_replays_a_boxed_body_only_if_it_is_empty() {
        let empty = Empty::<Bytes>::new().boxed();
        let full = Full::new(Bytes::from("x")).boxed();
        assert!(replays(&Auto, empty));
        assert!(!replays(&Auto, full));
        assert!(replays(&Auto, Empty::<Bytes>::new().boxed_unsync()));
        assert!(!replays(&Auto, Full::new(Bytes::from("x")).boxed_unsync()));
    }

    #[test]
    fn if_empty_replays_empty_bodies_and_never_replays_none() {
        assert!(replays(&IfEmpty, Full::<Bytes>::default()));
        assert!(!replays(&IfEmpty, Full::new(Bytes::from("x"))));
        assert!(!replays(&Never, Full::<Bytes>::default()));
    }

    #[test]
    fn a_function_decides_for_a_custom_body() {
        let replay = replay_fn(|body: &u8| (*body < 10).then_some(*body));
        assert!(replays(&replay, 1));
        assert!(!replays(&replay, 99));
    }
}
