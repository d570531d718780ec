//! A server's side of a handshake that is fed any bytes, cut anywhere: no panic, and no session out of nothing.
#![no_main]

use std::sync::{Arc, LazyLock};

use handover_tls::{Accepting, Fed};
use libfuzzer_sys::fuzz_target;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::PrivateKeyDer;

static CONFIG: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["example.org".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate").der().clone();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .expect("a configuration");
    handover_tls::prepare_server(&mut config);
    Arc::new(config)
});

fuzz_target!(|pieces: Vec<&[u8]>| {
    let Ok(mut accepting) = Accepting::new(Arc::clone(&CONFIG)) else { return };
    let mut out = Vec::new();
    for piece in pieces {
        match accepting.feed(piece, &mut out) {
            Ok(Fed::More) => {}
            Ok(Fed::Done(_)) => panic!("a handshake cannot be guessed"),
            Err(error) => {
                let _ = error.to_string();
                return;
            }
        }
    }
});
