//! Programs: commands in any language that the supervisor starts, watches and retires.
//!
//! ```text
//!   driver ── ask, apply, examine, stop ─▶ Programs ── one pure machine each ─▶ effects
//!      ▲                                      ▲                                   │
//!      └──────────────── Out ─────────────────┤                                   ▼
//!                                             └── Happened ◀── tasks: start, prove, hook, wait, watch
//! ```
//!
//! Nothing here waits in the driver's task: what may take long is a task of its own, has a deadline, and comes back as a
//! [`Happened`] through [`Programs::next`]. After every call the driver takes what is to be done from [`Programs::out`].
//!
//! | about | modules |
//! |---|---|
//! | what is asked, what is said, what has come of tasks | `asked`, `names` (who is meant), `out`, `happened` |
//! | all programs together | `applying`, `order`, `looking`, `common` (what they share) |
//! | one program | `hosted`: copies that stay, decided by the pure machine; `served`, with `inetd`: a process for a connection |
//! | what a copy is made from, and what it gets | `editions`, `private` (an address of its own), `copy`, `groups`, `notify` |
//! | what is found out about it | `checks` (is it ready?), `connections`, `demand` (does anybody want it?), `output` |
//! | what it is told, and commands beside it | `reloading`, `commands` |
//! | requests to it | `traffic` (what the worker is told), `flows` (pause, resume, drain, enable) |
//! | what outlives this process, or a crash | `saving`, `state`, `leftovers` |

mod applying;
mod asked;
mod checks;
mod commands;
mod common;
mod connections;
mod copy;
mod demand;
mod editions;
mod flows;
mod groups;
mod happened;
mod hosted;
mod inetd;
mod leftovers;
mod looking;
mod names;
mod notify;
mod order;
mod out;
mod output;
mod private;
mod reloading;
mod saving;
mod served;
mod state;
mod traffic;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use handover_api::Losses;
use handover_lifecycle::OperationKey;
use tokio::sync::mpsc;

use crate::protocol::{Address, Names, Traffic};
use common::Common;
use copy::SavedCopy;
use editions::Edition;
use flows::{Flows, Scene};
use happened::Inner;
use hosted::Hosted;
use inetd::SavedProcess;
use order::{All, Ending, Exam};
use served::Served;
use traffic::{PausedBy, Quiet, Waiter};

pub(crate) use asked::Asker;
pub use asked::{Asked, GUARD_TIME, What};
pub(crate) use happened::Happened;
pub(crate) use out::{Ended, Kept, Out, Said};
pub(crate) use output::log_to;

/// What programs need to know of their server.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// The server's name.
    pub(crate) name: String,
    /// The directory of the control socket: `NAME.programs/` in it has the sockets of copies.
    pub(crate) runtime: PathBuf,
    /// The state directory: `programs/state.json` in it says which slots serve.
    pub(crate) state: PathBuf,
}

/// A socket that the generation holds for programs.
#[derive(Debug, Clone)]
pub(crate) struct SharedSocket {
    /// The listener's name: for programs, the program's.
    pub(crate) listener: String,
    /// As it was asked for.
    pub(crate) address: Address,
    /// Where it really listens (`127.0.0.1:41234` where port 0 was asked for).
    pub(crate) actual: String,
    /// The socket.
    pub(crate) socket: Arc<OwnedFd>,
}

impl SharedSocket {
    /// What tells it from all others, whoever has a descriptor of it. `None` if the system does not say.
    fn identity(&self) -> Option<u64> {
        rustix::fs::fstat(&self.socket).ok().map(|stat| stat.st_ino)
    }
}

/// Sockets of a generation. Those that no program names are let go of at once.
pub(crate) type Sockets = Vec<SharedSocket>;

/// Where a shared socket really listens, as an address.
fn actual_address(shared: &SharedSocket) -> Address {
    match shared.actual.parse() {
        Ok(address) => Address::Tcp(address),
        Err(_) => shared.address.clone(),
    }
}

/// All programs.
#[derive(Debug)]
pub(crate) struct Programs {
    common: Common,
    all: All,
    /// Those whose connections are accepted, or looked for, here.
    served: BTreeMap<String, Served>,
    names: Names,
    flows: Flows,
    happened: mpsc::UnboundedReceiver<Happened>,
    exam: Option<Exam>,
    /// Everything ends.
    ending: Option<Ending>,
    /// Nothing new is begun: this process is about to become another program.
    resting: bool,
    /// Copies of an earlier life that nothing else is known of.
    leftovers: Vec<SavedCopy>,
    /// Processes of an earlier life that serve connections, with the names of their programs.
    found: Vec<(String, SavedProcess)>,
    /// What was said once.
    said: Told,
}

