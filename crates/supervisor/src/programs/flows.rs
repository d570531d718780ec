//! Operations about traffic: pause and resume, endpoints switched off and on. No copy comes or goes.
//!
//! ```text
//!   pause:  Traffic {pause} ─▶ set ─▶ how much is in flight? ─▶ until it has ended, or the pause is over ─▶ applied
//!   resume: how many are held? ─▶ Traffic without it ─▶ set ─▶ applied
//!   drain:  Traffic {off} ─▶ set ─▶ until what is in flight there has ended, or the limit is over ─▶ applied
//!   enable: Traffic without it ─▶ set ─▶ applied
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use handover_api::{Problem, ProgramResult, Refused};
use handover_lifecycle::{Cause, OperationKey, Outcome, StepName};

use super::asked::{Asked, Asker, MAX_HELD, PAUSE_TIME, What};
use super::common::Common;
use super::hosted::Hosted;
use super::names::{self, Unclear};
use super::out::{Ended, Out};
use super::served::Served;
use super::traffic::{Paused, PausedBy, Quiet, Waiter, endpoint_name};
use crate::journal::now;
use crate::protocol::{Names, Target};

/// How long what is in flight at an endpoint may take, if nobody says.
const DRAIN_TIME: Duration = Duration::from_secs(30);
/// How much longer an operation may take than what it waits for.
const GRACE: Duration = Duration::from_secs(5);

/// An operation about traffic that runs.
#[derive(Debug)]
pub(super) struct Flow {
    stage: Stage,
    targets: Vec<Target>,
    /// Until when what is in flight is waited for.
    until: Instant,
    /// How much was in flight when it began.
    in_flight: Option<u64>,
    ended: Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The worker is told that something is held, or off; then it is waited for quiet.
    Telling,
    /// How much is in flight now?
    Counting,
    /// It ends.
    Quieting,
    /// How many are held now?
    Asking,
    /// The worker is told that nothing is held any more, or that the endpoint is on: then it is done.
    Letting,
}

/// What a flow needs of the rest.
pub(super) struct Scene<'a> {
    pub(super) common: &'a mut Common,
    pub(super) hosted: &'a BTreeMap<String, Hosted>,
    pub(super) served: &'a BTreeMap<String, Served>,
    pub(super) names: &'a Names,
}

/// All of them; one at a time as a rule.
#[derive(Debug, Default)]
pub(super) struct Flows(BTreeMap<OperationKey, Flow>);

impl Flows {
    /// Begins one.
    pub(super) fn ask(
        &mut self,
        scene: &mut Scene<'_>,
        operation: OperationKey,
        asked: &Asked,
        asker: &Asker,
    ) {
        let name = asked.target.as_deref();
        let result = match &asked.what {
            What::Pause { time, max_held } => pause(scene, operation, name, *time, *max_held, asker),
            What::Resume => resume(scene, operation, name),
            What::DrainEndpoint { limit } => drain(scene, operation, name, *limit),
            What::EnableEndpoint => enable(scene, operation, name),
            _ => Err((Outcome::Rejected, Cause::Unfit, "this is not about traffic".to_owned())),
        };
        match result {
            Ok(flow) => {
                self.0.insert(operation, flow);
            }
            Err((outcome, cause, why)) => {
                let mut ended = nothing(operation);
                if outcome != Outcome::Unchanged {
                    ended.problems.push(Problem::new(why));
                }
                (ended.outcome, ended.cause) = (outcome, cause);
                scene.common.out.push(Out::Ended(Box::new(ended)));
            }
        }
    }

    /// Nobody waits for it any more: what was said so far stays so.
    pub(super) fn call_off(&mut self, common: &mut Common, operation: OperationKey) -> bool {
        let Some(mut flow) = self.0.remove(&operation) else { return false };
        common.board.give_up(&Waiter::Flow(operation));
        let why = match flow.stage {
            Stage::Telling | Stage::Letting => "the worker has not said that it acts on it",
            _ => "what is in flight had not ended yet when this was called off",
        };
        flow.ended.warnings.push(Problem::new(why));
        let is_set = !matches!(flow.stage, Stage::Telling | Stage::Letting);
        let (outcome, cause) = match is_set {
            true => (Outcome::Applied, Cause::NotQuiet),
            false => (Outcome::Unknown, Cause::NoAnswer),
        };
        finish(common, flow, outcome, cause);
        true
    }

