//! Upgrades of embedding programs: connections that move, and connections that end where they are.

use std::thread::JoinHandle;

use handover_testkit::Program;

use super::*;

/// An example that was started from a place of its own, where another version of it can be put.
struct Installed {
    example: Example,
    program: Program,
}

impl Installed {
    fn start(name: &str, files: &[&str]) -> Self {
        let workspace = Workspace::new();
        workspace.write("greeting.txt", "hello\n");
        let program = Program::install(&workspace, binary(name));
        let port = Port::claim();
        let command = command_of(program.path(), "lines", &workspace, &port, files);
        let process = Process::start(command);
        let socket = format!("handover/{}.sock", name.replace('_', "-") + "-example");
        let control = Control::at(&workspace.runtime().join(socket));
        let example = Example { workspace, port, process, control };
        example.wait_ready();
        Self { example, program }
    }

    /// Puts another version in its place and upgrades to it; gives the answer when there is one.
    fn begin_upgrade(&self, mark: &str, query: &str) -> JoinHandle<Output> {
        self.program.replace(mark);
        let (socket, url) = (self.control().path().to_owned(), format!("http://localhost/v1/upgrade{query}"));
        std::thread::spawn(move || over_unix(&socket, &["--fail-with-body", "-X", "POST", &url]))
    }

    fn upgrade(&self, mark: &str, query: &str) -> String {
        let output = self.begin_upgrade(mark, query).join().unwrap();
        let said = output.expect_code(0).stdout.clone();
        assert!(said.starts_with("applied"), "{said}");
        said
    }

    fn control(&self) -> &Control {
        &self.example.control
    }

    fn connect(&self) -> Line {
        let stream = TcpStream::connect(self.example.address()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Line(BufReader::new(stream))
    }
}

fn executable(pid: u32) -> PathBuf {
    std::fs::read_link(Path::new("/proc").join(pid.to_string()).join("exe")).unwrap()
}

#[test]
fn connections_that_can_move_go_on_in_the_new_binary_and_count_on() {
    let server = Installed::start("moving", &[]);
    let (supervisor, mut worker) = (server.example.process.pid(), server.control().worker());
    let (mut first, mut second) = (server.connect(), server.connect());
    assert_eq!(first.say("a\n"), "1 a\n");
    assert_eq!(second.say("b\nc\nhal"), "1 b\n");
    assert_eq!(second.next(), "2 c\n");
    for round in 2..5 {
        let said = server.upgrade(&round.to_string(), "");
        assert!(said.contains("2 connections moved (2 lines), none cut"), "{said}");
        let now = server.control().worker();
        assert_ne!(std::mem::replace(&mut worker, now), now, "another process serves");
        assert_eq!(first.say("x\n"), format!("{round} x\n"));
    }
    // What was read of a line before the first upgrade is not lost.
    assert_eq!(second.say("f\n"), "3 half\n");
    assert_eq!(server.connect().say("new\n"), "1 new\n");
    assert_eq!(server.example.process.pid(), supervisor);
    assert_eq!(executable(worker), executable(supervisor));
    drop((first, second));
    server.example.terminate().expect_code(0);
}

#[test]
fn connections_move_back_when_nobody_confirms_the_new_binary() {
    let server = Installed::start("moving", &[]);
    let mut line = server.connect();
    assert_eq!(line.say("a\n"), "1 a\n");
    let old = server.control().worker();
    server.upgrade("2", "?confirm_within=10m");
    assert_ne!(server.control().worker(), old);
    assert_eq!(line.say("b\n"), "2 b\n");
    server.example.post("/v1/rollback").expect_code(0);
    assert_eq!(server.control().worker(), old, "the same process serves again");
    assert_eq!(line.say("c\n"), "3 c\n");
    // And the next one is the better for it.
    server.upgrade("3", "");
    assert_eq!(line.say("d\n"), "4 d\n");
}

#[test]
fn connections_that_cannot_move_end_on_the_old_worker_while_the_new_one_serves() {
    let server = Installed::start("raw_tcp", &["greeting.txt"]);
    let worker = server.control().worker();
    let mut old = Line::open(server.example.address(), "hello\n");
    let upgrade = server.begin_upgrade("2", "");
    until("another worker serves", || (server.control().worker() != worker).then_some(()));
    let mut new = Line::open(server.example.address(), "hello\n");
    assert_eq!(new.say("served by the new one\n"), "served by the new one\n");
    assert_eq!(old.say("still here\n"), "still here\n");
    assert_eq!(old.next(), "(this server is about to stop, goodbye)\n");
    let said = upgrade.join().unwrap().expect_code(0).stdout.clone();
    assert!(said.starts_with("applied"), "{said}");
    assert!(wait_for_exit(worker, DEADLINE));
    assert_eq!(new.say("and on\n"), "and on\n");
}

#[test]
fn a_program_that_does_not_come_as_far_as_its_listener_changes_nothing() {
    let server = Installed::start("raw_tcp", &["greeting.txt"]);
    let (worker, mut line) = (server.control().worker(), Line::open(server.example.address(), "hello\n"));
    // What the closure needs is gone from the disk, and not from the generation.
    server.example.workspace.remove("greeting.txt");
    let bad = server.program.other("bad", Path::new("/bin/false"), "");
    let (socket, url) =
        (server.control().path().to_owned(), format!("http://localhost/v1/upgrade?binary={}", bad.display()));
    let output = over_unix(&socket, &["--fail-with-body", "-X", "POST", &url]);
    assert_ne!(output.code, 0, "{output:?}");
    assert_eq!(server.control().worker(), worker);
    assert_eq!(line.say("untouched\n"), "untouched\n");
    drop(line);
    server.upgrade("2", "");
    Line::open(server.example.address(), "hello\n");
}
