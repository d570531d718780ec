//! Handshakes that are fed anything: an end in words, never harm.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod peers;

use std::sync::{Arc, LazyLock};

use handover_tls::{Accepting, Connecting, Fed, HandshakeError};
use peers::{Theirs, World};
use proptest::prelude::*;
use proptest::sample::Index;
use rustls::{ClientConfig, ServerConfig};

static SERVER: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    let mut config = World::new().asking_server(false);
    handover_tls::prepare_server(&mut config);
    Arc::new(config)
});

static CLIENT: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let mut config = World::new().client(None);
    handover_tls::prepare_client(&mut config);
    Arc::new(config)
});

/// Servers with TLS 1.3, and with TLS 1.2 only.
static THEIR_SERVERS: LazyLock<[Arc<ServerConfig>; 2]> = LazyLock::new(|| {
    let world = World::new();
    let only_12 = rustls::crypto::aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    [Arc::new(world.server(None)), Arc::new(world.server(Some(only_12)))]
});

/// The message in the records of one type, cut into records of other lengths.
fn recut(record: &[u8], lengths: &[usize]) -> Vec<u8> {
    let (mut content, mut out) = (&record[5..], Vec::new());
    let mut lengths = lengths.iter().cycle();
    while !content.is_empty() {
        let length = (*lengths.next().unwrap()).min(content.len());
        out.extend_from_slice(&record[..3]);
        out.extend(u16::try_from(length).unwrap().to_be_bytes());
        out.extend_from_slice(&content[..length]);
        content = &content[length..];
    }
    out
}

/// Feeds a stream in two pieces. The last result; after an error, nothing more is taken.
fn feed(
    mut take: impl FnMut(&[u8], &mut Vec<u8>) -> Result<Fed, HandshakeError>,
    bytes: &[u8],
    cut: Index,
) -> Result<Fed, HandshakeError> {
    let mut out = Vec::new();
    let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
    if let Err(error) = take(first, &mut out) {
        assert!(take(second, &mut out).is_err());
        return Err(error);
    }
    take(second, &mut out)
}

fn change(bytes: &mut [u8], changes: &[(Index, u8)]) {
    for (at, value) in changes {
        if let Some(byte) = bytes.get_mut(at.index(bytes.len().max(1))) {
            *byte = *value;
        }
    }
}

proptest! {
    #[test]
    fn a_server_takes_any_bytes(mut bytes: Vec<u8>, framed: bool, cut: Index) {
        if framed {
            let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            bytes.splice(0..0, [22, 3, 1, length[0], length[1]]);
        }
        let mut accepting = Accepting::new(Arc::clone(&SERVER)).unwrap();
        let result = feed(|bytes, out| accepting.feed(bytes, out), &bytes, cut);
        prop_assert!(!matches!(result, Ok(Fed::Done(_))));
    }

    #[test]
    fn a_server_takes_a_changed_hello(
        changes in prop::collection::vec(any::<(Index, u8)>(), 0..4),
        lengths in prop::collection::vec(1_usize..400, 1..5),
        messages in prop::collection::vec((0_u8..26, prop::collection::vec(any::<u8>(), 0..20)), 0..3),
        behind: Vec<u8>,
        cut: Index,
    ) {
        let mut hello = Theirs::client_of(&CLIENT).send();
        // More messages in the same records.
        for (kind, body) in messages {
            hello.extend([kind, 0, 0, u8::try_from(body.len()).unwrap()]);
            hello.extend(body);
        }
        let mut bytes = recut(&hello, &lengths);
        change(&mut bytes, &changes);
        bytes.extend(behind);
        let mut accepting = Accepting::new(Arc::clone(&SERVER)).unwrap();
        let result = feed(|bytes, out| accepting.feed(bytes, out), &bytes, cut);
        prop_assert!(!matches!(result, Ok(Fed::Done(_))));
    }

    #[test]
    fn a_client_takes_a_changed_answer(
        changes in prop::collection::vec(any::<(Index, u8)>(), 1..4),
        only_12: bool,
        cut: Index,
    ) {
        let mut hello = Vec::new();
        let mut connecting = Connecting::new(Arc::clone(&CLIENT), peers::name(), &mut hello).unwrap();
        let mut theirs = Theirs::server_of(&THEIR_SERVERS[usize::from(only_12)]);
        theirs.receive(&hello).unwrap();
        let mut bytes = theirs.send();
        change(&mut bytes, &changes);
        let result = feed(|bytes, out| connecting.feed(bytes, out), &bytes, cut);
        prop_assert!(!matches!(result, Ok(Fed::Done(_))));
    }

    #[test]
    fn a_client_takes_any_bytes(mut bytes: Vec<u8>, kind in 20_u8..24, cut: Index) {
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        bytes.splice(0..0, [kind, 3, 3, length[0], length[1]]);
        let mut connecting = Connecting::new(Arc::clone(&CLIENT), peers::name(), &mut Vec::new()).unwrap();
        let result = feed(|bytes, out| connecting.feed(bytes, out), &bytes, cut);
        prop_assert!(!matches!(result, Ok(Fed::Done(_))));
    }
}
