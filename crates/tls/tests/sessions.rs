//! Sessions against rustls: every suite, both sides, every byte compared, while keys change and sessions move.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod peers;

use std::sync::Arc;

use handover_tls::{Established, RecordError, Session, Version};
use peers::{Numbers, Ours, Theirs, World, accept, connect, moved, open, pattern, seal, shake_in_pieces};

/// The sizes of messages.
const SIZES: [usize; 8] = [0, 1, 300, 16_384, 16_385, 65_536, 250_001, 900 * 1024];

/// A key is changed after so many records, by both sides.
const RECORDS_PER_KEY: usize = 50;

/// One connection, with our end and theirs.
struct Talk {
    ours: Session,
    theirs: Theirs,
    numbers: Numbers,
    records: usize,
    moves: usize,
    updates: usize,
    tls13: bool,
}

impl Talk {
    fn new(established: Established, theirs: Theirs, seed: u64) -> Self {
        let mut ours = established.session;
        assert_eq!(open(&mut ours, &established.leftover), b"");
        let tls13 = established.facts.version == Version::Tls13;
        Self { ours, theirs, numbers: Numbers::new(seed), records: 0, moves: 0, updates: 0, tls13 }
    }

    /// Moves our end to another process, now and then.
    fn perhaps_move(&mut self) {
        if self.numbers.below(4) == 0 {
            let mut bytes = Vec::new();
            self.ours.write(&mut bytes);
            self.ours = Session::read(&bytes).unwrap();
            self.moves += 1;
        }
    }

    /// Both sides change their keys when it is time; ours asks for theirs every other time.
    fn perhaps_update(&mut self) {
        if self.tls13 && self.records >= RECORDS_PER_KEY {
            self.records = 0;
            self.updates += 1;
            let mut bytes = Vec::new();
            self.ours.update_key(self.updates.is_multiple_of(2), &mut bytes).unwrap();
            assert_eq!(self.theirs.receive(&bytes).unwrap(), b"");
            self.theirs.0.refresh_traffic_keys().unwrap();
            let bytes = self.theirs.send();
            assert_eq!(open(&mut self.ours, &bytes), b"");
        }
    }

    fn tell(&mut self, plain: &[u8]) {
        let mut received = Vec::new();
        for piece in plain.chunks(RECORDS_PER_KEY * 16_384) {
            self.perhaps_move();
            self.perhaps_update();
            let bytes = seal(&mut self.ours, piece);
            self.records += piece.len().div_ceil(16_384);
            received.extend(self.theirs.receive(&bytes).unwrap());
        }
        assert!(received == plain, "{} bytes to them", plain.len());
    }

    fn hear(&mut self, plain: &[u8]) {
        let mut received = Vec::new();
        for piece in plain.chunks(RECORDS_PER_KEY * 16_384) {
            self.perhaps_update();
            let bytes = self.theirs.say(piece);
            self.records += piece.len().div_ceil(16_384);
            // In pieces that respect nothing; what is no whole record yet waits.
            let mut waiting = Vec::new();
            for part in bytes.chunks(1 + self.numbers.below(30_000)) {
                waiting.extend_from_slice(part);
                self.perhaps_move();
                let done = self.ours.open(&mut waiting, &mut received).unwrap().consumed;
                waiting.drain(..done);
            }
            assert!(waiting.is_empty());
            let mut reply = Vec::new();
            self.ours.take_reply(&mut reply).unwrap();
            assert_eq!(self.theirs.receive(&reply).unwrap(), b"");
        }
        assert!(received == plain, "{} bytes to us", plain.len());
    }

    fn talk(mut self) {
        for (seed, size) in SIZES.into_iter().enumerate() {
            self.tell(&pattern(seed, size));
            self.hear(&pattern(seed + 100, size));
        }
        for seed in 0..200 {
            self.tell(&pattern(seed, seed * 11));
            self.hear(&pattern(seed, seed * 13));
        }
        assert!(self.moves >= 30, "{} moves", self.moves);
        assert!(!self.tls13 || self.updates >= 5, "{} key updates", self.updates);
        self.end();
    }

