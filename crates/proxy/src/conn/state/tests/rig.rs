//! Two threads of two processes, with sockets that are as quick as a function call.
//!
//! Whatever is written to a Unix socket can be read at once: a connection has done all that it can when a run brings no event
//! and moves nothing, and nothing here waits.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::{self, Errno};
use rustix::net::{self, AddressFamily, Shutdown, SocketFlags, SocketType};

use crate::access_log::{AccessLog, LogWriter};
use crate::config::{self, SystemResolver};
use crate::conn::context::Cx;
use crate::conn::state::{self, Sheet};
use crate::conn::{Conn, End, Fate, Handshake, HttpConn, LocalListener, Tunnel};
use crate::event_loop::Socket;
use crate::generation::Generation;
use crate::metrics::Metrics;
use crate::reactor::{ConnKey, Io, Owner, Reactor};
use crate::traffic::Published;

pub(super) const KEY: ConnKey = ConnKey { index: 0, stamp: 0 };

/// Turns in which everything must have come to rest.
const TURNS: usize = 10_000;

/// A listening Unix socket that plays the endpoint, and the configuration that names it.
pub(super) struct Stage {
    pub(super) directory: tempfile::TempDir,
    listener: OwnedFd,
}

impl Stage {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let listener = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let address = net::SocketAddrUnix::new(directory.path().join("endpoint")).unwrap();
        net::bind(&listener, &address).unwrap();
        net::listen(&listener, 16).unwrap();
        Self { directory, listener }
    }

    pub(super) fn config(&self) -> String {
        format!(
            "[listeners.web]\naddress = \"127.0.0.1:0\"\n\
             [listeners.raw]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nservice = \"app\"\n\
             [services.app]\nendpoints = \"unix:{}\"\nbalance = \"least-connections\"\nkeep_alive = {{ idle = 0 }}\n\
             [[routes]]\nservice = \"app\"\n\
             [log]\naccess = \"{}\"\n",
            self.directory.path().join("endpoint").display(),
            self.log().display(),
        )
    }

    pub(super) fn log(&self) -> std::path::PathBuf {
        self.directory.path().join("access.log")
    }

    /// A process.
    pub(super) fn process(&self) -> Process {
        Process::new(&self.config())
    }

    /// The connection that somebody has made to the endpoint.
    pub(super) fn accept(&self) -> Option<OwnedFd> {
        match net::accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(fd) => Some(fd),
            Err(errno) => {
                assert_eq!(errno, Errno::AGAIN);
                None
            }
        }
    }
}

/// What one thread of a process has.
pub(super) struct Process {
    pub(super) cx: Cx,
    pub(super) writer: LogWriter,
    published: Arc<Published>,
}

fn generation(text: &str, previous: Option<&Generation>, metrics: &Metrics) -> Generation {
    let mut read = |path: &Path| std::fs::read(path).map(Into::into);
    let base = Path::new("/");
    let checked =
        config::parse("test", base, text.as_bytes(), &mut read, &mut SystemResolver::default()).unwrap();
    let schedule = handover_tls::Schedule { rotate: Duration::from_secs(3_600), keep: 2 };
    let tickets = handover_tls::Tickets::new(schedule, std::time::SystemTime::now()).unwrap();
    Generation::build(checked.config, &checked.routes, previous, metrics, &Arc::new(tickets)).unwrap()
}

impl Process {
    pub(super) fn new(text: &str) -> Self {
        let metrics = Arc::new(Metrics::new(1));
        let published = Arc::new(Published::default());
        published.commit(Arc::new(generation(text, None, &metrics)));
        let reactor = Reactor::new(Reactor::create_epoll().unwrap());
        let writer = LogWriter::start().unwrap();
        let log = AccessLog::new(writer.clone());
        let mut cx = Cx::new(0, reactor, &published, metrics, Arc::default(), log);
        cx.refresh();
        let local = cx.local().clone();
        for (position, plan) in local.generation.listeners.iter().enumerate() {
            let socket = Socket {
                serial: position as u64,
                name: Arc::clone(&plan.name),
                address: local.generation.addresses(position)[0].clone(),
                fd: Arc::new(pair().0),
                open: Arc::default(),
            };
            cx.listeners.insert(LocalListener::new(&socket, local.clone(), position));
        }
        Self { cx, writer, published }
    }

    /// Another generation is published, and followed.
    pub(super) fn reload(&mut self, text: &str) {
        let new = generation(text, Some(&self.published.generation()), &self.cx.metrics);
        self.published.commit(Arc::new(new));
        self.cx.refresh();
    }

    pub(super) fn listener(&self, name: &str) -> u32 {
        let mut listeners = self.cx.listeners.iter();
        let (number, _) = listeners.find(|(_, listener)| &*listener.name == name).unwrap();
        u32::try_from(number).unwrap()
    }

    /// A client's connection to a listener, and the client's end.
    pub(super) fn connect(&mut self, listener: &str) -> (Conn, OwnedFd) {
        let (near, far) = pair();
        let io = self.cx.reactor.adopt(near, Owner::Conn(KEY), true);
        let number = self.listener(listener);
        let conn = if listener == "safe" {
            Conn::Handshake(Box::new(Handshake::new(KEY, io, None, number, &self.cx).unwrap()))
        } else if listener == "raw" {
            Conn::Tunnel(Box::new(Tunnel::tcp(KEY, io, None, number, &self.cx).unwrap()))
        } else {
            Conn::Http(Box::new(HttpConn::new(KEY, io, None, number, &self.cx).unwrap()))
        };
        (conn, far)
    }

