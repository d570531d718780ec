//! The system calls beneath the journal, behind a small trait, so that full and failing disks have tests.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, OFlags};
use rustix::io::Errno;

use super::{JournalError, MAX_FILE_BYTES};

/// The journal's file in its directory.
pub(super) const FILE_NAME: &str = "journal";
/// Directory of the generations' bytes.
const BLOBS_NAME: &str = "generations";
const TEMPORARY_NAME: &str = ".new";
const LOCK_NAME: &str = "lock";
/// What is read of a file at most: it may outgrow its bound by one record, and by nothing else.
const MAX_READ_BYTES: u64 = 2 * MAX_FILE_BYTES;

/// What the journal needs of a disk.
pub(super) trait Store: Debug + Send {
    /// Adds bytes to the end of the file.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Waits until everything that was written is on disk, generations' bytes too.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    /// Makes sure that `bytes` more can be written after `length`.
    fn reserve(&mut self, length: u64, bytes: u64) -> io::Result<()>;
    /// Puts other contents in the place of the file, whole or not at all.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Writes a generation's bytes under the name of their digest, on disk after the next [`Store::sync`].
    fn keep_blob(&mut self, digest: &str, bytes: &[u8]) -> io::Result<()>;
    /// Reads them.
    fn blob(&self, digest: &str) -> io::Result<Vec<u8>>;
    /// Removes all that are not named.
    fn keep_only_blobs(&mut self, digests: &[&str]) -> io::Result<()>;
}

/// A directory (0700) with the file (0600) and a lock that is held as long as this lives.
#[derive(Debug)]
pub(super) struct DirStore {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    /// Generations' bytes that may not be on disk yet.
    fresh_blobs: Vec<File>,
    _lock: File,
}

impl DirStore {
    /// Makes or opens the directory and reads the file.
    pub(super) fn open(dir: &Path) -> Result<(Self, Vec<u8>), JournalError> {
        let make = |source: &io::Error| JournalError::from_io("make a directory for", dir, source);
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| make(&e))?;
        check_owner_and_tighten(dir)?;
        let lock_path = dir.join(LOCK_NAME);
        let lock =
            open_file(&lock_path).map_err(|e| JournalError::from_io("open the lock of", &lock_path, &e))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(JournalError::InUse { path: dir.to_owned() }),
            Err(errno) => return Err(JournalError::from_io("lock", &lock_path, &errno.into())),
        }
        let path = dir.join(FILE_NAME);
        let mut bytes = Vec::new();
        let file = open_file(&path)
            .and_then(|file| {
                (&file).take(MAX_READ_BYTES).read_to_end(&mut bytes)?;
                Ok(file)
            })
            .map_err(|e| JournalError::from_io("open", &path, &e))?;
        sync_directory(dir).map_err(|e| JournalError::from_io("make", &path, &e))?;
        Ok((Self { dir: dir.to_owned(), path, file, fresh_blobs: Vec::new(), _lock: lock }, bytes))
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn blobs(&self) -> io::Result<PathBuf> {
        let blobs = self.dir.join(BLOBS_NAME);
        DirBuilder::new().recursive(true).mode(0o700).create(&blobs)?;
        Ok(blobs)
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits().cast_signed())
        .open(path)
}

/// The directory must be ours. Others' access to it is taken away: it holds configuration and comments.
fn check_owner_and_tighten(dir: &Path) -> Result<(), JournalError> {
    let error = |source: io::Error| JournalError::from_io("use the directory of", dir, &source);
    let meta = fs::symlink_metadata(dir).map_err(error)?;
    let me = rustix::process::geteuid().as_raw();
    let refuse = |reason: String| {
        Err(JournalError::NotPermitted { doing: "use the directory of", path: dir.to_owned(), reason })
    };
    if !meta.is_dir() {
        return refuse("it is not a directory".to_owned());
    }
    if meta.uid() != me {
        return refuse(format!("it belongs to uid {}, and this is uid {me}", meta.uid()));
    }
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(error)?;
    }
    Ok(())
}

/// Writes a file whole or not at all: temporary file, fsync, rename, fsync of the directory.
fn write_whole(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<File> {
    let file = write_temporary(dir, bytes)?;
    file.sync_all()?;
    fs::rename(dir.join(TEMPORARY_NAME), path)?;
    sync_directory(dir)?;
    Ok(file)
}

fn write_temporary(dir: &Path, bytes: &[u8]) -> io::Result<File> {
    let temporary = dir.join(TEMPORARY_NAME);
    match fs::remove_file(&temporary) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = open_file(&temporary)?;
    file.write_all(bytes)?;
    Ok(file)
}

fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

impl Store for DirStore {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        if !self.fresh_blobs.is_empty() {
            self.fresh_blobs.iter().try_for_each(File::sync_all)?;
            sync_directory(&self.blobs()?)?;
            self.fresh_blobs.clear();
        }
        self.file.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn reserve(&mut self, length: u64, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, length, bytes) {
            // Not every file system can; then a full disk is noticed when writing.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file = write_whole(&self.dir, &self.path, bytes)?;
        Ok(())
    }

    fn keep_blob(&mut self, digest: &str, bytes: &[u8]) -> io::Result<()> {
        let blobs = self.blobs()?;
        let path = blobs.join(digest);
        if fs::read(&path).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        // A name whose bytes a crash of the machine has kept from the disk is found by their digest not to hold.
        let file = write_temporary(&blobs, bytes)?;
        fs::rename(blobs.join(TEMPORARY_NAME), &path)?;
        self.fresh_blobs.push(file);
        Ok(())
    }

    fn blob(&self, digest: &str) -> io::Result<Vec<u8>> {
        fs::read(self.dir.join(BLOBS_NAME).join(digest))
    }

    fn keep_only_blobs(&mut self, digests: &[&str]) -> io::Result<()> {
        for entry in fs::read_dir(self.blobs()?)? {
            let entry = entry?;
            if !digests.iter().any(|digest| entry.file_name() == *digest) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}
