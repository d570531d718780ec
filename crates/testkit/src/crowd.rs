//! Clients of every kind that never rest, and to whom nothing may happen: what is done to a server shows in them.
//!
//! ```text
//!   add ──▶ round ──▶ round ──▶ … ──▶ finish        a round checks every byte that comes
//!             └── an error: the client ends, and the crowd is not well
//! ```
//!
//! Each client has a thread of its own and one connection for its whole life, except [`fresh`] ones, who come and go.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::deadline::{DEADLINE, Deadline};
use crate::http::{Connection, request_bytes};
use crate::pattern;
use crate::tls::TlsClient;
use crate::websocket::WebSocket;

/// How long a client rests between two rounds: a crowd must not take all of a small machine.
const REST: Duration = Duration::from_millis(2);
/// The keys of a TLS 1.3 connection are changed after so many rounds.
const ROUNDS_TO_NEW_KEYS: u64 = 10;
/// The length of a long download: much more than all buffers on its way hold.
const DOWNLOAD_BYTES: u64 = 30_000_000;
/// What is read of it in one round.
const DOWNLOAD_PIECE_BYTES: usize = 100_000;
/// The length of a long upload.
const UPLOAD_BYTES: usize = 400_000;
/// What is sent of it in one round.
const UPLOAD_PIECE_BYTES: usize = 20_000;

/// One client's life so far.
#[derive(Debug, Clone)]
struct Client {
    name: String,
    rounds: u64,
    failure: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    /// All clients, and whether they are to go.
    clients: Mutex<(Vec<Client>, bool)>,
    came: Condvar,
}

impl Shared {
    /// A failed assertion under the lock must not hide behind those of the clients.
    fn lock(&self) -> MutexGuard<'_, (Vec<Client>, bool)> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Clients that go on until [`Crowd::finish`].
#[derive(Debug, Default)]
pub struct Crowd {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Crowd {
    /// Nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a client join, who does this again and again; an error ends it and is a failure.
    pub fn add(&mut self, name: &str, mut round: impl FnMut() -> io::Result<()> + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        let number = {
            let mut clients = shared.lock();
            clients.0.push(Client { name: name.to_owned(), rounds: 0, failure: None });
            clients.0.len() - 1
        };
        self.threads.push(thread::spawn(move || {
            loop {
                let done = round();
                let mut clients = shared.lock();
                let over = clients.1;
                let client = &mut clients.0[number];
                client.failure = done.err().map(|error| error.to_string());
                client.rounds += 1;
                shared.came.notify_all();
                if over || client.failure.is_some() {
                    return;
                }
                drop(clients);
                thread::park_timeout(REST);
            }
        }));
    }

    /// Waits until every client has gone through so many more rounds, from its beginning.
    ///
    /// # Panics
    /// One of them has met a failure.
    #[track_caller]
    pub fn rounds(&self, more: u64) {
        let deadline = Deadline::usual();
        let mut clients = self.shared.lock();
        // The round that is under way began before.
        let wanted: Vec<u64> = clients.0.iter().map(|client| client.rounds + more + 1).collect();
        loop {
            self.expect_no_failure(&clients.0);
            if clients.0.iter().zip(&wanted).all(|(client, wanted)| client.rounds >= *wanted) {
                return;
            }
            assert!(!deadline.passed(), "waited {DEADLINE:?} in vain for rounds of {:?}", clients.0);
            clients = self.shared.came.wait_timeout(clients, deadline.left()).unwrap().0;
        }
    }

    /// Asserts that nobody met a failure so far.
    #[track_caller]
    pub fn expect_well(&self) {
        self.expect_no_failure(&self.shared.lock().0);
    }

    #[track_caller]
    fn expect_no_failure(&self, clients: &[Client]) {
        let failures: Vec<String> = clients
            .iter()
            .filter_map(|one| {
                Some(format!("{}, in round {}: {}", one.name, one.rounds, one.failure.as_ref()?))
            })
            .collect();
        assert!(failures.is_empty(), "{} of {} clients: {failures:#?}", failures.len(), clients.len());
    }

