//! A journal or a report, read as `replay` does.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = token_service::fuzz::journal(bytes);
});
