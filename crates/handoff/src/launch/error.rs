//! Why a program was not started, in a sentence that says which step failed and what to look at.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Doing {
    /// Reading the order.
    Prepare,
    /// Making the process.
    Fork,
    /// Waiting for it.
    Wait,
    /// Making its session.
    Session,
    /// Joining the control group.
    ControlGroup,
    /// Placing its descriptors.
    Descriptors,
    /// Setting how many descriptors it may have.
    OpenFiles,
    /// Becoming another user.
    User,
    /// Entering its directory.
    Directory,
    /// Emptying its signal mask.
    Signals,
    /// Executing the command.
    Execute,
}

impl Doing {
    /// In the order of their numbers, which go from the new process to this one.
    pub(super) const ALL: [Doing; 11] = [
        Doing::Prepare,
        Doing::Fork,
        Doing::Wait,
        Doing::Session,
        Doing::ControlGroup,
        Doing::Descriptors,
        Doing::OpenFiles,
        Doing::User,
        Doing::Directory,
        Doing::Signals,
        Doing::Execute,
    ];
}

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub struct LaunchError {
    /// Which step failed.
    pub doing: Doing,
    /// Of an execution: the file, or the command if there is none. Of a directory: that.
    pub path: PathBuf,
    /// The `PATH` that was searched, if the command names no directory.
    pub searched: Option<OsString>,
    /// How many descriptors it was to have.
    pub open_files: Option<u64>,
    /// Why.
    pub source: io::Error,
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, why) = (self.path.display(), &self.source);
        match self.doing {
            Doing::Prepare => write!(f, "the command {path} or its environment cannot be passed on: {why}"),
            Doing::Fork => write!(f, "no process can be made for {path}: {why}"),
            Doing::Wait => write!(f, "{path} could not be executed in time (is its disk there?): {why}"),
            Doing::Session => write!(f, "no session can be made for {path}: {why}"),
            Doing::ControlGroup => write!(f, "{path} cannot join its control group: {why}"),
            Doing::Descriptors => write!(f, "the sockets of {path} cannot be placed: {why}"),
            Doing::OpenFiles => {
                let limit = self.open_files.unwrap_or_default();
                write!(f, "the limit of {limit} open files cannot be set for {path}: {why}")
            }
            Doing::User => write!(f, "{path} cannot run as that user: {why}"),
            Doing::Directory => write!(f, "the directory {path} cannot be entered: {why}"),
            Doing::Signals => write!(f, "the signals of {path} cannot be reset: {why}"),
            Doing::Execute => self.not_executed(f),
        }
    }
}

impl LaunchError {
    fn not_executed(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, why) = (self.path.display(), &self.source);
        match (self.source.raw_os_error(), &self.searched) {
            // It was found afterwards by its whole path, so something else is missing.
            (Some(libc::ENOENT), _) if self.path.is_file() => write!(
                f,
                "{path} is there, but not what it needs to run: the interpreter of its first line, or its loader ({why})"
            ),
            (Some(libc::ENOENT), Some(searched)) => {
                write!(f, "there is no command {path} in PATH ({}): {why}", searched.display())
            }
            (Some(libc::ENOENT), None) => write!(f, "there is no file {path} to execute: {why}"),
            (Some(libc::EACCES), _) => {
                write!(f, "{path} may not be executed by the user it is to run as: {why}")
            }
            (Some(libc::ENOEXEC), _) => {
                write!(f, "{path} is nothing that can be executed here (a script begins with #!): {why}")
            }
            (Some(libc::ETXTBSY), _) => write!(f, "{path} is being written just now: {why}"),
            _ => write!(f, "{path} cannot be executed: {why}"),
        }
    }
}
