//! `GET /v1/programs/NAME/logs`: what a program wrote last, and, with `follow`, what it writes from now on.
//!
//! ```text
//!   ring of last lines ─▶ answer ─┬─ end
//!                                 └─ follow: lines as they come ─▶ reader
//!                                        │ too slow: what it missed is counted and told, not kept
//!                                        └ takes nothing for a while: it is let go
//! ```
//!
//! Text for people, a JSON object a line with `Accept: application/json`.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use handover_api::LogLine;
use hyper::body::Frame;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use utoipa::IntoParams;

use super::answer::{Answer, wants_json};
use super::asked::{Named, Strict, flag};
use super::looking::Asker;
use super::role::Role;
use super::server::App;
use crate::handle::ProgramLogs;
use crate::journal::now;

/// Lines that are shown if nobody says how many.
const DEFAULT_LINES: usize = 50;
/// The most that are kept, and shown.
const MAX_LINES: usize = 10_000;
/// Pieces that wait for a slow reader, beside the lines that are kept for it.
const WAITING_PIECES: usize = 16;
/// A reader that takes nothing for so long is gone, or hangs.
const READER_LIMIT: Duration = Duration::from_secs(30);
/// Lines that go out in one piece.
const LINES_IN_A_PIECE: usize = 256;

pub(super) fn routes() -> Router<App> {
    Router::new().route("/v1/programs/{name}/logs", get(logs))
}

/// The query of `/v1/programs/{name}/logs`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogsQuery {
    /// How many of the last lines; 50 if not given, at most 10,000.
    lines: Option<usize>,
    /// Go on with what is written from now on.
    #[serde(default, deserialize_with = "flag")]
    follow: bool,
}

/// What a program wrote last, oldest first; with `follow` also what it writes from now on, until the reader goes away.
#[utoipa::path(get, path = "/v1/programs/{name}/logs", tag = "programs",
    params(Named, LogsQuery),
    responses(
        (status = 200, description = "A line each. With `Accept: application/json` one LogLine a line, as application/x-ndjson", body = String, content_type = "text/plain"),
        (status = 503, description = "Too many streams are open"),
    ))]
pub(super) async fn logs(
    State(app): State<App>,
    asker: Asker,
    Path(Named { name }): Path<Named>,
    Strict(query): Strict<LogsQuery>,
    headers: HeaderMap,
) -> Result<Response, Answer> {
    asker.may(Role::Read, "logs")?;
    let form = if wants_json(&headers) { Form::Json } else { Form::Text };
    let lines = query.lines.unwrap_or(DEFAULT_LINES).min(MAX_LINES);
    let content_type = match form {
        Form::Json => "application/x-ndjson",
        Form::Text => "text/plain; charset=utf-8",
    };
    let head = [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-store")];
    let permit = if query.follow { Some(app.stream()?) } else { None };
    let logs = app.driver.logs(&name, lines).await?;
    let Some(permit) = permit else {
        return Ok((head, form.all(&logs.lines)).into_response());
    };
    let (sender, pieces) = mpsc::channel(WAITING_PIECES);
    tokio::spawn(follow(name, logs, form, app.ends(), sender, permit));
    Ok((head, Body::new(Pieces(pieces))).into_response())
}

/// Ends when the reader is gone or takes nothing any more, or the supervisor ends or becomes another program.
async fn follow(
    name: String,
    logs: ProgramLogs,
    form: Form,
    ends: impl Future<Output = ()>,
    sender: mpsc::Sender<Bytes>,
    _permit: OwnedSemaphorePermit,
) {
    let ProgramLogs { lines, follow: mut coming } = logs;
    let mut ends = std::pin::pin!(ends);
    let mut piece = Bytes::from(form.all(&lines));
    loop {
        if !piece.is_empty() {
            match tokio::time::timeout(READER_LIMIT, sender.send(piece)).await {
                Ok(Ok(())) => {}
                Ok(Err(_gone)) => return,
                Err(_elapsed) => {
                    return tracing::warn!(
                        program = name,
                        "a reader of logs took nothing for {READER_LIMIT:?}: let go"
                    );
                }
            }
        }
        let mut lines = Vec::new();
        tokio::select! {
            biased;
            received = coming.recv() => match received {
                Ok(line) => lines.extend(Some(line).filter(|line| line.program == name)),
                Err(RecvError::Lagged(missed)) => lines.push(missed_lines(&name, missed)),
                Err(RecvError::Closed) => return,
            },
            () = sender.closed() => return,
            () = &mut ends => return,
        }
        // What has come meanwhile goes along.
        while lines.len() < LINES_IN_A_PIECE
            && let Ok(line) = coming.try_recv()
        {
            lines.extend(Some(line).filter(|line| line.program == name));
        }
        piece = Bytes::from(form.all(&lines));
    }
}

/// The reader was too slow: lines of all programs share what is kept for it.
fn missed_lines(name: &str, missed: u64) -> LogLine {
    LogLine {
        at: now(),
        program: name.to_owned(),
        line: "(this reader was too slow: lines of this or of other programs were passed over)".to_owned(),
        left_out: missed,
        ..LogLine::default()
    }
}

/// The body of an answer that goes on. Dropped with the connection, which the sender notices even if nothing is written.
struct Pieces(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Text,
    Json,
}

impl Form {
    fn all(self, lines: &[LogLine]) -> Vec<u8> {
        let mut text = Vec::new();
        for line in lines {
            match self {
                Self::Text => text.extend_from_slice(line.text().as_bytes()),
                // Serialising this type cannot fail: it has string keys only.
                Self::Json => text.extend(serde_json::to_vec(line).unwrap_or_default()),
            }
            text.push(b'\n');
        }
        text
    }
}
