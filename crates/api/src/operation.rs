//! One request to change something: who, what, how it went, how it ended.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::outcome::{CauseSchema, KindSchema, OutcomeSchema};
use crate::{
    Actor, Cause, Change, GoesBack, Kind, Losses, Outcome, Problem, ProgramResult, Refused, Upgrade,
};

/// Whether an operation still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// It runs; the outcome is not known yet.
    Running,
    /// It ended; the outcome is final and in the journal.
    Done,
}

/// One step of an operation and how long it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// `prepare`, `bind`, `commit`, `drain` …
    pub name: String,
    /// Milliseconds.
    pub ms: f64,
}

/// One request to change something. The same object is answered, kept in the journal and sent as an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Its ID: the Idempotency-Key if one was given, else made by the supervisor.
    pub id: String,
    /// What was asked for.
    #[schema(value_type = KindSchema)]
    pub kind: Kind,
    /// Name of the action, for `action`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// What it is about, for an operation on a program, an endpoint, or what is paused: `web`, `web/1`, `route:api`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Runs, or done.
    pub state: OperationState,
    /// How it ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<OutcomeSchema>)]
    pub outcome: Option<Outcome>,
    /// Why it ended so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<CauseSchema>)]
    pub cause: Option<Cause>,
    /// Why it was never admitted, in a word (`forbidden`, `busy`, `stale` …): the `type` of the error answer.
    /// Such a request has an ID of its own, never the Idempotency-Key, and can be sent again with that key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Who asked.
    pub actor: Actor,
    /// Why, in the words of who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The generation that it made or tried to make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The generation that serves now that it ended (or while it runs).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving_generation: Option<u64>,
    /// What differs from the generation before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// What was wrong: all of it, not only the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Problem>,
    /// What was accepted and deserves a look.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Problem>,
    /// Changes, errors and warnings that the journal left out because there were too many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// Connections that were cut, by kind.
    #[serde(default, skip_serializing_if = "Losses::is_empty")]
    pub losses: Losses,
    /// From which binary to which, and what moved: of an upgrade, and of an operation that takes one back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Box<Upgrade>>,
    /// What became of a program, or of the traffic to something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<Box<ProgramResult>>,
    /// What took how long, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// When it was admitted, RFC 3339 in UTC.
    pub started_at: String,
    /// How long it took, or has run so far, in milliseconds.
    pub ms: f64,
    /// The generation that was taken back by it: not confirmed, called off, found worse by the guard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone: Option<u64>,
    /// What becomes of the change if nobody confirms it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goes_back: Option<GoesBack>,
    /// How long the guard watches the change, in milliseconds, if it is guarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard_ms: Option<u64>,
    /// What the guard saw, with its figures, once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<String>,
    /// Where what it serves came from, if not from files on disk: `etcd revision 42`, `the archive of generation 7 …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What an action answered, in its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// The one sentence that says it all: [`Operation::sentence`] at the time of writing.
    pub message: String,
}

/// Whether a figure is not worth telling.
pub(crate) fn is_zero<T: Default + PartialEq>(figure: &T) -> bool {
    *figure == T::default()
}

impl Operation {
    /// A running operation; the caller fills in what it knows.
    #[must_use]
    pub fn running(id: impl Into<String>, kind: Kind, actor: Actor, started_at: impl Into<String>) -> Self {
        let mut operation = Self {
            id: id.into(),
            kind,
            action: None,
            target: None,
            state: OperationState::Running,
            outcome: None,
            cause: None,
            refused: None,
            actor,
            comment: None,
            generation: None,
            serving_generation: None,
            changes: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
            left_out: 0,
            losses: Losses::default(),
            upgrade: None,
            program: None,
            steps: Vec::new(),
            started_at: started_at.into(),
            ms: 0.0,
            undone: None,
            goes_back: None,
            guard_ms: None,
            guard: None,
            source: None,
            answer: None,
            message: String::new(),
        };
        operation.message = operation.sentence();
        operation
    }

    /// A request that was refused, as the history shows it. `id` must be a new one, not the Idempotency-Key.
    #[must_use]
    pub fn refused(mut self, why: &Refused, serving_generation: Option<u64>) -> Self {
        self.refused = Some(why.word().to_owned());
        self.errors = vec![Problem::new(why.to_string())];
        self.serving_generation = serving_generation;
        self.finish(Outcome::Rejected, Cause::Refused, 0.0);
        self
    }

    /// Ends the operation: sets outcome, cause, duration and the sentence. Everything else must be filled in
    /// before.
    pub fn finish(&mut self, outcome: Outcome, cause: Cause, ms: f64) {
        self.state = OperationState::Done;
        self.outcome = Some(outcome);
        self.cause = Some(cause);
        self.ms = ms;
        self.message = self.sentence();
    }
}
