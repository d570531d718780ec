//! `handover serve`: this process becomes the supervisor, or, when the supervisor started it, the worker.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use handover::HostOptions;
use handover_api::ExitCode as Code;
use handover_proxy::source::Location;
use handover_proxy::{ConfigSource, ProxyService};

use crate::args::{Common, Serve};
use crate::output::Output;
use crate::session::{control_socket, default_control_socket};

/// What this server calls itself.
pub(crate) const NAME: &str = "handover";

/// Serves until it is told to stop. Worker and supervisor come here with the same command line.
pub(crate) fn run(common: &Common, serve: Serve) -> ExitCode {
    let source = match source(serve.file.or(serve.config)) {
        Ok(source) => source,
        Err(reason) => return Output::new(common.output).failure(&reason, Code::Usage),
    };
    if serve.base.is_some() && !matches!(source, ConfigSource::Store(_)) {
        let reason = "--base is for a configuration from a store: paths in a file are relative to the file";
        return Output::new(common.output).failure(reason, Code::Usage);
    }
    let configured = match &source {
        ConfigSource::File(file) => control_table(file),
        _ => ControlTable::default(),
    };
    let control = match (&common.control, configured.socket) {
        (None, Some(socket)) => socket,
        _ => control_socket(common),
    };
    let mut options = HostOptions::new(NAME, env!("CARGO_PKG_VERSION"));
    options.state = serve
        .state
        .map(|state| std::path::absolute(&state).unwrap_or(state))
        .or(configured.state)
        .unwrap_or_else(|| handover_supervisor::paths::state_directory(&control));
    let verb = if source == ConfigSource::BuiltIn { "status" } else { "reload" };
    options.next_command = command_for(&control, verb);
    options.control = control;
    options.config = (source != ConfigSource::BuiltIn).then(|| PathBuf::from(source.name()));
    options.start_from = serve.generation;
    options.banner = !serve.quiet;
    let threads = serve.threads.map(usize::from);
    let base = serve.base.map(|base| std::path::absolute(&base).unwrap_or(base));
    handover::host(options, move || {
        let mut service = ProxyService::new(source);
        if let Some(base) = base {
            service = service.with_base(base);
        }
        match threads {
            Some(threads) => service.with_threads(threads),
            None => service,
        }
    })
}

/// Where the configuration comes from. What looks like a URL is one, so that a misspelt scheme does not become a file
/// that is missing.
fn source(named: Option<PathBuf>) -> Result<ConfigSource, String> {
    let Some(named) = named else { return Ok(ConfigSource::BuiltIn) };
    match named.to_str().filter(|text| text.contains("://")) {
        Some(url) => Location::parse(url).map(ConfigSource::Store).map_err(|error| error.to_string()),
        None => Ok(ConfigSource::File(std::path::absolute(&named).unwrap_or(named))),
    }
}

/// What must be known before the worker reads the configuration: whom to ask, and what happened before.
#[derive(Debug, Default, PartialEq)]
struct ControlTable {
    socket: Option<PathBuf>,
    state: Option<PathBuf>,
}

/// Looks for `socket` and `state` in the file's `[control]`. What is wrong with the file is the worker's to say:
/// here it only means that nothing is found.
fn control_table(file: &Path) -> ControlTable {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let table = text.parse::<toml::Table>().unwrap_or_default();
    let base = file.parent().unwrap_or(Path::new("/"));
    let path = |name| Some(base.join(table.get("control")?.get(name)?.as_str()?));
    ControlTable { socket: path("socket"), state: path("state") }
}

/// The command that is worth trying next, such that it can be copied as it is.
pub(crate) fn command_for(control: &Path, verb: &str) -> String {
    let program = std::env::args().next().unwrap_or_else(|| NAME.to_owned());
    let mut command = program;
    if control != default_control_socket() {
        command.push_str(&format!(" --control {}", control.display()));
    }
    command + " " + verb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_a_url_and_nothing_are_told_apart() {
        let source = |text: &str| source(Some(PathBuf::from(text)));
        assert_eq!(super::source(None), Ok(ConfigSource::BuiltIn));
        assert_eq!(source("/etc/site.toml"), Ok(ConfigSource::File(PathBuf::from("/etc/site.toml"))));
        assert!(matches!(source("site.toml"), Ok(ConfigSource::File(path)) if path.is_absolute()));
        assert_eq!(
            source("etcd://127.0.0.1/site").map(|source| source.name()),
            Ok("etcd://127.0.0.1/site".to_owned())
        );
        assert!(source("ectd://127.0.0.1/site").is_err());
        assert!(source("https://me:secret@host/site").is_err_and(|reason| !reason.contains("secret")));
    }

    #[test]
    fn the_control_table_is_found_and_a_broken_file_has_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.toml");
        let table = |text: &str| {
            std::fs::write(&file, text).unwrap();
            control_table(&file)
        };
        let found = table("nonsense = 3\n[control]\nsocket = \"c.sock\"\nstate = \"/s\"\n");
        assert_eq!(found.socket, Some(directory.path().join("c.sock")));
        assert_eq!(found.state, Some(PathBuf::from("/s")));
        assert_eq!(table("[control]\nsocket = 3"), ControlTable::default());
        assert_eq!(table("[control"), ControlTable::default());
        assert_eq!(control_table(Path::new("/nowhere/a.toml")), ControlTable::default());
    }
}
