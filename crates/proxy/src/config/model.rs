//! The validated configuration: plain data that cannot be wrong.
//!
//! A value of these types exists only if every check in [`super::parse`] passed: names refer to what exists, numbers
//! lie within their bounds, files that are named were read, and the names of endpoints were resolved. Nothing here
//! knows TOML; nothing here does I/O. Indices ([`ServiceIndex`], [`ListenerIndex`]) point into the vectors of the same
//! [`Config`] and mean nothing in another one: across generations things are known by name.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use super::model_programs::*;
pub use super::model_tls::*;

/// Position of a listener in [`Config::listeners`].
pub type ListenerIndex = usize;
/// Position of a service in [`Config::services`].
pub type ServiceIndex = usize;

/// Everything that one configuration file says, checked and resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where connections come in, in the order of the file.
    pub listeners: Vec<Listener>,
    /// Which request goes where, in the order of the file (the order decides nothing: see [`crate::routes`]).
    pub routes: Vec<Route>,
    /// Groups of endpoints to which requests and connections are passed, in the order of the file.
    pub services: Vec<Service>,
    /// The control socket, who may use it, and where the journal is.
    pub control: Control,
    /// Where log lines go.
    pub log: Log,
    /// Where metrics are served; `None`: only on the control socket.
    pub metrics: Option<Metrics>,
    /// How long connections may take to end when the server stops or a listener goes.
    pub drain: Drain,
    /// How keys of session tickets change.
    pub tickets: Tickets,
    /// How files are watched; `None`: only a reload that is asked for takes effect.
    pub watch: Option<Watch>,
    /// How every change is watched for its first seconds; `None`: only where it is asked for.
    pub guard: Option<Guard>,
    /// Which binaries an upgrade may run.
    pub upgrade: Upgrade,
    /// What the supervisor runs beside the workers, in the order of the file.
    pub programs: Vec<Program>,
}

/// A named place where connections come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The table's name: `web` in `[listeners.web]`.
    pub name: Arc<str>,
    /// One or more addresses; no two of them, in the whole configuration, exclude each other.
    pub addresses: Vec<ListenAddress>,
    /// What is spoken on the connections.
    pub protocol: Protocol,
    /// The most connections that the kernel keeps waiting to be accepted (`listen(2)`).
    pub backlog: u32,
    /// Limits on size and number.
    pub limits: Limits,
    /// Limits on time.
    pub timeouts: Timeouts,
    /// TLS; `None`: connections are plain.
    pub tls: Option<ListenerTls>,
}

/// An address to bind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// An IP address and a port. IPv6 sockets are bound with `IPV6_V6ONLY`, so that `0.0.0.0:80` and `[::]:80` can
    /// stand side by side. Port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix {
        /// Absolute path, at most [`MAX_UNIX_PATH_BYTES`] bytes.
        path: PathBuf,
        /// Permission bits of the socket file, e.g. `0o660`.
        mode: u32,
    },
    /// A socket in Linux's abstract namespace; the name has neither the leading NUL byte nor the `@`.
    Abstract(Arc<str>),
}

/// The longest path of a Unix socket: `sockaddr_un.sun_path` has 108 bytes, the last of them NUL (`unix(7)`).
pub const MAX_UNIX_PATH_BYTES: usize = 107;

/// What a listener's connections speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, dispatched by the routes.
    Http,
    /// Bytes, passed unread to one service.
    Tcp {
        /// The service that gets them.
        service: ServiceIndex,
    },
}

/// Limits of a listener on number and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once on all addresses of the listener together.
    pub connections: u32,
    /// Bytes of a request's head: request line and header fields; at most [`MAX_HEADER_BYTES`].
    pub header_bytes: usize,
    /// Header lines of a request.
    pub headers: usize,
    /// Bytes of a request's target.
    pub target_bytes: usize,
    /// Bytes of a request's body; `None`: unlimited.
    pub body_bytes: Option<u64>,
}

/// The largest head that can be allowed: a head must fit into one buffer.
pub const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Limits of a listener on time. None of them is ever zero or endless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From a request's first byte (on a new connection: from accept) to the end of its head.
    pub header: Duration,
    /// Between two requests on a connection that is kept alive.
    pub idle: Duration,
    /// The longest pause within a body, in either direction: every byte of progress starts it anew.
    pub body: Duration,
    /// The longest silence, in both directions, of a TCP connection or an upgraded one (WebSocket).
    pub tunnel: Duration,
}

/// Which requests, and what happens to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The name given, or one made of what the route matches: `GET example.org/api/*`.
    pub name: Arc<str>,
    /// The conditions, all of which must hold.
    pub matcher: Matcher,
    /// What is done with the requests that match.
    pub action: Action,
    /// It is asked whether the service is well: never held, and answered with 200 by the proxy itself while the service is paused or
    /// has no endpoint that gets anything.
    pub health: bool,
}

