//! A crash at every call to the disk: of the process, of the machine, or of the disk itself.
//!
//! The life of a server is played: changes that are applied, confirmed, extended, cancelled, not confirmed, rolled back,
//! guarded; old generations are removed. At each call something goes wrong. What the next supervisor finds must be a
//! picture that was true at some moment, no earlier than the last answer; and whatever it is given of a generation must
//! be that generation.

use handover_lifecycle::PendingEnd;
use jiff::Timestamp;

use super::disk::Fate;
use super::*;

/// What can be known of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Picture {
    serving: Option<u64>,
    order: Vec<u64>,
    unconfirmed: Option<Unconfirmed>,
    unfinished: Vec<(String, Option<u64>)>,
    ended: Vec<String>,
}

impl Picture {
    fn of(journal: &Journal) -> Self {
        let unfinished = journal.contents.unfinished.iter();
        let mut ended: Vec<String> = journal.contents.history.iter().map(|o| o.id.clone()).collect();
        ended.sort();
        Self {
            serving: journal.contents.serving(),
            order: journal.contents.order.clone(),
            unconfirmed: journal.unconfirmed().cloned().map(|change| Unconfirmed {
                // When it was taken back is the time at which the test ran.
                until: change.until.min(at(0)),
                ..change
            }),
            unfinished: unfinished.map(|u| (u.operation.id.clone(), u.intent)).collect(),
            ended,
        }
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_500_000_000 + seconds).unwrap()
}

/// The files of a generation: one changes with each, one never, one now and then.
fn bundle_of(number: u64) -> Bundle {
    let mut bundle = files(format!("configuration {number}").as_bytes());
    bundle.insert(Path::new("/etc/always"), Arc::from(&b"always"[..])).unwrap();
    let now_and_then = format!("{}", number / 2);
    bundle.insert(Path::new("/etc/now-and-then"), Arc::from(now_and_then.as_bytes())).unwrap();
    bundle
}

/// One call to the journal.
type Step = Box<dyn Fn(&mut Journal) -> Result<(), JournalError>>;

#[derive(Default)]
struct Script {
    steps: Vec<Step>,
    /// After these the caller was told that the operation has ended.
    answers: Vec<usize>,
    /// Steps that write an intent.
    intents: Vec<usize>,
}

impl Script {
    fn step(&mut self, step: impl Fn(&mut Journal) -> Result<(), JournalError> + 'static) {
        self.steps.push(Box::new(step));
    }

    fn admit(&mut self, id: &'static str, kind: Kind) {
        self.step(move |journal| journal.admit(&running(id, kind)));
    }

    fn change(&mut self, id: &'static str, number: u64, back_to: Option<u64>, confirm: Option<Timestamp>) {
        self.intents.push(self.steps.len());
        self.step(move |journal| {
            let bundle = bundle_of(number);
            journal.intend(&Intent {
                operation_id: id,
                generation: number,
                bundle: &bundle,
                back_to,
                confirm,
            })
        });
        self.serve(number);
        if let (Some(back_to), Some(until)) = (back_to, confirm) {
            self.pend(id, number, back_to, until);
        }
    }

    fn serve(&mut self, number: u64) {
        self.step(move |journal| {
            let committed_at = "2026-01-01T00:00:00.000Z".to_owned();
            journal.commit(&Generation { committed_at, ..generation(number) })
        });
    }

    fn pend(&mut self, id: &'static str, generation: u64, back_to: u64, until: Timestamp) {
        self.step(move |journal| {
            journal.pend(&Unconfirmed { operation_id: id.to_owned(), generation, back_to, until })
        });
    }

    fn over(&mut self, generation: u64, how: PendingEnd) {
        self.step(move |journal| journal.pending_over(generation, how));
    }

    fn finish(&mut self, id: &'static str, outcome: Outcome, made: Option<u64>) {
        self.step(move |journal| {
            let mut operation = operation(id, outcome);
            operation.generation = made;
            journal.finish(&operation)
        });
        self.answers.push(self.steps.len());
        self.step(|journal| {
            journal.tidy();
            Ok(())
        });
    }
}

