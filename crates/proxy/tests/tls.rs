//! Clients over TLS: everything that holds for plain connections, and what only TLS has.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};

use common::{Plane, to_endpoints};
use handover::Service as _;
use handover_testkit::echo::Echo;
use handover_testkit::http::{Connection, Stream, request_bytes};
use handover_testkit::origin::Origin;
use handover_testkit::pattern;
use handover_testkit::websocket::WebSocket;
use handover_testkit::{Authority, DEADLINE, TlsClient, Workspace};

/// An HTTP listener named `web` over TLS.
const WEB: &str = "[listeners.web]\naddress = \"127.0.0.1:0\"\n\
                   [listeners.web.tls]\ncertificate = \"a.pem\"\nkey = \"a.key\"\n\n";

/// A listener over TLS, an origin behind it, and who vouches for both.
struct Scene {
    root: Authority,
    origin: Origin,
    plane: Plane,
}

impl Scene {
    fn new() -> Self {
        Self::with(1, WEB)
    }

    fn with(threads: usize, listeners: &str) -> Self {
        let root = Authority::new("root");
        let workspace = Workspace::new();
        root.pair(&["a.test"]).write(&workspace, "a");
        std::fs::write(workspace.path("clients.pem"), root.pem()).unwrap();
        let origin = Origin::start("one");
        let config = [listeners, &to_endpoints(&[origin.address()], "")].concat();
        let plane = Plane::serve_in(workspace, threads, &config);
        Self { root, origin, plane }
    }

    fn client(&self) -> TlsClient {
        TlsClient::trusting(self.root.pem(), "a.test")
    }

    fn connect(&self) -> Connection {
        self.client().connect(self.plane.address("web")).connection
    }
}

#[test]
fn requests_follow_each_other_on_one_connection_in_both_versions() {
    let scene = Scene::new();
    for (client, version) in
        [(scene.client().only_tls12(), "TLSv1.2"), (scene.client().only_tls13(), "TLSv1.3")]
    {
        let mut connection = client.connect(scene.plane.address("web")).connection;
        for _ in 0..5 {
            assert_eq!(connection.get("/").expect(200).text(), "one\n");
        }
        let metric =
            format!("handover_tls_handshakes_total{{listener=\"web\",version=\"{version}\",resumed=\"no\"}}");
        assert_eq!(scene.plane.metric(&metric), 1);
        connection.try_say_goodbye().unwrap();
        connection.expect_end();
    }
    let heads = scene.origin.requests();
    assert!(heads.iter().all(|request| request.header("x-forwarded-proto") == Some("https")));
    scene.plane.wait_until_idle();
    assert_eq!(scene.plane.service.buffer_bytes(), 0);
}

#[test]
fn requests_in_one_record_are_all_answered() {
    let scene = Scene::new();
    let mut connection = scene.connect();
    let get = request_bytes("GET", "/bytes/100", &[], b"");
    for count in [2, 7, 40] {
        connection.send(get.repeat(count));
        for _ in 0..count {
            assert_eq!(connection.response("GET").expect(200).body, pattern::bytes(100));
        }
    }
    // The end of one and the beginning of the next in one record.
    let (first, second) = get.split_at(20);
    connection.send([&*get, first].concat());
    assert_eq!(connection.response("GET").expect(200).body.len(), 100);
    connection.send([second, &*request_bytes("POST", "/echo", &[], b"body"), b"GET"].concat());
    assert_eq!(connection.response("GET").expect(200).body.len(), 100);
    assert_eq!(connection.response("POST").expect(200).text(), "body");
    connection.send(&get[3..]);
    assert_eq!(connection.response("GET").expect(200).body.len(), 100);
}

