//! What a [`crate::Service`] may use while it prepares: files, each read once and recorded into the
//! generation's bundle, and listeners, which the supervisor holds and lends.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use handover_handoff::Bundle;
use handover_handoff::bundle::BundleError;

use crate::files;
use crate::types::ListenerSpec;

/// The context of one prepare.
pub struct Prepare {
    generation: u64,
    dry_run: bool,
    base: PathBuf,
    /// Where files come from: the disk, or the bundle of a generation that was served before.
    from: Option<Bundle>,
    /// What was read.
    bundle: Bundle,
    notes: Option<Notes>,
    called_off: CalledOff,
    binder: Box<Binder>,
}

/// Asks for listeners; `None` if there is nobody to ask any more.
pub(crate) type Binder = dyn FnMut(&[ListenerSpec]) -> Option<Vec<Result<Bound, BindError>>> + Send;

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

/// A flag that says that nobody waits for the result any more. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct CalledOff(Arc<AtomicBool>);

impl CalledOff {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Which files were read since somebody began to take notes.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Those that could be read, and their bytes.
    pub(crate) read: Vec<(PathBuf, Arc<[u8]>)>,
    /// The last one that could not.
    pub(crate) failed: Option<PathBuf>,
}

impl Prepare {
    pub(crate) fn new(
        generation: u64,
        dry_run: bool,
        base: PathBuf,
        from: Option<Bundle>,
        called_off: CalledOff,
        binder: Box<Binder>,
    ) -> Self {
        Self { generation, dry_run, base, from, bundle: Bundle::new(), notes: None, called_off, binder }
    }

    /// A prepare without a supervisor, for tests of a service: files come from the disk, and `binder` stands in
    /// for who holds the listeners.
    pub fn stand_alone(
        generation: u64,
        dry_run: bool,
        base: &Path,
        mut binder: impl FnMut(&[ListenerSpec]) -> Vec<Result<Bound, BindError>> + Send + 'static,
    ) -> Self {
        let binder = Box::new(move |specs: &[ListenerSpec]| Some(binder(specs)));
        Self::new(generation, dry_run, base.to_owned(), None, CalledOff::default(), binder)
    }

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
        self.called_off.is_set()
    }

    /// What relative paths are relative to: the directory in which the server was started, unless
    /// [`Prepare::set_base`] changed it.
    #[must_use]
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Makes later relative paths relative to `base`, usually the directory of the configuration file.
    pub fn set_base(&mut self, base: &Path) {
        self.base = self.absolute(base);
    }

    /// The bytes of a file, read once: a second read of the same path gives the same bytes. They come from
    /// the disk, or, when a worker is started again, from the bundle of the generation that serves.
    ///
    /// # Errors
    /// As from the system; `InvalidInput` for what is no regular file, `FileTooLarge` beyond the limits of one file
    /// and of all, [`MAX_FILE_BYTES`](crate::MAX_FILE_BYTES) and [`handover_handoff::bundle::MAX_BUNDLE_BYTES`].
    pub fn read(&mut self, path: &Path) -> io::Result<Arc<[u8]>> {
        self.note(path, |prepare, path| prepare.fetch(path, false))
    }

    /// Like [`Prepare::read`], for the top-level file: the one that `handover config` shows. Call it first.
    ///
    /// # Errors
    /// As [`Prepare::read`].
    pub fn read_top(&mut self, path: &Path) -> io::Result<Arc<[u8]>> {
        self.note(path, |prepare, path| prepare.fetch(path, true))
    }

    /// The top-level "file" of a program that has it built in. A worker that is started again gets the bytes that
    /// serve, which may be those of the program's version before.
    ///
    /// # Errors
    /// `FileTooLarge` beyond the limit of all files.
    pub fn built_in_top(&mut self, name: &str, bytes: &[u8]) -> io::Result<Arc<[u8]>> {
        let kept = self.from.as_ref().and_then(|from| from.get(Path::new(name)).cloned());
        let bytes = kept.unwrap_or_else(|| Arc::from(bytes));
        self.bundle.insert_built_in_top(name, Arc::clone(&bytes)).map_err(over_limit)?;
        Ok(bytes)
    }

    /// Like [`Prepare::read`], for text.
    ///
    /// # Errors
    /// As [`Prepare::read`]; `InvalidData` for what is not UTF-8.
    pub fn read_to_string(&mut self, path: &Path) -> io::Result<String> {
        let bytes = self.read(path)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }

    /// Asks the supervisor for all the listeners of this generation. It lends those it holds already and
    /// binds the others; those not named here are let go after the commit. Call it once, last, with all.
    ///
    /// The answers come in the order of `specs`.
    pub fn bind(&mut self, specs: &[ListenerSpec]) -> Vec<Result<Bound, BindError>> {
        let answers = if self.is_cancelled() { None } else { (self.binder)(specs) };
        match answers {
            Some(answers) if answers.len() == specs.len() => answers,
            _ => specs.iter().map(|_| Err(BindError::Cancelled)).collect(),
        }
    }

    /// Takes notes from now on of which files are read.
    pub(crate) fn begin_notes(&mut self) {
        self.notes = Some(Notes::default());
    }

    /// The notes since [`Prepare::begin_notes`].
    pub(crate) fn take_notes(&mut self) -> Notes {
        self.notes.take().unwrap_or_default()
    }

    /// What was read, once the prepare is over.
    pub(crate) fn into_bundle(self) -> Bundle {
        self.bundle
    }

    fn note(
        &mut self,
        path: &Path,
        read: impl FnOnce(&mut Self, &Path) -> io::Result<Arc<[u8]>>,
    ) -> io::Result<Arc<[u8]>> {
        let path = self.absolute(path);
        let result = read(self, &path);
        if let Some(notes) = &mut self.notes {
            match &result {
                Ok(bytes) => notes.read.push((path, Arc::clone(bytes))),
                Err(_) => notes.failed = Some(path),
            }
        }
        result
    }

    fn fetch(&mut self, path: &Path, top: bool) -> io::Result<Arc<[u8]>> {
        if self.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the change was called off"));
        }
        let known = self.bundle.get(path).cloned();
        let bytes = match (known, &self.from) {
            (Some(bytes), _) if !top => return Ok(bytes),
            (Some(bytes), _) => bytes,
            (None, None) => Arc::from(files::read(path)?),
            (None, Some(from)) => from.get(path).cloned().ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, "not among the files of the generation that serves")
            })?,
        };
        let insert = if top { Bundle::insert_top } else { Bundle::insert };
        insert(&mut self.bundle, path, Arc::clone(&bytes)).map_err(over_limit)?;
        Ok(bytes)
    }

    /// `path` seen from the base, without `.` components, so that one file has one name.
    fn absolute(&self, path: &Path) -> PathBuf {
        self.base.join(path).components().collect()
    }
}

