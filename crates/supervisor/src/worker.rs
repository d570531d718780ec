//! One worker process: how it is started or adopted, talked to, and how its end is noticed.
//!
//! ```text
//!   channel ─┬─ reader: messages ────────────────────────┬─▶ the driver's queue
//!            └─ writer ◀─ outbox                         │
//!   pidfd ───── the process ended, after all it had said ┘
//! ```
//!
//! A worker is not tied to this process's life: no PR_SET_PDEATHSIG, no kill on drop. If this process dies, it goes on.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use handover_handoff::inherit::{CHANNEL_VARIABLE, SUCCESSION_VARIABLE};
use handover_handoff::peer::Peer;
use handover_handoff::process::{Child, Executable, Spawn};
use handover_handoff::{Bundle, ChannelError, reactor, succession};
use handover_lifecycle::WorkerKey;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::protocol::{
    OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION, Serving, SupervisorChannel, ToSupervisor, ToWorker,
    common_version,
};

/// Messages that may wait for a worker that does not read; one more, and it counts as lost.
const OUTBOX: usize = 256;
/// How long a worker that has ended is waited for to have its last words read.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a worker whose channel ended is given to end itself, because that says more: by which signal it did.
const LAST_BREATH: Duration = Duration::from_millis(200);
/// How long a worker that is to be adopted may take to say hello.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// How long the system may take to clear away a worker that was killed.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// What comes from a worker.
#[derive(Debug)]
pub(crate) enum FromWorker {
    /// A message and its descriptors.
    Said(ToSupervisor, Vec<OwnedFd>),
    /// Its channel ended or broke, for this reason.
    Lost(String),
    /// Its process ended. Nothing follows.
    Ended,
}

/// A message for a worker, with descriptors that it shares.
#[derive(Debug)]
pub(crate) struct Letter {
    message: ToWorker,
    descriptors: Vec<Arc<OwnedFd>>,
}

/// A worker process.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Counted from 1 in the life of this supervisor.
    pub(crate) number: u64,
    /// Its process.
    pub(crate) process: Arc<Child>,
    /// Since when it is this supervisor's, RFC 3339.
    pub(crate) started_at: String,
    /// Its program's version; empty until it said hello.
    pub(crate) version: String,
    /// Its actions; none until it said hello.
    pub(crate) actions: Vec<String>,
    /// Where it waits for the next supervisor.
    pub(crate) succession: PathBuf,
    /// Whether the machine wants it to end, so that its end is no news.
    pub(crate) is_ending: bool,
    outbox: mpsc::Sender<Letter>,
    tasks: [AbortHandle; 2],
}

impl Worker {
    /// Puts a message into the outbox. `false` if the worker cannot be reached: it does not read, or is gone.
    pub(crate) fn send(&self, message: ToWorker, descriptors: Vec<Arc<OwnedFd>>) -> bool {
        self.outbox.try_send(Letter { message, descriptors }).is_ok()
    }

