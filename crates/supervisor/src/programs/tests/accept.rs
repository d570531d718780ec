//! Programs whose connections are accepted, or looked for, here: what is deployed, what outlives whom.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use handover_api::{ProgramState, ServesNow};
use handover_lifecycle::{Cause, Outcome};
use tokio::task::spawn_blocking;

use super::*;
use crate::protocol::ProgramSocket;

/// Says which version it is, and another line for each that it gets.
const ECHO: &str =
    "cat version; while read line; do echo $line; done; exit $(cat code 2>/dev/null || echo 0)";
/// Sits on its socket until it is asked to end.
const SITS: &str = "exec sleep 1000";

/// A stage with a socket.
struct Post {
    stage: Stage,
    listener: TcpListener,
}

impl Post {
    fn new() -> Self {
        Post { stage: Stage::new(), listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    /// With two slots, in each a version.
    fn spec(&self, accept: Accept, script: &str) -> ProgramSpec {
        let base = self.stage.directory.path();
        let slots = ["a", "b"].map(|name| {
            let slot = slot(base, name);
            std::fs::write(base.join(name).join("version"), format!("{name}\n")).unwrap();
            slot
        });
        let address = Address::Tcp(self.listener.local_addr().unwrap());
        let sockets = vec![ProgramSocket { address, name: "old".to_owned() }];
        ProgramSpec { accept, slots: slots.into(), sockets, ..shell("old", script) }
    }

    fn spec_of_each(&self) -> ProgramSpec {
        self.spec(Accept::Each { processes: 2, per_second: 1000 }, ECHO)
    }

    /// With a program that is applied: a process for each connection.
    fn each() -> (Self, ProgramSpec) {
        let mut post = Post::new();
        let spec = post.spec_of_each();
        post.apply(&spec);
        (post, spec)
    }

    /// With one that gets the listening socket.
    fn wait() -> (Self, ProgramSpec) {
        let mut post = Post::new();
        let spec = post.spec(Accept::Wait, SITS);
        post.apply(&spec);
        (post, spec)
    }

    fn apply(&mut self, spec: &ProgramSpec) {
        let address = self.listener.local_addr().unwrap();
        let socket = SharedSocket {
            listener: "old".to_owned(),
            address: Address::Tcp(address),
            actual: address.to_string(),
            socket: Arc::new(OwnedFd::from(self.listener.try_clone().unwrap())),
        };
        self.stage.programs.apply(std::slice::from_ref(spec), &Names::default(), vec![socket], None);
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    /// A connection that is served by this version.
    async fn client_of(&self, version: &str) -> TcpStream {
        let client = self.connect();
        assert_eq!(line(&client).await, version);
        client
    }

    async fn status(&mut self, running: usize) -> ProgramStatus {
        self.stage.looks("old", |status| status.copies.len() == running).await
    }

    /// Another life of the supervisor, which was left nothing but what is on the disk.
    async fn next_life(mut self) -> Self {
        let setup = Stage::setup(self.stage.directory.path());
        drop(std::mem::replace(&mut self.stage.programs, Programs::new(setup.clone())));
        let said = Programs::end_leftovers(&setup).await;
        assert_eq!(said, [""; 0]);
        self.stage.programs = Programs::new(setup);
        self
    }
}

async fn line(stream: &TcpStream) -> String {
    let stream = stream.try_clone().unwrap();
    let read = move || {
        let mut line = String::new();
        BufReader::with_capacity(1, stream).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    spawn_blocking(read).await.unwrap()
}

fn deploy(confirm: Option<Duration>, guard: Option<Duration>) -> What {
    What::Deploy { slot: None, directory: None, confirm, guard }
}

#[tokio::test]
async fn a_deploy_is_what_the_next_connection_gets_and_a_rollback_what_the_one_after_that_gets() {
    let (mut post, _) = Post::each();
    let first = post.client_of("a").await;
    post.status(1).await;
    let ended = post.stage.ask("old", deploy(None, None)).await;
    assert_eq!(ended.outcome, Outcome::Applied, "{ended:?}");
    assert_eq!((ended.program.from.as_deref(), ended.program.to.as_deref()), (Some("a"), Some("b")));
    assert!(ended.program.next_connection);
    let state = post.stage.directory.path().join("state/programs/state.json");
    assert!(std::fs::read_to_string(state).unwrap().contains(r#""slot": "b""#), "before it is answered");
    let second = post.client_of("b").await;
    let status = post.status(2).await;
    let slots: Vec<_> = status.copies.iter().map(|copy| copy.slot.as_deref()).collect();
    assert_eq!((slots, status.slot.as_deref()), (vec![Some("a"), Some("b")], Some("b")));
    (&first).write_all(b"still\n").unwrap();
    assert_eq!(line(&first).await, "still");
    drop(first);
    assert_eq!(post.stage.ask("old", What::Rollback).await.program.to.as_deref(), Some("a"));
    post.status(1).await;
    drop(post.client_of("a").await);
    drop(second);
    post.stage.stop().await;
}

#[tokio::test]
async fn a_deploy_that_awaits_confirmation_goes_back_when_nobody_confirms_it_and_stays_when_somebody_does() {
    let (mut post, spec) = Post::each();
    let ended = post.stage.ask("old", deploy(Some(LONG), None)).await;
    assert_eq!(ended.program.goes_back.map(|back| back.to).as_deref(), Some("a"), "{:?}", ended.problems);
    let refused = post
        .stage
        .ask("old", What::Deploy { slot: Some("a".to_owned()), directory: None, confirm: None, guard: None });
    assert_eq!(refused.await.cause, Cause::Pending);
    let pending = post.status(0).await.pending.unwrap();
    assert_eq!((pending.slot.as_str(), pending.back_to.as_str()), ("b", "a"));
    // It awaits confirmation in the next life, too.
    let mut post = post.next_life().await;
    post.apply(&spec);
    assert_eq!(post.status(0).await.pending.unwrap().back_to, "a");
    assert_eq!(post.stage.ask("old", What::Cancel).await.program.to.as_deref(), Some("a"));
    assert_eq!(post.stage.ask("old", What::Confirm).await.outcome, Outcome::Rejected);
    // Nobody confirms this one.
    let ended = post.stage.ask("old", deploy(Some(Duration::from_millis(200)), None)).await;
    assert_eq!(ended.outcome, Outcome::Applied);
    let asked = |out: &Out| match out {
        Out::Own { asked, .. } => Some(asked.what.clone()),
        _ => None,
    };
    assert_eq!(post.stage.until(asked).await, What::GoBack);
    assert_eq!(post.stage.ask("old", What::GoBack).await.program.to.as_deref(), Some("a"));
    drop(post.client_of("a").await);
    // And this one is confirmed.
    post.stage.ask("old", deploy(Some(LONG), None)).await;
    assert_eq!(post.stage.ask("old", What::Confirm).await.outcome, Outcome::Applied);
    let status = post.stage.looks("old", |status| status.pending.is_none()).await;
    assert_eq!(status.slot.as_deref(), Some("b"));
    post.stage.stop().await;
}

#[tokio::test]
async fn a_guard_takes_back_what_fails_and_says_when_it_has_seen_nothing() {
    let (mut post, _) = Post::each();
    let guard = Duration::from_millis(100);
    let ended = post.stage.ask("old", deploy(None, Some(guard))).await;
    assert_eq!(ended.outcome, Outcome::Applied);
    let warned = ended.warnings.iter().any(|warning| warning.detail.contains("nobody connected"));
    assert!(warned, "{:?}", ended.warnings);
    std::fs::write(post.stage.directory.path().join("a/code"), "3").unwrap();
    let operation = post.stage.begin("old", deploy(None, Some(LONG)));
    let guards =
        |out: &Out| matches!(out, Out::Step { step: handover_lifecycle::StepName::Guard, .. }).then_some(());
    post.stage.until(guards).await;
    let client = post.client_of("a").await;
    client.shutdown(Shutdown::Write).unwrap();
    let ended = post.stage.ended(operation).await;
    assert_eq!((ended.outcome, ended.cause), (Outcome::RolledBack, Cause::GuardFailed), "{ended:?}");
    assert_eq!(ended.program.serves, ServesNow::OldAgain);
    assert!(ended.problems[0].detail.contains("exited with code 3"), "{:?}", ended.problems);
    drop(post.client_of("b").await);
    post.stage.stop().await;
}

#[tokio::test]
async fn a_deploy_of_what_cannot_be_started_is_refused_before_anybody_connects() {
    let mut post = Post::new();
    let mut spec = post.spec_of_each();
    spec.command = vec!["./server".to_owned()];
    spec.slots[0].command = Some(vec!["sh".to_owned(), "-c".to_owned(), ECHO.to_owned()]);
    post.apply(&spec);
    let ended = post.stage.ask("old", deploy(None, None)).await;
    assert_eq!((ended.outcome, ended.cause), (Outcome::Rejected, Cause::Unfit));
    assert!(ended.problems[0].detail.contains("b/./server"), "{:?}", ended.problems);
    drop(post.client_of("a").await);
    post.stage.stop().await;
}

#[tokio::test]
async fn who_serves_a_connection_outlives_supervisor_and_worker_and_counts_in_the_next_life() {
    let (mut post, spec) = Post::each();
    let clients = [post.connect(), post.connect()];
    for client in &clients {
        assert_eq!(line(client).await, "a");
    }
    let before = pids(&post.status(2).await);
    let mut post = post.next_life().await;
    post.apply(&spec);
    let status = post.status(2).await;
    assert_eq!(pids(&status), before);
    assert!(status.copies.iter().all(|copy| copy.address.is_some()), "{status:?}");
    // Two is as many as may.
    let third = post.connect();
    let [first, second] = clients;
    (&first).write_all(b"still\n").unwrap();
    assert_eq!(line(&first).await, "still");
    drop(first);
    assert_eq!(line(&third).await, "a");
    let status = post.status(2).await;
    assert!(status.warnings.iter().any(|warning| warning.contains("had to wait")), "{status:?}");
    drop((second, third));
    post.status(0).await;
    let directory = post.stage.directory.path().join("run/stage.programs");
    assert_eq!(std::fs::read_dir(directory).unwrap().count(), 0, "nothing is noted any more");
    post.stage.stop().await;
}

/// A connection that nobody is there for any more.
#[tokio::test]
async fn who_serves_a_connection_of_a_program_that_is_no_more_is_ended() {
    let (mut post, _) = Post::each();
    let _client = post.client_of("a").await;
    let pid = pids(&post.status(1).await)[0];
    let mut post = post.next_life().await;
    post.stage.apply(&[]);
    spawn_blocking(move || handover_testkit::until("it ends", || (!lives(pid)).then_some(()))).await.unwrap();
    post.stage.stop().await;
}

/// It would be in the way of whoever binds the address.
#[tokio::test]
async fn who_has_the_listening_socket_is_ended_before_a_fresh_start() {
    let (mut post, _) = Post::wait();
    let _client = post.connect();
    let pid = pids(&post.status(1).await)[0];
    let Stage { programs, directory, .. } = post.stage;
    drop(programs);
    let said = Programs::end_leftovers(&Stage::setup(directory.path())).await;
    assert!(said.len() == 1 && said[0].contains(&pid.to_string()), "{said:?}");
    assert!(!lives(pid));
}

/// What is kept by the worker may be older than the process.
#[tokio::test]
async fn a_process_of_which_the_next_supervisor_was_told_nothing_is_known_to_it_all_the_same() {
    let (mut post, spec) = Post::each();
    let kept = post.stage.programs.save();
    let client = post.client_of("a").await;
    let before = pids(&post.status(1).await);
    let descriptors = kept.descriptors.iter().map(|fd| fd.try_clone().unwrap()).collect();
    let setup = Stage::setup(post.stage.directory.path());
    post.stage.programs = Programs::restore(setup, &kept.json, descriptors).unwrap();
    post.apply(&spec);
    assert_eq!(pids(&post.status(1).await), before);
    (&client).write_all(b"still\n").unwrap();
    assert_eq!(line(&client).await, "still");
    drop(client);
    post.stage.stop().await;
}

#[tokio::test]
async fn a_restart_ends_who_has_the_listening_socket_and_the_next_connection_starts_the_new_one() {
    let (mut post, spec) = Post::wait();
    let _client = post.connect();
    let before = pids(&post.status(1).await)[0];
    let ended = post.stage.ask("old", What::Restart { batch: None, max_unhealthy: None }).await;
    assert_eq!(ended.outcome, Outcome::Applied, "{ended:?}");
    assert!(!lives(before), "when it is answered");
    // Nobody has accepted it.
    let status = post.stage.looks("old", |status| status.copies.iter().any(|copy| copy.pid != Some(before)));
    let next = pids(&status.await)[0];
    // A reload that changes nothing leaves it alone, and one that changes what is started does not.
    post.apply(&spec);
    assert!(lives(next));
    let other = ProgramSpec { environment: [("A".to_owned(), "b".to_owned())].into(), ..spec };
    post.apply(&other);
    let is_other =
        |status: &ProgramStatus| status.copies.iter().any(|copy| copy.pid.is_some_and(|pid| pid != next));
    post.stage.looks("old", is_other).await;
    assert!(!lives(next));
    post.stage.stop().await;
}

#[tokio::test]
async fn another_way_to_accept_leaves_who_serves_a_connection_alone_and_forgets_nobody() {
    let (mut post, spec) = Post::each();
    let client = post.client_of("a").await;
    let pid = pids(&post.status(1).await)[0];
    post.stage.ask("old", deploy(None, None)).await;
    let wait = ProgramSpec {
        accept: Accept::Wait,
        command: ["sh", "-c", SITS].map(str::to_owned).to_vec(),
        ..spec.clone()
    };
    post.apply(&wait);
    assert_eq!(pids(&post.status(1).await), [pid], "still counted");
    let _other = post.connect();
    let both = pids(&post.status(2).await);
    // One that accepts by itself has copies; the process of the connection is ended with its program when its time is over.
    let own = ProgramSpec {
        accept: Accept::Program,
        stop: Stop { signal: 15, limit: Duration::from_millis(100) },
        command: wait.command.clone(),
        ..spec.clone()
    };
    post.apply(&own);
    let is_own = |status: &ProgramStatus| status.state == ProgramState::Running && status.wanted == 1;
    post.stage
        .looks("old", |status| is_own(status) && !pids(status).iter().any(|pid| both.contains(pid)))
        .await;
    drop(client);
    while post.stage.programs.status().len() > 1 {
        let happened = tokio::time::timeout(LONG, post.stage.programs.next()).await.unwrap();
        post.stage.programs.take(happened);
    }
    let status = post.stage.runs("old").await;
    assert_eq!(status.slot.as_deref(), Some("b"), "what was deployed stays deployed");
    assert!(both.iter().all(|pid| !lives(*pid)));
    // And back, beside the copy that is on its way out.
    post.apply(&spec);
    let _client = post.client_of("b").await;
    while post.stage.programs.status().len() > 1 {
        let happened = tokio::time::timeout(LONG, post.stage.programs.next()).await.unwrap();
        post.stage.programs.take(happened);
    }
    // The other connection had waited in the queue all the time.
    assert_eq!(post.status(2).await.slot.as_deref(), Some("b"));
    post.stage.stop().await;
}
