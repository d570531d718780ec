//! `[watch]`: reloads by themselves, hazard 29 (what watching must see), and outcomes like any other's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::symlink;

use handover_testkit::config::{fixed, from_file, listener};
use handover_testkit::faults::through_shell;
use handover_testkit::{
    Control, Handover, Port, Process, Serving, Workspace, command, handover, http, run, skip, text_at, until,
};

const WATCH: &str = "[watch]\nsettle = \"100ms\"\nretry = \"1s\"\n\n";

/// Waits until `path` answers `text`, which no event announces to a client.
fn wait_for_text(port: &Port, path: &str, text: &str) {
    until(&format!("{path} answers {text:?}"), || {
        let mut one = http::Connection::try_open(port.address()).ok()?;
        (one.try_get(path).ok()?.text() == text).then_some(())
    });
}

/// Hazard 29: `..data`, the second and the third time too, with nobody who asks.
#[test]
fn a_directory_symlink_that_is_swapped_again_and_again_is_followed_each_time() {
    let (workspace, port) = (Workspace::new(), Port::claim());
    let version = |number: usize| {
        let name = format!("..version_{number}");
        let config = listener("web", &port) + &fixed("/", number) + &from_file("/file", "body.txt") + WATCH;
        workspace.write(format!("{name}/handover.toml"), config);
        workspace.write(format!("{name}/body.txt"), format!("body {number}"));
        symlink(&name, workspace.path("..data_tmp")).unwrap();
        fs::rename(workspace.path("..data_tmp"), workspace.path("..data")).unwrap();
        if let Some(before) = number.checked_sub(1) {
            // The kubelet removes the version before.
            fs::remove_dir_all(workspace.path(format!("..version_{before}"))).unwrap();
        }
    };
    version(0);
    symlink("..data/handover.toml", workspace.path("handover.toml")).unwrap();
    symlink("..data/body.txt", workspace.path("body.txt")).unwrap();
    let server = Handover::of(handover!(), &workspace).config_file("handover.toml").start();
    for number in 1..=4 {
        version(number);
        wait_for_text(&port, "/", &number.to_string());
        wait_for_text(&port, "/file", &format!("body {number}"));
        // That one change is one reload is not promised; that it ends with the files as they are, is.
        until("its outcome is in the history", || {
            let newest = server.control.history().into_iter().next()?;
            (text_at(&newest, "/actor/kind") == "watch" && text_at(&newest, "/outcome") == "applied")
                .then_some(())
        });
    }
}

/// Hazard 29: an editor that renames, a file replaced by a symlink, that link replaced, a write in place, a file away.
#[test]
fn a_file_is_followed_however_it_is_replaced() {
    let server = Serving::start(handover!(), &(fixed("/", "0") + WATCH));
    let workspace = &server.workspace;
    let config = |text: &str| server.config(&(fixed("/", text) + WATCH));
    let check = |text: &str| wait_for_text(&server.port, "/", text);
    workspace.write("handover.toml", config("renamed"));
    check("renamed");
    // As vim does it: the old one aside, a new one in its place.
    fs::rename(workspace.path("handover.toml"), workspace.path("handover.toml~")).unwrap();
    fs::write(workspace.path("handover.toml"), config("edited")).unwrap();
    check("edited");
    workspace.write("elsewhere/one.toml", config("linked"));
    symlink("elsewhere/one.toml", workspace.path("link.tmp")).unwrap();
    fs::rename(workspace.path("link.tmp"), workspace.path("handover.toml")).unwrap();
    check("linked");
    // Behind the link, in a directory that was not watched before.
    workspace.write("elsewhere/one.toml", config("behind the link"));
    check("behind the link");
    workspace.write("other/two.toml", config("another link"));
    symlink("other/two.toml", workspace.path("link.tmp")).unwrap();
    fs::rename(workspace.path("link.tmp"), workspace.path("handover.toml")).unwrap();
    check("another link");
    workspace.overwrite("other/two.toml", config("in place"));
    check("in place");
    workspace.remove("handover.toml");
    let gone = server.handover.control.wait_for_operation("a file that is away is reported", |one| {
        text_at(one, "/actor/kind") == "watch" && text_at(one, "/outcome") == "rejected"
    });
    assert!(gone.to_string().contains("No such file"), "{gone}");
    check("in place");
    workspace.write("handover.toml", config("back"));
    check("back");
}

