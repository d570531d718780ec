//! The files of the generations: written before a generation is committed, read again for going back.
//!
//! Each file is an object under the name of its digest, and so is the list of a generation's files. What a kept
//! generation has already is not written again: of a thousand certificates only the one that has changed is.
//!
//! ```text
//!   intend ──▶ objects, list ──▶ Intent record ──────────▶ outcome: objects are synced first, then its record
//!              │ fails: what was written is removed        │ cannot be synced: these generations are not kept
//! ```
//!
//! A power failure may leave objects under their names that have other bytes. An object is therefore trusted (not written
//! again) only if a list names it whose operation has an outcome, or that was checked byte by byte when the journal
//! was opened. Whatever is read is checked against its digest.

use std::io;

use handover_handoff::Bundle;
use handover_handoff::bundle::{BundleError, Index};
use jiff::Timestamp;

use super::contents::Kept;
use super::record::{Record, Stored, now, written};
use super::{GenerationError, Journal, JournalError, MAX_GENERATIONS};

/// Generations whose files are removed after one operation at most.
const REMOVED_AT_ONCE: usize = 2;

/// A generation that is about to be committed.
#[derive(Debug, Clone, Copy)]
pub struct Intent<'a> {
    /// For which operation.
    pub operation_id: &'a str,
    /// Its number.
    pub generation: u64,
    /// Its files. Only those are written that no kept generation has.
    pub bundle: &'a Bundle,
    /// The generation that serves until then.
    pub back_to: Option<u64>,
    /// When it goes back unless it is confirmed.
    pub confirm: Option<Timestamp>,
}

impl Journal {
    /// The worker is about to be told to commit a generation.
    ///
    /// # Errors
    /// Files or intent could not be written; do not commit.
    pub fn intend(&mut self, intent: &Intent<'_>) -> Result<(), JournalError> {
        let kept = self.keep(intent.bundle);
        let (result, manifest) = match kept {
            Ok(manifest) => (Ok(()), Some(manifest)),
            Err(error) => (Err(error), None),
        };
        self.note(result, "write a generation's files beside")?;
        let Some(manifest) = manifest else { return Ok(()) };
        let generation = intent.generation;
        // A rollback serves what is kept already.
        let before = self.stored(generation).ok().cloned();
        self.objects.unsynced_generations.push(generation);
        let appended = self.append(Record::Intent {
            operation_id: intent.operation_id.to_owned(),
            generation,
            bundle: String::new(),
            manifest: Some(manifest.to_hex().to_string()),
            back_to: intent.back_to,
            confirm: intent.confirm.map(written),
            at: now(),
        });
        match (&appended, before) {
            (Err(_), _) => self.objects.undo(&mut *self.store),
            (Ok(()), Some(before)) => self.forget(&before),
            (Ok(()), None) => {}
        }
        appended
    }

    /// Writes what is not there, and says under which name the list of files is.
    fn keep(&mut self, bundle: &Bundle) -> io::Result<blake3::Hash> {
        self.count_objects();
        let list = bundle.index().encode().map_err(io::Error::other)?;
        let manifest = blake3::hash(&list);
        self.objects.begin();
        let written = bundle
            .files()
            .map(|(_, file)| (file.digest.as_str(), &*file.bytes))
            .try_for_each(|(digest, bytes)| self.objects.put(&mut *self.store, digest, bytes))
            .and_then(|()| self.objects.put(&mut *self.store, manifest.to_hex().as_str(), &list));
        match written {
            Ok(()) => {
                let files = bundle.files().map(|(_, file)| file.digest.as_str());
                self.objects.name(manifest, files);
                Ok(manifest)
            }
            Err(error) => {
                self.objects.undo(&mut *self.store);
                Err(error)
            }
        }
    }

    /// The files of a generation, every digest checked.
    ///
    /// # Errors
    /// They are not kept (any more), or damaged; nothing else is.
    pub fn bundle(&self, generation: u64) -> Result<Bundle, GenerationError> {
        let damaged = |reason: String| GenerationError::Damaged { generation, reason };
        match self.stored(generation)? {
            Stored::Objects(manifest) => {
                let index = self.read_index(*manifest).map_err(|error| damaged(error.to_string()))?;
                Bundle::from_index(index, |file| {
                    let path = file.path().display();
                    self.store.get(file.digest()).map_err(|error| {
                        BundleReadError(format!("the object {} ({path}): {error}", file.digest()))
                    })
                })
                .map_err(|BundleReadError(reason)| damaged(reason))
            }
            Stored::Blob(name) => {
                let bytes = self.store.blob(name).map_err(|error| damaged(error.to_string()))?;
                let file = handover_handoff::memfd::sealed("generation", &bytes);
                let file = file.map_err(|error| damaged(error.to_string()))?;
                Bundle::from_memfd(file).map_err(|error| damaged(error.to_string()))
            }
        }
    }

    /// What [`Bundle::digest`] says of a generation's files, without reading them. `None` if they are not kept.
    #[must_use]
    pub fn digest(&self, generation: u64) -> Option<String> {
        match self.stored(generation).ok()? {
            Stored::Objects(manifest) => self.read_index(*manifest).ok().map(|index| index.digest()),
            Stored::Blob(_) => self.bundle(generation).ok().map(|bundle| bundle.digest()),
        }
    }

    fn stored(&self, generation: u64) -> Result<&Stored, GenerationError> {
        let known = self.contents.kept.iter().find(|kept| kept.number == generation);
        known
            .map(|kept| &kept.stored)
            .ok_or_else(|| GenerationError::NotKept { generation, kept: self.kept() })
    }

