//! Who gets which certificate.

use std::sync::Arc;

use handover_tls::{Certified, Resolver, Unknown, server_config};
use proptest::prelude::*;
use rcgen::{KeyPair, RsaKeySize};
use rustls::SignatureScheme;

use crate::pki::{Ca, Leaf, certified, client_of, lasting, listener, shake};

const ECDSA: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
const PSS: SignatureScheme = SignatureScheme::RSA_PSS_SHA256;

fn leaves(names: &[&[&str]]) -> Vec<Leaf> {
    let (root, key) = (Ca::root("Root"), KeyPair::generate().unwrap());
    names.iter().map(|names| root.leaf_with(names, &key, |_| {})).collect()
}

/// The first name of what a client gets.
fn chosen<'r>(resolver: &'r Resolver, host: &str) -> Option<&'r str> {
    resolver.choose(Some(host), &[ECDSA]).map(|certified| &*certified.facts().names[0])
}

#[test]
fn an_exact_name_comes_before_a_wildcard_and_that_before_the_default() {
    let leaves = leaves(&[&["default.example"], &["*.a.example"], &["b.a.example", "a.example"]]);
    let resolver = Resolver::new(&certified(&leaves), 0, Unknown::Default);
    assert_eq!(chosen(&resolver, "b.a.example"), Some("b.a.example"));
    assert_eq!(chosen(&resolver, "c.a.example"), Some("*.a.example"));
    assert_eq!(chosen(&resolver, "a.example"), Some("b.a.example"));
    assert_eq!(chosen(&resolver, "d.c.a.example"), Some("default.example"));
    assert_eq!(chosen(&resolver, ".a.example"), Some("default.example"));
    assert_eq!(chosen(&resolver, "*.a.example"), Some("*.a.example"));
    assert_eq!(chosen(&resolver, ""), Some("default.example"));
    assert_eq!(&*resolver.choose(None, &[ECDSA]).unwrap().facts().names[0], "default.example");
}

#[test]
fn case_and_a_final_dot_make_no_difference() {
    let leaves = leaves(&[&["default.example"], &["B.A.Example", "*.C.example"]]);
    let resolver = Resolver::new(&certified(&leaves), 0, Unknown::Refuse);
    for host in ["b.a.example", "B.A.EXAMPLE", "b.a.example.", "x.c.example", "X.C.EXAMPLE."] {
        assert_eq!(chosen(&resolver, host), Some("b.a.example"), "{host}");
        assert!(resolver.covers(host), "{host}");
    }
    assert!(resolver.covers_below("C.example"));
    assert!(!resolver.covers_below("a.example"));
    assert_eq!(chosen(&resolver, &"A".repeat(300)), None);
}

#[test]
fn an_unknown_name_is_refused_where_it_is_to_be_and_no_name_gets_the_default() {
    let leaves = leaves(&[&["a.example"], &["b.example"]]);
    let resolver = Resolver::new(&certified(&leaves), 1, Unknown::Refuse);
    assert_eq!(chosen(&resolver, "c.example"), None);
    assert_eq!(&*resolver.choose(None, &[ECDSA]).unwrap().facts().names[0], "b.example");
    assert!(Resolver::new(&[], 0, Unknown::Default).choose(None, &[ECDSA]).is_none());
}

#[test]
fn ip_addresses_are_covered_by_certificates_that_have_them() {
    let leaves = leaves(&[&["a.example", "192.0.2.1", "2001:db8::1"]]);
    let resolver = Resolver::new(&certified(&leaves), 0, Unknown::Default);
    assert!(resolver.covers("192.0.2.1") && resolver.covers("2001:db8::1"));
    assert!(!resolver.covers("192.0.2.2"));
}

fn both_kinds(root: &Ca) -> [Leaf; 2] {
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let valid_always = |params: &mut rcgen::CertificateParams| {
        params.not_before = crate::pki::time(0).into();
        params.not_after = crate::pki::time(crate::pki::NOW + 100_000 * crate::pki::DAY).into();
    };
    [root.leaf_with(&["a.example"], &rsa, valid_always), lasting(root, &["a.example"])]
}

#[test]
fn of_an_rsa_and_an_ecdsa_certificate_for_one_name_a_client_gets_what_it_understands() {
    let leaves = both_kinds(&Ca::root("Root"));
    // Whichever comes first in the list.
    for list in [[0, 1], [1, 0]] {
        let certificates = certified(&list.map(|at: usize| leaves[at].clone()));
        let resolver = Resolver::new(&certificates, 0, Unknown::Default);
        let kind = |schemes: &[SignatureScheme]| {
            [Some("a.example"), None, Some("unknown.example")]
                .map(|host| resolver.choose(host, schemes).unwrap().facts().key_type.clone())
        };
        assert_eq!(kind(&[PSS, ECDSA]), ["ECDSA P-256"; 3]);
        assert_eq!(kind(&[SignatureScheme::RSA_PKCS1_SHA256]), ["RSA 2048"; 3]);
        assert_eq!(kind(&[SignatureScheme::ED25519]), ["ECDSA P-256"; 3]);
        assert!(resolver.shadowed().is_empty());
    }
}

