//! The files of generations: written once, kept, removed, damaged.

use super::*;
use crate::journal::record::Stored;

/// A configuration that names some certificates.
fn certificates(names: &[(&str, &str)]) -> Bundle {
    let mut bundle = files(b"config");
    for (name, bytes) in names {
        bundle.insert(&Path::new("/etc/tls").join(name), Arc::from(bytes.as_bytes())).unwrap();
    }
    bundle
}

fn serve(journal: &mut Journal, number: u64, bundle: &Bundle) {
    let id = format!("op-{number}");
    journal.admit(&running(&id, Kind::Reload)).unwrap();
    intend(journal, &id, number, bundle);
    journal.commit(&generation(number)).unwrap();
    journal.finish(&operation(&id, Outcome::Applied)).unwrap();
    journal.tidy();
}

#[test]
fn of_a_thousand_certificates_only_the_changed_one_is_written() {
    let store = FakeStore::default();
    let mut journal = store.journal(DEFAULT_KEEP);
    let names: Vec<String> = (0..1_000).map(|i| format!("{i}.pem")).collect();
    let mut pairs: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    serve(&mut journal, 1, &certificates(&pairs));
    assert_eq!(store.with(|disk| disk.put), 1_002, "each, the configuration, and their list");
    pairs[500].1 = "renewed";
    serve(&mut journal, 2, &certificates(&pairs));
    assert_eq!(store.with(|disk| disk.put), 1_004, "one certificate, and the list");
    serve(&mut journal, 3, &certificates(&pairs));
    assert_eq!(store.with(|disk| disk.put), 1_004, "nothing is new");
    assert_eq!(journal.bundle(2).unwrap(), certificates(&pairs));
    assert_eq!(journal.digest(2), Some(certificates(&pairs).digest()));
}

#[test]
fn what_every_list_has_lost_is_removed_and_nothing_else() {
    let store = FakeStore::default();
    let mut journal = store.journal(DEFAULT_KEEP);
    journal.set_generations(3);
    for number in 1..=40 {
        let renewed = format!("renewed {number}");
        serve(&mut journal, number, &certificates(&[("a.pem", "always"), ("b.pem", &renewed)]));
    }
    assert_eq!(journal.kept(), [38, 39, 40]);
    for number in 38..=40 {
        let renewed = format!("renewed {number}");
        let expected = certificates(&[("a.pem", "always"), ("b.pem", &renewed)]);
        assert_eq!(journal.bundle(number).unwrap(), expected);
    }
    // Two that are shared, and for each generation one and its list.
    assert_eq!(store.with(|disk| disk.objects.len()), 2 + 3 * 2);
    let error = journal.bundle(2).unwrap_err().to_string();
    assert_eq!(error, "generation 2 is not kept; kept are 38, 39, 40");
}

#[test]
fn what_serves_awaits_confirmation_or_is_gone_back_to_is_kept_however_old() {
    let store = FakeStore::default();
    let mut journal = store.journal(DEFAULT_KEEP);
    journal.set_generations(1);
    serve(&mut journal, 1, &files(b"one"));
    let bundle = files(b"two");
    let until = jiff::Timestamp::now() + Duration::from_secs(600);
    journal.admit(&running("b", Kind::Reload)).unwrap();
    let confirm = Some(until);
    let intent = Intent { operation_id: "b", generation: 2, bundle: &bundle, back_to: Some(1), confirm };
    journal.intend(&intent).unwrap();
    journal.tidy();
    assert_eq!(journal.kept(), [1, 2], "the one that serves and the one that is about to");
    journal.commit(&generation(2)).unwrap();
    journal.finish(&operation("b", Outcome::Applied)).unwrap();
    journal.tidy();
    assert_eq!(journal.kept(), [1, 2], "the one that awaits confirmation and the one to go back to");
    journal.confirm("c", 2).unwrap();
    journal.tidy();
    assert_eq!(journal.kept(), [2]);
    // One that never came to serve goes first.
    for number in 3..9 {
        intend(&mut journal, "d", number, &files(format!("bytes {number}").as_bytes()));
        journal.tidy();
    }
    assert!(journal.kept().contains(&2));
    assert_eq!(journal.bundle(2).unwrap(), bundle);
}

