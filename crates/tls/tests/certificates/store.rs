//! The store alone, as an embedding program uses it.

use std::sync::Arc;

use handover_tls::{CertificateStore, Pair, Unknown};
use rustls::ServerConfig;

use crate::pki::{Ca, Disk, NOW, client_of, lasting, shake, time};

/// The number of the certificate that a client gets.
fn serial_seen(server: &Arc<ServerConfig>, root: &Ca, name: &'static str) -> Vec<u8> {
    let (_, _, client) = shake(server, &client_of(root, None), name).unwrap();
    client.peer_certificates().unwrap()[0].to_vec()
}

fn server_of(store: &Arc<CertificateStore>) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let store: Arc<dyn rustls::server::ResolvesServerCert> = Arc::clone(store) as _;
    Arc::new(builder.with_no_client_auth().with_cert_resolver(store))
}

#[test]
fn a_commit_serves_the_new_set_to_the_next_handshake_and_a_drop_changes_nothing() {
    let root = Ca::root("Root");
    let mut disk = Disk::default();
    let pairs = [disk.pair("a", &lasting(&root, &["a.example"]))];
    let store = Arc::new(CertificateStore::new());
    let server = server_of(&store);
    assert!(shake(&server, &client_of(&root, None), "a.example").is_err());

    let first = store.prepare(&pairs, &mut disk, time(NOW)).unwrap();
    assert_eq!(first.changes()[0].what, handover_api::What::Added);
    assert!(shake(&server, &client_of(&root, None), "a.example").is_err());
    first.commit();
    let before = serial_seen(&server, &root, "a.example");

    disk.pair("a", &lasting(&root, &["a.example"]));
    let second = store.prepare(&pairs, &mut disk, time(NOW)).unwrap();
    assert_eq!(second.changes().len(), 1);
    assert_eq!(serial_seen(&server, &root, "a.example"), before);
    drop(second);
    assert_eq!(serial_seen(&server, &root, "a.example"), before);
    store.prepare(&pairs, &mut disk, time(NOW)).unwrap().commit();
    assert_ne!(serial_seen(&server, &root, "a.example"), before);
    assert!(store.prepare(&pairs, &mut disk, time(NOW)).unwrap().changes().is_empty());
}

#[test]
fn one_bad_pair_of_three_leaves_all_three_as_they_were() {
    let root = Ca::root("Root");
    let mut disk = Disk::default();
    let names = ["a.example", "b.example", "c.example"];
    let pairs: Vec<Pair> = names.iter().map(|name| disk.pair(name, &lasting(&root, &[name]))).collect();
    let store = Arc::new(CertificateStore::new());
    let server = server_of(&store);
    store.prepare(&pairs, &mut disk, time(NOW)).unwrap().commit();
    let before = names.map(|name| serial_seen(&server, &root, name));

    for name in names {
        disk.pair(name, &lasting(&root, &[name]));
    }
    disk.put("/tls/b.example.key", "");
    let errors = store.prepare(&pairs, &mut disk, time(NOW)).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].to_string(), "/tls/b.example.key: the file is empty");
    assert_eq!(names.map(|name| serial_seen(&server, &root, name)), before);
}

#[test]
fn changes_say_what_was_added_renewed_replaced_and_removed() {
    let (root, other) = (Ca::root("Root"), Ca::root("Other"));
    let mut disk = Disk::default();
    let all: Vec<Pair> = ["a", "b", "c"]
        .iter()
        .map(|name| disk.pair(name, &root.leaf(&[&format!("{name}.example")])))
        .collect();
    let store = CertificateStore::new();
    store.prepare(&all, &mut disk, time(NOW)).unwrap().commit();
    disk.pair("a", &lasting(&root, &["a.example"]));
    disk.pair("b", &other.leaf(&["b.example"]));
    let new = disk.pair("d", &root.leaf(&["d.example"]));
    let prepared = store.prepare(&[all[0].clone(), all[1].clone(), new], &mut disk, time(NOW)).unwrap();
    let lines: Vec<String> = prepared.changes().iter().map(handover_api::Change::line).collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[0].contains("a.example") && lines[0].contains("was 2027-03-02"), "{lines:?}");
    assert!(lines[1].contains("b.example") && lines[1].contains("issuer Other, was Root"), "{lines:?}");
    assert!(lines[2].starts_with("added certificate d.example"), "{lines:?}");
    assert!(lines[3].starts_with("removed certificate c.example"), "{lines:?}");
    assert_eq!(prepared.certificates().len(), 3);
    assert_eq!(store.certificates().len(), 3);
    assert_eq!(store.certificates()[0].files, ["/tls/a.pem", "/tls/a.key"]);
}

#[test]
fn the_default_is_the_pair_that_says_so_and_unknown_names_can_be_refused() {
    let root = Ca::root("Root");
    let mut disk = Disk::default();
    let pairs = [
        disk.pair("a", &lasting(&root, &["a.example"])),
        disk.pair("b", &lasting(&root, &["192.0.2.1", "b.example"])).as_default(),
    ];
    let store = Arc::new(CertificateStore::with_unknown(Unknown::Refuse));
    let server = server_of(&store);
    store.prepare(&pairs, &mut disk, time(NOW)).unwrap().commit();
    // Clients that know the server by its address name no host.
    assert!(shake(&server, &client_of(&root, None), "192.0.2.1").is_ok());
    assert!(shake(&server, &client_of(&root, None), "c.example").err().unwrap().starts_with("server: "));
}

#[test]
fn files_of_a_directory_are_read_with_their_permissions() {
    let directory = tempfile::tempdir().unwrap();
    let leaf = lasting(&Ca::root("Root"), &["a.example"]);
    let (certificate, key) = (directory.path().join("a.pem"), directory.path().join("a.key"));
    std::fs::write(&certificate, &leaf.certificate).unwrap();
    std::fs::write(&key, &leaf.key).unwrap();
    let store = CertificateStore::new();
    let pairs = [Pair::new(&certificate, &key)];
    let mode = |bits| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(bits)).unwrap();
        store.prepare(&pairs, &mut handover_tls::Disk, time(NOW)).unwrap().warnings().len()
    };
    assert_eq!((mode(0o644), mode(0o600)), (1, 0));
    let missing = [Pair::new(directory.path(), directory.path().join("gone"))];
    let errors = store.prepare(&missing, &mut handover_tls::Disk, time(NOW)).unwrap_err();
    assert_eq!(errors.len(), 2);
    assert!(errors[0].to_string().ends_with("cannot be read: is a directory"), "{}", errors[0]);
}
