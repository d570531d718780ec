//! `backup` and `restore`: files that are written whole or not at all, and what is refused before a server is asked.

use std::fs;
use std::sync::Arc;

use handover_api::{FileDigest, Generation};
use handover_supervisor::archive::{self, Keys};
use handover_supervisor::handle::BackupParts;

use super::*;

const KEY: &[u8] = b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";

/// The files of a generation: a configuration and its key.
fn parts(directory: &Path) -> BackupParts {
    let mut parts = BackupParts {
        name: "handover".to_owned(),
        version: "0.1.0".to_owned(),
        generation: Generation {
            number: 7,
            serving: true,
            committed_at: "2026-11-22T03:01:35.000Z".to_owned(),
            operation_id: None,
            source: None,
            files: Vec::new(),
            changes: Vec::new(),
            forgotten: false,
        },
        bundle: Default::default(),
        carried: None,
        history: Vec::new(),
    };
    parts.bundle.insert_top(&directory.join("site.toml"), Arc::from(&b"a = 1\n"[..])).unwrap();
    parts.bundle.insert(&directory.join("site.key"), Arc::from(KEY)).unwrap();
    parts
}

fn archived(parts: &BackupParts, keys: Keys) -> Vec<u8> {
    let mut bytes = Vec::new();
    archive::write(parts, keys, "2026-11-22T03:01:35.000Z", &mut bytes).unwrap();
    bytes
}

/// A server that gives this archive.
fn giving(archive: &[u8]) -> Canned {
    let mut response = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/zstd\r\ncontent-length: {}\r\n\r\n",
        archive.len()
    )
    .into_bytes();
    response.extend_from_slice(archive);
    canned_bytes(response)
}

/// Directory of a test, and paths in it.
struct Here(tempfile::TempDir);

