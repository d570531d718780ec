//! The control API as a plain client sees it: HTTP over a Unix socket, JSON, server-sent events.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::deadline::{DEADLINE, Deadline};
use crate::http::{Connection, Response};

/// A server's control socket.
#[derive(Debug, Clone)]
pub struct Control {
    socket: PathBuf,
}

impl Control {
    /// The control socket at `path`, whether or not anybody answers there.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { socket: path.to_owned() }
    }

    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.socket
    }

    /// One request on a connection of its own.
    ///
    /// # Errors
    /// Nobody answers, or not with a whole response.
    pub fn try_ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> std::io::Result<Response> {
        let mut connection = Connection::open_unix(&self.socket)?;
        let bytes = crate::http::request_bytes(method, path, headers, body.as_bytes());
        connection.try_send(bytes)?;
        connection.try_response(method)
    }

    /// As [`Control::try_ask`], where an answer is expected.
    #[track_caller]
    #[must_use]
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        self.try_ask(method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} {path} on {}: {error}", self.socket.display()))
    }

    /// A GET whose answer is JSON.
    #[track_caller]
    #[must_use]
    pub fn get(&self, path: &str) -> Value {
        json(&self.ask("GET", path, &[("Accept", "application/json")], "").expect(200))
    }

    /// A POST with further headers, asking for JSON: the status code and what was answered.
    #[track_caller]
    #[must_use]
    pub fn post(&self, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
        let mut all = vec![("Accept", "application/json")];
        all.extend_from_slice(headers);
        let response = self.ask("POST", path, &all, "");
        (response.status(), json(&response))
    }

    /// Sends a POST and does not wait for its answer: read it from the connection with `response("POST")`.
    #[track_caller]
    #[must_use]
    pub fn begin(&self, path: &str, headers: &[(&str, &str)]) -> Connection {
        let mut connection = Connection::open_unix(&self.socket).expect("control socket");
        let mut all = vec![("Accept", "application/json")];
        all.extend_from_slice(headers);
        connection.send(crate::http::request_bytes("POST", path, &all, b""));
        connection
    }

    /// `POST /v1/reload`: the operation that was answered.
    #[track_caller]
    #[must_use]
    pub fn reload(&self) -> Value {
        self.post("/v1/reload", &[]).1
    }

    /// `GET /v1/status`.
    #[track_caller]
    #[must_use]
    pub fn status(&self) -> Value {
        self.get("/v1/status")
    }

    /// The generation that serves, as `status` tells it.
    #[track_caller]
    #[must_use]
    pub fn generation(&self) -> u64 {
        let status = self.status();
        status.pointer("/generation/number").and_then(Value::as_u64).unwrap_or_else(|| panic!("{status}"))
    }

    /// `GET /v1/history`, the newest first.
    #[track_caller]
    #[must_use]
    pub fn history(&self) -> Vec<Value> {
        let history = self.get("/v1/history?limit=1000");
        history.as_array().cloned().unwrap_or_else(|| panic!("{history}"))
    }

    /// Waits until an operation has ended that `wanted` accepts, and gives the newest such.
    #[track_caller]
    #[must_use]
    pub fn wait_for_operation(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        crate::deadline::until(what, || {
            self.history().into_iter().find(|one| one["state"] == "done" && wanted(one))
        })
    }

    /// Waits until this server answers and serves.
    #[track_caller]
    pub fn wait_until_it_serves(&self) {
        crate::deadline::until("it serves", || {
            let answer = self.try_ask("GET", "/v1/status", &[("Accept", "application/json")], "").ok()?;
            let status: Value = serde_json::from_slice(&answer.body).ok()?;
            (status["phase"] == "serving").then_some(())
        });
    }

    /// The serving worker's process, as `status` tells it.
    #[track_caller]
    #[must_use]
    pub fn worker(&self) -> u32 {
        let status = self.status();
        let pid = status.pointer("/worker/pid").and_then(Value::as_u64).unwrap_or_else(|| panic!("{status}"));
        u32::try_from(pid).expect("a process id")
    }

    /// Subscribes to events. The subscription holds once this has returned.
    #[track_caller]
    #[must_use]
    pub fn events(&self) -> Events {
        let mut connection = Connection::open_unix(&self.socket).expect("control socket");
        let headers = [("Accept", "text/event-stream")];
        connection.send(crate::http::request_bytes("GET", "/v1/events", &headers, b""));
        let head = connection.head();
        assert_eq!(head.status, 200, "no events: {}", String::from_utf8_lossy(&head.raw));
        Events { connection, text: String::new() }
    }
}

#[track_caller]
fn json(response: &Response) -> Value {
    serde_json::from_slice(&response.body)
        .unwrap_or_else(|error| panic!("no JSON ({error}): {}", response.text()))
}

/// One server-sent event.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its type.
    pub name: String,
    /// Its data.
    pub data: Value,
}

/// A subscription to `/v1/events`.
#[derive(Debug)]
pub struct Events {
    connection: Connection,
    text: String,
}

impl Events {
    /// The next event.
    #[track_caller]
    pub fn next_event(&mut self) -> Event {
        self.next_or_end().expect("events have no end")
    }

    /// The next event; `None` if there are no more, because whoever tells them has ended, or has become another program.
    #[track_caller]
    pub fn next_or_end(&mut self) -> Option<Event> {
        let deadline = Deadline::usual();
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let rest = self.text.split_off(end + 2);
                let block = std::mem::replace(&mut self.text, rest);
                if let Some(event) = parse(&block) {
                    return Some(event);
                }
                continue;
            }
            assert!(!deadline.passed(), "waited {DEADLINE:?} in vain for an event");
            let chunk = match self.connection.try_chunk() {
                Ok(Some(chunk)) => chunk,
                Err(error) if error.kind() == std::io::ErrorKind::TimedOut => panic!("no event: {error}"),
                Ok(None) | Err(_) => return None,
            };
            self.text.push_str(&String::from_utf8_lossy(&chunk));
        }
    }

    /// The next event that `wanted` accepts; the others are dropped.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        let deadline = Deadline::usual();
        loop {
            let event = self.next_event();
            if wanted(&event) {
                return event;
            }
            assert!(!deadline.passed(), "waited {DEADLINE:?} in vain for {what}");
        }
    }
}

/// Comments (keep-alives) alone are no event.
fn parse(block: &str) -> Option<Event> {
    let field = |name: &str| -> Vec<&str> {
        block
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|value| value.strip_prefix(' ').unwrap_or(value))
            .collect()
    };
    let data = field("data");
    if data.is_empty() {
        return None;
    }
    let data = data.join("\n");
    let name = field("event").first().copied().unwrap_or("message").to_owned();
    Some(Event { name, data: serde_json::from_str(&data).unwrap_or(Value::String(data)) })
}
