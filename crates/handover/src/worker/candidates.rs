//! Prepares, each in a thread of its own, and the one candidate that may be committed.
//!
//! ```text
//!   Prepare ─▶ preparing ──┬── Prepared ─▶ ready ──┬── Commit ─▶ serving
//!                  │       └── Rejected ─▶ gone    └── Abort ──▶ dropped
//!                  └── Abort, the next Prepare, the supervisor gone ─▶ abandoned: its result is dropped when it comes
//! ```

use std::any::Any;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use handover_handoff::Bundle;

use super::errands::Errands;
use super::loans::Loan;
use super::mailbox::Post;
use super::{Notice, Number};
use crate::files::Seen;
use crate::prepare::{BindError, Binder, Bound, CalledOff, Finished, Origin, Prepare};
use crate::service::{Candidate, Service};
use crate::types::{Change, ListenerSpec, Problem, Settings};
use crate::watch::Watch;

/// What a prepare came to, with all that the supervisor is told of it.
pub(crate) struct Ready {
    pub(crate) candidate: Box<dyn Candidate>,
    pub(crate) told: Told,
    pub(crate) watch: Option<Watch>,
    pub(crate) bundle: Arc<Bundle>,
    /// The bundle once more, as it is passed on.
    pub(crate) memfd: OwnedFd,
    /// What was looked for on the disk.
    pub(crate) seen: Arc<Vec<Seen>>,
    /// Its sockets. The last field, so that it outlives the candidate, which closes them.
    pub(crate) _loan: Arc<Loan>,
}

/// What a candidate says of itself.
pub(crate) struct Told {
    pub(crate) changes: Vec<Change>,
    pub(crate) warnings: Vec<Problem>,
    pub(crate) settings: Settings,
    pub(crate) summary: Vec<String>,
    pub(crate) version: Option<String>,
}

/// A prepare that came to nothing.
#[derive(Debug, Default)]
pub(crate) struct Failed {
    pub(crate) problems: Vec<Problem>,
    /// Its source could not be reached, which says nothing about what is in it.
    pub(crate) unreachable: bool,
    pub(crate) seen: Arc<Vec<Seen>>,
}

impl Failed {
    pub(crate) fn because(why: impl Into<String>) -> Self {
        Self { problems: vec![Problem::new(why)], ..Self::default() }
    }
}

/// The answer to a request for listeners; `None` if it will never be answered.
pub(crate) type Binding = Vec<Result<Bound, BindError>>;

/// The one prepare that somebody waits for.
pub(crate) struct Pending {
    pub(crate) number: Number,
    pub(crate) generation: u64,
    pub(crate) dry_run: bool,
    pub(crate) called_off: CalledOff,
    /// What listeners it asked for, and who waits for the answer.
    pub(crate) asked: Option<(Vec<ListenerSpec>, SyncSender<Binding>)>,
    /// What it was lent; this process's own copies, for the next supervisor.
    pub(crate) lent: Vec<(ListenerSpec, OwnedFd)>,
    pub(crate) ready: Option<Ready>,
    /// Whether its files come from the disk, so that the watch learns what was read.
    pub(crate) from_disk: bool,
    /// Whether they are what was read from there last.
    pub(crate) continues: bool,
    /// The carried state that came with it, and takes the place of this worker's own if it is committed.
    pub(crate) given: Option<Arc<[u8]>>,
}

/// What is to be prepared.
pub(crate) struct Order {
    pub(crate) number: Number,
    pub(crate) generation: u64,
    pub(crate) dry_run: bool,
    /// The bundle to prepare from, or else the disk; `Some(None)` if it was promised and did not come.
    pub(crate) from: Option<Option<OwnedFd>>,
    /// It serves already, as its source had it.
    pub(crate) continues: bool,
    /// The configuration that the supervisor's command line makes.
    pub(crate) made: Option<String>,
    /// What serves, if only certificates are to be read anew.
    pub(crate) serving: Option<Arc<Bundle>>,
    /// What the source calls that.
    pub(crate) version: Option<String>,
    /// This worker's carried state.
    pub(crate) carried: Option<Arc<[u8]>>,
    /// That which takes its place.
    pub(crate) given: Option<Arc<[u8]>>,
}

