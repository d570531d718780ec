//! Addresses as people write them.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::model::{EndpointAddress, ListenAddress, MAX_UNIX_PATH_BYTES};

/// Why a text is not what it should be, and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) detail: String,
    pub(super) help: Option<String>,
}

impl Wrong {
    pub(super) fn new(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), help: None }
    }

    pub(super) fn help(detail: impl Into<String>, help: impl Into<String>) -> Self {
        Self { detail: detail.into(), help: Some(help.into()) }
    }
}

/// Where an endpoint is, before its name is resolved.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// No resolving needed.
    Address(EndpointAddress),
    /// A host name and a port.
    Name(String, u16),
}

/// Parses an address to listen on.
pub(super) fn listen(text: &str, base: &Path, mode: u32) -> Result<ListenAddress, Wrong> {
    match unix(text, base)? {
        Some(Unix::Path(path)) => return Ok(ListenAddress::Unix { path, mode }),
        Some(Unix::Abstract(name)) => return Ok(ListenAddress::Abstract(name)),
        None => {}
    }
    let Ok(address) = text.parse::<SocketAddr>() else {
        return Err(Wrong {
            detail: format!("{text:?} is not an address to listen on"),
            help: Some(listen_help(text)),
        });
    };
    if let IpAddr::V6(ip) = address.ip()
        && let Some(v4) = ip.to_ipv4_mapped()
    {
        return Err(Wrong::help(
            format!("{text:?} is an IPv4 address written as an IPv6 address"),
            format!("write \"{v4}:{}\"", address.port()),
        ));
    }
    Ok(ListenAddress::Tcp(address))
}

fn listen_help(text: &str) -> String {
    let port = text.rsplit(':').next().filter(|port| port.parse::<u16>().is_ok());
    let shown = port.unwrap_or("8080");
    if text.starts_with('/') || text.starts_with("./") {
        return format!("write \"unix:{text}\" for a Unix socket");
    }
    if text.starts_with('@') {
        return format!("write \"unix:{text}\" for an abstract Unix socket");
    }
    if text.starts_with("http://") || text.starts_with("https://") {
        return format!("write only the IP address and the port: \"127.0.0.1:{shown}\"");
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        // The last part of "::1:8080" was hardly meant as a part of the address.
        let (ip, port) = match text.rsplit_once(':').map(|(ip, port)| (ip.parse(), port.parse())) {
            Some((Ok(ip), Ok(port))) => (IpAddr::V6(ip), port),
            _ => (ip, 8080),
        };
        return format!("write it with a port, as in \"{}\"", SocketAddr::new(ip, port));
    }
    match text.rsplit_once(':') {
        Some(("" | "*", _)) | None if port.is_some() => {
            format!("write \"0.0.0.0:{shown}\" for all IPv4 addresses, \"[::]:{shown}\" for all IPv6 addresses, or both")
        }
        Some(("localhost", _)) => format!("write \"127.0.0.1:{shown}\", \"[::1]:{shown}\", or both"),
        Some((host, port)) if host.parse::<IpAddr>().is_ok() && port.bytes().all(|b| b.is_ascii_digit()) => {
            "a port is a number from 0 to 65535".to_owned()
        }
        _ => "write an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\", or \"unix:\" and a path"
            .to_owned(),
    }
}

/// Parses the address of an endpoint.
pub(super) fn endpoint(text: &str, base: &Path) -> Result<Place, Wrong> {
    match unix(text, base)? {
        Some(Unix::Path(path)) => return Ok(Place::Address(EndpointAddress::Unix(path))),
        Some(Unix::Abstract(name)) => return Ok(Place::Address(EndpointAddress::Abstract(name))),
        None => {}
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        if address.port() == 0 {
            return Err(Wrong::new(format!("{text:?} has port 0, to which nothing can be connected")));
        }
        return Ok(Place::Address(EndpointAddress::Tcp(address)));
    }
    if text.starts_with('/') || text.starts_with("./") || text.starts_with('@') {
        return Err(Wrong::help(
            format!("{text:?} is not an endpoint"),
            format!("write \"unix:{text}\" for a Unix socket"),
        ));
    }
    if text.starts_with("https://") {
        return Err(Wrong::help(
            format!("{text:?} asks for TLS, which endpoints cannot speak yet"),
            "write host and port of a plain HTTP server",
        ));
    }
    if let Some(rest) = text.strip_prefix("http://") {
        let rest = rest.trim_end_matches('/');
        let port = if rest.contains(':') { "" } else { ":80" };
        return Err(Wrong::help(
            format!("{text:?} is a URL, not an endpoint"),
            format!("write \"{rest}{port}\""),
        ));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        let example = SocketAddr::new(ip, 3000);
        return Err(Wrong::help(format!("{text:?} has no port"), format!("write it as in \"{example}\"")));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(Wrong::help(format!("{text:?} has no port"), format!("write it as in \"{text}:3000\"")));
    };
    let Some(port) = port.parse::<u16>().ok().filter(|port| *port != 0 && !text.ends_with("+")) else {
        return Err(Wrong::help(format!("{port:?} is not a port"), "a port is a number from 1 to 65535"));
    };
    check_host_name(host)?;
    Ok(Place::Name(host.to_owned(), port))
}

/// The longest host name (RFC 1035 §2.3.4), and the longest label.
const MAX_HOST_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// Checks that a host name could exist.
pub(super) fn check_host_name(host: &str) -> Result<(), Wrong> {
    let name = host.strip_suffix('.').unwrap_or(host);
    if !host.is_ascii() {
        return Err(Wrong::help(
            format!("{host:?} has letters that host names cannot have"),
            "write it in its ASCII form, as in \"xn--bcher-kva.example\"",
        ));
    }
    let label_ok = |label: &str| {
        (1..=MAX_LABEL_BYTES).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if name.len() > MAX_HOST_BYTES || !name.split('.').all(label_ok) {
        return Err(Wrong::new(format!("{host:?} is not a host name")));
    }
    Ok(())
}

enum Unix {
    Path(PathBuf),
    Abstract(Arc<str>),
}

/// Parses `unix:/path` and `unix:@name`; `None` for everything else.
fn unix(text: &str, base: &Path) -> Result<Option<Unix>, Wrong> {
    let Some(rest) = text.strip_prefix("unix:") else {
        return Ok(None);
    };
    if rest.contains('\0') {
        return Err(Wrong::new("the name of a socket cannot have a NUL character"));
    }
    if let Some(name) = rest.strip_prefix('@') {
        if name.is_empty() || name.len() > MAX_UNIX_PATH_BYTES {
            return Err(Wrong::new(format!(
                "the name of an abstract socket has 1 to {MAX_UNIX_PATH_BYTES} bytes"
            )));
        }
        return Ok(Some(Unix::Abstract(name.into())));
    }
    socket_path(rest, base).map(|path| Some(Unix::Path(path)))
}

/// The absolute path of a socket, checked for length.
pub(super) fn socket_path(text: &str, base: &Path) -> Result<PathBuf, Wrong> {
    if text.is_empty() || text.ends_with('/') {
        return Err(Wrong::help("a Unix socket needs a path", "write it as in \"unix:/run/app.sock\""));
    }
    // Neither URLs nor TOML make the difference between "unix:/run" and "unix:///run" plain; both mean "/run".
    let path = base.join(text.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(text));
    let length = path.as_os_str().len();
    if length > MAX_UNIX_PATH_BYTES {
        return Err(Wrong::new(format!(
            "the path {} has {length} bytes, but that of a socket can have only {MAX_UNIX_PATH_BYTES}",
            path.display()
        )));
    }
    Ok(path)
}