#[test]
fn a_request_that_comes_byte_by_byte_is_answered() {
    let scene = Scene::new();
    let TlsBytes { mut raw, mut session } = tls_bytes(&scene);
    session.writer().write_all(&request_bytes("POST", "/echo", &[], b"hello")).unwrap();
    let mut wire = Vec::new();
    session.write_tls(&mut wire).unwrap();
    for byte in wire {
        raw.write_all(&[byte]).unwrap();
    }
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        assert!(session.read_tls(&mut raw).unwrap() > 0);
        session.process_new_packets().unwrap();
        let _ = session.reader().read_to_end(&mut answer);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

/// A session and its socket, apart.
struct TlsBytes {
    raw: TcpStream,
    session: rustls::ClientConnection,
}

fn tls_bytes(scene: &Scene) -> TlsBytes {
    let (stream, _) = scene.connect().into_stream();
    let Stream::Tls(stream) = stream else { panic!("a connection over TLS") };
    let (session, raw) = stream.into_parts();
    raw.set_nodelay(true).unwrap();
    TlsBytes { raw, session }
}

#[test]
fn a_handshake_that_comes_byte_by_byte_succeeds() {
    let scene = Scene::new();
    let (plane, name) = (&scene.plane, "a.test".try_into().unwrap());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(handover_testkit::tls::chain(scene.root.pem()).remove(0)).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut session = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut raw = TcpStream::connect(plane.address("web")).unwrap();
    raw.set_nodelay(true).unwrap();
    raw.set_read_timeout(Some(DEADLINE)).unwrap();
    while session.is_handshaking() {
        let mut wire = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut wire).unwrap();
        }
        for byte in wire {
            raw.write_all(&[byte]).unwrap();
        }
        if session.is_handshaking() {
            assert!(session.read_tls(&mut raw).unwrap() > 0);
            session.process_new_packets().unwrap();
        }
    }
    let stream = rustls::StreamOwned::new(session, raw);
    let mut connection = Connection::over(Stream::Tls(Box::new(stream))).unwrap();
    assert_eq!(connection.get("/").expect(200).text(), "one\n");
}

#[test]
fn large_bodies_pass_both_ways_and_little_of_them_is_held() {
    let scene = Scene::new();
    let mut connection = scene.connect();
    let length = 30_000_000;
    connection.send(request_bytes("GET", &format!("/bytes/{length}"), &[], b""));
    let head = connection.head();
    assert_eq!(head.status, 200);
    // Nothing more is read for now: what is in flight stays within what the kernel and a few buffers hold.
    handover_testkit::until("the origin to be held up", || {
        (scene.plane.service.buffer_bytes() > 0).then_some(())
    });
    let (mut check, mut seen) = (pattern::Check::default(), 0);
    while seen < length {
        let piece = connection.try_some(1 << 16).unwrap();
        assert!(!piece.is_empty() && check.piece(&piece).is_ok(), "after {seen} bytes");
        seen += piece.len();
        assert!(scene.plane.service.buffer_bytes() < 600_000, "{}", scene.plane.service.buffer_bytes());
    }
    let body = pattern::bytes(5_000_000);
    let echoed = connection.request("POST", "/echo", &[], &body).expect(200);
    assert!(echoed.body == body);
    let chunked = connection.get("/chunked/3000000").expect(200);
    assert!(chunked.body == pattern::bytes(3_000_000));
    drop(connection);
    scene.plane.wait_until_idle();
    assert_eq!(scene.plane.service.buffer_bytes(), 0);
}

#[test]
fn files_are_sent_over_tls() {
    let scene = Scene::new();
    let data = pattern::bytes(2_000_000);
    std::fs::create_dir(scene.plane.workspace.path("www")).unwrap();
    std::fs::write(scene.plane.workspace.path("www/big"), &data).unwrap();
    let mut scene = scene;
    scene.plane.load(&[WEB, "[[routes]]\npath_prefix = \"/\"\ndirectory = \"www\"\n"].concat()).unwrap();
    let mut connection = scene.connect();
    for _ in 0..2 {
        assert!(connection.get("/big").expect(200).body == data);
    }
    let range = connection.request("GET", "/big", &[("Range", "bytes=100-199999")], b"").expect(206);
    assert!(range.body == data[100..200_000]);
}

