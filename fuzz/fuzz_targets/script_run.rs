//! A script, run on the demo's source and database within limits: its books balance.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = token_service::fuzz::script(text, true);
});
