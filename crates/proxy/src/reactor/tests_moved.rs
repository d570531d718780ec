//! Sockets that are open in two processes, and sessions that are written down in every state that they can be in.

use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::tests_secure::{Line, handshake, pattern};
use super::*;
use crate::moving::bytes::Input;

const KEY: Owner = Owner::Conn(ConnKey { index: 1, stamp: 1 });
const SOON: Option<Duration> = Some(Duration::from_secs(20));

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
}

fn reactor() -> Reactor {
    Reactor::new(Reactor::create_epoll().unwrap())
}

/// Notes all events that have come; how many that were.
fn note(reactor: &mut Reactor, limit: Option<Duration>) -> usize {
    let count = reactor.wait(limit).unwrap();
    (0..count).for_each(|index| {
        reactor.event(index);
    });
    count
}

/// What can be read at the other end: `None` if that is nothing yet, 0 if it is the end.
fn read(far: &OwnedFd) -> Option<usize> {
    match io::read(far, &mut [0_u8; 16]) {
        Ok(count) => Some(count),
        Err(error) => {
            assert_eq!(error, Errno::AGAIN);
            None
        }
    }
}

#[test]
fn who_closes_what_was_sent_ends_it_for_both_processes() {
    let mut reactor = reactor();
    for sent in [true, false] {
        let (near, far) = pair();
        let copy = near.try_clone().unwrap();
        let io = reactor.adopt(near, KEY, false);
        reactor.register(&io).unwrap();
        reactor.begin_numbers();
        assert_eq!(reactor.number(&io), None);
        if sent {
            assert!(reactor.note_number(&io, 7));
            assert_eq!(reactor.number(&io), Some(7));
        }
        reactor.close(io);
        assert_eq!(read(&far), sent.then_some(0));
        drop(copy);
        assert_eq!(read(&far), Some(0));
    }
}

#[test]
fn what_is_closed_here_and_open_elsewhere_brings_no_events_any_more() {
    let mut reactor = reactor();
    let (near, far) = pair();
    let _copy = near.try_clone().unwrap();
    let io = reactor.adopt(near, KEY, false);
    reactor.register(&io).unwrap();
    reactor.begin_numbers();
    assert!(reactor.note_number(&io, 0));
    reactor.close(io);
    drop(far);
    assert_eq!(note(&mut reactor, Some(Duration::ZERO)), 0);
}

#[test]
fn a_number_goes_with_its_socket() {
    let mut reactor = reactor();
    let (near, _far) = pair();
    let io = reactor.adopt(near, KEY, false);
    assert!(!reactor.note_number(&io, 3), "nothing is being moved");
    reactor.begin_numbers();
    assert!(!reactor.note_number(&io, u64::from(u32::MAX)), "too high to be noted");
    assert_eq!(reactor.number(&io), None);
    assert!(reactor.note_number(&io, 3));
    let (_fd, _) = reactor.release(io);
    let (near, _other) = pair();
    let next = reactor.adopt(near, KEY, false);
    assert_eq!(reactor.number(&next), None, "another socket in the same slot was not sent");
    assert!(reactor.note_number(&next, 4));
    reactor.forget_numbers();
    reactor.begin_numbers();
    assert_eq!(reactor.number(&next), None);
}

#[test]
fn what_came_before_a_socket_was_taken_is_known_from_its_first_event() {
    let mut giver = reactor();
    let mut taker = reactor();
    let (near, far) = pair();
    let copy = near.try_clone().unwrap();
    let old = giver.adopt(near, KEY, false);
    giver.register(&old).unwrap();
    io::write(&far, b"before").unwrap();
    note(&mut giver, SOON);
    let new = taker.receive(copy).unwrap();
    assert!(!taker.is_readable(&new) && !taker.is_writable(&new), "nothing is known yet");
    assert_eq!(taker.wait(SOON).unwrap(), 1);
    assert_eq!(taker.event(0), Owner::Nobody);
    assert!(taker.is_readable(&new) && taker.is_writable(&new));
    drop(giver.release(old));
    drop(far);
    assert!(note(&mut taker, SOON) > 0);
    let mut buf = Buf::none();
    crate::buffers::Buffers::default().ensure_small(&mut buf);
    assert_eq!(taker.recv(&new, &mut buf).unwrap(), Received::Bytes(6));
    assert_eq!(taker.recv(&new, &mut buf).unwrap(), Received::End);
}

#[test]
fn what_nobody_wants_is_closed_without_a_word() {
    let (mut giver, mut taker) = (reactor(), reactor());
    let (near, far) = pair();
    let copy = near.try_clone().unwrap();
    let old = giver.adopt(near, KEY, false);
    let new = taker.receive(copy).unwrap();
    taker.discard(new);
    assert_eq!(read(&far), None);
    io::write(&far, b"x").unwrap();
    assert_eq!(note(&mut taker, Some(Duration::ZERO)), 0);
    giver.close(old);
}

