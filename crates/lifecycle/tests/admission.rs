//! Admission as a table: what is asked, in which situation, and the answer.
//!
//! A line of the table reads: `situation | asked -> answer`. Operation 1 is the one that runs, 2 is the reload
//! that is remembered; generation 3 is what the server is held to.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use handover_lifecycle::{
    Active, Admission, Asked, Caller, GenerationNumber, Kind, OperationKey, Pending, Phase, Refusal, Request,
    Situation, Terms, WorkerState, admit,
};

const TABLE: &str = "
serving                       | reload              -> start
serving                       | HUP                 -> start
serving                       | dry run             -> start
serving                       | action              -> start
serving                       | drain               -> start
serving                       | resume              -> already so
serving                       | stop                -> start
serving                       | TERM                -> start
serving, no worker            | reload              -> start
serving, no worker            | HUP                 -> start
serving, no worker            | dry run             -> refuse: no worker
serving, no worker            | action              -> refuse: no worker
serving, no worker            | drain               -> start
serving, no worker            | resume              -> already so
serving, no worker            | stop                -> start

# hazard 14: two reloads at once, a reload during anything else, anything during a reload
serving, reload reads         | reload              -> refuse: busy with reload
serving, reload reads         | HUP                 -> remember
serving, reload reads, remembered | HUP             -> join 2
serving, reload reads, remembered | reload          -> refuse: busy with reload
serving, reload reads         | dry run             -> refuse: busy with reload
serving, reload reads         | action              -> refuse: busy with reload
serving, reload reads         | drain               -> refuse: busy with reload
serving, reload reads         | resume              -> refuse: busy with reload
serving, reload reads         | stop                -> preempt 1
serving, reload reads         | TERM                -> preempt 1
serving, reload waits         | reload              -> join 1
serving, reload waits         | HUP                 -> join 1
serving, reload waits         | dry run             -> refuse: busy with reload
serving, reload waits         | drain               -> refuse: busy with reload
serving, reload ended         | reload              -> refuse: busy with reload
serving, reload ended         | HUP                 -> remember
serving, reload ended         | stop                -> start
serving, dry run              | reload              -> refuse: busy with dry_run
serving, dry run              | HUP                 -> remember
serving, dry run              | dry run             -> refuse: busy with dry_run
serving, action               | action              -> refuse: busy with action
serving, action               | HUP                 -> remember
serving, action               | stop                -> preempt 1

draining, drain               | drain               -> join 1
draining, drain               | drain, other limit  -> refuse: busy with drain
draining, drain               | reload              -> refuse: busy with drain
draining, drain               | HUP                 -> remember
draining, drain               | dry run             -> refuse: busy with drain
draining, drain               | resume              -> preempt 1
draining, drain               | stop                -> preempt 1
drained, drain ended          | resume              -> refuse: busy with drain
drained                       | reload              -> refuse: drained
drained                       | HUP                 -> remember
drained, remembered           | HUP                 -> join 2
drained                       | dry run             -> start
drained                       | action              -> start
drained, no worker            | dry run             -> refuse: no worker
drained                       | drain               -> already so
drained                       | resume              -> start
drained, no worker            | resume              -> start
drained                       | stop                -> start
drained, resume               | resume              -> refuse: busy with resume
drained, resume               | HUP                 -> remember
drained, resume               | stop                -> preempt 1

