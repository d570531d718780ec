//! What a user can do: the tour of the README, step by step, with real curl.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::process::Command;

use handover_testkit::config::{everything_to, fixed, service, tcp_listener};
use handover_testkit::echo::Echo;
use handover_testkit::faults::Squatter;
use handover_testkit::origin::Origin;
use handover_testkit::tunnel::{Download, Tunnel};
use handover_testkit::websocket::WebSocket;
use handover_testkit::{
    Handover, Port, Serving, Signal, Workspace, curl, handover, have, operation_of, run, skip, text_at,
};
use serde_json::Value;

#[test]
fn serve_without_a_file_answers_hello_and_says_what_to_do_next() {
    let test = "serve_without_a_file_answers_hello_and_says_what_to_do_next";
    if !have("curl", test) {
        return;
    }
    if TcpListener::bind("127.0.0.1:8080").is_err() {
        return skip(&format!("{test}: port 8080, which the default configuration names, is taken"));
    }
    let workspace = Workspace::new();
    let server = Handover::of(handover!(), &workspace).start();
    assert_eq!(curl::body("http://localhost:8080"), "Hello, World!\n");

    let banner = server.process.stdout();
    let lines: Vec<&str> = banner.lines().collect();
    assert_eq!(lines.len(), 4, "four lines:\n{banner}");
    assert!(banner.contains("127.0.0.1:8080"), "what it serves:\n{banner}");
    assert!(banner.contains(&server.control.path().display().to_string()), "the control socket:\n{banner}");
    // The last line ends with a command that can be pasted as it is.
    let next = lines[3].split_once(':').map_or(lines[3], |(_, command)| command).trim();
    let mut shell = Command::new("sh");
    let binaries = std::path::Path::new(handover!()).parent().unwrap();
    let path = std::env::join_paths([binaries.into(), "/usr/bin".into(), std::path::PathBuf::from("/bin")]);
    shell.args(["-c", next]).env("PATH", path.unwrap());
    run(shell).expect_code(0);
}

#[test]
fn an_edited_message_is_served_after_reload_and_nothing_is_restarted() {
    if !have("curl", "an_edited_message_is_served_after_reload_and_nothing_is_restarted") {
        return;
    }
    let (origin, echo, tunnel_port) = (Origin::start("origin"), Echo::start(), Port::claim());
    let rest = |message: &str| {
        [
            tcp_listener("tunnel", &tunnel_port, "echo"),
            service("origin", origin.address()),
            service("echo", echo.address()),
            fixed("/hello", message),
            everything_to("origin"),
        ]
        .concat()
    };
    let server = Serving::start(handover!(), &rest("Hello"));
    let mut websocket = WebSocket::open(server.address(), "/ws");
    let mut download = Download::begin(server.address(), "/slow/200000?gate=rest");
    download.take(1000);
    let mut tunnel = Tunnel::open(tunnel_port.address());
    tunnel.echo(b"before");
    websocket.echo("before");
    assert_eq!(curl::body(&server.url("/hello")), "Hello");
    let (supervisor, worker) = (server.handover.pid(), server.handover.worker());

    let output = server.reload(&rest("Good morning"));
    let sentence = output.expect_code(0).stdout.trim();
    assert_eq!(sentence.lines().count(), 1, "one sentence: {sentence}");
    for part in ["applied", "generation 2", "/hello", "ms"] {
        assert!(sentence.contains(part), "{part:?} is missing: {sentence}");
    }

    assert_eq!(curl::body(&server.url("/hello")), "Good morning");
    websocket.echo("after");
    tunnel.echo(b"after");
    origin.gate("rest").open();
    download.finish();
    assert_eq!((server.handover.pid(), server.handover.worker()), (supervisor, worker));
    assert_eq!(echo.accepted(), 1, "the tunnel is the one from before");
}

#[test]
fn sighup_does_the_same_operation_and_status_and_history_name_it() {
    let mut server = Serving::start(handover!(), &fixed("/", "old"));
    let mut events = server.handover.control.events();
    server.write(&fixed("/", "new"));
    server.handover.signal(Signal::HUP);
    let done = events.wait_for("the reload that SIGHUP asked for", |event| {
        text_at(&event.data, "/kind") == "operation_done"
            && text_at(&event.data, "/operation/actor/kind") == "signal"
    });
    assert_eq!(text_at(&done.data, "/operation/outcome"), "applied");
    assert_eq!(text_at(&done.data, "/operation/kind"), "reload");
    assert_eq!(server.text("/"), "new");

    let status = server.handover.cli(["status"]);
    status.expect_code(0).says("applied").says("signal HUP");
    let history = server.handover.cli(["history"]);
    history.expect_code(0).says("applied").says("signal HUP").says("reload");
}

/// A mistake, the line that names it, and words that the report must contain.
struct Mistake {
    name: &'static str,
    rest: String,
    at: &'static str,
    words: Vec<String>,
}

