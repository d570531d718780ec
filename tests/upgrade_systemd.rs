//! Upgrades under a real `systemd --user`: the process that it knows is the same for ever, and it keeps the listeners.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use handover_testkit::config::{fixed, listener};
use handover_testkit::http::{self, Connection};
use handover_testkit::systemd::{Site, UNIT};
use handover_testkit::{Port, handover, proc, until};

/// Hazard 33: the main process is the same through upgrades, and systemd sees nothing but a healthy service.
#[test]
fn the_main_process_is_the_same_through_upgrades_and_the_watchdog_is_fed_on() {
    let test = "the_main_process_is_the_same_through_upgrades_and_the_watchdog_is_fed_on";
    let lines = "WatchdogSec=2s\nWatchdogSignal=SIGKILL\nRestart=always\nRestartSec=0\n";
    let Some(site) = Site::started(test, handover!(), lines, &fixed("/", "served")) else { return };
    let pid = site.main_pid();
    let mut kept = Connection::open(site.port.address());
    assert_eq!(kept.get("/").text(), "served");
    for version in ["2", "3"] {
        let worker = site.worker();
        site.program.replace(version);
        site.cli(&["upgrade"], 0);
        assert_ne!(site.worker(), worker);
        assert_eq!(kept.get("/").text(), "served");
        assert_eq!((site.main_pid(), site.property("NRestarts")), (pid, "0".to_owned()), "{}", site.said());
        assert_eq!(
            (site.property("ActiveState"), site.property("SubState")),
            ("active".into(), "running".into())
        );
        assert_eq!(site.manager.processes(UNIT).len(), 2, "supervisor and worker, nobody else");
        for _ in 0..3 {
            let fed = || site.property("WatchdogTimestampMonotonic");
            let before = fed();
            until("the watchdog is fed", || (fed() != before).then_some(()));
        }
        // What systemd asks for is done by the new one as by the old one.
        site.write(&fixed("/", "served"));
        site.systemctl(&["reload", UNIT], 0);
    }
    site.systemctl(&["stop", UNIT], 0);
    assert_eq!(site.property("Result"), "success", "{}", site.said());
    site.wait_until_empty();
}

/// An upgrade that fails is no concern of systemd's; nor is one that is taken back.
#[test]
fn an_upgrade_that_fails_or_is_taken_back_changes_nothing_for_systemd() {
    let test = "an_upgrade_that_fails_or_is_taken_back_changes_nothing_for_systemd";
    let Some(site) = Site::started(test, handover!(), "Restart=always", &fixed("/", "served")) else {
        return;
    };
    let (pid, worker) = (site.main_pid(), site.worker());
    let bad = handover_testkit::bad::File::HalfCopied.make(&site.program);
    site.cli(&["upgrade", "--binary", bad.to_str().unwrap()], 11);
    site.program.replace("2");
    site.cli(&["upgrade", "--confirm-within", "10m"], 0);
    assert_ne!(site.worker(), worker);
    site.cli(&["cancel"], 0);
    assert_eq!((site.main_pid(), site.worker()), (pid, worker), "{}", site.said());
    assert_eq!((site.property("ActiveState"), site.property("NRestarts")), ("active".into(), "0".into()));
    assert_eq!(site.text_of("/"), "served");
}

/// systemd keeps the listeners (FDSTORE): they outlive every process of the unit.
#[test]
fn listeners_survive_the_death_of_the_whole_unit_and_whoever_waits_is_served() {
    let test = "listeners_survive_the_death_of_the_whole_unit_and_whoever_waits_is_served";
    let lines = "FileDescriptorStoreMax=64\nRestart=always\nRestartSec=1\n";
    let Some(site) = Site::started(test, handover!(), lines, &fixed("/", "served")) else { return };
    for upgraded in [false, true] {
        if upgraded {
            site.program.replace("2");
            site.cli(&["upgrade"], 0);
        }
        let listeners = proc::listeners(site.port.number());
        until("systemd keeps them", || (site.property("NFileDescriptorStore") != "0").then_some(()));
        let (pid, restarts) = (site.main_pid(), site.property("NRestarts"));
        site.systemctl(&["kill", "--signal=KILL", "--kill-who=all", UNIT], 0);
        until("nobody runs, or somebody else", || (site.main_pid() != pid).then_some(()));
        // Never refused, at no moment; and answered as soon as somebody is there.
        let mut waiting: Vec<Connection> = (0..20).map(|_| Connection::open(site.port.address())).collect();
        for connection in &mut waiting {
            assert_eq!(connection.get("/").text(), "served");
        }
        assert_ne!(site.property("NRestarts"), restarts);
        assert_eq!(proc::listeners(site.port.number()), listeners, "the very same sockets");
        site.manager.wait_for(UNIT, "SubState", "running");
    }
    // What is no longer configured is not kept either.
    let other = Port::claim();
    site.workspace.write("handover.toml", listener("web", &other) + &fixed("/", "moved"));
    site.systemctl(&["reload", UNIT], 0);
    assert_eq!(http::get(other.address(), "/").text(), "moved");
    site.systemctl(&["kill", "--signal=KILL", "--kill-who=all", UNIT], 0);
    assert_eq!(http::get(other.address(), "/").text(), "moved");
    assert!(Connection::try_open(site.port.address()).is_err(), "nobody listens at the old address");
}
