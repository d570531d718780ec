//! The shipped command line against a control socket that answers what the test says: exit codes, what is on
//! stdout and stderr, what is sent. Nothing here needs a server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::Permissions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use handover_api::{
    Actor, Cause, Change, ChangeKind, Diff, FileDiff, FileState, Kind, Operation, Outcome, Problem, Refused,
    What,
};

mod archives;
mod changes;
mod programs;
mod upgrades;

/// No test waits longer for anything.
const DEADLINE: Duration = Duration::from_secs(30);

fn handover(control: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_handover"))
        .args(arguments)
        .env("HANDOVER_CONTROL", control)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// A control socket that gives one answer and says what it was asked.
struct Canned {
    path: PathBuf,
    asked: mpsc::Receiver<String>,
    _directory: tempfile::TempDir,
}

fn canned(status: u16, content_type: &str, body: String) -> Canned {
    let response = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    canned_bytes(response.into_bytes())
}

fn canned_bytes(response: Vec<u8>) -> Canned {
    canned_in_turn(vec![response])
}

/// One answer for each connection. What is asked is its head.
fn canned_in_turn(responses: Vec<Vec<u8>>) -> Canned {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (tell, asked) = mpsc::channel();
    thread::spawn(move || {
        for response in responses {
            let (mut stream, _) = listener.accept().unwrap();
            let request = read_request(&mut stream);
            tell.send(String::from_utf8_lossy(&request).into_owned()).unwrap();
            stream.write_all(&response).unwrap();
        }
    });
    Canned { path, asked, _directory: directory }
}

/// A request with its body.
fn read_request(stream: &mut UnixStream) -> Vec<u8> {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let head = request.windows(4).position(|four| four == b"\r\n\r\n").map(|end| end + 4);
        let text = String::from_utf8_lossy(&request[..head.unwrap_or(0)]).to_ascii_lowercase();
        let length =
            text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if head.is_some_and(|head| request.len() >= head + length.unwrap_or(0)) {
            return request;
        }
        let read = stream.read(&mut chunk).unwrap();
        if read == 0 {
            return request;
        }
        request.extend_from_slice(&chunk[..read]);
    }
}

impl Canned {
    fn asked(&self) -> String {
        self.asked.recv_timeout(DEADLINE).unwrap()
    }
}

fn operation(kind: Kind) -> Operation {
    let mut operation = Operation::running("op-1", kind, Actor::signal("HUP"), "2026-11-22T03:01:35.000Z");
    operation.serving_generation = Some(1);
    operation
}

/// What the server answers about this operation.
fn answered(operation: &Operation) -> Canned {
    match operation.http_status() {
        status @ (200 | 202) => canned(status, "application/json", serde_json::to_string(operation).unwrap()),
        status => {
            let problem = serde_json::to_string(&operation.problem_details()).unwrap();
            canned(status, "application/problem+json", problem)
        }
    }
}

#[test]
fn every_outcome_has_its_exit_code_and_its_sentence_on_stdout() {
    for (outcome, expected) in [
        (Outcome::Applied, 0),
        (Outcome::Unchanged, 0),
        (Outcome::Rejected, 10),
        (Outcome::NotReady, 11),
        (Outcome::RolledBack, 12),
        (Outcome::AppliedWithLosses, 14),
        (Outcome::Sent, 15),
        (Outcome::Unknown, 124),
    ] {
        let mut ended = operation(Kind::Reload);
        ended.finish(outcome, Cause::WorkerDied, 3.0);
        let server = answered(&ended);
        let output = handover(&server.path, &["reload"]);
        assert_eq!(code(&output), expected, "{outcome}: {}", stderr(&output));
        assert_eq!(stdout(&output), format!("{}\n", ended.sentence()), "{outcome}");
        assert_eq!(stderr(&output), "", "{outcome}");
    }
}

#[test]
fn every_refusal_has_its_exit_code_and_its_reason_on_stderr() {
    for (refused, expected) in [
        (Refused::Busy { running: "r-9".to_owned(), kind: Kind::Drain }, 13),
        (Refused::Drained, 13),
        (Refused::Stopping, 13),
        (Refused::Stale { expected: 4, serving: Some(5) }, 13),
        (
            Refused::Forbidden {
                who: "uid 7".to_owned(),
                has: "read".to_owned(),
                what: "reload".to_owned(),
                needs: "operate".to_owned(),
            },
            4,
        ),
        (Refused::NoSuchAction { name: "x".to_owned(), known: Vec::new() }, 2),
        (Refused::Journal("the disk is full".to_owned()), 11),
    ] {
        let problem = serde_json::to_string(&refused.problem_details()).unwrap();
        let server = canned(refused.http_status(), "application/problem+json", problem);
        let output = handover(&server.path, &["reload"]);
        assert_eq!(code(&output), expected, "{refused}");
        assert_eq!(stdout(&output), "", "{refused}");
        assert_eq!(stderr(&output), format!("handover: {refused}\n"));
    }
}

