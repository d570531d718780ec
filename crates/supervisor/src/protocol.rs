//! What supervisor and worker say to each other over their channel.
//!
//! ```text
//!   supervisor                                       worker
//!       │ ── Welcome ─────────────────────────────────▶ │   always first, to an adopted worker too; + carried
//!       │ ◀───────────────────────────────────── Hello ─│   with `serving`, if it outlived a supervisor
//!       │ ── Prepare ─────────────────────────────────▶ │   + bundle, if from one; + carried, if restored
//!       │ ◀────────────────────────────────────── Need ─│   all listeners of the new generation
//!       │ ── Bound ───────────────────────────────────▶ │   + the sockets (none in a dry run)
//!       │ ◀────────────────── Prepared | Rejected ──────│   Prepared: + bundle
//!       │ ── Commit | Abort ──────────────────────────▶ │
//!       │ ◀───────────────────────────────── Committed ─│
//!       │ ── Guard ───────────────────────────────────▶ │   only if the change is guarded
//!       │ ◀──────────────────────────────── GuardEnded ─│   early if it fails
//!       │ ── EndGuard ────────────────────────────────▶ │   instead, if somebody decides before
//!
//!       │ ◀───────────────────────────────────── Carry ─│   + carried: whenever it has changed
//!       │ ◀─────────────────────────────────────── Ask ─│   a watched file has changed
//!       │ ── Asked ───────────────────────────────────▶ │   when that reload has ended, or was refused
//!       │ ── Hold ────────────────────────────────────▶ │   + sockets: kept for the next supervisor
//!       │ ◀──────────────────────────────────── Wanted ─│   only if `Traffic` has said that it may be
//! ```
//!
//! An upgrade has two workers, which talk to each other over a socket that the supervisor gives to both:
//!
//! ```text
//!   old worker                    supervisor                         new worker
//!       │                              │ ── Welcome, Prepare … Bound ─────▶ │   as above; its Welcome says `candidate`
//!       │                              │ ── Commit (accept: false) ───────▶ │
//!       │                              │ ◀────────────────────── Committed ─│   it stands by
//!       │                              │ ── Probe ────────────────────────▶ │   + a listening socket
//!       │                              │ ◀───────────────────────── Probed ─│
//!       │ ◀──────────────── HandOver ──│ ── TakeOver ─────────────────────▶ │   + socket, pidfd of the other; + stderr
//!       │ ═══════════════════════ sockets and states ════════════════════▶  │
//!       │                              │ ◀─────────────────────── TookOver ─│   it serves
//!       │ ── HandedOver ─────────────▶ │                                    │   it drains; late ones move on
//!       │ ── Drained ────────────────▶ │                                    │   it stands by, or is told to stop
//! ```
//!
//! Going back is the same with the roles exchanged, or `Resume` to the old one if the new one is dead.
//!
//! A candidate that needs no listener may skip `Need`. `Abort` may come at any time and is not answered;
//! what the worker says about an aborted candidate afterwards is ignored. `Drain`, `Resume`, `Action`, `Report`,
//! `Guard`, `Ask` and `Ping` carry a number that the answer repeats.
//!
//! **Carried state** is what must outlive a worker and is no file: the keys of session tickets, say. To the supervisor
//! it is opaque bytes in a sealed memory file, at most [`MAX_CARRIED_BYTES`]; it keeps the latest in memory only.
//!
//! **When the channel ends** without a `Stop`, the supervisor is gone. The worker then drops a candidate that
//! was not told to commit, ends no drain, goes on serving, and accepts one connection at the socket that
//! [`handover_handoff::inherit::SUCCESSION_VARIABLE`] names (a [`handover_handoff::succession::Door`]). That
//! connection is the channel to the next supervisor, which speaks first. Of two workers only the one that serves does so: a
//! handoff that has begun is carried to its end first; one that stands by, or drains after it, ends by itself.

mod address;
mod guarding;
mod program;
mod serving;
mod settings;
mod traffic;

use std::collections::BTreeMap;
use std::time::Duration;

use handover_api::{Change, Losses, Problem};
use handover_handoff::Channel;
use serde::{Deserialize, Serialize};

