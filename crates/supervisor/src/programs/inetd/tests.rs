//! Processes that serve connections.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;

use tokio::task::spawn_blocking;

use super::*;
use crate::protocol::RestartPolicy;

/// Time enough for what must come.
const LIMIT: Duration = Duration::from_secs(20);
const TERM: i32 = 15;

struct Rig {
    listener: TcpListener,
    log: io::PipeReader,
    order: Order,
}

/// A program that is this script.
fn rig(script: &str) -> Rig {
    rig_of(&["sh", "-c", script])
}

fn rig_of(command: &[&str]) -> Rig {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (log, writer) = io::pipe().unwrap();
    let order = Order {
        care: Care {
            program: "old".to_owned(),
            slot: None,
            signal: TERM,
            limit: LIMIT,
            teller: None,
            place: None,
        },
        command: command.iter().map(|&word| word.to_owned()).collect(),
        setting: Setting::default(),
        limits: ResourceLimits::default(),
        output: Arc::new(writer.into()),
        sockets: vec![Arc::new(listener.try_clone().unwrap().into())],
        processes: 64,
        per_second: 1000,
        restart: Restart {
            policy: RestartPolicy::Always,
            first: Duration::from_millis(20),
            longest: Duration::from_millis(100),
            reset: LIMIT,
        },
    };
    Rig { listener, log, order }
}

impl Rig {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    fn each(&self) -> Serving {
        let all = Processes::default();
        Serving { what: Listening::each(self.order.clone(), all.clone()).unwrap(), all }
    }

    fn wait(&self) -> Serving {
        let all = Processes::default();
        Serving { what: Listening::wait(self.order.clone(), all.clone()).unwrap(), all }
    }
}

/// What serves, and its processes.
struct Serving {
    what: Listening,
    all: Processes,
}

impl Serving {
    fn view(&self) -> View {
        self.all.view()
    }

    /// Nothing more is accepted; what runs may end.
    fn stop(self, limit: Duration) -> (impl Future<Output = Ends>, Processes) {
        drop(self.what);
        self.all.ask_with_socket();
        (self.all.end(limit), self.all)
    }
}

