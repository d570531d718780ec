//! The other end for tests of sessions: rustls's own connections, in this process, over a wire that is two vectors.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use handover_testkit::{Authority, KeyType, Pair};
use handover_tls::{Accepting, Connecting, Established, Fed, HandshakeError, Session};
use rustls::client::ClientConnection;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ServerConnection, WebPkiClientVerifier};
use rustls::{ClientConfig, Connection, RootCertStore, ServerConfig, SupportedCipherSuite};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

/// The name that everything here is for.
pub const NAME: &str = "example.org";

pub fn name() -> ServerName<'static> {
    ServerName::try_from(NAME).unwrap()
}

/// Somebody to sign, and what both sides show.
pub struct World {
    pub authority: Authority,
    pub ecdsa: Pair,
    pub rsa: Pair,
    pub client: Pair,
}

impl World {
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let authority = Authority::new(&format!("authority {}", NEXT.fetch_add(1, Ordering::Relaxed)));
        Self {
            ecdsa: authority.pair(&[NAME]),
            rsa: authority.leaf(&[NAME]).key_type(KeyType::Rsa2048).make(),
            client: authority.leaf(&["somebody"]).subject("Some, Body").client().make(),
            authority,
        }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).unwrap()).unwrap();
        Arc::new(roots)
    }

    /// A server with one suite, or all.
    pub fn server(&self, suite: Option<SupportedCipherSuite>) -> ServerConfig {
        let pair = if needs_rsa(suite) { &self.rsa } else { &self.ecdsa };
        showing(suite, pair)
    }

    /// A server with all suites and this certificate.
    pub fn server_showing(&self, pair: &Pair) -> ServerConfig {
        showing(None, pair)
    }

    /// A server that asks clients for certificates.
    pub fn asking_server(&self, required: bool) -> ServerConfig {
        let (chain, key) = parts(&self.ecdsa);
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider(None));
        let verifier = if required { verifier } else { verifier.allow_unauthenticated() };
        ServerConfig::builder_with_provider(provider(None))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(chain, key)
            .unwrap()
    }

    /// A client with one suite, or all.
    pub fn client(&self, suite: Option<SupportedCipherSuite>) -> ClientConfig {
        ClientConfig::builder_with_provider(provider(suite))
            .with_protocol_versions(versions(suite))
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth()
    }

    /// A client that shows a certificate.
    pub fn showing_client(&self, pair: &Pair) -> ClientConfig {
        self.client_with(None, pair)
    }

    /// The same, with one suite, or all.
    pub fn client_with(&self, suite: Option<SupportedCipherSuite>, pair: &Pair) -> ClientConfig {
        let (chain, key) = parts(pair);
        ClientConfig::builder_with_provider(provider(suite))
            .with_protocol_versions(versions(suite))
            .unwrap()
            .with_root_certificates(self.roots())
            .with_client_auth_cert(chain, key)
            .unwrap()
    }
}

fn showing(suite: Option<SupportedCipherSuite>, pair: &Pair) -> ServerConfig {
    let (chain, key) = parts(pair);
    ServerConfig::builder_with_provider(provider(suite))
        .with_protocol_versions(versions(suite))
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap()
}

fn needs_rsa(suite: Option<SupportedCipherSuite>) -> bool {
    suite.is_some_and(|suite| format!("{:?}", suite.suite()).contains("_RSA_"))
}

pub fn provider(suite: Option<SupportedCipherSuite>) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = suite.map_or(provider.cipher_suites, |suite| vec![suite]);
    Arc::new(provider)
}

fn versions(suite: Option<SupportedCipherSuite>) -> &'static [&'static rustls::SupportedProtocolVersion] {
    static TLS13: [&rustls::SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    static TLS12: [&rustls::SupportedProtocolVersion; 1] = [&rustls::version::TLS12];
    match suite {
        None => rustls::ALL_VERSIONS,
        Some(SupportedCipherSuite::Tls13(_)) => &TLS13,
        Some(_) => &TLS12,
    }
}

pub fn parts(pair: &Pair) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(pair.certificate().as_bytes()).map(Result::unwrap).collect();
    (chain, PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap())
}

/// Every suite that there is.
pub fn suites() -> Vec<SupportedCipherSuite> {
    aws_lc_rs::ALL_CIPHER_SUITES.to_vec()
}

/// Our side of a handshake, whichever it is.
pub enum Ours {
    Server(Accepting),
    Client(Connecting),
}

impl Ours {
    pub fn server(mut config: ServerConfig) -> Self {
        handover_tls::prepare_server(&mut config);
        Self::Server(Accepting::new(Arc::new(config)).unwrap())
    }

    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Fed, HandshakeError> {
        match self {
            Self::Server(accepting) => accepting.feed(input, out),
            Self::Client(connecting) => connecting.feed(input, out),
        }
    }
}

