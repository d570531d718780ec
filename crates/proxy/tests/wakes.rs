//! Requests for programs that are started when somebody waits for them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::pausing::{copies, copy};
use common::{Plane, WEB};
use handover::traffic::{Target, Traffic, Wake};
use handover_testkit::http::{Connection, request_bytes};
use handover_testkit::origin::Origin;
use handover_testkit::{DEADLINE, until};

/// Its time to connect is short: nobody could wait so long for a start.
fn scene() -> Plane {
    let service = "[program.app]\ncommand = [\"/bin/true\"]\n\n[services.app]\nprogram = \"app\"\nconnect_timeout = \"100ms\"\n\n\
                   [[routes]]\nservice = \"app\"\n\n";
    Plane::serve(&[WEB, service].concat())
}

fn wakes(limit: Duration, max_held: u32) -> Traffic {
    Traffic { wakes: [("app".to_owned(), Wake { limit, max_held })].into(), ..Traffic::default() }
}

fn ask(plane: &Plane) -> Connection {
    let mut client = plane.connect("web");
    client.send(request_bytes("GET", "/", &[], b""));
    client
}

#[test]
fn who_waits_for_a_start_waits_longer_than_for_a_connection_and_not_for_ever() {
    let plane = scene();
    plane.traffic(wakes(DEADLINE, 10));
    let mut first = ask(&plane);
    plane.wait_for_held(1);
    // Somebody who came as late as this would not be waited for any more.
    let other = scene();
    let response = ask(&other).response("GET").expect(503);
    assert_eq!(response.header("retry-after"), Some("1"));
    plane.wait_for_held(1);
    let origin = Origin::start("one");
    plane.traffic(copies(&[copy("app/1", origin.address(), true)]));
    assert_eq!(first.response("GET").expect(200).text(), "one\n");

    plane.traffic(wakes(Duration::from_millis(100), 10));
    let response = ask(&plane).response("GET").expect(503);
    assert_eq!(response.header("retry-after"), Some("1"));
}

#[test]
fn it_is_not_waited_for_any_longer_when_it_fails() {
    let plane = scene();
    plane.traffic(wakes(DEADLINE, 10));
    let mut client = ask(&plane);
    plane.wait_for_held(1);
    plane.resume();
    let _ = client.response("GET").expect(503);
}

#[test]
fn at_the_limit_who_comes_is_refused_and_counted_and_whoever_goes_makes_room() {
    let plane = scene();
    plane.traffic(wakes(DEADLINE, 2));
    let first = ask(&plane);
    let _second = ask(&plane);
    plane.wait_for_held(2);
    let response = ask(&plane).response("GET").expect(503);
    assert_eq!(response.header("retry-after"), Some("1"));
    assert_eq!(plane.metric("handover_held_refused_total"), 1);
    // Said again, they are still there.
    plane.traffic(wakes(DEADLINE, 2));
    let _ = ask(&plane).response("GET").expect(503);
    drop(first);
    plane.wait_for_held(1);
    let _third = ask(&plane);
    plane.wait_for_held(2);
}

#[test]
fn whether_anything_was_passed_to_a_program_is_seen_however_short_it_was() {
    let plane = scene();
    let origin = Origin::start("one");
    plane.traffic(copies(&[copy("app/1", origin.address(), true)]));
    let begun = || plane.quiet(&Target::Program("app".to_owned())).begun.unwrap();
    let before = begun();
    assert_eq!(begun(), before);
    let mut client = plane.connect("web");
    for _ in 0..2 {
        let before = begun();
        let _ = client.get("/").expect(200);
        until("it is counted", || (begun() != before).then_some(()));
    }
    let before = begun();
    assert_eq!(begun(), before, "a connection that is kept asks for nothing");
    assert_eq!(plane.quiet(&Target::Service("app".to_owned())).begun, None);
}