/// What the driver was told, and need not be told again.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    settled: bool,
    all_ended: bool,
    stopped: bool,
}

impl Programs {
    /// None yet. What an earlier life has left on the disk is read.
    pub(crate) fn new(setup: Setup) -> Self {
        let mut programs = Self::empty(setup);
        programs.leftovers = programs.common.read_state();
        programs.found = leftovers::noted(&programs.common.place);
        programs
    }

    fn empty(setup: Setup) -> Self {
        let (sender, happened) = mpsc::unbounded_channel();
        Programs {
            common: Common::new(&setup, sender),
            all: All::new(),
            served: BTreeMap::new(),
            names: Names::default(),
            flows: Flows::default(),
            happened,
            exam: None,
            ending: None,
            resting: false,
            leftovers: Vec::new(),
            found: Vec::new(),
            said: Told::default(),
        }
    }

    /// Ends the processes of an earlier life that still run (but not those that serve one connection), and says which: before
    /// anything is bound, and only at a start that takes over from nobody. Bounded.
    pub(crate) async fn end_leftovers(setup: &Setup) -> Vec<String> {
        leftovers::end(setup).await
    }

    /// The next thing that happened, a deadline included. Cancel-safe. Never ready as long as there is nothing to wait for.
    pub(crate) async fn next(&mut self) -> Happened {
        let deadline = self.deadline().map(tokio::time::Instant::from_std);
        let time = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(happened) = self.happened.recv() => happened,
            () = time => Happened(Inner::Deadline),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if self.resting {
            return None;
        }
        let served = self.served.values().filter_map(Served::deadline);
        let machines = self.all.values().filter_map(Hosted::deadline).chain(served).min();
        let machines = machines.and_then(|at| self.common.moment(at));
        let ending = self.ending.as_ref().filter(|_| !self.said.stopped).map(Ending::deadline);
        machines.into_iter().chain(self.common.board.deadline()).chain(ending).min()
    }

    /// Takes in what happened.
    pub(crate) fn take(&mut self, happened: Happened) {
        match happened.0 {
            Inner::Deadline => {}
            Inner::Of(program, what) => {
                if let Some(hosted) = self.all.get_mut(&program) {
                    hosted.happened(&mut self.common, what);
                }
            }
            Inner::OfServed(program, what) => {
                if let Some(served) = self.served.get_mut(&program) {
                    served.happened(&mut self.common, what);
                }
            }
            Inner::Written(result) => {
                if let Err(why) = &result {
                    tracing::error!("{why}; a start after a crash would not know which slots serve");
                }
                for (program, call) in self.common.written(result.is_ok()) {
                    if let Some(hosted) = self.all.get_mut(&program) {
                        hosted.saved(&mut self.common, call, result.is_ok());
                    }
                    if let Some(served) = self.served.get_mut(&program) {
                        served.saved(&mut self.common, call, result.is_ok());
                    }
                }
            }
        }
        self.go_on();
    }

    /// What follows from all that has happened until now.
    fn go_on(&mut self) {
        if self.resting {
            return;
        }
        for hosted in self.all.values_mut() {
            hosted.time(&mut self.common);
            hosted.wake(&mut self.common);
        }
        for served in self.served.values_mut() {
            served.time(&mut self.common);
        }
        self.end_pauses();
        if let Some(exam) = &mut self.exam {
            exam.go_on(&mut self.common, &mut self.all);
        }
        self.remove_those_that_left();
        if let Some(ending) = &mut self.ending {
            let are_over = self.served.values().all(Served::is_over);
            if !self.said.stopped && ending.go_on(&mut self.common, &mut self.all, are_over) {
                self.said.stopped = true;
                let losses = std::mem::take(&mut self.common.lost);
                let clean = are_over && self.all.values().all(Hosted::is_over) && losses.is_empty();
                self.common.place.remove();
                self.common.out.push(Out::Stopped { clean, losses });
            }
            return;
        }
        loop {
            let ready = order::ready_to_begin(&self.all, &self.served);
            if ready.is_empty() {
                break;
            }
            for name in ready {
                // Both, where one is on its way out and the other comes.
                if let Some(hosted) = self.all.get_mut(&name) {
                    hosted.begin(&mut self.common);
                }
                if let Some(served) = self.served.get_mut(&name) {
                    served.begin(&mut self.common);
                }
            }
        }
        self.tell_whole();
    }

