//! `GET /v1/events`: what happens, as server-sent events (HTML Living Standard, 9.2).

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use handover_api::{Event, EventKind};
use http_body_util::channel::{Channel, Sender};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, broadcast};

use super::answer::Answer;
use super::looking::Asker;
use super::role::Role;
use super::server::App;
use crate::journal::now;

/// A comment is sent when nothing happens for this long, so that a dead reader is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events that wait for a slow reader, beside those that the broadcast keeps.
const WAITING_EVENTS: usize = 16;

pub(super) fn routes() -> Router<App> {
    Router::new().route("/v1/events", get(events))
}

/// What happens from now on, until the reader goes away or the supervisor ends.
#[utoipa::path(get, path = "/v1/events", tag = "look", responses(
    (status = 200, description = "Server-sent events; the data of each is an Event", body = Event, content_type = "text/event-stream"),
    (status = 503, description = "Too many streams are open"),
))]
pub(super) async fn events(State(app): State<App>, asker: Asker) -> Result<Response, Answer> {
    if let Some(refused) = asker.refusal(Role::Read, "events") {
        return Err(refused.into());
    }
    let permit = app.stream()?;
    let (sender, body) = Channel::<Bytes>::new(WAITING_EVENTS);
    tokio::spawn(forward(app.driver.subscribe(), app.ends(), sender, permit));
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::new(body)).into_response())
}

/// Ends when the reader is gone (sending fails), or the supervisor ends or becomes another program (then readers come
/// again).
async fn forward(
    mut events: broadcast::Receiver<Event>,
    ends: impl Future<Output = ()>,
    mut sender: Sender<Bytes>,
    _permit: OwnedSemaphorePermit,
) {
    let mut ends = std::pin::pin!(ends);
    // The head of the answer goes out with the first byte: a reader learns at once that it is heard.
    let mut next = Some(Bytes::from_static(b": listening\n\n"));
    loop {
        if let Some(bytes) = next.take()
            && sender.send_data(bytes).await.is_err()
        {
            return;
        }
        next = tokio::select! {
            biased;
            event = events.recv() => match event {
                Ok(event) => Some(frame(&event)),
                Err(RecvError::Lagged(missed)) => Some(frame(&missed_events(missed))),
                Err(RecvError::Closed) => return,
            },
            () = &mut ends => return,
            () = tokio::time::sleep(KEEP_ALIVE) => Some(Bytes::from_static(b":\n\n")),
        };
    }
}

fn missed_events(missed: u64) -> Event {
    Event {
        kind: EventKind::Notice,
        at: now(),
        message: format!(
            "{missed} events were not read in time and are lost; the history has the operations"
        ),
        operation: None,
    }
}

/// JSON has no line feeds outside of strings, and inside they are escaped: one `data` line is enough.
fn frame(event: &Event) -> Bytes {
    let json = serde_json::to_string(event).unwrap_or_default();
    let name = serde_json::to_string(&event.kind).unwrap_or_default();
    Bytes::from(format!("event: {}\ndata: {json}\n\n", name.trim_matches('"')))
}
