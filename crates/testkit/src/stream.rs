//! The sockets beneath a connection: TCP or Unix, with or without TLS.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustls::{ClientConnection, ServerConnection, StreamOwned};

/// A stream socket of either family.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix stream socket.
    Unix(UnixStream),
    /// The client's end of TLS over TCP.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// The server's end of TLS over TCP.
    TlsServer(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Stream {
    /// The TCP socket beneath, if there is one.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(stream) => Some(&stream.sock),
            Self::TlsServer(stream) => Some(&stream.sock),
            Self::Unix(_) => None,
        }
    }

    /// A copy of the descriptor, to end the connection from elsewhere.
    pub(crate) fn descriptor(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            Self::Tls(stream) => stream.sock.try_clone().map(Self::Tcp),
            Self::TlsServer(stream) => stream.sock.try_clone().map(Self::Tcp),
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
        }
    }

    /// Says in TLS that nothing more will be sent; nothing without TLS.
    pub(crate) fn say_goodbye(&mut self) -> io::Result<()> {
        match self {
            Self::Tls(stream) => {
                stream.conn.send_close_notify();
                stream.flush()
            }
            Self::TlsServer(stream) => {
                stream.conn.send_close_notify();
                stream.flush()
            }
            Self::Tcp(_) | Self::Unix(_) => Ok(()),
        }
    }

    pub(crate) fn set_limits(&self, limit: Duration) -> io::Result<()> {
        if let Some(stream) = self.tcp() {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(limit))?;
            stream.set_write_timeout(Some(limit))?;
        }
        if let Self::Unix(stream) = self {
            stream.set_read_timeout(Some(limit))?;
            stream.set_write_timeout(Some(limit))?;
        }
        Ok(())
    }

    /// Ends one direction or both.
    ///
    /// # Errors
    /// As shutdown(2).
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.shutdown(how),
            _ => self.tcp().map_or(Ok(()), |stream| stream.shutdown(how)),
        }
    }

    pub(crate) fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_nonblocking(on),
            _ => self.tcp().map_or(Ok(()), |stream| stream.set_nonblocking(on)),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
            Self::TlsServer(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buffer),
            Self::Unix(stream) => stream.write(buffer),
            Self::Tls(stream) => stream.write(buffer),
            Self::TlsServer(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Ok(()),
            Self::Tls(stream) => stream.flush(),
            Self::TlsServer(stream) => stream.flush(),
        }
    }
}
