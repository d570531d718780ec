//! Certificates change while connections live: nobody is lost, and nobody sees half of anything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{Plane, WEB as PLAIN};
use handover::Service as _;
use handover_testkit::websocket::WebSocket;
use handover_testkit::{Authority, DEADLINE, TlsClient, Workspace};

const WEB: &str = "[listeners.web]\naddress = \"127.0.0.1:0\"\n\
                   [listeners.web.tls]\ncertificate = \"a.pem\"\nkey = \"a.key\"\n\n";
const HELLO: &str = "[[routes]]\nfixed = \"hello\"\n";

fn config() -> String {
    [WEB, HELLO].concat()
}

fn serve(root: &Authority, threads: usize) -> (Plane, u64) {
    let workspace = Workspace::new();
    let pair = root.pair(&["a.test"]);
    pair.write(&workspace, "a");
    (Plane::serve_in(workspace, threads, &config()), pair.serial)
}

#[test]
fn a_renewed_certificate_is_served_and_connections_stay() {
    let root = Authority::new("root");
    let (mut plane, first) = serve(&root, 2);
    let client = TlsClient::trusting(root.pem(), "a.test");
    let mut before = client.connect(plane.address("web"));
    assert_eq!(before.served.serial, first);
    let renewed = root.pair(&["a.test"]);
    renewed.write(&plane.workspace, "a");
    let candidate = plane.prepare(&config()).unwrap();
    let changes = candidate.changes();
    assert!(changes.iter().any(|change| change.name == "a.test"), "{changes:?}");
    assert_eq!(client.serial(plane.address("web")), first, "nothing serves before the commit");
    candidate.commit();
    assert_eq!(client.serial(plane.address("web")), renewed.serial);
    assert_eq!(before.connection.get("/").expect(200).text(), "hello");
    let certificates = plane.service.certificates();
    assert!(certificates.contains("\"listeners\":[\"web\"]"), "{certificates}");
    let metrics = plane.service.metrics();
    assert!(
        metrics.contains("handover_certificate_not_after_seconds{name=\"a.test\",used_by=\"web\""),
        "{metrics}"
    );
}

#[test]
fn a_pair_that_does_not_fit_together_is_refused_and_the_old_one_goes_on() {
    let root = Authority::new("root");
    let (mut plane, first) = serve(&root, 1);
    let client = TlsClient::trusting(root.pem(), "a.test");
    let other = root.pair(&["a.test"]);
    for half in [false, true] {
        if half {
            other.write_key(&plane.workspace, "a")
        } else {
            other.write_certificate(&plane.workspace, "a")
        }
        let result = plane.load(&config());
        if half {
            result.unwrap();
            assert_eq!(client.serial(plane.address("web")), other.serial);
        } else {
            assert!(!result.unwrap_err().is_empty());
            assert_eq!(client.serial(plane.address("web")), first);
        }
    }
}

#[test]
fn sessions_are_resumed_across_reloads_with_other_certificates() {
    let root = Authority::new("root");
    let (mut plane, _) = serve(&root, 2);
    for client in [
        TlsClient::trusting(root.pem(), "a.test").only_tls13().remembering(),
        TlsClient::trusting(root.pem(), "a.test").only_tls12().remembering(),
    ] {
        let (served, _) = client.get(plane.address("web"), "/");
        assert!(!served.resumed);
        for _ in 0..3 {
            root.pair(&["a.test"]).write(&plane.workspace, "a");
            plane.load(&config()).unwrap();
            let (served, response) = client.get(plane.address("web"), "/");
            assert!(served.resumed);
            assert_eq!(response.expect(200).text(), "hello");
        }
    }
    assert!(plane.service.metrics().contains("version=\"TLSv1.3\",resumed=\"yes\"} 3\n"));
}

#[test]
fn a_handshake_that_began_before_a_reload_ends_after_it() {
    let root = Authority::new("root");
    let (mut plane, _) = serve(&root, 1);
    let client = TlsClient::trusting(root.pem(), "a.test");
    let mut begun: Vec<TcpStream> =
        (0..5).map(|_| TcpStream::connect(plane.address("web")).unwrap()).collect();
    handover_testkit::until("all of them to be accepted", || {
        (plane.metric("handover_open_connections{kind=\"tls_handshake\"}") == 5).then_some(())
    });
    let hello = client.hello();
    begun[0].write_all(&hello[..100]).unwrap();
    root.pair(&["a.test"]).write(&plane.workspace, "a");
    plane.load(&config()).unwrap();
    // One goes on where it was, and is answered; the others begin now.
    begun[0].write_all(&hello[100..]).unwrap();
    begun[0].set_read_timeout(Some(DEADLINE)).unwrap();
    let mut header = [0; 5];
    std::io::Read::read_exact(&mut begun[0], &mut header).unwrap();
    assert_eq!(header[0], 22, "a handshake record, not an alert");
    for stream in begun.drain(1..) {
        let mut connection = client.handshake(stream).unwrap().connection;
        assert_eq!(connection.get("/").expect(200).text(), "hello");
    }
}

