//! Bytes in a sealed memory file (memfd_create(2)).
//!
//! A sealed file can neither grow, shrink nor change, and the seals cannot be taken off again. A process
//! that checked the bytes once may therefore trust them for good, although the other process still has
//! the descriptor.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags};

/// The seals that [`sealed`] puts on and [`read_sealed`] insists on.
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// What can go wrong with a memory file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemfdError {
    /// It could not be created, written, sealed or read.
    #[error("could not {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// It is not sealed, or is no memory file at all: its bytes could change under our hands.
    #[error("a descriptor was passed as a sealed memory file, and is none")]
    NotSealed,
    /// It is longer than its reader wants to hold.
    #[error("a memory file of {bytes} bytes is over the limit of {limit}")]
    TooBig {
        /// Its length in bytes.
        bytes: u64,
        /// The reader's limit in bytes.
        limit: usize,
    },
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> MemfdError {
    move |source| MemfdError::Io { doing, source }
}

/// A new memory file with these bytes, sealed, close-on-exec. `name` shows up in `/proc/<pid>/fd` only.
///
/// # Errors
/// The process is out of descriptors, or the system out of memory.
pub fn sealed(name: &str, bytes: &[u8]) -> Result<OwnedFd, MemfdError> {
    sealed_parts(name, &[bytes])
}

/// The same with bytes that lie in several places, one part behind the other.
///
/// # Errors
/// As [`sealed`].
pub fn sealed_parts(name: &str, parts: &[&[u8]]) -> Result<OwnedFd, MemfdError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create(name, flags)
        .map_err(|errno| failed("create a memory file")(errno.into()))?;
    let mut file = File::from(file);
    for part in parts {
        file.write_all(part).map_err(failed("write a memory file"))?;
    }
    rustix::fs::fcntl_add_seals(&file, SEALS).map_err(|errno| failed("seal a memory file")(errno.into()))?;
    Ok(file.into())
}

/// All bytes of a sealed memory file. Reads from its start and does not move its position, which other
/// processes share.
///
/// # Errors
/// [`MemfdError::NotSealed`], [`MemfdError::TooBig`] above `limit` bytes, [`MemfdError::Io`].
pub fn read_sealed(file: impl AsFd, limit: usize) -> Result<Vec<u8>, MemfdError> {
    let sealed = Sealed::of(file, limit)?;
    sealed.read(0, sealed.length)
}

/// Whether a descriptor is that of a sealed memory file.
pub(crate) fn is_sealed(file: impl AsFd) -> bool {
    rustix::fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SEALS))
}

/// A sealed memory file that is read piece by piece.
#[derive(Debug)]
pub(crate) struct Sealed {
    file: File,
    /// In bytes.
    pub(crate) length: usize,
}

impl Sealed {
    /// Checks that it is sealed and not longer than `limit` bytes.
    pub(crate) fn of(file: impl AsFd, limit: usize) -> Result<Self, MemfdError> {
        let file = file.as_fd();
        if !is_sealed(file) {
            return Err(MemfdError::NotSealed);
        }
        let file = file.try_clone_to_owned().map(File::from).map_err(failed("read a memory file"))?;
        let length = file.metadata().map_err(failed("read a memory file"))?.len();
        match usize::try_from(length).ok().filter(|&length| length <= limit) {
            Some(length) => Ok(Self { file, length }),
            None => Err(MemfdError::TooBig { bytes: length, limit }),
        }
    }

    /// `length` bytes from `offset` on. All of them must be there: see [`Sealed::length`].
    pub(crate) fn read(&self, offset: usize, length: usize) -> Result<Vec<u8>, MemfdError> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset as u64).map_err(failed("read a memory file"))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_and_cannot_change() {
        let file = sealed("test", b"some bytes").unwrap();
        assert_eq!(read_sealed(&file, 100).unwrap(), b"some bytes");
        let again = File::from(file);
        assert!(again.write_at(b"x", 0).is_err());
        assert!(again.set_len(1).is_err());
        assert_eq!(read_sealed(&again, 100).unwrap(), b"some bytes");
    }

    #[test]
    fn an_unsealed_file_is_refused() {
        let memory = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(matches!(read_sealed(&memory, 100), Err(MemfdError::NotSealed)));
        let ordinary = tempfile::tempfile().unwrap();
        assert!(matches!(read_sealed(&ordinary, 100), Err(MemfdError::NotSealed)));
    }

    #[test]
    fn a_file_over_the_limit_is_refused_by_its_length() {
        let file = sealed("test", &[7; 101]).unwrap();
        assert!(matches!(read_sealed(&file, 100), Err(MemfdError::TooBig { bytes: 101, limit: 100 })));
    }
}
