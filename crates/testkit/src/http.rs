//! A raw HTTP/1.1 client: exact bytes out, exact bytes in.
//!
//! It is deliberately small and strict, and shares no code with the program under test: a mistake there must not be
//! hidden by the same mistake here. Every read has a deadline.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::deadline::DEADLINE;
pub use crate::stream::Stream;

/// Heads longer than this are no heads.
const LONGEST_HEAD_BYTES: usize = 256 * 1024;

/// Header or trailer fields: names as they came, values trimmed.
pub type Fields = Vec<(String, String)>;

/// The head of a response.
#[derive(Debug, Clone)]
pub struct Head {
    /// `HTTP/1.1`.
    pub version: String,
    /// The status code.
    pub status: u16,
    /// The reason phrase, which may be empty.
    pub reason: String,
    /// Names as they came, values trimmed.
    pub headers: Fields,
    /// The bytes of the head, the empty line included.
    pub raw: Vec<u8>,
}

impl Head {
    /// The value of a header; the first, if it is repeated.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// Every value of a header.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// Whether the sender says that it will close the connection.
    #[must_use]
    pub fn closes(&self) -> bool {
        self.all("connection").iter().any(|value| value.to_ascii_lowercase().contains("close"))
    }

    fn parse(raw: &[u8]) -> io::Result<Self> {
        let text = std::str::from_utf8(raw).map_err(|_| invalid("the head is not UTF-8", raw))?;
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let first = lines.next().unwrap_or_default();
        let mut words = first.splitn(3, ' ');
        let version = words.next().unwrap_or_default().to_owned();
        let status = words.next().and_then(|code| code.parse().ok());
        let reason = words.next().unwrap_or_default().to_owned();
        let status = status.ok_or_else(|| invalid("no status line", raw))?;
        let headers = lines
            .map(|line| {
                let (name, value) = line.split_once(':').ok_or_else(|| invalid("no colon", raw))?;
                Ok((name.to_owned(), value.trim().to_owned()))
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self { version, status, reason, headers, raw: raw.to_vec() })
    }
}

/// A whole response.
#[derive(Debug, Clone)]
pub struct Response {
    /// Its final head.
    pub head: Head,
    /// The status codes of the interim responses before it (100, 103 …).
    pub interim: Vec<u16>,
    /// Its body, with any chunking taken off.
    pub body: Vec<u8>,
    /// Trailers after a chunked body.
    pub trailers: Fields,
}

impl Response {
    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// Asserts the status code, showing the response if it differs.
    #[track_caller]
    #[must_use]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(
            self.head.status,
            status,
            "unexpected response\n{}{}",
            String::from_utf8_lossy(&self.head.raw),
            self.text()
        );
        self
    }
}

/// How the body of a response is delimited (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

fn framing(head: &Head, method: &str) -> io::Result<Framing> {
    if method == "HEAD" || head.status < 200 || head.status == 204 || head.status == 304 {
        return Ok(Framing::None);
    }
    if method == "CONNECT" && head.status < 300 {
        return Ok(Framing::None);
    }
    let codings = head.all("transfer-encoding");
    let lengths = head.all("content-length");
    match (codings.as_slice(), lengths.as_slice()) {
        ([coding], []) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        ([], [length]) => {
            length.parse().map(Framing::Length).map_err(|_| invalid("bad content-length", &head.raw))
        }
        ([], []) => Ok(Framing::UntilClose),
        _ => Err(invalid("ambiguous framing of a response", &head.raw)),
    }
}

/// A connection to a server.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    /// Bytes that came and were not asked for yet.
    ahead: Vec<u8>,
}

impl Connection {
    /// Connects by TCP.
    #[must_use]
    #[track_caller]
    pub fn open(address: SocketAddr) -> Self {
        Self::try_open(address).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    /// As [`Connection::open`], where a refusal is an expected answer.
    ///
    /// # Errors
    /// As connect(2).
    pub fn try_open(address: SocketAddr) -> io::Result<Self> {
        Self::over(Stream::Tcp(TcpStream::connect_timeout(&address, DEADLINE)?))
    }

    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// As connect(2).
    pub fn open_unix(path: &Path) -> io::Result<Self> {
        Self::over(Stream::Unix(UnixStream::connect(path)?))
    }

    /// Uses a stream that is already connected.
    ///
    /// # Errors
    /// The limits of the socket could not be set.
    pub fn over(stream: Stream) -> io::Result<Self> {
        stream.set_limits(DEADLINE)?;
        Ok(Self { stream, ahead: Vec::new() })
    }

    /// Sends these bytes and nothing else.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap_or_else(|error| panic!("cannot send: {error}"));
    }

