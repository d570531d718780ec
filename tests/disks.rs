//! Full disks, and directories that take nothing, during every kind of change: refused in plain words, or carried out, and what serves is
//! left alone. Each server here has a state directory on a small file system of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use handover_testkit::config::{fixed, listener};
use handover_testkit::faults::can_mount;
use handover_testkit::http::{self, Connection};
use handover_testkit::{Handover, Output, Port, Workspace, handover, text_at};
use serde_json::Value;

/// A server on a small disk of its own.
struct Small {
    server: Handover,
    workspace: Workspace,
    port: Port,
}

impl Small {
    /// "one" and "two" have served, and a backup of "one" lies outside.
    fn start() -> Self {
        let (workspace, port) = (Workspace::new(), Port::claim());
        let config = |text: &str| listener("web", &port) + &fixed("/", text);
        let server = Handover::of(handover!(), &workspace).config(config("one")).disk("size=1m").start();
        let file = workspace.path("one.backup").display().to_string();
        server.cli(["backup", &file]).expect_code(0);
        server.reload_with(config("two")).expect_code(0);
        Self { server, workspace, port }
    }

    fn text(&self) -> String {
        http::get(self.port.address(), "/").text()
    }

    fn write(&self, text: &str) {
        self.server.write_config(listener("web", &self.port) + &fixed("/", text));
    }

    fn state(&self) -> String {
        self.workspace.state().display().to_string()
    }

    /// Leaves no byte free.
    fn fill(&self) {
        let script = format!("cat /dev/zero > '{0}/filler'; ls -s '{0}/filler'", self.state());
        let output = self.server.beside(&["sh", "-c", &script]);
        assert!(output.stderr.contains("No space left"), "{}", output.all());
    }

    fn make_room(&self) {
        self.server.beside(&["rm", &format!("{}/filler", self.state())]).expect_code(0);
    }

    /// Lets nothing be made or removed among the generations' bytes; the journal itself is open, and stays so.
    fn freeze(&self) {
        self.server.beside(&["chattr", "+i", &format!("{}/handover/objects", self.state())]).expect_code(0);
    }

    fn thaw(&self) {
        self.server.beside(&["chattr", "-i", &format!("{}/handover/objects", self.state())]).expect_code(0);
    }

    /// A change with a comment that no page with room to spare takes.
    fn change(&self, words: &[&str]) -> Output {
        let comment = "for a disk that is full ".repeat(40);
        let mut all = words.to_vec();
        all.extend(["--comment", comment.trim_end()]);
        self.server.cli(all)
    }

    fn pending(&self) -> Value {
        self.server.control.status()["pending"].clone()
    }

    fn file(&self) -> String {
        self.workspace.path("one.backup").display().to_string()
    }
}

/// It was either done or refused with the reason; in both cases what serves is what is said to serve.
#[track_caller]
fn expect_truth(small: &Small, what: &str, output: &Output, reason: &str, before: &str, after: &str) {
    let text = small.text();
    let served = small.server.cli(["config"]).expect_code(0).stdout.clone();
    assert!(served.contains(&format!("\"{text}\"")), "{what}: {text:?} serves, it says\n{served}");
    if output.code == 0 {
        assert_eq!(text, after, "{what} was done");
    } else {
        assert_eq!(output.code, 11, "{what}: {}", output.all());
        assert!(output.all().contains(reason), "{what}: {}", output.all());
        assert_eq!(text, before, "{what} was refused");
    }
}

fn every_kind_of_change(break_it: fn(&Small), mend_it: fn(&Small), reason: &str) {
    let small = Small::start();
    let file = small.file();
    small.write("three");
    break_it(&small);
    for words in
        [&["reload"][..], &["reload", "--certs"], &["reload", "--confirm-within", "10m"], &["rollback", "1"]]
    {
        let output = small.change(words);
        let after = if words[0] == "rollback" { "one" } else { "three" };
        let after = if words.contains(&"--certs") { "two" } else { after };
        expect_truth(&small, &words.join(" "), &output, reason, "two", after);
        if output.code == 0 {
            // Then back to where it was, for the next one: it had room.
            mend_it(&small);
            if small.pending().is_object() {
                small.server.cli(["cancel"]).expect_code(0);
            }
            small.server.cli(["rollback", "2"]).expect_code(0);
            break_it(&small);
        }
    }
    let output = small.change(&["restore", &file]);
    expect_truth(&small, "restore", &output, reason, "two", "one");
    // Looking needs no room, and neither does a backup elsewhere.
    small.server.cli(["diff"]).expect_code(1);
    small.server.cli(["status"]).expect_code(0);
    small.server.cli(["backup", &small.workspace.path("more.backup").display().to_string()]).expect_code(0);
    mend_it(&small);
    small.server.cli(["reload"]).expect_code(0);
    assert_eq!(small.text(), "three");
    assert!(small.server.control.status()["journal"]["failure"].is_null());
}

