//! Whatever stands in a file of scenarios is a scenario or an error.

#[allow(dead_code, unused_imports, reason = "only the reader is used")]
#[path = "../../scenarios/runner/format.rs"]
mod format;
#[allow(dead_code, unused_imports, reason = "only the reader is used")]
#[path = "../../scenarios/runner/values.rs"]
mod values;

pub(crate) fn scenario(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Err(error) = format::Scenario::read(&text) {
        assert!(!error.is_empty());
    }
}
