//! Bytes that nobody has written: an error, or connections that work or end, and never a panic.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use proptest::prelude::*;

use super::made::{CONFIG, Maker};
use super::rig::{KEY, Process, end, pair, say};
use crate::conn::state::{FORMATS, StateError, read};
use crate::conn::{Conn, Fate};
use crate::reactor::Io;

/// Runs of a connection that has become something nobody has meant.
const RUNS: usize = 20;

/// Reads bytes; what can be read is the same when it is written and read again.
fn read_again(format: u16, bytes: &[u8]) -> Result<(), StateError> {
    let written = read(format, bytes)?.write(format);
    let again = read(format, &written).expect("what was written");
    assert_eq!(again.write(format), written);
    Ok(())
}

/// Makes connections of what can be read, and lets them meet a client and an endpoint that say something and go.
fn live(process: &mut Process, format: u16, bytes: &[u8]) -> usize {
    let Ok(section) = read(format, bytes) else { return 0 };
    let Ok(places) = section.places(&process.cx) else { return 0 };
    let mut far: HashMap<u64, OwnedFd> = HashMap::new();
    let reactors: Vec<_> = (0..2 * section.conns.len()).map(|_| pair()).collect();
    let mut near = reactors.into_iter().map(|(near, other)| {
        far.insert(far.len() as u64, other);
        process.cx.reactor.receive(near).unwrap()
    });
    let ios: Vec<Io> = near.by_ref().collect();
    drop(near);
    let mut ios = ios.into_iter();
    let mut alive = 0;
    for parsed in section.conns {
        let conn = parsed.into_conn(&places, &mut process.cx, KEY, &mut |_| ios.next()).unwrap();
        alive += 1;
        for fd in far.values() {
            say(fd, b"GET / HTTP/1.1\r\n\r\n");
        }
        let Some(conn) = runs(process, conn) else { continue };
        far.values().for_each(end);
        let Some(mut conn) = runs(process, conn) else { continue };
        let _ = conn.show(&process.cx);
        match conn.expire(&mut process.cx) {
            Fate::Over(end) => conn.close(end, &mut process.cx),
            _ => conn.close(crate::conn::End::Cut, &mut process.cx),
        }
    }
    ios.for_each(|io| process.cx.reactor.discard(io));
    assert_eq!((process.active(), process.in_use()), (0, 0));
    assert_eq!(process.cx.buffers.bytes_out(), 0);
    alive
}

fn runs(process: &mut Process, mut conn: Conn) -> Option<Conn> {
    for _ in 0..RUNS {
        process.events();
        match conn.run(&mut process.cx) {
            Fate::Over(end) => {
                conn.close(end, &mut process.cx);
                return None;
            }
            Fate::Upgraded => {
                let Conn::Http(http) = conn else { panic!("only HTTP is upgraded") };
                conn = Conn::Tunnel(Box::new(http.into_tunnel(&mut process.cx).unwrap()));
            }
            Fate::Parked | Fate::Again | Fate::Later => {}
        }
    }
    Some(conn)
}

#[test]
fn states_made_by_hand_live() {
    let mut process = Process::new(CONFIG);
    for format in FORMATS {
        let bytes = Maker::new(true, false).section().write(format);
        assert_eq!(live(&mut process, format, &bytes), 8);
    }
    let bytes = Maker::newest(false).section().write(3);
    assert_eq!(live(&mut process, 3, &bytes), 10);
}

#[test]
fn what_is_cut_short_or_goes_on_is_refused() {
    for format in FORMATS {
        let whole = Maker::of(format, true).section().write(format);
        for length in 0..whole.len() {
            assert!(read(format, &whole[..length]).is_err(), "{length} of {}", whole.len());
        }
        assert!(read(format, &[whole.as_slice(), &[0]].concat()).is_err());
    }
}

#[test]
fn any_single_bit_may_be_wrong() {
    let mut process = Process::new(CONFIG);
    for format in FORMATS {
        let whole = Maker::of(format, true).section().write(format);
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let _ = read_again(format, &bytes);
        }
        let plain = Maker::of(format, false).section().write(format);
        let mut alive = 0;
        for bit in (0..plain.len() * 8).step_by(5) {
            let mut bytes = plain.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            alive += live(&mut process, format, &bytes);
        }
        assert!(alive > 1_000, "{alive}");
    }
}

proptest! {
    #[test]
    fn any_bytes_can_be_read(format in 0_u16..5, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_again(format, &bytes);
    }

    /// Bytes behind a header that is right, and tables that are.
    #[test]
    fn any_bytes_can_stand_where_connections_do(
        format in 1_u16..4,
        kind in 0_u8..6,
        bytes in proptest::collection::vec(prop_oneof![0_u8..4, any::<u8>()], 0..120),
    ) {
        let tables = {
            let whole = Maker::of(format, true).section().write(format);
            let at = u64::from_be_bytes(*whole.first_chunk().unwrap());
            whole[usize::try_from(at).unwrap()..].to_vec()
        };
        let at = 9 + bytes.len() as u64;
        let _ = read_again(format, &[&at.to_be_bytes()[..], &[kind], &bytes, &tables].concat());
    }

    #[test]
    fn any_few_bytes_may_be_others(
        format in 1_u16..4,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = Maker::of(format, false).section().write(format);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = read_again(format, &bytes);
        live(&mut Process::new(CONFIG), format, &bytes);
    }
}
