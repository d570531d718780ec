//! Who sees to the end of a process that serves connections: how it is asked to end, who hears of it, where it is written down.

use std::time::Duration;

use super::super::common::Teller;
use super::super::copy::SavedCopy;
use super::super::happened::Of;
use super::super::private::Place;
use super::SavedProcess;

/// What is to be known to see to the end of a process.
#[derive(Debug, Clone)]
pub(crate) struct Care {
    /// The program's name.
    pub(crate) program: String,
    /// The slot or directory that it is started from.
    pub(crate) slot: Option<String>,
    /// How what does not end by itself, and what a process leaves behind, is asked to end.
    pub(crate) signal: i32,
    /// How long what is left behind may take then until it is killed.
    pub(crate) limit: Duration,
    /// Who hears of every start and end; nobody if `None`.
    pub(crate) teller: Option<Teller>,
    /// Where it is written down; nowhere if `None`.
    pub(crate) place: Option<Place>,
}

impl Care {
    /// What runs has changed, or something could not be started.
    pub(super) fn tell(&self) {
        if let Some(teller) = &self.teller {
            teller.tell(Of::Serves);
        }
    }

    /// Writes down what there is, or is about to be (no copy yet).
    pub(super) fn note(&self, mark: &str, copy: Option<SavedCopy>, peer: Option<&str>) {
        let Some(place) = &self.place else { return };
        let copy = copy.unwrap_or_else(|| SavedCopy::only(mark));
        let process = SavedProcess { copy, peer: peer.map(str::to_owned), slot: self.slot.clone() };
        place.note_process(mark, &serde_json::to_string(&process).unwrap_or_default());
    }

    /// Nothing is left of the process that has this mark.
    pub(super) fn forget(&self, mark: &str) {
        if let Some(place) = &self.place {
            place.forget_process(mark);
        }
    }
}