pub use address::{Address, ListenerSpec};
pub use guarding::{Figures, GuardFigures, GuardLimits};
pub use program::{
    Accept, CommandSpec, Pass, Private, ProgramSocket, ProgramSpec, Ready, Reload, ResourceLimits, Restart,
    RestartPolicy, Slot, Stop, Swap, User,
};
pub use serving::Serving;
pub use settings::{Grant, LogSettings, LogTarget, Roles, Settings, UpgradeRules};
pub use traffic::{Names, Pause, ProgramEndpoint, Target, Traffic, Wake};

/// The newest version of these messages that this program speaks. `Welcome` and `Hello` say which ones each side
/// speaks; from then on both use the newest that both know ([`common_version`]).
pub const PROTOCOL_VERSION: u16 = 4;
/// The oldest version of these messages that this program speaks.
pub const OLDEST_PROTOCOL_VERSION: u16 = 3;
/// The first version that knows of programs: `Traffic`, `AwaitQuiet` and `Keep`, and their answers.
pub const PROGRAMS_VERSION: u16 = 4;

/// The newest version that this program and its peer both speak: the peer speaks those from `oldest` to `newest`. `None`
/// if there is none: then neither understands the other, and nothing more is said. (A peer that does not say its oldest
/// version speaks one alone; it says 0.)
#[must_use]
pub fn common_version(oldest: u16, newest: u16) -> Option<u16> {
    let oldest = if oldest == 0 { newest } else { oldest };
    let common = newest.min(PROTOCOL_VERSION);
    (common >= oldest && common >= OLDEST_PROTOCOL_VERSION).then_some(common)
}

/// The most bytes of carried state; more of it counts as a broken protocol.
pub const MAX_CARRIED_BYTES: usize = 1024 * 1024;

/// A worker's end of the channel.
pub type WorkerChannel = Channel<ToWorker, ToSupervisor>;
/// The supervisor's end of the channel.
pub type SupervisorChannel = Channel<ToSupervisor, ToWorker>;

fn yes() -> bool {
    true
}

