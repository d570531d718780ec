//! Descriptors on their way from one image of this process to the next, and the step itself.
//!
//! ```text
//!   Packing: borrowed ─▶ numbers ─▶ go ─▶ execveat ─▶ arrived ─▶ LeftOpen ─┬─ Unpacking: duplicates, to go on with
//!                                                        │                 └─ closed when that is done
//!                                                        └─ go_back: the numbers are as they were
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use handover_handoff::inherit::{self, Expected, InheritError, LeftOpen, PRIVATE_VARIABLES, SAVED_VARIABLE};
use handover_handoff::process::Executable;
use handover_handoff::{memfd, own};

use super::state::{MAX_BYTES, Minimal};
use super::{ResumeError, State};

/// Private variables that are this process's in its next image, too.
const STILL_OURS: [&str; 4] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "FDSTORE"];

/// Descriptors that will be left open, and the numbers that stand for them.
#[derive(Debug, Default)]
pub(crate) struct Packing<'a> {
    descriptors: BTreeMap<RawFd, BorrowedFd<'a>>,
}

impl<'a> Packing<'a> {
    /// Packs one; gives its number.
    pub(crate) fn put(&mut self, descriptor: &'a impl AsFd) -> RawFd {
        let descriptor = descriptor.as_fd();
        self.descriptors.insert(descriptor.as_raw_fd(), descriptor);
        descriptor.as_raw_fd()
    }

    /// The numbers of all.
    pub(crate) fn numbers(&self) -> Vec<RawFd> {
        self.descriptors.keys().copied().collect()
    }
}

/// Executes another program in the place of this one, which goes on with `state`. Returns only if that failed, and then
/// says why; nothing has changed.
pub(crate) fn go(executable: &Executable, state: &State, packed: &Packing<'_>) -> ResumeError {
    match super::sealed(state) {
        Ok(saved) => {
            let kept: Vec<BorrowedFd<'_>> = packed.descriptors.values().copied().collect();
            failed(&execute(executable, &saved, kept))
        }
        Err(error) => error,
    }
}

fn failed(error: &io::Error) -> ResumeError {
    ResumeError::Other { doing: "execute the new program", why: error.to_string() }
}

fn execute<'a>(executable: &Executable, saved: &'a OwnedFd, mut kept: Vec<BorrowedFd<'a>>) -> io::Error {
    kept.push(saved.as_fd());
    let arguments: Vec<OsString> = std::env::args_os().collect();
    own::exec_in_place(executable, &arguments, &environment(saved.as_raw_fd()), &kept)
}

/// This process's variables, but for those that were meant for its start.
fn environment(saved: RawFd) -> Vec<(OsString, OsString)> {
    let stays = |name: &OsString| {
        let is = |other: &&str| name == *other;
        STILL_OURS.iter().any(&is) || !PRIVATE_VARIABLES.iter().any(is)
    };
    let ours = std::env::vars_os().filter(|(name, _)| stays(name));
    ours.chain([(SAVED_VARIABLE.into(), saved.to_string().into())]).collect()
}

/// What another image of this process has left for this one.
#[derive(Debug)]
pub(crate) struct Arrived {
    /// What it left, or why it cannot be read.
    pub(crate) state: Result<State, ResumeError>,
    bytes: Vec<u8>,
    left: LeftOpen,
    back: Minimal,
}

/// Whether this process is another image of a supervisor, and what that has left. Call it first thing in `main`.
///
/// # Errors
/// What was announced is not there, so that there is no way on and none back.
pub(crate) fn arrived() -> Result<Option<Arrived>, ResumeError> {
    let Some(file) = inherit::saved()? else { return Ok(None) };
    let bytes = memfd::read_sealed(file, MAX_BYTES)?;
    let back: Minimal =
        serde_json::from_slice(&bytes).map_err(|error| ResumeError::Damaged(error.to_string()))?;
    let left = LeftOpen::take(&back.descriptors);
    Ok(Some(Arrived { state: State::read(&bytes), bytes, left, back }))
}

impl Arrived {
    /// The way to the descriptors.
    pub(crate) fn unpack(&self) -> Unpacking<'_> {
        Unpacking { left: &self.left, shared: BTreeMap::new() }
    }

    /// Goes back into the program that has left all this, and tells it why. Returns only if there is no way back.
    pub(crate) fn go_back(self, why: &ResumeError) -> ResumeError {
        let returned = || -> Result<OwnedFd, ResumeError> {
            let damaged = |error: serde_json::Error| ResumeError::Damaged(error.to_string());
            let mut state: serde_json::Map<String, serde_json::Value> =
                serde_json::from_slice(&self.bytes).map_err(damaged)?;
            if state.get("came_back").is_some_and(|already| !already.is_null()) {
                let why = "it is the one that was gone back to".to_owned();
                return Err(ResumeError::Other { doing: "go back to another program", why });
            }
            state.insert("came_back".to_owned(), why.to_string().into());
            let bytes = serde_json::to_vec(&state).map_err(damaged)?;
            Ok(memfd::sealed("handover-state", &bytes)?)
        };
        let saved = match returned() {
            Ok(saved) => saved,
            Err(error) => return error,
        };
        match self.left.duplicate(self.back.back.executable, Expected::Other) {
            Ok(file) => {
                let executable = Executable::from_descriptor(file, self.back.back.path.clone());
                failed(&execute(&executable, &saved, self.left.all().collect()))
            }
            Err(error) => error.into(),
        }
    }
}

/// Takes up what was left: duplicates, so that nothing is closed if it does not come to an end.
#[derive(Debug)]
pub(crate) struct Unpacking<'a> {
    left: &'a LeftOpen,
    shared: BTreeMap<RawFd, Arc<OwnedFd>>,
}

impl Unpacking<'_> {
    /// A duplicate of one that stands in one place.
    pub(crate) fn owned(&self, descriptor: RawFd, expected: Expected) -> Result<OwnedFd, InheritError> {
        self.left.duplicate(descriptor, expected)
    }

    /// The duplicate of one that stands in several.
    pub(crate) fn shared(
        &mut self,
        descriptor: RawFd,
        expected: Expected,
    ) -> Result<Arc<OwnedFd>, InheritError> {
        if let Some(known) = self.shared.get(&descriptor) {
            return Ok(Arc::clone(known));
        }
        let taken = Arc::new(self.left.duplicate(descriptor, expected)?);
        self.shared.insert(descriptor, Arc::clone(&taken));
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_that_is_packed_twice_is_left_open_once() {
        let (reader, writer) = io::pipe().unwrap();
        let mut packing = Packing::default();
        let numbers = [packing.put(&reader), packing.put(&writer), packing.put(&reader)];
        assert_eq!(numbers[0], numbers[2]);
        assert_eq!(packing.numbers().len(), 2);
    }

    #[test]
    fn the_next_image_gets_no_variable_that_was_meant_for_this_ones_start() {
        let environment = environment(7);
        let get = |name: &str| environment.iter().filter(|(known, _)| known == name).count();
        assert_eq!((get(SAVED_VARIABLE), get("LISTEN_FDS"), get("HANDOVER_CHANNEL")), (1, 0, 0));
        assert_eq!(get("PATH"), 1);
    }
}
