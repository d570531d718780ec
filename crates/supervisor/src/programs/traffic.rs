//! What is said to the worker about traffic: who gets requests of programs, what is switched off, what is held.
//!
//! ```text
//!   machine: Route, Pause, Resume ─┐
//!   operator: pause, resume,       ├─▶ Board ── Traffic {call, all of it} ─▶ worker ── TrafficSet ─▶ who waits for that call
//!             drain, enable       ─┘         ── AwaitQuiet, one a target ─▶        ── Quiet ──────▶ when the last has come
//! ```
//!
//! Everything is said as a whole, so a message that is lost with its worker is made good by the next one
//! ([`Board::again`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use handover_lifecycle::program::CopyKey;
use handover_lifecycle::{CallKey, OperationKey};
use serde::{Deserialize, Serialize};

use crate::protocol::{Address, Pause, ProgramEndpoint, Target, ToWorker, Traffic, Wake};

/// Who waits for an answer of the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Waiter {
    /// The machine of a program.
    Machine(String, CallKey),
    /// A flow of its own.
    Flow(OperationKey),
    /// Only the figures of this operation, if they come in time.
    Figures(String),
    /// Who looks whether the program is used.
    Use(String),
}

/// Who has paused something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum PausedBy {
    /// A program that stops its old copies first.
    Machine,
    /// Somebody; the operation's public ID.
    Operator(String),
}

/// Something that is paused.
#[derive(Debug, Clone)]
pub(super) struct Paused {
    pub(super) target: Target,
    pub(super) by: PausedBy,
    pub(super) until: Instant,
    /// RFC 3339.
    pub(super) since: String,
    pub(super) max_held: u32,
    /// When the worker was last asked.
    pub(super) held: Option<u64>,
}

/// A copy as requests see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Placed {
    pub(super) copy: CopyKey,
    pub(super) number: u32,
    /// Its name for the worker: `web/1`, and as long as another copy has that one, `web/1-2`.
    pub(super) name: String,
    pub(super) address: Address,
    /// What its machine says.
    pub(super) on: bool,
}

/// Something is waited for to be quiet.
#[derive(Debug, Clone)]
struct Quieting {
    waiter: Waiter,
    /// What was not answered yet, by call.
    open: BTreeMap<u64, Target>,
    until: Instant,
    sum: Quiet,
}

/// What the worker said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Quiet {
    /// What is still in flight.
    pub(super) left: u64,
    /// What is held.
    pub(super) held: u64,
    /// Of a program: another number after each request that was passed to it, if the worker can tell.
    pub(super) begun: Option<u64>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Board {
    endpoints: BTreeMap<String, Vec<Placed>>,
    /// What operators have switched off: `web/1`, `127.0.0.1:9001`.
    pub(super) off: BTreeSet<String>,
    pub(super) paused: Vec<Paused>,
    /// Programs that are started when somebody waits for them, as long as nothing of them gets requests.
    wakes: BTreeMap<String, Wake>,
    /// The server ends: nothing is held any more.
    ending: bool,
    calls: u64,
    waiting: Vec<(u64, Waiter)>,
    quieting: Vec<Quieting>,
}

/// `web/1`.
pub(super) fn endpoint_name(program: &str, number: u32) -> String {
    format!("{program}/{number}")
}

impl Board {
    /// With calls after these, which another life has used.
    pub(super) fn after(calls: u64) -> Self {
        Board { calls, ..Board::default() }
    }

    /// The number of the last call.
    pub(super) fn calls(&self) -> u64 {
        self.calls
    }

    /// All that the worker must know.
    pub(super) fn traffic(&self, now: Instant) -> Traffic {
        let mut programs: BTreeMap<String, Vec<ProgramEndpoint>> = BTreeMap::new();
        for (program, placed) in &self.endpoints {
            let endpoint = |placed: &Placed| ProgramEndpoint {
                name: placed.name.clone(),
                address: placed.address.clone(),
                on: placed.on && !self.off.contains(&endpoint_name(program, placed.number)),
            };
            programs.insert(program.clone(), placed.iter().map(endpoint).collect());
        }
        let is_ours = |name: &&String| {
            name.rsplit_once('/').is_some_and(|(program, _)| self.endpoints.contains_key(program))
        };
        let off = self.off.iter().filter(|name| !is_ours(name)).cloned().collect();
        let sleeps = |(program, _): &(&String, &Wake)| !self.gets_requests(program) && !self.ending;
        let wakes =
            self.wakes.iter().filter(sleeps).map(|(name, wake)| (name.clone(), wake.clone())).collect();
        Traffic { programs, off, pauses: self.pauses(now), wakes }
    }

