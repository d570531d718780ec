//! Handshakes: what is agreed on, what is resumed, and what failures say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod peers;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use handover_testkit::Authority;
use handover_tls::{Accepting, Alert, Connecting, Established, Fed, HandshakeError, Peer, Version};
use peers::{NAME, Ours, Theirs, World, accept, connect, connect_with, open, seal, shake};
use rustls::crypto::aws_lc_rs::{self, Ticketer, cipher_suite as suite};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{AlertDescription, SupportedCipherSuite};
use rustls_pki_types::UnixTime;

/// Both versions.
fn versions() -> [SupportedCipherSuite; 2] {
    [suite::TLS13_AES_256_GCM_SHA384, suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]
}

/// A word there and a word back.
fn talk(established: &mut Established, theirs: &mut Theirs) {
    let leftover = std::mem::take(&mut established.leftover);
    assert_eq!(open(&mut established.session, &leftover), b"");
    assert_eq!(theirs.receive(&seal(&mut established.session, b"to them")).unwrap(), b"to them");
    let bytes = theirs.say(b"to us");
    assert_eq!(open(&mut established.session, &bytes), b"to us");
}

#[test]
fn what_was_agreed_is_told() {
    let world = World::new();
    let mut server = world.server(Some(suite::TLS13_CHACHA20_POLY1305_SHA256));
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut client = world.client(None);
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (mut established, mut theirs) = accept(server, client).unwrap();
    let facts = &established.facts;
    assert_eq!(facts.sni.as_deref(), Some(NAME));
    assert_eq!(facts.alpn.as_deref(), Some(&b"http/1.1"[..]));
    assert_eq!((facts.version, facts.version.name()), (Version::Tls13, "TLSv1.3"));
    assert_eq!(facts.suite.name(), "TLS_CHACHA20_POLY1305_SHA256");
    assert_eq!(established.session.suite(), facts.suite);
    assert!(!facts.resumed);
    assert!(facts.group.is_some_and(|group| group.contains("25519")), "{:?}", facts.group);
    assert_eq!(facts.client_subject, None);
    talk(&mut established, &mut theirs);
}

#[test]
fn a_client_that_names_no_server_is_told_so() {
    let world = World::new();
    let mut client = world.client(None);
    client.enable_sni = false;
    let (established, _) = accept(world.server(None), client).unwrap();
    assert_eq!(established.facts.sni, None);
    assert_eq!(established.facts.alpn, None);
}

#[test]
fn a_second_hello_with_another_group_is_waited_for() {
    let world = World::new();
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::SECP384R1];
    let (chain, key) = peers::parts(&world.ecdsa);
    let server = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let (mut established, mut theirs) = accept(server, world.client(None)).unwrap();
    assert_eq!(established.facts.group, Some("secp384r1"));
    assert_eq!(established.facts.sni.as_deref(), Some(NAME));
    talk(&mut established, &mut theirs);
}

#[test]
fn a_server_resumes_by_ticket_however_many_tickets_it_sends() {
    let world = World::new();
    for suite in versions() {
        for tickets in [1, 2, 4] {
            let mut server = world.server(Some(suite));
            server.ticketer = Ticketer::new().unwrap();
            server.send_tls13_tickets = tickets;
            handover_tls::prepare_server(&mut server);
            let (server, client) = (Arc::new(server), Arc::new(world.client(Some(suite))));
            for round in 0..4 {
                let mut ours = Ours::Server(Accepting::new(Arc::clone(&server)).unwrap());
                let mut theirs = Theirs::client_of(&client);
                let mut established = shake(&mut ours, &mut theirs).unwrap();
                assert_eq!(established.facts.resumed, round > 0, "{suite:?}, {tickets} tickets");
                assert_eq!(established.facts.sni.as_deref(), Some(NAME));
                talk(&mut established, &mut theirs);
            }
        }
    }
}

#[test]
fn a_server_that_sends_no_tickets_numbers_its_records_from_the_start() {
    let world = World::new();
    let mut server = world.server(None);
    server.send_tls13_tickets = 0;
    let (mut established, mut theirs) = accept(server, world.client(None)).unwrap();
    talk(&mut established, &mut theirs);
}

#[test]
fn a_client_resumes_by_the_tickets_that_its_session_took() {
    let world = World::new();
    for suite in versions() {
        let mut server = world.server(Some(suite));
        server.ticketer = Ticketer::new().unwrap();
        let server = Arc::new(server);
        let mut client = world.client(Some(suite));
        handover_tls::prepare_client(&mut client);
        let client = Arc::new(client);
        for round in 0..4 {
            let (mut established, mut theirs) = connect_with(&client, &server).unwrap();
            assert_eq!(established.facts.resumed, round > 0, "{suite:?}");
            assert_eq!(established.facts.sni.as_deref(), Some(NAME));
            talk(&mut established, &mut theirs);
        }
    }
}

