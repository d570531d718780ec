//! What a [`crate::Service`] may use while it prepares: files, each read once and recorded into the
//! generation's bundle, and listeners, which the supervisor holds and lends.
//!
//! ```text
//!                        read, read_top         read_certificate
//!   everything           disk                   disk
//!   only certificates    what serves            disk
//!   from a bundle        bundle                 bundle
//! ```

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use handover_handoff::Bundle;
use handover_handoff::bundle::BundleError;

use crate::files::{self, Seen};
use crate::types::ListenerSpec;

#[cfg(test)]
mod tests;

/// The context of one prepare.
pub struct Prepare {
    generation: u64,
    dry_run: bool,
    base: PathBuf,
    origin: Origin,
    /// What was read.
    bundle: Bundle,
    notes: Option<Notes>,
    /// What was looked for on the disk, found or not, for the watch.
    seen: Vec<Seen>,
    version: Option<String>,
    unreachable: bool,
    called_off: CalledOff,
    binder: Box<Binder>,
}

/// Where what is prepared comes from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    /// The bundle of a generation that was served before: all files come from it. Else from the disk.
    pub(crate) from: Option<Arc<Bundle>>,
    /// That generation serves already, as its source had it.
    pub(crate) continues: bool,
    /// The configuration that the supervisor's command line makes.
    pub(crate) made: Option<String>,
    /// What serves, if only certificates are read anew.
    pub(crate) serving: Option<Arc<Bundle>>,
    /// What its source calls that.
    pub(crate) version: Option<String>,
    /// The state that outlives workers.
    pub(crate) carried: Option<Arc<[u8]>>,
}

/// What a prepare leaves behind.
#[derive(Debug, Default)]
pub(crate) struct Finished {
    pub(crate) bundle: Bundle,
    pub(crate) seen: Vec<Seen>,
    pub(crate) version: Option<String>,
    pub(crate) unreachable: bool,
}

/// The top-level file of a generation that was served before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenTop {
    /// Its path, or the name of what is no file.
    pub name: PathBuf,
    /// What was in it.
    pub bytes: Arc<[u8]>,
    /// False for what is built into the program, or came from elsewhere than a file.
    pub on_disk: bool,
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
pub struct CalledOff(Arc<AtomicBool>);

