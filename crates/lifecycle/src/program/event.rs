//! What the machine of a program is told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{CopyKey, EditionKey, Plan};
use crate::{CallKey, OperationKey};

/// Something that has happened. What comes late, twice or for copies that are no more does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "a few of them in an hour")]
pub enum Event {
    /// The first event of a program that is to run: it is started, or waits for its first connection.
    Begin {
        /// What serves.
        edition: EditionKey,
        /// How.
        plan: Plan,
        /// What a rollback goes to, if anything was deployed before.
        before: Option<(EditionKey, Plan)>,
        /// If `edition` awaits confirmation: the time left. Then `before` is what it goes back to.
        pending: Option<Duration>,
        /// Whether an operator had stopped it: then it stays so.
        stopped: bool,
    },
    /// The first event after [`super::Machine::resume`]: what was asked for and not answered is asked for again.
    Resumed,
    /// An operation on this program begins. [`super::Effect::Done`] follows, always.
    Ask {
        /// Its key.
        operation: OperationKey,
        /// What is asked for.
        ask: Ask,
    },
    /// Nobody waits for this operation any more: it ends as soon as what served before serves. `Done` follows. The same for an
    /// exam (`Prepared` follows, if it has not).
    CallOff {
        /// Which.
        operation: OperationKey,
    },
    /// The exam of a reload: start copies of this edition beside those that serve, and prove them. `Prepared` follows. What gets
    /// ready is held until an [`Event::Apply`] of the same edition, or [`Event::Abort`]. May be the first event.
    Prepare {
        /// The reload.
        operation: OperationKey,
        /// What would serve.
        edition: EditionKey,
        /// How.
        plan: Plan,
    },
    /// The reload has failed: what its exam has started is ended.
    Abort {
        /// The reload.
        operation: OperationKey,
    },
    /// This edition serves from now on. Cannot be refused: what an exam has proved is switched to; otherwise it is a swap of the
    /// machine's own, after what is active. If that fails what served goes on, and [`super::Effect::Failed`] says so. With the edition that serves already:
    /// only the plan is another one.
    Apply {
        /// What serves.
        edition: EditionKey,
        /// How.
        plan: Plan,
    },
    /// The server stops, or the program is no longer wanted: everything ends, whatever is active. `Ended` follows.
    End {
        /// How long copies get from the stop signal to the kill, if less than their plan says.
        limit: Option<Duration>,
    },
    /// The copy's first process runs.
    Started {
        /// Which.
        copy: CopyKey,
    },
    /// The copy could not be started; nothing of it is there.
    NotStarted {
        /// Which.
        copy: CopyKey,
    },
    /// The copy has proved that it is ready.
    Ready {
        /// Which.
        copy: CopyKey,
    },
    /// The copy has said, or a check found for good, that it is not ready. Of a guarded one: that it fares badly.
    NotReady {
        /// Which.
        copy: CopyKey,
    },
    /// The first process of the copy has ended. What it left behind is ended next.
    Exited {
        /// Which.
        copy: CopyKey,
        /// Whether it ended with 0.
        ok: bool,
    },
    /// Nothing of the copy is left.
    Gone {
        /// Which.
        copy: CopyKey,
    },
    /// A connection waits at a program that runs nothing.
    Demand,
    /// There was no connection for as long as the configuration says.
    Idle,
    /// Traffic is as [`super::Effect::Route`] or [`super::Effect::Pause`] said, and as all calls before said.
    TrafficSet {
        /// Which call.
        call: CallKey,
    },
    /// Nothing is in flight any more, or the limit is over.
    Quiet {
        /// Which call.
        call: CallKey,
        /// Whether nothing was left.
        clean: bool,
    },
    /// The hook has ended.
    HookDone {
        /// Whose.
        operation: OperationKey,
        /// Whether it ended with 0.
        ok: bool,
    },
    /// What a start has to know is written, or could not be.
    Saved {
        /// Which call.
        call: CallKey,
        /// Whether it was written.
        ok: bool,
    },
    /// [`super::Machine::deadline`] has come.
    Time,
}

/// What can be asked of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "a few of them in an hour")]
pub enum Ask {
    /// Run it.
    Start,
    /// End it, and do not start it again.
    Stop,
    /// New copies of what is configured, in place of those that run.
    Restart {
        /// In place of [`Plan::batch`].
        batch: Option<u32>,
        /// In place of [`Plan::max_unhealthy`].
        max_unhealthy: Option<u32>,
    },
    /// Another edition, that can be gone back from.
    Deploy {
        /// Which.
        edition: EditionKey,
        /// How it is run.
        plan: Plan,
        /// The longest time that its hook may take; none if there is none.
        hook: Option<Duration>,
        /// It goes back after this time unless it is confirmed.
        confirm: Option<Duration>,
        /// It is watched for this long before the operation ends.
        guard: Option<Duration>,
    },
    /// The edition before the last deploy serves again.
    Rollback,
    /// What awaits confirmation stays.
    Confirm,
    /// What awaits confirmation is taken back by a person.
    Cancel,
    /// What awaits confirmation is taken back by the supervisor: the answer to [`super::Effect::Propose`]. If nothing awaits confirmation
    /// any more, it ends as unchanged.
    GoBack,
}