#[test]
fn the_subject_of_a_clients_certificate_is_told_and_kept_across_resumption() {
    let world = World::new();
    let mut server = world.asking_server(true);
    server.ticketer = Ticketer::new().unwrap();
    handover_tls::prepare_server(&mut server);
    let (server, client) = (Arc::new(server), Arc::new(world.showing_client(&world.client)));
    for resumed in [false, true] {
        let mut ours = Ours::Server(Accepting::new(Arc::clone(&server)).unwrap());
        let mut theirs = Theirs::client_of(&client);
        let mut established = shake(&mut ours, &mut theirs).unwrap();
        assert_eq!(established.facts.resumed, resumed);
        let subject = established.facts.client_subject.clone();
        assert!(subject.as_deref().is_some_and(|subject| subject.contains(r"CN=Some\, Body")), "{subject:?}");
        talk(&mut established, &mut theirs);
    }
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
fn resuming_does_not_outlive_a_clients_certificate() {
    let world = World::new();
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    let pair = world.authority.leaf(&["somebody"]).client().not_after(now + hour).make();
    for suite in versions() {
        let mut server = world.asking_server(true);
        server.ticketer = Ticketer::new().unwrap();
        handover_tls::prepare_server(&mut server);
        let client = Arc::new(world.client_with(Some(suite), &pair));
        let mut attempt = |at: SystemTime| {
            server.time_provider = Arc::new(Standing(at));
            let mut ours = Ours::Server(Accepting::new(Arc::new(server.clone())).unwrap());
            let mut theirs = Theirs::client_of(&client);
            let mut established = shake(&mut ours, &mut theirs)?;
            talk(&mut established, &mut theirs);
            Ok::<_, HandshakeError>(established.facts.resumed)
        };
        assert_eq!(attempt(now), Ok(false));
        assert_eq!(attempt(now), Ok(true));
        let error = attempt(now + 2 * hour).unwrap_err();
        assert_eq!(error.to_string(), "the client's certificate was refused: it has expired", "{suite:?}");
    }
}

#[test]
fn a_clients_certificate_that_is_only_wished_for_may_lack() {
    let world = World::new();
    let (mut established, mut theirs) = accept(world.asking_server(false), world.client(None)).unwrap();
    assert_eq!(established.facts.client_subject, None);
    talk(&mut established, &mut theirs);
}

/// Shakes hands in vain: what we say, and what the client was told.
fn refused(server: rustls::ServerConfig, client: rustls::ClientConfig) -> (HandshakeError, AlertDescription) {
    let (mut ours, mut theirs) = (Ours::server(server), Theirs::client(client));
    let mut told = None;
    for _ in 0..5 {
        let mut out = Vec::new();
        let result = ours.feed(&theirs.send(), &mut out);
        if let Err(rustls::Error::AlertReceived(alert)) = theirs.receive(&out) {
            told = Some(alert);
        }
        if let Err(error) = result {
            let again = ours.feed(&[], &mut out).unwrap_err();
            assert_eq!(again.to_string(), "the handshake failed here: it has ended already");
            return (error, told.expect("an alert"));
        }
    }
    panic!("the handshake was not refused");
}

#[test]
fn a_demanded_certificate_that_lacks_is_named() {
    let world = World::new();
    let (error, alert) = refused(world.asking_server(true), world.client(None));
    assert_eq!(error.to_string(), "client certificate required: the client sent none");
    assert_eq!(alert, AlertDescription::CertificateRequired);
}

#[test]
fn a_clients_certificate_of_a_stranger_is_refused() {
    let world = World::new();
    let stranger = Authority::new("stranger").leaf(&["somebody"]).client().make();
    let (error, alert) = refused(world.asking_server(false), world.showing_client(&stranger));
    assert_eq!(error.to_string(), "the client's certificate was refused: its issuer is not trusted here");
    assert_eq!(alert, AlertDescription::UnknownCA);
}

#[test]
fn without_a_version_in_common_the_offered_ones_are_named() {
    let world = World::new();
    let server = || world.server(Some(versions()[0]));
    let (error, alert) = refused(server(), world.client(Some(versions()[1])));
    assert_eq!(error.to_string(), "the client offers only TLS 1.2");
    assert_eq!(alert, AlertDescription::ProtocolVersion);
}

/// A ClientHello of old times: no extensions.
fn old_hello(version: [u8; 2]) -> Vec<u8> {
    let mut body = version.to_vec();
    body.extend([9; 32]);
    body.extend([0, 0, 4, 0x00, 0x2f, 0xc0, 0x13, 1, 0]);
    let length = u8::try_from(body.len()).unwrap();
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat()
}

#[test]
fn a_client_of_old_times_is_told_by_its_version() {
    let world = World::new();
    for (minor, name) in [(1, "TLS 1.0"), (2, "TLS 1.1"), (0, "SSL 3.0")] {
        let mut out = Vec::new();
        let error = Ours::server(world.server(None)).feed(&old_hello([3, minor]), &mut out).unwrap_err();
        assert_eq!(error.to_string(), format!("the client offers only {name}"));
        assert_eq!(error.alert(), Some(Alert::PROTOCOL_VERSION));
        assert_eq!(out, [21, 3, 3, 0, 2, 2, 70]);
    }
}

/// Knows nobody.
#[derive(Debug)]
struct Nobody;

impl ResolvesServerCert for Nobody {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

#[test]
fn a_name_without_a_certificate_is_named_with_its_own_alert() {
    let world = World::new();
    for with_name in [true, false] {
        let mut server = world.server(None);
        server.cert_resolver = Arc::new(Nobody);
        let mut client = world.client(None);
        client.enable_sni = with_name;
        let (error, alert) = refused(server, client);
        let name = if with_name { "the name example.org" } else { "a client that names no server" };
        assert_eq!(error.to_string(), format!("no certificate for {name}"));
        assert_eq!(alert, AlertDescription::UnrecognisedName);
    }
}

#[test]
fn no_protocol_and_no_suite_in_common_are_named() {
    let world = World::new();
    let (mut server, mut client) = (world.server(None), world.client(None));
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    client.alpn_protocols = vec![b"smtp".to_vec()];
    let (error, alert) = refused(server, client);
    assert_eq!(error.to_string(), "the client has no application protocol (ALPN) in common with us");
    assert_eq!(alert, AlertDescription::NoApplicationProtocol);
    let server = world.server(Some(suite::TLS13_AES_128_GCM_SHA256));
    let client = world.client(Some(suite::TLS13_AES_256_GCM_SHA384));
    let (error, alert) = refused(server, client);
    assert_eq!(error.to_string(), "the client has no cipher suite in common with us");
    assert_eq!(alert, AlertDescription::HandshakeFailure);
}

#[test]
fn plain_http_is_known_by_its_first_bytes_and_kept_for_an_answer() {
    let world = World::new();
    for request in
        ["GET / HTTP/1.1\r\n\r\n", "POST /x HTTP/1.0\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PATCH /"]
    {
        for cut in 0..=request.len() {
            let (mut ours, mut out) = (Ours::server(world.server(None)), Vec::new());
            let (first, second) = request.as_bytes().split_at(cut);
            let mut result = ours.feed(first, &mut out);
            if matches!(result, Ok(Fed::More)) {
                result = ours.feed(second, &mut out);
            }
            assert_eq!(result.unwrap_err(), HandshakeError::PlainHttp, "{request} cut at {cut}");
            assert!(out.is_empty(), "no alert: an answer in plain text is to follow");
            let Ours::Server(accepting) = ours else { unreachable!() };
            assert!(request.as_bytes().starts_with(accepting.unused()));
        }
    }
    assert_eq!(HandshakeError::PlainHttp.to_string(), "the client sent plain HTTP to a TLS port");
}

#[test]
fn what_is_no_tls_is_said_to_be_none() {
    let world = World::new();
    for rubbish in [&b"SSH-2.0-x\r\n"[..], b"\x00\x00", b"\x80\x2e\x01", b"GEX", b"\x17\x03\x03\x00\x05hello"]
    {
        let (mut ours, mut out) = (Ours::server(world.server(None)), Vec::new());
        let error = ours.feed(rubbish, &mut out).unwrap_err();
        assert_eq!(error, HandshakeError::NotTls(Peer::Client), "{rubbish:?}");
        assert!(out.is_empty());
    }
}

#[test]
fn a_broken_handshake_gets_an_alert() {
    let world = World::new();
    // A ServerHello, a hello cut short, a record that is too long, a version that there is not.
    let cases: [&[u8]; 4] = [
        &[22, 3, 1, 0, 4, 2, 0, 0, 0],
        &[22, 3, 1, 0, 5, 1, 0, 0, 1, 0],
        &[22, 3, 1, 0xff, 0xff],
        &[22, 9, 9, 0, 1, 0],
    ];
    for bytes in cases {
        let (mut ours, mut out) = (Ours::server(world.server(None)), Vec::new());
        let error = ours.feed(bytes, &mut out).unwrap_err();
        assert!(matches!(error, HandshakeError::Protocol(Peer::Client, _)), "{bytes:?}: {error}");
        assert_eq!((out.len(), &out[..6]), (7, &[21, 3, 3, 0, 2, 2][..]), "{bytes:?}: {error}");
    }
}

#[test]
fn a_client_that_gives_up_is_told_by_its_alert() {
    let world = World::new();
    let mut ours = Ours::server(world.server(None));
    let error = ours.feed(&[21, 3, 3, 0, 2, 2, 90], &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "the client ended the handshake with the alert user_canceled");
    let stranger = World::new();
    let (mut ours, mut theirs) = (Ours::server(world.server(None)), Theirs::client(stranger.client(None)));
    let error = shake(&mut ours, &mut theirs).unwrap_err();
    assert_eq!(error.to_string(), "the client ended the handshake with the alert unknown_ca");
}

#[test]
fn a_server_that_cannot_be_believed_is_refused_by_name() {
    let world = World::new();
    let stranger = World::new();
    let error = connect(world.client(None), &Arc::new(stranger.server(None))).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "the server's certificate was refused: its issuer is not trusted here");

    let mut other = World::new();
    other.ecdsa = other.authority.pair(&["other.example", "*.other.example"]);
    let error = connect(other.client(None), &Arc::new(other.server(None))).map(|_| ()).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("the server's certificate was refused: it is for "), "{text}");
    assert!(text.ends_with("it is for other.example, *.other.example, not for example.org"), "{text}");

    other.ecdsa = other.authority.leaf(&[NAME]).expired().make();
    let error = connect(other.client(None), &Arc::new(other.server(None))).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "the server's certificate was refused: it has expired");
}

