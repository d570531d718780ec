//! Traffic through the shipped binary, with real curl: what a user of the proxy sees.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;

use handover_testkit::config::{below_to, everything_to, fixed, listener, service};
use handover_testkit::echo::Echo;
use handover_testkit::http::Connection;
use handover_testkit::origin::Origin;
use handover_testkit::tunnel::Tunnel;
use handover_testkit::websocket::WebSocket;
use handover_testkit::{
    Handover, Port, Serving, Signal, Workspace, curl, handover, have, pattern, proc, until,
};

/// A server in front of an origin that gets everything.
fn proxy() -> (Origin, Serving) {
    let origin = Origin::start("origin");
    let rest = service("app", origin.address()) + &everything_to("app");
    let server = Serving::start(handover!(), &rest);
    (origin, server)
}

#[test]
fn curl_gets_head_and_body_in_every_framing() {
    if !have("curl", "curl_gets_head_and_body_in_every_framing") {
        return;
    }
    let (_origin, server) = proxy();
    for path in ["/bytes/100000", "/chunked/100000", "/stream/100000", "/bytes/0"] {
        let file = server.workspace.path("body");
        let output = curl::curl(["--fail", "-o", file.to_str().unwrap(), &server.url(path)]);
        output.expect_code(0);
        let length = if path.ends_with("/0") { 0 } else { 100_000 };
        assert!(fs::read(&file).unwrap_or_default() == pattern::bytes(length), "{path}");
    }
    curl::curl(["--head", &server.url("/bytes/77")]).expect_code(0).says("200 OK").says("77");
    curl::curl(["--http1.0", &server.url("/x")]).expect_code(0).says("origin");
    let two = curl::curl(["-v", &server.url("/a"), &server.url("/b")]);
    assert!(two.stderr.contains("Re-using existing connection"), "kept alive: {}", two.stderr);
}

#[test]
fn curl_uploads_arrive_whole_in_every_framing() {
    if !have("curl", "curl_uploads_arrive_whole_in_every_framing") {
        return;
    }
    let (origin, server) = proxy();
    let body = pattern::bytes(3_000_000);
    let file = server.workspace.write("upload", &body);
    let name = file.to_str().unwrap().to_owned();
    let back = server.workspace.path("back");
    let (data, chunked) = (format!("@{name}"), "Transfer-Encoding: chunked");
    let url = server.url("/echo");
    for arguments in [
        vec!["--data-binary", &data],
        vec!["--data-binary", &data, "-H", "Expect: 100-continue"],
        vec!["--data-binary", &data, "-H", chunked],
        vec!["--upload-file", &name],
    ] {
        let arguments = [arguments.as_slice(), &["--fail", "-o", back.to_str().unwrap(), &url]].concat();
        curl::curl(&arguments).expect_code(0);
        assert!(fs::read(&back).unwrap() == body, "{arguments:?}");
    }
    assert!(origin.requests().iter().all(|request| request.body == body));
}

#[test]
fn the_origin_is_told_about_the_client_and_not_about_the_clients_connection() {
    let (origin, server) = proxy();
    let mut client = Connection::open(server.address());
    client.send(
        "GET /x HTTP/1.1\r\nHost: example.org\r\nConnection: keep-alive, X-Private\r\nX-Private: secret\r\n\
         X-Forwarded-For: 203.0.113.9\r\nKeep-Alive: timeout=5\r\n\r\n",
    );
    assert_eq!(client.response("GET").status(), 200);
    let request = origin.wait_for_requests(1).remove(0);
    assert_eq!(request.header("host"), Some("example.org"));
    assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.header("x-forwarded-proto"), Some("http"));
    assert_eq!(request.header("x-forwarded-host"), Some("example.org"));
    for gone in ["x-private", "keep-alive"] {
        assert_eq!(request.header(gone), None, "{}", request.raw);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (_origin, server) = proxy();
    let mut client = Connection::open(server.address());
    client.send("GET /bytes/5 HTTP/1.1\r\nHost: a\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\nGET /bytes/7 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response("GET").body, pattern::bytes(5));
    assert_eq!(client.response("GET").text(), "origin\n");
    assert_eq!(client.response("GET").body, pattern::bytes(7));
}

#[test]
fn ambiguous_requests_are_refused_and_never_reach_the_origin() {
    let (origin, server) = proxy();
    for request in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
    ] {
        let mut client = Connection::open(server.address());
        client.send(request);
        let response = client.response("POST");
        assert!([400, 501].contains(&response.status()), "{request:?}: {}", response.status());
        assert!(response.head.closes(), "{request:?}");
        client.expect_end();
    }
    assert!(origin.requests().is_empty());
}

