//! Every crash point: an upgrade in calm weather, with one of the three processes killed at each happening, and then two
//! of them at each two happenings.
//!
//! Whatever died when: no rule is broken, somebody serves again soon, and the next upgrade succeeds.

use std::time::Duration;

use handover_lifecycle::{Asked, Caller, Phase, Request, Role, Terms, WorkerKey};

use crate::world::{Happening, World};

/// For no longer than this nobody accepts: a supervisor is started again within five seconds, and whoever takes over does
/// so at once; nobody hangs here.
const DARK: Duration = Duration::from_secs(10);

const SOON: Duration = Duration::from_millis(400);

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Supervisor,
    /// The worker that serves.
    Serving,
    /// The one that is to take over, is warm, or drains.
    Other,
}

const VICTIMS: [Victim; 3] = [Victim::Supervisor, Victim::Serving, Victim::Other];

/// What is asked for, and when.
#[derive(Clone, Copy, Debug)]
struct Story {
    name: &'static str,
    terms: Terms,
    then: Option<Request>,
    guard_fails: bool,
    dry_run: bool,
}

const PLAIN: Story =
    Story { name: "an upgrade", terms: Terms::NONE, then: None, guard_fails: false, dry_run: false };

const WITHIN: Terms = Terms { confirm: Some(Duration::from_secs(2)), guard: None };

const WATCHED: Terms = Terms { confirm: None, guard: Some(Duration::from_millis(300)) };

const STORIES: [Story; 9] = [
    PLAIN,
    Story { name: "confirmed", terms: WITHIN, then: Some(Request::Confirm), ..PLAIN },
    Story { name: "cancelled", terms: WITHIN, then: Some(Request::Cancel), ..PLAIN },
    Story { name: "not confirmed", terms: WITHIN, ..PLAIN },
    Story { name: "guarded", terms: WATCHED, ..PLAIN },
    Story { name: "failing its guard", terms: WATCHED, guard_fails: true, ..PLAIN },
    Story { name: "stopped", terms: WITHIN, then: Some(Request::Stop { now: false, limit: None }), ..PLAIN },
    Story { name: "drained", terms: WITHIN, then: Some(Request::Drain { limit: None }), ..PLAIN },
    Story { name: "a dry run", dry_run: true, ..PLAIN },
];

impl World {
    fn walk(seed: u64, story: &Story, kills: &[(u64, Victim)], traced: bool) -> Self {
        let mut world = Self::new(seed, None, traced);
        world.be_calm();
        world.guards_fail = story.guard_fails;
        world.start_supervisor();
        world.go_until(None);
        let begin = world.steps;
        let ask = |request| Happening::Ask(Asked { request, caller: Caller::Waiting, expected: None });
        world.later(SOON, ask(Request::Upgrade { dry_run: story.dry_run, terms: story.terms }));
        if let Some(request) = story.then {
            world.later(SOON * 4, ask(request));
        }
        let hup = Asked { request: Request::RELOAD, caller: Caller::Signal, expected: None };
        world.later(SOON * 2, Happening::Ask(hup));
        world.dark = Some((world.now, DARK));
        for (at, victim) in kills {
            world.go_to_step(begin + at);
            world.kill_victim(*victim);
        }
        world.go_until(None);
        world.dark = None;
        world.guards_fail = false;
        // A story may end with a stop.
        if world.driver.is_none() {
            world.start_supervisor();
        }
        world.end_calmly();
        world
    }

    fn kill_victim(&mut self, victim: Victim) {
        let of = |role: &dyn Fn(Option<Role>) -> bool| -> Option<WorkerKey> {
            self.workers.iter().find(|w| w.alive && !w.killed && role(self.role(w.key))).map(|w| w.key)
        };
        let worker = match victim {
            Victim::Supervisor => return self.kill_supervisor(),
            Victim::Serving => of(&|role| role == Some(Role::Serving)),
            Victim::Other => of(&|role| role.is_some_and(|role| role != Role::Serving)),
        };
        if let Some(worker) = worker {
            self.die(worker);
        }
    }

    /// Looks whether somebody accepts, while time passes.
    pub(crate) fn check_dark(&mut self) {
        let Some((since, limit)) = self.dark else { return };
        let phase = self.driver.as_ref().map(|driver| driver.view.phase);
        let stops = matches!(phase, Some(Phase::Draining | Phase::Drained | Phase::Stopping));
        if stops || self.workers.iter().any(|worker| worker.alive && worker.accepting) {
            self.dark = Some((self.now, limit));
        } else if self.now > since + limit {
            self.break_rule(1, format!("nobody has accepted since {since:?}"));
        }
    }
}

/// How many happenings a story has when nothing goes wrong.
fn length(seed: u64, story: &Story) -> u64 {
    let mut world = World::new(seed, None, false);
    world.be_calm();
    world.start_supervisor();
    world.go_until(None);
    let begin = world.steps;
    let whole = World::walk(seed, story, &[], false);
    assert!(whole.violation.is_none(), "{}: {:?}", story.name, whole.violation);
    whole.before_calm - begin
}

fn expect_well(seed: u64, story: &Story, kills: &[(u64, Victim)]) {
    if let Some(violation) = World::walk(seed, story, kills, false).violation {
        let trace = World::walk(seed, story, kills, true).trace.unwrap_or_default().join("\n");
        panic!("{trace}\n\n{} (seed {seed}) with {kills:?}: {violation:?}", story.name);
    }
}

#[test]
fn whichever_process_dies_at_whatever_point_somebody_serves_and_the_next_upgrade_succeeds() {
    for story in &STORIES {
        for seed in 0..8 {
            for at in 0..length(seed, story) {
                for victim in VICTIMS {
                    expect_well(seed, story, &[(at, victim)]);
                }
            }
        }
    }
}

#[test]
fn the_same_holds_for_any_two_deaths() {
    for story in &STORIES {
        let length = length(0, story);
        for first in 0..length {
            for second in first..(first + 25).min(length + 10) {
                for one in VICTIMS {
                    for other in VICTIMS {
                        expect_well(0, story, &[(first, one), (second, other)]);
                    }
                }
            }
        }
    }
}
