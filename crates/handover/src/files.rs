//! Reading one file whole, from the disk, as it stands at one moment.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::OFlags;

/// The longest file that a generation may name.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// How often a file that was written to while it was read is read again.
const ATTEMPTS: usize = 3;

/// What tells one state of a file from another without reading it (stat(2)): whose inode, how long, written and
/// changed when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// That of the file that the path leads to now; `None` if there is none.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().as_ref().map(Self::of)
    }

    /// Seconds since 1970 of the last change, as the file system has it.
    pub(crate) fn changed_at(&self) -> i64 {
        self.changed.0
    }
}

/// One look at a path: what stood there, and when that was.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: PathBuf,
    /// The state in which it was read, or could not be read; `None` if nothing was there.
    pub(crate) stamp: Option<Stamp>,
    /// What was read.
    pub(crate) bytes: Option<Arc<[u8]>>,
    /// When.
    pub(crate) at: SystemTime,
}

/// [`read`], and what is to be remembered of it.
pub(crate) fn look(path: &Path) -> (io::Result<Arc<[u8]>>, Seen) {
    let at = SystemTime::now();
    let seen = |stamp, bytes| Seen { path: path.to_owned(), stamp, bytes, at };
    let (mut before, mut result) = (None, read(path));
    if result.is_err() {
        // Once more, with its state taken before: if it is replaced in between, the next state is news.
        before = Stamp::at(path);
        result = read(path);
    }
    match result {
        Ok((bytes, stamp)) => {
            let bytes = Arc::<[u8]>::from(bytes);
            (Ok(Arc::clone(&bytes)), seen(Some(stamp), Some(bytes)))
        }
        Err(error) => (Err(error), seen(before, None)),
    }
}

/// What can be said of a path without reading what is there.
pub(crate) fn glance(path: &Path) -> Seen {
    Seen { path: path.to_owned(), stamp: Stamp::at(path), bytes: None, at: SystemTime::now() }
}

/// The bytes of a regular file.
///
/// Never blocks on something that is no file (a FIFO has no end, a device may have side effects), and never gives a
/// mixture of what stood in the file before and after somebody wrote to it.
fn read(path: &Path) -> io::Result<(Vec<u8>, Stamp)> {
    for _ in 0..ATTEMPTS {
        if let Some(read) = attempt(path)? {
            return Ok(read);
        }
    }
    Err(io::Error::other(format!("the file was written to while it was read, {ATTEMPTS} times in a row")))
}

fn attempt(path: &Path) -> io::Result<Option<(Vec<u8>, Stamp)>> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let mut file = File::options().read(true).custom_flags(flags).open(path)?;
    let before = file.metadata()?;
    if before.is_dir() {
        return Err(rustix::io::Errno::ISDIR.into());
    }
    if !before.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    if before.len() > MAX_FILE_BYTES {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(before.len()).unwrap_or(0));
    (&mut file).take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    let length = bytes.len() as u64;
    if length > MAX_FILE_BYTES {
        return Err(too_large());
    }
    let after = file.metadata()?;
    // Files of /proc and /sys say that they are empty.
    let whole = length == after.len() || after.len() == 0;
    let stamp = Stamp::of(&after);
    Ok((whole && Stamp::of(&before) == stamp).then_some((bytes, stamp)))
}

fn too_large() -> io::Error {
    let limit = MAX_FILE_BYTES / (1024 * 1024);
    io::Error::new(io::ErrorKind::FileTooLarge, format!("the file is longer than {limit} MiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifo_is_refused_and_does_not_block() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_missing_file_and_a_directory_say_so_in_the_systems_words() {
        let directory = tempfile::tempdir().unwrap();
        let missing = read(&directory.path().join("missing")).unwrap_err();
        assert_eq!(missing.to_string(), "No such file or directory (os error 2)");
        assert_eq!(read(directory.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }

    #[test]
    fn a_file_over_the_limit_is_refused_by_its_length() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MAX_FILE_BYTES + 1).unwrap();
        assert_eq!(read(file.path()).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