#[test]
fn what_is_asked_for_is_what_is_sent() {
    let mut ended = operation(Kind::Reload);
    ended.finish(Outcome::Applied, Cause::Done, 3.0);
    let head = |arguments: &[&str]| {
        let server = answered(&ended);
        let output = handover(&server.path, arguments);
        assert_eq!(code(&output), 0, "{arguments:?}: {}", stderr(&output));
        server.asked().to_lowercase()
    };
    let sent =
        head(&["reload", "--if-match", "7", "--comment", "ticket 42 & co", "--idempotency-key", "K-1"]);
    assert!(sent.starts_with("post /v1/reload?comment=ticket%2042%20%26%20co http/1.1\r\n"), "{sent}");
    assert!(
        sent.contains("\r\nidempotency-key: k-1\r\n") && sent.contains("\r\nif-match: \"7\"\r\n"),
        "{sent}"
    );
    for (arguments, line) in [
        (
            vec!["reload", "--dry-run", "--timeout", "1.5s"],
            "post /v1/reload?dry_run=true&timeout=1500ms http/1.1",
        ),
        (vec!["reload", "--detach"], "post /v1/reload?detach=true http/1.1"),
        (vec!["validate"], "post /v1/validate http/1.1"),
        (vec!["drain", "--limit", "2m"], "post /v1/drain?limit=120000ms http/1.1"),
        (vec!["resume"], "post /v1/resume http/1.1"),
        (vec!["stop", "--now"], "post /v1/stop?now=true http/1.1"),
        (vec!["action", "a/b c", "--body", "x"], "post /v1/actions/a%2fb%20c http/1.1"),
    ] {
        let sent = head(&arguments);
        assert!(sent.starts_with(&format!("{line}\r\n")), "{arguments:?}: {sent}");
        assert!(sent.contains("\r\nidempotency-key: "), "an ID is always chosen before asking: {sent}");
    }
}

#[test]
fn an_operation_that_still_runs_is_124_and_0_when_nobody_wanted_to_wait() {
    let running = operation(Kind::Reload);
    let server = answered(&running);
    let output = handover(&server.path, &["reload", "--timeout", "1s"]);
    assert_eq!(code(&output), 124);
    assert!(stderr(&output).contains("handover show op-1"), "{}", stderr(&output));
    let server = answered(&running);
    let output = handover(&server.path, &["reload", "--detach"]);
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).starts_with("running: reload op-1"), "{}", stdout(&output));
}

#[test]
fn an_answer_that_breaks_off_is_an_unknown_outcome_and_names_the_id() {
    for broken in
        ["", "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{\"id\":"]
    {
        let server = canned_bytes(broken.as_bytes().to_vec());
        let output = handover(&server.path, &["reload", "--idempotency-key", "k-7"]);
        assert_eq!(code(&output), 124, "{broken}: {}", stderr(&output));
        assert!(stderr(&output).contains("'handover show k-7'"), "{}", stderr(&output));
    }
}

#[test]
fn json_is_passed_on_as_it_came_with_the_same_exit_codes() {
    let mut ended = operation(Kind::Reload);
    ended.errors = vec![Problem::new("unknown key").in_file("hello.toml").at(7, 3)];
    ended.finish(Outcome::Rejected, Cause::Refused, 1.0);
    let server = answered(&ended);
    let output = handover(&server.path, &["reload", "-o", "json"]);
    assert_eq!(code(&output), 10);
    let problem: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(problem["errors"][0]["line"], 7);
    assert_eq!(problem["operation"]["outcome"], "rejected");
}

#[test]
fn a_validation_lists_every_change() {
    let mut ended = operation(Kind::DryRun);
    ended.changes = vec![
        Change::new(What::Changed, ChangeKind::Route, "hello").with_detail("fixed response"),
        Change::new(What::Added, ChangeKind::Listener, "admin"),
    ];
    ended.finish(Outcome::Unchanged, Cause::DryRun, 1.0);
    let output = handover(&answered(&ended).path, &["reload", "--dry-run"]);
    assert_eq!(
        stdout(&output),
        "valid: a reload would make this of it: 1 route changed (hello), 1 listener added (admin); generation 1 serves\n  \
         changed route hello: fixed response\n  added listener admin\n"
    );
}

#[test]
fn diff_exits_like_diff() {
    let diff = |same: bool| {
        let file = FileDiff {
            path: "hello.toml".to_owned(),
            state: FileState::Differs,
            diff: "--- hello.toml\n-a\n+b\n".to_owned(),
        };
        let files = if same { Vec::new() } else { vec![file] };
        let diff = Diff { serving_generation: Some(3), same, files, ..Diff::default() };
        let server = canned(200, "application/json", serde_json::to_string(&diff).unwrap());
        handover(&server.path, &["diff"])
    };
    let output = diff(true);
    assert_eq!(
        (code(&output), stdout(&output).as_str()),
        (0, "same: the files on disk equal generation 3, which serves\n")
    );
    let output = diff(false);
    assert_eq!(
        (code(&output), stdout(&output).as_str()),
        (
            1,
            "differs: the files on disk differ from generation 3, which serves\na reload would change nothing but the text\n\n--- hello.toml\n-a\n+b\n"
        )
    );
}

