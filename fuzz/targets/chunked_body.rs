//! Chunked bodies: the same result wherever the input is cut, and the same body after encoding it again.
#![no_main]

#[path = "../../crates/http1/tests/common/differential.rs"]
mod differential;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // The first byte is the body's limit (255: none), the next three say where to cut the rest.
    let Some((&[limit, ref cuts @ ..], bytes)) = input.split_first_chunk::<4>() else { return };
    let limit = if limit == u8::MAX { u64::MAX } else { u64::from(limit) };
    differential::check_chunked(bytes, &cuts.map(usize::from), limit);
});