    /// The worker acts on what was said.
    pub(super) fn set(&mut self, common: &mut Common, operation: OperationKey) {
        let Some(flow) = self.0.get_mut(&operation) else { return };
        if flow.stage != Stage::Telling {
            let Some(flow) = self.0.remove(&operation) else { return };
            return finish(common, flow, Outcome::Applied, Cause::Done);
        }
        flow.stage = Stage::Counting;
        let targets = flow.targets.clone();
        ask_quiet(common, operation, targets, Duration::ZERO);
    }

    /// What was asked about is quiet, or its time is over.
    pub(super) fn quiet(&mut self, common: &mut Common, operation: OperationKey, quiet: Quiet) {
        let Some(mut flow) = self.0.remove(&operation) else { return };
        match flow.stage {
            Stage::Counting if quiet.left > 0 => {
                flow.in_flight = Some(quiet.left);
                flow.stage = Stage::Quieting;
                let (targets, left) =
                    (flow.targets.clone(), flow.until.saturating_duration_since(Instant::now()));
                common.out.push(Out::Step { operation, step: StepName::Quiet });
                self.0.insert(operation, flow);
                ask_quiet(common, operation, targets, left);
            }
            Stage::Asking => {
                flow.ended.program.held = Some(quiet.held);
                flow.stage = Stage::Letting;
                let targets = flow.targets.clone();
                common.board.resume(|paused| is_operators(paused) && targets.contains(&paused.target));
                // What another pause holds, too, waits on: nobody knows how much that is.
                if quiet.held > 0
                    && let Some(other) = common.board.paused.first()
                {
                    flow.ended.program.held = None;
                    let was =
                        if quiet.held == 1 { "1 was".to_owned() } else { format!("{} were", quiet.held) };
                    let warning = format!(
                        "{was} held for it; {} is paused, and what is held for that waits on",
                        other.target
                    );
                    flow.ended.warnings.push(Problem::new(warning));
                }
                common.out.push(Out::Step { operation, step: StepName::Release });
                self.0.insert(operation, flow);
                common.say_traffic(Some(Waiter::Flow(operation)));
            }
            _ => {
                let result = &mut flow.ended.program;
                result.in_flight_ended = Some(flow.in_flight.unwrap_or(0).saturating_sub(quiet.left));
                result.in_flight_left = quiet.left;
                let pauses = result.paused_until.is_some();
                result.held = result.held.or(Some(quiet.held).filter(|_| pauses));
                for paused in
                    common.board.paused.iter_mut().filter(|paused| flow.targets.contains(&paused.target))
                {
                    paused.held = Some(quiet.held);
                }
                let cause = if quiet.left == 0 { Cause::Done } else { Cause::NotQuiet };
                if quiet.left > 0 {
                    let what = flow.targets.first().map(ToString::to_string).unwrap_or_default();
                    let warning =
                        format!("{} still in flight at {what} when the time was over", counted(quiet.left));
                    flow.ended.warnings.push(Problem::new(warning));
                }
                finish(common, flow, Outcome::Applied, cause);
            }
        }
    }
}

/// `1 request is`, `3 requests are`.
fn counted(count: u64) -> String {
    if count == 1 {
        "1 request or connection was".to_owned()
    } else {
        format!("{count} requests or connections were")
    }
}

type Begun = Result<Flow, (Outcome, Cause, String)>;

fn refused(why: impl ToString) -> (Outcome, Cause, String) {
    (Outcome::Rejected, Cause::Unfit, why.to_string())
}

/// The outcome's own sentence says what is so already.
fn already() -> (Outcome, Cause, String) {
    (Outcome::Unchanged, Cause::AlreadySo, String::new())
}

fn nothing(operation: OperationKey) -> Ended {
    Ended::applied(operation, ProgramResult::default())
}

fn is_operators(paused: &Paused) -> bool {
    matches!(paused.by, PausedBy::Operator(_))
}