#[test]
fn on_a_full_disk_every_kind_of_change_is_refused_or_done_and_what_is_said_is_true() {
    if !can_mount("on_a_full_disk_every_kind_of_change_is_refused_or_done_and_what_is_said_is_true") {
        return;
    }
    every_kind_of_change(Small::fill, Small::make_room, "No space left");
}

#[test]
fn where_nothing_can_be_made_every_kind_of_change_is_refused_or_done_and_what_is_said_is_true() {
    if !can_mount(
        "where_nothing_can_be_made_every_kind_of_change_is_refused_or_done_and_what_is_said_is_true",
    ) {
        return;
    }
    every_kind_of_change(Small::freeze, Small::thaw, "Operation not permitted");
}

/// What nobody has confirmed goes back, whether or not it can be written down.
#[test]
fn a_change_that_awaits_confirmation_can_be_confirmed_called_off_and_goes_back_on_a_full_disk() {
    if !can_mount(
        "a_change_that_awaits_confirmation_can_be_confirmed_called_off_and_goes_back_on_a_full_disk",
    ) {
        return;
    }
    let small = Small::start();
    small.write("three");
    small.server.cli(["reload", "--confirm-within", "10m"]).expect_code(0);
    small.fill();
    let output = small.change(&["confirm"]);
    assert_eq!(small.text(), "three");
    if output.code == 0 {
        assert!(small.pending().is_null());
    } else {
        assert!(output.all().contains("No space left"), "{}", output.all());
        assert!(small.pending().is_object(), "not confirmed, and it says so: {}", output.all());
        small.change(&["cancel"]).expect_code(0);
        assert_eq!(small.text(), "two", "going back needs no room");
    }

    small.make_room();
    small.write("four");
    small.server.cli(["reload", "--confirm-within", "2s"]).expect_code(0);
    small.fill();
    handover_testkit::until("it goes back by itself", || (small.text() != "four").then_some(()));
    handover_testkit::until("it awaits nothing any more", || small.pending().is_null().then_some(()));
    small.make_room();
    small.write("five");
    small.server.cli(["reload"]).expect_code(0);
    assert_eq!(small.text(), "five");
    let newest = &small.server.control.history()[0];
    assert_eq!(text_at(newest, "/outcome"), "applied", "{newest}");
}

/// The binary that is left cannot be kept, and perhaps nothing can be written down: connections notice neither.
#[test]
fn an_upgrade_on_a_full_disk_is_refused_or_done_and_taken_back_all_the_same() {
    if !can_mount("an_upgrade_on_a_full_disk_is_refused_or_done_and_taken_back_all_the_same") {
        return;
    }
    let small = Small::start();
    let mut kept = Connection::open(small.port.address());
    let mut goes_on = |what: &str| assert_eq!(kept.get("/").text(), "two", "{what}");
    small.fill();
    for words in [&["upgrade"][..], &["upgrade", "--confirm-within", "10m"], &["upgrade", "--dry-run"]] {
        let worker = small.server.worker();
        let output = small.change(words);
        goes_on(&format!("{words:?}: {}", output.all()));
        if output.code == 0 {
            assert!(words.contains(&"--dry-run") || small.server.worker() != worker, "{words:?}");
        } else {
            assert_eq!(output.code, 11, "{words:?}: {}", output.all());
            assert!(output.all().contains("No space left"), "{words:?}: {}", output.all());
            assert_eq!(small.server.worker(), worker, "{words:?}: the old worker serves on");
        }
        if small.pending().is_object() {
            small.change(&["cancel"]).expect_code(0);
            assert_eq!(small.server.worker(), worker, "going back needs no room");
            goes_on("taken back");
        }
    }
    small.make_room();
    small.server.cli(["upgrade", "--confirm-within", "10m"]).expect_code(0);
    small.fill();
    goes_on("upgraded");
    let output = small.change(&["confirm"]);
    goes_on(&output.all());
    if output.code != 0 {
        assert!(output.all().contains("No space left"), "{}", output.all());
        small.change(&["cancel"]).expect_code(0);
        goes_on("called off");
    }
    small.make_room();
    small.server.cli(["upgrade"]).expect_code(0);
    goes_on("upgraded again");
    assert!(small.server.control.status()["journal"]["failure"].is_null());
}
