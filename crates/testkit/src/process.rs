//! Processes that a test starts, and everything that they start: awaited by events, ended without remainder.
//!
//! Each [`Process`] carries a mark in its environment, which its descendants inherit. When it is dropped, whatever
//! still carries the mark, or descends from it, is killed and reaped. To be able to reap orphans the test process
//! makes itself their reaper (`PR_SET_CHILD_SUBREAPER`).

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, Once};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{ioctl_fionread, read};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};

use crate::deadline::{DEADLINE, Deadline, until};
use crate::proc;

/// The variable that marks a process and its descendants.
const MARK: &str = "HANDOVER_TEST_MARK";

static NEXT_MARK: AtomicU64 = AtomicU64::new(0);
static REAPER: Once = Once::new();

/// What a finished command left.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit code; 128 + signal number if a signal ended it, as shells say it.
    pub code: i32,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Output {
    /// Asserts the exit code, showing what the command said if it differs.
    #[track_caller]
    pub fn expect_code(&self, code: i32) -> &Self {
        assert_eq!(
            self.code, code,
            "unexpected exit code\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout, self.stderr
        );
        self
    }

    /// Asserts that the standard output contains `text`.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Self {
        assert!(
            self.stdout.contains(text),
            "stdout lacks {text:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Both streams, one after the other.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

#[derive(Debug, Default)]
struct Text {
    bytes: Vec<u8>,
    ended: bool,
}

/// One output stream of a process: read by a thread of its own, and by whoever wants to know what has been written so far.
/// What is in the pipe has been written: nobody has to wait until that thread gets round to it.
#[derive(Debug, Clone)]
struct Stream(Arc<(Mutex<Text>, Condvar, OwnedFd)>);

impl Stream {
    fn read(from: impl Into<OwnedFd>) -> Self {
        let this = Self(Arc::new((Mutex::default(), Condvar::new(), from.into())));
        let shared = this.clone();
        thread::spawn(move || while shared.wait_for_more() {});
        this
    }

    /// Waits until more is there, or the end, which nothing follows.
    fn wait_for_more(&self) -> bool {
        let mut watched = [PollFd::new(&self.0.2, PollFlags::IN)];
        let _ = poll(&mut watched, None);
        let over = watched[0].revents().intersects(PollFlags::HUP | PollFlags::ERR);
        let mut text = self.0.0.lock().unwrap();
        // Whoever writes has gone before this was read: nothing comes after it.
        self.take_all(&mut text);
        text.ended = over;
        self.0.1.notify_all();
        !over
    }

    /// Takes what is in the pipe.
    fn take_all(&self, text: &mut Text) {
        let mut buffer = [0; 4096];
        while ioctl_fionread(&self.0.2).is_ok_and(|there| there > 0) {
            match read(&self.0.2, &mut buffer) {
                Ok(length) if length > 0 => text.bytes.extend_from_slice(&buffer[..length]),
                _ => return,
            }
        }
    }

    fn text(&self) -> String {
        let mut text = self.0.0.lock().unwrap();
        self.take_all(&mut text);
        String::from_utf8_lossy(&text.bytes).into_owned()
    }

    /// Waits until the text contains `needle`; `None` if the stream ends without it.
    fn wait_for(&self, needle: &str, limit: Duration) -> Option<String> {
        let deadline = Deadline::after(limit);
        let mut text = self.0.0.lock().unwrap();
        loop {
            let so_far = String::from_utf8_lossy(&text.bytes).into_owned();
            if let Some(line) = so_far.lines().find(|line| line.contains(needle)) {
                return Some(line.to_owned());
            }
            if text.ended {
                return None;
            }
            assert!(!deadline.passed(), "waited {limit:?} in vain for {needle:?}; so far:\n{so_far}");
            text = self.0.1.wait_timeout(text, deadline.left()).unwrap().0;
        }
    }

    fn wait_end(&self, limit: Duration) {
        let deadline = Deadline::after(limit);
        let mut text = self.0.0.lock().unwrap();
        while !text.ended && !deadline.passed() {
            text = self.0.1.wait_timeout(text, deadline.left()).unwrap().0;
        }
    }
}

/// A running command. Dropping it ends it and everything it started.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    mark: String,
    stdout: Stream,
    stderr: Stream,
    /// Descendants seen at moments when they might become orphans.
    known: BTreeSet<(u32, u64)>,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`, with its output captured and no input.
    #[must_use]
    pub fn start(command: Command) -> Self {
        Self::try_start(command).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`Process::start`], for commands that may be missing.
    ///
    /// # Errors
    /// The command could not be started; the text names it.
    pub fn try_start(command: Command) -> Result<Self, String> {
        Self::try_start_with_input(command, Stdio::null())
    }

    /// As [`Process::try_start`], with a standard input: a listener to inherit, say.
    ///
    /// # Errors
    /// As [`Process::try_start`].
    pub fn try_start_with_input(mut command: Command, input: impl Into<Stdio>) -> Result<Self, String> {
        REAPER.call_once(|| {
            let _ = rustix::process::set_child_subreaper(Some(Pid::INIT));
        });
        let name = command.get_program().to_string_lossy().into_owned();
        let mark = format!("{}-{}", std::process::id(), NEXT_MARK.fetch_add(1, Ordering::Relaxed));
        command.env(MARK, &mark).stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
        let stdout = Stream::read(child.stdout.take().expect("standard output of a child"));
        let stderr = Stream::read(child.stderr.take().expect("standard error of a child"));
        Ok(Self { child, name, mark, stdout, stderr, known: BTreeSet::new(), status: None })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to its standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it wrote to its standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits for a line with `needle` on its standard output; `None` if it closes it without such a line.
    #[must_use]
    pub fn stdout_line(&self, needle: &str) -> Option<String> {
        self.stdout.wait_for(needle, DEADLINE)
    }

    /// Waits for a line with `needle` on its standard error; `None` if it closes it without such a line.
    #[must_use]
    pub fn stderr_line(&self, needle: &str) -> Option<String> {
        self.stderr.wait_for(needle, DEADLINE)
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.remember();
        let pid = pid_of(self.pid()).expect("process id of a child");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("signal to {}: {error}", self.name));
    }

    /// Whether it has ended.
    #[must_use]
    pub fn ended(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("state of a child");
        }
        self.status.is_some()
    }

    /// Waits for its end, which the kernel announces on a pidfd.
    pub fn wait(&mut self) -> Output {
        self.wait_within(DEADLINE)
    }

    /// As [`Process::wait`], with another limit.
    pub fn wait_within(&mut self, limit: Duration) -> Output {
        self.remember();
        if !self.ended() {
            let gone = wait_for_exit(self.pid(), limit);
            assert!(
                gone,
                "{} (pid {}) did not end within {limit:?}\n--- stderr\n{}",
                self.name,
                self.pid(),
                self.stderr()
            );
            self.status = Some(self.child.wait().expect("status of a child"));
        }
        // A surviving descendant may hold the pipes open: what is there by then is what there is.
        let rest = if self.live_descendants().is_empty() { limit } else { Duration::from_millis(100) };
        self.stdout.wait_end(rest);
        self.stderr.wait_end(rest);
        let code = self.status.map_or(-1, exit_code);
        Output { code, stdout: self.stdout(), stderr: self.stderr() }
    }

    /// Notes the present descendants, so that they are found even after their parent is gone.
    pub fn remember(&mut self) {
        let pid = self.pid();
        let tree = proc::tree(pid);
        self.known.extend(tree.iter().filter(|stat| stat.pid != pid).map(|stat| (stat.pid, stat.began)));
    }

    /// The processes that it started (directly or not) and that still run.
    #[must_use]
    pub fn live_descendants(&mut self) -> Vec<u32> {
        self.remember();
        let mark = format!("{MARK}={}", self.mark);
        let me = self.pid();
        proc::all()
            .into_iter()
            .filter(|stat| stat.pid != me && stat.state != 'Z')
            .filter(|stat| {
                self.known.contains(&(stat.pid, stat.began)) || proc::environment(stat.pid).contains(&mark)
            })
            .map(|stat| stat.pid)
            .collect()
    }

    /// Ends it and everything it started, at once.
    pub fn kill(&mut self) {
        self.remember();
        let _ = self.child.kill();
        self.status = self.child.wait().ok().or(self.status);
        until("every descendant of a killed process is gone", || {
            let left = self.live_descendants();
            for pid in &left {
                if let Some(pid) = pid_of(*pid) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            left.is_empty().then_some(())
        });
        for (pid, _) in &self.known {
            reap(*pid);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- {} (pid {}) stdout\n{}", self.name, self.pid(), self.stdout());
            eprintln!("--- {} (pid {}) stderr\n{}", self.name, self.pid(), self.stderr());
        }
        self.kill();
    }
}

/// Runs a command to its end, within [`DEADLINE`].
#[must_use]
pub fn run(command: Command) -> Output {
    Process::start(command).wait()
}

/// Sends a signal to any process of the test's (a worker, say).
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = pid_of(pid) {
        kill_process(pid, signal).unwrap_or_else(|error| panic!("signal to {pid:?}: {error}"));
    }
}

/// Waits until a process, child or not, has ended; false if it has not within `limit`.
#[must_use]
pub fn wait_for_exit(pid: u32, limit: Duration) -> bool {
    let Some(target) = pid_of(pid) else { return true };
    let Ok(descriptor) = pidfd_open(target, PidfdFlags::empty()) else { return true };
    let deadline = Deadline::after(limit);
    while !deadline.passed() {
        let left = Timespec::try_from(deadline.left()).expect("a deadline within i64 seconds");
        let mut watched = [PollFd::new(&descriptor, PollFlags::IN)];
        if poll(&mut watched, Some(&left)).is_ok_and(|ready| ready > 0) {
            return true;
        }
    }
    false
}

fn pid_of(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// Reaps an orphan that came to this process; no harm if it is somebody else's.
fn reap(pid: u32) {
    if let Some(pid) = pid_of(pid) {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_exit_code_are_told() {
        let output = run(shell("echo one; echo two >&2; exit 3"));
        output.expect_code(3).says("one");
        assert_eq!(output.stderr, "two\n");
    }

    #[test]
    fn a_dropped_process_takes_its_orphans_along() {
        let mut process = Process::start(shell("sleep 1000 & echo $!; exec sleep 1000"));
        let orphan: u32 = process.stdout_line("").and_then(|line| line.parse().ok()).unwrap();
        // Its parent dies alone first: the orphan must be found all the same.
        process.signal(Signal::KILL);
        assert_eq!(process.wait().code, 128 + 9);
        assert!(proc::alive(orphan));
        drop(process);
        assert!(!proc::alive(orphan));
    }

    /// A test looks when it has heard of something by another way: what was written before that is there.
    #[test]
    fn what_was_written_before_is_there_at_once() {
        for _ in 0..100 {
            let process = Process::start(shell("echo out; echo err >&2; kill -STOP $$"));
            until("it has written", || (proc::stat(process.pid())?.state == 'T').then_some(()));
            assert_eq!((process.stdout().as_str(), process.stderr().as_str()), ("out\n", "err\n"));
        }
    }

    #[test]
    fn a_line_is_awaited_as_it_comes() {
        let process = Process::start(shell("echo ready; exec sleep 1000"));
        assert_eq!(process.stdout_line("ready").as_deref(), Some("ready"));
        let ended = Process::start(shell("echo nothing"));
        assert_eq!(ended.stdout_line("ready"), None);
    }
}
