//! The part of the configuration as it is written that is about programs.

use std::borrow::Cow;

use handover::program::{Private, RestartPolicy, Swap};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use toml::de::DeValue;

use super::decode::{Decode, Field, Many, Node, OneOrMany, by_name, choice, string_of, table, wrong_type};
use super::sink::{Located, Sink};
use super::values::{Count, DAY, HOUR, MINUTE, Mode, Principal, SECOND, Size, TIB, Time};
use super::values_programs::{Cpu, Signal, WordOr};

/// The most programs of one configuration.
pub(super) const MAX_PROGRAMS: usize = 1000;
/// The most slots of a program.
const MAX_SLOTS: usize = 16;
/// The least memory that a program can be given: less and it cannot even start.
const LEAST_MEMORY: u64 = 1024 * 1024;

/// Something that a program may take its time for.
type PatientTime = Time<100, HOUR>;

table! {
    /// A program that is started, watched, replaced and ended by the server, in any language.
    ///
    /// In `command`, `environment` and commands of checks and hooks, these stand for something: `{port}`, `{socket}` and
    /// `{fd}` (port, address and descriptor of the first socket), `{slot}`, `{directory}`, `{copy}` (the copy's number,
    /// from 1) and `{name}`. `{{` and `}}` are braces.
    RawProgram: "a program", requires ["command"];
    /// The command and its arguments: `["gunicorn", "app:app"]`. No shell reads it. A name without a slash is looked for in
    /// `PATH`; a path is relative to the directory in which the program is started.
    command: OneOrMany<String>;
    /// Where the program is started, relative to the configuration file; a slot's directory comes before it. The
    /// configuration file's own directory if left out.
    directory: String;
    /// Variables beside those of the server.
    environment: Variables;
    /// Start it without the server's own variables (but `PATH`, `HOME`, `USER` and `LANG`).
    clear_environment: bool = false;
    /// The user that it runs as, by name (as in `/etc/passwd`) or number.
    user: Principal;
    /// The group that it runs as; the user's if left out.
    group: Principal;
    /// What each copy may use.
    limits: RawProgramLimits;

    /// Addresses on which the program itself accepts: one, a list, or a table with a name for each. The sockets are held
    /// by the server and passed to every copy, so that connections wait while none runs. Addresses are written as those
    /// of a listener.
    listen: ListenAt;
    /// Permission bits of the Unix sockets among the addresses.
    mode: Mode = Mode(0o660);
    /// The most connections that the kernel keeps waiting on each of these sockets.
    backlog: Count<1, 65_535> = Count(4096);
    /// Pass sockets by `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES`, as systemd does. If left out: unless `fd` is another
    /// number than 3.
    listen_fds: bool;
    /// A variable that gets the numbers of the descriptors, separated by commas.
    fd_env: String;
    /// The number of the first descriptor; the others follow.
    fd: Count<3, 1000> = Count(3);
    /// Pass sockets on which accept returns at once instead of waiting. Most programs that wait for events see to this
    /// themselves; nginx, given its sockets by the variable `NGINX`, does not, and needs it.
    nonblocking: bool = false;
    /// The address that each copy has for itself, and to which routes and services lead. If left out, and something leads to
    /// it: `"port"` if the command or the environment says `{port}`, `"path"` if it says `{socket}`, else `"socket"`.
    private: RawPrivate;

    /// Copies that run side by side.
    copies: Count<1, 1000> = Count(1);
    /// How one generation of copies follows the other.
    swap: RawSwap = RawSwap(Swap::Overlap);
    /// Places for versions of the program that a deploy alternates between: directories (a string is short for
    /// `{ directory = "…" }`), at least two.
    slots: Many<RawSlot, MAX_SLOTS>;
    /// A command that is run in the idle slot before a deploy starts it; if it fails, the deploy is rejected. A list is
    /// short for `{ command = […] }`.
    hook: CommandOrTable;
    /// How a copy is known to be ready: `"notify"` (it says `READY=1` on `NOTIFY_SOCKET`), `"tcp"` (it accepts a
    /// connection), or a table. If left out: `"tcp"` where the program has an address, else after one second.
    ready: WordOr<RawReadyWord, RawReady>;
    /// The longest time until a copy is ready.
    ready_timeout: PatientTime = Time::ms(30 * SECOND);
    /// How long a copy must live, once it is ready, before it takes the place of another.
    settle: Time<0, HOUR> = Time::ms(SECOND);
    /// How a copy is told to read its configuration anew: `"notify"`, or a table.
    reload: WordOr<RawReloadWord, RawProgramReload>;
    /// A command that exits with 0 if the reload took effect, for reloads by a signal alone.
    reload_check: CommandOrTable;
    /// How a copy is asked to end. A string is short for `{ signal = "…" }`.
    stop: RawStop;
    /// When a copy is started again. A string is short for `{ policy = "…" }`.
    restart: RawRestart;
    /// Programs that are ready before this one is started, and that are stopped after it.
    after: OneOrMany<String>;

    /// Who accepts connections on `listen`.
    accept: RawAccept = RawAccept(Accepts::Program);
    /// With `accept = "each"`: processes that run at the same time. Connections beyond wait in the queue.
    max_processes: Count<1, 100_000> = Count(64);
    /// With `accept = "each"`: processes that are started in one second. Connections beyond wait in the queue.
    max_per_second: Count<1, 100_000> = Count(50);
    /// Start it when the first connection comes, or the first request that a route or service passes to it.
    on_demand: bool = false;
    /// With `on_demand`: stop it when there was no connection, and no request passed to it, for so long.
    idle: Time<SECOND, { 30 * DAY }>;

    /// How long what served before a deploy is kept running after it, so that a rollback takes no start.
    warm: Time<0, { 30 * DAY }> = Time::ms(10 * MINUTE);
    /// Copies that are replaced at the same time.
    batch: Count<1, 1000> = Count(1);
    /// Copies that may fail before a rolling restart stops.
    max_unhealthy: Count<0, 1000> = Count(0);
    /// New requests that are held at most while it is paused, or started because of them; what comes beyond is answered with 503.
    max_held: Count<1, 10_000_000> = Count(10_000);
    /// With `swap = "stop-first"`: the longest time for which requests are held.
    pause_timeout: PatientTime = Time::ms(30 * SECOND);
}

