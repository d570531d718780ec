//! Answers that fit nothing, of whoever is long gone or never was.

use handover_lifecycle::{
    CallKey, CandidateKey, Cause, Event, Exam, Finding, GenerationNumber, OperationKey, Outcome, Source,
    WorkerKey,
};

use crate::world::World;

impl World {
    /// An answer that fits nothing: everything the machine may be told, with numbers out of the air.
    pub(crate) fn stray(&mut self) {
        let near = self.life * 1_000_000 + self.rng.below(12);
        let worker = WorkerKey(if self.rng.chance(500) { near } else { self.rng.below(50) });
        let candidate = CandidateKey(1_000_000_000 + self.rng.below(9));
        let call = CallKey(1_000_000_000 + self.rng.below(9));
        let operation = OperationKey(1_000_000_000 + self.rng.below(9));
        let generation = GenerationNumber(self.rng.below(9));
        let (passed, unreachable) = (self.rng.chance(500), self.rng.chance(500));
        let finding = if passed { Finding::Passed } else { Finding::Failed };
        let event = match self.rng.below(26) {
            0 => Event::Tick,
            16 => Event::Examined { operation, exam: Exam::Admission, finding },
            17 => Event::Examined { operation, exam: Exam::Probe { worker }, finding },
            18 => Event::TookOver { worker, call, clean: passed },
            19 => Event::HandedOver { worker, call },
            20 => Event::HandoffFailed { worker, call },
            21 => Event::ReexecFailed { operation },
            22 => Event::Reexecuted,
            23 => Event::Examined { operation, exam: Exam::Programs { candidate }, finding },
            24 => Event::ProgramsStopped { clean: passed },
            25 => Event::Carried { operation, outcome: Outcome::Applied, cause: Cause::Done },
            1 => Event::Start { operation, source: Source::Disk, pending: None },
            2 => Event::Adopted { operation, worker, generation, accepting: true, pending: None },
            3 => Event::Need { worker, candidate },
            4 => Event::Bound { worker, candidate },
            5 => Event::Prepared { worker, candidate, unchanged: true, programs: None },
            6 => Event::Rejected { worker, candidate, unreachable },
            15 => Event::GuardEnded { worker, call, passed },
            7 => Event::Committed { worker, candidate },
            8 => Event::Drained { worker, call, clean: true },
            9 => Event::Resumed { worker, call },
            10 => Event::ActionDone { worker, call, ok: true },
            11 => Event::IntentWritten { operation, generation },
            12 => Event::IntentFailed { operation, generation },
            13 => Event::OutcomeWritten { operation },
            _ => Event::OutcomeFailed { operation },
        };
        if self.driver.is_some() {
            self.feed(event);
        }
    }
}
