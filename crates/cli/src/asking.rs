//! Asking for an operation, and asking again how it ended when the connection breaks before the answer is whole.
//!
//! ```text
//!   POST ──▶ answer
//!     └─✂ GET /v1/operations/ID ──┬─▶ it ended: that is the answer
//!              ▲                  ├─▶ it runs: wait there
//!              └── a little later ┴── nobody answers (a supervisor that becomes another binary, or is replaced)
//! ```

use std::time::{Duration, Instant};

use handover_api::{Answer, Call, Client, ClientError, Operation, OperationState, percent_encoded};

/// How long nobody may answer before the outcome counts as unknown.
const SILENCE: Duration = Duration::from_secs(3);
/// How long until it is asked again.
const PAUSE: Duration = Duration::from_millis(50);
/// How long one request for the outcome may be held by the server.
const HELD: &str = "30s";

/// What the server answers to `call`, or says about the operation `id` that it made. With `detached`, that it runs is
/// answer enough.
pub(crate) async fn answered(
    client: &Client,
    call: Call,
    id: &str,
    detached: bool,
) -> Result<Answer, ClientError> {
    match client.send(call).await {
        Err(lost @ ClientError::Lost { .. }) => asked_again(client, id, detached).await.ok_or(lost),
        answer => answer,
    }
}

/// The operation `id`, asked for until it has ended, at most for `limit`; across a supervisor that becomes another binary,
/// which answers nobody who waits.
///
/// # Errors
/// Of the first request; and of the last one, if nobody answers any more.
pub(crate) async fn ended(client: &Client, id: &str, limit: Duration) -> Result<Answer, ClientError> {
    let begun = Instant::now();
    let mut heard: Option<Instant> = None;
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        let path = format!("/v1/operations/{}", percent_encoded(id));
        match client.send(Call::get(path).query("timeout", &format!("{}ms", left.as_millis()))).await {
            Ok(answer) => {
                let runs = || {
                    let operation = answer.json::<Operation>().ok();
                    operation.is_some_and(|operation| operation.state == OperationState::Running)
                };
                if begun.elapsed() >= limit || answer.status != 200 || !runs() {
                    return Ok(answer);
                }
                heard = Some(Instant::now());
            }
            Err(error) => match heard {
                Some(heard) if heard.elapsed() < SILENCE && begun.elapsed() < limit => {}
                _ => return Err(error),
            },
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The operation as it ended; nothing if nobody answers, or nobody knows of it.
async fn asked_again(client: &Client, id: &str, detached: bool) -> Option<Answer> {
    let mut heard = Instant::now();
    loop {
        let path = format!("/v1/operations/{}", percent_encoded(id));
        let call = if detached { Call::get(path) } else { Call::get(path).query("timeout", HELD) };
        match client.send(call).await {
            Ok(answer) if answer.status == 200 => {
                let operation: Operation = answer.json().ok()?;
                if detached || operation.state == OperationState::Done {
                    return Some(answer);
                }
                heard = Instant::now();
            }
            // It does not know its state yet, or not any more.
            Ok(answer) if answer.status == 503 => {}
            Ok(_) => return None,
            Err(ClientError::Lost { .. } | ClientError::NotRunning { .. } | ClientError::Connect { .. }) => {}
            Err(_) => return None,
        }
        if heard.elapsed() > SILENCE {
            return None;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
