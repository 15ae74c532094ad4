//! The line parser: however the answer is cut into chunks, the same tokens come out.
#![no_main]

use libfuzzer_sys::fuzz_target;
use token_service::fuzz::lines;

fuzz_target!(|input: (Vec<u8>, u8, u8, bool)| {
    let (bytes, chunk, wanted, whole) = input;
    let at_once = lines(&bytes, bytes.len(), wanted.into(), whole);
    assert_eq!(lines(&bytes, chunk.into(), wanted.into(), whole), at_once);
});
