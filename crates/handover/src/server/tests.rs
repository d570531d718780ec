//! A program's server, prepared, committed, drained and resumed as the worker does it.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::run::{NotReady, Run};
use super::*;
use crate::drain::{Drain, DrainEnd};
use crate::prepare::{BindError, Bound};
use crate::service::{Candidate, Service};
use crate::types::{Change, ListenerSpec, What};

const PATIENCE: Duration = Duration::from_secs(30);

fn bind_all(specs: &[ListenerSpec]) -> Vec<Result<Bound, BindError>> {
    let bind = || TcpListener::bind("127.0.0.1:0").map(|listener| Bound::Socket(OwnedFd::from(listener)));
    specs.iter().map(|_| bind().map_err(|_| BindError::Cancelled)).collect()
}

fn prepare(hosted: &Hosted, base: &Path) -> Result<Box<dyn Candidate>, Vec<Problem>> {
    hosted.prepare(&mut Prepare::stand_alone(1, false, base, bind_all))
}

/// Three values, each from the file of its name.
struct Three {
    directory: TempDir,
    values: Vec<Reloadable<String>>,
    hosted: Hosted,
}

impl Three {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Server::new("three", "1");
        let values: Vec<Reloadable<String>> = ["one", "two", "three"]
            .into_iter()
            .map(|name| server.reloadable(name, move |files| files.read_to_string(Path::new(name))))
            .collect();
        let second = values[1].clone();
        server.action("reload_two", move |call| match call.reload(&second) {
            Ok(()) => Ok("Successfully reloaded two".to_owned()),
            Err(error) => Err(format!("could not reload two: {error}")),
        });
        let three = Self { directory, values, hosted: Hosted::new(server.declare(until_drained).1) };
        three.write("one", "1");
        three.write("two", "2");
        three.write("three", "3");
        prepare(&three.hosted, three.directory.path()).unwrap().commit();
        three
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.path().join(name), text).unwrap();
    }

    fn prepare(&self) -> Result<Box<dyn Candidate>, Vec<Problem>> {
        prepare(&self.hosted, self.directory.path())
    }

    fn now(&self) -> String {
        self.values.iter().map(|value| value.load().to_string()).collect::<Vec<_>>().join(" ")
    }

    fn act(&self) -> Result<String, String> {
        let mut files = Prepare::stand_alone(1, false, self.directory.path(), bind_all);
        self.hosted.action("reload_two", "", &mut files)
    }
}

async fn until_drained(cx: Context) -> io::Result<()> {
    cx.draining().await;
    Ok(())
}

#[test]
fn the_second_of_three_prepares_failing_commits_none() {
    let three = Three::new();
    assert_eq!(three.now(), "1 2 3");
    three.write("one", "new");
    three.write("three", "new");
    std::fs::remove_file(three.directory.path().join("two")).unwrap();
    let problems = three.prepare().err().unwrap();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].detail, "could not load two: No such file or directory (os error 2)");
    assert_eq!(problems[0].file, Some(three.directory.path().join("two").display().to_string()));
    assert_eq!(three.now(), "1 2 3");

    three.write("two", "new");
    let candidate = three.prepare().unwrap();
    assert_eq!(three.now(), "1 2 3", "nothing is published before the commit");
    candidate.commit();
    assert_eq!(three.now(), "new new new");
}

#[test]
fn every_value_that_cannot_be_loaded_is_named_at_once() {
    let three = Three::new();
    for name in ["one", "three"] {
        std::fs::remove_file(three.directory.path().join(name)).unwrap();
    }
    let problems = three.prepare().err().unwrap();
    let details: Vec<_> = problems.iter().map(|problem| problem.detail.as_str()).collect();
    assert!(details[0].contains("load one") && details[1].contains("load three"), "{details:?}");
}

#[test]
fn a_candidate_that_is_dropped_changes_nothing() {
    let three = Three::new();
    three.write("one", "new");
    drop(three.prepare().unwrap());
    assert_eq!(three.now(), "1 2 3");
}

#[test]
fn a_reload_names_what_changed_and_nothing_else() {
    let three = Three::new();
    assert_eq!(three.prepare().unwrap().changes(), Vec::<Change>::new());
    three.write("three", "new");
    let changes = three.prepare().unwrap().changes();
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].what, changes[0].name.as_str()), (What::Changed, "three"));
}

