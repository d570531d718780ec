//! Sessions are resumed across reloads, and never where they could not have begun.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use handover_tls::{
    ClientAuth, Resolver, Schedule, ServerSettings, Tickets, Unknown, Version, server_config,
};
use rcgen::KeyPair;
use rustls::HandshakeKind::{Full, Resumed};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, HandshakeKind, ServerConfig};

use crate::pki::{Ca, Leaf, authorities, certified, client_of, lasting, listener, shake};

const SCHEDULE: Schedule = Schedule { rotate: Duration::from_secs(3600), keep: 2 };

struct Scene {
    root: Ca,
    clients: Ca,
    leaf: Leaf,
    tickets: Arc<Tickets>,
}

impl Scene {
    fn new() -> Self {
        let root = Ca::root("Root");
        let leaf = lasting(&root, &["a.example"]);
        let tickets = Arc::new(Tickets::new(SCHEDULE, SystemTime::now()).unwrap());
        Self { root, clients: Ca::root("Clients"), leaf, tickets }
    }

    fn settings(&self) -> ServerSettings {
        ServerSettings {
            tickets: Some(Arc::clone(&self.tickets)),
            ..listener(std::slice::from_ref(&self.leaf))
        }
    }

    fn client(&self) -> Arc<ClientConfig> {
        client_of(&self.root, Some(&lasting(&self.clients, &["alice"])))
    }
}

fn server(settings: &ServerSettings) -> Arc<ServerConfig> {
    server_config(settings).unwrap()
}

