//! Backup and restore: what serves in one file, and back, with everything checked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use handover_testkit::config::{fixed, from_file};
use handover_testkit::{Handover, Output, SITE, Secure, Workspace, handover, run, text_at};

/// A server with a certificate, a key and a body, as generation 1.
fn server() -> Secure {
    let workspace = Workspace::new();
    workspace.write("body.txt", "the body of then");
    Secure::prepared(handover!(), workspace, "", &then())
}

fn then() -> String {
    fixed("/", "then") + &from_file("/body", "body.txt")
}

/// Changes everything that the server serves.
fn change_everything(server: &Secure) {
    server.another().write(&server.workspace, "site");
    server.workspace.write("body.txt", "the body of now");
    let text = server.config("", &(fixed("/", "now") + &from_file("/body", "body.txt")));
    server.handover.reload_with(text).expect_code(0);
    assert_eq!(server.text("/"), "now");
}

fn path(server: &Secure, name: &str) -> String {
    server.workspace.path(name).display().to_string()
}

fn backup(server: &Secure, name: &str, more: &[&str]) -> String {
    let file = path(server, name);
    let mut words = vec!["backup", &file];
    words.extend(more);
    server.handover.cli(&words).expect_code(0);
    file
}

#[track_caller]
fn expect_then(server: &Secure) {
    assert_eq!((server.text("/"), server.text("/body")), ("then".to_owned(), "the body of then".to_owned()));
}

#[test]
fn a_backup_brings_everything_back_as_an_operation_with_an_outcome() {
    let server = server();
    let remembering = server.client().remembering();
    assert!(!remembering.get(server.address(), "/").0.resumed);
    let file = backup(&server, "site.backup", &[]);
    let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "{mode:o}");
    change_everything(&server);

    let dry = server.handover.cli(["restore", &file, "--dry-run"]);
    dry.expect_code(0).says(SITE);
    assert_eq!((server.text("/").as_str(), server.handover.control.generation()), ("now", 2));

    server.handover.cli(["restore", &file, "--comment", "as it was"]).expect_code(0).says("applied");
    expect_then(&server);
    assert_eq!(server.serial(), server.first.serial);
    let newest = &server.handover.control.history()[0];
    assert_eq!((text_at(newest, "/kind"), text_at(newest, "/outcome")), ("restore", "applied"), "{newest}");
    assert_eq!(server.handover.control.generation(), 3, "a new number");
    assert!(remembering.get(server.address(), "/").0.resumed, "by the ticket keys of then");
    // The files on disk are those of now, and that is said.
    server.handover.cli(["diff"]).expect_code(1);
    assert_eq!(server.handover.control.status()["rollback_in_force"], 3);
    server.handover.cli(["reload"]).expect_code(0);
    assert_eq!(server.text("/"), "now");
}

#[test]
fn restore_write_puts_the_files_in_their_places() {
    let server = server();
    let file = backup(&server, "site.backup", &[]);
    change_everything(&server);
    server.handover.cli(["restore", &file, "--write"]).expect_code(0);
    expect_then(&server);
    server.handover.cli(["diff"]).expect_code(0);
    assert_eq!(server.workspace.read("body.txt"), "the body of then");
    assert_eq!(server.workspace.read("site.key"), server.first.key);
    let mode = fs::metadata(server.workspace.path("site.key")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "{mode:o}");
}

#[test]
fn restore_into_a_directory_needs_no_server_and_overwrites_nothing() {
    let mut server = server();
    let file = backup(&server, "site.backup", &[]);
    server.handover.terminate().expect_code(0);
    let into = path(&server, "unpacked");
    let restore = |more: &[&str]| -> Output {
        let mut command = handover_testkit::command(handover!().as_ref(), &server.workspace);
        command.args(["restore", &file, "--into", &into]).args(more);
        run(command)
    };
    restore(&[]).expect_code(0);
    let found = find(Path::new(&into), "body.txt");
    assert_eq!(fs::read_to_string(&found).unwrap(), "the body of then");
    fs::write(&found, "mine").unwrap();
    assert_ne!(restore(&[]).code, 0);
    assert_eq!(fs::read_to_string(&found).unwrap(), "mine");
    restore(&["--force"]).expect_code(0);
    assert_eq!(fs::read_to_string(&found).unwrap(), "the body of then");
}

/// The file of this name somewhere below a directory.
fn find(directory: &Path, name: &str) -> std::path::PathBuf {
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                left.push(entry.path());
            } else if entry.file_name() == name {
                return entry.path();
            }
        }
    }
    panic!("no {name} below {}", directory.display());
}

