//! All programs, for the supervisor's next life: by `execve`, or kept by the worker.
//!
//! ```text
//!   save ─▶ JSON, in which descriptors are numbers, + descriptors ─▶ restore
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::hosted::{Hosted, SavedHosted};
use super::output::SavedOutput;
use super::served::{SavedServed, Served};
use super::state::DurableProgram;
use super::traffic::{Board, Paused, PausedBy, Placed};
use super::{Kept, Out, Programs, Setup, Told, leftovers};
use crate::protocol::Target;

/// The format of the JSON; one that is newer is not read.
const FORMAT: u32 = 1;

/// Everything. Every field may be missing: another version has written it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Saved {
    format: u32,
    /// CLOCK_MONOTONIC when it was written (clock_gettime(2)): the same clock for all of one boot.
    at: Duration,
    /// The last call to the worker.
    calls: u64,
    /// The last operation as machines know them.
    operations: u64,
    programs: Vec<SavedHosted>,
    served: Vec<SavedServed>,
    endpoints: BTreeMap<String, Vec<Placed>>,
    off: BTreeSet<String>,
    paused: Vec<SavedPause>,
    outputs: Vec<(SavedOutput, Option<usize>)>,
    durable: BTreeMap<String, DurableProgram>,
    settled: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedPause {
    target: Target,
    by: PausedBy,
    left: Duration,
    since: String,
    max_held: u32,
}

/// Descriptors on their way out, by number.
#[derive(Debug, Default)]
pub(super) struct Packing {
    descriptors: Vec<Arc<OwnedFd>>,
}

impl Packing {
    pub(super) fn add(&mut self, descriptor: &Arc<OwnedFd>) -> usize {
        self.descriptors.push(Arc::clone(descriptor));
        self.descriptors.len() - 1
    }
}

/// Descriptors on their way in, by number; each is taken once.
#[derive(Debug)]
pub(super) struct Unpacking {
    descriptors: Vec<Option<OwnedFd>>,
}

impl Unpacking {
    pub(super) fn take(&mut self, at: usize) -> Option<OwnedFd> {
        self.descriptors.get_mut(at)?.take()
    }
}

impl Programs {
    /// All of this, for the supervisor's next life: by `execve`, or kept by the worker (`Keep`). The same bytes. Nothing at all if
    /// there are no programs and nothing is paused or off.
    pub(crate) fn save(&self) -> Kept {
        let board = &self.common.board;
        if self.all.is_empty() && self.served.is_empty() && board.paused.is_empty() && board.off.is_empty() {
            return Kept { json: String::new(), descriptors: Vec::new() };
        }
        let mut packing = Packing::default();
        let (moment, now) = (Instant::now(), self.common.now());
        let programs = self.all.values().map(|hosted| hosted.save(now, &mut packing)).collect();
        let served = self.served.values().map(|served| served.pack(&self.common, &mut packing)).collect();
        let placed = |name: &String| (name.clone(), board.placed(name).to_vec());
        let pause = |paused: &Paused| SavedPause {
            target: paused.target.clone(),
            by: paused.by.clone(),
            left: paused.until.saturating_duration_since(moment),
            since: paused.since.clone(),
            max_held: paused.max_held,
        };
        let outputs = self.common.outputs_if_any().map(|outputs| outputs.save()).unwrap_or_default();
        let outputs = outputs
            .into_iter()
            .map(|(output, descriptor)| (output, descriptor.map(|descriptor| packing.add(&descriptor))))
            .collect();
        let saved = Saved {
            format: FORMAT,
            at: monotonic(),
            calls: board.calls(),
            operations: self.common.operations,
            programs,
            served,
            endpoints: self.all.keys().map(placed).filter(|(_, placed)| !placed.is_empty()).collect(),
            off: board.off.clone(),
            paused: board.paused.iter().map(pause).collect(),
            outputs,
            durable: self.common.programs_state().clone(),
            settled: self.said.settled,
        };
        match serde_json::to_string(&saved) {
            Ok(json) => Kept { json, descriptors: packing.descriptors },
            Err(error) => {
                tracing::error!("what is to be known of programs cannot be written down: {error}");
                Kept { json: String::new(), descriptors: Vec::new() }
            }
        }
    }

