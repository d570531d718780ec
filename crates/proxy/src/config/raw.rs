//! The configuration as it is written: what keys there are, of which type, with which bounds and defaults.
//!
//! The comments here are what `handover schema` and editors show. Whether the values go together is decided in
//! [`super::check`].

use std::borrow::Cow;

use handover_http1::limits::MAX_HEADERS;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;
use toml::de::DeValue;

use super::decode::{Decode, Many, Named, Node, OneOrMany, by_name, choice, string, table};
use super::model::{Balance, Incoming, LogFormat, LogLevel};
use super::raw_programs::{MAX_PROGRAMS, RawProgram};
use super::raw_tls::{RawGuard, RawListenerTls, RawServiceTls, RawTickets, RawWatch};
use super::raw_upgrade::RawUpgrade;
use super::sink::{Located, Sink};
use super::values::{
    Count, DAY, GIB, HOUR, KIB, MINUTE, Mode, Principal, SECOND, Size, SizeOrUnlimited, TIB, Time,
};

/// The most header lines that a request may have; more than the codec can hold makes no sense.
#[allow(clippy::cast_possible_truncation, reason = "a constant of 128, checked right below")]
const MOST_HEADERS: u32 = MAX_HEADERS as u32;
const _: () = assert!(MOST_HEADERS as usize == MAX_HEADERS);

/// The most listeners, routes and services of one configuration.
pub(super) const MAX_LISTENERS: usize = 1024;
pub(super) const MAX_ROUTES: usize = 100_000;
pub(super) const MAX_SERVICES: usize = 10_000;

/// The wait for the next piece of a body, and other waits within one exchange.
type PatientTime = Time<100, DAY>;
/// The wait for the beginning of something.
type ShortTime = Time<100, { 5 * MINUTE }>;

table! {
    /// A handover configuration.
    RawConfig: "the configuration", requires [];
    /// Where connections come in: a table for each listener, `[listeners.NAME]`.
    listeners: Named<RawListener, MAX_LISTENERS>;
    /// Which request goes where: `[[routes]]`, one for each. Their order decides nothing: the most specific route wins.
    routes: Many<RawRoute, MAX_ROUTES>;
    /// Groups of endpoints that requests and connections are passed to: a table for each service, `[services.NAME]`.
    services: Named<RawService, MAX_SERVICES>;
    /// The control socket, who may use it, and the journal.
    control: RawControl;
    /// Where log lines go.
    log: RawLog;
    /// Where metrics are served over TCP; without it only the control socket has them.
    metrics: RawMetrics;
    /// How connections end when the server stops or a listener is removed.
    drain: RawDrain;
    /// How keys of session tickets change.
    tickets: RawTickets;
    /// Reload by itself when files change; without this table only a reload that is asked for takes effect.
    watch: RawWatch;
    /// Watch every change for its first seconds, and go back by itself if it does worse; without this table only where
    /// it is asked for.
    guard: RawGuard;
    /// Which binaries an upgrade may run.
    upgrade: RawUpgrade;
    /// Programs that the server runs, in any language: a table for each, `[program.NAME]`.
    program: Named<RawProgram, MAX_PROGRAMS>;
}

table! {
    /// A named place where connections come in.
    RawListener: "a listener", requires ["address"];
    /// One address, or a list: `"127.0.0.1:8080"`, `"[::1]:8080"`, `"unix:/run/app.sock"`, `"unix:@abstract"`.
    /// Relative socket paths are relative to the configuration file. Port 0 lets the kernel choose.
    address: OneOrMany<String>;
    /// `"http"`: HTTP/1.1, dispatched by the routes. `"tcp"`: bytes, passed to `service`.
    protocol: RawProtocol = RawProtocol(Spoken::Http);
    /// For protocol `"tcp"`: the service that gets the connections.
    service: String;
    /// Permission bits of the Unix sockets among the addresses.
    mode: Mode = Mode(0o660);
    /// The most connections that the kernel keeps waiting to be accepted; the kernel lowers it to
    /// `net.core.somaxconn`.
    backlog: Count<1, 65_535> = Count(4096);
    /// Limits on number and size.
    limits: RawLimits;
    /// Limits on time.
    timeouts: RawTimeouts;
    /// TLS on the connections; without it they are plain.
    tls: RawListenerTls;
}

