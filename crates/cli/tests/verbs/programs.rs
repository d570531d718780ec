//! Verbs about programs: what is sent, what is said, tables, and logs that are followed.

use std::io::{BufRead as _, BufReader};

use handover_api::{CopyRole, CopyState, CopyStatus, LogLine, ProgramResult, ProgramState, ProgramStatus};

use super::*;

fn ended(kind: Kind, outcome: Outcome, cause: Cause) -> Operation {
    let mut ended = operation(kind);
    ended.target = Some("web".to_owned());
    ended.finish(outcome, cause, 3.0);
    ended
}

#[test]
fn what_is_asked_of_a_program_is_what_is_sent() {
    let done = ended(Kind::ProgramRestart, Outcome::Applied, Cause::Done);
    let here = std::env::current_dir().unwrap();
    let directory =
        format!("directory={}", handover_api::percent_encoded(here.join("r/42").to_str().unwrap()));
    let deploy_directory = format!("/v1/programs/web/deploy?{directory}");
    for (line, target) in [
        ("restart web", "/v1/programs/web/restart"),
        ("restart web --batch 2 --max-unhealthy 1", "/v1/programs/web/restart?batch=2&max_unhealthy=1"),
        ("restart a/b", "/v1/programs/a%2Fb/restart"),
        ("reload web --comment why", "/v1/programs/web/reload?comment=why"),
        ("deploy web", "/v1/programs/web/deploy"),
        (
            "deploy web --slot b --confirm-within 10m --guard",
            "/v1/programs/web/deploy?slot=b&confirm_within=600000ms&guard=true",
        ),
        ("deploy web --guard=30s", "/v1/programs/web/deploy?guard=30000ms"),
        ("deploy web --directory r/42", &deploy_directory),
        ("rollback web", "/v1/programs/web/rollback"),
        ("rollback 7", "/v1/rollback?to=7"),
        ("confirm web", "/v1/programs/web/confirm"),
        ("cancel web", "/v1/programs/web/cancel"),
        ("start web", "/v1/programs/web/start"),
        ("stop web", "/v1/programs/web/stop"),
        ("pause web", "/v1/pause?name=web"),
        ("pause route:api --for 2m --max-held 5", "/v1/pause?name=route%3Aapi&for=120000ms&max_held=5"),
        ("resume web", "/v1/resume?name=web"),
        ("drain web/1 --limit 1s", "/v1/endpoints/web%2F1/drain?limit=1000ms"),
        ("enable 127.0.0.1:9001", "/v1/endpoints/127.0.0.1%3A9001/enable"),
    ] {
        let server = answered(&done);
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let output = handover(&server.path, &arguments);
        assert_eq!(code(&output), 0, "{line}: {}", stderr(&output));
        assert_eq!(stdout(&output), format!("{}\n", done.message));
        let sent = server.asked();
        assert!(sent.starts_with(&format!("POST {target} HTTP/1.1\r\n")), "{line}: {sent}");
    }
}

#[test]
fn a_program_goes_back_without_terms() {
    let directory = tempfile::tempdir().unwrap();
    let output = handover(&directory.path().join("control.sock"), &["rollback", "web", "--guard"]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("for generations and deploys"), "{}", stderr(&output));
}

#[test]
fn a_signal_that_nothing_confirms_is_15_and_a_name_that_is_not_there_2() {
    let sent = ended(Kind::ProgramReload, Outcome::Sent, Cause::Unproved);
    let output = handover(&answered(&sent).path, &["reload", "web"]);
    assert_eq!(code(&output), 15);
    assert!(stdout(&output).starts_with("sent, not confirmed: "), "{}", stdout(&output));
    let refused = Refused::NoSuchProgram { name: "wbe".to_owned(), known: vec!["web".to_owned()] };
    for verb in ["reload", "restart", "logs"] {
        let problem = serde_json::to_string(&refused.problem_details()).unwrap();
        let server = canned(refused.http_status(), "application/problem+json", problem);
        let output = handover(&server.path, &[verb, "wbe"]);
        assert_eq!(code(&output), 2, "{verb}");
        assert_eq!(stderr(&output), "handover: there is no program \"wbe\"; there are: web\n");
    }
}

