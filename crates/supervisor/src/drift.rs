//! Drift: how the files on the disk, or those of another generation, differ from the bytes that serve.
//!
//! ```text
//!   status, metrics ─▶ stat each file ─┬─ as it was when it was last read ─▶ its digest is known
//!                                      └─ otherwise ──────────────────────▶ read, digest, remembered
//! ```
//!
//! A file whose identity, size and times are as they were when it was last read is not read again, unless it was
//! written so lately that a further change might not show in its times. What was read is remembered from
//! generation to generation, so that after a reload only the files are read that changed.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use handover_api::{Diff, FileDiff, FileState};
use handover_handoff::Bundle;
use handover_handoff::bundle::{BundleFile, MAX_BUNDLE_BYTES};
use rustix::fs::OFlags;
use similar::TextDiff;

/// The longest file of which a difference is shown line by line.
const MAX_DIFFED_BYTES: usize = 1024 * 1024;
/// The most bytes of differences that one answer shows line by line; of further files only that they differ.
const MAX_SHOWN_BYTES: usize = 4 * 1024 * 1024;
/// Lines around a difference that are shown with it.
const CONTEXT_LINES: usize = 3;
/// How long after it was written a file may change again without a change of its times.
const CLOCK_GRAIN: Duration = Duration::from_secs(1);
/// Files that are remembered although no generation names them any more.
const MAX_FORGOTTEN: usize = 1_000;

/// The files of the generation that serves, to be compared with the disk. Its methods read files: call them where
/// that may block.
#[derive(Debug)]
pub(crate) struct Drift {
    bundle: Bundle,
    digest: String,
    seen: Arc<Mutex<Seen>>,
}

/// What the files were when they were last read.
type Seen = HashMap<PathBuf, (Signature, blake3::Hash)>;

/// What changes when a file does.
type Signature = (u64, u64, u64, i64, i64, i64, i64);

impl Drift {
    /// `before` is that of the generation before, whose memory of the disk goes on.
    pub(crate) fn new(bundle: Bundle, before: Option<&Drift>) -> Self {
        let seen = before.map(|before| Arc::clone(&before.seen)).unwrap_or_default();
        Drift { digest: bundle.digest(), bundle, seen }
    }

    /// The generation's files.
    pub(crate) fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// [`Bundle::digest`].
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// The files that differ from what serves, or cannot be read any more.
    pub(crate) fn differing(&self) -> Vec<String> {
        self.forget();
        let files = self.bundle.files().filter(|(_, file)| file.on_disk);
        let differing = files.filter(|(path, file)| !self.is_same(path, file));
        differing.map(|(path, _)| path.display().to_string()).collect()
    }

    /// The differences to the disk, line by line where they can be shown.
    pub(crate) fn diff(&self) -> Diff {
        let mut room = MAX_SHOWN_BYTES;
        let files = self.bundle.files().filter(|(_, file)| file.on_disk);
        let files: Vec<FileDiff> = files
            .filter(|(path, file)| !self.is_same(path, file))
            .filter_map(|(path, file)| diff_of(path, file, &mut room))
            .collect();
        Diff { same: files.is_empty(), files, ..Diff::default() }
    }

    /// The differences to other files; `name` says whose they are.
    pub(crate) fn diff_to(&self, other: &Bundle, name: &str) -> Diff {
        let mut room = MAX_SHOWN_BYTES;
        let mut files = Vec::new();
        let whole = |path: &Path, state, diff| FileDiff { path: path.display().to_string(), state, diff };
        for (path, file) in self.bundle.files() {
            match other.get(path) {
                None => {
                    files.push(whole(path, FileState::Removed, format!("{} bytes serve", file.bytes.len())));
                }
                Some(bytes) if bytes[..] == file.bytes[..] => {}
                Some(bytes) => {
                    let diff = text_diff(path, &file.bytes, bytes, name, &mut room);
                    files.push(whole(path, FileState::Differs, diff));
                }
            }
        }
        for (path, file) in other.files().filter(|(path, _)| self.bundle.get(path).is_none()) {
            files.push(whole(path, FileState::Added, format!("{} bytes: {name}", file.bytes.len())));
        }
        Diff { same: files.is_empty(), files, ..Diff::default() }
    }