/// What a listener's connections speak, before it is known which service takes the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    Http,
    Tcp,
}

choice! {
    /// What a listener's connections speak.
    RawProtocol = Spoken: "protocol";
    /// HTTP/1.1, dispatched by the routes.
    "http" => Spoken::Http;
    /// Bytes, passed unread to one service.
    "tcp" => Spoken::Tcp;
}

table! {
    /// Limits of a listener on number and size.
    RawLimits: "the limits of a listener", requires [];
    /// Connections open at once, on all addresses of the listener together.
    connections: Count<1, 1_000_000> = Count(10_000);
    /// Bytes of a request's head, request line included. Beyond: 431.
    header_bytes: Size<KIB, { 64 * KIB }> = Size(16 * KIB);
    /// Header lines of a request. Beyond: 431.
    headers: Count<1, MOST_HEADERS> = Count(100);
    /// Bytes of a request's target, the path with the query. Beyond: 414.
    target_bytes: Size<64, { 64 * KIB }> = Size(8 * KIB);
    /// Bytes of a request's body, or `"unlimited"`. Beyond: 413.
    body_bytes: SizeOrUnlimited<0, { 1024 * TIB }> = SizeOrUnlimited(Some(GIB));
}

table! {
    /// Limits of a listener on time.
    RawTimeouts: "the timeouts of a listener", requires [];
    /// From a request's first byte (on a new connection: from the start) to the end of its head. Beyond: 408.
    header: ShortTime = Time::ms(10 * SECOND);
    /// How long a connection is kept between two requests.
    idle: PatientTime = Time::ms(MINUTE);
    /// The longest pause within a body, in either direction; every byte of progress starts it anew.
    body: PatientTime = Time::ms(30 * SECOND);
    /// The longest silence, in both directions, of a TCP connection or an upgraded one (WebSocket).
    tunnel: Time<SECOND, { 30 * DAY }> = Time::ms(HOUR);
}

table! {
    /// Which requests, and what happens to them. All conditions must hold; one that is left out always does. Exactly
    /// one of `service`, `program`, `fixed`, `redirect` and `directory` says what happens.
    RawRoute: "a route", requires [];
    /// A name for messages, logs and metrics; made from the conditions if left out.
    name: String;
    /// Host, or a list: `"example.org"`, or `"*.example.org"` for every host below it (but not itself).
    host: OneOrMany<String>;
    /// Exact path, or a list. Compared byte for byte with what the client sent, without the query.
    path: OneOrMany<String>;
    /// Beginning of the path by whole segments, or a list: `"/api"` takes `/api` and `/api/x` but not `/apix`; `"/api/"`
    /// takes `/api/` and `/api/x` but not `/api`.
    path_prefix: OneOrMany<String>;
    /// Method, or a list. `GET` takes `HEAD` as well, unless another route takes it.
    method: OneOrMany<String>;
    /// The listener on which the route exists, or a list; all HTTP listeners if left out.
    listeners: OneOrMany<String>;
    /// Passes the request to this service.
    service: String;
    /// Passes the request to the copies of this program.
    program: String;
    /// It is asked here whether the service is well: such requests are never held, and answered with 200 by the server itself
    /// while the service is paused or nothing of it runs.
    health: bool = false;
    /// Answers with the same bytes each time. A string is short for `{ body = "…" }`.
    fixed: RawFixed;
    /// Sends the client elsewhere. A string is short for `{ to = "…" }`.
    redirect: RawRedirect;
    /// Answers with files below a directory. A string is short for `{ root = "…" }`.
    directory: RawDirectory;
}

table! {
    /// A response that is the same each time.
    RawFixed: "a fixed response", requires [], short for body;
    /// Status code, 200 to 599.
    status: Count<200, 599> = Count(200);
    /// The body itself.
    body: String;
    /// The file that holds the body: read when the configuration is loaded, at most 16 MiB. Relative to the
    /// configuration file.
    body_file: String;
    /// `Content-Type`; if left out: plain text for `body`, by its extension for `body_file`.
    content_type: String;
    /// Further header fields.
    headers: Fields;
}

