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

mod asked;
mod checks;
mod commands;
mod connections;
mod copy;
mod demand;
mod editions;
mod groups;
mod inetd;
mod memory;
mod names;
mod notify;
mod out;
mod output;
mod private;
mod reloading;
mod state;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use handover_api::{LogLine, PauseStatus, ProgramStatus, Refused};
use handover_lifecycle::OperationKey;
use tokio::sync::broadcast;

use crate::protocol::{Address, Names, ProgramSpec, Traffic};

pub(crate) use asked::Asker;
pub use asked::{Asked, GUARD_TIME, What};
pub(crate) use out::{Ended, Kept, Out, Said};

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

/// All sockets of a generation; those that no program names do no harm.
pub(crate) type Sockets = Vec<SharedSocket>;

/// Something that came of a task of [`Programs`]. Opaque: it goes back to [`Programs::take`].
#[derive(Debug)]
pub(crate) struct Happened;

/// All programs.
#[derive(Debug)]
pub(crate) struct Programs {
    setup: Setup,
    out: Vec<Out>,
}

impl Programs {
    /// None yet.
    pub(crate) fn new(setup: Setup) -> Self {
        Programs { setup, out: Vec::new() }
    }

    /// The next thing that happened, a deadline included. Cancel-safe. Never ready as long as there is nothing to wait for.
    pub(crate) async fn next(&mut self) -> Happened {
        std::future::pending().await
    }

    /// Takes in what happened.
    pub(crate) fn take(&mut self, _happened: Happened) {}

    /// Why this cannot even become an operation: what it is about is not there. Everything else is found out by
    /// [`Programs::ask`].
    pub(crate) fn refusal(&self, asked: &Asked) -> Option<Refused> {
        let names_a_program = !matches!(
            asked.what,
            What::Pause { .. } | What::Resume | What::DrainEndpoint { .. } | What::EnableEndpoint
        );
        let name = asked.target.as_ref().filter(|_| names_a_program)?;
        let known: Vec<String> = self.status().into_iter().map(|program| program.name).collect();
        (!known.contains(name)).then(|| Refused::NoSuchProgram { name: name.clone(), known })
    }

    /// A carried operation begins. It ends with [`Out::Ended`], at once or within [`Programs::limit`].
    pub(crate) fn ask(&mut self, operation: OperationKey, asked: &Asked, asker: Asker) {
        let _ = (operation, asked, asker);
    }

    /// The longest time that it may take.
    pub(crate) fn limit(&self, asked: &Asked) -> Duration {
        let _ = asked;
        Duration::from_secs(60)
    }

    /// It is to end as soon as possible, with what served before serving on; [`Out::Ended`] follows.
    pub(crate) fn call_off(&mut self, operation: OperationKey) {
        let _ = operation;
    }

    /// Whether a reload to these needs an exam, and the longest time that it may take.
    pub(crate) fn differs(&self, specs: &[ProgramSpec]) -> Option<Duration> {
        let _ = specs;
        None
    }

    /// Starts what is new beside what runs, and proves it; [`Out::Examined`] follows. Then [`Programs::apply`] with the same
    /// operation, or [`Programs::abort`].
    pub(crate) fn examine(&mut self, operation: OperationKey, specs: &[ProgramSpec], sockets: Sockets) {
        let _ = (operation, specs, sockets);
    }

    /// What was started for this exam is killed.
    pub(crate) fn abort(&mut self, operation: OperationKey) {
        let _ = operation;
    }

    /// These are to run from now on. With an exam, what it has started serves; otherwise each program that differs is
    /// swapped by itself.
    pub(crate) fn apply(
        &mut self,
        specs: &[ProgramSpec],
        names: &Names,
        sockets: Sockets,
        examined: Option<OperationKey>,
    ) {
        let _ = (specs, names, sockets, examined);
    }

    /// For a new worker, before its `Commit`. Its call is never that of a message of [`Out::ToWorker`]'s.
    pub(crate) fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    /// The worker that serves has answered.
    pub(crate) fn worker_said(&mut self, said: Said) {
        let _ = said;
    }

    /// Another worker serves: what waits for an answer is asked again.
    pub(crate) fn worker_changed(&mut self) {}

