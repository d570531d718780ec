//! What the machine of a program has its driver do.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{CopyKey, EditionKey};
use crate::{CallKey, Cause, OperationKey, Outcome, StepName};

/// Something that the driver must do, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The operation has come to this step.
    Step {
        /// Which.
        operation: OperationKey,
        /// What it does now.
        step: StepName,
    },
    /// Run the hook of this edition. Leads to `HookDone`.
    Hook {
        /// Whose.
        operation: OperationKey,
        /// In which edition's place.
        edition: EditionKey,
        /// The longest time that it may take.
        limit: Duration,
    },
    /// Nobody waits for the hook any more: end it.
    EndHook {
        /// Whose.
        operation: OperationKey,
    },
    /// Start a copy. Leads to `Started` or `NotStarted`; then, in the end, to `Gone`.
    Start {
        /// The key that it gets.
        copy: CopyKey,
        /// Of what.
        edition: EditionKey,
        /// Its number, from 1. Two may have the same while one replaces the other.
        number: u32,
    },
    /// Prove that the copy is ready. Leads to `Ready` or `NotReady`, or to nothing: the machine has a limit of its own, this one.
    Check {
        /// Which.
        copy: CopyKey,
        /// The time left.
        limit: Duration,
    },
    /// Look again and again whether these fare well, until [`Effect::EndCheck`] of each. `NotReady` of one says that it does not.
    Guard {
        /// Which.
        copies: Vec<CopyKey>,
    },
    /// Nobody wants to know any more whether this copy is ready.
    EndCheck {
        /// Which.
        copy: CopyKey,
    },
    /// Ask the copy to stop: its stop signal. If its first process has ended: what it left behind.
    Stop {
        /// Which.
        copy: CopyKey,
        /// After this long it will be killed.
        limit: Duration,
    },
    /// Kill all of the copy. `Gone` follows when nothing of it is left, also if nothing was.
    Kill {
        /// Which.
        copy: CopyKey,
    },
    /// All copies that requests can reach, as a whole. Only for programs whose copies have addresses of their own. Leads to
    /// `TrafficSet`; if no worker is there, when the next one knows it, or at once.
    Route {
        /// Repeated in the answer; higher than every one before.
        call: CallKey,
        /// They get new requests. In the order of their numbers.
        on: Vec<CopyKey>,
        /// They get nothing new; what is in flight ends.
        off: Vec<CopyKey>,
    },
    /// Wait until nothing is in flight at these. Leads to `Quiet`.
    AwaitQuiet {
        /// Repeated in the answer.
        call: CallKey,
        /// Which.
        copies: Vec<CopyKey>,
        /// The longest time.
        limit: Duration,
    },
    /// Hold new requests for this program, in addition to what an operator has paused. Leads to `TrafficSet`.
    Pause {
        /// Repeated in the answer; counted together with those of `Route`.
        call: CallKey,
        /// The longest time.
        limit: Duration,
    },
    /// End that pause: requests go to what the last [`Effect::Route`] said. An operator's pause goes on.
    Resume,
    /// From now on say `Demand` when a connection waits (once), and `Idle` when there was none for long enough.
    Watch {
        /// Whether connections are looked for; nothing of the program runs.
        demand: bool,
        /// Whether idleness is looked for.
        idle: bool,
    },
    /// Write down what a start has to know ([`super::Machine::durable`]), durably. Leads to `Saved`.
    Save {
        /// Repeated in the answer; only the last one counts.
        call: CallKey,
    },
    /// The exam of a reload is over.
    Prepared {
        /// The reload.
        operation: OperationKey,
        /// Why it is not ready; none if it is.
        failed: Option<Cause>,
    },
    /// The operation has ended.
    Done {
        /// Which.
        operation: OperationKey,
        /// How.
        outcome: Outcome,
        /// Why.
        cause: Cause,
        /// What became of copies meanwhile.
        figures: Figures,
    },
    /// A swap that nobody waits for has failed; what served before serves. For the log.
    Failed {
        /// To what.
        edition: EditionKey,
        /// Why.
        cause: Cause,
    },
    /// What awaits confirmation is to be taken back: ask for an operation of the supervisor's own, which ends up as
    /// [`super::Ask::GoBack`]. If that does not come in time, the machine goes back without one.
    Propose {
        /// Why.
        why: Why,
    },
    /// Nothing awaits confirmation any more.
    PendingOver {
        /// The edition that was on probation.
        edition: EditionKey,
        /// What became of it.
        how: crate::PendingEnd,
    },
    /// Nothing of the program runs, and nothing is to be started.
    Ended {
        /// Whether the last first process ended with 0.
        ok: bool,
    },
    /// This edition is not needed any more.
    Forget {
        /// Which.
        edition: EditionKey,
    },
}

/// What became of copies in an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// New copies that are ready.
    pub ready: u32,
    /// New copies that failed.
    pub failed: u32,
    /// Old copies that have ended.
    pub ended: u32,
    /// Copies of which something had to be killed, although it had been asked to stop.
    pub killed: u32,
    /// Copies at which something was still in flight when the limit was over.
    pub unquiet: u32,
    /// Copies that are kept warm.
    pub warm: u32,
}

/// Why a deploy is to be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nobody confirmed it in time.
    NotConfirmed,
    /// Its copies die.
    Dies,
}