fn mistakes(taken: &Port) -> Vec<Mistake> {
    let mistake = |name, rest: String, at, words: &[&str]| Mistake {
        name,
        rest,
        at,
        words: words.iter().map(|word| (*word).to_owned()).collect(),
    };
    vec![
        mistake("syntax", fixed("/", "x") + "[routes", "[routes", &[]),
        mistake("unknown key", fixed("/", "x") + "[log]\nlevle = \"info\"\n", "levle", &["levle", "level"]),
        mistake(
            "port in use",
            fixed("/", "x") + &format!("[listeners.other]\naddress = \"{}\"\n", taken.address()),
            "address = \"127.0.0.1",
            &["in use", &taken.to_string()],
        ),
        mistake(
            "missing body file",
            "[[routes]]\nfixed = { body_file = \"missing.html\" }\n".to_owned(),
            "body_file",
            &["missing.html", "No such file"],
        ),
        mistake(
            "unreachable name",
            "[services.app]\nendpoints = \"no-such-host.invalid:80\"\n[[routes]]\nservice = \"app\"\n"
                .to_owned(),
            "no-such-host",
            &["no-such-host.invalid"],
        ),
    ]
}

#[test]
fn a_mistake_is_refused_with_its_place_and_the_old_generation_serves() {
    let server = Serving::start(handover!(), &fixed("/", "generation one"));
    let taken = Port::claim();
    let _squatter = Squatter::alone(taken.address());
    for mistake in mistakes(&taken) {
        let output = server.reload(&mistake.rest);
        let (name, said) = (mistake.name, output.all());
        assert_eq!(output.code, 10, "{name}:\n{said}");
        let text = server.workspace.read("handover.toml");
        let lines: Vec<&str> = text.lines().collect();
        let line = lines.iter().rposition(|line| line.contains(mistake.at)).unwrap() + 1;
        assert!(
            said.contains(&format!("handover.toml:{line}:")),
            "{name}: line {line} is not named:\n{said}"
        );
        assert!(said.contains('^'), "{name}: no caret:\n{said}");
        assert!(said.contains("generation 1 still serves"), "{name}:\n{said}");
        for word in &mistake.words {
            assert!(said.contains(word), "{name}: {word:?} is missing:\n{said}");
        }
        assert_eq!(server.text("/"), "generation one", "{name}");
        assert_eq!(server.handover.control.generation(), 1, "{name}");
    }
    server.reload(&fixed("/", "mended")).expect_code(0);
    assert_eq!(server.text("/"), "mended");
}

#[test]
fn every_mistake_in_a_file_is_told_at_once() {
    let server = Serving::start(handover!(), &fixed("/", "x"));
    let output = server.reload(
        "[log]\nlevle = \"info\"\n\
         [[routes]]\npath = \"no-slash\"\nfixed = \"a\"\n\
         [[routes]]\npath = \"/b\"\nservice = \"nobody\"\n\
         [[routes]]\npath = \"/c\"\nfixed = { body_file = \"missing.html\" }\n",
    );
    output.expect_code(10);
    for word in ["levle", "no-slash", "nobody", "missing.html"] {
        assert!(output.all().contains(word), "{word:?} is missing:\n{}", output.all());
    }
}

#[test]
fn curl_gets_one_sentence_and_a_status_that_fails_when_it_should() {
    if !have("curl", "curl_gets_one_sentence_and_a_status_that_fails_when_it_should") {
        return;
    }
    let server = Serving::start(handover!(), &fixed("/", "old"));
    let reload = |arguments: &[&str]| {
        let fixed = ["-X", "POST", "http://localhost/v1/reload"];
        curl::over_unix(server.handover.control.path(), &[arguments, &fixed].concat())
    };
    server.write(&fixed("/", "new"));
    let output = reload(&["--fail"]);
    let sentence = output.expect_code(0).stdout.trim();
    assert_eq!(sentence.lines().count(), 1, "one sentence: {sentence}");
    assert!(sentence.contains("applied") && sentence.contains("generation 2"), "{sentence}");

    server.write("[nonsense]\n");
    reload(&["--fail"]).expect_code(22);
    let output = reload(&["--write-out", "%{http_code}"]);
    output.expect_code(0).says("rejected").says("nonsense").says("generation 2 still serves").says("422");

    let output = reload(&["-H", "Accept: application/json"]);
    let answer: Value = serde_json::from_str(&output.stdout).unwrap();
    let operation = operation_of(&answer);
    assert_eq!(text_at(operation, "/outcome"), "rejected");
    assert_eq!(text_at(operation, "/actor/command"), "curl");
    assert!(text_at(operation, "/errors/0/file").ends_with("handover.toml"));
    assert!(operation["errors"][0]["line"].is_u64());
    assert_eq!(server.text("/"), "new");
}