impl Pending {
    /// Starts a prepare in a thread of its own.
    pub(crate) fn start(order: Order, errands: &Errands, base: &Path) -> Self {
        let Order { number, generation, dry_run, from, continues, .. } = order;
        let Order { serving, version, carried, given, made, .. } = order;
        let called_off = CalledOff::default();
        let pending = Self {
            number,
            generation,
            dry_run,
            called_off: called_off.clone(),
            asked: None,
            lent: Vec::new(),
            ready: None,
            from_disk: from.is_none(),
            continues,
            given: given.clone(),
        };
        let Errands { service, post, loans } = errands.clone();
        let base = base.to_owned();
        let spawned = thread::Builder::new().name("prepare".to_owned()).spawn(move || {
            let result = read_bundle(from).and_then(|from| {
                let loan = loans.begin();
                let binder = binder(number, post.clone(), Arc::clone(&loan));
                let (from, carried) = (from.map(Arc::new), given.or(carried));
                let origin = Origin { from, continues, made, serving, version, carried };
                let cx = Prepare::new(generation, dry_run, base, origin, called_off.clone(), binder);
                prepare(&*service, cx, loan)
            });
            match result {
                // Nobody waits for it: it is let go here, where it may take its time.
                Ok(ready) if called_off.is_set() => discard(ready),
                result => post.send(Notice::Prepared { number, result: Box::new(result) }),
            }
        });
        if let Err(error) = spawned {
            let failed = Failed::because(format!("a thread to prepare in could not be started: {error}"));
            errands.post.send(Notice::Prepared { number, result: Box::new(Err(failed)) });
        }
        pending
    }

    /// Lets go of it: who waits for listeners is told that none will come, and what is ready is dropped.
    pub(crate) fn abandon(self) {
        self.called_off.set();
        if let Some(ready) = self.ready {
            discard_elsewhere(ready);
        }
    }
}

fn read_bundle(from: Option<Option<OwnedFd>>) -> Result<Option<Bundle>, Failed> {
    let failed = |why: String| Failed::because(format!("the files of the generation cannot be had: {why}"));
    match from {
        None => Ok(None),
        Some(None) => Err(failed("they did not come".to_owned())),
        Some(Some(file)) => Bundle::from_memfd(file).map(Some).map_err(|error| failed(error.to_string())),
    }
}

/// Asks the control thread, which asks the supervisor, and waits. The wait ends at the latest when the prepare is
/// abandoned, because that drops the other end.
fn binder(number: Number, post: Post<Notice>, loan: Arc<Loan>) -> Box<Binder> {
    Box::new(move |specs| {
        let (reply, answer) = mpsc::sync_channel(1);
        loan.wait_for_others();
        loan.open();
        post.send(Notice::Need { number, specs: specs.to_vec(), reply });
        answer.recv().ok()
    })
}

fn prepare(service: &dyn Service, mut cx: Prepare, loan: Arc<Loan>) -> Result<Ready, Failed> {
    let prepared = catch_unwind(AssertUnwindSafe(|| {
        service.prepare(&mut cx).map(|candidate| {
            let told = Told {
                changes: candidate.changes(),
                warnings: candidate.warnings(),
                settings: candidate.settings(),
                summary: candidate.summary(),
                version: None,
            };
            (told, candidate.watch(), candidate)
        })
    }));
    let Finished { bundle, seen, version, unreachable } = cx.finish();
    let seen = Arc::new(seen);
    let problems = match prepared {
        Ok(Ok((told, watch, candidate))) => match bundle.to_memfd() {
            Ok(memfd) => {
                let (told, bundle) = (Told { version, ..told }, Arc::new(bundle));
                return Ok(Ready { candidate, told, watch, bundle, memfd, seen, _loan: loan });
            }
            Err(error) => vec![Problem::new(format!("the files cannot be kept: {error}"))],
        },
        Ok(Err(problems)) if problems.is_empty() => vec![Problem::new("it was refused without a reason")],
        Ok(Err(problems)) => problems,
        Err(payload) => vec![panicked(&payload)],
    };
    Err(Failed { problems, unreachable, seen })
}

fn panicked(payload: &Box<dyn Any + Send>) -> Problem {
    let text = panic_text(payload);
    Problem::new(format!("preparing panicked: {text}"))
        .with_help("this is a mistake in the program; the place is in its log")
}

/// What a panic said.
pub(crate) fn panic_text(payload: &Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// Drops what was prepared; a panic in that is reported and ends there.
fn discard(ready: Ready) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(ready))) {
        tracing::error!("letting go of a candidate panicked: {}", panic_text(&payload));
    }
}

/// [`discard`], but not on this thread: what it takes to let go is the service's affair.
pub(crate) fn discard_elsewhere(ready: Ready) {
    let spawned = thread::Builder::new().name("discard".to_owned()).spawn(move || discard(ready));
    if let Err(error) = spawned {
        tracing::warn!("a candidate was let go on the control thread: {error}");
    }
}
