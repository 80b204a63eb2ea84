//! Tower middleware for HTTP APIs with login sessions.

#[cfg(feature = "controlm")]
pub mod controlm;