    /// Lets everybody go after one more round and asserts that nobody ever met a failure.
    ///
    /// # Panics
    /// Somebody has.
    #[track_caller]
    pub fn finish(mut self) {
        self.rounds(1);
        self.end();
        self.expect_well();
    }

    fn end(&mut self) {
        self.shared.lock().1 = true;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.end();
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Changes the keys of a connection now and then, if it can.
#[derive(Debug)]
struct Keys {
    change: bool,
    rounds: u64,
}

impl Keys {
    fn of(change: bool) -> Self {
        Self { change, rounds: 0 }
    }

    fn round(&mut self, connection: &mut Connection) {
        self.rounds += 1;
        if self.change && self.rounds.is_multiple_of(ROUNDS_TO_NEW_KEYS) {
            connection.update_keys();
        }
    }
}

/// Whoever asks for one thing after the other over one connection; `keys` says whether its keys are to be changed now and
/// then (TLS 1.3 only).
pub fn keep_alive(mut connection: Connection, keys: bool) -> impl FnMut() -> io::Result<()> + Send {
    let (mut keys, mut length) = (Keys::of(keys), 0);
    move || {
        keys.round(&mut connection);
        length = (length + 7919) % 50_000;
        let response = connection.try_get(&format!("/bytes/{length}"))?;
        match response.status() {
            200 if response.head.closes() => Err(wrong("the connection is to be closed")),
            200 if response.body == pattern::bytes(length) => Ok(()),
            200 => Err(wrong("another body")),
            status => Err(wrong(&format!("status {status}"))),
        }
    }
}

/// Who connects, asks for one thing, and leaves.
pub fn fresh(address: SocketAddr, tls: Option<TlsClient>) -> impl FnMut() -> io::Result<()> + Send {
    move || {
        let mut connection = match &tls {
            Some(client) => client.try_connect(address)?.connection,
            None => Connection::try_open(address)?,
        };
        connection.try_send(request_bytes("GET", "/bytes/1000", &[("Connection", "close")], b""))?;
        let response = connection.try_response("GET")?;
        if response.status() == 200 && response.body == pattern::bytes(1000) {
            Ok(())
        } else {
            Err(wrong(&format!("status {}", response.status())))
        }
    }
}

/// Who talks over a WebSocket (`/ws`), in messages of up to 60 KB.
pub fn websocket(connection: Connection, keys: bool) -> impl FnMut() -> io::Result<()> + Send {
    let (mut socket, mut keys, mut length) = (WebSocket::upgrade(connection, "/ws"), Keys::of(keys), 0);
    move || {
        keys.round(socket.connection());
        length = (length + 7919) % 60_000;
        let text = "abcdefghij".repeat(length / 10) + "end";
        match socket.try_echo(&text)? {
            back if back == text => Ok(()),
            _ => Err(wrong("another text came back")),
        }
    }
}

/// Who talks through a tunnel to something that sends back what it gets, up to 900 KB at a time.
pub fn tunnel(mut connection: Connection, keys: bool) -> impl FnMut() -> io::Result<()> + Send {
    let (mut keys, mut length) = (Keys::of(keys), 0);
    move || {
        keys.round(&mut connection);
        length = (length + 79_193) % 900_000;
        let bytes = pattern::bytes(length + 1);
        // All of it is under way at once, so that both sides have to wait for each other in the middle.
        for (piece, at) in bytes.chunks(UPLOAD_PIECE_BYTES).zip((0..).step_by(UPLOAD_PIECE_BYTES)) {
            connection.try_send(piece)?;
            if connection.try_exactly(piece.len())? != bytes[at..at + piece.len()] {
                return Err(wrong("other bytes came back"));
            }
        }
        Ok(())
    }
}

/// Who downloads something long, piece by piece, and then the same once more.
pub fn download(mut connection: Connection, keys: bool) -> impl FnMut() -> io::Result<()> + Send {
    let (mut keys, mut check, mut begun) = (Keys::of(keys), pattern::Check::default(), false);
    move || {
        keys.round(&mut connection);
        if !begun {
            connection.try_send(request_bytes("GET", &format!("/bytes/{DOWNLOAD_BYTES}"), &[], b""))?;
            let head = connection.try_head()?;
            if head.status != 200 || head.header("content-length") != Some(&DOWNLOAD_BYTES.to_string()) {
                return Err(wrong(&String::from_utf8_lossy(&head.raw)));
            }
            begun = true;
        }
        let left = usize::try_from(DOWNLOAD_BYTES - check.seen()).unwrap_or(usize::MAX);
        let piece = connection.try_exactly(left.min(DOWNLOAD_PIECE_BYTES))?;
        check.piece(&piece).map_err(|at| wrong(&format!("byte {at} is wrong")))?;
        if check.seen() == DOWNLOAD_BYTES {
            (check, begun) = (pattern::Check::default(), false);
        }
        Ok(())
    }
}

/// Who uploads something, piece by piece, compares what comes back, and does the same once more.
pub fn upload(mut connection: Connection, keys: bool) -> impl FnMut() -> io::Result<()> + Send {
    let (mut keys, mut sent, body) = (Keys::of(keys), 0, pattern::bytes(UPLOAD_BYTES));
    move || {
        keys.round(&mut connection);
        if sent == 0 {
            let length = UPLOAD_BYTES;
            let head = format!("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
            connection.try_send(head)?;
        }
        let end = (sent + UPLOAD_PIECE_BYTES).min(body.len());
        connection.try_send(&body[sent..end])?;
        sent = end;
        if sent < body.len() {
            return Ok(());
        }
        sent = 0;
        let response = connection.try_response("POST")?;
        match response.status() {
            200 if response.body == body => Ok(()),
            200 => Err(wrong("another body came back")),
            status => Err(wrong(&format!("status {status}"))),
        }
    }
}

/// Who is silent until [`Idle::ask`].
#[derive(Debug, Default)]
pub struct Idle(Vec<Connection>);

impl Idle {
    /// Lets a connection join that has had an answer and is kept.
    pub fn add(&mut self, mut connection: Connection) {
        let response = connection.get("/bytes/10");
        assert_eq!((response.status(), response.body), (200, pattern::bytes(10)));
        self.0.push(connection);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Everybody asks for something, and gets it.
    #[track_caller]
    pub fn ask(&mut self) {
        for (number, connection) in self.0.iter_mut().enumerate() {
            match connection.try_get("/bytes/2000") {
                Ok(response) => {
                    assert_eq!((response.status(), response.body), (200, pattern::bytes(2000)), "{number}");
                }
                Err(error) => panic!("idle connection {number} is broken: {error}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::echo::Echo;
    use crate::origin::Origin;

    #[test]
    fn a_crowd_is_well_while_its_server_is_and_says_when_it_is_not() {
        let (origin, echo) = (Origin::start("origin"), Echo::start());
        let connect = || Connection::open(origin.address());
        let mut crowd = Crowd::new();
        crowd.add("keep-alive", keep_alive(connect(), false));
        crowd.add("fresh", fresh(origin.address(), None));
        crowd.add("WebSocket", websocket(connect(), false));
        crowd.add("download", download(connect(), false));
        crowd.add("upload", upload(connect(), false));
        crowd.add("tunnel", tunnel(Connection::open(echo.address()), false));
        crowd.rounds(5);
        crowd.expect_well();
        origin.cut();
        let hurt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| crowd.rounds(50)));
        let why = *hurt.unwrap_err().downcast::<String>().unwrap();
        // Which of them notices first is chance.
        assert!(why.contains(", in round"), "{why}");
    }
}
