//! Real connections of this very process, and of others.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use super::*;

fn own() -> Vec<u32> {
    vec![std::process::id()]
}

fn pair(at: &str) -> (TcpListener, TcpStream) {
    let listener = TcpListener::bind(at).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener, near)
}

fn end_of(near: &TcpStream) -> FarEnd {
    far_end_tcp(near.local_addr().unwrap(), near.peer_addr().unwrap()).unwrap()
}

fn unix_end(near: &UnixStream) -> FarEnd {
    far_end_unix(rustix::fs::fstat(near).unwrap().st_ino).unwrap()
}

#[test]
fn a_connection_is_nobodys_until_it_is_accepted_and_then_his_who_accepted_it() {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        let (listener, near) = pair(at);
        assert_eq!(end_of(&near), FarEnd::Waiting, "{at}");
        let (far, _) = listener.accept().unwrap();
        let FarEnd::Accepted(inode) = end_of(&near) else { panic!("accepted, but {:?}", end_of(&near)) };
        assert_eq!(holder(&own(), inode).unwrap(), Some(std::process::id()));
        let (mut other, keep) = holding(Stdio::null());
        assert_eq!(holder(&[other.id()], inode).unwrap(), None, "another process has not accepted it");
        drop(keep);
        other.wait().unwrap();
        drop(far);
        assert_eq!(end_of(&near), FarEnd::Gone);
    }
}

#[test]
fn a_connection_over_ipv4_to_a_socket_for_both_families_is_found() {
    let Ok(listener) = TcpListener::bind("[::]:0") else { return };
    let port = listener.local_addr().unwrap().port();
    let near = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let _far = listener.accept().unwrap();
    let FarEnd::Accepted(inode) = end_of(&near) else { panic!("accepted, but {:?}", end_of(&near)) };
    assert_eq!(holder(&own(), inode).unwrap(), Some(std::process::id()));
    assert!(is_tcp_at(&Address::Tcp(listener.local_addr().unwrap()), near.peer_addr().unwrap()));
}

#[test]
fn over_a_unix_socket_the_far_end_is_found_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a socket");
    let listener = UnixListener::bind(&path).unwrap();
    let near = UnixStream::connect(&path).unwrap();
    let place = Address::Unix { path, mode: 0o600 };
    assert_eq!(unix_end(&near), FarEnd::Waiting);
    assert_eq!(has_accepted_at(&own(), &place).unwrap(), None);
    let (far, _) = listener.accept().unwrap();
    let FarEnd::Accepted(inode) = unix_end(&near) else { panic!("not accepted") };
    assert_eq!(holder(&own(), inode).unwrap(), Some(std::process::id()));
    assert_eq!(has_accepted_at(&own(), &place).unwrap(), Some(std::process::id()));
    drop(far);
    assert_eq!(unix_end(&near), FarEnd::Gone);
}

/// Another process, which holds the connection `stream` as its standard input until this is dropped.
fn holding(stream: impl Into<Stdio>) -> (std::process::Child, io::PipeWriter) {
    let (until, keep) = io::pipe().unwrap();
    // It reads a pipe, which is its standard error for want of another descriptor, and ends when the other end is closed.
    let mut command = Command::new("sh");
    command.args(["-c", "read line <&2 || true"]).stdin(stream).stdout(Stdio::null()).stderr(until);
    (command.spawn().unwrap(), keep)
}

#[tokio::test]
async fn what_another_process_has_accepted_is_counted_as_its_own_and_once() {
    let (listener, near) = pair("127.0.0.1:0");
    let (outgoing, _outgoing_near) = pair("127.0.0.1:0");
    let place = Address::Tcp(listener.local_addr().unwrap());
    let (far, _) = listener.accept().unwrap();
    let (mut child, keep) = holding(std::os::fd::OwnedFd::from(far));
    let wanted = Wanted { processes: vec![child.id()], places: vec![place.clone()] };
    let nobody = Wanted { processes: Vec::new(), places: vec![place.clone()] };
    let surveys = survey(vec![wanted, nobody]).await.unwrap();
    assert_eq!((surveys[0].established, surveys[0].accepted), (1, 1));
    assert_eq!(surveys[0].listed[0].pid, child.id());
    assert_eq!(surveys[0].listed[0].peer, Some(near.local_addr().unwrap().to_string()));
    assert_eq!(surveys[1], Survey::default());
    assert_eq!(established_on(vec![place]).await.unwrap(), 1);
    let elsewhere = Address::Tcp(outgoing.local_addr().unwrap());
    // It waits in the queue: that is a connection, too.
    assert_eq!(established_on(vec![elsewhere]).await.unwrap(), 1);
    drop(keep);
    child.wait().unwrap();
}

#[tokio::test]
async fn a_process_that_has_ended_has_no_connections() {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let wanted = Wanted { processes: vec![child.id()], places: Vec::new() };
    assert_eq!(survey(vec![wanted]).await.unwrap(), [Survey::default()]);
    assert_eq!(holder(&[child.id()], 1).unwrap(), None);
}

#[test]
fn a_connection_that_was_half_closed_by_its_client_still_counts() {
    let (listener, mut near) = pair("127.0.0.1:0");
    let (mut far, _) = listener.accept().unwrap();
    near.write_all(b"question").unwrap();
    near.shutdown(std::net::Shutdown::Write).unwrap();
    let mut question = String::new();
    far.read_to_string(&mut question).unwrap();
    assert_eq!(question, "question");
    let place = Address::Tcp(listener.local_addr().unwrap());
    assert_eq!(has_accepted_at(&own(), &place).unwrap(), Some(std::process::id()));
}