    /// Drops what is remembered of files that nobody names any more, if that is much.
    fn forget(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() > self.bundle.files().count() + MAX_FORGOTTEN {
            seen.retain(|path, _| self.bundle.get(path).is_some());
        }
    }

    fn is_same(&self, path: &Path, file: &BundleFile) -> bool {
        let signature = signature(path);
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(now), Some((before, digest))) = (signature, seen.get(path))
            && now == *before
        {
            return digest.to_hex().as_str() == file.digest;
        }
        drop(seen);
        let digest = match read(path) {
            Ok(Some(bytes)) => blake3::hash(&bytes),
            Ok(None) => return true,
            Err(_) => return false,
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match signature.filter(is_settled) {
            Some(signature) => seen.insert(path.to_owned(), (signature, digest)),
            None => seen.remove(path),
        };
        digest.to_hex().as_str() == file.digest
    }
}

fn signature(path: &Path) -> Option<Signature> {
    let meta = fs::metadata(path).ok()?;
    let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
    Some((meta.dev(), meta.ino(), meta.size(), times.0, times.1, times.2, times.3))
}

fn is_settled(signature: &Signature) -> bool {
    let changed =
        u64::try_from(signature.5).map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    let age = changed.ok().and_then(|changed| SystemTime::now().duration_since(changed).ok());
    age.is_some_and(|age| age > CLOCK_GRAIN * 2)
}

/// The bytes of a file; `None` for a pipe or a device, which cannot be looked at without taking from it.
fn read(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_BUNDLE_BYTES).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn diff_of(path: &Path, file: &BundleFile, room: &mut usize) -> Option<FileDiff> {
    let (state, diff) = match read(path) {
        Err(error) => (FileState::Unreadable, error.to_string()),
        Ok(None) => return None,
        // It was changed back in this very moment.
        Ok(Some(now)) if now[..] == file.bytes[..] => return None,
        Ok(Some(now)) => (FileState::Differs, text_diff(path, &file.bytes, &now, "disk", room)),
    };
    Some(FileDiff { path: path.display().to_string(), state, diff })
}

