//! What holds for any input. Each is a function that panics where it does not.

pub(crate) mod answers;
pub(crate) mod cookies;
pub(crate) mod credentials;
pub(crate) mod dates;
pub(crate) mod json;
pub(crate) mod origins;
pub(crate) mod scenarios;

/// Runs a future that waits for nothing but threads.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}
