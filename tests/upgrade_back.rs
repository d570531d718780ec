//! Upgrades that are taken back: called off, not confirmed, guarded, or because the new worker died; and `rollback --binary`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use handover_testkit::faults::{can_mount, kill};
use handover_testkit::{
    DEADLINE, Everything, Handover, Output, handover, proc, sha256, text_at, until, wait_for_exit,
};
use serde_json::Value;

/// Long enough that no test meets its end.
const LONG: &str = "10m";
/// Short enough to be waited for, and long enough to look at what serves before it is over.
const SHORT: &str = "4s";

fn pending(server: &Everything) -> Value {
    server.control().status()["pending"].clone()
}

/// The processes of the workers with this role.
fn workers(server: &Everything, role: &str) -> Vec<u32> {
    let status = server.control().status();
    let all = status["workers"].as_array().cloned().unwrap_or_default();
    let found = all.iter().filter(|one| text_at(one, "/role") == role);
    found.map(|one| u32::try_from(one["pid"].as_u64().unwrap()).unwrap()).collect()
}

/// A server whose upgrade to version 2 awaits confirmation, and its workers: the new one and the old one.
fn with_pending(within: &str) -> (Everything, u32, u32) {
    let server = Everything::start(handover!());
    let (old, new, output) = upgrade_pending(&server, within);
    assert!(output.stdout.contains("unless 'handover confirm' comes"), "{}", output.stdout);
    (server, new, old)
}

fn upgrade_pending(server: &Everything, within: &str) -> (u32, u32, Output) {
    let old = server.handover.worker();
    let output = server.upgrade_to("2", &["--confirm-within", within]);
    output.expect_code(0);
    let new = server.handover.worker();
    assert_ne!(old, new);
    (old, new, output)
}

/// The file that a process executes, which may have another name by now, or none.
fn inode_of(pid: u32) -> u64 {
    std::fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino()
}

/// The digest of the binary that serves, as the server tells it.
fn serving_digest(server: &Everything) -> String {
    // A server that has just started still reads its own file.
    until("the digest is known", || {
        let status = server.control().status();
        Some(text_at(&status, "/worker/sha256").to_owned()).filter(|digest| !digest.is_empty())
    })
}

/// Supervisor and this worker, nobody else.
fn wait_until_alone(server: &Everything, worker: u32) {
    until("supervisor and worker are alone", || {
        let tree = proc::tree(server.handover.pid());
        (tree.len() == 2 && tree[1].pid == worker).then_some(())
    });
    assert_eq!(server.handover.worker(), worker);
    assert_eq!(inode_of(server.handover.pid()), inode_of(worker), "both run the same");
}

#[test]
fn an_upgrade_serves_at_once_keeps_the_old_worker_warm_and_stays_once_confirmed() {
    let (server, new, old) = with_pending(LONG);
    let mut idle = server.idle(1);
    let before = sha256(server.program.path());
    assert_eq!(text_at(&pending(&server), "/upgrade/to/sha256"), before);
    assert_eq!((workers(&server, "serving"), workers(&server, "warm")), (vec![new], vec![old]));
    assert_ne!(inode_of(server.handover.pid()), inode_of(new), "the supervisor is still the old one");
    server.handover.cli(["status"]).expect_code(0).says("confirm");

    let said = server.handover.cli(["confirm"]).expect_code(0).stdout.clone();
    assert!(said.contains("is confirmed and stays"), "{said}");
    assert!(wait_for_exit(old, DEADLINE), "the warm worker ends");
    wait_until_alone(&server, new);
    assert_eq!(pending(&server), Value::Null);
    idle.ask();
    server.upgrade_to("3", &[]).expect_code(0);
    idle.ask();
}

#[test]
fn cancel_and_rollback_take_it_back_with_every_connection() {
    let server = Everything::start(handover!());
    let mut idle = server.idle(2);
    let crowd = server.crowd();
    let before = serving_digest(&server);
    for words in [["cancel"], ["rollback"]] {
        let (old, new, _) = upgrade_pending(&server, LONG);
        crowd.rounds(3);
        idle.ask();
        let said = server.handover.cli(words).expect_code(0).stdout.clone();
        assert!(said.contains("was taken back") && said.contains("serves again"), "{said}");
        assert!(wait_for_exit(new, DEADLINE), "the new worker ends");
        wait_until_alone(&server, old);
        assert_eq!((serving_digest(&server), pending(&server)), (before.clone(), Value::Null));
        crowd.rounds(3);
        idle.ask();
    }
    crowd.finish();
}

#[test]
fn nobody_confirms_and_everything_goes_back_by_itself() {
    let server = Everything::start(handover!());
    let mut idle = server.idle(2);
    let crowd = server.crowd();
    let (old, new, _) = upgrade_pending(&server, SHORT);
    let operation = server.control().wait_for_operation("it goes back by itself", |one| {
        text_at(one, "/cause") == "not_confirmed" && text_at(one, "/outcome") == "rolled_back"
    });
    assert_eq!(text_at(&operation, "/actor/kind"), "supervisor", "{operation}");
    assert!(wait_for_exit(new, DEADLINE), "the new worker ends");
    wait_until_alone(&server, old);
    crowd.rounds(3);
    crowd.finish();
    idle.ask();
    for words in [["confirm"], ["cancel"]] {
        assert_eq!(server.handover.cli(words).code, 13, "too late: {words:?}");
    }
    server.upgrade(&[]).expect_code(0);
    idle.ask();
}

