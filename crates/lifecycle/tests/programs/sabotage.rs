//! Deliberate mistakes between the machine and the world: a rule that does not notice them checks nothing.

use std::time::Duration;

use handover_lifecycle::Outcome;
use handover_lifecycle::program::{CopyKey, Effect, Event, Saved};

use crate::world::World;

/// Which rule is broken, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// 1: nobody is told how it ended.
    NeverAnswers,
    /// 1: everybody is told twice.
    AnswersTwice,
    /// 2: a failure is what was called a success.
    CallsSuccessFailure,
    /// 3: the old ones are asked to stop when the new ones are started.
    StopsBeforeTheOtherIsReady,
    /// 4: nothing that is held is let go.
    NeverResumes,
    /// 4: what is held is let go when the old ones are asked to stop.
    ResumesTooEarly,
    /// 5: a kill that does not happen.
    ForgetsToKill,
    /// 6: what was taken out still gets requests.
    RoutesToWhatIsOff,
    /// 7: what awaits confirmation waits for a year.
    ForgetsTheDeadline,
    /// 8: whoever is asked to stop is killed at once.
    KillsAtOnce,
    /// 9: one copy is not saved.
    LosesACopyInTheExec,
    /// 11: whoever is asked to stop counts as gone.
    BelievesTheStopSignal,
    /// 12: the edition before is forgotten.
    ForgetsTheEditionBefore,
    /// 15: what could not be written counts as written.
    BelievesTheDisk,
}

impl World {
    /// The event as the machine gets it.
    pub(crate) fn spoil_event(&self, event: Event) -> Event {
        match (self.sabotage, event) {
            (Some(Sabotage::BelievesTheDisk), Event::Saved { call, ok: false }) => {
                Event::Saved { call, ok: true }
            }
            _ => event,
        }
    }

    /// The effects as the world gets them.
    pub(crate) fn spoil(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        let Some(sabotage) = self.sabotage else { return effects };
        let mut spoilt = Vec::new();
        for effect in effects {
            match (sabotage, effect) {
                (Sabotage::NeverAnswers, Effect::Done { .. })
                | (Sabotage::NeverResumes, Effect::Resume)
                | (Sabotage::ForgetsToKill, Effect::Kill { .. }) => {}
                (Sabotage::AnswersTwice, done @ Effect::Done { .. }) => {
                    spoilt.extend([done.clone(), done]);
                }
                (Sabotage::CallsSuccessFailure, Effect::Done { operation, outcome, cause, figures }) => {
                    let outcome = if outcome == Outcome::Applied { Outcome::NotReady } else { outcome };
                    spoilt.push(Effect::Done { operation, outcome, cause, figures });
                }
                (Sabotage::StopsBeforeTheOtherIsReady, start @ Effect::Start { .. }) => {
                    spoilt.push(start);
                    self.sentenced
                        .extend(self.view.copies.iter().filter(|copy| copy.on).map(|copy| copy.copy));
                }
                (Sabotage::ResumesTooEarly, stop @ Effect::Stop { .. }) if self.paused.is_some() => {
                    spoilt.extend([stop, Effect::Resume]);
                }
                (Sabotage::RoutesToWhatIsOff, Effect::Route { call, mut on, off }) => {
                    on.extend(&off);
                    spoilt.push(Effect::Route { call, on, off });
                }
                (Sabotage::KillsAtOnce, Effect::Stop { copy, limit }) => {
                    spoilt.extend([Effect::Stop { copy, limit }, Effect::Kill { copy }]);
                }
                (Sabotage::BelievesTheStopSignal, stop @ Effect::Stop { copy, .. }) => {
                    spoilt.push(stop);
                    self.believed.push(copy);
                }
                (_, effect) => spoilt.push(effect),
            }
        }
        if sabotage == Sabotage::ForgetsTheEditionBefore
            && let Some(edition) =
                self.machine.view().before.filter(|before| !self.forgotten.contains(before))
        {
            spoilt.push(Effect::Forget { edition });
        }
        spoilt
    }

    /// What the mistake does to the world itself.
    pub(crate) fn spoil_world(&mut self) {
        let now = self.now;
        for key in std::mem::take(&mut self.sentenced) {
            if let Some(process) = self.processes.get_mut(&key) {
                process.stop.get_or_insert((now, Duration::ZERO));
            }
        }
        let believed: Vec<CopyKey> = std::mem::take(&mut self.believed);
        for copy in believed {
            let effects = self.machine.step(now, Event::Gone { copy });
            let effects = self.spoil(effects);
            self.view = self.machine.view();
            effects.into_iter().for_each(|effect| self.perform(effect));
        }
    }

    /// What was saved, as it is read.
    pub(crate) fn spoil_saved(&self, json: &str, saved: Saved) -> Saved {
        let mut value: serde_json::Value = serde_json::from_str(json).unwrap();
        match self.sabotage {
            Some(Sabotage::LosesACopyInTheExec) => {
                value["table"]["copies"].as_array_mut().unwrap().pop();
            }
            Some(Sabotage::ForgetsTheDeadline) if !value["table"]["pending"].is_null() => {
                value["table"]["pending"]["until"]["secs"] = serde_json::json!(30_000_000);
            }
            _ => return saved,
        }
        serde_json::from_value(value).unwrap()
    }
}
