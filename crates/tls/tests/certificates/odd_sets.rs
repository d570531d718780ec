//! What is odd is served with a warning; what is merely unusual, without.

use handover_tls::{CertificateFacts, Moment, Pair, load};
use rcgen::{ExtendedKeyUsagePurpose, IsCa, KeyPair};

use crate::pki::{Ca, DAY, Disk, Leaf, NOW, fixture, moment, time};

fn warnings_at(leaf: &Leaf, moment: &Moment<'_>) -> Vec<String> {
    let mut disk = Disk::default();
    disk.put("/c", &leaf.certificate);
    disk.put("/k", &leaf.key);
    let loaded =
        load(&[Pair::new("/c", "/k")], &mut disk, moment).unwrap_or_else(|errors| panic!("{errors:?}"));
    let said = |warning: &handover_tls::CertificateWarning| match warning.help() {
        Some(help) => format!("{warning} ({help})"),
        None => warning.to_string(),
    };
    loaded.warnings.iter().map(said).collect()
}

fn warnings(leaf: &Leaf) -> Vec<String> {
    warnings_at(leaf, &moment())
}

fn text(name: &str) -> String {
    String::from_utf8(fixture(name)).unwrap()
}

fn facts(certificate: &str, key: &str) -> CertificateFacts {
    let mut disk = Disk::default();
    disk.put("/c", fixture(certificate));
    disk.put("/k", fixture(key));
    let loaded = load(&[Pair::new("/c", "/k")], &mut disk, &moment()).unwrap_or_else(|e| panic!("{e:?}"));
    loaded.certificates[0].facts().clone()
}

#[test]
fn an_ordinary_pair_gives_no_warning() {
    assert!(warnings(&Ca::root("Root").leaf(&["a.example", "*.a.example"])).is_empty());
}

#[test]
fn keys_of_every_usual_kind_and_form_are_taken() {
    for (name, key_type) in
        [("pkcs1", "RSA 2048"), ("sec1", "ECDSA P-256"), ("ed25519", "Ed25519"), ("p521", "ECDSA P-521")]
    {
        assert_eq!(facts(&format!("{name}.pem"), &format!("{name}.key")).key_type, key_type);
    }
    let leaf = Ca::root("Root").leaf_with(
        &["a"],
        &KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
        |_| {},
    );
    assert!(warnings(&leaf).is_empty());
}

#[test]
fn what_editors_and_tools_leave_around_sections_does_not_matter() {
    let leaf = Ca::root("Root").leaf(&["a.example"]);
    let decorated = Leaf {
        certificate: format!("\u{feff}Bag Attributes\n    friendlyName: mine\n\n{}\n\n", leaf.certificate),
        key: leaf.key.replace('\n', "\r\n"),
    };
    assert!(warnings(&decorated).is_empty());
    let parameters = "-----BEGIN DH PARAMETERS-----\nMAYCAQICAQI=\n-----END DH PARAMETERS-----\n";
    let with_parameters = Leaf { certificate: leaf.certificate.clone() + parameters, ..leaf };
    assert!(warnings(&with_parameters).is_empty());
}

#[test]
fn certificate_and_key_in_one_file_are_a_pair() {
    let leaf = Ca::root("Root").leaf(&["a.example"]);
    for text in [format!("{}{}", leaf.certificate, leaf.key), format!("{}{}", leaf.key, leaf.certificate)] {
        let mut disk = Disk::default();
        disk.put("/both", text);
        assert!(load(&[Pair::new("/both", "/both")], &mut disk, &moment()).is_ok());
        assert_eq!(disk.reads, 1);
    }
}

#[test]
fn a_whole_chain_with_its_root_is_served() {
    let root = Ca::root("Root");
    let middle = root.intermediate("Middle");
    let leaf = middle.leaf(&["a.example"]);
    for chain in [middle.pem(), middle.pem() + &root.pem()] {
        assert!(
            warnings(&Leaf { certificate: leaf.certificate.clone() + &chain, key: leaf.key.clone() })
                .is_empty()
        );
    }
}

#[test]
fn what_clients_may_refuse_is_warned_about() {
    let root = Ca::root("Root");
    let key = KeyPair::generate().unwrap();
    let with = |change: fn(&mut rcgen::CertificateParams)| root.leaf_with(&["a.example"], &key, change);
    let for_this = "have one issued for this server";
    assert_eq!(
        warnings(&Leaf { certificate: text("cn-only.pem"), key: text("cn-only.key") }),
        [
            "/c: the certificate has no subjectAltName: clients refuse it, whatever the host (have one issued with the host as its subjectAltName)"
        ]
    );
    assert_eq!(
        warnings(&with(|params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained))),
        [format!(
            "/c: the certificate is that of an authority, not of a server: clients may refuse it ({for_this})"
        )]
    );
    assert_eq!(
        warnings(&with(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth])),
        [format!(
            "/c: the certificate is not for servers (its extended key usage lacks serverAuth): clients refuse it ({for_this})"
        )]
    );
    for usages in [
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        vec![ExtendedKeyUsagePurpose::Any],
    ] {
        let leaf = root.leaf_with(&["a.example"], &key, |params| params.extended_key_usages = usages);
        assert!(warnings(&leaf).is_empty());
    }
}

