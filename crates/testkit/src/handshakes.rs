//! Handshakes all the time: what clients meet while certificates, keys and generations change beneath them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crate::deadline::{DEADLINE, Deadline};
use crate::tls::TlsClient;

/// What clients met.
#[derive(Debug, Default, Clone)]
pub struct Met {
    /// Handshakes, each with a request and its whole answer, by the serial number of the certificate.
    pub serials: BTreeMap<u64, usize>,
    /// What went wrong.
    pub failures: Vec<String>,
    /// The certificate that was shown last.
    pub last: u64,
}

impl Met {
    /// How many handshakes there were, failed ones too.
    #[must_use]
    pub fn count(&self) -> usize {
        self.serials.values().sum::<usize>() + self.failures.len()
    }

    /// Asserts that every handshake was a good one.
    #[track_caller]
    pub fn expect_all_good(&self) {
        assert!(
            self.failures.is_empty(),
            "{} of {} handshakes failed: {:#?}",
            self.failures.len(),
            self.count(),
            { &self.failures[..self.failures.len().min(5)] }
        );
        assert!(self.count() > 0, "no handshake at all");
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<(Met, bool)>,
    came: Condvar,
}

/// A client that shakes hands, asks for one thing and leaves, again and again, in a thread of its own.
#[derive(Debug)]
pub struct Handshakes {
    shared: Arc<Shared>,
    client: Option<thread::JoinHandle<()>>,
}

impl Handshakes {
    /// Starts it; each time it asks for `path`, whose answer must have status 200.
    #[must_use]
    pub fn start(client: TlsClient, address: SocketAddr, path: &str) -> Self {
        let shared = Arc::new(Shared::default());
        let (inner, path) = (Arc::clone(&shared), path.to_owned());
        let client = thread::spawn(move || {
            loop {
                let met = client.try_get(address, &path);
                let (state, over) = &mut *inner.state.lock().unwrap();
                match met {
                    Ok((served, response)) if response.status() == 200 => {
                        *state.serials.entry(served.serial).or_default() += 1;
                        state.last = served.serial;
                    }
                    Ok((_, response)) => state.failures.push(format!("status {}", response.status())),
                    Err(error) => state.failures.push(error.to_string()),
                }
                inner.came.notify_all();
                if *over {
                    return;
                }
            }
        });
        Self { shared, client: Some(client) }
    }

    /// Waits until two handshakes have begun and ended from now on: what they meet is what is served now.
    pub fn two_more(&self) {
        let before = self.met().count();
        self.wait("handshakes", |met| met.count() >= before + 3);
    }

    /// Waits until a handshake shows the certificate with this serial number.
    pub fn wait_for(&self, serial: u64) {
        self.wait(&format!("a handshake with certificate {serial}"), |met| met.last == serial);
    }

    fn wait(&self, what: &str, enough: impl Fn(&Met) -> bool) {
        let deadline = Deadline::usual();
        let mut state = self.shared.state.lock().unwrap();
        while !enough(&state.0) {
            assert!(!deadline.passed(), "waited {DEADLINE:?} in vain for {what}; met {:?}", state.0);
            state = self.shared.came.wait_timeout(state, deadline.left()).unwrap().0;
        }
    }

    /// What was met so far.
    #[must_use]
    pub fn met(&self) -> Met {
        self.shared.state.lock().unwrap().0.clone()
    }

    /// Ends it and tells what was met.
    #[must_use]
    pub fn finish(mut self) -> Met {
        self.end();
        self.met()
    }

    fn end(&mut self) {
        self.shared.state.lock().unwrap().1 = true;
        if let Some(client) = self.client.take() {
            let _ = client.join();
        }
    }
}

impl Drop for Handshakes {
    fn drop(&mut self) {
        self.end();
    }
}