table! {
    /// What each copy of a program may use. All but `nofile` need control groups (version 2) that the server may write to;
    /// where there are none, that is said, and the program runs without.
    RawProgramLimits: "the limits of a program", requires [];
    /// Open files.
    nofile: Count<16, 1_073_741_816>;
    /// Memory of all its processes together.
    memory: Size<LEAST_MEMORY, { 1024 * TIB }>;
    /// Share of a processor: `"50%"`, or `"200%"` for two.
    cpu: Cpu;
    /// Processes and threads.
    processes: Count<1, 4_194_304>;
}

choice! {
    /// The address that each copy has for itself.
    RawPrivate = Private: "kind of address";
    /// A Unix socket that the server binds and passes by `LISTEN_FDS`.
    "socket" => Private::Socket;
    /// A Unix socket that the program itself binds at the path `{socket}`.
    "path" => Private::Path;
    /// A free loopback port, `{port}`, that the program itself binds.
    "port" => Private::Port;
}

choice! {
    /// How one generation of copies follows the other.
    RawSwap = Swap: "swap";
    /// The next one is ready before the old one is asked to end.
    "overlap" => Swap::Overlap;
    /// The old one has ended before the next one is started; requests are held meanwhile.
    "stop-first" => Swap::StopFirst;
}

table! {
    /// A place for one version of a program.
    RawSlot: "a slot", requires [], short for directory;
    /// Its name; the last part of its directory if left out.
    name: String;
    /// Where the command is started, relative to the configuration file.
    directory: String;
    /// A command of its own.
    command: OneOrMany<String>;
    /// Variables of its own.
    environment: Variables;
}

