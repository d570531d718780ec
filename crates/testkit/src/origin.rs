//! An HTTP origin behind the proxy, in threads of the test process, steered by the test.
//!
//! Without a handler of the test's own it answers by path:
//!
//! | path | answer |
//! |---|---|
//! | `/bytes/N` | N bytes of the test pattern, with a length |
//! | `/chunked/N` | the same in chunks of 1,000 bytes, with a trailer `X-Check: done` |
//! | `/stream/N` | the same without length or chunks, ended by closing |
//! | `/slow/N?gate=G` | a length of N, half the bytes, then the rest once gate G is open; with `how=chunked` in two chunks, of which the second is begun at once; with `how=stream` ended by closing |
//! | `/cut/N` | a length of N, half the bytes, then an abrupt end |
//! | `/held?gate=G` | `held` once gate G is open |
//! | `/status/C` | an empty answer with status C |
//! | `/head` | the request's head as it came |
//! | `/echo` | the request's body |
//! | `/drop` | no answer: the connection is closed after the request was read |
//! | `/ws` | a WebSocket that sends every frame back |
//! | anything else | `<name of the origin>\n` |

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::deadline::{DEADLINE, Deadline, PATIENCE};
use crate::gate::{Gate, Gates};
use crate::http::{Connection, Fields, Stream};
use crate::pattern;
use crate::tls::Client;
use crate::websocket::{ACCEPT, CLOSE, read_frame, server_frame};

/// Length of the chunks of `/chunked/N`.
const CHUNK_BYTES: usize = 1000;

/// A request as the origin got it.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its method.
    pub method: String,
    /// Its target as it came.
    pub target: String,
    /// Names as they came, values trimmed.
    pub headers: Fields,
    /// The bytes of the head, the empty line included.
    pub raw: String,
    /// Its body, with any chunking taken off.
    pub body: Vec<u8>,
    /// Trailers after a chunked body.
    pub trailers: Fields,
    /// Which of the origin's connections it came over, counted from 1.
    pub connection: usize,
    /// What the handshake showed, over TLS.
    pub tls: Option<Client>,
}

impl Request {
    /// The value of a header; the first, if it is repeated.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The target without its query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// A parameter of the query.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let query = self.target.split_once('?')?.1;
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

/// What becomes of the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The next request is read.
    Next,
    /// It is closed in order.
    Close,
    /// It is reset.
    Reset,
}

/// The origin's end of a connection, given to a handler.
#[derive(Debug)]
pub struct Answer<'a> {
    connection: &'a mut Connection,
    gates: &'a Gates,
    name: &'a str,
    /// Whether the client asked for the head alone.
    pub head_only: bool,
}

impl Answer<'_> {
    /// Sends a whole answer with a length.
    ///
    /// # Errors
    /// The client is gone.
    pub fn whole(&mut self, status: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Then> {
        let mut bytes = head(status, headers);
        bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        if !self.head_only {
            bytes.extend_from_slice(body);
        }
        self.send(&bytes)?;
        Ok(Then::Next)
    }

    /// Sends these bytes as they are.
    ///
    /// # Errors
    /// The client is gone.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.connection.try_send(bytes)
    }

    /// A gate of the origin's, by name.
    #[must_use]
    pub fn gate(&self, name: &str) -> Gate {
        self.gates.named(name)
    }

    /// The connection itself, for handlers that read on.
    pub fn connection(&mut self) -> &mut Connection {
        self.connection
    }
}

type Handler = dyn Fn(&Request, &mut Answer<'_>) -> io::Result<Then> + Send + Sync;

struct Shared {
    name: String,
    handler: Option<Box<Handler>>,
    tls: Option<Arc<ServerConfig>>,
    gates: Gates,
    ended: AtomicBool,
    connections: AtomicUsize,
    failed_handshakes: AtomicUsize,
    /// Copies of the descriptors of the open connections, by number.
    open: Mutex<BTreeMap<usize, Stream>>,
    requests: Mutex<Vec<Request>>,
    came: Condvar,
}

#[derive(Debug)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A running origin; dropping it closes everything.
pub struct Origin {
    place: Place,
    shared: Arc<Shared>,
    acceptor: Option<thread::JoinHandle<()>>,
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Origin").field("name", &self.shared.name).field("place", &self.place).finish()
    }
}