    /// As [`Connection::send`], where a closed connection is an expected answer.
    ///
    /// # Errors
    /// As send(2).
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    /// Sends a GET and reads its response, on a connection that stays open.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    /// As [`Connection::get`], where a failure is an expected answer.
    ///
    /// # Errors
    /// As [`Connection::try_response`].
    pub fn try_get(&mut self, path: &str) -> io::Result<Response> {
        self.try_send(request_bytes("GET", path, &[], b""))?;
        self.try_response("GET")
    }

    /// Sends a request (with `Host: test` unless a Host is given, and a Content-Length if there is a body) and reads its
    /// response.
    #[track_caller]
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.send(request_bytes(method, path, headers, body));
        self.response(method)
    }

    /// Reads the response to a request with this method, interim responses first.
    #[track_caller]
    pub fn response(&mut self, method: &str) -> Response {
        self.try_response(method).unwrap_or_else(|error| panic!("no whole response: {error}"))
    }

    /// As [`Connection::response`], where a failure is an expected answer.
    ///
    /// # Errors
    /// `UnexpectedEof` if the connection ended first, `InvalidData` if this is no response, or as recv(2).
    pub fn try_response(&mut self, method: &str) -> io::Result<Response> {
        let mut interim = Vec::new();
        let head = loop {
            let head = self.try_head()?;
            if head.status >= 200 || head.status == 101 {
                break head;
            }
            interim.push(head.status);
        };
        let (body, trailers) = self.body(framing(&head, method)?)?;
        Ok(Response { head, interim, body, trailers })
    }

    /// Reads one head and leaves the body where it is.
    #[track_caller]
    pub fn head(&mut self) -> Head {
        self.try_head().unwrap_or_else(|error| panic!("no head of a response: {error}"))
    }

    /// As [`Connection::head`], where a failure is an expected answer.
    ///
    /// # Errors
    /// As [`Connection::try_response`].
    pub fn try_head(&mut self) -> io::Result<Head> {
        Head::parse(&self.try_raw_head()?)
    }

    /// Reads the bytes of one head of either kind, the empty line included.
    ///
    /// # Errors
    /// As [`Connection::try_response`].
    pub fn try_raw_head(&mut self) -> io::Result<Vec<u8>> {
        let end = self.find(b"\r\n\r\n", LONGEST_HEAD_BYTES)?;
        Ok(self.ahead.drain(..end).collect())
    }

    fn body(&mut self, framing: Framing) -> io::Result<(Vec<u8>, Fields)> {
        let body = match framing {
            Framing::None => Vec::new(),
            Framing::Length(length) => self.try_exactly(usize::try_from(length).unwrap_or(usize::MAX))?,
            Framing::UntilClose => self.try_rest()?,
            Framing::Chunked => return self.try_chunked(),
        };
        Ok((body, Vec::new()))
    }

    /// Reads a whole chunked body and its trailers.
    ///
    /// # Errors
    /// As [`Connection::try_response`].
    pub fn try_chunked(&mut self) -> io::Result<(Vec<u8>, Fields)> {
        let mut body = Vec::new();
        while let Some(chunk) = self.try_chunk()? {
            body.extend_from_slice(&chunk);
        }
        Ok((body, self.trailers()?))
    }

    /// Reads one chunk of a chunked body; `None` for the last one, after which the trailers stand.
    ///
    /// # Errors
    /// As [`Connection::try_response`].
    pub fn try_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.line()?;
        let size = line.split(';').next().unwrap_or_default();
        let size =
            usize::from_str_radix(size, 16).map_err(|_| invalid("bad chunk length", line.as_bytes()))?;
        if size == 0 {
            return Ok(None);
        }
        let chunk = self.try_exactly(size)?;
        match self.try_exactly(2)?.as_slice() {
            b"\r\n" => Ok(Some(chunk)),
            other => Err(invalid("no line end after a chunk", other)),
        }
    }

    fn trailers(&mut self) -> io::Result<Fields> {
        let mut trailers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(trailers);
            }
            let (name, value) =
                line.split_once(':').ok_or_else(|| invalid("no colon in a trailer", line.as_bytes()))?;
            trailers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let end = self.find(b"\r\n", LONGEST_HEAD_BYTES)?;
        let line: Vec<u8> = self.ahead.drain(..end).collect();
        Ok(String::from_utf8_lossy(&line[..line.len() - 2]).into_owned())
    }

    /// Reads until `needle` has come; gives the position after it.
    fn find(&mut self, needle: &[u8], most: usize) -> io::Result<usize> {
        loop {
            let found = self.ahead.windows(needle.len()).position(|window| window == needle);
            if let Some(at) = found {
                return Ok(at + needle.len());
            }
            if self.ahead.len() > most {
                return Err(invalid("too long", &self.ahead[..64]));
            }
            if self.more()? == 0 {
                return Err(ended(&self.ahead));
            }
        }
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 16 * 1024];
        let length = loop {
            match self.stream.read(&mut buffer) {
                // A child of the test's has ended.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing came in time"));
                }
                read => break read?,
            }
        };
        self.ahead.extend_from_slice(&buffer[..length]);
        Ok(length)
    }

    /// Reads exactly this many bytes.
    #[track_caller]
    pub fn exactly(&mut self, length: usize) -> Vec<u8> {
        self.try_exactly(length).unwrap_or_else(|error| panic!("cannot read {length} bytes: {error}"))
    }

    /// As [`Connection::exactly`], where a failure is an expected answer.
    ///
    /// # Errors
    /// `UnexpectedEof` if the connection ended first, or as recv(2).
    pub fn try_exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.ahead.len() < length {
            if self.more()? == 0 {
                return Err(ended(&self.ahead));
            }
        }
        Ok(self.ahead.drain(..length).collect())
    }

    /// Reads whatever comes next, at most `most` bytes; empty at the end.
    ///
    /// # Errors
    /// As recv(2).
    pub fn try_some(&mut self, most: usize) -> io::Result<Vec<u8>> {
        if self.ahead.is_empty() {
            self.more()?;
        }
        let length = self.ahead.len().min(most);
        Ok(self.ahead.drain(..length).collect())
    }

    /// Reads to the end of the connection.
    ///
    /// # Errors
    /// As recv(2): a reset is an error, an orderly end is not.
    pub fn try_rest(&mut self) -> io::Result<Vec<u8>> {
        while self.more()? > 0 {}
        Ok(std::mem::take(&mut self.ahead))
    }

    /// Asserts that the server ends the connection, in order or by a reset, without another byte.
    #[track_caller]
    pub fn expect_end(&mut self) {
        match self.try_some(1024) {
            Ok(bytes) if bytes.is_empty() => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            other => panic!("the connection should have ended: {other:?}"),
        }
    }

    /// Whether the connection is open and silent at this moment.
    #[must_use]
    pub fn is_open(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("non-blocking mode");
        let mut buffer = [0; 1024];
        let outcome = self.stream.read(&mut buffer);
        self.stream.set_nonblocking(false).expect("blocking mode");
        match outcome {
            Ok(0) => false,
            Ok(length) => {
                self.ahead.extend_from_slice(&buffer[..length]);
                true
            }
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Says that nothing more will be sent (a FIN, after a close_notify over TLS), and goes on reading.
    pub fn finish(&mut self) {
        self.stream.say_goodbye().expect("end of sending");
        self.stream.shutdown(Shutdown::Write).expect("end of sending");
    }

    /// Says goodbye in TLS (close_notify) and sends no FIN.
    ///
    /// # Errors
    /// The other side is gone.
    pub fn try_say_goodbye(&mut self) -> io::Result<()> {
        self.stream.say_goodbye()
    }

    /// Changes the keys with which this client sends (KeyUpdate, RFC 8446 §4.6.3) and asks the server to do so too.
    pub fn update_keys(&mut self) {
        let Stream::Tls(stream) = &mut self.stream else { panic!("keys are updated over TLS only") };
        stream.conn.refresh_traffic_keys().expect("new keys, in TLS 1.3");
        stream.flush().expect("the update sent");
    }

    /// Ends the connection in one direction or both without a word in TLS: a truncation.
    pub fn cut(&mut self, how: Shutdown) {
        self.stream.shutdown(how).expect("end of a connection");
    }

    /// Sets the limit of every further read and write.
    pub fn limit(&mut self, limit: Duration) {
        self.stream.set_limits(limit).expect("limits of a socket");
    }

    /// The stream beneath; bytes that were read ahead are given with it.
    #[must_use]
    pub fn into_stream(self) -> (Stream, Vec<u8>) {
        (self.stream, self.ahead)
    }

    /// The client's own address, for TCP.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.stream.tcp()?.local_addr().ok()
    }
}

/// The bytes of a request, as [`Connection::request`] sends it.
#[must_use]
pub fn request_bytes(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str("Host: test\r\n");
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// One GET on a connection of its own.
#[track_caller]
#[must_use]
pub fn get(address: SocketAddr, path: &str) -> Response {
    Connection::open(address).request("GET", path, &[("Connection", "close")], b"")
}

fn invalid(what: &str, bytes: &[u8]) -> io::Error {
    let text = format!("{what}: {:?}", String::from_utf8_lossy(bytes));
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn ended(bytes: &[u8]) -> io::Error {
    let text = format!("the connection ended after {:?}", String::from_utf8_lossy(bytes));
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}
