//! Carried state, held sockets, scopes, guards, and reloads that the worker asks for.

use std::fs;

use handover_handoff::memfd;
use handover_supervisor::protocol::{GuardLimits, MAX_CARRIED_BYTES};

use super::*;

fn carried(text: &str) -> OwnedFd {
    memfd::sealed("test", text.as_bytes()).unwrap()
}

fn text(fd: &OwnedFd) -> String {
    String::from_utf8(memfd::read_sealed(fd, MAX_CARRIED_BYTES).unwrap()).unwrap()
}

impl Worker {
    fn handle(&self) -> WorkerHandle {
        self.attached.lock().unwrap().clone().unwrap()
    }

    /// Has three files read: the top-level one, another, a certificate.
    fn read(&self, message: &ToWorker, fds: &[&OwnedFd]) -> ([String; 3], Option<String>) {
        let paths = ["top", "other", "certificate"].map(|name| self.directory.path().join(name));
        self.scripts.send(Script::Read(paths)).unwrap();
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        self.channel.send(message, &fds, PATIENCE).unwrap();
        assert!(matches!(self.happens(), Happened::Began(_)));
        let Happened::Read(read, carried) = self.happens() else { panic!() };
        (read, carried)
    }

    fn write_all(&self, text: &str) {
        for name in ["top", "other", "certificate"] {
            fs::write(self.directory.path().join(name), text).unwrap();
        }
    }

    fn commit(&mut self, candidate: u64) {
        self.say(&ToWorker::Commit { candidate, accept: true });
        assert_eq!(self.happens(), Happened::Committed(candidate));
        assert_eq!(self.hear(), ToSupervisor::Committed { candidate });
    }
}

#[test]
fn carried_state_comes_with_the_welcome_and_leaves_whenever_it_changes() {
    let mut worker = Worker::unwelcomed();
    let welcome = ToWorker::Welcome {
        protocol: PROTOCOL_VERSION,
        oldest: 0,
        worker: 5,
        carried: true,
        candidate: false,
    };
    worker.channel.send(&welcome, &[carried("keys of before").as_fd()], PATIENCE).unwrap();
    assert!(matches!(worker.hear(), ToSupervisor::Hello { serving: None, .. }));
    let (_, state) = worker.read(&order(1, Source::Disk), &[]);
    assert_eq!(state.as_deref(), Some("keys of before"));
    assert!(matches!(worker.hear(), ToSupervisor::Prepared { .. }));
    worker.commit(1);

    worker.handle().carry(b"keys of now".to_vec());
    let (message, fds) = worker.hear_with_fds();
    assert_eq!(message, ToSupervisor::Carry);
    assert_eq!(text(&fds[0]), "keys of now");

    let (serving, fds) = worker.succeed().unwrap();
    assert!(serving.carried && serving.executable);
    let [.., keys, executable] = &fds[..] else { panic!() };
    assert_eq!(text(keys), "keys of now");
    let (passed, own) = (rustix::fs::fstat(executable).unwrap(), rustix::fs::stat("/proc/self/exe").unwrap());
    assert_eq!((passed.st_dev, passed.st_ino), (own.st_dev, own.st_ino));
    worker.stop();
}

