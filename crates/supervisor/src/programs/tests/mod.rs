//! Programs with real processes, and a worker that says yes to everything.

mod accept;
mod changes;
mod lives;
mod sleeping;
mod traffic;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use handover_api::{Actor, ProgramStatus};
use handover_lifecycle::OperationKey;
use tempfile::TempDir;

use super::*;
use crate::protocol::{
    Accept, Pass, Private, ProgramSpec, Ready, ResourceLimits, Restart, RestartPolicy, Slot, Stop, Swap,
    ToWorker,
};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// Programs on a stage of their own.
pub(super) struct Stage {
    pub(super) programs: Programs,
    pub(super) directory: TempDir,
    /// What was said and nobody has waited for yet.
    heard: Vec<Out>,
    operations: u64,
    /// What the worker says is held.
    pub(super) held: u64,
    /// What it says of requests that it has passed.
    pub(super) begun: Option<u64>,
}

impl Stage {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let programs = Programs::new(Self::setup(directory.path()));
        Stage { programs, directory, heard: Vec::new(), operations: 0, held: 0, begun: None }
    }

    pub(super) fn setup(directory: &Path) -> Setup {
        Setup { name: "stage".to_owned(), runtime: directory.join("run"), state: directory.join("state") }
    }

    pub(super) fn apply(&mut self, specs: &[ProgramSpec]) {
        self.programs.apply(specs, &Names::default(), Sockets::new(), None);
    }

    /// The next thing said that fits. The worker answers meanwhile.
    pub(super) async fn until<T>(&mut self, mut fits: impl FnMut(&Out) -> Option<T>) -> T {
        loop {
            self.heard.extend(self.programs.out());
            for out in std::mem::take(&mut self.heard) {
                if let Some(found) = fits(&out) {
                    return found;
                }
                self.answer(&out);
            }
            self.heard.extend(self.programs.out());
            if self.heard.is_empty() {
                let happened = tokio::time::timeout(LONG, self.programs.next()).await.unwrap();
                self.programs.take(happened);
            }
        }
    }

    fn answer(&mut self, out: &Out) {
        match out {
            Out::ToWorker(ToWorker::Traffic { call, .. }) => {
                self.programs.worker_said(Said::TrafficSet { call: *call });
            }
            Out::ToWorker(ToWorker::AwaitQuiet { call, .. }) => {
                self.programs.worker_said(Said::Quiet {
                    call: *call,
                    left: 0,
                    held: self.held,
                    begun: self.begun,
                });
            }
            _ => {}
        }
    }

    /// What comes of an operation.
    pub(super) async fn ask(&mut self, target: &str, what: What) -> Ended {
        let operation = self.begin(target, what);
        self.ended(operation).await
    }

    pub(super) fn begin(&mut self, target: &str, what: What) -> OperationKey {
        self.operations += 1;
        let operation = OperationKey(self.operations);
        let asker =
            Asker { id: format!("op-{}", self.operations), actor: Actor::supervisor(), comment: None };
        self.programs.ask(operation, &Asked { target: Some(target.to_owned()), what }, asker);
        operation
    }

    pub(super) async fn ended(&mut self, operation: OperationKey) -> Ended {
        self.until(|out| match out {
            Out::Ended(ended) if ended.operation == operation => Some(Ended::clone(ended)),
            _ => None,
        })
        .await
    }

    /// Waits until the program looks like this.
    pub(super) async fn looks(&mut self, name: &str, fits: impl Fn(&ProgramStatus) -> bool) -> ProgramStatus {
        let begun = tokio::time::Instant::now();
        loop {
            let status = self.programs.status().into_iter().find(|status| status.name == name);
            if let Some(status) = status.clone().filter(|status| fits(status)) {
                return status;
            }
            assert!(begun.elapsed() < LONG, "{status:?}");
            let out = self.programs.out();
            if out.is_empty() {
                let happened = tokio::time::timeout(LONG, self.programs.next()).await;
                self.programs.take(happened.unwrap_or_else(|_| panic!("{status:?}")));
            }
            for out in out {
                self.answer(&out);
                self.heard.push(out);
            }
            self.heard.retain(|out| !matches!(out, Out::ToWorker(_)));
        }
    }

    pub(super) async fn runs(&mut self, name: &str) -> ProgramStatus {
        self.looks(name, |status| status.state == handover_api::ProgramState::Running).await
    }

    /// Waits until all programs have ended by themselves, and none is to be started again.
    pub(super) async fn all_ended(&mut self) -> u8 {
        self.until(|out| match out {
            Out::AllEnded { code } => Some(*code),
            _ => None,
        })
        .await
    }

    /// Everything ends.
    pub(super) async fn stop(mut self) {
        self.programs.stop(LONG);
        self.until(|out| matches!(out, Out::Stopped { .. }).then_some(())).await;
    }
}

/// The process IDs of its copies.
pub(super) fn pids(status: &ProgramStatus) -> Vec<u32> {
    status.copies.iter().filter_map(|copy| copy.pid).collect()
}

/// Whether a process lives.
pub(super) fn lives(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// A program that runs a shell's commands, and is ready when it has lived for a moment.
pub(super) fn shell(name: &str, script: &str) -> ProgramSpec {
    ProgramSpec {
        name: name.to_owned(),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        directory: None,
        environment: BTreeMap::new(),
        clear_environment: false,
        user: None,
        limits: ResourceLimits::default(),
        sockets: Vec::new(),
        pass: Pass::default(),
        private: None,
        copies: 1,
        swap: Swap::Overlap,
        slots: Vec::new(),
        hook: None,
        ready: Ready::After(Duration::from_millis(200)),
        ready_limit: LONG,
        settle: Duration::from_millis(10),
        reload: None,
        reload_check: None,
        stop: Stop { signal: 15, limit: LONG },
        restart: Restart {
            policy: RestartPolicy::Always,
            first: Duration::from_millis(10),
            longest: Duration::from_millis(100),
            reset: LONG,
        },
        after: Vec::new(),
        accept: Accept::Program,
        on_demand: false,
        idle: None,
        warm: Duration::ZERO,
        batch: 1,
        max_unhealthy: 0,
        max_held: 10,
        pause_limit: LONG,
    }
}

/// The same with an address for each copy.
pub(super) fn private(name: &str, script: &str) -> ProgramSpec {
    ProgramSpec { private: Some(Private::Socket), ..shell(name, script) }
}

/// A slot that is a directory below `base`, made here.
pub(super) fn slot(base: &Path, name: &str) -> Slot {
    let directory = base.join(name);
    std::fs::create_dir_all(&directory).unwrap();
    Slot { name: name.to_owned(), directory: Some(directory), ..Slot::default() }
}
