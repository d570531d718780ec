//! The journal: what was asked for, by whom, and what came of it, kept across the life of every process.
//!
//! One append-only file of lines, each `<checksum> <json>`; every outcome, and with it all that was written
//! before, is on disk (fdatasync) before anybody is told of it. An operation leaves at most four lines:
//!
//! ```text
//!   admitted ──▶ intent ──▶ generation ──▶ done     a reload that is applied
//!   admitted ────────────────────────────▶ done     one that fails, a dry run, a drain …
//!                                          done     never admitted: not permitted, busy, stale
//!   admitted ──▶ upgrade intent ─────────▶ done     an upgrade (`upgrades.rs`)
//! ```
//!
//! - `intent` is written before the worker is told to commit. Whoever opens the journal after a crash in
//!   between finds an [`Unfinished`] operation and, with what it learns from the worker that still serves,
//!   says what became of it (`handover_lifecycle::Unfinished::verdict`). The bytes of the generation are
//!   written before the intent, so that whoever reads the intent can load them.
//! - What only says that something is about to happen is written, and not waited for to reach the disk: a crash
//!   of the process leaves it readable, and after a crash of the machine there is no worker to which it matters.
//!   So a slow disk delays an operation's answer, and not the moment at which the new generation serves.
//! - A crash in the middle of a write leaves a torn last line. It is cut off when the journal is opened,
//!   and reported. A damaged line further up is skipped and counted; the lines after it stay.
//! - The file is bounded: when it holds twice the records that are kept, or [`MAX_FILE_BYTES`], it is
//!   rewritten with the kept ones (temporary file, fsync, rename, fsync of the directory).
//! - Room for a whole operation is reserved ahead of the end of the file. A full disk is therefore noticed
//!   by [`Journal::check`] before an operation is admitted, and not when its outcome has to be written.
//! - After a failed fsync nothing is known about the file's pages, so it is rewritten from memory.

mod contents;
mod error;
mod generations;
mod objects;
mod probation;
mod record;
mod store;
#[cfg(test)]
mod tests;
mod upgrades;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use handover_api::{Generation, JournalStatus, Operation};

use contents::Contents;
pub use error::{GenerationError, JournalError};
pub use generations::Intent;
use objects::Objects;
pub use probation::Unconfirmed;
pub(crate) use record::written;
use record::{Line, encode, lines};
pub use record::{Record, now};
use store::{DirStore, Store};
pub use upgrades::{UnconfirmedUpgrade, UpgradeMade};

/// Operations that are kept by default, in memory and, at least, on disk.
pub const DEFAULT_KEEP: usize = 1_000;
/// The fewest that may be kept.
pub const MIN_KEEP: usize = 10;
/// The most that may be kept: they are in memory too.
pub const MAX_KEEP: usize = 100_000;
/// Generations whose description is kept.
pub const KEPT_GENERATIONS: usize = 100;
/// Generations whose files are kept by default, besides those that are needed.
pub const DEFAULT_GENERATIONS: usize = 20;
/// The most that may be kept.
pub const MAX_GENERATIONS: usize = 1_000;
/// The file is rewritten when it grows beyond this.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// A longer line is not written but shortened: its lists are cut.
pub const MAX_RECORD_BYTES: usize = 64 * 1024;
/// Room that is reserved ahead of the end of the file: all the records of one operation.
pub const RESERVED_BYTES: u64 = 4 * MAX_RECORD_BYTES as u64;

/// What was found when the journal was opened.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recovery {
    /// Whole records that were read.
    pub records: u64,
    /// Bytes of a torn tail that were cut off.
    pub torn_bytes: u64,
    /// Damaged lines further up that were skipped.
    pub damaged_lines: u64,
    /// Whole lines of a form that this version does not know (written by a newer one); kept until the file
    /// is rewritten.
    pub foreign_lines: u64,
    /// Operations that were admitted and have no outcome.
    pub unfinished: Vec<Unfinished>,
}

impl Recovery {
    /// ID of the unfinished operation that was about to serve this generation.
    #[must_use]
    pub fn meant(&self, generation: u64) -> Option<String> {
        let mut unfinished = self.unfinished.iter();
        unfinished.find(|one| one.intent == Some(generation)).map(|one| one.operation.id.clone())
    }
}

/// An operation that was admitted by a supervisor which is gone, without an outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct Unfinished {
    /// The operation as it was admitted.
    pub operation: Operation,
    /// The generation that it was about to commit, when it had come that far; the one that it was to bring back, if it
    /// cancels a change or is the supervisor's own; the one that it has confirmed.
    pub intent: Option<u64>,
    /// The generation that served until then.
    back_to: Option<u64>,
    /// The worker that an upgrade's intent names: of the upgrade itself, and of what takes it back.
    pub upgrade: Option<u64>,
    /// The whole of that intent, of the upgrade itself.
    made: Option<UpgradeMade>,
}

