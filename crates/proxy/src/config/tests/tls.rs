//! Certificates in the configuration: read once, shared, compared.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::super::*;
use super::{BASE, World, bad, good, said};

/// A listener for TLS with these lines, and a route.
fn https(lines: &str) -> String {
    format!(
        "[[routes]]\nfixed = \"x\"\n[listeners.https]\naddress = \"127.0.0.1:443\"\n[listeners.https.tls]\n{lines}\n"
    )
}

const ONE: &str = "certificate = \"tls/example.org.pem\"\nkey = \"tls/example.org.key\"";

fn tls(text: &str) -> ListenerTls {
    good(text).config.listeners.remove(0).tls.unwrap()
}

/// What a reload to the same configuration finds after files at paths were replaced.
fn after(text: &str, serving: &Config, files: &[(&str, &'static str)]) -> Result<Checked, Vec<Problem>> {
    let mut world = World::default();
    let base = Path::new(BASE);
    world.certificates = files.iter().map(|(path, file)| (base.join(path), *file)).collect();
    world.parse_beside(text, Some(serving))
}

fn lines(old: &Config, new: &Config) -> Vec<String> {
    diff(old, new).iter().map(handover_api::Change::line).collect()
}

#[test]
fn what_is_left_out_of_tls_has_its_documented_default() {
    let tls = tls(&https(ONE));
    assert_eq!(tls.certificates.len(), 1);
    assert_eq!(tls.certificates[0].certificate, Path::new(BASE).join("tls/example.org.pem"));
    assert_eq!(tls.certificates[0].key, Path::new(BASE).join("tls/example.org.key"));
    assert_eq!((tls.default, tls.unknown_names), (0, UnknownNames::Default));
    assert_eq!(tls.minimum_version, handover_tls::Version::Tls12);
    assert_eq!(tls.alpn, ["http/1.1".into()]);
    assert_eq!(tls.clients, None);
    let config = good(&https(ONE)).config;
    assert_eq!(config.tickets, Tickets::default());
    assert_eq!((config.watch, config.guard, config.control.generations), (None, None, 20));
}

#[test]
fn a_table_alone_is_enough_to_watch_and_to_guard() {
    let config = good(&(https(ONE) + "[watch]\n[guard]\n")).config;
    let seconds = std::time::Duration::from_secs;
    assert_eq!(config.watch, Some(Watch { settle: seconds(1) / 2, retry: seconds(10), poll: seconds(30) }));
    let share = Share(500);
    assert_eq!(
        config.guard,
        Some(Guard {
            watch: seconds(10),
            requests: 10,
            errors_5xx: share,
            connect_failures: share,
            handshake_failures: share
        })
    );
}

#[test]
fn the_single_certificate_comes_before_the_list_and_the_default_is_where_it_says() {
    let tls = tls(&https(&format!(
        "{ONE}\ncertificates = [\"tls/example.com.both.pem\", {{ certificate = \"tls/example.net.both.pem\", default = true }}]"
    )));
    let names: Vec<&str> = tls.certificates.iter().map(|c| &*c.loaded.facts().names[0]).collect();
    assert_eq!(names, ["example.org", "example.com", "example.net"]);
    assert_eq!(tls.default, 2);
    assert_eq!(&*tls.resolver.choose(None, &[]).unwrap().facts().names[0], "example.net");
    assert_eq!(tls.certificates[1].key, tls.certificates[1].certificate);
}

#[test]
fn tls_goes_with_unix_sockets_and_with_tcp() {
    let text = "[listeners.t]\naddress = \"unix:/run/t.sock\"\nprotocol = \"tcp\"\nservice = \"s\"\n\
                tls = { certificate = \"tls/example.org.both.pem\", alpn = [\"postgresql\"] }\n\
                [services.s]\nendpoints = \"127.0.0.1:1\"\n";
    assert_eq!(tls(text).alpn, ["postgresql".into()]);
    let text = text.replace(", alpn = [\"postgresql\"]", "");
    assert!(tls(&text).alpn.is_empty());
}

#[test]
fn each_endpoint_is_asked_for_its_own_host_unless_a_name_is_given() {
    let text = |tls: &str| {
        super::with_route("service = \"app\"").replace(
            "endpoints = \"127.0.0.1:3000\"",
            &format!("endpoints = [\"127.0.0.1:3000\", \"[::1]:1\", \"localhost:3001\"]\n{tls}"),
        )
    };
    let service = |lines: &str| good(&text(lines)).config.services.remove(0).tls.unwrap();
    let name = |text: &'static str| ServerName::try_from(text).unwrap();
    let own = service("tls = {}");
    assert_eq!(own.server_names, [name("127.0.0.1"), name("::1"), name("localhost")]);
    assert_eq!((own.verify, own.ca.is_none(), own.identity.is_none()), (true, true, true));
    let given = service(
        "tls = { server_name = \"app.internal\", ca = \"tls/ca.pem\", certificate = \"tls/client.pem\", key = \"tls/client.key\" }",
    );
    assert_eq!(given.server_names, [name("app.internal"), name("app.internal"), name("app.internal")]);
    assert_eq!(given.ca.unwrap().1.facts().len(), 1);
    assert!(given.identity.is_some());
}

#[test]
fn a_certificate_that_two_listeners_name_is_one_object_and_a_mistake_in_it_is_told_once() {
    let two = |certificate: &str| {
        format!(
            "{}[listeners.other]\naddress = \"127.0.0.1:444\"\ntls = {{ {} }}\n",
            https(certificate),
            certificate.replace('\n', ", ")
        )
    };
    let config = good(&two(ONE)).config;
    let all: Vec<_> = config.certificates().collect();
    assert_eq!(all.len(), 2);
    assert!(Arc::ptr_eq(&all[0].1.loaded, &all[1].1.loaded));
    let problems = bad(&two(&ONE.replace("org.key", "com.key")));
    assert_eq!(problems.len(), 1, "{}", said(&problems));
    let shown = config.shown_certificates();
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0].listeners, ["https", "other"]);
    assert_eq!(shown[0].names, ["example.org", "*.example.org"]);
}