#[test]
fn who_was_silent_during_a_reload_is_shown_the_new_certificate() {
    let root = Authority::new("root");
    let (mut plane, old) = serve(&root, 2);
    let client = TlsClient::trusting(root.pem(), "a.test");
    let silent: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(plane.address("web")).unwrap()).collect();
    handover_testkit::until("all of them to be accepted", || {
        (plane.metric("handover_open_connections{kind=\"tls_handshake\"}") == 4).then_some(())
    });
    let renewed = root.pair(&["a.test"]);
    renewed.write(&plane.workspace, "a");
    plane.load(&config()).unwrap();
    for stream in silent {
        let shown = client.handshake(stream).unwrap().served.serial;
        assert_eq!(shown, renewed.serial, "and not {old}");
    }
}

#[test]
fn reloads_under_handshakes_and_requests_lose_none() {
    let root = Authority::new("root");
    let (mut plane, _) = serve(&root, 2);
    let (ended, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (address, client) = (plane.address("web"), TlsClient::trusting(root.pem(), "a.test"));
    let mut socket = client.connect(address).connection;
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (client, ended, count) = (client.clone(), Arc::clone(&ended), Arc::clone(&count));
            std::thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    let mut connection = client.connect(address).connection;
                    for _ in 0..3 {
                        assert_eq!(connection.get("/").expect(200).text(), "hello");
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..40 {
        root.pair(&["a.test"]).write(&plane.workspace, "a");
        plane.load(&config()).unwrap();
        assert_eq!(socket.get("/").expect(200).text(), "hello");
    }
    ended.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(count.load(Ordering::Relaxed) > 3);
    let figures = plane.service.figures().unwrap();
    assert_eq!((figures.handshake_failures, figures.errors_5xx), (0, 0));
}

#[test]
fn a_listener_turns_from_plain_to_tls_and_back_on_the_same_socket() {
    let root = Authority::new("root");
    let workspace = Workspace::new();
    root.pair(&["a.test"]).write(&workspace, "a");
    let plain = [PLAIN, HELLO].concat();
    let mut plane = Plane::serve_in(workspace, 2, &plain);
    let address = plane.address("web");
    let client = TlsClient::trusting(root.pem(), "a.test");
    let mut old = plane.connect("web");
    assert_eq!(old.get("/").expect(200).text(), "hello");
    plane.load(&config()).unwrap();
    assert_eq!(plane.address("web"), address);
    let mut new = client.connect(address).connection;
    assert_eq!(new.get("/").expect(200).text(), "hello");
    // What was plain ends after its response, or by itself.
    let last = old.get("/").expect(200);
    assert_eq!(last.header("connection"), Some("close"));
    old.expect_end();
    plane.load(&plain).unwrap();
    assert_eq!(plane.connect("web").get("/").expect(200).text(), "hello");
    let last = new.get("/").expect(200);
    assert_eq!(last.header("connection"), Some("close"));
    new.expect_end();
}

#[test]
fn other_rules_for_certificates_of_clients_end_connections_that_were_let_in_under_the_old_ones() {
    let root = Authority::new("root");
    let (mut plane, _) = serve(&root, 1);
    std::fs::write(plane.workspace.path("clients.pem"), root.pem()).unwrap();
    let client = TlsClient::trusting(root.pem(), "a.test");
    let mut old = client.connect(plane.address("web")).connection;
    assert_eq!(old.get("/").expect(200).text(), "hello");
    let strict = format!("{WEB}client_certificates = \"required\"\nclient_ca = \"clients.pem\"\n\n{HELLO}");
    plane.load(&strict.replace("key = \"a.key\"\n\n", "key = \"a.key\"\n")).unwrap();
    let last = old.get("/").expect(200);
    assert_eq!(last.header("connection"), Some("close"));
    assert!(client.try_get(plane.address("web"), "/").is_err());
}

#[test]
fn a_drain_lets_connections_over_tls_end_in_order() {
    let root = Authority::new("root");
    let (plane, _) = serve(&root, 2);
    let client = TlsClient::trusting(root.pem(), "a.test");
    let mut idle = client.connect(plane.address("web")).connection;
    assert_eq!(idle.get("/").expect(200).text(), "hello");
    let (_, drained) = plane.drain(DEADLINE);
    idle.expect_end();
    let losses = drained.join().unwrap();
    assert!(losses.is_empty(), "{losses:?}");
}

#[test]
fn websockets_outlive_the_certificate_under_which_they_began() {
    let root = Authority::new("root");
    let origin = handover_testkit::origin::Origin::start("one");
    let workspace = Workspace::new();
    root.pair(&["a.test"]).write(&workspace, "a");
    let config = [WEB, &common::to_endpoints(&[origin.address()], "")].concat();
    let mut plane = Plane::serve_in(workspace, 1, &config);
    let client = TlsClient::trusting(root.pem(), "a.test");
    let mut socket = WebSocket::upgrade(client.connect(plane.address("web")).connection, "/ws");
    for _ in 0..5 {
        socket.echo("still here");
        root.pair(&["a.test"]).write(&plane.workspace, "a");
        plane.load(&config).unwrap();
    }
    socket.echo("and here");
}
