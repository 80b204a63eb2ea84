//! What the lock-free part of a session is made of, and what runs its tasks.
//!
//! With `--cfg reauth_loom` the unit tests put other parts here, which loom
//! sees: it runs what is built of them in every order that the memory model
//! allows. See `session/model.rs`.

#[cfg(all(test, reauth_loom))]
pub(crate) mod model;
#[cfg(not(all(test, reauth_loom)))]
mod real;

#[cfg(all(test, reauth_loom))]
pub(crate) use model::*;
#[cfg(not(all(test, reauth_loom)))]
pub(crate) use real::*;
