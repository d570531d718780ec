//! What TLS costs: a handshake on the server's side, and records, beside rustls's own record layer.
//!
//! `cargo bench -p handover-tls` prints times; with `TLS_COST=name` only that part runs, a fixed number of times, so that
//! an instruction counter can be put over it:
//! `valgrind --tool=callgrind --collect-atstart=no --toggle-collect='*Accepting*feed*'` (rustls: `'*theirs_takes*'`).
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::hint::black_box;
use std::io::Read as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use handover_tls::{Accepting, Fed, Session};
use rustls::client::ClientConnection;
use rustls::crypto::aws_lc_rs::{self, cipher_suite as suite};
use rustls::server::ServerConnection;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite};
use rustls_pki_types::{PrivateKeyDer, ServerName};

/// How often a part runs under `TLS_COST`.
const ROUNDS: usize = 200;
/// How long a part is measured otherwise.
const TIME: Duration = Duration::from_millis(700);

/// Plaintext of records: a request, a short response, a full record.
const LENGTHS: [usize; 3] = [300, 1_024, 16_384];

struct Ends {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Ends {
    fn new(suite: SupportedCipherSuite, resumes: bool) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["example.org".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![suite];
        let provider = Arc::new(provider);
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        handover_tls::prepare_server(&mut server);
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        server.ticketer = aws_lc_rs::Ticketer::new().unwrap();
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        if !resumes {
            client.resumption = rustls::client::Resumption::disabled();
        }
        Self { server: Arc::new(server), client: Arc::new(client) }
    }

    fn client(&self) -> ClientConnection {
        let mut client =
            ClientConnection::new(Arc::clone(&self.client), ServerName::try_from("example.org").unwrap())
                .unwrap();
        client.set_buffer_limit(None);
        client
    }

    /// A handshake with our end, and the time that it took there.
    fn ours(&self) -> (Session, ClientConnection, Duration) {
        let (mut client, mut time) = (self.client(), Duration::ZERO);
        let began = Instant::now();
        let mut accepting = Accepting::new(Arc::clone(&self.server)).unwrap();
        time += began.elapsed();
        loop {
            let (bytes, mut out) = (sent(&mut client), Vec::new());
            let began = Instant::now();
            let fed = black_box(accepting.feed(&bytes, &mut out)).unwrap();
            time += began.elapsed();
            give(&mut client, &out);
            if let Fed::Done(established) = fed {
                return (established.session, client, time);
            }
        }
    }

    /// A handshake with rustls's end.
    fn theirs(&self) -> (ServerConnection, ClientConnection, Duration) {
        let (mut client, mut time) = (self.client(), Duration::ZERO);
        let began = Instant::now();
        let mut server = ServerConnection::new(Arc::clone(&self.server)).unwrap();
        time += began.elapsed();
        while server.is_handshaking() {
            let bytes = sent(&mut client);
            let began = Instant::now();
            let out = theirs_takes(&mut server, &bytes);
            time += began.elapsed();
            give(&mut client, &out);
        }
        (server, client, time)
    }
}

/// By itself, so that an instruction counter can be told its name.
#[inline(never)]
fn theirs_takes(server: &mut ServerConnection, mut bytes: &[u8]) -> Vec<u8> {
    while !bytes.is_empty() {
        server.read_tls(&mut bytes).unwrap();
        server.process_new_packets().unwrap();
    }
    let mut out = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut out).unwrap();
    }
    out
}

fn sent(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn give(client: &mut ClientConnection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets().unwrap();
        let mut plain = [0; 20_000];
        while client.reader().read(&mut plain).is_ok_and(|count| count > 0) {}
    }
}

/// Runs `part`, which says what of its time counts, and prints the mean.
fn measure(name: &str, mut part: impl FnMut() -> Duration) {
    if let Ok(only) = std::env::var("TLS_COST") {
        if only == name {
            for _ in 0..ROUNDS {
                part();
            }
        }
        return;
    }
    let (mut total, mut rounds, began) = (Duration::ZERO, 0_u32, Instant::now());
    while began.elapsed() < TIME {
        total += part();
        rounds += 1;
    }
    println!("{name:<44} {:>10.2} µs", total.as_secs_f64() * 1e6 / f64::from(rounds.max(1)));
}

fn timed<T>(part: impl FnOnce() -> T) -> Duration {
    let began = Instant::now();
    black_box(part());
    began.elapsed()
}

fn records(name: &str, ends: &Ends) {
    for length in LENGTHS {
        let plain = vec![b'x'; length];
        let (mut session, mut client, _) = ends.ours();
        let mut out = vec![0; Session::sealed_bytes(length)];
        measure(&format!("seal.{name}.{length}"), || {
            timed(|| session.seal_into(&[black_box(&plain)], &mut out))
        });
        let mut read = Vec::with_capacity(20_000);
        measure(&format!("open.{name}.{length}"), || {
            std::io::Write::write_all(&mut client.writer(), &plain).unwrap();
            let mut bytes = sent(&mut client);
            read.clear();
            timed(|| session.open(black_box(&mut bytes), &mut read).unwrap())
        });
    }
}

fn main() {
    if std::env::var_os("TLS_COST").is_none() && !std::env::args().any(|argument| argument == "--bench") {
        // Run as a test: nothing to assert about time.
        return;
    }
    let suites = [
        ("tls13", suite::TLS13_AES_128_GCM_SHA256),
        ("tls12", suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ];
    for (name, suite) in suites {
        let full = Ends::new(suite, false);
        measure(&format!("handshake.{name}.full"), || full.ours().2);
        measure(&format!("handshake.{name}.full.rustls"), || full.theirs().2);
        let resumed = Ends::new(suite, true);
        measure(&format!("handshake.{name}.resumed"), || resumed.ours().2);
        measure(&format!("handshake.{name}.resumed.rustls"), || resumed.theirs().2);
        records(name, &full);
    }
}