/// From the supervisor to its worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum ToWorker {
    /// The first message. It reads the same in every version, as `Hello` does.
    Welcome {
        /// [`PROTOCOL_VERSION`] of the supervisor.
        protocol: u16,
        /// [`OLDEST_PROTOCOL_VERSION`] of the supervisor.
        #[serde(default)]
        oldest: u16,
        /// The worker's key: it says it again to a later supervisor.
        worker: u64,
        /// Whether carried state comes with it: that of the worker that this one replaces. A worker that has some
        /// already (it outlived a supervisor) is never sent any.
        carried: bool,
        /// Whether it is the candidate of an upgrade: another worker serves until connections were handed over. Such a
        /// worker ends at once if its supervisor goes before a `TakeOver`.
        #[serde(default)]
        candidate: bool,
    },
    /// Build a candidate. Answered by `Need`, then `Prepared` or `Rejected`.
    Prepare {
        /// Its key.
        candidate: u64,
        /// The number that it will have when it is committed.
        generation: u64,
        /// Where its files come from.
        source: Source,
        /// It will be thrown away whatever comes of it.
        dry_run: bool,
        /// How much of the disk may be taken anew.
        scope: Scope,
        /// It is the generation that serves already, as its source had it: this worker goes on where another one has
        /// ended. What the source has by now that differs from the bundle is news to a watch.
        continues: bool,
        /// Whether carried state comes with it, after the bundle: it takes the place of the worker's own when the
        /// candidate is committed (a backup is being restored).
        given_carried: bool,
        /// The whole configuration, where it is made of the supervisor's command line: a worker that was adopted was started with
        /// another one. Only from the disk.
        #[serde(default)]
        made: Option<String>,
    },
    /// The answer to `Need`, in its order. The sockets of those that are [`BindResult::Bound`] come with it, in
    /// the same order; in a dry run there are no sockets.
    Bound {
        /// The candidate.
        candidate: u64,
        /// One for each listener that it needs.
        results: Vec<BindResult>,
    },
    /// Serve it. Answered by `Committed` when every thread has switched.
    Commit {
        /// The candidate.
        candidate: u64,
        /// Whether it accepts connections too. If not, it stands by: it has published the generation and has the
        /// listeners, and accepts nothing until a `TakeOver` or `Resume`.
        #[serde(default = "yes")]
        accept: bool,
    },
    /// Prove that you would serve: every data thread accepts one connection from the socket that comes with it, through the
    /// path on which it accepts all others, writes a [`ProbeAnswer`] as one line of JSON, and closes it. The supervisor makes
    /// as many connections as `Hello` has said threads (at least one), and knows by whom each answer was written: the kernel
    /// tells it (SO_PASSCRED, unix(7)). Answered by `Probed` when all of them have; the socket is closed then.
    Probe {
        /// Repeated in the answer.
        call: u64,
        /// What the answers on the connections must repeat.
        nonce: String,
    },
    /// Hand all that is open to the worker at the other end of the socket that comes with it, then drain. With it come, in
    /// this order: the socket, and the other worker's pidfd. Answered by `HandedOver` or, with everything as it was
    /// before and the other worker dead, by `HandoffFailed`. After `HandedOver`, what could not be moved ends here, for
    /// `limit`, and is handed over late as soon as it can be: `DrainProgress` and `Drained` as for a drain. From then on
    /// it stands by, until `Stop`, `TakeOver` or `Resume`.
    HandOver {
        /// Repeated in the answers, of `Drained` too.
        call: u64,
        /// How long it may take until `HandedOver`; after that it calls the handoff off by itself.
        within: Duration,
        /// What is left after this long is cut.
        limit: Duration,
        /// The other worker's process.
        peer_pid: u32,
    },
    /// Take what the worker at the other end hands over, and serve. With it come, in this order: the socket, the other
    /// worker's pidfd, and the standard error stream that is this worker's from now on. Answered by `TookOver` or by
    /// `HandoffFailed` (it never serves after the latter, and is ended).
    TakeOver {
        /// Repeated in the answer.
        call: u64,
        /// The other worker's process.
        peer_pid: u32,
    },
    /// Drop it.
    Abort {
        /// The candidate.
        candidate: u64,
    },
    /// Accept nothing more and let connections end. Answered by `DrainProgress` now and then, and by `Drained`.
    Drain {
        /// Repeated in the answers.
        call: u64,
        /// What is left after this long is cut.
        limit: Duration,
    },
    /// Call a drain off, or serve again after one. Answered by `Resumed`; a drain that still ran is not answered.
    Resume {
        /// Repeated in the answer.
        call: u64,
    },
    /// Compare how the generation that was committed last fares with how the one before it did. Answered by
    /// `GuardEnded`: as soon as a limit is passed, or when the time is over.
    Guard {
        /// Repeated in the answer.
        call: u64,
        /// For how long, and what is too much.
        limits: GuardLimits,
    },
    /// Somebody has decided about the guarded change, or it is over for another reason: stop comparing. Not answered.
    EndGuard {
        /// The guard.
        call: u64,
        /// Whether the generation stays.
        passed: bool,
    },
    /// What came of the reload that was asked for by `Ask`. It has ended by now, or has never begun.
    Asked {
        /// The call of `Ask`.
        call: u64,
        /// Whether what was on the disk when it was asked for serves now. If not, ask again later.
        done: bool,
        /// The reload's sentence, or why it was refused.
        detail: String,
    },
    /// Keep these sockets, which come with it in the same order, without accepting from them, and give them to the
    /// next supervisor in `Hello`: they are needed if an unconfirmed change is taken back. They take the place of
    /// those of an earlier `Hold`; with none, let go of all. Not answered.
    Hold {
        /// What they are.
        listeners: Vec<ListenerSpec>,
    },
    /// Where requests for programs go, what is taken out, and what is held: all of it, in place of what was said before.
    /// Answered by `TrafficSet` when every thread acts on it.
    Traffic {
        /// Repeated in the answer.
        call: u64,
        /// All of it.
        traffic: Box<Traffic>,
    },
    /// Say when nothing of this is in flight any more. Answered by `Quiet`.
    AwaitQuiet {
        /// Repeated in the answer.
        call: u64,
        /// Of what.
        target: Target,
        /// After this long it is answered in any case; nothing is cut.
        limit: Duration,
    },
    /// Keep these bytes and the descriptors that come with them for the next supervisor: what it needs to go on with the
    /// programs. They take the place of those of an earlier `Keep`; with nothing at all, let go of those. Not answered.
    Keep {
        /// What the descriptors are, as JSON.
        programs: String,
    },
    /// Run one of the actions that `Hello` named. Answered by `ActionDone`.
    Action {
        /// Repeated in the answer.
        call: u64,
        /// Its name.
        name: String,
        /// What came with it.
        body: String,
    },
    /// Say something about yourself. Answered by `Reported`.
    Report {
        /// Repeated in the answer.
        call: u64,
        /// What about.
        what: Report,
    },
    /// Are you there? Answered by `Pong` from the thread that reads the channel.
    Ping {
        /// Repeated in the answer.
        call: u64,
    },
    /// The supervisor's own metrics, Prometheus text without `# EOF`, for a metrics listener. Not answered.
    Facts {
        /// The text.
        metrics: String,
    },
    /// Open log files again by their names. Not answered.
    ReopenLogs,
    /// The server is about to end: take in what waits in the accept queues, then close every listening socket, so
    /// that who connects now is refused and not left waiting. A drain or stop follows. Not answered.
    CloseListeners,
    /// End the process. What is still open is cut and, if there is anything, counted in `Stopping` before.
    Stop {
        /// At once, without letting answers that are being written end.
        now: bool,
    },
}

