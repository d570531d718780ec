//! Connections whose answer comes from another program than the one that took their request.
//!
//! ```text
//!   POST /v1/upgrade ─▶ Waits: the connection, its Accept, the operation's ID, until when
//!                          │ (the supervisor is about to execute the new program)
//!                          │ leaving ─▶ nothing is accepted, idle connections and streams end, answers are written
//!                          │ quiet: only connections are left that wait for an operation
//!                          ▼ (the same process, the new program)
//!                       answered there, as their Accept wants, and closed
//! ```
//!
//! If the new program cannot be executed, the server goes on as if nothing had been.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::IntoResponse as _;
use handover_api::Operation;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::answer::{self, Answer};
use crate::handle::Ticket;

/// How long an answer may take to be written.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// The longest answer: an operation with all that it changes.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// What the control server and the driver must know of each other when the driver is about to leave.
#[derive(Debug, Clone, Default)]
pub(crate) struct Crossing(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    leaving: watch::Sender<bool>,
    /// Connections that are open.
    open: AtomicUsize,
    /// Changes whenever that does.
    changed: watch::Sender<u64>,
    waiters: Mutex<BTreeMap<u64, Waiter>>,
    made: AtomicU64,
}

/// A connection, as the one who answers on it must know it.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Arc<OwnedFd>,
    /// The `Accept` fields of its last request.
    accept: Mutex<Vec<String>>,
}

/// Somebody who waits for the end of an operation.
#[derive(Debug, Clone)]
pub(crate) struct Waiter {
    /// The connection.
    pub(crate) socket: Arc<OwnedFd>,
    /// The `Accept` fields of the request.
    pub(crate) accept: Vec<String>,
    /// ID of the operation.
    pub(crate) operation: String,
    /// Until when.
    pub(crate) until: Instant,
}

/// Dropped when nobody waits there any more.
#[derive(Debug)]
pub(super) struct Waits {
    crossing: Crossing,
    number: u64,
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.crossing.waiters_now().remove(&self.number);
    }
}

impl Connection {
    /// Keeps a duplicate of the socket. `None`: the process is out of descriptors, and the connection's answer cannot come
    /// from another program.
    pub(super) fn of(stream: &UnixStream) -> Option<Arc<Self>> {
        let socket = stream.as_fd().try_clone_to_owned().ok()?;
        Some(Arc::new(Self { socket: Arc::new(socket), accept: Mutex::default() }))
    }

    /// A request has arrived on it.
    pub(super) fn request(&self, headers: &HeaderMap) {
        let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        *self.accept.lock().unwrap_or_else(PoisonError::into_inner) = accept.map(str::to_owned).collect();
    }
}

impl Crossing {
    /// Notes that somebody waits on this connection for the operation's end.
    pub(super) fn wait(
        &self,
        connection: Option<&Arc<Connection>>,
        operation: &str,
        within: Duration,
    ) -> Option<Waits> {
        let connection = connection?;
        let waiter = Waiter {
            socket: Arc::clone(&connection.socket),
            accept: connection.accept.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            operation: operation.to_owned(),
            until: Instant::now() + within,
        };
        let number = self.0.made.fetch_add(1, Ordering::Relaxed);
        self.waiters_now().insert(number, waiter);
        Some(Waits { crossing: self.clone(), number })
    }

    fn waiters_now(&self) -> MutexGuard<'_, BTreeMap<u64, Waiter>> {
        self.0.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everybody who waits.
    pub(crate) fn waiters(&self) -> Vec<Waiter> {
        self.waiters_now().values().cloned().collect()
    }

    /// The supervisor is about to execute another program, or does not after all.
    pub(crate) fn set_leaving(&self, leaving: bool) {
        self.0.leaving.send_replace(leaving);
    }

    /// Waits until the supervisor is about to execute another program.
    pub(super) async fn left(&self) {
        let mut leaving = self.0.leaving.subscribe();
        // The sender lives as long as this does.
        drop(leaving.wait_for(|leaving| *leaving).await);
    }

    /// Waits until it is not, any more.
    pub(super) async fn stayed(&self) {
        let mut leaving = self.0.leaving.subscribe();
        drop(leaving.wait_for(|leaving| !*leaving).await);
    }

    /// So many connections are open.
    pub(super) fn set_open(&self, open: usize) {
        self.0.open.store(open, Ordering::Relaxed);
        self.0.changed.send_modify(|changed| *changed += 1);
    }

    /// Whether all connections that are open wait for an operation.
    pub(crate) fn is_quiet(&self) -> bool {
        self.0.open.load(Ordering::Relaxed) <= self.waiters_now().len()
    }

    /// Waits for that.
    #[cfg(test)]
    pub(crate) async fn quiet(&self) {
        let mut changed = self.0.changed.subscribe();
        while !self.is_quiet() {
            drop(changed.changed().await);
        }
    }
}