    /// What is true of all programs together.
    fn tell_whole(&mut self) {
        if !self.said.settled && !self.all.is_empty() && self.is_settled() {
            self.said.settled = true;
            self.common.out.push(Out::Settled);
        }
        let all_ended = !self.all.is_empty()
            && self.served.is_empty()
            && self.all.values().all(|hosted| hosted.has_ended() && hosted.is_over());
        if all_ended && !self.said.all_ended {
            let mut codes = self.all.values().map(Hosted::code);
            let code = match self.all.len() {
                1 => codes.next().unwrap_or(0),
                _ => u8::from(codes.any(|code| code != 0)),
            };
            self.common.out.push(Out::AllEnded { code });
        }
        self.said.all_ended = all_ended;
    }

    fn end_pauses(&mut self) {
        let now = Instant::now();
        let over = self.common.board.resume(|paused| paused.until <= now);
        if over.is_empty() {
            return;
        }
        for paused in &over {
            if matches!(paused.by, PausedBy::Operator(_)) {
                let notice = format!("the pause of {} is over: nobody resumed it in time", paused.target);
                self.common.out.push(Out::Notice(notice));
            }
        }
        self.common.say_traffic(None);
    }

    fn remove_those_that_left(&mut self) {
        let (common, before, all) = (&mut self.common, self.served.len(), &self.all);
        self.served.retain(|name, served| {
            let has_left = served.is_leaving() && served.is_over();
            // What is known of the name is now another's, which has copies.
            if has_left && !all.contains_key(name) {
                common.forget_program(name);
            }
            !has_left
        });
        if self.served.len() != before {
            common.out.push(Out::Keep);
        }
        let in_exam = |hosted: &Hosted| hosted.is_nothing() && self.exam.is_none();
        let left: Vec<String> = self
            .all
            .values()
            .filter(|hosted| hosted.has_left() || in_exam(hosted))
            .map(|hosted| hosted.name.clone())
            .collect();
        for name in left {
            let Some(mut hosted) = self.all.remove(&name) else { continue };
            let again = hosted.take_again();
            match self.served.contains_key(&name) {
                true => self.common.forget_traffic(&name),
                false => self.common.forget_program(&name),
            }
            if let Some((edition, keys)) = again {
                let mut hosted = Hosted::new(&name, keys);
                hosted.apply(&mut self.common, edition, false);
                self.all.insert(name, hosted);
            } else {
                self.common.say_traffic(None);
            }
        }
    }

    /// A carried operation begins. It ends with [`Out::Ended`], at once or within [`Programs::limit`].
    pub(crate) fn ask(&mut self, operation: OperationKey, asked: &Asked, asker: Asker) {
        if asked.what.is_about_traffic() {
            let mut scene = Scene {
                common: &mut self.common,
                hosted: &self.all,
                served: &self.served,
                names: &self.names,
            };
            self.flows.ask(&mut scene, operation, asked, &asker);
            return self.go_on();
        }
        let name = asked.program().unwrap_or_default();
        if let Some(served) = self.served.get_mut(name).filter(|served| !served.is_leaving()) {
            served.ask(&mut self.common, operation, &asked.what, asker);
            return self.go_on();
        }
        match self.all.get_mut(name).filter(|hosted| !hosted.is_leaving()) {
            Some(hosted) => hosted.ask(&mut self.common, operation, &asked.what, asker),
            None => {
                let why = format!("there is no program {name:?} any more");
                flows::refuse(&mut self.common, operation, why);
            }
        }
        self.go_on();
    }

    /// The longest time that it may take.
    pub(crate) fn limit(&self, asked: &Asked) -> Duration {
        if asked.what.is_about_traffic() {
            return flows::longest(&asked.what);
        }
        let served = asked.program().and_then(|name| self.served.get(name));
        if let Some(served) = served {
            return served.longest(&asked.what);
        }
        let hosted = asked.program().and_then(|name| self.all.get(name));
        hosted.map_or(Duration::from_secs(5), |hosted| hosted.longest(&asked.what))
    }

    /// It is to end as soon as possible, with what served before serving on; [`Out::Ended`] follows.
    pub(crate) fn call_off(&mut self, operation: OperationKey) {
        if !self.flows.call_off(&mut self.common, operation) {
            let common = &mut self.common;
            let _ = self.all.values_mut().any(|hosted| hosted.call_off(common, operation))
                || self.served.values_mut().any(|served| served.call_off(common, operation));
        }
        self.go_on();
    }

    /// For a new worker, before its `Commit`. Its call is never that of a message of [`Out::ToWorker`]'s.
    pub(crate) fn traffic(&self) -> Traffic {
        self.common.board.traffic(Instant::now())
    }

