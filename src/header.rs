//! Header names from anything that `http` makes one of.

use http::HeaderName;

/// Converts a header name.
///
/// # Panics
///
/// If it is not a header name.
#[track_caller]
pub(crate) fn expect_name<N>(name: N) -> HeaderName
where
    N: TryInto<HeaderName>,
    N::Error: Into<http::Error>,
{
    match name.try_into() {
        Ok(name) => name,
        Err(error) => panic!("{}", error.into()),
    }
}
