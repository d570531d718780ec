//! Upgrades, across the life of every process.

use handover_api::{Binary, Upgrade};
use handover_lifecycle::PendingEnd;
use jiff::Timestamp;

use super::*;

const TAKER: u64 = 70;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn binary(version: &str) -> Binary {
    Binary {
        version: Some(version.to_owned()),
        sha256: Some(version.repeat(64)),
        path: "/usr/bin/server".to_owned(),
    }
}

fn made(id: &str) -> UpgradeMade {
    UpgradeMade {
        operation_id: id.to_owned(),
        worker: TAKER,
        generation: 1,
        from: binary("1"),
        to: binary("2"),
    }
}

fn upgrade(id: &str, outcome: Outcome) -> Operation {
    let mut operation = running(id, Kind::Upgrade);
    operation.upgrade = Some(Box::new(Upgrade::new(binary("1"), binary("2"))));
    operation.finish(outcome, Cause::Done, 1.5);
    operation
}

/// Generation 1 serves, and an upgrade has begun of which nothing but its path is known.
fn begun(store: &FakeStore) -> Journal {
    let mut journal = store.journal(MIN_KEEP);
    intend(&mut journal, "a", 1, &files(b"one"));
    journal.commit(&generation(1)).unwrap();
    let mut operation = running("u", Kind::Upgrade);
    operation.upgrade = Some(Box::new(Upgrade::new(binary("1"), Binary::at("/usr/bin/server"))));
    journal.admit(&operation).unwrap();
    journal
}

/// The upgrade awaits confirmation until the 600th second.
fn on_probation(store: &FakeStore) -> Journal {
    let mut journal = begun(store);
    journal.intend_upgrade(&made("u"), Some(at(590))).unwrap();
    journal.pend_upgrade(&UnconfirmedUpgrade { made: made("u"), until: at(600) }).unwrap();
    journal.finish(&upgrade("u", Outcome::Applied)).unwrap();
    journal
}

/// The same journal, and as it is found by the next supervisor, and by one after the file was rewritten.
fn everywhere(store: &FakeStore, journal: &mut Journal, check: impl Fn(&Journal)) {
    check(journal);
    check(&store.journal(MIN_KEEP));
    let replaced = store.with(|disk| disk.replaced);
    for i in 0..40 {
        journal.finish(&operation(&format!("later-{i}"), Outcome::Unchanged)).unwrap();
    }
    assert!(store.with(|disk| disk.replaced) > replaced);
    check(journal);
    check(&store.journal(MIN_KEEP));
}

#[test]
fn an_upgrade_that_died_with_its_supervisor_names_the_worker_that_was_to_take_over() {
    let store = FakeStore::default();
    let mut journal = begun(&store);
    assert_eq!(store.journal(MIN_KEEP).recovery().unfinished[0].upgrade, None);
    journal.intend_upgrade(&made("u"), None).unwrap();
    everywhere(&store, &mut journal, |_| {
        let found = store.journal(MIN_KEEP);
        let unfinished = &found.recovery().unfinished[0];
        assert_eq!((unfinished.upgrade, unfinished.intent), (Some(TAKER), None));
        // What it was found to be since it began.
        let known = unfinished.operation.upgrade.as_ref().unwrap();
        assert_eq!((&known.from, &known.to), (&binary("1"), &binary("2")));
        assert_eq!(found.unconfirmed_upgrade(), None);
    });
}

#[test]
fn an_upgrade_that_awaits_confirmation_is_found_by_the_next_supervisor_with_its_deadline() {
    let store = FakeStore::default();
    let mut journal = on_probation(&store);
    everywhere(&store, &mut journal, |journal| {
        let unconfirmed = journal.unconfirmed_upgrade().unwrap();
        assert_eq!((&unconfirmed.made, unconfirmed.until), (&made("u"), at(600)));
        assert_eq!(unconfirmed.left(at(0)), Duration::from_secs(600));
        assert_eq!(unconfirmed.left(at(601)), Duration::ZERO);
        // It is no change of what is served.
        assert_eq!((journal.unconfirmed(), journal.last_good()), (None, Some(1)));
    });
}

