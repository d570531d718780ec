//! Many upgrades, one after the other, under load: nothing piles up. Hazards 15 and 18.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use handover_testkit::{Deadline, Everything, handover, proc, until};

/// Descriptors of supervisor and worker by kind, without those of connections that come and go.
fn descriptors(server: &Everything) -> [BTreeMap<String, usize>; 2] {
    [server.handover.pid(), server.handover.worker()].map(proc::descriptor_kinds)
}

/// What a process may hold that says only which binary it is or was.
fn without_names(kinds: &BTreeMap<String, usize>) -> BTreeMap<String, usize> {
    let mut sums = BTreeMap::new();
    for (kind, count) in kinds {
        let kind = if kind.contains("/bin/handover") { "binary" } else { kind };
        *sums.entry(kind.to_owned()).or_default() += count;
    }
    sums
}

/// Hazard 18: the descriptor tables after fifty are those after one; hazard 15: so are the processes; and nobody noticed.
#[test]
fn after_fifty_upgrades_under_load_processes_and_descriptors_are_those_after_one() {
    const UPGRADES: usize = 50;
    let server = Everything::start(handover!());
    let pid = server.handover.pid();
    let mut idle = server.idle(3);
    let rest = |server: &Everything| {
        // Connections to the origin that are kept for the next request are as many as were needed at once.
        server.origin.cut();
        until("it is at rest", || {
            let before = descriptors(server).map(|kinds| without_names(&kinds));
            let after = descriptors(server).map(|kinds| without_names(&kinds));
            (before == after && proc::tree(pid).len() == 2).then_some(before)
        })
    };
    let versions = [server.program.version("a"), server.program.version("b")];
    let upgrade = |number: usize| {
        let output = server.upgrade_from(&versions[number % 2], &[]);
        assert_eq!(output.code, 0, "upgrade {number}: {}", output.all());
    };
    upgrade(0);
    upgrade(1);
    idle.ask();
    let first = rest(&server);
    let crowd = server.small_crowd();
    for number in 2..UPGRADES {
        upgrade(number);
        if number.is_multiple_of(10) {
            crowd.rounds(1);
            idle.ask();
        }
    }
    crowd.finish();
    idle.ask();
    let deadline = Deadline::usual();
    loop {
        let now = rest(&server);
        let more = |(now, first): (&BTreeMap<String, usize>, &BTreeMap<String, usize>)| {
            now.iter().any(|(kind, count)| *count > first.get(kind).copied().unwrap_or_default())
        };
        if !now.iter().zip(&first).any(more) {
            break;
        }
        assert!(!deadline.passed(), "descriptors pile up:\nafter one {first:#?}\nnow {now:#?}");
        std::thread::yield_now();
    }
    assert_eq!(proc::tree(pid).len(), 2, "supervisor and worker, nobody else");
    assert_eq!(server.handover.pid(), pid);
    let kept = std::fs::read_dir(server.workspace.path("state/handover/binaries")).unwrap().count();
    assert!(kept <= 2, "{kept} binaries are kept");
}