/// The conditions of a route. An empty list is no condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    /// Any of these hosts.
    pub hosts: Vec<HostPattern>,
    /// Any of these paths.
    pub paths: Vec<PathPattern>,
    /// Any of these methods; `GET` admits `HEAD` as well. See [`crate::routes`].
    pub methods: Vec<Arc<str>>,
    /// The HTTP listeners on which the route exists, sorted. Routes on all of them share one list.
    pub listeners: Arc<[ListenerIndex]>,
}

/// A pattern for the host of a request: lower case, without port and trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This host: `example.org`, `192.0.2.1`, `[::1]`.
    Exact(Arc<str>),
    /// Every host below this one, at any depth, but not it itself: `*.example.org` is kept as `example.org`.
    Below(Arc<str>),
}

/// A pattern for the path of a request, compared byte for byte with what the client sent, without the query.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// This path.
    Exact(Arc<str>),
    /// By whole segments: `/api` admits `/api` and `/api/x`, but not `/apix`; `/api/` admits `/api/` and `/api/x`,
    /// but not `/api`. `/` alone is no condition.
    Prefix(Arc<str>),
}

/// What is done with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It is passed to a service.
    Service(ServiceIndex),
    /// It is answered with the same bytes each time.
    Fixed(Fixed),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// It is answered with a file.
    Directory(Directory),
}

/// A response that is the same each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// 200 to 599.
    pub status: u16,
    /// The bytes of the body, given in the configuration or read from [`Fixed::body_file`] in prepare; at most
    /// [`MAX_FIXED_BODY_BYTES`].
    pub body: Arc<[u8]>,
    /// The file that the body was read from.
    pub body_file: Option<PathBuf>,
    /// The `Content-Type` to send; `None` only where there is no body.
    pub content_type: Option<Arc<str>>,
    /// Further header fields of the response.
    pub headers: Vec<HeaderField>,
}

/// The largest body of a fixed response: it is kept in memory once per generation.
pub const MAX_FIXED_BODY_BYTES: usize = 16 * 1024 * 1024;

/// A response that sends the client elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// The pieces of `Location`, in order. The authority consists of literals and [`Piece::Host`] only, so that a
    /// request's path cannot choose another host.
    pub to: Vec<Piece>,
}

/// A piece of a redirect's `Location`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// These characters.
    Literal(Arc<str>),
    /// `{host}`: the request's host, without port.
    Host,
    /// `{path}`: the request's path.
    Path,
    /// `{query}`: `?` and the request's query, or nothing if it has none.
    Query,
}

/// Files below a directory. The part of the path after the route's prefix (see [`crate::routes::Match::prefix`]) names
/// the file; for an exact path, or a route without path, the whole path does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Absolute path of the directory. It is opened by whoever builds the generation; files are never part of it.
    pub root: PathBuf,
    /// File names tried in order for a path that ends with `/`.
    pub index: Vec<Arc<str>>,
    /// Whether files and directories whose names begin with a dot are served.
    pub hidden: bool,
    /// Further header fields of successful responses.
    pub headers: Vec<HeaderField>,
}

/// A header field to send: the name as written (a valid token), the value without CR, LF or other control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeaderField {
    /// Field name (RFC 9110 §5.1).
    pub name: Arc<str>,
    /// Field value (RFC 9110 §5.5).
    pub value: Arc<str>,
}

/// A group of endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The table's name: `app` in `[services.app]`.
    pub name: Arc<str>,
    /// One or more endpoints, no two the same; none if it leads to a program.
    pub endpoints: Vec<Endpoint>,
    /// The program that it leads to: its endpoints are that one's copies, which come and go while a generation serves.
    pub program: Option<Arc<str>>,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// From the first SYN to an established connection.
    pub connect_timeout: Duration,
    /// From the request's last byte to the end of the response's head.
    pub response_timeout: Duration,
    /// Connections kept for further requests.
    pub keep_alive: KeepAlive,
    /// Changes to what is sent to the endpoint.
    pub request_headers: HeaderEdits,
    /// Changes to what is sent to the client.
    pub response_headers: HeaderEdits,
    /// What the endpoint is told about the client.
    pub forwarded: Forwarded,
    /// TLS to the endpoints; `None`: connections are plain.
    pub tls: Option<ServiceTls>,
}

/// Where a service is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// As written: `localhost:3000`, `unix:/run/app.sock`. Identifies the endpoint across generations.
    pub name: Arc<str>,
    /// Where the name leads, never empty: the addresses that it resolved to, in the resolver's order. Each takes part
    /// in balancing as if it stood alone.
    pub addresses: Vec<EndpointAddress>,
}

/// An address to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// IP address and port (never 0).
    Tcp(SocketAddr),
    /// A socket in the file system, by absolute path.
    Unix(PathBuf),
    /// A socket in Linux's abstract namespace, without the leading NUL byte.
    Abstract(Arc<str>),
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// Each in turn.
    RoundRobin,
    /// The one with the fewest requests (or tunnels) in progress; among equals, in turn.
    LeastConnections,
}

