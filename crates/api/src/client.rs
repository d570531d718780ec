//! A client of the control API over its Unix socket: one connection a request, answers read whole.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_LOCATION, CONTENT_TYPE, ETAG, HOST, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::UnixStream;

use crate::{Event, ExitCode, PROBLEM_CONTENT_TYPE, ProblemDetails};

/// How long connecting may take: a Unix socket connects at once unless its queue is full.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The longest answer that is read: a configuration, metrics, a long history.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// The longest event.
const MAX_EVENT_BYTES: usize = 4 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nothing listens there.
    #[error(
        "not running: nothing answers on {} ({reason}); start it with 'handover serve' or 'handover run', or name the control socket of one that runs with --control PATH",
        socket.display()
    )]
    NotRunning {
        /// The control socket.
        socket: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The socket or its directory may not be used.
    #[error(
        "not permitted: the control socket {} may not be used by this user ({reason}); its mode and group are set by [control] in the configuration",
        socket.display()
    )]
    NotPermitted {
        /// The control socket.
        socket: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// It could not be reached for another reason.
    #[error("cannot connect to {}: {reason}", socket.display())]
    Connect {
        /// The control socket.
        socket: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The connection ended before the answer was whole; what was asked for may have happened.
    #[error("the connection to {} ended before the answer was whole: {reason}", socket.display())]
    Lost {
        /// The control socket.
        socket: PathBuf,
        /// What happened.
        reason: String,
    },
    /// The request cannot be sent like this.
    #[error("{0}")]
    Invalid(String),
}

impl ClientError {
    /// The exit code of a command line that got no answer.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::NotRunning { .. } => ExitCode::NotRunning,
            Self::NotPermitted { .. } => ExitCode::NotPermitted,
            Self::Lost { .. } => ExitCode::Unknown,
            Self::Connect { .. } | Self::Invalid(_) => ExitCode::Differs,
        }
    }
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Call {
    method: Method,
    target: String,
    headers: Vec<(HeaderName, String)>,
    body: Bytes,
    most: usize,
}

impl Call {
    /// `GET path`, where `path` has its query already, percent-encoded.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            target: path.into(),
            headers: Vec::new(),
            body: Bytes::new(),
            most: MAX_ANSWER_BYTES,
        }
    }

    /// `POST path`.
    #[must_use]
    pub fn post(path: impl Into<String>) -> Self {
        Self { method: Method::POST, ..Self::get(path) }
    }

    /// Adds `name=value` to the query.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.target.push(if self.target.contains('?') { '&' } else { '?' });
        self.target.push_str(name);
        self.target.push('=');
        self.target.push_str(&percent_encoded(value));
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((HeaderName::from_static(name), value.into()));
        self
    }

    /// Takes an answer of at most `most` bytes, where the usual 64 MiB are not enough.
    #[must_use]
    pub fn at_most(mut self, most: usize) -> Self {
        self.most = most;
        self
    }

    /// Sends a body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

/// `value` with everything but RFC 3986 unreserved characters percent-encoded.
#[must_use]
pub fn percent_encoded(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// `Content-Type`, without parameters.
    pub content_type: String,
    /// `Location` or `Content-Location`: where the operation can be asked for.
    pub location: Option<String>,
    /// `ETag`.
    pub etag: Option<String>,
    /// The body, whole.
    pub body: Bytes,
}

