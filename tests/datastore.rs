//! Configuration from a store: a real etcd (Debian's etcd-server), its revisions, its watch, its absence; and a web page.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use handover_testkit::authority::Authority;
use handover_testkit::config::{fixed, listener, tls_listener};
use handover_testkit::origin::{Origin, Then};
use handover_testkit::tls::{TlsClient, origin_config};
use handover_testkit::{Handover, Port, Process, Workspace, handover, have, http, text_at, until};
use serde_json::{Value, json};

const WATCH: &str = "[watch]\nsettle = \"50ms\"\nretry = \"1s\"\npoll = \"1s\"\n\n";

/// A running etcd, with its data in the workspace.
struct Etcd<'a> {
    workspace: &'a Workspace,
    client: Port,
    peer: Port,
    process: Option<Process>,
}

impl<'a> Etcd<'a> {
    /// Starts one; `None`, and said so, if it is not installed.
    fn start(workspace: &'a Workspace, test: &str) -> Option<Self> {
        if !have("etcd", test) {
            return None;
        }
        let mut etcd = Self { workspace, client: Port::claim(), peer: Port::claim(), process: None };
        etcd.run();
        Some(etcd)
    }

    /// Starts it on its ports, with the data that is there, and waits until it answers.
    fn run(&mut self) {
        let (client, peer) = (self.client.address(), self.peer.address());
        let urls = [format!("http://{client}"), format!("http://{peer}")];
        let mut command = Command::new("etcd");
        command
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .arg("--data-dir")
            .arg(self.workspace.path("etcd"))
            .args(["--listen-client-urls", &urls[0], "--advertise-client-urls", &urls[0]])
            .args(["--listen-peer-urls", &urls[1], "--initial-advertise-peer-urls", &urls[1]])
            .args(["--initial-cluster", &format!("default={}", urls[1])]);
        self.process = Some(Process::start(command));
        until("etcd answers", || {
            let health = http::Connection::try_open(client).ok()?.try_get("/health").ok()?;
            health.text().contains("true").then_some(())
        });
    }

    /// Ends it as a crash does.
    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    fn ask(&self, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut connection = http::Connection::open(self.client.address());
        connection.send(format!(
            "POST {path} HTTP/1.1\r\nHost: etcd\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        serde_json::from_str(&connection.response("POST").text()).unwrap()
    }

    /// Writes the configuration, and returns the revision.
    fn put(&self, text: &str) -> u64 {
        let answer =
            self.ask("/v3/kv/put", &json!({"key": STANDARD.encode("site"), "value": STANDARD.encode(text)}));
        text_at(&answer, "/header/revision").parse().unwrap_or_else(|_| panic!("{answer}"))
    }

    fn url(&self) -> String {
        format!("etcd://{}/site", self.client.address())
    }
}

fn serve<'a>(workspace: &'a Workspace, url: &str) -> handover_testkit::HandoverBuilder<'a> {
    Handover::of(handover!(), workspace).arguments(["--config", url])
}

fn wait_for_text(port: &Port, text: &str) {
    until(&format!("{text:?} is answered"), || {
        let mut one = http::Connection::try_open(port.address()).ok()?;
        (one.try_get("/").ok()?.text() == text).then_some(())
    });
}

/// The operation that made the generation which serves; its outcome is final.
fn newest(server: &Handover, kind: &str) -> Value {
    server.control.wait_for_operation(&format!("an operation by {kind}"), |one| {
        text_at(one, "/actor/kind") == kind && text_at(one, "/state") == "done"
    })
}

#[test]
fn a_key_of_etcd_is_served_and_reloaded_and_its_revisions_are_shown() {
    let (workspace, port) = (Workspace::new(), Port::claim());
    let Some(etcd) = Etcd::start(&workspace, "a_key_of_etcd_is_served") else { return };
    let config = |text: &str| listener("web", &port) + &fixed("/", text);
    let first = etcd.put(&config("one"));
    let server = serve(&workspace, &etcd.url()).start();
    assert_eq!(http::get(port.address(), "/").text(), "one");
    let status = server.control.status();
    assert_eq!(text_at(&status, "/source_version"), format!("etcd revision {first}"), "{status}");

    let second = etcd.put(&config("two"));
    assert_eq!(http::get(port.address(), "/").text(), "one", "nobody watches unless asked to");
    server.cli(["reload"]).expect_code(0).says("generation 2");
    assert_eq!(http::get(port.address(), "/").text(), "two");
    let status = server.control.status();
    assert_eq!(text_at(&status, "/source_version"), format!("etcd revision {second}"), "{status}");
    server.cli(["reload"]).expect_code(0).says("unchanged: what is in the store serves already");

    let mistaken = etcd.put("listeners = 3\n");
    let refused = server.cli(["reload"]);
    refused.expect_code(10);
    assert!(refused.all().contains(&format!("{}:1:", etcd.url())), "{}", refused.all());
    assert!(mistaken > second);
    assert_eq!(http::get(port.address(), "/").text(), "two");
}

