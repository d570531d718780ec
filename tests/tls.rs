//! TLS, as clients and operators meet it: which certificate for whom, on which terms, and that what passes in plain passes
//! over TLS, on both sides. Hazard 24 is here; 28 is in `renewal.rs`, what is refused in `pairs.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::process::Command;

use handover_testkit::config::{everything_to, fixed, service, tls_listener};
use handover_testkit::echo::Echo;
use handover_testkit::faults::kill;
use handover_testkit::origin::Origin;
use handover_testkit::tls::origin_config;
use handover_testkit::websocket::WebSocket;
use handover_testkit::{
    Authority, Handover, KeyType, Pair, Port, SITE, Secure, TlsClient, Workspace, curl, handover, have,
    pattern, run, text_at, until,
};
use serde_json::Value;

#[test]
fn a_client_gets_the_certificate_of_the_name_it_asks_for() {
    let (workspace, port, authority) = (Workspace::new(), Port::claim(), Authority::new("CA"));
    let pair = |name: &str, names: &[&str], key_type| {
        let pair = authority.leaf(names).key_type(key_type).make();
        pair.write(&workspace, name);
        pair
    };
    let first = pair("first", &["first.test", "also.first.test"], KeyType::EcdsaP256);
    let wild = pair("wild", &["*.wild.test"], KeyType::EcdsaP384);
    let exact = pair("exact", &["exact.wild.test"], KeyType::Ed25519);
    let rsa = pair("rsa", &["rsa.test"], KeyType::Rsa2048);
    let config = |more| {
        tls_listener("secure", &port, &["first", "wild", "exact", "rsa"], more) + &fixed("/", "secure")
    };
    let server = Handover::of(handover!(), &workspace).config(config("")).start();
    let shown = |name: &str| TlsClient::curious(name).serial(port.address());
    let by_name = [
        ("first.test", &first),
        ("also.first.test", &first),
        ("FIRST.test", &first),
        ("any.wild.test", &wild),
        ("exact.wild.test", &exact),
        ("rsa.test", &rsa),
        // A wildcard stands for one label (RFC 9525 §6.3).
        ("a.b.wild.test", &first),
        ("wild.test", &first),
        ("unknown.test", &first),
    ];
    for (name, pair) in by_name {
        assert_eq!(shown(name), pair.serial, "{name}");
    }
    assert_eq!(TlsClient::nameless().serial(port.address()), first.serial);
    let (served, response) = TlsClient::trusting(authority.pem(), "rsa.test").get(port.address(), "/");
    assert_eq!((response.text().as_str(), served.names), ("secure", vec!["rsa.test".to_owned()]));

    // A stranger's name is refused by an alert where that is wished for; a client without a name is no stranger.
    server.reload_with(config("unknown_names = \"refuse\"")).expect_code(0);
    assert_eq!(shown("any.wild.test"), wild.serial);
    assert_eq!(TlsClient::nameless().serial(port.address()), first.serial);
    let why = TlsClient::curious("unknown.test").try_connect(port.address()).unwrap_err().to_string();
    assert!(why.contains("UnrecognisedName"), "{why}");
}

#[test]
fn the_default_certificate_is_the_one_that_is_marked() {
    let (workspace, port, authority) = (Workspace::new(), Port::claim(), Authority::new("CA"));
    authority.pair(&["one.test"]).write(&workspace, "one");
    let two = authority.pair(&["two.test"]);
    two.write(&workspace, "two");
    let address = port.address();
    let text = format!(
        "[listeners.secure]\naddress = \"{address}\"\n[listeners.secure.tls]\ncertificates = [\n\
         {{ certificate = \"one.pem\", key = \"one.key\" }},\n\
         {{ certificate = \"two.pem\", key = \"two.key\", default = true }} ]\n\n{}",
        fixed("/", "x")
    );
    let _server = Handover::of(handover!(), &workspace).config(text).start();
    assert_eq!(TlsClient::nameless().serial(address), two.serial);
    assert_eq!(TlsClient::curious("three.test").serial(address), two.serial);
}

#[test]
fn protocol_and_version_are_agreed_on_or_the_handshake_is_refused() {
    let server = Secure::start(handover!(), "", &fixed("/", "x"));
    let alpn = |protocols: &[&str]| server.client().alpn(protocols).connect(server.address()).served.alpn;
    assert_eq!(alpn(&["h2", "http/1.1"]).as_deref(), Some("http/1.1"));
    assert_eq!(alpn(&[]), None);
    // RFC 7301 §3.2: nothing in common is a fatal alert.
    let why = server.client().alpn(&["h2"]).try_connect(server.address()).unwrap_err().to_string();
    assert!(why.contains("NoApplicationProtocol"), "{why}");

    let version = |client: TlsClient| client.connect(server.address()).served.version;
    assert_eq!((version(server.client()), version(server.client().only_tls12())), ("1.3", "1.2"));
    let text = server.config("minimum_version = \"1.3\"", &fixed("/", "x"));
    server.handover.reload_with(text).expect_code(0);
    assert_eq!(version(server.client()), "1.3");
    let why = server.client().only_tls12().try_connect(server.address()).unwrap_err().to_string();
    assert!(why.contains("ProtocolVersion"), "{why}");
}

