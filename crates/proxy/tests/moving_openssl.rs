//! OpenSSL talks through a tunnel over TLS whose connection moves again and again, in the middle of what it says, and changes
//! its keys: every byte comes back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{PipeWriter, Write as _};
use std::process::Command;

use common::moves::{Scene, hand_over};
use handover_testkit::{Process, have, until};

/// Moves of each connection, there or back.
const MOVES: usize = 12;

/// The versions and suites, in OpenSSL's words.
const SUITES: [(&str, &str, &str); 5] = [
    ("-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"),
    ("-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"),
    ("-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"),
    ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ("-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"),
];

/// OpenSSL, and what it reads its commands and its data from.
struct OpenSsl {
    process: Process,
    input: PipeWriter,
    updates: usize,
}

impl OpenSsl {
    fn connect(scene: &Scene, (version, option, suite): (&str, &str, &str)) -> Self {
        let mut command = Command::new("openssl");
        let address = scene.planes[0].address("sealed").to_string();
        command.args(["s_client", "-connect", &address, "-servername", "a.test", version, option, suite]);
        let (reader, input) = std::io::pipe().unwrap();
        Self { process: Process::try_start_with_input(command, reader).unwrap(), input, updates: 0 }
    }

    /// It changes its key, and wants ours to change.
    fn update_keys(&mut self) {
        self.input.write_all(b"K\n").unwrap();
        self.updates += 1;
        until("OpenSSL has changed its keys", || {
            (self.process.stderr().matches("KEYUPDATE").count() == self.updates).then_some(())
        });
    }
}

/// Lines of digits: OpenSSL takes some letters at the beginning of what it reads for commands.
fn lines(round: usize, length: usize) -> String {
    (0..length / 61).map(|line| format!("{round:02}{line:058}\n")).collect()
}

#[test]
fn openssl_goes_on_whatever_moves() {
    if !have("openssl", "openssl_goes_on_whatever_moves") {
        return;
    }
    let scene = Scene::new([1, 1]);
    for suite in SUITES {
        let mut client = OpenSsl::connect(&scene, suite);
        until("a handshake", || client.process.stdout().contains("Verify return code").then_some(()));
        for round in 0..MOVES {
            if suite.0 == "-tls1_3" {
                client.update_keys();
            }
            let text = lines(round, round * 79_193 % 900_000) + &format!("{round} is the end\n");
            let (from, to) = (&scene.planes[round % 2], &scene.planes[1 - round % 2]);
            std::thread::scope(|scope| {
                let input = &mut client.input;
                let said = text.as_bytes();
                scope.spawn(move || input.write_all(said).unwrap());
                assert_eq!(hand_over(from, to)["tcp"], 1);
            });
            let end = format!("{round} is the end");
            assert!(client.process.stdout_line(&end).is_some(), "{suite:?}: {}", client.process.stderr());
            assert!(client.process.stdout().contains(&text), "{suite:?}, round {round}");
        }
        client.input.write_all(b"Q\n").unwrap();
        client.process.wait().expect_code(0);
        scene.planes[MOVES % 2].wait_until_idle();
    }
}
