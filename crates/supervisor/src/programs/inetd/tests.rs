//! Processes that serve connections.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tokio::task::spawn_blocking;

use super::*;
use crate::protocol::{RestartPolicy, Stop};

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
        teller: None,
        program: "old".to_owned(),
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
        stop_signal: TERM,
        stop_limit: LIMIT,
    };
    Rig { listener, log, order }
}

impl Rig {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    fn each(&self) -> Each {
        Each::start(self.order.clone(), Vec::new()).unwrap()
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

fn script(path: &Path, says: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, format!("#!/bin/sh\necho {says}\nread word\necho {says} $word\n")).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(&new, path).unwrap();
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
    each.replace(order).unwrap();
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
    let rig = rig("trap '' TERM; sleep 1000 <&- >&- 2>&- & echo $!");
    let mut order = rig.order.clone();
    order.stop_limit = Duration::from_millis(100);
    let each = Each::start(order, Vec::new()).unwrap();
    let pid = line(&rig.connect()).await;
    until("it is gone", || each.view().running.is_empty()).await;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z"), "{stat}");
}

#[tokio::test]
async fn stopped_it_accepts_nothing_more_and_kills_what_does_not_end() {
    let rig = rig("echo ready; read word; echo bye");
    let each = rig.each();
    let (ends, stays) = (rig.connect(), rig.connect());
    assert_eq!((line(&ends).await, line(&stays).await), ("ready".to_owned(), "ready".to_owned()));
    let stopping = tokio::spawn(each.stop(Duration::from_millis(500)));
    let late = rig.connect();
    (&ends).write_all(b"go\n").unwrap();
    assert_eq!(line(&ends).await, "bye");
    assert_eq!(stopping.await.unwrap(), 1, "one had to be killed");
    assert_eq!(all(stays).await, "");
    assert!(each.view().running.is_empty());
    // It waits in the queue, for whoever comes next.
    let next = rig.each();
    assert_eq!(line(&late).await, "ready");
    assert_eq!(next.view().started, 1);
}

#[tokio::test]
async fn what_an_earlier_supervisor_has_started_is_known_to_the_next_one() {
    let rig = rig("echo ready; read word; echo bye");
    let each = rig.each();
    let client = rig.connect();
    assert_eq!(line(&client).await, "ready");
    let saved: Vec<_> = each
        .save()
        .into_iter()
        .map(|(process, pidfd)| {
            let text = serde_json::to_string(&process).unwrap();
            (serde_json::from_str(&text).unwrap(), pidfd.map(|pidfd| pidfd.try_clone().unwrap()))
        })
        .collect();
    let running = each.view().running;
    drop(each);
    let next = Each::start(rig.order.clone(), saved).unwrap();
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
    let wait = Wait::start(rig.order.clone(), None).unwrap();
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
    let wait = Wait::start(rig.order.clone(), None).unwrap();
    let client = rig.connect();
    until("it waits as long as it may", || wait.view().pause == Some(rig.order.restart.longest)).await;
    // The connection is still there, for one that does better.
    let order =
        Order { command: ["sh", "-c", "sleep 1000"].map(str::to_owned).to_vec(), ..rig.order.clone() };
    wait.replace(order).unwrap();
    until("the other one runs", || wait.view().running.len() == 1).await;
    let stop = Stop { signal: TERM, limit: LIMIT };
    assert!(!wait.stop(&stop).await, "it ended when it was asked to");
    client.shutdown(Shutdown::Both).unwrap();
}

#[tokio::test]
async fn one_that_does_not_end_when_it_is_asked_to_is_killed() {
    let rig = rig("trap '' TERM; echo started >&2; while :; do sleep 1000; done");
    let wait = Wait::start(rig.order.clone(), None).unwrap();
    let _client = rig.connect();
    let mut log = BufReader::new(rig.log);
    let mut said = String::new();
    let said = spawn_blocking(move || log.read_line(&mut said).map(|_| said)).await.unwrap().unwrap();
    assert_eq!(said, "started\n");
    let stop = Stop { signal: TERM, limit: Duration::from_millis(200) };
    assert!(wait.stop(&stop).await);
    assert!(wait.view().running.is_empty());
}