#[test]
fn the_intent_has_the_deadline_already() {
    let store = FakeStore::default();
    let mut journal = begun(&store);
    journal.intend_upgrade(&made("u"), Some(at(590))).unwrap();
    everywhere(&store, &mut journal, |journal| {
        assert_eq!(journal.unconfirmed_upgrade().unwrap().until, at(590));
    });
}

#[test]
fn an_upgrade_of_which_nothing_came_awaits_nothing() {
    for outcome in [Outcome::NotReady, Outcome::Rejected, Outcome::RolledBack, Outcome::Unknown] {
        let store = FakeStore::default();
        let mut journal = begun(&store);
        journal.intend_upgrade(&made("u"), Some(at(590))).unwrap();
        journal.finish(&upgrade("u", outcome)).unwrap();
        everywhere(&store, &mut journal, |journal| assert_eq!(journal.unconfirmed_upgrade(), None));
    }
}

#[test]
fn an_upgrade_that_is_confirmed_or_taken_back_awaits_nothing_more() {
    let ends: [fn(&mut Journal); 3] = [
        |journal| journal.confirm_upgrade("c", TAKER).unwrap(),
        |journal| journal.upgrade_over(TAKER, PendingEnd::NotConfirmed).unwrap(),
        |journal| journal.upgrade_over(TAKER, PendingEnd::Replaced).unwrap(),
    ];
    for end in ends {
        let store = FakeStore::default();
        let mut journal = on_probation(&store);
        end(&mut journal);
        everywhere(&store, &mut journal, |journal| assert_eq!(journal.unconfirmed_upgrade(), None));
    }
    // That of another worker is another upgrade.
    let store = FakeStore::default();
    let mut journal = on_probation(&store);
    journal.upgrade_over(TAKER + 1, PendingEnd::Cancelled).unwrap();
    assert!(journal.unconfirmed_upgrade().is_some());
}

#[test]
fn what_decides_about_an_upgrade_and_dies_is_known_to_have_been_about_it() {
    let unfinished = |store: &FakeStore, id: &str| {
        let found = store.journal(MIN_KEEP);
        let mut all = found.recovery().unfinished.iter();
        let one = all.find(|one| one.operation.id == id).unwrap();
        (one.upgrade, one.intent)
    };
    let store = FakeStore::default();
    let mut journal = on_probation(&store);
    journal.admit(&running("back", Kind::Rollback)).unwrap();
    assert_eq!(unfinished(&store, "back"), (Some(TAKER), None));
    let store = FakeStore::default();
    let mut journal = on_probation(&store);
    journal.admit(&running("c", Kind::Confirm)).unwrap();
    assert_eq!(unfinished(&store, "c"), (None, None));
    journal.confirm_upgrade("c", TAKER).unwrap();
    assert_eq!(unfinished(&store, "c"), (None, Some(1)));
}

#[test]
fn the_binary_to_go_back_to_is_the_last_one_of_which_a_copy_was_kept() {
    let store = FakeStore::default();
    let mut journal = begun(&store);
    assert_eq!(journal.previous_binary(), None);
    journal.keep_binary(&binary("1")).unwrap();
    journal.keep_binary(&binary("2")).unwrap();
    everywhere(&store, &mut journal, |journal| assert_eq!(journal.previous_binary(), Some(&binary("2"))));
}

#[test]
fn what_cannot_be_written_does_not_happen_and_what_has_happened_is_known_all_the_same() {
    let store = FakeStore::default();
    let mut journal = on_probation(&store);
    store.with(|disk| disk.room = Some(disk.bytes.len()));
    journal.confirm_upgrade("c", TAKER).unwrap_err();
    assert!(journal.unconfirmed_upgrade().is_some(), "nobody has confirmed it");
    journal.upgrade_over(TAKER, PendingEnd::NotConfirmed).unwrap_err();
    assert_eq!(journal.unconfirmed_upgrade(), None);
    let store = FakeStore::default();
    let mut journal = begun(&store);
    store.with(|disk| disk.room = Some(disk.bytes.len()));
    journal.intend_upgrade(&made("u"), Some(at(590))).unwrap_err();
    assert_eq!(journal.unconfirmed_upgrade(), None);
}
