//! What this worker is beside another one: it serves, stands by, gives, takes, or lets end what it could not give.
//!
//! ```text
//!             HandOver             handed over              drained
//!   Serving ───────────▶ Giving ──────────────▶ Leaving ──────────────▶ StandingBy ◀── Welcome(candidate)
//!      ▲                    │ failed: the other is dead     │ TakeOver        │ TakeOver
//!      │◀───────────────────┘                               ▼                 ▼
//!      │                                 (the drain is called off) ────▶  Taking ── failed ──▶ the process ends
//!      │                                                                      │ took over
//!      └──────────────────────────────────────────────────────────────────────┘   Resume: Leaving, StandingBy ─▶ Serving
//! ```
//!
//! **When the supervisor is gone:** who serves goes on and opens the door; a move goes to its end first; who stands by ends;
//! who is leaving ends when it has drained, behind a closed door.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use handover_handoff::Companion;
use handover_supervisor::protocol::ToSupervisor;

use super::control::Control;
use super::{Notice, Number};
use crate::moving::{Counts, Gave, Give, Giving, Probe, Sample, Take, Taking, Took};
use crate::service::Candidate;
use crate::types::Losses;

/// How long the move before may take to end, when the next one is asked for.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

/// What this worker is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Role {
    /// The one that serves, or the only one.
    #[default]
    Serving,
    /// Another one serves.
    StandingBy,
    /// It hands over.
    Giving,
    /// It takes over.
    Taking,
    /// It has handed over, and drains.
    Leaving,
}

/// The moves of this worker, and what it is between them.
#[derive(Default)]
pub(super) struct Moves {
    pub(super) role: Role,
    /// Counts moves, so that the words of one are not taken for those of the next.
    serial: u64,
    giving: Option<(Giving, Given)>,
    taking: Option<(Taking, Number)>,
    /// What begins when the move before is over.
    next: Option<(Next, Instant)>,
    /// A generation that is committed when this worker serves, because its service cannot stand by.
    pub(super) deferred: Option<Box<dyn Candidate>>,
    /// The standard error stream that this worker gets when it serves.
    stderr: Option<OwnedFd>,
    /// A stop that was asked for during a move.
    stop: Option<(bool, Option<Duration>)>,
    /// The carried state has changed, and nobody was told.
    pub(super) carry: bool,
}

/// A move that gives.
#[derive(Debug)]
struct Given {
    call: Number,
    limit: Duration,
    /// Connections that were left after it.
    left: u64,
    late: Counts,
    /// The drain is over, with these losses; and what follows when the conversation is.
    drained: Option<(After, Losses)>,
    /// The conversation is over.
    parted: bool,
}

/// What follows the end of a drain, once the other worker has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The supervisor is told, under this call.
    Answer(u64),
    /// The process ends.
    Exit,
    /// This worker is to serve again.
    Nothing,
}

/// A move that waits.
enum Next {
    HandOver { call: Number, until: Instant, limit: Duration, socket: OwnedFd, companion: Companion },
    TakeOver { call: Number, socket: OwnedFd, companion: Companion },
}

/// What a move has come to.
#[derive(Debug)]
pub(crate) enum MoveNotice {
    Gave(Gave),
    Took(Took),
}

impl Moves {
    /// When to look whether the move before is still not over.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.next.as_ref().map(|(_, at)| *at)
    }
}

impl Control {
    /// This worker is a candidate.
    pub(super) fn stand_by(&mut self) {
        self.moves.role = Role::StandingBy;
        self.drains.stand_by();
        // Nobody is to find it while another one serves.
        self.close_door();
        if let Some(moving) = self.errands.service.moving() {
            moving.stand_by();
        }
    }

    /// The descriptors of `HandOver` and `TakeOver`: the socket and the other worker's process.
    fn peer(fds: &mut impl Iterator<Item = OwnedFd>, pid: u32) -> Result<(OwnedFd, Companion), String> {
        let (Some(socket), Some(pidfd)) = (fds.next(), fds.next()) else {
            return Err("the socket to the other worker did not come".to_owned());
        };
        let companion = Companion::new(pidfd, pid);
        Ok((socket, companion.map_err(|error| format!("the other worker cannot be held: {error}"))?))
    }

