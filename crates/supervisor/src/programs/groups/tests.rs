//! Groups in a directory, and, where this machine lets us, in the kernel.

use super::*;

fn limits() -> ResourceLimits {
    ResourceLimits { nofile: None, memory: Some(64 << 20), cpu: Some(500), processes: Some(10) }
}

/// A directory that looks like a group with these controllers.
fn directory(controllers: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("cgroup.subtree_control"), controllers).unwrap();
    directory
}

#[test]
fn without_a_place_limits_are_told_not_to_be_kept_and_nothing_is_refused() {
    let (group, warnings) = Groups::none().make("web/1-00", &limits());
    assert_eq!((group, warnings.len()), (None, 3));
    assert!(
        warnings[0].starts_with("the limit on memory cannot be kept: there is no control group"),
        "{warnings:?}"
    );
    let (_, warnings) = Groups::none().make("web/1-00", &ResourceLimits::default());
    assert_eq!(warnings, [""; 0]);
    // Where no directory can be made there is no place.
    assert!(Groups::within(Path::new("/proc"), "s").0.is_none());
}

#[test]
fn a_group_is_named_after_server_and_mark_and_each_limit_without_a_controller_is_told() {
    let directory = directory("cpu io");
    let groups = Groups::within(directory.path(), "my server");
    let (group, warnings) = groups.make("web/1-00ff", &limits());
    let group = group.unwrap();
    assert_eq!(group.path(), directory.path().join("handover-my-server-web-1-00ff"));
    // A plain directory has no files to write to.
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[0].contains("memory") && warnings[0].contains("has no controller"), "{warnings:?}");
    assert!(warnings[1].contains("CPU time") && warnings[1].contains("No such file"), "{warnings:?}");
    assert!(group.path().is_dir());
    // The same mark twice is no other group.
    assert!(groups.make("web/1-00ff", &limits()).0.is_none());
    groups.sweep();
    assert!(group.path().exists(), "its first process may be about to join it");
    let earlier = std::time::SystemTime::now() - 2 * JUST_MADE;
    File::open(group.path()).unwrap().set_modified(earlier).unwrap();
    groups.sweep();
    assert!(!group.path().exists());
}

#[test]
fn limits_are_written_as_the_kernel_takes_them() {
    let directory = directory("cpu memory pids");
    let group = Group::at(directory.path().join("g"));
    fs::create_dir(group.path()).unwrap();
    for file in ["memory.max", "cpu.max", "pids.max"] {
        fs::write(group.path().join(file), "").unwrap();
    }
    for one in wanted(&limits()) {
        group.write(one.file, &one.value).unwrap();
    }
    let read = |file: &str| fs::read_to_string(group.path().join(file)).unwrap();
    assert_eq!(
        (&*read("memory.max"), &*read("cpu.max"), &*read("pids.max")),
        ("67108864", "50000 100000", "10")
    );
    let little = ResourceLimits { cpu: Some(1), ..ResourceLimits::default() };
    assert_eq!(wanted(&little)[0].value, "1000 100000");
    fs::write(group.path().join("memory.current"), "4096\n").unwrap();
    assert_eq!(group.memory(), Some(4096));
}

#[test]
fn processes_of_groups_below_count_too() {
    let directory = directory("");
    let below = directory.path().join("g/a/b");
    fs::create_dir_all(&below).unwrap();
    fs::write(directory.path().join("g/cgroup.procs"), "7\n8\n").unwrap();
    fs::write(below.join("cgroup.procs"), "9\n").unwrap();
    let group = Group::at(directory.path().join("g"));
    assert_eq!(group.processes(), BTreeSet::from([7, 8, 9]));
    // One that is not there has none, and is no error to remove.
    let gone = Group::at(directory.path().join("gone"));
    assert_eq!(gone.processes(), BTreeSet::new());
    gone.remove();
}
