//! One worker process: how it is started or adopted, talked to, and how its end is noticed.
//!
//! ```text
//!   channel ─┬─ reader: messages ────────────────────────┬─▶ the driver's queue
//!            └─ writer ◀─ outbox                         │
//!   pidfd ───── the process ended, after all it had said ┘
//!   stderr ──── of a candidate: its last lines (`tee.rs`)
//! ```
//!
//! A worker is not tied to this process's life: no PR_SET_PDEATHSIG, no kill on drop. If this process dies, it goes on.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use handover_handoff::inherit::{CHANNEL_VARIABLE, DESCRIPTORS_VARIABLE, SUCCESSION_VARIABLE};
use handover_handoff::own::ForMessages;
use handover_handoff::process::{Child, Spawn};
use handover_handoff::{ChannelError, reactor};
use handover_lifecycle::WorkerKey;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

use crate::image::Image;
use crate::protocol::{OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION, SupervisorChannel, ToSupervisor, ToWorker};
use crate::tee::{self, LastLines};

/// Messages that may wait for a worker that does not read; one more, and it counts as lost.
const OUTBOX: usize = 256;
/// How long a worker that has ended is waited for to have its last words read.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a worker whose channel ended is given to end itself, because that says more: by which signal it did.
const LAST_BREATH: Duration = Duration::from_millis(200);
/// How long a message waits for a descriptor until its worker is given up, and how often it looks for one.
const SHORTAGE_LIMIT: Duration = Duration::from_secs(5);
const SHORTAGE_PAUSE: Duration = Duration::from_millis(5);

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

impl Letter {
    /// Whether it brings what the worker keeps for the next supervisor.
    fn is_to_be_kept(&self) -> bool {
        matches!(self.message, ToWorker::Keep { .. })
    }
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
    /// What it runs.
    pub(crate) program: Arc<Image>,
    /// Its program's version; empty until it said hello.
    pub(crate) version: String,
    /// Its actions; none until it said hello.
    pub(crate) actions: Vec<String>,
    /// Its data threads; 0 until it said hello.
    pub(crate) threads: u32,
    /// The version of the protocol that is spoken with it; 0 until it said hello.
    pub(crate) protocol: u16,
    /// The last lines that it has written to standard error, if it was started beside another one.
    pub(crate) last_lines: Option<LastLines>,
    /// Where it waits for the next supervisor.
    pub(crate) succession: PathBuf,
    /// Whether the machine wants it to end, so that its end is no news.
    pub(crate) is_ending: bool,
    channel: Arc<AsyncFd<SupervisorChannel>>,
    flow: Arc<Flow>,
    outbox: mpsc::Sender<Letter>,
    tasks: [AbortHandle; 2],
}

/// What is on its way between the worker and the driver.
#[derive(Debug, Default)]
struct Flow {
    /// Letters in the outbox, and the one that is being written.
    unsent: AtomicUsize,
    /// Those of them that bring what the worker keeps: each holds descriptors of all that runs.
    unkept: AtomicUsize,
    /// The message that was read and is not in the driver's queue yet.
    untold: AtomicUsize,
    /// Whether nothing more is read.
    paused: watch::Sender<bool>,
}

impl Worker {
    /// Puts a message into the outbox. `false` if the worker cannot be reached: it does not read, or is gone.
    pub(crate) fn send(&self, message: ToWorker, descriptors: Vec<Arc<OwnedFd>>) -> bool {
        let letter = Letter { message, descriptors };
        let keeps = usize::from(letter.is_to_be_kept());
        let sent = self.outbox.try_send(letter).is_ok();
        self.flow.unsent.fetch_add(usize::from(sent), Ordering::Relaxed);
        self.flow.unkept.fetch_add(if sent { keeps } else { 0 }, Ordering::Relaxed);
        sent
    }

    /// Whether it was given something to keep that is still on its way.
    pub(crate) fn is_given_something(&self) -> bool {
        self.flow.unkept.load(Ordering::Relaxed) > 0
    }

    /// Reads nothing more of what it says, or goes on: what is not read can be read by another program.
    pub(crate) fn set_paused(&self, paused: bool) {
        self.flow.paused.send_replace(paused);
    }

    /// Whether nothing is on its way in either direction, so that another program can go on with the channel.
    pub(crate) fn is_still(&self) -> bool {
        let none = |count: &AtomicUsize| count.load(Ordering::Relaxed) == 0;
        none(&self.flow.unsent) && none(&self.flow.untold) && self.channel.get_ref().is_between_messages()
    }

    /// The channel to it.
    pub(crate) fn channel(&self) -> &SupervisorChannel {
        self.channel.get_ref()
    }

