//! Clients that hold a connection: a plain TCP tunnel, and a download that is read only when the test says so.

use std::io;
use std::net::SocketAddr;

use crate::http::{Connection, Head, request_bytes};
use crate::pattern::Check;

/// A connection to something that sends back what it gets.
#[derive(Debug)]
pub struct Tunnel {
    connection: Connection,
}

impl Tunnel {
    /// Connects.
    #[track_caller]
    #[must_use]
    pub fn open(address: SocketAddr) -> Self {
        Self { connection: Connection::open(address) }
    }

    /// Sends bytes and reads as many back.
    ///
    /// # Errors
    /// The tunnel has ended.
    pub fn try_echo(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        self.connection.try_send(bytes)?;
        self.connection.try_exactly(bytes.len())
    }

    /// Asserts that the bytes come back.
    #[track_caller]
    pub fn echo(&mut self, bytes: &[u8]) {
        match self.try_echo(bytes) {
            Ok(back) => assert_eq!(back, bytes, "other bytes came back through the tunnel"),
            Err(error) => panic!("the tunnel is broken: {error}"),
        }
    }

    /// The connection beneath.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

/// A download of the test pattern ([`crate::pattern`]), read step by step.
#[derive(Debug)]
pub struct Download {
    connection: Connection,
    /// The head of the response.
    pub head: Head,
    check: Check,
    length: u64,
}

impl Download {
    /// Asks for `path` and reads the head of the answer, which must have status 200 and a Content-Length.
    #[track_caller]
    #[must_use]
    pub fn begin(address: SocketAddr, path: &str) -> Self {
        Self::over(Connection::open(address), path)
    }

    /// The same over a connection that is there.
    #[track_caller]
    #[must_use]
    pub fn over(mut connection: Connection, path: &str) -> Self {
        connection.send(request_bytes("GET", path, &[], b""));
        let head = connection.head();
        assert_eq!(head.status, 200, "{}", String::from_utf8_lossy(&head.raw));
        let length = head.header("content-length").and_then(|text| text.parse().ok());
        Self { connection, length: length.expect("a Content-Length"), head, check: Check::default() }
    }

    /// Reads and checks the next `length` bytes.
    #[track_caller]
    pub fn take(&mut self, length: usize) {
        let piece = self.connection.exactly(length);
        if let Err(at) = self.check.piece(&piece) {
            panic!("byte {at} of the download is wrong");
        }
    }

    /// Reads and checks everything that is left.
    #[track_caller]
    pub fn finish(mut self) -> Connection {
        while self.check.seen() < self.length {
            let left = usize::try_from(self.length - self.check.seen()).unwrap_or(usize::MAX);
            let piece = self.connection.try_some(left).expect("a download that goes on");
            assert!(!piece.is_empty(), "cut after {} of {} bytes", self.check.seen(), self.length);
            if let Err(at) = self.check.piece(&piece) {
                panic!("byte {at} of the download is wrong");
            }
        }
        self.connection
    }
}
