//! A key in etcd, by etcd's own JSON gateway (etcd 3.4 and later, `/v3/…`): values in base64, numbers as text.
//!
//! ```text
//!   fetch:  [authenticate ─▶ token] ─▶ range ─▶ value, revision in which the key was changed last
//!   watch:  range ─▶ changed since? ─▶ watch from the next revision on ─▶ an event, a compaction, or silence
//! ```
//!
//! A watch is opened from the revision that the range has answered, so that no change falls between the two. After a
//! compaction or a restart of the store, the next range says what was missed.

use std::io::{BufRead as _, BufReader, Read as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::Agent;

use super::access::{Access, Login, Patience};
use super::client::{self, AUTHORIZATION, MAX_CONFIG_BYTES, Trouble};
use super::location::Location;

/// The longest answer: the longest configuration in base64, and room for what stands around it.
const MAX_ANSWER_BYTES: usize = MAX_CONFIG_BYTES / 3 * 4 + 64 * 1024;

/// A key's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyValue {
    pub(super) bytes: Vec<u8>,
    /// The revision in which it was changed last.
    pub(super) revision: u64,
}

/// A key at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// `None` if there is no such key.
    pub(super) value: Option<KeyValue>,
    /// The store's own revision at that moment.
    pub(super) now: u64,
}

/// An open line to etcd.
#[derive(Debug)]
pub(super) struct Etcd<'a> {
    agent: Agent,
    root: String,
    key: &'a str,
    token: Option<String>,
    patience: Patience,
}

impl<'a> Etcd<'a> {
    /// Logs in, if there is somebody to log in as.
    pub(super) fn open(location: &Location, key: &'a str, access: &Access) -> Result<Self, Trouble> {
        let agent = client::agent(location, access)?;
        let mut etcd = Self { agent, root: location.root(), key, token: None, patience: access.patience };
        etcd.token = match &access.login {
            None => None,
            Some(Login::Token(token)) => Some(token.clone()),
            Some(Login::Password { user, password }) => {
                let answer: Token =
                    etcd.ask("/v3/auth/authenticate", &json!({"name": user, "password": password}))?;
                Some(answer.token)
            }
        };
        Ok(etcd)
    }

    /// The key as it is now.
    pub(super) fn range(&self) -> Result<Answer, Trouble> {
        let answer: Range = self.ask("/v3/kv/range", &json!({"key": STANDARD.encode(self.key)}))?;
        let odd = |what: &str| Trouble::unreachable(format!("its answer has no {what}: is it etcd?"));
        let now = number(&answer.header.revision).ok_or_else(|| odd("revision"))?;
        let value = match answer.kvs.into_iter().next() {
            None => None,
            Some(found) => Some(KeyValue {
                bytes: STANDARD.decode(found.value).map_err(|_| odd("value in base64"))?,
                revision: number(&found.mod_revision).ok_or_else(|| odd("revision of the key"))?,
            }),
        };
        Ok(Answer { value, now })
    }

    /// Waits until the key is changed after this revision. `false` if that is not known to be so: after a while
    /// without news, or when the store begins a new watch.
    pub(super) fn wait(&self, after: u64) -> Result<bool, Trouble> {
        let create = json!({
            "create_request": {"key": STANDARD.encode(self.key), "start_revision": (after + 1).to_string()}
        });
        let request = self.request("/v3/watch").config().timeout_global(Some(self.patience.watch)).build();
        let response = match request.send(create.to_string()) {
            Ok(response) => response,
            Err(ureq::Error::Timeout(ureq::Timeout::Global | ureq::Timeout::RecvResponse)) => {
                return Ok(false);
            }
            Err(error) => return Err(client::unanswered(error)),
        };
        client::judge(response.status(), "")?;
        let mut stream = BufReader::new(response.into_body().into_reader());
        loop {
            let mut line = Vec::new();
            let most = u64::try_from(MAX_ANSWER_BYTES).unwrap_or(u64::MAX);
            match (&mut stream).take(most).read_until(b'\n', &mut line) {
                Ok(0) => return Err(Trouble::unreachable("it ended the watch")),
                Ok(_) => {}
                Err(error) if client::is_timeout(&error) => return Ok(false),
                Err(error) => return Err(client::unanswered(error.into())),
            }
            let news: Watched = serde_json::from_slice(&line)
                .map_err(|_| Trouble::unreachable("what it says about a watch cannot be understood"))?;
            let Some(result) = news.result else {
                return Err(Trouble::unreachable(format!("it ends the watch: {}", words_of(&news.error))));
            };
            if result.canceled {
                // Compacted, most likely: the next range finds what was missed.
                return Ok(false);
            }
            if !result.events.is_empty() {
                return Ok(true);
            }
        }
    }

    fn request(&self, path: &str) -> ureq::RequestBuilder<ureq::typestate::WithBody> {
        let request = self.agent.post(format!("{}{path}", self.root)).content_type("application/json");
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, token),
            None => request,
        }
    }

    fn ask<T: for<'de> Deserialize<'de>>(&self, path: &str, what: &Value) -> Result<T, Trouble> {
        let response = self.request(path).send(what.to_string()).map_err(client::unanswered)?;
        let status = response.status();
        let bytes = client::body(response, MAX_ANSWER_BYTES)?;
        if status != 200 {
            let said = serde_json::from_slice::<Value>(&bytes).unwrap_or_default();
            return Err(refusal(status, &words_of(&said)));
        }
        serde_json::from_slice(&bytes)
            .map_err(|_| Trouble::unreachable("its answer cannot be understood: is it etcd?"))
    }
}

/// etcd says most of what is wrong with status 400.
fn refusal(status: ureq::http::StatusCode, said: &str) -> Trouble {
    match client::judge(status, said) {
        Err(Trouble::Refused(_)) if status == 400 && said.contains("authentication") => {
            Trouble::refused(format!("the store does not let us in: {}", client::shown(said)))
        }
        Err(trouble) => trouble,
        Ok(()) => Trouble::unreachable("its answer cannot be understood: is it etcd?"),
    }
}

/// The sentence in one of etcd's errors.
fn words_of(error: &Value) -> String {
    let text = error.get("message").or_else(|| error.get("error")).or_else(|| error.get("grpc_status"));
    client::shown(text.and_then(Value::as_str).unwrap_or_default())
}

/// The gateway writes 64-bit numbers as text (protobuf's JSON mapping).
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

#[derive(Deserialize)]
struct Range {
    header: Header,
    #[serde(default)]
    kvs: Vec<Found>,
}

#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    revision: Value,
}

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    value: String,
    #[serde(default)]
    mod_revision: Value,
}

#[derive(Deserialize)]
struct Watched {
    result: Option<WatchResult>,
    #[serde(default)]
    error: Value,
}

#[derive(Deserialize)]
struct WatchResult {
    #[serde(default)]
    canceled: bool,
    #[serde(default)]
    events: Vec<Value>,
}
