//! One client connection: requests out, responses in, and a name for every way in which that can fail.
//!
//! The reader knows just enough HTTP/1.1 to be cheap: a head ends with an empty line, a body has a length. A timer is
//! not armed per request: each connection has one, which is moved only when it goes off too early.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::wire::{Tls, Wire};
use crate::failure::Failure;

/// What is read at once; a response of 10 KB and its head fit.
const BUFFER_BYTES: usize = 32 * 1024;

/// What the body of a response must be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expect<'a> {
    /// Anything, of the length that the head announces.
    Any,
    /// These bytes.
    Bytes(&'a [u8]),
}

/// What matters of a response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    /// The server says that it closes the connection.
    pub(crate) closes: bool,
    /// Bytes of the body.
    pub(crate) bytes: u64,
}

struct Head {
    length: usize,
    status: u16,
    body: Option<u64>,
    closes: bool,
}

/// A timer that is armed once and moved lazily.
struct Patience(Pin<Box<Sleep>>);

impl Patience {
    async fn within<T>(
        &mut self,
        deadline: Instant,
        work: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        tokio::pin!(work);
        if self.0.deadline().into_std() > deadline {
            self.0.as_mut().reset(deadline.into());
        }
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.0.as_mut() => {
                    if Instant::now() >= deadline {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    self.0.as_mut().reset(deadline.into());
                }
            }
        }
    }
}

/// A connection.
pub(crate) struct Client {
    stream: Wire,
    patience: Patience,
    buffer: Vec<u8>,
    filled: usize,
    limit: Duration,
}

impl Client {
    /// Connects, over TLS with this name if so wished; every wait lasts at most `limit`.
    pub(crate) async fn connect(
        target: SocketAddr,
        tls: Option<(&Tls, &str)>,
        limit: Duration,
    ) -> Result<Self, Failure> {
        let connect = tokio::time::timeout(limit, TcpStream::connect(target)).await;
        let stream = connect.map_err(|_| Failure::Timeout)?.map_err(|error| Failure::of_connect(&error))?;
        stream.set_nodelay(true).map_err(|_| Failure::Reset)?;
        let stream = match tls {
            Some((tls, name)) => tls.handshake(stream, name, limit).await?,
            None => Wire::Plain(stream),
        };
        let patience = Patience(Box::pin(tokio::time::sleep(limit)));
        Ok(Self { stream, patience, buffer: vec![0; BUFFER_BYTES], filled: 0, limit })
    }

    /// Sends a request and reads its response, which must have status 200 and the expected body.
    pub(crate) async fn exchange(&mut self, request: &[u8], expect: Expect<'_>) -> Result<Answer, Failure> {
        self.send(request).await?;
        self.answer(expect).await
    }

