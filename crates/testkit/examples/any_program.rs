//! A program that nobody wrote for handover: a small HTTP server on inherited sockets, and everything that such programs do
//! wrong, when it is asked to. Its arguments are words:
//!
//! ```text
//!   port N · socket PATH · fd N      where it listens; without one of these on what LISTEN_FDS says
//!   says WORD                        what its answers begin with; otherwise the first line of the file `version` in its directory
//!   notify                           it says READY=1, and RELOADING=1 … READY=1 on HUP
//!   starts-slowly MS · starts-when FILE    takes so long before it is ready; waits until there is such a file
//!   lock FILE                        needs this lock, and exits with 4 if somebody has it
//!   binds-nothing · answers-500 · dies-after MS · ignores-term · forks · leaves-children · floods · dies-at-once
//!   inetd · inetd-wait               one connection on stdin and stdout; the listening socket as stdin
//! ```
//!
//! Answers say `WORD PID NUMBER`: the number counts reloads. `/wait` says so and answers after somebody has asked for `/go`;
//! `/die` ends the process; `/descriptors` and `/environment` show what it was given; `/slow/MS` takes so long.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what it is asked for wrongly may end it"
)]

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio, exit};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use handover_handoff::inherit::{self, Expected, LeftOpen};
use handover_handoff::signals::Signals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What it exits with when somebody else has the lock.
const LOCKED: i32 = 4;
/// What it exits with when it dies.
const DIED: i32 = 3;
/// How often it looks at what nobody tells it.
const LOOK: Duration = Duration::from_millis(20);
/// How often it looks, when it is to end, for the first request of a connection that it has accepted: whoever has just connected is
/// about to ask.
const PATIENCE: u32 = 50;
/// How much it writes when it floods: in lines of a thousand bytes.
const FLOOD_LINES: usize = 100_000;

fn main() {
    let words = Words(env::args().skip(1).collect());
    if words.has("dies-at-once") {
        eprintln!("any_program: cannot go on: the moon is full");
        exit(DIED);
    }
    if words.has("inetd") {
        return one_connection();
    }
    if words.has("forks") {
        forks();
    }
    let signals = Signals::new().unwrap();
    if words.has("leaves-children") {
        leave_children();
    }
    if words.has("floods") {
        flood();
    }
    let _lock = words.after("lock").map(lock);
    words.after("starts-slowly").map(millis).inspect(|time| pause(*time));
    while words.after("starts-when").is_some_and(|file| !fs::exists(file).unwrap()) {
        pause(LOOK);
    }
    let server = Arc::new(Server::new(&words));
    if words.has("inetd-wait") {
        let stdin = io::stdin().as_fd().try_clone_to_owned().unwrap();
        accept_on(&server, stdin);
    } else if !words.has("binds-nothing") {
        listen(&words, &server);
    }
    if words.has("notify") && !words.has("binds-nothing") {
        tell("READY=1\nSTATUS=any_program serves\n");
    }
    if let Some(time) = words.after("dies-after").map(millis) {
        pause(time);
        eprintln!("any_program: died of old age");
        exit(DIED);
    }
    obey(&signals, &words, &server);
}

/// The arguments.
struct Words(Vec<String>);

impl Words {
    fn has(&self, word: &str) -> bool {
        self.0.iter().any(|had| had == word)
    }

    fn after(&self, word: &str) -> Option<&str> {
        let at = self.0.iter().position(|had| had == word)?;
        self.0.get(at + 1).map(String::as_str)
    }
}

fn millis(text: &str) -> Duration {
    Duration::from_millis(text.parse().expect("milliseconds"))
}

/// Lets time pass.
fn pause(time: Duration) {
    let (_sender, receiver) = channel::<()>();
    let _ = receiver.recv_timeout(time);
}

/// Says something to who has started it.
fn tell(text: &str) {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return };
    let socket = UnixDatagram::unbound().unwrap();
    let sent = match path.to_str().and_then(|path| path.strip_prefix('@')) {
        None => socket.send_to(text.as_bytes(), path),
        Some(name) => {
            use std::os::linux::net::SocketAddrExt as _;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
            socket.send_to_addr(text.as_bytes(), &address)
        }
    };
    sent.expect("NOTIFY_SOCKET takes it");
}

fn lock(path: &str) -> fs::File {
    let file = fs::File::create(path).unwrap();
    if file.try_lock().is_err() {
        eprintln!("any_program: {path} is locked: another one uses the database");
        exit(LOCKED);
    }
    file
}

