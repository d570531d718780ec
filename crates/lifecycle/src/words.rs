//! Small words that events and effects share: where bytes come from, which binary, what is examined, what is pending.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{CandidateKey, GenerationNumber, WorkerKey};

/// Where a candidate's bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The files as they are now.
    Disk,
    /// The bundle of this generation, as it was read then. It is at hand, or in the journal; if it can no longer be read,
    /// report `Rejected` in the worker's place.
    Generation(GenerationNumber),
    /// The bundle that came with the request, of a restore: the driver has it.
    Given,
}

/// What is to be found out about a new binary, or by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exam {
    /// Whether it may be run at all: the file, its owner and mode, its digest, its signature. It is kept open from then on,
    /// as [`Binary::Candidate`].
    Admission,
    /// Whether it runs, and says that it speaks our channel and can read what we save.
    Preflight,
    /// Whether every thread of this worker, which stands by, answers through its own accept path.
    Probe {
        /// Which.
        worker: WorkerKey,
    },
    /// Whether the binary that is to be executed ([`Binary::Candidate`] in a dry run, else [`Binary::Serving`]) can go on
    /// with what [`crate::Machine::save`] says now.
    Rehearsal,
    /// Whether the programs of this candidate that differ from those that run get ready. They are kept, and get no
    /// requests, until the candidate serves; [`crate::Effect::Release`] of it, or [`crate::Effect::CallOff`], ends them.
    Programs {
        /// Which.
        candidate: CandidateKey,
    },
}

/// What came out of an exam.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finding {
    /// It is well.
    Passed,
    /// A rule of the operator forbids it.
    Refused,
    /// It is broken, or did not answer.
    Failed,
}

/// Which of the kept executables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    /// That of the worker that serves.
    Serving,
    /// The one that is examined.
    Candidate,
    /// The one that served before, until it is forgotten.
    Previous,
}

/// A change that awaits confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The generation on probation.
    pub generation: GenerationNumber,
    /// The generation that serves again if nobody confirms.
    pub back_to: GenerationNumber,
    /// If it is an upgrade: the worker that took over. Then both generations are the same.
    pub upgrade: Option<WorkerKey>,
    /// The time left. Zero if it is over.
    pub left: Duration,
}

/// What became of a change that awaited confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PendingEnd {
    /// It stays.
    Confirmed,
    /// It was taken back by an operator.
    Cancelled,
    /// It was taken back because nobody confirmed it in time. A start does not serve it from the disk.
    NotConfirmed,
    /// It was taken back because its workers died one after the other.
    WorkersDied,
    /// It was to be taken back, and nothing of the binary before could be made to serve: the upgrade goes on serving, because
    /// somebody has to.
    NotPossible,
    /// A start found something else on the disk; or another worker serves than the one that took over in an upgrade.
    Replaced,
}

/// The steps that an operator sees in an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepName {
    /// The new binary's file is looked at.
    Admission,
    /// The new binary is run and asked what it can do.
    Preflight,
    /// The new worker answers through its own accept path.
    Probe,
    /// Everything that is served moves to another worker.
    HandOver,
    /// The supervisor becomes the new binary.
    Supervisor,
    /// Waiting for a worker to be started.
    StartWorker,
    /// The worker reads, checks and builds.
    Prepare,
    /// The supervisor binds listeners.
    Bind,
    /// The intent is written into the journal.
    Journal,
    /// The worker's threads switch.
    Commit,
    /// The worker died while switching: another one finds out which generation can be served.
    Settle,
    /// The new generation is watched.
    Guard,
    /// The generation before is brought back.
    GoBack,
    /// The confirmation, or the new deadline, is written into the journal.
    Confirm,
    /// The embedder's action runs.
    Action,
    /// Connections end.
    Drain,
    /// The worker begins to accept again.
    Resume,
    /// The worker's process ends.
    StopWorker,
    /// The hook prepares a program's slot.
    Hook,
    /// Copies of a program are started.
    StartProgram,
    /// They prove that they are ready.
    Ready,
    /// They are watched for a moment, whether they stay so.
    SettleProgram,
    /// Requests go to them from now on.
    Switch,
    /// What is in flight at the old ones ends.
    Quiet,
    /// The old ones are asked to stop.
    StopProgram,
    /// A program reads its configuration anew.
    ReloadProgram,
    /// New requests are held.
    Hold,
    /// Those that were held go on.
    Release,
    /// The outcome is written into the journal.
    Record,
}