#[test]
fn a_server_that_does_not_run_is_7_and_says_which_socket_and_how_to_start_it() {
    let directory = tempfile::tempdir().unwrap();
    let nothing = directory.path().join("control.sock");
    let stale = directory.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    for path in [&nothing, &stale] {
        for verb in [&["status"][..], &["reload"], &["history"], &["events"], &["metrics"], &["config"]] {
            let output = handover(path, verb);
            assert_eq!(code(&output), 7, "{verb:?}");
            let said = stderr(&output);
            assert!(said.contains(path.to_str().unwrap()) && said.contains("handover serve"), "{said}");
        }
    }
}

/// Root may use every socket: it asks as nobody, with a copy of the program that nobody can reach.
#[test]
fn a_socket_that_may_not_be_used_is_4() {
    const NOBODY: u32 = 65_534;
    let directory = tempfile::tempdir().unwrap();
    let open = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    open(directory.path(), 0o755);
    let closed = directory.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    let is_root = std::fs::metadata(&closed).unwrap().uid() == 0;
    open(&closed, if is_root { 0o700 } else { 0o000 });
    let program = directory.path().join("handover");
    // By another process: a program that is open for writing here could not be started (ETXTBSY), and children
    // that other tests start at this moment would keep it open.
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_handover")).arg(&program).status().unwrap().success());
    let mut command = Command::new(&program);
    command.args(["status", "--control"]).arg(closed.join("control.sock")).current_dir("/");
    if is_root {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    open(&closed, 0o700);
    assert_eq!(code(&output), 4, "{}", stderr(&output));
    assert!(stderr(&output).contains("not permitted"), "{}", stderr(&output));
}

#[test]
fn the_example_is_valid_and_the_tour_can_start_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = directory.path().join("control.sock");
    let example = handover(&nowhere, &["example"]);
    assert_eq!(code(&example), 0);
    let file = directory.path().join("hello.toml");
    std::fs::write(&file, &example.stdout).unwrap();
    let output = handover(&nowhere, &["validate", file.to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", stdout(&output));
    assert!(stdout(&output).starts_with("valid: "), "{}", stdout(&output));
}

#[test]
fn validate_needs_no_server_tells_all_mistakes_and_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = directory.path().join("control.sock");
    let file = directory.path().join("broken.toml");
    let text = "[listeners.web]\nadress = \"127.0.0.1:8080\"\n\n[[routes]]\nname = \"hello\"\nfixed = { boddy = \"x\" }\n";
    std::fs::write(&file, text).unwrap();
    let output = handover(&nowhere, &["validate", file.to_str().unwrap()]);
    let said = stdout(&output);
    assert_eq!(code(&output), 10, "{said}");
    assert!(said.contains("broken.toml:2:1: ") && said.contains("broken.toml:6:"), "{said}");
    assert!(said.contains("\"address\"") && said.contains("\"body\""), "near keys are suggested: {said}");
    assert!(said.contains("^^^^^^"), "the place is shown: {said}");
    assert!(said.trim_end().lines().last().unwrap().starts_with("rejected: "), "{said}");

    let output = handover(&nowhere, &["validate", "-o", "json", file.to_str().unwrap()]);
    assert_eq!(code(&output), 10);
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(json["valid"], false);
    assert!(json["errors"].as_array().unwrap().len() >= 2);

    let output = handover(&nowhere, &["validate", "/nowhere/x.toml"]);
    assert_eq!(code(&output), 10);
    assert!(stdout(&output).contains("No such file"), "{}", stdout(&output));
    let left: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["broken.toml"]);
}

#[test]
fn schema_completions_and_man_pages_come_out_whole() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = directory.path().join("control.sock");
    let schema: serde_json::Value = serde_json::from_slice(&handover(&nowhere, &["schema"]).stdout).unwrap();
    assert_eq!(schema["title"], "handover configuration");
    for shell in ["bash", "zsh", "fish"] {
        let output = handover(&nowhere, &["completions", shell]);
        assert!(code(&output) == 0 && stdout(&output).contains("reload"), "{shell}");
    }
    let pages = directory.path().join("man1");
    assert_eq!(code(&handover(&nowhere, &["man", pages.to_str().unwrap()])), 0);
    for page in ["handover.1", "handover-serve.1", "handover-reload.1"] {
        assert!(pages.join(page).is_file(), "{page}");
    }
}

#[test]
fn a_usage_error_is_2_and_suggests_what_was_meant() {
    let directory = tempfile::tempdir().unwrap();
    let output = handover(&directory.path().join("control.sock"), &["relaod"]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("reload"), "{}", stderr(&output));
}

#[test]
fn nothing_is_coloured_when_nobody_looks_at_a_terminal() {
    let mut ended = operation(Kind::Reload);
    ended.finish(Outcome::Applied, Cause::Done, 1.0);
    let output = handover(&answered(&ended).path, &["reload"]);
    assert!(!output.stdout.contains(&0x1b));
}
