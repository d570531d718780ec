//! What a message costs: parsing and rewriting typical heads, finding the end of a chunked body.
//!
//! `cargo bench -p handover-http1` prints nanoseconds; with `HEAD_COST=name` only that part runs, a fixed number of
//! times, so that an instruction counter (`valgrind --tool=callgrind`, `perf stat`) can be put over it.
#![allow(clippy::print_stdout, clippy::panic, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::{Instant, SystemTime};

use handover_http1::*;

const REQUEST: &[u8] = b"GET /assets/app.js?v=20261122 HTTP/1.1\r\n\
    Host: www.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://www.example.com/index.html\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
    If-None-Match: \"5f3e-61a2b3c4d5e6f\"\r\n\
    Priority: u=2\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: origin/1.0\r\n\
    Date: Sun, 22 Nov 2026 03:00:00 GMT\r\n\
    Content-Type: text/javascript; charset=utf-8\r\n\
    Content-Length: 10240\r\n\
    Last-Modified: Sat, 21 Nov 2026 03:00:00 GMT\r\n\
    Connection: keep-alive\r\n\
    ETag: \"5f3e-61a2b3c4d5e6f\"\r\n\
    Cache-Control: public, max-age=3600\r\n\
    Vary: Accept-Encoding\r\n\
    Accept-Ranges: bytes\r\n\r\n";

const SMALL_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: bench\r\n\r\n";
const SMALL_RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 128\r\nServer: origin\r\n\r\n";

const ASKED: Asked = Asked { head: false, upgrade: false };
const TO: ToClient = ToClient { version: Version::Http11, keep_alive: true };

fn request<'b>(bytes: &'b [u8], with: impl FnOnce(&RequestHead<'_, 'b>)) {
    match parse_request_head(black_box(bytes), &HeadLimits::DEFAULT, &mut HeaderStorage::new()) {
        Ok(Parsed::Complete(head)) => with(black_box(&head)),
        other => panic!("{other:?}"),
    }
}

fn response<'b>(bytes: &'b [u8], with: impl FnOnce(&ResponseHead<'_, 'b>)) {
    match parse_response_head(black_box(bytes), ASKED, &HeadLimits::DEFAULT, &mut HeaderStorage::new()) {
        Ok(Parsed::Complete(head)) => with(black_box(&head)),
        other => panic!("{other:?}"),
    }
}

/// httparse alone, to compare with.
fn tokens(bytes: &[u8]) {
    let mut slots = [const { std::mem::MaybeUninit::uninit() }; 100];
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(black_box(bytes), &mut slots);
    assert!(black_box(parsed).is_ok());
}

fn main() {
    let only = std::env::var("HEAD_COST").ok();
    if only.is_none() && !std::env::args().any(|argument| argument == "--bench") {
        // Run as a test: nothing to assert about time.
        return;
    }
    let rules = RequestRules::default();
    let plain = RequestRules { omit_forwarded: true, ..RequestRules::default() };
    let none = HeaderRules::default();
    let client = ClientLabel::new(Some([192, 0, 2, 1].into()), false);
    let date = DateText::new(SystemTime::UNIX_EPOCH);
    let mut out = Vec::with_capacity(16 * 1024);
    let body = [&b"400\r\n"[..], &[b'x'; 1024], b"\r\n"].concat().repeat(8);
    let run = |name: &str, part: &mut dyn FnMut()| run(only.as_deref(), name, part);
    run("nothing", &mut || ());
    run("tokens", &mut || tokens(REQUEST));
    run("request parse", &mut || request(REQUEST, |_| ()));
    run("request parse+write", &mut || {
        request(REQUEST, |head| {
            out.clear();
            write_request_head(&mut out, head, &rules, &client, false);
        });
    });
    run("request parse+write, no Forwarded", &mut || {
        request(REQUEST, |head| {
            out.clear();
            write_request_head(&mut out, head, &plain, &client, false);
        });
    });
    run("small request parse+write", &mut || {
        request(SMALL_REQUEST, |head| {
            out.clear();
            write_request_head(&mut out, head, &rules, &client, false);
        });
    });
    run("response parse", &mut || response(RESPONSE, |_| ()));
    run("response parse+write", &mut || {
        response(RESPONSE, |head| {
            out.clear();
            black_box(write_response_head(&mut out, head, &none, TO, &date));
        });
    });
    run("small response parse+write", &mut || {
        response(SMALL_RESPONSE, |head| {
            out.clear();
            black_box(write_response_head(&mut out, head, &none, TO, &date));
        });
    });
    run("chunked body of 8 x 1 KiB", &mut || {
        let mut reader = BodyReader::response(BodyKind::Chunked);
        let mut at = 0;
        while at < body.len() {
            at += reader.next(black_box(&body[at..])).unwrap().consumed;
        }
    });
}

fn run(only: Option<&str>, name: &str, part: &mut dyn FnMut()) {
    const COUNTED: u32 = 100_000;
    const TIMED: u32 = 1_000_000;
    if let Some(only) = only {
        if only == name {
            (0..COUNTED).for_each(|_| part());
        }
        return;
    }
    // The best of several short runs: others may be using the machine.
    let best = (0..10)
        .map(|_| {
            let start = Instant::now();
            (0..TIMED / 10).for_each(|_| part());
            start.elapsed() / (TIMED / 10)
        })
        .min();
    println!("{name:36} {:?}", best.unwrap());
}
