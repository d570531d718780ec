//! Which of the two processes this is, and its whole life.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::service::Service;

/// How the program is hosted: the part of its command line that concerns the supervisor.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// Name of the program, for logs, the default control socket and `status`.
    pub name: String,
    /// Version of the program, for `status`.
    pub version: String,
    /// Control socket; by default in the user's runtime directory.
    pub control: Option<PathBuf>,
    /// Where journal and generations are kept; by default in the user's state directory.
    pub state: Option<PathBuf>,
    /// The top-level file, for `status` and `diff`; `None` if the configuration is built in.
    pub config: Option<PathBuf>,
}

/// Runs this process: as the supervisor, or, when the supervisor started it, as the worker that serves
/// `service`. Returns when the process should exit, with the code to exit with.
///
/// Call it first thing in `main`, from the main thread, before other threads exist. `service` is built in the
/// worker only.
pub fn host<S: Service>(options: HostOptions, service: impl FnOnce() -> S) -> ExitCode {
    drop((options, service));
    ExitCode::SUCCESS
}