#[test]
fn websockets_pass_and_say_goodbye() {
    let scene = Scene::new();
    let mut socket = WebSocket::upgrade(scene.connect(), "/ws");
    for _ in 0..10 {
        socket.echo("over TLS");
    }
    let long = "x".repeat(60_000);
    socket.echo(&long);
    assert_eq!(scene.plane.metric("handover_open_connections{kind=\"websocket\"}"), 1);
}

const RAW: &str = "[listeners.raw]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nservice = \"app\"\n\
                   [listeners.raw.tls]\ncertificate = \"a.pem\"\nkey = \"a.key\"\n\n";

fn tunnels(endpoint: std::net::SocketAddr) -> (Authority, Plane) {
    let root = Authority::new("root");
    let workspace = Workspace::new();
    root.pair(&["a.test"]).write(&workspace, "a");
    let config = format!("{RAW}[services.app]\nendpoints = \"{endpoint}\"\n");
    let plane = Plane::serve_in(workspace, 2, &config);
    (root, plane)
}

#[test]
fn a_tcp_listener_takes_tls_off() {
    let echo = Echo::start();
    let (root, plane) = tunnels(echo.address());
    let mut connection = TlsClient::trusting(root.pem(), "a.test").connect(plane.address("raw")).connection;
    for length in [1, 1_000, 16_384, 16_385, 100_000] {
        let bytes = pattern::bytes(length);
        connection.send(&bytes);
        assert!(connection.exactly(length) == bytes);
    }
    assert_eq!(plane.metric("handover_open_connections{kind=\"tcp\"}"), 1);
    drop(connection);
    plane.wait_until_idle();
    assert_eq!(plane.service.buffer_bytes(), 0);
}

#[test]
fn one_direction_of_a_tunnel_ends_in_order_and_the_other_goes_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (root, plane) = tunnels(listener.local_addr().unwrap());
    let client = TlsClient::trusting(root.pem(), "a.test");
    let mut connection = client.connect(plane.address("raw")).connection;
    connection.send("question");
    connection.finish();
    let (mut endpoint, _) = listener.accept().unwrap();
    endpoint.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut question = Vec::new();
    endpoint.read_to_end(&mut question).unwrap();
    assert_eq!(question, b"question");
    endpoint.write_all(b"answer").unwrap();
    assert_eq!(connection.exactly(6), b"answer");
    drop(endpoint);
    // In order: with close_notify, or the client would call it a truncation.
    connection.expect_end();
    plane.wait_until_idle();
    assert_eq!(plane.metric("handover_closed_connections_total{why=\"done\"}"), 1);
}

#[test]
fn an_endpoint_that_speaks_first_is_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (root, plane) = tunnels(listener.local_addr().unwrap());
    let mut connection = TlsClient::trusting(root.pem(), "a.test").connect(plane.address("raw")).connection;
    let (mut endpoint, _) = listener.accept().unwrap();
    endpoint.write_all(b"220 ready\r\n").unwrap();
    assert_eq!(connection.exactly(11), b"220 ready\r\n");
}

#[test]
fn a_tunnel_that_is_cut_short_is_no_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (root, plane) = tunnels(listener.local_addr().unwrap());
    let mut connection = TlsClient::trusting(root.pem(), "a.test").connect(plane.address("raw")).connection;
    connection.send("half of a quest");
    let (mut endpoint, _) = listener.accept().unwrap();
    endpoint.read_exact(&mut [0; 15]).unwrap();
    connection.cut(Shutdown::Write);
    plane.wait_until_idle();
    assert_eq!(plane.metric("handover_closed_connections_total{why=\"client_gone\"}"), 1);
    assert_eq!(plane.metric("handover_closed_connections_total{why=\"done\"}"), 0);
}