#[test]
fn what_was_not_ready_is_11_and_its_last_lines_are_shown() {
    let mut failed = operation(Kind::ProgramDeploy);
    failed.target = Some("web".to_owned());
    failed.program = Some(Box::new(ProgramResult {
        from: Some("a".to_owned()),
        last_lines: vec!["KeyError: 'DB'".to_owned()],
        ..ProgramResult::default()
    }));
    failed.finish(Outcome::NotReady, Cause::ProgramNotReady, 30_000.0);
    let output = handover(&answered(&failed).path, &["deploy", "web"]);
    assert_eq!(code(&output), 11);
    assert_eq!(
        stdout(&output),
        "not ready: web: the new copy was not ready in time; slot a still serves, untouched\n\nthe last lines that it wrote:\n  | KeyError: 'DB'\n"
    );
}

#[test]
fn ps_is_a_table_with_a_row_for_each_copy() {
    let ago = |seconds: i64| (jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds)).to_string();
    let copy = |number, pid, seconds| CopyStatus {
        number,
        pid: Some(pid),
        slot: Some("b".to_owned()),
        state: CopyState::Ready,
        // Half a minute away from the next: the test may take its time.
        started_at: ago(seconds),
        memory_bytes: Some(43_000_000),
        connections: Some(12),
        ..CopyStatus::default()
    };
    let programs = [
        ProgramStatus {
            name: "db".to_owned(),
            state: ProgramState::BackOff,
            detail: Some("exited with code 1".to_owned()),
            restarts: 7,
            copies: vec![CopyStatus { role: CopyRole::Warm, ..copy(1, 4713, 7_830) }],
            ..ProgramStatus::default()
        },
        ProgramStatus {
            name: "web".to_owned(),
            state: ProgramState::Running,
            slot: Some("b".to_owned()),
            copies: vec![copy(1, 4711, 7_830), CopyStatus { off: true, ..copy(2, 4712, 357_000) }],
            wanted: 2,
            ..ProgramStatus::default()
        },
    ];
    let json = serde_json::to_string(&programs).unwrap();
    let output = handover(&canned(200, "application/json", json.clone()).path, &["ps"]);
    assert_eq!(code(&output), 0);
    assert_eq!(
        stdout(&output).lines().collect::<Vec<_>>(),
        [
            "PROGRAM  COPY  SLOT  PID   STATE       AGE    RESTARTS  MEMORY  CONNECTIONS  NOTE",
            "db                         back-off           7                              exited with code 1",
            "db       1     b     4713  kept warm   2h10m  0         41 MiB  12",
            "web      1     b     4711  ready       2h10m  0         41 MiB  12",
            "web      2     b     4712  ready, off  4d3h   0         41 MiB  12",
        ]
    );
    let output = handover(&canned(200, "application/json", json.clone()).path, &["ps", "-o", "json"]);
    assert_eq!(stdout(&output), format!("{json}\n"));
    let output = handover(&canned(200, "application/json", "[]".to_owned()).path, &["ps"]);
    assert_eq!(stdout(&output), "this server runs no program\n");
}

fn line(at: &str, text: &str) -> String {
    let line = LogLine {
        at: format!("2026-11-22T03:01:{at}Z"),
        program: "web".to_owned(),
        copy: 1,
        line: text.to_owned(),
        left_out: 0,
    };
    format!("{}\n", serde_json::to_string(&line).unwrap())
}

fn lines(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n{body}")
        .into_bytes()
}

#[test]
fn logs_are_printed_with_the_copy_that_wrote_them_and_harmless_for_a_terminal() {
    let body = line("35.1", "a\u{1b}[2J") + &line("35.2", "b");
    let server = canned_bytes(lines(&body));
    let output = handover(&server.path, &["logs", "web", "-n", "7"]);
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "web/1  a [2J\nweb/1  b\n"));
    assert!(server.asked().starts_with("GET /v1/programs/web/logs?lines=7 HTTP/1.1\r\n"));
    let server = canned_bytes(lines(&body));
    assert_eq!(stdout(&handover(&server.path, &["logs", "web", "-o", "json"])), body);
}