/// rustls's end.
pub struct Theirs(pub Connection);

impl Theirs {
    pub fn client(config: ClientConfig) -> Self {
        Self::client_of(&Arc::new(config))
    }

    pub fn client_of(config: &Arc<ClientConfig>) -> Self {
        Self::new(ClientConnection::new(Arc::clone(config), name()).unwrap().into())
    }

    pub fn server_of(config: &Arc<ServerConfig>) -> Self {
        Self::new(ServerConnection::new(Arc::clone(config)).unwrap().into())
    }

    fn new(mut connection: Connection) -> Self {
        connection.set_buffer_limit(None);
        Self(connection)
    }

    /// What it wants to send.
    pub fn send(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Gives it bytes; what it reads from them.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let mut plain = Vec::new();
        while !bytes.is_empty() && self.0.read_tls(&mut bytes).unwrap() > 0 {
            self.0.process_new_packets()?;
            let mut piece = vec![0; 20_000];
            while let Ok(count @ 1..) = self.0.reader().read(&mut piece) {
                plain.extend_from_slice(&piece[..count]);
            }
        }
        Ok(plain)
    }

    pub fn say(&mut self, plain: &[u8]) -> Vec<u8> {
        self.0.writer().write_all(plain).unwrap();
        self.send()
    }
}

/// Shakes hands. What they send is given to us in the pieces that `cut` makes of it. Returns our end, and what they read.
pub fn shake_in_pieces(
    ours: &mut Ours,
    theirs: &mut Theirs,
    mut to_them: Vec<u8>,
    mut cut: impl FnMut(Vec<u8>) -> Vec<Vec<u8>>,
) -> Result<(Box<Established>, Vec<u8>), HandshakeError> {
    let (mut done, mut read) = (None, Vec::new());
    for _ in 0..10 {
        read.extend(theirs.receive(&std::mem::take(&mut to_them)).unwrap_or_default());
        for piece in cut(theirs.send()) {
            if let Some(established) = &mut done {
                let established: &mut Box<Established> = established;
                established.leftover.extend(piece);
                continue;
            }
            match ours.feed(&piece, &mut to_them) {
                Ok(Fed::Done(established)) => done = Some(established),
                Ok(Fed::More) => {}
                Err(error) => {
                    let _ = theirs.receive(&to_them);
                    return Err(error);
                }
            }
        }
        if to_them.is_empty() && !theirs.0.wants_write() {
            break;
        }
    }
    Ok((done.expect("a handshake that ends"), read))
}

pub fn shake(ours: &mut Ours, theirs: &mut Theirs) -> Result<Box<Established>, HandshakeError> {
    shake_in_pieces(ours, theirs, Vec::new(), |bytes| vec![bytes]).map(|(established, _)| established)
}

/// We are the server.
pub fn accept(
    server: ServerConfig,
    client: ClientConfig,
) -> Result<(Box<Established>, Theirs), HandshakeError> {
    let (mut ours, mut theirs) = (Ours::server(server), Theirs::client(client));
    shake(&mut ours, &mut theirs).map(|established| (established, theirs))
}

/// We are the client.
pub fn connect(
    client: ClientConfig,
    server: &Arc<ServerConfig>,
) -> Result<(Box<Established>, Theirs), HandshakeError> {
    let mut client = client;
    handover_tls::prepare_client(&mut client);
    connect_with(&Arc::new(client), server)
}

/// We are the client, with a configuration that is fit.
pub fn connect_with(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(Box<Established>, Theirs), HandshakeError> {
    let mut hello = Vec::new();
    let connecting = Connecting::new(Arc::clone(client), name(), &mut hello).unwrap();
    let (mut ours, mut theirs) = (Ours::Client(connecting), Theirs::server_of(server));
    let shaken = shake_in_pieces(&mut ours, &mut theirs, hello, |bytes| vec![bytes]);
    shaken.map(|(established, _)| (established, theirs))
}

/// Opens bytes that hold whole records only.
pub fn open(session: &mut Session, bytes: &[u8]) -> Vec<u8> {
    let (mut bytes, mut plain) = (bytes.to_vec(), Vec::new());
    let progress = session.open(&mut bytes, &mut plain).unwrap();
    assert_eq!(progress.consumed, bytes.len());
    plain
}

pub fn seal(session: &mut Session, plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    session.seal(plain, &mut out).unwrap();
    out
}

/// The session after a move to another process.
pub fn moved(session: Session) -> Session {
    let mut bytes = Vec::new();
    session.write(&mut bytes);
    assert!(bytes.len() <= handover_tls::STATE_BYTES);
    Session::read(&bytes).unwrap()
}

/// Bytes that differ from place to place, and from seed to seed.
pub fn pattern(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((seed * 31 + at * 7 + at / 253) % 256).unwrap()).collect()
}

/// Numbers without order, the same in every run.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }
}