impl fmt::Debug for Prepare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepare")
            .field("generation", &self.generation)
            .field("dry_run", &self.dry_run)
            .field("base", &self.base)
            .field("from_bundle", &self.from.is_some())
            .finish_non_exhaustive()
    }
}

fn over_limit(error: BundleError) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone(base: &Path) -> Prepare {
        Prepare::stand_alone(1, false, base, |specs| specs.iter().map(|_| Ok(Bound::OnlyChecked)).collect())
    }

    #[test]
    fn a_file_is_read_once_under_all_its_names() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), "first").unwrap();
        let mut prepare = alone(directory.path());
        assert_eq!(&*prepare.read(Path::new("a")).unwrap(), b"first");
        std::fs::write(directory.path().join("a"), "second").unwrap();
        assert_eq!(&*prepare.read(Path::new("./a")).unwrap(), b"first");
        assert_eq!(&*prepare.read(&directory.path().join("a")).unwrap(), b"first");
        assert_eq!(prepare.into_bundle().files().count(), 1);
    }

    #[test]
    fn a_generation_that_is_served_again_reads_its_bundle_and_not_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, "then").unwrap();
        let mut prepare = alone(directory.path());
        prepare.read_top(&path).unwrap();
        let bundle = prepare.into_bundle();
        std::fs::write(&path, "now").unwrap();
        std::fs::write(directory.path().join("new"), "new").unwrap();

        let from = Some(bundle.clone());
        let base = directory.path().to_owned();
        let mut again = Prepare::new(2, false, base, from, CalledOff::default(), Box::new(|_| None));
        assert_eq!(&*again.read_top(Path::new("a")).unwrap(), b"then");
        assert_eq!(again.read(Path::new("new")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(again.into_bundle(), bundle);
    }

    #[test]
    fn nothing_is_read_or_bound_once_nobody_waits_for_it() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), "first").unwrap();
        let called_off = CalledOff::default();
        let binder = Box::new(|specs: &[ListenerSpec]| {
            Some(specs.iter().map(|_| Ok(Bound::OnlyChecked)).collect::<Vec<_>>())
        });
        let base = directory.path().to_owned();
        let mut prepare = Prepare::new(1, false, base, None, called_off.clone(), binder);
        called_off.set();
        assert!(prepare.is_cancelled());
        assert!(prepare.read(Path::new("a")).is_err());
    }
}