    /// Whether [`Programs::restore`] could read this: for a rehearsal, which touches nothing.
    ///
    /// # Errors
    /// One sentence.
    pub(crate) fn readable(kept: &str) -> Result<(), String> {
        read(kept).map(|_| ())
    }

    /// Goes on where an earlier supervisor, or an earlier life of this process, has left. [`Programs::apply`] with the same
    /// programs follows, with their sockets; then [`Programs::worker_changed`]. What has to be asked for by [`super::Out::Own`],
    /// and [`super::Out::AllEnded`], is said again. Dropping the result ends nothing and unlinks nothing.
    ///
    /// # Errors
    /// One sentence, if it cannot be read: then nothing is known of the programs that run.
    pub(crate) fn restore(setup: Setup, kept: &str, descriptors: Vec<OwnedFd>) -> Result<Self, String> {
        let saved = read(kept)?;
        let mut programs = Self::empty(setup);
        let mut unpacking = Unpacking { descriptors: descriptors.into_iter().map(Some).collect() };
        let elapsed = monotonic().saturating_sub(saved.at);
        let moment = Instant::now().checked_sub(elapsed).unwrap_or_else(Instant::now);
        let common = &mut programs.common;
        common.go_on_after(elapsed);
        common.board = Board::after(saved.calls);
        common.operations = saved.operations;
        common.known_state(saved.durable);
        common.board.off = saved.off;
        for (program, placed) in saved.endpoints {
            common.board.restore(&program, placed);
        }
        for SavedPause { target, by, left, since, max_held } in saved.paused {
            let until = moment.checked_add(left).unwrap_or(moment);
            common.board.pause(Paused { target, by, until, since, max_held, held: None });
        }
        if !saved.programs.is_empty() || !saved.served.is_empty() {
            let outputs = common.outputs()?;
            for (output, at) in saved.outputs {
                let descriptor = at.and_then(|at| unpacking.take(at));
                let name = output.program.clone();
                if let Err(error) = outputs.restore(output, descriptor) {
                    tracing::warn!("what a copy of {name} writes is lost: {error}");
                }
            }
        }
        for hosted in saved.programs {
            // The time of the machines was nothing when they were written.
            let hosted = Hosted::restore(hosted, Duration::ZERO, &mut unpacking)?;
            // Before anything is said to a worker, so that nobody who waits for it is given up.
            programs.common.board.wake(&hosted.name, hosted.how_it_wakes());
            programs.all.insert(hosted.name.clone(), hosted);
        }
        for served in saved.served {
            let served = Served::unpack(served, &mut unpacking);
            programs.served.insert(served.name.clone(), served);
        }
        // What was begun after the last word that was kept.
        let served: BTreeSet<String> = programs.served.values().flat_map(Served::marks).collect();
        let mut found = leftovers::noted(&programs.common.place);
        let noted = found.iter().map(|(_, process)| process.copy.mark.clone());
        let known = programs.all.values().flat_map(Hosted::marks).chain(noted).collect();
        found.retain(|(_, process)| !served.contains(&process.copy.mark));
        programs.found = found;
        programs.leftovers = leftovers::marked(&programs.common.place, &known);
        programs.said = Told { settled: saved.settled, ..Told::default() };
        programs.common.out.push(Out::Keep);
        Ok(programs)
    }
}

fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

fn read(kept: &str) -> Result<Saved, String> {
    if kept.is_empty() {
        return Ok(Saved::default());
    }
    let saved: Saved = serde_json::from_str(kept)
        .map_err(|error| format!("what was written down about programs cannot be read: {error}"))?;
    if saved.format > FORMAT {
        return Err(format!(
            "what was written down about programs has format {}, and this version reads up to {FORMAT}",
            saved.format
        ));
    }
    Ok(saved)
}