#[test]
fn what_was_tampered_with_cut_or_is_no_backup_is_refused_and_nothing_changes() {
    let server = server();
    let file = backup(&server, "site.backup", &[]);
    change_everything(&server);
    let whole = fs::read(&file).unwrap();
    let broken = path(&server, "broken.backup");
    let mut cases: Vec<(String, Vec<u8>)> =
        vec![("nothing".into(), Vec::new()), ("no archive".into(), b"not an archive".repeat(20))];
    for cut in [1, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
        cases.push((format!("cut after {cut}"), whole[..cut].to_vec()));
    }
    for at in (0..whole.len()).step_by((whole.len() / 40).max(1)) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        cases.push((format!("byte {at} changed"), bytes));
    }
    for (what, bytes) in cases {
        fs::write(&broken, bytes).unwrap();
        let output = server.handover.cli(["restore", &broken]);
        // A bit that nothing depends on may be changed; then what is restored is right all the same.
        if output.code == 0 {
            expect_then(&server);
            server.handover.cli(["reload"]).expect_code(0);
        } else {
            assert!([2, 10].contains(&output.code), "{what}: {}\n{}", output.code, output.all());
            assert!(output.all().contains("broken.backup"), "{what}: {}", output.all());
        }
        assert_eq!(server.text("/"), "now", "{what}");
    }
    server.handover.cli(["restore", &file]).expect_code(0);
    expect_then(&server);
}

#[test]
fn without_keys_there_is_no_secret_in_it_and_the_keys_on_disk_are_used() {
    let server = server();
    let file = backup(&server, "bare.backup", &["--without-keys"]);
    let into = path(&server, "bare");
    server.handover.cli(["restore", &file, "--into", &into]).expect_code(0);
    let key = server.first.key.lines().nth(1).unwrap().to_owned();
    let mut left = vec![Path::new(&into).to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                left.push(entry.path());
            } else {
                let text = String::from_utf8_lossy(&fs::read(entry.path()).unwrap()).into_owned();
                assert!(!text.contains(&key) && !text.contains("PRIVATE KEY"), "{}", entry.path().display());
            }
        }
    }
    // The key on disk is still that of then: it fits.
    server.workspace.write("body.txt", "the body of now");
    server.handover.cli(["reload"]).expect_code(0);
    server.handover.cli(["restore", &file]).expect_code(0);
    expect_then(&server);
    // It is not any more: refused, and said.
    change_everything(&server);
    let output = server.handover.cli(["restore", &file]);
    assert_eq!(output.code, 10, "{}", output.all());
    assert!(output.all().contains("site.key"), "{}", output.all());
    assert_eq!(server.text("/"), "now");
}

#[test]
fn an_encrypted_backup_needs_its_passphrase_and_shows_nothing() {
    let server = server();
    server.workspace.write("passphrase", "correct horse\n");
    server.workspace.write("other", "battery staple\n");
    let (right, wrong) = (path(&server, "passphrase"), path(&server, "other"));
    let file = backup(&server, "site.age", &["--encrypt", "--passphrase-file", &right]);
    let bytes = fs::read(&file).unwrap();
    for secret in [SITE.as_bytes(), b"the body of then", b"PRIVATE KEY"] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
    change_everything(&server);
    let output = server.handover.cli(["restore", &file, "--passphrase-file", &wrong]);
    assert_ne!(output.code, 0, "{}", output.all());
    assert_eq!(server.text("/"), "now");
    server.handover.cli(["restore", &file, "--passphrase-file", &right]).expect_code(0);
    expect_then(&server);
}

#[test]
fn a_restore_can_await_confirmation_and_be_called_off() {
    let server = server();
    let file = backup(&server, "site.backup", &[]);
    change_everything(&server);
    server.handover.cli(["restore", &file, "--confirm-within", "10m"]).expect_code(0);
    expect_then(&server);
    server.handover.cli(["cancel"]).expect_code(0);
    assert_eq!(server.text("/"), "now");
}

/// What a machine that was lost is set up with again.
#[test]
fn another_machine_serves_what_was_backed_up() {
    let server = server();
    let file = backup(&server, "site.backup", &[]);
    let there = Workspace::new();
    let into = there.path("site").display().to_string();
    server.handover.cli(["restore", &file, "--into", &into]).expect_code(0);
    let Secure { mut handover, port, authority, first, workspace } = server;
    handover.terminate().expect_code(0);
    drop((handover, workspace));
    let config = find(Path::new(&into), "handover.toml");
    let name = config.strip_prefix(there.root()).unwrap().to_str().unwrap().to_owned();
    let _next = Handover::of(handover!(), &there).config_file(&name).start();
    let client = handover_testkit::TlsClient::trusting(authority.pem(), SITE);
    assert_eq!(client.get(port.address(), "/body").1.text(), "the body of then");
    assert_eq!(client.serial(port.address()), first.serial);
}