#[test]
fn a_client_that_ends_between_requests_without_a_word_did_nothing_wrong() {
    let scene = Scene::new();
    let mut connection = scene.connect();
    assert_eq!(connection.get("/").expect(200).text(), "one\n");
    connection.cut(Shutdown::Both);
    scene.plane.wait_until_idle();
    assert_eq!(scene.plane.metric("handover_closed_connections_total{why=\"client_closed\"}"), 1);
}

#[test]
fn the_last_response_and_the_end_behind_it_arrive_in_order() {
    let scene = Scene::new();
    for path in ["/", "/bytes/500000", "/stream/300000"] {
        let mut connection = scene.connect();
        let response = connection.request("GET", path, &[("Connection", "close")], b"").expect(200);
        assert!(!response.body.is_empty());
        connection.expect_end();
    }
    // A request that is refused while its body is on the way.
    let mut connection = scene.connect();
    connection
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\nTransfer-Encoding: chunked\r\n\r\n");
    connection.send(vec![b'x'; 300_000]);
    let _ = connection.response("POST").expect(400);
    connection.expect_end();
}

#[test]
fn keys_are_updated_in_the_middle_of_things() {
    let scene = Scene::new();
    let mut connection = scene.connect();
    for round in 0..5 {
        connection.update_keys();
        let body = pattern::bytes(20_000 * round);
        assert!(connection.request("POST", "/echo", &[], &body).expect(200).body == body);
    }
}

#[test]
fn plain_http_on_a_tls_port_is_told_so() {
    let scene = Scene::new();
    let mut plain = scene.plane.connect("web");
    plain.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let response = plain.response("GET").expect(400);
    assert!(response.text().contains("https://"), "{}", response.text());
    plain.expect_end();
    scene.plane.wait_until_idle();
    let metric = "handover_tls_handshake_failures_total{listener=\"web\",reason=\"plain_http\"}";
    assert_eq!(scene.plane.metric(metric), 1);
}

#[test]
fn failed_handshakes_are_counted_by_reason_and_answered_with_an_alert() {
    let scene = Scene::new();
    let address = scene.plane.address("web");
    let mut garbage = scene.plane.connect("web");
    garbage.send([0x16, 3, 1, 0, 5, 9, 9, 9, 9, 9]);
    assert!(garbage.try_rest().is_ok());
    let stranger = Authority::new("somebody else");
    let refusal = TlsClient::trusting(stranger.pem(), "a.test").try_connect(address).unwrap_err();
    assert!(refusal.to_string().contains("certificate"), "{refusal}");
    drop(TcpStream::connect(address).unwrap());
    let mut gone = TcpStream::connect(address).unwrap();
    gone.write_all(&scene.client().hello()[..30]).unwrap();
    drop(gone);
    scene.plane.wait_for_metric("handover_closed_connections_total{why=\"client_closed\"}", 1);
    scene.plane.wait_for_metric("handover_tls_handshake_failures_total{listener=\"web\",reason=\"gone\"}", 1);
    scene.plane.wait_until_idle();
    let count = |reason: &str| {
        let name = "handover_tls_handshake_failures_total";
        scene.plane.metric(&format!("{name}{{listener=\"web\",reason=\"{reason}\"}}"))
    };
    assert_eq!((count("protocol"), count("alert"), count("gone")), (1, 1, 1));
    let figures = scene.plane.service.figures().unwrap();
    assert_eq!((figures.handshakes, figures.handshake_failures), (3, 3));
}

