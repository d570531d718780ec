//! How connections over TLS end: what was cut short is never said to be whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;

use common::{Plane, to_endpoints};
use handover_testkit::http::Connection;
use handover_testkit::tls::origin_config;
use handover_testkit::{Authority, DEADLINE, TlsClient, Workspace};
use rustls::{ServerConnection, StreamOwned};

const PAIR: &str = "certificate = \"a.pem\"\nkey = \"a.key\"\n\n";

/// A listener over TLS with these settings before its own, whose connections go to an endpoint.
fn serve(listener: &str, endpoint: &TcpListener, service: &str) -> (Authority, Plane) {
    let root = Authority::new("root");
    let workspace = Workspace::new();
    root.pair(&["a.test"]).write(&workspace, "a");
    std::fs::write(workspace.path("ca.pem"), root.pem()).unwrap();
    let endpoint = endpoint.local_addr().unwrap();
    let listener = format!("{listener}address = \"127.0.0.1:0\"\n[listeners.front.tls]\n{PAIR}");
    let plane = Plane::serve_in(
        workspace,
        1,
        &[listener, service.replace("ENDPOINT", &endpoint.to_string())].concat(),
    );
    (root, plane)
}

const TUNNEL: &str = "[listeners.front]\nprotocol = \"tcp\"\nservice = \"app\"\n";
const APP: &str = "[services.app]\nendpoints = \"ENDPOINT\"\n";
const SECURE_APP: &str = "[services.app]\nendpoints = \"ENDPOINT\"\n[services.app.tls]\nca = \"ca.pem\"\nserver_name = \"a.test\"\n";

fn connect(root: &Authority, plane: &Plane) -> Connection {
    TlsClient::trusting(root.pem(), "a.test").connect(plane.address("front")).connection
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// An endpoint's side over TLS.
fn accept_tls(listener: &TcpListener, root: &Authority) -> StreamOwned<ServerConnection, TcpStream> {
    let config = origin_config(&root.pair(&["a.test"]), None);
    StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), accept(listener))
}

#[test]
fn a_client_is_not_told_that_a_tunnel_is_whole_whose_endpoint_broke_off() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (root, plane) = serve(TUNNEL, &listener, SECURE_APP);
    let mut connection = connect(&root, &plane);
    let mut endpoint = accept_tls(&listener, &root);
    endpoint.write_all(b"half of an answer").unwrap();
    assert_eq!(connection.exactly(17), b"half of an answer");
    // As somebody on the way could do it: without a close_notify.
    endpoint.sock.shutdown(Shutdown::Both).unwrap();
    let error = connection.try_rest().expect_err("a truncation");
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
    plane.wait_until_idle();
    assert_eq!(plane.metric("handover_closed_connections_total{why=\"upstream_cut\"}"), 1);
}

#[test]
fn an_endpoint_is_not_told_that_a_tunnel_is_whole_whose_client_broke_off() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (root, plane) = serve(TUNNEL, &listener, SECURE_APP);
    let mut connection = connect(&root, &plane);
    let mut endpoint = accept_tls(&listener, &root);
    connection.send("half of a quest");
    endpoint.read_exact(&mut [0; 15]).unwrap();
    connection.cut(Shutdown::Write);
    let error = endpoint.read_to_end(&mut Vec::new()).expect_err("a truncation");
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
}

#[test]
fn a_response_without_a_length_that_was_cut_short_is_not_said_to_be_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = to_endpoints(&[listener.local_addr().unwrap()], "")
        + "[services.app.tls]\nca = \"ca.pem\"\nserver_name = \"a.test\"\n";
    let (root, plane) = serve("[listeners.front]\n", &listener, &service);
    for whole in [true, false] {
        let mut connection = connect(&root, &plane);
        connection.send("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n");
        let mut endpoint = accept_tls(&listener, &root);
        endpoint.read_exact(&mut [0; 20]).unwrap();
        endpoint.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nthe body").unwrap();
        if whole {
            endpoint.conn.send_close_notify();
        }
        endpoint.flush().unwrap();
        endpoint.sock.shutdown(Shutdown::Write).unwrap();
        match connection.try_rest() {
            Ok(response) => assert!(whole && response.ends_with(b"\r\n\r\nthe body")),
            Err(error) => assert!(!whole && error.kind() == ErrorKind::UnexpectedEof, "{error}"),
        }
    }
}

#[test]
fn a_tunnel_whose_both_ends_have_ended_is_said_to_be_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (root, plane) = serve(TUNNEL, &listener, APP);
    let mut connection = connect(&root, &plane);
    let mut endpoint = accept(&listener);
    endpoint.write_all(b"all of it").unwrap();
    drop(endpoint);
    assert_eq!(connection.try_rest().unwrap(), b"all of it");
}