table! {
    /// A command that ends by itself.
    RawHook: "a command", requires ["command"];
    /// The command and its arguments.
    command: OneOrMany<String>;
    /// The longest time that it may take; then it is killed, and has failed.
    timeout: PatientTime = Time::ms(MINUTE);
}

/// A command alone, or a table that says more.
#[derive(Debug, Clone)]
pub(super) struct CommandOrTable(pub(super) RawHook);

impl Decode for CommandOrTable {
    const EXPECTS: &'static str = "a command (a list of strings) or a table";

    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        match node.get_ref() {
            DeValue::String(_) | DeValue::Array(_) => {
                Some(Self(RawHook { command: Field::read(node, sink), ..RawHook::default() }))
            }
            DeValue::Table(_) => RawHook::decode(node, sink).map(Self),
            _ => {
                wrong_type(node, Self::EXPECTS, sink);
                None
            }
        }
    }
}

impl JsonSchema for CommandOrTable {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "CommandOrTable".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let command = generator.subschema_for::<OneOrMany<String>>();
        json_schema!({ "anyOf": [command, generator.subschema_for::<RawHook>()] })
    }
}

/// A way to be ready that needs no more than a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadyWord {
    Notify,
    Tcp,
}

choice! {
    /// How a copy is known to be ready.
    RawReadyWord = ReadyWord: "way to be ready", or "a table: { http = \"/health\" }, { command = [\"check\"] }, { after = \"2s\" }";
    /// It says `READY=1` on `NOTIFY_SOCKET` (sd_notify).
    "notify" => ReadyWord::Notify;
    /// It accepts a connection.
    "tcp" => ReadyWord::Tcp;
}

table! {
    /// How a copy is known to be ready: one of `http`, `tcp`, `command` and `after`.
    RawReady: "ready", requires [];
    /// It answers `GET` of this path with a 2xx, over a connection that this very copy has accepted.
    http: String;
    /// With `http`: the `Host` of the request.
    host: String = "localhost".to_owned();
    /// With `http`: the status wanted instead of any 2xx.
    status: Count<100, 599>;
    /// `true`: it accepts a connection.
    tcp: bool;
    /// With `http` and `tcp`: where, if not at the copy's own or the first shared address.
    address: String;
    /// This command exits with 0; it is tried until it does.
    command: OneOrMany<String>;
    /// With `command`: the longest time that one try may take.
    timeout: PatientTime = Time::ms(10 * SECOND);
    /// It has lived for so long: the last resort, and named as such.
    after: Time<0, HOUR>;
}

/// A way to reload that needs no more than a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReloadWord {
    Notify,
}

choice! {
    /// How a copy is told to read its configuration anew.
    RawReloadWord = ReloadWord: "way to reload", or "a table: { signal = \"HUP\" }, { command = [\"reload\"] }, { http = \"/reload\" }";
    /// By the signal HUP; then `RELOADING=1` and `READY=1` are waited for (`Type=notify-reload` of systemd).
    "notify" => ReloadWord::Notify;
}

table! {
    /// How a copy is told to read its configuration anew: one of `notify`, `command`, `http` and `signal`.
    RawProgramReload: "reload", requires [];
    /// By this signal; then `RELOADING=1` and `READY=1` are waited for.
    notify: Signal;
    /// By this command; its exit code and output are the answer. `{pid}` is the copy's first process.
    command: OneOrMany<String>;
    /// By a `POST` of this path; a 2xx is success, and the body is the answer.
    http: String;
    /// With `http`: the `Host` of the request.
    host: String = "localhost".to_owned();
    /// With `command` and `http`: the longest time that it may take.
    timeout: PatientTime = Time::ms(30 * SECOND);
    /// By this signal alone: what became of it nobody knows, unless `reload_check` tells.
    signal: Signal;
}

