//! Over TLS, the same: a request whose every byte of ciphertext is followed by a move.

use std::os::fd::OwnedFd;

use handover_tls::{Connecting, Fed, Session, prepare_client};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};

use super::rig::*;
use crate::conn::state::FORMATS;
use crate::conn::{Conn, End};

/// A stage whose listener `safe` is over TLS, and a client's settings.
fn safe() -> (Stage, String, ClientConfig) {
    let stage = Stage::new();
    let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    let file = |name: &str, text: String| {
        let path = stage.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let certificate = file("safe.pem", made.cert.pem());
    let key = file("safe.key", made.signing_key.serialize_pem());
    let text = format!(
        "{}[listeners.safe]\naddress = \"127.0.0.1:0\"\n\
         tls.certificates = [{{ certificate = \"{certificate}\", key = \"{key}\" }}]\n",
        stage.config()
    );
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    prepare_client(&mut client);
    (stage, text, client)
}

/// Shakes hands: the connection, and the client's end.
fn greet(process: &mut Process, config: ClientConfig) -> (Conn, OwnedFd, Session) {
    let (mut conn, far) = process.connect("safe");
    let mut out = Vec::new();
    let name = ServerName::try_from("a.test").unwrap();
    let mut client = Connecting::new(config.into(), name, &mut out).unwrap();
    loop {
        say(&far, &std::mem::take(&mut out));
        conn = process.run(conn).unwrap();
        let mut heard = Vec::new();
        hear(&far, &mut heard);
        if let Fed::Done(done) = client.feed(&heard, &mut out).unwrap() {
            say(&far, &out);
            assert!(!conn.is_movable(&process.cx), "it shakes hands");
            return (process.run(conn).unwrap(), far, done.session);
        }
    }
}

/// Says something over TLS, byte by byte, and moves behind each.
fn say_and_move<'a>(
    (mut here, mut there): (&'a mut Process, &'a mut Process),
    mut conn: Conn,
    far: &OwnedFd,
    bytes: &[u8],
    format: u16,
) -> (Conn, (&'a mut Process, &'a mut Process)) {
    for byte in bytes {
        say(far, &[*byte]);
        conn = here.run(conn).unwrap();
        conn = move_to(here, there, conn, format);
        (here, there) = (there, here);
        conn = here.run(conn).unwrap();
    }
    (conn, (here, there))
}

#[test]
fn a_request_over_tls_moves_behind_every_byte_of_ciphertext() {
    let (stage, text, config) = safe();
    for format in FORMATS {
        let (mut here, mut there) = (Process::new(&text), Process::new(&text));
        let (conn, far, mut session) = greet(&mut here, config.clone());
        let mut sealed = Vec::new();
        session
            .seal(b"POST /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\nsome", &mut sealed)
            .unwrap();
        session.seal(b"thing", &mut sealed).unwrap();
        let both = (&mut here, &mut there);
        let (conn, both) = say_and_move(both, conn, &far, &sealed, format);
        let endpoint = stage.accept().unwrap();
        let mut asked = Vec::new();
        hear(&endpoint, &mut asked);
        assert!(asked.ends_with(b"something"), "{}", String::from_utf8_lossy(&asked));
        assert!(String::from_utf8_lossy(&asked).contains("X-Forwarded-Proto: https"));
        let answer = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\n\r\nhello";
        let (conn, both) = say_and_move(both, conn, &endpoint, answer, format);
        let (mut sealed, mut opened) = (Vec::new(), Vec::new());
        hear(&far, &mut sealed);
        session.open(&mut sealed, &mut opened).unwrap();
        assert_eq!(opened, answer);
        let mut sealed = Vec::new();
        session.seal(b"GET /b HTTP/1.1\r\nHost: a.test\r\n\r\n", &mut sealed).unwrap();
        let (conn, (here, there)) = say_and_move(both, conn, &far, &sealed, format);
        assert!(stage.accept().is_some(), "another request");
        assert_eq!(conn.show(&here.cx).tls.unwrap().sni.as_deref(), Some("a.test"));
        conn.close(End::Cut, &mut here.cx);
        assert_eq!((here.active(), there.active()), (0, 0));
    }
}

/// Ciphertext that the kernel does not take waits in the connection: it moves as it is, and is not sealed again.
#[test]
fn a_long_response_over_tls_to_a_slow_client_moves_whenever_nothing_goes_any_more() {
    let (stage, text, config) = safe();
    let (mut here, mut there) = (Process::new(&text), Process::new(&text));
    let (conn, far, mut session) = greet(&mut here, config);
    let mut sealed = Vec::new();
    session.seal(b"GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n", &mut sealed).unwrap();
    say(&far, &sealed);
    let mut conn = here.run(conn).unwrap();
    let endpoint = stage.accept().unwrap();
    let body: Vec<u8> = (0..3_000_000_u32).map(|at| (at * 7 + at / 251).to_le_bytes()[0]).collect();
    let head = format!("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: {}\r\n\r\n", body.len());
    let response = [head.as_bytes(), &body].concat();
    let (mut sent, mut received, mut opened, mut moves) = (0, Vec::new(), Vec::new(), 0);
    let mut taken = vec![0; 200_000];
    while opened.len() < response.len() {
        if let Ok(count) = rustix::io::write(&endpoint, &response[sent..]) {
            sent += count;
        }
        conn = here.run(conn).unwrap();
        conn = move_to(&mut here, &mut there, conn, 1 + u16::from(moves % 2 == 0));
        std::mem::swap(&mut here, &mut there);
        if let Ok(count) = rustix::io::read(&far, &mut taken[..]) {
            received.extend_from_slice(&taken[..count]);
            let used = session.open(&mut received, &mut opened).unwrap();
            received.drain(..used.consumed);
        }
        moves += 1;
        assert!(moves < 10_000, "nothing comes any more after {} bytes", opened.len());
    }
    assert!(opened == response && moves > 8, "{moves} moves");
    conn.close(End::Done, &mut here.cx);
}
