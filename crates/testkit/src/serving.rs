//! The usual scenes: a workspace, a port, and handover serving a configuration on it, with or without TLS.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::Value;

use crate::authority::{Authority, Pair};
use crate::config;
use crate::handover::Handover;
use crate::handshakes::Handshakes;
use crate::http::{self, Response};
use crate::ports::Port;
use crate::process::Output;
use crate::tls::TlsClient;
use crate::workspace::Workspace;

/// A server that serves, with everything that belongs to it. It ends with this.
#[derive(Debug)]
pub struct Serving {
    /// The server.
    pub handover: Handover,
    /// The port of its listener `web`.
    pub port: Port,
    /// Where its files are.
    pub workspace: Workspace,
}

impl Serving {
    /// Starts `binary` with a listener `web` and the given rest of a configuration.
    #[must_use]
    #[track_caller]
    pub fn start(binary: impl Into<PathBuf>, rest: &str) -> Self {
        Self::prepared(binary, Workspace::new(), rest)
    }

    /// As [`Serving::start`], in a workspace that holds files already.
    #[must_use]
    #[track_caller]
    pub fn prepared(binary: impl Into<PathBuf>, workspace: Workspace, rest: &str) -> Self {
        let port = Port::claim();
        let text = config::listener("web", &port) + rest;
        let handover = Handover::of(binary, &workspace).config(text).start();
        Self { handover, port, workspace }
    }

    /// The address of its listener `web`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// A URL of its listener `web`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// The whole configuration with this rest.
    #[must_use]
    pub fn config(&self, rest: &str) -> String {
        config::listener("web", &self.port) + rest
    }

    /// Writes the listener `web` and this rest to the file, without a reload.
    pub fn write(&self, rest: &str) {
        self.handover.write_config(self.config(rest));
    }

    /// Writes the listener `web` and this rest, and runs `handover reload`.
    #[must_use]
    pub fn reload(&self, rest: &str) -> Output {
        self.handover.reload_with(self.config(rest))
    }

    /// A GET on a new connection.
    #[must_use]
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        http::get(self.address(), path)
    }

    /// The text of a GET on a new connection.
    #[must_use]
    #[track_caller]
    pub fn text(&self, path: &str) -> String {
        self.get(path).text()
    }
}

/// The operation in an answer of the control API: the answer itself, or what an error carries.
#[must_use]
pub fn operation_of(answer: &Value) -> &Value {
    answer.get("operation").unwrap_or(answer)
}

/// A string in JSON, by pointer; empty if it is not there.
#[must_use]
pub fn text_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The name of the one certificate of a [`Secure`] server.
pub const SITE: &str = "site.test";

/// A server with one listener, `secure`, that speaks TLS with one pair, `site.pem` and `site.key`, for [`SITE`].
#[derive(Debug)]
pub struct Secure {
    /// The server.
    pub handover: Handover,
    /// The port of its listener.
    pub port: Port,
    /// Who signs its certificates.
    pub authority: Authority,
    /// The pair that it was started with.
    pub first: Pair,
    /// Where its files are.
    pub workspace: Workspace,
}

impl Secure {
    /// Starts `binary` with further lines of the listener's TLS table and the given rest of a configuration.
    #[must_use]
    #[track_caller]
    pub fn start(binary: impl Into<PathBuf>, more: &str, rest: &str) -> Self {
        Self::prepared(binary, Workspace::new(), more, rest)
    }

    /// As [`Secure::start`], in a workspace that holds files already.
    #[must_use]
    #[track_caller]
    pub fn prepared(binary: impl Into<PathBuf>, workspace: Workspace, more: &str, rest: &str) -> Self {
        let (port, authority) = (Port::claim(), Authority::new("Test Authority"));
        let first = authority.pair(&[SITE]);
        first.write(&workspace, "site");
        let text = config::tls_listener("secure", &port, &["site"], more) + rest;
        let handover = Handover::of(binary, &workspace).config(text).start();
        Self { handover, port, authority, first, workspace }
    }

    /// The address of its listener.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The whole configuration with these further lines of the TLS table and this rest.
    #[must_use]
    pub fn config(&self, more: &str, rest: &str) -> String {
        config::tls_listener("secure", &self.port, &["site"], more) + rest
    }

    /// A client that trusts the authority and asks for [`SITE`].
    #[must_use]
    pub fn client(&self) -> TlsClient {
        TlsClient::trusting(self.authority.pem(), SITE)
    }

    /// Another pair for [`SITE`], with another key.
    #[must_use]
    pub fn another(&self) -> Pair {
        self.authority.pair(&[SITE])
    }

    /// The text of a GET on a new connection.
    #[must_use]
    #[track_caller]
    pub fn text(&self, path: &str) -> String {
        self.client().get(self.address(), path).1.text()
    }

    /// The serial number of the certificate that a new handshake shows.
    #[must_use]
    #[track_caller]
    pub fn serial(&self) -> u64 {
        self.client().serial(self.address())
    }

    /// Starts shaking hands again and again.
    #[must_use]
    pub fn handshakes(&self) -> Handshakes {
        Handshakes::start(self.client(), self.address(), "/")
    }
}
