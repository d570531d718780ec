//! Real processes, looked at from outside.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};

use handover_testkit::is_alone;
use rustix::fs::MemfdFlags;

use crate::inherit;
use crate::process::Exit;

use super::*;

/// What a launch is made of, so that a test says only what matters to it.
struct Order {
    command: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    pid_variable: Option<OsString>,
    directory: Option<PathBuf>,
    open_files: Option<u64>,
    umask: Option<u32>,
    sockets: Vec<OwnedFd>,
    first_socket: RawFd,
    stdin: Option<OwnedFd>,
    group: Option<File>,
    identity: Option<Identity<'static>>,
}

fn order(command: &[&str]) -> Order {
    Order {
        command: command.iter().map(OsString::from).collect(),
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        pid_variable: None,
        directory: None,
        open_files: None,
        umask: None,
        sockets: Vec::new(),
        first_socket: 3,
        stdin: None,
        group: None,
        identity: None,
    }
}

fn shell(script: &str) -> Order {
    order(&["sh", "-c", script])
}

impl Order {
    fn start(&self, output: BorrowedFd<'_>) -> Result<Child, LaunchError> {
        let sockets: Vec<_> = self.sockets.iter().map(AsFd::as_fd).collect();
        Launch {
            command: &self.command,
            environment: &self.environment,
            pid_variable: self.pid_variable.as_deref(),
            directory: self.directory.as_deref(),
            identity: self.identity,
            umask: self.umask,
            open_files: self.open_files,
            control_group: self.group.as_ref().map(AsFd::as_fd),
            stdin: self.stdin.as_ref().map(AsFd::as_fd),
            stdout: output,
            stderr: output,
            sockets: &sockets,
            first_socket: self.first_socket,
        }
        .start()
    }

    /// Starts it and reads all that it writes; how it ended, and what it wrote.
    fn try_run(&self) -> Result<(Exit, String), LaunchError> {
        let (mut reader, writer) = io::pipe().unwrap();
        let child = self.start(writer.as_fd());
        drop(writer);
        let child = child?;
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        Ok((end(&child), text))
    }

    fn run(&self) -> (Exit, String) {
        self.try_run().unwrap()
    }

    fn fails(&self) -> LaunchError {
        self.try_run().unwrap_err()
    }
}

fn end(child: &Child) -> Exit {
    let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
    let ready = rustix::event::poll(&mut [PollFd::new(child, PollFlags::IN)], Some(&limit)).unwrap();
    assert_eq!(ready, 1, "the process did not end in time");
    assert!(child.peek().unwrap().is_some());
    child.try_wait().unwrap().unwrap()
}

/// A file with this text, to be read from its beginning.
fn file(text: &str) -> OwnedFd {
    let mut file = File::from(rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(text.as_bytes()).unwrap();
    io::Seek::rewind(&mut file).unwrap();
    file.into()
}

/// A process that lives until the test has looked at it, as the kernel shows it.
struct Seen(Child);

impl Seen {
    fn start(order: &Order) -> Self {
        let null = File::options().write(true).open("/dev/null").unwrap();
        Seen(order.start(null.as_fd()).unwrap())
    }

    fn status(&self, field: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.0.pid())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap().split_ascii_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn descriptors(&self) -> BTreeSet<i32> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.0.pid())).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        end(&self.0);
    }
}

#[test]
fn sockets_are_under_the_numbers_where_they_are_expected_also_if_these_are_in_use_here() {
    let (one, two) = (file("one"), file("two"));
    // In the reverse of the order in which they have these numbers here, and from the first of them on.
    let first = one.as_raw_fd().min(two.as_raw_fd());
    let (low, high) = if one.as_raw_fd() == first { ("one", "two") } else { ("two", "one") };
    let sockets = if low == "one" { vec![two, one] } else { vec![one, two] };
    let script = format!("cat <&{first}; cat <&{}", first + 1);
    let order = Order { sockets, first_socket: first, ..shell(&script) };
    assert_eq!(order.run(), (Exit::Code(0), format!("{high}{low}")));

    let many: Vec<OwnedFd> = (0..20).map(|number| file(&format!("{number} "))).collect();
    let script = "n=3; while [ $n -lt 23 ]; do cat /proc/self/fd/$n; n=$((n + 1)); done";
    let expected: String = (0..20).map(|number| format!("{number} ")).collect();
    assert_eq!(Order { sockets: many, ..shell(script) }.run(), (Exit::Code(0), expected));
}

