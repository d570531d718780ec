//! Real processes that do what programs do on bad days, with a control group where this machine has one, and without.

use std::io::{BufRead as _, BufReader, PipeReader};
use std::os::fd::OwnedFd;
use std::time::Duration;

use handover_testkit::{have, is_alone, is_alone_in, proc, root, skip, until};

use super::*;

const LIMIT: Duration = Duration::from_secs(20);
const TERM: i32 = 15;
/// Ignores what it can, and never ends.
const STAYS: &str = "trap '' TERM HUP INT; exec tail -f /dev/null";

/// The same, after it has said so.
fn stays(word: &str) -> String {
    STAYS.replace("; exec", &format!("; echo {word}; exec"))
}

/// Both ways in which the processes of a copy are found.
fn places(test: &str) -> Vec<Groups> {
    let groups = Groups::detect("test");
    let (probe, _) = groups.make(&new_mark(test, 0).unwrap(), &ResourceLimits::default());
    if probe.map(|group| group.remove()).is_none() {
        skip(&format!("{test}: no control groups can be made here"));
        return vec![Groups::none()];
    }
    vec![Groups::none(), groups]
}

/// An order that a test may change before it is carried out.
struct Ordered {
    command: Vec<String>,
    environment: BTreeMap<String, String>,
    clear_environment: bool,
    user: Option<User>,
    limits: ResourceLimits,
    sockets: Vec<(&'static str, OwnedFd)>,
    pass: Pass,
    groups: Groups,
}

fn shell(script: &str) -> Ordered {
    Ordered {
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        environment: BTreeMap::new(),
        clear_environment: false,
        user: None,
        limits: ResourceLimits::default(),
        sockets: Vec::new(),
        pass: Pass::default(),
        groups: Groups::none(),
    }
}

impl Ordered {
    fn within(self, groups: &Groups) -> Self {
        Ordered { groups: groups.clone(), ..self }
    }

    fn try_start(&self) -> Result<(Started, BufReader<PipeReader>), NotStarted> {
        let (reader, writer) = io::pipe().unwrap();
        let sockets: Vec<_> = self.sockets.iter().map(|(name, socket)| (*name, socket.as_fd())).collect();
        let started = start(&Order {
            program: "web",
            number: 2,
            mark: &new_mark("web", 2).unwrap(),
            command: &self.command,
            directory: None,
            environment: &self.environment,
            clear_environment: self.clear_environment,
            user: self.user.as_ref(),
            limits: &self.limits,
            sockets: &sockets,
            pass: &self.pass,
            notify: None,
            stdin: None,
            stdout: None,
            output: writer.as_fd(),
            groups: &self.groups,
        })?;
        Ok((started, BufReader::new(reader)))
    }

