//! The channel between two ends in one process: messages and descriptors of every size, pieces that are missing,
//! broken or too many, and ends that go away.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::thread;

use handover_testkit::is_alone;
use proptest::prelude::*;
use serde::Deserialize;

use super::frame::{
    BODY_IN_MEMFD, CONTINUES, HEADER_BYTES, Header, MAX_FDS_PER_MESSAGE, MAX_INLINE_BODY_BYTES, split,
};
use super::*;

/// Far longer than anything here takes; reached only when something hangs.
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Text(String);

type Ends = Pair<Text, Text>;

fn pair() -> Ends {
    Channel::pair().unwrap()
}

fn text(length: usize) -> Text {
    Text("x".repeat(length))
}

/// Pipes as descriptors that can be told apart: what goes in at one end must come out at the other.
fn pipes(count: usize) -> (Vec<File>, Vec<OwnedFd>) {
    let pipes = (0..count).map(|_| std::io::pipe().unwrap());
    pipes.map(|(read, write)| (File::from(OwnedFd::from(read)), OwnedFd::from(write))).unzip()
}

fn borrow(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}

fn assert_connected(read: &mut [File], write: Vec<OwnedFd>) {
    assert_eq!(read.len(), write.len());
    for (number, (read, write)) in (0_u32..).zip(read.iter_mut().zip(write)) {
        let flags = rustix::io::fcntl_getfd(&write).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "descriptor {number} is not close-on-exec");
        File::from(write).write_all(&number.to_le_bytes()).unwrap();
        let mut bytes = [0; 4];
        read.read_exact(&mut bytes).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), number, "descriptors arrived in another order");
    }
}

#[test]
fn messages_arrive_in_order_with_their_descriptors() {
    let (a, b) = pair();
    let (mut read, write) = pipes(3);
    a.send(&text(10), &borrow(&write), LIMIT).unwrap();
    a.send(&text(20), &[], LIMIT).unwrap();
    let (first, fds) = b.recv(Some(LIMIT)).unwrap();
    assert_eq!(first, text(10));
    assert_connected(&mut read, fds);
    assert_eq!(b.recv(Some(LIMIT)).unwrap().0, text(20));
    assert!(b.try_recv().unwrap().is_none());
}

#[test]
fn more_descriptors_than_fit_into_one_message_of_the_kernel_arrive() {
    for count in [252, 253, 254, 300] {
        let (a, b) = pair();
        let (mut read, write) = pipes(count);
        a.send(&text(1), &borrow(&write), LIMIT).unwrap();
        let (_, fds) = b.recv(Some(LIMIT)).unwrap();
        drop(write);
        assert_connected(&mut read, fds);
    }
}

#[test]
fn a_long_body_travels_in_a_memory_file_and_its_descriptor_is_not_seen() {
    // Two quotes are part of the body.
    for length in [MAX_INLINE_BODY_BYTES - 2, MAX_INLINE_BODY_BYTES - 1, 5_000_000] {
        let (a, b) = pair();
        let (mut read, write) = pipes(2);
        a.send(&text(length), &borrow(&write), LIMIT).unwrap();
        let (message, fds) = b.recv(Some(LIMIT)).unwrap();
        assert_eq!(message.0.len(), length);
        assert_connected(&mut read, fds);
    }
}

#[test]
fn what_is_over_the_limits_is_refused_before_anything_is_sent() {
    let (a, b) = pair();
    let error = a.send(&text(MAX_BODY_BYTES), &[], LIMIT).unwrap_err();
    assert!(matches!(error, ChannelError::TooBig { .. }) && error.is_before_sending(), "{error}");
    let fds = vec![a.as_fd(); MAX_FDS_PER_MESSAGE + 1];
    let error = a.send(&text(1), &fds, LIMIT).unwrap_err();
    assert!(matches!(error, ChannelError::TooManyDescriptors { .. }) && error.is_before_sending());
    a.send(&text(7), &[], LIMIT).unwrap();
    assert_eq!(b.recv(Some(LIMIT)).unwrap().0, text(7));
}