#[test]
fn slow_handshakes_hit_their_limit() {
    let web = WEB.replace("\n[listeners.web.tls]", "\ntimeouts = { header = \"1s\" }\n[listeners.web.tls]");
    let scene = Scene::with(1, &web);
    let address = scene.plane.address("web");
    let hello = scene.client().hello();
    let mut halves: Vec<_> = (0..3)
        .map(|_| {
            let mut half = TcpStream::connect(address).unwrap();
            half.set_read_timeout(Some(DEADLINE)).unwrap();
            half.write_all(&hello[..hello.len() / 2]).unwrap();
            half
        })
        .collect();
    let mut silent = TcpStream::connect(address).unwrap();
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    for half in &mut halves {
        let _ = half.read_to_end(&mut Vec::new());
    }
    scene.plane.wait_until_idle();
    let metric = "handover_tls_handshake_failures_total{listener=\"web\",reason=\"timeout\"}";
    assert_eq!(scene.plane.metric(metric), 3);
    assert_eq!(scene.plane.metric("handover_closed_connections_total{why=\"handshake_limit\"}"), 3);
    // Others are served meanwhile, and afterwards.
    assert_eq!(scene.connect().get("/").expect(200).text(), "one\n");
}

#[test]
fn a_crowd_that_shakes_hands_at_once_is_let_in() {
    let scene = Scene::with(2, WEB);
    let (address, client) = (scene.plane.address("web"), scene.client());
    let threads: Vec<_> = (0..40)
        .map(|_| {
            let client = client.clone();
            std::thread::spawn(move || client.connect(address).connection.get("/").expect(200).text())
        })
        .collect();
    assert!(threads.into_iter().all(|thread| thread.join().unwrap() == "one\n"));
}

#[test]
fn connections_that_are_kept_go_on_on_whichever_thread() {
    let scene = Scene::with(2, WEB);
    let mut connections: Vec<_> = (0..30).map(|_| scene.connect()).collect();
    for round in 0..5 {
        for connection in &mut connections {
            let body = pattern::bytes(100 * round);
            assert!(connection.request("POST", "/echo", &[], &body).expect(200).body == body);
        }
    }
    let open = scene.plane.service.open_by_thread();
    assert_eq!(open.iter().sum::<u32>(), 30);
    assert!(open.iter().all(|count| *count > 5), "{open:?}");
    let name = "handover_tls_handshakes_total{listener=\"web\",version=\"TLSv1.3\",resumed=\"no\"}";
    assert_eq!(scene.plane.metric(name), 30, "nobody had to come again");
}

#[test]
fn tickets_come_even_if_no_request_does() {
    let scene = Scene::new();
    let client = scene.client().only_tls13().remembering();
    let TlsBytes { mut raw, mut session } = {
        let (stream, _) = client.connect(scene.plane.address("web")).connection.into_stream();
        let Stream::Tls(stream) = stream else { panic!("a connection over TLS") };
        let (session, raw) = stream.into_parts();
        TlsBytes { raw, session }
    };
    assert!(session.read_tls(&mut raw).unwrap() > 0);
    session.process_new_packets().unwrap();
    assert!(client.connect(scene.plane.address("web")).served.resumed);
}

const MUTUAL: &str = "[listeners.web]\naddress = \"127.0.0.1:0\"\n\
    [listeners.web.tls]\ncertificate = \"a.pem\"\nkey = \"a.key\"\nclient_certificates = \"optional\"\n\
    client_ca = \"clients.pem\"\nclient_subject_header = \"X-Client-Subject\"\n\n\
    [listeners.plain]\naddress = \"127.0.0.1:0\"\n\n";

