//! Tower middleware for HTTP APIs with login sessions.
//!
//! A [`SessionLayer`] wraps any tower HTTP client. It logs in through a
//! [`CredentialProvider`] when the first request needs it, attaches the token
//! to each request, renews it in the background before it ends, logs in again
//! when the server rejects it, and sends the rejected request once more. A
//! [`Session`] is the handle to the same thing: it logs out, changes the
//! password, tells how it is doing, and hands the token to other protocols.
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
//! // A server that takes the second token only, as if the first had expired.
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
//!     move |_login: LoginContext| {
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
//! # What it keeps
//!
//! - All who need a token share one login, and its failure too.
//! - A token that is used is renewed ahead of its end, and no request waits for
//!   that. The one that it replaces is logged out when nobody uses it any more,
//!   where a logout ends no other: see [`LogoutEnds`].
//! - A late rejection of an old token does not throw a newer one away.
//! - Only a request that the server *rejected* is sent again, at most once,
//!   and only if its body can be had a second time: see [`Replay`]. What else
//!   is returned as it came, with a [`Reauth`] that says why.
//! - Refused credentials are not sent again, so no number of requests can lock
//!   an account.
//! - The token goes to the provider's origins and nowhere else.
//! - An [`Error`] of this crate always means that the request was not executed.
//!
//! # The order of layers
//!
//! A layer *outside* of this one sees one response for each of its requests,
//! and a redirect follower there is safe: each hop is checked against the
//! token's origins anew. A redirect follower *inside*, or one that the client
//! brings along, carries the token's headers to wherever it is sent, where
//! nobody can see it: switch it off. (It drops `Authorization` at best, and an
//! `x-api-key` never; and a 401 from there is taken for one from home.)
//!
//! A timeout outside cuts a request that waits for a login; the login itself
//! goes on for the next one. A concurrency limit inside is not held while a
//! request waits for a login, so the login may go through it. What keeps clients
//! ready that it does not call, as tower's `Balance` does, holds a place of such
//! a limit for nobody, which a login or a replay may wait for: the limit belongs
//! outside there.
//!
//! # Features
//!
//! | feature | default | brings |
//! |---|---|---|
//! | `controlm` | yes | the session service of BMC Control-M and a provider for it |
//! | `json` | with `controlm` | credentials in JSON files, and in one that keeps a changed password |
//! | `tracing` | yes | tells `tracing` what happens to a session |
//! | `hyper-client` | no | a ready HTTPS client: hyper and rustls, the system's roots or a CA file |
//! | `emulator` | no | an embedded Control-M server, for tests |
//! | `testing` | no | a scripted provider and service, and a check of any provider, for tests |
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod body;
mod buffer;
#[cfg(feature = "hyper-client")]
#[cfg_attr(docsrs, doc(cfg(feature = "hyper-client")))]
pub mod client;
#[cfg(feature = "controlm")]
#[cfg_attr(docsrs, doc(cfg(feature = "controlm")))]
pub mod controlm;
mod cookie;
pub mod credentials;
mod date;
mod error;
mod future;
#[cfg(any(feature = "emulator", feature = "testing"))]
#[cfg_attr(
    not(feature = "testing"),
    allow(dead_code, unreachable_pub, reason = "public with `testing` only")
)]
mod gate;
mod layer;
mod origin;
pub mod provider;
mod rejection;
mod replay;
mod rolling;
mod secret;
mod sender;
mod sent;
mod service;
mod session;
mod sync;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;
mod token;

/// Any error, boxed, as in tower.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub use body::SessionBody;
pub use buffer::{Buffer, BufferInto, BufferKept, Buffered};
pub use cookie::SetCookie;
pub use credentials::{CredentialSource, Credentials, Source, SourceError};
pub use error::{Error, ErrorKind};
pub use future::ResponseFuture;
pub use layer::SessionLayer;
pub use origin::Anonymous;
pub use provider::{
    CredentialProvider, FixedToken, LoginContext, LogoutEnds, PasswordChange, PasswordChanged,
    Profile, ProviderError, ProviderErrorKind, ProviderFn, Reason, provider_fn,
};
pub use rejection::{Reauth, Rejection, Why};
pub use replay::{Auto, IfEmpty, Never, Replay, ReplayBody, ReplayFn, replay_fn};
pub use rolling::Rolling;
pub use service::SessionService;
pub use session::{
    CloseError, Event, Events, Logins, Session, SessionBuilder, State, Stats, Status, TokenEnd,
};
pub use token::{InvalidToken, Token};

pub use secrecy::{ExposeSecret, SecretString};

/// Compiles what the README shows.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
