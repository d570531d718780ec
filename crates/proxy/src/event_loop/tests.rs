//! The event loop over real sockets: who gets a connection, and which are lost when listeners go (none).

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Instant;

use super::*;
use crate::access_log::{AccessLog, LogWriter};
use crate::config::{self, SystemResolver};
use crate::generation::Generation;
use crate::metrics::Metrics;
use crate::reactor::Reactor;
use crate::traffic::Published;

/// How long a test waits for what must come.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

pub(super) const WEB: &str =
    "[listeners.web]\naddress = \"127.0.0.1:0\"\nbacklog = 2\n[[routes]]\nfixed = \"hello\"\n";

/// Threads that do a turn when the test says so.
pub(super) struct Rig {
    pub(super) loops: Vec<EventLoop>,
    peers: Arc<Peers>,
    pub(super) metrics: Arc<Metrics>,
    published: Arc<Published>,
    listener: TcpListener,
    socket: Socket,
}

fn generation(text: &str, metrics: &Metrics) -> Generation {
    let mut read = |_: &Path| Err(std::io::Error::other("no file"));
    let base = Path::new("/");
    let checked =
        config::parse("test", base, text.as_bytes(), &mut read, &mut SystemResolver::default()).unwrap();
    let schedule = handover_tls::Schedule { rotate: Duration::from_secs(3_600), keep: 2 };
    let tickets = handover_tls::Tickets::new(schedule, std::time::SystemTime::now()).unwrap();
    Generation::build(checked.config, &checked.routes, None, metrics, &Arc::new(tickets)).unwrap()
}

impl Rig {
    pub(super) fn new(threads: usize, text: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self::on(listener, threads, text)
    }

    /// Other threads, as in another process, with the same listener.
    pub(super) fn beside(&self, threads: usize, text: &str) -> Self {
        Self::on(self.listener.try_clone().unwrap(), threads, text)
    }

    fn on(listener: TcpListener, threads: usize, text: &str) -> Self {
        let metrics = Arc::new(Metrics::new(threads));
        let generation = Arc::new(generation(text, &metrics));
        let address = generation.addresses(0)[0].clone();
        let published = Arc::new(Published::default());
        published.commit(generation);
        let socket = Socket {
            serial: 7,
            name: "web".into(),
            address,
            fd: Arc::new(listener.try_clone().unwrap().into()),
            open: Arc::default(),
        };
        let peers = Arc::new(Peers {
            mailboxes: (0..threads).map(|_| Arc::new(Mailbox::new().unwrap())).collect(),
            open: (0..threads).map(|_| AtomicU32::new(0)).collect(),
        });
        let writer = LogWriter::start().unwrap();
        let loops = (0..threads).map(|thread| {
            let reactor = Reactor::new(Reactor::create_epoll().unwrap());
            let log = AccessLog::new(writer.clone());
            let (published, metrics) = (Arc::clone(&published), Arc::clone(&metrics));
            EventLoop::new(
                Cx::new(thread, reactor, &published, metrics, Arc::default(), log),
                Arc::clone(&peers),
            )
            .unwrap()
        });
        Self { loops: loops.collect(), peers, metrics, published, listener, socket }
    }

    /// Leaves a command for the next turn.
    pub(super) fn leave(&self, thread: usize, command: Command) {
        self.peers.mailboxes[thread].send(command);
    }

    pub(super) fn tell(&mut self, thread: usize, command: Command) {
        self.leave(thread, command);
        self.loops[thread].turn(Some(Duration::ZERO)).unwrap();
    }

    /// The thread serves the listener.
    pub(super) fn listen(&mut self, thread: usize) {
        let sockets = Arc::new([self.socket.clone()]);
        self.tell(thread, Command::Listen { sockets, cut_after: Ticks(100), done: channel().0 });
    }

    /// The listener goes.
    fn unlisten(&mut self, thread: usize) {
        self.published.commit(Arc::new(Generation::nothing()));
        self.tell(
            thread,
            Command::Listen { sockets: Arc::new([]), cut_after: Ticks(100), done: channel().0 },
        );
    }

