//! The tables of the machine: copies, numbers, the one swap, what awaits confirmation.
//!
//! All of it is plain data and goes through the supervisor's exec as it is, so every field has a default.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Ask, CopyKey, Durable, EditionKey, Figures, Plan, Role, Stage};
use crate::{CallKey, Cause, OperationKey, Outcome, PendingEnd, StepName};

/// What the program is for at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// It has not begun.
    #[default]
    New,
    /// It is to run.
    Up,
    /// It runs nothing until a connection comes.
    Asleep,
    /// An operator has stopped it.
    Down,
    /// It has ended by itself, and its restart policy leaves it at that.
    Finished,
    /// Everything ends.
    Ending,
    /// Everything has ended: no event does anything any more.
    Over,
}

/// Where a copy stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Life {
    /// It is being started.
    #[default]
    Starting,
    /// It proves that it is ready.
    Checking,
    /// It is ready, and is watched until its deadline.
    Settling,
    /// It is ready.
    Ready,
    /// It gets nothing new from this call of `Route` on; none as long as that was not said.
    Off(Option<CallKey>),
    /// What is in flight ends; the call of `AwaitQuiet`.
    Draining(CallKey),
    /// It was asked to stop.
    Stopping,
    /// It was killed.
    Killed,
    /// It was killed and is given up.
    Stuck,
}

impl Life {
    /// Whether requests that it has are answered.
    pub(super) const fn answers(self) -> bool {
        matches!(self, Self::Ready | Self::Off(_) | Self::Draining(_))
    }

    pub(super) const fn stage(self) -> Stage {
        match self {
            Self::Starting => Stage::Starting,
            Self::Checking => Stage::Checking,
            Self::Settling => Stage::Settling,
            Self::Ready => Stage::Ready,
            Self::Off(_) | Self::Draining(_) => Stage::Draining,
            Self::Stopping => Stage::Stopping,
            Self::Killed => Stage::Killed,
            Self::Stuck => Stage::Stuck,
        }
    }
}

/// One copy of which something is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Copy {
    pub(super) key: CopyKey,
    pub(super) edition: EditionKey,
    pub(super) number: u32,
    pub(super) role: Role,
    pub(super) life: Life,
    /// The deadline of its stage.
    pub(super) by: Option<Duration>,
    /// Since when it is ready.
    pub(super) ready_since: Option<Duration>,
    /// Whether requests were ever sent to it.
    pub(super) routed: bool,
    /// Whether the driver checks it, or guards it.
    pub(super) checked: bool,
    /// Until when it is kept warm.
    pub(super) warm_until: Option<Duration>,
    /// In place of the plan's limit for stopping.
    pub(super) stop_limit: Option<Duration>,
}

impl Default for Copy {
    fn default() -> Self {
        Self {
            key: CopyKey::default(),
            edition: EditionKey::default(),
            number: 1,
            role: Role::Leaving,
            life: Life::Starting,
            by: None,
            ready_since: None,
            routed: false,
            checked: false,
            warm_until: None,
            stop_limit: None,
        }
    }
}

impl Copy {
    /// Whether it is one of those that serve, and does.
    pub(super) fn serves(&self) -> bool {
        self.role == Role::Serving && self.life == Life::Ready
    }
}

/// What is known of the copies with one number, whichever of them lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Number {
    /// Failures in a row.
    pub(super) failures: u32,
    /// When the next one may be started.
    pub(super) at: Option<Duration>,
    /// Its restart policy leaves it at its end.
    pub(super) ended: bool,
    /// The next start is one because another copy has ended.
    pub(super) again: bool,
    /// How often it was started because another one had ended.
    pub(super) restarts: u64,
}

/// What a swap is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum What {
    /// Run what does not run.
    #[default]
    Start,
    /// End everything.
    Stop,
    /// End everything until the next connection.
    Sleep,
    /// New copies.
    Restart,
    /// Another edition, that can be gone back from.
    Deploy,
    /// Another definition.
    Apply,
    /// Whether another definition gets ready.
    Exam,
    /// The edition before, by a person who is content with the one that serves.
    Rollback,
    /// The edition before, because the one that serves is not to stay.
    Back,
    /// A confirmation is written down.
    Confirm,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Step {
    /// The hook runs.
    #[default]
    Hook,
    /// Stop-first: traffic is told to hold requests.
    Pausing(CallKey),
    /// Stop-first: what is in flight ends.
    Quieting(CallKey),
    /// Stop-first: the old ones end.
    Stopping,
    /// The candidates of this batch get ready.
    Raising,
    /// An exam: they wait for the reload's end.
    Held,
    /// On shared sockets: they serve beside the old ones and are watched.
    Trying,
    /// What a start has to know is written.
    Saving(CallKey),
    /// Traffic goes over to them.
    Switching(CallKey),
    /// They serve and are watched.
    Guarding,
    /// The old ones drain, and end or stay warm.
    Retiring,
    /// It has failed: the candidates end.
    Discarding,
    /// Stop-first, and failed: the old edition is started again.
    Restoring,
    /// What serves anyway is started.
    Rising,
}