/// Several writes in a row are waited out: what is half there is not served, and often not even looked at.
#[test]
fn a_set_that_does_not_fit_together_is_reported_tried_again_and_never_served() {
    let server = Serving::start(handover!(), &(fixed("/", "0") + WATCH));
    server.write(&(from_file("/", "body.txt") + WATCH));
    let refused = server.handover.control.wait_for_operation("the set without its body is reported", |one| {
        text_at(one, "/actor/kind") == "watch" && text_at(one, "/outcome") == "rejected"
    });
    assert!(refused.to_string().contains("body.txt"), "{refused}");
    assert_eq!(server.text("/"), "0");
    server.workspace.write("body.txt", "whole");
    wait_for_text(&server.port, "/", "whole");
    // A retry that finds nothing new is not worth a line: the history stays readable.
    let outcomes: Vec<String> =
        server.handover.control.history().iter().map(|one| text_at(one, "/outcome").to_owned()).collect();
    assert!(outcomes.len() < 10, "{outcomes:?}");
}

#[test]
fn what_is_watched_ends_and_begins_with_the_configuration() {
    let server = Serving::start(handover!(), &fixed("/", "0"));
    // Nobody watches yet: the explicit way is the only one.
    server.reload(&(fixed("/", "1") + WATCH)).expect_code(0);
    server.write(&(fixed("/", "2") + WATCH));
    wait_for_text(&server.port, "/", "2");
    // The watch takes its own end, too.
    server.write(&fixed("/", "3"));
    wait_for_text(&server.port, "/", "3");
    server.write(&fixed("/", "4"));
    until("the drift is seen", || {
        let status = server.handover.control.status();
        status["drift"].as_array().filter(|files| !files.is_empty()).map(|_| ())
    });
    assert_eq!(server.text("/"), "3");
    server.handover.cli(["reload"]).expect_code(0);
    assert_eq!(server.text("/"), "4");
}

/// The watch asks again after what it could not interrupt.
#[test]
fn a_change_that_is_seen_while_another_awaits_confirmation_is_served_once_that_one_is_confirmed() {
    let server = Serving::start(handover!(), &fixed("/", "0"));
    server.write(&(fixed("/", "1") + WATCH));
    server.handover.cli(["reload", "--confirm-within", "10m"]).expect_code(0);
    server.write(&(fixed("/", "2") + WATCH));
    until("the drift is seen", || {
        let status = server.handover.control.status();
        status["drift"].as_array().filter(|files| !files.is_empty()).map(|_| ())
    });
    assert_eq!(server.text("/"), "1");
    assert!(server.handover.control.status()["pending"].is_object());
    server.handover.cli(["confirm"]).expect_code(0);
    wait_for_text(&server.port, "/", "2");
}

/// The worker that takes over after one that died watches as well.
#[test]
fn watching_goes_on_after_the_death_of_the_worker() {
    let server = Serving::start(handover!(), &(fixed("/", "0") + WATCH));
    let worker = server.handover.worker();
    handover_testkit::faults::kill(worker);
    until("another worker serves", || {
        let status = server.handover.control.status();
        let pid = status.pointer("/worker/pid").and_then(serde_json::Value::as_u64)?;
        (pid != u64::from(worker) && text_at(&status, "/phase") == "serving").then_some(())
    });
    server.write(&(fixed("/", "1") + WATCH));
    wait_for_text(&server.port, "/", "1");
    // Also what changes while there is none: the supervisor is held, so that it cannot start one before.
    let worker = server.handover.worker();
    let held = handover_testkit::faults::freeze(server.handover.pid());
    handover_testkit::faults::kill(worker);
    server.write(&(fixed("/", "2") + WATCH));
    drop(held);
    wait_for_text(&server.port, "/", "2");
}

/// The system's limit of watches: said plainly, with the limit's name, and changes are found all the same, only later.
#[test]
fn a_limit_of_the_system_is_named_and_files_are_looked_at_instead() {
    let limited = |limit: &str| {
        let set = format!("echo {limit} > /proc/sys/user/max_inotify_watches");
        format!("exec unshare --user --map-root-user sh -c '{set} && exec \"$0\" \"$@\"' \"$0\" \"$@\"")
    };
    if run(through_shell(&std::process::Command::new("true"), &limited("3"))).code != 0 {
        return skip("a_limit_of_the_system_is_named: this system lets nobody limit watches");
    }
    let (workspace, port) = (Workspace::new(), Port::claim());
    let config = |text: &str| listener("web", &port) + &fixed("/", text) + WATCH;
    let mut serve = command(handover!().as_ref(), &workspace);
    serve.arg("serve").arg(workspace.write("a/b/c/handover.toml", config("0")));
    let process = Process::start(through_shell(&serve, &limited("3")));
    Control::at(&workspace.control_socket()).wait_until_it_serves();
    let said = process.stderr_line("cannot be watched").unwrap();
    for part in ["fs.inotify.max_user_watches", "are looked at every 10 seconds instead"] {
        assert!(said.contains(part), "{said}");
    }
    workspace.write("a/b/c/handover.toml", config("1"));
    wait_for_text(&port, "/", "1");
}
