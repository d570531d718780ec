//! The processes of a program in the style of inetd: counted, listed, and cleared away when they end.
//!
//! ```text
//!   add ─▶ running ──its first process ends──▶ what is left is asked to end ──limit──▶ killed ─▶ forgotten
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use handover_handoff::process::Exit;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::task::JoinSet;

use super::{Care, Running, SavedProcess, View};
use crate::programs::copy::Copy;

/// How long the system may take to clear away what was killed.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// How long what had its time may take to end once it was asked to.
const ASKED_LIMIT: Duration = Duration::from_secs(1);
/// The same complaint is logged once in this time.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);
/// SIGPIPE (signal(7)): its client has hung up.
const PIPE: i32 = 13;

/// All of them. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Processes {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Somebody has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    running: BTreeMap<u64, Process>,
    view: View,
    since: Since,
    complaints: BTreeMap<&'static str, (Instant, u64)>,
}

#[derive(Debug, Clone)]
struct Process {
    copy: Arc<Copy>,
    peer: Option<String>,
    slot: Option<String>,
    signal: i32,
}

/// What a process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One connection.
    Connection,
    /// The listening socket.
    Socket,
}

/// What became of those that were started since a moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Since {
    /// They have higher numbers.
    number: u64,
    /// How many there are.
    pub(crate) started: u64,
    /// How many have ended.
    pub(crate) ended: u64,
    /// How the first one ended that failed.
    pub(crate) failed: Option<String>,
    /// Why one could not be started.
    pub(crate) not_started: Option<String>,
}

/// How processes have ended that were waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    /// Those that did not end by themselves.
    pub(crate) asked: u64,
    /// Those of them that had a connection, which was cut.
    pub(crate) connections: u64,
    /// Those of them that had to be killed.
    pub(crate) killed: u64,
}

impl Process {
    fn kind(&self) -> Kind {
        if self.peer.is_some() { Kind::Connection } else { Kind::Socket }
    }
}

