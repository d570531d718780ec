//! One side real, the other one played by the test; and supervisors that die.

use super::wire::{GiverChannel, State, TakerChannel, ToGiver, ToTaker};
use super::*;

/// A giver that is real, and the taker's end of its conversation.
fn giver() -> (Side, TakerChannel, Stand, UnixStream) {
    let (old, stand) = (Side::start(false, true), Stand::new());
    let client = old.service.connect(1);
    let (a, b) = sockets();
    old.hand_over(4, &a, &stand);
    (old, TakerChannel::from_socket(b).unwrap(), stand, client)
}

fn hear(channel: &TakerChannel) -> (ToTaker, Vec<OwnedFd>) {
    channel.recv(Some(PATIENCE)).unwrap()
}

/// Takes part until everything has come.
fn play_until_states(channel: &TakerChannel) {
    assert_eq!(hear(channel).0, ToTaker::Offer { versions: [1, 1], formats: Some([1, 2]), open: Some(1) });
    channel.send(&ToGiver::Accept { version: 1, format: Some(2) }, &[], PATIENCE).unwrap();
    let (message, sockets) = hear(channel);
    assert_eq!((message, sockets.len()), (ToTaker::Sockets { thread: 0, first: 0 }, 1));
    channel.send(&ToGiver::Taken { messages: 1 }, &[], PATIENCE).unwrap();
    let (ToTaker::State(state), files) = hear(channel) else { panic!() };
    assert_eq!((state.sections.len(), files.len()), (1, 1));
}

#[test]
fn nothing_goes_on_before_the_taker_is_dead() {
    let (old, channel, mut stand, mut client) = giver();
    play_until_states(&channel);
    channel.send(&ToGiver::Refuse { why: "no".to_owned() }, &[], PATIENCE).unwrap();
    let ToSupervisor::HandoffFailed { why, .. } = old.hear() else { panic!() };
    assert_eq!(why, "the new worker cannot take over: no");
    assert!(!stand.is_alive(), "it was killed, and seen dead");
    old.service.speak(1);
    assert_eq!(reads(&mut client), 1);
    old.stop();
}

#[test]
fn a_taker_that_dies_after_its_word_changes_nothing() {
    let (old, channel, mut stand, mut client) = giver();
    play_until_states(&channel);
    stand.kill();
    drop(channel);
    let ToSupervisor::HandoffFailed { why, .. } = old.hear() else { panic!() };
    assert_eq!(why, "the new worker has ended");
    assert_eq!(old.did(), ["precopy", "freeze", "thaw"]);
    old.service.speak(1);
    assert_eq!(reads(&mut client), 1);
    old.stop();
}

#[test]
fn a_liar_in_the_takers_place_is_ended() {
    let lies = [
        ToGiver::Ready,
        ToGiver::Enough,
        ToGiver::Taken { messages: 9 },
        ToGiver::Accept { version: 9, format: None },
        ToGiver::Accept { version: 1, format: Some(7) },
    ];
    for lie in lies {
        let (old, channel, mut stand, _client) = giver();
        channel.send(&lie, &[], PATIENCE).unwrap();
        let ToSupervisor::HandoffFailed { .. } = old.hear() else { panic!("{lie:?}") };
        assert!(!stand.is_alive());
        old.stop();
    }
}

#[test]
fn a_taker_without_a_common_format_makes_the_old_worker_drain() {
    let (old, channel, _stand, _client) = giver();
    assert!(matches!(hear(&channel).0, ToTaker::Offer { .. }));
    channel.send(&ToGiver::Accept { version: 1, format: None }, &[], PATIENCE).unwrap();
    let (ToTaker::State(state), _) = hear(&channel) else { panic!() };
    assert_eq!(state.sections, []);
    channel.send(&ToGiver::Ready, &[], PATIENCE).unwrap();
    assert!(matches!(hear(&channel).0, ToTaker::Commit { .. }));
    assert!(matches!(old.hear(), ToSupervisor::HandedOver { .. }));
    old.service.table().open.clear();
    assert!(matches!(old.hear(), ToSupervisor::Drained { ended: 1, .. }));
    assert_eq!(old.did(), ["drain"]);
    old.stop();
}

#[test]
fn a_move_goes_to_its_end_without_a_supervisor_and_the_old_worker_then_ends() {
    let (mut old, channel, _stand, _client) = giver();
    play_until_states(&channel);
    old.orphan();
    channel.send(&ToGiver::Ready, &[], PATIENCE).unwrap();
    assert!(matches!(hear(&channel).0, ToTaker::Commit { .. }));
    assert!(matches!(hear(&channel).0, ToTaker::Totals));
    assert!(matches!(hear(&channel).0, ToTaker::Bye));
    assert_eq!(old.thread.join().unwrap(), ExitCode::SUCCESS);
    assert!(!old.directory.path().join("door").exists(), "nobody is to find it");
}

