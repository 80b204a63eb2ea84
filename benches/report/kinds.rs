//! The ways to put a token on a request that are compared.

use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use tower::Service;

use crate::peers::{self, Bare, Requests};

/// A service, by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bare,
    Fixed,
    Never,
    Auto,
    Buffer,
    Retry,
    ByHand,
    /// The bare service for axum's body, empty.
    BareAxum,
    IfEmpty,
}

pub(crate) const KINDS: [Kind; 9] = [
    Kind::Bare,
    Kind::Fixed,
    Kind::Never,
    Kind::Auto,
    Kind::Buffer,
    Kind::Retry,
    Kind::ByHand,
    Kind::BareAxum,
    Kind::IfEmpty,
];

/// How a request is made: decides what a clone of it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    /// As users make it: from strings, whose bytes the request owns.
    Parsed,
    /// From static and shared parts only, so that a clone allocates little.
    Shared,
}

pub(crate) const MAKES: [Make; 2] = [Make::Parsed, Make::Shared];

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Fixed => "fixed",
            Self::Never => "never",
            Self::Auto => "auto",
            Self::Buffer => "buffer",
            Self::Retry => "retry",
            Self::ByHand => "by-hand",
            Self::BareAxum => "bare-axum",
            Self::IfEmpty => "if-empty",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Bare => "the bare service",
            Self::Fixed => "tower-http's `AddAuthorization`, static",
            Self::Never => "this crate, `Never`",
            Self::Auto => "this crate, `Auto`",
            Self::Buffer => "this crate, `Buffer`",
            Self::Retry => "tower's `Retry`, cloning, around the static header",
            Self::ByHand => "by hand: `RwLock`, boxed future, clone",
            Self::BareAxum => "the bare service, axum's body",
            Self::IfEmpty => "this crate, `IfEmpty`, axum's body",
        }
    }

    /// Returns the service without a layer that it is compared with.
    pub(crate) fn bare(self) -> Self {
        match self {
            Self::BareAxum | Self::IfEmpty => Self::BareAxum,
            _ => Self::Bare,
        }
    }

    /// Returns the kinds that have a layer, in the order of [`KINDS`].
    pub(crate) fn layered() -> impl Iterator<Item = Self> {
        KINDS.into_iter().filter(|kind| *kind != kind.bare())
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(
            self,
            Self::Never | Self::Auto | Self::Buffer | Self::IfEmpty
        )
    }

    /// Returns a function that sends so many requests.
    pub(crate) fn sender(self, make: Make) -> Box<dyn FnMut(u32)> {
        let session = peers::session();
        match self {
            Self::Bare => sender(Bare, Requests::new(make)),
            Self::Fixed => sender(peers::fixed_header(), Requests::new(make)),
            Self::Never => sender(peers::never(&session), Requests::new(make)),
            Self::Auto => sender(peers::auto(&session), Requests::new(make)),
            Self::Buffer => sender(peers::buffer(&session), Requests::new(make)),
            Self::Retry => sender(peers::retry(), Requests::new(make)),
            Self::ByHand => sender(peers::by_hand(), Requests::new(make)),
            Self::BareAxum => sender(Bare, Requests::empty(make)),
            Self::IfEmpty => sender(peers::if_empty(&session), Requests::empty(make)),
        }
    }

    pub(crate) fn place(self) -> usize {
        KINDS.iter().position(|kind| *kind == self).expect("listed")
    }
}

impl Make {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Parsed => "parsed",
            Self::Shared => "shared",
        }
    }

    /// Describes the request behind a title.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Parsed => "",
            Self::Shared => " (request of shared parts)",
        }
    }
}

fn sender<S, B, Q>(mut service: S, requests: Requests<Q>) -> Box<dyn FnMut(u32)>
where
    S: Service<Request<Q>, Response = Response<B>> + 'static,
    Q: 'static,
{
    Box::new(move |count| send(&mut service, &requests, count))
}

/// Makes requests, and for each readies, calls and awaits the service.
pub(crate) fn send<S, B, Q>(service: &mut S, requests: &Requests<Q>, count: u32)
where
    S: Service<Request<Q>, Response = Response<B>>,
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
    /// From what each kind costs in all.
    pub(crate) fn above_bare(totals: [f64; KINDS.len()]) -> Self {
        Self(KINDS.map(|kind| totals[kind.place()] - totals[kind.bare().place()]))
    }

    pub(crate) fn of(&self, kind: Kind) -> f64 {
        self.0[kind.place()]
    }

    pub(crate) fn ratio(&self, kind: Kind, to: Kind) -> f64 {
        self.of(kind) / self.of(to)
    }
}

/// Sends `count` requests through the service of that name, for a profiler.
pub(crate) fn send_by_name(kind: &str, make: &str, count: u32) {
    let kind = KINDS.into_iter().find(|it| it.name() == kind);
    let make = MAKES.into_iter().find(|it| it.name() == make);
    let (kind, make) = kind.zip(make).expect("a kind of service, and of request");
    kind.sender(make)(count);
}
