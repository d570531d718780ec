//! Reads and writes over TLS: nothing is forgotten, nothing is invented, and no event is waited for that does not come.

use std::sync::Arc;
use std::time::Duration;

use handover_tls::{Accepting, Connecting, Established, Fed, prepare_client, prepare_server};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::*;
use crate::buffers::Buffers;

const KEY: Owner = Owner::Conn(ConnKey { index: 1, stamp: 1 });
const SOON: Option<Duration> = Some(Duration::from_secs(20));

/// A handshake in memory: the server's end and the client's, and the tickets that are still to be sent to that.
pub(super) fn handshake() -> (Established, Established, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    prepare_server(&mut server);
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    prepare_client(&mut client);
    let mut to_server = Vec::new();
    let name = ServerName::try_from("a.test").unwrap();
    let mut connecting = Connecting::new(Arc::new(client), name, &mut to_server).unwrap();
    let mut accepting = Accepting::new(Arc::new(server)).unwrap();
    let (mut near, mut far, mut tickets) = (None, None, Vec::new());
    while near.is_none() || far.is_none() {
        let mut to_client = Vec::new();
        if let Fed::Done(done) = accepting.feed(&std::mem::take(&mut to_server), &mut to_client).unwrap() {
            near = Some(*done);
        }
        if far.is_none()
            && let Fed::Done(done) = connecting.feed(&to_client, &mut to_server).unwrap()
        {
            far = Some(*done);
        } else {
            tickets = to_client;
        }
    }
    (near.unwrap(), far.unwrap(), tickets)
}

/// A reactor with one end of a connection over TLS, and a test that holds the other.
pub(super) struct Line {
    pub(super) reactor: Reactor,
    pub(super) io: Io,
    pub(super) far: OwnedFd,
    pub(super) session: handover_tls::Session,
    buffers: Buffers,
    pub(super) buf: Buf,
    /// Ciphertext that the far end has read and not opened.
    unread: Vec<u8>,
}

impl Line {
    pub(super) fn new() -> Self {
        Self::with_leftover(b"")
    }

    /// `leftover` came right behind the handshake.
    pub(super) fn with_leftover(leftover: &[u8]) -> Self {
        let (near, far) = net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let (server, mut client, tickets) = handshake();
        let mut received = Vec::new();
        client.session.seal(leftover, &mut received).unwrap();
        let mut reactor = Reactor::new(Reactor::create_epoll().unwrap());
        let io = reactor.adopt(near, KEY, false);
        reactor.register(&io).unwrap();
        let secure = Secure::new(server.session, Arc::new(server.facts), received, tickets);
        reactor.protect(&io, Box::new(secure));
        let (buffers, buf) = (Buffers::default(), Buf::none());
        let mut line = Self { reactor, io, far, session: client.session, buffers, buf, unread: Vec::new() };
        line.events();
        line.reactor.flush(&line.io);
        assert_eq!(line.opened(), (Vec::new(), false), "tickets are nobody's business");
        line
    }

    /// Takes the events that have come.
    pub(super) fn events(&mut self) -> usize {
        let count = self.reactor.wait(Some(Duration::ZERO)).unwrap();
        for index in 0..count {
            self.reactor.event(index);
        }
        count
    }

    fn wait(&mut self) {
        let count = self.reactor.wait(SOON).unwrap();
        assert!(count > 0, "an event must come");
        for index in 0..count {
            self.reactor.event(index);
        }
    }

    pub(super) fn seal(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.session.seal(plain, &mut out).unwrap();
        out
    }