/// The head of a request as the origin got it through `server`, which a client sent with a subject of its own making.
fn forwarded(client: &TlsClient, address: SocketAddr) -> std::io::Result<String> {
    let mut one = client.try_connect(address)?;
    let mut request = "GET /head HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n".to_owned();
    request += "X-Client-Subject: CN=forged\r\nx-client-subject: CN=forged too\r\n\r\n";
    one.connection.try_send(request)?;
    Ok(one.connection.try_response("GET")?.text())
}

#[test]
fn clients_show_certificates_and_the_origin_learns_their_subject_and_never_a_forged_one() {
    let origin = Origin::start("origin");
    let rest = service("origin", origin.address()) + &everything_to("origin");
    let more = |how: &str| {
        format!(
            "client_certificates = \"{how}\"\nclient_ca = \"clients.pem\"\nclient_subject_header = \"X-Client-Subject\""
        )
    };
    let (workspace, clients) = (Workspace::new(), Authority::new("Clients"));
    workspace.write("clients.pem", clients.pem());
    let server = Secure::prepared(handover!(), workspace, &more("required"), &rest);
    let alice = clients.leaf(&[]).subject("alice").client().make();
    let stranger = Authority::new("Others").leaf(&[]).subject("mallory").client().make();
    let known = server.client().identity(&alice);
    for client in [known.clone(), known.clone().only_tls12()] {
        let head = forwarded(&client, server.address()).unwrap();
        assert!(head.contains("CN=alice"), "{head}");
        assert!(!head.contains("forged"), "{head}");
    }
    for client in [server.client(), server.client().identity(&stranger), server.client().only_tls12()] {
        assert!(forwarded(&client, server.address()).is_err());
    }
    assert_eq!(origin.requests().len(), 2, "nobody else came through");

    server.handover.reload_with(server.config(&more("optional"), &rest)).expect_code(0);
    let head = forwarded(&known, server.address()).unwrap();
    assert!(head.contains("CN=alice") && !head.contains("forged"), "{head}");
    let head = forwarded(&server.client(), server.address()).unwrap();
    assert!(!head.to_ascii_lowercase().contains("x-client-subject"), "{head}");
    assert!(forwarded(&server.client().identity(&stranger), server.address()).is_err());
}

/// Hazard 24 (its reload part).
#[test]
fn a_client_resumes_its_session_after_reloads_renewals_and_the_death_of_the_worker() {
    let server = Secure::start(handover!(), "", &fixed("/", "0"));
    let clients = [server.client().remembering(), server.client().remembering().only_tls12()];
    let resumed = || clients.each_ref().map(|client| client.get(server.address(), "/").0.resumed);
    assert_eq!(resumed(), [false, false]);
    assert_eq!(resumed(), [true, true]);
    server.handover.reload_with(server.config("", &fixed("/", "1"))).expect_code(0);
    assert_eq!(resumed(), [true, true], "after a reload");
    let renewed = server.another();
    renewed.write(&server.workspace, "site");
    server.handover.cli(["reload", "--certs"]).expect_code(0);
    assert_eq!(resumed(), [true, true], "after a renewal");
    assert_eq!(server.serial(), renewed.serial);
    let worker = server.handover.worker();
    kill(worker);
    until("another worker serves", || {
        let status = server.handover.control.status();
        (status.pointer("/worker/pid").and_then(Value::as_u64)? != u64::from(worker)).then_some(())
    });
    assert_eq!(resumed(), [true, true], "by the worker after one that died");
    server.handover.cli(["rollback"]).expect_code(0);
    assert_eq!(resumed(), [true, true], "after a rollback");
    assert_eq!(server.serial(), server.first.serial);
}

#[test]
fn a_client_resumes_its_session_after_the_supervisor_was_killed_and_another_adopted_the_worker() {
    let mut server = Secure::start(handover!(), "", &fixed("/", "0"));
    let client = server.client().remembering();
    assert!(!client.get(server.address(), "/").0.resumed);
    server.handover.kill_supervisor();
    let second = Handover::of(handover!(), &server.workspace).config_file("handover.toml").start();
    assert!(client.get(server.address(), "/").0.resumed);
    kill(second.worker());
    assert!(client.get(server.address(), "/").0.resumed, "by the worker that the second supervisor started");
}