table! {
    /// How a copy is asked to end.
    RawStop: "stop", requires [], short for signal;
    /// The signal that its first process gets.
    signal: Signal = Signal::TERM;
    /// What still lives after this long is killed, and counted.
    timeout: Time<0, DAY> = Time::ms(10 * SECOND);
}

table! {
    /// When a copy that has ended is started again.
    RawRestart: "restart", requires [], short for policy;
    /// After which end.
    policy: RawRestartPolicy = RawRestartPolicy(RestartPolicy::Always);
    /// The first pause before that; it doubles each time.
    first: Time<10, HOUR> = Time::ms(100);
    /// The longest pause.
    longest: Time<10, DAY> = Time::ms(30 * SECOND);
    /// A copy that has lived for so long begins with the first pause again.
    reset: Time<100, DAY> = Time::ms(10 * SECOND);
}

choice! {
    /// After which end a copy is started again.
    RawRestartPolicy = RestartPolicy: "restart policy";
    /// After every one.
    "always" => RestartPolicy::Always;
    /// Unless it exits with 0.
    "on-failure" => RestartPolicy::OnFailure;
    /// After none.
    "never" => RestartPolicy::Never;
}

/// Who accepts, before the limits are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accepts {
    Program,
    Each,
    Wait,
}

choice! {
    /// Who accepts connections.
    RawAccept = Accepts: "way to accept";
    /// The program.
    "program" => Accepts::Program;
    /// The server: a process for each connection, which is its standard input and output (inetd's `nowait`).
    "each" => Accepts::Each;
    /// The program, which is started when a connection waits, with the socket as its standard input; until it has ended nobody
    /// else looks (inetd's `wait`).
    "wait" => Accepts::Wait;
}

/// Variables of an environment, by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Variables(pub(super) Vec<(Located<String>, Located<String>)>);

impl Decode for Variables {
    const EXPECTS: &'static str = "a table of variables such as { LANG = \"C.UTF-8\" }";

    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        let in_quotes = |number: &str| format!("write it in quotes: \"{number}\"");
        let value = |node: &Node<'_>, sink: &mut Sink| {
            string_of(node, "a string", sink, in_quotes).map(str::to_owned)
        };
        by_name(node, Self::EXPECTS, sink, value).map(Self)
    }
}

impl JsonSchema for Variables {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Variables".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": { "type": "string" } })
    }
}

/// Addresses of shared sockets, each with a name if it was given one.
#[derive(Debug, Clone, Default)]
pub(super) struct ListenAt(pub(super) Vec<(Option<Located<String>>, Located<String>)>);

impl Decode for ListenAt {
    const EXPECTS: &'static str = "an address, a list of them, or a table with a name for each";

    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        let DeValue::Table(table) = node.get_ref() else {
            if !matches!(node.get_ref(), DeValue::String(_) | DeValue::Array(_)) {
                wrong_type(node, Self::EXPECTS, sink);
                return None;
            }
            let list = OneOrMany::<String>::decode(node, sink)?;
            return Some(Self(list.as_slice().iter().map(|address| (None, address.clone())).collect()));
        };
        let mut named: Vec<_> = table
            .iter()
            .filter_map(|(key, node)| {
                let Field::Set(address) = Field::<String>::read(node, sink) else { return None };
                let name = Located { value: key.get_ref().clone().into_owned(), span: key.span().into() };
                Some((Some(name), address))
            })
            .collect();
        named.sort_by_key(|(_, address)| address.span.start);
        Some(Self(named))
    }
}

impl JsonSchema for ListenAt {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ListenAt".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string" },
            { "type": "array", "items": { "type": "string" }, "minItems": 1 },
            { "type": "object", "additionalProperties": { "type": "string" }, "minProperties": 1 },
        ] })
    }
}