#[test]
fn carried_state_of_a_backup_takes_the_place_of_the_workers_own_once_it_is_committed() {
    let mut worker = Worker::start();
    worker.handle().carry(b"own".to_vec());
    assert_eq!(worker.hear(), ToSupervisor::Carry);
    worker.write_all("x");
    let given = ToWorker::Prepare {
        candidate: 1,
        generation: 1,
        source: Source::Disk,
        dry_run: false,
        scope: Scope::All,
        continues: false,
        given_carried: true,
        made: None,
    };
    let (_, state) = worker.read(&given, &[&carried("restored")]);
    assert_eq!(state.as_deref(), Some("restored"));
    assert!(matches!(worker.hear(), ToSupervisor::Prepared { .. }));
    worker.say(&ToWorker::Abort { candidate: 1 });
    assert_eq!(worker.happens(), Happened::Dropped(1));
    // It was not committed, so the worker's own stays.
    let (_, state) = worker.read(&order(2, Source::Disk), &[]);
    assert_eq!(state.as_deref(), Some("own"));
    assert!(matches!(worker.hear(), ToSupervisor::Prepared { .. }));
    worker.say(&ToWorker::Abort { candidate: 2 });
    assert_eq!(worker.happens(), Happened::Dropped(2));
    worker.read(&given, &[&carried("restored")]);
    assert!(matches!(worker.hear(), ToSupervisor::Prepared { candidate: 1, .. }));
    worker.commit(1);
    let (message, fds) = worker.hear_with_fds();
    assert_eq!((message, text(&fds[0]).as_str()), (ToSupervisor::Carry, "restored"));

    // Promised, and not sent.
    worker.say(&ToWorker::Prepare {
        candidate: 3,
        generation: 3,
        source: Source::Disk,
        dry_run: false,
        scope: Scope::All,
        continues: false,
        given_carried: true,
        made: None,
    });
    assert!(matches!(worker.hear(), ToSupervisor::Rejected { candidate: 3, .. }));
    worker.stop();
}

#[test]
fn too_much_carried_state_is_not_handed_over_and_does_no_harm() {
    let mut worker = Worker::start();
    worker.handle().carry(vec![0; MAX_CARRIED_BYTES + 1]);
    worker.ping();
    worker.stop();
}

#[test]
fn when_only_certificates_are_read_anew_all_else_is_what_serves() {
    let mut worker = Worker::start();
    worker.write_all("then");
    worker.read(&order(1, Source::Disk), &[]);
    assert!(
        matches!(worker.hear(), ToSupervisor::Prepared { version: Some(version), .. } if version == "scripted 7")
    );
    worker.commit(1);
    worker.write_all("now");
    let certificates = ToWorker::Prepare {
        candidate: 2,
        generation: 2,
        source: Source::Disk,
        dry_run: false,
        scope: Scope::Certificates,
        continues: false,
        given_carried: false,
        made: None,
    };
    let (read, _) = worker.read(&certificates, &[]);
    assert_eq!(read, ["then", "then", "now"]);
    let (_, fds) = worker.hear_with_fds();
    worker.commit(2);
    // A worker that replaces this one is given just that.
    worker.write_all("later");
    let (read, _) = worker.read(&order(3, Source::Bundle), &[&fds[0]]);
    assert_eq!(read, ["then", "then", "now"]);
    assert!(matches!(worker.hear(), ToSupervisor::Prepared { .. }));
    let (serving, _) = worker.succeed().unwrap();
    assert_eq!(serving.version.as_deref(), Some("scripted 7"), "the configuration is that of before");
    worker.stop();
}

#[test]
fn a_source_that_cannot_be_reached_is_no_mistake_in_what_it_holds() {
    let worker = Worker::start();
    for (script, expected) in [(Script::Unreachable, true), (Script::Refuse, false), (Script::Panic, false)] {
        worker.prepare(1, script);
        let ToSupervisor::Rejected { unreachable, .. } = worker.hear() else { panic!() };
        assert_eq!(unreachable, expected);
    }
    worker.stop();
}

#[test]
fn held_sockets_are_kept_for_the_next_supervisor_until_they_are_let_go() {
    let mut worker = Worker::start();
    let (serving_socket, _) = worker.serve(1);
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    let hold = ToWorker::Hold { listeners: vec![spec("old")] };
    worker.channel.send(&hold, &[held.as_fd()], PATIENCE).unwrap();
    worker.ping();
    drop(held);
    TcpStream::connect(address).unwrap();

    let (serving, fds) = worker.succeed().unwrap();
    assert_eq!(
        (serving.listeners, serving.held, serving.carried),
        (vec![spec("web")], vec![spec("old")], false)
    );
    let [_, web, old, _executable] = <[OwnedFd; 4]>::try_from(fds).unwrap();
    let of = |socket: OwnedFd| TcpListener::from(socket).local_addr().unwrap();
    assert_eq!((of(web), of(old)), (serving_socket.local_addr().unwrap(), address));

    worker.say(&ToWorker::Hold { listeners: Vec::new() });
    worker.ping();
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    worker.stop();
}

