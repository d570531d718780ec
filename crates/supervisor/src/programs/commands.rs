//! A command that ends by itself: hooks, checks, reloads. It has a deadline, its output is kept, and nothing of it is left.
//!
//! ```text
//!   run ─▶ running, in a session of its own ──first process ends──▶ what it left is killed ─▶ Finished │ Failed::Ended
//!             │ limit, or dropped                                          ▲
//!             └────────────────────────────────────────────────────────────┘ Failed::TooLong
//! ```
//!
//! It is started as copies are ([`super::copy`]), under a mark of its own: it does not belong to the copy that it is about.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use handover_handoff::process::Exit;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use super::copy::{self, Copy, Order};
use super::groups::Groups;
use super::private::{NotedMark, Place};
use crate::protocol::{CommandSpec, Pass, ResourceLimits, User};

/// Bytes of output that are kept: the last.
pub(crate) const MAX_OUTPUT_BYTES: usize = 8 * 1024;
/// How long the system may take to clear away what was killed.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// Bytes read at a time.
const READ_BYTES: usize = 4096;
/// Reads after the end: as much as a pipe holds. Whoever was not killed may still write.
const LAST_READS: usize = 16;

/// Where and as whom a command is run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setting {
    /// Its working directory; the supervisor's if `None`.
    pub(crate) directory: Option<PathBuf>,
    /// Variables beside those that are passed on.
    pub(crate) environment: BTreeMap<String, String>,
    /// Whether the supervisor's own variables are not passed on (but `PATH`, `HOME`, `USER`, `LANG`).
    pub(crate) clear_environment: bool,
    /// As whom; as the supervisor if `None`.
    pub(crate) user: Option<User>,
    /// Where it gets a control group; by default it gets none.
    pub(crate) groups: Groups,
    /// Where its mark is written down, so that the next supervisor finds it if this one is killed.
    pub(crate) place: Option<Place>,
}

/// What a command has written to standard output and standard error, in the order in which it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// The last [`MAX_OUTPUT_BYTES`], without the part of a line that they may begin with.
    pub(crate) text: String,
    /// Bytes that came before and were not kept.
    pub(crate) left_out: u64,
}

impl Said {
    /// The last line that says anything.
    pub(crate) fn last_line(&self) -> Option<&str> {
        self.text.lines().map(str::trim).rfind(|line| !line.is_empty())
    }
}

/// It has exited with 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finished {
    /// What it said.
    pub(crate) said: Said,
    /// How long it took.
    pub(crate) took: Duration,
}

/// It has not done what it was to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failed {
    /// It was not started.
    #[error("'{command}' cannot be started: {why}")]
    NotStarted {
        /// Its first word.
        command: String,
        /// What could not be done, and why.
        why: String,
    },
    /// It has ended otherwise than with 0.
    #[error("'{command}' {exit}")]
    Ended {
        /// Its first word.
        command: String,
        /// How.
        exit: Exit,
        /// What it said before.
        said: Said,
    },
    /// It was killed at its deadline, with everything that it had started.
    #[error("'{command}' did not end within {limit:?} and was killed")]
    TooLong {
        /// Its first word.
        command: String,
        /// The deadline.
        limit: Duration,
        /// What it said before.
        said: Said,
    },
}

impl Failed {
    /// What it said before it failed; nothing if it was not started.
    pub(crate) fn said(&self) -> Option<&Said> {
        match self {
            Failed::NotStarted { .. } => None,
            Failed::Ended { said, .. } | Failed::TooLong { said, .. } => Some(said),
        }
    }

    /// The sentence, and the last line that it said: `'check' exited with code 1: no database`.
    pub(crate) fn in_a_line(&self) -> String {
        match self.said().and_then(Said::last_line) {
            Some(line) => format!("{self}: {line}"),
            None => self.to_string(),
        }
    }
}

/// Runs a command (in which nothing stands for something else any more) until it ends. Dropping this kills it, and
/// everything that it has started.
///
/// # Errors
/// It cannot be started, does not exit with 0, or takes longer than it may.
pub(crate) async fn run(program: &str, spec: &CommandSpec, setting: &Setting) -> Result<Finished, Failed> {
    let began = Instant::now();
    let command = spec.command.first().cloned().unwrap_or_default();
    let not_started = |why: String| Failed::NotStarted { command: command.clone(), why };
    let (running, reader) = start(program, spec, setting).map_err(not_started)?;
    let mut output = Output { reader: Some(reader), kept: Vec::new(), left_out: 0 };
    let ended = tokio::time::timeout(spec.limit, running.ended(&mut output)).await;
    running.clear_away().await;
    output.read_rest();
    let said = output.said();
    match ended {
        Ok(Exit::Code(0)) => Ok(Finished { said, took: began.elapsed() }),
        Ok(exit) => Err(Failed::Ended { command, exit, said }),
        Err(_) => Err(Failed::TooLong { command, limit: spec.limit, said }),
    }
}