#[test]
fn limits_are_answered_with_their_own_status() {
    let origin = Origin::start("origin");
    let limits =
        "[listeners.web.limits]\nheader_bytes = \"2KiB\"\nbody_bytes = \"10KiB\"\ntarget_bytes = 512\n";
    let rest = [limits.to_owned(), service("app", origin.address()), everything_to("app")].concat();
    let server = Serving::start(handover!(), &rest);
    let header = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(4000));
    let target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(1000));
    let body = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n".to_owned();
    for (request, status) in [(header, 431), (target, 414), (body, 413)] {
        let mut client = Connection::open(server.address());
        client.send(&request);
        assert_eq!(client.response("GET").status(), status);
    }
    assert!(origin.requests().is_empty());
}

#[test]
fn a_dead_endpoint_is_passed_over_and_no_endpoint_at_all_is_told_in_one_line() {
    let (origin, dead) = (Origin::start("alive"), Port::claim());
    let rest = format!(
        "[services.app]\nendpoints = [\"{}\", \"{}\"]\n\n[services.none]\nendpoints = \"{}\"\n\n",
        dead.address(),
        origin.address(),
        dead.address()
    );
    let server = Serving::start(handover!(), &(rest + &below_to("/none", "none") + &everything_to("app")));
    let mut kept = Connection::open(server.address());
    for _ in 0..10 {
        assert_eq!(kept.get("/x").text(), "alive\n");
    }
    let response = kept.get("/none/x");
    assert!([502, 503].contains(&response.status()), "{}", response.status());
    assert_eq!(response.text().trim().lines().count(), 1, "{}", response.text());
}

#[test]
fn an_origin_that_does_not_answer_in_time_is_504_and_one_that_drops_is_502() {
    let origin = Origin::start("origin");
    let hurried =
        format!("{}\nresponse_timeout = \"200ms\"\n\n", service("hurried", origin.address()).trim_end());
    let rest =
        [service("app", origin.address()), hurried, below_to("/held", "hurried"), everything_to("app")];
    let server = Serving::start(handover!(), &rest.concat());
    assert_eq!(server.get("/held").status(), 504);
    assert_eq!(server.get("/drop").status(), 502);
    // A body that ends too early is cut for the client too: it must not look whole.
    assert!(Connection::open(server.address()).try_get("/cut/100000").is_err());
}

#[test]
fn files_of_a_directory_are_served_with_ranges_and_conditions_and_nothing_outside() {
    if !have("curl", "files_of_a_directory_are_served_with_ranges_and_conditions_and_nothing_outside") {
        return;
    }
    let workspace = Workspace::new();
    workspace.write("www/index.html", "<p>index</p>");
    workspace.write("www/data.txt", "0123456789");
    workspace.write("www/.hidden", "hidden");
    workspace.write("secret.txt", "secret");
    let rest = "[[routes]]\npath_prefix = \"/files\"\ndirectory = \"www\"\n";
    let server = Serving::prepared(handover!(), workspace, rest);
    let index = curl::curl(["-i", &server.url("/files/")]);
    index.expect_code(0).says("200 OK").says("text/html").says("<p>index</p>");
    curl::curl(["--range", "2-4", "-i", &server.url("/files/data.txt")]).says("206").says("234");
    let head = curl::curl(["-I", &server.url("/files/data.txt")]).stdout;
    let etag = head
        .lines()
        .find_map(|line| line.to_lowercase().starts_with("etag:").then(|| line[5..].trim().to_owned()));
    let condition = format!("If-None-Match: {}", etag.expect("an entity tag"));
    curl::curl(["-i", "-H", &condition, &server.url("/files/data.txt")]).says("304");
    for path in ["/files/.hidden", "/files/../secret.txt", "/files/%2e%2e/secret.txt", "/files/missing"] {
        let output = curl::curl(["--path-as-is", "-i", &server.url(path)]);
        assert!(!output.stdout.contains("200 OK"), "{path}: {}", output.stdout);
        assert!(!output.stdout.contains("secret"), "{path}: {}", output.stdout);
    }
}

