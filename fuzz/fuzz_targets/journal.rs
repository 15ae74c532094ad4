//! Reads a journal or a report in the same way as `replay`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = token_service::fuzz::journal(bytes);
});