/// Everything that comes until the other end closes.
async fn all(mut stream: TcpStream) -> String {
    spawn_blocking(move || {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
    .await
    .unwrap()
}

/// The next line.
async fn line(stream: &TcpStream) -> String {
    let stream = stream.try_clone().unwrap();
    spawn_blocking(move || {
        let mut line = String::new();
        // One byte at a time, so that nothing of the next line is lost.
        BufReader::with_capacity(1, stream).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    })
    .await
    .unwrap()
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let waits = async {
        while !is() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, waits).await.is_ok(), "{what}");
}

#[tokio::test]
async fn each_connection_gets_a_process_with_it_as_standard_input_and_output() {
    let rig = rig(
        "read name; echo hello $name, you are $REMOTE_ADDR port $REMOTE_PORT, $HANDOVER_PROGRAM; echo served >&2",
    );
    let each = rig.each();
    for name in ["one", "two"] {
        let mut client = rig.connect();
        let port = client.local_addr().unwrap().port();
        writeln!(client, "{name}").unwrap();
        assert_eq!(all(client).await, format!("hello {name}, you are 127.0.0.1 port {port}, old\n"));
    }
    let mut log = BufReader::new(rig.log);
    let mut said = String::new();
    log.read_line(&mut said).unwrap();
    assert_eq!(said, "served\n");
    until("none runs", || each.view().running.is_empty()).await;
    assert_eq!((each.view().started, each.view().failed), (2, 0));
}

#[tokio::test]
async fn a_process_has_the_connection_and_nothing_else() {
    let rig = rig(
        "ls -l /proc/self/fd | sed -n 's/.* \\([0-9]*\\) -> \\([a-z]*\\).*/\\1 \\2/p'; env | grep -c LISTEN",
    );
    let _each = rig.each();
    // The list is read through the fourth.
    assert_eq!(all(rig.connect()).await, "0 socket\n1 pipe\n2 pipe\n3 \n0\n");
}

#[tokio::test]
async fn at_the_limit_of_processes_connections_wait_and_are_served_when_one_ends() {
    let mut rig = rig("echo ready; read word; echo bye");
    rig.order.processes = 2;
    let each = rig.each();
    let clients: Vec<TcpStream> = (0..3).map(|_| rig.connect()).collect();
    assert_eq!(line(&clients[0]).await, "ready");
    assert_eq!(line(&clients[1]).await, "ready");
    until("the third waits", || each.view().held_back == 1).await;
    assert_eq!(each.view().running.len(), 2);
    let peer = clients[0].local_addr().unwrap().to_string();
    assert!(each.view().running.iter().any(|running| running.peer.as_deref() == Some(&peer)));
    (&clients[0]).write_all(b"go\n").unwrap();
    assert_eq!(line(&clients[0]).await, "bye");
    assert_eq!(line(&clients[2]).await, "ready");
    assert_eq!(each.view().started, 3);
}

#[tokio::test]
async fn no_more_are_started_in_a_second_than_may_and_none_is_refused() {
    let mut rig = rig("echo served");
    rig.order.per_second = 5;
    let each = rig.each();
    let clients: Vec<TcpStream> = (0..8).map(|_| rig.connect()).collect();
    for client in clients {
        assert_eq!(all(client).await, "served\n");
    }
    assert_eq!((each.view().started, each.view().held_back > 0), (8, true));
}

#[tokio::test]
async fn who_comes_when_as_many_run_as_may_is_counted_too() {
    let mut rig = rig("echo ready; read word");
    rig.order.processes = 1;
    let each = rig.each();
    let first = rig.connect();
    assert_eq!(line(&first).await, "ready");
    let second = rig.connect();
    until("the second waits", || each.view().held_back == 1).await;
    drop(first);
    assert_eq!(line(&second).await, "ready");
    assert_eq!(each.view().held_back, 1);
}

fn script(path: &Path, says: &str) {
    let text = format!("#!/bin/sh\necho {says}\nread word\necho {says} $word\n");
    handover_testkit::program::script(path, &text);
}

#[tokio::test]
async fn a_replaced_executable_is_that_of_the_next_connection_and_those_that_run_end_as_they_began() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server");
    script(&path, "old");
    let rig = rig_of(&[path.to_str().unwrap()]);
    let each = rig.each();
    let before = rig.connect();
    assert_eq!(line(&before).await, "old");
    script(&path, "new");
    let after = rig.connect();
    assert_eq!(line(&after).await, "new");
    (&before).write_all(b"still\n").unwrap();
    assert_eq!(line(&before).await, "old still");
    // And so it is with another definition.
    let order =
        Order { command: ["sh", "-c", "echo other"].map(str::to_owned).to_vec(), ..rig.order.clone() };
    each.what.replace(order).unwrap();
    assert_eq!(all(rig.connect()).await, "other\n");
    (&after).write_all(b"still\n").unwrap();
    assert_eq!(line(&after).await, "new still");
}

#[tokio::test]
async fn what_cannot_be_started_closes_the_connection_and_is_counted() {
    let rig = rig_of(&["/nonexistent/server"]);
    let each = rig.each();
    let mut client = rig.connect();
    let closed = spawn_blocking(move || client.read(&mut [0]).map_or(0, |count| count)).await.unwrap();
    assert_eq!(closed, 0);
    until("it is counted", || each.view().failed == 1).await;
    assert!(each.view().last_failure.unwrap().contains("cannot be started"));
}

#[tokio::test]
async fn what_a_process_leaves_behind_is_cleared_away() {
    let mut rig = rig("trap '' TERM; sleep 1000 <&- >&- 2>&- & echo $!");
    rig.order.care.limit = Duration::from_millis(100);
    let each = rig.each();
    let pid = line(&rig.connect()).await;
    until("it is gone", || each.view().running.is_empty()).await;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z"), "{stat}");
}

#[tokio::test]
async fn stopped_it_accepts_nothing_more_and_kills_what_does_not_end() {
    let rig = rig("trap '' TERM; echo ready; read word; echo bye");
    let each = rig.each();
    let (ends, stays) = (rig.connect(), rig.connect());
    assert_eq!((line(&ends).await, line(&stays).await), ("ready".to_owned(), "ready".to_owned()));
    let (stopping, left) = each.stop(Duration::from_secs(2));
    let stopping = tokio::spawn(stopping);
    let late = rig.connect();
    (&ends).write_all(b"go\n").unwrap();
    assert_eq!(line(&ends).await, "bye");
    assert_eq!(stopping.await.unwrap(), Ends { asked: 1, connections: 1, killed: 1 }, "one had to be killed");
    assert_eq!(all(stays).await, "");
    assert!(left.is_empty());
    // It waits in the queue, for whoever comes next.
    let next = rig.each();
    assert_eq!(line(&late).await, "ready");
    assert_eq!(next.view().started, 1);
}

