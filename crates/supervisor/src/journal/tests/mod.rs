//! The journal under cuts, damage, full and failing disks.

use std::os::unix::fs::PermissionsExt as _;

use handover_api::{
    Actor, Cause, Change, ChangeKind, Generation, Kind, Operation, Outcome, Problem, Refused, What,
};

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use handover_handoff::Bundle;

use super::record::encode;
use super::*;
use disk::FakeStore;

mod crashes;
mod disk;
mod generations;
mod probation;
mod upgrades;

fn operation(id: &str, outcome: Outcome) -> Operation {
    let mut operation = Operation::running(id, Kind::Reload, Actor::signal("HUP"), now());
    operation.serving_generation = Some(1);
    operation.finish(outcome, Cause::Done, 1.5);
    operation
}

fn running(id: &str, kind: Kind) -> Operation {
    Operation::running(id, kind, Actor::supervisor(), now())
}

fn files(bytes: &[u8]) -> Bundle {
    let mut bundle = Bundle::new();
    bundle.insert_top(Path::new("/etc/a.toml"), Arc::from(bytes)).unwrap();
    bundle
}

fn intend(journal: &mut Journal, operation_id: &str, generation: u64, bundle: &Bundle) {
    journal.intend(&Intent { operation_id, generation, bundle, back_to: None, confirm: None }).unwrap();
}

fn generation(number: u64) -> Generation {
    Generation {
        number,
        serving: true,
        committed_at: now(),
        operation_id: Some(format!("op-{number}")),
        source: None,
        files: Vec::new(),
        changes: Vec::new(),
        forgotten: false,
    }
}

#[test]
fn what_was_written_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("state");
    {
        let mut journal = Journal::open(&dir, DEFAULT_KEEP).unwrap();
        journal.admit(&running("a", Kind::Reload)).unwrap();
        intend(&mut journal, "a", 2, &files(b"two"));
        journal.commit(&generation(2)).unwrap();
        journal.finish(&operation("a", Outcome::Applied)).unwrap();
        journal.finish(&operation("b", Outcome::Rejected)).unwrap();
    }
    let journal = Journal::open(&dir, DEFAULT_KEEP).unwrap();
    assert_eq!(journal.recovery().records, 5);
    assert_eq!(journal.recovery().torn_bytes, 0);
    assert!(journal.recovery().unfinished.is_empty());
    assert_eq!(journal.operation("a").unwrap().outcome, Some(Outcome::Applied));
    let ids: Vec<String> = journal.history(10).into_iter().map(|o| o.id).collect();
    assert_eq!(ids, ["b", "a"]);
    assert_eq!(journal.last_generation(), 2);
    assert!(journal.generation(2).unwrap().serving);
}

#[test]
fn directory_and_file_are_closed_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("deep/state");
    std::fs::create_dir_all(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).unwrap();
    let _journal = Journal::open(&state, DEFAULT_KEEP).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&state.join("journal")), 0o600);
}

#[test]
fn a_second_supervisor_is_refused_the_same_journal() {
    let dir = tempfile::tempdir().unwrap();
    let first = Journal::open(dir.path(), DEFAULT_KEEP).unwrap();
    let second = Journal::open(dir.path(), DEFAULT_KEEP).unwrap_err();
    assert_eq!(second, JournalError::InUse { path: dir.path().to_owned() });
    drop(first);
    Journal::open(dir.path(), DEFAULT_KEEP).unwrap();
}

#[test]
fn a_symbolic_link_in_the_place_of_the_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "mine").unwrap();
    std::os::unix::fs::symlink(&victim, dir.path().join("journal")).unwrap();
    assert!(Journal::open(dir.path(), DEFAULT_KEEP).is_err());
    assert_eq!(std::fs::read(&victim).unwrap(), b"mine");
}