    pub(super) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }

    /// A connection, accepted by nobody.
    pub(super) fn arrival(&self) -> (TcpStream, Arrival) {
        let client = self.connect();
        let fd = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        };
        fd.set_nonblocking(true).unwrap();
        let (serial, fd) = (self.socket.serial, fd.into());
        let plain =
            Arrival { serial, tcp: false, handshake: false, fd, secure: None, peer: None, past: None };
        (client, plain)
    }

    /// Turns until the client gets something: 0 bytes if that is the end.
    pub(super) fn answer(&mut self, thread: usize, client: &mut TcpStream) -> String {
        let until = Instant::now() + DEADLINE;
        let mut bytes = [0; 4096];
        while Instant::now() < until {
            self.loops[thread].turn(Some(Duration::from_millis(1))).unwrap();
            match client.read(&mut bytes) {
                Ok(count) => return String::from_utf8_lossy(&bytes[..count]).into_owned(),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}"),
            }
        }
        panic!("no answer");
    }

    /// Turns until something holds.
    pub(super) fn turn_until(&mut self, thread: usize, holds: impl Fn(&EventLoop) -> bool) {
        let until = Instant::now() + DEADLINE;
        while !holds(&self.loops[thread]) {
            assert!(Instant::now() < until);
            self.loops[thread].turn(Some(Duration::from_millis(1))).unwrap();
        }
    }

    fn open(&self, thread: usize) -> u32 {
        self.peers.open[thread].load(Ordering::Relaxed)
    }
}

pub(super) const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_connection_that_is_on_its_way_when_its_listener_goes_is_served() {
    let mut rig = Rig::new(1, WEB);
    rig.listen(0);
    let (mut client, arrival) = rig.arrival();
    client.write_all(GET).unwrap();
    rig.unlisten(0);
    rig.tell(0, Command::Adopt(arrival));
    assert!(rig.answer(0, &mut client).starts_with("HTTP/1.1 200 OK\r\n"));
    rig.tell(0, Command::Sweep { done: channel().0 });
    assert_eq!(rig.answer(0, &mut client), "", "its response was the last");
    drop(client);
    rig.turn_until(0, |turning| turning.cx.listeners.is_empty());
}

