//! The lives of supervisors: begun with or without a worker that lived on, ended by a kill.

use std::cmp::Reverse;
use std::time::Duration;

use handover_lifecycle::{Event, Machine, OperationKey, Source};

use crate::driver::Driver;
use crate::journal::Write;
use crate::programs::Hosted;
use crate::rules::Op;
use crate::upgrading::Binaries;
use crate::worker::Worker;
use crate::world::{Happening, World};

impl World {
    /// The first supervisor, or the next one: it adopts the worker that lived on, if one did.
    pub(crate) fn start_supervisor(&mut self) {
        if self.driver.is_some() {
            return;
        }
        // A worker that was told to commit says hello to the next supervisor when it has done so.
        let busy = |worker: &&Worker| worker.alive && !worker.killed && worker.is_committing();
        let mut busy = self.workers.iter().filter(busy).peekable();
        // One that hangs says nothing, nor does one that waits for it.
        if busy.peek().is_some() && busy.all(|worker| !worker.sick) {
            return self.later(Duration::from_millis(10), Happening::StartSupervisor);
        }
        self.life += 1;
        self.hosted = Hosted::default();
        let recovered = self.journal.recover(self.life * 1_000_000);
        let last_good = recovered.last_good;
        (self.at_start, self.tracked) = (None, None);
        self.tally.guards.clear();
        for unfinished in &recovered.unfinished {
            self.reopen(unfinished.operation, unfinished.kind);
        }
        let machine = Machine::new(self.limits, recovered);
        self.driver = Some(Driver::new(machine, Binaries::new(self.installed, None)));
        let operation = OperationKey(self.next_operation);
        self.next_operation += 1;
        self.ops.push(Op::start(operation, self.now, self.disk.content));
        let adopted = self.workers.iter().find(|worker| worker.is_the_one() && !worker.is_committing());
        let adopted = adopted.map(|worker| worker.key);
        // An orphan that cannot be adopted is killed first: two workers must not accept.
        self.workers.retain(|worker| adopted == Some(worker.key));
        let upgrade = self.journal.unconfirmed_upgrade();
        let upgrade =
            upgrade.filter(|_| self.kept_binary.is_some()).map(|known| self.pending_upgrade_of(known));
        let current = upgrade.filter(|pending| pending.upgrade == adopted);
        // What cannot be gone back to is not on probation.
        let unconfirmed = self.journal.unconfirmed();
        let unconfirmed = unconfirmed.filter(|known| self.journal.content(known.back_to).is_some());
        let pending = current.or(unconfirmed.map(|known| self.pending_of(known))).or(upgrade);
        let Some(key) = adopted else {
            self.wall_clock_at_start = self.wall_clock();
            self.at_start = unconfirmed.map(|known| (known, self.journal.content(known.generation)));
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
        let (accepting, kept, binary) = (worker.accepting, worker.kept, worker.binary);
        worker.life = life;
        worker.connected = true;
        if let Some(driver) = &mut self.driver {
            driver.adopt(generation, content, kept);
            driver.binaries.serving = binary;
            driver.binaries.previous = self.kept_binary.filter(|_| current.is_some());
        }
        self.host_programs();
        self.tally.adopted += 1;
        self.track(pending.filter(|pending| {
            pending.generation == generation && pending.upgrade.is_none_or(|upgrade| upgrade == key)
        }));
        self.feed(Event::Adopted { operation, worker: key, generation, accepting, pending });
    }

    /// Every write that is under way comes to its end.
    pub(crate) fn flush_writes(&mut self) {
        for (seq, write, ok) in self.take_writes() {
            if ok {
                self.journal.append(seq, write);
            }
        }
    }

    fn take_writes(&mut self) -> Vec<(u64, Write, bool)> {
        let mut writes = Vec::new();
        let entries = std::mem::take(&mut self.queue).into_vec();
        for Reverse(entry) in entries {
            match entry.what {
                Happening::EndWrite { life, seq, write, ok } if life == self.life => {
                    writes.push((seq, write, ok));
                }
                _ => self.queue.push(Reverse(entry)),
            }
        }
        // Of the writes that were under way the first few happened: one thread writes.
        writes.sort_unstable_by_key(|(seq, ..)| *seq);
        writes
    }

    pub(crate) fn kill_supervisor(&mut self) {
        if self.driver.take().is_none() {
            return;
        }
        let writes = self.take_writes();
        let life = self.life;
        self.queue.retain(
            |Reverse(entry)| !matches!(entry.what, Happening::ToSupervisor { life: of, .. } if of == life),
        );
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
