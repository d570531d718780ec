//! `handover serve`: this process becomes the supervisor, or, when the supervisor started it, the worker.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use handover::HostOptions;
use handover_proxy::{ConfigSource, ProxyService};

use crate::args::{Common, Serve};
use crate::session::{control_socket, default_control_socket};

/// What this server calls itself.
const NAME: &str = "handover";

/// Serves until it is told to stop. Worker and supervisor come here with the same command line.
pub(crate) fn run(common: &Common, serve: Serve) -> ExitCode {
    let file = serve.file.map(|file| std::path::absolute(&file).unwrap_or(file));
    let configured = file.as_deref().map(control_table).unwrap_or_default();
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
    options.next_command = next_command(&control, file.is_some());
    options.control = control;
    options.config.clone_from(&file);
    options.banner = !serve.quiet;
    let source = file.map_or(ConfigSource::BuiltIn, ConfigSource::File);
    let threads = serve.threads.map(usize::from);
    handover::host(options, move || {
        let service = ProxyService::new(source);
        match threads {
            Some(threads) => service.with_threads(threads),
            None => service,
        }
    })
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
fn next_command(control: &Path, has_file: bool) -> String {
    let program = std::env::args().next().unwrap_or_else(|| NAME.to_owned());
    let mut command = program;
    if control != default_control_socket() {
        command.push_str(&format!(" --control {}", control.display()));
    }
    command.push_str(if has_file { " reload" } else { " status" });
    command
}

#[cfg(test)]
mod tests {
    use super::*;

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