table! {
    /// A response that sends the client elsewhere.
    RawRedirect: "a redirect", requires ["to"], short for to;
    /// The URL, or a path on the same host. `{host}`, `{path}` and `{query}` stand for the request's own: host without
    /// port, path, and query with its `?` (nothing if there is none).
    to: String;
    /// Status code: 301, 302, 303, 307 or 308.
    status: Count<301, 308> = Count(308);
}

table! {
    /// Files below a directory.
    RawDirectory: "a directory", requires ["root"], short for root;
    /// The directory, relative to the configuration file. The path after the route's `path_prefix` names the file.
    root: String;
    /// File names to try, in order, for a path that ends with `/`.
    index: OneOrMany<String> = OneOrMany::One(Located { value: "index.html".to_owned(), ..Located::default() });
    /// Serve files and directories whose names begin with a dot.
    hidden: bool = false;
    /// Further header fields of successful responses.
    headers: Fields;
}

table! {
    /// A group of endpoints, or the copies of a program: one of `endpoints` and `program` says which.
    RawService: "a service", requires [];
    /// One endpoint, or a list: `"127.0.0.1:3000"`, `"localhost:3000"`, `"unix:/run/app.sock"`, `"unix:@abstract"`. A
    /// name is resolved when the configuration is loaded; each of its addresses takes part in balancing.
    endpoints: OneOrMany<String>;
    /// The program whose copies get the requests.
    program: String;
    /// How an endpoint is chosen.
    balance: RawBalance = RawBalance(Balance::RoundRobin);
    /// How long connecting may take before the next endpoint is tried.
    connect_timeout: Time<10, { 5 * MINUTE }> = Time::ms(5 * SECOND);
    /// From the request's last byte to the end of the response's head. Beyond: 504.
    response_timeout: PatientTime = Time::ms(MINUTE);
    /// Connections kept for further requests.
    keep_alive: RawKeepAlive;
    /// Changes to the header fields that the endpoint gets.
    request_headers: RawHeaderEdits;
    /// Changes to the header fields that the client gets.
    response_headers: RawHeaderEdits;
    /// What the endpoint is told about the client.
    forwarded: RawForwarded;
    /// TLS to the endpoints; without it connections are plain.
    tls: RawServiceTls;
}

choice! {
    /// How an endpoint is chosen.
    RawBalance = Balance: "balance";
    /// Each in turn.
    "round-robin" => Balance::RoundRobin;
    /// The one with the fewest requests in progress.
    "least-connections" => Balance::LeastConnections;
}

table! {
    /// Connections kept for further requests.
    RawKeepAlive: "keep_alive", requires [];
    /// The most idle connections kept, for each thread and endpoint; 0 keeps none.
    idle: Count<0, 100_000> = Count(64);
    /// How long an idle connection is kept. Keep it below what the endpoint itself allows.
    idle_timeout: PatientTime = Time::ms(MINUTE);
}

table! {
    /// Changes to header fields: `remove` comes first, then `set` replaces all fields of its names.
    RawHeaderEdits: "header changes", requires [];
    /// Fields to set.
    set: Fields;
    /// Names of fields to remove.
    remove: OneOrMany<String>;
}

table! {
    /// What an endpoint is told about the client.
    RawForwarded: "forwarded", requires [];
    /// Send `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`.
    x_forwarded: bool = true;
    /// Send `Forwarded` (RFC 7239).
    rfc7239: bool = false;
    /// Send `Via: 1.1 handover` (RFC 9110 §7.6.3), to the endpoint and, with its response, to the client.
    via: bool = false;
    /// What becomes of such fields in the client's request.
    incoming: RawIncoming = RawIncoming(Incoming::Replace);
}

choice! {
    /// What becomes of forwarding fields that the client sent.
    RawIncoming = Incoming: "treatment of incoming fields";
    /// They are dropped: a client could write anything into them.
    "replace" => Incoming::Replace;
    /// The client's address is added to `X-Forwarded-For` and `Forwarded`; the others are replaced.
    "append" => Incoming::Append;
    /// As `append`, and `X-Forwarded-Proto` and `-Host` are kept: for proxies of one's own in front.
    "trust" => Incoming::Trust;
}

