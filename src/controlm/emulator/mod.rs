//! An embedded Control-M session server, to test Control-M code against.
//!
//! It logs in, logs out and changes passwords as the real service does, has a
//! few calls behind the session, can be made to misbehave, and counts
//! everything, so that a test can ask afterwards what a client has really
//! done. It runs in process: as a tower service, which needs no socket and
//! follows tokio's paused clock, or on a socket, for any language.
//!
//! ```
//! use std::time::Duration;
//! use http::{Request, StatusCode};
//! use tower::ServiceExt;
//! use tower_reauth::controlm::emulator::Emulator;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower_reauth::BoxError> {
//! let emulator = Emulator::builder()
//!     .user("emuser", "s3cret")
//!     .lifetime(Duration::from_secs(1800))
//!     .lock_after(3)
//!     .build();
//!
//! let login = Request::post("/automation-api/session/login")
//!     .body(r#"{"username":"emuser","password":"s3cret"}"#.to_owned())?;
//! let answer = emulator.service().oneshot(login).await?;
//! assert_eq!(answer.status(), StatusCode::OK);
//! assert_eq!(emulator.account().logins, 1);
//!
//! // On a socket of this machine, for anybody:
//! let server = emulator.listen(([127, 0, 0, 1], 0).into()).await?;
//! println!("{}", server.url());
//! # Ok(())
//! # }
//! ```
//!
//! The example `emulator` runs it from the command line, over http or https:
//! `cargo run --example emulator -- --help`.
//!
//! # The calls
//!
//! | call | answer |
//! |---|---|
//! | `POST session/login`, `session/logout`, `session/user/password/update` | as the service's documentation says |
//! | `GET config/servers` | a list of servers |
//! | `GET run/jobs/status` | a list of jobs |
//! | `POST run/order` | orders a job, once for each call |
//! | `GET run/status/{id}` | the job of that order |
//! | `GET run/job/{id}/output?chunks=N` | streams N chunks |
//! | `GET forbidden` | always 403 |
//! | `GET unauthorized` | always 401, in the words for a dead token |
//!
//! All lie under a base path, `/automation-api` unless told otherwise. The
//! token is taken from `Authorization: Bearer`, or from `x-api-key` with or
//! without `Bearer`; if both are given, the one whose session is live counts.
//!
//! # Limits
//!
//! It is no Control-M: what lies behind the session is a sketch. Passwords are
//! kept as they are, in memory.

mod account;
mod builder;
mod fault;
mod routes;
mod server;
mod service;
mod state;

pub use account::Account;
pub use builder::{DeadToken, EmulatorBuilder};
pub use fault::Fault;
pub use server::Server;
pub use service::{Call, ConnectionClosed, Emulator, EmulatorService};
