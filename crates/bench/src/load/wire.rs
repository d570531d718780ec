//! What a client's bytes go over: a TCP connection, with or without TLS.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, HandshakeKind, NamedGroup, ProtocolVersion,
    SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::failure::Failure;

/// The cipher suites of TLS 1.3 that proxies are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Suite {
    /// TLS_AES_128_GCM_SHA256.
    Aes128,
    /// TLS_AES_256_GCM_SHA384.
    Aes256,
    /// TLS_CHACHA20_POLY1305_SHA256.
    Chacha20,
}

impl Suite {
    fn id(self) -> CipherSuite {
        match self {
            Self::Aes128 => CipherSuite::TLS13_AES_128_GCM_SHA256,
            Self::Aes256 => CipherSuite::TLS13_AES_256_GCM_SHA384,
            Self::Chacha20 => CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        }
    }
}

/// How clients speak TLS: 1.3, one suite, X25519, no session resumed. What comes out otherwise is a failure
/// ([`Failure::Terms`]), so that no two proxies are compared on different terms.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    suite: Suite,
}

impl Tls {
    /// With this suite. Any certificate will do. `checked`: that the server has its key is checked, which costs the
    /// load an ECDSA verification a handshake.
    pub(crate) fn new(suite: Suite, checked: bool) -> io::Result<Self> {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|one| one.suite() == suite.id());
        provider.kx_groups.retain(|group| group.name() == NamedGroup::X25519);
        let provider = Arc::new(provider);
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Any { provider, checked }))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), suite })
    }

    /// Shakes hands, for this name, within `limit`.
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
        name: &str,
        limit: Duration,
    ) -> Result<Wire, Failure> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| Failure::OwnLimit)?;
        let shaken = tokio::time::timeout(limit, self.connector.connect(name, stream)).await;
        let stream = shaken.map_err(|_| Failure::Timeout)?.map_err(|_| Failure::Handshake)?;
        let (_, session) = stream.get_ref();
        let agreed = session.protocol_version() == Some(ProtocolVersion::TLSv1_3)
            && session.negotiated_cipher_suite().is_some_and(|suite| suite.suite() == self.suite.id())
            && session
                .negotiated_key_exchange_group()
                .is_some_and(|group| group.name() == NamedGroup::X25519)
            && session.handshake_kind() == Some(HandshakeKind::Full);
        if agreed { Ok(Wire::Tls(Box::new(stream))) } else { Err(Failure::Terms) }
    }
}

/// Takes any certificate.
#[derive(Debug)]
struct Any {
    provider: Arc<CryptoProvider>,
    checked: bool,
}

impl ServerCertVerifier for Any {
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
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if !self.checked {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A connection's bytes.
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
