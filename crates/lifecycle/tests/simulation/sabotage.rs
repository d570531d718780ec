//! Deliberate mistakes between the machine and the world, one for each rule: a check that does not
//! notice them checks nothing.

use handover_lifecycle::{CandidateKey, Effect, Message, Refusal};

use crate::world::World;

/// Which rule is broken, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// 1: throwing away a candidate closes the serving listeners as well.
    ReleasesTooMuch,
    /// 2: nobody is told "busy".
    SaysNothingWhenBusy,
    /// 3: answers without waiting for the journal.
    AnswersBeforeWriting,
    /// 3: forgets to answer.
    NeverAnswers,
    /// 4: a dry run is committed.
    CommitsDryRuns,
    /// 4: a refused configuration has its worker killed.
    KillsTheServingWorker,
    /// 5: lets go of the old listeners when the commit is sent, not when it is confirmed.
    LetsGoTooEarly,
    /// 6: reports the wanted generation as serving although no worker lives.
    ReportsWhatShouldServe,
}

impl World {
    /// The effects as the world gets them.
    pub(crate) fn spoil(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        let Some(sabotage) = self.sabotage else { return effects };
        if sabotage == Sabotage::ReportsWhatShouldServe {
            if let Some(driver) = &mut self.driver
                && driver.view.serving.is_none()
                && driver.view.committing.is_none()
            {
                driver.view.serving = driver.view.held_to;
            }
            return effects;
        }
        let mut spoilt = Vec::new();
        for effect in effects {
            match (sabotage, effect) {
                (Sabotage::ReleasesTooMuch, Effect::Release { .. }) => {
                    if let Some(driver) = &mut self.driver {
                        driver.held = 0;
                    }
                }
                (Sabotage::SaysNothingWhenBusy, Effect::Refuse { refusal: Refusal::Busy { .. }, .. }) => {
                    continue;
                }
                (Sabotage::AnswersBeforeWriting, Effect::WriteOutcome { operation, verdict }) => {
                    spoilt.push(Effect::WriteOutcome { operation, verdict });
                    spoilt.push(Effect::Answer { operation, verdict, recorded: true });
                    continue;
                }
                (Sabotage::NeverAnswers, Effect::Answer { .. }) => continue,
                (
                    Sabotage::CommitsDryRuns,
                    Effect::Send { worker, message: Message::Abort { candidate } },
                ) if self.is_dry_run(candidate) => {
                    spoilt.push(Effect::Send { worker, message: Message::Commit { candidate } });
                    continue;
                }
                (
                    Sabotage::KillsTheServingWorker,
                    Effect::Send { worker, message: Message::Abort { .. } },
                ) => {
                    spoilt.push(Effect::KillWorker { worker });
                }
                (
                    Sabotage::LetsGoTooEarly,
                    Effect::Send { worker, message: Message::Commit { candidate } },
                ) => {
                    let generation = self.driver.as_ref().and_then(|driver| driver.view.committing);
                    spoilt.push(effect);
                    if let Some(generation) = generation {
                        spoilt.push(Effect::Serve { worker, candidate, generation });
                    }
                    continue;
                }
                _ => {}
            }
            spoilt.push(effect);
        }
        spoilt
    }

    fn is_dry_run(&self, candidate: CandidateKey) -> bool {
        let prepared = self.driver.iter().flat_map(|driver| &driver.prepared);
        prepared.into_iter().any(|(key, _, dry_run)| *key == candidate && *dry_run)
    }
}