    /// Sends a piece of a request.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let deadline = Instant::now() + self.limit;
        let Self { stream, patience, .. } = self;
        match patience.within(deadline, write(stream, bytes)).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(Failure::Timeout),
            // An early answer may stand in the receive queue, but a request sent in part is a failed one.
            Err(_) => Err(Failure::LostRequest),
        }
    }

    /// Reads a response that is due.
    pub(crate) async fn answer(&mut self, expect: Expect<'_>) -> Result<Answer, Failure> {
        let deadline = Instant::now() + self.limit;
        let head = self.head(deadline).await?;
        if head.status != 200 {
            return Err(Failure::BadStatus);
        }
        let Some(length) = head.body else { return Err(Failure::BadResponse) };
        if let Expect::Bytes(bytes) = expect
            && u64::try_from(bytes.len()) != Ok(length)
        {
            return Err(Failure::WrongBytes);
        }
        let mut seen = 0;
        loop {
            let left = usize::try_from(length).unwrap_or(usize::MAX) - seen;
            let take = self.filled.min(left);
            if let Expect::Bytes(bytes) = expect
                && self.buffer[..take] != bytes[seen..seen + take]
            {
                return Err(Failure::WrongBytes);
            }
            self.consume(take);
            seen += take;
            if take == left {
                return Ok(Answer { closes: head.closes, bytes: length });
            }
            let deadline = Instant::now() + self.limit;
            self.more(deadline).await.map_err(in_response)?;
        }
    }

    /// Sends an upgrade request and reads the 101.
    pub(crate) async fn upgrade(&mut self, request: &[u8]) -> Result<(), Failure> {
        self.send(request).await?;
        let deadline = Instant::now() + self.limit;
        let head = self.head(deadline).await?;
        if head.status == 101 { Ok(()) } else { Err(Failure::BadStatus) }
    }

    /// Sends bytes over a held connection and reads what must come back.
    pub(crate) async fn echo(&mut self, bytes: &[u8], back: &[u8]) -> Result<(), Failure> {
        let cut = |failure| if failure == Failure::Timeout { failure } else { Failure::Cut };
        self.send(bytes).await.map_err(cut)?;
        let deadline = Instant::now() + self.limit;
        while self.filled < back.len() {
            self.more(deadline).await.map_err(in_response).map_err(cut)?;
        }
        let right = self.buffer[..back.len()] == *back;
        self.consume(back.len());
        if right { Ok(()) } else { Err(Failure::WrongBytes) }
    }

    /// Waits, and watches the connection meanwhile: false if the server ended it, or sent what nobody asked for.
    pub(crate) async fn rest(&mut self, time: Duration) -> bool {
        let mut byte = [0];
        match &mut self.stream {
            Wire::Plain(stream) => tokio::time::timeout(time, stream.peek(&mut byte)).await.is_err(),
            // What comes may be a ticket, which is nothing to the reader.
            wire @ Wire::Tls(_) => tokio::time::timeout(time, wire.read(&mut byte)).await.is_err(),
        }
    }

    /// Ends a connection that is not used again, as a well-behaved client does: TLS has a goodbye (close_notify).
    pub(crate) async fn end(mut self) {
        if let Wire::Tls(stream) = &mut self.stream {
            // The server may have gone first, and nobody waits for anything.
            let _ = tokio::time::timeout(self.limit, stream.shutdown()).await;
        }
    }

    async fn head(&mut self, deadline: Instant) -> Result<Head, Failure> {
        loop {
            if let Some(end) = memmem::find(&self.buffer[..self.filled], b"\r\n\r\n") {
                let head = parse(&self.buffer[..end + 4]).ok_or(Failure::BadResponse)?;
                self.consume(head.length);
                return Ok(head);
            }
            if self.filled == self.buffer.len() {
                return Err(Failure::BadResponse);
            }
            let fresh = self.filled == 0;
            self.more(deadline).await.map_err(|error| match error.kind() {
                io::ErrorKind::TimedOut => Failure::Timeout,
                _ if fresh => Failure::LostRequest,
                _ => in_response(error),
            })?;
        }
    }

    async fn more(&mut self, deadline: Instant) -> io::Result<()> {
        let Self { stream, patience, buffer, filled, .. } = self;
        match patience.within(deadline, stream.read(&mut buffer[*filled..])).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => {
                *filled += length;
                Ok(())
            }
        }
    }

    fn consume(&mut self, length: usize) {
        self.buffer.copy_within(length..self.filled, 0);
        self.filled -= length;
    }
}

async fn write(wire: &mut Wire, bytes: &[u8]) -> io::Result<()> {
    wire.write_all(bytes).await?;
    wire.flush().await
}

fn in_response(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::TimedOut => Failure::Timeout,
        io::ErrorKind::UnexpectedEof => Failure::ShortBody,
        _ => Failure::Reset,
    }
}

/// Reads what matters of a head that ends with an empty line.
fn parse(head: &[u8]) -> Option<Head> {
    let status = std::str::from_utf8(head.strip_prefix(b"HTTP/1.")?.get(2..5)?).ok()?.parse().ok()?;
    let mut parsed = Head { length: head.len(), status, body: None, closes: false };
    let mut rest = head;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        // Only two fields matter, and both begin with a C.
        if !matches!(line.first(), Some(b'C' | b'c')) {
            continue;
        }
        if let Some(value) = value(line, b"content-length:") {
            parsed.body = value.parse().ok();
        } else if let Some(value) = value(line, b"connection:") {
            parsed.closes = value.eq_ignore_ascii_case("close");
        }
    }
    Some(parsed)
}

fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a str> {
    let (start, value) = line.split_at_checked(name.len())?;
    if !start.eq_ignore_ascii_case(name) {
        return None;
    }
    std::str::from_utf8(value).ok().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read() {
        let head = parse(b"HTTP/1.1 200 OK\r\ncontent-Length: 128\r\nConnection: close\r\n\r\n").unwrap();
        assert_eq!((head.status, head.body, head.closes), (200, Some(128), true));
        let head = parse(b"HTTP/1.1 204\r\n\r\n").unwrap();
        assert_eq!((head.status, head.body, head.closes), (204, None, false));
        assert!(parse(b"SSH-2.0\r\n\r\n").is_none());
    }
}
