//! Values that can be loaded anew while the server runs.
//!
//! ```text
//!   load (may fail) ──▶ Ready ── commit (one atomic store) ──▶ every later `load()` sees it
//!                         └──── dropped: the old value stays
//! ```

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;

use crate::prepare::Prepare;
use crate::types::{Change, ChangeKind, Problem, What};

/// What a loader may fail with: any error, or a sentence.
pub type LoadError = Box<dyn Error + Send + Sync>;

type Loader<T> = Box<dyn Fn(&mut Prepare) -> Result<T, LoadError> + Send + Sync>;

/// A value that is loaded at start and anew with every reload. Clones are handles to the same value.
pub struct Reloadable<T> {
    slot: Arc<Slot<T>>,
}

struct Slot<T> {
    name: String,
    loader: Loader<T>,
    value: ArcSwapOption<T>,
    /// The files from which the value that serves was made.
    files: Mutex<Files>,
}

type Files = Vec<(PathBuf, Arc<[u8]>)>;

impl<T> Clone for Reloadable<T> {
    fn clone(&self) -> Self {
        Self { slot: Arc::clone(&self.slot) }
    }
}

impl<T> fmt::Debug for Reloadable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloadable").field("name", &self.slot.name).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Reloadable<T> {
    pub(crate) fn new(name: String, loader: Loader<T>) -> Self {
        let slot = Slot { name, loader, value: ArcSwapOption::empty(), files: Mutex::default() };
        Self { slot: Arc::new(slot) }
    }

    /// The value that serves now. Lock-free: one atomic load and a count. Keep what it gives for one request, so
    /// that the request ends with the value it began with.
    ///
    /// # Panics
    /// When called before the server runs: values are loaded when the worker starts, so they are there in
    /// [`crate::Server::run`]'s closure, in actions, and never before.
    #[must_use]
    #[allow(clippy::panic, reason = "a mistake in the program itself, and the first test run finds it")]
    pub fn load(&self) -> Arc<T> {
        match self.slot.value.load_full() {
            Some(value) => value,
            None => panic!("reloadable {:?} was read before the server ran", self.slot.name),
        }
    }

    /// Its name, as it is shown among the changes of a reload.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.slot.name
    }
}

/// What takes part in a reload, its type forgotten: a value, or certificates.
pub(crate) trait Value: Send + Sync {
    fn name(&self) -> &str;

    /// Whether it is prepared anew when only certificates are.
    fn is_certificates(&self) -> bool {
        false
    }

    /// Loads it anew, beside the one that serves.
    fn prepare(&self, cx: &mut Prepare) -> Result<Box<dyn Ready>, Vec<Problem>>;
}

/// What is loaded and not yet served.
pub(crate) trait Ready: Send {
    /// What will be served differently; `first` if nothing serves yet.
    fn changes(&self, first: bool) -> Vec<Change>;

    /// What is odd, but no reason to refuse it.
    fn warnings(&self) -> Vec<Problem> {
        Vec::new()
    }

    fn commit(self: Box<Self>);
}

/// Why a value could not be loaded.
#[derive(Debug)]
pub(crate) struct LoadFailed {
    pub(crate) name: String,
    pub(crate) file: Option<PathBuf>,
    pub(crate) error: LoadError,
}

impl LoadFailed {
    /// As one problem of a reload.
    pub(crate) fn problem(&self) -> Problem {
        let problem = Problem::new(format!("could not load {}: {}", self.name, self.error));
        match &self.file {
            Some(file) => problem.in_file(file.display().to_string()),
            None => problem,
        }
    }
}

impl<T: Send + Sync + 'static> Value for Reloadable<T> {
    fn name(&self) -> &str {
        &self.slot.name
    }

    fn prepare(&self, cx: &mut Prepare) -> Result<Box<dyn Ready>, Vec<Problem>> {
        match self.load_anew(cx) {
            Ok(loaded) => Ok(Box::new(loaded)),
            Err(failed) => Err(vec![failed.problem()]),
        }
    }
}

impl<T: Send + Sync + 'static> Reloadable<T> {
    /// Loads it anew, beside the one that serves.
    pub(crate) fn load_anew(&self, cx: &mut Prepare) -> Result<Loaded<T>, LoadFailed> {
        cx.begin_notes();
        let loaded = (self.slot.loader)(cx);
        let notes = cx.take_notes();
        match loaded {
            Ok(value) => {
                Ok(Loaded { slot: Arc::clone(&self.slot), value: Arc::new(value), files: notes.read })
            }
            Err(error) => Err(LoadFailed { name: self.slot.name.clone(), file: notes.failed, error }),
        }
    }
}

/// A value that is loaded and not yet served.
pub(crate) struct Loaded<T> {
    slot: Arc<Slot<T>>,
    value: Arc<T>,
    files: Files,
}

impl<T> Loaded<T> {
    /// Whether it may differ from what serves: false only if it was made from the same bytes of the same files.
    fn differs(&self) -> bool {
        let files = self.slot.files.lock().unwrap_or_else(PoisonError::into_inner);
        // What was made from no file that we know of may come from anywhere.
        self.files.is_empty() || *files != self.files
    }

    /// Serves it.
    pub(crate) fn publish(self) {
        let Self { slot, value, files } = self;
        slot.value.store(Some(value));
        *slot.files.lock().unwrap_or_else(PoisonError::into_inner) = files;
    }
}

impl<T: Send + Sync + 'static> Ready for Loaded<T> {
    fn changes(&self, first: bool) -> Vec<Change> {
        let what = if first { What::Added } else { What::Changed };
        let change = || Change::new(what, ChangeKind::Value, self.slot.name.as_str());
        if first || self.differs() { vec![change()] } else { Vec::new() }
    }

    fn commit(self: Box<Self>) {
        self.publish();
    }
}
