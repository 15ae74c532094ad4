//! Parses and validates a configuration file.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = token_service::fuzz::configuration(text);
});
