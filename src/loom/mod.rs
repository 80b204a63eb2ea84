//! The primitives of the lock-free part of a session, and the spawning of its
//! tasks.
//!
//! With `--cfg reauth_loom` the unit tests use mocked primitives, which loom can
//! see: it runs the code in every order that the memory model allows. See
//! `session/driver/loom_tests.rs`.

#[cfg(all(test, reauth_loom))]
pub(crate) mod mocked;
#[cfg(not(all(test, reauth_loom)))]
mod std;

#[cfg(all(test, reauth_loom))]
pub(crate) use self::mocked::*;
#[cfg(not(all(test, reauth_loom)))]
pub(crate) use self::std::*;
