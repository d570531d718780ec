//! Drift: how the files on the disk differ from the bytes that serve.
//!
//! A file whose identity, size and times are as they were when it was last read is not read again, unless it was
//! written so lately that a further change might not show in its times.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use handover_api::{Diff, FileDiff, FileState};
use handover_handoff::Bundle;
use handover_handoff::bundle::{BundleFile, MAX_BUNDLE_BYTES};
use rustix::fs::OFlags;
use similar::TextDiff;

/// The longest file of which a difference is shown line by line.
const MAX_DIFFED_BYTES: usize = 1024 * 1024;
/// Lines around a difference that are shown with it.
const CONTEXT_LINES: usize = 3;
/// How long after it was written a file may change again without a change of its times.
const CLOCK_GRAIN: Duration = Duration::from_secs(1);

/// The files of the generation that serves, to be compared with the disk. Its methods read files: call them where
/// that may block.
#[derive(Debug)]
pub(crate) struct Drift {
    bundle: Bundle,
    seen: Mutex<HashMap<PathBuf, (Signature, bool)>>,
}

/// What changes when a file does.
type Signature = (u64, u64, u64, i64, i64, i64, i64);

impl Drift {
    pub(crate) fn new(bundle: Bundle) -> Self {
        Drift { bundle, seen: Mutex::default() }
    }

    /// The generation's files.
    pub(crate) fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The files that differ from what serves, or cannot be read any more.
    pub(crate) fn differing(&self) -> Vec<String> {
        let files = self.bundle.files().filter(|(_, file)| file.on_disk);
        let differing = files.filter(|(path, file)| !self.is_same(path, file));
        differing.map(|(path, _)| path.display().to_string()).collect()
    }

    /// The differences, line by line where they can be shown.
    pub(crate) fn diff(&self, serving_generation: Option<u64>) -> Diff {
        let files = self.bundle.files().filter(|(_, file)| file.on_disk);
        let files: Vec<FileDiff> = files
            .filter(|(path, file)| !self.is_same(path, file))
            .filter_map(|(path, file)| diff_of(path, file))
            .collect();
        Diff { serving_generation, same: files.is_empty(), files, ..Diff::default() }
    }

    fn is_same(&self, path: &Path, file: &BundleFile) -> bool {
        let signature = signature(path);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(now), Some((before, same))) = (signature, seen.get(path))
            && now == *before
        {
            return *same;
        }
        drop(seen);
        let same = match read(path) {
            Ok(Some(bytes)) => bytes[..] == file.bytes[..],
            Ok(None) => true,
            Err(_) => false,
        };
        seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match signature.filter(is_settled) {
            Some(signature) => seen.insert(path.to_owned(), (signature, same)),
            None => seen.remove(path),
        };
        same
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

fn diff_of(path: &Path, file: &BundleFile) -> Option<FileDiff> {
    let (state, diff) = match read(path) {
        Err(error) => (FileState::Unreadable, error.to_string()),
        Ok(None) => return None,
        // It was changed back in this very moment.
        Ok(Some(now)) if now[..] == file.bytes[..] => return None,
        Ok(Some(now)) => (FileState::Differs, text_diff(path, &file.bytes, &now)),
    };
    Some(FileDiff { path: path.display().to_string(), state, diff })
}

fn text_diff(path: &Path, serving: &[u8], disk: &[u8]) -> String {
    let sizes = || format!("{} bytes serve, {} bytes are on disk", serving.len(), disk.len());
    if serving.len() > MAX_DIFFED_BYTES || disk.len() > MAX_DIFFED_BYTES {
        return format!("too long to be shown: {}", sizes());
    }
    let (Ok(serving_text), Ok(disk_text)) = (std::str::from_utf8(serving), std::str::from_utf8(disk)) else {
        return format!("not text: {}", sizes());
    };
    if [serving_text, disk_text].iter().any(|text| text.contains("PRIVATE KEY-----")) {
        return "a private key, not shown".to_owned();
    }
    let name = path.display();
    TextDiff::from_lines(serving_text, disk_text)
        .unified_diff()
        .context_radius(CONTEXT_LINES)
        .header(&format!("{name} (serving)"), &format!("{name} (disk)"))
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
        Drift::new(bundle)
    }

    #[test]
    fn a_changed_file_is_shown_line_by_line_and_one_changed_back_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        fs::write(&path, "one\ntwo\n").unwrap();
        let drift = serving(&path, b"one\ntwo\n");
        assert!(drift.differing().is_empty() && drift.diff(Some(1)).same);
        fs::write(&path, "one\nTWO\n").unwrap();
        assert_eq!(drift.differing(), [path.display().to_string()]);
        let diff = drift.diff(Some(1));
        assert!(diff.files[0].diff.contains("-two\n+TWO\n"), "{}", diff.files[0].diff);
        fs::write(&path, "one\ntwo\n").unwrap();
        assert!(drift.differing().is_empty() && drift.diff(Some(1)).same);
    }

    #[test]
    fn a_file_that_is_gone_is_unreadable_and_one_that_is_no_text_is_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.bin");
        let drift = serving(&path, &[0xff]);
        assert_eq!(drift.diff(None).files[0].state, FileState::Unreadable);
        fs::write(&path, [0xfe]).unwrap();
        assert!(drift.diff(None).files[0].diff.starts_with("not text"));
    }

    #[test]
    fn a_pipe_is_not_read_and_does_not_hold_up_the_answer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let drift = serving(&path, b"what was in it");
        assert!(drift.differing().is_empty() && drift.diff(None).same);
    }

    #[test]
    fn a_private_key_is_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        fs::write(&path, "-----BEGIN PRIVATE KEY-----\nsecret\n").unwrap();
        let diff = serving(&path, b"").diff(None);
        assert!(!diff.same && !diff.files[0].diff.contains("secret"));
    }
}