    /// Notes events; how many.
    pub(super) fn events(&mut self) -> usize {
        let count = self.cx.reactor.wait(Some(Duration::ZERO)).unwrap();
        (0..count).for_each(|index| {
            self.cx.reactor.event(index);
        });
        self.cx.clock.update();
        count
    }

    /// Lets a connection do all that it can; how it ended, if it did.
    pub(super) fn run(&mut self, mut conn: Conn) -> Result<Conn, End> {
        for _ in 0..TURNS {
            let events = self.events();
            self.cx.may_step = true;
            match conn.run(&mut self.cx) {
                Fate::Over(end) => {
                    conn.close(end, &mut self.cx);
                    return Err(end);
                }
                Fate::Upgraded => {
                    conn = match conn {
                        Conn::Http(http) => Conn::Tunnel(Box::new(http.into_tunnel(&mut self.cx).unwrap())),
                        Conn::Handshake(handshake) => handshake.into_conn(&mut self.cx).unwrap(),
                        Conn::Tunnel(_) => panic!("a tunnel is one already"),
                    };
                }
                Fate::Parked if events == 0 => return Ok(conn),
                Fate::Parked | Fate::Again | Fate::Later => {}
            }
        }
        panic!("no rest: {conn:?}");
    }

    /// Requests and tunnels that the service counts as in progress.
    pub(super) fn active(&self) -> u64 {
        self.cx.local().generation.services[0].cells.of(0).active.get()
    }

    /// The same, as endpoints count them.
    pub(super) fn in_use(&self) -> u32 {
        let endpoint = &self.cx.local().generation.services[0].endpoints[0];
        endpoint.active.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// What a connection's state becomes in another process.
pub(super) struct Written {
    pub(super) bytes: Vec<u8>,
    pub(super) sockets: HashMap<u64, OwnedFd>,
}

/// Writes connections down, without changing anything.
pub(super) fn write<'a>(
    process: &Process,
    conns: impl IntoIterator<Item = &'a Conn>,
    format: u16,
) -> Written {
    let (mut sheet, mut sockets) = (Sheet::new(format), HashMap::new());
    for conn in conns {
        assert!(conn.is_movable(&process.cx), "{conn:?}");
        sheet.push(conn, &process.cx, &mut |io: &Io| {
            let number = sockets.len() as u64;
            sockets.insert(number, io.as_fd().try_clone_to_owned().unwrap());
            number
        });
    }
    Written { bytes: sheet.finish(), sockets }
}

/// Reads connections.
pub(super) fn take(process: &mut Process, written: Written, format: u16) -> Vec<Conn> {
    let Written { bytes, mut sockets } = written;
    let section = state::read(format, &bytes).unwrap();
    assert_eq!(section.write(format), bytes);
    let places = section.places(&process.cx).unwrap();
    let mut ios: HashMap<u64, Io> = HashMap::new();
    for (number, fd) in sockets.drain() {
        ios.insert(number, process.cx.reactor.receive(fd).unwrap());
    }
    let conns = section
        .conns
        .into_iter()
        .map(|parsed| {
            parsed.into_conn(&places, &mut process.cx, KEY, &mut |number| ios.remove(&number)).unwrap()
        })
        .collect();
    assert!(ios.is_empty(), "all sockets belong to somebody");
    conns
}

/// Moves a connection to another process.
pub(super) fn move_to(from: &mut Process, to: &mut Process, conn: Conn, format: u16) -> Conn {
    let held = from.cx.buffers.bytes_out();
    let written = write(from, [&conn], format);
    let again = write(from, [&conn], format);
    assert_eq!(written.bytes.len(), again.bytes.len());
    assert_eq!(from.cx.buffers.bytes_out(), held, "writing changes nothing");
    let active = (from.active(), from.in_use());
    let one = u64::from(written.sockets.len() == 2);
    let mut conns = take(to, written, format);
    conn.let_go(&mut from.cx);
    assert_eq!((from.active(), u64::from(from.in_use())), (active.0 - one, u64::from(active.1) - one));
    assert_eq!(from.cx.buffers.bytes_out(), 0);
    assert_eq!(conns.len(), 1);
    conns.pop().unwrap()
}

/// Two ends of a connection.
pub(super) fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
}

/// Writes all of it, unless the other side has gone.
pub(super) fn say(fd: &OwnedFd, bytes: &[u8]) {
    match net::send(fd, bytes, net::SendFlags::NOSIGNAL) {
        Ok(count) => assert_eq!(count, bytes.len()),
        Err(errno) => assert!(matches!(errno, Errno::PIPE | Errno::CONNRESET), "{errno}"),
    }
}

/// Says that nothing more follows.
pub(super) fn end(fd: &OwnedFd) {
    net::shutdown(fd, Shutdown::Write).unwrap();
}

/// Appends what there is to read; true if that was all that there ever will be.
pub(super) fn hear(fd: &OwnedFd, to: &mut Vec<u8>) -> bool {
    let mut bytes = vec![0; 256 * 1024];
    loop {
        match io::read(fd, &mut bytes[..]) {
            Ok(0) | Err(Errno::CONNRESET) => return true,
            Ok(count) => to.extend_from_slice(&bytes[..count]),
            Err(errno) => {
                assert_eq!(errno, Errno::AGAIN);
                return false;
            }
        }
    }
}
