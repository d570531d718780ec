//! How much ten thousand idle connections are.

use std::net::{IpAddr, Ipv4Addr};

use super::made::{Maker, secure};
use super::rig::{Stage, write};
use crate::conn::state::*;
use crate::reactor::Secure;

/// What an idle connection may cost.
const PLAIN_BYTES: usize = 40;
/// The same over TLS.
const TLS_BYTES: usize = 200;

const COUNT: usize = 10_000;

/// Bytes of a connection that has been open for a day and carried a gigabyte.
fn idle_bytes(secure: impl Fn() -> Option<Secure>) -> usize {
    let mut encoder = begin(2);
    let mut maker = Maker::new(true, false);
    for number in 0..COUNT {
        let mut client = maker.client(3, Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), secure());
        client.socket.number = number as u64 * 2;
        client.age_us = 86_400_000_000;
        let kept = KeptState {
            client,
            unsaid: false,
            placed: true,
            keep_alive: true,
            counted_in: 10_000_000,
            counted_out: 1_000_000_000,
        };
        let waiting = WaitingState { left: 600, inbuf: b"", seen: 0, bytes_in: 0, since_us: 0 };
        Item::Http(HttpState { kept, phase: PhaseState::Waiting(waiting) }).write(&mut encoder);
    }
    let tables = encoder.len();
    end(encoder, tables).len() / COUNT
}

#[test]
fn an_idle_connection_takes_little() {
    let plain = idle_bytes(|| None);
    assert!(plain <= PLAIN_BYTES, "{plain} bytes");
    for (suite, secret_bytes) in [([0x13, 0x01], 32), ([0x13, 0x02], 48)] {
        let tls = idle_bytes(|| Some(secure(suite, secret_bytes, b"")));
        assert!(tls <= TLS_BYTES && tls > 2 * secret_bytes, "{tls} bytes");
    }
}

#[test]
fn one_that_comes_alone_brings_its_names_and_is_still_small() {
    let stage = Stage::new();
    let mut process = stage.process();
    let (conn, _client) = process.connect("web");
    let conn = process.run(conn).unwrap();
    let written = write(&process, [&conn], 2);
    assert!(written.bytes.len() < 64, "{} bytes", written.bytes.len());
    conn.let_go(&mut process.cx);
}

#[test]
fn what_is_read_is_not_much_larger_than_what_it_is_read_from() {
    assert!(size_of::<Parsed<'_>>() <= 256, "{}", size_of::<Parsed<'_>>());
    assert!(size_of::<ParsedIdle<'_>>() <= 64);
}