    /// The worker that serves has answered.
    pub(crate) fn worker_said(&mut self, said: Said) {
        match said {
            Said::TrafficSet { call } => {
                for waiter in self.common.board.set(call) {
                    match waiter {
                        Waiter::Machine(program, call) => {
                            if let Some(hosted) = self.all.get_mut(&program) {
                                hosted.traffic_set(&mut self.common, call);
                            }
                        }
                        Waiter::Flow(operation) => self.flows.set(&mut self.common, operation),
                        Waiter::Figures(_) | Waiter::Use(_) => {}
                    }
                }
            }
            Said::Quiet { call, left, held, begun } => self.quiet(call, Quiet { left, held, begun }),
        }
        self.go_on();
    }

    fn quiet(&mut self, call: u64, said: Quiet) {
        match self.common.board.quiet(call, said) {
            Some((Waiter::Machine(program, call), quiet)) => {
                if let Some(hosted) = self.all.get_mut(&program) {
                    hosted.quiet(&mut self.common, call, quiet);
                }
            }
            Some((Waiter::Flow(operation), quiet)) => self.flows.quiet(&mut self.common, operation, quiet),
            Some((Waiter::Figures(program), quiet)) => {
                if let Some(hosted) = self.all.get_mut(&program) {
                    hosted.held(&mut self.common, quiet.held);
                }
            }
            Some((Waiter::Use(program), quiet)) => {
                if let Some(hosted) = self.all.get_mut(&program) {
                    hosted.is_used(quiet);
                }
            }
            None => {}
        }
    }

    /// Somebody waits for this program, says the worker that serves.
    pub(crate) fn wanted(&mut self, program: &str) {
        if let Some(hosted) = self.all.get_mut(program) {
            hosted.wanted(&self.common);
        }
        self.go_on();
    }

    /// Another worker serves: what waits for an answer is asked again.
    pub(crate) fn worker_changed(&mut self) {
        let messages = self.common.board.again(Instant::now());
        self.common.send(messages);
        self.go_on();
    }

    /// The server is about to drain and stop: what is held goes on, nothing is held any more.
    pub(crate) fn ending(&mut self) {
        self.common.board.end();
        self.common.say_traffic(None);
    }

    /// Everything ends, in reverse order of `after`; [`Out::Stopped`] follows, at the latest after `limit` and the kill.
    pub(crate) fn stop(&mut self, limit: Duration) {
        self.ending = Some(Ending::new(limit));
        self.common.lost = Losses::default();
        for served in self.served.values_mut() {
            served.end(&mut self.common, Some(limit), false);
        }
        self.go_on();
    }

    /// How long it may take until all have ended once [`Programs::stop`] is called without a hurry; `None` if there are no
    /// programs.
    pub(crate) fn longest_stop(&self) -> Option<Duration> {
        // One after the other, in the worst case.
        let own = self.all.values().map(Hosted::longest_stop).sum::<Duration>();
        let served = self.served.values().map(Served::longest_stop).max().unwrap_or_default();
        (!self.all.is_empty() || !self.served.is_empty()).then(|| own.max(served))
    }

    /// What the driver is to do, oldest first.
    pub(crate) fn out(&mut self) -> Vec<Out> {
        let mut out = std::mem::take(&mut self.common.out);
        // However often it has changed: once is enough.
        let mut keeps = out.iter().filter(|out| matches!(out, Out::Keep)).count();
        out.retain(|out| {
            !matches!(out, Out::Keep) || {
                keeps -= 1;
                keeps == 0
            }
        });
        out
    }

    /// Whether every program has been ready, or has failed, since it was first applied; see [`Out::Settled`].
    pub(crate) fn is_settled(&self) -> bool {
        self.all.values().all(|hosted| hosted.settled)
    }

    /// This process is about to become another program (or, if `false`, goes on after all): nothing new is begun meanwhile, and
    /// every deadline waits. What was said in [`Programs::out`] and not taken is lost if it does.
    pub(crate) fn rest(&mut self, resting: bool) {
        self.resting = resting;
        if let Some(outputs) = self.common.outputs_if_any() {
            if resting { outputs.hold() } else { outputs.release() }
        }
        self.go_on();
    }

    /// While it rests: whether nothing is on its way any more of which [`Programs::save`] knows nothing (a copy that is being
    /// started). Looked at often.
    pub(crate) fn is_still(&self) -> bool {
        self.all.values().all(Hosted::is_still)
    }
}

#[cfg(test)]
mod tests;