#[test]
fn a_watched_key_is_served_by_itself_also_after_etcd_was_killed_and_compacted() {
    let (workspace, port) = (Workspace::new(), Port::claim());
    let Some(mut etcd) = Etcd::start(&workspace, "a_watched_key_is_served_by_itself") else { return };
    let config = |text: &str| listener("web", &port) + &fixed("/", text) + WATCH;
    etcd.put(&config("0"));
    let server = serve(&workspace, &etcd.url()).start();
    let revision = etcd.put(&config("1"));
    wait_for_text(&port, "1");
    let operation = newest(&server, "watch");
    assert_eq!(text_at(&operation, "/outcome"), "applied", "{operation}");
    until("the status shows the revision", || {
        let status = server.control.status();
        (text_at(&status, "/source_version") == format!("etcd revision {revision}")).then_some(())
    });

    etcd.kill();
    assert_eq!(http::get(port.address(), "/").text(), "1");
    etcd.run();
    // What happened before the watch stands again is not lost, even if the store has forgotten how it came about.
    etcd.put(&config("lost"));
    let revision = etcd.put(&config("2"));
    etcd.ask("/v3/kv/compaction", &json!({"revision": revision.to_string()}));
    wait_for_text(&port, "2");
    etcd.put(&config("3"));
    wait_for_text(&port, "3");

    // What does not fit is reported and not served; what follows is.
    etcd.put("listeners = 3\n");
    let _ = server.control.wait_for_operation("the mistake is reported", |one| {
        text_at(one, "/actor/kind") == "watch" && text_at(one, "/outcome") == "rejected"
    });
    assert_eq!(http::get(port.address(), "/").text(), "3");
    etcd.put(&config("4"));
    wait_for_text(&port, "4");
}

#[test]
fn a_store_that_is_away_at_a_reload_changes_nothing_and_at_a_start_the_last_good_generation_serves() {
    let (workspace, port) = (Workspace::new(), Port::claim());
    let Some(mut etcd) = Etcd::start(&workspace, "a_store_that_is_away") else { return };
    let config = |text: &str| listener("web", &port) + &fixed("/", text) + WATCH;
    etcd.put(&config("kept"));
    let url = etcd.url();
    let mut server = serve(&workspace, &url).start();
    etcd.kill();
    let refused = server.cli(["reload"]);
    refused.expect_code(11);
    assert!(refused.all().contains("cannot be reached: Connection refused"), "{}", refused.all());
    assert_eq!(http::get(port.address(), "/").text(), "kept");
    server.terminate().expect_code(0);

    let server = serve(&workspace, &url).start();
    assert_eq!(http::get(port.address(), "/").text(), "kept");
    assert!(server.process.stderr_line("cannot be reached").is_some(), "{}", server.process.stderr());
    // As soon as the store is back, what it has is served.
    etcd.run();
    etcd.put(&config("new"));
    wait_for_text(&port, "new");
}

#[test]
fn a_first_start_without_its_store_ends_and_says_why() {
    let (workspace, nobody) = (Workspace::new(), Port::claim());
    let url = format!("etcd://{}/site", nobody.address());
    let output = serve(&workspace, &url).try_start().expect_err("there is nothing to serve");
    output.expect_code(11);
    assert!(output.all().contains(&format!("{url}: cannot be reached")), "{}", output.all());
}

#[test]
fn a_page_over_tls_is_served_with_its_tag_and_files_that_it_names_are_on_the_disk() {
    let (workspace, port) = (Workspace::new(), Port::claim());
    let authority = Authority::new("a store's");
    authority.pair(&["site.example"]).write(&workspace, "files/site");
    workspace.write("ca.pem", authority.pem());
    let control = "[control]\nsocket = \"elsewhere.sock\"\n\n";
    let config = tls_listener("web", &port, &["site"], "") + &fixed("/", "served") + WATCH + control;
    let page = Origin::with(move |request, answer| {
        let tag = [("ETag", "\"a1\"")];
        match request.header("if-none-match") {
            Some("\"a1\"") => answer.whole("304 Not Modified", &tag, b""),
            _ => answer.whole("200 OK", &tag, config.as_bytes()),
        }?;
        Ok(Then::Close)
    });
    // The testkit's origin with a handler speaks plain HTTP: allowed on this machine, with a warning.
    let url = format!("http://{}/site.toml?token=s3cret", page.address());
    let server = serve(&workspace, &url).arguments(["--base", "files"]).start();
    let (_, response) = TlsClient::trusting(authority.pem(), "site.example").get(port.address(), "/");
    assert_eq!(response.text(), "served");
    let status = server.control.status();
    assert_eq!(text_at(&status, "/source_version"), "ETag \"a1\"", "{status}");
    // It is asked for again and again, and has not changed.
    let _ = page.wait_for_requests(3);
    let said =
        [server.process.stderr(), server.cli(["status"]).all(), server.cli(["history"]).all()].concat();
    assert!(!said.contains("s3cret"), "{said}");
    let start = server.control.history().pop().unwrap();
    for warning in ["without TLS", "give --control"] {
        assert!(start["warnings"].to_string().contains(warning), "{start}");
    }
    assert_eq!(server.control.history().len(), 1, "a page that stays as it is is no reload");

    // Over TLS, by the authority that is named, and not by others.
    let secure = Origin::tls("no configuration", origin_config(&authority.pair(&["localhost"]), None));
    let url = format!("https://localhost:{}/", secure.address().port());
    let elsewhere = Workspace::new();
    let start = |ca: &str| {
        let ca = workspace.path(ca);
        serve(&elsewhere, &url).env("HANDOVER_SOURCE_CA", ca).try_start().expect_err("it is no configuration")
    };
    let output = start("ca.pem");
    output.expect_code(10);
    assert!(output.all().contains(&format!("{url}:1:")), "{}", output.all());
    let output = start("files/site.pem");
    output.expect_code(11);
    assert!(output.all().contains("TLS: invalid peer certificate"), "{}", output.all());
}
