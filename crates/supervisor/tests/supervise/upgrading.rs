//! The worker's part of an upgrade: it stands by, answers a probe, takes over and hands over, and misbehaves as the mark at
//! the end of its program says.
//!
//! | mark has | does |
//! |---|---|
//! | `preflight-hang` / `-die` / `-rubbish` / `-old` | never answers / exits / says something else / speaks another version |
//! | `hello-hang` / `-die` / `-old` | the same as a worker |
//! | `prepare-hang` / `-die` / `-reject` | never prepares / exits / refuses what serves |
//! | `standby-hang` / `-die` | never says that it stands by / exits instead |
//! | `probe-hang` / `-die` / `-wrong` | does not answer / exits / answers another question |
//! | `take-hang` / `-die` / `-refuse`, `ready-die` | as the one that takes over: says nothing / exits / refuses / exits after it has said that it is ready |
//! | `took-die` | exits as soon as it has said that it serves |
//! | `give-hang` / `-die` / `-refuse`, `commit-die` | as the one that hands over: says nothing / exits / calls it off / exits when the other is ready |
//! | `gated` | as the one that takes over: kills the supervisor, and waits at [`GATE`] before it says that it is ready |
//! | `guard-fail` | fails its guard |
//! | `resume-fail` | as the supervisor, cannot go on with what the one before has left: it has no descriptors for it |
//! | `rehearse-spoil` | makes itself not executable when it is asked for the last time before the supervisor becomes it |
//! | `orphan-STEP` | kills the supervisor in that step: hello, standby, probe, take, ready, took, give, gave |
//!
//! Nothing moves but the right to accept: giver `state`, taker `ready`, giver `commit`.

use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use handover_api::Losses;
use handover_handoff::Companion;
use handover_supervisor::protocol::{ProbeAnswer, ToSupervisor};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags};

/// Longer than any handoff of a test.
const LIMIT: Duration = Duration::from_secs(30);
/// A Unix socket beside the configuration file: a worker that connects there waits until the connection is closed.
pub const GATE: &str = "gate";
/// Data threads that it says it has.
pub const THREADS: u32 = 2;
/// What it says it has moved.
const MOVED: u64 = 3;

/// What stands at the end of this program's file: see [`handover_testkit::Program`].
pub fn mark() -> String {
    use std::io::{Read as _, Seek as _, SeekFrom};
    const LONGEST: u64 = 256;
    let mut file = std::fs::File::open("/proc/self/exe").unwrap();
    let length = file.metadata().unwrap().len();
    file.seek(SeekFrom::Start(length.saturating_sub(LONGEST))).unwrap();
    let mut end = Vec::new();
    file.read_to_end(&mut end).unwrap();
    let end = String::from_utf8_lossy(&end);
    let mark = end.rsplit_once("\nversion ").map(|(_, mark)| mark.trim_end().to_owned());
    mark.unwrap_or_else(|| "1".to_owned())
}

/// The answer to whoever asks for this program's versions.
pub fn preflight() -> ExitCode {
    let mark = mark();
    eprintln!("preflight of {mark}");
    if mark.contains("preflight-hang") {
        loop {
            thread::park();
        }
    }
    if mark.contains("preflight-die") {
        eprintln!("this program is no good");
        return ExitCode::from(7);
    }
    if mark.contains("preflight-rubbish") {
        println!("usage: fake [options]");
        return ExitCode::SUCCESS;
    }
    if mark.contains("preflight-old") {
        println!("{{\"version\":\"0\",\"protocol\":[1,2],\"saved\":[1,1]}}");
        return ExitCode::SUCCESS;
    }
    if mark.contains("rehearse-spoil") {
        spoil();
    }
    handover_supervisor::preflight::answer("fake", &version())
}

/// Descriptors that a supervisor keeps back, of a thousand.
const KEPT_BACK: usize = 64;
/// Descriptors that its event loop takes, and no more than that.
const EVENT_LOOP: usize = 10;

/// As the program that the supervisor has become: lacks what it needs to go on, if that is what the mark says. Whoever asks for
/// this sees to it that the limit is one that can be reached.
pub fn hinder_resuming() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    if !mark().contains("resume-fail") || std::env::var_os("HANDOVER_SAVED").is_none() {
        return;
    }
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let mut open: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    // What is kept back for messages is not there for it, and its event loop needs some. The others are open until another
    // program is executed.
    open.truncate(open.len() - KEPT_BACK - EVENT_LOOP);
    std::mem::forget(open);
}

/// Makes this program one that cannot be executed, when it is asked about itself for the second time.
fn spoil() {
    use std::os::unix::fs::PermissionsExt as _;
    let program = std::fs::read_link("/proc/self/exe").unwrap();
    let asked = program.with_extension("asked");
    if std::fs::exists(&asked).unwrap() {
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    std::fs::write(asked, "").unwrap();
}

/// Its version: the mark up to the first hyphen.
pub fn version() -> String {
    let mark = mark();
    format!("fake {}", mark.split('-').next().unwrap_or_default())
}

/// What it is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It serves, or is to.
    Serves,
    /// It is to take over.
    Candidate,
    /// It has handed over.
    Gave,
}

