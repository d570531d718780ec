//! Asking the server that runs, and saying why that is not possible.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use handover_api::{Answer, Call, Client, ClientError, Diff, ExitCode as Code, Operation, Problem};

use crate::args::Common;
use crate::output::Output;

/// The default control socket of the command line's own server is `control.sock`; embedding programs have theirs
/// beside it, under their own names.
const SOCKET: &str = "control";
/// Where a server of root's is that was started without a runtime directory: by the service manager.
const SYSTEM_SOCKET: &str = "/run/handover/control.sock";

/// One run of the command line: which server it asks, and where its results go.
#[derive(Debug)]
pub(crate) struct Session {
    client: Client,
    output: Output,
}

impl Session {
    pub(crate) fn new(common: &Common) -> Self {
        Self { client: Client::new(server_to_ask(common)), output: Output::new(common.output) }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn output(&self) -> Output {
        self.output
    }

    /// Runs the asking part of a verb to its end, in a runtime of its own.
    pub(crate) fn run(&self, work: impl Future<Output = Result<ExitCode, ClientError>>) -> ExitCode {
        if let Err(reason) = trusted(self.client.socket()) {
            return self.output.failure(&reason, Code::NotPermitted);
        }
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                return self.output.failure(&format!("cannot start: {error}"), Code::Differs);
            }
        };
        match runtime.block_on(work) {
            Ok(code) => code,
            Err(error) => self.output.failure(&error.to_string(), error.exit_code()),
        }
    }

    /// Asks something that changes nothing. Errors that the server answers are printed here.
    pub(crate) async fn look(&self, call: Call) -> Result<Result<Answer, ExitCode>, ClientError> {
        let answer = self.client.send(call).await?;
        Ok(if answer.status < 400 { Ok(answer) } else { Err(self.refused(&answer)) })
    }

    /// Prints how an operation failed that was asked for by its ID, as the answer to it would have been.
    pub(crate) fn failed(&self, operation: Operation) -> ExitCode {
        let problem = operation.problem_details();
        let code = problem.exit_code();
        if self.output.is_json() {
            self.output.json(&serde_json::to_vec(&problem).unwrap_or_default());
            return code.into();
        }
        self.output.result(&seen_from_here(operation).report(), code)
    }

    /// Prints an error that the server answered.
    pub(crate) fn refused(&self, answer: &Answer) -> ExitCode {
        let Some(problem) = answer.problem() else {
            let message = format!("the server answered {}: {}", answer.status, answer.text().trim_end());
            return self.output.failure(&message, Code::Differs);
        };
        let code = problem.exit_code();
        if self.output.is_json() {
            self.output.json(&answer.body);
            return code.into();
        }
        if let Some(operation) = problem.operation {
            // How an operation ended is a result, however it ended.
            return self.output.result(&seen_from_here(operation).report(), code);
        }
        self.output.failure(&problem.report(), code)
    }
}

/// Files below the working directory as they are named here: the server names them by their whole paths.
pub(crate) fn seen_from_here(mut operation: Operation) -> Operation {
    let Ok(here) = std::env::current_dir() else { return operation };
    if rename_files(&mut operation, &here) && operation.left_out == 0 {
        operation.message = operation.sentence();
    }
    operation
}

fn rename_files(operation: &mut Operation, here: &Path) -> bool {
    let problems = operation.errors.iter_mut().chain(&mut operation.warnings);
    problems.fold(false, |any, problem| rename(problem, here) | any)
}

/// The same for a difference.
pub(crate) fn diff_from_here(mut diff: Diff) -> Diff {
    let Ok(here) = std::env::current_dir() else { return diff };
    for problem in diff.errors.iter_mut().chain(&mut diff.warnings) {
        rename(problem, &here);
    }
    diff
}

/// In its place and in its words: a certificate's mistake names the certificate's files.
fn rename(problem: &mut Problem, here: &Path) -> bool {
    if here.parent().is_none() {
        return false;
    }
    let below = format!("{}/", here.display());
    let mut any = false;
    if let Some(shorter) = problem.file.as_deref().and_then(|file| file.strip_prefix(&below)) {
        problem.file = Some(shorter.to_owned());
        any = true;
    }
    if problem.detail.contains(&below) {
        problem.detail = shortened(&problem.detail, &below);
        any = true;
    }
    any
}