    /// `times`: how long it may take until the other one serves, and how long what is left may take to end.
    pub(super) fn hand_over(&mut self, call: u64, times: [Duration; 2], pid: u32, fds: Vec<OwnedFd>) {
        let call = self.number(call);
        if self.moves.role != Role::Serving {
            let why = "this worker does not serve, and has nothing to hand over".to_owned();
            return self.handoff_failed(call, why);
        }
        let (socket, companion) = match Self::peer(&mut fds.into_iter(), pid) {
            Ok(peer) => peer,
            Err(why) => return self.handoff_failed(call, why),
        };
        self.moves.role = Role::Giving;
        // What was given back to this worker, or given late, must have come first.
        if let Some((taking, _)) = &self.moves.taking {
            taking.finish();
        }
        let [within, limit] = times;
        let next = Next::HandOver { call, until: Instant::now() + within, limit, socket, companion };
        self.moves.next = Some((next, Instant::now() + FINISH_WITHIN));
        self.begin_next();
    }

    pub(super) fn take_over(&mut self, call: u64, pid: u32, fds: Vec<OwnedFd>) {
        let call = self.number(call);
        let mut fds = fds.into_iter();
        let (socket, companion) = match Self::peer(&mut fds, pid) {
            Ok(peer) => peer,
            Err(why) => return self.took(Took::Failed { why }, call),
        };
        if !matches!(self.moves.role, Role::StandingBy | Role::Leaving) {
            // It goes on with what it does; the other end is closed, which the other worker sees.
            let why = "this worker does not stand by".to_owned();
            return self.handoff_failed(call, why);
        }
        self.moves.stderr = fds.next();
        self.moves.role = Role::Taking;
        if self.drains.call_off() {
            self.giver_has_drained();
        }
        self.moves.next = Some((Next::TakeOver { call, socket, companion }, Instant::now() + FINISH_WITHIN));
        self.begin_next();
    }

    /// Begins the move that was asked for, if the one before is over.
    pub(super) fn begin_next(&mut self) {
        let busy = self.moves.taking.is_some() || self.moves.giving.is_some() || self.drains.is_draining();
        let Some((next, at)) = self.moves.next.take() else { return };
        if busy && Instant::now() < at {
            self.moves.next = Some((next, at));
            return;
        }
        match next {
            Next::HandOver { call, companion, .. } if busy => {
                // Nothing was begun, so nothing can be served twice: this worker need not see it end.
                if let Err(error) = companion.kill() {
                    tracing::error!("process {} cannot be ended: {error}", companion.pid());
                }
                self.gave(Gave::Failed { why: "the move before is not over".to_owned() }, call);
            }
            Next::TakeOver { call, .. } if busy => {
                self.took(Took::Failed { why: "the move before is not over".to_owned() }, call);
            }
            Next::HandOver { call, until, limit, socket, companion } => {
                let (service, figures) = (Arc::clone(&self.errands.service), self.figures_so_far());
                self.give(call, limit, Give { service, socket, companion, figures, until });
            }
            Next::TakeOver { call, socket, companion } => self.take(call, socket, companion),
        }
    }

    fn figures_so_far(&mut self) -> Vec<Sample> {
        let now = Instant::now();
        self.look_at_figures(now);
        self.guards.export(now)
    }

    fn give(&mut self, call: Number, limit: Duration, give: Give) {
        self.moves.serial += 1;
        let (serial, post) = (self.moves.serial, self.errands.post.clone());
        let tell = move |gave| post.send(Notice::Moved { serial, notice: MoveNotice::Gave(gave) });
        match Giving::begin(give, tell) {
            Ok(giving) => {
                let given = Given { call, limit, left: 0, late: Counts::new(), drained: None, parted: false };
                self.moves.giving = Some((giving, given));
            }
            Err(error) => {
                let why = format!("the handoff cannot begin: {error}");
                self.gave(Gave::Failed { why }, call);
            }
        }
    }