#[test]
fn what_did_not_change_is_the_same_object_in_the_next_generation() {
    let text = https(&format!(
        "{ONE}\ncertificates = [\"tls/example.com.both.pem\"]\nclient_certificates = \"optional\"\nclient_ca = \"tls/ca.pem\""
    ));
    let first = good(&text).config;
    let second = after(&text, &first, &[]).unwrap().config;
    let (was, is) = (first.listeners[0].tls.as_ref().unwrap(), second.listeners[0].tls.as_ref().unwrap());
    assert!(Arc::ptr_eq(&was.resolver, &is.resolver));
    assert!(Arc::ptr_eq(
        &was.clients.as_ref().unwrap().authorities,
        &is.clients.as_ref().unwrap().authorities
    ));
    assert_eq!(first, second);
    assert!(lines(&first, &second).is_empty());

    let renewed = [
        ("tls/example.org.pem", "example.org.renewed.pem"),
        ("tls/example.org.key", "example.org.renewed.key"),
    ];
    let third = after(&text, &second, &renewed).unwrap().config;
    let now = third.listeners[0].tls.as_ref().unwrap();
    assert!(!Arc::ptr_eq(&is.certificates[0].loaded, &now.certificates[0].loaded));
    assert!(Arc::ptr_eq(&is.certificates[1].loaded, &now.certificates[1].loaded));
    assert_ne!(second, third);
}

#[test]
fn a_renewed_certificate_is_told_by_its_name_with_both_dates() {
    let text = https(ONE);
    let first = good(&text).config;
    let renewed = [
        ("tls/example.org.pem", "example.org.renewed.pem"),
        ("tls/example.org.key", "example.org.renewed.key"),
    ];
    let second = after(&text, &first, &renewed).unwrap().config;
    let changes = lines(&first, &second);
    let [change] = changes.as_slice() else { panic!("{changes:?}") };
    assert!(change.starts_with("renewed certificate example.org: not after 2"), "{change}");
    let more = good(&https(&format!("{ONE}\ncertificates = [\"tls/example.com.both.pem\"]"))).config;
    let changes = lines(&first, &more);
    let [listener, certificate] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!(
        *listener,
        format!("changed listener https: tls.certificates +{BASE}/tls/example.com.both.pem")
    );
    assert!(
        certificate.starts_with("added certificate example.com: issuer Test Root, not after 2"),
        "{certificate}"
    );
    assert!(lines(&more, &first)[1].starts_with("removed certificate example.com"));
}

#[test]
fn half_a_renewal_is_refused_whichever_half_comes_first() {
    let text = https(ONE);
    let first = good(&text).config;
    for half in [
        ("tls/example.org.pem", "example.org.renewed.pem"),
        ("tls/example.org.key", "example.org.renewed.key"),
    ] {
        let problems = after(&text, &first, &[half]).unwrap_err();
        let [problem] = problems.as_slice() else { panic!("{}", said(&problems)) };
        assert_eq!(
            problem.detail,
            format!(
                "{BASE}/tls/example.org.pem: the key in {BASE}/tls/example.org.key does not belong to this certificate"
            )
        );
        assert_eq!(problem.place().as_deref(), Some("handover.toml:6:15"));
        assert_eq!(problem.pointer.as_deref(), Some("/listeners/https/tls/certificate"));
        assert_eq!(
            problem.help.as_deref(),
            Some("if only one of the two was replaced so far, replace the other as well and reload again")
        );
    }
}

