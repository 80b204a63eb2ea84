mod explore;
#[cfg(feature = "json")]
mod json;
mod rows;
