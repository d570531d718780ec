//! `backup` and `restore`.
//!
//! ```text
//!   backup    server ─▶ archive, checked ─▶ (age) ─▶ FILE, 0600, whole or not at all
//!   restore   FILE ─▶ (age) ─▶ archive, checked ─┬─▶ server: an operation ─▶ with --write: files in their places
//!                                                └─▶ with --into: files below a directory, no server asked
//! ```
//!
//! An archive is checked here before anything is written or asked, so that what is wrong with it is said at once.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use handover_api::{Call, ClientError, ExitCode as Code, Generation, Operation, Outcome};
use handover_supervisor::archive::{self, Archive, Keys, MAX_ARCHIVE_BYTES, Manifest, is_encrypted};

use crate::args::{Backup, Restore};
use crate::change::{operate_then, under};
use crate::output::note;
use crate::passphrase;
use crate::place::{self, Placed};
use crate::progress::with_progress;
use crate::session::Session;

/// What an encrypted archive may have more than a plain one.
const ENCRYPTION_BYTES: u64 = MAX_ARCHIVE_BYTES / 2;
/// The name under which a configuration is unpacked that was no file.
const UNNAMED_CONFIGURATION: &str = "configuration.toml";

pub(crate) fn backup(session: &Session, backup: &Backup) -> ExitCode {
    let failed = |message: String, code: Code| session.output().failure(&message, code);
    if !backup.force && backup.file.symlink_metadata().is_ok() {
        let file = backup.file.display();
        return failed(format!("{file} is there already; --force replaces it"), Code::Usage);
    }
    let passphrase = match backup.encrypt.then(|| passphrase::new(backup.passphrase_file.as_deref())) {
        Some(Err(reason)) => return failed(reason, Code::Usage),
        Some(Ok(passphrase)) => Some(passphrase),
        None => None,
    };
    let mut call = Call::get("/v1/backup").at_most(usize::try_from(MAX_ARCHIVE_BYTES).unwrap_or(usize::MAX));
    if backup.without_keys {
        call = call.query("without_keys", "true");
    }
    session.run(async {
        let answer = match with_progress(session.client(), "backup", "", session.look(call)).await.0? {
            Ok(answer) => answer,
            Err(code) => return Ok(code),
        };
        let archive = match archive::read(&answer.body[..]) {
            Ok(archive) => archive,
            Err(error) => {
                return Ok(failed(format!("what the server sent is not used: {error}"), Code::Differs));
            }
        };
        let encrypted =
            passphrase.map(|passphrase| passphrase::encrypt(&answer.body, passphrase)).transpose();
        let bytes = match encrypted {
            Ok(Some(encrypted)) => encrypted,
            Ok(None) => answer.body.to_vec(),
            Err(error) => return Ok(failed(format!("it cannot be encrypted: {error}"), Code::Differs)),
        };
        match place::new_file(&backup.file, &bytes, backup.force) {
            Ok(()) => Ok(backed_up(session, backup, &archive.manifest, bytes.len())),
            Err(error) => {
                Ok(failed(format!("{} cannot be written: {error}", backup.file.display()), Code::Differs))
            }
        }
    })
}

fn backed_up(session: &Session, backup: &Backup, manifest: &Manifest, bytes: usize) -> ExitCode {
    let keys = match (manifest.keys, backup.encrypt) {
        (Keys::Included, true) => "private keys are in it, encrypted: without the passphrase it is of no use",
        (Keys::Included, false) => {
            "private keys are in it, and it is not encrypted: keep it where nobody else can read"
        }
        (Keys::LeftOut, _) => "private keys and ticket keys are not in it",
    };
    if session.output().is_json() {
        let json = serde_json::json!({
            "file": backup.file.display().to_string(),
            "bytes": bytes,
            "encrypted": backup.encrypt,
            "manifest": manifest,
        });
        session.output().json(json.to_string().as_bytes());
        return Code::Success.into();
    }
    let text = format!(
        "backed up: generation {} with {} in {} ({bytes} bytes); {keys}",
        manifest.generation,
        files(manifest.files.len()),
        backup.file.display(),
    );
    session.output().result(&text, Code::Success)
}

