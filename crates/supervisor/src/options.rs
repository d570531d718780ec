//! What a supervisor is started with.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use handover_lifecycle::Limits;

use crate::paths;
use crate::protocol::LogSettings;

/// Which generation of the journal to start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFrom {
    /// The one that was served last, unless it needed confirmation and was not confirmed.
    Last,
    /// This one.
    Generation(u64),
}

/// What a supervisor is started with. [`Options::new`] gives the usual, then set what differs.
#[derive(Clone)]
pub struct Options {
    /// Name of the server: in logs, `status`, metrics and the default paths.
    pub name: String,
    /// Its version, for `status`.
    pub version: String,
    /// The control socket. Its directory is made (0750) if it is missing.
    pub control: PathBuf,
    /// The directory of the journal.
    pub state: PathBuf,
    /// The top-level file, as it was named, for `status` only: the worker reads it.
    pub config: Option<PathBuf>,
    /// The whole configuration, where it was made of the command line: what a reload serves, whatever the worker was started with (see
    /// `Prepare::made` of the library).
    pub made: Option<String>,
    /// Start from a generation of the journal instead of the disk. Says nothing to a worker that is adopted.
    pub start_from: Option<StartFrom>,
    /// `argv` of the worker: the same as this process's own, so that the same `main` comes to the same place.
    pub arguments: Vec<OsString>,
    /// Variables that the worker gets beside this process's own.
    pub environment: Vec<(OsString, OsString)>,
    /// Every time limit of the lifecycle.
    pub limits: Limits,
    /// Whether four lines are printed on stdout when the first generation serves.
    pub banner: bool,
    /// The command to try next, for the banner's last line.
    pub next_command: String,
    /// The server is there for its programs: it says that it is ready when each of them is, or has failed once, and ends when all
    /// have ended and none is to be started again.
    pub for_programs: bool,
    /// Called on USR1, after the worker was told the same.
    pub reopen_logs: Arc<dyn Fn() + Send + Sync>,
    /// Called when a generation begins to serve that says how to log.
    pub apply_log: Arc<dyn Fn(&LogSettings) + Send + Sync>,
}

impl Options {
    /// The usual: default paths, this process's arguments, default limits, a banner.
    #[must_use]
    pub fn new(name: &str, version: &str) -> Self {
        let control = paths::control_socket(name);
        Options {
            name: name.to_owned(),
            version: version.to_owned(),
            state: paths::state_directory(&control),
            next_command: format!("curl --unix-socket {} http://localhost/v1/status", control.display()),
            control,
            config: None,
            made: None,
            start_from: None,
            arguments: std::env::args_os().collect(),
            environment: Vec::new(),
            limits: Limits::DEFAULT,
            banner: true,
            for_programs: false,
            reopen_logs: Arc::new(|| {}),
            apply_log: Arc::new(|_| {}),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("control", &self.control)
            .field("state", &self.state)
            .field("config", &self.config)
            .field("arguments", &self.arguments)
            .finish_non_exhaustive()
    }
}
