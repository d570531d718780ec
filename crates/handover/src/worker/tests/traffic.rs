//! Traffic to programs: said before what is committed after it, waited for beside all else, and kept for the next supervisor.

use std::io::Read as _;

use handover_supervisor::protocol::{Pause, ProgramEndpoint, Wake};

use super::*;

fn to(port: u16) -> Traffic {
    let address = Address::Tcp(([127, 0, 0, 1], port).into());
    let endpoint = ProgramEndpoint { name: "web/1".to_owned(), address, on: true };
    Traffic {
        programs: [("web".to_owned(), vec![endpoint])].into(),
        off: vec!["127.0.0.1:9001".to_owned()],
        pauses: vec![Pause { target: web(), left: Duration::from_secs(30), max_held: 7, refuse: false }],
        wakes: [("lazy".to_owned(), Wake { limit: Duration::from_secs(40), max_held: 8 })].into(),
    }
}

fn web() -> Target {
    Target::Program("web".to_owned())
}

fn await_web(call: u64, limit: Duration) -> ToWorker {
    ToWorker::AwaitQuiet { call, target: web(), limit }
}

#[test]
fn traffic_is_acted_on_before_what_is_committed_after_it() {
    let mut worker = Worker::start();
    // Also before there is anything to serve.
    worker.say(&ToWorker::Traffic { call: 1, traffic: Box::default() });
    assert_eq!(worker.hear(), ToSupervisor::TrafficSet { call: 1 });
    assert_eq!(worker.happens(), Happened::Traffic(Traffic::default()));
    worker.prepare(1, Worker::simple());
    assert!(matches!(worker.hear(), ToSupervisor::Prepared { .. }));
    // Both are in the channel before the first is read.
    worker.say(&ToWorker::Traffic { call: 2, traffic: Box::new(to(9)) });
    worker.say(&ToWorker::Commit { candidate: 1, accept: true });
    assert_eq!(worker.happens(), Happened::Traffic(to(9)));
    assert_eq!(worker.happens(), Happened::Committed(1));
    assert_eq!(worker.hear(), ToSupervisor::TrafficSet { call: 2 });
    assert_eq!(worker.hear(), ToSupervisor::Committed { candidate: 1 });
    worker.ping();
    worker.stop();
}

#[test]
fn a_worker_that_cannot_direct_traffic_ends_so_that_another_one_does() {
    let mut worker = Worker::start();
    worker.serve(1);
    let traffic = Box::new(Traffic { off: vec!["panic".to_owned()], ..Traffic::default() });
    worker.say(&ToWorker::Traffic { call: 1, traffic });
    assert_eq!(worker.thread.join().unwrap(), ExitCode::from(70));
}

#[test]
fn quiet_is_waited_for_while_all_else_goes_on() {
    let mut worker = Worker::start();
    let limit = Duration::from_secs(9);
    worker.say(&await_web(5, limit));
    assert_eq!(worker.happens(), Happened::Quiet(web(), limit));
    worker.ping();
    worker.serve(1);
    worker.quiet.send(Quiet { left: 2, held: 3, begun: Some(9) }).unwrap();
    assert_eq!(worker.hear(), ToSupervisor::Quiet { call: 5, left: 2, held: 3, begun: Some(9) });
    worker.stop();
}

#[test]
fn a_wait_of_a_supervisor_that_is_gone_is_called_off_and_the_next_one_hears_nothing_of_it() {
    let mut worker = Worker::start();
    worker.serve(1);
    worker.say(&await_web(5, PATIENCE));
    assert_eq!(worker.happens(), Happened::Quiet(web(), PATIENCE));
    worker.succeed().unwrap();
    worker.quiet.send(Quiet::default()).unwrap();
    assert_eq!(worker.happens(), Happened::CalledOff);
    // The same call once more, of another supervisor.
    worker.say(&await_web(5, PATIENCE));
    assert_eq!(worker.happens(), Happened::Quiet(web(), PATIENCE));
    worker.quiet.send(Quiet { left: 0, held: 4, begun: None }).unwrap();
    assert_eq!(worker.hear(), ToSupervisor::Quiet { call: 5, left: 0, held: 4, begun: None });
    worker.ping();
    worker.stop();
}

#[test]
fn what_is_kept_of_programs_comes_last_to_the_next_supervisor() {
    let mut worker = Worker::start();
    worker.serve(1);
    let keep = |programs: &str| ToWorker::Keep { programs: programs.to_owned() };
    let (mut early, early_writer) = io::pipe().unwrap();
    worker.channel.send(&keep("early"), &[early_writer.as_fd()], PATIENCE).unwrap();
    let (mut pipe, writer) = io::pipe().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    worker.channel.send(&keep("web"), &[listener.as_fd(), writer.as_fd()], PATIENCE).unwrap();
    worker.ping();
    // What was kept before it is let go.
    drop(early_writer);
    assert_eq!(early.read(&mut [0]).unwrap(), 0);
    drop(writer);

    let (serving, fds) = worker.succeed().unwrap();
    assert_eq!((serving.programs.as_deref(), serving.executable), (Some("web"), true));
    let [_bundle, _web, _executable, socket, end] = <[OwnedFd; 5]>::try_from(fds).unwrap();
    assert_eq!(TcpListener::from(socket).local_addr().unwrap(), listener.local_addr().unwrap());

    worker.say(&keep(""));
    worker.ping();
    drop(end);
    assert_eq!(pipe.read(&mut [0]).unwrap(), 0);
    let (serving, _) = worker.succeed().unwrap();
    assert_eq!(serving.programs, None);
    worker.stop();
}

#[test]
fn that_somebody_waits_for_a_program_is_told_to_whoever_is_there_to_hear_it() {
    let mut worker = Worker::start();
    worker.serve(1);
    let handle = worker.attached.lock().unwrap().clone().unwrap();
    handle.want_program("lazy");
    assert_eq!(worker.hear(), ToSupervisor::Wanted { program: "lazy".to_owned() });
    // The next supervisor tells of the traffic, and then the service says it again.
    worker.succeed().unwrap();
    handle.want_program("lazy");
    assert_eq!(worker.hear(), ToSupervisor::Wanted { program: "lazy".to_owned() });
    worker.ping();
    worker.stop();
}
