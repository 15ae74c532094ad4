//! Checks that the line parser returns the same tokens for every chunk size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use token_service::fuzz::lines;

fuzz_target!(|input: (Vec<u8>, u8, u8, bool)| {
    let (bytes, chunk_size, wanted, is_complete) = input;
    let in_one_chunk = lines(&bytes, bytes.len(), wanted.into(), is_complete);
    let in_chunks = lines(&bytes, chunk_size.into(), wanted.into(), is_complete);
    assert_eq!(in_chunks, in_one_chunk);
});
