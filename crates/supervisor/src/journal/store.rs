//! The system calls beneath the journal, behind a small trait, so that full and failing disks have tests.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{JournalError, MAX_FILE_BYTES};
use crate::locking::{self, AFTERLIFE};

/// The journal's file in its directory.
pub(super) const FILE_NAME: &str = "journal";
/// Directory of the objects: files of generations, and lists of them.
const OBJECTS_NAME: &str = "objects";
/// Directory in which versions before this one kept generations.
const BLOBS_NAME: &str = "generations";
const TEMPORARY_NAME: &str = ".new";
const LOCK_NAME: &str = "lock";
/// What is read of a file at most: it may outgrow its bound by one record, and by nothing else.
const MAX_READ_BYTES: u64 = 2 * MAX_FILE_BYTES;

/// More new objects than this are synced together with all else on their file system, instead of one by one.
const SYNCED_ONE_BY_ONE: usize = 32;

/// What the journal needs of a disk.
pub(super) trait Store: Debug + Send {
    /// Adds bytes to the end of the file.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Waits until everything that was written into the file is on disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    /// Makes sure that `bytes` more can be written after `length`.
    fn reserve(&mut self, length: u64, bytes: u64) -> io::Result<()>;
    /// Puts other contents in the place of the file, whole or not at all.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Writes an object under this name, whole or not at all; on disk after the next [`Store::sync_objects`].
    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// The length of an object, if it is there.
    fn length(&self, name: &str) -> Option<u64>;
    /// Reads an object.
    fn get(&self, name: &str) -> io::Result<Vec<u8>>;
    /// Removes an object.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// The names of all objects.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Waits until all objects that were put are on disk; with `all`, also those that other processes have put.
    fn sync_objects(&mut self, all: bool) -> io::Result<()>;
    /// Reads what versions before this one kept.
    fn blob(&self, name: &str) -> io::Result<Vec<u8>>;
    /// Removes all of that which is not named.
    fn keep_only_blobs(&mut self, names: &[&str]) -> io::Result<()>;
    /// A duplicate of the lock, for another program in this one's place.
    fn lock(&self) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A directory (0700) with the file (0600) and a lock that is held as long as this lives.
#[derive(Debug)]
pub(super) struct DirStore {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    /// The file has its name, and the directory may not have that on disk yet.
    is_new: bool,
    /// The directory of the objects, when it was needed for the first time. Of twenty thousand paths the part before the name
    /// is most of the work.
    objects: Option<File>,
    /// Objects that may not be on disk yet, as long as they are few.
    fresh: Vec<File>,
    /// There are more of them.
    more_fresh: bool,
    lock: File,
}

impl DirStore {
    /// Makes or opens the directory and reads the file. `lock` is that of the directory, if this process has it already.
    pub(super) fn open(dir: &Path, lock: Option<OwnedFd>) -> Result<(Self, Vec<u8>), JournalError> {
        let make = |source: &io::Error| JournalError::from_io("make a directory for", dir, source);
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| make(&e))?;
        check_owner_and_tighten(dir)?;
        let lock = match lock {
            Some(lock) => File::from(lock),
            None => lock_directory(dir)?,
        };
        let path = dir.join(FILE_NAME);
        let mut bytes = Vec::new();
        let file = open_file(&path)
            .and_then(|file| {
                (&file).take(MAX_READ_BYTES).read_to_end(&mut bytes)?;
                Ok(file)
            })
            .map_err(|e| JournalError::from_io("open", &path, &e))?;
        sync_directory(dir).map_err(|e| JournalError::from_io("make", &path, &e))?;
        let store = Self {
            dir: dir.to_owned(),
            path,
            file,
            is_new: false,
            objects: None,
            fresh: Vec::new(),
            more_fresh: false,
            lock,
        };
        Ok((store, bytes))
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn objects(&self) -> PathBuf {
        self.dir.join(OBJECTS_NAME)
    }

