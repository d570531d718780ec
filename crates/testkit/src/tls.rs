//! TLS as a client sees it, and an origin that speaks it: rustls on a blocking socket, with deadlines.
//!
//! ```text
//! TlsClient ──connect──▶ handshake ──▶ TlsConnection: what was served, and a Connection for exact bytes
//!                            └──▶ an error: refused, reset, alert, a signature or a certificate that is wrong
//! ```
//!
//! The code under test has a record layer of its own; here it is rustls's, so that a mistake there shows here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, NamedGroup,
    ProtocolVersion, RootCertStore, ServerConfig, SignatureScheme, StreamOwned, SupportedProtocolVersion,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authority::Pair;
use crate::deadline::DEADLINE;
use crate::http::{Connection, Response, Stream};

/// A TLS client. Each of its handshakes is a full one, unless it is told to remember sessions.
#[derive(Debug, Clone)]
pub struct TlsClient {
    roots: Option<Arc<RootCertStore>>,
    name: ServerName<'static>,
    alpn: Vec<Vec<u8>>,
    versions: Vec<&'static SupportedProtocolVersion>,
    suites: Option<Vec<CipherSuite>>,
    groups: Option<Vec<NamedGroup>>,
    identity: Option<Pair>,
    remembers: bool,
    /// Built from the rest at the first connection; clones share it, and what it remembers.
    config: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl TlsClient {
    /// A client that trusts this authority and asks for this name, which the certificate must have.
    #[must_use]
    pub fn trusting(authority: &str, name: &str) -> Self {
        let mut this = Self::curious(name);
        this.roots = Some(Arc::new(roots(authority)));
        this
    }

    /// A client that asks for this name and takes any certificate, to see which it is. That the server has the
    /// certificate's key is checked all the same.
    #[must_use]
    pub fn curious(name: &str) -> Self {
        Self {
            roots: None,
            name: server_name(name),
            alpn: Vec::new(),
            versions: rustls::ALL_VERSIONS.to_vec(),
            suites: None,
            groups: None,
            identity: None,
            remembers: false,
            config: Arc::default(),
        }
    }

    /// A client that asks for no name (no SNI) and takes any certificate.
    #[must_use]
    pub fn nameless() -> Self {
        let mut this = Self::curious("nobody");
        // No SNI is sent for an address (RFC 6066 §3).
        this.name = ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
        this
    }

    /// Asks for another name.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = server_name(name);
        self
    }

    /// Offers these protocols, the best first.
    #[must_use]
    pub fn alpn(self, protocols: &[&str]) -> Self {
        let alpn = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Self { alpn, ..self.changed() }
    }

    /// Offers TLS 1.2 alone.
    #[must_use]
    pub fn only_tls12(self) -> Self {
        Self { versions: vec![&rustls::version::TLS12], ..self.changed() }
    }

    /// Offers TLS 1.3 alone.
    #[must_use]
    pub fn only_tls13(self) -> Self {
        Self { versions: vec![&rustls::version::TLS13], ..self.changed() }
    }

    /// Offers these cipher suites alone.
    #[must_use]
    pub fn suites(self, suites: &[CipherSuite]) -> Self {
        Self { suites: Some(suites.to_vec()), ..self.changed() }
    }

    /// Offers these groups for the key exchange alone.
    #[must_use]
    pub fn groups(self, groups: &[NamedGroup]) -> Self {
        Self { groups: Some(groups.to_vec()), ..self.changed() }
    }

    /// Shows this certificate when asked for one.
    #[must_use]
    pub fn identity(self, pair: &Pair) -> Self {
        Self { identity: Some(pair.clone()), ..self.changed() }
    }

    /// Remembers sessions and resumes them. TLS 1.3 gives tickets after the handshake: read something first.
    #[must_use]
    pub fn remembering(self) -> Self {
        Self { remembers: true, ..self.changed() }
    }

    /// The same client without anything that it remembers of another's.
    fn changed(self) -> Self {
        Self { config: Arc::default(), ..self }
    }

    /// Connects and shakes hands.
    #[track_caller]
    #[must_use]
    pub fn connect(&self, address: SocketAddr) -> TlsConnection {
        self.try_connect(address)
            .unwrap_or_else(|error| panic!("no handshake for {:?} at {address}: {error}", self.name))
    }