#[test]
fn a_rollback_serves_the_very_bytes_and_writes_none() {
    let store = FakeStore::default();
    let mut journal = store.journal(DEFAULT_KEEP);
    for number in 1..=5 {
        serve(&mut journal, number, &files(format!("bytes {number}").as_bytes()));
    }
    assert_eq!(journal.previous(), Some(4));
    let put = store.with(|disk| disk.put);
    let bundle = journal.bundle(3).unwrap();
    serve(&mut journal, 3, &bundle);
    assert_eq!(store.with(|disk| disk.put), put);
    assert_eq!(journal.previous(), Some(5), "what served before it");
    drop(journal);
    let mut journal = store.journal(DEFAULT_KEEP);
    assert!(journal.generation(3).unwrap().serving && !journal.generation(5).unwrap().serving);
    assert_eq!((journal.previous(), journal.last_good(), journal.last_generation()), (Some(5), Some(3), 5));
    // The same after the file was rewritten.
    store.with(|disk| disk.sync_fails = true);
    assert!(journal.finish(&operation("x", Outcome::Unchanged)).is_err());
    journal.finish(&operation("y", Outcome::Unchanged)).unwrap();
    assert_eq!(store.with(|disk| disk.replaced), 1);
    drop(journal);
    let mut journal = store.journal(DEFAULT_KEEP);
    assert!(journal.generation(3).unwrap().serving && !journal.generation(5).unwrap().serving);
    assert_eq!((journal.previous(), journal.last_good()), (Some(5), Some(3)));
    assert_eq!(journal.kept(), [1, 2, 3, 4, 5]);
    // Its objects are counted once, however often it serves.
    journal.set_generations(1);
    for number in 6..12 {
        serve(&mut journal, number, &files(b"others"));
        journal.tidy();
    }
    assert_eq!(store.with(|disk| disk.objects.len()), 2);
}

#[test]
fn a_generation_that_was_taken_back_is_not_what_a_rollback_goes_to() {
    let store = FakeStore::default();
    let mut journal = store.journal(DEFAULT_KEEP);
    for number in 1..=3 {
        serve(&mut journal, number, &files(format!("bytes {number}").as_bytes()));
    }
    // Generation 4 fails its guard.
    journal.admit(&running("bad", Kind::Reload)).unwrap();
    intend(&mut journal, "bad", 4, &files(b"bytes 4"));
    journal.commit(&generation(4)).unwrap();
    journal.commit(&generation(3)).unwrap();
    let mut bad = operation("bad", Outcome::RolledBack);
    bad.generation = Some(4);
    journal.finish(&bad).unwrap();
    for _ in 0..2 {
        assert_eq!((journal.previous(), journal.last_good()), (Some(2), Some(3)));
        assert_eq!(journal.bundle(4).unwrap(), files(b"bytes 4"), "but it can be asked for");
        store.with(|disk| disk.sync_fails = true);
        assert!(journal.finish(&operation("x", Outcome::Unchanged)).is_err());
        journal.finish(&operation("y", Outcome::Unchanged)).unwrap();
        drop(journal);
        journal = store.journal(DEFAULT_KEEP);
    }
}

#[test]
fn a_damaged_object_makes_its_generations_unavailable_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path(), DEFAULT_KEEP).unwrap();
    serve(&mut journal, 1, &certificates(&[("a.pem", "one")]));
    serve(&mut journal, 2, &certificates(&[("a.pem", "two")]));
    let object = |bytes: &[u8]| dir.path().join("objects").join(blake3::hash(bytes).to_hex().as_str());
    let path = object(b"two");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    std::fs::write(&path, b"TWO").unwrap();
    let error = journal.bundle(2).unwrap_err();
    assert!(matches!(error, GenerationError::Damaged { generation: 2, .. }), "{error}");
    assert_eq!(journal.bundle(1).unwrap(), certificates(&[("a.pem", "one")]));
    std::fs::remove_file(&path).unwrap();
    let error = journal.bundle(2).unwrap_err().to_string();
    assert!(error.contains("/etc/tls/a.pem") && error.contains("No such file"), "{error}");
    // Whoever serves the same bytes again mends it.
    serve(&mut journal, 3, &certificates(&[("a.pem", "two")]));
    assert_eq!(journal.bundle(2).unwrap(), journal.bundle(3).unwrap());
    // The list itself.
    let list = certificates(&[("a.pem", "one")]).index().encode().unwrap();
    std::fs::write(object(&list), b"[]").unwrap();
    let error = journal.bundle(1).unwrap_err().to_string();
    assert!(
        error.starts_with("generation 1 cannot be used any more: ") && error.contains("list of files"),
        "{error}"
    );
    assert_eq!(journal.digest(1), None);
    drop(journal);
    let mut journal = Journal::open(dir.path(), DEFAULT_KEEP).unwrap();
    journal.tidy();
    assert!(journal.bundle(1).is_err() && journal.bundle(2).is_ok() && journal.bundle(3).is_ok());
}