fn life() -> Script {
    let mut life = Script::default();
    life.step(|journal| {
        journal.set_generations(2);
        Ok(())
    });
    life.admit("start", Kind::Start);
    life.change("start", 1, None, None);
    life.finish("start", Outcome::Applied, Some(1));
    life.admit("confirmed", Kind::Reload);
    life.change("confirmed", 2, Some(1), Some(at(100)));
    life.finish("confirmed", Outcome::Applied, Some(2));
    life.admit("extend", Kind::Reload);
    life.pend("extend", 2, 1, at(200));
    life.finish("extend", Outcome::Unchanged, None);
    life.admit("confirm", Kind::Confirm);
    life.step(|journal| journal.confirm("confirm", 2));
    life.finish("confirm", Outcome::Applied, None);
    life.admit("expires", Kind::Reload);
    life.change("expires", 3, Some(2), Some(at(300)));
    life.finish("expires", Outcome::Applied, Some(3));
    life.admit("own", Kind::Rollback);
    life.serve(2);
    life.over(3, PendingEnd::NotConfirmed);
    life.finish("own", Outcome::RolledBack, None);
    life.admit("guarded", Kind::Reload);
    life.change("guarded", 4, Some(2), None);
    life.serve(2);
    life.finish("guarded", Outcome::RolledBack, Some(4));
    life.admit("next", Kind::Reload);
    life.change("next", 5, Some(2), Some(at(400)));
    life.finish("next", Outcome::Applied, Some(5));
    life.admit("cancel", Kind::Cancel);
    life.serve(2);
    life.over(5, PendingEnd::Cancelled);
    life.finish("cancel", Outcome::Applied, None);
    life.admit("rollback", Kind::Rollback);
    life.change("rollback", 1, Some(2), None);
    life.finish("rollback", Outcome::Applied, Some(1));
    for (number, id) in [(6, "six"), (7, "seven"), (8, "eight")] {
        life.admit(id, Kind::Reload);
        life.change(id, number, Some(number.saturating_sub(1)), None);
        life.finish(id, Outcome::Applied, Some(number));
    }
    life
}

/// Plays it until the process is dead; says how many steps were done. Errors are what a driver makes of them: the
/// operation goes on to its outcome.
fn play(store: &FakeStore, life: &Script) -> usize {
    let mut journal = store.journal(DEFAULT_KEEP);
    for (done, step) in life.steps.iter().enumerate() {
        let _ = step(&mut journal);
        if store.is_dead() {
            return done;
        }
    }
    life.steps.len()
}

/// The pictures before the first step and after each.
fn pictures(life: &Script) -> (Vec<Picture>, usize) {
    let store = FakeStore::default();
    let mut journal = store.journal(DEFAULT_KEEP);
    let mut pictures = vec![Picture::of(&journal)];
    for step in &life.steps {
        step(&mut journal).unwrap();
        pictures.push(Picture::of(&journal));
        assert_eq!(Picture::of(&store.journal(DEFAULT_KEEP)), *pictures.last().unwrap());
    }
    let store = FakeStore::default();
    play(&store, life);
    (pictures, store.with(|disk| disk.calls))
}

/// Everything that it gives out is whole, and what it needs is there.
fn check_generations(journal: &Journal, synced_badly: bool, what: &str) {
    let needed = [journal.contents.serving(), journal.last_good()];
    let in_doubt: Vec<u64> = journal.contents.unfinished.iter().filter_map(|u| u.intent).collect();
    for number in journal.kept() {
        match journal.bundle(number) {
            Ok(bundle) => assert_eq!(bundle, bundle_of(number), "{what}: generation {number}"),
            Err(error) => {
                let may_be_lost = in_doubt.contains(&number) || !needed.contains(&Some(number));
                assert!(may_be_lost, "{what}: {error}");
            }
        }
    }
    // What could not be synced is not kept; the journal says so.
    let kept = journal.kept();
    let needed = needed.into_iter().flatten().filter(|number| kept.contains(number) || !synced_badly);
    for number in needed.filter(|number| !in_doubt.contains(number)) {
        let bundle = journal.bundle(number);
        assert!(bundle.is_ok(), "{what}: generation {number} is needed: {}", bundle.unwrap_err());
    }
}