impl Line {
    /// Goes on in another reactor, from what was written down. How many bytes that took.
    fn travel(&mut self) -> usize {
        let mut out = Vec::new();
        self.reactor.secure(&self.io).unwrap().write(5, &mut out);
        let facts = Arc::clone(self.reactor.secure(&self.io).unwrap().facts());
        for length in 0..out.len() {
            let cut = Secure::read(&mut Input::new(&out[..length]), |_| Some(Arc::clone(&facts)));
            assert!(cut.is_err(), "{length}");
        }
        let mut input = Input::new(&out);
        let secure = Secure::read(&mut input, |number| (number == 5).then_some(facts)).unwrap();
        assert!(input.is_empty());
        let mut next = reactor();
        let copy = self.io.fd.try_clone().unwrap();
        let io = next.receive(copy).unwrap();
        next.set_owner(&io, KEY);
        next.protect(&io, Box::new(secure));
        let old = std::mem::replace(&mut self.io, io);
        let mut reactor = std::mem::replace(&mut self.reactor, next);
        drop(reactor.release(old));
        self.events();
        out.len()
    }
}

#[test]
fn a_session_at_rest_takes_few_bytes() {
    let (server, _, _) = handshake();
    let secret = if server.facts.suite.number() == 0x1302 { 48 } else { 32 };
    let mut line = Line::new();
    assert_eq!(line.travel(), 3 + 5 + 2 * (8 + secret));
}

#[test]
fn bytes_between_two_states_travel_in_both_directions() {
    let mut line = Line::new();
    let data = pattern(40_000);
    let sealed = line.seal(&data);
    // Part of a record, then records for which there is no room, then the rest.
    let mut got = Vec::new();
    for piece in sealed.chunks(7_001) {
        line.arrive(piece);
        line.travel();
        loop {
            match line.recv(300).unwrap() {
                Received::Bytes(_) => {
                    got.extend_from_slice(line.buf.unread());
                    if got.len() % 1_500 == 0 {
                        line.travel();
                    }
                }
                other => {
                    assert_eq!(other, Received::Blocked);
                    break;
                }
            }
        }
    }
    assert_eq!(got, data);
    assert_eq!(line.reactor.held_bytes(), 0);

    let answer = pattern(3 << 20);
    let (mut sent, mut seen, mut moves) = (0, Vec::new(), 0);
    while sent < answer.len() {
        let count = line.reactor.send(&line.io, &answer[sent..]).unwrap();
        sent += count;
        if !line.reactor.is_writable(&line.io) {
            assert!(line.reactor.has_begun(&line.io));
            line.travel();
            moves += 1;
            assert!(line.reactor.has_begun(&line.io), "what is out in part has begun there, too");
        }
        seen.extend(line.opened().0);
        line.events();
    }
    seen.extend(line.opened().0);
    assert!(moves > 1 && seen == answer);
}

#[test]
fn what_the_peer_has_said_to_the_session_is_known_there() {
    let mut line = Line::new();
    line.travel();
    let mut sealed = line.seal(b"last words");
    line.session.close_notify(&mut sealed);
    line.arrive(&sealed);
    assert_eq!(line.recv(4), Ok(Received::Bytes(4)));
    line.travel();
    assert!(line.reactor.is_readable(&line.io), "no event will come for what was opened already");
    let (rest, end) = line.read_all(100);
    assert_eq!((rest.as_slice(), end), (b" words".as_slice(), Ok(Received::End)));
    line.travel();
    assert_eq!(line.recv(4), Ok(Received::End));
    assert!(line.reactor.finish(&line.io));
    line.travel();
    assert!(line.reactor.finish(&line.io), "it is said once");
    assert_eq!(line.opened(), (Vec::new(), true));
}

#[test]
fn what_came_behind_a_handshake_and_what_is_due_travel() {
    let mut line = Line::with_leftover(b"GET / HTTP/1.1\r\n\r\n");
    line.travel();
    assert_eq!(line.read_all(5).0, b"GET / HTTP/1.1\r\n\r\n");
    // A forged record: the alert is sealed and not sent when it moves.
    let mut forged = line.seal(b"false");
    *forged.last_mut().unwrap() ^= 1;
    line.arrive(&forged);
    assert_eq!(line.recv(100), Err(Errno::PROTO));
    line.travel();
    assert_eq!(line.recv(100), Err(Errno::PROTO));
    let Line { mut reactor, io, far, mut session, .. } = line;
    reactor.close(io);
    let mut bytes = vec![0; 1_000];
    let count = io::read(&far, &mut *bytes).unwrap();
    let error = session.open(&mut bytes[..count], &mut Vec::new()).unwrap_err();
    assert_eq!(error, handover_tls::RecordError::Alert(handover_tls::Alert::BAD_RECORD_MAC));
}

#[test]
fn keys_that_change_are_the_right_ones_after_any_number_of_moves() {
    let mut line = Line::new();
    for turn in 0..20_u8 {
        let mut sealed = Vec::new();
        // The peer changes its key, and wants ours to change: the answer is due when it moves.
        line.session.update_key(turn % 2 == 0, &mut sealed).unwrap();
        sealed.extend(line.seal(&[turn; 100]));
        line.arrive(&sealed);
        line.travel();
        assert_eq!(line.read_all(1_000).0, [turn; 100]);
        line.travel();
        assert_eq!(line.reactor.send(&line.io, &[turn; 50]).unwrap(), 50);
        assert_eq!(line.opened().0, [turn; 50]);
    }
}
