//! Two workers and what they hand over: both real, or one of them played by the test.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, MutexGuard};

use handover_handoff::memfd;
use handover_supervisor::protocol::ProbeAnswer;
use rustix::process::{Pid, PidfdFlags};

use super::*;
use crate::moving::{Counts, Frozen, FrozenView, Lost, Moving, Outlet, Probe, Section, wire};

mod one_side;
mod pairs;

/// What a scripted service does wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    /// It cannot read what came.
    Adopt,
    /// It cannot stand still.
    Freeze,
    /// It panics while it writes everything down.
    Panic,
}

#[derive(Default)]
struct Table {
    /// Connections by number, with what was said to each so far.
    open: BTreeMap<u64, (OwnedFd, u64)>,
    /// Those that are in the middle of something, and can move only when that ends.
    busy: BTreeMap<u64, (OwnedFd, u64)>,
    /// Sockets that came ahead.
    came: BTreeMap<u64, OwnedFd>,
    /// What was adopted: connection, number of its socket, words said.
    adopted: Vec<(u64, u64, u64)>,
    /// The numbers that sockets went under.
    went: BTreeMap<u64, u64>,
    outlet: Option<Arc<Outlet>>,
    accepting: bool,
    stands_by: bool,
    frozen: bool,
    /// Totals: of this worker and of those before.
    words: u64,
    /// What happened, in order.
    did: Vec<&'static str>,
    fault: Fault,
}

/// A service of connections that count what was said to them.
#[derive(Default)]
struct Counting {
    table: Mutex<Table>,
    changed: Condvar,
    moves: bool,
}

impl Counting {
    fn new(moves: bool) -> Arc<Self> {
        let service = Self { moves, ..Self::default() };
        service.table().accepting = moves;
        Arc::new(service)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap()
    }

    fn did(&self, what: &'static str) -> MutexGuard<'_, Table> {
        let mut table = self.table();
        table.did.push(what);
        self.changed.notify_all();
        table
    }

    /// A new connection; returns the client's end.
    fn connect(&self, number: u64) -> UnixStream {
        let (client, server) = UnixStream::pair().unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        self.table().open.insert(number, (server.into(), 0));
        client
    }

    /// Says a word to the client of a connection.
    fn speak(&self, number: u64) {
        let mut table = self.table();
        let (socket, words) = table.open.get_mut(&number).expect("the connection is here");
        *words += 1;
        rustix::io::write(&*socket, &[u8::try_from(*words).unwrap()]).unwrap();
        table.words += 1;
    }

    fn make_busy(&self, number: u64) {
        let mut table = self.table();
        let connection = table.open.remove(&number).unwrap();
        table.busy.insert(number, connection);
    }

    /// A busy connection ends its step, and goes late if it can.
    fn end_step(&self, number: u64) -> Result<(), Lost> {
        let mut table = self.table();
        let (socket, words) = table.busy.remove(&number).unwrap();
        let outlet = table.outlet.clone().unwrap();
        let sent = outlet.send_late(0, &[number, words].map(u64::to_le_bytes).concat(), &[socket.as_fd()]);
        if sent.is_err() {
            table.open.insert(number, (socket, words));
        }
        self.changed.notify_all();
        sent
    }

    fn wait<T>(&self, what: &str, found: impl Fn(&mut Table) -> Option<T>) -> T {
        let mut table = self.table();
        loop {
            if let Some(found) = found(&mut table) {
                return found;
            }
            let (again, late) = self.changed.wait_timeout(table, PATIENCE).unwrap();
            assert!(!late.timed_out(), "{what}: {:?}", again.did);
            table = again;
        }
    }
}

struct Quiet;

impl Candidate for Quiet {
    fn changes(&self) -> Vec<Change> {
        Vec::new()
    }

    fn commit(self: Box<Self>) {}
}

/// A candidate whose commit is seen.
struct Seen(Arc<Mutex<bool>>);

impl Candidate for Seen {
    fn changes(&self) -> Vec<Change> {
        Vec::new()
    }

    fn commit(self: Box<Self>) {
        *self.0.lock().unwrap() = true;
    }
}

/// Shared between the worker and the test.
struct Shared(Arc<Counting>, Arc<Mutex<bool>>);

impl Service for Shared {
    fn prepare(&self, _: &mut Prepare) -> Result<Box<dyn Candidate>, Vec<Problem>> {
        if self.0.moves { Ok(Box::new(Quiet)) } else { Ok(Box::new(Seen(Arc::clone(&self.1)))) }
    }

