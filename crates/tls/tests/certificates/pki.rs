//! Authorities and certificates at a fixed time, and a file system in a map.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use handover_tls::{
    Authorities, Certified, ClientAuth, ClientSettings, Files, Moment, Pair, Resolver, ServerSettings, Trust,
    Unknown, Version, client_config, load,
};
use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// 2027-01-01 00:00:00 UTC, the time of these tests.
pub(crate) const NOW: i64 = 1_798_761_600;
pub(crate) const DAY: i64 = 24 * 60 * 60;

pub(crate) fn time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap())
}

/// An authority.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

fn params(common_name: &str, names: &[&str]) -> CertificateParams {
    let mut params =
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl Ca {
    pub(crate) fn root(name: &str) -> Self {
        let (params, key) = (authority(name), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    pub(crate) fn intermediate(&self, name: &str) -> Self {
        self.intermediate_until(name, NOW + 1000 * DAY)
    }

    pub(crate) fn intermediate_until(&self, name: &str, not_after: i64) -> Self {
        let (mut params, key) = (authority(name), KeyPair::generate().unwrap());
        params.not_after = time(not_after).into();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        self.certificate.der().to_vec()
    }

    /// A certificate for these names, from a month ago for two more.
    pub(crate) fn leaf(&self, names: &[&str]) -> Leaf {
        self.leaf_with(names, &KeyPair::generate().unwrap(), |_| {})
    }

    pub(crate) fn leaf_with(
        &self,
        names: &[&str],
        key: &KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        let mut params = params(names.first().unwrap_or(&"nobody"), names);
        params.not_before = time(NOW - 30 * DAY).into();
        params.not_after = time(NOW + 60 * DAY).into();
        change(&mut params);
        let certificate = params.signed_by(key, &self.issuer).unwrap();
        Leaf { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// A certificate without its chain, and its key, both PEM.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Files in memory.
#[derive(Default, Clone)]
pub(crate) struct Disk {
    files: BTreeMap<PathBuf, Arc<[u8]>>,
    modes: BTreeMap<PathBuf, u32>,
    pub(crate) reads: usize,
}

impl Disk {
    pub(crate) fn put(&mut self, path: &str, bytes: impl AsRef<[u8]>) {
        self.files.insert(path.into(), bytes.as_ref().into());
    }

    pub(crate) fn mode_of(&mut self, path: &str, mode: u32) {
        self.modes.insert(path.into(), mode);
    }

    /// Puts a pair in place.
    pub(crate) fn pair(&mut self, name: &str, leaf: &Leaf) -> Pair {
        let (certificate, key) = (format!("/tls/{name}.pem"), format!("/tls/{name}.key"));
        self.put(&certificate, &leaf.certificate);
        self.put(&key, &leaf.key);
        Pair::new(certificate, key)
    }
}

impl Files for Disk {
    fn read(&mut self, path: &Path) -> io::Result<Arc<[u8]>> {
        self.reads += 1;
        self.files.get(path).cloned().ok_or_else(|| io::Error::from_raw_os_error(2))
    }

    fn mode(&mut self, path: &Path) -> Option<u32> {
        self.modes.get(path).copied()
    }
}

/// The moment of a reload at [`NOW`] beside nothing.
pub(crate) fn moment() -> Moment<'static> {
    Moment { now: time(NOW), serving: Vec::new(), lenient: false }
}

/// Certificates of these names, ready to serve.
pub(crate) fn certified(leaves: &[Leaf]) -> Vec<Arc<Certified>> {
    let mut disk = Disk::default();
    let pairs: Vec<Pair> =
        leaves.iter().enumerate().map(|(at, leaf)| disk.pair(&at.to_string(), leaf)).collect();
    // As at a start: also those whose time is over.
    let moment = Moment { lenient: true, ..moment() };
    load(&pairs, &mut disk, &moment).unwrap_or_else(|errors| panic!("{errors:?}")).certificates
}

/// A file of `fixtures/`.
pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates/fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A handshake in memory: what kind it was for the client, or both sides' reasons why there was none.
pub(crate) fn shake(
    server: &Arc<rustls::ServerConfig>,
    client: &Arc<rustls::ClientConfig>,
    name: &'static str,
) -> Result<(rustls::HandshakeKind, rustls::ServerConnection, rustls::ClientConnection), String> {
    let name = rustls::pki_types::ServerName::try_from(name).unwrap();
    let mut server = rustls::ServerConnection::new(Arc::clone(server)).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::clone(client), name).unwrap();
    // Each turn moves all that one side has to say; a handshake with its tickets needs four.
    for _ in 0..8 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut input = wire.as_slice();
        while !input.is_empty() {
            server.read_tls(&mut input).unwrap();
            server.process_new_packets().map_err(|error| format!("server: {error}"))?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut input = wire.as_slice();
        while !input.is_empty() {
            client.read_tls(&mut input).unwrap();
            client.process_new_packets().map_err(|error| format!("client: {error}"))?;
        }
    }
    match client.handshake_kind() {
        Some(kind) if !client.is_handshaking() && !server.is_handshaking() => Ok((kind, server, client)),
        _ => Err("it did not end".to_owned()),
    }
}

/// A client that trusts an authority.
pub(crate) fn client_of(ca: &Ca, identity: Option<&Leaf>) -> Arc<rustls::ClientConfig> {
    let identity = identity.map(|leaf| certified(std::slice::from_ref(leaf)).remove(0));
    let settings = ClientSettings {
        trust: Trust::Authorities(authorities(&[ca])),
        identity,
        minimum_version: Version::Tls12,
        alpn: Vec::new(),
    };
    client_config(&settings).unwrap()
}

/// What rustls trusts when it trusts these.
pub(crate) fn authorities(cas: &[&Ca]) -> Arc<Authorities> {
    let mut disk = Disk::default();
    disk.put("/ca", cas.iter().map(|ca| ca.pem()).collect::<String>());
    Authorities::load(Path::new("/ca"), &mut disk, &moment(), &[]).unwrap().0
}

/// A listener with these certificates, without anything special.
pub(crate) fn listener(leaves: &[Leaf]) -> ServerSettings {
    ServerSettings {
        resolver: Arc::new(Resolver::new(&certified(leaves), 0, Unknown::Default)),
        minimum_version: Version::Tls12,
        alpn: Vec::new(),
        clients: ClientAuth::None,
        tickets: None,
        name: "https".into(),
    }
}

/// A certificate that is valid whatever the clock of the machine says.
pub(crate) fn lasting(ca: &Ca, names: &[&str]) -> Leaf {
    ca.leaf_with(names, &KeyPair::generate().unwrap(), |params| {
        params.not_before = time(0).into();
        params.not_after = time(NOW + 100_000 * DAY).into();
    })
}
