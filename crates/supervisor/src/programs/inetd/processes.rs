//! The processes of a program in the style of inetd: counted, listed, and cleared away when they end.
//!
//! ```text
//!   add ─▶ running ──its first process ends──▶ what is left is asked to end ──limit──▶ killed ─▶ forgotten
//! ```

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use handover_handoff::process::Exit;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::task::JoinSet;

use super::{Order, Running, SavedProcess, View};
use crate::programs::copy::Copy;
use crate::programs::happened::Of;

/// How long the system may take to clear away what was killed.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// The same complaint is logged once in this time.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// All of them. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Processes {
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
    complaints: BTreeMap<&'static str, (Instant, u64)>,
}

#[derive(Debug, Clone)]
struct Process {
    copy: Arc<Copy>,
    peer: Option<String>,
}

impl Processes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many run.
    pub(super) fn count(&self) -> usize {
        self.state().running.len()
    }

    /// How many this supervisor has started.
    pub(super) fn started(&self) -> u64 {
        self.state().view.started
    }

    /// The next end of one. From when it is enabled, none is missed.
    pub(super) fn one_ended(&self) -> Notified<'_> {
        self.shared.ended.notified()
    }

    /// Takes one in, and sees to its end. Says how it ended when nothing of it is left.
    pub(super) fn add(
        &self,
        copy: Copy,
        peer: Option<String>,
        order: &Order,
        is_new: bool,
    ) -> tokio::task::JoinHandle<Exit> {
        let copy = Arc::new(copy);
        let number = {
            let mut state = self.state();
            state.next += 1;
            state.view.started += u64::from(is_new);
            let number = state.next;
            state.running.insert(number, Process { copy: Arc::clone(&copy), peer });
            number
        };
        order.tell();
        let (all, program, teller) = (self.clone(), order.program.clone(), order.teller.clone());
        let (signal, limit) = (order.stop_signal, order.stop_limit);
        tokio::spawn(async move {
            let exit = copy.exited().await;
            clear_away(&copy, signal, limit, &program).await;
            all.state().running.remove(&number);
            if let Some(teller) = teller {
                teller.tell(Of::Serves);
            }
            if !matches!(exit, Exit::Code(0) | Exit::Unknown) {
                all.failed(&program, "ended", format!("a process of it {exit}"));
            }
            all.shared.ended.notify_waiters();
            exit
        })
    }

    /// Something has failed: counted, and logged once a minute.
    pub(super) fn failed(&self, program: &str, kind: &'static str, what: String) {
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
    pub(super) fn view(&self) -> View {
        let state = self.state();
        let running = state.running.values().map(|process| Running {
            pid: process.copy.pid(),
            peer: process.peer.clone(),
            started_at: process.copy.started_at().to_owned(),
        });
        View { running: running.collect(), ..state.view.clone() }
    }

    /// What is written down. A pidfd that cannot be duplicated is left out: then the process is found by its mark.
    pub(super) fn save(&self) -> Vec<(SavedProcess, Option<Arc<OwnedFd>>)> {
        let one = |process: &Process| {
            let pidfd = process.copy.descriptor().as_ref().and_then(duplicate);
            (SavedProcess { copy: process.copy.save(), peer: process.peer.clone() }, pidfd.map(Arc::new))
        };
        self.state().running.values().map(one).collect()
    }

    /// Takes in what an earlier supervisor has started.
    pub(super) fn restore(&self, saved: Vec<(SavedProcess, Option<OwnedFd>)>, order: &Order) {
        for (process, pidfd) in saved {
            match Copy::restore(process.copy, pidfd) {
                Ok(copy) => drop(self.add(copy, process.peer, order, false)),
                Err(error) => tracing::warn!("a process of {} cannot be watched: {error}", order.program),
            }
        }
    }

    /// Waits until all have ended; those that have not by then are killed. Says how many of them.
    pub(super) async fn end(self, limit: Duration) -> u64 {
        if tokio::time::timeout(limit, self.all_ended()).await.is_ok() {
            return 0;
        }
        let left: Vec<Arc<Copy>> =
            self.state().running.values().map(|process| Arc::clone(&process.copy)).collect();
        let count = left.len();
        let mut kills: JoinSet<()> = left
            .into_iter()
            .map(|copy| async move {
                let _ = copy.kill_all(KILL_LIMIT).await;
            })
            .collect();
        while kills.join_next().await.is_some() {}
        // Until each was seen to have ended.
        let _ = tokio::time::timeout(KILL_LIMIT, self.all_ended()).await;
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    async fn all_ended(&self) {
        loop {
            let ended = self.one_ended();
            tokio::pin!(ended);
            // Before it is looked, so that no end is missed.
            ended.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Sends a signal to the first process of each.
    pub(super) fn signal(&self, signal: i32) {
        for process in self.state().running.values() {
            // It may have ended meanwhile; what cannot be signalled is killed at its limit.
            let _ = process.copy.signal(signal);
        }
    }
}

fn duplicate(pidfd: &BorrowedFd<'_>) -> Option<OwnedFd> {
    pidfd.try_clone_to_owned().ok()
}

/// What the first process has left behind is asked to end, and killed.
async fn clear_away(copy: &Copy, signal: i32, limit: Duration, program: &str) {
    match copy.signal_rest(signal) {
        Ok(0) => {}
        Ok(count) => {
            tracing::info!(program, "a process of {program} left {count} processes behind: asked to end");
            let _ = tokio::time::timeout(limit, copy.gone()).await;
        }
        Err(error) => tracing::warn!(program, "what {program} left behind cannot be signalled: {error}"),
    }
    let killed = copy.kill_all(KILL_LIMIT).await;
    if killed.left > 0 {
        tracing::error!(program, "{} processes of {program} cannot be killed", killed.left);
    }
}