fn kind(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> HandshakeKind {
    shake(server, client, "a.example").unwrap().0
}

/// The client, kept to one version.
fn only(
    client: &Arc<ClientConfig>,
    scene: &Scene,
    version: &'static rustls::SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let provider = Arc::clone(client.crypto_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let roots = Arc::clone(authorities(&[&scene.root]).roots());
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

#[test]
fn a_client_resumes_across_a_reload_with_another_certificate_in_both_versions() {
    let scene = Scene::new();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let client = only(&scene.client(), &scene, version);
        let first = server(&scene.settings());
        assert_eq!(kind(&first, &client), Full);
        assert_eq!(kind(&first, &client), Resumed);
        // A renewed certificate, and other settings that have nothing to do with who is let in.
        let renewed = certified(&[lasting(&scene.root, &["a.example"])]);
        let second = server(&ServerSettings {
            resolver: Arc::new(Resolver::new(&renewed, 0, Unknown::Refuse)),
            ..scene.settings()
        });
        assert_eq!(kind(&second, &client), Resumed, "{version:?}");
    }
}

#[test]
fn a_client_resumes_with_the_next_process_that_got_the_keys() {
    let scene = Scene::new();
    let client = scene.client();
    assert_eq!(kind(&server(&scene.settings()), &client), Full);
    let exported = scene.tickets.export();
    let next = Tickets::from_export(SCHEDULE, &exported, SystemTime::now()).unwrap();
    let second = server(&ServerSettings { tickets: Some(Arc::new(next)), ..scene.settings() });
    assert_eq!(kind(&second, &client), Resumed);
    let stranger = Tickets::new(SCHEDULE, SystemTime::now()).unwrap();
    let third = server(&ServerSettings { tickets: Some(Arc::new(stranger)), ..scene.settings() });
    assert_eq!(kind(&third, &client), Full);
}

#[test]
fn a_ticket_does_not_outlive_its_key() {
    let scene = Scene::new();
    let client = scene.client();
    let server = server(&scene.settings());
    assert_eq!(kind(&server, &client), Full);
    scene.tickets.advance(SystemTime::now() + SCHEDULE.rotate);
    assert_eq!(kind(&server, &client), Resumed);
    scene.tickets.advance(SystemTime::now() + SCHEDULE.rotate * 10);
    assert_eq!(kind(&server, &client), Full);
}

#[test]
fn a_session_never_resumes_under_other_rules_for_clients() {
    let scene = Scene::new();
    let (ours, other) = (authorities(&[&scene.clients]), authorities(&[&Ca::root("Other"), &scene.clients]));
    let rules = [
        ClientAuth::None,
        ClientAuth::Optional(Arc::clone(&ours)),
        ClientAuth::Required(Arc::clone(&ours)),
        ClientAuth::Required(other),
    ];
    for from in &rules {
        let client = scene.client();
        let server_of =
            |clients: &ClientAuth| server(&ServerSettings { clients: clients.clone(), ..scene.settings() });
        assert_eq!(kind(&server_of(from), &client), Full);
        for to in &rules {
            let expected = if from == to { Resumed } else { Full };
            assert_eq!(kind(&server_of(to), &client), expected, "from {from:?} to {to:?}");
            // Back to where it began: so that the next step starts with a ticket of `from`.
            let _ = kind(&server_of(from), &client);
        }
    }
}

#[test]
fn a_session_does_not_survive_the_removal_of_the_authority_that_let_it_in() {
    let scene = Scene::new();
    let client = scene.client();
    let before = ClientAuth::Required(authorities(&[&scene.clients, &Ca::root("Other")]));
    assert_eq!(kind(&server(&ServerSettings { clients: before, ..scene.settings() }), &client), Full);
    let after = ClientAuth::Required(authorities(&[&Ca::root("Other")]));
    let server = server(&ServerSettings { clients: after, ..scene.settings() });
    let error = shake(&server, &client, "a.example").err().unwrap();
    assert!(error.starts_with("server: invalid peer certificate"), "{error}");
}

/// A clock that stands.
#[derive(Debug)]
struct Standing(SystemTime);

impl TimeProvider for Standing {
    fn current_time(&self) -> Option<UnixTime> {
        self.0.duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

#[test]
fn a_session_does_not_survive_the_certificate_of_the_client() {
    let scene = Scene::new();
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    let clients = ClientAuth::Required(authorities(&[&scene.clients]));
    let settings = ServerSettings { clients, ..scene.settings() };
    // For rustls it is two hours ago.
    let mut server = ServerConfig::clone(&server(&settings));
    server.time_provider = Arc::new(Standing(now - 2 * hour));
    let server = Arc::new(server);
    for (until, expected) in [(now - hour, Full), (now + hour, Resumed)] {
        let leaf = scene.clients.leaf_with(&["alice"], &KeyPair::generate().unwrap(), |params| {
            (params.not_before, params.not_after) = (SystemTime::UNIX_EPOCH.into(), until.into());
        });
        let client = client_of(&scene.root, Some(&leaf));
        assert_eq!(kind(&server, &client), Full);
        assert_eq!(kind(&server, &client), expected);
    }
}

#[test]
fn a_session_does_not_resume_on_another_listener() {
    let scene = Scene::new();
    let client = scene.client();
    assert_eq!(kind(&server(&scene.settings()), &client), Full);
    let other = server(&ServerSettings { name: "other".into(), ..scene.settings() });
    assert_eq!(kind(&other, &client), Full);
}

#[test]
fn a_listener_without_tickets_resumes_nothing() {
    let scene = Scene::new();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let client = only(&scene.client(), &scene, version);
        let server = server(&ServerSettings { tickets: None, ..scene.settings() });
        assert_eq!(kind(&server, &client), Full);
        assert_eq!(kind(&server, &client), Full);
    }
}

#[test]
fn clients_without_a_certificate_are_let_in_where_it_is_optional_only() {
    let scene = Scene::new();
    let ours = authorities(&[&scene.clients]);
    let (with, without) = (scene.client(), client_of(&scene.root, None));
    let stranger = client_of(&scene.root, Some(&lasting(&Ca::root("Other"), &["mallory"])));
    let server_of = |clients| server(&ServerSettings { clients, ..scene.settings() });
    let optional = server_of(ClientAuth::Optional(Arc::clone(&ours)));
    let required = server_of(ClientAuth::Required(ours));
    for (server, client, is_let_in) in [
        (&optional, &with, true),
        (&optional, &without, true),
        (&optional, &stranger, false),
        (&required, &with, true),
        (&required, &without, false),
        (&required, &stranger, false),
    ] {
        assert_eq!(shake(server, client, "a.example").is_ok(), is_let_in);
    }
    let (_, connection, _) = shake(&required, &with, "a.example").unwrap();
    assert_eq!(connection.peer_certificates().map(<[_]>::len), Some(1));
}

#[test]
fn a_listener_for_the_newest_version_only_speaks_no_other() {
    let scene = Scene::new();
    let strict = server(&ServerSettings { minimum_version: Version::Tls13, ..scene.settings() });
    let old = only(&scene.client(), &scene, &rustls::version::TLS12);
    assert!(shake(&strict, &old, "a.example").is_err());
    let (_, connection, _) = shake(&strict, &scene.client(), "a.example").unwrap();
    assert_eq!(connection.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let suite = connection.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(strict.max_early_data_size, 0);
}

#[test]
fn a_protocol_that_both_know_is_agreed_on() {
    let scene = Scene::new();
    let server = server(&ServerSettings { alpn: vec!["b".into(), "a".into()], ..scene.settings() });
    let mut client = (*scene.client()).clone();
    client.alpn_protocols = vec![b"a".to_vec(), b"b".to_vec()];
    let (_, connection, _) = shake(&server, &Arc::new(client.clone()), "a.example").unwrap();
    assert_eq!(connection.alpn_protocol(), Some(b"b".as_slice()));
    client.alpn_protocols = vec![b"c".to_vec()];
    assert!(shake(&server, &Arc::new(client), "a.example").is_err());
}