    /// The far end writes these bytes as they are.
    pub(super) fn arrive(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = &rest[io::write(&self.far, rest).unwrap()..];
        }
        self.wait();
    }

    /// Reads once, into a buffer with this much room.
    pub(super) fn recv(&mut self, room: usize) -> io::Result<Received> {
        self.buffers.ensure_small(&mut self.buf);
        let filled = self.buf.capacity() - room;
        self.buf.clear();
        self.buf.tail().resize(filled, 0);
        self.buf.advance(filled);
        self.reactor.recv(&self.io, &mut self.buf)
    }

    /// Reads until nothing more can be, and says how that ended.
    pub(super) fn read_all(&mut self, room: usize) -> (Vec<u8>, io::Result<Received>) {
        let mut all = Vec::new();
        loop {
            assert_eq!(self.buf.capacity().max(1 << 14), 1 << 14, "the caller's buffer never grows");
            let readable = self.reactor.is_readable(&self.io);
            match self.recv(room) {
                Ok(Received::Bytes(count)) => {
                    assert!(readable && count > 0 && count <= room);
                    assert_eq!(count, self.buf.len());
                    all.extend_from_slice(self.buf.unread());
                }
                other => return (all, other),
            }
        }
    }

    /// What the far end can read and open now; whether the end was said.
    pub(super) fn opened(&mut self) -> (Vec<u8>, bool) {
        let mut chunk = vec![0; 1 << 20];
        while let Ok(count @ 1..) = io::read(&self.far, &mut *chunk) {
            self.unread.extend_from_slice(&chunk[..count]);
        }
        let mut plain = Vec::new();
        let progress = self.session.open(&mut self.unread, &mut plain).unwrap();
        self.unread.drain(..progress.consumed);
        (plain, progress.closed)
    }
}

pub(super) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

#[test]
fn a_record_larger_than_the_room_is_given_in_pieces_without_another_event() {
    for room in [1, 100, 5_000, 16_383, 16_384] {
        let mut line = Line::new();
        let data = pattern(16_384 + 3_000);
        let sealed = line.seal(&data);
        line.arrive(&sealed);
        assert_eq!(line.read_all(room), (data, Ok(Received::Blocked)), "room for {room}");
        assert!(!line.reactor.is_readable(&line.io));
        assert_eq!(line.reactor.held_bytes(), 0);
    }
}

#[test]
fn records_that_come_byte_by_byte_are_given_as_soon_as_they_are_whole() {
    let mut line = Line::new();
    let mut sealed = line.seal(b"one");
    sealed.extend(line.seal(b"two"));
    let mut got = Vec::new();
    for byte in sealed {
        line.arrive(&[byte]);
        let (some, end) = line.read_all(1_000);
        assert_eq!(end, Ok(Received::Blocked));
        if !some.is_empty() {
            got.push(some);
        }
    }
    assert_eq!(got, [b"one".to_vec(), b"two".to_vec()]);
    assert_eq!(line.reactor.held_bytes(), 0);
}

#[test]
fn what_came_behind_the_handshake_is_readable_before_any_event() {
    let mut line = Line::with_leftover(b"GET / HTTP/1.1\r\n\r\n");
    assert!(line.reactor.is_readable(&line.io));
    assert_eq!(line.read_all(5).0, b"GET / HTTP/1.1\r\n\r\n");
    assert!(!line.reactor.is_readable(&line.io));
}

#[test]
fn an_end_that_comes_with_data_is_read_after_it_and_stays() {
    let mut line = Line::new();
    let mut sealed = line.seal(b"last words");
    line.session.close_notify(&mut sealed);
    line.arrive(&sealed);
    assert_eq!(line.read_all(4), (b"last words".to_vec(), Ok(Received::End)));
    assert!(line.reactor.is_readable(&line.io));
    assert_eq!(line.recv(10), Ok(Received::End));
    assert!(!line.reactor.is_quiet(&line.io));
}

#[test]
fn an_end_that_was_not_announced_is_an_error_after_all_that_came() {
    let mut line = Line::new();
    let sealed = line.seal(b"half an answ");
    line.arrive(&sealed);
    net::shutdown(&line.far, net::Shutdown::Both).unwrap();
    line.events();
    assert_eq!(line.read_all(4), (b"half an answ".to_vec(), Err(Errno::CONNRESET)));
}

