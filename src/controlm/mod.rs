//! BMC Control-M's Automation API: its session service, typed, and a provider on top of it.
//!
//! [`ControlM`] is the provider for a [`Session`](crate::Session).
//! [`SessionApi`] makes the three calls alone, and [`model`] has their messages.
//!
//! # Gateways
//!
//! An [`Error`] names the status and the content type of the answer, and its
//! message: of the service's error list, of a gateway's JSON, or plain text. An
//! HTML page is reported by status and content type alone:
//! `the login failed: 502 Bad Gateway (text/html)`. Headers that a gateway asks
//! for, such as a key, are set by [`ControlM::extra_header`] for each request,
//! login included.
//!
//! # Control-M SaaS
//!
//! Control-M SaaS has no session service. A fixed API token is sent as
//! `x-api-key` by a [`FixedToken`](crate::FixedToken).
//!
//! ```
//! use tower_reauth::{FixedToken, Profile};
//!
//! let provider = FixedToken::api_key(
//!     Profile::at("https://tenant-aapi.example.com".parse()?),
//!     "3f9a..",
//! );
//! # Ok::<(), tower_reauth::InvalidOrigin>(())
//! ```
//!
//! # Certificates
//!
//! The server comes with a self-signed certificate. Do not switch verification
//! off: give that certificate to your TLS client, as `examples/controlm.rs` does
//! with `--ca-file` and the client of the feature `hyper-client`.

mod api;
mod error;
mod message;
pub mod model;
mod provider;
mod response;

#[cfg(feature = "emulator")]
#[cfg_attr(docsrs, doc(cfg(feature = "emulator")))]
pub mod emulator;

pub use api::SessionApi;
pub use error::{Error, ErrorKind, Unreadable};
pub use provider::ControlM;
pub use response::MAX_ANSWER;
