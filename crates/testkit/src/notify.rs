//! The receiving end of `NOTIFY_SOCKET` (see sd_notify(3)): how a test learns, by an event, that a server is ready.

use std::net::Shutdown;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crate::deadline::{DEADLINE, Deadline};

/// Longer notifications than this are cut.
const LONGEST_BYTES: usize = 8 * 1024;

#[derive(Debug, Default)]
struct Heard {
    messages: Vec<String>,
}

/// A notification socket and everything that was said on it.
#[derive(Debug)]
pub struct Notifications {
    path: PathBuf,
    heard: Arc<(Mutex<Heard>, Condvar)>,
    socket: UnixDatagram,
    receiver: Option<thread::JoinHandle<()>>,
}

impl Notifications {
    /// Listens on `path`.
    #[must_use]
    pub fn listen(path: &Path) -> Self {
        let _ = std::fs::remove_file(path);
        let socket = UnixDatagram::bind(path).expect("notification socket");
        let receiving = socket.try_clone().expect("notification socket");
        let heard = Arc::new((Mutex::new(Heard::default()), Condvar::new()));
        let shared = Arc::clone(&heard);
        let receiver = thread::spawn(move || {
            let mut buffer = vec![0; LONGEST_BYTES];
            // Nothing at all is what comes once the socket is shut down.
            while let Ok(length @ 1..) = receiving.recv(&mut buffer) {
                let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
                shared.0.lock().unwrap().messages.push(message);
                shared.1.notify_all();
            }
        });
        Self { path: path.to_owned(), heard, socket, receiver: Some(receiver) }
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
        // Not by a message to the path: another one may listen there by now.
        let ended = self.socket.shutdown(Shutdown::Both).is_ok();
        if let (true, Some(receiver)) = (ended, self.receiver.take()) {
            let _ = receiver.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_listen_at_one_path_one_after_the_other_end_in_any_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify.sock");
        let first = Notifications::listen(&path);
        let second = Notifications::listen(&path);
        UnixDatagram::unbound().unwrap().send_to(b"READY=1\nSTATUS=up", &path).unwrap();
        assert_eq!(second.wait_after(0, "STATUS="), "STATUS=up");
        assert_eq!(first.messages(), Vec::<String>::new());
        drop(first);
        drop(second);
    }
}
