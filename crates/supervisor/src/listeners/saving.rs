//! The listening sockets across an execution of another program: numbers on one side, the same sockets on the other.
//!
//! Taking them up comes in two steps: what can fail, and then what cannot. A socket that is held unlinks its path when it is let
//! go of, and must not do so if the new program goes back into the old one.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use handover_handoff::inherit::{Expected, InheritError};

use super::{Held, Listeners};
use crate::passed::Passed;
use crate::protocol::{Address, ListenerSpec};
use crate::reexec::{Packing, SavedListener, SavedListeners, SavedPassed, Unpacking};
use crate::sockets::{self, SocketFile};

/// One socket, taken up and not held yet.
#[derive(Debug)]
struct Piece {
    spec: ListenerSpec,
    made_for: ListenerSpec,
    socket: Arc<OwnedFd>,
    file: Option<OwnedFd>,
    inherited: bool,
    rests: bool,
}

/// All sockets, taken up and not held yet.
#[derive(Debug)]
pub(crate) struct Unpacked {
    serving: Vec<Piece>,
    kept: Vec<Piece>,
    passed: Vec<Arc<Passed>>,
}

impl Listeners {
    /// Packs all sockets but those of candidates, of which there are none.
    pub(crate) fn save<'a>(&'a self, packing: &mut Packing<'a>) -> SavedListeners {
        let mut save = |(spec, held): &'a (ListenerSpec, Arc<Held>)| SavedListener {
            spec: spec.clone(),
            made_for: Some(held.spec.clone()).filter(|made_for| made_for != spec),
            socket: packing.put(&held.socket),
            file: held.file.as_ref().map(|file| packing.put(file.descriptor())),
            inherited: held.inherited,
            rests: held.rests.load(Ordering::Relaxed),
        };
        let (serving, kept) =
            (self.serving.iter().map(&mut save).collect(), self.kept.iter().map(&mut save).collect());
        let passed = self
            .passed
            .iter()
            .map(|passed| SavedPassed { name: passed.name.clone(), socket: packing.put(&passed.socket) });
        SavedListeners { serving, kept, passed: passed.collect() }
    }

    /// Takes them up.
    ///
    /// # Errors
    /// One of them was not left open.
    pub(crate) fn unpack(
        saved: &SavedListeners,
        unpacking: &mut Unpacking<'_>,
    ) -> Result<Unpacked, InheritError> {
        let mut pieces = |all: &[SavedListener]| -> Result<Vec<Piece>, InheritError> {
            let mut piece = |saved: &SavedListener| {
                Ok(Piece {
                    spec: saved.spec.clone(),
                    made_for: saved.made_for.clone().unwrap_or_else(|| saved.spec.clone()),
                    socket: unpacking.shared(saved.socket, Expected::Socket)?,
                    file: saved.file.map(|file| unpacking.owned(file, Expected::Other)).transpose()?,
                    inherited: saved.inherited,
                    rests: saved.rests,
                })
            };
            all.iter().map(&mut piece).collect()
        };
        let (serving, kept) = (pieces(&saved.serving)?, pieces(&saved.kept)?);
        let mut passed = Vec::with_capacity(saved.passed.len());
        for SavedPassed { name, socket } in &saved.passed {
            let socket = unpacking.shared(*socket, Expected::Socket)?;
            passed.push(Arc::new(Passed::of(name.clone(), socket)));
        }
        Ok(Unpacked { serving, kept, passed })
    }
}

impl Listeners {
    /// What the service manager passed, by name.
    pub(crate) fn passed(&self) -> impl Iterator<Item = (String, Arc<OwnedFd>)> {
        self.passed.iter().map(|passed| (passed.name.clone(), Arc::clone(&passed.socket)))
    }

    /// What serves, for the service manager's store: it has its own already.
    pub(crate) fn to_store(&self) -> impl Iterator<Item = (ListenerSpec, Arc<OwnedFd>)> {
        let ours = self.serving.iter().filter(|(_, held)| !held.inherited);
        ours.map(|(spec, held)| (spec.clone(), Arc::clone(&held.socket)))
    }
}

impl Unpacked {
    /// Holds them.
    pub(crate) fn hold(self) -> Listeners {
        let Unpacked { serving, kept, passed } = self;
        let hold = |pieces: Vec<Piece>| pieces.into_iter().map(Piece::hold).collect();
        Listeners { serving: hold(serving), kept: hold(kept), passed: passed.into(), ..Listeners::default() }
    }
}

impl Piece {
    fn hold(self) -> (ListenerSpec, Arc<Held>) {
        let Piece { spec, made_for, socket, file, inherited, rests } = self;
        let actual = sockets::local_address(&socket).unwrap_or_else(|| made_for.address.to_string());
        let file = match (&made_for.address, file) {
            (Address::Unix { path, .. }, Some(file)) => Some(SocketFile::from_descriptor(path, file)),
            _ => None,
        };
        let rests = AtomicBool::new(rests);
        (spec, Arc::new(Held { spec: made_for, socket, actual, file, inherited, rests }))
    }
}