/// It dies on probation: the warm one serves at once, and nobody is refused.
#[test]
fn a_new_worker_that_dies_on_probation_is_replaced_by_the_warm_one() {
    let (server, new, old) = with_pending(LONG);
    let idle = server.idle(1);
    kill(new);
    let operation = server
        .control()
        .wait_for_operation("it is taken back", |one| text_at(one, "/outcome") == "rolled_back");
    assert_eq!(server.get("/").text(), "origin\n");
    wait_until_alone(&server, old);
    assert_eq!(pending(&server), Value::Null, "{operation}");
    drop(idle);
    server.upgrade(&[]).expect_code(0);
}

/// The warm one dies: what was before is started anew from the binary that is kept, and connections go along all the same.
#[test]
fn without_the_warm_worker_the_kept_binary_takes_everything_back() {
    let (server, new, old) = with_pending(LONG);
    let before = server.control().status();
    let mut idle = server.idle(2);
    kill(old);
    until("its death is noticed", || workers(&server, "warm").is_empty().then_some(()));
    assert_eq!(server.get("/").text(), "origin\n");
    assert!(pending(&server).is_object(), "it still awaits confirmation");
    server.handover.cli(["cancel"]).expect_code(0);
    assert!(wait_for_exit(new, DEADLINE));
    let third = server.handover.worker();
    assert_ne!(third, old);
    wait_until_alone(&server, third);
    assert_eq!(serving_digest(&server), text_at(&before, "/pending/upgrade/from/sha256"));
    idle.ask();
    server.upgrade(&[]).expect_code(0);
    idle.ask();
}

/// Not that either: somebody serves all the same, and what is said of it says what to do.
#[test]
fn what_cannot_be_taken_back_serves_on_and_stays() {
    let (mut server, new, old) = with_pending(LONG);
    let mut idle = server.idle(2);
    // Nobody executes it any more (execve(2): EACCES, for root, too).
    let program = format!("/proc/{old}/exe");
    std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o000)).unwrap();
    kill(old);
    until("its death is noticed", || workers(&server, "warm").is_empty().then_some(()));
    let said = server.handover.cli(["cancel"]);
    said.expect_code(11);
    for part in ["going back to", "Permission denied", "and stays", "handover upgrade --binary"] {
        assert!(said.all().contains(part), "{part}: {}", said.all());
    }
    assert_eq!(workers(&server, "serving"), [new]);
    assert_eq!((server.get("/").text(), pending(&server)), ("origin\n".to_owned(), Value::Null));
    assert_eq!(text_at(&server.last(), "/outcome"), "not_ready");
    // Nor does another supervisor go back.
    server.handover.kill_supervisor();
    let next = Handover::of(server.program.path(), &server.workspace).operator(handover!());
    let first = std::mem::replace(&mut server.handover, next.config_file("handover.toml").start());
    assert_eq!((workers(&server, "serving"), pending(&server)), (vec![new], Value::Null));
    idle.ask();
    server.upgrade_to("3", &[]).expect_code(0);
    idle.ask();
    drop(first);
}

/// And if it is confirmed instead, nothing is missing.
#[test]
fn a_warm_worker_that_dies_is_not_missed_by_a_confirmation() {
    let (server, new, old) = with_pending(LONG);
    kill(old);
    server.handover.cli(["confirm"]).expect_code(0);
    wait_until_alone(&server, new);
    assert_eq!(server.get("/").text(), "origin\n");
}

#[test]
fn while_one_awaits_confirmation_other_changes_are_refused_by_its_name() {
    let server = Everything::start(handover!());
    // There is a binary that one could go back to.
    server.upgrade_to("1", &[]).expect_code(0);
    let (old, _, _) = upgrade_pending(&server, LONG);
    let id = text_at(&pending(&server), "/operation_id").to_owned();
    for words in [&["reload"][..], &["upgrade"], &["rollback", "1"], &["rollback", "--binary"]] {
        let output = server.handover.cli(words);
        assert_eq!(output.code, 13, "{words:?}: {}", output.all());
        assert!(output.all().contains(&id), "{words:?} names {id}: {}", output.all());
    }
    server.handover.cli(["reload", "--dry-run"]).expect_code(0);
    server.handover.cli(["cancel"]).expect_code(0);
    wait_until_alone(&server, old);
    server.handover.cli(["reload"]).expect_code(0);
}

