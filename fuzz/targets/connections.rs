//! Connections read from any bytes: no panic, and what can be read is the same when it is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &[u8])| {
    let (format, bytes) = input;
    handover_proxy::fuzzing::read_connections(format, bytes);
});
