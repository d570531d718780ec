//! Workers that have outlived their supervisor: found, greeted, and the one that serves adopted.
//!
//! ```text
//!   doors in the directory ─▶ knock at all ─┬─ nobody there ─▶ stale: unlinked
//!                                           ├─ closed ───────▶ it serves no more, and ends by itself
//!                                           ├─ Hello, serves ▶ adopted; others that stay are ended
//!                                           └─ silent, or serves nothing ─▶ ended
//! ```
//!
//! There is more than one only if an upgrade was under way. Between the two of them it is decided which one serves: a
//! handoff that had begun goes on to its end without a supervisor, and until then neither opens its door. So two
//! silent ones are given that much time.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use handover_handoff::own::ForMessages;
use handover_handoff::peer::Peer;
use handover_handoff::process::{Child, Executable};
use handover_handoff::{Bundle, ChannelError, succession};
use handover_lifecycle::Limits;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::image::Image;
use crate::protocol::{
    OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION, Serving, SupervisorChannel, ToSupervisor, ToWorker,
    common_version,
};
use crate::worker::{Reporter, Running, Worker};

/// How long a worker that is to be adopted may take to say hello.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// How long those that do not serve are given to let go of their doors, once one has said that it serves.
const LET_GO_LIMIT: Duration = Duration::from_secs(2);
/// How long the system may take to clear away a worker that was killed.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// A worker of an earlier supervisor, found alive.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) serving: Serving,
    bundle: Bundle,
    bundle_file: OwnedFd,
    listeners: Vec<OwnedFd>,
    held: Vec<OwnedFd>,
    carried: Option<OwnedFd>,
    executable: Option<OwnedFd>,
    programs: Vec<OwnedFd>,
    door: Door,
    version: String,
    actions: Vec<String>,
    threads: u32,
    protocol: u16,
}

/// Why a worker that lives cannot be adopted.
#[derive(Debug, thiserror::Error)]
#[error(
    "a worker of an earlier supervisor still runs{}, and cannot be taken over: {why}; end it with 'kill -9 {}' \
     if it is not needed",
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})")),
    pid.map_or_else(|| "its process ID".to_owned(), |pid| pid.to_string())
)]
pub(crate) struct CannotAdopt {
    pid: Option<u32>,
    why: String,
}

/// A door at which somebody may open.
#[derive(Debug)]
struct Door {
    process: Child,
    channel: SupervisorChannel,
    path: PathBuf,
}

impl Door {
    /// Knocks. `None` if nobody is there; the path is unlinked then.
    fn knock(path: &Path) -> Result<Option<Door>, CannotAdopt> {
        let unknown = |why: String| CannotAdopt { pid: None, why };
        let socket = match succession::knock(path) {
            Ok(socket) => socket,
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused) => {
                let _ = std::fs::remove_file(path);
                return Ok(None);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unknown(format!("cannot connect to {}: {error}", path.display()))),
        };
        let Peer { pid, uid, .. } = Peer::of(&socket).map_err(|error| unknown(error.to_string()))?;
        let fail = |why: String| CannotAdopt { pid: Some(pid), why };
        if uid != rustix::process::geteuid().as_raw() {
            return Err(fail(format!("it belongs to uid {uid}")));
        }
        let process = match Child::of(pid) {
            Ok(process) => process,
            // It ended between the two.
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {
                let _ = std::fs::remove_file(path);
                return Ok(None);
            }
            Err(error) => return Err(fail(error.to_string())),
        };
        let channel =
            SupervisorChannel::from_socket(socket).map_err(|error: ChannelError| fail(error.to_string()))?;
        let door = Door { process, channel, path: path.to_owned() };
        let welcome = ToWorker::Welcome {
            protocol: PROTOCOL_VERSION,
            oldest: OLDEST_PROTOCOL_VERSION,
            worker: 0,
            carried: false,
            candidate: false,
        };
        match door.channel.send(&welcome, &[], HELLO_LIMIT) {
            // What is there to be read says it, too.
            Ok(()) | Err(ChannelError::Closed) => Ok(Some(door)),
            Err(error) => Err(fail(error.to_string())),
        }
    }

    fn fail(&self, why: String) -> CannotAdopt {
        CannotAdopt { pid: Some(self.process.pid()), why }
    }

    /// Ends an orphan that nobody can use, and waits until it is gone: what it listens on may be needed at once.
    fn end(self, why: &str) -> Result<(), CannotAdopt> {
        tracing::warn!(pid = self.process.pid(), "a worker of an earlier supervisor {why}: it is killed");
        self.kill(why).map_err(|why| self.fail(why))?;
        // It is a zombie only if it was this process's child, say in a container; ECHILD otherwise.
        let _ = self.process.try_wait();
        let _ = std::fs::remove_file(&self.path);
        Ok(())
    }

    fn kill(&self, why: &str) -> Result<(), String> {
        self.process.kill().map_err(|error| format!("it {why} and cannot be killed: {error}"))?;
        match poll(
            &mut [PollFd::new(&self.process, PollFlags::IN)],
            Timespec::try_from(KILL_LIMIT).ok().as_ref(),
        ) {
            Ok(0) => Err(format!("it {why}, was killed, and is still there after {KILL_LIMIT:?}")),
            Ok(_) => Ok(()),
            Err(errno) => Err(format!("it {why}, was killed, and cannot be watched: {errno}")),
        }
    }
}

