//! Response heads: what is sent to the client is the response that the upstream sent.
#![no_main]

#[path = "../../crates/http1/tests/common/differential.rs"]
mod differential;

use handover_http1::Asked;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((asked, bytes)) = input.split_first() else { return };
    differential::check_response_head(bytes, Asked { head: asked & 1 != 0, upgrade: asked & 2 != 0 });
});