#[test]
fn a_forged_record_ends_the_connection_with_an_alert() {
    let mut line = Line::new();
    let mut sealed = line.seal(b"true");
    let mut forged = line.seal(b"false");
    *forged.last_mut().unwrap() ^= 1;
    sealed.extend(forged);
    line.arrive(&sealed);
    assert_eq!(line.read_all(100), (b"true".to_vec(), Err(Errno::PROTO)));
    assert_eq!(line.recv(10), Err(Errno::PROTO));
    let Line { mut reactor, io, far, mut session, .. } = line;
    reactor.close(io);
    let mut bytes = vec![0; 1_000];
    let count = io::read(&far, &mut *bytes).unwrap();
    let error = session.open(&mut bytes[..count], &mut Vec::new()).unwrap_err();
    assert_eq!(error, handover_tls::RecordError::Alert(handover_tls::Alert::BAD_RECORD_MAC));
}

#[test]
fn a_large_text_passes_a_full_socket_unharmed_and_little_of_it_is_held() {
    let mut line = Line::new();
    let head = pattern(300);
    let body = pattern(3 << 20);
    let whole = [&*head, &*body].concat();
    let (mut sent, mut got, mut rounds) = (0, Vec::new(), 0);
    while got.len() < whole.len() {
        let (first, second) = match head.get(sent..) {
            Some(rest) => (rest, &*body),
            None => (&[][..], &body[sent - head.len()..]),
        };
        // At most a large buffer at once, as callers do.
        let second = &second[..second.len().min(128 * 1024)];
        let wanted = first.len() + second.len();
        let count = line.reactor.send_two(&line.io, first, second).unwrap();
        assert!(count <= wanted);
        sent += count;
        if count < wanted {
            assert!(!line.reactor.is_writable(&line.io), "an event will come");
            assert_eq!(line.reactor.send_two(&line.io, first, second), Ok(0));
            assert!(line.reactor.held_bytes() <= 80 * 1024, "{} bytes", line.reactor.held_bytes());
            got.extend(line.opened().0);
            line.wait();
            rounds += 1;
        } else if wanted == 0 {
            got.extend(line.opened().0);
        }
    }
    assert!(rounds > 3, "the socket was never full");
    assert_eq!((sent, got == whole), (whole.len(), true));
    assert_eq!(line.reactor.held_bytes(), 0);
}

/// Fills the socket, and says how much of this was taken, to be forgotten or not.
fn fill(line: &mut Line, chunk: &[u8]) -> usize {
    let mut taken = 0;
    while line.reactor.is_writable(&line.io) {
        taken += line.reactor.send(&line.io, chunk).unwrap();
    }
    taken
}

#[test]
fn what_is_out_in_part_has_begun() {
    let mut line = Line::new();
    assert!(!line.reactor.has_begun(&line.io));
    // More than the socket takes, in its first piece or a later one.
    let chunk = pattern(50_000);
    let mut last = chunk.len();
    while line.reactor.is_writable(&line.io) {
        last = line.reactor.send(&line.io, &chunk).unwrap();
    }
    assert_eq!((last, line.reactor.has_begun(&line.io)), (0, true));
}

#[test]
fn who_changes_his_mind_sends_what_is_sealed_and_then_what_he_means() {
    let mut line = Line::new();
    let chunk = pattern(50_000);
    let taken = fill(&mut line, &chunk);
    line.reactor.disown(&line.io);
    let (mut got, mut sent) = (Vec::new(), 0);
    while sent < b"something else".len() {
        got.extend(line.opened().0);
        line.wait();
        sent += line.reactor.send(&line.io, &b"something else"[sent..]).unwrap();
    }
    got.extend(line.opened().0);
    let mut expected: Vec<u8> = chunk.iter().copied().cycle().take(taken + chunk.len()).collect();
    expected.extend(b"something else");
    assert!(got == expected);
}

