//! The origin behind every proxy that is compared: fast, the same for all, and able to be slow where asked.
//!
//! | path | answer |
//! |---|---|
//! | `/bytes/N` | N bytes of the test pattern (rendered once) |
//! | `/drip/P/N/MS` | P pieces of N bytes, one every MS milliseconds |
//! | `/sink` | reads the body and tells its length, or where it was wrong |
//! | `/ws` | a WebSocket that sends every frame back |
//! | anything else | `origin` |
//!
//! Each thread has its own runtime and its own listener (SO_REUSEPORT). A second port echoes TCP.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use handover_testkit::{pattern, websocket};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

/// Read buffer of a connection; heads must fit.
const BUFFER_BYTES: usize = 64 * 1024;
/// Length of the listen queue.
const BACKLOG: i32 = 4096;
/// The largest body that `/bytes/N` gives.
const LARGEST_BODY_BYTES: usize = 64 << 20;
/// The longest payload that the WebSocket echoes.
const LONGEST_FRAME_BYTES: usize = 125;

/// How the origin runs.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Where it answers HTTP.
    #[arg(long, default_value = "127.0.0.1:9000")]
    pub(crate) listen: SocketAddr,
    /// Where it echoes TCP.
    #[arg(long)]
    pub(crate) echo: Option<SocketAddr>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    pub(crate) threads: usize,
}

/// Serves for as long as the process lives; returns once it listens.
pub(crate) fn start(options: &Options) -> io::Result<()> {
    for _ in 0..options.threads.max(1) {
        let http = listen(options.listen)?;
        let echo = options.echo.map(listen).transpose()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            LocalSet::new().block_on(&runtime, async {
                if let Some(echo) = echo.and_then(|echo| TcpListener::from_std(echo).ok()) {
                    spawn_local(accept_echo(echo));
                }
                if let Ok(http) = TcpListener::from_std(http) {
                    accept_http(http).await;
                }
            });
        });
    }
    Ok(())
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

async fn accept_echo(listener: TcpListener) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            spawn_local(async move {
                // How a client ends its connection is its business.
                let _ = echo(stream).await;
            });
        }
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            length => stream.write_all(&buffer[..length]).await?,
        }
    }
}

async fn accept_http(listener: TcpListener) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            spawn_local(async move {
                let _ = stream.set_nodelay(true);
                let mut connection =
                    Connection { stream, buffer: vec![0; BUFFER_BYTES], filled: 0, ready: HashMap::new() };
                let _ = connection.serve().await;
            });
        }
    }
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    /// Rendered responses by target: a connection asks for the same few.
    ready: HashMap<Vec<u8>, Vec<u8>>,
}

/// What matters of a request's head.
struct Head {
    length: usize,
    body: usize,
    chunked: bool,
    upgrade: bool,
    close: bool,
    continues: bool,
}

impl Connection {
    async fn serve(&mut self) -> io::Result<()> {
        loop {
            let Some(head) = self.head().await? else { return Ok(()) };
            let target = target(&self.buffer[..head.length]);
            if let Some(response) = self.ready.get(target) {
                self.stream.write_all(response).await?;
                self.consume(head.length);
            } else {
                let target = target.to_vec();
                self.consume(head.length);
                self.answer(&target, &head).await?;
            }
            if head.close {
                return self.stream.shutdown().await;
            }
        }
    }

