//! Backup and restore: the two endpoints whose bodies are too long for one buffer.
//!
//! ```text
//!   GET  /v1/backup    what serves ─▶ archive in a memory file ─▶ out, piece by piece
//!   POST /v1/restore   in, piece by piece ─▶ memory file ─▶ every byte checked ─▶ an operation like a reload
//! ```
//!
//! One archive at a time: each may take as much memory as the files of a generation.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use handover_api::{Operation, ProblemDetails, Refused};
use handover_handoff::Bundle;
use http_body_util::BodyExt as _;
use http_body_util::channel::{Channel, Sender};
use rustix::fs::{MemfdFlags, OFlags};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::IntoParams;

use super::answer::Answer;
use super::asked::{Change, Strict, flag};
use super::changing::{new_operation, perform, refused_and_noted};
use super::looking::Asker;
use super::role::Role;
use super::server::App;
use crate::archive::{self, ArchiveError, Keys, MAX_ARCHIVE_BYTES};
use crate::handle::{Ask, Restored};
use crate::journal::now;

/// How long nothing may come before a transfer is given up.
const STALL_LIMIT: Duration = Duration::from_secs(10);
/// How long the transfer of a whole archive may take.
const TRANSFER_LIMIT: Duration = Duration::from_secs(5 * 60);
/// Bytes that are sent at a time.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces that wait for a slow reader.
const WAITING_PIECES: usize = 4;
/// The longest file of a private key that is taken from the disk.
const MAX_KEY_FILE_BYTES: u64 = 1024 * 1024;

pub(super) fn routes() -> Router<App> {
    Router::new().route("/v1/backup", get(backup)).route("/v1/restore", post(restore))
}

/// The query of `/v1/backup`.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BackupQuery {
    /// Leave every file with a private key out, and the keys of session tickets.
    #[serde(default, deserialize_with = "flag")]
    without_keys: bool,
}

/// What serves, in one file: every file of the generation, private keys too, the keys of session tickets, the last
/// operations.
#[utoipa::path(get, path = "/v1/backup", tag = "look", params(BackupQuery), responses(
    (status = 200, description = "The archive (tar in zstd); its ETag is the generation", body = String, content_type = "application/zstd"),
    (status = 403, description = "The role `admin` is needed"),
    (status = 409, description = "Nothing serves yet, or another archive is being transferred"),
))]
pub(super) async fn backup(
    State(app): State<App>,
    asker: Asker,
    Strict(query): Strict<BackupQuery>,
) -> Result<Response, Answer> {
    asker.may(Role::Admin, "a backup")?;
    let permit = turn(&app)?;
    let parts = app.driver.backup().await?.ok_or(Refused::NotStarted)?;
    let generation = parts.generation.number;
    let keys = if query.without_keys { Keys::LeftOut } else { Keys::Included };
    let made = tokio::task::spawn_blocking(move || {
        let mut file = memory_file()?;
        archive::write(&parts, keys, &now(), &mut file)?;
        let length = file.stream_position()?;
        Ok::<(File, u64), io::Error>((file, length))
    });
    let (file, length) = match made.await {
        Ok(Ok(made)) => made,
        Ok(Err(error)) => return Err(failed(&format!("the backup cannot be made: {error}"))),
        Err(_) => return Err(failed("the backup cannot be made: it ended unexpectedly")),
    };
    tracing::info!(actor = %asker.visitor.actor(), generation, bytes = length, "a backup was taken");
    let (sender, body) = Channel::<Bytes>::new(WAITING_PIECES);
    tokio::spawn(send(file, length, sender, permit));
    let headers = [
        (header::CONTENT_TYPE, "application/zstd".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::ETAG, format!("\"{generation}\"")),
    ];
    Ok((headers, Body::new(body)).into_response())
}

/// Sends an archive piece by piece. Whoever does not read it in time sees that its length was not reached.
async fn send(file: File, length: u64, mut sender: Sender<Bytes>, _permit: OwnedSemaphorePermit) {
    let pieces = async {
        let mut at = 0;
        while at < length {
            let rest = usize::try_from(length - at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let mut piece = vec![0; rest];
            if file.read_exact_at(&mut piece, at).is_err()
                || sender.send_data(Bytes::from(piece)).await.is_err()
            {
                return;
            }
            at += rest as u64;
        }
    };
    if tokio::time::timeout(TRANSFER_LIMIT, pieces).await.is_err() {
        tracing::warn!("a backup was read too slowly, and was cut off");
    }
}

/// Serve what a backup holds. The body is the archive, not encrypted.
#[utoipa::path(post, path = "/v1/restore", tag = "change",
    params(super::asked::ChangeQuery),
    request_body(content = String, description = "The archive", content_type = "application/zstd"),
    responses(
        (status = 200, description = "Applied or unchanged; with `dry_run`, what it would change", body = Operation),
        (status = 403, description = "The role `admin` is needed"),
        (status = 409, description = "Another operation runs, or a change awaits confirmation"),
        (status = 422, description = "The archive, or what it holds, is refused, and why"),
        (status = 500, description = "It was not ready, or a guard took it back"),
    ))]
