//! Restarts, deploys, rollbacks, and the exam of a reload.

use std::time::Duration;

use handover_api::ServesNow;
use handover_lifecycle::{Cause, OperationKey, Outcome};

use super::super::groups::Groups;
use super::*;
use crate::protocol::{CommandSpec, ResourceLimits};

const STAYS: &str = "exec sleep 1000";
/// Fails where a file is called `bad`.
const MAY_FAIL: &str = "if [ -e bad ]; then echo it is bad; exit 3; fi; exec sleep 1000";

/// Ready when its shell has become what stays: what ends before never is, however slow this machine is.
fn stays() -> Ready {
    let check = "test \"$(cat /proc/$HANDOVER_PID/comm)\" = sleep";
    Ready::Command(CommandSpec { command: ["sh", "-c", check].map(str::to_owned).to_vec(), limit: LONG })
}

fn restart() -> What {
    What::Restart { batch: None, max_unhealthy: None }
}

fn deploy(confirm: Option<Duration>) -> What {
    What::Deploy { slot: None, directory: None, confirm, guard: None }
}

#[tokio::test]
async fn after_a_restart_another_process_runs_and_the_old_one_does_not() {
    let mut stage = Stage::new();
    stage.apply(&[shell("web", STAYS)]);
    let before = pids(&stage.runs("web").await);
    let ended = stage.ask("web", restart()).await;
    assert_eq!((ended.outcome, ended.program.serves), (Outcome::Applied, ServesNow::New), "{ended:?}");
    let after = pids(&stage.runs("web").await);
    assert_eq!(after.len(), 1);
    assert_ne!(before, after);
    assert!(!lives(before[0]) && lives(after[0]));
    stage.stop().await;
    assert!(!lives(after[0]));
}

#[tokio::test]
async fn a_new_copy_that_fails_leaves_the_old_one_and_its_last_lines_are_answered() {
    let mut stage = Stage::new();
    let directory = stage.directory.path().to_owned();
    let directory_of_its_own = Some(directory.clone());
    stage.apply(&[ProgramSpec { directory: directory_of_its_own, ready: stays(), ..shell("web", MAY_FAIL) }]);
    let before = pids(&stage.runs("web").await);
    std::fs::write(directory.join("bad"), "").unwrap();
    let ended = stage.ask("web", restart()).await;
    assert_eq!((ended.outcome, ended.cause), (Outcome::NotReady, Cause::ProgramEnded), "{ended:?}");
    assert_eq!(ended.program.last_lines, ["it is bad"]);
    assert_eq!(ended.program.exit.as_deref(), Some("exited with code 3"));
    assert!(ended.problems[0].detail.contains("copy 1 of web"), "{ended:?}");
    assert_eq!(pids(&stage.runs("web").await), before);
    assert!(lives(before[0]));
    stage.stop().await;
}