    fn make_objects(&mut self) -> io::Result<()> {
        let objects = match self.objects.take() {
            // Somebody may have removed it.
            Some(objects) if objects.metadata()?.nlink() > 0 => objects,
            _ => {
                DirBuilder::new().recursive(true).mode(0o700).create(self.objects())?;
                sync_directory(&self.dir)?;
                File::open(self.objects())?
            }
        };
        self.objects = Some(objects);
        Ok(())
    }
}

fn lock_directory(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join(LOCK_NAME);
    let lock = open_file(&path).map_err(|e| JournalError::from_io("open the lock of", &path, &e))?;
    match locking::lock(&lock, AFTERLIFE) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => Err(JournalError::InUse { path: dir.to_owned() }),
        Err(errno) => Err(JournalError::from_io("lock", &path, &errno.into())),
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
    fn lock(&self) -> io::Result<OwnedFd> {
        Ok(self.lock.try_clone()?.into())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.is_new {
            sync_directory(&self.dir)?;
            self.is_new = false;
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
        let file = write_temporary(&self.dir, bytes)?;
        file.sync_all()?;
        fs::rename(self.dir.join(TEMPORARY_NAME), &self.path)?;
        // From here on it is the file, even if the directory cannot be synced now; the next outcome waits for that.
        self.file = file;
        self.is_new = sync_directory(&self.dir).is_err();
        Ok(())
    }

    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.make_objects()?;
        let Some(objects) = &self.objects else { return Err(io::ErrorKind::NotFound.into()) };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let written = rustix::fs::openat(objects, TEMPORARY_NAME, flags, Mode::RUSR | Mode::WUSR)
            .map_err(io::Error::from)
            .map(File::from)
            .and_then(|mut file| file.write_all(bytes).map(|()| file))
            .and_then(|file| {
                rustix::fs::renameat(objects, TEMPORARY_NAME, objects, name)?;
                Ok(file)
            });
        match written {
            Ok(file) if self.fresh.len() < SYNCED_ONE_BY_ONE => self.fresh.push(file),
            Ok(_) => self.more_fresh = true,
            Err(error) => {
                // On a full disk its room is needed.
                let _ = rustix::fs::unlinkat(objects, TEMPORARY_NAME, AtFlags::empty());
                return Err(error);
            }
        }
        Ok(())
    }

    fn length(&self, name: &str) -> Option<u64> {
        let Some(objects) = &self.objects else {
            let meta = fs::symlink_metadata(self.objects().join(name)).ok()?;
            return meta.is_file().then_some(meta.len());
        };
        let meta = rustix::fs::statat(objects, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let is_file = FileType::from_raw_mode(meta.st_mode).is_file();
        u64::try_from(meta.st_size).ok().filter(|_| is_file)
    }

    fn get(&self, name: &str) -> io::Result<Vec<u8>> {
        let no_waiting = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let path = self.objects().join(name);
        let mut file =
            OpenOptions::new().read(true).custom_flags(no_waiting.bits().cast_signed()).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a file"));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.objects().join(name))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.objects()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn sync_objects(&mut self, all: bool) -> io::Result<()> {
        let (fresh, more) = (std::mem::take(&mut self.fresh), std::mem::take(&mut self.more_fresh));
        if fresh.is_empty() && !more && !all {
            return Ok(());
        }
        let objects = File::open(self.objects())?;
        if more || all {
            return rustix::fs::syncfs(&objects).map_err(io::Error::from);
        }
        fresh.iter().try_for_each(File::sync_all)?;
        objects.sync_all()
    }

    fn blob(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.dir.join(BLOBS_NAME).join(name))
    }

    fn keep_only_blobs(&mut self, names: &[&str]) -> io::Result<()> {
        let blobs = self.dir.join(BLOBS_NAME);
        let entries = match fs::read_dir(&blobs) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if !names.iter().any(|name| entry.file_name() == *name) {
                fs::remove_file(entry.path())?;
            }
        }
        if names.is_empty() { fs::remove_dir(blobs) } else { Ok(()) }
    }
}