# hazard 16: a stray signal is harmless in every state
new                           | HUP                 -> remember
new                           | reload              -> refuse: not started
new                           | dry run             -> refuse: not started
new                           | drain               -> refuse: not started
new                           | resume              -> refuse: not started
new                           | stop                -> start
starting, start               | HUP                 -> remember
starting, start, remembered   | HUP                 -> join 2
starting, start               | reload              -> refuse: busy with start
starting, start               | drain               -> refuse: busy with start
starting, start               | TERM                -> preempt 1
stopping, stop                | HUP                 -> refuse: stopping
stopping, stop                | reload              -> refuse: stopping
stopping, stop                | dry run             -> refuse: stopping
stopping, stop                | drain               -> refuse: stopping
stopping, stop                | resume              -> refuse: stopping
stopping, stop                | stop                -> join 1
stopping, stop                | stop now            -> force 1
stopping, stop                | TERM                -> force 1
stopping, stop ended          | stop                -> refuse: stopping
stopping, stop ended          | TERM                -> refuse: stopping
stopping, start ended         | stop                -> refuse: stopping
stopped                       | HUP                 -> refuse: stopping
stopped                       | TERM                -> refuse: stopping

# changes that await confirmation, and guards
serving                       | confirm             -> refuse: nothing pending
serving                       | cancel              -> refuse: nothing pending
serving                       | rollback            -> start
serving                       | restore             -> start
serving, no worker            | rollback            -> start
serving, no worker            | dry rollback        -> refuse: no worker
serving, pending              | reload              -> refuse: pending
serving, pending              | reload, confirm     -> start
serving, pending              | HUP                 -> remember
serving, pending, remembered  | HUP                 -> join 2
serving, pending              | rollback            -> refuse: pending
serving, pending              | restore             -> refuse: pending
serving, pending              | dry run             -> start
serving, pending              | dry rollback        -> start
serving, pending              | action              -> refuse: pending
serving, pending              | drain               -> start
serving, pending              | resume              -> already so
serving, pending              | stop                -> start
serving, pending              | confirm             -> start
serving, pending              | cancel              -> start
serving, pending, no worker   | confirm             -> start
serving, pending, no worker   | cancel              -> start
serving, pending, reload ended | confirm            -> start
serving, pending, reload ended | cancel             -> start
serving, pending, reload reads | confirm            -> refuse: busy with reload
serving, pending, confirm     | confirm             -> join 1
serving, pending, confirm     | cancel              -> refuse: busy with confirm
serving, pending, cancel      | cancel              -> join 1
serving, pending, cancel      | confirm             -> refuse: busy with cancel
serving, pending, goes back   | confirm             -> refuse: busy with rollback
serving, pending, goes back   | cancel              -> refuse: busy with rollback
serving, pending, goes back   | HUP                 -> remember
serving, pending, goes back   | stop                -> preempt 1
serving, pending, dry run     | reload              -> refuse: busy with dry_run
serving, guarding             | reload              -> refuse: busy with reload
serving, guarding             | reload, confirm     -> refuse: busy with reload
serving, guarding             | HUP                 -> remember
serving, guarding             | rollback            -> refuse: busy with reload
serving, guarding             | dry run             -> refuse: busy with reload
serving, guarding             | drain               -> refuse: busy with reload
serving, guarding             | confirm             -> preempt 1
serving, guarding             | cancel              -> preempt 1
serving, guarding             | stop                -> preempt 1
draining, drain, pending      | confirm             -> refuse: busy with drain
draining, drain, pending      | resume              -> preempt 1
drained, pending              | confirm             -> start
drained, pending              | cancel              -> start
drained, pending              | reload              -> refuse: drained
drained, pending              | reload, confirm     -> refuse: drained
drained, pending              | HUP                 -> remember
drained                       | rollback            -> refuse: drained
drained                       | restore             -> refuse: drained
drained                       | dry rollback        -> start
drained, pending              | resume              -> start
new                           | rollback            -> refuse: not started
new                           | confirm             -> refuse: not started
starting, start               | cancel              -> refuse: busy with start
starting, start               | restore             -> refuse: busy with start
stopping, stop, pending       | confirm             -> refuse: stopping
stopping, stop, pending       | cancel              -> refuse: stopping
stopping, stop                | rollback            -> refuse: stopping

