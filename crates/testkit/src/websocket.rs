//! WebSocket (RFC 6455), as far as a test needs it: the upgrade, and small whole frames.

use std::io;
use std::net::SocketAddr;

use crate::http::{Connection, Head};

/// The nonce of RFC 6455 §1.3, used always, so that the answer to it is known without SHA-1.
pub const NONCE: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The right `Sec-WebSocket-Accept` for [`NONCE`].
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Opcode of a text frame.
pub const TEXT: u8 = 0x1;
/// Opcode of a close frame.
pub const CLOSE: u8 = 0x8;

/// The client's end of a WebSocket.
#[derive(Debug)]
pub struct WebSocket {
    connection: Connection,
    /// The head of the 101 response.
    pub head: Head,
}

impl WebSocket {
    /// Connects and upgrades.
    #[track_caller]
    #[must_use]
    pub fn open(address: SocketAddr, path: &str) -> Self {
        Self::upgrade(Connection::open(address), path)
    }

    /// Upgrades a connection.
    #[track_caller]
    #[must_use]
    pub fn upgrade(mut connection: Connection, path: &str) -> Self {
        connection.send(upgrade_request(path));
        let head = connection.head();
        assert_eq!(head.status, 101, "no upgrade: {}", String::from_utf8_lossy(&head.raw));
        assert_eq!(head.header("sec-websocket-accept"), Some(ACCEPT));
        Self { connection, head }
    }

    /// Sends a text and reads the frame that comes back.
    ///
    /// # Errors
    /// The connection has ended, or what came is no frame.
    pub fn try_echo(&mut self, text: &str) -> io::Result<String> {
        self.connection.try_send(client_frame(TEXT, text.as_bytes()))?;
        let (_, payload) = self.try_frame()?;
        Ok(String::from_utf8_lossy(&payload).into_owned())
    }

    /// Asserts that a text comes back.
    #[track_caller]
    pub fn echo(&mut self, text: &str) {
        match self.try_echo(text) {
            Ok(back) => assert_eq!(back, text, "another text came back over the WebSocket"),
            Err(error) => panic!("the WebSocket is broken: {error}"),
        }
    }

    /// Reads one frame: its opcode and payload.
    ///
    /// # Errors
    /// The connection has ended, or what came is no frame of a server's.
    pub fn try_frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        read_frame(&mut self.connection)
    }

    /// The connection beneath.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

/// The bytes of the client's upgrade request.
#[must_use]
pub fn upgrade_request(path: &str) -> Vec<u8> {
    crate::http::request_bytes(
        "GET",
        path,
        &[
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", NONCE),
        ],
        b"",
    )
}

/// A masked frame, as clients send it (RFC 6455 §5.2); payloads up to 65,535 bytes.
#[must_use]
pub fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = header(opcode, payload.len(), 0x80);
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// An unmasked frame, as servers send it.
#[must_use]
pub fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(opcode, payload.len(), 0);
    frame.extend_from_slice(payload);
    frame
}

fn header(opcode: u8, length: usize, mask: u8) -> Vec<u8> {
    const FIN: u8 = 0x80;
    match u8::try_from(length) {
        Ok(length) if length < 126 => vec![FIN | opcode, mask | length],
        _ => {
            let length = u16::try_from(length).expect("a test's frame is short").to_be_bytes();
            vec![FIN | opcode, mask | 126, length[0], length[1]]
        }
    }
}

/// Reads one whole frame, masked or not, and gives its opcode and plain payload.
///
/// # Errors
/// The connection has ended first.
pub fn read_frame(connection: &mut Connection) -> io::Result<(u8, Vec<u8>)> {
    let start = connection.try_exactly(2)?;
    let (opcode, masked, short) = (start[0] & 0x0f, start[1] & 0x80 != 0, start[1] & 0x7f);
    let length = match short {
        126 => {
            let more = connection.try_exactly(2)?;
            usize::from(u16::from_be_bytes([more[0], more[1]]))
        }
        127 => return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame longer than tests send")),
        short => usize::from(short),
    };
    let mask = if masked { connection.try_exactly(4)? } else { vec![0; 4] };
    let payload = connection.try_exactly(length)?;
    let plain = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    Ok((opcode, plain))
}