/// Cut at every byte, every whole record before the cut is kept, the rest is gone, and writing goes on.
#[test]
fn a_journal_cut_at_any_byte_keeps_every_whole_record_before_it() {
    let store = FakeStore::default();
    let mut journal = store.journal(DEFAULT_KEEP);
    journal.admit(&running("a", Kind::Reload)).unwrap();
    intend(&mut journal, "a", 2, &files(b"two"));
    journal.commit(&generation(2)).unwrap();
    journal.finish(&operation("a", Outcome::Applied)).unwrap();
    let bytes = store.with(|disk| disk.bytes.clone());
    let ends: Vec<usize> =
        bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
    assert_eq!(ends.len(), 4);
    for cut in 0..=bytes.len() {
        let whole = ends.iter().filter(|end| **end <= cut).count();
        let firm = ends[..whole].last().copied().unwrap_or(0);
        let store = FakeStore::default();
        store.with(|disk| disk.bytes = bytes[..cut].to_vec());
        let mut journal = store.journal(DEFAULT_KEEP);
        let recovery = journal.recovery().clone();
        assert_eq!(recovery.records, u64::try_from(whole).unwrap(), "cut at {cut}");
        assert_eq!(recovery.torn_bytes, u64::try_from(cut - firm).unwrap(), "cut at {cut}");
        assert_eq!(recovery.damaged_lines, 0, "cut at {cut}");
        store.with(|disk| assert_eq!(disk.bytes, bytes[..firm], "cut at {cut}"));
        let unfinished = recovery.unfinished.first();
        match whole {
            0 | 4 => assert_eq!(unfinished, None, "cut at {cut}"),
            1 => assert_eq!(unfinished.unwrap().intent, None, "cut at {cut}"),
            _ => assert_eq!(unfinished.unwrap().intent, Some(2), "cut at {cut}"),
        }
        assert_eq!(journal.operation("a").is_some(), whole == 4, "cut at {cut}");

        journal.finish(&operation("later", Outcome::Unchanged)).unwrap();
        drop(journal);
        let again = store.journal(DEFAULT_KEEP);
        assert_eq!(again.recovery().torn_bytes, 0, "cut at {cut}");
        assert!(again.operation("later").is_some(), "cut at {cut}");
    }
}

#[test]
fn a_flipped_byte_anywhere_costs_one_record_and_no_other() {
    let store = FakeStore::default();
    let mut journal = store.journal(DEFAULT_KEEP);
    for id in ["a", "b", "c"] {
        journal.finish(&operation(id, Outcome::Applied)).unwrap();
    }
    let bytes = store.with(|disk| disk.bytes.clone());
    let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
    // Every byte of the middle line but its line feed.
    for offset in 0..lines[1].len() - 1 {
        let mut damaged = bytes.clone();
        let byte = &mut damaged[lines[0].len() + offset];
        *byte = if *byte == b'x' { b'y' } else { b'x' };
        let store = FakeStore::default();
        store.with(|disk| disk.bytes = damaged);
        let journal = store.journal(DEFAULT_KEEP);
        assert!(journal.operation("a").is_some() && journal.operation("c").is_some(), "offset {offset}");
        assert!(journal.operation("b").is_none(), "offset {offset}");
        assert_eq!(journal.recovery().damaged_lines, 1, "offset {offset}");
        assert_eq!(journal.recovery().torn_bytes, 0, "offset {offset}");
    }
}

#[test]
fn a_record_of_a_newer_version_is_kept_in_the_file() {
    let json = br#"{"record":"paused","until":"later"}"#;
    let sum = blake3::hash(json).to_hex();
    let line = format!("{} {}\n", &sum.as_str()[..16], std::str::from_utf8(json).unwrap());
    let store = FakeStore::default();
    store.with(|disk| disk.bytes = line.clone().into_bytes());
    let mut journal = store.journal(DEFAULT_KEEP);
    assert_eq!(journal.recovery().foreign_lines, 1);
    assert_eq!(journal.recovery().torn_bytes, 0);
    journal.finish(&operation("a", Outcome::Applied)).unwrap();
    store.with(|disk| assert!(disk.bytes.starts_with(line.as_bytes())));
}