    pub(super) fn read_index(&self, manifest: blake3::Hash) -> io::Result<Index> {
        let name = manifest.to_hex();
        let bytes = self.store.get(name.as_str())?;
        if blake3::hash(&bytes) != manifest {
            let text = format!(
                "the object {name} (the list of files) does not have the bytes that it is named after"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Index::decode(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// The generations whose files are kept, in order.
    #[must_use]
    pub fn kept(&self) -> Vec<u64> {
        let mut kept: Vec<u64> = self.contents.kept.iter().map(|kept| kept.number).collect();
        kept.sort_unstable();
        kept
    }

    pub(super) fn is_kept(&self, generation: u64) -> bool {
        self.contents.kept.iter().any(|kept| kept.number == generation)
    }

    /// How many generations' files are kept from now on. Those that serve, await confirmation or are gone back to
    /// are kept besides.
    pub fn set_generations(&mut self, count: usize) {
        self.keep_generations = count.clamp(1, MAX_GENERATIONS);
    }

    /// The generation that served before the one that serves and was not taken back, if its files are kept: what
    /// `rollback` means without a number.
    #[must_use]
    pub fn previous(&self) -> Option<u64> {
        let serving = self.contents.serving();
        let other = |number: &u64| Some(*number) != serving && self.is_kept(*number);
        self.contents.order.iter().rev().copied().find(other)
    }

    /// Removes the files of generations that are kept no longer, and what crashes have left: a bounded part of it. To be
    /// called when nobody waits.
    pub fn tidy(&mut self) {
        let over = self.contents.kept.len().saturating_sub(self.keep_generations);
        if over == 0 && self.objects.is_swept() {
            return;
        }
        self.count_objects();
        for _ in 0..over.min(REMOVED_AT_ONCE) {
            let unneeded = |kept: &Kept| !self.contents.is_needed(kept.number);
            let Some(oldest) = self.contents.kept.iter().position(unneeded) else { break };
            if let Some(Kept { stored, .. }) = self.contents.kept.remove(oldest) {
                self.forget(&stored);
            }
        }
        if !self.objects.is_swept() {
            self.objects.sweep(&mut *self.store);
            self.forget_blobs();
        }
    }

    fn forget(&mut self, stored: &Stored) {
        match stored {
            Stored::Blob(_) => self.forget_blobs(),
            Stored::Objects(manifest) => {
                let index = self.read_index(*manifest);
                self.objects.forget(&mut *self.store, *manifest, index.ok().as_ref());
            }
        }
    }

    /// What versions before this one wrote goes with the last generation that is in it.
    fn forget_blobs(&mut self) {
        let names: Vec<&str> = self
            .contents
            .kept
            .iter()
            .map(|kept| kept.stored.blob())
            .filter(|name| !name.is_empty())
            .collect();
        // What cannot be removed now is removed the next time.
        let _ = self.store.keep_only_blobs(&names);
    }

    /// Learns which objects are named, before anything is written or removed.
    fn count_objects(&mut self) {
        if self.objects.is_counted() {
            return;
        }
        let mut all_known = true;
        self.objects.begin_count();
        for manifest in self.contents.kept.iter().filter_map(|kept| kept.stored.manifest()) {
            if self.objects.count_again(manifest) {
                continue;
            }
            match self.read_index(manifest) {
                Ok(index) => {
                    self.objects.name(manifest, index.files().iter().map(|file| file.digest()));
                }
                // Whatever it named is of no use without it.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::NotFound) => {}
                Err(_) => all_known = false,
            }
        }
        self.objects.end_count(all_known);
    }

    /// Generations that were removed are still in the file's records.
    pub(super) fn forget_removed(&mut self) {
        let store = &self.store;
        self.contents.kept.retain(|kept| {
            kept.stored.manifest().is_none_or(|manifest| store.length(manifest.to_hex().as_str()).is_some())
        });
    }

    /// What was written for an operation without an outcome may not have reached the disk before the power failed.
    pub(super) fn check_unfinished(&mut self) {
        let intents: Vec<u64> = self.contents.unfinished.iter().filter_map(|u| u.intent).collect();
        for generation in intents {
            let Ok(Stored::Objects(manifest)) = self.stored(generation) else { continue };
            let manifest = *manifest;
            self.objects.unsynced_generations.push(generation);
            match self.read_index(manifest) {
                Ok(index) => {
                    for file in index.files() {
                        self.objects.check(&mut *self.store, file.digest());
                    }
                    self.objects.doubt();
                }
                Err(_) => self.objects.check(&mut *self.store, manifest.to_hex().as_str()),
            }
        }
    }

    /// Waits until the files of generations are on the disk. Those that cannot get there are not kept.
    pub(super) fn sync_objects(&mut self) -> io::Result<()> {
        let synced = self.objects.sync(&mut *self.store);
        let generations = std::mem::take(&mut self.objects.unsynced_generations);
        if synced.is_err() {
            // The kernel may have thrown their pages away: nobody knows what is there.
            self.contents.kept.retain(|kept| !generations.contains(&kept.number));
            self.objects.lose(&mut *self.store);
        }
        synced
    }
}

/// A file of a bundle could not be read.
struct BundleReadError(String);

impl From<BundleError> for BundleReadError {
    fn from(error: BundleError) -> Self {
        Self(error.to_string())
    }
}
