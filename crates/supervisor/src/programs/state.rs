//! What of programs must outlive a crash of the whole machine: which slot serves, and which processes were ours.
//!
//! ```text
//!   save ─▶ snapshot ─▶ (thread) temporary file, fsync, rename, fsync of the directory ─▶ written
//!             ▲   while one is written, the newest waits; those before it are never written
//!             └───────────────────────────────────────────────────────────────────────────┘
//! ```

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::copy::SavedCopy;
use super::editions::Place;

/// The format of the file; a newer one is not read.
const FORMAT: u32 = 1;
/// A file that is longer is none of ours.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Why the file cannot be read or written.
#[derive(Debug, Error)]
#[error("cannot {what} {}: {why}", path.display())]
pub(super) struct StateError {
    what: &'static str,
    path: PathBuf,
    why: String,
}

/// The file's contents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Durable {
    /// [`FORMAT`].
    pub(super) format: u32,
    /// By name.
    pub(super) programs: BTreeMap<String, DurableProgram>,
    /// Copies that run, or may.
    pub(super) copies: Vec<SavedCopy>,
}

/// One program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct DurableProgram {
    /// Where the version lies that serves.
    pub(super) place: Option<Place>,
    /// Where the one lies that served before it.
    pub(super) before: Option<Place>,
    /// It goes back to `before` unless it is confirmed by then, in milliseconds since 1970.
    pub(super) pending_until: Option<u64>,
    /// Whether an operator has stopped it.
    pub(super) stopped: bool,
}

/// The file.
#[derive(Debug, Clone)]
pub(super) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// In this state directory.
    pub(super) fn new(state: &Path) -> Self {
        StateFile { path: state.join("programs").join("state.json") }
    }

    /// What it says; nothing if it is not there.
    pub(super) fn read(&self) -> Result<Durable, StateError> {
        let fail = |why: String| StateError { what: "read", path: self.path.clone(), why };
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Durable::default()),
            Err(error) => return Err(fail(error.to_string())),
        };
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text).map_err(|error| fail(error.to_string()))?;
        let durable: Durable = serde_json::from_str(&text).map_err(|error| fail(error.to_string()))?;
        if durable.format > FORMAT {
            return Err(fail(format!(
                "it has format {}, and this version reads up to {FORMAT}",
                durable.format
            )));
        }
        Ok(durable)
    }

    /// What cannot be read is kept under another name: by somebody, or by another version, it may be.
    pub(super) fn set_aside(&self) {
        let aside = self.path.with_extension("unreadable");
        match fs::rename(&self.path, &aside) {
            Ok(()) => tracing::warn!("it is kept as {}", aside.display()),
            Err(error) => tracing::warn!("it cannot be kept as {}: {error}", aside.display()),
        }
    }

    /// Puts this in its place, whole or not at all, and waits until it is on the disk. Blocks.
    pub(super) fn write(&self, durable: &Durable) -> Result<(), StateError> {
        let attempt = || -> io::Result<()> {
            let directory = self.path.parent().unwrap_or(Path::new("."));
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            let temporary = self.path.with_extension("new");
            let durable = Durable { format: FORMAT, ..durable.clone() };
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(&durable)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)?;
            File::open(directory)?.sync_all()
        };
        attempt().map_err(|error| StateError {
            what: "write",
            path: self.path.clone(),
            why: error.to_string(),
        })
    }
}

/// Writes one state after the other, and tells who waits.
#[derive(Debug)]
pub(super) struct Writer<T> {
    /// Who waits for what is being written.
    writing: Option<Vec<T>>,
    /// What is to be written next, and who waits for that.
    next: Option<(Durable, Vec<T>)>,
    /// What is on the disk, as far as is known.
    written: Option<Durable>,
    last: Option<Durable>,
}

impl<T> Default for Writer<T> {
    fn default() -> Self {
        Writer { writing: None, next: None, written: None, last: None }
    }
}

/// What [`Writer::save`] asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// Write this, and say so to [`Writer::written`].
    Now(Durable),
    /// It comes later, or is on its way.
    Later,
    /// It is on the disk already.
    AlreadySo,
}

impl<T> Writer<T> {
    /// This is to be on the disk; `waiter` is given back by [`Writer::written`] when it is (not with [`Write::AlreadySo`]).
    pub(super) fn save(&mut self, durable: Durable, waiter: Option<T>) -> (Write, Option<T>) {
        if self.writing.is_none() {
            if self.written.as_ref() == Some(&durable) {
                return (Write::AlreadySo, waiter);
            }
            self.writing = Some(waiter.into_iter().collect());
            self.last = Some(durable.clone());
            return (Write::Now(durable), None);
        }
        let mut waiting = self.next.take().map(|(_, waiting)| waiting).unwrap_or_default();
        waiting.extend(waiter);
        self.next = Some((durable, waiting));
        (Write::Later, None)
    }

    /// It was written, or not: who has waited for that, and what is to be written next.
    pub(super) fn written(&mut self, ok: bool) -> (Vec<T>, Option<Durable>) {
        self.written = if ok { self.last.take() } else { None };
        let waited = self.writing.take().unwrap_or_default();
        let next = self.next.take().map(|(durable, waiting)| {
            self.writing = Some(waiting);
            self.last = Some(durable.clone());
            durable
        });
        (waited, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn durable(slot: &str) -> Durable {
        let program =
            DurableProgram { place: Some(Place::Slot(slot.to_owned())), ..DurableProgram::default() };
        Durable { programs: [("web".to_owned(), program)].into(), ..Durable::default() }
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::new(directory.path());
        assert_eq!(file.read().unwrap(), Durable::default());
        for slot in ["a", "b"] {
            file.write(&durable(slot)).unwrap();
            assert_eq!(file.read().unwrap().programs, durable(slot).programs);
        }
        let names: Vec<_> = fs::read_dir(directory.path().join("programs")).unwrap().collect();
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn a_file_of_a_newer_version_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::new(directory.path());
        file.write(&Durable::default()).unwrap();
        fs::write(&file.path, r#"{"format": 99}"#).unwrap();
        let sentence = file.read().unwrap_err().to_string();
        assert!(sentence.contains("state.json") && sentence.contains("format 99"), "{sentence}");
    }

    #[test]
    fn the_newest_state_is_written_last_and_everybody_who_waits_is_told() {
        let mut writer = Writer::default();
        assert_eq!(writer.save(durable("a"), Some(1)), (Write::Now(durable("a")), None));
        assert_eq!(writer.save(durable("b"), Some(2)), (Write::Later, None));
        assert_eq!(writer.save(durable("c"), Some(3)), (Write::Later, None));
        assert_eq!(writer.written(true), (vec![1], Some(durable("c"))));
        assert_eq!(writer.written(true), (vec![2, 3], None));
        assert_eq!(writer.save(durable("c"), Some(4)), (Write::AlreadySo, Some(4)));
    }

    #[test]
    fn after_a_failure_the_same_is_written_again() {
        let mut writer = Writer::default();
        writer.save(durable("a"), Some(1));
        assert_eq!(writer.written(false), (vec![1], None));
        assert_eq!(writer.save(durable("a"), Some(2)).0, Write::Now(durable("a")));
    }
}
