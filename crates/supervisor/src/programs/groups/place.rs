//! Where control groups may be made (cgroups(7), version 2).
//!
//! ```text
//!   this process's group ─┬─ the root that it sees (a container, or no manager) ─┐
//!                         ├─ delegated to it (Delegate= of systemd) ─────────────┼─▶ there ─▶ controllers switched on, if
//!                         ├─ the leaf that an earlier life has moved to ─▶ above ┘            nobody else is in it
//!                         └─ any other ─▶ nowhere: a manager's tree is not touched
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use super::Group;
use super::survey::Survey;

/// The group below to which the server itself moves, so that the one above can have controllers.
const LEAF: &str = "handover-itself";
/// What is limited by them.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// What systemd marks a delegated group with: as root, and for a user's manager.
const DELEGATED: [&str; 2] = ["trusted.delegate", "user.delegate"];

/// The directory, if there is one.
pub(super) fn find() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let (directory, is_root) = own_group(&mounts, &own)?;
    if directory.file_name().is_some_and(|name| name == LEAF) {
        return directory.parent().map(Path::to_owned);
    }
    (is_root || is_delegated(&directory)).then_some(directory)
}

/// The directory of this process's group, and whether it is the root that it sees.
fn own_group(mounts: &str, own: &str) -> Option<(PathBuf, bool)> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        // proc_pid_mountinfo(5): ID, parent, device, root, mount point, options, optional fields, `-`, type …
        let (before, after) = line.split_once(" - ")?;
        if after.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let fields: Vec<&str> = before.split(' ').collect();
        let (root, point) = (unescaped(fields.get(3)?), unescaped(fields.get(4)?));
        // Of a mount that shows a part of the tree only, this process's group may lie elsewhere.
        let below = Path::new(path).strip_prefix(&root).ok()?;
        let is_root = below.as_os_str().is_empty();
        Some((if is_root { point } else { point.join(below) }, is_root))
    })
}

/// Spaces, tabs, line ends and backslashes stand as three octal digits.
fn unescaped(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let octal = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

fn is_delegated(directory: &Path) -> bool {
    DELEGATED.into_iter().any(|name| {
        let mut value = [0; 8];
        rustix::fs::getxattr(directory, name, &mut value[..])
            .is_ok_and(|length| value.get(..length) == Some(b"1"))
    })
}

/// Switches on what can be for the groups below; says what is on then.
pub(super) fn enable(directory: &Path) -> BTreeSet<String> {
    let words = |file: &str| -> BTreeSet<String> {
        let text = fs::read_to_string(directory.join(file)).unwrap_or_default();
        text.split_ascii_whitespace().map(str::to_owned).collect()
    };
    let there = words("cgroup.controllers");
    let on = words("cgroup.subtree_control");
    let missing = CONTROLLERS.into_iter().filter(|name| there.contains(*name) && !on.contains(*name));
    let missing: Vec<String> = missing.map(|name| format!("+{name}")).collect();
    if missing.is_empty() || !is_empty(directory) {
        return on;
    }
    for one in missing {
        // What the kernel refuses is told when somebody asks for such a limit.
        if let Err(error) = fs::write(directory.join("cgroup.subtree_control"), &one) {
            tracing::debug!("the controller {one} cannot be had in {}: {error}", directory.display());
        }
    }
    words("cgroup.subtree_control")
}

/// Whether there is no process in it, or it is the real root, where that does not matter. This process and its descendants
/// move out of the way; if there is any other, nothing is done.
fn is_empty(directory: &Path) -> bool {
    let is_real_root = !directory.join("cgroup.type").exists();
    let inside = || -> Vec<u32> {
        let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    };
    let found = inside();
    if is_real_root || found.is_empty() {
        return true;
    }
    let ours = Survey::take().descendants(std::process::id());
    if !found.iter().all(|pid| ours.contains(pid)) {
        return false;
    }
    let leaf = Group::at(directory.join(LEAF));
    // It may be there from an earlier life.
    let _ = fs::create_dir(leaf.path());
    for pid in found {
        if let Err(error) = fs::write(leaf.path().join("cgroup.procs"), pid.to_string()) {
            tracing::debug!("process {pid} cannot be moved to {}: {error}", leaf.path().display());
        }
    }
    inside().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "25 20 0:21 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        26 25 0:22 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        27 25 0:23 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_own_group_is_found_in_whatever_is_mounted() {
        let root = PathBuf::from("/sys/fs/cgroup/unified");
        assert_eq!(own_group(HYBRID, "1:memory:/a\n0::/\n"), Some((root.clone(), true)));
        let service = own_group(HYBRID, "0::/system.slice/web.service\n");
        assert_eq!(service, Some((root.join("system.slice/web.service"), false)));
        // Of a container without a namespace of its own, only its part is mounted.
        let part = "30 1 0:9 /docker/c0ffee /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(own_group(part, "0::/docker/c0ffee\n"), Some(("/sys/fs/cgroup".into(), true)));
        assert_eq!(own_group(part, "0::/elsewhere\n"), None);
        assert_eq!(own_group(HYBRID, "1:memory:/a\n"), None);
        assert_eq!(own_group("", "0::/\n"), None);
    }

    #[test]
    fn escaped_paths_are_read_as_they_are() {
        assert_eq!(unescaped("/a\\040b\\134c"), PathBuf::from("/a b\\c"));
        assert_eq!(unescaped("/a\\9"), PathBuf::from("/a\\9"));
    }

    #[test]
    fn what_is_not_marked_as_delegated_is_not() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_delegated(directory.path()));
    }

    #[test]
    fn only_controllers_that_are_there_and_off_are_switched_on() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("cgroup.controllers", "cpu io memory pids\n");
        write("cgroup.subtree_control", "memory\n");
        write("cgroup.procs", "");
        // In a plain directory each write takes the place of the one before.
        assert_eq!(enable(directory.path()), BTreeSet::from(["+pids".to_owned()]));
        write("cgroup.subtree_control", "cpu memory pids io\n");
        assert_eq!(enable(directory.path()).len(), 4);
        // A stranger's process in it: nothing is done.
        write("cgroup.subtree_control", "");
        write("cgroup.type", "domain\n");
        write("cgroup.procs", "1\n");
        assert_eq!(enable(directory.path()), BTreeSet::new());
    }
}