#[test]
fn a_full_channel_keeps_the_message_until_there_is_room() {
    let (a, b) = pair();
    let mut sent = 0;
    let mut waiting = loop {
        let mut outgoing = a.encode(&text(20_000), &[]).unwrap();
        if !a.try_send(&mut outgoing).unwrap() {
            break outgoing;
        }
        sent += 1;
    };
    assert!(matches!(a.send(&text(1), &[], Duration::ZERO), Err(ChannelError::TimedOut { .. })));
    for _ in 0..sent {
        assert_eq!(b.recv(Some(LIMIT)).unwrap().0, text(20_000));
    }
    assert!(b.try_recv().unwrap().is_none());
    assert!(a.try_send(&mut waiting).unwrap());
    assert_eq!(b.recv(Some(LIMIT)).unwrap().0, text(20_000));
}

#[test]
fn the_end_of_the_peer_is_noticed_on_both_ways() {
    let (a, b) = pair();
    a.send(&text(1), &[], LIMIT).unwrap();
    drop(a);
    assert_eq!(b.recv(Some(LIMIT)).unwrap().0, text(1));
    assert!(matches!(b.recv(Some(LIMIT)), Err(ChannelError::Closed)));
    assert!(matches!(b.send(&text(1), &[], LIMIT), Err(ChannelError::Closed)));
    // With something unread on its way, the kernel says ECONNRESET instead of end of file.
    let (a, b) = pair();
    b.send(&text(1), &[], LIMIT).unwrap();
    drop(a);
    assert!(matches!(b.recv(Some(LIMIT)), Err(ChannelError::Closed)));
}

#[test]
fn a_wait_ends_at_its_deadline_and_loses_nothing() {
    let (a, b) = pair();
    assert!(matches!(b.recv(Some(Duration::ZERO)), Err(ChannelError::TimedOut { .. })));
    a.send(&text(1), &[], LIMIT).unwrap();
    assert_eq!(b.recv(Some(LIMIT)).unwrap().0, text(1));
}

#[test]
fn messages_of_several_threads_do_not_mix() {
    let (a, b) = pair();
    let (read, write) = pipes(260);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| a.send(&text(260), &borrow(&write), LIMIT).unwrap());
        }
        for _ in 0..4 {
            let (message, fds) = b.recv(Some(LIMIT)).unwrap();
            assert_eq!((message, fds.len()), (text(260), 260));
        }
    });
    drop(read);
}

#[test]
fn descriptors_beyond_the_receivers_limit_are_noticed_and_none_stays_open() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // The limit counts for the whole process.
    if !is_alone("channel::tests::descriptors_beyond_the_receivers_limit_are_noticed_and_none_stays_open") {
        return;
    }
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let (a, b) = pair();
    let (_read, write) = pipes(20);
    a.send(&text(1), &borrow(&write), LIMIT).unwrap();
    let before = open();
    let old = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(before as u64 + 5), maximum: old.maximum }).unwrap();
    let result = b.recv(Some(LIMIT));
    setrlimit(Resource::Nofile, old).unwrap();
    assert!(matches!(result, Err(ChannelError::Truncated { .. })), "{result:?}");
    assert_eq!(open(), before);
}

