//! What comes back from the tasks of programs.

use handover_handoff::process::Exit;
use handover_lifecycle::OperationKey;
use handover_lifecycle::program::CopyKey;
use tokio::sync::oneshot;

use super::checks::{NotReady, Proof};
use super::commands::{Failed, Finished};
use super::copy::Killed;
use super::hosted::Born;
use super::inetd::Ends;
use super::reloading::{NotReloaded, Reloaded};
use super::traffic::Quiet;

/// Something that came of a task of [`super::Programs`]. Opaque: it goes back to [`super::Programs::take`].
#[derive(Debug)]
pub(crate) struct Happened(pub(super) Inner);

/// What it is.
#[derive(Debug)]
pub(super) enum Inner {
    /// A deadline of a machine, or the end of a pause, has come.
    Deadline,
    /// About one program.
    Of(String, Of),
    /// About one whose connections the supervisor accepts, or looks for. For a while there may be another one of the same name.
    OfServed(String, Of),
    /// What must outlive a crash was written, or why not.
    Written(Result<(), String>),
}

/// What happened to a program.
#[derive(Debug)]
pub(super) enum Of {
    /// A copy was started, or why not.
    Started { copy: CopyKey, born: Result<Box<Born>, String> },
    /// A copy is ready, or is not.
    Proved { copy: CopyKey, proof: Result<Proof, NotReady> },
    /// A copy that is guarded fares badly.
    Fares { copy: CopyKey, finding: String },
    /// Its first process has ended: it answers nobody any more. What it left behind is not known yet.
    Over { copy: CopyKey },
    /// The first process of a copy has ended, and left so many behind.
    Exited { copy: CopyKey, exit: Exit, left: u32 },
    /// Nothing of it is left.
    Gone { copy: CopyKey },
    /// It was asked to stop, and had so many connections of its shared sockets.
    Stopping { copy: CopyKey, accepted: Option<u64> },
    /// It was killed, and had so many connections of its shared sockets.
    Killed { copy: CopyKey, killed: Killed, accepted: Option<u64> },
    /// The hook has ended.
    Hooked { operation: OperationKey, result: Result<Finished, Failed> },
    /// A connection waits.
    Demand { watch: u64 },
    /// There was no connection for long enough.
    Idle { watch: u64 },
    /// Who looks for idleness wants to know whether requests are passed to it.
    AskUse { watch: u64, answer: oneshot::Sender<Quiet> },
    /// The place of a deploy was looked at.
    Looked { operation: OperationKey, result: Result<(), String> },
    /// A reload has ended.
    Reloaded { operation: OperationKey, result: Result<Reloaded, NotReloaded> },
    /// A process of a program whose connections the supervisor accepts, or looks for, was started or has ended.
    Serves,
    /// Processes of a program whose connections the supervisor accepts have ended that were waited for.
    Inetd { operation: Option<OperationKey>, ends: Ends },
}
