//! Certificates and keys that cannot serve: hazards 3 and 12 (its file part), 7, and what is only warned of.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use handover_testkit::config::{fixed, tls_listener};
use handover_testkit::{
    Authority, Handover, KeyType, Pair, Port, SITE, Secure, TlsClient, Workspace, handover, have,
    operation_of, root, text_at,
};

/// A way in which a pair is wrong: what it is called, what is written, which file is named, and the reason.
struct Wrong {
    what: &'static str,
    write: Box<dyn Fn(&Secure)>,
    file: &'static str,
    why: &'static [&'static str],
}

fn wrong(
    what: &'static str,
    file: &'static str,
    why: &'static [&'static str],
    write: impl Fn(&Secure) + 'static,
) -> Wrong {
    Wrong { what, write: Box::new(write), file, why }
}

fn write(server: &Secure, file: &str, text: &str) {
    server.workspace.write(file, text);
}

/// What is wrong with the certificate's file.
fn wrong_certificates() -> Vec<Wrong> {
    let chain = |server: &Secure| {
        server.authority.intermediate("Middle One").intermediate("Middle Two").pair(&[SITE])
    };
    vec![
        wrong("an expired one", "site.pem", &["expired"], |server| {
            server.authority.leaf(&[SITE]).expired().make().write(&server.workspace, "site");
        }),
        wrong(
            "one that is good from tomorrow",
            "site.pem",
            &["not yet valid", "not valid before", "not before"],
            |server| {
                server.authority.leaf(&[SITE]).not_yet_valid().make().write(&server.workspace, "site");
            },
        ),
        wrong("a chain with the leaf last", "site.pem", &["order", "first"], move |server| {
            let pair = chain(server);
            pair.write(&server.workspace, "site");
            write(server, "site.pem", &pair.leaf_last());
        }),
        wrong("a chain with a stranger in it", "site.pem", &["order", "issue", "sign"], move |server| {
            let (pair, other) = (chain(server), Authority::new("Stranger"));
            pair.write(&server.workspace, "site");
            write(server, "site.pem", &format!("{}{}{}", pair.leaf, other.pem(), pair.above));
        }),
        wrong("no PEM", "site.pem", &["PEM"], |server| write(server, "site.pem", "not a certificate\n")),
        wrong("an empty file", "site.pem", &["empty", "no certificate"], |server| {
            write(server, "site.pem", "")
        }),
        wrong("half a file", "site.pem", &["PEM", "certificate"], |server| {
            let pair = server.another();
            let certificate = pair.certificate();
            pair.write(&server.workspace, "site");
            write(server, "site.pem", &certificate[..certificate.len() / 2]);
        }),
        wrong("PEM of what is no certificate", "site.pem", &["certificate"], |server| {
            write(server, "site.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        }),
        wrong("no file", "site.pem", &["No such file"], |server| server.workspace.remove("site.pem")),
        wrong("a directory", "site.pem", &["irectory"], |server| {
            server.workspace.remove("site.pem");
            std::fs::create_dir(server.workspace.path("site.pem")).unwrap();
        }),
    ]
}

/// What is wrong with the key's file.
fn wrong_keys() -> Vec<Wrong> {
    vec![
        wrong("another certificate's key", "site.key", &["match", "belong"], |server| {
            server.another().write_key(&server.workspace, "site");
        }),
        wrong("a key of another kind", "site.key", &["match", "belong"], |server| {
            server
                .authority
                .leaf(&[SITE])
                .key_type(KeyType::Ed25519)
                .make()
                .write_key(&server.workspace, "site");
        }),
        wrong("no key", "site.key", &["no private key", "no key", "PEM"], |server| {
            write(server, "site.key", &server.first.certificate());
        }),
        wrong("half a key", "site.key", &["PEM", "key"], |server| {
            write(server, "site.key", &server.first.key[..server.first.key.len() / 2]);
        }),
        wrong("no file", "site.key", &["No such file"], |server| server.workspace.remove("site.key")),
    ]
}

/// Hazards 3, 12 and 28: the same contract as for a syntax error, and the old pair goes on.
#[test]
fn a_pair_that_cannot_serve_is_refused_by_file_and_reason_and_the_old_one_serves() {
    let server = Secure::start(handover!(), "", &fixed("/", "x"));
    let handshakes = server.handshakes();
    for case in wrong_certificates().into_iter().chain(wrong_keys()) {
        (case.write)(&server);
        for words in [vec!["reload", "--certs"], vec!["reload"], vec!["reload", "--dry-run"]] {
            let output = server.handover.cli(&words);
            let said = output.all();
            assert_eq!(output.code, 10, "{}, {words:?}:\n{said}", case.what);
            assert!(said.contains(case.file), "{}: {} is not named:\n{said}", case.what, case.file);
            assert!(case.why.iter().any(|why| said.contains(why)), "{}: why?\n{said}", case.what);
        }
        assert_eq!(server.serial(), server.first.serial, "{}", case.what);
        let _ = std::fs::remove_dir(server.workspace.path("site.pem"));
        server.first.write(&server.workspace, "site");
    }
    server.handover.cli(["reload"]).expect_code(0).says("unchanged");
    assert_eq!(server.handover.control.generation(), 1);
    handshakes.finish().expect_all_good();
}

#[test]
fn an_encrypted_key_is_refused_and_says_what_to_do() {
    if !have("openssl", "an_encrypted_key_is_refused_and_says_what_to_do") {
        return;
    }
    let server = Secure::start(handover!(), "", &fixed("/", "x"));
    let locked = server.first.encrypted_key(server.workspace.root(), "secret");
    write(&server, "site.key", &locked);
    let output = server.handover.cli(["reload"]);
    assert_eq!(output.code, 10, "{}", output.all());
    for words in ["site.key", "encrypted"] {
        assert!(output.all().contains(words), "{words:?} is missing: {}", output.all());
    }
    assert!(
        !output.all().contains("secret") && !output.all().contains("PRIVATE KEY-----\n"),
        "{}",
        output.all()
    );
    assert_eq!(server.serial(), server.first.serial);
}

/// Hazard 3: also at the start, where there is nothing else to serve; and the errors of several pairs all at once.
#[test]
fn a_start_with_wrong_pairs_ends_with_10_and_tells_all_of_them() {
    let (workspace, port, authority) = (Workspace::new(), Port::claim(), Authority::new("CA"));
    let pairs: Vec<Pair> = ["one.test", "two.test", "three.test"].map(|name| authority.pair(&[name])).into();
    for (pair, name) in pairs.iter().zip(["one", "two", "three"]) {
        pair.write(&workspace, name);
    }
    pairs[1].write_key(&workspace, "one");
    workspace.remove("three.key");
    let text = tls_listener("secure", &port, &["one", "two", "three"], "") + &fixed("/", "x");
    let output = Handover::of(handover!(), &workspace).config(text).try_start().unwrap_err();
    assert_eq!(output.code, 10, "{}", output.all());
    for words in ["one.key", "three.key"] {
        assert!(output.all().contains(words), "{words:?} is missing: {}", output.all());
    }
}

/// Serving it is better than not serving at all; what a reload would newly bring in is another matter.
#[test]
fn a_certificate_that_expired_meanwhile_is_warned_of_and_served() {
    let (workspace, port, authority) = (Workspace::new(), Port::claim(), Authority::new("CA"));
    let expired = authority.leaf(&[SITE]).expired().make();
    expired.write(&workspace, "site");
    let config = |body: &str| tls_listener("secure", &port, &["site"], "") + &fixed("/", body);
    let server = Handover::of(handover!(), &workspace).config(config("1")).start();
    assert_eq!(TlsClient::curious(SITE).serial(port.address()), expired.serial);
    // The very same one again is no reason to refuse something else.
    let output = server.reload_with(config("2"));
    output.expect_code(0);
    assert!(output.all().contains("expired"), "{}", output.all());
    assert_eq!(TlsClient::curious(SITE).get(port.address(), "/").1.text(), "2");
    // Another expired one is.
    authority.leaf(&[SITE]).expired().make().write(&workspace, "site");
    assert_eq!(server.cli(["reload"]).code, 10);
    assert_eq!(TlsClient::curious(SITE).serial(port.address()), expired.serial);
    let good = authority.pair(&[SITE]);
    good.write(&workspace, "site");
    server.cli(["reload", "--certs"]).expect_code(0);
    assert_eq!(TlsClient::trusting(authority.pem(), SITE).serial(port.address()), good.serial);
}

#[test]
fn names_that_routes_need_and_no_certificate_has_are_warned_of() {
    let rest = "[[routes]]\nname = \"other\"\nhost = \"elsewhere.test\"\nfixed = \"x\"\n\n";
    let server = Secure::start(handover!(), "", &fixed("/", "x"));
    let output = server.handover.reload_with(server.config("", rest));
    output.expect_code(0);
    assert!(output.all().contains("elsewhere.test"), "{}", output.all());
}

/// Hazard 7: the gauges say at every moment whether what is desired is what runs.
#[test]
fn the_success_gauge_follows_failure_and_recovery_also_without_a_change() {
    let server = Secure::start(handover!(), "", &fixed("/", "x"));
    let gauge = || {
        let metrics = server.handover.cli(["metrics"]).expect_code(0).stdout.clone();
        let line = metrics.lines().find(|line| line.starts_with("handover_running_equals_desired "));
        line.unwrap_or_else(|| panic!("{metrics}")).rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    assert_eq!(gauge(), 1.0);
    server.another().write_key(&server.workspace, "site");
    let (status, answer) = server.handover.control.post("/v1/reload?certs", &[]);
    assert_eq!((status, text_at(operation_of(&answer), "/outcome")), (422, "rejected"), "{answer}");
    assert_eq!(gauge(), 0.0);
    // The good files are back: what runs is what is desired, and nothing had to change for it.
    server.first.write(&server.workspace, "site");
    server.handover.cli(["reload"]).expect_code(0);
    assert_eq!(gauge(), 1.0);
}

/// Hazards 3 and 12: root reads everything, so that this takes a server of another user.
#[test]
fn a_key_that_the_server_may_not_read_is_refused_with_the_errno_and_the_old_one_serves() {
    const NOBODY: u32 = 65_534;
    let test = "a_key_that_the_server_may_not_read_is_refused_with_the_errno_and_the_old_one_serves";
    if !root(test) || !have("setpriv", test) {
        return;
    }
    let (workspace, port, authority) = (Workspace::new(), Port::claim(), Authority::new("CA"));
    let first = authority.pair(&[SITE]);
    first.write(&workspace, "site");
    let config = |body: &str| tls_listener("secure", &port, &["site"], "") + &fixed("/", body);
    let server = Handover::of(handover!(), &workspace).config(config("1")).user(NOBODY).start();
    let client = TlsClient::trusting(authority.pem(), SITE);
    assert_eq!(client.serial(port.address()), first.serial);
    // As root's tools leave it: the new key belongs to root alone.
    let second = authority.pair(&[SITE]);
    second.write(&workspace, "site");
    let output = server.cli(["reload"]);
    assert_eq!(output.code, 10, "{}", output.all());
    for words in ["site.key", "Permission denied", "os error 13"] {
        assert!(output.all().contains(words), "{words:?} is missing: {}", output.all());
    }
    assert_eq!(client.serial(port.address()), first.serial);
    std::os::unix::fs::chown(workspace.path("site.key"), Some(NOBODY), None).unwrap();
    server.cli(["reload"]).expect_code(0);
    assert_eq!(client.serial(port.address()), second.serial);
}
