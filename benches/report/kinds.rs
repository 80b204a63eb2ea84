//! The ways to put a token on a request that are compared.

use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use tower::Service;

use crate::peers::{self, Bare, Body, Requests};

/// Which service, by the name that it has on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bare,
    Fixed,
    Never,
    Auto,
    Retry,
    ByHand,
}

pub(crate) const KINDS: [Kind; 6] = [
    Kind::Bare,
    Kind::Fixed,
    Kind::Never,
    Kind::Auto,
    Kind::Retry,
    Kind::ByHand,
];

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Fixed => "fixed",
            Self::Never => "never",
            Self::Auto => "auto",
            Self::Retry => "retry",
            Self::ByHand => "by-hand",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Bare => "the bare service",
            Self::Fixed => "tower-http's `AddAuthorization`, static",
            Self::Never => "this crate, `Never`",
            Self::Auto => "this crate, `Auto`",
            Self::Retry => "tower's `Retry`, cloning, around the static header",
            Self::ByHand => "by hand: `RwLock`, boxed future, clone",
        }
    }

    /// Sends so many requests at each call.
    pub(crate) fn sender(self) -> Box<dyn FnMut(u32)> {
        let session = peers::session();
        match self {
            Self::Bare => sender(Bare),
            Self::Fixed => sender(peers::fixed_header()),
            Self::Never => sender(peers::never(&session)),
            Self::Auto => sender(peers::auto(&session)),
            Self::Retry => sender(peers::retry()),
            Self::ByHand => sender(peers::by_hand()),
        }
    }

    pub(crate) fn place(self) -> usize {
        KINDS.iter().position(|kind| *kind == self).expect("listed")
    }
}

fn sender<S, B>(mut service: S) -> Box<dyn FnMut(u32)>
where
    S: Service<Request<Body>, Response = Response<B>> + 'static,
{
    let requests = Requests::new();
    Box::new(move |count| send(&mut service, &requests, count))
}

/// Makes requests, and for each readies, calls and awaits the service.
pub(crate) fn send<S, B>(service: &mut S, requests: &Requests, count: u32)
where
    S: Service<Request<Body>, Response = Response<B>>,
{
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..count {
        let request = black_box(requests.make());
        assert!(matches!(service.poll_ready(&mut cx), Poll::Ready(Ok(()))));
        let response = pin!(service.call(request));
        let Poll::Ready(Ok(response)) = response.poll(&mut cx) else {
            panic!("there is nothing to wait for");
        };
        black_box(&response);
    }
}

/// What each kind costs above the bare service, in the order of [`KINDS`].
pub(crate) struct Costs(pub(crate) [f64; KINDS.len()]);

impl Costs {
    pub(crate) fn of(&self, kind: Kind) -> f64 {
        self.0[kind.place()]
    }

    pub(crate) fn ratio(&self, kind: Kind, to: Kind) -> f64 {
        self.of(kind) / self.of(to)
    }
}

/// Sends `count` requests through the service of that name, for a profiler.
pub(crate) fn send_by_name(name: &str, count: u32) {
    let kind = KINDS.into_iter().find(|kind| kind.name() == name);
    kind.expect("a kind of service").sender()(count);
}
