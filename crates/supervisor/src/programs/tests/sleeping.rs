//! Programs behind routes that run only when somebody needs them.

use handover_api::ProgramState;

use super::*;
use crate::protocol::Traffic;

const STAYS: &str = "exec sleep 1000";

fn lazy(script: &str) -> ProgramSpec {
    ProgramSpec { on_demand: true, ..private("web", script) }
}

/// Traffic as the worker was told of it last, each time.
async fn told(stage: &mut Stage, fits: impl Fn(&Traffic) -> bool) {
    stage
        .until(|out| match out {
            Out::ToWorker(ToWorker::Traffic { traffic, .. }) => fits(traffic).then_some(()),
            _ => None,
        })
        .await;
}

#[tokio::test]
async fn it_is_started_when_the_worker_says_that_somebody_waits_and_only_then() {
    let mut stage = Stage::new();
    stage.apply(&[lazy(STAYS)]);
    let asleep = stage.looks("web", |status| status.state == ProgramState::OnDemand).await;
    assert!(asleep.copies.is_empty());
    let wakes = stage.programs.traffic().wakes;
    assert_eq!((wakes["web"].limit, wakes["web"].max_held), (LONG + LONG, 10));
    stage.programs.wanted("nobody");
    stage.programs.wanted("web");
    stage.programs.wanted("web");
    let status = stage.runs("web").await;
    assert_eq!((pids(&status).len(), status.restarts), (1, 0));
    assert!(stage.programs.traffic().wakes.is_empty(), "it is there");
    // Said before the worker knew.
    stage.programs.wanted("web");
    assert_eq!(pids(&stage.runs("web").await), pids(&status));
    // An operator's word counts for more.
    assert!(stage.ask("web", What::Stop).await.outcome.is_success());
    assert!(stage.programs.traffic().wakes.is_empty());
    stage.programs.wanted("web");
    assert!(stage.ask("web", What::Restart { batch: None, max_unhealthy: None }).await.outcome.is_success());
    stage.stop().await;
}

#[tokio::test]
async fn who_comes_while_it_is_being_stopped_is_remembered_and_it_sleeps_again_afterwards() {
    let mut stage = Stage::new();
    let slow = "trap 'sleep 0.3; exit 0' TERM; while :; do sleep 0.05; done";
    let spec = ProgramSpec { idle: Some(Duration::from_millis(200)), ..lazy(slow) };
    stage.begun = Some(1);
    stage.apply(std::slice::from_ref(&spec));
    stage.programs.wanted("web");
    let first = pids(&stage.runs("web").await);
    stage.looks("web", |status| status.state == ProgramState::Stopping).await;
    assert!(stage.programs.traffic().wakes.contains_key("web"));
    stage.programs.wanted("web");
    stage.looks("web", |status| status.state == ProgramState::Starting).await;
    stage.programs.wanted("web");
    let second = pids(&stage.runs("web").await);
    assert_ne!(first, second);
    // What was remembered is forgotten once it was heeded, and once a copy is there.
    stage.looks("web", |status| status.state == ProgramState::OnDemand).await;
    stage.programs.wanted("web");
    assert_ne!(pids(&stage.runs("web").await), second);
    stage.stop().await;
}

#[tokio::test]
async fn one_that_fails_is_not_worth_waiting_for_and_one_that_only_ends_is_not_started_in_a_circle() {
    let mut stage = Stage::new();
    stage.apply(&[ProgramSpec { ready: Ready::After(LONG), ..lazy("exit 3") }]);
    stage.programs.wanted("web");
    stage.looks("web", |status| status.state == ProgramState::BackOff).await;
    assert!(stage.programs.traffic().wakes.is_empty());
    let restart = Restart { policy: RestartPolicy::Never, first: LONG, longest: LONG, reset: LONG };
    stage.apply(&[ProgramSpec { restart, ready: Ready::After(LONG), ..lazy("exit 0") }]);
    stage.looks("web", |status| status.state == ProgramState::OnDemand).await;
    // Whoever waits says so again, each time.
    stage.programs.wanted("web");
    told(&mut stage, |traffic| traffic.wakes.contains_key("web")).await;
    stage.programs.wanted("web");
    stage.looks("web", |status| status.state == ProgramState::BackOff).await;
    stage.stop().await;
}

#[tokio::test]
async fn what_sleeps_and_what_wakes_goes_on_in_the_next_life() {
    let mut stage = Stage::new();
    let base = stage.directory.path().to_owned();
    let spec = lazy(STAYS);
    stage.apply(std::slice::from_ref(&spec));
    stage.looks("web", |status| status.state == ProgramState::OnDemand).await;
    let again = |stage: &mut Stage| {
        let kept = stage.programs.save();
        let descriptors = kept.descriptors.iter().map(|fd| fd.try_clone().unwrap()).collect();
        stage.programs = Programs::restore(Stage::setup(&base), &kept.json, descriptors).unwrap();
        assert!(stage.programs.traffic().wakes.contains_key("web"), "from the first word on");
        stage.apply(std::slice::from_ref(&spec));
        stage.programs.worker_changed();
    };
    again(&mut stage);
    stage.programs.wanted("web");
    // It is being started: nobody knows whether it was.
    assert!(!stage.programs.is_still());
    again(&mut stage);
    assert_eq!(pids(&stage.runs("web").await).len(), 1);
    stage.stop().await;
}
