//! Files: hazards 29 to 32, and that what was read once is what serves. Hazard 28 is in `certificates.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use handover_testkit::config::{fixed, from_file, listener, tls_listener};
use handover_testkit::faults::kill;
use handover_testkit::{
    Authority, Handover, Port, SITE, Serving, Workspace, handover, proc, run, text_at, until, wait_for_exit,
};
use serde_json::Value;

/// Half a set of files is never served: what was read in prepare serves, whatever the disk says meanwhile.
#[test]
fn the_bytes_read_in_prepare_serve_until_the_next_reload_even_if_the_worker_dies() {
    let workspace = Workspace::new();
    workspace.write("one.txt", "one, old");
    workspace.write("two.txt", "two, old");
    let rest = from_file("/one", "one.txt") + &from_file("/two", "two.txt");
    let server = Serving::prepared(handover!(), workspace, &rest);
    server.workspace.write("one.txt", "one, new");
    assert_eq!((server.text("/one"), server.text("/two")), ("one, old".into(), "two, old".into()));

    let worker = server.handover.worker();
    kill(worker);
    until("another worker serves", || {
        let status = server.handover.control.status();
        (status.pointer("/worker/pid").and_then(Value::as_u64)? != u64::from(worker)).then_some(())
    });
    assert_eq!((server.text("/one"), server.text("/two")), ("one, old".into(), "two, old".into()));

    server.workspace.write("two.txt", "two, new");
    server.handover.cli(["reload"]).expect_code(0);
    assert_eq!((server.text("/one"), server.text("/two")), ("one, new".into(), "two, new".into()));
}

/// Hazard 29: `..data`, as Kubernetes does it, the second and the third time too.
#[test]
fn a_reload_follows_a_directory_symlink_that_is_swapped_again_and_again() {
    let (workspace, port) = (Workspace::new(), Port::claim());
    let config =
        |message: &str| listener("web", &port) + &fixed("/", message) + &from_file("/file", "body.txt");
    let version = |number: usize| {
        let name = format!("..version_{number}");
        workspace.write(format!("{name}/handover.toml"), config(&format!("message {number}")));
        workspace.write(format!("{name}/body.txt"), format!("body {number}"));
        // Replaced in one step, as the kubelet does it.
        symlink(&name, workspace.path("..data_tmp")).unwrap();
        fs::rename(workspace.path("..data_tmp"), workspace.path("..data")).unwrap();
    };
    version(0);
    symlink("..data/handover.toml", workspace.path("handover.toml")).unwrap();
    symlink("..data/body.txt", workspace.path("body.txt")).unwrap();
    let server = Handover::of(handover!(), &workspace).config_file("handover.toml").start();
    let get = |path: &str| handover_testkit::http::get(port.address(), path).text();
    for number in 0..4 {
        if number > 0 {
            version(number);
            server.cli(["reload"]).expect_code(0);
        }
        assert_eq!((get("/"), get("/file")), (format!("message {number}"), format!("body {number}")));
    }
}

/// Hazard 29: an editor that renames, a file replaced by a symlink, a file written in place (as through a bind mount).
#[test]
fn a_reload_reads_what_the_path_leads_to_however_it_was_replaced() {
    let server = Serving::start(handover!(), &fixed("/", "0"));
    let workspace = &server.workspace;
    let check = |message: &str| {
        server.handover.cli(["reload"]).expect_code(0);
        assert_eq!(server.text("/"), message);
    };
    workspace.write("handover.toml", server.config(&fixed("/", "renamed")));
    check("renamed");
    workspace.write("elsewhere.toml", server.config(&fixed("/", "linked")));
    workspace.remove("handover.toml");
    symlink("elsewhere.toml", workspace.path("handover.toml")).unwrap();
    check("linked");
    workspace.overwrite("elsewhere.toml", server.config(&fixed("/", "in place")));
    check("in place");
    workspace.remove("handover.toml");
    let output = server.handover.cli(["reload"]);
    assert_eq!(output.code, 10, "{}", output.all());
    assert!(output.all().contains("No such file"), "{}", output.all());
    assert_eq!(server.text("/"), "in place");
    workspace.write("handover.toml", server.config(&fixed("/", "back")));
    check("back");
}

