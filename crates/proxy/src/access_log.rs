//! The access log: one line per request, and one at the end of each tunnel, without allocation and without waiting.
//!
//! ```text
//!   head read: begin ──▶ Line (a buffer of the connection) ──answered: end──▶ pending bytes of the thread
//!                                                                                  │ 32 KiB, or every tick
//!                                                                                  ▼
//!                                          writer thread ◀── bounded channel (full: batch dropped, lines counted)
//! ```

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use handover_http1::{RequestHead, Version};
use handover_tls::Facts;

use crate::buffers::{Buf, Buffers};
use crate::clock::Clock;
use crate::config::{Log, LogFormat, LogTarget};

/// A thread hands its lines on when it has this many bytes of them.
const BATCH_BYTES: usize = 32 * 1024;
/// Batches that may wait for the writer.
const BATCHES_WAITING: usize = 64;
/// The end of the server waits so long for the last lines to be written.
const SYNC_LIMIT: Duration = Duration::from_secs(2);
/// The most bytes of a target, a referer or a user agent that a line shows.
const FIELD_BYTES: usize = 2 * 1024;

/// The most that a line can have before its request is over: five fields, of which each byte may be written as six, and the time.
pub(crate) const MAX_LINE_BYTES: usize = 5 * 6 * FIELD_BYTES + 256;

/// The part of a line that is known when a request begins. It ends in the format in which it began, whatever is configured
/// meanwhile.
#[derive(Debug)]
pub(crate) struct Line {
    buf: Buf,
    format: LogFormat,
}

impl Line {
    /// No line.
    pub(crate) const fn none() -> Self {
        Self { buf: Buf::none(), format: LogFormat::Text }
    }

    /// True from `begin` to `end`.
    pub(crate) fn is_begun(&self) -> bool {
        !self.buf.is_empty()
    }

    /// What is known so far, and in which format, if there is anything.
    pub(crate) fn begun(&self) -> Option<(LogFormat, &[u8])> {
        self.is_begun().then(|| (self.format, self.buf.unread()))
    }

    /// A line that was begun elsewhere.
    pub(crate) fn go_on(format: LogFormat, buf: Buf) -> Self {
        Self { buf, format }
    }

    /// The buffer, to be given back when the connection closes.
    pub(crate) fn buf(&mut self) -> &mut Buf {
        &mut self.buf
    }
}

/// What a line says of a request.
struct Asked<'a> {
    method: &'a [u8],
    target: &'a [u8],
    version: &'a [u8],
    referer: &'a [u8],
    agent: &'a [u8],
}

/// What is said of a tunnel that has ended: a TCP connection, or a WebSocket (whose request has a line of its own).
#[derive(Debug)]
pub(crate) struct PastTunnel<'a> {
    /// `tcp` or `websocket`.
    pub(crate) kind: &'a str,
    pub(crate) listener: &'a str,
    pub(crate) peer: Option<IpAddr>,
    /// How it ended: one of [`crate::conn::END_LABELS`].
    pub(crate) end: &'a str,
    /// Bytes from and to the client.
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) duration_us: u64,
    pub(crate) endpoint: Option<&'a str>,
    /// What was agreed on with the client, over TLS.
    pub(crate) tls: Option<&'a Facts>,
}

/// What is said of a request that is over.
#[derive(Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) status: u16,
    /// Bytes written to the client.
    pub(crate) bytes: u64,
    pub(crate) duration_us: u64,
    pub(crate) endpoint: Option<&'a str>,
    /// What was agreed on with the client, over TLS.
    pub(crate) tls: Option<&'a Facts>,
}

/// What goes to the writer.
#[derive(Debug)]
enum ToWriter {
    Opened { target: LogTarget, file: File },
    Batch { target: Arc<LogTarget>, bytes: Vec<u8> },
    Reopen,
    Sync(SyncSender<()>),
}

/// The way to the writer thread.
#[derive(Debug, Clone)]
pub(crate) struct LogWriter(SyncSender<ToWriter>);

impl LogWriter {
    /// Starts the writer thread; it ends when nobody can send to it any more.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(BATCHES_WAITING);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write_batches(&receiver))?;
        Ok(Self(sender))
    }

    /// Gives the writer a log file that is open already: later there may be no descriptor left to open it.
    pub(crate) fn hand(&self, target: LogTarget, file: File) {
        // If so much waits to be written, the writer opens it by itself when it comes to it: a commit must not wait for a disk.
        let _ = self.0.try_send(ToWriter::Opened { target, file });
    }

    /// Opens log files by name again, after what was sent before.
    pub(crate) fn reopen(&self) {
        // If the channel is full, waiting a little is right: this is no data thread.
        let _ = self.0.send(ToWriter::Reopen);
    }
}