impl Here {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn arg(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

#[test]
fn a_backup_is_private_whole_and_replaces_nothing_unasked() {
    let here = Here::new();
    let bytes = archived(&parts(Path::new("/etc/site")), Keys::Included);
    let file = here.arg("site.backup");
    let server = giving(&bytes);
    let output = handover(&server.path, &["backup", &file]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(server.asked().starts_with("GET /v1/backup HTTP/1.1\r\n"));
    assert!(stdout(&output).starts_with(&format!("backed up: generation 7 with 2 files in {file} (")));
    assert!(
        stdout(&output).contains("private keys are in it, and it is not encrypted"),
        "{}",
        stdout(&output)
    );
    assert_eq!(fs::read(&file).unwrap(), bytes);
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);

    // No server is asked for what would not be written.
    let output = handover(&here.at("nothing.sock"), &["backup", &file]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("--force replaces it"), "{}", stderr(&output));

    let without = archived(&parts(Path::new("/etc/site")), Keys::LeftOut);
    let server = giving(&without);
    let output = handover(&server.path, &["backup", &file, "--without-keys", "--force"]);
    assert!(server.asked().starts_with("GET /v1/backup?without_keys=true HTTP/1.1\r\n"));
    assert!(stdout(&output).contains("private keys and ticket keys are not in it"), "{}", stdout(&output));
    assert_eq!(fs::read(&file).unwrap(), without);
    assert_eq!(here.names(), ["site.backup"]);
}

#[test]
fn a_backup_that_comes_damaged_is_not_kept() {
    let here = Here::new();
    let bytes = archived(&parts(Path::new("/etc/site")), Keys::Included);
    let output = handover(&giving(&bytes[..bytes.len() - 9]).path, &["backup", &here.arg("site.backup")]);
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("what the server sent is not used: the backup is cut short"),
        "{}",
        stderr(&output)
    );
    assert!(here.names().is_empty());
}

#[test]
fn a_backup_is_encrypted_to_a_passphrase_and_recognised_by_itself() {
    let here = Here::new();
    let bytes = archived(&parts(Path::new("/etc/site")), Keys::Included);
    let (file, pass) = (here.arg("site.age"), here.arg("pass"));
    fs::write(&pass, "correct horse\n").unwrap();
    fs::set_permissions(&pass, Permissions::from_mode(0o600)).unwrap();
    let output = handover(&giving(&bytes).path, &["backup", &file, "--encrypt", "--passphrase-file", &pass]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(archive::is_encrypted(&fs::read(&file).unwrap()));
    let into = here.arg("into");
    let nowhere = here.at("nothing.sock");
    let output = handover(&nowhere, &["restore", &file, "--into", &into, "--passphrase-file", &pass]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(fs::read(here.at("into/etc/site/site.key")).unwrap(), KEY);
    fs::write(&pass, "wrong\n").unwrap();
    let output = handover(&nowhere, &["restore", &file, "--passphrase-file", &pass]);
    assert_eq!(code(&output), 10);
    assert!(stderr(&output).contains("the passphrase is not the right one"), "{}", stderr(&output));
    // There is no terminal to ask on.
    let output = handover(&nowhere, &["restore", &file]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("--passphrase-file"), "{}", stderr(&output));
}

#[test]
fn a_restore_into_a_directory_needs_no_server_and_replaces_nothing_unasked() {
    let here = Here::new();
    let nowhere = here.at("nothing.sock");
    fs::write(here.at("site.backup"), archived(&parts(Path::new("/etc/../srv/site")), Keys::Included))
        .unwrap();
    let arguments = ["restore", &here.arg("site.backup"), "--into", &here.arg("into")];
    let output = handover(&nowhere, &arguments);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let top = here.at("into/srv/site/site.toml");
    assert!(stdout(&output).contains(&format!("handover serve {}", top.display())), "{}", stdout(&output));
    assert_eq!(fs::read(&top).unwrap(), b"a = 1\n");
    assert_eq!(fs::metadata(here.at("into/srv/site/site.key")).unwrap().mode() & 0o7777, 0o600);
    fs::write(&top, "changed since").unwrap();
    let output = handover(&nowhere, &arguments);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("nothing was written"), "{}", stderr(&output));
    assert_eq!(fs::read(&top).unwrap(), b"changed since");
    assert_eq!(code(&handover(&nowhere, &[&arguments[..], &["--force"]].concat())), 0);
    assert_eq!(fs::read(&top).unwrap(), b"a = 1\n");
}

#[test]
fn what_is_no_backup_is_refused_before_a_server_is_asked() {
    let here = Here::new();
    fs::write(here.at("not-one"), "text").unwrap();
    for (file, expected, says) in
        [("not-one", 10, "this is no backup of handover"), ("missing", 2, "No such file or directory")]
    {
        let output = handover(&here.at("nothing.sock"), &["restore", &here.arg(file)]);
        assert_eq!(code(&output), expected, "{}", stderr(&output));
        assert!(stderr(&output).contains(says) && stderr(&output).contains(file), "{}", stderr(&output));
    }
}

/// A server that answers a restore as applied, and then which files serve.
#[test]
fn only_files_that_serve_are_put_in_their_places() {
    let here = Here::new();
    let parts = parts(here.0.path());
    fs::write(here.at("site.backup"), archived(&parts, Keys::Included)).unwrap();
    fs::write(here.at("site.toml"), "old").unwrap();
    let mut ended = operation(Kind::Restore);
    ended.serving_generation = Some(8);
    ended.finish(Outcome::Applied, Cause::Done, 3.0);
    let mut generation = parts.generation.clone();
    // The key is in the archive, and not among what serves.
    generation.files = vec![FileDigest {
        path: here.arg("site.toml"),
        bytes: 6,
        blake3: parts.bundle.files().next().unwrap().1.digest.clone(),
    }];
    let answer = |json: String| {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{json}",
            json.len()
        )
        .into_bytes()
    };
    let server = canned_in_turn(vec![
        answer(serde_json::to_string(&ended).unwrap()),
        answer(serde_json::to_string(&generation).unwrap()),
    ]);
    let output = handover(&server.path, &["restore", &here.arg("site.backup"), "--write"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(server.asked().starts_with("POST /v1/restore HTTP/1.1\r\n"));
    assert!(server.asked().starts_with("GET /v1/generations/8 HTTP/1.1\r\n"));
    assert!(stderr(&output).contains("1 file was put in its place"), "{}", stderr(&output));
    assert_eq!(fs::read(here.at("site.toml")).unwrap(), b"a = 1\n");
    assert_eq!(here.names(), ["site.backup", "site.toml"]);
}

#[test]
fn without_write_the_files_on_disk_stay_and_that_is_said() {
    let here = Here::new();
    fs::write(here.at("site.backup"), archived(&parts(here.0.path()), Keys::Included)).unwrap();
    let mut ended = operation(Kind::Restore);
    ended.finish(Outcome::Applied, Cause::Done, 3.0);
    let server = answered(&ended);
    let output = handover(&server.path, &["restore", &here.arg("site.backup"), "--confirm-within", "1m"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(server.asked().starts_with("POST /v1/restore?confirm_within=60000ms HTTP/1.1\r\n"));
    assert!(stderr(&output).contains("the files on disk stay as they are"), "{}", stderr(&output));
    assert_eq!(here.names(), ["site.backup"]);
}