/// The first process ends and leaves the work to its child.
fn forks() {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    // Whose child it is cannot be ready any more.
    arguments.retain(|word| !["forks", "notify"].contains(&word.as_str()));
    // As one that was forked it takes the sockets for its own.
    let child = Command::new("sh")
        .args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""])
        .arg(env::current_exe().unwrap())
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    println!("any_program: {} goes on in the background", child.id());
    exit(0)
}

/// One in its process group, one in a session of its own; both wait for nothing and ignore everything.
fn leave_children() {
    let stay = "trap '' TERM HUP INT; exec tail -f /dev/null";
    let near = Command::new("sh").args(["-c", stay]).stdin(Stdio::null()).spawn().unwrap();
    let far = Command::new("setsid").args(["sh", "-c", stay]).stdin(Stdio::null()).spawn().unwrap();
    let own = Command::new("sh").args(["-c", stay]).process_group(0).stdin(Stdio::null()).spawn().unwrap();
    println!("any_program: children {} {} {}", near.id(), far.id(), own.id());
    // What it is bad for: it waits for nobody.
    [near, far, own].into_iter().for_each(std::mem::forget);
}

fn flood() {
    let line = format!("{}\n", "x".repeat(999));
    let mut stderr = io::stderr().lock();
    for _ in 0..FLOOD_LINES {
        stderr.write_all(line.as_bytes()).unwrap();
    }
    eprintln!("any_program: that was all");
}

/// The old way: a connection as standard input and output. It lasts as long as the one at the other end.
fn one_connection() {
    let mut version = None;
    for line in io::stdin().lines().map_while(Result::ok) {
        let version = version.get_or_insert_with(|| fs::read_to_string("version").unwrap_or_default());
        println!("{} {} {}", line.trim(), version.trim(), std::process::id());
    }
}

fn listen(words: &Words, server: &Arc<Server>) {
    if let Some(port) = words.after("port") {
        let listener = TcpListener::bind(("127.0.0.1", port.parse().unwrap())).unwrap();
        accept_on(server, listener.into());
    } else if let Some(path) = words.after("socket") {
        let _ = fs::remove_file(path);
        accept_on(server, UnixListener::bind(path).unwrap().into());
    } else if let Some(number) = words.after("fd") {
        let number = number.parse().unwrap();
        accept_on(server, LeftOpen::take(&[number]).duplicate(number, Expected::Socket).unwrap());
    } else {
        let sockets = inherit::listen_fds().expect("LISTEN_FDS");
        assert!(!sockets.is_empty(), "LISTEN_FDS says nothing, or LISTEN_PID is not {}", std::process::id());
        sockets.into_iter().for_each(|socket| accept_on(server, socket.socket));
    }
}

/// What all connections share.
struct Server {
    says: String,
    status: &'static str,
    reloads: AtomicU64,
    ends: AtomicBool,
    open: AtomicU64,
    gone: (Mutex<bool>, Condvar),
}

impl Server {
    fn new(words: &Words) -> Self {
        let version = || fs::read_to_string("version").map(|text| text.trim().to_owned());
        Self {
            says: words
                .after("says")
                .map_or_else(|| version().unwrap_or_else(|_| "any".to_owned()), str::to_owned),
            status: if words.has("answers-500") { "500 Internal Server Error" } else { "200 OK" },
            reloads: AtomicU64::new(0),
            ends: AtomicBool::new(false),
            open: AtomicU64::new(0),
            gone: (Mutex::new(false), Condvar::new()),
        }
    }

    fn answer(&self, path: &str) -> String {
        match path {
            "/wait" => {
                println!("any_program: somebody waits");
                let mut gone = self.gone.0.lock().unwrap();
                while !*gone {
                    gone = self.gone.1.wait(gone).unwrap();
                }
            }
            "/go" => {
                *self.gone.0.lock().unwrap() = true;
                self.gone.1.notify_all();
            }
            "/die" => exit(DIED),
            "/descriptors" => return descriptors(),
            "/environment" => {
                return env::vars_os()
                    .map(|(name, value)| format!("{}={}\n", name.display(), value.display()))
                    .collect();
            }
            _ => {
                path.strip_prefix("/slow/").map(millis).inspect(|time| pause(*time));
            }
        }
        format!("{} {} {}\n", self.says, std::process::id(), self.reloads.load(Ordering::SeqCst))
    }
}

/// What this process has open: numbers and what they lead to.
fn descriptors() -> String {
    let mut all: Vec<(u32, String)> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let target = fs::read_link(entry.path()).ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, target.display().to_string()))
        })
        .collect();
    all.sort_unstable();
    all.into_iter().map(|(number, target)| format!("{number} {target}\n")).collect()
}

