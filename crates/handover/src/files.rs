//! Reading one file whole, from the disk, as it stands at one moment.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

/// The longest file that a generation may name.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// How often a file that was written to while it was read is read again.
const ATTEMPTS: usize = 3;

/// The bytes of a regular file.
///
/// Never blocks on something that is no file (a FIFO has no end, a device may have side effects), and never gives a
/// mixture of what stood in the file before and after somebody wrote to it.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    for _ in 0..ATTEMPTS {
        if let Some(bytes) = attempt(path)? {
            return Ok(bytes);
        }
    }
    Err(io::Error::other(format!("the file was written to while it was read, {ATTEMPTS} times in a row")))
}

fn attempt(path: &Path) -> io::Result<Option<Vec<u8>>> {
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
    Ok((whole && stamp(&before) == stamp(&after)).then_some(bytes))
}

/// What changes when somebody writes to a file.
fn stamp(metadata: &Metadata) -> (u64, i64, i64, i64, i64) {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec())
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