impl LogWriter {
    /// Waits until everything that was handed on before is written, at most [`SYNC_LIMIT`].
    pub(crate) fn sync(&self) {
        let (sender, receiver) = sync_channel(1);
        if self.0.try_send(ToWriter::Sync(sender)).is_ok() {
            let _ = receiver.recv_timeout(SYNC_LIMIT);
        }
    }
}

/// One thread's access log.
#[derive(Debug)]
pub(crate) struct AccessLog {
    writer: LogWriter,
    on: Option<(LogFormat, Arc<LogTarget>)>,
    pending: Vec<u8>,
    lines: u64,
}

impl AccessLog {
    /// An access log that is off.
    pub(crate) fn new(writer: LogWriter) -> Self {
        Self { writer, on: None, pending: Vec::new(), lines: 0 }
    }

    /// Follows a configuration. Returns the lines that had to be dropped.
    pub(crate) fn follow(&mut self, log: &Log) -> u64 {
        let unchanged = match (&self.on, &log.access) {
            (Some((format, old)), Some(new)) => *format == log.format && **old == *new,
            (None, None) => true,
            _ => false,
        };
        if unchanged {
            return 0;
        }
        let dropped = self.flush();
        self.on = log.access.as_ref().map(|target| (log.format, Arc::new(target.clone())));
        dropped
    }

    /// Whether requests leave lines.
    pub(crate) fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// Whether lines wait to be handed on.
    pub(crate) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Notes what is known of a request from its head.
    pub(crate) fn begin(
        &self,
        line: &mut Line,
        peer: Option<IpAddr>,
        head: &RequestHead<'_, '_>,
        clock: &Clock,
        buffers: &mut Buffers,
    ) {
        let version = if head.version == Version::Http10 { "HTTP/1.0" } else { "HTTP/1.1" };
        let mut asked = Asked {
            method: head.method.as_bytes(),
            target: head.target.as_bytes(),
            version: version.as_bytes(),
            referer: b"",
            agent: b"",
        };
        for header in head.headers {
            if header.name.eq_ignore_ascii_case("referer") {
                asked.referer = header.value;
            } else if header.name.eq_ignore_ascii_case("user-agent") {
                asked.agent = header.value;
            }
        }
        self.begin_with(line, peer, &asked, clock, buffers);
    }

    /// Notes what can be seen of a request whose head was refused, or did not come whole.
    pub(crate) fn begin_refused(
        &self,
        line: &mut Line,
        peer: Option<IpAddr>,
        head: &[u8],
        clock: &Clock,
        buffers: &mut Buffers,
    ) {
        let head = head.trim_ascii_start();
        let first = head.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
        let mut words = first.splitn(3, |byte| *byte == b' ');
        let mut word = || words.next().filter(|word| !word.is_empty()).unwrap_or(b"-");
        let asked = Asked { method: word(), target: word(), version: word(), referer: b"", agent: b"" };
        self.begin_with(line, peer, &asked, clock, buffers);
    }

    fn begin_with(
        &self,
        line: &mut Line,
        peer: Option<IpAddr>,
        asked: &Asked<'_>,
        clock: &Clock,
        buffers: &mut Buffers,
    ) {
        let Some((format, _)) = &self.on else { return };
        buffers.ensure_small(&mut line.buf);
        line.buf.clear();
        line.format = *format;
        let out = line.buf.tail();
        match format {
            LogFormat::Text => {
                push_peer(out, peer);
                out.extend_from_slice(b" - - [");
                push_common_time(out, clock);
                out.extend_from_slice(b"] \"");
                push_escaped(out, asked.method);
                out.push(b' ');
                push_escaped(out, asked.target);
                out.push(b' ');
                push_escaped(out, asked.version);
                out.extend_from_slice(b"\" \"");
                push_escaped(out, asked.referer);
                out.extend_from_slice(b"\" \"");
                push_escaped(out, asked.agent);
                out.push(b'"');
            }
            LogFormat::Json => {
                out.extend_from_slice(b"{\"time\":\"");
                push_time(out, clock);
                out.extend_from_slice(b"\",\"client\":\"");
                push_peer(out, peer);
                for (name, value) in [
                    ("method", asked.method),
                    ("target", asked.target),
                    ("version", asked.version),
                    ("referer", asked.referer),
                    ("agent", asked.agent),
                ] {
                    // Writing into a vector cannot fail.
                    let _ = write!(out, "\",\"{name}\":\"");
                    push_escaped(out, value);
                }
                out.push(b'"');
            }
        }
    }