#[test]
fn a_full_disk_is_noticed_before_an_operation_is_admitted() {
    let store = FakeStore::default();
    let mut journal = store.journal(DEFAULT_KEEP);
    journal.check().unwrap();
    store.with(|disk| disk.room = Some(1_000));
    let error = journal.check().unwrap_err();
    assert!(matches!(error, JournalError::Full { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("/state/journal") && text.contains("No space left"), "{text}");
    assert_eq!(journal.status().failure.as_deref(), Some(text.as_str()));
    // A short record fits: that does not mean that there is room again.
    journal.finish(&operation("a", Outcome::Rejected)).unwrap();
    assert_eq!(journal.status().failure.as_deref(), Some(text.as_str()));
    store.with(|disk| disk.room = None);
    journal.check().unwrap();
    assert_eq!(journal.status().failure, None);
}

#[test]
fn what_cannot_be_admitted_in_writing_leaves_no_trace_and_the_next_record_is_whole() {
    let store = FakeStore::default();
    let mut journal = store.journal(DEFAULT_KEEP);
    journal.finish(&operation("a", Outcome::Applied)).unwrap();
    let firm = store.with(|disk| disk.bytes.len());
    // Half of the record fits.
    store.with(|disk| disk.room = Some(firm + 40));
    assert!(journal.admit(&running("b", Kind::Reload)).is_err());
    store.with(|disk| disk.room = None);
    journal.finish(&operation("c", Outcome::Applied)).unwrap();
    drop(journal);
    let journal = store.journal(DEFAULT_KEEP);
    assert_eq!(journal.recovery().torn_bytes, 0);
    assert_eq!(journal.recovery().damaged_lines, 0);
    assert!(journal.recovery().unfinished.is_empty());
    let ids: Vec<String> = journal.history(10).into_iter().map(|o| o.id).collect();
    assert_eq!(ids, ["c", "a"]);
}

#[test]
fn an_outcome_that_the_disk_refused_is_known_and_written_later() {
    let store = FakeStore::default();
    let mut journal = store.journal(DEFAULT_KEEP);
    journal.admit(&running("a", Kind::Reload)).unwrap();
    let firm = store.with(|disk| disk.bytes.len());
    store.with(|disk| disk.room = Some(firm + 40));
    assert!(journal.finish(&operation("a", Outcome::Applied)).is_err());
    assert!(journal.operation("a").is_some());
    store.with(|disk| disk.room = None);
    journal.check().unwrap();
    drop(journal);
    assert!(store.journal(DEFAULT_KEEP).operation("a").is_some());
}

#[test]
fn after_a_failed_fsync_the_file_is_rewritten_from_memory() {
    let store = FakeStore::default();
    let mut journal = store.journal(DEFAULT_KEEP);
    journal.finish(&operation("a", Outcome::Applied)).unwrap();
    store.with(|disk| disk.sync_fails = true);
    assert!(journal.finish(&operation("b", Outcome::Applied)).is_err());
    // The kernel may have thrown the pages away while the cache still shows them.
    store.with(|disk| disk.bytes.clear());
    journal.finish(&operation("c", Outcome::Applied)).unwrap();
    assert_eq!(store.with(|disk| disk.replaced), 1);
    drop(journal);
    let journal = store.journal(DEFAULT_KEEP);
    for id in ["a", "b", "c"] {
        assert!(journal.operation(id).is_some(), "{id}");
    }
}

#[test]
fn the_file_is_bounded_and_what_serves_is_never_rotated_away() {
    let store = FakeStore::default();
    let mut journal = store.journal(20);
    journal.commit(&generation(7)).unwrap();
    let mut longest = 0;
    for i in 0..500 {
        journal.finish(&operation(&format!("op-{i}"), Outcome::Unchanged)).unwrap();
        longest = longest.max(store.with(|disk| disk.bytes.iter().filter(|byte| **byte == b'\n').count()));
    }
    assert!(longest <= 41, "{longest} lines");
    drop(journal);
    let journal = store.journal(20);
    assert!(journal.generation(7).unwrap().serving);
    assert_eq!(journal.last_generation(), 7);
    assert!(journal.operation("op-499").is_some());
    assert!(journal.operation("op-480").is_some());
    assert!(journal.operation("op-479").is_none());
    assert_eq!(journal.history(usize::MAX).len(), 20);
}

#[test]
fn rotation_on_a_real_directory_leaves_one_whole_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path(), MIN_KEEP).unwrap();
    for i in 0..50_u64 {
        journal.check().unwrap();
        intend(&mut journal, "x", i, &files(&i.to_le_bytes()));
        journal.finish(&operation(&format!("op-{i}"), Outcome::Unchanged)).unwrap();
        journal.tidy();
    }
    drop(journal);
    let mut names: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["journal", "lock", "objects"]);
    // A file and the list that names it, each.
    let objects = std::fs::read_dir(dir.path().join("objects")).unwrap().count();
    assert_eq!(objects, 2 * DEFAULT_GENERATIONS);
    let journal = Journal::open(dir.path(), MIN_KEEP).unwrap();
    assert_eq!(journal.recovery().torn_bytes, 0);
    assert!(journal.operation("op-49").is_some() && journal.operation("op-40").is_some());
    assert_eq!(journal.bundle(49).unwrap(), files(&49_u64.to_le_bytes()));
    assert_eq!(journal.bundle(30).unwrap(), files(&30_u64.to_le_bytes()));
    assert!(journal.bundle(29).is_err());
}

