//! The supervisor becomes the new binary: the same process, with everything it holds, and its answers come from there.

use std::os::linux::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use handover_testkit::http::{Connection, request_bytes};
use handover_testkit::program::sha256;
use handover_testkit::{DEADLINE, proc, signal, until, wait_for_exit};
use rustix::process::Signal;
use serde_json::Value;

use crate::server::{self, ask, try_ask};
use crate::upgrades::{Upgraded, outcome, start, start_again, text};

crate::tests! {
    the_supervisor_is_the_new_binary_and_the_same_process
    whoever_connects_meanwhile_is_served
    the_operators_own_connection_is_answered_by_the_new_binary
    a_worker_that_dies_afterwards_is_replaced_and_one_that_is_left_behind_is_found
    a_stop_afterwards_leaves_nothing_behind
    a_hangup_during_an_upgrade_is_carried_out_by_the_new_binary
    a_signal_to_end_that_arrives_on_the_way_is_not_lost
    a_stop_that_is_asked_for_on_the_way_comes_first
    a_worker_that_dies_on_the_way_is_a_loss_that_is_told
    what_an_earlier_supervisor_kept_can_be_gone_back_to_as_soon_as_it_is_confirmed
    a_confirmed_upgrade_makes_the_supervisor_the_new_binary
    what_cannot_go_on_goes_back_and_it_is_told
    a_binary_that_can_no_longer_be_executed_leaves_the_supervisor_as_it_is
    streams_and_idle_connections_end_and_counters_go_on
    a_request_that_never_ends_does_not_keep_the_supervisor_what_it_is
    fifty_upgrades_leave_nothing_open
}

/// What the supervisor runs and who it is.
fn version(up: &Upgraded) -> String {
    text(&up.server.control.status(), "/version").to_owned()
}

fn expect_applied(answer: &(u16, Value)) {
    assert_eq!((answer.0, outcome(&answer.1)), (200, "applied".to_owned()), "{}", answer.1);
    assert_eq!(answer.1["warnings"].as_array().map_or(0, Vec::len), 0, "{}", answer.1);
}

/// A server that has a Unix socket, too.
fn start_with_socket() -> Upgraded {
    let up = start("1", &[]);
    let lines = ["listen web 127.0.0.1:0".to_owned(), "body one".to_owned(), socket_line(&up)];
    let (status, operation) = up.server.reload(&up.workspace, &lines.each_ref().map(String::as_str));
    assert_eq!((status, outcome(&operation)), (200, "applied".to_owned()), "{operation}");
    up
}

fn socket(up: &Upgraded) -> std::path::PathBuf {
    up.workspace.path("app.sock")
}

fn socket_line(up: &Upgraded) -> String {
    format!("listen app unix:{}", socket(up).display())
}

fn the_supervisor_is_the_new_binary_and_the_same_process() {
    let mut up = start_with_socket();
    let (pid, before) = (up.pid(), up.server.control.status());
    assert_eq!(text(&before, "/version"), "fake 1");
    let control = || std::fs::metadata(up.workspace.control_socket()).unwrap().st_ino();
    let inode = control();
    for mark in ["2", "3"] {
        expect_applied(&up.upgrade(mark, ""));
        let now = up.server.control.status();
        assert_eq!(text(&now, "/version"), format!("fake {mark}"));
        assert_eq!(sha256(&proc::executable(pid).unwrap()), sha256(up.program.path()));
        for same in ["/started_at", "/pid", "/control", "/generation", "/phase"] {
            assert_eq!(now.pointer(same), before.pointer(same), "{same}");
        }
        assert_eq!(now["listeners"], before["listeners"]);
        assert_eq!(control(), inode);
        assert_eq!(ask(up.address), "2 one");
        std::os::unix::net::UnixStream::connect(socket(&up)).unwrap();
    }
    assert!(!up.server.process.ended());
    let history = up.server.history();
    let kinds: Vec<&str> = history.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["upgrade", "upgrade", "reload", "start"]);
    // It reloads as ever.
    let (status, operation) = up.server.reload(&up.workspace, &["listen web 127.0.0.1:0", "body two"]);
    assert_eq!((status, outcome(&operation)), (200, "applied".to_owned()), "{operation}");
    assert_eq!(ask(up.address), "3 two");
    assert!(!socket(&up).exists(), "of a listener that is gone the path is, too");
}