/// Takes connections from a listening socket, of whatever family, on a thread of its own, which counts among what is open: what it
/// has taken is answered before the end.
fn accept_on(server: &Arc<Server>, socket: OwnedFd) {
    let server = Arc::clone(server);
    server.open.fetch_add(1, Ordering::SeqCst);
    std::thread::spawn(move || {
        while !server.ends.load(Ordering::SeqCst) {
            let mut waits = [PollFd::new(&socket, PollFlags::IN)];
            if poll(&mut waits, Timespec::try_from(LOOK).ok().as_ref()) != Ok(1)
                || server.ends.load(Ordering::SeqCst)
            {
                continue;
            }
            // Another process may have been quicker, and the socket may be a blocking one: one that a server shares should not be.
            let _ = rustix::io::ioctl_fionbio(&socket, true);
            let Ok(connection) = rustix::net::accept(&socket) else { continue };
            let _ = rustix::io::ioctl_fionbio(&connection, false);
            server.open.fetch_add(1, Ordering::SeqCst);
            let server = Arc::clone(&server);
            std::thread::spawn(move || {
                // A TcpStream is a socket with read and write, of whatever family.
                let _ = converse(&server, &TcpStream::from(connection));
                server.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
        server.open.fetch_sub(1, Ordering::SeqCst);
    });
}

/// Requests without a body, one after the other.
fn converse(server: &Server, connection: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(connection);
    let mut patience = PATIENCE;
    loop {
        if !wait_for_request(server, connection, &reader, patience)? {
            return Ok(());
        }
        patience = 0;
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let (mut length, mut closes) = (0, false);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            match line.split_once(": ") {
                _ if line.is_empty() => break,
                Some(("content-length", value)) => length = value.parse().unwrap_or(0),
                Some(("connection", value)) => closes |= value == "close",
                _ => {}
            }
        }
        io::copy(&mut (&mut reader).take(length), &mut io::sink())?;
        let path = first.split(' ').nth(1).unwrap_or("/").to_owned();
        let body = server.answer(&path);
        closes |= server.ends.load(Ordering::SeqCst);
        let connection_header = if closes { "close" } else { "keep-alive" };
        let mut answer = format!(
            "HTTP/1.1 {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection_header}\r\n\r\n",
            server.status,
            body.len()
        );
        if !first.starts_with("HEAD ") {
            answer.push_str(&body);
        }
        (&*connection).write_all(answer.as_bytes())?;
        if closes {
            return Ok(());
        }
    }
}

/// Whether another request comes before this server ends, or while it is looked for as often as this afterwards.
fn wait_for_request(
    server: &Server,
    connection: &TcpStream,
    reader: &BufReader<&TcpStream>,
    mut patience: u32,
) -> io::Result<bool> {
    while reader.buffer().is_empty() {
        let mut waits = [PollFd::new(connection, PollFlags::IN)];
        match poll(&mut waits, Timespec::try_from(LOOK).ok().as_ref()) {
            Ok(0) if server.ends.load(Ordering::SeqCst) && patience == 0 => return Ok(false),
            Ok(0) if server.ends.load(Ordering::SeqCst) => patience -= 1,
            Ok(0) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(true)
}

/// Does what signals say, until one says that it is over.
fn obey(signals: &Signals, words: &Words, server: &Server) {
    loop {
        let _ = poll(&mut [PollFd::new(signals, PollFlags::IN)], None);
        while let Ok(Some(number)) = signals.next() {
            match rustix::process::Signal::from_named_raw(number) {
                Some(rustix::process::Signal::HUP) => {
                    if words.has("notify") {
                        tell(&format!("RELOADING=1\nMONOTONIC_USEC={}\n", monotonic_usec()));
                    }
                    server.reloads.fetch_add(1, Ordering::SeqCst);
                    println!("any_program: read everything anew");
                    if words.has("notify") {
                        tell("READY=1\n");
                    }
                }
                Some(
                    rustix::process::Signal::TERM
                    | rustix::process::Signal::INT
                    | rustix::process::Signal::QUIT,
                ) if !words.has("ignores-term") => {
                    return end(server);
                }
                _ => println!("any_program: signal {number} means nothing to it"),
            }
        }
    }
}

fn monotonic_usec() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

/// Accepts nothing more, and lets answers end.
fn end(server: &Server) {
    tell("STOPPING=1\n");
    server.ends.store(true, Ordering::SeqCst);
    while server.open.load(Ordering::SeqCst) > 0 {
        pause(Duration::from_millis(5));
    }
}