impl Processes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether none runs.
    pub(crate) fn is_empty(&self) -> bool {
        self.state().running.is_empty()
    }

    /// How many of this kind run.
    pub(super) fn count_of(&self, kind: Kind) -> usize {
        self.state().running.values().filter(|process| process.kind() == kind).count()
    }

    /// How many this supervisor has started.
    pub(super) fn started(&self) -> u64 {
        self.state().view.started
    }

    /// The next end of one. From when it is enabled, none is missed.
    pub(super) fn one_ended(&self) -> Notified<'_> {
        self.shared.ended.notified()
    }

    /// Takes in one that was started, and sees to its end. Says how it ended when nothing of it is left.
    pub(super) fn add(&self, copy: Copy, peer: Option<String>, care: &Care) -> tokio::task::JoinHandle<Exit> {
        self.state().view.started += 1;
        let slot = care.slot.clone();
        self.keep(Process { copy: Arc::new(copy), peer, slot, signal: care.signal }, care)
    }

    fn keep(&self, process: Process, care: &Care) -> tokio::task::JoinHandle<Exit> {
        let copy = Arc::clone(&process.copy);
        let number = {
            let mut state = self.state();
            state.next += 1;
            let number = state.next;
            state.running.insert(number, process);
            number
        };
        care.tell();
        let (all, care) = (self.clone(), care.clone());
        tokio::spawn(async move {
            let exit = copy.exited().await;
            clear_away(&copy, &care).await;
            care.forget(copy.mark());
            all.ended(number, exit, &care);
            care.tell();
            all.shared.ended.notify_waiters();
            exit
        })
    }

    fn ended(&self, number: u64, exit: Exit, care: &Care) {
        let is_bad = !matches!(exit, Exit::Code(0) | Exit::Unknown | Exit::Signal(PIPE));
        {
            let mut state = self.state();
            let ended = state.running.remove(&number);
            if number > state.since.number {
                state.since.ended += 1;
                if is_bad {
                    let pid = ended.map_or(0, |process| process.copy.pid());
                    state.since.failed.get_or_insert(format!("process {pid} {exit}"));
                }
            }
        }
        if is_bad {
            self.failed(&care.program, "ended", format!("a process of it {exit}"));
        }
    }

    /// From now on it is noted what becomes of those that are started.
    pub(crate) fn watch(&self) {
        let mut state = self.state();
        state.since = Since { number: state.next, ..Since::default() };
    }

    /// What became of those that were started since then.
    pub(crate) fn watched(&self) -> Since {
        let state = self.state();
        Since { started: state.next - state.since.number, ..state.since.clone() }
    }

    /// One could not be started: counted, told, and logged once a minute.
    pub(super) fn not_started(&self, care: &Care, why: String) {
        self.state().since.not_started.get_or_insert_with(|| why.clone());
        self.failed(&care.program, "start", why);
        care.tell();
    }

    /// Something has failed: counted, and logged once a minute.
    fn failed(&self, program: &str, kind: &'static str, what: String) {
        {
            let mut state = self.state();
            state.view.failed += 1;
            state.view.last_failure = Some(what.clone());
        }
        self.complain(program, kind, &what);
    }

    /// Connections have to wait: counted, and logged once a minute.
    pub(super) fn held_back(&self, program: &str, what: &str) {
        self.state().view.held_back += 1;
        self.complain(program, "held back", what);
    }

    /// Logs this, but each kind at most once a minute.
    pub(super) fn complain(&self, program: &str, kind: &'static str, what: &str) {
        let more = {
            let now = Instant::now();
            let mut state = self.state();
            match state.complaints.get_mut(kind) {
                Some((at, more)) if now.duration_since(*at) < COMPLAINT_INTERVAL => {
                    *more += 1;
                    return;
                }
                _ => state.complaints.insert(kind, (now, 0)).map_or(0, |(_, more)| more),
            }
        };
        match more {
            0 => tracing::warn!(program, "{program}: {what}"),
            more => {
                tracing::warn!(program, "{program}: {what} ({more} more of this kind since it was last said)")
            }
        }
    }

    /// The next start waits so long, or does not wait any more.
    pub(super) fn pauses(&self, pause: Option<Duration>) {
        self.state().view.pause = pause;
    }

    /// How it stands.
    pub(crate) fn view(&self) -> View {
        let state = self.state();
        let running = state.running.values().map(|process| Running {
            pid: process.copy.pid(),
            peer: process.peer.clone(),
            slot: process.slot.clone(),
            started_at: process.copy.started_at().to_owned(),
        });
        View { running: running.collect(), ..state.view.clone() }
    }

    /// What is written down for the next supervisor.
    pub(crate) fn save(&self) -> Vec<SavedProcess> {
        let one = |process: &Process| SavedProcess {
            copy: process.copy.save(),
            peer: process.peer.clone(),
            slot: process.slot.clone(),
        };
        self.state().running.values().map(one).collect()
    }

    /// Takes in what an earlier supervisor has started; says how many of them still run.
    pub(crate) fn restore(&self, saved: Vec<(SavedProcess, Option<OwnedFd>)>, care: &Care) -> usize {
        let mut count = 0;
        for (process, pidfd) in saved {
            let SavedProcess { copy, peer, slot } = process;
            match Copy::restore(copy, pidfd) {
                Ok(copy) => {
                    count += usize::from(copy.exit().is_none());
                    drop(self.keep(Process { copy: Arc::new(copy), peer, slot, signal: care.signal }, care));
                }
                Err(error) => tracing::warn!("a process of {} cannot be watched: {error}", care.program),
            }
        }
        count
    }

    /// Waits until all that run now have ended by themselves; those that have not by then are asked to, and soon killed.
    pub(crate) fn end(&self, limit: Duration) -> impl Future<Output = Ends> + Send + 'static + use<> {
        let those: BTreeSet<u64> = self.state().running.keys().copied().collect();
        self.clone().end_those(those, limit, ASKED_LIMIT)
    }

    /// Asks those that have the listening socket to end.
    pub(crate) fn ask_with_socket(&self) {
        self.signal(&self.with_socket());
    }

    /// The same; those that have not ended by then are killed. `None` if there are none.
    pub(crate) fn end_with_socket(
        &self,
        limit: Duration,
    ) -> Option<impl Future<Output = Ends> + Send + 'static + use<>> {
        let those = self.with_socket();
        if those.is_empty() {
            return None;
        }
        self.signal(&those);
        let ended = self.clone().end_those(those, limit, Duration::ZERO);
        Some(ended)
    }

    fn with_socket(&self) -> BTreeSet<u64> {
        let state = self.state();
        let those = state.running.iter().filter(|(_, process)| process.kind() == Kind::Socket);
        those.map(|(number, _)| *number).collect()
    }

    async fn end_those(self, those: BTreeSet<u64>, limit: Duration, asked_limit: Duration) -> Ends {
        if tokio::time::timeout(limit, self.all_ended(&those)).await.is_ok() {
            return Ends::default();
        }
        let late = self.of(&those);
        let connections = late.iter().filter(|process| process.kind() == Kind::Connection).count();
        if !limit.is_zero() && !asked_limit.is_zero() {
            self.signal(&those);
            let _ = tokio::time::timeout(asked_limit, self.all_ended(&those)).await;
        }
        let left = self.of(&those);
        let killed = left.len();
        let mut kills: JoinSet<()> = left
            .into_iter()
            .map(|process| async move {
                let _ = process.copy.kill_all(KILL_LIMIT).await;
            })
            .collect();
        while kills.join_next().await.is_some() {}
        // Until each was seen to have ended.
        let _ = tokio::time::timeout(KILL_LIMIT, self.all_ended(&those)).await;
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Ends { asked: count(late.len()), connections: count(connections), killed: count(killed) }
    }

    /// Those of them that run.
    fn of(&self, those: &BTreeSet<u64>) -> Vec<Process> {
        let state = self.state();
        those.iter().filter_map(|number| state.running.get(number).cloned()).collect()
    }

    async fn all_ended(&self, those: &BTreeSet<u64>) {
        loop {
            let ended = self.one_ended();
            tokio::pin!(ended);
            // Before it is looked, so that no end is missed.
            ended.as_mut().enable();
            if self.of(those).is_empty() {
                return;
            }
            ended.await;
        }
    }

    /// Asks their first processes to end.
    fn signal(&self, those: &BTreeSet<u64>) {
        for process in self.of(those) {
            // It may have ended meanwhile; what cannot be signalled is killed at its limit.
            let _ = process.copy.signal(process.signal);
        }
    }
}

/// What the first process has left behind is asked to end, and killed.
async fn clear_away(copy: &Copy, care: &Care) {
    let program = &care.program;
    match copy.signal_rest(care.signal) {
        Ok(0) => {}
        Ok(count) => {
            tracing::info!(program, "a process of {program} left {count} processes behind: asked to end");
            let _ = tokio::time::timeout(care.limit, copy.gone()).await;
        }
        Err(error) => tracing::warn!(program, "what {program} left behind cannot be signalled: {error}"),
    }
    let killed = copy.kill_all(KILL_LIMIT).await;
    if killed.left > 0 {
        tracing::error!(program, "{} processes of {program} cannot be killed", killed.left);
    }
}
