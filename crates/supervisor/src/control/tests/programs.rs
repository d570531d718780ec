//! Programs over the control socket: what reaches the driver, what is refused before, and what is read.

use handover_api::{
    CopyState, CopyStatus, Lines, LogLine, PauseStatus, ProgramResult, ProgramState, ProgramStatus,
};

use super::super::server::MAX_STREAMS;
use super::*;
use crate::handle::{ProgramAsked, ProgramLogs, ProgramWhat};

fn about(target: &str, what: ProgramWhat) -> Ask {
    Ask::Program(ProgramAsked { target: Some(target.to_owned()), what })
}

fn deploy(slot: Option<&str>, directory: Option<&str>, confirm: Option<u64>, guard: Option<u64>) -> Ask {
    let what = ProgramWhat::Deploy {
        slot: slot.map(str::to_owned),
        directory: directory.map(PathBuf::from),
        confirm: confirm.map(Duration::from_secs),
        guard: guard.map(Duration::from_secs),
    };
    about("web", what)
}

#[tokio::test]
async fn what_is_to_be_done_with_which_program_reaches_the_driver() {
    let mut server = server();
    let restart = |batch, max_unhealthy| about("web", ProgramWhat::Restart { batch, max_unhealthy });
    let pause = |target: &str, seconds: Option<u64>, max_held| {
        about(target, ProgramWhat::Pause { time: seconds.map(Duration::from_secs), max_held })
    };
    let drained = |target: &str, seconds: Option<u64>| {
        about(target, ProgramWhat::DrainEndpoint { limit: seconds.map(Duration::from_secs) })
    };
    for (target, ask) in [
        ("/v1/programs/web/start", about("web", ProgramWhat::Start)),
        ("/v1/programs/web/stop", about("web", ProgramWhat::Stop)),
        ("/v1/programs/web/restart", restart(None, None)),
        ("/v1/programs/web/restart?batch=2&max_unhealthy=0", restart(Some(2), Some(0))),
        ("/v1/programs/web/reload", about("web", ProgramWhat::Reload)),
        ("/v1/programs/web/deploy", deploy(None, None, None, None)),
        ("/v1/programs/web/deploy?slot=b&guard", deploy(Some("b"), None, None, Some(10))),
        ("/v1/programs/web/deploy?slot=b&guard=no", deploy(Some("b"), None, None, None)),
        (
            "/v1/programs/web/deploy?directory=/srv/r%2042&confirm_within=10m&guard=30s",
            deploy(None, Some("/srv/r 42"), Some(600), Some(30)),
        ),
        ("/v1/programs/web/rollback", about("web", ProgramWhat::Rollback)),
        ("/v1/programs/web/confirm", about("web", ProgramWhat::Confirm)),
        ("/v1/programs/web/cancel", about("web", ProgramWhat::Cancel)),
        ("/v1/pause?name=web", pause("web", None, None)),
        ("/v1/pause?name=route:/a%20b&for=2m&max_held=0", pause("route:/a b", Some(120), Some(0))),
        ("/v1/resume?name=web", about("web", ProgramWhat::Resume)),
        ("/v1/endpoints/web%2F1/drain?limit=5s", drained("web/1", Some(5))),
        ("/v1/endpoints/127.0.0.1:9001/drain", drained("127.0.0.1:9001", None)),
        ("/v1/endpoints/web%2F1/enable", about("web/1", ProgramWhat::EnableEndpoint)),
    ] {
        let answer = server.ask(Call::post(target).header("idempotency-key", "K-1"));
        let (new, operation, done) = server.driver.admit().await;
        assert_eq!(new.ask, ask, "{target}");
        assert_eq!(new.id.as_deref(), Some("K-1"), "{target}");
        done.send(applied(operation)).unwrap();
        assert_eq!(answer.await.unwrap().status, 200, "{target}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_reaches_nobody() {
    let server = server();
    for (target, why) in [
        ("/v1/programs/web/restart?slot=a", "slot means nothing to /v1/programs/web/restart"),
        ("/v1/programs/web/restart?batch=0", "batch must be at least 1"),
        ("/v1/programs/web/restart?batch=-1", "invalid digit"),
        ("/v1/programs/web/deploy?slot=a&directory=/b", "ask for one of the two"),
        ("/v1/programs/web/deploy?directory=b", "no absolute path"),
        ("/v1/programs/web/deploy?confirm_within=0", "longer than nothing"),
        ("/v1/programs/web/deploy?dry_run", "unknown field `dry_run`"),
        ("/v1/programs/web/reload?guard", "guard means nothing"),
        ("/v1/programs/%00/restart", "no name"),
        ("/v1/pause", "name says what is paused"),
        ("/v1/pause?name=", "no name"),
        ("/v1/pause?name=web&for=0s", "longer than nothing"),
        ("/v1/pause?name=web&limit=1s", "limit means nothing"),
        ("/v1/drain?name=web", "means nothing"),
        ("/v1/endpoints/web%2F1/enable?limit=1s", "limit means nothing"),
    ] {
        let answer = server.ask(text(Call::post(target))).await.unwrap();
        assert_eq!(answer.status, 400, "{target}: {}", answer.text());
        assert!(answer.text().contains(why), "{target}: {}", answer.text());
    }
    let answer = server.ask(text(Call::post("/v1/programs/web/explode"))).await.unwrap();
    assert_eq!(answer.status, 404, "{}", answer.text());
}

#[tokio::test]
async fn a_resume_without_a_name_is_of_what_is_drained_or_else_of_all_that_is_paused() {
    let mut server = server();
    for (phase, is_paused, expected) in [
        (Phase::Serving, false, Ask::Resume),
        (Phase::Drained, true, Ask::Resume),
        (Phase::Serving, true, Ask::Program(ProgramAsked { target: None, what: ProgramWhat::Resume })),
    ] {
        let answer = server.ask(Call::post("/v1/resume"));
        let Command::Status(reply) = server.driver.next().await else { panic!() };
        let mut now = status();
        now.phase = phase;
        now.paused.extend(is_paused.then(PauseStatus::default));
        reply.send(Box::new(now)).unwrap();
        let (new, operation, done) = server.driver.admit().await;
        assert_eq!(new.ask, expected, "{phase:?} {is_paused}");
        done.send(applied(operation)).unwrap();
        assert_eq!(answer.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_signal_that_nothing_confirms_is_200_and_says_so() {
    let mut server = server();
    let answer = server.ask(text(Call::post("/v1/programs/web/reload")));
    let (_, mut operation, done) = server.driver.admit().await;
    operation.target = Some("web".to_owned());
    operation.finish(Outcome::Sent, Cause::Unproved, 1.0);
    done.send(operation).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.text().starts_with("sent, not confirmed: web got the signal"), "{}", answer.text());
}

#[tokio::test]
async fn what_was_not_ready_is_answered_with_its_last_lines() {
    let mut server = server();
    let answer = server.ask(text(Call::post("/v1/programs/web/restart")));
    let (_, mut operation, done) = server.driver.admit().await;
    operation.target = Some("web".to_owned());
    let last_lines = vec!["KeyError: 'DB'".to_owned()];
    operation.program = Some(Box::new(ProgramResult { last_lines, ..ProgramResult::default() }));
    operation.finish(Outcome::NotReady, Cause::ProgramNotReady, 30_000.0);
    done.send(operation).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status, 500);
    assert_eq!(
        answer.text(),
        "not ready: web: the new copy was not ready in time; what ran before still serves, untouched\n\nthe last lines that it wrote:\n  | KeyError: 'DB'\n"
    );
}

fn web() -> ProgramStatus {
    let copy = CopyStatus { number: 1, pid: Some(4711), state: CopyState::Ready, ..CopyStatus::default() };
    ProgramStatus {
        name: "web".to_owned(),
        state: ProgramState::Running,
        wanted: 1,
        copies: vec![copy],
        ..ProgramStatus::default()
    }
}

#[tokio::test]
async fn programs_are_listed_and_one_that_is_not_there_is_404_with_those_that_are() {
    let mut server = server();
    for (target, status, says) in [
        ("/v1/programs", 200, "web: running, 1 copy\n  web/1  pid 4711  ready\n"),
        ("/v1/programs/web", 200, "web: running, 1 copy\n  web/1  pid 4711  ready\n"),
        ("/v1/programs/wbe", 404, "there is no program \"wbe\"; there are: web\n"),
    ] {
        let answer = server.ask(text(Call::get(target)));
        let Command::Programs(reply) = server.driver.next().await else { panic!() };
        reply.send(vec![web()]).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (status, says), "{target}");
    }
    let answer = server.ask(Call::get("/v1/programs"));
    let Command::Programs(reply) = server.driver.next().await else { panic!() };
    reply.send(vec![web()]).unwrap();
    assert_eq!(answer.await.unwrap().json::<Vec<ProgramStatus>>().unwrap(), [web()]);
}

fn line(program: &str, line: &str) -> LogLine {
    let (program, line) = (program.to_owned(), line.to_owned());
    LogLine { at: "2026-11-22T03:01:35.000Z".to_owned(), program, copy: 1, line, left_out: 0 }
}

#[tokio::test]
async fn logs_are_the_last_lines_as_text_or_one_object_a_line() {
    let mut server = server();
    for (call, asked) in [
        (text(Call::get("/v1/programs/web/logs?lines=7")), 7),
        (Call::get("/v1/programs/web/logs"), 50),
        (Call::get("/v1/programs/web/logs?lines=99999999"), 10_000),
    ] {
        let answer = server.ask(call);
        let Command::Logs(name, lines, reply) = server.driver.next().await else { panic!() };
        assert_eq!((name.as_str(), lines), ("web", asked));
        let (_, follow) = broadcast::channel(1);
        reply.send(Ok(ProgramLogs { lines: vec![line("web", "a"), line("web", "b")], follow })).unwrap();
        let answer = answer.await.unwrap();
        let said = answer.text();
        match answer.content_type.as_str() {
            "text/plain" => assert_eq!(said, "web/1  a\nweb/1  b\n"),
            "application/x-ndjson" => {
                let parsed: Vec<LogLine> =
                    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                assert_eq!(parsed, [line("web", "a"), line("web", "b")]);
            }
            other => panic!("{other}"),
        }
    }
    let answer = server.ask(text(Call::get("/v1/programs/wbe/logs")));
    let Command::Logs(name, _, reply) = server.driver.next().await else { panic!() };
    reply.send(Err(Refused::NoSuchProgram { name, known: Vec::new() })).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (404, "there is no program \"wbe\"; this server runs none\n")
    );
}

/// What somebody reads who follows the lines of the program web, which are these at first.
async fn followed(server: &mut Server, logs: ProgramLogs) -> Lines {
    let client = Client::new(&server.path);
    let opening =
        tokio::spawn(async move { client.lines(Call::get("/v1/programs/web/logs?follow")).await.unwrap() });
    let Command::Logs(_, _, reply) = server.driver.next().await else { panic!() };
    reply.send(Ok(logs)).unwrap();
    soon("the stream", opening).await.unwrap().unwrap()
}

async fn next_line(lines: &mut Lines) -> LogLine {
    let next = soon("a line", lines.next()).await.unwrap().unwrap();
    serde_json::from_slice(&next).unwrap()
}

#[tokio::test]
async fn logs_that_are_followed_go_on_with_this_programs_lines_until_the_supervisor_ends() {
    let mut server = server();
    let (written, follow) = broadcast::channel(64);
    let before = ProgramLogs { lines: vec![line("web", "before")], follow };
    for next in [line("web", "one"), line("other", "not this"), line("web", "two")] {
        written.send(next).unwrap();
    }
    let mut lines = followed(&mut server, before).await;
    for expected in ["before", "one", "two"] {
        assert_eq!(next_line(&mut lines).await, line("web", expected));
    }
    server.driver.closing.send(true).unwrap();
    assert_eq!(soon("the end", lines.next()).await.unwrap(), None);
    soon("the server's end", &mut server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reader_of_logs_that_is_too_slow_is_told_how_much_it_missed() {
    let mut server = server();
    let (written, follow) = broadcast::channel(4);
    for number in 0..100 {
        written.send(line("web", &number.to_string())).unwrap();
    }
    let mut lines = followed(&mut server, ProgramLogs { lines: Vec::new(), follow }).await;
    let missed = next_line(&mut lines).await;
    assert_eq!((missed.left_out, missed.copy), (96, 0));
    assert_eq!(next_line(&mut lines).await.line, "96");
}

#[tokio::test]
async fn a_reader_of_logs_that_goes_away_is_noticed_even_if_nothing_is_written() {
    let mut server = server();
    let (written, _) = broadcast::channel::<LogLine>(4);
    for _ in 0..2 * MAX_STREAMS {
        // A stream that was given up may need a moment to be noticed: until then there may be none left.
        let logs = ProgramLogs { lines: vec![line("web", "a")], follow: written.subscribe() };
        let mut lines = followed(&mut server, logs).await;
        assert_eq!(next_line(&mut lines).await, line("web", "a"));
        drop(lines);
        let gone = async {
            while written.receiver_count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        soon("it is noticed", gone).await;
    }
}