#[test]
fn another_version_and_other_nonsense_are_refused_by_name() {
    let header = Header { flags: 0, message: 1, body_bytes: 2, fds: 0, fds_later: 0 };
    let frame = |header: Header| [&header.encode()[..], b"\"\""].concat();
    assert_eq!(Header::decode(&frame(header)).unwrap().0, header);
    let mut newer = frame(header);
    newer[4] = 2;
    assert!(matches!(Header::decode(&newer), Err(ChannelError::Version { theirs: 2, ours: 1 })));
    for wrong in [
        Header { body_bytes: 1, ..header },
        Header { flags: 4, ..header },
        Header { flags: CONTINUES, ..header },
        Header { flags: BODY_IN_MEMFD, ..header },
        Header { fds: 254, ..header },
        Header { fds_later: u32::MAX, ..header },
    ] {
        assert!(Header::decode(&frame(wrong)).is_err(), "{wrong:?}");
    }
    assert!(Header::decode(&[]).is_err());
    assert!(Channel::<Text, Text>::from_socket(tempfile::tempfile().unwrap().into()).is_err());
}

/// A descriptor of the pure part: a number.
type Number = u32;

fn frames_of(number: u32, body: &[u8], memfd: bool, fds: u32) -> Vec<(Vec<u8>, Vec<Number>)> {
    let numbers: Vec<Number> = (0..fds).collect();
    let placed = if memfd { Placed::Memfd(123) } else { Placed::Inline(body) };
    let frames = split(number, placed, numbers.len()).unwrap();
    frames.into_iter().map(|frame| (frame.bytes, numbers[frame.fds].to_vec())).collect()
}

proptest! {
    #[test]
    fn whatever_is_cut_is_put_together_again(
        messages in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..200), any::<bool>(), 0_u32..1000), 1..8),
    ) {
        let mut assembler = Assembler::default();
        let mut arrived = VecDeque::new();
        for (number, (body, memfd, fds)) in (1_u32..).zip(&messages) {
            let memfd = *memfd && *fds > 0;
            let frames = frames_of(number, body, memfd, *fds);
            prop_assert!(frames.iter().all(|(_, fds)| fds.len() <= MAX_FDS_PER_FRAME));
            for (bytes, fds) in frames {
                prop_assert!(bytes.len() <= MAX_FRAME_BYTES);
                arrived.extend(assembler.push(&bytes, fds).unwrap());
            }
            let whole = arrived.pop_front().unwrap();
            let mut expected: Vec<Number> = (0..*fds).collect();
            if memfd {
                let first = expected.remove(0);
                prop_assert_eq!(whole.body, Body::Memfd { file: first, bytes: 123 });
            } else {
                prop_assert_eq!(whole.body, Body::Inline(body.clone()));
            }
            prop_assert_eq!(whole.fds, expected);
            prop_assert!(arrived.is_empty() && !assembler.is_partial());
        }
    }

    #[test]
    fn a_lost_repeated_or_swapped_frame_never_gives_a_message(
        all in 254_u32..1000, at in 0_usize..4, how in 0..3,
    ) {
        let mut frames = frames_of(1, b"{}", false, all);
        let at = at % frames.len();
        match how {
            0 => { frames.remove(at); }
            1 => { let again = frames[at].clone(); frames.insert(at, again); }
            _ => { let last = frames.len() - 1; frames.swap(at.min(last - 1), at.min(last - 1) + 1); }
        }
        let mut assembler = Assembler::default();
        for (bytes, fds) in frames {
            match assembler.push(&bytes, fds) {
                Ok(None) => {}
                // Only a repeated last frame comes after a message that is whole; it is refused itself.
                Ok(Some(whole)) => prop_assert_eq!(whole.fds, (0..all).collect::<Vec<Number>>()),
                Err(_) => return Ok(()),
            }
        }
        prop_assert!(assembler.is_partial(), "nobody noticed");
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), fds in 0_u32..5) {
        let mut assembler = Assembler::default();
        let _ = assembler.push(&bytes, (0..fds).collect::<Vec<Number>>());
        let mut framed = Header { flags: 0, message: 1, body_bytes: 0, fds, fds_later: 0 }.encode().to_vec();
        for (at, byte) in bytes.iter().enumerate().take(HEADER_BYTES) {
            framed[at] ^= byte & 1;
        }
        let _ = assembler.push(&framed, (0..fds).collect());
    }
}
