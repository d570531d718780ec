//! Requests that are answered without an endpoint: fixed responses, redirects, files, metrics, refusals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Plane, WEB};
use handover_testkit::{Workspace, pattern};

#[test]
fn a_fixed_response_of_any_size_is_served() {
    let files = Workspace::new();
    let big = files.write("big.bin", pattern::bytes(3_000_000));
    let config = format!(
        "{WEB}[[routes]]\npath = \"/\"\nfixed = \"Hello, World!\\n\"\n\
         [[routes]]\npath = \"/big\"\nfixed = {{ body_file = \"{}\" }}\n\
         [[routes]]\npath = \"/gone\"\nfixed = {{ status = 410, body = \"gone\", headers = {{ X-A = \"1\" }} }}\n",
        big.display()
    );
    let plane = Plane::serve(&config);
    let mut client = plane.connect("web");
    for _ in 0..3 {
        let hello = client.get("/").expect(200);
        assert_eq!(hello.text(), "Hello, World!\n");
        assert!(hello.header("date").is_some());
        assert_eq!(client.get("/big").expect(200).body, pattern::bytes(3_000_000));
        assert_eq!(client.get("/gone").expect(410).header("x-a"), Some("1"));
        let head = client.request("HEAD", "/big", &[], b"").expect(200);
        assert_eq!(head.header("content-length"), Some("3000000"));
    }
    let _ = client.get("/nothing").expect(404);
    client.finish();
    plane.wait_until_idle();
    assert_eq!(plane.service.buffer_bytes(), 0);
    assert_eq!(plane.metric("handover_requests_total{listener=\"web\",status=\"2xx\"}"), 9);
    assert_eq!(plane.metric("handover_requests_total{listener=\"web\",status=\"4xx\"}"), 4);
}

#[test]
fn a_method_that_no_route_takes_is_told_which_would_do() {
    let config = format!("{WEB}[[routes]]\npath = \"/\"\nmethod = \"GET\"\nfixed = \"hello\"\n");
    let plane = Plane::serve(&config);
    let mut client = plane.connect("web");
    let response = client.request("DELETE", "/", &[], b"").expect(405);
    assert_eq!(response.header("allow"), Some("GET, HEAD"));
    assert_eq!(client.get("/").expect(200).text(), "hello");
}

#[test]
fn a_body_that_nobody_wants_is_read_and_the_connection_goes_on() {
    let plane = Plane::serve(&format!("{WEB}[[routes]]\nfixed = \"hello\"\n"));
    let mut client = plane.connect("web");
    assert_eq!(client.request("POST", "/", &[], &pattern::bytes(200_000)).expect(200).text(), "hello");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(client.response("POST").expect(200).text(), "hello");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    assert_eq!(client.head().status, 100);
    client.send("body");
    assert_eq!(client.response("POST").expect(200).text(), "hello");
    assert_eq!(client.get("/").expect(200).text(), "hello");
}

#[test]
fn a_long_body_that_nobody_wants_ends_the_connection_after_the_answer() {
    let plane = Plane::serve(&format!("{WEB}[[routes]]\nfixed = \"hello\"\n"));
    let mut client = plane.connect("web");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 600000\r\n\r\n");
    client.send(vec![b'x'; 500_000]);
    let response = client.response("POST").expect(200);
    assert_eq!((response.text().as_str(), response.header("connection")), ("hello", Some("close")));
    client.expect_end();
}

#[test]
fn a_redirect_is_made_of_the_request() {
    let config = format!(
        "{WEB}[[routes]]\nredirect = {{ to = \"https://{{host}}{{path}}{{query}}\", status = 301 }}\n"
    );
    let plane = Plane::serve(&config);
    let mut client = plane.connect("web");
    let response = client.request("GET", "/a/b?c=d", &[("Host", "shop.test:8080")], b"").expect(301);
    assert_eq!(response.header("location"), Some("https://shop.test/a/b?c=d"));
    let response = client.request("GET", "/a", &[("Host", "shop.test")], b"").expect(301);
    assert_eq!(response.header("location"), Some("https://shop.test/a"));
}

