//! Tower middleware for HTTP APIs with login sessions.
//!
//! A [`SessionLayer`] wraps any tower HTTP client. It logs in through a
//! [`CredentialProvider`] when the first request needs a token, attaches the token to
//! each request, refreshes it in the background before it expires, logs in again when
//! the server rejects it, and replays the rejected request once. A [`Session`] is the
//! handle: it logs out, changes the password, reports its state, and hands the token to
//! other protocols.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response, StatusCode};
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_reauth::{LoginContext, Profile, Session, Token, provider_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower_reauth::BoxError> {
//! // A server that accepts only the second token, as if the first had expired.
//! let http = tower::service_fn(|request: Request<Full<Bytes>>| async move {
//!     let mut response = Response::new(Full::<Bytes>::default());
//!     if request.headers()["authorization"] != "Bearer token-2" {
//!         *response.status_mut() = StatusCode::UNAUTHORIZED;
//!     }
//!     Ok::<_, std::convert::Infallible>(response)
//! });
//!
//! let logins = std::sync::atomic::AtomicU32::new(1);
//! let provider = provider_fn(
//!     Profile::at("https://api.example.com".parse()?),
//!     move |_cx: LoginContext| {
//!         let number = logins.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
//!         async move { Ok(Token::bearer(format!("token-{number}"))?) }
//!     },
//! );
//! let session = Session::new(provider);
//! let client = ServiceBuilder::new().layer(session.layer()).service(http);
//!
//! let request = Request::get("https://api.example.com/servers").body(Full::default())?;
//! let response = client.oneshot(request).await?;
//! assert_eq!(response.status(), StatusCode::OK);
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! - All requests that need a token share one login, and its failure.
//! - A token in use is refreshed ahead of its expiry, and no request waits for that. The
//!   new one is used once a request has shown that the API accepts it.
//!   The replaced token is logged out after its last use, if a logout ends no other
//!   token: see [`LogoutEnds`].
//! - A late rejection of an old token does not discard a newer one.
//! - Only a *rejected* request is sent again, at most once, and only if its body is
//!   available a second time: see [`Replay`]. Any other response is returned
//!   unchanged, with a [`Reauth`] that names the reason.
//! - Refused credentials are not sent again, so no number of requests can lock an
//!   account.
//! - The token goes to the provider's origins and nowhere else.
//! - An [`Error`] of this crate in place of a response always means that the request
//!   was not executed.
//!
//! # What to read
//!
//! | task | read |
//! |---|---|
//! | wrap a client | [`SessionLayer`], [`Session`], [`Replay`] for request bodies |
//! | log in to Control-M | `controlm` |
//! | log in to another system | [`provider::writing`], [`provider::Api`], [`provider_fn`] |
//! | use an API key | [`FixedToken`] |
//! | read credentials from a file, the environment, a vault | [`credentials`] |
//! | decide which responses reject the token | [`Rejection`] |
//! | handle errors and returned rejections | [`ErrorKind`], [`ReauthFailure`] |
//! | observe a session | [`Session::status`], [`Session::stats`], [`Session::events`] |
//! | end a program | [`Session::close`] |
//! | test | `testing` |
//!
//! # The order of layers
//!
//! A layer *outside* of this one sees one response for each of its requests, and a
//! redirect follower there is safe: each hop is checked against the token's origins. A
//! redirect follower *inside*, or in the client itself, forwards the token to any host,
//! and this layer cannot see it. Disable it. (At best it drops `Authorization`, but
//! never an `x-api-key`; and a 401 from that host counts as a rejection.)
//!
//! A timeout outside ends a request that waits for a login; the login itself continues
//! for the next request. A concurrency limit inside is not held while a request waits
//! for a login, so the login may go through it. A layer that keeps clients ready
//! without calling them, as tower's `Balance` does, occupies such a limit, and a login
//! or a replay may wait for it: put the limit outside then.
//!
//! # Features
//!
//! | feature | default | brings |
//! |---|---|---|
//! | `controlm` | yes | the session service of BMC Control-M and a provider for it |
//! | `json` | with `controlm` | credentials in JSON files, also in one that stores a changed password |
//! | `tracing` | yes | `tracing` events and spans |
//! | `hyper-client` | no | a ready HTTPS client: hyper and rustls, the system's roots or a CA file |
//! | `emulator` | no | an embedded Control-M server, for tests |
//! | `testing` | no | a scripted provider and service, and a check of any provider, for tests |
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "hyper-client")]
#[cfg_attr(docsrs, doc(cfg(feature = "hyper-client")))]
pub mod client;
mod clock;
#[cfg(feature = "controlm")]
#[cfg_attr(docsrs, doc(cfg(feature = "controlm")))]
pub mod controlm;
mod cookie;
pub mod credentials;
mod date;
mod error;
#[cfg(any(feature = "emulator", feature = "testing"))]
#[cfg_attr(
    not(feature = "testing"),
    allow(dead_code, unreachable_pub, reason = "public with `testing` only")
)]
mod gate;
mod header;
mod loom;
mod middleware;
mod origin;
pub mod provider;
mod reauth;
mod rejection;
mod rolling;
mod secret;
mod session;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;
mod text;
mod token;

/// Any error, boxed, as in tower.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub use cookie::SetCookie;
pub use credentials::error::SourceError;
pub use credentials::source::{CredentialSource, Source};
pub use credentials::store::CredentialStore;
pub use credentials::value::Credentials;
pub use error::{Error, ErrorKind};
pub use middleware::{
    Auto, Buffer, BufferInto, BufferKept, Buffered, IfEmpty, Never, Replay, ReplayBody, ReplayFn,
    ResponseFuture, SessionBody, SessionLayer, SessionService, replay_fn,
};
pub use origin::{Anonymous, InvalidOrigin, Origin};
pub use provider::context::{LoginContext, LogoutContext, LogoutReason, PasswordContext, Reason};
pub use provider::credential_provider::CredentialProvider;
pub use provider::error::{ProviderError, ProviderErrorKind};
pub use provider::fixed::FixedToken;
pub use provider::function::{ProviderFn, provider_fn};
pub use provider::password::PasswordChange;
pub use provider::profile::{LogoutEnds, Profile};
pub use reauth::{Reauth, ReauthFailure};
pub use rejection::Rejection;
pub use rolling::Rolling;
pub use session::{
    CloseError, Event, Events, Logins, Session, SessionBuilder, State, Stats, Status, TokenEnd,
};
pub use token::{InvalidToken, Token};

#[doc(no_inline)]
pub use secrecy::{ExposeSecret, SecretString};

/// Compiles what the README shows.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
