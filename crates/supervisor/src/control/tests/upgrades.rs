//! Upgrades over the control socket: what reaches the driver, and how their ends are answered.

use handover_api::{Binary, Step, Upgrade};

use super::*;
use crate::handle::{Guarding, Terms, WhichBinary};

const DIGEST: &str = "1a2b3c4d5e6f0718293a4b5c6d7e8f901a2b3c4d5e6f0718293a4b5c6d7e8f90";

fn path(path: &str) -> WhichBinary {
    WhichBinary::Path(PathBuf::from(path))
}

#[tokio::test]
async fn which_binary_and_under_which_terms_reaches_the_driver() {
    let mut server = server();
    let upgrade = |binary, sha256: Option<&str>, dry_run, terms| {
        let sha256 = sha256.map(str::to_owned);
        Ask::Upgrade { binary, sha256, dry_run, terms }
    };
    let none = Terms::default();
    let terms = Terms {
        confirm_within: Some(Duration::from_secs(600)),
        guard: Guarding::Asked { watch: Some(Duration::from_secs(30)) },
    };
    for (target, ask) in [
        ("/v1/upgrade".to_owned(), Ask::upgrade()),
        ("/v1/upgrade?binary=/opt/new%20one".to_owned(), upgrade(path("/opt/new one"), None, false, none)),
        (
            format!("/v1/upgrade?sha256={}", DIGEST.to_uppercase()),
            upgrade(WhichBinary::Default, Some(DIGEST), false, none),
        ),
        ("/v1/upgrade?dry_run".to_owned(), upgrade(WhichBinary::Default, None, true, none)),
        (
            "/v1/upgrade?confirm_within=10m&guard=30s".to_owned(),
            upgrade(WhichBinary::Default, None, false, terms),
        ),
        ("/v1/upgrade?previous".to_owned(), upgrade(WhichBinary::Previous, None, false, none)),
        ("/v1/rollback?binary".to_owned(), upgrade(WhichBinary::Previous, None, false, none)),
        (
            "/v1/rollback?binary=true&confirm_within=10m&guard=30s".to_owned(),
            upgrade(WhichBinary::Previous, None, false, terms),
        ),
        ("/v1/rollback?binary=false".to_owned(), Ask::Rollback { to: None, terms: none }),
    ] {
        let answer = server.ask(Call::post(&target));
        let (new, operation, done) = server.driver.admit().await;
        assert_eq!(new.ask, ask, "{target}");
        done.send(applied(operation)).unwrap();
        assert_eq!(answer.await.unwrap().status, 200, "{target}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_upgrades_nothing() {
    let mut server = server();
    let long = format!("/v1/upgrade?binary=/{}", "x".repeat(4096));
    for (target, why) in [
        ("/v1/upgrade?binary=handover", "no absolute path"),
        ("/v1/upgrade?binary=%2Fa%00b", "no path"),
        (long.as_str(), "no path"),
        ("/v1/upgrade?binary", "must be an absolute path"),
        ("/v1/upgrade?binary=/a&previous", "ask for one of the two"),
        ("/v1/upgrade?sha256=abc", "64 hexadecimal digits, as sha256sum prints them: this one has 3 digits"),
        ("/v1/upgrade?sha256=latest", "is none"),
        ("/v1/upgrade?dry_run&guard", "mean nothing to it"),
        ("/v1/upgrade?dryrun", "unknown field `dryrun`"),
        ("/v1/upgrade?to=3", "means nothing"),
        ("/v1/reload?binary=/a", "means nothing"),
        ("/v1/reload?previous", "means nothing"),
        ("/v1/rollback?sha256=abc", "64 hexadecimal digits"),
        ("/v1/rollback?binary=/a", "to no other"),
        ("/v1/rollback?binary&to=3", "not to both"),
    ] {
        let answer = server.ask(text(Call::post(target))).await.unwrap();
        assert_eq!(answer.status, 400, "{target}: {}", answer.text());
        assert!(answer.text().contains(why), "{target}: {}", answer.text());
    }
    assert!(server.driver.commands.try_recv().is_err(), "the driver was asked nothing");
}

fn binary(version: &str) -> Binary {
    let path = "/usr/bin/handover".to_owned();
    Binary { version: Some(version.to_owned()), sha256: Some(DIGEST.to_owned()), path }
}

#[tokio::test]
async fn a_candidate_that_was_not_ready_is_500_with_the_step_and_its_last_lines_in_both_forms() {
    let mut server = server();
    for accept in ["*/*", "application/json"] {
        let answer = server.ask(Call::post("/v1/upgrade").header("accept", accept));
        let (_, mut operation, done) = server.driver.admit().await;
        let mut upgrade = Upgrade::new(binary("0.1.0"), Binary::at("/opt/new"));
        upgrade.last_lines = vec!["no such library".to_owned()];
        operation.upgrade = Some(Box::new(upgrade));
        operation.steps =
            ["admission", "preflight", "record"].map(|name| Step { name: name.to_owned(), ms: 1.0 }).to_vec();
        operation.errors = vec![Problem::new("it ended with exit code 127")];
        operation.finish(Outcome::NotReady, Cause::BinaryUnfit, 12.0);
        done.send(operation).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, 500);
        let report = match answer.problem() {
            None => answer.text(),
            Some(problem) => {
                assert_eq!(
                    (problem.kind.as_str(), problem.phase.as_deref()),
                    ("not_ready", Some("preflight"))
                );
                let upgrade = problem.operation.as_ref().and_then(|operation| operation.upgrade.clone());
                assert_eq!(upgrade.unwrap().last_lines, ["no such library"]);
                problem.report() + "\n"
            }
        };
        assert_eq!(
            report,
            "not ready: the upgrade to /opt/new failed in the step 'preflight': it ended with exit code 127; 0.1.0 (sha256 1a2b3c4d5e6f) still serves generation 1\n\nthe last lines of the new binary:\n  | no such library\n"
        );
    }
}

#[tokio::test]
async fn without_a_binary_to_go_back_to_it_is_404() {
    let mut server = server();
    let answer = server.ask(text(Call::post("/v1/rollback?binary")));
    let (_, reply) = server.driver.request().await;
    let why = "no other binary has served before this one".to_owned();
    reply.send(Err(Refused::NoPreviousBinary(why.clone()))).unwrap();
    let Command::Status(reply) = server.driver.next().await else { panic!() };
    drop(reply.send(Box::new(status())));
    let answer = answer.await.unwrap();
    assert_eq!((answer.status, answer.text()), (404, why + "\n"));
}
