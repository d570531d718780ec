//! The control server over a real Unix socket, with a driver that does what the test says.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use handover_api::{
    Answer, Call, Cause, Change, ChangeKind, Client, Event, EventKind, Generation, JournalStatus, Kind,
    Losses, Operation, OperationState, Outcome, Phase, Problem, Refused, Status, What,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::changing::MAX_BODY_BYTES;
use super::server::{MAX_CONNECTIONS, MAX_HEAD_BYTES};
use super::*;
use crate::handle::{Ask, Command, DriverHandle, NewOperation, ServingConfig, Ticket};
use crate::journal::now;
use crate::protocol::Settings;

mod archives;
mod changes;
mod crossing;
mod permissions;
mod programs;
mod upgrades;

/// No test waits longer for anything.
const DEADLINE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: nothing within {DEADLINE:?}"))
}

/// The driver's end of everything.
struct Driver {
    commands: mpsc::Receiver<Command>,
    events: broadcast::Sender<Event>,
    settings: watch::Sender<Settings>,
    closing: watch::Sender<bool>,
    crossing: Crossing,
}

fn driver() -> (Driver, DriverHandle) {
    let (commands, queue) = mpsc::channel(8);
    let (events, _) = broadcast::channel(8);
    let (settings, settings_now) = watch::channel(Settings::default());
    let (closing, closing_now) = watch::channel(false);
    let crossing = Crossing::default();
    let driver =
        Driver { commands: queue, events: events.clone(), settings, closing, crossing: crossing.clone() };
    (driver, DriverHandle { commands, events, settings: settings_now, closing: closing_now, crossing })
}

impl Driver {
    async fn next(&mut self) -> Command {
        soon("the driver is asked", self.commands.recv()).await.unwrap()
    }

    /// The next request for an operation; status questions in between are answered.
    async fn request(&mut self) -> (NewOperation, oneshot::Sender<Result<Ticket, Refused>>) {
        loop {
            match self.next().await {
                Command::Request(new, reply) => return (*new, reply),
                Command::Status(reply) => drop(reply.send(Box::new(status()))),
                Command::Certificates(reply) => drop(reply.send(None)),
                other => panic!("not a request: {other:?}"),
            }
        }
    }

    /// Admits the next request and gives what is needed to end it.
    async fn admit(&mut self) -> (NewOperation, Operation, oneshot::Sender<Operation>) {
        let (new, reply) = self.request().await;
        let kind = match new.ask {
            Ask::Reload { .. } => Kind::Reload,
            Ask::Rollback { .. } => Kind::Rollback,
            Ask::Restore { .. } => Kind::Restore,
            Ask::Upgrade { dry_run: true, .. } => Kind::DryRun,
            Ask::Upgrade { .. } => Kind::Upgrade,
            Ask::Confirm => Kind::Confirm,
            Ask::Cancel => Kind::Cancel,
            Ask::Validate => Kind::DryRun,
            Ask::Action { .. } => Kind::Action,
            Ask::Drain { .. } => Kind::Drain,
            Ask::Resume => Kind::Resume,
            Ask::Stop { .. } => Kind::Stop,
            Ask::Program(ref asked) => crate::operations::kind_of_program(&asked.what),
        };
        let id = new.id.clone().unwrap_or_else(|| "op-1".to_owned());
        let mut operation = Operation::running(id, kind, new.actor.clone(), now());
        operation.serving_generation = Some(1);
        let (done, ended) = oneshot::channel();
        reply.send(Ok(Ticket { operation: operation.clone(), done: ended })).unwrap();
        (new, operation, done)
    }
}