#[test]
fn a_connection_that_comes_before_the_word_of_its_listener_is_served() {
    let mut rig = Rig::new(1, WEB);
    let (mut client, arrival) = rig.arrival();
    client.write_all(GET).unwrap();
    rig.tell(0, Command::Adopt(arrival));
    rig.listen(0);
    assert!(rig.answer(0, &mut client).starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn what_waits_when_a_listener_goes_is_taken_in_and_stays_on_its_thread() {
    let mut rig = Rig::new(2, WEB);
    rig.listen(0);
    // The other thread is told first, and has nothing open; this one has much.
    rig.listen(1);
    rig.unlisten(1);
    rig.peers.open[0].fetch_add(1_000, Ordering::Relaxed);
    let mut clients = [rig.connect(), rig.connect(), rig.connect()];
    for client in &mut clients {
        client.write_all(GET).unwrap();
    }
    rig.unlisten(0);
    assert_eq!(rig.metrics.open(), 3, "counted before they are open");
    for client in &mut clients {
        assert!(rig.answer(0, client).starts_with("HTTP/1.1 200 OK\r\n"));
    }
    assert!(rig.peers.mailboxes[1].take().is_empty());
}

#[test]
fn of_a_listener_that_goes_no_more_is_taken_than_its_queue_could_hold() {
    let mut rig = Rig::new(1, WEB);
    rig.listen(0);
    let clients: Vec<_> = (0..8).map(|_| rig.connect()).collect();
    rig.unlisten(0);
    assert_eq!((rig.open(0), rig.metrics.open()), (3, 3), "its backlog is 2");
    drop(clients);
}

#[test]
fn a_connection_that_has_more_to_do_is_in_the_list_once() {
    let mut rig = Rig::new(1, WEB);
    rig.listen(0);
    let (_client, arrival) = rig.arrival();
    rig.tell(0, Command::Adopt(arrival));
    let key = ConnKey { index: 0, stamp: 0 };
    for _ in 0..3 {
        let conn = rig.loops[0].places[0].conn.take().unwrap();
        rig.loops[0].settle(key, conn, Fate::Again);
    }
    assert_eq!(rig.loops[0].again, [key]);
    rig.loops[0].run_again();
    assert!(rig.loops[0].again.is_empty());
    let conn = rig.loops[0].places[0].conn.take().unwrap();
    rig.loops[0].settle(key, conn, Fate::Again);
    assert_eq!(rig.loops[0].again, [key]);
}

/// The head and body of the answer to [`GET`].
fn is_answer(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello")
}

#[test]
fn a_kept_connection_goes_once_to_the_thread_that_has_clearly_fewer() {
    let mut rig = Rig::new(2, WEB);
    rig.listen(0);
    rig.listen(1);
    rig.peers.open[0].fetch_add(10, Ordering::Relaxed);
    let mut client = rig.connect();
    client.write_all(GET).unwrap();
    assert!(is_answer(&rig.answer(0, &mut client)), "it is served where it was accepted");
    assert_eq!((rig.open(0), rig.open(1), rig.metrics.open()), (10, 1, 1));
    // At this moment it is on no thread, and a request comes.
    client.write_all(GET).unwrap();
    rig.peers.open[1].fetch_add(1_000, Ordering::Relaxed);
    assert!(is_answer(&rig.answer(1, &mut client)));
    let limit = rig.loops[1].places[0].conn.as_ref().unwrap().deadline();
    assert!(limit > rig.loops[1].cx.clock.after(Ticks(300)), "the idle limit holds");
    for _ in 0..3 {
        client.write_all(GET).unwrap();
        assert!(is_answer(&rig.answer(1, &mut client)), "it stays where it is");
    }
    assert!(rig.loops[0].places.iter().all(|place| place.conn.is_none()));
    drop(client);
    rig.turn_until(1, |turning| turning.places[0].conn.is_none());
    assert_eq!((rig.open(0), rig.open(1), rig.metrics.open()), (10, 1_000, 0));
    assert_eq!(rig.socket.open.load(Ordering::Relaxed), 0);
}

#[test]
fn a_client_that_closes_while_its_connection_moves_is_noticed() {
    let mut rig = Rig::new(2, WEB);
    rig.listen(0);
    rig.listen(1);
    rig.peers.open[0].fetch_add(10, Ordering::Relaxed);
    let mut client = rig.connect();
    client.write_all(GET).unwrap();
    assert!(is_answer(&rig.answer(0, &mut client)));
    drop(client);
    let metrics = Arc::clone(&rig.metrics);
    rig.turn_until(1, |_| metrics.open() == 0);
    assert_eq!((rig.open(0), rig.open(1)), (10, 0));
}

#[test]
fn nothing_moves_while_the_server_drains() {
    let mut rig = Rig::new(2, WEB);
    rig.listen(0);
    rig.listen(1);
    rig.peers.open[0].fetch_add(10, Ordering::Relaxed);
    let mut client = rig.connect();
    rig.turn_until(0, |turning| turning.places.iter().any(|place| place.conn.is_some()));
    rig.tell(0, Command::Drain { spread: Ticks(100), done: channel().0 });
    client.write_all(GET).unwrap();
    assert!(is_answer(&rig.answer(0, &mut client)));
    assert_eq!(rig.open(1), 0);
}

#[test]
fn a_client_that_sends_many_requests_at_once_leaves_others_their_turn() {
    let mut rig = Rig::new(1, WEB);
    rig.listen(0);
    let answered = |rig: &Rig| {
        let metrics = rig.metrics.encode();
        let line = "handover_requests_total{listener=\"web\",status=\"2xx\"} ";
        let count = metrics.lines().find_map(|candidate| candidate.strip_prefix(line));
        count.map_or(0, |count| count.parse::<u32>().unwrap())
    };
    let (mut client, arrival) = rig.arrival();
    client.write_all(&GET.repeat(200)).unwrap();
    rig.tell(0, Command::Adopt(arrival));
    // It came in this turn, and then ran once more with all that had more to do.
    assert!((32..=64).contains(&answered(&rig)));
    let (mut other, arrival) = rig.arrival();
    other.write_all(GET).unwrap();
    rig.tell(0, Command::Adopt(arrival));
    assert!(is_answer(&rig.answer(0, &mut other)));
    assert!(answered(&rig) < 200);
    let until = Instant::now() + DEADLINE;
    while answered(&rig) < 201 {
        assert!(Instant::now() < until);
        rig.loops[0].turn(Some(Duration::from_millis(1))).unwrap();
    }
}

#[test]
fn a_kept_connection_that_was_well_placed_is_left_alone_later() {
    let mut rig = Rig::new(2, WEB);
    rig.listen(0);
    rig.listen(1);
    let mut client = rig.connect();
    client.write_all(GET).unwrap();
    assert!(is_answer(&rig.answer(0, &mut client)));
    rig.peers.open[0].fetch_add(1_000, Ordering::Relaxed);
    for _ in 0..3 {
        client.write_all(GET).unwrap();
        assert!(is_answer(&rig.answer(0, &mut client)));
    }
    assert_eq!((rig.open(0), rig.open(1)), (1_001, 0));
}
