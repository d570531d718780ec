//! The receiving end of `NOTIFY_SOCKET` (see sd_notify(3)): how a test learns, by an event, that a server is ready.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crate::deadline::{DEADLINE, Deadline};

/// Longer notifications than this are cut.
const LONGEST_BYTES: usize = 8 * 1024;
/// What ends the receiving thread; no server sends it.
const END: &[u8] = b"X_TESTKIT_END=1";

#[derive(Debug, Default)]
struct Heard {
    messages: Vec<String>,
}

/// A notification socket and everything that was said on it.
#[derive(Debug)]
pub struct Notifications {
    path: PathBuf,
    heard: Arc<(Mutex<Heard>, Condvar)>,
    receiver: Option<thread::JoinHandle<()>>,
}

impl Notifications {
    /// Listens on `path`.
    #[must_use]
    pub fn listen(path: &Path) -> Self {
        let _ = std::fs::remove_file(path);
        let socket = UnixDatagram::bind(path).expect("notification socket");
        let heard = Arc::new((Mutex::new(Heard::default()), Condvar::new()));
        let shared = Arc::clone(&heard);
        let receiver = thread::spawn(move || {
            let mut buffer = vec![0; LONGEST_BYTES];
            while let Ok(length) = socket.recv(&mut buffer) {
                if &buffer[..length] == END {
                    return;
                }
                let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
                shared.0.lock().unwrap().messages.push(message);
                shared.1.notify_all();
            }
        });
        Self { path: path.to_owned(), heard, receiver: Some(receiver) }
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every message so far.
    #[must_use]
    pub fn messages(&self) -> Vec<String> {
        self.heard.0.lock().unwrap().messages.clone()
    }

    /// How many messages there are so far: a mark for [`Notifications::wait_after`].
    #[must_use]
    pub fn mark(&self) -> usize {
        self.heard.0.lock().unwrap().messages.len()
    }

    /// Waits for a message that came after `mark` and has a line that starts with `prefix`; gives that line. `None`
    /// once `give_up` says so (it is asked after every message and at least ten times a second).
    pub fn wait_after_unless(
        &self,
        mark: usize,
        prefix: &str,
        mut give_up: impl FnMut() -> bool,
    ) -> Option<String> {
        let deadline = Deadline::usual();
        let mut heard = self.heard.0.lock().unwrap();
        loop {
            let line = heard
                .messages
                .iter()
                .skip(mark)
                .flat_map(|m| m.lines())
                .find(|line| line.starts_with(prefix));
            if let Some(line) = line {
                return Some(line.to_owned());
            }
            if give_up() {
                return None;
            }
            assert!(
                !deadline.passed(),
                "waited {DEADLINE:?} in vain for {prefix:?} on NOTIFY_SOCKET; heard {:?}",
                heard.messages
            );
            let step = deadline.left().min(std::time::Duration::from_millis(100));
            heard = self.heard.1.wait_timeout(heard, step).unwrap().0;
        }
    }

    /// Waits for a line that starts with `prefix` in a message after `mark`.
    #[must_use]
    pub fn wait_after(&self, mark: usize, prefix: &str) -> String {
        self.wait_after_unless(mark, prefix, || false).expect("nothing gives up")
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        if let Ok(socket) = UnixDatagram::unbound() {
            let ended = socket.send_to(END, &self.path).is_ok();
            if let (true, Some(receiver)) = (ended, self.receiver.take()) {
                let _ = receiver.join();
            }
        }
    }
}