    /// Each side ends its direction.
    fn end(mut self) {
        let mut bytes = Vec::new();
        self.ours.close_notify(&mut bytes);
        assert_eq!(self.theirs.receive(&bytes).unwrap(), b"");
        assert!(self.theirs.0.process_new_packets().unwrap().peer_has_closed());
        self.theirs.0.send_close_notify();
        let bytes = self.theirs.send();
        self.ours = moved(self.ours);
        assert_eq!(open(&mut self.ours, &bytes), b"");
        assert!(self.ours.peer_has_ended());
    }
}

#[test]
fn a_server_carries_every_byte_with_every_suite_while_keys_change_and_sessions_move() {
    let world = World::new();
    for (seed, suite) in (1..).zip(peers::suites()) {
        let (established, theirs) = accept(world.server(Some(suite)), world.client(Some(suite))).unwrap();
        let expected = format!("{:?}", suite.suite()).replace("TLS13_", "TLS_");
        assert_eq!(established.facts.suite.name(), expected);
        Talk::new(*established, theirs, seed).talk();
    }
}

#[test]
fn a_client_carries_every_byte_with_every_suite_while_keys_change_and_sessions_move() {
    let world = World::new();
    for (seed, suite) in (21..).zip(peers::suites()) {
        let server = Arc::new(world.server(Some(suite)));
        let (established, theirs) = connect(world.client(Some(suite)), &server).unwrap();
        Talk::new(*established, theirs, seed).talk();
    }
}

/// A version of each kind, for tests that take long.
fn two_suites() -> [rustls::SupportedCipherSuite; 2] {
    use rustls::crypto::aws_lc_rs::cipher_suite as suite;
    [suite::TLS13_AES_128_GCM_SHA256, suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]
}

/// The handshake and a request that follows it at once, cut in two at `cut`; false when the stream was shorter.
fn accept_with_request(world: &World, suite: rustls::SupportedCipherSuite, cut: usize) -> bool {
    let (server, client) = (world.server(Some(suite)), world.client(Some(suite)));
    let (mut ours, mut theirs) = (Ours::server(server), Theirs::client(client));
    std::io::Write::write_all(&mut theirs.0.writer(), b"request").unwrap();
    let mut seen = 0;
    let mut was_cut = false;
    let (established, _) = shake_in_pieces(&mut ours, &mut theirs, Vec::new(), |bytes| {
        let at = cut.saturating_sub(seen).min(bytes.len());
        was_cut |= at > 0 && at < bytes.len();
        seen += bytes.len();
        let (first, second) = bytes.split_at(at);
        [first, second].into_iter().filter(|piece| !piece.is_empty()).map(<[u8]>::to_vec).collect()
    })
    .unwrap();
    let Established { mut session, leftover, .. } = *established;
    assert_eq!(open(&mut session, &leftover), b"request", "cut at {cut}");
    assert_eq!(theirs.receive(&seal(&mut session, b"answer")).unwrap(), b"answer");
    was_cut || cut < seen
}

#[test]
fn the_stream_of_a_handshake_may_be_cut_at_every_byte_and_nothing_behind_it_is_lost() {
    let world = World::new();
    for suite in two_suites() {
        let mut cut = 0;
        while accept_with_request(&world, suite, cut) {
            cut += 1;
        }
        assert!(cut > 200, "{cut} bytes");
    }
}

#[test]
fn a_handshake_may_come_byte_by_byte() {
    let world = World::new();
    for suite in two_suites() {
        let (server, client) = (world.server(Some(suite)), world.client(Some(suite)));
        let (mut ours, mut theirs) = (Ours::server(server), Theirs::client(client));
        std::io::Write::write_all(&mut theirs.0.writer(), b"request").unwrap();
        let single = |bytes: Vec<u8>| bytes.into_iter().map(|byte| vec![byte]).collect();
        let (established, _) = shake_in_pieces(&mut ours, &mut theirs, Vec::new(), single).unwrap();
        let Established { mut session, leftover, .. } = *established;
        assert_eq!(open(&mut session, &leftover), b"request");
    }
}