fn files(count: usize) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

pub(crate) fn restore(session: &Session, restore: &Restore) -> ExitCode {
    let (bytes, archive) = match opened(restore) {
        Ok(opened) => opened,
        Err((reason, code)) => return session.output().failure(&reason, code),
    };
    if let Some(directory) = &restore.into {
        return unpack(session, &archive, directory, restore.force);
    }
    let mut call = under(Call::post("/v1/restore"), &restore.terms).body(bytes);
    if restore.dry_run {
        call = call.query("dry_run", "true");
        if !session.output().is_json() {
            note(&contents(&archive));
        }
    }
    let what = if restore.dry_run { "validation" } else { "restore" };
    operate_then(session, what, call, &restore.operate, async |operation, code| {
        if restore.write {
            return write(session, operation, code, &archive).await;
        }
        if operation.outcome.is_some_and(Outcome::may_have_changed) {
            note(
                "the files on disk stay as they are: the next reload or start serves them, unless 'handover restore --write' puts these in their places",
            );
        }
        Ok(code.into())
    })
}

/// The archive in a file, decrypted if it is encrypted, and checked.
fn opened(restore: &Restore) -> Result<(Vec<u8>, Archive), (String, Code)> {
    let name = restore.file.display();
    let rejected = |reason: String| (format!("{name}: {reason}"), Code::Rejected);
    let file = File::open(&restore.file)
        .map_err(|error| (format!("{name} cannot be read: {error}"), Code::Usage))?;
    let most = MAX_ARCHIVE_BYTES + ENCRYPTION_BYTES;
    let mut bytes = Vec::new();
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| (format!("{name} cannot be read: {error}"), Code::Usage))?;
    if bytes.len() as u64 > most {
        return Err(rejected("this is no backup: it is too long".to_owned()));
    }
    if is_encrypted(&bytes) {
        let passphrase =
            passphrase::known(restore.passphrase_file.as_deref()).map_err(|reason| (reason, Code::Usage))?;
        bytes = passphrase::decrypt(&bytes, passphrase, MAX_ARCHIVE_BYTES).map_err(rejected)?;
    }
    let archive = archive::read(&bytes[..]).map_err(|error| rejected(error.to_string()))?;
    Ok((bytes, archive))
}

/// What is in it, in a few lines.
fn contents(archive: &Archive) -> String {
    let manifest = &archive.manifest;
    let mut text = format!(
        "{}, by {} {}: {}, {}",
        manifest.title(),
        manifest.server,
        manifest.server_version,
        files(manifest.files.len()),
        match (manifest.keys, manifest.carried.is_some()) {
            (Keys::LeftOut, _) => "without private keys",
            (Keys::Included, true) => "with private keys and ticket keys",
            (Keys::Included, false) => "with private keys",
        },
    );
    for file in &manifest.files {
        let left_out = if manifest.holds(file) { "" } else { ", left out" };
        text.push_str(&format!("\n  {} ({} bytes{left_out})", file.path.display(), file.bytes));
    }
    text
}