    /// Whether any copy of the program gets new requests, as far as its machine says.
    pub(super) fn gets_requests(&self, program: &str) -> bool {
        self.placed(program).iter().any(|placed| placed.on)
    }

    /// Whether, and how, it is started when somebody waits for it. True if that is news.
    pub(super) fn wake(&mut self, program: &str, wake: Option<Wake>) -> bool {
        if self.wakes.get(program) == wake.as_ref() {
            return false;
        }
        match wake {
            Some(wake) => self.wakes.insert(program.to_owned(), wake),
            None => self.wakes.remove(program),
        };
        true
    }

    /// One for each target: of two pauses for the same the longer and larger one counts.
    fn pauses(&self, now: Instant) -> Vec<Pause> {
        let mut pauses: BTreeMap<Target, Pause> = BTreeMap::new();
        let running = self.paused.iter().filter(|paused| paused.until > now && !self.ending);
        for paused in running {
            let left = paused.until.saturating_duration_since(now);
            let pause =
                Pause { target: paused.target.clone(), left, max_held: paused.max_held, refuse: false };
            let known = pauses.entry(paused.target.clone()).or_insert(pause);
            known.left = known.left.max(left);
            known.max_held = known.max_held.max(paused.max_held);
        }
        pauses.into_values().collect()
    }

    /// Says all of it; `waiter` is told when every thread acts on it.
    pub(super) fn say(&mut self, waiter: Option<Waiter>, now: Instant) -> ToWorker {
        self.calls += 1;
        let call = self.calls;
        self.waiting.extend(waiter.map(|waiter| (call, waiter)));
        ToWorker::Traffic { call, traffic: Box::new(self.traffic(now)) }
    }

    /// What copies of a program there are for requests. `on` and `off` in the order of the machine.
    pub(super) fn route(&mut self, program: &str, copies: Vec<(CopyKey, u32, Address, bool)>) {
        let before = self.endpoints.remove(program).unwrap_or_default();
        let mut placed: Vec<Placed> = Vec::with_capacity(copies.len());
        let known = |copy: CopyKey| before.iter().find(|placed| placed.copy == copy);
        for (copy, number, address, on) in &copies {
            let name = known(*copy).map(|placed| placed.name.clone()).unwrap_or_default();
            placed.push(Placed { copy: *copy, number: *number, name, address: address.clone(), on: *on });
        }
        for at in 0..placed.len() {
            if placed[at].name.is_empty() {
                placed[at].name = free_name(program, placed[at].number, &placed);
            }
        }
        self.endpoints.insert(program.to_owned(), placed);
    }

    /// The program is no more.
    pub(super) fn forget(&mut self, program: &str) {
        self.endpoints.remove(program);
        self.wakes.remove(program);
        self.off.retain(|name| name.rsplit_once('/').is_none_or(|(of, _)| of != program));
        self.paused.retain(|paused| paused.target != Target::Program(program.to_owned()));
    }

    /// The copies of a program as requests see them.
    pub(super) fn placed(&self, program: &str) -> &[Placed] {
        self.endpoints.get(program).map(Vec::as_slice).unwrap_or_default()
    }

    /// Takes them over from another life.
    pub(super) fn restore(&mut self, program: &str, placed: Vec<Placed>) {
        self.endpoints.insert(program.to_owned(), placed);
    }

    /// The copy gets nothing new, whatever its machine still says. True if it got something.
    pub(super) fn switch_off(&mut self, program: &str, copy: CopyKey) -> bool {
        let placed = self.endpoints.get_mut(program).into_iter().flatten();
        let Some(placed) = placed.into_iter().find(|placed| placed.copy == copy) else { return false };
        std::mem::take(&mut placed.on)
    }

    /// The copy is gone.
    pub(super) fn drop_copy(&mut self, program: &str, copy: CopyKey) -> bool {
        let Some(placed) = self.endpoints.get_mut(program) else { return false };
        let before = placed.len();
        placed.retain(|placed| placed.copy != copy);
        placed.len() != before
    }

