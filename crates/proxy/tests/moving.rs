//! Live connections go from one worker's data plane to another's, and their clients notice nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::moves::{Move, Scene, hand_over};
use handover_testkit::crowd::Idle;

/// How often everything moves there and back in the long tests.
const TIMES: usize = 10;

#[test]
fn everything_goes_there_and_back_many_times_and_nobody_notices() {
    let scene = Scene::new([2, 3]);
    let [first, second] = &scene.planes;
    let mut idle = Idle::default();
    for _ in 0..50 {
        idle.add(scene.plain("web"));
        idle.add(scene.secure("secure"));
    }
    let crowd = scene.crowd();
    crowd.rounds(3);
    for _ in 0..TIMES {
        let moved = hand_over(first, second);
        assert!(moved["http"] >= 100, "{moved:?}");
        crowd.rounds(2);
        hand_over(second, first);
        crowd.rounds(2);
    }
    idle.ask();
    hand_over(first, second);
    idle.ask();
    crowd.finish();
}

#[test]
fn what_is_called_off_in_the_middle_goes_on_as_if_nothing_had_been() {
    let scene = Scene::new([2, 2]);
    let [first, second] = &scene.planes;
    let mut idle = Idle::default();
    for _ in 0..20 {
        idle.add(scene.plain("web"));
        idle.add(scene.secure("secure"));
    }
    let crowd = scene.crowd();
    crowd.rounds(2);
    for _ in 0..TIMES {
        // Before anything stands still, and then.
        Move::begin(first, second).thaw();
        let beginning = Move::begin(first, second);
        drop(beginning.freeze());
        beginning.thaw();
        crowd.rounds(1);
    }
    idle.ask();
    crowd.finish();
    assert_eq!(scene.total(0, "handover_failed_moves_total"), 0);
}