#[test]
fn what_passes_in_plain_passes_over_tls_on_both_sides() {
    let workspace = Workspace::new();
    let inner = Authority::new("Inner");
    let origin = Origin::tls("origin", origin_config(&inner.pair(&["app.internal"]), None));
    workspace.write("inner.pem", inner.pem());
    let rest = upstream(&origin, "ca = \"inner.pem\"\nserver_name = \"app.internal\"");
    let server = Secure::prepared(handover!(), workspace, "", &rest);
    for client in [server.client(), server.client().only_tls12()] {
        let mut one = client.connect(server.address()).connection;
        for length in [0, 1, 16_383, 16_384, 16_385, 3_000_000] {
            assert_eq!(one.get(&format!("/bytes/{length}")).body, pattern::bytes(length));
        }
        let chunked = one.get("/chunked/54321");
        assert_eq!(chunked.body, pattern::bytes(54_321));
        assert_eq!(chunked.trailers, [("X-Check".to_owned(), "done".to_owned())]);
        let body = pattern::bytes(500_000);
        assert_eq!(one.request("POST", "/echo", &[], &body).body, body);
        if one_is_tls13(&client) {
            one.update_keys();
            assert_eq!(one.get("/bytes/100000").body, pattern::bytes(100_000), "after a key update");
        }
        let mut socket = WebSocket::upgrade(client.connect(server.address()).connection, "/ws");
        socket.echo("over TLS");
        socket.echo(&"long ".repeat(2000));
        let streamed = client.get(server.address(), "/stream/70000").1;
        assert_eq!(streamed.body, pattern::bytes(70_000), "ended by a close");
    }
    let names = origin.requests().iter().map(|one| one.tls.clone().unwrap().name).collect::<Vec<_>>();
    assert!(names.iter().all(|name| name.as_deref() == Some("app.internal")), "{names:?}");
}

fn one_is_tls13(client: &TlsClient) -> bool {
    format!("{client:?}").contains("TLSv1_3")
}

/// A service `origin` over TLS, with these lines in its TLS table, for everything.
fn upstream(origin: &Origin, tls: &str) -> String {
    let service = service("origin", origin.address());
    format!("{service}[services.origin.tls]\n{tls}\n\n{}", everything_to("origin"))
}

#[test]
fn an_upstream_is_believed_only_if_its_certificate_is_right() {
    let workspace = Workspace::new();
    let (inner, other) = (Authority::new("Inner"), Authority::new("Other"));
    let me = inner.leaf(&[]).subject("proxy").client().make();
    let pair = inner.leaf(&["app.internal", "127.0.0.1"]).make();
    let origin = Origin::tls("origin", origin_config(&pair, Some(inner.pem())));
    workspace.write("inner.pem", inner.pem());
    workspace.write("other.pem", other.pem());
    me.write(&workspace, "me");
    let identity = "certificate = \"me.pem\"\nkey = \"me.key\"\n";
    let ca = "ca = \"inner.pem\"\n";
    let server = Secure::prepared(handover!(), workspace, "", &upstream(&origin, &format!("{ca}{identity}")));
    let status = || server.client().get(server.address(), "/").1.status();
    assert_eq!(status(), 200, "by the address of the endpoint, which is in the certificate");
    let cases = [
        ("the right name", format!("{ca}{identity}server_name = \"app.internal\""), 200),
        ("another name", format!("{ca}{identity}server_name = \"app.external\""), 502),
        ("another authority", format!("ca = \"other.pem\"\n{identity}"), 502),
        ("anybody", format!("verify = false\n{identity}server_name = \"app.external\""), 200),
        ("without our certificate", ca.to_owned(), 502),
    ];
    for (what, tls, expected) in cases {
        server.handover.reload_with(server.config("", &upstream(&origin, &tls))).expect_code(0);
        assert_eq!(status(), expected, "{what}");
    }
    let shown = origin.requests().iter().map(|one| one.tls.clone().unwrap().serial).collect::<Vec<_>>();
    assert!(shown.iter().all(|serial| *serial == Some(me.serial)), "{shown:?}");
}

#[test]
fn a_tcp_listener_ends_tls_and_passes_the_bytes_on() {
    let (workspace, port, echo) = (Workspace::new(), Port::claim(), Echo::start());
    let authority = Authority::new("CA");
    authority.pair(&[SITE]).write(&workspace, "site");
    let listener = format!(
        "[listeners.secure]\naddress = \"{}\"\nprotocol = \"tcp\"\nservice = \"echo\"\n[listeners.secure.tls]\n\
         certificate = \"site.pem\"\nkey = \"site.key\"\nalpn = [\"mqtt\"]\n\n",
        port.address()
    );
    let _server =
        Handover::of(handover!(), &workspace).config(listener + &service("echo", echo.address())).start();
    let client = TlsClient::trusting(authority.pem(), SITE).alpn(&["mqtt"]);
    let mut one = client.connect(port.address());
    assert_eq!(one.served.alpn.as_deref(), Some("mqtt"));
    let bytes = pattern::bytes(100_000);
    one.connection.send(&bytes);
    assert_eq!(one.connection.exactly(bytes.len()), bytes);
    // The end of one direction passes through, and the other is said goodbye to: no truncation.
    one.connection.send("last");
    one.connection.finish();
    assert_eq!(one.connection.try_rest().unwrap(), b"last");
}