#[test]
fn a_move_that_fails_without_a_supervisor_leaves_the_old_worker_serving_with_its_door_open() {
    let (mut old, channel, _stand, mut client) = giver();
    play_until_states(&channel);
    old.orphan();
    channel.send(&ToGiver::Refuse { why: "no".to_owned() }, &[], PATIENCE).unwrap();
    let socket = knock(&old.directory.path().join("door")).unwrap();
    old.channel = Some(SupervisorChannel::from_socket(socket).unwrap());
    old.say(&ToWorker::Welcome {
        protocol: PROTOCOL_VERSION,
        oldest: PROTOCOL_VERSION,
        worker: 8,
        carried: false,
        candidate: false,
    });
    let ToSupervisor::Hello { serving: Some(serving), .. } = old.hear() else { panic!() };
    assert!(serving.accepting);
    old.service.speak(1);
    assert_eq!(reads(&mut client), 1);
    old.stop();
}

/// A taker that is real, and the giver's end of its conversation.
fn taker() -> (Side, GiverChannel, Stand) {
    let (new, stand) = (Side::start(true, true), Stand::new());
    let (a, b) = sockets();
    new.take_over(4, &b, &stand);
    (new, GiverChannel::from_socket(a).unwrap(), stand)
}

fn offer(channel: &GiverChannel) {
    let offer = ToTaker::Offer { versions: [1, 1], formats: Some([1, 2]), open: Some(5) };
    channel.send(&offer, &[], PATIENCE).unwrap();
    let (answer, _) = channel.recv(Some(PATIENCE)).unwrap();
    assert_eq!(answer, ToGiver::Accept { version: 1, format: Some(2) });
}

/// Sends one connection, its socket ahead, and waits for the word; returns the client's end.
fn send_all(channel: &GiverChannel) -> UnixStream {
    let (client, server) = UnixStream::pair().unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    channel.send(&ToTaker::Sockets { thread: 0, first: 40 }, &[server.as_fd()], PATIENCE).unwrap();
    assert_eq!(channel.recv(Some(PATIENCE)).unwrap().0, ToGiver::Taken { messages: 1 });
    let bytes = [[1_u64, 40, 6].map(u64::to_le_bytes).concat(), 0_u64.to_le_bytes().to_vec()].concat();
    let file = memfd::sealed("states", &bytes).unwrap();
    let state = State { sections: vec![(0, 24)], common: 8, ..State::default() };
    channel.send(&ToTaker::State(Box::new(state)), &[file.as_fd()], PATIENCE).unwrap();
    assert_eq!(channel.recv(Some(PATIENCE)).unwrap().0, ToGiver::Ready);
    client
}

#[test]
fn a_giver_that_dies_after_the_word_leaves_its_connections_to_the_new_worker() {
    let (new, channel, mut stand) = taker();
    offer(&channel);
    let mut client = send_all(&channel);
    drop(channel);
    assert!(!new.did().contains(&"serve"), "a giver that lives may go on itself");
    stand.kill();
    let ToSupervisor::TookOver { moved, losses, .. } = new.hear() else { panic!() };
    assert_eq!((moved.get("counted"), losses.total()), (Some(&1), 4));
    new.service.speak(1);
    assert_eq!(reads(&mut client), 7);
    new.stop();
}

#[test]
fn a_giver_that_dies_before_the_word_leaves_its_listeners_to_the_new_worker() {
    let (new, channel, mut stand) = taker();
    offer(&channel);
    let (mut client, server) = UnixStream::pair().unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    channel.send(&ToTaker::Sockets { thread: 0, first: 0 }, &[server.as_fd()], PATIENCE).unwrap();
    assert!(matches!(channel.recv(Some(PATIENCE)).unwrap().0, ToGiver::Taken { .. }));
    drop((server, channel));
    stand.kill();
    let ToSupervisor::TookOver { moved, losses, .. } = new.hear() else { panic!() };
    assert_eq!((moved.len(), losses.total()), (0, 5));
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "what was not adopted is closed");
    assert!(new.service.table().accepting);
    new.stop();
}

#[test]
fn a_giver_that_says_nothing_more_and_lives_is_not_believed_dead() {
    let (new, channel, mut stand) = taker();
    offer(&channel);
    let _client = send_all(&channel);
    drop(channel);
    let ToSupervisor::HandoffFailed { why, .. } = new.hear() else { panic!() };
    assert_eq!(why, "the old worker has closed the conversation, and lives");
    assert_eq!(new.thread.join().unwrap(), ExitCode::from(70));
    assert!(stand.is_alive() && !new.service.table().did.contains(&"serve"));
}

