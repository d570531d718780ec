//! Hazard 28, with the program that a user would write: `examples/axum.rs`, and OpenSSL's own client.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::process::Command;

use handover_testkit::notify::Notifications;
use handover_testkit::{Control, Port, Process, Signal, Workspace, example, handover, have, run, text_at};

/// Makes a certificate for this name and its key, as `NAME.cert` and `NAME.key`.
fn make_pair(workspace: &Workspace, name: &str) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    openssl.args(["-days", "2", "-subj", &format!("/CN={name}")]);
    openssl.arg("-out").arg(workspace.path(format!("{name}.cert")));
    openssl.arg("-keyout").arg(workspace.path(format!("{name}.key")));
    run(openssl).expect_code(0);
}

/// Puts the file of one pair in the place of the served one.
fn install(workspace: &Workspace, name: &str, part: &str) {
    workspace.write(format!("served.{part}"), workspace.read(format!("{name}.{part}")));
}

/// The name in the certificate that a new client gets; a handshake that fails is a failed test.
fn served_name(address: SocketAddr) -> String {
    let mut client = Command::new("sh");
    let script = format!("openssl s_client -connect {address} -brief </dev/null 2>&1");
    client.args(["-c", &script]);
    let output = run(client);
    output.expect_code(0);
    let text = output.stdout;
    let line = text.lines().find_map(|line| line.split_once("CN")).unwrap_or_else(|| panic!("{text}"));
    line.1.trim_start_matches([' ', '=']).trim().to_owned()
}

struct Example {
    process: Process,
    control: Control,
    notifications: Notifications,
    port: Port,
    workspace: Workspace,
}

impl Example {
    fn start() -> Self {
        let workspace = Workspace::new();
        make_pair(&workspace, "one");
        make_pair(&workspace, "two");
        install(&workspace, "one", "cert");
        install(&workspace, "one", "key");
        let notifications = Notifications::listen(&workspace.path("run/notify.sock"));
        let mut command = handover_testkit::command(&example(handover!(), "axum"), &workspace);
        command.arg(workspace.path("served.cert")).arg(workspace.path("served.key"));
        let port = Port::claim();
        command.env("NOTIFY_SOCKET", notifications.path());
        command.env("HANDOVER_LISTEN_HTTPS", port.address().to_string());
        let mut process = Process::start(command);
        let ready = notifications.wait_after_unless(0, "READY=1", || process.ended());
        assert!(ready.is_some(), "{}", process.stderr());
        let control = Control::at(&workspace.path("run/handover/axum-example.sock"));
        Self { process, control, notifications, port, workspace }
    }

    fn reload_certs(&self) -> (u16, String) {
        let response = self.control.ask("POST", "/v1/actions/reload_certs", &[], "");
        (response.status(), response.text().trim().to_owned())
    }
}

/// Hazard 28.
#[test]
fn a_pair_renewed_in_two_steps_never_gives_a_bad_handshake_and_the_final_pair_is_served() {
    let test = "a_pair_renewed_in_two_steps_never_gives_a_bad_handshake_and_the_final_pair_is_served";
    if !have("openssl", test) {
        return;
    }
    let mut example = Example::start();
    let address = example.port.address();
    let served_name = || served_name(address);
    assert_eq!(served_name(), "one");

    // The certificate first, the key later; then the other way round.
    for (from, to, first, second) in [("one", "two", "cert", "key"), ("two", "one", "key", "cert")] {
        install(&example.workspace, to, first);
        let (status, answer) = example.reload_certs();
        assert_eq!(status, 500, "{answer}");
        assert!(answer.starts_with("could not reload cert: "), "{answer}");
        assert_eq!(served_name(), from);
        install(&example.workspace, to, second);
        assert_eq!(example.reload_certs(), (200, "Successfully reloaded cert".to_owned()));
        assert_eq!(served_name(), to);
    }

    example.workspace.remove("served.cert");
    let (status, answer) = example.reload_certs();
    assert_eq!(status, 500, "{answer}");
    assert!(answer.starts_with("could not reload cert: "), "{answer}");
    for words in ["served.cert", "No such file or directory (os error 2)"] {
        assert!(answer.contains(words), "{words:?} is missing: {answer}");
    }
    assert_eq!(served_name(), "one");

    // SIGHUP does the same, and says in the history how it went.
    for (pair, outcome) in [(None, "rejected"), (Some("two"), "applied")] {
        if let Some(name) = pair {
            install(&example.workspace, name, "cert");
            install(&example.workspace, name, "key");
        }
        let mark = example.notifications.mark();
        let mut events = example.control.events();
        example.process.signal(Signal::HUP);
        let done = events
            .wait_for("the reload by SIGHUP", |event| text_at(&event.data, "/kind") == "operation_done");
        assert_eq!(text_at(&done.data, "/operation/outcome"), outcome);
        let _ = example.notifications.wait_after(mark, "READY=1");
    }
    assert_eq!(served_name(), "two");
    example.process.signal(Signal::TERM);
    example.process.wait().expect_code(0);
}