/// Other implementations than rustls.
#[test]
fn curl_and_openssl_are_served() {
    let server = Secure::start(handover!(), "", &fixed("/", "served"));
    server.workspace.write("ca.pem", server.authority.pem());
    let ca = server.workspace.path("ca.pem");
    if have("curl", "curl_and_openssl_are_served") {
        let to = format!("{SITE}:{}:127.0.0.1", server.port);
        let url = format!("https://{SITE}:{}/", server.port);
        for version in ["--tlsv1.3", "--tls-max=1.2"] {
            let arguments =
                ["--cacert", ca.to_str().unwrap(), "--resolve", &to, &version.replace('=', " "), &url];
            let arguments = arguments.iter().flat_map(|word| word.split(' '));
            assert_eq!(curl::curl(arguments).expect_code(0).stdout, "served", "{version}");
        }
    }
    if have("openssl", "curl_and_openssl_are_served") {
        for version in ["-tls1_3", "-tls1_2"] {
            let script = format!(
                "printf 'GET / HTTP/1.1\\r\\nHost: {SITE}\\r\\nConnection: close\\r\\n\\r\\n' | openssl s_client -quiet \
                 -verify_return_error -CAfile {} -servername {SITE} -connect {} {version}",
                ca.display(),
                server.address()
            );
            let mut shell = Command::new("sh");
            let output = run({
                shell.args(["-c", &script]);
                shell
            });
            output.expect_code(0).says("served");
        }
    }
}

#[test]
fn the_certificates_that_serve_are_told_to_people_and_programs() {
    let server = Secure::start(handover!(), "", &fixed("/", "x"));
    let list = server.handover.control.get("/v1/certificates");
    let one = &list.as_array().unwrap_or_else(|| panic!("{list}"))[0];
    assert_eq!(one["names"][0], SITE);
    assert_eq!(one["issuer"], "Test Authority");
    assert_eq!(one["key_type"], "ECDSA P-256");
    let serial = one["serial"].as_str().unwrap().replace(':', "");
    assert_eq!(u64::from_str_radix(&serial, 16).unwrap(), server.first.serial);
    server.handover.cli(["certificates"]).expect_code(0).says(SITE).says("Test Authority");

    // A renewal is told as what it is.
    let renewed: Pair = server.another();
    renewed.write(&server.workspace, "site");
    let output = server.handover.cli(["diff"]);
    output.expect_code(1).says(SITE);
    let output = server.handover.cli(["reload"]);
    output.expect_code(0).says("certificate").says(SITE);
    assert_eq!(server.serial(), renewed.serial);
    server.handover.cli(["diff"]).expect_code(0);
}

/// What did not change is neither told nor touched.
#[test]
fn of_a_thousand_certificates_the_one_that_changed_is_told_and_served_and_the_others_stay() {
    const COUNT: usize = 1000;
    let (workspace, port, authority) = (Workspace::new(), Port::claim(), Authority::new("CA"));
    let name = |number: usize| format!("n{number}.test");
    let write = |number: usize| {
        let pair = authority.pair(&[&name(number)]);
        pair.write(&workspace, &format!("certificates/{number}"));
        pair.serial
    };
    let mut serials: Vec<u64> = (0..COUNT).map(write).collect();
    let files: Vec<String> = (0..COUNT).map(|number| format!("certificates/{number}")).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let text = tls_listener("secure", &port, &files, "") + &fixed("/", "x");
    let server = Handover::of(handover!(), &workspace).config(text).start();
    let client = TlsClient::curious("n0.test");
    let kept: Vec<_> =
        (0..COUNT).step_by(100).map(|at| client.clone().name(&name(at)).connect(port.address())).collect();
    for changed in [7, 700] {
        serials[changed] = write(changed);
        let (status, operation) = server.control.post("/v1/reload?certs", &[]);
        assert_eq!(status, 200, "{operation}");
        let changes = operation["changes"].as_array().unwrap();
        let names: Vec<&str> = changes.iter().map(|change| text_at(change, "/name")).collect();
        assert_eq!(names, [name(changed)], "{operation}");
        for number in [0, 7, 8, 699, 700, 999] {
            let served = client.clone().name(&name(number)).serial(port.address());
            assert_eq!(served, serials[number], "{number}");
        }
    }
    for mut one in kept {
        assert_eq!(one.connection.get("/").text(), "x", "a connection from before");
    }
}