    /// As [`TlsClient::connect`], where a failure is an expected answer.
    ///
    /// # Errors
    /// As connect(2); `InvalidData` for alerts and for certificates or signatures that are wrong; `UnexpectedEof` if
    /// the server ended the connection.
    pub fn try_connect(&self, address: SocketAddr) -> io::Result<TlsConnection> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        self.handshake(stream)
    }

    /// Shakes hands over a connection that is there.
    ///
    /// # Errors
    /// As [`TlsClient::try_connect`].
    pub fn handshake(&self, mut stream: TcpStream) -> io::Result<TlsConnection> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let mut client = self.connection();
        while client.is_handshaking() {
            client.complete_io(&mut stream)?;
        }
        let served = Served::of(&client);
        let stream = Stream::Tls(Box::new(StreamOwned::new(client, stream)));
        Ok(TlsConnection { served, connection: Connection::over(stream)? })
    }

    /// A GET on a connection of its own: what was served, and the response.
    #[track_caller]
    #[must_use]
    pub fn get(&self, address: SocketAddr, path: &str) -> (Served, Response) {
        let mut one = self.connect(address);
        let headers = [("Host", self.host()), ("Connection", "close")];
        let response = one.connection.request("GET", path, &headers, b"");
        (one.served, response)
    }

    /// As [`TlsClient::get`], where a failure is an expected answer.
    ///
    /// # Errors
    /// As [`TlsClient::try_connect`] and [`Connection::try_response`].
    pub fn try_get(&self, address: SocketAddr, path: &str) -> io::Result<(Served, Response)> {
        let mut one = self.try_connect(address)?;
        let headers = [("Host", self.host()), ("Connection", "close")];
        one.connection.try_send(crate::http::request_bytes("GET", path, &headers, b""))?;
        Ok((one.served, one.connection.try_response("GET")?))
    }

    /// The serial number of the certificate that a new handshake shows.
    #[track_caller]
    #[must_use]
    pub fn serial(&self, address: SocketAddr) -> u64 {
        self.connect(address).served.serial
    }

    /// The bytes with which this client begins a handshake: for tests that send half of them, or send them slowly.
    #[must_use]
    pub fn hello(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.connection().write_tls(&mut bytes).expect("a hello fits into memory");
        bytes
    }

    fn host(&self) -> &str {
        match &self.name {
            ServerName::DnsName(name) => name.as_ref(),
            _ => "test",
        }
    }

    fn connection(&self) -> ClientConnection {
        let config = self.config.get_or_init(|| Arc::new(self.config()));
        ClientConnection::new(Arc::clone(config), self.name.clone()).expect("a client's beginning")
    }

    fn provider(&self) -> Arc<CryptoProvider> {
        let mut provider = aws_lc_rs::default_provider();
        if let Some(wanted) = &self.suites {
            provider.cipher_suites.retain(|suite| wanted.contains(&suite.suite()));
        }
        if let Some(wanted) = &self.groups {
            provider.kx_groups.retain(|group| wanted.contains(&group.name()));
        }
        Arc::new(provider)
    }

    fn config(&self) -> ClientConfig {
        let provider = self.provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&self.versions)
            .expect("versions with suites");
        let verifier: Arc<dyn ServerCertVerifier> = match &self.roots {
            Some(roots) => {
                WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider))
                    .build()
                    .expect("roots to trust")
            }
            None => Arc::new(Curious(Arc::clone(&provider))),
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match &self.identity {
            Some(pair) => builder
                .with_client_auth_cert(chain(&pair.certificate()), key(&pair.key))
                .expect("a client's certificate and key"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        if !self.remembers {
            config.resumption = Resumption::disabled();
        }
        config
    }
}

/// What a handshake showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The serial number of the server's certificate (its last 64 bits).
    pub serial: u64,
    /// The DNS names and addresses in it.
    pub names: Vec<String>,
    /// How many certificates came.
    pub chain: usize,
    /// The protocol that was agreed on.
    pub alpn: Option<String>,
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// The cipher suite's name, as rustls has it: `TLS13_AES_128_GCM_SHA256`.
    pub suite: String,
    /// The group of the key exchange, if there was one: `X25519`.
    pub group: Option<String>,
    /// Whether an earlier session went on. The certificate is then that of the earlier session.
    pub resumed: bool,
}

impl Served {
    fn of(client: &ClientConnection) -> Self {
        let chain = client.peer_certificates().unwrap_or_default();
        let (serial, names) = chain.first().map(|leaf| facts(leaf)).unwrap_or_default();
        Self {
            serial,
            names,
            chain: chain.len(),
            alpn: client.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
            version: match client.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "1.2",
                Some(ProtocolVersion::TLSv1_3) => "1.3",
                _ => "unknown",
            },
            suite: client
                .negotiated_cipher_suite()
                .map(|suite| format!("{:?}", suite.suite()))
                .unwrap_or_default(),
            group: client.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name())),
            resumed: client.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }
}

/// The serial number and the names of a certificate.
fn facts(certificate: &CertificateDer<'_>) -> (u64, Vec<String>) {
    let (_, parsed) = X509Certificate::from_der(certificate).expect("a certificate");
    let serial = parsed.raw_serial().iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(four) => Some(Ipv4Addr::from(four).to_string()),
            Err(_) => <[u8; 16]>::try_from(*bytes).ok().map(|all| std::net::Ipv6Addr::from(all).to_string()),
        },
        _ => None,
    });
    (serial, names.collect())
}