fn status() -> Status {
    let generation = Generation {
        number: 1,
        serving: true,
        committed_at: "2026-01-01T00:00:00.000Z".to_owned(),
        operation_id: None,
        source: None,
        files: Vec::new(),
        changes: Vec::new(),
        forgotten: false,
    };
    Status {
        name: "handover".to_owned(),
        version: "0.0.0".to_owned(),
        phase: Phase::Serving,
        pid: 1,
        started_at: "2026-01-01T00:00:00.000Z".to_owned(),
        config: Some("hello.toml".to_owned()),
        control: "/run/x.sock".to_owned(),
        generation: Some(generation),
        pending: None,
        rollback_in_force: None,
        source_version: None,
        expiring: Vec::new(),
        drift: Vec::new(),
        worker: None,
        workers: Vec::new(),
        binary: None,
        previous_binary: None,
        respawns: 0,
        connections: None,
        listeners: Vec::new(),
        programs: Vec::new(),
        paused: Vec::new(),
        endpoints_off: Vec::new(),
        actions: Vec::new(),
        running: None,
        last: None,
        journal: JournalStatus::default(),
    }
}

fn applied(mut operation: Operation) -> Operation {
    operation.serving_generation = Some(2);
    operation.changes = vec![Change::new(What::Changed, ChangeKind::Route, "hello")];
    operation.finish(Outcome::Applied, Cause::Done, 3.1);
    operation
}

fn rejected(mut operation: Operation) -> Operation {
    let mut problem = Problem::new("unknown key \"mesage\"").in_file("hello.toml").at(7, 3);
    problem.help = Some("did you mean \"message\"?".to_owned());
    problem.excerpt = Some("7 |   mesage = \"hi\"\n  |   ^^^^^^".to_owned());
    operation.errors =
        vec![problem, Problem::new("no listener is named \"htp\"").in_file("hello.toml").at(9, 1)];
    operation.finish(Outcome::Rejected, Cause::Refused, 1.0);
    operation
}

struct Server {
    path: PathBuf,
    driver: Driver,
    task: JoinHandle<std::io::Result<()>>,
    _directory: tempfile::TempDir,
}

fn server() -> Server {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let (driver, handle) = driver();
    let task = tokio::spawn(serve(listener.into(), handle));
    Server { path, driver, task, _directory: directory }
}

impl Server {
    fn ask(&self, call: Call) -> JoinHandle<Answer> {
        let client = Client::new(&self.path);
        tokio::spawn(async move { soon("an answer", client.send(call)).await.unwrap() })
    }

    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.path).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // What was not read of a refused request resets the connection, after the answer (unix(7)).
        let _ = soon("a raw answer", stream.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn text(call: Call) -> Call {
    call.header("accept", "*/*")
}

#[tokio::test]
async fn a_reload_is_answered_in_one_sentence_with_200() {
    let mut server = server();
    let answer = server.ask(text(Call::post("/v1/reload?comment=ticket%2042")));
    let (new, operation, done) = server.driver.admit().await;
    assert_eq!(new.ask, Ask::reload());
    assert_eq!(new.comment.as_deref(), Some("ticket 42"));
    assert_eq!(new.actor.pid, Some(std::process::id()));
    assert_eq!(new.actor.uid, Some(rustix::process::geteuid().as_raw()));
    assert!(new.actor.command.is_some());
    done.send(applied(operation)).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.content_type, "text/plain");
    assert_eq!(
        answer.text(),
        "applied: generation 2 serves, 1 route changed (hello), no connection cut, in 3.1 ms\n"
    );
    assert_eq!(answer.location.as_deref(), Some("/v1/operations/op-1"));
}

#[tokio::test]
async fn a_program_that_asks_for_json_gets_the_whole_operation() {
    let mut server = server();
    let answer = server.ask(Call::post("/v1/reload"));
    let (_, operation, done) = server.driver.admit().await;
    let ended = applied(operation);
    done.send(ended.clone()).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.content_type, "application/json");
    assert_eq!(answer.json::<Operation>().unwrap(), ended);
}

