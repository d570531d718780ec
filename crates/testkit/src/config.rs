//! Pieces of configuration files that many tests are put together from: `[listener(…), fixed(…)].concat()`.

use std::fmt::Display;
use std::net::SocketAddr;

use crate::ports::Port;

/// An HTTP listener on a port of the test's.
#[must_use]
pub fn listener(name: &str, port: &Port) -> String {
    format!("[listeners.{name}]\naddress = \"{}\"\n\n", port.address())
}

/// An HTTP listener that speaks TLS with these pairs, written as `NAME.pem` and `NAME.key`; `more` are further lines of its
/// TLS table. It ends in that table.
#[must_use]
pub fn tls_listener(name: &str, port: &Port, pairs: &[&str], more: &str) -> String {
    let address = port.address();
    let pairs: Vec<String> = pairs
        .iter()
        .map(|pair| format!("  {{ certificate = \"{pair}.pem\", key = \"{pair}.key\" }},\n"))
        .collect();
    format!(
        "[listeners.{name}]\naddress = \"{address}\"\n\n[listeners.{name}.tls]\ncertificates = [\n{}]\n{more}\n\n",
        pairs.concat()
    )
}

/// All the time that a test may need, for the clients of a listener: who waits for something else is not cut meanwhile, however slow
/// the machine is.
#[must_use]
pub fn patient(name: &str) -> String {
    format!("[listeners.{name}.timeouts]\nheader = \"5m\"\nidle = \"1h\"\nbody = \"1h\"\n\n")
}

/// A TCP listener whose connections go to a service.
#[must_use]
pub fn tcp_listener(name: &str, port: &Port, service: &str) -> String {
    let address = port.address();
    format!("[listeners.{name}]\naddress = \"{address}\"\nprotocol = \"tcp\"\nservice = \"{service}\"\n\n")
}

/// A route of this path that always answers the same text.
#[must_use]
pub fn fixed(path: &str, body: impl Display) -> String {
    format!("[[routes]]\nname = \"{path}\"\npath = \"{path}\"\nfixed = \"{body}\"\n\n")
}

/// A route of this path that answers with the bytes of a file.
#[must_use]
pub fn from_file(path: &str, file: &str) -> String {
    format!("[[routes]]\nname = \"{path}\"\npath = \"{path}\"\nfixed = {{ body_file = \"{file}\" }}\n\n")
}

/// A service with one endpoint.
#[must_use]
pub fn service(name: &str, endpoint: SocketAddr) -> String {
    format!("[services.{name}]\nendpoints = \"{endpoint}\"\n\n")
}

/// A route that passes everything that no other route takes to a service.
#[must_use]
pub fn everything_to(service: &str) -> String {
    format!("[[routes]]\nname = \"everything to {service}\"\nservice = \"{service}\"\n\n")
}

/// A route that passes everything below this path to a service.
#[must_use]
pub fn below_to(prefix: &str, service: &str) -> String {
    format!(
        "[[routes]]\nname = \"{prefix} to {service}\"\npath_prefix = \"{prefix}\"\nservice = \"{service}\"\n\n"
    )
}

/// How long connections may take to end when the server stops.
#[must_use]
pub fn drain(timeout: &str) -> String {
    format!("[drain]\ntimeout = \"{timeout}\"\n\n")
}