# hazards 14 and 46: an upgrade, and anything during one
serving                       | upgrade             -> start
serving                       | USR2                -> start
serving                       | dry upgrade         -> start
serving, no worker            | upgrade             -> refuse: no worker
serving, no worker            | USR2                -> refuse: no worker
serving, pending              | upgrade             -> refuse: pending
serving, pending              | dry upgrade         -> refuse: pending
serving, pending              | USR2                -> refuse: pending
serving, guarding             | upgrade             -> refuse: busy with reload
serving, reload reads         | upgrade             -> refuse: busy with reload
draining, drain               | upgrade             -> refuse: busy with drain
draining, drain               | USR2                -> refuse: busy with drain
drained                       | upgrade             -> refuse: drained
drained                       | dry upgrade         -> refuse: drained
new                           | USR2                -> refuse: not started
starting, start               | USR2                -> refuse: busy with start
stopping, stop                | USR2                -> refuse: stopping
stopping, stop                | upgrade             -> refuse: stopping
serving, upgrade runs         | upgrade             -> refuse: busy with upgrade
serving, upgrade runs         | USR2                -> refuse: busy with upgrade
serving, upgrade runs         | reload              -> refuse: busy with upgrade
serving, upgrade runs         | HUP                 -> remember
serving, upgrade runs, remembered | HUP             -> join 2
serving, upgrade runs         | dry run             -> refuse: busy with upgrade
serving, upgrade runs         | action              -> refuse: busy with upgrade
serving, upgrade runs         | drain               -> refuse: busy with upgrade
serving, upgrade runs         | confirm             -> refuse: busy with upgrade
serving, upgrade runs         | cancel              -> refuse: busy with upgrade
serving, upgrade runs         | stop                -> preempt 1
serving, upgrade ended        | upgrade             -> refuse: busy with upgrade
serving, upgrade ended        | HUP                 -> remember
serving                       | upgrade, expects 2  -> refuse: stale

# If-Match
serving, pending              | confirm, expects 3  -> start
serving, pending              | confirm, expects 2  -> refuse: stale
serving                       | reload, expects 3   -> start
serving                       | reload, expects 2   -> refuse: stale
serving, reload waits         | reload, expects 3   -> join 1
serving, reload reads         | reload, expects 2   -> refuse: stale
serving                       | drain, expects 2    -> refuse: stale
serving                       | stop, expects 2     -> refuse: stale
stopping, stop                | reload, expects 2   -> refuse: stopping
";

const RUNNING: OperationKey = OperationKey(1);
const REMEMBERED: OperationKey = OperationKey(2);
const PENDING: Pending = Pending {
    generation: GenerationNumber(3),
    back_to: GenerationNumber(2),
    upgrade: None,
    left: Duration::from_secs(90),
};

fn situation(text: &str) -> Situation {
    let mut situation = Situation {
        phase: Phase::New,
        active: None,
        deferred: None,
        generation: Some(GenerationNumber(3)),
        pending: None,
        worker: WorkerState::Present,
    };
    let mut run = |kind, joinable, ended| {
        let guarding = text.contains("guarding");
        situation.active = Some(Active { operation: RUNNING, kind, joinable, guarding, ended });
    };
    for word in text.split(',').map(str::trim) {
        match word {
            "reload reads" => run(Kind::Reload, false, false),
            "guarding" => run(Kind::Reload, false, false),
            "confirm" => run(Kind::Confirm, true, false),
            "cancel" => run(Kind::Cancel, true, false),
            "goes back" => run(Kind::Rollback, false, false),
            "reload waits" => run(Kind::Reload, true, false),
            "reload ended" => run(Kind::Reload, false, true),
            "upgrade runs" => run(Kind::Upgrade, false, false),
            "upgrade ended" => run(Kind::Upgrade, false, true),
            "dry run" => run(Kind::DryRun, false, false),
            "action" => run(Kind::Action, false, false),
            "drain" => run(Kind::Drain, true, false),
            "drain ended" => run(Kind::Drain, false, true),
            "resume" => run(Kind::Resume, false, false),
            "start" => run(Kind::Start, false, false),
            "start ended" => run(Kind::Start, false, true),
            "stop" => run(Kind::Stop, true, false),
            "stop ended" => run(Kind::Stop, false, true),
            _ => {}
        }
    }
    for word in text.split(',').map(str::trim) {
        match word {
            "remembered" => situation.deferred = Some(REMEMBERED),
            "no worker" => situation.worker = WorkerState::Absent,
            "pending" => situation.pending = Some(PENDING),
            _ => {
                let phases = [
                    Phase::New,
                    Phase::Starting,
                    Phase::Serving,
                    Phase::Draining,
                    Phase::Drained,
                    Phase::Stopping,
                    Phase::Stopped,
                ];
                if let Some(phase) = phases.into_iter().find(|phase| phase.as_str() == word) {
                    situation.phase = phase;
                }
            }
        }
    }
    situation
}