#[tokio::test]
async fn a_rejected_reload_is_422_with_every_mistake_in_both_forms() {
    let mut server = server();
    let answer = server.ask(text(Call::post("/v1/reload")));
    let (_, operation, done) = server.driver.admit().await;
    done.send(rejected(operation)).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status, 422);
    assert_eq!(
        answer.text(),
        "rejected: 2 mistakes, the first: hello.toml:7:3: unknown key \"mesage\" (did you mean \"message\"?); generation 1 still serves\n\n\
         hello.toml:7:3: unknown key \"mesage\" (did you mean \"message\"?)\n7 |   mesage = \"hi\"\n  |   ^^^^^^\n\n\
         hello.toml:9:1: no listener is named \"htp\"\n"
    );

    let answer = server.ask(Call::post("/v1/reload"));
    let (_, operation, done) = server.driver.admit().await;
    done.send(rejected(operation)).unwrap();
    let answer = answer.await.unwrap();
    let problem = answer.problem().unwrap();
    assert_eq!((answer.status, problem.status, problem.kind.as_str()), (422, 422, "rejected"));
    assert_eq!(problem.operation_id.as_deref(), Some("op-1"));
    assert_eq!(problem.serving_generation, Some(1));
    assert_eq!((problem.errors[0].line, problem.errors[0].column), (Some(7), Some(3)));
    assert_eq!(problem.errors.len(), 2);
}

#[tokio::test]
async fn every_outcome_has_its_status() {
    let cases = [
        (Outcome::Applied, 200),
        (Outcome::Unchanged, 200),
        (Outcome::AppliedWithLosses, 200),
        (Outcome::Sent, 200),
        (Outcome::Rejected, 422),
        (Outcome::NotReady, 500),
        (Outcome::RolledBack, 500),
        (Outcome::Unknown, 500),
    ];
    assert_eq!(cases.len(), Outcome::ALL.len());
    let mut server = server();
    for (outcome, status) in cases {
        let answer = server.ask(Call::post("/v1/reload"));
        let (_, mut operation, done) = server.driver.admit().await;
        operation.finish(outcome, Cause::Done, 1.0);
        done.send(operation).unwrap();
        assert_eq!(answer.await.unwrap().status, status, "{outcome}");
    }
}

#[tokio::test]
async fn an_action_answers_in_its_own_words() {
    let mut server = server();
    for (ok, status, says) in [
        (true, 200, "Successfully reloaded cert"),
        (false, 500, "could not reload cert: No such file or directory (os error 2)"),
    ] {
        let answer = server.ask(text(Call::post("/v1/actions/reload_certs").body("body of it")));
        let (new, mut operation, done) = server.driver.admit().await;
        let expected = Ask::Action { name: "reload_certs".to_owned(), body: "body of it".to_owned() };
        assert_eq!(new.ask, expected);
        operation.action = Some("reload_certs".to_owned());
        operation.answer = Some(says.to_owned());
        if ok {
            operation.finish(Outcome::Applied, Cause::Done, 1.0);
        } else {
            operation.finish(Outcome::Rejected, Cause::ActionFailed, 1.0);
        }
        done.send(operation).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.text()), (status, format!("{says}\n")));
    }
}

#[tokio::test]
async fn a_detached_reload_is_202_with_its_place_and_can_be_waited_for_there() {
    let mut server = server();
    let answer = server.ask(Call::post("/v1/reload?detach"));
    let (_, operation, done) = server.driver.admit().await;
    let answer = answer.await.unwrap();
    assert_eq!(answer.status, 202);
    assert_eq!(answer.location.as_deref(), Some("/v1/operations/op-1"));
    assert_eq!(answer.json::<Operation>().unwrap().state, OperationState::Running);

    let waiting = server.ask(Call::get("/v1/operations/op-1?timeout=20s"));
    let Command::Operation(id, reply) = server.driver.next().await else { panic!() };
    assert_eq!(id, "op-1");
    reply.send(Some(Box::new(operation.clone()))).unwrap();
    let ended = applied(operation);
    // Nobody holds the ticket any more: that must not matter.
    let _ = done.send(ended.clone());
    let event = Event {
        kind: EventKind::OperationDone,
        at: now(),
        message: ended.message.clone(),
        operation: Some(ended.clone()),
    };
    server.driver.events.send(event).unwrap();
    let Command::Operation(_, reply) = server.driver.next().await else { panic!() };
    reply.send(Some(Box::new(ended.clone()))).unwrap();
    assert_eq!(waiting.await.unwrap().json::<Operation>().unwrap(), ended);
}

