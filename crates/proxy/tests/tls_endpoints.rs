//! Endpoints over TLS: who is believed, what is said where nobody is, and what is kept.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};

use common::{Plane, WEB};
use handover::Service as _;
use handover_testkit::http::Connection;
use handover_testkit::origin::Origin;
use handover_testkit::pattern;
use handover_testkit::tls::origin_config;
use handover_testkit::websocket::WebSocket;
use handover_testkit::{Authority, Workspace};

/// Everything goes to these endpoints over TLS, with these settings.
fn service(endpoints: &[SocketAddr], settings: &str) -> String {
    let all: Vec<_> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    let all = all.join(", ");
    format!(
        "[services.app]\nendpoints = [{all}]\n[services.app.tls]\n{settings}\n\n[[routes]]\nservice = \"app\"\n\n"
    )
}

const TRUSTING: &str = "ca = \"ca.pem\"\nserver_name = \"app.internal\"";

/// A proxy whose workspace has the authority's certificate.
fn serve(root: &Authority, config: &str) -> Plane {
    let workspace = Workspace::new();
    std::fs::write(workspace.path("ca.pem"), root.pem()).unwrap();
    Plane::serve_in(workspace, 1, config)
}

fn origin(root: &Authority, names: &[&str]) -> Origin {
    Origin::tls("one", origin_config(&root.pair(names), None))
}

#[test]
fn requests_go_to_an_endpoint_that_proves_its_name_and_its_connection_is_kept() {
    let root = Authority::new("root");
    let origin = origin(&root, &["app.internal"]);
    let plane = serve(&root, &[WEB, &service(&[origin.address()], TRUSTING)].concat());
    let mut client = plane.connect("web");
    for _ in 0..10 {
        assert_eq!(client.get("/").expect(200).text(), "one\n");
    }
    let requests = origin.requests();
    let tls = requests[0].tls.as_ref().unwrap();
    assert_eq!((tls.name.as_deref(), tls.alpn.as_deref()), (Some("app.internal"), Some("http/1.1")));
    assert_eq!(origin.connections(), 1);
    assert_eq!(plane.metric("handover_service_tls_handshakes_total{service=\"app\"}"), 1);
    assert_eq!(plane.metric("handover_service_reused_connections_total{service=\"app\"}"), 9);
    let body = pattern::bytes(3_000_000);
    assert!(client.request("POST", "/echo", &[], &body).expect(200).body == body);
    assert!(client.get("/bytes/3000000").expect(200).body == body);
    assert!(client.get("/chunked/300000").expect(200).body == body[..300_000]);
    assert!(client.get("/stream/300000").expect(200).body == body[..300_000]);
    WebSocket::upgrade(plane.connect("web"), "/ws").echo("through TLS");
}

#[test]
fn an_endpoint_that_is_somebody_else_gets_no_request_and_the_reason_is_told() {
    let root = Authority::new("root");
    let other = origin(&root, &["other.internal"]);
    let unknown = origin(&Authority::new("somebody else"), &["app.internal"]);
    let expired = Origin::tls("one", origin_config(&root.leaf(&["app.internal"]).expired().make(), None));
    for (origin, settings, status) in [
        (&other, TRUSTING, 502),
        (&unknown, TRUSTING, 502),
        (&expired, TRUSTING, 502),
        (&other, "ca = \"ca.pem\"\nserver_name = \"other.internal\"", 200),
        (&unknown, "verify = false", 200),
        (&expired, "verify = false", 200),
    ] {
        let plane = serve(&root, &[WEB, &service(&[origin.address()], settings)].concat());
        let before = origin.requests().len();
        let response = plane.connect("web").get("/");
        assert_eq!(response.status(), status, "{settings}: {}", response.text());
        let failures = plane.metric("handover_service_tls_handshake_failures_total{service=\"app\"}");
        let connects = plane.metric("handover_service_connect_failures_total{service=\"app\"}");
        if status == 502 {
            assert!(response.text().contains("TLS"), "{}", response.text());
            assert_eq!(origin.requests().len(), before);
            assert!(failures >= 1 && connects == failures, "{failures} and {connects}");
        } else {
            assert_eq!((failures, connects), (0, 0));
        }
    }
}

#[test]
fn an_endpoint_that_fails_its_handshake_is_passed_over() {
    let root = Authority::new("root");
    let (good, bad) = (origin(&root, &["app.internal"]), origin(&root, &["other.internal"]));
    let plain = Origin::start("plain");
    let endpoints = [bad.address(), plain.address(), good.address()];
    let plane = serve(&root, &[WEB, &service(&endpoints, TRUSTING)].concat());
    for _ in 0..10 {
        assert_eq!(plane.connect("web").get("/").expect(200).text(), "one\n");
    }
    assert_eq!(bad.requests().len(), 0);
}

#[test]
fn an_endpoint_that_says_nothing_hits_the_time_limit_and_that_is_shown() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let root = Authority::new("root");
    let service = service(&[silent.local_addr().unwrap()], TRUSTING)
        .replace("[services.app.tls]", "connect_timeout = \"1s\"\n[services.app.tls]");
    let plane = serve(&root, &[WEB, &service].concat());
    let mut client = plane.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let shown = handover_testkit::until("a second attempt", || {
        let shown = plane.service.connections();
        shown.contains("did not end in time").then_some(shown)
    });
    assert!(shown.contains("\"state\":\"connecting\""), "{shown}");
    let response = client.response("GET");
    assert!([502, 504].contains(&response.status()), "{}", response.text());
}

