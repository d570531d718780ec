//! What the control thread does about each message of the supervisor, and each notice of another thread.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::SyncSender;

use handover_handoff::Bundle;
use handover_supervisor::protocol::{
    BindResult, ListenerSpec, PROTOCOL_VERSION, Serving, Source, ToSupervisor, ToWorker,
};

use super::candidates::{Binding, Order, Pending, Ready, discard_elsewhere, panic_text};
use super::control::{Control, Served};
use super::{Notice, Number};
use crate::prepare::{BindError, Bound, CalledOff, Origin, Prepare};
use crate::types::{Losses, Problem};

/// Actions that may run at the same time.
const MAX_ACTIONS: usize = 16;

impl Control {
    /// Does what the supervisor says.
    pub(super) fn handle(&mut self, message: ToWorker, fds: Vec<OwnedFd>) {
        match message {
            ToWorker::Welcome { protocol, worker, .. } => self.welcome(protocol, worker),
            ToWorker::Prepare { candidate, generation, source, dry_run, .. } => {
                let from = (source == Source::Bundle).then(|| fds.into_iter().next());
                self.prepare(candidate, generation, from, dry_run);
            }
            ToWorker::Guard { .. }
            | ToWorker::EndGuard { .. }
            | ToWorker::Asked { .. }
            | ToWorker::Hold { .. } => {}
            ToWorker::Bound { candidate, results } => self.bound(candidate, results, fds),
            ToWorker::Commit { candidate } => self.commit(candidate),
            ToWorker::Abort { candidate } => self.abort(candidate),
            ToWorker::Drain { call, limit } => {
                let todo = self.drains.drain(Some(call), limit);
                self.carry_out(todo, Losses::default());
            }
            ToWorker::Resume { call } => {
                let todo = self.drains.resume(call);
                self.carry_out(todo, Losses::default());
            }
            ToWorker::Action { call, name, body } => self.action(call, name, body),
            ToWorker::Report { call, what } => self.errands.report(self.number(call), what),
            ToWorker::Ping { call } => self.send(&ToSupervisor::Pong { call }, &[]),
            ToWorker::Facts { metrics } => self.errands.service.facts(metrics),
            ToWorker::ReopenLogs => self.reopen_logs(),
            ToWorker::CloseListeners => self.close_listeners(),
            ToWorker::Stop { now } => {
                let todo = self.drains.stop(now, None);
                self.carry_out(todo, Losses::default());
            }
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
            }
            Notice::Resumed => {
                let todo = self.drains.resumed();
                self.carry_out(todo, Losses::default());
            }
            Notice::Failed { why } => self.fail(&why),
            Notice::Carry { .. } | Notice::AskReload { .. } => {}
        }
    }

    fn welcome(&mut self, protocol: u16, worker: u64) {
        if protocol != PROTOCOL_VERSION {
            // It will read our version in the answer, and decide.
            tracing::warn!(
                "the supervisor speaks version {protocol} of the protocol, this worker {PROTOCOL_VERSION}"
            );
        }
        self.welcomed = true;
        let key = *self.key.get_or_insert(worker);
        let serving = self.served.as_ref().map(|served| {
            Box::new(Serving {
                worker: key,
                generation: served.generation,
                listeners: served.listeners.iter().map(|(spec, _)| spec.clone()).collect(),
                settings: served.settings.clone(),
                summary: served.summary.clone(),
                accepting: self.drains.accepting(),
                version: None,
                held: Vec::new(),
                carried: false,
            })
        });
        let fds: Vec<BorrowedFd<'_>> = self.served.iter().flat_map(Served::descriptors).collect();
        let (version, actions) = (self.version.clone(), self.errands.service.actions());
        self.send(&ToSupervisor::Hello { protocol: PROTOCOL_VERSION, version, actions, serving }, &fds);
    }

    fn prepare(&mut self, candidate: u64, generation: u64, from: Option<Option<OwnedFd>>, dry_run: bool) {
        if let Some(before) = self.pending.take() {
            before.abandon();
        }
        let order = Order { number: self.number(candidate), generation, dry_run, from };
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

    fn prepared(&mut self, number: Number, result: Result<Ready, Vec<Problem>>) {
        if self.pending(number).is_none() {
            // Abandoned while its result was on the way.
            if let Ok(ready) = result {
                discard_elsewhere(ready);
            }
            return;
        }
        let candidate = number.number;
        match result {
            Err(problems) => {
                self.pending = None;
                self.send(&ToSupervisor::Rejected { candidate, problems, unreachable: false }, &[]);
            }
            Ok(ready) => {
                let message = ToSupervisor::Prepared {
                    candidate,
                    changes: ready.changes.clone(),
                    warnings: ready.warnings.clone(),
                    settings: Box::new(ready.settings.clone()),
                    summary: ready.summary.clone(),
                    version: None,
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

    /// Serves the candidate. Nothing in here may fail: a panic leaves nobody knows what, so the process ends, and the
    /// supervisor finds out with another.
    fn commit(&mut self, candidate: u64) {
        let number = self.number(candidate);
        let Some(pending) =
            self.pending.take_if(|pending| pending.number == number && pending.ready.is_some())
        else {
            tracing::error!(candidate, "the supervisor commits what is not prepared");
            return;
        };
        let Pending { generation, lent, ready, .. } = pending;
        let Some(Ready { candidate: prepared, settings, summary, bundle, memfd, .. }) = ready else { return };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| prepared.commit())) {
            return self
                .fail(&format!("committing generation {generation} panicked: {}", panic_text(&payload)));
        }
        self.served = Some(Served { generation, bundle, memfd, listeners: lent, settings, summary });
        self.send(&ToSupervisor::Committed { candidate }, &[]);
        tracing::debug!(generation, "serving");
    }

    fn abort(&mut self, candidate: u64) {
        let number = self.number(candidate);
        if let Some(pending) = self.pending.take_if(|pending| pending.number == number) {
            pending.abandon();
        }
    }

    /// The server is about to end. This process's own copies of the sockets go as well, else they would stay open.
    fn close_listeners(&mut self) {
        self.errands.service.close_listeners();
        if let Some(served) = &mut self.served {
            served.listeners.clear();
        }
    }

    fn action(&mut self, call: u64, name: String, body: String) {
        if self.actions >= MAX_ACTIONS {
            let message = format!("{MAX_ACTIONS} actions run already");
            return self.send(&ToSupervisor::ActionDone { call, ok: false, message }, &[]);
        }
        self.actions += 1;
        let generation = self.served.as_ref().map_or(0, |served| served.generation);
        let nothing = Box::new(|_: &[ListenerSpec]| None);
        let (base, origin) = (self.base.clone(), Origin::default());
        let files = Prepare::new(generation, false, base, origin, CalledOff::default(), nothing);
        self.errands.action(self.number(call), name, body, files);
    }

    /// What an action has read takes the place of the same files in what serves, so that the next supervisor, or a
    /// worker that replaces this one, gets what serves indeed.
    fn action_done(&mut self, call: Number, result: Result<String, String>, files: &Bundle) {
        self.actions = self.actions.saturating_sub(1);
        let ok = result.is_ok();
        let renewed = if ok && !files.is_empty() { self.renew(files) } else { false };
        if !self.is_of_now(call) {
            return;
        }
        let message = result.unwrap_or_else(|error| error);
        let memfd = self.served.as_ref().filter(|_| renewed).map(|served| served.memfd.as_fd());
        self.send(&ToSupervisor::ActionDone { call: call.number, ok, message }, memfd.as_slice());
    }

    /// Puts newer bytes into the bundle of what serves.
    fn renew(&mut self, files: &Bundle) -> bool {
        let Some(served) = &mut self.served else { return false };
        let mut bundle = served.bundle.clone();
        let top = bundle.top().map(std::path::Path::to_owned);
        for (path, file) in files.files() {
            let insert = if top.as_deref() == Some(path) { Bundle::insert_top } else { Bundle::insert };
            if let Err(error) = insert(&mut bundle, path, file.bytes.clone()) {
                tracing::warn!("the files that an action has read cannot be kept: {error}");
                return false;
            }
        }
        match bundle.to_memfd() {
            Ok(memfd) => {
                (served.bundle, served.memfd) = (bundle, memfd);
                true
            }
            Err(error) => {
                tracing::warn!("the files that an action has read cannot be kept: {error}");
                false
            }
        }
    }
}

impl Served {
    /// The bundle, then the listeners: the order of [`ToSupervisor::Hello`].
    fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.memfd.as_fd()).chain(self.listeners.iter().map(|(_, socket)| socket.as_fd()))
    }
}

fn broken_promise(spec: &ListenerSpec, what: &str) -> BindError {
    BindError::Refused {
        errno: 0,
        detail: format!("{}: the supervisor says that it is held, and {what}", spec.address),
    }
}
