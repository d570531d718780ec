//! Drains, stops, actions and reports.

use super::*;

#[test]
fn a_drain_tells_its_progress_and_its_losses_and_can_be_taken_back() {
    let mut worker = Worker::start();
    worker.serve(1);
    worker.open.store(3, Ordering::SeqCst);
    worker.say(&ToWorker::Drain { call: 1, limit: PATIENCE });
    assert_eq!(worker.happens(), Happened::Draining);
    assert_eq!(worker.hear(), ToSupervisor::DrainProgress { call: 1, connections: 3 });
    worker.ping();
    worker.say(&ToWorker::Resume { call: 2 });
    assert_eq!(worker.hear(), ToSupervisor::Resumed { call: 2 });
    assert_eq!(worker.happens(), Happened::Resumed);

    worker.say(&ToWorker::Drain { call: 3, limit: Duration::ZERO });
    let ToSupervisor::Drained { call: 3, losses, .. } = worker.hear() else { panic!() };
    assert_eq!(losses.total(), 3);
    let (serving, _) = worker.succeed().unwrap();
    assert!(!serving.accepting);
    worker.stop();
}

#[test]
fn a_stop_at_once_cuts_and_says_what() {
    let mut worker = Worker::start();
    worker.serve(1);
    worker.open.store(2, Ordering::SeqCst);
    worker.say(&ToWorker::CloseListeners);
    assert_eq!(worker.happens(), Happened::ClosedListeners);
    worker.say(&ToWorker::Stop { now: true });
    assert_eq!(worker.happens(), Happened::Cut);
    let ToSupervisor::Stopping { losses } = worker.hear() else { panic!() };
    assert_eq!(losses.total(), 2);
    assert_eq!(worker.thread.join().unwrap(), ExitCode::SUCCESS);
    assert!(!worker.directory.path().join("door").exists());
}

#[test]
fn the_sockets_of_a_server_that_ends_are_closed_in_the_worker_too() {
    let mut worker = Worker::start();
    let (listener, _) = worker.serve(1);
    let address = listener.local_addr().unwrap();
    worker.say(&ToWorker::CloseListeners);
    worker.ping();
    drop(listener);
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    worker.stop();
}

#[test]
fn actions_answer_and_neither_hang_nor_end_the_worker() {
    let mut worker = Worker::start();
    let done = |call, ok, message: &str| ToSupervisor::ActionDone { call, ok, message: message.to_owned() };
    let action = |call, name: &str, body: &str| ToWorker::Action {
        call,
        name: name.to_owned(),
        body: body.to_owned(),
    };
    worker.say(&action(1, "hang", ""));
    worker.say(&action(2, "greet", "you"));
    assert_eq!(worker.hear(), done(2, true, "hello you"));
    worker.say(&action(3, "panic", ""));
    assert_eq!(worker.hear(), done(3, false, "the action panicked: scripted"));
    worker.ping();
    worker.action_word.send(()).unwrap();
    assert_eq!(worker.hear(), done(1, true, "late"));
    worker.stop();
}

#[test]
fn files_that_an_action_has_read_are_what_the_next_supervisor_gets() {
    let mut worker = Worker::start();
    let (_listener, file) = worker.serve(1);
    std::fs::write(&file, "newer").unwrap();
    let body = file.to_str().unwrap().to_owned();
    worker.say(&ToWorker::Action { call: 1, name: "read".to_owned(), body });
    let (message, fds) = worker.hear_with_fds();
    assert_eq!(message, ToSupervisor::ActionDone { call: 1, ok: true, message: "read".to_owned() });
    assert_eq!(&**Bundle::from_memfd(&fds[0]).unwrap().top_bytes().unwrap(), b"newer");
    let (_, fds) = worker.succeed().unwrap();
    assert_eq!(&**Bundle::from_memfd(&fds[0]).unwrap().top_bytes().unwrap(), b"newer");
    worker.stop();
}

#[test]
fn reports_and_facts_pass_through() {
    let worker = Worker::start();
    worker.say(&ToWorker::Report { call: 1, what: Report::Metrics });
    assert_eq!(worker.hear(), ToSupervisor::Reported { call: 1, body: "metrics".to_owned() });
    worker.say(&ToWorker::Report { call: 2, what: Report::Connections });
    assert_eq!(worker.hear(), ToSupervisor::Reported { call: 2, body: "[]".to_owned() });
    worker.say(&ToWorker::Facts { metrics: "up 1".to_owned() });
    assert_eq!(worker.happens(), Happened::Facts("up 1".to_owned()));
    worker.stop();
}