impl CalledOff {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is so.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What a file is to the generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Top,
    Certificate,
    Other,
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
        origin: Origin,
        called_off: CalledOff,
        binder: Box<Binder>,
    ) -> Self {
        Self {
            generation,
            dry_run,
            base,
            origin,
            bundle: Bundle::new(),
            notes: None,
            seen: Vec::new(),
            version: None,
            unreachable: false,
            called_off,
            binder,
        }
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
        Self::new(generation, dry_run, base.to_owned(), Origin::default(), CalledOff::default(), binder)
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

    /// True if only certificates are to be read anew (`handover reload --certs`): [`Prepare::read`] then gives the
    /// bytes that serve, and only [`Prepare::read_certificate`] looks at the disk.
    #[must_use]
    pub fn is_certificates_only(&self) -> bool {
        self.origin.serving.is_some()
    }

    /// True if everything comes from the bundle of a generation that served before.
    pub(crate) fn is_served_again(&self) -> bool {
        self.origin.from.is_some()
    }

    /// The state that was handed to [`WorkerHandle::carry`](crate::WorkerHandle::carry) last, by this worker or the
    /// one before it, or that comes with a backup that is being restored. `None` at the first start.
    #[must_use]
    pub fn carried(&self) -> Option<&[u8]> {
        self.origin.carried.as_deref()
    }

    /// Says what the source itself calls this state of things: `etcd revision 42`, `ETag "a1b2"`. It is shown with the
    /// generation.
    pub fn set_version(&mut self, version: impl Into<String>) {
        self.version = Some(version.into());
    }

    /// Says that the source could not be reached: call it before returning the problem that says so. A server that
    /// starts then serves the last generation that was good.
    pub fn unreachable(&mut self) {
        self.unreachable = true;
    }

    /// True if this is what serves already, as its source had it: a worker is replaced. What the source has by now that
    /// differs is news to a watch; after a rollback it is not.
    #[must_use]
    pub fn continues(&self) -> bool {
        self.origin.continues
    }

    /// The configuration that the command line makes, where [`crate::HostOptions::made`] has said so: that of the supervisor as it is now.
    /// This process may be a worker that it has found, started with another one.
    #[must_use]
    pub fn made(&self) -> Option<&str> {
        self.origin.made.as_deref()
    }

    /// The top-level file that must be used, if it is not to be had from where it came from at first: because a
    /// generation is served again, or because only certificates are read anew. Enter it with
    /// [`Prepare::read_top`] or [`Prepare::built_in_top`] all the same.
    #[must_use]
    pub fn given_top(&self) -> Option<GivenTop> {
        let bundle = self.origin.from.as_ref().or(self.origin.serving.as_ref())?;
        let (name, file) = bundle.files().next().filter(|(name, _)| Some(*name) == bundle.top())?;
        Some(GivenTop { name: name.to_owned(), bytes: Arc::clone(&file.bytes), on_disk: file.on_disk })
    }

    /// The bytes of a file, read once: a second read of the same path gives the same bytes. They come from
    /// the disk, or, when a worker is started again, from the bundle of the generation that serves.
    ///
    /// # Errors
    /// As from the system; `InvalidInput` for what is no regular file, `FileTooLarge` beyond the limits of one file
    /// and of all, [`MAX_FILE_BYTES`](crate::MAX_FILE_BYTES) and [`handover_handoff::bundle::MAX_BUNDLE_BYTES`].
    pub fn read(&mut self, path: &Path) -> io::Result<Arc<[u8]>> {
        self.note(path, |prepare, path| prepare.fetch(path, Sort::Other))
    }

    /// Like [`Prepare::read`], for the top-level file: the one that `handover config` shows. Call it first.
    ///
    /// # Errors
    /// As [`Prepare::read`].
    pub fn read_top(&mut self, path: &Path) -> io::Result<Arc<[u8]>> {
        self.note(path, |prepare, path| prepare.fetch(path, Sort::Top))
    }

    /// Like [`Prepare::read`], for a certificate, its key, or authorities for clients' certificates: read anew also
    /// when only certificates are.
    ///
    /// # Errors
    /// As [`Prepare::read`].
    pub fn read_certificate(&mut self, path: &Path) -> io::Result<Arc<[u8]>> {
        self.note(path, |prepare, path| prepare.fetch(path, Sort::Certificate))
    }

    /// The top-level "file" of a program that has it built in, or has it from elsewhere than a file. A worker that is
    /// started again gets the bytes that serve, which may be those of the program's version before.
    ///
    /// # Errors
    /// `FileTooLarge` beyond the limit of all files.
    pub fn built_in_top(&mut self, name: &str, bytes: &[u8]) -> io::Result<Arc<[u8]>> {
        let given = self.origin.from.as_ref().or(self.origin.serving.as_ref());
        let given = given.and_then(|bundle| bundle.get(Path::new(name)).cloned());
        let bytes = given.unwrap_or_else(|| Arc::from(bytes));
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

    /// All that it leaves behind.
    pub(crate) fn finish(self) -> Finished {
        let Self { bundle, seen, version, unreachable, origin, .. } = self;
        // All but the certificates is what it was, and so is its name.
        Finished { bundle, seen, version: version.or(origin.version), unreachable }
    }

    /// Takes over the files of what serves that were not read: they belong to what is not prepared anew.
    ///
    /// # Errors
    /// `FileTooLarge` beyond the limit of all files.
    pub(crate) fn keep_the_rest(&mut self) -> io::Result<()> {
        let Some(serving) = self.origin.serving.clone() else { return Ok(()) };
        for (path, file) in serving.files() {
            if self.bundle.get(path).is_some() {
                continue;
            }
            let (is_top, bytes) = (serving.top() == Some(path), Arc::clone(&file.bytes));
            let inserted = match (is_top, file.on_disk) {
                (true, true) => self.bundle.insert_top(path, bytes),
                (true, false) => self.bundle.insert_built_in_top(&path.to_string_lossy(), bytes),
                (false, _) => self.bundle.insert(path, bytes),
            };
            inserted.map_err(over_limit)?;
        }
        Ok(())
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

    fn fetch(&mut self, path: &Path, sort: Sort) -> io::Result<Arc<[u8]>> {
        if self.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the change was called off"));
        }
        let top = sort == Sort::Top;
        let known = self.bundle.get(path).cloned();
        let given = self.origin.from.as_ref();
        let given = given.or(self.origin.serving.as_ref().filter(|_| sort != Sort::Certificate));
        let bytes = match (known, given) {
            (Some(bytes), _) if !top => return Ok(bytes),
            (Some(bytes), _) => bytes,
            (None, None) => self.read_disk(path)?,
            (None, Some(given)) => given.get(path).cloned().ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, "not among the files of the generation that serves")
            })?,
        };
        let insert = if top { Bundle::insert_top } else { Bundle::insert };
        insert(&mut self.bundle, path, Arc::clone(&bytes)).map_err(over_limit)?;
        Ok(bytes)
    }

    fn read_disk(&mut self, path: &Path) -> io::Result<Arc<[u8]>> {
        let (read, seen) = files::look(path);
        self.seen.push(seen);
        read
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
            .field("from_bundle", &self.origin.from.is_some())
            .field("only_certificates", &self.is_certificates_only())
            .finish_non_exhaustive()
    }
}

fn over_limit(error: BundleError) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, error)
}