#[test]
fn the_subject_of_a_client_certificate_is_passed_on_and_cannot_be_forged() {
    let scene = Scene::with(1, MUTUAL);
    let me = scene.root.leaf(&["me"]).subject("Zoë, of accounts").client().make();
    let forged: Vec<(&str, &str)> =
        ["X-Client-Subject", "x-client-subject", "X_Client_Subject", "X-Client_Subject"]
            .map(|name| (name, "CN=root"))
            .to_vec();
    let forged = [vec![("Host", "a.test")], forged].concat();
    let address = scene.plane.address("web");
    let mut known = scene.client().identity(&me).connect(address).connection;
    let head = known.request("GET", "/head", &forged, b"").expect(200).text();
    let lines: Vec<&str> = head.lines().filter(|line| line.to_lowercase().contains("subject")).collect();
    assert_eq!(lines.len(), 1, "{head}");
    assert!(lines[0].starts_with("X-Client-Subject: ") && lines[0].contains("Zo\\C3\\AB"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    // Without a certificate, and on the listener without TLS: nothing of it is left.
    let mut unknown = scene.client().connect(address).connection;
    let mut plain = scene.plane.connect("plain");
    for connection in [&mut unknown, &mut plain] {
        let head = connection.request("GET", "/head", &forged, b"").expect(200).text();
        assert!(!head.to_lowercase().contains("subject"), "{head}");
    }
    plain.send(
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\nX-Client-Subject: CN=root\r\n\r\n",
    );
    assert_eq!(plain.response("POST").expect(200).text(), "abc");
    assert_eq!(scene.origin.requests().last().unwrap().trailers, []);
    let connections = scene.plane.service.connections();
    assert!(connections.contains("Zo") && connections.contains("\"sni\":\"a.test\""), "{connections}");
}

#[test]
fn a_client_without_a_certificate_is_refused_where_one_is_required() {
    let scene = Scene::with(1, &MUTUAL.replace("optional", "required"));
    let address = scene.plane.address("web");
    let refusal = scene.client().try_get(address, "/").unwrap_err();
    assert!(refusal.to_string().to_lowercase().contains("certificate"), "{refusal}");
    let stranger = Authority::new("somebody else").leaf(&["me"]).client().make();
    assert!(scene.client().identity(&stranger).try_get(address, "/").is_err());
    let me = scene.root.leaf(&["me"]).client().make();
    assert_eq!(scene.client().identity(&me).get(address, "/").1.expect(200).text(), "one\n");
    scene.plane.wait_until_idle();
    let metric = "handover_tls_handshake_failures_total{listener=\"web\",reason=\"client_certificate\"}";
    assert_eq!(scene.plane.metric(metric), 2);
}

#[test]
fn another_host_than_the_one_of_the_handshake_is_misdirected_only_where_clients_show_certificates() {
    for (config, status) in [(MUTUAL, 421), (WEB, 200)] {
        let scene = Scene::with(1, config);
        let mut connection = scene.connect();
        for (host, status) in
            [("a.test", 200), ("A.Test.", 200), ("a.test:8443", 200), ("b.test", status), ("a.test", 200)]
        {
            let _ = connection.request("GET", "/", &[("Host", host)], b"").expect(status);
        }
        let mut nameless = TlsClient::nameless().connect(scene.plane.address("web")).connection;
        let _ = nameless.request("GET", "/", &[("Host", "b.test")], b"").expect(200);
    }
}

#[test]
fn lines_of_the_access_log_say_what_was_agreed_on() {
    let config = [MUTUAL, "[log]\naccess = \"access.log\"\nformat = \"json\"\n\n"].concat();
    let scene = Scene::with(1, &config);
    let me = scene.root.leaf(&["me"]).subject("me \"quoted\"").client().make();
    let client = scene.client().identity(&me);
    let _ = client.get(scene.plane.address("web"), "/one").1.expect(200);
    let _ = scene.plane.connect("plain").get("/two").expect(200);
    let lines = handover_testkit::until("two lines", || {
        let log = std::fs::read_to_string(scene.plane.workspace.path("access.log")).ok()?;
        (log.lines().count() == 2).then_some(log)
    });
    let (one, two) = lines.split_once('\n').unwrap();
    assert!(one.contains("\"tls\":\"TLSv1.3\",\"resumed\":false,\"sni\":\"a.test\""), "{one}");
    assert!(one.contains("client_subject\":\"CN=me "), "{one}");
    assert!(!two.contains("tls"), "{two}");
}
