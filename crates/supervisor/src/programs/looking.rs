//! How programs stand: for `status`, `ps`, `logs`, and before an operation is begun.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use handover_api::{LogLine, PauseStatus, ProgramStatus, Refused};
use tokio::sync::broadcast;

use super::connections::{self, Survey as Connections, Wanted};
use super::copy::Copy;
use super::flows;
use super::groups::Survey;
use super::output::Outputs;
use super::traffic::{Paused, PausedBy};
use super::{Asked, Programs};
use crate::protocol::{Address, Names, Target};

/// How long connections may take to be counted.
const COUNT_LIMIT: Duration = Duration::from_secs(2);

impl Programs {
    /// All programs, by name, for `status`. Asks nobody: memory and connections are absent.
    pub(crate) fn status(&self) -> Vec<ProgramStatus> {
        let shown = self.all.values().map(|hosted| {
            let mut status = hosted.status(&self.common);
            let target = Target::Program(hosted.name.clone());
            let paused = self.common.board.paused.iter().filter(|paused| paused.target == target);
            status.paused = paused.max_by_key(|paused| paused.until).map(|paused| self.shown(paused));
            status
        });
        let mut all: Vec<_> =
            shown.chain(self.served.values().map(|served| served.status(&self.common))).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// The same with memory and connections as they are now: to be awaited in a task of its own.
    pub(crate) fn measure(&self) -> impl Future<Output = Vec<ProgramStatus>> + Send + 'static + use<> {
        let status = self.status();
        let mut copies = Vec::new();
        for (at, status) in status.iter().enumerate() {
            let hosted = self.all.get(&status.name);
            let of = hosted.map(|hosted| hosted.measurable(status)).into_iter().flatten();
            copies.extend(of.map(|(copy_at, copy, places)| (at, copy_at, copy, places)));
        }
        measured(status, copies)
    }

    /// Why this cannot even become an operation: what it is about is not there. Everything else is found out by
    /// [`Programs::ask`].
    pub(crate) fn refusal(&self, asked: &Asked) -> Option<Refused> {
        if asked.what.is_about_traffic() {
            let names: &Names = &self.names;
            return flows::refusal(&self.common, &self.all, &self.served, names, asked);
        }
        let name = asked.program()?;
        let known = || flows::program_names(&self.all, &self.served).into_iter().collect();
        let is_known = self.all.get(name).is_some_and(|hosted| !hosted.is_leaving())
            || self.served.get(name).is_some_and(|served| !served.is_leaving());
        (!is_known).then(|| Refused::NoSuchProgram { name: name.to_owned(), known: known() })
    }

    /// Everything that is paused.
    pub(crate) fn paused(&self) -> Vec<PauseStatus> {
        self.common.board.paused.iter().map(|paused| self.shown(paused)).collect()
    }

    fn shown(&self, paused: &Paused) -> PauseStatus {
        let left = paused.until.saturating_duration_since(Instant::now());
        PauseStatus {
            target: paused.target.to_string(),
            operation_id: match &paused.by {
                PausedBy::Operator(id) => Some(id.clone()),
                PausedBy::Machine => None,
            },
            held: paused.held,
            max_held: paused.max_held,
            since: paused.since.clone(),
            until: self.common.in_time(left),
            left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Endpoints that get nothing new because an operator said so.
    pub(crate) fn endpoints_off(&self) -> Vec<String> {
        self.common.board.off.iter().cloned().collect()
    }

    /// The last lines that the program has written, oldest first; `None` if there is no such program.
    pub(crate) fn logs(&self, name: &str, lines: usize) -> Option<Vec<LogLine>> {
        if !self.all.contains_key(name) && !self.served.contains_key(name) {
            return None;
        }
        Some(self.common.outputs_if_any().map(|outputs| outputs.tail(name, lines)).unwrap_or_default())
    }

    /// All lines that programs write from now on.
    pub(crate) fn follow(&self) -> broadcast::Receiver<LogLine> {
        // Without any program nobody writes: nothing is to follow.
        self.common.outputs_if_any().map_or_else(|| broadcast::channel(1).1, Outputs::follow)
    }
}

/// A copy to be measured: the place of its program, its own in that, itself, and where connections to it are.
type Copies = Vec<(usize, usize, Arc<Copy>, Vec<Address>)>;

async fn measured(mut status: Vec<ProgramStatus>, copies: Copies) -> Vec<ProgramStatus> {
    let looked = tokio::task::spawn_blocking(move || {
        let survey = Survey::take();
        let look = |(program, at, copy, places): (usize, usize, Arc<Copy>, Vec<Address>)| {
            (program, at, copy.memory(&survey), copy.processes_of(&survey), places)
        };
        copies.into_iter().map(look).collect::<Vec<_>>()
    });
    let Ok(looked) = looked.await else { return status };
    let wanted = looked
        .iter()
        .map(|(_, _, _, processes, places)| Wanted { processes: processes.clone(), places: places.clone() });
    let counted = counted(wanted.collect()).await.unwrap_or_default();
    for (index, (program, at, memory, processes, _)) in looked.into_iter().enumerate() {
        let Some(program) = status.get_mut(program) else { continue };
        let connections = counted.get(index).map(|survey| survey.accepted);
        if let Some(connections) = connections {
            program.connections = Some(program.connections.unwrap_or(0).saturating_add(connections));
        }
        if let Some(copy) = program.copies.get_mut(at) {
            copy.memory_bytes = memory;
            copy.processes = u32::try_from(processes.len()).ok();
            copy.connections = connections;
        }
    }
    status
}

async fn counted(wanted: Vec<Wanted>) -> io::Result<Vec<Connections>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    match tokio::time::timeout(COUNT_LIMIT, connections::survey(wanted)).await {
        Ok(surveys) => surveys,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