    /// Completes a line.
    pub(crate) fn end(&mut self, line: &mut Line, ended: &Ended<'_>, buffers: &mut Buffers) -> u64 {
        if self.on.is_some() {
            let out = &mut self.pending;
            out.extend_from_slice(line.buf.unread());
            let Ended { status, bytes, .. } = ended;
            let _ = match line.format {
                LogFormat::Text => write!(out, " {status} {bytes}"),
                LogFormat::Json => write!(out, ",\"status\":{status},\"bytes\":{bytes}"),
            };
            push_end(out, line.format, ended.duration_us, ended.endpoint, ended.tls);
            self.lines += 1;
        }
        buffers.release(&mut line.buf);
        self.flush_if_full()
    }

    /// The line of a tunnel. Returns the lines that had to be dropped.
    pub(crate) fn tunnel(&mut self, past: &PastTunnel<'_>, clock: &Clock) -> u64 {
        let Some((format, _)) = &self.on else { return 0 };
        let out = &mut self.pending;
        let PastTunnel { kind, listener, end, bytes_in, bytes_out, .. } = past;
        let _ = match format {
            LogFormat::Text => {
                push_peer(out, past.peer);
                out.extend_from_slice(b" - - [");
                push_common_time(out, clock);
                write!(out, "] \"{kind} {listener}\" {end} {bytes_in} {bytes_out}")
            }
            LogFormat::Json => {
                out.extend_from_slice(b"{\"time\":\"");
                push_time(out, clock);
                out.extend_from_slice(b"\",\"client\":\"");
                push_peer(out, past.peer);
                write!(
                    out,
                    "\",\"kind\":\"{kind}\",\"listener\":\"{listener}\",\"end\":\"{end}\",\"bytes_in\":{bytes_in},\"bytes_out\":{bytes_out}"
                )
            }
        };
        push_end(out, *format, past.duration_us, past.endpoint, past.tls);
        self.lines += 1;
        self.flush_if_full()
    }

    fn flush_if_full(&mut self) -> u64 {
        if self.pending.len() >= BATCH_BYTES { self.flush() } else { 0 }
    }

    /// Hands the pending lines on. Returns how many had to be dropped because the writer cannot keep up.
    pub(crate) fn flush(&mut self) -> u64 {
        let lines = std::mem::take(&mut self.lines);
        if self.pending.is_empty() {
            return 0;
        }
        let bytes = std::mem::replace(&mut self.pending, Vec::with_capacity(BATCH_BYTES + BATCH_BYTES / 4));
        let Some((_, target)) = &self.on else { return lines };
        match self.writer.0.try_send(ToWriter::Batch { target: Arc::clone(target), bytes }) {
            Ok(()) => 0,
            Err(_) => lines,
        }
    }
}

/// What all lines end with.
fn push_end(
    out: &mut Vec<u8>,
    format: LogFormat,
    duration_us: u64,
    endpoint: Option<&str>,
    tls: Option<&Facts>,
) {
    let (seconds, micros) = (duration_us / 1_000_000, duration_us % 1_000_000);
    let _ = match format {
        LogFormat::Text => write!(out, " {seconds}.{micros:06} "),
        LogFormat::Json => write!(out, ",\"seconds\":{seconds}.{micros:06},\"endpoint\":\""),
    };
    // A path may hold anything.
    push_escaped(out, endpoint.unwrap_or("-").as_bytes());
    if let Some(facts) = tls {
        push_tls(out, format, facts);
    }
    out.extend_from_slice(match format {
        LogFormat::Text => b"\n",
        LogFormat::Json => b"\"}\n",
    });
}

/// What is said of TLS, where there is any: ` TLSv1.3 new "a.example" "CN=client"`.
fn push_tls(out: &mut Vec<u8>, format: LogFormat, facts: &Facts) {
    let version = facts.version.name();
    let _ = match format {
        LogFormat::Text => {
            write!(out, " {version} {} \"", if facts.resumed { "resumed" } else { "new" })
        }
        LogFormat::Json => {
            write!(out, "\",\"tls\":\"{version}\",\"resumed\":{},\"sni\":\"", facts.resumed)
        }
    };
    push_escaped(out, facts.sni.as_deref().unwrap_or("-").as_bytes());
    out.extend_from_slice(match format {
        LogFormat::Text => b"\" \"",
        LogFormat::Json => b"\",\"client_subject\":\"",
    });
    push_escaped(out, facts.client_subject.as_deref().unwrap_or("-").as_bytes());
    if format == LogFormat::Text {
        out.push(b'"');
    }
}

