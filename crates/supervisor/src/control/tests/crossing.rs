//! The control server while the supervisor is about to become another program.

use super::*;

/// A connection that waits for the end of an operation, and what ends that.
async fn waiting(server: &mut Server) -> (JoinHandle<Answer>, Operation, oneshot::Sender<Operation>) {
    let answer = server.ask(text(Call::post("/v1/reload?timeout=20s")));
    let (_, operation, done) = server.driver.admit().await;
    (answer, operation, done)
}

impl Server {
    /// The supervisor is about to leave: waits until only those are connected who wait for an operation.
    async fn leave(&self) {
        self.driver.crossing.set_leaving(true);
        soon("it is quiet", self.driver.crossing.quiet()).await;
    }
}

#[tokio::test]
async fn idle_connections_and_streams_end_and_whoever_waits_for_an_operation_stays() {
    let mut server = server();
    let (answer, operation, done) = waiting(&mut server).await;
    let mut idle = UnixStream::connect(&server.path).await.unwrap();
    idle.write_all(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut stream = UnixStream::connect(&server.path).await.unwrap();
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 16];
    soon("the stream begins", stream.read_exact(&mut first)).await.unwrap();
    server.leave().await;
    for mut connection in [idle, stream] {
        soon("it ends", connection.read_to_end(&mut Vec::new())).await.unwrap();
    }
    let waiters = server.driver.crossing.waiters();
    assert_eq!(waiters.len(), 1);
    assert_eq!(
        (waiters[0].operation.as_str(), waiters[0].accept.as_slice()),
        ("op-1", &["*/*".to_owned()][..])
    );
    assert!(waiters[0].until > std::time::Instant::now() + Duration::from_secs(10));
    // It comes to nothing: the answer is the old program's after all.
    server.driver.crossing.set_leaving(false);
    done.send(applied(operation)).unwrap();
    assert_eq!(answer.await.unwrap().status, 200);
    soon("nobody waits any more", server.driver.crossing.quiet()).await;
    assert!(server.driver.crossing.waiters().is_empty());
}

#[tokio::test]
async fn who_connects_meanwhile_waits_and_is_heard_afterwards() {
    let mut server = server();
    server.leave().await;
    let answer = server.ask(Call::get("/v1/status"));
    // It is connected, and nobody has accepted it.
    tokio::task::yield_now().await;
    assert!(server.driver.commands.try_recv().is_err());
    server.driver.crossing.set_leaving(false);
    let Command::Status(reply) = server.driver.next().await else { panic!() };
    reply.send(Box::new(status())).unwrap();
    let Command::Certificates(reply) = server.driver.next().await else { panic!() };
    reply.send(None).unwrap();
    assert_eq!(answer.await.unwrap().status, 200);
}

#[tokio::test]
async fn who_was_accepted_just_before_is_heard_too() {
    let mut server = server();
    let mut late = UnixStream::connect(&server.path).await.unwrap();
    let accepted = async {
        while server.driver.crossing.is_quiet() {
            tokio::task::yield_now().await;
        }
    };
    soon("it is accepted", accepted).await;
    server.driver.crossing.set_leaving(true);
    // Whatever is to be done about that is done.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    late.write_all(b"GET /v1/history HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let Command::History(_, reply) = server.driver.next().await else { panic!() };
    reply.send(Vec::new()).unwrap();
    let mut answer = String::new();
    soon("an answer", late.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    // And whoever says nothing does not keep the supervisor what it is.
    server.driver.crossing.set_leaving(false);
    let _silent = UnixStream::connect(&server.path).await.unwrap();
    server.leave().await;
}

#[tokio::test]
async fn a_request_that_is_being_answered_is_answered_before() {
    let mut server = server();
    let answer = server.ask(Call::get("/v1/history"));
    let Command::History(_, reply) = server.driver.next().await else { panic!() };
    server.driver.crossing.set_leaving(true);
    assert!(!server.driver.crossing.is_quiet());
    reply.send(Vec::new()).unwrap();
    assert_eq!(answer.await.unwrap().status, 200);
    soon("it is quiet", server.driver.crossing.quiet()).await;
}

#[tokio::test]
async fn whoever_asks_for_an_operation_and_waits_is_told_how_it_is_now() {
    let mut server = server();
    let answer = server.ask(Call::get("/v1/operations/op-1?timeout=20s"));
    let running = Operation::running("op-1", Kind::Upgrade, handover_api::Actor::supervisor(), now());
    for _ in 0..2 {
        let Command::Operation(_, reply) = server.driver.next().await else { panic!() };
        reply.send(Some(Box::new(running.clone()))).unwrap();
        server.driver.crossing.set_leaving(true);
    }
    assert_eq!(answer.await.unwrap().json::<Operation>().unwrap().state, OperationState::Running);
    soon("it is quiet", server.driver.crossing.quiet()).await;
}