impl Origin {
    /// An origin on a port of its own that answers by path (see the module) and otherwise tells its name.
    #[must_use]
    pub fn start(name: &str) -> Self {
        Self::tcp(name, None, None)
    }

    /// An origin whose every answer is the handler's.
    #[must_use]
    pub fn with(
        handler: impl Fn(&Request, &mut Answer<'_>) -> io::Result<Then> + Send + Sync + 'static,
    ) -> Self {
        Self::tcp("origin", Some(Box::new(handler)), None)
    }

    /// As [`Origin::start`], over TLS (see [`crate::tls::origin_config`]).
    #[must_use]
    pub fn tls(name: &str, config: Arc<ServerConfig>) -> Self {
        Self::tcp(name, None, Some(config))
    }

    /// An origin on a Unix socket.
    #[must_use]
    pub fn on_unix(name: &str, path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("Unix socket of an origin");
        let shared = Shared::new(name, None, None);
        let inner = Arc::clone(&shared);
        let acceptor = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if !inner.accept(Stream::Unix(stream)) {
                    return;
                }
            }
        });
        Self { place: Place::Unix(path.to_owned()), shared, acceptor: Some(acceptor) }
    }

    fn tcp(name: &str, handler: Option<Box<Handler>>, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("port of an origin");
        let address = listener.local_addr().expect("address of an origin");
        let shared = Shared::new(name, handler, tls);
        let inner = Arc::clone(&shared);
        let acceptor = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if !inner.accept(Stream::Tcp(stream)) {
                    return;
                }
            }
        });
        Self { place: Place::Tcp(address), shared, acceptor: Some(acceptor) }
    }

    /// Where it listens, if that is a TCP port.
    #[must_use]
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        match &self.place {
            Place::Tcp(address) => *address,
            Place::Unix(path) => panic!("this origin is at {}", path.display()),
        }
    }

    /// One of its gates.
    #[must_use]
    pub fn gate(&self, name: &str) -> Gate {
        self.shared.gates.named(name)
    }

    /// The requests so far, in the order in which they were read whole.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Waits until this many requests have come and gives them.
    #[must_use]
    pub fn wait_for_requests(&self, count: usize) -> Vec<Request> {
        let deadline = Deadline::usual();
        let mut requests = self.shared.requests.lock().unwrap();
        while requests.len() < count {
            assert!(!deadline.passed(), "{} of {count} requests after {DEADLINE:?}", requests.len());
            requests = self.shared.came.wait_timeout(requests, deadline.left()).unwrap().0;
        }
        requests.clone()
    }

    /// How many connections it has accepted.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }

    /// How many handshakes failed.
    #[must_use]
    pub fn failed_handshakes(&self) -> usize {
        self.shared.failed_handshakes.load(Ordering::Acquire)
    }

    /// Cuts every connection that is open, and goes on accepting.
    pub fn cut(&self) {
        for stream in self.shared.open.lock().unwrap().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.gates.open_all();
        match &self.place {
            Place::Tcp(address) => drop(TcpStream::connect(address)),
            Place::Unix(path) => drop(UnixStream::connect(path)),
        }
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        self.cut();
    }
}