#[test]
fn an_action_reloads_one_value_and_answers_in_its_own_words() {
    let three = Three::new();
    three.write("one", "new");
    three.write("two", "new");
    assert_eq!(three.act(), Ok("Successfully reloaded two".to_owned()));
    assert_eq!(three.now(), "1 new 3");
    std::fs::remove_file(three.directory.path().join("two")).unwrap();
    let error = "could not reload two: No such file or directory (os error 2)";
    assert_eq!(three.act(), Err(error.to_owned()));
    assert_eq!(three.now(), "1 new 3");
}

/// A server that echoes, with `told` called in every run.
fn echo(told: mpsc::Sender<()>) -> impl Fn(Context) -> run::Running + Send + Sync + 'static {
    move |cx| {
        let told = told.clone();
        Box::pin(async move {
            let listener = cx.listener("echo").map_err(|error| error.to_string())?;
            told.send(()).map_err(|error| error.to_string())?;
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.map_err(|error| error.to_string())?;
                        let mut stream = cx.track("tcp").wrap(stream);
                        tokio::spawn(async move {
                            let mut byte = [0];
                            while stream.read_exact(&mut byte).await.is_ok() {
                                if stream.write_all(&byte).await.is_err() {
                                    return;
                                }
                            }
                        });
                    }
                    () = cx.draining() => return Ok(()),
                }
            }
        })
    }
}

struct Echo {
    hosted: Hosted,
    address: SocketAddr,
    runs: mpsc::Receiver<()>,
}

impl Echo {
    fn start() -> Self {
        let (told, runs) = mpsc::channel();
        let mut server = Server::new("echo", "1");
        server.listener("echo", "127.0.0.1:0");
        let hosted = Hosted::new(server.declare(echo(told)).1);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut socket = Some(OwnedFd::from(listener));
        let binder = move |_: &[ListenerSpec]| {
            socket.take().map(|socket| Ok(Bound::Socket(socket))).into_iter().collect()
        };
        hosted.prepare(&mut Prepare::stand_alone(1, false, Path::new("/"), binder)).unwrap().commit();
        runs.recv_timeout(PATIENCE).unwrap();
        Self { hosted, address, runs }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_echoes(&stream);
        stream
    }

    /// Drains in a thread, as the worker does.
    fn drain(&self, drain: &Drain) -> crate::types::Losses {
        let hosted = &self.hosted;
        std::thread::scope(|scope| scope.spawn(|| hosted.drain(drain)).join().unwrap())
    }
}

fn assert_echoes(mut stream: &TcpStream) {
    use std::io::{Read as _, Write as _};
    stream.write_all(b"x").unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
}

fn is_cut(mut stream: &TcpStream) -> bool {
    use std::io::Read as _;
    matches!(stream.read(&mut [0]), Ok(0)) || stream.take_error().is_ok_and(|error| error.is_some())
}

#[test]
fn a_drain_ends_when_the_last_tracked_connection_does() {
    let echo = Echo::start();
    let stream = echo.connect();
    let drain = Drain::new(PATIENCE);
    let hosted = &echo.hosted;
    let losses = std::thread::scope(|scope| {
        let draining = scope.spawn(|| hosted.drain(&drain));
        while drain.connections() == 0 {
            assert_eq!(drain.wait_change(drain.changes()), None);
        }
        assert_echoes(&stream);
        drop(stream);
        draining.join().unwrap()
    });
    assert!(losses.is_empty(), "{losses}");
    assert!(!drain.remaining().is_zero(), "the deadline is not what ended it");
}

#[test]
fn what_is_open_at_a_drains_deadline_is_cut_and_counted() {
    let echo = Echo::start();
    let (one, two) = (echo.connect(), echo.connect());
    let losses = echo.drain(&Drain::new(Duration::ZERO));
    assert_eq!(losses.to_string(), "2 connections cut (2 tcp)");
    assert!(is_cut(&one) && is_cut(&two));
}

