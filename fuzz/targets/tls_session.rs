//! A session read from any state, which then opens any bytes: no panic, and the state is what was read.
#![no_main]

use handover_tls::Session;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], Vec<u8>)| {
    let (state, mut bytes) = input;
    let Ok(mut session) = Session::read(state) else { return };
    let mut written = Vec::new();
    session.write(&mut written);
    assert_eq!(written, state);
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    if let Err(error) = session.open(&mut bytes, &mut plain) {
        session.refuse(error, &mut out);
    }
    let _ = session.take_reply(&mut out);
    let _ = session.seal(&plain, &mut out);
    session.close_notify(&mut out);
});