#[test]
fn a_refused_request_is_in_the_history_but_not_found_by_id() {
    let store = FakeStore::default();
    let mut journal = store.journal(DEFAULT_KEEP);
    let refused = running("r", Kind::Reload).refused(&Refused::Stopping, Some(1));
    journal.finish(&refused).unwrap();
    drop(journal);
    let journal = store.journal(DEFAULT_KEEP);
    assert!(journal.operation("r").is_none());
    assert_eq!(journal.history(1)[0].refused.as_deref(), Some("stopping"));
}

#[test]
fn a_record_of_ten_thousand_changes_is_shortened_and_says_so() {
    let mut long = operation("long", Outcome::Applied);
    long.changes =
        (0..10_000).map(|i| Change::new(What::Added, ChangeKind::Route, format!("route-{i}"))).collect();
    long.errors = vec![Problem::new("x".repeat(200_000)); 3];
    long.finish(Outcome::Applied, Cause::Done, 1.0);
    let store = FakeStore::default();
    let mut journal = store.journal(DEFAULT_KEEP);
    journal.finish(&long).unwrap();
    assert!(store.with(|disk| disk.bytes.len()) < MAX_RECORD_BYTES);
    let kept = journal.operation("long").unwrap();
    let left = u64::try_from(kept.changes.len() + kept.errors.len()).unwrap();
    assert_eq!(kept.left_out + left, 10_003);
}

#[test]
fn an_interrupted_operation_is_found_unfinished_even_after_a_rotation() {
    let store = FakeStore::default();
    let mut journal = store.journal(MIN_KEEP);
    journal.admit(&running("a", Kind::Reload)).unwrap();
    intend(&mut journal, "a", 3, &files(b"three"));
    for i in 0..100 {
        journal.finish(&operation(&format!("op-{i}"), Outcome::Unchanged)).unwrap();
    }
    drop(journal);
    let journal = store.journal(MIN_KEEP);
    assert_eq!(journal.recovery().unfinished.len(), 1);
    assert_eq!(journal.recovery().unfinished[0].intent, Some(3));
    assert_eq!(journal.last_generation(), 3);
}

#[test]
fn the_number_of_a_generation_that_was_never_served_is_not_given_out_again() {
    let store = FakeStore::default();
    let mut journal = store.journal(MIN_KEEP);
    journal.admit(&running("a", Kind::Reload)).unwrap();
    intend(&mut journal, "a", 9, &files(b"nine"));
    journal.finish(&operation("a", Outcome::RolledBack)).unwrap();
    for i in 0..100 {
        journal.finish(&operation(&format!("op-{i}"), Outcome::Unchanged)).unwrap();
    }
    drop(journal);
    assert_eq!(store.journal(MIN_KEEP).last_generation(), 9);
}

#[test]
fn a_line_is_its_checksum_a_space_json_and_a_line_feed() {
    let line = encode(&Record::Intent {
        operation_id: "a".into(),
        generation: 2,
        bundle: String::new(),
        manifest: Some("d".into()),
        back_to: None,
        confirm: None,
        at: "t".into(),
    })
    .unwrap();
    let text = String::from_utf8(line).unwrap();
    assert_eq!(
        text.split_once(' ').unwrap().1,
        "{\"record\":\"intent\",\"operation_id\":\"a\",\"generation\":2,\"manifest\":\"d\",\"at\":\"t\"}\n"
    );
    assert_eq!(text.find(' '), Some(16));
}