/// A guarded upgrade whose worker answers worse than the one before goes back within the same operation: exit 12.
#[test]
fn a_guarded_upgrade_that_fares_worse_goes_back() {
    let server = Everything::start(handover!());
    let old = server.handover.worker();
    let mut idle = server.idle(1);
    for _ in 0..50 {
        assert_eq!(server.get("/bytes/1").status(), 200);
    }
    let upgrading = server.begin_upgrade_to("2", &["--guard=60s"]);
    let new = server.wait_for_another_worker(old);
    while !upgrading.is_finished() {
        assert!([500, 200].contains(&server.get("/status/500").status()));
    }
    let output = upgrading.join().unwrap();
    let said = output.expect_code(12).all();
    assert!(said.contains("rolled back") && said.contains("guard"), "{said}");
    assert!(wait_for_exit(new, DEADLINE));
    wait_until_alone(&server, old);
    idle.ask();
}

#[test]
fn a_guarded_upgrade_that_fares_as_before_stays_and_one_whose_worker_dies_goes_back() {
    let server = Everything::start(handover!());
    let mut idle = server.idle(1);
    server.upgrade_to("2", &["--guard=1s"]).expect_code(0);
    wait_until_alone(&server, server.handover.worker());
    idle.ask();

    let old = server.handover.worker();
    let upgrading = server.begin_upgrade_to("3", &["--guard=60s"]);
    let new = server.wait_for_another_worker(old);
    kill(new);
    upgrading.join().unwrap().expect_code(12);
    assert_eq!(server.get("/").text(), "origin\n");
    wait_until_alone(&server, old);
}

#[test]
fn rollback_to_the_binary_before_goes_back_and_forth() {
    let server = Everything::start(handover!());
    let none = server.handover.cli(["rollback", "--binary"]);
    assert_ne!(none.code, 0, "there is none yet: {}", none.all());
    let first = serving_digest(&server);
    server.upgrade_to("2", &[]).expect_code(0);
    let second = serving_digest(&server);
    let mut idle = server.idle(1);
    // What is installed now is of no importance: the binary was kept.
    std::fs::remove_file(server.program.path()).unwrap();
    for digest in [&first, &second, &first] {
        let pid = server.handover.pid();
        let output = server.handover.cli(["rollback", "--binary"]);
        output.expect_code(0);
        assert_eq!((&serving_digest(&server), server.handover.pid()), (digest, pid));
        wait_until_alone(&server, server.handover.worker());
        idle.ask();
    }
}

/// The kept binary is looked at like any other.
#[test]
fn a_kept_binary_that_was_changed_is_refused() {
    let server = Everything::start(handover!());
    server.upgrade_to("2", &[]).expect_code(0);
    let serving = serving_digest(&server);
    let kept = server.workspace.path("state/handover/binaries");
    let mut changed = 0;
    for entry in std::fs::read_dir(&kept).unwrap().flatten() {
        let mut command = std::process::Command::new("sh");
        command
            .args(["-c", "cp \"$0\" \"$0.n\" && printf x >> \"$0.n\" && mv -f \"$0.n\" \"$0\""])
            .arg(entry.path());
        handover_testkit::run(command).expect_code(0);
        changed += 1;
    }
    assert!(changed > 0, "nothing is kept in {}", kept.display());
    let output = server.handover.cli(["rollback", "--binary"]);
    assert_ne!(output.code, 0, "{}", output.all());
    assert_eq!((serving_digest(&server), server.get("/").text()), (serving, "origin\n".to_owned()));
    server.upgrade_to("3", &[]).expect_code(0);
}

/// What nobody confirms goes back in time, whoever the supervisor is by then.
#[test]
fn an_upgrade_that_awaits_confirmation_goes_back_though_its_supervisor_was_killed() {
    let server = Everything::start(handover!());
    let before = serving_digest(&server);
    let mut idle = server.idle(1);
    let _ = upgrade_pending(&server, "5s");
    // The origin stays, and the first supervisor, which cleans up at the end.
    let Everything { handover: mut first, program, workspace, origin, echo, .. } = server;
    first.kill_supervisor();
    let second = Handover::of(program.path(), &workspace).config_file("handover.toml").start();
    idle.ask();
    let operation = second.control.wait_for_operation("it goes back by itself", |one| {
        text_at(one, "/cause") == "not_confirmed" && text_at(one, "/outcome") == "rolled_back"
    });
    let status = second.control.status();
    assert_eq!(text_at(&status, "/worker/sha256"), before, "{operation}");
    assert_eq!(status["pending"], Value::Null);
    idle.ask();
    second.cli(["upgrade"]).expect_code(0);
    idle.ask();
    drop((second, first, origin, echo));
}

/// There is no room to keep the binary that served before: the upgrade is done all the same, and says so.
#[test]
fn a_binary_that_cannot_be_kept_is_a_warning() {
    if !can_mount("a_binary_that_cannot_be_kept_is_a_warning") {
        return;
    }
    let server = Everything::start_with(handover!(), "", |builder| builder.disk("size=2m"));
    let mut idle = server.idle(1);
    let output = server.upgrade_to("2", &[]);
    let said = output.expect_code(0).all();
    assert!(said.contains("applied: upgraded"), "{said}");
    assert!(!server.last()["warnings"].as_array().unwrap_or(&Vec::new()).is_empty(), "{}", server.last());
    idle.ask();
    assert_ne!(server.handover.cli(["rollback", "--binary"]).code, 0);
    server.handover.cli(["reload"]).expect_code(0);
    idle.ask();
}