/// The journal. Its calls block for as long as the disk takes.
#[derive(Debug)]
pub struct Journal {
    store: Box<dyn Store>,
    path: PathBuf,
    keep: usize,
    /// Generations whose files are kept.
    keep_generations: usize,
    objects: Objects,
    /// Length of the whole records in the file; a torn tail beyond it is cut before the next write.
    length: u64,
    /// Lines in the file.
    lines: u64,
    /// The file may hold anything beyond `length`, or anything at all after a failed fsync.
    doubt: Doubt,
    /// What failed, by what was done, until the same works again.
    failures: BTreeMap<&'static str, String>,
    recovery: Recovery,
    contents: Contents,
}

/// What is not known about the file after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    None,
    /// Something may stand after the last whole record.
    Tail,
    /// Nothing is known: rewrite.
    All,
}

impl Journal {
    /// Opens the journal in `dir`, which is made (0700) if it is missing, and recovers its tail.
    ///
    /// # Errors
    /// The directory or file cannot be made, read or written, belongs to somebody else, or another
    /// supervisor has it open.
    pub fn open(dir: &Path, keep: usize) -> Result<Self, JournalError> {
        Self::open_locked(dir, keep, None)
    }

    /// The same with the lock that another image of this process has left. What is unfinished then goes on.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub(crate) fn open_locked(dir: &Path, keep: usize, lock: Option<OwnedFd>) -> Result<Self, JournalError> {
        let (store, bytes) = DirStore::open(dir, lock)?;
        let path = store.path().to_owned();
        Self::from_store(Box::new(store), path, &bytes, keep)
    }

    /// A duplicate of the lock: as long as that is open, nobody else can open the journal.
    pub(crate) fn lock(&self) -> std::io::Result<OwnedFd> {
        self.store.lock()
    }

    fn from_store(
        store: Box<dyn Store>,
        path: PathBuf,
        bytes: &[u8],
        keep: usize,
    ) -> Result<Self, JournalError> {
        let keep = keep.clamp(MIN_KEEP, MAX_KEEP);
        let mut contents = Contents::default();
        let mut recovery = Recovery::default();
        let mut whole = 0_u64;
        let mut damaged_since_whole = 0_u64;
        let mut line_count = 0_u64;
        for line in lines(bytes) {
            match line {
                Line::Damaged => {
                    damaged_since_whole += 1;
                    continue;
                }
                Line::Foreign { end } => {
                    recovery.foreign_lines += 1;
                    whole = end;
                }
                Line::Whole { record, end } => {
                    recovery.records += 1;
                    whole = end;
                    contents.take(*record, keep);
                }
            }
            line_count += 1 + damaged_since_whole;
            recovery.damaged_lines += std::mem::take(&mut damaged_since_whole);
        }
        recovery.torn_bytes = (bytes.len() as u64).saturating_sub(whole);
        recovery.unfinished = contents.unfinished.clone();
        let mut journal = Self {
            store,
            path,
            keep,
            keep_generations: DEFAULT_GENERATIONS,
            objects: Objects::default(),
            length: whole,
            lines: line_count,
            doubt: if recovery.torn_bytes > 0 { Doubt::Tail } else { Doubt::None },
            failures: BTreeMap::new(),
            recovery,
            contents,
        };
        journal.mend().map_err(|source| journal.error("recover", &source))?;
        journal.forget_removed();
        journal.check_unfinished();
        Ok(journal)
    }

    /// What was found when it was opened.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Says whether a whole operation can be written now. Ask before an operation is admitted.
    ///
    /// # Errors
    /// The disk is full, read-only or broken; nothing may be changed that could not be written down.
    pub fn check(&mut self) -> Result<(), JournalError> {
        let result = self.mend().and_then(|()| self.store.reserve(self.length, RESERVED_BYTES));
        self.note(result, "reserve room in")
    }

    /// An operation was admitted.
    ///
    /// # Errors
    /// It could not be written; do not start the operation.
    pub fn admit(&mut self, operation: &Operation) -> Result<(), JournalError> {
        self.append(Record::Admitted { operation: operation.clone() })
    }

    /// A generation serves from now on; the one that served before does not.
    ///
    /// # Errors
    /// It could not be written.
    pub fn commit(&mut self, generation: &Generation) -> Result<(), JournalError> {
        self.append(Record::Generation { generation: generation.clone() })
    }

    /// An operation ended, or a request was refused. It may be answered once this returns.
    ///
    /// # Errors
    /// It could not be written; it is known in memory all the same, and written when the disk allows it.
    pub fn finish(&mut self, operation: &Operation) -> Result<(), JournalError> {
        self.append(Record::Done { operation: operation.clone() })
    }

    /// An ended operation by its ID.
    #[must_use]
    pub fn operation(&self, id: &str) -> Option<&Operation> {
        self.contents.operation(id)
    }

    /// What the history has under this ID: an ended operation, or a request that was refused.
    #[must_use]
    pub fn entry(&self, id: &str) -> Option<&Operation> {
        self.contents.entry(id)
    }

    /// The last `count` operations, refused ones too, the newest first.
    #[must_use]
    pub fn history(&self, count: usize) -> Vec<Operation> {
        self.contents.history.iter().rev().take(count).cloned().collect()
    }

    /// The generations that are remembered, the newest first.
    #[must_use]
    pub fn generations(&self) -> Vec<Generation> {
        self.contents.generations.values().rev().cloned().collect()
    }

    /// One of them by its number.
    #[must_use]
    pub fn generation(&self, number: u64) -> Option<&Generation> {
        self.contents.generations.get(&number)
    }

    /// The highest generation number that was ever committed or intended; 0 for none.
    #[must_use]
    pub fn last_generation(&self) -> u64 {
        let committed = self.contents.generations.keys().next_back().copied().unwrap_or(0);
        let intended = self.contents.unfinished.iter().filter_map(|u| u.intent).max().unwrap_or(0);
        let tried = self.contents.history.iter().filter_map(|o| o.generation).max().unwrap_or(0);
        let kept = self.contents.kept.iter().map(|kept| kept.number).max().unwrap_or(0);
        let pending = self.contents.probation.as_ref().map_or(0, |known| known.change.generation);
        committed.max(intended).max(tried).max(kept).max(pending)
    }

    /// How many operations are kept from now on.
    pub fn set_keep(&mut self, keep: usize) {
        self.keep = keep.clamp(MIN_KEEP, MAX_KEEP);
        self.contents.trim(self.keep);
    }

    /// How it fares, for `status`.
    #[must_use]
    pub fn status(&self) -> JournalStatus {
        JournalStatus {
            path: self.path.display().to_string(),
            records: self.lines,
            recovered_bytes: self.recovery.torn_bytes,
            failure: self.failures.values().next().cloned(),
        }
    }

    /// Writes one record; if it is an outcome, waits until it and everything before it is on disk.
    ///
    /// What is only about to happen does not happen when it cannot be written. What has happened is
    /// remembered in any case, and the file is rewritten with it as soon as the disk allows.
    fn append(&mut self, record: Record) -> Result<(), JournalError> {
        let record = record.bounded();
        let has_happened = record.has_happened();
        let is_final = matches!(record, Record::Done { .. });
        let written = encode(&record).and_then(|line| {
            self.mend()?;
            if is_final {
                // Whoever reads that it is done may trust what it wrote.
                self.sync_objects()?;
            }
            self.write(&line, is_final)
        });
        if written.is_ok() || has_happened {
            self.contents.take(record, self.keep);
        }
        if written.is_err() && has_happened {
            self.doubt = Doubt::All;
        }
        self.note(written, "write to")?;
        if self.lines > 2 * self.keep as u64 || self.length > MAX_FILE_BYTES {
            // The record is written, whatever becomes of this: to say that it is not would be wrong.
            let rewritten = self.rewrite();
            let _ = self.note(rewritten, "rotate");
        }
        Ok(())
    }

    fn write(&mut self, line: &[u8], durably: bool) -> std::io::Result<()> {
        self.doubt = Doubt::Tail;
        self.store.append(line)?;
        if durably {
            self.doubt = Doubt::All;
            self.store.sync()?;
        }
        self.doubt = Doubt::None;
        self.length += line.len() as u64;
        self.lines += 1;
        Ok(())
    }

    /// Removes what an earlier failure may have left, so that the next record stands on firm ground.
    fn mend(&mut self) -> std::io::Result<()> {
        match self.doubt {
            Doubt::None => Ok(()),
            Doubt::Tail => {
                self.store.truncate(self.length)?;
                self.store.sync()?;
                self.doubt = Doubt::None;
                Ok(())
            }
            Doubt::All => self.rewrite(),
        }
    }

    fn rewrite(&mut self) -> std::io::Result<()> {
        let (mut bytes, mut lines);
        loop {
            (bytes, lines) = (Vec::new(), 0);
            for record in self.contents.records() {
                bytes.extend_from_slice(&encode(&record)?);
                lines += 1;
            }
            let few_enough = self.contents.history.len() <= MIN_KEEP;
            if bytes.len() as u64 <= MAX_FILE_BYTES / 2 || few_enough {
                break;
            }
            self.contents.trim((self.contents.history.len() / 2).max(MIN_KEEP));
        }
        self.sync_objects()?;
        self.store.replace(&bytes)?;
        self.length = bytes.len() as u64;
        self.lines = lines;
        self.doubt = Doubt::None;
        Ok(())
    }

    fn note(&mut self, result: std::io::Result<()>, doing: &'static str) -> Result<(), JournalError> {
        match result {
            Ok(()) => {
                self.failures.remove(doing);
                Ok(())
            }
            Err(source) => {
                let error = self.error(doing, &source);
                self.failures.insert(doing, error.to_string());
                Err(error)
            }
        }
    }

    fn error(&self, doing: &'static str, source: &std::io::Error) -> JournalError {
        JournalError::from_io(doing, &self.path, source)
    }
}
