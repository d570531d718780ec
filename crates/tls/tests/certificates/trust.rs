//! Whom clients believe, and what files of authorities may hold.

use std::path::Path;
use std::sync::Arc;

use handover_tls::{Authorities, ClientSettings, Trust, Version, client_config, server_config};
use rcgen::KeyPair;

use crate::pki::{
    Ca, DAY, Disk, NOW, authorities, certified, client_of, fixture, lasting, listener, moment, shake, time,
};

fn client(trust: Trust) -> Arc<rustls::ClientConfig> {
    let settings =
        ClientSettings { trust, identity: None, minimum_version: Version::Tls12, alpn: Vec::new() };
    client_config(&settings).unwrap()
}

fn load(bytes: impl AsRef<[u8]>) -> Result<(usize, Vec<String>), String> {
    let mut disk = Disk::default();
    disk.put("/ca", bytes);
    match Authorities::load(Path::new("/ca"), &mut disk, &moment(), &[]) {
        Ok((authorities, warnings)) => {
            Ok((authorities.facts().len(), warnings.iter().map(ToString::to_string).collect()))
        }
        Err(error) => Err(match error.help() {
            Some(help) => format!("{error} ({help})"),
            None => error.to_string(),
        }),
    }
}

#[test]
fn a_server_is_believed_if_its_certificate_leads_to_one_of_the_authorities() {
    let (root, other) = (Ca::root("Root"), Ca::root("Other"));
    let server = server_config(&listener(&[lasting(&root, &["a.example", "192.0.2.1"])])).unwrap();
    for name in ["a.example", "192.0.2.1"] {
        assert!(shake(&server, &client(Trust::Authorities(authorities(&[&other, &root]))), name).is_ok());
        assert!(shake(&server, &client(Trust::Authorities(authorities(&[&other]))), name).is_err());
        assert!(shake(&server, &client(Trust::Anybody), name).is_ok());
    }
    assert!(shake(&server, &client_of(&root, None), "b.example").is_err());
    assert!(shake(&server, &client(Trust::Anybody), "b.example").is_ok());
}

#[test]
fn a_certificate_that_vouches_for_itself_can_be_trusted_as_it_is() {
    let (certificate, key) = (fixture("sec1.pem"), fixture("sec1.key"));
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let leaf = crate::pki::Leaf { certificate: text(&certificate), key: text(&key) };
    let server = server_config(&listener(&[leaf])).unwrap();
    let mut disk = Disk::default();
    disk.put("/ca", &certificate);
    let (own, _) = Authorities::load(Path::new("/ca"), &mut disk, &moment(), &[]).unwrap();
    assert!(shake(&server, &client(Trust::Authorities(own)), "sec1.example").is_ok());
}

#[test]
fn authorities_are_read_with_what_is_wrong_in_words() {
    let (root, other) = (Ca::root("Root"), Ca::root("Other"));
    let leaf = root.leaf(&["a.example"]);
    assert_eq!(load(root.pem() + &other.pem()), Ok((2, Vec::new())));
    let table: &[(Vec<u8>, &str)] = &[
        (Vec::new(), "/ca: the file is empty"),
        (
            root.der(),
            "/ca: the file is a certificate in the binary form (DER), not PEM (convert it: openssl x509 -inform der -in /ca -out /ca.pem)",
        ),
        (
            leaf.key.clone().into_bytes(),
            "/ca: there is no certificate in the file, only a private key (are certificate and key the wrong way round?)",
        ),
        (
            leaf.certificate.clone().into_bytes(),
            "/ca: the certificate (a.example) is not that of an authority (only certificates that may issue others belong here)",
        ),
        (
            (root.pem() + &leaf.certificate).into_bytes(),
            "/ca: certificate 2 (a.example) is not that of an authority (only certificates that may issue others belong here)",
        ),
    ];
    for (bytes, expected) in table {
        assert_eq!(load(bytes).unwrap_err(), *expected);
    }
    let mut disk = Disk::default();
    let error = Authorities::load(Path::new("/gone"), &mut disk, &moment(), &[]).unwrap_err();
    assert_eq!(error.to_string(), "/gone: cannot be read: No such file or directory (os error 2)");
}

#[test]
fn an_authority_that_has_expired_is_warned_about() {
    let expired = Ca::root("Root").intermediate_until("Old", NOW - DAY);
    assert_eq!(
        load(Ca::root("Root").pem() + &expired.pem()),
        Ok((2, vec!["/ca: certificate 2 (CN=Old) expired on 2026-12-31 00:00:00 UTC".to_owned()]))
    );
}

#[test]
fn authorities_that_did_not_change_are_the_same_object() {
    let root = Ca::root("Root");
    let mut disk = Disk::default();
    disk.put("/ca", root.pem());
    let load = |disk: &mut Disk, serving: &[&Arc<Authorities>]| {
        Authorities::load(Path::new("/ca"), disk, &moment(), serving).unwrap().0
    };
    let first = load(&mut disk, &[]);
    let second = load(&mut disk, &[&first]);
    assert!(Arc::ptr_eq(&first, &second));
    disk.put("/ca", root.pem() + "\n");
    assert_ne!(load(&mut disk, &[&second]), first);
}

#[test]
fn our_own_certificate_is_shown_to_servers_that_ask() {
    let (root, clients) = (Ca::root("Root"), Ca::root("Clients"));
    let mine = clients.leaf_with(&["app"], &KeyPair::generate().unwrap(), |params| {
        params.not_before = time(0).into();
        params.not_after = time(NOW + 100_000 * DAY).into();
    });
    let mut settings = listener(&[lasting(&root, &["a.example"])]);
    settings.clients = handover_tls::ClientAuth::Required(authorities(&[&clients]));
    let server = server_config(&settings).unwrap();
    let (_, connection, _) = shake(&server, &client_of(&root, Some(&mine)), "a.example").unwrap();
    let shown = &connection.peer_certificates().unwrap()[0];
    assert_eq!(*shown, certified(&[mine])[0].certified_key().cert[0]);
}
