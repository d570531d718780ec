//! Copies that are real processes, and servers in this process that answer what no server should.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use handover_testkit::servers::any_program;

use super::*;

/// Time enough for what must come.
const LIMIT: Duration = Duration::from_secs(20);
/// Time for what must not come.
const SHORT: Duration = Duration::from_millis(400);

/// A process of the program that can do everything wrong; it ends with this.
struct Copy(Child);

impl Copy {
    /// It listens on its standard input.
    fn on(socket: impl Into<OwnedFd>, words: &[&str]) -> Self {
        let tests = std::env::current_exe().unwrap();
        let binary = tests.parent().and_then(|deps| deps.parent()).unwrap().join("handover");
        let command = any_program(binary.to_str().unwrap(), words);
        let mut started = Command::new(&command[0]);
        started.args(&command[1..]).stdin(socket.into()).stdout(Stdio::null());
        Copy(started.spawn().unwrap())
    }

    fn listening(socket: &TcpListener, words: &[&str]) -> Self {
        Self::on(socket.try_clone().unwrap(), &[words, &["inetd-wait"]].concat())
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn subject(pid: u32, place: Option<Place>) -> Subject {
    Subject {
        program: "web".to_owned(),
        number: 1,
        pid,
        processes: Processes::new(move || vec![pid]),
        place,
        spoken: None,
        setting: Setting::default(),
    }
}

/// A copy behind a socket that others may accept on, too.
fn sharing(pid: u32, address: SocketAddr) -> Subject {
    subject(pid, Some(Place { address: Address::Tcp(address), own: false }))
}

fn http() -> Ready {
    Ready::Http { path: "/health".to_owned(), host: "localhost".to_owned(), status: None, address: None }
}

fn tcp() -> Ready {
    Ready::Tcp { address: None }
}

fn bound() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn a_copy_that_answers_is_ready_and_the_proof_names_its_process() {
    let (socket, address) = bound();
    let copy = Copy::listening(&socket, &[]);
    let proof = prove(&sharing(copy.0.id(), address), &http(), LIMIT).await.unwrap();
    assert_eq!(proof.how, format!("answered 200 at {address} (process {})", copy.0.id()));
    assert!(!proof.by_time);
    let proof = prove(&sharing(copy.0.id(), address), &tcp(), LIMIT).await.unwrap();
    assert_eq!(proof.how, format!("accepted a connection at {address} (process {})", copy.0.id()));
}

#[tokio::test]
async fn what_the_old_copy_answers_on_the_same_socket_does_not_count() {
    let (socket, address) = bound();
    let old = Copy::listening(&socket, &[]);
    let new = Copy::on(socket, &["binds-nothing"]);
    for ready in [http(), tcp()] {
        // It does answer.
        prove(&sharing(old.0.id(), address), &ready, LIMIT).await.unwrap();
        let not = prove(&sharing(new.0.id(), address), &ready, SHORT).await.unwrap_err();
        assert!(matches!(not.finding, Finding::AnotherCopy { .. }), "{not}");
        assert!(not.to_string().contains("another copy answered"), "{not}");
    }
}

#[tokio::test]
async fn beside_an_old_copy_that_accepts_too_the_new_one_is_found() {
    let (socket, address) = bound();
    let old = Copy::listening(&socket, &[]);
    prove(&sharing(old.0.id(), address), &tcp(), LIMIT).await.unwrap();
    let new = Copy::listening(&socket, &["starts-slowly", "200"]);
    for ready in [http(), tcp()] {
        let proof = prove(&sharing(new.0.id(), address), &ready, LIMIT).await.unwrap();
        assert!(proof.how.ends_with(&format!("(process {})", new.0.id())), "{}", proof.how);
    }
}

#[tokio::test]
async fn where_nobody_listens_or_nobody_accepts_that_is_what_is_said() {
    let (socket, address) = bound();
    let subject = sharing(std::process::id(), address);
    let not = prove(&subject, &tcp(), SHORT).await.unwrap_err();
    assert_eq!(not.finding.to_string(), format!("nobody accepted a connection at {address}"));
    let not = prove(&subject, &http(), SHORT).await.unwrap_err();
    assert!(matches!(not.finding, Finding::NoAnswer { .. } | Finding::NobodyAccepted { .. }), "{not}");
    drop(socket);
    for ready in [http(), tcp()] {
        let not = prove(&subject, &ready, SHORT).await.unwrap_err();
        assert_eq!(not.finding.to_string(), format!("connection refused at {address}"));
        assert_eq!(not.to_string(), format!("not ready within 400ms: connection refused at {address}"));
    }
}

#[tokio::test]
async fn a_status_that_is_not_wanted_is_told() {
    let (socket, address) = bound();
    let copy = Copy::listening(&socket, &["answers-500"]);
    let subject = sharing(copy.0.id(), address);
    // First until it answers at all.
    let wanted = |status| Ready::Http {
        path: "/health".to_owned(),
        host: "localhost".to_owned(),
        status: Some(status),
        address: None,
    };
    prove(&subject, &wanted(500), LIMIT).await.unwrap();
    let not = prove(&subject, &http(), SHORT).await.unwrap_err();
    assert_eq!(not.finding.to_string(), "answered 500 to GET /health");
    let not = prove(&subject, &wanted(204), SHORT).await.unwrap_err();
    assert_eq!(not.finding.to_string(), "answered 500 to GET /health, 204 is wanted");
}

#[tokio::test]
async fn over_unix_sockets_it_is_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let address = Address::Unix { path, mode: 0o600 };
    let own = Place { address: address.clone(), own: true };
    // A socket of its own: but nobody accepts yet.
    let idle = Copy::on(socket.try_clone().unwrap(), &["binds-nothing"]);
    let not = prove(&subject(idle.0.id(), Some(own.clone())), &tcp(), SHORT).await.unwrap_err();
    assert!(matches!(not.finding, Finding::NobodyAccepted { .. }), "{not}");
    let old = Copy::on(socket.try_clone().unwrap(), &["inetd-wait"]);
    let shared = Place { address, own: false };
    for ready in [http(), tcp()] {
        let proof = prove(&subject(old.0.id(), Some(shared.clone())), &ready, LIMIT).await.unwrap();
        assert!(proof.how.ends_with(&format!("(process {})", old.0.id())), "{}", proof.how);
        prove(&subject(old.0.id(), Some(own.clone())), &ready, LIMIT).await.unwrap();
        let not = prove(&subject(idle.0.id(), Some(shared.clone())), &ready, SHORT).await.unwrap_err();
        assert!(matches!(not.finding, Finding::AnotherCopy { .. }), "{not}");
    }
    let new = Copy::on(socket, &["inetd-wait"]);
    prove(&subject(new.0.id(), Some(shared)), &http(), LIMIT).await.unwrap();
}

/// A server in this process, which does this with each connection.
fn server(answer: impl Fn(&mut TcpStream) + Send + 'static) -> SocketAddr {
    let (socket, address) = bound();
    std::thread::spawn(move || {
        while let Ok((mut connection, _)) = socket.accept() {
            answer(&mut connection);
        }
    });
    address
}

async fn finding_of(answer: impl Fn(&mut TcpStream) + Send + 'static) -> String {
    let subject = sharing(std::process::id(), server(answer));
    prove(&subject, &http(), SHORT).await.unwrap_err().finding.to_string()
}

/// Reads a request, as far as it is there.
fn hear(connection: &mut TcpStream) {
    let _ = connection.read(&mut [0; 4096]);
}

#[tokio::test]
async fn what_is_no_answer_is_not_taken_for_one() {
    let said = finding_of(|connection| {
        hear(connection);
        let _ = connection.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
    })
    .await;
    assert!(said.starts_with("no HTTP answer from"), "{said}");
    let said = finding_of(hear).await;
    assert!(said.ends_with("it closed the connection without a whole answer"), "{said}");
    let said = finding_of(|connection| {
        hear(connection);
        // A head without an end.
        let _ = connection.write_all(b"HTTP/1.1 200 OK\r\n");
        while connection.write_all(&[b'x'; 4096]).is_ok() {}
    })
    .await;
    assert!(said.starts_with("no HTTP answer from"), "{said}");
}

#[tokio::test]
async fn an_answer_without_an_end_is_read_as_far_as_it_matters() {
    let address = server(|connection| {
        hear(connection);
        let _ = connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while connection.write_all(&[b'x'; 4096]).is_ok() {}
    });
    prove(&sharing(std::process::id(), address), &http(), LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_is_closed_at_once_is_nobodys_proof() {
    let address = server(|_| {});
    let not = prove(&sharing(std::process::id(), address), &tcp(), SHORT).await;
    // It may have been seen while it was open, which is a proof; if not, that is said.
    if let Err(not) = not {
        assert!(matches!(not.finding, Finding::ClosedAtOnce { .. }), "{not}");
    }
}

#[tokio::test]
async fn notify_waits_until_it_is_said_and_tells_what_was_said_instead() {
    let (sender, receiver) = watch::channel(Spoken::default());
    let subject = Subject { spoken: Some(receiver), ..subject(1, None) };
    sender.send_modify(|spoken| spoken.hear(["STATUS=reading 2 of 3 indexes"], 0));
    let not = prove(&subject, &Ready::Notify, SHORT).await.unwrap_err();
    let wanted = "it has not said READY=1; the last it said is \"reading 2 of 3 indexes\"";
    assert_eq!(not.finding.to_string(), wanted);
    let says = async {
        tokio::task::yield_now().await;
        sender.send_modify(|spoken| spoken.hear(["READY=1"], 0));
    };
    let (proof, ()) = tokio::join!(prove(&subject, &Ready::Notify, LIMIT), says);
    assert_eq!(proof.unwrap().how, "said READY=1");
    let without = Subject { spoken: None, ..subject };
    assert!(matches!(
        prove(&without, &Ready::Notify, LIMIT).await.unwrap_err().finding,
        Finding::Impossible(_)
    ));
}

#[tokio::test]
async fn time_alone_is_named_as_such() {
    let proof = prove(&subject(1, None), &Ready::After(Duration::from_millis(20)), LIMIT).await.unwrap();
    assert_eq!((proof.how.as_str(), proof.by_time), ("alive for 20ms; nothing else was checked", true));
    let not = prove(&subject(1, None), &Ready::After(LIMIT), SHORT).await.unwrap_err();
    assert!(matches!(not.finding, Finding::Impossible(_)), "{not}");
    let not = prove(&subject(1, None), &http(), LIMIT).await.unwrap_err();
    assert_eq!(not.finding, Finding::Impossible("it has no address at which it could be asked"));
}

fn check(script: &str) -> Ready {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    Ready::Command(CommandSpec { command, limit: LIMIT })
}

#[tokio::test]
async fn a_command_is_run_again_until_it_exits_with_0_and_is_told_whom_to_check() {
    let directory = tempfile::tempdir().unwrap();
    let marks: PathBuf = directory.path().join("marks");
    let script = format!(
        "echo x >>{0}; test $(wc -l <{0}) -ge 3 || exit 1; echo $HANDOVER_PROGRAM $HANDOVER_COPY $HANDOVER_PID $HANDOVER_ADDRESS",
        marks.display()
    );
    let (_socket, address) = bound();
    let proof = prove(&sharing(77, address), &check(&script), LIMIT).await.unwrap();
    assert_eq!(proof.how, format!("the check command exited with 0: web 1 77 {address}"));
    assert_eq!(std::fs::read_to_string(&marks).unwrap(), "x\nx\nx\n");
    let not =
        prove(&subject(1, None), &check("echo the queue is empty; exit 7"), LIMIT / 40).await.unwrap_err();
    assert_eq!(not.finding.to_string(), "'sh' exited with code 7: the queue is empty");
    let not = prove(&subject(1, None), &check("cat /dev/zero >/dev/null"), SHORT).await.unwrap_err();
    assert!(not.finding.to_string().contains("did not end within"), "{not}");
}