fn pause(
    scene: &mut Scene<'_>,
    operation: OperationKey,
    name: Option<&str>,
    time: Option<Duration>,
    max_held: Option<u32>,
    asker: &Asker,
) -> Begun {
    let name = name.ok_or_else(|| refused("say what is to be paused"))?;
    let target = target(scene, name).map_err(refused)?;
    let mut of_program = None;
    if let Target::Program(program) = &target {
        let of_served = || scene.served.get(program).map(|served| Arc::clone(served.spec()));
        let spec = scene.hosted.get(program).and_then(Hosted::spec).or_else(of_served);
        if spec.as_ref().is_some_and(|spec| spec.private.is_none()) {
            return Err(refused(format!(
                "{program} accepts its connections itself, so handover cannot hold them: 'handover stop {program}' leaves \
                 them waiting in the queue of its socket until 'handover start {program}'"
            )));
        }
        of_program = spec.map(|spec| spec.max_held);
    }
    let time = time.unwrap_or(PAUSE_TIME);
    let until = Instant::now().checked_add(time).ok_or_else(|| refused("it would never end"))?;
    let max_held = max_held.or(of_program).unwrap_or(MAX_HELD);
    let by = PausedBy::Operator(asker.id.clone());
    scene.common.board.pause(Paused {
        target: target.clone(),
        by,
        until,
        since: now(),
        max_held,
        held: None,
    });
    scene.common.out.push(Out::Step { operation, step: StepName::Hold });
    scene.common.say_traffic(Some(Waiter::Flow(operation)));
    let mut ended = nothing(operation);
    ended.program.paused_until = Some(scene.common.in_time(time));
    Ok(Flow { stage: Stage::Telling, targets: vec![target], until, in_flight: None, ended })
}

fn resume(scene: &mut Scene<'_>, operation: OperationKey, name: Option<&str>) -> Begun {
    let wanted = name.map(|name| target(scene, name)).transpose().map_err(refused)?;
    let running = scene.common.board.paused.iter().filter(|paused| is_operators(paused));
    let fits = running.filter(|paused| wanted.as_ref().is_none_or(|wanted| paused.target == *wanted));
    let targets: BTreeSet<Target> = fits.map(|paused| paused.target.clone()).collect();
    if targets.is_empty() {
        return Err(already());
    }
    let targets: Vec<_> = targets.into_iter().collect();
    ask_quiet(scene.common, operation, targets.clone(), Duration::ZERO);
    let until = Instant::now();
    Ok(Flow { stage: Stage::Asking, targets, until, in_flight: None, ended: nothing(operation) })
}

fn drain(
    scene: &mut Scene<'_>,
    operation: OperationKey,
    name: Option<&str>,
    limit: Option<Duration>,
) -> Begun {
    let name = name.ok_or_else(|| refused("say which endpoint"))?;
    let (name, targets) =
        endpoint(scene.common, scene.hosted, scene.served, scene.names, name).map_err(refused)?;
    if !scene.common.board.off.insert(name.clone()) {
        return Err(already());
    }
    scene.common.out.push(Out::Step { operation, step: StepName::Switch });
    scene.common.say_traffic(Some(Waiter::Flow(operation)));
    let mut ended = nothing(operation);
    if let Some(program) = left_without(scene, &name) {
        ended.warnings.push(Problem::new(format!(
            "no endpoint of {program} gets new requests any more: they wait until one does"
        )));
    }
    let limit = limit.unwrap_or(DRAIN_TIME);
    let until = Instant::now().checked_add(limit).ok_or_else(|| refused("it would never end"))?;
    Ok(Flow { stage: Stage::Telling, targets, until, in_flight: None, ended })
}

fn enable(scene: &mut Scene<'_>, operation: OperationKey, name: Option<&str>) -> Begun {
    let name = name.ok_or_else(|| refused("say which endpoint"))?;
    let plain = name.strip_prefix("endpoint:").unwrap_or(name);
    if !scene.common.board.off.remove(plain) {
        endpoint(scene.common, scene.hosted, scene.served, scene.names, name).map_err(refused)?;
        return Err(already());
    }
    scene.common.out.push(Out::Step { operation, step: StepName::Switch });
    scene.common.say_traffic(Some(Waiter::Flow(operation)));
    let until = Instant::now();
    let ended = nothing(operation);
    Ok(Flow { stage: Stage::Letting, targets: Vec::new(), until, in_flight: None, ended })
}

fn ask_quiet(common: &mut Common, operation: OperationKey, targets: Vec<Target>, limit: Duration) {
    let waiter = Waiter::Flow(operation);
    let messages = common.board.await_quiet(targets, limit, waiter, Instant::now());
    common.send(messages);
}

fn finish(common: &mut Common, flow: Flow, outcome: Outcome, cause: Cause) {
    let mut ended = flow.ended;
    (ended.outcome, ended.cause) = (outcome, cause);
    common.out.push(Out::Ended(Box::new(ended)));
}

