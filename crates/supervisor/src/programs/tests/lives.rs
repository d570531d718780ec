//! Beginnings and ends: order, other lives of the supervisor, what was left behind.

use handover_api::ProgramState;
use handover_lifecycle::Outcome;

use super::*;

#[tokio::test]
async fn what_comes_after_another_begins_when_that_is_ready_and_ends_before_it() {
    let mut stage = Stage::new();
    let directory = tempfile::tempdir().unwrap();
    let marks = directory.path().join("marks");
    let script = |name: &str| {
        let file = marks.display();
        format!(
            "trap 'echo -{name} >> {file}; exit 0' TERM; echo +{name} >> {file}; while :; do sleep 0.05; done"
        )
    };
    let first = shell("first", &script("first"));
    let second = ProgramSpec { after: vec!["first".to_owned()], ..shell("second", &script("second")) };
    stage.apply(&[second, first]);
    assert!(!stage.programs.is_settled());
    stage.runs("second").await;
    assert!(stage.programs.is_settled());
    stage.stop().await;
    let marks = std::fs::read_to_string(marks).unwrap();
    assert_eq!(marks.split_whitespace().collect::<Vec<_>>(), ["+first", "+second", "-second", "-first"]);
}

#[tokio::test]
async fn what_ends_is_started_again_and_what_is_stopped_is_not() {
    let mut stage = Stage::new();
    stage.apply(&[shell("web", "exec sleep 1000")]);
    let before = pids(&stage.runs("web").await)[0];
    let pid = rustix::process::Pid::from_raw(i32::try_from(before).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let status =
        stage.looks("web", |status| status.restarts == 1 && status.state == ProgramState::Running).await;
    assert_ne!(pids(&status), [before]);
    let ended = stage.ask("web", What::Stop).await;
    assert_eq!(ended.outcome, Outcome::Applied, "{ended:?}");
    let status = stage.looks("web", |status| status.state == ProgramState::Stopped).await;
    assert!(pids(&status).is_empty());
    assert_eq!(stage.ask("web", What::Stop).await.outcome, Outcome::Unchanged);
    assert_eq!(stage.ask("web", What::Start).await.outcome, Outcome::Applied);
    stage.stop().await;
}

#[tokio::test]
async fn when_all_have_ended_and_none_is_to_be_started_the_code_is_told() {
    let mut stage = Stage::new();
    let mut spec = shell("job", "sleep 0.3; exit 7");
    spec.restart.policy = RestartPolicy::Never;
    stage.apply(&[spec]);
    assert_eq!(stage.all_ended().await, 7);
    stage.stop().await;
}

#[tokio::test]
async fn what_never_gets_ready_and_is_not_started_again_is_no_success() {
    let mut stage = Stage::new();
    let mut spec = shell("job", "sleep 1000; exit 0");
    (spec.ready, spec.ready_limit) = (Ready::Notify, Duration::from_millis(200));
    spec.restart.policy = RestartPolicy::Never;
    stage.apply(&[spec]);
    assert_eq!(stage.all_ended().await, 11);
    stage.stop().await;
}

#[tokio::test]
async fn a_start_counts_all_copies_that_it_has_started() {
    let mut stage = Stage::new();
    stage.apply(&[ProgramSpec { copies: 2, ..shell("web", "exec sleep 1000") }]);
    stage.looks("web", |status| status.copies.len() == 2 && status.state == ProgramState::Running).await;
    assert!(stage.ask("web", What::Stop).await.outcome.is_success());
    let ended = stage.ask("web", What::Start).await;
    assert_eq!((ended.outcome, ended.program.started), (Outcome::Applied, 2), "{ended:?}");
    stage.stop().await;
}

#[tokio::test]
async fn another_life_of_the_supervisor_goes_on_with_the_same_processes() {
    let mut stage = Stage::new();
    let base = stage.directory.path().to_owned();
    let slots = vec![slot(&base, "a"), slot(&base, "b")];
    let spec = ProgramSpec { slots, warm: LONG, ..private("web", "echo hello; exec sleep 1000") };
    stage.apply(std::slice::from_ref(&spec));
    stage.runs("web").await;
    let what = What::Deploy { slot: None, directory: None, confirm: Some(LONG), guard: None };
    assert!(stage.ask("web", what).await.outcome.is_success());
    let before = stage.runs("web").await;
    stage.programs.rest(true);
    assert!(stage.programs.is_still());
    let kept = stage.programs.save();
    Programs::readable(&kept.json).unwrap();
    let descriptors = kept.descriptors.iter().map(|fd| fd.try_clone().unwrap()).collect();
    let setup = Stage::setup(&base);
    stage.programs = Programs::restore(setup, &kept.json, descriptors).unwrap();
    stage.apply(std::slice::from_ref(&spec));
    stage.programs.worker_changed();
    let after = stage.runs("web").await;
    assert_eq!((pids(&after), after.slot.as_deref()), (pids(&before), Some("b")));
    let pending = after.pending.unwrap();
    assert_eq!((pending.operation_id.as_str(), pending.back_to.as_str()), ("op-1", "a"));
    let lines = stage.programs.logs("web", 10).unwrap();
    assert_eq!(lines.iter().filter(|line| line.line == "hello").count(), 2);
    let ended = stage.ask("web", What::Cancel).await;
    assert!(ended.outcome.is_success(), "{ended:?}");
    let after = stage.looks("web", |status| status.slot.as_deref() == Some("a")).await;
    assert!(pids(&before).contains(&pids(&after)[0]), "the warm one");
    stage.stop().await;
}

#[tokio::test]
async fn what_outlived_a_server_that_was_killed_is_ended_at_the_next_start() {
    let mut stage = Stage::new();
    stage.apply(&[shell("web", "exec sleep 1000")]);
    let pid = pids(&stage.runs("web").await)[0];
    let state = stage.directory.path().join("state/programs/state.json");
    while !std::fs::read_to_string(&state).unwrap_or_default().contains(&format!("\"pid\": {pid}")) {
        let happened = stage.programs.next().await;
        stage.programs.take(happened);
    }
    let directory = stage.directory;
    drop(stage.programs);
    let said = Programs::end_leftovers(&Stage::setup(directory.path())).await;
    assert_eq!(said.len(), 1);
    assert!(said[0].contains(&pid.to_string()), "{said:?}");
    assert!(!lives(pid));
}

/// Whatever was written last: the whole server may be killed right after a copy was started.
#[tokio::test]
async fn what_no_state_tells_of_is_ended_at_the_next_start_all_the_same() {
    let mut stage = Stage::new();
    stage.apply(&[shell("web", "exec sleep 1000")]);
    let pid = pids(&stage.runs("web").await)[0];
    let directory = stage.directory;
    drop(stage.programs);
    for text in ["", "{ half of a"] {
        std::fs::write(directory.path().join("state/programs/state.json"), text).unwrap();
    }
    let said = Programs::end_leftovers(&Stage::setup(directory.path())).await;
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(!lives(pid));
    assert_eq!(Programs::end_leftovers(&Stage::setup(directory.path())).await, [""; 0]);
}

/// What is kept by the worker may be older than the copy.
#[tokio::test]
async fn a_copy_of_which_the_next_supervisor_was_told_nothing_is_ended() {
    let mut stage = Stage::new();
    let base = stage.directory.path().to_owned();
    let spec = shell("web", "exec sleep 1000");
    stage.apply(std::slice::from_ref(&spec));
    stage.runs("web").await;
    assert_eq!(stage.ask("web", What::Stop).await.outcome, Outcome::Applied);
    let kept = stage.programs.save();
    let descriptors = kept.descriptors.iter().map(|fd| fd.try_clone().unwrap()).collect();
    assert_eq!(stage.ask("web", What::Start).await.outcome, Outcome::Applied);
    let forgotten = pids(&stage.runs("web").await)[0];
    stage.programs = Programs::restore(Stage::setup(&base), &kept.json, descriptors).unwrap();
    stage.apply(std::slice::from_ref(&spec));
    assert_eq!(stage.programs.status()[0].state, ProgramState::Stopped);
    let ended =
        move || handover_testkit::until("what nobody knows of ends", || (!lives(forgotten)).then_some(()));
    tokio::task::spawn_blocking(ended).await.unwrap();
    stage.stop().await;
}

#[tokio::test]
async fn a_state_that_cannot_be_read_is_kept_under_another_name() {
    let stage = Stage::new();
    let directory = stage.directory.path().join("state/programs");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("state.json"), r#"{"format": 99}"#).unwrap();
    drop(Programs::new(Stage::setup(stage.directory.path())));
    assert_eq!(std::fs::read_to_string(directory.join("state.unreadable")).unwrap(), r#"{"format": 99}"#);
    assert!(!directory.join("state.json").exists());
}