    fn take(&mut self, call: Number, socket: OwnedFd, companion: Companion) {
        self.moves.serial += 1;
        let (serial, post) = (self.moves.serial, self.errands.post.clone());
        let (service, deferred) = (Arc::clone(&self.errands.service), self.moves.deferred.take());
        let take = Take { service, deferred, socket, companion };
        let tell = move |took| post.send(Notice::Moved { serial, notice: MoveNotice::Took(took) });
        match Taking::begin(take, tell) {
            Ok(taking) => self.moves.taking = Some((taking, call)),
            Err(error) => {
                let why = format!("the handoff cannot begin: {error}");
                self.took(Took::Failed { why }, call);
            }
        }
    }

    /// What a move says, unless it is one of the past.
    pub(super) fn moved(&mut self, serial: u64, notice: MoveNotice) {
        if serial != self.moves.serial {
            return;
        }
        match notice {
            MoveNotice::Gave(gave) => {
                if let Some(call) = self.moves.giving.as_ref().map(|(_, given)| given.call) {
                    self.gave(gave, call);
                }
            }
            MoveNotice::Took(took) => {
                if let Some(call) = self.moves.taking.as_ref().map(|(_, call)| *call) {
                    self.took(took, call);
                }
            }
        }
    }

    fn gave(&mut self, gave: Gave, call: Number) {
        match gave {
            Gave::HandedOver { moved, freeze, left } => self.handed_over(moved, freeze, left, call),
            Gave::Failed { why } => {
                tracing::warn!("nothing was handed over, this worker serves on: {why}");
                self.moves.giving = None;
                self.moves.role = Role::Serving;
                self.handoff_failed(call, why);
                self.look_for_stop();
            }
            Gave::GiveUp { why } => self.fail(&why),
            Gave::Parted { late } => {
                if let Some((_, given)) = &mut self.moves.giving {
                    (given.late, given.parted) = (late, true);
                }
                self.look_at_parting();
            }
        }
    }

    /// The other worker serves.
    fn handed_over(&mut self, moved: Counts, freeze: Duration, left: u64, call: Number) {
        self.moves.role = Role::Leaving;
        self.close_door();
        let limit = match &mut self.moves.giving {
            Some((_, given)) => {
                given.left = left;
                given.limit
            }
            None => Duration::ZERO,
        };
        tracing::info!(?moved, ?freeze, "another worker serves");
        if self.is_of_now(call) {
            self.send(&ToSupervisor::HandedOver { call: call.number, moved, freeze }, &[]);
        }
        let todo = self.drains.drain(self.is_of_now(call).then_some(call.number), limit);
        self.carry_out(todo, Losses::default());
        if !self.is_supervised() {
            self.leave_when_drained();
        }
        self.look_for_stop();
    }

    /// Nobody is there who could want this worker back: it ends when it has drained, or now.
    pub(super) fn leave_when_drained(&mut self) {
        let todo = self.drains.stop(false, self.drains.remaining());
        self.carry_out(todo, Losses::default());
    }

    /// The drain of a worker that has handed over is over: the other one is told first. False if there is nobody to tell.
    pub(super) fn part(&mut self, after: After, losses: &Losses) -> bool {
        let Some((giving, given)) = &mut self.moves.giving else { return false };
        match &mut given.drained {
            // Meanwhile it is to end.
            Some((known, _)) if after == After::Exit => *known = after,
            Some(_) => {}
            none => {
                *none = Some((after, losses.clone()));
                giving.drained();
            }
        }
        self.look_at_parting();
        true
    }

    /// The drain of a worker that has handed over was called off, because it is to serve again: it sends nothing more.
    pub(super) fn giver_has_drained(&mut self) {
        let again = matches!(self.moves.role, Role::Taking | Role::Serving);
        if again {
            self.part(After::Nothing, &Losses::default());
        }
        self.begin_next();
    }

