//! Changes that await confirmation, across the life of every process.

use handover_lifecycle::PendingEnd;
use jiff::Timestamp;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// Generation 1 serves; generation 2 awaits confirmation until the 600th second.
fn on_probation(store: &FakeStore) -> Journal {
    let mut journal = store.journal(MIN_KEEP);
    intend(&mut journal, "a", 1, &files(b"one"));
    journal.commit(&generation(1)).unwrap();
    change(&mut journal, "b", 2, 1);
    journal
}

fn change(journal: &mut Journal, id: &str, number: u64, back_to: u64) {
    journal.admit(&running(id, Kind::Reload)).unwrap();
    let bundle = files(format!("bytes {number}").as_bytes());
    let (back, confirm) = (Some(back_to), Some(at(590)));
    let intent = Intent { operation_id: id, generation: number, bundle: &bundle, back_to: back, confirm };
    journal.intend(&intent).unwrap();
    journal.commit(&generation(number)).unwrap();
    let operation_id = id.to_owned();
    let change = Unconfirmed { operation_id, generation: number, back_to, until: at(600) };
    journal.pend(&change).unwrap();
    journal.finish(&operation(id, Outcome::Applied)).unwrap();
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
fn a_change_that_awaits_confirmation_is_found_by_the_next_supervisor_with_its_deadline() {
    let store = FakeStore::default();
    let mut journal = on_probation(&store);
    everywhere(&store, &mut journal, |journal| {
        let change = journal.unconfirmed().unwrap();
        assert_eq!((change.generation, change.back_to, change.until), (2, 1, at(600)));
        assert_eq!(change.operation_id, "b");
        assert_eq!(change.left(at(0)), Duration::from_secs(600));
        assert_eq!(change.left(at(601)), Duration::ZERO);
        assert_eq!(journal.last_good(), Some(1));
        assert_eq!((journal.kept(), journal.previous()), (vec![1, 2], Some(1)));
    });
}

#[test]
fn an_extended_change_keeps_who_made_it_and_has_the_new_deadline() {
    let store = FakeStore::default();
    let mut journal = on_probation(&store);
    journal.admit(&running("later", Kind::Reload)).unwrap();
    let longer = Unconfirmed { operation_id: "later".to_owned(), generation: 2, back_to: 1, until: at(900) };
    journal.pend(&longer).unwrap();
    // It changes nothing itself, and takes nothing away.
    journal.finish(&operation("later", Outcome::Unchanged)).unwrap();
    everywhere(&store, &mut journal, |journal| {
        let change = journal.unconfirmed().unwrap();
        assert_eq!((change.operation_id.as_str(), change.until), ("b", at(900)));
    });
}

#[test]
fn a_confirmed_change_is_good() {
    let store = FakeStore::default();
    let mut journal = on_probation(&store);
    journal.admit(&running("c", Kind::Confirm)).unwrap();
    journal.confirm("c", 2).unwrap();
    // Had the supervisor died here, its successor would know that it was confirmed.
    assert_eq!(store.journal(MIN_KEEP).recovery().unfinished[0].intent, Some(2));
    journal.finish(&operation("c", Outcome::Applied)).unwrap();
    everywhere(&store, &mut journal, |journal| {
        assert_eq!((journal.unconfirmed(), journal.last_good()), (None, Some(2)));
    });
}

#[test]
fn a_cancelled_change_leaves_nothing_and_a_rollback_does_not_go_to_it() {
    let store = FakeStore::default();
    let mut journal = on_probation(&store);
    journal.admit(&running("c", Kind::Cancel)).unwrap();
    assert_eq!(store.journal(MIN_KEEP).recovery().unfinished[0].intent, Some(1), "what it is to bring back");
    journal.commit(&generation(1)).unwrap();
    journal.pending_over(2, PendingEnd::Cancelled).unwrap();
    journal.finish(&operation("c", Outcome::Applied)).unwrap();
    everywhere(&store, &mut journal, |journal| {
        assert_eq!((journal.unconfirmed(), journal.last_good(), journal.previous()), (None, Some(1), None));
        assert!(journal.generation(1).unwrap().serving);
        assert_eq!(journal.kept(), [1, 2]);
    });
}

#[test]
fn a_change_that_was_not_confirmed_stays_so_until_something_newer_serves() {
    let store = FakeStore::default();
    let mut journal = on_probation(&store);
    journal.admit(&running("c", Kind::Rollback)).unwrap();
    assert_eq!(store.journal(MIN_KEEP).recovery().unfinished[0].intent, Some(1), "what it is to bring back");
    journal.commit(&generation(1)).unwrap();
    journal.pending_over(2, PendingEnd::NotConfirmed).unwrap();
    journal.finish(&operation("c", Outcome::RolledBack)).unwrap();
    everywhere(&store, &mut journal, |journal| {
        let change = journal.unconfirmed().unwrap();
        assert_eq!((change.generation, change.back_to), (2, 1));
        assert_eq!((journal.last_good(), journal.previous()), (Some(1), None));
    });
    // A start that loads the generation before it again does not change that.
    intend(&mut journal, "start", 1, &files(b"one"));
    journal.commit(&generation(1)).unwrap();
    everywhere(&store, &mut journal, |journal| assert!(journal.unconfirmed().is_some()));
    intend(&mut journal, "d", 3, &files(b"three"));
    journal.commit(&generation(3)).unwrap();
    everywhere(&store, &mut journal, |journal| {
        assert_eq!(
            (journal.unconfirmed(), journal.last_good(), journal.previous()),
            (None, Some(3), Some(1))
        );
    });
}

#[test]
fn a_change_whose_workers_died_is_over_before_its_time() {
    let store = FakeStore::default();
    let mut journal = on_probation(&store);
    journal.commit(&generation(1)).unwrap();
    journal.pending_over(2, PendingEnd::WorkersDied).unwrap();
    let now = Timestamp::now();
    everywhere(&store, &mut journal, |journal| {
        assert!(journal.unconfirmed().unwrap().until <= now + Duration::from_secs(1));
    });
    // Asked for by its number, it is wanted after all.
    intend(&mut journal, "d", 2, &files(b"bytes 2"));
    journal.commit(&generation(2)).unwrap();
    everywhere(&store, &mut journal, |journal| assert_eq!(journal.unconfirmed(), None));
}

#[test]
fn a_change_that_never_came_to_serve_or_failed_its_guard_is_no_unconfirmed_one() {
    for outcome in [Outcome::RolledBack, Outcome::NotReady, Outcome::Rejected] {
        let store = FakeStore::default();
        let mut journal = on_probation(&store);
        journal.confirm("c", 2).unwrap();
        journal.admit(&running("d", Kind::Reload)).unwrap();
        let bundle = files(b"three");
        let confirm = Some(at(2_000));
        let intent = Intent { operation_id: "d", generation: 3, bundle: &bundle, back_to: Some(2), confirm };
        journal.intend(&intent).unwrap();
        assert_eq!(store.journal(MIN_KEEP).unconfirmed().unwrap().until, at(2_000), "it may serve by now");
        journal.finish(&operation("d", outcome)).unwrap();
        everywhere(&store, &mut journal, |journal| {
            assert_eq!((journal.unconfirmed(), journal.last_good()), (None, Some(2)), "{outcome}");
        });
    }
}

#[test]
fn a_deadline_that_could_not_be_written_is_not_remembered() {
    let store = FakeStore::default();
    let mut journal = on_probation(&store);
    let longer = Unconfirmed { operation_id: "later".to_owned(), generation: 2, back_to: 1, until: at(900) };
    store.with(|disk| disk.room = Some(disk.bytes.len() + 40));
    assert!(journal.pend(&longer).is_err());
    assert!(journal.confirm("c", 2).is_err());
    assert_eq!(journal.unconfirmed().unwrap().until, at(600));
    store.with(|disk| disk.room = None);
    journal.finish(&operation("later", Outcome::NotReady)).unwrap();
    everywhere(&store, &mut journal, |journal| assert_eq!(journal.unconfirmed().unwrap().until, at(600)));
}

/// Cut at every byte, what is left is what the records before the cut say.
#[test]
fn a_journal_cut_at_any_byte_knows_of_a_change_what_the_records_before_say() {
    let store = FakeStore::default();
    let mut journal = on_probation(&store);
    let mut said: Vec<(usize, Option<Unconfirmed>)> = Vec::new();
    let mut note = |journal: &Journal| {
        said.push((store.with(|disk| disk.bytes.len()), journal.unconfirmed().cloned()));
    };
    note(&journal);
    let later =
        |seconds| Unconfirmed { operation_id: "b".to_owned(), generation: 2, back_to: 1, until: at(seconds) };
    journal.pend(&later(700)).unwrap();
    note(&journal);
    journal.pending_over(2, PendingEnd::NotConfirmed).unwrap();
    note(&journal);
    journal.pend(&later(800)).unwrap();
    note(&journal);
    journal.pending_over(2, PendingEnd::Cancelled).unwrap();
    note(&journal);
    journal.pend(&later(900)).unwrap();
    note(&journal);
    journal.confirm("c", 2).unwrap();
    note(&journal);
    let bytes = store.with(|disk| disk.bytes.clone());
    let (begin, _) = said[0];
    for cut in begin..=bytes.len() {
        let expected = said.iter().rev().find(|(length, _)| *length <= cut).unwrap();
        let other = FakeStore::default();
        other.with(|disk| {
            disk.bytes = bytes[..cut].to_vec();
            disk.objects = store.with(|disk| disk.objects.clone());
        });
        let mut journal = other.journal(MIN_KEEP);
        assert_eq!(journal.unconfirmed(), expected.1.as_ref(), "cut at {cut}");
        assert_eq!(journal.recovery().torn_bytes, (cut - expected.0) as u64, "cut at {cut}");
        journal.pend(&later(1_000)).unwrap();
        assert_eq!(other.journal(MIN_KEEP).unconfirmed(), Some(&later(1_000)), "cut at {cut}");
    }
}

#[test]
fn without_a_generation_to_go_back_to_nothing_awaits_confirmation() {
    let store = FakeStore::default();
    let mut journal = store.journal(MIN_KEEP);
    // Generation 1 could not be written down.
    journal.commit(&generation(1)).unwrap();
    change(&mut journal, "b", 2, 1);
    assert_eq!((journal.unconfirmed(), journal.last_good()), (None, Some(2)));
}

#[test]
fn what_is_asked_for_again_without_a_probation_is_confirmed_by_that() {
    let store = FakeStore::default();
    let mut journal = on_probation(&store);
    // Its time was over while no supervisor lived; a start served the one before; then somebody rolls back to it.
    intend(&mut journal, "start", 1, &files(b"one"));
    journal.commit(&generation(1)).unwrap();
    journal.admit(&running("rollback", Kind::Rollback)).unwrap();
    intend(&mut journal, "rollback", 2, &files(b"bytes 2"));
    assert!(journal.unconfirmed().is_some(), "it does not serve yet");
    journal.commit(&generation(2)).unwrap();
    journal.finish(&operation("rollback", Outcome::Applied)).unwrap();
    everywhere(&store, &mut journal, |journal| {
        assert_eq!((journal.unconfirmed(), journal.last_good()), (None, Some(2)));
    });
}

#[test]
fn a_change_of_which_nothing_comes_does_not_make_the_one_before_it_confirmed() {
    let until_later = |number: u64| (number, at(590));
    for over in [false, true] {
        let store = FakeStore::default();
        let mut journal = on_probation(&store);
        if over {
            journal.pending_over(2, PendingEnd::NotConfirmed).unwrap();
            journal.commit(&generation(1)).unwrap();
        }
        let known = journal.unconfirmed().cloned();
        // The same bytes, under a new number: by a start, or because somebody tries again.
        journal.admit(&running("c", Kind::Reload)).unwrap();
        let bundle = files(b"bytes 2");
        let (number, confirm) = until_later(3);
        let (back_to, confirm) = (Some(1), Some(confirm));
        let intent = Intent { operation_id: "c", generation: number, bundle: &bundle, back_to, confirm };
        journal.intend(&intent).unwrap();
        assert_eq!(journal.unconfirmed().unwrap().generation, 3);
        assert_eq!(store.journal(MIN_KEEP).unconfirmed().unwrap().generation, 3);
        journal.finish(&operation("c", Outcome::NotReady)).unwrap();
        everywhere(&store, &mut journal, |journal| assert_eq!(journal.unconfirmed(), known.as_ref()));
    }
}

#[test]
fn a_clock_that_is_set_back_gives_nobody_more_time_than_was_asked_for() {
    let store = FakeStore::default();
    let mut journal = on_probation(&store);
    // Written an hour from now, by the clock of that time, with ten minutes to go.
    let then = Timestamp::now() + Duration::from_secs(3_600);
    let until = then + Duration::from_secs(600);
    let pending = Record::Pending {
        operation_id: "b".to_owned(),
        generation: 2,
        back_to: 1,
        until: written(until),
        at: written(then),
    };
    journal.append(pending).unwrap();
    for journal in [journal, store.journal(MIN_KEEP)] {
        let left = journal.unconfirmed().unwrap().left(Timestamp::now());
        assert!(left <= Duration::from_secs(600), "{left:?}");
    }
}

#[test]
fn a_confirmation_is_written_or_it_is_not_whatever_fails() {
    for call in 0..12 {
        let store = FakeStore::default();
        let mut journal = on_probation(&store);
        // The next record makes the file longer than it is to be: it is rewritten.
        let mut i = 0;
        while journal.status().records < 2 * MIN_KEEP as u64 {
            i += 1;
            journal.finish(&operation(&format!("later-{i}"), Outcome::Unchanged)).unwrap();
        }
        store.with(|disk| disk.fate = Some((disk.calls + call, disk::Fate::FailsOnce)));
        let confirmed = journal.confirm("c", 2).is_ok();
        assert_eq!(journal.unconfirmed().is_none(), confirmed, "call {call}");
        assert_eq!(store.after_a_kill().journal(MIN_KEEP).unconfirmed().is_none(), confirmed, "call {call}");
    }
}