/// What is asked, and whether the situation's drain has another limit.
fn asked(text: &str) -> (Asked, bool) {
    let mut words = text.split(',').map(str::trim);
    let confirm = text.trim().ends_with(", confirm").then_some(Duration::from_secs(60));
    let (terms, to) = (Terms { confirm, guard: None }, GenerationNumber(1));
    let (request, caller) = match words.next().unwrap() {
        "reload" => (Request::Reload { dry_run: false, certs_only: false, terms }, Caller::Waiting),
        "rollback" => (Request::Rollback { to, dry_run: false, terms }, Caller::Waiting),
        "dry rollback" => (Request::Rollback { to, dry_run: true, terms }, Caller::Waiting),
        "restore" => (Request::Restore { dry_run: false, terms }, Caller::Waiting),
        "confirm" => (Request::Confirm, Caller::Waiting),
        "cancel" => (Request::Cancel, Caller::Waiting),
        "upgrade" => (Request::Upgrade { dry_run: false, terms }, Caller::Waiting),
        "dry upgrade" => (Request::Upgrade { dry_run: true, terms }, Caller::Waiting),
        "USR2" => (Request::Upgrade { dry_run: false, terms }, Caller::Signal),
        "HUP" => (Request::RELOAD, Caller::Signal),
        "dry run" => (Request::VALIDATE, Caller::Waiting),
        "action" => (Request::Action, Caller::Waiting),
        "drain" => (Request::Drain { limit: None }, Caller::Waiting),
        "resume" => (Request::Resume, Caller::Waiting),
        "stop" => (Request::Stop { now: false, limit: None }, Caller::Waiting),
        "stop now" => (Request::Stop { now: true, limit: Some(Duration::ZERO) }, Caller::Waiting),
        "TERM" => (Request::Stop { now: false, limit: None }, Caller::Signal),
        other => panic!("{other:?} cannot be asked"),
    };
    let more = words.next();
    let expected =
        more.and_then(|word| word.strip_prefix("expects ")).map(|n| GenerationNumber(n.parse().unwrap()));
    (Asked { request, caller, expected }, more == Some("other limit"))
}

fn answer(admission: Admission) -> String {
    match admission {
        Admission::Start => "start".to_owned(),
        Admission::Preempt(OperationKey(key)) => format!("preempt {key}"),
        Admission::AlreadySo => "already so".to_owned(),
        Admission::Join(OperationKey(key)) => format!("join {key}"),
        Admission::Force(OperationKey(key)) => format!("force {key}"),
        Admission::Defer => "remember".to_owned(),
        Admission::Refuse(refusal) => format!(
            "refuse: {}",
            match refusal {
                Refusal::Pending { generation, back_to, left, .. } => {
                    assert_eq!(Pending { generation, back_to, upgrade: None, left }, PENDING);
                    "pending".to_owned()
                }
                Refusal::NothingPending => "nothing pending".to_owned(),
                Refusal::TakenBack => panic!("only what was remembered is refused so"),
                Refusal::Busy { running, kind } => {
                    assert_eq!(running, RUNNING);
                    format!("busy with {}", kind.as_str())
                }
                Refusal::Drained => "drained".to_owned(),
                Refusal::Stopping => "stopping".to_owned(),
                Refusal::NotStarted => "not started".to_owned(),
                Refusal::NoWorker => "no worker".to_owned(),
                Refusal::Stale { .. } => "stale".to_owned(),
            }
        ),
    }
}

