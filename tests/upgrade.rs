//! `handover upgrade`: what it says, what it does, which binaries it lets in, and what stays as it was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use handover_testkit::config::fixed;
use handover_testkit::faults::through_shell;
use handover_testkit::{
    DEADLINE, Everything, Signal, Signer, bad, handover, have, proc, root, run, sha256, signature_of,
    text_at, until, wait_for_exit,
};
use serde_json::Value;

/// The inode of the file that a process executes.
fn inode_of(pid: u32) -> u64 {
    std::fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino()
}

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

/// Supervisor and worker, and nobody else, both running this file.
#[track_caller]
fn both_run(server: &Everything, path: &Path) {
    let (supervisor, worker) = (server.handover.pid(), server.handover.worker());
    until("supervisor and worker are alone", || {
        (proc::tree(supervisor).len() == 2 && proc::zombies(supervisor).is_empty()).then_some(())
    });
    assert_eq!((inode_of(supervisor), inode_of(worker)), (inode(path), inode(path)));
}

fn steps(operation: &Value) -> Vec<String> {
    let steps = operation["steps"].as_array().unwrap_or_else(|| panic!("{operation}"));
    steps.iter().map(|step| text_at(step, "/name").to_owned()).collect()
}

/// Hazard 33: the number that the service manager knows is the same for ever.
#[test]
fn an_upgrade_says_from_what_to_what_and_what_moved_and_the_process_id_never_changes() {
    let server = Everything::start(handover!());
    let (pid, worker) = (server.handover.pid(), server.handover.worker());
    let before = sha256(server.program.path());
    let mut idle = server.idle(2);
    let output = server.upgrade_to("2", &[]);
    let said = output.expect_code(0).stdout.clone();
    let after = sha256(server.program.path());
    assert!(said.starts_with("applied: upgraded from "), "{said}");
    for digest in [&before[..12], &after[..12]] {
        assert!(said.contains(digest), "{digest} is missing: {said}");
    }
    assert!(said.contains("6 connections moved (6 http), none cut; frozen for "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");

    assert_eq!(server.handover.pid(), pid);
    assert!(wait_for_exit(worker, DEADLINE), "the old worker ends");
    both_run(&server, server.program.path());
    assert_ne!(server.handover.worker(), worker);
    idle.ask();

    let operation = server.last();
    assert_eq!((text_at(&operation, "/kind"), text_at(&operation, "/outcome")), ("upgrade", "applied"));
    assert_eq!(text_at(&operation, "/upgrade/from/sha256"), before);
    assert_eq!(text_at(&operation, "/upgrade/to/sha256"), after);
    assert_eq!(operation.pointer("/upgrade/moved/http").and_then(Value::as_u64), Some(6), "{operation}");
    let names = steps(&operation);
    for step in ["admission", "preflight", "start_worker", "probe", "hand_over", "stop_worker", "supervisor"]
    {
        assert!(names.iter().any(|name| name == step), "{step} is missing: {names:?}");
    }
    let status = server.control().status();
    assert_eq!(text_at(&status, "/binary/sha256"), after, "{status}");
    assert_eq!(text_at(&status, "/previous_binary/sha256"), before, "{status}");
    assert_eq!(server.control().generation(), 1, "an upgrade is no other generation");
}

/// On a terminal, which script(1) plays.
#[test]
fn its_progress_is_told_step_by_step() {
    if !have("script", "its_progress_is_told_step_by_step") {
        return;
    }
    let server = Everything::start(handover!());
    server.program.replace("2");
    let upgrade = server.handover.command(["upgrade"]);
    let upgrade = through_shell(&upgrade, "exec script --quiet --return --command \"'$0' $1\" /dev/null");
    let said = run(upgrade).expect_code(0).stdout.clone();
    let mut rest = said.as_str();
    let steps = [
        "admission",
        "preflight",
        "start",
        "prepare",
        "ready",
        "commit",
        "moving connections",
        "drain",
        "supervisor",
        "applied: upgraded",
    ];
    for step in steps {
        let at = rest.find(step).unwrap_or_else(|| panic!("{step} is missing, or too early:\n{said}"));
        rest = &rest[at + step.len()..];
    }
}

#[test]
fn one_upgrade_follows_the_other_and_the_same_binary_is_a_fresh_worker() {
    let server = Everything::start(handover!());
    let pid = server.handover.pid();
    let mut idle = server.idle(1);
    for version in ["2", "3", "3"] {
        let worker = server.handover.worker();
        server.upgrade_to(version, &[]).expect_code(0);
        assert_ne!(server.handover.worker(), worker);
        both_run(&server, server.program.path());
        idle.ask();
    }
    let said = server.upgrade(&[]).expect_code(0).stdout.clone();
    assert!(said.contains("the same binary as before"), "{said}");
    assert_eq!(server.handover.pid(), pid);
    // What came of all of them is in the history, which went along.
    let upgrades = server.control().history();
    let applied = |one: &&Value| text_at(one, "/kind") == "upgrade" && text_at(one, "/outcome") == "applied";
    assert_eq!(upgrades.iter().filter(applied).count(), 4);
}

#[test]
fn after_an_upgrade_everything_works_as_before_and_it_ends_as_before() {
    let mut server = Everything::start(handover!());
    server.upgrade_to("2", &[]).expect_code(0);
    // A reload, a reload by signal, a dead worker, another upgrade, a stop.
    server.handover.cli(["reload"]).expect_code(0);
    server.handover.signal(Signal::HUP);
    let _ = server
        .control()
        .wait_for_operation("a reload by signal", |one| text_at(one, "/actor/kind") == "signal");
    let worker = server.handover.worker();
    handover_testkit::faults::kill(worker);
    until("another worker serves", || {
        let status = server.control().status();
        let pid = status.pointer("/worker/pid").and_then(Value::as_u64)?;
        (pid != u64::from(worker) && status["phase"] == "serving").then_some(())
    });
    assert_eq!(server.get("/").text(), "origin\n");
    both_run(&server, server.program.path());
    server.upgrade_to("3", &[]).expect_code(0);
    server.handover.terminate().expect_code(0);
    assert!(!server.handover.control.path().exists(), "the control socket is unlinked");
}

#[test]
fn the_signal_usr2_upgrades_from_where_the_program_is_installed() {
    let mut server = Everything::start(handover!());
    server.program.replace("2");
    server.handover.signal(Signal::USR2);
    let operation =
        server.control().wait_for_operation("the upgrade", |one| text_at(one, "/kind") == "upgrade");
    assert_eq!(text_at(&operation, "/outcome"), "applied", "{operation}");
    assert_eq!(text_at(&operation, "/actor/kind"), "signal", "{operation}");
    both_run(&server, server.program.path());
}

#[test]
fn a_binary_somewhere_else_is_named_and_workers_are_its_from_then_on() {
    let server = Everything::start(handover!());
    let elsewhere = server.program.version("elsewhere");
    server.upgrade_from(&elsewhere, &[]).expect_code(0);
    both_run(&server, &elsewhere);
}

/// Hazard 12: what lies on the disk by now is nobody's business but an upgrade's.
#[test]
fn a_worker_is_replaced_from_the_binary_that_serves_whatever_lies_on_the_disk() {
    let server = Everything::start(handover!());
    server.upgrade_to("2", &[]).expect_code(0);
    let serving = inode(server.program.path());
    let broken = bad::File::HalfCopied.make(&server.program);
    std::fs::rename(broken, server.program.path()).unwrap();
    for remove in [false, true] {
        if remove {
            std::fs::remove_file(server.program.path()).unwrap();
        }
        let worker = server.handover.worker();
        handover_testkit::faults::kill(worker);
        until("another worker serves", || {
            let status = server.control().status();
            let pid = status.pointer("/worker/pid").and_then(Value::as_u64)?;
            (pid != u64::from(worker) && status["phase"] == "serving").then_some(())
        });
        assert_eq!(inode_of(server.handover.worker()), serving);
        assert_eq!(server.get("/").text(), "origin\n");
    }
}

#[test]
fn a_dry_run_says_what_would_be_and_touches_nothing() {
    let server = Everything::start(handover!());
    let idle = server.idle(1);
    let look = || {
        let pids = [server.handover.pid(), server.handover.worker()];
        let files: Vec<String> = server.workspace.listing();
        (pids, pids.map(proc::descriptor_kinds), pids.map(|pid| proc::stat(pid).unwrap().began), files)
    };
    let next = server.program.version("2");
    let before = until("it is at rest", || {
        let before = look();
        (look() == before).then_some(before)
    });
    let output = server.upgrade_from(&next, &["--dry-run"]);
    let said = output.expect_code(0).stdout.clone();
    assert!(said.starts_with("valid: ") && said.contains("could take over"), "{said}");
    until("all is as before", || {
        let now = look();
        let descriptors = now.1.iter().zip(&before.1).all(|(now, before)| {
            // Whoever was still talking to it before may be gone by now.
            now.iter().all(|(kind, count)| before.get(kind).is_some_and(|before| count <= before))
        });
        let same = (now.0, now.2, &now.3) == (before.0, before.2, &before.3);
        (same && descriptors && proc::tree(server.handover.pid()).len() == 2).then_some(())
    });
    both_run(&server, server.program.path());
    // Nor does one that says no.
    let broken = bad::File::HalfCopied.make(&server.program);
    server.upgrade_from(&broken, &["--dry-run"]).expect_code(11);
    let mut idle = idle;
    idle.ask();
    server.upgrade_from(&next, &[]).expect_code(0);
    idle.ask();
}

#[test]
fn a_digest_that_is_asked_for_must_be_that_of_the_binary() {
    let server = Everything::start(handover!());
    let right = sha256(&server.program.version("2"));
    let wrong = sha256(server.program.path());
    let output = server.upgrade_to("2", &["--sha256", &wrong]);
    let said = output.expect_code(10).all();
    assert!(said.contains("sha256") && said.contains(&right[..12]), "{said}");
    server.upgrade_to("2", &["--sha256", &right.to_uppercase()]).expect_code(0);
    both_run(&server, server.program.path());
}

#[test]
fn rules_of_the_configuration_are_kept_and_named() {
    let rules = |rest: &str| format!("[upgrade]\n{rest}\n");
    let server = Everything::start_with(handover!(), &rules("directories = [\"/usr/bin\"]"), |it| it);
    let config = server.workspace.read("handover.toml");
    let with = |rest: &str| {
        let text = config.replace("directories = [\"/usr/bin\"]", rest);
        server.handover.reload_with(text).expect_code(0);
    };
    let refused = |why: &str| {
        let output = server.upgrade(&[]);
        let said = output.expect_code(10).all();
        assert!(said.contains("rejected") && said.contains(why), "{why:?} is missing: {said}");
    };
    server.program.replace("2");
    refused("/usr/bin");
    with(&format!("sha256 = \"{}\"", "0".repeat(64)));
    refused("sha256");

    let signer = Signer::new();
    with(&format!("public_key = \"{}\"", signer.public_key()));
    refused("minisig");
    let signature = Signer::new().sign(server.program.path());
    refused("another key");
    assert_eq!(signature, signature_of(server.program.path()));
    signer.sign(&server.program.version("3"));
    std::fs::rename(signature_of(&server.program.beside("handover-3")), &signature).unwrap();
    refused("not the signature");
    signer.sign(server.program.path());
    server.upgrade(&[]).expect_code(0);

    let bin = server.program.path().parent().unwrap().display().to_string();
    let right = sha256(server.program.path());
    with(&format!("directories = [\"/usr/bin\", \"{bin}\"]\nsha256 = \"{right}\""));
    server.upgrade(&[]).expect_code(0);
}

#[test]
fn a_binary_that_others_can_change_is_refused() {
    let server = Everything::start(handover!());
    server.program.replace("2");
    let refused = |why: &str| {
        let said = server.upgrade(&[]).expect_code(10).all();
        assert!(said.contains(why), "{why:?} is missing: {said}");
    };
    for mode in [0o775, 0o757] {
        server.workspace.mode("bin/handover", mode);
        refused("can write it");
    }
    server.workspace.mode("bin/handover", 0o755);
    server.workspace.mode("bin", 0o777);
    refused("another file in its place");
    server.workspace.mode("bin", 0o755);
    if root("a_binary_that_others_can_change_is_refused: by its owner") {
        let change = |owner| std::os::unix::fs::chown(server.program.path(), Some(owner), None).unwrap();
        change(12_345);
        refused("12345");
        change(0);
    }
    server.upgrade(&[]).expect_code(0);
}

#[test]
fn an_upgrade_by_curl_has_the_same_answer() {
    let server = Everything::start(handover!());
    server.program.replace("2");
    let (status, operation) = server.control().post("/v1/upgrade", &[("Idempotency-Key", "night-shift")]);
    assert_eq!(status, 200, "{operation}");
    assert_eq!((text_at(&operation, "/id"), text_at(&operation, "/outcome")), ("night-shift", "applied"));
    // Asked again, it is the same one, whose outcome another process has written down.
    let worker = server.handover.worker();
    let (status, again) = server.control().post("/v1/upgrade", &[("Idempotency-Key", "night-shift")]);
    assert_eq!((status, text_at(&again, "/message")), (200, text_at(&operation, "/message")));
    assert_eq!(server.handover.worker(), worker);
    let missing = server.workspace.path("missing").display().to_string();
    let (status, problem) = server.control().post(&format!("/v1/upgrade?binary={missing}"), &[]);
    assert_eq!((status, text_at(&problem, "/phase")), (500, "admission"), "{problem}");
}

/// Whoever asks something at any moment is answered, also while the supervisor becomes another program.
#[test]
fn the_control_socket_answers_at_every_moment_of_an_upgrade() {
    let server = Everything::start(handover!());
    for version in ["2", "3"] {
        let upgrading = server.begin_upgrade_to(version, &[]);
        while !upgrading.is_finished() {
            let status = server.control().status();
            assert_eq!(text_at(&status, "/phase"), "serving", "{status}");
        }
        upgrading.join().unwrap().expect_code(0);
    }
}

/// Whoever waits for the outcome of somebody else's upgrade hears it, from whichever process.
#[test]
fn an_upgrade_that_nobody_waits_for_ends_and_can_be_asked_for() {
    let server = Everything::start(handover!());
    server.program.replace("2");
    let said = server.upgrade(&["--detach", "--idempotency-key", "at-night"]).expect_code(0).all();
    assert!(said.contains("at-night"), "{said}");
    server.handover.cli(["show", "at-night", "--timeout", "30s"]).expect_code(0).says("applied: upgraded");
    both_run(&server, server.program.path());
}

/// The log, the watch on files and the service manager are the new processes' now.
#[test]
fn logs_and_watches_go_on_after_an_upgrade() {
    let more = "[log]\naccess = true\n\n[watch]\n\n";
    let server = Everything::start_with(handover!(), more, |it| it);
    for version in ["2", "3"] {
        server.upgrade_to(version, &[]).expect_code(0);
        let path = format!("/seen-{version}");
        assert_eq!(server.get(&path).text(), "origin\n");
        assert!(server.handover.process.stderr_line(&path).is_some(), "the access log goes on");
        let config = server.workspace.read("handover.toml");
        let added = format!("/added-{version}");
        server.handover.write_config(config + &fixed(&added, version));
        until("the watch has seen it", || (server.get(&added).text() == version).then_some(()));
    }
}

/// A server that is not root's, with a binary that belongs to its user.
#[test]
fn a_user_upgrades_a_server_of_their_own() {
    const USER: u32 = 12_321;
    if !root("a_user_upgrades_a_server_of_their_own")
        || !have("setpriv", "a_user_upgrades_a_server_of_their_own")
    {
        return;
    }
    let server = Everything::start_with(handover!(), "", |builder| builder.user(USER));
    let mut idle = server.idle(1);
    server.program.replace("2");
    std::os::unix::fs::chown(server.program.path(), Some(USER), Some(USER)).unwrap();
    // It runs from a copy that its user can reach.
    let owner = |pid: u32| std::fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid();
    for _ in 0..2 {
        // Keys are in a worker's memory, which no core dump has and no process of the same user reads (PR_SET_DUMPABLE
        // in prctl(2)): that shows in whom its files in /proc belong to.
        assert_eq!((owner(server.handover.worker()), owner(server.handover.pid())), (0, USER));
        server.upgrade_from(server.program.path(), &[]).expect_code(0);
    }
    both_run(&server, server.program.path());
    idle.ask();
}

/// The new binary serves what served, to the byte; what the files say by now is the next reload's business.
#[test]
fn an_upgrade_serves_the_generation_that_serves_whatever_the_files_say() {
    let server = Everything::start(handover!());
    let mut idle = server.idle(1);
    let serial = server.client().serial(server.secure.address());
    let good = server.workspace.read("handover.toml");
    for broken in ["[nonsense]\n".to_owned(), good.clone() + &fixed("/new", "new")] {
        server.handover.write_config(broken);
        let other = server.authority.pair(&["other.test"]);
        other.write_certificate(&server.workspace, "site");
        let generation = server.control().generation();
        server.upgrade_to("2", &[]).expect_code(0);
        assert_eq!(server.control().generation(), generation);
        assert_eq!(server.get("/new").text(), "origin\n", "nothing new serves");
        assert_eq!(server.client().serial(server.secure.address()), serial);
        idle.ask();
    }
    server.handover.cli(["reload"]).expect_code(10);
    server.authority.pair(&["site.test"]).write(&server.workspace, "site");
    server.handover.cli(["reload"]).expect_code(0);
    assert_eq!(server.get("/new").text(), "new");
    assert_ne!(server.client().serial(server.secure.address()), serial);
    // A generation that was gone back to serves on as well.
    server.handover.cli(["rollback"]).expect_code(0);
    server.upgrade_to("3", &[]).expect_code(0);
    assert_eq!(server.get("/new").text(), "origin\n");
    assert_eq!(server.client().serial(server.secure.address()), serial);
}