#[test]
fn a_full_disk_refuses_the_change_and_gives_back_the_room_that_it_took() {
    let store = FakeStore::default();
    let mut journal = store.journal(DEFAULT_KEEP);
    serve(&mut journal, 1, &certificates(&[("a.pem", "one")]));
    let before = store.with(|disk| disk.objects.clone());
    store.with(|disk| disk.room_for_objects = Some(before.len() + 2));
    let bundle = certificates(&[("a.pem", "one"), ("b.pem", "b"), ("c.pem", "c"), ("d.pem", "d")]);
    journal.admit(&running("b", Kind::Reload)).unwrap();
    let intent =
        Intent { operation_id: "b", generation: 2, bundle: &bundle, back_to: Some(1), confirm: None };
    let error = journal.intend(&intent).unwrap_err();
    assert!(matches!(error, JournalError::Full { .. }), "{error}");
    assert_eq!(journal.status().failure, Some(error.to_string()));
    assert_eq!(store.with(|disk| disk.objects.clone()), before);
    assert_eq!(journal.kept(), [1]);
    journal.finish(&operation("b", Outcome::NotReady)).unwrap();
    assert_eq!(journal.bundle(1).unwrap(), certificates(&[("a.pem", "one")]));
    store.with(|disk| disk.room_for_objects = None);
    serve(&mut journal, 2, &bundle);
    assert_eq!(journal.bundle(2).unwrap(), bundle);
    assert_eq!(journal.status().failure, None);
}

#[test]
fn files_that_cannot_be_synced_are_not_counted_upon() {
    let store = FakeStore::default();
    let mut journal = store.journal(DEFAULT_KEEP);
    serve(&mut journal, 1, &files(b"one"));
    journal.admit(&running("b", Kind::Reload)).unwrap();
    intend(&mut journal, "b", 2, &certificates(&[("b.pem", "two")]));
    journal.commit(&generation(2)).unwrap();
    store.with(|disk| disk.sync_of_objects_fails = true);
    assert!(journal.finish(&operation("b", Outcome::Applied)).is_err());
    journal.finish(&operation("b", Outcome::Applied)).unwrap();
    assert_eq!(journal.history(10).iter().filter(|operation| operation.id == "b").count(), 1);
    assert_eq!(journal.kept(), [1], "the kernel may have thrown its pages away");
    serve(&mut journal, 3, &certificates(&[("b.pem", "two")]));
    assert_eq!(journal.bundle(3).unwrap(), certificates(&[("b.pem", "two")]));
    assert_eq!(journal.bundle(1).unwrap(), files(b"one"));
}

#[test]
fn what_crashes_have_left_is_removed_and_what_is_named_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path(), DEFAULT_KEEP).unwrap();
    serve(&mut journal, 1, &files(b"one"));
    drop(journal);
    let objects = dir.path().join("objects");
    std::fs::write(objects.join(blake3::hash(b"stray").to_hex().as_str()), b"stray").unwrap();
    std::fs::write(objects.join(".new"), b"half").unwrap();
    let mut journal = Journal::open(dir.path(), DEFAULT_KEEP).unwrap();
    journal.tidy();
    assert_eq!(std::fs::read_dir(&objects).unwrap().count(), 2);
    assert_eq!(journal.bundle(1).unwrap(), files(b"one"));
}

