//! Terms of changes, confirmation, rollbacks, differences and certificates over the control socket.

use handover_api::{Certificate, Diff, FileDiff, FileState, GoesBack};

use super::*;
use crate::handle::{Guarding, Terms};

const TEN_MINUTES: Option<Duration> = Some(Duration::from_secs(600));

#[tokio::test]
async fn terms_and_generations_reach_the_driver() {
    let mut server = server();
    let reload = |certs_only, terms| Ask::Reload { certs_only, terms };
    let guard = |guard| Terms { guard, ..Terms::default() };
    let thirty = Guarding::Asked { watch: Some(Duration::from_secs(30)) };
    for (target, ask) in [
        ("/v1/reload?certs", reload(true, Terms::default())),
        (
            "/v1/reload?confirm_within=10m",
            reload(false, Terms { confirm_within: TEN_MINUTES, ..Terms::default() }),
        ),
        ("/v1/reload?guard", reload(false, guard(Guarding::Asked { watch: None }))),
        ("/v1/reload?guard=30s", reload(false, guard(thirty))),
        ("/v1/reload?guard=false", reload(false, guard(Guarding::No))),
        ("/v1/rollback", Ask::Rollback { to: None, terms: Terms::default() }),
        (
            "/v1/rollback?to=7&confirm_within=600s&guard=30s",
            Ask::Rollback { to: Some(7), terms: Terms { confirm_within: TEN_MINUTES, guard: thirty } },
        ),
        ("/v1/confirm", Ask::Confirm),
        ("/v1/cancel", Ask::Cancel),
    ] {
        let answer = server.ask(Call::post(target));
        let (new, operation, done) = server.driver.admit().await;
        assert_eq!(new.ask, ask, "{target}");
        done.send(applied(operation)).unwrap();
        assert_eq!(answer.await.unwrap().status, 200, "{target}");
    }
}

#[tokio::test]
async fn terms_that_make_no_sense_change_nothing() {
    let mut server = server();
    for (target, why) in [
        ("/v1/reload?confirm_within=0", "longer than nothing"),
        ("/v1/reload?confirm_within=soon", "no duration"),
        ("/v1/reload?guard=maybe", "neither true nor false, nor for how long"),
        ("/v1/reload?guard=0s", "longer than nothing"),
        ("/v1/reload?dry_run&certs", "mean nothing to it"),
        ("/v1/reload?dry_run&confirm_within=10m", "mean nothing to it"),
        ("/v1/reload?to=3", "means nothing"),
        ("/v1/rollback?certs", "means nothing"),
        ("/v1/rollback?dry_run", "means nothing"),
        ("/v1/rollback?to=last", "invalid digit"),
        ("/v1/confirm?confirm_within=10m", "means nothing"),
        ("/v1/drain?guard", "means nothing"),
    ] {
        let answer = server.ask(text(Call::post(target))).await.unwrap();
        assert_eq!(answer.status, 400, "{target}");
        assert!(answer.text().contains(why), "{target}: {}", answer.text());
    }
    assert!(server.driver.commands.try_recv().is_err(), "the driver was asked nothing");
}

#[tokio::test]
async fn what_is_pending_is_named_with_the_time_left() {
    let mut server = server();
    let left = Duration::from_secs(90);
    let pending =
        || Refused::Pending { operation: "a-7".to_owned(), generation: 2, back_to: 1, left, upgrade: None };
    for (refused, status, word) in [
        (pending(), 409, "pending"),
        (Refused::NothingPending, 409, "nothing_pending"),
        (Refused::NoSuchGeneration { wanted: Some(9), kept: vec![1, 2] }, 404, "no_such_generation"),
    ] {
        let answer = server.ask(Call::post("/v1/rollback"));
        let (_, reply) = server.driver.request().await;
        reply.send(Err(refused)).unwrap();
        let Command::Status(reply) = server.driver.next().await else { panic!() };
        drop(reply.send(Box::new(super::status())));
        let answer = answer.await.unwrap();
        let problem = answer.problem().unwrap();
        assert_eq!((answer.status, problem.kind.as_str()), (status, word));
        if word == "pending" {
            assert_eq!(problem.operation_id.as_deref(), Some("a-7"));
            assert!(problem.detail.contains("for another 1 min 30 s"), "{}", problem.detail);
        }
    }
}

