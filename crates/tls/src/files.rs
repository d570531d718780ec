//! Where the bytes of certificates and keys come from: the disk, a bundle, a test's map.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

/// The longest file with certificates or a key, in bytes. A file with all authorities of the web has 250 KiB.
pub const MAX_PEM_BYTES: usize = 4 * 1024 * 1024;

/// Reads files whole. Every function `Fn(&Path) -> io::Result<Arc<[u8]>>` does.
pub trait Files {
    /// The bytes of a file as they stand at one moment.
    ///
    /// # Errors
    /// As from the system; what comes is shown to people.
    fn read(&mut self, path: &Path) -> io::Result<Arc<[u8]>>;

    /// The permission bits of the file, to warn about a key that everybody can read; `None` where they say nothing, as
    /// in a bundle.
    fn mode(&mut self, path: &Path) -> Option<u32> {
        let _ = path;
        None
    }
}

impl<F: FnMut(&Path) -> io::Result<Arc<[u8]>>> Files for F {
    fn read(&mut self, path: &Path) -> io::Result<Arc<[u8]>> {
        self(path)
    }
}

/// The file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

/// How often a file that was written to while it was read is read again.
const ATTEMPTS: usize = 3;
/// `O_NONBLOCK | O_NOCTTY` of Linux (open(2)): opening a FIFO must not wait for somebody to write to it.
const OPEN_FLAGS: i32 = 0o4000 | 0o400;

impl Files for Disk {
    fn read(&mut self, path: &Path) -> io::Result<Arc<[u8]>> {
        for _ in 0..ATTEMPTS {
            let mut file = File::options().read(true).custom_flags(OPEN_FLAGS).open(path)?;
            let before = file.metadata()?;
            if before.is_dir() {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            if !before.is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
            }
            let mut bytes = Vec::new();
            (&mut file).take(MAX_PEM_BYTES as u64 + 1).read_to_end(&mut bytes)?;
            if stamp(&before) == stamp(&file.metadata()?) {
                return Ok(bytes.into());
            }
        }
        Err(io::Error::other(format!("the file was written to while it was read, {ATTEMPTS} times in a row")))
    }

    fn mode(&mut self, path: &Path) -> Option<u32> {
        std::fs::metadata(path).ok().map(|metadata| metadata.mode() & 0o7777)
    }
}

/// What changes when somebody writes to a file.
fn stamp(metadata: &Metadata) -> (u64, i64, i64, i64, i64) {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec())
}