/// Without the directory, where a path begins with it.
fn shortened(text: &str, below: &str) -> String {
    let mut parts = text.split(below);
    let mut short = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // What comes before a path is a blank, a quotation mark or a bracket; before the rest of one, a letter.
        let within = short.chars().next_back().is_some_and(|c| c.is_alphanumeric() || "/.-_".contains(c));
        if within {
            short.push_str(below);
        }
        short.push_str(part);
    }
    short
}

/// The control socket that was named, or the default one. Always absolute.
pub(crate) fn control_socket(common: &Common) -> PathBuf {
    match &common.control {
        Some(path) => std::path::absolute(path).unwrap_or_else(|_| path.clone()),
        None => default_control_socket(),
    }
}

/// The control socket of a server that is told nothing about it.
pub(crate) fn default_control_socket() -> PathBuf {
    handover_supervisor::paths::control_socket(SOCKET)
}

/// The server to ask: root's shell has a runtime directory, and root's services have not.
fn server_to_ask(common: &Common) -> PathBuf {
    let socket = control_socket(common);
    let system = Path::new(SYSTEM_SOCKET);
    let is_root = rustix::process::geteuid().is_root();
    if common.control.is_none() && is_root && !socket.exists() && system.exists() {
        return system.to_owned();
    }
    socket
}

/// In a directory that everybody may make, somebody else's socket could be waiting.
fn trusted(socket: &Path) -> Result<(), String> {
    let Some(directory) = socket.parent().filter(|directory| directory.parent() == Some(Path::new("/tmp")))
    else {
        return Ok(());
    };
    let Ok(meta) = std::fs::symlink_metadata(directory) else { return Ok(()) };
    let me = rustix::process::geteuid().as_raw();
    if meta.is_dir() && (meta.uid() == me || meta.uid() == 0 || me == 0) {
        return Ok(());
    }
    Err(format!(
        "not permitted: {} belongs to uid {}, and this is uid {me}; name the control socket with --control PATH",
        directory.display(),
        meta.uid()
    ))
}

#[cfg(test)]
mod tests {
    use handover_api::{Actor, Binary, Cause, Kind, Outcome, Problem, Upgrade};

    use super::*;

    #[test]
    fn files_are_named_as_they_are_seen_from_here() {
        let mut operation = Operation::running("a", Kind::Reload, Actor::supervisor(), "");
        operation.errors = vec![
            Problem::new("near").in_file("/srv/site/hello.toml").at(7, 3),
            Problem::new("far").in_file("/srv/site-2/hello.toml"),
        ];
        operation.finish(Outcome::Rejected, Cause::Refused, 1.0);
        assert!(rename_files(&mut operation, Path::new("/srv/site")));
        assert_eq!(operation.errors[0].to_string(), "hello.toml:7:3: near");
        assert_eq!(operation.errors[1].to_string(), "/srv/site-2/hello.toml: far");
        assert!(operation.sentence().contains("the first: hello.toml:7:3: near"));
        operation.errors = vec![
            Problem::new("/srv/site/a.pem: the key in /srv/site/a.key is another; see /mnt/srv/site/x")
                .in_file("/srv/site/hello.toml"),
        ];
        assert!(rename_files(&mut operation, Path::new("/srv/site")));
        assert_eq!(
            operation.errors[0].to_string(),
            "hello.toml: a.pem: the key in a.key is another; see /mnt/srv/site/x"
        );
        let to = Binary::at("/srv/site/new");
        operation.upgrade = Some(Box::new(Upgrade::new(Binary::at("/usr/bin/old"), to)));
        operation.errors = vec![Problem::new("is not whole").in_file("/srv/site/new")];
        operation.serving_generation = Some(3);
        operation.finish(Outcome::NotReady, Cause::BinaryUnfit, 1.0);
        assert!(rename_files(&mut operation, Path::new("/srv/site")));
        assert_eq!(
            operation.sentence(),
            "not ready: new: is not whole; /usr/bin/old still serves generation 3"
        );
    }
}