    fn new(
        number: u64,
        process: Child,
        channel: SupervisorChannel,
        succession: PathBuf,
        report: Reporter,
    ) -> io::Result<Worker> {
        let process = Arc::new(process);
        let channel = Arc::new(reactor::register_channel(channel)?);
        let ended = reactor::register_child(Arc::clone(&process))?;
        let (outbox, letters) = mpsc::channel(OUTBOX);
        let writer = tokio::spawn(write(Arc::clone(&channel), letters, report.clone())).abort_handle();
        let reader = tokio::spawn(attend(ended, channel, report)).abort_handle();
        Ok(Worker {
            number,
            process,
            started_at: crate::journal::now(),
            version: String::new(),
            actions: Vec::new(),
            succession,
            is_ending: false,
            outbox,
            tasks: [reader, writer],
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The way of a worker's tasks to the driver.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    worker: WorkerKey,
    queue: mpsc::Sender<(WorkerKey, FromWorker)>,
}

impl Reporter {
    pub(crate) fn new(worker: WorkerKey, queue: mpsc::Sender<(WorkerKey, FromWorker)>) -> Self {
        Reporter { worker, queue }
    }

    /// Waits while the driver is behind: a worker that talks too much is slowed down, not buffered.
    async fn tell(&self, what: FromWorker) {
        // Fails only when the driver is gone, and then nobody wants to know.
        let _ = self.queue.send((self.worker, what)).await;
    }
}

/// What a new worker process needs.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    pub(crate) executable: &'a Executable,
    pub(crate) arguments: &'a [OsString],
    pub(crate) environment: &'a [(OsString, OsString)],
    pub(crate) number: u64,
    pub(crate) succession: PathBuf,
    /// What the worker that it replaces has handed over.
    pub(crate) carried: Option<Arc<OwnedFd>>,
}

impl Start<'_> {
    /// Starts the process and welcomes it.
    pub(crate) fn start(self, report: Reporter) -> io::Result<Worker> {
        let (ours, theirs) = SupervisorChannel::pair().map_err(io::Error::other)?;
        let key = report.worker;
        let mut environment = self.environment.to_vec();
        let number = std::os::fd::AsRawFd::as_raw_fd(&theirs).to_string();
        environment.push((CHANNEL_VARIABLE.into(), number.into()));
        environment.push((SUCCESSION_VARIABLE.into(), self.succession.clone().into_os_string()));
        let spawn = Spawn {
            executable: self.executable,
            arguments: self.arguments,
            environment: &environment,
            descriptors: &[theirs.as_fd()],
            stdout: None,
            stderr: None,
        };
        let process = spawn.start()?;
        drop(theirs);
        let worker = Worker::new(self.number, process, ours, self.succession, report)?;
        let welcome = ToWorker::Welcome {
            protocol: PROTOCOL_VERSION,
            oldest: OLDEST_PROTOCOL_VERSION,
            worker: key.0,
            carried: self.carried.is_some(),
            candidate: false,
        };
        worker.send(welcome, self.carried.into_iter().collect());
        Ok(worker)
    }
}

/// A worker of an earlier supervisor, found alive.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) serving: Serving,
    bundle: Bundle,
    bundle_file: OwnedFd,
    listeners: Vec<OwnedFd>,
    held: Vec<OwnedFd>,
    carried: Option<OwnedFd>,
    process: Child,
    channel: SupervisorChannel,
    version: String,
    actions: Vec<String>,
    path: PathBuf,
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

impl Found {
    /// Looks at `path` for a worker that has outlived its supervisor, and takes hold of it. A path that nobody
    /// listens at is unlinked. A worker that serves nothing or does not answer is ended, so that its ports are free when
    /// this returns. Blocks for at most [`HELLO_LIMIT`] twice and [`KILL_LIMIT`].
    pub(crate) fn at(path: &Path) -> Result<Option<Found>, CannotAdopt> {
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
        let process = Child::of(pid).map_err(|error| fail(error.to_string()))?;
        let channel =
            SupervisorChannel::from_socket(socket).map_err(|error: ChannelError| fail(error.to_string()))?;
        let (hello, descriptors) = match greet(&channel) {
            Ok(said) => said,
            Err(ChannelError::TimedOut { .. }) => {
                return end(&process, path, "does not answer").map_err(fail);
            }
            Err(error) => return Err(fail(error.to_string())),
        };
        let (serving, version, actions) = match hello {
            ToSupervisor::Hello { protocol, oldest, .. } if common_version(oldest, protocol).is_none() => {
                return Err(fail(format!(
                    "it speaks version {protocol} of the protocol, this program version {PROTOCOL_VERSION}"
                )));
            }
            ToSupervisor::Hello { serving: Some(serving), version, actions, .. } => {
                (*serving, version, actions)
            }
            ToSupervisor::Hello { serving: None, .. } => {
                return end(&process, path, "had not come to serve anything").map_err(fail);
            }
            _ => return Err(fail("it says something else than hello".to_owned())),
        };
        let mut descriptors = descriptors.into_iter();
        let Some(bundle_file) = descriptors.next() else {
            return Err(fail("it does not pass the bundle of what it serves".to_owned()));
        };
        let listeners: Vec<OwnedFd> = descriptors.by_ref().take(serving.listeners.len()).collect();
        let held: Vec<OwnedFd> = descriptors.by_ref().take(serving.held.len()).collect();
        if listeners.len() != serving.listeners.len() || held.len() != serving.held.len() {
            return Err(fail("it does not pass all of its listeners".to_owned()));
        }
        let carried = descriptors.next().filter(|_| serving.carried);
        let bundle = Bundle::from_memfd(&bundle_file).map_err(|error| fail(error.to_string()))?;
        let path = path.to_owned();
        Ok(Some(Found {
            serving,
            bundle,
            bundle_file,
            listeners,
            held,
            carried,
            process,
            channel,
            version,
            actions,
            path,
        }))
    }