#[test]
fn no_request_can_choose_the_host_that_it_is_sent_to() {
    let files = Workspace::new();
    files.write("site/docs/index.html", "<p>docs</p>");
    let config = format!(
        "{WEB}[[routes]]\npath_prefix = \"//\"\ndirectory = \"{}\"\n\
         [[routes]]\npath_prefix = \"//evil\"\nredirect = \"/{{query}}{{path}}\"\n\
         [[routes]]\nredirect = \"https://{{host}}{{path}}\"\n",
        files.path("site").display()
    );
    let plane = Plane::serve(&config);
    let mut client = plane.connect("web");
    assert_eq!(client.get("//docs").expect(301).header("location"), Some("/docs/"));
    assert_eq!(client.get("//evil/x").expect(308).header("location"), Some("/evil/x"));
    assert_eq!(client.get("//evil/x?a").expect(308).header("location"), Some("/?a//evil/x"));
    client.send("GET /evil.test/ HTTP/1.0\r\n\r\n");
    assert_eq!(client.response("GET").expect(400).header("location"), None);
}

fn files() -> (Workspace, Plane) {
    let files = Workspace::new();
    files.write("site/index.html", "<p>front</p>");
    files.write("site/a b.txt", "spaced");
    files.write("site/.secret", "hidden");
    files.write("site/docs/index.html", "<p>docs</p>");
    files.write("site/big.bin", pattern::bytes(2_000_000));
    files.write("site/empty", "");
    files.write("outside.txt", "outside");
    std::os::unix::fs::symlink("../outside.txt", files.path("site/escape.txt")).unwrap();
    std::os::unix::fs::symlink("big.bin", files.path("site/link.bin")).unwrap();
    let config = format!(
        "{WEB}[[routes]]\npath_prefix = \"/static\"\ndirectory = {{ root = \"{}\", headers = {{ X-From = \"disk\" }} }}\n",
        files.path("site").display()
    );
    (files, Plane::serve(&config))
}

#[test]
fn files_are_served_and_nothing_outside_the_directory_is() {
    let (_files, plane) = files();
    let mut client = plane.connect("web");
    let front = client.get("/static/").expect(200);
    assert_eq!(front.text(), "<p>front</p>");
    assert_eq!(front.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(front.header("x-from"), Some("disk"));
    assert_eq!(client.get("/static/a%20b.txt").expect(200).text(), "spaced");
    assert_eq!(client.get("/static/big.bin").expect(200).body, pattern::bytes(2_000_000));
    assert_eq!(client.get("/static/link.bin").expect(200).body, pattern::bytes(2_000_000));
    assert_eq!(client.get("/static/empty").expect(200).body, b"");
    assert_eq!(client.get("/static/docs/").expect(200).text(), "<p>docs</p>");
    assert_eq!(client.get("/static/docs?x=1").expect(301).header("location"), Some("/static/docs/?x=1"));
    for missing in [
        "/static/none",
        "/static/.secret",
        "/static/escape.txt",
        "/static/%2e%2e/outside.txt",
        "/static/a%2fb",
        "/static//",
    ] {
        let _ = client.get(missing).expect(404);
    }
    let _ = client.request("POST", "/static/empty", &[], b"").expect(405);
    let head = client.request("HEAD", "/static/big.bin", &[], b"").expect(200);
    assert_eq!(head.header("content-length"), Some("2000000"));
    client.finish();
    plane.wait_until_idle();
    assert_eq!(plane.service.buffer_bytes(), 0);
}

#[test]
fn a_part_of_a_file_is_served_and_conditions_hold() {
    let (_files, plane) = files();
    let mut client = plane.connect("web");
    let whole = client.get("/static/big.bin").expect(200);
    let tag = whole.header("etag").unwrap().to_owned();
    let modified = whole.header("last-modified").unwrap().to_owned();
    let all = pattern::bytes(2_000_000);
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=1999990-", 1_999_990, 2_000_000),
        ("bytes=-5", 1_999_995, 2_000_000),
        ("bytes=5-99999999", 5, 2_000_000),
    ] {
        let part = client.request("GET", "/static/big.bin", &[("Range", range)], b"").expect(206);
        assert_eq!(part.body, all[from..to], "{range}");
        let expected = format!("bytes {from}-{}/2000000", to - 1);
        assert_eq!(part.header("content-range"), Some(expected.as_str()));
    }
    let outside = client.request("GET", "/static/big.bin", &[("Range", "bytes=2000000-")], b"").expect(416);
    assert_eq!(outside.header("content-range"), Some("bytes */2000000"));
    assert_eq!((whole.header("x-from"), outside.header("x-from")), (Some("disk"), None));
    for ignored in ["bytes=0-1,5-6", "pages=1-2", "bytes=9-1"] {
        let _ = client.request("GET", "/static/big.bin", &[("Range", ignored)], b"").expect(200);
    }
    let weak = format!("\"other\", W/{tag}");
    for (name, value) in [
        ("If-None-Match", tag.as_str()),
        ("If-None-Match", "*"),
        ("If-None-Match", &weak),
        ("If-Modified-Since", &modified),
    ] {
        let known = client.request("GET", "/static/big.bin", &[(name, value)], b"").expect(304);
        assert_eq!(known.header("etag"), Some(tag.as_str()));
        assert!(known.body.is_empty());
    }
    let changed = [("If-None-Match", "\"other\""), ("If-Modified-Since", modified.as_str())];
    let _ = client.request("GET", "/static/big.bin", &changed, b"").expect(200);
    let same = [("If-Range", tag.as_str()), ("Range", "bytes=0-9")];
    let _ = client.request("GET", "/static/big.bin", &same, b"").expect(206);
    let other = [("If-Range", "\"other\""), ("Range", "bytes=0-9")];
    let _ = client.request("GET", "/static/big.bin", &other, b"").expect(200);
}

