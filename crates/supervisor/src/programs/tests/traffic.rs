//! Pauses and endpoints.

use handover_lifecycle::{Cause, Outcome};

use super::*;
use crate::protocol::Target;

const STAYS: &str = "exec sleep 1000";

fn pause(milliseconds: u64) -> What {
    What::Pause { time: Some(Duration::from_millis(milliseconds)), max_held: Some(5) }
}

#[tokio::test]
async fn a_pause_is_told_to_the_worker_and_a_resume_says_how_many_were_held() {
    let mut stage = Stage::new();
    stage.apply(&[private("web", STAYS)]);
    stage.runs("web").await;
    let nothing = stage.ask("web", What::Resume).await;
    // The outcome's own sentence says it.
    assert!(nothing.outcome == Outcome::Unchanged && nothing.warnings.is_empty(), "{nothing:?}");
    stage.held = 3;
    let ended = stage.ask("web", pause(60_000)).await;
    assert_eq!((ended.outcome, ended.program.held), (Outcome::Applied, Some(3)), "{ended:?}");
    assert!(ended.program.paused_until.is_some());
    let pauses = stage.programs.traffic().pauses;
    assert_eq!((&pauses[0].target, pauses[0].max_held), (&Target::Program("web".to_owned()), 5));
    // It goes on through a restart.
    let what = What::Restart { batch: None, max_unhealthy: None };
    assert_eq!(stage.ask("web", what).await.outcome, Outcome::Applied);
    assert_eq!(stage.programs.traffic().pauses.len(), 1);
    let ended = stage.ask("web", What::Resume).await;
    assert_eq!((ended.outcome, ended.program.held), (Outcome::Applied, Some(3)), "{ended:?}");
    assert!(stage.programs.traffic().pauses.is_empty());
    stage.stop().await;
}

#[tokio::test]
async fn a_pause_that_nobody_ends_ends_by_itself_and_that_is_said() {
    let mut stage = Stage::new();
    stage.apply(&[private("web", STAYS)]);
    stage.runs("web").await;
    stage.ask("program:web", pause(300)).await;
    let notice = stage
        .until(|out| match out {
            Out::Notice(notice) => Some(notice.clone()),
            _ => None,
        })
        .await;
    assert!(notice.contains("program web"), "{notice}");
    assert!(stage.programs.paused().is_empty());
    stage.stop().await;
}

#[tokio::test]
async fn a_program_that_accepts_by_itself_cannot_be_paused_and_the_answer_says_why() {
    let mut stage = Stage::new();
    stage.apply(&[shell("web", STAYS)]);
    stage.runs("web").await;
    let ended = stage.ask("web", pause(1000)).await;
    assert_eq!((ended.outcome, ended.cause), (Outcome::Rejected, Cause::Unfit));
    assert!(ended.problems[0].detail.contains("accepts its connections itself"), "{ended:?}");
    let asked = Asked { target: Some("wbe".to_owned()), what: pause(1000) };
    assert!(stage.programs.refusal(&asked).is_some());
    for copy in ["web/1", "web"] {
        let ended = stage.ask(copy, What::DrainEndpoint { limit: None }).await;
        assert_eq!((ended.outcome, ended.cause), (Outcome::Rejected, Cause::Unfit));
        assert!(ended.problems[0].detail.contains("'handover stop web' ends all of it"), "{ended:?}");
    }
    stage.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_is_off_stays_off_for_the_next_copy_until_it_is_enabled() {
    let mut stage = Stage::new();
    stage.apply(&[ProgramSpec { copies: 2, ..private("web", STAYS) }]);
    let is_ready = |copy: &handover_api::CopyStatus| copy.state == handover_api::CopyState::Ready;
    stage.looks("web", |status| status.copies.iter().filter(|copy| is_ready(copy)).count() == 2).await;
    let on = |stage: &Stage| -> Vec<bool> {
        let traffic = stage.programs.traffic();
        traffic.programs["web"].iter().filter(|endpoint| endpoint.on).map(|endpoint| endpoint.on).collect()
    };
    let ended = stage.ask("web/1", What::DrainEndpoint { limit: None }).await;
    assert_eq!(ended.outcome, Outcome::Applied, "{ended:?}");
    assert_eq!((on(&stage).len(), stage.programs.endpoints_off()), (1, vec!["web/1".to_owned()]));
    assert_eq!(stage.ask("web/1", What::DrainEndpoint { limit: None }).await.outcome, Outcome::Unchanged);
    stage.ask("web", What::Restart { batch: None, max_unhealthy: None }).await;
    assert_eq!(on(&stage).len(), 1);
    let ended = stage.ask("web/2", What::DrainEndpoint { limit: None }).await;
    assert!(ended.warnings[0].detail.contains("no endpoint of web"), "{ended:?}");
    stage.ask("web/1", What::EnableEndpoint).await;
    stage.ask("web/2", What::EnableEndpoint).await;
    assert_eq!((on(&stage).len(), stage.programs.endpoints_off().len()), (2, 0));
    assert_eq!(stage.ask("web/2", What::EnableEndpoint).await.outcome, Outcome::Unchanged);
    stage.stop().await;
}

/// The pause ends long before the next copy serves: they wait on, and the answer says for how long.
#[tokio::test]
async fn the_longest_wait_of_a_swap_is_that_until_somebody_answers_also_if_the_pause_is_over_before() {
    let mut stage = Stage::new();
    let settle = Duration::from_millis(1_000);
    let swap = ProgramSpec { swap: Swap::StopFirst, ..private("web", STAYS) };
    stage.apply(&[ProgramSpec { settle, pause_limit: Duration::from_millis(400), ..swap }]);
    stage.runs("web").await;
    stage.held = 3;
    let ended = stage.ask("web", What::Restart { batch: None, max_unhealthy: None }).await;
    assert_eq!((ended.outcome, ended.program.held), (Outcome::Applied, Some(3)), "{ended:?}");
    // Nobody could answer before the next copy had settled.
    let longest = ended.program.longest_wait_ms.map(Duration::from_millis);
    assert!(longest.is_some_and(|longest| longest >= settle), "{ended:?}");
    assert!(stage.programs.paused().is_empty());
    stage.stop().await;
}

#[tokio::test]
async fn a_copy_whose_first_process_has_ended_gets_nothing_new_before_it_is_known_what_it_left_behind() {
    let mut stage = Stage::new();
    stage.apply(&[private("web", STAYS)]);
    let pid = pids(&stage.runs("web").await)[0];
    let on = |stage: &Stage| stage.programs.traffic().programs["web"].iter().any(|endpoint| endpoint.on);
    assert!(on(&stage));
    let process = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    stage
        .until(|out| match out {
            Out::ToWorker(ToWorker::Traffic { traffic, .. }) => {
                let endpoints = traffic.programs.get("web")?;
                (!endpoints.is_empty() && endpoints.iter().all(|endpoint| !endpoint.on)).then_some(())
            }
            _ => None,
        })
        .await;
    let status = stage.programs.status().into_iter().find(|status| status.name == "web").unwrap();
    assert_eq!(status.copies[0].state, handover_api::CopyState::Ready, "nobody has looked for more yet");
    stage.looks("web", |status| pids(status).first().is_some_and(|next| *next != pid)).await;
    stage.stop().await;
}
