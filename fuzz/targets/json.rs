#![no_main]

#[allow(dead_code, reason = "one of them is run")]
#[path = "../../tests/fuzz/checks/mod.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::json::secret(input));
