//! Reloads that workers ask for, because what they watch has changed.
//!
//! ```text
//!   worker ── Ask ─▶ admitted ─▶ (a reload like any other, actor "watch") ─▶ Asked ─▶ worker
//!                  └ refused, or too soon after the last ─────────────────▶ Asked: ask again later
//! ```
//!
//! A refusal stands in no history: the worker asks again by itself, perhaps for hours, and would fill it.

use std::time::{Duration, Instant};

use handover_api::{Actor, Outcome, Refused};
use handover_lifecycle::WorkerKey;
use tokio::sync::oneshot;

use super::{Driver, Input};
use crate::handle::{Ask, NewOperation, Ticket};
use crate::protocol::ToWorker;

/// How often a worker may ask; oftener, and it is told to ask again later.
const PAUSE: Duration = Duration::from_millis(200);

/// What is remembered about such requests.
#[derive(Debug, Default)]
pub(super) struct Asks {
    last: Option<Instant>,
    running: bool,
}

impl Driver {
    pub(super) fn ask_by_worker(&mut self, worker: WorkerKey, call: u64, why: String) {
        let now = Instant::now();
        let too_soon = self.asks.last.is_some_and(|last| now.duration_since(last) < PAUSE);
        if self.asks.running || too_soon {
            let detail = "it was asked for a moment ago".to_owned();
            return self.answer_worker(worker, call, false, detail);
        }
        self.asks = Asks { last: Some(now), running: true };
        let new = NewOperation { comment: Some(why), ..NewOperation::new(Ask::reload(), Actor::watch()) };
        let (admission, admitted) = oneshot::channel::<Result<Ticket, Refused>>();
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let ended = match admitted.await {
                Ok(Ok(ticket)) => ticket.done().await,
                Ok(Err(refused)) => Err(refused),
                Err(_) => Err(Refused::Unavailable("it is ending".to_owned())),
            };
            let (done, detail) = match ended {
                Ok(operation) => {
                    let served = matches!(
                        operation.outcome,
                        Some(Outcome::Applied | Outcome::AppliedWithLosses | Outcome::Unchanged)
                    );
                    (served, operation.message)
                }
                Err(refused) => (false, refused.to_string()),
            };
            let _ = inputs.send(Input::Asked { worker, call, done, detail }).await;
        });
        self.request(new, Some(admission));
    }

    pub(super) fn asked(&mut self, worker: WorkerKey, call: u64, done: bool, detail: String) {
        self.asks.running = false;
        self.answer_worker(worker, call, done, detail);
    }

    pub(super) fn answer_worker(&self, worker: WorkerKey, call: u64, done: bool, detail: String) {
        if let Some(worker) = self.workers.get(&worker) {
            tracing::debug!(worker = worker.number, done, "the reload that the worker asked for: {detail}");
            worker.send(ToWorker::Asked { call, done, detail }, Vec::new());
        }
    }
}