/// What came through a door.
enum Heard {
    Nothing,
    /// It was closed: whoever was there serves no more, and ends by itself.
    Closed,
    Said(Box<ToSupervisor>, Vec<OwnedFd>),
}

impl Door {
    /// An answer, or a channel that stays open without one, proves that the process which its ID meant when it was taken
    /// hold of is the worker.
    fn listen(&self) -> Result<Heard, CannotAdopt> {
        let _room = ForMessages::begin();
        match self.channel.try_recv() {
            Ok(None) => Ok(Heard::Nothing),
            Ok(Some((message, descriptors))) => Ok(Heard::Said(Box::new(message), descriptors)),
            Err(ChannelError::Closed | ChannelError::Io { .. }) => Ok(Heard::Closed),
            Err(error) => Err(self.fail(error.to_string())),
        }
    }
}

impl Found {
    /// Looks behind these doors for the worker that has outlived its supervisor, and takes hold of it. A path that nobody
    /// listens at is unlinked. A worker that serves nothing or does not answer is ended, so that its ports are free
    /// when this returns. Blocks: [`HELLO_LIMIT`] if there is one door, as long as a handoff may take if there are more.
    pub(crate) fn behind(paths: &[PathBuf], limits: &Limits) -> Result<Option<Found>, CannotAdopt> {
        let mut doors = Vec::new();
        for path in paths {
            doors.extend(Door::knock(path)?);
        }
        let undecided = match doors.len() {
            0 | 1 => Duration::ZERO,
            _ => limits.handoff + limits.handoff_grace,
        };
        let mut found = None;
        let mut deadline = Instant::now() + HELLO_LIMIT + undecided;
        while !doors.is_empty() && wait(&doors, deadline)? {
            let mut silent = Vec::new();
            for door in doors {
                match door.listen()? {
                    Heard::Nothing => silent.push(door),
                    Heard::Closed => {}
                    Heard::Said(message, descriptors) => {
                        let Some(said) = Found::greeted(door, *message, descriptors)? else { continue };
                        if said.serving.accepting {
                            deadline = deadline.min(Instant::now() + LET_GO_LIMIT);
                        }
                        found = better(found, said)?;
                    }
                }
            }
            doors = silent;
        }
        for door in doors {
            door.end(if found.is_some() { "does not serve, and stays" } else { "does not answer" })?;
        }
        Ok(found)
    }