/// Puts the files that serve now into their places. Only those that the server says it serves, with the very same
/// bytes: an archive alone cannot make this command write anything anywhere.
async fn write(
    session: &Session,
    operation: &Operation,
    code: Code,
    archive: &Archive,
) -> Result<ExitCode, ClientError> {
    let serves =
        matches!(operation.outcome, Some(Outcome::Applied | Outcome::Unchanged | Outcome::AppliedWithLosses));
    let Some(number) = operation.serving_generation.filter(|_| serves) else {
        note("no file was written, because it is not known yet whether it serves");
        return Ok(code.into());
    };
    let generation: Generation = match session.look(Call::get(format!("/v1/generations/{number}"))).await? {
        Ok(answer) => answer.json()?,
        Err(code) => return Ok(code),
    };
    let serving: std::collections::HashSet<(&str, &str)> =
        generation.files.iter().map(|file| (file.path.as_str(), file.blake3.as_str())).collect();
    let mut wanted: Vec<(PathBuf, &Arc<[u8]>, bool)> = archive
        .files()
        .filter(|(file, _)| !file.built_in)
        .filter(|(file, _)| {
            serving.contains(&(file.path.display().to_string().as_str(), file.blake3.as_str()))
        })
        .map(|(file, bytes)| (file.path.clone(), bytes, file.key))
        .collect();
    // The top-level file is the first of an archive. Written last, it never names what is not there yet.
    wanted.reverse();
    Ok(match place::files(&wanted, true) {
        Ok(placed) => {
            note(&told(&placed, "in its place", "in their places"));
            code.into()
        }
        Err((placed, error)) => {
            note(&told(&placed, "in its place", "in their places"));
            session.output().failure(&format!("{error}; what serves is not affected"), Code::Differs)
        }
    })
}

fn told(placed: &Placed, one: &str, several: &str) -> String {
    let mut text = match (placed.written.len(), placed.same) {
        (0, same) => format!("{} on disk already, nothing was written", files(same)),
        (1, _) => format!("1 file was put {one}"),
        (n, _) => format!("{n} files were put {several}"),
    };
    for path in &placed.written {
        text.push_str(&format!("\n  {}", path.display()));
    }
    text
}

/// Unpacks an archive below a directory.
fn unpack(session: &Session, archive: &Archive, directory: &Path, force: bool) -> ExitCode {
    let failed = |reason: String| session.output().failure(&reason, Code::Differs);
    let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    let mut wanted: Vec<(PathBuf, &Arc<[u8]>, bool)> = Vec::new();
    for (file, bytes) in archive.files() {
        let path = if file.built_in {
            directory.join(UNNAMED_CONFIGURATION)
        } else {
            archive::unpacked_path(&directory, &file.path)
        };
        wanted.push((path, bytes, file.key));
    }
    let mut paths: Vec<&PathBuf> = wanted.iter().map(|(path, ..)| path).collect();
    paths.sort_unstable();
    if let Some(twice) = paths.windows(2).find(|pair| pair[0] == pair[1]) {
        return failed(archive::ArchiveError::SamePlace(twice[0].clone()).to_string());
    }
    if let Some(there) = paths.iter().find(|path| !force && path.symlink_metadata().is_ok()) {
        let reason =
            format!("{} is there already, and nothing was written; --force replaces it", there.display());
        return session.output().failure(&reason, Code::Usage);
    }
    let top = wanted.first().filter(|_| archive.manifest.files.first().is_some_and(|file| file.top));
    let top = top.map(|(path, ..)| path.clone());
    match place::files(&wanted, force) {
        Ok(_) => unpacked(session, archive, &directory, top.as_deref(), wanted.len()),
        Err((_, error)) => failed(error.to_string()),
    }
}

fn unpacked(
    session: &Session,
    archive: &Archive,
    directory: &Path,
    top: Option<&Path>,
    count: usize,
) -> ExitCode {
    let left_out: Vec<String> = archive.left_out().map(|file| file.path.display().to_string()).collect();
    if session.output().is_json() {
        let json = serde_json::json!({
            "directory": directory.display().to_string(),
            "files": count,
            "top": top.map(|top| top.display().to_string()),
            "left_out": left_out,
            "manifest": archive.manifest,
        });
        session.output().json(json.to_string().as_bytes());
        return Code::Success.into();
    }
    let mut text = format!(
        "unpacked: {} of generation {} below {}",
        files(count),
        archive.manifest.generation,
        directory.display()
    );
    if let Some(top) = top {
        text.push_str(&format!("\n  serve it with 'handover serve {}'", top.display()));
    }
    for path in left_out {
        text.push_str(&format!("\n  not in the backup, because a private key is in it: {path}"));
    }
    session.output().result(&text, Code::Success)
}