    /// Waits for a whole head; `None` if the client has ended the connection.
    async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer[..self.filled], b"\r\n\r\n") {
                return Ok(Some(parse(&self.buffer[..end + 4])));
            }
            if self.more().await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn more(&mut self) -> io::Result<usize> {
        let room = &mut self.buffer[self.filled..];
        if room.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let length = self.stream.read(room).await?;
        self.filled += length;
        Ok(length)
    }

    fn consume(&mut self, length: usize) {
        self.buffer.copy_within(length..self.filled, 0);
        self.filled -= length;
    }

    async fn answer(&mut self, target: &[u8], head: &Head) -> io::Result<()> {
        let text = String::from_utf8_lossy(target).into_owned();
        let mut parts = text.trim_start_matches('/').split('/');
        let what = parts.next().unwrap_or_default();
        let numbers: Vec<usize> = parts.map(|part| part.parse().unwrap_or_default()).collect();
        match (what, numbers.as_slice()) {
            ("bytes", [length]) if *length <= LARGEST_BODY_BYTES => {
                let response = response(&pattern::bytes(*length));
                self.stream.write_all(&response).await?;
                self.ready.insert(target.to_vec(), response);
                Ok(())
            }
            ("drip", [pieces, bytes, pause_ms]) => self.drip(*pieces, *bytes, *pause_ms).await,
            ("sink", _) => self.sink(head).await,
            ("ws", _) if head.upgrade => self.websocket().await,
            _ => self.stream.write_all(&response(b"origin\n")).await,
        }
    }

    async fn drip(&mut self, pieces: usize, bytes: usize, pause_ms: usize) -> io::Result<()> {
        let body = pattern::bytes(pieces * bytes);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        self.stream.write_all(head.as_bytes()).await?;
        let pause = Duration::from_millis(u64::try_from(pause_ms).unwrap_or_default());
        for piece in body.chunks(bytes.max(1)) {
            self.stream.write_all(piece).await?;
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    async fn sink(&mut self, head: &Head) -> io::Result<()> {
        if head.continues {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let mut check = pattern::Check::default();
        let right = if head.chunked {
            self.chunks(&mut check).await?
        } else {
            self.piece(&mut check, head.body).await?
        };
        let told = match right {
            Ok(()) => format!("{} bytes\n", check.seen()),
            Err(at) => format!("wrong at {at}\n"),
        };
        self.stream.write_all(&response(told.as_bytes())).await
    }

    /// Reads `length` bytes of a body and checks them.
    async fn piece(&mut self, check: &mut pattern::Check, length: usize) -> io::Result<Result<(), u64>> {
        let mut left = length;
        let mut right = Ok(());
        while left > 0 {
            if self.filled == 0 && self.more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let take = self.filled.min(left);
            right = right.and(check.piece(&self.buffer[..take]));
            self.consume(take);
            left -= take;
        }
        Ok(right)
    }

    async fn chunks(&mut self, check: &mut pattern::Check) -> io::Result<Result<(), u64>> {
        let mut right = Ok(());
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
            if size == 0 {
                while !self.line().await?.is_empty() {}
                return Ok(right);
            }
            right = right.and(self.piece(check, size).await?);
            self.line().await?;
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer[..self.filled], b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.consume(end + 2);
                return Ok(line);
            }
            if self.more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn websocket(&mut self) -> io::Result<()> {
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            websocket::ACCEPT
        );
        self.stream.write_all(head.as_bytes()).await?;
        loop {
            // The head of a client's short frame: opcode, length, mask.
            while self.filled < 6 {
                if self.more().await? == 0 {
                    return Ok(());
                }
            }
            let length = usize::from(self.buffer[1] & 0x7f);
            if length > LONGEST_FRAME_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
            while self.filled < 6 + length {
                if self.more().await? == 0 {
                    return Ok(());
                }
            }
            let (opcode, mask) = (self.buffer[0] & 0x0f, &self.buffer[2..6]);
            let payload = self.buffer[6..6 + length].iter().zip(mask.iter().cycle());
            let payload: Vec<u8> = payload.map(|(byte, mask)| byte ^ mask).collect();
            self.stream.write_all(&websocket::server_frame(opcode, &payload)).await?;
            self.consume(6 + length);
        }
    }
}

fn response(body: &[u8]) -> Vec<u8> {
    let mut response = format!(
        "HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    response.extend_from_slice(body);
    response
}

fn target(head: &[u8]) -> &[u8] {
    head.split(|byte| *byte == b' ').nth(1).unwrap_or_default()
}

fn parse(head: &[u8]) -> Head {
    let mut parsed =
        Head { length: head.len(), body: 0, chunked: false, upgrade: false, close: false, continues: false };
    let mut rest = head;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        match line.first() {
            Some(b'C' | b'c') => {
                if let Some(value) = value(line, b"content-length:") {
                    parsed.body = value.parse().unwrap_or_default();
                } else if let Some(value) = value(line, b"connection:") {
                    parsed.close = value.eq_ignore_ascii_case("close");
                }
            }
            Some(b'T' | b't') => parsed.chunked |= value(line, b"transfer-encoding:").is_some(),
            Some(b'U' | b'u') => parsed.upgrade |= value(line, b"upgrade:").is_some(),
            Some(b'E' | b'e') => parsed.continues |= value(line, b"expect:").is_some(),
            _ => {}
        }
    }
    parsed
}

fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a str> {
    let (start, value) = line.split_at_checked(name.len())?;
    if !start.eq_ignore_ascii_case(name) {
        return None;
    }
    std::str::from_utf8(value).ok().map(str::trim)
}
