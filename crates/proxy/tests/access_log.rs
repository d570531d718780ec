//! Every request leaves one line, whole and in one format.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::TcpListener;
use std::path::Path;

use common::{Plane, WEB, to_endpoints};
use handover_testkit::Workspace;
use handover_testkit::origin::Origin;
use serde_json::Value;

fn log_to(path: &Path, format: &str) -> String {
    format!("[log]\nformat = \"{format}\"\naccess = \"{}\"\n\n", path.display())
}

/// The lines of the log, as soon as there are so many.
#[track_caller]
fn lines(path: &Path, count: usize) -> Vec<String> {
    handover_testkit::until(&format!("{count} lines in the access log"), || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count).then_some(lines)
    })
}

#[test]
fn a_line_ends_in_the_format_in_which_it_began() {
    let (files, origin) = (Workspace::new(), Origin::start("one"));
    let path = files.path("access.log");
    let rest = [WEB, &to_endpoints(&[origin.address()], "")].concat();
    let mut plane = Plane::serve(&(log_to(&path, "json") + &rest));
    let mut held = plane.connect("web");
    held.send("GET /held?gate=g HTTP/1.1\r\nHost: a\r\n\r\n");
    let _ = origin.wait_for_requests(1);
    plane.load(&(log_to(&path, "text") + &rest)).unwrap();
    origin.gate("g").open();
    let _ = held.response("GET").expect(200);
    let _ = held.get("/").expect(200);
    let lines = lines(&path, 2);
    let first: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(first["status"], 200);
    assert!(lines[1].starts_with("127.0.0.1 - - ["), "{lines:?}");
}

#[test]
fn requests_that_are_refused_in_their_head_leave_a_line() {
    let files = Workspace::new();
    let path = files.path("access.log");
    let limits = "timeouts = { header = \"1s\" }\nlimits = { header_bytes = 2048 }\n";
    let web = format!("{}\n{limits}\n[[routes]]\nfixed = \"hello\"\n", WEB.trim_end());
    let plane = Plane::serve(&(log_to(&path, "json") + &web));
    let long = format!("GET /long HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(3_000));
    let refused = [
        ("GET /bad HTTP/1.1\r\nHost : a\r\n\r\n", 400, "GET", "/bad"),
        ("\"\u{1}\r\n\r\n", 400, "\"\u{1}", "-"),
        ("POST /slow HTTP/1.1\r\nHo", 408, "POST", "/slow"),
        (&long, 431, "GET", "/long"),
    ];
    for (number, (sent, status, method, target)) in refused.into_iter().enumerate() {
        let mut client = plane.connect("web");
        client.send(sent);
        let _ = client.response("GET").expect(status);
        let line: Value = serde_json::from_str(&lines(&path, number + 1)[number]).unwrap();
        assert_eq!(line["status"], status);
        assert_eq!((&line["method"], &line["target"]), (&method.into(), &target.into()));
    }
}

#[test]
fn an_answer_of_our_own_names_the_endpoint_that_was_tried() {
    let files = Workspace::new();
    let path = files.path("access.log");
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = endpoint.local_addr().unwrap();
    let rest = [WEB, &to_endpoints(&[address], "")].concat();
    let plane = Plane::serve(&(log_to(&path, "json") + &rest));
    let mut client = plane.connect("web");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    let mut at_endpoint = handover_testkit::http::Connection::over(handover_testkit::http::Stream::Tcp(
        endpoint.accept().unwrap().0,
    ))
    .unwrap();
    let _ = at_endpoint.try_raw_head().unwrap();
    drop(at_endpoint);
    let _ = client.response("POST").expect(502);
    let line: Value = serde_json::from_str(&lines(&path, 1)[0]).unwrap();
    assert_eq!(line["endpoint"], address.to_string());
}

/// The file that the candidate opened is the one that is written: it need not be opened again, perhaps without descriptors.
#[test]
fn the_log_that_was_opened_beforehand_is_written() {
    let files = Workspace::new();
    let path = files.path("access.log");
    let rest = [WEB, "[[routes]]\nfixed = \"hello\"\n"].concat();
    let mut plane = Plane::serve(&rest);
    let candidate = plane.prepare(&(log_to(&path, "text") + &rest)).unwrap();
    let renamed = files.path("renamed.log");
    std::fs::rename(&path, &renamed).unwrap();
    candidate.commit();
    let _ = plane.connect("web").get("/").expect(200);
    assert_eq!(lines(&renamed, 1).len(), 1);
    // No file can be opened where a directory stands: then the one that is open is kept.
    std::fs::create_dir(&path).unwrap();
    handover::Service::reopen_logs(&*plane.service);
    let _ = plane.connect("web").get("/").expect(200);
    assert_eq!(lines(&renamed, 2).len(), 2);
    std::fs::remove_dir(&path).unwrap();
    handover::Service::reopen_logs(&*plane.service);
    let _ = plane.connect("web").get("/").expect(200);
    assert_eq!((lines(&path, 1).len(), lines(&renamed, 2).len()), (1, 2));
}
