//! `handover run`: a configuration that is made of the command line, and served as any other.
//!
//! ```text
//!   --listen 8080 -- gunicorn app:app ─▶ [program.gunicorn] … ─▶ serve
//! ```
//!
//! Worker and supervisor come here with the same command line, and so do both after an upgrade: each makes the same of it.
//! What was made is what `handover config` shows, and a good start for a file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use handover::HostOptions;
use handover_proxy::{ConfigSource, ProxyService};

use crate::args::{Common, Run};
use crate::serve::{NAME, command_for};
use crate::session::control_socket;

/// The longest name of a program, as a configuration may have it.
const MAX_NAME_BYTES: usize = 64;
/// The name where the command gives none.
const NAMELESS: &str = "program";
/// The listener's name, where connections are accepted here: another than the program's, so that `handover pause NAME` means one thing.
const LISTENER: &str = "http";
/// Lines of a command are run by this shell.
const SHELL: &str = "sh";

/// Runs the program until it has ended for good, or the server is told to stop.
pub(crate) fn run(common: &Common, run: &Run) -> ExitCode {
    let name = name(run);
    let control = control_socket(common);
    let mut options = HostOptions::new(NAME, env!("CARGO_PKG_VERSION"));
    options.state = run
        .state
        .as_ref()
        .map(|state| absolute(state))
        .unwrap_or_else(|| handover_supervisor::paths::state_directory(&control));
    options.next_command = command_for(&control, &format!("restart {name}"));
    options.control = control;
    options.for_programs = true;
    options.banner = !run.quiet;
    let text = configuration(run, &name);
    options.made = Some(text.clone());
    let source = ConfigSource::CommandLine(text);
    options.config = Some(source.name().into());
    handover::host(options, move || ProxyService::new(source))
}

/// The program's name: as given, or that of the command as far as a name may have it.
fn name(run: &Run) -> String {
    if let Some(name) = &run.name {
        return name.clone();
    }
    let command = run.command.first().map(Path::new).and_then(Path::file_name);
    let command = command.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = command.chars().map(allowed).take(MAX_NAME_BYTES).collect();
    if name.is_empty() { NAMELESS.to_owned() } else { name }
}

/// The whole configuration.
fn configuration(run: &Run, name: &str) -> String {
    let mut text = String::from("# Made of the command line of 'handover run'.\n\n");
    let addresses: Vec<String> = run.listen.iter().flat_map(|address| addresses(address)).collect();
    let is_proxied = is_proxied(run) && !addresses.is_empty();
    let key = quoted(name);
    if is_proxied {
        let _ = write!(
            text,
            "[listeners.{LISTENER}]\naddress = {}\n\n[[routes]]\nprogram = {key}\n\n",
            list(&addresses)
        );
    }
    let _ = writeln!(text, "[program.{key}]");
    for (key, value) in program(run, &addresses, is_proxied) {
        let _ = writeln!(text, "{key} = {value}");
    }
    text
}

/// Whether connections are accepted here: because somebody wants it, or because the program can do nothing with a socket.
fn is_proxied(run: &Run) -> bool {
    let mut texts = run.command.iter().chain(run.env.iter().map(|(_, value)| value));
    run.proxy || texts.any(|text| text.replace("{{", "").contains("{port}"))
}

/// The keys of the program's table, with their values.
fn program(run: &Run, addresses: &[String], is_proxied: bool) -> Vec<(String, String)> {
    let mut table: Vec<(String, String)> = Vec::new();
    let mut set = |key: &str, value: Option<String>| {
        table.extend(value.map(|value| (key.to_owned(), value)));
    };
    set("command", Some(list(&run.command)));
    set("listen", (!addresses.is_empty() && !is_proxied).then(|| list(addresses)));
    set("fd_env", run.fd_env.as_deref().map(quoted));
    set("fd", run.fd.map(|fd| fd.to_string()));
    set("nonblocking", run.nonblocking.then(|| "true".to_owned()));
    // Also where it goes without saying: what an earlier command line has started may read this one, and lies elsewhere.
    set("directory", Some(path(run.directory.as_deref().unwrap_or(Path::new(".")))));
    if !run.env.is_empty() {
        let variables: Vec<String> =
            run.env.iter().map(|(name, value)| format!("{} = {}", quoted(name), quoted(value))).collect();
        set("environment", Some(format!("{{ {} }}", variables.join(", "))));
    }
    set("user", run.user.as_deref().map(principal));
    set("group", run.group.as_deref().map(principal));
    set("limits", limits(run));
    set("copies", run.copies.map(|copies| copies.to_string()));
    set("swap", run.stop_first.then(|| quoted("stop-first")));
    if !run.slot.is_empty() {
        set(
            "slots",
            Some(format!("[{}]", run.slot.iter().map(|slot| path(slot)).collect::<Vec<_>>().join(", "))),
        );
    }
    set("ready", run.ready.as_deref().map(ready));
    set("ready_timeout", run.ready_timeout.as_deref().map(quoted));
    set("reload", run.reload.as_deref().map(reload));
    let stop = [("signal", &run.stop_signal), ("timeout", &run.stop_timeout)];
    set("stop", inline(stop.map(|(key, value)| (key, value.as_deref().map(quoted)))));
    set("restart", run.restart.as_deref().map(quoted));
    set("on_demand", run.on_demand.then(|| "true".to_owned()));
    set("idle", run.idle.as_deref().map(quoted));
    table
}