#[test]
fn a_server_that_speaks_no_tls_is_said_to_speak_none() {
    let world = World::new();
    let mut client = world.client(None);
    handover_tls::prepare_client(&mut client);
    let mut hello = Vec::new();
    let mut connecting = Connecting::new(Arc::new(client), peers::name(), &mut hello).unwrap();
    assert_eq!(hello[..2], [22, 3]);
    let error = connecting.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n", &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "the server does not speak TLS: its first bytes are no handshake");
}

#[test]
fn a_server_that_refuses_our_certificate_is_told_by_its_alert() {
    let world = World::new();
    let server = Arc::new(world.asking_server(true));
    // With TLS 1.3 the refusal comes after our handshake is done: it is the session that hears of it.
    let (established, mut theirs) = connect(world.client(None), &server).unwrap();
    let mut session = established.session;
    let mut bytes = [established.leftover, theirs.send()].concat();
    let error = session.open(&mut bytes, &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "the peer ended the connection with the alert certificate_required");
}

#[test]
fn a_configuration_that_was_not_prepared_is_refused() {
    let world = World::new();
    let error = Accepting::new(Arc::new(world.server(None))).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "the handshake failed here: the configuration was not prepared for it");
    let client = Arc::new(world.client(None));
    let error = Connecting::new(client, peers::name(), &mut Vec::new()).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "the handshake failed here: the configuration was not prepared for it");
    // Half prepared: the secrets do not come.
    let mut server = world.server(None);
    server.enable_secret_extraction = true;
    let mut ours = Ours::Server(Accepting::new(Arc::new(server)).unwrap());
    let error = shake(&mut ours, &mut Theirs::client(world.client(None))).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("lacks the key log hook"), "{error}");
}

#[test]
fn a_handshake_without_end_is_ended() {
    let world = World::new();
    let (mut ours, mut out) = (Ours::server(world.server(None)), Vec::new());
    // A hello that announces 16 MiB, in records of 16 KiB.
    let mut record = vec![22, 3, 1, 0x40, 0];
    record.extend([1, 0xff, 0xff, 0xff]);
    record.resize(5 + 0x4000, 0);
    let mut fed = 0;
    let error = loop {
        match ours.feed(&record, &mut out) {
            Err(error) => break error,
            Ok(_) => fed += record.len(),
        }
        assert!(fed < 1_000_000, "more and more is taken in");
    };
    assert!(error.to_string().contains("broke the protocol"), "{error}");
}
