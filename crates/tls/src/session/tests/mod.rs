//! Tests of the record layer: two ends of a session that were made from chosen secrets.

mod answers;
mod limits;
mod messages;
mod properties;
mod state;

use super::*;
use crate::keys::Secret;

/// All suites.
const SUITES: [u16; 9] = [0x1301, 0x1302, 0x1303, 0xc02b, 0xc02c, 0xc02f, 0xc030, 0xcca8, 0xcca9];

fn suite(number: u16) -> Suite {
    Suite::from_number(number).unwrap()
}

/// One direction, with secrets that `seed` stands for.
fn direction(suite: Suite, seed: u8, number: u64) -> Direction {
    match suite.version() {
        Version::Tls13 => {
            Direction::tls13(suite, number, Secret::new(&vec![seed; suite.secret_bytes()]).unwrap()).unwrap()
        }
        Version::Tls12 => {
            let key = Secret::new(&vec![seed; suite.cipher().key_bytes()]).unwrap();
            Direction::tls12(suite, number, key, [seed; 12]).unwrap()
        }
    }
}

/// The client's and the server's end, with the numbers of their next records.
fn pair_at(number: u16, client: u64, server: u64) -> (Session, Session) {
    let suite = suite(number);
    (
        Session::new(suite, Side::Client, direction(suite, 2, server), direction(suite, 1, client)),
        Session::new(suite, Side::Server, direction(suite, 1, client), direction(suite, 2, server)),
    )
}

fn pair(number: u16) -> (Session, Session) {
    pair_at(number, 0, 0)
}

fn sealed(session: &mut Session, plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    session.seal(plain, &mut out).unwrap();
    out
}

/// A record of any content type, with zeros behind it where that can be.
fn record_of(session: &mut Session, content_type: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![0; content.len() + OVERHEAD_BYTES];
    let written = record::seal(
        session.suite,
        &mut session.writing,
        content_type,
        record::Content::Whole(content),
        &mut out,
    );
    out.truncate(written.unwrap());
    out
}

fn opened(session: &mut Session, bytes: &[u8]) -> Result<Vec<u8>, RecordError> {
    let (mut bytes, mut plain) = (bytes.to_vec(), Vec::new());
    let progress = session.open(&mut bytes, &mut plain)?;
    assert_eq!((progress.consumed, progress.plain), (bytes.len(), plain.len()));
    Ok(plain)
}

fn reply(session: &mut Session) -> Vec<u8> {
    let mut out = Vec::new();
    session.take_reply(&mut out).unwrap();
    out
}

/// Bytes that differ from place to place.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 7 + at / 251) % 256).unwrap()).collect()
}
