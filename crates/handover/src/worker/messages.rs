//! What the control thread does about each message of the supervisor, and each notice of another thread.

use std::os::fd::{AsFd as _, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use handover_supervisor::protocol::{BindResult, ListenerSpec, Scope, Source, ToSupervisor, ToWorker};

use super::candidates::{Binding, Failed, Order, Pending, Ready, Told, discard_elsewhere, panic_text};
use super::control::{Control, Served};
use super::lasting::{self, By, Files};
use super::moves::Role;
use super::{Notice, Number};
use crate::prepare::{BindError, Bound};
use crate::service::Candidate;
use crate::types::{Losses, Problem};
use crate::watch::Came;

/// What the supervisor wants prepared.
struct Wanted {
    candidate: u64,
    generation: u64,
    dry_run: bool,
    scope: Scope,
    continues: bool,
    made: Option<String>,
}

impl Control {
    /// Does what the supervisor says.
    pub(super) fn handle(&mut self, message: ToWorker, fds: Vec<OwnedFd>) {
        match message {
            ToWorker::Welcome { protocol, oldest, worker, carried, candidate } => {
                if candidate && self.key.is_none() {
                    self.stand_by();
                }
                self.welcome([oldest, protocol], worker, carried.then(|| fds.into_iter().next()));
            }
            ToWorker::Prepare {
                candidate,
                generation,
                source,
                dry_run,
                scope,
                continues,
                given_carried,
                made,
            } => {
                let mut fds = fds.into_iter();
                let from = (source == Source::Bundle).then(|| fds.next());
                let given = given_carried.then(|| fds.next());
                let wanted = Wanted { candidate, generation, dry_run, scope, continues, made };
                self.prepare(wanted, from, given);
            }
            ToWorker::Guard { call, limits } => self.guard(call, limits),
            ToWorker::EndGuard { call, passed } => self.guards.end(call, passed),
            ToWorker::Asked { call, done, detail } => self.asks.answered(call, done, &detail),
            ToWorker::Hold { listeners } => self.hold(listeners, fds),
            ToWorker::Bound { candidate, results } => self.bound(candidate, results, fds),
            ToWorker::Commit { candidate, accept } => self.commit(candidate, accept),
            ToWorker::Abort { candidate } => self.abort(candidate),
            ToWorker::Drain { call, limit } => {
                let todo = self.drains.drain(Some(call), limit);
                self.carry_out(todo, Losses::default());
            }
            ToWorker::Resume { call } => {
                self.serve_again();
                let todo = self.drains.resume(call);
                self.carry_out(todo, Losses::default());
            }
            ToWorker::Traffic { call, traffic } => self.traffic(call, *traffic),
            ToWorker::AwaitQuiet { call, target, limit } => self.await_quiet(call, target, limit),
            ToWorker::Keep { programs } => self.keep(programs, fds),
            ToWorker::Action { call, name, body } => self.action(call, name, body),
            ToWorker::Report { call, what } => self.errands.report(self.number(call), what),
            ToWorker::Probe { call, nonce } => self.probe(call, nonce, fds.into_iter().next()),
            ToWorker::HandOver { call, within, limit, peer_pid } => {
                self.hand_over(call, [within, limit], peer_pid, fds);
            }
            ToWorker::TakeOver { call, peer_pid } => self.take_over(call, peer_pid, fds),
            ToWorker::Ping { call } => self.send(&ToSupervisor::Pong { call }, &[]),
            ToWorker::Facts { metrics } => self.errands.service.facts(metrics),
            ToWorker::ReopenLogs => self.reopen_logs(),
            ToWorker::CloseListeners => self.close_listeners(),
            ToWorker::Stop { now } => self.stop(now, None),
        }
    }

    /// Does what another thread's work came to.
    pub(super) fn note(&mut self, notice: Notice) {
        match notice {
            Notice::Need { number, specs, reply } => self.need(number, specs, reply),
            Notice::Prepared { number, result } => self.prepared(number, *result),
            Notice::ActionDone { call, result, files } => self.action_done(call, result, &files),
            Notice::Reported { call, body } if self.is_of_now(call) => {
                self.send(&ToSupervisor::Reported { call: call.number, body }, &[]);
            }
            Notice::Reported { .. } => {}
            Notice::Drained { losses } => {
                let todo = self.drains.drained();
                self.carry_out(todo, losses);
                self.giver_has_drained();
            }
            Notice::Moved { serial, notice } => self.moved(serial, notice),
            Notice::Probed { call } => self.probed(call),
            Notice::Quiet { call, quiet } => self.is_quiet(call, quiet),
            Notice::Wanted { program } => self.wanted(program),
            Notice::Resumed => {
                let todo = self.drains.resumed();
                self.carry_out(todo, Losses::default());
            }
            Notice::Failed { why } => self.fail(&why),
            Notice::Carry { bytes } => self.carry(bytes),
            Notice::AskReload { why } => self.ask(By::Service, why),
            Notice::WatchAsks { why } => self.ask(By::Watch, why),
        }
    }

    fn prepare(&mut self, wanted: Wanted, from: Option<Option<OwnedFd>>, given: Option<Option<OwnedFd>>) {
        if let Some(before) = self.pending.take() {
            before.abandon();
        }
        let Wanted { candidate, generation, dry_run, scope, continues, made } = wanted;
        let given = match given.map(lasting::read_carried).transpose() {
            Ok(given) => given,
            Err(why) => {
                let problems = vec![Problem::new(why)];
                let rejected = ToSupervisor::Rejected { candidate, problems, unreachable: false };
                return self.send(&rejected, &[]);
            }
        };
        let serving = self.served.as_ref().filter(|_| scope == Scope::Certificates && from.is_none());
        let order = Order {
            number: self.number(candidate),
            generation,
            dry_run,
            from,
            continues,
            made,
            serving: serving.map(|served| Arc::clone(&served.bundle)),
            version: serving.and_then(|served| served.version.clone()),
            carried: self.carried.as_ref().map(|carried| Arc::clone(&carried.bytes)),
            given,
        };
        self.pending = Some(Pending::start(order, &self.errands, &self.base));
    }

    /// The pending prepare, if it is this one.
    fn pending(&mut self, number: Number) -> Option<&mut Pending> {
        self.pending.as_mut().filter(|pending| pending.number == number)
    }

    /// A prepare asks for its listeners.
    fn need(&mut self, number: Number, specs: Vec<ListenerSpec>, reply: SyncSender<Binding>) {
        // If it is not the pending one, dropping `reply` tells it that nothing will come.
        let Some(pending) = self.pending(number) else { return };
        pending.asked = Some((specs.clone(), reply));
        let need = ToSupervisor::Need { candidate: number.number, listeners: specs };
        if let Err(error) = self.try_send(&need, &[]) {
            tracing::error!("listeners cannot be asked for: {error}");
            if let Some(pending) = self.pending(number) {
                pending.asked = None;
            }
        }
    }

    /// The supervisor's answer to [`Control::need`].
    fn bound(&mut self, candidate: u64, results: Vec<BindResult>, fds: Vec<OwnedFd>) {
        let number = self.number(candidate);
        let Some(pending) = self.pending(number) else { return };
        let Some((specs, reply)) = pending.asked.take() else { return };
        let (mut sockets, mut lent) = (fds.into_iter(), Vec::new());
        let dry_run = pending.dry_run;
        let mut take = |spec: &ListenerSpec, result: Option<BindResult>| match result {
            Some(BindResult::Failed { errno, detail }) => Err(BindError::Refused { errno, detail }),
            Some(BindResult::Bound) if dry_run => Ok(Bound::OnlyChecked),
            Some(BindResult::Bound) => {
                let socket = sockets.next().ok_or_else(|| broken_promise(spec, "no socket came with it"))?;
                let own = socket.try_clone().map_err(|error| BindError::Refused {
                    errno: error.raw_os_error().unwrap_or(0),
                    detail: format!("{} cannot be kept: {error}", spec.address),
                })?;
                lent.push((spec.clone(), own));
                Ok(Bound::Socket(socket))
            }
            None => Err(broken_promise(spec, "the answer leaves it out")),
        };
        let mut results = results.into_iter();
        let binding: Binding = specs.iter().map(|spec| take(spec, results.next())).collect();
        pending.lent = lent;
        // It does not wait any more only if its thread has panicked, and then its end is posted already.
        let _ = reply.send(binding);
    }

    fn prepared(&mut self, number: Number, result: Result<Ready, Failed>) {
        let Some(pending) = self.pending(number) else {
            // Abandoned while its result was on the way.
            if let Ok(ready) = result {
                discard_elsewhere(ready);
            }
            return;
        };
        let candidate = number.number;
        let is_look_at_disk = pending.from_disk && !pending.dry_run;
        match result {
            Err(Failed { problems, unreachable, seen }) => {
                self.pending = None;
                if is_look_at_disk {
                    self.asks.tried(seen);
                }
                self.send(&ToSupervisor::Rejected { candidate, problems, unreachable }, &[]);
            }
            Ok(ready) => {
                if is_look_at_disk {
                    self.asks.tried(Arc::clone(&ready.seen));
                }
                let told = &ready.told;
                let message = ToSupervisor::Prepared {
                    candidate,
                    changes: told.changes.clone(),
                    warnings: told.warnings.clone(),
                    settings: Box::new(told.settings.clone()),
                    summary: told.summary.clone(),
                    version: told.version.clone(),
                };
                let sent = self.try_send(&message, &[ready.memfd.as_fd()]);
                if let Err(error) = sent {
                    let problems =
                        vec![Problem::new(format!("the supervisor cannot be told of it: {error}"))];
                    self.pending = None;
                    discard_elsewhere(ready);
                    self.send(&ToSupervisor::Rejected { candidate, problems, unreachable: false }, &[]);
                } else if let Some(pending) = self.pending(number) {
                    pending.ready = Some(ready);
                }
            }
        }
    }

    /// Serves the candidate, or stands by with it. Nothing in here may fail: a panic leaves nobody knows what, so the process
    /// ends, and the supervisor finds out with another.
    fn commit(&mut self, candidate: u64, accept: bool) {
        let number = self.number(candidate);
        let Some(pending) =
            self.pending.take_if(|pending| pending.number == number && pending.ready.is_some())
        else {
            tracing::error!(candidate, "the supervisor commits what is not prepared");
            return;
        };
        let Pending { generation, lent, ready, from_disk, continues, given, .. } = pending;
        let Some(Ready { candidate: prepared, told, watch, bundle, memfd, seen, .. }) = ready else { return };
        let before = self.errands.service.figures();
        if !accept && self.errands.service.moving().is_none() {
            self.moves.deferred = Some(prepared);
        } else if !self.switch_to(prepared, generation) {
            return;
        }
        self.guards.committed(Instant::now(), before, self.errands.service.figures());
        let Told { settings, summary, version, .. } = told;
        let came = match (from_disk, continues) {
            (true, _) => Came::Read,
            (false, true) => Came::WasRead,
            (false, false) => Came::FromElsewhere,
        };
        let files = Files { bundle: Arc::clone(&bundle), came, seen };
        self.asks.serving(watch, files, &self.errands.post);
        self.served = Some(Served { generation, bundle, memfd, listeners: lent, settings, summary, version });
        self.send(&ToSupervisor::Committed { candidate }, &[]);
        if let Some(given) = given {
            self.carry(given.to_vec());
        }
        if accept && self.moves.role == Role::StandingBy {
            self.serve_again();
            self.errands.resume();
        }
        give_memory_back();
        tracing::debug!(generation, accept, "committed");
    }

    /// Commits. False if nobody knows what is served, and the process ends.
    fn switch_to(&mut self, prepared: Box<dyn Candidate>, generation: u64) -> bool {
        let committed = catch_unwind(AssertUnwindSafe(|| prepared.commit()));
        if let Err(payload) = &committed {
            self.fail(&format!("committing generation {generation} panicked: {}", panic_text(payload)));
        }
        committed.is_ok()
    }

    /// The same for a generation that has waited until this worker serves.
    pub(super) fn commit_deferred(&mut self, prepared: Box<dyn Candidate>) {
        let generation = self.served.as_ref().map_or(0, |served| served.generation);
        self.switch_to(prepared, generation);
    }

    fn abort(&mut self, candidate: u64) {
        let number = self.number(candidate);
        if let Some(pending) = self.pending.take_if(|pending| pending.number == number) {
            pending.abandon();
        }
    }
}

/// The generation before may have been large. Nobody waits for this, and if it cannot be done nothing is lost.
fn give_memory_back() {
    let _ = std::thread::Builder::new().name("memory".to_owned()).spawn(handover_handoff::memory::give_back);
}

fn broken_promise(spec: &ListenerSpec, what: &str) -> BindError {
    BindError::Refused {
        errno: 0,
        detail: format!("{}: the supervisor says that it is held, and {what}", spec.address),
    }
}
