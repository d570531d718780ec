//! Does the load tell the truth? Servers that fail in a known way, and what is counted.

use std::collections::BTreeMap;

use handover_testkit::origin::{Answer, Origin, Request, Then};
use handover_testkit::{Authority, Port, pattern, tls};

use super::{Mix, Part, Suite, run};

const SECONDS: f64 = 0.3;

/// A load of one client with a kept connection and a short rest, against a handler.
fn load_on(
    handler: impl Fn(&Request, &mut Answer<'_>) -> std::io::Result<Then> + Send + Sync + 'static,
) -> Part {
    let origin = Origin::with(handler);
    let mix = Mix { keepalive: 1, pause_ms: 5, limit_ms: 100, ..Mix::quiet(origin.address(), SECONDS) };
    run(&mix).unwrap().parts.remove("keepalive").unwrap()
}

fn kinds(part: &Part) -> Vec<&'static str> {
    part.failures.keys().copied().collect()
}

fn right(answer: &mut Answer<'_>) -> std::io::Result<Then> {
    answer.whole("200 OK", &[], &pattern::bytes(128))
}

#[test]
fn a_good_server_has_no_failures() {
    let part = load_on(|_, answer| right(answer));
    assert_eq!(part.failures, BTreeMap::new());
    assert!(part.ok > 1 && part.connects == 1, "{part:?}");
    assert_eq!(part.bytes, part.ok * 128);
}

#[test]
fn nobody_there_is_refused() {
    let port = Port::claim();
    let report = run(&Mix { keepalive: 1, ..Mix::quiet(port.address(), SECONDS) }).unwrap();
    assert_eq!(kinds(&report.parts["keepalive"]), ["refused"]);
}

#[test]
fn a_connection_closed_between_two_requests_is_no_failure() {
    let part = load_on(|_, answer| right(answer).map(|_| Then::Close));
    assert_eq!(part.failures, BTreeMap::new());
    assert!(part.closed_idle > 1 && part.ok > 1, "{part:?}");
}

#[test]
fn a_connection_closed_under_a_request_is_a_lost_request() {
    let part = load_on(|_, _| Ok(Then::Close));
    assert_eq!((kinds(&part), part.ok, part.closed_idle), (vec!["lost_request"], 0, 0));
    let part = load_on(|_, _| Ok(Then::Reset));
    assert_eq!(kinds(&part), ["lost_request"]);
}

#[test]
fn an_announced_close_is_no_failure() {
    let part = load_on(|_, answer| {
        answer.whole("200 OK", &[("Connection", "close")], &pattern::bytes(128))?;
        Ok(Then::Close)
    });
    assert_eq!((kinds(&part), part.closed_idle), (vec![], 0));
    assert!(part.ok > 1);
}

#[test]
fn bodies_are_checked_to_the_last_byte() {
    let part = load_on(|_, answer| {
        let mut body = pattern::bytes(128);
        body[127] ^= 1;
        answer.whole("200 OK", &[], &body)
    });
    assert_eq!(kinds(&part), ["wrong_bytes"]);
    let part = load_on(|_, answer| {
        answer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 128\r\n\r\n")?;
        answer.send(&pattern::bytes(127))?;
        Ok(Then::Close)
    });
    assert_eq!(kinds(&part), ["short_body"]);
}

#[test]
fn statuses_nonsense_and_silence_have_their_own_kinds() {
    let part = load_on(|_, answer| answer.whole("503 Service Unavailable", &[], b""));
    assert_eq!(kinds(&part), ["bad_status"]);
    let part = load_on(|_, answer| answer.send(b"nonsense\r\n\r\n").map(|()| Then::Next));
    assert_eq!(kinds(&part), ["bad_response"]);
    let part = load_on(|_, answer| {
        answer.gate("never").pass();
        Ok(Then::Close)
    });
    assert_eq!(kinds(&part), ["timeout"]);
}

#[test]
fn every_kind_of_load_is_served_by_the_origin_itself() {
    let (http, echo) = crate::peers::own_origin().unwrap();
    let mix = Mix {
        tcp_target: Some(echo),
        keepalive: 2,
        fresh_rate: 50,
        fresh_loop: 1,
        idle: 2,
        idle_every_ms: 50,
        websocket: 2,
        tcp: 2,
        echo_every_ms: 20,
        download: 1,
        upload: 1,
        threads: 2,
        ..Mix::quiet(http, 1.5)
    };
    let report = run(&mix).unwrap();
    assert_eq!(report.failures(), BTreeMap::new(), "{report}");
    let idle: Vec<_> = report.parts.iter().filter(|(_, part)| part.ok == 0).map(|(name, _)| *name).collect();
    assert_eq!((report.parts.len(), idle), (8, vec![]), "{report}");
}

/// A TLS origin with a pair for `localhost`.
fn secure_origin() -> Origin {
    let pair = Authority::new("root").pair(&["localhost"]);
    Origin::tls("origin", tls::origin_config(&pair, None))
}

#[test]
fn handshakes_and_kept_connections_over_tls_are_counted_and_on_the_terms_that_were_wished_for() {
    let origin = secure_origin();
    for suite in [Suite::Aes128, Suite::Aes256, Suite::Chacha20] {
        let mix = Mix {
            tls: Some(suite),
            tls_checked: true,
            keepalive: 1,
            pause_ms: 5,
            idle: 1,
            idle_every_ms: 20,
            fresh_loop: 1,
            ..Mix::quiet(origin.address(), SECONDS)
        };
        let report = run(&mix).unwrap();
        assert_eq!(report.failures(), BTreeMap::new(), "{report}");
        let (kept, fresh) = (&report.parts["keepalive"], &report.parts["fresh_loop"]);
        assert!(kept.ok > 1 && kept.connects == 1 && fresh.ok > 1 && fresh.connects >= fresh.ok, "{report}");
    }
    assert_eq!(origin.failed_handshakes(), 0);
}

#[test]
fn a_failed_handshake_has_its_own_kind() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = silent.local_addr().unwrap();
    std::thread::spawn(move || silent.incoming().for_each(drop));
    let mix = Mix { tls: Some(Suite::Aes128), keepalive: 1, ..Mix::quiet(target, SECONDS) };
    assert_eq!(kinds(&run(&mix).unwrap().parts["keepalive"]), ["handshake"]);
}

#[test]
fn held_connections_that_are_cut_are_counted_as_cut() {
    let (http, echo) = crate::peers::own_origin().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let cutting = silent.local_addr().unwrap();
    std::thread::spawn(move || silent.incoming().for_each(drop));
    let mix = Mix { tcp: 1, tcp_target: Some(cutting), ..Mix::quiet(http, SECONDS) };
    assert_eq!(kinds(&run(&mix).unwrap().parts["tcp"]), ["cut"]);
    let mix = Mix { tcp: 1, tcp_target: Some(echo), ..mix };
    assert_eq!(run(&mix).unwrap().failures(), BTreeMap::new());
}
