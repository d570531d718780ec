//! The lives of supervisors: begun with or without a worker that lived on, ended by a kill.

use std::cmp::Reverse;
use std::time::Duration;

use handover_lifecycle::{Event, Machine, OperationKey, Source};

use crate::driver::Driver;
use crate::rules::Op;
use crate::world::{Happening, World};

impl World {
    /// The first supervisor, or the next one: it adopts the worker that lived on, if one did.
    pub(crate) fn start_supervisor(&mut self) {
        if self.driver.is_some() {
            return;
        }
        // A worker that was told to commit says hello to the next supervisor when it has done so.
        if self
            .workers
            .iter()
            .any(|worker| worker.alive && !worker.killed && worker.is_committing() && !worker.sick)
        {
            return self.later(Duration::from_millis(10), Happening::StartSupervisor);
        }
        self.life += 1;
        let recovered = self.journal.recover(self.life * 1_000_000);
        let last_good = recovered.last_good;
        (self.at_start, self.tracked) = (None, None);
        self.tally.guards.clear();
        for unfinished in &recovered.unfinished {
            self.reopen(unfinished.operation, unfinished.kind);
        }
        let machine = Machine::new(self.limits, recovered);
        self.driver = Some(Driver::new(machine));
        let operation = OperationKey(self.next_operation);
        self.next_operation += 1;
        self.ops.push(Op::start(operation, self.now, self.disk.content));
        let adopted = self.workers.iter().find(|worker| {
            worker.alive && !worker.killed && worker.serving.is_some() && !worker.is_committing()
        });
        let adopted = adopted.map(|worker| worker.key);
        // An orphan that cannot be adopted is killed first: two workers must not accept.
        self.workers.retain(|worker| adopted == Some(worker.key));
        // What cannot be gone back to is not on probation.
        let unconfirmed = self.journal.unconfirmed();
        let unconfirmed = unconfirmed.filter(|known| self.journal.content(known.back_to).is_some());
        let pending = unconfirmed.map(|known| self.pending_of(known));
        let Some(key) = adopted else {
            self.wall_clock_at_start = self.wall_clock();
            self.at_start =
                unconfirmed.and_then(|known| Some((known, self.journal.content(known.generation)?)));
            let from = last_good.filter(|_| self.rng.chance(100));
            if let Some(driver) = &mut self.driver {
                driver.from_journal = from.is_some();
            }
            let source = from.map_or(Source::Disk, Source::Generation);
            return self.feed(Event::Start { operation, source, pending });
        };
        let life = self.life;
        let Some(worker) = self.worker(key) else { return };
        let Some((generation, content)) = worker.serving else { return };
        let (accepting, kept) = (worker.accepting, worker.kept);
        worker.life = life;
        worker.connected = true;
        if let Some(driver) = &mut self.driver {
            driver.adopt(generation, content, kept);
        }
        self.tally.adopted += 1;
        self.track(pending.filter(|pending| pending.generation == generation));
        self.feed(Event::Adopted { operation, worker: key, generation, accepting, pending });
    }

    pub(crate) fn kill_supervisor(&mut self) {
        if self.driver.take().is_none() {
            return;
        }
        let mut writes = Vec::new();
        let entries = std::mem::take(&mut self.queue).into_vec();
        for Reverse(entry) in entries {
            match entry.what {
                Happening::EndWrite { life, seq, write, ok } if life == self.life => {
                    writes.push((seq, write, ok));
                }
                Happening::ToSupervisor { life, .. } if life == self.life => {}
                _ => self.queue.push(Reverse(entry)),
            }
        }
        // Of the writes that were under way the first few happened: one thread writes.
        writes.sort_unstable_by_key(|(seq, ..)| *seq);
        for (seq, write, ok) in writes {
            if self.rng.chance(350) {
                break;
            }
            if ok {
                self.journal.append(seq, write);
            }
        }
        self.abandon_ops();
        let mut noticed = self.now;
        for (key, inbound) in
            self.workers.iter().filter(|w| w.alive).map(|w| (w.key, w.inbound)).collect::<Vec<_>>()
        {
            let at = inbound.max(self.now) + self.rng.millis(0, 5);
            noticed = noticed.max(at);
            self.at(at, Happening::Orphan { worker: key });
        }
        let at = noticed + self.rng.millis(1, 5_000);
        self.at(at, Happening::StartSupervisor);
    }
}