#[test]
fn the_last_words_wait_until_the_socket_takes_them() {
    let mut line = Line::new();
    let chunk = pattern(50_000);
    let taken = fill(&mut line, &chunk);
    line.reactor.disown(&line.io);
    assert!(!line.reactor.finish(&line.io), "the socket is full");
    let mut got = Vec::new();
    while !line.reactor.finish(&line.io) {
        got.extend(line.opened().0);
        line.wait();
    }
    let (rest, closed) = line.opened();
    got.extend(rest);
    assert!(closed, "close_notify came, behind everything else");
    assert!(got.len() == taken + chunk.len() && got.chunks(chunk.len()).all(|part| part == chunk));
    assert_eq!(io::read(&line.far, &mut [0_u8; 1]), Ok(0), "and then the end of the stream");
    assert!(line.reactor.finish(&line.io), "said once");
}

#[test]
fn a_file_is_sealed_piece_by_piece() {
    let mut line = Line::new();
    let data = pattern(1_000_000);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("f"), &data).unwrap();
    let file = std::fs::File::open(directory.path().join("f")).unwrap();
    let (mut offset, mut got) = (10, Vec::new());
    while offset < 900_000 {
        let left = usize::try_from(900_000 - offset).unwrap();
        let before = offset;
        let count = line.reactor.send_file(&line.io, &file, &mut offset, left.min(256 * 1024)).unwrap();
        assert_eq!(before + count as u64, offset);
        got.extend(line.opened().0);
        if count == 0 {
            assert!(!line.reactor.is_writable(&line.io));
            line.wait();
        }
        line.events();
    }
    got.extend(line.opened().0);
    assert!(got == data[10..900_000]);
    // Shorter than promised.
    let mut offset = 1_000_000;
    assert_eq!(line.reactor.send_file(&line.io, &file, &mut offset, 10), Ok(0));
    assert!(line.reactor.is_writable(&line.io));
}

#[test]
fn a_kept_connection_is_quiet_while_only_the_session_is_spoken_to() {
    let mut line = Line::new();
    assert!(line.reactor.is_quiet(&line.io));
    let mut update = Vec::new();
    line.session.update_key(true, &mut update).unwrap();
    line.arrive(&update);
    assert!(line.reactor.is_quiet(&line.io), "a key update is nobody's business");
    // What it asked for goes out with what is sent next.
    assert_eq!(line.reactor.send(&line.io, b"hello"), Ok(5));
    assert_eq!(line.opened().0, b"hello");
    let sealed = line.seal(b"unasked");
    line.arrive(&sealed);
    assert!(!line.reactor.is_quiet(&line.io));
    assert_eq!(line.read_all(100).0, b"unasked", "and it is not lost");
}

#[test]
fn a_connection_in_the_middle_of_a_record_is_not_quiet() {
    let mut line = Line::new();
    let record = line.seal(b"what nobody asked for");
    line.arrive(&record[..10]);
    for _ in 0..2 {
        // Also once it has been read.
        assert!(!line.reactor.is_quiet(&line.io));
    }
}

#[test]
fn what_is_cut_short_is_not_said_to_end() {
    for cut in [false, true] {
        let mut line = Line::new();
        if cut {
            line.reactor.cut(&line.io);
        }
        let Line { mut reactor, io, far, mut session, mut unread, .. } = line;
        reactor.close(io);
        let mut chunk = [0; 100];
        while let Ok(count @ 1..) = io::read(&far, &mut chunk) {
            unread.extend_from_slice(&chunk[..count]);
        }
        let progress = session.open(&mut unread, &mut Vec::new()).unwrap();
        assert_eq!(progress.closed, !cut);
    }
}

#[test]
fn a_connection_takes_its_session_along() {
    let mut line = Line::new();
    let sealed = line.seal(b"in two parts");
    line.arrive(&sealed[..7]);
    assert_eq!(line.read_all(100), (Vec::new(), Ok(Received::Blocked)));
    let (fd, secure) = line.reactor.release(line.io);
    assert_eq!(line.reactor.held_bytes(), 0);
    line.io = line.reactor.adopt(fd, KEY, true);
    assert!(line.reactor.secure(&line.io).is_none());
    line.reactor.protect(&line.io, secure.unwrap());
    line.reactor.register(&line.io).unwrap();
    line.arrive(&sealed[7..]);
    assert_eq!(line.read_all(100).0, b"in two parts");
}