#[test]
fn a_client_that_knows_only_rsa_is_served_beside_one_that_knows_ecdsa() {
    let root = Ca::root("Root");
    let server = server_config(&listener(&both_kinds(&root))).unwrap();
    let modern = client_of(&root, None);
    let mut provider = (*rustls::crypto::aws_lc_rs::default_provider().cipher_suites).to_vec();
    provider.retain(|suite| format!("{suite:?}").contains("RSA_"));
    let old = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::CryptoProvider {
        cipher_suites: provider,
        ..rustls::crypto::aws_lc_rs::default_provider()
    }))
    .with_protocol_versions(&[&rustls::version::TLS12])
    .unwrap()
    .with_root_certificates(Arc::clone(crate::pki::authorities(&[&root]).roots()))
    .with_no_client_auth();
    let rsa = certified(&both_kinds(&root)[..1]).remove(0).certified_key().cert[0].len();
    for (client, is_rsa) in [(modern, false), (Arc::new(old), true)] {
        let (_, _, connection) = shake(&server, &client, "a.example").unwrap();
        let shown = connection.peer_certificates().unwrap()[0].len();
        // An RSA certificate is larger by the size of its key.
        assert_eq!(shown + 50 > rsa, is_rsa, "{shown} {rsa}");
    }
}

#[test]
fn of_two_of_one_kind_the_first_is_chosen_and_the_other_is_pointed_out() {
    let leaves =
        leaves(&[&["a.example", "b.example"], &["b.example", "*.c.example"], &["*.c.example", "a.example"]]);
    let certificates = certified(&leaves);
    let resolver = Resolver::new(&certificates, 0, Unknown::Default);
    assert!(Arc::ptr_eq(resolver.choose(Some("b.example"), &[ECDSA]).unwrap(), &certificates[0]));
    assert!(Arc::ptr_eq(resolver.choose(Some("x.c.example"), &[ECDSA]).unwrap(), &certificates[1]));
    let shadowed: Vec<(usize, usize, Vec<String>)> = resolver
        .shadowed()
        .iter()
        .map(|s| (s.certificate, s.by, s.names.iter().map(ToString::to_string).collect()))
        .collect();
    assert_eq!(
        shadowed,
        [
            (1, 0, vec!["b.example".to_owned()]),
            (2, 0, vec!["a.example".to_owned()]),
            (2, 1, vec!["*.c.example".to_owned()])
        ]
    );
}

#[test]
fn rustls_gets_the_certificate_for_the_name_and_an_alert_for_an_unknown_one() {
    let root = Ca::root("Root");
    let leaves = [lasting(&root, &["a.example"]), lasting(&root, &["*.b.example"])];
    let mut settings = listener(&leaves);
    let client = client_of(&root, None);
    let server = server_config(&settings).unwrap();
    assert!(shake(&server, &client, "a.example").is_ok());
    assert!(shake(&server, &client, "x.b.example").is_ok());
    let error = shake(&server, &client, "c.example").err().unwrap();
    assert!(error.starts_with("client: invalid peer certificate"), "{error}");
    settings.resolver = Arc::new(Resolver::new(&certified(&leaves), 0, Unknown::Refuse));
    let server = server_config(&settings).unwrap();
    assert!(shake(&server, &client, "x.b.example").is_ok());
    let error = shake(&server, &client, "c.example").err().unwrap();
    assert!(error.starts_with("server: "), "{error}");
}

/// The rules written down once more, as plainly as can be.
fn model(certificates: &[Arc<Certified>], host: &str, unknown: Unknown) -> Option<usize> {
    let host = host.to_ascii_lowercase();
    let has = |name: &str| certificates.iter().position(|c| c.facts().names.iter().any(|own| **own == *name));
    if let Some(exact) = has(&host) {
        return Some(exact);
    }
    let mut labels: Vec<&str> = host.split('.').collect();
    if labels.len() > 1 && !labels[0].is_empty() {
        labels[0] = "*";
        if let Some(wildcard) = has(&labels.join(".")) {
            return Some(wildcard);
        }
    }
    (unknown == Unknown::Default).then_some(0)
}

fn name() -> impl Strategy<Value = String> {
    let label = prop_oneof![Just("a"), Just("b"), Just("C")];
    let rest = proptest::collection::vec(label, 1..4);
    (any::<bool>(), rest)
        .prop_map(|(wild, labels)| format!("{}{}.example", if wild { "*." } else { "" }, labels.join(".")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_choice_is_that_of_the_rules(
        names in proptest::collection::vec(proptest::collection::vec(name(), 1..4), 1..6),
        hosts in proptest::collection::vec(name().prop_map(|name| name.replace("*.", "A.")), 1..40),
        refuse in any::<bool>(),
    ) {
        let names: Vec<Vec<&str>> = names.iter().map(|names| names.iter().map(String::as_str).collect()).collect();
        let names: Vec<&[&str]> = names.iter().map(Vec::as_slice).collect();
        let certificates = certified(&leaves(&names));
        let unknown = if refuse { Unknown::Refuse } else { Unknown::Default };
        let resolver = Resolver::new(&certificates, 0, unknown);
        for host in hosts {
            let ours = resolver.choose(Some(&host), &[ECDSA]);
            match (model(&certificates, &host, unknown), ours) {
                (None, None) => {}
                (Some(at), Some(ours)) => prop_assert!(Arc::ptr_eq(ours, &certificates[at]), "{host}"),
                (theirs, ours) => prop_assert!(false, "{host}: {theirs:?}, but {ours:?}"),
            }
            prop_assert_eq!(resolver.covers(&host), model(&certificates, &host, Unknown::Refuse).is_some());
        }
    }
}