    /// Takes hold of a process that runs, and listens to it from now on.
    pub(crate) fn new(running: Running, report: Reporter) -> io::Result<Worker> {
        let Running { number, process, channel, program, succession, tee } = running;
        let process = Arc::new(process);
        let channel = Arc::new(reactor::register_channel(channel)?);
        let ended = reactor::register_child(Arc::clone(&process))?;
        let (outbox, letters) = mpsc::channel(OUTBOX);
        let flow = Arc::new(Flow::default());
        let writer = write(Arc::clone(&channel), letters, Arc::clone(&flow), report.clone());
        let writer = tokio::spawn(writer).abort_handle();
        let (last_lines, tee) = tee.unzip();
        let reader = attend(ended, Arc::clone(&channel), Arc::clone(&flow), tee, report);
        let reader = tokio::spawn(reader).abort_handle();
        Ok(Worker {
            number,
            process,
            started_at: crate::journal::now(),
            program,
            version: String::new(),
            actions: Vec::new(),
            threads: 0,
            protocol: 0,
            last_lines,
            succession,
            is_ending: false,
            channel,
            flow,
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

/// A worker's process, and the ways to it.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) number: u64,
    pub(crate) process: Child,
    pub(crate) channel: SupervisorChannel,
    pub(crate) program: Arc<Image>,
    pub(crate) succession: PathBuf,
    /// What it writes to standard error, if that comes here.
    pub(crate) tee: Option<(LastLines, JoinHandle<()>)>,
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
    pub(crate) program: Arc<Image>,
    pub(crate) arguments: &'a [OsString],
    pub(crate) environment: &'a [(OsString, OsString)],
    pub(crate) number: u64,
    pub(crate) succession: PathBuf,
    /// What the worker that it replaces has handed over.
    pub(crate) carried: Option<Arc<OwnedFd>>,
    /// If it is started beside the one that serves: for how many descriptors it should make room.
    pub(crate) beside: Option<u64>,
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
        let mut stderr = None;
        let mut tee = None;
        if let Some(descriptors) = self.beside {
            environment.push((DESCRIPTORS_VARIABLE.into(), descriptors.to_string().into()));
            let (writer, last_lines, task) = tee::tee()?;
            (stderr, tee) = (Some(writer), Some((last_lines, task)));
        }
        let spawn = Spawn {
            executable: self.program.executable(),
            arguments: self.arguments,
            environment: &environment,
            descriptors: &[theirs.as_fd()],
            stdout: None,
            stderr: stderr.as_ref().map(AsFd::as_fd),
            ends_with_thread: false,
        };
        let process = spawn.start()?;
        drop((theirs, stderr));
        let running = Running {
            number: self.number,
            process,
            channel: ours,
            program: self.program,
            succession: self.succession,
            tee,
        };
        let worker = Worker::new(running, report)?;
        let welcome = ToWorker::Welcome {
            protocol: PROTOCOL_VERSION,
            oldest: OLDEST_PROTOCOL_VERSION,
            worker: key.0,
            carried: self.carried.is_some(),
            candidate: self.beside.is_some(),
        };
        worker.send(welcome, self.carried.into_iter().collect());
        Ok(worker)
    }
}

/// Reads until the channel or the process ends, and reports both ends, the process's last.
async fn attend(
    process: AsyncFd<Arc<Child>>,
    channel: Arc<AsyncFd<SupervisorChannel>>,
    flow: Arc<Flow>,
    tee: Option<JoinHandle<()>>,
    report: Reporter,
) {
    let mut reading = std::pin::pin!(read(&channel, &flow, &report));
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
    if let Some(tee) = tee {
        let task = tee.abort_handle();
        // What it has written is in the pipe. A process that it has started may keep that open for ever.
        if tokio::time::timeout(LAST_BREATH, tee).await.is_err() {
            task.abort();
        }
    }
    report.tell(FromWorker::Ended).await;
}

/// Passes messages on until there are no more, and says why.
async fn read(channel: &AsyncFd<SupervisorChannel>, flow: &Flow, report: &Reporter) -> String {
    let mut paused = flow.paused.subscribe();
    loop {
        // Its sender lives as long as the flow does.
        let _ = paused.wait_for(|paused| !*paused).await;
        let ready = tokio::select! {
            biased;
            _ = paused.wait_for(|paused| *paused) => continue,
            ready = channel.readable() => ready,
        };
        let mut ready = match ready {
            Ok(ready) => ready,
            Err(error) => return error.to_string(),
        };
        let received = {
            // Programs may have used up all the others; without its descriptors a message is lost, and the worker with it.
            let _room = ForMessages::begin();
            channel.get_ref().try_recv()
        };
        match received {
            Ok(Some((message, descriptors))) => {
                flow.untold.fetch_add(1, Ordering::Relaxed);
                report.tell(FromWorker::Said(message, descriptors)).await;
                flow.untold.fetch_sub(1, Ordering::Relaxed);
            }
            Ok(None) => ready.clear_ready(),
            Err(error) => return error.to_string(),
        }
    }
}

async fn write(
    channel: Arc<AsyncFd<SupervisorChannel>>,
    mut letters: mpsc::Receiver<Letter>,
    flow: Arc<Flow>,
    report: Reporter,
) {
    while let Some(letter) = letters.recv().await {
        if let Err(error) = write_one(&channel, &letter).await {
            return report.tell(FromWorker::Lost(error.to_string())).await;
        }
        flow.unsent.fetch_sub(1, Ordering::Relaxed);
        flow.unkept.fetch_sub(usize::from(letter.is_to_be_kept()), Ordering::Relaxed);
    }
}

async fn write_one(channel: &AsyncFd<SupervisorChannel>, letter: &Letter) -> Result<(), ChannelError> {
    let descriptors: Vec<_> = letter.descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
    let give_up = Instant::now() + SHORTAGE_LIMIT;
    let mut outgoing = loop {
        // A long one goes by way of a memory file.
        let encoded = {
            let _room = ForMessages::begin();
            channel.get_ref().encode(&letter.message, &descriptors)
        };
        match encoded {
            // Copies that are being started were quicker.
            Err(error) if error.is_shortage() && Instant::now() < give_up => {
                tokio::time::sleep(SHORTAGE_PAUSE).await;
            }
            encoded => break encoded?,
        }
    };
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