#[test]
fn our_own_certificate_is_shown_to_endpoints_that_ask() {
    let root = Authority::new("root");
    let origin = Origin::tls("one", origin_config(&root.pair(&["app.internal"]), Some(root.pem())));
    let workspace = Workspace::new();
    std::fs::write(workspace.path("ca.pem"), root.pem()).unwrap();
    let me = root.leaf(&["proxy"]).client().make();
    me.write(&workspace, "me");
    let with = format!("{TRUSTING}\ncertificate = \"me.pem\"\nkey = \"me.key\"");
    let config = [WEB, &service(&[origin.address()], &with)].concat();
    let mut plane = Plane::serve_in(workspace, 1, &config);
    assert_eq!(plane.connect("web").get("/").expect(200).text(), "one\n");
    assert_eq!(origin.requests()[0].tls.as_ref().unwrap().serial, Some(me.serial));
    let certificates = plane.service.certificates();
    assert!(certificates.contains("\"services\":[\"app\"]"), "{certificates}");
    // Without it: refused, after our side of the handshake was done.
    plane.load(&[WEB, &service(&[origin.address()], TRUSTING)].concat()).unwrap();
    let _ = plane.connect("web").get("/").expect(502);
}

#[test]
fn kept_connections_are_not_used_under_other_settings() {
    let root = Authority::new("root");
    let origin = origin(&root, &["app.internal", "alias.internal"]);
    let mut plane = serve(&root, &[WEB, &service(&[origin.address()], TRUSTING)].concat());
    let mut client = plane.connect("web");
    let _ = client.get("/").expect(200);
    // The same settings, in another generation.
    plane
        .load(
            &[WEB, &service(&[origin.address()], TRUSTING), "[[routes]]\npath = \"/x\"\nfixed = \"x\"\n"]
                .concat(),
        )
        .unwrap();
    let _ = client.get("/").expect(200);
    assert_eq!(origin.connections(), 1);
    let alias = TRUSTING.replace("app.internal", "alias.internal");
    plane.load(&[WEB, &service(&[origin.address()], &alias)].concat()).unwrap();
    let _ = client.get("/").expect(200);
    assert_eq!(origin.connections(), 2);
    plane.load(&[WEB, &service(&[origin.address()], &format!("{alias}\nverify = false"))].concat()).unwrap();
    let _ = client.get("/").expect(200);
    assert_eq!(origin.connections(), 3);
    // An authority that is another one, in the same file.
    let both = [root.pem(), Authority::new("another").pem()].concat();
    std::fs::write(plane.workspace.path("ca.pem"), both).unwrap();
    plane.load(&[WEB, &service(&[origin.address()], &alias)].concat()).unwrap();
    let _ = client.get("/").expect(200);
    assert_eq!(origin.connections(), 4);
}

#[test]
fn a_response_until_the_end_that_is_cut_is_no_response() {
    let root = Authority::new("root");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let plane = serve(&root, &[WEB, &service(&[listener.local_addr().unwrap()], TRUSTING)].concat());
    let config = origin_config(&root.pair(&["app.internal"]), None);
    for orderly in [true, false] {
        let mut client = plane.connect("web");
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let (mut raw, _) = listener.accept().unwrap();
        let mut session = rustls::ServerConnection::new(config.clone()).unwrap();
        while session.is_handshaking() {
            session.complete_io(&mut raw).unwrap();
        }
        let mut stream = rustls::Stream::new(&mut session, &mut raw);
        let mut request = [0; 4];
        stream.read_exact(&mut request).unwrap();
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\n\r\nhalf").unwrap();
        if orderly {
            session.send_close_notify();
        }
        while session.wants_write() {
            session.write_tls(&mut raw).unwrap();
        }
        drop(raw);
        let head = client.head();
        assert_eq!(head.status, 200);
        match orderly {
            true => assert_eq!(client.try_chunked().unwrap().0, b"half"),
            false => assert!(client.try_chunked().is_err(), "half a body must not look whole"),
        }
    }
    let cut = "handover_closed_connections_total{why=\"upstream_cut\"}";
    handover_testkit::until("the end to be counted", || (plane.metric(cut) == 1).then_some(()));
}

#[test]
fn tunnels_put_tls_on() {
    let root = Authority::new("root");
    let origin = origin(&root, &["app.internal"]);
    let config = format!(
        "[listeners.raw]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nservice = \"app\"\n\n\
         [services.app]\nendpoints = \"{}\"\n[services.app.tls]\n{TRUSTING}\n",
        origin.address()
    );
    let plane = serve(&root, &config);
    let mut through = Connection::open(plane.address("raw"));
    for _ in 0..3 {
        assert_eq!(through.get("/").expect(200).text(), "one\n");
    }
    assert!(through.get("/bytes/1000000").expect(200).body == pattern::bytes(1_000_000));
    assert_eq!(origin.requests()[0].tls.as_ref().unwrap().alpn, None);
}
