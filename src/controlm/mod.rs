//! BMC Control-M's Automation API: its session service, typed, and a provider on top of it.
//!
//! [`ControlM`] is what a [`Session`](crate::Session) logs in with;
//! [`SessionApi`] is the three calls alone, and [`model`] their messages.
//!
//! # Gateways
//!
//! Whatever answers, an [`Error`] holds the status and the best text found in
//! the answer, be it the service's own error list, a gateway's JSON, an HTML
//! page or nothing at all. What a gateway asks for, such as a key of its own,
//! goes with [`ControlM::extra_header`] on each request, login included.
//!
//! # Control-M SaaS
//!
//! It has no session service: a fixed API token is sent as `x-api-key`, which
//! is a [`FixedToken`](crate::FixedToken).
//!
//! ```
//! use tower_reauth::{FixedToken, Profile};
//!
//! let provider = FixedToken::api_key(
//!     Profile::at("https://tenant-aapi.example.com".parse()?),
//!     "3f9a..",
//! );
//! # Ok::<(), http::uri::InvalidUri>(())
//! ```
//!
//! # Certificates
//!
//! The server comes with a self-signed certificate. Rather than switching
//! verification off, give that certificate to your TLS client, as
//! `examples/controlm.rs` does with `--ca-file` and the client of the feature
//! `hyper-client`.

mod answer;
mod api;
mod error;
pub mod model;
mod provider;
mod text;

#[cfg(feature = "emulator")]
#[cfg_attr(docsrs, doc(cfg(feature = "emulator")))]
pub mod emulator;

pub use answer::MAX_ANSWER;
pub use api::SessionApi;
pub use error::{Error, ErrorKind, InvalidBase, Unreadable};
pub use provider::ControlM;
