//! What the two workers say to each other over their socket pair.
//!
//! ```text
//!   giver                                        taker
//!     │ ── Offer ─────────────────────────────────▶ │   versions, formats, how much is open
//!     │ ◀───────────────────────── Accept | Refuse ─│
//!     │ ── Sockets ───────────────────────────────▶ │   + up to 253 sockets; at most four on their way
//!     │ ◀──────────────────────────────────── Taken ─│   so many messages with descriptors were taken
//!     │ ── State ─────────────────────────────────▶ │   + a sealed memory file: every section, then the common state
//!     │ ◀─────────────────────────── Ready | Refuse ─│
//!     │ ── Commit ────────────────────────────────▶ │   from here on the taker serves
//!     │ ── Late ──────────────────────────────────▶ │   + a sealed memory file, + the connection's sockets
//!     │ ◀────────────────────────────── Taken, Enough ─│
//!     │ ── Totals, Bye ───────────────────────────▶ │   Totals: + a sealed memory file
//! ```
//!
//! Everything that may be secret is in memory files, never in the messages' JSON. Messages are read leniently (unknown
//! fields are ignored), because the two sides may be of different versions.

use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use handover_handoff::{Channel, memfd};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Counts, Frozen, FrozenView, Piece};
use crate::types::Figures;

/// The newest version of this conversation that is spoken here.
pub(crate) const PEER_VERSION: u16 = 1;
/// The oldest.
pub(crate) const OLDEST_PEER_VERSION: u16 = 1;
/// The most bytes of all states together. Ten thousand idle connections are three megabytes.
const MAX_STATE_BYTES: usize = 4 << 30;
/// The most bytes of one late connection, and of the totals.
pub(crate) const MAX_LATE_BYTES: usize = 64 << 20;

/// The giver's end.
pub(crate) type GiverChannel = Channel<ToGiver, ToTaker>;
/// The taker's end.
pub(crate) type TakerChannel = Channel<ToTaker, ToGiver>;

/// From the giver to the taker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(crate) enum ToTaker {
    /// The first message.
    Offer {
        /// The oldest and the newest version of this conversation that the giver speaks.
        versions: [u16; 2],
        /// The oldest and the newest format that it writes; none if its connections cannot move.
        formats: Option<[u16; 2]>,
        /// How many connections it has open, if it knows.
        open: Option<u64>,
    },
    /// Sockets sent ahead.
    Sockets {
        /// The giver's thread that they belong to.
        thread: u32,
        /// The number of the first.
        first: u64,
    },
    /// Everything that was written down.
    State(Box<State>),
    /// Serve.
    Commit {
        /// For how long nothing was served so far.
        frozen: Duration,
    },
    /// One connection.
    Late {
        /// The giver's thread that served it.
        thread: u32,
    },
    /// What was counted since the freeze.
    Totals,
    /// Nothing more will come.
    Bye,
}

/// What is in the memory file of [`ToTaker::State`], and what else the taker must know.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    /// Each section's thread and length in bytes, in the order in which they stand in the file.
    pub(crate) sections: Vec<(u32, u64)>,
    /// Bytes of the common state, which stand behind them.
    pub(crate) common: u64,
    /// How many connections are in the sections, by kind.
    pub(crate) moved: Counts,
    /// What a guard compares with.
    pub(crate) figures: Vec<Sample>,
}

/// The totals of some moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// How long ago it was.
    pub(crate) ago: Duration,
    /// Whether it is one of those that are kept for an hour, by the minute.
    #[serde(default)]
    pub(crate) coarse: bool,
    pub(crate) figures: Figures,
}

/// From the taker to the giver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(crate) enum ToGiver {
    /// The answer to the offer.
    Accept {
        /// The version to be spoken.
        version: u16,
        /// The format to be written; none if nothing can move.
        format: Option<u16>,
    },
    /// So many messages with sockets (`Sockets`, `Late`) were taken since the beginning.
    Taken {
        /// Counted from the first.
        messages: u64,
    },
    /// Everything was read and checked.
    Ready,
    /// It cannot take over. The process ends.
    Refuse {
        /// One sentence.
        why: String,
    },
    /// Send nothing more.
    Enough,
}

/// The newest number in both ranges.
pub(crate) fn common(ours: &RangeInclusive<u16>, theirs: [u16; 2]) -> Option<u16> {
    let newest = (*ours.end()).min(theirs[1]);
    (newest >= *ours.start() && newest >= theirs[0]).then_some(newest)
}

