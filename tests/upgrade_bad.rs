//! Binaries that are no good: each is sent away within the deadline, with its own last words, and nothing is left of it.
//! Hazards 4, 9 to 13.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use handover_testkit::bad::{Candidate, File, LAST_WORDS};
use handover_testkit::crowd::Idle;
use handover_testkit::{DEADLINE, Everything, Output, Process, handover, proc, text_at, until};

/// What an attempt may leave behind nothing of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rest {
    processes: Vec<(u32, u64)>,
    descriptors: Vec<BTreeMap<String, usize>>,
    files: Vec<String>,
}

/// A server with silent connections of every kind, to which bad binaries are given.
struct Scene {
    server: Everything,
    idle: Idle,
    before: Rest,
}

impl Scene {
    fn new() -> Self {
        let server = Everything::start(handover!());
        // After one upgrade all that it brings with it is there: the kept binary, say.
        server.upgrade(&[]).expect_code(0);
        let idle = server.idle(1);
        let mut this = Self { before: Rest::of(&server), idle, server };
        this.rest();
        this
    }

    /// Notes how it looks, once it is at rest.
    fn rest(&mut self) {
        let server = &self.server;
        self.before = until("it is at rest", || {
            let before = Rest::of(server);
            (Rest::of(server) == before && before.processes.len() == 2).then_some(before)
        });
    }

    /// Gives it a binary that must not get in: it must be answered so, and leave nothing behind.
    #[track_caller]
    fn refused(&mut self, what: &str, path: &Path) -> Output {
        self.rest();
        let worker = self.server.handover.worker();
        let upgrade =
            self.server.handover.command(["upgrade".as_ref(), "--binary".as_ref(), path.as_os_str()]);
        // The longest of all deadlines is that of preparing.
        let output = Process::start(upgrade).wait_within(DEADLINE * 2);
        assert_eq!(output.code, 11, "{what}: {}", output.all());
        assert!(output.all().contains("not ready"), "{what}: {}", output.all());
        assert!(output.all().contains("still serves"), "{what}: {}", output.all());
        let server = &self.server;
        let mut now = Rest::of(server);
        let before = &self.before;
        let deadline = handover_testkit::Deadline::usual();
        while !now.is_within(before) {
            assert!(!deadline.passed(), "{what}: something is left:\nbefore {before:#?}\nafter {now:#?}");
            std::thread::yield_now();
            now = Rest::of(server);
        }
        assert_eq!(server.handover.worker(), worker, "{what}: the old worker serves on");
        self.idle.ask();
        let last = server.last();
        assert_eq!((text_at(&last, "/kind"), text_at(&last, "/outcome")), ("upgrade", "not_ready"), "{last}");
        output
    }

    /// Hazard 9: whatever went wrong, the next good one succeeds.
    #[track_caller]
    fn the_next_upgrade_succeeds(&mut self) {
        self.server.upgrade(&[]).expect_code(0);
        self.idle.ask();
    }
}

impl Rest {
    /// Whether there is nothing that was not there before. (Kept connections to the origin end in their own time.)
    fn is_within(&self, before: &Self) -> bool {
        let descriptors = self.descriptors.iter().zip(&before.descriptors).all(|(now, before)| {
            now.iter().all(|(kind, count)| before.get(kind).is_some_and(|before| count <= before))
        });
        descriptors && (&self.processes, &self.files) == (&before.processes, &before.files)
    }

    fn of(server: &Everything) -> Self {
        let tree = proc::tree(server.handover.pid());
        Self {
            processes: tree.iter().map(|stat| (stat.pid, stat.began)).collect(),
            descriptors: tree.iter().map(|stat| proc::descriptor_kinds(stat.pid)).collect(),
            files: server.workspace.listing().into_iter().filter(|name| !name.starts_with("bin/")).collect(),
        }
    }
}

/// Hazards 9 and 12.
#[test]
fn a_file_that_cannot_be_run_is_refused_by_name_and_leaves_the_next_upgrade_possible() {
    let mut scene = Scene::new();
    for file in File::ALL {
        let path = file.make(&scene.server.program);
        let output = scene.refused(&format!("{file:?}"), &path);
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(output.all().contains(name), "{file:?}: {}", output.all());
        assert_eq!(scene.server.last()["steps"][0]["name"], "admission", "{file:?}: nothing was run");
    }
    scene.the_next_upgrade_succeeds();
}

/// Hazards 9, 10 and 11.
#[track_caller]
fn all_are_refused(candidates: &[Candidate]) {
    let mut scene = Scene::new();
    for candidate in candidates {
        let path = candidate.make(&scene.server.program, handover!());
        let output = scene.refused(&format!("{candidate:?}"), &path);
        let dies = matches!(
            candidate,
            Candidate::Exits
                | Candidate::LeavesAChild
                | Candidate::WorkerExits
                | Candidate::PrepareDies
                | Candidate::CommitDies
                | Candidate::ProbeDies
                | Candidate::AdoptDies
        );
        if dies {
            for line in LAST_WORDS {
                assert!(output.all().contains(line), "{candidate:?}: its last words: {}", output.all());
            }
        }
        scene.the_next_upgrade_succeeds();
    }
}

/// Hazard 11: while it starts.
#[test]
fn a_candidate_that_ends_or_lies_when_it_is_asked_about_itself_is_sent_away_with_its_last_words() {
    let quick: Vec<Candidate> =
        Candidate::IN_PREFLIGHT.into_iter().filter(|one| *one != Candidate::Hangs).collect();
    all_are_refused(&quick);
}

/// Hazard 10: with a deadline; it is killed and reaped.
#[test]
fn a_candidate_that_hangs_is_sent_away_in_time() {
    all_are_refused(&[Candidate::Hangs, Candidate::WorkerHangs]);
}

/// Hazard 11: as a worker.
#[test]
fn a_candidate_that_ends_or_lies_as_a_worker_is_sent_away_with_its_last_words() {
    all_are_refused(&[
        Candidate::WorkerExits,
        Candidate::WorkerSaysRubbish,
        Candidate::WorkerSpeaksAnother,
        Candidate::RefusesConfiguration,
        Candidate::PrepareDies,
        Candidate::CommitDies,
        Candidate::ProbeDies,
    ]);
}

/// Hazard 10.
#[test]
fn a_candidate_that_never_ends_preparing_is_sent_away_in_time() {
    all_are_refused(&[Candidate::PrepareHangs]);
}

/// Hazard 4: the old worker serves all the time, and its answers prove nothing for the candidate.
#[test]
fn an_old_worker_that_serves_does_not_make_a_silent_candidate_ready() {
    all_are_refused(&[Candidate::ProbeHangs]);
}

/// Hazard 13: what is refused or dies in the middle of the move ends, and the old worker never does.
#[test]
fn a_candidate_that_fails_in_the_middle_of_the_move_is_sent_away_and_no_connection_is_broken() {
    all_are_refused(&Candidate::IN_THE_MOVE);
}

/// Hazard 45: no successor is there, ever; the old worker stays.
#[test]
fn an_old_worker_never_leaves_before_somebody_else_serves() {
    let mut scene = Scene::new();
    let worker = scene.server.handover.worker();
    let crowd = scene.server.crowd();
    for _ in 0..5 {
        let path = Candidate::Exits.make(&scene.server.program, handover!());
        let _ = scene.server.upgrade_from(&path, &[]).expect_code(11);
        crowd.rounds(2);
    }
    assert_eq!(scene.server.handover.worker(), worker);
    crowd.finish();
    scene.the_next_upgrade_succeeds();
}