/// The difference from what serves to other bytes; `name` says whose these are.
fn text_diff(path: &Path, serving: &[u8], other: &[u8], name: &str, room: &mut usize) -> String {
    let sizes = || format!("{} bytes serve, {} bytes: {name}", serving.len(), other.len());
    if serving.len() > MAX_DIFFED_BYTES || other.len() > MAX_DIFFED_BYTES {
        return format!("too long to be shown: {}", sizes());
    }
    let (Ok(serving_text), Ok(other_text)) = (std::str::from_utf8(serving), std::str::from_utf8(other))
    else {
        return format!("not text: {}", sizes());
    };
    if [serving_text, other_text].iter().any(|text| text.contains("PRIVATE KEY-----")) {
        return "a private key, not shown".to_owned();
    }
    // Its lines say nothing to people; what changed about it does, and stands among the changes.
    if [serving_text, other_text].iter().any(|text| text.contains("-----BEGIN CERTIFICATE-----")) {
        return "a certificate, not shown as text".to_owned();
    }
    let Some(left) = room.checked_sub(serving.len().max(other.len())) else {
        return format!("not shown, there is much before it: {}", sizes());
    };
    *room = left;
    let path = path.display();
    TextDiff::from_lines(serving_text, other_text)
        .unified_diff()
        .context_radius(CONTEXT_LINES)
        .header(&format!("{path} (serving)"), &format!("{path} ({name})"))
        .to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn serving(path: &Path, bytes: &[u8]) -> Drift {
        let mut bundle = Bundle::new();
        bundle.insert_top(path, Arc::from(bytes)).unwrap();
        bundle.insert_built_in_top("built in", Arc::from(&b"x"[..])).unwrap();
        Drift::new(bundle, None)
    }

    #[test]
    fn a_changed_file_is_shown_line_by_line_and_one_changed_back_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        fs::write(&path, "one\ntwo\n").unwrap();
        let drift = serving(&path, b"one\ntwo\n");
        assert!(drift.differing().is_empty() && drift.diff().same);
        fs::write(&path, "one\nTWO\n").unwrap();
        assert_eq!(drift.differing(), [path.display().to_string()]);
        let diff = drift.diff();
        assert!(diff.files[0].diff.contains("-two\n+TWO\n"), "{}", diff.files[0].diff);
        fs::write(&path, "one\ntwo\n").unwrap();
        assert!(drift.differing().is_empty() && drift.diff().same);
    }

    #[test]
    fn a_file_that_is_gone_is_unreadable_and_one_that_is_no_text_is_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.bin");
        let drift = serving(&path, &[0xff]);
        assert_eq!(drift.diff().files[0].state, FileState::Unreadable);
        fs::write(&path, [0xfe]).unwrap();
        assert!(drift.diff().files[0].diff.starts_with("not text"));
    }

    #[test]
    fn a_pipe_is_not_read_and_does_not_hold_up_the_answer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let drift = serving(&path, b"what was in it");
        assert!(drift.differing().is_empty() && drift.diff().same);
    }

    #[test]
    fn a_private_key_is_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        fs::write(&path, "-----BEGIN PRIVATE KEY-----\nsecret\n").unwrap();
        let diff = serving(&path, b"").diff();
        assert!(!diff.same && !diff.files[0].diff.contains("secret"));
    }

    #[test]
    fn a_certificate_is_not_shown_line_by_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.pem");
        fs::write(&path, "-----BEGIN CERTIFICATE-----\nMIIB\n").unwrap();
        let diff = serving(&path, b"-----BEGIN CERTIFICATE-----\nMIIA\n").diff();
        assert!(diff.files[0].diff.starts_with("a certificate, not shown"), "{}", diff.files[0].diff);
    }

    #[test]
    fn after_a_reload_only_what_changed_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let (same, changed) = (directory.path().join("same"), directory.path().join("changed"));
        for path in [&same, &changed] {
            fs::write(path, "one").unwrap();
            // Written long ago, so that its times are to be trusted.
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000)).unwrap();
        }
        let mut bundle = Bundle::new();
        bundle.insert(&same, Arc::from(&b"one"[..])).unwrap();
        bundle.insert(&changed, Arc::from(&b"one"[..])).unwrap();
        let first = Drift::new(bundle.clone(), None);
        let remembered = (signature(&same).unwrap(), blake3::hash(b"what it was taken for"));
        first.seen.lock().unwrap().insert(same.clone(), remembered);
        bundle.insert(&changed, Arc::from(&b"two"[..])).unwrap();
        fs::write(&changed, "two").unwrap();
        let second = Drift::new(bundle, Some(&first));
        // What is remembered of the one is believed, and the other is read.
        assert_eq!(second.differing(), [same.display().to_string()]);
    }

    #[test]
    fn files_of_another_generation_are_added_removed_and_changed() {
        let mut before = Bundle::new();
        before.insert_top(Path::new("/a.toml"), Arc::from(&b"one\n"[..])).unwrap();
        before.insert(Path::new("/gone"), Arc::from(&b"x"[..])).unwrap();
        let mut after = Bundle::new();
        after.insert_top(Path::new("/a.toml"), Arc::from(&b"two\n"[..])).unwrap();
        after.insert(Path::new("/new"), Arc::from(&b"x"[..])).unwrap();
        let drift = Drift::new(before.clone(), None);
        assert!(drift.diff_to(&before, "generation 1").same);
        let diff = drift.diff_to(&after, "generation 2");
        let states: Vec<_> = diff.files.iter().map(|file| (file.path.as_str(), file.state)).collect();
        assert_eq!(
            states,
            [("/a.toml", FileState::Differs), ("/gone", FileState::Removed), ("/new", FileState::Added)]
        );
        assert!(diff.files[0].diff.contains("-one\n+two\n"), "{}", diff.files[0].diff);
    }
}