    /// A worker has said hello. `None` if it had nothing to serve, and was ended.
    fn greeted(
        door: Door,
        hello: ToSupervisor,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Option<Found>, CannotAdopt> {
        let ToSupervisor::Hello { protocol, oldest, serving, version, actions, threads, .. } = hello else {
            return Err(door.fail("it says something else than hello".to_owned()));
        };
        let Some(spoken) = common_version(oldest, protocol) else {
            return Err(door.fail(format!(
                "it speaks version {protocol} of the protocol, this program version {PROTOCOL_VERSION}"
            )));
        };
        let Some(serving) = serving else {
            return door.end("had not come to serve anything").map(|()| None);
        };
        let mut descriptors = descriptors.into_iter();
        let Some(bundle_file) = descriptors.next() else {
            return Err(door.fail("it does not pass the bundle of what it serves".to_owned()));
        };
        let listeners: Vec<OwnedFd> = descriptors.by_ref().take(serving.listeners.len()).collect();
        let held: Vec<OwnedFd> = descriptors.by_ref().take(serving.held.len()).collect();
        if listeners.len() != serving.listeners.len() || held.len() != serving.held.len() {
            return Err(door.fail("it does not pass all of its listeners".to_owned()));
        }
        let carried = if serving.carried { descriptors.next() } else { None };
        let executable = if serving.executable { descriptors.next() } else { None };
        let programs = descriptors.collect();
        let bundle = Bundle::from_memfd(&bundle_file).map_err(|error| door.fail(error.to_string()))?;
        let serving = *serving;
        Ok(Some(Found {
            serving,
            bundle,
            bundle_file,
            listeners,
            held,
            carried,
            executable,
            programs,
            door,
            version,
            actions,
            threads,
            protocol: spoken,
        }))
    }

    /// The program that it runs, if that can be found out.
    fn program(&mut self) -> Option<Image> {
        let pid = self.door.process.pid();
        let link = PathBuf::from(format!("/proc/{pid}/exe"));
        let executable = match self.executable.take() {
            // Its path is for messages only.
            Some(file) => {
                let path =
                    std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
                Executable::from_descriptor(file, path.unwrap_or(link))
            }
            // An older one does not pass it, and keeps nothing from us either.
            None => {
                let path = std::fs::read_link(&link).ok()?;
                let opened = Executable::open(&link).ok()?;
                Executable::from_descriptor(opened.as_fd().try_clone_to_owned().ok()?, path)
            }
        };
        Some(Image::new(executable, Some(self.version.clone())))
    }

    /// Makes it this supervisor's worker; `number` is its number from now on. `otherwise` is what workers that replace it are
    /// started from if its own program cannot be had.
    pub(crate) fn adopt(
        mut self,
        number: u64,
        otherwise: &Arc<Image>,
        report: Reporter,
    ) -> io::Result<Adopted> {
        let program = match self.program() {
            Some(program) => Arc::new(program),
            None => {
                let path = otherwise.path().display();
                tracing::warn!(
                    "the adopted worker's program cannot be had: one that replaces it will run {path}"
                );
                Arc::clone(otherwise)
            }
        };
        let Found { serving, bundle, bundle_file, listeners, held, carried, programs, door, .. } = self;
        let Door { process, channel, path } = door;
        let running = Running { number, process, channel, program, succession: path, tee: None };
        let mut worker = Worker::new(running, report)?;
        worker.version = self.version;
        worker.actions = self.actions;
        worker.threads = self.threads;
        worker.protocol = self.protocol;
        Ok(Adopted { serving, bundle, bundle_file, listeners, held, carried, programs, worker })
    }
}

/// Of two workers that both say that they serve, the one that accepts connections. Not known to happen; the other is ended,
/// because it would open its door again.
fn better(found: Option<Found>, said: Found) -> Result<Option<Found>, CannotAdopt> {
    let Some(found) = found else { return Ok(Some(said)) };
    let (keep, end) =
        if said.serving.accepting && !found.serving.accepting { (said, found) } else { (found, said) };
    end.door.end("serves beside another one")?;
    Ok(Some(keep))
}

/// Waits until there is something to hear. `false` when the deadline has passed.
fn wait(doors: &[Door], deadline: Instant) -> Result<bool, CannotAdopt> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let mut polled: Vec<PollFd<'_>> =
            doors.iter().map(|door| PollFd::new(&door.channel, PollFlags::IN)).collect();
        match poll(&mut polled, Timespec::try_from(left).ok().as_ref()) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => {
                return Err(CannotAdopt { pid: None, why: format!("it cannot be waited for: {errno}") });
            }
        }
    }
}

/// A worker that was adopted, and what it serves.
#[derive(Debug)]
pub(crate) struct Adopted {
    pub(crate) serving: Serving,
    pub(crate) bundle: Bundle,
    pub(crate) bundle_file: OwnedFd,
    pub(crate) listeners: Vec<OwnedFd>,
    /// Sockets that it held for going back.
    pub(crate) held: Vec<OwnedFd>,
    /// Its carried state.
    pub(crate) carried: Option<OwnedFd>,
    /// What it kept of the programs.
    pub(crate) programs: Vec<OwnedFd>,
    pub(crate) worker: Worker,
}