pub(super) async fn restore(
    State(app): State<App>,
    asker: Asker,
    change: Change,
    body: Body,
) -> Result<Answer, Answer> {
    let (dry_run, terms) = (change.query.dry_run, change.query.terms());
    let ask = |restored| Ask::Restore { restored: Arc::new(restored), dry_run, terms };
    // The role first: a body is read only of those whose request may run.
    if asker.role < Role::Admin {
        return perform(&app, &asker, change, ask(nothing()), Role::Admin).await;
    }
    let permit = turn(&app)?;
    let file = taken_in(body).await?;
    let checked = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        archive::read(io::BufReader::new(file)).and_then(|archive| archive.restored(read_key))
    });
    let restored = match checked.await {
        Ok(Ok(restored)) => restored,
        Ok(Err(error)) => return Err(refused(&app, &asker, change, ask(nothing()), &error).await),
        Err(_) => return Err(failed("the archive cannot be checked: that ended unexpectedly")),
    };
    perform(&app, &asker, change, ask(restored), Role::Admin).await
}

/// In place of an archive that was not read, or is none.
fn nothing() -> Restored {
    let source = "a backup".to_owned();
    Restored { bundle: Bundle::new(), carried: None, source, notes: Vec::new() }
}

async fn refused(app: &App, asker: &Asker, change: Change, ask: Ask, error: &ArchiveError) -> Answer {
    let new = new_operation(asker, change, ask);
    refused_and_noted(app, new, Refused::Archive(error.to_string())).await
}

/// The turn of one archive, if none is being transferred.
fn turn(app: &App) -> Result<OwnedSemaphorePermit, Answer> {
    app.archives.clone().try_acquire_owned().map_err(|_| {
        let detail = "another backup is being taken or restored: try again when it is done";
        Answer::problem(&ProblemDetails::new(409, "busy", "Another archive is being transferred", detail))
    })
}

fn failed(detail: &str) -> Answer {
    Answer::problem(&ProblemDetails::new(500, "failed", "It could not be done", detail))
}

fn memory_file() -> io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create("handover-archive", MemfdFlags::CLOEXEC)?))
}

/// Takes a body into a memory file, from its start.
async fn taken_in(body: Body) -> Result<File, Answer> {
    let problem = |status, word: &str, detail: String| {
        Answer::problem(&ProblemDetails::new(status, word, "The archive cannot be taken in", detail))
    };
    let mut file = memory_file().map_err(|error| failed(&format!("no memory for the archive: {error}")))?;
    let pieces = async {
        let (mut body, mut length) = (body, 0_u64);
        loop {
            let frame = match tokio::time::timeout(STALL_LIMIT, body.frame()).await {
                Ok(None) => return Ok(()),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    return Err(problem(400, "incomplete", format!("it did not come whole: {error}")));
                }
                Err(_elapsed) => {
                    let detail = format!("nothing came for {} s", STALL_LIMIT.as_secs());
                    return Err(problem(408, "too_slow", detail));
                }
            };
            let Ok(data) = frame.into_data() else { continue };
            length = length.saturating_add(data.len() as u64);
            if length > MAX_ARCHIVE_BYTES {
                let detail = format!("it is longer than {MAX_ARCHIVE_BYTES} bytes");
                return Err(problem(413, "too_long", detail));
            }
            file.write_all(&data).map_err(|error| failed(&format!("no memory for the archive: {error}")))?;
        }
    };
    match tokio::time::timeout(TRANSFER_LIMIT, pieces).await {
        Ok(result) => result?,
        Err(_elapsed) => {
            let detail = format!("it did not come within {} s", TRANSFER_LIMIT.as_secs());
            return Err(problem(408, "too_slow", detail));
        }
    }
    file.seek(SeekFrom::Start(0)).map_err(|error| failed(&error.to_string()))?;
    Ok(file)
}

/// A private key that is not in the archive. Pipes and devices are not waited for.
fn read_key(path: &Path) -> io::Result<Vec<u8>> {
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_KEY_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_KEY_FILE_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_KEY_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}
