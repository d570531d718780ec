//! The data plane's threads: one event loop each, as many as there are processors.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use handover::moving::Outlet;
use handover::{Losses, WorkerHandle};
use handover_tls::Tickets;

use crate::access_log::{AccessLog, LogWriter};
use crate::conn::{Cx, Shown};
use crate::event_loop::{Command, EventLoop, Peers};
use crate::metrics::Metrics;
use crate::reactor::{Mailbox, Reactor};
use crate::traffic::Published;

/// A thread answers a command within microseconds; one that does not within this time is lost, and said to be so.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The list of connections is waited for so long: whoever wants it waits for 2 s.
const SHOW_LIMIT: Duration = Duration::from_millis(1_500);

/// What all threads share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) published: Arc<Published>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) facts: Arc<ArcSwap<String>>,
    pub(crate) log: LogWriter,
    /// Keys of session tickets, for all generations.
    pub(crate) tickets: Arc<Tickets>,
    /// Who is told when a thread dies.
    pub(crate) worker: Arc<OnceLock<WorkerHandle>>,
}

/// What has ticket keys change, and the state that outlives workers follow.
#[derive(Debug)]
pub(crate) struct Rotation {
    tickets: Arc<Tickets>,
    worker: Arc<OnceLock<WorkerHandle>>,
}

impl Rotation {
    /// That of these threads.
    pub(crate) fn new(shared: &Shared) -> Self {
        Self { tickets: Arc::clone(&shared.tickets), worker: Arc::clone(&shared.worker) }
    }

    /// Makes a new key if it is time.
    pub(crate) fn advance(&self) {
        if self.tickets.advance(SystemTime::now()) {
            self.carry();
        }
    }

    /// Hands the keys to who gives them to the next worker.
    pub(crate) fn carry(&self) {
        if let Some(worker) = self.worker.get() {
            worker.carry(self.tickets.export().to_vec());
        }
    }
}

/// The running threads. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Threads {
    peers: Arc<Peers>,
}

impl Threads {
    /// Starts `count` threads that serve nothing yet.
    pub(crate) fn start(count: usize, shared: &Shared) -> io::Result<Self> {
        let mailboxes = (0..count).map(|_| Ok(Arc::new(Mailbox::new()?))).collect::<io::Result<_>>()?;
        let open = (0..count).map(|_| AtomicU32::new(0)).collect();
        let threads = Self { peers: Arc::new(Peers { mailboxes, open }) };
        for thread in 0..count {
            let epoll = Reactor::create_epoll()?;
            let peers = Arc::clone(&threads.peers);
            let shared = shared.clone();
            std::thread::Builder::new()
                .name(format!("data-{thread}"))
                .spawn(move || serve(thread, epoll, peers, shared))?;
        }
        Ok(threads)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.peers.mailboxes.len()
    }

    /// Sends a command to one thread.
    pub(crate) fn send(&self, thread: usize, command: Command) {
        if let Some(mailbox) = self.peers.mailboxes.get(thread) {
            mailbox.send(command);
        }
    }

    /// Sends a command to every thread.
    pub(crate) fn tell(&self, mut command: impl FnMut() -> Command) {
        self.peers.mailboxes.iter().for_each(|mailbox| mailbox.send(command()));
    }

    /// All threads are woken whenever something can be sent again.
    pub(crate) fn wake_by(&self, outlet: &Outlet) {
        for mailbox in &self.peers.mailboxes {
            let mailbox = Arc::clone(mailbox);
            outlet.notify(Arc::new(move || mailbox.send(Command::Woken)));
        }
    }

    /// Sends a command to every thread and waits until all have obeyed.
    pub(crate) fn ask(&self, command: impl Fn(Sender<()>) -> Command) {
        let mut mailboxes = self.peers.mailboxes.iter();
        self.ask_each(|done| {
            mailboxes.next().into_iter().for_each(|mailbox| mailbox.send(command(done.clone())))
        });
    }

    /// Asks once for every thread, in whatever way, and waits until each has dropped what it was given.
    pub(crate) fn ask_each(&self, mut ask: impl FnMut(&Sender<()>)) {
        let (done, all_done) = channel();
        for _ in &self.peers.mailboxes {
            ask(&done);
        }
        drop(done);
        // Nothing is ever sent: the channel closes when the last thread is done.
        if all_done.recv_timeout(ANSWER_LIMIT) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("a data thread has not obeyed for {ANSWER_LIMIT:?}");
        }
    }

    /// Connections open on each thread, or on their way to it.
    pub(crate) fn open(&self) -> Vec<u32> {
        self.peers.open.iter().map(|open| open.load(Ordering::Relaxed)).collect()
    }

    /// What is open, at most `most` connections. A thread that does not answer in time is left out, and that is said.
    pub(crate) fn connections(&self, most: usize) -> Vec<Shown> {
        let (shown, all) = channel();
        let left = Arc::new(AtomicUsize::new(most));
        for mailbox in &self.peers.mailboxes {
            mailbox.send(Command::Show { left: Arc::clone(&left), shown: shown.clone() });
        }
        drop(shown);
        let until = Instant::now() + SHOW_LIMIT;
        let mut list = Vec::new();
        for answered in 0..self.peers.mailboxes.len() {
            match all.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(part) => list.extend(part),
                Err(_) => {
                    let missing = self.peers.mailboxes.len() - answered;
                    tracing::warn!(
                        "{missing} data threads did not say within {SHOW_LIMIT:?} what they have open"
                    );
                    break;
                }
            }
        }
        list
    }

    /// Closes all connections and says what that lost.
    pub(crate) fn cut(&self) -> Losses {
        let (losses, all) = channel();
        for mailbox in &self.peers.mailboxes {
            mailbox.send(Command::Cut { losses: losses.clone() });
        }
        drop(losses);
        collect(&all)
    }
}

fn collect(all: &Receiver<Losses>) -> Losses {
    let until = Instant::now() + ANSWER_LIMIT;
    let mut sum = Losses::default();
    while let Ok(losses) = all.recv_timeout(until.saturating_duration_since(Instant::now())) {
        sum.merge(&losses);
    }
    sum
}

impl Drop for Threads {
    fn drop(&mut self) {
        for mailbox in &self.peers.mailboxes {
            mailbox.send(Command::Stop);
        }
    }
}

/// Tells the worker when a thread ends that was not asked to.
struct Watch {
    worker: Arc<OnceLock<WorkerHandle>>,
    asked: bool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let (false, Some(worker)) = (self.asked, self.worker.get()) {
            worker.fail("a data thread has died");
        }
    }
}

fn serve(thread: usize, epoll: OwnedFd, peers: Arc<Peers>, shared: Shared) {
    let mut watch = Watch { worker: Arc::clone(&shared.worker), asked: false };
    // Every thread looks: it may be the only one to which anything happens.
    let rotation = Some(Rotation::new(&shared));
    let log = AccessLog::new(shared.log);
    let cx = Cx::new(thread, Reactor::new(epoll), &shared.published, shared.metrics, shared.facts, log);
    match EventLoop::new(cx, peers) {
        Ok(event_loop) => watch.asked = event_loop.with_rotation(rotation).run(),
        Err(errno) => tracing::error!("a data thread cannot start: {errno}"),
    }
}