/// Hazard 30: without a server.
#[test]
fn validate_of_a_file_writes_nothing() {
    let (workspace, port) = (Workspace::new(), Port::claim());
    let config = listener("web", &port)
        + &fixed("/", "x")
        + "[log]\nto = \"logs.txt\"\naccess = \"access.txt\"\n[control]\nstate = \"journal\"\n\
           [listeners.socket]\naddress = \"unix:app.sock\"\n";
    let file = workspace.write("handover.toml", config);
    let before = workspace.listing();
    let mut command = handover_testkit::command(handover!().as_ref(), &workspace);
    command.arg("validate").arg(&file);
    run(command).expect_code(0);
    assert_eq!(workspace.listing(), before);

    workspace.write("handover.toml", "[nonsense]\n");
    let before = workspace.listing();
    let mut command = handover_testkit::command(handover!().as_ref(), &workspace);
    command.arg("validate").arg(&file);
    let output = run(command);
    assert_eq!(output.code, 10, "{}", output.all());
    assert!(output.all().contains("nonsense"), "{}", output.all());
    assert_eq!(workspace.listing(), before);
}

/// Everything that a configuration can name that a server would make, bind or write.
fn config_that_names_everything(workspace: &Workspace, port: &Port, secure: &Port) -> String {
    Authority::new("CA").pair(&[SITE]).write(workspace, "site");
    workspace.write("body.txt", "a body");
    listener("web", port)
        + &tls_listener("secure", secure, &["site"], "")
        + "[listeners.socket]\naddress = \"unix:run/app.sock\"\n"
        + &fixed("/", "x")
        + &from_file("/body", "body.txt")
        + "[log]\nto = \"log/server.log\"\naccess = \"log/access.log\"\n\
           [control]\nsocket = \"run/named.sock\"\nstate = \"journal\"\n[watch]\nsettle = \"100ms\"\n"
}

/// Hazard 30: by root, who may make everything: directory trees, ports and logs are as before, to the time of writing.
#[test]
fn validate_as_root_touches_nothing_at_all() {
    let (workspace, port, secure) = (Workspace::new(), Port::claim(), Port::claim());
    fs::create_dir(workspace.path("log")).unwrap();
    workspace.write("log/access.log", "a line of before\n");
    let good = config_that_names_everything(&workspace, &port, &secure);
    // What is refused is checked just as far.
    for (text, code) in [(good.clone(), 0), (good + "[routes]\n", 10)] {
        let file = workspace.write("handover.toml", text);
        let before = workspace.snapshot();
        for set in [true, false] {
            let mut command = handover_testkit::command(handover!().as_ref(), &workspace);
            if !set {
                // Then the places are the configuration's own.
                command.env_remove("HANDOVER_CONTROL").env_remove("HANDOVER_STATE");
            }
            command.arg("validate").arg(&file);
            run(command).expect_code(code);
            assert_eq!(workspace.snapshot(), before);
            for port in [&port, &secure] {
                assert!(proc::listeners(port.number()).is_empty());
            }
        }
    }
    assert!(!workspace.listing().iter().any(|name| name.contains(".sock") || name == "journal"));
}

/// Hazard 30: asked of a server, which binds nothing and makes no file for it (the journal's line apart).
#[test]
fn a_dry_run_binds_nothing_makes_no_file_and_changes_nothing() {
    let server = Serving::start(handover!(), &fixed("/", "old"));
    let other = Port::claim();
    server.write(
        &(listener("other", &other)
            + "[listeners.socket]\naddress = \"unix:app.sock\"\n[log]\nto = \"logs.txt\"\n"
            + &fixed("/", "new")),
    );
    let before = server.workspace.listing();
    let output = server.handover.cli(["reload", "--dry-run"]);
    output.expect_code(0);
    assert!(output.all().contains("other"), "what would change: {}", output.all());
    assert_eq!(server.workspace.listing(), before);
    assert!(proc::listeners(other.number()).is_empty());
    assert_eq!((server.text("/").as_str(), server.handover.control.generation()), ("old", 1));
}

/// Ends supervisor and worker at once, as a power cut would.
fn crash(mut handover: Handover) {
    let worker = handover.worker();
    handover.process.remember();
    kill(handover.pid());
    kill(worker);
    handover.process.wait();
    assert!(wait_for_exit(worker, handover_testkit::DEADLINE));
}

