//! Request heads: nothing panics, and a head is found at the same place however its bytes arrive.
#![no_main]

#[path = "../../crates/http1/tests/common/differential.rs"]
mod differential;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // The first two bytes say where to cut the rest.
    let Some((cuts, bytes)) = input.split_first_chunk::<2>() else { return };
    differential::check_head_arrival(bytes, &cuts.map(usize::from));
});