#[test]
fn every_request_in_every_situation_has_the_answer_of_the_table() {
    let mut checked = 0;
    for line in TABLE.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (left, expected) = line.split_once("->").unwrap();
        let (situation_text, asked_text) = left.split_once('|').unwrap();
        let (asked, other_limit) = asked(asked_text);
        let mut situation = situation(situation_text);
        if let (Some(active), true) = (&mut situation.active, other_limit) {
            active.joinable = false;
        }
        assert_eq!(answer(admit(&situation, &asked)), expected.trim(), "{line}");
        checked += 1;
    }
    assert_eq!(checked, TABLE.matches("->").count());
}

/// Whatever the situation: a caller who waits is never kept waiting for something that nobody runs, and
/// only what is the same is joined.
#[test]
fn nobody_joins_what_does_something_else() {
    let requests = [
        "reload",
        "reload, confirm",
        "HUP",
        "dry run",
        "rollback",
        "restore",
        "confirm",
        "cancel",
        "action",
        "drain",
        "resume",
        "stop",
        "stop now",
        "TERM",
    ];
    let phases = ["new", "starting", "serving", "draining", "drained", "stopping", "stopped"];
    let running = [
        "",
        "reload reads",
        "reload waits",
        "reload ended",
        "dry run",
        "action",
        "drain",
        "drain ended",
        "resume",
        "start",
        "start ended",
        "stop",
        "stop ended",
        "guarding",
        "confirm",
        "cancel",
        "goes back",
    ];
    for phase in phases {
        for run in running {
            for remembered in ["", ", remembered", ", pending", ", pending, remembered"] {
                for request in requests {
                    let text = format!("{phase}, {run}{remembered}");
                    let (situation, (asked, _)) = (situation(&text), asked(request));
                    match admit(&situation, &asked) {
                        Admission::Join(RUNNING) | Admission::Force(RUNNING) => {
                            let active = situation.active.unwrap();
                            assert!(!active.ended, "{text} | {request}");
                            assert_eq!(active.kind, asked.request.kind(), "{text} | {request}");
                        }
                        Admission::Join(key) => {
                            assert_eq!((key, request), (REMEMBERED, "HUP"), "{text}");
                        }
                        Admission::Refuse(Refusal::Busy { running, .. }) => {
                            assert_eq!(situation.active.unwrap().operation, running);
                            assert_ne!(request, "HUP", "{text}: a signal cannot be told busy");
                        }
                        Admission::Start | Admission::AlreadySo => {
                            assert!(situation.active.is_none_or(|active| active.ended), "{text} | {request}");
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}

#[test]
fn a_refusal_says_why_in_words() {
    let busy = Refusal::Busy { running: OperationKey(7), kind: Kind::Reload };
    assert_eq!(busy.to_string(), "busy: operation 7 (reload) is running");
    let pending = Refusal::from(PENDING);
    let text = "pending: generation 3 awaits confirmation for another 90 s, then generation 2 serves again";
    assert_eq!(pending.to_string(), text);
    let stale = Refusal::Stale { expected: GenerationNumber(2), serving: Some(GenerationNumber(3)) };
    assert_eq!(stale.to_string(), "stale: generation 2 was expected, generation 3 serves");
    let none = Refusal::Stale { expected: GenerationNumber(2), serving: None };
    assert_eq!(none.to_string(), "stale: generation 2 was expected, none serves");
}