/// After every crash the journal goes on: a change can be written and read again.
fn check_going_on(store: &FakeStore, mut journal: Journal, synced_badly: bool, what: &str) {
    journal.tidy();
    check_generations(&journal, synced_badly, what);
    let next = journal.last_generation() + 1;
    let bundle = bundle_of(next);
    journal.admit(&running("after", Kind::Reload)).unwrap();
    let intent =
        Intent { operation_id: "after", generation: next, bundle: &bundle, back_to: None, confirm: None };
    journal.intend(&intent).unwrap();
    journal.commit(&generation(next)).unwrap();
    journal.finish(&operation("after", Outcome::Applied)).unwrap();
    journal.tidy();
    drop(journal);
    let journal = store.after_power_loss(|_| 0).journal(DEFAULT_KEEP);
    assert_eq!(journal.bundle(next).unwrap(), bundle, "{what}");
}

#[test]
fn a_process_that_is_killed_at_any_call_leaves_what_was_true_before_or_after_that_call() {
    let life = life();
    let (pictures, calls) = pictures(&life);
    for fate in [Fate::Killed, Fate::KilledHalfway] {
        for call in 1..=calls {
            let what = format!("{fate:?} at call {call} of {calls}");
            let store = FakeStore::default();
            store.with(|disk| disk.fate = Some((call, fate)));
            let done = play(&store, &life);
            let store = store.after_a_kill();
            let journal = store.journal(DEFAULT_KEEP);
            let found = Picture::of(&journal);
            let may_be = &pictures[done..=(done + 1).min(life.steps.len())];
            assert!(may_be.contains(&found), "{what}, in step {done}: {found:#?}\nnot one of {may_be:#?}");
            check_generations(&journal, false, &what);
            check_going_on(&store, journal, false, &what);
        }
    }
}

#[test]
fn a_power_failure_at_any_call_leaves_what_was_true_since_the_last_answer() {
    let life = life();
    let (pictures, calls) = pictures(&life);
    for call in 1..=calls {
        for seed in 0..8_usize {
            let what = format!("power failure {seed} at call {call} of {calls}");
            let store = FakeStore::default();
            store.with(|disk| disk.fate = Some((call, Fate::KilledHalfway)));
            let done = play(&store, &life);
            let mut chosen = seed;
            let store = store.after_power_loss(|of| {
                chosen =
                    chosen.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (chosen >> 33) % of
            });
            let journal = store.journal(DEFAULT_KEEP);
            let found = Picture::of(&journal);
            let answered = life.answers.iter().copied().filter(|answer| *answer <= done).max().unwrap_or(0);
            let may_be = &pictures[answered..=(done + 1).min(life.steps.len())];
            assert!(may_be.contains(&found), "{what}, in step {done}: {found:#?}\nnot one of {may_be:#?}");
            check_generations(&journal, false, &what);
            check_going_on(&store, journal, false, &what);
        }
    }
}

#[test]
fn a_call_that_fails_costs_its_operation_and_nothing_else() {
    let life = life();
    let (_, calls) = pictures(&life);
    for fate in [Fate::FailsOnce, Fate::IsFull] {
        for call in 1..=calls {
            let what = format!("{fate:?} at call {call} of {calls}");
            let store = FakeStore::default();
            store.with(|disk| disk.fate = Some((call, fate)));
            let mut journal = store.journal(DEFAULT_KEEP);
            let mut skip_to = 0;
            for (index, step) in life.steps.iter().enumerate() {
                if index < skip_to {
                    continue;
                }
                let result = step(&mut journal);
                // What is not written down is not done.
                if result.is_err() && life.intents.contains(&index) {
                    let answer = life.answers.iter().find(|answer| **answer > index).unwrap();
                    let id = journal.contents.unfinished.last().map(|u| u.operation.id.clone());
                    let _ = id.map(|id| journal.finish(&operation(&id, Outcome::NotReady)));
                    skip_to = *answer;
                }
            }
            for number in journal.kept() {
                if let Ok(bundle) = journal.bundle(number) {
                    assert_eq!(bundle, bundle_of(number), "{what}");
                }
            }
            // There is room again, and what is in memory is written.
            store.with(|disk| disk.mended());
            journal.check().unwrap_or_else(|error| panic!("{what}: {error}"));
            journal.finish(&operation("last", Outcome::Unchanged)).unwrap();
            let known = Picture::of(&journal);
            drop(journal);
            let store = store.after_power_loss(|_| 0);
            let journal = store.journal(DEFAULT_KEEP);
            assert_eq!(Picture::of(&journal), known, "{what}");
            check_going_on(&store, journal, true, &what);
        }
    }
}
