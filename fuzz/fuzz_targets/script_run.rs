//! Runs a script on the demo source and database with limits, and checks that its counts add up.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = token_service::fuzz::script(text, true);
});