#[test]
fn a_common_name_stands_in_for_names_that_are_missing() {
    let only = facts("cn-only.pem", "cn-only.key");
    assert_eq!(only.names, ["only.example".into()]);
}

#[test]
fn a_key_that_every_user_can_read_is_warned_about_and_one_for_a_group_is_not() {
    let leaf = Ca::root("Root").leaf(&["a.example"]);
    for (mode, expected) in
        [(0o600, None), (0o640, None), (0o400, None), (0o644, Some("0644")), (0o666, Some("0666"))]
    {
        let mut disk = Disk::default();
        let pair = disk.pair("a", &leaf);
        disk.mode_of("/tls/a.key", mode);
        let said: Vec<String> =
            load(&[pair], &mut disk, &moment()).unwrap().warnings.iter().map(ToString::to_string).collect();
        let line =
            |mode| format!("/tls/a.key: every user of this machine can read this private key (mode {mode})");
        assert_eq!(said, expected.map(line).into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_certificate_that_ends_soon_is_warned_about_unless_it_is_meant_to_be_short() {
    let root = Ca::root("Root");
    let key = KeyPair::generate().unwrap();
    let between = |not_before: i64, not_after: i64| {
        root.leaf_with(&["a.example"], &key, |params| {
            params.not_before = time(not_before).into();
            params.not_after = time(not_after).into();
        })
    };
    assert_eq!(
        warnings(&between(NOW - 60 * DAY, NOW + 14 * DAY)),
        ["/c: the certificate expires on 2027-01-15 00:00:00 UTC, in 14 days (have it renewed)"]
    );
    assert!(warnings(&between(NOW - 60 * DAY, NOW + 14 * DAY + 1)).is_empty());
    assert!(warnings(&between(NOW - DAY, NOW + 6 * DAY)).is_empty());
    assert_eq!(warnings(&between(NOW - 4 * DAY, NOW + 3 * DAY)).len(), 1);
}

#[test]
fn an_intermediate_that_has_expired_is_warned_about() {
    let middle = Ca::root("Root").intermediate_until("Middle", NOW - DAY);
    let leaf = middle.leaf(&["a.example"]);
    let chain = Leaf { certificate: leaf.certificate + &middle.pem(), key: leaf.key };
    assert_eq!(
        warnings(&chain),
        [
            "/c: certificate 2 (Middle) expired on 2026-12-31 00:00:00 UTC (take the intermediate certificates that came with the latest renewal)"
        ]
    );
}

#[test]
fn an_expired_certificate_is_served_at_a_start_and_as_long_as_it_serves_already() {
    let key = KeyPair::generate().unwrap();
    let leaf =
        Ca::root("Root").leaf_with(&["a.example"], &key, |params| params.not_after = time(NOW - DAY).into());
    let expected = ["/c: the certificate expired on 2026-12-31 00:00:00 UTC, 1 day ago (have it renewed)"];
    assert_eq!(warnings_at(&leaf, &Moment { lenient: true, ..moment() }), expected);

    let mut disk = Disk::default();
    disk.put("/c", &leaf.certificate);
    disk.put("/k", &leaf.key);
    let pairs = [Pair::new("/c", "/k")];
    let started = load(&pairs, &mut disk, &Moment { lenient: true, ..moment() }).unwrap();
    let serving = Moment { serving: started.certificates.iter().collect(), ..moment() };
    assert_eq!(load(&pairs, &mut disk, &serving).unwrap().warnings.len(), 1);
    assert!(load(&pairs, &mut disk, &moment()).is_err());
}

#[test]
fn facts_are_those_that_openssl_shows() {
    let facts = facts("sec1.pem", "sec1.key");
    assert_eq!(facts.names, ["sec1.example".into()]);
    assert_eq!((facts.subject.as_str(), facts.issuer.as_str()), ("CN=sec1.example", "sec1.example"));
    assert_eq!(facts.chain, 1);
    assert_eq!(facts.sha256.len(), 64);
    assert_eq!(facts.sha256, SEC1_SHA256);
    assert_eq!(facts.serial, SEC1_SERIAL);
    assert_eq!((facts.not_before, facts.not_after), SEC1_TIMES);
}

/// `openssl x509 -in fixtures/sec1.pem -noout -fingerprint -sha256 -serial -dates`.
const SEC1_SHA256: &str = "08bb67016a16bfd1e8e100f88f5ecb7d3ec79983726810ca4856bd1739dee9e0";
const SEC1_SERIAL: &str = "5286bdd9766d7381f57209516c4f15b4c73072d8";
const SEC1_TIMES: (i64, i64) = (1795328228, 4948928228);

#[test]
fn ip_addresses_are_names_as_well() {
    let mut disk = Disk::default();
    let leaf = Ca::root("Root").leaf(&["A.Example", "192.0.2.1", "2001:db8::1"]);
    let pair = disk.pair("a", &leaf);
    let loaded = load(&[pair], &mut disk, &moment()).unwrap();
    assert_eq!(
        loaded.certificates[0].facts().names,
        ["a.example".into(), "192.0.2.1".into(), "2001:db8::1".into()]
    );
}