#[test]
fn redirects_hosts_and_methods_choose_the_route() {
    if !have("curl", "redirects_hosts_and_methods_choose_the_route") {
        return;
    }
    let rest = "[[routes]]\nhost = \"example.org\"\nfixed = \"exact\"\n\
                [[routes]]\nhost = \"*.example.org\"\nfixed = \"below\"\n\
                [[routes]]\npath = \"/old\"\nredirect = \"/new\"\n\
                [[routes]]\npath = \"/new\"\nmethod = \"GET\"\nfixed = \"new\"\n\
                [[routes]]\npath_prefix = \"/new\"\nfixed = \"prefix\"\n";
    let server = Serving::start(handover!(), rest);
    let with_host = |host: &str| curl::curl(["-H", &format!("Host: {host}"), &server.url("/")]).stdout;
    assert_eq!((with_host("example.org"), with_host("a.b.example.org")), ("exact".into(), "below".into()));
    assert_eq!(curl::curl(["-L", &server.url("/old")]).stdout, "new");
    assert_eq!(curl::body(&server.url("/new/x")), "prefix");
    assert_eq!(server.get("/nothing").status(), 404);
}

#[test]
fn every_kind_of_address_is_listened_on() {
    if !have("curl", "every_kind_of_address_is_listened_on") {
        return;
    }
    let (workspace, port) = (Workspace::new(), Port::claim());
    let name = format!("handover-test-{}", port.number());
    let config = format!(
        "[listeners.all]\naddress = [\"{}\", \"[::1]:{}\", \"unix:app.sock\", \"unix:@{name}\"]\nmode = \"0600\"\n{}",
        port.address(),
        port.number(),
        fixed("/", "here")
    );
    let mut server = Handover::of(handover!(), &workspace).config(config).start();
    let socket = workspace.path("app.sock");
    assert_eq!(curl::body(&format!("http://{}/", port.address())), "here");
    assert_eq!(curl::body(&format!("http://[::1]:{}/", port.number())), "here");
    curl::over_unix(&socket, &["http://localhost/"]).says("here");
    curl::curl(["--abstract-unix-socket", &name, "http://localhost/"]).says("here");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    server.terminate().expect_code(0);
    assert!(!socket.exists(), "its owner unlinks it");
}

#[test]
fn unix_endpoints_and_tcp_tunnels_with_half_close_work() {
    let (workspace, port, tunnel_port) = (Workspace::new(), Port::claim(), Port::claim());
    let origin = Origin::on_unix("unix origin", &workspace.path("origin.sock"));
    let echo = Echo::start();
    let config = [
        listener("web", &port),
        handover_testkit::config::tcp_listener("tunnel", &tunnel_port, "echo"),
        "[services.app]\nendpoints = \"unix:origin.sock\"\n\n".to_owned(),
        service("echo", echo.address()),
        everything_to("app"),
    ]
    .concat();
    let _server = Handover::of(handover!(), &workspace).config(config).start();
    assert_eq!(handover_testkit::http::get(port.address(), "/x").text(), "unix origin\n");
    assert_eq!(origin.connections(), 1);
    let mut tunnel = Tunnel::open(tunnel_port.address());
    tunnel.echo(&pattern::bytes(100_000));
    tunnel.connection().send("the end");
    tunnel.connection().finish();
    assert_eq!(tunnel.connection().try_rest().unwrap(), b"the end");
}

#[test]
fn a_websocket_passes_frames_both_ways() {
    let (_origin, server) = proxy();
    let mut socket = WebSocket::open(server.address(), "/ws");
    for length in [1, 125, 126, 60_000] {
        socket.echo(&"x".repeat(length));
    }
}

