//! What a reload, or a rollback, would change: said by the worker, in a dry run that leaves no trace.
//!
//! ```text
//!   diff ─▶ look (a dry run that nobody sees) ─┬─ prepared ──▶ changes, and every file against what serves
//!                                              ├─ rejected ──▶ errors, and the disk's files as text
//!                                              └─ cannot be ─▶ the disk's files as text, and why
//! ```
//!
//! Whoever asks for something else meanwhile waits until the look has ended, and is not refused because of it.

use std::sync::Arc;

use handover_api::{Actor, Diff, Operation, Problem, Refused};
use handover_lifecycle::{Event, GenerationNumber};
use tokio::sync::oneshot;

use super::{Driver, Loaded};
use crate::drift::Drift;
use crate::handle::{Ask, Guarding, NewOperation, Terms};
use crate::journal::GenerationError;

type Answer = oneshot::Sender<Result<Diff, Refused>>;

/// What is known of a difference before the worker has said anything.
struct Known {
    drift: Arc<Drift>,
    serving: u64,
    against: Option<u64>,
    rollback_in_force: Option<u64>,
}

impl Driver {
    pub(super) fn diff(&mut self, against: Option<u64>, actor: Actor, answer: Answer) {
        let Some(serving) = &self.serving else {
            let _ = answer.send(Ok(Diff { same: true, ..Diff::default() }));
            return;
        };
        let known = Known {
            drift: Arc::clone(&serving.loaded.drift),
            serving: serving.generation.0,
            against,
            rollback_in_force: self.rollback_in_force(),
        };
        let (shows, shown) = oneshot::channel();
        let (admission, admitted) = oneshot::channel();
        let scribe = self.parts.scribe.clone();
        tokio::spawn(async move {
            let other = match against {
                None => None,
                Some(number) => {
                    let other = scribe.ask(move |journal| journal.bundle(number)).await;
                    match other {
                        Some(Ok(bundle)) => Some(bundle),
                        Some(Err(error)) => {
                            let _ = answer.send(Err(no_such(error)));
                            return;
                        }
                        None => return,
                    }
                }
            };
            let looked = match admitted.await {
                Ok(Ok(ticket)) => crate::handle::Ticket::done(ticket).await,
                Ok(Err(refused)) => Err(refused),
                Err(_) => Err(Refused::Unavailable("it is ending".to_owned())),
            };
            let prepared: Option<Arc<Loaded>> = shown.await.ok();
            let whole = tokio::task::spawn_blocking(move || {
                let mut diff = match (&other, &prepared) {
                    (Some(other), _) => {
                        known.drift.diff_to(other, &format!("generation {}", against.unwrap_or(0)))
                    }
                    (None, Some(prepared)) => known.drift.diff_to(prepared.drift.bundle(), "disk"),
                    (None, None) => known.drift.diff(),
                };
                add(&mut diff, &known, looked);
                diff
            });
            if let Ok(diff) = whole.await {
                let _ = answer.send(Ok(diff));
            }
        });
        let ask = match against {
            None => Ask::Validate,
            Some(number) => Ask::Rollback { to: Some(number), terms: LOOK },
        };
        self.look(NewOperation::new(ask, actor), shows, admission);
    }

    /// Asks for a dry run that leaves no trace.
    fn look(
        &mut self,
        new: NewOperation,
        shows: oneshot::Sender<Arc<Loaded>>,
        admission: crate::operations::Admission,
    ) {
        let request = match &new.ask {
            Ask::Rollback { to: Some(to), .. } => handover_lifecycle::Request::Rollback {
                to: GenerationNumber(*to),
                dry_run: true,
                terms: handover_lifecycle::Terms::NONE,
            },
            _ => handover_lifecycle::Request::VALIDATE,
        };
        let serving = self.serving.as_ref().map(|serving| serving.generation.0);
        let operation = self.operations.look(new, serving, admission, shows);
        let asked = handover_lifecycle::Asked {
            request,
            caller: handover_lifecycle::Caller::Waiting,
            expected: None,
        };
        self.step(Event::Request { operation, asked });
    }

    /// A look has ended: whoever waited for that has their turn.
    pub(super) fn after_look(&mut self) {
        while !self.looks() {
            let Some((new, binary, admission)) = self.after_look.pop_front() else { return };
            self.admit(new, binary, admission);
        }
    }

    /// Whether a look is what runs.
    pub(super) fn looks(&self) -> bool {
        self.active().and_then(|key| self.operations.get(key)).is_some_and(|entry| entry.is_look)
    }
}

/// A look is never guarded.
const LOOK: Terms = Terms { confirm_within: None, guard: Guarding::No };

fn no_such(error: GenerationError) -> Refused {
    match error {
        GenerationError::NotKept { generation, kept } => {
            Refused::NoSuchGeneration { wanted: Some(generation), kept }
        }
        damaged @ GenerationError::Damaged { .. } => Refused::Journal(damaged.to_string()),
    }
}

fn add(diff: &mut Diff, known: &Known, looked: Result<Operation, Refused>) {
    diff.serving_generation = Some(known.serving);
    diff.against = known.against;
    diff.rollback_in_force = known.rollback_in_force.filter(|_| !diff.same && known.against.is_none());
    match looked {
        Ok(operation) => {
            diff.changes = operation.changes;
            diff.errors = operation.errors;
            diff.warnings = operation.warnings;
        }
        Err(why) => {
            let unsaid = format!("what would be served differently cannot be said now: {why}");
            diff.warnings.push(Problem::new(unsaid));
        }
    }
}