#[test]
fn followed_logs_go_on_after_a_break_without_a_line_twice_and_end_with_the_server() {
    let before = line("35.1", "one") + &line("35.2", "two") + &line("35.2", "three");
    let after = before.clone() + &line("35.2", "four") + &line("36.0", "five");
    let server = canned_in_turn(vec![lines(&before), lines(&after)]);
    let output = handover(&server.path, &["logs", "web", "-f"]);
    let written: Vec<String> =
        ["one", "two", "three", "four", "five"].map(|word| format!("web/1  {word}")).to_vec();
    assert_eq!(stdout(&output).lines().collect::<Vec<_>>(), written);
    assert_eq!((code(&output), stderr(&output).as_str()), (7, "the server has ended\n"));
    assert!(server.asked().contains("/logs?lines=50&follow=true "));
    assert!(server.asked().contains("/logs?lines=1000&follow=true "));
}

#[test]
fn a_reader_that_is_gone_ends_logs_that_are_followed_even_if_nothing_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_handover"))
        .args(["logs", "web", "-f"])
        .env("HANDOVER_CONTROL", &path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    read_request(&mut stream);
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n";
    stream.write_all(head).unwrap();
    stream.write_all(line("35.1", "one").as_bytes()).unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "web/1  one\n");
    // The stream stays open, and nobody writes to it.
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it goes away");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_reader_that_closes_the_pipe_has_read_enough() {
    // More than a pipe holds, less than a socket does.
    let body: String =
        (0..18).map(|number| line("35.1", &format!("{number} {}", "x".repeat(8_000)))).collect();
    let server = canned_bytes(lines(&body));
    let mut child = Command::new(env!("CARGO_BIN_EXE_handover"))
        .args(["logs", "web"])
        .env("HANDOVER_CONTROL", &server.path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("web/1  0 x"), "{first}");
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}

/// What bash offers for these words, the last of which is being typed.
fn offered(script: &Path, control: &Path, words: &[&str]) -> Vec<String> {
    let ask = r#"
        source "$0"
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        _handover_with_programs "$1" "${!#}" "${COMP_WORDS[COMP_CWORD - 1]}" 2>&1
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let output = Command::new("bash")
        .args(["--norc", "-c", ask])
        .arg(script)
        .arg(env!("CARGO_BIN_EXE_handover"))
        .args(words)
        .env("HANDOVER_CONTROL", control)
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{}", stderr(&output));
    stdout(&output).lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn bash_completes_the_names_of_programs_and_is_silent_where_nothing_runs() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = directory.path().join("control.sock");
    let script = directory.path().join("handover.bash");
    std::fs::write(&script, handover(&nowhere, &["completions", "bash"]).stdout).unwrap();
    let copy = |number| CopyStatus { number, pid: Some(7), ..CopyStatus::default() };
    let program = |name: &str, copies| ProgramStatus {
        name: name.to_owned(),
        copies: (1..=copies).map(copy).collect(),
        ..ProgramStatus::default()
    };
    let programs = [program("web", 2), program("worker", 1), program("cron", 0)];
    let served = || canned(200, "application/json", serde_json::to_string(&programs).unwrap());
    let offers = |words: &[&str]| offered(&script, &served().path, words);
    assert_eq!(offers(&["restart", ""]), ["web", "worker", "cron"]);
    assert_eq!(offers(&["reload", "wo"]), ["worker"]);
    assert_eq!(offers(&["logs", "-f", "w"]), ["web", "worker"]);
    assert_eq!(offers(&["--output", "=", "text", "stop", "c"]), ["cron"]);
    let other = served();
    let elsewhere = ["--control", other.path.to_str().unwrap(), "restart", "web"];
    assert_eq!(offered(&script, &nowhere, &elsewhere), ["web"]);
    // Everything else is as it was.
    assert!(offers(&["resta"]).contains(&"restart".to_owned()));
    assert!(offers(&["restart", "--ba"]).contains(&"--batch".to_owned()));
    assert!(offered(&script, &nowhere, &["restart", "w"]).is_empty());
}

#[test]
fn fish_and_zsh_are_taught_the_names_of_programs_too() {
    let directory = tempfile::tempdir().unwrap();
    let script = |shell| stdout(&handover(&directory.path().join("control.sock"), &["completions", shell]));
    assert!(script("fish").contains("using_subcommand $verb\" -f -a \"(__fish_handover_programs)\""));
    let zsh = script("zsh");
    assert!(zsh.starts_with("#compdef handover\n"));
    // restart, deploy, start, logs; reload, rollback, confirm, cancel, stop; pause, resume.
    assert_eq!(zsh.matches(":_handover_programs' \\").count(), 11, "{zsh}");
}