/// Hazard 31: killed in the middle of reloads, again and again; the next start finds everything in order.
#[test]
fn a_crash_at_any_moment_of_a_reload_leaves_a_state_that_starts() {
    let (workspace, port) = (Workspace::new(), Port::claim());
    let config = |message: &str| listener("web", &port) + &fixed("/", message);
    workspace.write("handover.toml", config("0"));
    let mut known = 0;
    for round in 1..=8 {
        let server = Handover::of(handover!(), &workspace).config_file("handover.toml").start();
        let history = server.control.get("/v1/history?limit=1000");
        let count = history.as_array().unwrap().len();
        assert!(count >= known, "round {round}: of {known} operations {count} are left");
        for reload in 0..round {
            workspace.write("handover.toml", config(&format!("{round}.{reload}")));
            let _ = server.control.reload();
        }
        known = count + round;
        workspace.write("handover.toml", config(&round.to_string()));
        // The crash comes while this one is somewhere between being asked for and being answered.
        let _asked = server.control.begin("/v1/reload", &[]);
        crash(server);
    }
    let _server = Handover::of(handover!(), &workspace).config_file("handover.toml").start();
    assert_eq!(handover_testkit::http::get(port.address(), "/").text(), "8");
}

/// Hazard 31: a journal that was cut anywhere is read up to its last whole record, and says so.
#[test]
fn a_journal_cut_anywhere_keeps_its_whole_records_and_tells_what_was_dropped() {
    let mut server = Serving::start(handover!(), &fixed("/", "0"));
    for number in 1..=5 {
        server.reload(&fixed("/", number)).expect_code(0);
    }
    let path = PathBuf::from(text_at(&server.handover.control.status(), "/journal/path"));
    server.handover.terminate().expect_code(0);
    let Serving { handover, port: _port, workspace } = server;
    drop(handover);
    let whole = fs::read(&path).unwrap();
    for cut in [whole.len() - 1, whole.len() - 20, whole.len() / 2, whole.len() / 3, 1, 0] {
        fs::write(&path, &whole[..cut]).unwrap();
        let mut server = Handover::of(handover!(), &workspace).config_file("handover.toml").start();
        let journal = server.control.status()["journal"].clone();
        let lines = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
        let tail = whole[..cut].iter().rev().take_while(|byte| **byte != b'\n').count();
        assert_eq!(journal["recovered_bytes"], tail, "cut at {cut}: {journal}");
        // The start's own records came since.
        assert!(journal["records"].as_u64().unwrap() >= lines as u64, "cut at {cut}: {journal}");
        server.terminate().expect_code(0);
    }
}

/// Hazard 32: the file is what is desired, the journal says what was served, `status` tells them apart.
#[test]
fn after_a_crash_the_file_is_served_and_before_it_status_shows_the_drift() {
    let server = Serving::start(handover!(), &fixed("/", "served"));
    server.write(&fixed("/", "desired"));
    let drift = until("status shows the drift", || {
        let status = server.handover.control.status();
        status["drift"].as_array().filter(|files| !files.is_empty()).cloned()
    });
    assert!(drift[0].as_str().unwrap().ends_with("handover.toml"), "{drift:?}");
    assert_eq!(server.handover.cli(["diff"]).code, 1);

    // The worker alone dies: what was serving goes on serving, not what happens to be on the disk.
    let worker = server.handover.worker();
    kill(worker);
    until("another worker serves", || {
        let status = server.handover.control.status();
        (status.pointer("/worker/pid").and_then(Value::as_u64)? != u64::from(worker)).then_some(())
    });
    assert_eq!(server.text("/"), "served");

    let Serving { handover, port, workspace } = server;
    crash(handover);
    let handover = Handover::of(handover!(), &workspace).config_file("handover.toml").start();
    let server = Serving { handover, port, workspace };
    assert_eq!(server.text("/"), "desired");
    let status = server.handover.control.status();
    assert!(status["drift"].as_array().is_none_or(Vec::is_empty), "{status}");
    assert_eq!(server.handover.cli(["diff"]).code, 0);
    // What was served before is in the history still.
    let history = server.handover.control.get("/v1/history");
    let kinds: Vec<&str> = history.as_array().unwrap().iter().map(|one| text_at(one, "/kind")).collect();
    assert!(kinds.iter().filter(|kind| **kind == "start").count() >= 2, "{kinds:?}");
}