#[tokio::test]
async fn a_change_that_awaits_confirmation_says_when_it_goes_back() {
    let mut server = server();
    let answer = server.ask(text(Call::post("/v1/reload?confirm_within=10m")));
    let (_, mut operation, done) = server.driver.admit().await;
    let at = "2026-11-22T12:10:03.000Z".to_owned();
    operation.goes_back = Some(GoesBack { to: 1, at, within_ms: 600_000 });
    done.send(applied(operation)).unwrap();
    assert_eq!(
        answer.await.unwrap().text(),
        "applied: generation 2 serves, 1 route changed (hello), no connection cut, in 3.1 ms; it goes back to generation 1 at 12:10:03 UTC (in 10 min) unless 'handover confirm' comes\n"
    );
}

#[tokio::test]
async fn a_difference_says_what_would_change_before_it_shows_the_text() {
    let mut server = server();
    let difference = |against| Diff {
        serving_generation: Some(3),
        against,
        same: false,
        changes: vec![Change::new(What::Changed, ChangeKind::Route, "hello").with_detail("other text")],
        files: vec![FileDiff {
            path: "hello.toml".to_owned(),
            state: FileState::Differs,
            diff: "--- hello.toml\n-a\n+b\n".to_owned(),
        }],
        ..Diff::default()
    };
    for (target, against, expected) in [
        (
            "/v1/diff",
            None,
            "differs: the files on disk differ from generation 3, which serves\na reload would change:\n  changed route hello: other text\n\n--- hello.toml\n-a\n+b\n",
        ),
        (
            "/v1/diff?against=2",
            Some(2),
            "differs: generation 2 differs from generation 3, which serves\na rollback to it would change:\n  changed route hello: other text\n\n--- hello.toml\n-a\n+b\n",
        ),
    ] {
        let answer = server.ask(text(Call::get(target)));
        let Command::Diff(asked, actor, reply) = server.driver.next().await else { panic!() };
        assert_eq!((asked, actor.pid), (against, Some(std::process::id())));
        reply.send(Ok(difference(against))).unwrap();
        assert_eq!(answer.await.unwrap().text(), expected);
    }
    let answer = server.ask(text(Call::get("/v1/diff?against=1")));
    let Command::Diff(_, _, reply) = server.driver.next().await else { panic!() };
    reply.send(Err(Refused::NoSuchGeneration { wanted: Some(1), kept: vec![2, 3] })).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (404, "the bytes of generation 1 are not kept; there are: 3, 2\n")
    );
}

fn certificate(name: &str, not_after: &str) -> Certificate {
    Certificate {
        names: vec![name.to_owned()],
        issuer: "Example CA".to_owned(),
        not_after: not_after.to_owned(),
        key_type: "ECDSA P-256".to_owned(),
        listeners: vec!["https".to_owned()],
        ..Certificate::default()
    }
}

#[tokio::test]
async fn certificates_are_listed_and_the_status_names_those_that_are_over() {
    let mut server = server();
    let all = vec![
        certificate("old.example", "2020-01-01T00:00:00Z"),
        certificate("new.example", "2999-01-01T00:00:00Z"),
    ];
    let json = serde_json::to_string(&all).unwrap();
    let answer = server.ask(text(Call::get("/v1/certificates")));
    let Command::Certificates(reply) = server.driver.next().await else { panic!() };
    reply.send(Some(json.clone())).unwrap();
    let answer = answer.await.unwrap().text();
    assert!(
        answer.starts_with(
            "old.example  not after 2020-01-01 (over)  ECDSA P-256  issuer Example CA  listeners: https\n"
        ),
        "{answer}"
    );
    for round in 0..2 {
        let answer = server.ask(text(Call::get("/v1/status")));
        let Command::Status(reply) = server.driver.next().await else { panic!() };
        reply.send(Box::new(status())).unwrap();
        // The second time it is known.
        if round == 0 {
            let Command::Certificates(reply) = server.driver.next().await else { panic!() };
            reply.send(Some(json.clone())).unwrap();
        }
        let answer = answer.await.unwrap().text();
        assert!(answer.contains("certificate old.example: it expired on 2020-01-01"), "{answer}");
        assert!(!answer.contains("new.example"), "{answer}");
    }
}

#[tokio::test]
async fn without_a_worker_there_are_no_certificates_to_list_and_the_status_is_answered_all_the_same() {
    let mut server = server();
    let answer = server.ask(text(Call::get("/v1/certificates")));
    let Command::Certificates(reply) = server.driver.next().await else { panic!() };
    reply.send(None).unwrap();
    assert_eq!(answer.await.unwrap().status, 503);
    let answer = server.ask(Call::get("/v1/status"));
    let Command::Status(reply) = server.driver.next().await else { panic!() };
    reply.send(Box::new(status())).unwrap();
    let Command::Certificates(_held) = server.driver.next().await else { panic!() };
    assert_eq!(answer.await.unwrap().json::<Status>().unwrap(), status());
}