/// A connection over TLS.
#[derive(Debug)]
pub struct TlsConnection {
    /// What the handshake showed.
    pub served: Served,
    /// Sends and reads exact bytes; [`Connection::finish`] says goodbye in TLS first (close_notify).
    pub connection: Connection,
}

/// Takes any certificate, and checks that the server has its key.
#[derive(Debug)]
struct Curious(Arc<CryptoProvider>);

impl ServerCertVerifier for Curious {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// How an origin speaks TLS: with this pair, and, if an authority is given, only with clients that it vouches for.
#[must_use]
pub fn origin_config(pair: &Pair, client_authority: Option<&str>) -> Arc<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions with suites");
    let builder = match client_authority {
        Some(authority) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authority)), provider);
            builder.with_client_cert_verifier(verifier.build().expect("an authority of clients"))
        }
        None => builder.with_no_client_auth(),
    };
    let mut config =
        builder.with_single_cert(chain(&pair.certificate()), key(&pair.key)).expect("an origin's pair");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// What an origin learned in a handshake with its client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Client {
    /// The name that was asked for.
    pub name: Option<String>,
    /// The protocol that was agreed on.
    pub alpn: Option<String>,
    /// The serial number of the client's certificate, if it showed one.
    pub serial: Option<u64>,
    /// Whether an earlier session went on.
    pub resumed: bool,
}

impl Client {
    pub(crate) fn of(server: &rustls::ServerConnection) -> Self {
        Self {
            name: server.server_name().map(str::to_owned),
            alpn: server.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
            serial: server.peer_certificates().and_then(<[_]>::first).map(|leaf| facts(leaf).0),
            resumed: server.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }
}

fn server_name(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).expect("a name to ask for")
}

/// The certificates in a PEM text.
#[must_use]
pub fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().expect("certificates")
}

fn key(pem: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("a key")
}

fn roots(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in chain(pem) {
        roots.add(certificate).expect("a root");
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{Authority, KeyType};
    use crate::origin::Origin;

    #[test]
    fn what_is_served_is_shown() {
        let root = Authority::new("root");
        let middle = root.intermediate("middle");
        for key_type in [KeyType::EcdsaP256, KeyType::EcdsaP384, KeyType::Ed25519, KeyType::Rsa2048] {
            let pair = middle.leaf(&["one.test", "*.two.test"]).key_type(key_type).make();
            let origin = Origin::tls("origin", origin_config(&pair, None));
            let client = TlsClient::trusting(root.pem(), "a.two.test").alpn(&["h2", "http/1.1"]);
            let (served, response) = client.get(origin.address(), "/");
            assert_eq!(response.text(), "origin\n");
            assert_eq!((served.serial, served.chain), (pair.serial, 2));
            assert_eq!(served.names, ["one.test", "*.two.test"]);
            assert_eq!((served.version, served.alpn.as_deref()), ("1.3", Some("http/1.1")));
            assert_eq!(origin.requests()[0].tls.as_ref().unwrap().name.as_deref(), Some("a.two.test"));
            assert_eq!(client.clone().only_tls12().connect(origin.address()).served.version, "1.2");
        }
    }

    #[test]
    fn a_certificate_that_is_wrong_fails_the_handshake_and_is_looked_at_all_the_same() {
        let root = Authority::new("root");
        let expired = root.leaf(&["one.test"]).expired().make();
        let origin = Origin::tls("origin", origin_config(&expired, None));
        let client = TlsClient::trusting(root.pem(), "one.test");
        let why = client.try_connect(origin.address()).unwrap_err().to_string();
        assert!(why.contains("xpired"), "{why}");
        let why = client.name("two.test").try_connect(origin.address()).unwrap_err().to_string();
        assert!(why.contains("certificate"), "{why}");
        assert_eq!(TlsClient::nameless().serial(origin.address()), expired.serial);
    }

    #[test]
    fn clients_show_certificates_and_resume() {
        let root = Authority::new("root");
        let me = root.leaf(&["me"]).client().make();
        let origin = Origin::tls("origin", origin_config(&root.pair(&["one.test"]), Some(root.pem())));
        let client = TlsClient::trusting(root.pem(), "one.test").identity(&me).remembering();
        for resumed in [false, true, true] {
            let (served, _) = client.get(origin.address(), "/");
            assert_eq!(served.resumed, resumed);
        }
        assert_eq!(origin.requests()[0].tls.as_ref().unwrap().serial, Some(me.serial));
        let stranger = TlsClient::trusting(root.pem(), "one.test");
        // In TLS 1.3 the client is done before the server has refused it.
        assert!(stranger.try_get(origin.address(), "/").is_err());
    }
}