/// Writes everything into a sealed memory file.
///
/// # Errors
/// The process is out of descriptors, or the system out of memory.
pub(crate) fn seal(frozen: &Frozen, figures: Vec<Sample>) -> Result<(State, OwnedFd), String> {
    if frozen.sections.len() > Frozen::MAX_SECTIONS {
        return Err(format!("{} sections are more than {}", frozen.sections.len(), Frozen::MAX_SECTIONS));
    }
    let length = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let parts: Vec<&[u8]> =
        frozen.sections.iter().map(|section| &*section.bytes).chain([&*frozen.common]).collect();
    let file = memfd::sealed_parts("handover-state", &parts).map_err(|error| error.to_string())?;
    let state = State {
        sections: frozen.sections.iter().map(|section| (section.thread, length(&section.bytes))).collect(),
        common: length(&frozen.common),
        moved: frozen.moved.clone(),
        figures,
    };
    Ok((state, file))
}

/// Reads what [`seal`] has written.
///
/// # Errors
/// It is not what the message says.
pub(crate) fn unseal(state: &State, file: impl AsFd) -> Result<FrozenView, String> {
    let bytes = memfd::read_sealed(file, MAX_STATE_BYTES).map_err(|error| error.to_string())?;
    let all = Arc::new(Zeroizing::new(bytes));
    if state.sections.len() > Frozen::MAX_SECTIONS {
        return Err(format!("{} sections came, more than {}", state.sections.len(), Frozen::MAX_SECTIONS));
    }
    let mut at = 0_usize;
    let mut piece = |length: u64| {
        let end = usize::try_from(length).ok().and_then(|length| at.checked_add(length));
        let end = end.ok_or_else(|| "the states are shorter than announced".to_owned())?;
        let piece =
            Piece::of(&all, at..end).ok_or_else(|| "the states are shorter than announced".to_owned())?;
        at = end;
        Ok::<Piece, String>(piece)
    };
    let mut sections = Vec::with_capacity(state.sections.len());
    for (thread, length) in &state.sections {
        sections.push((*thread, piece(*length)?));
    }
    let common = piece(state.common)?;
    if at != all.len() {
        return Err("the states are longer than announced".to_owned());
    }
    Ok(FrozenView { sections, common, moved: state.moved.clone() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Section;
    use super::*;

    #[test]
    fn the_newest_common_number_is_used() {
        assert_eq!(common(&(1..=2), [1, 1]), Some(1));
        assert_eq!(common(&(1..=2), [2, 5]), Some(2));
        assert_eq!(common(&(1..=1), [2, 5]), None);
        assert_eq!(common(&(3..=4), [1, 2]), None);
        assert_eq!(common(&(1..=4), [5, 2]), None);
    }

    #[test]
    fn messages_of_another_version_with_more_in_them_are_understood() {
        let text = r#"{"say":"offer","versions":[1,9],"formats":[1,7],"open":null,"new":true}"#;
        let offer: ToTaker = serde_json::from_str(text).unwrap();
        assert_eq!(offer, ToTaker::Offer { versions: [1, 9], formats: Some([1, 7]), open: None });
        let text = r#"{"say":"state","sections":[[0,2]],"moved":{"http":1}}"#;
        let ToTaker::State(state) = serde_json::from_str(text).unwrap() else { panic!() };
        assert_eq!((state.sections, state.common), (vec![(0, 2)], 0));
    }

    proptest! {
        #[test]
        fn what_was_sealed_is_read_back(
            parts in prop::collection::vec((any::<u32>(), prop::collection::vec(any::<u8>(), 0..200)), 0..20),
            common in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let sections = parts.iter().map(|(thread, bytes)| Section { thread: *thread, bytes: bytes.clone() });
            let moved = Counts::from([("http".to_owned(), 3)]);
            let frozen = Frozen { sections: sections.collect(), common: common.clone(), moved: moved.clone() };
            let (state, file) = seal(&frozen, Vec::new()).unwrap();
            let view = unseal(&state, file).unwrap();
            prop_assert_eq!(&*view.common, &*common);
            prop_assert_eq!(&view.moved, &moved);
            let read: Vec<_> = view.sections.iter().map(|(thread, bytes)| (*thread, bytes.to_vec())).collect();
            prop_assert_eq!(read, parts);
        }

        #[test]
        fn a_file_that_is_not_as_announced_is_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..50),
            sections in prop::collection::vec((any::<u32>(), prop_oneof![0..60_u64, any::<u64>()]), 0..5),
            common in prop_oneof![0..60_u64, any::<u64>()],
        ) {
            let file = memfd::sealed("test", &bytes).unwrap();
            let sum: u128 = sections.iter().map(|(_, length)| u128::from(*length)).sum::<u128>() + u128::from(common);
            let state = State { sections, common, ..State::default() };
            prop_assert_eq!(unseal(&state, file).is_ok(), sum == bytes.len() as u128);
        }
    }
}
