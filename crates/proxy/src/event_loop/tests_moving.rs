//! What lies about in a thread when its connections move: events of the same turn, commands, lists of those that have more to do.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::time::Instant;

use handover::moving::{Lost, Sink};

use super::tests::{DEADLINE, GET, Rig, WEB};
use super::*;

/// What one side has sent, until the other takes it.
#[derive(Default)]
struct Sent {
    sockets: Mutex<Vec<(u64, Vec<OwnedFd>)>>,
    late: Mutex<Vec<(Vec<u8>, Vec<OwnedFd>)>>,
    full: AtomicBool,
    gone: AtomicBool,
    batches: AtomicUsize,
}

struct Into(Arc<Sent>);

fn copies(sockets: &[BorrowedFd<'_>]) -> Vec<OwnedFd> {
    sockets.iter().map(|socket| socket.try_clone_to_owned().unwrap()).collect()
}

impl Sink for Into {
    fn sockets(&self, _: u32, first: u64, sockets: &[BorrowedFd<'_>]) -> Result<(), Lost> {
        self.0.batches.fetch_add(1, Ordering::SeqCst);
        self.0.sockets.lock().unwrap().push((first, copies(sockets)));
        Ok(())
    }

    fn late(&self, _: u32, state: &[u8], sockets: &[BorrowedFd<'_>]) -> Result<(), Lost> {
        if self.0.gone.load(Ordering::SeqCst) {
            return Err(Lost::Ended);
        }
        self.0.late.lock().unwrap().push((state.to_vec(), copies(sockets)));
        Ok(())
    }

    fn may_send(&self) -> bool {
        !self.0.full.load(Ordering::SeqCst)
    }

    fn has_ended(&self) -> bool {
        false
    }

    fn notify(&self, _: Arc<dyn Fn() + Send + Sync>) {}
}

const FORMAT: u16 = 2;

/// One thread that gives to another.
struct Pair {
    from: Rig,
    to: Rig,
    sent: Arc<Sent>,
}

impl Pair {
    fn new() -> Self {
        let mut from = Rig::new(1, WEB);
        let mut to = from.beside(1, WEB);
        from.listen(0);
        to.tell(0, Command::StandBy { done: channel().0 });
        to.listen(0);
        Self { from, to, sent: Arc::default() }
    }

    /// A client whose connection is open at the giver.
    fn client(&mut self) -> TcpStream {
        let mut client = self.from.connect();
        client.write_all(GET).unwrap();
        assert!(self.from.answer(0, &mut client).ends_with("hello"));
        client
    }

    fn precopy(&self) {
        let outlet = Outlet::new(Box::new(Into(Arc::clone(&self.sent))));
        self.from.leave(0, Command::Precopy { outlet, format: FORMAT, done: channel().0 });
    }

    /// The giver freezes in its next turn, with this verdict; what it then says.
    fn freeze(&self, verdict: Verdict) -> Receiver<Result<Written, String>> {
        let (frozen, written) = channel();
        let (tell, verdicts) = channel();
        tell.send(verdict).unwrap();
        self.from.leave(0, Command::Freeze { frozen, verdict: verdicts });
        written
    }

    fn turn(&mut self) {
        self.from.loops[0].turn(Some(Duration::ZERO)).unwrap();
    }

    /// The taker gets what was sent, and serves it.
    fn adopt(&mut self, written: &Receiver<Result<Written, String>>) -> Kinds {
        for (first, sockets) in self.sent.sockets.lock().unwrap().drain(..) {
            self.to.leave(0, Command::Sockets { first, sockets });
        }
        let mut written = written.try_recv().unwrap().unwrap();
        let sections = vec![Piece::from(std::mem::take(&mut written.section.bytes))];
        let (taken, counts) = channel();
        self.to.leave(0, Command::TakeIn { format: FORMAT, sections, taken });
        self.to.tell(0, Command::Serve { done: channel().0 });
        let counts = counts.try_recv().unwrap().unwrap();
        assert_eq!(counts, written.counts);
        counts
    }

    /// The taker gets what came late. How many that were.
    fn late(&mut self) -> usize {
        let late: Vec<_> = self.sent.late.lock().unwrap().drain(..).collect();
        let count = late.len();
        for (state, sockets) in late {
            self.to.tell(0, Command::Late { format: FORMAT, state: Piece::from(state), sockets });
        }
        count
    }

    /// Connections of both. (What arrives in these tests was counted by nobody, so that the gauges say nothing.)
    fn open(&self) -> (usize, usize) {
        let count = |rig: &Rig| rig.loops[0].places.iter().filter(|place| place.conn.is_some()).count();
        (count(&self.from), count(&self.to))
    }
}

fn released() -> Verdict {
    Verdict::Release { done: channel().0 }
}

#[test]
fn events_of_the_turn_in_which_all_stands_still_are_for_whoever_goes_on() {
    for moves in [true, false] {
        let mut pair = Pair::new();
        let mut clients: Vec<_> = (0..50).map(|_| pair.client()).collect();
        pair.precopy();
        pair.turn();
        let written = pair.freeze(if moves { released() } else { Verdict::Thaw });
        // Their events come in one turn with the command, before and behind it.
        for client in &mut clients {
            client.write_all(GET).unwrap();
        }
        pair.turn();
        if moves {
            assert!(pair.adopt(&written).http > 0);
            pair.late();
            assert_eq!(pair.open(), (0, 50));
        }
        for client in &mut clients {
            let rig = if moves { &mut pair.to } else { &mut pair.from };
            assert!(rig.answer(0, client).ends_with("hello"));
        }
    }
}

#[test]
fn a_connection_that_has_more_to_do_goes_on_with_it_elsewhere() {
    const REQUESTS: usize = 200;
    let mut pair = Pair::new();
    pair.precopy();
    pair.turn();
    let (mut client, arrival) = pair.from.arrival();
    client.write_all(&GET.repeat(REQUESTS)).unwrap();
    pair.from.leave(0, Command::Adopt(arrival));
    let until = Instant::now() + DEADLINE;
    while pair.from.loops[0].again.is_empty() {
        assert!(Instant::now() < until);
        pair.turn();
    }
    let written = pair.freeze(released());
    pair.turn();
    assert_eq!((pair.adopt(&written).http, pair.open()), (1, (0, 1)));
    let (mut all, mut some) = (String::new(), vec![0; 1 << 16]);
    while all.matches("hello").count() < REQUESTS {
        assert!(Instant::now() < until);
        pair.to.loops[0].turn(Some(Duration::from_millis(1))).unwrap();
        if let Ok(count) = client.read(&mut some) {
            all.push_str(&String::from_utf8_lossy(&some[..count]));
        }
    }
    assert_eq!(all.matches("HTTP/1.1 200").count(), REQUESTS);
    assert!(pair.from.loops[0].again.is_empty());
}

#[test]
fn what_is_on_its_way_to_a_thread_that_stands_still_goes_after_the_others() {
    let mut pair = Pair::new();
    let _idle = pair.client();
    pair.precopy();
    pair.turn();
    let (mut client, arrival) = pair.from.arrival();
    client.write_all(GET).unwrap();
    let (mut silent, other) = pair.from.arrival();
    let written = pair.freeze(released());
    pair.from.leave(0, Command::Adopt(arrival));
    pair.from.leave(0, Command::Adopt(other));
    pair.turn();
    assert_eq!(pair.adopt(&written).http, 1);
    assert!(pair.from.answer(0, &mut client).ends_with("hello"), "it was read here already");
    assert_eq!((pair.late(), pair.open()), (2, (0, 3)));
    for client in [&mut client, &mut silent] {
        client.write_all(GET).unwrap();
        assert!(pair.to.answer(0, client).ends_with("hello"));
    }
}

#[test]
fn a_command_behind_the_freeze_is_obeyed_after_it() {
    let mut pair = Pair::new();
    let mut client = pair.client();
    pair.precopy();
    pair.turn();
    let written = pair.freeze(Verdict::Thaw);
    pair.from.leave(0, Command::Drain { spread: Ticks(0), done: channel().0 });
    client.write_all(GET).unwrap();
    pair.turn();
    assert!(written.try_recv().unwrap().is_ok());
    assert!(pair.from.loops[0].cx.draining);
    assert!(pair.from.answer(0, &mut client).contains("Connection: close"));
}

#[test]
fn sockets_go_ahead_in_batches_one_a_turn_and_only_while_there_is_room() {
    let mut pair = Pair::new();
    let _clients: Vec<_> = (0..300).map(|_| pair.client()).collect();
    let batches = |pair: &Pair| pair.sent.batches.load(Ordering::SeqCst);
    pair.sent.full.store(true, Ordering::SeqCst);
    pair.precopy();
    pair.turn();
    assert_eq!((batches(&pair), pair.from.loops[0].wait_limit() == Some(Duration::ZERO)), (0, false));
    pair.sent.full.store(false, Ordering::SeqCst);
    for turn in 1..3 {
        assert_eq!(pair.from.loops[0].wait_limit(), Some(Duration::ZERO));
        pair.turn();
        assert_eq!(batches(&pair), turn);
    }
    pair.turn();
    assert_ne!(pair.from.loops[0].wait_limit(), Some(Duration::ZERO), "nothing is left to be sent");
    assert_eq!(batches(&pair), 2);
    let sent: usize = pair.sent.sockets.lock().unwrap().iter().map(|(_, sockets)| sockets.len()).sum();
    assert_eq!(sent, 300, "each once");
    let written = pair.freeze(released());
    pair.turn();
    assert_eq!((pair.adopt(&written).http, pair.open()), (300, (0, 300)));
}

#[test]
fn late_connections_wait_for_room() {
    let mut pair = Pair::new();
    pair.precopy();
    pair.turn();
    let written = pair.freeze(released());
    pair.turn();
    pair.adopt(&written);
    pair.sent.full.store(true, Ordering::SeqCst);
    let (mut client, arrival) = pair.from.arrival();
    client.write_all(GET).unwrap();
    pair.from.leave(0, Command::Adopt(arrival));
    assert!(pair.from.answer(0, &mut client).ends_with("hello"));
    assert_eq!((pair.late(), pair.open()), (0, (1, 0)));
    pair.sent.full.store(false, Ordering::SeqCst);
    pair.from.tell(0, Command::Woken);
    assert_eq!((pair.late(), pair.open()), (1, (0, 1)));
}

#[test]
fn who_is_the_first_to_notice_that_nobody_takes_any_more_drains_like_the_others() {
    const SPREAD: Ticks = Ticks(10);
    let mut pair = Pair::new();
    pair.precopy();
    pair.turn();
    let written = pair.freeze(released());
    pair.turn();
    pair.adopt(&written);
    pair.from.tell(0, Command::Drain { spread: SPREAD, done: channel().0 });
    pair.sent.gone.store(true, Ordering::SeqCst);
    let (mut client, arrival) = pair.from.arrival();
    client.write_all(GET).unwrap();
    pair.from.leave(0, Command::Adopt(arrival));
    assert!(pair.from.answer(0, &mut client).ends_with("hello"));
    let here = &pair.from.loops[0];
    assert!(here.cx.draining && !here.gives());
    let left = here.places.iter().find_map(|place| place.conn.as_ref()).unwrap();
    assert!(left.deadline() <= here.cx.clock.after(SPREAD), "it does not wait for its client");
}

#[test]
fn who_stands_still_and_is_never_told_what_becomes_of_it_ends() {
    let pair = Pair::new();
    pair.precopy();
    let (frozen, written) = channel();
    let verdict = channel().1;
    pair.from.leave(0, Command::Freeze { frozen, verdict });
    let turning = pair.from.loops.into_iter().next().unwrap();
    assert!(!turning.run(), "it may not go on: somebody else may");
    assert!(written.recv().unwrap().is_ok());
}

#[test]
fn a_thread_whose_freeze_nobody_waits_for_goes_on() {
    let mut pair = Pair::new();
    let mut client = pair.client();
    pair.precopy();
    drop(pair.freeze(released()));
    client.write_all(GET).unwrap();
    assert!(pair.from.answer(0, &mut client).ends_with("hello"));
    assert!(!pair.from.loops[0].gives() && !pair.from.loops[0].standing);
}
