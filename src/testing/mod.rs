//! For tests: a scripted provider and service, and checks of any provider and store.
//!
//! # Tests of code that uses a session
//!
//! [`ScriptedProvider`] stands for the login system and [`ScriptedService`]
//! for the server; a [`Gate`] holds either until the test has done what should
//! happen meanwhile. With tokio's paused clock (`start_paused = true`) nothing
//! sleeps for real, and no test depends on how fast it runs.
//!
//! A token dies while a request is under way, and the late rejection starts no
//! second login:
//!
//! ```
//! use bytes::Bytes;
//! use http::Request;
//! use http_body_util::Full;
//! use tower::{Layer, ServiceExt};
//! use tower_reauth::testing::{Gate, ScriptedProvider, ScriptedService};
//! use tower_reauth::Session;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), tower_reauth::BoxError> {
//! let provider = ScriptedProvider::at("https://api.test".parse()?);
//! let service = ScriptedService::new();
//! let session = Session::new(provider.clone());
//! let client = session.layer().layer(service.clone());
//! let get = || Request::get("https://api.test/x").body(Full::<Bytes>::default());
//!
//! let gate = Gate::closed();
//! service.hold_next(&gate);
//! let late = tokio::spawn(client.clone().oneshot(get()?));
//! gate.reached(1).await;
//!
//! service.accept_only(["token-2"]);
//! assert_eq!(client.oneshot(get()?).await?.status(), 200); // rejected, renewed, replayed
//! gate.open();
//! assert_eq!(late.await??.status(), 200);
//!
//! assert_eq!(provider.logins(), 2);
//! assert_eq!(service.tokens(), ["token-1", "token-1", "token-2", "token-2"]);
//! # Ok(())
//! # }
//! ```
//!
//! # Tests of a provider
//!
//! [`conformance`] tries a provider against a server of the test's own, and
//! lists all in which it does not keep the contract of
//! [`CredentialProvider`](crate::CredentialProvider).
//!
//! # Tests of a credential store
//!
//! [`store_conformance`] checks a [`CredentialStore`](crate::CredentialStore).

mod conformance;
mod provider;
mod report;
mod server;
mod service;
mod store;

pub use crate::gate::Gate;
pub use conformance::{conformance, conformance_unreachable};
pub use provider::{Answer, Call, ScriptedProvider};
pub use report::{Check, NonConforming, Outcome, Report};
pub use server::TestServer;
pub use service::ScriptedService;
pub use store::store_conformance;
