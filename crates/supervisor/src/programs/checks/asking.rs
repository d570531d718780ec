//! One strict HTTP/1.1 request to one copy.
//!
//! ```text
//!   Contact ── request ─▶ head of the answer ─▶ the first bytes of its body ─▶ Answer
//!      └─ not accepted yet: meanwhile it is watched who does; another one's answer is not waited for
//! ```

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_LENGTH, HOST, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use super::contact::{Contact, Link, Whose};
use super::finding::Finding;
use super::{Place, Processes};

/// The longest head of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Bytes of a body that are read and kept.
pub(crate) const MAX_BODY_BYTES: usize = 8 * 1024;
/// How long somebody who has answered is looked for afterwards.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Question<'a> {
    pub(crate) method: Method,
    /// The request's target: `/health`.
    pub(crate) target: &'a str,
    pub(crate) host: &'a str,
    /// How long everything may take, the connection included.
    pub(crate) limit: Duration,
    /// When that is over.
    pub(crate) until: Instant,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The first [`MAX_BODY_BYTES`] of the body.
    pub(crate) body: String,
    /// Which process of the copy holds the connection, where that was seen.
    pub(crate) process: Option<u32>,
}

/// Asks over this connection.
///
/// # Errors
/// No answer, no HTTP, or another copy's.
pub(crate) async fn ask(
    contact: Contact,
    place: &Place,
    processes: &Processes,
    question: &Question<'_>,
) -> Result<Answer, Finding> {
    let deadline = question.until;
    let at = || place.address.to_string();
    let late = || Finding::NoAnswer { place: at(), limit: question.limit };
    let link = contact.link;
    let known = match contact.whose {
        Whose::Copys(process) => Some(Some(process)),
        _ if place.own => Some(None),
        _ => None,
    };
    let request = request(question).map_err(|why| Finding::NotHttp { place: at(), why })?;
    let talk = async {
        let why = |why: String| Finding::NotHttp { place: at(), why };
        timeout_at(deadline, exchange(contact, request)).await.map_err(|_| late())?.map_err(why)
    };
    let (status, body, process) = match known {
        Some(process) => {
            let (status, body) = talk.await?;
            (status, body, process)
        }
        None => watched(talk, link, place, processes, deadline).await?,
    };
    Ok(Answer { status, body, process })
}

/// Listens to the answer, and finds out whose it is.
async fn watched(
    talk: impl Future<Output = Result<(u16, String), Finding>>,
    link: Link,
    place: &Place,
    processes: &Processes,
    deadline: Instant,
) -> Result<(u16, String, Option<u32>), Finding> {
    let at = || place.address.to_string();
    let mut talk = pin!(talk);
    let accepted = async {
        match link.accepted(processes, deadline).await {
            Ok(Whose::Copys(process)) => Ok(process),
            Ok(Whose::Anothers) => Err(Finding::AnotherCopy { place: at(), tries: 1 }),
            Ok(Whose::Gone) => Err(Finding::ClosedAtOnce { place: at() }),
            Ok(Whose::Nobodys) => Err(Finding::NobodyAccepted { place: at() }),
            Err(error) => Err(Finding::CannotBeSeen { place: at(), why: error.to_string() }),
        }
    };
    let mut accepted = pin!(accepted);
    tokio::select! {
        process = &mut accepted => {
            let process = process?;
            let (status, body) = talk.await?;
            Ok((status, body, Some(process)))
        }
        said = &mut talk => {
            let (status, body) = said?;
            let process = tokio::time::timeout(LAST_LOOK, accepted).await;
            let process = process.unwrap_or_else(|_| Err(Finding::ClosedAtOnce { place: at() }))?;
            Ok((status, body, Some(process)))
        }
    }
}

fn request(question: &Question<'_>) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::builder()
        .method(question.method.clone())
        .uri(question.target)
        .header(HOST, question.host)
        .header(USER_AGENT, concat!("handover/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*");
    if question.method != Method::GET {
        request = request.header(CONTENT_LENGTH, "0");
    }
    // It is kept open until who has accepted it was seen; then it is closed.
    request.body(Empty::new()).map_err(|error| format!("the request cannot be written: {error}"))
}

/// The status, and the beginning of the body.
async fn exchange(contact: Contact, request: Request<Empty<Bytes>>) -> Result<(u16, String), String> {
    let say = |error: hyper::Error| match (error.is_incomplete_message(), error.is_parse()) {
        (true, _) => "it closed the connection without a whole answer".to_owned(),
        (_, true) => format!("it cannot be read: {error}"),
        _ => error.to_string(),
    };
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD_BYTES);
    let (mut sender, connection) = builder.handshake(TokioIo::new(contact.stream)).await.map_err(say)?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(say)?;
        let status = response.status().as_u16();
        Ok((status, beginning(response).await))
    };
    let (mut talk, mut connection) = (pin!(talk), pin!(connection));
    tokio::select! {
        said = &mut talk => said,
        // What was read before it ended is still there.
        _ = &mut connection => talk.await,
    }
}

/// As much of the body as is kept. A body that breaks off does not matter to the status.
async fn beginning(response: Response<hyper::body::Incoming>) -> String {
    let mut body = response.into_body();
    let mut kept = Vec::new();
    while kept.len() < MAX_BODY_BYTES
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Some(data) = frame.data_ref() {
            kept.extend_from_slice(&data[..data.len().min(MAX_BODY_BYTES - kept.len())]);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}