#[test]
fn a_socket_can_take_the_place_of_a_standard_stream() {
    let order = Order { sockets: vec![file("from there")], first_socket: 0, ..order(&["cat"]) };
    assert_eq!(order.run(), (Exit::Code(0), "from there".to_owned()));
}

#[test]
fn the_process_has_its_own_id_in_its_environment() {
    let script = "test \"$LISTEN_PID\" = $$ && echo $LISTEN_PID $MINE";
    let mut order = Order { pid_variable: Some("LISTEN_PID".into()), ..shell(script) };
    order.environment.push(("MINE".into(), "too".into()));
    let (exit, said) = order.run();
    assert_eq!(exit, Exit::Code(0), "{said}");
    assert!(said.ends_with(" too\n"));
}

#[test]
fn it_has_the_descriptors_that_it_was_given_and_no_others() {
    let (stray, _other) = io::pipe().unwrap();
    // As if it had come from a parent that did not care.
    inherit::set_inheritable(&stray, true).unwrap();
    let order = Order { sockets: vec![file("a"), file("b")], ..order(&["sleep", "1000"]) };
    let seen = Seen::start(&order);
    assert_eq!(seen.descriptors(), BTreeSet::from([0, 1, 2, 3, 4]));
    inherit::set_inheritable(&stray, false).unwrap();
}

#[test]
fn no_signal_is_blocked_or_ignored_in_it_whatever_is_here() {
    let seen = std::thread::spawn(|| {
        crate::signals::block_managed().unwrap();
        Seen::start(&order(&["sleep", "1000"]))
    });
    let seen = seen.join().unwrap();
    // This process ignores PIPE, as every Rust program does.
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = own.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    assert_ne!(u64::from_str_radix(ignored.trim(), 16).unwrap(), 0, "{own}");
    for field in ["SigBlk", "SigIgn", "SigCgt"] {
        assert_eq!(u64::from_str_radix(&seen.status(field), 16).unwrap(), 0, "{field}");
    }
}

#[test]
fn this_thread_has_the_signals_that_it_had_after_a_launch_and_after_a_failed_one() {
    let mask = || {
        let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        text.lines().find(|line| line.starts_with("SigBlk:")).unwrap().to_owned()
    };
    let before = mask();
    assert_eq!(shell("exit 3").run().0, Exit::Code(3));
    order(&["/nowhere/at/all"]).fails();
    assert_eq!(mask(), before);
}

#[test]
fn it_leads_a_session_of_its_own() {
    let seen = Seen::start(&order(&["sleep", "1000"]));
    let pid = seen.0.pid().to_string();
    assert_eq!((seen.status("NSpgid"), seen.status("NSsid")), (pid.clone(), pid));
}

#[test]
fn writing_to_a_closed_pipe_ends_it() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let child = shell("while echo more; do :; done").start(writer.as_fd()).unwrap();
    assert_eq!(end(&child), Exit::Signal(libc::SIGPIPE));
}

#[test]
fn commands_are_found_in_its_own_path_and_relative_ones_in_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("here");
    handover_testkit::program::script(&script, "#!/bin/sh\necho found in $(pwd)\n");
    let said = format!("found in {}\n", directory.path().canonicalize().unwrap().display());
    let relative = Order { directory: Some(directory.path().into()), ..order(&["./here"]) };
    assert_eq!(relative.run(), (Exit::Code(0), said.clone()));
    let mut searched = Order { directory: Some(directory.path().into()), ..order(&["here"]) };
    searched.environment =
        vec![("PATH".into(), format!("/nowhere:{}:/bin", directory.path().display()).into())];
    assert_eq!(searched.run(), (Exit::Code(0), said));
    searched.environment = Vec::new();
    let error = searched.fails();
    let says = format!("there is no command here in PATH ({DEFAULT_PATH}): No such file");
    assert!(error.to_string().starts_with(&says), "{error}");
}