impl Shared {
    fn new(name: &str, handler: Option<Box<Handler>>, tls: Option<Arc<ServerConfig>>) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            handler,
            tls,
            gates: Gates::default(),
            ended: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            failed_handshakes: AtomicUsize::new(0),
            open: Mutex::default(),
            requests: Mutex::default(),
            came: Condvar::new(),
        })
    }

    /// Serves a connection in a thread of its own; false once the origin has ended.
    fn accept(self: &Arc<Self>, stream: Stream) -> bool {
        if self.ended.load(Ordering::Acquire) {
            return false;
        }
        let number = self.connections.fetch_add(1, Ordering::AcqRel) + 1;
        self.open.lock().unwrap().extend(stream.descriptor().map(|copy| (number, copy)));
        let shared = Arc::clone(self);
        thread::spawn(move || {
            match shared.greet(stream) {
                Ok((mut connection, client)) => {
                    // How the proxy ends its connections is its business: an error ends this one.
                    let then = shared.serve(&mut connection, number, client.as_ref()).unwrap_or(Then::Close);
                    end(connection, then);
                }
                Err(_) => drop(shared.failed_handshakes.fetch_add(1, Ordering::AcqRel)),
            }
            // The last copy goes: only now is the descriptor closed, and a reset sent if one was asked for.
            shared.open.lock().unwrap().remove(&number);
        });
        true
    }

    /// The handshake, where there is one.
    fn greet(&self, stream: Stream) -> io::Result<(Connection, Option<Client>)> {
        let (config, mut stream) = match (&self.tls, stream) {
            (Some(config), Stream::Tcp(stream)) => (config, stream),
            (_, stream) => return Ok((Connection::over(stream)?, None)),
        };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let mut server = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        while server.is_handshaking() {
            server.complete_io(&mut stream)?;
        }
        let client = Client::of(&server);
        let stream = Stream::TlsServer(Box::new(StreamOwned::new(server, stream)));
        Ok((Connection::over(stream)?, Some(client)))
    }

    fn serve(&self, connection: &mut Connection, number: usize, client: Option<&Client>) -> io::Result<Then> {
        connection.limit(PATIENCE);
        loop {
            let Some(mut request) = read_request(connection, number)? else { return Ok(Then::Close) };
            request.tls = client.cloned();
            self.requests.lock().unwrap().push(request.clone());
            self.came.notify_all();
            let head_only = request.method == "HEAD";
            let mut answer = Answer { connection, gates: &self.gates, name: &self.name, head_only };
            let then = match &self.handler {
                Some(handler) => handler(&request, &mut answer)?,
                None => by_path(&request, &mut answer)?,
            };
            let closes =
                request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
            match then {
                Then::Next if closes => return Ok(Then::Close),
                Then::Next => {}
                end => return Ok(end),
            }
        }
    }
}