fn limits(run: &Run) -> Option<String> {
    inline([
        ("nofile", run.nofile.map(|limit| limit.to_string())),
        ("memory", run.memory.as_deref().map(quoted)),
        ("cpu", run.cpu.as_deref().map(quoted)),
    ])
}

/// `notify`, `tcp`, a path, a command of the shell, a time.
fn ready(text: &str) -> String {
    match text {
        path if path.starts_with('/') => format!("{{ http = {} }}", quoted(path)),
        time if time.starts_with(|c: char| c.is_ascii_digit()) => format!("{{ after = {} }}", quoted(time)),
        text => shell(text).unwrap_or_else(|| quoted(text)),
    }
}

/// `notify`, a path, a command of the shell, a signal.
fn reload(text: &str) -> String {
    match text {
        "notify" => quoted(text),
        path if path.starts_with('/') => format!("{{ http = {} }}", quoted(path)),
        text => shell(text).unwrap_or_else(|| format!("{{ signal = {} }}", quoted(text))),
    }
}

/// `sh:COMMAND`.
fn shell(text: &str) -> Option<String> {
    let line = text.strip_prefix("sh:")?;
    let words = [SHELL, "-c", line].map(str::to_owned);
    Some(format!("{{ command = {} }}", list(&words)))
}

/// An address in short: a port alone is that of this machine only, and `:8080` that of all addresses.
fn addresses(text: &str) -> Vec<String> {
    let is_port = |text: &str| text.parse::<u16>().is_ok() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_port(text) {
        return vec![format!("127.0.0.1:{text}")];
    }
    match text.strip_prefix(':').or_else(|| text.strip_prefix("*:")) {
        Some(port) if is_port(port) => vec![format!("0.0.0.0:{port}"), format!("[::]:{port}")],
        _ => match text.strip_prefix("unix:").filter(|path| !path.starts_with('@')) {
            Some(socket) => vec![format!("unix:{}", absolute(Path::new(socket)).display())],
            None => vec![text.to_owned()],
        },
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// A user or a group: numbers are not names.
fn principal(text: &str) -> String {
    text.parse::<u32>().map_or_else(|_| quoted(text), |number| number.to_string())
}

fn path(path: &Path) -> String {
    quoted(&absolute(path).to_string_lossy())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn list(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", texts.join(", "))
}

/// A table on one line; nothing if it would be empty.
fn inline<const N: usize>(values: [(&str, Option<String>); N]) -> Option<String> {
    let there: Vec<String> =
        values.into_iter().filter_map(|(key, value)| Some(format!("{key} = {}", value?))).collect();
    (!there.is_empty()).then(|| format!("{{ {} }}", there.join(", ")))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use handover_proxy::config::{self, Checked, ListenAddress};

    use super::*;
    use crate::args::{Arguments, Verb};

    fn parsed(words: &[&str]) -> Run {
        let all = ["handover", "run"].iter().chain(words);
        match Arguments::try_parse_from(all).map(|arguments| arguments.verb) {
            Ok(Verb::Run(run)) => *run,
            other => panic!("{other:?}"),
        }
    }

    fn made(words: &[&str]) -> (String, Checked) {
        let run = parsed(words);
        let text = configuration(&run, &name(&run));
        let mut files = |_: &Path| Err(std::io::Error::from_raw_os_error(2));
        let mut resolve = config::SystemResolver::default();
        match config::parse("x", Path::new("/srv"), text.as_bytes(), &mut files, &mut resolve) {
            Ok(checked) => (text, checked),
            Err(problems) => panic!("{text}\n{problems:?}"),
        }
    }

    #[test]
    fn a_port_and_a_command_are_enough() {
        let (text, checked) = made(&["--listen", "8080", "--", "/usr/bin/gunicorn", "app:app"]);
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            text,
            format!(
                "# Made of the command line of 'handover run'.\n\n[program.\"gunicorn\"]\n\
                 command = [\"/usr/bin/gunicorn\", \"app:app\"]\nlisten = [\"127.0.0.1:8080\"]\n\
                 directory = \"{}\"\n",
                here.display()
            )
        );
        let [program] = checked.config.programs.as_slice() else { panic!("{text}") };
        assert_eq!(program.spec.name, "gunicorn");
        assert_eq!(program.spec.sockets.len(), 1);
        assert!(checked.config.listeners.is_empty() && checked.warnings.is_empty());
    }

    #[test]
    fn a_program_that_binds_a_port_itself_is_reached_through_a_listener() {
        for words in [
            &["--listen", ":80", "--", "node", "server.js", "{port}"][..],
            &["--listen", ":80", "--env", "PORT={port}", "--", "node", "server.js"],
            &["--listen", ":80", "--proxy", "--", "node", "server.js"],
        ] {
            let (text, checked) = made(words);
            let [listener] = checked.config.listeners.as_slice() else { panic!("{text}") };
            let wanted: Vec<_> =
                ["0.0.0.0:80", "[::]:80"].map(|text| ListenAddress::Tcp(text.parse().unwrap())).into();
            assert_eq!((&*listener.name, &listener.addresses), (LISTENER, &wanted));
            assert!(checked.config.programs[0].spec.private.is_some(), "{text}");
            assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
        }
        let (text, checked) = made(&["--listen", "8080", "--", "sh", "-c", "echo {{port}}"]);
        assert!(checked.config.listeners.is_empty(), "{text}");
    }

    /// Every option but those that say where requests are accepted.
    const ALL: &[&str] = &[
        "--name=web",
        "--listen=unix:@x",
        "--listen",
        "8081",
        "--fd-env",
        "FDS",
        "--fd=7",
        "--nonblocking",
        "--ready",
        "sh:exit 0",
        "--ready-timeout",
        "5s",
        "--reload",
        "USR1",
        "--stop-signal",
        "QUIT",
        "--stop-timeout",
        "1m",
        "--copies",
        "2",
        "--restart",
        "on-failure",
        "-e",
        "A=1=2",
        "-e",
        "B=\"",
        "-d",
        "/srv/app",
        "--user",
        "0",
        "--group",
        "0",
        "--on-demand",
        "--idle",
        "5m",
        "--memory",
        "512MB",
        "--cpu",
        "50%",
        "--nofile",
        "4096",
        "--slot",
        "/a",
        "--slot",
        "/b",
        "--",
        "./app",
        "it's \\ here",
    ];

    #[test]
    fn every_option_finds_its_place() {
        let (text, checked) = made(ALL);
        let spec = serde_json::to_value(&checked.config.programs[0].spec).unwrap();
        for (pointer, expected) in [
            ("/name", serde_json::json!("web")),
            ("/command", serde_json::json!(["./app", "it's \\ here"])),
            ("/environment", serde_json::json!({ "A": "1=2", "B": "\"" })),
            ("/directory", serde_json::json!("/srv/app")),
            (
                "/pass",
                serde_json::json!({ "listen_fds": false, "fd_env": "FDS", "first_fd": 7, "nonblocking": true }),
            ),
            (
                "/limits",
                serde_json::json!({ "nofile": 4096, "memory": 512_000_000, "cpu": 500, "processes": null }),
            ),
            ("/copies", serde_json::json!(2)),
            ("/on_demand", serde_json::json!(true)),
            ("/user/uid", serde_json::json!(0)),
            ("/slots/1/directory", serde_json::json!("/b")),
            ("/ready/command/command", serde_json::json!(["sh", "-c", "exit 0"])),
            ("/restart/policy", serde_json::json!("on_failure")),
        ] {
            assert_eq!(spec.pointer(pointer), Some(&expected), "{pointer} of {text}");
        }
        assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
    }

    #[test]
    fn what_is_short_is_understood() {
        for (short, expected) in [
            ("notify", "\"notify\""),
            ("tcp", "\"tcp\""),
            ("/health", "{ http = \"/health\" }"),
            ("2s", "{ after = \"2s\" }"),
            ("sh:true", "{ command = [\"sh\", \"-c\", \"true\"] }"),
        ] {
            assert_eq!(ready(short), expected);
        }
        assert_eq!(reload("HUP"), "{ signal = \"HUP\" }");
        assert_eq!(reload("notify"), "\"notify\"");
        assert_eq!(addresses("unix:/a"), ["unix:/a"]);
        let here = std::env::current_dir().unwrap();
        assert_eq!(addresses("unix:run/app.sock"), [format!("unix:{}/run/app.sock", here.display())]);
        assert_eq!(addresses("127.0.0.1:1"), ["127.0.0.1:1"]);
        assert_eq!(addresses("99999"), ["99999"]);
        let run = Run { command: vec!["/opt/my app/".to_owned()], ..Run::default() };
        assert_eq!(name(&run), "my-app");
    }
}