#[test]
fn what_cannot_be_executed_is_told_with_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        handover_testkit::program::script(&path, text);
        path.to_str().unwrap().to_owned()
    };
    let text = write("text", "no program");
    let unmarked = write("unmarked", "#!/bin/sh\n");
    std::fs::set_permissions(&unmarked, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let lost = write("lost", "#!/nowhere/python\n");
    for (command, says) in [
        (vec!["/nowhere/at/all"], "there is no file /nowhere/at/all to execute"),
        (vec![&*text], "is nothing that can be executed here"),
        (vec![&*unmarked], "may not be executed by the user"),
        (vec![&*lost], "the interpreter of its first line"),
        (vec![""], "there is no command  in PATH"),
        (vec![], "there is no file"),
        (vec!["with a \0 byte"], "there is a NUL byte in it"),
    ] {
        let error = order(&command).fails();
        assert!(error.to_string().contains(says), "{command:?}: {error}");
    }
    let nowhere = Order { directory: Some("/nowhere".into()), ..order(&["true"]) };
    let error = nowhere.fails();
    assert_eq!(error.doing, Doing::Directory);
    assert!(
        error.to_string().starts_with("the directory /nowhere cannot be entered: No such file"),
        "{error}"
    );
}

#[test]
fn a_failed_launch_leaves_neither_a_process_nor_a_descriptor() {
    // In a process of its own: other tests have both.
    if !is_alone("launch::tests::a_failed_launch_leaves_neither_a_process_nor_a_descriptor") {
        return;
    }
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for _ in 0..20 {
        order(&["/nowhere/at/all"]).fails();
    }
    assert_eq!(open(), before);
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap();
    assert_eq!(children.trim(), "");
}

#[test]
fn its_umask_and_its_limit_of_open_files_are_set() {
    let order = Order { umask: Some(0o027), open_files: Some(77), ..shell("umask; ulimit -n; ulimit -H -n") };
    assert_eq!(order.run(), (Exit::Code(0), "0027\n77\n77\n".to_owned()));
}

#[test]
fn standard_input_is_empty_unless_given() {
    assert_eq!(order(&["cat"]).run(), (Exit::Code(0), String::new()));
    let given = Order { stdin: Some(file("given")), ..order(&["cat"]) };
    assert_eq!(given.run(), (Exit::Code(0), "given".to_owned()));
}

#[test]
fn it_joins_its_control_group_before_it_runs() {
    let group = tempfile::NamedTempFile::new().unwrap();
    let procs = File::options().write(true).open(group.path()).unwrap();
    assert_eq!(Order { group: Some(procs), ..order(&["true"]) }.run().0, Exit::Code(0));
    assert_eq!(std::fs::read_to_string(group.path()).unwrap(), "0");
    // One that cannot be joined is told, and nothing runs.
    let unwritable = File::open("/dev/null").unwrap();
    let error = Order { group: Some(unwritable), ..order(&["true"]) }.fails();
    assert_eq!(error.doing, Doing::ControlGroup);
}

#[test]
fn another_user_has_its_own_groups_only() {
    let nobody = Identity { uid: 65_534, gid: 65_534, groups: &[65_534, 12] };
    let script = "id -u; id -g; id -G";
    match (Order { identity: Some(nobody), ..shell(script) }).try_run() {
        Ok(ran) => {
            assert_eq!(ran, (Exit::Code(0), "65534\n65534\n65534 12\n".to_owned()));
            assert!(rustix::process::geteuid().is_root());
        }
        // Whoever is not root may not: but is told.
        Err(error) => {
            assert!(!rustix::process::geteuid().is_root(), "{error}");
            assert_eq!((error.doing, error.source.raw_os_error()), (Doing::User, Some(libc::EPERM)));
        }
    }
}