    /// Makes it this supervisor's worker; `number` is its number from now on.
    pub(crate) fn adopt(self, number: u64, report: Reporter) -> io::Result<Adopted> {
        let mut worker = Worker::new(number, self.process, self.channel, self.path, report)?;
        worker.version = self.version;
        worker.actions = self.actions;
        let Found { serving, bundle, bundle_file, listeners, held, carried, .. } = self;
        Ok(Adopted { serving, bundle, bundle_file, listeners, held, carried, worker })
    }
}

/// Asks a worker who it is. An answer, or a channel that stays open without one, proves that the process which its ID
/// meant when it was taken hold of is the worker.
fn greet(channel: &SupervisorChannel) -> Result<(ToSupervisor, Vec<OwnedFd>), ChannelError> {
    let welcome = ToWorker::Welcome {
        protocol: PROTOCOL_VERSION,
        oldest: OLDEST_PROTOCOL_VERSION,
        worker: 0,
        carried: false,
        candidate: false,
    };
    channel.send(&welcome, &[], HELLO_LIMIT)?;
    channel.recv(Some(HELLO_LIMIT))
}

/// Ends an orphan that nobody can use, and waits until it is gone: what it listens on may be needed at once.
fn end(process: &Child, path: &Path, why: &str) -> Result<Option<Found>, String> {
    tracing::warn!(pid = process.pid(), "a worker of an earlier supervisor {why}: it is killed");
    process.kill().map_err(|error| format!("it {why} and cannot be killed: {error}"))?;
    let limit = Timespec { tv_sec: i64::try_from(KILL_LIMIT.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)) {
        Ok(0) => return Err(format!("it {why}, was killed, and is still there after {KILL_LIMIT:?}")),
        Ok(_) => {}
        Err(errno) => return Err(format!("it {why}, was killed, and cannot be watched: {errno}")),
    }
    // It is a zombie only if it was this process's child, say in a container; ECHILD otherwise.
    let _ = process.try_wait();
    let _ = std::fs::remove_file(path);
    Ok(None)
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
    pub(crate) worker: Worker,
}

/// Reads until the channel or the process ends, and reports both ends, the process's last.
async fn attend(process: AsyncFd<Arc<Child>>, channel: Arc<AsyncFd<SupervisorChannel>>, report: Reporter) {
    let mut reading = std::pin::pin!(read(&channel, &report));
    tokio::select! {
        why = &mut reading => {
            if tokio::time::timeout(LAST_BREATH, process.readable()).await.is_err() {
                report.tell(FromWorker::Lost(why)).await;
            }
        }
        _ = process.readable() => {
            // Normally its end of the channel is closed by now, and reading comes to the end of it.
            let _ = tokio::time::timeout(LAST_WORDS, &mut reading).await;
        }
    }
    if let Err(error) = process.readable().await {
        tracing::error!("cannot watch the worker with pid {}: {error}", process.get_ref().pid());
    }
    report.tell(FromWorker::Ended).await;
}

/// Passes messages on until there are no more, and says why.
async fn read(channel: &AsyncFd<SupervisorChannel>, report: &Reporter) -> String {
    loop {
        let mut ready = match channel.readable().await {
            Ok(ready) => ready,
            Err(error) => return error.to_string(),
        };
        match channel.get_ref().try_recv() {
            Ok(Some((message, descriptors))) => report.tell(FromWorker::Said(message, descriptors)).await,
            Ok(None) => ready.clear_ready(),
            Err(error) => return error.to_string(),
        }
    }
}

async fn write(
    channel: Arc<AsyncFd<SupervisorChannel>>,
    mut letters: mpsc::Receiver<Letter>,
    report: Reporter,
) {
    while let Some(letter) = letters.recv().await {
        if let Err(error) = write_one(&channel, &letter).await {
            return report.tell(FromWorker::Lost(error.to_string())).await;
        }
    }
}

async fn write_one(channel: &AsyncFd<SupervisorChannel>, letter: &Letter) -> Result<(), ChannelError> {
    let descriptors: Vec<_> = letter.descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
    let mut outgoing = channel.get_ref().encode(&letter.message, &descriptors)?;
    while !channel.get_ref().try_send(&mut outgoing)? {
        match channel.writable().await {
            Ok(mut ready) => {
                if channel.get_ref().try_send(&mut outgoing)? {
                    return Ok(());
                }
                ready.clear_ready();
            }
            Err(source) => return Err(ChannelError::Io { doing: "wait for the channel", source }),
        }
    }
    Ok(())
}
