//! What belongs to a copy: its control group where there can be one, its session, its mark; and its limits.
//!
//! ```text
//!   a place to make control groups (delegated, version 2) ─┬─ yes ─▶ one for each copy: limits, kill of all at once
//!                                                          └─ no ──▶ session, descendants, mark: found in /proc
//! ```
//!
//! | file | what for |
//! |---|---|
//! | `place.rs` | where control groups may be made (cgroups(7)) |
//! | `survey.rs` | all processes at one moment, and which of them belong to a copy |

mod place;
mod survey;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::protocol::ResourceLimits;

pub(crate) use survey::{Belonging, MARK_SEPARATOR, MARK_VARIABLE, Survey, began, boot, lives, resident};

/// Microseconds of a period over which CPU time is counted (`cpu.max`).
const CPU_PERIOD: u64 = 100_000;
/// For so long a group may be empty because its first process has not joined it yet.
const JUST_MADE: Duration = Duration::from_secs(60);
/// Control groups of a copy, one below the other, that are looked at: programs may make their own.
const MAX_DEPTH: usize = 16;

/// Where copies get control groups of their own, if there is such a place. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Groups(Option<Arc<Place>>);

/// A directory in which control groups can be made.
#[derive(Debug)]
struct Place {
    directory: PathBuf,
    /// What the names of this server's begin with.
    prefix: String,
    /// What can be limited in them.
    controllers: BTreeSet<String>,
}

impl Groups {
    /// Looks for the place: where this process is, if that was delegated to it, or is the root that it sees. This process may
    /// move to a group of its own below, since only a group without processes of its own can have controllers for those below.
    pub(crate) fn detect(server: &str) -> Self {
        let found = place::find().map_or_else(Self::none, |directory| Self::within(&directory, server));
        found.sweep();
        found
    }

    /// No control groups.
    pub(crate) fn none() -> Self {
        Groups(None)
    }

    /// In this directory, if groups can be made there.
    pub(crate) fn within(directory: &Path, server: &str) -> Self {
        let prefix = format!("handover-{}-", plain(server));
        let probe = directory.join(format!("{prefix}{}", std::process::id()));
        if fs::create_dir(&probe).is_err() {
            return Self::none();
        }
        // It is empty.
        let _ = fs::remove_dir(&probe);
        let controllers = place::enable(directory);
        Groups(Some(Arc::new(Place { directory: directory.to_owned(), prefix, controllers })))
    }

    /// A group for the copy with this mark, with its limits; and what of these cannot be kept, a sentence each. No group if there
    /// is no place for it.
    pub(crate) fn make(&self, mark: &str, limits: &ResourceLimits) -> (Option<Group>, Vec<String>) {
        let wanted = wanted(limits);
        let Some(place) = &self.0 else {
            let why = "there is no control group (version 2) that was delegated to this server";
            return (None, refused(&wanted, why));
        };
        let group = Group { path: place.directory.join(format!("{}{}", place.prefix, plain(mark))) };
        if let Err(error) = fs::create_dir(&group.path) {
            return (
                None,
                refused(&wanted, &format!("the group {} cannot be made: {error}", group.path.display())),
            );
        }
        let mut warnings = Vec::new();
        for limit in wanted {
            if !place.controllers.contains(limit.controller) {
                let why = format!("{} has no controller for it", place.directory.display());
                warnings.extend(refused(&[limit], &why));
            } else if let Err(error) = group.write(limit.file, &limit.value) {
                warnings.extend(refused(&[limit], &error.to_string()));
            }
        }
        (Some(group), warnings)
    }

    /// Removes empty groups of servers of this name that nobody has used for a while: those of a life that ended badly.
    fn sweep(&self) {
        let Some(place) = &self.0 else { return };
        let Ok(entries) = fs::read_dir(&place.directory) else { return };
        for entry in entries.flatten() {
            let made = entry.metadata().and_then(|metadata| metadata.modified());
            let is_old = made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > JUST_MADE));
            if is_old && entry.file_name().as_encoded_bytes().starts_with(place.prefix.as_bytes()) {
                // One that has processes cannot be removed.
                Group { path: entry.path() }.remove();
            }
        }
    }
}

/// One limit, as a group's file takes it.
#[derive(Debug)]
struct Wanted {
    what: &'static str,
    controller: &'static str,
    file: &'static str,
    value: String,
}

fn wanted(limits: &ResourceLimits) -> Vec<Wanted> {
    let one = |what, controller, file, value| Wanted { what, controller, file, value };
    // Thousandths of a CPU; the kernel takes at least a millisecond of a period.
    let quota = |cpu: u64| (cpu.saturating_mul(CPU_PERIOD) / 1000).max(1000);
    [
        limits.memory.map(|bytes| one("memory", "memory", "memory.max", bytes.to_string())),
        limits.cpu.map(|cpu| one("CPU time", "cpu", "cpu.max", format!("{} {CPU_PERIOD}", quota(cpu)))),
        limits.processes.map(|count| one("processes", "pids", "pids.max", count.to_string())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn refused(wanted: &[Wanted], why: &str) -> Vec<String> {
    wanted.iter().map(|limit| format!("the limit on {} cannot be kept: {why}", limit.what)).collect()
}

/// What may stand in a file's name.
fn plain(text: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    text.chars().map(|c| if fits(c) { c } else { '-' }).collect()
}

/// The control group of a copy. Dropping it leaves it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    path: PathBuf,
}

impl Group {
    /// The one at this path.
    pub(crate) fn at(path: PathBuf) -> Self {
        Group { path }
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its `cgroup.procs`, for a process that joins it.
    ///
    /// # Errors
    /// It is not there, or may not be joined.
    pub(crate) fn door(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.path.join("cgroup.procs"))
    }

    /// Its processes, also those in groups below.
    pub(crate) fn processes(&self) -> BTreeSet<u32> {
        let mut found = BTreeSet::new();
        for directory in self.tree() {
            let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
        found
    }

    /// Whether any process of it lives, also in groups below.
    pub(crate) fn is_populated(&self) -> bool {
        let events = fs::read_to_string(self.path.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "populated 1")
    }

    /// Kills all of them at once, also those that are being forked (Linux 5.14).
    ///
    /// # Errors
    /// The kernel cannot, or it is not there any more.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.write("cgroup.kill", "1")
    }

    /// The memory that they use, in bytes; `None` without a controller for it.
    pub(crate) fn memory(&self) -> Option<u64> {
        fs::read_to_string(self.path.join("memory.current")).ok()?.trim().parse().ok()
    }

    /// Removes it, and what is below. One that has processes stays.
    pub(crate) fn remove(&self) {
        for directory in self.tree().into_iter().rev() {
            let _ = fs::remove_dir(directory);
        }
    }

    /// It and all below, each after the one that it is in.
    fn tree(&self) -> Vec<PathBuf> {
        let mut found = vec![self.path.clone()];
        let mut level = vec![self.path.clone()];
        for _ in 0..MAX_DEPTH {
            let below = level.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten();
            let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            level = below.map(|entry| entry.path()).collect();
            found.extend(level.iter().cloned());
        }
        found
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.path.join(file))?.write_all(value.as_bytes())
    }
}