/// The names of all programs.
pub(super) fn program_names(
    hosted: &BTreeMap<String, Hosted>,
    served: &BTreeMap<String, Served>,
) -> BTreeSet<String> {
    hosted.keys().chain(served.keys()).cloned().collect()
}

fn target(scene: &Scene<'_>, name: &str) -> Result<Target, Unclear> {
    names::pausable(name, &program_names(scene.hosted, scene.served), scene.names)
}

/// The endpoint of this name as operators call it, and as the worker does.
fn endpoint(
    common: &Common,
    hosted: &BTreeMap<String, Hosted>,
    served: &BTreeMap<String, Served>,
    names: &Names,
    name: &str,
) -> Result<(String, Vec<Target>), Unclear> {
    let plain = name.strip_prefix("endpoint:").unwrap_or(name);
    let numbers = |hosted: &Hosted| {
        let spec = hosted.spec().filter(|spec| spec.private.is_some());
        let copies = spec.map_or(0, |spec| spec.copies);
        (1..=copies).map(|number| endpoint_name(&hosted.name, number)).collect::<Vec<_>>()
    };
    let of_programs: Vec<String> = hosted.values().flat_map(numbers).collect();
    if of_programs.iter().any(|known| known == plain) {
        let program = plain.rsplit_once('/').map_or("", |(program, _)| program);
        let placed = common.board.placed(program).iter();
        let of = placed.filter(|placed| endpoint_name(program, placed.number) == plain);
        let targets = of.map(|placed| Target::Endpoint(placed.name.clone())).collect::<Vec<_>>();
        return Ok((plain.to_owned(), targets));
    }
    if names.endpoints.iter().any(|known| known == plain) {
        return Ok((plain.to_owned(), vec![Target::Endpoint(plain.to_owned())]));
    }
    let program = plain.split_once('/').map_or(plain, |(program, _)| program);
    let accepts = |hosted: &Hosted| hosted.spec().is_some_and(|spec| spec.private.is_none());
    if served.contains_key(program) || hosted.get(program).is_some_and(accepts) {
        return Err(Unclear::Shared { program: program.to_owned() });
    }
    let known = of_programs.into_iter().chain(names.endpoints.iter().cloned()).collect();
    Err(Unclear::Unknown { what: "endpoint", name: plain.to_owned(), known })
}

/// The program none of whose endpoints gets requests any more, because this one is off.
fn left_without(scene: &Scene<'_>, name: &str) -> Option<String> {
    let (program, _) = name.rsplit_once('/')?;
    let mut placed = scene.common.board.placed(program).iter().filter(|placed| placed.on).peekable();
    placed.peek()?;
    let is_off = |number: u32| scene.common.board.off.contains(&endpoint_name(program, number));
    placed.all(|placed| is_off(placed.number)).then(|| program.to_owned())
}

/// Why what is asked for is about nothing that there is.
pub(super) fn refusal(
    common: &Common,
    hosted: &BTreeMap<String, Hosted>,
    served: &BTreeMap<String, Served>,
    names: &Names,
    asked: &Asked,
) -> Option<Refused> {
    let name = asked.target.as_deref()?;
    let found = match asked.what {
        What::DrainEndpoint { .. } | What::EnableEndpoint => {
            let plain = name.strip_prefix("endpoint:").unwrap_or(name);
            if common.board.off.contains(plain) {
                return None;
            }
            endpoint(common, hosted, served, names, name).map(|_| ())
        }
        _ => names::pausable(name, &program_names(hosted, served), names).map(|_| ()),
    };
    match found {
        Err(Unclear::Unknown { what, name, known }) => Some(Refused::NoSuchTarget { what, name, known }),
        _ => None,
    }
}

/// It ends before anything was done.
pub(super) fn refuse(common: &mut Common, operation: OperationKey, why: String) {
    let mut ended = nothing(operation);
    ended.problems.push(Problem::new(why));
    (ended.outcome, ended.cause) = (Outcome::Rejected, Cause::Unfit);
    common.out.push(Out::Ended(Box::new(ended)));
}

/// The longest time that this may take.
pub(super) fn longest(what: &What) -> Duration {
    match what {
        What::Pause { time, .. } => time.unwrap_or(PAUSE_TIME) + GRACE,
        What::DrainEndpoint { limit } => limit.unwrap_or(DRAIN_TIME) + GRACE,
        _ => GRACE + GRACE,
    }
}