/// What came of a handoff.
pub enum Ended {
    Took(ToSupervisor),
    Gave(ToSupervisor),
    Stayed(ToSupervisor),
    Nothing,
}

/// Misbehaves in this step, if that is what the mark says. True if it is to hang.
pub fn at(mark: &str, step: &str) -> bool {
    let says = |how: &str| mark.contains(&format!("{step}-{how}"));
    if mark.contains(&format!("orphan-{step}")) {
        kill_supervisor();
    }
    if says("die") {
        eprintln!("dying in the step {step}");
        std::process::exit(11);
    }
    says("hang")
}

/// Kills the supervisor. Once only: who has lost it has another parent.
fn kill_supervisor() {
    let supervisor = rustix::process::getppid().unwrap();
    rustix::process::kill_process(supervisor, rustix::process::Signal::KILL).unwrap();
}

/// Answers a probe.
pub fn probe(mark: &str, worker: u64, nonce: String, socket: OwnedFd) {
    if at(mark, "probe") {
        return std::mem::forget(socket);
    }
    let nonce = if mark.contains("probe-wrong") { "0".repeat(32) } else { nonce };
    let listener = UnixListener::from(socket);
    listener.set_nonblocking(false).unwrap();
    thread::spawn(move || {
        for thread in 0..THREADS {
            let (mut connection, _) = listener.accept().unwrap();
            let answer = ProbeAnswer { worker, nonce: nonce.clone(), thread };
            writeln!(connection, "{}", serde_json::to_string(&answer).unwrap()).unwrap();
        }
    });
}

/// Hands over to the process at the other end, unless that fails. It accepts nothing meanwhile.
pub fn give(mark: &str, call: u64, within: Duration, peer: u32, mut fds: Vec<OwnedFd>) -> Ended {
    if at(mark, "give") {
        return Ended::Nothing;
    }
    let (pidfd, socket) = (fds.pop().unwrap(), fds.pop().unwrap());
    let companion = Companion::new(pidfd, peer).unwrap();
    let refuses = mark.contains("give-refuse");
    let ready = !refuses && say(&socket, b's') && hear(&socket, within) == Some(b'r');
    if ready {
        at(mark, "commit");
        say(&socket, b'c');
        at(mark, "gave");
        let moved = [("fake".to_owned(), MOVED)].into();
        return Ended::Gave(ToSupervisor::HandedOver { call, moved, freeze: Duration::from_millis(1) });
    }
    companion.kill().unwrap();
    assert!(companion.wait_ended(LIMIT).unwrap());
    let why = if refuses { "it does not want to" } else { "the other worker ended in the middle of it" };
    Ended::Stayed(ToSupervisor::HandoffFailed { call, why: why.to_owned() })
}

/// Takes over from the process at the other end.
pub fn take(mark: &str, call: u64, peer: u32, mut fds: Vec<OwnedFd>) -> Ended {
    let (stderr, pidfd, socket) = (fds.pop().unwrap(), fds.pop().unwrap(), fds.pop().unwrap());
    rustix::stdio::dup2_stderr(&stderr).unwrap();
    if at(mark, "take") {
        std::mem::forget(socket);
        return Ended::Nothing;
    }
    let companion = Companion::new(pidfd, peer).unwrap();
    let stated = hear(&socket, LIMIT) == Some(b's');
    if mark.contains("gated") {
        kill_supervisor();
        pass_gate();
    }
    if mark.contains("take-refuse") {
        // It is heard before the other one notices.
        std::mem::forget(socket);
        return Ended::Stayed(ToSupervisor::HandoffFailed { call, why: "it cannot read that".to_owned() });
    }
    let mut committed = false;
    if stated && say(&socket, b'r') {
        at(mark, "ready");
        committed = hear(&socket, LIMIT) == Some(b'c');
    }
    // Without a word the other one may still live, and accept.
    assert!(committed || companion.wait_ended(LIMIT).unwrap());
    let mut losses = Losses::default();
    losses.add("fake", u64::from(!committed));
    let moved = [("fake".to_owned(), MOVED)].into();
    Ended::Took(ToSupervisor::TookOver { call, moved, losses, freeze: Duration::from_millis(2) })
}

fn pass_gate() {
    use std::io::Read as _;
    let directory = std::path::PathBuf::from(std::env::var_os(crate::worker::CONFIG).unwrap());
    let mut gate = std::os::unix::net::UnixStream::connect(directory.with_file_name(GATE)).unwrap();
    let _ = gate.read(&mut [0]);
}

fn say(socket: &OwnedFd, byte: u8) -> bool {
    rustix::net::send(socket, &[byte], SendFlags::NOSIGNAL).is_ok()
}

/// The next byte; none at the end, or when it takes too long.
fn hear(socket: &OwnedFd, within: Duration) -> Option<u8> {
    let limit = Timespec::try_from(within).unwrap();
    if poll(&mut [PollFd::new(&socket.as_fd(), PollFlags::IN)], Some(&limit)) != Ok(1) {
        return None;
    }
    let mut byte = [0];
    match rustix::net::recv(socket, &mut byte, RecvFlags::empty()) {
        Ok((1.., _)) => Some(byte[0]),
        _ => None,
    }
}