    /// Holds new requests for it.
    pub(super) fn pause(&mut self, paused: Paused) {
        let is_same = |known: &Paused| {
            let same_kind = std::mem::discriminant(&known.by) == std::mem::discriminant(&paused.by);
            same_kind && known.target == paused.target
        };
        self.paused.retain(|known| !is_same(known));
        self.paused.push(paused);
    }

    /// Ends the pauses that fit; says which.
    pub(super) fn resume(&mut self, fits: impl Fn(&Paused) -> bool) -> Vec<Paused> {
        let (ended, going_on) = std::mem::take(&mut self.paused).into_iter().partition(fits);
        self.paused = going_on;
        ended
    }

    /// The next moment at which a pause is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.paused.iter().map(|paused| paused.until).min()
    }

    /// Nothing is held any more.
    pub(super) fn end(&mut self) {
        self.ending = true;
    }

    /// Asks whether these are quiet; `waiter` is told when the last has answered.
    pub(super) fn await_quiet(
        &mut self,
        targets: Vec<Target>,
        limit: Duration,
        waiter: Waiter,
        now: Instant,
    ) -> Vec<ToWorker> {
        let mut open = BTreeMap::new();
        for target in targets {
            self.calls += 1;
            open.insert(self.calls, target);
        }
        let until = now.checked_add(limit).unwrap_or(now);
        let messages = open.iter().map(|(call, target)| await_quiet(*call, target, limit)).collect();
        self.quieting.push(Quieting { waiter, open, until, sum: Quiet::default() });
        messages
    }

    /// Nobody waits for this any more.
    pub(super) fn give_up(&mut self, waiter: &Waiter) {
        self.quieting.retain(|quieting| quieting.waiter != *waiter);
        self.waiting.retain(|(_, waiting)| waiting != waiter);
    }

    /// Every thread acts on what was said with this call, and before: who has waited for that.
    pub(super) fn set(&mut self, call: u64) -> Vec<Waiter> {
        let (told, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|(of, _)| *of <= call);
        self.waiting = waiting;
        let told: Vec<(u64, Waiter)> = told;
        told.into_iter().map(|(_, waiter)| waiter).collect()
    }

    /// What was asked with this call is quiet, or its time is over: who has waited for that, and with what, if it was the
    /// last answer.
    pub(super) fn quiet(&mut self, call: u64, said: Quiet) -> Option<(Waiter, Quiet)> {
        let at = self.quieting.iter().position(|quieting| quieting.open.contains_key(&call))?;
        let quieting = self.quieting.get_mut(at)?;
        quieting.open.remove(&call);
        quieting.sum.left = quieting.sum.left.saturating_add(said.left);
        quieting.sum.held = quieting.sum.held.max(said.held);
        quieting.sum.begun = said.begun;
        if !quieting.open.is_empty() {
            return None;
        }
        let done = self.quieting.swap_remove(at);
        Some((done.waiter, done.sum))
    }

    /// Another worker serves: what nobody has answered is said again, with new calls.
    pub(super) fn again(&mut self, now: Instant) -> Vec<ToWorker> {
        self.calls += 1;
        let call = self.calls;
        self.waiting.iter_mut().for_each(|(of, _)| *of = call);
        let mut messages = vec![ToWorker::Traffic { call, traffic: Box::new(self.traffic(now)) }];
        for quieting in &mut self.quieting {
            let left = quieting.until.saturating_duration_since(now);
            for (_, target) in std::mem::take(&mut quieting.open) {
                self.calls += 1;
                messages.push(await_quiet(self.calls, &target, left));
                quieting.open.insert(self.calls, target);
            }
        }
        messages
    }
}

fn await_quiet(call: u64, target: &Target, limit: Duration) -> ToWorker {
    ToWorker::AwaitQuiet { call, target: target.clone(), limit }
}

