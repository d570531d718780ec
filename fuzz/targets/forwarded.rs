//! The differential check: what is forwarded for a request is read, by a parser as strict as the first and by a slow
//! and simple notion of it, as the message that came.
#![no_main]

#[path = "../../crates/http1/tests/common/differential.rs"]
mod differential;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| differential::check_request_head(input));