#[tokio::test]
async fn a_deploy_goes_to_the_other_slot_and_a_rollback_comes_back_to_what_is_warm() {
    let mut stage = Stage::new();
    let base = stage.directory.path().to_owned();
    let slots = vec![slot(&base, "a"), slot(&base, "b")];
    let spec = ProgramSpec { slots, warm: LONG, ..private("web", STAYS) };
    stage.apply(std::slice::from_ref(&spec));
    let before = stage.runs("web").await;
    assert_eq!(before.slot.as_deref(), Some("a"));
    let ended = stage.ask("web", deploy(None)).await;
    assert_eq!(ended.outcome, Outcome::Applied, "{ended:?}");
    assert_eq!((ended.program.from.as_deref(), ended.program.to.as_deref()), (Some("a"), Some("b")));
    assert!(ended.program.warm_until.is_some());
    let written = std::fs::read_to_string(base.join("state/programs/state.json")).unwrap();
    assert!(written.contains(r#""slot": "b""#), "{written}");
    let ended = stage.ask("web", What::Rollback).await;
    assert_eq!(ended.outcome, Outcome::Applied, "{ended:?}");
    let after = stage.looks("web", |status| status.slot.as_deref() == Some("a")).await;
    assert!(pids(&after).contains(&pids(&before)[0]), "the same process serves again");
    stage.stop().await;
}

#[tokio::test]
async fn a_deploy_to_a_slot_that_is_not_there_or_serves_already_changes_nothing() {
    let mut stage = Stage::new();
    let base = stage.directory.path().to_owned();
    let mut spec = ProgramSpec { slots: vec![slot(&base, "a"), slot(&base, "b")], ..shell("web", STAYS) };
    spec.slots[1].directory = Some(base.join("missing"));
    stage.apply(&[spec]);
    let before = pids(&stage.runs("web").await);
    for (slot, word) in [(Some("c"), "has no slot"), (Some("a"), "serves from a already"), (None, "missing")]
    {
        let slot = slot.map(str::to_owned);
        let what = What::Deploy { slot, directory: None, confirm: None, guard: None };
        let ended = stage.ask("web", what).await;
        assert_eq!((ended.outcome, ended.cause), (Outcome::Rejected, Cause::Unfit));
        assert!(ended.problems[0].detail.contains(word), "{ended:?}");
    }
    assert_eq!(pids(&stage.runs("web").await), before);
    stage.stop().await;
}

#[tokio::test]
async fn a_deploy_that_nobody_confirms_is_taken_back_by_an_operation_of_the_supervisor() {
    let mut stage = Stage::new();
    let base = stage.directory.path().to_owned();
    stage.apply(&[ProgramSpec { slots: vec![slot(&base, "a"), slot(&base, "b")], ..private("web", STAYS) }]);
    stage.runs("web").await;
    let ended = stage.ask("web", deploy(Some(Duration::from_millis(300)))).await;
    assert_eq!(ended.program.goes_back.map(|back| back.to).as_deref(), Some("a"));
    let asked = stage
        .until(|out| match out {
            Out::Own { asked, .. } => Some(asked.clone()),
            _ => None,
        })
        .await;
    assert_eq!(asked, Asked { target: Some("web".to_owned()), what: What::GoBack });
    let ended = stage.ask("web", What::GoBack).await;
    assert!(ended.outcome.is_success(), "{ended:?}");
    let status = stage.looks("web", |status| status.slot.as_deref() == Some("a")).await;
    assert!(status.pending.is_none());
    stage.stop().await;
}

#[tokio::test]
async fn a_program_that_cannot_overlap_is_started_again_when_the_next_one_fails() {
    let mut stage = Stage::new();
    let base = stage.directory.path().to_owned();
    let slots = vec![slot(&base, "a"), slot(&base, "b")];
    std::fs::write(base.join("b/bad"), "").unwrap();
    let spec = ProgramSpec { slots, swap: Swap::StopFirst, ready: stays(), ..private("web", MAY_FAIL) };
    stage.apply(&[spec]);
    stage.runs("web").await;
    stage.held = 7;
    let ended = stage.ask("web", deploy(None)).await;
    assert_eq!(
        (ended.outcome, ended.program.serves),
        (Outcome::RolledBack, ServesNow::OldAgain),
        "{ended:?}"
    );
    assert_eq!((ended.program.held, ended.program.last_lines.len()), (Some(7), 1), "{ended:?}");
    assert_eq!(stage.runs("web").await.slot.as_deref(), Some("a"));
    assert!(stage.programs.paused().is_empty());
    stage.stop().await;
}

#[tokio::test]
async fn why_a_copy_did_not_get_ready_or_did_not_start_is_said_once_and_with_the_time_that_it_had() {
    let mut stage = Stage::new();
    stage.apply(&[shell("web", STAYS)]);
    stage.runs("web").await;
    let limit = Duration::from_millis(400);
    let late = ProgramSpec { ready: Ready::Notify, ready_limit: limit, ..shell("web", "sleep 999; exit 1") };
    stage.programs.examine(OperationKey(90), &[late], Sockets::new());
    let problems = stage
        .until(|out| match out {
            Out::Examined { problems, .. } => Some(problems.clone()),
            _ => None,
        })
        .await;
    assert!(problems[0].detail.contains("was not ready within 400ms: it has not said"), "{problems:?}");
    stage.programs.abort(OperationKey(90));
    let none = ProgramSpec { command: vec!["/nowhere/at/all".to_owned()], ..shell("web", STAYS) };
    stage.programs.examine(OperationKey(91), &[none], Sockets::new());
    let problems = stage
        .until(|out| match out {
            Out::Examined { operation: OperationKey(91), problems, .. } => Some(problems.clone()),
            _ => None,
        })
        .await;
    let says = "copy 1 of web was not started: there is no file /nowhere/at/all to execute";
    assert!(problems[0].detail.starts_with(says), "{problems:?}");
    stage.programs.abort(OperationKey(91));
    stage.stop().await;
}

#[tokio::test]
async fn what_an_exam_could_not_keep_of_a_definition_is_a_warning_of_the_reload() {
    let mut stage = Stage::new();
    stage.programs.common.outputs().unwrap();
    stage.programs.common.groups = Groups::none();
    let limits = ResourceLimits { memory: Some(64 << 20), ..ResourceLimits::default() };
    let limited = ProgramSpec { limits, ..shell("web", STAYS) };
    stage.programs.examine(OperationKey(90), std::slice::from_ref(&limited), Sockets::new());
    let (passed, warnings) = stage
        .until(|out| match out {
            Out::Examined { passed, warnings, .. } => Some((*passed, warnings.clone())),
            _ => None,
        })
        .await;
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert!(warning.detail.starts_with("web: the limit on memory cannot be kept"), "{warning:?}");
    assert!(passed, "it serves all the same");
    stage.stop().await;
}

#[tokio::test]
async fn the_exam_of_a_reload_proves_what_is_new_and_what_fails_leaves_nothing() {
    let mut stage = Stage::new();
    stage.apply(&[shell("web", STAYS)]);
    let before = pids(&stage.runs("web").await);
    let old = shell("web", STAYS);
    let new = shell("new", "echo no; exit 1");
    let fails = [old.clone(), ProgramSpec { after: vec!["web".to_owned()], ready: stays(), ..new }];
    assert!(stage.programs.differs(&fails).is_some());
    assert_eq!(stage.programs.differs(std::slice::from_ref(&old)), None);
    stage.programs.examine(OperationKey(90), &fails, Sockets::new());
    let problems = stage
        .until(|out| match out {
            Out::Examined { passed, problems, .. } => Some((*passed, problems.clone())),
            _ => None,
        })
        .await;
    assert!(!problems.0);
    assert!(problems.1[0].detail.contains("copy 1 of new"), "{problems:?}");
    assert_eq!(problems.1[0].excerpt.as_deref(), Some("no"));
    stage.programs.abort(OperationKey(90));
    let serves = [shell("web", "sleep 1000; exit 1"), shell("new", STAYS)];
    stage.programs.examine(OperationKey(91), &serves, Sockets::new());
    assert!(
        stage
            .until(|out| match out {
                Out::Examined { passed, .. } => Some(*passed),
                _ => None,
            })
            .await
    );
    assert!(lives(before[0]), "it serves until the new one does");
    stage.programs.apply(&serves, &Names::default(), Sockets::new(), Some(OperationKey(91)));
    stage.looks("web", |status| status.copies.len() == 1 && pids(status) != before).await;
    assert!(!lives(before[0]));
    stage.runs("new").await;
    stage.apply(&serves[..1]);
    stage.looks("web", |_| true).await;
    while stage.programs.status().len() > 1 {
        let happened = stage.programs.next().await;
        stage.programs.take(happened);
    }
    stage.stop().await;
}
