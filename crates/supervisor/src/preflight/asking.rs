//! The supervisor's side: the candidate is started, listened to, and cleared away.

use std::ffi::OsString;
use std::io::{self, PipeReader, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use handover_handoff::inherit::{PREFLIGHT_VARIABLE, SAVED_VARIABLE};
use handover_handoff::process::{Executable, Exit, Spawn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::{MAX_ANSWER_BYTES, Stated};
use crate::protocol::{OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION};
use crate::reexec::NEWEST_FORMAT;
use crate::sparing::SparedChild;
use crate::tee::LastLines;

/// How long the system may take to clear away a process that was killed.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// What is needed to ask a binary.
#[derive(Debug)]
pub(crate) struct Preflight<'a> {
    /// The binary.
    pub(crate) executable: &'a Executable,
    /// The server's name, which must be the binary's, too.
    pub(crate) name: &'a str,
    /// `argv` of the supervisor.
    pub(crate) arguments: &'a [OsString],
    /// Variables that workers get, too.
    pub(crate) environment: &'a [(OsString, OsString)],
    /// What the supervisor would leave for it: it rehearses taking that over.
    pub(crate) saved: Option<BorrowedFd<'a>>,
    /// How long it may take.
    pub(crate) limit: Duration,
}

/// Why a binary cannot be used: a sentence, and the last lines that it wrote to standard error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(crate) struct NotUsable {
    /// What happened.
    pub(crate) why: String,
    /// Its last lines of standard error.
    pub(crate) said: Vec<String>,
}

impl Preflight<'_> {
    /// Runs it, and waits for what it says. Blocks for at most [`Preflight::limit`] and the time it takes to kill it.
    /// Nothing of it is left afterwards.
    ///
    /// # Errors
    /// It cannot be started, hangs, ends without a word, says something else, is another server, speaks no version that
    /// this program speaks, or cannot take over.
    pub(crate) fn run(self) -> Result<Stated, NotUsable> {
        let lines = LastLines::default();
        let said = self.listen(&lines).and_then(|(answer, exit)| understand(&answer, exit, self.name));
        said.map_err(|why| NotUsable { why, said: lines.get() })
    }

    fn listen(&self, lines: &LastLines) -> Result<(Vec<u8>, Exit), String> {
        let deadline = Instant::now() + self.limit;
        let cannot = |error: io::Error| format!("it cannot be started: {error}");
        let (mut streams, writers) = Streams::new(lines).map_err(cannot)?;
        let started = self.start(&writers).map_err(cannot)?;
        drop(writers);
        let heard = streams.listen(&started, deadline);
        let (pid, exit) = match heard {
            Ok(()) => return Ok((streams.answer, end(&started, KILL_LIMIT)?)),
            Err(Unheard::Late) => (started.child.pid(), None),
            Err(Unheard::Rubbish) => (started.child.pid(), Some("it says more than an answer has")),
            Err(Unheard::Errno(errno)) => {
                kill(&started);
                let _ = end(&started, KILL_LIMIT);
                return Err(format!("it cannot be listened to: {errno}"));
            }
        };
        kill(&started);
        end(&started, KILL_LIMIT)?;
        Err(match exit {
            Some(why) => why.to_owned(),
            None => format!("it (pid {pid}) did not answer within {:?}, and was killed", self.limit),
        })
    }

    fn start(&self, writers: &Writers) -> io::Result<SparedChild> {
        let mut environment = self.environment.to_vec();
        environment.push((PREFLIGHT_VARIABLE.into(), "1".into()));
        if let Some(saved) = &self.saved {
            environment.push((SAVED_VARIABLE.into(), saved.as_raw_fd().to_string().into()));
        }
        let spawn = Spawn {
            executable: self.executable,
            arguments: self.arguments,
            environment: &environment,
            descriptors: self.saved.as_slice(),
            stdout: Some(writers.stdout.as_fd()),
            stderr: Some(writers.stderr.as_fd()),
            ends_with_thread: true,
        };
        SparedChild::start(|| spawn.start())
    }
}

/// The ends of its pipes that the candidate writes to.
struct Writers {
    stdout: io::PipeWriter,
    stderr: io::PipeWriter,
}

/// The ends that are read here, and what came.
struct Streams<'a> {
    stdout: Option<PipeReader>,
    stderr: Option<PipeReader>,
    answer: Vec<u8>,
    lines: &'a LastLines,
}

/// Why there is no answer.
enum Unheard {
    Late,
    Rubbish,
    Errno(Errno),
}

impl<'a> Streams<'a> {
    fn new(lines: &'a LastLines) -> io::Result<(Self, Writers)> {
        let (stdout, to_stdout) = io::pipe()?;
        let (stderr, to_stderr) = io::pipe()?;
        for reader in [&stdout, &stderr] {
            rustix::io::ioctl_fionbio(reader, true)?;
        }
        let streams = Self { stdout: Some(stdout), stderr: Some(stderr), answer: Vec::new(), lines };
        Ok((streams, Writers { stdout: to_stdout, stderr: to_stderr }))
    }