/// From a worker to its supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum ToSupervisor {
    /// The answer to `Welcome`. It reads the same in every version. With `serving`, the descriptors are: the bundle, then `serving.listeners` in order, then
    /// `serving.held` in order, then carried state if `serving.carried` says so, then the executable if
    /// `serving.executable` says so, then those that came with the last `Keep`, in order.
    Hello {
        /// [`PROTOCOL_VERSION`] of the worker.
        protocol: u16,
        /// [`OLDEST_PROTOCOL_VERSION`] of the worker.
        #[serde(default)]
        oldest: u16,
        /// The program's version, for `status`.
        version: String,
        /// Names of its actions.
        actions: Vec<String>,
        /// What it serves, if an earlier supervisor made it serve something.
        serving: Option<Box<Serving>>,
        /// The oldest and the newest format of connection states that it reads and writes.
        #[serde(default)]
        formats: [u16; 2],
        /// Its data threads: each answers a `Probe` once.
        #[serde(default)]
        threads: u32,
        /// Whether it can hand over live connections. If not, they drain at an upgrade.
        #[serde(default)]
        movable: bool,
    },
    /// Every data thread has answered on a connection of its own.
    Probed {
        /// The probe's call.
        call: u64,
    },
    /// It serves, with what was handed over to it.
    TookOver {
        /// The call of `TakeOver`.
        call: u64,
        /// What was moved, by kind (`idle`, `request`, `tunnel` …).
        moved: BTreeMap<String, u64>,
        /// What was lost on the way, if the giver died in the middle of it.
        losses: Losses,
        /// For how long nothing was served.
        freeze: Duration,
    },
    /// The other worker serves; this one drains what is left.
    HandedOver {
        /// The call of `HandOver`.
        call: u64,
        /// What was moved, by kind.
        moved: BTreeMap<String, u64>,
        /// For how long nothing was served.
        freeze: Duration,
    },
    /// Nothing was handed over. The giver says so when it serves again as before, the other worker being dead.
    HandoffFailed {
        /// The call of `HandOver` or `TakeOver`.
        call: u64,
        /// One sentence.
        why: String,
    },
    /// All listeners of the generation that is being prepared, those that did not change too.
    Need {
        /// The candidate.
        candidate: u64,
        /// Each with an address of its own.
        listeners: Vec<ListenerSpec>,
    },
    /// It can be committed; the bundle of its files comes with it.
    Prepared {
        /// The candidate.
        candidate: u64,
        /// What differs from what serves; with no difference in the files' bytes either, the candidate is
        /// aborted and the operation ends as unchanged.
        changes: Vec<Change>,
        /// What deserves a look.
        warnings: Vec<Problem>,
        /// What the supervisor must know of the configuration.
        settings: Box<Settings>,
        /// What is served, for the banner at the start: one or two lines.
        summary: Vec<String>,
        /// The source's own name for this state, if it has one: `etcd revision 42`, `ETag "a1b2"`.
        version: Option<String>,
    },
    /// It cannot be served. Nothing of it is kept.
    Rejected {
        /// The candidate.
        candidate: u64,
        /// Every reason.
        problems: Vec<Problem>,
        /// The reason is that its source could not be reached, and says nothing about what is in it.
        unreachable: bool,
    },
    /// Every thread serves it, and no answer of the one before will follow.
    Committed {
        /// The candidate.
        candidate: u64,
    },
    /// How the guarded generation fares.
    GuardEnded {
        /// The guard.
        call: u64,
        /// Whether it may stay.
        passed: bool,
        /// The figures in words, those that decided first:
        /// `5xx 41 % of 120 requests, was 0.2 % of 4,000; limit: 5 points and 10 requests`.
        detail: String,
        /// The figures.
        figures: GuardFigures,
    },
    /// The carried state has changed, and comes with it.
    Carry,
    /// Reload, please: what is watched has changed. Answered by `Asked`.
    Ask {
        /// Repeated in the answer.
        call: u64,
        /// What has changed, in a few words: the operation's comment.
        why: String,
    },
    /// How far a drain is.
    DrainProgress {
        /// The drain.
        call: u64,
        /// Connections still open.
        connections: u64,
    },
    /// Nothing is accepted, nothing is open.
    Drained {
        /// The drain, or the `HandOver`.
        call: u64,
        /// What had to be cut.
        losses: Losses,
        /// After `HandOver`: what was handed over late, by kind.
        #[serde(default)]
        late: BTreeMap<String, u64>,
        /// How many connections came to their own end.
        #[serde(default)]
        ended: u64,
    },
    /// Every thread acts on it.
    TrafficSet {
        /// The call of `Traffic`.
        call: u64,
    },
    /// Nothing is in flight any more, or the limit is over.
    Quiet {
        /// The call of `AwaitQuiet`.
        call: u64,
        /// What is still in flight: requests, tunnels and connections.
        left: u64,
        /// What is held now.
        held: u64,
        /// Of a program: a number that is another one after each request or tunnel that was passed to it.
        #[serde(default)]
        begun: Option<u64>,
    },
    /// Somebody waits for this program, and it is among [`Traffic::wakes`]. Not answered: what is done about it is seen in the next
    /// `Traffic`.
    Wanted {
        /// Its name.
        program: String,
    },
    /// It accepts again.
    Resumed {
        /// The resume.
        call: u64,
    },
    /// An action ended. If it has read files anew, the bundle of what serves from now on comes with it: a worker that
    /// replaces this one must be given that one.
    ActionDone {
        /// The action's call.
        call: u64,
        /// Whether it worked.
        ok: bool,
        /// What it says about it.
        message: String,
    },
    /// What was asked by `Report`.
    Reported {
        /// The report's call.
        call: u64,
        /// Prometheus text without `# EOF`, or JSON.
        body: String,
    },
    /// The answer to `Ping`.
    Pong {
        /// The ping's call.
        call: u64,
    },
    /// The process ends now, and this was cut.
    Stopping {
        /// By kind.
        losses: Losses,
    },
}