fn end(mut connection: Connection, then: Then) {
    if then != Then::Reset {
        let _ = connection.try_say_goodbye();
    }
    let (stream, _) = connection.into_stream();
    if then == Then::Reset
        && let Stream::Tcp(stream) = &stream
    {
        let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
        return;
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn read_request(connection: &mut Connection, number: usize) -> io::Result<Option<Request>> {
    let raw = match connection.try_raw_head() {
        Ok(raw) => raw,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let raw = String::from_utf8_lossy(&raw).into_owned();
    let mut lines = raw.trim_end_matches("\r\n").split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        headers: lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect(),
        raw: raw.clone(),
        body: Vec::new(),
        trailers: Vec::new(),
        connection: number,
        tls: None,
    };
    if request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        connection.try_send("HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if request.header("transfer-encoding").is_some() {
        (request.body, request.trailers) = connection.try_chunked()?;
    } else if let Some(length) = request.header("content-length").and_then(|text| text.parse().ok()) {
        request.body = connection.try_exactly(length)?;
    }
    Ok(Some(request))
}

fn head(status: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.into_bytes()
}

fn by_path(request: &Request, answer: &mut Answer<'_>) -> io::Result<Then> {
    let mut parts = request.path().trim_start_matches('/').splitn(2, '/');
    let (what, argument) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let count: usize = argument.parse().unwrap_or_default();
    let gate = request.parameter("gate").unwrap_or("gate").to_owned();
    match what {
        "bytes" => answer.whole("200 OK", &[], &pattern::bytes(count)),
        "chunked" => chunked(answer, count),
        "stream" => {
            answer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            answer.send(&pattern::bytes(count))?;
            Ok(Then::Close)
        }
        "slow" => slow(answer, count, &gate, request.parameter("how").unwrap_or_default()),
        "cut" => begin_half(answer, count).map(|_| Then::Reset),
        "held" => {
            answer.gate(&gate).pass();
            answer.whole("200 OK", &[], b"held")
        }
        "status" => answer.whole(&format!("{argument} As Asked"), &[], b""),
        "head" => answer.whole("200 OK", &[], request.raw.as_bytes()),
        "echo" => answer.whole("200 OK", &[], &request.body),
        "drop" => Ok(Then::Close),
        "ws" => websocket(request, answer),
        _ => {
            let text = format!("{}\n", answer.name);
            answer.whole("200 OK", &[("Content-Type", "text/plain")], text.as_bytes())
        }
    }
}

fn chunked(answer: &mut Answer<'_>, count: usize) -> io::Result<Then> {
    let mut bytes = head("200 OK", &[("Transfer-Encoding", "chunked"), ("Trailer", "X-Check")]);
    bytes.extend_from_slice(b"\r\n");
    if !answer.head_only {
        for chunk in pattern::bytes(count).chunks(CHUNK_BYTES) {
            write!(bytes, "{:x}\r\n", chunk.len())?;
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\nX-Check: done\r\n\r\n");
    }
    answer.send(&bytes)?;
    Ok(Then::Next)
}

/// Sends half of `count` bytes, and the rest when the gate is open.
fn slow(answer: &mut Answer<'_>, count: usize, gate: &str, how: &str) -> io::Result<Then> {
    let half = count / 2;
    let body = match how {
        "" => begin_half(answer, count)?,
        how => {
            let chunked = how == "chunked";
            let field = if chunked { "Transfer-Encoding: chunked" } else { "Connection: close" };
            answer.send(format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n").as_bytes())?;
            let body = pattern::bytes(count);
            if chunked {
                answer.send(format!("{half:x}\r\n").as_bytes())?;
            }
            answer.send(&body[..half])?;
            if chunked {
                answer.send(format!("\r\n{:x}\r\n", count - half).as_bytes())?;
            }
            body
        }
    };
    answer.gate(gate).pass();
    answer.send(&body[half..])?;
    if how == "chunked" {
        answer.send(b"\r\n0\r\n\r\n")?;
    }
    Ok(if how == "stream" { Then::Close } else { Then::Next })
}

/// Announces `count` bytes and sends half of them.
fn begin_half(answer: &mut Answer<'_>, count: usize) -> io::Result<Vec<u8>> {
    let body = pattern::bytes(count);
    answer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {count}\r\n\r\n").as_bytes())?;
    answer.send(&body[..count / 2])?;
    Ok(body)
}

fn websocket(request: &Request, answer: &mut Answer<'_>) -> io::Result<Then> {
    if !request.header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
        return answer.whole("426 Upgrade Required", &[("Upgrade", "websocket")], b"");
    }
    let mut bytes = head(
        "101 Switching Protocols",
        &[("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Accept", ACCEPT)],
    );
    bytes.extend_from_slice(b"\r\n");
    answer.send(&bytes)?;
    loop {
        let (opcode, payload) = read_frame(answer.connection())?;
        answer.send(&server_frame(opcode, &payload))?;
        if opcode == CLOSE {
            return Ok(Then::Close);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http;
    use crate::tunnel::Download;
    use crate::websocket::WebSocket;

    #[test]
    fn every_answer_arrives_whole() {
        let origin = Origin::start("one");
        let mut client = Connection::open(origin.address());
        assert_eq!(client.get("/").text(), "one\n");
        assert_eq!(client.get("/bytes/70000").body, pattern::bytes(70_000));
        let chunked = client.get("/chunked/4321");
        assert_eq!(chunked.body, pattern::bytes(4321));
        assert_eq!(chunked.trailers, [("X-Check".to_owned(), "done".to_owned())]);
        assert_eq!(client.request("POST", "/echo", &[], b"back").text(), "back");
        assert_eq!(client.request("HEAD", "/bytes/10", &[], b"").body, b"");
        assert_eq!(http::get(origin.address(), "/stream/5000").body, pattern::bytes(5000));
        assert_eq!(origin.requests().len(), 6);
        assert_eq!(origin.connections(), 2);
    }

    #[test]
    fn a_cut_answer_is_an_error() {
        let origin = Origin::start("one");
        assert!(Connection::open(origin.address()).try_get("/cut/1000").is_err());
        assert!(Connection::open(origin.address()).try_get("/drop").is_err());
    }

    #[test]
    fn a_held_answer_goes_on_when_its_gate_opens() {
        let origin = Origin::start("one");
        let mut download = Download::begin(origin.address(), "/slow/1000?gate=g");
        download.take(500);
        origin.gate("g").arrived(1);
        origin.gate("g").open();
        download.finish();
    }

    #[test]
    fn a_websocket_echoes() {
        let origin = Origin::start("one");
        let mut socket = WebSocket::open(origin.address(), "/ws");
        socket.echo("hello");
        socket.echo(&"long ".repeat(100));
    }
}
