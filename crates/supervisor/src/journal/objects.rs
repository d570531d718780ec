//! Objects: bytes under the name of their digest, and by how many lists each is named.
//!
//! ```text
//!   unknown ──count──▶ counted ──put──▶ written, not synced ──sync──▶ on the disk
//!                                          │ undo, or it cannot be synced
//!                                          ▼
//!                                       removed ◀── forget: no list names it any more
//! ```

use std::collections::{HashMap, HashSet};
use std::io;

use blake3::Hash;
use handover_handoff::bundle::Index;

use super::store::Store;

/// Which objects are there, and what became of those that were written last.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// How often each object is needed: by lists that name it, and by generations whose list it is. None until that was
    /// counted.
    named: Option<HashMap<Hash, u32>>,
    /// How many generations have each list: nothing keeps a file from having the very bytes of a list.
    lists: HashMap<Hash, u32>,
    /// Whether every list could be read, so that what is not named may be removed.
    all_known: bool,
    /// Whether what crashes have left was removed.
    swept: bool,
    /// What the generation that is being written has added.
    added: HashSet<Hash>,
    /// How much was not synced when that began.
    unsynced_before: usize,
    /// What was written and is not synced.
    unsynced: Vec<Hash>,
    /// The generations to which this belongs.
    pub(super) unsynced_generations: Vec<u64>,
    /// Some of it was written by a supervisor that is gone.
    doubted: bool,
}

impl Objects {
    pub(super) fn is_counted(&self) -> bool {
        self.named.is_some()
    }

    pub(super) fn begin_count(&mut self) {
        self.named = Some(HashMap::new());
        self.lists.clear();
    }

    pub(super) fn end_count(&mut self, all_known: bool) {
        self.all_known = all_known;
    }

    /// Counts another generation with the same list. Says whether that was counted before.
    pub(super) fn count_again(&mut self, manifest: Hash) -> bool {
        let known = self.lists.get_mut(&manifest);
        known.map(|count| *count = count.saturating_add(1)).is_some()
    }

    /// A generation has this list, which names these objects.
    pub(super) fn name<'a>(&mut self, manifest: Hash, files: impl Iterator<Item = &'a str>) {
        if self.count_again(manifest) {
            return;
        }
        let Some(named) = &mut self.named else { return };
        self.lists.insert(manifest, 1);
        let files = files.filter_map(|digest| Hash::from_hex(digest).ok());
        for digest in std::iter::once(manifest).chain(files) {
            let count = named.entry(digest).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// The next generation is being written.
    pub(super) fn begin(&mut self) {
        self.added.clear();
        self.unsynced_before = self.unsynced.len();
    }

    /// Writes an object, unless it is there already.
    pub(super) fn put(&mut self, store: &mut dyn Store, name: &str, bytes: &[u8]) -> io::Result<()> {
        let digest = Hash::from_hex(name).map_err(io::Error::other)?;
        let is_named = self.named.as_ref().is_some_and(|named| named.contains_key(&digest));
        let there =
            (is_named && store.length(name) == Some(bytes.len() as u64)) || self.added.contains(&digest);
        if there {
            return Ok(());
        }
        store.put(name, bytes)?;
        self.unsynced.push(digest);
        if !is_named {
            self.added.insert(digest);
        }
        Ok(())
    }

    /// The generation that was being written is not to be.
    pub(super) fn undo(&mut self, store: &mut dyn Store) {
        for digest in std::mem::take(&mut self.added) {
            // What cannot be removed now is found the next time the journal is opened.
            let _ = store.remove(digest.to_hex().as_str());
        }
        self.unsynced.truncate(self.unsynced_before);
        // Which of its names were counted already is not worth remembering.
        self.named = None;
    }

    /// One generation less has this list. What nothing names any more is removed.
    pub(super) fn forget(&mut self, store: &mut dyn Store, manifest: Hash, index: Option<&Index>) {
        let (Some(named), true) = (&mut self.named, self.all_known) else { return };
        let Some(generations) = self.lists.get_mut(&manifest) else { return };
        *generations = generations.saturating_sub(1);
        if *generations > 0 {
            return;
        }
        self.lists.remove(&manifest);
        let files = index.map(Index::files).unwrap_or_default();
        let files = files.iter().filter_map(|file| Hash::from_hex(file.digest()).ok());
        for digest in std::iter::once(manifest).chain(files) {
            let Some(count) = named.get_mut(&digest) else { continue };
            *count = count.saturating_sub(1);
            if *count == 0 {
                named.remove(&digest);
                // What cannot be removed now is found the next time the journal is opened.
                let _ = store.remove(digest.to_hex().as_str());
            }
        }
    }

    pub(super) fn is_swept(&self) -> bool {
        self.swept
    }

    /// Removes what no list names: left by a crash between an object and its list, or between a list and its record.
    pub(super) fn sweep(&mut self, store: &mut dyn Store) {
        self.swept = true;
        let (Some(named), true) = (&self.named, self.all_known) else { return };
        for name in store.names().unwrap_or_default() {
            let is_named = Hash::from_hex(&name).is_ok_and(|digest| named.contains_key(&digest));
            if !is_named {
                let _ = store.remove(&name);
            }
        }
    }

    /// Reads an object and removes it if it has other bytes than its name says.
    pub(super) fn check(&mut self, store: &mut dyn Store, name: &str) {
        let Ok(bytes) = store.get(name) else { return };
        if blake3::hash(&bytes).to_hex().as_str() != name {
            let _ = store.remove(name);
        }
    }

    /// Objects of an earlier supervisor may not be on the disk yet.
    pub(super) fn doubt(&mut self) {
        self.doubted = true;
    }

    /// Waits until all that was written is on the disk.
    pub(super) fn sync(&mut self, store: &mut dyn Store) -> io::Result<()> {
        if self.unsynced.is_empty() && !self.doubted {
            return Ok(());
        }
        store.sync_objects(self.doubted)?;
        self.doubted = false;
        self.unsynced.clear();
        Ok(())
    }

    /// What was written last cannot be synced.
    pub(super) fn lose(&mut self, store: &mut dyn Store) {
        for digest in std::mem::take(&mut self.unsynced) {
            let _ = store.remove(digest.to_hex().as_str());
        }
        self.doubted = false;
        self.named = None;
    }
}