#[test]
fn a_liar_in_the_givers_place_makes_nobody_serve() {
    let nonsense: [(ToTaker, usize); 5] = [
        (ToTaker::Commit { frozen: Duration::ZERO }, 0),
        (ToTaker::Late { thread: 0 }, 1),
        (ToTaker::Sockets { thread: 0, first: 0 }, 0),
        (ToTaker::State(Box::default()), 0),
        (ToTaker::Offer { versions: [7, 9], formats: None, open: None }, 0),
    ];
    for (message, fds) in nonsense {
        let (new, channel, _stand) = taker();
        let file = memfd::sealed("x", b"").unwrap();
        let fds: Vec<_> = (0..fds).map(|_| file.as_fd()).collect();
        channel.send(&message, &fds, PATIENCE).unwrap();
        assert!(matches!(new.hear(), ToSupervisor::HandoffFailed { .. }), "{message:?}");
        assert_eq!(new.thread.join().unwrap(), ExitCode::from(70));
        assert!(!new.service.table().accepting);
    }
}

#[test]
fn a_candidate_whose_supervisor_is_gone_ends() {
    let mut new = Side::start(true, true);
    new.orphan();
    assert_eq!(new.thread.join().unwrap(), ExitCode::SUCCESS);
    assert!(!new.directory.path().join("door").exists());
}

#[test]
fn a_candidate_without_a_supervisor_takes_over_and_opens_its_door() {
    let (mut new, channel, _stand) = taker();
    offer(&channel);
    let _client = send_all(&channel);
    new.orphan();
    channel.send(&ToTaker::Commit { frozen: Duration::ZERO }, &[], PATIENCE).unwrap();
    new.service.wait("it serves", |table| table.accepting.then_some(()));
    channel.send(&ToTaker::Bye, &[], PATIENCE).unwrap();
    // It closes its end once that is said, and it is found by then.
    assert!(matches!(channel.recv(Some(PATIENCE)), Err(handover_handoff::ChannelError::Closed)));
    let door = new.directory.path().join("door");
    let socket = (0..).find_map(|_| knock(&door).ok()).unwrap();
    new.channel = Some(SupervisorChannel::from_socket(socket).unwrap());
    new.say(&ToWorker::Welcome {
        protocol: PROTOCOL_VERSION,
        oldest: PROTOCOL_VERSION,
        worker: 8,
        carried: false,
        candidate: false,
    });
    let ToSupervisor::Hello { serving: Some(serving), .. } = new.hear() else { panic!() };
    assert_eq!((serving.worker, serving.accepting), (7, true));
    new.stop();
}

#[test]
fn a_probe_is_answered_by_every_thread_of_the_candidate_itself() {
    for moves in [true, false] {
        let new = Side::start(true, moves);
        let name = rustix::net::SocketAddrUnix::new_abstract_name(
            format!("handover-probe-test-{}-{moves}", std::process::id()).as_bytes(),
        )
        .unwrap();
        let (family, kind) = (rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM);
        let listener = rustix::net::socket(family, kind, None).unwrap();
        rustix::net::bind(&listener, &name).unwrap();
        rustix::net::listen(&listener, 8).unwrap();
        new.say_with(&ToWorker::Probe { call: 3, nonce: "once".to_owned() }, &[listener.as_fd()]);
        let mut threads = Vec::new();
        for _ in 0..if moves { 2 } else { 1 } {
            let socket = rustix::net::socket(family, kind, None).unwrap();
            rustix::net::connect(&socket, &name).unwrap();
            let mut text = String::new();
            let mut stream = UnixStream::from(socket);
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.read_to_string(&mut text).unwrap();
            let answer: ProbeAnswer = serde_json::from_str(&text).unwrap();
            assert_eq!((answer.worker, answer.nonce.as_str()), (7, "once"));
            threads.push(answer.thread);
        }
        assert_eq!(new.hear(), ToSupervisor::Probed { call: 3 });
        threads.sort_unstable();
        assert_eq!(threads, if moves { vec![0, 1] } else { vec![0] });
        new.stop();
    }
}

#[test]
fn what_is_no_channel_is_told_and_nothing_has_begun() {
    let (old, mut stand) = (Side::start(false, true), Stand::new());
    let mut client = old.service.connect(1);
    let file = memfd::sealed("x", b"").unwrap();
    old.hand_over(4, &file, &stand);
    let ToSupervisor::HandoffFailed { call: 4, why } = old.hear() else { panic!() };
    assert!(why.contains("cannot begin"), "{why}");
    assert_eq!(stand.0.wait().unwrap().code(), None, "it was ended by a signal");
    // Promised, and not sent.
    old.say(&ToWorker::HandOver { call: 5, within: PATIENCE, limit: PATIENCE, peer_pid: 1 });
    assert!(matches!(old.hear(), ToSupervisor::HandoffFailed { call: 5, .. }));
    assert!(old.did().is_empty());
    old.service.speak(1);
    assert_eq!(reads(&mut client), 1);
    old.stop();
}