/// The first of `web/1`, `web/1-2`, `web/1-3` … that no other copy has.
fn free_name(program: &str, number: u32, taken: &[Placed]) -> String {
    let plain = endpoint_name(program, number);
    let is_free = |name: &String| taken.iter().all(|placed| placed.name != *name);
    let mut numbered = (2_u32..).map(|again| format!("{plain}-{again}"));
    Some(plain.clone()).filter(is_free).or_else(|| numbered.find(is_free)).unwrap_or(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Address {
        Address::Tcp(([127, 0, 0, 1], port).into())
    }

    fn names(board: &Board) -> Vec<(String, bool)> {
        let traffic = board.traffic(Instant::now());
        traffic.programs["web"].iter().map(|endpoint| (endpoint.name.clone(), endpoint.on)).collect()
    }

    #[test]
    fn two_copies_of_one_number_have_two_names_and_keep_them() {
        let mut board = Board::default();
        board.route("web", vec![(CopyKey(1), 1, at(1), true)]);
        board.route("web", vec![(CopyKey(2), 1, at(2), true), (CopyKey(1), 1, at(1), false)]);
        assert_eq!(names(&board), [("web/1-2".to_owned(), true), ("web/1".to_owned(), false)]);
        board.route("web", vec![(CopyKey(3), 1, at(3), true), (CopyKey(2), 1, at(2), false)]);
        assert_eq!(names(&board), [("web/1".to_owned(), true), ("web/1-2".to_owned(), false)]);
    }

    #[test]
    fn what_an_operator_has_switched_off_stays_so_for_the_next_copy_of_that_number() {
        let mut board = Board::default();
        board.off.extend(["web/1".to_owned(), "127.0.0.1:9001".to_owned()]);
        board.route("web", vec![(CopyKey(7), 1, at(1), true), (CopyKey(8), 2, at(2), true)]);
        assert_eq!(names(&board), [("web/1".to_owned(), false), ("web/2".to_owned(), true)]);
        assert_eq!(board.traffic(Instant::now()).off, ["127.0.0.1:9001"]);
    }

    #[test]
    fn an_answer_to_a_later_call_answers_those_before_it() {
        let (mut board, now) = (Board::default(), Instant::now());
        let waiter = |call| Waiter::Machine("web".to_owned(), CallKey(call));
        board.say(Some(waiter(1)), now);
        board.say(Some(waiter(2)), now);
        board.say(Some(waiter(3)), now);
        assert_eq!(board.set(2), [waiter(1), waiter(2)]);
        assert_eq!(board.set(2), []);
        assert_eq!(board.set(3), [waiter(3)]);
    }

    #[test]
    fn several_endpoints_are_quiet_when_the_last_of_them_is() {
        let (mut board, now) = (Board::default(), Instant::now());
        let targets = ["web/1", "web/2"].map(|name| Target::Endpoint(name.to_owned())).to_vec();
        board.await_quiet(targets, Duration::from_secs(1), Waiter::Flow(OperationKey(1)), now);
        assert_eq!(board.quiet(1, Quiet { left: 2, ..Quiet::default() }), None);
        let all = board.quiet(2, Quiet { left: 1, held: 4, begun: None });
        assert_eq!(all, Some((Waiter::Flow(OperationKey(1)), Quiet { left: 3, held: 4, begun: None })));
    }

    #[test]
    fn what_a_dead_worker_did_not_answer_is_asked_of_the_next_one() {
        let (mut board, now) = (Board::default(), Instant::now());
        let waiter = Waiter::Flow(OperationKey(1));
        board.say(Some(waiter.clone()), now);
        let target = Target::Route("api".to_owned());
        board.await_quiet(vec![target.clone()], Duration::from_secs(9), waiter.clone(), now);
        let messages = board.again(now);
        assert!(matches!(messages[0], ToWorker::Traffic { call: 3, .. }), "{messages:?}");
        assert!(
            matches!(&messages[1], ToWorker::AwaitQuiet { call: 4, target: asked, .. } if *asked == target)
        );
        assert_eq!(board.quiet(2, Quiet::default()), None, "the dead one's answer");
        assert_eq!(board.set(3), [waiter]);
        assert!(board.quiet(4, Quiet::default()).is_some());
    }

    #[test]
    fn of_two_pauses_for_the_same_the_longer_counts_and_one_goes_on_without_the_other() {
        let (mut board, now) = (Board::default(), Instant::now());
        let paused = |by, seconds| Paused {
            target: Target::Program("web".to_owned()),
            by,
            until: now + Duration::from_secs(seconds),
            since: String::new(),
            max_held: 10,
            held: None,
        };
        board.pause(paused(PausedBy::Machine, 30));
        board.pause(paused(PausedBy::Operator("1".to_owned()), 5));
        let pauses = board.traffic(now).pauses;
        assert_eq!((pauses.len(), pauses[0].left), (1, Duration::from_secs(30)));
        board.resume(|paused| paused.by == PausedBy::Machine);
        assert_eq!(board.traffic(now).pauses[0].left, Duration::from_secs(5));
        board.end();
        assert_eq!(board.traffic(now).pauses, []);
    }
}
