//! An embedded Control-M session server, to test Control-M code against.
//!
//! It emulates the session service (login, logout, password change) and a few
//! operations behind the session: some that read, one that orders jobs and so
//! must not be repeated, one that streams, and two that reject a live token.
//! The difficulties of the real server are available on demand: short
//! lifetimes, restarts, locks, session limits, faults. The emulator counts, so
//! that a test can prove what a client did.
//!
//! # As a service, without a socket
//!
//! ```
//! use std::time::Duration;
//! use http::{Request, StatusCode};
//! use http_body_util::{BodyExt, Empty, Full};
//! use tower::ServiceExt;
//! use tower_reauth::controlm::{emulator::Emulator, model::LoginResult};
//! use bytes::Bytes;
//! use secrecy::ExposeSecret;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let emulator = Emulator::builder()
//!     .user("emuser", "secret")
//!     .lifetime(Duration::from_secs(60))
//!     .build();
//!
//! let login = Request::post("/automation-api/session/login")
//!     .body(Full::new(Bytes::from(r#"{"username":"emuser","password":"secret"}"#)))?;
//! let answer = emulator.service().oneshot(login).await?;
//! let answer = answer.into_body().collect().await?.to_bytes();
//! let token = serde_json::from_slice::<LoginResult>(&answer)?.token.unwrap();
//!
//! // Sessions expire on tokio's clock, so a test with a paused clock does not wait.
//! tokio::time::advance(Duration::from_secs(60)).await;
//!
//! let servers = Request::get("/automation-api/config/servers")
//!     .header("authorization", format!("Bearer {}", token.expose_secret()))
//!     .body(Empty::<Bytes>::new())?;
//! let answer = emulator.service().oneshot(servers).await?;
//! assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
//!
//! let account = emulator.account();
//! assert_eq!((account.logins, account.expired, account.dead_tokens), (1, 1, 1));
//! # Ok(())
//! # }
//! ```
//!
//! # On a socket
//!
//! [`Emulator::serve`] is for HTTP, [`Emulator::serve_with`] for TLS or any other
//! stream. `cargo run --example emulator -- --help` serves it to clients in any
//! language.
//!
//! # Faults
//!
//! [`Emulator::fault`] queues a [`Fault`] for the next request to an [`Operation`]
//! or a path.
//!
//! # Limits
//!
//! - Where Control-M's documentation is incomplete (whether a lifetime is
//!   absolute or idle, which sessions a password change ends, some texts and
//!   statuses), the emulator has a setting, and its default is a guess.
//! - Roles, API tokens and the rest of the Automation API are not emulated.
//!   Jobs end as soon as they are ordered.
//! - HTTP/1.1 only. Only the last 1000 orders have a status. The account keeps
//!   every folder's name.
//! - It is for tests. Passwords and tokens in its memory are not wiped.

mod account;
mod body;
mod builder;
mod call;
mod fault;
mod handle;
mod operation;
mod path;
mod reply;
mod routes;
mod server;
mod service;
mod settings;
mod state;

pub use account::Account;
pub use body::ResponseBody;
pub use builder::EmulatorBuilder;
pub use call::Call;
pub use fault::{Fault, Target};
pub use handle::Emulator;
pub use operation::Operation;
pub use server::Server;
pub use service::{Closed, EmulatorService};
pub use settings::{PasswordChangeEnds, TokenIn};