/// One change of what runs. There is one at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Change {
    /// Whose; none if it is the machine's own.
    pub(super) operation: Option<OperationKey>,
    pub(super) what: What,
    /// What is to serve.
    pub(super) to: EditionKey,
    pub(super) step: Step,
    /// The deadline of the step, where it has one of its own.
    pub(super) by: Option<Duration>,
    /// Copies that it starts have this key or a higher one.
    pub(super) keys_from: u64,
    /// Numbers whose turn has not come.
    pub(super) todo: Vec<u32>,
    /// Numbers of this batch.
    pub(super) batch: Vec<u32>,
    /// How many numbers a batch has.
    pub(super) batch_size: u32,
    /// New copies that may fail.
    pub(super) max_unhealthy: u32,
    /// Copies whose end, or warmth, is waited for.
    pub(super) leaving: Vec<CopyKey>,
    pub(super) confirm: Option<Duration>,
    pub(super) guard: Option<Duration>,
    /// Why it has failed.
    pub(super) failed: Option<Cause>,
    /// Why what served could not be started again.
    pub(super) restore_failed: Option<Cause>,
    /// How it ends if it succeeds, where that is not `Applied`.
    pub(super) succeeds: Option<(Outcome, Cause)>,
    /// Whether two editions must not run at the same time.
    pub(super) stop_first: bool,
    /// An exam: its finding was told.
    pub(super) told: bool,
    /// Stop-first: whether the old ones were asked to stop.
    pub(super) stopped_old: bool,
    /// When traffic went over to the new edition.
    pub(super) switched_at: Option<Duration>,
    /// Going back within the operation that deployed: the guard has failed.
    pub(super) within: bool,
    /// Going back: what becomes of what awaits confirmation.
    pub(super) how: Option<PendingEnd>,
    /// What the program was doing before.
    pub(super) was: Phase,
    pub(super) figures: Figures,
}

/// What waits until the change that is active has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Waiting {
    /// An operation.
    Ask {
        /// Its key.
        operation: OperationKey,
        /// What is asked for.
        ask: Ask,
    },
    /// The exam of a reload.
    Prepare {
        /// The reload.
        operation: OperationKey,
        /// What would serve.
        edition: EditionKey,
        /// How.
        plan: Plan,
    },
}

/// A deploy that awaits confirmation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Pending {
    pub(super) operation: Option<OperationKey>,
    pub(super) edition: EditionKey,
    pub(super) back_to: EditionKey,
    /// Since when it serves.
    pub(super) since: Duration,
    pub(super) until: Duration,
    /// When the machine goes back without having been asked to, once it has proposed it.
    pub(super) proposed_by: Option<Duration>,
}

/// Where requests go, as it was said last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Routes {
    /// The last call.
    pub(super) call: CallKey,
    /// The last one of which it is known, or given up, that traffic is so.
    pub(super) set: CallKey,
    /// When that is given up.
    pub(super) by: Option<Duration>,
    pub(super) on: Vec<CopyKey>,
    pub(super) off: Vec<CopyKey>,
}

/// What is looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Watched {
    pub(super) demand: bool,
    pub(super) idle: bool,
}

/// Everything that the machine knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Table {
    /// The next key for a copy or a call.
    pub(super) next_key: u64,
    pub(super) phase: Phase,
    /// What the program is held to.
    pub(super) edition: Option<EditionKey>,
    /// What was applied and could not be swapped to.
    pub(super) wanted: Option<EditionKey>,
    /// What a rollback goes to.
    pub(super) before: Option<EditionKey>,
    /// All editions that may be needed.
    pub(super) plans: Vec<(EditionKey, Plan)>,
    pub(super) copies: Vec<Copy>,
    /// By number, from 1.
    pub(super) numbers: Vec<Number>,
    pub(super) change: Option<Change>,
    pub(super) waiting: Option<Waiting>,
    /// To be applied when the change that is active has ended.
    pub(super) apply: Option<EditionKey>,
    pub(super) pending: Option<Pending>,
    pub(super) routes: Routes,
    /// Until when the machine itself holds requests.
    pub(super) paused: Option<Duration>,
    pub(super) watched: Watched,
    /// Whether the first process that ended last did so with 0.
    pub(super) last_ok: bool,
    /// How often a copy was started because another one had ended.
    pub(super) restarts: u64,
    pub(super) durable: Durable,
    /// The step that was told last, and whose.
    pub(super) told: Option<(OperationKey, StepName)>,
}

impl Waiting {
    /// The edition that it is about.
    pub(super) const fn edition(&self) -> Option<EditionKey> {
        match self {
            Self::Ask { ask: Ask::Deploy { edition, .. }, .. } | Self::Prepare { edition, .. } => {
                Some(*edition)
            }
            Self::Ask { .. } => None,
        }
    }
}
