//! Whether a request's body can be sent a second time, and how.

use std::convert::Infallible;
use std::fmt;

use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body::Body;
use http_body_util::combinators::{BoxBody, UnsyncBoxBody};
use http_body_util::{BodyExt, Either, Empty, Full};
use tower_service::Service;

use crate::future::ResponseFuture;
use crate::sender::{Sender, send};

/// How a rejected request gets its body a second time.
///
/// The layer calls [`keep`](Replay::keep) on each request before it is sent, and
/// [`again`](Replay::again) only if it is replayed. What is kept of a request that
/// carries no token is dropped at once. What `keep` returns decides the cost: with
/// `None` nothing of the request is copied, and a rejection is returned instead
/// of replayed.
///
/// | strategy | replays | for |
/// |---|---|---|
/// | [`Auto`] | bodies that are cheap to clone | [`Full`], [`Empty`], `String`, boxed bodies where empty |
/// | [`IfEmpty`] | empty bodies | any body with a `Default`, such as axum's, tonic's, reqwest's |
/// | [`Buffer`](crate::Buffer) | any body, up to a size | streams, at the cost of a copy |
/// | [`Never`] | nothing | uploads, or where a replay is not wanted |
/// | [`replay_fn`] | what a function clones | everything else |
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot replay a request body of type `{B}`",
    label = "no way to send this body a second time",
    note = "for a body type with a `Default`, such as axum's, say `session.layer().replay(IfEmpty)`",
    note = "for any other, say `.replay(Buffer::up_to(65536))`, with `.into_body(..)` for a client that takes only its own body type",
    note = "or `.replay(Never)`, or `.replay(replay_fn(|body: &{B}| ..))`"
)]
pub trait Replay<B> {
    /// The body that the inner service is sent.
    type Body;

    /// What is kept while the request is under way.
    type Kept;

    /// Takes a request's body apart: what to send, and what to keep for a replay.
    fn keep(&self, body: B) -> (Self::Body, Option<Self::Kept>);

    /// Sends a request whose body is [kept](Replay::keep).
    ///
    /// A method, so that a strategy which sends the body as it came does so
    /// without taking the request apart.
    #[doc(hidden)]
    fn __send<S, RB>(
        &self,
        request: Request<B>,
        sender: Sender<'_, S>,
    ) -> ResponseFuture<S, Self, B, RB>
    where
        S: Service<Request<Self::Body>, Response = Response<RB>> + Clone,
        RB: Body,
        Self: Sized + Clone,
    {
        match sender.lease(&request) {
            Some(lease) => sender.send(self, request, lease),
            None => sender.send_slowly(self, request),
        }
    }

    /// Whether [`again`](Replay::again) can still make a body. Asked at a
    /// rejection, whose response is returned at once if it cannot.
    fn is_kept(kept: &Self::Kept) -> bool {
        let _ = kept;
        true
    }

    /// The body once more, or `None` if it cannot be had after all. Called once
    /// there is a newer token, before the service is readied for the replay.
    fn again(kept: Self::Kept) -> Option<Self::Body>;
}

/// How a strategy keeps a body that it sends as it came, and so without taking
/// the request apart.
macro_rules! keep {
    (|$this:ident, $body:ident| $kept:expr) => {
        fn keep(&self, body: B) -> (B, Option<Self::Kept>) {
            let ($this, $body) = (self, &body);
            let kept = $kept;
            (body, kept)
        }

        #[inline]
        #[allow(unreachable_code, reason = "where nothing is ever kept")]
        fn __send<S, RB>(
            &self,
            mut request: Request<B>,
            sender: Sender<'_, S>,
        ) -> ResponseFuture<S, Self, B, RB>
        where
            S: Service<Request<B>, Response = Response<RB>> + Clone,
            RB: Body,
            Self: Sized + Clone,
        {
            let Some(lease) = sender.lease(&request) else {
                return sender.send_slowly(self, request);
            };
            let ($this, $body) = (self, request.body());
            let kept = $kept;
            send!(sender, request, kept, lease)
        }
    };
}

/// A body of which [`Auto`] can make a second one.
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
    note = "for a body type with a `Default`, such as axum's, say `session.layer().replay(IfEmpty)`",
    note = "for any other, say `.replay(Buffer::up_to(65536))`, with `.into_body(..)` for a client that takes only its own body type",
    note = "or `.replay(Never)`, or `.replay(replay_fn(|body: &{Self}| ..))`"
)]
pub trait ReplayBody: Sized {
    /// The same body, or `None` if this one cannot be had twice.
    fn try_clone(&self) -> Option<Self>;
}

/// Replays bodies that implement [`ReplayBody`]: cloned where that is cheap,
/// otherwise where they are empty. The default.
///
/// A type that does not implement it is an error that names the alternatives:
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

/// Replays empty bodies, of any type that has a `Default`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IfEmpty;

/// Replays nothing: a rejection renews the token and is returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Never;

/// Replays the bodies that `clone` makes a second one of.
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

    keep!(|_this, body| body.try_clone());

    fn again(kept: B) -> Option<B> {
        Some(kept)
    }
}

impl<B: Body + Default> Replay<B> for IfEmpty {
    type Body = B;
    type Kept = ();

    keep!(|_this, body| is_empty(body).then_some(()));

    fn again((): ()) -> Option<B> {
        Some(B::default())
    }
}

impl<B> Replay<B> for Never {
    type Body = B;
    type Kept = Infallible;

    keep!(|_this, _body| None);

    fn again(kept: Infallible) -> Option<B> {
        match kept {}
    }
}

impl<B, F: Fn(&B) -> Option<B>> Replay<B> for ReplayFn<F> {
    type Body = B;
    type Kept = B;

    keep!(|this, body| (this.0)(body));

    fn again(kept: B) -> Option<B> {
        Some(kept)
    }
}

/// Whether a body has nothing left to send, trailers included.
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
        let (_, kept) = replay.keep(body);
        kept.and_then(R::again).is_some()
    }

    #[test]
    fn auto_replays_what_is_cheap_to_clone() {
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
    fn what_auto_replays_is_the_same_body() {
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
    fn auto_replays_a_boxed_body_only_where_it_is_empty() {
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
    fn a_function_decides_for_a_body_of_ones_own() {
        let replay = replay_fn(|body: &u8| (*body < 10).then_some(*body));
        assert!(replays(&replay, 1));
        assert!(!replays(&replay, 99));
    }
}
