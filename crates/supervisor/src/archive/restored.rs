//! From an archive back to what can be served, or to files on a disk.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use handover_api::Problem;
use handover_handoff::Bundle;
use handover_handoff::bundle::BundleError;

use super::{Archive, ArchiveError, ArchivedFile};
use crate::handle::{Carried, Restored};

impl Archive {
    /// The files that it holds, and their bytes.
    pub fn files(&self) -> impl Iterator<Item = (&ArchivedFile, &Arc<[u8]>)> {
        let files = self.manifest.files.iter().zip(&self.files);
        files.filter_map(|(file, bytes)| Some((file, bytes.as_ref()?)))
    }

    /// The files that were left out because private keys are in them.
    pub fn left_out(&self) -> impl Iterator<Item = &ArchivedFile> {
        let files = self.manifest.files.iter().zip(&self.files);
        files.filter(|(_, bytes)| bytes.is_none()).map(|(file, _)| file)
    }

    /// What can be served again. Files that were left out are read with `read_key`; `restored.notes` names them.
    ///
    /// # Errors
    /// A key cannot be read; the files do not have the digest that the manifest gives them together.
    pub fn restored(
        self,
        mut read_key: impl FnMut(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<Restored, ArchiveError> {
        let source = self.manifest.title();
        let mut bundle = Bundle::new();
        let mut notes = Vec::new();
        for (file, bytes) in self.manifest.files.iter().zip(self.files) {
            let bytes = match bytes {
                Some(bytes) => bytes,
                None => {
                    let key = key_from_disk(file, &mut read_key)?;
                    notes.push(note_about(file, &key));
                    Arc::from(key)
                }
            };
            let added = match (file.top, file.built_in) {
                (_, true) => bundle.insert_built_in_top(&file.path.to_string_lossy(), bytes),
                (true, false) => bundle.insert_top(&file.path, bytes),
                (false, false) => bundle.insert(&file.path, bytes),
            };
            added.map_err(|error: BundleError| ArchiveError::TooBig(error.to_string()))?;
        }
        if notes.is_empty() && bundle.digest() != self.manifest.digest {
            return Err(ArchiveError::Digest { entry: "the set of its files".to_owned() });
        }
        let carried = self.carried.map(|bytes| Carried(Arc::from(bytes)));
        Ok(Restored { bundle, carried, source, notes })
    }
}

fn key_from_disk(
    file: &ArchivedFile,
    read_key: &mut impl FnMut(&Path) -> io::Result<Vec<u8>>,
) -> Result<Vec<u8>, ArchiveError> {
    let missing = |reason: String| ArchiveError::KeyMissing { path: file.path.clone(), reason };
    read_key(&file.path).map_err(|error| missing(error.to_string()))
}

fn note_about(file: &ArchivedFile, key: &[u8]) -> Problem {
    let same = blake3::hash(key).to_hex().as_str() == file.blake3;
    let detail = if same {
        "private keys are not in the backup: this file is the one on disk, the same as when the backup was made"
    } else {
        "private keys are not in the backup: this file is the one on disk, which is not the same as when the backup was made"
    };
    Problem::new(detail).in_file(file.path.display().to_string())
}

/// Where a file comes to lie that is unpacked below `directory`: never outside of it, whatever its path says.
#[must_use]
pub fn unpacked_path(directory: &Path, path: &Path) -> PathBuf {
    let mut below = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => below.push(name),
            Component::ParentDir => {
                below.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    directory.join(below)
}