/// Idle connections to a service's endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    /// The most idle connections kept per thread and endpoint; 0: none are kept.
    pub idle: u32,
    /// How long one is kept.
    pub idle_timeout: Duration,
}

/// Changes to the header fields of a message. `remove` comes first, then `set` replaces all fields of its names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderEdits {
    /// Fields to set; no two of the same name, none of them hop-by-hop or about the message's length.
    pub set: Vec<HeaderField>,
    /// Names of fields to remove, in lower case.
    pub remove: Vec<Arc<str>>,
}

/// What an endpoint is told about the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    /// `X-Forwarded-For`, `-Proto` and `-Host` are sent.
    pub x_forwarded: bool,
    /// `Forwarded` (RFC 7239) is sent.
    pub forwarded: bool,
    /// `Via` (RFC 9110 §7.6.3) is sent, to the client as well.
    pub via: bool,
    /// What becomes of the same fields in the client's request.
    pub incoming: Incoming,
}

/// What becomes of forwarding fields that the client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// They are dropped: the client is nobody's proxy, and could write anything.
    Replace,
    /// The client's address is added to `X-Forwarded-For` and `Forwarded`; the others are replaced.
    Append,
    /// As `Append`, and `X-Forwarded-Proto` and `-Host` are kept: all clients are proxies that can be trusted.
    Trust,
}

/// The control socket and the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// Path of the socket; `None`: the default place, which the supervisor chooses.
    pub socket: Option<PathBuf>,
    /// Permission bits of the socket.
    pub mode: u32,
    /// The group that owns the socket; `None`: that of the process.
    pub group: Option<u32>,
    /// Who may do what. Root and the user that runs the server may always do everything.
    pub roles: Roles,
    /// Where the journal is kept; `None`: the default place.
    pub state: Option<PathBuf>,
    /// How many operations the journal keeps.
    pub history: u32,
    /// How many generations the journal keeps, besides those that are needed.
    pub generations: u32,
}

/// Who may do what. A higher role includes the lower ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roles {
    /// May stop the server and everything below.
    pub admin: Grant,
    /// May reload, drain and resume, and call actions.
    pub operate: Grant,
    /// May ask.
    pub read: Grant,
}

/// Users and groups, by number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grant {
    /// User IDs.
    pub users: Vec<u32>,
    /// Group IDs.
    pub groups: Vec<u32>,
}

/// Where log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Lines for people, or one JSON object a line.
    pub format: LogFormat,
    /// Where they go.
    pub to: LogTarget,
    /// What is left out.
    pub level: LogLevel,
    /// Whether each request leaves a line, and where; `None`: no access log.
    pub access: Option<LogTarget>,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where a log goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LogTarget {
    /// The standard error stream of the process.
    Stderr,
    /// The standard output stream of the process.
    Stdout,
    /// A file, appended to, and opened anew on `USR1`; an absolute path.
    File(PathBuf),
}

/// The least severe lines that are still written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// … and what is likely to fail.
    Warn,
    /// … and what changed.
    Info,
    /// … and why.
    Debug,
    /// … and everything else.
    Trace,
}

/// Where metrics are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// Addresses, as those of a listener.
    pub addresses: Vec<ListenAddress>,
    /// The path that answers, `/metrics` unless set.
    pub path: Arc<str>,
}

/// How connections end when the server stops or a listener goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// After this time the rest is cut.
    pub timeout: Duration,
}

/// Reloading by itself when files change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// How long nothing may have changed before the files are read.
    pub settle: Duration,
    /// After a reload that was refused: how long until the same files are tried again.
    pub retry: Duration,
    /// How often a web page is asked for.
    pub poll: Duration,
}

/// Watching a new generation, and going back by itself if it does worse than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// How long, from the commit on.
    pub watch: Duration,
    /// Limits hold from so many requests (connects, handshakes) on: one failure of two says nothing.
    pub requests: u32,
    /// By how much the share of 5xx responses may rise.
    pub errors_5xx: Share,
    /// By how much the share of failed connects to endpoints may rise.
    pub connect_failures: Share,
    /// By how much the share of failed TLS handshakes with clients may rise.
    pub handshake_failures: Share,
}

/// Which binaries an upgrade may run: every rule that is given must be kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upgrade {
    /// The binary must lie in one of these directories, or below; anywhere if there are none. Absolute.
    pub directories: Vec<PathBuf>,
    /// The user to whom it must belong.
    pub owner: Option<u32>,
    /// The SHA-256 digest that it must have: 64 lower-case hexadecimal digits.
    pub sha256: Option<String>,
    /// The minisign public key (base64) that must have signed it.
    pub public_key: Option<String>,
}

/// A share of the whole, in hundredths of a percent, 0 to 10,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(pub u32);

impl Share {
    /// In percent (or percentage points): 0.0 to 100.0.
    #[must_use]
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

/// `5%`, `0.25%`.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, part) if part % 10 == 0 => write!(f, "{whole}.{}%", part / 10),
            (whole, part) => write!(f, "{whole}.{part:02}%"),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { path, .. } => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}
