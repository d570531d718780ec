//! Upgrades between builds that write connections and the supervisor's state in different formats, in both directions.
//!
//! The other build is the program under test with a variable that makes it know only the first format, and with another
//! file as its executable (`examples/other_build.rs` of the testkit).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use handover_testkit::tunnel::Download;
use handover_testkit::{Everything, handover, proc, until};

/// The variable, and its value for the build that knows only the first format.
const FIRST: (&str, &str) = ("HANDOVER_STATE_FORMAT", "1");

fn knows_only_the_first(pid: u32) -> bool {
    proc::environment(pid).contains(&format!("{}={}", FIRST.0, FIRST.1))
}

#[test]
fn connections_go_along_to_a_build_that_knows_less_and_back_to_one_that_knows_more() {
    let server = Everything::start(handover!());
    let older = server.program.build("older", handover!(), FIRST.0, FIRST.1);
    let newer = server.program.build("newer", handover!(), FIRST.0, "");
    let mut idle = server.idle(3);
    let mut download = Download::over(server.connect(), "/slow/1000000?gate=rest");
    download.take(1000);
    let crowd = server.small_crowd();
    for (build, old) in [(&older, true), (&newer, false), (&older, true), (&newer, false)] {
        server.upgrade_from(build, &[]).expect_code(0);
        assert_eq!(knows_only_the_first(server.handover.worker()), old);
        assert_eq!(knows_only_the_first(server.handover.pid()), old, "the supervisor is that build, too");
        crowd.rounds(3);
        idle.ask();
        download.take(1000);
    }
    crowd.finish();
    server.origin.gate("rest").open();
    download.finish();
    until("supervisor and worker are alone", || (proc::tree(server.handover.pid()).len() == 2).then_some(()));
}

#[test]
fn an_upgrade_to_a_build_that_knows_more_is_taken_back_to_the_one_that_knows_less() {
    let server = Everything::start(handover!());
    let older = server.program.build("older", handover!(), FIRST.0, FIRST.1);
    let newer = server.program.build("newer", handover!(), FIRST.0, "");
    server.upgrade_from(&older, &[]).expect_code(0);
    let mut idle = server.idle(3);
    let crowd = server.small_crowd();
    for (build, other) in [(&newer, &older), (&older, &newer)] {
        server.upgrade_from(build, &["--confirm-within", "10m"]).expect_code(0);
        crowd.rounds(2);
        server.handover.cli(["cancel"]).expect_code(0);
        crowd.rounds(2);
        idle.ask();
        server.upgrade_from(other, &[]).expect_code(0);
        server.upgrade_from(build, &[]).expect_code(0);
    }
    crowd.finish();
    idle.ask();
}