fn whoever_connects_meanwhile_is_served() {
    let up = start("1", &[]);
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (over, asked, address) = (Arc::clone(&over), Arc::clone(&asked), up.address);
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(try_ask(address).expect("nobody is refused"), "1 one");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for mark in ["2", "3", "4"] {
        expect_applied(&up.upgrade(mark, ""));
        let before = asked.load(Ordering::Relaxed);
        until("clients are served afterwards", || {
            (asked.load(Ordering::Relaxed) > before + 10).then_some(())
        });
    }
    over.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(version(&up), "fake 4");
}

fn the_operators_own_connection_is_answered_by_the_new_binary() {
    let up = start("1", &[]);
    for (mark, accept) in [("2", "*/*"), ("3", "application/json")] {
        up.program.replace(mark);
        let key = format!("the-upgrade-to-{mark}");
        let headers = [("Accept", accept), ("Idempotency-Key", &*key)];
        // The same request twice: both wait for one operation.
        let path = "/v1/upgrade";
        let begin = || {
            let mut connection = Connection::open_unix(&up.workspace.control_socket()).unwrap();
            connection.send(request_bytes("POST", path, &headers, b""));
            connection
        };
        let (first, second) = (begin(), begin());
        for mut connection in [first, second] {
            let response = connection.response("POST");
            assert_eq!(response.status(), 200, "{}", response.text());
            assert_eq!(response.header("connection"), Some("close"));
            let text = response.text();
            match accept {
                "*/*" => assert!(text.starts_with("applied: "), "{text}"),
                _ => {
                    let operation: Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(self::text(&operation, "/id"), key);
                    assert_eq!(operation["outcome"], "applied");
                }
            }
            connection.expect_end();
        }
        assert_eq!(version(&up), format!("fake {mark}"));
    }
}

fn a_worker_that_dies_afterwards_is_replaced_and_one_that_is_left_behind_is_found() {
    let mut up = start("1", &[]);
    expect_applied(&up.upgrade("2", ""));
    let worker = up.worker();
    signal(worker, Signal::KILL);
    let next = server::another_worker(&up.server, worker);
    up.expect_alone(next);
    expect_applied(&up.upgrade("3", ""));
    let worker = up.worker();
    up.kill_supervisor();
    assert_eq!(ask(up.address), "1 one");
    let next = start_again(&up.workspace, &up.program);
    let gone = std::mem::replace(&mut up.server, next);
    assert_eq!(up.worker(), worker);
    assert_eq!(ask(up.address), "1 one");
    expect_applied(&up.upgrade("4", ""));
    assert_eq!(version(&up), "fake 4");
    // Its handle would end all that it has started.
    drop(gone);
}