fn guard(call: u64, watch: Duration) -> ToWorker {
    ToWorker::Guard { call, limits: GuardLimits { watch, ..GuardLimits::DEFAULT } }
}

fn figures(requests: u64, errors_5xx: u64) -> Option<Figures> {
    Some(Figures { requests, errors_5xx, ..Figures::default() })
}

#[test]
fn a_guard_fails_as_soon_as_the_figures_are_bad() {
    let mut worker = Worker::start();
    *worker.figures.lock().unwrap() = figures(1_000, 0);
    worker.serve(1);
    *worker.figures.lock().unwrap() = figures(2_000, 2);
    worker.serve(2);
    worker.say(&guard(9, Duration::from_secs(3_600)));
    *worker.figures.lock().unwrap() = figures(2_100, 52);
    let ToSupervisor::GuardEnded { call: 9, passed: false, detail, figures } = worker.hear() else {
        panic!()
    };
    assert_eq!(detail, "5xx 50 % of 100 requests, was 0.2 % of 1,000; limit: 5 points and 10 requests");
    assert_eq!((figures.before.requests, figures.after.requests), (1_000, 100));
    worker.stop();
}

#[test]
fn a_guard_passes_when_its_time_is_over_and_an_ended_one_says_nothing() {
    let mut worker = Worker::start();
    *worker.figures.lock().unwrap() = figures(0, 0);
    worker.serve(1);
    worker.say(&guard(1, Duration::from_secs(3_600)));
    worker.say(&ToWorker::EndGuard { call: 1, passed: true });
    worker.ping();
    worker.say(&guard(2, Duration::from_millis(1)));
    assert!(matches!(worker.hear(), ToSupervisor::GuardEnded { call: 2, passed: true, .. }));
    // One without figures is not made to wait for ever either.
    *worker.figures.lock().unwrap() = None;
    worker.serve(2);
    worker.say(&guard(3, Duration::from_millis(1)));
    assert!(matches!(worker.hear(), ToSupervisor::GuardEnded { call: 3, passed: true, .. }));
    worker.stop();
}

#[test]
fn a_service_can_ask_for_a_reload() {
    let mut worker = Worker::start();
    worker.handle().ask_reload("a message from the fleet");
    let ToSupervisor::Ask { call, why } = worker.hear() else { panic!() };
    assert_eq!(why, "a message from the fleet");
    worker.say(&ToWorker::Asked { call, done: false, detail: "busy".to_owned() });
    worker.say(&ToWorker::Asked { call: call + 1, done: true, detail: "never asked".to_owned() });
    worker.ping();
    worker.stop();
}

#[test]
fn a_watched_file_that_changes_is_asked_about_until_it_was_read() {
    let mut worker = Worker::start();
    let short = Duration::from_millis(5);
    *worker.watch.lock().unwrap() = Some(Watch { settle: short, retry: short, source: None });
    let (_listener, file) = worker.serve(1);
    fs::write(&file, "newer").unwrap();
    let ToSupervisor::Ask { call, why } = worker.hear() else { panic!() };
    assert_eq!(why, format!("{} changed", file.display()));
    // Busy: it asks again. Nobody there to ask: it asks the next one.
    worker.say(&ToWorker::Asked { call, done: false, detail: "busy".to_owned() });
    assert!(matches!(worker.hear(), ToSupervisor::Ask { .. }));
    worker.succeed().unwrap();
    let ToSupervisor::Ask { call, .. } = worker.hear() else { panic!() };

    // It cannot be served: it is tried again, and at once if it changes.
    worker.prepare(2, Script::Refuse);
    assert!(matches!(worker.hear(), ToSupervisor::Rejected { .. }));
    worker.say(&ToWorker::Asked { call, done: false, detail: "rejected".to_owned() });
    let ToSupervisor::Ask { call, .. } = worker.hear() else { panic!() };

    // It serves: there is nothing more to ask for.
    *worker.watch.lock().unwrap() = None;
    worker.serve(3);
    worker.say(&ToWorker::Asked { call, done: true, detail: "applied".to_owned() });
    worker.ping();
    worker.stop();
}
