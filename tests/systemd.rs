//! Under a real `systemd --user`: what it is told, what it does to the server, and what it keeps for it.
//!
//! It runs in namespaces of its own (`scripts/user-manager`); where that is not possible, these tests are skipped, loudly.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use handover_testkit::config::{drain, everything_to, fixed, service};
use handover_testkit::http::Connection;
use handover_testkit::origin::Origin;
use handover_testkit::systemd::{Site, UNIT};
use handover_testkit::tunnel::Download;
use handover_testkit::{handover, until};

#[test]
fn systemctl_reload_tells_the_truth_and_a_failed_one_changes_nothing() {
    let test = "systemctl_reload_tells_the_truth_and_a_failed_one_changes_nothing";
    let Some(site) = Site::started(test, handover!(), "", &fixed("/", "one")) else { return };
    // Type=notify: it serves when the start has returned.
    assert_eq!((site.property("ActiveState").as_str(), site.text_of("/").as_str()), ("active", "one"));
    let (pid, worker) = (site.main_pid(), site.worker());

    site.write(&fixed("/", "two"));
    site.systemctl(&["reload", UNIT], 0);
    assert_eq!(site.text_of("/"), "two");
    assert!(site.property("StatusText").contains("generation 2"), "{}", site.property("StatusText"));

    site.write("[nonsense]\n");
    site.systemctl(&["reload", UNIT], 1);
    // systemd's own code for it is always 1; the true one, 10, stands beside the command.
    assert!(site.property("ExecReload").contains("status=10"), "{}", site.property("ExecReload"));
    assert!(site.property("StatusText").contains("rejected"), "{}", site.property("StatusText"));
    assert_eq!((site.property("ActiveState").as_str(), site.text_of("/").as_str()), ("active", "two"));

    site.write(&fixed("/", "three"));
    site.systemctl(&["reload", UNIT], 0);
    assert_eq!(site.text_of("/"), "three");
    assert_eq!((site.main_pid(), site.worker()), (pid, worker));
}

/// systemd sends its SIGTERM to every process of the unit: what is in flight ends all the same.
#[test]
fn systemctl_stop_lets_requests_end_and_leaves_nothing_whatever_the_kill_mode() {
    let test = "systemctl_stop_lets_requests_end_and_leaves_nothing_whatever_the_kill_mode";
    for mode in ["control-group", "mixed"] {
        let origin = Origin::start("origin");
        let rest = [service("origin", origin.address()), everything_to("origin"), drain("60s")].concat();
        let Some(site) = Site::started(test, handover!(), &format!("KillMode={mode}"), &rest) else { return };
        let mut held = Download::begin(site.port.address(), "/slow/1000000?gate=rest");
        held.take(1000);
        let mut idle = Connection::open(site.port.address());
        assert_eq!(idle.get("/").text(), "origin\n");
        site.systemctl(&["stop", "--no-block", UNIT], 0);
        // Idle connections are closed: the drain has begun, and every process has had its signal.
        idle.expect_end();
        origin.gate("rest").open();
        held.finish();
        site.manager.wait_for(UNIT, "ActiveState", "inactive");
        assert_eq!(site.property("Result"), "success", "{mode}: {}", site.said());
        site.wait_until_empty();
    }
}

/// The worker dies, and systemd notices nothing but its successor.
#[test]
fn the_death_of_a_worker_is_no_failure_of_the_unit() {
    let test = "the_death_of_a_worker_is_no_failure_of_the_unit";
    let Some(site) = Site::started(test, handover!(), "Restart=always", &fixed("/", "one")) else { return };
    let (pid, worker) = (site.main_pid(), site.worker());
    site.manager.run(&["kill", "-KILL", &worker.to_string()]).expect_code(0);
    until("another worker serves", || {
        let status = site.control().status();
        let other = status.pointer("/worker/pid").and_then(serde_json::Value::as_u64)?;
        (other != u64::from(worker) && status["phase"] == "serving").then_some(())
    });
    assert_eq!(site.text_of("/"), "one");
    assert_eq!((site.main_pid(), site.property("NRestarts")), (pid, "0".to_owned()));
    assert_eq!(site.manager.processes(UNIT).len(), 2, "supervisor and worker, no zombie");
}

#[test]
fn a_socket_unit_holds_the_listener_before_and_after_the_server() {
    let test = "a_socket_unit_holds_the_listener_before_and_after_the_server";
    let Some(site) = Site::new(test, handover!(), "") else { return };
    site.write(&fixed("/", "served"));
    let address = site.port.address();
    let socket = format!("[Socket]\nListenStream={address}\nFileDescriptorName=web\n");
    site.manager.unit("site.socket", &socket);
    site.systemctl(&["start", "site.socket"], 0);
    // Whoever comes starts the server, and waits for it.
    assert_eq!(site.text_of("/"), "served");
    site.manager.wait_for(UNIT, "ActiveState", "active");
    let listeners = handover_testkit::proc::listeners(site.port.number());
    site.systemctl(&["kill", "--signal=KILL", "--kill-who=all", UNIT], 0);
    site.manager.wait_for(UNIT, "ActiveState", "failed");
    // The same socket goes on listening, and the server comes back with the next client.
    assert_eq!(handover_testkit::proc::listeners(site.port.number()), listeners);
    site.systemctl(&["reset-failed", UNIT], 0);
    assert_eq!(site.text_of("/"), "served", "{}", site.said());
    assert_eq!(handover_testkit::proc::listeners(site.port.number()), listeners);
}

#[test]
fn the_watchdog_restarts_a_server_that_hangs_and_no_other() {
    let test = "the_watchdog_restarts_a_server_that_hangs_and_no_other";
    // A kind signal for the watchdog: what it does is not to be hidden by a core dump that takes its time.
    let lines = "WatchdogSec=2s\nWatchdogSignal=SIGKILL\nRestart=always\nRestartSec=0\n";
    let Some(site) = Site::started(test, handover!(), lines, &fixed("/", "served")) else { return };
    let fed = || site.property("WatchdogTimestampMonotonic");
    for _ in 0..3 {
        let before = fed();
        until("the watchdog is fed", || (fed() != before).then_some(()));
    }
    assert_eq!(site.property("NRestarts"), "0");
    let pid = site.main_pid();
    site.manager.run(&["kill", "-STOP", &pid.to_string()]).expect_code(0);
    site.manager.wait_for(UNIT, "NRestarts", "1");
    site.manager.wait_for(UNIT, "SubState", "running");
    assert_ne!(site.main_pid(), pid);
    assert_eq!(site.text_of("/"), "served", "{}", site.said());
}
