//! A program that runs only when somebody needs it: who looks for that, and what is said to the worker about it.
//!
//! ```text
//!   asleep:  a connection waits at a shared socket ─┐
//!            the worker: somebody waits ── wanted ──┴▶ Demand ─▶ started; what waits goes on when a copy is ready
//!   runs:    no connection at shared sockets, and nothing passed by the worker, for so long ─▶ Idle ─▶ nothing new, quiet, stopped
//! ```
//!
//! What comes while it is being stopped waits, and is remembered here until it may be started again. Of what the worker has said nothing
//! need be kept: each worker says it again after each word about traffic, and the next supervisor begins with one.

use std::time::{Duration, Instant};

use handover_lifecycle::program::{Event, State};
use tokio::sync::oneshot;

use super::super::actual_address;
use super::super::common::{Common, Teller};
use super::super::demand::{self, Use};
use super::super::happened::Of;
use super::super::traffic::{Quiet, Waiter};
use super::Hosted;
use crate::protocol::{Target, Wake};

/// The worker says within milliseconds whether a program is used; if not, it counts as used.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What is known of that.
#[derive(Debug, Default)]
pub(super) struct Sleep {
    /// The machine has nothing running, and wants to know of the first who comes.
    asleep: bool,
    /// The worker has said that somebody waits.
    wanted: bool,
    /// Who looks for idleness waits for the worker's answer.
    answer: Option<oneshot::Sender<Quiet>>,
}

impl Hosted {
    /// From now on it is looked for the first who comes, for idleness, or for neither.
    pub(super) fn watch(&mut self, common: &mut Common, demand: bool, idle: bool) {
        self.stop_watching();
        let known = self.current().and_then(|key| self.editions.get(&key));
        let Some(edition) = known.filter(|_| demand || idle) else { return };
        let (sockets, places): (Vec<_>, Vec<_>) =
            edition.sockets.iter().map(|shared| (shared.socket.clone(), actual_address(shared))).unzip();
        let (time, is_routed) = (edition.spec.idle.unwrap_or_default(), edition.spec.private.is_some());
        self.watches += 1;
        let (watch, teller, name) = (self.watches, common.teller(&self.name), self.name.clone());
        if demand && is_routed {
            self.sleep.asleep = true;
            // Whoever waits by now says so again.
            common.say_traffic(None);
        }
        let task = tokio::spawn(async move {
            if demand {
                if let Err(error) = demand::connection_waits(&sockets).await {
                    tracing::warn!(
                        program = name,
                        "its sockets cannot be watched, so {name} is started now: {error}"
                    );
                }
                return teller.tell(Of::Demand { watch });
            }
            let uses = || ask_use(teller.clone(), watch, is_routed);
            match demand::idle(&sockets, &places, time, uses).await {
                Ok(()) => teller.tell(Of::Idle { watch }),
                Err(error) => {
                    tracing::warn!(program = name, "{name} is not stopped when nobody uses it: {error}");
                }
            }
        });
        self.watch = Some((watch, task.abort_handle()));
    }

    pub(super) fn stop_watching(&mut self) {
        self.sleep.asleep = false;
        if let Some((_, watch)) = self.watch.take() {
            watch.abort();
        }
    }

    /// A connection waits at a shared socket.
    pub(super) fn demanded(&mut self, common: &mut Common, watch: u64) {
        if self.watch.as_ref().is_some_and(|(running, _)| *running == watch) {
            self.start_for(common, "a connection");
        }
    }

    /// The worker says that somebody waits for it. If a copy gets requests, it was said before the worker knew that.
    pub(in super::super) fn wanted(&mut self, common: &Common) {
        self.sleep.wanted |= !common.board.gets_requests(&self.name);
    }

    /// A copy gets requests from now on: who waited goes on.
    pub(super) fn nobody_waits(&mut self) {
        self.sleep.wanted = false;
    }

    /// It is started if somebody waits for it, and it may be.
    pub(in super::super) fn wake(&mut self, common: &mut Common) {
        if self.sleep.asleep && std::mem::take(&mut self.sleep.wanted) {
            self.start_for(common, "a request");
        }
    }

    fn start_for(&mut self, common: &mut Common, what: &str) {
        self.stop_watching();
        tracing::info!(program = self.name, "{what} waits for {}: it is started", self.name);
        self.step(common, Event::Demand);
    }

    /// Nobody has used it for so long.
    pub(super) fn idle(&mut self, common: &mut Common, watch: u64) {
        if self.watch.take_if(|(running, _)| *running == watch).is_some() {
            tracing::info!(
                program = self.name,
                "nobody uses {}: it is stopped until somebody does",
                self.name
            );
            self.step(common, Event::Idle);
        }
    }

    /// Who looks for idleness wants to know what is passed to it.
    pub(super) fn ask_use(&mut self, common: &mut Common, watch: u64, answer: oneshot::Sender<Quiet>) {
        if self.watch.as_ref().is_none_or(|(running, _)| *running != watch) {
            return;
        }
        self.sleep.answer = Some(answer);
        let waiter = Waiter::Use(self.name.clone());
        common.board.give_up(&waiter);
        let target = vec![Target::Program(self.name.clone())];
        let messages = common.board.await_quiet(target, Duration::ZERO, waiter, Instant::now());
        common.send(messages);
    }

    /// The worker's answer.
    pub(in super::super) fn is_used(&mut self, quiet: Quiet) {
        if let Some(answer) = self.sleep.answer.take() {
            // Nobody waits for it any more if another watch has begun.
            let _ = answer.send(quiet);
        }
    }

    /// Says to the worker whether it is started when somebody waits for it, if that has changed.
    pub(super) fn say_whether_it_wakes(&mut self, common: &mut Common) {
        if common.board.wake(&self.name, self.how_it_wakes()) {
            common.say_traffic(None);
        }
    }

    /// How it is started when somebody waits for it; `None` if it is not: not before its time, not after an operator has stopped it, and
    /// not sooner while it fails again and again.
    pub(in super::super) fn how_it_wakes(&self) -> Option<Wake> {
        let spec = self.spec().filter(|spec| spec.on_demand && spec.private.is_some())?;
        let state = self.view().state;
        let never = matches!(state, State::New | State::BackOff | State::Stopped | State::Ended);
        if never || self.leaving || self.ends || self.machine.durable().stopped {
            return None;
        }
        // It may be ending just now.
        let limit = spec.stop.limit.saturating_add(spec.ready_limit);
        Some(Wake { limit, max_held: spec.max_held })
    }
}

/// Asks what is passed to a program, if anything can be.
async fn ask_use(teller: Teller, watch: u64, is_routed: bool) -> Option<Use> {
    if !is_routed {
        return Some(Use::default());
    }
    let (answer, answered) = oneshot::channel();
    teller.tell(Of::AskUse { watch, answer });
    let quiet = tokio::time::timeout(ANSWER_LIMIT, answered).await.ok()?.ok()?;
    Some(Use { open: quiet.left.saturating_add(quiet.held), begun: quiet.begun? })
}