#[test]
fn a_drain_that_is_taken_back_cuts_nothing_and_new_connections_are_served() {
    let echo = Echo::start();
    let before = echo.connect();
    let drain = Drain::new(PATIENCE);
    drain.end(DrainEnd::Resumed);
    assert!(echo.drain(&drain).is_empty());
    echo.hosted.resume();
    echo.runs.recv_timeout(PATIENCE).unwrap();
    assert_echoes(&before);
    let after = echo.connect();
    assert!(!echo.hosted.stop_now().is_empty());
    assert!(is_cut(&after));
}

#[test]
fn connections_that_came_while_nothing_was_served_are_served_after_the_resume() {
    let echo = Echo::start();
    assert!(echo.drain(&Drain::new(PATIENCE)).is_empty());
    let waiting = TcpStream::connect(echo.address).unwrap();
    echo.hosted.resume();
    assert_echoes(&waiting);
}

#[test]
fn open_connections_are_in_the_metrics() {
    let echo = Echo::start();
    let _open = echo.connect();
    let metrics = echo.hosted.metrics();
    assert!(metrics.contains("handover_open_connections{kind=\"tcp\"} 1\n"), "{metrics}");
    assert!(!metrics.contains("# EOF"));
}

#[test]
fn a_server_that_ends_before_it_is_ready_is_refused_with_its_reason() {
    for (ending, reason) in
        [("error", "no database"), ("panic", "it panicked: oh"), ("ok", "it ended as soon as")]
    {
        let server = Server::new("ends", "1");
        let declared = server.declare(move |_| async move {
            match ending {
                "error" => Err("no database"),
                "panic" => panic!("oh"),
                _ => Ok(()),
            }
        });
        let problems = prepare(&Hosted::new(declared.1), Path::new("/")).err().unwrap();
        assert!(problems[0].detail.contains(reason), "{problems:?}");
    }
}

#[test]
fn a_server_that_tells_when_it_is_ready_is_not_ready_before() {
    let (waited_to, waited) = mpsc::channel();
    let (word, told) = tokio::sync::watch::channel(false);
    let server = Server::new("told", "1");
    let declared = server.declare(move |cx| {
        let (mut told, waited) = (told.clone(), waited_to.clone());
        async move {
            tokio::task::yield_now().await;
            waited.send(()).map_err(|error| error.to_string())?;
            told.wait_for(|told| *told).await.map_err(|error| error.to_string())?;
            cx.ready();
            until_drained(cx).await.map_err(|error| error.to_string())
        }
    });
    let run = Run::start(&declared.1.body, Arc::default(), [true, false], |_| ()).unwrap();
    waited.recv_timeout(PATIENCE).unwrap();
    assert_eq!(run.wait_ready(|| false), Err(NotReady::Abandoned));
    word.send(true).unwrap();
    assert_eq!(run.wait_ready(|| true), Ok(()));
}

#[test]
fn a_server_that_ends_although_nobody_asked_it_to_is_a_lost_worker() {
    for (error, reason) in [(None, Ok(())), (Some("disk full"), Err("disk full".to_owned()))] {
        let (word, told) = tokio::sync::watch::channel(false);
        let server = Server::new("ends", "1");
        let declared = server.declare(move |_| {
            let mut told = told.clone();
            async move {
                let _ = told.wait_for(|told| *told).await;
                error.map_or(Ok(()), Err)
            }
        });
        let (lost_to, lost) = mpsc::channel();
        let run = Run::start(&declared.1.body, Arc::default(), [false, false], move |result| {
            lost_to.send(result).unwrap();
        })
        .unwrap();
        assert_eq!(run.wait_ready(|| true), Ok(()));
        word.send(true).unwrap();
        assert_eq!(lost.recv_timeout(PATIENCE).unwrap(), reason);
    }
}

#[test]
fn what_is_declared_twice_is_refused() {
    let mut server = Server::new("twice", "1");
    server.listener("web", "127.0.0.1:0").listener("web", "127.0.0.1:0");
    let _one = server.reloadable("value", |_| Ok::<_, io::Error>(1));
    let _two = server.reloadable("value", |_| Ok::<_, io::Error>(2));
    server.action("do", |_| Ok(String::new())).action("do", |_| Ok(String::new()));
    let problems = prepare(&Hosted::new(server.declare(until_drained).1), Path::new("/")).err().unwrap();
    assert_eq!(problems.len(), 3, "{problems:?}");
}
