//! Every set that does not fit together is refused, with the file and the reason.

use handover_tls::{Pair, load};
use proptest::prelude::*;
use rcgen::KeyPair;

use crate::pki::{Ca, DAY, Disk, NOW, fixture, moment, time};

/// What is said about the pair `/c` and `/k` with these bytes.
fn said(certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Vec<String> {
    let mut disk = Disk::default();
    disk.put("/c", certificate);
    disk.put("/k", key);
    said_about(&[Pair::new("/c", "/k")], &mut disk)
}

fn said_about(pairs: &[Pair], disk: &mut Disk) -> Vec<String> {
    let errors = match load(pairs, disk, &moment()) {
        Ok(loaded) => panic!("accepted: {:?}", loaded.certificates),
        Err(errors) => errors,
    };
    errors
        .iter()
        .map(|error| match error.help() {
            Some(help) => format!("{error} ({help})"),
            None => error.to_string(),
        })
        .collect()
}

/// Root, intermediate, and a leaf that the intermediate issued.
struct Scene {
    root: Ca,
    middle: Ca,
    leaf: crate::pki::Leaf,
}

fn scene() -> Scene {
    let root = Ca::root("Root");
    let middle = root.intermediate("Middle");
    let leaf = middle.leaf(&["a.example"]);
    Scene { root, middle, leaf }
}

const OTHER_HALF: &str =
    "if only one of the two was replaced so far, replace the other as well and reload again";
const SWAPPED: &str = "are certificate and key the wrong way round?";
const COPY: &str = "copy it anew from where it came from";
const KINDS: &str = "supported are RSA from 2048 bits on, ECDSA on P-256, P-384 and P-521, and Ed25519";
const HAVE_ISSUED: &str = "have one issued for a key of type ECDSA P-256, or RSA with 2048 bits";
const ORDER: &str = "first the server's own certificate, then the one that issued it, and so on";
const FOLLOWED: &str = "each certificate must be followed by the one that issued it";
const INTERMEDIATES: &str = "take the intermediate certificates that came with this certificate";

#[test]
fn a_certificate_file_that_holds_none_is_refused_by_what_it_holds_instead() {
    let key = scene().leaf.key;
    let table: &[(&[u8], String)] = &[
        (b"", "the file is empty".into()),
        (b" \n\t\n", "the file is empty".into()),
        (b"hello\n", "the file is not PEM: it has no line that begins with \"-----BEGIN\"".into()),
        (b"\x00\x01\x02", "the file is not PEM: it has no line that begins with \"-----BEGIN\"".into()),
        (&fixture("sec1.der"), "the file is a certificate in the binary form (DER), not PEM (convert it: openssl x509 -inform der -in /c -out /c.pem)".into()),
        (&fixture("sec1.key.der"), "the file is a private key in the binary form (DER), not PEM (convert it: openssl pkey -inform der -in /c -out /c.pem)".into()),
        (&fixture("sec1.p12"), "the file is a PKCS#12 archive, not PEM (unpack it: openssl pkcs12 -in /c -nodes -out /c.pem)".into()),
        (&fixture("sec1.p7b.der"), "the file is a PKCS#7 bundle in the binary form, not PEM (convert it: openssl pkcs7 -inform der -print_certs -in /c -out /c.pem)".into()),
        (b"\xfe\xed\xfe\xed\x00\x00\x00\x02", "the file is a Java key store, not PEM (export it: keytool -importkeystore -deststoretype PKCS12, then openssl pkcs12)".into()),
        (b"\xff\xfe-\x00-\x00-\x00", "the file is text in UTF-16, not PEM (save it as plain text (ASCII or UTF-8))".into()),
        (&fixture("sec1.p7b"), "there is no certificate in the file, only a PKCS#7 bundle (convert it: openssl pkcs7 -print_certs -in /c -out /c.pem)".into()),
        (&fixture("trusted.pem"), "there is no certificate in the file, only a certificate in OpenSSL's own form (convert it: openssl x509 -in /c -out /c.pem)".into()),
        (&fixture("request.pem"), "there is no certificate in the file, only a certificate request (send it to an authority; what comes back is the certificate)".into()),
        (&fixture("public.pem"), "there is no certificate in the file, only a public key".into()),
        (&fixture("sec1.key"), format!("there is no certificate in the file, only a private key ({SWAPPED})")),
        (&fixture("encrypted-pkcs8.key"), format!("there is no certificate in the file, only a private key ({SWAPPED})")),
        (b"-----BEGIN SOMETHING-----\nAAAA\n-----END SOMETHING-----\n", "there is no certificate in the file, only a section \"SOMETHING\"".into()),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n", format!("the section \"CERTIFICATE\" that begins on line 1 is cut off or spoilt ({COPY})")),
        (b"# mine\n\n-----BEGIN CERTIFICATE-----\nA?AA\n-----END CERTIFICATE-----\n", format!("the section \"CERTIFICATE\" that begins on line 3 is cut off or spoilt ({COPY})")),
        (b"-----BEGIN CERTIFICATE----\nAAAA\n-----END CERTIFICATE-----\n", format!("the section \"CERTIFICATE----\" that begins on line 1 is cut off or spoilt ({COPY})")),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", format!("the certificate cannot be understood: it is damaged ({COPY})")),
        (b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", format!("the certificate cannot be understood: it is damaged ({COPY})")),
    ];
    for (bytes, expected) in table {
        assert_eq!(said(bytes, &key), [format!("/c: {expected}")], "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_key_file_without_a_usable_key_is_refused_by_what_it_holds_instead() {
    let certificate = fixture("sec1.pem");
    let key = String::from_utf8(fixture("sec1.key")).unwrap();
    let encrypted = "the private key is encrypted, and there is nobody to type its passphrase (decrypt it: openssl pkey -in /k -out /k.plain)";
    let unusable = format!("the private key is damaged, or of a kind that is not supported ({KINDS})");
    let table: &[(Vec<u8>, String)] = &[
        (Vec::new(), "the file is empty".into()),
        (b"secret".to_vec(), "the file is not PEM: it has no line that begins with \"-----BEGIN\"".into()),
        (fixture("sec1.key.der"), "the file is a private key in the binary form (DER), not PEM (convert it: openssl pkey -inform der -in /k -out /k.pem)".into()),
        (fixture("encrypted-pkcs8.key"), encrypted.into()),
        (fixture("encrypted-legacy.key"), encrypted.into()),
        (fixture("openssh.key"), "there is no private key in the file, only a key in OpenSSH's own form (convert it: ssh-keygen -p -m PEM -f /k)".into()),
        (fixture("public.pem"), "there is no private key in the file, only a public key".into()),
        (certificate.clone(), format!("there is no private key in the file, only a certificate ({SWAPPED})")),
        (fixture("request.pem"), "there is no private key in the file, only a certificate request (send it to an authority; what comes back is the certificate)".into()),
        (key.repeat(2).into_bytes(), "there are 2 private keys in the file (leave only the one that belongs to the certificate)".into()),
        (key.replace("MHcC", "MHcD").into_bytes(), unusable.clone()),
        (fixture("secp256k1.key"), unusable.clone()),
        (fixture("ed448.key"), unusable.clone()),
        (fixture("dsa.key"), unusable.clone()),
        (fixture("rsa1024.key"), unusable),
        (key.replace("-----END EC PRIVATE KEY-----\n", "").into_bytes(), format!("the section \"EC PRIVATE KEY\" that begins on line 4 is cut off or spoilt ({COPY})")),
        (b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n".to_vec(), "there is no private key in the file, only a section \"EC PARAMETERS\"".into()),
    ];
    for (bytes, expected) in table {
        let said = said(&certificate, bytes);
        assert_eq!(said, [format!("/k: {expected}")], "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_key_that_belongs_to_another_certificate_is_refused_with_both_files() {
    let Scene { middle, leaf, .. } = scene();
    let other = middle.leaf(&["a.example"]);
    let expected = format!("/c: the key in /k does not belong to this certificate ({OTHER_HALF})");
    for said in [
        said(&leaf.certificate, &other.key),
        said(&other.certificate, &leaf.key),
        said(fixture("pkcs1.pem"), &leaf.key),
        said(&leaf.certificate, fixture("ed25519.key")),
    ] {
        assert_eq!(said.as_slice(), std::slice::from_ref(&expected));
    }
}

#[test]
fn a_chain_that_is_out_of_order_is_refused_with_the_place_of_what_is_wrong() {
    let Scene { root, middle, leaf } = scene();
    let (c, m, r) = (leaf.certificate.as_str(), middle.pem(), root.pem());
    let stranger = Ca::root("Stranger").pem();
    let table = [
        (
            format!("{m}{c}"),
            format!(
                "the chain is out of order: the certificate of the key stands in place 2, the leaf must come first ({ORDER})"
            ),
        ),
        (
            format!("{r}{m}{c}"),
            format!(
                "the chain is out of order: the certificate of the key stands in place 3, the leaf must come first ({ORDER})"
            ),
        ),
        (
            format!("{c}{r}{m}"),
            format!(
                "the chain is out of order: certificate 1 (a.example) was issued by Middle, which stands in place 3 instead of 2 ({FOLLOWED})"
            ),
        ),
        (
            format!("{c}{r}"),
            format!(
                "the chain is out of order: certificate 1 (a.example) was issued by Middle, which is not the one that follows ({FOLLOWED})"
            ),
        ),
        (
            format!("{c}{m}{stranger}"),
            format!(
                "the chain is out of order: certificate 2 (Middle) was issued by Root, which is not the one that follows ({FOLLOWED})"
            ),
        ),
        (format!("{c}{c}{m}"), "certificates 1 and 2 are the same (leave one of them out)".to_owned()),
        (format!("{c}{m}{r}{m}"), "certificates 2 and 4 are the same (leave one of them out)".to_owned()),
    ];
    for (chain, expected) in table {
        assert_eq!(said(&chain, &leaf.key), [format!("/c: {expected}")]);
    }
}

#[test]
fn an_issuer_with_the_right_name_and_another_key_is_refused() {
    let Scene { root, leaf, .. } = scene();
    let impostor = root.intermediate("Middle").pem();
    assert_eq!(
        said(format!("{}{impostor}", leaf.certificate), &leaf.key),
        [format!(
            "/c: the chain does not hold: certificate 2 has the name of the issuer of certificate 1 (a.example), but did not sign it ({INTERMEDIATES})"
        )]
    );
}

#[test]
fn one_damaged_certificate_of_a_chain_is_named_by_its_number() {
    let Scene { middle, leaf, .. } = scene();
    let damaged = "-----BEGIN CERTIFICATE-----\nMAMCAQU=\n-----END CERTIFICATE-----\n";
    assert_eq!(
        said(format!("{}{}{damaged}", leaf.certificate, middle.pem()), &leaf.key),
        [format!("/c: certificate 3 cannot be understood: it is damaged ({COPY})")]
    );
}

#[test]
fn keys_that_clients_do_not_know_or_refuse_are_named() {
    let fine = scene().leaf.key;
    let table = [
        ("rsa1024", "its key has only 1024 bits, and clients refuse RSA keys of less than 2048 (have one issued for a key of at least 2048 bits)".to_owned()),
        ("secp256k1", format!("its key is ECDSA secp256k1, which is not supported ({HAVE_ISSUED})")),
        ("ed448", format!("its key is Ed448, which is not supported ({HAVE_ISSUED})")),
        ("dsa", format!("its key is DSA, which is not supported ({HAVE_ISSUED})")),
        ("rsapss", format!("its key is RSA-PSS, which is not supported ({HAVE_ISSUED})")),
    ];
    for (name, expected) in table {
        assert_eq!(said(fixture(&format!("{name}.pem")), &fine), [format!("/c: {expected}")]);
    }
}

#[test]
fn a_certificate_out_of_its_time_is_refused_with_the_time() {
    let root = Ca::root("Root");
    let key = KeyPair::generate().unwrap();
    let between = |not_before: i64, not_after: i64| {
        root.leaf_with(&["a.example"], &key, |params| {
            params.not_before = time(not_before).into();
            params.not_after = time(not_after).into();
        })
    };
    let renew = "have it renewed";
    let clock = "is the clock of this machine right?";
    let table = [
        (
            between(0, NOW - 1),
            format!("the certificate expired on 2026-12-31 23:59:59 UTC, 1 second ago ({renew})"),
        ),
        (
            between(0, NOW - 3 * DAY),
            format!("the certificate expired on 2026-12-29 00:00:00 UTC, 3 days ago ({renew})"),
        ),
        (
            between(NOW + 1, NOW + DAY),
            format!("the certificate is not valid before 2027-01-01 00:00:01 UTC, in 1 second ({clock})"),
        ),
        (
            between(NOW + 7200, NOW + DAY),
            format!("the certificate is not valid before 2027-01-01 02:00:00 UTC, in 2 hours ({clock})"),
        ),
    ];
    for (leaf, expected) in table {
        assert_eq!(said(&leaf.certificate, &leaf.key), [format!("/c: {expected}")]);
    }
}

#[test]
fn files_that_are_too_much_are_refused() {
    let leaf = scene().leaf;
    let long = vec![b'\n'; handover_tls::MAX_PEM_BYTES + 1];
    assert_eq!(said(long, &leaf.key), ["/c: the file has 4194305 bytes, and at most 4194304 are read"]);
    let deep = leaf.certificate.repeat(17);
    assert_eq!(said(deep, &leaf.key), ["/c: the file has more than 16 certificates"]);
}

#[test]
fn a_file_that_is_not_there_is_told_once_for_each_name_of_it() {
    let mut disk = Disk::default();
    let gone = "cannot be read: No such file or directory (os error 2)";
    let both = said_about(&[Pair::new("/c", "/k")], &mut disk);
    assert_eq!(both, [format!("/c: {gone}"), format!("/k: {gone}")]);
    assert_eq!(said_about(&[Pair::new("/c", "/c")], &mut disk), [format!("/c: {gone}")]);
}

#[test]
fn everything_that_is_wrong_with_a_set_is_told_at_once_with_the_position_of_each() {
    let Scene { leaf, middle, .. } = scene();
    let mut disk = Disk::default();
    let good = disk.pair("good", &leaf);
    let mut swapped = disk.pair("swapped", &middle.leaf(&["b.example"]));
    swapped.key.clone_from(&good.key);
    disk.put("/tls/empty.pem", "");
    disk.put("/tls/text.key", "text");
    let pairs =
        [good, swapped, Pair::new("/tls/empty.pem", "/tls/text.key"), Pair::new("/tls/gone", "/tls/gone")];
    let errors = load(&pairs, &mut disk, &moment()).unwrap_err();
    let places: Vec<(usize, &str)> =
        errors.iter().map(|error| (error.pair, error.file.to_str().unwrap())).collect();
    assert_eq!(
        places,
        [(1, "/tls/swapped.pem"), (2, "/tls/empty.pem"), (2, "/tls/text.key"), (3, "/tls/gone")]
    );
}

#[test]
fn nothing_that_is_said_tells_what_is_in_a_key() {
    let leaf = scene().leaf;
    let spoilt = leaf.key.replace("-----END", "spoilt-----END");
    let secret = leaf.key.lines().nth(1).unwrap();
    for text in said(&leaf.certificate, spoilt) {
        assert!(!text.contains(&secret[..8]), "{text}");
    }
}

/// Whatever the bytes are, the answer is an answer; and what is served has a key that belongs to it.
fn answer(certificate: &[u8], key: &[u8]) -> bool {
    let mut disk = Disk::default();
    disk.put("/c", certificate);
    disk.put("/k", key);
    match load(&[Pair::new("/c", "/k")], &mut disk, &moment()) {
        Ok(loaded) => {
            // What else is spoilt in it is for clients to judge; so are the parameters of RSA keys.
            let certified = &loaded.certificates[0];
            let mismatch = rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch);
            let same = certified.certified_key().keys_match() != Err(mismatch);
            assert!(same || certified.facts().key_type.starts_with("RSA"));
            true
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                let text = format!("{error} {}", error.help().unwrap_or_default());
                assert!(!text.contains('\n') && !text.chars().any(char::is_control), "{text:?}");
            }
            false
        }
    }
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_refused_unless_whole_certificates_are_left() {
    let Scene { middle, leaf, .. } = scene();
    let chain = format!("{}{}", leaf.certificate, middle.pem());
    let whole = leaf.certificate.trim_end().len();
    for end in 0..chain.len() {
        let cut = &chain.as_bytes()[..end];
        // After the last dash of the leaf, and until the intermediate has begun, it is a chain of one.
        let begun = chain[..end].matches("-----BEGIN ").count() == 2;
        let ended = end >= chain.trim_end().len();
        assert_eq!(answer(cut, leaf.key.as_bytes()), end >= whole && (!begun || ended), "cut at {end}");
    }
    let key_ends = leaf.key.trim_end().len();
    for end in 0..leaf.key.len() {
        assert_eq!(
            answer(chain.as_bytes(), &leaf.key.as_bytes()[..end]),
            end >= key_ends,
            "key cut at {end}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_answered(certificate in proptest::collection::vec(any::<u8>(), 0..300), key in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(!answer(&certificate, &key));
    }

    #[test]
    fn spoilt_certificates_and_keys_are_answered(
        edits in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>(), any::<u8>()), 1..5)
    ) {
        let (mut certificate, mut key) = (fixture("pkcs1.pem"), fixture("pkcs1.key"));
        for (of_key, at, byte) in edits {
            let bytes = if of_key { &mut key } else { &mut certificate };
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        answer(&certificate, &key);
    }

    #[test]
    fn spoilt_der_within_good_pem_is_answered(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
    ) {
        let mut der = fixture("sec1.der");
        for (at, byte) in edits {
            let at = at.index(der.len());
            der[at] = byte;
        }
        answer(pem("CERTIFICATE", &der).as_bytes(), &fixture("sec1.key"));
    }
}

/// A section of PEM.
fn pem(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = |three: &[u8]| -> String {
        let bits =
            three.iter().chain([&0, &0]).take(3).fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        let digit =
            |at: usize| if at <= three.len() { char::from(DIGITS[bits >> (18 - 6 * at) & 63]) } else { '=' };
        (0..4).map(digit).collect()
    };
    let body: String = der.chunks(3).map(digits).collect();
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

#[test]
fn the_pem_of_these_tests_is_that_of_openssl() {
    assert!(answer(pem("CERTIFICATE", &fixture("sec1.der")).as_bytes(), &fixture("sec1.key")));
}