    fn drain(&self, drain: &Drain) -> Losses {
        self.0.did("drain").accepting = false;
        let mut losses = Losses::default();
        loop {
            let open = |table: &Table| table.open.len() + table.busy.len();
            let table = self.0.table();
            let left = open(&table) as u64;
            drop(table);
            drain.progress(left);
            if left == 0 || drain.wait(Duration::from_millis(5)).is_some() {
                if drain.ended() != Some(DrainEnd::Resumed) && left > 0 {
                    losses.add("tcp", left);
                    (self.0.table().open, self.0.table().busy) = Default::default();
                }
                return losses;
            }
        }
    }

    fn resume(&self) {
        self.0.did("resume").accepting = true;
    }

    fn stop_now(&self) -> Losses {
        Losses::default()
    }

    fn open_connections(&self) -> Option<u64> {
        let table = self.0.table();
        Some((table.open.len() + table.busy.len()) as u64)
    }

    fn figures(&self) -> Option<Figures> {
        Some(Figures { requests: self.0.table().words, ..Figures::default() })
    }

    fn moving(&self) -> Option<&dyn Moving> {
        self.0.moves.then_some(self as &dyn Moving)
    }
}

impl Moving for Shared {
    fn formats(&self) -> RangeInclusive<u16> {
        1..=2
    }

    fn threads(&self) -> u32 {
        2
    }

    fn precopy(&self, outlet: &Arc<Outlet>, format: u16) {
        assert_eq!(format, 2);
        let mut table = self.0.did("precopy");
        table.outlet = Some(Arc::clone(outlet));
        let all: Vec<u64> = table.open.keys().copied().collect();
        for batch in all.chunks(100) {
            let sockets: Vec<BorrowedFd<'_>> =
                batch.iter().map(|number| table.open[number].0.as_fd()).collect();
            let Ok(first) = outlet.send_sockets(0, &sockets) else { return };
            table.went.extend(batch.iter().copied().zip(first..));
        }
    }

    fn freeze(&self) -> Result<Frozen, String> {
        let mut table = self.0.did("freeze");
        match table.fault {
            Fault::Freeze => return Err("it moves too fast".to_owned()),
            Fault::Panic => {
                drop(table);
                panic!("scripted")
            }
            _ => {}
        }
        table.frozen = true;
        let states = table.open.iter().filter_map(|(number, (_, words))| {
            Some([*number, *table.went.get(number)?, *words].map(u64::to_le_bytes).concat())
        });
        let bytes = states.collect::<Vec<_>>().concat();
        let moved = Counts::from([("counted".to_owned(), bytes.len() as u64 / 24)]);
        let common = table.words.to_le_bytes().to_vec();
        Ok(Frozen { sections: vec![Section { thread: 0, bytes }], common, moved })
    }

    fn thaw(&self) {
        let mut table = self.0.did("thaw");
        (table.frozen, table.outlet, table.went) = (false, None, BTreeMap::new());
    }

    fn release(&self) {
        let mut table = self.0.did("release");
        let went = std::mem::take(&mut table.went);
        table.open.retain(|number, _| !went.contains_key(number));
        (table.frozen, table.accepting) = (false, false);
    }

    fn totals(&self) -> Vec<u8> {
        drop(self.0.did("totals"));
        3_u64.to_le_bytes().to_vec()
    }

    fn stand_by(&self) {
        let mut table = self.0.did("stand by");
        (table.accepting, table.stands_by) = (false, true);
    }

    fn probe(&self, probe: Arc<Probe>) {
        for thread in 0..2 {
            let probe = Arc::clone(&probe);
            std::thread::spawn(move || {
                let socket = probe.as_fd().try_clone_to_owned().unwrap();
                let listener = std::os::unix::net::UnixListener::from(socket);
                listener.set_nonblocking(false).unwrap();
                let (mut connection, _) = listener.accept().unwrap();
                connection.write_all(&probe.answer(thread)).unwrap();
                probe.answered(thread);
            });
        }
    }

    fn sockets(&self, _: u32, first: u64, sockets: Vec<OwnedFd>) {
        self.0.did("sockets").came.extend((first..).zip(sockets));
    }

    fn adopt(&self, format: u16, frozen: FrozenView) -> Result<Counts, String> {
        let mut table = self.0.did("adopt");
        if table.fault == Fault::Adopt {
            return Err("state 3 makes no sense".to_owned());
        }
        assert_eq!(format, 2);
        table.words = u64::from_le_bytes(frozen.common[..].try_into().unwrap());
        for state in frozen.sections.iter().flat_map(|(_, bytes)| bytes.chunks(24)) {
            let [number, socket, words] =
                [0, 8, 16].map(|at| u64::from_le_bytes(state[at..at + 8].try_into().unwrap()));
            assert!(table.came.contains_key(&socket));
            table.adopted.push((number, socket, words));
        }
        Ok(Counts::from([("counted".to_owned(), table.adopted.len() as u64)]))
    }