    fn start(&self) -> (Copy, BufReader<PipeReader>) {
        let (started, output) = self.try_start().unwrap();
        (started.copy, output)
    }
}

fn line(output: &mut BufReader<PipeReader>) -> String {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

async fn exited(copy: &Copy) -> Exit {
    tokio::time::timeout(LIMIT, copy.exited()).await.unwrap()
}

async fn gone(copy: &Copy) {
    tokio::time::timeout(LIMIT, copy.gone()).await.unwrap();
}

/// Nothing of it is left, not even a zombie or a group.
fn assert_cleared(copy: Copy) {
    let (pid, group) = (copy.pid(), copy.group());
    drop(copy);
    assert_eq!(proc::stat(pid), None);
    assert!(group.is_none_or(|group| !group.path().exists()));
}

#[tokio::test]
async fn one_that_ends_by_itself_is_gone_and_its_code_is_known_as_often_as_asked() {
    for groups in places("copy") {
        let (copy, mut output) = shell("echo $$; exit 7").within(&groups).start();
        assert_eq!(line(&mut output), copy.pid().to_string());
        assert_eq!(exited(&copy).await, Exit::Code(7));
        gone(&copy).await;
        assert_eq!((exited(&copy).await, copy.exit()), (Exit::Code(7), Some(Exit::Code(7))));
        assert_eq!(copy.kill_all(LIMIT).await, Killed::default());
        // That it has ended is no error.
        copy.signal(TERM).unwrap();
        assert_cleared(copy);
    }
}

#[tokio::test]
async fn one_that_ignores_the_request_to_end_is_killed_and_counted() {
    for groups in places("copy") {
        let (copy, mut output) = shell(&stays("ready")).within(&groups).start();
        assert_eq!(line(&mut output), "ready");
        copy.signal(TERM).unwrap();
        assert_eq!(copy.exit(), None);
        assert_eq!(copy.kill_all(LIMIT).await, Killed { killed: 1, left: 0 });
        assert_eq!(exited(&copy).await, Exit::Signal(9));
        gone(&copy).await;
        assert_cleared(copy);
    }
    let (copy, _output) = shell("exec sleep 1000").start();
    assert!(copy.signal(99).is_err());
    copy.signal(TERM).unwrap();
    assert_eq!(exited(&copy).await, Exit::Signal(TERM));
}

#[tokio::test]
async fn when_its_first_process_has_ended_what_it_left_behind_is_still_its_own() {
    for groups in places("copy") {
        let script = format!("({}) & exec sleep 0", stays("ready"));
        let (copy, mut output) = shell(&script).within(&groups).start();
        assert_eq!(line(&mut output), "ready");
        assert_eq!(exited(&copy).await, Exit::Code(0));
        let left = copy.processes();
        assert_eq!(left.len(), 1);
        assert!(copy.owns(left[0]) && left[0] != copy.pid());
        assert!(tokio::time::timeout(Duration::ZERO, copy.gone()).await.is_err());
        assert_eq!(copy.signal_rest(TERM).unwrap(), 1);
        assert_eq!(copy.kill_all(LIMIT).await, Killed { killed: 1, left: 0 });
        gone(&copy).await;
        assert!(!proc::alive(left[0]));
        assert_cleared(copy);
    }
}

#[tokio::test]
async fn what_it_left_behind_and_ends_when_asked_is_not_killed() {
    let (copy, mut output) = shell("sleep 1000 & sleep 1000 & echo ready").start();
    assert_eq!(line(&mut output), "ready");
    exited(&copy).await;
    until("both are alone", || (copy.processes().len() == 2).then_some(()));
    assert_eq!(copy.signal_rest(TERM).unwrap(), 2);
    gone(&copy).await;
    assert_eq!(copy.kill_all(LIMIT).await, Killed::default());
    assert_cleared(copy);
}

#[tokio::test]
async fn children_in_sessions_of_their_own_are_found_whoever_their_parent_is_now() {
    for groups in places("copy") {
        let script = format!(
            "setsid sh -c \"{}\" &
             setsid sh -c \"setsid sh -c \\\"{}\\\" &\"
             ({}) &
             sleep 1000",
            stays("a"),
            stays("b"),
            stays("c")
        );
        let (copy, mut output) = shell(&script).within(&groups).start();
        let mut said = [line(&mut output), line(&mut output), line(&mut output)];
        said.sort_unstable();
        assert_eq!(said, ["a", "b", "c"]);
        copy.signal(9).unwrap();
        assert_eq!(exited(&copy).await, Exit::Signal(9));
        // The three, and the one that the shell waited for; whoever has started the second ends in its own time.
        let left = until("four are left", || Some(copy.processes()).filter(|left| left.len() == 4));
        assert_eq!(copy.kill_all(LIMIT).await, Killed { killed: 4, left: 0 });
        assert!(left.into_iter().all(|pid| !proc::alive(pid)));
        assert_cleared(copy);
    }
}

#[tokio::test]
async fn one_that_hides_its_mark_is_found_while_it_has_a_parent_and_remembered() {
    let script = format!("setsid env -i sh -c \"{}\" & exec sleep 1000", stays("ready"));
    let (copy, mut output) = shell(&script).start();
    assert_eq!(line(&mut output), "ready");
    // It is looked at now and then: from then on it is known.
    until("it is known", || (copy.processes().len() == 2).then_some(()));
    copy.signal(9).unwrap();
    exited(&copy).await;
    let left = copy.processes();
    assert_eq!(left.len(), 1);
    assert_eq!(copy.kill_all(LIMIT).await, Killed { killed: 1, left: 0 });
    assert!(!proc::alive(left[0]));
}

#[tokio::test]
async fn in_a_control_group_nothing_can_hide() {
    for groups in places("copy").into_iter().skip(1) {
        let script = format!("setsid env -i sh -c \"setsid sh -c \\\"{}\\\" &\"", stays("ready"));
        let (copy, mut output) = shell(&script).within(&groups).start();
        assert_eq!(line(&mut output), "ready");
        exited(&copy).await;
        // Whoever has started it ends in its own time.
        let hidden = until("one is left", || Some(copy.processes()).filter(|left| left.len() == 1));
        assert!(copy.owns(hidden[0]));
        assert_eq!(copy.kill_all(LIMIT).await, Killed { killed: 1, left: 0 });
        assert!(!proc::alive(hidden[0]));
        assert_cleared(copy);
    }
}

#[tokio::test]
async fn one_that_forks_without_end_is_ended_all_the_same() {
    for groups in places("copy") {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("hop");
        // Each of them lives only until the next one does.
        handover_testkit::program::script(&script, "#!/bin/sh\n\"$0\" &\n");
        let (copy, _output) =
            shell(&format!("{0} & {0} & {0} & wait", script.display())).within(&groups).start();
        exited(&copy).await;
        let killed = copy.kill_all(LIMIT).await;
        assert_eq!(killed.left, 0);
        gone(&copy).await;
        assert!(copy.processes().is_empty());
        assert_cleared(copy);
    }
}

#[tokio::test]
async fn another_copy_and_this_process_are_nobodys() {
    let (one, mut output) = shell(&stays("ready")).start();
    let (other, mut other_output) = shell(&stays("ready")).start();
    assert_eq!((line(&mut output), line(&mut other_output)), ("ready".to_owned(), "ready".to_owned()));
    let survey = Survey::take();
    assert_eq!(
        (one.processes_of(&survey), other.processes_of(&survey)),
        (vec![one.pid()], vec![other.pid()])
    );
    assert!(one.owns(one.pid()) && !one.owns(other.pid()) && !one.owns(std::process::id()) && !one.owns(0));
    assert!(one.memory(&survey).unwrap() > 0);
    assert_eq!(one.kill_all(LIMIT).await.killed, 1);
    assert_eq!(one.memory(&Survey::take()), None);
    assert_eq!(other.exit(), None);
    other.kill_all(LIMIT).await;
}

#[tokio::test]
async fn it_gets_its_sockets_and_is_told_of_them_in_every_way() {
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let script = "test \"$LISTEN_PID\" = $$ && echo $LISTEN_FDS $LISTEN_FDNAMES $SOCKETS; exec sleep 1000";
    let pass = Pass { fd_env: Some("SOCKETS".to_owned()), ..Pass::default() };
    let order = Ordered { sockets: vec![("http", null()), ("a:b", null())], pass, ..shell(script) };
    let (copy, mut output) = order.start();
    assert_eq!(line(&mut output), "2 http:a-b 3,4");
    until("it is the last program", || (proc::command_line(copy.pid())[0] == "sleep").then_some(()));
    assert_eq!(proc::descriptors(copy.pid()).into_keys().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    copy.kill_all(LIMIT).await;

    let pass = Pass { listen_fds: false, fd_env: Some("SOCKETS".to_owned()), first_fd: 7, ..Pass::default() };
    let order = Ordered { sockets: vec![("http", null())], pass, ..shell("echo $SOCKETS $LISTEN_FDS.") };
    let (copy, mut output) = order.start();
    assert_eq!(line(&mut output), "7 .");
    exited(&copy).await;
}

#[tokio::test]
async fn its_environment_is_this_ones_without_what_means_this_process_and_with_what_it_is_told() {
    const FOR_THIS_PROCESS: &str = "HANDOVER_TEST_MEANS_THIS_PROCESS";
    let with_variables = || {
        let mut own = std::process::Command::new(std::env::current_exe().unwrap());
        own.envs([("LISTEN_FDS", "1"), ("LISTEN_PID", "1"), ("NOTIFY_SOCKET", "/nowhere")])
            .envs([("JOURNAL_STREAM", "1:1"), ("HANDOVER_MARK", "outer/1-00"), ("COLOUR", "red")])
            .envs([("SHAPE", "round"), ("LANG", "C"), (FOR_THIS_PROCESS, "1")]);
        own
    };
    let test = "its_environment_is_this_ones_without_what_means_this_process_and_with_what_it_is_told";
    if !is_alone_in(&format!("programs::copy::tests::{test}"), with_variables) {
        return;
    }
    let environment = BTreeMap::from([("COLOUR".to_owned(), "blue".to_owned())]);
    for clear_environment in [false, true] {
        let environment = environment.clone();
        let order = Ordered { environment, clear_environment, ..shell("exec sleep 1000") };
        let (copy, _output) = order.start();
        until("it is the last program", || (proc::command_line(copy.pid())[0] == "sleep").then_some(()));
        let all = proc::environment(copy.pid());
        let value = |name: &str| all.iter().find_map(|one| one.strip_prefix(name)?.strip_prefix('='));
        for name in ["LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "JOURNAL_STREAM", FOR_THIS_PROCESS] {
            assert_eq!(value(name), None, "{name}");
        }
        assert_eq!((value("COLOUR"), value("LANG")), (Some("blue"), Some("C")));
        assert_eq!(value("SHAPE"), (!clear_environment).then_some("round"));
        assert_eq!((value("HANDOVER_PROGRAM"), value("HANDOVER_COPY")), (Some("web"), Some("2")));
        // What it is a copy of, and what this process is.
        assert_eq!(value("HANDOVER_MARK"), Some(&*format!("outer/1-00;{}", copy.mark())));
        copy.kill_all(LIMIT).await;
    }
}

#[tokio::test]
async fn it_runs_as_the_user_it_is_told_to() {
    if !root("copy: another user") {
        return;
    }
    let user = User {
        name: Some("nobody".to_owned()),
        uid: 65_534,
        gid: 65_534,
        groups: vec![65_534],
        home: Some("/nonexistent".into()),
    };
    let order = Ordered { user: Some(user), ..shell("echo $(id -u) $(id -G) $USER $LOGNAME $HOME") };
    let (copy, mut output) = order.start();
    assert_eq!(line(&mut output), "65534 65534 nobody nobody /nonexistent");
    exited(&copy).await;
}

#[tokio::test]
async fn one_that_cannot_be_started_is_told_by_name_and_leaves_nothing() {
    for groups in places("copy") {
        let directory = groups.make("probe/1-00", &ResourceLimits::default()).0.map(|group| {
            group.remove();
            group.path().parent().unwrap().to_owned()
        });
        let ours = || {
            let entries =
                directory.iter().flat_map(|directory| std::fs::read_dir(directory).unwrap()).flatten();
            entries.filter(|entry| entry.file_name().to_str().unwrap().contains("cannot")).count()
        };
        let groups = directory.as_ref().map_or_else(Groups::none, |place| Groups::within(place, "cannot"));
        let order = Ordered { command: vec!["/nowhere/at/all".to_owned()], ..shell("") };
        let error = order.within(&groups).try_start().unwrap_err();
        let says =
            "copy 2 of web cannot be started: there is no file /nowhere/at/all to execute: No such file";
        assert!(error.to_string().starts_with(says), "{error}");
        assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
        assert_eq!(ours(), 0);
    }
}

#[tokio::test]
async fn limits_that_cannot_be_kept_are_told_and_it_runs() {
    let limits = ResourceLimits { nofile: Some(99), memory: Some(1 << 30), cpu: None, processes: None };
    let order = Ordered { limits, ..shell("ulimit -n") };
    let (started, mut output) = order.try_start().unwrap();
    assert_eq!(line(&mut output), "99");
    assert_eq!(started.warnings.len(), 1);
    assert!(started.warnings[0].starts_with("the limit on memory cannot be kept"), "{:?}", started.warnings);
    exited(&started.copy).await;
}

#[tokio::test]
async fn after_this_process_has_become_another_program_everything_is_known_as_before() {
    for groups in places("copy") {
        let script = format!("({}) & read line; exit 3", stays("ready"));
        let (held, hold) = io::pipe().unwrap();
        let mut ordered = shell(&format!("exec 0</proc/self/fd/3; {script}")).within(&groups);
        ordered.sockets.push(("held", held.into()));
        let (copy, mut output) = ordered.start();
        assert_eq!(line(&mut output), "ready");
        let json = serde_json::to_string(&copy.save()).unwrap();
        let pidfd = copy.descriptor().unwrap().try_clone_to_owned().unwrap();
        // The other program has the descriptors; nothing of this one runs its destructors.
        std::mem::forget(copy);
        let copy = Copy::restore(serde_json::from_str(&json).unwrap(), Some(pidfd)).unwrap();
        assert_eq!(copy.exit(), None);
        drop(hold);
        assert_eq!(exited(&copy).await, Exit::Code(3));
        let json = serde_json::to_string(&copy.save()).unwrap();
        assert_eq!(copy.kill_all(LIMIT).await, Killed { killed: 1, left: 0 });
        assert_cleared(copy);
        // How it ended is known for good.
        let later = Copy::restore(serde_json::from_str(&json).unwrap(), None).unwrap();
        assert_eq!(exited(&later).await, Exit::Code(3));
        gone(&later).await;
    }
}

/// A process that is not a child of this one, with this mark and a child of its own; and its ID.
fn orphan(mark: &str) -> u32 {
    // `tail` ends when nobody reads what it writes.
    let script = format!("setsid sh -c \"exec >/dev/null; tail -f /dev/null & {STAYS}\" & echo $!");
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .env("HANDOVER_MARK", format!("other/1-00;{mark}"))
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut shell = output.unwrap();
    let pid = line_of(shell.stdout.take().unwrap()).parse().unwrap();
    // It has the mark too, and must not be taken for what is left.
    shell.wait().unwrap();
    pid
}

fn line_of(pipe: impl io::Read) -> String {
    BufReader::new(pipe).lines().next().unwrap().unwrap()
}

#[tokio::test]
async fn in_another_supervisor_it_is_found_watched_and_ended_although_it_is_nobodys_child() {
    if !have("setsid", "copy: an orphan") {
        return;
    }
    for with_pidfd in [true, false] {
        let mark = new_mark("web", 1).unwrap();
        let pid = orphan(&mark);
        let began = groups::began(pid).unwrap();
        let saved = SavedCopy { pid, began, boot: groups::boot(), mark, ..SavedCopy::default() };
        let pidfd = with_pidfd.then(|| Child::of(pid).unwrap().as_fd().try_clone_to_owned().unwrap());
        until("both of it are there", || {
            let copy = Copy::restore(saved.clone(), None).unwrap();
            (copy.processes().len() == 2).then_some(())
        });
        let copy = Copy::restore(saved.clone(), pidfd).unwrap();
        assert_eq!(copy.exit(), None);
        copy.signal(9).unwrap();
        assert_eq!(exited(&copy).await, Exit::Unknown);
        // Its first process is gone, and its number may be another's: what is left is known by its mark.
        let late = Copy::restore(saved, None).unwrap();
        assert_eq!(exited(&late).await, Exit::Unknown);
        assert_eq!(late.processes().len(), 1);
        assert_eq!(late.kill_all(LIMIT).await, Killed { killed: 1, left: 0 });
        gone(&copy).await;
    }
}

#[tokio::test]
async fn what_was_saved_before_another_boot_or_of_another_process_means_nobody() {
    let (copy, mut output) = shell(&stays("ready")).start();
    assert_eq!(line(&mut output), "ready");
    let saved = copy.save();
    let earlier = SavedCopy { boot: "another".to_owned(), ..saved.clone() };
    let another = SavedCopy { began: saved.began - 1, mark: "web/1-ff".to_owned(), ..saved };
    for saved in [earlier, another] {
        let nobody = Copy::restore(saved, None).unwrap();
        assert_eq!(exited(&nobody).await, Exit::Unknown);
        assert!(nobody.processes().is_empty());
        nobody.signal(9).unwrap();
        assert_eq!(nobody.kill_all(LIMIT).await, Killed::default());
    }
    assert_eq!(copy.exit(), None);
    copy.kill_all(LIMIT).await;
}

#[tokio::test]
async fn a_child_that_is_watched_here_is_not_reaped_as_an_orphan() {
    let (copy, _output) = shell("exit 5").start();
    until("it has ended", || proc::stat(copy.pid()).filter(|stat| stat.state == 'Z').map(drop));
    // As if SIGCHLD had come; the children of other tests are theirs.
    let others: Vec<u32> = proc::children(std::process::id()).into_iter().map(|stat| stat.pid).collect();
    let others: Vec<u32> = others.into_iter().filter(|pid| *pid != copy.pid()).collect();
    assert!(crate::sparing::reap_orphans(&others).unwrap().iter().all(|(pid, _)| *pid != copy.pid()));
    assert_eq!(exited(&copy).await, Exit::Code(5));
    assert_cleared(copy);
}

#[test]
fn a_socket_is_made_to_wait() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    make_blocking(&socket).unwrap();
    let flags = rustix::fs::fcntl_getfl(&socket).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
}

#[tokio::test]
async fn where_orphans_come_to_this_process_the_end_of_a_copy_is_seen_without_a_look_at_everybody() {
    // In a process of its own, to which orphans come.
    let test = "where_orphans_come_to_this_process_the_end_of_a_copy_is_seen_without_a_look_at_everybody";
    if !is_alone(&format!("programs::copy::tests::{test}")) {
        return;
    }
    handover_handoff::process::become_subreaper().unwrap();
    for groups in places("copy") {
        let (copy, _output) = shell("exit 0").within(&groups).start();
        exited(&copy).await;
        assert!(copy.is_clearly_gone());
        assert_eq!(copy.signal_rest(TERM).unwrap(), 0);
        assert_eq!(copy.kill_all(LIMIT).await, Killed::default());
        assert_cleared(copy);
        for left in [format!("({}) &", stays("ready")), format!("setsid sh -c \"{}\" &", stays("ready"))] {
            let (copy, mut output) = shell(&left).within(&groups).start();
            assert_eq!(line(&mut output), "ready");
            assert!(!copy.is_clearly_gone());
            exited(&copy).await;
            assert!(!copy.is_clearly_gone());
            assert_eq!(copy.signal_rest(TERM).unwrap(), 1);
            assert_eq!(copy.kill_all(LIMIT).await, Killed { killed: 1, left: 0 });
            assert!(copy.is_clearly_gone());
            assert_cleared(copy);
        }
    }
}