    /// Reads until the process has ended. What it has started may hold the pipes open: that is not waited for.
    fn listen(&mut self, started: &SparedChild, deadline: Instant) -> Result<(), Unheard> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = self.wait(started, left).map_err(Unheard::Errno)?;
            self.read()?;
            if ended {
                return Ok(());
            }
            if left.is_zero() {
                return Err(Unheard::Late);
            }
        }
    }

    /// Waits until something happens; whether the process has ended.
    fn wait(&self, started: &SparedChild, within: Duration) -> Result<bool, Errno> {
        let pipes = self.stdout.iter().chain(&self.stderr).map(|pipe| PollFd::new(pipe, PollFlags::IN));
        let mut all: Vec<PollFd<'_>> =
            std::iter::once(PollFd::new(&*started.child, PollFlags::IN)).chain(pipes).collect();
        match poll(&mut all, Timespec::try_from(within).ok().as_ref()) {
            Ok(_) => Ok(all.first().is_some_and(|process| !process.revents().is_empty())),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Reads all that there is now.
    fn read(&mut self) -> Result<(), Unheard> {
        let lines = self.lines;
        drain(&mut self.stderr, |bytes| lines.take(bytes));
        let answer = &mut self.answer;
        drain(&mut self.stdout, |bytes| {
            let room = (MAX_ANSWER_BYTES + 1).saturating_sub(answer.len());
            answer.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        });
        if self.answer.len() > MAX_ANSWER_BYTES { Err(Unheard::Rubbish) } else { Ok(()) }
    }
}

/// Reads what there is; at the end of the stream, closes it.
fn drain(pipe: &mut Option<PipeReader>, mut take: impl FnMut(&[u8])) {
    // More than a pipe holds: whoever writes without a pause is not read for ever.
    const ROUNDS: usize = 64;
    let mut chunk = [0; 4096];
    for _ in 0..ROUNDS {
        let Some(reader) = pipe else { return };
        match reader.read(&mut chunk) {
            Ok(0) => *pipe = None,
            Ok(count) => take(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => *pipe = None,
        }
    }
}

/// Ends the process, and all that it has started in its group. Its ID is not given to another one before it is reaped.
fn kill(started: &SparedChild) {
    if let Some(group) = i32::try_from(started.child.pid()).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    // Fails only for a process that is another user's, which a child of this one is not.
    let _ = started.child.kill();
}

/// Reaps the process when it has ended.
fn end(started: &SparedChild, within: Duration) -> Result<Exit, String> {
    let limit = Timespec::try_from(within).ok();
    let cannot = |why: String| format!("it (pid {}) cannot be cleared away: {why}", started.child.pid());
    loop {
        match poll(&mut [PollFd::new(&*started.child, PollFlags::IN)], limit.as_ref()) {
            Ok(0) => return Err(cannot(format!("it was killed, and is still there after {within:?}"))),
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(cannot(errno.to_string())),
        }
    }
    match started.child.try_wait() {
        Ok(exit) => Ok(exit.unwrap_or(Exit::Unknown)),
        Err(error) => Err(cannot(error.to_string())),
    }
}

/// What its answer means.
fn understand(answer: &[u8], exit: Exit, name: &str) -> Result<Stated, String> {
    if exit != Exit::Code(0) {
        return Err(format!("asked for its versions, it {exit}"));
    }
    let text = String::from_utf8_lossy(answer);
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err("it does not say which versions it speaks: is it a program of this kind?".to_owned());
    }
    let Ok(stated) = serde_json::from_str::<Stated>(line) else {
        let shown: String = line.chars().filter(|c| !c.is_control()).take(100).collect();
        return Err(format!("asked for its versions, it says something else: {shown}"));
    };
    if let Some(other) = stated.name.as_deref().filter(|other| *other != name) {
        let other: String = other.chars().filter(|c| !c.is_control()).take(100).collect();
        return Err(format!("it is '{other}', and this server is '{name}': it serves something else"));
    }
    let [oldest, newest] = stated.protocol;
    if newest < OLDEST_PROTOCOL_VERSION || oldest > PROTOCOL_VERSION {
        return Err(format!(
            "it speaks versions {oldest} to {newest} of the protocol, this program {OLDEST_PROTOCOL_VERSION} to \
             {PROTOCOL_VERSION}: an upgrade has to go by a version between the two"
        ));
    }
    let [oldest, newest] = stated.saved;
    if !(oldest..=newest).contains(&NEWEST_FORMAT) {
        return Err(format!(
            "it reads saved state of formats {oldest} to {newest}, and this program writes {NEWEST_FORMAT}: an \
             upgrade has to go by a version between the two"
        ));
    }
    match &stated.cannot {
        Some(why) => Err(format!("it cannot go on with the state of this supervisor: {why}")),
        None => Ok(stated),
    }
}