    fn serve(&self) {
        let mut table = self.0.did("serve");
        (table.accepting, table.stands_by) = (true, false);
        let mut came = std::mem::take(&mut table.came);
        for (number, socket, words) in std::mem::take(&mut table.adopted) {
            table.open.insert(number, (came.remove(&socket).unwrap(), words));
        }
    }

    fn late(&self, _: u16, _: u32, state: &[u8], mut sockets: Vec<OwnedFd>) {
        let [number, words] = [0, 8].map(|at| u64::from_le_bytes(state[at..at + 8].try_into().unwrap()));
        let socket = sockets.pop().unwrap();
        self.0.did("late").open.insert(number, (socket, words));
    }

    fn add_totals(&self, totals: &[u8]) {
        self.0.did("add totals").words += u64::from_le_bytes(totals.try_into().unwrap());
    }
}

/// A process that stands for a worker's: it can be killed, and be seen dead.
struct Stand(Child);

impl Stand {
    fn new() -> Self {
        Self(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn pidfd(&self) -> OwnedFd {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap()
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A worker that runs in a thread, with a process that stands for it.
struct Side {
    channel: Option<SupervisorChannel>,
    service: Arc<Counting>,
    committed: Arc<Mutex<bool>>,
    stand: Stand,
    thread: JoinHandle<ExitCode>,
    directory: TempDir,
}

impl Side {
    fn start(candidate: bool, moves: bool) -> Self {
        let (ours, theirs) = SupervisorChannel::pair().unwrap();
        let (service, committed) = (Counting::new(moves), Arc::default());
        let directory = tempfile::tempdir().unwrap();
        let setup = Setup {
            channel: theirs.into_socket(),
            succession: Some(directory.path().join("door")),
            version: "1".to_owned(),
            service: Arc::new(Shared(Arc::clone(&service), Arc::clone(&committed))),
        };
        let thread = std::thread::spawn(move || run(setup));
        let side = Self { channel: Some(ours), service, committed, stand: Stand::new(), thread, directory };
        side.say(&ToWorker::Welcome {
            protocol: PROTOCOL_VERSION,
            oldest: PROTOCOL_VERSION,
            worker: 7,
            carried: false,
            candidate,
        });
        let ToSupervisor::Hello { formats, threads, movable, .. } = side.hear() else { panic!() };
        assert_eq!(movable, moves);
        assert_eq!((formats, threads), if moves { ([1, 2], 2) } else { ([0, 0], 1) });
        side.say(&order(1, Source::Disk));
        assert!(matches!(side.hear(), ToSupervisor::Prepared { .. }));
        side.say(&ToWorker::Commit { candidate: 1, accept: !candidate });
        assert_eq!(side.hear(), ToSupervisor::Committed { candidate: 1 });
        side
    }

    fn say(&self, message: &ToWorker) {
        self.say_with(message, &[]);
    }

    fn say_with(&self, message: &ToWorker, fds: &[BorrowedFd<'_>]) {
        self.channel.as_ref().unwrap().send(message, fds, PATIENCE).unwrap();
    }

    /// The next message that is not the progress of a drain.
    fn hear(&self) -> ToSupervisor {
        loop {
            let (message, _) = self.channel.as_ref().unwrap().recv(Some(PATIENCE)).unwrap();
            if !matches!(message, ToSupervisor::DrainProgress { .. }) {
                return message;
            }
        }
    }

    fn hand_over(&self, call: u64, socket: &OwnedFd, other: &Stand) {
        let (within, limit) = (PATIENCE, PATIENCE);
        let message = ToWorker::HandOver { call, within, limit, peer_pid: other.pid() };
        self.say_with(&message, &[socket.as_fd(), other.pidfd().as_fd()]);
    }

    fn take_over(&self, call: u64, socket: &OwnedFd, other: &Stand) {
        let message = ToWorker::TakeOver { call, peer_pid: other.pid() };
        let error = io::stderr().as_fd().try_clone_to_owned().unwrap();
        self.say_with(&message, &[socket.as_fd(), other.pidfd().as_fd(), error.as_fd()]);
    }

    fn did(&self) -> Vec<&'static str> {
        self.service.table().did.clone()
    }

    fn stop(self) {
        self.say(&ToWorker::Stop { now: true });
        assert_eq!(self.thread.join().unwrap(), ExitCode::SUCCESS);
    }

    /// The supervisor's end is closed.
    fn orphan(&mut self) {
        self.channel = None;
    }
}

fn reads(client: &mut UnixStream) -> u8 {
    let mut byte = [0];
    client.read_exact(&mut byte).unwrap();
    byte[0]
}

fn sockets() -> (OwnedFd, OwnedFd) {
    handover_handoff::channel::socket_pair().unwrap()
}