fn start(program: &str, spec: &CommandSpec, setting: &Setting) -> Result<(Running, pipe::Receiver), String> {
    let say = |error: io::Error| error.to_string();
    let (reader, writer) = io::pipe().map_err(say)?;
    let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(say)?;
    // The copy that it is about, if it is about one; it is none itself.
    let number = setting.environment.get("HANDOVER_COPY").and_then(|copy| copy.parse().ok()).unwrap_or(0);
    let mark = copy::new_mark(program, number).map_err(say)?;
    let noted = setting.place.as_ref().map(|place| place.note_command(&mark));
    let order = Order {
        program,
        number,
        mark: &mark,
        command: &spec.command,
        directory: setting.directory.as_deref(),
        environment: &setting.environment,
        clear_environment: setting.clear_environment,
        user: setting.user.as_ref(),
        limits: &ResourceLimits::default(),
        sockets: &[],
        pass: &Pass::default(),
        notify: None,
        stdin: None,
        stdout: None,
        output: writer.as_fd(),
        groups: &setting.groups,
    };
    let started = copy::start(&order).map_err(|error| {
        // It is no copy: what is to be said of it, the caller says.
        let sentence = error.to_string();
        sentence.split_once(" cannot be started: ").map_or(sentence.clone(), |(_, why)| why.to_owned())
    })?;
    Ok((Running { copy: Some(started.copy), _noted: noted }, reader))
}

/// A command that runs. If it is dropped before it was cleared away, it is killed.
struct Running {
    copy: Option<Copy>,
    _noted: Option<NotedMark>,
}

impl Running {
    /// Waits for the end of its first process, and reads meanwhile.
    async fn ended(&self, output: &mut Output) -> Exit {
        let Some(copy) = &self.copy else { return Exit::Unknown };
        let exited = copy.exited();
        tokio::pin!(exited);
        loop {
            tokio::select! {
                exit = &mut exited => return exit,
                () = output.read_some() => {}
            }
        }
    }

    async fn clear_away(mut self) {
        if let Some(copy) = &self.copy {
            let killed = copy.kill_all(KILL_LIMIT).await;
            if killed.left > 0 {
                tracing::warn!("{} processes of a command cannot be killed", killed.left);
            }
        }
        self.copy = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(copy) = self.copy.take() else { return };
        // At once: where the runtime ends, too, nobody comes to it later.
        copy.kill_now();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { copy.kill_all(KILL_LIMIT).await });
        }
    }
}

/// The last of what comes out of a pipe.
struct Output {
    /// `None` when everybody has closed the other end.
    reader: Option<pipe::Receiver>,
    kept: Vec<u8>,
    left_out: u64,
}

impl Output {
    /// Waits until something was read; for ever, if nothing can come any more. Cancel-safe.
    async fn read_some(&mut self) {
        let Some(reader) = &mut self.reader else { return std::future::pending().await };
        let mut buffer = [0; READ_BYTES];
        match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => self.reader = None,
            Ok(count) => self.keep(&buffer[..count]),
        }
    }

    /// Takes what is there, without waiting.
    fn read_rest(&mut self) {
        let mut buffer = [0; READ_BYTES];
        for _ in 0..LAST_READS {
            // The pipe itself, since the event loop may not have noticed yet that there is something.
            let Some(Ok(count)) = self.reader.as_ref().map(|reader| rustix::io::read(reader, &mut buffer))
            else {
                return;
            };
            if count == 0 {
                return;
            }
            self.keep(&buffer[..count]);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        let over = self.kept.len().saturating_sub(MAX_OUTPUT_BYTES);
        self.kept.drain(..over);
        self.left_out = self.left_out.saturating_add(u64::try_from(over).unwrap_or(u64::MAX));
    }

    fn said(mut self) -> Said {
        let cut = match self.kept.iter().position(|byte| *byte == b'\n') {
            Some(at) if self.left_out > 0 => at + 1,
            _ => 0,
        };
        self.kept.drain(..cut);
        let left_out = self.left_out.saturating_add(u64::try_from(cut).unwrap_or(u64::MAX));
        Said { text: String::from_utf8_lossy(&self.kept).into_owned(), left_out }
    }
}

#[cfg(test)]
mod tests;