impl Waiter {
    /// Answers in the place of the program that took the request, and closes the connection.
    pub(crate) async fn answer(self, ticket: Ticket) {
        let admitted = ticket.operation.clone();
        let ended = tokio::time::timeout_at(self.until.into(), ticket.done()).await;
        let operation = match ended {
            Ok(Ok(ended)) => ended,
            // It goes on, or the supervisor ends before it does: to be asked for by its ID.
            Ok(Err(_)) | Err(_) => admitted,
        };
        let written = tokio::time::timeout(WRITE_LIMIT, self.write(&operation)).await;
        if !matches!(written, Ok(Ok(()))) {
            tracing::debug!(operation = operation.id, "whoever waited for the answer is gone");
        }
    }

    async fn write(&self, operation: &Operation) -> std::io::Result<()> {
        let bytes = self.response(operation).await?;
        let socket = self.socket.try_clone()?;
        let mut stream = UnixStream::from_std(socket.into())?;
        stream.write_all(&bytes).await?;
        stream.shutdown().await
    }

    /// The whole response (RFC 9112 §4).
    async fn response(&self, operation: &Operation) -> std::io::Result<Vec<u8>> {
        let mut headers = HeaderMap::new();
        for accept in self.accept.iter().filter_map(|accept| HeaderValue::from_str(accept).ok()) {
            headers.append(ACCEPT, accept);
        }
        let response = answer::render(&headers, Answer::operation(operation).into_response());
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, MAX_ANSWER_BYTES).await.map_err(std::io::Error::other)?;
        let reason = parts.status.canonical_reason().unwrap_or_default();
        let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", parts.status.as_u16()).into_bytes();
        for (name, value) in &parts.headers {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
        bytes.extend_from_slice(b"connection: close\r\n\r\n");
        bytes.extend_from_slice(&body);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use handover_api::{Actor, Cause, Kind, Outcome};
    use tokio::io::AsyncReadExt as _;
    use tokio::sync::oneshot;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn operation() -> Operation {
        Operation::running("some-id", Kind::Upgrade, Actor::supervisor(), "")
    }

    /// A waiter, and the end of its connection that the client has.
    fn waiter(accept: &str, within: Duration) -> (Waiter, UnixStream) {
        let (ours, client) = UnixStream::pair().unwrap();
        let connection = Connection::of(&ours).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        connection.request(&headers);
        let crossing = Crossing::default();
        let _waits = crossing.wait(Some(&connection), "some-id", within).unwrap();
        (crossing.waiters().remove(0), client)
    }

    async fn answered(accept: &str, within: Duration, ended: Option<Operation>) -> String {
        let (waiter, mut client) = waiter(accept, within);
        let (done, waiting) = oneshot::channel();
        let held = match ended {
            Some(ended) => {
                done.send(ended).unwrap();
                None
            }
            None => Some(done),
        };
        waiter.answer(Ticket { operation: operation(), done: waiting }).await;
        drop(held);
        let mut text = String::new();
        tokio::time::timeout(LIMIT, client.read_to_string(&mut text)).await.unwrap().unwrap();
        text
    }

    #[tokio::test]
    async fn the_answer_is_as_the_request_wanted_it_and_the_connection_is_closed() {
        let mut ended = operation();
        ended.finish(Outcome::Applied, Cause::Done, 3.0);
        let json = answered("application/json", LIMIT, Some(ended.clone())).await;
        let (head, body) = json.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("\r\nconnection: close"), "{head}");
        assert!(head.contains(&format!("\r\ncontent-length: {}", body.len())), "{head}");
        assert_eq!(serde_json::from_str::<Operation>(body).unwrap().outcome, Some(Outcome::Applied));
        let text = answered("*/*", LIMIT, Some(ended)).await;
        assert!(text.contains("content-type: text/plain"), "{text}");
    }

    #[tokio::test]
    async fn whoever_does_not_wait_as_long_is_told_that_it_runs() {
        let text = answered("application/json", Duration::ZERO, None).await;
        assert!(text.starts_with("HTTP/1.1 202 Accepted\r\n"), "{text}");
        assert!(text.contains("location: /v1/operations/some-id"), "{text}");
    }

    #[tokio::test]
    async fn it_is_quiet_when_only_those_are_open_who_wait() {
        let crossing = Crossing::default();
        let (ours, _client) = UnixStream::pair().unwrap();
        let connection = Connection::of(&ours).unwrap();
        crossing.set_open(2);
        let waits = crossing.wait(Some(&connection), "some-id", LIMIT);
        assert!(!crossing.is_quiet());
        let waiting = tokio::spawn({
            let crossing = crossing.clone();
            async move { crossing.quiet().await }
        });
        crossing.set_open(1);
        tokio::time::timeout(LIMIT, waiting).await.unwrap().unwrap();
        drop(waits);
        assert!(!crossing.is_quiet() && crossing.waiters().is_empty());
    }
}
