//! Listeners that a prepare asks for.

use super::*;

#[test]
fn the_next_prepare_asks_for_listeners_when_the_one_that_was_given_up_has_closed_its_own() {
    let mut worker = Worker::start();
    let (word, keep) = mpsc::channel();
    worker.prepare(1, Script::Keep(vec![spec("a")], keep));
    assert!(matches!(worker.hear(), ToSupervisor::Need { candidate: 1, .. }));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let bound = ToWorker::Bound { candidate: 1, results: vec![BindResult::Bound] };
    worker.channel.send(&bound, &[listener.as_fd()], PATIENCE).unwrap();
    assert!(matches!(worker.hear(), ToSupervisor::Prepared { candidate: 1, .. }));
    worker.say(&ToWorker::Abort { candidate: 1 });
    worker.prepare(2, Script::Ready { file: None, listeners: vec![spec("a")] });
    for _ in 0..20 {
        worker.ping(); // Which is answered, and nothing else is said.
    }
    word.send(()).unwrap();
    assert_eq!(worker.happens(), Happened::Dropped(1));
    assert!(matches!(worker.hear(), ToSupervisor::Need { candidate: 2, .. }));
    worker.say(&ToWorker::Bound {
        candidate: 2,
        results: vec![BindResult::Failed { errno: 98, detail: String::new() }],
    });
    assert!(matches!(worker.happens(), Happened::Bound(_)));
    worker.stop();
}

#[test]
fn what_cannot_be_bound_is_told_to_the_prepare_and_a_dry_run_gets_no_sockets() {
    let worker = Worker::start();
    let listeners = vec![spec("a"), spec("b")];
    worker.prepare(1, Script::Ready { file: None, listeners: listeners.clone() });
    assert!(matches!(worker.hear(), ToSupervisor::Need { .. }));
    let failed = BindResult::Failed { errno: 98, detail: "held by nginx".to_owned() };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let bound = ToWorker::Bound { candidate: 1, results: vec![failed.clone(), BindResult::Bound] };
    worker.channel.send(&bound, &[listener.as_fd()], PATIENCE).unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(worker.happens(), Happened::Bound(vec![Err("held by nginx".to_owned()), Ok(port)]));
    assert!(matches!(worker.hear(), ToSupervisor::Prepared { .. }));
    worker.say(&ToWorker::Abort { candidate: 1 });
    assert_eq!(worker.happens(), Happened::Dropped(1));

    worker.scripts.send(Script::Ready { file: None, listeners }).unwrap();
    worker.say(&ToWorker::Prepare {
        candidate: 2,
        generation: 2,
        source: Source::Disk,
        dry_run: true,
        scope: Scope::All,
        continues: false,
        given_carried: false,
        made: None,
    });
    assert!(matches!(worker.hear(), ToSupervisor::Need { candidate: 2, .. }));
    worker.say(&ToWorker::Bound { candidate: 2, results: vec![BindResult::Bound, failed] });
    assert_eq!(worker.happens(), Happened::Began(2));
    assert_eq!(worker.happens(), Happened::Bound(vec![Ok(0), Err("held by nginx".to_owned())]));
    worker.stop();
}