#[test]
fn a_list_that_cannot_be_read_at_this_moment_costs_no_object() {
    let store = FakeStore::default();
    let mut journal = store.journal(DEFAULT_KEEP);
    serve(&mut journal, 1, &files(b"one"));
    serve(&mut journal, 2, &files(b"two"));
    drop(journal);
    let mut journal = store.journal(DEFAULT_KEEP);
    journal.set_generations(1);
    let at = store.with(|disk| disk.calls) + 1;
    store.with(|disk| disk.fate = Some((at, disk::Fate::FailsToRead)));
    journal.tidy();
    assert_eq!(store.with(|disk| disk.objects.len()), 4);
    assert_eq!(journal.bundle(2).unwrap(), files(b"two"));
}

/// As versions before this one wrote them: all files in one, under the digest of that.
#[test]
fn generations_of_earlier_versions_can_be_read_and_go_with_time() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = dir.path().join("generations");
    std::fs::create_dir(&blobs).unwrap();
    let old = certificates(&[("a.pem", "old")]);
    let bytes = handover_handoff::memfd::read_sealed(old.to_memfd().unwrap(), usize::MAX).unwrap();
    let name = blake3::hash(&bytes).to_hex().to_string();
    std::fs::write(blobs.join(&name), &bytes).unwrap();
    std::fs::write(blobs.join("stray"), b"stray").unwrap();
    let json = format!(
        r#"{{"record":"intent","operation_id":"a","generation":1,"bundle":"{name}","at":"2026-01-01T00:00:00.000Z"}}"#
    );
    let sum = blake3::hash(json.as_bytes()).to_hex();
    std::fs::write(dir.path().join("journal"), format!("{} {json}\n", &sum.as_str()[..16])).unwrap();

    let mut journal = Journal::open(dir.path(), DEFAULT_KEEP).unwrap();
    assert_eq!(journal.recovery().records, 1);
    journal.commit(&generation(1)).unwrap();
    journal.tidy();
    assert_eq!(journal.bundle(1).unwrap(), old);
    assert_eq!(journal.digest(1), Some(old.digest()));
    assert_eq!(std::fs::read_dir(&blobs).unwrap().count(), 1);
    // A rollback to it writes it in the new way.
    let bundle = journal.bundle(1).unwrap();
    serve(&mut journal, 1, &bundle);
    assert!(matches!(journal.contents.kept[0].stored, Stored::Objects(_)));
    assert!(!blobs.exists());
    assert_eq!(journal.bundle(1).unwrap(), old);
    std::fs::create_dir(&blobs).unwrap();
    std::fs::write(blobs.join(&name), &bytes).unwrap();
    drop(journal);
    let journal = Journal::open(dir.path(), DEFAULT_KEEP).unwrap();
    assert_eq!(journal.bundle(1).unwrap(), old);
}

#[test]
fn names_in_a_record_are_digests_and_lead_nowhere_else() {
    for name in ["../../etc/passwd", "a", "", &"g".repeat(64)] {
        assert_eq!(Stored::of(Some(name), ""), None, "{name}");
        assert_eq!(Stored::of(None, name), None, "{name}");
    }
}

#[test]
fn a_file_that_has_the_bytes_of_a_list_is_a_file_all_the_same() {
    let store = FakeStore::default();
    let mut journal = store.journal(DEFAULT_KEEP);
    journal.set_generations(2);
    let second = certificates(&[("a.pem", "second")]);
    let list = second.index().encode().unwrap();
    let mut first = files(b"config");
    first.insert(Path::new("/etc/odd"), Arc::from(list)).unwrap();
    serve(&mut journal, 1, &first);
    serve(&mut journal, 2, &second);
    // Nothing names it but its list, which is counted once.
    serve(&mut journal, 3, &certificates(&[("a.pem", "second"), ("b.pem", "third")]));
    serve(&mut journal, 4, &certificates(&[("b.pem", "third")]));
    assert_eq!(journal.kept(), [3, 4]);
    assert_eq!(journal.bundle(3).unwrap(), certificates(&[("a.pem", "second"), ("b.pem", "third")]));
    serve(&mut journal, 5, &files(b"config"));
    serve(&mut journal, 6, &files(b"config, too"));
    // Two files, and two lists.
    assert_eq!(store.with(|disk| disk.objects.len()), 4);
}