#[tokio::test]
async fn what_does_not_end_by_itself_is_asked_to_before_it_is_killed() {
    let rig = rig("trap 'echo cut; exit 0' TERM; echo ready; while :; do sleep 0.02; done");
    let each = rig.each();
    let client = rig.connect();
    assert_eq!(line(&client).await, "ready");
    let (stopping, _) = each.stop(Duration::from_secs(1));
    assert_eq!(stopping.await, Ends { asked: 1, connections: 1, killed: 0 });
    assert_eq!(line(&client).await, "cut");
}

#[tokio::test]
async fn what_an_earlier_supervisor_has_started_is_known_to_the_next_one() {
    let rig = rig("echo ready; read word; echo bye");
    let each = rig.each();
    let client = rig.connect();
    assert_eq!(line(&client).await, "ready");
    let saved = each.all.save().into_iter().map(|process| {
        let text = serde_json::to_string(&process).unwrap();
        (serde_json::from_str(&text).unwrap(), None)
    });
    let (saved, running) = (saved.collect(), each.view().running);
    drop(each);
    let next = rig.each();
    assert_eq!(next.all.restore(saved, &rig.order.care), 1);
    assert_eq!(next.view().running, running);
    assert_eq!(next.view().started, 0);
    (&client).write_all(b"go\n").unwrap();
    assert_eq!(line(&client).await, "bye");
    until("its end is noticed", || next.view().running.is_empty()).await;
}

/// Accepts one connection on its standard input, says who it is, and ends.
const ACCEPTS_ONE: &str = "import socket, os, sys
s = socket.socket(fileno=0)
c, _ = s.accept()
c.sendall(b'%d\\n' % os.getpid())
c.close()
";

#[tokio::test]
async fn the_socket_itself_is_passed_when_a_connection_waits_and_again_after_the_end() {
    if !handover_testkit::have("python3", "the_socket_itself_is_passed_when_a_connection_waits") {
        return;
    }
    let rig = rig_of(&["python3", "-c", ACCEPTS_ONE]);
    let wait = rig.wait();
    assert_eq!(wait.view(), View::default());
    let clients: Vec<TcpStream> = (0..4).map(|_| rig.connect()).collect();
    let mut pids = std::collections::BTreeSet::new();
    for client in clients {
        pids.insert(all(client).await);
    }
    assert_eq!(pids.len(), 4, "each has ended after one");
    assert_eq!((wait.view().started, wait.view().failed), (4, 0));
}

#[tokio::test]
async fn one_that_ends_at_once_without_accepting_is_started_again_only_after_a_pause() {
    let rig = rig("true");
    let wait = rig.wait();
    let client = rig.connect();
    until("it waits as long as it may", || wait.view().pause == Some(rig.order.restart.longest)).await;
    // The connection is still there, for one that does better.
    let order =
        Order { command: ["sh", "-c", "sleep 1000"].map(str::to_owned).to_vec(), ..rig.order.clone() };
    wait.what.replace(order).unwrap();
    until("the other one runs", || wait.view().running.len() == 1).await;
    assert_eq!(wait.stop(LIMIT).0.await, Ends::default(), "it ended when it was asked to");
    client.shutdown(Shutdown::Both).unwrap();
}

#[tokio::test]
async fn one_that_does_not_end_when_it_is_asked_to_is_killed() {
    let rig = rig("trap '' TERM; echo started >&2; while :; do sleep 1000; done");
    let wait = rig.wait();
    let _client = rig.connect();
    let mut log = BufReader::new(rig.log);
    let mut said = String::new();
    let said = spawn_blocking(move || log.read_line(&mut said).map(|_| said)).await.unwrap().unwrap();
    assert_eq!(said, "started\n");
    let (stopping, left) = wait.stop(Duration::from_millis(200));
    assert_eq!(stopping.await.killed, 1);
    assert!(left.is_empty());
}