fn a_stop_afterwards_leaves_nothing_behind() {
    let mut up = start_with_socket();
    expect_applied(&up.upgrade("2", ""));
    let worker = up.worker();
    up.server.terminate().expect_code(0);
    assert!(wait_for_exit(worker, DEADLINE));
    assert!(!socket(&up).exists());
    let directory = up.workspace.control_socket();
    let left: Vec<_> = std::fs::read_dir(directory.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("control"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    // Nobody has the journal's lock.
    up.server = start_again(&up.workspace, &up.program);
    assert_eq!(up.server.history()[0].0, "start");
}

fn a_hangup_during_an_upgrade_is_carried_out_by_the_new_binary() {
    let mut up = start("1", &[]);
    let mut events = up.server.control.events();
    up.program.replace("2");
    assert_eq!(up.server.control.post("/v1/upgrade", &[("Prefer", "respond-async")]).0, 202);
    events.wait_for("the worker is started", |event| {
        event.data["message"].as_str().is_some_and(|message| message.contains("started"))
    });
    server::configure(&up.workspace, &["listen web 127.0.0.1:0", "body two"]);
    up.server.process.signal(Signal::HUP);
    let reload = up.server.control.wait_for_operation("the reload is over", |operation| {
        operation["kind"] == "reload" && operation["state"] != "running"
    });
    assert_eq!((text(&reload, "/outcome"), text(&reload, "/actor/signal")), ("applied", "HUP"));
    let history = up.server.history();
    assert_eq!(history[0].0, "reload");
    assert_eq!(history[1], ("upgrade".to_owned(), "applied".to_owned()));
    assert_eq!((ask(up.address), version(&up)), ("2 two".to_owned(), "fake 2".to_owned()));
}

fn a_signal_to_end_that_arrives_on_the_way_is_not_lost() {
    // At different moments, some of them between the two programs.
    for round in 0..8_u32 {
        let mut up = start("1", &[]);
        let worker = up.worker();
        up.program.replace("2");
        assert_eq!(up.server.control.post("/v1/upgrade", &[("Prefer", "respond-async")]).0, 202);
        if round > 0 {
            until("the new worker serves", || (up.server.control.worker() != worker).then_some(()));
        }
        // A moment more each time.
        for _ in 0..round * 2 {
            let _ = std::fs::read(up.program.path());
        }
        up.server.process.signal(Signal::TERM);
        let output = up.server.process.wait();
        assert_eq!(output.code, 0, "{}", output.all());
        assert!(proc::tree(up.pid()).is_empty());
    }
}

fn a_stop_that_is_asked_for_on_the_way_comes_first() {
    use std::io::{Read as _, Write as _};
    let mut up = start("1", &[]);
    let mut events = up.server.control.events();
    let mut asks = std::os::unix::net::UnixStream::connect(up.workspace.control_socket()).unwrap();
    asks.write_all(b"POST /v1/stop HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n").unwrap();
    up.program.replace("2");
    assert_eq!(up.server.control.post("/v1/upgrade", &[("Prefer", "respond-async")]).0, 202);
    // They end when it is about to become the new one.
    while events.next_or_end().is_some() {}
    asks.write_all(b"\r\n").unwrap();
    let mut answer = String::new();
    asks.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"applied\""), "{answer}");
    let output = up.server.process.wait();
    assert_eq!(output.code, 0, "{}", output.all());
    up.server = start_again(&up.workspace, &up.program);
    let before = &up.server.history()[1..3];
    assert_eq!(before, ["stop", "upgrade"].map(|kind| (kind.to_owned(), "applied".to_owned())));
}

fn a_worker_that_dies_on_the_way_is_a_loss_that_is_told() {
    use std::io::Write as _;
    let up = start("1", &[]);
    let mut events = up.server.control.events();
    // A request that does not come whole keeps the supervisor on its way for a while.
    let mut asks = std::os::unix::net::UnixStream::connect(up.workspace.control_socket()).unwrap();
    asks.write_all(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n").unwrap();
    up.program.replace("2");
    let (status, operation) = up.server.control.post("/v1/upgrade", &[("Prefer", "respond-async")]);
    assert_eq!(status, 202);
    while events.next_or_end().is_some() {}
    let children: Vec<u32> =
        proc::tree(up.pid()).into_iter().map(|stat| stat.pid).filter(|pid| *pid != up.pid()).collect();
    let [worker] = children[..] else { panic!("{children:?}") };
    signal(worker, Signal::KILL);
    drop(asks);
    let next = server::another_worker(&up.server, worker);
    let id = operation["id"].as_str().unwrap().to_owned();
    let told = up.server.control.get(&format!("/v1/operations/{id}?timeout=30s"));
    assert_eq!(outcome(&told), "applied_with_losses", "{told}");
    up.expect_alone(next);
    assert_eq!(version(&up), "fake 2");
}

fn what_an_earlier_supervisor_kept_can_be_gone_back_to_as_soon_as_it_is_confirmed() {
    let mut up = start("1", &[]);
    let (status, operation) = up.upgrade("2", "?confirm_within=10m");
    assert_eq!((status, outcome(&operation)), (200, "applied".to_owned()), "{operation}");
    let mut gone = Vec::new();
    let again = |up: &mut Upgraded| {
        up.kill_supervisor();
        let next = start_again(&up.workspace, &up.program);
        std::mem::replace(&mut up.server, next)
    };
    gone.push(again(&mut up));
    expect_applied(&up.server.control.post("/v1/confirm", &[]));
    gone.push(again(&mut up));
    let back = up.server.control.post("/v1/rollback?binary", &[]);
    assert_eq!((back.0, outcome(&back.1)), (200, "applied".to_owned()), "{}", back.1);
    assert_eq!(ask(up.address), "1 one");
    drop(gone);
}

fn a_confirmed_upgrade_makes_the_supervisor_the_new_binary() {
    let up = start("1", &[]);
    let before = up.descriptors();
    let (status, operation) = up.upgrade("2", "?confirm_within=10m");
    assert_eq!((status, outcome(&operation)), (200, "applied".to_owned()), "{operation}");
    assert_eq!(version(&up), "fake 1", "what may be taken back is kept");
    expect_applied(&up.server.control.post("/v1/confirm", &[]));
    assert_eq!(version(&up), "fake 2");
    up.expect_alone(up.worker());
    up.expect_descriptors(&before);
}

fn what_cannot_go_on_goes_back_and_it_is_told() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let up = start("1", &[]);
    let pid = up.pid();
    let few = Rlimit { current: Some(1_000), maximum: Some(1_000) };
    prlimit(Pid::from_raw(pid.cast_signed()), Resource::Nofile, few).unwrap();
    let before = up.descriptors();
    let (status, operation) = up.upgrade("2-resume-fail", "");
    assert_eq!((status, outcome(&operation)), (200, "applied".to_owned()), "{operation}");
    let why = text(&operation, "/upgrade/supervisor_stays");
    assert!(why.contains("duplicated") || why.contains("Too many open files"), "{operation}");
    assert!(
        operation["warnings"].to_string().contains("the supervisor goes on in the binary"),
        "{operation}"
    );
    assert_eq!((up.pid(), version(&up)), (pid, "fake 1".to_owned()));
    let status = up.server.control.status();
    assert_eq!(text(&status, "/worker/version"), "fake 2");
    up.expect_alone(up.worker());
    expect_applied(&up.upgrade("3", ""));
    assert_eq!(version(&up), "fake 3");
    up.expect_descriptors(&before);
}