table! {
    /// The control socket, who may use it, and the journal.
    RawControl: "control", requires [];
    /// Path of the control socket, relative to the configuration file. Takes effect at the next start.
    socket: String;
    /// Permission bits of the control socket.
    mode: Mode = Mode(0o660);
    /// The group that owns the control socket.
    group: Principal;
    /// Who may do what. Root, and the user that runs the server, may do everything.
    roles: RawRoles;
    /// Directory of the journal, relative to the configuration file. Takes effect at the next start.
    state: String;
    /// How many operations the journal keeps.
    history: Count<10, 1_000_000> = Count(1000);
    /// How many generations the journal keeps for going back, besides the one that serves.
    generations: Count<1, 1000> = Count(20);
}

table! {
    /// Who may do what, by user or group. A role includes those below it.
    RawRoles: "roles", requires [];
    /// May do everything, stopping the server too.
    admin: RawGrant;
    /// May reload, drain and resume, and call actions.
    operate: RawGrant;
    /// May only look.
    read: RawGrant;
}

table! {
    /// Users and groups that have a role.
    RawGrant: "a role", requires [];
    /// Users, by name (as in `/etc/passwd`) or number.
    users: OneOrMany<Principal>;
    /// Groups, by name (as in `/etc/group`) or number.
    groups: OneOrMany<Principal>;
}

table! {
    /// Where log lines go.
    RawLog: "log", requires [];
    /// Lines for people, or one JSON object a line.
    format: RawLogFormat = RawLogFormat(LogFormat::Text);
    /// `"stderr"`, `"stdout"`, or a file, relative to the configuration file; opened anew on `USR1`.
    to: String = "stderr".to_owned();
    /// The least severe lines that are written.
    level: RawLogLevel = RawLogLevel(LogLevel::Info);
    /// A line for each request: `true` for the same place as the other lines, or a place of its own, as in `to`.
    access: Access = Access::Off;
}

choice! {
    /// How a log line looks.
    RawLogFormat = LogFormat: "format";
    /// For people.
    "text" => LogFormat::Text;
    /// One JSON object a line.
    "json" => LogFormat::Json;
}

choice! {
    /// The least severe lines that are written.
    RawLogLevel = LogLevel: "level";
    /// What failed.
    "error" => LogLevel::Error;
    /// And what is likely to fail.
    "warn" => LogLevel::Warn;
    /// And what changed.
    "info" => LogLevel::Info;
    /// And why.
    "debug" => LogLevel::Debug;
    /// And everything else.
    "trace" => LogLevel::Trace;
}

/// Whether and where requests are logged.
#[derive(Debug, Clone)]
pub(super) enum Access {
    Off,
    SameAsLog,
    To(String),
}

impl Decode for Access {
    const EXPECTS: &'static str = "true, false, \"stderr\", \"stdout\" or a file";

    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        match node.get_ref() {
            DeValue::Boolean(true) => Some(Self::SameAsLog),
            DeValue::Boolean(false) => Some(Self::Off),
            _ => string(node, Self::EXPECTS, sink).map(|to| Self::To(to.to_owned())),
        }
    }

    fn show(&self) -> Value {
        match self {
            Self::Off => false.into(),
            Self::SameAsLog => true.into(),
            Self::To(to) => to.as_str().into(),
        }
    }
}

impl JsonSchema for Access {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Access".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["boolean", "string"] })
    }
}

table! {
    /// Where metrics are served.
    RawMetrics: "metrics", requires ["address"];
    /// One address, or a list, as for a listener.
    address: OneOrMany<String>;
    /// The path that answers.
    path: String = "/metrics".to_owned();
    /// Permission bits of the Unix sockets among the addresses.
    mode: Mode = Mode(0o660);
}

table! {
    /// How connections end when the server stops or a listener is removed.
    RawDrain: "drain", requires [];
    /// How long they may take; what is left then is cut, and counted. `"0s"` cuts at once.
    timeout: Time<0, DAY> = Time::ms(30 * SECOND);
}

/// Header fields by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields(pub(super) Vec<(Located<String>, Located<String>)>);

impl Decode for Fields {
    const EXPECTS: &'static str = "a table of header fields such as { Cache-Control = \"no-store\" }";

    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        by_name(node, Self::EXPECTS, sink, String::decode).map(Self)
    }
}

impl JsonSchema for Fields {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Fields".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": { "type": "string" } })
    }
}