#[tokio::test]
async fn a_wait_that_is_over_answers_202_and_the_operation_goes_on() {
    let mut server = server();
    for call in [
        Call::post("/v1/reload?timeout=0"),
        Call::post("/v1/reload").header("prefer", "wait=0"),
        Call::post("/v1/reload").header("prefer", "respond-async"),
    ] {
        let answer = server.ask(call.clone());
        let (_, operation, _done) = server.driver.admit().await;
        // A wait of nothing looks once more; respond-async does not.
        let looks = !format!("{call:?}").contains("respond-async");
        if looks {
            let Command::Operation(_, reply) = server.driver.next().await else { panic!() };
            reply.send(Some(Box::new(operation))).unwrap();
        }
        assert_eq!(answer.await.unwrap().status, 202);
    }
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_call_off_what_it_asked_for() {
    let mut server = server();
    let gone = server.ask(Call::post("/v1/reload").header("idempotency-key", "k-1"));
    let (_, operation, mut done) = server.driver.admit().await;
    gone.abort();
    assert!(gone.await.is_err());
    // The server has noticed that nobody waits; the driver was told nothing else.
    soon("the ticket is dropped", done.closed()).await;
    let again = server.ask(Call::post("/v1/reload").header("idempotency-key", "k-1"));
    let (new, reply) = server.driver.request().await;
    assert_eq!(new.id.as_deref(), Some("k-1"));
    let (done, ended) = oneshot::channel();
    done.send(applied(operation.clone())).unwrap();
    reply.send(Ok(Ticket { operation, done: ended })).unwrap();
    assert_eq!(again.await.unwrap().status, 200);
}

#[tokio::test]
async fn refusals_have_their_status_and_say_what_runs() {
    let cases = [
        (Refused::Busy { running: "r-9".to_owned(), kind: Kind::Drain }, 409),
        (Refused::Drained, 409),
        (Refused::Stopping, 409),
        (Refused::NotStarted, 409),
        (Refused::NoWorker, 409),
        (Refused::Stale { expected: 4, serving: Some(1) }, 412),
        (Refused::NoSuchAction { name: "x".to_owned(), known: vec!["y".to_owned()] }, 404),
        (Refused::KeyReused { id: "k".to_owned(), kind: Kind::Drain }, 422),
        (Refused::Journal("the disk is full".to_owned()), 500),
    ];
    let mut server = server();
    for (refused, expected) in cases {
        let answer = server.ask(Call::post("/v1/reload").header("if-match", "\"4\""));
        let (new, reply) = server.driver.request().await;
        assert_eq!(new.if_match, Some(4));
        reply.send(Err(refused.clone())).unwrap();
        let Command::Status(reply) = server.driver.next().await else { panic!() };
        drop(reply.send(Box::new(status())));
        let answer = answer.await.unwrap();
        let problem = answer.problem().unwrap();
        assert_eq!((answer.status, problem.kind.as_str()), (expected, refused.word()), "{refused}");
        assert_eq!(problem.serving_generation, Some(1));
        if let Refused::Busy { running, .. } = refused {
            assert_eq!(problem.operation_id, Some(running));
        }
    }
}

#[tokio::test]
async fn a_misspelt_parameter_reloads_nothing() {
    let mut server = server();
    for (target, why) in [
        ("/v1/reload?dryrun=1", "unknown field `dryrun`"),
        ("/v1/reload?dry_run=maybe", "neither true nor false"),
        ("/v1/reload?timeout=soon", "no duration"),
        ("/v1/reload?limit=3s", "means nothing"),
        ("/v1/drain?now", "means nothing"),
        ("/v1/stop?dry_run", "means nothing"),
    ] {
        let answer = server.ask(text(Call::post(target))).await.unwrap();
        assert_eq!(answer.status, 400, "{target}");
        assert!(answer.text().contains(why), "{target}: {}", answer.text());
    }
    let long = "x".repeat(1_001);
    assert_eq!(server.ask(Call::post(format!("/v1/reload?comment={long}"))).await.unwrap().status, 400);
    assert!(server.driver.commands.try_recv().is_err(), "the driver was asked nothing");
}

#[tokio::test]
async fn parameters_reach_the_driver() {
    let mut server = server();
    let second = Some(Duration::from_secs(1));
    for (target, ask) in [
        ("/v1/validate", Ask::Validate),
        ("/v1/reload?dry_run", Ask::Validate),
        ("/v1/drain?limit=1s", Ask::Drain { limit: second }),
        ("/v1/resume", Ask::Resume),
        ("/v1/stop", Ask::Stop { now: false, limit: None }),
        ("/v1/stop?now=true", Ask::Stop { now: true, limit: None }),
        ("/v1/stop?limit=1000ms", Ask::Stop { now: false, limit: second }),
    ] {
        let answer = server.ask(Call::post(target));
        let (new, operation, done) = server.driver.admit().await;
        assert_eq!(new.ask, ask, "{target}");
        done.send(applied(operation)).unwrap();
        assert_eq!(answer.await.unwrap().status, 200, "{target}");
    }
}

#[tokio::test]
async fn status_reads_well_as_text_and_whole_as_json() {
    let mut server = server();
    let answer = server.ask(text(Call::get("/v1/status")));
    let Command::Status(reply) = server.driver.next().await else { panic!() };
    reply.send(Box::new(status())).unwrap();
    let Command::Certificates(reply) = server.driver.next().await else { panic!() };
    reply.send(Some("[]".to_owned())).unwrap();
    let answer = answer.await.unwrap();
    assert!(
        answer
            .text()
            .starts_with("handover: the worker is being replaced, connections wait; generation 1 since"),
        "{}",
        answer.text()
    );
    let answer = server.ask(Call::get("/v1/status"));
    let Command::Status(reply) = server.driver.next().await else { panic!() };
    reply.send(Box::new(status())).unwrap();
    assert_eq!(answer.await.unwrap().json::<Status>().unwrap(), status());
}

#[tokio::test]
async fn the_configuration_has_an_entity_tag() {
    let mut server = server();
    let config = || ServingConfig {
        generation: 3,
        path: "hello.toml".to_owned(),
        bytes: Arc::from(&b"message = \"hi\"\n"[..]),
    };
    for (call, status) in [
        (Call::get("/v1/config"), 200),
        (Call::get("/v1/config").header("if-none-match", "\"2\""), 200),
        (Call::get("/v1/config").header("if-none-match", "\"2\", \"3\""), 304),
    ] {
        let answer = server.ask(call);
        let Command::Config(reply) = server.driver.next().await else { panic!() };
        reply.send(Some(config())).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.etag.as_deref()), (status, Some("\"3\"")));
        assert_eq!(answer.text(), if status == 200 { "message = \"hi\"\n" } else { "" });
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_in_the_same_form_as_everything_else() {
    let mut server = server();
    let answer = server.ask(Call::get("/v2/status")).await.unwrap();
    assert_eq!((answer.status, answer.problem().unwrap().kind.as_str()), (404, "not_found"));
    let answer = server.ask(Call::get("/v1/reload")).await.unwrap();
    assert_eq!((answer.status, answer.problem().unwrap().kind.as_str()), (405, "method_not_allowed"));
    let answer = server.ask(text(Call::get("/v1/operations/none")));
    let Command::Operation(_, reply) = server.driver.next().await else { panic!() };
    reply.send(None).unwrap();
    assert_eq!(answer.await.unwrap().status, 404);
}

#[tokio::test]
async fn heads_and_bodies_are_bounded() {
    let mut server = server();
    let long = "x".repeat(MAX_HEAD_BYTES * 2);
    let request = format!("GET /v1/status HTTP/1.1\r\nhost: x\r\nlong: {long}\r\n\r\n");
    let answer = server.raw(request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let answer = server.ask(Call::post("/v1/actions/a").body(vec![b'x'; MAX_BODY_BYTES + 1])).await.unwrap();
    assert_eq!(answer.status, 413);
    let answer = server.ask(Call::post("/v1/actions/a").body(vec![0xFF])).await.unwrap();
    assert_eq!(answer.status, 415);
    assert!(server.driver.commands.try_recv().is_err());
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_the_others_go_on() {
    let server = server();
    let mut open = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        open.push(UnixStream::connect(&server.path).await.unwrap());
    }
    let mut further = UnixStream::connect(&server.path).await.unwrap();
    let mut nothing = Vec::new();
    assert_eq!(soon("the end", further.read_to_end(&mut nothing)).await.unwrap(), 0);
    // One leaves, another may come. That the place is free is noticed some time soon: until then, try again.
    open.pop();
    let mut commands = server.driver.commands;
    tokio::spawn(async move {
        while let Some(Command::Status(reply)) = commands.recv().await {
            let _ = reply.send(Box::new(status()));
        }
    });
    let client = Client::new(&server.path);
    let answered = async {
        loop {
            if let Ok(answer) = client.send(Call::get("/v1/status")).await {
                return answer;
            }
        }
    };
    assert_eq!(soon("an answer", answered).await.status, 200);
}

#[tokio::test]
async fn events_are_streamed_until_the_supervisor_ends() {
    let mut server = server();
    let client = Client::new(&server.path);
    let mut events = soon("the stream", client.events()).await.unwrap();
    let event = |message: &str| Event {
        kind: EventKind::Notice,
        at: now(),
        message: message.to_owned(),
        operation: Some(applied(Operation::running(
            "x",
            Kind::Reload,
            handover_api::Actor::supervisor(),
            now(),
        ))),
    };
    let sent = event("two\nlines, \u{fc}");
    server.driver.events.send(sent.clone()).unwrap();
    assert_eq!(soon("an event", events.next()).await.unwrap().unwrap(), sent);
    server.driver.closing.send(true).unwrap();
    assert_eq!(soon("the end", events.next()).await.unwrap(), None);
    soon("the server's end", &mut server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_answer_about_a_stop_is_written_before_the_server_ends() {
    let mut server = server();
    let answer = server.ask(text(Call::post("/v1/stop")));
    let (_, mut operation, done) = server.driver.admit().await;
    operation.losses = Losses::default();
    operation.finish(Outcome::Applied, Cause::Done, 12.0);
    done.send(operation).unwrap();
    server.driver.closing.send(true).unwrap();
    soon("the server's end", &mut server.task).await.unwrap().unwrap();
    assert_eq!(answer.await.unwrap().text(), "applied: stopped, no connection cut, in 12.0 ms\n");
}

#[tokio::test]
async fn an_operation_that_the_supervisor_does_not_survive_is_answered_as_unknown() {
    let mut server = server();
    let answer = server.ask(text(Call::post("/v1/reload")));
    let (_, _, done) = server.driver.admit().await;
    drop(done);
    let answer = answer.await.unwrap();
    assert_eq!(answer.status, 503);
    assert!(answer.text().starts_with("unknown: ") && answer.text().contains("op-1"), "{}", answer.text());
}