fn a_binary_that_can_no_longer_be_executed_leaves_the_supervisor_as_it_is() {
    let up = start("1", &[]);
    let (status, operation) = up.upgrade("2-rehearse-spoil", "");
    assert_eq!((status, outcome(&operation)), (200, "applied".to_owned()), "{operation}");
    let why = text(&operation, "/upgrade/supervisor_stays");
    assert!(why.contains("written to after it was looked at"), "{operation}");
    assert_eq!(version(&up), "fake 1");
    up.expect_alone(up.worker());
    let (status, operation) = up.server.reload(&up.workspace, &["listen web 127.0.0.1:0", "body two"]);
    assert_eq!((status, outcome(&operation)), (200, "applied".to_owned()), "{operation}");
    expect_applied(&up.upgrade("3", ""));
    assert_eq!(version(&up), "fake 3");
}

fn streams_and_idle_connections_end_and_counters_go_on() {
    let up = start("1", &[]);
    assert_eq!(up.server.reload(&up.workspace, &["listen web 127.0.0.1:0", "reject a mistake"]).0, 422);
    server::configure(&up.workspace, &["listen web 127.0.0.1:0", "body one"]);
    let mut events = up.server.control.events();
    expect_applied(&up.upgrade("2", ""));
    while events.next_or_end().is_some() {}
    let metrics = up.server.control.ask("GET", "/metrics", &[], "").text();
    for line in [
        "handover_operations_total{kind=\"start\",outcome=\"applied\"} 1",
        "handover_operations_total{kind=\"reload\",outcome=\"rejected\"} 1",
        "handover_operations_total{kind=\"upgrade\",outcome=\"applied\"} 1",
        "handover_reload_duration_seconds_count 1",
        "handover_upgrade_duration_seconds_count 1",
        "handover_connections_moved_total{kind=\"fake\"} 3",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
}

fn a_request_that_never_ends_does_not_keep_the_supervisor_what_it_is() {
    use std::io::Write as _;
    let up = start("1", &[]);
    let mut slow = std::os::unix::net::UnixStream::connect(up.workspace.control_socket()).unwrap();
    slow.write_all(b"POST /v1/actions/sing HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf").unwrap();
    expect_applied(&up.upgrade("2", ""));
    assert_eq!(version(&up), "fake 2");
}

fn fifty_upgrades_leave_nothing_open() {
    let up = start("1", &[]);
    expect_applied(&up.upgrade("2", ""));
    let before = up.descriptors();
    for round in 0..50 {
        expect_applied(&up.server.control.post("/v1/upgrade", &[]));
        assert_eq!(ask(up.address), "1 one", "{round}");
    }
    up.expect_descriptors(&before);
    up.expect_alone(up.worker());
}
