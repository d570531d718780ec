//! A program in the style of inetd, for the supervisor's next life.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::asked::Asker;
use super::super::common::Common;
use super::super::editions::{Edition, Place};
use super::super::inetd::{Processes, SavedProcess};
use super::super::output::OutputKey;
use super::super::saving::{Packing, Unpacking};
use super::{Pending, Served};
use crate::protocol::ProgramSpec;

/// It, as it is written down.
#[derive(Debug, Serialize, Deserialize)]
pub(in super::super) struct SavedServed {
    spec: Box<ProgramSpec>,
    place: Option<Place>,
    before: Option<Option<Place>>,
    stopped: bool,
    leaving: bool,
    /// Each by its number, time and mark; another version has given away their pidfds, too.
    processes: Vec<(SavedProcess, Option<usize>)>,
    output: Option<(OutputKey, usize)>,
    /// What awaits confirmation: the time left, and who deployed it.
    #[serde(default)]
    pending: Option<(Duration, Asker)>,
}

impl Served {
    pub(in super::super) fn pack(&self, common: &Common, packing: &mut Packing) -> SavedServed {
        let adopted = self.adopted.iter().map(|(process, _)| process.clone());
        let processes = self.processes.save().into_iter().chain(adopted);
        SavedServed {
            spec: Box::new(self.edition.spec.as_ref().clone()),
            place: self.edition.place.clone(),
            before: self.before.as_ref().map(|before| before.place.clone()),
            stopped: self.stopped,
            leaving: self.leaving,
            processes: processes.map(|process| (process, None)).collect(),
            output: self.output.as_ref().map(|(output, key)| (*key, packing.add(output))),
            pending: self.pending.as_ref().map(|pending| (pending.left(common), pending.by.clone())),
        }
    }

    /// As it was saved. It does nothing before it begins.
    pub(in super::super) fn unpack(saved: SavedServed, unpacking: &mut Unpacking) -> Self {
        let edition = Edition { spec: Arc::new(*saved.spec), place: saved.place, sockets: Vec::new() };
        let adopted = saved
            .processes
            .into_iter()
            .map(|(process, at)| (process, at.and_then(|at| unpacking.take(at))))
            .collect();
        let output = saved.output.and_then(|(key, at)| Some((Arc::new(unpacking.take(at)?), key)));
        Served {
            name: edition.spec.name.clone(),
            before: saved.before.map(|place| Edition { place, ..edition.clone() }),
            edition,
            processes: Processes::default(),
            listening: None,
            output,
            stopped: saved.stopped,
            leaving: saved.leaving,
            ends: 0,
            active: None,
            // The time was nothing when it was written down.
            pending: saved.pending.map(|(left, by)| Pending::new(left, by)),
            adopted,
            begun: false,
            why_not: None,
        }
    }

    /// The marks of the processes of another life.
    pub(in super::super) fn marks(&self) -> BTreeSet<String> {
        self.adopted.iter().map(|(process, _)| process.copy.mark.clone()).collect()
    }
}