impl Answer {
    /// Reads the body as JSON.
    ///
    /// # Errors
    /// [`ClientError::Invalid`]: what answers is no `handover`, or one of another version.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            ClientError::Invalid(format!("what answered (status {}) is not understood: {error}", self.status))
        })
    }

    /// The error that the answer describes, if it does.
    #[must_use]
    pub fn problem(&self) -> Option<ProblemDetails> {
        if self.content_type == PROBLEM_CONTENT_TYPE { serde_json::from_slice(&self.body).ok() } else { None }
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A client. It holds no connection.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the control socket at this path.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The control socket's path.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks and waits for the whole answer, for as long as that takes; bound it from outside. Dropping the
    /// future does not call off what was asked for.
    ///
    /// # Errors
    /// See [`ClientError`]. An answer with an error status is an answer.
    pub async fn send(&self, call: Call) -> Result<Answer, ClientError> {
        let most = call.most;
        let response = self.open(call).await?;
        self.whole(response, most).await
    }

    /// Asks for lines that come one after the other, perhaps for ever. An answer with an error status is read whole instead.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn lines(&self, call: Call) -> Result<Result<Lines, Answer>, ClientError> {
        let most = call.most;
        let response = self.open(call).await?;
        if response.status() != hyper::StatusCode::OK {
            return Ok(Err(self.whole(response, most).await?));
        }
        Ok(Ok(Lines(self.coming(response))))
    }

    /// Reads an answer to its end.
    async fn whole(&self, response: Response<Incoming>, most: usize) -> Result<Answer, ClientError> {
        let status = response.status().as_u16();
        let content_type = content_type(&response);
        let header = |name| {
            response
                .headers()
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
                .map(str::to_owned)
        };
        let location = header(LOCATION).or_else(|| header(CONTENT_LOCATION));
        let etag = header(ETAG);
        let body = Limited::new(response.into_body(), most)
            .collect()
            .await
            .map_err(|error| self.lost(&*error))?
            .to_bytes();
        Ok(Answer { status, content_type, location, etag, body })
    }

    /// Follows `GET /v1/events`. The error of a refused request is in [`ClientError::Invalid`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn events(&self) -> Result<Events, ClientError> {
        let response = self.open(Call::get("/v1/events").header("accept", "text/event-stream")).await?;
        if response.status() != hyper::StatusCode::OK {
            let refused = self.whole(response, MAX_EVENT_BYTES).await?;
            return Err(ClientError::Invalid(refused.text().trim_end().to_owned()));
        }
        Ok(Events(self.coming(response)))
    }

    async fn open(&self, call: Call) -> Result<Response<Incoming>, ClientError> {
        let stream = match tokio::time::timeout(CONNECT_LIMIT, UnixStream::connect(&self.socket)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.not_connected(&error)),
            Err(_elapsed) => return Err(self.not_connected(&io::ErrorKind::TimedOut.into())),
        };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.lost(&error))?;
        // Ends by itself when the answer was read or dropped.
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.target)
            .body(Full::new(call.body))
            .map_err(|error| ClientError::Invalid(format!("this cannot be asked: {error}")))?;
        request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        for (name, value) in call.headers {
            let value = HeaderValue::from_str(&value)
                .map_err(|_| ClientError::Invalid(format!("{name}: {value:?} cannot be sent in a header")))?;
            request.headers_mut().insert(name, value);
        }
        sender.send_request(request).await.map_err(|error| self.lost(&error))
    }

    fn not_connected(&self, error: &io::Error) -> ClientError {
        let (socket, reason) = (self.socket.clone(), error.to_string());
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { socket, reason }
            }
            io::ErrorKind::PermissionDenied => ClientError::NotPermitted { socket, reason },
            _ => ClientError::Connect { socket, reason },
        }
    }

    fn coming(&self, response: Response<Incoming>) -> Coming {
        Coming { body: response.into_body(), buffer: BytesMut::new(), socket: self.socket.clone() }
    }

    fn lost(&self, reason: &(impl fmt::Display + ?Sized)) -> ClientError {
        ClientError::Lost { socket: self.socket.clone(), reason: reason.to_string() }
    }
}

fn content_type(response: &Response<Incoming>) -> String {
    let value =
        response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// An answer that goes on: what has come of it and was not taken yet.
#[derive(Debug)]
struct Coming {
    body: Incoming,
    buffer: BytesMut,
    socket: PathBuf,
}

impl Coming {
    /// Waits for more; `false` when the server has ended the answer. `what` has no end yet.
    async fn more(&mut self, what: &str) -> Result<bool, ClientError> {
        if self.buffer.len() > MAX_EVENT_BYTES {
            return Err(ClientError::Invalid(format!("{what} without end was sent")));
        }
        match self.body.frame().await {
            None => Ok(false),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.buffer.extend_from_slice(&data);
                }
                Ok(true)
            }
            Some(Err(error)) => {
                let reason = error.to_string();
                Err(ClientError::Lost { socket: self.socket.clone(), reason })
            }
        }
    }
}

/// Lines as they come.
#[derive(Debug)]
pub struct Lines(Coming);

impl Lines {
    /// The next line without its end, or `None` when the server has ended the answer. What comes after the last line feed is a
    /// line, too.
    ///
    /// # Errors
    /// [`ClientError::Lost`]; [`ClientError::Invalid`] for a line without end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if let Some(end) = self.0.buffer.iter().position(|byte| *byte == b'\n') {
                let mut line = self.0.buffer.split_to(end + 1);
                line.truncate(end);
                return Ok(Some(line.freeze()));
            }
            if !self.0.more("a line").await? {
                let rest = self.0.buffer.split().freeze();
                return Ok(Some(rest).filter(|rest| !rest.is_empty()));
            }
        }
    }
}

/// Events as they come.
#[derive(Debug)]
pub struct Events(Coming);

impl Events {
    /// The next event, or `None` when the server ended the stream.
    ///
    /// # Errors
    /// [`ClientError::Lost`]; [`ClientError::Invalid`] for what is no event.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            while let Some(block) = self.take_block() {
                if let Some(event) = event_in(&block)? {
                    return Ok(Some(event));
                }
            }
            if !self.0.more("an event").await? {
                return Ok(None);
            }
        }
    }

    /// One block up to its empty line.
    fn take_block(&mut self) -> Option<BytesMut> {
        let end = self.0.buffer.windows(2).position(|pair| pair == b"\n\n")?;
        Some(self.0.buffer.split_to(end + 2))
    }
}

/// The event in one block of an event stream (HTML Living Standard, 9.2.6); none in a comment.
fn event_in(block: &[u8]) -> Result<Option<Event>, ClientError> {
    let text = String::from_utf8_lossy(block);
    let data: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .map(|data| data.strip_prefix(' ').unwrap_or(data))
        .collect();
    if data.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&data.join("\n"))
        .map(Some)
        .map_err(|error| ClientError::Invalid(format!("an event is not understood: {error}")))
}
