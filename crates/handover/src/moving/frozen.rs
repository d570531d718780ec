//! Everything that moves in the moment of a freeze, as bytes.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use zeroize::{Zeroize as _, Zeroizing};

use super::Counts;

/// What a service has written down while all its threads stood still. Its bytes are overwritten when it is dropped: there are
/// keys in them.
#[derive(Default)]
pub struct Frozen {
    /// The connections: as many sections as the service likes, at most [`Frozen::MAX_SECTIONS`].
    pub sections: Vec<Section>,
    /// What belongs to no connection: counters, idle connections to endpoints, keys of tickets.
    pub common: Vec<u8>,
    /// What is in the sections, by kind.
    pub moved: Counts,
}

/// The connections of one thread.
pub struct Section {
    /// The thread that served them, the same as of their sockets.
    pub thread: u32,
    /// Their states, in the move's format.
    pub bytes: Vec<u8>,
}

impl Frozen {
    /// The most sections of one freeze.
    pub const MAX_SECTIONS: usize = 4096;
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.common.zeroize();
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// Without the bytes: there are keys in them.
impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frozen")
            .field("sections", &self.sections)
            .field("common", &self.common.len())
            .field("moved", &self.moved)
            .finish()
    }
}

impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Section").field("thread", &self.thread).field("bytes", &self.bytes.len()).finish()
    }
}

/// What arrived of a [`Frozen`]. The bytes came from another process, perhaps of another version: they are to be checked.
#[derive(Debug, Clone)]
pub struct FrozenView {
    /// The connections: the thread that served them, and their states.
    pub sections: Vec<(u32, Piece)>,
    /// What belongs to no connection.
    pub common: Piece,
    /// What the giver says is in the sections, by kind.
    pub moved: Counts,
}

/// Some of the bytes that arrived. Cloning it copies nothing, so that each section can go to the thread that will serve it;
/// the bytes are overwritten when the last one is dropped.
#[derive(Clone)]
pub struct Piece {
    all: Arc<Zeroizing<Vec<u8>>>,
    range: Range<usize>,
}

impl Piece {
    /// A piece of `all`; `None` if it has not so many bytes.
    pub(crate) fn of(all: &Arc<Zeroizing<Vec<u8>>>, range: Range<usize>) -> Option<Self> {
        all.get(range.clone())?;
        Some(Self { all: Arc::clone(all), range })
    }
}

impl From<Vec<u8>> for Piece {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { all: Arc::new(Zeroizing::new(bytes)), range }
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.all.get(self.range.clone()).unwrap_or_default()
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.range.len())
    }
}

/// As if it had been sent and had arrived whole; for tests of a service.
impl From<Frozen> for FrozenView {
    fn from(mut frozen: Frozen) -> Self {
        let pieces = frozen
            .sections
            .iter_mut()
            .map(|section| (section.thread, Piece::from(std::mem::take(&mut section.bytes))));
        Self {
            sections: pieces.collect(),
            common: Piece::from(std::mem::take(&mut frozen.common)),
            moved: std::mem::take(&mut frozen.moved),
        }
    }
}