/// A body much larger than every buffer, with a reader that stops: memory stays where it is.
#[test]
fn a_large_body_with_a_slow_reader_passes_in_constant_memory() {
    const LENGTH: usize = 256 << 20;
    const MOST_GROWTH: u64 = 32 << 20;
    let origin = Origin::with(|_, answer| {
        answer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n").as_bytes())?;
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..LENGTH / piece.len() {
            answer.send(&piece)?;
        }
        Ok(handover_testkit::origin::Then::Next)
    });
    let rest = service("app", origin.address()) + &everything_to("app");
    let server = Serving::start(handover!(), &rest);
    let worker = server.handover.worker();
    let before = proc::memory(worker).resident;
    let mut client = Connection::open(server.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head().status, 200);
    let (mut left, mut highest) = (LENGTH, 0);
    for looks in (0..16).rev() {
        // While the memory is looked at, the reader reads nothing and everything before it fills up.
        while left > LENGTH / 16 * looks {
            let piece = client.try_some(1 << 20).unwrap();
            assert!(!piece.is_empty(), "{left} bytes are missing");
            left -= piece.len();
        }
        highest = highest.max(proc::memory(worker).resident);
    }
    assert!(highest < before + MOST_GROWTH, "{before} bytes before, {highest} meanwhile");
}

#[test]
fn the_access_log_has_a_line_for_each_request_and_is_opened_anew_on_usr1() {
    let mut server = Serving::start(handover!(), &(fixed("/a", "a") + "[log]\naccess = \"access.log\"\n"));
    let path = server.workspace.path("access.log");
    let wait_for = |what: &str, count: usize| {
        until("the access log has its lines", || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            (text.lines().filter(|line| line.contains(what)).count() >= count).then_some(text)
        })
    };
    for _ in 0..3 {
        assert_eq!(server.text("/a"), "a");
    }
    let text = wait_for("/a", 3);
    assert!(text.lines().all(|line| line.contains("GET") && line.contains("200")), "{text}");
    fs::rename(&path, server.workspace.path("access.log.1")).unwrap();
    server.handover.signal(Signal::USR1);
    // The signal passes through the supervisor to the worker; until it has, lines go where they went.
    until("lines are in a new file", || {
        assert_eq!(server.get("/b").status(), 404);
        fs::read_to_string(&path).ok().filter(|text| text.contains("/b"))
    });
}

#[test]
fn metrics_are_served_where_the_configuration_says() {
    let metrics = Port::claim();
    let rest = fixed("/", "x") + &format!("[metrics]\naddress = \"{}\"\n", metrics.address());
    let server = Serving::start(handover!(), &rest);
    assert_eq!(server.text("/"), "x");
    // The supervisor tells its own to the worker, which serves meanwhile.
    let text = until("the supervisor's own are there", || {
        let text = handover_testkit::http::get(metrics.address(), "/metrics").text();
        text.contains("handover_generation 1").then_some(text)
    });
    assert!(text.contains("handover_requests_total"), "the worker's:\n{text}");
}

#[test]
fn both_processes_log_as_the_configuration_says_and_a_reload_changes_that() {
    let body = |body: &str, log: &str| fixed("/", body) + "[log]\n" + log;
    let server = Serving::start(handover!(), &body("1", "to = \"own.log\"\nlevel = \"info\"\n"));
    server.reload(&body("2", "to = \"own.log\"\nlevel = \"info\"\n")).expect_code(0);
    let path = server.workspace.path("own.log");
    until("the outcome is in the log file", || {
        fs::read_to_string(&path).ok().filter(|text| text.contains("generation 2"))
    });
    let json = "to = \"stdout\"\nformat = \"json\"\n";
    server.reload(&body("3", json)).expect_code(0);
    server.reload(&body("4", json)).expect_code(0);
    until("the outcome is on standard output, as JSON", || {
        let text = server.handover.process.stdout();
        let line = text.lines().find(|line| line.contains("generation 4") && line.starts_with('{'))?;
        serde_json::from_str::<serde_json::Value>(line).ok()
    });
    assert!(!fs::read_to_string(&path).unwrap().contains("generation 4"));
    let quiet = "to = \"own.log\"\nlevel = \"error\"\n";
    server.reload(&body("5", quiet)).expect_code(0);
    server.reload(&body("6", quiet)).expect_code(0);
    server.reload(&body("7", "to = \"own.log\"\n")).expect_code(0);
    let text = until("what is logged at level info again", || {
        fs::read_to_string(&path).ok().filter(|text| text.contains("generation 7"))
    });
    assert!(!text.contains("generation 6"), "{text}");
}