    /// The server is about to drain and stop: what is held goes on, nothing is held any more.
    pub(crate) fn ending(&mut self) {}

    /// Everything ends, in reverse order of `after`; [`Out::Stopped`] follows, at the latest after `limit` and the kill.
    pub(crate) fn stop(&mut self, limit: Duration) {
        let _ = limit;
        self.out.push(Out::Stopped { clean: true });
    }

    /// How long it may take until all have ended once [`Programs::stop`] is called without a hurry; `None` if there are no
    /// programs.
    pub(crate) fn longest_stop(&self) -> Option<Duration> {
        None
    }

    /// What the driver is to do, oldest first.
    pub(crate) fn out(&mut self) -> Vec<Out> {
        std::mem::take(&mut self.out)
    }

    /// All programs, by name, for `status`. Asks nobody and reads little: memory and connections are those that
    /// [`Programs::measure`] found.
    pub(crate) fn status(&self) -> Vec<ProgramStatus> {
        Vec::new()
    }

    /// The same with memory and connections as they are now: to be awaited in a task of its own.
    pub(crate) fn measure(&self) -> impl Future<Output = Vec<ProgramStatus>> + Send + 'static + use<> {
        let status = self.status();
        async move { status }
    }

    /// Whether what is asked for is about something that there is; asked before an operation is begun.
    ///
    /// # Errors
    /// [`Refused::NoSuchProgram`], [`Refused::NoSuchTarget`].
    pub(crate) fn knows(&self, asked: &Asked) -> Result<(), Refused> {
        let _ = asked;
        Ok(())
    }

    /// Whether every program has been ready, or has failed, since it was first applied; see [`Out::Settled`].
    pub(crate) fn is_settled(&self) -> bool {
        true
    }

    /// Everything that is paused.
    pub(crate) fn paused(&self) -> Vec<PauseStatus> {
        Vec::new()
    }

    /// Endpoints that get nothing new because an operator said so.
    pub(crate) fn endpoints_off(&self) -> Vec<String> {
        Vec::new()
    }

    /// The last lines that the program has written, oldest first; `None` if there is no such program.
    pub(crate) fn logs(&self, name: &str, lines: usize) -> Option<Vec<LogLine>> {
        let _ = (name, lines);
        None
    }

    /// All lines that programs write from now on.
    pub(crate) fn follow(&self) -> broadcast::Receiver<LogLine> {
        broadcast::channel(1).1
    }

    /// All of this, for the supervisor's next life: by `execve`, or kept by the worker (`Keep`). The same bytes.
    pub(crate) fn save(&self) -> Kept {
        Kept { json: String::new(), descriptors: Vec::new() }
    }

    /// This process is about to become another program (or, if `false`, goes on after all): nothing new is begun meanwhile, and
    /// every deadline waits. What was said in [`Programs::out`] and not taken is lost if it does.
    pub(crate) fn rest(&mut self, resting: bool) {
        let _ = resting;
    }

    /// While it rests: whether nothing is on its way any more of which [`Programs::save`] knows nothing (a copy that is being
    /// started). Looked at often.
    pub(crate) fn is_still(&self) -> bool {
        true
    }

    /// Whether [`Programs::restore`] could read this: for a rehearsal, which touches nothing.
    ///
    /// # Errors
    /// One sentence.
    pub(crate) fn readable(kept: &str) -> Result<(), String> {
        let _ = kept;
        Ok(())
    }

    /// Goes on where an earlier supervisor, or an earlier life of this process, has left. [`Programs::apply`] with the same
    /// programs follows, with their sockets; then [`Programs::worker_changed`]. What has to be asked for by [`Out::Own`], and
    /// [`Out::AllEnded`], is said again. Dropping the result ends nothing and unlinks nothing.
    ///
    /// # Errors
    /// One sentence, if it cannot be read: then nothing is known of the programs that run.
    pub(crate) fn restore(setup: Setup, kept: &str, descriptors: Vec<OwnedFd>) -> Result<Self, String> {
        let _ = (kept, descriptors);
        Ok(Self::new(setup))
    }

    #[allow(dead_code, reason = "filled in with the first program")]
    fn environment(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("HANDOVER_NAME".to_owned(), self.setup.name.clone())])
    }
}