#[test]
fn a_client_loses_nothing_that_a_server_says_before_it_is_asked() {
    let world = World::new();
    let mut server = world.server(Some(two_suites()[0]));
    server.send_half_rtt_data = true;
    let server = Arc::new(server);
    let mut client = world.client(None);
    handover_tls::prepare_client(&mut client);
    let client = Arc::new(client);
    for size in [1, 3, 7, 100, 1_000, 100_000] {
        let mut hello = Vec::new();
        let connecting =
            handover_tls::Connecting::new(Arc::clone(&client), peers::name(), &mut hello).unwrap();
        let (mut ours, mut theirs) = (Ours::Client(connecting), Theirs::server_of(&server));
        std::io::Write::write_all(&mut theirs.0.writer(), b"welcome").unwrap();
        let pieces = |bytes: Vec<u8>| bytes.chunks(size).map(<[u8]>::to_vec).collect();
        let (established, _) = shake_in_pieces(&mut ours, &mut theirs, hello, pieces).unwrap();
        let Established { mut session, leftover, .. } = *established;
        assert_eq!(open(&mut session, &leftover), b"welcome");
        assert_eq!(theirs.receive(&seal(&mut session, b"thanks")).unwrap(), b"thanks");
    }
}

#[test]
fn a_stream_of_records_may_be_cut_at_every_byte() {
    let world = World::new();
    for suite in two_suites() {
        let (established, mut theirs) = accept(world.server(Some(suite)), world.client(Some(suite))).unwrap();
        let session = established.session;
        let mut bytes = theirs.say(b"first");
        if session.version() == Version::Tls13 {
            theirs.0.refresh_traffic_keys().unwrap();
        }
        bytes.extend(theirs.say(b""));
        bytes.extend(theirs.say(&pattern(1, 700)));
        let mut state = Vec::new();
        session.write(&mut state);
        for cut in 0..=bytes.len() {
            let (mut session, mut plain, mut bytes) =
                (Session::read(&state).unwrap(), Vec::new(), bytes.clone());
            let first = session.open(&mut bytes[..cut], &mut plain).unwrap().consumed;
            session = moved(session);
            let second = session.open(&mut bytes[first..], &mut plain).unwrap().consumed;
            assert_eq!(first + second, bytes.len());
            assert!(plain == [b"first".to_vec(), pattern(1, 700)].concat(), "cut at {cut}");
        }
    }
}

#[test]
fn an_answer_to_a_key_update_goes_before_the_next_data() {
    let world = World::new();
    let (established, mut theirs) = accept(world.server(None), world.client(None)).unwrap();
    let mut session = established.session;
    theirs.0.refresh_traffic_keys().unwrap();
    let bytes = theirs.send();
    assert_eq!(open(&mut session, &bytes), b"");
    assert!(session.has_reply());
    session = moved(session);
    assert!(session.has_reply());
    assert_eq!(theirs.receive(&seal(&mut session, b"data")).unwrap(), b"data");
    assert!(!session.has_reply());
}

#[test]
fn what_we_refuse_with_is_understood() {
    let world = World::new();
    for suite in two_suites() {
        let (established, mut theirs) = accept(world.server(Some(suite)), world.client(Some(suite))).unwrap();
        let mut session = established.session;
        let mut bytes = theirs.say(b"data");
        *bytes.last_mut().unwrap() ^= 1;
        let error = session.open(&mut bytes, &mut Vec::new()).unwrap_err();
        assert_eq!(error, RecordError::Damaged);
        let mut out = Vec::new();
        session.refuse(error, &mut out);
        let told = theirs.receive(&out).unwrap_err();
        assert_eq!(told, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
    }
}