/// What a data thread writes into the connection of a `Probe`, as one line of JSON, at most [`MAX_PROBE_BYTES`] long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeAnswer {
    /// The key that `Welcome` gave to the worker.
    pub worker: u64,
    /// The probe's nonce.
    pub nonce: String,
    /// Which thread, counted from 0.
    pub thread: u32,
}

/// The most bytes of a [`ProbeAnswer`], line feed included.
pub const MAX_PROBE_BYTES: usize = 1024;

/// Where a candidate's files come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// From the disk, as they are now.
    Disk,
    /// From the bundle that comes with the message, and from nowhere else.
    Bundle,
}

/// How much of the disk a candidate may take anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everything.
    #[default]
    All,
    /// Certificates, their keys and the authorities for clients' certificates; every other file is taken from what
    /// serves, whatever is on the disk.
    Certificates,
}

/// What a worker can be asked about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// Its metrics.
    Metrics,
    /// Its open connections.
    Connections,
    /// How many connections it has open: a number, or nothing if it does not know.
    ConnectionCount,
    /// The certificates that it serves and presents, a JSON array; nothing if it has no notion of them.
    Certificates,
    /// How many requests each pause holds now: a JSON object, by what is paused.
    Held,
}

/// What came of one listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindResult {
    /// It is held; in a dry run: nothing speaks against it.
    Bound,
    /// It cannot be had.
    Failed {
        /// The system's error number (errno(3)), 0 if none fits.
        errno: i32,
        /// One sentence that names the address and, where it can be found, who has it.
        detail: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_use_the_newest_version_that_they_share() {
        let (oldest, newest) = (OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION);
        assert_eq!(common_version(oldest, newest), Some(newest));
        assert_eq!(common_version(1, newest + 5), Some(newest));
        assert_eq!(common_version(newest + 1, newest + 2), None);
        assert_eq!(common_version(0, oldest - 1), None);
        // One that says no oldest version speaks one alone.
        assert_eq!(common_version(0, newest), Some(newest));
        assert_eq!(common_version(0, newest + 1), None);
    }
}