    fn look_at_parting(&mut self) {
        let is_over = |(_, given): &mut (Giving, Given)| given.parted && given.drained.is_some();
        let Some((_, given)) = self.moves.giving.take_if(is_over) else { return };
        let Given { call: given, left, late, drained, .. } = given;
        let Some((after, losses)) = drained else { return };
        if self.moves.role == Role::Leaving {
            self.moves.role = Role::StandingBy;
        }
        match after {
            After::Exit => self.leave(&losses),
            After::Answer(call) if self.is_of_now(Number { number: call, ..given }) => {
                let gone = late.values().sum::<u64>().saturating_add(losses.total());
                let ended = left.saturating_sub(gone);
                self.send(&ToSupervisor::Drained { call, losses, late, ended }, &[]);
            }
            After::Answer(_) | After::Nothing => {}
        }
        self.begin_next();
    }

    fn took(&mut self, took: Took, call: Number) {
        match took {
            Took::Serves { moved, losses, freeze, figures } => {
                self.moves.role = Role::Serving;
                self.drains.serves();
                self.guards.took_over(Instant::now(), &figures, self.errands.service.figures());
                self.take_stderr();
                self.open_door_again();
                tracing::info!(?moved, %losses, ?freeze, "this worker serves");
                if self.is_of_now(call) {
                    let call = call.number;
                    self.send(&ToSupervisor::TookOver { call, moved, losses, freeze }, &[]);
                }
                self.say_carried();
                self.look_for_stop();
            }
            Took::Failed { why } => {
                self.handoff_failed(call, why.clone());
                self.fail(&format!("it does not serve, and never will: {why}"));
            }
            Took::GiveUp { why } => self.fail(&why),
            Took::Over => {
                self.moves.taking = None;
                self.begin_next();
            }
        }
    }

    /// From now on this worker's standard error stream is the server's.
    fn take_stderr(&mut self) {
        let taken = self.moves.stderr.take().map(rustix::stdio::dup2_stderr);
        if let Some(Err(errno)) = taken {
            tracing::warn!("this worker's standard error stream stays that of a candidate: {errno}");
        }
    }

    fn handoff_failed(&mut self, call: Number, why: String) {
        if self.is_of_now(call) {
            self.send(&ToSupervisor::HandoffFailed { call: call.number, why }, &[]);
        }
    }

    /// The supervisor wants this worker to serve again, with what it has.
    pub(super) fn serve_again(&mut self) {
        if matches!(self.moves.role, Role::StandingBy | Role::Leaving) {
            self.moves.role = Role::Serving;
            self.open_door_again();
            if let Some(candidate) = self.moves.deferred.take() {
                self.commit_deferred(candidate);
            }
        }
    }

    /// A stop waits for the end of a move. True if there is one.
    pub(super) fn postpone_stop(&mut self, now: bool, grace: Option<Duration>) -> bool {
        let giving = self.moves.role == Role::Giving;
        if giving {
            let again = self.moves.stop.is_some();
            self.moves.stop = Some((now || again, grace));
        }
        giving
    }

    fn look_for_stop(&mut self) {
        if let Some((now, grace)) = self.moves.stop.take() {
            let todo = self.drains.stop(now, grace);
            self.carry_out(todo, Losses::default());
        }
    }

    /// The supervisor asks whether this worker would serve.
    pub(super) fn probe(&mut self, call: u64, nonce: String, socket: Option<OwnedFd>) {
        let Some(socket) = socket else {
            return tracing::error!("a probe came without its socket");
        };
        let (post, number) = (self.errands.post.clone(), self.number(call));
        let worker = self.key.unwrap_or_default();
        let threads = self.errands.threads();
        let done = Box::new(move || post.send(Notice::Probed { call: number }));
        let probe = Arc::new(Probe::new(socket, worker, nonce, threads, done));
        match self.errands.service.moving() {
            Some(moving) => moving.probe(probe),
            // It has no accept path that could be asked while it stands by: the process answers.
            None => probe.answer_elsewhere(),
        }
    }

    pub(super) fn probed(&mut self, call: Number) {
        if self.is_of_now(call) {
            self.send(&ToSupervisor::Probed { call: call.number }, &[]);
        }
    }

    /// Tells the supervisor the carried state, if it has changed while another worker served.
    fn say_carried(&mut self) {
        if let Some(carried) = self.carried.as_ref().filter(|_| self.moves.carry && self.welcomed) {
            self.send(&ToSupervisor::Carry, &[carried.memfd.as_fd()]);
            self.moves.carry = false;
        }
    }
}
