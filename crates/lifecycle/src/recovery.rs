//! What a supervisor knows from the journal of the one before it.

use std::cmp::Ordering;

use crate::{Cause, GenerationNumber, Kind, OperationKey, Outcome, Verdict, WorkerKey};

/// What the journal says when the supervisor starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The highest generation number that was ever written down, as an intent too; zero if none.
    pub last_generation: GenerationNumber,
    /// Keys of workers, candidates and calls are counted from here. It must be higher than any that an
    /// earlier supervisor used (the time in milliseconds will do).
    pub keys_from: u64,
    /// The newest generation that was confirmed, or needed no confirmation, and whose bytes the journal still has: what
    /// a start serves if its store cannot be reached.
    pub last_good: Option<GenerationNumber>,
    /// Operations that began and have no outcome.
    pub unfinished: Vec<Unfinished>,
}

/// An operation that an earlier supervisor began and could not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// A new key for it.
    pub operation: OperationKey,
    /// What it was.
    pub kind: Kind,
    /// The generation that it meant to serve, or confirmed, if that was written down.
    pub intent: Option<GenerationNumber>,
    /// Of an upgrade, and of what takes one back: the worker that the upgrade's intent names.
    pub upgrade: Option<WorkerKey>,
}

impl Unfinished {
    /// How it ended, seen from afterwards.
    ///
    /// `adopted` is the worker that lived on, if one did, and its generation. A commit is sent only after
    /// the intent is in the journal, so that without an intent nothing was changed; and with one the
    /// living worker tells. If none lives, nobody knows whether it was served for a moment.
    #[must_use]
    pub fn verdict(&self, adopted: Option<(WorkerKey, GenerationNumber)>) -> Verdict {
        let (worker, adopted) =
            (adopted.map(|(worker, _)| worker), adopted.map(|(_, generation)| generation));
        let outcome = match (self.kind, self.intent, adopted) {
            _ if self.upgrade.is_some() && self.kind != Kind::Confirm => self.upgrade_outcome(worker),
            (
                Kind::Start | Kind::Reload | Kind::Rollback | Kind::Restore | Kind::Cancel,
                Some(intent),
                Some(serving),
            ) if intent == serving => Outcome::Applied,
            (Kind::Confirm, Some(_), _) => Outcome::Applied,
            (Kind::Start | Kind::Reload | Kind::Rollback | Kind::Restore, Some(_), None) => Outcome::Unknown,
            (Kind::Start | Kind::Reload | Kind::Rollback | Kind::Restore, _, _)
            | (Kind::DryRun | Kind::Upgrade | Kind::Confirm | Kind::Cancel, _, _) => Outcome::NotReady,
            (Kind::Drain | Kind::Stop, _, Some(_)) => Outcome::RolledBack,
            (Kind::Drain | Kind::Stop, _, None)
            | (Kind::Action | Kind::Resume, _, _)
            | (
                Kind::ProgramStart
                | Kind::ProgramStop
                | Kind::ProgramRestart
                | Kind::ProgramReload
                | Kind::ProgramDeploy
                | Kind::ProgramRollback
                | Kind::ProgramConfirm
                | Kind::ProgramCancel
                | Kind::Pause
                | Kind::ResumeTraffic
                | Kind::DrainEndpoint
                | Kind::EnableEndpoint,
                _,
                _,
            ) => Outcome::Unknown,
        };
        let made = if outcome == Outcome::Applied { self.intent } else { None };
        let made = made.filter(|_| self.upgrade.is_none());
        Verdict { outcome, cause: Cause::SupervisorDied, made, serving: adopted, held_to: adopted }
    }

    /// Keys of workers only grow: the one that took over, an older one, or another one since.
    fn upgrade_outcome(&self, adopted: Option<WorkerKey>) -> Outcome {
        let (Some(upgrade), Some(adopted)) = (self.upgrade, adopted) else { return Outcome::Unknown };
        match (self.kind, adopted.cmp(&upgrade)) {
            (Kind::Upgrade, Ordering::Equal) => Outcome::Applied,
            (Kind::Upgrade, Ordering::Less) => Outcome::NotReady,
            // One started since, of whichever binary.
            (Kind::Upgrade, Ordering::Greater) => Outcome::Unknown,
            (_, Ordering::Equal) => Outcome::NotReady,
            // What takes it back ends with the worker before, or with another one of its binary.
            (_, Ordering::Less | Ordering::Greater) => Outcome::Applied,
        }
    }
}