#[test]
fn a_file_that_is_not_the_one_meant_is_not_served() {
    let (_files, plane) = files();
    let mut client = plane.connect("web");
    let whole = client.get("/static/big.bin").expect(200);
    let (tag, modified) = (whole.header("etag").unwrap(), whole.header("last-modified").unwrap());
    let (weak, long_ago) = (format!("W/{tag}"), "Sun, 06 Nov 1994 08:49:37 GMT");
    let list = format!("\"other\", {tag}");
    for met in [("If-Match", &*list), ("If-Match", "*"), ("If-Unmodified-Since", modified)] {
        let _ = client.request("GET", "/static/big.bin", &[met], b"").expect(200);
    }
    let ignored = [("If-Match", tag), ("If-Unmodified-Since", long_ago)];
    let _ = client.request("GET", "/static/big.bin", &ignored, b"").expect(200);
    for failed in [("If-Match", "\"other\""), ("If-Match", &weak), ("If-Unmodified-Since", long_ago)] {
        let _ = client.request("GET", "/static/big.bin", &[failed], b"").expect(412);
    }
}

#[test]
fn metrics_have_a_listener_of_their_own() {
    let config = format!("{WEB}[[routes]]\nfixed = \"hello\"\n[metrics]\naddress = \"127.0.0.1:0\"\n");
    let plane = Plane::serve(&config);
    let mut client = plane.connect("web");
    let _ = client.get("/").expect(200);
    client.finish();
    handover::Service::facts(&*plane.service, "handover_generation 1\n".to_owned());
    plane.wait_until_idle();
    let mut scraper = plane.connect("metrics");
    let text = scraper.get("/metrics").expect(200).text();
    assert!(text.contains("handover_requests_total{listener=\"web\",status=\"2xx\"} 1\n"), "{text}");
    assert!(text.ends_with("handover_generation 1\n# EOF\n"), "{text}");
    let _ = scraper.get("/other").expect(404);
}

#[test]
fn each_request_leaves_a_line_in_the_access_log() {
    let files = Workspace::new();
    let log = files.path("access.log");
    let config = format!(
        "{WEB}[[routes]]\nfixed = \"hello\"\n[log]\naccess = \"{}\"\nformat = \"json\"\n",
        log.display()
    );
    let plane = Plane::serve(&config);
    let mut client = plane.connect("web");
    let _ = client.request("GET", "/a?b=\"c\\", &[("User-Agent", "te\"st")], b"");
    let _ = client.get("/second").expect(200);
    let lines = handover_testkit::until("two lines in the access log", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        (text.lines().count() >= 2).then_some(text)
    });
    let line: serde_json::Value = serde_json::from_str(lines.lines().nth(1).unwrap()).unwrap();
    assert_eq!(line["target"], "/second");
    assert_eq!(line["status"], 200);
    assert_eq!(line["client"], "127.0.0.1");
}