#[test]
fn an_expired_certificate_is_refused_by_a_reload_and_kept_by_one_if_it_serves() {
    let text = https("certificate = \"tls/expired.pem\"\nkey = \"tls/expired.key\"");
    let problems = bad(&text);
    assert!(problems[0].detail.contains("the certificate expired on "), "{}", said(&problems));

    let mut names = super::Names { generous: true };
    let start = parse("x", Path::new(BASE), text.as_bytes(), &mut World::default(), &mut names).unwrap();
    assert!(start.warnings[0].detail.contains("the certificate expired on "), "{}", said(&start.warnings));
    let again = after(&text, &start.config, &[]).unwrap();
    assert!(again.warnings[0].detail.contains("the certificate expired on "), "{}", said(&again.warnings));
}

#[test]
fn settings_of_tls_are_compared_in_the_words_of_the_file() {
    let old = good(&https(ONE)).config;
    let new = good(
        &(https(&format!(
            "{ONE}\nunknown_names = \"refuse\"\nminimum_version = \"1.3\"\nclient_certificates = \"required\"\nclient_ca = \"tls/ca.pem\"\n\
             client_subject_header = \"X-Client\""
        )) + "[tickets]\nrotate = \"1h\"\nkeep = 1\n[watch]\n[guard]\nerrors_5xx = \"0.5%\"\n[control]\ngenerations = 5\n"),
    )
    .config;
    assert_eq!(
        lines(&old, &new),
        [
            "changed listener https: tls.unknown_names default → refuse, tls.minimum_version 1.2 → 1.3, \
             tls.client_certificates not asked for → required, tls.client_subject_header none → X-Client",
            "changed setting control.generations: 20 → 5",
            "changed setting tickets.rotate: 12h → 1h",
            "changed setting tickets.keep: 2 → 1",
            "changed setting watch: off → settle 500ms, retry 10s, poll 30s",
            "changed setting guard: off → 10s, 10 requests, 5xx 0.5%, connects 5%, handshakes 5%",
        ]
    );
    let text = https(&format!("{ONE}\nclient_certificates = \"required\"\nclient_ca = \"tls/ca.pem\""));
    let before = good(&text).config;
    let other = after(&text, &before, &[("tls/ca.pem", "other-ca.pem")]).unwrap().config;
    assert_eq!(
        lines(&before, &other),
        ["changed listener https: tls.client_ca +CN=Other Root −CN=Test Root"]
    );
    let plain = good("[[routes]]\nfixed = \"x\"\n[listeners.https]\naddress = \"127.0.0.1:443\"\n").config;
    let changes = lines(&plain, &old);
    assert_eq!(changes[0], "changed listener https: tls added");
    assert!(changes[1].starts_with("added certificate example.org"), "{changes:?}");
}

#[test]
fn certificates_are_read_by_the_function_for_certificates_and_other_files_by_the_other() {
    let mut world = World::default();
    world.files.insert(Path::new(BASE).join("a.html"), b"a");
    let text = https(ONE).replace("fixed = \"x\"", "fixed = { body_file = \"a.html\" }");
    world.parse(text).unwrap();
    assert_eq!(world.reads, [Path::new(BASE).join("a.html")]);
}

#[test]
fn more_certificates_than_can_be_served_are_refused_unread() {
    let listener = |name: &str| {
        let list: String = (0..10_001).map(|n| format!("\"tls/{name}{n}.pem\",")).collect();
        format!("[listeners.{name}]\naddress = \"unix:/run/{name}\"\ntls.certificates = [{list}]\n")
    };
    let problems = bad(&format!("{}{}[[routes]]\nfixed = \"x\"\n", listener("a"), listener("b")));
    let [problem] = problems.as_slice() else { panic!("{}", said(&problems[..2])) };
    assert_eq!(problem.detail, "more than 20000 certificates");
}

#[test]
fn a_certificate_of_our_own_for_endpoints_need_not_be_one_for_servers() {
    let text = super::with_route("service = \"app\"").replace(
        "endpoints = \"127.0.0.1:3000\"",
        "endpoints = \"127.0.0.1:3000\"\ntls = { certificate = \"tls/client.pem\", key = \"tls/client.key\" }",
    );
    let checked = good(&text);
    assert!(checked.warnings.is_empty(), "{}", said(&checked.warnings));
    assert_eq!(checked.config.shown_certificates()[0].services, ["app"]);
}

#[test]
fn the_subject_of_a_client_cannot_stand_in_place_of_the_host() {
    let text = https(&format!(
        "{ONE}\nclient_certificates = \"required\"\nclient_ca = \"tls/ca.pem\"\nclient_subject_header = \"host\""
    ));
    let problems = bad(&text);
    assert!(problems[0].detail.contains("cannot say who asks"), "{}", said(&problems));
}
