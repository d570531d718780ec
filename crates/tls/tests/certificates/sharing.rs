//! What did not change is shared, and is not read into anew.

use std::sync::Arc;

use handover_tls::{Certified, Moment, Pair, load};
use rcgen::KeyPair;

use crate::pki::{Ca, Disk, moment};

/// So many certificates, with one key.
fn many(count: usize) -> (Disk, Vec<Pair>, Ca) {
    let (root, key) = (Ca::root("Root"), KeyPair::generate().unwrap());
    let mut disk = Disk::default();
    let pairs = (0..count)
        .map(|n| disk.pair(&n.to_string(), &root.leaf_with(&[&format!("{n}.example")], &key, |_| {})))
        .collect();
    (disk, pairs, root)
}

fn serving(certificates: &[Arc<Certified>]) -> Moment<'_> {
    Moment { serving: certificates.iter().collect(), ..moment() }
}

#[test]
fn of_many_certificates_only_the_one_that_changed_is_new() {
    let (mut disk, pairs, root) = many(200);
    let first = load(&pairs, &mut disk, &moment()).unwrap().certificates;
    let names: Vec<String> = first.iter().map(|certified| certified.facts().names[0].to_string()).collect();
    assert_eq!(names, (0..200).map(|n| format!("{n}.example")).collect::<Vec<_>>());
    disk.pair("77", &root.leaf(&["77.example"]));
    let second = load(&pairs, &mut disk, &serving(&first)).unwrap().certificates;
    for (at, (was, is)) in first.iter().zip(&second).enumerate() {
        assert_eq!(Arc::ptr_eq(was, is), at != 77);
        assert_eq!(was == is, at != 77);
    }
}

#[test]
fn the_same_bytes_in_other_files_are_the_same_object() {
    let (mut disk, mut pairs, root) = many(3);
    let first = load(&pairs, &mut disk, &moment()).unwrap().certificates;
    // The list turned round, under names with a date in them.
    let leaf = root.leaf(&["new.example"]);
    let new = disk.pair("new-2027-01-01", &leaf);
    let twin = disk.pair("new-copy", &leaf);
    pairs.reverse();
    pairs.extend([new, twin]);
    let second = load(&pairs, &mut disk, &serving(&first)).unwrap().certificates;
    assert!(Arc::ptr_eq(&first[0], &second[2]) && Arc::ptr_eq(&first[2], &second[0]));
    assert!(Arc::ptr_eq(&second[3], &second[4]));
}

#[test]
fn the_boundary_between_certificate_and_key_belongs_to_the_digest() {
    let leaf = Ca::root("Root").leaf(&["a.example"]);
    let both = format!("{}{}", leaf.certificate, leaf.key);
    let mut disk = Disk::default();
    disk.put("/both", &both);
    let pair = disk.pair("a", &leaf);
    let loaded = load(&[pair, Pair::new("/both", "/both")], &mut disk, &moment()).unwrap().certificates;
    assert_ne!(loaded[0], loaded[1]);
    assert_eq!(loaded[0].facts(), loaded[1].facts());
}

#[test]
fn what_is_no_longer_served_is_freed() {
    let (mut disk, pairs, _) = many(2);
    let first = load(&pairs, &mut disk, &moment()).unwrap().certificates;
    let gone = Arc::downgrade(&first[1]);
    let second = load(&pairs[..1], &mut disk, &serving(&first)).unwrap().certificates;
    drop(first);
    assert!(gone.upgrade().is_none());
    assert_eq!(second.len(), 1);
}

#[test]
fn a_mistake_in_two_pairs_with_the_same_bytes_is_told_with_the_files_of_each() {
    let root = Ca::root("Root");
    let (one, other) = (root.leaf(&["a.example"]), root.leaf(&["a.example"]));
    let mut disk = Disk::default();
    let first = disk.pair("first", &crate::pki::Leaf { key: other.key.clone(), ..one.clone() });
    let second = disk.pair("second", &crate::pki::Leaf { key: other.key, ..one });
    let errors = load(&[first, second], &mut disk, &moment()).unwrap_err();
    let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "/tls/first.pem: the key in /tls/first.key does not belong to this certificate",
            "/tls/second.pem: the key in /tls/second.key does not belong to this certificate"
        ]
    );
}
