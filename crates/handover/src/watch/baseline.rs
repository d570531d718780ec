//! What was read last, and whether something else is there now.
//!
//! ```text
//!   serving: the generation's files ─┐
//!   tried: the files of the last     ├─▶ the set that is watched, each with what was seen of it last
//!   attempt, if it came to nothing ──┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use handover_handoff::Bundle;

use super::Came;
use crate::files::{self, Seen, Stamp};

/// How coarse the clocks of file systems may be: within this time a file may change again and keep its times.
const CLOCK_GRAIN: Duration = Duration::from_secs(2);

/// Files, and what was seen of them last.
#[derive(Debug, Default)]
pub(super) struct Baseline {
    /// The files of the generation that serves.
    serving: BTreeSet<PathBuf>,
    /// Those that the last attempt looked for, if it has not come to serve.
    tried: BTreeSet<PathBuf>,
    seen: BTreeMap<PathBuf, Seen>,
}

/// The states of all files at one moment, to tell whether they are still.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Snapshot(Vec<Option<Stamp>>);

impl Baseline {
    /// A prepare has looked at these.
    pub(super) fn tried(&mut self, seen: &[Seen]) {
        self.tried = seen.iter().map(|seen| seen.path.clone()).collect();
        self.seen.extend(seen.iter().map(|seen| (seen.path.clone(), seen.clone())));
        self.forget();
    }

    /// This generation serves. If its files are those of another time, what is on the disk now is what will not be asked
    /// for.
    pub(super) fn serving(&mut self, bundle: &Bundle, came: Came) {
        self.serving =
            bundle.files().filter(|(_, file)| file.on_disk).map(|(path, _)| path.to_owned()).collect();
        if came == Came::Read {
            self.tried.clear();
        }
        self.forget();
        for path in &self.serving {
            let bytes = bundle.get(path).filter(|_| came == Came::WasRead);
            self.seen.entry(path.clone()).or_insert_with(|| match bytes {
                Some(bytes) => Seen::of_before(path, bytes),
                None => files::glance(path),
            });
        }
    }

    fn forget(&mut self) {
        let (serving, tried) = (&self.serving, &self.tried);
        self.seen.retain(|path, _| serving.contains(path) || tried.contains(path));
    }

    /// All files.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.seen.keys().map(PathBuf::as_path)
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot(self.paths().map(Stamp::at).collect())
    }

    /// The first file that is not as it was seen last, and how many more there are. What turns out to be the same is
    /// not read again.
    pub(super) fn changed(&mut self) -> Option<(PathBuf, usize)> {
        let mut changed = self.seen.values_mut().filter_map(|seen| is_news(seen).then(|| seen.path.clone()));
        let first = changed.next()?;
        Some((first, changed.count()))
    }
}

/// Whether a file differs from what was seen of it. If only its times do, that is remembered.
fn is_news(seen: &mut Seen) -> bool {
    let now = Stamp::at(&seen.path);
    let Some(bytes) = &seen.bytes else { return now != seen.stamp };
    if now.is_some() && now == seen.stamp && !seen.may_have_changed_unnoticed() {
        return false;
    }
    let (read, again) = files::look(&seen.path);
    match read {
        Ok(read) if read == *bytes => {
            *seen = again;
            false
        }
        _ => true,
    }
}

impl Seen {
    /// What another process has read at some time.
    fn of_before(path: &Path, bytes: &Arc<[u8]>) -> Self {
        let (stamp, at) = (None, SystemTime::UNIX_EPOCH);
        Self { path: path.to_owned(), stamp, bytes: Some(Arc::clone(bytes)), at }
    }

    /// Whether it was written so shortly before it was read that it may have been written again without a trace.
    fn may_have_changed_unnoticed(&self) -> bool {
        let (Some(stamp), Some(_)) = (&self.stamp, &self.bytes) else { return false };
        let changed = u64::try_from(stamp.changed_at()).unwrap_or(0);
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(changed);
        self.at < changed + CLOCK_GRAIN
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn baseline(paths: &[&Path]) -> Baseline {
        let mut baseline = Baseline::default();
        baseline.tried(&paths.iter().map(|path| files::look(path).1).collect::<Vec<_>>());
        baseline
    }

    #[test]
    fn a_change_that_leaves_no_trace_in_the_times_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::write(&path, "one").unwrap();
        let mut baseline = baseline(&[&path]);
        assert_eq!(baseline.changed(), None);
        // What the clock's grain can hide: the same inode, length and times.
        fs::write(&path, "two").unwrap();
        let stamp = Stamp::at(&path);
        baseline.seen.get_mut(&path).unwrap().stamp = stamp;
        assert_eq!(baseline.changed(), Some((path, 0)));
    }

    #[test]
    fn a_file_that_is_written_anew_with_the_same_bytes_is_no_news() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::write(&path, "one").unwrap();
        let mut baseline = baseline(&[&path]);
        fs::write(directory.path().join("b"), "one").unwrap();
        fs::rename(directory.path().join("b"), &path).unwrap();
        assert_eq!(baseline.changed(), None);
    }

    #[test]
    fn what_was_missing_and_has_come_is_news_and_so_is_what_has_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (there, missing) = (directory.path().join("a"), directory.path().join("b"));
        fs::write(&there, "one").unwrap();
        let mut baseline = baseline(&[&there, &missing]);
        assert_eq!(baseline.changed(), None);
        fs::write(&missing, "").unwrap();
        assert_eq!(baseline.changed(), Some((missing, 0)));
        fs::remove_file(&there).unwrap();
        assert_eq!(baseline.changed(), Some((there, 1)));
    }

    #[test]
    fn what_changed_while_no_worker_was_there_is_news_to_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let [same, other, gone] = ["same", "other", "gone"].map(|name| directory.path().join(name));
        fs::write(&same, "then").unwrap();
        fs::write(&other, "now").unwrap();
        let mut bundle = Bundle::new();
        for path in [&same, &other, &gone] {
            bundle.insert(path, Arc::from(&b"then"[..])).unwrap();
        }
        let changed = |came| {
            let mut baseline = Baseline::default();
            baseline.serving(&bundle, came);
            baseline.changed()
        };
        assert_eq!(changed(Came::WasRead), Some((gone.clone(), 1)));
        assert_eq!(changed(Came::FromElsewhere), None, "after a rollback the disk is known to differ");
    }

    #[test]
    fn files_of_a_failed_attempt_are_watched_until_another_one_serves() {
        let directory = tempfile::tempdir().unwrap();
        let (top, key) = (directory.path().join("top"), directory.path().join("key"));
        fs::write(&top, "one").unwrap();
        let mut bundle = Bundle::new();
        bundle.insert_top(&top, files::look(&top).0.unwrap()).unwrap();
        let mut baseline = Baseline::default();
        baseline.serving(&bundle, Came::Read);
        baseline.tried(&[&top, &key].map(|path| files::look(path).1));
        assert_eq!(baseline.paths().collect::<Vec<_>>(), [&key, &top]);
        // Going back to a generation that is not the disk's does not make the disk news.
        baseline.serving(&bundle, Came::FromElsewhere);
        assert_eq!(baseline.paths().count(), 2);
        assert_eq!(baseline.changed(), None);
        baseline.serving(&bundle, Came::Read);
        assert_eq!(baseline.paths().collect::<Vec<_>>(), [&top]);
    }
}