fn push_peer(out: &mut Vec<u8>, peer: Option<IpAddr>) {
    let _ = match peer {
        Some(ip) => write!(out, "{ip}"),
        None => write!(out, "unix"),
    };
}

/// What could end a quoted string or a line, or is not printable ASCII, as `\xHH`, which in JSON is `\u00HH`.
fn push_escaped(out: &mut Vec<u8>, text: &[u8]) {
    for byte in text.iter().take(FIELD_BYTES) {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => out.push(*byte),
            other => {
                let _ = write!(out, "\\u{:04x}", u16::from(*other));
            }
        }
    }
}

/// The parts of `Sun, 06 Nov 1994 08:49:37 GMT`.
fn date_parts(clock: &Clock) -> Option<(&str, &str, &str, &str)> {
    let text = std::str::from_utf8(clock.date().as_bytes()).ok()?;
    Some((text.get(5..7)?, text.get(8..11)?, text.get(12..16)?, text.get(17..25)?))
}

/// `06/Nov/1994:08:49:37 +0000`
fn push_common_time(out: &mut Vec<u8>, clock: &Clock) {
    if let Some((day, month, year, time)) = date_parts(clock) {
        let _ = write!(out, "{day}/{month}/{year}:{time} +0000");
    }
}

/// `1994-11-06T08:49:37Z`
fn push_time(out: &mut Vec<u8>, clock: &Clock) {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    if let Some((day, month, year, time)) = date_parts(clock) {
        let month = MONTHS.iter().position(|name| *name == month).unwrap_or_default() + 1;
        let _ = write!(out, "{year}-{month:02}-{day}T{time}Z");
    }
}

/// The writer thread.
fn write_batches(receiver: &Receiver<ToWriter>) {
    let mut files: HashMap<Arc<LogTarget>, File> = HashMap::new();
    while let Ok(message) = receiver.recv() {
        match message {
            ToWriter::Opened { target, file } => {
                files.entry(Arc::new(target)).or_insert(file);
            }
            ToWriter::Reopen => files.iter_mut().for_each(|(target, file)| reopen(target, file)),
            ToWriter::Sync(done) => {
                // Who asked may have given up.
                let _ = done.send(());
            }
            ToWriter::Batch { target, bytes } => {
                if let Err(error) = write_batch(&mut files, &target, &bytes) {
                    files.remove(&target);
                    let place = match &*target {
                        LogTarget::File(path) => path.display().to_string(),
                        LogTarget::Stderr => "standard error".to_owned(),
                        LogTarget::Stdout => "standard output".to_owned(),
                    };
                    tracing::warn!(
                        "{} bytes of the access log were lost: cannot write to {place}: {error}",
                        bytes.len()
                    );
                }
            }
        }
    }
}

/// Follows a file that was renamed. If its name cannot be opened, what is open is better than nothing.
fn reopen(target: &LogTarget, file: &mut File) {
    let LogTarget::File(path) = target else { return };
    match open(path) {
        Ok(new) => *file = new,
        Err(error) => tracing::warn!(
            "cannot open {} again: {error}; the access log goes on in the file that is open",
            path.display()
        ),
    }
}

fn write_batch(
    files: &mut HashMap<Arc<LogTarget>, File>,
    target: &Arc<LogTarget>,
    bytes: &[u8],
) -> std::io::Result<()> {
    match &**target {
        LogTarget::Stderr => std::io::stderr().lock().write_all(bytes),
        LogTarget::Stdout => {
            let mut out = std::io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()
        }
        LogTarget::File(path) => {
            if !files.contains_key(target) {
                files.insert(Arc::clone(target), open(path)?);
            }
            match files.get_mut(target) {
                Some(file) => file.write_all(bytes),
                None => Ok(()),
            }
        }
    }
}

/// Opens a log file for appending.
pub(crate) fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_client_sends_can_end_a_line_or_a_string() {
        let mut out = Vec::new();
        push_escaped(&mut out, b"a\"b\\c\nd\xff");
        assert_eq!(out, b"a\\\"b\\\\c\\u000ad\\u00ff");
    }
}
