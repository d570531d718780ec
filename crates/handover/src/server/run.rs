//! One run: one call of the program's closure, on a runtime of its own.
//!
//! ```text
//!   start ─▶ starting ── ready ──▶ serving ── drain ──▶ leaving ── over ──▶ dropped
//!               │ ended                │ ended             └── deadline ──▶ cut: the runtime is dropped,
//!               ▼                      ▼                                    and with it every connection
//!            refused            the worker is lost
//! ```
//!
//! The runtime belongs to the run because that is what makes cutting certain: a task that never looks at the
//! drain is dropped with its runtime at its next await, and its sockets are closed.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;

use super::context::{Context, Listeners};
use super::movable::Exit;
use crate::drain::{Drain, DrainEnd, LONGEST_DRAIN};
use crate::types::Losses;
use crate::worker::panic_text;

/// The program's future, with its types forgotten.
pub(crate) type Running = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// The program's closure.
pub(crate) type Body = dyn Fn(Context) -> Running + Send + Sync;

/// How often a thread that waits for readiness looks whether somebody still waits for it.
const LOOK: Duration = Duration::from_millis(20);

/// A run that was started.
pub(crate) struct Run {
    context: Context,
    /// `None` only after it was dropped in the background.
    runtime: Option<Runtime>,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("context", &self.context).finish_non_exhaustive()
    }
}

/// Why a run is not ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotReady {
    #[error("the runtime could not be started: {0}")]
    Runtime(String),
    #[error("the server ended before it was ready: {0}")]
    Ended(String),
    #[error("the server did not become ready in time")]
    Abandoned,
}

impl Run {
    /// Calls the closure. With `shut`, it gets its listeners only after [`Run::open`]. With `told`, only [`Context::ready`] makes the run ready; else the first time that its
    /// future waits for something does. `lost` is called if the future ends although nobody asked it to.
    pub(crate) fn start(
        body: &Arc<Body>,
        listeners: Arc<Listeners>,
        [told, shut]: [bool; 2],
        lost: impl FnOnce(Result<(), String>) + Send + 'static,
    ) -> Result<Self, NotReady> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("serve")
            .build()
            .map_err(|error: io::Error| NotReady::Runtime(error.to_string()))?;
        let context = Context::new(listeners, shut);
        let (body, inside) = (Arc::clone(body), context.clone());
        // The closure itself may panic too, so it is called inside the task.
        let task = runtime.spawn(async move {
            let mut future = body(inside.clone());
            std::future::poll_fn(move |cx| {
                let polled = future.as_mut().poll(cx);
                if polled.is_pending() && !told {
                    inside.ready();
                }
                polled
            })
            .await
        });
        let watched = context.clone();
        runtime.spawn(async move {
            let result = match task.await {
                Ok(result) => result,
                Err(error) if error.is_panic() => {
                    Err(format!("it panicked: {}", panic_text(&error.into_panic())))
                }
                Err(_) => return, // the runtime is being dropped
            };
            watched.end(result.clone());
            if !watched.is_draining() {
                lost(result);
            }
        });
        Ok(Self { context, runtime: Some(runtime) })
    }

    /// Lets it have its listeners.
    pub(crate) fn open(&self) {
        self.context.open();
    }

    /// Another worker serves: it is to stop accepting, and to give away what can move. A drain follows.
    pub(crate) fn move_out(&self, exit: &Arc<Exit>) {
        self.context.move_out(exit);
    }

    /// Waits until the run is ready, as long as `wanted` says that somebody waits for it.
    pub(crate) fn wait_ready(&self, wanted: impl Fn() -> bool) -> Result<(), NotReady> {
        loop {
            match self.context.wait_ready(LOOK) {
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) => return Err(NotReady::Ended(error)),
                None if wanted() => {}
                None => return Err(NotReady::Abandoned),
            }
        }
    }

    /// Asks the run to stop and waits for it. When the drain is called off, the run is let go to end by itself.
    pub(crate) fn drain(self, drain: &Drain) -> Losses {
        self.context.begin_drain(drain);
        loop {
            let seen = drain.changes();
            if self.context.is_over() {
                return Losses::default();
            }
            match drain.wait_change(seen) {
                None => {}
                Some(DrainEnd::Resumed) => {
                    self.leave_behind();
                    return Losses::default();
                }
                Some(DrainEnd::Deadline | DrainEnd::StopNow) => return self.cut(),
            }
        }
    }

    /// Cuts everything and says what that cost.
    pub(crate) fn cut(self) -> Losses {
        self.context.tracker().losses()
    }

    /// How many connections are open, by kind.
    pub(crate) fn connections(&self) -> Vec<(&'static str, u64)> {
        self.context.tracker().by_kind()
    }

    /// Lets go of the library's copies of the listening sockets.
    pub(crate) fn close_listeners(&self) {
        self.context.close_listeners();
    }

    /// Keeps the run until what it has in flight is over: nobody set a deadline any more.
    fn leave_behind(self) {
        let spawned = std::thread::Builder::new().name("leaving".to_owned()).spawn(move || {
            let losses = self.drain(&Drain::new(LONGEST_DRAIN));
            if !losses.is_empty() {
                tracing::warn!("what a drained run had left was cut after {LONGEST_DRAIN:?}: {losses}");
            }
        });
        if let Err(error) = spawned {
            tracing::warn!("connections of the drained run are cut: a thread could not be started: {error}");
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.context.cut();
        // Waiting here for tasks that block would hold up whoever drops the run.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
